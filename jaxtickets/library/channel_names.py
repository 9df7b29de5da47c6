"""Which axes of a network's parameters are the same channels, found in what the network computes.

Two axes belong together where the computation makes one entry of the one meet one entry of the other: the output axis
of a kernel, its bias, the scale of the norm behind it, the input axis of each kernel that reads it, and the same of
every layer that is added to it. So it does not matter which library the layers are of.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets.checks import check_function
from jaxtickets.errors import UserError
from jaxtickets.library.channel_rules import RULES, whole
from jaxtickets.pruning.components import check_components

LOOPS = ("scan", "while", "cond")
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def axis_names(function: Callable, params: Any, *inputs: Any) -> Any:
    """A tree like `params` with a tuple for each leaf: the name of each of its axes, None where it can't be pruned.

    Axes of one name are the channels that `jt.channels` prunes together and `jt.compact.take` takes out. An axis has no
    name if it meets an input or an output of the function, or is summed over, sorted, reshaped into others or otherwise
    used as a whole: pixels, classes, channels of a layer norm or of queries and keys (attention's heads have a name),
    channels that are flattened together with pixels, those of grouped convolutions and of loops (`scan`). What is
    pruned by these names can be taken out, and the network computes the same, unless it computes with its own shapes.

    The tree is `{component: ...}`, and each component has its own channels: give the parameters of one network as
    `{"net": params}`, with batch statistics as `{"net": {"params": ..., "batch_stats": ...}}`.

    Args:
      function: `(params, *inputs) -> outputs`, without randomness. It is traced, not run.
      params: `{component: ...}`, all arrays that have the channels: parameters, and batch statistics if there are any.
      inputs: arrays, or `jax.ShapeDtypeStruct`s.

    Raises:
      UserError: `function` can't be called so, `params` has no arrays, is no dictionary, or two of its components share
        channels.
    """
    check_function(function, "function", "params", *(f"input {number}" for number in range(1, len(inputs) + 1)))
    flat, structure = jax.tree_util.tree_flatten_with_path(params)
    if not flat:
        raise UserError("params: there are no arrays in it; allowed is a tree of parameters")
    check_components(params)
    jaxpr = jax.make_jaxpr(function)(params, *inputs).jaxpr
    groups = _Groups()
    variables = [_Variable(var, ()) for var in jaxpr.invars]
    groups.fix(*variables[len(flat) :], *_variables(jaxpr.outvars, ()), *_variables(jaxpr.constvars, ()))
    groups.data.update(variables[len(flat) :])
    _follow(jaxpr, groups, ())
    names: dict[Any, str] = {}
    components: dict[Any, str] = {}

    def name_of(path, var, axis):
        if (group := groups.of(var, axis)) in groups.fixed:
            return None
        component = mask_lib.component_name(path)
        if component != (first := components.setdefault(group, component)):
            raise UserError(
                f"params: {first} and {component} share channels, and channels belong to one component; allowed is a "
                "tree of components such as {'net': params}"
            )
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
    """Sets of axes `(variable, number)` that belong together; those in `fixed` can't be pruned.

    data: the variables that depend on the inputs, and not on parameters alone.
    """

    def __init__(self):
        self.data: set = set()
        self._above: dict = {}
        self.fixed: set = set()

    def is_data(self, var):
        return _is_variable(var) and var in self.data

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

    def join_all(self, first, second):
        """Joins the axes of two variables of one shape."""
        for axis in range(len(first.aval.shape)):
            self.join((first, axis), (second, axis))

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
        if any(map(groups.is_data, own.invars)):
            groups.data.update(own.outvars)
        inner = next((eqn.params[name] for name in CALLS if name in eqn.params), None)
        inner = getattr(inner, "jaxpr", inner)
        if eqn.primitive.name in (*RULES, *LOOPS) or inner is None or not _is_call(eqn, inner):
            RULES.get(eqn.primitive.name, whole)(own, groups)
            continue
        within = (*calls, number)
        inside = _variables([*inner.invars, *inner.outvars], within)
        for outer, var in zip([*own.invars, *own.outvars], inside, strict=True):
            groups.join_all(outer, var)
            if groups.is_data(outer):
                groups.data.add(var)
        _follow(inner, groups, within)


def _is_call(eqn, inner):
    """Whether an equation runs the program `inner` once, on its own operands and no constants."""
    shapes = [[var.aval.shape for var in (*place.invars, *place.outvars)] for place in (eqn, inner)]
    return not inner.constvars and shapes[0] == shapes[1]
