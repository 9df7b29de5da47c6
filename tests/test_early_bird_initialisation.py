"""Searches whose masks hardly move from those of the initialisation, and configs that are refused before any."""

import numpy as np
import pytest
from conftest import finish as finish_run
from early_bird_runs import CHANNELS, LEVELS, STOPS, Kept, configured, kept_channels, search_file

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.pruning import channels
from jaxtickets.pruning.early_bird import emergence
from jaxtickets.runs import Run, Setup

SLOW = {"model.width": 8, "optimizer.learning_rate": 1e-4, "rewind": "none", "early_bird.threshold": 0.1}
ASKS = {**CHANNELS, **SLOW, "early_bird.moved": 0.5}


@pytest.fixture(scope="module")
def finish(tmp_path_factory):
    """`finish(setup, path)`: `(run, verdict)`."""

    def run(setup, path=None):
        return finish_run(setup, path or tmp_path_factory.mktemp("run") / "run")

    return run


@pytest.fixture(scope="module")
def slow(quick_runs, data_directory):
    """`slow(**changes)`: setups of a training that moves little, with random scales unless the changes say another."""
    base = Setup(configured(data_directory, **ASKS, **{"model.scale_init": "normal"}))
    base.programs = Kept(base.programs)

    def make(**changes):
        one = Setup(configured(data_directory, **{**ASKS, "model.scale_init": "normal", **changes}), like=base)
        one.programs = base.programs  # How scales start is no part of the step.
        return one

    return make


def test_masks_of_random_scales_are_alike_at_once_and_are_no_ticket(slow, finish, capsys):
    run, verdict = finish(slow())
    found, (dense, row) = search_file(run, 1), run.place.read_rounds()
    assert (found["steps"], found["emerged"], found["least_moved"]) == (list(STOPS), None, 0.5)
    assert max(found["moved"]) < 0.2
    assert emergence(np.array(found["distances"]), 3, 0.1) == 2  # As soon as there are three masks.
    assert (row["sparsity"], row["emergence_epoch"], row["moved"]) == (0, None, None)
    assert row["fd_digits"] == dense["fd_digits"] and verdict["winning_round"] is None
    warning, message = (line for line in capsys.readouterr().err.splitlines() if "config.model.scale_init" in line)
    for part in ("scale_init='normal' with config.prune.score='gamma'", "late or not at all", "moved=0.5", "='ones'"):
        assert part in warning
    most = int(np.argmax(found["moved"][2:])) + 2
    assert message.partition("jaxtickets: ")[2] == (
        "round 1: no early-bird ticket within 8 steps: the masks are alike, but too near the initialisation: at step "
        f"{found['steps'][most]} {found['from_start'][most]:.2f} of their channels differ from the mask of step 0, "
        f"{found['moved'][most]:.2f} of a random mask's distance where they differ least "
        "(config.early_bird.moved=0.5); so the dense network trains on; scales that start alike "
        "(config.model.scale_init='ones') or "
        "config.prune.score='filter_change' or 'gamma_taylor' or a longer search (config.early_bird.until) may find "
        "one; config.early_bird.moved=0 takes them all the same"
    )


def test_scales_that_start_alike_give_a_ticket_of_the_training(slow, finish, capsys):
    run, _ = finish(slow(**{"model.scale_init": "ones"}))
    found, row = search_file(run, 1), run.place.read_rounds()[1]
    ticket = found["emerged"]
    assert row["moved"] == found["moved"][ticket] >= 0.5
    assert 1 - row["flops_effective"] / row["flops_dense"] >= LEVELS[1]
    error = capsys.readouterr().err
    epoch, step = found["epochs"][ticket], found["steps"][ticket]
    assert (
        f"round 1: the ticket has emerged in epoch {epoch:.3g}, after {step} steps; {found['from_start'][ticket]:.2f} "
        f"of its channels differ from the mask of step 0 (a random mask: {found['chance'][ticket]:.2f})\n"
    ) in error
    assert "scale_init" not in error


def test_masks_of_the_initialisation_can_be_asked_for(slow, finish, capsys):
    run, _ = finish(slow(**{"early_bird.moved": 0.0}))
    assert search_file(run, 1)["emerged"] == 2
    assert run.place.read_rounds()[1]["moved"] < 0.2
    assert "a ticket may be nothing but these numbers (config.early_bird.moved=0)" in capsys.readouterr().err


def test_a_search_that_fails_on_masks_of_the_initialisation_says_what_to_do(slow, finish, tmp_path):
    changes = {"early_bird.on_no_early_bird": "fail"}
    for score, advice in (
        ("filter_l1", "config.prune.score='filter_change' or a longer search"),
        ("filter_l2", "config.prune.score='filter_change' or a longer search"),
    ):
        with pytest.raises(UserError, match="too near the initialisation") as caught:
            finish(slow(**changes, **{"prune.score": score}), tmp_path / score)
        assert f"; {advice} (config.early_bird.until) may find one; config.early_bird.moved=0" in str(caught.value)
    weights = {"prune.structure": "weight", "prune.score": "magnitude", "prune.target": "sparsity"}
    with pytest.raises(UserError, match="of their weights differ from the mask of step 0") as caught:
        finish(slow(**changes, **weights), tmp_path / "weights")
    assert "; a longer search (config.early_bird.until) may find one; config.early_bird.moved=0" in str(caught.value)


def assert_keeps_highest(mask, scores):
    """A channel mask keeps the highest scores, the first of equal ones."""
    order = np.argsort(-np.float32(scores), kind="stable")
    np.testing.assert_array_equal(mask, np.isin(np.arange(mask.size), order[: mask.sum()]))


@pytest.mark.parametrize("score", ["filter_change", "gamma_taylor"])
def test_a_search_can_go_by_change_and_by_gradient(slow, finish, monkeypatch, score):
    options = {"prune.score_batches": 2} if score == "gamma_taylor" else {}
    drawn = []
    pruned = Run.pruned

    def noted(self, round_, masks, state):
        drawn.append((int(state.step), state, pruned(self, round_, masks, state)))
        return drawn[-1][-1]

    monkeypatch.setattr(Run, "pruned", noted)
    run, _ = finish(slow(**{"prune.score": score, "early_bird.threshold": 1e-9, **options}))
    assert [step for step, *_ in drawn] == [0, *STOPS]
    names = run.networks.axis_names.params
    for step, state, masks in drawn:
        kept, after = kept_channels(run, masks), mask_lib.named_leaves(state.params)
        if score == "filter_change":
            before = mask_lib.named_leaves(run.initial_state.params)
            changes = np.abs(after["generator/up_8/conv/kernel"] - before["generator/up_8/conv/kernel"])
            scores = changes.mean(axis=(0, 1, 2))
            assert not scores.any() if step == 0 else scores.all()
            assert_keeps_highest(kept["generator"]["up_8"], scores)
        else:
            batches = [run.setup.scoring_batch(state, run.dense_masks, i) for i in range(2)]
            scores = channels.gamma_taylor(state.params, names, state.batch_stats, run.setup.losses, batches)
            assert_keeps_highest(kept["discriminator"]["down_8"], scores["discriminator"]["down_8"])
            # Without a batch norm, channels go by their filters.
            kernel = after["discriminator/down_16/conv/kernel"]
            assert_keeps_highest(kept["discriminator"]["down_16"], np.abs(kernel).mean(axis=(0, 1, 2)))


# Levels that are refused before anything is trained.

AE = {"game": "ae_digits", "prune.structure": "channel", "prune.target": "sparsity"}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"early_bird.until": 5.0},
            ["config.early_bird.until=5.0", "at least 6 steps", "queue=3 masks that are 2 steps apart", "5 of 12"],
        ),
        *(
            (
                {**AE, "prune.score": score},
                [
                    f"config.prune.score={score!r}: allowed are filter_l1, filter_l2, filter_change with config.model",
                    "'conv_ae', which has no batch norm",
                ],
            )
            for score in ("gamma", "gamma_taylor")
        ),
        (
            {**AE, "prune.score": "filter_l1", "prune.sparsities": (0.5, 0.95)},
            ["config.prune: 0.95 can't be had", "of each of", "names must stay; allowed is at most 0."],
        ),
        (
            {**CHANNELS, "prune.sparsities": (0.5, 0.999)},
            ["config.prune: 0.999 can't be had", "0.10% of the FLOPs can't be reached: ", "% are left when"],
        ),
    ],
)
def test_impossible_levels_are_refused_before_anything_is_trained(data_directory, changes, parts):
    config = configured(data_directory, **changes)
    config_lib.validate(config, 1)
    with pytest.raises(UserError) as caught:
        Setup(config)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"experiment": "at_init", "prune.score": "filter_change"},
            "config.prune.score='filter_change': allowed is random, .*with config.experiment='at_init'",
        ),
        ({"early_bird.moved": 1.5}, "config.early_bird.moved=1.5: allowed is a number from 0 to 1"),
        ({"early_bird.moved": -0.1}, "config.early_bird.moved=-0.1: allowed is a number from 0 to 1"),
        (
            {"prune.score": "gamma_taylor", "early_bird.gamma_penalty": 0.1},
            "config.early_bird.gamma_penalty=0.1: allowed is 0.0 with a config.prune.score other than 'gamma'",
        ),
        ({"prune.score_batches": 3}, "config.prune.score_batches=3: allowed is 10 with .*gamma_taylor"),
        (
            {"prune.structure": "weight", "prune.target": "sparsity", "prune.score": "gamma_taylor"},
            "config.prune.score='gamma_taylor': allowed is magnitude",
        ),
        (
            {"prune.structure": "weight", "prune.target": "sparsity", "prune.score": "filter_change"},
            "config.prune.score='filter_change': allowed is magnitude",
        ),
    ],
)
def test_what_does_not_go_with_a_score_or_a_search_is_refused(data_directory, changes, message):
    changes = {**CHANNELS, **changes}
    config = configured(data_directory, changes.pop("experiment", "early_bird"), **changes)
    with pytest.raises(UserError, match=message):
        config_lib.validate(config, 1)
