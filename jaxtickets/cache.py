"""The user's cache directory: where it is, and locks between processes."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from jaxtickets.errors import UserError


def directory(*parts: str) -> pathlib.Path:
    """Returns `parts` joined below the cache directory, and creates it.

    The cache directory is $JAXTICKETS_CACHE, else $XDG_CACHE_HOME/jaxtickets, else ~/.cache/jaxtickets.

    Raises:
      UserError: it can't be created.
    """
    if own := os.environ.get("JAXTICKETS_CACHE"):
        root = pathlib.Path(own).expanduser()
    else:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxtickets"
    path = root.joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache directory {path}: {error.strerror}; allowed is a directory that can be written, "
            "in the environment's JAXTICKETS_CACHE"
        ) from None
    return path


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Holds the lock called `name` (a file name) against every process that shares the cache directory; waits for it.

    The kernel drops the lock when its holder dies, so a killed process blocks nobody.
    """
    with open(directory("locks") / f"{name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
