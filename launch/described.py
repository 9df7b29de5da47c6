"""Sweeps that a config file describes: its function `get_sweep` returns the experiments that are run."""

import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtickets import cli, named_configs
from jaxtickets.errors import UserError
from launch import directory, slurm

NO_POINTS = (
    "--grid is missing: write --grid=FIELD=VALUE,VALUE,... once for each field that varies, or describe the sweep in "
    "the function get_sweep of the config file"
)
# The sweep writes them.
OWN = ("logs", slurm.FOLDER, directory.SWEEP, "summary.csv", "levels.csv", "comparison.png", "comparison.html")


class Experiment(NamedTuple):
    """One entry of what `get_sweep` returns, with the same names.

    Attributes:
      name: of the experiment, with which the directories of its points begin. `{name}` in a value of a later experiment
        is the workdir of its run; the later one waits for it. Of several runs it is the one with the same values of
        the fields that vary in both.
      config: `FILE[:VARIANT]` or `NAME[:VARIANT]`; left out, the file with the sweep itself.
      values: of fields that do not vary, by field.
      grid, zip: `FIELD=VALUE,VALUE,...` for each field that varies, as the flags.
      sample, sample_seed: as the flags.
    """

    name: str = ""
    config: str = ""
    values: Mapping[str, str] = {}
    grid: Sequence[str] = ()
    zip: Sequence[str] = ()
    sample: int | None = None
    sample_seed: int = 0


def read(config: str) -> list[Experiment]:
    """The experiments of the `get_sweep` of a config file.

    Args:
      config: `FILE[:VARIANT]`; a variant is the function's argument.

    Raises:
      UserError: the file has no such function, it fails, or returns something else.
    """
    file, _, variant = config.partition(":")
    try:
        function = runpy.run_path(file).get("get_sweep")
        found = function and (function(variant) if variant else function())
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--config={file}: {cli.failure_in(file, error)}") from None
    if not function:
        raise UserError(NO_POINTS)
    if isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, Sequence) or not found or not all(isinstance(entry, Mapping) for entry in found):
        raise UserError(f"--config={file}: get_sweep returns {found!r:.40}; allowed is a list of dictionaries")
    experiments = [_experiment(entry, config) for entry in found]
    names = [experiment.name for experiment in experiments]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--config={file}: get_sweep names two experiments {name!r}; each needs a name of its own")
    return experiments


def _experiment(entry: Mapping[str, Any], config: str) -> Experiment:
    where = f"--config={config}: get_sweep"
    for key in entry:
        if key not in Experiment._fields:
            raise UserError(f"{where}: unknown key {key!r}; allowed are {', '.join(Experiment._fields)}")
    name, values = entry.get("name", ""), entry.get("values", {})
    if not isinstance(name, str) or (name and not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name)) or name in OWN:
        own = ", ".join(OWN)
        raise UserError(f"{where}: name={name!r}; allowed are letters, digits and ._+-, and none of {own}")
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: values={values!r:.40}; allowed is a dictionary with a value for each field")
    lists = {key: [one] if isinstance(one := entry.get(key, ()), str) else list(one) for key in ("grid", "zip")}
    if not name and not any(lists.values()):
        raise UserError(f"{where}: an experiment has neither a name nor a grid; its directory needs one of them")
    return Experiment(**{**entry, "config": str(entry.get("config", config)), "values": _texts(values), **lists})


def _texts(values):
    return {field: value if isinstance(value, str) else repr(value) for field, value in values.items()}


def describes(config: str) -> bool:
    """Whether a config file has the function `get_sweep`, by its text.

    Raises:
      UserError: there is no such file and no such name.
    """
    file = Path(named_configs.find(config).partition(":")[0])
    return re.search(r"^def get_sweep\b", file.read_text(errors="replace"), re.M) is not None


def owns(name: str, point: str) -> bool:
    """Whether the point of a name is one of the experiment `name`."""
    return point == name or point.startswith(f"{name},")
