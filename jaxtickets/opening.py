"""The trained networks of runs, opened again from their workdirs or ticket files: for more metrics, and for samples."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxtickets import config as config_lib
from jaxtickets import data, models, snapshots, tickets, trained
from jaxtickets import masks as mask_lib
from jaxtickets.data import identity
from jaxtickets.errors import UserError
from jaxtickets.names import near
from jaxtickets.objectives import OBJECTIVES, Objective
from jaxtickets.progress import say
from jaxtickets.workdir import Workdir

NAMES = ("dense", "winner", "last")


class Opened(NamedTuple):
    """A trained network.

    Attributes:
      config: of the run, with the part `model` of this network.
      objective: of this network.
      params, batch_stats: what is evaluated; pruned weights are zero.
      title: what messages call it.
      data: the digests of the run's data by the name of the split; None if an older version has kept none.
    """

    config: ConfigDict
    objective: Objective
    params: Any
    batch_stats: Any
    title: str
    data: Mapping[str, str] | None


def open_round(place: Workdir, round_: int) -> Opened:
    """The trained network of a round.

    Raises:
      UserError: the workdir has no readable config, or no weights of the round.
    """
    title = f"round {round_} of {place.path}"
    return _opened(read_config(place), trained.load(place, round_), title, place.read_data())


def open_initial(place: Workdir) -> Opened:
    """The network of a run before its first step.

    Raises:
      UserError: the workdir has no readable config, or no weights.
    """
    config = read_config(place)
    of_any = trained.load(place, next(iter(place.list_weights()))).network
    state = snapshots.restore_raw(place.snapshot("init"))
    averages = state.get("average") or {}
    params, batch_stats = ({**state[name], **averages.get(name, {})} for name in ("params", "batch_stats"))
    network = of_any | {"model": config_lib.to_dict(config)["model"]}
    title = f"the untrained network of {place.path}"
    return _opened(config, trained.Trained(params, batch_stats, network), title, place.read_data())


def open_ticket(path: Path) -> Opened:
    """The network that was trained from a ticket.

    Raises:
      UserError: the file is no ticket, or has no trained weights.
    """
    ticket = tickets.load_ticket(path)
    ticket.need_trained()
    return ticket.opened


def open_loaded(ticket: tickets.Ticket) -> Opened:
    """The network that was trained from a ticket; that of its rewind point, if it has no trained weights.

    Raises:
      UserError: the ticket does not tell its network, or is that of another version.
    """
    values, verdict = tickets.run_of(ticket.metadata, ticket.path)
    try:
        config = config_lib.from_dict(values)
    except UserError as error:
        raise UserError(f"{ticket.path}: written by another version: {error}") from None
    title = f"the ticket {ticket.path}, round {verdict['winning_round']} of its run"
    network = ticket.network
    if network is None:  # An older version does not tell it.
        channels = data.channels(config.data.name, config.data.background)
        classes = data.classes(config.data.name, config.data.dir or None) if config.model.conditional else 0
        network = {"model": values["model"], "channels": channels, "classes": classes}
    found = ticket.trained or trained.Trained(ticket.params, ticket.batch_stats, network)
    return _opened(config, found, title, verdict.get("data"))


def _opened(config, found: trained.Trained, title, digests):
    network = found.network
    config.model = config_lib.from_dict({"model": network["model"]}).model
    style = {"dtype": jnp.dtype(config.dtype), "axis_name": None, "rematerialize": False}
    components = models.build(config.model, network["channels"], network["classes"], **style)
    objective = OBJECTIVES[config.objective.name].make(components, config)
    _check_shapes(components, found, title)
    return Opened(config, objective, found.params, found.batch_stats, title, digests)


def _check_shapes(components, found, title):
    """Refuses weights that are not those of the network that is described beside them."""
    trees = jax.eval_shape(lambda: models.init(components, jax.random.key(0)))
    expected, shapes = (
        {name: np.shape(leaf) for name, leaf in mask_lib.named_leaves(tree).items()}
        for tree in (trees, (found.params, found.batch_stats))
    )
    if wrong := sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name)):
        here, there = shapes.get(wrong[0], "missing"), expected.get(wrong[0], "not in it")
        raise UserError(f"{title}: its weights are not those of its network: {wrong[0][2:]} is {here}, there {there}")


def dataset(opened: Opened, split: str) -> data.Dataset:
    """A split of the data of a network's run; it is told if that has changed since."""
    found = data.of_config(opened.config, split)
    if differing := identity.difference(opened.data, {split: found.digest}):
        _tell_once(
            f"data.name={found.name!r} holds other images or labels than those that the run was trained on: the digest"
            f" of {differing}; numbers taken over them can't be compared with the run's"
        )
    return found


_tell_once = lru_cache(maxsize=64)(say)


def read_config(place: Workdir) -> ConfigDict:
    """The config that a run was started with.

    Raises:
      UserError: there is none, or it has fields of another version.
    """
    if not place.path.is_dir():
        raise UserError(f"--workdir={place.path}: there is no such directory")
    values = place.read_config()
    if values is None:
        raise UserError(f"--workdir={place.path}: not a workdir, because it has no readable config.json")
    try:
        return config_lib.from_dict(values)
    except UserError as error:
        raise UserError(f"--workdir={place.path}: written by another version: {error}") from None


def seed_runs(whole: Workdir) -> dict[int, Workdir]:
    """The workdir of each seed run with at least one finished round: `whole` itself if it is that of one seed.

    Raises:
      UserError: it is no workdir, or no round has finished.
    """
    config = read_config(whole)
    places = whole.seed_dirs() if config.seeds > 1 else {config.seed: whole}
    if found := {seed: place for seed, place in places.items() if place.read_rounds()}:
        return found
    raise UserError(f"--workdir={whole.path}: no round has finished yet")


def rounds(text: str, flag: str, whole: Workdir, place: Workdir) -> list[int]:
    """The rounds that a flag names: `all` whose weights are kept, or some of numbers, `dense`, `winner` and `last`.

    Args:
      whole: the workdir whose verdict names the winner.
      place: the seed run that has the weights.

    Raises:
      UserError: a word is none of these, there is no winner, or the weights of a round are not kept.
    """
    kept, found = place.list_weights(), []
    having = f"rounds whose weights are kept: {', '.join(map(str, kept)) or 'none'}"
    if text == "all":
        if not kept:
            why = "an older version has written it, or it is a copy without them"
            raise UserError(f"{flag}={text}: {place.path} has no weights: {why}")
        for round_ in _with_weights(whole, place):
            if round_ not in kept:
                say(f"{place.weights(round_)}: was kept and is gone; round {round_} is left out")
        return list(kept)
    for word in text.split(","):
        if word not in NAMES and not re.fullmatch(r"\d+", word):
            suggestion = near(word, [*NAMES, "all"])
            raise UserError(f"{flag}={text}: allowed are numbers of rounds, {', '.join(NAMES)}, or all{suggestion}")
        round_ = _numbers(whole, place).get(word, int(word) if word.isdecimal() else None)
        if round_ is None:
            raise UserError(f"{flag}={text}: the verdict names no winner; {place.path} has these {having}")
        if round_ not in kept:
            raise UserError(f"{flag}={text}: {place.path} has no weights of round {round_}; it has these {having}")
        found.append(round_)
    return list(dict.fromkeys(found))


def _with_weights(whole, place):
    """The rounds whose weights a run keeps; [] until it has finished."""
    if not place.is_finished:
        return []
    rounds_ = [row["round"] for row in place.read_rounds() if row.get("diverged_step") is None]
    is_kept = read_config(place).keep_weights == "all"
    return [round_ for round_ in rounds_ if is_kept or round_ in _numbers(whole, place).values()]


def winner(whole: Workdir) -> int | None:
    """The round that the verdict names, or None."""
    return (whole.read_verdict() or {}).get("winning_round")


def _numbers(whole, place) -> Mapping[str, int | None]:
    return {"dense": 0, "winner": winner(whole), "last": place.read_rounds()[-1]["round"]}
