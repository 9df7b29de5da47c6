"""The data sets: embedded, in the formats of the published archives, from folders, and from arrays."""

import dataclasses
import importlib.util
import io
import multiprocessing
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtickets import cache, data, files
from jaxtickets.data import decoding, faces, painting, synthetic_faces, tfds
from jaxtickets.errors import UserError
from jaxtickets.fields import Registry

NEEDS_TENSORFLOW = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TFDS prepares downloaded datasets with TensorFlow"
)


@pytest.fixture(autouse=True)
def private_places(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data_dir(tmp_path):
    return str(tmp_path / "tfds")


def picture(seed, width, height):
    """A smooth random colour image, so that JPEG changes it little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="png", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# --- digits ---


def test_digits_are_all_1797_handwritten_digits(data_dir):
    datasets = pytest.importorskip("sklearn.datasets")
    reference = datasets.load_digits()
    train, test = (data.load("digits", split, 8, data_dir) for split in data.SPLITS)
    assert (len(train.images), len(test.images)) == (1501, 296)
    loaded = [
        (image.tobytes(), label)
        for part in (train, test)
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    levels = np.floor(reference.images * 255 / 16 + 0.5).astype(np.uint8)
    assert sorted(loaded) == sorted((i.tobytes(), int(c)) for i, c in zip(levels, reference.target, strict=True))
    assert train.images.dtype == np.uint8 and train.images.shape[1:] == (8, 8, 1)
    assert train.labels.dtype == np.int32 and train.label_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("name", "classes"), [("digits", 10), ("cifar10", 10), ("mnist", 10), ("celeb_a", 0), ("synthetic_faces", 0)]
)
def test_classes_are_known_before_preparing_and_attributes_are_none(name, classes, tmp_path):
    assert data.classes(name, str(tmp_path / "none")) == classes
    assert not (tmp_path / "none").exists()


def test_digits_splits_are_class_balanced(data_dir):
    counts = np.bincount(data.load("digits", "test", 8, data_dir).labels)
    assert len(counts) == 10 and set(counts) == {29, 30}


def test_digits_are_resized_to_the_asked_size(data_dir):
    small, large = (data.load("digits", "test", size, data_dir).images for size in (8, 32))
    expected = Image.fromarray(small[0, ..., 0]).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(large[0, ..., 0], np.asarray(expected))


def test_painting_prints_one_line_on_standard_error_only(monkeypatch, capfd):
    monkeypatch.setattr(synthetic_faces, "COUNTS", {"train": 12, "test": 5})
    data.load("synthetic_faces", "train", 64)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and "painting the train images of synthetic_faces" in err


def load_digits_in_a_process(directory, queue):
    queue.put(data.load("digits", "train", 16, directory).images.sum())


def test_processes_can_prepare_the_same_data_set_at_once(data_dir):
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    workers = [spawn.Process(target=load_digits_in_a_process, args=(data_dir, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len({int(queue.get()) for _ in workers}) == 1


# --- synthetic faces ---


def test_a_face_is_a_function_of_seed_and_index_alone():
    draw, render = faces.draw_face, painting.render
    backwards = [render(draw(i)) for i in (5, 4, 3)]
    for image, index in zip(backwards, (5, 4, 3), strict=True):
        np.testing.assert_array_equal(image, render(draw(index)))
    assert not np.array_equal(render(draw(3)), render(draw(3, seed=1)))
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8


def test_faces_differ_and_every_attribute_takes_both_values():
    drawn = [faces.draw_face(i) for i in range(2000)]
    assert len(set(drawn)) == 2000
    table = np.array([list(faces.attributes(face).values()) for face in drawn])
    names = np.array(faces.ATTRIBUTES)
    assert not names[(table.mean(0) < 0.01) | (table.mean(0) > 0.95)].tolist()


def test_attributes_that_exclude_each_other_are_never_both_true():
    groups = [
        ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Red_Hair", "Bald"),
        ("Smiling", "Frowning"),
        ("Looking_Left", "Looking_Right", "Looking_Up", "Looking_Down"),
        ("Pale_Skin", "Dark_Skin"),
        ("Goatee", "No_Beard", "Full_Beard"),
    ]
    for index in range(500):
        truths = faces.attributes(faces.draw_face(index))
        assert all(sum(truths[name] for name in group) <= 1 for group in groups)


def test_attributes_can_be_seen_in_the_pixels():
    face = dataclasses.replace(faces.draw_face(0), light=0.0, glasses="none", hat="none", tilt=0.0, yaw=0.0)
    black, blond = (
        painting.render(dataclasses.replace(face, hair_style="short", bangs=True, hair_colour=colour)).astype(int)
        for colour in ("black", "blond")
    )
    assert np.abs(black - blond).max() > 100
    pale, dark = (painting.render(dataclasses.replace(face, skin=skin)).mean() for skin in ("pale", "dark"))
    assert pale > dark + 5
    left, right = (painting.render(dataclasses.replace(face, light=light)) for light in (-1.0, 1.0))
    assert left[:, :32].mean() > right[:, :32].mean()


def test_synthetic_faces_have_the_attribute_interface_of_celeb_a(data_dir, monkeypatch):
    monkeypatch.setattr(synthetic_faces, "COUNTS", {"train": 12, "test": 5})
    train, test = (data.load("synthetic_faces", split, 64, data_dir) for split in data.SPLITS)
    assert train.images.shape == (12, 64, 64, 3) and test.images.shape == (5, 64, 64, 3)
    assert train.labels.dtype == np.uint8 and train.labels.shape == (12, len(train.label_names))
    assert {"Smiling", "Eyeglasses", "Black_Hair", "Bald", "Looking_Left"} <= set(train.label_names)
    for part, first in ((train, 0), (test, 12)):
        for i, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            face = faces.draw_face(first + i)
            np.testing.assert_array_equal(image, painting.render(face))
            assert dict(zip(part.label_names, label.astype(bool), strict=True)) == faces.attributes(face)


@pytest.mark.slow
def test_all_22000_faces_are_prepared(data_dir):
    train, test = (data.load("synthetic_faces", split, 32, data_dir) for split in data.SPLITS)
    assert train.images.shape == (20_000, 32, 32, 3) and test.images.shape == (2_000, 32, 32, 3)
    assert len({image.tobytes() for image in train.images[:4000]}) == 4000


# --- the published archives, small copies written here ---


def replace_downloads(monkeypatch, archives):
    """Lets TFDS's downloads, checksums left out, find the file whose URL contains a key of `archives`.

    Extraction and parsing stay TFDS's own.
    """
    from tensorflow_datasets.core.download import download_manager, resource

    def download(self, urls):
        if isinstance(urls, dict):
            return {key: download(self, url) for key, url in urls.items()}
        (path,) = [path for part, path in archives.items() if part in urls]
        return path

    def download_and_extract(self, urls):
        paths = download(self, urls)
        if not isinstance(paths, dict):
            return self.extract(resource.Resource(path=paths, extract_method=resource.guess_extract_method(str(paths))))
        return {
            key: self.extract(resource.Resource(path=path, extract_method=resource.guess_extract_method(str(path))))
            for key, path in paths.items()
        }

    monkeypatch.setattr(download_manager.DownloadManager, "download", download)
    monkeypatch.setattr(download_manager.DownloadManager, "download_and_extract", download_and_extract)


CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_cifar10(folder):
    """Writes CIFAR-10's binary archive, with 42 images. Returns its path and `{split: {(image, label)}}`."""
    rng = np.random.default_rng(0)
    files = {"batches.meta.txt": "\n".join(CIFAR_CLASSES).encode() + b"\n\n"}
    written = {"train": set(), "test": set()}
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = b""
        for _ in range(7):
            label, planes = int(rng.integers(10)), rng.integers(0, 256, (3, 32, 32), np.uint8)
            records += bytes([label]) + planes.tobytes()
            written["test" if "test" in name else "train"].add((np.moveaxis(planes, 0, 2).tobytes(), label))
        files[name] = records
    archive = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive, written


@NEEDS_TENSORFLOW
def test_cifar10_is_read_from_its_binary_archive(tmp_path, data_dir, monkeypatch):
    archive, written = write_cifar10(tmp_path)
    replace_downloads(monkeypatch, {"cifar-10-binary": archive})
    for split in data.SPLITS:
        loaded = data.load("cifar10", split, 32, data_dir)
        assert loaded.label_names == CIFAR_CLASSES
        pairs = {(image.tobytes(), int(label)) for image, label in zip(loaded.images, loaded.labels, strict=True)}
        assert pairs == written[split]


def write_celeb_a(folder, count):
    """Writes CelebA's five files for `count` images. Returns their paths by Drive id, the JPEGs and the attributes."""
    from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as celeb_a

    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    jpegs = {name: encoded(picture(i, 178, 218), "jpeg", quality=95) for i, name in enumerate(names)}
    signs = np.where(np.random.default_rng(1).random((count, 40)) < 0.5, -1, 1)
    partition = [0 if i < count - 4 else 1 if i < count - 2 else 2 for i in range(count)]
    heading = f"{count}\n" + " ".join(celeb_a.ATTR_HEADINGS) + " \n"
    rows = "".join(f"{n} " + " ".join(f"{v:2d}" for v in row) + "\n" for n, row in zip(names, signs, strict=True))
    points = f"{count}\n" + " ".join(celeb_a.LANDMARK_HEADINGS) + " \n"
    texts = {
        celeb_a.EVAL_LIST: "".join(f"{n} {p}\n" for n, p in zip(names, partition, strict=True)),
        celeb_a.ATTR_DATA: heading + rows,
        celeb_a.LANDMARKS_DATA: points + "".join(f"{n} 69 109 106 113 77 142 73 152 108 154\n" for n in names),
        celeb_a.IDENTITY_DATA: "".join(f"{n} {i + 1}\n" for i, n in enumerate(names)),
    }
    paths = {}
    for i, (url, text) in enumerate(texts.items()):
        paths[url] = folder / f"{i}.txt"
        paths[url].write_text(text)
    paths[celeb_a.IMG_ALIGNED_DATA] = folder / "img_align_celeba.zip"
    with zipfile.ZipFile(paths[celeb_a.IMG_ALIGNED_DATA], "w") as archive:
        for name, jpeg in jpegs.items():
            archive.writestr(f"img_align_celeba/{name}", jpeg)
    return paths, jpegs, signs > 0, partition, tuple(celeb_a.ATTR_HEADINGS)


@NEEDS_TENSORFLOW
def test_celeb_a_is_read_from_its_archive_and_cropped_to_178_pixels(tmp_path, data_dir, monkeypatch):
    paths, jpegs, truths, partition, headings = write_celeb_a(tmp_path, 12)
    replace_downloads(monkeypatch, paths)
    for split, number in (("train", 0), ("test", 2)):
        loaded = data.load("celeb_a", split, 64, data_dir)
        expected = {}
        for jpeg, truth, part in zip(jpegs.values(), truths, partition, strict=True):
            if part == number:
                square = Image.open(io.BytesIO(jpeg)).crop((0, 20, 178, 198))
                image = np.asarray(square.resize((64, 64), Image.Resampling.BICUBIC))
                expected[hash(image.tobytes())] = dict(zip(headings, truth.tolist(), strict=True))
        assert loaded.images.shape == (len(expected), 64, 64, 3)
        assert set(loaded.label_names) == set(headings)
        for image, label in zip(loaded.images, loaded.labels, strict=True):
            assert expected[hash(image.tobytes())] == dict(
                zip(loaded.label_names, label.astype(bool).tolist(), strict=True)
            )


@NEEDS_TENSORFLOW
def test_a_closed_network_is_one_line_with_three_ways_out_and_leaves_nothing(data_dir, monkeypatch):
    import socket

    def closed(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", closed)
    with pytest.raises(UserError) as caught:
        data.load("celeb_a", "train", 64, data_dir)
    message = str(caught.value)
    assert "\n" not in message and "no connection to drive.google.com" in message
    for way_out in (
        "--config.data.name=synthetic_faces",
        "--config.data.name=files:PATH",
        "--config=<config>.py:quick",
    ):
        assert way_out in message
    assert not os.path.exists(data_dir)


@pytest.mark.parametrize("name", ["celeb_a", "cifar10", "mnist", "lsun/church_outdoor"])
def test_without_tensorflow_the_error_names_the_extra_and_the_other_ways(name, data_dir, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda *names: None if names[0] == "tensorflow" else find(*names))
    with pytest.raises(UserError, match=r'pip install -e "\.\[tfds\]".*synthetic_faces.*files:PATH.*:quick'):
        data.load(name, "train", 32, data_dir)
    assert not os.path.exists(data_dir)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
@pytest.mark.parametrize("name", ["coco", "coco/2014", "robonet"])
def test_a_data_set_that_tfds_can_not_describe_without_tensorflow_is_one_line(name, data_dir):
    for ask in (data.check, data.channels, data.classes, lambda name: data.load(name, "train", 16, data_dir)):
        with pytest.raises(UserError, match=r'pip install -e "\.\[tfds\]".*files:PATH') as caught:
            ask(name)
        assert "\n" not in str(caught.value) and repr(name) in str(caught.value)
    assert not os.path.exists(data_dir)


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("file", ["cifar10-test.array_record-00000-of-00001", "dataset_info.json"])
def test_damaged_prepared_data_are_one_line_that_says_what_to_delete(file, data_dir, tmp_path, monkeypatch):
    replace_downloads(monkeypatch, {"cifar-10-binary": write_cifar10(tmp_path)[0]})
    expected = data.load("cifar10", "test", 8, data_dir).digest
    (path,) = Path(data_dir).rglob(file)
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "other cache"))
    with pytest.raises(UserError, match=f"{data_dir}.*(delete|remove)") as caught:
        data.load("cifar10", "test", 8, data_dir)
    assert "\n" not in str(caught.value)
    path.write_bytes(content)
    assert data.load("cifar10", "test", 8, data_dir).digest == expected


# --- folders ---


@pytest.mark.parametrize("prefix", ["folder:", "files:"])
def test_paths_that_mean_nothing_are_one_line(prefix, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    missing = ("itself", "~/nothing", "~nobody-of-that-name/x", "gs://bucket/x", "a\0b", "x" * 5000, "")
    for path in (str(tmp_path / missing[0]), *missing[1:]):
        with pytest.raises(UserError) as caught:
            data.check(prefix + path)
        assert "\n" not in str(caught.value) and "0x" not in str(caught.value)
    pictures = tmp_path / "pictures"
    write_folder(pictures, 20)
    assert data.load(f"{prefix}~/pictures", "train", 8).digest == data.load(f"folder:{pictures}", "train", 8).digest


def test_no_message_tells_an_address_in_memory(tmp_path):
    write_folder(tmp_path / "x", 5)
    (tmp_path / "x" / "a" / "broken.png").write_bytes(b"no image")
    write_zip(tmp_path / "x.zip", tmp_path / "x")
    for path in (tmp_path / "x", tmp_path / "x.zip"):
        with pytest.raises(UserError) as caught:
            data.load(f"folder:{path}", "train", 8)
            data.load(f"folder:{path}", "test", 8)
        assert "broken.png" in str(caught.value) and " at 0x" not in str(caught.value)


def write_folder(root, count):
    images = {}
    for i in range(count):
        path = root / ("a", "b")[i % 2] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(i, 20, 20)))
        images[path.relative_to(root).as_posix()] = np.asarray(picture(i, 20, 20))
    return images


def write_zip(path, root):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(root).as_posix())


def write_tar(path, root):
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
        archive.add(root, root.name)


def paint(root, *names):
    """Writes a grey image of 4x4 pixels under each name, each of its own value; returns the values by name."""
    values = {name: 255 - 2 * i for i, name in enumerate(names)}
    for name, value in values.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(root / name)
    return values


def found(path, values):
    """The names of the images of each split of a painted folder, and their labels in words."""
    names, parts = {value: name for name, value in values.items()}, []
    for split in data.SPLITS:
        loaded = data.load(f"folder:{path}", split, 4)
        labels = [None] * len(loaded.images) if loaded.labels is None else loaded.labels
        pairs = zip(loaded.images[:, 0, 0, 0], labels, strict=True)
        parts.append(
            {names[int(pixel)]: None if label is None else loaded.label_names[label] for pixel, label in pairs}
        )
    return parts


@pytest.mark.parametrize("kind", ["directory", "zip", "tar", "tgz"])
def test_a_folder_gives_each_image_once_with_its_class(kind, tmp_path):
    root = tmp_path / "images"
    images = write_folder(root, 23)
    (root / "notes.txt").write_text("no image")
    path = root
    if kind != "directory":
        path = tmp_path / f"images.{kind}"
        (write_zip if kind == "zip" else write_tar)(path, root)
    train, test = (data.load(f"folder:{path}", split, 20) for split in data.SPLITS)
    assert (len(train.images), len(test.images)) == (20, 3)
    together = {
        image.tobytes(): int(label)
        for part in (train, test)
        for image, label in zip(part.images, part.labels, strict=True)
    }
    assert together == {image.tobytes(): "ab".index(name[0]) for name, image in images.items()}
    assert train.label_names == test.label_names == ("a", "b") and data.classes(f"folder:{path}") == 2
    names = {image.tobytes(): name for name, image in images.items()}
    for part in (train, test):
        order = [names[image.tobytes()] for image in part.images]
        assert order == sorted(order)


def test_the_held_out_tenth_does_not_depend_on_the_place_or_on_an_archive(tmp_path):
    values = paint(tmp_path / "here", *(f"{i:03d}.png" for i in range(60)))
    paint(tmp_path / "there" / "deeper", *values)
    write_tar(tmp_path / "all.tar", tmp_path / "here")
    write_zip(tmp_path / "all.zip", tmp_path / "here")
    expected = found(tmp_path / "here", values)
    for other in ("there", "all.tar", "all.zip"):
        assert found(tmp_path / other, values) == expected
    assert len(expected[1]) == 6


def test_kinds_that_take_turns_in_the_names_are_all_trained_on_and_all_held_out(tmp_path):
    values = paint(tmp_path / "images", *(f"{i:03d}.png" for i in range(120)))
    # Ten kinds in turn: every tenth name would hold out all images of one kind and none of the others.
    train, test = ({int(name[:3]) % 10 for name in part} for part in found(tmp_path / "images", values))
    assert train == set(range(10)) and len(test) > 3


def test_a_tenth_of_each_class_is_held_out(tmp_path):
    names = [f"{kind}/{i}.png" for kind, count in (("a", 60), ("b", 30), ("c", 10), ("d", 1)) for i in range(count)]
    train, test = found(tmp_path / "images", paint(tmp_path / "images", *names))
    counts = {kind: sum(label == kind for label in test.values()) for kind in "abcd"}
    assert counts["a"] in (6, 7) and counts["b"] == 3 and counts["c"] in (1, 2) and counts["d"] == 0
    assert len(test) == 11 and len(train) == 90
    assert all(name.startswith(label) for part in (train, test) for name, label in part.items())


def test_more_images_move_few_others_to_another_split(tmp_path):
    root = tmp_path / "images"
    before = found(root, paint(root, *(f"{i:03d}.png" for i in range(90))))
    after = found(root, paint(root, *(f"{i:03d}.png" for i in range(110))))
    assert len(set(before[1]) - set(after[1])) <= 3


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Training", "TESTING"),
        ("train", "val"),
        ("train", "validation"),
        ("birds/train", "birds/valid"),
        ("a/train/x", "a/test/x"),
    ],
)
def test_given_splits_are_honoured(train, test, tmp_path):
    names = [f"{train}/{i}.png" for i in range(5)] + [f"{test}/{i}.png" for i in range(4)]
    parts = found(tmp_path / "images", paint(tmp_path / "images", *names))
    assert [set(part) for part in parts] == [set(names[:5]), set(names[5:])]
    assert all(label is None for part in parts for label in part.values())


def test_classes_lie_below_or_above_given_splits(tmp_path):
    kinds, orders = ("bottle", "cable"), {"below": "{split}/{kind}/{i}.png", "above": "{kind}/{split}/good/{i}.png"}
    for order, form in orders.items():
        names = [form.format(split=s, kind=k, i=i) for s in ("train", "test") for k in kinds for i in range(3)]
        parts = found(tmp_path / order, paint(tmp_path / order, *names))
        for split, part in zip(("train", "test"), parts, strict=True):
            assert part == {name: next(kind for kind in kinds if kind in name) for name in names if split in name}


def test_what_lies_beside_given_splits_is_left_out_and_told(tmp_path, capfd):
    root = tmp_path / "images"
    names = ["train/1.png", "train/2.png", "test/1.png", "val/1.png", "val/2.png", "cover.png", "copy/train/1.png"]
    values = paint(root, *names)
    assert found(root, values) == [{"train/1.png": None, "train/2.png": None}, {"test/1.png": None}]
    told = capfd.readouterr().err
    assert "2 images of the validation split" in told and "2 images beside the directories of the splits" in told


def test_a_class_called_train_is_a_class(tmp_path):
    values = paint(tmp_path / "images", *(f"{kind}/{i}.png" for kind in ("bus", "train") for i in range(6)))
    train, test = found(tmp_path / "images", values)
    assert set(train.values()) == {"bus", "train"} and len(train) + len(test) == 12


@pytest.mark.parametrize(
    "names",
    [
        ["1.png", "2.png", "3.png"],
        ["a/1.png", "a/2.png", "a/3.png"],
        ["a/1.png", "b/2.png", "3.png"],
        ["train/a/1.png", "train/b/1.png", "test/1.png"],
        ["train/a/1.png", "train/b/1.png", "test/c/1.png"],
    ],
)
def test_directories_that_do_not_sort_all_images_are_no_classes(names, tmp_path):
    values = paint(tmp_path / "images", *names)
    assert {label for part in found(tmp_path / "images", values) for label in part.values()} == {None}
    assert data.classes(f"folder:{tmp_path / 'images'}") == 0


@pytest.mark.parametrize("kind", ["directory", "zip"])
def test_copies_that_programs_leave_are_no_images(kind, tmp_path, capfd):
    root = tmp_path / "images"
    values = paint(root, "a/1.png", "a/2.png", "b/3.PNG")
    for hidden in (".ipynb_checkpoints", "@eaDir", ".thumbnails", "__MACOSX"):
        paint(root, f"{hidden}/1.png", f"a/{hidden}/1.png")
    paint(root, "a/._1.png", ".hidden.png")
    path = root
    if kind == "zip":
        path = tmp_path / "images.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*.*")):
                if file.is_file():
                    archive.write(file, file.relative_to(root).as_posix())
    parts = found(path, values)
    assert sorted(parts[0] | parts[1]) == sorted(values)
    assert "hidden or system files" in capfd.readouterr().err


def test_a_link_to_a_folder_above_multiplies_nothing(tmp_path):
    root = tmp_path / "images"
    values = paint(root, *(f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in "ab" for i in range(3)))
    (root / "train" / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "train" / "b" / "same.png").symlink_to(root / "test" / "b" / "0.png")
    train, test = found(root, values)
    assert (len(train), len(test)) == (6, 6)
    assert train.keys() == {name for name in values if name.startswith("train")}


def test_all_formats_are_read_and_what_is_not_is_told_in_one_line(tmp_path, capfd):
    root = tmp_path / "images"
    kinds = ("png", "PNG", "jpg", "JPEG", "webp", "bmp", "tif", "TIFF", "gif", "jfif", "pgm", "tga", "jp2")
    paint(root, *(f"{i:02d}.{kind}" for i, kind in enumerate(kinds)))
    for name in ("notes.txt", "more.txt", "photo.heic", "Makefile"):
        (root / name).write_text("no image")
    train, test = (data.load(f"folder:{root}", split, 4) for split in data.SPLITS)
    assert len(train.images) + len(test.images) == len(kinds)
    (line,) = capfd.readouterr().err.splitlines()
    assert "13 images (2 .png, " in line and "11 to train and 2 to test" in line
    assert "2 .txt" in line and "1 .heic" in line and "1 without a suffix" in line


def test_all_images_of_a_folder_come_in_the_order_of_their_names(tmp_path):
    names = [f"{kind}/{number}.png" for kind in ("a", "b") for number in range(10)]
    paint(tmp_path / "mixed", *names)
    (examples,) = data.find(f"folder:{tmp_path / 'mixed'}").open_all()
    assert [name.partition("mixed/")[2] for _, _, name in examples.read(0, examples.count)] == names
    # Given splits stay where the names put them: test before train.
    paint(tmp_path / "given", *(f"{split}/{number}.png" for split in ("train", "test") for number in range(3)))
    (examples,) = data.find(f"folder:{tmp_path / 'given'}").open_all()
    found = [name.partition("given/")[2] for _, _, name in examples.read(0, examples.count)]
    assert found == sorted(found) and found[0].startswith("test/") and len(found) == 6


def test_grey_folders_have_one_channel_and_coloured_ones_three(tmp_path):
    paint(tmp_path / "grey", *(f"{i}.png" for i in range(8)))
    for i in range(3):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / "grey" / f"saved_as_rgb_{i}.png")
        Image.fromarray(np.full((4, 4), i, np.uint8)).convert("P").save(tmp_path / "grey" / f"palette_{i}.gif")
    assert data.channels(f"folder:{tmp_path / 'grey'}") == 1
    assert data.load(f"folder:{tmp_path / 'grey'}", "train", 4).images.shape[1:] == (4, 4, 1)
    Image.new("RGB", (4, 4), (9, 9, 10)).save(tmp_path / "grey" / "tinted.png")
    assert data.channels(f"folder:{tmp_path / 'grey'}") == 3


def test_colour_is_seen_where_most_kinds_of_images_that_take_turns_are_grey(tmp_path):
    for i in range(800):
        Image.new("RGB", (2, 2), (9, 9, 90 if i % 4 == 1 else 9)).save(tmp_path / f"{i:03d}.bmp")
    assert data.channels(f"folder:{tmp_path}") == 3


def test_images_of_another_size_than_the_models_are_told_once(tmp_path, capfd):
    write_folder(tmp_path / "images", 12)
    for split in data.SPLITS:
        data.load(f"folder:{tmp_path / 'images'}", split, 8)
    told = [line for line in capfd.readouterr().err.splitlines() if "model.image_size" in line]
    assert len(told) == 1 and "20x20 pixels become 8x8" in told[0]


def test_images_of_any_form_become_square_rgb(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    Image.new("L", (30, 10), 90).save(root / "gray.jpg", quality=100)
    Image.new("RGBA", (10, 30), (255, 0, 0, 0)).save(root / "transparent.webp", lossless=True)
    Image.new("P", (9, 9), 0).save(root / "palette.bmp")
    Image.new("1", (9, 9), 1).save(root / "UPPER.PNG")
    Image.new("RGB", (9, 9), (255, 0, 0)).save(root / "z.png")
    train, test = (data.load(f"folder:{root}", split, 8).images for split in data.SPLITS)
    assert train.shape == (4, 8, 8, 3) and test.shape == (1, 8, 8, 3)
    colours = sorted(image.reshape(-1, 3).mean(0).round().astype(int).tolist() for image in (*train, *test))
    assert colours == [[0, 0, 0], [90, 90, 90], [255, 0, 0], [255, 255, 255], [255, 255, 255]]


def test_cropping_keeps_the_centre():
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 200
    assert (decoding.to_array(encoded(Image.fromarray(stripes)), 10, 3) == 200).all()


def test_reducing_does_not_alias():
    checks = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
    reduced = decoding.to_array(encoded(Image.fromarray(checks)), 16, 1).astype(int)
    assert np.abs(reduced - 127.5).max() < 20


def test_a_second_load_reads_the_cache_alone(tmp_path, data_dir, monkeypatch):
    root = tmp_path / "images"
    write_folder(root, 5)
    first = data.load(f"folder:{root}", "train", 16)
    digits = data.load("digits", "test", 16, data_dir)
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("decoded again"))
    again = data.load(f"folder:{root}", "train", 16)
    np.testing.assert_array_equal(first.images, again.images)
    assert isinstance(again.images, np.memmap) and not again.images.flags.writeable
    np.testing.assert_array_equal(data.load("digits", "test", 16, data_dir).labels, digits.labels)


def test_a_changed_folder_is_decoded_again(tmp_path):
    root = tmp_path / "images"
    write_folder(root, 5)
    before = [data.load(f"folder:{root}", split, 20) for split in data.SPLITS]
    first = root / "a" / "000.png"
    first.write_bytes(encoded(picture(99, 20, 20)))
    os.utime(first, ns=(1, 1))
    after = [data.load(f"folder:{root}", split, 20) for split in data.SPLITS]
    assert sum(old.digest != new.digest for old, new in zip(before, after, strict=True)) == 1


def test_a_broken_image_is_named_and_leaves_no_half_written_cache(tmp_path):
    root = tmp_path / "images"
    write_folder(root, 5)
    broken = root / "b" / "001.png"
    good = broken.read_bytes()
    broken.write_bytes(good[:60])
    for _ in range(2):
        with pytest.raises(UserError, match=r"b/001\.png is no readable image"):
            for split in data.SPLITS:
                data.load(f"folder:{root}", split, 16)
    assert not list(cache.directory("data").rglob("*.npy"))
    broken.write_bytes(good)
    assert len(data.load(f"folder:{root}", "train", 16).images) == 4


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "one", 1)
    (tmp_path / "file.txt").write_text("no archive")
    for path, message in (
        ("missing", "no such directory"),
        ("empty", "holds 0 images"),
        ("one", "holds 1 images"),
        ("file.txt", "neither a directory nor a zip or tar"),
    ):
        with pytest.raises(UserError, match=message):
            data.check(f"folder:{tmp_path / path}")
    with pytest.raises(UserError, match="no such directory"):
        data.check("folder:")


# --- arrays ---


def use(monkeypatch, load, **facts):
    """Makes `stripes` a data set of gray images for one test, in the place of an earlier one."""
    monkeypatch.setitem(data.SOURCES, "stripes", data.Arrays("stripes", load, channels=1, **facts))


def stripes(split):
    """Five gray images of 8x8 pixels and their labels, others for each split."""
    values = np.arange(5) + (split == "test")
    return np.repeat(100 + values, 64).reshape(5, 8, 8, 1).astype(np.uint8), values % 3


def test_a_data_set_can_be_made_of_arrays(monkeypatch, data_dir):
    monkeypatch.setattr(data, "SOURCES", Registry("data.name", *data.SOURCES.values()))
    data.SOURCES.add(data.Arrays("stripes", stripes, channels=1, classes=3, label_names=("a", "b", "c")))
    assert (data.channels("stripes"), data.classes("stripes")) == (1, 3)
    data.check("stripes", 8, data_dir)
    for split in data.SPLITS:
        loaded = data.load("stripes", split, 8, data_dir)
        images, labels = stripes(split)
        np.testing.assert_array_equal(loaded.images, images)
        np.testing.assert_array_equal(loaded.labels, labels)
        assert loaded.labels.dtype == np.int32 and loaded.label_names == ("a", "b", "c")
    with pytest.raises(UserError, match="digits.*fashion_mnist, stripes, lsun/<category>"):
        data.check("strips")
    with pytest.raises(ValueError, match="stripes"):
        data.SOURCES.add(data.Arrays("stripes", stripes))


def test_arrays_are_cropped_and_resized_as_files_are(monkeypatch, tmp_path):
    root = tmp_path / "images"
    pictures = write_folder(root, 6)
    wide = np.stack([np.concatenate([np.zeros_like(image), image, image], 1) for image in pictures.values()])
    for name, image in zip(pictures, wide, strict=True):
        (root / name).write_bytes(encoded(Image.fromarray(image)))
    monkeypatch.setitem(data.SOURCES, "wide", data.Arrays("wide", lambda split: (wide, None)))
    from_files = np.concatenate([data.load(f"folder:{root}", split, 13).images for split in data.SPLITS])
    from_arrays = data.load("wide", "train", 13).images
    assert sorted(image.tobytes() for image in from_arrays) == sorted(image.tobytes() for image in from_files)


def test_arrays_can_have_attributes(monkeypatch):
    images, truths = stripes("train")[0], np.array([[1, 0], [0, 0], [1, 1], [0, 1], [1, 0]])
    use(monkeypatch, lambda split: (images, truths == 1), label_names=("Bright", "Striped"))
    loaded = data.load("stripes", "train", 4)
    np.testing.assert_array_equal(loaded.labels, truths)
    assert loaded.labels.dtype == np.uint8 and data.classes("stripes") == 0


@pytest.mark.parametrize("changed", ["images", "labels", "label names"])
def test_changed_arrays_are_decoded_again(changed, monkeypatch):
    images, labels = stripes("train")
    names = ("a", "b", "c")
    use(monkeypatch, lambda split: (images, labels), classes=3, label_names=names)
    data.load("stripes", "train", 8)
    images, labels, names = {
        "images": (images + 1, labels, names),
        "labels": (images, labels[::-1], names),
        "label names": (images, labels, ("a", "b", "d")),
    }[changed]
    use(monkeypatch, lambda split: (images, labels), classes=3, label_names=names)
    loaded = data.load("stripes", "train", 8)
    np.testing.assert_array_equal(loaded.images, images)
    np.testing.assert_array_equal(loaded.labels, labels)
    assert loaded.label_names == names


def test_arrays_with_a_version_are_loaded_once_per_version(monkeypatch):
    calls = []

    def load(split):
        calls.append(split)
        return stripes(split)

    for version, expected in (("1", 1), ("1", 1), ("2", 2)):
        use(monkeypatch, load, classes=3, version=version)
        data.load("stripes", "train", 8)
        assert len(calls) == expected


@pytest.mark.parametrize(
    ("images", "labels", "facts", "message"),
    [
        (np.zeros((2, 8, 8, 1)), None, {}, r"images of 'train' are float64.*uint8 \[n, height, width, 1\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), None, {}, r"\[2, 8, 8, 3\]"),
        (np.zeros((2, 8, 8), np.uint8), None, {}, r"\[2, 8, 8\]"),
        (np.zeros((2, 8, 8, 1), np.uint8), [0, 3], {"classes": 3}, "labels.*from 0 to 2"),
        (np.zeros((2, 8, 8, 1), np.uint8), [0], {"classes": 3}, "labels"),
        (np.zeros((2, 8, 8, 1), np.uint8), None, {"classes": 3}, "labels"),
        (np.zeros((2, 8, 8, 1), np.uint8), [0, 1], {"classes": 3, "label_names": ("a",)}, "label_names"),
        (np.zeros((2, 8, 8, 1), np.uint8), [0, 1], {}, "classes="),
        (np.zeros((0, 8, 8, 1), np.uint8), None, {}, "no images"),
    ],
)
def test_arrays_of_another_form_are_refused(images, labels, facts, message, monkeypatch):
    use(monkeypatch, lambda split: (images, labels), **facts)
    with pytest.raises(UserError, match=message):
        data.load("stripes", "train", 8)
    assert not list(cache.directory("data").rglob("*.npy"))


# --- names, sizes, places ---


def test_every_source_can_be_found_by_its_name(data_dir):
    for name in (*data.SOURCES, "lsun/bedroom", "stl10"):
        source = data.find(name, data_dir)
        assert source.name == name and source.channels in (1, 3)
    assert data.find("folder:somewhere", data_dir).name == "folder:somewhere"
    assert data.find("mnist", data_dir).data_dir == data_dir


def test_keys_of_decoded_images_stay_what_they_were(data_dir):
    keys = {"digits": "digits-1.0.0", "synthetic_faces": "synthetic_faces-1.0.0", "lsun/bedroom": "lsun-bedroom-3.1.0"}
    for name, key in keys.items():
        assert {data.find(name, data_dir).key(split) for split in data.SPLITS} == {key}


def test_unknown_names_are_refused_with_the_allowed_ones():
    with pytest.raises(UserError, match="celeb_b.*digits, synthetic_faces, cifar10, celeb_a"):
        data.check("celeb_b")
    with pytest.raises(UserError, match="lsun/church_outdoor"):
        data.check("lsun/castle")
    with pytest.raises(UserError, match="lsun/bedroom"):
        data.check("lsun")
    with pytest.raises(UserError, match="allowed"):
        data.check("")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar10", "comes through TFDS, which is not installed: pip install.*files:PATH.*synthetic_faces"),
        ("digit", "is unknown; did you mean 'digits'.*allowed: digits.*once TFDS is installed: pip install"),
    ],
)
def test_without_tfds_the_error_names_the_extra(name, said, data_dir, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if "tensorflow" in name else find(name))
    monkeypatch.setattr(tfds, "_BUILDERS", {})
    with pytest.raises(UserError, match=said) as caught:
        data.load(name, "train", 32, data_dir)
    assert "\n" not in str(caught.value) and not os.path.exists(data_dir)


def test_embedded_data_are_read_without_tfds(tmp_path):
    import subprocess

    code = "import sys, jaxtickets.data as d; d.load('digits', 'train', 8); print('tensorflow_datasets' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_checking_prepares_nothing(tmp_path, data_dir):
    for name in ("digits", "synthetic_faces", "celeb_a", "cifar10", "lsun/bedroom", "stl10"):
        data.check(name, 32, data_dir)
    assert not os.path.exists(data_dir) and not (tmp_path / "cache").exists()


def test_impossible_sizes_splits_and_directories_are_refused(tmp_path, data_dir):
    for size in (0, -4, 1.5, True):
        with pytest.raises(UserError, match="image_size"):
            data.check("digits", size)
    with pytest.raises(UserError, match="train, test"):
        data.load("digits", "valid", 8, data_dir)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data.dir"):
        data.check("digits", 8, str(tmp_path / "file"))


def test_gray_data_sets_have_one_channel():
    assert [data.channels(name) for name in ("digits", "mnist", "fashion_mnist")] == [1, 1, 1]
    assert [data.channels(name) for name in ("synthetic_faces", "celeb_a", "cifar10")] == [3, 3, 3]


def test_importing_the_room_imports_no_dataset_library():
    import subprocess

    code = "import sys, jaxtickets.data; print({'tensorflow_datasets', 'sklearn', 'PIL', 'jax'} & set(sys.modules))"
    root = os.path.dirname(os.path.dirname(data.__path__[0]))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout.strip() == "set()"


# --- the cache ---


def test_the_cache_directory_follows_the_environment(tmp_path, monkeypatch):
    assert cache.directory("a", "b") == tmp_path / "cache" / "a" / "b"
    monkeypatch.delenv("JAXTICKETS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.directory() == tmp_path / "xdg" / "jaxtickets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.directory() == tmp_path / "home" / ".cache" / "jaxtickets"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "value.txt"
    with files.atomic_write(target) as path:
        path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_write(target) as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir() if p.is_file()] == ["value.txt"]
