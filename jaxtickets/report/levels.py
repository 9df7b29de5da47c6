"""The comparison of runs at the sparsities that they share: `levels.csv` and its table."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtickets import statistics
from jaxtickets.files import write_csv
from jaxtickets.report.common import common_metric, describe_common, reference_words, run_names
from jaxtickets.report.reading import (
    Results,
    flops_share,
    interval,
    is_finite,
    ratio,
    read,
    significant,
    winning_round,
    wins,
)
from jaxtickets.report.table import ratio_of
from jaxtickets.tables import aligned, table_width

MAX_WIDTH = 130
LEVEL_NOTES: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], bool]] = {  # With the rows for which each is true.
    "* within the tolerance of the run's own dense value; over several seeds, shown to be so by the test.": (
        lambda rows: any(row["wins"] for row in rows)
    ),
    "± half the confidence interval of the mean over the seeds.": (
        lambda rows: any(row["low"] is not None for row in rows)
    ),
    "No two runs have a pruned round of the same sparsity.": lambda rows: all(row["sparsity"] == 0 for row in rows),
}


def levels(workdirs: Sequence[str | os.PathLike], out_dir: str | os.PathLike) -> str:
    """Writes `levels.csv` into `out_dir`: the common metric of the runs at each sparsity that two or more of them have.

    Sparsities are the same if they agree to 0.1 %; of two such rounds of one run, the later one counts.

    Returns:
      A table with one row per run and one column per sparsity, and notes on how to read it and which runs it lacks. If
      there are runs over several seeds, a second table has the ratios to their own dense runs.

    Raises:
      UserError: one of `workdirs` is not a workdir, or is given twice.
    """
    paths = [Path(workdir) for workdir in workdirs]
    runs = {name: read(path) for name, path in zip(run_names(paths), paths, strict=True)}
    metric = common_metric(list(runs.values()))
    rows = level_rows(runs, metric)
    file = Path(out_dir) / "levels.csv"
    write_csv(file, rows)
    if not rows:
        return "There is no table by sparsity, because no two of the runs have a metric in common."
    left_out = [name for name in runs if name not in {row["run"] for row in rows}]
    title = f"{metric} by weights pruned [%], {describe_common(metric, runs.values()).direction} ({file}):"
    reference = reference_words(metric, [runs[row["run"]] for row in rows])
    text = "\n".join([title, "", _table(rows, cell_of), *_notes(rows, left_out, reference), *_lone_winners(runs, rows)])
    if compared := [row for row in rows if row["ratio"] is not None]:
        title = "Times the dense run of the same seed, geometric mean over the seeds [confidence interval]:"
        text += "\n".join(["\n", title, "", _table(compared, ratio_cell_of)])
    return text


def _lone_winners(runs, rows):
    """The line that names the winners which the table lacks, because no other run has their sparsity."""
    shown, compared = ({(row["run"], row["sparsity"]) for row in rows}, {row["run"] for row in rows})
    winners = {
        name: round(row["sparsity"], 3)
        for name, run in runs.items()
        for row in run.rounds
        if row["round"] == winning_round(run.verdict)
    }
    if alone := [
        f"{name} {level:.1%}" for name, level in winners.items() if (name, level) not in shown and name in compared
    ]:
        yield f"Winners at a sparsity that no other run has are not in the table: {', '.join(alone)}."


def level_rows(runs: Mapping[str, Results], metric: str | None) -> list[dict[str, Any]]:
    """The rows of `levels.csv`: for each run with the metric, its dense round and its rounds of a shared sparsity.

    `sparsity` is the shared one. `flops` is `flops_effective / flops_dense`. `flops`, `params_kept` and the
    `train_seconds` of the round are means over the seeds. `low` and `high`, and the `ratio` to the dense runs with its
    interval and adjusted p-value, are given for several seeds only, `wins` only if the verdict is about the metric.
    """
    by_run = {
        name: {round(row["sparsity"], 3): row for row in run.rounds if is_finite(row.get(metric))}
        for name, run in runs.items()
    }
    shared = Counter(level for rows in by_run.values() for level in rows)
    found = []
    for name, rows in by_run.items():
        run = runs[name]
        is_judged = (run.verdict or {}).get("metric") == metric
        for level, row in sorted(rows.items()):
            if row["round"] > 0 and shared[level] < 2:
                continue
            low, high = interval(row, run.verdict, metric) or (None, None)
            judged = ratio(row, run.verdict, str(metric)) or {}
            found.append(
                {
                    "run": name,
                    "sparsity": level,
                    "metric": metric,
                    "mean": row[metric],
                    "low": low,
                    "high": high,
                    **{name: judged.get(name) for name in ("ratio", "ratio_low", "ratio_high", "p_adjusted")},
                    "seeds": sum(other["round"] == row["round"] for other in run.seed_rounds) or 1,
                    "wins": wins(row, run.verdict) if is_judged and row["round"] > 0 else None,
                    "flops": flops_share(row),
                    "params_kept": row.get("params_kept"),
                    "train_seconds": row.get("train_seconds"),
                }
            )
    return found


def against_control(run: Results, control: Results, metric: str) -> dict[int, statistics.Comparison]:
    """A run's rounds against those of a control at the same sparsity, over the same seeds: two-sided, by round."""
    at_level = {round(row["sparsity"], 3): row["round"] for row in control.rounds if row["round"]}
    ours, theirs = (statistics.by_round(one.seed_rounds, metric) for one in (run, control))
    shared = {row["round"]: at_level.get(round(row["sparsity"], 3)) for row in run.rounds if row["round"]}
    return {
        round_: statistics.compare(ours[round_], theirs[other]) for round_, other in shared.items() if other is not None
    }


def level_cells(
    rows: Sequence[dict[str, Any]], cell: Callable[[Mapping[str, Any]], str], most: int | None = None
) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of a table with one row per run and one column per sparsity.

    Args:
      most: the largest number of pruned sparsities; None: all. Where there are more, they are chosen evenly, from the
        least sparse to the sparsest.
    """
    cells = {(row["run"], row["sparsity"]): cell(row) for row in rows}
    dense = ["dense "] if any(row["sparsity"] == 0 for row in rows) else []
    names = list(dict.fromkeys(row["run"] for row in rows))
    pruned = sorted({row["sparsity"] for row in rows if row["sparsity"] > 0})
    if most is not None:
        pruned = [pruned[index] for index in np.linspace(0, len(pruned) - 1, most).round().astype(int)]
    header = ["run", *dense, *(f"{100 * level:.1f} " for level in pruned)]
    shown = [*[0] * len(dense), *pruned]
    return header, [[name, *(cells.get((name, x), "- ") for x in shown)] for name in names]


def _table(rows: Sequence[dict[str, Any]], cell: Callable[[Mapping[str, Any]], str]) -> str:
    levels = len({row["sparsity"] for row in rows if row["sparsity"] > 0})
    for count in range(levels, -1, -1):
        table = aligned(*level_cells(rows, cell, count), left=(0,))
        if table_width(table) <= MAX_WIDTH:
            break
    if count < levels:
        table += f"\n{levels - count} more sparsities that runs share did not fit; they are in levels.csv."
    return table


def cell_of(row: Mapping[str, Any]) -> str:
    """The value, half its confidence interval, and a star for a win; else a blank, which keeps the digits aligned."""
    text = significant(row["mean"])
    if row["low"] is not None:
        decimals = len(text.partition(".")[2])
        text += f" ± {(row['high'] - row['low']) / 2:.{decimals}f}"
    return text + ("*" if row["wins"] else " ")


def ratio_cell_of(row: Mapping[str, Any]) -> str:
    return ratio_of(row) + ("*" if row["wins"] else " ")


def _notes(rows: Sequence[dict[str, Any]], left_out: Sequence[str], reference: str) -> list[str]:
    notes = [f"References: {reference}."] if reference else []
    notes += [note for note, holds in LEVEL_NOTES.items() if holds(rows)]
    if left_out:
        notes.append(
            f"Not in this table, for want of a finished round with {rows[0]['metric']}: {', '.join(left_out)}."
        )
    return notes
