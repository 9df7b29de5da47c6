"""Runs that are interrupted, or whose disk fails, in real processes: they end in one line and go on bit for bit."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, tiny, untimed_rounds, untimed_scalars

from jaxtickets import main, snapshots
from jaxtickets.stopping import Stop
from jaxtickets.workdir import Workdir

GOES_ON, BEGINS_AGAIN = main.GOES_ON, main.BEGINS_AGAIN
# Long enough to be interrupted at any moment of it; nothing is saved within a round unless it is asked for.
FLAGS = [
    *("--config.model.width=4", "--config.train.batch_size=16", "--config.train.steps=400", "--config.prune.rounds=1"),
    *("--config.train.log_every=10", "--config.train.checkpoint_every=0", "--config.eval.samples=64"),
]


def command(workdir, data_directory, *flags):
    start = [sys.executable, "-m", "jaxtickets.main", "--config=configs/ae_digits.py:quick", f"--workdir={workdir}"]
    return [*start, f"--config.data.dir={data_directory}", *FLAGS, *flags]


def start(*arguments, environment=None):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | (environment or {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*arguments), cwd=ROOT, env=environment, **pipes)


def end(process):
    """`(status, lines of standard error)`."""
    _, err = process.communicate(timeout=300)
    assert "Traceback" not in err and "ignored" not in err, err
    return process.returncode, err.splitlines()


def wait_for(process, is_there):
    """Waits until something is there."""
    while not is_there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def logged(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def whole(data_directory, tmp_path_factory):
    """The workdir of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    status, lines = end(start(workdir, data_directory))
    assert status == 0, lines
    return workdir


def assert_goes_on(workdir, whole, data_directory):
    """The same command ends with the bits of the undisturbed run, and leaves nothing beside them."""
    status, lines = end(start(workdir, data_directory))
    assert status == 0, lines
    assert untimed_rounds(workdir) == untimed_rounds(whole)
    assert untimed_scalars(workdir) == untimed_scalars(whole)
    for name in ("verdict.json", "layers.csv", "samples/round_001.png"):
        assert (workdir / name).read_bytes() == (whole / name).read_bytes(), name
    assert not [path for path in workdir.rglob(".*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_training_that_is_asked_to_end_saves_its_step_and_goes_on_bit_for_bit(
    whole, data_directory, tmp_path, number
):
    workdir = tmp_path / "run"
    process = start(workdir, data_directory)
    wait_for(process, lambda: logged(workdir) >= 5)
    process.send_signal(number)
    status, lines = end(process)
    assert status == 128 + number
    cause = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert [line.partition(" (")[0] for line in lines[-2:]] == [
        f"jaxtickets: {cause}: the training saves its state after this step",
        f"jaxtickets: {cause}; {GOES_ON}",
    ]
    (saved,) = (workdir / "snapshots" / "last").glob("[0-9]*")
    steps = [row["step"] for row in untimed_scalars(workdir) if row["round"] == 0]
    # Of the last steps the scalars may not have been logged, but none is done a second time.
    assert steps[-1] <= int(snapshots.restore_raw(saved)["state"]["step"]) < 400
    assert not (workdir / ".lock").exists()
    assert_goes_on(workdir, whole, data_directory)


def test_an_interrupt_while_the_end_of_a_training_is_saved_loses_no_step(data_directory, tmp_path, monkeypatch):
    config, save = tiny("ae_digits", data_directory, **{"train.checkpoint_every": 0}), snapshots.save

    def interrupted(path, tree):
        if path.name == "dense":
            signal.raise_signal(signal.SIGINT)
        save(path, tree)

    monkeypatch.setattr(snapshots, "save", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the state is saved"):
        main.run(config, tmp_path / "run")
    newest = max((tmp_path / "run" / "snapshots" / "last").glob("[0-9]*"))
    assert int(snapshots.restore_raw(newest)["state"]["step"]) == config.train.steps


def test_a_process_that_is_asked_to_end_waits_for_a_save_in_the_background(tmp_path, monkeypatch):
    stop, seen = Stop(), []
    monkeypatch.setattr(snapshots, "save", lambda *_: seen.append(stop.is_awaited))
    states = snapshots.LastState(tmp_path, stop.waits)
    stop.set()
    states.save(0, {}, {}, 1, 0.0)
    states.wait()
    assert seen == [True] and not stop.is_awaited


@pytest.mark.slow
def test_an_interrupt_while_programs_are_compiled_ends_at_once(data_directory, tmp_path):
    workdir, no_cache = tmp_path / "run", {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    process = start(workdir, data_directory, environment=no_cache)
    wait_for(process, lambda: (workdir / "masks" / "000").exists())
    time.sleep(0.3)  # What comes next is the compilation of the step, which takes seconds.
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    status, lines = end(process)
    assert time.monotonic() - began < 30
    assert status == 130
    assert lines[-1] == f"jaxtickets: interrupted; {BEGINS_AGAIN}"
    assert not [line for line in lines if "compiled" in line]
    assert not (workdir / ".lock").exists()


MOMENTS = {
    "compiling": lambda workdir: (workdir / "masks" / "000").exists(),
    "training": lambda workdir: logged(workdir) >= 5,
    "evaluating": lambda workdir: (workdir / "snapshots" / "dense").exists(),
    "writing": lambda workdir: any((workdir / "snapshots").glob(".*.new*")),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_waits_ten_seconds_at_most_and_the_run_goes_on_bit_for_bit(
    whole, data_directory, tmp_path, number, moment
):
    workdir = tmp_path / "run"
    process = start(workdir, data_directory)
    while not MOMENTS[moment](workdir):  # At once: some are short.
        assert process.poll() is None, process.communicate()
    began = time.monotonic()
    process.send_signal(number)
    status, lines = end(process)
    assert time.monotonic() - began < 10
    assert status == 128 + number
    goes_on = GOES_ON if Workdir(workdir).has_saved else BEGINS_AGAIN
    assert lines[-1] == f"jaxtickets: ended by {signal.Signals(number).name}; {goes_on}"
    assert_goes_on(workdir, whole, data_directory)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_an_interrupt_at_any_moment_ends_soon_and_the_run_goes_on_bit_for_bit(whole, data_directory, tmp_path, seed):
    moments = random.Random(seed)
    workdir = tmp_path / "run"
    for _ in range(3):  # Each start goes on from where the one before was interrupted.
        process = start(workdir, data_directory)
        time.sleep(moments.uniform(0, 15))
        if process.poll() is not None:
            break
        began = time.monotonic()
        process.send_signal(moments.choice([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]))
        status, lines = end(process)
        assert time.monotonic() - began < 20
        # Before Python has come to the command, a signal is the interpreter's.
        assert status in (0, 130, 143, 138, -15, -10), lines
        assert not (workdir / ".lock").exists()
    process.communicate()
    assert_goes_on(workdir, whole, data_directory)


@pytest.mark.slow
def test_a_second_process_on_a_workdir_is_refused_and_the_first_goes_on(whole, data_directory, tmp_path):
    workdir = tmp_path / "run"
    first = start(workdir, data_directory)
    wait_for(first, lambda: (workdir / "config.json").exists())
    status, (line,) = end(start(workdir, data_directory))
    assert status == 2
    assert line.startswith(f"jaxtickets: --workdir={workdir}: in use by process {first.pid} on ")
    first.kill()
    first.communicate()
    assert (workdir / ".lock").exists()
    assert_goes_on(workdir, whole, data_directory)


# A disk that fails: a small file system in memory, in a name space of its own.


def in_own_name_space(script, tmp_path, *arguments):
    """Runs a shell script whose directory `$1` is a file system of its own; skips where that is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = "mount -t tmpfs -o size=100m tmpfs"
    allowed = shutil.which("unshare") and subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} {disk}"], capture_output=True
    )
    if not allowed or allowed.returncode:
        pytest.skip("needs the right to mount a file system in a name space of its own")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    whole_script = f'{mount} "$1" && run() {{ "$@"; echo "status $?" >&2; }}\n{script}'
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(["unshare", "-m", "bash", "-c", whole_script, "sh", str(disk), *arguments], **options)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("size", ["200k", "700k"])
def test_a_disk_that_is_full_is_one_line_and_with_more_room_the_run_goes_on(whole, data_directory, tmp_path, size):
    script = f"""
        disk=$1; shift
        mount -o remount,size={size} $disk; run "$@"
        mount -o remount,size=100m $disk; run "$@"
        cp -r $disk/run $disk/../kept
    """
    lines = in_own_name_space(script, tmp_path, *command(tmp_path / "disk" / "run", data_directory))
    first = lines.index("status 1")
    ends = (GOES_ON, "nothing is saved yet, and the same command begins again")
    assert "No space left on device" in lines[first - 1] and lines[first - 1].endswith(ends)
    before = lines[: first - 1]
    assert all(line.startswith(("jaxtickets: ", "round ")) and "No space" not in line for line in before)
    assert lines[-1] == "status 0"
    assert untimed_rounds(tmp_path / "kept") == untimed_rounds(whole)


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("mount -o remount,ro $disk || mount --bind -o ro $disk $disk", "Read-only file system"),
        pytest.param("rm -r $disk/run", "No such file or directory|has gone", marks=pytest.mark.slow),
        pytest.param("mv $disk/run $disk/other", "No such file or directory|has gone", marks=pytest.mark.slow),
    ],
)
def test_a_workdir_that_can_no_longer_be_written_ends_the_run_in_one_line(data_directory, tmp_path, deed, reason):
    script = f"""
        disk=$1; shift
        run "$@" &
        until [ -e $disk/run/snapshots/last/2 ]; do sleep 0.02; done
        {{ {deed}; }} 2> /dev/null
        wait
    """
    flags = ["--config.train.checkpoint_every=20", "--config.train.steps=100000"]
    lines = in_own_name_space(script, tmp_path, *command(tmp_path / "disk" / "run", data_directory, *flags))
    assert lines[-1] == "status 1"
    assert any(part in lines[-2] for part in reason.split("|"))
    start = max(number for number, line in enumerate(lines) if line.startswith("jaxtickets: data: "))
    assert len(lines) - start <= 4  # Of the others one may say that the step is compiled.
