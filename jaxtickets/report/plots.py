"""The plots of one run: metrics, training curves, the sparsity of each layer, and the search for a ticket."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from jaxtickets.report.drawing import (
    BAND,
    DENSE,
    INK,
    LINE,
    MOST_TICKS,
    PLAIN,
    WIDTH,
    WINNER,
    clean,
    interval_band,
    legend,
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
    interval,
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
from jaxtickets.report.search import largest_distance, search_figure, search_title, shown_searches
from jaxtickets.report.svg import PAPER
from jaxtickets.report.theme import ROUNDS

NOT_CURVES = ("round", "step", "split", "seconds")
MAX_CURVES = 6
POINTS_PER_CURVE = 80
LAYERS = "layers"  # The name of the plot.
NO_REFERENCE: Mapping[str, Any] = {}


@matplotlib.rc_context(PLAIN)
def figures(run: Results) -> dict[str, Figure]:
    """All plots for which the run has data, by file name without its ending."""
    drawn = {}
    for metric in shown_metrics(run):
        if not drawn and (figure := ratio_figure(run)):
            drawn[RATIO] = figure
        shown = run.rounds, run.verdict, metric, run.seed_rounds, run.about, run.references.get(metric, {})
        drawn[metric_plot(metric)] = metric_figure(*shown)
    for name in curve_names(run.metrics):
        drawn[curve_plot(name)] = curve_figure(run.metrics, name)
    if run.layers:
        drawn[LAYERS] = layers_figure(run.layers)
    sparsities = {row["round"]: row["sparsity"] for row in run.rounds}
    for number, search in (searches := shown_searches(run.searches)).items():
        title = search_title(number, search, sparsities.get(number))
        drawn[search_plot(number)] = search_figure(search, title, largest_distance(searches))
    return drawn


def shown_metrics(run: Results) -> list[str]:
    """The metrics that have a plot, the verdict's first."""
    main = main_metric(run.rounds, run.verdict, run.about)
    metrics = sorted(metric_columns(run.rounds, run.about), key=lambda name: name != main)
    return [metric for metric in metrics if any(is_finite(row[metric]) for row in run.rounds)]


def curve_plot(name: str) -> str:
    """The name of the plot of a training curve."""
    return f"curve_{_plain(name)}"


def search_plot(round_: int) -> str:
    """The name of the plot of a round's search."""
    return f"search_{round_:03d}"


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def metric_plot(metric: str) -> str:
    """The name of a metric's plot."""
    return f"metric_{_plain(metric)}"


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
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
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
    filled = [LINE if not is_main or row["round"] == 0 or wins(row, verdict) else PAPER for row in rows]
    axes.scatter([row["density"] for row in rows], means, s=34, c=filled, edgecolors=LINE, linewidths=1.4, zorder=4)
    for row in rows:
        if row["round"] == winning_round(verdict):
            label = f"{winner(verdict)} (round {row['round']}, {percent(row['sparsity'])} % pruned)"
            axes.scatter(row["density"], row[metric], s=130, color=WINNER, marker="D", zorder=5, label=label)
    value_axis_with_references(axes, values, reference)
    sparsity_axis(axes, [row["density"] for row in rows])
    described = describe(metric, verdict, about)
    metric_axis(axes, metric, described.direction if described.better else "")
    clean(axes)
    legend(figure)
    return figure


def metric_rows(run: Results, metric: str) -> list[dict[str, Any]]:
    """The points of a metric's plot: one row per round, with the ends of its interval and the value of each seed."""
    rows = []
    for row in run.rounds:
        ends = interval(row, run.verdict, metric) or (not run.seed_rounds and bootstrap(row, metric)) or (None, None)
        shown = {"round": row["round"], "sparsity": row["sparsity"], "density": row["density"], metric: row[metric]}
        of_seeds = {f"seed_{one['seed']}": one[metric] for one in run.seed_rounds if one["round"] == row["round"]}
        rows.append(shown | dict(zip(("low", "high"), ends, strict=True)) | of_seeds)
    return rows


def curve_figure(metrics: Sequence[dict[str, Any]], name: str) -> Figure:
    """A training curve against the step, one line per round."""
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = figure.subplots()
    rounds = sorted({row["round"] for row in metrics if row.get("split") == "train"})
    colours = round_colours(rounds)
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
    axes.set_xlabel("training step", color=INK, fontsize=9)
    clean(axes)
    _round_bar(figure, axes, rounds)
    return figure


class Sparsities(NamedTuple):
    """The sparsity of each prunable layer in each round.

    Attributes:
      layers: their names; the first is "all layers".
      weights: [layers], their numbers of weights before pruning.
      rounds: the rounds.
      shares: [layers, rounds], in [0, 1], NaN where it is not known.
    """

    layers: list[str]
    weights: np.ndarray
    rounds: list[int]
    shares: np.ndarray


def layer_sparsities(layers: Sequence[dict[str, Any]]) -> Sparsities:
    """The sparsities of the rows of `layers.csv`."""
    names = list(dict.fromkeys(row["layer"] for row in layers))
    rounds = sorted({row["round"] for row in layers})
    weights, kept = np.zeros((2, len(names) + 1, len(rounds)))
    for row in layers:
        cell = names.index(row["layer"]) + 1, rounds.index(row["round"])
        weights[cell], kept[cell] = row["weights"], row["kept"]
    weights[0], kept[0] = weights.sum(axis=0), kept.sum(axis=0)
    shares = 1 - np.divide(kept, weights, out=np.full_like(kept, np.nan), where=weights > 0)
    short = [name.removesuffix("/kernel") for name in names]
    return Sparsities(["all layers", *short], weights.max(axis=1), rounds, shares)


def layers_figure(layers: Sequence[dict[str, Any]]) -> Figure:
    """The sparsity of each prunable layer in each round, as a heat map."""
    names, _, rounds, shares = layer_sparsities(layers)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.22 * len(names)), layout="constrained")
    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list("sparsity", ["#f4f7fb", "#7ba7d4", "#12365f"])
    image = axes.imshow(100 * shares, cmap=colours, vmin=0, vmax=100, aspect="auto")
    axes.axhline(0.5, color="white", linewidth=4)
    axes.set_yticks(range(len(names)), names)
    every = -(-len(rounds) // MOST_TICKS)
    axes.set_xticks(range(0, len(rounds), every), [str(number) for number in rounds[::every]])
    axes.set_xlabel("round", color=INK, fontsize=9)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=30)
    bar.set_label("weights pruned [%]", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    return figure


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


def curve_rows(metrics: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The points of a training curve as they are drawn, one row per point."""
    return [
        {"round": number, "step": f"{step:g}", name: f"{value:.6g}"}
        for number in sorted({row["round"] for row in metrics if row.get("split") == "train"})
        for step, value in zip(*curve(metrics, number, name), strict=True)
    ]


def round_colours(rounds: Sequence[int]) -> dict[int, Any]:
    """One colour per round, from blue (dense) to ochre (sparse)."""
    colours = LinearSegmentedColormap.from_list("rounds", ROUNDS)
    shades = np.linspace(0, 1, max(2, len(rounds)))
    return {number: to_hex(colours(shade)) for number, shade in zip(rounds, shades, strict=False)}


def _round_bar(figure: Figure, axes: Axes, rounds: Sequence[int]) -> None:
    if len(rounds) < 2:
        return
    colours = LinearSegmentedColormap.from_list("rounds", list(round_colours(rounds).values()), N=len(rounds))
    norm = BoundaryNorm(np.arange(len(rounds) + 1) - 0.5, len(rounds))
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.015, aspect=35)
    every = -(-len(rounds) // 12)
    bar.set_ticks(range(0, len(rounds), every), labels=[str(number) for number in rounds[::every]])
    bar.set_label("round", color=INK)
    bar.minorticks_off()
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=INK)
