"""How alike the masks of rounds and of seeds are, beside random masks of the same sparsity in each layer."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxtickets.report import damage
from jaxtickets.report.drawing import DENSE, INK, LINE, MOST_TICKS, WIDTH, clean, legend, sparsity_axis
from jaxtickets.report.reading import Results
from jaxtickets.workdir import Workdir

OVERLAP = "overlap"  # The name of the plot.
MAX_NUMBERS = 8  # Rounds; with more, the cells of the plot are too small for numbers.

Masks = Mapping[str, np.ndarray]


def overlaps(run: Results) -> list[dict[str, Any]]:
    """The overlaps of the masks of a run's pruned rounds, or, over several seeds, of the seeds' masks of each round.

    Returns:
      One row per pair: the `first` and the `second` mask (a round, or a seed) and the `round` of the second;
      `kept_first`, `kept_second` and `kept_by_both`; `overlap`, the share of the sparser mask's weights that the other
      one keeps too; `overlap_of_random`, what is expected of random masks that keep as many weights in each layer;
      `beyond_chance`, (overlap - overlap_of_random) / (1 - overlap_of_random). [] without saved masks.
    """
    pruned = [row["round"] for row in run.rounds if row["sparsity"] > 0]
    if run.seeds:
        layers = _sizes(run.seeds[min(run.seeds)].read_layers())
        rows = []
        for round_ in pruned:
            masks = _read({seed: (workdir, round_) for seed, workdir in run.seeds.items()})
            rows += [_pair(*seeds, round_, *map(masks.get, seeds), layers) for seeds in combinations(masks, 2)]
        return rows
    masks, layers = _read({round_: (run.workdir, round_) for round_ in pruned}), _sizes(run.layers)
    return [_pair(*rounds, rounds[1], *map(masks.get, rounds), layers) for rounds in combinations(masks, 2)]


def _sizes(layers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    return {row["layer"]: row["weights"] for row in layers}


def _read(places: Mapping[int, tuple[Workdir, int]]) -> dict[int, Masks]:
    """The masks that are there and intact, eight weights per byte."""
    there = {key: path for key, (workdir, round_) in places.items() if (path := workdir.masks(round_)).is_dir()}
    if not there:
        return {}
    from jaxtickets import snapshots  # Loads JAX, which a report without masks does not need.

    found = {key: damage.intact(partial(snapshots.restore_raw, path)) for key, path in there.items()}
    return {key: masks for key, masks in found.items() if masks is not None and all(map(_is_packed, masks.values()))}


def _is_packed(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype == np.uint8 and leaf.ndim == 1


def _pair(first: int, second: int, round_: int, one: Masks, other: Masks, sizes: Mapping[str, int]) -> dict[str, Any]:
    names = [name for name in one if name in other and one[name].shape == other[name].shape]
    count = {name: tuple(_ones(mask[name]) for mask in (one, other)) for name in names}
    kept_first, kept_second = (sum(pair[place] for pair in count.values()) for place in (0, 1))
    both = sum(_ones(one[name] & other[name]) for name in names)
    random = sum(a * b / sizes.get(name, 8 * len(one[name])) for name, (a, b) in count.items())
    fewer = min(kept_first, kept_second) or 1
    overlap, expected = both / fewer, random / fewer
    return {
        "first": first,
        "second": second,
        "round": round_,
        "kept_first": kept_first,
        "kept_second": kept_second,
        "kept_by_both": both,
        "overlap": overlap,
        "overlap_of_random": expected,
        "beyond_chance": (overlap - expected) / (1 - expected) if expected < 1 else None,
    }


def _ones(packed: np.ndarray) -> int:
    return int(np.bitwise_count(packed).sum())


def is_nested(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each round keeps only weights that all rounds before it keep."""
    return all(row["kept_by_both"] == row["kept_second"] for row in rows)


def overlap_figure(run: Results, rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """The overlaps of seeds against sparsity, or of each two rounds as a heat map; None for nested rounds."""
    if run.seeds:
        return _of_seeds(run, rows)
    return None if is_nested(rows) else _of_rounds(rows)


def _of_seeds(run: Results, rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    densities = {row["round"]: row["density"] for row in run.rounds}
    rounds = sorted({row["round"] for row in rows})
    x = [densities[number] for number in rounds]
    # While a run goes on, later rounds have fewer seeds and so fewer pairs.
    shares, random = (
        [np.array([100 * row[name] for row in rows if row["round"] == number]) for number in rounds]
        for name in ("overlap", "overlap_of_random")
    )
    counts = sorted({len(pairs) for pairs in shares})
    how_many = str(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    label = f"mean of {how_many} pairs of seeds" if counts[-1] > 1 else "masks of two seeds"
    axes.plot(x, [pairs.mean() for pairs in shares], color=LINE, linewidth=1.8, marker="o", markersize=5, label=label)
    if counts[-1] > 1:
        ends = [pairs.min() for pairs in shares], [pairs.max() for pairs in shares]
        axes.fill_between(x, *ends, color=LINE, alpha=0.16, linewidth=0)
    random = [pairs.mean() for pairs in random]
    axes.plot(x, random, color=DENSE, linewidth=1.4, linestyle="--", zorder=3, label="random masks of the same layers")
    axes.set_ylabel("kept weights that the other\nseed keeps too [%]", color=INK, fontsize=9)
    axes.set_ylim(0, 100)
    sparsity_axis(axes, x)
    clean(axes)
    legend(figure)
    return figure


def _of_rounds(rows: Sequence[Mapping[str, Any]]) -> Figure:
    rounds = sorted({row[name] for row in rows for name in ("first", "second")})
    cells = np.full((len(rounds), len(rounds)), np.nan)
    for row in rows:
        cells[rounds.index(row["first"]), rounds.index(row["second"])] = row["beyond_chance"]
    cells = cells[:-1, 1:]
    figure = Figure(figsize=(WIDTH, 0.8 * WIDTH), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(cells, cmap="viridis", vmin=min(0, np.nanmin(cells)), vmax=1)
    every = -(-len(rounds) // MOST_TICKS)
    axes.set_xticks(range(0, len(rounds) - 1, every), [str(number) for number in rounds[1::every]])
    axes.set_yticks(range(0, len(rounds) - 1, every), [str(number) for number in rounds[:-1:every]])
    axes.set_xlabel("round", color=INK, fontsize=9)
    axes.set_ylabel("round", color=INK, fontsize=9)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.spines[:].set_visible(False)
    if len(rounds) <= MAX_NUMBERS:
        for (row, column), value in np.ndenumerate(cells):
            if np.isfinite(value):
                colour = "white" if value < 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=colour)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    bar.set_label("overlap beyond chance", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    return figure


def overlap_words(run: Results, rows: Sequence[Mapping[str, Any]]) -> str:
    """What the overlaps are, with their numbers, in two or three sentences."""
    least, most = (_range(rows, name) for name in ("overlap", "overlap_of_random"))
    measure = "The share of the sparser mask's weights that the other one keeps too"
    random = f"random masks that keep as many weights in each layer would share {most}"
    if run.seeds:
        beyond = [row["beyond_chance"] for row in rows if row["round"] == rows[-1]["round"]]
        mean = sum(filter(None, beyond)) / len(beyond)
        return (
            f"{measure}, for the masks of two seeds in the same round: {least}; {random}. In the sparsest round the"
            f" masks are {mean:.0%} of the way from random ones to the same one."
        )
    if is_nested(rows):
        return (
            f"The masks are nested: each round keeps only weights that every round before it keeps (all {len(rows)}"
            f" pairs of pruned rounds overlap by 100%; {random})."
        )
    return (
        f"{measure}, for each two pruned rounds: {least}; {random}. Beyond chance: 0 for random masks, 1 where one mask"
        " lies within the other."
    )


def _range(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    low, high = (f"{100 * end(row[name] for row in rows):.1f}%" for end in (min, max))
    return low if low == high else f"{low} to {high}"
