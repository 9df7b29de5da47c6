"""Small feature networks that this machine trains and keeps in the user's cache directory.

They are no Inception networks: distances in their features are called `fd_<name>`, never FID. They can be compared only
between runs whose networks have the same `digest`.
"""

import contextlib
import functools
import glob
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from jaxtickets import cache, cached_files, data, tensor_files
from jaxtickets.errors import DamagedError
from jaxtickets.progress import say

NETWORKS = 5  # Networks from other seeds disagree on which of two runs is better; the mean over some is steadier.
STEPS = 400
BATCH_SIZE = 128
SMALL = 32  # Larger images than this have half the batch size, so that training takes a minute at most.
LARGEST = 64  # The size of the images that a network sees; larger ones are shrunk.
SHRUNK = 20_000  # The number of larger images that it is trained on.
JUDGED = 5_000  # The number of held-out images on which its accuracy is measured.
JUDGED_AT_ONCE = 500
TOLD = "held-out accuracy"


class _Classifier(nn.Module):
    """Strided convolutions, 64 features, and a linear layer from the features to the labels."""

    outputs: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, images):
        x = images
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (3, 3), strides=(2, 2))(x))
        features = nn.relu(nn.Dense(64)(x.reshape(x.shape[0], -1)))
        return features, nn.Dense(self.outputs)(features)


class Task(NamedTuple):
    """What a network is trained to tell.

    Attributes:
      outputs: the number of logits.
      loss: `(logits [batch, outputs], targets) -> ()`.
      right: `(logits, targets) -> bool` of any shape: which answers are right.
      prepare: `(images, labels, key) -> (images, targets)`, of a batch in [-1, 1] at each step.
    """

    outputs: int
    loss: Callable
    right: Callable
    prepare: Callable


@functools.cache
def labelling(outputs: int, is_exclusive: bool) -> Task:
    """Naming one of `outputs` classes, by cross entropy, or each of `outputs` attributes, by binary cross entropy."""
    cross_entropy = (
        optax.softmax_cross_entropy_with_integer_labels if is_exclusive else optax.sigmoid_binary_cross_entropy
    )

    def loss(logits, labels):
        return cross_entropy(logits, labels).mean()

    def right(logits, labels):
        return (logits.argmax(axis=-1) if is_exclusive else logits > 0) == labels

    return Task(outputs, loss, right, lambda images, labels, key: (images, labels))


@flax.struct.dataclass
class Classifier:
    """A trained network.

    Attributes:
      params: its weights.
      name: what its features are called.
      size, channels: of the images that it was trained on.
      outputs: the number of classes or attributes.
      accuracy: on held-out images, in [0, 1].
    """

    params: Any
    name: str = flax.struct.field(pytree_node=False)
    size: int = flax.struct.field(pytree_node=False)
    channels: int = flax.struct.field(pytree_node=False)
    outputs: int = flax.struct.field(pytree_node=False)
    accuracy: float = flax.struct.field(pytree_node=False)

    def __call__(self, images):
        """Features `[batch, 64]` of `images: [batch, h, w, c]` in [-1, 1], of any size, grey or colour."""
        if images.shape[-1] != self.channels:
            images = images.mean(axis=-1, keepdims=True)
            images = jnp.repeat(images, self.channels, axis=-1)
        images = jax.image.resize(images, (images.shape[0], self.size, self.size, self.channels), "bilinear")
        return _Classifier(self.outputs, _widths(self.size)).apply({"params": self.params}, images)[0]

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that differ from those of networks with other weights."""
        sha = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params):
            sha.update(np.asarray(leaf).tobytes())
        return sha.hexdigest()[:16]


def fit(name: str, task: Task, images, labels, held_out_images, held_out_labels, seed: int = 0) -> Classifier:
    """Returns a network trained on a task.

    Args:
      name: what its features are called.
      images: `[n, size, size, channels]` uint8; larger ones than `LARGEST` are shrunk to it.
      labels: `[n, ...]` for `task.prepare`, or None.
      held_out_images, held_out_labels: the images on which `accuracy` is measured, at most `JUDGED` of them.
      seed: of the initial weights, the order of the images and the keys of `task.prepare`.
    """
    if images.shape[1] > LARGEST:
        images, labels = _some(images, labels, SHRUNK)
    init, step, right = _programs(task, images.shape[1:], STEPS)
    params, opt_state = init(jax.random.key(seed))
    keys = jax.random.split(jax.random.key(seed), STEPS)
    rng, batch_size = np.random.default_rng(seed), BATCH_SIZE if images.shape[1] <= SMALL else BATCH_SIZE // 2
    for number in range(STEPS):
        chosen = np.sort(rng.choice(len(images), min(batch_size, len(images)), replace=False))
        batch_labels = None if labels is None else labels[chosen]
        params, opt_state = step(params, opt_state, images[chosen].astype(np.float32), batch_labels, keys[number])

    held_out_images, held_out_labels = _some(held_out_images, held_out_labels, JUDGED)
    answers = []
    for number, start in enumerate(range(0, len(held_out_images), JUDGED_AT_ONCE)):
        rows = slice(start, start + JUDGED_AT_ONCE)
        batch_labels = None if held_out_labels is None else held_out_labels[rows]
        key = jax.random.fold_in(jax.random.key(0), number)  # All networks are asked the same questions.
        answers.append(np.asarray(right(params, held_out_images[rows].astype(np.float32), batch_labels, key)))
    accuracy = float(np.mean(np.concatenate(answers))) if answers else float("nan")
    return Classifier(params, name, images.shape[1], images.shape[3], task.outputs, accuracy)


@functools.cache
def _programs(task, shape, steps):
    """`init`, `step` and `right` for images of one shape, which all seeds share."""
    classifier = _Classifier(task.outputs, _widths(shape[0]))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    @jax.jit
    def init(key):
        params = classifier.init(key, jnp.zeros((1, *shape)))["params"]
        return params, optimizer.init(params)

    @jax.jit
    def step(params, opt_state, batch, labels, key):
        prepared, targets = task.prepare(batch / 127.5 - 1, labels, key)

        def loss(params):
            return task.loss(classifier.apply({"params": params}, prepared)[1], targets)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    @jax.jit
    def right(params, batch, labels, key):
        prepared, targets = task.prepare(batch / 127.5 - 1, labels, key)
        return task.right(classifier.apply({"params": params}, prepared)[1], targets)

    return init, step, right


def train(name: str, images, labels, held_out_images, held_out_labels, seed: int = 0) -> Classifier:
    """Returns a network trained to predict the labels of `images: [n, size, size, channels]` uint8; see `fit`.

    labels: `[n]` classes or `[n, attributes]` zeros and ones.
    """
    is_exclusive = np.ndim(labels) == 1
    labels = np.asarray(labels, np.int32 if is_exclusive else np.float32)
    task = labelling(int(labels.max()) + 1 if is_exclusive else labels.shape[1], is_exclusive)
    return fit(name, task, images, labels, held_out_images, np.asarray(held_out_labels), seed)


def _widths(size):
    """The number of channels after each convolution; images of more than `SMALL` pixels pass a further, narrow one."""
    return (32, 64, 64) if size <= SMALL else (16, 32, 64, 64)


def _some(images, labels, most):
    """At most `most` of uint8 images, evenly spaced in their order and of at most `LARGEST` pixels, and their labels.

    Larger images are shrunk batch by batch, so that no more of them are in memory.
    """
    rows = np.arange(min(most, len(images))) * max(len(images), most) // most
    labels = None if labels is None else labels[rows]
    if images.shape[1] <= LARGEST:
        return images[rows], labels

    @jax.jit
    def shrunk(images):
        shape = len(images), LARGEST, LARGEST, images.shape[3]
        return jnp.round(jax.image.resize(images.astype(jnp.float32), shape, "linear")).astype(jnp.uint8)

    starts = range(0, len(rows), BATCH_SIZE)
    return np.concatenate([np.asarray(shrunk(images[rows[start : start + BATCH_SIZE]])) for start in starts]), labels


@flax.struct.dataclass
class Classifiers:
    """Several networks that were trained on the same task from different seeds, as one feature network.

    Attributes:
      networks: the trained networks.
      told: what their `accuracy` is, in words.
      trained_on: the name of the data set.
    """

    networks: tuple[Classifier, ...]
    told: str = flax.struct.field(pytree_node=False, default=TOLD)
    trained_on: str = flax.struct.field(pytree_node=False, default="images")

    def __call__(self, images):
        """Features `[batch, 64 * parts]` of `images`, those of one network after the other; see `Classifier`."""
        return jnp.concatenate([network(images) for network in self.networks], axis=-1)

    @property
    def name(self) -> str:
        """What their features are called."""
        return self.networks[0].name

    @property
    def parts(self) -> int:
        """The number of networks."""
        return len(self.networks)

    @property
    def channels(self) -> int:
        """The number of channels of the images that they were trained on."""
        return self.networks[0].channels

    @property
    def accuracy(self) -> float:
        """The mean accuracy of the networks on held-out images, in [0, 1]."""
        return float(np.mean([network.accuracy for network in self.networks]))

    @property
    def about(self) -> str:
        """What stands beside numbers in these features."""
        return f"{len(self.networks)} networks trained on {self.trained_on}, {self.told} {self.accuracy:.1%}"

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that differ from those of networks with other weights."""
        return hashlib.sha256("".join(network.digest for network in self.networks).encode()).hexdigest()[:16]


def of_config(config) -> tuple[data.Dataset, data.Dataset]:
    """The training and the held-out images of a config, as its run has them."""
    return tuple(data.of_config(config, split) for split in data.SPLITS)


def digest_of(*datasets: data.Dataset) -> str:
    """Sixteen hexadecimal digits that change with any image or label."""
    return hashlib.sha256(" ".join(dataset.digest for dataset in datasets).encode()).hexdigest()[:16]


def kept(name: str, key: str, make: Callable, trained_on: str, told: str = TOLD) -> Classifiers:
    """The networks in the user's cache directory; those that are not there yet are made.

    Args:
      key: part of the files' names; it must change with whatever changes the weights, but for the seed.
      make: `seed -> Classifier`.
      trained_on: the name of the data set.
      told: what their `accuracy` is, in words.
    """
    folder, backend, made = cache.directory("features"), jax.default_backend(), []

    def network(seed):
        def write(path):
            if not made:
                say(f"training the feature networks {name} (once, at most about a minute)")
            made.append(seed)
            network = make(seed)
            about = {field: str(getattr(network, field)) for field in ("size", "channels", "outputs", "accuracy")}
            cached_files.write(path, flatten(network.params), about)

        return cached_files.get(folder / f"{key}-{seed}-{backend}.safetensors", functools.partial(_read, name), write)

    networks = Classifiers(tuple(network(seed) for seed in range(NETWORKS)), told, trained_on)
    if made:
        say(f"feature networks {name}: {networks.about}")
    return networks


def files_of(name: str, digest: str) -> list[pathlib.Path]:
    """The files in the user's cache directory of the networks `name` with a digest; [] if they are not there."""
    for first in sorted(cache.directory("features").glob(f"{glob.escape(name)}-v*-0-*.safetensors")):
        before, backend = first.name.rsplit("-0-", 1)
        paths = [first.with_name(f"{before}-{seed}-{backend}") for seed in range(NETWORKS)]
        with contextlib.suppress(DamagedError):
            if Classifiers(tuple(_read(name, path) for path in paths)).digest == digest:
                return paths
    return []


def _read(name, path):
    """One network from its file."""
    arrays, about = cached_files.read(path)
    with tensor_files.reading(path, "a feature network", "it is trained again"):
        size, channels, outputs = (int(about[field]) for field in ("size", "channels", "outputs"))
        return Classifier(unflatten(arrays), name, size, channels, outputs, float(about["accuracy"]))


def flatten(params) -> dict[str, np.ndarray]:
    """Weights as `{slash-joined path: array}`, the content of a file."""
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def unflatten(arrays):
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(arrays, sep="/")
