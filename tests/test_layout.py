"""Splits and classes by the names of directories, and by the further names that links give to images."""

import os
import stat
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxtickets import data
from jaxtickets.data.layout import arrange, called_for
from jaxtickets.errors import UserError


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))


def named(*folders, count=3, links=None):
    """The layout of some images in each of these directories."""
    return arrange({f"{folder}/{i}.png": () for folder in folders for i in range(count)} | (links or {}))


def folders_of(layout, split):
    return {os.path.dirname(name) for name, _ in layout.splits[split]}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ({"train2017"}, {"val2017"}),
        ({"trainA"}, {"testA"}),
        ({"trainA", "trainB"}, {"testA", "testB"}),
        ({"traina"}, {"testa"}),
        ({"TRAIN_IMAGES"}, {"Test-Images"}),
        ({"training"}, {"validation"}),
        ({"train"}, {"dev"}),
        ({"train"}, {"eval"}),
        ({"train"}, {"held-out"}),
        ({"training_set"}, {"test_set"}),
        ({"TrainData"}, {"HoldOut"}),
        ({"trainset"}, {"testset"}),
        ({"train_64x64"}, {"valid_64x64"}),
        ({"seg_train/seg_train"}, {"seg_test/seg_test"}),
        ({"images/train2014"}, {"images/val2014"}),
        ({"train 1", "train 2"}, {"test 1"}),
    ],
)
@pytest.mark.parametrize("kinds", [(), ("a", "b")])
def test_directories_called_for_splits_hold_them_and_are_no_classes(train, test, kinds):
    below = [f"/{kind}" for kind in kinds] or [""]
    layout = named(*(folder + kind for folder in train | test for kind in below))
    assert folders_of(layout, "train") == {folder + kind for folder in train for kind in below}
    assert folders_of(layout, "test") == {folder + kind for folder in test for kind in below}
    assert layout.label_names == kinds and layout.left_out == {}
    assert all(part in layout.split_by for folder in train | test for part in folder.rsplit("/")[-1:])


def test_directories_whose_names_differ_in_the_word_for_the_split_give_classes_too():
    layout = named("cats_train", "cats_test", "dogs_train", "dogs_test")
    assert layout.label_names == ("cats", "dogs")
    labels = {name: layout.label_names[label] for rows in layout.splits.values() for name, label in rows}
    assert all(name.startswith(label) for name, label in labels.items()) and len(labels) == 12
    assert folders_of(layout, "test") == {"cats_test", "dogs_test"}


@pytest.mark.parametrize(
    ("folders", "test"),
    [
        (("val", "test"), "test"),
        (("dev", "eval"), "eval"),
        (("holdout", "val"), "holdout"),
        (("val2017", "test2017"), "test2017"),
    ],
)
def test_of_several_held_out_splits_one_is_the_test_split_and_the_others_are_told(folders, test):
    layout = named("train", *folders)
    assert folders_of(layout, "train") == {"train"} and folders_of(layout, "test") == {test}
    (why,) = layout.left_out
    assert "split" in why and layout.left_out[why] == 3


@pytest.mark.parametrize("name", ["trains", "test_tubes", "testa", "crash_test", "validity", "train_val", "device"])
def test_names_that_only_hold_such_a_word_are_classes(name):
    assert named("other", name).label_names == tuple(sorted(("other", name)))
    assert called_for(name) is None or called_for(name)[1]


def test_directories_for_training_alone_are_no_classes_and_a_tenth_of_them_is_held_out():
    layout = named("trainA", "trainB", count=10)
    assert layout.label_names == () and len(layout.splits["test"]) == 2 and "trainA, trainB" in layout.split_by


@pytest.mark.parametrize(
    ("folders", "part"),
    [
        (("val", "test"), "training"),
        (("cats", "dogs", "test"), "training"),
        (("cats", "dogs", "Validation"), "training"),
        (("seg_val", "seg_test"), "training"),
        (("train2017", "more"), "held-out"),
        (("a/dev", "b"), "training"),
    ],
)
def test_splits_of_which_a_part_is_missing_are_refused(folders, part):
    with pytest.raises(UserError, match=f"holds {part} images; allowed: train beside test") as caught:
        named(*folders)
    assert "\n" not in str(caught.value)


def test_the_refusal_names_the_data(tmp_path):
    paint(tmp_path / "x", "val/1.png", "test/1.png")
    with pytest.raises(UserError, match=r"^data\.name='folder:.*/x': the directories are called for splits"):
        data.check(f"folder:{tmp_path / 'x'}")


# --- links ---


def paint(root, *names):
    """Writes a grey image of its own value under each name."""
    for value, name in enumerate(names, 100):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(root / name)


def farm(root, link, pool="all"):
    """Forty images in one directory, and a name for each below train/ or test/ and a/ or b/."""
    paint(root, *(f"{pool}/{i:02d}.png" for i in range(40)))
    for i in range(40):
        folder = root / ("train" if i < 30 else "test") / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        link(root / pool / f"{i:02d}.png", folder / f"{i:02d}.png")
    return root


LINKS = {
    "absolute": lambda target, name: name.symlink_to(target),
    "relative": lambda target, name: name.symlink_to(os.path.relpath(target, name.parent)),
    "hard": lambda target, name: name.hardlink_to(target),
}


@pytest.mark.parametrize("pool", ["all", "zpool"])
@pytest.mark.parametrize("kind", LINKS)
def test_a_farm_of_links_gives_its_splits_and_labels_to_the_images(kind, pool, tmp_path):
    root = farm(tmp_path / "farm", LINKS[kind], pool)
    train, test = (data.load(f"folder:{root}", split, 4) for split in data.SPLITS)
    assert sorted(train.images[:, 0, 0, 0]) == list(range(100, 130))
    assert sorted(test.images[:, 0, 0, 0]) == list(range(130, 140))
    for part in (train, test):
        assert part.label_names == ("a", "b")
        np.testing.assert_array_equal(part.labels, part.images[:, 0, 0, 0] % 2)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("relative", "tar"), ("hard", "tar"), ("relative", "tar.gz"), ("relative", "zip")]
)
def test_links_in_archives_give_splits_and_labels_too(kind, suffix, tmp_path):
    root, path = farm(tmp_path / "farm", LINKS[kind]), tmp_path / f"x.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*.png")):
                link = zipfile.ZipInfo(file.relative_to(root).as_posix())
                link.external_attr = (stat.S_IFLNK if file.is_symlink() else stat.S_IFREG) << 16
                archive.writestr(link, os.readlink(file) if file.is_symlink() else file.read_bytes())
    else:
        with tarfile.open(path, f"w:{suffix[4:]}") as archive:
            archive.add(root, "farm")
    expected = [data.load(f"folder:{root}", split, 4).digest for split in data.SPLITS]
    assert [data.load(f"folder:{path}", split, 4).digest for split in data.SPLITS] == expected
    assert len(data.load(f"folder:{path}", "test", 4).images) == 10


def test_links_to_directories_give_splits_and_labels_too(tmp_path):
    root = tmp_path / "farm"
    paint(root, *(f"pool/{part}/{kind}/{i}.png" for part in "xy" for kind in "ab" for i in range(3)))
    (root / "train").symlink_to(root / "pool" / "x")
    (root / "test").symlink_to("pool/y")
    train, test = (data.load(f"folder:{root}", split, 4) for split in data.SPLITS)
    assert sorted(train.images[:, 0, 0, 0]) == list(range(100, 106)) and train.label_names == ("a", "b")
    assert sorted(test.images[:, 0, 0, 0]) == list(range(106, 112)) and list(test.labels) == [0] * 3 + [1] * 3


def test_one_link_to_each_image_gives_the_classes_and_some_links_do_not(tmp_path):
    root = tmp_path / "farm"
    paint(root, *(f"all/{i}.png" for i in range(6)))
    for i in range(6):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        assert data.find(f"folder:{root}").classes == 0
        (root / "ab"[i % 2] / f"{i}.png").symlink_to(root / "all" / f"{i}.png")
    loaded = data.load(f"folder:{root}", "train", 4)
    np.testing.assert_array_equal(loaded.labels, loaded.images[:, 0, 0, 0] % 2)


def test_links_that_change_are_seen_although_no_image_does(tmp_path):
    root = farm(tmp_path / "farm", LINKS["relative"])
    before = [len(data.load(f"folder:{root}", split, 4).images) for split in data.SPLITS]
    (root / "train" / "a" / "00.png").rename(root / "test" / "a" / "00.png")
    after = [len(data.load(f"folder:{root}", split, 4).images) for split in data.SPLITS]
    assert (before, after) == ([30, 10], [29, 11])


@pytest.mark.parametrize(
    ("own", "links"),
    [
        ("all/x.png", ("train/a/x.png", "test/a/x.png")),
        ("all/x.png", ("train/a/x.png", "train/b/x.png")),
    ],
)
def test_an_image_with_links_in_two_splits_or_classes_of_a_split_is_refused(own, links):
    with pytest.raises(UserError, match=f"one image is {links[0]} and {links[1]}; give it one place"):
        named("train/a", "train/b", "test/a", links={own: links})


def test_an_image_in_a_split_stays_there_whatever_links_to_it():
    layout = named("train", links={f"test/{i}.png": (f"train/more{i}.png",) for i in range(3)})
    assert folders_of(layout, "train") == {"train"} and folders_of(layout, "test") == {"test"}
    assert layout.left_out == {"links that give images another split or class": 3}


def test_links_into_another_class_are_told():
    layout = named("a", "b", links={"a/x.png": ("b/x.png",)})
    assert layout.label_names == ("a", "b") and ("a/x.png", 0) in layout.splits["train"] + layout.splits["test"]
    assert layout.left_out == {"links that give images another split or class": 1}


def test_a_split_of_links_into_another_is_refused():
    with pytest.raises(UserError, match="nothing but links to images of another"):
        arrange({f"train/{i}.png": (f"test/{i}.png",) for i in range(4)})


def test_a_class_by_its_file_and_another_by_a_link_are_refused():
    with pytest.raises(UserError, match=r"has a link in another one \(cats, dogs\)"):
        arrange({f"{2019 + i % 2}/{i}.png": (f"{('cats', 'dogs')[i // 2]}/{i}.png",) for i in range(4)})
