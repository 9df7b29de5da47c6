"""Files of arrays in the user's cache directory, each with a checksum that is verified when it is read.

Small ones are safetensors files (`tensor_files`). Tables that are mapped into memory are `.npy` files; their last 32
bytes, which NumPy leaves alone, are the SHA-256 of all that comes before.
"""

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxtickets import cache, files, tensor_files
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.progress import say

KEY = "cached"  # Of the metadata.
BLOCK = 1 << 24  # The number of bytes that are hashed at a time.
DIGEST = 32  # Its length in bytes.
T = TypeVar("T")


def get(path: Path, read: Callable[[Path], T], make: Callable[[Path], None]) -> T:
    """What `read(path)` returns, after `make(path)` where there is no such file, or a damaged one, which is told.

    Other processes wait for one that makes it.
    """
    if path.exists():
        with contextlib.suppress(DamagedError):  # Told below, unless another process has made it again.
            return read(path)
    with cache.lock(path.name):
        if path.exists():
            try:
                return read(path)
            except DamagedError as error:
                say(str(error))
        with cache.writing(path):
            for leftover in files.temporaries(path):
                leftover.unlink(missing_ok=True)
        make(path)
    return read(path)


# Safetensors files.


def write(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any] | None = None) -> None:
    """Writes named arrays, and what is known about them as JSON values.

    Raises:
      UserError: the directory can't be written.
    """
    with cache.writing(path):
        tensor_files.write(path, KEY, arrays, about or {})


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write` has written: `(arrays, about)`. A file of an older version has no checksum and gets it.

    Raises:
      DamagedError: it can't be read, or is not what was written.
    """
    with tensor_files.reading(path, "what the cache has kept", "it is made again"):
        arrays, metadata = tensor_files.read(path)
        if KEY in metadata:
            about = tensor_files.parse(metadata[KEY])
            tensor_files.verify(arrays, about)
            return arrays, about
    with contextlib.suppress(UserError):  # The directory may be one that is only read.
        write(path, arrays, metadata)
    return arrays, metadata


# Tables.


def write_table(path: Path, batches: Iterable[np.ndarray], count: int) -> None:
    """Writes `[count, n]` float32, given as batches of rows.

    Raises:
      UserError: the directory can't be written.
    """
    digest, header = hashlib.sha256(), io.BytesIO()
    with cache.writing(path), files.atomic_write(path) as temporary, temporary.open("wb") as file:

        def write(content):
            digest.update(content)
            file.write(content)

        for batch in batches:
            if not header.tell():
                described = {"descr": "<f4", "fortran_order": False, "shape": (count, batch.shape[1])}
                np.lib.format.write_array_header_1_0(header, described)
                write(header.getvalue())
            write(np.ascontiguousarray(batch, "<f4").data)
        file.write(digest.digest())


def map_table(path: Path) -> np.ndarray:
    """What `write_table` has written, mapped from disk.

    Raises:
      DamagedError: it can't be read, or is not what was written.
    """
    with tensor_files.reading(path, "what the cache has kept", "it is made again"):
        digest, left = hashlib.sha256(), path.stat().st_size - DIGEST
        with path.open("rb") as file:
            while block := file.read(min(BLOCK, max(left, 0))):
                digest.update(block)
                left -= len(block)
            if file.read() != digest.digest():
                raise ValueError("its content is not what was written: the checksum differs")
        return np.load(path, mmap_mode="r")
