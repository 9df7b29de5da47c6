"""Plain-text tables for the terminal."""

from collections.abc import Sequence
from typing import Any

from jaxtickets.report.reading import (
    is_finite,
    main_metric,
    metric_columns,
    percent,
    significant,
    winning_round,
    within_tolerance,
)

MAX_WIDTH = 110
GAP = "  "


def rounds_table(rows: Sequence[dict[str, Any]], verdict: dict[str, Any] | None) -> str:
    """The rounds of one run, a line each.

    Args:
      rows: the rows of `rounds.csv`.
      verdict: the content of `verdict.json`, or None while the run is unfinished.

    Returns:
      At most 110 characters a line. Metrics that do not fit are named below the table.
    """
    if not rows:
        return "No round has finished yet."
    main = main_metric(rows, verdict)
    metrics = sorted(metric_columns(rows), key=lambda name: name != main)
    shown = len(metrics)
    while (table := _rounds_table(rows, verdict, metrics[:shown])) and _width(table) > MAX_WIDTH and shown > 1:
        shown -= 1
    if shown < len(metrics):
        table += f"\nAlso in rounds.csv: {', '.join(metrics[shown:])}."
    return table


def summary_table(rows: Sequence[dict[str, Any]]) -> str:
    """The runs of a comparison, a line each, from the rows that `compare` returns."""
    header = ["run", "status", "metric", "dense", "winning sparsity %", "winning value", "best value", "total s"]
    lines = [
        [
            row["name"],
            row["status"],
            row["metric"] or "-",
            significant(row["dense"]),
            percent(row["winning_sparsity"]) if is_finite(row["winning_sparsity"]) else "-",
            significant(row["winning_value"]),
            significant(row["best_value"]),
            f"{row['total_seconds']:.1f}",
        ]
        for row in rows
    ]
    return aligned(header, lines, left=(0, 1, 2))


def round_mark(row: dict[str, Any], verdict: dict[str, Any] | None) -> str:
    """What this round is: the dense run, the winning ticket, within tolerance, or worse."""
    if row["round"] == winning_round(verdict):
        return "winning ticket"
    if row["round"] == 0:
        return "dense"
    if not verdict:
        return ""
    return "within tolerance" if within_tolerance(row, verdict) else "worse"


def flops_percent(row: dict[str, Any]) -> str:
    """The multiplications that are left, in percent of the dense network's."""
    if not is_finite(row.get("flops_effective")) or not row.get("flops_dense"):
        return "-"
    return f"{100 * row['flops_effective'] / row['flops_dense']:.1f}"


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """A table with a rule under its header; cells are right-aligned but for the columns in `left`."""
    widths = [max(len(line[column]) for line in (header, *lines)) for column in range(len(header))]

    def joined(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return GAP.join(padded).rstrip()

    rule = "-" * (sum(widths) + len(GAP) * (len(widths) - 1))
    return "\n".join([joined(header), rule, *map(joined, lines)])


def _rounds_table(rows: Sequence[dict[str, Any]], verdict: dict[str, Any] | None, metrics: Sequence[str]) -> str:
    header = ["round", "sparsity %", "params kept", "FLOPs %", *metrics, "train s", ""]
    lines = [
        [
            str(row["round"]),
            percent(row["sparsity"]),
            f"{row['params_kept']:,}" if is_finite(row.get("params_kept")) else "-",
            flops_percent(row),
            *(significant(row.get(metric)) for metric in metrics),
            f"{row['train_seconds']:.1f}" if is_finite(row.get("train_seconds")) else "-",
            _arrow(round_mark(row, verdict)),
        ]
        for row in rows
    ]
    return aligned(header, lines, left=(len(header) - 1,))


def _arrow(mark: str) -> str:
    return f"<== {mark}" if mark == "winning ticket" else mark


def _width(table: str) -> int:
    return max(map(len, table.splitlines()))
