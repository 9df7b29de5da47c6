"""Which ticket wins."""

import numpy as np

TICKET = "ticket"


def judge(rows: list[dict], metric: str, label: str, tolerance: float, subject: str = TICKET) -> dict:
    """The winning ticket: the sparsest round whose metric is at most (1 + tolerance) x the dense run's.

    Lower metrics are better. Round 0 is the dense run and can't win; `winning_round` is None if no round does.
    `subject` is what the message calls a round.
    """
    dense, *pruned = rows
    threshold = dense[metric] * (1 + tolerance)
    winners = [row for row in pruned if row[metric] <= threshold]
    best = max(winners, key=lambda row: row["sparsity"], default=None)
    verdict = {
        "metric": metric,
        "metric_label": label,
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
        closest = min(pruned, key=lambda row: row[metric])
        verdict["message"] = (
            f"No winning {subject}: every pruned round is worse than {against}; "
            f"the best is round {closest['round']} with {metric} {closest[metric]:.4g}."
        )
    else:
        verdict["message"] = f"Dense run: {metric} {dense[metric]:.4g}; nothing was pruned."
    return verdict


def judge_seeds(
    rows: list[dict], metric: str, label: str, tolerance: float, confidence: float, subject: str = TICKET
) -> dict:
    """The winning ticket over several seeds: the sparsest round that a test says is within tolerance.

    A round wins if a one-sided Welch test (1947; unequal variances) rejects, at the level 1 - `confidence`, that its
    mean over the seeds is more than (1 + tolerance) x the dense runs' mean: a test of non-inferiority, so that noise
    speaks against a ticket and not for it. Intervals are Student's for the mean.

    Args:
      rows: those of every seed's `rounds.csv`, each with its `seed`.
    """
    from scipy import stats  # Slow to import, and one seed needs none.

    by_round = {}
    for row in rows:
        by_round.setdefault(row["round"], []).append(row)
    dense = np.array([row[metric] for row in by_round[0]])
    rounds = []
    for round_, group in sorted(by_round.items()):
        values = np.array([row[metric] for row in group])
        mean, half = values.mean(), stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
        p_value = _welch(values, (1 + tolerance) * dense) if round_ else None
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
    best = max((row for row in rounds if row["wins"]), key=lambda row: row["sparsity"], default=None)
    verdict = {
        "metric": metric,
        "metric_label": label,
        "tolerance": tolerance,
        "confidence": confidence,
        "seeds": sorted({row["seed"] for row in rows}),
        "dense": rounds[0]["mean"],
        "threshold": (1 + tolerance) * rounds[0]["mean"],
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
    elif rounds[1:]:
        closest = min(rounds[1:], key=lambda row: row["p_value"])
        verdict["message"] = (
            f"No winning {subject}: no pruned round is shown to be as good as {against}; "
            f"the nearest is round {closest['round']} with {metric} {_interval(closest)}, p = {closest['p_value']:.2g}."
        )
    else:
        verdict["message"] = f"Dense runs: {metric} {_interval(rounds[0])}; nothing was pruned."
    return verdict


def _welch(values, limits):
    """The p-value of "the mean of `values` is not below that of `limits`"."""
    if np.ptp(values) == np.ptp(limits) == 0:  # Where nothing varies there is nothing to test.
        return float(values.mean() > limits.mean())
    from scipy import stats

    return float(stats.ttest_ind(values, limits, equal_var=False, alternative="less").pvalue)


def _interval(row):
    return f"{row['mean']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"
