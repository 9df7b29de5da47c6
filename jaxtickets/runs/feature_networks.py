"""The feature networks of a run: which they are, and whether earlier rounds were measured in the same ones."""

import numpy as np

from jaxtickets import metrics, snapshots, train
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.metrics import networks
from jaxtickets.metrics.fd import FEATURES
from jaxtickets.metrics.networks import AUTO
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.workdir import Workdir

ADVICE = "rounds that are measured in different ways can't be compared; give another --workdir"
CLOSE = 0.01  # The same networks on another machine give numbers that differ by less than this fraction.


def resolved(config, place: Workdir | None = None):
    """The config with the name of a feature network for `eval.features="auto"`, if a chosen metric reads that field.

    Args:
      place: a workdir that may have been started: then the name is the one that its config has.
    """
    if config.eval.features != AUTO:
        return config
    there = place and place.read_config()
    config = config.copy_and_resolve_references()
    if there is not None:
        config.eval.features = there.get("eval", {}).get("features", FEATURES.before)
    metrics_chosen = metrics.chosen(config, OBJECTIVES[config.objective.name])
    if config.eval.features == AUTO and any(FEATURES in metric.fields for metric in metrics_chosen):
        config.eval.features = networks.resolve(config)
    return config


def check(setup, place: Workdir, seed: int, flag: str) -> None:
    """Refuses rounds in other feature networks than those in which this workdir has measured its rounds.

    A workdir that does not say which these were, because it is older, is asked for its dense network: it must have the
    numbers now that it had then.

    Args:
      setup: of the rounds that would be measured.
      seed: that the workdir's run has.
      flag: that names the workdir, for the message.

    Raises:
      UserError: the networks are others.
    """
    origin, rows = place.read_origin(), place.read_rounds()
    if origin is None or not rows:
        return
    there = origin.get("about", {}).get("features")
    if there is not None:
        here = setup.about["features"]
        if others := [name for name in here if name in there and there[name] != here[name]]:
            digests = "; ".join(f"{name} is {there[name]} there and {here[name]} here" for name in others)
            raise UserError(f"{flag}: its rounds were measured in other feature networks: {digests}; {ADVICE}")
        return
    if not snapshots.exists(place.snapshot("dense")):
        return
    try:
        state = snapshots.restore(place.snapshot("dense"), setup.init(seed))
    except DamagedError:
        return  # Whoever needs it says so.
    now = setup.evaluator.evaluate(*train.evaluated(state), seed)
    then = {column: rows[0][column] for column in now if isinstance(rows[0].get(column), int | float)}
    if others := [column for column, value in then.items() if not np.isclose(now[column], value, CLOSE, 1e-6)]:
        numbers = "; ".join(f"{column} was {then[column]:.4g} and is {now[column]:.4g}" for column in others)
        raise UserError(f"{flag}: its dense network is measured otherwise now: {numbers}; {ADVICE}")
