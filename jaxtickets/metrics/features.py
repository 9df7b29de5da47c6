"""The features of many images in a feature network."""

import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from jaxtickets import cache as user_cache
from jaxtickets import files
from jaxtickets.examples import to_float
from jaxtickets.metrics.frechet import Gaussian, fit_gaussian, parts, symmetric_sqrt
from jaxtickets.metrics.spread import in_batches, replicated, spread

VERSION = 3  # To be raised when what is kept of features changes, so that cached statistics are not reused.
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

    @classmethod
    def of_gaussian(cls, gaussian: Gaussian, parts: int = 1) -> "Features":
        """Features of which only the Gaussian has been kept."""

        def gone():
            raise ValueError(
                "only the Gaussian of these features was kept; a metric that reads more names it in `arrays`"
            )

        features = cls(gone, parts)
        features.__dict__["gaussian"] = gaussian  # Where the cached property keeps it.
        return features

    @cached_property
    def array(self) -> np.ndarray:
        """`[images, features]` float32; mapped from disk where files keep it."""
        if self._stem is None:
            return np.concatenate([np.asarray(batch, np.float32) for batch in self._batches()])
        path = self._file(".npy")
        if not path.exists():
            with files.atomic_write(path) as temporary:
                self._write(temporary)
        return np.load(path, mmap_mode="r")

    @cached_property
    def gaussian(self) -> Gaussian:
        """Their mean and covariance; taken from a stream of batches where the features are not at hand."""
        if self._stem is None:
            return fit_gaussian(self._stream())
        path = self._file(".safetensors")
        if not path.exists():
            files.replace(path, save(fit_gaussian(self._stream())._asdict()))
        return Gaussian(**load_file(path))

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

    def once(self, name, compute: Callable):
        """What `compute()` returns, computed only the first time that `name` is asked for."""
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]

    def _file(self, suffix):
        return self._stem.with_name(self._stem.name + suffix)

    def _write(self, path):
        done, array = 0, None
        for batch in self._batches():
            if array is None:
                array = np.lib.format.open_memmap(path, "w+", np.float32, (self._count, batch.shape[1]))
            array[done : done + len(batch)] = batch
            done += len(batch)
        array.flush()

    def _stream(self) -> Iterator[np.ndarray]:
        if "array" in self.__dict__ or (self._stem and self._file(".npy").exists()):
            return (self.array[start : start + BLOCK] for start in range(0, len(self.array), BLOCK))
        return iter(self._batches())


def features_of_images(network, images, batch_size: int, is_kept: bool = True) -> Features:
    """The features of uint8 `images: [n, h, w, c]`.

    If `is_kept`, what is computed of them is kept in the user's cache directory. The files' name is a digest of all
    images, their shape, the network's weights and its preprocessing.
    """
    stem = None
    if is_kept:
        key = hashlib.sha256(f"{VERSION} {network.digest} {images.shape} {_digest(images)}".encode()).hexdigest()
        stem = user_cache.directory("features") / f"{network.name}-{key[:24]}"

    def batches():
        return in_batches(_embed(), replicated(network), lambda indices: images[indices], len(images), batch_size)

    return Features(batches, getattr(network, "parts", 1), stem, len(images))


@cache
def _embed():
    return spread(lambda network, images: network(to_float(images)))


_digests = {}  # Of arrays that are still there, by their id.


def _digest(images) -> str:
    """The digest of an array's values, computed once per process and array."""
    found = _digests.get(id(images))
    if found is None or found[0]() is not images:
        sha = hashlib.sha256()
        for start in range(0, len(images), BLOCK):
            sha.update(np.ascontiguousarray(images[start : start + BLOCK]).data)
        found = _digests[id(images)] = weakref.ref(images), sha.hexdigest()
    return found[1]
