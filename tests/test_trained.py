"""The trained weights of rounds, and what a run records beside its rounds: which files stay, and what is in them."""

import json
import shutil
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from conftest import Killed, digests, finish, kill_after, tiny
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jaxtickets import masks as mask_lib
from jaxtickets import opening, runs, snapshots, tickets, train, trained
from jaxtickets.errors import UserError
from jaxtickets.runs import Setup, feature_networks, seeds
from jaxtickets.workdir import Workdir

SPARSITIES = (0.3, 0.5, 0.98)
LONG_ENOUGH = {"train.steps": 40, "optimizer.learning_rate": 0.01}  # The dense run learns something.
NETWORK = {"model": {"name": "conv_ae"}, "channels": 1, "classes": 0}


def options(**changes):
    return {"prune.sparsities": SPARSITIES, "tolerance": 0.1, **LONG_ENOUGH} | changes


@pytest.fixture(scope="module")
def setup(quick_runs, base, data_directory):
    return Setup(tiny("ae_digits", data_directory, **options()), like=base("ae_digits"))


@pytest.fixture(scope="module")
def all_kept(setup, data_directory, tmp_path_factory):
    """A run whose weights are all kept, and its verdict."""
    config = tiny("ae_digits", data_directory, **options(keep_weights="all"))
    run, verdict = finish(Setup(config, like=setup), tmp_path_factory.mktemp("all") / "run")
    return run.place, verdict


@pytest.fixture(scope="module")
def ends_kept(setup, tmp_path_factory):
    """The same run with the default, and its verdict."""
    run, verdict = finish(setup, tmp_path_factory.mktemp("ends") / "run")
    return run.place, verdict


# Files.


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_what_is_read_is_what_was_saved_with_pruned_weights_zero(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    params = {"a": {"b": {"kernel": rng.normal(size=(rows, columns)).astype(np.float32), "bias": np.ones(3)}}, "c": {}}
    keep = rng.random((rows, columns)) < density
    masks, batch_stats = (
        {"a": {"b": {"kernel": keep, "bias": None}}, "c": {}},
        {"a": {"mean": np.float32([0, 2])}, "c": {}},
    )
    arrays, about = trained.pack(params, batch_stats, masks, NETWORK)
    found = trained.unpack(arrays, json.loads(json.dumps(about)))
    chex.assert_trees_all_equal(found.params, mask_lib.apply(params, masks))
    chex.assert_trees_all_equal(found.batch_stats, batch_stats)
    assert jax.tree.structure(found.params) == jax.tree.structure(params) and found.network == NETWORK
    if not keep.all():  # 32 bits per kept weight and one per weight.
        own = {name: array for name, array in arrays.items() if name.endswith("kernel")}
        assert sum(array.nbytes for array in own.values()) == 4 * keep.sum() + -(-keep.size // 8)


def test_damaged_weights_of_another_run_are_told_and_not_taken_over(all_kept, tmp_path, capsys):
    place, _ = all_kept
    other, own = Workdir(tmp_path / "other"), Workdir(tmp_path / "own")
    shutil.copytree(place.path, other.path)
    trained.take_over(own, 0, other, 1)
    assert own.weights(0).read_bytes() == place.weights(1).read_bytes() and not capsys.readouterr().err
    content = bytearray(place.weights(2).read_bytes())
    content[-5] ^= 1
    other.weights(2).write_bytes(content)
    trained.take_over(own, 2, other, 2)
    trained.take_over(own, 3, Workdir(tmp_path / "none"), 3)
    assert list(own.list_weights()) == [0] and "other/weights/002.safetensors: " in capsys.readouterr().err


def test_the_weights_of_each_round_are_what_was_evaluated(all_kept, setup):
    place, _ = all_kept
    assert list(place.list_weights()) == [0, 1, 2, 3]
    dense = snapshots.restore(place.snapshot("dense"), setup.init(0))
    chex.assert_trees_all_equal(tuple(trained.load(place, 0))[:2], train.evaluated(dense))
    last = snapshots.LastState(place.snapshot("last"))
    state = last.restore(setup.init(0), setup.dense_masks)
    last.close()
    chex.assert_trees_all_equal(tuple(trained.load(place, 3))[:2], train.evaluated(state.state))
    for row in place.read_rounds():
        found, masks = (
            trained.load(place, row["round"]),
            snapshots.restore_masks(place.masks(row["round"]), setup.dense_masks),
        )
        chex.assert_trees_all_equal(found.params, mask_lib.apply(found.params, masks))
        numbers = setup.evaluator.evaluate(found.params, found.batch_stats, 0)
        assert {name: row[name] for name in numbers} == numbers


def test_a_file_grows_with_the_weights_that_are_kept(all_kept):
    place, _ = all_kept
    rows, values = place.read_rounds(), {}
    for row in rows:
        arrays = load_file(place.weights(row["round"]))
        values[row["round"]] = sum(array.size for name, array in arrays.items() if name.startswith(("params", "kept")))
    assert values == {row["round"]: row["params_kept"] for row in rows}


def test_by_default_the_dense_the_winning_and_the_last_weights_stay(all_kept, ends_kept):
    place, verdict = ends_kept
    kept = {0, verdict["winning_round"], 3}
    assert len(kept) == 3 and None not in kept and set(place.list_weights()) == kept
    theirs = all_kept[0]
    for round_ in kept:
        assert place.weights(round_).read_bytes() == theirs.weights(round_).read_bytes()


def test_a_run_that_was_killed_ends_with_the_same_files(ends_kept, setup, tmp_path):
    for steps in (25, 50):
        again = Setup(setup.config, like=setup)
        kill_after(again, steps)
        with pytest.raises(Killed):
            finish(again, tmp_path / "run")
    run, _ = finish(setup, tmp_path / "run")
    ours, theirs = digests(run.place.path), digests(ends_kept[0].path)
    same = [name for name in theirs if name.startswith("weights/") or name == "references.json"]
    assert len(same) > 2 and {name: ours.get(name) for name in same} == {name: theirs[name] for name in same}
    assert list(run.place.list_weights()) == list(ends_kept[0].list_weights())


def test_going_back_discards_the_weights_of_later_rounds_and_ends_with_the_same(ends_kept, setup, tmp_path):
    shutil.copytree(ends_kept[0].path, tmp_path / "run")
    place = Workdir(tmp_path / "run")
    place.discard_from(2)
    assert [round_ for round_ in place.list_weights() if round_ >= 2] == []
    finish(setup, place.path)
    for round_, path in ends_kept[0].list_weights().items():
        assert place.weights(round_).read_bytes() == path.read_bytes()


def test_a_round_without_weights_and_a_broken_file_are_one_line(ends_kept, tmp_path):
    place = Workdir(tmp_path)
    with pytest.raises(UserError, match="has no trained weights of round 1; there are those of rounds: none"):
        trained.load(place, 1)
    shutil.copytree(ends_kept[0].weights(0).parent, place.weights(0).parent)
    whole = place.weights(0).read_bytes()
    for content in (whole[:100], whole[: len(whole) // 2], b""):
        place.weights(0).write_bytes(content)
        with pytest.raises(UserError, match="000.safetensors: can't be read as trained weights"):
            trained.load(place, 0)
    save_file({"a": np.zeros(2)}, place.weights(0))
    with pytest.raises(UserError, match="it is of another format"):
        trained.load(place, 0)


# Tickets.


def test_a_ticket_file_has_the_weights_that_were_trained_from_it(ends_kept):
    place, verdict = ends_kept
    found, metadata = tickets.load_trained(place.ticket)
    chex.assert_trees_all_equal(found, trained.load(place, verdict["winning_round"]))
    assert metadata["verdict"] == verdict
    ticket = tickets.load_ticket(place.ticket)
    point = snapshots.restore_raw(place.snapshot("rewind"))
    chex.assert_trees_all_equal(ticket.params, mask_lib.apply(point["params"], ticket.masks))


def test_a_ticket_file_with_the_rewind_point_alone_says_so(ends_kept, setup, tmp_path):
    masks = snapshots.restore_masks(ends_kept[0].masks(1), setup.dense_masks)
    tickets.save_ticket(tmp_path / "old.safetensors", masks, setup.init(0))
    with pytest.raises(UserError, match="holds the rewind point of the ticket and no trained weights"):
        opening.open_ticket(tmp_path / "old.safetensors")


def test_a_byte_that_changes_in_the_files_of_a_run_is_refused_or_changes_nothing(ends_kept, setup, tmp_path):
    place, like = Workdir(tmp_path), snapshots.restore(ends_kept[0].snapshot("rewind"), setup.init(0))
    for name in ("weights", "ticket.safetensors"):
        (shutil.copytree if name == "weights" else shutil.copy)(ends_kept[0].path / name, place.path / name)
    readers = {
        place.weights(0): (lambda: trained.load(place, 0),),
        place.ticket: (
            lambda: tickets.load_ticket(place.ticket),
            lambda: tickets.load_trained(place.ticket),
            lambda: tickets.load_state(place.ticket, like),
        ),
    }
    rng, refused = np.random.default_rng(0), 0
    for path, functions in readers.items():
        whole, expected = path.read_bytes(), [read() for read in functions]
        header = 8 + int.from_bytes(whole[:8], "little")
        for trial in range(150):
            content, place_ = bytearray(whole), rng.integers(header if trial % 2 else len(whole))
            content[place_] ^= rng.integers(1, 256)
            path.write_bytes(content[:place_] if trial % 10 == 0 else content)
            for read, value in zip(functions, expected, strict=True):
                try:
                    chex.assert_trees_all_equal(read(), value)
                except UserError as error:
                    assert str(error).startswith(str(path)) and "\n" not in str(error)
                    refused += 1
    assert refused > 550


# Other ways to train a round.


def test_compacted_rounds_have_weights_that_build_their_own_network(setup, data_directory, tmp_path):
    channels = options(experiment="at_init", **{"prune.structure": "channel", "prune.score": "filter_l1"})
    channels |= {"prune.sparsities": (0.5,), "rewind_step": 0.0}
    config = tiny("ae_digits", data_directory, **channels)
    run, _ = finish(Setup(config, like=setup), tmp_path / "run")
    opened, row = opening.open_round(run.place, 1), run.place.read_rounds()[1]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (opened.params, run.initial_state.params)]
    assert sizes[0] == row["params_kept"] < sizes[1]
    images = opening.dataset(opened, "test").images[:8] / np.float32(127.5) - 1
    assert opened.objective.reconstruct(opened.params, opened.batch_stats, images).shape == images.shape


def test_a_control_has_the_dense_weights_and_the_references_of_its_run(ends_kept, setup, data_directory, tmp_path):
    place, _ = ends_kept
    changes = options(experiment="branch", **{"branch.of": str(place.path), "branch.kind": "dense_short"})
    run, _ = finish(Setup(tiny("ae_digits", data_directory, **changes), like=setup), tmp_path / "run")
    assert run.place.weights(0).read_bytes() == place.weights(0).read_bytes()
    assert run.place.read_references() == place.read_references()
    row, opened = run.place.read_rounds()[3], opening.open_round(run.place, 3)
    assert opened.config.model.width < setup.config.model.width
    held_out = opening.dataset(opened, "test").images / np.float32(127.5) - 1
    errors = opened.objective.evaluate(opened.params, opened.batch_stats, held_out, None)["reconstruction_error"]
    assert row["reconstruction_error"] == pytest.approx(float(errors.mean()), rel=1e-5)


def test_with_several_seeds_the_joint_verdict_decides_which_weights_stay(setup, data_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "Setup", lambda config, **_: Setup(config, like=setup))
    config = tiny("ae_digits", data_directory, **options(seeds=2, tolerance=0.3, **{"prune.sparsities": (0.2, 0.5)}))
    verdict = runs.run(config, tmp_path / "run")
    for place in Workdir(tmp_path / "run").seed_dirs().values():
        winners = {verdict["winning_round"], place.read_verdict()["winning_round"]} - {None}
        assert set(place.list_weights()) == {0, 2} | winners
        assert place.read_references()["reconstruction_error"]["untrained"] > 0


# References.


def test_references_are_those_of_the_untrained_network_with_the_numbers_of_images(ends_kept, setup):
    place, _ = ends_kept
    ((column, entry),) = place.read_references().items()
    untrained = setup.evaluator.evaluate(*train.evaluated(setup.init(0)), 0)
    assert entry["untrained"] == untrained[column] and entry["held_out"] is None
    assert (entry["training_images"], entry["held_out_images"]) == (len(setup.images), 296)


# The feature networks of earlier rounds.


def started(path, rows, features=None, about=True):
    place = Workdir(path)
    path.mkdir()
    content = {"config": {}} | ({"about": {"features": features} if features else {}} if about else {})
    place.config.write_text(json.dumps(content))
    place.write_rounds(rows)
    return place


def test_rounds_in_other_feature_networks_than_those_of_earlier_rounds_are_refused(tmp_path):
    here = SimpleNamespace(about={"features": {"digits": "new", "faces": "same"}})
    place = started(tmp_path / "run", [{"round": 0, "fd_digits": 3.0}], {"digits": "old", "faces": "same"})
    with pytest.raises(
        UserError, match="other feature networks: digits is old there and new here; .* another --workdir"
    ):
        feature_networks.check(here, place, 0, f"--workdir={place.path}")
    feature_networks.check(SimpleNamespace(about={"features": {"digits": "old"}}), place, 0, "")
    place.write_rounds([])
    feature_networks.check(here, place, 0, "")


def test_an_older_workdir_goes_on_if_its_dense_network_is_measured_as_it_was(ends_kept, setup, tmp_path):
    shutil.copytree(ends_kept[0].path, tmp_path / "run")
    place = Workdir(tmp_path / "run")
    content = json.loads(place.config.read_text())
    del content["about"]["features"]
    place.config.write_text(json.dumps(content))
    place.checksums.unlink()  # Older workdirs have none.
    feature_networks.check(setup, place, 0, "")
    rows = place.read_rounds()
    place.write_rounds([{**row, "reconstruction_error": 1.05 * row["reconstruction_error"]} for row in rows])
    with pytest.raises(UserError, match="its dense network is measured otherwise now: reconstruction_error was"):
        feature_networks.check(setup, place, 0, f"--workdir={place.path}")


def test_the_choice_of_features_of_a_workdir_is_kept(setup, data_directory, tmp_path):
    config = tiny("gan_digits", data_directory, **{"eval.features": "auto"})
    place = Workdir(tmp_path)
    place.config.write_text(json.dumps({"config": {"eval": {"features": "faces"}}}))
    assert feature_networks.resolved(config, place).eval.features == "faces" and config.eval.features == "auto"
    # Where no metric reads the field, it is only compared: older workdirs have the default of their time.
    unread = tiny("ae_digits", data_directory, **{"eval.features": "auto"})
    assert feature_networks.resolved(unread, place).eval.features == "faces"
    place.config.write_text(json.dumps({"config": {"eval": {}}}))
    assert feature_networks.resolved(unread, place).eval.features == "faces"
    assert feature_networks.resolved(unread, Workdir(tmp_path / "new")).eval.features == "auto"
