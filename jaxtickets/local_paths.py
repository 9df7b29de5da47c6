"""Paths that a user gives: `~` is expanded, and what is no path of this machine's file system is refused."""

import errno
import os
import re
from pathlib import Path

from jaxtickets.errors import UserError

# `gs://bucket/run`, and `gs:/bucket/run`, which a path makes of it. One letter is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
ALLOWED = "allowed is a path in this machine's file system (a bucket can be mounted there)"


def local_path(text: str | os.PathLike, flag: str) -> Path:
    """The path that a user has given as the value of a flag or a field; it need not exist.

    Args:
      text: the path, where a leading `~` or `~user` is that user's home directory.
      flag: what gives it, for the message: `--workdir`, or `config.branch.of`.

    Raises:
      UserError: it is a URL such as `gs://bucket/run`, begins with a variable such as `$HOME`, is empty,
        too long, holds a NUL, or names a user who does not exist.
    """
    given = os.fspath(text)
    if not isinstance(given, str):
        given = os.fsdecode(given)
    where = f"{flag}={given if given.isprintable() and given else repr(given)}"
    if _URL.match(given):
        raise UserError(f"{where}: is a URL; {ALLOWED}")
    if re.match(r"\$\{?\w", given):
        raise UserError(f"{where}: a variable is for the shell to read; {ALLOWED}, ./{given} too")
    if not given or "\0" in given:
        raise UserError(f"{where}: is no path; {ALLOWED}")
    path = os.path.expanduser(given)  # Unlike `Path.expanduser`, it leaves `./~` as it is.
    if path.startswith("~"):
        raise UserError(f"{where}: {Path(path).parts[0]} has no home directory; {ALLOWED}, ./{path} too")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{flag}={path[:80]}...: is too long; {ALLOWED}") from None
    return Path(path)
