"""Plain-text tables for the terminal."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtickets.collapse import has_collapsed
from jaxtickets.report.means import has_diverged
from jaxtickets.report.reading import (
    REFERENCES,
    UNKNOWN,
    About,
    bootstrap,
    flops_share,
    has_nothing_to_beat,
    interval,
    is_finite,
    is_time,
    judged_rounds,
    main_metric,
    method_columns,
    metric_columns,
    p_value,
    percent,
    ratio,
    short,
    significant,
    winner,
    winning_round,
    wins,
)
from jaxtickets.tables import MAX_WIDTH, aligned, bracketed, table_width

References = Mapping[str, Mapping[str, Any]]
NO_REFERENCES: References = {}


def rounds_table(
    rows: Sequence[dict[str, Any]],
    verdict: dict[str, Any] | None,
    seed_rows: Sequence[dict[str, Any]] = (),
    about: About = UNKNOWN,
    references: References = NO_REFERENCES,
) -> str:
    """The rounds of one run as a table, one line per round, and below them what their metrics are to be compared with.

    Args:
      rows: the rows of `rounds.csv`; over several seeds, their means.
      verdict: the content of `verdict.json`, or None while the run is unfinished.
      seed_rows: the rows of each seed of a run over several seeds.
      about: the method's columns and the metrics.
      references: the content of `references.json`.

    Returns:
      Lines of at most 110 characters. Columns that do not fit are named below the table.
    """
    if not rows:
        return "No round has finished yet."
    columns = measured_columns(rows, verdict, seed_rows, about)
    names = {header: name for name, header in method_columns(rows, about).items()}
    sizes = {"params kept": [*map(kept_parameters, rows)], "FLOPs %": [*map(flops_percent, rows)]}
    judged = 1 + list(columns).index("p") if "p" in columns else 1  # Columns that are always shown.
    left_out: list[str] = []
    while (
        table_width(table := _rounds_table(rows, verdict, sizes | columns, references)) > MAX_WIDTH
        and len(columns) > judged
    ):
        header, _ = columns.popitem()
        left_out.insert(0, names.get(header, header))
    if table_width(table) > MAX_WIDTH:
        del sizes["params kept"]
        left_out.insert(0, "params_kept")
        table = _rounds_table(rows, verdict, sizes | columns, references)
    if left_out:
        table += f"\nAlso in rounds.csv: {', '.join(left_out)}."
    return table


def measured_columns(
    rows: Sequence[dict[str, Any]],
    verdict: dict[str, Any] | None,
    seed_rows: Sequence[dict[str, Any]] = (),
    about: About = UNKNOWN,
) -> dict[str, list[str]]:
    """The columns of the metrics and of the method by their headers, one cell per round, the verdict's metric first.

    A header is the metric's column of `rounds.csv`, with " [" and words on its interval behind it if it has one.

    Over several seeds the ratios to the dense runs with their intervals and the p-values follow; without a ratio, the
    means have intervals; while there is no verdict, the values of each seed follow. Then come the method's columns,
    except its times, and the other metrics.
    """
    own = {
        header: _method_cells(rows, seed_rows, name)
        for name, header in method_columns(rows, about).items()
        if not is_time(header)
    }
    main = main_metric(rows, verdict, about)
    if main is None:
        return own
    has_draws = {metric: not seed_rows and bootstrap(rows[0], metric) for metric in metric_columns(rows, about)}
    columns = {
        f"{metric} [95% of draws]" if drawn else metric: [
            _with_interval(significant(row.get(metric)), bootstrap(row, metric) if drawn else None) for row in rows
        ]
        for metric, drawn in has_draws.items()
    }
    main_header = next(header for header in columns if metric_of(header) == main)
    means = columns.pop(main_header)
    if judged := judged_rounds(verdict):
        level = f"{verdict['confidence']:.0%}"
        p_values = {"p": [p_text(p_value(judged.get(row["round"], {}))) for row in rows]}
        ratios = [ratio(row, verdict, main) for row in rows]
        if any(ratios):
            return {main: means, f"x dense [{level}]": [*map(ratio_of, ratios)], **p_values, **own, **columns}
        bounds = [interval(row, verdict, main) for row in rows]
        cells = [_with_interval(mean, ends) for mean, ends in zip(means, bounds, strict=True)]
        return {f"{main} [{level} interval]": cells, **p_values, **own, **columns}
    values = {(row["seed"], row["round"]): row[main] for row in seed_rows}
    of_seeds = {
        f"seed {seed}": [significant(values.get((seed, row["round"]))) for row in rows]
        for seed in sorted({row["seed"] for row in seed_rows})
    }
    return {main_header: means, **of_seeds, **own, **columns}


def metric_of(header: str) -> str:
    """The metric that a header of `measured_columns` names."""
    return header.partition(" [")[0]


def reference_rows(headers: Sequence[str], references: References) -> list[tuple[list[str], str]]:
    """The references of the metrics: for each kind a cell per header, and its name."""
    entries = [references.get(metric_of(header), {}) for header in headers]
    found = []
    for kind, name in REFERENCES.items():
        cells = [significant(entry[kind]) if is_finite(entry.get(kind)) else "" for entry in entries]
        if any(cells):
            found.append((cells, name))
    return found


LEFT = (0, 1, 3)  # The columns of the table of runs that hold words.


def summary_table(rows: Sequence[dict[str, Any]]) -> str:
    """The runs of a comparison as a table, one line per run, from the rows that `compare` returns."""
    return aligned(*summary_cells(rows), left=LEFT)


def summary_cells(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of the table of runs."""
    header = ["run", "status", "seeds", "metric", "dense", "ticket sparsity %", "ticket value", "best value", "total s"]
    lines = [
        [
            row["name"],
            row["status"],
            str(row["seeds"]),
            row["metric"] or "-",
            significant(row["dense"]),
            "not learned" if has_nothing_to_beat(row) else _percent(row["winning_sparsity"]),
            significant(row["winning_value"]),
            significant(row["best_value"]),
            f"{row['total_seconds']:.1f}",
        ]
        for row in rows
    ]
    return header, lines


def round_mark(row: dict[str, Any], verdict: dict[str, Any] | None) -> str:
    """The last cell of a round: what the verdict says of it, and what its training or its samples suffer from."""
    notes = [_judged(row, verdict), "samples collapsed" if has_collapsed(row) else ""]
    if is_finite(factor := row.get("learning_rate_factor")) and factor < 1:
        notes.append(f"learning rate x {factor:.3g}")
    return "; ".join(filter(None, notes))


def _judged(row, verdict):
    """Dense, the winner, diverged, or whether the round wins as well; "" without a verdict."""
    if has_diverged(row):
        seeds = row.get("diverged_seeds", ())
        where = f"in seed {', '.join(map(str, seeds))}" if seeds else f"at step {row['diverged_step']}"
        return f"diverged {where}"
    if row["round"] == winning_round(verdict):
        return winner(verdict)
    if row["round"] == 0:
        return "dense, not learned" if has_nothing_to_beat(verdict) else "dense"
    if not verdict:
        return ""
    if row["sparsity"] == 0:
        return "nothing pruned"
    if has_nothing_to_beat(verdict):
        return "not compared"
    if judged := judged_rounds(verdict):
        is_tested = p_value(judged.get(row["round"], {})) is not None
        return "wins" if wins(row, verdict) else "not shown to win" if is_tested else "not tested"
    return "within tolerance" if wins(row, verdict) else "worse"


def ratio_text(ratio: float | None, low: float | None, high: float | None) -> str:
    """A ratio and its interval; "-" where they are not known."""
    if ratio is None:
        return "-"
    return f"{_times(ratio)} {bracketed(low, high, _times)}".rstrip()


def ratio_of(entry: Mapping[str, Any] | None) -> str:
    """`ratio_text` of an entry with `ratio`, `ratio_low` and `ratio_high`."""
    return ratio_text(*(entry.get(name) for name in ("ratio", "ratio_low", "ratio_high"))) if entry else "-"


def kept_parameters(row: dict[str, Any]) -> str:
    """The number of parameters that are not pruned; a mean over seeds is rounded."""
    return f"{row['params_kept']:,.0f}" if is_finite(row.get("params_kept")) else "-"


def flops_percent(row: dict[str, Any]) -> str:
    """The FLOPs that are left, in percent of the dense network's."""
    share = flops_share(row)
    return "-" if share is None else f"{100 * share:.1f}"


def _rounds_table(
    rows: Sequence[dict[str, Any]],
    verdict: dict[str, Any] | None,
    columns: dict[str, list[str]],
    references: References,
) -> str:
    header = ["round", "sparsity %", *columns, "train s", ""]
    lines = [
        [
            str(row["round"]),
            percent(row["sparsity"]),
            *(cells[index] for cells in columns.values()),
            f"{row['train_seconds']:.1f}" if is_finite(row.get("train_seconds")) else "-",
            f"<== {mark}" if row["round"] == winning_round(verdict) else mark,
        ]
        for index, row in enumerate(rows)
        for mark in [round_mark(row, verdict)]
    ]
    lines += [["", "", *cells, "", name] for cells, name in reference_rows(list(columns), references)]
    return aligned(header, lines, left=(len(header) - 1,))


def _method_cells(rows: Sequence[dict[str, Any]], seed_rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    """One cell per round: the mean over the seeds that have a number, and how many have one if others do not."""
    cells = []
    for row in rows:
        values = [other[name] for other in seed_rows or rows if other["round"] == row["round"]]
        known = [value for value in values if is_finite(value)]
        share = f" ({len(known)} of {len(values)})" if 0 < len(known) < len(values) else ""
        cells.append(short(statistics.fmean(known)) + share if known else _same_text(values))
    return cells


def _same_text(values: Sequence[Any]) -> str:
    """The text that is the value in all seeds; "-" if there is none."""
    return values[0] if isinstance(values[0], str) and len(set(values)) == 1 else "-"


def _times(value: float) -> str:
    """A ratio with two decimals where it is near 1."""
    return f"{value:.2f}" if 0.1 <= value < 10 else f"{value:.1f}" if 10 <= value < 1e4 else f"{value:.3g}"


def _percent(fraction: Any) -> str:
    return percent(fraction) if is_finite(fraction) else "-"


def _with_interval(value: str, bounds: tuple[float, float] | None) -> str:
    return f"{value} {bracketed(*bounds, significant)}" if bounds else value


def p_text(value: Any) -> str:
    """A p-value with three decimals."""
    if not is_finite(value):
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
