"""Every network learns something about digits in 200 steps; so does a DCGAN with each loss and penalty."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxtickets import config as config_lib
from jaxtickets import data, models, train
from jaxtickets.data import batches
from jaxtickets.devices import AXIS, replicate, unreplicate
from jaxtickets.examples import to_float
from jaxtickets.objectives import LOSSES, OBJECTIVES, PENALTIES
from jaxtickets.optimizers import make_optimizers

STEPS, BATCH = 200, 16
# The fields in which each network's config differs from `configured`.
NETWORKS = {
    "dcgan": {},
    "sngan": {"objective.loss": "hinge"},
    "sngan_resnet": {"objective.loss": "hinge"},
    "resnet_dcgan": {},
    "sagan": {"objective.loss": "hinge"},
    "linear_vae": {"objective.name": "vae", "model.width": 64, "model.image_size": 28},
    "conv_vae": {"objective.name": "vae"},
    "resnet_vae": {"objective.name": "vae"},
    "sngan_resnet_vae": {"objective.name": "vae"},
    "vq_vae": {"objective.name": "vq_vae", "model.codes": 16},
    "linear_ae": {"objective.name": "autoencoder", "model.width": 64, "model.image_size": 28},
    "conv_ae": {"objective.name": "autoencoder"},
    "pooled_ae": {"objective.name": "autoencoder"},
}
SLOW = {"sngan", "resnet_dcgan", "sagan", "resnet_vae", "sngan_resnet_vae"}  # These take long to compile.
LAYER_NORM = {"model.discriminator_norm": "layer"}
RMSPROP = {"optimizer.name": "rmsprop", "optimizer.beta1": 0.9}
COMBINATIONS = {
    "dcgan, hinge": {"objective.loss": "hinge"},
    "dcgan, least_squares": {"objective.loss": "least_squares"},
    "dcgan, wasserstein": {"objective.loss": "wasserstein", "objective.clip": 0.05, **RMSPROP},
    "dcgan, wasserstein, wgan_gp": {"objective.loss": "wasserstein", "objective.penalty": "wgan_gp", **LAYER_NORM},
    "dcgan, r1": {"objective.penalty": "r1", **LAYER_NORM},
    "dcgan, dragan": {"objective.penalty": "dragan", **LAYER_NORM},
    "dcgan, spectral": {"model.discriminator_norm": "spectral"},
    "dcgan, augmented and averaged": {
        "objective.augmentations": ("color", "translation", "cutout"),
        "objective.ema_decay": 0.99,
    },
    "sngan_resnet, conditional": {"objective.loss": "hinge", "model.conditional": True},
    "sagan, conditional": {"objective.loss": "hinge", "model.conditional": True},
    "resnet_dcgan, conditional": {"model.conditional": True},
    "vq_vae, running averages": {"objective.name": "vq_vae", "model.codes": 16, "model.codebook_decay": 0.9},
}


def test_every_network_loss_and_penalty_is_here():
    assert set(NETWORKS) == set(models.NETWORKS)
    for values, field in ((LOSSES, "objective.loss"), (PENALTIES, "objective.penalty")):
        default = config_lib.flat(config_lib.get_config())[field]
        assert {changes.get(field, default) for changes in COMBINATIONS.values()} >= set(values)


def configured(name, changes, data_directory):
    config = config_lib.get_config()
    config.model.update(name=name, width=4, latent_size=8, image_size=16)
    config.data.update(name="digits", dir=data_directory)
    config.train.update(batch_size=BATCH, steps=STEPS)
    if changes.get("objective.name", "gan") == "gan":
        # The discriminator learns faster, so that it is ahead of the generator in the end and its loss has fallen.
        config.optimizer.update(learning_rate=5e-4, discriminator_learning_rate=4e-3, beta1=0.5)
    else:
        config.optimizer.learning_rate = 2e-3
    config.update_from_flattened_dict(changes)
    config_lib.validate(config, jax.local_device_count())
    return config


def fit(config, objective, digits):
    """`(the state after 200 steps, on the host, {scalar: [steps]})`."""
    devices = jax.local_device_count()
    optimizers = make_optimizers(objective, config.optimizer)
    moving = train.movers(objective, 0)
    step = train.make_step(objective, optimizers, moving)
    initial = train.init_state(objective, optimizers, config.seed)
    state, masks = (replicate(tree) for tree in (initial, jax.tree.map(lambda _: None, initial.params)))
    labels = digits.labels if config.model.conditional else None
    resident = replicate((np.asarray(digits.images), labels))
    history = []
    chosen = partial(batches.indices, config.seed, n=len(digits.images), batch_size=BATCH)
    for _, batch, indices in batches.resident(resident, chosen, [range(n, n + 1) for n in range(STEPS)], devices):
        state, scalars = step(state, masks, batch, indices)
        history.append(scalars)
    history = jax.device_get(history)
    return unreplicate(state), {name: np.array([scalars[name][0] for scalars in history]) for name in history[0]}


def check(name, changes, data_directory):
    config = configured(name, changes, data_directory)
    components = models.build(config.model, 1, 10, axis_name=AXIS)
    objective = OBJECTIVES[config.objective.name].make(components, config)
    digits = data.load("digits", "train", config.model.image_size, data_directory)
    state, scalars = fit(config, objective, digits)
    for values in scalars.values():
        assert np.all(np.isfinite(values))
    loss = scalars["discriminator_loss" if config.objective.name == "gan" else "loss"]
    assert loss[-20:].mean() < loss[:5].mean()

    params, batch_stats = train.evaluated(state)
    if objective.sample:
        keys = jax.random.split(jax.random.key(0), BATCH)
        labels = np.arange(BATCH, dtype=np.int32) % 10 if config.model.conditional else None
        images = jax.jit(objective.sample)(params, batch_stats, keys, labels)
    else:
        images = jax.jit(objective.reconstruct)(params, batch_stats, to_float(digits.images[:BATCH]))
    assert images.shape == (BATCH, *digits.images.shape[1:])
    assert np.std(images, axis=0).mean() > 0.01


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS]
)
def test_every_network_learns(name, data_directory):
    check(name, NETWORKS[name], data_directory)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMBINATIONS)
def test_other_combinations_learn(name, data_directory):
    check(name.split(",")[0], COMBINATIONS[name], data_directory)
