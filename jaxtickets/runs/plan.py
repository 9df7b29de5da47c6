"""What a run will do, in a few lines: what a start says, and what `--dry_run` says beside it.

Nothing here downloads, prepares, reads or writes data, or writes into the workdir or the cache directory.
"""

import math
import os
import platform
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import cache, cost, data, metrics
from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets.errors import DamagedError
from jaxtickets.metrics import inception, networks
from jaxtickets.metrics.metric import SAMPLES
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.progress import say
from jaxtickets.progress_lines import duration
from jaxtickets.runs.setup import Setup
from jaxtickets.workdir import Workdir

# The part of the speed of large matrix products that train steps reach, from docs/results.md: small networks less.
PART_OF_PEAK = 0.25
STATES = 5  # Train states in a workdir: the initial one, the rewind point, the dense one and the two last ones.
UNKNOWN = 2**16  # Steps of an epoch of images that nobody has counted: more than any field asks for.
MOST_LEVELS = 6  # That are named one by one.


class Line(NamedTuple):
    what: str
    text: str


def start(setup: Setup, whole: Workdir, places: dict[int, Workdir], rounds: dict[int, int]) -> list[Line]:
    """What is said when a run starts or goes on: the devices, the workdir, the networks, the rounds and the data.

    Args:
      places, rounds: of each seed, its workdir and the number of its rounds.
    """
    shape = "x".join(map(str, setup.images.shape[1:]))
    counts = f"{len(setup.images):,} training and {setup.counts['held_out_images']:,} held-out images of {shape}"
    return [
        Line("devices", _devices(setup.devices)),
        Line("workdir", f"{whole.path}, {_state(places, rounds)}"),
        Line("networks", _networks(setup)),
        Line("rounds", _rounds(setup, setup.timeline)),
        Line("data", f"{setup.config.data.name}, {counts}; {_batches(setup, setup.timeline)}"),
    ]


def ahead(
    setup: "Imagined", whole: Workdir, places: dict[int, Workdir], rounds: dict[int, int], is_adopted: bool = False
) -> list[Line]:
    """What `start` says, and FLOPs, memory, time, disk space and downloads, as far as they are known before.

    The train step is compiled, for its memory. A matrix product is timed, unless an earlier part of the run has
    measured its steps.

    Args:
      is_adopted: whether the dense run is that of another run.
    """
    say("the train step is compiled, which takes some seconds, because only then its memory is known")
    config, source = setup.asked, setup.source
    timeline = setup.timeline if source.count or config.train.steps else None
    images = f"{source.count:,} training images" if source.count else "images that are counted once they are read"
    size = f"{config.model.image_size}x{config.model.image_size}x{setup.image_channels}"
    lines = [
        Line("devices", _devices(None)),
        Line("workdir", f"{whole.path}, {_state(places, rounds)}"),
        Line("networks", _networks(setup)),
        Line("rounds", _rounds(setup, timeline)),
        Line("data", f"{config.data.name}, {images} of {size}; {_batches(setup, timeline)}"),
        Line("metrics", ", ".join(metric.name for metric in _metrics(config))),
    ]
    step = _step_flops(setup)
    about = "about" if is_adopted or setup.timeline.search_steps else "the"
    left = None if timeline is None else _steps_left(timeline, places, rounds, is_adopted)
    text = f"{_si(step)} in a train step of {config.train.batch_size} images"
    text += "" if left is None else f", {_si(step * left)} in {about} {left:,} steps to do"
    lines.append(Line("FLOPs", text))
    lines.append(Line("memory", _memory(setup, source)))
    lines.append(Line("time", _time(setup, step, left, places)))
    lines.append(Line("disk", f"about {_bytes(_disk(setup, max(rounds.values())))} in the workdir"))
    lines.append(Line("fetched", "; ".join(_missing(config, source)) or "nothing"))
    return lines


# What both say.


def _devices(devices):
    devices = devices or jax.local_devices()
    kinds = ", ".join(dict.fromkeys(device.device_kind for device in devices))
    number = f"{len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''}"
    cores = f", {os.cpu_count()} cores" if devices[0].platform == "cpu" else f" ({kinds})"
    return f"{number}{cores}; JAX {jax.__version__}, Python {platform.python_version()}"


def _state(places, rounds):
    seeds = "" if len(places) == 1 else f", seeds {min(places)} to {max(places)}"
    if not any(place.is_started for place in places.values()):
        return f"new{seeds}"
    done = _span(len(_rows(place)) for place in places.values())
    return f"where {done} of {_span(rounds.values())} rounds have finished{seeds}"


def _span(numbers):
    numbers = list(numbers)
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"


def _rows(place):
    try:
        return place.read_rounds()
    except DamagedError:
        return []


def _networks(setup):
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in setup.params.items()}
    weights, _ = mask_lib.counts(setup.dense_masks)
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    prunable = f"{weights:,} of {sum(sizes.values()):,} parameters can be pruned"
    return f"{setup.config.model.name} ({parts}); {prunable}; {_si(setup.flops())} FLOPs a forward pass of an image"


def _rounds(setup, timeline):
    config, method = setup.config, config_lib.method(setup.config)
    steps = "of the steps of" if timeline is None else f"of {timeline.steps:,} steps"
    length = f"{steps} {config.train.epochs:g} epochs" if timeline is None else steps
    seeds = f", for each of {config.seeds} seeds" if config.seeds > 1 else ""
    title = method.title(config)
    if not method.prunes:
        others = f", and one for each ticket of {_origin(config)}" if method.source else ""
        return f"{title}: the dense one {length}{others}{seeds}"
    levels = [f"{100 * level:.3g}" for level in setup.levels[1:]]
    if len(levels) > MOST_LEVELS:
        levels = [*levels[:2], "...", levels[-1]]
    what = "FLOPs saved" if config.prune.target == "flops" else "sparse"
    rounds = f"the dense one and {len(setup.levels) - 1} pruned, {', '.join(levels)}% {what}"
    return f"{title}: {rounds}; {length} each{seeds}"


def _origin(config):
    return config[config.experiment].of


def _batches(setup, timeline):
    size = f"batches of {setup.config.train.batch_size}"
    return size if timeline is None else f"{size}, {timeline.per_epoch:,} in an epoch"


# What only --dry_run says.


class Imagined(Setup):
    """A setup whose data nobody has read: no more images than a batch has, and no metrics.

    Attributes, beside those of `Setup`:
      asked: the config as it was given.
      source: of its data.
    """

    def __init__(self, config):
        self.asked, self.source = config, data.find(config.data.name, config.data.dir or None, config.data.background)
        config = config.copy_and_resolve_references()
        if config.eval.features == networks.AUTO:
            config.eval.features = inception.INCEPTION.name  # No program reads it.
        super().__init__(config)

    @property
    def state(self):
        """The shapes of a train state."""
        return jax.eval_shape(self._init, np.uint32(0))

    def _read_data(self):
        size, n = self.config.model.image_size, self.config.train.batch_size
        images = np.zeros((n, size, size, self.image_channels), np.uint8)
        return [data.Dataset("", images, np.zeros(n, np.int32), (), "")] * 2

    def _count_images(self):
        if self.source.count or self.asked.train.steps:
            return self.source.count or len(self.images)
        return UNKNOWN * len(self.images)

    def _make_evaluator(self, images, held_out):
        del images, held_out


def _metrics(config):
    return metrics.chosen(config, OBJECTIVES[config.objective.name])


def _step_flops(setup):
    shape = (*[setup.config.model.image_size] * 2, setup.image_channels)
    batch = setup.config.train.batch_size
    return batch * sum(layer.step for layer in cost.layers(setup.make_objective(), shape, batch))


def _steps_left(timeline, places, rounds, is_adopted):
    """The steps of the rounds that have not finished; all but the dense one start at the rewind step.

    Searches, and where controls start, are left out: with these it is about as many.
    """
    dense, pruned = 0 if is_adopted else timeline.steps, timeline.steps - timeline.rewind_step
    return sum(sum([dense, *[pruned] * (rounds[seed] - 1)][len(_rows(place)) :]) for seed, place in places.items())


def _memory(setup, source):
    taken = setup.step_bytes
    if taken is None:
        return "not told by this back end"
    rows = setup.images.nbytes // len(setup.images) * source.count
    text = f"{_bytes(taken)} for a train step on each device, by XLA"
    return f"{text}, and {_bytes(rows)} for the images" if source.count else text


def _time(setup, step, left, places):
    if left == 0:
        return "nothing is left to train"
    speeds = [row["steps_per_second"] for place in places.values() for row in _rows(place)]
    if speeds := [speed for speed in speeds if speed]:
        speed, how = float(np.median(speeds)), "measured in the rounds that are there"
    else:
        products = _products_per_second() * len(jax.local_devices())
        speed = PART_OF_PEAK * products / step
        how = f"at {PART_OF_PEAK:.0%} of the {_si(products)} FLOP/s that matrix products reach here; a rough guess"
    total = "" if left is None else f"{duration(left / speed)} of training, without metrics: "
    return f"{total}{speed:.3g} steps/s, {how}"


def _products_per_second(size: int = 1024) -> float:
    """The FLOPs per second of a float32 matrix product on the first device, the best of several."""
    product, matrix = jax.jit(jnp.matmul), jnp.ones((size, size), jnp.float32)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def _disk(setup, rounds):
    state = setup.state
    state_bytes, weight_bytes = (
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) for tree in (state, state.params)
    )
    weights, _ = mask_lib.counts(setup.dense_masks)
    kept = rounds if setup.config.keep_weights == "all" else 3
    one = STATES * state_bytes + rounds * weights // 8 + kept * weight_bytes + state_bytes
    return setup.config.seeds * one


def _missing(config, source):
    """What is downloaded, prepared or trained before the first step."""
    if not data.are_kept(config):
        if missing := source.missing():
            yield missing
        yield "the data set is decoded once"
    read = {metric.features_of(config) for metric in _metrics(config) if metric.needs == SAMPLES}
    for name in sorted(read):
        if name == networks.AUTO:
            yield "feature networks, if the ones for these data are not in the cache"
        elif name in (inception.INCEPTION.name, inception.INCEPTION_LOGITS.name):
            if not inception.is_available():
                yield inception.missing()
        elif not list(cache.path("features").glob(f"{name}-v*.safetensors")):
            yield f"the feature networks {name} are trained once"


# Numbers in words.


def _si(number: float) -> str:
    """`3.1 M`, `1.2e+21` beyond exa."""
    if number < 1000:
        return f"{number:.3g}"
    power = min(int(math.log10(number) // 3), 6)
    return f"{number / 1000**power:.3g} {'kMGTPE'[power - 1]}"


def _bytes(number: float) -> str:
    return f"{number / 2**30:.3g} GiB" if number >= 2**30 else f"{number / 2**20:.3g} MiB"
