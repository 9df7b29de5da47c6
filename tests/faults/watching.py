"""Watches what a process does to the world: files written, processes started, connections, code that pickles name."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events of Python's audit hooks; the paths that they change are among their first arguments.
CHANGES = {
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
    *("os.chown", "os.mkfifo", "os.mknod", "os.utime", "os.setxattr", "os.removexattr", "shutil.rmtree"),
}
RUNS = {
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn"),
    *("os.startfile", "os.kill", "ctypes.dlopen"),
}
REACHES = {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"}
NULL = "/dev/null"

_state = {"roots": None, "seen": []}


def install() -> None:
    """Begins to watch; it can't be undone, and costs nothing outside of `writes`."""
    sys.addaudithook(_hook)


@contextlib.contextmanager
def writes(*roots: str | os.PathLike) -> Iterator[list[str]]:
    """Yields a list that fills with what happens in the block: whatever runs or connects, and writes elsewhere.

    Elsewhere is outside of `roots`, of the cache directory and of the directory for temporary files. Where `install`
    was not called, the list stays empty.
    """
    _state["seen"] = []
    own = (os.environ.get("JAXTICKETS_CACHE", tempfile.gettempdir()), tempfile.gettempdir())
    _state["roots"] = tuple(os.path.realpath(root) for root in (*roots, *own))
    try:
        yield _state["seen"]
    finally:
        _state["roots"] = None


def _hook(event, arguments):
    if _state["roots"] is None:
        return
    if event == "open":
        path, mode, flags = arguments
        is_written = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & WRITES)
        if is_written and not isinstance(path, int):
            _note(event, path)
    elif event in CHANGES:
        for path in arguments[:2]:
            if isinstance(path, str | bytes | os.PathLike):
                _note(event, path)
    elif event in RUNS or event in REACHES or event == "pickle.find_class":
        _state["seen"].append(f"{event} {arguments!r:.200}")


def _note(event, path):
    path = os.fsdecode(path)
    roots, _state["roots"] = _state["roots"], None  # What follows is no deed of the watched code.
    try:
        real = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
        if path != NULL and not any(real == root or real.startswith(root + os.sep) for root in roots):
            _state["seen"].append(f"{event} {real}")
    finally:
        _state["roots"] = roots


def listing(*roots: Path) -> dict[str, tuple[int, int]]:
    """{path: (size, time of change)} of everything below some directories; links are not followed."""
    found = {}
    for root in roots:
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                found[path] = (status.st_size, status.st_mtime_ns)
    return found
