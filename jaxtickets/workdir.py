"""The files of a run: `Workdir` reads and writes what `docs/workdir.md` describes; `paths.py` names it.

Importing this module loads neither JAX nor Orbax nor TensorBoard.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxtickets.errors import UserError
from jaxtickets.files import (
    atomic_write,
    read_csv,
    read_json,
    read_json_lines,
    replace,
    write_arrays,
    write_csv,
    write_json,
)
from jaxtickets.origin import completed, differences, origin
from jaxtickets.paths import SNAPSHOTS, Paths, beyond
from jaxtickets.scalars import Scalars

# The columns of rounds.csv that every run has, beside those of its metrics and of its method.
ROUND_COLUMNS = (
    *("seed", "round", "sparsity", "sparsity_all", "density", "flops_dense", "flops_effective", "params_kept"),
    *("train_seconds", "steps_per_second", "step_bytes"),
)

__all__ = ["ROUND_COLUMNS", "SNAPSHOTS", "Workdir"]


class Workdir(Paths):
    """The directory of one run, and what is written in it.

    `read_...` returns the content of a file: [] for a table without a file, None for JSON that is missing or can't be
    read. `write_...` replaces the whole file at once, so that a kill leaves the old content or the new.
    """

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
        found = self.list_searches().items()
        return {round_: content for round_, path in found if (content := read_json(path)) is not None}

    def read_references(self) -> dict[str, dict[str, Any]]:
        """What each metric gives for held-out images and for the untrained network; {} where it is not known."""
        return read_json(self.references) or {}

    def write_references(self, references: dict[str, dict[str, Any]]) -> None:
        """Replaces references.json."""
        write_json(self.references, references)

    def copy_weights(self, round_: int, other: "Workdir", theirs: int) -> None:
        """Takes over the weights that another run has of its round `theirs`, if any, as those of `round_`."""
        if other.weights(theirs).exists():
            replace(self.weights(round_), other.weights(theirs).read_bytes())

    def keep_weights(self, rounds: Collection[int]) -> None:
        """Deletes the weights of all other rounds."""
        for round_, weights in self.list_weights().items():
            if round_ not in rounds:
                weights.unlink()

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
        of_rounds = [path for found in (self.list_samples(), self.list_weights()) for path in beyond(found, round_ - 1)]
        of_dense = () if round_ else (self.references,)
        for result in (self.verdict, self.ticket, *of_rounds, *of_dense):
            result.unlink(missing_ok=True)
        # Then masks: a search is over once its masks are saved, and is read where they are.
        for masks in beyond(self.list_masks(), round_):
            shutil.rmtree(masks)
        for suffix in (".json", ".npz"):
            for search in beyond(self.list_searches(suffix), round_):
                search.unlink()
        states = [
            *(path for found in self.list_inner() for path in beyond(found, round_ - 1)),
            *beyond(self.list_search_ends(), round_),
            *([self.snapshot("search"), self.snapshot("last")] if round_ else [self.snapshot("last").parent]),
        ]
        for later in filter(Path.exists, states):
            shutil.rmtree(later)
