"""The metrics and the sample grid of a trained network, the same latents and images in every round."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from jaxtickets import cache, data, files
from jaxtickets.metrics import features, frechet
from jaxtickets.objectives import Objective
from jaxtickets.progress import say
from jaxtickets.train import example_keys, to_float

GRID = 8  # Images a side of a sample grid.
# What each feature network was trained on: the data set and the image size.
FEATURE_NETWORKS = {"digits": ("digits", 16), "faces": ("synthetic_faces", 32)}


class Evaluator(NamedTuple):
    """metric: the one that the verdict is about, lower is better; label: its name in words.

    evaluate: `(params, batch_stats, seed) -> {metric: value}`; samples: the same to `[h, w, 3] uint8`.
    """

    metric: str
    label: str
    evaluate: Callable
    samples: Callable


def feature_network(name: str, data_dir: str | None = None) -> features.FeatureNetwork:
    """The feature network `name`, trained once and then read from the user's cache directory."""
    dataset, size = FEATURE_NETWORKS[name]
    path = cache.directory("features") / f"{name}-v{features.VERSION}-{jax.default_backend()}.safetensors"
    if not path.exists():
        say(f"training the feature network fd_{name} (once, a few seconds)")
        train, test = (data.load(dataset, split, size, data_dir) for split in ("train", "test"))
        network = features.train(name, train.images, train.labels, test.images, test.labels)
        metadata = {key: str(getattr(network, key)) for key in ("size", "channels", "outputs", "accuracy")}
        files.replace(path, save(features.flatten(network.params), metadata=metadata))
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    return features.FeatureNetwork(
        params=features.unflatten(load_file(path)),
        name=name,
        size=int(metadata["size"]),
        channels=int(metadata["channels"]),
        outputs=int(metadata["outputs"]),
        accuracy=float(metadata["accuracy"]),
    )


def _batches(images, batch_size):
    for start in range(0, len(images), batch_size):
        yield np.asarray(images[start : start + batch_size])


def _reference(network, images, batch_size):
    """The Gaussian of a data set's features, from the user's cache directory if it has been computed before."""
    sha = hashlib.sha256(f"{network.digest} {images.shape}".encode())
    sha.update(np.ascontiguousarray(images[:: max(1, len(images) // 2000)]).tobytes())
    path = cache.directory("features") / f"{network.name}-{sha.hexdigest()[:16]}.safetensors"
    if not path.exists():
        embed = jax.jit(lambda images: network(to_float(images)))
        gaussian = frechet.fit_gaussian(embed(batch) for batch in _batches(images, batch_size))
        files.replace(path, save(gaussian._asdict()))
    return frechet.Gaussian(**load_file(path))


def make_evaluator(objective: Objective, config, train_images, test_images) -> Evaluator:
    """An evaluator for `objective`.

    Networks that generate are judged by the Frechet distance between `config.eval.samples` generated images and
    the training images, in the features of `config.eval.features`; those that only reconstruct by the error on
    the held-out images.
    """
    batch_size = config.eval.batch_size
    network = reference = None
    if objective.generate:
        network = feature_network(config.eval.features, config.data.dir or None)
        reference = _reference(network, train_images, batch_size)

    def generate(params, batch_stats, seed, start, n):
        classes = objective.components["generator"].classes if "generator" in objective.components else 0
        # A row of the grid shows one class.
        labels = (start + jnp.arange(n)) // GRID % classes if classes else None
        return objective.generate(params, batch_stats, _latents(seed, config.model.latent_size, start, n), labels)

    @jax.jit
    def generated_features(params, batch_stats, seed, start):
        return network(generate(params, batch_stats, seed, start, batch_size))

    def frechet_metric(params, batch_stats, seed):
        starts = range(0, config.eval.samples, batch_size)
        batches = [generated_features(params, batch_stats, seed, start) for start in starts]
        generated = np.concatenate([np.asarray(batch) for batch in batches])[: config.eval.samples]
        return {f"fd_{network.name}": frechet.frechet_distance(frechet.fit_gaussian([generated]), reference)}

    @jax.jit
    def held_out_terms(params, batch_stats, seed, images, start):
        keys = example_keys(seed, 0, 0, start + np.arange(len(images)))
        terms = objective.evaluate(params, batch_stats, to_float(images), keys)
        return {name: values.sum(axis=0) for name, values in terms.items()}

    def held_out_metrics(params, batch_stats, seed):
        totals = {}
        for number, batch in enumerate(_batches(test_images, batch_size)):
            for name, value in held_out_terms(params, batch_stats, seed, batch, number * batch_size).items():
                totals[name] = totals.get(name, 0.0) + value
        means = {name: np.asarray(total) / len(test_images) for name, total in totals.items()}
        means = objective.summarize(means) if objective.summarize else means
        return {name: float(mean) for name, mean in means.items()}

    def evaluate(params, batch_stats, seed):
        metrics = frechet_metric(params, batch_stats, seed) if objective.generate else {}
        return metrics | (held_out_metrics(params, batch_stats, seed) if objective.evaluate else {})

    @jax.jit
    def sample_images(params, batch_stats, seed):
        if objective.generate:
            return generate(params, batch_stats, seed, 0, GRID * GRID)
        originals = to_float(test_images[: GRID * GRID // 2])
        return originals, objective.reconstruct(params, batch_stats, originals)

    def samples(params, batch_stats, seed):
        images = sample_images(params, batch_stats, seed)
        if not objective.generate:  # Rows of originals, each above the row of its reconstructions.
            originals, reconstructions = (part.reshape(-1, GRID, *part.shape[1:]) for part in images)
            images = np.stack([originals, reconstructions], axis=1).reshape(-1, *originals.shape[2:])
        return image_grid(np.asarray(images))

    if objective.generate:
        metric, label = f"fd_{network.name}", f"Frechet distance in {network.name} features"
        label += f", {config.eval.samples:,} samples"
    else:
        metric, label = "reconstruction_error", f"mean squared error on {len(test_images):,} held-out images"
    return Evaluator(metric, label, evaluate, samples)


def _latents(seed, latent_size, start, n):
    examples = start + np.arange(n)
    keys = jax.vmap(lambda example: jax.random.fold_in(jax.random.key(seed), example))(examples)
    return jax.vmap(lambda key: jax.random.normal(key, (latent_size,)))(keys)


def image_grid(images) -> np.ndarray:
    """Images `[n, h, w, c]` in [-1, 1] as a grid `[height, width, 3]` uint8, eight a row, small ones enlarged."""
    images = np.clip((images + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    enlarge = max(1, 64 // images.shape[1])
    images = images.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    gap = 4
    images = np.pad(images, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    n, height, width, channels = images.shape
    grid = images.reshape(n // GRID, GRID, height, width, channels).swapaxes(1, 2)
    return grid.reshape(n // GRID * height, GRID * width, channels)[:-gap, :-gap]
