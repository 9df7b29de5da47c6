"""Runs that are killed at a file operation, or at any moment, end as if they had not been; the long form is slow."""

import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
from kills import EXPERIMENTS, Harness, Kill
from warm import ACTIONS, HERE, OPTIMISED, QUICK, library

OPERATIONS = """
import ctypes, os, sys
folder, action, at = sys.argv[1], int(sys.argv[2]), ctypes.c_long(int(sys.argv[3]))
ctypes.CDLL(None).faults_arm(folder.encode(), action, at, 0, -1)
os.write(os.open(f"{folder}/a", os.O_WRONLY | os.O_CREAT), b"12345678")
os.mkdir(f"{folder}/b")
os.write(os.open(f"{folder}/c", os.O_WRONLY | os.O_CREAT), b"12345678")
"""
SHORT = "autoencoder"  # The experiment.


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    with Harness(folder, env=QUICK) as harness:
        if not harness.library:
            pytest.skip("the harness needs Linux and a C compiler")
        yield harness


def numbers(operations, what, path):
    """The numbers of the operations of that name whose path contains `path`."""
    return [number for number, one in enumerate(operations, 1) if one[0] == what and path in one[1]]


def test_a_run_killed_where_it_renames_writes_and_removes_ends_bit_equal(harness):
    """The rename and the removal of the middle of the run, the write of the first row of a round, and one at random."""
    operations, rng = harness.operations(SHORT), random.Random(0)
    renames, removals = (numbers(operations, what, "snapshots/last") for what in ("rename", "rmdir"))
    kills = [
        Kill("before", renames[len(renames) // 2]),
        Kill("torn", numbers(operations, "write", ".rounds")[0]),
        Kill("after", (removals or renames)[-1]),
        Kill("after", rng.randrange(1, len(operations))),
    ]
    chain = harness.chain(SHORT, kills)
    assert chain.died and not chain.found


def test_the_harness_sees_a_difference_and_a_leftover(harness, tmp_path):
    whole, other = harness.whole(SHORT), tmp_path / "other"
    shutil.copytree(whole, other)
    compared = harness.warm.run("comparing", str(whole), str(other))
    assert (compared.status, compared.out) == (0, "")
    (other / ".rounds-1.csv").touch()
    table = other / "rounds.csv"
    header, first, rest = table.read_text().split("\n", 2)
    table.write_text("\n".join([header, f"{first}1", rest]))
    weights = next((other / "weights").iterdir())
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    lines = harness.warm.run("comparing", str(whole), str(other)).out.splitlines()
    assert sorted(line.split(":")[0] for line in lines) == [".rounds-1.csv", "rounds.csv", f"weights/{weights.name}"]


@pytest.mark.parametrize(("action", "at", "left"), [("before", 4, None), ("after", 4, b""), ("torn", 5, b"1234")])
def test_a_process_is_killed_at_the_operation_that_was_asked_for(tmp_path, action, at, left):
    if not (preload := library(tmp_path)):
        pytest.skip("the harness needs Linux and a C compiler")
    folder = tmp_path / "in"
    folder.mkdir()
    command = [sys.executable, "-c", OPERATIONS, str(folder), str(ACTIONS[action]), str(at)]
    assert subprocess.run(command, env={"LD_PRELOAD": str(preload)}).returncode == -signal.SIGKILL
    assert (folder / "a").read_bytes() == b"12345678" and (folder / "b").is_dir()
    assert ((folder / "c").read_bytes() if (folder / "c").exists() else None) == left


@pytest.mark.slow
def test_a_hundred_kills_of_every_experiment_end_bit_equal(tmp_path):
    command = [sys.executable, str(HERE / "kills.py"), "--kills=100", f"--folder={tmp_path}"]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | OPTIMISED)
    assert ended.returncode == 0, ended.stdout
    assert all(name in ended.stdout for name in EXPERIMENTS)
