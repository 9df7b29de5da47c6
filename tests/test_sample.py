"""Images from trained networks: which they are, where they go, and what is refused."""

import io
import re
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import digests, tiny, untrained_run
from PIL import Image

from jaxtickets import image_writing, latent_space, opening, sample, tickets, trained
from jaxtickets.errors import UserError
from jaxtickets.metrics.grid import GRID
from jaxtickets.runs import Networks
from jaxtickets.train import TrainState

pytestmark = pytest.mark.usefixtures("digits_metric")
SMALL = {"model.width": 4, "eval.batch_size": 16, "seed": 3}


@pytest.fixture(scope="module")
def gan(data_directory, tmp_path_factory):
    config = tiny("gan_digits", data_directory, **SMALL)
    return untrained_run(config, tmp_path_factory.mktemp("gan") / "run")


@pytest.fixture(scope="module")
def autoencoder(data_directory, tmp_path_factory):
    config = tiny("ae_digits", data_directory, **SMALL)
    return untrained_run(config, tmp_path_factory.mktemp("ae") / "run", winner=None)


def call(*arguments):
    """The command's exit status."""
    return sample.main(list(map(str, arguments)))


def refused(capsys, *arguments):
    """The one line with which the command refuses."""
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("jaxtickets: ")
    return captured.err


def expected(place, round_, seed, numbers):
    """Samples by their definition: latents from the key of the seed, folded with the sample's number."""
    found = trained.load(place, round_)
    objective = Networks(opening.read_config(place)).make_objective()
    keys = np.stack([jax.random.key_data(jax.random.fold_in(jax.random.key(seed), number)) for number in numbers])
    images = objective.sample(found.params, found.batch_stats, jax.random.wrap_key_data(keys))
    return np.clip(np.floor((np.asarray(images, np.float64) + 1) * 127.5 + 0.5), 0, 255)


def png_images(directory):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(directory.iterdir())])


def test_a_directory_a_zip_and_an_array_hold_the_same_samples_each_made_from_its_own_key(gan, tmp_path):
    for name in ("images", "images.zip", "images.npz"):
        assert call(f"--workdir={gan.path}", "--n=37", f"--out={tmp_path / name}") == 0
    array = np.load(tmp_path / "images.npz")["arr_0"]
    assert array.dtype == np.uint8 and array.shape == (37, 16, 16, 3)
    assert np.all(array == array[..., :1])
    np.testing.assert_array_equal(png_images(tmp_path / "images"), array[..., 0])
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        names = archive.namelist()
        assert names == [f"{number:06d}.png" for number in range(37)]
        zipped = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])
    np.testing.assert_array_equal(zipped, array[..., 0])
    chosen = [0, 5, 16, 36]
    assert np.abs(array[chosen, ..., :1] - expected(gan, 1, 3, chosen)).max() <= 1  # Rounding of float32.
    assert np.std(array.astype(float), axis=0).mean() > 0.1


def test_samples_depend_neither_on_their_number_nor_on_the_batches(gan, tmp_path):
    for name, flags in (("a", ["--n=37"]), ("b", ["--n=20", "--batch_size=7"]), ("c", ["--n=20", "--seed=4"])):
        assert call(f"--workdir={gan.path}", f"--out={tmp_path / name}.npz", *flags) == 0
    a, b, c = (np.load(tmp_path / f"{name}.npz")["arr_0"].astype(int) for name in "abc")
    assert np.abs(a[:20] - b).max() <= 1 < np.abs(a[:20] - c).max()


def test_the_same_call_writes_the_same_bytes(gan, tmp_path):
    for name in ("a.zip", "b.zip", "a.npz", "b.npz"):
        assert call(f"--workdir={gan.path}", "--n=9", f"--out={tmp_path / name}") == 0
    for suffix in ("zip", "npz"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_a_round_is_chosen_by_number_or_name_and_the_winner_by_default(gan, tmp_path, capsys):
    said = {}
    for flag in ("", "winner", "1", "dense", "0", "last", "2"):
        flags = [f"--round={flag}"] if flag else []
        assert call(f"--workdir={gan.path}", "--n=2", f"--out={tmp_path / (flag or 'none')}.npz", *flags) == 0
        said[flag] = capsys.readouterr().out.split(" of ")[0]
    assert said == {"": "round 1", "winner": "round 1", "1": "round 1"} | {
        **{"dense": "round 0", "0": "round 0", "last": "round 2", "2": "round 2"}
    }
    assert (
        (tmp_path / "none.npz").read_bytes() == (tmp_path / "1.npz").read_bytes() != (tmp_path / "0.npz").read_bytes()
    )


def test_a_ticket_file_gives_the_samples_of_its_round(gan, data_directory, tmp_path):
    networks = Networks(opening.read_config(gan))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), (networks.params, networks.batch_stats))
    point = TrainState(np.int32(0), np.uint32(0), *zeros, {}, {}, {})
    metadata = {"config": networks.json_config, "verdict": {"winning_round": 1}}
    weights = trained.load(gan, 1)
    masks = jax.tree.map(lambda leaf, mask: mask if mask is None else leaf != 0, weights.params, networks.dense_masks)
    tickets.save_ticket(tmp_path / "t.safetensors", masks, point, trained=weights, metadata=metadata)
    for name, where in (("a", f"--ticket={tmp_path / 't.safetensors'}"), ("b", f"--workdir={gan.path}")):
        assert call(where, "--n=9", f"--out={tmp_path / name}.npz") == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_conditional_samples_have_their_classes_in_the_names_and_the_array(data_directory, tmp_path):
    config = tiny("gan_digits", data_directory, **SMALL, **{"model.name": "resnet_dcgan", "model.conditional": True})
    place = untrained_run(config, tmp_path / "run")
    for name in ("a", "a.npz"):
        assert call(f"--workdir={place.path}", "--n=5", "--labels=7,2", f"--out={tmp_path / name}") == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir())[:3] == [
        "000000_7.png",
        "000001_2.png",
        "000002_7.png",
    ]
    assert np.load(tmp_path / "a.npz")["arr_1"].tolist() == [7, 2, 7, 2, 7]
    assert call(f"--workdir={place.path}", "--n=20", f"--out={tmp_path / 'b.npz'}") == 0
    assert np.load(tmp_path / "b.npz")["arr_1"].tolist() == [0] * GRID + [1] * GRID + [2] * 4


# Grids.


def tiles(path, scale=4, gap=4, size=16):
    """The images of a grid `[rows, columns, size, size]`, by the layout of sample grids."""
    grid, step = np.asarray(Image.open(path)), size * scale + gap
    rows = [grid[top : top + size * scale : scale] for top in range(0, len(grid), step)]
    return np.stack(
        [[row[:, left : left + size * scale : scale, 0] for left in range(0, grid.shape[1], step)] for row in rows]
    )


def test_the_ends_of_an_interpolation_are_samples_and_its_rows_change_little_by_little(gan, tmp_path):
    path = tmp_path / "way.png"
    assert call(f"--workdir={gan.path}", f"--interpolate={path}") == 0
    rows = tiles(path).astype(int)
    assert rows.shape == (GRID, GRID, 16, 16)
    ends = expected(gan, 1, 3, range(2 * GRID))[..., 0].reshape(GRID, 2, 16, 16)
    assert np.abs(rows[:, [0, -1]] - ends).max() <= 1
    steps = np.abs(np.diff(rows, axis=1)).mean(axis=(1, 2, 3))
    assert np.all(steps < np.abs(ends[:, 0] - ends[:, 1]).mean(axis=(1, 2)))


def test_a_spherical_way_has_equal_angles_and_keeps_the_length():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 20))
    first, second = (3 * vector / np.linalg.norm(vector) for vector in (first, second))
    way = np.stack([latent_space.spherical(first, second, share) for share in np.linspace(0, 1, 6)])
    np.testing.assert_allclose(way[[0, -1]], [first, second])
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), 3)
    angles = np.arccos(np.sum(way[1:] * way[:-1], axis=1) / 9)
    np.testing.assert_allclose(angles, np.arccos(first @ second / 9) / 5)
    np.testing.assert_allclose(latent_space.spherical(first, 2 * first, 0.5), 1.5 * first)


def test_reconstructions_stand_below_their_held_out_images(autoencoder, tmp_path):
    path = tmp_path / "again.png"
    assert call(f"--workdir={autoencoder.path}", f"--reconstruct={path}", "--round=0") == 0
    opened = opening.open_round(autoencoder, 0)
    held_out = np.asarray(opening.dataset(opened, "test").images[: GRID * GRID // 2])
    made = opened.objective.reconstruct(opened.params, opened.batch_stats, held_out / np.float32(127.5) - 1)
    rows = tiles(path).astype(int)
    np.testing.assert_array_equal(rows[::2].reshape(-1, 16, 16), held_out[..., 0])
    below = np.clip(np.floor((np.asarray(made, np.float64)[..., 0] + 1) * 127.5 + 0.5), 0, 255)
    assert np.abs(rows[1::2].reshape(-1, 16, 16) - below).max() <= 1


def test_an_autoencoder_goes_from_one_held_out_image_to_another(autoencoder, tmp_path):
    assert call(f"--workdir={autoencoder.path}", f"--interpolate={tmp_path / 'way.png'}", "--round=0") == 0
    assert call(f"--workdir={autoencoder.path}", f"--reconstruct={tmp_path / 'again.png'}", "--round=0") == 0
    ends = tiles(tmp_path / "way.png")[:, [0, -1]].reshape(-1, 16, 16).astype(int)
    images = tiles(tmp_path / "again.png")[[1, 3]].reshape(-1, 16, 16).astype(int)
    assert np.abs(ends - images).max() <= 1


# Places.


def test_what_is_there_is_replaced_only_on_request_and_only_if_it_is_samples(gan, tmp_path, capsys):
    run, out = f"--workdir={gan.path}", tmp_path / "images"
    for place in (out, tmp_path / "a.npz"):
        assert call(run, "--n=9", f"--out={place}") == 0
        capsys.readouterr()
        assert "is there already; give another place, or --overwrite" in refused(capsys, run, "--n=2", f"--out={place}")
        assert call(run, "--n=2", f"--out={place}", "--overwrite") == 0
        capsys.readouterr()
    assert len(list(out.iterdir())) == 2 and len(np.load(tmp_path / "a.npz")["arr_0"]) == 2
    somebody_elses = out / "000001.png"
    somebody_elses.unlink()
    Image.new("L", (4, 4)).save(somebody_elses)
    before = digests(tmp_path)
    assert "holds 000001.png, which no earlier" in refused(capsys, run, "--n=2", f"--out={out}", "--overwrite")
    assert digests(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"images", "a.npz"}


@pytest.mark.parametrize("name", ["images", "images.zip", "images.npz"])
def test_an_interrupted_call_leaves_what_was_there(tmp_path, name):
    batch = np.zeros((3, 4, 4, 1), np.uint8)
    image_writing.write(tmp_path / name, iter([batch]), 3)
    before = digests(tmp_path)

    def batches():
        yield batch + 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        image_writing.write(tmp_path / name, batches(), 6)
    assert digests(tmp_path) == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("failing", ["images", "made"])
def test_a_failure_while_a_directory_is_replaced_leaves_the_old_one(tmp_path, monkeypatch, failing):
    batch, rename = np.zeros((3, 4, 4, 1), np.uint8), Path.rename
    image_writing.write(tmp_path / "images", iter([batch]), 3)
    before = digests(tmp_path)

    def broken(path, target):
        if path.name == failing:
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="no space"):
        image_writing.write(tmp_path / "images", iter([batch + 1]), 3)
    assert digests(tmp_path) == before and len(list(tmp_path.iterdir())) == 1


def test_mistakes_are_one_line_and_nothing_is_written(gan, autoencoder, tmp_path, capsys):
    run, out = f"--workdir={gan.path}", f"--out={tmp_path / 'x'}"
    (tmp_path / "no.safetensors").touch()
    shutil.copytree(gan.path, tmp_path / "older")
    shutil.rmtree(tmp_path / "older" / "weights")
    cases = {
        "give either --workdir or --ticket": [out],
        "nothing to write is given; give one of --out": [run],
        "there is no such directory": [f"--workdir={tmp_path / 'none'}", out],
        "has no readable config.json": [f"--workdir={tmp_path}", out],
        "can't be read as a ticket": [f"--ticket={tmp_path / 'no.safetensors'}", out],
        "--round=9: .*run has no weights of round 9; it has these rounds whose weights are kept: 0, 1, 2": [
            run,
            out,
            "--round=9",
        ],
        "--round=best: allowed are numbers of rounds, dense, winner, last": [run, out, "--round=best"],
        "the verdict names no winner": [f"--workdir={autoencoder.path}", out, "--round=winner"],
        "kept: none": [f"--workdir={tmp_path / 'older'}", out],
        "--n=0: allowed is a whole number of at least 1": [run, out, "--n=0"],
        "--seed=-1: allowed is a whole number of at least 0": [run, out, "--seed=-1"],
        "--labels=1: the network is not conditional": [run, out, "--labels=1"],
        "config.objective.name='autoencoder' has no prior .*; allowed are --interpolate, --reconstruct$": [
            f"--workdir={autoencoder.path}",
            out,
        ],
        "traverse=.*'autoencoder' has no normal latents, .*; allowed are --interpolate, --reconstruct$": [
            f"--workdir={autoencoder.path}",
            f"--traverse={tmp_path / 'r.png'}",
        ],
        "traverse=.*'gan' has no encoder, .* of an image; allowed are --out, --grid, --interpolate, --nearest$": [
            run,
            f"--traverse={tmp_path / 'r.png'}",
        ],
        "config.objective.name='gan' has no encoder .*; allowed are --out, --grid, --interpolate, --nearest$": [
            run,
            f"--reconstruct={tmp_path / 'r.png'}",
        ],
        "allowed is a file that ends in .png": [run, f"--grid={tmp_path / 'r.jpg'}"],
        "x.rar: allowed is a directory without a suffix, or a file that ends in .zip or .npz": [
            run,
            f"--out={tmp_path / 'x.rar'}",
        ],
        "no.safetensors is no directory": [run, f"--out={tmp_path / 'no.safetensors' / 'x'}"],
        "extra: not a flag": [run, out, "extra"],
    }
    before = digests(tmp_path)
    for text, arguments in cases.items():
        assert re.search(text, refused(capsys, *arguments)), text
    assert digests(tmp_path) == before


def test_the_workdir_is_left_as_it_is(gan, tmp_path):
    before = digests(gan.path)
    assert call(f"--workdir={gan.path}", "--n=3", f"--out={tmp_path / 'a'}", f"--grid={tmp_path / 'g.png'}") == 0
    assert digests(gan.path) == before


def test_a_place_that_holds_a_file_is_no_directory(tmp_path):
    (tmp_path / "a.zip").mkdir()
    (tmp_path / "a.zip" / "0.png").touch()
    with pytest.raises(UserError, match="is a directory; give another place"):
        image_writing.check(Path(tmp_path / "a.zip"), "--out=a.zip", True)
