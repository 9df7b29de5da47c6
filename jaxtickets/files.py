"""Writing files so that a reader, or a kill, sees either the old content or the new."""

import os
import tempfile
from pathlib import Path


def replace(path: os.PathLike, content: bytes) -> None:
    """Writes `content` to a temporary file beside `path`, makes it durable and puts it in its place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
