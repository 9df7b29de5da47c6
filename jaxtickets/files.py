"""Writing files so that a reader, or a kill, sees either the old content or the new."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
        # mkstemp makes the file private; what several users share needs the usual permissions.
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, path)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def replace(path: os.PathLike, content: bytes) -> None:
    """Writes `content` in the place of `path`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
