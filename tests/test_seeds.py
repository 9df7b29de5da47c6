"""One experiment over several seeds: each seed's run, the table of all, and the test that decides."""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
from conftest import Killed, finish, kill_after, share, tiny
from scipy import stats

from jaxtickets import experiments, main, report, snapshots, workdir
from jaxtickets.errors import UserError
from jaxtickets.experiments import Setup, judge_seeds

SEEDS, METRIC, CONFIDENCE, TOLERANCE = (5, 6, 7), "reconstruction_error", 0.8, 0.3
TIMINGS = ("train_seconds", "steps_per_second")


def config(data_directory, **changes):
    several = {"seed": SEEDS[0], "seeds": len(SEEDS), "confidence": CONFIDENCE, "tolerance": TOLERANCE}
    return tiny("ae_digits", data_directory, **{"prune.sparsities": (0.5, 0.8), **several, **changes})


@pytest.fixture(scope="module")
def base(quick_runs, data_directory):
    return Setup(config(data_directory))


@pytest.fixture(scope="module")
def whole(base, data_directory, tmp_path_factory):
    """A run over three seeds that nobody disturbed: its workdir and verdict."""
    path = tmp_path_factory.mktemp("seeds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "Setup", lambda config: share(Setup(config), base))
        return path, experiments.run(config(data_directory), path)


@pytest.fixture
def shared(base, monkeypatch):
    """`experiments.run` compiles nothing anew; once `shared.steps` is a number, it is killed after so many steps."""

    class Shared:
        steps = None

    def setup(config):
        one = share(Setup(config), base)
        if Shared.steps is not None:
            kill_after(one, Shared.steps)
        return one

    monkeypatch.setattr(experiments, "Setup", setup)
    return Shared


def rows(path):
    """The rows of `rounds.csv` without timings."""
    return [
        {name: value for name, value in row.items() if name not in TIMINGS}
        for row in workdir.read_csv(path / "rounds.csv")
    ]


def digests(path):
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def values(table, round_):
    return np.array([row[METRIC] for row in table if row["round"] == round_])


def test_the_table_has_a_row_a_seed_and_round_and_they_are_those_of_the_seeds(whole):
    path, _ = whole
    table = workdir.read_csv(path / "rounds.csv")
    assert [(row["seed"], row["round"]) for row in table] == [(seed, round_) for seed in SEEDS for round_ in range(3)]
    for seed in SEEDS:
        own = [{name: value for name, value in row.items() if name != "seed"} for row in table if row["seed"] == seed]
        assert own == workdir.read_csv(path / f"seed_{seed}" / "rounds.csv")
    assert len(set(values(table, 0))) == len(SEEDS)


def test_the_verdicts_means_intervals_and_p_values_are_those_of_scipy(whole):
    path, verdict = whole
    assert json.loads((path / "verdict.json").read_text()) == verdict
    table = workdir.read_csv(path / "rounds.csv")
    limit = (1 + TOLERANCE) * values(table, 0)
    assert verdict["seeds"] == list(SEEDS)
    assert verdict["dense"] == pytest.approx(values(table, 0).mean())
    assert verdict["threshold"] == pytest.approx(limit.mean())
    for round_, judged in enumerate(verdict["rounds"]):
        own = values(table, round_)
        low, high = stats.t.interval(CONFIDENCE, len(own) - 1, own.mean(), own.std(ddof=1) / np.sqrt(len(own)))
        assert (judged["mean"], judged["low"], judged["high"]) == pytest.approx((own.mean(), low, high))
        assert judged["round"] == round_
        if round_ == 0:
            assert judged["p_value"] is judged["wins"] is None
            continue
        sides = [(side.mean(), side.std(ddof=1), len(side)) for side in (own, limit)]
        p_value = stats.ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False, alternative="less").pvalue
        assert judged["p_value"] == pytest.approx(p_value)
        assert judged["wins"] == (p_value < 1 - CONFIDENCE)


def table(**groups):
    """Rows of `{round: values over seeds}`, given as `r0=..., r1=...`."""
    return [
        {"seed": seed, "round": int(name[1:]), "sparsity": 1 - 0.5 ** int(name[1:]), METRIC: value}
        for name, group in groups.items()
        for seed, value in enumerate(group)
    ]


def test_the_p_value_is_that_of_welchs_formula():
    dense, sparse = np.array([10.0, 11.0, 12.5, 9.0]), np.array([9.5, 12.0, 10.0, 10.5])
    limit = 1.2 * dense
    errors = [side.var(ddof=1) / 4 for side in (sparse, limit)]
    t = (sparse.mean() - limit.mean()) / np.sqrt(sum(errors))
    freedom = sum(errors) ** 2 / sum(error**2 / 3 for error in errors)
    # The t distribution's cumulative probability by numerical integration of its density.
    x = np.linspace(-400, t, 2_000_001)
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    whole = np.linspace(-400, 400, 4_000_001)
    p_value = np.trapezoid(density, x) / np.trapezoid((1 + whole**2 / freedom) ** (-(freedom + 1) / 2), whole)
    verdict = judge_seeds(table(r0=dense, r1=sparse), METRIC, "error", 0.2, 0.95)
    assert verdict["rounds"][1]["p_value"] == pytest.approx(p_value, rel=1e-4)
    assert 0.01 < p_value < 0.1


def test_the_winner_is_the_sparsest_round_that_the_test_says_is_within_tolerance():
    groups = {"r0": (10.0, 10.2, 9.8), "r1": (9.9, 10.1, 10.0), "r2": (9.0, 12.5, 9.4), "r3": (14.0, 14.2, 14.1)}
    p_values = [row["p_value"] for row in judge_seeds(table(**groups), METRIC, "error", 0.1, 0.95)["rounds"]][1:]
    assert p_values[0] < 0.05 < p_values[1] < 0.5 < p_values[2]
    # The mean of round 2, 10.3, is within tolerance; that it varies so much speaks against it, unless less is asked.
    for confidence, winner in ((0.95, 1), (1 - p_values[1] - 1e-6, 2), (1 - p_values[1] + 1e-6, 1)):
        verdict = judge_seeds(table(**groups), METRIC, "error", 0.1, confidence)
        assert (verdict["winning_round"], verdict["sparsity"]) == (winner, 1 - 0.5**winner)
        assert verdict["value"] == pytest.approx(np.mean(groups[f"r{winner}"]))
        assert verdict["message"].startswith(f"Winning ticket: round {winner} ")


def test_nothing_wins_when_no_round_is_shown_to_be_as_good():
    verdict = judge_seeds(table(r0=(10.0, 10.2, 9.8), r1=(12.0, 12.2, 12.1)), METRIC, "error", 0.1, 0.95)
    assert verdict["winning_round"] is verdict["sparsity"] is verdict["value"] is None
    assert verdict["message"].startswith("No winning ticket")


@pytest.mark.parametrize(("value", "wins"), [(10.5, True), (11.5, False)])
def test_where_nothing_varies_the_values_decide(value, wins):
    verdict = judge_seeds(table(r0=(10.0, 10.0), r1=(value, value)), METRIC, "error", 0.1, 0.95)
    assert verdict["rounds"][1]["wins"] == wins
    assert verdict["winning_round"] == (1 if wins else None)


def test_a_seeds_run_is_the_run_of_that_seed_alone(whole, base, data_directory, tmp_path):
    alone = {"seed": 6, "seeds": 1, "confidence": 0.95}
    finish(share(Setup(config(data_directory, **alone)), base), tmp_path / "run")
    ours, theirs = whole[0] / "seed_6", tmp_path / "run"
    assert rows(ours) == rows(theirs)
    for snapshot in ("snapshots/init", "snapshots/rewind", "snapshots/dense", "masks/001", "masks/002"):
        trees = [snapshots.restore_raw(place / snapshot) for place in (ours, theirs)]
        assert len(jax.tree.leaves(trees[0])) > 1
        jax.tree.map(np.testing.assert_array_equal, *trees)
    configs = [json.loads((place / "config.json").read_text())["config"] for place in (ours, theirs)]
    assert {name for name in configs[0] if configs[0][name] != configs[1][name]} <= {"confidence"}
    assert json.loads((ours / "verdict.json").read_text()) == json.loads((theirs / "verdict.json").read_text())


def test_a_run_that_was_killed_in_the_second_seed_goes_on(whole, data_directory, shared, tmp_path):
    shared.steps = 12 + 9 + 9 + 12 + 4
    with pytest.raises(Killed):
        experiments.run(config(data_directory), tmp_path / "run")
    assert [(row["seed"], row["round"]) for row in rows(tmp_path / "run")] == [(5, 0), (5, 1), (5, 2)]
    assert len(rows(tmp_path / "run" / "seed_6")) == 1
    assert not (tmp_path / "run" / "verdict.json").exists()
    shared.steps = 7 + 9 + 12 + 9 + 9  # What is left; a step more would kill it.
    assert experiments.run(config(data_directory), tmp_path / "run") == whole[1]
    assert rows(tmp_path / "run") == rows(whole[0])


def test_from_round_goes_back_in_every_seed_and_the_table_is_printed(whole, data_directory, shared, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(whole[0], path)
    shared.steps = 3 * 9
    assert main.run(config(data_directory), path, from_round=2) == whole[1]
    assert rows(path) == rows(whole[0])
    out = capsys.readouterr().out
    assert out.strip() == f"{report.summary(path)}\n\nReport: {path / 'report.html'}".strip()
    assert whole[1]["message"] in out
    assert all(place.is_file() for place in (path / "report.html", *(path / f"seed_{n}/report.html" for n in SEEDS)))


def test_a_round_that_one_seed_has_not_finished_is_refused_and_nothing_is_discarded(whole, data_directory, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole[0], path)
    unfinished = workdir.read_csv(path / "seed_7" / "rounds.csv")[:1]
    workdir.write_csv(path / "seed_7" / "rounds.csv", unfinished)
    before = digests(path)
    with pytest.raises(UserError, match=r"--from_round=1: no such finished round in .*seed_7; allowed are 0 to 0"):
        main.run(config(data_directory), path, from_round=1)
    assert digests(path) == before


def test_other_seeds_are_another_run(whole, data_directory, shared):
    with pytest.raises(UserError, match="seeds is 3 there and 2 here"):
        experiments.run(config(data_directory, seeds=2), whole[0])
