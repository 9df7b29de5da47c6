"""`python -m jaxtickets.report WORKDIR` reports on one run; several workdirs are compared."""

import argparse
import sys
from collections.abc import Sequence

from jaxtickets.errors import UserError
from jaxtickets.report import build, compare, levels, summary, summary_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m jaxtickets.report", description=__doc__)
    parser.add_argument("workdirs", metavar="WORKDIR", nargs="+")
    parser.add_argument("--out", metavar="DIR", default=None, help="where a comparison is written (default: .)")
    options = parser.parse_args(arguments)
    try:
        if len(options.workdirs) == 1:
            if options.out is not None:
                raise UserError("--out is for several workdirs; one workdir's report is written into it")
            _report(options.workdirs[0])
        else:
            _compare(options.workdirs, options.out or ".")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _report(workdir: str) -> None:
    page = build(workdir)
    print(summary(workdir), f"\nReport: {page}", sep="\n")


def _compare(workdirs: Sequence[str], out_dir: str) -> None:
    print(summary_table(compare(workdirs, out_dir)), levels(workdirs, out_dir), sep="\n\n")
    print(f"\n{out_dir}/summary.csv, {out_dir}/comparison.png")


if __name__ == "__main__":
    sys.exit(main())
