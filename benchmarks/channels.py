"""Compares early-bird tickets with channels chosen at initialisation, at equal FLOPs and parameters, over some seeds.

    python benchmarks/channels.py --config=configs/early_bird_gan.py:quick --out=runs/channels/gan

Each method prunes the same number of channels in each layer, so the remaining networks have the same shapes, and trains
for the same number of steps. The script runs what is not finished yet, one process after another, and writes
`levels.csv`. Quality is the dense run's metric over the ticket's (1 is as good as dense; lower metrics are better).
Cost is the whole training of a ticket, its search included: in seconds, and in FLOPs relative to the dense training.
`x random` is the geometric mean over the seeds of a method's metric over that of random channels with the same seed,
with its 95% interval, and p the paired t test that the two differ (not adjusted for the number of comparisons). A star
marks what the verdict shows to be within the tolerance of the dense runs. It takes about 25 minutes on two CPU cores.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from jaxtickets.report.levels import against_control, levels
from jaxtickets.report.reading import read
from jaxtickets.report.table import p_text, ratio_text
from jaxtickets.workdir import Workdir

CONTROL = "random"

METHODS = {
    "early_bird, rewound": {"rewind": "state"},
    "early_bird, going on": {"rewind": "none"},
    **{score: {"experiment": "at_init", "prune.score": score} for score in ("snip", "grasp", "synflow", "random")},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flops", default="(0.7,0.88)")
    options = parser.parse_args()
    for name, fields in METHODS.items():
        path = options.out / name
        if not Workdir(path).is_finished:
            print(f"{name} ...", flush=True)
            fields = fields | {"seeds": options.seeds, "prune.sparsities": options.flops, "prune.scope": "layerwise"}
            fields["prune.channel_multiple"] = 1
            if "experiment" in fields:
                fields["early_bird.until"] = 0.25  # The default, because these do not search.
            flags = [f"--config.{field}={value}" for field, value in fields.items()]
            command = [sys.executable, "-m", "jaxtickets.main", f"--config={options.config}", f"--workdir={path}"]
            subprocess.run([*command, *flags], check=True, stdout=subprocess.DEVNULL)
    levels([options.out / name for name in METHODS], options.out)
    print(table([options.out / name for name in METHODS]))


def table(paths: list[Path]) -> str:
    """One line per method and level: means over the seeds."""
    lines = [
        f"{'method':22} {'FLOPs':>6} {'params':>8} {'metric':>23} {'x ' + CONTROL + ' [95% interval]':>24} {'p':>6} "
        f"{'quality':>7} {'train s':>8} {'train FLOPs':>11} {'quality/min':>11} {'quality/dense FLOPs':>19}"
    ]
    control = next(read(path) for path in paths if path.name == CONTROL)
    for path in paths:
        verdict, rows = Workdir(path).read_verdict(), Workdir(path).read_rounds()
        metric = verdict["metric"]
        compared = {} if path.name == CONTROL else against_control(read(path), control, metric)
        for level in verdict["rounds"]:
            if not level["round"] and path != paths[0]:
                continue  # All methods have the same dense runs.
            own = [row for row in rows if row["round"] == level["round"]]
            mean = lambda column, own=own: sum(column(row) for row in own) / len(own)  # noqa: E731
            left = mean(lambda row: row["flops_effective"] / row["flops_dense"])
            cost = mean(lambda row, path=path: _training_flops(row, path))
            seconds, quality = mean(lambda row: row["train_seconds"]), verdict["dense"] / level["mean"]
            value = f"{metric} {level['mean']:.1f} ± {(level['high'] - level['low']) / 2:.1f}"
            value += "*" if level["wins"] else " "
            other = compared.get(level["round"])
            times = ratio_text(other.ratio, other.low, other.high) if other else "-"
            p_value = p_text(other.p_value) if other else "-"
            name, params = path.name if level["round"] else "dense", mean(lambda row: row["params_kept"])
            lines.append(
                f"{name:22} {left:6.1%} {params:8,.0f} "
                f"{value:>23} {times:>24} {p_value:>6} {quality:7.2f} {seconds:8.1f} {cost:11.1%} "
                f"{60 * quality / seconds:11.2f} {quality / cost:19.2f}"
            )
    return "\n".join(lines)


def _training_flops(row, path):
    """The FLOPs of a round's whole training over those of the dense training."""
    left = row["flops_effective"] / row["flops_dense"]
    search = Workdir(path).seed(row["seed"]).read_searches().get(row["round"])
    if search is None:
        return left
    config = Workdir(path).read_config()
    searched = search["steps"][-1] / config["train"]["steps"]
    return searched + left * (1 - searched if config["rewind"] == "none" else 1)


if __name__ == "__main__":
    main()
