"""The plot of a run over several seeds: each round's ratio to the dense run of the same seed."""

import math
import statistics
from typing import Any

from matplotlib.figure import Figure

from jaxtickets.report.drawing import (
    BAND,
    DENSE,
    LINE,
    WIDTH,
    WINNER,
    clean,
    legend,
    metric_axis,
    sparsity_axis,
    value_axis_with_references,
)
from jaxtickets.report.reading import (
    Results,
    describe,
    is_finite,
    is_higher_better,
    main_metric,
    percent,
    ratio,
    winner,
    winning_round,
    wins,
)
from jaxtickets.report.svg import PAPER
from jaxtickets.statistics import ratio_limit

RATIO = "ratio"  # The name of the plot.


def ratio_figure(run: Results) -> Figure | None:
    """The ratio of the main metric to the dense run against sparsity, with its interval and one dot per seed.

    References are ratios to the geometric mean of the dense runs.

    None where the verdict has no ratios: for one seed, while the run is unfinished, and for values that are not
    positive.
    """
    metric = main_metric(run.rounds, run.verdict, run.about)
    judged = {row["round"]: ratio(row, run.verdict, str(metric)) for row in run.rounds}
    rows = [row for row in run.rounds if judged[row["round"]]]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(1, color=DENSE, linewidth=1.2, linestyle="--", label="dense run of the same seed")
    limit = ratio_limit(run.verdict["tolerance"], run.verdict["better"])
    way = "down" if is_higher_better(run.verdict) else "up"
    axes.axhspan(1, limit, color=BAND, linewidth=0, zorder=0, label=f"within tolerance ({way} to {limit:g})")
    densities = [row["density"] for row in rows]
    dense = _dense(run, metric)
    # Beside the bars, by a part of the axis that is the same at every density.
    beside = {row["round"]: row["density"] * (max(densities) / min(densities)) ** 0.01 for row in rows}
    dots = [
        (beside[round_], value) for round_, of_seeds in _of_seeds(run, metric).items() for value in of_seeds.values()
    ]
    axes.scatter(*zip(*dots, strict=True), s=14, color=LINE, alpha=0.6, linewidths=0, zorder=3, label="each seed")
    entries = [judged[row["round"]] for row in rows]
    means = [entry["ratio"] for entry in entries]
    axes.plot(densities, means, color=LINE, linewidth=1.2, alpha=0.5, zorder=3)
    ends = [
        [entry["ratio"] - entry["ratio_low"] for entry in entries],
        [entry["ratio_high"] - entry["ratio"] for entry in entries],
    ]
    label = f"geometric mean, {run.verdict['confidence']:.0%} interval"
    axes.errorbar(densities, means, ends, fmt="none", ecolor=LINE, elinewidth=1.6, capsize=3.5, zorder=4, label=label)
    filled = [LINE if wins(row, run.verdict) else PAPER for row in rows]
    axes.scatter(densities, means, s=34, c=filled, edgecolors=LINE, linewidths=1.4, zorder=5)
    for row, mean in zip(rows, means, strict=True):
        if row["round"] == winning_round(run.verdict):
            label = f"{winner(run.verdict)} (round {row['round']}, {percent(row['sparsity'])} % pruned)"
            axes.scatter(row["density"], mean, s=110, color=WINNER, marker="D", zorder=6, label=label)
    bounds = [entry[name] for entry in entries for name in ("ratio_low", "ratio_high")]
    values = [1, limit, *(value for _, value in dots), *bounds]
    of_dense = math.exp(statistics.fmean(map(math.log, dense.values())))
    value_axis_with_references(axes, values, run.references.get(metric, {}), unit=of_dense)
    sparsity_axis(axes, densities)
    described = describe(str(metric), run.verdict, run.about)
    metric_axis(axes, f"{metric} / dense run's", described.direction if described.better else "")
    clean(axes)
    legend(figure)
    return figure


def ratio_rows(run: Results) -> list[dict[str, Any]]:
    """The points of the plot: one row per round, with the ends of its interval and the ratio of each seed."""
    metric = main_metric(run.rounds, run.verdict, run.about)
    of_seeds, rows = _of_seeds(run, metric), []
    for row in run.rounds:
        if entry := ratio(row, run.verdict, str(metric)):
            shown = {name: row[name] for name in ("round", "sparsity", "density")}
            shown |= {name: entry[name] for name in ("ratio", "ratio_low", "ratio_high")}
            rows.append(shown | {f"seed_{seed}": value for seed, value in of_seeds[row["round"]].items()})
    return rows


def _dense(run, metric):
    """The metric of each seed's dense run."""
    return {row["seed"]: row[metric] for row in run.seed_rounds if row["round"] == 0}


def _of_seeds(run, metric):
    """The ratio of each round that has one to the dense run of the same seed: `{round: {seed: ratio}}`."""
    dense = _dense(run, metric)
    found = {row["round"]: {} for row in run.rounds if ratio(row, run.verdict, str(metric))}
    for row in run.seed_rounds:
        if row["round"] in found and is_finite(row[metric]) and is_finite(dense.get(row["seed"])):
            found[row["round"]][row["seed"]] = row[metric] / dense[row["seed"]]
    return found
