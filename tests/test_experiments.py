"""Whole small runs: the invariants over rounds, resuming, re-entering, the workdir and the verdict."""

import csv
import json
import shutil
import threading

import jax
import numpy as np
import pytest
from conftest import Killed, finish, kill_after, open_run, tiny, untimed_rounds, untimed_scalars
from PIL import Image

from jaxtickets import masks as mask_lib
from jaxtickets import report, snapshots, tickets
from jaxtickets.errors import UserError
from jaxtickets.experiments import METHODS
from jaxtickets.runs import Setup, judge, record
from jaxtickets.train import evaluated
from jaxtickets.workdir import Workdir

pytestmark = pytest.mark.usefixtures("quick_runs")

# The last one has two critic steps, averaged weights, labels and augmentation.
CONFIGS = ("gan_digits", "vae_digits", "ae_digits", "sngan_conditional")
ROUNDS = 3


def small(name, data_directory, **changes):
    """A tiny config; that of the conditional GAN has a train state with all that one can hold."""
    if name == "sngan_conditional":
        changes = {
            "objective.n_critic": 2,
            "objective.ema_decay": 0.9,
            "objective.augmentations": ("translation",),
            **changes,
        }
    return tiny(name, data_directory, **changes)


@pytest.fixture(scope="module")
def finished(quick_runs, base, data_directory, tmp_path_factory):
    """One finished run of each kind: `{config: (run, verdict)}`."""
    runs = {}
    for name in CONFIGS:
        path = tmp_path_factory.mktemp(name) / "workdir"
        runs[name] = finish(Setup(small(name, data_directory), like=base(name)), path)
    return runs


def rows(path, name="rounds.csv"):
    """The rows of a table as they are written."""
    with (path / name).open() as file:
        return list(csv.DictReader(file))


def all_masks(run):
    return [run.saved_masks(round_) for round_ in range(ROUNDS + 1)]


@pytest.mark.parametrize("name", CONFIGS)
def test_masks_of_later_rounds_are_nested_and_exact(finished, name):
    run, _ = finished[name]
    masks = all_masks(run)
    weights = mask_lib.counts(masks[0]).weights
    for round_, (earlier, later) in enumerate(zip(masks, masks[1:], strict=False), start=1):
        assert mask_lib.is_nested(later, earlier)
        assert mask_lib.counts(later).kept == weights - round((1 - 0.5**round_) * weights)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_pruned_weight_is_zero_in_every_saved_state(finished, name):
    run, verdict = finished[name]
    last = snapshots.LastState(run.place.snapshot("last"))
    round_, state, saved, stop, _ = last.restore(run.initial_state, run.dense_masks)
    masks = run.saved_masks(ROUNDS)
    assert (round_, stop) == (ROUNDS, 12)
    assert mask_lib.hamming_distance(saved, masks) == 0
    trees = [(state.params, masks), (evaluated(state)[0], masks)]
    if verdict["winning_round"] is not None:
        ticket = tickets.load_ticket(run.place.ticket)
        trees.append((ticket.params, run.saved_masks(verdict["winning_round"])))
    for params, masks in trees:
        leaves = mask_lib.named_leaves(params)
        for path, mask in mask_lib.named_leaves(masks).items():
            assert np.all(np.asarray(leaves[path])[~mask] == 0), path


def test_a_ticket_file_holds_the_mask_and_the_whole_rewind_point(finished, tmp_path):
    run, _ = finished["gan_digits"]
    masks = run.saved_masks(2)
    tickets.save_ticket(tmp_path / "t.safetensors", masks, run.rewind_point, metadata={"round": 2})
    ticket = tickets.load_ticket(tmp_path / "t.safetensors")
    assert ticket.metadata == {"round": 2}
    assert jax.tree.structure(ticket.masks) == jax.tree.structure(masks)
    assert mask_lib.hamming_distance(ticket.masks, masks) == 0
    state = tickets.load_state(tmp_path / "t.safetensors", run.initial_state)
    assert jax.tree.structure(state) == jax.tree.structure(run.rewind_point)
    assert int(state.step) == run.timeline.rewind_step == 3
    before, after = mask_lib.named_leaves(run.rewind_point.params), mask_lib.named_leaves(state.params)
    for path, mask in mask_lib.named_leaves(masks).items():
        np.testing.assert_array_equal(after[path], np.where(mask, before[path], 0))


@pytest.mark.parametrize("content", [b"", b"no ticket"])
def test_a_file_that_is_no_ticket_is_refused(tmp_path, content):
    (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="ticket"):
        tickets.load_ticket(tmp_path / "t.safetensors")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_workdir_holds_what_its_contract_says(finished, name):
    path = finished[name][0].place.path
    assert set(json.loads((path / "config.json").read_text())) >= {"config", "versions", "devices", "git_revision"}
    table = rows(path)
    assert [row["round"] for row in table] == ["0", "1", "2", "3"]
    metrics = {
        "gan_digits": ["fd_digits", "diversity_digits"],
        "vae_digits": ["fd_digits", "kl", "negative_elbo", "reconstruction", "diversity_digits"],
        "ae_digits": ["reconstruction_error"],
        "sngan_conditional": ["fd_digits", "diversity_digits"],
    }[name]
    before, after = ["round", "sparsity", "sparsity_all", "density"], ["flops_dense", "flops_effective", "params_kept"]
    assert list(table[0]) == [*before, *metrics, *after, "train_seconds", "steps_per_second", "step_bytes"]
    assert all(np.isfinite(float(row[metric])) for row in table for metric in metrics)
    logged = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    steps = [(row["round"], row["step"]) for row in logged if row["split"] == "train"]
    assert steps == [(0, 4), (0, 8), (0, 12)] + [(round_, step) for round_ in (1, 2, 3) for step in (4, 8, 12)]
    assert sorted(entry.name for entry in (path / "masks").iterdir()) == ["000", "001", "002", "003"]
    assert {"init", "rewind", "last"} <= {entry.name for entry in (path / "snapshots").iterdir()}
    grids = [np.asarray(Image.open(path / "samples" / f"round_{round_:03d}.png")) for round_ in range(4)]
    assert all(grid.shape == grids[0].shape for grid in grids)
    assert any((path / "tb").rglob("events*"))


def test_flops_and_kept_parameters_fall_with_the_masks(finished):
    run, _ = finished["ae_digits"]
    first, *_, last = rows(run.place.path)
    # Width 4, 16x16x1, latent 4: kernels 1-4-8-16 of 4x4, at 8x8, 4x4 and 2x2 positions, and then 2x2 to the code; the
    # decoder mirrors them. Along an axis the taps meet 7 + 8 + 8 + 7, 3 + 4 + 4 + 3 and 1 + 2 + 2 + 1 pixels. Two FLOPs
    # per multiplication and addition.
    encoder = 30**2 * 1 * 4 + 14**2 * 4 * 8 + 6**2 * 8 * 16 + 4 * 16 * 4
    assert first["flops_dense"] == first["flops_effective"] == str(2 * 2 * encoder)
    assert int(last["flops_effective"]) < int(last["flops_dense"]) / 4
    weights, kept = mask_lib.counts(run.saved_masks(ROUNDS))
    assert int(first["params_kept"]) - int(last["params_kept"]) == weights - kept
    layers = [row for row in rows(run.place.path, "layers.csv") if row["round"] == "3"]
    assert sum(int(row["kept"]) for row in layers) == kept


@pytest.mark.parametrize("name", ["gan_digits", "sngan_conditional"])
def test_nothing_is_compiled_after_round_zero(data_directory, tmp_path, name):
    """Neither training, evaluation, pruning and rewinding nor the verdict and the report compile anything."""
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    config = small(name, data_directory, **{"prune.rounds": 3})
    with open_run(Setup(config), tmp_path / "workdir") as run:
        recorded, counts = run.round, []

        def round_(*arguments):
            recorded(*arguments)
            counts.append(len(compiled))

        run.round = round_
        jax.monitoring.register_event_duration_secs_listener(listen)
        METHODS["imp"].recipe(run)
        run.finish()
        report.build(run.place.path)
        counts.append(len(compiled))
        jax.monitoring.unregister_event_duration_listener(listen)
    assert counts[0] > 0
    assert counts == [counts[0]] * 5  # Four rounds, and what comes after them.


@pytest.mark.parametrize(
    ("name", "round_", "step"),
    [
        *(("gan_digits", *where) for where in [(0, 2), (0, 12), (1, 11), (2, 5)]),
        *(
            pytest.param(*where, marks=pytest.mark.slow)
            for where in [("gan_digits", 0, 6), ("sngan_conditional", 1, 11)]
        ),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(finished, data_directory, tmp_path, name, round_, step):
    (whole, whole_verdict), path = finished[name], tmp_path / "workdir"
    setup = Setup(whole.setup.config, like=whole.setup)
    with pytest.raises(Killed), open_run(setup, path) as run:
        kill_after(setup, step if round_ == 0 else 12 + (round_ - 1) * 9 + step - 3)
        if step == 12:
            setup.evaluator = setup.evaluator._replace(evaluate=lambda *_: (_ for _ in ()).throw(Killed))
        METHODS["imp"].recipe(run)
    assert len(rows(path)) == round_ if (path / "rounds.csv").exists() else round_ == 0
    run, verdict = finish(Setup(whole.setup.config, like=whole.setup), path)

    for ours, theirs in zip(all_masks(run), all_masks(whole), strict=True):
        assert mask_lib.hamming_distance(ours, theirs) == 0
    jax.tree.map(np.testing.assert_array_equal, run.trained, whole.trained)
    assert verdict == whole_verdict
    assert untimed_rounds(path) == untimed_rounds(whole.place.path)
    assert rows(path, "layers.csv") == rows(whole.place.path, "layers.csv")
    assert untimed_scalars(path) == untimed_scalars(whole.place.path)


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_references_measured_beside_the_training_are_those_measured_after_it(
    finished, base, data_directory, tmp_path, monkeypatch, fails
):
    place, threads = finished["gan_digits"][0].place, []
    setup = Setup(small("gan_digits", data_directory), like=base("gan_digits"))
    references = setup.evaluator.references

    def watched(*arguments):
        threads.append(threading.current_thread().name)
        if fails and len(threads) == 1:
            raise RuntimeError("no memory")
        return references(*arguments)

    setup.evaluator = setup.evaluator._replace(references=watched)
    monkeypatch.setattr(record, "evaluates_beside_training", lambda: True)
    finish(setup, tmp_path / "run")
    assert threads == (["references", "MainThread"] if fails else ["references"])
    assert Workdir(tmp_path / "run").read_references() == place.read_references()
    assert untimed_rounds(tmp_path / "run") == untimed_rounds(place.path)


@pytest.mark.parametrize("round_", [0, 2, 3])
def test_a_finished_run_can_be_entered_again_at_any_round(finished, tmp_path, round_):
    whole, whole_verdict = finished["vae_digits"]
    path = tmp_path / "workdir"
    shutil.copytree(whole.place.path, path)
    Workdir(path).discard_from(round_)
    assert len(rows(path)) == round_ if round_ else not (path / "rounds.csv").exists()
    run, verdict = finish(Setup(whole.config, like=whole.setup), path)
    assert verdict == whole_verdict
    jax.tree.map(np.testing.assert_array_equal, run.trained, whole.trained)


def test_the_weights_of_a_dense_run_of_an_older_version_are_written_from_its_state(finished, tmp_path):
    whole, _ = finished["vae_digits"]
    path = tmp_path / "workdir"
    shutil.copytree(whole.place.path, path)
    shutil.rmtree(path / "weights")
    Workdir(path).discard_from(ROUNDS)
    run, _ = finish(Setup(whole.config, like=whole.setup), path)
    assert run.place.weights(0).read_bytes() == whole.place.weights(0).read_bytes()


def test_a_round_that_is_not_finished_cannot_be_entered_again(finished):
    with pytest.raises(UserError, match="--from_round=4.*0 to 3"):
        finished["vae_digits"][0].place.discard_from(4)


def test_a_finished_run_is_not_run_again(finished):
    whole, whole_verdict = finished["ae_digits"]
    before = whole.place.rounds.read_bytes()
    setup = Setup(whole.config, like=whole.setup)
    kill_after(setup, 0)
    _, verdict = finish(setup, whole.place.path)
    assert verdict == whole_verdict
    assert whole.place.rounds.read_bytes() == before


def test_another_config_is_refused_and_what_differs_is_named(finished, data_directory):
    whole, _ = finished["ae_digits"]
    config = tiny("ae_digits", data_directory, **{"optimizer.learning_rate": 0.5})
    with pytest.raises(UserError, match=r"optimizer.learning_rate is 0\.001 there and 0\.5 here"):
        open_run(Setup(config, like=whole.setup), whole.place.path)


def test_rewinding_to_step_zero_goes_back_to_the_initialisation(base, data_directory, tmp_path):
    config = tiny("ae_digits", data_directory, rewind_step=0.0, **{"prune.rounds": 1})
    run, _ = finish(Setup(config, like=base("ae_digits")), tmp_path / "workdir")
    jax.tree.map(np.testing.assert_array_equal, run.rewind_point, run.initial_state)


def test_the_dense_experiment_is_round_zero(finished, data_directory, tmp_path):
    whole, whole_verdict = finished["ae_digits"]
    config = tiny("ae_digits", data_directory, experiment="dense")
    run, verdict = finish(Setup(config, like=whole.setup), tmp_path / "workdir")
    assert verdict["winning_round"] is None
    assert verdict["dense"] == whole_verdict["dense"]
    assert len(rows(run.place.path)) == 1


@pytest.mark.parametrize("name", ["ae_digits", "sngan_conditional"])
def test_streaming_from_the_host_trains_to_the_same_bits(finished, data_directory, tmp_path, name):
    config = small(name, data_directory, **{"data.placement": "host", "prune.rounds": 1})
    run, _ = finish(Setup(config), tmp_path / "workdir")
    whole = finished[name][0]
    assert mask_lib.hamming_distance(run.saved_masks(1), whole.saved_masks(1)) == 0


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_computing_in_bfloat16_trains_to_finite_metrics(data_directory, tmp_path, dtype):
    config = tiny("gan_digits", data_directory, dtype=dtype, **{"prune.rounds": 1})
    run, _ = finish(Setup(config), tmp_path / "workdir")
    assert {leaf.dtype for leaf in jax.tree.leaves(run.trained.params)} == {np.dtype("float32")}


def table(*values):
    return [{"round": round_, "sparsity": 1 - 0.5**round_, "fd": value} for round_, value in enumerate(values)]


def test_the_winner_is_the_sparsest_round_within_tolerance():
    verdict = judge(table(10.0, 9.0, 12.0, 10.9, 11.1), "fd", "distance", 0.1)
    assert (verdict["winning_round"], verdict["sparsity"], verdict["value"]) == (3, 0.875, 10.9)
    assert verdict["threshold"] == pytest.approx(11.0)
    assert verdict["message"].startswith("Round 3 was within tolerance in this run: ")


def test_there_is_no_winner_when_every_pruned_round_is_worse():
    verdict = judge(table(10.0, 12.0, 11.5), "fd", "distance", 0.1)
    assert verdict["winning_round"] is verdict["sparsity"] is verdict["value"] is None
    assert verdict["message"].startswith("No pruned round was within tolerance in this run: ")
    assert "11.5" in verdict["message"]
