"""Feature networks by name, as plug-ins, and the features of many images in one of them."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file, save

from jaxtickets import cache, files
from jaxtickets.examples import to_float
from jaxtickets.fields import Field, Registry, no_check
from jaxtickets.metrics import classifier
from jaxtickets.metrics.frechet import Gaussian, fit_gaussian


@dataclass(frozen=True)
class FeatureNetwork:
    """A network in whose features images are compared.

    Attributes:
      name, fields, check: see `jaxtickets.fields`.
      load: `(data_dir) -> network`, called once per run; prepared data sets are in `data_dir`, or in the usual place if
        it is None. The network is a pure function: it takes `images: [batch, h, w, c]`, float32 in [-1, 1], of any
        size, grey or colour, and returns features `[batch, n]`. It has three attributes: its `name`; a `digest`, a
        text that changes with its weights; and, if it is made of several networks with the same number of features,
        `parts`, their number. A Frechet distance is the mean over these.
    """

    name: str
    load: Callable
    fields: tuple[Field, ...] = ()
    check: Callable = no_check


def trained_on(dataset: str, image_size: int, name: str) -> FeatureNetwork:
    """Feature networks that this machine trains on the labels of a data set, on first use."""
    return FeatureNetwork(name, partial(classifier.load, name, dataset, image_size))


FEATURE_NETWORKS = Registry(
    "eval.features",
    trained_on("digits", 16, name="digits"),
    trained_on("synthetic_faces", 32, name="faces"),
)


class Features:
    """The features of a set of images in one feature network, computed when a metric asks for them.

    Attributes:
      parts: the number of networks that the feature network is made of; each has the same number of features.
    """

    def __init__(self, batches: Callable[[], Iterable], parts: int = 1, file: Path | None = None):
        """batches: returns the features in batches `[n, features]`; file: keeps their Gaussian, if given."""
        self._batches, self.parts, self._file = batches, parts, file

    @cached_property
    def array(self) -> np.ndarray:
        """`[images, features]` float32."""
        return np.concatenate([np.asarray(batch) for batch in self._batches()])

    @cached_property
    def gaussian(self) -> Gaussian:
        """Their mean and covariance."""
        if self._file is None:
            return fit_gaussian(self._batches())
        if not self._file.exists():
            files.replace(self._file, save(fit_gaussian(self._batches())._asdict()))
        return Gaussian(**load_file(self._file))


def features_of_images(network, images, batch_size: int) -> Features:
    """The features of uint8 `images: [n, h, w, c]`; their Gaussian is kept in the user's cache directory."""
    sha = hashlib.sha256(f"{network.digest} {images.shape}".encode())
    sha.update(np.ascontiguousarray(images[:: max(1, len(images) // 2000)]).tobytes())
    embed = jax.jit(lambda images: network(to_float(images)))
    return Features(
        lambda: (embed(batch) for batch in batches(images, batch_size)),
        getattr(network, "parts", 1),
        cache.directory("features") / f"{network.name}-{sha.hexdigest()[:16]}.safetensors",
    )


def batches(images, batch_size: int):
    """Consecutive batches of `images`, on the host; the last one may be smaller."""
    for start in range(0, len(images), batch_size):
        yield np.asarray(images[start : start + batch_size])
