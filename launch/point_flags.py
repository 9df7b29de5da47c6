"""The flags that say which points a sweep has, for every command that starts one."""

import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch import described


def define(defined: flags.FlagValues) -> None:
    """Defines the flags; `chosen` reads them."""
    flags.DEFINE_string("config", None, "The config: FILE[:VARIANT] or NAME[:VARIANT].", flag_values=defined)
    flags.DEFINE_multi_string(
        "grid", [], "FIELD=VALUE,VALUE,... or FIELD=LOW..HIGH for one config field that varies", flag_values=defined
    )
    flags.DEFINE_multi_string("zip", [], "The same for fields that advance together", flag_values=defined)
    flags.DEFINE_integer("sample", None, "The number of points that are drawn from --grid.", flag_values=defined)
    flags.DEFINE_integer("sample_seed", 0, "The seed of --sample.", flag_values=defined)
    flags.DEFINE_string(
        "sweepdir", None, "Where the workdirs go (default: sweeps/<config>[-<variant>]).", flag_values=defined
    )


def chosen(defined: flags.FlagValues) -> dict[str, Any]:
    """The arguments of `points.points` that the flags give, but for the directory and what follows `--`."""
    return {
        "config": defined.config,
        "grid": defined.grid,
        "zipped": defined.zip,
        "sample": defined.sample,
        "sample_seed": defined.sample_seed,
    }


def has_points(defined: flags.FlagValues) -> bool:
    """Whether the flags, or the config file that they name, say which points there are."""
    given = defined.grid or defined.zip or defined.sample is not None
    return bool(given or (defined.config and described.describes(defined.config)))


def misplaced(arguments: Sequence[str]) -> str:
    """A line about a flag of the runs that stands before --, where the sweep's own stand; "" if there is none."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    found = next((one for one in own if re.match(r"--?config\.", one)), None)
    return f"{found}: a flag of the runs; write it behind all others, after --: ... -- {found}" if found else ""
