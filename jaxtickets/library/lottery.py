"""The lottery loop around a training function of one's own."""

import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import pruning
from jaxtickets.checks import check_count, check_function, place
from jaxtickets.errors import UserError
from jaxtickets.library.first_masks import check_choice_of_leaves, first_masks
from jaxtickets.library.levels import levels_of
from jaxtickets.library.states import rewind, zeroed
from jaxtickets.library.stored import Store, checksum, described
from jaxtickets.pruning.score import needs
from jaxtickets.pruning.structures import known_axes, parse_structure
from jaxtickets.pytrees import check_like, check_shapes, is_hole, pairs, structure_of

OFFERED = ("start", "initial", "seed")


class Round(NamedTuple):
    """One round: pruned, rewound, trained. Round 0 is dense, or has the masks that `jt.imp` was given.

    Attributes:
      number: 0 for the first round, then 1, 2, ...
      masks: the masks that it was trained with.
      params: the trained parameters; pruned weights are exactly zero. NumPy arrays, as the masks.
      sparsity: pruned weights / prunable weights.
      metrics: the numbers that the callback has returned; {} if there is none.
    """

    number: int
    masks: Any
    params: Any
    sparsity: float
    metrics: dict[str, float]


def imp(
    train_fn: Callable[[Any, Any, Any], Any],
    params: Any,
    *,
    key: Any,
    rounds: int | None = None,
    targets: Sequence[float] | None = None,
    rate: float = 0.2,
    masks: Any = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    early: Callable[[Any, Any, Any], Any] | None = None,
    rewinds: bool = True,
    params_of: Callable[[Any], Any] | None = None,
    score: Callable = pruning.magnitude,
    scope: str = "global",
    structure: str = "weight",
    min_per_layer: int = 0,
    axes: Any = None,
    callback: Callable[[Round, Any], Mapping[str, float] | None] | None = None,
    workdir: str | os.PathLike | None = None,
) -> list[Round]:
    """Iterative magnitude pruning (Frankle, Carbin 2019) around `train_fn`: train, prune, rewind, again.

        rounds = jt.imp(train_fn, params, key=jax.random.key(0), rounds=10)

    Args:
      train_fn: `(params, masks, key) -> trained parameters`, or a state that holds them. Its loss multiplies the masks
        into the parameters (`jt.masks.apply`), or its optimiser is `jt.masked`. It is called once per round with
        parameters whose pruned weights are zero, with masks that are JAX arrays, and with the same key, so that each
        round sees the same data in the same order. Pruned weights of the parameters that it returns are zero. Where
        the loss has the masks and an update moves pruned weights all the same (noise on all weights, an optimiser that
        mixes entries of a gradient, such as Muon), it returns `jt.masks.apply(trained, masks)`.
      params: the initial parameters, any pytree.
      key: handed to `early` and `train_fn` as it is, so anything that they take; a JAX key if the score needs `seed`.
      rounds: the number of rounds after the first one, each of which prunes `rate` of the weights that remain.
      targets: instead of `rounds`, the sparsity of each round after the first one, increasing.
      masks: the masks of the first round, if it is not to be dense.
      include, exclude: which leaves are prunable, as in `jt.masks.ones`; not beside `masks`, which say it themselves.
      early: for late rewinding: `(params, masks, key) -> rewind point`, which trains the dense network for the first
        few steps. Each round then calls `train_fn` with what it returned, parameters or a whole state, in which
        pruned weights and their moments are zero (`jt.rewind`). None: the rewind point is `params`.
      rewinds: False makes it fine-tuning: each round goes on from the trained parameters of the one before.
      params_of: `(state) -> parameters`, of what `train_fn` and `early` return. None: itself or its `.params`.
      score: `(params, masks, ...) -> scores` of the trained parameters; further arguments are given by name: `start`,
        the parameters at the rewind point, `initial`, and `seed`, a whole number, another in each round. In `workdir`
        it is compared by its name and by what functools.partial has given it.
      scope, structure, min_per_layer, axes: see `jt.prune`.
      callback: `(round, what train_fn has returned) -> numbers by name`, or None, called after each round.
      workdir: a directory. Each round is saved in it, and the same call, also with more rounds, goes on after the last
        one that is there. A round is saved before its callback is called, and again with its metrics. A callback that
        failed, was killed, or is new is called again for the saved rounds without metrics, if `train_fn` returns
        parameters. A state is not saved: then `metrics` stays {}, and a warning says so.

    Returns:
      The rounds, from the first one on.

    Raises:
      UserError: an argument is not what it can be, `train_fn` returns something else or pruned weights that are not
        zero, as after a loss without the masks, or the directory holds something else or rounds of other arguments.
        What `train_fn`, `early` and `score` compute can't be compared, and all lambdas have one name: change them, and
        the directory.
    """
    _check_functions(train_fn, early, params_of, score, callback)
    workdir = None if workdir is None else place(workdir, "workdir")
    if not isinstance(rewinds, bool):
        raise UserError(f"rewinds: {rewinds!r}: allowed is True or False")
    check_count(min_per_layer, "min_per_layer")
    check_choice_of_leaves(masks, include, exclude)
    dense = first_masks(params, masks, include, exclude)
    levels = levels_of(rounds, targets, rate, mask_lib.sparsity(dense), structure, parse_structure(structure).sparsity)
    if early and not rewinds:
        raise UserError("early: nothing is rewound with rewinds=False; allowed is one of the two")
    offered = _offered(score)
    if "seed" in offered:
        _check_key(key)
    kernels = known_axes(dense, structure, axes)
    weights = mask_lib.counts(dense).weights
    if structure == "weight" and round(levels[-1] * weights) == weights:
        name = "rounds" if targets is None else "targets"
        raise UserError(f"{name}: the last round would keep none of {weights} weights; allowed is less pruning")
    if len(levels) > 1:  # What can't be pruned is told before anything is trained.
        scores = pruning.random(params, dense, 0)
        pruning.prune(scores, dense, levels[1], scope, min_per_layer, structure, axes, warns=False)

    @cache
    def rewind_point():
        """The rewind point, trained when it is first needed; what is stored has its values."""
        if not early:
            return params
        point = early(_copy(params), _on_device(dense), key)
        _find(point, params, params_of, "early")
        return store.rewind_point(point) if store else point

    def start_of_rounds():
        return _find(rewind_point(), params, params_of, "early") if early else params

    with contextlib.ExitStack() as stack:
        store = None
        if workdir is not None:
            about = {
                "levels": levels,
                "early": bool(early),
                "rewinds": rewinds,
                "score": described(score),
                "scope": scope,
                "structure": structure,
                "min_per_layer": min_per_layer,
                "axes": {name: [list(own) for own in pair] for name, pair in kernels.items()},
                "params": checksum(params),
                "masks": checksum(dense),
                "key": checksum({"key": key}),
            }
            store = stack.enter_context(Store.opened(workdir, about))

        def measured(round_, result):
            """The round with the callback's numbers, saved with them."""
            if not callback:
                return round_
            round_ = round_._replace(metrics=_numbers(callback(round_, result)))
            if store:
                store.save_round(*round_, is_params=_is_params(result, params))
            return round_

        done: list[Round] = []
        unmeasured = []
        stored = store.rounds(len(levels), params, dense) if store else ()
        for own, trained, sparsity, metrics, is_params in stored:
            round_ = Round(len(done), own, trained, sparsity, metrics or {})
            if callback and metrics is None and is_params:
                round_ = measured(round_, _copy(round_.params))
            elif callback and metrics is None:
                unmeasured.append(str(round_.number))
            done.append(round_)
        if unmeasured:
            logging.getLogger(__name__).warning(
                "workdir=%r: rounds without metrics: %s. No callback had returned when they were saved, and the state "
                "that train_fn returned is not in their files; measure their params, or take another directory",
                str(workdir),
                ", ".join(unmeasured),
            )
        for number, level in enumerate(levels[len(done) :], start=len(done)):
            now = dense
            if number:
                before = done[-1]
                values: dict[str, Callable] = {
                    "start": start_of_rounds,
                    "initial": lambda: params,
                    "seed": partial(_seed, key, number),
                }
                scores = score(before.params, before.masks, **{name: values[name]() for name in offered})
                pairs(scores, before.masks, "score", "masks")
                now = pruning.prune(scores, before.masks, level, scope, min_per_layer, structure, axes)
            start = rewind_point() if rewinds or not done else done[-1].params
            on_device = _on_device(now)
            result = train_fn(_copy(rewind(start, on_device)), on_device, key)
            found = _find(result, params, params_of, "train_fn")
            check_shapes(found, params, "train_fn")
            _check_zeros(found, on_device)
            trained = jax.device_get(zeroed(found, on_device))  # Zeros where training has diverged, too.
            round_ = Round(number, now, trained, mask_lib.sparsity(now), {})
            if store:  # Before the callback, which may fail.
                store.save_round(*round_[:-1], None, is_params=_is_params(result, params))
            done.append(measured(round_, result))
    return done


def _check_functions(train_fn, early, params_of, score, callback):
    """Refuses what can't be called as it will be."""
    check_function(train_fn, "train_fn", "params", "masks", "key")
    check_function(score, "score", "params", "masks", more=True)
    for value, name, arguments in (
        (early, "early", ("params", "masks", "key")),
        (params_of, "params_of", ("state",)),
        (callback, "callback", ("round", "state")),
    ):
        if value is not None:
            check_function(value, name, *arguments)


def _check_key(key):
    """Refuses a key that no numbers can be drawn with."""
    try:
        _seed(key, 0)
    except (TypeError, ValueError):
        raise UserError(
            f"key: {key!r:.60}: the score needs seed, which is drawn with it; allowed is a key of JAX, such as "
            "jax.random.key(0)"
        ) from None


def _offered(score):
    """The names of what the score needs beside parameters and masks."""
    arguments = inspect.signature(score).parameters
    wanted = [name for name in needs(score) if arguments[name].default is inspect.Parameter.empty]
    if unknown := [name for name in wanted if name not in OFFERED]:
        raise UserError(
            f"score: needs {unknown[0]}, which imp does not have; allowed is what functools.partial(score, "
            f"{unknown[0]}=...) makes of it"
        )
    return wanted


def _numbers(metrics):
    """What a callback has returned, as `{name: float}`.

    Raises:
      UserError: it is something else.
    """
    if not isinstance(metrics, Mapping | None):
        raise UserError(f"callback: has returned a {type(metrics).__name__}; allowed are numbers by name, or None")
    numbers = {}
    for name, value in (metrics or {}).items():
        if not isinstance(name, str):
            raise UserError(f"callback: has returned the name {name!r:.60}; allowed are texts")
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            told = f"an array of the shape {np.shape(value)}" if np.ndim(value) else f"{value!r:.60}"
            raise UserError(f"callback: {name} is {told}; allowed is a number") from None
    return numbers


def _seed(key, number):
    return int(jax.random.bits(jax.random.fold_in(key, number)))


def _copy(tree):
    """Fresh arrays, so that a compiled step may overwrite what it is given."""
    return jax.tree.map(lambda leaf: jnp.copy(leaf) if hasattr(leaf, "dtype") else leaf, tree)


def _on_device(masks):
    return jax.tree.map(jnp.asarray, masks)


def _is_params(result, params):
    return structure_of(result) == structure_of(params)


def _check_zeros(trained, masks):
    """Refuses trained parameters whose pruned weights are not zero: most likely, training has not had the masks.

    Infinity and NaN pass: where training diverges, masked gradients are NaN too.

    Raises:
      UserError: a pruned weight is another number.
    """
    for name, mask, leaf in check_like(masks, trained, "masks", "train_fn"):
        if is_hole(mask):
            continue
        if n_wrong := int(jnp.count_nonzero(~mask & jnp.isfinite(leaf) & (leaf != 0))):
            raise UserError(
                f"train_fn: has returned pruned weights that are not zero, {n_wrong} in {name or 'the parameters'}: "
                "training has not had the masks; allowed is a loss of jt.masks.apply(params, masks), or the optimiser "
                "jt.masked(tx, masks). Where the loss has them, return jt.masks.apply(trained, masks)"
            )


def _find(state, params, params_of, what):
    """The parameters in what a function of the user has returned.

    Raises:
      UserError: they are not there.
    """
    candidates = [params_of(state)] if params_of else [state, getattr(state, "params", None)]
    for found in candidates:
        if structure_of(found) == structure_of(params):
            return found
    raise UserError(
        f"{what}: has returned a {type(state).__name__} in which there are no parameters like the given ones; allowed "
        "are parameters, or a state with them as .params, or with params_of=, such as lambda state: state[0]"
    )
