"""Files below a directory or inside a zip or tar archive, listed and read without extracting anything.

`open_tree` gives the same `Tree` for all of them, so that whatever reads a data set's files reads them from a directory
as from an archive.
"""

import bisect
import collections
import contextlib
import hashlib
import io
import os
import pathlib
import posixpath
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import BinaryIO

from jaxtickets.data.directories import Entry, is_hidden, listing, stamp
from jaxtickets.data.gzips import MEMORY, Gzip, check_ratio, unpacked
from jaxtickets.data.source import reason
from jaxtickets.errors import UserError

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVES = (".zip", ".tar", *COMPRESSED)
LONGEST = 4096  # Bytes of a link in a zip.
LARGE, TRUSTED = 10_000, 60  # A directory of at least `LARGE` files is listed again after `TRUSTED` seconds only.


@dataclass(frozen=True)
class Tree:
    """The regular files below a root. Hidden and system files are left out, and each real file is in it once.

    Attributes:
      path: the directory, archive or file.
      kind: "directory", "zip", "tar", or "file" for a single file that is no archive.
      entries: its files, sorted by name.
      skipped: how many files (or whole directories) were left out, by the reason, in words that follow a number.
    """

    path: pathlib.Path
    kind: str
    entries: tuple[Entry, ...]
    skipped: dict[str, int] = field(compare=False)
    _open: Callable[[str], AbstractContextManager[BinaryIO]] = field(compare=False)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Opens a file for reading; it can seek. Threads may do so at the same time; of a tar they wait for each other.

        Raises:
          UserError: the file can't be read, or its archive is broken; also for such errors in the `with` block.
        """
        try:
            with self._open(name) as file:
                yield file
        except UserError:
            raise
        except Exception as error:  # zipfile, zlib and tarfile raise many different errors for broken archives.
            what = "the archive is broken or locked" if self.is_archive else "can't be read"
            raise UserError(f"{self.label(name)}: {what}: {reason(error)}") from error

    def read(self, name: str) -> bytes:
        """Returns a file's content. Raises UserError if it can't be read, is too large, or its archive is broken."""
        if self.size(name) > MEMORY:
            raise UserError(f"{self.label(name)}: is too large to be read as a whole (up to {MEMORY >> 30} GiB are)")
        with self.open(name) as file:
            # What an archive says of a file's length may be untrue: it could unpack to much more.
            content = file.read(self.size(name) + 1) if self.is_archive else file.read()
            if self.is_archive and len(content) != self.size(name):
                raise EOFError("it is shorter or longer than the archive says")
            return content

    def size(self, name: str) -> int:
        """Returns a file's length in bytes."""
        return self.entries[bisect.bisect_left(self.names, name)].size

    def label(self, name: str) -> str:
        """Returns how messages call a file."""
        return str(self.path) if self.kind == "file" else f"{self.path}{':' if self.is_archive else '/'}{name}"

    @property
    def is_archive(self) -> bool:
        return self.kind in ("zip", "tar")

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    @property
    def digest(self) -> str:
        """A digest of the place and of all names, sizes and stamps."""
        return hashlib.sha256(repr((os.path.realpath(self.path), self.entries)).encode()).hexdigest()[:24]


def open_tree(path: os.PathLike | str) -> Tree:
    """Lists a directory, a .zip, or a .tar, plain or compressed (gzip, bzip2, xz); other files are trees of one file.

    Links are followed, out of the root too, but never twice to the same file or directory. Devices, pipes and sockets
    are left out. Links in an archive are only followed to its own files, as further names of these. A directory of many
    files is not listed again within a minute.

    Raises:
      UserError: the path is missing or unreadable; the archive is broken, holds absolute paths or such with "..", or
        claims to unpack to implausibly much.
    """
    path = pathlib.Path(path)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {reason(error)}; give an existing directory, archive or file") from error
    if stat.S_ISDIR(status.st_mode):
        # A start asks several times, and listing CelebA's images takes about a second.
        tree = _listed(path, time.monotonic() // TRUSTED)
        return tree if len(tree.entries) >= LARGE else _directory(path)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is neither a file nor a directory; give an existing directory, archive or file")
    return _file(path, status.st_size, stamp(status))


@lru_cache(maxsize=2)
def _listed(path: pathlib.Path, period: float) -> Tree:
    """Lists a directory, once per period."""
    del period
    return _directory(path)


def _directory(path: pathlib.Path) -> Tree:
    entries, skipped = listing(path)
    return Tree(path, "directory", entries, skipped, lambda name: (path / name).open("rb"))


@lru_cache(maxsize=8)
def _file(path: pathlib.Path, size: int, stamp: tuple[int, int]) -> Tree:
    """Lists a file, as an archive if it is one. `size` and `stamp` are those of the file, and tell when it changes."""
    try:
        file = path.open("rb")
        tree = _archive(file, path, stamp)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {reason(error)}") from error
    if tree is not None:
        return tree
    file.close()
    return Tree(path, "file", (Entry(path.name, size, stamp),), {}, lambda _: path.open("rb"))


def open_inner(tree: Tree, name: str) -> Tree:
    """Lists an archive that is a file of a tree. In another archive it is read into memory.

    Raises:
      UserError: it is no archive, or too large for that; and as `open_tree` does.
    """
    if tree.kind == "directory":
        return open_tree(tree.path / name)
    if tree.size(name) > MEMORY:
        raise UserError(f"{tree.label(name)} is too large for an archive in an archive; unpack {tree.path}")
    inner = _archive(io.BytesIO(tree.read(name)), pathlib.Path(tree.label(name)), tree.digest)
    if inner is None:
        raise UserError(f"{tree.label(name)} is no archive")
    return inner


def _archive(file: BinaryIO, path: pathlib.Path, stamp: object) -> Tree | None:
    """Lists an archive, or returns None if it is none.

    Args:
      file: is kept, and the tree reads from it.
      path: how messages call it. Its suffix matters: an archive's own makes another file an error.
      stamp: a value that changes when the file does, for archives without checksums.
    """
    name, head = path.name.lower(), file.read(512)
    file.seek(0)
    try:
        if name.endswith(".npz"):  # A zip archive that NumPy reads.
            return None
        if head.startswith((b"PK\3\4", b"PK\5\6")) or name.endswith(".zip"):
            return _zip(file, path)
        if head.startswith(b"\x1f\x8b"):
            content = io.BufferedReader(Gzip(file, str(path)), 1 << 16)
        else:
            content = unpacked(file, str(path))
        if content:
            # Any file may be compressed; a tar is recognised by its first header.
            is_tar = _is_tar(content.read(512))
            content.seek(0)
            return _tar(content, path, stamp) if is_tar or name.endswith(COMPRESSED) else None
        if _is_tar(head) or name.endswith(ARCHIVES):
            return _tar(file, path, stamp)
        return None
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and tarfile raise many different errors for broken archives.
        raise UserError(f"{path}: the archive is broken: {reason(error)}") from error


# --- archives ---


def _zip(file, path: pathlib.Path) -> Tree:
    archive = zipfile.ZipFile(file)
    members, targets, skipped = {}, {}, collections.Counter()
    for member in archive.infolist():
        mode = member.external_attr >> 16
        kind = "directory" if member.is_dir() else "link" if mode and stat.S_ISLNK(mode) else "file"
        name = _add(members, skipped, path, member.filename.replace("\\", "/"), kind, member)
        if name and kind == "link" and member.file_size <= LONGEST:
            with archive.open(member) as link:
                targets[name] = posixpath.join(posixpath.dirname(name), os.fsdecode(link.read(LONGEST)))
    total = sum(member.file_size for member in members.values())
    check_ratio(str(path), total, file.seek(0, io.SEEK_END))
    links = _further_names(members, targets)
    entries = [Entry(name, m.file_size, (m.CRC, *m.date_time), links(name)) for name, m in members.items()]
    return Tree(path, "zip", tuple(sorted(entries)), dict(skipped), lambda name: archive.open(members[name]))


def _tar(file, path: pathlib.Path, stamp: object) -> Tree:
    archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  (the tree reads from it)
    members, targets, skipped = {}, {}, collections.Counter()
    for member in archive:
        kind = "file" if member.isreg() and not member.issparse() else "directory" if member.isdir() else "link"
        name = _add(members, skipped, path, member.name, kind, member)
        if name and (member.issym() or member.islnk()):
            targets[name] = posixpath.join(posixpath.dirname(name) if member.issym() else "", member.linkname)
        if member.size < 0:
            raise ValueError(f"{member.name} has a negative size")
    # tarfile takes a broken header for the end.
    end = file.tell()
    file.seek(max(0, end - 512))
    if end % 512 or file.read(512).strip(b"\0"):
        raise EOFError("it is cut short, or a header is broken")
    while file.read(1 << 20):  # A gzip file's checksum is at its end.
        pass
    lock = threading.RLock()  # All files of a tar are read through one position in it.

    @contextlib.contextmanager
    def opened(name):
        with lock:
            yield archive.extractfile(members[name])

    links = _further_names(members, targets)
    entries = [Entry(name, m.size, (m.mtime, stamp), links(name)) for name, m in members.items()]
    return Tree(path, "tar", tuple(sorted(entries)), dict(skipped), opened)


def _add(members: dict, skipped: collections.Counter, path: pathlib.Path, name: str, kind: str, member) -> str:
    """Adds a member of an archive to `members` by its normal name, or counts why it is left out.

    Returns that name, "" if it names a directory or what is hidden.
    """
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise UserError(
            f"{path}: the archive holds {name!r}, a path that leaves it; give an archive without such paths"
        )
    parts = [part for part in parts if part not in ("", ".")]
    if kind == "directory" or not parts:
        return ""
    if any(map(is_hidden, parts)):
        skipped["hidden or system files"] += 1
        return ""
    name = "/".join(parts)
    if kind == "link":
        skipped["links, devices or sparse files"] += 1
    else:
        if name in members:
            skipped["older versions of a file in the archive"] += 1
        members[name] = member  # The last one counts, as for unzip and tar.
    return name


def _further_names(members: dict, targets: dict[str, str]) -> Callable[[str], tuple[str, ...]]:
    """Returns a function that gives the links to a member. targets: the members that links lead to, by their names."""
    links = collections.defaultdict(list)
    for name, target in sorted(targets.items()):
        if name not in members:
            links[posixpath.normpath(target)].append(name)
    return lambda name: tuple(links.get(name, ()))


def _is_tar(head: bytes) -> bool:
    """Returns whether a file that begins with these 512 bytes is a tar, by the checksum of its first header."""
    with contextlib.suppress(tarfile.HeaderError):
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    return False
