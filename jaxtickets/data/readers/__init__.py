"""Data sets in files that lie on this machine: `files:PATH` finds out what they are by looking at them."""

import dataclasses
import os
import pathlib
from functools import lru_cache

from jaxtickets.data.folders import SUFFIXES, ImageTree
from jaxtickets.data.readers import arrays, celeba, cifar, idx
from jaxtickets.data.readers.local import some
from jaxtickets.data.source import Source, reason
from jaxtickets.data.trees import ARCHIVES, Tree, open_inner, open_tree
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path

PREFIX = "files:"
# Places where a Debian package puts a data set.
PACKAGES = {"/usr/share/datasets/fashion-mnist": "dataset-fashion-mnist"}
# Each is `(name, tree) -> Source`, or None if the tree holds nothing in its format; asked in this order.
READERS = (celeba.look, cifar.look, idx.look, arrays.look)


def look(name: str) -> Source:
    """Returns the source that a name of the form files:PATH means.

    PATH is a directory, a file or an archive. It may go on inside an archive, and it may end with the beginning of the
    names of the files that are meant, where a directory holds several data sets.

    Raises:
      UserError: there is no such path, nothing there can be read, or there are several data sets.
    """
    return _look(name, _tree(name, name.removeprefix(PREFIX)))


def _tree(name: str, path: str) -> Tree:
    """Lists the files that a path means."""
    root = local_path(path, f"config.data.name={PREFIX}PATH with PATH") if path else pathlib.Path()
    try:
        outer = next(place for place in (root, *root.parents) if place.exists())
        rest = root.relative_to(outer).as_posix()
        in_folder = rest != "." and outer.is_dir()
        if not path or (in_folder and not any(found.startswith(rest) for found in os.listdir(outer))):
            raise FileNotFoundError
    except FileNotFoundError as error:
        raise UserError(f"data.name={name!r}: there is no such file or directory; give files:PATH with one") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"data.name={name!r}: {reason(error)}; give files:PATH with an existing path") from error
    if rest == ".":
        if root.name.startswith(celeba.IMAGES) and any((root.parent / file).exists() for file in celeba.LISTS):
            tree = open_tree(root.parent)
            return _restricted(tree, [n for n in tree.names if n in celeba.LISTS or n.split("/")[0] == root.name])
        return open_tree(outer)
    tree = open_tree(outer)
    inside = [found for found in tree.names if found.startswith(f"{rest}/")]
    inside = inside or [found for found in tree.names if found.startswith(rest)]
    if tree.kind == "file" or not inside:
        raise UserError(f"data.name={name!r}: there is no {rest} in {outer}; give files:PATH with an existing path")
    return _restricted(tree, inside)


def _restricted(tree: Tree, names: list[str]) -> Tree:
    names = set(names)
    return dataclasses.replace(tree, entries=tuple(entry for entry in tree.entries if entry.name in names))


@lru_cache(maxsize=8)
def _look(name: str, tree: Tree, is_inner: bool = False) -> Source:
    """Returns the source of a tree. is_inner: whether the tree is an archive that is a file of another tree."""
    for look_as in READERS:
        if source := look_as(name, tree):
            return source
    if any(pathlib.PurePosixPath(found).suffix.lower() in SUFFIXES for found in tree.names):
        return ImageTree(name, str(tree.path), tree)
    archives = [found for found in tree.names if found.lower().endswith(ARCHIVES)]
    if len(archives) == 1 and not is_inner and tree.kind != "file":
        return _look(name, open_inner(tree, archives[0]), is_inner=True)
    if len(archives) > 1:
        raise UserError(f"data.name={name!r} holds several archives; choose one: {some(archives)}")
    raise UserError(
        f"data.name={name!r} holds nothing that can be read (found: {some(tree.names) or 'no files'}); allowed: IDX"
        " files (MNIST and its like), CIFAR-10 and CIFAR-100, CelebA, .npz or .npy arrays, images, and a .zip, .tar,"
        " .tar.gz, .tar.bz2 or .tar.xz of any"
    )
