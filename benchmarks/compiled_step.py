"""Compiles train steps for a GPU or a TPU that is not there, and counts the kernels that they consist of.

    pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cudnn-cu12 nvidia-cublas-cu12 ...  # For --target=h100.
    pip install libtpu                                                                      # For --target=v5e.
    python benchmarks/compiled_step.py --target=h100 [--networks=dcgan,conv_vae,sngan_resnet]
        [--dtypes=tf32,float32,bfloat16] [--width=N] [--tickets=1] [--hlo=DIR] [--out=FILE.json]

The steps are those of `train_step.py`, at the reference's widths and batch sizes, with the data set as an argument. The
table has one row per kind of kernel, by the first that applies:

    dilated convolutions   kernel gradients that XLA takes for forward convolutions (see docs/decisions/speed.md)
    convolutions           all others
    products               of matrices
    copies                 and transpositions: kernels that compute nothing
    small                  kernels that read and write less than 64 KiB: their launch is what they cost
    optimizer              the optimizers' other kernels
    reductions             sums, such as those of norms; with what is fused into them
    elementwise            all others

A kernel's bytes are those of its arguments and results. "mask" is the number of multiplications by a mask of each leaf
that has one, "transposed" the bytes of results whose kernel transposes, and "casts" the number of kernels that change
the type of floating-point numbers. Kernels are not tuned, because that needs the device: their number and their bytes
are right, which of cuDNN's or cuBLAS' kernels runs is not known. Nothing is measured.
"""

import contextlib
import math
import os
import re
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}  # The device that is compiled for is not there.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()

import harness
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from jaxtickets import train

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
TARGETS = {
    "h100": {"platform": "cuda", "topology": "1x1x1", "target_config": H100},
    "v5e": {"platform": "tpu", "topology_name": "v5e:2x2"},
}
PRECISIONS = {"tf32": "tensorfloat32", "float32": "float32", "bfloat16": None}
BITS = {"pred": 8, "bf16": 16, "f16": 16}
SMALL = 65536
SHAPE = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
NO_KERNEL = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "copy-start", "copy-done", "after-all"}
MOVES = {"parameter", "bitcast", "tuple", "transpose", "copy", "reshape", "get-tuple-element"}
KINDS = (
    "dilated convolutions",
    "convolutions",
    "products",
    "copies",
    "small",
    "optimizer",
    "reductions",
    "elementwise",
)


class Instruction(NamedTuple):
    """Attributes: shapes: of its results, in HLO's text. rest: the line behind the opening bracket."""

    name: str
    shapes: str
    opcode: str
    rest: str


def lowered_step(training, batch_size: int, device, tickets: int) -> jax.stages.Lowered:
    """The step in which all players move, lowered for a device."""
    state = jax.eval_shape(lambda: training.state)
    arrays = [(state, training.masks), ((harness.random_images(1000), None),), (np.zeros(batch_size, np.int32),)]
    leading = [(1, tickets), (1,), (1, tickets)] if tickets > 1 else [(1,)] * 3
    shapes = [
        jax.tree.map(lambda leaf, axes=axes: jax.ShapeDtypeStruct((*axes, *np.shape(leaf)), leaf.dtype), trees)
        for axes, trees in zip(leading, arrays, strict=True)
    ]
    players = tuple(training.objective.players)
    step = train.make_step(training.objective, training.optimizers, players, devices=(device,), tickets=tickets)
    teacher = (None,) if tickets > 1 else ()
    return step.lower(*(argument for group in shapes for argument in group), *teacher)


def account(text: str) -> dict:
    """`{kind: {"kernels", "bytes"}}` of `KINDS`, and the other columns, of a compiled program in HLO's text."""
    computations, entry = parsed(text)
    found, also = {kind: Counter(kernels=0, bytes=0) for kind in KINDS}, Counter()
    shapes = {one.name: one.shapes for one in computations[entry]}
    multiplied = defaultdict(int)
    for one in computations[entry]:
        if one.opcode in NO_KERNEL:
            continue
        inside = [one, *within(one, computations)]
        arguments = set(re.findall(r"%([\w.-]+)", one.rest.split("), ")[0])) & shapes.keys()
        size = sum(bytes_of(shapes[name]) for name in arguments) + bytes_of(one.shapes)
        found[kind_of(one, inside, size)].update(kernels=1, bytes=size)
        opcodes = {other.opcode for other in inside}
        if opcodes & {"transpose", "copy"}:
            also["transposed_bytes"] += bytes_of(one.shapes)
        also["casts"] += any(is_cast(other, inside) for other in inside)
        for other in inside:
            if other.opcode in ("multiply", "select") and re.search(r'op_name="[^"]*\bmasks\b[^"]*mul"', other.rest):
                multiplied[one.name] += 1
    return found | also | {"mask_multiplications": sum(multiplied.values()), "mask_kernels": len(multiplied)}


def parsed(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """`(the instructions of each computation, the name of the entry)`."""
    computations, name, entry = {}, None, None
    for line in text.splitlines():
        if match := re.match(r"^(ENTRY )?%?([\w.-]+) .*\{$", line):
            name = match[2]
            entry = name if match[1] else entry
            computations[name] = []
        elif name and (match := INSTRUCTION.match(line)):
            computations[name].append(Instruction(*match.groups()))
    return computations, entry


def within(one: Instruction, computations) -> list[Instruction]:
    """All instructions in the computations that an instruction calls."""
    called = re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)", one.rest)
    inside = [other for name in called for other in computations.get(name, ())]
    return [deeper for other in inside for deeper in (other, *within(other, computations))]


def kind_of(one: Instruction, inside: list[Instruction], size: int) -> str:
    """The kind of a kernel, of `KINDS`."""
    opcodes = {other.opcode for other in inside}
    if "convolution" in opcodes or "conv" in custom_call(one):
        is_dilated = any("rhs_dilate" in other.rest for other in inside)
        return "dilated convolutions" if is_dilated and "cudnn" in custom_call(one) else "convolutions"
    if "dot" in opcodes or re.search("gemm|matmul", custom_call(one)):
        return "products"
    if opcodes - {"fusion"} <= MOVES:
        return "copies"
    if size < SMALL:
        return "small"
    if any("/optimizer/" in other.rest for other in inside):
        return "optimizer"
    return "reductions" if opcodes & {"reduce", "reduce-window"} else "elementwise"


def custom_call(one: Instruction) -> str:
    match = re.search(r'custom_call_target="([^"]+)"', one.rest)
    return match[1] if match else ""


def is_cast(one: Instruction, inside: list[Instruction]) -> bool:
    """Whether an instruction makes floating-point numbers of others; masks, images and labels are none."""
    if one.opcode != "convert" or not re.match(r"(bf16|f\d+)\[", one.shapes):
        return False
    names = {other.name: other.shapes for other in inside}
    argument = re.match(r"%?([\w.-]+)", one.rest)
    return bool(argument) and bool(re.match(r"(bf16|f\d+)\[", names.get(argument[1], "")))


def bytes_of(shapes: str) -> int:
    """The bytes of all arrays in a shape's text."""
    return sum(
        math.prod(map(int, filter(None, dimensions.split(",")))) * (BITS.get(kind) or int(kind[1:])) // 8
        for kind, dimensions in SHAPE.findall(re.sub(r"\{[^}]*\}", "", shapes))
    )


def main():
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--target", choices=TARGETS, default="h100")
    parser.add_argument("--networks", default="dcgan,conv_vae,sngan_resnet")
    parser.add_argument("--dtypes", help="default: tf32,float32,bfloat16; of a TPU float32,bfloat16")
    parser.add_argument("--width", type=int, help="default: the reference's")
    parser.add_argument("--tickets", type=int, default=1, help="the tickets in one program")
    parser.add_argument("--hlo", type=Path, help="a directory for the programs' text")
    options = parser.parse_args()
    is_gpu = options.target == "h100"
    dtypes = (options.dtypes or ("tf32,float32,bfloat16" if is_gpu else "float32,bfloat16")).split(",")
    if unknown := set(dtypes) - PRECISIONS.keys():
        parser.error(f"--dtypes: {', '.join(unknown)}: allowed are {', '.join(PRECISIONS)}")
    device = topologies.get_topology_desc(**TARGETS[options.target]).devices[0]
    print(f"compiled for one {device.device_kind}")
    results = {}
    for name in options.networks.split(","):
        _, _, width, batch_size = harness.NETWORKS[name]
        width = options.width or width
        for dtype in dtypes:
            training = harness.training(name, width, **({"dtype": jnp.bfloat16} if dtype == "bfloat16" else {}))
            precision = jax.default_matmul_precision(PRECISIONS[dtype]) if is_gpu else contextlib.nullcontext()
            started = time.perf_counter()
            with precision:
                program = lowered_step(training, batch_size, device, options.tickets).compile()
            text = program.as_text()
            if options.hlo:
                options.hlo.mkdir(parents=True, exist_ok=True)
                (options.hlo / f"{name}_{dtype}_{options.tickets}.txt").write_text(text)
            found = results[f"{name}, {dtype}"] = account(text)
            found["seconds_to_compile"] = round(time.perf_counter() - started, 1)
            if memory := program.memory_analysis():
                found["temporary_bytes"] = memory.temp_size_in_bytes
            show(f"{name}, width {width}, batch {batch_size}, {options.tickets} ticket(s), {dtype}", found)
            harness.write(options, results)


def show(title: str, found: dict) -> None:
    print(f"\n{title}: {found['seconds_to_compile']} s to compile")
    for kind in (*KINDS, None):
        counted = found[kind] if kind else sum((Counter(found[kind]) for kind in KINDS), Counter())
        print(f"{kind or 'all':22}{counted['kernels']:5} kernels {counted['bytes'] / 1e6:9.1f} MB")
    others = {name: value for name, value in found.items() if name not in KINDS}
    print(", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in others.items()), flush=True)


if __name__ == "__main__":
    main()
