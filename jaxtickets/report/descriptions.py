"""What is seen in each plot and picture, in words and numbers, for those who do not see it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtickets.report.plots import Sparsities, curve
from jaxtickets.report.reading import (
    REFERENCES,
    Results,
    describe,
    is_finite,
    percent,
    ratio,
    short,
    significant,
    winner,
    winning_round,
)

MOST = 24  # Values in a list; of more, these evenly spaced ones.


def _listed(entries: Sequence[str]) -> str:
    places = np.linspace(0, len(entries) - 1, min(len(entries), MOST)).round().astype(int)
    return ", ".join(entries[place] for place in places)


def of_metric(run: Results, metric: str) -> str:
    """A metric against sparsity: its values, the tolerance, the references and the ticket."""
    rows = [row for row in run.rounds if is_finite(row[metric])]
    values = [f"{significant(row[metric])} at {percent(row['sparsity'])}%" for row in rows]
    text = f"{describe(metric, run.verdict, run.about).label}, by the weights pruned: {_listed(values)}."
    if (run.verdict or {}).get("metric") == metric:
        if is_finite(threshold := run.verdict.get("threshold")):
            text += f" The shaded tolerance ends at {significant(threshold)}."
        if (number := winning_round(run.verdict)) is not None:
            text += f" Round {number} is marked as {winner(run.verdict)}."
    known = run.references.get(metric, {})
    scores = [f"{name} {significant(known[kind])}" for kind, name in REFERENCES.items() if is_finite(known.get(kind))]
    return text + (f" For comparison: {', '.join(scores)}." if scores else "")


def of_ratios(run: Results, metric: str) -> str:
    """The ratios to the dense runs, with their intervals."""
    entries = [(row, ratio(row, run.verdict, metric)) for row in run.rounds]
    values = [
        f"{entry['ratio']:.2f} ({entry['ratio_low']:.2f} to {entry['ratio_high']:.2f}) at {percent(row['sparsity'])}%"
        for row, entry in entries
        if entry
    ]
    return f"{metric}, times that of the dense run of the same seed, with intervals, by sparsity: {_listed(values)}."


def of_curve(metrics: Sequence[dict[str, Any]], name: str) -> str:
    """A training curve: its first and its last value in each round."""
    ends = []
    for number in sorted({row["round"] for row in metrics if row.get("split") == "train"}):
        _, values = curve(metrics, number, name)
        if len(values):
            ends.append(f"round {number} from {short(values[0])} to {short(values[-1])}")
    return f"{name.replace('_', ' ').capitalize()} against the training step: {_listed(ends)}."


def of_layers(sparsities: Sparsities) -> str:
    """The sparsities of the layers: the least and the most pruned one of the last round."""
    names, _, rounds, shares = sparsities
    last = shares[1:, -1]
    text = f"Sparsity of {len(names) - 1} layers in rounds {rounds[0]} to {rounds[-1]}."
    if not np.isfinite(last).any():
        return text
    least, most = (int(find(last)) for find in (np.nanargmin, np.nanargmax))
    return (
        f"{text} In round {rounds[-1]}, of all weights {percent(shares[0, -1])}% are pruned; most of"
        f" {names[most + 1]}, {percent(last[most])}%, and least of {names[least + 1]}, {percent(last[least])}%."
    )


def of_search(search: Mapping[str, Any]) -> str:
    """How alike the masks of a search are, and when the ticket was found."""
    distances, epochs = np.array(search["distances"]), search["epochs"]
    steps = [f"{short(value)} at epoch {short(epoch)}" for value, epoch in zip(distances[-1], epochs, strict=True)]
    found = search["emerged"]
    end = "No ticket was found." if found is None else f"The ticket was found at epoch {short(epochs[found])}."
    return (
        f"Distances between the masks of {len(epochs)} epochs, up to {short(distances.max())}. From the last mask:"
        f" {_listed(steps)}. {end}"
    )


def of_samples(run: Results, round_: int) -> str:
    """A grid of samples: of which round, and how good."""
    row = next((row for row in run.rounds if row["round"] == round_), None)
    text = f"Grid of images of round {round_}"
    if row is None:
        return f"{text}."
    metric = (run.verdict or {}).get("metric")
    score = f", {metric} {significant(row[metric])}" if not run.seeds and is_finite(row.get(metric)) else ""
    return f"{text}: {percent(row['sparsity'])}% of the weights pruned{score}."
