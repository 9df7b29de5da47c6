"""The comparison of runs as a single HTML file that needs no other file."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from jaxtickets.report.common import common_metric, describe_common, reference_words
from jaxtickets.report.elements import Row, csv_link, paragraph, plot, plots, save_link, section, table
from jaxtickets.report.exports import KINDS
from jaxtickets.report.levels import LEVEL_NOTES, cell_of, level_cells, ratio_cell_of
from jaxtickets.report.page import document
from jaxtickets.report.published import published
from jaxtickets.report.reading import Results, is_finite, percent, significant
from jaxtickets.report.series import AXES, MAX_BANDS, Point, colours, cost_figures, curves
from jaxtickets.report.svg import svg, variable
from jaxtickets.report.table import LEFT, summary_cells

MAX_DESCRIBED = 6
WORDS = {"md": "Markdown", "tex": "LaTeX"}


def comparison_page(
    runs: Mapping[str, Results],
    fields: Sequence[str],
    summary: Sequence[dict[str, Any]],
    levels: Sequence[dict[str, Any]],
) -> str:
    """The comparison's HTML.

    Args:
      runs: those that can be read, by name.
      fields: the names of the config fields in which they differ.
      summary: the rows of `summary.csv`.
      levels: the rows of `levels.csv`.
    """
    metric = common_metric(list(runs.values()))
    first = [paragraph(f"They differ in {', '.join(fields)}.")] if fields else []
    parts = [
        section("Quality against cost", "quality", _quality(runs, fields, metric)),
        section("Runs", "runs", _summary(summary)),
        section("By sparsity", "levels", _levels(levels)),
        section("The paper's figures", "paper", _paper(runs)),
    ]
    return document(f"Comparison of {len(summary)} runs", first, parts)


def _quality(runs: Mapping[str, Results], fields: Sequence[str], metric: str | None) -> Iterator[str]:
    if metric is None:
        yield paragraph("No two of the runs have a metric in common yet.")
        return
    told, found = describe_common(metric, runs.values()), curves(runs, fields, metric)
    yield paragraph(f"{metric}: {told.label}. {told.direction.capitalize()}.")
    if scores := reference_words(metric, runs.values()):
        yield paragraph(f"For comparison: {scores}.")
    yield '<ul class="legend">'
    for label, colour in colours(list(found)).items():
        swatch = f'<span style="background: {variable(colour)}"></span>'
        yield f"<li>{swatch}{escape(label)}{_seeds(found[label])}</li>"
    yield "</ul>"
    figures = []
    for axis, figure in cost_figures(runs, fields).items():
        seen = _description(found, axis, metric)
        link = csv_link(f"{metric}_by_{axis}.csv", _rows(found, axis, metric))
        figures.append(plot(svg(figure), f"quality_{axis}", seen, f"{metric} against: {AXES[axis]}.", link))
    yield from plots(figures)
    has_bands = len(found) <= MAX_BANDS and any(map(_seeds, found.values()))
    bands = " Bands reach from the lowest to the highest seed." if has_bands else ""
    yield paragraph(
        f"Lines: means over the seeds.{bands} Squares: dense runs. Diamonds: the rounds that a verdict names. The"
        " training that a ticket takes is that of all rounds before it too for imp, of the dense run too for one_shot,"
        " and of its own round alone for other methods. Its seconds are those of each run's own machine, with logging"
        " and saving, without compilation and metrics; pruned weights take time too, unless channels were taken out."
    )


def _seeds(points: Sequence[Point]) -> str:
    most = max(point.seeds for point in points)
    return f", {most} seeds" if most > 1 else ""


def _rows(found: Mapping[str, list[Point]], axis: str, metric: str) -> list[dict[str, Any]]:
    return [
        {"run": label, "round": point.round_, axis: point.places[axis], metric: point.mean}
        | {"lowest": point.low, "highest": point.high, "seeds": point.seeds}
        for label, points in found.items()
        for point in points
    ]


def _description(found: Mapping[str, list[Point]], axis: str, metric: str) -> str:
    told = []
    for label, points in list(found.items())[:MAX_DESCRIBED]:
        known = [point for point in points if is_finite(point.places[axis])]
        if known:
            told.append(f"{label} from {significant(known[0].mean)} to {significant(known[-1].mean)}")
    more = f", and {len(found) - MAX_DESCRIBED} more" if len(found) > MAX_DESCRIBED else ""
    return f"{metric} against {AXES[axis]}, dense to sparse: {'; '.join(told)}{more}."


def _summary(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    header, lines = summary_cells(rows)
    links = _links("summary", rows, header, lines, LEFT)
    yield table(header, [Row(line) for line in lines], "One row per run.", links, text=LEFT)


def _levels(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    header, lines = level_cells(rows, cell_of)
    links = _links("levels", rows, header, lines, (0,))
    caption = f"{rows[0]['metric']} by weights pruned [%], at the sparsities that two runs share."
    yield table(header, [Row(line) for line in lines], caption, links, text=(0,))
    if compared := [row for row in rows if row["ratio"] is not None]:
        header, lines = level_cells(compared, ratio_cell_of)
        caption = "Times the dense run of the same seed: geometric mean over the seeds, with its confidence interval."
        yield table(header, [Row(line) for line in lines], caption, text=(0,))
    for note, holds in LEVEL_NOTES.items():
        if holds(rows):
            yield paragraph(note)


def _links(
    name: str, rows: Sequence[dict[str, Any]], header: list[str], lines: list[list[str]], left: Sequence[int]
) -> str:
    """Links that save a table as CSV, with all columns, and as Markdown and LaTeX, as it is shown."""
    found = [csv_link(f"{name}.csv", rows)]
    for ending, kind, write in KINDS.values():
        content = write(header, lines, left).encode(errors="backslashreplace")
        found.append(save_link(f"{name}.{ending}", content, kind, WORDS[ending]))
    return " ".join(found)


def _paper(runs: Mapping[str, Results]) -> Iterator[str]:
    found = {name: words for name, run in runs.items() if (words := published(run))}
    if not found:
        return
    rows = []
    for name, words in found.items():
        sparsity = (runs[name].verdict or {}).get("sparsity")
        rows.append(Row([name, f"{percent(sparsity)} %" if is_finite(sparsity) else "-", words]))
    header = ["run", "sparsity of its ticket", "the paper, in this setting"]
    link = csv_link("paper.csv", [dict(zip(header, row.cells, strict=True)) for row in rows])
    yield table(header, rows, "Runs with the data, the network and the metric of the paper.", link, text=(0, 2))
