"""IDX, the format of MNIST (LeCun and Cortes) and of the data sets made in its likeness.

EMNIST (Cohen et al., 2017), Fashion-MNIST (Xiao et al., 2017) and KMNIST (Clanuwat et al., 2018) come in files of the
same names and form.
"""

import io
import math
import re
from typing import NamedTuple

import numpy as np

from jaxtickets.data.gzips import Gzip
from jaxtickets.data.readers.local import Labels, Local, describe, digest, of_arrays
from jaxtickets.data.trees import Tree
from jaxtickets.errors import UserError

NAME = re.compile(r".*ubyte(\.gz)?", re.IGNORECASE)
TEST = re.compile(r"(?<![a-z])(t10k|test)", re.IGNORECASE)
# Parts of a file's name that say which split or kind it is rather than which data set.
COMMON = re.compile(r"(?<![a-z])(t10k|test|train|images?|labels?|idx\d?|ubyte|gz)(?=[-_.]|$)", re.IGNORECASE)


class File(NamedTuple):
    """An IDX file of bytes. shape: [n] for labels, else [n, height, width] or [n, height, width, channels]."""

    name: str
    shape: tuple[int, ...]


def look(name: str, tree: Tree) -> Local | None:
    """Returns the source of a tree's IDX files, or None if it has none.

    Raises:
      UserError: they are of several data sets, or broken, or do not fit together.
    """
    groups = {}
    for entry in tree.names:
        folder, _, base = entry.rpartition("/")
        if NAME.fullmatch(base):
            group = groups.setdefault((folder, "-".join(re.findall(r"\w+", COMMON.sub("", base.lower())))), {})
            # The same file is often there twice, as downloaded and unpacked.
            plain = entry.removesuffix(".gz")
            group[plain] = plain if plain in group.values() else entry
    if not groups:
        return None
    if len(groups) > 1:
        ways = ", ".join(f"files:{tree.path}/{_prefix(folder, group)}" for (folder, _), group in groups.items())
        raise UserError(f"data.name={name!r} holds the IDX files of {len(groups)} data sets; choose one: {ways}")
    (((_, group_name), group),) = groups.items()
    return _source(name, tree, sorted(group.values()), "emnist" in group_name)


def _prefix(folder: str, group: dict[str, str]) -> str:
    """Returns a beginning of paths that chooses a group: its directory, and the name as far as its files share it."""
    names = [plain.rpartition("/")[2] for plain in group]
    shared = names[0][: COMMON.search(names[0]).start()].rstrip("-_.")
    return "/".join(part for part in (folder, shared) if part)


def _source(name: str, tree: Tree, used: list[str], is_transposed: bool) -> Local:
    where = f"data.name={name!r}"
    images, labels = {}, {}
    for file in (File(entry, _header(tree, entry)) for entry in used):
        split = "test" if TEST.search(file.name.rpartition("/")[2]) else "train"
        kind = labels if len(file.shape) == 1 else images
        if split in kind:
            raise UserError(f"{where}: {kind[split].name} and {file.name} both seem to be its files for {split!r}")
        kind[split] = file
    if "train" not in images:
        raise UserError(f"{where} lacks the IDX file of its training images (such as train-images-idx3-ubyte.gz)")
    if labels and labels.keys() != images.keys():
        lacking = ", ".join(sorted(labels.keys() ^ images.keys()))
        raise UserError(f"{where} lacks the IDX file of images or labels for {lacking}")
    for split, file in labels.items():
        if file.shape[0] != images[split].shape[0]:
            raise UserError(
                f"{where}: {images[split].name} holds {images[split].shape[0]:,} images, and {file.name}"
                f" {file.shape[0]:,} labels; fetch both again"
            )
    shapes = {split: (*file.shape[1:], 1)[:3] for split, file in images.items()}
    shape = shapes["train"]
    if len(set(shapes.values())) > 1 or shape[2] not in (1, 3):
        raise UserError(f"{where}: images of {sorted(set(shapes.values()))}; allowed: one shape, and 1 or 3 channels")
    mapping = _mapping(tree, images["train"].name)
    table = Labels.of(
        {s: _content(tree, file) for s, file in labels.items()}, lambda label: mapping.get(label, str(label))
    )
    if is_transposed:
        shape = (shape[1], shape[0], shape[2])

    def load(split):
        array = _content(tree, images[split])
        array = array.reshape(*array.shape[:3], shape[2])
        return array.swapaxes(1, 2) if is_transposed else array

    counts = {split: file.shape[0] for split, file in images.items()}
    about = describe("IDX files", counts, shape, table)
    about += ", turned as EMNIST's need to be" if is_transposed else ""
    return of_arrays(name, about, digest(tree, used), shape[2], table, load, "test" in images)


def _header(tree: Tree, entry: str) -> tuple[int, ...]:
    """Returns the shape that an IDX file declares. Raises UserError if it is no IDX file of bytes."""
    with tree.open(entry) as file:
        head = _plain(tree, entry, file).read(4 + 4 * 4)
        dimensions = head[3] if len(head) > 3 else 0
        if head[:3] != b"\0\0\x08" or dimensions not in (1, 3, 4) or len(head) < 4 + 4 * dimensions:
            raise UserError(
                f"{tree.label(entry)} is no IDX file of images or labels: it begins with"
                f" {head[:4].hex(' ') or 'nothing'}; allowed: 00 00 08, and 01 for labels, 03 or 04 for images"
            )
    shape = tuple(int.from_bytes(head[i : i + 4], "big") for i in range(4, 4 + 4 * dimensions, 4))
    if 0 in shape:
        raise UserError(f"{tree.label(entry)} is empty: its shape is {list(shape)}")
    return shape


def _content(tree: Tree, file: File) -> np.ndarray:
    """Returns the array in an IDX file. Raises UserError if it is shorter or longer than its header says."""
    start, size = 4 + 4 * len(file.shape), math.prod(file.shape)
    content = bytearray()
    with tree.open(file.name) as stream:
        plain = _plain(tree, file.name, stream)
        # A compressed file may hold much more.
        while len(content) <= start + size and (part := plain.read(1 << 20)):
            content += part
    if len(content) != start + size:
        shape = "x".join(map(str, file.shape))
        more = " or more" if len(content) > start + size else ""
        raise UserError(
            f"{tree.label(file.name)} holds {max(0, len(content) - start):,} bytes{more} after its header, which"
            f" promises {shape} = {size:,}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(file.shape)


def _plain(tree: Tree, entry: str, file):
    """Returns an open file, unpacked if it is compressed by gzip."""
    is_packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return io.BufferedReader(Gzip(file, tree.label(entry)), 1 << 16) if is_packed else file


def _mapping(tree: Tree, images: str) -> dict[int, str]:
    """Returns the characters that EMNIST's labels mean, from its file of (label, code, ...) lines; {} without one."""
    entry = re.sub(r"-train-.*", "-mapping.txt", images)
    if entry == images or entry not in tree.names:
        return {}
    rows = [line.split() for line in tree.read(entry).decode("ascii", "replace").splitlines() if line.strip()]
    if not all(len(row) > 1 and all(cell.isdigit() and int(cell) < 0x110000 for cell in row) for row in rows):
        raise UserError(f"{tree.label(entry)} is no mapping of labels: a line is a label and a character's code")
    return {int(row[0]): chr(int(row[1])) for row in rows}
