"""Trees of arrays in safetensors files, with one JSON object as metadata and a checksum over both.

An array's name is the slash-joined path of its leaf. A slash, a percent sign, a control character or a surrogate inside
a key is percent-encoded, so that names can be split again. Metadata names the nodes that are no dictionaries of texts
(`nodes`), so that lists, tuples, empty nodes and `None` come back as they were.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from jaxtickets import checksums, files
from jaxtickets import masks as mask_lib
from jaxtickets.errors import DamagedError, UserError

MAX_HEADER = 1 << 24  # bytes: a hundred times what a network of a thousand layers needs
MAX_DEPTH = 64
NUMBERS = (bool, int, float, np.generic, np.ndarray, jax.Array)  # The leaves that a file can hold.
KEY = "key:"  # Before the name of the kind of JAX's random keys.
NATIVE = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
NATIVE = ("bool", *NATIVE, "float16", "float32", "float64")
# Types that safetensors or NumPy lack, by the type as which they are stored.
VIEWED = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8", "complex64": "uint64"}
SPECIAL = re.compile("[%/\x00-\x1f\x7f\ud800-\udfff]")


# Files.


def write(path: os.PathLike, key: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Writes arrays, and `about` with their checksum as the metadata's one entry, called `key`.

    One entry, because safetensors writes several in any order, and equal content must have equal bytes.

    Args:
      about: JSON values, without the key `checksum`.
    """
    about = json.loads(files.json_bytes(about))
    text = json.dumps({**about, "checksum": _checksum(arrays, about)})
    files.replace(Path(path), save(dict(arrays), metadata={key: text}))


@contextlib.contextmanager
def reading(path: os.PathLike, what: str, remedy: str) -> Iterator[None]:
    """Turns whatever a damaged file makes the block raise into a `DamagedError`.

    Args:
      what: what the file should hold.
      remedy: what the user can do.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Damage can raise nearly anything: OSError, SafetensorError, ValueError, ...
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise DamagedError(f"{path}: can't be read as {what} ({reason}); {remedy}") from None


def read(path: os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a safetensors file; whoever reads the metadata calls `verify`.

    Raises:
      UserError: there is no such file.
      Exception: any, if the file is damaged; call it in `reading`.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: there is no such file")
    if not os.path.isfile(path):
        raise ValueError("it is no regular file")
    with open(path, "rb") as file:
        if (length := int.from_bytes(file.read(8), "little")) > MAX_HEADER:
            raise ValueError(f"its header should have {length} bytes; allowed are {MAX_HEADER}")
        # safetensors reads first: its checks of the header bound what is parsed here.
        with safe_open(path, "numpy") as tensors:
            metadata = tensors.metadata() or {}
            arrays = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  (no mapping)
        parse(file.read(length))
    return arrays, metadata


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: it is no JSON, or an object has a key twice.
      RecursionError: it is nested too deeply.
    """

    def unique(pairs):
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    return json.loads(text, object_pairs_hook=unique)


def verify(arrays: Mapping[str, np.ndarray], about: dict[str, Any]) -> None:
    """Compares the checksum in `about`, and removes it.

    Raises:
      ValueError: it is missing, or of something else.
    """
    if about.pop("checksum", None) != _checksum(arrays, about):
        raise ValueError("its content is not what was written: the checksum differs")


def _checksum(arrays, about):
    return checksums.of_arrays(arrays, json.dumps(about, sort_keys=True))


def expect(value, kind: type | tuple[type, ...], what: str):
    """`value`, if it is of the kind.

    Raises:
      ValueError: it is not. True and False are no numbers.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise ValueError(f"{what} is {value!r:.40}")
    return value


# Types.


def is_key(leaf) -> bool:
    """Whether a leaf holds JAX's random keys."""
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def stored(name: str, leaf) -> tuple[np.ndarray, str]:
    """`(the array as which a leaf is stored, its kind)`; `restored` is the inverse.

    Raises:
      UserError: the file has no room for arrays of its type.
    """
    if is_key(leaf):
        return np.asarray(jax.random.key_data(leaf), order="C"), f"{KEY}{jax.random.key_impl(leaf)}"
    array = np.asarray(leaf, order="C")
    kind = array.dtype.name
    if kind in VIEWED:
        array = array.reshape(-1).view(VIEWED[kind]).reshape(array.shape)
    elif kind not in NATIVE:
        raise UserError(f"{name}: is an array of {kind}; allowed are {', '.join((*NATIVE, *VIEWED))}")
    return array, kind


def stored_type(name: str, kind: str) -> str:
    """The type of the array as which a leaf of a kind is stored.

    Raises:
      ValueError: there is no such kind.
    """
    if expect(kind, str, f"the type of {name}") not in (*NATIVE, *VIEWED) and not kind.startswith(KEY):
        raise ValueError(f"{name} is of the type {kind:.40}")
    return "uint32" if kind.startswith(KEY) else VIEWED.get(kind, kind)


def restored(array: np.ndarray, kind: str):
    """The inverse of `stored`."""
    if kind.startswith(KEY):
        return jax.random.wrap_key_data(array, impl=kind.removeprefix(KEY))
    return array.view(kind) if kind in VIEWED else array


# Trees.


def name_of(path) -> str:
    """The name of a `jax.tree_util` key path, from which `nested` finds the keys again."""
    return "/".join(SPECIAL.sub(_encoded, mask_lib.path_name((key,))) for key in path)


def _encoded(match):
    return quote(match[0], safe="", errors="surrogatepass")


def named(tree) -> dict[str, Any]:
    """`{name: leaf}`; `None` has no entry."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def nodes(tree, path=()) -> dict[str, str]:
    """The kind of each node that its leaves' names do not tell: `{name: kind}`.

    "list", "tuple"; "int", a dictionary of whole numbers; "dict", an empty dictionary; "none". Nodes of other types,
    such as dataclasses, come back as dictionaries.
    """
    if tree is None:
        return {name_of(path): "none"}
    children = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    if len(children) == 1 and children[0][0] == ():
        return {}
    kind = {list: "list", tuple: "tuple"}.get(type(tree))
    if isinstance(tree, Mapping):
        are_numbers = bool(tree) and all(type(key) is int for key in tree)
        kind = "int" if are_numbers else None if tree else "dict"
    found = {name_of(path): kind} if kind else {}
    for keys, child in children:
        found |= nodes(child, (*path, *keys))
    return found


def nested(leaves: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """The inverse of `named` and `nodes`.

    Raises:
      ValueError: a name is another one's node, names are nested too deeply, or a node's keys do not fit its kind.
    """
    root = {}
    for name in kinds:
        parent, last = _parent(root, name)
        parent.setdefault(last, {})
    for name, leaf in leaves.items():
        parent, last = _parent(root, name)
        if last in parent:
            raise ValueError(f"{name} is an array and a node")
        parent[last] = leaf
    return _built(root, (), {tuple(name.split("/")): kind for name, kind in kinds.items()})


def _parent(root, name):
    *parts, last = name.split("/")
    if len(parts) >= MAX_DEPTH:
        raise ValueError(f"names have more than {MAX_DEPTH} parts")
    for part in parts:
        root = root.setdefault(part, {})
        if not isinstance(root, dict):
            raise ValueError(f"{name} is below an array")
    return root, last


def _built(node, path, kinds):
    if not isinstance(node, dict):
        return node
    children, kind = {key: _built(child, (*path, key), kinds) for key, child in node.items()}, kinds.get(path)
    if kind is None:
        keys = [unquote(key, errors="surrogatepass") for key in children]
        if len(set(keys)) == len(keys):
            return dict(zip(keys, children.values(), strict=True))
    elif kind in ("none", "dict") and not children:
        return None if kind == "none" else {}
    elif kind in ("list", "tuple", "int"):
        numbered = {int(key): child for key, child in children.items()}
        if kind == "int" and len(numbered) == len(children):
            return numbered
        if len(children) == len(numbered) and sorted(numbered) == list(range(len(numbered))):
            return {"list": list, "tuple": tuple}[kind](numbered[number] for number in range(len(numbered)))
    raise ValueError(f"{'/'.join(path)} is no node of the kind {kind!r:.20}")
