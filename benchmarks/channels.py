"""Compares early-bird tickets with channels chosen at initialisation, at equal FLOPs and parameters, over some seeds.

    python benchmarks/channels.py --config=configs/early_bird_gan.py:quick --out=runs/channels/gan
    python benchmarks/channels.py --config=configs/early_bird_vae.py:quick --out=runs/channels/vae --seeds=5 \
        --methods="early bird, rewound;random" --config.train.steps=2000

Each method prunes the same number of channels in each layer, so the remaining networks have the same shapes, and trains
for the same number of steps. The exception is the early bird with one threshold for the whole network, which has equal
FLOPs alone. Further flags go to every run. The script runs what is not finished yet, one process after another, and
writes `levels.csv`. A method that the config refuses, such as one that needs batch norm, is left out. Quality is the
dense run's metric over the ticket's (1 is as good as dense; lower metrics are better). Cost is the whole training of a
ticket, its search included: in seconds, and in FLOPs relative to the dense training. `x random` is the geometric mean
over the seeds of a method's metric over that of random channels with the same seed, with its 95% interval, and p the
paired t test that the two differ (not adjusted for the number of comparisons). A star marks what the verdict shows to
be within the tolerance of the dense runs. It takes about an hour on two CPU cores.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from jaxtickets.cli import MISTAKE
from jaxtickets.report.levels import against_control, levels
from jaxtickets.report.reading import read
from jaxtickets.report.table import p_text, ratio_text
from jaxtickets.workdir import Workdir

CONTROL = "random"

AT_INIT = {"experiment": "at_init", "early_bird.until": 0.25, "early_bird.every": 0}  # The defaults: no search.
# A search that finds nothing takes its last mask, so that every method has the same FLOPs.
EARLY_BIRD = {"early_bird.on_no_early_bird": "take_last"}
METHODS = {
    "early bird, rewound": EARLY_BIRD,
    CONTROL: AT_INIT | {"prune.score": CONTROL},
    "early bird, going on": EARLY_BIRD | {"rewind": "none"},
    "early bird, gamma_taylor": EARLY_BIRD | {"prune.score": "gamma_taylor"},
    "early bird, filter_change": EARLY_BIRD | {"prune.score": "filter_change"},
    "early bird, slimming": EARLY_BIRD | {"early_bird.gamma_penalty": 1e-3},
    "early bird, global": EARLY_BIRD | {"prune.scope": "global"},
    **{score: AT_INIT | {"prune.score": score} for score in ("synflow", "snip", "grasp")},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flops", default="(0.7,0.88)")
    parser.add_argument("--methods", default=";".join(METHODS), help="those to compare, with ; between them")
    options, more = parser.parse_known_args()
    chosen = options.methods.split(";")
    if unknown := set(chosen) - METHODS.keys():
        parser.error(f"--methods: no {', '.join(unknown)}; allowed are {', '.join(METHODS)}")
    if CONTROL not in chosen or options.seeds < 2:
        parser.error(f"--methods={options.methods} --seeds={options.seeds}: {CONTROL} must be there, and two seeds")
    for name in chosen:
        path = options.out / name
        if not Workdir(path).is_finished:
            print(f"{name} ...", flush=True)
            fields = {"seeds": options.seeds, "prune.sparsities": options.flops, "prune.channel_multiple": 1}
            flags = [*more, *(f"--config.{field}={value}" for field, value in (fields | METHODS[name]).items())]
            command = [sys.executable, "-m", "jaxtickets.main", f"--config={options.config}", f"--workdir={path}"]
            status = subprocess.run([*command, *flags], stdout=subprocess.DEVNULL).returncode
            if status == MISTAKE and name != CONTROL:
                print(f"{name}: left out")
            elif status:
                sys.exit(status)
    paths = [options.out / name for name in chosen if Workdir(options.out / name).is_finished]
    levels(paths, options.out)
    print(table(paths))


def table(paths: list[Path]) -> str:
    """One line per method and level: means over the seeds."""
    lines = [
        f"{'method':25} {'FLOPs':>6} {'params':>8} {'metric':>23} {'x ' + CONTROL + ' [95% interval]':>24} {'p':>6} "
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
                f"{name:25} {left:6.1%} {params:8,.0f} "
                f"{value:>23} {times:>24} {p_value:>6} {quality:7.2f} {seconds:8.1f} {cost:11.1%} "
                f"{60 * quality / seconds:11.2f} {quality / cost:19.2f}"
            )
    return "\n".join(lines)


def _training_flops(row, path):
    """The FLOPs of a round's whole training, its search and scores included, over those of the dense training."""
    left = row["flops_effective"] / row["flops_dense"]
    search = Workdir(path).seed(row["seed"]).read_searches().get(row["round"])
    if search is None:
        return left
    config = Workdir(path).read_config()
    searched = search["steps"][-1] / config["train"]["steps"]
    batches = config["prune"]["score_batches"] if config["prune"]["score"] == "gamma_taylor" else 0
    scored = batches * len(search["steps"]) / config["train"]["steps"]
    return searched + scored + left * (1 - searched if config["rewind"] == "none" else 1)


if __name__ == "__main__":
    main()
