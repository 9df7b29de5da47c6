"""The user's cache directory: where it is, whole-or-nothing writes, and locks between processes."""

import contextlib
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator


def directory(*parts: str) -> pathlib.Path:
    """Returns `parts` joined below the cache directory, and creates it.

    The cache directory is $JAXTICKETS_CACHE, else $XDG_CACHE_HOME/jaxtickets, else ~/.cache/jaxtickets.
    """
    if own := os.environ.get("JAXTICKETS_CACHE"):
        root = pathlib.Path(own).expanduser()
    else:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxtickets"
    path = root.joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path` that becomes `path` when the block ends, and is removed if it raises.

    Readers see the old file or the whole new one, never a part.
    """
    path = pathlib.Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; a cache that several users share needs the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Holds the lock called `name` (a file name) against every process that shares the cache directory; waits for it.

    The kernel drops the lock when its holder dies, so a killed process blocks nobody.
    """
    with open(directory("locks") / f"{name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
