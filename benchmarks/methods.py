"""Compares every method and every control in one table, method by sparsity, over several seeds.

    python benchmarks/methods.py --config=configs/gan_digits.py:quick --out=runs/methods/gan_digits

The script runs what is not finished yet, one process after another, and writes `levels.csv`. The first table has the
means over the seeds, the second the ratios to the dense run of the same seed, each with its 95% interval; a star marks
what the verdict shows to be within the tolerance. It takes about an hour on two CPU cores for the GAN, half an hour for
`configs/vae_digits.py:quick`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from jaxtickets.report.levels import levels
from jaxtickets.workdir import Workdir

SPARSITIES = "(0.67,0.89,0.95,0.98)"
# No iteration prunes more than 60% of what remains; the other methods reach each sparsity at once.
ITERATIVE = "(0.36,0.67,0.79,0.89,0.95,0.98)"
METHODS = {
    "imp": {"prune.sparsities": ITERATIVE},
    "one_shot": {"experiment": "one_shot"},
    "gradual": {"experiment": "gradual"},
    "rigl": {"experiment": "rigl", "prune.scope": "erk"},
    "set": {"experiment": "set", "prune.scope": "erk"},
    **{score: {"experiment": "at_init", "prune.score": score} for score in ("synflow", "snip", "grasp", "random")},
}
CONTROLS = ("reinit", "random_pruning", "shuffled", "dense_short")


def commands(config: str, out: Path, seeds: int) -> dict[str, list[str]]:
    """`{name: command}`; controls come after the run that they control."""
    runs = {name: {"prune.sparsities": SPARSITIES, **fields} for name, fields in METHODS.items()}
    for kind in CONTROLS:
        runs[f"imp_{kind}"] = {"experiment": "branch", "branch.kind": kind, "branch.of": out / "imp"}
    return {
        name: [
            *(sys.executable, "-m", "jaxtickets.main", f"--config={config}", f"--workdir={out / name}"),
            *(f"--config.{field}={value}" for field, value in (fields | {"seeds": seeds}).items()),
        ]
        for name, fields in runs.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    runs = commands(options.config, options.out, options.seeds)
    for name, command in runs.items():
        if not Workdir(options.out / name).is_finished:
            print(f"{name} ...", flush=True)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(levels([options.out / name for name in runs], options.out))


if __name__ == "__main__":
    main()
