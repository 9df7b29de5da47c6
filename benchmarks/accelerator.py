"""Measures what matters on an accelerator in a few minutes, the most important first.

    python benchmarks/accelerator.py [--minutes=8] [--parts=NAME,...] [--compile] [--check] [--out=FILE.json]

It needs no network, and no data set but scikit-learn's digits. Its parts, in their order:

    device           its name, its memory and the versions of all packages
    products         the rates of a large matrix product and of a batch of small ones
    dcgan            a masked step at the reference's settings, beside PyTorch's where torch is installed
    tickets          tickets per hour: k trainings in one program, with XLA's convolutions and with matrix products
    profile          the kernels in which a step of DCGAN spends its time, and what its program consists of
    conv_vae         a step, as of dcgan
    sngan_resnet     a step, as of dcgan
    steps_per_call   1, 8 and 32 steps in one call
    deterministic    whether two trainings end with the same bits, with and without deterministic kernels; their price
    masks            masked and unmasked steps
    selection        magnitude scores and a global threshold over 50 million weights, on the host
    rounds           the time between two rounds, part by part
    start            the time from the command to the first step, part by part

Steps are measured in tf32, bfloat16 and full float32 on a GPU, and in float32 and bfloat16 elsewhere. A worker process
serves the parts one after another. A part that fails or takes too long is noted with its error, and a new worker goes
on with the next one. A part that is not likely to end in time is left out. The JSON file, by default
results/<device>/accelerator.json, is written after each figure. `--check` runs every part at toy size, in about two
minutes on two CPU cores, so that a typo costs no time on an accelerator; its figures mean nothing, and it writes no
file unless `--out` is given. `--compile` adds torch.compile, which takes minutes.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Several processes share the memory of one device.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch")
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
ROOT = Path(__file__).resolve().parent.parent
TOP = 20  # Kernels of the profile that are listed.


class Scale(NamedTuple):
    """How large the parts are: real or toy size (`is_toy`). compiles: whether torch.compile is tried."""

    is_toy: bool
    compiles: bool

    def of(self, whole, toy):
        return toy if self.is_toy else whole


def dtypes() -> tuple[str, ...]:
    """The types of steps, the most used first."""
    import jax

    return ("tf32", "bfloat16", "float32") if jax.default_backend() == "gpu" else ("float32", "bfloat16")


def precision(dtype: str):
    """A block within which products have the precision that a type of `dtypes` stands for."""
    import jax

    names = {"float32": "float32", "tf32": "tensorfloat32"} if jax.default_backend() == "gpu" else {}
    return jax.default_matmul_precision(names.get(dtype))


def style(dtype: str) -> dict:
    """The arguments of a network that computes in a type of `dtypes`."""
    import jax.numpy as jnp

    return {"dtype": jnp.bfloat16} if dtype == "bfloat16" else {}


# The parts: each is a generator of its figures so far, as JSON values. What it prints is for the reader.


def device(scale: Scale) -> Iterator[Any]:
    import jax

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    one = jax.local_devices()[0]
    found = {"kind": one.device_kind, "platform": one.platform, "count": jax.local_device_count()}
    found |= {"memory_bytes": (one.memory_stats() or {}).get("bytes_limit"), "cores": len(os.sched_getaffinity(0))}
    print(f"{found['count']} x {found['kind']}; {found['cores']} cores; {versions}")
    yield found | {"versions": versions}


def products(scale: Scale) -> Iterator[Any]:
    import harness
    import jax
    import jax.numpy as jnp

    side, times, found = scale.of(8192, 256), scale.of(20, 2), {}
    shapes = {"one": (1, side, side, side), "a batch": scale.of((512, 256, 256, 256), (4, 32, 32, 32))}
    for dtype in dtypes():
        for name, (batch, rows, contracted, columns) in shapes.items():
            factors = [
                jnp.ones((batch, *shape), **style(dtype)) for shape in ((rows, contracted), (contracted, columns))
            ]
            with precision(dtype):
                program = jax.jit(jnp.matmul).lower(*factors).compile()

            def run(program=program, factors=factors):
                jax.block_until_ready([program(*factors) for _ in range(times)])

            seconds = statistics.median(harness.in_turn({name: run}, 3)[name])
            rate = 2 * batch * rows * contracted * columns * times / seconds
            found[f"{name}, {dtype}"] = {"shape": shapes[name], "flops_per_second": rate}
            print(f"{name:8} {shapes[name]} {dtype:9} {rate / 1e12:9.3f} TFLOP/s")
        yield found


def steps(scale: Scale, name: str) -> Iterator[Any]:
    import harness

    _, _, width, batch_size = harness.NETWORKS[name]
    width, batch_size, found = scale.of(width, 16), scale.of(batch_size, 8), []
    for dtype in dtypes():
        if importlib.util.find_spec("torch"):
            import train_step

            sizes = (name, width, batch_size, dtype, True, scale.of(20, 1))
            found.append(train_step.compare(sizes, scale.of(5, 1), None, scale.compiles))
        else:
            with precision(dtype):
                run = stepper(harness.training(name, width, **style(dtype)), batch_size, scale.of(20, 1))
                seconds = harness.in_turn({"step": run}, scale.of(5, 1))["step"]
            ms = [1000 * one / scale.of(20, 1) for one in seconds]
            print(f"{name}, width {width}, batch {batch_size}, {dtype}: {harness.spread(ms, 2)} ms")
            found.append({"width": width, "batch_size": batch_size, "dtype": dtype, "ms": ms})
        yield found


def stepper(training, batch_size: int, steps: int) -> Callable[[], None]:
    """A function that does a number of steps of a `harness.Training`."""
    import harness

    objective, optimizers, state, masks = training
    program = harness.compiled_step(objective, optimizers, batch_size, 32)
    return harness.steppers({"step": program}, state, masks, batch_size, 32, steps)["step"]


def tickets(scale: Scale) -> Iterator[Any]:
    import harness
    import jax
    import many_tickets

    width, batch_size, steps = scale.of(64, 8), scale.of(100, 8), scale.of(10, 1)
    network, found = harness.training("dcgan", width), []
    print(f"DCGAN, width {width}, batch {batch_size}, default precision, {steps} steps of each ticket per call")
    for k in scale.of((1, 4, 16, 2, 8), (1, 2)):
        # The default of GPUs differs from XLA's in some kernel gradients (docs/decisions/speed.md).
        for way in (None, "xla", "products") if k == 1 else many_tickets.convolution.WAYS:
            fleet = many_tickets.make_fleet(network, harness.random_images(1024), batch_size, k, [0.5], steps)
            started = time.perf_counter()
            run = many_tickets.vmapped(fleet, jax.local_devices()[0], way)
            ready = time.perf_counter() - started
            seconds = [one / steps for one in harness.in_turn({"step": run}, scale.of(5, 1))["step"]]
            name = way or "default"
            found.append({"tickets": k, "convolutions": name, "seconds_of_a_step": seconds, "ready_seconds": ready})
            rate = k / statistics.median(seconds)
            print(
                f"k = {k:2}, {name:8}: {rate:9.1f} steps of tickets per second, {ready:5.1f} s to compile", flush=True
            )
            yield found


def profile(scale: Scale) -> Iterator[Any]:
    import gzip

    import harness
    import jax

    width, batch_size, n = scale.of(128, 16), scale.of(100, 8), scale.of(20, 2)
    training = harness.training("dcgan", width)
    program = harness.compiled_step(*training[:2], batch_size, 32)
    text = program.as_text()
    entry = text[text.index("\nENTRY ") :]  # Without the insides of fusions: about one kernel per line.
    opcodes = Counter(re.findall(r"^ +(?:ROOT )?%?\S+ = .*? ([a-z][a-z0-9-]+)\(", entry, re.MULTILINE))
    targets = Counter(re.findall(r'custom_call_target="([^"]+)"', entry))
    found = {"program": dict(opcodes.most_common()), "custom_calls": dict(targets.most_common())}
    print(f"the program: {found}")
    yield found
    run = harness.steppers({"step": program}, *training[2:], batch_size, 32, n)["step"]
    run()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (trace,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    processes = {event["pid"]: event["args"]["name"] for event in events if event.get("name") == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    on_device = {pid for pid, name in processes.items() if "/device:" in name}
    # Streams hold the kernels; other lines of a device repeat them by module or operation. A CPU has no such lines.
    is_kernel = {place for place, name in threads.items() if place[0] in on_device and "Stream" in name}
    microseconds = Counter()
    for event in events:
        name = event.get("name", "")
        is_own = (event["pid"], event.get("tid")) in is_kernel if on_device else name[:1] not in ("", "$", "<")
        if event.get("ph") == "X" and is_own:
            microseconds[name.split("(")[0][:80]] += event.get("dur", 0) / n
    found |= {"kernel_microseconds_of_a_step": dict(microseconds.most_common(TOP)), "all": microseconds.total()}
    for name, value in microseconds.most_common(scale.of(TOP, 3)):
        print(f"{value:10.1f} us per step  {name}")
    print(f"{microseconds.total():10.1f} us per step  all of {len(microseconds)} kernels")
    yield found


def steps_per_call(scale: Scale) -> Iterator[Any]:
    import steps_per_call as benchmark

    found, counts = {}, scale.of([8, 32], [2])
    for network in scale.of(("linear_ae", "dcgan_32"), ("linear_ae",)):
        found[network] = benchmark.measure(network, counts, scale.of(100, 8), scale.of(0.5, 0.01), 3, written_out=False)
        for title, one in found[network].items():
            ms, compiling = 1000 * statistics.median(one["seconds"]), one["compile_seconds"]
            print(f"{network:10} {title:>9} {ms:8.3f} ms per step, {compiling:5.1f} s to compile", flush=True)
        yield found


def deterministic(scale: Scale) -> Iterator[Any]:
    found = {}
    for name, flags in {"default": "", "deterministic": DETERMINISTIC}.items():
        if flags and dtypes()[0] != "tf32":
            continue  # Other platforms have no such option.
        environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
        command = [sys.executable, __file__, "--twice", *(["--check"] if scale.is_toy else [])]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(result.stderr.strip()[-2000:])
        found[name] = json.loads(result.stdout.splitlines()[-1])
        print(f"{name}: {found[name]}")
        yield found


def twice(scale: Scale) -> dict:
    """Two trainings of a DCGAN from the same state in this process: whether they end equal, and the time of a step."""
    import harness
    import jax
    import numpy as np

    from jaxtickets.devices import replicate, unreplicate

    steps, batch_size = scale.of(100, 2), scale.of(100, 8)
    objective, optimizers, initial, masks = harness.training("dcgan", scale.of(128, 16))
    program = harness.compiled_step(objective, optimizers, batch_size, 32)
    per_device = batch_size // jax.local_device_count()
    rest = (masks, (harness.random_images(per_device), None), np.arange(per_device, dtype=np.int32))
    rest, ends, seconds = list(map(replicate, rest)), [], []
    for _ in range(3):  # The first one is not timed.
        state = replicate(initial)
        started = time.perf_counter()
        for _ in range(steps):
            state, _ = program(state, *rest)
        ends.append(unreplicate(state))
        seconds.append(time.perf_counter() - started)
    same = jax.tree.map(np.array_equal, *ends[1:])
    return {"equal": all(jax.tree.leaves(same)), "ms": 1000 * min(seconds[1:]) / steps, "steps": steps}


def masks(scale: Scale) -> Iterator[Any]:
    import harness
    import mask_price

    sizes = (scale.of(128, 16), scale.of(100, 8), scale.of(20, 1))
    runners = mask_price.runners("dcgan", *sizes)
    seconds = harness.in_turn({name: runners[name] for name in ("unmasked", "masked")}, scale.of(9, 1))
    ratios = harness.ratios(seconds, "masked", "unmasked")
    print(f"masked / unmasked: {harness.spread(ratios)}")
    yield {"seconds": seconds, "ratios": ratios}


def selection(scale: Scale) -> Iterator[Any]:
    import harness
    import scale as benchmark

    from jaxtickets import masks as mask_lib

    training = harness.training("dcgan", scale.of(392, 16))
    weights = mask_lib.counts(training.masks).weights
    seconds = harness.in_turn({"selection": partial(benchmark.select, training)}, scale.of(3, 1))["selection"]
    print(f"{weights:,} weights: {harness.spread(seconds)} s")
    yield {"weights": weights, "seconds": seconds}


def rounds(scale: Scale) -> Iterator[Any]:
    import between_rounds

    setup = between_rounds.Setup(between_rounds.short_rounds(scale.of(128, 8), scale.of(100, 8), 3, scale.of(4, 2)))
    found = between_rounds.gaps(setup)
    parts = {name: statistics.median(gap.get(name, 0.0) for gap in found["gaps"][1:]) for name in found["gaps"][-1]}
    for name, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"{seconds:8.3f} s  {name}")
    yield found


def start(scale: Scale) -> Iterator[Any]:
    import start_up

    with tempfile.TemporaryDirectory() as folder:
        config = scale.of("configs/gan_digits.py", "configs/ae_digits.py:quick")
        found = start_up.measure(config, Path(folder) / "start", 1)
    for kind, (one,) in found.items():
        print(kind, {part: round(seconds, 1) for part, seconds in one["seconds"].items()})
    yield found


class Part(NamedTuple):
    """Attributes: measure: a function as above. seconds: it usually takes less, and is stopped after twice that."""

    measure: Callable[[Scale], Iterator[Any]]
    seconds: int


PARTS = {
    "device": Part(device, 20),
    "products": Part(products, 30),
    "dcgan": Part(partial(steps, name="dcgan"), 90),
    "tickets": Part(tickets, 120),
    "profile": Part(profile, 40),
    "conv_vae": Part(partial(steps, name="conv_vae"), 90),
    "sngan_resnet": Part(partial(steps, name="sngan_resnet"), 120),
    "steps_per_call": Part(steps_per_call, 60),
    "deterministic": Part(deterministic, 60),
    "masks": Part(masks, 60),
    "selection": Part(selection, 30),
    "rounds": Part(rounds, 60),
    "start": Part(start, 120),
}


# The worker, and the process that gives it parts.


def work(scale: Scale, connection) -> None:
    """Measures the parts whose names it receives, up to None; sends `(results, error, whether it is over)` of each."""
    while (name := connection.recv()) is not None:
        print(f"\n== {name}", flush=True)
        results = None
        try:
            for results in PARTS[name].measure(scale):
                connection.send((results, None, False))
            connection.send((results, None, True))
        except Exception as error:  # The other parts go on, and the figures so far stay.
            traceback.print_exc()
            connection.send((results, f"{type(error).__name__}: {error}"[:2000], True))


class Worker:
    """The process of `work`; a new one takes the place of one that was killed or has died."""

    def __init__(self, scale: Scale):
        self._scale, self._process = scale, None

    def measure(self, name: str, limit: float, show: Callable[[Any, str | None], None]) -> None:
        """Measures a part for at most `limit` seconds, and calls `show(results so far, error)` after each figure."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, there = context.Pipe()
            self._process = context.Process(target=work, args=(self._scale, there))
            self._process.start()
            there.close()
        ends, results, error, is_over = time.monotonic() + limit, None, None, False
        self._connection.send(name)
        while not is_over:
            try:
                if not self._connection.poll(max(0.0, ends - time.monotonic())):
                    error = f"stopped after {limit:.0f} s"
                else:
                    results, error, is_over = self._connection.recv()
            except EOFError:
                self._process.join()
                error = f"its process ended with status {self._process.exitcode}"
            if error and not is_over:
                self._process.kill()
                self._process, is_over = None, True
            show(results, error)

    def close(self) -> None:
        """Ends the process."""
        if self._process:
            self._connection.send(None)
            self._process.join()


def measure(names: list[str], minutes: float, scale: Scale, write: Callable[[dict], None]) -> dict:
    """`{part: {"seconds", "results", "error" if it has failed}}`; `write(parts so far)` is called after each figure."""
    ends, parts, worker = time.monotonic() + 60 * minutes, {}, Worker(scale)
    for name in names:
        started, left = time.monotonic(), ends - time.monotonic()

        def show(results, error, name=name, started=started):
            parts[name] = {"seconds": round(time.monotonic() - started, 1), "results": results}
            if error:
                parts[name]["error"] = error
                print(f"{name}: {error}", flush=True)
            write(parts)

        if left < PARTS[name].seconds / 2:
            show(None, f"left out: it takes up to {PARTS[name].seconds} s, and {max(0, left):.0f} s are left")
        else:
            worker.measure(name, min(left, 2 * PARTS[name].seconds), show)
    worker.close()
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--compile", action="store_true", help="add torch.compile")
    parser.add_argument("--check", action="store_true", help="every part at toy size")
    parser.add_argument("--out", type=Path, help="a JSON file; default: results/<device>/accelerator.json")
    parser.add_argument("--twice", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    scale = Scale(options.check, options.compile)
    if options.twice:
        return print(json.dumps(twice(scale)))
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"--parts: {', '.join(unknown)}: allowed are {', '.join(PARTS)}")
    if options.minutes <= 0:
        parser.error(f"--minutes={options.minutes}: allowed are numbers above 0")
    about = {"command": shlex.join(["python", *sys.argv]), "minutes": options.minutes}

    def write(parts):
        path = options.out
        if path is None and not options.check and "device" in parts and parts["device"]["results"]:
            kind = re.sub(r"[^a-z0-9]+", "-", parts["device"]["results"]["kind"].lower()).strip("-")
            path = ROOT / "results" / kind / "accelerator.json"
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}")
            temporary.write_text(json.dumps({**about, "parts": parts}, indent=1) + "\n")
            temporary.replace(path)

    parts = measure(options.parts, options.minutes, scale, write)
    failed = [name for name, part in parts.items() if "error" in part]
    print("\nseconds of each part:", ", ".join(f"{name} {part['seconds']}" for name, part in parts.items()))
    if failed:
        raise SystemExit(f"without all figures: {', '.join(failed)}")


if __name__ == "__main__":
    main()
