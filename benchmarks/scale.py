"""Shows how a train step's time and memory, and a selection's time, grow with width, image size and batch size.

    python benchmarks/scale.py [--repeats=3] [--out=FILE.json] [--plot=FILE.png]
    python benchmarks/scale.py --from=FILE.json --plot=FILE.png

The base is a DCGAN of width 64 on 32x32 images in batches of 32; one of the three sizes changes at a time. FLOPs are
those of a step's gradients (`jaxtickets.cost`), memory is XLA's account of the step on a device, and a selection is the
work of a round on the host: magnitude scores and a global threshold for 20% of all weights. Steps and selections run in
turn; each network does the number of steps that has the FLOPs of four base steps. The table has one line per network,
and for each curve the slope of a line through its points, by least squares in logarithms: 2 if twice the width takes
four times as long. `--plot` draws the curves beside ones proportional to FLOPs; `--from` reads saved figures. It takes
about five minutes on two CPU cores.
"""

import json
import statistics
from functools import partial
from pathlib import Path

import harness
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from jaxtickets import cost, pruning, train
from jaxtickets.report.drawing import DENSE, INK, LINE, WIDE, clean, png

BASE = {"width": 64, "image_size": 32, "batch_size": 32}
CURVES = {
    "width": (32, 64, 128, 256, 512),
    "image_size": (16, 32, 64, 128),
    "batch_size": (16, 32, 64, 128, 256),
}
# The rows of panels: each quantity, and its value at a point, the median over the repeats.
QUANTITIES = {
    "step [s]": lambda row: statistics.median(row["step_seconds"]),
    "step memory [MiB]": lambda row: row["bytes"] / 2**20,
    "selection [s]": lambda row: statistics.median(row["selection_seconds"]),
}
STEPS_OF_BASE, MAX_STEPS = 4, 32
SPARSITY = 0.2


def points() -> list[dict]:
    """The networks of all curves, each once."""
    every = [BASE | {name: value} for name, values in CURVES.items() for value in values]
    return [point for place, point in enumerate(every) if point not in every[:place]]


def work(point: dict) -> float:
    """The FLOPs of a step's gradients for the whole batch."""
    size, batch_size = point["image_size"], point["batch_size"]
    objective, _ = harness.game("dcgan", point["width"], size)
    return batch_size * sum(layer.step for layer in cost.layers(objective, (size, size, 3), batch_size))


def measure(repeats: int) -> list[dict]:
    """Each point with its FLOPs, its bytes, and the seconds of steps and selections."""
    rows, runners, trainings = [], {}, {}
    base = work(BASE)
    for point in points():
        size = point["width"], point["image_size"]
        if size not in trainings:
            trainings[size] = harness.training("dcgan", *size)
        training = trainings[size]
        row = point | {"flops": work(point)}
        row["steps"] = max(1, min(round(STEPS_OF_BASE * base / row["flops"]), MAX_STEPS))
        step_sizes = point["batch_size"], point["image_size"]
        program = harness.compiled_step(*training[:2], *step_sizes)
        row["bytes"] = train.program_bytes(program)
        name = f"step {len(rows)}"
        runners |= harness.steppers({name: program}, *training[2:], *step_sizes, row["steps"])
        runners[f"selection {size}"] = partial(select, training)
        rows.append(row)
    seconds = harness.in_turn(runners, repeats)
    for number, row in enumerate(rows):
        row["step_seconds"] = [value / row["steps"] for value in seconds[f"step {number}"]]
        row["selection_seconds"] = seconds[f"selection {row['width'], row['image_size']}"]
    return rows


def select(training: harness.Training):
    """The masks with which a round begins."""
    scores = pruning.magnitude(training.state.params, training.masks)
    return pruning.prune(scores, training.masks, SPARSITY)


def curve(rows: list[dict], name: str) -> list[dict]:
    """The points in which only `name` differs from the base, sorted by it."""
    same = [other for other in BASE if other != name]
    return sorted((row for row in rows if all(row[other] == BASE[other] for other in same)), key=lambda row: row[name])


def slope(x: list[float], y: list[float]) -> float:
    """The slope of the least-squares line through log y against log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def slopes(rows: list[dict]) -> dict[str, dict[str, float]]:
    """`{curve: {quantity: slope}}`; the FLOPs are one of the quantities."""
    result = {}
    for name in CURVES:
        own = curve(rows, name)
        x = [row[name] for row in own]
        result[name] = {"GFLOPs": slope(x, [row["flops"] for row in own])}
        result[name] |= {quantity: slope(x, list(map(of, own))) for quantity, of in QUANTITIES.items()}
    return result


def table(rows: list[dict], fitted: dict[str, dict[str, float]]) -> str:
    """The text of the points and the slopes, curve by curve."""
    lines = [
        f"{'width':>5} {'image':>5} {'batch':>5} {'GFLOPs':>9} {'step s, median (range)':>24} {'GFLOP/s':>8} "
        f"{'memory MiB':>10} {'selection s, median (range)':>28}"
    ]
    for name in CURVES:
        for row in curve(rows, name):
            step, memory, selection = (
                row["step_seconds"],
                QUANTITIES["step memory [MiB]"](row),
                row["selection_seconds"],
            )
            lines.append(
                f"{row['width']:5} {row['image_size']:5} {row['batch_size']:5} {row['flops'] / 1e9:9.2f} "
                f"{harness.spread(step, 4):>24} {row['flops'] / 1e9 / statistics.median(step):8.1f} {memory:10.1f} "
                f"{harness.spread(selection, 4):>28}"
            )
        own = list(fitted[name].values())
        lines.append(f"{'slope with ' + name:17} {own[0]:9.2f} {own[1]:24.2f} {own[2]:19.2f} {own[3]:28.2f}")
    return "\n".join(lines)


def drawn(rows: list[dict], fitted: dict[str, dict[str, float]]) -> Figure:
    """A figure with one column of panels per curve and one row per quantity, all on logarithmic axes."""
    figure = Figure(figsize=(WIDE, 7.6), layout="constrained")
    panels = figure.subplots(len(QUANTITIES), len(CURVES), sharex="col", sharey="row")
    for (quantity, of), line in zip(QUANTITIES.items(), panels, strict=True):
        line[0].set_ylabel(quantity, color=INK)
        for name, axes in zip(CURVES, line, strict=True):
            own = curve(rows, name)
            (base,) = (row for row in own if row[name] == BASE[name])
            _panel(
                axes,
                [row[name] for row in own],
                list(map(of, own)),
                [of(base) * row["flops"] / base["flops"] for row in own],
                fitted[name],
                quantity,
            )
    for name, axes in zip(CURVES, panels[-1], strict=True):
        axes.set_xlabel(name.replace("_", " "), color=INK)
    figure.align_ylabels(panels[:, 0])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _panel(axes: Axes, x, measured, proportional, fitted, quantity):
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(x, proportional, color=DENSE, linewidth=1.2, linestyle="--", label="proportional to the step's FLOPs")
    axes.plot(x, measured, color=LINE, linewidth=1.8, marker="o", markersize=5, label="measured")
    axes.set_xlim(x[0] / 1.2, x[-1] * 1.2)
    axes.xaxis.set_major_locator(FixedLocator(x))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    text = f"slope {fitted[quantity]:.2f}, of FLOPs {fitted['GFLOPs']:.2f}"
    axes.set_title(text, loc="left", fontsize=9, color=INK)
    clean(axes)


def main():
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--plot", type=Path, help="a PNG file for the figure")
    parser.add_argument("--from", dest="source", type=Path, help="a JSON file of this script, instead of measuring")
    options = parser.parse_args()
    rows = json.loads(options.source.read_text())["results"]["points"] if options.source else measure(options.repeats)
    fitted = slopes(rows)
    print(table(rows, fitted))
    if not options.source:
        harness.write(options, {"points": rows, "slopes": fitted})
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        options.plot.write_bytes(png(drawn(rows, fitted)))
        print(f"drawn to {options.plot}")


if __name__ == "__main__":
    main()
