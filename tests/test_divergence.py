"""Training that diverges: seen in its step, and what a run does then, also when it is killed."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import Killed, finish, open_run, tiny, untimed_rounds, untimed_scalars, without_references

from jaxtickets import files, finite, models, report, train
from jaxtickets import masks as mask_lib
from jaxtickets.devices import device_count, replicate
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.objectives import Objective, Player
from jaxtickets.runs import Setup, diverging, go_back, judge, judge_seeds, nested
from jaxtickets.workdir import Workdir

# What a train step reports: a network whose loss is bad in the one step that sees white images.


class Numbers(nn.Module):
    """A bias and a kernel."""

    @nn.compact
    def __call__(self, x, train, labels=None):
        return x + self.param("bias", nn.initializers.ones, (3,)) + self.param("kernel", nn.initializers.ones, (2, 3))


def infinite_gradient(value):
    """0, with a gradient that is infinite."""
    return jnp.sqrt(value - jax.lax.stop_gradient(value))


def reported(bad, at, steps_per_call, leaves=("bias", "kernel"), stop=8):
    """`finite.FINITE` of each program of a training whose loss is `bad(loss)` in the step after `at` steps."""

    def loss(params, batch_stats, batch):
        value = sum(jnp.square(params["net"][name]).sum() for name in leaves)
        value = jax.lax.cond(batch.images.mean() > 0, bad, lambda value: value, value)
        return value, (batch_stats, {"loss": value})

    objective = Objective({"net": models.Component(Numbers(), (3,))}, {"player": Player(("net",), loss)})
    optimizers, n = {"player": optax.sgd(0.1)}, device_count(None)
    state = jax.device_get(train.init_state(objective, optimizers, 0))
    images = np.repeat(np.array([0, 255], np.uint8), n).reshape(2 * n, 1, 1, 1)
    rows = np.array([[n if step == at else 0] for step in range(stop)], np.int32)
    moving = ("player",) if steps_per_call == 1 else train.period(objective)
    program = train.make_step(objective, optimizers, moving, steps_per_call)
    state, masks, data = replicate(state), replicate(mask_lib.ones(state.params)), replicate((images, None))
    found = []
    for _ in range(0, stop, steps_per_call):
        state, scalars = program(state, masks, data, np.broadcast_to(rows, (n, *rows.shape)))
        found += np.asarray(scalars[finite.FINITE])[:1].tolist()
    return found


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize(
    "bad",
    [lambda value: value * jnp.nan, lambda value: value + jnp.inf, lambda value: -jnp.inf * value, infinite_gradient],
    ids=["nan", "inf", "-inf", "gradient"],
)
@pytest.mark.parametrize("leaves", [("bias",), ("kernel",)], ids=["bias", "kernel"])
def test_the_first_step_with_a_loss_or_a_gradient_that_is_not_finite_is_reported(bad, at, leaves):
    assert reported(bad, at, 1, leaves)[: at + 1] == [1] * at + [0]
    together = reported(bad, at, 4, leaves)
    assert together[: at // 4 + 1] == [4] * (at // 4) + [at % 4]


def test_steps_that_are_finite_are_all_reported_so():
    assert reported(lambda value: 3 * value, 2, 1) == [1] * 8
    assert reported(lambda value: 3 * value, 2, 4) == [4, 4]


def test_only_numbers_with_fractions_are_asked_whether_they_are_finite():
    assert finite.all_finite({"step": np.int32(3), "masks": np.array([True]), "weights": np.ones(2), "none": None})
    assert not finite.all_finite({"a": np.ones(2), "b": [np.array([1, np.inf], np.float32)]})


# Whole runs. Where training is to diverge, all weights become NaN before a step.

AT = 7  # The number of steps done before it; the first bad step is the one after.


class Poisoned:
    """Programs in which a training diverges in the step after `AT` steps if `when(kept weights, times before)` holds.

    left: the number of steps until the process is killed, and how often the step was done, in a list that others share.
    """

    def __init__(self, programs, when, left):
        self._programs, self._when, self._left = programs, when, left

    def get(self, step, n=1):
        program = self._programs.get(step, n)

        def run(state, masks, *rest):
            self._left[0] -= n
            if self._left[0] < 0:
                raise Killed
            kept = np.mean(np.concatenate([np.ravel(mask) for mask in jax.tree.leaves(masks)]))
            self._left[1] += step == AT
            if step == AT and self._when(kept, self._left[1] - 1):
                state = state.replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params))
            return program(state, masks, *rest)

        return run

    def step_bytes(self):
        return self._programs.step_bytes()

    def release(self):
        self._programs.release()


def sparse(kept, times):
    return kept < 0.6


def always(kept, times):
    return True


def never(kept, times):
    return False


def poison(setup, when=sparse, dies_in=10**9, times=1):
    """Lets trainings with this setup diverge until their learning rate has been lowered `times` times."""
    programs_of, left = setup.programs_of, [dies_in, 0]

    def poisoned(l1=None, rate=1.0):
        is_bad = rate > diverging.FACTOR**times
        return Poisoned(programs_of(l1, rate), when if is_bad else never, left)

    setup.programs_of = poisoned
    return setup


@pytest.fixture(scope="module")
def like(quick_runs, data_directory):
    """The setup that the others of this module share what is compiled with."""
    return Setup(tiny("ae_digits", data_directory, **{"model.name": "linear_ae", "model.image_size": 28}))


def setup_of(like, policy, **changes):
    config = like.config.copy_and_resolve_references()
    config.update_from_flattened_dict({"train.on_divergence": policy, **changes})
    return without_references(Setup(config, like=like))


def strict_json(path):
    """Every JSON file in a workdir, read by a parser that knows no NaN."""
    refuse = lambda name: pytest.fail(f"{name} in JSON")  # noqa: E731
    for file in path.rglob("*.json"):
        if "snapshots" not in file.parts and "masks" not in file.parts:
            json.loads(file.read_text(), parse_constant=refuse)
    for line in (path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_numbers_that_json_does_not_have_are_null():
    content = {"a": float("nan"), "b": [1.5, -np.inf, {"c": (np.float64("inf"), None, True, "NaN")}]}
    assert json.loads(files.json_bytes(content)) == {"a": None, "b": [1.5, None, {"c": [None, None, True, "NaN"]}]}


def test_a_run_that_stops_says_the_step_and_goes_on_in_another_way(like, tmp_path):
    path = tmp_path / "run"
    for _ in range(2):  # Entered again, it stops again.
        with pytest.raises(UserError) as error:
            finish(poison(setup_of(like, "stop")), path)
    message = str(error.value)
    assert error.value.status == 3
    assert message.startswith("training diverged: loss is nan at step 8 of round 1; the last finite state")
    assert f"of step 5, is in {path / 'snapshots' / 'last'}" in message
    assert "a lower config.optimizer.learning_rate may help" in message
    assert message.endswith("--config.train.on_divergence=lower_rate or skip_round")
    assert len(message.splitlines()) == 1
    rows = untimed_scalars(path)
    assert [row["step"] for row in rows if row["round"] == 1] == [4]
    run, _ = finish(poison(setup_of(like, "skip_round")), path)
    assert [row["diverged_step"] for row in run.place.read_rounds()] == [None, 8, 8, 8]


def test_the_dense_run_is_not_skipped(like, tmp_path):
    with pytest.raises(UserError, match="step 8 of round 0;.*on_divergence=lower_rate$"):
        finish(poison(setup_of(like, "skip_round"), when=always), tmp_path / "run")


@pytest.fixture(scope="module")
def skipped(like, tmp_path_factory):
    """A run whose rounds 2 and 3 have diverged."""
    return finish(
        poison(setup_of(like, "skip_round"), when=lambda kept, times: kept < 0.4),
        tmp_path_factory.mktemp("skipped") / "run",
    )


def test_a_skipped_round_has_no_metrics_and_never_wins(skipped):
    run, verdict = skipped
    rows = run.place.read_rounds()
    assert [row["diverged_step"] for row in rows] == [None, None, 8, 8]
    assert [row["reconstruction_error"] is None for row in rows] == [False, False, True, True]
    assert [row["sparsity"] for row in rows] == pytest.approx([0, 0.5, 0.75, 0.875], abs=1e-3)
    assert verdict["winning_round"] in (None, 1)
    assert "round 2 at step 8, round 3 at step 8" in verdict["message"]
    assert sorted(run.place.list_samples()) == [0, 1]
    assert not run.place.weights(2).exists()
    strict_json(run.place.path)


def test_the_masks_after_a_skipped_round_are_of_its_last_finite_state(skipped, like):
    run, _ = skipped
    before = run.saved_masks(2)
    # The round once more, without poison, up to the step before.
    setup = setup_of(like, "stop")
    state, masks = train.rewind(run.rewind_point, before), replicate(before)
    state = replicate(state)
    for step in range(int(run.rewind_point.step), AT):
        _, *batch = next(iter(setup.batches([run.seed], [range(step, step + 1)])))
        state, _ = setup.programs.get(step)(state, masks, *batch, None)
    weights = jax.device_get(jax.tree.map(lambda leaf: leaf[0], state.params))
    kept = {
        path: np.abs(leaf)[mask_lib.named_leaves(before)[path]]
        for path, leaf in mask_lib.named_leaves(weights).items()
        if path in mask_lib.named_leaves(before)
    }
    least = np.sort(np.concatenate([values for values in kept.values()]))
    threshold = least[len(least) // 2]
    after = mask_lib.named_leaves(run.saved_masks(3))
    for path, values in kept.items():
        np.testing.assert_array_equal(after[path][mask_lib.named_leaves(before)[path]], values >= threshold)


def test_tables_and_pages_show_what_has_diverged(skipped):
    run, _ = skipped
    report.build(run.place.path)
    lines = report.summary(run.place.path).splitlines()
    assert sum(line.endswith("diverged at step 8") for line in lines) == 2
    assert run.place.report_page.read_text().count("diverged at step 8</td>") == 2


KILLS = [
    (policy, times, 12 + steps)
    for policy, times in (("skip_round", 1), ("lower_rate", 1), ("lower_rate", 2))
    for steps in (3, 7, 8)
]
QUICK = [("skip_round", 1, 20), ("lower_rate", 1, 20)]


@pytest.mark.parametrize(
    ("policy", "times", "dies_in"),
    [pytest.param(*kill, marks=() if kill in QUICK else pytest.mark.slow) for kill in KILLS],
)
def test_a_killed_run_ends_with_the_same_bits(like, tmp_path, policy, times, dies_in):
    changes = {"prune.rounds": 2, "rewind": "learning_rate"}
    whole, _ = finish(poison(setup_of(like, policy, **changes), times=times), tmp_path / "whole")
    with pytest.raises(Killed):
        finish(poison(setup_of(like, policy, **changes), dies_in=dies_in, times=times), tmp_path / "cut")
    cut, _ = finish(poison(setup_of(like, policy, **changes), times=times), tmp_path / "cut")
    assert untimed_rounds(cut.place.path) == untimed_rounds(whole.place.path)
    ours, theirs = ([{**row, "seconds": 0} for row in run.place.read_scalars() if row["split"]] for run in (cut, whole))
    assert ours == theirs
    for ours, theirs in zip(jax.tree.leaves(cut.trained), jax.tree.leaves(whole.trained), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_round_starts_again_with_half_the_learning_rate(like, tmp_path):
    setup = poison(setup_of(like, "lower_rate", **{"prune.rounds": 1}), times=2)
    run, _ = finish(setup, tmp_path / "run")
    assert [row["learning_rate_factor"] for row in run.place.read_rounds()] == [None, 0.25]
    halved = [row for row in run.place.read_scalars(1) if row["split"] == diverging.SPLIT]
    assert [(row["step"], row["learning_rate_factor"]) for row in halved] == [(8, 0.5), (8, 0.25)]
    config = like.config.copy_and_resolve_references()
    config.optimizer.learning_rate *= 0.25
    other = Setup(config, like=like)
    state, masks = replicate(train.rewind(run.rewind_point, run.saved_masks(1))), replicate(run.saved_masks(1))
    for step in range(int(run.rewind_point.step), 12):
        _, *batch = next(iter(other.batches([run.seed], [range(step, step + 1)])))
        state, _ = other.programs.get(step)(state, masks, *batch, None)
    for ours, theirs in zip(jax.tree.leaves(run.trained.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(ours, theirs[0], rtol=1e-5, atol=1e-7)
    assert "learning rate x 0.25" in report.summary(run.place.path)


def test_a_run_that_has_lowered_the_rate_three_times_stops(like, tmp_path):
    with pytest.raises(UserError, match="at step 8 of round 1 with 0.125 times the learning rate; .* may help$"):
        finish(poison(setup_of(like, "lower_rate"), times=9), tmp_path / "run")
    rows = [row for row in Workdir(tmp_path / "run").read_scalars(1) if row["split"] == diverging.SPLIT]
    assert [row["learning_rate_factor"] for row in rows] == [0.5, 0.25, 0.125]


def test_the_dense_run_can_be_lowered(like, tmp_path):
    setup = poison(setup_of(like, "lower_rate", **{"experiment": "dense"}), when=always)
    run, _ = finish(setup, tmp_path / "run")
    assert run.place.read_rounds()[0]["learning_rate_factor"] == 0.5


def test_a_metric_that_is_not_finite_is_a_divergence_at_the_last_step(like, tmp_path):
    setup = setup_of(like, "skip_round", **{"prune.rounds": 2})
    measured, evaluate = [], setup.evaluator.evaluate

    def second_is_infinite(*arguments):
        measured.append(evaluate(*arguments))
        return measured[-1] if len(measured) != 2 else dict.fromkeys(measured[-1], np.inf)

    setup.evaluator = setup.evaluator._replace(evaluate=second_is_infinite)
    run, verdict = finish(setup, tmp_path / "run")
    rows = run.place.read_rounds()
    assert [row["diverged_step"] for row in rows] == [None, 12, None]
    assert rows[1]["reconstruction_error"] is None
    assert verdict["winning_round"] in (None, 2)
    strict_json(run.place.path)


def test_a_saved_state_is_always_finite(like, tmp_path):
    setup = poison(setup_of(like, "stop", **{"train.checkpoint_every": 8, "train.log_every": 100}))
    with pytest.raises(UserError, match="step 8 of round 1; no state of this round has been saved"):
        finish(setup, tmp_path / "run")
    with open_run(setup, tmp_path / "run") as run:
        last = run._last.restore(run.initial_state, run.dense_masks)
        assert finite.all_finite(last.state)
        assert last.round == 0


# Trainings within a round: the search for an early-bird ticket, and the smaller network.


@pytest.fixture(scope="module")
def searching(like, data_directory):
    """`searching(policy, **changes)`: a setup of early-bird tickets in single weights, or with the changes."""
    changes = {"model.name": "linear_ae", "model.image_size": 28, "experiment": "early_bird", "prune.rounds": 1}
    options = {"early_bird.every": 2, "early_bird.until": 9, "early_bird.queue": 2, "early_bird.threshold": 0.99}
    options |= {"early_bird.moved": 0.0, "rewind_step": 0}

    def make(policy, **more):
        given = {**changes, **options, "train.on_divergence": policy, **more}
        config = tiny("ae_digits", data_directory, **given)
        return without_references(Setup(config, like=like))

    return make


def in_the_search(kept, times):
    return times == 1  # The dense run was the first to do that step.


def test_a_round_whose_search_diverges_is_skipped_and_can_be_done_again(searching, tmp_path):
    late = {"early_bird.threshold": 1e-9}
    run, _ = finish(poison(searching("skip_round", **late), when=in_the_search), tmp_path / "run")
    rows = run.place.read_rounds()
    assert [row["diverged_step"] for row in rows] == [None, 8]
    assert (rows[1]["sparsity"], rows[1]["reconstruction_error"], rows[1]["emergence_epoch"]) == (0, None, None)
    report.build(run.place.path)
    setup = searching("skip_round", **late)
    go_back(setup.config, tmp_path / "run", 1)
    again, _ = finish(setup, tmp_path / "run")
    whole, _ = finish(searching("skip_round", **late), tmp_path / "whole")
    rows = untimed_rounds(again.place.path)
    assert [row.pop("diverged_step") for row in rows] == ["", ""]
    assert rows == untimed_rounds(whole.place.path)


def test_a_search_starts_again_with_half_the_learning_rate_and_the_round_keeps_it(searching, tmp_path):
    late = {"early_bird.threshold": 1e-9}
    whole, _ = finish(poison(searching("lower_rate", **late), when=in_the_search), tmp_path / "run")
    assert whole.place.read_rounds()[1]["learning_rate_factor"] == 0.5
    assert whole.place.read_search(1)[0]["steps"] == [2, 4, 6, 8]
    with pytest.raises(Killed):
        finish(poison(searching("lower_rate", **late), when=in_the_search, dies_in=12 + 8 + 6), tmp_path / "cut")
    cut, _ = finish(searching("lower_rate", **late), tmp_path / "cut")
    assert untimed_rounds(cut.place.path) == untimed_rounds(whole.place.path)


def test_a_round_that_has_diverged_has_a_control(skipped, like, tmp_path):
    changes = {"experiment": "branch", "branch.of": str(skipped[0].place.path), "branch.kind": "random_pruning"}
    setup = setup_of(like, "stop", **changes, **{"rewind_step": 0, "prune.rounds": 20, "prune.rate": 0.2})
    run, _ = finish(setup, tmp_path / "run")
    ours, theirs = run.place.read_rounds(), skipped[0].place.read_rounds()
    assert [row["sparsity"] for row in ours] == [row["sparsity"] for row in theirs]
    assert all(row["reconstruction_error"] > 0 for row in ours)


@pytest.mark.parametrize("policy", ["skip_round", "lower_rate"])
@pytest.mark.parametrize("experiment", ["transfer", "branch"])
def test_a_ticket_elsewhere_and_a_narrow_network_diverge_like_a_round(
    intact, like, tmp_path, monkeypatch, policy, experiment
):
    changes = {"experiment": experiment, f"{experiment}.of": str(intact.path)}
    if experiment == "branch":
        changes["branch.kind"] = "dense_short"
        monkeypatch.setattr(nested, "Setup", lambda *args, **options: poison(Setup(*args, **options), when=always))
    run, verdict = finish(poison(setup_of(like, policy, **changes)), tmp_path / "run")
    row = run.place.read_rounds()[1]
    if policy == "skip_round":
        assert (row["diverged_step"], row["reconstruction_error"]) == (8, None)
        assert verdict["winning_round"] is None
    else:
        assert row["learning_rate_factor"] == 0.5 and row["reconstruction_error"] > 0
    report.build(run.place.path)
    strict_json(run.place.path)


@pytest.fixture(scope="module")
def intact(like, tmp_path_factory):
    """The workdir of a run that has not diverged."""
    run, _ = finish(setup_of(like, "stop", **{"prune.rounds": 1}), tmp_path_factory.mktemp("finite") / "run")
    return run.place


def test_a_damaged_start_of_a_chained_round_is_named_with_what_makes_it_again(like, tmp_path):
    path, changes = tmp_path / "run", {"prune.rounds": 2, "rewind": "learning_rate"}
    with pytest.raises(Killed):
        finish(poison(setup_of(like, "lower_rate", **changes), dies_in=20, when=never), path)
    for part in (path / "snapshots/start").rglob("*"):
        if part.is_file() and part.name != "checksum.json":
            part.write_bytes(b"")
    with pytest.raises(DamagedError, match="snapshots/start: is damaged .*; the same command with --from_round=0"):
        finish(setup_of(like, "lower_rate", **changes), path)
    Workdir(path).discard_from(0)
    again, _ = finish(setup_of(like, "lower_rate", **changes), path)
    whole, _ = finish(setup_of(like, "lower_rate", **changes), tmp_path / "whole")
    assert untimed_rounds(path) == untimed_rounds(whole.place.path)


@pytest.mark.parametrize("policy", ["skip_round", "lower_rate"])
def test_the_training_of_a_smaller_network_that_diverges(quick_runs, data_directory, tmp_path, monkeypatch, policy):
    compacted = Setup.compacted
    monkeypatch.setattr(Setup, "compacted", lambda self, kept: poison(compacted(self, kept), when=always))
    channels = {"prune.structure": "channel", "prune.score": "filter_l1", "prune.rounds": 1}
    changes = {"experiment": "at_init", "rewind_step": 0, "train.on_divergence": policy, **channels}
    run, verdict = finish(without_references(Setup(tiny("ae_digits", data_directory, **changes))), tmp_path / "run")
    row = run.place.read_rounds()[1]
    if policy == "skip_round":
        assert (row["diverged_step"], row["reconstruction_error"]) == (8, None)
        assert verdict["winning_round"] is None
        assert run.place.compact(1).read_verdict()["message"] == "The training diverged at step 8."
    else:
        assert row["learning_rate_factor"] == 0.5
        assert row["reconstruction_error"] > 0
    report.build(run.place.path)
    strict_json(run.place.path)


# Several seeds.


def judged_rows(*values):
    """Rows of a dense run and one round, per seed; None has diverged at step 7."""
    return [
        row
        for seed, value in enumerate(values)
        for row in (
            {"seed": seed, "round": 0, "sparsity": 0.0, "m": 1.0, "diverged_step": None},
            {"seed": seed, "round": 1, "sparsity": 0.5, "m": value, "diverged_step": None if value else 7},
        )
    ]


def test_a_round_that_has_diverged_in_a_seed_is_not_tested_and_its_mean_is_that_of_the_others():
    verdict = judge_seeds(judged_rows(0.5, 0.6, None, 0.7), "m", "M", 0.1, 0.95)
    round_ = verdict["rounds"][1]
    assert round_["mean"] == pytest.approx(0.6)
    assert round_["diverged"] == [2]
    assert round_["wins"] is None
    assert round_["p_value"] is None
    assert verdict["winning_round"] is None
    assert "round 1 of seed 2 at step 7" in verdict["message"]
    assert judge_seeds(judged_rows(0.5, 0.6, 0.55, 0.7), "m", "M", 0.1, 0.95)["winning_round"] == 1
    nothing = judge_seeds(judged_rows(None, None), "m", "M", 0.1, 0.95)["rounds"][1]
    assert (nothing["mean"], nothing["ratio"], nothing["diverged"]) == (None, None, [0, 1])


def test_the_mean_over_seeds_leaves_out_those_that_have_diverged():
    rows = report.reading.mean_rows(judged_rows(0.5, 0.7, None))
    assert rows[1]["m"] == pytest.approx(0.6)
    assert rows[1]["diverged_seeds"] == [2]
    assert report.table.round_mark(rows[1], None) == "diverged in seed 2"


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf")])
def test_a_round_without_a_finite_metric_never_wins(value, better):
    rows = [{"round": 0, "sparsity": 0.0, "m": 1.0}, {"round": 1, "sparsity": 0.5, "m": value}]
    verdict = judge(rows, "m", "M", 0.1, better=better)
    assert verdict["winning_round"] is None
    assert judge([rows[0] | {"m": None, "diverged_step": 3}], "m", "M", 0.1)["winning_round"] is None
