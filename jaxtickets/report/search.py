"""The plot of an early-bird search: how its masks have moved."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxtickets.report.drawing import DENSE, FAINT, INK, LINE, WIDTH, WINNER, clean
from jaxtickets.report.reading import is_finite, percent, short

MAX_SEARCHES = 4


def search_figure(searches: Mapping[int, dict[str, Any]], rows: Sequence[dict[str, Any]]) -> Figure:
    """The distances between the masks of all pairs of epochs, one panel per round (You et al. 2020, figure 3).

    Below each is how far its masks have moved from the mask of step 0, where the search has noted it.

    Args:
      searches: the searches by round; `distances` is [n, n] in [0, 1], `epochs` is [n], `moved`, if there, is [n].
      rows: the rows of `rounds.csv`.
    """
    sparsities = {row["round"]: row["sparsity"] for row in rows}
    columns = min(2, len(searches))
    height = -(-len(searches) // columns)
    strip = 0.12 * any(map(_knows_moved, searches.values()))
    size = (0.72 * WIDTH, (0.58 + strip) * WIDTH) if columns == 1 else (WIDTH, (0.43 + strip) * WIDTH * height)
    figure = Figure(figsize=size, layout="compressed")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    panels = figure.subplots(height, columns, squeeze=False)
    for axes in panels.flat[len(searches) :]:
        axes.set_axis_off()
    threshold = max(search["threshold"] for search in searches.values())
    largest = max(2 * threshold, *(np.max(search["distances"]) for search in searches.values()))
    # Light where masks are alike.
    colours = ScalarMappable(Normalize(0, largest), "viridis_r")
    for axes, (number, search) in zip(panels.flat, searches.items(), strict=False):
        _distances(axes, search, colours)
        title = f"round {number}"
        if number in sparsities:
            title += f" · {percent(sparsities[number])} % pruned"
        found = None if search["emerged"] is None else search["epochs"][search["emerged"]]
        title += " · no ticket found" if found is None else f" · found at epoch {short(found)}"
        axes.set_title(title, loc="left", fontsize=9.5, color=INK)
        _moved(axes, search).set_xlabel("epoch", color=INK)
    for axes in panels[:, 0]:
        axes.set_ylabel("epoch", color=INK)
    bar = figure.colorbar(colours, ax=panels, pad=0.02, aspect=30)
    ticks = MaxNLocator(6).tick_values(0, largest)
    plain = [tick for tick in ticks if abs(tick - threshold) > 0.04 * largest and tick <= largest]
    bar.set_ticks([*plain, threshold], labels=[*(f"{tick:g}" for tick in plain), f"{threshold:g}, threshold"])
    bar.ax.axhline(threshold, color="white", linewidth=1.5)
    unit = next(iter(searches.values()))["unit"].removesuffix("s")
    bar.set_label(f"normalised Hamming distance\nbetween {unit} masks", color=INK, labelpad=8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    return figure


def shown_searches(searches: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """At most four of the searches, evenly spaced, the first and the last among them."""
    rounds = sorted(searches)
    places = np.linspace(0, len(rounds) - 1, min(len(rounds), MAX_SEARCHES)).round().astype(int)
    return {rounds[place]: searches[rounds[place]] for place in places}


def _distances(axes: Axes, search: Mapping[str, Any], colours: ScalarMappable) -> None:
    """Draws one search: a cell for each pair of masks, a line around close pairs, and a diamond for the ticket."""
    epochs, distances = np.array(search["epochs"]), np.array(search["distances"])
    steps = np.diff(epochs) if len(epochs) > 1 else np.ones(1)
    edges = np.array([epochs[0] - steps[0] / 2, *(epochs[:-1] + np.diff(epochs) / 2), epochs[-1] + steps[-1] / 2])
    axes.pcolormesh(edges, edges, distances, cmap=colours.cmap, norm=colours.norm)
    is_close = distances < search["threshold"]
    rows, columns = np.nonzero(is_close[:, 1:] != is_close[:, :-1])
    for lines in (axes.vlines, axes.hlines):  # The distances are symmetric.
        lines(edges[columns + 1], edges[rows], edges[rows + 1], color="white", linewidth=1.5, capstyle="projecting")
    if search["emerged"] is not None:
        found = epochs[search["emerged"]]
        axes.plot([edges[0], found, found], [found, found, edges[0]], color=WINNER, linewidth=1.2, linestyle="--")
        axes.scatter(found, found, s=70, color=WINNER, marker="D", edgecolors="white", zorder=3)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(9, integer=epochs[-1] >= 2))
    axes.tick_params(length=3, color=FAINT, labelsize=8.5, labelcolor=INK)
    axes.spines[:].set_visible(False)


def _moved(axes: Axes, search: Mapping[str, Any]) -> Axes:
    """Draws how far a search's masks have moved, below their distances, where it is known: the lowest axes."""
    if not _knows_moved(search):
        return axes
    strip, moved, found = axes.inset_axes((0, -0.36, 1, 0.2), sharex=axes), search["moved"], search["emerged"]
    clean(strip)
    strip.plot(search["epochs"], moved, color=LINE, linewidth=1.5, marker="o", markersize=3)
    strip.axhline(search["least_moved"], color=DENSE, linewidth=1.2, linestyle="--")
    if found is not None:
        strip.scatter(search["epochs"][found], moved[found], s=40, color=WINNER, marker="D", zorder=3)
    strip.set_ylim(0, max(1.1, *moved))
    strip.set_yticks(sorted({0, search["least_moved"], 1}))
    strip.set_title("distance from step 0, random mask = 1", loc="left", fontsize=8.5, color=INK)
    return strip


def _knows_moved(search: Mapping[str, Any]) -> bool:
    """Whether the search file has the distances from the mask of step 0; old ones do not."""
    moved = search.get("moved") or ()
    return len(moved) == len(search["epochs"]) and all(map(is_finite, (*moved, search.get("least_moved"))))
