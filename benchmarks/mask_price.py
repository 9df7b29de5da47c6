"""The price of a mask: the train step with masks against the same step without, side by side in one run.

    python benchmarks/mask_price.py [--width=128] [--batch_size=100] [--repeats=15] [--out=FILE.json]

Both steps are compiled from the same code; without masks, `None` stands in the place of each mask and nothing is
multiplied. They run in turn, and the table gives the median and the range over the repeats.
"""

import argparse
import json
import platform
import shlex
import statistics
import sys
import time

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import models, train
from jaxtickets.config import get_config
from jaxtickets.objectives import OBJECTIVES

NETWORKS = {"dcgan": "gan", "conv_vae": "vae", "conv_ae": "autoencoder"}


def timed_steps(name, width, batch_size, steps):
    """For each variant a function that runs `steps` steps and returns the seconds a step."""
    config = get_config()
    config.optimizer.update(beta1=0.5)
    components = models.MODELS[name](width=width, latent_size=32, image_size=32, channels=3)
    objective = OBJECTIVES[NETWORKS[name]](components, config.objective)
    optimizers = train.make_optimizers(objective, config.optimizer)
    step = train.make_step(objective, optimizers, tuple(objective.players))
    initial = train.init_state(objective, optimizers, 0)
    devices = jax.local_device_count()
    rng = np.random.default_rng(0)
    data = train.replicate((rng.integers(0, 256, (4 * batch_size, 32, 32, 3), dtype=np.uint8), None))
    indices = rng.permutation(4 * batch_size)[:batch_size].astype(np.int32).reshape(devices, -1)
    dense = mask_lib.ones(initial.params)

    def runner(masks):
        state, masks = train.replicate(initial), train.replicate(masks)

        def run():
            nonlocal state
            started = time.perf_counter()
            for _ in range(steps):
                state, _ = step(state, masks, data, indices)
            jax.block_until_ready(state)
            return (time.perf_counter() - started) / steps

        run()
        return run

    return {"unmasked": runner(jax.tree.map(lambda _: None, initial.params)), "masked": runner(dense)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2, help="steps a repeat")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", help="a JSON file for the figures")
    options = parser.parse_args()

    results = {}
    print(f"{'network':10} {'unmasked ms':>12} {'masked ms':>10} {'ratio, median':>14} {'lowest':>7} {'highest':>8}")
    for name in NETWORKS:
        runners = timed_steps(name, options.width, options.batch_size, options.steps)
        times = {variant: [] for variant in runners}
        for _ in range(options.repeats):
            for variant, run in runners.items():
                times[variant].append(run())
        ratios = [masked / unmasked for masked, unmasked in zip(times["masked"], times["unmasked"], strict=True)]
        medians = {variant: 1000 * statistics.median(values) for variant, values in times.items()}
        spread = f"{statistics.median(ratios):14.3f} {min(ratios):7.3f} {max(ratios):8.3f}"
        print(f"{name:10} {medians['unmasked']:12.1f} {medians['masked']:10.1f} {spread}", flush=True)
        results[name] = {"seconds": times, "ratios": ratios}
    if options.out:
        about = {
            "command": shlex.join(["python", *sys.argv]),
            "jax": jax.__version__,
            "device": str(jax.devices()[0].device_kind),
            "machine": platform.machine(),
            "options": {key: value for key, value in vars(options).items() if key != "out"},
        }
        with open(options.out, "w") as file:
            json.dump({**about, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
