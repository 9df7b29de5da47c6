"""Times a train step on the CPU with freed memory returned to the kernel after each step, and with it kept.

    python benchmarks/allocator.py [--networks=dcgan:64,conv_vae:64] [--repeats=3] [--out=FILE.json]

Each repeat starts one fresh process per way, in turn: with the C library's default, and with memory kept as
`jaxtickets.main` does (`jaxtickets.allocator`). The table gives milliseconds and page faults per step.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

import harness
import jax
import numpy as np

from jaxtickets import allocator, train
from jaxtickets.devices import replicate

STEPS = 6


def measure(network: str, keep: bool) -> dict[str, float]:
    """Milliseconds and page faults per step, medians over `STEPS` steps after two steps of warm-up."""
    if keep:
        allocator.keep_freed_memory()
    name, width = network.split(":")
    objective, optimizers, state, masks = harness.training(name, int(width))
    step = train.make_step(objective, optimizers, tuple(objective.players))
    state, masks, data = map(replicate, (state, masks, (harness.random_images(64), None)))
    indices = np.arange(64, dtype=np.int32).reshape(jax.local_device_count(), -1)
    figures = []
    for _ in range(STEPS + 2):
        started, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        state, _ = jax.block_until_ready(step(state, masks, data, indices))
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        figures.append((1000 * (time.perf_counter() - started), faults))
    ms, faults = (statistics.median(values) for values in zip(*figures[2:], strict=True))
    return {"ms": ms, "faults": faults}


def main():
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--networks", default="dcgan:64,conv_vae:64")
    options = parser.parse_args()
    results = {}
    print(f"{'network':14} {'default ms':>24} {'faults':>8} {'kept ms':>24} {'faults':>8} {'kept / default':>22}")
    for network in options.networks.split(","):
        found = {"default": [], "kept": []}
        for _ in range(options.repeats):
            for way, figures in found.items():
                command = [sys.executable, __file__, "--measure", network, way]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                figures.append(json.loads(output))
        ms = {way: [figures["ms"] for figures in found[way]] for way in found}
        faults = {way: statistics.median(figures["faults"] for figures in found[way]) for way in found}
        columns = (f"{harness.spread(ms[way], 1):>24} {faults[way]:8.0f}" for way in found)
        print(f"{network:14}", *columns, f"{harness.spread(harness.ratios(ms, 'kept', 'default')):>22}", flush=True)
        results[network] = found
    harness.write(options, results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3] == "kept")))
    else:
        main()
