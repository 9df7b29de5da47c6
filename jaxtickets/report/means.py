"""The rows of several seeds as those of one run."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def mean_rows(seed_rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per round: the mean of each column over the seeds that have finished the round.

    Seeds that have diverged in the round are left out, and are `diverged_seeds`.
    """
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in seed_rounds:
        groups.setdefault(row["round"], []).append(row)
    columns = [name for name in seed_rounds[0] if name not in ("seed", "round", "diverged_step")]
    rows = []
    for number, group in sorted(groups.items()):
        diverged = [row["seed"] for row in group if has_diverged(row)]
        counted = [row for row in group if not has_diverged(row)] or group
        means = {name: _mean([row[name] for row in counted]) for name in columns}
        rows.append({"round": number, **means, **({"diverged_seeds": diverged} if diverged else {})})
    return rows


def has_diverged(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a round that has diverged, in one seed or, for a mean, in any."""
    return row.get("diverged_step") is not None or bool(row.get("diverged_seeds"))


def _mean(values: Sequence[Any]) -> float | None:
    return statistics.fmean(values) if all(isinstance(value, int | float) for value in values) else None
