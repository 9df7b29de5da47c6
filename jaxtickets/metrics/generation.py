"""The samples of a trained network: their features in one pass, and grids of them for the eye."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets.devices import Devices
from jaxtickets.examples import to_float
from jaxtickets.metrics.distances import nearest
from jaxtickets.metrics.features import Features
from jaxtickets.metrics.frechet import Moments
from jaxtickets.metrics.grid import GRID, image_grid
from jaxtickets.metrics.spread import in_batches, replicated, spread

NEIGHBOURS = 3  # The number of training images beside each sample of a grid; a divisor of GRID less 1.


def sample(objective, params, batch_stats, seed, numbers, labels=None):
    """The samples of a seed with the given numbers `[n]`: `[n, h, w, c]` in [-1, 1]; labels None: `classes`."""
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(numbers)
    labels = classes(objective, numbers) if labels is None else labels
    return objective.sample(params, batch_stats, keys, labels)


def classes(objective, numbers):
    """The class of each sample by its number, None without classes. A row of the grid shows one class."""
    return numbers // GRID % objective.classes if objective.classes else None


def features_of_samples(objective, networks, keep, n: int, batch_size: int, devices: Devices = None, few: int = 0):
    """Returns `(params, batch_stats, seed) -> {name: Features}` of `n` samples, generated once for all networks.

    Args:
      networks: the feature networks by name.
      keep: the names of those whose features are kept one by one; of the others only the Gaussian is, and the first
        `few`.
    """
    networks = replicated(networks, devices)

    def embedded(shared, numbers):
        networks, params, batch_stats, seed = shared
        images = sample(objective, params, batch_stats, seed, numbers)
        return {name: network(images) for name, network in networks.items()}

    program = spread(embedded, devices)

    def features(params, batch_stats, seed):
        arrays, moments = {name: [] for name in keep}, {name: Moments() for name in networks if name not in keep}
        first, generated = {name: [] for name in moments}, 0
        shared = networks, *replicated((params, batch_stats, np.uint32(seed)), devices)
        for batch in in_batches(program, shared, np.int32, n, batch_size, devices):
            for name, values in batch.items():
                arrays[name].append(values) if name in arrays else moments[name].add(values)
                if name in first:
                    first[name].append(values[: max(0, few - generated)])
            generated += len(values)
        of_parts = {name: getattr(network, "parts", 1) for name, network in networks.items()}
        kept = {name: Features(partial(iter, batches), of_parts[name]) for name, batches in arrays.items()}
        return kept | {
            name: Features.of_gaussian(sums.gaussian, of_parts[name], np.concatenate(first[name]))
            for name, sums in moments.items()
        }

    return features


def samples_grid(objective, held_out):
    """`(params, batch_stats, seed) -> [h, w, 3] uint8`: samples, or held-out images above their reconstructions."""
    samples = jax.jit(
        lambda params, batch_stats, seed: sample(objective, params, batch_stats, seed, jnp.arange(GRID * GRID))
    )
    if not objective.sample:
        return reconstructions_grid(objective, held_out)
    return lambda params, batch_stats, seed: image_grid(np.asarray(samples(params, batch_stats, np.uint32(seed))))


def reconstructions_grid(objective, held_out):
    """`(params, batch_stats, seed) -> [h, w, 3] uint8`: rows of held-out images, each above its reconstructions.

    Fewer images than fill the grid are repeated.
    """

    @jax.jit
    def reconstruct(params, batch_stats):
        originals = to_float(held_out[np.arange(GRID * GRID // 2) % len(held_out)])
        return originals, objective.reconstruct(params, batch_stats, originals)

    def grid(params, batch_stats, seed):
        del seed
        rows = [part.reshape(-1, GRID, *part.shape[1:]) for part in reconstruct(params, batch_stats)]
        images = np.stack(rows, axis=1)
        return image_grid(images.reshape(-1, *images.shape[3:]))

    return grid


def nearest_grid(objective, train_images):
    """`(network, training, params, batch_stats, seed) -> [h, w, 3] uint8`: samples beside nearest training images.

    Each row shows two times a sample and to its right the three training images that are nearest in a feature network,
    the nearest first. The samples are the first of `samples_grid`. `training` are the training images' `Features`.
    """

    @jax.jit
    def embedded(network, params, batch_stats, seed):
        images = sample(objective, params, batch_stats, seed, jnp.arange(GRID * GRID // (NEIGHBOURS + 1)))
        return images, network(images)

    def grid(network, training, params, batch_stats, seed):
        images, features = jax.device_get(embedded(network, params, batch_stats, np.uint32(seed)))
        _, indices = nearest(features, training.array, NEIGHBOURS)
        neighbours = np.asarray(to_float(train_images[indices.ravel()])).reshape(
            len(images), NEIGHBOURS, *images.shape[1:]
        )
        rows = np.concatenate([images[:, None], neighbours], axis=1)
        return image_grid(rows.reshape(-1, *images.shape[1:]))

    return grid
