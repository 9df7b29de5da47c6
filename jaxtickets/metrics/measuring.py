"""The numbers of a metric on samples, with what stands beside them: intervals, and the spread of their draws."""

import numpy as np

from jaxtickets.metrics.bootstrap import LEVEL, ends_of, intervals
from jaxtickets.metrics.metric import SAMPLES, Metric, Sets


def spread_of(column: str) -> str:
    """The column of the standard deviation over the draws of `column`."""
    return f"{column}_std"


def measured(metric: Metric, sets: Sets, config, has_spread: bool) -> dict[str, float]:
    """The numbers of a metric on samples by column, with `config.eval.bootstrap` the intervals around them.

    Args:
      has_spread: whether a metric with `draws` has the standard deviation over these, too: the population's, as
        torch-fidelity's. Of a feature network of several parts, a draw's number is the mean over these.
    """
    if has_spread and metric.draws:
        draws = metric.draws(sets, config)
        own = metric.row((np.mean(draws),), config)
        spread = {spread_of(metric.main_of(config)): float(draws.reshape(len(draws), -1).mean(axis=1).std())}
    else:
        own, spread = metric.row(metric.measure(sets, config), config), {}
    return own | spread | (intervals(metric, sets, own, config) if config.eval.bootstrap else {})


def described(metrics: list[Metric], networks, config, held_out: int, has_spread: bool) -> dict[str, dict[str, str]]:
    """`{column: {"label": ..., "better": ...}}` of metrics, with "about" where a feature network has something to tell.

    Args:
      networks: the loaded feature networks by name.
      held_out: the number of held-out images.
      has_spread: see `measured`; standard deviations have no "better".
    """
    columns = {}
    for metric in metrics:
        about = getattr(networks.get(metric.features_of(config)), "about", "")
        told = {"better": metric.better, **({"about": about} if about else {})}
        for column, label in metric.labels_of(config, held_out).items():
            columns[column] = {"label": label, **told}
            if has_spread and metric.draws:
                columns[spread_of(column)] = {"label": f"standard deviation of {column} over its draws"}
            if config.eval.bootstrap and metric.needs == SAMPLES:
                for end, which in zip(ends_of(column), ("lower", "upper"), strict=True):
                    columns[end] = {"label": f"{label}: {which} end of {LEVEL:.0%} of the draws", **told}
    return columns
