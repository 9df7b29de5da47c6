"""Times what happens between two rounds: each part from the last step of a round to the first step of the next.

    python benchmarks/between_rounds.py [--widths=128,392] [--steps=3] [--step_ms=5] [--repeats=3] [--out=FILE.json]

The runs are real: iterative magnitude pruning of a DCGAN on 32x32 images of the digits, with few steps per round. Its
functions are timed where they are called, and no part counts the time of another. Width 128 is the paper's; width 392
has 50 million weights, and a batch of 10, because its steps are not measured. The end of round 0 saves one more
snapshot and does some things for the first time; the median over the `--repeats` later gaps counts. The share is of a
round of the paper's size, 100,000 steps (200 epochs of 50,000 images in batches of 100), each as long as the median
step of this run, or `--step_ms`. Evaluation is shown but not in the share, because it depends on the metric.

The last table compares trainings with and without a checkpoint every few steps, in turn: if the ratio of their steps
per second is near 1, states are saved while steps go on.
"""

import statistics
import tempfile
import time

import harness
import jax

from jaxtickets import config as config_lib
from jaxtickets import loop, snapshots
from jaxtickets import masks as mask_lib
from jaxtickets.experiments import METHODS
from jaxtickets.runs import Run, Setup
from jaxtickets.workdir import Workdir

PAPER_STEPS = 100_000
PARTS = {
    "score and select": [(Run, "pruned")],
    "rewind": [(Run, "rewound")],
    "rewind point read": [(snapshots, "restore")],
    "masks, dense state saved": [(snapshots, "save_masks"), (snapshots, "save")],
    "last state, started": [(snapshots.LastState, "save")],
    "last state, waited for": [(snapshots.LastState, "wait")],
    "logs, tables, samples": [(Run, "record"), (Run, "log")],
    "to and from the device": [(loop, "replicate"), (loop, "unreplicate")],
}
REST, EVALUATION = "counts and the rest", "evaluation"


def short_rounds(width: int, batch_size: int, steps: int, rounds: int):
    """The config of a run with few steps per round, at the reference's settings."""
    config = config_lib.get_config()
    config.experiment, config.rewind_step = "imp", 1
    config.model.update(name="dcgan", width=width, latent_size=32, image_size=32)
    config.data.name = "digits"
    config.train.update(batch_size=batch_size, steps=steps, log_every=max(1, steps - 1), checkpoint_every=0)
    config.eval.update(samples=512, batch_size=128, features="digits")
    config.update_from_flattened_dict({"prune.rounds": rounds, **harness.NETWORKS["dcgan"][1]})
    config_lib.validate(config, jax.local_device_count())
    return config


def gaps(setup: Setup) -> dict:
    """`{"step_seconds": median, "gaps": [{part: seconds} of each gap between two rounds]}`."""
    parts, found, seconds, ended = harness.Parts(), [], [], []
    get_program, evaluator, originals = setup.programs.get, setup.evaluator, {}
    timed = {name: parts.timed(EVALUATION, getattr(evaluator, name)) for name in ("evaluate", "samples")}
    for part, functions in PARTS.items():
        for owner, name in functions:
            originals[owner, name] = getattr(owner, name)
            parts.wrap(part, owner, name)

    def get(step, n=1):
        program = get_program(step, n)

        def blocked(*arguments):
            if ended:
                found.append({"all": time.perf_counter() - ended.pop(), **parts.seconds})
            started = time.perf_counter()
            result = jax.block_until_ready(program(*arguments))
            seconds.append(time.perf_counter() - started)
            if step + n == setup.timeline.steps:
                ended.append(time.perf_counter())
                parts.seconds.clear()
            return result

        return blocked

    setup.programs.get, setup.evaluator = get, evaluator._replace(**timed)
    with tempfile.TemporaryDirectory() as path, Run(setup, Workdir(path)) as run:
        METHODS["imp"].recipe(run)
    setup.programs.get, setup.evaluator = get_program, evaluator
    for (owner, name), function in originals.items():
        setattr(owner, name, function)
    for gap in found:
        gap[REST] = 2 * gap["all"] - sum(gap.values())
    return {"step_seconds": statistics.median(seconds), "gaps": found}


def checkpoints(setup: Setup, every: int, repeats: int) -> dict[str, list[float]]:
    """Steps per second of a dense training with and without checkpoints, in turn."""
    setups, rates = {}, {"without": [], "with": []}
    for kind in rates:
        config = setup.config.copy_and_resolve_references()
        config.train.update(steps=3 * every, checkpoint_every=every if kind == "with" else 0)
        setups[kind] = setup = Setup(config, like=setup)  # The second has the programs of the first.

    def rate(kind):
        with tempfile.TemporaryDirectory() as path, Run(setups[kind], Workdir(path)) as run:
            run.round(0, run.dense_masks, run.initial_state)
            return run.place.read_rounds()[0]["steps_per_second"]

    for repeat in range(repeats):
        for kind in list(rates)[:: -1 if repeat % 2 else 1]:
            rates[kind].append(rate(kind))
    return rates


def main():
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--widths", default="128,392", help="the paper's width and others, separated by commas")
    parser.add_argument(
        "--batch_size", type=int, default=100, help="the batch size of the first width; the others have 10"
    )
    parser.add_argument("--steps", type=int, default=3, help="the steps of a round")
    parser.add_argument("--step_ms", type=float, help="the milliseconds of a step, if known from elsewhere")
    parser.add_argument("--checkpoint_every", type=int, default=4)
    options = parser.parse_args()
    results, setups = {"gaps": []}, []
    for width in map(int, options.widths.split(",")):
        batch_size = 10 if setups else options.batch_size
        batch_size += -batch_size % jax.local_device_count()
        setup = Setup(short_rounds(width, batch_size, options.steps, options.repeats + 1))
        setups.append(setup)
        one, weights = gaps(setup), mask_lib.counts(setup.dense_masks).weights
        results["gaps"].append({"width": width, "weights": weights, "batch_size": batch_size, **one})
        first, *later = one["gaps"]
        print(f"DCGAN, width {width}, {weights:,} prunable weights: seconds between two rounds")
        print(f"{'':26}{'after round 0':>14}{'later, median (lowest-highest)':>34}")
        for name in (*PARTS, REST, EVALUATION, "all"):
            values = [gap.get(name, 0.0) for gap in later]
            print(f"{name:26}{first.get(name, 0.0):14.3f}{harness.spread(values):>34}", flush=True)
        overhead = statistics.median(gap["all"] - gap[EVALUATION] for gap in later)
        for step in filter(None, (one["step_seconds"], options.step_ms and options.step_ms / 1000)):
            share = overhead / (PAPER_STEPS * step)
            print(f"without evaluation {overhead:.2f} s: {share:.4%} of {PAPER_STEPS:,} steps of {1000 * step:.3g} ms")
        print()
    rates = results["checkpoints"] = checkpoints(setups[0], options.checkpoint_every, options.repeats)
    results["checkpoint_every"] = options.checkpoint_every
    print(f"steps per second at the first width, without checkpoints: {harness.spread(rates['without'])}")
    print(f"with one every {options.checkpoint_every} steps: {harness.spread(rates['with'])}")
    print(f"with / without: {harness.spread(harness.ratios(rates, 'with', 'without'))}")
    harness.write(options, results)


if __name__ == "__main__":
    main()
