"""Metrics and sample grids of networks whose output is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from jaxtickets import data, evaluation, models
from jaxtickets.objectives import Objective
from jaxtickets.train import to_float


@pytest.fixture(scope="module")
def digits(data_directory):
    return [np.asarray(data.load("digits", split, 16, data_directory).images) for split in ("train", "test")]


def evaluator(data_directory, digits, **functions):
    config = tiny("gan_digits", data_directory, **{"eval.samples": 1024, "eval.batch_size": 256})
    objective = Objective(**{"components": {}, "players": {}, **functions})
    return evaluation.make_evaluator(objective, config, *digits)


def test_the_feature_network_tells_digits_apart_and_is_trained_only_once(data_directory, digits, monkeypatch):
    network = evaluation.feature_network("digits", data_directory)
    assert network.accuracy > 0.95
    monkeypatch.setattr(evaluation.features, "train", None)
    again = evaluation.feature_network("digits", data_directory)
    assert again.digest == network.digest
    assert again.accuracy == network.accuracy


def test_real_images_are_near_the_training_set_and_noise_is_far(data_directory, digits):
    train_images, test_images = digits
    real = jnp.asarray(np.resize(test_images, (256, 16, 16, 1)))

    def generate_real(params, batch_stats, latents, labels):
        return to_float(real)

    def generate_noise(params, batch_stats, latents, labels):
        return jnp.tanh(jnp.resize(latents, (256, 16, 16, 1)))

    near, far = (
        evaluator(data_directory, digits, generate=generate).evaluate({}, {}, 0)["fd_digits"]
        for generate in (generate_real, generate_noise)
    )
    assert near < 10
    assert far > 20 * near


def test_the_reconstruction_error_of_a_known_error_is_that_error(data_directory, digits):
    def evaluate(params, batch_stats, images, keys):
        return {"reconstruction_error": jnp.square(images - (images + 0.25)).mean(axis=(1, 2, 3))}

    judged = evaluator(data_directory, digits, evaluate=evaluate, reconstruct=lambda params, stats, images: images)
    assert judged.metric == "reconstruction_error"
    assert judged.evaluate({}, {}, 0)["reconstruction_error"] == pytest.approx(0.0625, rel=1e-4)


def test_means_over_all_examples_are_summarized_once_they_are_complete(data_directory, digits):
    def evaluate(params, batch_stats, images, keys):
        bright = images.mean(axis=(1, 2, 3)) > -0.4
        return {"reconstruction_error": jnp.ones(len(images)), "shares": jnp.stack([bright, ~bright], axis=1)}

    judged = evaluator(
        data_directory,
        digits,
        evaluate=evaluate,
        summarize=lambda means: {"reconstruction_error": means["reconstruction_error"], "share": means["shares"][0]},
        reconstruct=lambda params, stats, images: images,
    )
    share = np.mean((digits[1] / 127.5 - 1).mean(axis=(1, 2, 3)) > -0.4)
    assert 0.1 < share < 0.9
    assert judged.evaluate({}, {}, 0) == pytest.approx({"reconstruction_error": 1, "share": share}, rel=1e-5)


def test_a_row_of_a_conditional_generators_grid_shows_one_class_and_samples_are_of_all_classes(data_directory, digits):
    classes, seen = 5, []

    def generate(params, batch_stats, latents, labels):
        jax.debug.callback(lambda labels: seen.append(np.asarray(labels)), labels)
        return jnp.broadcast_to(labels[:, None, None, None] / classes, (len(labels), 16, 16, 1))

    components = {"generator": models.Component(None, (4,), classes)}
    judged = evaluator(data_directory, digits, components=components, generate=generate)
    centres = judged.samples({}, {}, 0)[32::68, 32::68, 0].astype(int)
    values = np.round((np.arange(8) % classes / classes + 1) * 127.5)  # The eighth row shows the third class again.
    np.testing.assert_allclose(centres, np.broadcast_to(values[:, None], (8, 8)), atol=1)
    jax.effects_barrier()
    seen.clear()
    judged.evaluate({}, {}, 0)
    jax.effects_barrier()
    counts = np.bincount(np.concatenate(seen), minlength=classes)
    assert counts.sum() == 1024
    assert counts.max() - counts.min() <= 8


def test_an_autoencoders_grid_has_rows_of_originals_above_their_reconstructions(data_directory, digits):
    judged = evaluator(
        data_directory,
        digits,
        evaluate=lambda params, stats, images, keys: {"reconstruction_error": images.mean(axis=(1, 2, 3))},
        reconstruct=lambda params, stats, images: -images,
    )
    grid = judged.samples({}, {}, 0).astype(int)
    first, second = grid[:64, :64], grid[68:132, :64]
    np.testing.assert_array_equal(first[::4, ::4, 0], digits[1][0, :, :, 0])
    np.testing.assert_allclose(second, 255 - first, atol=1)


def test_a_grid_shows_the_images_in_reading_order():
    values = np.linspace(-1, 1, 64)
    grid = evaluation.image_grid(np.broadcast_to(values[:, None, None, None], (64, 32, 32, 3)))
    assert grid.shape == (8 * 68 - 4, 8 * 68 - 4, 3)
    centres = grid[32::68, 32::68, 0].astype(int)
    np.testing.assert_array_equal(centres.ravel(), np.round((values + 1) * 127.5))


def test_the_same_latents_are_drawn_each_time(data_directory, digits):
    def generate(params, batch_stats, latents, labels):
        assert labels is None
        return jnp.tanh(jnp.resize(latents, (len(latents), 16, 16, 1)))

    judged = evaluator(data_directory, digits, generate=generate)
    np.testing.assert_array_equal(judged.samples({}, {}, 0), judged.samples({}, {}, 0))
    assert judged.evaluate({}, {}, 0) == judged.evaluate({}, {}, 0)
