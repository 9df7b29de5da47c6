"""Tests that the PyTorch networks of the benchmarks compute what jaxtickets computes, in float64."""

import importlib
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, init

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import models, train
from jaxtickets.devices import AXIS, replicate, unreplicate
from jaxtickets.examples import example_keys, to_float
from jaxtickets.objectives import OBJECTIVES, Batch, normal
from jaxtickets.optimizers import make_optimizers
from jaxtickets.pruning import magnitude, prune

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "benchmarks"))  # The folder is not a package.
torch_networks = importlib.import_module("torch_networks")

BATCH, LATENT, STEPS = 8, 6, 2
# The objective, its options, the optimiser's options, and the image size: a ResNet for 16x16 lacks one kind of block.
GAMES = {
    "dcgan": ("gan", {"real_label": 0.9}, {"learning_rate": 1e-3}, 16),
    "conv_vae": ("vae", {"beta": 2.0}, {"weight_decay": 1e-2}, 16),
    "sngan_resnet": ("gan", {"loss": "hinge"}, {"beta1": 0.0, "beta2": 0.9}, 32),
}


def sizes(name):
    return {"width": 4, "latent_size": LATENT, "image_size": GAMES[name][3]}


def game(name, axis_name=None):
    """`(config, objective)`, with networks that compute in float64."""
    objective, options, optimizer, _ = GAMES[name]
    config = config_lib.get_config()
    config.objective.update(options)
    config.optimizer.update(optimizer)
    components = models.NETWORKS[name].make(**sizes(name), channels=3, dtype=jnp.float64, axis_name=axis_name)
    return config, OBJECTIVES[objective].make(components, config)


def as_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def torch_game(name, params, batch_stats):
    networks = torch_networks.MODELS[name](**sizes(name)).double()
    torch_networks.load(networks, params, batch_stats)
    return networks


def random_images(name):
    return np.random.default_rng(0).integers(0, 256, (BATCH, *[sizes(name)["image_size"]] * 2, 3), dtype=np.uint8)


def to_torch(images):
    return torch.from_numpy(np.asarray(images, np.float64).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("name", GAMES)
def test_losses_and_gradients_of_each_player_agree(name):
    with jax.enable_x64(True):
        config, objective = game(name)
        params, batch_stats = map(as_float64, init(objective.components))
        images, keys = to_float(random_images(name)), jax.random.split(jax.random.key(1), BATCH)
        for player_name, player in objective.players.items():

            def loss(own, player=player):
                return player.loss({**params, **own}, batch_stats, Batch(images, keys))[0]

            own = {component: params[component] for component in player.components}
            value, gradients = jax.jit(jax.value_and_grad(loss))(own)
            networks = torch_game(name, params, batch_stats)
            noise = torch.from_numpy(np.array(normal(keys, LATENT)))
            expected = torch_networks.losses(networks, config.objective)[player_name](to_torch(images), noise)
            assert float(value) == pytest.approx(expected.item(), rel=1e-9)
            trained = {
                path: weight for path, weight in networks.named_parameters() if path.startswith(player.components)
            }
            ours = torch_networks.named_tensors(networks, gradients)
            assert ours.keys() == trained.keys()
            theirs = torch.autograd.grad(expected, list(trained.values()))
            # The gradient of a bias in front of a batch norm is rounding errors.
            atol = 1e-9 * max(float(gradient.abs().max()) for gradient in theirs)
            for path, gradient in zip(trained, theirs, strict=True):
                np.testing.assert_allclose(ours[path], gradient, rtol=1e-7, atol=atol, err_msg=path)


@pytest.mark.parametrize("name", GAMES)
def test_masked_steps_leave_the_same_weights(name):
    with jax.enable_x64(True):
        config, objective = game(name, axis_name=AXIS)
        optimizers = make_optimizers(objective, config.optimizer)
        point = train.init_state(game(name)[1], optimizers, 0)
        masks = prune(magnitude(point.params, mask_lib.ones(point.params)), mask_lib.ones(point.params), 0.5)
        point = point.replace(**{field: as_float64(getattr(point, field)) for field in ("params", "batch_stats")})
        opt_state = {
            player: optimizers[player].init({name: point.params[name] for name in objective.players[player].components})
            for player in objective.players
        }
        start = train.rewind(point.replace(opt_state=opt_state), masks)
        images = random_images(name)

        networks = torch_game(name, start.params, start.batch_stats)
        torch_step = torch_networks.make_step(networks, config, masks, LATENT)
        for number in range(STEPS):
            keys = partial(example_keys, jnp.uint32(0), number, examples=jnp.arange(BATCH))
            noise = [normal(keys(tag), LATENT) for tag, _, _ in train.tagged_players(objective)]
            torch_step(to_torch(to_float(images)), torch.from_numpy(np.stack(noise)))

        step = train.make_step(objective, optimizers, tuple(objective.players))
        state, on_devices, data = replicate((start, masks, (images, None)))
        indices = np.arange(BATCH, dtype=np.int32).reshape(jax.local_device_count(), -1)
        for _ in range(STEPS):
            state, _ = step(state, on_devices, data, indices)
        ours = torch_networks.named_tensors(networks, unreplicate(state).params)
    for path, weight in networks.named_parameters():
        np.testing.assert_allclose(ours[path], weight.detach(), rtol=1e-6, atol=1e-9, err_msg=path)
