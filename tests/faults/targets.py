"""The targets of fuzzing: valid inputs of every reader, their mutations, and the calls that read them."""

import bz2
import contextlib
import functools
import gzip
import io
import json
import lzma
import pickle
import random
import struct
import tarfile
import types
import warnings
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import mutations
import numpy as np

ROOT = Path(__file__).parents[2]
Input = dict[str, bytes]


class Target(NamedTuple):
    """A reader of foreign files.

    Attributes:
      make: returns the function `generator -> {name: content}` that makes the files of a case.
      read: reads the files in a folder.
      share: how many of all cases it gets, in proportion; slow targets get few.
    """

    make: Callable[[], Callable[[random.Random], Input]]
    read: Callable[[Path], object]
    share: float = 1


def one_of(inputs: list[Input], change=mutations.of_bytes) -> Callable[[random.Random], Input]:
    """Cases that change one file of one of some inputs, or leave a file out."""
    every = [content for files in inputs for content in files.values()]

    def make(rng):
        files = dict(rng.choice(inputs))
        name = rng.choice(sorted(files))
        if len(files) > 1 and rng.random() < 0.03:
            del files[name]
        else:
            files[name] = change(rng, files[name], every)
        return files

    return make


# Images.


def images() -> Callable[[random.Random], Input]:
    from PIL import Image

    rng = np.random.default_rng(0)
    rgb, grey = rng.integers(0, 256, (9, 11, 3), np.uint8), rng.integers(0, 256, (9, 11), np.uint8)
    plain = [Image.fromarray(rgb), Image.fromarray(grey), Image.fromarray(grey > 128)]
    alpha, palette = plain[0].convert("RGBA"), plain[0].quantize(7)
    deep = Image.fromarray(grey.astype(np.uint16) * 256)
    floats = Image.fromarray(rng.random((9, 11), np.float32))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "png": [*plain, alpha, palette, deep],
        "jpeg": [*plain[:2], plain[0].convert("CMYK")],
        "gif": [palette, plain[1]],
        "bmp": [*plain, palette],
        "tiff": [*plain, alpha, deep, floats],
        "webp": [plain[0], alpha],
        "ppm": [*plain],
        "tga": [plain[0], alpha],
        "ico": [alpha],
        "jpeg2000": [plain[0]],
        "avif": [plain[0]],
        "qoi": [plain[0]],
        "pcx": [palette],
        "dds": [alpha],
        "sgi": [plain[0]],
    }
    inputs = []
    for kind, of_kind in kinds.items():
        for image in of_kind:
            extra = {"compression": "tiff_lzw"} if kind == "tiff" and image.mode == "RGB" else {}
            try:
                inputs.append({"image": _saved(image, kind, **extra)})
            except (KeyError, OSError, ValueError):  # Pillow was built without it.
                continue
    inputs.append({"image": _saved(plain[0], "jpeg", exif=exif, quality=95, progressive=True)})
    inputs.append({"image": _saved(palette, "gif", save_all=True, append_images=[palette.rotate(90)])})
    inputs.append({"image": _saved(plain[0], "png", exif=exif)})
    return one_of(inputs)


def _saved(image, kind, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read_image(folder: Path) -> None:
    from jaxtickets.data import decoding, image_files

    content = (folder / "image").read_bytes()
    with warnings.catch_warnings(action="ignore"):
        with contextlib.suppress(Exception):  # As where a folder's channels are looked up.
            image_files.is_colour(content)
        try:
            array = decoding.to_array(content, 8, 3)
        except Exception as error:
            raise decoding.broken_image("image", error) from None
    assert array.shape == (8, 8, 3) and array.dtype == np.uint8


# Archives.


FILES = {"a/one.bin": b"1" * 70, "a/two.bin": b"", "b/c/three.bin": bytes(range(256)), "zero.txt": b"hello"}


def archives() -> Callable[[random.Random], Input]:
    inputs = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name, content in FILES.items():
                archive.writestr(name, content)
        inputs.append({"x.zip": stream.getvalue()})
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
            for name, content in FILES.items():
                entry = tarfile.TarInfo(name if form == tarfile.USTAR_FORMAT else "l" * 120 + name)
                entry.size, entry.mtime = len(content), 1.5 if form == tarfile.PAX_FORMAT else 1
                archive.addfile(entry, io.BytesIO(content))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
                entry = tarfile.TarInfo(f"link{kind.decode()}")
                entry.type, entry.linkname = kind, "a/one.bin"
                archive.addfile(entry)
        tar = stream.getvalue()
        inputs += [{"x.tar": tar}, {"x.tgz": gzip.compress(tar, mtime=0)}]
    inputs += [{"x.tar.bz2": bz2.compress(tar)}, {"x.tar.xz": lzma.compress(tar, preset=0)}]
    plain = {"x.tgz": partial(gzip.compress, compresslevel=1, mtime=0), "x.tar.bz2": bz2.compress, "x.tar.xz": _xz}
    usual = one_of(inputs)

    def make(rng):
        files = usual(rng)
        for name, content in files.items():
            if name == "x.tar" and rng.random() < 0.7:  # Most changes of a header are found by its checksum.
                files[name] = _with_checksums(content)
            elif name in plain and rng.random() < 0.5:
                files[name] = plain[name](_with_checksums(mutations.of_bytes(rng, tar)))
        return files

    return make


def _xz(content: bytes) -> bytes:
    return lzma.compress(content, preset=0)


def _with_checksums(tar: bytes) -> bytes:
    """A tar whose first headers have the checksums of what is in them now."""
    content = bytearray(tar)
    for place in range(0, min(len(content), 1 << 15) - 511, 512):
        head = content[place : place + 512]
        if head[257:262] == b"ustar":
            head[148:156] = b" " * 8
            content[place + 148 : place + 156] = f"{sum(head):06o}\0 ".encode()
    return bytes(content)


def read_archive(folder: Path) -> None:
    from jaxtickets.data.trees import open_tree

    for path in folder.iterdir():
        tree = open_tree(path)
        for name in tree.names:
            assert not name.startswith("/") and ".." not in name.split("/"), name
            tree.read(name)
        hash(tree)


# Data sets in files.


@functools.cache
def data_sets() -> list[Input]:
    import test_files

    idx = test_files.mnist(train=6, test=3)[0]
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in idx.items()}
    emnist = test_files.mnist("emnist-digits-{split}-{what}-idx{n}-ubyte", 5, 2)[0]
    emnist = {name.replace("t10k", "test"): content for name, content in emnist.items()}
    emnist["emnist-digits-mapping.txt"] = b"".join(b"%d %d\n" % (i, 48 + i) for i in range(10))
    grey, colour = test_files.images(0, 6, 4, 5), test_files.images(1, 6, 5, 4, 3)
    labels = np.arange(6) % 3
    arrays = [
        {"a.npz": test_files.npz(x_train=grey, y_train=labels, x_test=grey[:2], y_test=labels[:2])},
        {"a.npz": test_files.npz(True, images=(grey / 255).astype(np.float32), labels=np.eye(3)[labels])},
        {"x_train.npy": test_files.npy(colour), "y_train.npy": test_files.npy(labels.astype("U3"))},
        {"arr.npy": test_files.npy(np.asfortranarray(grey.astype(">i4")))},
    ]
    lists, jpegs, *_ = test_files.celeba(9)
    small = {name: _smaller(content) for name, content in jpegs.items()}
    tables, _, *_ = test_files.celeba(9, "csv")
    cifars = [
        {name.rpartition("/")[2]: content for name, content in test_files.cifar(kind, 2)[0].items()}
        for kind in ("10 python", "10 binary", "100 python", "100 binary")
    ]
    again = dict(cifars[0])  # As Python 3 pickles it.
    rng = np.random.default_rng(0)
    for protocol, name in enumerate(sorted(again)):
        found = {"label_names": [f"c{i}" for i in range(10)]}
        if name != "batches.meta":
            found = {"data": rng.integers(0, 256, (2, 3072), np.uint8), "labels": [1, 2]}
        again[name] = pickle.dumps(found, protocol % 5)
    return [idx, packed, emnist, *arrays, {**lists, **small}, {**tables, **small}, *cifars, again]


def _smaller(content):
    from PIL import Image

    return _saved(Image.open(io.BytesIO(content)).resize((5, 6)), "jpeg")


def sets() -> Callable[[random.Random], Input]:
    return one_of(data_sets(), _any_change)


def _any_change(rng, content, others):
    is_table = content[:400].isascii() and b"\n" in content[:400] and b"\0" not in content
    if is_table and rng.random() < 0.7:
        return mutations.of_cells(rng, content, rng.choice((",", " ")))
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.6:
        return gzip.compress(mutations.of_bytes(rng, gzip.decompress(content), others), 1, mtime=0)
    return mutations.of_bytes(rng, content, others)


def read_set(folder: Path) -> None:
    from jaxtickets import data
    from jaxtickets.data import decoding
    from jaxtickets.data.readers import _look

    _look.cache_clear()
    source = data.find(f"files:{folder}")
    source.verify()
    assert source.channels in (1, 3) and source.classes >= 0
    for split in data.SPLITS:
        source.key(split)
        examples = source.open(split)
        for image, _, name in examples.read(0, min(examples.count, 4)):
            try:
                decoding.to_array(image() if callable(image) else image, 8, source.channels)
            except Exception as error:
                raise decoding.broken_image(name, error) from None


def pickles() -> Callable[[random.Random], Input]:
    import test_files

    rng = np.random.default_rng(0)
    value = {"data": rng.integers(0, 256, (2, 5), np.uint8), "labels": [1, 200_000], "f": np.arange(4.0)[::2], "t": "é"}
    inputs = [{"pickle": pickle.dumps(value, protocol)} for protocol in range(5)]
    inputs.append({"pickle": test_files.python_2({"data": value["data"], "labels": [1, 2], "batch_label": "x"})})
    # What pickles can do beside describing data.
    attacks = [b"cos\nsystem\n(S'true'\ntR", b"c__builtin__\neval\n(S'1'\ntR", b"\x8c\x02os\x8c\x06system\x93"]
    attacks += [
        b"(S'true'\nios\nsystem\n",
        b"r\xff\xff\xff\x7f",
        b"\x81",
        b"}b",
        b"\x92",
        b"P1\n",
        b"Q",
        b"\x82\x01",
        b"\x97\x98",
    ]
    usual = one_of(inputs)

    def make(rng):
        files = usual(rng)
        if rng.random() < 0.4:
            content = bytearray(files["pickle"])
            place = rng.randrange(len(content) + 1)
            content[place:place] = rng.choice(attacks)
            files["pickle"] = bytes(content)
        return files

    return make


def read_pickle(folder: Path) -> None:
    from jaxtickets.data.readers import pickles as reader
    from jaxtickets.errors import UserError

    try:
        reader.load((folder / "pickle").read_bytes())
    except pickle.UnpicklingError as error:  # The readers of CIFAR make a line of it.
        raise UserError(f"{type(error).__name__}: {error}") from None


# Files of PyTorch.


def torch_files() -> Callable[[random.Random], Input]:
    import test_inception

    inputs = [{"f.pth": test_inception.small(form)} for form in test_inception.FORMATS]
    attacks, usual = list(test_inception.ATTACKS.values()), one_of(inputs)

    def make(rng):
        if rng.random() < 0.3:  # An archive has checksums: the pickle is changed before it is packed.
            entries = {
                "a": test_inception.described("0", 12, 2, (2, 3), (1, 4)),
                "b": rng.choice(attacks)
                if rng.random() < 0.2
                else test_inception.described("1", 1, 0, (), (), "LongStorage"),
            }
            changed = mutations.of_bytes(rng, test_inception.dictionary(entries))
            storages = {"0": np.arange(12, dtype="<f4"), "1": np.array([7], "<i8")}
            return {"f.pth": test_inception.archive(changed, storages)}
        return usual(rng)

    return make


def read_torch(folder: Path) -> None:
    from jaxtickets.metrics import torch_file

    for array in torch_file.read(folder / "f.pth").values():
        array.sum()


# Tickets and weights.


@functools.cache
def networks() -> Input:
    """A ticket file with trained weights, and a file of weights, of a small network; and the config of its run."""
    import tempfile

    import jax
    import jax.numpy as jnp

    from jaxtickets import config as config_lib
    from jaxtickets import tickets, trained
    from jaxtickets.train import TrainState

    rng = np.random.default_rng(0)
    params = {"encoder": {"a": {"kernel": rng.normal(size=(3, 4)).astype(np.float32), "bias": np.ones(4, np.float32)}}}
    masks = {"encoder": {"a": {"kernel": rng.random((3, 4)) < 0.5, "bias": None}}}
    batch_stats = {"encoder": {"norm": {"mean": np.zeros(4, np.float32)}}}
    config = config_lib.to_dict(config_lib.get_config())
    network = {"model": config["model"], "channels": 1, "classes": 0}
    state = TrainState(
        step=jnp.int32(3),
        seed=jnp.uint32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state={"encoder": {"mu": params["encoder"]}},
        average={},
        movement={},
    )
    with tempfile.TemporaryDirectory() as folder:
        weights, ticket = Path(folder) / "000.safetensors", Path(folder) / "ticket.safetensors"
        trained.save(weights, params, batch_stats, masks, network)
        metadata = {"config": config, "verdict": {"winning_round": 1, "metric": "fd"}}
        own = trained.Trained(params, batch_stats, network)
        tickets.save_ticket(ticket, masks, jax.device_get(state), trained=own, metadata=metadata)
        return {"weights": weights.read_bytes(), "ticket": ticket.read_bytes()}


def opened(content: bytes) -> tuple[dict, bytes]:
    """The header of a safetensors file, and the bytes of its tensors."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def closed(header: dict, values: bytes) -> bytes:
    """The inverse of `opened`."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + values


def _changed_tensors(rng, content, others):
    """Changes bytes, the header, the JSON in its metadata, or the tensors; mostly with the checksum of the result."""
    act = rng.random()
    if act < 0.2:
        return mutations.of_bytes(rng, content, others)
    header, values = opened(content)
    about = header["__metadata__"]
    if act < 0.35:
        return closed(mutations.of_json(rng, header), values)
    if act < 0.55 and "about" in header:
        return _changed_about(rng, content)
    if act < 0.75:
        (key,) = about
        whole = json.loads(about[key])
        config = whole.pop("metadata", None) if rng.random() < 0.8 else None  # Most of the text.
        changed = mutations.of_json(rng, whole)
        if config is not None and isinstance(changed, dict):
            changed["metadata"] = config
        about[key] = json.dumps(changed)
    else:  # Tensors of other names, shapes and types that fill the file as the format wants it.
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry = header.pop(name)
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        widths = {"U8": 1, "I8": 1, "F32": 4, "F64": 8, "BF16": 2, "BOOL": 1, "I64": 8}
        kind = rng.choice([kind for kind, width in widths.items() if size % width == 0])
        count = size // widths[kind]
        entry |= {"dtype": kind, "shape": rng.choice(([count], [1, count], [count, 1], [count, 1, 1, 1]))}
        if rng.random() < 0.5:
            parts = name.split("/")
            parts[rng.randrange(len(parts))] = rng.choice((*mutations.TEXTS[:-1], "kernel", "bias"))
            name = "/".join(parts).encode("utf-8", "replace").decode()
        header[name] = entry
    return with_checksum(header, values)


def _changed_about(rng, content):
    """Changes the JSON that a ticket file says of its arrays."""
    from safetensors.numpy import load, save

    header, _ = opened(content)
    arrays = load(content)
    about = json.loads(zlib.decompress(arrays["about"].tobytes()))
    config = about.pop("metadata") if rng.random() < 0.8 else None  # Most of the text.
    about = mutations.of_json(rng, about)
    if config is not None and isinstance(about, dict):
        about["metadata"] = config
    arrays["about"] = np.frombuffer(zlib.compress(json.dumps(about).encode()), np.uint8)
    return with_checksum(*opened(save(arrays, metadata=header["__metadata__"])))


def with_checksum(header: dict, values: bytes) -> bytes:
    """A safetensors file with the checksum of its content, where it can have one."""
    from safetensors.numpy import load

    from jaxtickets import checksums

    try:
        arrays, metadata = load(closed(header, values)), header["__metadata__"]
        (key,) = metadata
        about = json.loads(metadata[key])
        del about["checksum"]
        about["checksum"] = checksums.of_arrays(arrays, json.dumps(about, sort_keys=True))
        metadata[key] = json.dumps(about)
    except Exception:  # It is too broken for that.
        pass
    return closed(header, values)


def weights() -> Callable[[random.Random], Input]:
    return one_of([{"weights/000.safetensors": networks()["weights"]}], _changed_tensors)


def read_weights(folder: Path) -> None:
    from jaxtickets import trained
    from jaxtickets.workdir import Workdir

    for round_ in Workdir(folder).list_weights() or [0]:
        trained.load(Workdir(folder), round_)


def tickets() -> Callable[[random.Random], Input]:
    return one_of([{"ticket.safetensors": networks()["ticket"]}], _changed_tensors)


def read_ticket(folder: Path) -> None:
    from jaxtickets import tickets as reader

    path, refusals = folder / "ticket.safetensors", []
    from jaxtickets.errors import UserError

    for read in (reader.load_ticket, reader.load_trained, partial(reader.load_state, like=_like())):
        try:
            read(path)
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


@functools.cache
def _like():
    """The train state that the ticket has been made from, by its structure."""
    import jax.numpy as jnp

    from jaxtickets.train import TrainState

    kernel, bias = np.zeros((3, 4), np.float32), np.zeros(4, np.float32)
    params = {"encoder": {"a": {"kernel": kernel, "bias": bias}}}
    return TrainState(
        step=jnp.int32(0),
        seed=jnp.uint32(0),
        params=params,
        batch_stats={"encoder": {"norm": {"mean": bias}}},
        opt_state={"encoder": {"mu": params["encoder"]}},
        average={},
        movement={},
    )


# Overrides of a config.


def overrides() -> Callable[[random.Random], Input]:
    from jaxtickets import config as config_lib

    known = config_lib.fields()
    files = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    odd = [
        "config.nothing",
        "config",
        "config.",
        "config.data",
        "config.model.channels.generator",
        "workdir",
        "nothing",
    ]
    odd += ["from_round", "config.prune.rate.x", "config..", "config.__class__", "config.get", "flagfile", "help"]

    def value_of(rng, field):
        chosen = rng.random()
        if chosen < 0.35:
            return rng.choice(mutations.VALUES)
        if chosen < 0.6:
            words = re_words(field.check.allowed())
            return rng.choice(words) if words else ""
        if chosen < 0.8:
            return field.default
        if chosen < 0.9:
            return tuple(rng.choice(mutations.VALUES) for _ in range(rng.randrange(4)))
        return mutations.of_bytes(rng, str(field.default).encode()).decode("utf-8", "surrogateescape")

    def make(rng):
        arguments = [f"--config=configs/{rng.choice(files)}.py{rng.choice((':quick', ':quick', ''))}"]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            name = rng.choice(sorted(known))
            flag = f"config.{name}" if rng.random() < 0.93 else rng.choice(odd)
            value = str(value_of(rng, known[name]))
            arguments.append(f"--{flag}={value}" if rng.random() < 0.97 else f"--{flag}")
        return {"arguments": "\0".join(arguments).encode("utf-8", "surrogatepass")}

    return make


def re_words(text: str) -> list[str]:
    """The words of a text that might be values."""
    return [word.strip(",.()") for word in text.split()]


def read_arguments(folder: Path) -> None:
    import sys

    from absl import flags
    from ml_collections import config_flags

    from jaxtickets import cli
    from jaxtickets import config as config_lib

    arguments = (folder / "arguments").read_bytes().decode("utf-8", "surrogatepass").split("\0")
    arguments = [
        argument.replace("configs/", f"{ROOT}/configs/", 1) if i == 0 else argument
        for i, argument in enumerate(arguments)
    ]
    defined = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, flag_values=defined)
    flags.DEFINE_string("workdir", None, "", flag_values=defined)
    flags.DEFINE_integer("from_round", None, "", flag_values=defined)
    of_cli = types.SimpleNamespace(FLAGS=defined, Error=flags.Error)
    with mock.patch.object(cli, "flags", of_cli), mock.patch.object(sys, "argv", ["main", *arguments]):
        cli._parse_with_config(["main", *arguments])
        config_lib.validate(config.value, 1)


# Workdirs.


@functools.cache
def workdirs() -> list[Input]:
    import tempfile

    import report_workdirs

    found = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        report_workdirs.write_workdir(folder / "one", rounds=3, winner=1)
        report_workdirs.write_searches(
            report_workdirs.write_workdir(folder / "bird", rounds=3, winner=1), epochs=3, emerged=(1, 2)
        )
        report_workdirs.write_seeds(folder / "seeds", rounds=(5, 5))
        references = {"fd_digits": {"held_out": 1.0, "untrained": 90.0, "held_out_images": 100, "training_images": 900}}
        (folder / "one" / "references.json").write_text(json.dumps(references))
        about = {"title": "imp", "columns": {}, "metrics": {"fd_digits": {"label": "a distance", "better": "lower"}}}
        config = json.loads((folder / "one" / "config.json").read_text())
        (folder / "one" / "config.json").write_text(json.dumps(config | {"about": about}))
        for place in ("one", "bird", "seeds"):
            files = {}
            for path in sorted((folder / place).rglob("*")):
                if path.is_file():
                    content = path.read_bytes()
                    if path.name == "metrics.jsonl":
                        content = b"".join(content.splitlines(keepends=True)[::30])
                    files[path.relative_to(folder / place).as_posix()] = content
            found.append(files)
    return found


def of_workdirs() -> Callable[[random.Random], Input]:
    inputs = workdirs()

    def change(rng, content, others):
        if content[:1] == b"{" and content.count(b"\n{") == 0 and rng.random() < 0.85:
            return mutations.json_bytes(rng, json.loads(content))
        if content[:1] == b"{" and rng.random() < 0.85:
            rows = content.splitlines()
            at = rng.randrange(len(rows))
            rows[at] = mutations.json_bytes(rng, json.loads(rows[at]))
            return b"\n".join(rows)
        if content[:1] not in (b"\x89", b"<") and rng.random() < 0.8:
            return mutations.of_cells(rng, content)
        return mutations.of_bytes(rng, content, others)

    return one_of(inputs, change)


NO_PLOT = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>'


def read_workdir(folder: Path) -> None:
    from jaxtickets import report
    from jaxtickets.progress import show
    from jaxtickets.report.page import Drawn, page

    show(report.summary(folder))
    page(report.read(folder), Drawn(defaultdict(lambda: NO_PLOT), []))  # `draw_workdir` draws.


def draw_workdir(folder: Path) -> None:
    from jaxtickets import report

    report.build(folder)
    report.compare([folder], folder / "out")
    report.levels([folder], folder / "out")


TARGETS = {
    "images": Target(images, read_image, 3),
    "archives": Target(archives, read_archive, 3),
    "sets": Target(sets, read_set, 2),
    "pickles": Target(pickles, read_pickle, 4),
    "torch": Target(torch_files, read_torch, 3),
    "weights": Target(weights, read_weights, 3),
    "tickets": Target(tickets, read_ticket, 3),
    "overrides": Target(overrides, read_arguments, 0.5),
    "workdirs": Target(of_workdirs, read_workdir, 2),
    "reports": Target(of_workdirs, draw_workdir, 0.02),
}
