"""The files of a run: `Workdir` starts and takes back what `docs/workdir.md` describes.

`paths.py` names the files, `records.py` reads and writes them. Importing this module loads neither JAX nor Orbax nor
TensorBoard.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtickets import files
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.origin import completed, differences, differing, origin
from jaxtickets.paths import PICTURES, SNAPSHOTS, beyond
from jaxtickets.progress import say
from jaxtickets.records import Records

# The columns of rounds.csv that every run has, beside those of its metrics and of its method.
ROUND_COLUMNS = (
    *("seed", "round", "sparsity", "sparsity_all", "density", "flops_dense", "flops_effective", "params_kept"),
    *("train_seconds", "steps_per_second", "step_bytes", "learning_rate_factor", "diverged_step"),
)

Refused = Callable[[dict, dict], str]

__all__ = ["ROUND_COLUMNS", "SNAPSHOTS", "Workdir"]


class Workdir(Records):
    """The directory of one run: it is started and resumed, and taken back to an earlier round."""

    def _repr_html_(self) -> str | None:
        """The run's report, as the value of a notebook's cell; None without a run, or if its files are damaged."""
        if not self.is_started:
            return None
        from jaxtickets import report  # Loads Matplotlib.

        try:
            return report.show(self)._repr_html_()
        except (DamagedError, UserError) as error:
            say(str(error))
            return None

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
        """Refuses a directory that can't be made or written, or that is no workdir and not empty; writes nothing.

        Raises:
          UserError: it is a file, the nearest existing directory above it can't be written, or it holds files and no
            config.json.
        """
        flag, allowed = f"--workdir={self.path}", "allowed is a directory that can be written"
        if wrong := re.findall(r"[][*?\\\udc80-\udcff]", str(self.path.resolve())):
            held = "bytes that are no text" if wrong[0] >= "\udc80" else wrong[0]
            raise UserError(f"{flag}: its path holds {held}, which Orbax can't save under; give another one")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{flag}: is a file; {allowed}")
        above = self.path
        while not above.exists():
            above = above.parent
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"{flag}: {above} can't be written; {allowed}")
        self._check_ours()

    def _check_ours(self):
        """Refuses a directory with somebody's files: one without config.json that is not empty."""
        if self.is_started or not self.path.is_dir():
            return
        # A kill before config.json leaves hidden files and the checksums.
        names = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
        if others := [name for name in names if name != self.checksums.name]:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise UserError(
                f"--workdir={self.path}: has no {self.config.name}, but {', '.join(others[:3])}{more}; allowed is a "
                f"new or an empty directory, or the workdir of a run (one that has lost its {self.config.name} needs "
                "a copy of it)"
            )

    def create(
        self, config: dict, defaults: Mapping[str, Any], about: dict | None = None, refused: Refused = differences
    ) -> None:
        """Makes the workdir, or checks that an existing one belongs to the same config and leaves it as it is.

        With another config that is not refused, the run is unfinished again, and has that config from now on. What
        kills have left of files that were being written is removed.

        Args:
          config: the config as JSON values.
          defaults: the value of each field for a config.json that lacks it, nested as in `config`.
          about: what reports call the method, its columns and the metrics: `about` in docs/workdir.md.
          refused: see `check_same`.

        Raises:
          UserError: the workdir belongs to another config, holds somebody's files or can't be written.
          OSError: the disk is full.
        """
        if self.is_started:
            self.check_same(config, defaults, refused)
        self._check_ours()
        try:
            self.clear_leftovers()
            if not self.is_started:
                self.path.mkdir(parents=True, exist_ok=True)
                self._write_json(self.config, origin(config, about))
            elif changes := self.changes(config, defaults):
                self.remove_verdict()  # First, so that a verdict is never that of another config.
                self.replace_config(config, about, changes)
        except OSError as error:
            if error.errno in files.FULL:
                raise
            raise UserError(
                f"--workdir={self.path}: {error.strerror}; allowed is a directory that can be written"
            ) from None

    def clear_leftovers(self) -> None:
        """Removes what runs that were killed have left of files that they wrote and directories that they removed."""
        own = [path for path in vars(self).values() if isinstance(path, Path) and path.parent == self.path]
        of_rounds = [self.samples(0), self.weights(0), self.search(0), self.search(0).with_suffix(".npz")]
        of_rounds.append(self.picture(PICTURES[0], 0))
        for path in (*own, *(path.with_stem("*") for path in of_rounds), self.plot("*")):
            for leftover in files.temporaries(path):
                leftover.unlink(missing_ok=True)
        for name in ("snapshots", "compact_*", "dense_*"):  # Half-removed; snapshots have recovered by themselves.
            for leftover in self.path.glob(f".{name}.gone"):
                shutil.rmtree(leftover)

    def check_same(self, config: dict, defaults: Mapping[str, Any], refused: Refused = differences) -> None:
        """Refuses the workdir of another config, and names the fields that differ; also a directory without a run.

        A field that config.json lacks counts with the value in `defaults`, so that a run that was started before the
        field existed can be resumed.

        Args:
          config, defaults: see `create`.
          refused: `(config there, config here) -> ` the fields that differ and may not, in words; "" for none.

        Raises:
          UserError: the workdir has no readable config.json, or belongs to another config.
        """
        old = self.read_config()
        if old is None:
            raise UserError(f"--workdir={self.path}: has no readable config.json; give another directory")
        if wrong := refused(completed(old, defaults), config):
            raise UserError(
                f"--workdir={self.path} belongs to a run with another config: {wrong}; "
                "give another --workdir, or the same config to resume"
            )

    def changes(self, config: dict, defaults: Mapping[str, Any]) -> list[str]:
        """The fields in which the config of a started run differs from another one, in words; see `check_same`."""
        return list(differing(completed(self.read_config() or {}, defaults), config).values())

    # Going back.

    def check_finished(self, round_: int) -> None:
        """Refuses to go back to a round that has not been finished; to round 0 the tables may be damaged.

        Raises:
          UserError: the run has no such round, or has not finished it.
          DamagedError: a table is damaged.
        """
        try:
            rows, _ = self.read_rounds(), self.read_layers()
        except DamagedError:
            if round_ == 0:
                return
            raise
        if not 0 <= round_ < len(rows):
            finished = f"0 to {len(rows) - 1}" if rows else "none yet"
            raise UserError(f"--from_round={round_}: no such finished round in {self.path}; allowed are {finished}")

    def discard_from(self, round_: int) -> None:
        """Takes the run back to the start of a round: its masks stay, its results and all later rounds go.

        Raises:
          UserError: the round has not been finished; nothing is discarded then.
        """
        self.check_finished(round_)
        tables = {
            write: [row for row in read() if row["round"] < round_] if round_ else []
            for read, write in ((self.read_rounds, self.write_rounds), (self.read_layers, self.write_layers))
        }
        # The tables first: a round without a row is run again, whatever else a kill leaves there.
        for write, rows in tables.items():
            write(rows)
        results = [path for found in (self.list_samples(), self.list_weights()) for path in beyond(found, round_ - 1)]
        # Then masks: a search is over once its masks are saved, and is read where they are.
        masks = beyond(self.list_masks(), round_)
        searches = [path for suffix in (".json", ".npz") for path in beyond(self.list_searches(suffix), round_)]
        states = [
            *(path for found in self.list_inner() for path in beyond(found, round_ - 1)),
            *beyond(self.list_search_ends(), round_),
            *(map(self.snapshot, ("start", "search", "last")) if round_ else [self.snapshot("last").parent]),
        ]
        of_dense = () if round_ else (self.references,)
        self.remove_verdict()
        for path in (self.ticket, *results, *of_dense, *masks, *searches, *states):
            self._verified.remove(path)
