"""Tensors of a PyTorch file (`.pth`, `.pt`), read without PyTorch and without unpickling.

A PyTorch file is a pickle that describes tensors, and their bytes beside it: in a zip archive (from PyTorch 1.6 on) or
one after the other (before). `pickle` would run whatever code a file names. This reader follows the few instructions
that a dictionary of tensors consists of, calls nothing that the file names, and refuses every other file.
"""

import functools
import math
import os
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from jaxtickets.errors import UserError

ALLOWED = "allowed is a complete PyTorch file of a dictionary of tensors"
# The first object in a file from before PyTorch 1.6, and the second, the version of the format.
OLD_MAGIC, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
DTYPES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}
REBUILD, DICTIONARY = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"


class _Global(NamedTuple):
    """A function or class that the pickle names: "module name"."""

    name: str


class _Storage(NamedTuple):
    """Numbers that tensors are views of."""

    key: str
    dtype: np.dtype
    size: int

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RefusedError(ValueError):
    """The file holds something that no dictionary of tensors needs."""


def read(path) -> dict[str, np.ndarray]:
    """The tensors in a PyTorch file: `{name: array}`, in the file's order.

    Raises:
      UserError: there is no such file, it is cut short, or it holds anything but a dictionary of tensors.
    """
    try:
        with Path(path).open("rb") as file:
            is_archive = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_archive(file) if is_archive else _read_stream(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {ALLOWED}") from None
    except _RefusedError as error:
        raise UserError(f"{path}: {error}; {ALLOWED}") from None
    # What pickletools, zipfile and this module raise for bytes that make no sense.
    except (
        *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError, TypeError, ValueError),
        *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
    ):
        raise UserError(f"{path}: not a PyTorch file, or cut short; {ALLOWED}") from None


def _read_archive(file: BinaryIO):
    with zipfile.ZipFile(file) as archive:
        (described,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        root = described.removesuffix("data.pkl")
        # PyTorch compresses nothing, and what is not compressed can't be larger than the file.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise _RefusedError("a compressed archive")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise _RefusedError("written on a big-endian machine")
        with archive.open(described) as pickled:
            tensors = _tensors(_follow(pickled))
        return _arrays(tensors, lambda storage: archive.read(f"{root}data/{storage.key}"))


def _read_stream(file: BinaryIO):
    if (_follow(file), _follow(file)) != (OLD_MAGIC, OLD_VERSION):
        raise ValueError
    system = _follow(file)
    if not system["little_endian"]:
        raise _RefusedError("written on a big-endian machine")
    tensors, keys = _tensors(_follow(file)), _follow(file)
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    contents, length = {}, os.fstat(file.fileno()).st_size
    for key in keys:
        (size,) = struct.unpack("<q", file.read(8))
        if size != storages[key].size or storages[key].bytes > length:
            raise EOFError
        contents[key] = file.read(storages[key].bytes)
    return _arrays(tensors, lambda storage: contents[storage.key])


def _tensors(described) -> dict[str, _Tensor]:
    if not isinstance(described, dict):
        raise _RefusedError(f"it holds a {type(described).__name__}")
    for name, value in described.items():
        if not (isinstance(name, str) and isinstance(value, _Tensor)):
            raise _RefusedError(f"its entry {str(name)[:60]!r} is no tensor")
    return described


def _arrays(tensors, content: Callable[[_Storage], bytes]):
    """`{name: array}`; the arrays are views of their storages, which are read once."""

    @functools.cache
    def numbers_of(storage):
        read = content(storage)
        if len(read) != storage.bytes:
            raise EOFError
        return np.frombuffer(read, storage.dtype)

    def array(tensor):
        numbers, count = numbers_of(tensor.storage), math.prod(tensor.shape)
        steps = zip(tensor.shape, tensor.strides, strict=True)
        end = tensor.offset + (sum((n - 1) * stride for n, stride in steps) + 1 if count else 0)
        if max(end, count) > len(numbers):  # More values than there are would repeat some.
            raise ValueError
        strides = [stride * numbers.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides)

    return {name: array(tensor) for name, tensor in tensors.items()}


# The instructions of a pickle that a dictionary of tensors consists of.

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE")
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _follow(file: BinaryIO):
    """The object that a pickle describes; reads from `file` up to its end.

    Raises:
      _RefusedError: it has an instruction, or names a function or class, that no dictionary of tensors needs.
    """
    stack, marks, memo = [], [], {}

    def above_mark():
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            marks.append(len(stack))
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in VALUES:
            stack.append(argument)
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in TUPLES:
            values = tuple(stack[-TUPLES[name] :])
            del stack[-TUPLES[name] :]
            stack.append(values)
        elif name == "TUPLE":
            stack.append(tuple(above_mark()))
        elif name == "APPENDS":
            values = above_mark()
            stack[-1].extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = above_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_called(stack.pop(), arguments))
        elif name == "BUILD":
            stack.pop()  # Attributes of the dictionary: versions of the modules.
            if not isinstance(stack[-1], dict):
                raise _RefusedError("it sets attributes")
        else:
            raise _RefusedError(f"it has the pickle instruction {name}")
    raise pickle.UnpicklingError


def _known(name: str) -> _Global:
    if name not in (*DTYPES, REBUILD, DICTIONARY):
        raise _RefusedError(f"it names {name.replace(' ', '.')[:80]!r}, which no tensor needs")
    return _Global(name)


def _storage(description) -> _Storage:
    """("storage", class, key, device, number of values, and in old files which part of another storage it is)."""
    word, kind, key, _, size, *view = description
    if view not in ([], [None]):
        raise _RefusedError("a storage is a view of another one")
    if word != "storage" or not isinstance(key, str) or not _is_size(size):
        raise ValueError
    return _Storage(key, np.dtype(DTYPES[kind.name]), size)


def _called(function: _Global, arguments: tuple):
    if function.name == DICTIONARY and arguments == ():
        return {}
    if function.name != REBUILD:
        raise _RefusedError(f"it calls {function.name.replace(' ', '.')}")
    storage, offset, shape, strides, *_ = arguments
    if not isinstance(storage, _Storage) or not all(map(_is_size, (offset, *shape, *strides))):
        raise ValueError
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _is_size(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
