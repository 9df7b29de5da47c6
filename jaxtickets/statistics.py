"""Tests over several seeds: ratios with their intervals, many rounds at once, and the power of a test.

The quantity is the ratio of a metric to the same metric of a reference run. Ratios are compared on the log scale, where
being twice as good and being twice as bad are equally far from 1. Everything here is a pure function of numbers. SciPy
is imported inside the functions, because a run of one seed needs none of them and SciPy is slow to import.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE, POWER = 0.95, 0.8
MOST_SEEDS = 1000
NEVER = 1.0  # The p-value where the numbers can show nothing.


class Comparison(NamedTuple):
    """A metric over some seeds against a reference over some seeds.

    Attributes:
      p_value: of the test that decides: Student's t test, or Welch's where the seeds are not the same.
      p_wilcoxon: of the signed-rank test of the same hypothesis (Wilcoxon 1945); None where the seeds are not the same.
      pairs: whether the seeds are the same, so that the test is of the differences within the seeds.
      ratio, low, high: the geometric mean of the ratios and its two-sided confidence interval. All three are None where
        a value is not positive, the interval also where there is a single seed.
      spread: the standard deviation of the log-ratios; None where there is no interval.
      effect: how far the mean lies on the wanted side of the limit, in standard deviations; negative on the other side.
        None where it is not known.
    """

    p_value: float
    p_wilcoxon: float | None
    pairs: bool
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    effect: float | None = None


def compare(
    values: Mapping[int, float],
    references: Mapping[int, float],
    limit: float = 1.0,
    alternative: str = "two-sided",
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compares the ratio of `values` to `references` with a limit.

    Where both sides have two seeds or more in common, the test is paired and over these seeds: a t test of the
    log-ratios within the seeds against log(`limit`). Otherwise it is Welch's test of the logs (1947; unequal variances)
    over all seeds. Logs need positive values: with others there is no ratio, and the test is of the differences
    value - (reference + (limit - 1) x |reference|). Values that are not finite, or too few, show nothing: p is 1.

    Args:
      values, references: the metric by seed.
      limit: the ratio that the test is against.
      alternative: what a small p-value speaks for: a ratio "less" or "greater" than the limit, or "two-sided".
      confidence: of the two-sided interval of the ratio.
    """
    shared = values.keys() & references.keys()
    pairs = len(shared) > 1 or values.keys() == references.keys()
    ours, theirs = (
        np.array([side[seed] for seed in sorted(shared if pairs else side)], float) for side in (values, references)
    )
    if not (len(ours) and len(theirs) and np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Comparison(NEVER, NEVER if pairs else None, pairs)
    if has_logs := bool((ours > 0).all() and (theirs > 0).all()):
        ours, theirs, shift = np.log(ours), np.log(theirs), math.log(limit) if limit > 0 else -math.inf
    else:
        theirs, shift = theirs + (limit - 1) * np.abs(theirs), 0.0
    if pairs:
        differences = ours - theirs
        mean, spread, freedom = differences.mean(), _deviation(differences), len(differences) - 1
        error = spread / math.sqrt(len(differences))
        p_wilcoxon = signed_rank_test(differences - shift, alternative)
    else:
        mean, spread, error, freedom = _welch(ours, theirs)
        p_wilcoxon = None
    p_value, effect = NEVER, None
    if freedom > 0:
        p_value = float(_t_test(mean - shift, error, freedom, alternative))
        effect = _effect(mean - shift, spread, alternative)
    if not has_logs:
        return Comparison(p_value, p_wilcoxon, pairs, effect=effect)
    low = high = None
    if freedom > 0:
        from scipy import stats

        half = stats.t.ppf((1 + confidence) / 2, freedom) * error
        low, high = float(np.exp(mean - half)), float(np.exp(mean + half))
    spread = float(spread) if freedom > 0 else None
    return Comparison(p_value, p_wilcoxon, pairs, float(np.exp(mean)), low, high, spread, effect)


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation of the logarithm of a metric; None of a single value and of values that have no logs."""
    values = np.asarray(values, float)
    has_logs = len(values) > 1 and (np.isfinite(values) & (values > 0)).all()
    return float(_deviation(np.log(values))) if has_logs else None


def t_test(differences: np.ndarray, alternative: str = "less") -> np.ndarray:
    """Student's one-sample t test: p-values for a mean "less" or "greater" than 0, or "two-sided".

    Where nothing varies the mean decides: the p-value is 0 or 1, and a mean of exactly 0 is on the wanted side.

    Args:
      differences: `[..., n]` with n > 1.
    """
    differences = np.asarray(differences, float)
    error = _deviation(differences) / math.sqrt(differences.shape[-1])
    return _t_test(differences.mean(axis=-1), error, differences.shape[-1] - 1, alternative)


def signed_rank_test(differences: np.ndarray, alternative: str = "less") -> float:
    """Wilcoxon's signed-rank test (1945), exact also with ties: the p-value of differences that lie around 0.

    With n differences it is at least 1 / 2**n: five seeds cannot have a p-value below 0.031. Zeros are left out.

    Args:
      differences: `[n]`.
      alternative: "less" or "greater" than 0, or "two-sided".
    """
    from scipy import stats

    differences = np.asarray(differences, float)
    differences = differences[differences != 0]
    doubled = np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)  # Ranks of ties are halves.
    chances = np.ones(1)  # Of each sum of the ranks of positive differences, if every sign is a fair coin.
    for rank in doubled:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    positive = doubled[differences > 0].sum()
    less, greater = chances[: positive + 1].sum(), chances[positive:].sum()
    return float(min(1.0, {"less": less, "greater": greater, "two-sided": 2 * min(less, greater)}[alternative]))


# Many rounds at once.


def halving_weights(n: int) -> np.ndarray:
    """`[n]` weights that sum to 1, each half of the one before."""
    weights = 0.5 ** np.arange(n)
    return weights / weights.sum()


def fallback(p_values: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """The adjusted p-values of the fallback procedure (Wiens 2003; Wiens and Dmitrienko 2005) for ordered hypotheses.

    Hypothesis k is tested at the level `weights[k]` x alpha, to which is added the level of the hypothesis before it if
    that one was rejected. So a rejection costs its successors nothing, and a hypothesis that is not rejected does not
    end the testing. It is rejected at alpha if its adjusted p-value is at most alpha. The probability of rejecting any
    true hypothesis is then at most alpha, whatever the dependence between the p-values. With weights (1, 0, 0, ...)
    this is fixed-sequence testing: the adjusted p-value is the largest so far.

    Args:
      p_values: `[..., n]`, in the order of testing.
      weights: `[n]`, sum to 1.

    Returns:
      `[..., n]`, at most 1.
    """
    p_values, weights = np.asarray(p_values, float), np.asarray(weights, float)
    adjusted = np.empty_like(p_values)
    for k in range(p_values.shape[-1]):
        # The level of k is alpha times the sum of the weights after the last hypothesis i that was not rejected. The
        # first sum is the one without such an i.
        gained = np.cumsum(weights[k::-1])[::-1]
        needed = np.where(gained > 0, p_values[..., k, None] / np.where(gained > 0, gained, 1), np.inf)
        not_before = np.concatenate([np.full_like(adjusted[..., :1], np.inf), adjusted[..., :k]], axis=-1)
        adjusted[..., k] = np.minimum(needed, not_before).max(axis=-1)
    return np.minimum(adjusted, 1.0)


def fallback_shares(rejected: Sequence[bool], weights: Sequence[float]) -> list[float]:
    """The share of alpha at which the fallback procedure tests each hypothesis, given which ones are rejected."""
    shares, carried = [], 0.0
    for is_rejected, weight in zip(rejected, weights, strict=True):
        shares.append(carried + float(weight))
        carried = shares[-1] if is_rejected else 0.0
    return shares


class Tested(NamedTuple):
    """One of several rounds that are tested together.

    Attributes:
      comparison: the round's metric against the dense runs'.
      p_adjusted: the p-value adjusted for the number of rounds (`fallback`).
      level: at which the round would be tested if all denser rounds won whose mean is within the tolerance.
    """

    comparison: Comparison
    p_adjusted: float
    level: float


def against_dense(
    dense: Mapping[int, float],
    rounds: Sequence[Mapping[int, float]],
    limit: float,
    better: str = "lower",
    confidence: float = CONFIDENCE,
) -> list[Tested]:
    """Tests of each round, from the densest to the sparsest, against `limit` x the dense runs.

    Half of the level goes to the densest round, and half as much to each one after it (`fallback`).

    Args:
      dense: the metric of the dense runs by seed.
      rounds: the metric of each round by seed.
      limit: the worst ratio that is still within the tolerance.
      better: "lower" or "higher".
    """
    alternative = "less" if better == "lower" else "greater"
    found = [compare(values, dense, limit, alternative, confidence) for values in rounds]
    weights = halving_weights(len(rounds))
    adjusted = fallback(np.array([one.p_value for one in found]), weights)
    shares = fallback_shares([(one.effect or 0) > 0 for one in found], weights)
    return [
        Tested(one, float(p_adjusted), share * (1 - confidence))
        for one, p_adjusted, share in zip(found, adjusted, shares, strict=True)
    ]


def by_round(rows: Sequence[Mapping], metric: str) -> dict[int, dict[int, float]]:
    """`{round: {seed: metric}}` of the rows of several seeds, without those that have no metric: they have diverged."""
    values: dict[int, dict[int, float]] = {row["round"]: {} for row in rows}
    for row in rows:
        if row[metric] is not None:
            values[row["round"]][row["seed"]] = row[metric]
    return dict(sorted(values.items()))


def tested_rounds(
    rows: Sequence[Mapping], metric: str, tolerance: float, better: str, confidence: float
) -> dict[int, Tested]:
    """`against_dense` of every round that has pruned something, and not diverged, in every seed, from the densest on.

    Args:
      rows: the rows of `rounds.csv`, with `seed`, `round`, `sparsity` and the metric.
      tolerance: how much worse than the dense run's a metric may be, as a fraction of it.
    """
    values, sparsities = by_round(rows, metric), by_round(rows, "sparsity")
    whole = [round_ for round_, group in sparsities.items() if round_ and group.keys() == values[round_].keys()]
    pruned = [round_ for round_ in whole if min(sparsities[round_].values()) > 0]
    pruned.sort(key=lambda round_: (np.mean(list(sparsities[round_].values())), round_))
    limit, of_rounds = ratio_limit(tolerance, better), [values[round_] for round_ in pruned]
    return dict(zip(pruned, against_dense(values[0], of_rounds, limit, better, confidence), strict=True))


def ratio_limit(tolerance: float, better: str) -> float:
    """The worst ratio to the dense run that is still within the tolerance."""
    return 1 + tolerance if better == "lower" else 1 - tolerance


# Power.


def power(effect: float, n: int, level: float) -> float:
    """The probability that a one-sided t test of n differences rejects: by the noncentral t distribution.

    Args:
      effect: the distance of the true mean from the limit, on the wanted side, in standard deviations.
      n: the number of differences, at least 2.
      level: of the test.
    """
    from scipy import stats

    if math.isinf(effect):
        return float(effect > 0)
    return float(stats.nct.sf(stats.t.isf(level, n - 1), n - 1, effect * math.sqrt(n)))


def seeds_needed(effect: float | None, level: float, wanted: float = POWER, most: int = MOST_SEEDS) -> int | None:
    """The smallest number of seeds, of at least 2, with which the power is at least `wanted`.

    None if `effect` is unknown or not positive, so that more seeds show nothing, or if more than `most` are needed.
    """
    if effect is None or not effect > 0 or power(effect, most, level) < wanted:
        return None
    low, high = 1, most  # Too few, enough.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, level) >= wanted else (middle, high)
    return high


def is_within(tested: Tested) -> bool:
    """Whether a round's mean lies on the wanted side of the limit."""
    return (tested.comparison.effect or 0) > 0


def seeds_for_each(tested: Sequence[Tested]) -> list[int | None]:
    """The number of seeds with which each round, from the densest on, would win with a power of `POWER`.

    Its level counts on the denser rounds within the tolerance to win, so it needs no fewer seeds than they do. None if
    more than `MOST_SEEDS` are needed, and for a round that is not within the tolerance.
    """
    needed, most = [], 0
    for one in tested:
        if is_within(one):
            most = max(most, seeds_needed(one.comparison.effect, one.level) or MOST_SEEDS + 1)
        needed.append(most if is_within(one) and most <= MOST_SEEDS else None)
    return needed


# Parts of the tests.


def _deviation(values):
    """Standard deviations over the last axis; exactly 0 where nothing varies, without the rounding of a mean."""
    if values.shape[-1] < 2:
        return np.zeros(values.shape[:-1])
    size = np.maximum(1, np.abs(values).max(axis=-1))  # Differences that are rounding do not vary.
    return np.where(np.ptp(values, axis=-1) <= 1e-12 * size, 0.0, values.std(axis=-1, ddof=1))


def _welch(ours, theirs):
    """The difference of two means, the deviation of one difference, the standard error and its degrees of freedom."""
    sides = [(_deviation(side) ** 2, len(side)) for side in (ours, theirs)]
    squares = [variance / n for variance, n in sides]
    error, spread = math.sqrt(sum(squares)), math.sqrt(sum(variance for variance, _ in sides))
    fewest = min(n for _, n in sides) - 1
    freedom = fewest
    if fewest > 0 and error > 0:
        freedom = sum(squares) ** 2 / sum(part**2 / (n - 1) for part, (_, n) in zip(squares, sides, strict=True))
    return ours.mean() - theirs.mean(), spread, error, freedom


def _t_test(distance, error, freedom, alternative):
    """The p-values of means at a distance from 0 with a standard error."""
    from scipy import stats

    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.asarray(distance / np.asarray(error, float))
    at_zero = {"less": -np.inf, "greater": np.inf, "two-sided": 0.0}[alternative]
    t = np.where(np.isnan(t) & (np.asarray(distance) == 0), at_zero, t)
    less, greater = stats.t.cdf(t, freedom), stats.t.sf(t, freedom)
    return {"less": less, "greater": greater, "two-sided": 2 * np.minimum(less, greater)}[alternative]


def _effect(distance, spread, alternative):
    """The distance on the wanted side in standard deviations; infinite where nothing varies."""
    wanted = float({"less": -distance, "greater": distance, "two-sided": abs(distance)}[alternative])
    if spread > 0:
        return wanted / float(spread)
    return math.inf if wanted > 0 or (wanted == 0 and alternative != "two-sided") else -math.inf
