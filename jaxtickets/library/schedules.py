"""Schedules for `jt.sparsify`: in which steps the masks change, and how.

Each function here returns a `Schedule`. A score is a function `(params, masks, ...) -> scores`, as everywhere
(`jt.magnitude`); what else it needs it names as an argument:

  gradients: what the transformation is given, a tree like the parameters.
  key: a JAX key, another in each step.

It runs within the compiled step, so it must be traceable.
"""

import inspect
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import pruning
from jaxtickets.checks import check_choice, check_count, check_function, check_share
from jaxtickets.errors import UserError
from jaxtickets.names import near
from jaxtickets.pruning.pools import SCOPES, Extent, check_floor, extents, pools_of, protected_units
from jaxtickets.pruning.regrowth import check_growth, exchange
from jaxtickets.pruning.score import needs
from jaxtickets.pruning.structures import known_axes, parse_structure, warn_of_dense
from jaxtickets.pruning.traced import keep_highest, select
from jaxtickets.pytrees import check_some, is_hole, map_with_holes

OFFERED = ("gradients", "key")
HOW = ("scope", "structure", "min_per_layer", "axes", "seed")  # What further arguments a schedule may have.


class Schedule(NamedTuple):
    """When masks change during training, and how; the functions of this module make them.

    Masks change before the update number `start` (counted from 0), `start + every`, ... and `stop`.

    Attributes:
      start, stop, every: whole numbers.
      levels: of each change the sparsity to reach, or, if it regrows, the share of a layer's weights to exchange.
      regrows: whether weights make room for others, of which there stay as many (`pruning.drop_and_grow`).
      score: of weights that are pruned the lowest go; of weights that are grown the highest come.
      initial: the sparsity of the random masks that training starts with; 0: it starts with what it is given.
      scope, structure, min_per_layer, axes: see `jt.prune`.
      seed: of the random masks and of the keys of scores.
      is_open: whether the levels begin at 0 because nothing else was said; then `sparsify` lets them begin at the
        sparsity of the masks that it is given.
    """

    start: int = 0
    stop: int = -1
    every: int = 1
    levels: tuple[float, ...] = ()
    regrows: bool = False
    score: Callable = pruning.magnitude
    initial: float = 0.0
    scope: str = "global"
    structure: str = "weight"
    min_per_layer: int = 0
    axes: Any = None
    seed: int = 0
    is_open: bool = False


def saliency(params, masks, gradients) -> Any:
    """|w * dL/dw|: how removing a weight changes the loss of this batch, to first order."""
    return map_with_holes(lambda w, mask, g: mask if is_hole(mask) else abs(w * g), params, masks, gradients)


def gradient(params, masks, gradients) -> Any:
    """|dL/dw|: how much the loss of this batch wants a weight that is not there (Evci et al. 2020, algorithm 1)."""
    del params
    return pruning.magnitude(gradients, masks)


def random(params, masks, key) -> Any:
    """Uniform random numbers, others for each leaf."""

    def uniform(path, leaf, mask):
        own = jax.random.fold_in(key, zlib.crc32(mask_lib.path_name(path).encode()))
        return mask if is_hole(mask) else jax.random.uniform(own, jnp.shape(leaf))

    return jax.tree_util.tree_map_with_path(uniform, params, masks, is_leaf=is_hole)


def gradual(
    sparsity: float,
    start: int,
    stop: int,
    every: int,
    *,
    initial: float | None = None,
    power: int = 3,
    score: Callable = pruning.magnitude,
    **how,
) -> Schedule:
    """From dense to sparse during training: `s + (initial - s) (1 - progress)^3` (Zhu, Gupta 2017, equation 1).

    progress goes from 0 at `start` to 1 at `stop`.

    Args:
      sparsity: at the end, in [0, 1).
      initial: at the start; equal to `sparsity`, the masks of one sparsity are drawn again in each change. None: 0, or
        the sparsity of the masks that `jt.sparsify` is given.
      power: of the polynomial, 3 as published.
      how: `scope`, `structure`, `min_per_layer`, `axes`, `seed` of `Schedule`.

    Raises:
      UserError: an argument is not what it can be.
    """
    _check_how(how)
    sparsity, is_open = check_share(sparsity, "sparsity"), initial is None
    initial = 0.0 if initial is None else check_share(initial, "initial")
    power = check_count(power, "power", 1)
    if initial > sparsity:
        raise UserError(f"initial: {initial:g}: allowed is at most the final sparsity, {sparsity:g}")
    if parse_structure(how.get("structure", "weight")).kind == "n:m" and initial != sparsity:
        raise UserError("structure: N:M has one sparsity; allowed are one_shot, or gradual with initial=sparsity")
    steps = _steps(start, stop, every)
    progress = [(step - steps[0]) / (steps[-1] - steps[0]) for step in steps] if len(steps) > 1 else [1.0]
    levels = tuple(initial + pruning.cubic(sparsity - initial, share, power) for share in progress)
    return _checked(Schedule(steps[0], steps[-1], every, levels, score=score, is_open=is_open, **how))


def one_shot(sparsity: float, at: int = 0, *, score: Callable = pruning.magnitude, **how) -> Schedule:
    """Pruned once, before the update number `at`; at 0 the initial weights are.

    Args:
      sparsity: in [0, 1).
      how: see `gradual`.
    """
    check_count(at, "at")
    return gradual(sparsity, at, at, 1, initial=sparsity, score=score, **how)


def static(sparsity: float, *, scope: str = "erk", **how) -> Schedule:
    """A random mask that stays as it is.

    Args:
      sparsity: in [0, 1).
      scope: how it is shared among layers: "erk", "uniform", or another of `jt.prune`.
      how: see `gradual`.
    """
    _check_how(how)
    return _checked(Schedule(initial=check_share(sparsity, "sparsity"), scope=scope, **how))


def rigl(
    sparsity: float, every: int, stop: int, *, fraction: float = 0.3, growth: Callable = gradient, **how
) -> Schedule:
    """Sparse from the start: the smallest weights make room where the gradient is largest (Evci et al. 2020).

    Masks change before every `every`-th update, and for the last time before the update number `stop`. The share of a
    layer's weights that is exchanged falls from `fraction` with a cosine. As published, an update that changes masks
    changes no weights: those that come are zero.

    Args:
      sparsity: in [0, 1), from the first step on.
      fraction: in [0, 1].
      growth: the score of weights that are not there.
      how: `scope` ("erk", "uniform" or "layerwise"; "erk" as published), `min_per_layer`, `seed`.

    Raises:
      UserError: an argument is not what it can be.
    """
    _check_how(how)
    sparsity = check_share(sparsity, "sparsity")
    every = check_count(every, "every", 1)
    stop = check_count(stop, "stop", every)
    how = {"scope": "erk", **how}
    if how["scope"] not in ("erk", "uniform", "layerwise"):
        raise UserError(f"scope: {how['scope']!r}: allowed are erk, uniform and layerwise where weights are regrown")
    if parse_structure(how.get("structure", "weight")).kind != "weight":
        raise UserError(f"structure: {how['structure']!r}: allowed is weight where weights are regrown")
    check_function(growth, "growth", "params", "masks", more=True)
    levels = tuple(pruning.cosine(fraction, step / stop) for step in _steps(every, stop, every))
    return _checked(Schedule(every, stop, every, levels, regrows=True, score=growth, initial=sparsity, **how))


def sparse_evolutionary(sparsity: float, every: int, stop: int, *, fraction: float = 0.3, **how) -> Schedule:
    """SET: the smallest weights make room for random ones (Mocanu et al. 2018, algorithm 2).

    Args:
      sparsity, every, stop, fraction, how: see `rigl`.
    """
    _check_how(how)
    return rigl(sparsity, every, stop, fraction=fraction, growth=random, **how)


def _steps(start, stop, every):
    start = check_count(start, "start")
    every = check_count(every, "every", 1)
    stop = check_count(stop, "stop", start)
    return [*range(start, stop, every), stop]


def _check_how(how):
    if unknown := [name for name in how if name not in HOW]:
        name = unknown[0]
        raise UserError(
            f"{name}: {how[name]!r:.60}: is no argument of this schedule{near(name, HOW)}; allowed are {', '.join(HOW)}"
        )


def _checked(schedule):
    parse_structure(schedule.structure)
    check_choice(schedule.scope, "scope", SCOPES)
    check_count(schedule.min_per_layer, "min_per_layer")
    check_count(schedule.seed, "seed", below=1 << 32)
    check_function(schedule.score, "score", "params", "masks", more=True)
    if unknown := [name for name in needs(schedule.score) if name not in OFFERED and not _has_default(schedule, name)]:
        raise UserError(
            f"score: {unknown[0]} is not known within a train step; allowed arguments after params and masks are "
            f"{' and '.join(OFFERED)}, and what functools.partial has given"
        )
    return schedule


def _has_default(schedule, name):
    return inspect.signature(schedule.score).parameters[name].default is not inspect.Parameter.empty


def begun_at(schedule: Schedule, masks: Any) -> Schedule:
    """The schedule whose levels, if they are open, begin at the sparsity of these masks.

    Raises:
      UserError: they prune more than the schedule does in the end, or are traced, so that it is not known.
    """
    if not schedule.is_open:
        return schedule
    if any(isinstance(mask, jax.core.Tracer) for mask in jax.tree.leaves(masks)):
        raise UserError(
            "masks: within a compiled function their sparsity, at which gradual begins, is not known; allowed is "
            "gradual(..., initial=...), or jt.sparsify outside of it"
        )
    first, final, (weights, kept) = mask_lib.sparsity(masks), schedule.levels[-1], mask_lib.counts(masks)
    if not first:
        return schedule
    if weights - kept > round(final * weights):  # Counts, because 0.3 of 192 weights are 58, which is 0.302.
        raise UserError(
            f"masks: they prune {first:g} already; allowed is at most the final sparsity of the schedule, {final:g}"
        )
    # The last level stays as it is to the last bit.
    return schedule._replace(levels=tuple(final - (final - first) * (1 - level / final) for level in schedule.levels))


# Within the transformation.


def initial_masks(schedule: Schedule, params, masks):
    """The masks that training starts with, nested in `masks`: random ones of the initial sparsity, or these."""
    check_some(masks)
    units = parse_structure(schedule.structure)
    if units.kind != "n:m":
        layers = _layers(schedule, masks)
        names, n_keep = _weights_to_keep(layers, schedule)
        pools = [(*pool, count) for pool, count in zip(names, n_keep[-1].tolist(), strict=True)]  # The last keep least.
        check_floor(pools, layers, _sparsities(schedule)[-1], units, schedule.min_per_layer)
    if not schedule.initial:
        warn_of_dense(masks, units, known_axes(masks, schedule.structure, schedule.axes))
        return masks
    scores = pruning.random(params, masks, schedule.seed)
    how = schedule.scope, schedule.min_per_layer, schedule.structure, schedule.axes
    return pruning.prune(scores, masks, schedule.initial, *how)


def is_due(schedule: Schedule, count):
    """Whether masks change before the update number `count`, a traced number."""
    is_inside = (schedule.start <= count) & (count <= schedule.stop)
    return is_inside & (((count - schedule.start) % schedule.every == 0) | (count == schedule.stop))


def changed(schedule: Schedule, count, params, gradients, masks, dense):
    """The masks after the change before the update number `count`; all is traced.

    Args:
      params: effective weights.
      gradients: of all weights, pruned ones too.
      dense: the masks that training could start with, for the number of weights that each layer can have; NumPy's.
    """
    wanted = {"gradients": gradients, "key": jax.random.fold_in(jax.random.key(schedule.seed), count)}
    scores = schedule.score(params, masks, **{name: wanted[name] for name in needs(schedule.score) if name in wanted})
    number = (count - schedule.start + schedule.every - 1) // schedule.every
    layers = _layers(schedule, dense)
    if schedule.regrows:
        n_grown = iter(jnp.asarray(_weights_to_grow(layers, schedule))[number])

        def exchanged(leaf, mask, growth):
            if is_hole(mask):
                return mask
            after = exchange(leaf, mask, growth, next(n_grown), keep_highest)
            return jnp.where(jnp.isfinite(leaf).all() & jnp.isfinite(growth).all(), after, mask)

        check_growth(scores, masks)
        return map_with_holes(exchanged, params, masks, scores)
    units, pools = parse_structure(schedule.structure), []
    if units.kind != "n:m":
        pool_names, n_keep = _weights_to_keep(layers, schedule)
        counts = jnp.asarray(n_keep)[number]
        pools = [(*pool, counts[index]) for index, pool in enumerate(pool_names)]
    kernels = known_axes(masks, schedule.structure, schedule.axes)
    return select(scores, masks, pools, units, kernels, protected_units(units, schedule.min_per_layer))


def _layers(schedule, dense) -> tuple[Extent, ...]:
    layers = extents(dense)
    if schedule.regrows or schedule.scope in ("erk", "uniform"):
        kept = [counts.kept for counts in mask_lib.layer_counts(dense).values()]
        layers = [layer._replace(kept_weights=count) for layer, count in zip(layers, kept, strict=True)]
    return tuple(layers)


def _weights_to_keep(layers, schedule):
    """`([(name, indices of layers)], [changes, pools] int32)`: how many weights each pool keeps after each change."""
    return _keeping(layers, _sparsities(schedule), schedule.scope)


def _sparsities(schedule):
    """The sparsity after each change, or the one that there is from the start."""
    return (schedule.initial,) if schedule.regrows or not schedule.levels else schedule.levels


@lru_cache(maxsize=64)
def _keeping(layers, levels, scope):
    table, names = [], []
    for level in levels:
        pools = pools_of(layers, level, scope)
        table.append([n_keep for *_, n_keep in pools])
        names = [(name, tuple(indices)) for name, indices, _ in pools]
        if scope in ("erk", "uniform"):
            layers = tuple(layer._replace(kept_weights=n_keep) for layer, n_keep in zip(layers, table[-1], strict=True))
    if np.max(table) > np.iinfo(np.int32).max:
        raise UserError(f"scope: {scope!r}: over {np.max(table)} weights; allowed within a step are at most 2^31 - 1")
    return names, np.array(table, np.int32)


@lru_cache(maxsize=64)
def _growing(layers, initial, scope, fractions):
    kept = _keeping(layers, (initial,), scope)[1][0].tolist()
    return np.array([[round(fraction * count) for count in kept] for fraction in fractions], np.int32)


def _weights_to_grow(layers, schedule):
    """`[changes, layers]` int32: how many weights come and go in each change."""
    return _growing(layers, schedule.initial, schedule.scope, schedule.levels)
