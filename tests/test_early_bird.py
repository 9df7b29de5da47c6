"""Whole small runs of the early-bird search and of the smaller network it leads to; killed and entered again, too."""

import gc
import json
import shutil
import weakref
from contextlib import closing
from functools import partial
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from conftest import Killed, assert_masked, kill_after, moments, untimed_rounds, untimed_scalars, without_references
from conftest import finish as finish_run
from early_bird_runs import CHANNELS, LEVELS, PER_EPOCH, STOPS, Kept, configured, kept_channels, search_file

from jaxtickets import cost, models, pruning, snapshots, tickets, train, workdir
from jaxtickets import masks as mask_lib
from jaxtickets.compact import compacted_config
from jaxtickets.devices import replicate, unreplicate
from jaxtickets.errors import UserError
from jaxtickets.experiments.early_bird import gamma_l1
from jaxtickets.optimizers import make_optimizers
from jaxtickets.pruning import channels
from jaxtickets.report.search import search_figure
from jaxtickets.runs import Run, Setup, go_back, nested, scoring


@pytest.fixture(scope="module")
def setup(quick_runs, data_directory):
    """`setup(experiment, **changes)`, all with the same compiled programs of the whole network."""
    base = Setup(configured(data_directory, **CHANNELS))
    base.programs = Kept(base.programs)

    def make(experiment="early_bird", **changes):
        return Setup(configured(data_directory, experiment, **changes), like=base)

    return make


@pytest.fixture(scope="module")
def finish(tmp_path_factory):
    """`finish(setup, path)`: `(run, verdict)`."""

    def run(setup, path=None):
        return finish_run(setup, path or tmp_path_factory.mktemp("run") / "run")

    return run


@pytest.fixture(scope="module")
def whole(setup, finish):
    """A finished run of one round, that goes on from the weights it has and wins."""
    return finish(without_references(setup(rewind="none", tolerance=1e9, **CHANNELS)))


@pytest.fixture(scope="module")
def rewound(setup, finish):
    """A finished run like `whole`, but it goes back to the rewind point."""
    return finish(without_references(setup(rewind="state", tolerance=1e9, **CHANNELS)))


@pytest.fixture(scope="module")
def runs(whole, rewound):
    return {"none": whole, "state": rewound}


@pytest.fixture(scope="module")
def of_weights(setup, finish):
    """A finished run of two rounds in which single weights are pruned."""
    return finish(setup(rewind="none", tolerance=1e9, **{"prune.sparsities": LEVELS}))


@pytest.fixture(scope="module")
def trajectory(whole):
    """`{step: state}` of the dense network, trained step by step without an experiment."""
    run, _ = whole
    states = {0: run.initial_state}
    for step in range(12):
        state, masks = replicate(states[step]), replicate(run.dense_masks)
        ((_, images, indices),) = run.setup.batches([run.seed], [range(step, step + 1)])
        state, _ = run.setup.programs.get(step)(state, masks, images, indices, None)
        states[step + 1] = unreplicate(state)
    return states


NEVER = {"early_bird.threshold": 1e-9}


def forward_flops(config, kept):
    """The FLOPs of the network that is built with the kept channels alone."""
    components = models.build(compacted_config(config, kept).model, 1, 0)
    params, _ = jax.eval_shape(lambda: models.init(components, jax.random.key(0)))
    return sum(cost.forward(models.kernel_uses(components), params).values())


def smaller_state(run, round_, which):
    """The state of a round's smaller network before its training ("init") or at its end ("last")."""
    setup = run.setup.compacted(kept_channels(run, run.saved_masks(round_)))
    optimizers = make_optimizers(setup.objective, setup.config.optimizer)
    shapes = jax.eval_shape(partial(train.init_state, setup.objective, optimizers), np.uint32(0))
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    path = run.place.compact(round_).snapshot(which)
    if which == "init":
        return snapshots.restore(path, like)
    with closing(snapshots.LastState(path)) as last:
        return last.restore(like, setup.dense_masks).state


def entries(tree, masks):
    """`{path: the entries of a leaf under its mask, in their order}`."""
    masks = mask_lib.named_leaves(masks)
    leaves = {path: np.asarray(leaf) for path, leaf in mask_lib.named_leaves(tree).items()}
    return {path: leaf[masks[path]] if path in masks else leaf.ravel() for path, leaf in leaves.items()}


def assert_kept_entries(small, state, kept, axis_names):
    """Parameters, batch statistics and moments are exactly those of the whole network that belong to kept channels."""

    def check(field, ours, theirs):
        masks = channels.to_weight_masks(kept, theirs, getattr(axis_names, field))
        expected, ours = entries(theirs, masks), mask_lib.named_leaves(ours)
        assert ours.keys() == expected.keys()
        for path, leaf in ours.items():
            np.testing.assert_array_equal(leaf.ravel(), expected[path], err_msg=path)

    check("params", small.params, state.params)
    check("batch_stats", small.batch_stats, state.batch_stats)
    for player in state.opt_state:
        (ours, count), (theirs, expected) = moments(small, player), moments(state, player)
        assert count == expected
        for tree, other in zip(ours, theirs, strict=True):
            check("params", tree, other)


def test_the_search_trains_the_dense_network_bit_for_bit(whole, rewound, of_weights, trajectory):
    for run, _ in (whole, rewound, of_weights):
        chex.assert_trees_all_equal(run.dense, trajectory[12])
        for round_ in range(1, len(run.levels)):
            chex.assert_trees_all_equal(run.search_end(round_), trajectory[6])


def test_a_search_draws_the_masks_of_the_score_at_its_steps(whole, trajectory):
    run, _ = whole
    found, drawn = search_file(run, 1), []
    for step in found["steps"]:
        masks = scoring.pruned(run, trajectory[step], run.dense_masks, LEVELS[1])
        drawn.append(np.concatenate(jax.tree.leaves(kept_channels(run, masks))))
    assert found["steps"] == [2, 4, 6]
    assert (found["unit"], found["queue"], found["threshold"], found["emerged"]) == ("channels", 3, 1.0, 2)
    expected = [[np.mean(one != other) for other in drawn] for one in drawn]
    np.testing.assert_array_equal(found["distances"], expected)
    assert np.max(expected) > 0
    np.testing.assert_array_equal(found["distances"], np.transpose(found["distances"]))
    assert np.all(np.diag(found["distances"]) == 0)
    chex.assert_trees_all_equal(run.saved_masks(1), masks)
    assert found["seconds"] == sorted(found["seconds"])
    np.testing.assert_allclose(found["epochs"], np.array([2, 4, 6]) / PER_EPOCH, rtol=1e-12)


@pytest.mark.parametrize("kind", ["channels", "weights"])
def test_a_search_notes_how_far_its_masks_are_from_that_of_step_0(whole, of_weights, trajectory, kind):
    run, _ = whole if kind == "channels" else of_weights
    found, level = search_file(run, 1), run.levels[1]

    def drawn(step):
        masks = scoring.pruned(run, trajectory[step], run.dense_masks, level)
        masks = kept_channels(run, masks) if kind == "channels" else masks
        return {name: [np.ravel(leaf) for leaf in jax.tree.leaves(own)] for name, own in masks.items()}

    start = drawn(0)
    size = sum(leaf.size for own in start.values() for leaf in own)
    for i, step in enumerate(found["steps"]):
        differing, by_chance = dict.fromkeys(start, 0), dict.fromkeys(start, 0.0)
        for name, own in drawn(step).items():
            for one, other in zip(own, start[name], strict=True):
                p, q = one.mean(), other.mean()
                differing[name] += int((one != other).sum())
                by_chance[name] += one.size * (p * (1 - q) + q * (1 - p))
        assert found["from_start"][i] == pytest.approx(sum(differing.values()) / size, rel=1e-12)
        assert found["chance"][i] == pytest.approx(sum(by_chance.values()) / size, rel=1e-12)
        least = min(differing[name] / by_chance[name] for name in start if by_chance[name])
        assert found["moved"][i] == pytest.approx(least, rel=1e-12)
    assert max(found["from_start"]) > 0
    assert found["least_moved"] == 0
    dense, row = run.place.read_rounds()[:2]
    assert (dense["moved"], row["moved"]) == (None, found["moved"][found["emerged"]])


@pytest.mark.parametrize(("rewind", "step"), [("none", 6), ("state", 3)])
def test_the_smaller_network_starts_with_the_kept_entries_of_the_point(runs, trajectory, rewind, step):
    run, _ = runs[rewind]
    kept = kept_channels(run, run.saved_masks(1))
    assert not all(mask.all() for mask in jax.tree.leaves(kept))
    start, end = (smaller_state(run, 1, which) for which in ("init", "last"))
    assert_kept_entries(start, trajectory[step], kept, run.networks.axis_names)
    assert (int(start.step), int(end.step)) == (step, 12)


def test_the_table_of_rounds_describes_the_smaller_network(whole):
    run, _ = whole
    dense, row = run.place.read_rounds()
    assert (dense["emergence_epoch"], dense["search_seconds"]) == (None, 0)
    masks = run.saved_masks(1)
    weights, left = mask_lib.counts(masks)
    assert row["sparsity"] == pytest.approx(1 - left / weights, abs=1e-12)
    assert row["density"] == pytest.approx(left / weights, abs=1e-12)
    # All parameters that belong to kept channels, counted in the whole network.
    kept, params = kept_channels(run, masks), run.setup.params
    ones = mask_lib.named_leaves(channels.to_weight_masks(kept, params, run.networks.axis_names.params))
    sizes = {path: leaf.size for path, leaf in mask_lib.named_leaves(params).items()}
    assert row["params_kept"] == sum(ones[path].sum() if path in ones else size for path, size in sizes.items())
    assert row["sparsity_all"] == pytest.approx((weights - left) / sum(sizes.values()), abs=1e-12)
    assert row["flops_effective"] == forward_flops(run.config, kept) <= (1 - LEVELS[1]) * row["flops_dense"]
    assert row["flops_dense"] == dense["flops_dense"] == dense["flops_effective"] == forward_flops(run.config, {})
    assert row["emergence_epoch"] == pytest.approx(6 / PER_EPOCH)
    assert 0 < row["search_seconds"] < row["train_seconds"]
    layers = [layer for layer in run.place.read_layers() if layer["round"] == 1]
    assert sum(layer["kept"] for layer in layers) == left


@pytest.mark.parametrize(("rewind", "step"), [("none", 6), ("state", 3)])
def test_the_ticket_file_holds_the_masks_and_the_point_under_them(runs, trajectory, rewind, step):
    run, verdict = runs[rewind]
    assert verdict["winning_round"] == 1
    ticket, masks = tickets.load_ticket(run.place.ticket), run.saved_masks(1)
    chex.assert_trees_all_equal(ticket.masks, masks)
    assert_masked(ticket.params, masks, trajectory[step].params)


@pytest.mark.parametrize("level", [0.2, 0.5, 0.8])
def test_no_more_channels_are_pruned_than_the_flops_ask_for(setup, level):
    one = setup(**{**CHANNELS, "prune.score": "filter_l1", "prune.scope": "global"})
    run = SimpleNamespace(setup=one, networks=one, config=one.config, seed=0)
    params = one.init(0).params
    masks = scoring.pruned(run, SimpleNamespace(params=params), one.dense_masks, level)
    kept = channels.from_weight_masks(masks, one.axis_names.params)
    limit = (1 - level) * one.flops()
    assert forward_flops(one.config, kept) == one.flops_with(kept) <= limit
    scores = channels.filter_l1(params, one.axis_names.params)
    pruned = [
        (scores[component][name][i], component, name, i)
        for component, own in kept.items()
        for name, mask in own.items()
        for i in np.flatnonzero(~mask)
    ]
    _, component, name, best = max(pruned)
    kept[component][name] = kept[component][name] | (np.arange(kept[component][name].size) == best)
    assert forward_flops(one.config, kept) > limit


# Single weights.


def test_exactly_the_asked_share_of_weights_is_pruned_and_stays_zero(of_weights, trajectory):
    run, _ = of_weights
    scores = pruning.magnitude(trajectory[6].params, run.dense_masks)
    for row, level in zip(run.place.read_rounds()[1:], LEVELS, strict=True):
        masks, found = run.saved_masks(row["round"]), search_file(run, row["round"])
        weights, kept = mask_lib.counts(masks)
        assert weights - kept == round(level * weights)
        assert row["sparsity"] == pytest.approx(1 - kept / weights, abs=1e-12)
        chex.assert_trees_all_equal(masks, pruning.prune(scores, run.dense_masks, level))
        drawn = []
        for step in found["steps"]:
            at = pruning.prune(pruning.magnitude(trajectory[step].params, run.dense_masks), run.dense_masks, level)
            drawn.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(at)]))
        assert found["unit"] == "weights"
        np.testing.assert_array_equal(found["distances"], [[np.mean(a != b) for b in drawn] for a in drawn])
    assert_masked(run.trained.params, masks)
    assert int(run.trained.step) == 12
    for player in run.trained.opt_state:
        for tree in moments(run.trained, player)[0]:
            assert_masked(tree, {name: masks[name] for name in tree})
    assert not list(run.place.path.glob("compact_*"))


# Without a ticket.


def test_a_search_without_a_ticket_says_each_time_how_near_it_came(setup, finish, tmp_path):
    one = setup(**CHANNELS, **NEVER, **{"early_bird.on_no_early_bird": "fail"})
    messages = []
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            finish(Setup(one.config, like=one), tmp_path / "run")
        messages.append(str(caught.value))
    place = workdir.Workdir(tmp_path / "run")
    found = json.loads(place.search(1).read_text())
    assert (found["steps"], found["emerged"]) == (list(STOPS), None)
    widest = {found["steps"][end]: max(found["distances"][end][end - 2 : end]) for end in (2, 3)}
    step = min(widest, key=widest.get)
    expected = (
        f"no early-bird ticket within 8 steps: the masks still move: the nearest 3 in a row are {widest[step]:.3f} "
        f"apart, at step {step} (config.early_bird.threshold=1e-09); a higher config.early_bird.until searches longer"
    )
    assert messages == [expected, expected]
    assert len(place.read_rounds()) == 1


@pytest.mark.parametrize(
    "changes",
    [{"prune.structure": "weight"}, pytest.param(CHANNELS, marks=pytest.mark.slow)],
    ids=["weight", "channel"],
)
def test_without_a_ticket_the_last_mask_can_be_taken(setup, finish, trajectory, changes):
    run, _ = finish(setup(rewind="none", **changes, **NEVER, **{"early_bird.on_no_early_bird": "take_last"}))
    masks = scoring.pruned(run, trajectory[8], run.dense_masks, LEVELS[1])
    chex.assert_trees_all_equal(run.saved_masks(1), masks)
    chex.assert_trees_all_equal(run.search_end(1), trajectory[8])
    row = run.place.read_rounds()[1]
    assert (row["emergence_epoch"], row["moved"]) == (None, None)
    assert 0 < row["search_seconds"] < row["train_seconds"]
    assert row["sparsity"] == pytest.approx(mask_lib.sparsity(masks), abs=1e-12)


@pytest.mark.parametrize("rewind", ["none", pytest.param("state", marks=pytest.mark.slow)])
def test_without_a_ticket_the_dense_network_can_train_on_bit_for_bit(setup, finish, trajectory, rewind):
    run, _ = finish(setup(rewind=rewind, **CHANNELS, **NEVER))
    assert run.config.early_bird.on_no_early_bird == "train_dense"
    assert all(mask.all() for mask in jax.tree.leaves(run.saved_masks(1)))
    chex.assert_trees_all_equal(run.trained, trajectory[12])
    dense, row = run.place.read_rounds()
    assert (row["sparsity"], row["emergence_epoch"], row["moved"]) == (0, None, None)
    assert row["fd_digits"] == dense["fd_digits"]
    assert row["flops_effective"] == row["flops_dense"]
    assert not list(run.place.path.glob("compact_*"))


def test_the_plot_of_a_search_shows_how_far_its_masks_have_moved_where_this_is_known(whole):
    run, _ = whole
    found = search_file(run, 1)
    figure = search_figure(found | {"least_moved": 0.5}, "round 1", largest=1)
    (strip,) = figure.axes[0].child_axes
    moved, least = strip.lines
    np.testing.assert_allclose(moved.get_xydata(), np.transpose([found["epochs"], found["moved"]]))
    assert set(least.get_ydata()) == {0.5}
    (ticket,) = strip.collections
    i = found["emerged"]
    np.testing.assert_allclose(ticket.get_offsets(), [[found["epochs"][i], found["moved"][i]]])
    for damaged in ({"moved": found["moved"][:-1]}, {"moved": ["far"] * 3}, {"moved": None}, {"least_moved": None}):
        old = search_figure(found | damaged, "round 1", largest=1)
        assert not old.axes[0].child_axes


# Killed, and entered again.


def assert_same_run(ours, theirs):
    for read in (untimed_rounds, untimed_scalars):
        assert read(ours.place.path) == read(theirs.place.path)
    for round_ in range(len(theirs.levels)):
        chex.assert_trees_all_equal(ours.saved_masks(round_), theirs.saved_masks(round_))
        if round_:
            searches = [search_file(run, round_) for run in (ours, theirs)]
            for search in searches:
                del search["seconds"]
            assert searches[0] == searches[1]
            chex.assert_trees_all_equal(ours.search_end(round_), theirs.search_end(round_))
            if theirs.place.compact(round_).path.exists():
                chex.assert_trees_all_equal(*(smaller_state(run, round_, "last") for run in (ours, theirs)))


def die(*_, **__):
    raise Killed


def dying(function, when):
    """`function`, but a call for which `when(*arguments)` holds ends the process instead."""
    return lambda *arguments, **options: (die if when(*arguments) else function)(*arguments, **options)


def in_compacted_training(after):
    """A `Setup.compacted` that kills training of the smaller network once it has done `after` steps."""
    compacted = Setup.compacted

    def dying_compacted(self, kept):
        setup = compacted(self, kept)
        kill_after(setup, after)
        return setup

    return dying_compacted


def test_an_interrupted_run_of_channels_goes_on_to_the_same_bits(setup, finish, whole, tmp_path, monkeypatch):
    path, one = tmp_path / "run", lambda: without_references(setup(rewind="none", tolerance=1e9, **CHANNELS))
    killed = one()
    kill_after(killed, 12 + 5)  # In the search, after a state has been saved and two masks drawn.
    with pytest.raises(Killed):
        finish(killed, path)
    assert json.loads(workdir.Workdir(path).search(1).read_text())["steps"] == [2, 4]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Setup, "release", die)  # Between the search and the training.
        finish(one(), path)
    assert not (path / "compact_001").exists()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Setup, "compacted", in_compacted_training(5))  # A state has been saved before the last of these.
        finish(one(), path)
    assert len(untimed_rounds(path)) == 1
    run, verdict = finish(one(), path)
    assert_same_run(run, whole[0])
    assert verdict == whole[1]


@pytest.mark.slow
def test_a_finished_smaller_network_is_not_trained_again(setup, finish, whole, tmp_path, monkeypatch):
    path, one = tmp_path / "run", lambda: without_references(setup(rewind="none", tolerance=1e9, **CHANNELS))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(nested, "adopt", dying(nested.adopt, lambda run, place, row, round_, *_: round_ == 1))
        finish(one(), path)
    assert len(untimed_rounds(path / "compact_001")) == 1
    monkeypatch.setattr(Setup, "compacted", in_compacted_training(0))
    run, _ = finish(one(), path)
    assert_same_run(run, whole[0])


@pytest.mark.parametrize("is_drawn", [False, True], ids=["before the mask", "after the mask"])
def test_a_search_resumed_at_a_mask_has_the_same_history(setup, finish, whole, tmp_path, monkeypatch, is_drawn):
    """It is killed right after a checkpoint at a step at which a mask is due, before or after this is drawn."""
    path, due, pruned, drawn = tmp_path / "run", STOPS[1], Run.pruned, []

    def one():
        return without_references(setup(rewind="none", tolerance=1e9, **CHANNELS, **{"train.checkpoint_every": due}))

    def noted(self, round_, masks, state):
        drawn.append(int(state.step))
        return pruned(self, round_, masks, state)

    killed = one()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if is_drawn:
            kill_after(killed, 12 + due)
        else:
            patch.setattr(Run, "pruned", dying(pruned, lambda run, round_, masks, state: state.step == due))
        finish(killed, path)
    place = workdir.Workdir(path)
    assert json.loads(place.search(1).read_text())["steps"] == ([2, 4] if is_drawn else [2])
    with closing(snapshots.LastState(place.snapshot("search"))) as last:
        saved = last.restore(whole[0].initial_state, whole[0].dense_masks)
    assert (saved.round, int(saved.state.step)) == (1, due)
    monkeypatch.setattr(Run, "pruned", noted)
    run, verdict = finish(one(), path)
    assert drawn == [0, 4, 6]
    assert_same_run(run, whole[0])
    np.testing.assert_array_equal(*(each.place.read_search(1)[1] for each in (run, whole[0])))
    assert verdict == whole[1]


def as_of_old(place):
    """Takes from a search's file what searches did not note in earlier versions, which had no checksums either."""
    content = json.loads(place.search(1).read_text())
    for name in ("from_start", "chance", "moved", "least_moved"):
        del content[name]
    place.search(1).write_text(json.dumps(content))
    place.checksums.unlink()


def test_an_old_search_that_goes_on_compares_its_earlier_masks_too(setup, finish, whole, tmp_path):
    one, place = lambda: setup(rewind="none", tolerance=1e9, **CHANNELS), workdir.Workdir(tmp_path / "run")
    killed = one()
    kill_after(killed, 12 + 5)
    with pytest.raises(Killed):
        finish(killed, place.path)
    as_of_old(place)
    run, _ = finish(one(), place.path)
    assert_same_run(run, whole[0])


def test_a_ticket_of_an_old_search_trains_on_without_what_is_not_known(
    setup, finish, whole, tmp_path, monkeypatch, capsys
):
    one, place = lambda: setup(rewind="none", tolerance=1e9, **CHANNELS), workdir.Workdir(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Setup, "release", die)
        finish(one(), place.path)
    as_of_old(place)
    capsys.readouterr()
    run, _ = finish(one(), place.path)
    ours, theirs = untimed_rounds(place.path)[1], untimed_rounds(whole[0].place.path)[1]
    assert (ours.pop("moved"), theirs.pop("moved") != "") == ("", True)
    assert ours == theirs
    assert "has emerged in epoch 0.0645, after 6 steps\n" in capsys.readouterr().err
    chex.assert_trees_all_equal(*(smaller_state(each, 1, "last") for each in (run, whole[0])))


# Where a run of single weights is killed, one after another: after a number of steps, or in a function that writes.
KILLS = {
    "in the search": 12 + 3,
    "between the two files of a search": (
        *(workdir.Workdir, "_write_json"),
        lambda place, path, tree: path.parent.name == "search" and len(tree["steps"]) == 2,
    ),
    "before the masks of a search are saved": (*(snapshots, "save_masks"), lambda path, _: path.name == "001"),
    "in the training": 5,
    "after a state of the second search was saved": 2 + 5,
}


@pytest.mark.slow
def test_a_run_of_weights_interrupted_again_and_again_goes_on_to_the_same_bits(
    setup, finish, of_weights, tmp_path, monkeypatch
):
    one = lambda: setup(rewind="none", tolerance=1e9, **{"prune.sparsities": LEVELS})  # noqa: E731
    for where in KILLS.values():
        killed = one()
        with monkeypatch.context() as patch, pytest.raises(Killed):
            if isinstance(where, int):
                kill_after(killed, where)
            else:
                module, name, when = where
                patch.setattr(module, name, dying(getattr(module, name), when))
            finish(killed, tmp_path / "run")
    run, verdict = finish(one(), tmp_path / "run")
    assert_same_run(run, of_weights[0])
    chex.assert_trees_all_equal(run.trained, of_weights[0].trained)
    assert verdict == of_weights[1]


@pytest.mark.slow
def test_a_round_does_not_depend_on_the_rounds_before_it(setup, finish, whole):
    run, _ = finish(setup(rewind="none", tolerance=1e9, **{**CHANNELS, "prune.sparsities": LEVELS}))
    alone, after = untimed_rounds(whole[0].place.path)[1], untimed_rounds(run.place.path)[2]
    assert (alone.pop("round"), after.pop("round")) == ("1", "2")
    assert alone == after
    chex.assert_trees_all_equal(smaller_state(run, 2, "last"), smaller_state(whole[0], 1, "last"))


@pytest.mark.parametrize(
    ("kind", "round_", "left"),
    [
        ("channel", 1, [1]),
        ("weight", 1, [1]),
        pytest.param("weight", 2, [1, 2], marks=pytest.mark.slow),
        pytest.param("weight", 0, [], marks=pytest.mark.slow),
        pytest.param("channel", 0, [], marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_entered_again_does_not_repeat_the_search_of_that_round(
    setup, finish, whole, of_weights, tmp_path, monkeypatch, kind, round_, left
):
    run, verdict = {"channel": whole, "weight": of_weights}[kind]
    path = tmp_path / "run"
    shutil.copytree(run.place.path, path)
    go_back(run.setup.config, path, round_)
    assert sorted(file.name for file in (path / "search").glob("*.json")) == [f"{number:03d}.json" for number in left]
    assert not list(path.glob("compact_*"))
    assert len(workdir.Workdir(path).read_rounds()) == round_
    searched, search = [], Run.search

    def noted(self, number, *arguments):
        searched.append(number)
        return search(self, number, *arguments)

    monkeypatch.setattr(Run, "search", noted)
    changes = CHANNELS if kind == "channel" else {"prune.sparsities": LEVELS}
    one = setup(rewind="none", tolerance=1e9, **changes)
    again, again_verdict = finish(without_references(one) if kind == "channel" else one, path)
    assert searched == [number for number in range(1, len(run.levels)) if number not in left]
    assert again_verdict == verdict
    assert_same_run(again, run)


# Memory and programs of the search.


def test_the_search_leaves_nothing_of_the_whole_network_on_the_devices(setup, tmp_path, finish, monkeypatch):
    base = setup(**CHANNELS)
    one, found = Setup(base.config), []
    next(iter(one.batches([0], [range(1)])))  # The data stay.
    before = jax.live_arrays()
    held = set(map(id, before))
    programs = [weakref.ref(program) for program in one.programs.compiled().values()]

    def measure(self, kept):
        found.extend((leaf.shape, leaf.nbytes) for leaf in jax.live_arrays() if id(leaf) not in held)
        gc.collect()
        assert not any(program() for program in programs)
        raise Killed

    monkeypatch.setattr(Setup, "compacted", measure)
    with pytest.raises(Killed):
        finish(one, tmp_path / "run")
    largest = max(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one.params))
    assert sum(size for _, size in found) < largest, found


def test_a_search_without_a_penalty_runs_the_program_of_training(setup):
    one = setup(**CHANNELS)
    assert gamma_l1(one, 0.0) is None
    assert one.programs_of(None) is one.programs
    programs = one.programs_of(gamma_l1(one, 0.5))
    assert programs is one.programs_of(gamma_l1(one, 0.5)) is not one.programs
    assert programs is not one.programs_of(gamma_l1(one, 0.25))


@pytest.mark.slow
def test_the_penalty_shrinks_the_pruned_gammas_in_the_search_only(data_directory, finish, trajectory):
    changes = {"early_bird.gamma_penalty": 1.0, "prune.components": ("generator",), "prune.target": "sparsity"}
    run, _ = finish(Setup(configured(data_directory, rewind="none", **{**CHANNELS, **changes})))
    names = run.networks.axis_names.params

    def mean_gamma(state, component):
        return np.mean(np.concatenate(list(channels.gamma(state.params, names, state.batch_stats)[component].values())))

    for component, falls in (("generator", True), ("discriminator", False)):
        plain, penalized = mean_gamma(trajectory[6], component), mean_gamma(run.search_end(1), component)
        assert (penalized < plain - 0.02) == falls
        assert mean_gamma(run.dense, component) == pytest.approx(mean_gamma(trajectory[12], component), abs=0.01)


# Channels at initialisation.


@pytest.mark.parametrize(
    "score",
    [
        "filter_l1",
        *(pytest.param(score, marks=pytest.mark.slow) for score in ("filter_l2", "random")),
        *(pytest.param(score, marks=pytest.mark.slow) for score in ("snip", "grasp", "synflow", "gamma_taylor")),
    ],
)
def test_channels_can_be_pruned_at_initialisation(setup, finish, score):
    changes = {"prune.score_batches": 2} if score in ("snip", "grasp", "gamma_taylor") else {}
    run, _ = finish(setup("at_init", **{**CHANNELS, "prune.score": score, **changes}))
    masks, row = run.saved_masks(1), run.place.read_rounds()[1]
    kept = kept_channels(run, masks)
    assert all(mask.any() for mask in jax.tree.leaves(kept))
    assert 0.25 < row["flops_effective"] / row["flops_dense"] <= 0.5
    start, end = (smaller_state(run, 1, which) for which in ("init", "last"))
    assert_kept_entries(start, run.initial_state, kept, run.networks.axis_names)
    assert (int(start.step), int(end.step)) == (0, 12)
    assert "emergence_epoch" not in row
    assert not (run.place.path / "search").exists()
