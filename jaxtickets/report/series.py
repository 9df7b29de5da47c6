"""The curves of a comparison: quality against sparsity, FLOPs and seconds, with bands over seeds."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from jaxtickets.report.common import common_metric, common_reference, describe_common, labels
from jaxtickets.report.drawing import (
    DENSE,
    INK,
    MOST_TICKS,
    PLAIN,
    WIDE,
    WIDTH,
    clean,
    metric_axis,
    sparsity_axis,
    value_axis_with_references,
)
from jaxtickets.report.reading import Results, flops_share, is_finite, winner, winning_round
from jaxtickets.report.theme import ROUNDS

MAX_LEGEND = 24
MAX_BANDS = 6
PALETTE = ("#2563a6", "#d9480f", "#2f8f5b", "#8e44ad", "#b8860b", "#0f8b8d", "#c2255c", "#7a5bd0")
AXES = {  # What quality is drawn against, with the label of the axis.
    "density": "weights pruned [%]",
    "flops": "FLOPs left [% of dense]",
    "seconds": "training that the ticket takes [s]",
}


class Point(NamedTuple):
    """A round of the runs of one label.

    Attributes:
      places: where it is on each of `AXES`, the mean over the seeds; None where that is not known.
      mean, low, high: the metric's mean over the seeds, its lowest and its highest value.
      seeds: the number of seeds.
    """

    round_: int
    places: Mapping[str, float | None]
    mean: float
    low: float
    high: float
    seeds: int


def curves(runs: Mapping[str, Results], fields: Sequence[str], metric: str | None) -> dict[str, list[Point]]:
    """The points of each label, by round; runs that differ in the seed alone, and seeds of a run, are one curve."""
    named, found = labels(runs, fields), {}
    for name, run in runs.items():
        for row, seconds in _with_seconds(run):
            if is_finite(row.get(metric)):
                place = {"density": row["density"], "flops": flops_share(row), "seconds": seconds}
                found.setdefault(named[name], {}).setdefault(row["round"], []).append((place, row[metric]))
    return {
        label: [_point(round_, entries) for round_, entries in sorted(rounds.items())]
        for label, rounds in found.items()
    }


def _point(round_: int, entries: Sequence[tuple[Mapping[str, float | None], float]]) -> Point:
    values = [value for _, value in entries]
    places = {}
    for axis in AXES:
        known = [place[axis] for place, _ in entries]
        places[axis] = statistics.fmean(known) if all(map(is_finite, known)) else None
    return Point(round_, places, statistics.fmean(values), min(values), max(values), len(values))


def _with_seconds(run: Results) -> Iterator[tuple[dict[str, Any], float | None]]:
    """The rows of a run, one per seed and round, with the seconds of training that the round's network takes.

    Iterative pruning needs all rounds before, pruning in one shot the dense one; other methods the round alone.
    """
    experiment = run.config.get("experiment")
    seconds = {(row.get("seed"), row["round"]): row.get("train_seconds") for row in run.seed_rounds or run.rounds}
    for row in run.seed_rounds or run.rounds:
        number = row["round"]
        needed = {number}
        if experiment == "imp":
            needed = set(range(number + 1))
        elif experiment == "one_shot":
            needed = {0, number}
        spent = [seconds.get((row.get("seed"), other)) for other in needed]
        yield row, sum(spent) if all(map(is_finite, spent)) else None


def colours(names: Sequence[str]) -> dict[str, str]:
    """One colour per label."""
    if len(names) <= len(PALETTE):
        return dict(zip(names, PALETTE, strict=False))
    scale = LinearSegmentedColormap.from_list("labels", ROUNDS)
    return {name: to_hex(scale(shade)) for name, shade in zip(names, np.linspace(0, 1, len(names)), strict=True)}


@matplotlib.rc_context(PLAIN)
def comparison_figure(runs: Mapping[str, Results], fields: Sequence[str]) -> Figure:
    """The common metric of the runs against sparsity, one line per label, with its legend."""
    figure = Figure(figsize=(WIDE, 4.6), layout="constrained")
    axes = figure.subplots()
    metric = common_metric(list(runs.values()))
    found = curves(runs, fields, metric)
    _draw(axes, runs, fields, found, "density", describe_common(metric, runs.values()).label, most_ticks=14)
    if not found:
        return figure
    axes.scatter([], [], s=46, marker="s", color=DENSE, label="dense run")
    words = dict.fromkeys(winner(run.verdict) for run in runs.values() if winning_round(run.verdict) is not None)
    if words:
        axes.scatter([], [], s=60, marker="D", color="white", edgecolors=INK, label=" or\n".join(words))
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=8.5, labelcolor=INK)
    legend.set_title(f"{MAX_LEGEND} of {len(found)} shown" if len(found) > MAX_LEGEND else "", prop={"size": 8.5})
    return figure


@matplotlib.rc_context(PLAIN)
def cost_figures(runs: Mapping[str, Results], fields: Sequence[str]) -> dict[str, Figure]:
    """The common metric against each of `AXES` for which it is known, by the axis, without a legend."""
    found = curves(runs, fields, common_metric(list(runs.values())))
    figures = {}
    for axis in AXES:
        if any(is_finite(point.places[axis]) for points in found.values() for point in points):
            figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
            _draw(figure.subplots(), runs, fields, found, axis)
            figures[axis] = figure
    return figures


def _draw(
    axes: Axes,
    runs: Mapping[str, Results],
    fields: Sequence[str],
    found: Mapping[str, list[Point]],
    axis: str,
    metric_label: str = "",
    most_ticks: int = MOST_TICKS,
) -> None:
    metric, named, colour = common_metric(list(runs.values())), labels(runs, fields), colours(list(found))
    clean(axes)
    if not found:
        axes.text(0.5, 0.5, "no metric in common yet", ha="center", transform=axes.transAxes, color=DENSE)
        return
    places, values = [], []
    for label, points in found.items():
        shown = [point for point in points if is_finite(point.places[axis]) and point.places[axis] > 0]
        x, y = [point.places[axis] for point in shown], [point.mean for point in shown]
        known = label if list(found).index(label) < MAX_LEGEND else None
        # Rounds that do not need one another come in no order of their seconds.
        line = "-" if axis != "seconds" or x == sorted(x) else "none"
        axes.plot(x, y, color=colour[label], linewidth=1.5, linestyle=line, marker="o", markersize=3.5, label=known)
        if len(found) <= MAX_BANDS and line == "-" and any(point.seeds > 1 for point in shown):
            ends = [[point.low for point in shown], [point.high for point in shown]]
            axes.fill_between(x, *ends, color=colour[label], alpha=0.16, linewidth=0, zorder=2)
            values += [*ends[0], *ends[1]]
        winners = {winning_round(run.verdict) for name, run in runs.items() if named[name] == label}
        for point in shown:
            here, kind = (point.places[axis], point.mean), {"color": colour[label]}
            if point.round_ == 0:
                axes.scatter(*here, s=46, marker="s", zorder=4, **kind)
            if point.round_ in winners:
                axes.scatter(*here, s=70, marker="D", edgecolors=INK, zorder=5, **kind)
        places += x
        values += y
    value_axis_with_references(axes, values, common_reference(metric, runs.values()))
    if axis == "density":
        sparsity_axis(axes, places, most_ticks)
    else:
        _cost_axis(axes, places, axis)
    metric_axis(axes, metric_label or str(metric), describe_common(metric, runs.values()).direction)


def _cost_axis(axes: Axes, places: Sequence[float], axis: str) -> None:
    axes.set_xlabel(AXES[axis], color=INK, fontsize=9)
    if axis == "flops":
        axes.set_xlim(1.04 * max(places), 0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    else:
        axes.set_xlim(left=0)
