"""Plain-text tables with aligned columns."""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence

from jaxtickets.errors import printable

MAX_WIDTH = 110
GAP = "  "


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """A table with a rule under its header; cells are right-aligned except in the columns `left`."""
    header, *lines = ([printable(cell) for cell in line] for line in (header, *lines))
    widths = [max(len(line[column]) for line in (header, *lines)) for column in range(len(header))]

    def joined(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return GAP.join(padded).rstrip()

    rule = "-" * (sum(widths) + len(GAP) * (len(widths) - 1))
    return "\n".join([joined(header), rule, *map(joined, lines)])


def wrapped(lines: Iterable[str]) -> str:
    """Lines of text below a table, none longer than a table may be, where words allow it."""
    return "\n".join(
        textwrap.fill(printable(line), MAX_WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines
    )


def table_width(table: str) -> int:
    """The length of the longest line."""
    return max(map(len, table.splitlines()))


def bracketed(low: float | None, high: float | None, write: Callable[[float], str]) -> str:
    """An interval as "[low, high]", its ends as `write` gives them; "" if an end is not known."""
    is_known = low is not None and high is not None and not (math.isnan(low) or math.isnan(high))
    return f"[{write(low)}, {write(high)}]" if is_known else ""
