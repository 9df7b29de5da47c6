"""The fields of the config that every run reads."""

from jaxtickets.config.changes import ANY, MORE_ROUNDS, MORE_SEEDS, OTHER_ORDER
from jaxtickets.data import decoding
from jaxtickets.errors import UserError
from jaxtickets.experiments import METHODS
from jaxtickets.fields import (
    Check,
    Field,
    above,
    at_least,
    choice,
    fraction_or_steps,
    number,
    some_of,
    switch,
    text,
    texts,
    whole,
)
from jaxtickets.metrics import METRICS
from jaxtickets.models import NETWORKS
from jaxtickets.objectives import OBJECTIVES, all_components
from jaxtickets.optimizers import OPTIMIZERS
from jaxtickets.pruning import SCORES, parse_structure
from jaxtickets.pruning.pools import SCOPES
from jaxtickets.pruning.schedules import SCHEDULES
from jaxtickets.pruning.structures import STRUCTURES


def _counts(value):
    counts = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(names, dict) and all(map(whole(1).possible, names.values())) for names in counts)


def _structure(value):
    try:
        return isinstance(value, str) and bool(parse_structure(value))
    except UserError:
        return False


def _sparsities(value):
    is_possible = number(lambda sparsity: 0 < sparsity < 1, "").possible
    return isinstance(value, tuple | list) and all(map(is_possible, value))


_PATTERNS = Check(texts, lambda: "a tuple of regular expressions over paths such as generator/up_16/conv/kernel")

CORE = (
    Field(
        "experiment",
        "imp",
        choice(METHODS),
        "The method that finds tickets, or the control that they are compared with.",
    ),
    Field("seed", 0, whole(0, 2**32 - 1), "The seed of every random number."),
    Field(
        "seeds",
        1,
        whole(1, 1000),
        "Above 1 the experiment runs for seed, seed + 1, ..., and the verdict is a test over these seed runs.",
        may_change=MORE_SEEDS,
    ),
    Field(
        "tickets_per_host",
        1,
        whole(1),
        "The number of seed runs that train at a time, each on its share of the host's devices.",
    ),
    Field(
        "tickets_per_device",
        1,
        whole(1),
        "The number of seed runs that train as one program, each with its own masks, data order and random numbers.",
    ),
    Field(
        "confidence",
        0.95,
        number(lambda value: 0.5 <= value < 1, "a number from 0.5 to below 1"),
        "The confidence of the intervals and the test over several seeds.",
        may_change=ANY,
    ),
    Field("dtype", "float32", choice("float32", "bfloat16"), "What the networks compute in; parameters are float32."),
    Field("sync_batch_norm", True, switch(), "Whether batch-norm statistics are averaged over the devices."),
    Field(
        "rewind_step",
        0.0,
        fraction_or_steps(zero=True),
        "The step of the rewind point: below 1 a fraction of training, else a number of steps; 0: the initialisation.",
    ),
    Field(
        "tolerance",
        0.1,
        at_least(0, " (0.1 allows 10% worse)"),
        "How much worse than the dense run's a winning ticket's metric may be, as a fraction of it.",
        may_change=ANY,
    ),
    Field(
        "keep_weights",
        "ends",
        choice("ends", "all"),
        "The rounds whose trained weights stay once the verdict is there: the dense, the winning and the last, or all.",
    ),
    Field(
        "trained_in_ticket",
        True,
        switch(),
        "Whether the ticket file has the trained weights beside the rewind point; without them it is half as large.",
        may_change=ANY,
    ),
    Field(
        "latent_pictures",
        True,
        switch(),
        "Whether a run ends with pictures of the latent space: ways through it, reconstructions, nearest images.",
        may_change=ANY,
    ),
    Field("model.name", "dcgan", choice(NETWORKS), "The networks."),
    Field("model.width", 128, whole(1), "The number of channels of a convolution at half the image size, or of units."),
    Field("model.latent_size", 32, whole(1), "The number of latents of one image."),
    Field("model.image_size", 32, whole(1), "Height and width of the images in pixels."),
    Field(
        "model.channels",
        {},
        Check(_counts, lambda: "{component: {channel name: a whole number of at least 1}}"),
        "The number of channels of a compacted network, where there are fewer: {component: {channel name: number}}.",
    ),
    Field("objective.name", "gan", choice(OBJECTIVES), "The objective: the training game and its losses."),
    Field("optimizer.name", "adam", choice(OPTIMIZERS), "The optimiser."),
    Field("optimizer.learning_rate", 2e-4, above(0), "The learning rate of every player that has none of its own."),
    Field(
        "optimizer.weight_decay", 0.0, at_least(0), "The L2 penalty: this times the weight is added to the gradient."
    ),
    Field(
        "optimizer.final_rate",
        1.0,
        number(lambda value: 0 <= value <= 1, "a number from 0 to 1"),
        "The learning rate at the end of training over that at the start; it falls linearly.",
    ),
    Field(
        "data.name",
        "cifar10",
        text(),
        "The data set: the name of a source, files:PATH, folder:PATH, or a name in TFDS.",
    ),
    Field("data.dir", "", text(), "The directory of TFDS's data sets; empty: TFDS's own."),
    *decoding.FIELDS,
    Field("data.flip", False, switch(), "Whether images are mirrored at random."),
    Field(
        "data.placement",
        "auto",
        choice("auto", "device", "host"),
        "Where the images live: on the device, on the host (they stream), or by their size.",
    ),
    Field("train.batch_size", 100, whole(2), "The number of images of a batch, over all devices."),
    Field("train.epochs", 0, whole(0), "The length of training in epochs. Exactly one of epochs and steps is above 0."),
    Field("train.steps", 0, whole(0), "The length of training in steps."),
    Field(
        "train.steps_per_call",
        0,
        whole(0),
        "The number of steps that one program does in a loop; 0 is the platform's default, 1 no loop.",
    ),
    Field("train.log_every", 100, whole(1), "The number of steps between two rows of metrics.jsonl."),
    Field(
        "train.checkpoint_every",
        1000,
        whole(0),
        "The number of steps between two saved train states; 0 saves at the ends of rounds only.",
    ),
    Field(
        "train.on_divergence",
        "stop",
        choice("stop", "skip_round", "lower_rate"),
        "What happens when a loss, a gradient or a metric is not finite: the run stops, the round is left without "
        "metrics, or it starts again with half the learning rate, at most three times. The dense run can't be skipped.",
        may_change=ANY,
    ),
    Field(
        "train.rematerialize",
        False,
        switch(),
        "Whether activations within a block are computed again in the backward pass, to save memory.",
    ),
    Field("prune.score", "magnitude", choice(SCORES), "How much each weight or channel matters."),
    Field("prune.rounds", 20, whole(0, 1000), "The number of rounds after the dense run.", may_change=MORE_ROUNDS),
    Field(
        "prune.rate",
        0.2,
        number(lambda value: 0 < value < 1, "a number between 0 and 1, both excluded"),
        "The fraction of the remaining weights that each round prunes.",
    ),
    Field(
        "prune.schedule",
        "constant_rate",
        choice(*SCHEDULES),
        "The sparsity of each round: a constant rate, or cubic: to the same sparsity in the end, faster at first.",
    ),
    Field(
        "prune.sparsities",
        (),
        Check(_sparsities, lambda: "a tuple of numbers between 0 and 1"),
        "The sparsity of each round, in the place of rounds, rate and schedule.",
        may_change=MORE_ROUNDS,
    ),
    Field(
        "prune.scope",
        "global",
        choice(*SCOPES),
        "The weights over which one threshold decides; with uniform or erk each layer has its share.",
    ),
    Field(
        "prune.structure",
        "weight",
        Check(_structure, lambda: f"one of {STRUCTURES}"),
        "What is pruned whole; 2:4 keeps two of four.",
    ),
    Field(
        "prune.target",
        "sparsity",
        choice("sparsity", "flops"),
        "The quantity that each level refers to: pruned units, or saved FLOPs (channels).",
    ),
    Field(
        "prune.channel_multiple",
        1,
        whole(1),
        "Channels: each layer keeps a multiple of this number (8: whole vector registers).",
    ),
    Field("prune.components", (), some_of(all_components), "The components that are pruned; none named: all."),
    Field("prune.include", (r"(kernel|embedding)$",), _PATTERNS, "The parameters that can be pruned."),
    Field("prune.exclude", (), _PATTERNS, "The parameters among these that are not pruned."),
    Field(
        "prune.min_per_layer", 0, whole(0), "The number of weights, filters or channels that each layer keeps at least."
    ),
    Field(
        "eval.metrics",
        (),
        some_of(METRICS),
        "The metrics after each round; the first decides the verdict. None named: those of the objective.",
        may_change=OTHER_ORDER,
    ),
    Field("eval.samples", 10_000, whole(2), "The number of samples that metrics are taken over."),
    Field(
        "eval.bootstrap",
        0,
        whole(0),
        "The number of draws for 95 % intervals around the metrics on samples; 0: no intervals.",
    ),
    Field("eval.batch_size", 250, whole(1), "The number of images that are sampled or judged at a time."),
)
