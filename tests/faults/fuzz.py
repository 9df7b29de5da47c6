"""Fuzzing of everything that reads what somebody else may have written: `python tests/faults/fuzz.py --cases=100000`.

Each case is a valid input with a few seeded mutations. Reading it must end in one of two ways: it is accepted, or it is
refused by a `UserError` of one printable line. Everything else is a failure: another exception, a dead process, more
than `SECONDS` of time or `GROWTH` bytes of memory, a file written elsewhere, a process started, a connection opened.
Case n of a target depends on the seed, the target and n alone; the files of each failure are saved with its traceback.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # The other tests' writers of small valid files.

import watching  # noqa: E402
from targets import TARGETS  # noqa: E402

from jaxtickets.errors import UserError  # noqa: E402

SECONDS, GROWTH, MEMORY = 60, 256 << 20, 8 << 30
MEASURED = 16  # Cases between two looks at the memory, which take a millisecond.
AT_MOST = 20  # Failures of one target after which it is left.
ACCEPTED, REFUSED = "accepted", "refused"


class Case(NamedTuple):
    """What became of a case: `ACCEPTED`, `REFUSED` with its line, or what went wrong."""

    outcome: str
    detail: str = ""

    @property
    def failed(self) -> bool:
        return self.outcome not in (ACCEPTED, REFUSED)


class _TooLong(BaseException):
    """A case took too long. No reader catches it."""


def seeded(seed: int, target: str, number: int) -> random.Random:
    """The generator of a case's mutations."""
    return random.Random(f"{seed} {target} {number}")


def judge(read: Callable[[Path], object], folder: Path) -> Case:
    """Calls `read(folder)`, and says how it ended."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), watching.writes(folder) as seen:
        try:
            case = _judged(read, folder)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if not case.failed and seen:
        case = Case("reached out", "\n".join(seen))
    if not case.failed and (line := next((s for s in said.getvalue().splitlines() if not s.isprintable()), None)):
        case = Case("unprintable", repr(line))
    return case


def _judged(read, folder):
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        read(folder)
    except UserError as error:
        text = str(error)
        return Case(REFUSED, text) if text.isprintable() and text else Case("no line", repr(text))
    except _TooLong:
        return Case("too long", traceback.format_exc())
    except Exception as error:
        return Case(type(error).__name__, traceback.format_exc())
    return Case(ACCEPTED)


def watch_the_clock() -> None:
    """Makes `judge` end cases that take too long, from now on."""

    def too_long(*_):
        raise _TooLong

    signal.signal(signal.SIGALRM, too_long)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Files:
    """The files of a case, in a folder of their own; what is there already is not written again."""

    def __init__(self, folder: Path):
        self.folder, self._there, self._number = folder, {}, 0

    def write(self, content: dict[str, bytes]) -> None:
        for name in self._there.keys() - content.keys():
            (self.folder / name).unlink(missing_ok=True)
            del self._there[name]
        for name, wanted in content.items():
            path = self.folder / name
            if self._there.get(name) is not wanted or not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wanted)
                # Two cases may come within the resolution of the clock.
                self._number += 1
                os.utime(path, ns=(0, self._number * 10**9))
                self._there[name] = wanted


def run(name: str, cases: int, seed: int, folder: Path, save: Path | None = None, note: Path | None = None) -> dict:
    """Runs cases 0, 1, ... of a target.

    Args:
      folder: an empty directory for their files.
      save: where the files of failures are saved.
      note: a file for the number of the case that goes on, for somebody who finds this process dead.

    Returns:
      {"cases", "accepted", "refused", "failures": [(number, what, detail)], "seconds", "memory": bytes of growth}.
    """
    target, files = TARGETS[name], Files(folder)
    make = target.make()
    counts, failures, start, least = {ACCEPTED: 0, REFUSED: 0}, [], time.monotonic(), _peak()
    peak = least
    watch_the_clock()
    number = -1
    for number in range(cases):
        files.write(make(seeded(seed, name, number)))
        if note is not None:
            note.write_text(str(number))
        case = judge(target.read, folder)
        if number % MEASURED == MEASURED - 1 and (peak := max(peak, before := peak, _peak())) > before + GROWTH:
            case = Case("memory", f"{peak - before:,} bytes in one of the last {MEASURED} cases")
        if not case.failed:
            counts[case.outcome] += 1
            continue
        failures.append((number, case.outcome, case.detail))
        if save is not None:
            keep(save / f"{name}-{number}", folder, case)
        if len(failures) == AT_MOST:
            break
    return {
        "cases": number + 1,
        **counts,
        "failures": failures,
        "seconds": time.monotonic() - start,
        "memory": _peak() - least,
    }


def keep(place: Path, folder: Path, case: Case) -> None:
    """Saves the files of a failure, and what went wrong."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, symlinks=True)
    (place / "FAILURE").write_text(f"{case.outcome}\n{case.detail}\n", errors="backslashreplace")


# The command line.


def main() -> int:
    """Prints a table with one row per target; the status is 1 if there were failures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="The number of all cases (default: 10000).")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TARGETS), help="Some targets, joined by commas (default: all).")
    parser.add_argument("--save", type=Path, default=Path("fuzz_failures"), help="Where failures are saved.")
    parser.add_argument("--target", help=argparse.SUPPRESS)  # This process is the one that runs it.
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.target:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        watching.install()
        work, note = given.folder / "files", given.folder / "note"
        print(json.dumps(run(given.target, given.cases, given.seed, work, given.save, note)))
        return 0
    names = given.only.split(",")
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"--only={','.join(unknown)}: allowed are {', '.join(TARGETS)}")
    shares = {name: TARGETS[name].share for name in names}
    print(
        f"{'target':<12}{'cases':>9}{'accepted':>10}{'refused':>9}{'failures':>10}{'memory [MB]':>13}{'per second':>12}"
    )
    totals, failures = [0] * 4, []
    for name, share in shares.items():
        found = _in_process(name, max(1, round(given.cases * share / sum(shares.values()))), given)
        numbers = [found["cases"], found[ACCEPTED], found[REFUSED], len(found["failures"])]
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
        failures += [(name, *failure) for failure in found["failures"]]
        print(
            _row(name, numbers, f"{found['memory'] / 1e6:.0f}", f"{found['cases'] / found['seconds']:.0f}"), flush=True
        )
    print(_row("all", totals, "", ""))
    for name, number, what, detail in failures:
        print(f"{name} {number}: {what}: {(detail.strip().splitlines() or [''])[-1][:200]}")
    if failures:
        print(f"their files: {given.save}")
    return 1 if failures else 0


def _row(name, numbers, memory, speed):
    cases, accepted, refused, failures = (f"{number:,}" for number in numbers)
    return f"{name:<12}{cases:>9}{accepted:>10}{refused:>9}{failures:>10}{memory:>13}{speed:>12}"


def _in_process(name, cases, given):
    """Runs a target in a process of its own, which may die."""
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=fast) as folder:
        folder = Path(folder)
        (folder / "files").mkdir()
        (folder / "cache").mkdir()
        command = [sys.executable, __file__, f"--target={name}", f"--folder={folder}", f"--cases={cases}"]
        command += [f"--seed={given.seed}", f"--save={given.save.absolute()}"]
        environment = os.environ | {"JAXTICKETS_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
        environment |= dict.fromkeys(("MPLCONFIGDIR", "TFDS_DATA_DIR", "TMPDIR"), str(folder / "cache"))
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder / "files")
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        note = folder / "note"
        number = int(note.read_text()) if note.exists() else -1
        what = f"the process died with status {done.returncode}"
        keep(given.save / f"{name}-{number}", folder / "files", Case(what, done.stderr))
        failure = (number, what, done.stderr)
        seconds = time.monotonic() - start
        return {"cases": number + 1, ACCEPTED: 0, REFUSED: 0, "failures": [failure], "seconds": seconds, "memory": 0}


if __name__ == "__main__":
    sys.exit(main())
