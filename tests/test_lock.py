"""A lock that one process holds: its owner may be killed, frozen, out of sight or on another machine."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxtickets import cache, lock
from jaxtickets.errors import UserError

WHAT = "--workdir=runs/a"
HOLD = """
import sys, time
from pathlib import Path
from jaxtickets import lock
with lock.hold(Path(sys.argv[1]), "x"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Beats and silences of fractions of a second."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.02)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run" / ".lock"


@pytest.fixture
def owner(file):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def write(file, **changes):
    """A lock file as this process would write it, with changes."""
    content = lock._identity() | changes
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return content


def test_the_lock_is_a_file_that_says_who_holds_it_and_goes_with_what_was_made_for_it(file):
    with lock.hold(file, WHAT):
        content = json.loads(file.read_text())
        assert content["pid"] == os.getpid() and content["host"] == os.uname().nodename
    assert not file.parent.exists()


def test_a_directory_in_which_something_was_written_stays(file):
    with lock.hold(file, WHAT):
        (file.parent / "config.json").touch()
    assert [path.name for path in file.parent.iterdir()] == ["config.json"]


def test_a_living_owner_is_named_in_one_line(file, owner):
    refused = pytest.raises(UserError, match=rf"^{WHAT}: in use by process {owner.pid} on \S+ since ")
    with refused as caught, lock.hold(file, WHAT):
        pytest.fail("two processes hold the lock")
    assert "\n" not in str(caught.value)
    assert file.exists()


def test_a_second_lock_of_the_same_process_is_refused(file):
    with lock.hold(file, WHAT), pytest.raises(UserError, match=f"process {os.getpid()} "), lock.hold(file, WHAT):
        pytest.fail("one process holds the lock twice")


def test_the_lock_of_a_killed_owner_is_taken_over_at_once_and_said_in_a_line(file, owner, capsys, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 1e6)  # No beat is waited for.
    owner.kill()  # Not waited for: the process is a zombie now.
    while lock._started(owner.pid):
        time.sleep(0.01)
    with lock.hold(file, WHAT):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"jaxtickets: {WHAT}: takes the lock over from process {owner.pid} ")


def test_a_number_that_another_process_has_by_now_is_no_owner(file):
    write(file, started="1")  # This process lives, and has begun at another time.
    with lock.hold(file, WHAT):
        assert json.loads(file.read_text())["started"] == lock._started(os.getpid()) != "1"


@pytest.mark.parametrize("frozen", [False, True])
def test_an_owner_in_sight_is_not_asked_for_its_beat(file, owner, frozen):
    if frozen:
        owner.send_signal(signal.SIGSTOP)
    before = file.read_bytes()
    with pytest.raises(UserError, match="in use"), lock.hold(file, WHAT):
        pytest.fail("two processes hold the lock")
    assert file.read_bytes() == before


def test_an_owner_elsewhere_whose_beat_is_silent_has_ended(file, capsys):
    theirs = write(file, host="node7", boot="another boot", beat=7)
    began = time.monotonic()
    with lock.hold(file, WHAT):
        assert time.monotonic() - began >= lock.SILENCE_SECONDS
        assert json.loads(file.read_text())["token"] != theirs["token"]
    first, second = capsys.readouterr().err.splitlines()
    assert f"{WHAT}: locked by process {theirs['pid']} on node7" in first
    assert f"{WHAT}: takes the lock over from process {theirs['pid']} on node7" in second


def test_an_owner_elsewhere_whose_beat_goes_on_lives(file):
    content, done = write(file, host="node7", boot="another boot"), threading.Event()

    def beat():
        while not done.wait(0.1):
            content["beat"] += 1
            file.write_text(json.dumps(content))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="in use by process .* on node7"), lock.hold(file, WHAT):
            pytest.fail("two processes hold the lock")
    finally:
        done.set()
        thread.join()
    assert json.loads(file.read_text())["token"] == content["token"]


def test_the_beat_of_an_owner_goes_on(file):
    def beat():
        return json.loads(file.read_text())["beat"]

    with lock.hold(file, WHAT):
        size = file.stat().st_size
        while beat() < 3:
            time.sleep(0.01)
        assert file.stat().st_size == size  # A disk that fills up does not stop it.


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"\0" * 9, b'{"pid": "x", "boot": 3}', b'{"pid": 1, "host": "a\\nb", "beat": null}'],
    ids=["empty", "cut", "list", "zeros", "types", "newline"],
)
def test_what_is_no_lock_of_ours_is_watched_and_then_taken_over(file, content, capsys):
    file.parent.mkdir()
    file.write_bytes(content)
    with lock.hold(file, WHAT):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("loss", ["taken over", "deleted"])
def test_an_owner_that_has_lost_its_lock_is_told_and_leaves_the_others_alone(file, loss):
    lines, told = [], threading.Event()

    def lost(line):
        lines.append(line)
        told.set()

    with lock.hold(file, WHAT, lost=lost):
        os.rename(file, file.with_name(".gone"))
        if loss == "taken over":
            write(file, host="node7")
        assert told.wait(60)
    assert ("node7" if loss == "taken over" else "moved or deleted") in lines[0]
    assert file.exists() == (loss == "taken over")


def test_of_many_that_find_a_dead_owner_one_takes_the_lock_over(file):
    """Threads stand for processes: each has a token of its own."""
    write(file, started="1")
    inside, most, errors = [], [], []

    def work():
        try:
            with lock.hold(file, WHAT, waits=True):
                inside.append(None)
                most.append(len(inside))
                time.sleep(0.005)
                inside.pop()
        except BaseException as error:  # noqa: BLE001  (a thread's error would be lost)
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert most == [1] * 8


def test_who_waits_gets_the_lock_once_it_is_given_back(file):
    order, held = [], threading.Event()

    def first():
        with lock.hold(file, WHAT):
            held.set()
            time.sleep(0.2)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with lock.hold(file, WHAT, waits=True):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_a_place_where_no_lock_can_be_made_is_one_line(tmp_path, kind):
    place = tmp_path / "run"
    if kind == "file":
        place.touch()
    else:
        place.mkdir()
        if kind == "link":
            (place / ".lock").symlink_to("nowhere")
        else:
            (place / ".lock").mkdir()
    refused = pytest.raises(UserError, match=f"^{WHAT}: .*; allowed is a directory that can be written$")
    with refused, lock.hold(place / ".lock", WHAT):
        pytest.fail("no lock can be made here")


def test_a_disk_that_is_full_is_no_mistake_of_the_users(file):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught, lock.hold(file, WHAT):
            pytest.fail("the lock can't be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(file) and not file.exists()


def test_a_lock_of_the_cache_keeps_other_processes_out_until_its_block_ends():
    script = "from jaxtickets import cache\nwith cache.lock('a'):\n    print('held', flush=True)\n"
    with cache.lock("a"):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
    assert process.communicate(timeout=60)[0] == "held\n"


def test_a_directory_that_cannot_be_made_is_named_and_not_its_lock():
    with pytest.raises(UserError) as error, lock.hold(Path("/proc/x/.lock"), "--workdir=/proc/x"):
        pytest.fail("there is no such directory")
    allowed = "allowed is a directory that can be written"
    assert str(error.value) == f"--workdir=/proc/x: can't be made (No such file or directory); {allowed}"
