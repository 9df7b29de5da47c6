"""The results of one run, finished or not, as plain lists and dictionaries, and how to read them."""

import math
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtickets import references as reference_lib
from jaxtickets.errors import UserError
from jaxtickets.fields import is_finite
from jaxtickets.report import damage, forms
from jaxtickets.report.means import mean_rows
from jaxtickets.workdir import ROUND_COLUMNS, Workdir

# The columns of methods, with their headers, in workdirs that were written before config.json had `about`.
LEGACY_COLUMNS = {
    "emergence_epoch": "found at epoch",
    "moved": "moved from step 0",
    "search_seconds": "search [s]",
}
TIME = " [s]"  # The end of the header of a column that is part of the training time.
REFERENCES = {  # By their names in references.json.
    "held_out": "held-out images",
    "untrained": "untrained network",
    "mean_image": "mean training image",
}
ENDS = ("_low", "_high")  # Of the columns with the interval around a metric.
FEW = 64  # Fewer images than this have no covariance of 64 features.
STAND_IN = "fd_"  # The start of the columns of Frechet distances in other features than Inception's.


class About(NamedTuple):
    """The names of the method, of its columns and of the metrics for reports: `about` in config.json.

    Attributes:
      title: the method, with its score or kind; None in a workdir without `about`.
      columns: the columns of `rounds.csv` that the method adds, with their headers.
      metrics: the `label` and the direction `better` of each metric, by its column; None in a workdir without `about`.
    """

    title: str | None = None
    columns: Mapping[str, str] = LEGACY_COLUMNS
    metrics: Mapping[str, Mapping[str, str]] | None = None


UNKNOWN = About()  # Of a workdir without `about`.


class Metric(NamedTuple):
    """A metric's name in words, and whether `lower` or `higher` values are better; None if no file tells."""

    label: str
    better: str | None

    @property
    def direction(self) -> str:
        """The words "lower is better" or "higher is better"; lower where no file tells."""
        return f"{self.better or 'lower'} is better"


class Results(NamedTuple):
    """The content of a workdir.

    In a run over several seeds, each seed has a workdir of its own; in other runs `seeds` and `seed_rounds` are empty.

    Attributes:
      workdir: where the results are from.
      config: the config as JSON values.
      origin: what the run was started with: command, versions, devices, git revision.
      about: the names of the method, of its columns and of the metrics.
      metrics: the logged scalars, one row per logging step.
      rounds: one row per finished round; over several seeds, the means of the seeds that have finished the round.
      seed_rounds: one row per seed and round.
      layers: one row per round and prunable layer.
      verdict: the content of `verdict.json`; None while the run is unfinished.
      references: the content of `references.json`; over several seeds, the means of the seeds that have one.
      samples: the sample grids by round; over several seeds, those of the first one.
      pictures: those of the latent space, by kind and round; over several seeds, of the first seed's networks.
      seeds: the workdirs of the seeds.
      searches: how the masks of each early-bird search moved, by round; over several seeds, those of the first one.
    """

    workdir: Workdir
    config: dict[str, Any]
    origin: dict[str, Any]
    about: About
    metrics: list[dict[str, Any]]
    rounds: list[dict[str, Any]]
    seed_rounds: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    verdict: dict[str, Any] | None
    references: dict[str, dict[str, Any]]
    samples: dict[int, Path]
    pictures: dict[str, dict[int, Path]]
    seeds: dict[int, Workdir]
    searches: dict[int, dict[str, Any]]


def read(path: str | os.PathLike) -> Results:
    """Reads a workdir.

    A line, row or search that a kill has cut short is left out, as is a damaged verdict, picture or the like, which is
    said. Of a row that a resumed run has written again, the later one counts.

    Raises:
      UserError: `path` is no directory, or it has no readable `config.json`.
      DamagedError: `config.json` or a table is damaged.
    """
    workdir = Workdir(path)
    if not workdir.path.is_dir():
        raise UserError(f"{path}: there is no such directory")
    origin = workdir.read_origin()
    if origin is None:
        raise UserError(f"{path}: not a workdir, because it has no readable config.json")
    config, about = origin.pop("config"), forms.usable(workdir.config, origin.pop("about", None), forms.ABOUT)
    forms.check(workdir.config, config, forms.CONFIG, ("experiment", "seed"))
    about = _about(about)
    rounds, layers = workdir.read_rounds(), workdir.read_layers()
    forms.check_rounds(workdir.rounds, rounds, about.metrics or ())
    forms.check_rows(workdir.layers, layers, forms.LAYER, forms.LAYER)
    rounds = _last_of_each(rounds, ("seed", "round"))
    is_several = bool(rounds) and "seed" in rounds[0]
    seeds = workdir.seed_dirs() if is_several else {}
    shown = seeds[min(seeds)] if seeds else workdir
    scalars = forms.usable_scalars(workdir.scalars, workdir.read_scalars())
    damage.tell(workdir, rounds if not is_several else [], scalars)
    return Results(
        workdir=workdir,
        config=config,
        about=about,
        origin=forms.usable(workdir.config, origin, forms.ORIGIN) or {},
        metrics=_last_of_each(scalars, ("round", "step", "split")),
        rounds=mean_rows(rounds) if is_several else rounds,
        seed_rounds=rounds if is_several else [],
        layers=_last_of_each(layers, ("round", "layer")),
        verdict=forms.usable_verdict(workdir.verdict, damage.intact(workdir.read_verdict)),
        references=reference_lib.mean(list(filter(None, map(_references, (seeds or {0: workdir}).values())))),
        samples=damage.intact_samples(shown),
        pictures=damage.intact_pictures(workdir),
        seeds=seeds,
        searches={round_: search for round_, search in shown.read_searches().items() if _is_search(search)},
    )


def metric_columns(rows: Sequence[dict[str, Any]], about: About = UNKNOWN) -> list[str]:
    """The names of the metrics in `rounds.csv`, in the file's order, without the ends of the intervals around them."""
    names = _names(rows)
    if about.metrics is not None:
        metrics = [name for name in names if name in about.metrics]
    else:
        metrics = [name for name in names if name not in ROUND_COLUMNS and name not in about.columns]
    ends = {metric + end for metric in metrics for end in ENDS}
    return [metric for metric in metrics if metric not in ends]


def method_columns(rows: Sequence[dict[str, Any]], about: About = UNKNOWN) -> dict[str, str]:
    """The columns of `rounds.csv` that the method has added, with their headers."""
    return {name: header for name, header in about.columns.items() if name in _names(rows)}


def is_time(header: str) -> bool:
    """Whether a method's column is a part of the training time, in seconds."""
    return header.endswith(TIME)


def main_metric(
    rows: Sequence[dict[str, Any]], verdict: Mapping[str, Any] | None, about: About = UNKNOWN
) -> str | None:
    """The metric that the verdict is about; the first one while there is no verdict."""
    metrics = metric_columns(rows, about)
    if verdict and verdict.get("metric") in metrics:
        return verdict["metric"]
    return metrics[0] if metrics else None


def describe(metric: str, verdict: Mapping[str, Any] | None, about: About = UNKNOWN) -> Metric:
    """The label and the direction of a metric: from `about`; without it, from the verdict if it judges the metric."""
    written = (about.metrics or {}).get(metric, {})
    label, better = written.get("label"), written.get("better")
    if verdict and verdict.get("metric") == metric:
        label = label or verdict.get("metric_label")
        better = better or ("higher" if is_higher_better(verdict) else "lower")
    return Metric(label or metric.replace("_", " "), better)


def judged_rounds(verdict: dict[str, Any] | None) -> dict[int, dict[str, Any]]:
    """The verdict's entry for each round of a run over several seeds; empty for one seed, and in an unfinished run."""
    return {row["round"]: row for row in (verdict or {}).get("rounds", ())}


def heading(run: Results) -> str:
    """What the numbers of a run are: the main metric, its direction, how many seeds and images, and what is not FID."""
    metric = main_metric(run.rounds, run.verdict, run.about)
    if metric is None:
        return ""
    told, seeds = describe(metric, run.verdict, run.about), len({row["seed"] for row in run.seed_rounds})
    text = f"{metric}: {told.label}. {told.direction.capitalize()}. {f'{seeds} seeds' if seeds > 1 else 'One seed'}."
    counts = run.references.get(metric, {})
    if all(map(is_finite, images := [counts.get("held_out_images"), counts.get("training_images")])):
        text += " {:,} held-out and {:,} training images.".format(*images)
        if reference_lib.known(counts, "held_out") is not None and images[0] < FEW:
            text += " So few held-out images are too far away to be a floor."
    if any(name.startswith(STAND_IN) for name in metric_columns(run.rounds, run.about)):
        text += f" {STAND_IN}*: not FID; another feature network stands in for Inception."
    return text


def bootstrap(row: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """The interval around a metric on samples of one seed, from repeated draws of the samples; None if it has none."""
    low, high = (row.get(metric + end) for end in ENDS)
    return (low, high) if is_finite(low) and is_finite(high) else None


def interval(row: dict[str, Any], verdict: dict[str, Any] | None, metric: str) -> tuple[float, float] | None:
    """The confidence interval of the metric's mean over the seeds; None where the verdict gives none."""
    judged = judged_rounds(verdict).get(row["round"], {})
    bounds = judged.get("low"), judged.get("high")
    return bounds if metric == (verdict or {}).get("metric") and all(map(is_finite, bounds)) else None


def ratio(row: dict[str, Any], verdict: dict[str, Any] | None, metric: str) -> dict[str, Any] | None:
    """The verdict's entry for a round, if it has the ratio of the metric to the dense runs' with its interval."""
    judged = judged_rounds(verdict).get(row["round"], {})
    names = ("ratio", "ratio_low", "ratio_high")
    is_known = metric == (verdict or {}).get("metric") and all(is_finite(judged.get(name)) for name in names)
    return judged if is_known else None


def p_value(judged: Mapping[str, Any]) -> float | None:
    """The p-value that decides about a round: adjusted for the number of rounds, except in older workdirs."""
    return judged.get("p_adjusted", judged.get("p_value"))


def is_higher_better(verdict: Mapping[str, Any] | None) -> bool:
    """Whether a higher value of the verdict's metric is better; if the verdict does not say, a lower one is."""
    return (verdict or {}).get("better") == "higher"


def has_nothing_to_beat(verdict: Mapping[str, Any] | None) -> bool:
    """Whether the dense run has not learned, so that no round is compared with it."""
    return (verdict or {}).get("learned") is False


def wins(row: dict[str, Any], verdict: dict[str, Any] | None) -> bool:
    """Whether this round's metric is no worse than the verdict's threshold; over several seeds, shown to be so."""
    if has_nothing_to_beat(verdict):
        return False
    if judged := judged_rounds(verdict):
        return bool(judged.get(row["round"], {}).get("wins"))
    if not verdict or not is_finite(verdict.get("threshold")):
        return False
    value, threshold = row.get(verdict.get("metric")), verdict["threshold"]
    return is_finite(value) and (value >= threshold if is_higher_better(verdict) else value <= threshold)


def winning_round(verdict: dict[str, Any] | None) -> int | None:
    """The round of the winning ticket; with one seed, the sparsest round within the tolerance.

    None if there is no such round, and while the run is unfinished.
    """
    return verdict.get("winning_round") if verdict else None


def winner(verdict: dict[str, Any] | None) -> str:
    """The words for the `winning_round`: only a test over several seeds makes it a winning ticket (or control)."""
    subject = (verdict or {}).get("subject", "ticket").partition(" (")[0]  # "control" of "control (reinit)".
    return f"winning {subject}" if judged_rounds(verdict) else "sparsest within tolerance"


def flops_share(row: dict[str, Any]) -> float | None:
    """The FLOPs that are left, as a share of the dense network's in [0, 1]; None where they are unknown."""
    if not is_finite(row.get("flops_effective")) or not row.get("flops_dense"):
        return None
    return row["flops_effective"] / row["flops_dense"]


def percent(fraction: float) -> str:
    """A sparsity in percent, with a second decimal where the first cannot tell two rounds apart."""
    return f"{100 * fraction:.2f}" if fraction > 0.99 else f"{100 * fraction:.1f}"


def short(value: float) -> str:
    """A number with at most two decimals, or with four significant digits if two decimals would make it zero."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value == 0 or abs(value) >= 0.005 else significant(value)


def significant(value: Any) -> str:
    """A metric's value in four significant digits, without an exponent where possible."""
    if not isinstance(value, int | float):
        return "-"
    if value and is_finite(value) and 1e-4 <= abs(value) < 1e6:
        decimals = max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}"
    return f"{value:.4g}"


def _references(workdir: Workdir) -> dict[str, dict[str, Any]]:
    return forms.usable_references(workdir.references, damage.intact(workdir.read_references) or {})


def _about(content: Any) -> About:
    if not isinstance(content, dict):
        return UNKNOWN
    return About(content.get("title"), content.get("columns") or {}, content.get("metrics"))


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(rows[0]) if rows else []


def _is_search(search: dict[str, Any]) -> bool:
    """Whether the content of a search file has all that its plot needs; `distances` has one row and column per mask."""
    epochs, distances, emerged = search.get("epochs"), search.get("distances"), search.get("emerged")
    return (
        _are_numbers(epochs)
        and isinstance(distances, list)
        and all(_are_numbers(row) for row in distances)
        and [len(row) for row in distances] == [len(epochs)] * len(epochs)
        and (emerged is None or (isinstance(emerged, int) and 0 <= emerged < len(epochs)))
        and _are_numbers([search.get("threshold"), search.get("queue")])
        and search.get("unit") in ("channels", "weights")
    )


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(map(is_finite, values))


def _last_of_each(rows: Iterable[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    latest: dict[tuple[Hashable, ...], dict[str, Any]] = {}
    for row in rows:
        latest[tuple(row.get(key) for key in keys)] = row
    return sorted(latest.values(), key=lambda row: (row.get("round", 0), row.get("step", 0)))
