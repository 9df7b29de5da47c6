"""What happens between two rounds: seconds of each thing from the last step of one round to the first step of the next.

    python benchmarks/between_rounds.py [--widths=128,392] [--steps=3] [--step_ms=5] [--repeats=3] [--out=FILE.json]

Real runs of iterative magnitude pruning, a DCGAN on 32x32 images of the digits, with few steps a round, whose functions
are timed where they are called; no part counts what another does. Width 128 is the paper's, width 392 has 50 million
weights (and a batch of 10, for its steps are only waited for). Round 0's end has a snapshot more, and what is done for
the first time; of the `--repeats` later gaps the median counts. The share is that of a round of the paper's size,
100,000 steps (200 epochs of 50,000 images in batches of 100), each as long as in this run (the median) or `--step_ms`.
Evaluation is shown and not part of it: what it takes is up to the metric.

Below, a training with and without a checkpoint every few steps, in turn: a ratio of their steps a second near 1 says
that states are saved while steps go on.
"""

import statistics
import tempfile
import time
from pathlib import Path

import harness
import jax

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
REST, EVALUATION = "counts and the rest", "evaluation"


def short_rounds(width: int, batch_size: int, steps: int, rounds: int):
    """The config of a run with few steps a round, at the reference's settings."""
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
    """The parts of each gap between two rounds, and the seconds of a step."""
    parts, found, seconds, ended = harness.Parts(), [], [], []
    get_step, evaluator, originals = setup.step, setup.evaluator, {}
    timed = {name: parts.timed(EVALUATION, getattr(evaluator, name)) for name in ("evaluate", "samples")}
    for part, functions in PARTS.items():
        for owner, name in functions:
            originals[owner, name] = getattr(owner, name)
            parts.wrap(part, owner, name)

    def step(number, *searching):
        program = get_step(number, *searching)

        def blocked(*arguments):
            if ended:
                found.append({"all": time.perf_counter() - ended.pop(), **parts.seconds})
            started = time.perf_counter()
            result = jax.block_until_ready(program(*arguments))
            seconds.append(time.perf_counter() - started)
            if number == setup.steps - 1:
                ended.append(time.perf_counter())
                parts.seconds.clear()
            return result

        return blocked

    setup.step, setup.evaluator = step, evaluator._replace(**timed)
    with tempfile.TemporaryDirectory() as path, Run(setup, Path(path)) as run:
        EXPERIMENTS["imp"](run)
    setup.step, setup.evaluator = get_step, evaluator
    for (owner, name), function in originals.items():
        setattr(owner, name, function)
    for gap in found:
        gap[REST] = 2 * gap["all"] - sum(gap.values())
    return {"step_seconds": statistics.median(seconds), "gaps": found}


def checkpoints(setup: Setup, every: int, repeats: int) -> dict[str, list[float]]:
    """Steps a second of a dense training with and without checkpoints, in turn."""
    setup.steps, rates = 3 * every, {"without": [], "with": []}

    def rate(kind):
        setup.config.train.checkpoint_every = every if kind == "with" else 0
        with tempfile.TemporaryDirectory() as path, Run(setup, Path(path)) as run:
            run.round(0, run.dense_masks, run.initial_state)
            return workdir.read_csv(Path(path) / "rounds.csv")[0]["steps_per_second"]

    for repeat in range(repeats):
        for kind in list(rates)[:: -1 if repeat % 2 else 1]:
            rates[kind].append(rate(kind))
    return rates


def main():
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--widths", default="128,392", help="the paper's, and others; separated by commas")
    parser.add_argument("--batch_size", type=int, default=100, help="of the first width; the others have 10")
    parser.add_argument("--steps", type=int, default=3, help="of a round")
    parser.add_argument("--step_ms", type=float, help="a step's milliseconds, where it is known from elsewhere")
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
    print(f"steps a second at the first width, without checkpoints: {harness.spread(rates['without'])}")
    print(f"with one every {options.checkpoint_every} steps: {harness.spread(rates['with'])}")
    print(f"with / without: {harness.spread(harness.ratios(rates, 'with', 'without'))}")
    harness.write(options, results)


if __name__ == "__main__":
    main()
