"""Every mistake in a config or a flag: one line that names the field, the value and what is allowed; status 2."""

import contextlib
import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, load_config
from PIL import Image

from jaxtickets import cli, data, models
from jaxtickets import config as config_lib
from jaxtickets.config.timeline import rewind_step
from jaxtickets.errors import UserError
from jaxtickets.experiments import METHODS
from jaxtickets.fields import Field, at_least, whole
from jaxtickets.models import NETWORKS
from jaxtickets.objectives import LOSSES, OBJECTIVES, PENALTIES, Game
from jaxtickets.pruning import SCORES

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))

VAE = {"model.name": "conv_vae", "objective.name": "vae", "objective.real_label": 1.0, "objective.ema_decay": 0.0}
WASSERSTEIN = {"objective.loss": "wasserstein", "objective.real_label": 1.0}
TRANSFER = {"experiment": "transfer", "transfer.of": "runs/vae_digits"}
EARLY_BIRD = {"experiment": "early_bird", "prune.structure": "channel", "prune.score": "gamma"}
# The changes to configs/gan_digits.py:quick, trained for 400 steps, and what the error must say: the field, the value
# and what is allowed.
BAD = [
    ({"experiment": "lottery"}, ["config.experiment='lottery'", "dense, imp"]),
    ({"seed": -1}, ["config.seed=-1", "whole number"]),
    ({"seeds": 0}, ["config.seeds=0", "from 1 to 1000"]),
    ({"seeds": 3, "confidence": 1.0}, ["config.confidence=1.0", "from 0.5 to below 1"]),
    ({"seeds": 3, "confidence": 0.4}, ["config.confidence=0.4", "from 0.5 to below 1"]),
    ({"tickets_per_host": 0}, ["config.tickets_per_host=0", "at least 1"]),
    ({"seeds": 3, "tickets_per_host": 2}, ["config.tickets_per_host=2", "allowed is 1 with 1 local device and"]),
    ({"confidence": 0.99}, ["config.confidence=0.99", "0.95, the default, with config.seeds=1"]),
    ({"dtype": "float16"}, ["config.dtype='float16'", "float32, bfloat16"]),
    ({"rewind_step": -0.1}, ["config.rewind_step=-0.1", "fraction of training"]),
    ({"rewind_step": 12.5}, ["config.rewind_step=12.5", "whole number of steps"]),
    ({"rewind_step": 400.0}, ["config.rewind_step=400.0", "before the end of training, which is step 400"]),
    ({"rewind_step": 10_000.0}, ["config.rewind_step=10000.0", "before the end"]),
    ({"rewind": "all"}, ["config.rewind='all'", "state, weights, learning_rate, none"]),
    (
        {"rewind": "none", "optimizer.final_rate": 0.0},
        ["config.rewind='none'", "config.optimizer.final_rate above 0"],
    ),
    (
        {**VAE, "rewind_discriminator": False},
        ["config.rewind_discriminator=False", "True with config.objective.name='vae'"],
    ),
    (
        {"prune.structure": "2:4", "prune.sparsities": (0.5,)},
        ["config.prune.sparsities=(0.5,)", "()", "config.prune.structure='2:4' has one sparsity"],
    ),
    (
        {"experiment": "rigl", "prune.update_every": 0.9},
        ["config.prune.update_every=0.9", "at most the 300 steps of config.prune.update_until"],
    ),
    ({"tolerance": -0.5}, ["config.tolerance=-0.5", "at least 0"]),
    ({"tolerance": float("nan")}, ["config.tolerance=nan", "at least 0"]),
    ({"model.name": "resnet"}, ["config.model.name='resnet'", "dcgan, sngan, sngan_resnet, resnet_dcgan", "conv_ae"]),
    ({"model.name": "conv_vae"}, ["config.model.name='conv_vae'", "dcgan or sngan", "objective.name='gan'"]),
    ({"model.width": 0}, ["config.model.width=0", "at least 1"]),
    ({"model.latent_size": -3}, ["config.model.latent_size=-3", "at least 1"]),
    ({"model.image_size": 20}, ["config.model.image_size=20", "16, 32, 64"]),
    ({"model.image_size": 256}, ["config.model.image_size=256", "16, 32, 64"]),
    ({"objective.name": "diffusion"}, ["config.objective.name='diffusion'", "gan, vae, vq_vae, autoencoder"]),
    ({"objective.real_label": 1.5}, ["config.objective.real_label=1.5", "at most 1"]),
    ({"objective.beta": -1.0}, ["config.objective.beta=-1.0", "at least 0"]),
    ({"objective.beta": 4.0}, ["config.objective.beta=4.0", "1.0 with config.objective.name='gan'"]),
    ({"objective.commitment": 1.0}, ["config.objective.commitment=1.0", "0.25 with config.objective.name='gan'"]),
    ({"objective.loss": "logistic"}, ["config.objective.loss='logistic'", "non_saturating, least_squares, hinge"]),
    ({"objective.distillation": -1.0}, ["config.objective.distillation=-1.0", "at least 0"]),
    ({**VAE, "objective.distillation": 1.0}, ["config.objective.distillation=1.0", "config.objective.name='vae'"]),
    (
        {"objective.loss": "least_squares", "objective.distillation": 1.0},
        ["config.objective.distillation=1.0", "objective.loss='least_squares'", "non_saturating or hinge"],
    ),
    ({"objective.penalty": "r2"}, ["config.objective.penalty='r2'", "none, wgan_gp, r1, dragan"]),
    ({"objective.penalty": "wgan_gp"}, ["config.objective.penalty='wgan_gp'", "batch norm", "none, layer or spectral"]),
    ({"objective.penalty": "r1"}, ["config.objective.penalty='r1'", "batch norm", "none, layer or spectral"]),
    ({"objective.penalty_weight": 1.0}, ["config.objective.penalty_weight=1.0", "config.objective.penalty='none'"]),
    ({"optimizer.name": "rmsprop"}, ["config.optimizer.beta1=0.5", "config.optimizer.name='rmsprop'"]),
    ({"objective.penalty_weight": -1.0}, ["config.objective.penalty_weight=-1.0", "at least 0"]),
    ({"objective.loss": "hinge"}, ["config.objective.real_label=0.9", "1.0 with config.objective.loss='hinge'"]),
    ({**WASSERSTEIN}, ["config.objective.loss='wasserstein'", "clip above 0", "penalty", "spectral"]),
    ({"objective.clip": 0.01}, ["config.objective.clip=0.01", "0.0 with config.objective.loss='non_saturating'"]),
    (
        {**WASSERSTEIN, "model.discriminator_norm": "layer", "objective.penalty": "wgan_gp", "objective.clip": 0.01},
        ["config.objective.clip=0.01", "0.0 with config.objective.penalty='wgan_gp'"],
    ),
    ({"objective.n_critic": 0}, ["config.objective.n_critic=0", "at least 1"]),
    ({"objective.n_critic": 3}, ["config.train.log_every=50", "a multiple of config.objective.n_critic=3"]),
    ({"train.steps_per_call": -1}, ["config.train.steps_per_call=-1", "at least 0"]),
    (
        {"objective.n_critic": 5, "train.steps_per_call": 8},
        ["config.train.steps_per_call=8", "0, 1 or a multiple of config.objective.n_critic=5"],
    ),
    ({"objective.ema_decay": 1.0}, ["config.objective.ema_decay=1.0", "below 1"]),
    (
        {"objective.augmentations": ("flip",)},
        ["config.objective.augmentations=('flip',)", "color, translation, cutout"],
    ),
    ({"objective.augmentations": ("color", "color")}, ["config.objective.augmentations=", "a tuple of some of"]),
    (
        {"model.discriminator_norm": "group"},
        ["config.model.discriminator_norm='group'", "none, batch, layer, spectral"],
    ),
    ({"model.conditional": True}, ["config.model.conditional=True", "'dcgan'", "sngan_resnet, resnet_dcgan, sagan"]),
    (
        {"model.name": "sngan_resnet", "model.conditional": True, "data.name": "synthetic_faces"},
        ["config.model.conditional=True", "config.data.name='synthetic_faces' has no class labels"],
    ),
    ({"model.codes": 64}, ["config.model.codes=64", "128 with config.model.name='dcgan'", "vq_vae"]),
    ({"model.codebook_decay": 1.0}, ["config.model.codebook_decay=1.0", "below 1"]),
    (
        {"model.channels": {"generator": {"up_8": 0}}},
        ["config.model.channels={'generator': {'up_8': 0}}", "at least 1"],
    ),
    ({"model.channels": {"generator": 3}}, ["config.model.channels={'generator': 3}", "{component: {channel name:"]),
    (
        {"model.channels": {"decoder": {"up_8": 3}}},
        ["config.model.channels.decoder={'up_8': 3}", "discriminator, generator with config.model.name='dcgan'"],
    ),
    ({"model.channels": {"generator": {"up_9": 3}}}, ["config.model.channels.generator.up_9=3", "unproject, up_8"]),
    ({"model.channels": {"generator": {"up_8": 49}}}, ["config.model.channels.generator.up_8=49", "from 1 to 48"]),
    (
        {**VAE, "model.name": "linear_vae"},
        ["config.model.image_size=16", "28, 32 with config.model.name='linear_vae'"],
    ),
    (
        {"model.name": "conv_vae", "objective.name": "vae"},
        ["config.objective.real_label=0.9", "1.0 with config.objective.name='vae'"],
    ),
    (
        {**VAE, "model.discriminator_norm": "layer"},
        ["config.model.discriminator_norm='layer'", "'' with config.model.name='conv_vae'"],
    ),
    ({"optimizer.name": "sgd"}, ["config.optimizer.name='sgd'", "adam, rmsprop"]),
    (
        {"optimizer.discriminator_learning_rate": -1.0},
        ["config.optimizer.discriminator_learning_rate=-1.0", "at least"],
    ),
    ({"optimizer.learning_rate": 0.0}, ["config.optimizer.learning_rate=0.0", "above 0"]),
    ({"optimizer.learning_rate": float("inf")}, ["config.optimizer.learning_rate=inf", "above 0"]),
    ({"optimizer.beta1": 1.0}, ["config.optimizer.beta1=1.0", "below 1"]),
    ({"optimizer.beta2": -0.1}, ["config.optimizer.beta2=-0.1", "below 1"]),
    ({"optimizer.weight_decay": -1e-5}, ["config.optimizer.weight_decay=-1e-05", "at least 0"]),
    ({"optimizer.final_rate": 1.5}, ["config.optimizer.final_rate=1.5", "from 0 to 1"]),
    ({"optimizer.final_rate": -0.1}, ["config.optimizer.final_rate=-0.1", "from 0 to 1"]),
    ({"data.name": "imagenet_of_cats"}, ["data.name='imagenet_of_cats'", "synthetic_faces"]),
    ({"data.name": "folder:/no/such/folder"}, ["/no/such/folder", "no such directory"]),
    ({"data.name": "lsun/kitten"}, ["lsun/kitten", "lsun/bedroom"]),
    ({"data.dir": "setup.py"}, ["data.dir='setup.py'", "not a directory"]),
    ({"data.placement": "cloud"}, ["config.data.placement='cloud'", "auto, device, host"]),
    ({"train.batch_size": 1}, ["config.train.batch_size=1", "at least 2"]),
    ({"train.epochs": 3}, ["config.train.epochs=3", "config.train.steps=400", "exactly one"]),
    ({"train.steps": 0}, ["config.train.epochs=0", "exactly one"]),
    ({"train.steps": -5}, ["config.train.steps=-5", "at least 0"]),
    ({"train.log_every": 0}, ["config.train.log_every=0", "at least 1"]),
    ({"train.checkpoint_every": -1}, ["config.train.checkpoint_every=-1", "at least 0"]),
    (
        {**VAE, "model.name": "linear_vae", "model.image_size": 28, "train.rematerialize": True},
        ["config.train.rematerialize=True", "False with config.model.name='linear_vae', which has no blocks"],
    ),
    ({"prune.rate": 0.0}, ["config.prune.rate=0.0", "between 0 and 1"]),
    ({"prune.rate": 1.0}, ["config.prune.rate=1.0", "between 0 and 1"]),
    ({"prune.rate": -1.0}, ["config.prune.rate=-1.0", "between 0 and 1"]),
    ({"prune.rounds": 0}, ["config.prune.rounds=0", "at least 1"]),
    ({"prune.rounds": -2}, ["config.prune.rounds=-2", "from 0 to 1000"]),
    ({"experiment": "gradual", "prune.rounds": 0}, ["config.prune.rounds=0", "at least 1", "experiment='gradual'"]),
    ({"prune.scope": "local"}, ["config.prune.scope='local'", "global, component, layerwise, uniform, erk"]),
    ({"prune.score": "hessian"}, ["config.prune.score='hessian'", "magnitude, magnitude_change", "synflow"]),
    ({"prune.schedule": "linear"}, ["config.prune.schedule='linear'", "constant_rate, cubic"]),
    ({"prune.sparsities": (0.5, 1.0)}, ["config.prune.sparsities=(0.5, 1.0)", "between 0 and 1"]),
    ({"prune.sparsities": (0.0, 0.5)}, ["config.prune.sparsities=(0.0, 0.5)", "between 0 and 1"]),
    ({"prune.sparsities": (0.5, True)}, ["config.prune.sparsities=(0.5, True)", "a tuple of numbers"]),
    ({"prune.sparsities": (0.9, 0.5)}, ["config.prune.sparsities=(0.9, 0.5)", "that increases"]),
    ({"prune.sparsities": (0.5, 0.5)}, ["config.prune.sparsities=(0.5, 0.5)", "that increases"]),
    (
        {"prune.structure": "row"},
        ["config.prune.structure='row'", "weight, filter, channel, block:ROWSxCOLUMNS", "2:4"],
    ),
    (
        {"prune.structure": "channel"},
        ["config.prune.structure='channel'", "config.experiment=early_bird or at_init"],
    ),
    (
        {"experiment": "at_init", "prune.score": "gamma"},
        ["config.prune.score='gamma'", "magnitude or random", "config.experiment='at_init'"],
    ),
    ({**EARLY_BIRD, "prune.structure": "weight"}, ["config.prune.score='gamma'", "magnitude with", "'early_bird'"]),
    (
        {**EARLY_BIRD, "prune.score": "magnitude"},
        [
            "config.prune.score='magnitude'",
            "gamma, gamma_taylor, filter_l1, filter_l2, filter_change with",
            "config.prune.structure='channel'",
        ],
    ),
    (
        {**EARLY_BIRD, "prune.scope": "erk"},
        ["config.prune.scope='erk'", "global, component, layerwise with config.prune.structure='channel'"],
    ),
    (
        {"prune.target": "flops"},
        ["config.prune.target='flops'", "'sparsity' with config.prune.structure other than 'channel'"],
    ),
    ({"prune.target": "bytes"}, ["config.prune.target='bytes'", "sparsity, flops"]),
    *(
        (
            {f"early_bird.{field}": value},
            [f"config.early_bird.{field}={value!r}", "with config.experiment='imp'; it is read by early_bird"],
        )
        for field, value in (
            *(("every", 5), ("queue", 3), ("threshold", 0.2), ("until", 0.5), ("on_no_early_bird", "fail")),
            ("gamma_penalty", 1e-4),
        )
    ),
    (
        {**EARLY_BIRD, "prune.score": "filter_l1", "early_bird.gamma_penalty": 1e-4},
        ["config.early_bird.gamma_penalty=0.0001", "0.0 with a config.prune.score other than 'gamma'"],
    ),
    ({**EARLY_BIRD, "early_bird.gamma_penalty": -1.0}, ["config.early_bird.gamma_penalty=-1.0", "at least 0"]),
    ({**EARLY_BIRD, "rewind": "weights"}, ["config.rewind='weights'", "state or none", "'early_bird'"]),
    ({**EARLY_BIRD, "rewind": "learning_rate"}, ["config.rewind='learning_rate'", "state or none", "'early_bird'"]),
    ({**EARLY_BIRD, "early_bird.every": -1}, ["config.early_bird.every=-1", "at least 0"]),
    ({**EARLY_BIRD, "early_bird.queue": 1}, ["config.early_bird.queue=1", "at least 2"]),
    ({**EARLY_BIRD, "early_bird.threshold": 0}, ["config.early_bird.threshold=0", "above 0 and at most 1"]),
    ({**EARLY_BIRD, "early_bird.threshold": 1.5}, ["config.early_bird.threshold=1.5", "above 0 and at most 1"]),
    ({**EARLY_BIRD, "early_bird.moved": 1.5}, ["config.early_bird.moved=1.5", "a number from 0 to 1"]),
    ({**EARLY_BIRD, "early_bird.until": 0.0}, ["config.early_bird.until=0.0", "a fraction of training between"]),
    ({**EARLY_BIRD, "early_bird.until": 20.5}, ["config.early_bird.until=20.5", "whole number of steps"]),
    (
        {**EARLY_BIRD, "early_bird.on_no_early_bird": "wait"},
        ["config.early_bird.on_no_early_bird='wait'", "train_dense, take_last, fail"],
    ),
    ({"prune.structure": "block:0x4"}, ["config.prune.structure='block:0x4'", "block:4x4"]),
    ({"prune.structure": "4:4"}, ["config.prune.structure='4:4'", "N:M"]),
    ({"prune.components": ("critic",)}, ["config.prune.components=('critic',)", "generator, discriminator, encoder"]),
    ({"prune.components": ("encoder",)}, ["config.prune.components=('encoder',)", "generator and discriminator"]),
    (
        {**VAE, "prune.components": ("decoder", "codebook")},
        ["config.prune.components=('decoder', 'codebook')", "encoder and decoder with config.objective.name='vae'"],
    ),
    ({"prune.score": "snip", "prune.score_batches": 0}, ["config.prune.score_batches=0", "at least 1"]),
    ({"prune.score_batches": 20}, ["config.prune.score_batches=20", "10 with", "score='magnitude'", "snip, grasp"]),
    ({"prune.score": "grasp", "prune.temperature": 0.0}, ["config.prune.temperature=0.0", "above 0"]),
    (
        {"prune.score": "snip", "prune.temperature": 1.0},
        ["config.prune.temperature=1.0", "200.0 with config.prune.score='snip'; it is read by grasp"],
    ),
    ({"experiment": "rigl", "prune.update_every": 0.0}, ["config.prune.update_every=0.0", "fraction of training"]),
    ({"experiment": "rigl", "prune.update_every": 2.5}, ["config.prune.update_every=2.5", "whole number of steps"]),
    ({"experiment": "set", "prune.update_until": 0.0}, ["config.prune.update_until=0.0", "above 0"]),
    ({"experiment": "set", "prune.update_until": 1.1}, ["config.prune.update_until=1.1", "at most 1"]),
    ({"experiment": "rigl", "prune.drop_fraction": 0.0}, ["config.prune.drop_fraction=0.0", "above 0"]),
    ({"experiment": "rigl", "prune.drop_fraction": 1.5}, ["config.prune.drop_fraction=1.5", "at most 1"]),
    ({"experiment": "rigl", "prune.structure": "filter"}, ["config.prune.structure='filter'", "'weight'", "rigl"]),
    ({"experiment": "set", "prune.structure": "2:4"}, ["config.prune.structure='2:4'", "'weight'", "set"]),
    ({"experiment": "gradual", "prune.structure": "2:4"}, ["config.prune.structure='2:4'", "experiment='gradual'"]),
    (
        {"experiment": "at_init", "prune.score": "synflow", "prune.structure": "2:4"},
        ["config.prune.structure='2:4'", "synflow"],
    ),
    ({"branch.kind": "random"}, ["config.branch.kind='random'", "reinit, random_pruning, shuffled, dense_short"]),
    ({"experiment": "branch"}, ["config.branch.of=''", "the workdir of a finished run"]),
    ({"experiment": "ticket"}, ["config.ticket.of=''", "a ticket file"]),
    ({"experiment": "transfer"}, ["config.transfer.of=''", "the workdir of a finished run or a ticket file"]),
    (
        {**TRANSFER, "transfer.components": ("critic",)},
        ["config.transfer.components=('critic',)", "a tuple of some of generator"],
    ),
    (
        {**TRANSFER, "transfer.components": ("encoder",)},
        ["config.transfer.components=('encoder',)", "generator and discriminator with config.objective.name='gan'"],
    ),
    ({"prune.min_per_layer": -1}, ["config.prune.min_per_layer=-1", "at least 0"]),
    ({"eval.samples": 1}, ["config.eval.samples=1", "at least 2"]),
    ({"eval.batch_size": 0}, ["config.eval.batch_size=0", "at least 1"]),
    ({"eval.features": "vgg"}, ["config.eval.features='vgg'", "one of auto, inception", "digits, faces"]),
    ({"eval.metrics": ("fvd",)}, ["config.eval.metrics=('fvd',)", "a tuple of some of fd, fid, kid"]),
    ({**VAE, "eval.metrics": ("psnr", "fd")}, ["config.eval.metrics=('psnr', 'fd')", "one of fd, ", "first"]),
    ({"eval.resize": "bicubic"}, ["config.eval.resize='bicubic'", "tensorflow, pytorch, clean"]),
    ({"eval.bootstrap": -1}, ["config.eval.bootstrap=-1"]),
    ({"data.crop": "178"}, ["config.data.crop='178'"]),
    ({"data.on_broken": "ignore"}, ["config.data.on_broken='ignore'", "stop, skip"]),
    ({"keep_weights": "none"}, ["config.keep_weights='none'", "all"]),
    ({"eval.metrics": ("fd", "fd")}, ["config.eval.metrics=('fd', 'fd')", "a tuple of some of fd"]),
    (
        {"eval.metrics": ("fd", "codebook")},
        ["config.eval.metrics=('fd', 'codebook')", "a tuple of some of fd, fid", "with config.objective.name='gan'"],
    ),
    (
        {**VAE, "objective.penalty_weight": 5.0},
        ["config.objective.penalty_weight=5.0", "10.0 with config.objective.name='vae'; it is read by gan"],
    ),
    ({"seed": 2**32 - 1, "seeds": 2}, ["config.seeds=2", "at most 1 with config.seed=4294967295"]),
]


# A value other than the default of every field that not all experiments read, and the experiments that do.
READ_BY = {
    "rewind": ("none", {"imp", "one_shot", "early_bird"}),
    "rewind_discriminator": (False, {"imp", "one_shot", "ticket"}),
    "objective.distillation": (1.0, {"imp", "one_shot", "ticket"}),
    "prune.update_every": (0.1, {"gradual", "set", "rigl"}),
    "prune.update_until": (0.5, {"gradual", "set", "rigl"}),
    "prune.drop_fraction": (0.1, {"set", "rigl"}),
    "early_bird.every": (5, {"early_bird"}),
    "early_bird.queue": (3, {"early_bird"}),
    "early_bird.threshold": (0.2, {"early_bird"}),
    "early_bird.moved": (0.2, {"early_bird"}),
    "early_bird.until": (0.5, {"early_bird"}),
    "early_bird.on_no_early_bird": ("fail", {"early_bird"}),
    "early_bird.gamma_penalty": (1e-4, {"early_bird"}),
    "branch.of": ("runs/there", {"branch"}),
    "branch.kind": ("shuffled", {"branch"}),
    "transfer.of": ("runs/there", {"transfer"}),
    "ticket.of": ("runs/there.safetensors", {"ticket"}),
    "transfer.components": (("generator",), {"transfer"}),
}
ALL_SCORES = {"magnitude", "magnitude_change", "movement", "random", "snip", "grasp", "synflow"}
SCORES_OF = {"imp": ALL_SCORES, "one_shot": ALL_SCORES, "at_init": ALL_SCORES - {"magnitude_change", "movement"}}


def one_line(error) -> str:
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize(("changes", "parts"), BAD, ids=lambda value: str(value)[:60])
def test_an_impossible_or_contradicting_value_is_refused(changes, parts, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config("gan_digits")
    config.train.steps = 400
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as caught:
        config_lib.validate(config, devices=1)
    for part in parts:
        assert part in one_line(caught.value)


def experiment(name, **changes):
    """configs/gan_digits.py:quick for another experiment, with what that must have."""
    config = load_config("gan_digits")
    config.experiment = name
    if "early_bird.gamma_penalty" in changes and name == "early_bird":
        config.update_from_flattened_dict(EARLY_BIRD)
    if name in ("branch", "transfer", "ticket"):
        config[name].of = "runs/somewhere"
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("field", READ_BY)
@pytest.mark.parametrize("name", METHODS)
def test_a_field_that_the_experiment_does_not_read_is_refused(name, field):
    value, readers = READ_BY[field]
    config = experiment(name, **{field: value})
    if name in readers:
        config_lib.validate(config, 1)
        return
    with pytest.raises(UserError) as caught:
        config_lib.validate(config, 1)
    message = one_line(caught.value)
    assert message.startswith(f"config.{field}={value!r}: allowed is ")
    assert f"with config.experiment={name!r}; it is read by " in message
    assert set(message.rpartition("read by ")[2].split(", ")) == readers


@pytest.mark.parametrize("score", sorted(ALL_SCORES))
@pytest.mark.parametrize("name", METHODS)
def test_an_experiment_prunes_with_its_own_scores_and_refuses_others(name, score):
    config = experiment(name, **{"prune.score": score})
    if score in SCORES_OF.get(name, {"magnitude"}):
        config_lib.validate(config, 1)
        return
    with pytest.raises(UserError) as caught:
        config_lib.validate(config, 1)
    assert f"config.prune.score={score!r}: allowed is magnitude" in one_line(caught.value)
    assert f"with config.experiment={name!r}" in str(caught.value)


def test_the_levels_are_those_of_the_rate_of_the_schedule_or_as_listed():
    levels = lambda **changes: config_lib.levels(experiment("imp", **changes))  # noqa: E731
    options = {"prune.rate": 0.2, "prune.rounds": 3}
    assert levels(**options) == pytest.approx([0, 0.2, 0.36, 0.488])
    # The same end; 1 - (2/3)^3 = 19/27 and 1 - (1/3)^3 = 26/27 of it on the way.
    assert levels(**options, **{"prune.schedule": "cubic"}) == pytest.approx(
        [0, 0.488 * 19 / 27, 0.488 * 26 / 27, 0.488]
    )
    assert levels(**options, **{"prune.sparsities": (0.5, 0.75)}) == [0, 0.5, 0.75]
    assert levels(**options, **{"prune.structure": "2:4"}) == [0, 0.5]
    assert levels(**options, **{"prune.structure": "1:4"}) == [0, 0.75]
    assert levels(**{"prune.rounds": 0}) == [0]
    assert config_lib.levels(experiment("dense", **options)) == [0]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [23, 46, 69, 92, 115]),  # Every epoch, until a quarter of 500 steps.
        ({"early_bird.every": 10, "early_bird.until": 55.0}, [10, 20, 30, 40, 50]),
        ({"early_bird.every": 10, "early_bird.until": 50.0}, [10, 20, 30, 40, 50]),
    ],
)
def test_a_search_draws_masks_within_its_budget(changes, steps):
    config = experiment("early_bird", **changes, **{"train.steps": 500})
    timeline = config_lib.make_timeline(config, images=23 * 64 + 5)
    assert timeline.per_epoch == 23
    assert list(timeline.search_steps) == steps


@pytest.mark.parametrize(
    ("until", "parts"),
    [
        (0.22, ["config.early_bird.until=0.22", "at least 115 steps", "queue=5 masks that are 23", "110 of 500 steps"]),
        (114.0, ["config.early_bird.until=114.0", "it is 114 of 500 steps"]),
        (500.0, ["config.early_bird.until=500.0", "before the end of training, which is step 500"]),
    ],
)
def test_a_budget_in_which_no_ticket_can_emerge_is_refused(until, parts):
    with pytest.raises(UserError) as caught:
        config = experiment("early_bird", **{"early_bird.until": until, "train.steps": 500})
        config_lib.make_timeline(config, images=23 * 64)
    for part in parts:
        assert part in one_line(caught.value)


def test_without_rounds_the_sparsities_are_enough():
    config_lib.validate(experiment("imp", **{"prune.rounds": 0, "prune.sparsities": (0.5,)}), 1)


def test_only_experiments_that_rewind_have_a_late_rewind_point():
    steps = {name: rewind_step(experiment(name, rewind_step=0.1), 250) for name in METHODS}
    rewinding = {"dense", "imp", "one_shot", "early_bird", "ticket"}
    assert {name for name, step in steps.items() if step == 25} == rewinding
    assert {steps[name] for name in METHODS if name not in rewinding} == {0}


@pytest.mark.parametrize(
    ("asked", "platform", "period", "steps"),
    [(0, "cpu", 1, 1), (0, "gpu", 1, 8), (0, "tpu", 5, 10), (1, "gpu", 5, 1), (4, "cpu", 1, 4), (0, "other", 1, 1)],
)
def test_one_program_does_whole_periods_of_the_game(asked, platform, period, steps):
    config = experiment("imp", **{"train.steps_per_call": asked})
    assert config_lib.make_timeline(config, 1501, platform, period).steps_per_call == steps


@pytest.mark.parametrize("name", METHODS)
def test_masks_change_in_training_only_where_the_method_changes_them(name):
    timeline = config_lib.make_timeline(experiment(name, **{"train.steps": 500}), images=64 * 23)
    assert bool(timeline.update_steps) == (name in ("gradual", "set", "rigl"))
    assert bool(timeline.search_steps) == (name == "early_bird")


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"config.train.batch_size=64: allowed is a multiple of the 6 devices"):
        config_lib.validate(load_config("gan_digits"), devices=6)


@pytest.mark.parametrize(
    ("devices", "seeds", "at_once", "allowed"),
    [(8, 6, 3, "1 or 2 or 4 with 8 local devices and config.seeds=6"), (4, 3, 4, "1 or 2 with 4 local devices and")],
)
def test_tickets_that_cannot_share_the_devices_are_refused(devices, seeds, at_once, allowed):
    config = load_config("gan_digits")
    config.update(seeds=seeds, tickets_per_host=at_once)
    with pytest.raises(UserError, match=f"^config.tickets_per_host={at_once}: allowed is {allowed}"):
        config_lib.validate(config, devices)


def test_each_ticket_has_a_batch_that_its_own_devices_divide():
    config = load_config("gan_digits")
    config.update(seeds=3, tickets_per_host=3)
    config_lib.validate(config, devices=6)
    config.train.batch_size = 63
    with pytest.raises(UserError, match="batch_size=63: allowed is a multiple of the 2 devices of each ticket"):
        config_lib.validate(config, devices=6)


def test_a_batch_larger_than_the_data_set_is_refused():
    config = load_config("gan_digits")
    config.train.batch_size = 5000
    with pytest.raises(UserError, match="config.train.batch_size=5000: allowed is at most the 1501"):
        config_lib.make_timeline(config, 1501)


def test_a_missing_field_and_a_group_in_the_place_of_a_value_are_refused():
    config = load_config("gan_digits")
    with config.unlocked():
        del config.prune.rate
    with pytest.raises(UserError, match=r"config.prune.rate is missing"):
        config_lib.validate(config, 1)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("variant", ["", "quick"])
def test_every_config_is_valid(name, variant):
    config = load_config(name, variant)
    if config.data.name.startswith("files:") and not Path(config.data.name.removeprefix("files:")).exists():
        with pytest.raises(UserError, match="there is no such file or directory.*apt-get install dataset-"):
            config_lib.validate(config, devices=1)
        return
    config_lib.validate(config, devices=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_says_what_to_expect_and_how_to_run_it(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"python -m jaxtickets.main --config=configs/{name}.py" in module.__doc__
    assert "minutes" in module.__doc__


def test_the_config_has_the_fields_of_all_plugins():
    fields = config_lib.fields()
    assert set(config_lib.flat(config_lib.get_config())) == set(fields)
    methods = {field.name for method in METHODS.values() for field in method.fields}
    capabilities = {field.name for field in fields.values() if field.needs}
    assert methods | capabilities == set(READ_BY)
    assert {score.name for score in SCORES.values() if score.weights} == ALL_SCORES
    of_channels = {"gamma", "gamma_taylor", "filter_l1", "filter_l2", "filter_change"}
    assert {score.name for score in SCORES.values() if not score.weights} == of_channels
    assert {network.objective for network in NETWORKS.values()} == set(OBJECTIVES)
    assert all(field.check.possible(field.default) for field in fields.values())
    assert all(field.help.endswith(".") for field in fields.values())


def test_two_fields_of_one_name_are_refused():
    other = Field("objective.beta", 2.0, at_least(0), "Another beta.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OBJECTIVES, "another", dataclasses.replace(OBJECTIVES["vae"], name="another", fields=(other,)))
        with pytest.raises(ValueError, match="objective.beta: another brings another field"):
            config_lib.fields()


def test_a_game_without_a_metric_is_refused():
    with pytest.raises(ValueError, match="game 'bare': at least one metric must judge it"):
        Game("bare", make=None, components=("decoder",), metrics=())


def test_a_field_of_a_source_that_is_not_chosen_is_refused():
    field = Field("data.stripes", 3, whole(1), "The number of stripes.")

    class Striped(data.Arrays):
        fields = (field,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.SOURCES, "stripes", Striped("stripes", load=None))
        config = load_config("gan_digits")
        with config.unlocked():
            config.data.stripes = 4
        with pytest.raises(UserError, match="config.data.stripes=4: allowed is 3 with config.data.name='digits'"):
            config_lib.validate(config, 1)


def test_a_second_plugin_of_one_name_is_refused():
    with pytest.raises(ValueError, match="there is a plug-in called 'vae' already"):
        OBJECTIVES.add(dataclasses.replace(OBJECTIVES["vae"], metrics=("fd",)))


def test_the_page_of_fields_is_that_of_the_code():
    assert (ROOT / "docs" / "fields.md").read_text() == cli.fields_page()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_components_are_those_that_its_game_trains(name):
    model = config_lib.get_config().model
    model.update(name=name, width=4, image_size=NETWORKS[name].image_sizes[0])
    components = models.build(model, channels=1, classes=0)
    assert set(components) == set(OBJECTIVES[NETWORKS[name].objective].components)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", ["none", *PENALTIES])
@pytest.mark.parametrize("norm", models.NORMS)
def test_losses_penalties_and_norms_combine_unless_they_exclude_each_other(loss, penalty, norm):
    config = load_config("gan_digits")
    config.objective.update(loss=loss, penalty=penalty, real_label=1.0)
    config.model.discriminator_norm = norm
    mixed = penalty != "none" and norm == "batch"
    unbounded = loss == "wasserstein" and penalty == "none" and norm != "spectral"
    with pytest.raises(UserError) if mixed or unbounded else contextlib.nullcontext():
        config_lib.validate(config, 1)


def run_main(*flags, config="configs/gan_digits.py:quick", cwd=ROOT):
    command = [sys.executable, "-m", "jaxtickets.main", f"--config={config}", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def broken_folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(70):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number:02d}.png")
    (folder / "33.png").write_bytes(b"this is no image")
    return folder


def file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file"


# Flags for the command line, with {broken} a folder with a broken image and {file} a file.
BAD_FLAGS = [
    (["--config.prune.rate=a lot"], ["config.prune.rate='a lot'", "between 0 and 1"]),
    (["--config.prune.rate=-1"], ["config.prune.rate=-1.0", "between 0 and 1"]),
    (["--config.prune.rounds=2.5"], ["config.prune.rounds='2.5'", "whole number"]),
    (["--config.prune.ratio=0.2"], ["config.prune.ratio", "prune.rate"]),
    (["--config.model.channels=3"], ["config.model.channels='3'", "{component: {channel name:"]),
    (["--config.pruning.rate=0.2"], ["config.pruning.rate", "prune.rate"]),
    (
        ["--config.prune.include=('decoder',)"],
        ["prune.include: 'decoder' matches no parameter", "generator/up_16/conv/kernel"],
    ),
    (["--config.prune.exclude=('(',)"], ["prune.exclude: '(' is not a regular expression"]),
    (["--config.data.name=folder:{broken}"], ["33.png", "mend or remove"]),
    (["--workdir={file}"], ["--workdir=", "is a file"]),
    (["--workdir={file}/below"], ["--workdir=", "can't be written"]),
    (["--wrkdir=x"], ["wrkdir"]),
    (["an argument"], ["an argument", "--workdir"]),
    (["--from_round=1"], ["--workdir=", "no readable config.json"]),
]


@pytest.mark.parametrize(("flags", "parts"), BAD_FLAGS, ids=lambda value: str(value)[:60])
def test_a_mistake_on_the_command_line_is_one_line_and_status_2_and_nothing_is_written(flags, parts, tmp_path):
    broken, file = broken_folder(tmp_path), file_in_the_way(tmp_path)
    flags = [flag.format(broken=broken, file=file) for flag in flags]
    workdir = tmp_path / "workdir"
    if not any(flag.startswith("--workdir") for flag in flags):
        flags.append(f"--workdir={workdir}")
    result = run_main(*flags, f"--config.data.dir={tmp_path / 'tfds'}")
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    *before, last = result.stderr.strip().splitlines()
    assert all(line.startswith(("jaxtickets: preparing", "jaxtickets: data.name=")) for line in before)
    for part in parts:
        assert part in last
    assert result.stdout == ""
    assert not workdir.exists()


@pytest.mark.parametrize("config", ["configs/none.py", "configs/gan_digits.py:huge"])
def test_a_config_that_is_not_there_is_one_line_and_status_2(config):
    result = run_main(config=config)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "allowed" in result.stderr


@pytest.mark.parametrize(
    ("model", "resumed_with"), [("dcgan", "normal"), ("conv_vae", "normal"), ("linear_ae", "ones"), ("conv_ae", "ones")]
)
def test_a_field_that_an_old_workdir_lacks_counts_with_what_its_run_did(model, resumed_with):
    config = config_lib.get_config()
    config.model.name = model
    assert config_lib.missing_values(config)["model"]["scale_init"] == resumed_with
