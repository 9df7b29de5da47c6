"""A sweep in one file: `pack` writes what another machine needs to go on or to report; `unpacking` takes it from there.

The file is a tar archive, compressed by gzip, of regular files under the names that they have in the sweep's directory.
Feature networks, which lie in the user's cache directory, are under `features/`. The last one, `manifest.json`, has
what the sweep is, and the size and the SHA-256 of all others. Equal files make equal archives.
"""

import contextlib
import gzip
import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jaxtickets import files, lock
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.local_paths import local_path
from jaxtickets.progress import say
from jaxtickets.workdir import Workdir
from launch import directory

MANIFEST, FORMAT, FEATURES = "manifest.json", "jaxtickets sweep 1", "features"
KINDS = {"tables": "tables", "networks": "trained weights and ticket", "states": "snapshots and masks"}
WHOLE = "all of it"
MB = 10**6  # Bytes.
BLOCK = 1 << 20  # The number of bytes that are copied at a time.
FAST = 1  # The level of compression: weights hardly get smaller at any.
ENDS = 1024  # Zeros at the end of a tar.


class Part(NamedTuple):
    """Files that are packed together or not at all.

    Attributes:
      owner: the name of the run that they belong to, or `FEATURES`.
      what: what they are, in words.
      files: their paths by their names in the archive.
    """

    owner: str
    what: str
    files: dict[str, Path]


def checked(file: str | None, tables: bool = False, limit: float | None = None) -> Path | None:
    """The path that --pack names; None without it.

    Raises:
      UserError: it is no path of a file, or the other flags do not go with it.
    """
    if file is None:
        if tables or limit is not None:
            flag = "--tables" if tables else "--limit"
            raise UserError(f"{flag}: allowed with --pack=FILE.tar.gz only, which is missing")
        return None
    path = local_path(file, "--pack")
    if not path.name.endswith((".tar.gz", ".tgz")) or path.is_dir():
        raise UserError(f"--pack={file}: allowed is the name of a file that ends in .tar.gz")
    if limit is not None and not 0 < limit < float("inf"):
        raise UserError(f"--limit={limit:g}: allowed is a number above 0, of MB")
    return path


def pack(sweepdir: str | os.PathLike, file: Path, tables: bool = False, limit: float | None = None) -> None:
    """Writes the runs of a sweep that no process is writing into `file`, which gets its name when it is complete.

    What is left out is told in lines.

    Args:
      tables: whether to take only what reports read, of finished runs.
      limit: the largest size of the file, in MB of 10^6 bytes.

    Raises:
      UserError: `sweepdir` is no sweep's, or no run fits within `limit`.
    """
    sweepdir = local_path(sweepdir, "--sweepdir")
    sweep, room = directory.read(sweepdir), float("inf") if limit is None else limit * MB
    for leftover in files.temporaries(file):  # Of a kill.
        leftover.unlink(missing_ok=True)
    with contextlib.ExitStack() as locks, files.atomic_write(file) as temporary:
        places = list(_locked(directory.started_runs(sweepdir), locks))
        if tables:
            places = [place for place in places if place.is_finished]
        parts = list(_parts(sweepdir, places, tables))
        with temporary.open("wb") as out:
            manifest = _write(out, parts, sweep, room)
        runs = {name.partition("/")[0] for name in manifest} - {FEATURES}
        if places and not runs:
            raise UserError(f"--limit={limit:g}: is too little for any run in {sweepdir}; allowed are more MB")
    print(f"{file}: {len(runs)} runs in {len(manifest)} files, {file.stat().st_size / MB:,.1f} MB")


def _locked(places: Iterable[Workdir], locks: contextlib.ExitStack) -> Iterator[Workdir]:
    """Those of the workdirs that no process is writing, and that none can as long as `locks` are held."""
    for place in places:
        try:
            locks.enter_context(lock.hold(place.lock, place.path.name))
        except UserError as error:
            say(f"{error}; this run is left out")
        else:
            yield place


def _parts(sweepdir: Path, places: Sequence[Workdir], tables: bool) -> Iterator[Part]:
    """All parts, the most important ones first: the last ones are left out first where room is short."""
    contents = {place.path.name: _contents(sweepdir, place, tables) for place in places}
    finished = [place.path.name for place in places if place.is_finished]
    for name in finished:
        yield Part(name, KINDS["tables"], contents[name]["tables"])
    if tables:
        return
    if networks := _feature_networks(places):
        yield Part(FEATURES, "the runs' feature networks", {f"{FEATURES}/{path.name}": path for path in networks})
    unfinished = {place.path.name: _rounds(place) for place in places if not place.is_finished}
    for name in sorted(unfinished, key=lambda name: (-unfinished[name], name)):
        yield Part(name, WHOLE, {key: path for kind in KINDS for key, path in contents[name][kind].items()})
    for kind in ("networks", "states"):
        for name in finished:
            yield Part(name, KINDS[kind], contents[name][kind])


def _contents(sweepdir, place, tables) -> dict[str, dict[str, Path]]:
    """`{kind: {name in the archive: path}}` of a run."""
    if not tables:
        _complete(place)

    def below(path):
        paths = path.rglob("*") if path.is_dir() else [path]
        found = {path.relative_to(sweepdir): path for path in paths if path.is_file()}
        return {name.as_posix(): path for name, path in found.items() if not any(map(_is_hidden, name.parts))}

    return {
        kind: dict(sorted(item for path in paths for item in below(path).items()))
        for kind, paths in place.contents().items()
    }


def _is_hidden(name):
    return name.startswith(".")


def _complete(place):
    """Completes what a kill has interrupted among the snapshots of a run, which would be hidden else."""
    hidden = [path for folder in place.contents()["states"] for path in folder.rglob(".*")]
    if hidden:
        from jaxtickets import snapshots  # Imports JAX.

        for folder in {path.parent for path in hidden}:
            snapshots.recover(folder)


def _rounds(place) -> int:
    """The number of rounds that a run has finished; over several seeds, of all of them."""
    try:
        return sum(len(one.read_rounds()) for one in (place, *place.seed_dirs().values()))
    except DamagedError:
        return 0


def _feature_networks(places) -> list[Path]:
    """The files of the feature networks in the cache directory that the runs were measured in; others are told."""
    asked = set()
    for place in places:
        with contextlib.suppress(DamagedError):
            asked |= set((((place.read_origin() or {}).get("about") or {}).get("features") or {}).items())
    found = []
    if asked:
        from jaxtickets.metrics import classifier  # Imports JAX.

        for name, digest in sorted(asked):
            found += classifier.files_of(name, digest)
    return found


def _write(out: BinaryIO, parts: Iterable[Part], sweep: dict, room: float) -> dict[str, list]:
    """Writes as many of the parts, in their order, as there is room for; returns `{name: [size, SHA-256]}` of them."""
    manifest, left_out = {}, set()
    for owner, what, paths in parts:
        if owner in left_out or not paths:
            continue
        start = out.tell()
        digests = _added(out, paths, manifest, sweep, room)
        if digests is None:
            out.seek(start)
            out.truncate()
            left_out.add(owner)
            size = sum(path.stat().st_size for path in paths.values())
            say(f"{owner}: {what} left out: {size / MB:,.1f} MB, too much for --limit={room / MB:g}")
        else:
            manifest |= digests
    with _compressed(out) as tar:
        content = _manifest(sweep, manifest)
        tar.write(_header(MANIFEST, len(content)) + content + _padding(len(content)) + bytes(ENDS))
    return manifest


def _added(out, paths, manifest, sweep, room) -> dict[str, list] | None:
    """Appends files to an archive; None if there is too little room for them and the manifest."""
    digests = {}
    with _compressed(out) as tar:
        for name, path in paths.items():
            size = path.stat().st_size
            tar.write(_header(name, size))
            with path.open("rb") as file:
                digests[name] = [size, copied(file, tar, size)]
            tar.write(_padding(size))
            if out.tell() > room:
                return None
    # Compressed, the manifest takes no more than its length, and the tar's own blocks next to nothing.
    return digests if out.tell() + len(_manifest(sweep, manifest | digests)) + ENDS <= room else None


def _compressed(out):
    """A member of a gzip file: the file's content is that of all members, one after the other."""
    return gzip.GzipFile(filename="", mode="wb", compresslevel=FAST, fileobj=out, mtime=0)


def copied(source: BinaryIO, target: BinaryIO, size: int) -> str:
    """Copies `size` bytes; returns their SHA-256.

    Raises:
      UserError: there are fewer or more.
    """
    digest, left = hashlib.sha256(), size
    while block := source.read(min(BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            break
        digest.update(block)
        target.write(block)
    if left:
        raise UserError(f"{getattr(source, 'name', 'a file')}: has changed while it was copied; try again")
    return digest.hexdigest()


def _manifest(sweep, manifest) -> bytes:
    return files.json_bytes({"format": FORMAT, "sweep": sweep, "files": dict(sorted(manifest.items()))})


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
