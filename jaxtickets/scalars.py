"""The scalars of a run while it goes on: JSON lines, and the same numbers for TensorBoard."""

import json
from collections.abc import Callable
from pathlib import Path

from jaxtickets import files


class Scalars:
    """Writes one JSON line, and one point per TensorBoard curve, for each logging step."""

    def __init__(self, file: Path, tensorboard: Path, keep: Callable[[dict], bool]):
        """Opens both places.

        Args:
          file: the JSON lines, in a directory that exists.
          tensorboard: the directory of the TensorBoard runs.
          keep: tells for a row that is there already whether it stays. The other rows are dropped: a killed run has
            written them, and this run will write them again.
        """
        import tensorboardX  # Slow to import, and not to be counted as training.

        self._tensorboard, self._make_writer = tensorboard, tensorboardX.SummaryWriter
        self._writers = {}
        if file.exists():
            rows = [row for row in files.read_json_lines(file) if keep(row)]
            files.replace(file, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self._file = file.open("a")

    def write(self, round_: int, step: int, split: str, seconds: float, scalars: dict[str, float]) -> None:
        """Writes the scalars of one step.

        Args:
          split: where they are from: `train`, `test` or `search`.
          seconds: of training in this round so far.
        """
        row = {"round": round_, "step": step, "split": split, "seconds": round(seconds, 3), **scalars}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        writer = self._writer(f"round_{round_:03d}", step)
        for name, value in scalars.items():
            writer.add_scalar(f"{split}/{name}", value, step)

    def write_round(self, round_: int, row: dict, samples) -> None:
        """Adds a finished round to TensorBoard: its row of the table and its sample grid `[height, width, 3]` uint8."""
        writer = self._writer("rounds", round_)
        for name, value in row.items():
            if value is not None:
                writer.add_scalar(f"rounds/{name}", value, round_)
        writer.add_image("samples", samples, round_, dataformats="HWC")
        writer.flush()
        if trained := self._writers.pop(f"round_{round_:03d}", None):
            trained.close()  # Each writer holds a thread and a file.

    def _writer(self, name, step):
        if name not in self._writers:
            self._writers[name] = self._make_writer(str(self._tensorboard / name), purge_step=step)
        return self._writers[name]

    def close(self) -> None:
        """Closes all files."""
        self._file.close()
        for writer in self._writers.values():
            writer.close()
