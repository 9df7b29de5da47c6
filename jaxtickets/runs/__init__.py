"""Runs of experiments: what stands behind the `Run` protocol that the recipes in `experiments/` are written for."""

from jaxtickets.runs.networks import Networks
from jaxtickets.runs.run import Run
from jaxtickets.runs.seeds import dry_run, go_back, rounds_of_source, run, seed_paths
from jaxtickets.runs.setup import Setup
from jaxtickets.runs.verdict import judge, judge_seeds

__all__ = [
    "Networks",
    "Run",
    "Setup",
    "dry_run",
    "go_back",
    "judge",
    "judge_seeds",
    "rounds_of_source",
    "run",
    "seed_paths",
]
