"""A run and its data: what counts as the same data, where they are kept, and what is refused or told without them."""

import json
import os
import shutil

import numpy as np
import pytest
from conftest import digests, tiny
from PIL import Image

from jaxtickets import data, opening, runs, sample, tickets
from jaxtickets.errors import UserError
from jaxtickets.experiments import branch, transfer
from jaxtickets.runs import Networks
from jaxtickets.workdir import Workdir

OTHER = "trained on other images or labels"


def pictures(folder, seed, count, name="picture"):
    """Writes dark and bright images of 16x16 pixels, which an autoencoder learns to tell apart in a few steps."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = rng.integers(0, 9, (16, 16), np.uint8)
        image += np.uint8(240 * (i % 2))
        Image.fromarray(image).save(folder / f"{name}{i:03d}.png")
    return folder


def config(folder, **changes):
    """One dense round and one pruned one of an autoencoder, which needs no feature network."""
    given = {"data.name": f"folder:{folder}", "prune.sparsities": (0.5,), "tolerance": 1000.0}
    given |= {"optimizer.learning_rate": 1e-2, "train.steps": 40, "train.checkpoint_every": 0}
    return tiny("ae_digits", "", **given | changes)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images that no test changes."""
    return pictures(tmp_path_factory.mktemp("data") / "images", 0, 60)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """The workdir of a finished run on `images`. No test writes into it."""
    path = tmp_path_factory.mktemp("finished") / "run"
    runs.run(config(images), path)
    return path


@pytest.fixture
def moved(finished, images, tmp_path):
    """The same run in a workdir of its own, on images of its own: `(workdir, folder)`."""
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    path = shutil.copytree(finished, tmp_path / "run")
    place = Workdir(path)
    content = place.config.read_text().replace(json.dumps(f"folder:{images}"), json.dumps(f"folder:{folder}"))
    rewrite(place, json.loads(content))
    return path, folder


def rewrite(place, content):
    """Replaces config.json, as an older version writes it: without a checksum."""
    place.config.write_text(json.dumps(content))
    place.checksums.unlink(missing_ok=True)


def keep_time(file, content):
    """Replaces the content of a file as `cp -p` does: the time of its change stays."""
    status = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_images_that_change_and_keep_size_and_time_are_decoded_again(tmp_path):
    for i in range(20):
        Image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / f"{i}.bmp")
    before = data.load(f"folder:{tmp_path}", "train", 8)
    assert before.images.mean() == 100
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "light.bmp")
    light = (tmp_path / "light.bmp").read_bytes()
    (tmp_path / "light.bmp").unlink()
    for i in range(20):
        keep_time(tmp_path / f"{i}.bmp", light)
    after = data.load(f"folder:{tmp_path}", "train", 8)
    assert after.images.mean() == 200 and after.digest != before.digest


def test_labels_that_change_and_keep_size_and_time_are_read_again(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8), np.arange(20, dtype=np.uint8) % 4
    for name, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (tmp_path / name).write_bytes(header + array.tobytes())
    before = data.load(f"files:{tmp_path}", "train", 8)
    keep_time(tmp_path / name, header + labels[::-1].tobytes())
    after = data.load(f"files:{tmp_path}", "train", 8)
    np.testing.assert_array_equal(after.images, before.images)
    np.testing.assert_array_equal(after.labels, 3 - before.labels)
    assert after.digest != before.digest


def test_the_identity_of_data_is_their_content_alone(images, tmp_path):
    first = data.load(f"folder:{images}", "train", 16).digest
    for other in (images, shutil.copytree(images, tmp_path / "elsewhere")):
        for file in other.iterdir():
            os.utime(file, (1, 1))
            file.chmod(0o600)
        assert data.load(f"folder:{other}", "train", 16).digest == first
    changed = next(name for name in sorted(os.listdir(images)))
    pixels = np.array(Image.open(images / changed))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "elsewhere" / changed)
    both = [data.load(f"folder:{tmp_path / 'elsewhere'}", split, 16).digest for split in data.SPLITS]
    assert both != [data.load(f"folder:{images}", split, 16).digest for split in data.SPLITS]
    assert data.load(f"folder:{images}", "train", 8).digest != first


def test_a_workdir_its_verdict_and_its_ticket_name_the_data(finished, images):
    expected = {split: data.load(f"folder:{images}", split, 16).digest for split in data.SPLITS}
    place = Workdir(finished)
    assert place.read_data() == expected and place.read_verdict()["data"] == expected
    assert tickets.load_ticket(place.ticket).metadata["verdict"]["data"] == expected


def test_files_that_are_touched_but_unchanged_resume(moved):
    path, folder = moved
    for file in folder.iterdir():
        os.utime(file)
    before = Workdir(path).read_rounds()
    Workdir(path).verdict.unlink()
    assert runs.run(config(folder), path)["winning_round"] == 1
    assert Workdir(path).read_rounds() == before


@pytest.mark.parametrize("change", ["added", "removed", "changed"])
@pytest.mark.parametrize("from_round", [None, 1])
def test_other_data_are_refused_before_anything_is_written(moved, change, from_round):
    path, folder = moved
    if change == "added":
        pictures(folder, 1, 5, "more")
    elif change == "removed":
        next(folder.iterdir()).unlink()
    else:
        Image.new("L", (16, 16)).save(folder / "picture000.png")
    before = digests(path)
    with pytest.raises(UserError, match=OTHER) as caught:
        runs.run(config(folder), path, from_round)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert digests(path) == before


def test_a_second_seed_is_not_trained_on_other_data_than_the_first(images, tmp_path, monkeypatch):
    folder, path = shutil.copytree(images, tmp_path / "images"), tmp_path / "run"
    several = config(folder, seeds=2, experiment="dense", **{"prune.sparsities": ()})
    runs.run(several, path)
    shutil.rmtree(path / "seed_1")
    (path / "verdict.json").unlink()
    pictures(folder, 1, 5, "more")
    with pytest.raises(UserError, match=OTHER):
        runs.run(several, path)
    assert not (path / "seed_1").exists()


def test_a_run_of_an_older_version_gets_the_identity_at_its_next_start(moved):
    path, folder = moved
    place = Workdir(path)
    origin = place.read_origin()
    del origin["about"]["data"]
    rewrite(place, origin)
    runs.run(config(folder), path)
    assert place.read_data() == data.digests(config(folder))
    pictures(folder, 1, 5, "more")
    with pytest.raises(UserError, match=OTHER):
        runs.run(config(folder), path)


def test_a_control_of_other_data_is_refused(moved):
    path, folder = moved
    control = config(folder, experiment="branch", **{"branch.of": str(path)})
    assert branch.source(Networks(control), 0).data == data.digests(control)
    pictures(folder, 1, 5, "more")
    with pytest.raises(UserError, match=f"branch.of=.*{OTHER}"):
        branch.source(Networks(control), 0)


@pytest.mark.parametrize("of", ["workdir", "ticket"])
def test_a_transfer_to_changed_data_of_the_same_name_is_refused_and_to_others_is_not(moved, images, of):
    path, folder = moved
    of = path if of == "workdir" else Workdir(path).ticket
    if of.is_file():  # Its config names the folder that the run was trained on.
        folder = images
    given = {"experiment": "transfer", "transfer.of": str(of)}
    transfer.source(Networks(config(folder, **given)), 0)
    others = pictures(path.parent / "others", 3, 30)
    transfer.source(Networks(config(others, **given)), 0)
    if not of.is_file():
        pictures(folder, 1, 5, "more")
        with pytest.raises(UserError, match=f"transfer.of=.*{OTHER}"):
            transfer.source(Networks(config(folder, **given)), 0)


def test_networks_that_are_opened_again_tell_that_their_data_have_changed(moved, capfd):
    path, folder = moved
    grid = ["--workdir", str(path), "--round", "dense", "--overwrite", "--reconstruct", str(path.parent / "grid.png")]
    assert sample.main(grid) == 0
    assert "other images" not in capfd.readouterr().err
    pictures(folder, 1, 40, "more")
    for _ in range(2):
        assert sample.main(grid) == 0
    told = capfd.readouterr().err
    assert told.count("holds other images or labels than those that the run was trained on") == 1


def test_a_network_that_is_opened_from_a_ticket_file_knows_the_data_of_its_run(finished):
    assert opening.open_ticket(Workdir(finished).ticket).data == Workdir(finished).read_data()


@pytest.mark.parametrize("count", [2, 100])
def test_an_autoencoder_trains_on_a_folder_of_any_number_of_images(count, tmp_path):
    folder = pictures(tmp_path / "images", 0, count)
    given = {"experiment": "dense", "prune.sparsities": (), "train.batch_size": 1, "train.steps": 2, "rewind_step": 0}
    runs.run(config(folder, **given), tmp_path / "run")  # Of two images one is held out, of a hundred ten.
    assert Workdir(tmp_path / "run").read_samples(0).std() > 0
