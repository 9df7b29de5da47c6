"""What a data source is, as a plug-in."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxtickets.fields import Field

Image = bytes | np.ndarray | Callable[[], bytes]
Label = int | Sequence[bool] | None


@dataclasses.dataclass(frozen=True)
class Examples:
    """A split that is ready to be read.

    Attributes:
      count: the number of examples.
      read: `(start, stop) -> [(image, label, name)]`, one row per index. The image is an encoded file, a function that
        returns one, or a uint8 array `[height, width, channels]`; the label is an int, a sequence of bools, or None,
        the same kind in all rows; the name is how messages call the image.
      label_names: the name of each class or attribute; empty if there are none.
    """

    count: int
    read: Callable[[int, int], list[tuple[Image, Label, str]]]
    label_names: tuple[str, ...] = ()


class Source:
    """The origin of a data set's images; `config.data.name` chooses it. A source overrides `key` and `open` at least.

    Attributes:
      name, fields, check: see `jaxtickets.fields`.
      channels: the number of channels of its images: 1 (gray) or 3 (RGB). Images of another kind are converted.
      classes: the number of classes that its labels tell apart, known before anything is prepared; 0 if it has no
        labels, or attributes instead.
      count: the number of training images, where it is known before anything is prepared; else 0.
    """

    name: str
    fields: tuple[Field, ...] = ()
    channels: int = 3
    classes: int = 0
    count: int = 0

    def check(self, config) -> None:
        """Refuses a config that contradicts this source."""

    def at(self, data_dir: str | None) -> "Source":
        """Returns this source with the prepared files in `data_dir`; None is the usual place."""
        return self

    def over(self, background: str) -> "Source":
        """Returns this source with transparent parts of its images over a background, which may make them coloured."""
        return self

    def verify(self) -> None:
        """Raises UserError if the data set cannot exist. Downloads, prepares and writes nothing."""

    def missing(self) -> str:
        """Returns what opening it downloads or prepares first, in words; "" if that is nothing."""
        return ""

    def key(self, split: str) -> str:
        """Returns a file name that changes whenever the split's content does. The cache keeps decoded images by it."""
        raise NotImplementedError

    def open(self, split: str) -> Examples:
        """Opens the split 'train' or 'test'; downloads or prepares first what is missing."""
        raise NotImplementedError

    def open_all(self) -> list[Examples]:
        """Opens all images, for a reader that takes the splits together, in the order in which their files have them.

        Where a split was made here, and not given, it does not change the order.
        """
        return [self.open(split) for split in ("train", "test")]


def reason(error: BaseException) -> str:
    """Returns one short line that says what failed."""
    url = getattr(getattr(error, "request", None), "url", None)
    if url and any("Connection" in kind.__name__ for kind in type(error).__mro__):
        return f"no connection to {url.split('/')[2]}"
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is missing (pip install {error.name})"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}".removesuffix(": ")
