"""Files that are replaced as a whole: a reader, or a kill, sees either the old content or the new."""

import contextlib
import csv
import errno
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # The disk is, or what a user may have of it.

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
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(path)  # A write that fails does not name its file.
        raise
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def replace(path: os.PathLike, content: bytes) -> None:
    """Writes a file."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def read(path: Path) -> bytes:
    """The content of a file.

    Raises:
      OSError: it can't be read, or is a directory, a device or a pipe, which would be waited for.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.read_bytes()


def sync(*paths: Path) -> None:
    """Returns once files, and directories with the names in them, are durable."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:  # Some file systems have no such thing for directories.
            if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """Removes a file or a directory, if it is there; after a kill nothing half-removed has its name."""
    if path.is_dir() and not path.is_symlink():
        gone = path.with_name(f".{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


def temporaries(path: Path) -> list[Path]:
    """What kills have left of `atomic_write(path)`, where `path` may hold wildcards in its name."""
    return [*path.parent.glob(f".{path.stem}-{'[a-z0-9_]' * 8}{path.suffix}")]


# Tables.


def write_csv(path: Path, rows: list[dict]) -> None:
    """Writes a table; one without rows has no file."""
    if rows:
        replace(path, csv_bytes(rows))
    else:
        path.unlink(missing_ok=True)


def csv_bytes(rows: list[dict]) -> bytes:
    """A table as CSV; the columns are those of all rows."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)  # Rows of an older run may lack some.
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")  # Names of files need not be UTF-8.


def parse_csv(content: bytes) -> list[dict]:
    """The complete rows of a table, with numbers as numbers and empty cells as None.

    Raises:
      ValueError: it is no table.
    """
    try:
        # DictReader fills the cells that a cut row lacks with None.
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    whole = [row for row in rows if None not in row and None not in row.values()]
    return [{name: _value(cell) for name, cell in row.items()} for row in whole]


def _value(cell):
    if not cell:
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


# JSON.


def json_bytes(content, indent: int | None = 2) -> bytes:
    """A JSON text. JSON has no NaN and no infinity: such a number is null."""
    return json.dumps(_without_nan(content), indent=indent, allow_nan=False).encode()


def _without_nan(content):
    if isinstance(content, dict):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> dict | None:
    """The object in a JSON file; None if the file is missing, can't be read or holds no object."""
    try:
        return parse_json(read(path))
    except OSError:
        return None


def parse_json(content: bytes) -> dict | None:
    """The object in a JSON text; None if it holds none."""
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
