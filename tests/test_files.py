"""Data sets in files that people have: each format as its authors publish it, and what is wrong with such files."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtickets import data
from jaxtickets.data.readers import arrays, pickles
from jaxtickets.errors import UserError

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def private_places(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))


def images(seed, count, *shape):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def classes_of(seed, count, classes=10):
    return np.random.default_rng(seed).integers(0, classes, count)


def load(path, size, split=None):
    """Both splits of files:PATH as they are, without resizing, or one."""
    if split:
        return data.load(f"files:{path}", split, size)
    return tuple(data.load(f"files:{path}", split, size) for split in data.SPLITS)


def refusal(path, *parts, size=8):
    """The one line with which files:PATH is refused; it must contain `parts`."""
    with pytest.raises(UserError) as caught:
        load(path, size)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    for part in parts:
        assert part in message, message
    return message


def tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def packed(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpacked(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


WAYS = {"directory": (unpacked, "d"), "zip": (packed, "x.zip"), "tar.gz": (tar, "x.tar.gz")}


def place(way, folder, files):
    write, name = WAYS[way]
    return write(folder / name, files)


# --- IDX ---


def idx(array, kind=8):
    """An array in the format of yann.lecun.com/exdb/mnist."""
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def mnist(name="{split}-{what}-idx{n}-ubyte", train=30, test=10, **options):
    """The four files of a data set like MNIST, and its arrays."""
    arrays = {
        "train": (images(0, train, 8, 8), classes_of(1, train)),
        "t10k": (images(2, test, 8, 8), classes_of(3, test)),
    }
    files = {}
    for split, (pixels, labels) in arrays.items():
        files[name.format(split=split, what="images", n=3)] = idx(pixels, **options)
        files[name.format(split=split, what="labels", n=1)] = idx(labels, **options)
    return files, arrays["train"], arrays["t10k"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    ["{split}-{what}-idx{n}-ubyte", "{split}-{what}.idx{n}-ubyte", "MNIST/raw/{split}-{what}-idx{n}-ubyte.gz"],
)
def test_idx_files_are_read_by_their_names_and_headers(name, way, tmp_path, capsys):
    files, *expected = mnist(name)
    files = {name: gzip.compress(content) if name.endswith("gz") else content for name, content in files.items()}
    path = place(way, tmp_path, {**files, "readme.txt": b"hello"})
    assert data.channels(f"files:{path}") == 1 and data.classes(f"files:{path}") == 10
    for found, (pixels, labels) in zip(load(path, 8), expected, strict=True):
        np.testing.assert_array_equal(found.images[..., 0], pixels)
        np.testing.assert_array_equal(found.labels, labels)
        assert found.label_names == tuple("0123456789")
    assert "IDX files: 30 training and 10 test images of 8x8 pixels, grey, 10 classes" in capsys.readouterr().err


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_the_published_one():
    source = data.find(f"files:{FASHION}")
    assert (source.channels, source.classes) == (1, 10)
    for split, count, name in (("train", 60_000, "train"), ("test", 10_000, "t10k")):
        examples = source.open(split)
        pixels, labels, _ = zip(*examples.read(0, examples.count), strict=True)
        pixels = np.stack(pixels)
        assert set(np.bincount(labels)) == {count // 10}
        raw = gzip.decompress((FASHION / f"{name}-images-idx3-ubyte.gz").read_bytes())
        np.testing.assert_array_equal(pixels.ravel(), np.frombuffer(raw, np.uint8, offset=16))
        if split == "train":  # Mean and standard deviation, as its users normalise with.
            np.testing.assert_allclose([pixels.mean() / 255, pixels.std() / 255], [0.2860, 0.3530], atol=1e-4)


def test_files_that_are_there_packed_and_unpacked_are_read_once(tmp_path):
    files, (pixels, _), _ = mnist()
    both = {**files, **{f"{name}.gz": gzip.compress(content) for name, content in files.items()}}
    np.testing.assert_array_equal(load(unpacked(tmp_path / "d", both), 8, "train").images[..., 0], pixels)


def test_images_of_colour_in_idx_have_three_channels(tmp_path):
    pixels = images(0, 20, 8, 8, 3)
    path = unpacked(tmp_path / "d", {"train-images-idx4-ubyte": idx(pixels), "test-images-idx4-ubyte": idx(pixels)})
    assert data.channels(f"files:{path}") == 3 and data.classes(f"files:{path}") == 0
    found = load(path, 8, "test")
    np.testing.assert_array_equal(found.images, pixels)
    assert found.labels is None


def emnist(split, train=20):
    files, *arrays = mnist(f"emnist-{split}" + "-{split}-{what}-idx{n}-ubyte", train, 8)
    return {name.replace("t10k", "test"): content for name, content in files.items()}, arrays


def test_emnist_is_turned_and_its_splits_are_chosen_by_name(tmp_path):
    letters, (train, _) = emnist("letters")
    digits, _ = emnist("digits", train=25)
    mapping = b"".join(b"%d %d %d\n" % (i, 65 + i, 97 + i) for i in range(10))
    path = unpacked(tmp_path / "d", {**letters, **digits, "emnist-letters-mapping.txt": mapping})
    refusal(path, "2 data sets", f"files:{path}/emnist-letters", f"files:{path}/emnist-digits")
    found = load(f"{path}/emnist-letters", 8, "train")
    np.testing.assert_array_equal(found.images[..., 0], train[0].transpose(0, 2, 1))
    assert found.label_names == tuple("ABCDEFGHIJ")
    assert len(load(f"{path}/emnist-digits", 8, "train").images) == 25
    assert len(load(packed(tmp_path / "gzip.zip", {**letters, **digits}) / "emnist-letters", 8, "train").images) == 20


def test_data_sets_in_neighbouring_directories_are_chosen_by_the_directory(tmp_path):
    files, *_ = mnist("MNIST/raw/{split}-{what}-idx{n}-ubyte")
    others, *_ = mnist("KMNIST/raw/{split}-{what}-idx{n}-ubyte", train=12)
    path = unpacked(tmp_path / "d", {**files, **others})
    refusal(path, f"files:{path}/KMNIST/raw", f"files:{path}/MNIST/raw")
    assert len(load(path / "KMNIST" / "raw", 8, "train").images) == 12


def test_labels_that_start_at_one_become_classes_from_zero(tmp_path):
    pixels, labels = images(0, 40, 8, 8), np.arange(40) % 26 + 1
    files = {"train-images-idx3-ubyte": idx(pixels), "train-labels-idx1-ubyte": idx(labels)}
    path = unpacked(tmp_path / "d", files)
    assert data.classes(f"files:{path}") == 26
    train = load(path, 8, "train")
    assert train.label_names[0] == "1" and train.label_names[25] == "26"
    by_image = {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    assert [by_image[image.tobytes()] - 1 for image in train.images] == train.labels.tolist()


def test_without_a_test_split_a_tenth_is_held_out_whatever_the_order(tmp_path):
    pixels = images(0, 200, 8, 8)
    pixels[100:150] = pixels[0]  # Copies of one image stay on one side.
    order = np.random.default_rng(1).permutation(200)
    splits = []
    for name, array in (("a", pixels), ("b", pixels[order])):
        train, test = load(unpacked(tmp_path / name, {"train-images-idx3-ubyte": idx(array)}), 8)
        assert len(train.images) + len(test.images) == 200
        splits.append(({i.tobytes() for i in train.images}, {i.tobytes() for i in test.images}))
    assert splits[0] == splits[1] and not splits[0][0] & splits[0][1]
    assert 20 <= 200 - len(train.images) < 80


@pytest.mark.parametrize("kind", ["idx", "npy"])
def test_all_images_of_a_file_come_in_their_own_order(kind, tmp_path):
    pixels = images(0, 50, 8, 8)
    files = {"train-images-idx3-ubyte": idx(pixels)} if kind == "idx" else {"x.npy": npy(pixels)}
    (examples,) = data.find(f"files:{unpacked(tmp_path / 'd', files)}").open_all()
    found = np.stack([image for image, _, _ in examples.read(0, examples.count)])
    np.testing.assert_array_equal(found[..., 0], pixels)


def test_all_images_of_celeba_come_in_the_order_of_their_names(tmp_path):
    lists, jpegs, parts, _ = celeba()
    # The first and the last one change places: the test split is no longer behind the train split.
    swap = {"000001.jpg 0": "000001.jpg 2", "000012.jpg 2": "000012.jpg 0"}
    text = lists["list_eval_partition.txt"].decode()
    for before, after in swap.items():
        text = text.replace(before, after)
    path = unpacked(tmp_path / "d", {**lists, "list_eval_partition.txt": text.encode(), **jpegs})
    (examples,) = data.find(f"files:{path}").open_all()
    found = [name.rpartition("/")[2] for _, _, name in examples.read(0, examples.count)]
    assert found == [f"{i:06d}.jpg" for i in range(1, 13) if i not in (8, 9)]


def broken_idx(change):
    files, *_ = mnist()
    change(files)
    return files


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda f: f.update({"train-images-idx3-ubyte": f["train-images-idx3-ubyte"][:-1]}),
            ["30x8x8 = 1,920", "1,919"],
        ),
        (lambda f: f.update({"train-images-idx3-ubyte": f["train-images-idx3-ubyte"] + b"1"}), ["1,920", "1,921"]),
        (lambda f: f.update({"train-images-idx3-ubyte": b""}), ["no IDX file", "nothing"]),
        (lambda f: f.update({"train-images-idx3-ubyte": b"\0\0\x0d\3" + bytes(20)}), ["00 00 0d 03"]),
        (lambda f: f.update({"train-images-idx3-ubyte": b"<!DOCTYPE html>" * 9}), ["no IDX file", "3c 21 44 4f"]),
        (lambda f: f.update({"train-images-idx3-ubyte": idx(images(0, 9, 8, 8))}), ["9 images", "30 labels"]),
        (lambda f: f.update({"t10k-images-idx3-ubyte": idx(images(0, 10, 9, 8))}), ["one shape"]),
        (lambda f: f.update({"train-images-idx3-ubyte": idx(np.zeros((0, 8, 8)))}), ["empty"]),
        (lambda f: f.update({"train-images-idx3-ubyte": b"\0\0\x08\3" + b"\xff" * 12}), ["t10k", "labels"][1:]),
        (lambda f: f.pop("train-images-idx3-ubyte"), ["lacks", "train-images-idx3-ubyte.gz"]),
        (lambda f: f.pop("t10k-labels-idx1-ubyte"), ["lacks", "test"]),
        (lambda f: f.update({"training-labels-idx1-ubyte": b""}), ["2 data sets"]),
    ],
)
def test_broken_idx_files_are_one_line(change, parts, tmp_path):
    refusal(unpacked(tmp_path / "d", broken_idx(change)), *parts)


def test_a_truncated_gzip_is_one_line(tmp_path):
    files, *_ = mnist()
    files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    files["train-images-idx3-ubyte.gz"] = files["train-images-idx3-ubyte.gz"][:-200]
    refusal(unpacked(tmp_path / "d", files), "train-images-idx3-ubyte.gz", "ends too early")


# --- CIFAR ---


def python_2(value):
    """A value as Python 2's cPickle with protocol 2 wrote it into the published archives; texts are byte strings."""

    def opcodes(value):
        if isinstance(value, dict):
            return b"}(" + b"".join(opcodes(key) + opcodes(item) for key, item in value.items()) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        if isinstance(value, int):
            return b"K" + bytes([value])
        if isinstance(value, str):
            return b"U" + bytes([len(value)]) + value.encode()
        content = value.tobytes()
        shape = b"".join(b"M" + struct.pack("<H", n) for n in value.shape)
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01(" + shape + b"t"
        kind = b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        return made + kind + b"\x89T" + struct.pack("<I", len(content)) + content + b"tb"

    return b"\x80\x02" + opcodes(value) + b"."


def test_the_writer_of_these_tests_writes_what_python_can_read():
    value = {"data": images(0, 5, 12), "labels": [1, 2], "batch_label": "one"}
    for read in (lambda content: pickle.loads(content, encoding="bytes"), pickles.load):
        found = {key.decode() if isinstance(key, bytes) else key: item for key, item in read(python_2(value)).items()}
        np.testing.assert_array_equal(found["data"], value["data"])
        assert (found["labels"], found["batch_label"]) == ([1, 2], b"one")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_dictionaries_that_python_3_has_pickled_again_are_read(protocol):
    value = {"data": images(0, 5, 12), "fine_labels": [1, 200_000], "wide": np.arange(6.0).reshape(2, 3).T}
    found = pickles.load(pickle.dumps(value, protocol))
    assert found["fine_labels"] == [1, 200_000]
    for name in ("data", "wide"):
        np.testing.assert_array_equal(found[name], value[name])


def cifar(kind, count=4):
    """The files of a version of CIFAR, "10 python" for one, with `count` images per file; and its arrays."""
    classes, version = kind.split()
    names = [f"class_{i}" for i in range(int(classes))]
    if classes == "10":
        train, test, suffix = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], ""
        folder = "cifar-10-batches-py/" if version == "python" else "cifar-10-batches-bin/"
        meta = {
            "batches.meta": python_2({"label_names": names}),
            "batches.meta.txt": "\n".join(names).encode() + b"\n\n",
        }
    else:
        train, test, suffix, folder = ["train"], ["test"], "fine_", f"cifar-100-{version}/"
        meta = {
            "meta": python_2({"coarse_label_names": names[:20], "fine_label_names": names}),
            "fine_label_names.txt": "\n".join(names).encode() + b"\n",
        }
    files = {folder + n: content for n, content in meta.items() if n.endswith(".txt") == (version == "binary")}
    arrays = {}
    for split, batches in (("train", train), ("test", test)):
        for i, batch in enumerate(batches):
            seed = len(batches) * 10 + i
            planes, labels = images(seed, count, 3, 32, 32), classes_of(seed, count, int(classes))
            coarse = labels // 5
            if version == "python":
                content = {"batch_label": "x", f"{suffix}labels": labels.tolist(), "data": planes.reshape(count, -1)}
                if classes == "100":
                    content["coarse_labels"] = coarse.tolist()
                files[folder + batch] = python_2(content)
            else:
                columns = [coarse, labels] if classes == "100" else [labels]
                rows = [bytes(map(int, row)) + plane.tobytes() for *row, plane in zip(*columns, planes, strict=True)]
                files[f"{folder}{batch}.bin"] = b"".join(rows)
            arrays.setdefault(split, []).append((planes.transpose(0, 2, 3, 1), labels))
    return files, *(tuple(map(np.concatenate, zip(*arrays[split], strict=True))) for split in ("train", "test"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["10 python", "10 binary", "100 python", "100 binary"])
def test_cifar_is_read_in_every_published_form(kind, way, tmp_path):
    files, *expected = cifar(kind)
    # The archives hold their files in no order, and a page to read.
    files = dict(sorted(files.items(), key=lambda item: hash(item[1])), **{"cifar/readme.html": b"<html>"})
    path = place(way, tmp_path, files)
    assert data.classes(f"files:{path}") == int(kind.split()[0]) and data.channels(f"files:{path}") == 3
    for found, (pixels, labels) in zip(load(path, 32), expected, strict=True):
        np.testing.assert_array_equal(found.images, pixels)
        np.testing.assert_array_equal(found.labels, labels)
        assert found.label_names[3] == "class_3"


def test_a_download_directory_with_one_archive_is_that_archive(tmp_path):
    files, (pixels, _), _ = cifar("10 binary")
    (tmp_path / "d").mkdir()
    tar(tmp_path / "d" / "cifar-10-binary.tar.gz", files)
    np.testing.assert_array_equal(load(tmp_path / "d", 32, "train").images, pixels)
    inner = (tmp_path / "d" / "cifar-10-binary.tar.gz").read_bytes()
    np.testing.assert_array_equal(load(packed(tmp_path / "x.zip", {"inner.tar.gz": inner}), 32, "train").images, pixels)
    tar(tmp_path / "d" / "other.tar.gz", {})
    refusal(tmp_path / "d", "several archives", "cifar-10-binary.tar.gz")


class Harm:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "call", [(os.mkdir, "harm"), (eval, "__import__('os').mkdir('harm')"), (np.load, "x"), (getattr, "x", "y")]
)
def test_pickles_never_call_anything(call, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files, *_ = cifar("10 python")
    files["cifar-10-batches-py/data_batch_3"] = pickle.dumps({"data": Harm(*call), "labels": []}, protocol)
    refusal(unpacked(tmp_path / "d", files), "data_batch_3", "not allowed")
    assert not (tmp_path / "harm").exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
TYPE = b"cnumpy\ndtype\nU\x02%sK\0K\x01\x87R"


@pytest.mark.parametrize(
    "value",
    [
        b"cnumpy\nndarray\n(K\x05tR",  # An array without stand-in.
        b"cnumpy.core.multiarray\n_reconstruct\n}U\x01xK\x01sb",  # Changes a function.
        b"cnumpy.core.multiarray\n_reconstruct\n(N}U\x08__code__K\x01stb",
        b"cnumpy\ndtype\nU\x02O8K\0K\x01\x87R",  # Objects.
        b"cnumpy\ndtype\nU\x0ai4,(100)u8K\0K\x01\x87R",
        ARRAY + b"(K\x01(K\x05t" + TYPE % b"u1" + b"\x89U\x01xtb",  # Too short.
        ARRAY + b"(K\x01(J\xff\xff\xff\xffK\x01t" + TYPE % b"u1" + b"\x89U\x01xtb",  # A negative shape.
        ARRAY + b"(K\x01K\x05" + TYPE % b"u1" + b"\x89U\x05xxxxxtb",
        ARRAY + b"(K\x01(K\x01tN\x89](K\x01etb",
        b"r\xff\xff\xff\x7f",  # A memo of 2 GiB entries.
        b"(I1\n" * 5,
        b"cos\nsystem\n",
        b"\x93",
        b"Ppersistent\n",
        b"",
    ],
)
def test_pickles_of_anything_else_are_refused(value):
    with pytest.raises(pickle.UnpicklingError):
        pickles.load(b"\x80\x02}U\x04data" + value + b"s.")


def test_pickles_that_are_cut_short_are_refused():
    content = python_2({"data": images(0, 3, 12), "labels": [1, 2]})
    for length in range(len(content)):
        with pytest.raises(pickle.UnpicklingError):
            pickles.load(content[:length])


@pytest.mark.parametrize(
    ("kind", "file", "change", "parts"),
    [
        ("10 binary", "data_batch_2.bin", lambda c: c[:-1], ["data_batch_2.bin", "3,073"]),
        ("10 binary", "data_batch_2.bin", lambda c: b"", ["data_batch_2.bin", "0 bytes"]),
        ("10 binary", "data_batch_2.bin", lambda c: b"\x0a" + c[1:], ["a label is 10", "0 to 9"]),
        ("10 binary", "data_batch_2.bin", None, ["lacks", "data_batch_2.bin"]),
        ("10 binary", "batches.meta.txt", lambda c: b"one\n", ["1 classes instead of 10"]),
        ("100 binary", "fine_label_names.txt", None, ["lacks", "fine_label_names.txt"]),
        ("100 python", "meta", lambda c: python_2({"fine_label_names": [1]}), ["0 classes instead of 100"]),
        ("10 python", "test_batch", lambda c: python_2({"labels": [1]}), ["test_batch", "'data'"]),
        ("10 python", "test_batch", lambda c: python_2({"data": images(0, 2, 9), "labels": [1]}), ["[n, 3072]"]),
        (
            "10 python",
            "test_batch",
            lambda c: python_2({"data": images(0, 2, 3072), "labels": [1]}),
            ["2 images", "1 labels"],
        ),
        ("10 python", "test_batch", lambda c: python_2({"data": images(0, 1, 3072), "labels": "x"}), ["'labels'"]),
        ("10 python", "test_batch", lambda c: python_2({"data": images(0, 1, 3072), "labels": [99]}), ["label is 99"]),
        ("10 python", "test_batch", lambda c: c[: len(c) // 2], ["test_batch", "no pickled dictionary"]),
        ("10 python", "test_batch", lambda c: python_2([1, 2]), ["no dictionary"]),
    ],
)
def test_broken_cifar_files_are_one_line(kind, file, change, parts, tmp_path):
    files, *_ = cifar(kind)
    (full,) = [name for name in files if name.endswith(f"/{file}")]
    content = files.pop(full)
    if change:
        files[full] = change(content)
    refusal(unpacked(tmp_path / "d", files), *parts, size=32)


def test_both_versions_of_cifar_in_one_directory_must_be_told_apart(tmp_path):
    path = unpacked(tmp_path / "d", {**cifar("10 binary")[0], **cifar("100 python")[0]})
    refusal(path, "2 data sets", "cifar-10-batches-bin", "cifar-100-python")
    assert data.classes(f"files:{path}/cifar-100-python") == 100


# --- CelebA ---

ATTRIBUTES = tuple(f"Attribute_{i}" for i in range(40))


def celeba(count=12, form="txt"):
    """The lists and the images (JPEG) of a small CelebA; the splits, and the attributes as truths."""
    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    signs = np.where(np.random.default_rng(1).random((count, 40)) < 0.5, -1, 1)
    parts = [0 if i < count - 5 else 1 if i < count - 3 else 2 for i in range(count)]
    jpegs = {}
    for i, name in enumerate(names):
        stream = io.BytesIO()
        coarse = Image.fromarray(images(i, 5, 4, 3))
        coarse.resize((178, 218), Image.Resampling.BICUBIC).save(stream, "jpeg", quality=95)
        jpegs[f"img_align_celeba/{name}"] = stream.getvalue()
    rows = list(zip(names, signs.tolist(), strict=True))
    if form == "txt":
        attributes = f"{count}\n{' '.join(ATTRIBUTES)} \n"
        attributes += "".join(f"{name} " + " ".join(f"{v:2d}" for v in row) + "\r\n" for name, row in rows)
        partition = "".join(f"{name} {part}\n" for name, part in zip(names, parts, strict=True))
    else:
        attributes = "image_id," + ",".join(ATTRIBUTES) + "\n"
        attributes += "".join(f"{name}," + ",".join(map(str, row)) + "\n" for name, row in rows)
        partition = "image_id,partition\n" + "".join(f"{n},{p}\n" for n, p in zip(names, parts, strict=True))
    lists = {f"list_attr_celeba.{form}": attributes.encode(), f"list_eval_partition.{form}": partition.encode()}
    return lists, jpegs, np.array(parts), signs > 0


def downloaded(path, form, lists, jpegs):
    """Writes CelebA as people have it."""
    if form == "zip beside":
        unpacked(path, {"Anno/list_attr_celeba.txt": lists["list_attr_celeba.txt"]})
        unpacked(path, {"Eval/list_eval_partition.txt": lists["list_eval_partition.txt"]})
        (path / "Img").mkdir()
        packed(path / "Img" / "img_align_celeba.zip", jpegs)
    elif form == "directory":
        unpacked(path, {**lists, **jpegs})
    else:  # Kaggle's archive has the directory twice in its paths.
        path = packed(path.with_suffix(".zip"), {**lists, **{f"img_align_celeba/{n}": c for n, c in jpegs.items()}})
    return path


@pytest.mark.parametrize("form", ["zip beside", "directory", "kaggle"])
def test_celeba_has_its_official_split_the_usual_crop_and_40_attributes(form, tmp_path, capsys):
    lists, jpegs, parts, truths = celeba(form="csv" if form == "kaggle" else "txt")
    path = downloaded(tmp_path / "d", form, lists, jpegs)
    assert data.channels(f"files:{path}") == 3 and data.classes(f"files:{path}") == 0
    for found, number in zip(load(path, 64), (0, 2), strict=True):
        chosen = np.flatnonzero(parts == number)
        assert found.label_names == ATTRIBUTES
        np.testing.assert_array_equal(found.labels.astype(bool), truths[chosen])
        for image, i in zip(found.images, chosen, strict=True):
            square = Image.open(io.BytesIO(list(jpegs.values())[i])).crop((0, 20, 178, 198))
            np.testing.assert_array_equal(image, square.resize((64, 64), Image.Resampling.BICUBIC))
    err = capsys.readouterr().err
    assert "7 training and 3 test images" in err and "2 for validation are not used" in err


@pytest.mark.parametrize("form", ["zip", "directory"])
def test_celebas_lists_may_lie_beside_the_images_that_are_named(form, tmp_path):
    lists, jpegs, parts, truths = celeba()
    path = unpacked(tmp_path / "d", lists)
    where = {"zip": path / "img_align_celeba.zip", "directory": path / "img_align_celeba"}[form]
    if form == "zip":
        packed(where, jpegs)
    else:
        unpacked(path, jpegs)
    (tmp_path / "d" / "other.png").write_bytes(b"no image")
    np.testing.assert_array_equal(load(where, 16, "test").labels, truths[parts == 2])


def test_celeba_without_attributes_has_no_labels(tmp_path):
    lists, jpegs, *_ = celeba()
    del lists["list_attr_celeba.txt"]
    found = load(unpacked(tmp_path / "d", {**lists, **jpegs}), 16, "train")
    assert found.labels is None and found.label_names == ()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda f: f.pop("list_eval_partition.txt"), ["lacks list_eval_partition.txt"]),
        (lambda f: f.pop("img_align_celeba/000002.jpg"), ["1 of the 12 images", "000002"]),
        (lambda f: [f.pop(name) for name in list(f) if name.endswith("jpg")], ["lacks img_align_celeba.zip"]),
        (lambda f: f.update({"list_eval_partition.txt": b"000001.jpg 7\n"}), ["part 7", "0, 1 and 2"]),
        (lambda f: f.update({"list_eval_partition.txt": b"000001.jpg 0\n"}), ["do not fit together", "12", "1 images"]),
        (lambda f: f.update({"list_eval_partition.txt": b"000001.jpg\n"}), ["list_eval_partition.txt is broken"]),
        (lambda f: f.update({"list_eval_partition.txt": b""}), ["list_eval_partition.txt is broken"]),
        (lambda f: f.update({"list_attr_celeba.txt": b"1\n"}), ["list_attr_celeba.txt is broken"]),
        (lambda f: f.update({"list_attr_celeba.txt": b"1\nA B\n000001.jpg 1 x\n"}), ["list_attr_celeba.txt is broken"]),
        (
            lambda f: f.update({"list_attr_celeba.txt": f["list_attr_celeba.txt"].replace(b" 1 ", b" 5 ", 1)}),
            ["nor -1"],
        ),
        (lambda f: f.update({"img_align_celeba/000001.jpg": b"torn"}), ["000001.jpg", "no readable image"]),
    ],
)
def test_broken_celeba_files_are_one_line(change, parts, tmp_path):
    lists, jpegs, *_ = celeba()
    files = {**lists, **jpegs}
    change(files)
    refusal(unpacked(tmp_path / "d", files), *parts)


# --- arrays ---


def npz(compressed=False, **arrays):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


GREY, COLOUR = images(0, 20, 8, 8), images(1, 20, 8, 8, 3)
CLASSES = np.arange(20) % 4
NAMED = {"x_train": GREY, "y_train": CLASSES, "x_test": GREY[:10], "y_test": CLASSES[:10]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "files",
    [
        {"mnist.npz": npz(**NAMED)},
        {"mnist.npz": npz(compressed=True, **NAMED)},
        {"train_images.npy": npy(GREY), "train_labels.npy": npy(CLASSES), "t10k_images.npy": npy(GREY[:10]),
         "t10k_labels.npy": npy(CLASSES[:10])},
        {"train/x.npy": npy(GREY), "train/y.npy": npy(CLASSES), "test/x.npy": npy(GREY[:10]),
         "test/y.npy": npy(CLASSES[:10])},
        {"kmnist-train-imgs.npz": npz(arr_0=GREY), "kmnist-train-labels.npz": npz(arr_0=CLASSES),
         "kmnist-test-imgs.npz": npz(arr_0=GREY[:10]), "kmnist-test-labels.npz": npz(arr_0=CLASSES[:10])},
        {"medmnist.npz": npz(train_images=GREY, train_labels=CLASSES[:, None], val_images=GREY[5:],
                             val_labels=CLASSES[5:], test_images=GREY[:10], test_labels=CLASSES[:10, None])},
    ],
    ids=["keras", "compressed", "npy", "directories", "kmnist", "medmnist"],
)  # fmt: skip
def test_arrays_are_known_by_their_names(files, way, tmp_path):
    path = place(way, tmp_path, files)
    assert data.classes(f"files:{path}") == 4 and data.channels(f"files:{path}") == 1
    train, test = load(path, 8)
    np.testing.assert_array_equal(train.images[..., 0], GREY)
    np.testing.assert_array_equal(train.labels, CLASSES)
    np.testing.assert_array_equal(test.images[..., 0], GREY[:10])
    np.testing.assert_array_equal(test.labels, CLASSES[:10])


@pytest.mark.parametrize(
    ("arrays", "channels", "classes"),
    [
        ({"arr_0": COLOUR}, 3, 0),
        ({"arr_0": COLOUR, "arr_1": CLASSES}, 3, 4),
        ({"images": GREY, "labels": CLASSES, "weights": np.ones(20)}, 1, 4),
        ({"images": COLOUR.transpose(0, 3, 1, 2), "labels": CLASSES}, 3, 4),
        ({"images": GREY[:, None]}, 1, 0),
        ({"images": GREY[..., None], "y": np.eye(4)[CLASSES]}, 1, 4),
        ({"images": GREY, "labels": CLASSES.astype(float)}, 1, 4),
        ({"images": GREY, "labels": np.array(["cat", "dog"])[CLASSES % 2]}, 1, 2),
        ({"images": GREY, "attributes": np.arange(60).reshape(20, 3) % 5 % 2}, 1, 0),
        ({"images": np.asfortranarray(GREY), "latent_a": CLASSES, "latent_b": CLASSES}, 1, 0),
        ({"images": GREY, "labels": np.arange(20)}, 1, 0),
    ],
)
def test_arrays_are_known_by_looking_at_them(arrays, channels, classes, tmp_path):
    (tmp_path / "x.npz").write_bytes(npz(**arrays))
    assert (data.channels(f"files:{tmp_path}/x.npz"), data.classes(f"files:{tmp_path}/x.npz")) == (channels, classes)
    splits = load(tmp_path / "x.npz", 8)
    expected = COLOUR if channels == 3 else GREY[..., None]
    order = {image.tobytes(): i for i, image in enumerate(expected)}
    rows = [order[image.tobytes()] for split in splits for image in split.images]
    assert sorted(rows) == list(range(20)) and len(splits[1].images) == 2
    if classes == 4:
        np.testing.assert_array_equal(np.concatenate([split.labels for split in splits]), CLASSES[rows])
    if classes == 2:
        assert splits[0].label_names == ("cat", "dog")
    if "attributes" in arrays:
        np.testing.assert_array_equal(np.concatenate([split.labels for split in splits]), arrays["attributes"][rows])


@pytest.mark.parametrize(
    ("convert", "told"),
    [
        (lambda x: (x / 255).astype(np.float32), "from 0 to 1 become 0 to 255"),
        (lambda x: x / 127.5 - 1, "from -1 to 1 become 0 to 255"),
        (lambda x: (x / 255).astype(np.float16), "from 0 to 1"),
        (lambda x: x.astype(np.float32), ""),
        (lambda x: x.astype(np.int64), ""),
    ],
)
def test_numbers_in_known_ranges_become_bytes(convert, told, tmp_path, capsys):
    whole = np.concatenate([GREY, np.arange(256, dtype=np.uint8).reshape(4, 8, 8)])
    (tmp_path / "x.npz").write_bytes(npz(x_train=convert(whole), x_test=convert(GREY[:3])))
    train, test = load(tmp_path / "x.npz", 8)
    np.testing.assert_array_equal(train.images[..., 0], whole)
    np.testing.assert_array_equal(test.images[..., 0], GREY[:3])
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("convert", [lambda x: (x / 255).astype(np.float32), lambda x: (x > 128).astype(float)])
@pytest.mark.parametrize("split", data.SPLITS)
def test_splits_on_different_scales_are_one_line(convert, split, tmp_path):
    for train, test in ((GREY, convert(GREY)), (convert(GREY), GREY)):
        (tmp_path / "x.npz").write_bytes(npz(x_train=train, x_test=test))
        with pytest.raises(UserError) as caught:
            load(tmp_path / "x.npz", 8, split)
        high = (255, 1) if train is GREY else (1, 255)
        assert "from 0 to {} to train and from 0 to {} to test; give both on one scale".format(*high) in str(
            caught.value
        )
        assert "\n" not in str(caught.value)


def test_black_and_white_images_of_zeros_and_ones_are_made_visible(tmp_path):
    for i, kind in enumerate((np.uint8, bool)):
        (tmp_path / f"{i}.npz").write_bytes(
            npz(imgs=GREY > 128, x=1) if kind is bool else npz(imgs=(GREY > 128) * kind(1))
        )
        train = load(tmp_path / f"{i}.npz", 8, "train")
        assert set(np.unique(train.images)) == {0, 255}


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"x_train": GREY.astype(float) + 0.5}, ["from 0.5 to", "0 to 1, -1 to 1"]),
        ({"x_train": GREY * 3.0}, ["allowed: 0 to 1"]),
        ({"x_train": GREY / 255 - 0.5}, ["from -0.5", "allowed: 0 to 1, -1 to 1"]),
        ({"x_train": (GREY / 255 - 0.5) * 4}, ["from -2", "allowed: 0 to 1"]),
        ({"x_train": GREY // 16}, ["from 0 to 15 of 255", "32 to 255"]),
        ({"x_train": (GREY // 16).astype(np.int64)}, ["from 0 to 15 of 255", "32 to 255"]),
        ({"x_train": np.rint(GREY / 255 * 16)}, ["from 0 to 16 of 255", "32 to 255"]),
        ({"x_train": GREY / 2560}, ["from 0 to 25 of 255", "32 to 255"]),
        ({"x_train": np.where(GREY > 5, np.nan, 0.5)}, ["no finite numbers (NaN or infinity)", "allowed: 0 to 1"]),
        ({"x_train": GREY.astype(np.int32) - 200}, ["from -200"]),
        ({"x_train": GREY, "y_train": CLASSES[:-1]}, ["20 images", "19 labels", "allowed: one label per image"]),
        ({"x_train": GREY, "y_train": CLASSES, "x_test": GREY}, ["labels for train alone", "allowed: labels for both"]),
        ({"x_train": GREY, "x_test": COLOUR}, ["(8, 8, 1) to train and of (8, 8, 3)", "allowed: one shape"]),
        ({"x_train": GREY, "y_train": CLASSES + 0.5}, ["labels that are float64"]),
        ({"x_train": GREY, "y_train": np.arange(40).reshape(20, 2)}, ["labels that are int64 [20, 2]"]),
        ({"x_train": GREY.reshape(20, 64)}, ["no array of training images", "uint8 [20, 64]"]),
        ({"x_train": images(0, 20, 8, 8, 4)}, ["uint8 [20, 8, 8, 4]", "1 or 3 channels"]),
        ({"x_train": images(0, 20, 8, 8, 8, 3)}, ["1 or 3 channels"]),
        ({"x_train": GREY.astype("U3")}, ["<U3"]),
        ({"x_train": GREY, "more_train": GREY}, ["several arrays", "more_train uint8 [20, 8, 8]"]),
        ({"x": GREY, "x_train": GREY}, ["several arrays"]),
        ({"x_test": GREY}, ["no array of training images"]),
        ({}, ["no array", "nothing"]),
        ({"x_train": np.zeros((5, 8, 8), np.uint8)}, ["no two different images"]),
    ],
)
def test_arrays_that_are_not_clear_are_one_line(arrays, parts, tmp_path):
    (tmp_path / "x.npz").write_bytes(npz(**arrays))
    refusal(tmp_path / "x.npz", *parts)


@pytest.mark.parametrize("splits", [("x_train",), ("x_train", "x_test"), ("x_train", "x_val", "x_test")])
def test_each_array_of_a_file_is_read_once_for_all_splits(splits, tmp_path, monkeypatch):
    (tmp_path / "x.npz").write_bytes(npz(**{split: GREY / 255 for split in splits}))
    read, keys = arrays._read, []
    monkeypatch.setattr(arrays, "_read", lambda tree, array: (keys.append(array.key), read(tree, array))[1])
    loaded = [load(tmp_path / "x.npz", 8, split).images for split in ("train", "test")]
    assert sorted(keys) == sorted(set(splits) - {"x_val"})
    if len(splits) > 1:
        for one in loaded:
            np.testing.assert_array_equal(one, GREY[..., None])


def test_arrays_of_objects_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    harmful = np.array([Harm(os.mkdir, "harm")], object)
    for name, content in (("x.npz", npz(x_train=GREY, y_train=harmful)), ("x.npy", npy(harmful, allow_pickle=True))):
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name, "pickled Python objects", name)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content", [npz(x_train=GREY)[:-30], npz(x_train=GREY)[:1000], b"", b"PK\3\4 no zip", npy(GREY)]
)
def test_a_broken_npz_is_one_line(content, tmp_path):
    (tmp_path / "x.npz").write_bytes(content)
    refusal(tmp_path / "x.npz", "x.npz", "can't be read")


@pytest.mark.parametrize("content", [npy(GREY)[:-1], npy(GREY)[:50], b"", b"no array", npy(GREY) + b"1"])
def test_a_broken_npy_is_one_line(content, tmp_path):
    (tmp_path / "x.npy").write_bytes(content)
    refusal(tmp_path / "x.npy", "x.npy", "can't be read")


def test_an_array_that_promises_more_than_its_file_holds_takes_no_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50, 8, 8)})
    (tmp_path / "x.npy").write_bytes(header.getvalue())
    refusal(tmp_path / "x.npy", "cut short")
    packed(tmp_path / "x.npz", {"x_train.npy": header.getvalue()})
    refusal(tmp_path / "x.npz", "cut short")


# --- images, and what can't be read ---


def png(seed):
    stream = io.BytesIO()
    Image.fromarray(images(seed, 8, 8, 3)).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize(("name", "channels"), [("kmnist", 1), ("emnist/letters", 1), ("svhn_cropped", 3)])
def test_tfds_says_how_many_channels_its_data_sets_have(name, channels):
    assert data.channels(name) == channels


@pytest.mark.parametrize("way", WAYS)
def test_images_in_class_directories_have_classes_before_anything_is_decoded(way, tmp_path):
    files = {f"{kind}/{i}.png": png(i) for i in range(12) for kind in ("cat", "dog", "fox")}
    path = place(way, tmp_path, files)
    assert data.classes(f"files:{path}") == 3 and not (tmp_path / "cache" / "data").exists()
    assert load(path, 8, "train").label_names == ("cat", "dog", "fox")
    assert len(load(path, 8, "train").images) + len(load(path, 8, "test").images) == 36


def test_what_can_not_be_read_is_one_line(tmp_path):
    refusal(tmp_path / "none", "no such file")
    refusal(f"{tmp_path}/none/at/all", "no such file")
    refusal("", "no such file")
    refusal("a\0b", "files:")
    refusal("x" * 500, "too long")
    refusal(
        unpacked(tmp_path / "d", {"a.txt": b"1", "b.pdf": b"2"}), "nothing that can be read", "a.txt, b.pdf", "CelebA"
    )
    (tmp_path / "empty").mkdir()
    refusal(tmp_path / "empty", "no files")
    refusal(packed(tmp_path / "x.zip", {"a.txt": b"1"}) / "b", "there is no b in")
    refusal(tmp_path / "d" / "a.txt", "nothing that can be read")
    refusal(tmp_path / "d" / "a.txt" / "inside", "there is no inside in")
    refusal(packed(tmp_path / "bad.zip", {"../x.npy": npy(GREY)}), "leaves it")


def test_the_check_of_a_config_writes_nothing(tmp_path):
    files, *_ = mnist()
    data.check(f"files:{unpacked(tmp_path / 'd', files)}", 8)
    assert not (tmp_path / "cache").exists()


def test_a_changed_file_is_read_again(tmp_path):
    files, (pixels, _), _ = mnist()
    path = unpacked(tmp_path / "d", files)
    np.testing.assert_array_equal(load(path, 8, "train").images[..., 0], pixels)
    files["train-images-idx3-ubyte"] = idx(255 - pixels)
    os.utime(unpacked(path, files) / "train-images-idx3-ubyte", (1, 1))
    np.testing.assert_array_equal(load(path, 8, "train").images[..., 0], 255 - pixels)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cifar10", ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz", "files:PATH"]),
        ("celeb_a", ["img_align_celeba.zip", "list_eval_partition.txt", "list_attr_celeba.txt", "files:PATH"]),
        ("mnist", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "files:PATH"]),
        ("fashion_mnist", ["train-labels-idx1-ubyte.gz", "dataset-fashion-mnist", "files:PATH"]),
    ],
)
def test_a_data_set_that_can_not_be_prepared_names_the_files_to_fetch(name, parts, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda *names: None if names[0] == "tensorflow" else find(*names))
    with pytest.raises(UserError) as caught:
        data.load(name, "train", 32, str(tmp_path / "tfds"))
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts)
