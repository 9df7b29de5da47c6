"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) as downloaded, in the binary and in the Python version."""

import pickle
from typing import NamedTuple

import numpy as np

from jaxtickets.data.readers import pickles
from jaxtickets.data.readers.local import Labels, Local, describe, digest, of_arrays, some
from jaxtickets.data.trees import Tree
from jaxtickets.errors import UserError

SHAPE = (32, 32, 3)
PIXELS = 32 * 32 * 3


class Version(NamedTuple):
    """One of the four published forms.

    Attributes:
      title: how messages call it.
      train, test: the names of the files of each split.
      meta: the name of the file with the names of the classes.
      classes: their number.
      labels: in the binary version, the number of bytes with labels before each image; the last one is the class. In
        the Python version 0.
      keys: in the Python version, the names of the class labels and of the classes' names.
    """

    title: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    classes: int
    labels: int = 0
    keys: tuple[str, str] = ("", "")


BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
VERSIONS = (
    Version("CIFAR-10, Python version", BATCHES, ("test_batch",), "batches.meta", 10, keys=("labels", "label_names")),
    Version(
        "CIFAR-10, binary version",
        tuple(f"{batch}.bin" for batch in BATCHES),
        ("test_batch.bin",),
        "batches.meta.txt",
        10,
        labels=1,
    ),
    Version("CIFAR-100, Python version", ("train",), ("test",), "meta", 100, keys=("fine_labels", "fine_label_names")),
    Version("CIFAR-100, binary version", ("train.bin",), ("test.bin",), "fine_label_names.txt", 100, labels=2),
)


def look(name: str, tree: Tree) -> Local | None:
    """Returns the source of a tree's CIFAR files, or None if it has none.

    Raises:
      UserError: files are missing, broken, or of several versions.
    """
    folders = {}
    for entry in tree.names:
        folder, slash, base = entry.rpartition("/")
        folders.setdefault(folder + slash, set()).add(base)
    found = [
        (version, folder)
        for folder, bases in folders.items()
        for version in VERSIONS
        if len(bases & {version.meta, *version.train, *version.test}) > 1
    ]
    if not found:
        return None
    if len(found) > 1:
        ways = ", ".join(f"{version.title} in {folder or '.'}" for version, folder in found)
        raise UserError(f"data.name={name!r} holds {len(found)} data sets; give one of their directories: {ways}")
    ((version, folder),) = found
    files = {split: [folder + file for file in getattr(version, split)] for split in ("train", "test")}
    used = [folder + version.meta, *files["train"], *files["test"]]
    if missing := [file for file in used if file not in tree.names]:
        raise UserError(f"data.name={name!r} seems to be {version.title}, but lacks {some(missing)}; fetch it again")
    names = _names(tree, used[0], version)
    # The class labels of one file are in front of its images, so both are read.
    tables = {split: _read(tree, files[split], version)[1] for split in files}
    labels = Labels(tables, version.classes, names)

    def load(split):
        return _read(tree, files[split], version)[0]

    about = describe(version.title, {split: len(table) for split, table in tables.items()}, SHAPE, labels)
    return of_arrays(name, about, digest(tree, used), 3, labels, load, given=True)


def _read(tree: Tree, files: list[str], version: Version) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images uint8 [n, 32, 32, 3] and the classes int [n] in some files, one after another."""
    parse = _binary if version.labels else _python
    parts = [parse(tree, file, version) for file in files]
    planes, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return np.moveaxis(planes.reshape(-1, 3, 32, 32), 1, 3), labels


def _binary(tree: Tree, file: str, version: Version) -> tuple[np.ndarray, np.ndarray]:
    content, record = np.frombuffer(tree.read(file), np.uint8), version.labels + PIXELS
    if not len(content) or len(content) % record:
        raise UserError(
            f"{tree.label(file)} is {len(content):,} bytes long, which is no number of records of {record:,} bytes;"
            " fetch it again"
        )
    records = content.reshape(-1, record)
    return records[:, version.labels :], _classes(tree, file, records[:, version.labels - 1].astype(int), version)


def _python(tree: Tree, file: str, version: Version) -> tuple[np.ndarray, np.ndarray]:
    found = _unpickled(tree, file)
    planes, labels = found.get("data"), found.get(version.keys[0])
    if not (isinstance(planes, np.ndarray) and planes.dtype == np.uint8 and planes.shape[1:] == (PIXELS,)):
        raise UserError(f"{tree.label(file)} has no 'data' of uint8 [n, {PIXELS}]; fetch it again")
    if not (isinstance(labels, list) and all(type(label) is int for label in labels)):
        raise UserError(f"{tree.label(file)} has no {version.keys[0]!r}, a list of whole numbers; fetch it again")
    if len(labels) != len(planes):
        raise UserError(f"{tree.label(file)} has {len(planes):,} images and {len(labels):,} labels; fetch it again")
    return planes, _classes(tree, file, labels, version)


def _classes(tree: Tree, file: str, labels, version: Version) -> np.ndarray:
    """Returns labels as an array. Raises UserError if one is no class."""
    for label in (min(labels), max(labels)):
        if not 0 <= label < version.classes:
            raise UserError(f"{tree.label(file)}: a label is {label}; allowed: 0 to {version.classes - 1}")
    return np.asarray(labels, int)


def _names(tree: Tree, file: str, version: Version) -> tuple[str, ...]:
    """Returns the names of the classes."""
    if version.labels:
        names = tree.read(file).decode("ascii", "replace").split()
    else:
        names = _unpickled(tree, file).get(version.keys[1])
        if not (isinstance(names, list) and all(isinstance(name, bytes | str) for name in names)):
            names = []
        names = [name.decode("latin1") if isinstance(name, bytes) else name for name in names]
    if len(names) != version.classes:
        raise UserError(f"{tree.label(file)} names {len(names)} classes instead of {version.classes}; fetch it again")
    return tuple(names)


def _unpickled(tree: Tree, file: str) -> dict:
    try:
        return pickles.load(tree.read(file))
    except pickle.UnpicklingError as error:
        raise UserError(f"{tree.label(file)} is no pickled dictionary of arrays and texts: {error}") from error
