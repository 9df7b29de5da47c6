"""Times what happens between a command and its first evaluation, part by part, in fresh processes in turn.

    python benchmarks/start_up.py [--runs=configs/gan_digits.py:quick,...] [--repeats=3] [--out=FILE.json]
        [--plot=FILE.png]

Each run is the real command, `python -m jaxtickets.main`, of a few steps, whose parts are timed where they are called;
its process ends after the first evaluation. "first" is the very first start: no data is prepared, no feature network
trained, nothing compiled. "cold" has the data and the feature network, and an empty cache of compiled programs; "warm"
has a full one.

The parts are the interpreter and its imports before a config is read; the imports of an experiment; the data; the
feature network; the features of the data; the initial state (compiled and run); its snapshot; the train step's
programs (compiled; data to the device); the first step; the steps after it; the first evaluation, whose programs are
compiled in it; its sample grid; the references, which evaluate the untrained network; and the rest. The seconds are on
the clock, in brackets those of all cores: a part with fewer than there are cores leaves room for another one at the
same time. XLA's compilations lie within the parts. The plot shows the last start of each kind on a time axis. The last
table gives the seconds to import each module, and those of commands that run no experiment.
"""

import dataclasses
import json
import os
import shutil
import statistics
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
PARTS = ("imports", "experiment's imports", "data", "feature network", "features of the data", "initial state")
PARTS += ("snapshot", "train programs", "first step", "more steps", "first evaluation", "sample grid", "references")
COMPILES, TRACES = "XLA compiles", "traced and lowered"  # Within the parts.
EVENTS = {"backend_compile_duration": COMPILES, "jaxpr_trace_duration": TRACES}
EVENTS |= {"jaxpr_to_mlir_module_duration": TRACES}
SHORT = ("--config.train.steps=20", "--config.train.epochs=0", "--config.prune.rounds=1")


def child(started: float, arguments: list[str]) -> None:
    """Runs the command up to its first evaluation and prints its parts as JSON."""
    parts = harness.Parts()
    from jaxtickets import main

    parts.seconds["imports"], parts.cpu_seconds["imports"] = time.time() - started, time.process_time()
    origin = time.perf_counter() - parts.seconds["imports"]
    parts.spans.append(("imports", origin, time.perf_counter()))
    parts.timed("experiment's imports", _wrap)(parts)
    get_program, evaluate = parts.runs.programs.Programs.get, parts.runs.Run._evaluate
    within = []

    def listen(event, seconds, **_):
        if what := EVENTS.get(event.rpartition("/")[2]):
            within.append((what, time.perf_counter() - seconds, time.perf_counter()))

    def get(self, step, n=1):
        program = get_program(self, step, n)
        part = "more steps" if "first step" in parts.seconds else "first step"
        return parts.timed(part, lambda *arguments: jax.block_until_ready(program(*arguments)))

    def evaluate_and_end(self, *arguments):
        evaluate(self, *arguments)
        total = time.perf_counter() - origin
        seconds = {**parts.seconds, "rest": total - parts.seconds.total(), "total": total}
        cpu = {**parts.cpu_seconds, "rest": time.process_time() - parts.cpu_seconds.total()}
        cpu["total"] = time.process_time()
        spans = [(part, start - origin, end - origin) for part, start, end in (*parts.spans, *within)]
        spans = [(part, round(start, 3), round(end, 3)) for part, start, end in spans if end - start > 0.001]
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "spans": spans}), flush=True)
        os._exit(0)

    jax.monitoring.register_event_duration_secs_listener(listen)
    parts.runs.programs.Programs.get, parts.runs.Run._evaluate = get, evaluate_and_end
    sys.argv = ["jaxtickets", *arguments]
    main.main()


def _wrap(parts) -> None:
    """Imports what an experiment needs, and times its parts."""
    from jaxtickets import data, metrics, report, runs, snapshots
    from jaxtickets.metrics import evaluator
    from jaxtickets.runs import record
    from jaxtickets.runs.programs import Programs

    del report
    parts.runs = runs
    networks, make_evaluator = evaluator.FEATURE_NETWORKS, metrics.make_evaluator

    class Timed:
        def __getitem__(self, name):
            network = networks[name]
            return dataclasses.replace(network, load=parts.timed("feature network", network.load))

    def make(*arguments):
        made = make_evaluator(*arguments)
        evaluate, samples = parts.timed("first evaluation", made.evaluate), parts.timed("sample grid", made.samples)
        return made._replace(evaluate=evaluate, samples=samples)

    evaluator.FEATURE_NETWORKS = Timed()
    metrics.make_evaluator = make
    parts.wrap("features of the data", evaluator, "_prepare")
    parts.wrap("data", data, "load")
    parts.wrap("initial state", runs.Setup, "init")
    parts.wrap("snapshot", snapshots, "save")
    parts.wrap("train programs", Programs, "compiled")
    parts.wrap("references", record, "write_references")


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


def measure(config: str, folder: Path, repeats: int) -> dict[str, list[dict]]:
    """`{"first", "cold" or "warm": [{"seconds", "cpu_seconds": {part: seconds}, "spans": ...} of each start]}`."""
    seconds, cache = {"first": [], "cold": [], "warm": []}, folder / "cache"
    folder.mkdir()
    flags = [f"--config={config}", f"--config.data.dir={folder / 'data'}"]

    def start(kind):
        workdir = tempfile.mkdtemp(dir=folder)
        command = [sys.executable, __file__, "--child", str(time.time()), *flags, *SHORT, f"--workdir={workdir}"]
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


def in_parts(starts: list[dict]) -> dict[str, str]:
    """`{part: "seconds (seconds of all cores)"}`, medians over the starts, of all that they have in common."""

    def median(kind, part):
        return statistics.median(start[kind].get(part, 0.0) for start in starts)

    cells = {part: f"{median('seconds', part):.2f} ({median('cpu_seconds', part):.2f})" for part in (*PARTS, "rest")}
    for what in (COMPILES, TRACES):
        sums = [sum(end - start for part, start, end in one["spans"] if part == what) for one in starts]
        cells[what] = f"{statistics.median(sums):.2f}"
    lowest, highest = (pick(start["seconds"]["total"] for start in starts) for pick in (min, max))
    return {**cells, "total": f"{median('seconds', 'total'):.2f} ({median('cpu_seconds', 'total'):.2f})"} | {
        "lowest-highest": f"{lowest:.2f}-{highest:.2f}"
    }


def plot(results: dict[str, dict[str, list[dict]]], path: Path) -> None:
    """Draws the last start of each kind on a time axis, one row per part."""
    from matplotlib.figure import Figure

    starts = [
        (f"{config}, {kind}", of_kind[-1]) for config, kinds in results.items() for kind, of_kind in kinds.items()
    ]
    rows = (*PARTS, TRACES, COMPILES)
    figure = Figure(figsize=(10, 3.2 * len(starts)), layout="constrained")
    for axes, (title, start) in zip(figure.subplots(len(starts), squeeze=False)[:, 0], starts, strict=True):
        for row, part in enumerate(rows):
            spans = [(begin, end - begin) for name, begin, end in start["spans"] if name == part]
            axes.broken_barh(spans, (row - 0.4, 0.8), color="#d9480f" if part in (TRACES, COMPILES) else "#2563a6")
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlim(0)
        axes.grid(axis="x", alpha=0.4)
        axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("seconds since the command")
    figure.savefig(path, dpi=110)


def main():
    if sys.argv[1:2] == ["--child"]:
        return child(float(sys.argv[2]), sys.argv[3:])
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--runs", default=RUNS, help="configs with their variants, separated by commas")
    parser.add_argument("--plot", type=Path, help="a PNG file for the time axis")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for config in options.runs.split(","):
            place = Path(folder) / str(len(results))
            seconds = results[config] = measure(config, place, options.repeats)
            print(f"{config}: seconds, and those of all cores; medians")
            print(f"{'':22}" + "".join(f"{kind:>22}" for kind in seconds))
            cells = {kind: in_parts(starts) for kind, starts in seconds.items()}
            for part in cells["first"]:
                print(f"{part:22}" + "".join(f"{of_kind[part]:>22}" for of_kind in cells.values()), flush=True)
            print()
        if options.plot:
            plot(results, options.plot)
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
