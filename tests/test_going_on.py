"""Tests that a run goes on with more rounds, more seeds or another verdict, and that its past stays as it is."""

import shutil

import chex
import pytest
from conftest import Killed, digests, killing, tiny, untimed_rounds, untimed_scalars

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import runs, snapshots, tickets
from jaxtickets.errors import UserError
from jaxtickets.runs import Setup
from jaxtickets.workdir import Workdir

pytestmark = pytest.mark.usefixtures("quick_runs")
METHOD_FLAGS = {
    "imp": {},
    "imp, fine-tuned": {"rewind": "none"},
    "one_shot": {"experiment": "one_shot"},
    "at_init": {"experiment": "at_init", "rewind_step": 0.0, "prune.score": "synflow"},
    "gradual": {"experiment": "gradual", "rewind_step": 0.0, "prune.update_every": 2},
    "set": {"experiment": "set", "rewind_step": 0.0, "prune.update_every": 2},
    "early_bird": {
        **{"experiment": "early_bird", "early_bird.every": 1, "early_bird.queue": 2, "early_bird.until": 3},
        **{"early_bird.threshold": 1.0, "early_bird.moved": 0.0, "rewind_step": 2},
    },
}


@pytest.fixture
def run(base, data_directory):
    """`run(path, **changes)` runs the tiny GAN to its end, or further; `run.config` makes its config."""

    def of(path, **changes):
        config = of.config(**changes)
        config_lib.validate(config, 1)
        return runs.run(config, path, make_setup=lambda config: Setup(config, like=base("gan_digits")))

    of.config = lambda **changes: tiny("gan_digits", data_directory, **changes)
    return of


def masks_of(place):
    return [mask_lib.named_leaves(snapshots.restore_raw(path)) for path in place.list_masks().values()]


def assert_equal_runs(one, other):
    """The same config, tables, logged scalars, masks, verdict and ticket, bit for bit."""
    assert untimed_rounds(one) == untimed_rounds(other)
    assert untimed_scalars(one) == untimed_scalars(other)
    one, other = Workdir(one), Workdir(other)
    assert one.read_config() == other.read_config() and one.read_layers() == other.read_layers()
    chex.assert_trees_all_equal(masks_of(one), masks_of(other))
    assert one.read_verdict() == other.read_verdict()
    assert one.ticket.exists() == other.ticket.exists()


@pytest.mark.parametrize(
    "flags", [pytest.param(name, marks=[] if name == "imp" else [pytest.mark.slow]) for name in METHOD_FLAGS]
)
def test_rounds_that_are_taken_up_later_are_those_of_an_uninterrupted_run(run, flags, tmp_path):
    changes = METHOD_FLAGS[flags]
    for rounds in (1, 2):
        run(tmp_path / "later", **{"prune.rounds": rounds, **changes})
    run(tmp_path / "whole", **{"prune.rounds": 2, **changes})
    assert_equal_runs(tmp_path / "later", tmp_path / "whole")


def test_another_tolerance_gives_another_verdict_and_trains_nothing(run, tmp_path, monkeypatch):
    path = tmp_path / "run"
    run(path, tolerance=0.0, **{"prune.rounds": 2})
    before = untimed_rounds(path), untimed_scalars(path), digests(path / "masks")
    killing(monkeypatch, calls=0)
    verdict = run(path, tolerance=1e6, **{"prune.rounds": 2})
    place = Workdir(path)
    assert verdict["tolerance"] == 1e6 and place.read_verdict() == verdict
    assert place.read_config()["tolerance"] == 1e6
    assert (untimed_rounds(path), untimed_scalars(path), digests(path / "masks")) == before
    (change,) = place.read_origin()["changes"]
    assert change["fields"] == ["tolerance is 0.0 there and 1000000.0 here"]
    if verdict["winning_round"] is not None:
        metadata = tickets.load_ticket(place.ticket).metadata
        assert metadata["config"]["tolerance"] == 1e6 and metadata["verdict"] == verdict


@pytest.mark.slow
def test_another_order_of_the_metrics_gives_another_metric_of_the_verdict(run, tmp_path):
    changes = {"prune.rounds": 1, "eval.kid_subset_size": 32, "eval.kid_subsets": 2}
    first = run(tmp_path / "run", **changes, **{"eval.metrics": ("fd", "kid")})
    second = run(tmp_path / "run", **changes, **{"eval.metrics": ("kid", "fd")})
    assert (first["metric"], second["metric"]) == ("fd_digits", "kid_digits")
    assert list(Workdir(tmp_path / "run").read_origin()["about"]["metrics"])[0] == "kid_digits"


@pytest.mark.parametrize(
    ("there", "here", "told"),
    [
        ({"prune.rounds": 3}, {"prune.rounds": 2}, r"prune.rounds is 3 there and 2 here \(allowed is what adds rounds"),
        ({"prune.schedule": "cubic"}, {"prune.schedule": "cubic", "prune.rounds": 4}, "prune.rounds is 3 there and 4"),
        ({"prune.sparsities": (0.5, 0.9)}, {"prune.sparsities": (0.5, 0.8, 0.9)}, "prune.sparsities is"),
        ({}, {"prune.rate": 0.4}, "prune.rate is 0.5 there and 0.4 here"),
        ({}, {"seeds": 3}, r"seeds is 1 there and 3 here \(allowed is 1, because"),
        ({"seeds": 3}, {"seeds": 2}, r"seeds is 3 there and 2 here \(allowed is a whole number of at least 3"),
        ({"seeds": 3, "tickets_per_device": 2}, {"seeds": 4, "tickets_per_device": 2}, "would change the groups"),
        ({"eval.metrics": ("fd",)}, {"eval.metrics": ("fd", "kid")}, "allowed is some order of fd"),
        ({}, {"tolerance": 0.2, "train.steps": 13}, "config: train.steps is 12 there and 13 here; give"),
    ],
)
def test_what_would_change_the_past_is_refused_with_the_field_and_nothing_is_written(run, tmp_path, there, here, told):
    place = Workdir(tmp_path / "run")
    there, here = run.config(**there), run.config(**here)
    there.eval.features = here.eval.features = "digits"
    place.create(config_lib.to_dict(there), config_lib.missing_values(there))
    before = digests(place.path)
    with pytest.raises(UserError, match=told):
        runs.run(here, place.path)
    assert digests(place.path) == before


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ({"prune.sparsities": (0.5, 0.8)}, {"prune.sparsities": (0.5, 0.8, 0.9)}),
        ({"prune.rounds": 2}, {"prune.rounds": 3, "tolerance": 0.3}),
        ({"seeds": 2}, {"seeds": 4, "confidence": 0.9}),
        ({"eval.metrics": ()}, {"eval.metrics": ("fd",)}),
        ({}, {"train.on_divergence": "skip_round"}),
    ],
)
def test_what_changes_no_round_that_is_there_is_taken_up(run, there, here):
    assert config_lib.refused(*(config_lib.to_dict(run.config(**each)) for each in (there, here))) == ""


@pytest.mark.slow
def test_a_kill_between_the_old_verdict_and_the_new_one_leaves_a_run_that_goes_on(run, tmp_path, monkeypatch):
    path, place = tmp_path / "run", Workdir(tmp_path / "run")
    run(path, **{"prune.rounds": 1})
    for name in ("replace_config", "write_verdict"):
        with monkeypatch.context() as patch:

            def die(*_):
                raise Killed

            patch.setattr(Workdir, name, die)
            with pytest.raises(Killed):
                run(path, tolerance=0.5, **{"prune.rounds": 2})
        assert not place.is_finished
        rounds = place.read_config()["prune"]["rounds"]
        assert len(place.read_rounds()) == rounds + 1 == (2 if name == "replace_config" else 3)
    run(path, tolerance=0.5, **{"prune.rounds": 2})
    run(tmp_path / "whole", tolerance=0.5, **{"prune.rounds": 2})
    assert_equal_runs(path, tmp_path / "whole")


@pytest.mark.slow
def test_more_seeds_and_rounds_are_those_of_a_run_that_had_them_from_the_start(run, tmp_path):
    run(tmp_path / "later", seeds=2, **{"prune.rounds": 1})
    run(tmp_path / "later", seeds=3, confidence=0.9, **{"prune.rounds": 2})
    run(tmp_path / "whole", seeds=3, confidence=0.9, **{"prune.rounds": 2})
    for name in ("", "seed_0", "seed_1", "seed_2"):
        assert untimed_rounds(tmp_path / "later" / name) == untimed_rounds(tmp_path / "whole" / name)
    verdicts = [Workdir(tmp_path / name).read_verdict() for name in ("later", "whole")]
    assert verdicts[0] == verdicts[1] and verdicts[0]["seeds"] == [0, 1, 2]


@pytest.mark.slow
def test_controls_follow_their_run(run, tmp_path):
    parent, control = tmp_path / "run", tmp_path / "control"
    branch = {"experiment": "branch", "branch.of": str(parent), "rewind_step": 0.0}
    run(parent, **{"prune.rounds": 1})
    run(control, **branch)
    run(parent, **{"prune.rounds": 2})
    run(control, **branch)
    run(tmp_path / "whole", **branch)
    assert untimed_rounds(control) == untimed_rounds(tmp_path / "whole") and len(untimed_rounds(control)) == 3


@pytest.mark.slow
def test_a_transfer_refuses_other_masks_than_those_that_it_began_with(run, tmp_path):
    parent, transfer = tmp_path / "run", {"experiment": "transfer", "transfer.of": str(tmp_path / "run")}
    run(parent, **{"prune.rounds": 1})
    run(tmp_path / "there", rewind_step=0.0, **transfer)
    before = digests(tmp_path / "there")
    shutil.rmtree(parent)
    run(parent, **{"prune.rounds": 1, "prune.score": "random"})
    with pytest.raises(UserError, match="the ticket of round 1 is another one than when this run began"):
        run(tmp_path / "there", rewind_step=0.0, **transfer)
    after = digests(tmp_path / "there")
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_states_that_somebody_has_removed_are_named_when_more_rounds_are_asked_for(run, tmp_path):
    run(tmp_path / "run", **{"prune.rounds": 1})
    shutil.rmtree(tmp_path / "run" / "snapshots")
    before = digests(tmp_path / "run")
    with pytest.raises(UserError, match="prune.rounds is 1 there and 2 here, but snapshots are gone"):
        run(tmp_path / "run", **{"prune.rounds": 2})
    assert digests(tmp_path / "run") == before
