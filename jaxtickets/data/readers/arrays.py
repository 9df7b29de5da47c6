"""NumPy's files of arrays, .npz and .npy: what an array is shows in its name, its shape and its values."""

import io
import math
import pathlib
import re
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxtickets.data.folders import SUFFIXES
from jaxtickets.data.gzips import check_ratio
from jaxtickets.data.readers.local import Labels, Local, describe, digest, of_arrays, some
from jaxtickets.data.trees import Tree
from jaxtickets.errors import UserError
from jaxtickets.progress import say

SPLITS = {
    "train": re.compile(r"train"),
    "test": re.compile(r"test|t10k"),
    "validation": re.compile(r"(?<![a-z])[xy]?val(id(ation)?)?(?![a-z])"),
}
LABELS = re.compile(r"(?<![a-z])(y(tr|te|train|test|val)?|labels?|targets?|class(es)?|attributes?)(?![a-z])")
HALF = 0.5  # Values from -0.5 to 0.5 are those of another range than -1 to 1.
RANGES = "allowed: 0 to 1, -1 to 1, or whole numbers from 0 to 255"
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Array(NamedTuple):
    """An array in a file.

    Attributes:
      key: its name in the .npz, or that of its .npy file.
      entry: the name of the file.
      split: "train", "test" or "validation", by its name, else that of the file; "" if neither says.
      shape, dtype: those of the array.
    """

    key: str
    entry: str
    split: str
    shape: tuple[int, ...]
    dtype: np.dtype


def look(name: str, tree: Tree) -> Local | None:
    """Returns the source of a tree's arrays, or None if it has none, or has images beside them.

    Images are the arrays of three or four dimensions: [n, h, w], [n, h, w, c] or [n, c, h, w] with 1 or 3 channels, of
    bytes, of other numbers from 0 to 255, or from 0 to 1 or -1 to 1. Labels go by their names, or are the only whole
    numbers [n].

    Raises:
      UserError: a file is broken or holds Python objects, or it is not clear which arrays are meant.
    """
    suffixes = {pathlib.PurePosixPath(entry).suffix.lower() for entry in tree.names}
    if not suffixes & {".npz", ".npy"} or suffixes & set(SUFFIXES):
        return None
    arrays = [array for entry in tree.names for array in _list(tree, entry)]
    images = {split: [array for array in found if len(array.shape) > 2] for split, found in _by_split(arrays).items()}
    images = {split: found for split, found in images.items() if found}
    origin = {"train": "train" if "train" in images else "", "test": "test" if "test" in images else "validation"}
    unclear = [
        array.key for found in images.values() if len(found) > 1 or set(images) >= {"", "train"} for array in found
    ]
    if origin["train"] not in images or unclear:
        found = some((f"{a.key} {a.dtype} {list(a.shape)}" for a in arrays), 6)
        raise UserError(
            f"data.name={name!r}: {'several arrays' if unclear else 'no array'} of training images; allowed is one of"
            f" shape [n, h, w], [n, h, w, c] or [n, c, h, w], named for its split as x_train or train_images, or alone;"
            f" found: {found or 'nothing'}"
        )
    chosen = {split: images[at][0] for split, at in origin.items() if at in images}
    shapes = {split: _image_shape(tree, array) for split, array in chosen.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(
            f"data.name={name!r}: images of {shapes['train']} to train and of {shapes['test']} to test; allowed: one"
            " shape"
        )
    labels = _labels(name, tree, arrays, chosen, origin)

    def load(split):
        array = scaled(split)
        return array[..., None] if array.ndim == 3 else array if array.shape[3] in (1, 3) else np.moveaxis(array, 1, 3)

    scales, waiting = {}, {}  # Of each split: its scale, and its bytes until they are asked for.

    def scaled(split):
        # Every array is read once, and one of them at a time is in memory as it is in the file.
        for unread in [part for part in chosen if part not in scales or part == split and part not in waiting]:
            raw = _read(tree, chosen[unread])
            scales[unread] = _scale(name, raw)
            waiting[unread] = _bytes(raw, *scales[unread])
        if len(set(scales.values())) > 1:
            train, test = (f"from {o:g} to {o + 255 / f:g}" for f, o in (scales["train"], scales["test"]))
            raise UserError(f"data.name={name!r}: values {train} to train and {test} to test; give both on one scale")
        factor, offset = scales[split]
        if split == "train" and (factor, offset) != (1, 0):
            say(f"data.name={name!r}: values from {offset:g} to {offset + 255 / factor:g} become 0 to 255")
        return waiting.pop(split)

    counts = {split: array.shape[0] for split, array in chosen.items()}
    about = describe("arrays", counts, shapes["train"], labels)
    if "validation" in images:
        about += (
            "; the test images are those for validation"
            if "test" not in images
            else "; those for validation are not used"
        )
    used = {array.entry for array in arrays}
    return of_arrays(name, about, digest(tree, used), shapes["train"][2], labels, load, "test" in chosen)


# --- what there is ---


def _list(tree: Tree, entry: str) -> Iterator[Array]:
    """Yields the arrays in a file, by their headers alone. Raises UserError if the file is broken."""
    path = pathlib.PurePosixPath(entry)
    if path.suffix.lower() not in (".npz", ".npy"):
        return
    stem = str(path.with_suffix(""))
    with tree.open(entry) as file:
        if path.suffix.lower() == ".npy":
            yield Array(path.stem, entry, _split(stem), *_header(file, tree.size(entry), path.stem))
            return
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            check_ratio(tree.label(entry), sum(member.file_size for member in members), tree.size(entry))
            for member in members:
                key = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    # A file with one array takes the array's name from NumPy: arr_0.
                    shown = path.stem if len(members) == 1 and key == "arr_0" else key
                    header = _header(stream, member.file_size, key)
                    yield Array(shown, entry, _split(key) or _split(stem), *header)


def _header(stream, size: int, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Returns the shape and type in an .npy file's header. Raises ValueError if the file can't be what it says."""
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"{key} is in version {version} of NumPy's format; allowed: 1.0 and 2.0")
    shape, _, dtype = HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError(f"{key} holds pickled Python objects, which are not read; save an array of numbers")
    if stream.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{key} is cut short: its header says {dtype} {list(shape)}")
    return shape, dtype


def _split(text: str) -> str:
    return next((split for split, pattern in SPLITS.items() if pattern.search(text.lower())), "")


def _by_split(arrays: list[Array]) -> dict[str, list[Array]]:
    return {split: [array for array in arrays if array.split == split] for split in ("", *SPLITS)}


def _image_shape(tree: Tree, array: Array) -> tuple[int, int, int]:
    """Returns (height, width, channels) of an array of images."""
    _, *shape = array.shape
    if len(shape) == 2:
        shape = [*shape, 1]
    elif len(shape) == 3 and shape[2] not in (1, 3) and shape[0] in (1, 3):
        shape = [*shape[1:], shape[0]]
    if len(shape) != 3 or shape[2] not in (1, 3) or 0 in array.shape or array.dtype.kind not in "buif":
        raise UserError(
            f"{tree.label(array.entry)}: {array.key} is {array.dtype} {list(array.shape)}; allowed are numbers"
            " [n, h, w], [n, h, w, c] or [n, c, h, w] with 1 or 3 channels"
        )
    return tuple(shape)


def _labels(name: str, tree: Tree, arrays: list[Array], images: dict[str, Array], origin: dict[str, str]) -> Labels:
    """Returns the labels that belong to some images. Raises UserError if they do not fit."""
    found = {}
    for split, of_images in images.items():
        candidates = [a for a in arrays if a.split == origin[split] and len(a.shape) in (1, 2)]
        named = [a for a in candidates if LABELS.search(a.key.lower())]
        if not named:
            named = [a for a in candidates if a.dtype.kind in "iu" and a.shape in ((n := of_images.shape[0],), (n, 1))]
        if len(named) > 1:
            return Labels({}, remark=f", because several arrays may be them: {some(a.key for a in named)}")
        if named:
            found[split] = named[0]
            if named[0].shape[0] != of_images.shape[0]:
                raise UserError(
                    f"data.name={name!r}: {of_images.key} holds {of_images.shape[0]:,} images, and {named[0].key}"
                    f" {named[0].shape[0]:,} labels; allowed: one label per image, or an array of another name"
                )
    if found and found.keys() != images.keys():
        raise UserError(
            f"data.name={name!r}: there are labels for {some(found)} alone, {some(a.key for a in found.values())};"
            " allowed: labels for both splits, or for none"
        )
    try:
        return Labels.of({split: _read(tree, array) for split, array in found.items()})
    except UserError as error:
        raise UserError(f"data.name={name!r} has {error}") from error


# --- the arrays themselves ---


def _read(tree: Tree, array: Array) -> np.ndarray:
    """Returns an array, mapped from disk if it lies there uncompressed on its own."""
    if array.entry.lower().endswith(".npy"):
        if not tree.is_archive:
            path = tree.path / array.entry if tree.kind == "directory" else tree.path
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return np.lib.format.read_array(io.BytesIO(tree.read(array.entry)), allow_pickle=False)
    with tree.open(array.entry) as file, np.load(file, allow_pickle=False) as archive:
        return archive[array.key if array.key in archive.files else "arr_0"]


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(array), 1024):
        yield np.asarray(array[start : start + 1024])


def _bytes(array: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """Returns the nearest bytes to `(array - offset) * factor`."""
    if (factor, offset) == (1, 0):
        return array if array.dtype == np.uint8 else array.astype(np.uint8)
    scaled = ((part - np.float64(offset)) * factor for part in _chunks(array))
    return np.concatenate([np.rint(part).astype(np.uint8) for part in scaled])


def _scale(name: str, array: np.ndarray) -> tuple[float, float]:
    """Returns (factor, offset) such that `(array - offset) * factor` is between 0 and 255.

    Raises:
      UserError: the values are between other bounds.
    """
    low, high, is_whole = math.inf, -math.inf, True
    for part in _chunks(array):
        low, high = min(low, float(part.min())), max(high, float(part.max()))
        if part.dtype == np.uint8 and high > 1:
            return 1, 0
        if not math.isfinite(low + high):
            raise UserError(
                f"data.name={name!r}: images with values that are no finite numbers (NaN or infinity); {RANGES}"
            )
        is_whole = is_whole and (part.dtype.kind in "bui" or bool((part == np.rint(part)).all()))
    if low >= 0 and high <= 1:
        return 255, 0
    if low >= -1 and high <= 1 and max(-low, high) > HALF:
        return 127.5, -1
    if is_whole and low >= 0 and high <= 255:
        return 1, 0
    raise UserError(f"data.name={name!r}: images with values from {low:g} to {high:g}; {RANGES}")
