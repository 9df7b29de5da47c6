"""Damages one file at a time of workdirs, caches and ticket files, and calls whatever reads it.

    python tests/faults/damage.py --faults=500 --seed=0

A fault is harmless by proof (the result is that of the undamaged files, bit for bit), or told: a line names what is
damaged, with the same result, without that part, or instead of a result. Anything else is wrong: a traceback, a hang,
a crash, another result. Prints a table by kind of file; the status is 1 if anything was wrong.
"""

import argparse
import collections
import contextlib
import faulthandler
import hashlib
import io
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from kills import EXPERIMENTS, MAIN, TINY, Harness
from warm import HERE, ROOT

WAYS = ("flip", "cut", "delete", "zero")
# What is called for each base: `(base, experiment that made it, commands)`.
BASES = {
    "finished": ("vae", ("report", "evaluate", "sample", "resume", "from_round", "branch", "transfer")),
    "short": ("autoencoder", ("report", "evaluate", "reconstruct", "resume")),
    "halfway": ("vae", ("report", "resume")),
    "searched": ("early_bird", ("report", "resume", "from_round")),
    "searching": ("early_bird", ("report", "resume")),
    "seeds": ("seeds", ("report", "evaluate", "from_round")),
    "moved": ("transfer", ("report", "resume")),
    "ticket": ("autoencoder", ("load", "reconstruct")),
    "cache": ("gan", ("anew",)),
}
# The commands that read a file, by the first pattern that is found in its path; all where there is none.
READERS = {
    r"masks/": "resume from_round branch transfer",
    r"weights/": "evaluate sample reconstruct branch resume",
    r"snapshots/init": "evaluate resume from_round",
    r"snapshots/rewind": "resume from_round branch transfer",
    r"snapshots/": "resume from_round branch",
    r"search/": "report resume from_round",
    r"latent/|plots/|report.html|(^|/)tb/": "report resume",
    r"(layers.csv|metrics.jsonl|references.json|samples/.*)$": "report resume from_round branch",
    r"ticket.safetensors|transfer.json": "report resume",
}
COMPILED = re.compile("compiled (the|[0-9]+) train step")  # Who is the first compiles for all.
CALLS = {"branch": "branch", "transfer": "transfer"}  # Commands that run another experiment, which reads the base.
DIFFERING = ("resume", "from_round", "anew", *CALLS)  # Their results are differences to the uninterrupted run.
HARMLESS, TOLD = ("equal", "unread"), ("told", "refused")
WRONG = ("unnamed", "traceback", "other result", "hang", "crash")  # unnamed: a line that names no part of the path.


class Fault(NamedTuple):
    """One damage.

    Attributes:
      base: of `BASES`.
      file: its path below the base.
      way: of `WAYS`.
      at: where, as a share of the file's length in [0, 1).
      seed: of the bytes.
    """

    base: str
    file: str
    way: str
    at: float
    seed: int

    def __str__(self):
        return f"{self.base}: {self.way} {self.file} at {self.at:.3f} (seed {self.seed})"

    @property
    def kind(self) -> str:
        """The kind of its file."""
        return kind(self.base, self.file)


def kind(base: str, file: str) -> str:
    """The kind of a file: its path with numbers and random parts taken out."""
    file = re.sub(r"[0-9a-f]{16,}", "<hash>", file)
    file = re.sub(r"(xla/).*", r"\1*", file)
    file = re.sub(r"tfevents\..*", "tfevents", file)
    file = re.sub(r"(plots|samples)/.*\.(svg|png)", r"\1/*.\2", file)
    return f"{base}: {re.sub(r'[0-9]+', 'N', file)}"


def apply(fault: Fault, folder: Path) -> bool:
    """Damages a file of `folder`; returns whether its content has changed."""
    path, rng = folder / fault.file, random.Random(fault.seed)
    if fault.way == "delete":
        path.unlink()
        return True
    content = bytearray(path.read_bytes())
    before, at = bytes(content), int(fault.at * len(content))
    if not content:
        return False
    if fault.way == "cut":
        del content[at:]
    elif fault.way == "flip":
        content[at] ^= 1 << rng.randrange(8)
    else:
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    path.write_bytes(content)
    return bytes(content) != before


def is_named(fault: Fault, line: str) -> bool:
    """Whether a line names the damaged file, its directory, or what it is a part of."""
    if fault.base == "cache":
        return True
    parts = [part for part in Path(fault.file).parts if part not in ("snapshots", "seed_0", "seed_1", "default", "d")]
    return any(part in line for part in (*parts, Path(fault.file).name, Path(fault.file).stem))


# The process that calls what reads a damaged file: requests come as JSON lines, answers go back as JSON lines.


def work() -> None:
    """Answers requests until there are no more."""
    import logging

    import absl.logging

    absl.logging.set_verbosity(absl.logging.WARNING)
    logging.getLogger("absl").setLevel(logging.WARNING)
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    setups = {}
    for line in requests:
        request = json.loads(line)
        faulthandler.dump_traceback_later(request["timeout"] - 2, exit=False)
        answers.write(json.dumps(_answer(request, setups)) + "\n")
        answers.flush()
        faulthandler.cancel_dump_traceback_later()


def _answer(request, setups):
    from jaxtickets.errors import UserError

    out, err, answer = io.StringIO(), io.StringIO(), {"result": None, "error": "", "stack": ""}
    _forget()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            answer["result"] = COMMANDS[request["command"]](request, setups, out)
        except UserError as error:
            answer["error"] = str(error)
        except SystemExit as error:
            answer["error"] = str(error)
        except BaseException as error:  # noqa: BLE001
            answer["stack"] = "".join(traceback.format_exception(error))
    told = [line for line in err.getvalue().splitlines() if line.startswith("jaxtickets: ")]
    return answer | {"told": told, "err": err.getvalue()[-2000:]}


def _forget():
    """Empties the caches of functions, so that files are read again."""
    for name, module in list(sys.modules.items()):
        if name.startswith("jaxtickets."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear") and getattr(value, "__module__", "").startswith(
                    "jaxtickets.data.trees"
                ):
                    value.cache_clear()


def config_of(name: str, data: str, source: str = ""):
    """The config of one of `EXPERIMENTS`."""
    import importlib.util

    one = EXPERIMENTS[name]
    spec = importlib.util.spec_from_file_location(one.config, Path.cwd() / "configs" / f"{one.config}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("quick")
    changes = {
        field: value.format(source=source) if isinstance(value, str) else value for field, value in one.changes.items()
    }
    config.update_from_flattened_dict(TINY | changes | {"data.dir": data})
    return config


def _train(request, setups, out, name=None, path=None, source="", from_round=None):
    """Runs or resumes an experiment; returns the differences to the uninterrupted run."""
    import comparing

    import jaxtickets.main
    from jaxtickets.runs import Setup, seeds

    source = source or request.get("source", "")
    name = name or request["experiment"]
    path = Path(path or request["path"])
    config = config_of(name, request["data"], source)

    def shared(config, like=None, **given):
        key = name, EXPERIMENTS[name].config
        made = Setup(config, like=like or setups.get(key), **given)
        setups.setdefault(key, made)
        return made

    before, seeds.Setup = seeds.Setup, shared
    try:
        jaxtickets.main.run(config, path, **({} if from_round is None else {"from_round": from_round}))
    finally:
        seeds.Setup = before
    return comparing.differences(Path(request["whole"]), path)


def _report(request, setups, out):
    from jaxtickets.report import __main__ as command

    status = command.main([request["path"]])
    return _text(status, out) or [_digest(Path(request["path"]) / "report.html"), out.getvalue()]


def _evaluate(request, setups, out):
    from jaxtickets import evaluate

    table = Path(request["folder"]) / "table.csv"
    table.unlink(missing_ok=True)
    status = evaluate.main([f"--workdir={request['path']}", f"--out={table}"])
    return _text(status, out) or [table.read_text(), out.getvalue()]


def _sample(request, setups, out):
    from jaxtickets import sample

    made = Path(request["folder"]) / "samples"
    shutil.rmtree(made, ignore_errors=True)
    status = sample.main([f"--workdir={request['path']}", f"--out={made}", "--n=64"])
    return _text(status, out) or [[_digest(file) for file in sorted(made.iterdir())]]


def _reconstruct(request, setups, out):
    from jaxtickets import sample

    made, path = Path(request["folder"]) / "images.png", Path(request["path"])
    made.unlink(missing_ok=True)
    status = sample.main([f"--{'workdir' if path.is_dir() else 'ticket'}={path}", f"--reconstruct={made}"])
    return _text(status, out) or [_digest(made)]


def _load(request, setups, out):
    import jax
    import numpy as np

    import jaxtickets as jt

    leaves = jax.tree.leaves(jt.load_ticket(request["path"]))
    return [hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()]


def _other(request, setups, out):
    """A run that reads the base."""
    path = Path(request["folder"]) / "other"
    shutil.rmtree(path, ignore_errors=True)
    return _train(request, setups, out, name=CALLS[request["command"]], path=path, source=request["path"])


def _text(status, out):
    """A command's own mistake, as the others tell theirs."""
    if status:
        raise SystemExit((sys.stderr.getvalue().strip() or f"status {status}").splitlines()[-1])


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


COMMANDS = {
    "report": _report,
    "evaluate": _evaluate,
    "sample": _sample,
    "reconstruct": _reconstruct,
    "load": _load,
    "resume": _train,
    "from_round": lambda *given: _train(*given, from_round=1),
    "branch": _other,
    "transfer": _other,
}


class Worker:
    """A process that answers requests, started again when it has ended or hangs."""

    def __init__(self, cache: Path, tree: Path, log: Path, env: dict | None = None):
        self._environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAXTICKETS_CACHE": str(cache), "MPLBACKEND": "agg"}
        self._environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache / "xla"),
            "PYTHONPATH": os.pathsep.join(map(str, (tree, HERE, HERE.parent))),
        }
        self._environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self._tree, self._log, self._process, self._left = tree, log, None, 0

    def ask(self, request: dict, timeout: float = 90) -> dict:
        """The answer, or `{"end": "hang" or "crash", "err": ...}`."""
        if self._process is None or self._left == 0:
            self.stop()
            command = [sys.executable, "-c", "import damage; damage.work()"]
            with self._log.open("w") as log:
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
                self._process = subprocess.Popen(command, cwd=self._tree, env=self._environment, text=True, **pipes)
            self._left = 150
        self._left -= 1
        self._process.stdin.write(json.dumps(request | {"timeout": timeout}) + "\n")
        self._process.stdin.flush()
        is_there = select.select([self._process.stdout], [], [], timeout)[0]
        if is_there and (line := self._process.stdout.readline()):
            return json.loads(line)
        end = "crash" if is_there else "hang"
        self.stop()
        return {"end": end, "err": self._log.read_text(errors="replace")[-3000:]}

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Damage:
    """The bases, what each command gives without damage, and faults."""

    def __init__(self, folder: Path, cache: Path | None = None, tree: Path = ROOT, env: dict | None = None):
        """Takes what `Harness` takes."""
        self.harness = Harness(folder, cache, tree, env)
        self.folder, self.work = folder, folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.worker = Worker(self.harness.cache, tree, folder / "worker.log", env)
        self._right = {}

    def __enter__(self):
        self.harness.__enter__()
        return self

    def __exit__(self, *exception):
        self.worker.stop()
        self.harness.__exit__(*exception)

    def base(self, name: str) -> Path:
        """The undamaged directory of a base."""
        path, experiment = self.folder / "bases" / name, BASES[name][0]
        if path.exists():
            return path
        whole = self.harness.whole(experiment)
        if name in ("halfway", "searching"):
            self._kill_halfway(experiment, path, name)
        elif name == "ticket":
            path.mkdir(parents=True)
            shutil.copy(whole / "ticket.safetensors", path)
        elif name == "cache":
            path.mkdir(parents=True)
            answer = self._anew(path)  # Fills both directories.
            assert answer.get("result") == [], answer
        else:
            shutil.copytree(whole, path)
        return path

    def _kill_halfway(self, experiment, path, name):
        operations = self.harness.operations(experiment)
        last = "search" if name == "searching" else "last"
        saves = [
            number
            for number, (what, file) in enumerate(operations, 1)
            if what == "rename" and re.fullmatch(rf"snapshots/{last}/\d+", file)
        ]
        # In the middle of a training: of a later round, or of the search.
        at = saves[len(saves) * 2 // 3] + 40
        path.mkdir(parents=True)
        ended = self.harness.start(experiment, path, below=path, action="before", at=at)
        assert ended.status == -signal.SIGKILL, ended

    def kinds(self, names) -> dict[str, list[tuple[str, str]]]:
        """`{kind: [(base, file), ...]}` of all files of the bases."""
        found = collections.defaultdict(list)
        for name in names:
            base = self.base(name)
            for path in sorted(base.rglob("*")):
                file = str(path.relative_to(base))
                if path.is_file() and not path.name.endswith(".lock"):
                    found[kind(name, file)].append((name, file))
        return found

    def draw(self, n: int, seed: int, names) -> list[Fault]:
        """Draws `n` faults: the kinds of files in turn, the ways in turn."""
        rng, kinds, faults = random.Random(seed), self.kinds(names), []
        order = sorted(kinds)
        rng.shuffle(order)
        for number in range(n):
            base, file = rng.choice(kinds[order[number % len(order)]])
            way = WAYS[(number % len(order) + number // len(order)) % len(WAYS)]
            faults.append(Fault(base, file, way, rng.random(), rng.randrange(1 << 30)))
        return faults

    def copied(self, base: str) -> Path:
        """A fresh copy of a base, always at the same path."""
        path = self.work / base
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.base(base), path)
        return path

    def call(self, base: str, command: str, path: Path) -> dict:
        """What a command says to a base at `path`."""
        experiment = BASES[base][0]
        if base == "cache":
            return self._anew(path)
        own = CALLS.get(command, experiment)
        whole = self.harness.whole(own)
        target = path / "ticket.safetensors" if base == "ticket" else path
        request = {"command": command, "experiment": experiment, "path": str(target), "whole": str(whole)}
        if source := EXPERIMENTS[experiment].source:
            request["source"] = str(self.harness.whole(source))
        return self.worker.ask(request | {"folder": str(self.work), "data": str(self.harness.folder / "tfds")})

    def _anew(self, path):
        """A whole run with another cache and data directory, in a process of its own."""
        workdir = self.work / "anew"
        shutil.rmtree(workdir, ignore_errors=True)
        flags = TINY | {"data.dir": str(path / "tfds")}
        words = [f"--config.{field}={value}" for field, value in flags.items()]
        flags = ["--config=configs/gan_digits.py:quick", f"--workdir={workdir}", *words]
        ended = self.harness.warm.run(MAIN, *flags, env={"JAXTICKETS_CACHE": str(path / "cache")}, timeout=180)
        told = [line for line in ended.err.splitlines() if line.startswith("jaxtickets: ")]
        answer = {"result": None, "error": "", "stack": "", "told": told, "err": ended.err[-2000:]}
        if ended.status is None or ended.status < 0:
            return {"end": "hang" if ended.status is None else "crash", "err": ended.err[-3000:]}
        if ended.has_traceback or ended.status not in (0, 1, 2, 3):
            return answer | {"stack": ended.err}
        if ended.status:
            return answer | {"error": ended.last_line}
        compared = self.harness.warm.run("comparing", str(self.harness.whole("gan")), str(workdir))
        return answer | {"result": compared.out.splitlines()}

    def right(self, base: str, command: str) -> dict:
        """What a command says to an undamaged base."""
        if (base, command) not in self._right:
            self._right[base, command] = answer = self.call(base, command, self.copied(base))
            if answer.get("result") is None:
                raise RuntimeError(f"{command} fails on an undamaged {base}: {answer}")
        return self._right[base, command]

    def judge(self, fault: Fault, command: str) -> tuple[str, str]:
        """`(verdict, why)` of a command that reads a damaged base."""
        right = self.right(fault.base, command)
        path = self.copied(fault.base)
        if not apply(fault, path):
            return "equal", "the content is the same"
        damaged = (path / fault.file).read_bytes() if (path / fault.file).exists() else None
        answer = self.call(fault.base, command, path)
        if "end" in answer:
            return answer["end"], answer["err"]
        if answer["stack"]:
            return "traceback", answer["stack"]
        if answer["error"]:
            is_line = "\n" not in answer["error"].strip() and not re.search(r"<[\w.]+ object", answer["error"])
            verdict = "refused" if is_named(fault, answer["error"]) else "unnamed"
            return (verdict if is_line else "traceback"), answer["error"]
        new = [line for line in answer["told"] if line not in right["told"] and not COMPILED.search(line)]
        unread = None
        if isinstance(answer["result"], list) and command not in (
            "report",
            "evaluate",
            "sample",
            "sample_ticket",
            "load",
        ):
            # A damaged file that the command neither reads nor writes is as it was.
            now = (path / fault.file).read_bytes() if (path / fault.file).exists() else None
            snapshot = re.match(r"(.*(?:masks/\d+|snapshots/\w+))", fault.file)
            own = fault.file if snapshot is None else snapshot[1]
            wrong = [line for line in answer["result"] if line not in right["result"]]
            if now == damaged and command not in CALLS:
                unread = [line for line in wrong if line.startswith((own, "tensorboard"))]
                wrong = [line for line in wrong if line not in unread]
        else:
            wrong = [] if answer["result"] == right["result"] else ["another result"]
        # What is lost may be missing in the result if a line names it; and no page leads to one that is gone.
        own = (Path(fault.file).name, fault.file, "tensorboard")
        is_told = command in ("report", "evaluate") or all(line.startswith(own) for line in wrong)
        is_told = is_told and any(is_named(fault, line) for line in new)
        is_linked = command == "report" and fault.way == "delete" and Path(fault.file).name == "report.html"
        if wrong and not is_told and not is_linked:
            return "other result", "; ".join(wrong[:5]) + (f" (told: {new})" if new else "")
        if new:
            return ("told" if any(is_named(fault, line) for line in new) else "unnamed"), " ".join(new)
        return ("unread", unread[0]) if unread else ("equal", "")

    def commands(self, fault: Fault) -> list[str]:
        """What is called for a fault: whatever could read the file."""
        possible = BASES[fault.base][1]
        for pattern, readers in READERS.items():
            if re.search(pattern, fault.file) and fault.base not in ("ticket", "cache"):
                return [command for command in possible if command in readers]
        return list(possible)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bases", default=",".join(BASES))
    parser.add_argument("--match", default="", help="only kinds of files in which this regular expression is found")
    parser.add_argument("--only", type=int, help="only the fault with this number")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="damage-"))
    table, start = collections.defaultdict(collections.Counter), time.monotonic()
    with Damage(folder, options.cache, options.tree.resolve()) as damage:
        faults = damage.draw(options.faults, options.seed, options.bases.split(","))
        for number, fault in enumerate(faults):
            if not re.search(options.match, fault.kind) or options.only not in (None, number):
                continue
            if time.monotonic() - start > 60 * options.minutes:
                break
            for command in damage.commands(fault):
                verdict, why = damage.judge(fault, command)
                table[fault.kind][verdict] += 1
                if verdict in WRONG:
                    _show(number, fault, command, verdict, why)
            table[fault.kind]["faults"] += 1
    return _summary(table)


def _show(number, fault, command, verdict, why):
    lines = [line for line in why.strip().splitlines() if line.strip()]
    where = [line.strip() for line in lines if "jaxtickets/" in line][-1:]
    print(f"WRONG {number}  {fault}  {command}: {verdict}: {' '.join(lines[-1:])[:300]}  {' '.join(where)}")
    sys.stdout.flush()


def _summary(table):
    columns = ("faults", *HARMLESS, *TOLD, *WRONG)
    print(f"\n{'kind of file':75} " + " ".join(f"{name:>12}" for name in columns))
    total = collections.Counter()
    for name in sorted(table):
        total.update(table[name])
        print(f"{name:75} " + " ".join(f"{table[name][column] or '-':>12}" for column in columns))
    print(f"{'all':75} " + " ".join(f"{total[column] or '-':>12}" for column in columns))
    return int(any(total[name] for name in WRONG))


if __name__ == "__main__":
    sys.exit(main())
