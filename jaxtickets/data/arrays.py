"""A data set made of arrays that a function returns."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxtickets.data.source import Examples, Source
from jaxtickets.errors import UserError


@dataclass(frozen=True)
class Arrays(Source):
    """Images, and labels if there are any, from a function.

    Attributes:
      name: how `config.data.name` chooses it.
      load: `split -> (images, labels)` for the splits 'train' and 'test'. images: uint8 `[n, height, width, channels]`.
        labels: None, `[n]` integers from 0 to below `classes`, or, without classes, `[n, attributes]` zeros and ones.
      channels: 1 (gray) or 3 (RGB).
      classes: the number of classes; 0 if there are none.
      label_names: the name of each class or attribute; may be empty.
      version: empty, `load` is called at each start of a run and its arrays are compared with the decoded ones by a
        digest, so that a change is always noticed. A version such as "1.0" saves that: while name and version stay,
        the decoded images are taken as they are and `load` is not called.
    """

    name: str
    load: Callable
    channels: int = 3
    classes: int = 0
    label_names: tuple[str, ...] = ()
    version: str = ""

    def key(self, split: str) -> str:
        """Returns a digest of name, version and label names, and without a version of the split's arrays."""
        digest = hashlib.sha256(repr((self.name, self.version, self.classes, tuple(self.label_names))).encode())
        if not self.version:
            for array in self._arrays(split):
                if array is not None:
                    digest.update(f"{array.dtype} {array.shape}".encode())
                    digest.update(np.ascontiguousarray(array).data)
        return f"arrays-{digest.hexdigest()[:24]}"

    def open(self, split: str) -> Examples:
        images, labels = self._arrays(split)

        def read(start, stop):
            of_rows = [None] * (stop - start) if labels is None else labels[start:stop].tolist()
            names = [f"image {i} of data.name={self.name!r}" for i in range(start, stop)]
            return list(zip(images[start:stop], of_rows, names, strict=True))

        return Examples(len(images), read, tuple(self.label_names))

    def _arrays(self, split):
        """Returns what `load` gives for a split. Raises UserError if it is not of the promised form."""
        images, labels = self.load(split)
        images = np.asarray(images)

        def refuse(what, array, needed):
            raise UserError(
                f"data.name={self.name!r}: the {what} of {split!r} are {array.dtype} {list(array.shape)};"
                f" needed are {needed}"
            )

        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != self.channels:
            refuse("images", images, f"uint8 [n, height, width, {self.channels}]")
        if labels is None and not self.classes:
            return images, None
        labels = np.asarray(labels)
        size = len(self.label_names)
        if self.classes:
            good = labels.ndim == 1 and labels.dtype.kind in "iu" and size in (0, self.classes)
            limit, form = self.classes, f"integers [{len(images)}] from 0 to {self.classes - 1}"
        else:
            good = labels.ndim == 2 and labels.dtype.kind in "iub" and size in (0, labels.shape[1])
            limit, form = 2, f"zeros and ones [{len(images)}, attributes], or classes=... in its Arrays"
        if not good or len(labels) != len(images) or ((labels < 0) | (labels >= limit)).any():
            refuse("labels", labels, f"{form}, and as many label_names, or none")
        return images, labels
