"""Plots, tables and the HTML page of a run, and the comparison of several, from the workdirs' files alone."""

import os
from pathlib import Path

from jaxtickets import files
from jaxtickets.report.compare import compare
from jaxtickets.report.drawing import png
from jaxtickets.report.levels import levels
from jaxtickets.report.page import page
from jaxtickets.report.plots import figures
from jaxtickets.report.reading import Workdir, read
from jaxtickets.report.table import rounds_table, summary_table

__all__ = ["Workdir", "build", "compare", "levels", "read", "rounds_table", "summary", "summary_table"]


def build(workdir: str | os.PathLike) -> Path:
    """Writes `plots/*.png` and `report.html` into a workdir, whose run may still be going on.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: `workdir` is not a workdir.
    """
    run = read(workdir)
    plots = {name: png(figure) for name, figure in figures(run).items()}
    for name, image in plots.items():
        files.replace(run.path / "plots" / f"{name}.png", image)
    files.replace(run.path / "report.html", page(run, plots).encode())
    return run.path / "report.html"


def summary(workdir: str | os.PathLike) -> str:
    """The table of rounds and the verdict, for the terminal."""
    run = read(workdir)
    verdict = run.verdict["message"] if run.verdict else "The run is not finished."
    return f"{rounds_table(run.rounds, run.verdict, run.seed_rounds)}\n\n{verdict}"
