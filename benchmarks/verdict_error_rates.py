"""Compares ways to test many rounds over a few seeds, by simulation: how often they err, and how far down they see.

    python benchmarks/verdict_error_rates.py

A metric's logarithm is normal over the seeds. The dense run and the tickets of a seed are correlated by 0.8, and
`spread` is the standard deviation of the log-ratio of a ticket to its dense run. A round is within the tolerance of 10%
if its true ratio is below 1.1. An error is a run in which any round at 1.1 or above is said to win: at most 5% of the
runs are allowed. The depth is the sparsest round that is rightly said to win over the sparsest one that is within the
tolerance (0 if none wins). It takes a quarter of a minute on one CPU core.
"""

import argparse
import math

import numpy as np

from jaxtickets import statistics

LIMIT, ALPHA, CORRELATION = 1.1, 0.05, 0.8
SPREADS = (0.05, 0.1, 0.15)
SPREAD = 0.1  # Of the errors.
# True ratios to the dense run from the densest round to the sparsest.
AT_THE_LIMIT = {"1 round": (LIMIT,), "8 rounds": (LIMIT,) * 8, "2 good, 6 not": (0.85, 0.85, *(LIMIT,) * 6)}
RISING = (
    (0.90, 0.77, 0.80, 0.78, 0.86, 0.90, 0.93, 1.16, 1.25, 1.68),
    (0.98, 0.90, 0.85, 0.85, 0.92, 1.00, 1.15, 1.40),
    (0.99, 0.95, 0.90, 0.87, 0.85, 0.85, 0.88, 0.93, 1.00, 1.08, 1.25, 1.60),
    (1.00, 1.00, 1.00, 1.00, 1.00, 1.00, 1.02, 1.05, 1.15, 1.40),
    (0.95, 0.90, 0.97, 1.10, 1.30),
    (1.00, 1.00, 1.10, 1.50, 2.00),
)


def logs(random, ratios, spread: float, shape: tuple[int, int], tails: bool = False) -> np.ndarray:
    """Log metrics `[runs, 1 + rounds, seeds]`, the dense run's first, in the `shape` (runs, seeds).

    With `tails` they are not normal but of Student's t distribution with 3 degrees of freedom, of the same variance.
    """
    runs, seeds = shape
    draw = (lambda shape: random.standard_t(3, shape) / math.sqrt(3)) if tails else random.standard_normal
    deviation = spread / math.sqrt(2 * (1 - CORRELATION))
    shared, own = draw((runs, 1, seeds)), draw((runs, 1 + len(ratios), seeds))
    noise = deviation * (math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * own)
    return noise + np.log([1.0, *ratios])[:, None]


def paired(values: np.ndarray) -> np.ndarray:
    """The p-values `[runs, rounds]` of the paired tests of the log-ratios."""
    return statistics.t_test(values[:, 1:] - values[:, :1] - math.log(LIMIT))


def welch_of_means(values: np.ndarray) -> np.ndarray:
    """Which rounds a one-sided Welch test of the metric's means says to win, without adjustment."""
    from scipy import stats

    metric = np.exp(values)
    limits = np.broadcast_to(LIMIT * metric[:, :1], metric[:, 1:].shape)
    return stats.ttest_ind(metric[:, 1:], limits, axis=-1, equal_var=False, alternative="less").pvalue < ALPHA


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment (1979)."""
    n = p_values.shape[-1]
    order = np.argsort(p_values, axis=-1)
    ranked = np.take_along_axis(p_values, order, -1) * np.arange(n, 0, -1)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(ranked, axis=-1), -1)
    return adjusted


def hommel(p_values: np.ndarray) -> np.ndarray:
    """Hommel's adjustment (1988): the closed test whose intersections are tested by Simes.

    The intersections of k and the m - 1 largest other p-values decide about k.
    """
    n = p_values.shape[-1]
    adjusted = p_values.copy()
    for k in range(n):
        others = np.sort(np.delete(p_values, k, axis=-1), axis=-1)
        for m in range(2, n + 1):
            chosen = np.sort(np.concatenate([p_values[:, k : k + 1], others[:, n - m :]], axis=-1), axis=-1)
            simes = (m * chosen / np.arange(1, m + 1)).min(axis=-1)
            adjusted[:, k] = np.maximum(adjusted[:, k], simes)
    return adjusted


def fallback(weights):
    """The fallback procedure with `weights(number of rounds)`."""
    return lambda p_values: statistics.fallback(p_values, weights(p_values.shape[-1]))


ADJUSTMENTS = {
    "paired, not adjusted": lambda p_values: p_values,
    "paired, fixed sequence": fallback(lambda n: np.eye(n)[0]),
    "paired, Holm": holm,
    "paired, Hommel": hommel,
    "paired, fallback, equal weights": fallback(lambda n: np.full(n, 1 / n)),
    "paired, fallback, halving weights": fallback(statistics.halving_weights),
}
PROCEDURES = {"Welch of the means, not adjusted": welch_of_means} | {
    name: lambda values, adjust=adjust: adjust(paired(values)) < ALPHA for name, adjust in ADJUSTMENTS.items()
}


def error_rate(wins: np.ndarray, ratios) -> float:
    """The share of runs in which a round that is worse than the limit wins."""
    return wins[:, np.array(ratios) >= LIMIT].any(axis=1).mean()


def depth(wins: np.ndarray, ratios) -> float:
    """The mean of the sparsest round that rightly wins over the sparsest one that could."""
    good = np.flatnonzero(np.array(ratios) < LIMIT) + 1
    return (wins[:, good - 1] * good).max(axis=1).mean() / good.max()


def table(shape: tuple[int, int], seed: int) -> list[list[str]]:
    """The header and one row per procedure."""

    def simulated(ratios, spread, measure, **options):
        values = logs(np.random.default_rng(seed), ratios, spread, shape, **options)
        return [measure(wins(values), ratios) for wins in PROCEDURES.values()]

    columns = {f"error, {name}": simulated(ratios, SPREAD, error_rate) for name, ratios in AT_THE_LIMIT.items()}
    columns["error, 8 rounds, heavy tails"] = simulated(AT_THE_LIMIT["8 rounds"], SPREAD, error_rate, tails=True)
    columns["power, 1 round at 1.0, spread 0.15"] = simulated((1.0,), 0.15, depth)
    for spread in SPREADS:
        depths = [simulated(ratios, spread, depth) for ratios in RISING]
        columns[f"depth, spread {spread}"] = np.mean(depths, axis=0)
    formats = ["{:.2f}" if name.startswith("depth") else "{:.1%}" for name in columns]
    rows = [
        [name, *(text.format(values[index]) for text, values in zip(formats, columns.values(), strict=True))]
        for index, name in enumerate(PROCEDURES)
    ]
    return [["procedure", *columns], *rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the simulation")
    options = parser.parse_args()
    header, *rows = table((options.runs, options.seeds), options.seed)
    print(f"{options.seeds} seeds, {options.runs:,} simulated runs each, level {ALPHA}.\n")
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
