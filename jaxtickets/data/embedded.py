"""Data sets that need no file and no network: they come with a dependency, or are painted."""

import dataclasses
import pkgutil

from jaxtickets.data.source import Examples, Source
from jaxtickets.progress import say


@dataclasses.dataclass(frozen=True)
class Embedded(Source):
    """A data set that a function makes; only its decoded images are kept, in the cache directory.

    Attributes:
      name: how `config.data.name` chooses it.
      make: where the function `split -> Examples` is, as "module:function"; imported on first use.
      version: changes whenever the images do.
      how_long: how long they take, if that is worth a message.
      channels, classes, count: see `Source`.
    """

    name: str
    make: str
    version: str = "1.0.0"
    how_long: str = ""
    channels: int = 3
    classes: int = 0
    count: int = 0

    def missing(self) -> str:
        return f"{self.name}, painted once per image size ({self.how_long})" if self.how_long else ""

    def key(self, split: str) -> str:
        return f"{self.name}-{self.version}"

    def open(self, split: str) -> Examples:
        if self.how_long:
            say(f"painting the {split} images of {self.name} (once per image size, {self.how_long})")
        return pkgutil.resolve_name(self.make)(split)
