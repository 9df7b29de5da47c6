"""The feature networks for any data: their choice, tasks and files, and whether metrics in them order images."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, tiny
from scipy import ndimage
from scipy.spatial.transform import Rotation

from jaxtickets import data
from jaxtickets.errors import UserError
from jaxtickets.metrics import METRICS, Sets, classifier, features_of_images, labels, networks, self_supervised

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def config(data_directory):
    return tiny("gan_digits", data_directory, **{"eval.features": "auto"})


@pytest.fixture
def without_inception(monkeypatch):
    monkeypatch.setattr(networks, "is_available", lambda: False)


@pytest.fixture
def small(monkeypatch):
    """Two networks of a few steps."""
    monkeypatch.setattr(classifier, "NETWORKS", 2)
    monkeypatch.setattr(classifier, "STEPS", 3)


@pytest.fixture
def register():
    """Registers images, and labels if there are any, as a data set for one test; returns its name."""
    added = []

    def add(images, labels=None, classes=0, name="of the test"):
        half = len(images) // 2
        parts = {"train": slice(half), "test": slice(half, None)}

        def load(split):
            return images[parts[split]], None if labels is None else labels[parts[split]]

        data.SOURCES.add(data.Arrays(name, load, channels=images.shape[3], classes=classes))
        added.append(name)
        return name

    yield add
    for name in added:
        del data.SOURCES[name]


@pytest.fixture
def order(monkeypatch):
    """The module of `benchmarks/metric_order.py`."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import metric_order

    yield metric_order
    sys.modules.pop("metric_order")


def noise_images(n=20, size=16, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels)).astype(np.uint8)


# The choice.


@pytest.mark.parametrize(("name", "chosen"), [("digits", "digits"), ("synthetic_faces", "faces")])
def test_auto_is_the_network_of_the_data_set_where_there_is_one(config, without_inception, name, chosen):
    config.data.name = name
    assert networks.resolve(config) == chosen


def test_auto_is_inception_where_its_weights_are(config, monkeypatch):
    monkeypatch.setattr(networks, "is_available", lambda: True)
    assert networks.resolve(config) == "inception"


def test_auto_is_trained_on_labels_where_there_are_some_that_differ(config, without_inception, register):
    images, ones = noise_images(), np.ones((20, 1), np.uint8)
    kinds = {
        "classes": (np.arange(20) % 2, 2, "labels"),
        "attributes": (np.eye(20, dtype=np.uint8), 0, "labels"),
        "one class": (np.zeros(20, int), 1, "self_supervised"),
        "an attribute of all": (ones, 0, "self_supervised"),
        "none": (None, 0, "self_supervised"),
    }
    for name, (own, classes, chosen) in kinds.items():
        config.data.name = register(images, own, classes, name)
        assert networks.resolve(config) == chosen, name


def test_a_name_is_taken_as_it_is(config):
    config.eval.features = "self_supervised"
    assert networks.resolve(config) == "self_supervised"


def test_labels_of_images_without_labels_are_refused_in_one_line(config, register):
    config.data.name = register(noise_images())
    with pytest.raises(UserError) as refused:
        labels.load_at_hand(config)
    assert str(refused.value) == (
        "config.eval.features='labels': allowed is another one, such as self_supervised:"
        " of the test has no labels to learn"
    )


# Training and keeping.


@pytest.mark.parametrize("load", [labels.load_at_hand, self_supervised.load])
def test_networks_are_trained_once_per_content_of_the_data_set(config, small, register, monkeypatch, load):
    images, classes = noise_images(), np.arange(20) % 2
    config.data.name = register(images, classes, 2)
    first = load(config)
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "fit", None)
        assert load(config).digest == first.digest
    images[0, 0, 0, 0] ^= 255
    assert load(config).digest != first.digest


@pytest.mark.parametrize("load", [labels.load_at_hand, self_supervised.load])
def test_training_is_deterministic(config, small, register, load, tmp_path, monkeypatch):
    config.data.name = register(noise_images(), np.arange(20) % 2, 2)
    digests = []
    for folder in ("one", "two"):
        monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / folder))
        digests.append(load(config).digest)
    assert digests[0] == digests[1]


def test_networks_say_how_accurate_they_are(config, small, register):
    config.data.name = register(noise_images(), np.arange(20) % 2, 2)
    loaded = labels.load_at_hand(config)
    assert loaded.accuracy == np.mean([network.accuracy for network in loaded.networks])
    assert loaded.about == f"2 networks trained on {config.data.name}, held-out accuracy {loaded.accuracy:.1%}"
    assert "held-out accuracy at naming transformations" in self_supervised.load(config).about


def test_accuracy_is_that_of_held_out_images(optimized, monkeypatch):
    """Labels of noise can be learned by heart, and say nothing about other noise."""
    monkeypatch.setattr(classifier, "STEPS", 60)
    images, own = noise_images(600), np.arange(600) % 2
    network = classifier.train("heart", images[:100], own[:100], images[100:], own[100:])
    assert abs(network.accuracy - 0.5) < 0.1
    attributes = np.stack([own, 1 - own], axis=1)
    shown = np.where(own[:, None, None, None] == 1, images // 2, images)
    assert classifier.train("bright", shown[:100], attributes[:100], shown[100:], attributes[100:]).accuracy == 1


def test_features_of_any_size_and_colour_are_finite_and_of_the_promised_number(small):
    images = noise_images(6, 100, 3)
    network = self_supervised.train("any", images, images)
    assert network.size == 64
    for shape in ((2, 20, 20, 1), (2, 100, 100, 3)):
        features = jax.jit(lambda network, images: network(images))(network, jnp.zeros(shape))
        assert features.shape == (2, 64)
        assert np.isfinite(features).all()


# Transformations.


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_the_blur_is_a_gaussian_filter(sigma):
    column = np.random.default_rng(0).normal(size=32)
    expected = ndimage.gaussian_filter1d(column, sigma, mode="nearest", radius=int(4 * sigma) + 1)
    np.testing.assert_allclose(self_supervised.blur_matrix(32, sigma) @ column, expected, atol=1e-5)


def test_hues_are_rotated_about_the_grey_axis_and_colours_fade_to_their_luma():
    rows = np.random.default_rng(0).normal(size=(5, 3))
    turned = Rotation.from_rotvec(np.full(3, 0.7 / np.sqrt(3))).apply(rows)
    np.testing.assert_allclose(rows @ self_supervised.hue_matrix(0.7, 1.0), turned, atol=1e-5)
    grey = rows @ self_supervised.hue_matrix(0.0, 0.0)
    np.testing.assert_allclose(grey, np.repeat((rows @ [0.299, 0.587, 0.114])[:, None], 3, axis=1), atol=1e-5)


def test_a_transformation_is_what_it_is_said_to_be():
    images = noise_images(400, 8) / np.float32(127.5) - 1
    transformed, done = (
        np.asarray(part) if hasattr(part, "shape") else part
        for part in self_supervised.transform(images, jax.random.key(0))
    )
    plain = np.flatnonzero((done["blur"] == 0) & (done["noise"] == 0))
    assert set(np.asarray(done["turn"])[plain]) == {0, 1, 2, 3}
    for row in plain:
        np.testing.assert_allclose(transformed[row], np.rot90(images[row], done["turn"][row]), atol=1e-5)
    still = np.flatnonzero((done["turn"] == 0) & (done["blur"] == 0))
    off = [np.abs(transformed[still] - images[still])[done["noise"][still] == level].mean() for level in range(2)]
    assert off[0] < 1e-5
    assert off == sorted(off)
    sharpness = [transformed[(done["noise"] == 0) & (done["blur"] == level)].std() for level in range(2)]
    assert sharpness == sorted(sharpness, reverse=True)


# Metrics as metrics.


def ordering(order, training, held_out, network, n):
    """The kinds of change whose levels the Frechet distance does not put in order, with all of its values."""
    reference, rows = features_of_images(network, training.images, 256, is_kept=False), {}
    for name, level, images in order.sets(training, held_out, n):
        features = features_of_images(network, images, 256, is_kept=False)
        rows.setdefault(name, []).append((level, METRICS["fd"].measure(Sets(features, reference, features), None)[0]))
    return {name: rows[name] for name in ("real", *order.failures(rows))}


def of_arrays(images, own):
    return SimpleNamespace(images=images, labels=own)


@pytest.mark.parametrize("kind", ["labels", "self_supervised"])
def test_held_out_images_score_best_and_worse_ones_worse_in_order(order, optimized, data_directory, kind):
    training, held_out = (data.load("digits", split, 16, data_directory) for split in data.SPLITS)
    if kind == "labels":
        network = classifier.train("digits", training.images, training.labels, held_out.images, held_out.labels)
    else:
        painted = [of_arrays(order.paint(part.images, 0), part.labels) for part in (training, held_out)]
        training, held_out = painted
        trained = [self_supervised.train("painted", training.images, held_out.images, seed) for seed in range(2)]
        network = classifier.Classifiers(tuple(trained))
    assert ordering(order, training, held_out, network, 250).keys() == {"real"}


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.exists(), reason="the Debian package dataset-fashion-mnist is not installed")
@pytest.mark.parametrize(("n", "images"), [(450, 50), (2000, 500)])
def test_painted_garments_without_labels_are_put_in_order(order, optimized, data_directory, n, images):
    """But for missing classes in sets of 50: these are other images than the real ones, and chance decides."""
    load = [data.load(f"files:{FASHION}", split, 28, data_directory) for split in data.SPLITS]
    training, held_out = (
        of_arrays(order.paint(part.images[:n], seed), part.labels[:n]) for seed, part in enumerate(load)
    )
    trained = [self_supervised.train("garments", training.images, held_out.images, seed) for seed in range(3)]
    wrong = ordering(order, training, held_out, classifier.Classifiers(tuple(trained)), images)
    assert wrong.keys() - ({"modes"} if images == 50 else set()) == {"real"}


def test_the_order_of_a_row_is_judged_with_the_real_images_and_by_the_metrics_direction(order):
    rows = {
        "real": [(0, 1.0)],
        "good": [(1, 1.5), (2, 2.0)],
        "below": [(1, 0.9), (2, 3.0)],
        "falls": [(1, 3.0), (2, 2.0)],
    }
    assert order.failures(rows) == ["below", "falls"]
    assert order.failures(
        {name: [(level, -number) for level, number in row] for name, row in rows.items()}, "higher"
    ) == [
        "below",
        "falls",
    ]


def test_tiles_are_shuffled_whole(order):
    images = np.arange(2 * 8 * 8, dtype=float).reshape(2, 8, 8, 1)
    shuffled = order.shuffle(images, 2, np.random.default_rng(0))
    for image, own in zip(images, shuffled, strict=True):
        tiles = lambda image: {image[i : i + 4, j : j + 4].tobytes() for i in (0, 4) for j in (0, 4)}  # noqa: E731
        assert tiles(image) == tiles(own)
    assert not np.array_equal(images, shuffled)
