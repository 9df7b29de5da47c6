"""Runs quick experiments again and again in one process, and records what the process holds.

    python tests/faults/soak.py --minutes=60 --out=soak

Writes OUT.json, after each run its seconds, resident memory, Python objects, open file descriptors and threads, and
OUT.png, a plot of them. Prints how much each grows per run once the programs are compiled. The status is 1 if memory
grows by more than --mebibytes per run, or files or threads grow by one in a few runs.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from damage import config_of

EXPERIMENTS = ("autoencoder", "vae", "gan", "rigl", "early_bird")
MEASURES = {"rss": "resident memory [MiB]", "descriptors": "open files", "threads": "threads", "objects": "objects"}
WARM = 0.25  # The share of the runs, from the first, that the growth is not taken from.


def held() -> dict[str, float]:
    """What this process holds: memory in MiB, files, threads, and objects that the garbage collector knows."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss": pages * os.sysconf("SC_PAGESIZE") / 2**20,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "objects": len(gc.get_objects()),
    }


def growth(rows: list[dict]) -> dict[str, float]:
    """How much each measure grows per run: the slope of the median line (Theil, Sen) through all but the first runs.

    Runs of one experiment are compared with one another alone.
    """
    from scipy.stats import theilslopes

    slopes = {name: [] for name in MEASURES}
    for experiment in dict.fromkeys(row["experiment"] for row in rows):
        own = [row for row in rows[int(WARM * len(rows)) :] if row["experiment"] == experiment]
        if len(own) > 2:
            for name in MEASURES:
                slopes[name].append(theilslopes([row[name] for row in own], [row["run"] for row in own])[0])
    return {name: float(np.median(of)) if of else 0.0 for name, of in slopes.items()}


def figure(rows: list[dict], path: Path) -> None:
    """Plots the measures against the number of the run."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(len(MEASURES), figsize=(7, 8), sharex=True, layout="constrained")
    for axis, (name, label) in zip(axes, MEASURES.items(), strict=True):
        for experiment in dict.fromkeys(row["experiment"] for row in rows):
            own = [row for row in rows if row["experiment"] == experiment]
            axis.plot([row["run"] for row in own], [row[name] for row in own], ".-", label=experiment, linewidth=0.8)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[0].legend(ncols=len(EXPERIMENTS), fontsize="small", frameon=False)
    axes[-1].set_xlabel(f"run (in {sum(row['seconds'] for row in rows) / 60:.0f} minutes)")
    fig.savefig(path, dpi=120)
    plt.close(fig)


def soak(names, minutes: float, folder: Path, out: Path, clears: bool) -> list[dict]:
    """Trains the experiments in turn, each in a new workdir, reports and evaluates; returns a row per run.

    Args:
      clears: whether JAX's caches are emptied after each run.
    """
    import jax

    import jaxtickets.main
    from jaxtickets import evaluate

    rows, end = [], time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        name, start = names[len(rows) % len(names)], time.monotonic()
        config = config_of(name, str(folder / "tfds"))
        config.seed = len(rows) // len(names)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
            jaxtickets.main.run(config, folder / "run")
            status = evaluate.main([f"--workdir={folder / 'run'}"])
        if status:
            raise RuntimeError(told.getvalue())
        shutil.rmtree(folder / "run")
        if clears:
            jax.clear_caches()
        rows.append({"run": len(rows), "experiment": name, "seconds": round(time.monotonic() - start, 2), **held()})
        out.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    return rows


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--experiments", default=",".join(EXPERIMENTS))
    parser.add_argument("--out", type=Path, default=Path("soak"))
    parser.add_argument("--mebibytes", type=float, default=0.5, help="the growth per run that is allowed")
    parser.add_argument("--clear", action="store_true", help="empty JAX's caches after each run: pmap keeps every step")
    options = parser.parse_args()
    from jaxtickets import allocator

    allocator.keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        rows = soak(options.experiments.split(","), options.minutes, Path(folder), options.out, options.clear)
    grown = growth(rows)
    figure(rows, options.out.with_suffix(".png"))
    print(f"{len(rows)} runs; growth per run: " + ", ".join(f"{MEASURES[name]} {of:.3g}" for name, of in grown.items()))
    return int(grown["rss"] > options.mebibytes or grown["descriptors"] > 0.05 or grown["threads"] > 0.2)


if __name__ == "__main__":
    sys.exit(main())
