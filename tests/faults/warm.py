"""Commands of jaxtickets in real processes that start at once: a parent that has imported everything forks each.

The parent never touches a JAX back end, because a fork would lose its threads. With `operations.c` loaded, a command
can be killed at, or refused, any of its file operations below one directory.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# What happens at an operation; the numbers are those of operations.c.
ACTIONS = {"count": 0, "before": 1, "after": 2, "torn": 3, "fail_from": 4, "fail_once": 5}
KILLS = ("before", "after", "torn")
HEAVY = (
    *("jaxtickets.main", "jaxtickets.report.__main__", "jaxtickets.evaluate", "jaxtickets.sample", "jaxtickets.runs"),
    *("orbax.checkpoint", "tensorboardX", "matplotlib.pyplot", "scipy.linalg", "PIL.Image"),
)


class Ended(NamedTuple):
    """How a command has ended.

    Attributes:
      status: its exit status; the negative number of a signal that has killed it; None if it was still running when its
        time was over, and was killed for that.
      seconds: that it ran.
      out, err: its output.
      operations: `[what, path below the directory]` of each file operation that was seen, if they were asked for.
    """

    status: int | None
    seconds: float
    out: str
    err: str
    operations: list

    @property
    def has_traceback(self) -> bool:
        """Whether Python, or the C++ below it, has dumped a stack."""
        return "Traceback (most recent call last)" in self.err or "Fatal Python error" in self.err

    @property
    def last_line(self) -> str:
        """The last line of the standard error."""
        return (self.err.strip().splitlines() or [""])[-1]


def library(folder: Path) -> Path | None:
    """`operations.c`, compiled into `folder`; None where there is no compiler, or this is not Linux."""
    path = folder / "operations.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if path.exists():
        return path
    if not compiler or not sys.platform.startswith("linux"):
        return None
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(path), str(HERE / "operations.c"), "-ldl", "-lpthread"]
    return path if subprocess.run(command, capture_output=True).returncode == 0 else None


class Warm:
    """The parent of commands. Use it in a `with`."""

    def __init__(self, cache: Path, preload: Path | None = None, tree: Path = ROOT, env: dict | None = None):
        """
        Args:
          cache: the user's cache directory for all commands.
          preload: the compiled `operations.c`.
          tree: the checkout whose code runs.
        """
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAXTICKETS_CACHE": str(cache)} | (env or {})
        environment |= {"PYTHONPATH": os.pathsep.join([str(tree), str(HERE)]), "MPLBACKEND": "agg"}
        if "JAX_COMPILATION_CACHE_DIR" not in (env or {}):
            environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        if preload:
            environment["LD_PRELOAD"] = str(preload)
        command = [sys.executable, "-c", "import warm, sys; sys.exit(warm.serve())"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=tree, env=environment, text=True, **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.stdin.close()
        self._process.wait()

    def run(
        self,
        module: str,
        *arguments: str,
        below: Path | None = None,
        action: str = "count",
        at: int = 0,
        error: int = 0,
        log: bool = False,
        after: tuple[float, int] | None = None,
        timeout: float = 400,
        env: dict | None = None,
        prepare: str = "",
    ) -> Ended:
        """Runs `python -m module arguments...`.

        Args:
          below: the directory whose file operations are counted.
          action: one of `ACTIONS`, what happens at the operation number `at`, which counts from 1.
          error: the number of the error with which operations fail.
          log: whether the operations are returned.
          after: `(seconds, signal)` that is sent then.
          timeout: in seconds; feature networks take two minutes where XLA is told not to optimise.
          env: what is added to the environment.
          prepare: Python code that runs first.
        """
        given = {"module": module, "arguments": arguments, "below": below and str(below), "action": action, "at": at}
        given |= {"error": error, "log": log, "after": after, "timeout": timeout, "env": env or {}, "prepare": prepare}
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


# In the parent of commands.


def serve() -> int:
    """Answers requests until the standard input ends; in a forked child, runs the request's command."""
    import importlib

    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for module in HEAVY:
        importlib.import_module(module)
    for line in requests:
        request = json.loads(line)
        folder = tempfile.mkdtemp(prefix="faults-")
        places = {name: Path(folder) / name for name in ("out", "err", "log")}
        for path in places.values():
            path.touch()
        child = os.fork()
        if not child:
            return _command(request, places)
        answers.write(json.dumps(_ended(child, request, places)) + "\n")
        answers.flush()
        shutil.rmtree(folder)
    return 0


def _command(request, places):
    """The whole life of a command; its status goes the way of every Python process, through the interpreter's end."""
    import ctypes
    import faulthandler
    import importlib

    os.setpgid(0, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(places[name], os.O_WRONLY | os.O_APPEND), number)
    os.environ.update(request["env"])
    faulthandler.dump_traceback_later(max(request["timeout"] - 3, 1), exit=False)
    if request["below"]:
        handle = os.open(places["log"], os.O_WRONLY | os.O_APPEND) if request["log"] else -1
        how = ACTIONS[request["action"]], ctypes.c_long(request["at"]), request["error"], handle
        below = os.path.realpath(request["below"])
        ctypes.CDLL(None).faults_arm(below.encode(), *how)
    sys.argv = [request["module"], *request["arguments"]]
    exec(request["prepare"], {})
    return importlib.import_module(request["module"]).main()


def _ended(child, request, places):
    start, handle = time.monotonic(), os.pidfd_open(child)
    remaining = lambda end: max(0, end - (time.monotonic() - start))  # noqa: E731
    is_over = False
    if request["after"]:
        moment, number = request["after"]
        is_over = bool(select.select([handle], [], [], remaining(moment))[0])
        if not is_over:
            os.kill(child, number)
    is_over = is_over or bool(select.select([handle], [], [], remaining(request["timeout"]))[0])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # With whatever it has started itself.
    _, status = os.waitpid(child, 0)
    os.close(handle)
    lines = places["log"].read_text(errors="replace").splitlines()
    return {
        "status": os.waitstatus_to_exitcode(status) if is_over else None,
        "seconds": time.monotonic() - start,
        "out": places["out"].read_text(errors="replace"),
        "err": places["err"].read_text(errors="replace"),
        "operations": [line.split(" ", 2)[1:] for line in lines],
    }
