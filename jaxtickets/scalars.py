"""The scalars of a run while it goes on: JSON lines, and the same numbers for TensorBoard.

The last key of a line, `crc32`, is the CRC-32 of the line without this key.
"""

import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from jaxtickets import files
from jaxtickets.progress import say

KEYS = {"round": int, "step": int, "split": str}  # Of every row, with their types.
_CHECKED = re.compile(rb'(\{.*), "crc32": ([0-9]+)\}')


class Scalars:
    """Writes one JSON line, and one point per TensorBoard curve, for each logging step."""

    def __init__(
        self,
        file: Path,
        tensorboard: Path,
        keep: Callable[[dict], bool],
        recorded: Callable[[], Iterable[tuple[dict, np.ndarray | None]]],
    ):
        """Opens both places.

        Args:
          file: the JSON lines, in a directory that exists.
          tensorboard: the directory of the TensorBoard runs.
          keep: tells for a row that is there already whether it stays. The other rows are dropped: a killed run has
            written them, and this run will write them again.
          recorded: the rows and sample grids of the finished rounds, as `write_round` takes them.
        """
        self._tensorboard, self._recorded, self._boards = tensorboard, recorded, {}
        kept = [row for row in read(file) if keep(row)]
        if file.exists():
            files.replace(file, b"".join(map(_line, kept)))
        newest = max((row["round"] for row in kept), default=0)
        self._goes_on = [row for row in kept if row["round"] == newest]  # Later rounds have no rows yet.
        self._file = file.open("ab")

    def write(self, round_: int, step: int, split: str, seconds: float, scalars: dict[str, float]) -> None:
        """Writes the scalars of one step.

        Args:
          split: where they are from: `train`, `test` or `search`.
          seconds: of training in this round so far.
        """
        row = {"round": round_, "step": step, "split": split, "seconds": round(seconds, 3), **scalars}
        board = self._board_of(round_)
        self._file.write(_line(row))
        self._file.flush()
        board.add(row)

    def write_round(self, round_: int, row: dict, samples: np.ndarray) -> None:
        """Adds a finished round to TensorBoard: its row of the table and its sample grid `[height, width, 3]` uint8."""
        name = "rounds"
        if name not in self._boards:
            self._boards[name] = Board(self._tensorboard / name)
            for earlier, grid in self._recorded():
                self._boards[name].add_round(earlier["round"], earlier, grid)
        self._boards[name].add_round(round_, row, samples)
        if trained := self._boards.pop(round_, None):
            trained.close()

    def _board_of(self, round_):
        """The TensorBoard run of a round; one that a killed process has begun is written anew, from the kept rows."""
        if round_ not in self._boards:
            self._boards[round_] = Board(self._tensorboard / f"round_{round_:03d}")
            for row in self._goes_on:
                if row["round"] == round_:
                    self._boards[round_].add(row)
        return self._boards[round_]

    def close(self) -> None:
        """Closes all files."""
        self._file.close()
        for board in self._boards.values():
            board.close()


class Board:
    """A TensorBoard run that is written without a thread, so that a full disk is an error where it is met."""

    def __init__(self, directory: Path):
        """Begins the run in the directory anew."""
        from tensorboardX import record_writer, summary  # Slow to import, and not to be counted as training.
        from tensorboardX.proto import event_pb2

        files.remove(directory)
        directory.mkdir(parents=True)
        self._summary, self._event, self._checksum = summary, event_pb2.Event, record_writer.masked_crc32c
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._file = (directory / name).open("wb", buffering=0)
        self._write_event(wall_time=time.time(), file_version="brain.Event:2")

    def add(self, row: dict) -> None:
        """Adds a row of the JSON lines."""
        names = [name for name in row if name not in KEYS and name != "seconds" and row[name] is not None]
        self._write(row["step"], [self._summary.scalar(f"{row['split']}/{name}", row[name]) for name in names])

    def add_round(self, round_: int, row: dict, samples: np.ndarray | None) -> None:
        """Adds the row of a finished round, and its sample grid if there is one."""
        points = [self._summary.scalar(f"rounds/{name}", row[name]) for name in row if row[name] is not None]
        images = [] if samples is None else [self._summary.image("samples", samples, dataformats="HWC")]
        self._write(round_, points + images)

    def _write(self, step, summaries):
        for summary in summaries:
            self._write_event(step=step, wall_time=time.time(), summary=summary)

    def _write_event(self, **fields):
        """Appends a record: its length, its bytes, and the checksum of each."""
        content = self._event(**fields).SerializeToString()
        length = struct.pack("<Q", len(content))
        parts = [(part, struct.pack("<I", self._checksum(part))) for part in (length, content)]
        self._file.write(b"".join(b"".join(part) for part in parts))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(file: Path) -> list[dict]:
    """The rows of JSON lines, without their checksums; [] if there is no file.

    Damaged lines are left out, which is said; a last line that is cut is left out, too: a kill leaves one. Lines of an
    older version have no checksums.
    """
    if not file.is_file():
        return []
    *lines, cut = file.read_bytes().split(b"\n")
    found = [(_CHECKED.fullmatch(line), line) for line in (*lines, cut)]
    are_checked = any(match for match, _ in found)
    rows = [_row(line, match, are_checked) for match, line in found]
    last = rows.pop() if b"\0" not in cut else None  # A kill cuts a line; a lost block of a disk is of zeros.
    if damaged := rows.count(None):
        say(f"{file}: {damaged} of {len(rows)} lines are damaged and are left out")
    return [row for row in (*rows, last) if row is not None]


def _row(line, match, is_checked):
    """The row of a line; None if it is damaged."""
    if match:
        line = match[1] + b"}"
        if zlib.crc32(line) != int(match[2]):
            return None
    elif is_checked:
        return None
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in KEYS.items())
    return row if is_row else None


def _line(row):
    line = files.json_bytes(row, indent=None)
    return line[:-1] + b', "crc32": %d}\n' % zlib.crc32(line)
