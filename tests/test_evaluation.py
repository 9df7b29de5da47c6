"""Metrics and sample grids of networks whose output is known, and metrics that are registered from outside."""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from jaxtickets import data, metrics
from jaxtickets.errors import UserError
from jaxtickets.examples import to_float
from jaxtickets.metrics import FEATURE_NETWORKS, METRICS, FeatureNetwork, Metric, Sets, classifier
from jaxtickets.metrics.features import Features, features_of_images
from jaxtickets.metrics.frechet import fit_gaussian, frechet_distance
from jaxtickets.metrics.grid import image_grid
from jaxtickets.objectives import OBJECTIVES, Objective, normal

pytestmark = pytest.mark.usefixtures("digits_metric", "optimized")


@pytest.fixture(scope="module")
def digits(data_directory):
    return [np.asarray(data.load("digits", split, 16, data_directory).images) for split in ("train", "test")]


@pytest.fixture
def register():
    """Adds a plug-in to a registry for one test."""
    added = []

    def add(registry, plugin):
        registry.add(plugin)
        added.append((registry, plugin.name))

    yield add
    for registry, name in added:
        del registry[name]


def evaluator(data_directory, digits, name="gan_digits", chosen=(), **functions):
    config = tiny(name, data_directory, **{"eval.samples": 1024, "eval.batch_size": 256, "eval.metrics": chosen})
    metrics.check(config, OBJECTIVES[config.objective.name])
    objective = Objective(**{"components": {}, "players": {}, **functions})
    return metrics.make_evaluator(objective, config, *digits)


def noise(params, batch_stats, keys, labels):
    """Samples that are nothing but their latents."""
    assert labels is None
    return jnp.tanh(jnp.resize(normal(keys, 4), (len(keys), 16, 16, 1)))


def constant_error(params, batch_stats, images, keys):
    """Held-out terms of reconstructions that are 0.25 too bright everywhere."""
    return {"reconstruction_error": jnp.square(images - (images + 0.25)).mean(axis=(1, 2, 3))}


def identity(params, batch_stats, images):
    return images


class Seen:
    """Collects arrays from compiled functions."""

    def __init__(self):
        self._arrays = []

    def add(self, array):
        jax.debug.callback(lambda array: self._arrays.append(np.asarray(array)), array)

    def take(self):
        """The rows collected since the last call."""
        jax.effects_barrier()
        rows = np.concatenate(self._arrays) if self._arrays else np.zeros(0)
        self._arrays.clear()
        return rows


def test_the_feature_networks_tell_digits_apart_and_are_trained_only_once(
    data_directory, optimized, monkeypatch, tmp_path
):
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path))
    monkeypatch.setattr(classifier, "NETWORKS", 2)
    loaded = FEATURE_NETWORKS["digits"].load(tiny("gan_digits", data_directory))
    assert min(network.accuracy for network in loaded.networks) > 0.95
    assert len({network.digest for network in loaded.networks}) == loaded.parts == classifier.NETWORKS
    monkeypatch.setattr(classifier, "train", None)
    again = FEATURE_NETWORKS["digits"].load(tiny("gan_digits", data_directory))
    assert again.digest == loaded.digest
    assert [network.accuracy for network in again.networks] == [network.accuracy for network in loaded.networks]


def test_the_distance_is_the_mean_over_the_feature_networks(data_directory, digits):
    real, other = digits[1][:200] / np.float32(127.5) - 1, digits[0][:300] / np.float32(127.5) - 1
    loaded = FEATURE_NETWORKS["digits"].load(tiny("gan_digits", data_directory))
    sets = [Features(lambda images=images: [np.asarray(loaded(images))], loaded.parts) for images in (real, other)]
    separate = [
        frechet_distance(*(fit_gaussian([np.asarray(network(images))]) for images in (real, other)))
        for network in loaded.networks
    ]
    assert METRICS["fd"].measure(Sets(*sets, None), None)[0] == pytest.approx(np.mean(separate), rel=1e-9)


def test_real_images_are_near_the_training_set_and_noise_is_far(data_directory, digits):
    real = jnp.asarray(np.resize(digits[1], (256, 16, 16, 1)))
    near, far = (
        evaluator(data_directory, digits, sample=sample).evaluate({}, {}, 0)["fd_digits"]
        for sample in (lambda params, batch_stats, keys, labels: to_float(real), noise)
    )
    assert near < 10
    assert far > 20 * near


def test_the_reconstruction_error_of_a_known_error_is_that_error(data_directory, digits):
    judged = evaluator(data_directory, digits, "ae_digits", evaluate=constant_error, reconstruct=identity)
    assert judged.metric == "reconstruction_error"
    assert judged.label == f"mean squared error on {len(digits[1]):,} held-out images"
    assert judged.evaluate({}, {}, 0) == {"reconstruction_error": pytest.approx(0.0625, rel=1e-4)}


def test_means_over_all_examples_are_summarized_once_they_are_complete(data_directory, digits):
    def evaluate(params, batch_stats, images, keys):
        bright = images.mean(axis=(1, 2, 3)) > -0.4
        return {"reconstruction_error": jnp.ones(len(images)), "shares": jnp.stack([bright, ~bright], axis=1)}

    def summarize(means):
        usage = {"codebook_usage": means["shares"][0], "codebook_perplexity": means["shares"].sum()}
        return {"reconstruction_error": means["reconstruction_error"], **usage}

    judged = evaluator(data_directory, digits, "vq_vae", evaluate=evaluate, summarize=summarize, reconstruct=identity)
    share = np.mean((digits[1] / 127.5 - 1).mean(axis=(1, 2, 3)) > -0.4)
    assert 0.1 < share < 0.9
    expected = {"reconstruction_error": 1, "codebook_usage": share, "codebook_perplexity": 1}
    row = judged.evaluate({}, {}, 0)
    assert row == pytest.approx(expected, rel=1e-5)
    assert list(row) == list(expected)


def test_a_row_of_a_conditional_generators_grid_shows_one_class_and_samples_are_of_all_classes(data_directory, digits):
    classes, seen = 5, Seen()

    def sample(params, batch_stats, keys, labels):
        seen.add(labels)
        return jnp.broadcast_to(labels[:, None, None, None] / classes, (len(labels), 16, 16, 1))

    judged = evaluator(data_directory, digits, sample=sample, classes=classes)
    centres = judged.samples({}, {}, 0)[32::68, 32::68, 0].astype(int)
    values = np.round((np.arange(8) % classes / classes + 1) * 127.5)  # The eighth row shows the third class again.
    np.testing.assert_allclose(centres, np.broadcast_to(values[:, None], (8, 8)), atol=1)
    seen.take()
    judged.evaluate({}, {}, 0)
    counts = np.bincount(seen.take(), minlength=classes)
    assert counts.sum() == 1024
    assert counts.max() - counts.min() <= 8


def test_an_autoencoders_grid_has_rows_of_originals_above_their_reconstructions(data_directory, digits):
    judged = evaluator(
        data_directory,
        digits,
        "ae_digits",
        evaluate=constant_error,
        reconstruct=lambda params, stats, images: -images,
    )
    grid = judged.samples({}, {}, 0).astype(int)
    first, second = grid[:64, :64], grid[68:132, :64]
    np.testing.assert_array_equal(first[::4, ::4, 0], digits[1][0, :, :, 0])
    np.testing.assert_allclose(second, 255 - first, atol=1)


def test_a_grid_shows_the_images_in_reading_order():
    values = np.linspace(-1, 1, 64)
    grid = image_grid(np.broadcast_to(values[:, None, None, None], (64, 32, 32, 3)))
    assert grid.shape == (8 * 68 - 4, 8 * 68 - 4, 3)
    centres = grid[32::68, 32::68, 0].astype(int)
    np.testing.assert_array_equal(centres.ravel(), np.round((values + 1) * 127.5))


def test_the_same_samples_are_drawn_each_time(data_directory, digits):
    judged = evaluator(data_directory, digits, sample=noise)
    np.testing.assert_array_equal(judged.samples({}, {}, 0), judged.samples({}, {}, 0))
    assert judged.evaluate({}, {}, 0) == judged.evaluate({}, {}, 0)


@pytest.mark.parametrize("seed", [3, 2**32 - 1])
def test_the_key_of_a_sample_is_the_seeds_folded_with_the_samples_number(data_directory, digits, seed):
    seen = Seen()

    def sample(params, batch_stats, keys, labels):
        seen.add(jax.random.key_data(keys))
        return noise(params, batch_stats, keys, labels)

    judged = evaluator(data_directory, digits, sample=sample)
    fold = lambda number: jax.random.fold_in(jax.random.key(np.uint32(seed)), number)  # noqa: E731
    expected = np.asarray(jax.random.key_data(jax.vmap(fold)(np.arange(1024))))
    judged.samples({}, {}, seed)
    np.testing.assert_array_equal(seen.take(), expected[:64])
    judged.evaluate({}, {}, seed)
    np.testing.assert_array_equal(sorted(map(tuple, seen.take())), sorted(map(tuple, expected)))


# Metrics that are chosen by name, and metrics and feature networks from outside the package.


def test_a_vaes_metrics_are_its_games_and_the_columns_keep_their_order(data_directory, digits):
    def evaluate(params, batch_stats, images, keys):
        return {name: jnp.full(len(images), value) for name, value in values.items()}

    values = {"negative_elbo": 3.0, "reconstruction": 2.0, "kl": 1.0}
    judged = evaluator(data_directory, digits, "vae_digits", sample=noise, evaluate=evaluate)
    assert (judged.metric, judged.better) == ("fd_digits", "lower")
    assert judged.label == "Frechet distance in digits features, 1,024 samples"
    row = judged.evaluate({}, {}, 0)
    assert list(row) == ["fd_digits", "kl", "negative_elbo", "reconstruction", "diversity_digits"]
    assert {name: row[name] for name in values} == values
    judged = evaluator(data_directory, digits, "vae_digits", ("negative_elbo",), sample=noise, evaluate=evaluate)
    assert judged.metric == "negative_elbo"
    assert judged.evaluate({}, {}, 0) == values


def test_a_metric_on_held_out_images_is_one_line_of_a_registry(data_directory, digits, register):
    def ratio(means, config):
        return (10 * math.log10(4 / means["reconstruction_error"]),)  # Images span 2, from -1 to 1.

    decibels = Metric(
        "decibels",
        "signal-to-noise ratio on {held_out:,} held-out images of {data.name}",
        terms=("reconstruction_error",),
        columns=("decibels",),
        measure=ratio,
        better="higher",
    )
    register(METRICS, decibels)
    functions = {"evaluate": constant_error, "reconstruct": identity}
    judged = evaluator(data_directory, digits, "ae_digits", ("decibels", "reconstruction_error"), **functions)
    assert (judged.metric, judged.better) == ("decibels", "higher")
    assert judged.label == f"signal-to-noise ratio on {len(digits[1]):,} held-out images of digits"
    expected = {"decibels": 10 * math.log10(4 / 0.0625), "reconstruction_error": 0.0625}
    row = judged.evaluate({}, {}, 0)
    assert row == pytest.approx(expected, rel=1e-4)
    assert list(row) == list(expected)
    assert evaluator(data_directory, digits, "ae_digits", **functions).metric == "reconstruction_error"


@flax.struct.dataclass
class Rows:
    """A feature network from outside: the mean of each row of pixels."""

    digest: str = flax.struct.field(pytree_node=False, default="1")
    seen: Seen = flax.struct.field(pytree_node=False, default_factory=Seen)
    name = "rows"

    def __call__(self, images):
        features = images.mean(axis=(2, 3))
        self.seen.add(features)
        return features


def filled(n, batch_size):
    """The number of images in batches of equal size that hold `n`."""
    return -(-n // batch_size) * batch_size


def on_samples(name, measure, columns=()):
    return Metric(name, name, features="rows", columns=columns or (name,), measure=measure)


def test_metrics_on_samples_share_one_generation_and_one_embedding(data_directory, digits, register):
    generated, network = Seen(), Rows()

    def sample(params, batch_stats, keys, labels):
        generated.add(jnp.zeros(len(keys)))
        return jnp.full((len(keys), 16, 16, 1), 0.25)

    def means(sets, config):
        generated, training, _ = sets
        return len(generated.array), generated.array.mean(), training.array.mean()

    register(FEATURE_NETWORKS, FeatureNetwork("rows", lambda config: network))
    register(
        METRICS, on_samples("gap", lambda sets, config: (abs(sets[0].gaussian.mean - sets[1].gaussian.mean).max(),))
    )
    register(METRICS, on_samples("brightness", means, ("count", "generated", "training")))
    judged = evaluator(data_directory, digits, chosen=("gap", "brightness", "fd"), sample=sample)
    assert len(network.seen.take()) == filled(len(digits[0]), 256)
    row = judged.evaluate({}, {}, 0)
    assert len(generated.take()) == 1024
    assert len(network.seen.take()) == 1024 + filled(len(digits[1]), 256)  # Diversity reads held-out images.
    real = digits[0] / 127.5 - 1
    columns = ["gap", "count", "generated", "training", "fd_digits", "diversity_rows", "diversity_digits"]
    assert list(row) == columns
    assert row["gap"] == pytest.approx(abs(0.25 - real.mean(axis=(0, 2, 3))).max(), rel=1e-4)
    assert (row["count"], row["generated"]) == (1024, 0.25)
    assert row["training"] == pytest.approx(real.mean(), rel=1e-4)
    judged.evaluate({}, {}, 1)
    assert len(network.seen.take()) == 1024


def test_the_gaussian_of_the_training_images_is_computed_only_once(digits):
    network = Rows("of the test of the cache")
    first = features_of_images(network, digits[0], 256).gaussian
    assert len(network.seen.take()) == filled(len(digits[0]), 256)
    again = features_of_images(network, digits[0], 256).gaussian
    assert len(network.seen.take()) == 0
    np.testing.assert_array_equal(first.mean, again.mean)
    np.testing.assert_array_equal(first.covariance, again.covariance)


def test_held_out_images_pass_once_for_all_metrics(data_directory, digits):
    seen = Seen()

    def evaluate(params, batch_stats, images, keys):
        seen.add(images.mean(axis=(1, 2, 3)))
        return {
            name: jnp.ones(len(images)) for name in ("reconstruction_error", "codebook_usage", "codebook_perplexity")
        }

    chosen = ("codebook", "reconstruction_error")
    judged = evaluator(data_directory, digits, "vq_vae", chosen, evaluate=evaluate, reconstruct=identity)
    assert (judged.metric, judged.better) == ("codebook_usage", "higher")
    judged.evaluate({}, {}, 0)
    expected = (digits[1] / 127.5 - 1).mean(axis=(1, 2, 3))
    expected = np.pad(expected, (0, filled(len(expected), 256) - len(expected)), mode="edge")
    np.testing.assert_allclose(np.sort(seen.take()), np.sort(expected), rtol=1e-4, atol=1e-5)


ON_SAMPLES = "fd, fid, kid, inception_score, precision_recall, density_coverage, memorisation"
ON_RECONSTRUCTIONS = "psnr, ssim"


@pytest.mark.parametrize(
    ("name", "chosen", "allowed"),
    [
        ("ae_digits", ("fd",), f"reconstruction_error, {ON_RECONSTRUCTIONS}"),
        ("ae_digits", ("reconstruction_error", "codebook"), f"reconstruction_error, {ON_RECONSTRUCTIONS}"),
        ("gan_digits", ("reconstruction_error",), ON_SAMPLES),
        (
            "vae_digits",
            ("reconstruction_error",),
            f"{ON_SAMPLES}, negative_elbo, {ON_RECONSTRUCTIONS}, bits_per_dimension, log_likelihood, active_units",
        ),
        ("vq_vae", ("negative_elbo",), f"reconstruction_error, codebook, {ON_RECONSTRUCTIONS}"),
    ],
)
def test_a_metric_that_the_game_cannot_serve_is_refused(data_directory, name, chosen, allowed):
    config = tiny(name, data_directory, **{"eval.metrics": chosen})
    game = config.objective.name
    with pytest.raises(UserError) as refused:
        metrics.check(config, OBJECTIVES[game])
    assert str(refused.value) == (
        f"config.eval.metrics={chosen!r}: allowed is a tuple of some of {allowed} with config.objective.name={game!r}"
    )


def test_a_chosen_metric_and_its_feature_network_check_the_config(data_directory, register):
    def refuse(config):
        raise UserError(f"{config.data.name} is refused")

    register(METRICS, Metric("strict", "", terms=("reconstruction_error",), check=refuse))
    register(FEATURE_NETWORKS, FeatureNetwork("strict", None, check=refuse))
    for name, change in (("ae_digits", {"eval.metrics": ("strict",)}), ("gan_digits", {"eval.features": "strict"})):
        config = tiny(name, data_directory)
        game = OBJECTIVES[config.objective.name]
        metrics.check(config, game)
        config.update_from_flattened_dict(change)
        with pytest.raises(UserError, match="digits is refused"):
            metrics.check(config, game)


@pytest.mark.parametrize("given", [{}, {"features": "digits", "terms": ("kl",)}, {"terms": ("kl",), "better": "more"}])
def test_a_metric_reads_either_samples_or_held_out_images_and_has_a_direction(given):
    with pytest.raises(ValueError, match="metric 'wrong'"):
        Metric("wrong", "", **given)
