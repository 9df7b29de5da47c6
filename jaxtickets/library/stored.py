"""The directory of `jt.imp`: the rewind point and each round, as safetensors files that are replaced as a whole.

imp.json: the arguments, which a later call must share.
rewind_point.safetensors: the arrays of what `early` has returned.
round_000.safetensors, ...: masks, eight weights per byte, trained parameters and metrics.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtickets import checksums, files, lock, tensor_files
from jaxtickets import masks as mask_lib
from jaxtickets.errors import DamagedError, UserError

FORMAT = "jaxtickets imp 1"
KEY = "imp"


def _is_key(leaf):
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _arrays(tree) -> dict[str, np.ndarray]:
    """The arrays of a tree by name, those of types that NumPy does not have as bytes; other leaves are left out."""
    found = {}
    for name, leaf in tensor_files.named(tree).items():
        if hasattr(leaf, "dtype"):
            array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else jax.device_get(leaf), order="C")
            found[name] = array if array.dtype.isbuiltin == 1 else array.reshape(-1).view(np.uint8)
    return found


def _restored(arrays, like):
    """A tree like `like` with these arrays.

    Raises:
      ValueError: one is missing, or is of another shape or type.
    """
    leaves = []
    for name, leaf in tensor_files.named(like).items():
        if not hasattr(leaf, "dtype"):
            leaves.append(leaf)
            continue
        array, expected = arrays[name], jax.random.key_data(leaf) if _is_key(leaf) else leaf
        dtype = np.dtype(expected.dtype)
        if dtype.isbuiltin != 1:
            array = array.view(dtype).reshape(expected.shape)
        if array.shape != expected.shape or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype}{array.shape} and should be {dtype}{expected.shape}")
        leaves.append(jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else array)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def checksum(tree: Any) -> str:
    """The SHA-256 of all arrays of a tree."""
    return checksums.of_arrays(_arrays(tree))


class Store:
    """A directory of `jt.imp` that this process holds."""

    def __init__(self, path: Path):
        self._path = path

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path, about: dict) -> Iterator["Store"]:
        """The store in a directory, which is made if there is none, and is this process's within the block.

        Raises:
          UserError: it holds something else, rounds of other arguments, or another process works in it.
        """
        path, what = Path(path), f"workdir={str(path)!r}"
        file = path / "imp.json"
        if path.exists() and not path.is_dir():
            raise UserError(f"{what}: is a file; allowed is a directory")
        if path.is_dir() and not file.exists() and any(each.name != "lock" for each in path.iterdir()):
            raise UserError(f"{what}: holds something else; allowed is an empty directory, or one of jt.imp")
        with lock.hold(path / "lock", what):
            about = {"format": FORMAT, **about}
            if not file.exists():
                files.replace(file, files.json_bytes(about))
            there = files.read_json(file)
            if there is None or there.get("format") != FORMAT:
                raise UserError(f"{file}: is not what jt.imp has written; allowed is another directory")
            here = files.parse_json(files.json_bytes(about))
            if differing := [name for name in here if there.get(name) != here[name]]:
                raise UserError(
                    f"{what}: its rounds have another {', '.join(differing)}; allowed are the arguments that they were "
                    "made with, or another directory"
                )
            yield cls(path)

    def rewind_point(self, point):
        """The stored rewind point, in the structure of `point`; `point` itself, now stored, if there is none."""
        file = self._path / "rewind_point.safetensors"
        if not file.exists():
            tensor_files.write(file, KEY, _arrays(point), {"format": FORMAT})
        with tensor_files.reading(file, "a rewind point", "allowed is another directory"):
            return _restored(_read(file)[0], point)

    def save_round(self, number: int, masks, params, sparsity: float, metrics: dict) -> None:
        """Writes a round; once this returns, it is complete."""
        arrays = _arrays({"masks": mask_lib.pack(masks), "params": params})
        about = {"format": FORMAT, "sparsity": sparsity, "metrics": metrics}
        tensor_files.write(self._file(number), KEY, arrays, about)

    def round(self, number: int, params, masks):
        """`(masks, params, sparsity, metrics)` of a round, in the structures of these; None if it has to be trained.

        A round whose file is damaged is trained again, which a warning says.
        """
        file = self._file(number)
        if not file.exists():
            return None
        try:
            with tensor_files.reading(file, "a round", "it is trained again"):
                arrays, about = _read(file)
                packed = _restored(arrays, {"masks": mask_lib.pack(masks), "params": params})
                own = mask_lib.unpack(packed["masks"], masks)
                return own, packed["params"], about["sparsity"], about["metrics"]
        except DamagedError as error:
            logging.getLogger(__name__).warning("%s", error)
            return None

    def _file(self, number):
        return self._path / f"round_{number:03}.safetensors"


def _read(file):
    arrays, metadata = tensor_files.read(file)
    about = tensor_files.parse(metadata[KEY])
    tensor_files.verify(arrays, about)
    if about["format"] != FORMAT:
        raise ValueError(f"its format is {about['format']!r:.40}")
    return arrays, about
