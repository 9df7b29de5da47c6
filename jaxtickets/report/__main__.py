"""Reports on one run, or compares several: `python -m jaxtickets.report WORKDIR [WORKDIR ...] [--out=DIR]`.

One run of several seeds: `--power` tells how many seeds each of its rounds would need to be shown to win.
A run that is still going on: `--serve` shows its report on this machine, and renews it with each round.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxtickets import cli, ending
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.names import near
from jaxtickets.progress import show
from jaxtickets.report import build, compare, levels, power, serve, summary, summary_table
from jaxtickets.report.exports import KINDS

POWER_HELP = "Print the number of seeds that each round needs, in the place of a report."
SERVE_HELP = (
    "Show the report on this machine alone, in a page that renews itself with each round, and write nothing:"
    " --serve, or --serve=PORT."
)
TABLES_HELP = "Of a comparison: write its tables as markdown, latex or both (markdown,latex), too."
ANY_PORT = -1


class _Port(flags.ArgumentParser):
    """The value of --serve: a port, `ANY_PORT` without a value."""

    def parse(self, argument):
        if argument == "true":  # absl's word for a flag without a value.
            return ANY_PORT
        if not str(argument).isdecimal() or not 0 <= int(argument) < 2**16:
            raise ValueError("allowed is a port from 0 (any free one) to 65535, or --serve alone")
        return int(argument)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line (None is this process's); returns the exit status."""
    defined = flags.FlagValues()
    defined.set_gnu_getopt()  # Flags may follow workdirs.
    out = flags.DEFINE_string("out", None, "Where a comparison is written (default: .).", flag_values=defined)
    overwrites = flags.DEFINE_bool("overwrite", False, "Replace an earlier comparison in --out.", flag_values=defined)
    asks_power = flags.DEFINE_bool("power", None, POWER_HELP, flag_values=defined)
    tables = flags.DEFINE_list("tables", [], TABLES_HELP, flag_values=defined)
    port = flags.DEFINE_flag(
        flags.Flag(_Port(), flags.ArgumentSerializer(), "serve", None, SERVE_HELP, boolean=True), defined
    )

    def called(workdirs):
        return _run(workdirs, out.value, asks_power.value, overwrites.value, port.value, tables.value)

    return cli.call(called, defined, arguments, __doc__)


def _run(
    workdirs: Sequence[str],
    out_dir: str | None,
    asks_power: bool | None,
    overwrites: bool,
    port: int | None,
    tables: Sequence[str],
) -> None:
    if not workdirs:
        raise UserError("no workdir is given; give one for its report, or several to compare them")
    workdirs = [local_path(workdir, "WORKDIR") for workdir in workdirs]
    if unknown := [kind for kind in tables if kind not in KINDS]:
        raise UserError(f"--tables={unknown[0]}: allowed are {', '.join(KINDS)}{near(unknown, KINDS)}")
    if tables and len(workdirs) < 2:
        raise UserError(f"--tables={','.join(tables)}: is for several workdirs")
    if port is not None:
        if len(workdirs) > 1 or out_dir is not None or asks_power:
            raise UserError("--serve is for one workdir and writes no file; give one workdir and no --out or --power")
        serve(workdirs[0], None if port == ANY_PORT else port)
        return
    if asks_power and (len(workdirs) > 1 or out_dir is not None):
        raise UserError("--power is for one workdir and writes no file; give one workdir and no --out")
    if asks_power:
        show(power(workdirs[0]))
        return
    if len(workdirs) > 1:
        _compare(workdirs, local_path("." if out_dir is None else out_dir, "--out"), overwrites, tables)
    elif out_dir is not None:
        raise UserError("--out is for several workdirs; one workdir's report is written into it")
    else:
        _report(workdirs[0])


def _report(workdir: Path) -> None:
    page = build(workdir)
    show(summary(workdir), f"\nReport: {page}")


def _compare(workdirs: Sequence[Path], out_dir: Path, overwrites: bool, tables: Sequence[str]) -> None:
    names = ["summary.csv", "comparison.png", "comparison.html", "levels.csv"]
    names += [f"{name}.{KINDS[kind][0]}" for kind in tables for name in ("summary", "levels")]
    files = [out_dir / name for name in names]
    if not overwrites and (there := [file for file in files if file.exists()]):
        raise UserError(f"{there[0]} is there already; give another --out, or --overwrite to replace it")
    show(summary_table(compare(workdirs, out_dir, tables=tables)), "", levels(workdirs, out_dir))
    show(f"\n{', '.join(str(file) for file in files if file.exists())}")


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"  # Masks are read by JAX, which must not take the accelerator of a run.
    ending.run(lambda _: main())
