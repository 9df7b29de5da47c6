"""Damage among the compiled programs that JAX keeps in a directory: found, told in one line, and removed.

JAX writes each program to a file of its own and never replaces it. It compresses programs by zlib, whose checksum it
verifies: a damaged program is then compiled anew, with a warning at each start. Where the package `zstandard` is
installed, and from Python 3.14 on, it compresses them without a checksum, and a damaged program may crash the process
or compute other numbers. `docs/reliability.md` has the figures.
"""

import contextlib
import glob
import hashlib
import json
import re
import warnings
import zlib
from pathlib import Path

from jaxtickets import files
from jaxtickets.progress import say

CHECKSUMS = ".checksums.json"  # SHA-256 by file name.
PROGRAMS = "*-cache"
ZSTANDARD = b"\x28\xb5\x2f\xfd"
WARNING = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.*?)': (.*)", re.DOTALL)


def guard(folder: Path) -> None:
    """Removes damaged programs in `folder`, now and when JAX comes upon them.

    A program without a checksum of its own is compared with the SHA-256 that an earlier start has taken of it.
    """
    with contextlib.suppress(OSError):  # What can't be read or written costs time, and no run.
        _compare(folder)
    warnings.showwarning = _telling(folder, warnings.showwarning)


def _compare(folder):
    known, found, damaged = files.read_json(folder / CHECKSUMS) or {}, {}, []
    for path in folder.glob(PROGRAMS):
        with path.open("rb") as file:
            if file.read(len(ZSTANDARD)) != ZSTANDARD:
                continue
            file.seek(0)
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        if known.get(path.name, found[path.name]) != found[path.name]:
            damaged.append(path)
            del found[path.name]
    for path in damaged:
        path.unlink(missing_ok=True)
    if damaged:
        say(f"damaged compiled programs in {folder}: {len(damaged)}; they are compiled again")
    if found != known:
        files.replace(folder / CHECKSUMS, json.dumps(found).encode())


def _telling(folder, show):
    """What shows warnings, with one line for each program that JAX can't read, and one when it can't write."""
    told = set()

    def showwarning(message, *where, **place):
        match = WARNING.match(str(message))
        if match is None:
            return show(message, *where, **place)
        what, name, why = match.groups()
        if what == "reading":
            for path in folder.glob(f"{glob.escape(name)}-{PROGRAMS}"):
                with contextlib.suppress(OSError):
                    if _is_damaged(path):
                        path.unlink()  # JAX writes it again: it never replaces a file.
            say(f"the compiled program {name} in {folder} can't be read; it is compiled again")
        elif what not in told:
            reason = why.splitlines()[0][:120]
            say(f"compiled programs can't be kept in {folder} ({reason}); the next start compiles them again")
        told.add(what)
        return None

    return showwarning


def _is_damaged(path):
    content = path.read_bytes()
    if content.startswith(ZSTANDARD):
        return False  # Only its checksum could tell.
    try:
        zlib.decompress(content)
    except zlib.error:
        return True
    return False
