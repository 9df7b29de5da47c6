"""Images in a directory or a .zip archive, without labels."""

import contextlib
import hashlib
import os
import pathlib
import zipfile
from dataclasses import dataclass

from jaxtickets.data.source import Examples, Source
from jaxtickets.errors import UserError

PREFIX = "folder:"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TEST_EVERY = 10


@dataclass(frozen=True)
class Folder(Source):
    """All images below a directory or in a .zip, sorted by name; the first, 11th, 21st, ... are the test split."""

    name: str
    path: str
    channels: int = 3

    @classmethod
    def named(cls, name: str) -> "Folder":
        """Returns the folder that a name of the form folder:PATH means."""
        return cls(name, name.removeprefix(PREFIX))

    def verify(self) -> None:
        self.files()

    def key(self, split: str) -> str:
        """Returns a digest of the place and of all names, sizes and modification times."""
        digest = hashlib.sha256(repr((os.path.realpath(self.path), self.files())).encode()).hexdigest()
        return f"folder-{digest[:24]}"

    def files(self) -> list[tuple[str, int, object]]:
        """Returns (name relative to the path, bytes, modification time) of each image, sorted by name.

        Raises:
          UserError: the path is missing, is neither a directory nor a zip, or holds fewer than two images.
        """
        where = f"data.name={self.name!r}"
        root = pathlib.Path(self.path).expanduser()
        if not self.path or not root.exists():
            raise UserError(f"{where}: there is no such directory or .zip; give folder:PATH with an existing path")
        if root.is_dir():
            found = []
            for folder, _, names in os.walk(root, followlinks=True):
                for name in filter(_is_image, names):
                    full = pathlib.Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):  # a dangling link
                        found.append((full.relative_to(root).as_posix(), (s := full.stat()).st_size, s.st_mtime_ns))
        elif zipfile.is_zipfile(root):
            with zipfile.ZipFile(root) as archive:
                found = [
                    (entry.filename, entry.file_size, (entry.CRC, *entry.date_time))
                    for entry in archive.infolist()
                    if not entry.is_dir() and _is_image(entry.filename)
                ]
        else:
            raise UserError(f"{where} is neither a directory nor a zip archive; give one that holds images")
        if len(found) < 2:
            raise UserError(
                f"{where} holds {len(found)} images, and at least 2 are needed (one to train, one to test);"
                f" allowed: {', '.join(SUFFIXES)}"
            )
        return sorted(found)

    def open(self, split: str) -> Examples:
        names = [name for i, (name, _, _) in enumerate(self.files()) if (split == "test") == (i % TEST_EVERY == 0)]
        root = pathlib.Path(self.path).expanduser()

        def read(start, stop):
            if root.is_dir():
                return [((root / name).read_bytes(), None, str(root / name)) for name in names[start:stop]]
            with zipfile.ZipFile(root) as archive:
                try:
                    return [(archive.read(name), None, f"{root}:{name}") for name in names[start:stop]]
                except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
                    raise UserError(f"{root}: the archive is broken or locked: {error}") from error

        return Examples(len(names), read)


def _is_image(name: str) -> bool:
    parts = pathlib.PurePosixPath(name).parts
    # Archives made on a Mac carry "__MACOSX/._photo.jpg" files that are not images.
    return name.lower().endswith(SUFFIXES) and not parts[-1].startswith("._") and "__MACOSX" not in parts
