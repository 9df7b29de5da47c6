"""Controls of a finished run: what they share with its tickets, what they do not, and what is refused."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest
from conftest import Killed, digests, finish, kill_after, tiny

from jaxtickets import masks as mask_lib
from jaxtickets import models, runs, snapshots
from jaxtickets.errors import UserError
from jaxtickets.experiments.branch import KINDS, source
from jaxtickets.models import NETWORKS
from jaxtickets.runs import Networks, Setup
from jaxtickets.workdir import Workdir

LEVELS = (1, 2)
PRUNED = ("reinit", "random_pruning", "shuffled")


def options(**changes):
    return {"prune.sparsities": (0.5, 0.8), **changes}


@pytest.fixture(scope="module")
def parent(quick_runs, base, data_directory, tmp_path_factory):
    """The finished run, and the digests of all its files before any control was trained."""
    path = tmp_path_factory.mktemp("parent") / "run"
    run, _ = finish(Setup(tiny("ae_digits", data_directory, **options()), like=base("ae_digits")), path)
    return run, digests(path)


def control(kind, path, data_directory, **changes):
    given = options(experiment="branch", **{"branch.of": str(path), "branch.kind": kind}, **changes)
    return tiny("ae_digits", data_directory, **given)


@pytest.fixture(scope="module")
def branches(parent, data_directory, tmp_path_factory):
    """The finished control of each kind."""
    runs = {}
    for kind in KINDS:
        setup = Setup(control(kind, parent[0].place.path, data_directory), like=parent[0].setup)
        runs[kind], _ = finish(setup, tmp_path_factory.mktemp(kind) / "run")
    return runs


@pytest.mark.parametrize("kind", PRUNED)
def test_a_control_keeps_as_many_weights_in_each_layer_as_the_ticket(parent, branches, kind):
    for round_ in LEVELS:
        theirs, ours = parent[0].saved_masks(round_), branches[kind].saved_masks(round_)
        assert mask_lib.layer_counts(ours) == mask_lib.layer_counts(theirs)
        assert (mask_lib.hamming_distance(ours, theirs) == 0) == (kind == "reinit")


@pytest.mark.parametrize("kind", KINDS)
def test_round_zero_is_the_dense_run_and_others_have_the_tickets_sparsity(parent, branches, kind):
    theirs, ours = (run.place.read_rounds() for run in (parent[0], branches[kind]))
    assert ours[0] == theirs[0]
    assert len(ours) == len(theirs) == 3
    for name in ("round", "sparsity", "sparsity_all", "density", "flops_dense"):
        assert [row[name] for row in ours] == [row[name] for row in theirs]
    for row, other in list(zip(ours, theirs, strict=True))[1:]:
        assert row["reconstruction_error"] != other["reconstruction_error"]
    first = [row for row in parent[0].place.read_layers() if row["round"] == 0]
    assert [row for row in branches[kind].place.read_layers() if row["round"] == 0] == first
    grid = "samples/round_000.png"
    assert digests(branches[kind].place.path)[grid] == parent[1][grid]


def test_shuffled_masks_are_nested_and_random_ones_are_drawn_anew(branches):
    shuffled, drawn = (
        [branches[kind].saved_masks(round_) for round_ in LEVELS] for kind in ("shuffled", "random_pruning")
    )
    assert mask_lib.is_nested(shuffled[1], shuffled[0])
    assert not mask_lib.is_nested(drawn[1], drawn[0])


@pytest.mark.parametrize("kind", PRUNED)
def test_a_control_starts_from_the_rewind_point_or_from_other_weights(parent, branches, kind):
    theirs = parent[0].rewind_point
    ours = snapshots.restore(branches[kind].place.snapshot("rewind"), theirs)
    if kind != "reinit":
        chex.assert_trees_all_equal(ours, theirs)
        return
    assert (int(ours.step), int(theirs.step)) == (0, 3)
    assert ours.seed == theirs.seed
    for state in (theirs, parent[0].initial_state):
        others = mask_lib.named_leaves(state.params)
        for path, leaf in mask_lib.named_leaves(ours.params).items():
            if "kernel" in path:
                assert np.mean(leaf == others[path]) < 0.01, path
                assert leaf.std() == pytest.approx(
                    mask_lib.named_leaves(parent[0].initial_state.params)[path].std(), rel=0.5
                )
    chex.assert_trees_all_equal(ours.opt_state, parent[0].initial_state.opt_state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_is_not_called_a_ticket(branches, kind):
    message = json.loads(branches[kind].place.verdict.read_text())["message"].lower()
    assert f"no control ({kind}) is named" in message  # The dense run has trained for too few steps.
    assert "ticket" not in message


@pytest.mark.parametrize("kind", PRUNED)
def test_pruned_weights_of_a_control_are_zero_after_training(branches, kind):
    leaves = mask_lib.named_leaves(branches[kind].trained.params)
    for path, mask in mask_lib.named_leaves(branches[kind].saved_masks(2)).items():
        assert np.all(leaves[path][~mask] == 0), path
        assert np.all(leaves[path][mask] != 0), path


def test_the_short_dense_network_has_the_nearest_number_of_parameters(parent, branches):
    config = parent[0].config.model

    def parameters(width):
        components = NETWORKS["conv_ae"].make(width, config.latent_size, config.image_size, 1)
        shapes = jax.eval_shape(lambda: models.init(components, jax.random.key(0)))[0]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    counts = {width: parameters(width) for width in range(1, config.width + 1)}
    rows = [run.place.read_rounds() for run in (parent[0], branches["dense_short"])]
    for ticket, row in list(zip(*rows, strict=True))[1:]:
        width = min(counts, key=lambda width: abs(counts[width] - ticket["params_kept"]))
        narrow = branches["dense_short"].place.narrow(row["round"])
        assert narrow.read_config()["model"]["width"] == width < config.width
        assert row["params_kept"] == counts[width]
        (own,) = narrow.read_rounds()
        assert own["sparsity"] == 0
        assert own["reconstruction_error"] == row["reconstruction_error"]


def test_an_interrupted_control_goes_on_to_the_same_bits(parent, branches, data_directory, tmp_path):
    config = control("reinit", parent[0].place.path, data_directory)
    setup = Setup(config, like=parent[0].setup)
    kill_after(setup, 12 + 7)
    with pytest.raises(Killed):
        finish(setup, tmp_path / "run")
    run, verdict = finish(Setup(config, like=parent[0].setup), tmp_path / "run")
    chex.assert_trees_all_equal(run.trained, branches["reinit"].trained)
    assert branches["reinit"].place.read_verdict() == verdict


def test_the_run_that_is_controlled_is_left_as_it_was(parent, branches):
    assert len(branches) == 4
    assert digests(parent[0].place.path) == parent[1]


REFUSED = [
    ({"optimizer.learning_rate": 0.5}, "optimizer.learning_rate is 0.001 there and 0.5 here"),
    ({"model.width": 8}, "model.width is 4 there and 8 here"),
    (
        {"train.steps": 13, "optimizer.final_rate": 0.5},
        "optimizer.final_rate is 1.0 there and 0.5 here; train.steps is",
    ),
    ({"prune.exclude": ("project",)}, "prune.exclude is [] there and ['project'] here"),
    ({"seed": 1}, "seed is 0 there and 1 here"),
]


@pytest.mark.parametrize(("changes", "difference"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_run_that_was_trained_otherwise_is_refused(parent, data_directory, tmp_path, changes, difference):
    config = control("reinit", parent[0].place.path, data_directory, **changes)
    with pytest.raises(UserError) as caught:
        runs.run(config, tmp_path / "run")
    assert difference in str(caught.value)
    assert str(caught.value).startswith(f"config.branch.of={str(parent[0].place.path)!r}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["verdict.json", "config.json", "rounds.csv", "snapshots/rewind", "masks/002"])
def test_an_unfinished_run_is_refused_and_so_is_one_that_has_lost_something(parent, data_directory, tmp_path, missing):
    shutil.copytree(parent[0].place.path, tmp_path / "parent")
    lost = tmp_path / "parent" / missing
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    config = control("shuffled", tmp_path / "parent", data_directory)
    allowed = r"allowed is the workdir of a finished run that has pruned something, with seed 0$"
    with pytest.raises(UserError, match=rf"config.branch.of=.*: ({allowed}|.*{missing}:? is missing)") as caught:
        runs.run(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_fields_that_only_find_tickets_or_change_no_number_may_differ(parent, data_directory):
    changes = {"rewind_step": 0.0, "tolerance": 0.5, "train.log_every": 2, "train.checkpoint_every": 0}
    config = control("reinit", parent[0].place.path, data_directory, **changes, **{"data.placement": "host"})
    assert source(Networks(config), 0).place.path == parent[0].place.path


def test_a_run_whose_score_is_movement_has_controls_too(parent, data_directory, tmp_path):
    changes = {"prune.score": "movement", "prune.sparsities": (0.5,)}
    config = tiny("ae_digits", data_directory, **options(**changes))
    finish(Setup(config, like=parent[0].setup), tmp_path / "parent")
    setup = Setup(control("shuffled", tmp_path / "parent", data_directory), like=parent[0].setup)
    run, _ = finish(setup, tmp_path / "run")
    assert len(run.place.read_rounds()) == 2


def test_a_run_of_several_seeds_has_controls_seed_by_seed(data_directory, tmp_path):
    several = {"seeds": 2, "prune.sparsities": (0.5,)}
    runs.run(tiny("ae_digits", data_directory, **several), tmp_path / "parent")
    runs.run(control("shuffled", tmp_path / "parent", data_directory, **several), tmp_path / "run")
    theirs, ours = (Workdir(tmp_path / name).read_rounds() for name in ("parent", "run"))
    assert [(row["seed"], row["round"]) for row in ours] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row, other in zip(ours, theirs, strict=True):
        assert (row == other) == (row["round"] == 0)
        assert row["params_kept"] == other["params_kept"]
