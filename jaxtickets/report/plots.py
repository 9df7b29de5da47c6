"""The plots of one run: metrics, losses, the sparsity of each layer, samples, and the search for a ticket."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from jaxtickets.report.drawing import (
    BAND,
    DENSE,
    INK,
    LINE,
    PLAIN,
    WIDTH,
    WINNER,
    clean,
    interval_band,
    metric_axis,
    sparsity_axis,
    value_axis_with_references,
)
from jaxtickets.report.ratios import RATIO, ratio_figure
from jaxtickets.report.reading import (
    UNKNOWN,
    About,
    Results,
    bootstrap,
    describe,
    is_finite,
    is_higher_better,
    main_metric,
    metric_columns,
    percent,
    significant,
    winner,
    winning_round,
    wins,
)
from jaxtickets.report.search import search_figure, shown_searches

NOT_CURVES = ("round", "step", "split", "seconds")
MAX_CURVES = 6
POINTS_PER_CURVE = 80
MAX_ANNOTATED_CELLS = 700
NO_REFERENCE: Mapping[str, Any] = {}


@matplotlib.rc_context(PLAIN)
def figures(run: Results) -> dict[str, Figure]:
    """All plots for which the run has data, by file name without its ending."""
    drawn = {}
    main = main_metric(run.rounds, run.verdict, run.about)
    for metric in sorted(metric_columns(run.rounds, run.about), key=lambda name: name != main):
        if any(is_finite(row[metric]) for row in run.rounds):
            if metric == main and (figure := ratio_figure(run)):
                drawn[RATIO] = figure
            shown = run.rounds, run.verdict, metric, run.seed_rounds, run.about, run.references.get(metric, {})
            drawn[metric_plot(metric)] = metric_figure(*shown)
    if curve_names(run.metrics):
        drawn["losses"] = losses_figure(run.metrics)
    if run.layers:
        drawn["layers"] = layers_figure(run.layers)
    if run.samples and not run.seeds:  # The seeds' own reports have theirs.
        drawn["samples"] = samples_figure(run)
    if run.searches:
        drawn["search"] = search_figure(shown_searches(run.searches), run.rounds)
    return drawn


def metric_plot(metric: str) -> str:
    """The name of a metric's plot."""
    return f"metric_{re.sub(r'[^A-Za-z0-9_-]', '_', metric)}"


def metric_figure(
    rows: Sequence[dict[str, Any]],
    verdict: dict[str, Any] | None,
    metric: str,
    seed_rows: Sequence[dict[str, Any]] = (),
    about: About = UNKNOWN,
    reference: Mapping[str, Any] = NO_REFERENCE,
) -> Figure:
    """One metric against sparsity, with the dense run, the tolerance, the winner and the metric's references.

    Over several seeds, `rows` are the means, and each of `seed_rows` is a dot. A bar is the interval around a metric on
    samples.
    """
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in rows if is_finite(row[metric])]
    values = [row[metric] for row in rows]
    is_main = bool(verdict) and verdict.get("metric") == metric
    dense = verdict.get("dense") if is_main else next((row[metric] for row in rows if row["round"] == 0), None)
    if is_finite(dense):
        label = f"dense {'runs, mean' if seed_rows else 'run'} ({significant(dense)})"
        axes.axhline(dense, color=DENSE, linewidth=1.2, linestyle="--", label=label)
    if is_main and is_finite(dense) and is_finite(verdict.get("threshold")):
        way = "down" if is_higher_better(verdict) else "up"
        label = f"within tolerance ({way} to {significant(verdict['threshold'])})"
        axes.axhspan(dense, verdict["threshold"], color=BAND, linewidth=0, zorder=0, label=label)
        values += [dense, verdict["threshold"]]
    confidence = f"{(verdict or {}).get('confidence', 0):.0%} interval of the mean"
    values += interval_band(axes, rows, verdict, metric, LINE, confidence)
    if dots := [(row["density"], row[metric]) for row in seed_rows if is_finite(row[metric])]:
        axes.scatter(*zip(*dots, strict=True), s=14, color=LINE, alpha=0.7, linewidths=0, zorder=3, label="each seed")
        values += [value for _, value in dots]
    if ends := [(row["density"], *bounds) for row in rows if not seed_rows and (bounds := bootstrap(row, metric))]:
        axes.vlines(*zip(*ends, strict=True), color=LINE, linewidth=1.4, zorder=3, label="95% of draws of the samples")
        values += [value for _, *bounds in ends for value in bounds]
    means = [row[metric] for row in rows]
    axes.plot([row["density"] for row in rows], means, color=LINE, linewidth=1.8, zorder=3)
    filled = [LINE if not is_main or row["round"] == 0 or wins(row, verdict) else "white" for row in rows]
    axes.scatter([row["density"] for row in rows], means, s=34, c=filled, edgecolors=LINE, linewidths=1.4, zorder=4)
    for row in rows:
        if row["round"] == winning_round(verdict):
            label = f"{winner(verdict)} (round {row['round']}, {percent(row['sparsity'])} % pruned)"
            axes.scatter(row["density"], row[metric], s=130, color=WINNER, marker="D", zorder=5, label=label)
    value_axis_with_references(axes, values, reference)
    sparsity_axis(axes, [row["density"] for row in rows])
    described = describe(metric, verdict, about)
    metric_axis(axes, described.label, described.direction if described.better else "")
    clean(axes)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def losses_figure(metrics: Sequence[dict[str, Any]]) -> Figure:
    """Each training curve against the step, one line per round."""
    names = curve_names(metrics)
    columns = min(2, len(names))
    height = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.9 * height), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False)
    rounds = sorted({row["round"] for row in metrics if row.get("split") == "train"})
    colours = round_colours(rounds)
    for axes, name in zip(panels.flat, names, strict=False):
        drawn = []
        for number in rounds:
            steps, values = curve(metrics, number, name)
            axes.plot(steps, values, color=colours[number], linewidth=1.3, marker="o" if len(steps) == 1 else None)
            drawn.extend(values)
        # A few values at the very start would otherwise flatten everything that follows.
        low, high = np.quantile(drawn, (0.005, 0.995))
        margin = 0.06 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
        axes.set_title(name.replace("_", " "), loc="left", fontsize=10, color=INK)
        axes.set_xlabel("training step", color=INK)
        clean(axes)
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    _round_bar(figure, panels, rounds)
    return figure


def layers_figure(layers: Sequence[dict[str, Any]]) -> Figure:
    """The sparsity of each prunable layer in each round, as a heatmap."""
    names = list(dict.fromkeys(row["layer"] for row in layers))
    rounds = sorted({row["round"] for row in layers})
    weights, kept = np.zeros((2, len(names) + 1, len(rounds)))
    for row in layers:
        cell = names.index(row["layer"]) + 1, rounds.index(row["round"])
        weights[cell], kept[cell] = row["weights"], row["kept"]
    weights[0], kept[0] = weights.sum(axis=0), kept.sum(axis=0)
    sparsity = 1 - np.divide(kept, weights, out=np.full_like(kept, np.nan), where=weights > 0)

    figure = Figure(figsize=(max(WIDTH, 3.5 + 0.42 * len(rounds)), 1.3 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list("sparsity", ["#f4f7fb", "#7ba7d4", "#12365f"])
    image = axes.imshow(100 * sparsity, cmap=colours, vmin=0, vmax=100, aspect="auto")
    axes.axhline(0.5, color="white", linewidth=5)
    labels = ["all layers", *(name.removesuffix("/kernel") for name in names)]
    counts = weights.max(axis=1)
    ticks = [f"{label}  ({count:,.0f})" for label, count in zip(labels, counts, strict=True)]
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_xticks(range(len(rounds)), [str(number) for number in rounds])
    axes.set_xlabel("round", color=INK)
    axes.set_ylabel("layer (weights)", color=INK)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axes.spines[:].set_visible(False)
    if sparsity.size <= MAX_ANNOTATED_CELLS:
        for (row, column), value in np.ndenumerate(sparsity):
            if np.isfinite(value):
                colour = "white" if value > 0.55 else INK
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=30)
    bar.set_label("weights pruned [%]", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    return figure


def samples_figure(run: Results) -> Figure:
    """The first two rows of each round's sample grid."""
    sparsities = {row["round"]: row["sparsity"] for row in run.rounds}
    columns = 1 if len(run.samples) <= 4 else 2 if len(run.samples) <= 12 else 3
    height = -(-len(run.samples) // columns)
    corners = {number: corner(Image.open(path, formats=("PNG",))) for number, path in run.samples.items()}
    aspect = max(image.shape[0] / image.shape[1] for image in corners.values())
    figure = Figure(figsize=(WIDTH, height * (WIDTH / columns * aspect + 0.38)), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, (number, image) in zip(panels.flat, corners.items(), strict=False):
        axes.imshow(image, interpolation="nearest")
        title = f"round {number}"
        if number in sparsities:
            title += f" · {percent(sparsities[number])} % pruned"
        is_winner = number == winning_round(run.verdict)
        if is_winner:
            title += f" · {winner(run.verdict)}"
        axes.set_title(title, loc="left", fontsize=9.5, color=WINNER if is_winner else INK)
    return figure


def corner(grid: Image.Image) -> np.ndarray:
    """The first two rows of a grid of square images that is eight images wide, as RGB."""
    # Rounded up, because the last image has no gap to its right.
    pitch = -(-grid.width // 8)
    return np.asarray(grid.convert("RGB").crop((0, 0, grid.width, min(grid.height, 2 * pitch))))


def curve_names(metrics: Sequence[dict[str, Any]]) -> list[str]:
    """The names of at most six scalars of the training rows, losses first."""
    names = dict.fromkeys(
        name
        for row in metrics
        if row.get("split") == "train"
        for name, value in row.items()
        if name not in NOT_CURVES and is_finite(value)
    )
    return sorted(names, key=lambda name: not name.endswith("loss"))[:MAX_CURVES]


def curve(metrics: Sequence[dict[str, Any]], number: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and values of one scalar in one round; a long curve is averaged over 80 stretches of steps."""
    points = [
        (row["step"], row[name])
        for row in metrics
        if row.get("split") == "train" and row["round"] == number and is_finite(row.get(name))
    ]
    stretches = np.array_split(np.array(points).reshape(-1, 2), min(len(points), POINTS_PER_CURVE) or 1)
    means = np.array([stretch.mean(axis=0) for stretch in stretches if len(stretch)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def round_colours(rounds: Sequence[int]) -> dict[int, Any]:
    """One colour per round, from dark (dense) to light (sparse)."""
    # The last tenth of viridis is too light to read on white.
    shades = np.linspace(0, 0.9, max(2, len(rounds)))
    return {number: matplotlib.colormaps["viridis"](shade) for number, shade in zip(rounds, shades, strict=False)}


def _round_bar(figure: Figure, panels: np.ndarray, rounds: Sequence[int]) -> None:
    if len(rounds) < 2:
        return
    colours = LinearSegmentedColormap.from_list("rounds", list(round_colours(rounds).values()), N=len(rounds))
    norm = BoundaryNorm(np.arange(len(rounds) + 1) - 0.5, len(rounds))
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=panels, pad=0.015, aspect=35)
    every = -(-len(rounds) // 12)
    bar.set_ticks(range(0, len(rounds), every), labels=[str(number) for number in rounds[::every]])
    bar.set_label("round", color=INK)
    bar.minorticks_off()
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=INK)
