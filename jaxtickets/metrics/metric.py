"""What a metric is, as a plug-in."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtickets.fields import Field, no_check

SAMPLES, HELD_OUT = "samples", "held_out"
BETTER = ("lower", "higher")


def as_they_are(means, config):
    """Returns the means over the held-out images, one per term."""
    del config
    return tuple(means.values())


@dataclass(frozen=True)
class Metric:
    """A measure of a trained network, one number or several; `config.eval.metrics` chooses it.

    There are two kinds. A metric on samples names a feature network (`features`) and compares the samples' features
    with the training images'; the objective must have `sample`. A metric on held-out images names the terms of the
    objective's `evaluate` that it reads (`terms`). Samples are generated once for all metrics, embedded once for all
    metrics with the same feature network, and the held-out images go through the network once.

    In `features`, `columns`, `main` and `label` a field of the config may stand in braces, as in "fd_{eval.features}",
    and in `label` also the number of held-out images, as `{held_out}`.

    Attributes:
      name, fields, check: see `jaxtickets.fields`.
      label: its main column, in words.
      features: a name in `FEATURE_NETWORKS`; "" for a metric on held-out images.
      terms: names of the terms that `Objective.evaluate` gives, or of the columns that `Objective.summarize` makes of
        them; () for a metric on samples.
      columns: its columns in `rounds.csv`; () stands for one column per term.
      main: the column that decides the verdict if the metric is the first that is chosen; "" is its first column.
      measure: returns one number per column: `(generated: Features, training: Features, config) -> numbers` on samples,
        `({term: mean over all held-out images}, config) -> numbers` on held-out images.
      better: whether "lower" or "higher" numbers in the main column are better.
      registries: of the plug-ins that its own fields choose from.

    Raises:
      ValueError: it is of neither kind or of both, `main` is none of its columns, or `better` is another word.
    """

    name: str
    label: str
    features: str = ""
    terms: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    main: str = ""
    measure: Callable = as_they_are
    better: str = "lower"
    fields: tuple[Field, ...] = ()
    check: Callable = no_check
    registries: tuple = ()

    def __post_init__(self):
        if bool(self.features) == bool(self.terms):
            raise ValueError(f"metric {self.name!r}: either `features` or `terms` must be given")
        if self.main and self.main not in (self.columns or self.terms):
            raise ValueError(f"metric {self.name!r}: main={self.main!r} is none of its columns")
        if self.better not in BETTER:
            raise ValueError(f"metric {self.name!r}: better={self.better!r}; allowed is {' or '.join(BETTER)}")

    @property
    def needs(self) -> str:
        """Whether it needs "samples" or "held_out" images."""
        return SAMPLES if self.features else HELD_OUT

    def features_of(self, config) -> str:
        """The name of the feature network that it reads."""
        return self.features.format(**config)

    def columns_of(self, config) -> list[str]:
        """Its columns in `rounds.csv`."""
        return [column.format(**config) for column in self.columns or self.terms]

    def main_of(self, config) -> str:
        """Its main column."""
        return self.main.format(**config) or self.columns_of(config)[0]

    def label_of(self, config, held_out: int) -> str:
        """Its label, given the number of held-out images."""
        return self.label.format(**config, held_out=held_out)
