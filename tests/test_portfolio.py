"""Runs that differ in seed, score or sparsity in one program: which can be, the same bits after a kill, failures."""

import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Killed, killing, tiny, untimed_rounds

from jaxtickets import portfolio, runs, snapshots
from jaxtickets.errors import UserError
from jaxtickets.workdir import Workdir
from launch import sweep
from launch.points import points
from launch.together import groups

POINTS = {
    "magnitude": {"seed": 3, "prune.sparsities": (0.5, 0.8)},
    "random": {"seed": 3, "prune.score": "random", "prune.sparsities": (0.6,)},
    "other_seed": {"seed": 4, "prune.sparsities": (0.5, 0.8), "prune.scope": "layerwise"},
}


def configs(data_directory, **changes):
    linear = {"model.name": "linear_ae", "model.image_size": 28, **changes}
    return [tiny("ae_digits", data_directory, **{**linear, **point}) for point in POINTS.values()]


def paths(path):
    return [path / name for name in POINTS]


@pytest.fixture(scope="module")
def whole(quick_runs, data_directory, tmp_path_factory):
    """A portfolio that nobody disturbed."""
    path = tmp_path_factory.mktemp("whole")
    assert portfolio.run(configs(data_directory), paths(path)) == [None] * 3
    return path


def assert_same(ours, theirs):
    for here, there in zip(paths(ours), paths(theirs), strict=True):
        assert untimed_rounds(here) == untimed_rounds(there)
        assert (here / "verdict.json").read_bytes() == (there / "verdict.json").read_bytes()
        for name in ("snapshots/dense", "masks/001"):
            trees = [snapshots.restore_raw(place / name) for place in (here, there)]
            np.testing.assert_equal(*trees)


def test_each_run_is_that_of_its_config_alone_to_rounding(whole, data_directory, tmp_path):
    for config, path in zip(configs(data_directory), paths(whole), strict=True):
        alone = tmp_path / path.name
        assert portfolio.run([config], [alone]) == [None]
        rows, others = Workdir(path).read_rounds(), Workdir(alone).read_rounds()
        assert [row["sparsity"] for row in rows] == [row["sparsity"] for row in others]
        ours, theirs = ([row["reconstruction_error"] for row in found] for found in (rows, others))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
        assert Workdir(path).read_config() == Workdir(alone).read_config()
        assert (path / "report.html").is_file()


@pytest.mark.parametrize("after", [2, 12 + 4])
def test_a_portfolio_that_was_killed_goes_on_to_the_same_bits(whole, data_directory, tmp_path, monkeypatch, after):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, after)
        portfolio.run(configs(data_directory), paths(tmp_path))
    assert portfolio.run(configs(data_directory), paths(tmp_path)) == [None] * 3
    assert_same(tmp_path, whole)


def test_a_run_beside_finished_ones_has_the_bits_that_it_has_beside_running_ones(whole, data_directory, tmp_path):
    for path in paths(whole)[1:]:
        shutil.copytree(path, tmp_path / path.name)
    assert portfolio.run(configs(data_directory), paths(tmp_path)) == [None] * 3
    assert_same(tmp_path, whole)


def test_a_run_that_fails_leaves_the_others_going(whole, data_directory, tmp_path):
    shutil.copytree(paths(whole)[0], paths(tmp_path)[1])  # Another run's.
    failures = portfolio.run(configs(data_directory), paths(tmp_path))
    assert isinstance(failures[1], UserError) and failures[0] is failures[2] is None
    for number in (0, 2):
        assert untimed_rounds(paths(tmp_path)[number]) == untimed_rounds(paths(whole)[number])


def test_an_interrupt_asks_all_trainings_to_end(data_directory, tmp_path, monkeypatch):
    heard = []

    def run(*_, stopped, **__):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        heard.append(stopped.wait(10))

    monkeypatch.setattr(runs, "run", run)
    with pytest.raises(KeyboardInterrupt):
        portfolio.run(configs(data_directory)[:1], paths(tmp_path)[:1])
    assert heard == [True]


# Groups.


def points_of(*grid, extra=()):
    return points(str(ROOT / "configs" / "ae_digits.py:quick"), Path("somewhere"), grid=grid, extra=extra)


def grouped(*grid, known=(), at_most=2, extra=()):
    found = points_of(*grid, extra=extra)
    return [[point.name for point in group] for group in groups(found, at_most, known)]


def test_points_whose_programs_differ_are_in_different_groups():
    for grid in ("train.batch_size=16,32", "model.width=8,16", "train.log_every=10,20", "rewind_step=0.1,0.2"):
        assert grouped(grid) == [[point.name] for point in points_of(grid)]
    for grid in ("seed=0,1", "prune.score=magnitude,random", "prune.rounds=2,3", "prune.rate=0.2,0.5"):
        assert grouped(grid) == [[point.name for point in points_of(grid)]]
    assert grouped("seed=0,1,2", "train.batch_size=16,32") == [
        ["seed=0,train.batch_size=16", "seed=1,train.batch_size=16"],
        ["seed=0,train.batch_size=32", "seed=1,train.batch_size=32"],
        ["seed=2,train.batch_size=16"],
        ["seed=2,train.batch_size=32"],
    ]


def test_a_grid_that_is_extended_keeps_its_groups():
    before = grouped("seed=1,2,3")
    assert before == [["seed=1", "seed=2"], ["seed=3"]]
    assert grouped("seed=0,1,2,3,4", known=before) == [["seed=0", "seed=4"], ["seed=1", "seed=2"], ["seed=3"]]


def test_points_of_several_seeds_run_alone():
    assert grouped("seed=0,1", extra=["--config.seeds=2"]) == [["seed=0"], ["seed=1"]]


def test_a_point_and_one_that_it_waits_for_are_never_in_one_group():
    first, second = points_of("seed=0,1")
    second = second._replace(after=(first.name,))
    assert groups([first, second], 2, ()) == [(first,), (second,)]


def test_points_of_a_group_wait_for_the_same_runs():
    first, second, third = (
        point._replace(after=(name,)) for point, name in zip(points_of("seed=0,1,2"), "aba", strict=True)
    )
    assert groups([first, second, third], 2, ()) == [(first, third), (second,)]


@pytest.mark.slow
def test_a_sweep_trains_its_points_together_and_another_start_must_ask_for_the_same(
    quick_runs, data_directory, tmp_path, capsys
):
    flags = ["model.name=linear_ae", "model.image_size=28", "train.epochs=0", "train.steps=20", "prune.rounds=1"]
    extra = [*(f"--config.{flag}" for flag in flags), "--config.eval.samples=64", f"--config.data.dir={data_directory}"]
    config = str(ROOT / "configs" / "ae_digits.py:quick")

    def start(*grid, **options):
        return sweep.sweep(config, grid, tmp_path, extra=extra, **options)

    assert start("seed=0,1", together=2) == 0
    assert "seed=0; seed=1: started together" in capsys.readouterr().out
    assert Workdir(tmp_path / "seed=0").is_finished and Workdir(tmp_path / "seed=1").is_finished
    assert start("seed=0,1", together=2) == 0
    assert "started" not in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a sweep with --together=2, not 3"):
        start("seed=0,1", together=3)
