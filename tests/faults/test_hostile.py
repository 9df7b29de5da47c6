"""Data of strangers: it is read or refused in a line, in bounded memory; nothing runs or is written elsewhere."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import pickle
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import test_files
import watching
from PIL import Image

PROBE = Path(__file__).with_name("probe.py")
LIMIT = 400 << 20  # Bytes of memory beyond what the process has before it reads anything.


class Probe:
    """The process of `probe.py`, in directories of its own."""

    def __init__(self, root: Path):
        self.home, self.inputs, self.cache = root / "home", root / "inputs", root / "cache"
        self.place = self.inputs  # Of the test that goes on.
        for folder in (self.home, self.inputs, self.cache):
            folder.mkdir()
        own = dict.fromkeys(("JAXTICKETS_CACHE", "TMPDIR", "TFDS_DATA_DIR", "MPLCONFIGDIR"), str(self.cache))
        environment = {**os.environ, **own, "HOME": str(self.home), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, str(PROBE)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=self.home, text=True
        )
        self.least = self.ask("load", "nothing", allowed=None)["peak"]

    def ask(self, call: str, *arguments, allowed=("accepted", "refused"), limit: int = LIMIT) -> dict:
        """The probe's answer; fails unless the call was harmless and ended as one of `allowed`."""
        before = watching.listing(self.home, self.place)
        self.process.stdin.write(json.dumps({"call": call, "arguments": [str(one) for one in arguments]}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if allowed is not None:
            assert answer["outcome"] in allowed, answer
            assert answer["detail"].isprintable() or answer["outcome"] == "accepted", answer
            assert all(line.isprintable() for line in answer["said"].splitlines()), answer["said"]
            assert answer["seen"] == [] and watching.listing(self.home, self.place) == before
            assert answer["peak"] - self.least < limit, f"{answer['peak'] - self.least:,} bytes"
        return answer

    def refusal(self, call: str, *arguments, **options) -> str:
        """The line with which a call is refused."""
        return self.ask(call, *arguments, allowed=("refused",), **options)["detail"]


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    found = Probe(tmp_path_factory.mktemp("hostile"))
    yield found
    found.process.stdin.close()
    found.process.wait()


@pytest.fixture
def place(probe, request):
    """An empty directory for the files of a test."""
    folder = probe.inputs / f"{request.node.name[:40].replace('/', '_')}-{next(NUMBERS)}"
    folder.mkdir()
    probe.place = folder
    return folder


NUMBERS = itertools.count()


def png(shade: int = 0, size: int = 6) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((size, size), 255 - shade, np.uint8)).save(stream, "png")
    return stream.getvalue()


def counted(answer: dict) -> int:
    """The number of images of both splits."""
    return sum(json.loads(answer["detail"].partition("]")[0] + "]"))


def fill(folder, names=tuple(f"{letter}.png" for letter in "abcdefghij")):
    """Writes a few images, each another one."""
    for shade, name in enumerate(names):
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(png(shade))
    return folder


# Bombs.


def zeros(size: int, wbits: int) -> bytes:
    """`size` zeros, compressed about a thousand times by zlib; made in an instant, so its checksum is not right."""
    block = zlib.compressobj(9, wbits=-15)
    piece = block.compress(bytes(1 << 20)) + block.flush(zlib.Z_FULL_FLUSH)
    whole = piece * (size >> 20) + b"\x03\x00"
    if wbits > 16:  # gzip
        return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + whole + struct.pack("<II", 0, size % 2**32)
    return b"\x78\x9c" + whole + bytes(4) if wbits > 0 else whole


def zip_of(*members: tuple[str, bytes, int, int]) -> bytes:
    """A zip of members that are compressed already: (name, deflated, the size and the checksum that it claims)."""
    content, directory = b"", b""
    for name, packed, size, check in members:
        head = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, check, len(packed), size, len(name), 0)
        directory += (
            b"PK\1\2" + struct.pack("<H", 20) + head + struct.pack("<HHHII", 0, 0, 0, 0, len(content)) + name.encode()
        )
        content += b"PK\3\4" + head + name.encode() + packed
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(content), 0)
    return content + directory + b"PK\5\6" + end


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(width: int, height: int, *extra: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    size = (3 * width + 1) * height
    size += -size % (1 << 20)
    pixels = zeros(size, 15)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def npy_head(shape, kind="|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


BIG, LONG = 3 << 30, 300 << 20
BOMBS = {
    "zip.zip": lambda: zip_of(("a.png", zeros(BIG, -15), BIG, 0), ("b.png", zeros(1 << 20, -15), 1 << 20, 0)),
    "many.zip": lambda: zip_of(*((f"{i}.png", zeros(32 << 20, -15), 32 << 20, 0) for i in range(200))),
    "arrays.npz": lambda: zip_of(("x_train.npy", zeros(BIG, -15), BIG, 0)),
    "tar.tar.gz": lambda: zeros(LONG, 31),
    "bz2.tar.bz2": lambda: bz2.compress(bytes(80 << 20)),
    "xz.tar.xz": lambda: lzma.compress(bytes(80 << 20), preset=0),
    "train-images-idx3-ubyte.gz": lambda: zeros(LONG, 31),
    "images.tar.gz": lambda: head_of("a.png", LONG) + zeros(LONG, -15) + bytes(8),
}


def head_of(name: str, size: int) -> bytes:
    """The beginning of a .tar.gz whose member has this size."""
    head = tarfile.TarInfo(name)
    head.size = size
    packed = zlib.compressobj(9, wbits=31)
    return packed.compress(head.tobuf()) + packed.flush(zlib.Z_FULL_FLUSH)


@pytest.mark.parametrize("name", BOMBS)
def test_a_decompression_bomb_is_refused_in_a_line(name, probe, place):
    (place / name).write_bytes(BOMBS[name]())
    for path in (place / name, place):
        probe.refusal("load", f"files:{path}")


def test_bombs_in_bombs_are_refused(probe, place):
    inner = zip_of(("a.png", zeros(BIG, -15), BIG, 0))
    for name, content in {"outer.zip": {"inner.zip": inner}, "again.zip": {"x/inner.tar.gz": zeros(LONG, 31)}}.items():
        test_files.packed(place / name, content)
        assert "bomb" in probe.refusal("load", f"files:{place / name}")
    quine = {"r.zip": test_files.packed(place / "one.zip", {"r.zip": b"PK\5\6" + bytes(18)}).read_bytes()}
    probe.refusal("load", f"files:{test_files.packed(place / 'two.zip', quine)}")


def test_a_member_that_unpacks_to_more_than_it_claims_gives_no_more(probe, place):
    content = zip_of(*((f"{i}.png", zeros(BIG, -15), 100, zlib.crc32(bytes(100))) for i in range(3)))
    (place / "x.zip").write_bytes(content)
    probe.refusal("load", f"files:{place / 'x.zip'}")


@pytest.mark.parametrize(
    "content",
    [
        png_bomb(30_000, 30_000),
        png_bomb(13_000, 13_000),
        png_bomb(8_000, 8_000),
        png_bomb(16, 16, chunk(b"zTXt", b"x\0\0" + zeros(BIG, 15))),
        png_bomb(16, 16, chunk(b"iCCP", b"x\0\0" + zeros(BIG, 15))),
    ],
    ids=["900 MP", "169 MP", "64 MP", "text", "profile"],
)
def test_an_image_that_unpacks_to_too_much_is_refused_or_read_in_bounded_memory(content, probe, place):
    fill(place)
    for name in "uvwx":
        (place / f"{name}.png").write_bytes(content)
    line = probe.refusal("load", f"folder:{place}", limit=LIMIT)
    assert "bomb" in line or "pixels" in line or "too large" in line, line
    assert counted(probe.ask("skim", f"folder:{place}", allowed=("accepted",))) == 10


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_huge_file_that_is_called_an_image_is_not_read_into_memory(suffix, probe, place):
    fill(place)
    with open(place / f"x.{suffix}", "wb") as file:
        file.write(png())
        file.truncate(5 << 30)  # Sparse: it takes no room on the disk.
    assert f"x.{suffix}" in probe.refusal("load", f"folder:{place}")
    probe.ask("skim", f"folder:{place}", allowed=("accepted",))


# Paths that leave an archive or a directory.


def evil_tar(path: Path, kind: bytes, name: str, target: str = "") -> Path:
    """A tar of three images and one more entry of some kind."""
    with tarfile.open(path, "w") as archive:
        for shade in range(3):
            entry = tarfile.TarInfo(f"{shade}.png")
            entry.size = len(png(shade))
            archive.addfile(entry, io.BytesIO(png(shade)))
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.devmajor, entry.devminor = kind, target, 1, 5
        archive.addfile(entry)
        entry = tarfile.TarInfo(f"{name}/x.png" if kind == tarfile.SYMTYPE else "y.png")
        entry.size = len(png(9))
        archive.addfile(entry, io.BytesIO(png(9)))
    return path


@pytest.mark.parametrize(
    "name", ["../up.png", "/tmp/up.png", "a/../../up.png", "C:/up.png", "\\\\host\\up.png", "..\\up.png"]
)
def test_names_that_leave_an_archive_are_refused_or_kept_inside(name, probe, place):
    images = {name: png(1), "a.png": png(2), "b.png": png(3)}
    for path in (test_files.packed(place / "x.zip", images), test_files.tar(place / "x.tar.gz", images)):
        probe.ask("load", f"files:{path}")


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "../.."),
        (tarfile.SYMTYPE, "e.png"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "../../x"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CONTTYPE, ""),
    ],
)
def test_links_devices_and_pipes_in_a_tar_are_left_out(kind, target, probe, place):
    path = evil_tar(place / "x.tar", kind, "e.png", target)
    answer = probe.ask("skim", f"files:{path}", allowed=("accepted",))
    assert answer["detail"] == "[3, 1] []"


def test_links_in_a_zip_are_left_out(probe, place):
    with zipfile.ZipFile(place / "x.zip", "w") as archive:
        for shade in range(3):
            archive.writestr(f"{shade}.png", png(shade))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    answer = probe.ask("load", f"files:{place / 'x.zip'}", allowed=("accepted",))
    assert answer["detail"] == "[2, 1] []" and "1 links" in answer["said"]


def test_loops_of_links_pipes_sockets_and_devices_in_a_directory_are_left_out(probe, place):
    above, place = place, place / "images"
    place.mkdir()
    fill(place)
    fill(above, ["above.png"])
    links = {"self.png": "self.png", "up": "..", "dev.png": "/dev/zero"}
    for name, target in links.items():
        (place / name).symlink_to(target)
    (place / "one").symlink_to("two")
    (place / "two").symlink_to("one")
    os.mkfifo(place / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        home = os.getcwd()
        os.chdir(place)  # The path of a socket has at most 107 bytes.
        try:
            listening.bind("socket.png")
        finally:
            os.chdir(home)
        answer = probe.ask("load", f"files:{place}", allowed=("accepted",))
    assert counted(answer) == 11 and "links that lead nowhere" in answer["said"]


# Names.

NAMES = (
    *(
        b"new\nline",
        b"car\rriage",
        b"\x1b[31mred",
        b"\x1b]0;title\x07",
        b"\x1bc",
        b"bell\x07",
        b"tab\t",
        b"\x7f",
        b"\x9b31m",
    ),
    *(b"caf\xe9", b"\xff\xfe", "\u202egnp".encode(), "e\u0301".encode(), "\u2028".encode(), "日本語".encode()),
    *(b"<script>alert(1)<", b"'; drop", b'"', b"$(touch hurt)", b"`touch hurt`", b"%s%n", b"{0}", b"-rf", b" ", b"~"),
    *(b"x" * 250, "é".encode() * 125, b"con", b"a\\b"),
)


def test_any_name_of_an_image_or_a_class_is_read_and_printed_escaped(probe, place):
    fill(place, [name + b".png" for name in NAMES] + [b"train", b"x.png"][1:])
    probe.ask("load", f"folder:{place}", allowed=("accepted",))
    for name in NAMES:
        with open(os.path.join(os.fsencode(place), name + b".png"), "wb") as file:
            file.write(b"torn")
    answer = probe.ask("load", f"folder:{place}", allowed=("refused",))
    assert "is no readable image" in answer["detail"]
    answer = probe.ask("skim", f"folder:{place}")
    assert "\x1b" not in answer["said"] and "can't be read" in answer["said"] + answer["detail"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_of_a_directory_is_read_and_printed_escaped(name, probe, place):
    inner = os.path.join(os.fsencode(place), name)
    fill(os.fsdecode(inner), [b"%d/%d.png" % (i % 3, i) for i in range(6)])
    path = os.fsdecode(inner)
    answer = probe.ask("load", f"folder:{path}", allowed=("accepted",))
    assert "['0', '1', '2']" in answer["detail"] and "\x1b" not in answer["said"]
    (Path(path) / "0" / "0.png").write_bytes(b"torn")
    assert "is no readable image" in probe.refusal("load", f"folder:{path}")
    probe.refusal("load", f"files:{path}/nothing")


# Headers that promise too much, and code.


@pytest.mark.parametrize(
    "content",
    [
        struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**14, 2**14),
        struct.pack(">HBB3I", 0, 8, 3, 1, 2**20, 2**20),
        struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31) + bytes(100),
        struct.pack(">HBB3I", 0, 8, 255, 1, 1, 1),
    ],
)
def test_idx_files_of_2_to_the_40_images_take_no_memory(content, probe, place):
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (place / name).write_bytes(content)
    probe.refusal("load", f"files:{place}", limit=64 << 20)


def test_what_follows_the_images_of_an_idx_file_takes_no_memory(probe, place):
    content = struct.pack(">HBB3I", 0, 8, 3, 2, 8, 8) + np.random.default_rng(0).bytes(4 << 20) + bytes(500 << 20)
    with gzip.open(place / "train-images-idx3-ubyte.gz", "wb", 1) as file:
        file.write(content)
    assert "or more" in probe.refusal("load", f"files:{place}", limit=64 << 20)


HEADERS = (
    *("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 28, 28), }", "{'descr': '|O', 'shape': (3,)}"),
    "{'descr': '|u1', 'fortran_order': False, 'shape': __import__('os').system('touch hurt'), }",
    "{'descr': [('a', '|u1'), ('b', '|O')], 'fortran_order': False, 'shape': (4, 8, 8), }",
    *("(" * 9000, "[" * 3000 + "]" * 3000, "{" * 900, "-" * 9000 + "1", "'" + "a" * 9000 + "'", "9" * 5000, ""),
)


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[:30])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_headers_of_arrays_are_never_run_nor_believed(suffix, header, probe, place):
    text = header.encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(256)
    if suffix == "npz":
        test_files.packed(place / "x.npz", {"x_train.npy": content, "y_train.npy": content})
    else:
        (place / "x.npy").write_bytes(content)
    probe.refusal("load", f"files:{place}", limit=64 << 20)


def test_labels_with_numbers_that_are_no_characters_are_refused(probe, place):
    labels = np.array(["a", "b", "c"] * 4)
    labels.view(np.uint32)[3] = 0x110000
    np.savez(place / "x.npz", x_train=np.zeros((12, 8, 8), np.uint8), y_train=labels)
    assert "labels that are <U1 [12]" in probe.refusal("load", f"files:{place}")


class Harm:
    """Its pickle makes a directory where it is read."""

    def __reduce__(self):
        return os.mkdir, ("hurt",)


SUFFIXES = ("pkl", "npy", "npz", "pth", "png", "zip", "tar", "tar.gz", "gz", "ubyte", "bin", "safetensors", "txt")


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_of_any_name_runs_nothing(protocol, probe, place):
    fill(place)
    for suffix in SUFFIXES:
        path = place / f"x.{suffix}"
        path.write_bytes(pickle.dumps({"data": Harm()}, protocol))
        for name in (f"files:{path}", f"files:{place}"):
            probe.ask("load", name)
        path.rename(place / "hidden")
    assert not (probe.home / "hurt").exists()


@pytest.mark.parametrize("call", ["torch", "ticket"])
def test_a_pickle_in_the_place_of_weights_runs_nothing(call, probe, place):
    (place / "x.pth").write_bytes(pickle.dumps({"data": Harm()}))
    probe.refusal(call, place / "x.pth")
    assert not (probe.home / "hurt").exists()


def test_arrays_of_objects_and_cifars_of_code_run_nothing(probe, place):
    stream = io.BytesIO()
    np.savez(stream, x_train=np.array([Harm()] * 3, object), y_train=np.arange(3))
    (place / "x.npz").write_bytes(stream.getvalue())
    assert "objects" in probe.refusal("load", f"files:{place}")
    files, *_ = test_files.cifar("10 python", 2)
    for name in ("data_batch_2", "batches.meta"):
        harmful = files | {f"cifar-10-batches-py/{name}": pickle.dumps({"data": Harm(), "label_names": Harm()})}
        path = test_files.tar(place / f"{name}.tar.gz", harmful)
        assert "not allowed" in probe.refusal("load", f"files:{path}")
    assert not (probe.home / "hurt").exists()


def test_an_image_that_is_a_program_for_another_interpreter_is_not_run(probe, place):
    fill(place)
    (place / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(hurt) (w) file\nshowpage\n%%EOF\n"
    )
    (place / "y.jpg").write_bytes(b"%PDF-1.4\n1 0 obj << /OpenAction << /S /Launch /F (touch hurt) >> >>")
    (place / "z.gif").write_bytes(
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script><image href='http://x'/></svg>"
    )
    assert "x.png" in probe.refusal("load", f"folder:{place}")
    probe.ask("skim", f"folder:{place}", allowed=("accepted",))
