"""Times what happens between a command and its first step, part by part, cold and warm, in fresh processes in turn.

    python benchmarks/start_up.py [--runs=configs/gan_digits.py:quick,...] [--repeats=3] [--out=FILE.json]

Each run is the real command, `python -m jaxtickets.main`, whose parts are timed where they are called; its process ends
after the first step. "first" is the very first start: no data is prepared, no feature network trained, nothing
compiled. "cold" has the data and the feature network, and an empty cache of compiled programs; "warm" has a full one.

The parts are the interpreter and its imports before a config is read; the imports of an experiment; the data; the
metric (the feature network and the features of the data); the initial state (compiled and run); its snapshot; the train
steps (compiled; data to the device); the first step; and the rest. The last table gives the seconds to import each
module, and those of commands that run no experiment.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import jax

ROOT = Path(__file__).resolve().parent.parent
# The second has three times as many layers.
RUNS = "configs/gan_digits.py:quick,configs/sngan_resnet.py:quick"
IMPORTS = ("jax", "jaxtickets", "jaxtickets.masks", "jaxtickets.pruning", "jaxtickets.train", "jaxtickets.main")
COMMANDS = {"--help": ["--help"], "a wrong value": ["--config=configs/gan_digits.py", "--config.prune.rate=2"]}
PARTS = ("imports", "experiment's imports", "data", "metric", "initial state", "snapshot", "step", "first step", "rest")


def child(started: float, arguments: list[str]) -> None:
    """Runs the command up to its first step and prints the seconds of its parts as JSON."""
    parts = harness.Parts()
    from jaxtickets import main

    parts.seconds["imports"] = time.time() - started
    began = time.perf_counter()
    from jaxtickets import data, metrics, runs, snapshots
    from jaxtickets.runs.programs import Programs

    parts.seconds["experiment's imports"] = time.perf_counter() - began
    parts.wrap("data", data, "load")
    parts.wrap("metric", metrics, "make_evaluator")
    parts.wrap("initial state", runs.Setup, "init")
    parts.wrap("snapshot", snapshots, "save")
    parts.wrap("step", Programs, "compiled")
    get_program = Programs.get

    def get(self, step, n=1):
        program = get_program(self, step, n)

        def first(*arguments):
            parts.timed("first step", lambda: jax.block_until_ready(program(*arguments)))()
            total = time.time() - started
            print(json.dumps({**parts.seconds, "rest": total - parts.seconds.total(), "total": total}), flush=True)
            os._exit(0)

        return first

    Programs.get = get
    sys.argv = ["jaxtickets", *arguments]
    main.main()


def run(command: list[str], cache: Path) -> tuple[float, subprocess.CompletedProcess]:
    """`(seconds, completed process)` of a command in a fresh process."""
    environment = os.environ | {
        "JAXTICKETS_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    started = time.perf_counter()
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return time.perf_counter() - started, result


def measure(config: str, folder: Path, repeats: int) -> dict[str, list[dict[str, float]]]:
    """`{"first", "cold" or "warm": [{part: seconds} of each start]}`."""
    seconds, cache = {"first": [], "cold": [], "warm": []}, folder / "cache"
    folder.mkdir()
    flags = [f"--config={config}", f"--config.data.dir={folder / 'data'}"]

    def start(kind):
        workdir = tempfile.mkdtemp(dir=folder)
        command = [sys.executable, __file__, "--child", str(time.time()), *flags, f"--workdir={workdir}"]
        _, result = run(command, cache)
        if result.returncode:
            raise SystemExit(f"{config} failed: {result.stderr}")
        seconds[kind].append(json.loads(result.stdout.splitlines()[-1]))

    start("first")
    for _ in range(repeats):
        shutil.rmtree(cache / "xla")
        start("cold")
        start("warm")
    return seconds


def main():
    if sys.argv[1:2] == ["--child"]:
        return child(float(sys.argv[2]), sys.argv[3:])
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--runs", default=RUNS, help="configs with their variants, separated by commas")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for config in options.runs.split(","):
            place = Path(folder) / str(len(results))
            seconds = results[config] = measure(config, place, options.repeats)
            print(f"{config}: seconds, median (lowest-highest)")
            print(f"{'':22}" + "".join(f"{kind:>22}" for kind in seconds))
            for part in (*PARTS, "total"):
                cells = [harness.spread([one.get(part, 0.0) for one in times], 2) for times in seconds.values()]
                print(f"{part:22}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
            print()
        commands = {f"import {module}": [sys.executable, "-c", f"import {module}"] for module in IMPORTS}
        for what, flags in COMMANDS.items():
            commands[f"jaxtickets.main, {what}"] = [sys.executable, "-m", "jaxtickets.main", *flags]
        runners = {name: lambda command=command: run(command, Path(folder)) for name, command in commands.items()}
        results["commands"] = harness.in_turn(runners, options.repeats)
    print("seconds of a fresh process, median (lowest-highest)")
    for name, times in results["commands"].items():
        print(f"{name:44}{harness.spread(times, 2):>22}")
    harness.write(options, results)


if __name__ == "__main__":
    main()
