"""Intervals around metrics on samples, from repeated draws of the samples."""

import numpy as np

from jaxtickets.metrics.features import Features
from jaxtickets.metrics.metric import Metric, Sets

LEVEL = 0.95


def ends_of(column: str) -> tuple[str, str]:
    """The columns of the two ends of the interval around `column`."""
    return f"{column}_low", f"{column}_high"


def intervals(metric: Metric, sets: Sets, row: dict[str, float], config) -> dict[str, float]:
    """The ends of the 95 % interval around each number of a metric on samples, by column.

    Each of `config.eval.bootstrap` draws is one half of the samples, without replacement, and the interval is the
    measured number plus the 2.5 and 97.5 % quantiles of the draws' differences from their mean. A half sample varies
    around the sample as much as the sample around its population (the delete-half jackknife: Shao, Wu 1989, with n/2
    left out). Draws with replacement would hold samples twice, which metrics of nearest neighbours see as copies; and
    the mean of the draws takes out that some metrics, such as the Frechet distance, grow where samples are fewer.
    The interval says how much other samples of the same network would change the number, and nothing of other seeds.
    """
    array, rng = sets.generated.array, np.random.default_rng(0)
    draws = []
    for _ in range(config.eval.bootstrap):
        half = array[np.sort(rng.permutation(len(array))[: len(array) // 2])]
        drawn = Features(lambda half=half: [half], sets.generated.parts)
        draws.append(np.ravel(metric.measure(sets._replace(generated=drawn), config)))
    low, high = np.quantile(draws - np.mean(draws, axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        end: number + difference
        for (column, number), *differences in zip(row.items(), low.tolist(), high.tolist(), strict=True)
        for end, difference in zip(ends_of(column), differences, strict=True)
    }
