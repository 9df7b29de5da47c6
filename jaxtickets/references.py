"""References of a metric: what held-out real images score, and what a network scores that was never trained.

`references.json` has an entry for each column: `untrained`, the ceiling; `held_out`, the floor, null for a metric that
is itself taken on held-out images. Such a metric may have `best`, the best possible number, and `mean_image`, that of a
network that answers every image with the mean training image. Everything here is a pure function of these entries; an
empty one, of a workdir without the file, says nothing.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtickets.fields import is_finite

KINDS = ("held_out", "untrained", "mean_image", "best")


def known(entry: Mapping[str, Any], kind: str) -> float | None:
    """A number of an entry; None if it is missing or not finite."""
    value = entry.get(kind)
    return value if is_finite(value) else None


def floor(entry: Mapping[str, Any]) -> float | None:
    """What held-out images score; the best possible number where the metric has no such score; None without either."""
    held_out = known(entry, "held_out")
    return known(entry, "best") if held_out is None else held_out


def tells_apart(entry: Mapping[str, Any], better: str) -> bool:
    """Whether the metric scores its floor better than an untrained network; true where one of them is not known."""
    low, high = floor(entry), known(entry, "untrained")
    return low is None or high is None or _is_better(low, high, better)


def has_learned(value: float, entry: Mapping[str, Any], better: str) -> bool | None:
    """Whether a network with this metric has learned: it is nearer to the floor than to the untrained network.

    Distances are differences, not ratios. Without a floor it must be better than the untrained network. Where the mean
    training image has a number, it must be better than that, too. A value that is not finite has not learned.

    Args:
      value: the metric of the trained network.
      entry: the metric's references.
      better: "lower" or "higher".

    Returns:
      None if the untrained network's number is not known, or the metric does not tell the two apart.
    """
    ceiling, best = known(entry, "untrained"), floor(entry)
    if ceiling is None or not tells_apart(entry, better):
        return None
    limits = ceiling if best is None else (best + ceiling) / 2, known(entry, "mean_image")
    return math.isfinite(value) and all(_is_better(value, limit, better) for limit in limits if limit is not None)


def shortcoming(metric: str, value: float, entry: Mapping[str, Any], better: str) -> str | None:
    """Why no ticket can be compared with a dense run of this metric, as what is said of the run; None if one can."""
    if has_learned(value, entry, better) or known(entry, "untrained") is None:
        return None
    best, untrained = floor(entry), f"an untrained network's {entry['untrained']:.4g}"
    of_best = "the best possible" if known(entry, "held_out") is None else "held-out images'"
    if not tells_apart(entry, better):
        return f"can't be judged: in {metric}, {of_best} {best:.4g} is no better than {untrained}"
    if not math.isfinite(value) or not _is_better(value, entry["untrained"], better):
        return f"has not learned: {metric} {value:.4g} is no better than {untrained}"
    mean_image = known(entry, "mean_image")
    if mean_image is not None and not _is_better(value, mean_image, better):
        return f"has not learned: {metric} {value:.4g} is no better than the mean training image's {mean_image:.4g}"
    return f"has not learned: {metric} {value:.4g} is nearer to {untrained} than to {of_best} {best:.4g}"


def mean(of_seeds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The references of several seed runs as those of one: the mean of each number that all of them have."""
    columns = [name for name in of_seeds[0] if all(name in references for references in of_seeds)] if of_seeds else []
    return {column: _mean_entry([references[column] for references in of_seeds]) for column in columns}


def _mean_entry(entries):
    numbers = {kind: [known(entry, kind) for entry in entries] for kind in KINDS}
    means = {kind: statistics.fmean(values) for kind, values in numbers.items() if None not in values}
    return {name: value for name, value in entries[0].items() if name not in KINDS} | means


def _is_better(value, other, better):
    return value < other if better == "lower" else value > other
