"""Decodes the images of a split, makes them square and of one size, and writes them as arrays."""

import collections
import hashlib
import io
import os
import pathlib
import re
import warnings
from collections.abc import Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxtickets import checksums, files
from jaxtickets.data import image_files
from jaxtickets.data.source import Examples, reason
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.fields import Check, Field, choice, refuse

# Part of the cache's keys; raise it when decoding, cropping, resizing or what is kept of it changes.
VERSION = 3
IMAGES, LABELS = "images.npy", "labels.npy"
AT_ONCE = 512  # The number of images that are decoded or hashed at a time.
# Images of which none is brighter than this were saved in another range, such as 12 bits in 16, or 0 to 15.
DARK = 31
FEW = 10  # Held-out images, fewer than this, may all be dark.


def _is_crop(value):
    return isinstance(value, str) and bool(re.fullmatch(r"centre|none|[1-9]\d{0,4}x[1-9]\d{0,4}", value))


def _is_colour(value):
    from PIL import ImageColor

    try:
        return isinstance(value, str) and len(ImageColor.getrgb(value)) == 3
    except ValueError:
        return False


FIELDS = (
    Field(
        "data.crop",
        "centre",
        Check(_is_crop, lambda: "centre, none, or WxH in pixels, such as 140x140"),
        "What is kept of an image: the largest square in its centre, all of it (none), or the W x H pixels in its"
        " centre. What is not square then is squeezed into a square.",
    ),
    Field(
        "data.background",
        image_files.BACKGROUND,
        Check(_is_colour, lambda: "a colour's name in CSS, or #rrggbb"),
        "The colour behind the transparent parts of images.",
    ),
    Field(
        "data.on_broken",
        "stop",
        choice("stop", "skip"),
        "What an image that can't be read does: it stops the run, or is left out (skip).",
    ),
)


@dataclass(frozen=True)
class Recipe:
    """How images are decoded: the config's `data.crop`, `data.background` and `data.on_broken`.

    Raises:
      UserError: a value that its field doesn't allow.
    """

    crop: str = "centre"
    background: str = image_files.BACKGROUND
    on_broken: str = "stop"

    def __post_init__(self):
        for field, value in zip(FIELDS, (self.crop, self.background, self.on_broken), strict=True):
            if value != field.default and not field.check.possible(value):
                refuse(field.name, value, field.check.allowed())

    @classmethod
    def of(cls, config) -> "Recipe":
        """Returns the recipe of a config."""
        return cls(config.data.crop, config.data.background, config.data.on_broken)

    @property
    def key(self) -> str:
        """Returns a part of a file name that changes whenever decoded images may."""
        from PIL import ImageColor

        return f"{VERSION}-{self.crop}-{bytes(ImageColor.getrgb(self.background)).hex()}-{self.on_broken}"


USUAL = Recipe()


# --- one image ---


def to_array(encoded: bytes | np.ndarray, image_size: int | None, channels: int, recipe: Recipe = USUAL) -> np.ndarray:
    """Decodes an image, crops it and resizes what is left.

    The crop is by default the largest square in the centre; for an aligned CelebA image that is the usual 178x178. The
    filter is Pillow's bicubic, up and down: it widens with the reduction, so it does not alias, and it is the one that
    Parmar et al. (2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation") recommend.

    The image is turned upright as its EXIF data say, transparent parts show the recipe's background, and of an
    animation the first frame is taken. Values of 16 bits are scaled to 8, and floats in [0, 1] to [0, 255]. Colour
    profiles are not applied.

    Args:
      encoded: an image file's bytes, or uint8 [height, width, 1 or 3].
      image_size: height and width; None: what is left is not resized.

    Returns uint8 [height, width, channels]. Raises what Pillow raises for a broken image, ValueError for one whose
    range of values is not known, and UserError for one that is smaller than the crop.
    """
    return _resized(_cropped(_opened(encoded, channels, recipe), recipe), image_size, channels)


def _resized(image, image_size, channels):
    from PIL import Image

    if image_size is not None and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


def _opened(encoded, channels, recipe):
    """Returns an image as a grey or RGB image of Pillow."""
    from PIL import Image

    if isinstance(encoded, np.ndarray):
        image = Image.fromarray(encoded[..., 0] if encoded.shape[2] == 1 else encoded)
    else:
        image = image_files.opened(encoded, recipe.background)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _cropped(image, recipe, name="an image"):
    """Returns what the recipe keeps of an image of Pillow. name: how messages call it."""
    if recipe.crop == "none":
        return image
    width, height = [min(image.size)] * 2 if recipe.crop == "centre" else map(int, recipe.crop.split("x"))
    if image.width < width or image.height < height:
        at_most = f"at most {image.width}x{image.height} (the pixels of {name})"
        refuse("data.crop", recipe.crop, f"centre, none, or {at_most}")
    left, top = (image.width - width) // 2, (image.height - height) // 2
    # Pillow's resize(box=...) would let pixels from outside the square in at its edges.
    return image.crop((left, top, left + width, top + height))


# --- a split ---


class Decoded(NamedTuple):
    """What became of a split.

    Attributes:
      digest: SHA-256 of the decoded images, the labels and the label names.
      broken: how messages call the images that were left out.
      sizes: the width and height of the images after cropping, before resizing, and the number of images of each.
    """

    digest: str
    broken: list[str]
    sizes: collections.Counter


def decode(
    examples: Examples,
    image_size: int,
    channels: int,
    folder: pathlib.Path,
    recipe: Recipe = USUAL,
    may_be_dark: bool = False,
) -> Decoded:
    """Writes `IMAGES` and, where there are labels, `LABELS` into `folder`.

    Images: uint8 [n, image_size, image_size, channels]. Labels: int32 [n], or uint8 [n, attributes].

    Raises:
      UserError: the split is empty, an image is smaller than the crop, or one cannot be decoded and the recipe doesn't
        skip it; the error names the image. Or the brightest value is above 0 and not above `DARK`, unless
        `may_be_dark`.
    """
    if examples.count == 0:
        raise UserError(f"{folder.name}: the split holds no images; give a dataset with more images")

    def array(example):
        image, _, name = example
        try:
            opened = _opened(image() if callable(image) else image, channels, recipe)
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more for broken files.
            return broken_image(name, error)
        kept = _cropped(opened, recipe, name)
        # As they are in the file: resizing thin lines makes them dark.
        limits = None if is_bright else np.ravel(opened.getextrema())
        return _resized(kept, image_size, channels), kept.size, limits

    labels, broken, sizes, digest = [], [], collections.Counter(), hashlib.sha256()
    is_bright, low, high, first = may_be_dark, 255, 0, ""
    with files.atomic_write(folder / IMAGES) as path, open(path, "r+b") as file:
        file.write(_header(examples.count, image_size, channels))
        with futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool, warnings.catch_warnings(action="ignore"):
            for start in range(0, examples.count, AT_ONCE):
                batch = examples.read(start, min(start + AT_ONCE, examples.count))
                for (_, label, name), result in zip(batch, pool.map(array, batch), strict=True):
                    if isinstance(result, UserError):
                        if recipe.on_broken == "stop":
                            raise result
                        broken.append(name)
                        continue
                    pixels, size, limits = result
                    if not is_bright and limits is not None:
                        first, low, high = first or name, min(low, *limits), max(high, *limits)
                    sizes[size] += 1
                    labels.append(label)
                    file.write(pixels)
                    digest.update(pixels)
                is_bright = is_bright or high > DARK
        if not labels:
            none = f"none of the {len(broken):,} images of a split can be read, and {broken[0]} is the first"
            raise UserError(f"{none}; mend or remove them")
        if not is_bright and high > 0:
            raise UserError(
                f"{first} and all other images of its split have values from {low} to {high} of 255, as if their range"
                f" were another one; allowed: a brightest value of {DARK + 1} to 255, or black images only; scale them"
                " to 0 to 255"
            )
        file.seek(0)
        file.write(_header(len(labels), image_size, channels))
        of_all, names = None, tuple(examples.label_names)
        if labels[0] is not None:
            of_all = np.asarray(labels, np.uint8 if isinstance(labels[0], Sequence) else np.int32)
            with files.atomic_write(folder / LABELS) as labels_path:
                _save(labels_path, of_all)
    return Decoded(_completed(digest, (len(labels), image_size, channels), names, of_all), broken, sizes)


def read(
    folder: pathlib.Path, image_size: int, channels: int, names: Sequence[str], digest: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """The images and labels that `decode` has written into `folder`, the images mapped from disk.

    Raises:
      DamagedError: they can't be read, or their digest is another one than `digest`.
    """
    try:
        images = np.load(folder / IMAGES, mmap_mode="r")
        labels = np.load(folder / LABELS) if (folder / LABELS).exists() else None
        # The digest covers neither types nor the order of axes.
        if images.dtype.str != "|u1" or not images.flags.c_contiguous:
            raise ValueError(f"images of {images.dtype.str}")
        if labels is not None and ((labels.dtype.str, labels.ndim) not in (("<i4", 1), ("|u1", 2))):
            raise ValueError(f"labels of {labels.dtype.str} {list(labels.shape)}")
        sha = hashlib.sha256()
        for start in range(0, len(images), AT_ONCE):
            sha.update(images[start : start + AT_ONCE])
        of_images = sha.copy().hexdigest()
        if images.shape[1:] != (image_size, image_size, channels) or digest != _completed(
            sha, (len(images), image_size, channels), names, labels
        ):
            raise ValueError("their checksum is another one")
    except Exception as error:  # NumPy raises several for headers that make no sense.
        raise DamagedError(f"the decoded images in {folder} are damaged ({error})") from None
    checksums.remember(images, of_images)
    if labels is not None:
        labels.flags.writeable = False  # All who load the data set share them.
    return images, labels


def _completed(sha, shape, names, labels) -> str:
    """The digest of a split, given the hash of its pixels. shape: the number of images, their size and channels."""
    sha.update(repr((*shape, tuple(names))).encode())
    if labels is not None:
        sha.update(np.ascontiguousarray(labels))
    return sha.hexdigest()


def broken_image(name: str, error: Exception) -> UserError:
    """Returns one line that says why an image can't be decoded, and what to do."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UserError):  # The file can't be read; the error names it.
        return error
    # The text of Pillow's error for an unknown format tells an address in memory.
    why = "Pillow doesn't know its format" if isinstance(error, UnidentifiedImageError) else reason(error)
    skip = "leave such images out with --config.data.on_broken=skip"
    return UserError(f"{name} is no readable image ({why}); mend or remove it, or {skip}")


def left_out(broken: Sequence[str], total: int, kind: str = "images") -> str:
    """Returns the words about broken images that were left out, by what messages call them."""
    first = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
    return f"{len(broken):,} of the {total:,} {kind} can't be read and are left out: {first}"


def remarks(decoded: Decoded, image_size: int, name: str, split: str) -> list[str]:
    """Returns one line about images that were left out, and for the train split one about images of another size."""
    lines, what = [], f"data.name={name!r}"
    if decoded.broken:
        total = len(decoded.broken) + sum(decoded.sizes.values())
        lines.append(f"{what}: {left_out(decoded.broken, total, f'images of the {split} split')}")
    if split == "train" and set(decoded.sizes) != {(image_size, image_size)}:
        sizes = sorted(decoded.sizes, key=lambda size: (size[0] * size[1], size))
        pixels = " to ".join(f"{width}x{height}" for width, height in dict.fromkeys((sizes[0], sizes[-1])))
        lines.append(f"{what}: images of {pixels} pixels become {image_size}x{image_size} (model.image_size)")
    return lines


def _header(count, image_size, channels):
    """Returns the first bytes of an .npy file of images; equally many for every smaller count."""
    stream = io.BytesIO()
    shape = (count, image_size, image_size, channels)
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _save(path: pathlib.Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, array)
