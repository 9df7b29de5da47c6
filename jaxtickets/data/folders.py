"""Images in a directory, a zip or a tar, with labels and splits where its directories give them."""

import collections
import dataclasses
import hashlib
import heapq
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import PurePosixPath

from jaxtickets.data import image_files, layout
from jaxtickets.data.directories import Entry
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
LOOKED_AT = 200


@dataclass(frozen=True)
class ImageTree(Source):
    """All images below a directory or in an archive.

    Splits and classes: those that its directories give (`layout.arrange`), else a tenth is held out and there are no
    labels. Each real file counts once; links to it give it further names.

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
        _ = self._layout

    def key(self, split: str) -> str:
        """Returns a digest of the place, of the names, sizes and stamps of all images, of the splits and the labels."""
        layout = self._layout
        content = repr(([self._files[name] for name in self._images], layout.splits[split], layout.label_names))
        place = repr(self._tree.path.resolve())
        return f"images-{hashlib.sha256(f'{place} {content}'.encode()).hexdigest()[:24]}"

    @property
    def classes(self) -> int:
        return len(self._layout.label_names)

    @cached_property
    def channels(self) -> int:
        for name in sorted(heapq.nsmallest(LOOKED_AT, self._images, key=layout.digest)):
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
        return [self._examples(sorted(rows, key=lambda row: layout.normal(row[0])))]

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
        return sorted(images, key=layout.normal)

    @cached_property
    def _files(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self._tree.entries}

    @cached_property
    def _layout(self) -> layout.Layout:
        try:
            return _arranged(tuple((name, self._files[name].links) for name in self._images))
        except UserError as error:
            raise UserError(f"data.name={self.name!r}: {error}") from None

    def _summary(self, split: str = "") -> str:
        """Returns one line about what was found and what was left out. split: how it was split, in words."""
        label_names = self._layout.label_names
        found = _counted(collections.Counter(_suffix(name) for name in self._images))
        kind = "grey" if self.channels == 1 else "colour"
        classes = f"{len(label_names)} classes" if label_names else "no class labels"
        left_out = _counted({**self._layout.left_out, **_others(self._tree)})
        return (
            f"data.name={self.name!r}: {len(self._images):,} images ({found}); {kind}, {classes};"
            f" {split}left out: {left_out or 'nothing'}"
        )


@lru_cache(maxsize=2)
def _arranged(links):
    """`layout.arrange`, once for the same names: a start asks several times, and 200,000 names take a second."""
    return layout.arrange(dict(links))


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
