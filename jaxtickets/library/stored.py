"""The directory of `jt.imp`: the rewind point and each round, as safetensors files that are replaced as a whole.

imp.json: the arguments, which a later call must share.
rewind_point.safetensors: the arrays of what `early` has returned.
round_000.safetensors, ...: masks, eight weights per byte, trained parameters and metrics.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import checksums, files, lock, tensor_files
from jaxtickets import masks as mask_lib
from jaxtickets.errors import DamagedError, UserError

FORMAT = "jaxtickets imp 1"
KEY = "imp"
POINT = "rewind_point.safetensors"
PYTHON = {"bool": bool, "int": int, "float": float}  # Numbers that are no arrays, by the name of their type.


# Not by `tensor_files.stored`, which has no kinds for Python's numbers: here they come back as such. The checksums of
# arguments in imp.json are over these bytes, so with another form directories that are there would be refused.


def _packed(tree) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and numbers of a tree by name, and the types of those that are Python's or that NumPy does not have.

    The latter are given as bytes. Other leaves, such as functions, are left out.
    """
    arrays, types = {}, {}
    for name, leaf in tensor_files.named(tree).items():
        if isinstance(leaf, tensor_files.NUMBERS):
            data = jax.random.key_data(leaf) if tensor_files.is_key(leaf) else leaf
            array = np.asarray(jax.device_get(data), order="C")
            if type(leaf).__name__ in PYTHON:
                types[name] = type(leaf).__name__
            elif array.dtype.isbuiltin != 1:
                types[name], array = array.dtype.name, array.reshape(-1).view(np.uint8)
            arrays[name] = array
    return arrays, types


def _unpacked(arrays, types, like):
    """A tree like `like` with these arrays.

    Raises:
      ValueError: one is missing, or is of another shape.
    """
    leaves = []
    for name, leaf in tensor_files.named(like).items():
        if not isinstance(leaf, tensor_files.NUMBERS):
            leaves.append(leaf)
            continue
        array, shape = arrays[name], jax.random.key_data(leaf).shape if tensor_files.is_key(leaf) else np.shape(leaf)
        number = PYTHON.get(types.get(name))
        if name in types and not number:
            array = array.view(jnp.dtype(types[name])).reshape(shape)
        if array.shape != shape:
            raise ValueError(f"{name} has the shape {array.shape} and not {shape}")
        if tensor_files.is_key(leaf):
            leaves.append(jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)))
        else:
            leaves.append(number(array) if number else array)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def checksum(tree: Any) -> str:
    """The SHA-256 of all arrays and numbers of a tree."""
    return checksums.of_arrays(_packed(tree)[0])


def described(function: Callable) -> str:
    """A function by its name, with what functools.partial has given it: arrays by checksum, functions by name."""
    if not isinstance(function, partial):
        return getattr(function, "__qualname__", type(function).__name__)
    given = [_as_text(value) for value in function.args]
    given += [f"{name}={_as_text(value)}" for name, value in sorted(function.keywords.items())]
    return f"{described(function.func)}({', '.join(given)})"


def _as_text(argument):
    def text(leaf):
        if hasattr(leaf, "dtype"):
            return checksum([leaf])[:16]
        if callable(leaf):
            return described(leaf)
        told = repr(leaf)
        return type(leaf).__qualname__ if " at 0x" in told else told  # An address differs in each process.

    return str(jax.tree.map(text, argument))


def _extends(longer, shorter):
    return isinstance(longer, list) and isinstance(shorter, list) and longer[: len(shorter)] == shorter


def _counted_from_masks(there, here):
    """Puts the sparsity of given masks first in levels that an older version has saved: there, 0 is in its place.

    Returns:
      What a message adds where the levels differ all the same, because that version counted `rate` from 0; or "".
    """
    saved, own = there.get("levels"), here["levels"]
    if not isinstance(saved, list) or saved[:1] != [0] or not own[0]:
        return ""
    there["levels"] = [own[0], *saved[1:]]
    return f". An older version's rate counted from 0 beside masks, too: targets={saved[1:]} goes on with its rounds"


def _told(name, there, here):
    """An argument that differs, with its values if they say something."""
    is_checksum = isinstance(here, str) and len(here) == 64
    return name if is_checksum else f"{name} ({there!r:.60} there, {here!r:.60} here)"


class Store:
    """A directory of `jt.imp` that this process holds."""

    def __init__(self, path: Path, lost: list[str]):
        """lost: a line is in it once another process has taken the directory over."""
        self._path, self._lost = path, lost

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path, about: dict) -> Iterator["Store"]:
        """The store in a directory, which is made if there is none, and is this process's within the block.

        The levels may go on after those that are there, or end before; all else is the same.

        Raises:
          UserError: it holds something else, rounds of other arguments, or another process works in it.
        """
        path, what = Path(path), f"workdir={str(path)!r}"
        file = path / "imp.json"
        if path.exists() and not path.is_dir():
            raise UserError(f"{what}: is a file; allowed is a directory")
        lock_file, lost = path / "lock", list[str]()
        own = {lock_file, *files.temporaries(lock_file), *files.temporaries(file)}
        if path.is_dir() and not file.exists() and not own.issuperset(path.iterdir()):
            raise UserError(f"{what}: holds something else; allowed is an empty directory, or one of jt.imp")
        with lock.hold(lock_file, what, lost=lost.append):
            for name in (file.name, POINT, "round_*.safetensors"):
                for temporary in files.temporaries(path / name):  # What kills have left.
                    temporary.unlink(missing_ok=True)
            about = {"format": FORMAT, **about}
            if not file.exists():
                files.replace(file, files.json_bytes(about))
            there = files.read_json(file)
            if there is None or there.get("format") != FORMAT:
                raise UserError(f"{file}: is not what jt.imp has written; allowed is another directory")
            here = files.parse_json(files.json_bytes(about)) or {}  # As it comes back from a file.
            hint = _counted_from_masks(there, here)
            is_longer = False
            if _extends(there.get("levels"), here["levels"]):
                here["levels"] = there["levels"]
            elif is_longer := _extends(here["levels"], there.get("levels")):
                there["levels"] = here["levels"]
            if differing := [
                _told(name, there.get(name), here[name]) for name in here if there.get(name) != here[name]
            ]:
                is_same = there.get("levels") == here["levels"]
                raise UserError(
                    f"{what}: its rounds differ in {', '.join(differing)}; allowed are the arguments that they were "
                    f"made with, or another directory{'' if is_same else hint}"
                )
            if is_longer:
                files.replace(file, files.json_bytes(about))
            yield cls(path, lost)

    def rewind_point(self, point):
        """The stored rewind point, in the structure of `point`; `point` itself, now stored, if there is none."""
        file = self._path / POINT
        if not file.exists():
            self._write(file, point)
        with tensor_files.reading(file, "a rewind point", "allowed is another directory"):
            arrays, about = _read(file)
            return _unpacked(arrays, about["types"], point)

    def save_round(self, number: int, masks, params, sparsity: float, metrics: dict | None, *, is_params: bool) -> None:
        """Writes a round; once this returns, it is complete.

        Args:
          metrics: None as long as no callback has returned.
          is_params: whether `train_fn` returned these parameters by themselves, and no state with more in it.
        """
        # JSON has no NaN and no infinity: these are texts.
        told = metrics and {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        tree = {"masks": mask_lib.pack(masks), "params": params}
        self._write(self._file(number), tree, sparsity=sparsity, metrics=told, is_params=is_params)

    def rounds(self, n: int, params, masks) -> Iterator[tuple[Any, Any, float, dict | None, bool]]:
        """What `save_round` was given of the rounds from 0 on, at most `n`, in the structures of these.

        The first round that is not there ends them, and so does one whose file is damaged, which a warning says.
        """
        like = {"masks": mask_lib.pack(masks), "params": params}
        for number in range(n):
            if not (file := self._file(number)).exists():
                return
            try:
                with tensor_files.reading(file, "a round", "training goes on from the round before"):
                    arrays, about = _read(file)
                    packed = _unpacked(arrays, about["types"], like)
                    told = about["metrics"]
                    told = told and {name: math.nan if value is None else float(value) for name, value in told.items()}
                    own_masks = mask_lib.unpack(packed["masks"], masks)
                    is_params = about.get("is_params", False)
                    found = (own_masks, packed["params"], about["sparsity"], told, is_params)
            except DamagedError as error:
                logging.getLogger(__name__).warning("%s", error)
                return
            yield found

    def _write(self, file, tree, **about):
        """Writes a file.

        Raises:
          UserError: another process has taken the directory over.
        """
        if self._lost:
            raise UserError(
                f"{self._lost[0]}; allowed is one process, which goes on after the last round that is there"
            )
        arrays, types = _packed(tree)
        tensor_files.write(file, KEY, arrays, {"format": FORMAT, "types": types, **about})

    def _file(self, number):
        return self._path / f"round_{number:03}.safetensors"


def _read(file):
    arrays, metadata = tensor_files.read(file)
    about = tensor_files.parse(metadata[KEY])
    tensor_files.verify(arrays, about)
    if about["format"] != FORMAT:
        raise ValueError(f"its format is {about['format']!r:.40}")
    return arrays, about
