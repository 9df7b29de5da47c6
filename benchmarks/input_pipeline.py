"""Times input pipelines with a train step: images on the devices, streamed images, and a PyTorch DataLoader.

    python benchmarks/input_pipeline.py [--networks=linear_ae,dcgan_32] [--workers=0,2] [--repeats=7] [--out=FILE.json]

All feed the same step, one step per call, with the same uint8 images in random order:

    fixed batch       one batch on the devices, again and again: the limit
    on the devices    all images are on the devices, and the step picks its own (`batches.resident`)
    streamed          a thread gathers each batch and sends it (`batches.streamed`)
    DataLoader, n     PyTorch's, with n worker processes, of a uint8 tensor; left out without torch

They run in turn. The table gives images per second of the pipeline alone, until they are on the devices, and with the
step, and the share of time in which the step waits: 1 - time with the fixed batch / time. All are medians with their
range. On a CPU the pipeline runs on the step's own cores, and the share is the time that it takes from the step. Two
networks take about two minutes on two CPU cores.
"""

import importlib.util
import math
import time
from functools import partial
from itertools import islice, repeat

import harness
import jax

from jaxtickets import train
from jaxtickets.data import batches
from jaxtickets.devices import replicate

# The network, its width and its image size.
NETWORKS = {"linear_ae": ("linear_ae", 128, 32), "dcgan_32": ("dcgan", 64, 32)}
STEPS_ALONE = 512


def loaded(images, batch_size: int, workers: int):
    """Yields the batches of PyTorch's DataLoader, `(images, None)` on the devices, epoch after epoch without end."""
    from torch import from_numpy
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(
        TensorDataset(from_numpy(images)),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,  # A fork would copy JAX's locks.
    )
    put = jax.pmap(lambda batch: batch)
    while True:
        for (batch,) in loader:
            yield put(batch.numpy().reshape(jax.local_device_count(), -1, *batch.shape[1:])), None


def pipelines(images, batch_size: int, workers: list[int]) -> dict:
    """`{name: (start, stop) -> iterator over (data, indices) of each of these steps}`."""
    devices = jax.local_device_count()
    chosen = partial(batches.indices, 0, n=len(images), batch_size=batch_size)
    resident = replicate((images, None))

    def ours(batches_of, data):
        def of_steps(start, stop):
            blocks = (range(step, step + 1) for step in range(start, stop))
            return (batch for _, *batch in batches_of(data, chosen, blocks, devices))

        return of_steps

    def theirs(n):
        batches_of_loader = loaded(images, batch_size, n)
        return lambda start, stop: ((data, order) for data in islice(batches_of_loader, stop - start))

    streamed = ours(batches.streamed, (images, None))
    ((data, order),) = streamed(0, 1)
    return {
        "fixed batch": lambda start, stop: repeat((data, order), stop - start),
        "on the devices": ours(batches.resident, resident),
        "streamed": streamed,
        **{f"DataLoader, {n}": theirs(n) for n in workers},
    }


def measure(network: str, n_images: int, batch_size: int, workers: list[int], seconds: float, repeats: int) -> dict:
    """`{pipeline: {"alone", "with_step": images per second, "waiting": share of time}}`, each one value per repeat."""
    name, width, image_size = NETWORKS[network]
    training = harness.training(name, width, image_size)
    masks = replicate(training.masks)
    step = train.make_step(training.objective, training.optimizers, train.movers(training.objective, 0))
    n_steps, compiled = 1, {}

    def runner(pipeline):
        state, done = replicate(training.state), 0
        ((data, indices),) = pipeline(0, 1)
        shapes = str(jax.tree.map(jax.numpy.shape, (data, indices)))
        if shapes not in compiled:
            compiled[shapes] = step.lower(state, masks, data, indices).compile()
        program = compiled[shapes]

        def run():
            nonlocal state, done
            for data, indices in pipeline(done, done + n_steps):
                state, _ = program(state, masks, data, indices)
            jax.block_until_ready(state)
            done += n_steps

        return run

    def runner_alone(pipeline):
        def run():
            for batch in pipeline(0, STEPS_ALONE):
                last = batch
            jax.block_until_ready(last)

        return run

    sources = pipelines(harness.random_images(n_images, image_size), batch_size, workers)
    runners = {title: runner(pipeline) for title, pipeline in sources.items()}
    runners["fixed batch"]()
    n_steps = 4
    started = time.perf_counter()
    runners["fixed batch"]()
    n_steps = math.ceil(4 * seconds / (time.perf_counter() - started))
    with_step = harness.in_turn(runners, repeats)
    alone = {title: runner_alone(pipeline) for title, pipeline in sources.items() if title != "fixed batch"}
    alone = harness.in_turn(alone, repeats)
    return {
        title: {
            "alone": [STEPS_ALONE * batch_size / value for value in alone.get(title, ())],
            "with_step": [n_steps * batch_size / value for value in with_step[title]],
            "waiting": [1 - ratio for ratio in harness.ratios(with_step, "fixed batch", title)],
        }
        for title in sources
    }


def main():
    parser = harness.parser(__doc__, repeats=7)
    parser.add_argument("--networks", default=",".join(NETWORKS), help=f"some of {', '.join(NETWORKS)}")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--workers", default="0,2", help="worker processes of PyTorch's DataLoader")
    parser.add_argument("--seconds", type=float, default=1.5, help="the length of a repeat with a fixed batch, about")
    options = parser.parse_args()
    workers = [int(n) for n in options.workers.split(",") if n]
    if not importlib.util.find_spec("torch"):
        print("PyTorch's DataLoader is left out: there is no torch")
        workers = []

    results = {}
    print(f"{'network':10} {'pipeline':15} {'images/s alone':>28} {'images/s with step':>28} {'step waits, %':>22}")
    for network in options.networks.split(","):
        results[network] = measure(
            network, options.images, options.batch_size, workers, options.seconds, options.repeats
        )
        for title, result in results[network].items():
            alone = harness.spread(result["alone"], 0) if result["alone"] else ""
            waits = harness.spread([100 * share for share in result["waiting"]], 1)
            with_step = harness.spread(result["with_step"], 0)
            print(f"{network:10} {title:15} {alone:>28} {with_step:>28} {waits:>22}", flush=True)
    harness.write(options, results)


if __name__ == "__main__":
    main()
