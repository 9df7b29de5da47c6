"""Decodes the images of a split, makes them square and of one size, and writes them as arrays."""

import io
import os
import pathlib
from collections.abc import Sequence
from concurrent import futures

import numpy as np

from jaxtickets import files
from jaxtickets.data.source import Examples, reason
from jaxtickets.errors import UserError

# Part of the cache's keys; raise it when decoding, cropping or resizing changes.
RECIPE = 1


def to_array(encoded: bytes | np.ndarray, image_size: int, channels: int) -> np.ndarray:
    """Decodes an image, crops its centre to a square and resizes that.

    For an aligned CelebA image the square is the usual 178x178. The filter is Pillow's bicubic, up and down: it widens
    with the reduction, so it does not alias, and it is the one that Parmar et al. (2022, "On Aliased Resizing and
    Surprising Subtleties in GAN Evaluation") recommend. Transparent parts become white.

    Args:
      encoded: an image file's bytes, or uint8 [height, width, channels].

    Returns uint8 [image_size, image_size, channels]. Raises what Pillow raises for a broken image.
    """
    from PIL import Image

    if isinstance(encoded, np.ndarray):
        image = Image.fromarray(encoded[..., 0] if channels == 1 else encoded)
    else:
        image = _opened(encoded, channels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Pillow's resize(box=...) would let pixels from outside the square in at its edges.
    image = image.crop((left, top, left + side, top + side))
    if side != image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8).reshape(image_size, image_size, channels)


def _opened(encoded: bytes, channels: int):
    """Returns an encoded image, upright and without transparency, as a gray or RGB image of Pillow."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(encoded)) as image:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L" if channels == 1 else "RGB")


def decode(examples: Examples, image_size: int, channels: int, folder: pathlib.Path) -> None:
    """Writes images.npy and, where there are labels, labels.npy into `folder`.

    Images: uint8 [n, image_size, image_size, channels]. Labels: int32 [n], or uint8 [n, attributes].

    Raises:
      UserError: the split is empty, or an image cannot be decoded; the error names the image.
    """
    if examples.count == 0:
        raise UserError(f"{folder.name}: the split holds no images; give a dataset with more images")

    def array(example):
        image, _, name = example
        try:
            return to_array(image, image_size, channels)
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more for broken files.
            raise UserError(f"{name} is no readable image ({reason(error)}); mend or remove it") from error

    labels = []
    with files.atomic_write(folder / "images.npy") as path:
        shape = (examples.count, image_size, image_size, channels)
        images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        with futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            for start in range(0, examples.count, 512):
                batch = examples.read(start, min(start + 512, examples.count))
                images[start : start + len(batch)] = list(pool.map(array, batch))
                labels += [label for _, label, _ in batch]
        images.flush()
        if labels[0] is not None:
            with files.atomic_write(folder / "labels.npy") as labels_path:
                _save(labels_path, np.asarray(labels, np.uint8 if isinstance(labels[0], Sequence) else np.int32))


def _save(path: pathlib.Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, array)
