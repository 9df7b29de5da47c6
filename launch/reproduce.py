"""Reproduces the paper's experiments: `python -m launch.reproduce --suite=smoke|embedded|fashion|paper`.

It is a sweep, of `launch/paper.py`, and takes the flags of `launch.sweep` that say how runs are started: `--jobs`,
`--minutes`, `--retry`, `--together`, `--devices_per_job`, `--jobs_per_device`, `--dry_run`; flags after `--` go to
every run. The runs are in `results/<suite>/runs` (or `runs` in the directory that --out names). Beside them each
comparison has a directory with `summary.csv`, `levels.csv` and `comparison.png`, of the runs that have finished so far;
README.md shows them all. The same command goes on.

Exit status: that of the sweep.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

if not __package__:
    # `python launch/reproduce.py` puts launch/ on the path, not the directory that holds jaxtickets/.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jaxtickets import cli, ending, files
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.report import compare, levels, summary_table
from jaxtickets.workdir import Workdir
from launch import described, devices, paper, point_flags, sweep
from launch.points import Point, points

TITLE = """# The suite `{suite}`

{finished} of {all} runs have finished. Made by `python -m launch.reproduce --suite={suite}`; the experiments are in
`launch/paper.py`.
"""


def reproduce(suite: str, out: Path, extra: Sequence[str] = (), dry_run: bool = False, **options) -> int:
    """Runs a suite, or what is left of it, and writes its tables and figures; returns the sweep's exit status.

    Args:
      suite: of `paper.SUITES`.
      out: where they are written; the runs are in `out/runs`.
      extra, dry_run, options: see `sweep.sweep`.

    Raises:
      UserError: there is no such suite, or see `sweep.sweep`.
    """
    if suite not in paper.SUITES:
        raise UserError(f"--suite={suite}: allowed are {', '.join(paper.SUITES)}")
    config, sweepdir = f"{paper.__file__}:{suite}", out / "runs"
    status = sweep.sweep(config, sweepdir=sweepdir, extra=extra, dry_run=dry_run, **options)
    if not dry_run:
        report(suite, out, points(config, sweepdir, extra=extra))
        print(out / "README.md")
    return status


def report(suite: str, out: Path, all_points: Sequence[Point]) -> None:
    """Writes the comparisons of the runs that have finished, and the page that shows them."""
    finished = [point for point in all_points if Workdir(point.workdir).is_finished]
    page = [TITLE.format(suite=suite, finished=len(finished), all=len(all_points))]
    for table, experiments in paper.tables(suite).items():
        paths = [point.workdir for name in experiments for point in finished if described.owns(name, point.name)]
        if not paths:
            continue
        summary = summary_table(compare(paths, out / table))
        texts = [summary, *([levels(paths, out / table)] if len(paths) > 1 else [])]
        blocks = "\n\n".join(f"```\n{text}\n```" for text in texts)
        page.append(f"## {table.replace('_', ' ').capitalize()}\n\n{blocks}\n\n![]({table}/comparison.png)\n")
    files.replace(out / "README.md", "\n".join(page).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line (None is this process's); returns the exit status."""
    defined = flags.FlagValues()
    flags.DEFINE_string("suite", None, f"The size: {', '.join(paper.SUITES)}.", flag_values=defined)
    flags.DEFINE_string("out", None, "Where the results go (default: results/<suite>).", flag_values=defined)
    sweep.define_running(defined)

    def run(extra):
        if defined.suite is None:
            raise UserError(f"--suite is missing; allowed are {', '.join(paper.SUITES)}")
        out = local_path(defined.out or Path("results") / defined.suite, "--out")
        devices.leave_to_runs()
        return reproduce(defined.suite, out, extra, **sweep.running_options(defined))

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if line := point_flags.misplaced(arguments):
        return cli.fail(UserError(line))
    return cli.call(run, defined, arguments, __doc__)


if __name__ == "__main__":
    ending.run(lambda _: main(), lambda: "the same command goes on")
