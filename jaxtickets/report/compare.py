"""The comparison of runs as one table and one plot: `summary.csv` and `comparison.png`."""

import json
import os
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxtickets import files
from jaxtickets import references as reference_lib
from jaxtickets.errors import UserError
from jaxtickets.origin import flat
from jaxtickets.progress import say
from jaxtickets.report.drawing import (
    DENSE,
    INK,
    PLAIN,
    WIDTH,
    clean,
    interval_band,
    metric_axis,
    png,
    sparsity_axis,
    value_axis_with_references,
)
from jaxtickets.report.reading import (
    REFERENCES,
    Metric,
    Results,
    describe,
    is_finite,
    judged_rounds,
    main_metric,
    metric_columns,
    read,
    winner,
    winning_round,
)

FIELD_PREFIX = "config."
MAX_LEGEND = 24
MAX_LABEL_FIELDS = 3
MAX_BANDS = 6
LABEL_WIDTH = 44
PALETTE = ("#2563a6", "#d9480f", "#2f8f5b", "#8e44ad", "#b8860b", "#0f8b8d", "#c2255c", "#5c636e")


def compare(
    workdirs: Sequence[str | os.PathLike], out_dir: str | os.PathLike, failed: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Writes `summary.csv` and `comparison.png` over several runs into `out_dir`.

    Args:
      workdirs: of runs that may still be going on.
      out_dir: created if it does not exist.
      failed: names of the workdirs whose run is known to have failed; these need not be readable.

    Returns:
      The rows of `summary.csv`, one per run: its name, the config fields that differ between the runs (`config.seed`),
      its status, the dense, winning and best values of its metric, the metric's references, whether its dense
      run has learned, and over several seeds the winner's ratio to the dense runs with its interval and its p-value.

    Raises:
      UserError: one of `workdirs` that is not in `failed` is not a workdir, or one is given twice.
    """
    paths = [Path(workdir) for workdir in workdirs]
    names = run_names(paths)
    runs = {}
    for name, path in zip(names, paths, strict=True):
        try:
            runs[name] = read(path)
        except UserError:
            if path.name not in failed:
                raise
    _tell_other_data(runs)
    fields = differing_fields([run.config for run in runs.values()])
    rows = [
        _row(name, runs.get(name), fields, runs.values(), is_failed=path.name in failed)
        for name, path in zip(names, paths, strict=True)
    ]
    files.write_csv(Path(out_dir) / "summary.csv", rows)
    files.replace(Path(out_dir) / "comparison.png", png(comparison_figure(runs, fields)))
    return rows


def _tell_other_data(runs):
    """Says which runs had other images than the first one under the same name of the data set."""
    first = {}
    for name, run in runs.items():
        data = run.config.get("data", {}).get("name")
        digests = (run.verdict or {}).get("data")
        if digests and digests != first.setdefault(data, (name, digests))[1]:
            say(f"{name}: data.name={data!r} held other images than in {first[data][0]}; do not compare them")


def differing_fields(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted names of the config fields whose values are not the same in all of `configs`."""
    of_runs = [flat(config) for config in configs]
    names = dict.fromkeys(name for fields in of_runs for name in fields)
    return [name for name in names if len({json.dumps(fields.get(name)) for fields in of_runs}) > 1]


@matplotlib.rc_context(PLAIN)
def comparison_figure(runs: Mapping[str, Results], fields: Sequence[str]) -> Figure:
    """The common metric of the runs against sparsity, one line per run.

    Runs that differ in the seed alone have the same colour. A run over several seeds is the line of its means, with
    confidence intervals if there are few runs.
    """
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    metric = common_metric(list(runs.values()))
    labels = _labels(runs, fields)
    colours = _colours(list(dict.fromkeys(labels.values())))
    seen: set[str] = set()
    densities, values = [], []
    for name, run in runs.items():
        rows = [row for row in run.rounds if is_finite(row.get(metric))]
        if not rows:
            continue
        label = labels[name]
        colour, shown = colours[label], None if label in seen or len(seen) >= MAX_LEGEND else label
        seen.add(label)
        x, y = [row["density"] for row in rows], [row[metric] for row in rows]
        axes.plot(x, y, color=colour, linewidth=1.5, marker="o", markersize=3.5, label=shown)
        for row in rows:
            if row["round"] == 0:
                axes.scatter(row["density"], row[metric], s=46, marker="s", color=colour, zorder=4)
            if row["round"] == winning_round(run.verdict):
                axes.scatter(row["density"], row[metric], s=70, marker="D", color=colour, edgecolors=INK, zorder=5)
        densities += x
        values += y
        if len(labels) <= MAX_BANDS:
            interval_band(axes, rows, run.verdict, metric, colour)
    clean(axes)
    if not values:
        axes.text(0.5, 0.5, "no metric in common yet", ha="center", transform=axes.transAxes, color=DENSE)
        return figure
    axes.scatter([], [], s=46, marker="s", color=DENSE, label="dense run")
    words = dict.fromkeys(winner(run.verdict) for run in runs.values() if winning_round(run.verdict) is not None)
    if words:
        axes.scatter([], [], s=60, marker="D", color="white", edgecolors=INK, label=" or\n".join(words))
    value_axis_with_references(axes, values, common_reference(metric, runs.values()))
    sparsity_axis(axes, densities, most_ticks=14)
    described = describe_common(metric, runs.values())
    metric_axis(axes, described.label, described.direction)
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=8.5, labelcolor=INK)
    legend.set_title(_more(len(seen)), prop={"size": 8.5})
    return figure


def run_names(paths: Sequence[Path]) -> list[str]:
    """The names of the directories; their whole paths if two have the same name.

    Raises:
      UserError: the same workdir is given twice.
    """
    repeated = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: given twice; give each workdir once")
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def common_metric(runs: Sequence[Results]) -> str | None:
    """The metric that most runs have; among several, the one that most verdicts are about.

    None if no two runs have a metric in common.
    """
    started = [run for run in runs if run.rounds]
    having = Counter(metric for run in started for metric in metric_columns(run.rounds, run.about))
    about = Counter(main_metric(run.rounds, run.verdict, run.about) for run in started)
    best = max(having, key=lambda metric: (having[metric], about[metric]), default=None)
    return best if having[best] >= min(2, len(started)) else None


def common_reference(metric: str | None, runs: Iterable[Results]) -> dict[str, Any]:
    """A metric's references, the means over the runs; {} if held-out images do not score the same in all of them."""
    entries = [run.references.get(metric, {}) for run in runs if metric in metric_columns(run.rounds, run.about)]
    scores = [reference_lib.known(entry, "held_out") for entry in entries]
    is_same = None not in scores and np.allclose(scores, scores[:1], rtol=0.01)
    return reference_lib.mean([{metric: entry} for entry in entries]).get(metric, {}) if is_same else {}


def describe_common(metric: str | None, runs: Iterable[Results]) -> Metric:
    """The label and the direction of a metric, from the first run whose files tell its direction."""
    found = [describe(str(metric), run.verdict, run.about) for run in runs]
    return next((told for told in found if told.better), describe(str(metric), None))


def _row(
    name: str, run: Results | None, fields: Sequence[str], runs: Iterable[Results], is_failed: bool
) -> dict[str, Any]:
    config = flat(run.config) if run else {}
    rounds = run.rounds if run else []
    verdict = (run.verdict if run else None) or {}
    metric = main_metric(rounds, verdict, run.about) if run else None
    values = [row[metric] for row in rounds if is_finite(row.get(metric))]
    seconds = [row.get("train_seconds") for row in ((run.seed_rounds or rounds) if run else [])]
    best = max if describe_common(metric, runs).better == "higher" else min
    dense = verdict.get("dense", next((row[metric] for row in rounds if metric and row["round"] == 0), None))
    entry = judged_rounds(verdict).get(verdict.get("winning_round"), {})
    reference = run.references.get(metric, {}) if run else {}
    return {
        "name": name,
        **{FIELD_PREFIX + field: _plain(config.get(field)) for field in fields},
        "status": "failed" if is_failed else _status(run),
        "seeds": len({row["seed"] for row in run.seed_rounds} if run else ()) or 1,
        "metric": metric,
        "dense": dense,
        **{kind: reference_lib.known(reference, kind) for kind in REFERENCES},
        "learned": verdict.get("learned"),
        "winning_round": verdict.get("winning_round"),
        "winning_sparsity": verdict.get("sparsity"),
        "winning_value": verdict.get("value"),
        **{name: entry.get(name) for name in ("ratio", "ratio_low", "ratio_high", "p_adjusted")},
        "best_value": best(values, default=None),
        "total_seconds": round(sum(filter(is_finite, seconds)), 1),
    }


def _status(run: Results) -> str:
    if run.verdict:
        return "finished"
    return f"{len(run.seed_rounds or run.rounds)} rounds so far"


def _labels(runs: Mapping[str, Results], fields: Sequence[str]) -> dict[str, str]:
    """The labels of the runs: the fields that differ, without the seed; their names if many fields differ."""
    named = [field for field in fields if field != "seed"] or fields
    if not 0 < len(named) <= MAX_LABEL_FIELDS:
        return {name: name for name in runs}
    configs = {name: flat(run.config) for name, run in runs.items()}
    labels = {
        name: ", ".join(f"{field}={_plain(config.get(field))}" for field in named) for name, config in configs.items()
    }
    return {name: textwrap.fill(label, LABEL_WIDTH) for name, label in labels.items()}


def _colours(labels: Sequence[str]) -> dict[str, Any]:
    if len(labels) <= len(PALETTE):
        return dict(zip(labels, PALETTE, strict=False))
    shades = np.linspace(0, 0.9, len(labels))
    return {label: matplotlib.colormaps["viridis"](shade) for label, shade in zip(labels, shades, strict=True)}


def _more(labels: int) -> str:
    return f"{MAX_LEGEND} of {labels} shown" if labels > MAX_LEGEND else ""


def _plain(value: Any) -> Any:
    """A config value as one cell: a text or number as it is, everything else as JSON."""
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)
