"""Data sets as arrays of uint8 images, by name.

`SOURCES` are the data sets with a name of their own and `FAMILIES` those whose names carry a path or a variant;
`SOURCES.add(...)` takes further ones, such as `Arrays`, `ImageTree` or any other `Source`.
"""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from jaxtickets import cache, files
from jaxtickets.data import decoding, readers
from jaxtickets.data.arrays import Arrays
from jaxtickets.data.decoding import Recipe
from jaxtickets.data.directories import stamp
from jaxtickets.data.embedded import Embedded
from jaxtickets.data.folders import ImageTree
from jaxtickets.data.source import Examples, Source
from jaxtickets.data.tfds import Tfds
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.fields import Registry
from jaxtickets.local_paths import local_path
from jaxtickets.progress import say

__all__ = [
    "SOURCES",
    "SPLITS",
    "Arrays",
    "Dataset",
    "Examples",
    "ImageTree",
    "Recipe",
    "Source",
    "Tfds",
    "channels",
    "check",
    "classes",
    "digests",
    "find",
    "load",
    "of_config",
]

SPLITS = ("train", "test")
FACTS = "done.json"  # In the folder of a decoded split, beside its arrays; written last.
_IDX = "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"

SOURCES = Registry(
    "data.name",
    Embedded("digits", "jaxtickets.data.digits:examples", channels=1, classes=10, count=1_501),
    Embedded("synthetic_faces", "jaxtickets.data.synthetic_faces:examples", how_long="about a minute", count=20_000),
    Tfds(
        "cifar10",
        count=50_000,
        is_gray=False,
        by_hand="cifar-10-binary.tar.gz (or cifar-10-python.tar.gz) from https://www.cs.toronto.edu/~kriz/cifar.html"
        " and give --config.data.name=files:PATH/cifar-10-binary.tar.gz",
    ),
    Tfds(
        "celeb_a",
        count=162_770,
        is_gray=False,
        by_hand="img_align_celeba.zip, list_eval_partition.txt and list_attr_celeba.txt from"
        " https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into one directory PATH and give"
        " --config.data.name=files:PATH",
    ),
    Tfds(
        "mnist",
        count=60_000,
        is_gray=True,
        by_hand=f"{_IDX} from https://ossci-datasets.s3.amazonaws.com/mnist/ into one directory PATH and give"
        " --config.data.name=files:PATH",
    ),
    Tfds(
        "fashion_mnist",
        count=60_000,
        is_gray=True,
        by_hand=f"{_IDX} from https://github.com/zalandoresearch/fashion-mnist into one directory PATH and give"
        " --config.data.name=files:PATH (Debian's and Ubuntu's package dataset-fashion-mnist puts them into"
        " /usr/share/datasets/fashion-mnist)",
    ),
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
    Family("folder:PATH", "folder:.*", ImageTree.named),
    Family("files:PATH", "files:.*", readers.look),
    Family("or another TFDS dataset with an 'image' feature", ".*", lambda name: Tfds(name, allowed=_allowed())),
)


def _allowed() -> str:
    return ", ".join((*SOURCES, *(family.form for family in FAMILIES)))


def find(name: str, data_dir: str | None = None, background: str = decoding.USUAL.background) -> Source:
    """Returns the source that `name` means; its prepared files are in `data_dir`, or in the usual place if None.

    The colour `background` is behind transparent parts, and counts where the source looks whether images are coloured.

    A name that no data set has is found too: `check` refuses it. Only files:PATH raises UserError at once, if nothing
    there can be read.
    """
    source = SOURCES.get(name)
    if source is None:
        source = next(family.make(name) for family in FAMILIES if re.fullmatch(family.pattern, name, re.DOTALL))
    source = source.at(None if data_dir is None else str(local_path(data_dir, "config.data.dir")))
    return source.over(background)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a data set at one size.

    images: uint8 [n, size, size, channels], mapped from disk. labels: int32 [n] classes, uint8 [n, attributes] zeros
    and ones, or None. label_names: the name of each class or attribute; empty if there are none. digest: SHA-256 of
    all of these.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    label_names: tuple[str, ...]
    digest: str


def load(
    name: str, split: str, image_size: int, data_dir: str | None = None, recipe: Recipe = decoding.USUAL
) -> Dataset:
    """Loads `split` ('train' or 'test') of a data set, decoded, cropped and resized to `image_size` pixels.

    `Recipe.of(config)` is how a config crops and decodes; the usual recipe keeps the square in the centre.

    The first call downloads or renders what is missing (TFDS data in `data_dir`, or in TFDS's own directory if None)
    and keeps the decoded images in the cache directory; later calls map those into memory.

    Raises:
      UserError: the name, split or size is wrong, or the data cannot be had; the error says what to do.
    """
    check(name, image_size, data_dir)
    if split not in SPLITS:
        raise UserError(f"split={split!r} is unknown; allowed: {', '.join(SPLITS)}")
    source = find(name, data_dir, recipe.background)
    form, key = (image_size, source.channels), _key(source, split, image_size, recipe)
    folder = cache.directory("data", key)
    if (found := _kept(name, folder, *form)) is not None:
        return found
    with cache.lock(key):
        if (found := _kept(name, folder, *form, tell=say)) is not None:
            return found
        with cache.writing(folder):
            # A killed process may have left files; nobody else writes here while the lock is held.
            for leftover in folder.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        examples = source.open(split)
        with cache.writing(folder):
            may_be_dark = split == "test" and examples.count < decoding.FEW
            decoded = decoding.decode(examples, image_size, source.channels, folder, recipe, may_be_dark)
            for line in decoding.remarks(decoded, image_size, name, split):
                say(line)
            facts = {"name": name, "label_names": examples.label_names, "digest": decoded.digest}
            files.replace(folder / FACTS, json.dumps(facts).encode())
    return _kept(name, folder, *form)


def _key(source, split, image_size, recipe):
    return f"{source.key(split)}-{split}-{image_size}x{image_size}x{source.channels}-{recipe.key}"


def are_kept(config) -> bool:
    """Whether the cache directory has the decoded images of a config; nothing is prepared, decoded or written."""
    recipe, size = Recipe.of(config), config.model.image_size
    source = find(config.data.name, config.data.dir or None, recipe.background)
    return all((cache.path("data", _key(source, split, size, recipe)) / FACTS).is_file() for split in SPLITS)


def of_config(config, split: str) -> Dataset:
    """Loads a split of the data set of a config, as its run has it."""
    return load(config.data.name, split, config.model.image_size, config.data.dir or None, Recipe.of(config))


def digests(config) -> dict[str, str]:
    """The digests of a config's data by the name of the split (`identity`). Loads them."""
    return {split: of_config(config, split).digest for split in SPLITS}


def _kept(name, folder, image_size, channels, tell: Callable[[str], None] = lambda line: None) -> Dataset | None:
    """The decoded images in a folder of the cache; None if there are none, or damaged ones, which are told."""
    try:
        found = {path.name: path.stat() for path in sorted(folder.iterdir())}
    except FileNotFoundError:  # Another process is removing them.
        return None
    if FACTS not in found:
        return None
    stamps = tuple((path, status.st_ino, status.st_size, *stamp(status)) for path, status in found.items())
    try:
        return _read(name, folder, image_size, channels, stamps)
    except DamagedError as error:
        tell(f"data.name={name!r}: {error}; they are made again")
        return None


@lru_cache(maxsize=16)
def _read(name, folder, image_size, channels, stamps) -> Dataset:
    """Reads and verifies what `load` has kept, once per process: a start asks several times.

    stamps: what changes when the files do.
    """
    del stamps
    facts = files.read_json(folder / FACTS) or {}
    names, digest = facts.get("label_names"), facts.get("digest")
    if not isinstance(names, list) or not isinstance(digest, str):
        raise DamagedError(f"the decoded images in {folder} are damaged ({FACTS} can't be read)")
    images, labels = decoding.read(folder, image_size, channels, names, digest)
    return Dataset(name, images, labels, tuple(names), digest)


def check(name: str, image_size: int | None = None, data_dir: str | None = None) -> None:
    """Raises UserError if the data set cannot exist: unknown name, missing folder, impossible size or directory.

    Downloads, prepares and writes nothing; a name that passes can still fail to download.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"data.name={name!r} is no name; allowed: {_allowed()}")
    whole = isinstance(image_size, (int, np.integer)) and not isinstance(image_size, bool)
    if image_size is not None and not (whole and image_size > 0):
        raise UserError(f"data.image_size={image_size!r} is impossible; allowed: a whole number of pixels from 1")
    path = local_path("." if data_dir is None else data_dir, "config.data.dir")
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"data.dir={str(path)!r} is not a directory; give one, or none for the TFDS directory")
    find(name, data_dir).verify()


def channels(name: str, background: str = decoding.USUAL.background) -> int:
    """Returns the number of channels of a data set's images over a background: 1 (gray) or 3 (RGB)."""
    return find(name, background=background).channels


def classes(name: str, data_dir: str | None = None) -> int:
    """Returns the number of classes that a data set's labels tell apart; 0 without labels, or with attributes."""
    return find(name, data_dir).classes
