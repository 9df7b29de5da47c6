"""The features of many images in a feature network."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from jaxtickets import cache as user_cache
from jaxtickets import cached_files, checksums
from jaxtickets.devices import Devices
from jaxtickets.examples import to_float
from jaxtickets.metrics.frechet import Gaussian, fit_gaussian, parts, symmetric_sqrt
from jaxtickets.metrics.spread import in_batches, replicated, spread

VERSION = 4  # To be raised when what is kept of features changes, so that cached statistics are not reused.
BLOCK = 4096  # The number of features that are read from a file at a time.


class Features:
    """The features of a set of images in one feature network, computed when a metric asks for them.

    Attributes:
      parts: the number of networks that the feature network is made of; each has the same number of features.
    """

    def __init__(self, batches: Callable[[], Iterable], parts: int = 1, stem: Path | None = None, count: int = 0):
        """
        Args:
          batches: returns the features in batches `[n, features]`.
          stem: the path without suffix of the files that keep the features and their Gaussian; None: no files.
          count: the number of images; needed with `stem`.
        """
        self._batches, self.parts, self._stem, self._count, self._kept = batches, parts, stem, count, {}
        self._first = None

    @classmethod
    def of_gaussian(cls, gaussian: Gaussian, parts: int = 1, first: np.ndarray | None = None) -> "Features":
        """Features of which only the Gaussian has been kept, and the `first` few."""

        def gone():
            raise ValueError(
                "only the Gaussian of these features was kept; a metric that reads more names it in `arrays`"
            )

        features = cls(gone, parts)
        features.__dict__["gaussian"] = gaussian  # Where the cached property keeps it.
        features._first = first
        return features

    @cached_property
    def array(self) -> np.ndarray:
        """`[images, features]` float32; mapped from disk where files keep it."""
        if self._stem is None:
            return np.concatenate([np.asarray(batch, np.float32) for batch in self._batches()])

        def make(path):
            cached_files.write_table(path, self._batches(), self._count)

        return cached_files.get(self._file(".npy"), cached_files.map_table, make)

    @cached_property
    def gaussian(self) -> Gaussian:
        """Their mean and covariance; taken from a stream of batches where the features are not at hand."""
        if self._stem is None:
            return fit_gaussian(self._stream())

        def make(path):
            cached_files.write(path, fit_gaussian(self._stream())._asdict())

        return Gaussian(**cached_files.get(self._file(".safetensors"), cached_files.read, make)[0])

    @cached_property
    def gaussians(self) -> list[Gaussian]:
        """The Gaussian of each part."""
        return parts(self.gaussian, self.parts)

    @cached_property
    def roots(self) -> list[np.ndarray]:
        """The square root of each part's covariance."""
        return [symmetric_sqrt(gaussian.covariance) for gaussian in self.gaussians]

    def some(self, n: int) -> np.ndarray:
        """`[n, features]`: `n` of the features, evenly spaced in their order, or all where there are no more."""
        n = min(n, len(self.array))
        return np.asarray(self.array[np.arange(n) * len(self.array) // n])

    def first(self, n: int) -> np.ndarray:
        """`[n, features]`: the first `n` of the features, or all that there are or were kept."""
        return np.asarray((self.array if self._first is None else self._first)[:n])

    def once(self, name, compute: Callable):
        """What `compute()` returns, computed only the first time that `name` is asked for."""
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]

    def _file(self, suffix):
        return self._stem.with_name(self._stem.name + suffix)

    def _stream(self) -> Iterator[np.ndarray]:
        if "array" in self.__dict__ or (self._stem and self._file(".npy").exists()):
            return (self.array[start : start + BLOCK] for start in range(0, len(self.array), BLOCK))
        return iter(self._batches())


def features_of_images(network, images, batch_size: int, is_kept: bool = True, devices: Devices = None) -> Features:
    """The features of uint8 `images: [n, h, w, c]`.

    If `is_kept`, what is computed of them is kept in the user's cache directory. The files' name is a digest of all
    images, their shape, the network's weights and its preprocessing.
    """
    stem = None
    if is_kept:
        facts = f"{VERSION} {network.digest} {images.shape} {checksums.of_values(images)}"
        key = hashlib.sha256(facts.encode()).hexdigest()[:24]
        stem = user_cache.directory("features") / f"{network.name}-{key}"

    def batches():
        shared, rows = replicated(network, devices), lambda indices: images[indices]
        return in_batches(_embed(devices), shared, rows, len(images), batch_size, devices)

    return Features(batches, getattr(network, "parts", 1), stem, len(images))


@cache
def _embed(devices):
    return spread(lambda network, images: network(to_float(images)), devices)
