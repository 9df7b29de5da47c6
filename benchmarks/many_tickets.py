"""Counts tickets per hour: many small trainings on one machine, one after the other, or several at a time.

    python benchmarks/many_tickets.py [--host_devices=2] [--jobs=2] [--seeds=2] [--sparsities=0.5,0.9]
        [--convolutions=xla,products] [--out=FILE.json]

A ticket is a training of `--ticket_steps` steps under a mask, with its own seed and batches; there is one for each seed
and sparsity. These ways are compared in one run, in turn:

    one by one      one after the other, on the first device
    on each device  one per local device at a time, each with a thread and a program, as `config.tickets_per_host`
                    does; `--host_devices=2` makes two devices of a CPU
    vmapped         all at a time on the first device, by `jax.vmap` of the same step over states, masks and batches;
                    once for each of `--convolutions`: XLA's (`xla`), which become grouped convolutions, or batched
                    matrix products (`products`)
    processes       on a CPU: `--jobs` processes at a time, as `launch.sweep --jobs=2` starts them

The table gives tickets per hour, median and range over the repeats; the ratio of that to "one by one"; and the seconds
before the first step ("ready"), for compiling and starting processes. These are not part of the tickets per hour, and
no compilation cache is read.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import harness
import jax
import numpy as np

from jaxtickets import pruning, train
from jaxtickets.data import batches
from jaxtickets.devices import AXIS, replicate
from jaxtickets.models import convolution

# The name in the harness, the sizes, the batch size, and the steps of a ticket per repeat.
NETWORKS = {
    "linear_ae": ("linear_ae", {"image_size": 28, "channels": 1, "latent_size": 3}, 128, 50),
    "conv_ae_16": ("conv_ae", {"image_size": 16, "width": 16}, 64, 10),
    "dcgan_16": ("dcgan", {"image_size": 16, "width": 32}, 64, 4),
    "dcgan_32": ("dcgan", {"image_size": 32, "width": 64}, 100, 1),
}
FASTER = 20  # An accelerator does this multiple of the steps.


class Fleet(NamedTuple):
    """Tickets of one network: `(state, masks, indices of its batches: [steps, batch] int32)` each."""

    network: harness.Training
    images: np.ndarray
    tickets: list


def make_fleet(network: harness.Training, images, batch_size: int, seeds: int, sparsities, steps: int) -> Fleet:
    """One ticket per seed and sparsity."""
    init, tickets = jax.jit(partial(train.init_state, network.objective, network.optimizers)), []
    for seed in range(seeds):
        state = jax.device_get(init(np.uint32(seed)))
        chosen = np.stack(list(batches.indices(seed, 0, steps, len(images), batch_size)))
        for sparsity in sparsities:
            scores = pruning.magnitude(state.params, network.masks)
            masks = pruning.prune(scores, network.masks, sparsity, scope="layerwise")
            tickets.append((train.rewind(state, masks), masks, chosen))
    return Fleet(network, images, tickets)


def build(name: str, seeds: int, sparsities: list[float], steps: int) -> Fleet:
    """The fleet of one of `NETWORKS`."""
    network_name, sizes, batch_size, _ = NETWORKS[name]
    network = harness.training(network_name, **sizes)
    images = harness.random_images(1024, sizes["image_size"])[..., : sizes.get("channels", 3)]
    return make_fleet(network, images, batch_size, seeds, sparsities, steps)


# Each way returns a function that trains every ticket for its steps, going on where the last call ended, and returns
# the states once they are on the devices.


def one_by_one(fleet: Fleet, device: jax.Device):
    """Trains the tickets one after the other; the states are a list of one tree `[1, ...]` per ticket."""
    network, here = fleet.network, (device,)
    step = train.make_step(network.objective, network.optimizers, tuple(network.objective.players), devices=here)
    data = replicate((fleet.images, None), here)
    tickets = [(*replicate((state, masks), here), chosen[:, None]) for state, masks, chosen in fleet.tickets]

    def run():
        for number, (state, masks, chosen) in enumerate(tickets):
            for indices in chosen:
                state, _ = step(state, masks, data, indices)
            tickets[number] = jax.block_until_ready(state), masks, chosen
        return [state for state, *_ in tickets]

    return run


def on_each_device(fleet: Fleet, devices: list[jax.Device]):
    """Trains as `one_by_one` on each device, in a thread, with its share of the tickets."""
    n = len(devices)
    runs = [one_by_one(fleet._replace(tickets=fleet.tickets[k::n]), device) for k, device in enumerate(devices)]
    pool = ThreadPoolExecutor(n)

    def run():
        shares = list(pool.map(lambda run: run(), runs))
        return [shares[number % n][number // n] for number in range(len(fleet.tickets))]

    return run


def vmapped(fleet: Fleet, device: jax.Device, way: str | None = None):
    """Trains all tickets together; the states are one tree `[1, tickets, ...]`.

    Args:
      way: how convolutions are computed (`convolution.computed_as`).
    """
    network, here = fleet.network, (device,)
    step = train.step_function(network.objective, network.optimizers, tuple(network.objective.players))
    mapped = jax.vmap(step, in_axes=(0, 0, None, 0))
    step = jax.pmap(mapped, axis_name=AXIS, donate_argnums=0, devices=here)
    data = replicate((fleet.images, None), here)
    state, masks, chosen = jax.tree.map(lambda *leaves: np.stack(leaves), *fleet.tickets)
    state, masks = replicate((state, masks), here)
    with convolution.computed_as(way):
        step = step.lower(state, masks, data, chosen[:, 0][None]).compile()

    def run():
        nonlocal state
        for indices in chosen.swapaxes(0, 1):
            state, _ = step(state, masks, data, indices[None])
        return jax.block_until_ready(state)

    return run


class Processes:
    """Processes that live as long as the `with` block, each with a share of the tickets; a call trains all of them."""

    def __init__(self, name: str, options, steps: int, jobs: int):
        given = [name, options.seeds, options.sparsities, steps]
        command = [sys.executable, __file__, "--worker"]
        self._processes = [
            subprocess.Popen(
                [*command, json.dumps([*given, job, jobs])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for job in range(jobs)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.communicate()  # Closes the input, which ends the process.

    def __call__(self):
        for process in self._processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in self._processes:
            if not process.stdout.readline():
                raise RuntimeError(f"a process has ended with status {process.wait()}")


def work(name, seeds, sparsities, steps, job, jobs):
    """The work of one process: trains its share of the tickets for each line that it reads, then prints a line."""
    fleet = build(name, seeds, sparsities, steps)
    run = one_by_one(fleet._replace(tickets=fleet.tickets[job::jobs]), jax.local_devices()[0])
    for _ in sys.stdin:
        run()
        print("done", flush=True)


def measure(name: str, options, show) -> dict:
    """The numbers of tickets and steps and the seconds of each way, which `show(way, hourly, gains, ready)` prints."""
    is_cpu, devices = jax.default_backend() == "cpu", jax.local_devices()
    steps = options.steps or NETWORKS[name][3] * (1 if is_cpu else FASTER)
    runners, ready = {}, {}

    def prepare(way, make):
        started = time.perf_counter()
        runners[way] = make()
        runners[way]()
        ready[way] = time.perf_counter() - started

    with contextlib.ExitStack() as stack:
        fleet = build(name, options.seeds, options.sparsities, steps)
        prepare("one by one", lambda: one_by_one(fleet, devices[0]))
        if len(devices) > 1:
            prepare("on each device", lambda: on_each_device(fleet, devices))
        for way in options.convolutions:
            prepare(f"vmapped, {way}", lambda way=way: vmapped(fleet, devices[0], way))
        if is_cpu and options.jobs:
            prepare("processes", lambda: stack.enter_context(Processes(name, options, steps, options.jobs)))
        seconds = harness.in_turn(runners, options.repeats)
    tickets = len(fleet.tickets)
    for way, all_seconds in seconds.items():
        hourly = [3600 * tickets * steps / one / options.ticket_steps for one in all_seconds]
        show(way, hourly, harness.ratios(seconds, "one by one", way), ready[way])
    return {"tickets": tickets, "steps": steps, "seconds": seconds, "ready_seconds": ready}


def main():
    parser = harness.parser(__doc__, repeats=5)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--sparsities", type=lambda text: [float(one) for one in text.split(",")], default=[0.5, 0.9])
    parser.add_argument(
        "--convolutions",
        type=lambda text: text.split(","),
        default=list(convolution.WAYS),
        help="xla, products",
    )
    parser.add_argument("--ticket_steps", type=int, default=1500, help="the steps of a whole training")
    parser.add_argument("--steps", type=int, default=0, help="steps of a ticket per repeat; 0: by network and platform")
    parser.add_argument("--jobs", type=int, default=2, help="the number of processes; 0 leaves them out")
    parser.add_argument("--host_devices", type=int, default=0, help="make this number of devices of a CPU")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(*options.worker)
    if options.host_devices:
        jax.config.update("jax_num_cpu_devices", options.host_devices)
    if unknown := set(options.networks.split(",")) - NETWORKS.keys():
        parser.error(f"--networks: {', '.join(unknown)}: allowed are {', '.join(NETWORKS)}")

    print(f"{'network':11} {'way':17} {'tickets per hour':>24} {'x one by one':>20} {'ready s':>8}")
    results = {}
    for name in options.networks.split(","):

        def show(way, hourly, gains, ready, name=name):
            columns = f"{harness.spread(hourly, 0):>24} {harness.spread(gains, 2):>20} {ready:8.1f}"
            print(f"{name:11} {way:17} {columns}", flush=True)

        results[name] = measure(name, options, show)
    harness.write(options, results)


if __name__ == "__main__":
    main()
