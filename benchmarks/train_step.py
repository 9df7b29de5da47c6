"""Compares the masked train step with PyTorch: jaxtickets and the networks of `torch_networks.py`, in turn in one run.

    python benchmarks/train_step.py [--networks=dcgan,conv_vae,sngan_resnet] [--width=N] [--batch_sizes=N,...]
        [--dtypes=float32,tf32,bfloat16] [--peak_tflops=N,...] [--data=fixed|fresh] [--steps=N] [--no-compile]
        [--repeats=7] [--out=FILE.json]

Both start from the same weights and compute the same losses with the same settings and masks that keep everything.
jaxtickets' step is compiled ahead of time, as in a run; PyTorch runs eagerly with contiguous and with channels-last
tensors, and through torch.compile (channels last where that works, else contiguous) unless `--no-compile` is given. Its
Adam is the fused one. Each framework runs in
its own process, as its users run it, and waits while the other works. The default widths and batch sizes are the
reference's (`harness.NETWORKS`); images are 32x32x3. A repeat is `--steps` steps of each.

One FLOP is a multiplication or an addition in a convolution or a matrix product of the published networks.
"GFLOP/s" excludes multiplications by padding, as XLA's cost analysis does; "padded" includes them, as if the network
computed the matrix products of im2col. Both count the published operations, also where jaxtickets does less: its
upsampling and pooling residual blocks (sngan_resnet) take 4/9 of their multiplications. "share" is that rate over the
matrix-product rate, the highest of four: of a large square product and of the im2col product of the layer with the most
work, in both frameworks, timed in the same turns. "MFU" is the rate without padding over `--peak_tflops`, one figure
per entry of `--dtypes`. The last line gives the time of PyTorch's fastest variant (by the median) over jaxtickets', by
repeat: above 1 jaxtickets is faster.

On a GPU (the first visible one) float32 is full precision, tf32 is float32 with TF32 products, and bfloat16 computes in
bfloat16 (PyTorch by autocast) with float32 weights. There each step reads a fresh batch (`--data=fresh`): jaxtickets
gathers it from images on the device, PyTorch loads it by a DataLoader in pinned memory. On the CPU all steps read one
batch.

On two CPU cores dcgan takes about 3 minutes, conv_vae 2 and sngan_resnet, with --batch_sizes=16 --repeats=4 --steps=1,
3 minutes, compilation included.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
from functools import partial
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_networks
from torch.utils import data

from jaxtickets import config as config_lib
from jaxtickets import cost, models, train
from jaxtickets import masks as mask_lib
from jaxtickets.data import batches
from jaxtickets.devices import replicate

IMAGE_SIZE, LATENT_SIZE = 32, 32
DTYPES = ("float32", "tf32", "bfloat16")
FRESH_IMAGES = 50_000  # The number of training images of CIFAR-10.
MAX_ROWS = 16384  # The most rows of the tall matrix product.


def number(kind):
    """The `type` of an option: a number above 0."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text}: allowed are numbers above 0")
        return value

    return parse


def one_of(allowed):
    """The `type` of an option: one of these names."""

    def parse(text):
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"{text}: allowed are {', '.join(allowed)}")
        return text

    return parse


def list_of(parse):
    """The `type` of an option: several values, separated by commas."""
    return lambda text: [parse(value) for value in text.split(",")]


def step_flops(objective, params, batch_size: int):
    """`(FLOPs, FLOPs with padding, (rows, contracted, columns))` of a train step.

    The last is the shape of the im2col product of the layer with the most work.
    """
    uses = models.kernel_uses(objective.components)
    work = cost.step_work(objective, (IMAGE_SIZE, IMAGE_SIZE, 3), batch_size)
    leaves, other = mask_lib.named_leaves(params), sum(work.other.values())
    plain = {path: work.passes[path] * count for path, count in cost.forward(uses, params).items()}
    # A kernel has as many positions as its most used tap has uses.
    padded = {path: 2 * work.passes[path] * int(uses[path].max()) * leaves[path].size for path in uses}
    most = max(plain, key=plain.get)
    *contracted, columns = leaves[most].shape
    shape = (min(batch_size * int(uses[most].max()), MAX_ROWS), int(np.prod(contracted)), columns)
    return batch_size * (sum(plain.values()) + other), batch_size * (sum(padded.values()) + other), shape


# The functions that are timed; each takes no arguments and returns when its work is done.


class Case(NamedTuple):
    """A training and its `images: [n, 32, 32, 3]` uint8; each step takes other images if `is_fresh`."""

    name: str
    width: int
    batch_size: int
    dtype: str
    training: harness.Training
    images: np.ndarray
    is_fresh: bool
    steps: int


def make_case(name: str, width: int, batch_size: int, dtype: str, is_fresh: bool, steps: int) -> Case:
    """The case of these sizes, the same in every process."""
    images = harness.random_images(max(FRESH_IMAGES, batch_size) if is_fresh else batch_size)
    style = {"dtype": jnp.bfloat16} if dtype == "bfloat16" else {}
    training = harness.training(name, width, IMAGE_SIZE, latent_size=LATENT_SIZE, **style)
    return Case(name, width, batch_size, dtype, training, images, is_fresh, steps)


def jax_steps(case: Case):
    """A function that does the steps of a case with jaxtickets, compiled ahead of time."""
    objective, optimizers, *trees = case.training
    step = train.make_step(objective, optimizers, train.movers(objective, 0))
    state, masks, data = map(replicate, (*trees, (case.images, None)))
    n_images = len(case.images) if case.is_fresh else case.batch_size  # A fixed batch is the whole data set.
    chosen = partial(batches.indices, 0, n=n_images, batch_size=case.batch_size)
    blocks = (range(number, number + 1) for number in itertools.count())
    stream = (batch for _, *batch in batches.resident(data, chosen, blocks, jax.local_device_count()))
    program = step.lower(state, masks, *next(stream)).compile()

    def run():
        nonlocal state
        for batch in itertools.islice(stream, case.steps):
            state, _ = program(state, masks, *batch)
        jax.block_until_ready(state)

    return run


def torch_steps(case: Case, device: torch.device, memory_format=torch.contiguous_format, compile=None):
    """A function that does the steps of a case with PyTorch."""
    networks = torch_networks.MODELS[case.name](case.width, LATENT_SIZE, IMAGE_SIZE)
    state, masks = case.training.state, case.training.masks
    torch_networks.load(networks, state.params, state.batch_stats)
    networks.to(device, memory_format=memory_format)
    dtype = torch.bfloat16 if case.dtype == "bfloat16" else torch.float32
    step = torch_networks.make_step(networks, settings(case.name), masks, LATENT_SIZE, dtype, compile)
    place = {"device": device, "memory_format": memory_format, "non_blocking": True}
    images = torch.from_numpy(case.images).permute(0, 3, 1, 2).contiguous()
    if case.is_fresh:
        stream = loaded(images, case.batch_size, pin_memory=device.type == "cuda")
    else:
        stream = itertools.repeat(images.to(**place))

    def run():
        for batch in itertools.islice(stream, case.steps):
            step(torch_networks.to_float(batch.to(**place)))
        synchronize(device)

    return run


def settings(name: str):
    """The config with the objective and the optimiser of `harness.training`."""
    config = config_lib.get_config()
    config.update_from_flattened_dict(dict(harness.NETWORKS[name][1]))
    return config


def loaded(images: torch.Tensor, batch_size: int, pin_memory: bool):
    """Yields batches in random order without end; indexing whole batches is faster than worker processes."""
    dataset = data.TensorDataset(images)
    sampler = data.BatchSampler(data.RandomSampler(dataset), batch_size, drop_last=True)
    loader = data.DataLoader(dataset, sampler=sampler, batch_size=None, pin_memory=pin_memory)
    while True:
        for (batch,) in loader:
            yield batch


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def factors(shape, dtype: str):
    """`(left, right, name of their type)`: the factors of a matrix product of this shape."""
    rows, contracted, columns = shape
    rng = np.random.default_rng(0)
    name = "bfloat16" if dtype == "bfloat16" else "float32"
    return rng.normal(size=(rows, contracted)), rng.normal(size=(contracted, columns)), name


def jax_products(shape, dtype: str, times: int):
    """A function that computes `times` matrix products in JAX."""
    *matrices, name = factors(shape, dtype)
    matrices = [jnp.asarray(matrix, name) for matrix in matrices]
    program = jax.jit(jnp.matmul).lower(*matrices).compile()

    def run():
        for _ in range(times):
            product = program(*matrices)
        jax.block_until_ready(product)

    return run


def torch_products(shape, dtype: str, times: int, device: torch.device):
    """A function that computes `times` matrix products in PyTorch."""
    *matrices, name = factors(shape, dtype)
    matrices = [torch.from_numpy(matrix).to(device, getattr(torch, name)) for matrix in matrices]

    def run():
        for _ in range(times):
            torch.matmul(*matrices)
        synchronize(device)

    return run


def serve_torch(connection, sizes, shapes, times: int, compiles: bool) -> None:
    """The process of PyTorch: sends the names of its variants, then runs what it is asked for by name, up to None."""
    on_gpu = torch.cuda.is_available() and jax.default_backend() == "gpu"
    device, case = torch.device("cuda" if on_gpu else "cpu"), make_case(*sizes)
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high" if case.dtype == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = case.dtype == "tf32"
    channels_last = {"memory_format": torch.channels_last}
    makers = {
        "PyTorch": partial(torch_steps, case, device),
        "PyTorch channels last": partial(torch_steps, case, device, **channels_last),
    }
    runners = {name: maker() for name, maker in makers.items()}
    # Some versions on some devices expect other strides of channels-last kernels than these have.
    for style in (channels_last, {}) if compiles else ():
        try:
            runner = torch_steps(case, device, **style, compile=torch.compile)
            runner()
            runners["PyTorch compiled"] = runner
            break
        except Exception as error:  # torch.compile fails with many kinds of errors; one line tells each.
            kind = "channels last" if style else "contiguous"
            print(f"torch.compile, {kind}, does not work here: {(str(error).strip() or repr(error)).splitlines()[0]}")
    connection.send(list(runners))
    runners |= {product_name(shape, "PyTorch"): torch_products(shape, case.dtype, times, device) for shape in shapes}
    while (name := connection.recv()) is not None:
        connection.send(runners[name]())


def product_name(shape, framework: str) -> str:
    return f"product {'x'.join(map(str, shape))}, {framework}"


def compare(sizes: tuple, repeats: int, peak_tflops: float | None, compiles: bool = True) -> dict:
    """Times the steps of a network, prints their table and returns the figures.

    Args:
      sizes: the arguments of `make_case`.
      compiles: whether torch.compile is tried.
    """
    case = make_case(*sizes)
    plain, padded, tall = step_flops(case.training.objective, case.training.state.params, case.batch_size)
    on_gpu = jax.default_backend() == "gpu"
    times, side = (20, 8192) if on_gpu else (1, 2048)
    shapes = ((side, side, side), tall)
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve_torch, args=(there, sizes, shapes, times, compiles))
    process.start()
    there.close()
    torch_names = here.recv()

    def asked(name):
        here.send(name)
        return here.recv()

    precision = {"float32": "float32", "tf32": "tensorfloat32"}.get(case.dtype) if on_gpu else None
    with jax.default_matmul_precision(precision):
        steps = ["jaxtickets", *torch_names]
        runners = {"jaxtickets": jax_steps(case)} | {name: partial(asked, name) for name in torch_names}
        work = {}
        for shape in shapes:
            ours, theirs = (product_name(shape, framework) for framework in ("JAX", "PyTorch"))
            runners |= {ours: jax_products(shape, case.dtype, times), theirs: partial(asked, theirs)}
            work |= dict.fromkeys((ours, theirs), 2 * np.prod(shape, dtype=float))
        seconds = harness.in_turn(runners, repeats)
    here.send(None)
    process.join()
    seconds = {name: [value / (case.steps if name in steps else times) for value in seconds[name]] for name in runners}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rate = max(flop / medians[name] for name, flop in work.items())

    sizes = f"width {case.width}, batch {case.batch_size}, {case.dtype}"
    print(f"\n{case.name}, {sizes}: a step is {plain / 1e9:,.1f} GFLOP, {padded / 1e9:,.1f} padded")
    header = f"{'':36} {'ms, median (range)':>26} {'GFLOP/s':>9} {'share':>6} {'padded':>9} {'share':>6}"
    print(header + (f" {'MFU':>6}" if peak_tflops else ""))
    for name, values in seconds.items():
        line = f"{name:36} {harness.spread([1000 * value for value in values], 2):>26}"
        for flop in (plain, padded) if name in steps else (work[name],):
            line += f" {flop / medians[name] / 1e9:9,.1f} {flop / medians[name] / rate:6.3f}"
        if peak_tflops and name in steps:
            line += f" {plain / medians[name] / peak_tflops / 1e12:6.3f}"
        print(line)
    best = min(steps[1:], key=medians.get)
    ratios = harness.ratios(seconds, best, "jaxtickets")
    print(f"{best} / jaxtickets: {harness.spread(ratios)}", flush=True)
    about = {"network": case.name, "width": case.width, "batch_size": case.batch_size, "dtype": case.dtype}
    about |= {"data": "fresh" if case.is_fresh else "fixed", "flops": plain, "flops_padded": padded}
    about |= {"product_flops_per_second": rate, "peak_tflops": peak_tflops}
    return {**about, "seconds": seconds, "best": best, "ratios": ratios}


def main():
    # Both frameworks share one GPU and its memory; JAX and CUDA read these when they start.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
    parser = harness.parser(__doc__, repeats=7)
    parser.add_argument("--networks", type=list_of(one_of(torch_networks.MODELS)), default=list(torch_networks.MODELS))
    parser.add_argument("--width", type=number(int), help="default: the reference's")
    parser.add_argument("--batch_sizes", type=list_of(number(int)), help="default: the reference's")
    parser.add_argument("--dtypes", type=list_of(one_of(DTYPES)), default=["float32"])
    parser.add_argument(
        "--peak_tflops", type=list_of(number(float)), help="the device's peak, one figure per entry of --dtypes"
    )
    parser.add_argument("--data", choices=("fixed", "fresh"), help="default: fresh on a GPU, fixed on the CPU")
    parser.add_argument("--steps", type=number(int), help="steps per repeat; default: 20 on a GPU, 2 on the CPU")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="try torch.compile")
    options = parser.parse_args()
    backend = jax.default_backend()
    if backend not in ("cpu", "gpu") or (backend == "gpu" and not torch.cuda.is_available()):
        parser.error(f"JAX runs on {backend} and PyTorch can't; allowed are cpu, or gpu with a PyTorch for it")
    if backend == "cpu" and "tf32" in options.dtypes:
        parser.error("--dtypes=tf32: a CPU has no such products; allowed are float32, bfloat16")
    if options.peak_tflops and len(options.peak_tflops) != len(options.dtypes):
        parser.error(f"--peak_tflops: has {len(options.peak_tflops)} values; allowed are {len(options.dtypes)}")
    is_fresh = options.data == "fresh" or (options.data is None and backend == "gpu")
    steps = options.steps or (20 if backend == "gpu" else 2)
    peaks = dict(zip(options.dtypes, options.peak_tflops or [None] * len(options.dtypes), strict=True))

    results = []
    for name in options.networks:
        _, _, default_width, default_batch_size = harness.NETWORKS[name]
        width = options.width or default_width
        for batch_size in options.batch_sizes or [default_batch_size]:
            for dtype, peak in peaks.items():
                sizes = (name, width, batch_size, dtype, is_fresh, steps)
                results.append(compare(sizes, options.repeats, peak, options.compile))
    harness.write(options, results)


if __name__ == "__main__":
    main()
