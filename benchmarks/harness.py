"""Parts that the benchmarks share: options, networks at the reference's settings, timing in turn, and the JSON file."""

import argparse
import collections
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import allocator, models, train
from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets.devices import replicate
from jaxtickets.objectives import OBJECTIVES, Objective
from jaxtickets.optimizers import make_optimizers

# The objective of a network, its settings in the public reference (or its paper), its width and its batch size.
NETWORKS = {
    "dcgan": ("gan", {"optimizer.beta1": 0.9, "optimizer.learning_rate": 2e-4}, 128, 100),
    "conv_vae": ("vae", {"optimizer.learning_rate": 1e-3, "optimizer.weight_decay": 1e-5}, 64, 128),
    "sngan_resnet": ("gan", {"objective.loss": "hinge", "optimizer.beta1": 0.0, "optimizer.beta2": 0.9}, 128, 64),
    "conv_ae": ("autoencoder", {"optimizer.learning_rate": 1e-3, "optimizer.weight_decay": 1e-5}, 64, 128),
    "linear_ae": ("autoencoder", {"optimizer.learning_rate": 1e-3, "optimizer.weight_decay": 1e-5}, 128, 128),
}


def parser(doc: str, repeats: int) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark; from here on freed memory is kept (`jaxtickets.allocator`)."""
    allocator.keep_freed_memory()
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--repeats", type=int, default=repeats)
    result.add_argument("--out", type=Path, help="a JSON file for the figures")
    return result


def game(name: str, width: int | None = None, image_size: int = 32, **sizes) -> tuple[Objective, dict]:
    """`(objective, optimisers of its players)` of one of `NETWORKS`, for images with three channels."""
    objective_name, fields, default_width, _ = NETWORKS[name]
    config = config_lib.get_config()
    config.update_from_flattened_dict(dict(fields))
    sizes = {"width": width or default_width, "latent_size": 32, "image_size": image_size, "channels": 3} | sizes
    objective = OBJECTIVES[objective_name].make(models.NETWORKS[name].make(**sizes), config)
    return objective, make_optimizers(objective, config.optimizer)


class Training(NamedTuple):
    """An objective, its optimisers, the state before the first step, and masks that keep everything."""

    objective: Objective
    optimizers: dict
    state: train.TrainState
    masks: Any


def training(name: str, width: int | None = None, image_size: int = 32, **sizes) -> Training:
    """The `Training` of a `game`, on the host."""
    objective, optimizers = game(name, width, image_size, **sizes)
    state = jax.device_get(train.init_state(objective, optimizers, 0))
    return Training(objective, optimizers, state, mask_lib.ones(state.params))


def random_images(n: int, image_size: int = 32) -> np.ndarray:
    """Noise: `[n, image_size, image_size, 3]` uint8."""
    return np.random.default_rng(0).integers(0, 256, (n, image_size, image_size, 3), dtype=np.uint8)


def compiled_step(
    objective: Objective, optimizers: dict, batch_size: int, image_size: int, rematerialize: bool = False
) -> jax.stages.Compiled:
    """The compiled step in which all players move, for one batch of images that is split over the devices."""
    state = jax.eval_shape(lambda: train.init_state(objective, optimizers, 0))
    devices = jax.local_device_count()
    images = jax.ShapeDtypeStruct((batch_size // devices, image_size, image_size, 3), np.uint8)
    indices = jax.ShapeDtypeStruct((batch_size // devices,), np.int32)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((devices, *leaf.shape), leaf.dtype),
        (state, mask_lib.ones(state.params), (images, None), indices),
    )
    step = train.make_step(objective, optimizers, tuple(objective.players))
    return step.lower(*arguments).compile(train.compiler_options(rematerialize))


def steppers(
    programs: dict[str, jax.stages.Compiled], state: train.TrainState, masks, batch_size: int, image_size: int, steps=1
) -> dict[str, Callable[[], None]]:
    """One function per program of `compiled_step`, which trains for `steps` steps; all share one state."""
    per_device = batch_size // jax.local_device_count()
    images, indices = random_images(per_device, image_size), np.arange(per_device, dtype=np.int32)
    state, *rest = map(replicate, (state, masks, (images, None), indices))

    def stepper(program):
        def run():
            nonlocal state
            for _ in range(steps):
                state, _ = program(state, *rest)
            jax.block_until_ready(state)

        return run

    return {name: stepper(program) for name, program in programs.items()}


def in_turn(runners: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """The seconds of `repeats` calls of each function; a function must return only when its work is done.

    Each is called once before. They take turns, forward and backward, so that a drift of the machine affects all alike.
    """
    for run in runners.values():
        run()
    seconds = {name: [] for name in runners}
    for repeat in range(repeats):
        for name in list(runners)[:: -1 if repeat % 2 else 1]:
            started = time.perf_counter()
            runners[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


class Parts:
    """The seconds of the named parts of a running program. A part does not count the parts that its thread calls in it.

    Attributes:
      seconds: of each part.
      cpu_seconds: of each part, those of all cores.
      spans: `(part, start, end)` of each call, of `time.perf_counter`; a part's span holds those that it calls.
    """

    def __init__(self):
        self.seconds, self.cpu_seconds, self.spans = Counter(), Counter(), []
        self._inner = collections.defaultdict(lambda: np.zeros(2))  # By thread.

    def timed(self, part: str, function: Callable) -> Callable:
        """`function`, whose time counts as that of `part`."""

        def run(*arguments, **options):
            thread = threading.get_ident()
            before, self._inner[thread], started = self._inner[thread], np.zeros(2), _clocks()
            try:
                return function(*arguments, **options)
            finally:
                took = _clocks() - started
                own = took - self._inner[thread]
                self.seconds[part] += float(own[0])
                self.cpu_seconds[part] += float(own[1])
                self.spans.append((part, float(started[0]), float(started[0] + took[0])))
                self._inner[thread] = before + took

        return run

    def wrap(self, part: str, owner, *names: str) -> None:
        """Replaces functions of a module, or methods of a class, by timed ones."""
        for name in names:
            setattr(owner, name, self.timed(part, getattr(owner, name)))


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def ratios(seconds: dict[str, list[float]], first: str, second: str) -> list[float]:
    """The seconds of `first` over those of `second`, in each repeat."""
    return [a / b for a, b in zip(seconds[first], seconds[second], strict=True)]


def spread(values: list[float], digits: int = 3) -> str:
    """The text `median (lowest-highest)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def write(options: argparse.Namespace, results) -> None:
    """Writes `results` to `options.out`, if given, with the command, the versions and the machine."""
    if not options.out:
        return
    packages = ["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"]
    versions = {name: importlib.metadata.version(name) for name in packages}
    if torch := sys.modules.get("torch"):
        versions["torch"] = torch.__version__
    about = {
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"python": platform.python_version(), **versions},
        "device": jax.devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    print(f"written to {options.out}")
