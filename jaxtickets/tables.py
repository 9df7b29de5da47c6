"""Plain-text tables with aligned columns."""

from collections.abc import Sequence

MAX_WIDTH = 110
GAP = "  "


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """A table with a rule under its header; cells are right-aligned except in the columns `left`."""
    widths = [max(len(line[column]) for line in (header, *lines)) for column in range(len(header))]

    def joined(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return GAP.join(padded).rstrip()

    rule = "-" * (sum(widths) + len(GAP) * (len(widths) - 1))
    return "\n".join([joined(header), rule, *map(joined, lines)])


def table_width(table: str) -> int:
    """The length of the longest line."""
    return max(map(len, table.splitlines()))
