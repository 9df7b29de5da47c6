"""Image files as cameras, scanners and editors leave them: values, kinds, transparency, turns, crops, faults, names."""

import hashlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxtickets import cache, data
from jaxtickets.data import decoding, image_files
from jaxtickets.errors import UserError

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
# The nearest of 256 levels to each of 65,536.
LEVELS = np.floor(np.arange(65536) * 255 / 65535 + 0.5).astype(np.uint8).reshape(256, 256)
RGB = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
GREY = RGB[..., 0]


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))


def encoded(image, kind="png", **options):
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def png(rows, depth, colour_type, *chunks):
    """A PNG by its specification: `rows: [height, bytes]` uint8 and further chunks `(type, content)`."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = np.ascontiguousarray(rows)
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    width = rows.shape[1] * 8 // depth // channels
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = (b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def big_endian(*channels):
    """16-bit channels as the rows of a PNG."""
    return np.stack(channels, -1).astype(">u2").reshape(len(channels[0]), -1).view(np.uint8)


def tiff(pixels, bits, sample_format=1, photometric=1):
    """A little-endian grey TIFF by its specification, with one strip; `pixels: [height, width]`."""
    strip, (height, width) = pixels.tobytes(), pixels.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(strip), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    return struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + directory


def grey(content, size=256, **recipe):
    return decoding.to_array(content, size, 1, data.Recipe(**recipe))[..., 0]


def colour(content, size=6, **recipe):
    return decoding.to_array(content, size, 3, data.Recipe(**recipe))


def write(root, **contents):
    """Writes files called `<keyword>.png`, or whatever suffix follows two underscores."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        stem, _, suffix = name.partition("__")
        (root / f"{stem}.{suffix or 'png'}").write_bytes(content)
    return root


# --- values ---


@pytest.mark.parametrize(
    "content",
    [
        encoded(RAMP),
        encoded(RAMP, "tiff"),
        encoded(RAMP.astype(">u2"), "tiff"),
        encoded(RAMP, "tiff", compression="tiff_lzw"),
        encoded(RAMP, "ppm"),
        encoded(RAMP, "jpeg2000"),
        tiff(65535 - RAMP, 16, photometric=0),
    ],
    ids=["png", "tiff", "big-endian tiff", "lzw", "pgm", "jpeg 2000", "tiff with white at 0"],
)
def test_grey_values_of_16_bits_become_the_nearest_of_256_levels(content):
    np.testing.assert_array_equal(grey(content), LEVELS)
    np.testing.assert_array_equal(colour(content, 256), np.repeat(LEVELS[..., None], 3, -1))
    assert not image_files.is_colour(content)


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_16_bits_are_scaled(alpha):
    opaque = np.full_like(RAMP, 65535)
    channels = (RAMP, RAMP.T, RAMP[::-1], *([opaque] if alpha else ()))
    content = png(big_endian(*channels), 16, 6 if alpha else 2)
    expected = np.stack(channels[:3], -1) / 257
    assert np.abs(colour(content, 256) - expected).max() < 1
    assert image_files.is_colour(content)


def test_grey_with_alpha_of_16_bits_is_grey():
    content = png(big_endian(RAMP, np.full_like(RAMP, 65535)), 16, 4)
    assert np.abs(grey(content) - RAMP / 257).max() < 1
    assert not image_files.is_colour(content)


def test_values_of_12_bits_use_their_own_range():
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    low, high = values.reshape(64, -1, 2).transpose(2, 0, 1)
    packed = np.stack([low >> 4, (low & 15) << 4 | high >> 8, high & 255], -1).astype(np.uint8).reshape(64, 96)
    content = tiff(packed, 12).replace(struct.pack("<HHII", 256, 4, 1, 96), struct.pack("<HHII", 256, 4, 1, 64))
    np.testing.assert_array_equal(grey(content, 64), np.floor(values / 4095 * 255 + 0.5))


def test_floats_in_the_unit_interval_are_scaled():
    floats = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    np.testing.assert_array_equal(grey(encoded(floats, "tiff"), 16), np.arange(256).reshape(16, 16))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(np.linspace(0, 255, 64, dtype=np.float32).reshape(8, 8), 32, 3), r"floats outside \[0, 1\]"),
        (tiff(np.full((8, 8), np.nan, np.float32), 32, 3), r"floats outside \[0, 1\]"),
        (tiff(np.zeros((8, 8), np.int16), 16, 2), "integers with a sign"),
        (tiff(np.zeros((8, 8), np.int8), 8, 2), "integers with a sign"),
        (tiff(np.zeros((8, 8), np.int32), 32, 2), "32 bits"),
        (tiff(np.zeros((8, 8), np.uint32), 32, 1), "32 bits"),
    ],
)
def test_values_of_an_unknown_range_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        grey(content, 8)


def test_a_ramp_of_16_bits_keeps_its_mean_in_a_data_set(tmp_path):
    root = write(tmp_path / "ramps", a=encoded(RAMP), b=encoded(RAMP), c__TIF=encoded(RAMP, "tiff"))
    train = data.load(f"folder:{root}", "train", 256)
    assert train.images.shape == (2, 256, 256, 1) and train.images.mean() == 127.5


TWELVE = np.random.default_rng(3).integers(0, 4096, (8, 8), np.uint16)  # 12 bits, saved in 16
RANGES = {
    "12 bits in 16": [encoded(TWELVE)],
    "12 bits in 16, in colour": [png(big_endian(TWELVE, TWELVE.T, TWELVE), 16, 2)],
    "0 to 15": [encoded(np.arange(16, dtype=np.uint8).reshape(4, 4)), encoded(np.full((4, 4), 15, np.uint8))],
    "floats to 0.1": [tiff(np.linspace(0, 0.1, 64, dtype=np.float32).reshape(8, 8), 32, 3)],
}


@pytest.mark.parametrize("kind", RANGES)
def test_a_data_set_in_another_range_is_refused_with_the_range(kind, tmp_path):
    root = write(tmp_path / "images")
    for i in range(6):
        content = RANGES[kind][i % len(RANGES[kind])]
        (root / f"{i}{'.tif' if content[:2] == b'II' else '.png'}").write_bytes(content)
    high = {"floats to 0.1": r"2[56]", "0 to 15": "15"}.get(kind, r"1[56]")
    with pytest.raises(
        UserError, match=rf"values from \d+ to {high} of 255.*allowed: a brightest value of 32"
    ) as caught:
        data.load(f"folder:{root}", "train", 4)
    assert "\n" not in str(caught.value) and not list(cache.directory("data").rglob("*.npy"))


@pytest.mark.parametrize("brightest", [0, 32, 255])
def test_black_images_and_those_with_one_value_of_at_least_32_are_read_as_they_are(brightest, tmp_path):
    dark = np.full((8, 8), min(brightest, 9), np.uint8)
    root = write(tmp_path / "images", **{f"{i:02d}": encoded(dark) for i in range(12)})
    light = dark.copy()
    light[3, 3] = brightest
    for split, name in (("train", "a"), ("test", "b")):
        write(root / split, **{f"{name}{i:02d}": encoded(dark) for i in range(600)} | {f"{name}x": encoded(light)})
        loaded = data.load(f"folder:{root}", split, 8)
        assert loaded.images.max() == brightest and loaded.images.mean() <= 10


def test_thin_bright_lines_may_become_dark_when_they_are_resized(tmp_path):
    line = np.zeros((256, 256), np.uint8)
    line[:, 100] = 255
    root = write(tmp_path / "images", **{name: encoded(line) for name in "abc"})
    assert 0 < data.load(f"folder:{root}", "train", 8).images.max() < 32


@pytest.mark.parametrize(("count", "read"), [(1, True), (9, True), (10, False)])
def test_a_few_held_out_images_may_all_be_dark(count, read, tmp_path):
    write(tmp_path / "x" / "train", a=encoded(np.full((8, 8), 200, np.uint8)))
    write(tmp_path / "x" / "test", **{f"{i}": encoded(np.full((8, 8), 9, np.uint8)) for i in range(count)})
    data.load(f"folder:{tmp_path / 'x'}", "train", 8)
    if read:
        assert data.load(f"folder:{tmp_path / 'x'}", "test", 8).images.mean() == 9
    else:
        with pytest.raises(UserError, match="from 9 to 9 of 255"):
            data.load(f"folder:{tmp_path / 'x'}", "test", 8)


# --- kinds of images ---


@pytest.mark.parametrize(
    "kind", ["png", "webp", "bmp", "tiff", "gif", "jpeg2000", "tga", "ppm", "interlaced tiff", "several pages"]
)
def test_lossless_files_give_their_pixels(kind):
    options = {
        "webp": {"lossless": True},
        "jpeg2000": {"irreversible": False},
        "interlaced tiff": {"format": "tiff", "compression": "tiff_deflate"},
        "several pages": {"format": "tiff", "save_all": True, "append_images": [Image.new("RGB", (3, 3))]},
    }.get(kind, {})
    np.testing.assert_array_equal(colour(encoded(RGB, options.pop("format", kind), **options)), RGB)


def test_bits_and_grey_values_are_read_as_they_are():
    bits = GREY > 127
    np.testing.assert_array_equal(grey(encoded(Image.fromarray(bits)), 6), bits * 255)
    np.testing.assert_array_equal(grey(encoded(GREY), 6), GREY)
    np.testing.assert_array_equal(grey(encoded(Image.fromarray(GREY).convert("P"), "gif"), 6), GREY)


def test_a_colour_image_in_a_grey_data_set_becomes_its_luma():
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey(encoded(RGB), 6) - luma).max() < 1


def test_progressive_and_chroma_subsampled_jpegs_are_close_to_their_pixels():
    smooth = np.asarray(Image.fromarray(RGB).resize((64, 64), Image.Resampling.BICUBIC))
    for options in ({"progressive": True}, {"subsampling": 2}, {"quality": 95, "subsampling": 0}):
        content = encoded(smooth, "jpeg", **{"quality": 95, **options})
        assert np.abs(colour(content, 64).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_inks_become_the_light_that_they_leave(kind):
    # A CMYK JPEG holds its inks inverted, as Adobe's programs write it, a TIFF does not.
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, ..., 0], inks[8:, ..., 1], inks[..., 3] = 200, 100, 55
    content = encoded(Image.fromarray(inks, "CMYK"), kind, **({"quality": 100} if kind == "jpeg" else {}))
    if kind == "jpeg":
        assert b"Adobe" in content
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:]) / 255
    assert np.abs(colour(content, 16) - expected).max() < 3


def test_luma_and_chroma_become_colours():
    image = Image.fromarray(np.full((16, 16, 3), (200, 30, 90), np.uint8))
    content = encoded(image.convert("YCbCr"), "tiff")
    assert Image.open(io.BytesIO(content)).mode == "YCbCr"
    assert np.abs(colour(content, 16) - [200.0, 30, 90]).max() < 3


def test_a_lab_image_has_the_colours_that_it_was_made_of(tmp_path):
    image = Image.fromarray(np.full((16, 16, 3), (200, 30, 90), np.uint8))
    profiles = (ImageCms.createProfile(kind) for kind in ("sRGB", "LAB"))
    content = encoded(ImageCms.profileToProfile(image, *profiles, outputMode="LAB"), "tiff")
    assert Image.open(io.BytesIO(content)).mode == "LAB" and image_files.is_colour(content)
    assert np.abs(colour(content, 16) - [200.0, 30, 90]).max() <= 4
    root = write(tmp_path / "images", a__tif=content, b__tif=content)
    assert data.load(f"folder:{root}", "train", 16).images.shape == (1, 16, 16, 3)


# Modes of Pillow that its writers have; what each makes of a coloured image, and of a grey one.
COLOURED = {"P": 60, "PA": 60, "RGB": 0, "RGBA": 0, "RGBX": 0, "CMYK": 1, "YCbCr": 3}
UNCOLOURED = {"1": 120, "L": 0, "LA": 0, "I;16": 1, "I;16B": 1, "F": 1}


@pytest.mark.parametrize("mode", [*COLOURED, *UNCOLOURED])
def test_images_of_every_mode_are_known_as_coloured_or_grey_and_give_their_values(mode):
    is_grey = mode in UNCOLOURED
    values = np.full((16, 16, 3), 120 if is_grey else (200, 30, 90), np.uint8)
    wide = {"I;16": "<u2", "I;16B": ">u2", "F": np.float32}
    if mode in wide:
        scaled = values[..., 0] / np.float32(255) if mode == "F" else values[..., 0].astype(wide[mode]) * 257
        image = Image.fromarray(scaled.astype(wide[mode]))
    else:
        image = Image.fromarray(values[..., 0] if is_grey else values).convert(mode)
    tolerance, written = max(COLOURED.get(mode, 0), UNCOLOURED.get(mode, 0)), []
    for kind in ("tiff", "png", "tga", "jpeg2000", "ppm", "bmp", "ico"):
        try:
            content = encoded(image, kind)
        except OSError:  # The format has no such images, or Pillow was built without it.
            continue
        written.append(kind)
        assert image_files.is_colour(content) != is_grey, kind
        if mode != "1":
            assert np.abs(colour(content, 16).astype(int) - values).max() <= tolerance, kind
    assert "tiff" in written


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_shows_its_first_frame(kind):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ((0, 0, 255), (255, 0, 0))]
    content = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **{"lossless": True} if kind == "webp" else {}
    )
    np.testing.assert_array_equal(colour(content), np.full((6, 6, 3), (0, 0, 255)))


# --- transparency ---


@pytest.mark.parametrize(("background", "behind"), [("white", (255, 255, 255)), ("#204060", (32, 64, 96))])
def test_transparent_parts_show_the_background(background, behind):
    alpha = np.arange(0, 252, 7, dtype=np.uint8).reshape(6, 6)
    share = alpha[..., None] / 255
    expected = RGB * share + np.array(behind) * (1 - share)
    content = encoded(np.dstack([RGB, alpha]))
    assert np.abs(colour(content, background=background) - expected).max() <= 1
    expected = GREY[..., None] * share + np.array(behind) * (1 - share)
    content = encoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)]))
    assert np.abs(colour(content, background=background) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_grey_images_over_a_coloured_background_are_coloured_where_they_are_transparent(mode, tmp_path):
    grey_half = np.full((4, 4), 60, np.uint8)
    grey_half[:, 2:] = 0
    alpha = np.where(grey_half, 255, 0).astype(np.uint8)
    if mode == "P":
        image = Image.fromarray(np.where(grey_half, 1, 0).astype(np.uint8))
        image.putpalette([0, 0, 0, 60, 60, 60])
        content = encoded(image, transparency=0)
    elif mode == "I;16":
        content = png(big_endian(grey_half.astype(np.uint16) * 257), 16, 0, (b"tRNS", b"\0\0"))
    else:
        parts = [grey_half] * (3 if mode == "RGBA" else 1) + [alpha]
        content = encoded(Image.merge(mode, [Image.fromarray(part) for part in parts]))
    root = write(tmp_path / "transparent", a=content, b=content)
    red = data.load(f"folder:{root}", "train", 4, recipe=data.Recipe(background="red")).images
    np.testing.assert_array_equal(red[0, 0], [[60] * 3, [60] * 3, [255, 0, 0], [255, 0, 0]])
    grey = data.load(f"folder:{root}", "train", 4, recipe=data.Recipe(background="#4c4c4c")).images
    np.testing.assert_array_equal(grey[0, 0, :, 0], [60, 60, 76, 76])
    assert grey.shape[-1] == 1
    assert [data.channels(f"folder:{root}", colour) for colour in ("white", "red")] == [1, 3]
    opaque = write(tmp_path / "opaque", a=encoded(GREY), b=encoded(GREY))
    assert data.channels(f"folder:{opaque}", "red") == 1


def test_the_line_about_a_folder_tells_the_kind_that_its_images_have_over_the_background(tmp_path, capsys):
    content = encoded(np.zeros((4, 4, 4), np.uint8))
    root = write(tmp_path / "transparent", a=content, b=content)
    data.load(f"folder:{root}", "train", 4, recipe=data.Recipe(background="red"))
    assert "2 images (2 .png); colour," in capsys.readouterr().err


def test_palettes_can_be_transparent():
    image = Image.fromarray(np.array([[0, 1, 2, 2]] * 4, np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    blue, white, red = (0, 0, 255), (255, 255, 255), (255, 0, 0)
    for kind in ("png", "gif"):
        content = encoded(image, kind, transparency=1)
        np.testing.assert_array_equal(colour(content, 4)[0], [red, white, blue, blue])
    # A PNG gives each colour of a palette its own alpha.
    half = colour(encoded(image, transparency=bytes([255, 0, 128])), 4)[0]
    assert np.abs(half[2].astype(int) - [127, 127, 255]).max() <= 1 and (half[1] == 255).all()


def test_the_transparent_colour_of_a_png_has_the_depth_of_its_pixels():
    behind = {"background": "#204060"}
    values = np.array([[1000, 2000], [3000, 40000]], np.uint16)
    key = np.array([2000] * 3, ">u2").tobytes()
    found = colour(png(big_endian(values), 16, 0, (b"tRNS", key[:2])), 2, **behind)
    np.testing.assert_array_equal(found[0, 1], [32, 64, 96])
    assert (found[1, 1] == round(40000 / 257)).all() and (found[0, 0] == round(1000 / 257)).all()
    found = colour(png(big_endian(values, values, values), 16, 2, (b"tRNS", key)), 2, **behind)
    np.testing.assert_array_equal(found[0, 1], [32, 64, 96])
    assert (found[1, 1] == 40000 // 256).all()
    four_levels = np.array([[0b00011011]] * 4, np.uint8)
    found = colour(png(four_levels, 2, 0, (b"tRNS", b"\0\2")), 4, **behind)[0]
    np.testing.assert_array_equal(found, [[0] * 3, [85] * 3, [32, 64, 96], [255] * 3])


# --- upright ---


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_data_say(orientation, kind):
    # Exif 2.3, table 6: where the 0th row and the 0th column of the file are seen.
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:4, :8] = 250
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "webp" else {"quality": 100} if kind == "jpeg" else {}
    content = encoded(np.ascontiguousarray(stored), kind, exif=exif, **options)
    found = decoding.to_array(content, 8, 3, data.Recipe(crop="none")).astype(int)
    assert np.abs(found[:3, :3] - 250).max() < 6 and found[5:].max() < 6 and found[:, 5:].max() < 6


def test_broken_exif_data_make_no_broken_image():
    content = encoded(RGB, "jpeg", quality=100, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
    assert colour(content).shape == (6, 6, 3)


# --- crops ---


def test_the_usual_crop_of_a_square_image_is_the_image_itself():
    np.testing.assert_array_equal(colour(encoded(RGB)), RGB)
    resized = np.asarray(Image.fromarray(RGB).resize((4, 4), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(colour(encoded(RGB), 4), resized)


@pytest.mark.parametrize("size", [(108, 108), (140, 140), (178, 178)])
def test_a_crop_of_so_many_pixels_lies_in_the_centre(size):
    image = np.random.default_rng(1).integers(0, 256, (218, 178, 3), np.uint8)
    width, height = size
    top, left = (218 - height) // 2, (178 - width) // 2
    found = colour(encoded(image), width, crop=f"{width}x{height}")
    np.testing.assert_array_equal(found, image[top : top + height, left : left + width])


def test_without_a_crop_all_of_an_image_is_squeezed_into_the_square():
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (30, 60, 3), np.uint8))
    expected = np.asarray(image.resize((15, 15), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(colour(encoded(image), 15, crop="none"), expected)
    wide = image.crop((10, 5, 50, 25)).resize((15, 15), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(colour(encoded(image), 15, crop="40x20"), np.asarray(wide))


def test_an_image_smaller_than_its_crop_is_named(tmp_path):
    root = write(tmp_path / "small", **{name: encoded(RGB) for name in "abc"})
    message = r"^config.data.crop='7x6': allowed is centre, none, or at most 6x6 \(the pixels of .*[abc]\.png\)$"
    for on_broken in ("stop", "skip"):
        with pytest.raises(UserError, match=message):
            data.load(f"folder:{root}", "train", 4, recipe=data.Recipe(crop="7x6", on_broken=on_broken))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"crop": "center"}, "data.crop='center'.*centre, none, or WxH"),
        ({"crop": "0x8"}, "data.crop='0x8'"),
        ({"background": "whitish"}, "data.background='whitish'.*#rrggbb"),
        ({"background": "#ffffff80"}, "data.background"),
        ({"on_broken": "ignore"}, "data.on_broken='ignore'.*stop, skip"),
    ],
)
def test_impossible_recipes_are_refused(recipe, message):
    with pytest.raises(UserError, match=message):
        data.Recipe(**recipe)


def test_each_recipe_has_its_own_decoded_images(tmp_path):
    clear = np.dstack([RGB, np.zeros_like(GREY)])
    root = write(tmp_path / "clear", **{name: encoded(clear) for name in "abc"})
    values = [
        data.load(f"folder:{root}", "train", 4, recipe=data.Recipe(background=background)).images.max()
        for background in ("white", "black", "white")
    ]
    assert values == [255, 0, 255]


# --- broken images ---


def bomb():
    """The header of a PNG of 1,600 million pixels."""
    return png(np.zeros((1, 1), np.uint8), 8, 0).replace(struct.pack(">II", 1, 1), struct.pack(">II", 40000, 40000))


def headers_checksum(content):
    header = content[12:29]
    return content[:29] + struct.pack(">I", zlib.crc32(header)) + content[33:]


SMOOTH = Image.fromarray(RGB).resize((64, 64), Image.Resampling.BICUBIC)
BROKEN = {
    "cut.png": encoded(SMOOTH)[:600],
    "cut.jpg": encoded(SMOOTH, "jpeg")[:700],
    "cut.gif": encoded(SMOOTH, "gif")[:900],
    "cut.webp": encoded(SMOOTH, "webp", lossless=True)[:500],
    "cut.tif": encoded(SMOOTH, "tiff")[:3000],
    "cut.bmp": encoded(SMOOTH, "bmp")[:3000],
    "empty.png": b"",
    "page.jpg": b"<html>404</html>",
    "bomb.png": headers_checksum(bomb()),
    "float.tif": tiff(np.full((8, 8), 7.0, np.float32), 32, 3),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_one_line_with_its_name(name, tmp_path):
    root = write(tmp_path / "images", a=encoded(SMOOTH), b=encoded(SMOOTH))
    (root / name).write_bytes(BROKEN[name])
    with pytest.raises(UserError) as caught:
        for split in data.SPLITS:
            data.load(f"folder:{root}", split, 8)
    message = str(caught.value)
    assert f"{name} is no readable image" in message and "data.on_broken=skip" in message
    assert "\n" not in message and " at 0x" not in message and len(message) < 400
    assert not list(cache.directory("data").rglob(f"*{name}*"))


def test_skipping_says_how_many_were_left_out_and_keeps_labels_aligned(tmp_path, capfd):
    root = tmp_path / "images"
    for split, count in (("train", 12), ("test", 4)):
        for label, kind in enumerate(("dark", "light")):
            files = {f"{i:02d}": encoded(np.full((8, 8), 10 + 200 * label + i, np.uint8)) for i in range(count)}
            write(root / split / kind, **files)
    for name in ("train/dark/03.png", "train/light/00.png", "train/light/11.png", "test/dark/00.png"):
        (root / name).write_bytes(b"torn")
    train, test = (data.load(f"folder:{root}", split, 8, recipe=data.Recipe(on_broken="skip")) for split in data.SPLITS)
    dark = [10 + i for i in range(12) if i != 3]
    light = [210 + i for i in range(12) if i not in (0, 11)]
    np.testing.assert_array_equal(train.images[:, 0, 0, 0], dark + light)
    np.testing.assert_array_equal(train.labels, [0] * 11 + [1] * 10)
    np.testing.assert_array_equal(test.labels, [0] * 3 + [1] * 4)
    assert train.images.shape == (21, 8, 8, 1)
    error = capfd.readouterr().err
    assert "3 of the 24 images of the train split" in error and "03.png" in error
    assert "1 of the 8 images of the test split" in error
    assert train.digest == digest_of(train) and test.digest == digest_of(test)


def test_skipping_all_images_of_a_split_is_refused(tmp_path):
    root = write(tmp_path / "images", a=b"torn", b=b"torn", c=b"torn")
    with pytest.raises(UserError, match="none of the 2 images of a split can be read"):
        data.load(f"folder:{root}", "train", 8, recipe=data.Recipe(on_broken="skip"))


def test_an_unreadable_member_of_an_archive_can_be_skipped(tmp_path):
    import zipfile

    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for i in range(12):
            archive.writestr(f"{i}.png", encoded(np.full((8, 8), 100 + i, np.uint8)))
    content = path.read_bytes()
    place = content.index(encoded(np.full((8, 8), 105, np.uint8)))
    path.write_bytes(content[: place + 45] + b"\xff\xff" + content[place + 47 :])
    counts = [len(data.load(f"folder:{path}", s, 8, recipe=data.Recipe(on_broken="skip")).images) for s in data.SPLITS]
    assert sum(counts) == 11
    with pytest.raises(UserError, match=r"images\.zip:5\.png"):
        for split in data.SPLITS:
            data.load(f"folder:{path}", split, 8)


# --- names ---


def test_names_in_any_encoding_are_read_and_can_be_printed(tmp_path, capfd):
    root = tmp_path / "images"
    root.mkdir()
    names = [b"caf\xe9.png", "日本語.png".encode(), b"two\nlines.png", "e\u0301te\u0301.PNG".encode()]
    try:
        for name in names:
            with open(os.path.join(os.fsencode(root), name), "wb") as file:
                file.write(encoded(RGB))
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    assert sum(len(data.load(f"folder:{root}", split, 6).images) for split in data.SPLITS) == 4
    for name in names[:3]:
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(b"torn")
    recipe = data.Recipe(on_broken="skip")
    with pytest.raises(UserError) as caught:
        for split in data.SPLITS:
            data.load(f"folder:{root}", split, 6)
    str(caught.value).encode("utf-8")
    assert "\n" not in str(caught.value)
    capfd.readouterr()
    try:
        for split in data.SPLITS:
            data.load(f"folder:{root}", split, 6, recipe=recipe)
    except UserError as error:
        str(error).encode("utf-8")
    assert r"caf\udce9.png" in capfd.readouterr().err + str(caught.value)


# --- digests ---


def digest_of(dataset):
    """The digest as it is documented: images, their shape and the label names, labels."""
    digest = hashlib.sha256(np.ascontiguousarray(dataset.images).tobytes())
    n, size, _, channels = dataset.images.shape
    digest.update(repr((n, size, channels, dataset.label_names)).encode())
    if dataset.labels is not None:
        digest.update(dataset.labels.tobytes())
    return digest.hexdigest()


def test_equal_images_have_equal_digests_wherever_they_lie(tmp_path):
    images = {name: encoded(np.full((6, 6), i * 20, np.uint8)) for i, name in enumerate("abcdef")}
    roots = [write(tmp_path / name, **images) for name in ("here", "there")]
    here, there = (data.load(f"folder:{root}", "train", 6) for root in roots)
    assert here.digest == there.digest == digest_of(here)
    assert data.load(f"folder:{roots[0]}", "train", 6).digest == here.digest
    assert data.load(f"folder:{roots[0]}", "train", 5).digest != here.digest
    (roots[1] / "a.png").write_bytes(encoded(RGB[..., 0]))
    (roots[1] / "b.png").write_bytes(encoded(RGB[..., 1]))
    assert data.load(f"folder:{roots[1]}", "train", 6).digest != here.digest


def test_colour_profiles_are_not_applied():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    np.testing.assert_array_equal(colour(encoded(RGB, icc_profile=profile)), RGB)
