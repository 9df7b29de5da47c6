"""What the runs of a comparison have in common, and how they are named."""

import json
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtickets import references as reference_lib
from jaxtickets.errors import UserError
from jaxtickets.origin import flat
from jaxtickets.report.reading import REFERENCES, Metric, Results, describe, main_metric, metric_columns, significant

MAX_LABEL_FIELDS = 3
LABEL_WIDTH = 44


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
    """A metric's references that are the same in all runs, up to 1%; {} if that of held-out images is not."""
    entries = _references(metric, runs)
    differing = {kind for kind in REFERENCES if not _is_same([reference_lib.known(entry, kind) for entry in entries])}
    if "held_out" in differing:
        return {}
    mean = reference_lib.mean([{metric: entry} for entry in entries]).get(metric, {})
    return {name: value for name, value in mean.items() if name not in differing}


def reference_words(metric: str | None, runs: Collection[Results]) -> str:
    """A metric's references over the runs, the range of each that is not the same in all; "" without any.

    Those of runs whose held-out images differ are not told, because each run then has its own scale.
    """
    entries, told = _references(metric, runs), []
    if not common_reference(metric, runs):
        return ""
    for kind, name in REFERENCES.items():
        values = [reference_lib.known(entry, kind) for entry in entries]
        if None not in values:
            ends = dict.fromkeys(significant(end) for end in (min(values), max(values)))
            told.append(f"{name} {' to '.join(ends)}{', by run' * (len(ends) > 1)}")
    return ", ".join(told)


def _references(metric, runs):
    return [run.references.get(metric, {}) for run in runs if metric in metric_columns(run.rounds, run.about)]


def _is_same(values):
    return None not in values and np.allclose(values, values[:1], rtol=0.01)


def describe_common(metric: str | None, runs: Iterable[Results]) -> Metric:
    """The label and the direction of a metric, from the first run whose files tell its direction."""
    found = [describe(str(metric), run.verdict, run.about) for run in runs]
    return next((told for told in found if told.better), describe(str(metric), None))


def differing_fields(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted names of the config fields whose values are not the same in all of `configs`."""
    of_runs = [flat(config) for config in configs]
    names = dict.fromkeys(name for fields in of_runs for name in fields)
    return [name for name in names if len({json.dumps(fields.get(name)) for fields in of_runs}) > 1]


def labels(runs: Mapping[str, Results], fields: Sequence[str]) -> dict[str, str]:
    """The label of each run by its name: the fields that differ, without the seed; its name if many fields differ."""
    named = [field for field in fields if field != "seed"] or fields
    if not 0 < len(named) <= MAX_LABEL_FIELDS:
        return {name: name for name in runs}
    configs = {name: flat(run.config) for name, run in runs.items()}
    labels = {
        name: ", ".join(f"{field}={plain(config.get(field))}" for field in named) for name, config in configs.items()
    }
    return {name: textwrap.fill(label, LABEL_WIDTH) for name, label in labels.items()}


def plain(value: Any) -> Any:
    """A config value as one cell: a text or number as it is, everything else as JSON."""
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)
