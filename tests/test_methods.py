"""Methods that find tickets, in whole small runs: exact sparsities, the start of each round, resuming."""

from contextlib import closing

import chex
import jax
import numpy as np
import pytest
from conftest import Killed, assert_masked, finish, kill_after, moments, open_run, tiny, untimed_rounds

from jaxtickets import masks as mask_lib
from jaxtickets import pruning, snapshots
from jaxtickets.experiments import METHODS
from jaxtickets.pruning import SCORES
from jaxtickets.runs import Run, Setup
from jaxtickets.workdir import Workdir

GAMES = ("gan_digits", "vae_digits", "ae_digits")
FINDING = ("imp", "one_shot", "at_init", "gradual", "set", "rigl")
WAYS = [
    *(("imp", score.name) for score in SCORES.values() if METHODS["imp"].scores(score)),
    ("one_shot", "magnitude"),
    *(("at_init", score.name) for score in SCORES.values() if METHODS["at_init"].scores(score)),
    *((experiment, "magnitude") for experiment in ("gradual", "set", "rigl")),
]
# Every way to find tickets runs on every game; all but these in the slow tests.
ALWAYS = {
    "gan_digits": [way for way in WAYS if way[0] != "imp" or way[1] in ("magnitude", "movement")],
    "vae_digits": [("imp", "movement"), ("at_init", "synflow"), ("set", "magnitude")],
    "ae_digits": [("at_init", "grasp"), ("one_shot", "magnitude"), ("gradual", "magnitude")],
}
SPARSITIES, STEPS, UPDATE_STEPS = (0.5, 0.8), 12, [2, 4, 6, 8]


class Recorded(Run):
    """A run that notes what each round starts from and ends with, and every change of masks.

    `dies_before(round_, step)` says before which of the changes its process ends.
    """

    def __init__(self, setup, path, dies_before=lambda round_, step: False):
        super().__init__(setup, Workdir(path))
        self.starts, self.ends, self.changes, self._dies_before = [], [], [], dies_before

    def round(self, round_, masks, start, update=None):
        def recorded(step, state, before):
            if self._dies_before(round_, step):
                raise Killed
            after = update(step, state, before)
            self.changes.append((round_, step, before, after))
            return after

        self.starts.append(start)
        super().round(round_, masks, start, update and recorded)
        self.ends.append(self.trained)


@pytest.fixture(scope="module")
def setup(quick_runs, base, data_directory):
    """`setup(game, experiment, **changes)`; all setups of a game share one compiled program.

    Those that prune by movement, or other components, have programs of their own.
    """
    bases = {}

    def make(game, experiment="imp", **changes):
        changes = {"prune.sparsities": SPARSITIES, "train.checkpoint_every": 0, **changes}
        if changes.get("prune.score") in ("snip", "grasp"):
            changes["prune.score_batches"] = 2
        if experiment in ("gradual", "set", "rigl"):
            changes["prune.update_every"] = float(UPDATE_STEPS[0])
        config = tiny(game, data_directory, experiment=experiment, **changes)
        key = game, changes.get("prune.components"), config.prune.score == "movement"
        if key not in bases:
            bases[key] = Setup(config, like=base(game))
        return Setup(config, like=bases[key])

    return make


@pytest.fixture(scope="module")
def finished(setup, tmp_path_factory):
    """`finished(game, experiment, **changes)`: the recorded run, done only once."""
    runs = {}

    def run(game, experiment, **changes):
        key = (game, experiment, *sorted(changes.items()))
        if key not in runs:
            with Recorded(setup(game, experiment, **changes), tmp_path_factory.mktemp(experiment) / "run") as one:
                METHODS[experiment].recipe(one)
                one.finish()
            runs[key] = one
        return runs[key]

    return run


def assert_started_from(start, masks, point, players=None):
    """Parameters, batch statistics and moments are those of `point` under the masks, bit for bit."""
    for player in players or point.opt_state:
        for ours, theirs in zip(moments(start, player)[0], moments(point, player)[0], strict=True):
            assert_masked(ours, {name: masks[name] for name in ours}, theirs)
            for component in ours:
                assert_masked(start.params[component], masks[component], point.params[component])
                chex.assert_trees_all_equal(start.batch_stats[component], point.batch_stats[component])
        assert moments(start, player)[1] == moments(point, player)[1]


@pytest.mark.parametrize(
    ("game", "experiment", "score"),
    [pytest.param(game, *way, marks=[] if way in ALWAYS[game] else pytest.mark.slow) for game in GAMES for way in WAYS],
)
def test_every_method_prunes_exactly_what_was_asked(finished, game, experiment, score):
    run = finished(game, experiment, **{"prune.score": score})
    rows = run.place.read_rounds()
    assert len(rows) == 1 + len(SPARSITIES)
    for row, sparsity in zip(rows, (0, *SPARSITIES), strict=True):
        weights, kept = mask_lib.counts(run.saved_masks(row["round"]))
        assert weights - kept == round(sparsity * weights)
        assert row["sparsity"] == pytest.approx(round(sparsity * weights) / weights, abs=1e-12)
    masks = run.saved_masks(len(SPARSITIES))
    assert_masked(run.trained.params, masks)
    for player in run.trained.opt_state:
        for tree in moments(run.trained, player)[0]:
            assert_masked(tree, {name: masks[name] for name in tree})
    # Weights that have grown start at zero, and may have had no gradient since.
    leaves = mask_lib.named_leaves(run.trained.params)
    for path, mask in mask_lib.named_leaves(masks).items() if experiment not in ("set", "rigl") else ():
        assert np.all(leaves[path][mask] != 0), path


def test_all_methods_and_all_scores_of_weights_are_tested():
    # Early-bird tickets, scores of channels and the methods that find no tickets have files of their own.
    assert set(METHODS) == {*FINDING, "early_bird", "dense", "branch", "transfer", "ticket"}
    assert {experiment for experiment, _ in WAYS} == set(FINDING)
    assert {score for _, score in WAYS} == {score.name for score in SCORES.values() if score.weights}


@pytest.mark.parametrize("rewind", ["state", "weights", "learning_rate", "none"])
def test_a_round_starts_from_what_the_kind_of_rewinding_says(finished, rewind):
    run = finished("gan_digits", "imp", rewind=rewind)
    for round_ in (1, 2):
        start, masks, before = run.starts[round_], run.saved_masks(round_), run.ends[round_ - 1]
        point = before if rewind in ("learning_rate", "none") else run.rewind_point
        if rewind == "weights":
            point = point.replace(opt_state=run.initial_state.opt_state)
            assert {moments(start, player)[1] for player in start.opt_state} == {0}
        assert_started_from(start, masks, point)
        # Fine-tuning takes the number of steps that lie behind the rewind point, 12 - 3.
        assert int(start.step) == (12 + (round_ - 1) * 9 if rewind == "none" else 3)
        assert int(run.ends[round_].step) == (12 + round_ * 9 if rewind == "none" else 12)
    assert int(run.rewind_point.step) == 3


def test_the_discriminator_can_start_each_round_from_the_dense_runs_end(finished):
    run = finished("gan_digits", "imp", rewind_discriminator=False)
    for round_ in (1, 2):
        start, masks = run.starts[round_], run.saved_masks(round_)
        assert_started_from(start, masks, run.dense, ["discriminator"])
        assert_started_from(start, masks, run.rewind_point, ["generator"])
        assert int(start.step) == 3
    chex.assert_trees_all_equal(run.dense, run.ends[0])


def test_one_shot_masks_are_those_of_one_pruning_of_the_dense_run(finished):
    run = finished("gan_digits", "one_shot", **{"prune.score": "magnitude"})
    scores = pruning.magnitude(run.ends[0].params, run.dense_masks)
    for round_, sparsity in enumerate(SPARSITIES, start=1):
        chex.assert_trees_all_equal(run.saved_masks(round_), pruning.prune(scores, run.dense_masks, sparsity))
        assert_started_from(run.starts[round_], run.saved_masks(round_), run.rewind_point)


def test_at_init_prunes_the_initial_weights_and_trains_them_from_step_zero(finished):
    run = finished("vae_digits", "at_init", **{"prune.score": "magnitude"})
    scores = pruning.magnitude(run.initial_state.params, run.dense_masks)
    for round_, sparsity in enumerate(SPARSITIES, start=1):
        chex.assert_trees_all_equal(run.saved_masks(round_), pruning.prune(scores, run.dense_masks, sparsity))
        assert_started_from(run.starts[round_], run.saved_masks(round_), run.initial_state)
        assert int(run.starts[round_].step) == 0


@pytest.mark.parametrize("game", GAMES)
def test_gradual_pruning_follows_the_cubic_schedule_from_the_dense_network(finished, game):
    run = finished(game, "gradual", **{"prune.score": "magnitude"})
    weights = mask_lib.counts(run.dense_masks).weights
    for round_, sparsity in enumerate(SPARSITIES, start=1):
        changes = [change[1:] for change in run.changes if change[0] == round_]
        assert [step for step, *_ in changes] == UPDATE_STEPS
        assert mask_lib.counts(changes[0][1]).kept == weights
        for number, (_, before, after) in enumerate(changes, start=1):
            target = sparsity * (1 - (1 - number / len(UPDATE_STEPS)) ** 3)
            assert mask_lib.counts(after).kept == weights - round(target * weights)
            assert mask_lib.is_nested(after, before)
        chex.assert_trees_all_equal(run.saved_masks(round_), changes[-1][2])
        chex.assert_trees_all_equal(run.starts[round_], run.initial_state)


@pytest.mark.parametrize("experiment", ["set", "rigl"])
@pytest.mark.parametrize("game", GAMES)
def test_masks_change_in_training_and_each_layer_keeps_as_many_weights(finished, game, experiment):
    run = finished(game, experiment, **{"prune.score": "magnitude"})
    for round_ in range(1, 1 + len(SPARSITIES)):
        changes = [change[1:] for change in run.changes if change[0] == round_]
        assert [step for step, *_ in changes] == UPDATE_STEPS
        for _, before, after in changes:
            assert mask_lib.layer_counts(after) == mask_lib.layer_counts(before)
        assert mask_lib.hamming_distance(changes[0][1], changes[-1][2]) > 0
        chex.assert_trees_all_equal(run.saved_masks(round_), changes[-1][2])
        assert_started_from(run.starts[round_], changes[0][1], run.initial_state)


def test_the_last_update_is_made_when_masks_may_change_until_the_end(setup, tmp_path):
    one = setup("ae_digits", "gradual", **{"prune.update_until": 1.0})
    run, _ = finish(one, tmp_path / "run")
    for round_, sparsity in enumerate(SPARSITIES, start=1):
        weights, kept = mask_lib.counts(run.saved_masks(round_))
        assert weights - kept == round(sparsity * weights)


@pytest.mark.parametrize(
    ("experiment", "changes"),
    [
        *((experiment, {"prune.score": "magnitude"}) for experiment in ("gradual", "rigl")),
        ("imp", {"prune.score": "movement"}),
        ("imp", {"rewind": "none"}),
        *(
            pytest.param(*rarer, marks=pytest.mark.slow)
            for rarer in [
                ("one_shot", {"rewind": "none"}),
                ("imp", {"rewind": "learning_rate"}),
                ("imp", {"rewind_discriminator": False}),
            ]
        ),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(setup, finished, tmp_path, experiment, changes):
    every, path = {"train.checkpoint_every": 5}, tmp_path / "run"
    whole = finished("gan_digits", experiment, **changes)
    (first, second), end = (int(start.step) for start in whole.starts[1:]), int(whole.ends[1].step)
    saved, saved_later = (start // 5 * 5 + 5 for start in (first, second))
    # In each of the two sparse rounds it is killed two steps after a state has been saved.
    for steps in (12 + saved + 2 - first, end - saved + saved_later + 2 - second):
        one = setup("gan_digits", experiment, **changes, **every)
        kill_after(one, steps)
        with pytest.raises(Killed):
            finish(one, path)
    run, _ = finish(setup("gan_digits", experiment, **changes, **every), path)
    chex.assert_trees_all_equal(run.trained, whole.trained)
    for round_ in (1, 2):
        chex.assert_trees_all_equal(run.saved_masks(round_), whole.saved_masks(round_))
    for place in (run.place, whole.place):
        assert all(row[name] > 0 for row in place.read_rounds() for name in ("train_seconds", "steps_per_second"))
    assert untimed_rounds(path) == untimed_rounds(whole.place.path)


@pytest.mark.parametrize("is_updated", [False, True], ids=["before the update", "after the update"])
@pytest.mark.parametrize("experiment", ["gradual", "rigl"])
def test_a_run_resumed_at_an_update_does_it_exactly_once(setup, finished, tmp_path, experiment, is_updated):
    """It is killed right after a checkpoint at the update's step, or right after the update."""
    path, round_, due = tmp_path / "run", 1, UPDATE_STEPS[1]
    given = {"prune.score": "magnitude"}
    whole = finished("gan_digits", experiment, **given)
    theirs = [change for change in whole.changes if change[0] == round_]

    def again(**options):
        return Recorded(setup("gan_digits", experiment, **given, **{"train.checkpoint_every": due}), path, **options)

    killed = again(dies_before=lambda *when: not is_updated and when == (round_, due))
    if is_updated:
        kill_after(killed.setup, STEPS + due)
    with pytest.raises(Killed), killed:
        METHODS[experiment].recipe(killed)
    assert [change[1] for change in killed.changes] == UPDATE_STEPS[: 1 + is_updated]
    with closing(snapshots.LastState(killed.place.snapshot("last"))) as last:
        saved = last.restore(killed.initial_state, killed.dense_masks)
    assert (saved.round, int(saved.state.step)) == (round_, due)
    chex.assert_trees_all_equal(saved.masks, theirs[1][2])  # Those before the update.
    with again() as run:
        METHODS[experiment].recipe(run)
        run.finish()
    ours = [change for change in run.changes if change[0] == round_]
    assert [step for _, step, *_ in ours] == UPDATE_STEPS[1:]
    for (*_, before, after), (*_, expected_before, expected_after) in zip(ours, theirs[1:], strict=True):
        chex.assert_trees_all_equal(before, expected_before)
        chex.assert_trees_all_equal(after, expected_after)
    assert [change[1] for change in run.changes if change[0] == round_ + 1] == UPDATE_STEPS
    for number in range(1 + len(SPARSITIES)):
        chex.assert_trees_all_equal(run.saved_masks(number), whole.saved_masks(number))
    chex.assert_trees_all_equal(run.trained, whole.trained)
    assert untimed_rounds(path) == untimed_rounds(whole.place.path)


@pytest.mark.parametrize(
    ("game", "component", "other"),
    [
        ("gan_digits", "generator", "discriminator"),
        ("ae_digits", "encoder", "decoder"),
        ("ae_digits", "decoder", "encoder"),
    ],
)
def test_only_the_named_component_is_pruned(finished, game, component, other):
    run = finished(game, "imp", **{"prune.components": (component,)})
    for round_, sparsity in enumerate((0, *SPARSITIES)):
        masks = run.saved_masks(round_)
        assert jax.tree.leaves(masks[other]) == []
        weights, kept = mask_lib.counts(masks)
        kernels = [leaf for path, leaf in mask_lib.named_leaves(run.initial_state.params).items() if "kernel" in path]
        own = sum(leaf.size for leaf in jax.tree.leaves(masks[component]))
        assert weights == own < sum(leaf.size for leaf in kernels)
        assert weights - kept == round(sparsity * weights)
    for path, leaf in mask_lib.named_leaves(run.trained.params[other]).items():
        assert "kernel" not in path or np.all(leaf != 0), path


ZOO = ("linear_ae", "linear_vae", "vq_vae", "resnet_vae", "sngan_resnet_vae", "sngan", "sngan_resnet", "resnet_dcgan")


@pytest.mark.slow
@pytest.mark.parametrize("score", ["snip", "grasp", "synflow"])
@pytest.mark.parametrize("name", [*ZOO, "sngan_conditional", "sagan", "wgan", "wgan_gp"])
def test_every_network_can_be_pruned_at_initialisation(quick_runs, data_directory, tmp_path, name, score):
    changes = {"model.image_size": 28} if name.startswith("linear") else {}
    changes |= {"prune.sparsities": (0.8,), "prune.scope": "global", "prune.score": score}
    if score != "synflow":
        changes["prune.score_batches"] = 2
    with open_run(Setup(tiny(name, data_directory, experiment="at_init", **changes)), tmp_path / "run") as run:
        weights, kept = mask_lib.counts(run.pruned(1, run.dense_masks, run.initial_state))
    assert weights - kept == round(0.8 * weights)
