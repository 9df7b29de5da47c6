"""What a metric is, as a plug-in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxtickets.fields import Field, no_check
from jaxtickets.metrics.features import Features

SAMPLES, HELD_OUT = "samples", "held_out"
BETTER = ("lower", "higher")


class Sets(NamedTuple):
    """The images that a metric on samples compares, as their features in the metric's feature network.

    Attributes:
      generated: the samples; held-out images in their place give the metric's floor.
      training: all training images.
      held_out: the first `config.eval.samples` held-out images.
    """

    generated: Features
    training: Features
    held_out: Features


def as_they_are(means, config):
    """Returns the means over the held-out images, one per term."""
    del config
    return tuple(means.values())


@dataclass(frozen=True)
class Metric:
    """A measure of a trained network, one number or several; `config.eval.metrics` chooses it.

    There are two kinds. A metric on samples names a feature network (`features`) and compares the samples' features
    with the training images'; the objective must have `sample`. A metric on held-out images names the terms that it
    reads (`terms`): of the objective's `evaluate`, or of an `evaluate` of its own. Samples are generated once for all
    metrics, embedded once for all metrics with the same feature network, and the held-out images are passed once.

    In `features`, `columns`, `main` and `label` a field of the config may stand in braces, as in "kid_{eval.features}",
    and in `label` also the number of held-out images, as `{held_out}`, and `{draws_seed}`.

    Attributes:
      name, fields, check: see `jaxtickets.fields`.
      label: its columns in words, one text per column. A single text is that of the main column, and the others are
        then called by their names.
      features: a name in `FEATURE_NETWORKS`; "" for a metric on held-out images.
      terms: names of the terms that `evaluate` gives, or of the columns that `Objective.summarize` makes of them; ()
        for a metric on samples.
      columns: its columns in `rounds.csv`, or a function `config -> columns`; () stands for one column per term.
      main: the column that decides the verdict if the metric is the first that is chosen; "" is its first column.
      measure: returns one number per column: `(sets: Sets, config) -> numbers` on samples,
        `({term: mean over all held-out images}, config) -> numbers` on held-out images.
      better: whether "lower" or "higher" numbers in the main column are better.
      registries: of the plug-ins that its own fields choose from.
      arrays: the sets whose features `measure` reads one by one (`Features.array`). The others are streamed and only
        their Gaussians are kept, in constant memory.
      evaluate: `(objective, config) -> function` like `Objective.evaluate`, whose terms a metric on held-out images
        reads in place of the objective's own; None: the objective's.
      best: the best possible number in the main column, which stands in for that of held-out images in the references
        of a metric on these; None if there is none, or if no network comes near it.
      of_mean_image: `(squared error, size) -> number`: the main column's number of a network that answers every image
        with the mean training image, for the references of a metric on held-out images. The error is the mean over the
        `size` pixels and channels of an image, and over the held-out images, in [-1, 1]. None: there is no such number.
      decides: whether it may be the first that is chosen, which decides the verdict. The tolerance is a share of the
        dense run's number, so its numbers must be positive, with 0 for nothing.
      requires: the functions of the objective that `evaluate` calls, such as "reconstruct".
      draws: `(sets, config) -> numbers [draws, ...]`, one or several for each random draw or group, of a metric on
        samples with one column, which is the mean of all. Papers quote the standard deviation over the draws beside it,
        and so does `jaxtickets.evaluate`. None: there are no draws.
      draws_seed: of the draws; None without any.

    Raises:
      ValueError: it is of neither kind or of both, `main` is none of its columns, `better` is another word, or it has
        not one label per column.
    """

    name: str
    label: str | tuple[str, ...]
    features: str = ""
    terms: tuple[str, ...] = ()
    columns: tuple[str, ...] | Callable = ()
    main: str = ""
    measure: Callable = as_they_are
    better: str = "lower"
    fields: tuple[Field, ...] = ()
    check: Callable = no_check
    registries: tuple = ()
    arrays: tuple[str, ...] = ("generated", "training")
    evaluate: Callable | None = None
    best: float | None = None
    of_mean_image: Callable | None = None
    decides: bool = True
    requires: tuple[str, ...] = ()
    draws: Callable | None = None
    draws_seed: int | None = None

    def __post_init__(self):
        if bool(self.features) == bool(self.terms):
            raise ValueError(f"metric {self.name!r}: either `features` or `terms` must be given")
        if self.main and not callable(self.columns) and self.main not in (self.columns or self.terms):
            raise ValueError(f"metric {self.name!r}: main={self.main!r} is none of its columns")
        if self.better not in BETTER:
            raise ValueError(f"metric {self.name!r}: better={self.better!r}; allowed is {' or '.join(BETTER)}")
        columns = () if callable(self.columns) else self.columns or self.terms
        if columns and not isinstance(self.label, str) and len(self.label) != len(columns):
            raise ValueError(f"metric {self.name!r}: {len(self.label)} labels and {len(columns)} columns")
        if not set(self.arrays) <= set(Sets._fields):
            raise ValueError(f"metric {self.name!r}: arrays={self.arrays!r}; allowed are {', '.join(Sets._fields)}")

    @property
    def needs(self) -> str:
        """Whether it needs "samples" or "held_out" images."""
        return SAMPLES if self.features else HELD_OUT

    def features_of(self, config) -> str:
        """The name of the feature network that it reads."""
        return self.features.format(**config)

    def columns_of(self, config) -> list[str]:
        """Its columns in `rounds.csv`."""
        columns = self.columns(config) if callable(self.columns) else self.columns or self.terms
        return [column.format(**config) for column in columns]

    def main_of(self, config) -> str:
        """Its main column."""
        return self.main.format(**config) or self.columns_of(config)[0]

    def labels_of(self, config, held_out: int) -> dict[str, str]:
        """`{column: label}` of its columns, given the number of held-out images."""
        columns, main, is_one = self.columns_of(config), self.main_of(config), isinstance(self.label, str)
        texts = [self.label if column == main else column for column in columns] if is_one else self.label
        words = {**config, "held_out": held_out, "draws_seed": self.draws_seed}
        return {column: text.format(**words) for column, text in zip(columns, texts, strict=True)}

    def row(self, measured, config) -> dict[str, float]:
        """What `measure` has returned, by column.

        Raises:
          ValueError: the number of numbers is not that of the columns.
        """
        columns, numbers = self.columns_of(config), np.ravel(np.asarray(measured, np.float64)).tolist()
        if len(columns) != len(numbers):
            raise ValueError(f"metric {self.name!r} has {len(columns)} columns and measures {len(numbers)} numbers")
        return dict(zip(columns, numbers, strict=True))
