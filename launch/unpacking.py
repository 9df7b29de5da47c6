"""Takes the runs of a packed sweep (`packing`) into a sweep's directory: each is there whole or not at all."""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from jaxtickets import cache, cached_files, files, lock
from jaxtickets.data.trees import Tree, open_tree
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.workdir import Workdir
from launch import directory
from launch.packing import FEATURES, FORMAT, MANIFEST, copied

ALLOWED = "allowed is a file that --pack has written"


def unpack(file: str | os.PathLike, sweepdir: str | os.PathLike) -> None:
    """Takes the runs of an archive into a sweep's directory, which may hold others; each is there whole or not at all.

    Feature networks go to the user's cache directory.

    Raises:
      UserError: the file is no archive that `pack` has written, or it is damaged; the directory holds another sweep, or
        one of the runs with other contents; the cache directory has other feature networks of these names.
    """
    path, sweepdir = local_path(file, "--unpack"), local_path(sweepdir, "--sweepdir")
    tree = open_tree(path)
    sweep, listed = _read_manifest(tree, f"--unpack={file}")
    groups, seconds = sweep.pop("groups", []), sweep.pop("seconds", {})
    runs = sorted({name.partition("/")[0] for name in listed} - {FEATURES})
    with lock.hold(sweepdir / f"{directory.UNPACKING}.lock", f"--sweepdir={sweepdir}"):
        directory.check_same(sweepdir, sweep)
        new = [run for run in runs if not _is_there(sweepdir / run, _of(run, listed))]
        staging = sweepdir / directory.UNPACKING
        files.remove(staging)
        staging.mkdir()
        try:
            for owner in (*new, FEATURES):
                for name in _of(owner, listed):
                    _extract(tree, name, listed[name], staging / name)
            _take_networks(staging / FEATURES)
        except UserError:
            files.remove(staging)  # Nothing has taken its place yet.
            raise
        files.sync(*staging.rglob("*"), staging)
        directory.write(sweepdir, sweep, groups or directory.groups(sweepdir), seconds | directory.seconds(sweepdir))
        for run in new:
            (staging / run).rename(sweepdir / run)
        files.sync(sweepdir)
        files.remove(staging)
    there = f", {len(runs) - len(new)} were there already" if len(new) < len(runs) else ""
    print(f"{sweepdir}: {len(new)} runs from {path}{there}")


def _read_manifest(tree: Tree, flag: str) -> tuple[dict, dict[str, list]]:
    """What the sweep is, and `{name: [size, SHA-256]}` of all other files of an archive.

    Raises:
      UserError: it is no archive of a sweep.
    """
    if tree.kind != "tar" or MANIFEST not in tree.names:
        raise UserError(f"{flag}: is no packed sweep; {ALLOWED}")
    content = files.parse_json(tree.read(MANIFEST)) or {}
    sweep, listed = content.get("sweep"), content.get("files")
    if content.get("format") != FORMAT or not isinstance(sweep, dict) or not isinstance(listed, dict):
        raise UserError(f"{flag}: its {MANIFEST} is none of this version; {ALLOWED}")
    if tree.skipped:
        number, what = next((number, what) for what, number in tree.skipped.items())
        raise UserError(f"{flag}: holds {number} {what}; {ALLOWED}")
    sizes = {entry.name: entry.size for entry in tree.entries if entry.name != MANIFEST}
    if sizes != {name: entry[0] if _is_entry(entry) else None for name, entry in listed.items()}:
        raise UserError(f"{flag}: its files are not those that its {MANIFEST} names; {ALLOWED}")
    for name in listed:
        owner, _, rest = name.partition("/")
        is_network = owner == FEATURES and re.fullmatch(r"[\w.-]+\.safetensors", rest)
        if not is_network and not (rest and f"{owner}/{Workdir(owner).config.name}" in listed):
            raise UserError(f"{flag}: holds {name!r}, which belongs to no run; {ALLOWED}")
    return sweep, listed


def _is_entry(entry):
    is_pair = isinstance(entry, list) and len(entry) == 2
    return is_pair and isinstance(entry[0], int) and isinstance(entry[1], str)


def _of(owner: str, listed: Mapping[str, list]) -> dict[str, list]:
    return {name: entry for name, entry in listed.items() if name.startswith(f"{owner}/")}


def _is_there(place: Path, listed: Mapping[str, list]) -> bool:
    """Whether a directory has the files of a run; False if there is none.

    Raises:
      UserError: it has others.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    for name, (_, digest) in listed.items():
        own = place.parent / name
        if not own.is_file() or _digest(own) != digest:
            raise UserError(
                f"{place}: is there, and its {own.relative_to(place)} is another one; give another --sweepdir"
            )
    return True


def _digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(tree, name, entry, target):
    """Writes a file of an archive, and verifies it."""
    size, digest = entry
    target.parent.mkdir(parents=True, exist_ok=True)
    with tree.open(name) as source, target.open("wb") as out:
        found = copied(source, out, size)
    if found != digest:
        raise UserError(f"{tree.label(name)}: is damaged (it is not what was packed); pack the sweep again")


def _take_networks(folder: Path):
    """Moves feature networks into the user's cache directory, where they are not there yet."""
    if not folder.is_dir():
        return
    home, paths = cache.directory(FEATURES), sorted(folder.iterdir())
    for path in paths:
        cached_files.read(path)
        own = home / path.name
        if own.exists() and _digest(own) != _digest(path):
            raise UserError(
                f"{own}: is another feature network than the one in which the runs were measured; give another cache "
                "directory, in the environment's JAXTICKETS_CACHE"
            )
    with cache.writing(home):
        for path in paths:
            files.replace(home / path.name, path.read_bytes())
    shutil.rmtree(folder)
