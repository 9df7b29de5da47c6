"""Image files as cameras, scanners and editors leave them, as images of Pillow with 8 bits: upright and opaque."""

import contextlib
import functools
import io
import threading
import warnings

import numpy as np

from jaxtickets.data.gzips import HARMLESS, RATIO

# What is decoded, whatever a file is called. Pillow knows more formats, and starts another program for one of them.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "QOI", "TGA", "ICO")
GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Modes of Pillow without colours.
BACKGROUND = "white"
_LARGE = threading.Lock()  # Of the images of more than `HARMLESS` bytes, one is decoded at a time.
UNKNOWN_RANGE = "its values are {}, whose black and white are not known; save it with 8 or 16 bits"


def opened(encoded: bytes, background: str):
    """Returns the first frame of an image file, upright and opaque, as a grey, palette or RGB image of Pillow.

    Args:
      encoded: the content of the file.
      background: the colour behind transparent parts.

    Raises what Pillow raises for a broken image, and ValueError for values whose range is not known, and for a
    decompression bomb.
    """
    with _open(encoded) as image:
        image.load()
        _scale_transparent_colour(image, encoded)
        flat = _upright(_to_8_bits(image), image)
        return _composited(flat, background).copy()  # The file's own image ends with the file.


@functools.cache
def _formats():
    """Those of `FORMATS` that this Pillow has been built with."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextlib.contextmanager
def _open(encoded):
    """Opens an image file of one of `FORMATS` that does not claim to be implausibly large; nothing is decoded yet."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=_formats()) as image:
        size = image.width * image.height * len(image.getbands())
        if size > HARMLESS and size > RATIO * len(encoded):
            raise ValueError(f"{image.width}x{image.height} pixels in {len(encoded):,} bytes are a decompression bomb")
        with _LARGE if size > HARMLESS else contextlib.nullcontext():
            yield image


def _composited(image, background):
    """Returns an image of 8 bits over a background, where it is transparent, as a grey, palette or RGB image."""
    from PIL import Image

    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image if image.mode in ("1", "L", "P", "RGB") else image.convert("RGB")


def _upright(image, file):
    """Returns an image turned as the EXIF data of its file say. Broken EXIF data don't make a broken image."""
    from PIL import Image

    try:
        orientation = file.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises SyntaxError, struct.error, UnicodeDecodeError and more.
        return image
    flips = Image.Transpose
    turns = {2: flips.FLIP_LEFT_RIGHT, 3: flips.ROTATE_180, 4: flips.FLIP_TOP_BOTTOM, 5: flips.TRANSPOSE}
    turns |= {6: flips.ROTATE_270, 7: flips.TRANSVERSE, 8: flips.ROTATE_90}
    return image.transpose(turns[orientation]) if orientation in turns else image


def _to_8_bits(image):
    """Returns an image as it is, and a grey image of 16-bit integers or of floats in [0, 1] as one of 8 bits.

    Raises:
      ValueError: its black and white are not known.
    """
    from PIL import Image

    tags, integers = getattr(image, "tag_v2", {}), "integers with a sign, or of 32 bits"
    if tags.get(339, (1,))[0] == 2:  # A TIFF's sample format.
        raise ValueError(UNKNOWN_RANGE.format(integers))
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F":
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(UNKNOWN_RANGE.format("floats outside [0, 1]"))
        top = 1
    elif image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError(UNKNOWN_RANGE.format(integers))
    else:
        top = 2 ** tags.get(258, (16,))[0] - 1
    scaled = np.rint(values * np.float32(255 / top)).astype(np.uint8)
    # A TIFF may have white at 0, which Pillow sees to for 8 bits only.
    flat = Image.fromarray(255 - scaled if tags.get(262) == 0 else scaled)
    if isinstance(transparent := image.info.get("transparency"), int):
        flat.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return flat


def _scale_transparent_colour(image, encoded):
    """Scales the transparent colour of a PNG to 8 bits, as Pillow does with its pixels only."""
    transparent, depth = image.info.get("transparency"), encoded[24:25]
    if image.format == "PNG" and image.mode in ("L", "RGB") and transparent is not None and depth != b"\x08":
        top = 2 ** depth[0] - 1
        scaled = [value >> 8 if top == 65535 else value * 255 // top for value in np.atleast_1d(transparent).tolist()]
        image.info["transparency"] = tuple(scaled) if len(scaled) == 3 else scaled[0]


def is_colour(encoded: bytes, background: str = BACKGROUND) -> bool:
    """Returns whether any pixel of an image file is coloured, seen over the background where it is transparent.

    Raises what Pillow raises for a broken image.
    """
    from PIL import ImageChops

    with warnings.catch_warnings(action="ignore"):
        with _open(encoded) as image:
            is_transparent = image.has_transparency_data or image.mode == "La"
            if not is_transparent:
                if image.mode in GREY:
                    return False
                image.draft("RGB", (64, 64))  # JPEGs are decoded at a fraction of their size.
                image.load()
                flat = _composited(image, background)
        if is_transparent:
            flat = opened(encoded, background)
    red, green, blue = flat.convert("RGB").split()
    return any(ImageChops.difference(red, other).getbbox() for other in (green, blue))
