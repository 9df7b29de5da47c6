"""Several seeds in one program: the numbers of each alone, the same bits after a kill, errors, memory."""

import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, Killed, environment, killing, tiny, untimed_rounds, untimed_scalars

from jaxtickets import config as config_lib
from jaxtickets import loop, runs, snapshots
from jaxtickets import masks as mask_lib
from jaxtickets.devices import replicate
from jaxtickets.errors import UserError
from jaxtickets.runs import Setup, hooks, memory
from jaxtickets.runs.meeting import Meeting, Seat
from jaxtickets.stopping import Stop
from jaxtickets.workdir import Workdir

SEEDS = (5, 6, 7)
SNAPSHOTS = ("snapshots/init", "snapshots/rewind", "snapshots/dense", "masks/001", "masks/002")


def config(data_directory, name="ae_digits", **changes):
    several = {"seed": SEEDS[0], "seeds": len(SEEDS), "tickets_per_device": 3, "prune.sparsities": (0.5, 0.8)}
    return tiny(name, data_directory, **{**several, **changes})


def places(path):
    return {seed: Workdir(path).seed_dir(seed) for seed in SEEDS if Workdir(path).seed_dir(seed).path.exists()}


def assert_same(ours, theirs):
    """The tables, the logs, the states and the masks of all seeds, bit for bit."""
    assert untimed_rounds(ours) == untimed_rounds(theirs)
    assert (ours / "verdict.json").read_bytes() == (theirs / "verdict.json").read_bytes()
    assert places(ours).keys() == places(theirs).keys()
    for here, there in zip(places(ours).values(), places(theirs).values(), strict=True):
        assert_same_seed(here, there)


def assert_same_seed(ours, theirs):
    assert untimed_rounds(ours.path) == untimed_rounds(theirs.path)
    assert untimed_scalars(ours.path) == untimed_scalars(theirs.path)
    for snapshot in SNAPSHOTS:
        trees = [snapshots.restore_raw(place.path / snapshot) for place in (ours, theirs)]
        assert len(jax.tree.leaves(trees[0])) > 1
        jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.fixture(scope="module")
def whole(quick_runs, data_directory, tmp_path_factory):
    """A run of three seeds in one program that nobody disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    runs.run(config(data_directory), path)
    return path


# The numbers.


NAMES = [("ae_digits", {}), pytest.param("gan_digits", {}, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "changes"), NAMES)
def test_each_ticket_trains_as_it_does_alone(quick_runs, float64, data_directory, tmp_path, name, changes):
    for path, at_once in (("together", 2), ("alone", 1)):
        changes |= {"dtype": "float64", "seeds": 2, "tickets_per_device": at_once}
        runs.run(config(data_directory, name, **changes), tmp_path / path)
    together, alone = (places(tmp_path / path) for path in ("together", "alone"))
    for seed in SEEDS[:2]:
        for snapshot in SNAPSHOTS:
            ours, theirs = (snapshots.restore_raw(found[seed].path / snapshot) for found in (together, alone))
            if snapshot.startswith("masks"):
                jax.tree.map(np.testing.assert_array_equal, ours, theirs)
            else:
                assert {leaf.dtype for leaf in jax.tree.leaves(ours["params"])} == {np.dtype("float64")}
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), ours, theirs)
        ours, theirs = (found[seed].read_scalars() for found in (together, alone))
        assert len(ours) == len(theirs) > 6
        for row, other in zip(ours, theirs, strict=True):
            assert row.pop("split") == other.pop("split")
            assert {**row, "seconds": 0} == pytest.approx({**other, "seconds": 0}, rel=1e-6)


def test_each_seed_has_its_own_workdir_config_and_rows(whole, data_directory):
    rows = Workdir(whole).read_rounds()
    assert [(row["seed"], row["round"]) for row in rows] == [(seed, round_) for seed in SEEDS for round_ in range(3)]
    assert len({row["reconstruction_error"] for row in rows}) == len(rows)
    for seed, place in places(whole).items():
        expected = config(data_directory, seed=seed, seeds=1, tickets_per_device=1)
        assert place.read_config() == config_lib.to_dict(expected)
        assert not places(whole / f"seed_{seed}")


# Kills, and what else ends a run.


@pytest.mark.parametrize("after", [2, 12 + 4, pytest.param(12 + 9 + 7, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(whole, data_directory, tmp_path, monkeypatch, after):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, after)
        runs.run(config(data_directory), tmp_path / "run")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]
    runs.run(config(data_directory), tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_seeds_that_are_rounds_apart_meet_again_and_end_with_the_same_bits(
    whole, data_directory, tmp_path, monkeypatch
):
    """Seed 5 has all its rounds, seed 6 one and a half, seed 7 none."""
    path, met = tmp_path / "run", []
    shutil.copytree(whole, path)
    (path / "verdict.json").unlink()
    found = places(path)
    found[5].verdict.unlink()
    found[6].discard_from(1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, 6)
        runs.run(config(data_directory), path)
    shutil.rmtree(found[7].path)

    def noted(self, group, lead=Meeting._lead):
        met.append((sorted(group), next(iter(group.values())).progress))
        lead(self, group)

    monkeypatch.setattr(Meeting, "_lead", noted)
    runs.run(config(data_directory), path)
    assert met == [([2], (0, 0, 12)), ([2], (1, 3, 12)), ([1], (1, 5, 12)), ([1, 2], (2, 3, 12))]
    assert_same(path, whole)


def test_an_error_between_trainings_ends_every_seed(data_directory, tmp_path, monkeypatch):
    def full(run, *_, evaluate=runs.Run._evaluate):
        if run.seed == 6 and len(run.rows) == 1:
            raise OSError(28, "No space left on device", str(run.place.path))
        evaluate(run, *_)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left .*seed_6"):
        patch.setattr(runs.Run, "_evaluate", full)
        runs.run(config(data_directory), tmp_path / "run")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]
    assert [len(place.read_rounds()) for place in places(tmp_path / "run").values()] == [2, 1, 2]


# Divergence.

AT = 7  # The step after which the weights of seed 6 are no numbers, in round 1.


@pytest.fixture
def poisoned(monkeypatch):
    """Seed 6 diverges once."""
    times = []

    def mask_updates(update, log, steps, stop, devices):
        def act(moment):
            state = moment.host_state()
            if state.seed == 6 and mask_lib.sparsity(moment.masks) > 0.4 and not times:
                times.append(1)
                broken = jax.tree.map(lambda leaf: leaf * np.nan, state.params)
                return moment._replace(state=replicate(state.replace(params=broken), devices))
            return None

        return loop.Hook(lambda step: step == AT, act)

    monkeypatch.setattr(hooks, "mask_updates", mask_updates)


@pytest.mark.parametrize("policy", ["lower_rate", "skip_round"])
def test_a_seed_that_diverges_changes_no_bit_of_the_others(whole, poisoned, data_directory, tmp_path, policy):
    path = tmp_path / "run"
    runs.run(config(data_directory, **{"train.on_divergence": policy}), path)
    ours, theirs = places(path), places(whole)
    for seed in (5, 7):
        assert_same_seed(ours[seed], theirs[seed])
    row = ours[6].read_rounds()[1]
    assert row["learning_rate_factor" if policy == "lower_rate" else "diverged_step"] in (0.5, AT + 1)
    assert ours[6].read_rounds()[0]["reconstruction_error"] == theirs[6].read_rounds()[0]["reconstruction_error"]


def test_a_seed_that_diverges_and_stops_is_named_and_the_others_keep_their_round(
    whole, poisoned, data_directory, tmp_path
):
    path = tmp_path / "run"
    with pytest.raises(UserError, match=f"^seed 6: training diverged: .* at step {AT + 1} of round 1"):
        runs.run(config(data_directory), path)
    rounds = {seed: len(place.read_rounds()) for seed, place in places(path).items()}
    assert rounds[6] == 1
    assert {rounds[5], rounds[7]} <= {1, 2}  # What has not been measured yet when seed 6 ends is at the next start.
    for seed in (5, 7):  # But the others have trained, and what they have trained is there.
        states = sorted(places(path)[seed].snapshot("last").iterdir(), key=lambda state: int(state.name))
        newest = snapshots.restore_raw(states[-1])
        assert (int(newest["round"]), int(newest["state"]["step"])) == (1, 12)
    runs.run(config(data_directory), path)  # It does not diverge again.
    assert_same(path, whole)


# Other methods.

METHODS = [
    ("one_shot", {}),
    ("rigl", {"rewind_step": 0.0, "prune.update_every": 3}),
    ("at_init", {"rewind_step": 0.0, "prune.score": "snip"}),
    ("gradual", {"rewind_step": 0.0, "prune.update_every": 3, "data.placement": "host"}),
]


@pytest.mark.parametrize(("method", "changes"), METHODS)
def test_other_methods_train_as_alone_to_rounding(quick_runs, data_directory, tmp_path, method, changes):
    networks = {"model.name": "linear_ae", "model.image_size": 28, "experiment": method}
    for path, at_once in (("together", 2), ("alone", 1)):
        changes = {**networks, **changes, "seeds": 2, "tickets_per_device": at_once}
        runs.run(config(data_directory, **changes), tmp_path / path)
    rows, others = (Workdir(tmp_path / path).read_rounds() for path in ("together", "alone"))
    assert len(rows) == len(others) == 6
    for row, other in zip(rows, others, strict=True):
        assert (row["seed"], row["round"], row["sparsity"]) == (other["seed"], other["round"], other["sparsity"])
        assert row["reconstruction_error"] == pytest.approx(other["reconstruction_error"], rel=1e-3)


@pytest.mark.parametrize("kind", ["reinit", "random_pruning", "shuffled"])
def test_controls_train_together_too(whole, data_directory, tmp_path, kind):
    for path, at_once in (("together", 3), ("alone", 1)):
        changes = {"branch.of": str(whole), "branch.kind": kind, "rewind_step": 0.0, "tickets_per_device": at_once}
        runs.run(config(data_directory, experiment="branch", **changes), tmp_path / path)
    rows, others = (Workdir(tmp_path / path).read_rounds() for path in ("together", "alone"))
    assert len(rows) == len(others) == 9
    for row, other in zip(rows, others, strict=True):
        assert row["sparsity"] == other["sparsity"]
        assert row["reconstruction_error"] == pytest.approx(other["reconstruction_error"], rel=1e-3)


REFUSED = [
    ({"tickets_per_device": 4}, "a whole number from 1 to 3 with config.seeds=3 and config.tickets_per_host=1"),
    ({"experiment": "early_bird", "early_bird.until": 8.0, "early_bird.queue": 2, "early_bird.every": 2}, "1 with"),
    ({"experiment": "at_init", "prune.structure": "channel", "prune.score": "random", "rewind_step": 0.0}, "1 with"),
]


@pytest.mark.parametrize(("changes", "allowed"), REFUSED)
def test_seeds_that_cannot_train_together_are_one_line(data_directory, changes, allowed):
    with pytest.raises(UserError, match=f"^config.tickets_per_device=.: allowed is {allowed}[^\n]*$"):
        config_lib.validate(config(data_directory, **changes), 1)


# Memory.


def test_tickets_that_do_not_fit_are_refused_with_the_largest_number_that_does(
    quick_runs, data_directory, tmp_path, monkeypatch
):
    options = config(data_directory, **{"model.name": "linear_ae", "model.image_size": 28})
    setup = Setup(options)
    two, three = (Setup(options, like=setup, seat=Seat(Meeting(k, Stop()), 0)).step_bytes for k in (2, 3))
    assert setup.step_bytes < two < three
    monkeypatch.setattr(memory, "memory", lambda devices: (two + three) // 2)
    with pytest.raises(UserError, match=r"^config.tickets_per_device=3: allowed is a whole number from 1 to 2[^\n]*$"):
        runs.run(options, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(memory, "memory", lambda devices: three)
    memory.check(setup, 3)


# Signals.

FLAGS = [
    *("--config.model.name=linear_ae", "--config.model.image_size=28", "--config.train.batch_size=16"),
    *("--config.train.steps=400", "--config.train.log_every=10", "--config.train.checkpoint_every=20"),
    *("--config.prune.rounds=2", "--config.eval.samples=64", "--config.seeds=3", "--config.tickets_per_device=2"),
]


def start(path, data_directory):
    command = [sys.executable, "-m", "jaxtickets.main", "--config=configs/ae_digits.py:quick", f"--workdir={path}"]
    return subprocess.Popen(
        [*command, *FLAGS, f"--config.data.dir={data_directory}"],
        **{"cwd": ROOT, "env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
    )


@pytest.mark.slow
def test_a_process_that_is_asked_to_end_saves_every_seed_and_goes_on_to_the_same_bits(
    quick_runs, data_directory, tmp_path
):
    whole = start(tmp_path / "whole", data_directory)
    assert whole.communicate(timeout=300) and whole.returncode == 0
    process = start(tmp_path / "run", data_directory)
    while process.poll() is None and not list((tmp_path / "run").glob("seed_*/snapshots/last/[0-9]*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "Traceback" not in err
    folders = [place / "snapshots" / "last" for place in (tmp_path / "run").glob("seed_*")]
    last = [max(folder.glob("[0-9]*"), key=lambda path: int(path.name)) for folder in folders]
    assert len({int(snapshots.restore_raw(path)["state"]["step"]) for path in last}) == 1
    assert not list((tmp_path / "run").rglob("*.lock"))
    process = start(tmp_path / "run", data_directory)
    assert process.communicate(timeout=300) and process.returncode == 0
    for path in ("verdict.json", *(f"seed_{seed}/verdict.json" for seed in range(3))):
        assert (tmp_path / "run" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
    assert untimed_rounds(tmp_path / "run") == untimed_rounds(tmp_path / "whole")
