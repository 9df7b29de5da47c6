"""What the readers of downloaded data sets have in common: the data source they make, labels, and the test split."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import numpy as np

from jaxtickets.data.source import Examples, Source
from jaxtickets.data.trees import Tree
from jaxtickets.errors import UserError
from jaxtickets.progress import say

VERSION = 1  # Part of the cache's keys; raise it when a reader reads the same files differently.
WHOLE = "whole"  # Stands beside 'train' and 'test' for all images together.
TEST_SHARE = 10  # Where the files have no test split, one image in ten is held out.


@dataclass(frozen=True)
class Local(Source):
    """A data set in files that lie on this machine, in a format that is known.

    Attributes:
      name: as in `config.data.name`.
      about: what was found, in one line; said when its training images are read.
      digest: changes when a file of it does.
      split: opens 'train' or 'test'.
      channels, classes: see `Source`.
      split_by: how the images were split, where their files don't say.
      whole: opens all images in the order of their files, where that is not the train split before the test split.
    """

    name: str
    about: str
    digest: str
    split: Callable[[str], Examples]
    channels: int = 3
    classes: int = 0
    split_by: str = ""
    whole: Callable[[], Examples] | None = None

    def key(self, split: str) -> str:
        return f"files-{self.digest}"

    def open(self, split: str) -> Examples:
        if split == "train":
            say(f"data.name={self.name!r}: {self.about}{self.split_by}")
        return self.split(split)

    def open_all(self) -> list[Examples]:
        say(f"data.name={self.name!r}: {self.about}")
        return [self.whole()] if self.whole else [self.split(split) for split in ("train", "test")]


def of_arrays(
    name: str, about: str, digest: str, channels: int, labels: "Labels", load: Callable, given: bool
) -> Local:
    """Returns the source of a data set whose images are arrays.

    Args:
      name, about, digest, channels: see `Local`.
      labels: of all splits, as `Labels.of` gives them.
      load: `split -> uint8 [n, height, width, channels]`.
      given: whether there is a split 'test'. Otherwise it is a part of 'train', chosen by the images' content.
    """

    between = []  # Without a test split: the images, from when one part of them is opened until the other one is.

    def images_of(part):
        if given or part == WHOLE:
            return load(part if given else "train")
        if between:
            return between.pop()
        between.append(load("train"))
        return between[0]

    def split(part):
        of_part = part if given else "train"
        images, table = images_of(part), labels.tables.get(of_part)
        if table is not None and len(table) != len(images):
            raise UserError(
                f"data.name={name!r} has {len(images):,} images and {len(table):,} labels for {of_part}; allowed: one"
                " label per image"
            )
        chosen = np.arange(len(images))
        if not given and part != WHOLE:
            held_out = is_held_out(image.tobytes() for image in images)
            chosen = np.flatnonzero(held_out == (part == "test"))
            if not len(chosen):
                raise UserError(f"data.name={name!r} holds no two different images, one to train and one to test")

        def read(start, stop):
            rows = chosen[start:stop]
            of_rows = [None] * len(rows) if table is None else table[rows].tolist()
            names = [f"image {row} of {name} ({of_part})" for row in rows]
            return list(zip(images[rows], of_rows, names, strict=True))

        return Examples(len(chosen), read, labels.names)

    split_by = "" if given else "; a tenth of them, chosen by a hash of their content, are the test split"
    whole = None if given else partial(split, WHOLE)
    return Local(name, about, digest, split, channels, labels.classes, split_by, whole)


def is_held_out(contents: Iterable[bytes]) -> np.ndarray:
    """Chooses a tenth, at least one, by hashes; their order does not matter, and equal contents stay together.

    Returns bool [n].
    """
    digests = (hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    hashes = np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)
    if not len(hashes):
        return np.zeros(0, bool)
    return hashes <= np.sort(hashes)[max(1, round(len(hashes) / TEST_SHARE)) - 1]


@dataclass(frozen=True)
class Labels:
    """The labels of a data set's splits.

    Attributes:
      tables: `{split: int [n] classes, or bool [n, attributes]}`; empty if there are no labels.
      classes: the number of classes; 0 for attributes or no labels.
      names: the name of each class or attribute.
      remark: what was done with them that needs telling.
    """

    tables: Mapping[str, np.ndarray]
    classes: int = 0
    names: tuple[str, ...] = ()
    remark: str = ""

    @classmethod
    def of(cls, raw: Mapping[str, np.ndarray], names: Callable[[object], str] = str) -> "Labels":
        """Makes classes of the distinct values in all splits, in their order, and attributes of tables of 0 and 1.

        Args:
          raw: `{split: labels}`; [n] or [n, 1] whole numbers or texts, or [n, k] zeros and ones. If each row has a
            single one, these are classes, too.
          names: gives the name of a class by its value.

        Raises:
          UserError: they are of another kind. The caller adds where they come from.
        """
        tables = {split: np.asarray(table) for split, table in raw.items()}
        for split, table in tables.items():
            if table.ndim == 2 and table.shape[1] == 1:
                tables[split] = table[:, 0]
        if not tables:
            return cls({})
        if len({table.shape[1:] for table in tables.values()}) > 1 or any(t.ndim > 2 for t in tables.values()):
            _refuse_labels(tables)
        if all(table.ndim == 2 for table in tables.values()):
            if not all(np.isin(table, (0, 1)).all() for table in tables.values()):
                _refuse_labels(tables)
            tables = {split: table.astype(bool) for split, table in tables.items()}
            width = next(iter(tables.values())).shape[1]
            if not all((table.sum(1) == 1).all() for table in tables.values()):
                return cls(tables, 0, tuple(f"attribute {i}" for i in range(width)))
            return cls({s: table.argmax(1) for s, table in tables.items()}, width, tuple(map(names, range(width))))
        for split, table in tables.items():
            if table.dtype.kind == "f" and np.isfinite(table).all() and (table == np.rint(table)).all():
                tables[split] = table.astype(np.int64)
            elif table.dtype.kind not in "iubUS":
                _refuse_labels(tables)
        values = np.unique(np.concatenate(list(tables.values())))
        count = sum(map(len, tables.values()))
        if len(values) > max(2, 0.9 * count):
            return cls({}, remark=f"; its labels are left out, because they take {len(values):,} different values")
        try:
            given = values.tolist()
        except SystemError:  # A text in a damaged file may have numbers that are no characters.
            _refuse_labels(tables)
        tables = {split: np.searchsorted(values, table) for split, table in tables.items()}
        return cls(tables, len(values), tuple(map(names, given)))

    def __str__(self) -> str:
        if not self.tables:
            return f"no labels{self.remark}"
        return f"{self.classes} classes" if self.classes else f"{len(self.names)} attributes"


def _refuse_labels(tables) -> NoReturn:
    found = ", ".join(f"{table.dtype} {list(table.shape)}" for table in tables.values())
    raise UserError(f"labels that are {found}; allowed are whole numbers or texts [n], or zeros and ones [n, k]")


def describe(what: str, counts: Mapping[str, int], shape: tuple[int, ...], labels: Labels) -> str:
    """Returns the line that says what was found. shape: (height, width, channels)."""
    images = f"{counts['train']:,}" + (f" training and {counts['test']:,} test" if "test" in counts else "") + " images"
    colour = "grey" if shape[2] == 1 else "colour"
    return f"{what}: {images} of {shape[1]}x{shape[0]} pixels, {colour}, {labels}"


def digest(tree: Tree, used: Iterable[str]) -> str:
    """Returns a digest of a tree's place and of some of its files' names, sizes and stamps."""
    used = set(used)
    entries = [entry for entry in tree.entries if entry.name in used]
    return hashlib.sha256(repr((VERSION, os.path.realpath(tree.path), entries)).encode()).hexdigest()[:24]


def some(names: Iterable[str], at_most: int = 4) -> str:
    """Returns the first few of some names, in words."""
    names = list(names)
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")
