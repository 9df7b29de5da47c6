"""The lottery loop around a training function of one's own."""

import contextlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import pruning
from jaxtickets.checks import check_count, check_function, check_share, place
from jaxtickets.errors import UserError
from jaxtickets.library.states import rewind
from jaxtickets.library.stored import Store, checksum, described
from jaxtickets.pruning.score import needs
from jaxtickets.pruning.structures import known_axes, parse_structure
from jaxtickets.pytrees import check_fit, check_shapes, is_array, pairs, structure_of

OFFERED = ("start", "initial", "seed")


class Round(NamedTuple):
    """One round: pruned, rewound, trained. Round 0 is dense.

    Attributes:
      number: 0 for the dense network, then 1, 2, ...
      masks: the masks that it was trained with.
      params: the trained parameters; pruned weights are exactly zero. NumPy arrays, as the masks.
      sparsity: pruned weights / prunable weights.
      metrics: the numbers that the callback has returned.
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
        round sees the same data in the same order.
      params: the initial parameters, any pytree.
      key: handed to `early` and `train_fn`; a JAX key.
      rounds: the number of rounds after the dense one, each of which prunes `rate` of the weights that remain.
      targets: instead of `rounds`, the sparsity of each round after the dense one, increasing.
      masks: the masks of the dense round; None: `jt.masks.ones(params, include, exclude)`.
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
        one that is there. A round is saved before its callback is called, and again with its metrics: if the callback
        fails or is killed, the round stays, with `metrics={}`, because what `train_fn` has returned is gone.

    Returns:
      The rounds, from the dense one on.

    Raises:
      UserError: an argument is not what it can be, `train_fn` returns something else, or the directory holds
        something else or rounds of other arguments. What `train_fn`, `early` and `score` compute can't be compared,
        and all lambdas have one name: change them, and the directory.
    """
    _check_functions(train_fn, early, params_of, score, callback)
    workdir = None if workdir is None else place(workdir, "workdir")
    if not isinstance(rewinds, bool):
        raise UserError(f"rewinds: {rewinds!r}: allowed is True or False")
    check_count(min_per_layer, "min_per_layer")
    units = parse_structure(structure)
    levels = _levels(rounds, targets, rate, structure, units.sparsity)
    if early and not rewinds:
        raise UserError("early: nothing is rewound with rewinds=False; allowed is one of the two")
    offered = _offered(score)
    _check_key(key, "seed" in offered)
    dense = mask_lib.ones(params, include, exclude) if masks is None else masks
    check_fit(dense, params)
    kernels = known_axes(dense, structure, axes)
    if len(levels) > 1:  # What can't be pruned is told before anything is trained.
        pruning.prune(pruning.random(params, dense, 0), dense, levels[1], scope, min_per_layer, structure, axes)

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
        done: list[Round] = []
        if store:
            done = [Round(number, *stored) for number, stored in enumerate(store.rounds(len(levels), params, dense))]
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
            trained = jax.device_get(mask_lib.apply(found, on_device))
            round_ = Round(number, now, trained, mask_lib.sparsity(now), {})
            if store:
                store.save_round(*round_)  # Before the callback, which may fail.
            if callback and (metrics := _numbers(callback(round_, result))):
                round_ = round_._replace(metrics=metrics)
                if store:
                    store.save_round(*round_)
            done.append(round_)
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


def _check_key(key, is_for_seeds):
    """Refuses what is no key."""
    is_key = isinstance(key, int | np.integer) and not isinstance(key, bool) or is_array(key)
    if is_key and is_for_seeds:
        try:
            _seed(key, 0)
        except (TypeError, ValueError):
            is_key = False
    if not is_key:
        raise UserError(f"key: {key!r:.60}: allowed is a key of JAX, such as jax.random.key(0)")


def _levels(rounds, targets, rate, structure, only):
    """The sparsity of each round, with the dense one's; `only` is the one that the structure has, or None."""
    if rounds is not None and targets is not None:
        raise UserError("rounds, targets: both are given; allowed is one of them")
    if targets is not None:
        targets = _targets(targets)
    if rounds is not None:
        check_count(rounds, "rounds")
    if only is not None:
        if rounds not in (None, 1):
            raise UserError(
                f"rounds: {rounds!r}: {structure} has one sparsity, {only:g}, and so one round; allowed is 1"
            )
        if targets is not None and targets != [only]:
            raise UserError(f"targets: {targets}: {structure} has one sparsity; allowed is [{only:g}]")
        return [0.0, only]
    if targets is None:
        if rounds is None:
            raise UserError("rounds: None: allowed is a whole number, or targets, the sparsity of each round")
        return pruning.sparsities(rate, rounds)
    levels = [0.0, *targets]
    if any(after <= before for before, after in zip(levels, levels[1:], strict=False)):
        raise UserError(f"targets: {levels[1:]}: allowed are sparsities above 0, each above the one before")
    return levels


def _targets(targets):
    """The targets as numbers."""
    is_several = isinstance(targets, Sequence) or (is_array(targets) and len(targets.shape) == 1)
    if isinstance(targets, str) or not is_several or not len(targets):
        raise UserError(f"targets: {targets!r:.60}: allowed is a list of sparsities, at least one, such as [0.5, 0.8]")
    return [check_share(target, "targets") for target in targets]


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
