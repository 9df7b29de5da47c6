"""Splits and classes of images by the directories in their names."""

import collections
import hashlib
import math
import posixpath
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from jaxtickets.errors import UserError

# The words for each split; of several that are held out, the first in this order is the test split.
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "holdout": ("holdout",),
    "evaluation": ("eval", "evaluation"),
    "validation": ("val", "valid", "validation", "dev", "development"),
}
WORDS = {word: split for split, words in SPLITS.items() for word in words}
# What may stand beside such a word in the name of a directory, or be joined to its end.
IMAGES = r"(?:images?|imgs?|pictures?|photos?|data|datasets?|sets?|splits?)"
OTHERS = re.compile(rf"{IMAGES}|\d+|[ab]")
WORD = re.compile(rf"({'|'.join(WORDS)})(?:{IMAGES}|([ab]))?")
JOINED = "-"  # In the place of a letter that is joined to such a word: testa alone may mean something else.
BOUNDARY = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
ELSEWHERE = "links that give images another split or class"
HELD_OUT = 10  # Where no directories say which images are held out, one in ten is.


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


def arrange(links: Mapping[str, Sequence[str]]) -> Layout:
    """Sorts images into splits and classes by the directories in their names.

    A directory is called for a split if its name is one of the `WORDS`, in any case, alone or with numbers, A or B, or
    words for images (train2017, testA, val_images). Such directories side by side, one of them for training, hold the
    splits; so do two whose names differ in that word only (seg_train and seg_test). Otherwise a tenth of the images is
    held out, chosen by a hash of their names, evenly over the classes.

    The outermost directories that tell images apart, those for splits not counted, are the classes, if each image lies
    in one. A directory called for a split is never one, but `train` beside others, because trains are things, too.

    Further names of an image count where its own lies in no split, or where each image has one and these give classes.

    Args:
      links: the further names of each image by its name, in the order in which the splits shall have them; at least
        two. Names are paths with slashes, relative to one root.

    Raises:
      UserError: directories for held-out images lie beside none for training, or an image has two places.
    """
    names = _without_common({name: (name, *others) for name, others in links.items()})
    given, folders, left_out = _given_splits(names)
    below = {name: paths[0] for name, paths in names.items()}
    if given:
        below = {name: path for split in given.values() for name, path in split.items()}
    elif all(len(paths) == 2 for paths in names.values()):
        below = _own_or_linked(below, {name: paths[1] for name, paths in names.items()})
    below = {name: paths[0] for name, paths in _without_common({name: (path,) for name, path in below.items()}).items()}
    if held_out := set(given.get("test", ())):
        label_names = _classes({name: below[name] for name in given["train"]})
        if not {path.partition("/")[0] for path in below.values() if "/" in path} <= set(label_names) or any(
            "/" not in below[name] for name in held_out
        ):
            label_names = ()
        split_by = f"given by directories: {folders}"
    else:
        label_names = _classes(below)
        held_out, split_by = _tenth(below, label_names), "a tenth, by a hash of the names"
        split_by += f"; all from {folders}" if folders else ""
        kinds = [{path.partition("/")[0] for path in paths if "/" in path} for paths in names.values()]
        elsewhere = sum(len(of_image & set(label_names)) > 1 for of_image in kinds)
        left_out |= {ELSEWHERE: elsewhere} if elsewhere else {}
    index = {name: i for i, name in enumerate(label_names)}
    splits = {"train": [], "test": []}
    for name in names:
        if name in below:
            label = index[below[name].partition("/")[0]] if label_names else None
            splits["test" if name in held_out else "train"].append((name, label))
    return Layout(splits, label_names, split_by, left_out)


@lru_cache(maxsize=1 << 16)
def called_for(folder: str) -> tuple[str, str] | None:
    """Returns the split that a directory is called for, and what else its name says; None if it is for none."""
    text = re.sub(r"(hold|held)[\W_]*out", "holdout", BOUNDARY.sub(" ", folder).lower())
    tokens = re.findall(r"[^\W_]+", text)
    found = [match for token in tokens if (match := WORD.fullmatch(token))]
    if len(found) != 1:
        return None
    others = [token for token in tokens if not WORD.fullmatch(token)]
    rest = "" if all(map(OTHERS.fullmatch, others)) else "_".join(others)
    return WORDS[found[0][1]], rest or (JOINED if found[0][2] else "")


def _given_splits(names):
    """Returns {split: {name: path without the split's directory}}, its directories in words, and what is left out.

    The first is empty if no directories give splits, and has 'train' alone if all lies in directories for training.
    """
    groups, depths = collections.defaultdict(lambda: collections.defaultdict(set)), {}
    for directory in {posixpath.dirname(path) for paths in names.values() for path in paths}:
        folders = directory.split("/")
        for depth, folder in enumerate(folders):
            if part := called_for(folder):
                group = "/".join(folders[:depth]), part[1]
                groups[group][part[0]].add(folder)
                depths[group] = depth
    complete = {group for group, found in groups.items() if "train" in found and len(found) > 1}
    alone = {g: found for g, found in groups.items() if g not in complete and (not g[1] or len(found) > 1)}
    if not complete and not alone:
        return {}, "", {}
    outermost = min(depths[group] for group in complete or alone)
    chosen = {group for group in complete or alone if depths[group] == outermost}

    def placed(path):
        """Returns the split and the path without its directory; None if it lies in no split."""
        *folders, base = path.split("/")
        part = called_for(folders[outermost]) if len(folders) > outermost else None
        if not part or ("/".join(folders[:outermost]), part[1]) not in chosen:
            return None
        # Some archives repeat a directory in itself.
        inner = [folder for folder in folders[outermost + 1 :] if folder != folders[outermost]]
        rest = [part[1]] if part[1] not in ("", JOINED) else []
        return part[0], "/".join([*folders[:outermost], *rest, *inner, base])

    found, elsewhere = collections.defaultdict(dict), 0
    for name, (own, *links) in names.items():
        places, further = (
            {(split, posixpath.dirname(rest)): rest for split, rest in filter(None, map(placed, paths))}
            for paths in ([own], links)
        )
        elsewhere += bool(places) and not further.keys() <= places.keys()
        places = places or further
        if len(places) > 1:
            first, second, *_ = (link for link in links if placed(link))
            raise UserError(f"one image is {first} and {second}; give it one place, in one split and one class")
        for (split, _), rest in places.items():
            found[split][name] = rest
    if not complete:
        if set(found) == {"train"} and len(found["train"]) == len(names):
            return dict(found), _words(groups, chosen, ("train",)), {}
        _refuse_alone(alone)
        return {}, "", {}
    beside = len(names) - sum(map(len, found.values()))
    test, *unused = [split for split in SPLITS if split != "train" and found[split]] or [""]
    if not found["train"] or not test:
        raise UserError("one split holds nothing but links to images of another; give each image one split")
    left_out = {"images beside the directories of the splits": beside, ELSEWHERE: elsewhere}
    left_out |= {f"images of the {split} split": len(found[split]) for split in unused}
    words = _words(groups, chosen, ("train", test))
    return {"train": found["train"], "test": found[test]}, words, {why: n for why, n in left_out.items() if n}


def _own_or_linked(own, linked):
    """Returns the names that give classes, of {name: own name} and {name: its only link}."""
    if _classes(own) and (kinds := _classes(linked)):
        raise UserError(
            f"each image lies in a class and has a link in another one ({', '.join(kinds[:4])}); give it one class"
        )
    return linked if _classes(linked) else own


def _refuse_alone(groups):
    """Refuses directories that are called for a split, without those that belong to it; not a class of trains."""
    for (parent, _), found in sorted(groups.items()):
        folders = sorted(folder for of_split in found.values() for folder in of_split)
        if [folder.lower() for folder in folders] != ["train"]:
            where = f" in {parent}" if parent else ""
            what = "training" if "train" not in found else "held-out"
            raise UserError(
                f"the directories{where} are called for splits ({', '.join(folders[:4])}), and none beside them holds"
                f" {what} images; allowed: train beside test or val, or names that mean no split"
            )


def _words(groups, chosen, splits):
    """Returns the names of the directories of some splits, in words."""
    by_split = []
    for split in splits:
        folders = sorted({folder for group in chosen for folder in groups[group].get(split, ())})
        by_split.append(", ".join(folders[:4]) + (", ..." if len(folders) > 4 else ""))
    return " and ".join(by_split)


def _without_common(names):
    """Returns {name: paths} without the directories that all paths begin with."""
    directories = {posixpath.dirname(path) for paths in names.values() for path in paths}
    start = len(posixpath.commonpath([f"/{directory}" for directory in directories]))
    return {name: tuple(f"/{path}"[start:].lstrip("/") for path in paths) for name, paths in names.items()}


def _classes(below):
    """Returns the sorted names of the directories that all images lie in; () if some lie in none, or all in one."""
    folders = {path.partition("/")[0] for path in below.values()}
    return tuple(sorted(folders)) if len(folders) > 1 and all("/" in path for path in below.values()) else ()


def _tenth(below, label_names):
    """Returns the names of a tenth of the images, at least one; as good as a tenth of each class too."""
    kinds = collections.defaultdict(list)
    for name, path in below.items():
        kinds[path.partition("/")[0] if label_names else ""].append((digest(path), name))
    ranked = []
    for kind in kinds.values():
        ranked += [((rank + 0.5) / len(kind), *row) for rank, row in enumerate(sorted(kind))]
    return {name for _, _, name in sorted(ranked)[: math.ceil(len(below) / HELD_OUT)]}


def digest(name: str) -> bytes:
    """Returns a hash of a name that is the same on every system."""
    return hashlib.sha256(normal(name).encode("utf-8", "surrogatepass")).digest()


def normal(name: str) -> str:
    """Returns a name as most systems write it; macOS writes accents as characters of their own."""
    return unicodedata.normalize("NFC", name)
