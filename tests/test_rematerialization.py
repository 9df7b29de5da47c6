"""Tests of rematerialised networks, which compute activations again, against the same networks that keep them."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import init, tiny

from jaxtickets import config as config_lib
from jaxtickets import cost, models, train
from jaxtickets import masks as mask_lib
from jaxtickets.flops import config_layers
from jaxtickets.objectives import OBJECTIVES, Batch
from jaxtickets.optimizers import make_optimizers
from jaxtickets.runs import Networks

CLASSES = 3
# The objective, the network, and their options that have not their defaults.
GAMES = {
    "dcgan": ("gan", "dcgan", {}, {}),
    "dcgan, r1": ("gan", "dcgan", {"penalty": "r1"}, {"discriminator_norm": "layer"}),
    "sngan_resnet, conditional": ("gan", "sngan_resnet", {"loss": "hinge"}, {"classes": CLASSES}),
    "sagan": ("gan", "sagan", {"loss": "hinge"}, {}),
    "conv_vae": ("vae", "conv_vae", {}, {}),
    "vq_vae": ("vq_vae", "vq_vae", {}, {"codes": 4}),
}


def game(name, rematerialize, dtype=jnp.float32, **sizes):
    objective, model, options, network = GAMES[name]
    config = config_lib.get_config()
    config.objective.update(options)
    sizes = {"width": 4, "latent_size": 6, "image_size": 16, "channels": 1, **network, **sizes}
    components = models.NETWORKS[model].make(**sizes, dtype=dtype, rematerialize=rematerialize)
    return OBJECTIVES[objective].make(components, config)


def variables(objective):
    """Random `(params, batch_stats)` in float64; batch statistics are above 0."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(models.init, objective.components), jax.random.key(0))
    params, batch_stats = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), shapes)
    return params, jax.tree.map(lambda leaf: np.abs(leaf) + 0.1, batch_stats)


def moves(objective):
    """`{player: (gradients, (batch statistics, scalars))}` for a batch of noise, compiled as one program."""
    params, batch_stats = variables(objective)
    images = np.random.default_rng(1).uniform(-1, 1, (4, 16, 16, 1))
    labels = np.arange(4, dtype=np.int32) % CLASSES

    @jax.jit
    def run(params, batch_stats):
        batch, moved = Batch(images, jax.random.split(jax.random.key(0), 4), labels), {}
        for name, player in objective.players.items():

            def loss(own, player=player):
                return player.loss({**params, **own}, batch_stats, batch)

            moved[name] = jax.grad(loss, has_aux=True)({part: params[part] for part in player.components})
        return moved

    return run(params, batch_stats)


def differ(first, second):
    return any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), first, second)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "dcgan" else pytest.mark.slow) for name in GAMES]
)
def test_a_rematerialised_step_is_that_of_kept_activations(name):
    with jax.enable_x64(True):
        kept, again = (moves(game(name, rematerialize, jnp.float64)) for rematerialize in (False, True))
        _, before = variables(game(name, False))
    chex.assert_trees_all_close(again, kept, rtol=1e-10, atol=1e-12)
    for gradients, (batch_stats, _) in again.values():
        assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {np.dtype("float64")}
        assert differ(gradients, jax.tree.map(np.zeros_like, gradients))
        assert not jax.tree.leaves(before) or differ(batch_stats, before)


@pytest.mark.parametrize("name", ["vq_vae", pytest.param("sagan", marks=pytest.mark.slow)])
def test_parameters_their_names_and_initial_values_are_the_same(name):
    kept, again = (game(name, rematerialize).components for rematerialize in (False, True))
    chex.assert_trees_all_equal(init(again), init(kept))
    assert models.axis_names(again) == models.axis_names(kept)
    chex.assert_trees_all_equal(models.kernel_uses(again), models.kernel_uses(kept))
    assert models.products(again) == models.products(kept)


def test_the_flops_of_a_step_count_what_is_computed_again():
    kept, again = (game("dcgan", rematerialize) for rematerialize in (False, True))
    once, more = (cost.step_work(each, (16, 16, 1), 4) for each in (kept, again))
    # Real and generated images pass through the discriminator, and images that teach the generator. The output of its
    # last layer is not needed for a gradient.
    computed_again = {"discriminator": 3, "generator": 1}
    computed_again = {path: computed_again[path.split("/")[0]] for path in once.passes}
    computed_again["discriminator/project/conv/kernel"] = 0
    assert more.other == once.other
    assert more.passes == {path: n + computed_again[path] for path, n in once.passes.items()}


def config(data_directory, **changes):
    return tiny("gan_digits", data_directory, **changes)


def test_the_flops_of_a_config_are_the_same(data_directory):
    kept, again = (config(data_directory, **{"train.rematerialize": value}) for value in (False, True))
    assert config_layers(again) == config_layers(kept)
    assert Networks(again).flops() == Networks(kept).flops()


def test_a_step_takes_less_memory():
    def bytes_of(rematerialize):
        objective = game("conv_vae", rematerialize, image_size=64)
        optimizers = make_optimizers(objective, config_lib.get_config().optimizer)
        state, devices = jax.eval_shape(partial(train.init_state, objective, optimizers, 0)), jax.local_device_count()
        images, indices = np.zeros((16, 64, 64, 1), np.uint8), np.zeros(16, np.int32)
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((devices, *leaf.shape), leaf.dtype),
            (state, mask_lib.ones(state.params), (images, None), indices),
        )
        lowered = train.make_step(objective, optimizers, tuple(objective.players)).lower(*shapes)
        return train.program_bytes(lowered.compile(train.compiler_options(rematerialize)))

    assert bytes_of(True) < 0.7 * bytes_of(False)
