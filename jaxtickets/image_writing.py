"""Sets of images as files: a directory or a zip of PNG files, or an .npz array; written as a whole."""

import io
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from jaxtickets import files
from jaxtickets.errors import UserError

SIGNATURE = (b"Software", b"jaxtickets")  # A text in each PNG file.
PLACES = "a directory without a suffix, or a file that ends in .zip or .npz"


def check(path: Path, flag: str, overwrite: bool, is_set: bool = True) -> None:
    """Refuses a place that can't be written, or that holds what must not be replaced; writes nothing.

    Args:
      flag: the flag with its value, for the message.
      overwrite: whether a file may be replaced, or a directory that holds nothing but images of `write`.
      is_set: whether a set of images goes there; else one PNG file does.

    Raises:
      UserError: the place is refused.
    """
    if not is_set and path.suffix != ".png":
        raise UserError(f"{flag}: allowed is a file that ends in .png")
    is_directory = is_set and path.suffix not in (".zip", ".npz")
    if is_directory and path.suffix and not path.is_dir():
        raise UserError(f"{flag}: allowed is {PLACES}")
    above = path.parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise UserError(f"{flag}: {above} is no directory")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if path.is_dir() != is_directory:
        raise UserError(f"{flag}: is a {'directory' if path.is_dir() else 'file'}; give another place")
    if is_directory and (foreign := [one.name for one in path.iterdir() if not _is_ours(one)]):
        raise UserError(f"{flag}: holds {foreign[0]}, which no earlier call has written; give another directory")
    if not overwrite:
        raise UserError(f"{flag}: is there already; give another place, or --overwrite to replace it")


def _name(number: int, label: int | None) -> str:
    return f"{number:06d}{'' if label is None else f'_{label}'}.png"


def _is_ours(path):
    """Whether an image was written by `png`, which says so at the beginning of the file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"\0".join(SIGNATURE) in file.read(128)


def write(place: Path, batches: Iterator[np.ndarray], n: int, classes: np.ndarray | None = None) -> None:
    """Writes images as a whole: an error or an interrupt leaves what was there before, or nothing.

    Args:
      place: a directory (PNG files), a .zip (of PNG files) or an .npz (`arr_0`, and with classes `arr_1`, int64 [n]).
      batches: `[batch, h, w, c]` uint8.
      n: the number of all images.
      classes: `[n]`, the class of each image, which stands in the name of its PNG file; or None.
    """
    if place.suffix == ".npz":
        with files.atomic_write(place) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _write_npz(archive, batches, n, classes)
    elif place.suffix == ".zip":
        with files.atomic_write(place) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, encoded in _encoded(batches, classes):
                archive.writestr(zipfile.ZipInfo(name), encoded)  # Without the time, so that bytes are equal.
    else:
        _write_directory(place, _encoded(batches, classes))


def png(image: np.ndarray) -> bytes:
    """The PNG file of an image `[h, w, 1 or 3]` uint8."""
    from PIL import Image, PngImagePlugin

    content, signature = io.BytesIO(), PngImagePlugin.PngInfo()
    signature.add_text(*SIGNATURE)
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "PNG", pnginfo=signature)
    return content.getvalue()


def _encoded(batches: Iterable[np.ndarray], labels):
    """`(file name, content)` of each image as a PNG file."""
    number = 0
    for batch in batches:
        for image in batch:
            yield _name(number, None if labels is None else int(labels[number])), png(image)
            number += 1


def _write_npz(archive, batches, n, labels):
    """Images as they come, without holding all: a .npy file is a header and the values of one image after another."""
    with archive.open("arr_0.npy", "w", force_zip64=True) as file:
        for number, batch in enumerate(batches):
            colour = np.broadcast_to(batch, (*batch.shape[:3], 3))  # Other programs expect three channels.
            if number == 0:
                form = {"descr": "|u1", "fortran_order": False, "shape": (n, *colour.shape[1:])}
                np.lib.format.write_array_header_1_0(file, form)
            file.write(colour.tobytes())
    if labels is not None:
        with archive.open("arr_1.npy", "w") as file:
            np.lib.format.write_array(file, np.asarray(labels, np.int64))


def _write_directory(place, named):
    """Fills a directory beside `place` and moves it there once it is complete.

    An error leaves the old directory in its place. A kill between the two moves leaves it beside it, as
    `.<name>-<random>-before`.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        for name, encoded in named:
            (made / name).write_bytes(encoded)
        before = Path(f"{temporary}-before")  # Not in `temporary`, which is deleted after an error, too.
        try:
            if place.exists():
                place.rename(before)
            made.rename(place)
        finally:
            if before.exists():
                before.rename(Path(temporary) / "before" if place.exists() else place)
