"""Small feature networks that this machine trains on labelled images and keeps in the user's cache directory.

They are no Inception networks: distances in their features are called `fd_<name>`, never FID. They can be compared only
between runs whose networks have the same `digest`.
"""

import hashlib
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import load_file, save

from jaxtickets import cache, data, files
from jaxtickets.progress import say

NETWORKS = 5  # Networks from other seeds disagree on which of two runs is better; the mean over some is steadier.
VERSION = 2  # To be raised when the network or its training changes, so that cached weights are not reused.
STEPS = 400
BATCH_SIZE = 128


class _Classifier(nn.Module):
    """Three strided convolutions, 64 features, and a linear layer from the features to the labels."""

    outputs: int

    @nn.compact
    def __call__(self, images):
        x = images
        for width in (32, 64, 64):
            x = nn.relu(nn.Conv(width, (3, 3), strides=(2, 2))(x))
        features = nn.relu(nn.Dense(64)(x.reshape(x.shape[0], -1)))
        return features, nn.Dense(self.outputs)(features)


def _loss(logits, labels):
    """Cross entropy for classes `[batch]`, binary cross entropy for attributes `[batch, attributes]`."""
    if labels.ndim == 1:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean()


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
        return _Classifier(self.outputs).apply({"params": self.params}, images)[0]

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that differ from those of networks with other weights."""
        sha = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params):
            sha.update(np.asarray(leaf).tobytes())
        return sha.hexdigest()[:16]


def train(name: str, images, labels, held_out_images, held_out_labels, seed: int = 0) -> Classifier:
    """Returns a network trained to predict the labels of `images: [n, size, size, channels]` uint8.

    Args:
      name: what its features are called.
      labels: `[n]` classes or `[n, attributes]` zeros and ones.
      held_out_images, held_out_labels: the images on which `accuracy` is measured; same shapes.
      seed: of the initial weights and the order of the images.
    """
    labels = np.asarray(labels, np.int32 if np.ndim(labels) == 1 else np.float32)
    held_out_labels = np.asarray(held_out_labels)
    outputs = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    classifier = _Classifier(outputs)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, STEPS))

    @jax.jit
    def init(key):
        params = classifier.init(key, jnp.zeros((1, *images.shape[1:])))["params"]
        return params, optimizer.init(params)

    @jax.jit
    def step(params, opt_state, batch, batch_labels):
        def loss(params):
            return _loss(classifier.apply({"params": params}, batch / 127.5 - 1)[1], batch_labels)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        chosen = np.sort(rng.choice(len(images), min(BATCH_SIZE, len(images)), replace=False))
        params, opt_state = step(params, opt_state, images[chosen].astype(np.float32), labels[chosen])

    logits = jax.jit(classifier.apply)({"params": params}, np.asarray(held_out_images, np.float32) / 127.5 - 1)[1]
    guesses = logits.argmax(axis=-1) if labels.ndim == 1 else logits > 0
    accuracy = float(np.mean(np.asarray(guesses) == held_out_labels))
    return Classifier(params, name, images.shape[1], images.shape[3], outputs, accuracy)


@flax.struct.dataclass
class Classifiers:
    """Several networks that were trained on the same labels from different seeds, as one feature network.

    Attributes:
      networks: the trained networks.
    """

    networks: tuple[Classifier, ...]

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
    def digest(self) -> str:
        """Sixteen hexadecimal digits that differ from those of networks with other weights."""
        return hashlib.sha256("".join(network.digest for network in self.networks).encode()).hexdigest()[:16]


def load(name: str, dataset: str, image_size: int, data_dir: str | None = None) -> Classifiers:
    """The networks `name`, trained on a data set once and then read from the user's cache directory."""
    paths = [
        cache.directory("features") / f"{name}-v{VERSION}-{seed}-{jax.default_backend()}.safetensors"
        for seed in range(NETWORKS)
    ]
    if missing := [seed for seed, path in enumerate(paths) if not path.exists()]:
        say(f"training the feature networks fd_{name} (once, some seconds)")
        training, held_out = (data.load(dataset, split, image_size, data_dir) for split in ("train", "test"))
        for seed in missing:
            network = train(name, training.images, training.labels, held_out.images, held_out.labels, seed)
            metadata = {key: str(getattr(network, key)) for key in ("size", "channels", "outputs", "accuracy")}
            files.replace(paths[seed], save(flatten(network.params), metadata=metadata))
    return Classifiers(tuple(_read(name, path) for path in paths))


def _read(name, path):
    """One network from its file."""
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    return Classifier(
        params=unflatten(load_file(path)),
        name=name,
        size=int(metadata["size"]),
        channels=int(metadata["channels"]),
        outputs=int(metadata["outputs"]),
        accuracy=float(metadata["accuracy"]),
    )


def flatten(params) -> dict[str, np.ndarray]:
    """Weights as `{slash-joined path: array}`, the content of a file."""
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def unflatten(arrays):
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(arrays, sep="/")
