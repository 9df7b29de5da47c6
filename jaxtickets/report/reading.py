"""Reading a workdir: the files of one run, finished or not, as plain lists and dictionaries."""

import json
import math
import os
import re
import statistics
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtickets.errors import UserError
from jaxtickets.workdir import read_csv

ROUND_COLUMNS = (
    "seed",
    "round",
    "sparsity",
    "sparsity_all",
    "density",
    "flops_dense",
    "flops_effective",
    "params_kept",
    "train_seconds",
    "steps_per_second",
    "emergence_epoch",
    "search_seconds",
    "step_bytes",
)


class Workdir(NamedTuple):
    """What one run left behind; `verdict` is None while the run is unfinished.

    In a run over several seeds, each seed has a workdir of its own; `seeds` and `seed_rounds` are empty in other runs.
    """

    path: Path
    config: dict[str, Any]
    origin: dict[str, Any]  # versions, devices, git_revision, command
    metrics: list[dict[str, Any]]
    rounds: list[dict[str, Any]]  # over several seeds, the means of the seeds that have finished the round
    seed_rounds: list[dict[str, Any]]  # a row a seed and round
    layers: list[dict[str, Any]]
    verdict: dict[str, Any] | None
    samples: dict[int, Path]  # over several seeds, those of the first one
    seeds: dict[int, Path]  # the seeds' workdirs
    searches: dict[int, dict[str, Any]]  # how the masks moved, by round; over several seeds, those of the first one


def read(path: str | os.PathLike) -> Workdir:
    """Reads a workdir.

    A line, row or search that a kill cut short is left out; of a row that a resumed run wrote twice, the later one
    counts.

    Raises:
      UserError: `path` is no directory, or it has no readable `config.json`.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such directory")
    record = _read_json(path / "config.json")
    if record is None or not isinstance(record.get("config"), dict):
        raise UserError(f"{path}: not a workdir, because it has no readable config.json")
    rounds = _last_of_each(read_csv(path / "rounds.csv"), ("seed", "round"))
    is_several = bool(rounds) and "seed" in rounds[0]
    seeds = _numbered(path, "seed_") if is_several else {}
    shown = seeds[min(seeds)] if seeds else path
    return Workdir(
        path=path,
        config=record["config"],
        origin={key: value for key, value in record.items() if key != "config"},
        metrics=_last_of_each(_read_jsonl(path / "metrics.jsonl"), ("round", "step", "split")),
        rounds=mean_rows(rounds) if is_several else rounds,
        seed_rounds=rounds if is_several else [],
        layers=_last_of_each(read_csv(path / "layers.csv"), ("round", "layer")),
        verdict=_read_json(path / "verdict.json"),
        samples=_numbered(shown / "samples", "round_", ".png"),
        seeds=seeds,
        searches={
            number: search
            for number, file in _numbered(shown / "search", "", ".json").items()
            if (search := _read_json(file)) and _is_search(search)
        },
    )


def mean_rows(seed_rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a round: the mean of each column over the seeds that have finished the round."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in seed_rounds:
        groups.setdefault(row["round"], []).append(row)
    columns = [name for name in seed_rounds[0] if name not in ("seed", "round")]
    return [
        {"round": number, **{name: _mean([row[name] for row in group]) for name in columns}}
        for number, group in sorted(groups.items())
    ]


def metric_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the metrics in `rounds.csv`, in the file's order."""
    return [name for name in rows[0] if name not in ROUND_COLUMNS] if rows else []


def main_metric(rows: Sequence[dict[str, Any]], verdict: dict[str, Any] | None) -> str | None:
    """The metric that the verdict is about; the first one while there is no verdict."""
    metrics = metric_columns(rows)
    if verdict and verdict.get("metric") in metrics:
        return verdict["metric"]
    return metrics[0] if metrics else None


def metric_label(metric: str, verdict: dict[str, Any] | None) -> str:
    """The metric's name in words."""
    if verdict and verdict.get("metric") == metric and verdict.get("metric_label"):
        return verdict["metric_label"]
    return metric.replace("_", " ")


def judged_rounds(verdict: dict[str, Any] | None) -> dict[int, dict[str, Any]]:
    """What the verdict over several seeds says of each round; empty for one seed, and while the run is unfinished."""
    return {row["round"]: row for row in (verdict or {}).get("rounds", ())}


def interval(row: dict[str, Any], verdict: dict[str, Any] | None, metric: str) -> tuple[float, float] | None:
    """The confidence interval of the metric's mean over the seeds, where the verdict gives one."""
    judged = judged_rounds(verdict).get(row["round"], {})
    bounds = judged.get("low"), judged.get("high")
    return bounds if metric == (verdict or {}).get("metric") and all(map(is_finite, bounds)) else None


def wins(row: dict[str, Any], verdict: dict[str, Any] | None) -> bool:
    """Whether this round's metric is no worse than the verdict's threshold; of several seeds, shown to be so."""
    if judged := judged_rounds(verdict):
        return bool(judged.get(row["round"], {}).get("wins"))
    if not verdict or not is_finite(verdict.get("threshold")):
        return False
    value = row.get(verdict.get("metric"))
    return is_finite(value) and value <= verdict["threshold"]


def winning_round(verdict: dict[str, Any] | None) -> int | None:
    """The round of the winning ticket, if there is one."""
    return verdict.get("winning_round") if verdict else None


def flops_share(row: dict[str, Any]) -> float | None:
    """The multiplications that are left, as a share of the dense network's in [0, 1]; None where they are unknown."""
    if not is_finite(row.get("flops_effective")) or not row.get("flops_dense"):
        return None
    return row["flops_effective"] / row["flops_dense"]


def is_finite(value: Any) -> bool:
    """Whether `value` is a number other than NaN and infinity."""
    return isinstance(value, int | float) and math.isfinite(value)


def percent(fraction: float) -> str:
    """A sparsity in percent, with a second decimal where the first cannot tell two rounds apart."""
    return f"{100 * fraction:.2f}" if fraction > 0.99 else f"{100 * fraction:.1f}"


def epoch_text(epoch: float) -> str:
    """A time in epochs, with two decimals at most."""
    return f"{epoch:.2f}".rstrip("0").rstrip(".")


def significant(value: Any) -> str:
    """A metric's value in four significant digits, never in exponents where it can be avoided."""
    if not isinstance(value, int | float):
        return "-"
    if value and math.isfinite(value) and 1e-4 <= abs(value) < 1e6:
        decimals = max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}"
    return f"{value:.4g}"


def _mean(values: Sequence[Any]) -> float | None:
    return statistics.fmean(values) if all(isinstance(value, int | float) for value in values) else None


def _numbered(parent: Path, prefix: str, suffix: str = "") -> dict[int, Path]:
    """The files or directories `<prefix><number><suffix>`, by their number."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)" + re.escape(suffix))
    found = {int(match[1]): file for file in parent.glob(f"{prefix}*") if (match := pattern.fullmatch(file.name))}
    return dict(sorted(found.items()))


def _is_search(search: dict[str, Any]) -> bool:
    """Whether a file of `search/` has all that its plot needs, a row and a column of distances for each mask."""
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


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _read_jsonl(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def _last_of_each(rows: Iterable[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    latest: dict[tuple[Hashable, ...], dict[str, Any]] = {}
    for row in rows:
        latest[tuple(row.get(key) for key in keys)] = row
    return sorted(latest.values(), key=lambda row: (row.get("round", 0), row.get("step", 0)))
