"""Which axes of a network's parameters are the same channels, found in what the network computes.

Two axes belong together where the computation makes one entry of the one meet one entry of the other: the output axis
of a kernel, its bias, the scale of the norm behind it, the input axis of each kernel that reads it, and the same of
every layer that is added to it. So it does not matter which library the layers are of.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError

# Functions of each entry, and of entries at the same place.
ENTRYWISE = (
    *("abs", "add", "add_any", "and", "atan2", "cbrt", "ceil", "clamp", "convert_element_type", "copy", "cos", "div"),
    *("eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le"),
    *(
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "pow",
        "real",
        "rem",
    ),
    *("reduce_precision", "round", "rsqrt", "select_n", "sign", "sin", "sqrt", "square", "stop_gradient", "sub", "tan"),
    *("tanh", "xor"),
)
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin")
WINDOWS = ("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min")
LOOPS = ("scan", "while", "cond")
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def axis_names(function: Callable, params: Any, *inputs: Any) -> Any:
    """A tree like `params` with a tuple for each leaf: the name of each of its axes, None where it can't be pruned.

    Axes of one name are the channels that `jt.channels` prunes together and `jt.compact.take` takes out. An axis has no
    name if it meets an input or an output of the function, or is summed over, sorted, reshaped into others or otherwise
    used as a whole: pixels, classes, channels of a layer norm or of attention, channels that are flattened together
    with pixels, those of grouped convolutions and of loops (`scan`). What is pruned by these names can be taken out,
    and the network computes the same.

    `jt.channels` takes trees `{component: ...}`, in which each component has its own channels: give batch statistics
    under the component of their parameters, as in `{"net": {"params": ..., "batch_stats": ...}}`.

    Args:
      function: `(params, *inputs) -> outputs`, without randomness. It is traced, not run.
      params: all arrays that have the channels: parameters, and batch statistics too if there are any.
      inputs: arrays, or `jax.ShapeDtypeStruct`s.

    Raises:
      UserError: `params` has no arrays.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(params)
    if not flat:
        raise UserError("params: there are no arrays in it; allowed is a tree of parameters")
    jaxpr = jax.make_jaxpr(function)(params, *inputs).jaxpr
    groups = _Groups()
    variables = [_Variable(var, ()) for var in jaxpr.invars]
    groups.fix(*variables[len(flat) :], *_variables(jaxpr.outvars, ()), *_variables(jaxpr.constvars, ()))
    _follow(jaxpr, groups, ())
    names: dict[Any, str] = {}

    def name_of(path, var, axis):
        if (group := groups.of(var, axis)) in groups.fixed:
            return None
        if group not in names:
            layer = mask_lib.path_name(path).removesuffix("/value").rpartition("/")[0] or "channels"
            others = sum(name == layer or name.startswith(f"{layer}:") for name in names.values())
            names[group] = f"{layer}:{others + 1}" if others else layer
        return names[group]

    result = [
        tuple(name_of(path, var, axis) for axis in range(np.ndim(leaf)))
        for (path, leaf), var in zip(flat, variables, strict=False)
    ]
    return jax.tree.unflatten(structure, result)


class _Variable(NamedTuple):
    """A variable of a program, within the call of it: the calls of one function share their variables."""

    var: Any
    calls: tuple[int, ...]

    @property
    def aval(self):
        return self.var.aval


class _Equation(NamedTuple):
    invars: list
    outvars: list
    params: dict


def _variables(variables, calls):
    """`_Variable`s of a call; a literal, which has a value, is as it is."""
    return [var if hasattr(var, "val") else _Variable(var, calls) for var in variables]


class _Groups:
    """Sets of axes `(variable, number)` that belong together; those in `fixed` can't be pruned."""

    def __init__(self):
        self._above: dict = {}
        self.fixed: set = set()

    def of(self, var, axis):
        """The axis that stands for the set of an axis."""
        node = (var, axis)
        while (above := self._above.get(node, node)) != node:
            node = above
        return node

    def join(self, first, second):
        """Puts two axes, `(variable, number)`, together; a constant that has one is as it is, so both are fixed."""
        if _size(*first) != _size(*second):
            if _size(*first) > 1:
                self.fix_axis(*first)
            if _size(*second) > 1:
                self.fix_axis(*second)
            return
        roots = [self.of(*axis) for axis in (first, second) if _is_variable(axis[0])]
        if len(roots) < 2:
            self.fixed.update(roots)
        elif roots[0] != roots[1]:
            self._above[roots[1]] = roots[0]
            if roots[1] in self.fixed:
                self.fixed.add(roots[0])

    def fix_axis(self, var, axis):
        if _is_variable(var):
            self.fixed.add(self.of(var, axis))

    def fix(self, *variables):
        for var in variables:
            for axis in range(len(var.aval.shape)):
                self.fix_axis(var, axis)


def _is_variable(var):
    return isinstance(var, _Variable)


def _size(var, axis):
    return var.aval.shape[axis]


def _follow(jaxpr, groups, calls):
    """Joins and fixes the axes of all variables of a program."""
    for number, eqn in enumerate(jaxpr.eqns):
        own = _Equation(_variables(eqn.invars, calls), _variables(eqn.outvars, calls), eqn.params)
        inner = next((eqn.params[name] for name in CALLS if name in eqn.params), None)
        inner = getattr(inner, "jaxpr", inner)
        if inner is None or eqn.primitive.name in LOOPS or inner.constvars or len(inner.invars) != len(eqn.invars):
            RULES.get(eqn.primitive.name, _whole)(own, groups)
            continue
        within = (*calls, number)
        inside = _variables([*inner.invars, *inner.outvars], within)
        for outer, var in zip([*own.invars, *own.outvars], inside, strict=True):
            _join_all(groups, outer, var)
        _follow(inner, groups, within)


def _whole(eqn, groups):
    groups.fix(*eqn.invars, *eqn.outvars)


def _join_all(groups, first, second):
    for axis in range(len(first.aval.shape)):
        groups.join((first, axis), (second, axis))


def _entrywise(eqn, groups):
    (out,) = eqn.outvars[:1]
    for var in (*eqn.invars, *eqn.outvars[1:]):
        if len(var.aval.shape) == len(out.aval.shape):
            _join_all(groups, var, out)


def _each(eqn, groups):
    for var, out in zip(eqn.invars, eqn.outvars, strict=True):
        _join_all(groups, var, out)


def _broadcast(eqn, groups):
    for axis, place in enumerate(eqn.params["broadcast_dimensions"]):
        if _size(eqn.invars[0], axis) == _size(eqn.outvars[0], place):
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
        return _whole(eqn, groups)
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
    _join_all(groups, eqn.invars[0], eqn.outvars[0])


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
    **dict.fromkeys(ENTRYWISE, _entrywise),
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
