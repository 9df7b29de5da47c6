"""Times the train step of a DCGAN by its channels: counts with similar FLOPs can differ much in time.

    python benchmarks/channel_counts.py [--width=64] [--counts=22,43,87:24,40,88] [--repeats=5] [--out=FILE.json]

A count gives the channels of the 16x16, 8x8 and 4x4 maps of both players; the whole network has width, 2 x width and
4 x width. The steps run in turn; the table gives their share of the whole network's step time, median and range.
"""

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path

import jax
from early_bird import NETWORKS
from ml_collections import ConfigDict

from jaxtickets import config as config_lib
from jaxtickets.data.batches import blocks
from jaxtickets.devices import replicate
from jaxtickets.runs import Setup


def make_setup(width, counts, like=None):
    """The setup of a DCGAN with these counts of channels; None: with all."""
    config = config_lib.get_config()
    config.experiment, config.data.name, config.train.steps = "dense", "digits", 1000
    config.model.update(name="dcgan", latent_size=32, image_size=32)
    config.eval.update(samples=2048, batch_size=256, features="digits")
    config.update_from_flattened_dict(NETWORKS["dcgan"])
    config.model.width = width
    if counts:
        large, middle, small = counts
        config.model.channels = ConfigDict(
            {
                "generator": {"unproject": small, "up_8": middle, "up_16": large},
                "discriminator": {"down_32": large, "down_16": middle, "down_8": small},
            }
        )
    return Setup(config, like=like)


def runner(setup, steps):
    """A function that runs this number of steps and returns the seconds per step."""
    state, masks = replicate((setup.init(0), setup.dense_masks))
    batches = list(setup.batches([0], blocks(0, steps, setup.timeline.steps_per_call, lambda step: False)))

    def run():
        nonlocal state
        started = time.perf_counter()
        for block, *batch in batches:
            state, _ = setup.programs.get(block.start, len(block))(state, masks, *batch, None)
        jax.block_until_ready(state)
        return (time.perf_counter() - started) / steps

    run()
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--counts", default="22,43,87:24,40,88:16,48,96")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    whole = make_setup(options.width, None)
    setups = {"all": whole}
    for counts in options.counts.split(":"):
        setups[counts] = make_setup(options.width, [int(count) for count in counts.split(",")], whole)
    runners = {name: runner(setup, 3 if setup is whole else 10) for name, setup in setups.items()}
    seconds = {name: [] for name in runners}
    for _ in range(options.repeats):
        for name, run in runners.items():
            seconds[name].append(run())
    print(f"{'channels':12} {'FLOPs':>6} {'time':>6} {'range':>13}")
    rows = []
    for name, setup in setups.items():
        shares = [small / large for small, large in zip(seconds[name], seconds["all"], strict=True)]
        flops = setup.flops() / whole.flops()
        rows.append({"channels": name, "flops": flops, "seconds": seconds[name], "shares": shares})
        spread = f"{min(shares):.3f}-{max(shares):.3f}"
        print(f"{name:12} {flops:6.1%} {statistics.median(shares):6.3f} {spread:>13}")
    if options.out:
        versions = {"python": platform.python_version(), "jax": jax.__version__}
        device = jax.devices()[0].device_kind
        content = {"command": shlex.join(sys.argv), "versions": versions, "device": device, "rows": rows}
        options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
