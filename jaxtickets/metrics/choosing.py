"""The metrics that a config chooses, and what a game can serve."""

from collections.abc import Iterable

from jaxtickets.fields import refuse
from jaxtickets.metrics.bootstrap import ends_of
from jaxtickets.metrics.metric import SAMPLES, Metric
from jaxtickets.metrics.networks import AUTO, FEATURE_NETWORKS
from jaxtickets.objectives import Game
from jaxtickets.workdir import ROUND_COLUMNS


def _registry():
    from jaxtickets.metrics import METRICS  # The package's face imports this module.

    return METRICS


def chosen(config, game: Game) -> list[Metric]:
    """The metrics that `config.eval.metrics` names, or the game's own if it is empty. The first decides the verdict."""
    return [_registry()[name] for name in config.eval.metrics or game.metrics]


def possible(game: Game) -> list[str]:
    """Returns the names of the metrics that a game can serve: by its own metrics, and by what it offers beside them.

    A metric on samples can be served if one of the game's own is on samples; one on held-out images if the game offers
    what its `evaluate` calls, or, without an `evaluate` of its own, if the game's own metrics read all its terms.
    """
    own = [_registry()[name] for name in game.metrics]
    has_samples = any(metric.needs == SAMPLES for metric in own)
    terms = {term for metric in own if not metric.evaluate for term in metric.terms}
    offered = set(game.offers).union(*(metric.requires for metric in own))

    def is_served(metric):
        if metric.needs == SAMPLES:
            return has_samples
        return offered.issuperset(metric.requires) if metric.evaluate else terms.issuperset(metric.terms)

    return [name for name, metric in _registry().items() if is_served(metric)]


def check(config, game: Game, taken: Iterable[str] = ()) -> None:
    """Checks the chosen metrics. Their names must have passed the check of the field `eval.metrics`.

    Args:
      taken: the columns of `rounds.csv` that the method adds.

    Raises:
      UserError: the game can't serve a metric, a metric's column is another one's, or a metric or its feature network
        refuses another field of the config.
    """
    names, value = possible(game), config.eval.metrics
    if not set(value) <= set(names):
        allowed = f"a tuple of some of {', '.join(names)} with config.objective.name={game.name!r}"
        refuse("eval.metrics", value, allowed)
    if config.eval.bootstrap and config.eval.samples < 4:
        refuse("eval.samples", config.eval.samples, "at least 4 with config.eval.bootstrap, which takes halves of them")
    owners = dict.fromkeys(ROUND_COLUMNS, "every run") | dict.fromkeys(taken, "the method")
    for metric in chosen(config, game):
        for column in columns_of(metric, config):
            if column in owners:
                refuse("eval.metrics", value, f"metrics of different columns; {column} is one of {owners[column]} too")
            owners[column] = metric.name
        metric.check(config)
        if metric.needs == SAMPLES and (name := metric.features_of(config)) != AUTO:
            if name not in FEATURE_NETWORKS:
                networks = ", ".join(FEATURE_NETWORKS)
                refuse("eval.metrics", value, f"metrics in the features of {networks}; {metric.name} reads {name!r}")
            FEATURE_NETWORKS[name].check(config)


def columns_of(metric: Metric, config) -> list[str]:
    """The columns of `rounds.csv` that a metric fills: its own, and with `config.eval.bootstrap` their intervals'."""
    columns = metric.columns_of(config)
    if config.eval.bootstrap and metric.needs == SAMPLES:
        columns += [end for column in columns for end in ends_of(column)]
    return columns
