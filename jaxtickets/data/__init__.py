"""Datasets as arrays of uint8 images, by name.

Names: `digits` and `synthetic_faces` (made on this machine), `cifar10`, `celeb_a`, `mnist`, `fashion_mnist`,
`lsun/<category>` (downloaded by TFDS), `folder:PATH` (a directory or .zip of images), or any other TFDS dataset with
an `image` feature.
"""

import dataclasses
import json
import os

import numpy as np

from jaxtickets import cache, files
from jaxtickets.data import sources
from jaxtickets.errors import UserError

SPLITS = ("train", "test")
# Part of the cache's keys; to be raised when decoding, cropping or resizing changes.
RECIPE = 1


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a dataset at one size.

    images: uint8 [n, size, size, channels], mapped from disk. labels: int32 [n] classes, uint8 [n, attributes] zeros
    and ones, or None. label_names: the name of each class or attribute; empty if there are none.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    label_names: tuple[str, ...]


def load(name: str, split: str, image_size: int, data_dir: str | None = None) -> Dataset:
    """Loads `split` ('train' or 'test') of a dataset, decoded, centre-cropped and resized to `image_size` pixels.

    The first call downloads or renders what is missing (TFDS data in `data_dir`, or in TFDS's own directory if None)
    and keeps the decoded images in the cache directory; later calls map those and read nothing else.

    Raises UserError with what to do if the name, split or size is wrong, or the data cannot be had.
    """
    check(name, image_size, data_dir)
    if split not in SPLITS:
        raise UserError(f"split={split!r} is unknown; allowed: {', '.join(SPLITS)}")
    source = sources.find(name, data_dir)
    key = f"{source.key}-{split}-{image_size}x{image_size}x{channels(name)}-{RECIPE}"
    folder = cache.directory("data", key)
    done = folder / "done.json"
    if not done.exists():
        with cache.lock(key):
            if not done.exists():
                # What a killed process left behind; nobody else writes here while the lock is held.
                for leftover in folder.iterdir():
                    leftover.unlink()
                examples = source.open(split)
                sources.decode(examples, image_size, channels(name), folder)
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
    """Raises UserError if the dataset cannot exist: unknown name, missing folder, impossible size or directory.

    Downloads, prepares and writes nothing; a name that passes can still fail to download.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"data.name={name!r} is no name; allowed: {', '.join(sources.ALLOWED)}")
    whole = isinstance(image_size, (int, np.integer)) and not isinstance(image_size, bool)
    if image_size is not None and not (whole and image_size > 0):
        raise UserError(f"data.image_size={image_size!r} is impossible; allowed: a whole number of pixels from 1")
    if data_dir is not None and os.path.exists(data_dir) and not os.path.isdir(data_dir):
        raise UserError(f"data.dir={data_dir!r} is not a directory; give one, or none for the TFDS directory")
    source = sources.find(name, data_dir)
    if isinstance(source, sources.FolderSource):
        source.files()
    elif name not in sources.EMBEDDED + sources.DOWNLOADED:
        with sources.quiet_tfds():
            source.builder_class()


def channels(name: str) -> int:
    """Channels of the dataset's images: 1 for digits, mnist and fashion_mnist, 3 for all others (made RGB)."""
    return 1 if name in sources.GRAY else 3


def classes(name: str, data_dir: str | None = None) -> int:
    """How many classes the dataset's labels tell apart; 0 if it has none, or attributes instead."""
    return sources.find(name, data_dir).classes
