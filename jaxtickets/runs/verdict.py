"""The verdict on a run, or on several seed runs: which ticket wins."""

import numpy as np

TICKET = "ticket"


def judge(
    rows: list[dict], metric: str, label: str, tolerance: float, subject: str = TICKET, better: str = "lower"
) -> dict:
    """The winning ticket of one run: the sparsest round whose metric is within the tolerance of the dense run's.

    If lower metrics are better, that is at most (1 + tolerance) x the dense run's; if higher ones are, at least
    (1 - tolerance) x the dense run's. A round that prunes nothing can't win: round 0, the dense run, and a search that
    has found no ticket. `winning_round` is None if no round wins.

    Args:
      rows: the rows of `rounds.csv`.
      metric: the column that decides.
      label: the metric in words.
      subject: the message's word for a round.
      better: "lower" or "higher".
    """
    is_lower = better == "lower"
    dense, pruned = rows[0], [row for row in rows[1:] if row["sparsity"] > 0]
    threshold = dense[metric] * _factor(tolerance, better)
    winners = [row for row in pruned if (row[metric] <= threshold if is_lower else row[metric] >= threshold)]
    best = max(winners, key=lambda row: row["sparsity"], default=None)
    verdict = {
        "metric": metric,
        "metric_label": label,
        "better": better,
        "tolerance": tolerance,
        "dense": dense[metric],
        "threshold": threshold,
        "winning_round": best["round"] if best else None,
        "sparsity": best["sparsity"] if best else None,
        "value": best[metric] if best else None,
    }
    against = f"the dense run's {dense[metric]:.4g} (tolerance {tolerance:.0%})"
    if best:
        verdict["message"] = (
            f"Winning {subject}: round {best['round']} at {best['sparsity']:.2%} sparsity, "
            f"{metric} {best[metric]:.4g} against {against}."
        )
    elif pruned:
        closest = (min if is_lower else max)(pruned, key=lambda row: row[metric])
        verdict["message"] = (
            f"No winning {subject}: every pruned round is worse than {against}; "
            f"the best is round {closest['round']} with {metric} {closest[metric]:.4g}."
        )
    else:
        verdict["message"] = f"Dense run: {metric} {dense[metric]:.4g}; nothing was pruned."
    return verdict


def judge_seeds(
    rows: list[dict],
    metric: str,
    label: str,
    tolerance: float,
    confidence: float,
    subject: str = TICKET,
    better: str = "lower",
) -> dict:
    """The winning ticket over several seeds: the sparsest round that a test shows to be within the tolerance.

    A round wins if a one-sided Welch test (1947; unequal variances) rejects, at the level 1 - `confidence`, that its
    mean over the seeds is more than (1 + tolerance) x the dense runs' mean, or less than (1 - tolerance) x that mean if
    higher metrics are better. This is a test of non-inferiority: noise speaks against a ticket and not for it.
    Intervals are Student's for the mean.

    Args:
      rows: the rows of every seed's `rounds.csv`, each with its `seed`.
      metric, label, subject, better: see `judge`.
    """
    from scipy import stats  # Slow to import, and one seed needs none.

    factor, by_round = _factor(tolerance, better), {}
    for row in rows:
        by_round.setdefault(row["round"], []).append(row)
    dense = np.array([row[metric] for row in by_round[0]])
    rounds = []
    for round_, group in sorted(by_round.items()):
        values = np.array([row[metric] for row in group])
        mean, half = values.mean(), stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
        is_pruned = any(row["sparsity"] > 0 for row in group)  # As in `judge`, what prunes nothing can't win.
        p_value = _welch(values, factor * dense, better) if round_ and is_pruned else None
        rounds.append(
            {
                "round": round_,
                "sparsity": float(np.mean([row["sparsity"] for row in group])),
                "mean": float(mean),
                "low": float(mean - half),
                "high": float(mean + half),
                "p_value": p_value,
                "wins": None if p_value is None else p_value < 1 - confidence,
            }
        )
    tested = [row for row in rounds if row["p_value"] is not None]
    best = max((row for row in tested if row["wins"]), key=lambda row: row["sparsity"], default=None)
    verdict = {
        "metric": metric,
        "metric_label": label,
        "better": better,
        "tolerance": tolerance,
        "confidence": confidence,
        "seeds": sorted({row["seed"] for row in rows}),
        "dense": rounds[0]["mean"],
        "threshold": factor * rounds[0]["mean"],
        "rounds": rounds,
        "winning_round": best["round"] if best else None,
        "sparsity": best["sparsity"] if best else None,
        "value": best["mean"] if best else None,
    }
    level = f"one-sided Welch test, {len(dense)} seeds, level {1 - confidence:.2g}"
    against = f"the dense runs' {_interval(rounds[0])} (tolerance {tolerance:.0%}; {level})"
    if best:
        verdict["message"] = (
            f"Winning {subject}: round {best['round']} at {best['sparsity']:.2%} sparsity, {metric} {_interval(best)} "
            f"against {against}, p = {best['p_value']:.2g}."
        )
    elif tested:
        closest = min(tested, key=lambda row: row["p_value"])
        verdict["message"] = (
            f"No winning {subject}: no pruned round is shown to be as good as {against}; "
            f"the nearest is round {closest['round']} with {metric} {_interval(closest)}, p = {closest['p_value']:.2g}."
        )
    else:
        verdict["message"] = f"Dense runs: {metric} {_interval(rounds[0])}; nothing was pruned."
    return verdict


def _factor(tolerance, better):
    """The worst metric that can still win, over the dense run's."""
    return 1 + tolerance if better == "lower" else 1 - tolerance


def _welch(values, limits, better):
    """The p-value of "the mean of `values` is not better than that of `limits`"."""
    if np.ptp(values) == np.ptp(limits) == 0:  # Where nothing varies there is nothing to test.
        is_worse = values.mean() > limits.mean() if better == "lower" else values.mean() < limits.mean()
        return float(is_worse)
    from scipy import stats

    alternative = "less" if better == "lower" else "greater"
    return float(stats.ttest_ind(values, limits, equal_var=False, alternative=alternative).pvalue)


def _interval(row):
    return f"{row['mean']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"
