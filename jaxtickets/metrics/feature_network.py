"""What a feature network is, as a plug-in."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtickets.fields import Field, no_check


@dataclass(frozen=True)
class FeatureNetwork:
    """A network in whose features images are compared; `config.eval.features` chooses it.

    Attributes:
      name, fields, check: see `jaxtickets.fields`.
      load: `config -> network`, called once per run. The network is a pytree whose array leaves are its weights, so
        that compiled programs take it as an argument. It is called with `images: [batch, h, w, c]`, float32 in
        [-1, 1], of any size, grey or colour, and returns features `[batch, n]`. Its attributes: `name`; `digest`, a
        text that changes with its weights and its preprocessing; `parts`, if it is made of several networks with the
        same number of features: their number, and a Frechet distance is the mean over these; `about`, if there is
        something to be told beside its numbers, such as its held-out accuracy: a text; `channels`, 1 if it sees no
        colour.
      dataset: the `data.name` for whose images `eval.features="auto"` takes it where Inception's weights are missing;
        "" is none.
      column: the column of the Frechet distance in its features; "" is `fd_<name>`.
    """

    name: str
    load: Callable
    fields: tuple[Field, ...] = ()
    check: Callable = no_check
    column: str = ""
    dataset: str = ""
