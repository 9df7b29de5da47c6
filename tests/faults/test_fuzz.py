"""A short run of each target of `fuzz.py`, and that it sees what it should."""

import os
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
import watching
from targets import TARGETS

from jaxtickets.errors import UserError

SHORT = {"overrides": 12, "workdirs": 20, "reports": 1}
HERE = Path(__file__).parent


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_inputs_are_accepted_or_refused_in_a_line(target, tmp_path):
    found = fuzz.run(target, SHORT.get(target, 60), seed=0, folder=tmp_path)
    assert found["failures"] == []
    assert found["accepted"] + found["refused"] == found["cases"] > 0


def failing(error):
    def read(folder):
        raise error

    return read


def test_a_case_fails_unless_it_is_accepted_or_refused_in_one_printable_line(tmp_path, monkeypatch):
    monkeypatch.setattr(UserError, "__str__", Exception.__str__)
    assert fuzz.judge(lambda folder: None, tmp_path).outcome == fuzz.ACCEPTED
    assert fuzz.judge(failing(UserError("no")), tmp_path) == (fuzz.REFUSED, "no")
    for error in (KeyError("x"), MemoryError(), UserError("two\nlines"), UserError("\x1b[31m"), UserError("")):
        assert fuzz.judge(failing(error), tmp_path).failed
    assert fuzz.judge(lambda folder: print("\x1b[31m"), tmp_path).outcome == "unprintable"


def test_a_case_that_takes_too_long_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 0.05)
    fuzz.watch_the_clock()

    def forever(folder):
        while True:
            try:
                os.stat(folder)
            except Exception:
                continue

    assert fuzz.judge(forever, tmp_path).outcome == "too long"


WATCHED = """
import os, pickle, socket, subprocess, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import watching
watching.install()
inside, outside = map(Path, sys.argv[2:])
calls = [
    lambda: (inside / "a").write_text("x"),
    lambda: (inside / "a").rename(inside / "b"),
    lambda: tempfile.mkdtemp(),
    lambda: (outside / "there").read_text(),
    lambda: (outside / "a").write_text("x"),
    lambda: (outside / "there").open("a").close(),
    lambda: (inside / "b").rename(outside / "b"),
    lambda: (outside / "there").unlink(),
    lambda: os.mkdir(outside / "d"),
    lambda: os.symlink("x", outside / "l"),
    lambda: open(inside / ".." / "outside" / "c", "w").close(),
    lambda: os.system("true"),
    lambda: subprocess.run(["true"]),
    lambda: pickle.loads(b"cbuiltins\\nlen\\n."),
    lambda: socket.create_connection(("127.0.0.1", 9), 1),
]
for call in calls:
    with watching.writes(inside) as seen:
        try:
            call()
        except OSError:
            pass
    print(int(bool(seen)), end="")
"""


def test_writes_elsewhere_processes_connections_and_code_of_pickles_are_seen(tmp_path):
    inside, outside, own = tmp_path / "inside", tmp_path / "outside", tmp_path / "own"
    for folder in (inside, outside, own):
        folder.mkdir()
    (outside / "there").write_text("x")
    environment = os.environ | {"TMPDIR": str(own), "JAXTICKETS_CACHE": str(own)}
    command = [sys.executable, "-c", WATCHED, str(HERE), str(inside), str(outside)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "0000" + 11 * "1", done.stdout


def test_a_listing_tells_changes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = watching.listing(tmp_path)
    (tmp_path / "a" / "x").write_text("22")
    assert watching.listing(tmp_path) != before


def test_cases_are_the_same_each_time_and_differ_among_each_other(tmp_path):
    make = TARGETS["archives"].make()
    cases = [make(fuzz.seeded(0, "archives", number)) for number in range(20)]
    assert cases == [make(fuzz.seeded(0, "archives", number)) for number in range(20)]
    assert len({tuple(case.items()) for case in cases}) > 15


def test_the_command_prints_a_table(tmp_path):
    command = [sys.executable, str(HERE / "fuzz.py"), "--cases=40", "--only=pickles,archives", f"--save={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    heading, first, second, total = (line.split() for line in done.stdout.splitlines())
    assert heading[:5] == ["target", "cases", "accepted", "refused", "failures"]
    assert (first[0], second[0], total[:2]) == ("pickles", "archives", ["all", "40"])
