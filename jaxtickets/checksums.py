"""Checksums of arrays: SHA-256 over names, types, shapes and values."""

import hashlib
from collections.abc import Mapping

import numpy as np


def of_arrays(arrays: Mapping[str, np.ndarray], also: str = "") -> str:
    """The SHA-256, as 64 hexadecimal digits, of named arrays and of a text that belongs to them.

    The order of the names does not matter; every name, type, shape, value and the text does.
    """
    digest = hashlib.sha256(also.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"\0{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()
