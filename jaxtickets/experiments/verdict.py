"""Which ticket wins."""


def judge(rows: list[dict], metric: str, label: str, tolerance: float) -> dict:
    """The winning ticket: the sparsest round whose metric is at most (1 + tolerance) x the dense run's.

    Lower metrics are better. Round 0 is the dense run and can't win; `winning_round` is None if no round does.
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
            f"Winning ticket: round {best['round']} at {best['sparsity']:.2%} sparsity, "
            f"{metric} {best[metric]:.4g} against {against}."
        )
    elif pruned:
        closest = min(pruned, key=lambda row: row[metric])
        verdict["message"] = (
            f"No winning ticket: every pruned round is worse than {against}; "
            f"the best is round {closest['round']} with {metric} {closest[metric]:.4g}."
        )
    else:
        verdict["message"] = f"Dense run: {metric} {dense[metric]:.4g}; nothing was pruned."
    return verdict
