"""The plot of an early-bird search: how its masks have moved."""

import textwrap
from collections.abc import Mapping
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
TITLE = 46  # characters of a line of the title


def search_figure(search: Mapping[str, Any], title: str, largest: float) -> Figure:
    """The distances between the masks of all pairs of epochs (You et al. 2020, figure 3).

    Below is how far the masks have moved from the mask of step 0, where the search has noted it.

    Args:
      search: `distances` is [n, n] in [0, 1], `epochs` is [n], `moved`, if there, is [n].
      largest: the distance at the dark end of the colours.
    """
    figure = Figure(figsize=(WIDTH, (1 + 0.22 * _knows_moved(search)) * 0.86 * WIDTH), layout="compressed")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    axes = figure.subplots()
    threshold = search["threshold"]
    # Light where masks are alike.
    colours = ScalarMappable(Normalize(0, largest), "viridis_r")
    _distances(axes, search, colours)
    axes.set_title(textwrap.fill(title, TITLE), loc="left", fontsize=9, color=INK)
    axes.set_ylabel("epoch", color=INK, fontsize=9)
    _moved(axes, search).set_xlabel("epoch", color=INK, fontsize=9)
    bar = figure.colorbar(colours, ax=axes, pad=0.02, aspect=30)
    ticks = MaxNLocator(6).tick_values(0, largest)
    plain = [tick for tick in ticks if abs(tick - threshold) > 0.04 * largest and tick <= largest]
    bar.set_ticks([*plain, threshold], labels=[*(f"{tick:g}" for tick in plain), f"{threshold:g}"])
    bar.ax.axhline(threshold, color="white", linewidth=1.5)
    bar.set_label(f"distance between {search['unit'].removesuffix('s')} masks", color=INK, fontsize=8.5)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    return figure


def search_rows(search: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the plot shows: one row per mask, with its distances from all masks, and from that of step 0 if known."""
    moved = [{"moved": value} for value in search["moved"]] if _knows_moved(search) else [{}] * len(search["epochs"])
    return [
        {"epoch": epoch, **dict(zip(map(str, search["epochs"]), distances, strict=True)), **more}
        for epoch, distances, more in zip(search["epochs"], search["distances"], moved, strict=True)
    ]


def largest_distance(searches: Mapping[int, Mapping[str, Any]]) -> float:
    """The end of the colours that the plots of several searches share."""
    threshold = max(search["threshold"] for search in searches.values())
    return max(2 * threshold, *(np.max(search["distances"]) for search in searches.values()))


def search_title(round_: int, search: Mapping[str, Any], sparsity: float | None) -> str:
    """The round of a search, its sparsity if it is known, and the epoch at which the ticket was found."""
    title = f"round {round_}"
    if sparsity is not None:
        title += f" · {percent(sparsity)} % pruned"
    found = None if search["emerged"] is None else search["epochs"][search["emerged"]]
    return title + (" · no ticket found" if found is None else f" · found at epoch {short(found)}")


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
