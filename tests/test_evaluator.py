"""The parts of the evaluator that no metric sees: references, neighbours, intervals, caches, devices."""

import os
import subprocess
import sys

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, environment, tiny

from jaxtickets import metrics
from jaxtickets.errors import UserError
from jaxtickets.examples import to_float
from jaxtickets.metrics import FEATURE_NETWORKS, METRICS, FeatureNetwork, Metric
from jaxtickets.metrics.features import features_of_images
from jaxtickets.metrics.generation import nearest_grid
from jaxtickets.metrics.grid import image_grid
from jaxtickets.metrics.spread import in_batches, replicated, spread
from jaxtickets.objectives import OBJECTIVES, Objective, normal

SHAPE = (8, 8, 1)


@flax.struct.dataclass
class Projection:
    """A feature network: a random projection of all pixels."""

    weights: jax.Array
    digest: str = flax.struct.field(pytree_node=False, default="projection")
    about: str = flax.struct.field(pytree_node=False, default="")
    name = "projection"

    def __call__(self, images):
        return images.reshape(len(images), -1) @ self.weights


def projection(**about):
    return Projection(jax.random.normal(jax.random.key(0), (64, 12)) / 8, **about)


def real_images(seed, n):
    """Two kinds of noisy images."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, n)[:, None, None, None]
    return np.clip(rng.normal(60 + 130 * kinds, 25, size=(n, *SHAPE)), 0, 255).astype(np.uint8)


TRAINING, HELD_OUT = real_images(0, 500), real_images(1, 200)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(FEATURE_NETWORKS, "projection", FeatureNetwork("projection", lambda config: projection()))


def evaluator(data_directory, sample=None, chosen=("fd",), game="gan_digits", train=TRAINING, devices=None, **changes):
    given = {"eval.samples": 150, "eval.batch_size": 64, "eval.metrics": chosen, "eval.features": "projection"}
    config = tiny(game, data_directory, **(given | changes))
    metrics.check(config, OBJECTIVES[config.objective.name])
    return metrics.make_evaluator(Objective({}, {}, sample=sample or noise), config, train, HELD_OUT, devices)


def noise(params, batch_stats, keys, labels):
    return jnp.tanh(normal(keys, 64)).reshape(-1, *SHAPE)


def test_the_floor_is_the_distance_of_held_out_images_and_the_ceiling_that_of_the_untrained_network(data_directory):
    judged = evaluator(data_directory, chosen=("fd", "density_coverage"))
    references = judged.references({}, {}, 3)
    columns = ["fd_projection", "density_projection", "coverage_projection"]
    assert list(references) == columns
    row = judged.evaluate({}, {}, 3)
    assert {column: pair["untrained"] for column, pair in references.items()} == {name: row[name] for name in columns}
    # As many held-out images as there are samples, from the whole of them: they may be in the order of their classes.
    rows = np.round(np.arange(150) * (len(HELD_OUT) - 1) / 149).astype(int)
    real = lambda *_: to_float(HELD_OUT[rows])  # noqa: E731
    same = evaluator(data_directory, real, ("fd", "density_coverage"), **{"eval.batch_size": 150})
    floors = {column: pair["held_out"] for column, pair in references.items()}
    assert same.evaluate({}, {}, 0) == pytest.approx(floors | {"diversity_projection": 1}, rel=1e-5)
    assert floors["fd_projection"] < 0.1 * references["fd_projection"]["untrained"]


def test_one_held_out_image_gives_no_floor(digits_metric, data_directory):
    config = tiny("gan_digits", data_directory, **{"eval.samples": 8, "eval.metrics": ("fd", "precision_recall")})
    objective = Objective({}, {}, sample=lambda params, batch_stats, keys, labels: to_float(jnp.asarray(TRAINING[:8])))
    references = metrics.make_evaluator(objective, config, TRAINING, HELD_OUT[:1]).references({}, {}, 0)
    assert all("held_out" not in entry and np.isfinite(entry["untrained"]) for entry in references.values())


@pytest.mark.parametrize("held_out", [1, 6, 13])
def test_any_number_of_held_out_images_fills_the_grid_of_reconstructions(data_directory, held_out):
    config = tiny("ae_digits", data_directory)
    objective = Objective(
        {},
        {},
        reconstruct=lambda params, batch_stats, images: images,
        evaluate=lambda params, batch_stats, images, keys: {"reconstruction_error": jnp.zeros(len(images))},
    )
    grid = metrics.make_evaluator(objective, config, TRAINING, HELD_OUT[:held_out]).samples({}, {}, 0)
    assert grid.shape == metrics.make_evaluator(objective, config, TRAINING, HELD_OUT).samples({}, {}, 0).shape


def test_metrics_on_held_out_images_have_a_ceiling_and_no_floor(data_directory):
    config = tiny("ae_digits", data_directory, **{"eval.metrics": ("psnr",)})
    objective = Objective({}, {}, reconstruct=lambda params, batch_stats, images: images - 0.2 * images)
    judged = metrics.make_evaluator(objective, config, TRAINING, HELD_OUT)
    references = judged.references({}, {}, 0)
    assert references == {"psnr": {"untrained": judged.evaluate({}, {}, 0)["psnr"]}}


def test_a_reconstruction_error_has_the_best_possible_number_and_that_of_the_mean_training_image(data_directory):
    objective = Objective(
        {},
        {},
        reconstruct=lambda params, batch_stats, images: images,
        evaluate=lambda params, batch_stats, images, keys: {"reconstruction_error": jnp.ones(len(images))},
    )
    judged = metrics.make_evaluator(objective, tiny("ae_digits", data_directory), TRAINING, HELD_OUT)
    error = np.square(HELD_OUT - TRAINING.mean(axis=0)).mean() / 127.5**2
    expected = {"untrained": 1, "best": 0, "mean_image": pytest.approx(error, rel=1e-9)}
    assert judged.references({}, {}, 0) == {"reconstruction_error": expected}


def test_a_grid_shows_samples_beside_their_nearest_training_images():
    copied = TRAINING[::20][:16]
    objective = Objective({}, {}, sample=lambda params, batch_stats, keys, labels: to_float(jnp.asarray(copied)))
    near = (
        np.square(projection()(to_float(copied))[:, None] - projection()(to_float(TRAINING))[None])
        .sum(axis=-1)
        .argsort(axis=1)[:, :3]
    )
    rows = [np.concatenate([image[None], TRAINING[others]]) for image, others in zip(copied, near, strict=True)]
    expected = image_grid(np.concatenate(rows) / 127.5 - 1)
    features = features_of_images(projection(), TRAINING, 64, is_kept=False)
    np.testing.assert_array_equal(near[:, 0], np.arange(16) * 20)  # The nearest image of a copy is what it copies.
    np.testing.assert_array_equal(nearest_grid(objective, TRAINING)(projection(), features, {}, {}, 0), expected)


def test_intervals_stand_beside_each_metric_on_samples(data_directory):
    judged = evaluator(data_directory, chosen=("fd", "density_coverage"), **{"eval.bootstrap": 20})
    row = judged.evaluate({}, {}, 0)
    columns = ["fd_projection", "density_projection", "coverage_projection"]
    ends = [f"{column}_{end}" for column in columns for end in ("low", "high")]
    assert set(row) == set(judged.columns) == {*columns, *ends, "diversity_projection"}
    for column in columns:
        assert row[f"{column}_low"] <= row[column] <= row[f"{column}_high"]
    assert row == judged.evaluate({}, {}, 0)
    assert list(judged.references({}, {}, 0)) == columns
    assert list(evaluator(data_directory).columns) == ["fd_projection", "diversity_projection"]


def test_what_a_feature_network_tells_stands_beside_its_columns(data_directory, monkeypatch):
    told = FeatureNetwork("projection", lambda config: projection(about="accuracy 0.9"), column="distance")
    monkeypatch.setitem(FEATURE_NETWORKS, "projection", told)
    judged = evaluator(data_directory)
    label = "Frechet distance in projection features, 150 samples"
    assert judged.columns["distance"] == {"label": label, "better": "lower", "about": "accuracy 0.9"}
    assert list(judged.evaluate({}, {}, 0)) == ["distance", "diversity_projection"]


def test_the_diversity_of_samples_is_measured_whatever_is_kept_of_their_features(data_directory):
    def copies(params, batch_stats, keys, labels):
        return jnp.broadcast_to(to_float(jnp.asarray(HELD_OUT[3])), (len(keys), *SHAPE))

    for chosen in (("fd",), ("density_coverage",)):  # The Gaussian, and all features.
        assert evaluator(data_directory, copies, chosen=chosen).evaluate({}, {}, 0)["diversity_projection"] == 0
    rows = [evaluator(data_directory, chosen=chosen).evaluate({}, {}, 0) for chosen in (("fd",), ("density_coverage",))]
    assert rows[0]["diversity_projection"] == rows[1]["diversity_projection"] > 0.5


def test_only_the_gaussian_of_samples_is_kept_where_no_metric_reads_more(data_directory, monkeypatch):
    def reads_samples(sets, config):
        return (sets.generated.array.mean(),)

    for arrays in ((), ("generated",)):
        metric = Metric("mine", "", features="projection", columns=("mine",), measure=reads_samples, arrays=arrays)
        monkeypatch.setitem(METRICS, "mine", metric)
        judged = evaluator(data_directory, chosen=("mine",))
        if arrays:
            assert abs(judged.evaluate({}, {}, 0)["mine"]) < 0.2
        else:
            with pytest.raises(ValueError, match="names it in `arrays`"):
                judged.evaluate({}, {}, 0)


@pytest.mark.parametrize("features", ["inception_logits_of_nobody"])
def test_a_metric_in_features_of_a_network_that_there_is_not_is_refused(data_directory, monkeypatch, features):
    monkeypatch.setitem(METRICS, "mine", Metric("mine", "", features=features, columns=("mine",)))
    with pytest.raises(UserError, match=f"mine reads {features!r}"):
        evaluator(data_directory, chosen=("mine",))


# What is kept of training images.


def test_a_change_of_any_image_of_the_network_or_the_shape_changes_the_key_of_what_is_kept(cache_directory):
    def stem(images, **about):
        return features_of_images(projection(**about), images, 64)._stem

    first = stem(TRAINING)
    assert stem(TRAINING.copy()) == first
    for place in (0, 77, len(TRAINING) - 1):
        changed = TRAINING.copy()
        changed[place, 3, 3, 0] ^= 1
        assert stem(changed) != first
    assert stem(TRAINING, digest="other") != first
    assert stem(TRAINING.reshape(-1, 4, 16, 1)) != first
    assert stem(TRAINING[:-1]) != first


def test_kept_features_are_read_and_give_the_gaussian(cache_directory, monkeypatch):
    network = projection(digest="of kept features")
    first = features_of_images(network, TRAINING, 64)
    np.testing.assert_allclose(first.array, network(to_float(TRAINING)), rtol=1e-5, atol=1e-5)
    expected = first.array.astype(np.float64)
    monkeypatch.setattr("jaxtickets.metrics.features._embed", None)  # No image is embedded again.
    again = features_of_images(network, TRAINING.copy(), 64)
    np.testing.assert_array_equal(again.array, first.array)
    np.testing.assert_allclose(again.gaussian.mean, expected.mean(axis=0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(again.gaussian.covariance, np.cov(expected.T), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(again.some(5), first.array[::100])


# Devices.


def test_the_last_batch_is_filled_and_what_filled_it_is_left_out():
    seen = []

    def rows(numbers):
        seen.append(len(numbers))
        return np.float32(numbers)

    program = spread(lambda shared, numbers: shared["factor"] * numbers)
    shared = replicated({"factor": np.float32(2)})
    batches = list(in_batches(program, shared, rows, 10, 4))
    np.testing.assert_array_equal(np.concatenate(batches), 2 * np.arange(10))
    assert seen == [4, 4, 4]


def test_weights_that_two_networks_share_are_one_argument_of_a_program():
    weights = np.ones((3, 3), np.float32)
    shared = replicated({"one": weights, "other": weights, "third": weights.copy()})
    assert shared["one"] is shared["other"]
    assert shared["one"] is not shared["third"]
    seen = []

    def function(shared, rows):
        seen.append((shared["one"] is shared["other"], shared["one"] is shared["third"]))
        return rows @ (shared["one"] + shared["other"] + shared["third"])

    np.testing.assert_array_equal(spread(function)(shared, np.eye(3, dtype=np.float32)), 3 * weights)
    assert seen == [(True, False)]


SCRIPT = """
import os
import jax, numpy as np
from test_evaluator import evaluator, FEATURE_NETWORKS, FeatureNetwork, projection

FEATURE_NETWORKS.add(FeatureNetwork("projection", lambda config: projection()))
rows = []
for devices in (jax.devices()[2:3], jax.devices()):
    os.environ["JAXTICKETS_CACHE"] = f"{os.environ['OUT']}/{len(devices)}"
    chosen, size = ("fd", "kid", "density_coverage"), {"eval.kid_subset_size": 100}
    judged = evaluator(os.environ["OUT"], chosen=chosen, devices=tuple(devices), **size)
    used = {device for array in jax.live_arrays() for device in array.devices()} - {jax.devices()[0]}
    assert used <= set(devices), used
    rows.append(judged.evaluate({}, {}, 0))
np.testing.assert_allclose(list(rows[0].values()), list(rows[1].values()), rtol=1e-6)
"""


def test_several_devices_measure_what_one_does_and_no_other_device_is_used(tmp_path):
    given = environment(4, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]), OUT=str(tmp_path))
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, env=given)
    assert result.returncode == 0, result.stderr


# Degenerate sets of images.


def grey(n):
    return np.full((n, *SHAPE), 128, np.uint8)


@pytest.mark.parametrize(
    ("train", "held_out", "changes", "is_diverse"),
    [
        (grey(50), grey(20), {}, False),
        (TRAINING, HELD_OUT[:1], {}, False),
        (TRAINING[:2], HELD_OUT, {}, True),
        (TRAINING, HELD_OUT, {"eval.samples": 11}, True),  # The projection has 12 features.
    ],
    ids=["constant images", "one held-out image", "two training images", "fewer samples than features"],
)
def test_metrics_of_degenerate_sets_are_finite(data_directory, monkeypatch, train, held_out, changes, is_diverse):
    monkeypatch.setitem(globals(), "HELD_OUT", held_out)
    judged = evaluator(data_directory, chosen=("fd",), train=train, **changes)
    row = judged.evaluate({}, {}, 0)
    assert list(row) == ["fd_projection", *(["diversity_projection"] if is_diverse else [])]
    assert np.isfinite(list(row.values())).all()
    floor = judged.references({}, {}, 0)["fd_projection"].get("held_out")
    assert floor is None if len(held_out) == 1 else np.isfinite(floor)
