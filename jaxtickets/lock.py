"""A file that one process holds: `hold`. Its owner may be killed, and may be on another machine.

The file says who holds it, and its `beat` grows as long as the owner lives. An owner in sight of this process (the same
boot of the same kernel, the same numbering of processes) is asked for by its number and start time. Of any other one
the beat is watched: no clocks are compared, and no locks of the file system are needed, which network file systems
often lack.
"""

import contextlib
import datetime
import errno
import itertools
import json
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxtickets import files
from jaxtickets.errors import UserError
from jaxtickets.progress import say

BEAT_SECONDS = 5
SILENCE_SECONDS = 15  # After which an owner out of sight is dead.
POLL_SECONDS = 0.2
LENGTH = 2048  # Bytes of the file.
_held: set["_Lock"] = set()  # Of this process.


@contextlib.contextmanager
def hold(path: Path, what: str, *, waits: bool = False, lost: Callable[[str], None] = lambda line: None) -> Iterator:
    """Holds the lock file `path` within its block; makes its directory if there is none.

    A lock whose owner has died is taken over, which is said.

    Args:
      what: names the locked thing in messages: `--workdir=runs/a`.
      waits: whether to wait for a living owner; else it is an error.
      lost: called with a line, from another thread, if the file has gone, or another process has taken the lock over
        while this one was frozen.

    Raises:
      UserError: another process holds it, or the file can't be written.
      OSError: the disk is full.
    """
    made = _missing(path.parent)
    try:
        lock = _acquire(path, what, waits)
    except OSError as error:
        if error.errno in files.FULL:
            raise OSError(error.errno, error.strerror, str(path)) from None
        reason = f"{path}: {error.strerror}" if path.parent.is_dir() else f"can't be made ({error.strerror})"
        raise UserError(f"{what}: {reason}; allowed is a directory that can be written") from None
    _held.add(lock)
    try:
        lock.keep_beating(lost)
        yield
    finally:
        lock.release()
        for directory in made:  # Only if nothing was written there.
            with contextlib.suppress(OSError):
                directory.rmdir()


def release_all() -> None:
    """Removes the lock files of this process, which is about to end at once."""
    for lock in list(_held):
        lock.release()


class _Lock:
    """A lock file that this process has made."""

    def __init__(self, path: Path, token: str):
        self._path, self._token = path, token
        self._ended, self._using = threading.Event(), threading.Lock()

    def keep_beating(self, lost: Callable[[str], None]) -> None:
        """Raises the beat in a thread of its own, until the lock is released or lost."""

        def beat():
            while not self._ended.wait(BEAT_SECONDS):
                if loss := self._beat():
                    return lost(loss)

        threading.Thread(target=beat, name="lock", daemon=True).start()

    def _beat(self) -> str | None:
        """Raises the beat once; returns how the lock was lost, if it was.

        The file is checked and written through one handle: whoever takes the lock over makes another file.
        """
        with self._using, contextlib.suppress(OSError):  # A disk or a network that fails may come back.
            if self._ended.is_set():
                return None
            try:
                handle = os.open(self._path, os.O_RDWR)
            except FileNotFoundError:
                return f"{self._path} has gone: its directory was moved or deleted"
            try:
                owner = _parsed(os.pread(handle, LENGTH, 0))
                if owner["token"] not in ("", self._token):
                    return f"{self._path}: {_named(owner)} has taken it over, because this process did not answer"
                if owner["token"]:
                    _write(handle, owner | {"beat": owner["beat"] + 1})
            finally:
                os.close(handle)
        return None

    def release(self) -> None:
        """Deletes the file, unless it is another process's by now."""
        with self._using:
            if self._ended.is_set():
                return
            self._ended.set()
            _held.discard(self)
            with contextlib.suppress(OSError):
                if _parsed(self._path.read_bytes())["token"] == self._token:
                    os.unlink(self._path)


def _acquire(path, what, waits) -> _Lock:
    """Makes the lock file as soon as nobody who lives holds it."""
    watched, since, is_said = None, 0.0, False
    while (lock := _make(path)) is None:
        owner = _read(path)
        if owner is None:  # Given back between the two.
            continue
        is_alive, now = _is_alive(owner), time.monotonic()
        if is_alive is None:  # Out of sight.
            if watched is None or owner["token"] != watched["token"]:
                watched, since = owner, now
                if not is_said:
                    say(f"{what}: locked by {_named(owner)}; watches for {SILENCE_SECONDS} s whether it lives")
                is_said = True
            elif owner["beat"] != watched["beat"]:
                is_alive, watched = True, None
            elif now - since > SILENCE_SECONDS:
                is_alive = False
        if is_alive and not waits:
            raise UserError(f"{what}: in use by {_named(owner)}; wait until it has ended, or give another one")
        if is_alive is not False:
            time.sleep(POLL_SECONDS)
        elif _take_away(path, owner):
            say(f"{what}: takes the lock over from {_named(owner)}, which has ended")
    return lock


def _make(path) -> _Lock | None:
    """Makes the lock file, in a directory that is made if there is none; None if another process holds it."""
    content = _identity()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    except FileExistsError:
        if path.is_symlink() and not path.exists():
            raise FileExistsError(errno.EEXIST, "a link that leads nowhere") from None
        return None
    except FileNotFoundError:  # Its last owner takes the empty directory away.
        return None
    try:
        _write(handle, content)
    except OSError:  # A full disk.
        os.unlink(path)
        raise
    finally:
        os.close(handle)
    return _Lock(path, content["token"])


def _take_away(path, owner) -> bool:
    """Deletes the lock file of an owner who has died; False if another process was faster."""
    aside = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")  # As temporary files are called.
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    found = _read(aside)
    is_owners = found is None or found == owner
    if not is_owners:  # The lock of a process that was faster: it goes back, unless the name is taken again.
        with contextlib.suppress(OSError):
            os.link(aside, path)
    with contextlib.suppress(OSError):
        os.unlink(aside)
    return is_owners


# Owners.


def _identity() -> dict:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    place = {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "started": _started(os.getpid())}
    return place | {"since": now, "command": shlex.join(sys.argv)[:200], "token": secrets.token_hex(8), "beat": 0}


def _boot() -> str:
    """What processes that can see one another share: the kernel's boot, and the namespace of process numbers.

    Empty where the system has neither.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid) -> str:
    """When a process started, in the kernel's ticks; "" if it can't be known, or the process has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else rest[18]  # A zombie has ended. Field 22 of the line, the third being the state.


def _is_alive(owner) -> bool | None:
    """Whether the owner of a lock lives; None if that can't be seen from here."""
    if not owner["boot"] or owner["boot"] != _boot() or not owner["started"]:
        return None
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # Another user's process, whose start time may be hidden.
        return None if not _started(owner["pid"]) else _started(owner["pid"]) == owner["started"]
    return _started(owner["pid"]) == owner["started"]


def _named(owner) -> str:
    if not owner["pid"]:
        return "a process that has not said its name"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']} ({owner['command']})"


# The file.


def _missing(directory: Path) -> list[Path]:
    """The directories that have to be made for `directory` to exist, the lowest first."""
    return list(itertools.takewhile(lambda path: not path.exists(), (directory, *directory.parents)))


def _write(handle, content) -> None:
    # Of one length, so that nothing of the old content is left, and a disk that has filled up does not matter.
    text, done = json.dumps(content).encode().ljust(LENGTH), 0
    while done < LENGTH:  # The first write to a disk that gets full may be a part.
        done += os.pwrite(handle, text[done:], done)
    os.fsync(handle)


def _read(path) -> dict | None:
    """The content of a lock file; None if there is none."""
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return None


def _parsed(text: bytes) -> dict:
    """The content of a lock file, with "" and 0 for what it lacks: it may be half-written."""
    content = dict.fromkeys(("host", "boot", "started", "since", "command", "token"), "") | {"pid": 0, "beat": 0}
    try:
        found = json.loads(text)
    except ValueError:
        return content
    if isinstance(found, dict):
        content |= {name: found[name] for name, value in content.items() if type(found.get(name)) is type(value)}
    return content
