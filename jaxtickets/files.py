"""Files that are replaced as a whole: a reader, or a kill, sees either the old content or the new."""

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Read once: it can only be read by changing it, which other threads would notice.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_write(path: os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path` that becomes `path` when the block ends, and is removed if it raises."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    temporary = Path(name)
    try:
        yield temporary
        os.fsync(handle)
        # mkstemp makes the file private; files that several users share need the usual permissions.
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, path)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def replace(path: os.PathLike, content: bytes) -> None:
    """Writes a file."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


# Tables.


def write_csv(path: Path, rows: list[dict]) -> None:
    """Writes a table; the columns are those of all rows. A table without rows has no file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)  # Rows of an older run may lack some.
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace(path, text.getvalue().encode())


def read_csv(path: Path) -> list[dict]:
    """The complete rows of a table, with numbers as numbers and empty cells as None; [] if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        # DictReader fills the cells that a cut row lacks with None.
        rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
    return [{name: _value(cell) for name, cell in row.items()} for row in rows]


def _value(cell):
    if not cell:
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


# JSON and arrays.


def write_json(path: Path, content, indent: int | None = 2) -> None:
    """Writes a JSON file."""
    replace(path, json.dumps(content, indent=indent).encode())


def read_json(path: Path) -> dict | None:
    """The object in a JSON file; None if the file is missing, can't be read or holds no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_json_lines(path: Path) -> list[dict]:
    """The objects in a file of JSON lines, without a line that a kill has cut short; [] if there is no file."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def write_arrays(path: Path, **arrays) -> None:
    """Writes a NumPy `.npz` file."""
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)
