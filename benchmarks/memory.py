"""Shows the memory of a train step part by part, with the activations of its blocks kept and computed again.

    python benchmarks/memory.py [--cases=dcgan,sngan_resnet:128] [--time] [--repeats=3] [--out=FILE.json]

A case is NETWORK[:IMAGE_SIZE[:WIDTH[:BATCH_SIZE]]]; the default image size is 32, width and batch size are the
reference's. Each step is compiled twice, "kept" and, with `config.train.rematerialize`, "again"; the table has one row
for each, in MiB per device. A mask takes one byte per weight in the step, and one bit on disk. These games have no
running averages of weights. Data are the images of one batch; a data set that lives on the device takes its own size
instead. Temporaries are activations, gradients and all else between arguments and results; the rest is indices, scalars
and results without an argument's memory, both by XLA's account. The total is the sum of these; it excludes the masks on
disk and the program's code (0 where the back end does not tell it).

With `--time` the two programs run in turn: milliseconds of a step, and again / kept, median (range). If the devices
count their memory, "peak" is the allocator's figure, or "-" if an earlier case took more: name large cases last. A case
that needs more memory than there is does not run. Compiling everything takes about ten minutes on two CPU cores; with
`--time` choose small cases there, such as dcgan:64:16:16.
"""

import os
import statistics

import harness
import jax

from jaxtickets import masks as mask_lib
from jaxtickets import train

CASES = "dcgan,conv_vae,sngan_resnet,dcgan:64,dcgan:128,sngan_resnet:64,sngan_resnet:128"
VARIANTS = {"again": True, "kept": False}  # They first run in this order, so that both peaks are seen.
# The parts and their headings in the table.
COLUMNS = {
    **{"parameters": "params", "masks": "masks", "moments": "moments", "statistics": "stats", "averages": "avgs"},
    **{"data": "data", "rest": "rest", "temporaries": "temp.", "total": "total", "on disk": "on disk", "code": "code"},
}


def parse(case: str) -> dict:
    """The network and the sizes of a case of the command line."""
    name, *sizes = case.split(":")
    *_, width, batch_size = harness.NETWORKS[name]
    numbers = dict(zip(("image_size", "width", "batch_size"), map(int, sizes), strict=False))
    return {"image_size": 32, "width": width, "batch_size": batch_size} | numbers | {"network": name}


def size(tree) -> int:
    """The bytes of a tree of arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def account(program: jax.stages.Compiled, state: train.TrainState, masks, batch_size: int, image_size: int) -> dict:
    """The bytes of each part of a step, per device."""
    analysis = program.memory_analysis()
    parts = {
        "parameters": size(state.params),
        "masks": size(masks),
        "moments": size(state.opt_state),
        "statistics": size(state.batch_stats),
        "averages": size(state.average),
        "data": 3 * image_size**2 * batch_size // jax.local_device_count(),
        "temporaries": analysis.temp_size_in_bytes,
    }
    total = train.program_bytes(program)
    rest = {"rest": total - sum(parts.values()), "total": total}
    return parts | rest | {"on disk": size(mask_lib.pack(masks)), "code": analysis.generated_code_size_in_bytes}


def free_bytes() -> int:
    """The free memory of a device."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()


def peak_bytes() -> int | None:
    """The peak memory of a device so far by its allocator, or None if that does not count."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else None


def measure(case: dict, timed: bool, repeats: int) -> list[dict]:
    """One row per variant: the case, its bytes, and its peak and seconds if it has run."""
    name, sizes = case["network"], (case["batch_size"], case["image_size"])
    games = {
        variant: harness.game(name, case["width"], case["image_size"], rematerialize=rematerialize)
        for variant, rematerialize in VARIANTS.items()
    }
    programs = {variant: harness.compiled_step(*game, *sizes, VARIANTS[variant]) for variant, game in games.items()}

    def init():
        return train.init_state(*games["kept"], 0)

    masks = mask_lib.ones(jax.eval_shape(init).params)
    rows = {
        variant: case | {"activations": variant} | account(program, jax.eval_shape(init), masks, *sizes)
        for variant, program in programs.items()
    }
    keeps_account = peak_bytes() is not None
    if (timed or keeps_account) and rows["kept"]["total"] < free_bytes():
        runners = harness.steppers(programs, jax.device_get(init()), masks, *sizes)
        for variant, run in runners.items() if keeps_account else ():
            before = peak_bytes()
            run()
            rows[variant]["peak"] = peak if (peak := peak_bytes()) > before else None
        if timed:
            seconds = harness.in_turn(runners, repeats)
            for variant, row in rows.items():
                row |= {"seconds": seconds[variant], "ratios": harness.ratios(seconds, variant, "kept")}
    return [rows["kept"], rows["again"]]


def line(row: dict, kept: dict) -> str:
    """A line of the table; `kept` is the row with all activations."""
    sizes = f"{row['network']:12} {row['image_size']:5} {row['width']:5} {row['batch_size']:5} {row['activations']:5}"
    cells = "".join(f"{row[column] / 2**20:8.1f}" for column in COLUMNS)
    share = f"{row['total'] / kept['total']:7.2f}"
    peak = f"{row['peak'] / 2**20:8.1f}" if row.get("peak") else f"{'-':>8}"
    time = f"{'-':>8}"
    if "seconds" in row:
        time = f"{1000 * statistics.median(row['seconds']):8.1f} {harness.spread(row['ratios'], 2)}"
    return f"{sizes}{cells}{share}{peak}{time}"


def main():
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    names = "".join(f"{column:>8}" for column in COLUMNS.values())
    print(f"{'MiB':12} {'image':>5} {'width':>5} {'batch':>5}      {names} / kept    peak      ms / kept")
    rows = []
    for case in map(parse, options.cases.split(",")):
        pair = measure(case, options.time, options.repeats)
        for row in pair:
            print(line(row, pair[0]), flush=True)
        rows += pair
    harness.write(options, rows)


if __name__ == "__main__":
    main()
