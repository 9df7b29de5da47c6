"""The user's cache directory: where it is, the compiled programs in it, and locks between processes."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.lock import hold


def path(*parts: str) -> pathlib.Path:
    """Returns `parts` joined below the cache directory, and creates nothing.

    The cache directory is $JAXTICKETS_CACHE, else $XDG_CACHE_HOME/jaxtickets, else ~/.cache/jaxtickets.

    Raises:
      UserError: the environment names no path.
    """
    if own := os.environ.get("JAXTICKETS_CACHE"):
        root = local_path(own, "JAXTICKETS_CACHE")
    else:
        root = local_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME") / "jaxtickets"
    return root.joinpath(*parts)


def directory(*parts: str) -> pathlib.Path:
    """Returns `path(*parts)`, and creates that directory.

    Raises:
      UserError: it can't be created.
    """
    found = path(*parts)
    with writing(found):
        found.mkdir(parents=True, exist_ok=True)
    return found


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns an error in writing at `path`, below the cache directory, into one line.

    Raises:
      UserError: the block has raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache directory {path}: {error.strerror or error}; allowed is a directory that can be written, "
            "in the environment's JAXTICKETS_CACHE"
        ) from None


def keep_compiled_programs() -> None:
    """Makes JAX keep its compiled programs in the cache directory, unless JAX_COMPILATION_CACHE_DIR names another one.

    Does nothing where the cache directory can't be written: that costs time, and no run.
    """
    import jax  # The rest of this module does without it.

    from jaxtickets import compiled_programs

    if not jax.config.jax_compilation_cache_dir:
        with contextlib.suppress(UserError, OSError):
            compiled_programs.guard(directory("xla"))
            jax.config.update("jax_compilation_cache_dir", str(directory("xla")))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # A start compiles many small ones.


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Holds the lock `name` (a file name) against every process that shares the cache directory; waits for it.

    A killed process blocks nobody for long (`jaxtickets.lock`).
    """
    with hold(directory("locks") / f"{name}.lock", "the cache directory", waits=True):
        yield
