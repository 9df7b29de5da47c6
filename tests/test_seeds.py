"""One experiment over several seeds: each seed run, the table of all, and the statistical test that decides."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import Killed, digests, finish, kill_after, tiny, untimed_rounds, without_references
from scipy import stats

from jaxtickets import main, report, runs, snapshots
from jaxtickets.errors import UserError
from jaxtickets.runs import Setup, judge_seeds, seeds
from jaxtickets.tickets import load_ticket
from jaxtickets.workdir import Workdir

SEEDS, METRIC, CONFIDENCE, TOLERANCE = (5, 6, 7), "reconstruction_error", 0.8, 0.3


def config(data_directory, **changes):
    several = {"seed": SEEDS[0], "seeds": len(SEEDS), "confidence": CONFIDENCE, "tolerance": TOLERANCE}
    return tiny("ae_digits", data_directory, **{"prune.sparsities": (0.5, 0.8), **several, **changes})


@pytest.fixture(scope="module")
def whole(quick_runs, base, data_directory, tmp_path_factory):
    """A run over three seeds that nobody disturbed: its workdir and verdict."""
    path = tmp_path_factory.mktemp("seeds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "Setup", lambda config, **_: without_references(Setup(config, like=base("ae_digits"))))
        return Workdir(path), runs.run(config(data_directory), path)


@pytest.fixture
def shared(base, monkeypatch):
    """`runs.run` compiles nothing anew; once `shared.steps` is a number, it is killed after that number of steps."""

    class Shared:
        steps = None

    def setup(config, **_):
        one = without_references(Setup(config, like=base("ae_digits")))
        if Shared.steps is not None:
            kill_after(one, Shared.steps)
        return one

    monkeypatch.setattr(seeds, "Setup", setup)
    return Shared


def values(table, round_):
    return np.array([row[METRIC] for row in table if row["round"] == round_])


def test_the_table_has_one_row_per_seed_and_round(whole):
    place, _ = whole
    table = place.read_rounds()
    assert [(row["seed"], row["round"]) for row in table] == [(seed, round_) for seed in SEEDS for round_ in range(3)]
    for seed in SEEDS:
        own = [{name: value for name, value in row.items() if name != "seed"} for row in table if row["seed"] == seed]
        assert own == place.seed_dir(seed).read_rounds()
    assert len(set(values(table, 0))) == len(SEEDS)


def test_means_ratios_intervals_and_p_values_are_those_of_scipy(whole):
    place, verdict = whole
    assert json.loads(place.verdict.read_text()) == verdict
    table = place.read_rounds()
    dense = values(table, 0)
    assert verdict["seeds"] == list(SEEDS)
    assert verdict["dense"] == pytest.approx(dense.mean())
    assert verdict["threshold"] == pytest.approx((1 + TOLERANCE) * dense.mean())
    assert [judged["round"] for judged in verdict["rounds"]] == [0, 1, 2]
    for round_, judged in enumerate(verdict["rounds"]):
        own = values(table, round_)
        low, high = stats.t.interval(CONFIDENCE, len(own) - 1, own.mean(), own.std(ddof=1) / np.sqrt(len(own)))
        assert (judged["mean"], judged["low"], judged["high"]) == pytest.approx((own.mean(), low, high))
        if round_ == 0:
            assert judged["p_value"] is judged["wins"] is None
            continue
        test = stats.ttest_rel(np.log(own), np.log((1 + TOLERANCE) * dense), alternative="less")
        assert judged["p_value"] == pytest.approx(test.pvalue) and judged["pairs"]
        assert judged["ratio"] == pytest.approx(stats.gmean(own / dense))
        assert judged["wins"] == (judged["p_adjusted"] < 1 - CONFIDENCE)


def table(**groups):
    """Rows of `{round: values over seeds}`, given as `r0=..., r1=...`."""
    return [
        {"seed": seed, "round": int(name[1:]), "sparsity": 1 - 0.5 ** int(name[1:]), METRIC: value}
        for name, group in groups.items()
        for seed, value in enumerate(group)
    ]


def test_the_p_value_is_the_integral_of_students_density():
    dense, sparse = np.array([10.0, 11.0, 12.5, 9.0]), np.array([9.5, 12.5, 12.0, 10.0])
    differences = np.log(sparse) - np.log(1.2 * dense)
    t, freedom = differences.mean() / (differences.std(ddof=1) / 2), 3
    x = np.linspace(-1000, t, 2_000_001)
    whole = np.linspace(-1000, 1000, 4_000_001)
    density, over_all = ((1 + at**2 / freedom) ** (-(freedom + 1) / 2) for at in (x, whole))
    p_value = np.trapezoid(density, x) / np.trapezoid(over_all, whole)
    verdict = judge_seeds(table(r0=dense, r1=sparse), METRIC, "error", 0.2, 0.95)
    assert verdict["rounds"][1]["p_value"] == pytest.approx(p_value, rel=1e-4)
    assert 0.01 < p_value < 0.1


def test_the_winner_is_the_sparsest_round_shown_to_be_within_tolerance():
    groups = {"r0": (10.0, 10.2, 9.8), "r1": (9.9, 10.1, 10.0), "r2": (9.0, 12.5, 9.4), "r3": (14.0, 14.2, 14.1)}
    rounds = judge_seeds(table(**groups), METRIC, "error", 0.1, 0.95)["rounds"]
    adjusted = [row["p_adjusted"] for row in rounds[1:]]
    assert adjusted[0] < 0.05 < adjusted[1] < 0.5 < adjusted[2]
    # The mean of round 2, 10.3, is within tolerance; its variance speaks against it, unless less confidence is asked.
    for confidence, winner in ((0.95, 1), (1 - adjusted[1] - 1e-6, 2), (1 - adjusted[1] + 1e-6, 1)):
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
    setup = without_references(Setup(config(data_directory, **alone), like=base("ae_digits")))
    finish(setup, tmp_path / "run")
    ours, theirs = whole[0].seed_dir(6), Workdir(tmp_path / "run")
    assert untimed_rounds(ours.path) == untimed_rounds(theirs.path)
    for snapshot in ("snapshots/init", "snapshots/rewind", "snapshots/dense", "masks/001", "masks/002"):
        trees = [snapshots.restore_raw(place.path / snapshot) for place in (ours, theirs)]
        assert len(jax.tree.leaves(trees[0])) > 1
        jax.tree.map(np.testing.assert_array_equal, *trees)
    configs = [place.read_config() for place in (ours, theirs)]
    assert {name for name in configs[0] if configs[0][name] != configs[1][name]} <= {"confidence"}
    inner, single = (place.read_verdict() for place in (ours, theirs))
    told = "One seed is an observation; {} tests it.".format
    assert single["message"].endswith(alone := told("--config.seeds=5, in another workdir,"))
    assert inner.pop("message") == single["message"].replace(alone, told("the experiment in the directory above"))
    assert inner == {name: value for name, value in single.items() if name != "message"}


def test_each_seed_has_its_ticket_of_the_round_that_wins_over_all(whole):
    place, verdict = whole
    assert verdict["winning_round"]
    for seed in SEEDS:
        own = place.seed_dir(seed)
        ticket = load_ticket(own.ticket)
        its_own = [one for one in verdict["rounds"] if one["round"] == verdict["winning_round"]]
        assert ticket.metadata["verdict"] == {**verdict, "rounds": its_own}
        assert ticket.metadata["config"]["seed"] == seed
        masks = snapshots.restore_masks(own.masks(verdict["winning_round"]), ticket.masks)
        jax.tree.map(np.testing.assert_array_equal, ticket.masks, masks)
        assert own.weights(verdict["winning_round"]).exists()


def test_a_run_that_was_killed_in_the_second_seed_goes_on(whole, data_directory, shared, tmp_path):
    place = Workdir(tmp_path / "run")
    shared.steps = 12 + 9 + 9 + 12 + 4
    with pytest.raises(Killed):
        runs.run(config(data_directory), place.path)
    assert [(row["seed"], row["round"]) for row in place.read_rounds()] == [(5, 0), (5, 1), (5, 2)]
    assert len(place.seed_dir(6).read_rounds()) == 1
    assert not place.is_finished
    shared.steps = 7 + 9 + 12 + 9 + 9  # What is left; a step more would kill it.
    assert runs.run(config(data_directory), place.path) == whole[1]
    assert untimed_rounds(place.path) == untimed_rounds(whole[0].path)


def test_from_round_goes_back_in_every_seed(whole, data_directory, shared, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(whole[0].path, path)
    shared.steps = 3 * 9
    assert main.run(config(data_directory), path, from_round=2) == whole[1]
    assert untimed_rounds(path) == untimed_rounds(whole[0].path)
    out = capsys.readouterr().out
    assert out.strip() == f"{report.summary(path)}\n\nReport: {path / 'report.html'}".strip()
    assert whole[1]["message"] in out
    assert all(place.is_file() for place in (path / "report.html", *(path / f"seed_{n}/report.html" for n in SEEDS)))


def test_a_round_that_one_seed_has_not_finished_is_refused(whole, data_directory, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole[0].path, path)
    unfinished = Workdir(path).seed_dir(7)
    unfinished.write_rounds(unfinished.read_rounds()[:1])
    before = digests(path)
    with pytest.raises(UserError, match=r"--from_round=1: no such finished round in .*seed_7; allowed are 0 to 0"):
        main.run(config(data_directory), path, from_round=1)
    assert digests(path) == before


def test_other_seeds_are_another_run(whole, data_directory, shared):
    with pytest.raises(UserError, match="seeds is 3 there and 2 here"):
        runs.run(config(data_directory, seeds=2), whole[0].path)
