"""Compares the time of early-bird tickets with that of the whole network, over the same number of epochs, in one run.

    python benchmarks/early_bird.py [--networks=dcgan:64,conv_vae:32] [--flops=0.88] [--epochs=100] [--out=FILE.json]

Each network is trained dense; then, for each share of FLOPs to save, a ticket is searched for and compacted, and trains
on from its weights for the rest of the epochs. Everything but evaluation is counted: loading the data, compiling the
dense step (for each training, without a cache), the search, the compaction, compiling the smaller step, snapshots and
logs. Each training is done once, because it is long; the CPU seconds of all threads show whether something else ran on
the machine. The peak memory of a step is XLA's own figure.
"""

import argparse
import json
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path

import jax

from jaxtickets import config as config_lib
from jaxtickets import metrics
from jaxtickets.experiments.early_bird import early_bird_columns, train_ticket
from jaxtickets.runs import Run, Setup
from jaxtickets.workdir import Workdir

NETWORKS = {
    "dcgan": {"model.width": 128, "objective.real_label": 0.9, "optimizer.beta1": 0.5, "train.batch_size": 100},
    "conv_vae": {
        **{"objective.name": "vae", "model.width": 64, "train.batch_size": 128},
        **{"optimizer.learning_rate": 1e-3, "optimizer.weight_decay": 1e-5},
    },
    "sngan_resnet": {
        **{"model.width": 32, "objective.loss": "hinge", "optimizer.beta1": 0.0, "optimizer.beta2": 0.9},
        **{"train.batch_size": 64},
    },
}


class Stopwatch:
    """Wall-clock and CPU seconds since the last start, without those of evaluations."""

    def __init__(self):
        self.start()

    def start(self) -> None:
        """Sets the seconds to zero."""
        self._left_out, self._started = [0.0, 0.0], [time.perf_counter(), time.process_time()]

    def read(self) -> tuple[float, float]:
        """`(wall-clock seconds, CPU seconds)`."""
        now = time.perf_counter(), time.process_time()
        wall, cpu = (t - start - out for t, start, out in zip(now, self._started, self._left_out, strict=True))
        return wall, cpu

    def leave_out(self, function):
        """`function`, whose time does not count."""

        def uncounted(*arguments):
            started = time.perf_counter(), time.process_time()
            result = function(*arguments)
            self._left_out[0] += time.perf_counter() - started[0]
            self._left_out[1] += time.process_time() - started[1]
            return result

        return uncounted


def measure(name: str, width: int, flops: list[float], epochs: int) -> list[dict]:
    """One row for the dense network and one per ticket."""
    config = config_lib.get_config()
    config.experiment, config.rewind = "early_bird", "none"
    config.model.update(name=name, latent_size=32, image_size=32)
    config.data.name, config.train.epochs = "digits", epochs
    config.eval.update(samples=2048, batch_size=256, features="digits")
    config.prune.update(structure="channel", target="flops", score="gamma", scope="layerwise", channel_multiple=8)
    config.prune.sparsities = tuple(flops)
    config.update_from_flattened_dict(NETWORKS[name])
    config.model.width = width or config.model.width
    config_lib.validate(config, jax.local_device_count())

    watch = Stopwatch()
    make_evaluator = metrics.make_evaluator

    def make_uncounted(*arguments):
        evaluator = make_evaluator(*arguments)
        uncounted = {name: watch.leave_out(getattr(evaluator, name)) for name in ("evaluate", "samples", "references")}
        return evaluator._replace(**uncounted)

    metrics.make_evaluator = make_uncounted
    with tempfile.TemporaryDirectory() as path:
        setup = Setup(config)
        with Run(setup, Workdir(path)) as run:
            before = watch.read()
            run.round(0, run.dense_masks, run.initial_state, columns=early_bird_columns())
            times = [watch.read()]
            for round_ in range(1, len(run.levels)):
                setup.release()  # The search compiles the dense step for itself.
                watch.start()
                train_ticket(run, round_)
                # Both trainings include the preparation.
                times.append(tuple(t + first for t, first in zip(watch.read(), before, strict=True)))
        rows = run.place.read_rounds()
    metrics.make_evaluator = make_evaluator
    metric = setup.evaluator.metric
    return [
        {
            "network": name,
            "width": config.model.width,
            "batch_size": config.train.batch_size,
            "steps": setup.timeline.steps,
            "flops_saved": 1 - row["flops_effective"] / row["flops_dense"],
            "params": row["params_kept"],
            "emergence_epoch": row["emergence_epoch"],
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "search_seconds": row["search_seconds"],
            "steps_per_second": row["steps_per_second"],
            "step_bytes": row["step_bytes"],
            "metric": metric,
            "value": row[metric],
            "wall_saved": 1 - wall / times[0][0],
            "cpu_saved": 1 - cpu / times[0][1],
        }
        for row, (wall, cpu) in zip(rows, times, strict=True)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks",
        default="dcgan,conv_vae,sngan_resnet",
        help="names, each with a width if not the default: dcgan:64",
    )
    parser.add_argument("--flops", default="0.88")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    header = (
        f"{'network':13} {'FLOPs saved':>11} {'params':>11} {'epoch':>5} {'search s':>8} {'all s':>7} {'CPU s':>7} "
    )
    print(header + f"{'steps/s':>7} {'step MiB':>8} {'value':>7} {'time saved':>10} {'of CPU':>6}")
    shares = [float(share) for share in options.flops.split(",")]
    for name, _, width in (network.partition(":") for network in options.networks.split(",")):
        for row in measure(name, int(width or 0), shares, options.epochs):
            rows.append(row)
            epoch = "-" if row["emergence_epoch"] is None else f"{row['emergence_epoch']:.0f}"
            print(
                f"{name:13} {row['flops_saved']:11.1%} {row['params']:11,} {epoch:>5} {row['search_seconds']:8.1f} "
                f"{row['wall_seconds']:7.1f} {row['cpu_seconds']:7.1f} {row['steps_per_second']:7.2f} "
                f"{row['step_bytes'] / 2**20:8.1f} {row['value']:7.2f} {row['wall_saved']:10.1%} "
                f"{row['cpu_saved']:6.1%}",
                flush=True,
            )
    if options.out:
        versions = {"python": platform.python_version(), "jax": jax.__version__}
        device = {"kind": jax.devices()[0].device_kind, "processor": platform.processor() or platform.machine()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        content = {"command": shlex.join(sys.argv), "versions": versions, "device": device, "rows": rows}
        options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
