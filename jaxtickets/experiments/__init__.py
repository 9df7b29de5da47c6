"""Experiments by name, each a short recipe over a `Run`, and how one is run for one seed or several."""

from functools import partial
from pathlib import Path

from jaxtickets import config as config_lib
from jaxtickets import workdir
from jaxtickets.errors import UserError
from jaxtickets.experiments import branch as branch_lib
from jaxtickets.experiments import transfer as transfer_lib
from jaxtickets.experiments.at_init import at_init
from jaxtickets.experiments.at_once import groups, run_at_once
from jaxtickets.experiments.branch import branch
from jaxtickets.experiments.dense import dense
from jaxtickets.experiments.early_bird import early_bird
from jaxtickets.experiments.imp import imp
from jaxtickets.experiments.one_shot import one_shot
from jaxtickets.experiments.run import Run, check_finished, discard_from
from jaxtickets.experiments.setup import Setup
from jaxtickets.experiments.sparse_training import gradual, rigl, sparse_evolutionary
from jaxtickets.experiments.transfer import transfer
from jaxtickets.experiments.verdict import judge, judge_seeds
from jaxtickets.progress import Progress, bars, say, speaking_as

EXPERIMENTS = {
    "dense": dense,
    "imp": imp,
    "one_shot": one_shot,
    "at_init": at_init,
    "gradual": gradual,
    "set": sparse_evolutionary,
    "rigl": rigl,
    "early_bird": early_bird,
    "branch": branch,
    "transfer": transfer,
}

__all__ = ["EXPERIMENTS", "Run", "Setup", "discard_from", "go_back", "judge", "judge_seeds", "run", "seed_paths"]


def seed_paths(config, path: Path) -> dict[int, Path]:
    """Where each seed's run is: `path` itself, or a workdir in it for each of several seeds."""
    if config.seeds == 1:
        return {config.seed: path}
    return {seed: path / f"seed_{seed}" for seed in range(config.seed, config.seed + config.seeds)}


def run(config, path: Path) -> dict:
    """Runs or resumes the experiment for every seed in the workdir `path`; returns the verdict.

    Raises:
      UserError: what can only be seen once the data is there is wrong; nothing has been written then.
    """
    setup, paths = Setup(config), seed_paths(config, path)
    for seed in paths:
        if config.experiment == "branch":
            branch_lib.source(config, seed)
        elif config.experiment == "transfer":
            transfer_lib.source(setup, seed)
    if config.seeds == 1:
        return _run_seed(config.seed, setup, path)
    workdir.create(path, config_lib.to_dict(config))

    def run_seed(seed, setup, **shown):
        say(f"seed {seed}, in {paths[seed]}")
        return _run_seed(seed, setup, paths[seed], **shown)

    if config.tickets_per_host == 1:
        for seed in paths:
            run_seed(seed, setup)
            _tabulate(path, paths)
    else:
        setups = [Setup(config, like=setup, devices=group) for group in groups(config.tickets_per_host)]
        with bars() as shown_in:
            run_at_once(partial(run_seed, shown_in=shown_in), paths, setups, partial(_tabulate, path, paths))
    metric, label, subject = setup.evaluator.metric, setup.evaluator.label, config_lib.subject(config)
    rows = workdir.read_csv(path / "rounds.csv")
    verdict = judge_seeds(rows, metric, label, config.tolerance, config.confidence, subject)
    workdir.write_json(path / "verdict.json", verdict)
    return verdict


def _run_seed(seed, setup, path, shown_in=None):
    """One seed's experiment; its display is in that of several that go on at a time, if given."""
    with speaking_as(f"seed {seed}: " if shown_in else ""):
        progress = Progress(len(setup.levels), setup.steps, shown_in)
        with Run(setup, path, seed, progress) as one:
            EXPERIMENTS[setup.config.experiment](one)
            return one.finish()


def _tabulate(path, paths):
    """Writes the table of all seeds that have finished."""
    finished = [(seed, place) for seed, place in paths.items() if (place / "verdict.json").exists()]
    rows = [{"seed": seed, **row} for seed, place in finished for row in workdir.read_csv(place / "rounds.csv")]
    workdir.write_csv(path / "rounds.csv", rows)


def go_back(config, path: Path, round_: int) -> None:
    """Takes the run, that of every seed, back to the start of a finished round (`discard_from`).

    Raises:
      UserError: the workdir is another run's, or a seed has not finished the round; nothing is discarded then.
    """
    workdir.check_same(path, config_lib.to_dict(config))
    if config.experiment == "imp" and config.rewind in ("learning_rate", "none") and round_ > 1:
        raise UserError(
            f"--from_round={round_}: allowed are 0 and 1 with config.rewind={config.rewind!r}, which goes on from "
            "weights that only the round before had"
        )
    places = seed_paths(config, path).values()
    for place in places:
        check_finished(place, round_)
    (path / "verdict.json").unlink(missing_ok=True)
    for place in places:
        discard_from(place, round_)
