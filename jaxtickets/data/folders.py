"""Images in a directory, a zip or a tar, with labels and splits where its directories give them."""

import collections
import dataclasses
import hashlib
import heapq
import math
import os
import posixpath
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import NamedTuple

from jaxtickets.data import image_files
from jaxtickets.data.source import Examples, Source
from jaxtickets.data.trees import Tree, open_tree
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.progress import say

PREFIX = "folder:"
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".apng", ".avif", ".dib", ".j2k", ".jfif", ".jp2", ".jpe", ".pbm", ".pgm", ".pnm", ".ppm", ".qoi", ".tga"),
)
# The names of directories that hold a split.
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation"), "validation")
HELD_OUT = 10  # Where no directories say which images are held out, one in ten is.
LOOKED_AT = 200


class Layout(NamedTuple):
    """The images of a tree.

    Attributes:
      splits: the name and the class of each image of the splits 'train' and 'test'; the class is None without labels.
      label_names: the names of the classes.
      split_by: how the images were split, in words.
      left_out: how many files were left out, by the reason, in words that follow a number.
    """

    splits: dict[str, list[tuple[str, int | None]]]
    label_names: tuple[str, ...]
    split_by: str
    left_out: dict[str, int]


@dataclass(frozen=True)
class ImageTree(Source):
    """All images below a directory or in an archive.

    Splits: directories `train` and `test` (or `val`, if there is no `test`) that lie side by side give them; what lies
    elsewhere is left out. Otherwise a tenth of the images is held out, chosen by a hash of their names, evenly over the
    classes.

    Labels: the outermost directories that tell images apart are the classes, in the order of their names, if each image
    lies in one. Directories that give splits don't count; classes of the test split must be in the train split too.

    Channels: 3 if any of 200 images, chosen by a hash of their names, has a coloured pixel, else 1. Transparent parts
    have the colour of the background.

    Attributes:
      name: the whole of `config.data.name`.
      path: the directory or archive.
      tree: its files, if they are listed already.
      background: the colour behind transparent parts.
    """

    name: str
    path: str
    tree: Tree | None = None
    background: str = image_files.BACKGROUND

    @classmethod
    def named(cls, name: str) -> "ImageTree":
        """Returns the source that a name of the form folder:PATH means."""
        return cls(name, name.removeprefix(PREFIX))

    def over(self, background: str) -> "ImageTree":
        return self if background == self.background else dataclasses.replace(self, background=background)

    def verify(self) -> None:
        _ = self._images

    def key(self, split: str) -> str:
        """Returns a digest of the place and of the names, sizes and stamps of all images."""
        images = set(self._images)
        content = repr([entry for entry in self._tree.entries if entry.name in images])
        place = repr(self._tree.path.resolve())
        return f"images-{hashlib.sha256(f'{place} {content}'.encode()).hexdigest()[:24]}"

    @property
    def classes(self) -> int:
        return len(self._layout.label_names)

    @cached_property
    def channels(self) -> int:
        for name in sorted(heapq.nsmallest(LOOKED_AT, self._images, key=_hash)):
            try:
                if image_files.is_colour(self._tree.read(name), self.background):
                    return 3
            except Exception:  # A broken image is for decoding to tell.
                continue
        return 1

    def open(self, split: str) -> Examples:
        if split == "train":
            train, test = (f"{len(self._layout.splits[name]):,} to {name}" for name in ("train", "test"))
            say(self._summary(f"{train} and {test} ({self._layout.split_by}); "))
        return self._examples(self._layout.splits[split])

    def open_all(self) -> list[Examples]:
        say(self._summary())
        rows = [row for split in self._layout.splits.values() for row in split]
        return [self._examples(sorted(rows, key=lambda row: _normal(row[0])))]

    def _examples(self, rows):
        tree = self._tree

        def read(start, stop):
            return [(partial(tree.read, name), label, tree.label(name)) for name, label in rows[start:stop]]

        return Examples(len(rows), read, self._layout.label_names)

    @cached_property
    def _tree(self) -> Tree:
        where = f"data.name={self.name!r}"
        if self.tree is not None:
            return self.tree
        path = self.path and local_path(self.path, f"config.data.name={PREFIX}PATH with PATH")
        if not path or not os.path.exists(path):
            raise UserError(f"{where}: there is no such directory, zip or tar; give folder:PATH with an existing path")
        tree = open_tree(path)
        if tree.kind == "file":
            raise UserError(f"{where} is neither a directory nor a zip or tar archive; give one that holds images")
        return tree

    @cached_property
    def _images(self) -> list[str]:
        """The names of the images, sorted.

        Raises:
          UserError: the path is missing, is neither a directory nor an archive, or holds fewer than two images.
        """
        images = [entry.name for entry in self._tree.entries if _suffix(entry.name) in SUFFIXES]
        if len(images) < 2:
            others = _counted(_others(self._tree))
            raise UserError(
                f"data.name={self.name!r} holds {len(images)} images, and at least 2 are needed (one to train, one to"
                f" test); allowed: {', '.join(SUFFIXES)}" + (f"; there are {others}" if others else "")
            )
        return sorted(images, key=_normal)

    @cached_property
    def _layout(self) -> Layout:
        return arrange(self._images)

    def _summary(self, split: str = "") -> str:
        """Returns one line about what was found and what was left out. split: how it was split, in words."""
        layout = self._layout
        found = _counted(collections.Counter(_suffix(name) for name in self._images))
        kind = "grey" if self.channels == 1 else "colour"
        classes = f"{len(layout.label_names)} classes" if layout.label_names else "no class labels"
        left_out = _counted({**layout.left_out, **_others(self._tree)})
        return (
            f"data.name={self.name!r}: {len(self._images):,} images ({found}); {kind}, {classes};"
            f" {split}left out: {left_out or 'nothing'}"
        )


def arrange(names: Sequence[str]) -> Layout:
    """Sorts images into splits and classes by the directories in their names (`ImageTree` says how).

    Args:
      names: at least two paths with slashes, relative to one root, in the order in which the splits shall have them.
    """
    below = _without_common(dict(zip(names, names, strict=True)))
    given, left_out = _given_splits(below)
    if given:
        below = _without_common({name: path for split in given.values() for name, path in split.items()})
        label_names = _classes([below[name] for name in given["train"]])
        if not {path.partition("/")[0] for path in below.values() if "/" in path} <= set(label_names) or any(
            "/" not in below[name] for name in given["test"]
        ):
            label_names = ()
        held_out, split_by = set(given["test"]), "given by directories"
    else:
        label_names = _classes(list(below.values()))
        held_out, split_by = _tenth(below, label_names), "a tenth, by a hash of the names"
    index = {name: i for i, name in enumerate(label_names)}
    splits = {"train": [], "test": []}
    for name in names:
        if name in below:
            label = index[below[name].partition("/")[0]] if label_names else None
            splits["test" if name in held_out else "train"].append((name, label))
    return Layout(splits, label_names, split_by, left_out)


def _given_splits(below):
    """Returns {split: {name: path without the split's directory}}, empty if there are none, and what is left out."""
    places, kinds = {}, collections.defaultdict(set)
    for name, path in below.items():
        *folders, _ = path.lower().split("/")
        place = next((i for i, folder in enumerate(folders) if folder in SPLITS), None)
        if place is not None:
            places[name] = place
            kinds["/".join(folders[:place]), place].add(SPLITS[folders[place]])
    depths = [place for (_, place), found in kinds.items() if "train" in found and len(found) > 1]
    if not depths:
        return {}, {}
    found, outermost = collections.defaultdict(dict), min(depths)
    for name, path in below.items():
        parts = path.split("/")
        if places.get(name) == outermost:
            split = SPLITS[parts.pop(outermost).lower()]
            found[split][name] = "/".join(parts)
    left_out = {"images beside the directories of the splits": len(below) - sum(map(len, found.values()))}
    held_out = "test" if "test" in found else "validation"
    left_out["images of the validation split"] = len(found["validation"]) if held_out == "test" else 0
    return {"train": found["train"], "test": found[held_out]}, {why: count for why, count in left_out.items() if count}


def _without_common(below):
    """Returns {name: path} without the directories that all paths begin with."""
    common = posixpath.commonpath([f"/{posixpath.dirname(path)}" for path in below.values()])
    return {name: f"/{path}"[len(common) :].lstrip("/") for name, path in below.items()}


def _classes(paths):
    """Returns the sorted names of the directories that all images lie in; () if some lie in none, or all in one."""
    folders = {path.partition("/")[0] for path in paths}
    return tuple(sorted(folders)) if len(folders) > 1 and all("/" in path for path in paths) else ()


def _tenth(below, label_names):
    """Returns the names of a tenth of the images, at least one; as good as a tenth of each class too."""
    kinds = collections.defaultdict(list)
    for name, path in below.items():
        kinds[path.partition("/")[0] if label_names else ""].append((_hash(path), name))
    ranked = []
    for kind in kinds.values():
        ranked += [((rank + 0.5) / len(kind), *row) for rank, row in enumerate(sorted(kind))]
    return {name for _, _, name in sorted(ranked)[: math.ceil(len(below) / HELD_OUT)]}


def _hash(name):
    return hashlib.sha256(_normal(name).encode("utf-8", "surrogatepass")).digest()


def _normal(name):
    """Returns a name as most systems write it; macOS writes accents as characters of their own."""
    return unicodedata.normalize("NFC", name)


def _suffix(name):
    return PurePosixPath(name).suffix.lower()


def _others(tree):
    """Returns how many files of a tree are no images, by suffix, and what was left out of the tree itself."""
    suffixes = collections.Counter(_suffix(entry.name) or "without a suffix" for entry in tree.entries)
    return {**tree.skipped, **{suffix: n for suffix, n in suffixes.items() if suffix not in SUFFIXES}}


def _counted(counts):
    """Returns numbers of things in words, the largest first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{count:,} {what}" for what, count in ranked[:6]]
    return ", ".join(words + (["..."] if len(ranked) > 6 else []))
