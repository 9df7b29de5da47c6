"""The user's cache directory: where it is, the compiled programs in it, and locks between processes."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from jaxtickets.errors import UserError


def directory(*parts: str) -> pathlib.Path:
    """Returns `parts` joined below the cache directory, and creates that directory.

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


def keep_compiled_programs() -> None:
    """Makes JAX keep its compiled programs in the cache directory, unless JAX_COMPILATION_CACHE_DIR names another one.

    Does nothing where the cache directory can't be written: that costs time, and no run.
    """
    import jax  # The rest of this module does without it.

    if not jax.config.jax_compilation_cache_dir:
        with contextlib.suppress(UserError):
            jax.config.update("jax_compilation_cache_dir", str(directory("xla")))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # A start compiles many small ones.


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Holds the lock `name` (a file name) against every process that shares the cache directory; waits for it.

    The kernel drops the lock when its holder dies, so a killed process blocks nobody.
    """
    with open(directory("locks") / f"{name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
