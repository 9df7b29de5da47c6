"""What happens between two rounds: seconds of each thing from the last step of one round to the first step of the next.

    python benchmarks/between_rounds.py [--widths=128,410] [--steps=3] [--step_ms=5] [--repeats=3] [--out=FILE.json]

Real runs of iterative magnitude pruning, a DCGAN on 32x32 images of the digits, with few steps a round, whose functions
are timed where they are called; no part counts what another does. Width 128 is the paper's, width 410 has 50 million
weights (and a batch of 10, for its steps are only waited for). Of `--repeats` gaps after round 0's, which has two
snapshots more, the median counts. The share is that of a round of the paper's size, 100,000 steps (200 epochs
of 50,000 images in batches of 100), each as long as in this run (the median), or `--step_ms`. Evaluation is
shown and belongs to no share: what it takes is up to the metric.

Below, the same training with and without a checkpoint every few steps, in turn: what remains of its steps a second
when a state is saved while the next steps run. Saving that took as long as training would stop it; the paper-size
default saves seldom.
"""

import statistics
import tempfile
import time
from pathlib import Path

import harness
import jax
import numpy as np

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import snapshots, train, workdir
from jaxtickets.experiments import EXPERIMENTS, Run, Setup

PAPER_STEPS = 100_000
PARTS = {
    "score and select": [(Run, "pruned")],
    "rewind": [(Run, "rewound")],
    "rewind point read": [(snapshots, "restore")],
    "masks, dense state saved": [(snapshots, "save_masks"), (snapshots, "save")],
    "last state, started": [(snapshots.LastState, "save")],
    "last state, waited for": [(snapshots.LastState, "wait")],
    "logs, tables, samples": [(Run, "adopt"), (Run, "log")],
    "to and from the device": [(train, "replicate"), (train, "unreplicate")],
}
REST, EVALUATION, STEPS = "counts and the rest", "evaluation", "steps"


def tiny_round(width: int, batch_size: int, steps: int, **fields):
    """The config of a run with few steps, at the reference's settings."""
    config = config_lib.get_config()
    config.experiment, config.rewind_step = "imp", 1
    config.model.update(name="dcgan", width=width, latent_size=32, image_size=32)
    config.data.name = "digits"
    config.train.update(batch_size=batch_size, steps=steps, log_every=max(1, steps - 1), checkpoint_every=0)
    config.eval.update(samples=512, batch_size=128, features="digits")
    config.update_from_flattened_dict({"objective.name": "gan", **harness.NETWORKS["dcgan"][1], **fields})
    config_lib.validate(config, jax.local_device_count())
    return config


def gaps(width: int, batch_size: int, steps: int, rounds: int) -> dict:
    """The parts of each gap between two rounds, and the seconds of each step."""
    parts, found, seconds = harness.Parts(), [], []
    setup = Setup(tiny_round(width, batch_size, steps, **{"prune.rounds": rounds}))
    timed = {name: parts.timed(EVALUATION, getattr(setup.evaluator, name)) for name in ("evaluate", "samples")}
    setup.evaluator = setup.evaluator._replace(**timed)
    get_step, originals = setup.step, {}
    for part, functions in PARTS.items():
        for owner, name in functions:
            originals[owner, name] = getattr(owner, name)
            parts.wrap(part, owner, name)

    def step(number, *searching):
        program = get_step(number, *searching)

        def blocked(state, *arguments):
            if number == setup.rewind_step and ended:  # Each later round's first step.
                found.append({"all": time.perf_counter() - ended.pop(), **parts.seconds})
            started = time.perf_counter()
            result = jax.block_until_ready(program(state, *arguments))
            seconds.append(time.perf_counter() - started)
            if number == setup.steps - 1:
                ended.append(time.perf_counter())
                parts.seconds.clear()
            return result

        return blocked

    ended, setup.step = [], step
    try:
        with tempfile.TemporaryDirectory() as path, Run(setup, Path(path)) as run:
            EXPERIMENTS["imp"](run)
    finally:
        for (owner, name), function in originals.items():
            setattr(owner, name, function)
    for gap in found:
        gap[REST] = 2 * gap["all"] - sum(gap.values())
    weights = mask_lib.counts(setup.dense_masks).weights
    return {"width": width, "weights": weights, "step_seconds": statistics.median(seconds), "gaps": found}


def checkpoints(width: int, batch_size: int, steps: int, every: int, repeats: int) -> dict:
    """Steps a second with and without checkpoints, in turn."""
    setup = Setup(tiny_round(width, batch_size, steps, experiment="dense"))
    rates = {0: [], every: []}

    def trained(every):
        setup.config.train.checkpoint_every = every
        with tempfile.TemporaryDirectory() as path, Run(setup, Path(path)) as run:
            run.round(0, run.dense_masks, run.initial_state)
            return workdir.read_csv(Path(path) / "rounds.csv")[0]["steps_per_second"]

    trained(every)
    for repeat in range(repeats):
        for kind in list(rates)[:: -1 if repeat % 2 else 1]:
            rates[kind].append(trained(kind))
    return {"every": every, "without": rates[0], "with": rates[every]}


def main():
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--widths", default="128,410", help="the paper's, and others; separated by commas")
    parser.add_argument("--batch_size", type=int, default=100, help="of the first width; the others have 10")
    parser.add_argument("--steps", type=int, default=3, help="of a round")
    parser.add_argument("--step_ms", type=float, help="a step's milliseconds, where it is known from elsewhere")
    parser.add_argument("--checkpoint_every", type=int, default=4)
    options = parser.parse_args()
    results = {"gaps": []}
    for place, width in enumerate(map(int, options.widths.split(","))):
        batch_size = options.batch_size if place == 0 else 10
        one = gaps(width, batch_size, options.steps, options.repeats + 1)
        results["gaps"].append({"batch_size": batch_size, **one})
        first, *later = one["gaps"]
        times = {name: np.median([gap.get(name, 0.0) for gap in later]) for name in first | later[0]}
        overhead = times["all"] - times[EVALUATION]
        print(f"DCGAN, width {width}, {one['weights']:,} prunable weights: seconds between two rounds")
        print(f"{'':26}{'after round 0':>14}{'later':>9}{'range':>18}")
        for name in (*PARTS, REST, EVALUATION, "all"):
            values = [gap.get(name, 0.0) for gap in later]
            between = f"{min(values):.3f}-{max(values):.3f}"
            print(f"{name:26}{first.get(name, 0.0):14.3f}{times[name]:9.3f}{between:>18}", flush=True)
        for step in filter(None, (one["step_seconds"], options.step_ms and options.step_ms / 1000)):
            share = overhead / (PAPER_STEPS * step)
            print(f"without evaluation {overhead:.2f} s: {share:.4%} of {PAPER_STEPS:,} steps of {1000 * step:.3g} ms")
        print()
    width, every = int(options.widths.split(",")[0]), options.checkpoint_every
    results["checkpoints"] = checkpoints(width, options.batch_size, 3 * every, every, options.repeats)
    rates = results["checkpoints"]
    print(f"width {width}: steps a second, without checkpoints {harness.spread(rates['without'])},")
    print(f"with one every {every} steps {harness.spread(rates['with'])}")
    print(f"with / without: {harness.spread(harness.ratios(rates, 'with', 'without'))}")
    harness.write(options, results)


if __name__ == "__main__":
    main()
