"""The content of config.json: what a run is started with, and how the configs of two runs differ."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("jaxtickets", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def origin(config: dict, about: dict | None = None) -> dict:
    """The content of config.json: a config with the command, the versions, the devices and the source that run it now.

    Args:
      config: the config as JSON values.
      about: what reports call the method and its columns (docs/workdir.md), left out if it is None.
    """
    import jax  # Comparing configs does without it.

    return {
        "config": config,
        **({} if about is None else {"about": about}),
        "command": shlex.join(sys.orig_argv),
        "versions": versions(),
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "cpu_count": os.cpu_count(),
        "git_revision": _git_revision(),
        "checksums": "sha256",  # Of the files in the workdir: without this key an older version has written it.
    }


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that decide what a run computes; None for one that is missing."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def completed(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict:
    """A config with the default of every field that it lacks; both nested, of JSON values."""
    whole = {**defaults, **config}
    for name, group in config.items():
        if isinstance(group, dict) and isinstance(defaults.get(name), dict):
            whole[name] = completed(group, defaults[name])
    return whole


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """The fields in which two configs differ: `{"train.steps": "train.steps is 100 there and 200 here"}`."""
    old, new = (flat(json.loads(json.dumps(config))) for config in (there, here))
    return {
        key: f"{key} is {old.get(key, 'absent')!r} there and {new.get(key, 'absent')!r} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The fields in which two configs differ, in words: `train.steps is 100 there and 200 here; ...`; "" for none."""
    return "; ".join(differing(there, here).values())


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{dotted path: value}` of nested dictionaries."""
    values = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values


def _git_revision():
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
