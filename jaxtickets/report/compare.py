"""The comparison of runs in files: `summary.csv`, `comparison.png`, `comparison.html`, and tables to copy."""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxtickets import files
from jaxtickets import references as reference_lib
from jaxtickets.errors import UserError
from jaxtickets.origin import flat
from jaxtickets.progress import say
from jaxtickets.report.common import common_metric, describe_common, differing_fields, plain, run_names
from jaxtickets.report.comparison import comparison_page
from jaxtickets.report.drawing import png
from jaxtickets.report.exports import KINDS
from jaxtickets.report.levels import cell_of, level_cells, level_rows
from jaxtickets.report.published import published_sparsity
from jaxtickets.report.reading import REFERENCES, Results, is_finite, judged_rounds, main_metric, read
from jaxtickets.report.series import comparison_figure
from jaxtickets.report.table import LEFT, summary_cells

FIELD_PREFIX = "config."


def compare(
    workdirs: Sequence[str | os.PathLike],
    out_dir: str | os.PathLike,
    failed: Collection[str] = (),
    tables: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Writes `summary.csv`, `comparison.png` and `comparison.html` over several runs into `out_dir`.

    Args:
      workdirs: of runs that may still be going on.
      out_dir: created if it does not exist.
      failed: names of the workdirs whose run is known to have failed; these need not be readable.

      tables: "markdown", "latex" or both: write the tables of runs and of sparsities as such, too.

    Returns:
      The rows of `summary.csv`, one per run: its name, the config fields that differ between the runs (`config.seed`),
      its status, the dense, winning and best values of its metric, the metric's references, whether its dense
      run has learned, and over several seeds the winner's ratio to the dense runs with its interval and its p-value.

    Raises:
      UserError: one of `workdirs` that is not in `failed` is not a workdir, or one is given twice.
    """
    paths = [Path(workdir) for workdir in workdirs]
    names = run_names(paths)
    runs = {}
    for name, path in zip(names, paths, strict=True):
        try:
            runs[name] = read(path)
        except UserError:
            if path.name not in failed:
                raise
    _tell_other_data(runs)
    fields = differing_fields([run.config for run in runs.values()])
    rows = [
        _row(name, runs.get(name), fields, runs.values(), is_failed=path.name in failed)
        for name, path in zip(names, paths, strict=True)
    ]
    out_dir, by_level = Path(out_dir), level_rows(runs, common_metric(list(runs.values())))
    files.write_csv(out_dir / "summary.csv", rows)
    files.replace(out_dir / "comparison.png", png(comparison_figure(runs, fields)))
    page = comparison_page(runs, fields, rows, by_level)
    files.replace(out_dir / "comparison.html", page.encode(errors="backslashreplace"))
    for kind in tables:
        ending, _, write = KINDS[kind]
        text = write(*summary_cells(rows), LEFT)
        files.replace(out_dir / f"summary.{ending}", text.encode(errors="backslashreplace"))
        if by_level:
            text = write(*level_cells(by_level, cell_of))
            files.replace(out_dir / f"levels.{ending}", text.encode(errors="backslashreplace"))
    return rows


def _tell_other_data(runs):
    """Says which runs had other images than the first one under the same name of the data set."""
    first = {}
    for name, run in runs.items():
        data = run.config.get("data", {}).get("name")
        digests = (run.verdict or {}).get("data")
        if digests and digests != first.setdefault(data, (name, digests))[1]:
            say(f"{name}: data.name={data!r} held other images than in {first[data][0]}; do not compare them")


def _row(
    name: str, run: Results | None, fields: Sequence[str], runs: Iterable[Results], is_failed: bool
) -> dict[str, Any]:
    config = flat(run.config) if run else {}
    rounds = run.rounds if run else []
    verdict = (run.verdict if run else None) or {}
    metric = main_metric(rounds, verdict, run.about) if run else None
    values = [row[metric] for row in rounds if is_finite(row.get(metric))]
    seconds = [row.get("train_seconds") for row in ((run.seed_rounds or rounds) if run else [])]
    best = max if describe_common(metric, runs).better == "higher" else min
    dense = verdict.get("dense", next((row[metric] for row in rounds if metric and row["round"] == 0), None))
    entry = judged_rounds(verdict).get(verdict.get("winning_round"), {})
    reference = run.references.get(metric, {}) if run else {}
    return {
        "name": name,
        **{FIELD_PREFIX + field: plain(config.get(field)) for field in fields},
        "status": "failed" if is_failed else _status(run),
        "seeds": len({row["seed"] for row in run.seed_rounds} if run else ()) or 1,
        "metric": metric,
        "dense": dense,
        **{kind: reference_lib.known(reference, kind) for kind in REFERENCES},
        "learned": verdict.get("learned"),
        "winning_round": verdict.get("winning_round"),
        "winning_sparsity": verdict.get("sparsity"),
        "winning_value": verdict.get("value"),
        **{name: entry.get(name) for name in ("ratio", "ratio_low", "ratio_high", "p_adjusted")},
        "best_value": best(values, default=None),
        **({"paper_sparsity": paper} if run and (paper := published_sparsity(run)) is not None else {}),
        "total_seconds": round(sum(filter(is_finite, seconds)), 1),
    }


def _status(run: Results) -> str:
    if run.verdict:
        return "finished"
    return f"{len(run.seed_rounds or run.rounds)} rounds so far"
