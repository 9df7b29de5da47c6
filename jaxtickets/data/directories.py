"""The regular files below a directory, each real file once, with the other names that links give it."""

import bisect
import collections
import contextlib
import os
import pathlib
import stat
from typing import NamedTuple

# Names of files and directories that systems, servers and programs leave among others, in small letters.
SYSTEM = {"__macosx", "__pycache__", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "#recycle", "#snapshot"}
SYSTEM |= {"$recycle.bin", "system volume information", "lost+found", "~snapshot"}
SYSTEM |= {"thumbs.db", "ehthumbs.db", "desktop.ini"}
BEGINNINGS = (".", "~$")
TIMES = 16  # At most so many links to one directory give further names to its files.


class Entry(NamedTuple):
    """A regular file.

    Attributes:
      name: its path relative to the root, with slashes.
      size: its length in bytes, uncompressed.
      stamp: a value that changes when the file does: the times of its last changes, or a checksum.
      links: further names of the same file, sorted.
    """

    name: str
    size: int
    stamp: object
    links: tuple[str, ...] = ()


def is_hidden(name: str) -> bool:
    """Returns whether a file or directory of this name is left out, as hidden or as a system's own."""
    return name.startswith(BEGINNINGS) or name.lower() in SYSTEM


def stamp(status: os.stat_result) -> tuple[int, int]:
    """Returns the times at which a file's content and its inode changed; copying tools reset the first one only."""
    return status.st_mtime_ns, status.st_ctime_ns


class _File(NamedTuple):
    status: os.stat_result
    names: list[str]  # Those that need no link in their path; several for hard links.
    links: list[str]


def listing(root: pathlib.Path) -> tuple[tuple[Entry, ...], dict[str, int]]:
    """Lists the files below a directory. Links are followed, out of it too, but never twice to the same place.

    Returns the files, sorted by name, and how many files or directories were left out, by the reason. A file's name is
    the one that needs no link, or else the first one.
    """
    skipped = collections.Counter()
    found, paths = {}, {}  # Files by what is the same for all names of one; this by the real path.
    links, to_files, again = [], [], []  # Links wait until all that needs none is listed.
    real_folders = set()

    def add(name, real, status, by_link=False):
        if not stat.S_ISREG(status.st_mode):
            skipped["devices, pipes or sockets"] += 1
            return
        key = (status.st_dev, status.st_ino) if status.st_nlink > 1 else real
        if key in found:
            skipped["links to files that are in it already"] += 1
        file = found.setdefault(key, _File(status, [], []))
        (file.links if by_link else file.names).append(name)
        paths.setdefault(real, key)

    def walk(folder, prefix):
        """Lists a directory and all below it; there are no links in its path."""
        waiting = [(folder, prefix)]
        while waiting:
            folder, prefix = waiting.pop()
            if folder in real_folders:
                continue
            real_folders.add(folder)
            try:
                with os.scandir(folder) as items:
                    items = list(items)
            except OSError:
                skipped["unreadable directories"] += 1
                continue
            for item in items:
                if is_hidden(item.name):
                    skipped["hidden or system files"] += 1
                elif item.is_symlink():
                    links.append((prefix + item.name, item.path))
                elif item.is_dir(follow_symlinks=False):
                    waiting.append((item.path, f"{prefix}{item.name}/"))
                else:
                    with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                        add(prefix + item.name, item.path, item.stat(follow_symlinks=False))

    walk(os.path.realpath(root), "")
    while links:
        pending, links[:] = sorted(links), []
        for name, path in pending:
            real = os.path.realpath(path)
            try:
                status = os.stat(real)
            except OSError:
                skipped["links that lead nowhere"] += 1
                continue
            if not stat.S_ISDIR(status.st_mode):
                to_files.append((name, real, status))
            elif real in real_folders:
                skipped["links to directories that are in it already"] += 1
                if not _is_below(path, real):
                    again.append((name, real))
            else:
                walk(real, f"{name}/")
    for name, real, status in sorted(to_files, key=lambda link: link[0]):
        add(name, real, status, by_link=True)
    _add_names(found, paths, again)
    entries = []
    for status, names, by_link in found.values():
        name, *others = [*sorted(names), *sorted(by_link)]
        entries.append(Entry(name, status.st_size, stamp(status), tuple(sorted(others))))
    return tuple(sorted(entries)), dict(skipped)


def _add_names(found, paths, links):
    """Gives the files of directories that are listed the names that links to these directories make."""
    times, ordered = collections.Counter(), sorted(paths) if links else []
    for name, real in sorted(links):
        times[real] += 1
        below = real.rstrip("/") + "/"
        if times[real] <= TIMES:
            for path in ordered[bisect.bisect_left(ordered, below) :]:
                if not path.startswith(below):
                    break
                found[paths[path]].links.append(f"{name}/{path[len(below) :]}")


def _is_below(path, folder):
    """Returns whether a link lies in a directory or anywhere below it."""
    place = os.path.realpath(os.path.dirname(path))
    return f"{place}/".startswith(folder.rstrip("/") + "/")
