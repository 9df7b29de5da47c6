"""CelebA (Liu et al., 2015) as downloaded from its authors or from Kaggle, with its official split."""

import pathlib
from functools import partial

import numpy as np

from jaxtickets.data.readers.local import WHOLE, Local, digest, some
from jaxtickets.data.source import Examples
from jaxtickets.data.trees import Tree, open_inner
from jaxtickets.errors import UserError

IMAGES = "img_align_celeba"
PARTITION, ATTRIBUTES = "list_eval_partition", "list_attr_celeba"
LISTS = tuple(f"{name}{suffix}" for name in (PARTITION, ATTRIBUTES) for suffix in (".txt", ".csv"))
# The parts that the lists tell apart; images for validation are not used.
PARTS = {"train": 0, "test": 2}


def look(name: str, tree: Tree) -> Local | None:
    """Returns the source of a tree's CelebA files, or None if it has none.

    Its images are the aligned ones, 178x218 pixels; their centre, 178x178, is the usual crop.

    Raises:
      UserError: files are missing or broken, or the lists and the images do not fit together.
    """
    lists = {pathlib.PurePosixPath(entry).name: entry for entry in tree.names if entry.endswith(LISTS)}
    if not lists:
        return None
    partition, attributes = (
        next((lists[f"{base}{suffix}"] for suffix in (".txt", ".csv") if f"{base}{suffix}" in lists), None)
        for base in (PARTITION, ATTRIBUTES)
    )
    if partition is None:
        raise UserError(
            f"data.name={name!r} seems to be CelebA, but lacks {PARTITION}.txt, its official split; fetch it"
        )
    images, where = _images(name, tree)
    _, names, column = _rows(tree, partition)
    parts = dict(zip(names, column[:, 0].tolist(), strict=True))
    if unknown := set(parts.values()) - {0, 1, 2}:
        raise UserError(f"{tree.label(partition)}: an image is in part {min(unknown)}; allowed: 0, 1 and 2")
    headings, table, row_of = (), None, {}
    if attributes:
        headings, names, table = _rows(tree, attributes)
        row_of = {stem: row for row, stem in enumerate(names)}
        if row_of.keys() != parts.keys() or not np.isin(table, (-1, 0, 1)).all():
            raise UserError(
                f"{tree.label(attributes)} and {tree.label(partition)} do not fit together ({len(row_of):,} and"
                f" {len(parts):,} images), or an attribute is neither 1 nor -1; fetch both again"
            )
    if missing := sorted(parts.keys() - images.keys()):
        raise UserError(
            f"data.name={name!r}: {len(missing):,} of the {len(parts):,} images in {partition} are missing, such as"
            f" {some(missing, 1)}; fetch {IMAGES}.zip again"
        )
    stems = {split: sorted(stem for stem, part in parts.items() if part == number) for split, number in PARTS.items()}
    if not all(stems.values()):
        raise UserError(f"{tree.label(partition)} names no images in part 0, for training, or in part 2, for testing")

    stems[WHOLE] = sorted([*stems["train"], *stems["test"]])

    def split(part):
        of_part = stems[part]

        def read(start, stop):
            files = [images[stem] for stem in of_part[start:stop]]
            labels = [None] * len(files)
            if table is not None:
                labels = (table[[row_of[stem] for stem in of_part[start:stop]]] > 0).tolist()
            return [(partial(where.read, f), label, where.label(f)) for f, label in zip(files, labels, strict=True)]

        return Examples(len(of_part), read, headings)

    unused = len(parts) - len(stems[WHOLE])
    about = (
        f"CelebA: {len(stems['train']):,} training and {len(stems['test']):,} test images by its official split"
        f" ({unused:,} for validation are not used), colour, "
        + (f"{len(headings)} attributes" if attributes else f"no labels, because {ATTRIBUTES}.txt is missing")
    )
    used = [partition, *filter(None, [attributes]), *(images.values() if where is tree else [_zip(tree)])]
    return Local(name, about, digest(tree, used), split, whole=partial(split, WHOLE))


def _zip(tree: Tree) -> str | None:
    return next((entry for entry in tree.names if pathlib.PurePosixPath(entry).name == f"{IMAGES}.zip"), None)


def _images(name: str, tree: Tree) -> tuple[dict[str, str], Tree]:
    """Returns `{name without suffix: path}` of the aligned images, and the tree that they are in."""
    found = _aligned(tree)
    packed = _zip(tree)
    if not found and packed:
        tree = open_inner(tree, packed)
        found = _aligned(tree, any_folder=True)
    if not found:
        raise UserError(
            f"data.name={name!r} seems to be CelebA, but lacks {IMAGES}.zip, or a directory {IMAGES}; fetch it"
        )
    return found, tree


def _aligned(tree: Tree, any_folder: bool = False) -> dict[str, str]:
    """Returns `{name without suffix: path}` of the images in a directory img_align_celeba, or in any."""
    paths = [pathlib.PurePosixPath(entry) for entry in tree.names if entry.lower().endswith((".jpg", ".png"))]
    return {p.stem: str(p) for p in paths if any_folder or any(part.startswith(IMAGES) for part in p.parts[:-1])}


def _rows(tree: Tree, entry: str) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """Returns the headings of a list, if it has any, its images' names without suffixes, and int8 [n, columns]."""
    lines = [line for line in tree.read(entry).decode("utf-8", "replace").splitlines() if line.strip()]
    separator = "," if entry.endswith(".csv") else None
    try:
        headings = ()
        if entry.endswith(".csv"):
            headings, lines = lines[0].split(",")[1:], lines[1:]
        elif ATTRIBUTES in entry:  # Its first line is the number of images, its second one the attributes' names.
            headings, lines = lines[1].split(), lines[2:]
        if len(lines[0].split(separator)) != 1 + max(1, len(headings)):
            raise ValueError("its lines have more or fewer numbers than its heading")
        columns = range(1, 1 + max(1, len(headings)))
        table = np.loadtxt(lines, np.int8, comments=None, delimiter=separator, usecols=columns, ndmin=2)
        names = [line.split(separator, 1)[0].rpartition(".")[0] for line in lines]
        if len(set(names)) != len(names):
            raise ValueError("an image is there twice")
    except (ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{tree.label(entry)} is broken: {error}; fetch it again") from error
    return tuple(headings), names, table
