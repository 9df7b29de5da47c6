"""The files of a run: `Workdir` names, reads and writes what `docs/workdir.md` describes.

No other module knows a file name of a workdir. Importing this one loads neither JAX nor Orbax nor TensorBoard.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxtickets.errors import UserError
from jaxtickets.files import (
    atomic_write,
    read_csv,
    read_json,
    read_json_lines,
    write_arrays,
    write_csv,
    write_json,
)
from jaxtickets.origin import completed, differences, origin
from jaxtickets.scalars import Scalars

# The columns of rounds.csv that every run has, beside those of its metrics and of its method.
ROUND_COLUMNS = (
    *("seed", "round", "sparsity", "sparsity_all", "density", "flops_dense", "flops_effective", "params_kept"),
    *("train_seconds", "steps_per_second", "step_bytes"),
)
SNAPSHOTS = ("init", "rewind", "dense", "last", "search")


class Workdir:
    """The directory of one run.

    Members named by a noun return a path, or the `Workdir` of an inner run; it need not exist. `read_...` returns the
    content of a file: [] for a table without a file, None for JSON that is missing or can't be read. `write_...`
    replaces the whole file at once, so that a kill leaves the old content or the new.

    Attributes:
      path: the directory.
      config: the JSON file of the config, the command, the versions, the devices and the names for reports.
      scalars: the JSON lines of the logged scalars, one line per logging step.
      tensorboard: the directory of the TensorBoard runs.
      rounds: the table with one row per finished round.
      layers: the table with one row per finished round and prunable layer.
      verdict: the JSON file of the verdict.
      ticket: the file of the sparsest ticket within the tolerance.
      transfer: the JSON file that says which layers a transfer has moved.
      report_page: the HTML file of the report.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.scalars = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tb"
        self.rounds = self.path / "rounds.csv"
        self.layers = self.path / "layers.csv"
        self.verdict = self.path / "verdict.json"
        self.ticket = self.path / "ticket.safetensors"
        self.transfer = self.path / "transfer.json"
        self.report_page = self.path / "report.html"

    def __repr__(self) -> str:
        return f"Workdir({str(self.path)!r})"

    def __eq__(self, other) -> bool:
        return isinstance(other, Workdir) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    # Paths.

    def masks(self, round_: int) -> Path:
        """The Orbax directory of the masks that a round trains under."""
        return self.path / "masks" / _number(round_)

    def snapshot(self, name: str) -> Path:
        """The Orbax directory of a train state: `init`, `rewind`, `dense`, `last` or `search`."""
        if name not in SNAPSHOTS:
            raise ValueError(f"snapshot {name!r}: allowed are {', '.join(SNAPSHOTS)}")
        return self.path / "snapshots" / name

    def search_end(self, round_: int) -> Path:
        """The Orbax directory of the train state at the end of a round's early-bird search."""
        return self.path / "snapshots" / f"search_{_number(round_)}"

    def search(self, round_: int) -> Path:
        """The JSON file of a round's early-bird search; the `.npz` file beside it has the masks that were drawn."""
        return self.path / "search" / f"{_number(round_)}.json"

    def samples(self, round_: int) -> Path:
        """The PNG file of a round's sample grid."""
        return self.path / "samples" / f"round_{_number(round_)}.png"

    def plot(self, name: str) -> Path:
        """The PNG file of one of the report's plots."""
        return self.path / "plots" / f"{name}.png"

    # Runs inside this one.

    def compact(self, round_: int) -> "Workdir":
        """The run of a round's network after its pruned channels were taken out."""
        return Workdir(self.path / f"compact_{_number(round_)}")

    def narrow(self, round_: int) -> "Workdir":
        """The run of the narrow dense network that is the control of a round's ticket."""
        return Workdir(self.path / f"dense_{_number(round_)}")

    def seed_dir(self, seed: int) -> "Workdir":
        """The run of one of several seeds."""
        return Workdir(self.path / f"seed_{seed}")

    def seed(self, seed: int) -> "Workdir":
        """The run of a seed: a directory of its own where there is one, else this workdir."""
        own = self.seed_dir(seed)
        return own if own.path.is_dir() else self

    def seed_dirs(self) -> "dict[int, Workdir]":
        """The runs of several seeds that have been started, by seed; empty in the workdir of a single run."""
        return {seed: Workdir(path) for seed, path in _numbered(self.path, r"seed_(\d+)").items()}

    # Starting.

    @property
    def is_started(self) -> bool:
        """Whether a run has been started here."""
        return self.config.exists()

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its verdict."""
        return self.verdict.exists()

    def check_writable(self) -> None:
        """Refuses a directory that can't be made or written; writes nothing.

        Raises:
          UserError: it is a file, or the nearest existing directory above it can't be written.
        """
        flag, allowed = f"--workdir={self.path}", "allowed is a directory that can be written"
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{flag}: is a file; {allowed}")
        above = self.path
        while not above.exists():
            above = above.parent
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"{flag}: {above} can't be written; {allowed}")

    def create(self, config: dict, defaults: Mapping[str, Any], about: dict | None = None) -> None:
        """Makes the workdir, or checks that an existing one belongs to the same config and leaves it as it is.

        Args:
          config: the config as JSON values.
          defaults: the value of each field for a config.json that lacks it, nested as in `config`.
          about: what reports call the method, its columns and the metrics: `about` in docs/workdir.md.

        Raises:
          UserError: the workdir belongs to another config or can't be written.
        """
        if self.is_started:
            self.check_same(config, defaults)
            return
        try:
            write_json(self.config, origin(config, about))
        except OSError as error:
            raise UserError(
                f"--workdir={self.path}: {error.strerror}; allowed is a directory that can be written"
            ) from None

    def check_same(self, config: dict, defaults: Mapping[str, Any]) -> None:
        """Refuses the workdir of another config, and names the fields that differ; also a directory without a run.

        A field that config.json lacks counts with the value in `defaults`, so that a run that was started before the
        field existed can be resumed.

        Args:
          config, defaults: see `create`.

        Raises:
          UserError: the workdir has no readable config.json, or belongs to another config.
        """
        old = self.read_config()
        if old is None:
            raise UserError(f"--workdir={self.path}: has no readable config.json; give another directory")
        if differing := differences(completed(old, defaults), config):
            raise UserError(
                f"--workdir={self.path} belongs to a run with another config: {differing}; "
                "give another --workdir, or the same config to resume"
            )

    # Reading and writing.

    def read_origin(self) -> dict | None:
        """The content of config.json: the config and what the run was started with."""
        content = read_json(self.config)
        return content if content is not None and isinstance(content.get("config"), dict) else None

    def read_config(self) -> dict | None:
        """The config that the run was started with, as JSON values."""
        content = self.read_origin()
        return None if content is None else content["config"]

    def read_rounds(self) -> list[dict]:
        """The rows of rounds.csv."""
        return read_csv(self.rounds)

    def write_rounds(self, rows: list[dict]) -> None:
        """Replaces rounds.csv."""
        write_csv(self.rounds, rows)

    def read_layers(self) -> list[dict]:
        """The rows of layers.csv."""
        return read_csv(self.layers)

    def write_layers(self, rows: list[dict]) -> None:
        """Replaces layers.csv."""
        write_csv(self.layers, rows)

    def read_scalars(self, round_: int | None = None) -> list[dict]:
        """The rows of metrics.jsonl, those of one round if it is given."""
        rows = read_json_lines(self.scalars)
        return [row for row in rows if round_ is None or row.get("round") == round_]

    def open_scalars(self, keep: Callable[[dict], bool]) -> Scalars:
        """The writer of metrics.jsonl and of the TensorBoard runs; rows already there stay if `keep(row)` holds."""
        return Scalars(self.scalars, self.tensorboard, keep)

    def read_samples(self, round_: int) -> np.ndarray:
        """A round's sample grid, `[height, width, 3]` uint8.

        Raises:
          OSError: there is none.
        """
        from PIL import Image

        return np.asarray(Image.open(self.samples(round_)))

    def write_samples(self, round_: int, grid: np.ndarray) -> None:
        """Replaces a round's sample grid, `[height, width, 3]` uint8."""
        from PIL import Image

        with atomic_write(self.samples(round_)) as temporary:
            Image.fromarray(grid).save(temporary)

    def list_samples(self) -> dict[int, Path]:
        """The sample grids that are there, by round."""
        return _numbered(self.samples(0).parent, r"round_(\d+)\.png")

    def read_search(self, round_: int) -> tuple[dict, np.ndarray] | None:
        """A round's search as `write_search` has saved it.

        The masks may be one more or some fewer than the content says, where a kill came between the two files.
        """
        path = self.search(round_)
        if not (path.exists() and path.with_suffix(".npz").exists()):
            return None
        return json.loads(path.read_text()), np.load(path.with_suffix(".npz"))["masks"]

    def write_search(self, round_: int, content: dict, masks: np.ndarray) -> None:
        """Replaces a round's search.

        Args:
          content: see docs/workdir.md.
          masks: `[n, bytes]` uint8, the n masks that were drawn, eight entries per byte.
        """
        path = self.search(round_)
        write_arrays(path.with_suffix(".npz"), masks=masks)
        write_json(path, content)

    def read_searches(self) -> dict[int, dict]:
        """The content of every search that can be read, by round."""
        found = _numbered(self.search(0).parent, r"(\d+)\.json")
        return {round_: content for round_, path in found.items() if (content := read_json(path)) is not None}

    def read_verdict(self) -> dict | None:
        """The verdict; None while the run is unfinished."""
        return read_json(self.verdict)

    def write_verdict(self, verdict: dict) -> None:
        """Replaces the verdict; the run is finished then."""
        write_json(self.verdict, verdict)

    def write_transfer(self, content: dict) -> None:
        """Replaces the list of the layers that a transfer has moved."""
        write_json(self.transfer, content)

    # Going back.

    def check_finished(self, round_: int) -> None:
        """Refuses to go back to a round that has not been finished.

        Raises:
          UserError: the run has no such round, or has not finished it.
        """
        rows = self.read_rounds()
        if not 0 <= round_ < len(rows):
            finished = f"0 to {len(rows) - 1}" if rows else "none yet"
            raise UserError(f"--from_round={round_}: no such finished round in {self.path}; allowed are {finished}")

    def discard_from(self, round_: int) -> None:
        """Takes the run back to the start of a round: its masks stay, its results and all later rounds go.

        Raises:
          UserError: the round has not been finished.
        """
        self.check_finished(round_)
        # The tables first: a round without a row is run again, whatever else a kill leaves there.
        self.write_rounds([row for row in self.read_rounds() if row["round"] < round_])
        self.write_layers([row for row in self.read_layers() if row["round"] < round_])
        for result in (self.verdict, self.ticket, *_beyond(self.list_samples(), round_ - 1)):
            result.unlink(missing_ok=True)
        # Then masks: a search is over once its masks are saved, and is read where they are.
        for masks in _beyond(_numbered(self.masks(0).parent, r"(\d+)"), round_):
            shutil.rmtree(masks)
        for kind in ("json", "npz"):
            for search in _beyond(_numbered(self.search(0).parent, rf"(\d+)\.{kind}"), round_):
                search.unlink()
        snapshots = self.snapshot("last").parent
        inner = [_numbered(self.path, rf"{name}_(\d+)") for name in ("dense", "compact")]
        states = [
            *(path for found in inner for path in _beyond(found, round_ - 1)),
            *_beyond(_numbered(snapshots, r"search_(\d+)"), round_),
            *([self.snapshot("search"), self.snapshot("last")] if round_ else [snapshots]),
        ]
        for later in filter(Path.exists, states):
            shutil.rmtree(later)


def _number(round_: int) -> str:
    return f"{round_:03d}"


def _numbered(parent: Path, pattern: str) -> dict[int, Path]:
    """The entries of a directory whose whole name matches, by the number in the pattern's group, in their order."""
    entries = parent.iterdir() if parent.is_dir() else ()
    found = {int(match[1]): path for path in entries if (match := re.fullmatch(pattern, path.name))}
    return dict(sorted(found.items()))


def _beyond(numbered: Mapping[int, Path], round_: int) -> list[Path]:
    return [path for number, path in numbered.items() if number > round_]
