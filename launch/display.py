"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import rich.console
import rich.live
import rich.progress_bar
import rich.table
import rich.text

from jaxtickets.errors import printable
from jaxtickets.progress_lines import duration

SECONDS_BETWEEN_LINES = 60
SECONDS_BETWEEN_LOOKS = 1.0
ROOM = 8  # Lines of a terminal that the table leaves free.


class Row(NamedTuple):
    """One run in the table.

    Attributes:
      name: of the run.
      state: in a word or two.
      rounds: `3/6`.
      share: of its work that is done, in [0, 1].
      left: the seconds that it has left; None if that is not known, or it does not run.
      best: its best round so far, in words.
    """

    name: str
    state: str
    rounds: str
    share: float
    left: float | None
    best: str


class Display:
    """A context in which `line` prints above the table, and `show` shows the state of the sweep."""

    def __init__(self):
        """Shows nothing yet."""
        self._console = rich.console.Console(file=sys.stdout, highlight=False)
        self._live = None
        if self._console.is_terminal:
            self._live = rich.live.Live(console=self._console, transient=True, refresh_per_second=4)
        self._last_look, self._last_line, self._shown = -math.inf, time.monotonic(), ""

    def __enter__(self):
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._live:
            self._live.stop()

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(printable(text), soft_wrap=True, markup=False, highlight=False)
        self._console.file.flush()

    def is_due(self) -> bool:
        """Whether it is time to look at the runs again."""
        now = time.monotonic()
        if now - self._last_look < (SECONDS_BETWEEN_LOOKS if self._live else SECONDS_BETWEEN_LINES / 10):
            return False
        self._last_look = now
        return True

    def show(self, rows: Sequence[Row], summary: str, is_news: bool = False) -> None:
        """Shows the runs, the most interesting ones first, and a sentence about all.

        Args:
          is_news: without a terminal, whether to print the sentence now; else it comes once a minute.
        """
        if self._live:
            self._live.update(self._table(rows, summary))
            return
        now = time.monotonic()
        if summary != self._shown and (is_news or now - self._last_line >= SECONDS_BETWEEN_LINES):
            self._last_line, self._shown = now, summary
            self.line(summary)

    def _table(self, rows, summary):
        table = rich.table.Table(box=None, pad_edge=False, expand=False)
        table.add_column("run", overflow="fold")
        for header in ("", "rounds", "", "left", "best so far"):
            table.add_column(header, no_wrap=True, justify="right" if header in ("rounds", "left") else "left")
        most = max(1, self._console.height - ROOM)
        for row in rows[:most]:
            bar = rich.progress_bar.ProgressBar(total=1, completed=row.share, width=16)
            table.add_row(
                rich.text.Text(row.name),
                row.state,
                row.rounds,
                bar,
                duration(row.left) if (row.left or 0) >= 1 else "",
                row.best,
            )
        if len(rows) > most:
            table.add_row(f"and {len(rows) - most} more", "", "", "", "", "")
        return rich.console.Group(table, rich.text.Text(summary))
