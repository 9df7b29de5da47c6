"""What is read and written in the directory of a run: `Records`.

Importing this module loads neither JAX nor Orbax nor TensorBoard.
"""

import errno
import io
import os
import shlex
import sys
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from jaxtickets import files, scalars
from jaxtickets.errors import DamagedError
from jaxtickets.paths import Paths
from jaxtickets.progress import say
from jaxtickets.scalars import Scalars
from jaxtickets.verified import Verified

BY_RUN = "the command of its run writes it again"


class Records(Paths):
    """The directory of one run, and the files in it whose content is text, numbers or an image.

    `read_...` returns the content of a file: [] for a table without a file, None for JSON that is missing or, in a
    workdir of an older version, can't be read. It raises `DamagedError` for a file that is not what was written.
    `write_...` replaces the whole file at once, so that a kill leaves the old content or the new.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        self._verified = Verified(self.checksums, lambda: "checksums" in (files.read_json(self.config) or {}))

    def read_origin(self) -> dict | None:
        """The content of config.json: the config and what the run was started with."""
        content = self._read_json(self.config, "put back a copy of it, or give another --workdir")
        return content if content is not None and isinstance(content.get("config"), dict) else None

    def read_config(self) -> dict | None:
        """The config that the run was started with, as JSON values."""
        content = self.read_origin()
        return None if content is None else content["config"]

    def read_data(self) -> dict[str, str] | None:
        """The digests of the run's data by the name of the split; None if an older version has kept none."""
        return ((self.read_origin() or {}).get("about") or {}).get("data")

    def add_data(self, digests: dict[str, str]) -> None:
        """Adds the digests of the run's data to config.json, if they are missing there."""
        origin = self.read_origin()
        if origin is not None and self.read_data() is None:
            self._write_json(self.config, origin | {"about": (origin.get("about") or {}) | {"data": digests}})

    def replace_config(self, config: dict, about: dict | None, changes: list[str]) -> None:
        """Gives the run another config, the command of this process, and a note of what has changed.

        Args:
          config: as JSON values.
          about: what reports call the method, its columns and the metrics; None: as before.
          changes: the fields that differ, in words.
        """
        old = self.read_origin()
        note = {"from_command": old.get("command"), "fields": changes}
        changed = {"config": config, "command": shlex.join(sys.orig_argv), "changes": [*old.get("changes", []), note]}
        known = old.get("about") or {}
        self._write_json(self.config, {**old, **changed, "about": {**known, **(about or {})}})

    def read_rounds(self) -> list[dict]:
        """The rows of rounds.csv."""
        return self._read_table(self.rounds)

    def write_rounds(self, rows: list[dict]) -> None:
        """Replaces rounds.csv."""
        self._write_table(self.rounds, rows)

    def read_layers(self) -> list[dict]:
        """The rows of layers.csv."""
        return self._read_table(self.layers)

    def write_layers(self, rows: list[dict]) -> None:
        """Replaces layers.csv."""
        self._write_table(self.layers, rows)

    def read_scalars(self, round_: int | None = None) -> list[dict]:
        """The rows of metrics.jsonl, those of one round if it is given; damaged ones are left out, which is said."""
        return [row for row in scalars.read(self.scalars) if round_ is None or row.get("round") == round_]

    def open_scalars(self, keep: Callable[[dict], bool]) -> Scalars:
        """The writer of metrics.jsonl and of the TensorBoard runs; rows already there stay if `keep(row)` holds."""
        return Scalars(self.scalars, self.tensorboard, keep, self._recorded)

    def _recorded(self):
        """`(row, sample grid or None)` of each finished round."""
        for row in self.read_rounds():
            try:
                yield row, self.read_samples(row["round"])
            except (OSError, DamagedError):
                yield row, None

    def read_samples(self, round_: int) -> np.ndarray:
        """A round's sample grid, `[height, width, 3]` uint8.

        Raises:
          OSError: there is none.
          DamagedError: it can't be read as an image, or is not what was written.
        """
        return self._read_image(self.samples(round_))

    def write_samples(self, round_: int, grid: np.ndarray) -> None:
        """Replaces a round's sample grid, `[height, width, 3]` uint8."""
        self._write_image(self.samples(round_), grid)

    def read_picture(self, kind: str, round_: int) -> np.ndarray:
        """A picture of a round's latent space, `[height, width, 3]` uint8; raises as `read_samples` does."""
        return self._read_image(self.picture(kind, round_))

    def write_picture(self, kind: str, round_: int, picture: np.ndarray) -> None:
        """Replaces a picture of a round's latent space, `[height, width, 3]` uint8."""
        self._write_image(self.picture(kind, round_), picture)

    def _read_image(self, path):
        from PIL import Image

        content = self._verified.read(path)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        try:
            return np.asarray(Image.open(io.BytesIO(content), formats=("PNG",)))
        except Exception as error:  # Pillow raises several for damaged images.
            raise DamagedError(f"{path}: can't be read as an image ({error})") from None

    def _write_image(self, path, image):
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(image).save(content, "png")
        self._write(path, content.getvalue())

    def read_search(self, round_: int) -> tuple[dict, np.ndarray] | None:
        """A round's search as `write_search` has saved it.

        The masks may be one more or some fewer than the content says, where a kill came between the two files.
        """
        path = self.search(round_)
        arrays, text = self._verified.read(path.with_suffix(".npz")), self._verified.read(path)
        if arrays is None or text is None:
            return None
        if (content := files.parse_json(text)) is None:
            raise DamagedError(f"{path}: can't be read as JSON")
        try:
            return content, np.load(io.BytesIO(arrays))["masks"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DamagedError(f"{path.with_suffix('.npz')}: can't be read ({error})") from None

    def write_search(self, round_: int, content: dict, masks: np.ndarray) -> None:
        """Replaces a round's search.

        Args:
          content: see docs/workdir.md.
          masks: `[n, bytes]` uint8, the n masks that were drawn, eight entries per byte.
        """
        path, arrays = self.search(round_), io.BytesIO()
        np.savez(arrays, masks=masks)
        self._write(path.with_suffix(".npz"), arrays.getvalue())
        self._write_json(path, content)

    def remove_search(self, round_: int) -> None:
        """Removes a round's search, if there is one."""
        for path in (self.search(round_), self.search(round_).with_suffix(".npz")):
            self._verified.remove(path)

    def read_searches(self) -> dict[int, dict]:
        """The content of every search that can be read, by round; a damaged one is left out, which is said."""
        found = {}
        for round_, path in self.list_searches().items():
            try:
                content = self._read_json(path)
            except DamagedError as error:
                say(f"{error}; it is left out")
                continue
            if content is not None:
                found[round_] = content
        return found

    def read_references(self) -> dict[str, dict[str, Any]]:
        """What each metric gives for held-out images and for the untrained network; {} where it is not known."""
        return self._read_json(self.references, BY_RUN) or {}

    def write_references(self, references: dict[str, dict[str, Any]]) -> None:
        """Replaces references.json."""
        self._write_json(self.references, references)

    def keep_weights(self, rounds: Collection[int]) -> None:
        """Deletes the weights of all other rounds."""
        for round_, weights in self.list_weights().items():
            if round_ not in rounds:
                weights.unlink()

    def read_verdict(self) -> dict | None:
        """The verdict; None while the run is unfinished."""
        return self._read_json(self.verdict, BY_RUN)

    def write_verdict(self, verdict: dict) -> None:
        """Replaces the verdict; the run is finished then."""
        self._write_json(self.verdict, verdict)

    def remove_verdict(self) -> None:
        """Removes the verdict, and the pictures of the rounds that it compares; the run is unfinished then."""
        self._verified.remove(self.verdict)
        for by_round in self.list_pictures().values():
            for path in by_round.values():
                self._verified.remove(path)

    def lost(self) -> list[Path]:
        """The files that have been written and are gone, of those that have checksums."""
        return self._verified.lost()

    def write_transfer(self, content: dict) -> None:
        """Replaces the list of the layers that a transfer has moved."""
        self._write_json(self.transfer, content)

    def _read_table(self, path):
        try:
            rows = files.parse_csv(self._verified.read(path) or b"")
            if any(not isinstance(row.get("round"), int) for row in rows):
                raise DamagedError(f"{path}: a row has no round")
        except DamagedError as error:
            raise DamagedError(f"{error}; {self._remedy_of_table}") from None
        except ValueError as error:
            raise DamagedError(f"{path}: can't be read as a table ({error}); {self._remedy_of_table}") from None
        return rows

    @property
    def _remedy_of_table(self):
        if self.seed_dirs():  # Of all seeds, whose own tables are there.
            return BY_RUN
        if type(self)(self.path.parent).config.exists():
            return f"put back a copy of it, or remove {self.path}, and the command of its run makes all of it again"
        return "put back a copy of it, or run all rounds again with --from_round=0"

    def _write_table(self, path, rows):
        if rows:
            self._write(path, files.csv_bytes(rows))
        else:
            self._verified.remove(path)

    def _read_json(self, path, advice=""):
        try:
            content = self._verified.read(path)
        except DamagedError as error:
            raise DamagedError(f"{error}; {advice}" if advice else str(error)) from None
        return None if content is None else files.parse_json(content)

    def _write_json(self, path, content):
        self._write(path, files.json_bytes(content))

    def _write(self, path, content):
        if not self.path.is_dir():  # A directory that somebody has removed is not made again, with a part of the run.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        self._verified.write(path, content)
