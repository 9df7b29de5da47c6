"""Plots, tables and the HTML page of a run, and comparisons of runs, made from the files of workdirs alone."""

import os
import textwrap
from pathlib import Path

from jaxtickets import files
from jaxtickets.paths import Paths
from jaxtickets.report import serving
from jaxtickets.report.compare import compare
from jaxtickets.report.levels import levels
from jaxtickets.report.notebook import Shown
from jaxtickets.report.notes import notes
from jaxtickets.report.overlap import OVERLAP, overlap_figure, overlaps
from jaxtickets.report.page import Drawn, page
from jaxtickets.report.plots import figures
from jaxtickets.report.power import power
from jaxtickets.report.reading import Results, heading, metric_columns, read
from jaxtickets.report.svg import svg
from jaxtickets.report.table import rounds_table, summary_table
from jaxtickets.tables import MAX_WIDTH, wrapped

__all__ = [
    "Results",
    "Shown",
    "build",
    "compare",
    "levels",
    "power",
    "read",
    "rounds_table",
    "serve",
    "show",
    "summary",
    "summary_table",
]


def build(workdir: str | os.PathLike) -> Path:
    """Writes the plots and the HTML page into a workdir, whose run may still be going on.

    Returns:
      The path of the page.

    Raises:
      UserError: `workdir` is not a workdir.
    """
    run = read(workdir)
    drawn = draw(run)
    for name, text in drawn.plots.items():
        files.replace(run.workdir.plot(name), text.encode())
    # The name of a directory need not be UTF-8.
    files.replace(run.workdir.report_page, page(run, drawn).encode(errors="backslashreplace"))
    return run.workdir.report_page


def show(workdir: str | os.PathLike | Paths) -> Shown:
    """The report of a run, finished or not, as the value of a notebook's cell; writes nothing.

    Raises:
      UserError: `workdir` is not a workdir.
    """
    run = read(workdir.path if isinstance(workdir, Paths) else workdir)
    return Shown(f"Report of {run.workdir.path}", page(run, draw(run), has_links=False))


def serve(workdir: str | os.PathLike, port: int | None = None) -> None:
    """Serves the report of a run on 127.0.0.1, and renews it whenever a round has finished; writes nothing.

    The run may begin later, in a directory that is not there yet.

    Args:
      port: None: 8321, or another free one if that is taken.

    Raises:
      UserError: `workdir` is a file, or the port can't be used.
      KeyboardInterrupt: the user has ended it.
    """

    def make(state):
        run = read(workdir)
        return page(run, draw(run), state, has_links=False)

    serving.serve(workdir, make, port)


def draw(run: Results) -> Drawn:
    """Draws the plots of a run, and compares its masks."""
    rows = overlaps(run)
    drawn = figures(run)
    if rows and (figure := overlap_figure(run, rows)):
        drawn[OVERLAP] = figure
    return Drawn({name: svg(figure) for name, figure in drawn.items()}, rows)


def summary(workdir: str | os.PathLike) -> str:
    """What the numbers are, the table of rounds and the verdict's sentence, for the terminal.

    Raises:
      UserError: `workdir` is not a workdir.
    """
    run = read(workdir)
    verdict = run.verdict["message"] if run.verdict else "The run is not finished."
    table = rounds_table(run.rounds, run.verdict, run.seed_rounds, run.about, run.references)
    title = textwrap.fill(heading(run), MAX_WIDTH)
    told = wrapped(notes(metric_columns(run.rounds, run.about), run.about.metrics or {}))
    return "\n\n".join(filter(None, [title, table, told, verdict]))
