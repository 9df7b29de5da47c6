"""Files of one directory with their checksums in one more file: `Verified`.

That file maps each name to the SHA-256 of at most two contents: the one that was there when the file was last written,
and the one that was written then. It is written first, so that after a kill either content is right; only the name of a
new file is written after that file, so that a name without a file is a loss. Files that it does not name, those of an
older version, are taken as they are.
"""

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path

from jaxtickets import files
from jaxtickets.errors import DamagedError
from jaxtickets.progress import say


class Verified:
    """Reads and writes files of a directory and of those below it."""

    def __init__(self, checksums: Path, has_been: Callable[[], bool] = lambda: False):
        """
        Args:
          checksums: the path of the file with the checksums, in the directory.
          has_been: tells, where it is not there, whether it has been written: an older version has not.
        """
        self._checksums, self._has_been, self._has_told = checksums, has_been, False

    def read(self, path: Path) -> bytes | None:
        """The content of a file; None if there has been none.

        Raises:
          DamagedError: it can't be read, is not what was written, or is gone.
        """
        try:
            content = files.read(path)
        except (FileNotFoundError, NotADirectoryError):
            if self._name(path) in self._known():
                raise DamagedError(f"{path}: is missing") from None
            return None
        except OSError as error:
            raise DamagedError(f"{path}: can't be read ({error.strerror})") from None
        known = self._known().get(self._name(path))
        if known is not None and _digest(content) not in known:
            raise DamagedError(f"{path}: is damaged (it is not what was written)")
        return content

    def lost(self) -> list[Path]:
        """The files that are gone."""
        paths = [self._checksums.parent / name for name in self._known()]
        return [path for path in paths if not path.exists()]

    def write(self, path: Path, content: bytes) -> None:
        """Replaces a file."""
        name, known = self._name(path), self._known()
        before = _digest(path.read_bytes()) if path.is_file() else None
        after = _digest(content)
        is_intact = before is not None and before in known.get(name, [before])
        digests = list(dict.fromkeys([before, after] if is_intact else [after]))
        if before is None:
            files.replace(path, content)
        if digests != known.get(name):
            self._write({**known, name: digests})
        if before is not None:
            files.replace(path, content)

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there."""
        known = self._known()
        if known.pop(self._name(path), None) is not None:
            self._write(known)
        files.remove(path)

    def _name(self, path):
        return path.relative_to(self._checksums.parent).as_posix()

    def _known(self):
        found = files.read_json(self._checksums)
        if found is None and not self._checksums.exists():
            if not self._has_told and self._has_been():
                self._tell("is missing")
            return {}
        known = (found or {}).get("files")
        if not _are_digests(known) or found.get("crc32") != _crc32(known):
            if not self._has_told:
                self._tell("is damaged")
            return {}
        return known

    def _tell(self, what):
        say(f"{self._checksums}: {what}; the files that it names are not verified until they are written")
        self._has_told = True

    def _write(self, known):
        files.replace(self._checksums, files.json_bytes({"files": known, "crc32": _crc32(known)}))


def _digest(content):
    return hashlib.sha256(content).hexdigest()


def _crc32(known):
    return zlib.crc32(json.dumps(known, sort_keys=True).encode())


def _are_digests(known):
    return isinstance(known, dict) and all(isinstance(digests, list) for digests in known.values())
