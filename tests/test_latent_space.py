"""Pictures of the latent space: what their rows show, when a run draws them, and what becomes of them."""

import re
from argparse import Namespace

import numpy as np
import pytest
from conftest import digests, tiny, untrained_run
from PIL import Image

from jaxtickets import latent_space, opening
from jaxtickets.latent_space import WIDEST
from jaxtickets.metrics.grid import GRID
from jaxtickets.paths import PICTURES
from jaxtickets.report.latent import latent

pytestmark = pytest.mark.usefixtures("digits_metric")
SMALL = {"model.width": 4, "model.latent_size": 3, "eval.batch_size": 16, "seed": 3}


@pytest.fixture(scope="module")
def vae(data_directory, tmp_path_factory):
    config = tiny("vae_digits", data_directory, **SMALL)
    place = untrained_run(config, tmp_path_factory.mktemp("vae") / "run", sparsities=(0.2, 0.5))
    latent_space.draw(place)
    return place


def images(grid):
    """The images of a grid, `[rows, 8, h, w]`, as small as they were."""
    size = (len(grid[0]) + 4) // GRID
    rows = (len(grid) + 4) // size
    padded = np.pad(grid[..., 0], ((0, 4), (0, 4)))
    return padded.reshape(rows, size, GRID, size).swapaxes(1, 2)[:, :, :-4:4, :-4:4].astype(int)


def test_a_run_has_each_picture_of_its_dense_network_and_of_its_winner(vae):
    assert {kind: list(found) for kind, found in vae.list_pictures().items()} == {kind: [0, 1] for kind in PICTURES}


def test_the_page_shows_both_networks_side_by_side(vae):
    run = Namespace(pictures=vae.list_pictures(), rounds=[], verdict=vae.read_verdict(), seeds={})
    page = "\n".join(latent(run))
    titles = ["Interpolations", "Traversals", "Reconstructions", "Nearest training images"]
    assert re.findall("<h3>(.*?)</h3>", page) == titles
    assert ["Round 0" in alt for alt in re.findall('alt="(.*?)"', page)] == [True, False] * 4


def test_only_what_is_missing_is_drawn_and_equal(vae):
    before = digests(vae.path)
    path = vae.picture("traversal", 1)
    path.unlink()
    latent_space.draw(vae)
    assert digests(vae.path) == before


def test_each_row_of_a_traversal_moves_one_latent_and_the_most_used_first(vae):
    opened = opening.open_round(vae, 0)
    held_out = np.asarray(opening.dataset(opened, "test").images[:])
    codes = np.asarray(opened.objective.encode(opened.params, opened.batch_stats, held_out / np.float32(127.5) - 1))
    used = sorted(range(3), key=lambda latent: -codes[:, latent].var())
    rows = np.stack([[codes[0]] * GRID] * 3)
    for row, unit in enumerate(used):
        rows[row, :, unit] = np.linspace(-WIDEST, WIDEST, GRID)
    made = opened.objective.decode(opened.params, opened.batch_stats, rows.reshape(-1, 3))
    expected = np.clip(np.floor((np.asarray(made, np.float64)[..., 0] + 1) * 127.5 + 0.5), 0, 255)
    found = images(latent_space.traversal(opened, seed=0))
    assert found.shape == (3, GRID, 16, 16)
    assert np.abs(found.reshape(-1, 16, 16) - expected).max() <= 1


def test_pictures_of_both_networks_start_from_the_same_latents_and_images(vae):
    for kind in ("interpolation", "reconstruction"):
        dense, winner = (images(np.asarray(Image.open(vae.picture(kind, round_)))) for round_ in (0, 1))
        assert dense.shape == winner.shape and np.any(dense != winner)
    np.testing.assert_array_equal(dense[::2], winner[::2])  # The held-out images above their reconstructions.


def test_pictures_go_with_the_verdict(data_directory, tmp_path):
    place = untrained_run(tiny("ae_digits", data_directory, **SMALL), tmp_path / "run", winner=None)
    latent_space.draw(place)
    assert {kind: list(found) for kind, found in place.list_pictures().items() if found} == {
        "interpolation": [0, 2],  # Without a winner, the last round.
        "reconstruction": [0, 2],
    }
    place.remove_verdict()
    assert not any(place.list_pictures().values()) and not place.lost()


def test_damaged_weights_cost_the_pictures_of_their_round_alone(data_directory, tmp_path, capsys):
    place = untrained_run(tiny("ae_digits", data_directory, **SMALL), tmp_path / "run")
    content = bytearray(place.weights(1).read_bytes())
    content[-20] ^= 255
    place.weights(1).write_bytes(content)
    latent_space.draw(place)
    assert [list(found) for found in place.list_pictures().values() if found] == [[0], [0]]
    assert "pictures of the latent space of round 1 are left out" in capsys.readouterr().err
