"""Colours, axes and PNG files, shared by all plots."""

import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from jaxtickets.report.reading import REFERENCES, interval, is_finite, percent, ratio, significant
from jaxtickets.report.theme import COLOURS

PLAIN = {"text.parse_math": False}  # Settings of Matplotlib for figures with names of others: $ is a letter.
DPI = 130
WIDTH = 3.6  # inches: on a phone, where a plot is about 350 pixels wide, type of 8.5 points then has 11 pixels.
WIDE = 9.0  # inches, of a plot that is no part of a page.
LABEL = 42  # characters per line of y's label
LEGEND = 45  # characters that fit beside each other in a legend
MOST_TICKS = 8
INK, FAINT, LINE, DENSE, BAND, WINNER = (
    COLOURS[name][0] for name in ("ink", "line", "curve", "dense", "band", "ticket")
)
REFERENCE_COLOURS = {kind: COLOURS[kind.replace("_", "-")][0] for kind in REFERENCES}
BEYOND = 0.14  # The share of the height beyond a break of the axis.
MOST_STRETCHED = 3  # A plot with references may be this many times as high as its data.


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # Of letters that the font lacks, and of texts without room.
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def metric_axis(axes: Axes, label: str, direction: str) -> None:
    """Labels y with a metric's name, in lines that fit the figure, and with its direction, if that is known."""
    text = f"{label} ({direction})" if direction else label
    axes.set_ylabel(textwrap.fill(text, LABEL), color=INK, fontsize=8.5)


def legend(figure: Figure) -> None:
    """The legend above a plot, in two columns if its texts fit beside each other."""
    labels = [text for axes in figure.axes for text in axes.get_legend_handles_labels()[1]]
    if not labels:
        return
    half = -(-len(labels) // 2)
    longest = [max(map(len, part)) for part in (labels[:half], labels[half:]) if part]
    columns = 2 if len(longest) == 2 and sum(longest) < LEGEND else 1
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK)


def interval_band(
    axes: Axes,
    rows: Sequence[dict[str, Any]],
    verdict: dict[str, Any] | None,
    metric: str,
    colour: Any,
    label: str | None = None,
) -> list[float]:
    """Shades the confidence intervals of a run over several seeds; returns their ends, [] for a run of one seed.

    Where the verdict has ratios, all values of the metric are positive: then a band ends at 0, which its label says.
    """
    known = [(row["density"], *bounds) for row in rows if (bounds := interval(row, verdict, metric))]
    if not known:
        return []
    densities, lows, highs = zip(*known, strict=True)
    ratios = [ratio(row, verdict, metric) for row in rows if row["round"]]
    if min(lows) < 0 and ratios and all(ratios):
        lows, label = [max(0, low) for low in lows], label and f"{label}, cut at 0"
    axes.fill_between(densities, lows, highs, color=colour, alpha=0.16, linewidth=0, zorder=2, label=label)
    return [*lows, *highs]


def value_axis_with_references(
    axes: Axes, values: Sequence[float], reference: Mapping[str, Any], unit: float = 1.0
) -> None:
    """Draws the references of a metric as lines, and gives y its scale (`value_axis`).

    A line so far away that it would squash the plot is not drawn; its number is in the legend, with its direction. Only
    that of held-out images is, beyond a break of the axis: without it, rounds that are about equally far from real
    images would look very different.

    Args:
      values: all that the plot shows.
      reference: the metric's entry of `references.json`.
      unit: what a value of 1 in the plot stands for.
    """
    shown, broken = list(values), None
    for kind, name in REFERENCES.items():
        if not is_finite(value := reference.get(kind)):
            continue
        value = value / unit
        style = {"color": REFERENCE_COLOURS[kind], "linewidth": 1.4, "linestyle": ":"}
        count = reference.get(f"{kind}_images")
        label = f"{count:,} {name}" if is_finite(count) else name
        if _fits([*shown, value], values):
            axes.axhline(value, label=f"{label} ({significant(value)})", **style)
            shown.append(value)
            continue
        where = "above" if value > max(values) else "below"
        if kind == "held_out":
            broken = where, f"{label} ({significant(value)})", style
        else:
            axes.plot([], [], label=f"{label} ({significant(value)}, far {where})", **style)
    value_axis(axes, shown)
    if broken:
        _beyond_a_break(axes, *broken)


def _beyond_a_break(axes: Axes, where: str, text: str, style: Mapping[str, Any]) -> None:
    """Draws a line above or below a break of y, at no height of its scale, and its text."""
    bottom, top = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if bottom <= tick <= top]
    scale = axes.yaxis.get_transform()
    low, high = scale.transform([bottom, top])
    strip = (high - low) * BEYOND / (1 - BEYOND)
    low, high = (low, high + strip) if where == "above" else (low - strip, high)
    axes.set_ylim(*scale.inverted().transform([low, high]))
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    line, edge = (1 - BEYOND / 2, 1 - BEYOND) if where == "above" else (BEYOND / 4, BEYOND)
    whole = {"transform": axes.transAxes, "clip_on": False}
    axes.plot([0, 1], [line, line], **style, **whole)
    axes.text(0.995, line + 0.01, text, ha="right", va="bottom", fontsize=8.5, color=style["color"], **whole)
    axes.plot([0, 1], [edge, edge], color=INK, linewidth=0.8, linestyle=(0, (1, 6)), **whole)
    for height in (edge - 0.008, edge + 0.008):  # The two strokes of a broken axis.
        axes.plot([-0.008, 0.008], [height - 0.012, height + 0.012], color=INK, linewidth=1.2, **whole)


def _fits(values: Sequence[float], data: Sequence[float]) -> bool:
    """Whether the data has enough of the height of a plot of all `values`, on the axis that `value_axis` gives it."""
    scale = math.log if _is_wide(values) else float
    whole, part = (scale(max(shown)) - scale(min(shown)) for shown in (values, data))
    return whole <= MOST_STRETCHED * part


def _is_wide(values: Sequence[float]) -> bool:
    """Whether values are positive and span more than one decade."""
    return min(values) > 0 and max(values) > 10 * min(values)


def value_axis(axes: Axes, values: Sequence[float]) -> None:
    """Makes y a log scale with plain numbers at 1, 2 and 5 of each decade, if `values` span more than one decade."""
    if not _is_wide(values):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def sparsity_axis(axes: Axes, densities: Sequence[float], most_ticks: int = MOST_TICKS) -> None:
    """Makes x the density on a falling log scale, on which rounds of a constant pruning rate are equally far apart.

    The ticks are sparsities of rounds, as many as there is room for.
    """
    axes.set_xscale("log")
    low, high = min(densities), max(densities)
    margin = (high / low) ** 0.04 if high > low else 1.1
    axes.set_xlim(high * margin, low / margin)
    room = np.log(high / low) / most_ticks
    ticks: list[float] = []
    for density in sorted(set(densities), reverse=True):
        if not ticks or np.log(ticks[-1] / density) > room:
            ticks.append(density)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([percent(1 - density) for density in ticks])
    axes.set_xlabel("weights pruned [%], log of weights kept", color=INK, fontsize=9)


def clean(axes: Axes) -> None:
    """Gives a line plot the common look: light axes and horizontal grid lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=9)
