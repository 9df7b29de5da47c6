"""Files compressed by gzip, bzip2 or xz, read at any place, and a limit for what compressed files unpack to."""

import bisect
import bz2
import io
import lzma
import zlib
from typing import BinaryIO

from jaxtickets.errors import UserError

# Real data sets stay below: dSprites, 3 GB of mostly empty images, is 116 times smaller as an .npz.
RATIO = 250
HARMLESS = 64 << 20  # The number of bytes that may be unpacked whatever the ratio.
CHUNK = 1 << 14
MEMORY = 2 << 30  # The largest number of bytes that are unpacked into memory.
AT_ONCE = 1 << 20
DICTIONARY = 256 << 20  # The largest number of bytes of memory for unpacking xz; `xz -9` needs 65 MiB.
# The largest number of places in a file from which reading can start, and the smallest number of unpacked bytes between
# two of them. A place costs about 40 kB of memory, the window of its decompressor.
PLACES, SPACING = 2048, 1 << 18


def check_ratio(name: str, unpacked: int, packed: int) -> None:
    """Raises UserError if `packed` bytes that unpack to `unpacked` are a decompression bomb."""
    if unpacked > HARMLESS and unpacked > RATIO * packed:
        raise UserError(
            f"{name}: {packed:,} bytes that unpack to {unpacked:,} or more are a decompression bomb, not a data set;"
            f" up to {RATIO} times as many are allowed"
        )


def _xz():
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, DICTIONARY)


DECOMPRESSORS = {b"BZh": bz2.BZ2Decompressor, b"\xfd7zXZ\0": _xz}  # By the first bytes of a file.


def unpacked(file: BinaryIO, name: str) -> BinaryIO | None:
    """The content of a file compressed by bzip2 or xz, in memory: these can't be read at any place. None for others.

    name: how messages call it.

    Raises:
      EOFError, OSError, lzma.LZMAError: the file is cut short or broken.
      UserError: it is a decompression bomb, or too large for memory.
    """
    head = file.read(6)
    make = next((make for magic, make in DECOMPRESSORS.items() if head.startswith(magic)), None)
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    if make is None:
        return None
    content, decompressor, rest = io.BytesIO(), None, b""
    while packed := rest or file.read(CHUNK):
        rest = b""
        if decompressor is None:  # A file may have several streams, and zeros behind them.
            packed = packed.lstrip(b"\0")
            decompressor = make() if packed else None
        while decompressor:
            content.write(decompressor.decompress(packed, AT_ONCE))
            check_ratio(name, content.tell(), length)
            if content.tell() > MEMORY:
                raise UserError(f"{name} unpacks to more than {MEMORY >> 30} GiB; unpack it and give the directory")
            if decompressor.eof:
                rest, decompressor = decompressor.unused_data, None
            elif decompressor.needs_input:
                break
            packed = b""
    if decompressor or not content.tell():
        raise EOFError("the compressed file ends too early")
    content.seek(0)
    return content


class Gzip(io.RawIOBase):
    """The unpacked content of a gzip file, as a file that can seek.

    A gzip file can only be unpacked from its start. On the way, this class keeps copies of the decompressor's state
    together with their places, and a later read goes on from the nearest place before it.
    """

    def __init__(self, file, name: str):
        """file: an open binary file that can seek. name: how messages call it."""
        super().__init__()
        self._file, self._name = file, name
        self._length = file.seek(0, io.SEEK_END)
        self._spacing = SPACING  # Doubled whenever there are too many places.
        self._wanted = 0  # The position of the next read.
        # `_ready` is unpacked and begins at `_start`; the decompressor, None between two members of the file, goes on
        # behind it with what the file holds from `_position` on.
        self._start, self._ready, self._position, self._decompressor = 0, b"", 0, None
        self._places, self._states = [0], [(0, None)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._wanted

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the length of a gzip file's content is not known")
        self._wanted = offset + (self._wanted if whence == io.SEEK_CUR else 0)
        return self._wanted

    def readinto(self, buffer) -> int:
        nearest = bisect.bisect_right(self._places, self._wanted) - 1
        if self._wanted < self._start or self._places[nearest] > self._start + len(self._ready):
            self._start, self._ready = self._places[nearest], b""
            self._position, decompressor = self._states[nearest]
            self._decompressor = decompressor and decompressor.copy()
        while self._wanted >= self._start + len(self._ready):
            if not self._unpack():
                return 0
        first = self._wanted - self._start
        content = self._ready[first : first + len(buffer)]
        buffer[: len(content)] = content
        self._wanted += len(content)
        return len(content)

    def _unpack(self) -> bool:
        """Replaces `_ready` by what follows it; returns False at the end. Raises EOFError if the file is cut short."""
        self._start, self._ready = self._start + len(self._ready), b""
        while not self._ready:
            if self._start >= self._places[-1] + self._spacing and self._decompressor:
                self._places.append(self._start)
                self._states.append((self._position, self._decompressor.copy()))
                if len(self._places) >= PLACES:
                    del self._places[1::2], self._states[1::2]
                    self._spacing *= 2
            self._file.seek(self._position)
            packed = self._file.read(CHUNK)
            if not packed:
                if self._decompressor or self._position == 0:
                    raise EOFError("the compressed file ends too early")
                return False
            self._position += len(packed)
            if not self._decompressor:  # A gzip file may have several members, and zeros behind them.
                packed = packed.lstrip(b"\0") if self._start else packed
                if not packed:
                    continue
                self._decompressor = zlib.decompressobj(31)
            self._ready = self._decompressor.decompress(packed)
            check_ratio(self._name, self._start + len(self._ready), self._length)
            if self._decompressor.eof:
                self._position -= len(self._decompressor.unused_data)
                self._decompressor = None
        return True
