"""The compiled step of a config, compared with NumPy: learning rate, movement, teacher, and the losses of scores."""

import chex
import jax
import numpy as np
import pytest
from conftest import FUSES_AS_USUAL, finish, moments, tiny

from jaxtickets import masks as mask_lib
from jaxtickets import models, pruning, train
from jaxtickets.data.batches import blocks
from jaxtickets.devices import replicate, unreplicate
from jaxtickets.examples import to_float
from jaxtickets.runs import Setup

STEPS, TAUGHT = 4, 0.5
RATE, FINAL_RATE, BETA1, BETA2 = 3e-4, 0.25, 0.5, 0.999


def config(data_directory, **changes):
    given = {"train.steps": STEPS, "train.log_every": 2, "rewind_step": 1, "optimizer.final_rate": FINAL_RATE}
    given |= {"optimizer.learning_rate": RATE}
    given |= {"prune.score": "movement", "prune.sparsities": (0.5,), "objective.distillation": TAUGHT}
    return tiny("gan_digits", data_directory, **given | changes)


@pytest.fixture(scope="module")
def setup(quick_runs, data_directory):
    return Setup(config(data_directory))


def advance(setup, state, masks, teacher, steps):
    """Trains step by step: `(the states after 0, 1, ... steps, the scalars of each step)` on the host."""
    states, scalars = [state], []
    state, masks, teacher = (replicate(tree) for tree in (state, masks, teacher))
    for block, *batch in setup.batches([0], blocks(0, steps, 1, lambda step: False)):
        state, values = setup.programs.get(block.start)(state, masks, *batch, teacher)
        states.append(unreplicate(state))
        scalars.append({name: float(value[0]) for name, value in values.items()})
    return states, scalars


@pytest.fixture(scope="module")
def taught(setup):
    """`(masks, states, scalars)` of a sparse network taught by one of other weights, beyond the config's last step."""
    state = setup.init(0)
    masks = pruning.prune(pruning.random(state.params, setup.dense_masks, 0), setup.dense_masks, 0.5)
    teacher = setup.teacher(setup.init(7), 1.0)
    return masks, *advance(setup, train.rewind(state, masks), masks, teacher, STEPS + 2)


def test_the_learning_rate_falls_linearly_to_its_final_share_and_stays(taught):
    _, states, _ = taught
    for number, (before, after) in enumerate(zip(states, states[1:], strict=False)):
        rate = RATE * (1 - (1 - FINAL_RATE) * min(number / STEPS, 1))
        for player in after.opt_state:
            (first, second), count = moments(after, player)
            assert count == number + 1
            for path, mean in mask_lib.named_leaves(first).items():
                square = np.float64(mask_lib.named_leaves(second)[path]) / (1 - BETA2**count)
                update = -rate * np.float64(mean) / (1 - BETA1**count) / (np.sqrt(square) + 1e-8)
                old, new = (np.float64(mask_lib.named_leaves(state.params)[path]) for state in (before, after))
                np.testing.assert_allclose(new - old, update, rtol=1e-3, atol=1e-7, err_msg=path)


def test_movement_is_the_sum_of_minus_gradient_times_weight(taught):
    _, states, _ = taught
    total = {path: np.zeros(leaf.shape) for path, leaf in mask_lib.named_leaves(states[0].params).items()}
    for before, after in zip(states, states[1:], strict=False):
        for player in after.opt_state:
            old, new = (mask_lib.named_leaves(moments(state, player)[0][0]) for state in (before, after))
            for path in new:
                gradient = (np.float64(new[path]) - BETA1 * np.float64(old[path])) / (1 - BETA1)
                total[path] -= gradient * mask_lib.named_leaves(before.params)[path]
    for path, leaf in mask_lib.named_leaves(states[-1].movement).items():
        np.testing.assert_allclose(leaf, total[path], rtol=1e-3, atol=1e-6 * np.abs(total[path]).max(), err_msg=path)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(states[0].movement))


def test_a_teacher_adds_the_mean_divergence_at_the_real_images(setup, taught):
    masks, states, scalars = taught
    components, teacher = setup.components(), setup.init(7)
    for number in range(3):
        batch = setup.scoring_batch(states[number], masks, number)
        images = to_float(batch["images"])
        trees = batch["params"], batch["batch_stats"]
        student, _ = models.apply(components, *trees, "discriminator", images, True)
        probabilities = [
            1 / (1 + np.exp(-np.float64(logits)))
            for logits in (
                models.apply(components, teacher.params, teacher.batch_stats, "discriminator", images, False)[0],
                student,
            )
        ]
        p, q = probabilities
        divergence = np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
        assert scalars[number]["distillation"] == pytest.approx(divergence, rel=1e-3)
        own = {"discriminator": states[number].params["discriminator"]}
        alone = float(setup.losses[("discriminator",)](own, batch))
        assert scalars[number]["discriminator_loss"] == pytest.approx(alone + TAUGHT * divergence, rel=1e-5)


def test_scores_read_the_losses_of_the_step(setup, taught):
    masks, states, scalars = taught
    for number in range(3):
        before, after = states[number : number + 2]
        # The generator moves second, against the discriminator that has just moved.
        moved = before.replace(params={**before.params, "discriminator": after.params["discriminator"]})
        batch = setup.scoring_batch(moved, masks, number)
        loss = setup.losses[("generator",)](mask_lib.apply(moved.params, masks), batch)
        assert scalars[number]["generator_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_scores_read_the_losses_of_an_autoencoders_step(setup, data_directory):
    vae = Setup(tiny("vae_digits", data_directory))
    state = vae.init(0)
    _, (scalars,) = advance(vae, state, vae.dense_masks, None, 1)
    ((components, loss),) = vae.losses.items()
    assert set(components) == {"encoder", "decoder"}
    batch = vae.scoring_batch(state, vae.dense_masks, 0)
    expected = scalars["reconstruction"] + scalars["kl"]
    assert float(loss(state.params, batch)) == pytest.approx(expected, rel=1e-5)


def test_a_temperature_changes_the_discriminators_loss(setup):
    state = setup.init(0)
    batch = setup.scoring_batch(state, setup.dense_masks, 0)
    tempered = float(setup.tempered_losses[("discriminator",)](state.params, batch))
    # Over 200 all outputs are nearly 0: two cross-entropies of one half.
    assert tempered == pytest.approx(2 * np.log(2), rel=1e-2)
    assert tempered != float(setup.losses[("discriminator",)](state.params, batch))


def test_rematerialisation_costs_flops_and_changes_no_result(setup, data_directory):
    again = Setup(config(data_directory, **{"train.rematerialize": True}), like=setup)
    start, teacher = setup.init(0), setup.teacher(setup.init(7), 1.0)
    (kept, kept_scalars), (computed, scalars) = (
        advance(each, start, setup.dense_masks, teacher, 1) for each in (setup, again)
    )
    assert scalars[0] == pytest.approx(kept_scalars[0], rel=1e-4)
    chex.assert_trees_all_close(computed[1].batch_stats, kept[1].batch_stats, rtol=1e-4, atol=1e-6)
    less, more = (each.programs.get(0).cost_analysis()["flops"] for each in (setup, again))
    assert more > 1.1 * less


def test_a_teacher_without_weight_changes_no_bit(setup, data_directory):
    state = setup.init(0)
    alone = Setup(config(data_directory, **{"objective.distillation": 0.0}))
    (*_, ours), _ = advance(setup, state, setup.dense_masks, setup.teacher(state, 0.0), 3)
    (*_, theirs), _ = advance(alone, state, alone.dense_masks, alone.teacher(state, 0.0), 3)
    if FUSES_AS_USUAL:
        chex.assert_trees_all_equal(ours, theirs)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert alone.teacher(state, 1.0) is None


def test_the_dense_discriminator_teaches_every_round_but_round_zero(setup, data_directory, tmp_path):
    one, given = Setup(config(data_directory), like=setup), []
    teacher = one.teacher

    def noted(state, weight):
        given.append((state, weight))
        return teacher(state, weight)

    one.teacher = noted
    run, _ = finish(one, tmp_path / "run")
    (_, none), (state, weight) = given
    assert (none, weight) == (0, 1)
    chex.assert_trees_all_equal(state, run.dense)
    assert int(state.step) == STEPS
