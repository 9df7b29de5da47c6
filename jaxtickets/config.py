"""The config that every experiment shares, and its validation."""

import difflib
import json
import math
import os
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jaxtickets import data, evaluation, models
from jaxtickets.errors import UserError
from jaxtickets.objectives import AUGMENTATIONS, DISTILLED, LOSSES, PENALTIES, SMOOTHED
from jaxtickets.pruning import SCORES, parse_structure, sparsities
from jaxtickets.pruning.channels import CHANNEL_SCORES, groups
from jaxtickets.pruning.channels import SCOPES as CHANNEL_SCOPES
from jaxtickets.pruning.selection import SCHEDULES, SCOPES, STRUCTURES

DTYPES = ("float32", "bfloat16")
COMPONENTS_OF = {
    "gan": ("generator", "discriminator"),
    "vae": ("encoder", "decoder"),
    "vq_vae": ("encoder", "decoder", "codebook"),
    "autoencoder": ("encoder", "decoder"),
}
ALL_COMPONENTS = tuple(dict.fromkeys(name for names in COMPONENTS_OF.values() for name in names))
# For each experiment the scores that it can prune with; those whose rule is fixed, or that prune nothing, have one.
SCORES_OF = {
    "dense": ("magnitude",),
    "imp": tuple(SCORES),
    "one_shot": tuple(SCORES),
    "at_init": ("magnitude", "random", "snip", "grasp", "synflow"),
    "gradual": ("magnitude",),
    "set": ("magnitude",),
    "rigl": ("magnitude",),
    "early_bird": ("magnitude",),
    "branch": ("magnitude",),
    "transfer": ("magnitude",),
}
# The same for those that can prune channels.
CHANNEL_SCORES_OF = {
    "early_bird": tuple(CHANNEL_SCORES),
    "at_init": (*CHANNEL_SCORES, "random", "snip", "grasp", "synflow"),
}
EXPERIMENTS = tuple(SCORES_OF)
REWINDS = ("state", "weights", "learning_rate", "none")
REWINDING = ("imp", "one_shot")  # The experiments that train first and rewind.
NO_EARLY_BIRD = ("train_dense", "take_last", "fail")
CHANGING = ("gradual", "set", "rigl")  # Those whose masks change while they train.
BRANCHES = ("reinit", "random_pruning", "shuffled", "dense_short")
# For each objective the models it can train; an objective is a game between a model's components.
MODELS_OF = {
    "gan": ("dcgan", "sngan", "sngan_resnet", "resnet_dcgan", "sagan"),
    "vae": ("conv_vae", "linear_vae", "resnet_vae", "sngan_resnet_vae"),
    "vq_vae": ("vq_vae",),
    "autoencoder": ("conv_ae", "linear_ae"),
}
# The fields that only one objective reads.
FIELDS_OF = {
    "gan": (
        *("objective.loss", "objective.real_label", "objective.penalty", "objective.penalty_weight", "objective.clip"),
        *("objective.n_critic", "objective.ema_decay", "objective.augmentations", "objective.distillation"),
        *("optimizer.discriminator_learning_rate", "rewind_discriminator"),
    ),
    "vae": ("objective.beta",),
    "vq_vae": ("objective.commitment",),
}
# The fields that only some experiments read.
FIELDS_OF_EXPERIMENTS = {
    "rewind": (*REWINDING, "early_bird"),
    "rewind_discriminator": REWINDING,
    "objective.distillation": REWINDING,
    "prune.update_every": CHANGING,
    "prune.update_until": CHANGING,
    "prune.drop_fraction": ("set", "rigl"),
    **{
        f"early_bird.{name}": ("early_bird",)
        for name in ("every", "queue", "threshold", "until", "on_no_early_bird", "gamma_penalty")
    },
    "branch.of": ("branch",),
    "branch.kind": ("branch",),
    "transfer.of": ("transfer",),
    "transfer.components": ("transfer",),
}
# `train.steps_per_call` where it is 0. XLA's CPU back end is slow in a loop around convolutions, as
# benchmarks/steps_per_call.py measures; elsewhere a loop has no gaps between launches (not measured by us yet).
STEPS_PER_CALL = {"cpu": 1, "gpu": 8, "tpu": 8}
# The fields that only some scores read.
FIELDS_OF_SCORES = {"prune.score_batches": ("snip", "grasp"), "prune.temperature": ("grasp",)}


def get_config() -> ConfigDict:
    """Every field there is, with its default; the files in `configs/` start from it."""
    return ConfigDict(
        dict(
            experiment="imp",
            seed=0,
            seeds=1,  # Above 1 the experiment runs for seed, seed + 1, ..., and the verdict is a test over them.
            tickets_per_host=1,  # So many seeds train at a time, each on a share of the host's devices.
            confidence=0.95,  # Of the intervals and the test of several seeds.
            dtype="float32",
            sync_batch_norm=True,  # Average batch-norm statistics over the devices.
            rewind_step=0.0,  # Below 1 a fraction of training, else a number of steps; 0 is the initialisation.
            rewind="state",  # What goes back: the whole state, weights or learning_rate only, or none (fine-tuning).
            rewind_discriminator=True,  # GAN: False lets it start each round from the dense run's trained weights.
            tolerance=0.1,  # A ticket wins if its metric is at most (1 + tolerance) x the dense run's.
            model=dict(
                name="dcgan",
                width=128,
                latent_size=32,
                image_size=32,
                discriminator_norm="",  # GAN: none, batch, layer or spectral; empty is the network's own.
                conditional=False,  # Class-conditional networks, for labelled data.
                codes=128,  # VQ-VAE: the size of the codebook.
                codebook_decay=0.0,  # VQ-VAE: above 0 the codes are running averages with this decay.
                channels={},  # A compacted network: {component: {channel name: count}} where they are fewer.
            ),
            objective=dict(
                name="gan",
                # GAN:
                loss="non_saturating",
                real_label=1.0,  # The discriminator's target for real images; below 1 is label smoothing.
                penalty="none",  # On the discriminator's gradient: wgan_gp, r1 or dragan.
                penalty_weight=10.0,
                clip=0.0,  # Above 0 the discriminator's parameters are clipped to [-clip, clip] (WGAN).
                n_critic=1,  # The generator moves in every n-th step, the discriminator in each.
                ema_decay=0.0,  # Above 0 a running average of the generator is kept, and evaluated.
                augmentations=(),  # Differentiable ones, of what the discriminator sees: color, translation, cutout.
                distillation=0.0,  # Above 0 the weight with which the dense run's discriminator teaches the sparse one.
                beta=1.0,  # VAE: the weight of the KL term.
                commitment=0.25,  # VQ-VAE: the weight of the commitment term.
            ),
            optimizer=dict(
                name="adam",
                learning_rate=2e-4,
                discriminator_learning_rate=0.0,  # GAN: 0 is the same as learning_rate.
                beta1=0.9,
                beta2=0.999,  # For rmsprop, the decay of its mean squares.
                weight_decay=0.0,
                final_rate=1.0,  # The learning rate at the end over that at the start, linear in between.
            ),
            data=dict(
                name="cifar10",
                dir="",  # Where TFDS keeps its data sets; empty is TFDS's own directory.
                flip=False,  # Mirror images at random.
                placement="auto",  # device: the data set lives on the device; host: it streams; auto: by its size.
            ),
            train=dict(
                batch_size=100,
                epochs=0,  # Exactly one of epochs and steps is above 0.
                steps=0,
                steps_per_call=0,  # Steps that one program does in a loop; 0 is the platform's default, 1 none.
                log_every=100,
                checkpoint_every=1000,  # Steps between two saved train states; 0 saves at the ends of rounds only.
                rematerialize=False,  # Activations within a block are computed again in the backward pass: less memory.
            ),
            prune=dict(
                score="magnitude",
                rounds=20,
                rate=0.2,
                schedule="constant_rate",  # Or cubic: to the same sparsity in the end, faster at first.
                sparsities=(),  # The sparsity of each round, in the place of rounds, rate and schedule.
                scope="global",  # What one threshold decides over; or uniform or erk: each layer has its share.
                structure="weight",  # What is pruned whole: weight, filter, channel, block:4x4; or 2:4, two of four.
                target="sparsity",  # What a round's number is the share of: pruned units, or (channel) flops saved.
                channel_multiple=1,  # Channels: a multiple of this stays in each layer (8: whole vector registers).
                components=(),  # Those that are pruned; none named: all.
                include=(r"(kernel|embedding)$",),
                exclude=(),
                min_per_layer=0,
                score_batches=10,  # SNIP and GraSP: how many batches the gradient is averaged over.
                temperature=200.0,  # GraSP: what a discriminator's outputs are divided by.
                update_every=0.02,  # gradual, set, rigl: below 1 a fraction of training, else a number of steps.
                update_until=0.75,  # The fraction of training after which masks stay as they are.
                drop_fraction=0.3,  # set, rigl: of a layer's weights, exchanged in an update.
            ),
            early_bird=dict(
                every=0,  # Steps between two masks of the search; 0 is an epoch.
                queue=5,  # So many masks in a row must be alike,
                threshold=0.1,  # all at a normalised Hamming distance to the newest below this.
                until=0.25,  # The search's budget: below 1 a fraction of training, else a number of steps.
                on_no_early_bird="train_dense",  # If there is none by then: this, take_last or fail.
                gamma_penalty=0.0,  # While searching, the weight of the sum of all |gamma| of the channels to prune.
            ),
            branch=dict(of="", kind="reinit"),  # A control on each level of the finished run in the workdir `of`.
            # Tickets of a workdir, or of a ticket file, in another network; for the named components, or all.
            transfer=dict(of="", components=()),
            eval=dict(samples=10_000, batch_size=250, features="faces"),
        )
    )


def _number(check, allowed):
    def is_number(value):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and check(value)

    return is_number, allowed


def _whole(low, high=None):
    allowed = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"

    def is_whole(value):
        is_int = isinstance(value, int) and not isinstance(value, bool)
        return is_int and low <= value and (high is None or value <= high)

    return is_whole, allowed


def _choice(*allowed):
    return lambda value: value in allowed, f"one of {', '.join(map(str, allowed))}"


def _texts(value):
    return isinstance(value, tuple | list) and all(isinstance(pattern, str) for pattern in value)


def _some_of(*names):
    def are_some(value):
        return _texts(value) and set(value) <= set(names) and len(set(value)) == len(value)

    return are_some, f"a tuple of some of {', '.join(names)}"


def _numbers(check, allowed):
    is_number, _ = _number(check, allowed)
    return lambda value: isinstance(value, tuple | list) and all(map(is_number, value)), allowed


def _counts(value):
    """Whether it is `{component: {channel name: count}}`."""
    counts = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(names, dict) and all(map(_whole(1)[0], names.values())) for names in counts)


def _structure(value):
    try:
        return isinstance(value, str) and bool(parse_structure(value))
    except UserError:
        return False


_switch = lambda value: isinstance(value, bool), "True or False"  # noqa: E731
_text = lambda value: isinstance(value, str), "a text"  # noqa: E731

_at_least_zero = _number(lambda value: value >= 0, "a number of at least 0")
_fraction = _number(lambda value: 0 <= value < 1, "a number from 0 to below 1")

# Every field: whether a value is possible, and what to say is allowed.
FIELDS = {
    "experiment": _choice(*EXPERIMENTS),
    "seed": _whole(0, 2**32 - 1),
    "seeds": _whole(1, 1000),
    "tickets_per_host": _whole(1),
    "confidence": _number(lambda value: 0.5 <= value < 1, "a number from 0.5 to below 1"),
    "dtype": _choice(*DTYPES),
    "sync_batch_norm": _switch,
    "rewind_step": _number(
        lambda value: value >= 0 and (value < 1 or value == int(value)),
        "a fraction of training from 0 to below 1, or a whole number of steps",
    ),
    "rewind": _choice(*REWINDS),
    "rewind_discriminator": _switch,
    "tolerance": _number(lambda value: value >= 0, "a number of at least 0 (0.1 allows 10% worse)"),
    "model.name": _choice(*models.MODELS),
    "model.width": _whole(1),
    "model.latent_size": _whole(1),
    "model.image_size": _whole(1),
    "model.discriminator_norm": (
        lambda value: value in ("", *models.NORMS),
        f"one of {', '.join(models.NORMS)}, or '' for the network's own",
    ),
    "model.conditional": _switch,
    "model.codes": _whole(2),
    "model.codebook_decay": _fraction,
    "model.channels": (_counts, "{component: {channel name: a whole number of at least 1}}"),
    "objective.name": _choice(*MODELS_OF),
    "objective.loss": _choice(*LOSSES),
    "objective.real_label": _number(lambda value: 0.5 < value <= 1, "a number above 0.5 and at most 1"),
    "objective.penalty": _choice("none", *PENALTIES),
    "objective.penalty_weight": _at_least_zero,
    "objective.clip": _at_least_zero,
    "objective.n_critic": _whole(1),
    "objective.ema_decay": _fraction,
    "objective.augmentations": _some_of(*AUGMENTATIONS),
    "objective.distillation": _at_least_zero,
    "objective.beta": _at_least_zero,
    "objective.commitment": _at_least_zero,
    "optimizer.name": _choice("adam", "rmsprop"),
    "optimizer.learning_rate": _number(lambda value: value > 0, "a number above 0"),
    "optimizer.discriminator_learning_rate": _at_least_zero,
    "optimizer.beta1": _fraction,
    "optimizer.beta2": _fraction,
    "optimizer.weight_decay": _at_least_zero,
    "optimizer.final_rate": _number(lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "data.name": _text,
    "data.dir": _text,
    "data.flip": _switch,
    "data.placement": _choice("auto", "device", "host"),
    "train.batch_size": _whole(2),
    "train.epochs": _whole(0),
    "train.steps": _whole(0),
    "train.steps_per_call": _whole(0),
    "train.log_every": _whole(1),
    "train.checkpoint_every": _whole(0),
    "train.rematerialize": _switch,
    "prune.score": _choice(*SCORES, *CHANNEL_SCORES),
    "prune.rounds": _whole(0),
    "prune.rate": _number(lambda value: 0 < value < 1, "a number between 0 and 1, both excluded"),
    "prune.schedule": _choice(*SCHEDULES),
    "prune.sparsities": _numbers(lambda value: 0 < value < 1, "a tuple of numbers between 0 and 1"),
    "prune.scope": _choice(*SCOPES),
    "prune.structure": (_structure, f"one of {STRUCTURES}"),
    "prune.channel_multiple": _whole(1),
    "prune.target": _choice("sparsity", "flops"),
    "prune.components": _some_of(*ALL_COMPONENTS),
    "prune.include": (_texts, "a tuple of regular expressions over paths such as generator/up_16/conv/kernel"),
    "prune.exclude": (_texts, "a tuple of regular expressions over paths such as generator/up_16/conv/kernel"),
    "prune.min_per_layer": _whole(0),
    "prune.score_batches": _whole(1),
    "prune.temperature": _number(lambda value: value > 0, "a number above 0"),
    "prune.update_every": _number(
        lambda value: value > 0 and (value < 1 or value == int(value)),
        "a fraction of training between 0 and 1, or a whole number of steps",
    ),
    "prune.update_until": _number(lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "prune.drop_fraction": _number(lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "early_bird.every": _whole(0),
    "early_bird.queue": _whole(2),
    "early_bird.threshold": _number(lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "early_bird.until": _number(
        lambda value: value > 0 and (value < 1 or value == int(value)),
        "a fraction of training between 0 and 1, or a whole number of steps",
    ),
    "early_bird.on_no_early_bird": _choice(*NO_EARLY_BIRD),
    "early_bird.gamma_penalty": _at_least_zero,
    "branch.of": _text,
    "branch.kind": _choice(*BRANCHES),
    "transfer.of": _text,
    "transfer.components": _some_of(*ALL_COMPONENTS),
    "eval.samples": _whole(2),
    "eval.batch_size": _whole(1),
    "eval.features": _choice(*evaluation.FEATURE_NETWORKS),
}


def to_dict(config: ConfigDict) -> dict:
    """The config as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def flat(config, prefix: str = "") -> dict:
    """`{dotted field: value}`; a field that is a dictionary is one value."""
    fields = {}
    for key, value in config.items():
        field = prefix + key
        if isinstance(value, ConfigDict):
            fields |= {field: value.to_dict()} if field in FIELDS else flat(value, f"{field}.")
        else:
            fields[field] = value
    return fields


def refuse(field: str, value, allowed: str):
    """Raises the one-line error of a field."""
    raise UserError(f"config.{field}={value!r}: allowed is {allowed}")


def is_quick(variant: str) -> bool:
    """Whether a config file was asked for its small variant: `configs/<name>.py:quick`.

    Raises:
      UserError: the file was asked for a variant that there is not.
    """
    if variant not in ("", "quick"):
        raise UserError(f"--config=...:{variant}: no such variant; allowed is :quick, or none for the full experiment")
    return variant == "quick"


def check_field(field: str) -> None:
    """Refuses a field that there is not, and names the nearest ones."""
    if field not in FIELDS:
        near = difflib.get_close_matches(field, FIELDS, n=3, cutoff=0.4)
        same_group = [name for name in FIELDS if name.split(".")[0] == field.split(".")[0]]
        raise UserError(f"config.{field}: no such field; allowed are {', '.join(near or same_group or FIELDS)}")


def validate(config: ConfigDict, devices: int) -> None:
    """Checks all that can be checked before anything is downloaded or written.

    Raises:
      UserError: a field is unknown or missing, has an impossible value, or contradicts another one.
    """
    values = flat(config)
    for field in values:
        check_field(field)
    for field, (possible, allowed) in FIELDS.items():
        if field not in values:
            raise UserError(f"config.{field} is missing; allowed is {allowed}")
        if not possible(values[field]):
            refuse(field, values[field], allowed)

    model, objective = config.model.name, config.objective.name
    if model not in MODELS_OF[objective]:
        refuse("model.name", model, f"{' or '.join(MODELS_OF[objective])} with config.objective.name={objective!r}")
    if config.model.image_size not in models.IMAGE_SIZES[model]:
        sizes = ", ".join(map(str, models.IMAGE_SIZES[model]))
        refuse("model.image_size", config.model.image_size, f"{sizes} with config.model.name={model!r}")
    _check_options(config, values)
    _check_channels(config, values["model.channels"])
    if objective == "gan":
        _check_gan(config)
    _check_devices(config, devices)
    if bool(config.train.epochs) == bool(config.train.steps):
        both = f"config.train.epochs={config.train.epochs} and config.train.steps={config.train.steps}"
        raise UserError(f"{both}: exactly one of the two must be above 0")
    if (calls := config.train.steps_per_call) > 1 and calls % config.objective.n_critic:
        allowed = f"0, 1 or a multiple of config.objective.n_critic={config.objective.n_critic}"
        refuse("train.steps_per_call", calls, f"{allowed}, the steps in which each player moves")
    if config.train.steps:
        resolve_rewind_step(config, config.train.steps)
        resolve_update_steps(config, config.train.steps)
    _check_experiment(config, values)
    data.check(config.data.name, config.model.image_size, config.data.dir or None)


def _check_devices(config, devices):
    """Refuses tickets that can't share the local devices, and batches that a ticket's devices can't."""
    at_once, batch_size = config.tickets_per_host, config.train.batch_size
    if devices % at_once or at_once > config.seeds:
        possible = [n for n in range(1, min(devices, config.seeds) + 1) if devices % n == 0]
        has = f"{devices} local device{'s' if devices > 1 else ''} and config.seeds={config.seeds}"
        refuse("tickets_per_host", at_once, f"{' or '.join(map(str, possible))} with {has}")
    if batch_size % (devices // at_once):
        of = " of each ticket" if at_once > 1 else ""
        refuse("train.batch_size", batch_size, f"a multiple of the {devices // at_once} devices{of}")


def _check_options(config, values):
    """Refuses what the chosen objective, model or optimiser would not read."""
    defaults, objective = flat(get_config()), config.objective.name
    for owner, fields in FIELDS_OF.items():
        for field in fields:
            if owner != objective and values[field] != defaults[field]:
                refuse(field, values[field], f"{defaults[field]!r} with config.objective.name={objective!r}")
    for option in models.OPTIONS:
        field = f"model.{option}"
        if values[field] != defaults[field] and not models.takes(config.model.name, option):
            takers = ", ".join(name for name in models.MODELS if models.takes(name, option))
            allowed = f"{defaults[field]!r} with config.model.name={config.model.name!r}; the networks for it: {takers}"
            refuse(field, values[field], allowed)
    if config.train.rematerialize and config.model.name in models.LINEAR:
        refuse("train.rematerialize", True, f"False with config.model.name={config.model.name!r}, which has no blocks")
    if config.optimizer.name == "rmsprop" and config.optimizer.beta1 != defaults["optimizer.beta1"]:
        refuse("optimizer.beta1", config.optimizer.beta1, "0.9, the default, with config.optimizer.name='rmsprop'")
    if config.objective.penalty == "none" and config.objective.penalty_weight != defaults["objective.penalty_weight"]:
        refuse("objective.penalty_weight", config.objective.penalty_weight, "10.0 with config.objective.penalty='none'")
    if config.model.conditional and not data.classes(config.data.name, config.data.dir or None):
        reason = f"config.data.name={config.data.name!r} has no class labels; digits, mnist and cifar10 have"
        refuse("model.conditional", True, f"False, because {reason}")


def _check_channels(config, channels):
    """Refuses channels that the network does not have."""
    if not channels:
        return
    whole = config.model.copy_and_resolve_references()
    whole.channels = ConfigDict()
    components = models.build(whole, channels=3, classes=1)  # Axes of images and classes have no name.
    params, _ = jax.eval_shape(partial(models.init, components), jax.random.key(0))
    sizes = groups(params, models.axis_names(components).params)
    network = f"config.model.name={config.model.name!r}"
    for component, counts in channels.items():
        if not sizes.get(component):
            having = ", ".join(name for name, own in sizes.items() if own)
            refuse(f"model.channels.{component}", counts, f"that of {having} with {network}")
        for name, count in counts.items():
            field, size = f"model.channels.{component}.{name}", sizes[component].get(name)
            if size is None:
                refuse(field, count, f"that of {', '.join(sizes[component])} with {network}")
            if count > size:
                refuse(field, count, f"a whole number from 1 to {size} with config.model.width={config.model.width}")


def _check_experiment(config, values):
    """Refuses what the chosen experiment or score would not read, and rounds that can't follow each other."""
    defaults, name, options = flat(get_config()), config.experiment, config.prune
    given = f"config.experiment={name!r}"
    structure = parse_structure(options.structure)
    if structure.kind == "channel":
        _check_channel_pruning(config, given)
    elif options.score not in SCORES_OF[name]:
        refuse("prune.score", options.score, f"{' or '.join(SCORES_OF[name])} with {given}")
    for fields, chosen, by in (
        (FIELDS_OF_EXPERIMENTS, name, "experiment"),
        (FIELDS_OF_SCORES, options.score, "prune.score"),
    ):
        for field, readers in fields.items():
            if chosen not in readers and values[field] != defaults[field]:
                allowed = f"{defaults[field]!r} with config.{by}={chosen!r}; it is read by {', '.join(readers)}"
                refuse(field, values[field], allowed)
    if name in ("branch", "transfer"):
        source = f"{name}.of"
        if not values[source]:
            refuse(source, "", "the workdir of a finished run" + (" or a ticket file" if name == "transfer" else ""))
    elif name != "dense" and len(levels(config)) < 2:
        refuse("prune.rounds", 0, f"at least 1 with {given}; config.experiment='dense' prunes nothing")
    if list(options.sparsities) != sorted(set(options.sparsities)):
        refuse("prune.sparsities", options.sparsities, "a tuple that increases")
    if structure.kind != "weight" and name in ("set", "rigl"):
        refuse("prune.structure", options.structure, f"'weight' with {given}, which exchanges single weights")
    if structure.kind == "n:m" and options.sparsities:
        allowed = f"(), because config.prune.structure={options.structure!r} has one sparsity"
        refuse("prune.sparsities", options.sparsities, allowed)
    if structure.kind == "n:m" and name == "gradual":
        refuse("prune.structure", options.structure, f"one of which any share can be pruned with {given}")
    if structure.kind != "channel" and options.channel_multiple != 1:
        refuse("prune.channel_multiple", options.channel_multiple, "1 with config.prune.structure other than 'channel'")
    if structure.kind != "channel" and options.target != "sparsity":
        refuse("prune.target", options.target, "'sparsity' with config.prune.structure other than 'channel'")
    if name == "early_bird" and config.rewind not in ("state", "none"):
        refuse("rewind", config.rewind, f"state or none with {given}: there is no trained network at the search's end")
    if (penalty := config.early_bird.gamma_penalty) and options.score != "gamma":
        refuse("early_bird.gamma_penalty", penalty, "0.0 with a config.prune.score other than 'gamma'")
    if structure.kind == "n:m" and options.score == "synflow":
        refuse("prune.structure", options.structure, "one that many small steps can lead to with synflow")
    unknown = [part for part in options.components if part not in COMPONENTS_OF[config.objective.name]]
    unknown += [part for part in config.transfer.components if part not in COMPONENTS_OF[config.objective.name]]
    if unknown:
        field = "prune.components" if unknown[0] in options.components else "transfer.components"
        there_are = " and ".join(COMPONENTS_OF[config.objective.name])
        refuse(field, values[field], f"some of {there_are} with config.objective.name={config.objective.name!r}")
    if config.rewind == "none" and config.optimizer.final_rate == 0:
        refuse("rewind", "none", "that with config.optimizer.final_rate above 0: fine-tuning goes on at the final rate")
    if config.seed + config.seeds > 2**32:
        refuse("seeds", config.seeds, f"so many that config.seed={config.seed} + seeds is at most {2**32}")
    if config.confidence != defaults["confidence"] and config.seeds == 1:
        refuse("confidence", config.confidence, "0.95, the default, with config.seeds=1: one run tests nothing")


def _check_channel_pruning(config, given):
    """Refuses what does not go with `config.prune.structure='channel'`."""
    options, structure = config.prune, "config.prune.structure='channel'"
    if config.experiment not in CHANNEL_SCORES_OF:
        refuse("prune.structure", "channel", f"that with config.experiment={' or '.join(CHANNEL_SCORES_OF)}")
    scores = CHANNEL_SCORES_OF[config.experiment]
    if options.score not in scores:
        refuse("prune.score", options.score, f"{', '.join(scores)} with {given} and {structure}")
    if options.scope not in CHANNEL_SCOPES:
        refuse("prune.scope", options.scope, f"{', '.join(CHANNEL_SCOPES)} with {structure}")


def subject(config: ConfigDict) -> str:
    """What the verdict is about: a ticket, or a control of one."""
    return f"control ({config.branch.kind})" if config.experiment == "branch" else "ticket"


def levels(config: ConfigDict) -> list[float]:
    """The level of each round (`prune.target` says of what), round 0 with its 0.0 included."""
    options = config.prune
    if config.experiment == "dense":
        return [0.0]
    if (only := parse_structure(options.structure).sparsity) is not None:
        return [0.0, only]
    if options.sparsities:
        return [0.0, *options.sparsities]
    return sparsities(options.rate, options.rounds, options.schedule)


def _check_gan(config):
    """Refuses parts of a GAN that exclude each other."""
    options, norm = config.objective, models.discriminator_norm(config.model)
    if options.penalty != "none" and norm == "batch":
        reason = "a penalty is on the gradient at each image alone, and a batch norm mixes them"
        field = "none, layer or spectral in config.model.discriminator_norm"
        refuse("objective.penalty", options.penalty, f"'none' with batch norm in the discriminator ({reason}); {field}")
    if options.real_label != 1 and options.loss not in SMOOTHED:
        refuse("objective.real_label", options.real_label, f"1.0 with config.objective.loss={options.loss!r}")
    if options.clip and options.penalty != "none":
        allowed = f"0.0 with config.objective.penalty={options.penalty!r}: each of the two bounds the critic"
        refuse("objective.clip", options.clip, allowed)
    if options.clip and options.loss != "wasserstein":
        allowed = f"0.0 with config.objective.loss={options.loss!r}: clipping bounds the critic of 'wasserstein'"
        refuse("objective.clip", options.clip, allowed)
    if options.loss == "wasserstein" and not (options.clip or options.penalty != "none" or norm == "spectral"):
        allowed = (
            "that with a bounded critic: config.objective.clip above 0, a config.objective.penalty, or "
            "config.model.discriminator_norm='spectral'"
        )
        refuse("objective.loss", options.loss, allowed)
    if options.distillation and options.loss not in DISTILLED:
        allowed = f"0.0 with config.objective.loss={options.loss!r}; probabilities are with {' or '.join(DISTILLED)}"
        refuse("objective.distillation", options.distillation, allowed)
    if config.train.log_every % options.n_critic:
        allowed = f"a multiple of config.objective.n_critic={options.n_critic}, the steps in which the generator moves"
        refuse("train.log_every", config.train.log_every, allowed)


def resolve_steps(config: ConfigDict, images: int) -> int:
    """The steps of training, given the number of training images."""
    per_epoch = images // config.train.batch_size
    if not per_epoch:
        refuse("train.batch_size", config.train.batch_size, f"at most the {images} training images")
    return config.train.steps or config.train.epochs * per_epoch


def resolve_steps_per_call(config: ConfigDict, platform: str) -> int:
    """The steps of a call, a multiple of `config.objective.n_critic` if there is more than one."""
    steps, n_critic = config.train.steps_per_call or STEPS_PER_CALL.get(platform, 1), config.objective.n_critic
    return steps if steps == 1 else -(-steps // n_critic) * n_critic


def resolve_rewind_step(config: ConfigDict, steps: int) -> int:
    """The step of the rewind point."""
    value = config.rewind_step
    step = round(value * steps) if value < 1 else int(value)
    if config.experiment not in ("dense", "early_bird", *REWINDING):
        step = 0  # The others start from the initialisation.
    if step >= steps:
        refuse("rewind_step", value, f"a step before the end of training, which is step {steps}")
    return step


def resolve_update_steps(config: ConfigDict, steps: int) -> range:
    """The steps before which masks may change, of an experiment whose masks change in training."""
    options = config.prune
    every = max(1, round(options.update_every * steps) if options.update_every < 1 else int(options.update_every))
    last = min(round(options.update_until * steps), steps - 1)
    if config.experiment in CHANGING and every > last:
        refuse("prune.update_every", options.update_every, f"at most the {last} steps of config.prune.update_until")
    return range(every, last + 1, every)


def resolve_search_steps(config: ConfigDict, steps: int, per_epoch: int) -> range:
    """The steps after which the search for an early-bird ticket draws a mask."""
    options = config.early_bird
    every = options.every or per_epoch
    last = round(options.until * steps) if options.until < 1 else int(options.until)
    if config.experiment == "early_bird":
        if last >= steps:
            refuse("early_bird.until", options.until, f"a step before the end of training, which is step {steps}")
        if last < every * options.queue:
            refuse(
                "early_bird.until",
                options.until,
                f"at least {every * options.queue} steps, for config.early_bird.queue={options.queue} masks that are "
                f"{every} steps apart; it is {last} of {steps} steps",
            )
    return range(every, last + 1, every)


def check_writable(workdir: Path) -> None:
    """Refuses, without writing anything, a workdir that can't be made.

    Raises:
      UserError: it is a file, or the directory above it can't be written.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: is a file; allowed is a directory that can be written")
    above = workdir
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"--workdir={workdir}: {above} can't be written; allowed is a directory that can be written")
