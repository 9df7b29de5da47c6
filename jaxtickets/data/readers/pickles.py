"""Reads pickled dictionaries of arrays, such as CIFAR's Python version, without executing anything."""

import io
import math
import pickle
import pickletools
import re
from typing import Any

import numpy as np


class _DType:
    """Stands for `numpy.dtype` of whole numbers or floats."""

    def __init__(self, code, align=False, copy=True):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not (isinstance(code, str) and re.fullmatch(r"[uif][1248]|b1", code)):
            raise pickle.UnpicklingError(f"an array of {code!r}")
        self.value = np.dtype(code)

    def __setstate__(self, state):
        order = state[1]
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if order not in ("|", "<", ">", "=") or any(state[3:5]) or state[2] is not None:
            raise pickle.UnpicklingError("an array of records")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for an array. `value` is the real one."""

    value: Any = None

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, content = state
        good = isinstance(dtype, _DType) and isinstance(content, bytes) and isinstance(shape, tuple)
        if not good or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError("a malformed array")
        if math.prod(shape) * dtype.value.itemsize != len(content):
            raise pickle.UnpicklingError(f"an array of shape {list(shape)} with {len(content)} bytes")
        self.value = np.frombuffer(content, dtype.value).reshape(shape, order="F" if is_fortran else "C")


class _Name:
    """Stands for a function or class that a pickle names. A pickle can call it, but not change it."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)

    def __setstate__(self, state):
        raise pickle.UnpicklingError("it changes a function")


def _not_called(*args):
    raise pickle.UnpicklingError("it calls numpy.ndarray")


def _reconstruct(kind, shape, code):
    if kind is not NDARRAY:
        raise pickle.UnpicklingError("an array of an unknown kind")
    return _Array()


def _encode(text, encoding):
    """Stands for `_codecs.encode`, with which Python 3 writes bytes into pickles that Python 2 can read."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("an unknown encoding")
    return text.encode("latin1")


NDARRAY = _Name(_not_called)
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Name(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): _Name(_reconstruct),
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _Name(_DType),
    ("_codecs", "encode"): _Name(_encode),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return ALLOWED[module, name]


def load(content: bytes) -> dict[str, Any]:
    """Returns a pickled dictionary with texts as keys; its values are arrays, lists, bytes, texts and numbers.

    Whatever else a pickle names is refused, and NumPy's own code for pickled arrays, which trusts them, is not called:
    stand-ins check shape, type and length. Texts of Python 2 become bytes, except as keys.

    Raises:
      pickle.UnpicklingError: it holds anything else, or is broken.
    """
    try:
        for opcode, argument, _ in pickletools.genops(content):
            # The unpickler's memo is an array: a large index would take the memory, whatever the file's length.
            if opcode.name in ("PUT", "LONG_BINPUT") and argument > len(content):
                raise pickle.UnpicklingError("a memo index beyond the file's length")
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # The unpickler raises whatever its input leads it to.
        raise pickle.UnpicklingError(f"it is broken ({type(error).__name__}: {error})") from error
    if type(found) is not dict:
        raise pickle.UnpicklingError("it holds no dictionary")
    return {_text(key): value.value if isinstance(value, _Array) else value for key, value in found.items()}


def _text(key) -> str:
    if not isinstance(key, bytes | str):
        raise pickle.UnpicklingError(f"a key that is no text: {type(key).__name__}")
    return key.decode("latin1") if isinstance(key, bytes) else key
