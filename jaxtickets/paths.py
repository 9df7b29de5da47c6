"""The names of all files of a run: `Paths`. No other module knows one; `docs/workdir.md` describes them.

Importing this module loads neither JAX nor Orbax nor TensorBoard.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from jaxtickets.local_paths import local_path

PICTURES = ("interpolation", "traversal", "reconstruction", "nearest")  # Of the latent space.
SNAPSHOTS = ("init", "rewind", "dense", "start", "last", "search")


class Paths:
    """The paths in the directory of one run; what they lead to need not exist.

    Members named by a noun return a path, or the `Paths` of an inner run. `list_...` returns what is there, by round.

    Attributes:
      path: the directory.
      lock: the file of the process that writes here (`jaxtickets.lock`).
      checksums: the JSON file of the checksums of the other files.
      config: the JSON file of the config, the command, the versions, the devices and the names for reports.
      scalars: the JSON lines of the logged scalars, one line per logging step.
      tensorboard: the directory of the TensorBoard runs.
      rounds: the table with one row per finished round.
      layers: the table with one row per finished round and prunable layer.
      references: the JSON file of what each metric gives for held-out images and for the untrained network.
      verdict: the JSON file of the verdict.
      ticket: the file of the sparsest ticket within the tolerance.
      transfer: the JSON file that says which layers a transfer has moved.
      report_page: the HTML file of the report.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = local_path(path, "workdir") if isinstance(path, str) else Path(path)
        self.lock = self.path / ".lock"
        self.checksums = self.path / "checksums.json"
        self.config = self.path / "config.json"
        self.scalars = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tb"
        self.rounds = self.path / "rounds.csv"
        self.layers = self.path / "layers.csv"
        self.references = self.path / "references.json"
        self.verdict = self.path / "verdict.json"
        self.ticket = self.path / "ticket.safetensors"
        self.transfer = self.path / "transfer.json"
        self.report_page = self.path / "report.html"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __eq__(self, other) -> bool:
        return isinstance(other, Paths) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    # Files of a round.

    def masks(self, round_: int) -> Path:
        """The Orbax directory of the masks that a round trains under."""
        return self.path / "masks" / _number(round_)

    def weights(self, round_: int) -> Path:
        """The file of a round's trained weights; `trained.py` says what is in it."""
        return self.path / "weights" / f"{_number(round_)}.safetensors"

    def snapshot(self, name: str) -> Path:
        """The Orbax directory of a train state: `init`, `rewind`, `dense`, `start`, `last` or `search`."""
        if name not in SNAPSHOTS:
            raise ValueError(f"snapshot {name!r}: allowed are {', '.join(SNAPSHOTS)}")
        return self.path / "snapshots" / name

    @property
    def has_saved(self) -> bool:
        """Whether a train state has been saved from which a run goes on, of any seed."""
        states = (path for name in ("last", "search") for path in self.path.rglob(f"{self.snapshot(name).name}/*"))
        return any(path.name.isdecimal() and path.parts[-3] == "snapshots" for path in states)

    def search_end(self, round_: int) -> Path:
        """The Orbax directory of the train state at the end of a round's early-bird search."""
        return self.path / "snapshots" / f"search_{_number(round_)}"

    def search(self, round_: int) -> Path:
        """The JSON file of a round's early-bird search; the `.npz` file beside it has the masks that were drawn."""
        return self.path / "search" / f"{_number(round_)}.json"

    def samples(self, round_: int) -> Path:
        """The PNG file of a round's sample grid."""
        return self.path / "samples" / f"round_{_number(round_)}.png"

    def picture(self, kind: str, round_: int) -> Path:
        """The PNG file of a picture of a round's latent space; the kinds are those of `PICTURES`."""
        return self.path / "latent" / f"{kind}_{_number(round_)}.png"

    def plot(self, name: str) -> Path:
        """The SVG file of one of the report's plots."""
        return self.path / "plots" / f"{name}.svg"

    # What is there of each round; other names than a run gives are left out.

    def list_masks(self) -> dict[int, Path]:
        """The saved masks."""
        return numbered(self.masks)

    def list_weights(self) -> dict[int, Path]:
        """The saved weights."""
        return numbered(self.weights)

    def list_samples(self) -> dict[int, Path]:
        """The sample grids."""
        return numbered(self.samples)

    def list_pictures(self) -> dict[str, dict[int, Path]]:
        """The pictures of the latent space, by kind and round."""
        return {kind: numbered(partial(self.picture, kind)) for kind in PICTURES}

    def list_searches(self, suffix: str = ".json") -> dict[int, Path]:
        """The files of the searches that end in `suffix`."""
        return numbered(lambda round_: self.search(round_).with_suffix(suffix))

    def list_search_ends(self) -> dict[int, Path]:
        """The train states at the ends of searches."""
        return numbered(self.search_end)

    def list_inner(self) -> list[dict[int, Path]]:
        """The directories of the inner runs, those of each kind by round."""
        return [numbered(lambda round_, kind=kind: kind(round_).path) for kind in (self.narrow, self.compact)]

    def contents(self) -> dict[str, list[Path]]:
        """The files and directories of this run and of those inside it that may be there, by what needs them.

        `tables` are read by reports, `networks` by `evaluate` and `sample`, and are tickets; from `states` a run goes
        on, and controls start. What is made again from these is in none of them.
        """
        tables = [self.config, self.checksums, self.scalars, self.rounds, self.layers, self.references, self.verdict]
        tables += [self.transfer, self.samples(0).parent, self.picture(PICTURES[0], 0).parent, self.search(0).parent]
        found = {
            "tables": tables,
            "networks": [self.weights(0).parent, self.ticket],
            "states": [self.masks(0).parent, self.snapshot("init").parent],
        }
        inner = [type(self)(path) for by_round in self.list_inner() for path in by_round.values()]
        for run in (*self.seed_dirs().values(), *inner):
            for kind, paths in run.contents().items():
                found[kind] += paths
        return found

    # Runs inside this one.

    def compact(self, round_: int) -> Self:
        """The run of a round's network after its pruned channels were taken out."""
        return type(self)(self.path / f"compact_{_number(round_)}")

    def narrow(self, round_: int) -> Self:
        """The run of the narrow dense network that is the control of a round's ticket."""
        return type(self)(self.path / f"dense_{_number(round_)}")

    def seed_dir(self, seed: int) -> Self:
        """The run of one of several seeds."""
        return type(self)(self.path / f"seed_{seed}")

    def seed(self, seed: int) -> Self:
        """The run of a seed: a directory of its own where there is one, else this workdir."""
        own = self.seed_dir(seed)
        return own if own.path.is_dir() else self

    def seed_dirs(self) -> dict[int, Self]:
        """The runs of several seeds that have been started, by seed; empty in the workdir of a single run."""
        found = numbered(lambda seed: self.seed_dir(seed).path)
        return {seed: type(self)(path) for seed, path in found.items()}


def _number(round_: int) -> str:
    return f"{round_:03d}"


def numbered(path: Callable[[int], Path]) -> dict[int, Path]:
    """The entries of a directory whose names are exactly those that `path(number)` gives, in the numbers' order."""
    folder = path(0).parent
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    numbers = sorted({int(digits) for name in names for digits in re.findall("[0-9]+", name)})
    return {number: found for number in numbers if (found := path(number)).name in names}


def beyond(by_round: Mapping[int, Path], round_: int) -> list[Path]:
    """The paths of all rounds after `round_`."""
    return [path for number, path in by_round.items() if number > round_]
