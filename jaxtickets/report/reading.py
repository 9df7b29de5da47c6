"""Reading a workdir: the files of one run, finished or not, as plain lists and dictionaries."""

import json
import math
import os
import re
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtickets.errors import UserError
from jaxtickets.workdir import read_csv

ROUND_COLUMNS = (
    "round",
    "sparsity",
    "sparsity_all",
    "density",
    "flops_dense",
    "flops_effective",
    "params_kept",
    "train_seconds",
    "steps_per_second",
)


class Workdir(NamedTuple):
    """What one run left behind; `verdict` is None while the run is unfinished."""

    path: Path
    config: dict[str, Any]
    origin: dict[str, Any]  # versions, devices, git_revision, command
    metrics: list[dict[str, Any]]
    rounds: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    verdict: dict[str, Any] | None
    samples: dict[int, Path]


def read(path: str | os.PathLike) -> Workdir:
    """Reads a workdir.

    A line or row that a kill cut short is left out; of a row that a resumed run wrote twice, the later one counts.

    Raises:
      UserError: `path` is no directory, or it has no readable `config.json`.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such directory")
    record = _read_json(path / "config.json")
    if record is None or not isinstance(record.get("config"), dict):
        raise UserError(f"{path}: not a workdir, because it has no readable config.json")
    samples = {
        int(match[1]): file
        for file in sorted((path / "samples").glob("round_*.png"))
        if (match := re.fullmatch(r"round_(\d+)", file.stem))
    }
    return Workdir(
        path=path,
        config=record["config"],
        origin={key: value for key, value in record.items() if key != "config"},
        metrics=_last_of_each(_read_jsonl(path / "metrics.jsonl"), ("round", "step", "split")),
        rounds=_last_of_each(read_csv(path / "rounds.csv"), ("round",)),
        layers=_last_of_each(read_csv(path / "layers.csv"), ("round", "layer")),
        verdict=_read_json(path / "verdict.json"),
        samples=samples,
    )


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


def within_tolerance(row: dict[str, Any], verdict: dict[str, Any] | None) -> bool:
    """Whether this round's metric is no worse than the verdict's threshold."""
    if not verdict or not is_finite(verdict.get("threshold")):
        return False
    value = row.get(verdict.get("metric"))
    return is_finite(value) and value <= verdict["threshold"]


def winning_round(verdict: dict[str, Any] | None) -> int | None:
    """The round of the winning ticket, if there is one."""
    return verdict.get("winning_round") if verdict else None


def is_finite(value: Any) -> bool:
    """Whether `value` is a number other than NaN and infinity."""
    return isinstance(value, int | float) and math.isfinite(value)


def percent(fraction: float) -> str:
    """A sparsity in percent, with a second decimal where the first cannot tell two rounds apart."""
    return f"{100 * fraction:.2f}" if fraction > 0.99 else f"{100 * fraction:.1f}"


def significant(value: Any) -> str:
    """A metric's value in four significant digits, never in exponents where it can be avoided."""
    if not isinstance(value, int | float):
        return "-"
    if value and math.isfinite(value) and 1e-4 <= abs(value) < 1e6:
        decimals = max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}"
    return f"{value:.4g}"


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
