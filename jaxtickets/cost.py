"""What networks cost, layer by layer: parameters, FLOPs of a forward pass, FLOPs of a train step.

A forward pass is counted from shapes, a train step in its program. One FLOP is a multiplication or an addition, so a
product takes two. Only convolutions and matrix products are counted, as is usual, and no multiplications by padding, as
in XLA's cost analysis. Each layer counts as the published operation, also where it computes the same function with
fewer multiplications (`jaxtickets.models.layers`).
"""

import math
import re
from collections import Counter
from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxtickets import masks as mask_lib
from jaxtickets import models
from jaxtickets.models.norms import SPECTRAL_NORM
from jaxtickets.objectives import Batch, Objective

OTHER = "other"
REMATERIALIZED = "rematted_computation"  # JAX's name for the scope of activations that are computed again.


# Forward passes, from shapes.


def forward(uses: dict[str, np.ndarray], params, masks=None) -> dict[str, int]:
    """The FLOPs of each kernel in one example's forward pass, by slash-joined path: 2 * the sum of uses * mask.

    Args:
      uses: as `models.kernel_uses` gives them.
      params: the parameters, or their shapes.
      masks: like the parameters; None, or a leaf that is None, keeps all. Pruned weights cost nothing, as on hardware
        that skips them.
    """
    shapes = {path: leaf.shape for path, leaf in mask_lib.named_leaves(params).items()}
    kept = {} if masks is None else mask_lib.named_leaves(masks)
    return {path: 2 * _multiplications(count, shapes[path], kept.get(path)) for path, count in uses.items()}


def _multiplications(uses, shape, mask):
    if mask is None:
        return int(uses.sum()) * (math.prod(shape) // uses.size)
    shared = tuple(axis for axis in range(uses.ndim) if uses.shape[axis] == 1)
    return int((np.count_nonzero(np.asarray(mask), axis=shared, keepdims=True) * uses).sum())


# Whole programs, from their equations.


def convolution_multiplications(lhs_shape, rhs_shape, out_shape, params) -> int:
    """The number of multiplications of a `conv_general_dilated` with these shapes and equation parameters.

    Multiplications by padding are left out, and those by the zeros that a dilation of the input puts between pixels.
    """
    lhs, rhs, out = params["dimension_numbers"]
    meetings = 1
    for axis, ((before, _), stride, dilation, spread) in enumerate(
        zip(params["padding"], params["window_strides"], params["lhs_dilation"], params["rhs_dilation"], strict=True)
    ):
        positions, taps = np.arange(out_shape[out[2 + axis]]), np.arange(rhs_shape[rhs[2 + axis]])
        met = positions[:, None] * stride + taps * spread - before
        meetings *= int(((met >= 0) & (met <= (lhs_shape[lhs[2 + axis]] - 1) * dilation) & (met % dilation == 0)).sum())
    out_features, in_features = rhs_shape[rhs[0]], rhs_shape[rhs[1]]  # The latter of one group.
    return out_shape[out[0]] * out_features * in_features * meetings


def _multiplications_of(equation):
    operands = [variable.aval.shape for variable in equation.invars]
    (result,) = (variable.aval.shape for variable in equation.outvars)
    if equation.primitive.name == "conv_general_dilated":
        return convolution_multiplications(*operands, result, equation.params)
    ((contracted, _), _) = equation.params["dimension_numbers"]
    return math.prod(result) * math.prod(operands[0][axis] for axis in contracted)


def traced(jaxpr: Jaxpr, paths: Collection[str], components: Collection[str]) -> Counter:
    """The number of multiplications of a program, by the path of the kernel that multiplies.

    An equation's named scopes, among them those of `models.apply` and of Flax's modules, tell its layer, also in
    derivatives. Multiplications of a component that belong to none of its kernels, and work on weights (spectral
    norms), count as `<component>/other`; multiplications outside all components count as `other`. A scan counts as
    often as it runs, the body of any other loop once, a condition with all its branches, and an operation that
    platforms implement differently with its default. Equations whose results are not used do not count.

    Args:
      jaxpr: the program.
      paths: the slash-joined paths of all kernels.
      components: the names of all components.
    """
    kernels = {tuple(path.split("/")[:-1]): path for path in paths}
    found = Counter()

    def walk(jaxpr, outer, times):
        used = set(map(id, jaxpr.outvars))
        for equation in reversed(jaxpr.eqns):
            if used.isdisjoint(map(id, equation.outvars)):
                continue  # Such as the gradient with respect to the images; compilers leave it out too.
            used.update(map(id, equation.invars))
            scopes = f"{outer}/{equation.source_info.name_stack}"
            if equation.primitive.name in ("conv_general_dilated", "dot_general"):
                found[_owner(scopes, kernels, components)] += times * _multiplications_of(equation)
            inner = equation.params["length"] if equation.primitive.name == "scan" else 1
            for name, value in equation.params.items():
                if name == "branches" and None in (platforms := equation.params.get("branches_platforms") or ()):
                    value = value[platforms.index(None)]  # The default, for platforms without a branch of their own.
                for part in value if isinstance(value, tuple | list) else (value,):
                    if isinstance(part, ClosedJaxpr | Jaxpr):
                        walk(part.jaxpr if isinstance(part, ClosedJaxpr) else part, scopes, times * inner)

    walk(jaxpr, "", 1)
    return found


def _owner(scopes, kernels, components):
    # transpose(jvp(generator))/Up/up_8/conv/conv.apply_kernel: the component, its module's class, the layer's place.
    # With rematerialised blocks this path occurs twice, the second time perhaps with one more scope.
    names = [name for name in re.sub(r"\w+\(|\)", "", scopes).split("/") if name != REMATERIALIZED]
    start = max((place for place, name in enumerate(names) if name in components), default=None)
    if start is None:
        return OTHER
    component, inside = names[start], names[start + 2 :]
    if SPECTRAL_NORM not in inside:
        for length in range(len(inside), -1, -1):
            if path := kernels.get((component, *inside[:length])):
                return path
    return f"{component}/{OTHER}"


# Train steps.


class StepWork(NamedTuple):
    """The work of one train step for one image of the batch.

    passes: `{kernel path: n}`, the work of a kernel as a number n of forward passes of one image.
    other: `{"<component>/other" or "other": FLOPs}`, the work that belongs to no kernel.
    """

    passes: dict[str, float]
    other: dict[str, float]


def step_work(objective: Objective, image_shape: tuple[int, int, int], batch_size: int) -> StepWork:
    """The work of the gradients of all players' losses, counted in the programs themselves; see `train.make_step`.

    A player that moves in every n-th step counts with 1 / n. The gradient of a pruned weight takes as many
    multiplications as its forward pass, so `passes` holds for masked kernels too. A teacher's forward pass counts as
    work of its components.

    Args:
      objective: the players and their networks.
      image_shape: `(height, width, channels)`.
      batch_size: the number of images among which work on weights is divided: spectral norms are computed once per
        batch.
    """
    components = objective.components
    params, batch_stats = jax.eval_shape(partial(models.init, components), jax.random.key(0))
    uses = models.kernel_uses(components)
    count = partial(traced, paths=tuple(uses), components=tuple(components))
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    batch = Batch(
        images=jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32),
        keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size)),
        labels=labels,
        teacher=_teacher(objective.teacher, params, batch_stats),
    )

    total = Counter()
    for player in objective.players.values():

        def loss(own, params, batch_stats, batch, player=player):
            return player.loss({**params, **own}, batch_stats, batch)

        own = {component: params[component] for component in player.components}
        jaxpr = jax.make_jaxpr(jax.grad(loss, has_aux=True))(own, params, batch_stats, batch).jaxpr
        for owner, multiplications in count(jaxpr).items():
            total[owner] += multiplications / player.every

    once = Counter()
    for name, component in components.items():
        inputs = tuple(jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32) for shape in component.input_shapes)

        def apply(params, batch_stats, inputs, labels, name=name):
            return models.apply(components, params, batch_stats, name, inputs, False, labels)[0]

        once += count(jax.make_jaxpr(apply)(params, batch_stats, inputs, labels).jaxpr)
    other = {owner: 2 * work / batch_size for owner, work in total.items() if owner not in uses}
    return StepWork({path: total[path] / once[path] for path in uses}, other)


def _teacher(names, params, batch_stats):
    """`Batch.teacher` of these components, as shapes; None without components."""
    if not names:
        return None
    trees = {"params": params, "batch_stats": batch_stats}
    own = {field: {component: tree[component] for component in names} for field, tree in trees.items()}
    return {**own, "weight": jax.ShapeDtypeStruct((), jnp.float32)}


# Layers.


class Layer(NamedTuple):
    """The cost of one kernel, or of the rest of a component: its `name` is then "other" and its `shape` None.

    parameters: those of the kernel; biases and norms count among the component's rest.
    forward, step: the FLOPs of a forward pass and of a train step for one image.

    With masks, all three count kept weights only.
    """

    component: str
    name: str
    shape: tuple[int, ...] | None
    parameters: int
    forward: float
    step: float


def layers(objective: Objective, image_shape: tuple[int, int, int], batch_size: int, masks=None) -> list[Layer]:
    """The layers of an objective's networks, and for each component one row for what belongs to none of its kernels.

    Args:
      objective, image_shape, batch_size: see `step_work`.
      masks: see `forward`.
    """
    components = objective.components
    params, _ = jax.eval_shape(partial(models.init, components), jax.random.key(0))
    uses, work = models.kernel_uses(components), step_work(objective, image_shape, batch_size)
    leaves = mask_lib.named_leaves(params)
    sizes = {path: leaf.size for path, leaf in leaves.items()}
    if masks is not None:
        sizes |= {path: counts.kept for path, counts in mask_lib.layer_counts(masks).items()}
    once = forward(uses, params, masks)
    products = Counter()
    for path, multiplications in models.products(components).items():
        products[path.partition("/")[0]] += 2 * multiplications
    rows = []
    for component in components:
        own = [path for path in leaves if path.startswith(f"{component}/")]
        for path in filter(uses.__contains__, _in_order(own)):
            name = path.removeprefix(f"{component}/").removesuffix("/kernel")
            costs = (sizes[path], once[path], once[path] * work.passes[path])
            rows.append(Layer(component, name, leaves[path].shape, *costs))
        rest = [path for path in own if path not in uses]
        if rest or products[component]:
            step = work.other.get(f"{component}/{OTHER}", 0)
            rows.append(Layer(component, OTHER, None, sum(sizes[path] for path in rest), products[component], step))
    if OTHER in work.other:
        rows.append(Layer("", OTHER, None, 0, 0, work.other[OTHER]))
    return rows


def _in_order(paths):
    """Paths sorted by name, numbers by their size: `down_8` comes before `down_16`."""
    return sorted(paths, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)])
