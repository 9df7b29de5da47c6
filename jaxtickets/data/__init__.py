"""Data sets as arrays of uint8 images, by name.

`SOURCES` are the data sets with a name of their own and `FAMILIES` those whose names carry a path or a variant;
`SOURCES.add(...)` takes further ones, such as `Arrays`, `Folder` or any other `Source`.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxtickets import cache, files
from jaxtickets.data import decoding
from jaxtickets.data.arrays import Arrays
from jaxtickets.data.folders import Folder
from jaxtickets.data.source import Examples, Source
from jaxtickets.data.tfds import Tfds
from jaxtickets.errors import UserError
from jaxtickets.fields import Registry

__all__ = [
    "SOURCES",
    "SPLITS",
    "Arrays",
    "Dataset",
    "Examples",
    "Folder",
    "Source",
    "Tfds",
    "channels",
    "check",
    "classes",
    "find",
    "load",
]

SPLITS = ("train", "test")

SOURCES = Registry(
    "data.name",
    Tfds("digits", channels=1, builder="jaxtickets.data.digits:Digits", needs_tensorflow=False, how_long="a second"),
    Tfds(
        "synthetic_faces",
        builder="jaxtickets.data.synthetic_faces:SyntheticFaces",
        needs_tensorflow=False,
        how_long="about a minute",
    ),
    Tfds("cifar10"),
    Tfds("celeb_a"),
    Tfds("mnist", channels=1),
    Tfds("fashion_mnist", channels=1),
)


class Family(NamedTuple):
    """Sources that are not registered one by one.

    form: their names, in words. pattern: a regular expression of their names. make: `name -> Source`.
    """

    form: str
    pattern: str
    make: Callable[[str], Source]


FAMILIES = (
    Family("lsun/<category>", "lsun(/.*)?", lambda name: Tfds(name, needs_variant=True, allowed=_allowed())),
    Family("folder:PATH", "folder:.*", Folder.named),
    Family("or another TFDS dataset with an 'image' feature", ".*", lambda name: Tfds(name, allowed=_allowed())),
)


def _allowed() -> str:
    return ", ".join((*SOURCES, *(family.form for family in FAMILIES)))


def find(name: str, data_dir: str | None = None) -> Source:
    """Returns the source that `name` means; its prepared files are in `data_dir`, or in the usual place if None.

    A name that no data set has is found too: `check` refuses it.
    """
    source = SOURCES.get(name)
    if source is None:
        source = next(family.make(name) for family in FAMILIES if re.fullmatch(family.pattern, name, re.DOTALL))
    return source.at(data_dir)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a data set at one size.

    images: uint8 [n, size, size, channels], mapped from disk. labels: int32 [n] classes, uint8 [n, attributes] zeros
    and ones, or None. label_names: the name of each class or attribute; empty if there are none.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    label_names: tuple[str, ...]


def load(name: str, split: str, image_size: int, data_dir: str | None = None) -> Dataset:
    """Loads `split` ('train' or 'test') of a data set, decoded, centre-cropped and resized to `image_size` pixels.

    The first call downloads or renders what is missing (TFDS data in `data_dir`, or in TFDS's own directory if None)
    and keeps the decoded images in the cache directory; later calls map those into memory.

    Raises:
      UserError: the name, split or size is wrong, or the data cannot be had; the error says what to do.
    """
    check(name, image_size, data_dir)
    if split not in SPLITS:
        raise UserError(f"split={split!r} is unknown; allowed: {', '.join(SPLITS)}")
    source = find(name, data_dir)
    key = f"{source.key(split)}-{split}-{image_size}x{image_size}x{source.channels}-{decoding.RECIPE}"
    folder = cache.directory("data", key)
    done = folder / "done.json"
    if not done.exists():
        with cache.lock(key):
            if not done.exists():
                # A killed process may have left files; nobody else writes here while the lock is held.
                for leftover in folder.iterdir():
                    leftover.unlink()
                examples = source.open(split)
                decoding.decode(examples, image_size, source.channels, folder)
                with files.atomic_write(done) as path:
                    path.write_text(json.dumps({"name": name, "label_names": examples.label_names}))
    labels = folder / "labels.npy"
    return Dataset(
        name=name,
        images=np.load(folder / "images.npy", mmap_mode="r"),
        labels=np.load(labels) if labels.exists() else None,
        label_names=tuple(json.loads(done.read_text())["label_names"]),
    )


def check(name: str, image_size: int | None = None, data_dir: str | None = None) -> None:
    """Raises UserError if the data set cannot exist: unknown name, missing folder, impossible size or directory.

    Downloads, prepares and writes nothing; a name that passes can still fail to download.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"data.name={name!r} is no name; allowed: {_allowed()}")
    whole = isinstance(image_size, (int, np.integer)) and not isinstance(image_size, bool)
    if image_size is not None and not (whole and image_size > 0):
        raise UserError(f"data.image_size={image_size!r} is impossible; allowed: a whole number of pixels from 1")
    if data_dir is not None and os.path.exists(data_dir) and not os.path.isdir(data_dir):
        raise UserError(f"data.dir={data_dir!r} is not a directory; give one, or none for the TFDS directory")
    find(name, data_dir).verify()


def channels(name: str) -> int:
    """Returns the number of channels of a data set's images: 1 (gray) or 3 (RGB)."""
    return find(name).channels


def classes(name: str, data_dir: str | None = None) -> int:
    """Returns the number of classes that a data set's labels tell apart; 0 without labels, or with attributes."""
    return find(name, data_dir).classes
