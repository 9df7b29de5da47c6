"""Reports on one run, or compares several: `python -m jaxtickets.report WORKDIR [WORKDIR ...] [--out=DIR]`.

One run of several seeds: `--power` tells how many seeds each of its rounds would need to be shown to win.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxtickets import cli, ending
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.progress import show
from jaxtickets.report import build, compare, levels, power, summary, summary_table

POWER_HELP = "Print the number of seeds that each round needs, in the place of a report."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line (None is this process's); returns the exit status."""
    defined = flags.FlagValues()
    defined.set_gnu_getopt()  # Flags may follow workdirs.
    out = flags.DEFINE_string("out", None, "Where a comparison is written (default: .).", flag_values=defined)
    overwrites = flags.DEFINE_bool("overwrite", False, "Replace an earlier comparison in --out.", flag_values=defined)
    asks_power = flags.DEFINE_bool("power", None, POWER_HELP, flag_values=defined)

    def called(workdirs):
        return _run(workdirs, out.value, asks_power.value, overwrites.value)

    return cli.call(called, defined, arguments, __doc__)


def _run(workdirs: Sequence[str], out_dir: str | None, asks_power: bool | None, overwrites: bool) -> None:
    if not workdirs:
        raise UserError("no workdir is given; give one for its report, or several to compare them")
    workdirs = [local_path(workdir, "WORKDIR") for workdir in workdirs]
    if asks_power and (len(workdirs) > 1 or out_dir is not None):
        raise UserError("--power is for one workdir and writes no file; give one workdir and no --out")
    if asks_power:
        show(power(workdirs[0]))
        return
    if len(workdirs) > 1:
        _compare(workdirs, local_path("." if out_dir is None else out_dir, "--out"), overwrites)
    elif out_dir is not None:
        raise UserError("--out is for several workdirs; one workdir's report is written into it")
    else:
        _report(workdirs[0])


def _report(workdir: Path) -> None:
    page = build(workdir)
    show(summary(workdir), f"\nReport: {page}")


def _compare(workdirs: Sequence[Path], out_dir: Path, overwrites: bool) -> None:
    files = [out_dir / name for name in ("summary.csv", "comparison.png", "levels.csv")]
    if not overwrites and (there := [file for file in files if file.exists()]):
        raise UserError(f"{there[0]} is there already; give another --out, or --overwrite to replace it")
    show(summary_table(compare(workdirs, out_dir)), "", levels(workdirs, out_dir))
    show(f"\n{out_dir}/summary.csv, {out_dir}/comparison.png")


if __name__ == "__main__":
    ending.run(lambda _: main())
