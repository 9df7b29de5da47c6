"""What each primitive of JAX does to channels: which axes of its operands and its result are the same.

A rule is a function `(equation, groups)`. It joins axes (`groups.join`), and fixes those that are used as a whole
(`groups.fix_axis`).
"""

import math

# Functions of each entry, and of entries at the same place.
ENTRYWISE = """
abs add add_any and atan2 cbrt ceil clamp convert_element_type copy cos div eq erf erf_inv erfc exp exp2 expm1 floor ge
gt integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter not or pow reduce_precision rem round
rsqrt select_n sign sin sqrt square stop_gradient sub tan tanh xor
"""
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin")
WINDOWS = ("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min")


def _length(var, axis):
    return var.aval.shape[axis]


def whole(eqn, groups):
    """Fixes everything: the rule of what is not known to treat entries one by one."""
    groups.fix(*eqn.invars, *eqn.outvars)


def _entrywise(eqn, groups):
    (out,) = eqn.outvars[:1]
    for var in (*eqn.invars, *eqn.outvars[1:]):
        if len(var.aval.shape) == len(out.aval.shape):
            groups.join_all(var, out)


def _each(eqn, groups):
    for var, out in zip(eqn.invars, eqn.outvars, strict=True):
        groups.join_all(var, out)


def _broadcast(eqn, groups):
    for axis, place in enumerate(eqn.params["broadcast_dimensions"]):
        if _length(eqn.invars[0], axis) == _length(eqn.outvars[0], place):
            groups.join((eqn.invars[0], axis), (eqn.outvars[0], place))


def _transpose(eqn, groups):
    for place, axis in enumerate(eqn.params["permutation"]):
        groups.join((eqn.invars[0], axis), (eqn.outvars[0], place))


def _reshape(eqn, groups):
    """Axes that come through alone are joined; those that are merged or split are fixed."""
    (var, *_), (out,) = eqn.invars, eqn.outvars
    before, after = ([(axis, size) for axis, size in enumerate(v.aval.shape) if size != 1] for v in (var, out))
    while before and after:
        olds, news = [before.pop(0)], [after.pop(0)]
        while (old := math.prod(size for _, size in olds)) != (new := math.prod(size for _, size in news)):
            (olds if old < new else news).append((before if old < new else after).pop(0))
        if len(olds) == len(news) == 1:
            groups.join((var, olds[0][0]), (out, news[0][0]))
            continue
        for axis, _ in olds:
            groups.fix_axis(var, axis)
        for axis, _ in news:
            groups.fix_axis(out, axis)


def _dot(eqn, groups):
    (left, right), (out,) = eqn.invars, eqn.outvars
    contracting, batch = eqn.params["dimension_numbers"]
    if groups.is_data(left) and groups.is_data(right):  # Attention, whose scale depends on the number of channels.
        for axis in contracting[0]:
            groups.fix_axis(left, axis)
    for pairs in (contracting, batch):
        for first, second in zip(*pairs, strict=True):
            groups.join((left, first), (right, second))
    place = 0
    for axis in batch[0]:
        groups.join((left, axis), (out, place))
        place += 1
    for number, var in enumerate((left, right)):
        for axis in range(len(var.aval.shape)):
            if axis not in (*contracting[number], *batch[number]):
                groups.join((var, axis), (out, place))
                place += 1


def _convolution(eqn, groups):
    (images, kernel), (out,), numbers = eqn.invars, eqn.outvars, eqn.params["dimension_numbers"]
    if eqn.params["feature_group_count"] != 1 or eqn.params["batch_group_count"] != 1:
        return whole(eqn, groups)
    groups.join((images, numbers.lhs_spec[1]), (kernel, numbers.rhs_spec[1]))
    groups.join((kernel, numbers.rhs_spec[0]), (out, numbers.out_spec[1]))
    groups.join((images, numbers.lhs_spec[0]), (out, numbers.out_spec[0]))
    specs = (images, numbers.lhs_spec), (kernel, numbers.rhs_spec), (out, numbers.out_spec)
    for var, spec in specs:
        for axis in spec[2:]:
            groups.fix_axis(var, axis)
    return None


def _reduction(eqn, groups):
    for var, out in zip(eqn.invars, eqn.outvars, strict=False):
        place = 0
        for axis in range(len(var.aval.shape)):
            if axis in eqn.params["axes"]:
                groups.fix_axis(var, axis)
            else:
                groups.join((var, axis), (out, place))
                place += 1


def _window(eqn, groups):
    var, out = eqn.invars[0], eqn.outvars[0]
    for axis, size in enumerate(eqn.params["window_dimensions"]):
        if size == 1:
            groups.join((var, axis), (out, axis))
        else:
            groups.fix_axis(var, axis)
            groups.fix_axis(out, axis)


def _slice(eqn, groups):
    """An axis that is as long as before is all of it."""
    groups.join_all(eqn.invars[0], eqn.outvars[0])


def _pad(eqn, groups):
    _join_but(groups, eqn, [axis for axis, config in enumerate(eqn.params["padding_config"]) if any(config)])


def _reverse(eqn, groups):
    _join_but(groups, eqn, eqn.params["dimensions"])


def _join_but(groups, eqn, axes):
    """Joins an operand's axes to those of the result, but fixes some."""
    (var, *_), (out,) = eqn.invars, eqn.outvars
    for axis in range(len(var.aval.shape)):
        if axis in axes:
            groups.fix_axis(var, axis)
            groups.fix_axis(out, axis)
        else:
            groups.join((var, axis), (out, axis))


def _concatenate(eqn, groups):
    for var in eqn.invars:
        for axis in range(len(var.aval.shape)):
            if axis == eqn.params["dimension"]:
                groups.fix_axis(var, axis)
                groups.fix_axis(eqn.outvars[0], axis)
            else:
                groups.join((var, axis), (eqn.outvars[0], axis))


def _gather(eqn, groups):
    """Of a table that is looked up, the axes that are taken as a whole are joined."""
    table, indices = eqn.invars
    (out,), numbers = eqn.outvars, eqn.params["dimension_numbers"]
    dropped = (*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ()))
    kept = [axis for axis in range(len(table.aval.shape)) if axis not in dropped]
    for axis in set(range(len(table.aval.shape))) - set(kept):
        groups.fix_axis(table, axis)
    for axis, place in zip(kept, numbers.offset_dims, strict=True):
        groups.join((table, axis), (out, place))
    groups.fix(indices)
    for place in set(range(len(out.aval.shape))) - set(numbers.offset_dims):
        groups.fix_axis(out, place)


RULES = {
    **dict.fromkeys(ENTRYWISE.split(), _entrywise),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(WINDOWS, _window),
    "optimization_barrier": _each,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "slice": _slice,
    "pad": _pad,
    "rev": _reverse,
    "concatenate": _concatenate,
    "gather": _gather,
}
