"""Pictures of the latent space of trained networks: ways through it, reconstructions, nearest training images.

A picture is a grid `[h, w, 3]` uint8 with 8 images per row. `draw` makes those of a finished run, in its workdir.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np

from jaxtickets import opening
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.examples import to_float
from jaxtickets.metrics import FEATURE_NETWORKS, networks
from jaxtickets.metrics.evaluator import evenly_spaced
from jaxtickets.metrics.features import features_of_images
from jaxtickets.metrics.generation import nearest_grid, reconstructions_grid
from jaxtickets.metrics.grid import GRID, image_grid
from jaxtickets.objectives import Objective, normal
from jaxtickets.opening import Opened
from jaxtickets.progress import say
from jaxtickets.workdir import Workdir

WIDEST = 2.0  # Traversals go from -2 to 2: 95% of a standard normal latent.
MOST_ENCODED = 2_000  # The number of held-out images that tell which latents a VAE uses.


def interpolation(opened: Opened, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Rows that go from one image to another in equal steps.

    Where latents are standard normal, both ends of a row are drawn, and the way is spherical (White 2016, "Sampling
    Generative Networks", section 2): straight lines pass through latents that are shorter than those of training.
    Autoencoders without a prior go straight from the code of one held-out image to that of another.

    Args:
      labels: the classes of consecutive rows, which are repeated; None: all classes in turn.
    """
    objective, shares = opened.objective, np.linspace(0, 1, GRID, dtype=np.float32)
    if objective.latents:
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(np.arange(2 * GRID))
        ends, between = np.asarray(normal(keys, objective.latents)), spherical
    else:
        ends = encoded(opened, _held_out(opened, 2 * GRID))
        between = lambda first, second, share: (1 - share) * first + share * second  # noqa: E731
    rows = [between(*pair, share) for pair in ends.reshape(GRID, 2, *ends.shape[1:]) for share in shares]
    classes = None
    if objective.classes:  # One class per row.
        of_rows = np.arange(GRID) % objective.classes if labels is None else np.resize(labels, GRID)
        classes = np.repeat(of_rows, GRID).astype(np.int32)
    return _decoded(opened, np.stack(rows), classes)


def spherical(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The point on the arc from one vector to another; its length goes evenly from one's to the other's.

    sin((1 - t) a) / sin(a) u + sin(t a) / sin(a) v for the unit vectors u and v and the angle a between them
    (Shoemake 1985, section 3.3). Vectors that point the same or opposite ways have a straight line.
    """
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    units = first / lengths[0], second / lengths[1]
    angle = np.arccos(np.clip(np.dot(*units), -1, 1))
    if np.sin(angle) < 1e-6:
        return (1 - share) * first + share * second
    direction = (np.sin((1 - share) * angle) * units[0] + np.sin(share * angle) * units[1]) / np.sin(angle)
    return direction * ((1 - share) * lengths[0] + share * lengths[1])


def traversal(opened: Opened, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Rows in each of which one latent of a VAE goes from -2 to 2, the others staying at a held-out image's code.

    The latents are those that the network uses most: whose mean given the image varies most over held-out images
    (Burda, Grosse, Salakhutdinov 2016, section 5.2), the most used first. Every row goes through the same image.
    """
    del seed, labels
    images = opening.dataset(opened, "test").images
    codes = encoded(opened, evenly_spaced(images, MOST_ENCODED))
    used = np.argsort(-codes.var(axis=0), kind="stable")[:GRID]
    rows = np.tile(codes[0], (len(used), GRID, 1))
    for row, latent in zip(rows, used, strict=True):
        row[:, latent] = np.linspace(-WIDEST, WIDEST, GRID)
    return _decoded(opened, rows.reshape(-1, codes.shape[1]))


def reconstructions(opened: Opened, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Rows of held-out images, each above its reconstructions."""
    del labels
    held_out = opening.dataset(opened, "test").images
    return reconstructions_grid(opened.objective, held_out)(opened.params, opened.batch_stats, seed)


class Beside(NamedTuple):
    """What samples are compared with: the training images, their features, and the feature network."""

    images: np.ndarray
    network: Callable
    features: object


def training(opened: Opened) -> Beside:
    """The training images of a network's run, in the features of its metrics, which are kept in the cache."""
    config, images = opened.config, opening.dataset(opened, "train").images
    name = networks.resolve(config) if config.eval.features == networks.AUTO else config.eval.features
    network = FEATURE_NETWORKS[name].load(config)
    return Beside(images, network, features_of_images(network, images, config.eval.batch_size))


def nearest(opened: Opened, seed: int, labels: np.ndarray | None = None, beside: Beside | None = None) -> np.ndarray:
    """Samples, each beside its nearest training images in the features of the run's metrics, the nearest first.

    Args:
      beside: the training images, for calls with several networks.
    """
    del labels
    beside = training(opened) if beside is None else beside
    grid = nearest_grid(opened.objective, beside.images)
    return grid(beside.network, beside.features, opened.params, opened.batch_stats, seed)


class Picture(NamedTuple):
    """A kind of picture.

    Attributes:
      make: `(opened, seed, labels) -> [h, w, 3] uint8`.
      lacks: what the networks of an objective lack for it, for messages: "has no encoder"; "" where they can make it.
    """

    make: Callable
    lacks: Callable[[Objective], str]


def _lacks_ways(objective):
    return "" if objective.decode and (objective.latents or objective.encode) else "has no vector of latents"


def _lacks_traversals(objective):
    if not objective.reconstruct:
        return "has no encoder, and a traversal starts from the latents of an image"
    if not (objective.decode and objective.encode and objective.latents):
        return "has no normal latents, along which a traversal goes: a VAE has them"
    return ""


PICTURES = {
    "interpolation": Picture(interpolation, _lacks_ways),
    "traversal": Picture(traversal, _lacks_traversals),
    "reconstruction": Picture(reconstructions, lambda one: "" if one.reconstruct else "has no encoder to start from"),
    "nearest": Picture(nearest, lambda one: "" if one.sample else "has no prior to draw samples from"),
}


def draw(whole: Workdir) -> None:
    """Draws the pictures that a finished run lacks, of its dense network and of its winner.

    Without a winner, the last round stands beside the dense one; of several seeds, the first seed's networks do.
    What can't be read is said, and has no picture.
    """
    place, winner = next(iter(opening.seed_runs(whole).values())), opening.winner(whole)
    compared = {0, place.read_rounds()[-1]["round"] if winner is None else winner}
    beside = cache(lambda: training(opening.open_round(place, 0)))  # Both rounds' samples are compared with it.
    for round_ in sorted(compared & place.list_weights().keys()):
        missing = [kind for kind in PICTURES if not _has(whole, kind, round_)]
        try:
            opened = opening.open_round(place, round_) if missing else None
            for kind in missing:
                if not PICTURES[kind].lacks(opened.objective):
                    more = {"beside": beside()} if kind == "nearest" else {}
                    whole.write_picture(kind, round_, PICTURES[kind].make(opened, opened.config.seed, **more))
        except (UserError, jax.errors.JaxRuntimeError, MemoryError) as error:  # The run has ended well without them.
            why = str(error).partition("\n")[0]
            say(f"{why}; pictures of the latent space of round {round_} are left out")


def _has(whole, kind, round_):
    """Whether a picture is there and intact."""
    try:
        whole.read_picture(kind, round_)
    except (OSError, DamagedError):
        return False
    return True


def encoded(opened: Opened, images: np.ndarray) -> np.ndarray:
    """The (means of the) latents of uint8 images: `[n, ...]`."""
    objective, size = opened.objective, opened.config.eval.batch_size
    encode = jax.jit(lambda params, batch_stats, batch: objective.encode(params, batch_stats, to_float(batch)))
    batches = [images[np.arange(start, min(start + size, len(images)))] for start in range(0, len(images), size)]
    return np.concatenate([np.asarray(encode(opened.params, opened.batch_stats, np.asarray(b))) for b in batches])


def _decoded(opened, latents, classes=None):
    decode = jax.jit(opened.objective.decode)
    return image_grid(np.asarray(decode(opened.params, opened.batch_stats, latents, classes)))


def _held_out(opened, n):
    images = opening.dataset(opened, "test").images
    return np.asarray(images[np.arange(n) % len(images)])
