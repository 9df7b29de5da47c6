"""Disks that fill up, directories that become read-only or vanish, clocks that jump, and bit-equal repetition.

Refused file operations stand for the disk: `operations.c` lets them fail as the kernel would. Real ones are slow.
"""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from kills import Harness
from warm import OPTIMISED, QUICK, ROOT

SHORT = "autoencoder"  # The experiment.
# Every reading of the clock is an hour before or after the last.
JUMPING_CLOCK = """
import itertools, time
real, signs = time.time, itertools.cycle((-1, 1))
time.time = lambda: real() + 3600 * next(signs)
time.time_ns = lambda: int(time.time() * 1e9)
"""


OFTEN = [
    pytest.param(error, share, marks=pytest.mark.slow)
    for error in (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)
    for share in (0.02, 0.1, 0.25, 0.4, 0.6, 0.8, 0.95)
]


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment")
    with Harness(folder, env=QUICK) as harness:
        if not harness.library:
            pytest.skip("the harness needs Linux and a C compiler")
        yield harness


@pytest.fixture(scope="module")
def learning(tmp_path_factory):
    """A harness whose experiments train feature networks too."""
    with Harness(tmp_path_factory.mktemp("learning"), env=OPTIMISED) as harness:
        yield harness


def same(harness, path):
    """The differences between a workdir and that of the uninterrupted run."""
    return harness.warm.run("comparing", str(harness.whole(SHORT)), str(path)).out


def ends_with_one_line(ended, status=1):
    """Whether a command has failed with a line for its user, and without a stack."""
    return ended.status == status and not ended.has_traceback and ended.last_line.startswith("jaxtickets: ")


@pytest.mark.parametrize(("error", "share"), [(errno.ENOSPC, 0.5), (errno.EROFS, 0.7), *OFTEN])
def test_a_run_whose_directory_can_be_written_no_longer_ends_with_a_line_and_goes_on_bit_equal(
    harness, tmp_path, error, share
):
    path = tmp_path / "run"
    at = int(share * len(harness.operations(SHORT)))
    ended = harness.start(SHORT, path, below=path, action="fail_from", at=at, error=error, timeout=90)
    assert ends_with_one_line(ended), ended
    assert os.strerror(error).lower() in ended.err.lower() or str(path) in ended.err
    ended = harness.start(SHORT, path)
    assert ended.status == 0 and not ended.has_traceback, ended
    assert same(harness, path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_one_refused_operation_costs_no_more_than_the_start_that_it_ends(harness, tmp_path, share):
    path = tmp_path / "run"
    at = int(share * len(harness.operations(SHORT)))
    ended = harness.start(SHORT, path, below=path, action="fail_once", at=at, error=errno.EIO, timeout=90)
    assert ended.status == 0 or ends_with_one_line(ended), ended
    assert harness.start(SHORT, path).status == 0
    assert same(harness, path) == ""


def test_a_second_run_of_the_same_config_and_seed_is_bit_equal_while_the_clock_jumps_by_an_hour(harness, tmp_path):
    path = tmp_path / "run"
    ended = harness.start(SHORT, path, prepare=JUMPING_CLOCK)
    assert ended.status == 0 and not ended.has_traceback, ended
    assert same(harness, path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gan", "vae", "early_bird", "rigl", "at_once"])
def test_the_same_config_and_seed_give_identical_tables_networks_and_samples_twice(learning, tmp_path, name):
    path = tmp_path / "run"
    assert learning.start(name, path).status == 0
    assert learning.warm.run("comparing", str(learning.whole(name)), str(path)).out == ""


@pytest.mark.slow
def test_a_cache_directory_that_becomes_read_only_costs_no_run(harness, tmp_path):
    harness.whole(SHORT)
    path = tmp_path / "run"
    ended = harness.start(SHORT, path, below=harness.cache, action="fail_from", at=1, error=errno.EROFS)
    assert ended.status == 0 and not ended.has_traceback, ended
    assert same(harness, path) == ""


@pytest.mark.slow
def test_an_empty_cache_directory_that_cannot_be_written_is_named_or_done_without(learning, tmp_path):
    cache, path = tmp_path / "cache", tmp_path / "run"
    cache.mkdir()
    how = {"below": cache, "action": "fail_from", "at": 1, "error": errno.EROFS}
    ended = learning.start("gan", path, prepare=f"import os; os.environ['JAXTICKETS_CACHE'] = {str(cache)!r}", **how)
    assert not ended.has_traceback, ended
    assert ended.status == 0 or (ended.status in (1, 2) and str(cache) in ended.last_line), ended


@pytest.mark.slow
def test_a_workdir_that_vanishes_ends_the_run_with_a_line_and_can_come_back(harness, tmp_path):
    path, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    harness.whole(SHORT)

    def move():
        while not (path / "rounds.csv").exists():
            time.sleep(0.002)
        path.rename(elsewhere)

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    ended = harness.start(SHORT, path, timeout=90)
    mover.join(10)
    assert ends_with_one_line(ended), ended
    shutil.rmtree(path, ignore_errors=True)
    elsewhere.rename(path)
    assert harness.start(SHORT, path).status == 0
    assert same(harness, path) == ""


SMALL_DISK = """
set -e
mount -t tmpfs -o size={size}k tmpfs {disk}
set +e
{command}
echo first $? >&2
mount -o remount,size=64m {disk}
{command}
echo second $? >&2
cp -r {disk}/run {kept}
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [60, 160, 300, 420])
def test_a_real_disk_that_is_full_ends_the_run_with_a_line_and_goes_on_once_there_is_room(harness, tmp_path, size):
    allowed = subprocess.run(["unshare", "-rm", "true"], capture_output=True) if shutil.which("unshare") else None
    if allowed is None or allowed.returncode:
        pytest.skip("small disks need `unshare -rm`")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    command = " ".join(map(repr, [sys.executable, "-m", "jaxtickets.main", *harness.flags(SHORT, disk / "run")]))
    script = SMALL_DISK.format(size=size, disk=disk, kept=kept, command=command)
    environment = os.environ | QUICK | {"JAX_PLATFORMS": "cpu", "JAXTICKETS_CACHE": str(harness.cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    ended = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    first, _, rest = ended.stderr.partition("\nfirst ")
    assert rest.startswith("1\n") and "\nsecond 0" in f"\n{rest}", ended.stderr
    assert first.splitlines()[-1].startswith("jaxtickets: ") and "Traceback" not in ended.stderr
    assert same(harness, kept) == ""
