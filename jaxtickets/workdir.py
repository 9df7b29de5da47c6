"""Writing a workdir: the files of a run, as `docs/workdir.md` describes them."""

import csv
import io
import json
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

from jaxtickets import files
from jaxtickets.errors import UserError

PACKAGES = ("jaxtickets", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def create(path: Path, config: dict) -> None:
    """Makes the workdir, or finds that it belongs to the same config.

    Raises:
      UserError: the workdir belongs to another config or can't be written.
    """
    if (path / "config.json").exists():
        check_same(path, config)
        return
    origin = {
        "config": config,
        "command": shlex.join(sys.orig_argv),
        "versions": {"python": platform.python_version(), **_versions()},
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "cpu_count": os.cpu_count(),
        "git_revision": _git_revision(),
    }
    try:
        write_json(path / "config.json", origin)
    except OSError as error:
        raise UserError(f"--workdir={path}: {error.strerror}; allowed is a directory that can be written") from None


def check_same(path: Path, config: dict) -> None:
    """Refuses a workdir of another config, and names what differs; also one that is no workdir.

    Raises:
      UserError: as said.
    """
    try:
        old = json.loads((path / "config.json").read_text())["config"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"--workdir={path}: has no readable config.json; give another directory") from None
    if differing := differences(old, config):
        raise UserError(
            f"--workdir={path} belongs to a run with another config: {differing}; "
            "give another --workdir, or the same config to resume"
        )


def differences(there: dict, here: dict) -> str:
    """What differs between two configs of JSON values: `train.steps is 100 there and 200 here; ...`."""
    old, new = _flat(there), _flat(json.loads(json.dumps(here)))
    return "; ".join(
        f"{key} is {old.get(key, 'absent')!r} there and {new.get(key, 'absent')!r} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )


def _flat(tree, prefix=""):
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _versions():
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _git_revision():
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_csv(path: Path, rows: list[dict]) -> None:
    """The whole table at once, so that it never holds half a row; a table without rows is no file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)  # Rows of an older run may lack some.
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.replace(path, text.getvalue().encode())


def write_json(path: Path, content, indent: int | None = 2) -> None:
    files.replace(path, json.dumps(content, indent=indent).encode())


def write_arrays(path: Path, **arrays) -> None:
    """A NumPy `.npz` file."""
    with files.atomic_write(path) as temporary:
        np.savez(temporary, **arrays)


class Scalars:
    """`metrics.jsonl` and `tb/`: a row, and a TensorBoard point, for each logging step."""

    def __init__(self, path: Path, keep):
        """Rows for which `keep(row)` is false are dropped: a killed run wrote them, and this one will again."""
        import tensorboardX  # Slow to import, and not to be counted as training.

        self._tensorboard, self._make_writer = path / "tb", tensorboardX.SummaryWriter
        self._writers = {}
        file = path / "metrics.jsonl"
        if file.exists():
            rows = [row for row in _complete_rows(file) if keep(row)]
            files.replace(file, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self._file = file.open("a")

    def write(self, round_: int, step: int, split: str, seconds: float, scalars: dict[str, float]) -> None:
        row = {"round": round_, "step": step, "split": split, "seconds": round(seconds, 3), **scalars}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        writer = self._writer(f"round_{round_:03d}", step)
        for name, value in scalars.items():
            writer.add_scalar(f"{split}/{name}", value, step)

    def write_round(self, round_: int, row: dict, samples) -> None:
        """The finished round's row, against the round, and its sample grid `[height, width, channels]` uint8."""
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
        self._file.close()
        for writer in self._writers.values():
            writer.close()


def read_scalars(path: Path, round_: int) -> list[dict]:
    """The rows of `metrics.jsonl` of a round that was logged in the workdir `path`."""
    file = path / "metrics.jsonl"
    return [row for row in _complete_rows(file) if row["round"] == round_] if file.exists() else []


def _complete_rows(file):
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # A kill cut the last line short.
            continue


def read_csv(path: Path) -> list[dict]:
    """The rows of a table, numbers as numbers and empty cells as None; a cut row is left out, no file has no rows."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        # DictReader fills the cells that a cut row lacks with None.
        rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
    return [{name: _number(cell) for name, cell in row.items()} for row in rows]


def _number(text):
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
