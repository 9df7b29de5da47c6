"""How commands end, in real processes: one line and a status, whatever their threads do."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import ROOT, load_config

from jaxtickets import ending, lock, main
from jaxtickets.errors import UserError
from jaxtickets.stopping import StoppedError

GOES_ON = "the same command goes on"
SCRIPT = """
import os, signal, sys, threading, time
from pathlib import Path
from jaxtickets import ending, lock
from jaxtickets.errors import DivergenceError, UserError

def stuck():  # In C, as in a compiler: the interpreter runs no handler of a signal before it returns.
    import hashlib
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

def command(stop):
{body}

ending.run(command, lambda: {goes_on!r})
"""


def start(body, within=()):
    """A process whose command is `body`; it is waited for until it says that it is ready."""
    script = SCRIPT.format(body=textwrap.indent(body, "    "), goes_on=GOES_ON)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*within, sys.executable, "-c", script], **pipes)
    if "ready" in body or "stuck" in body:
        assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    """`(status, standard error)`."""
    _, err = process.communicate(timeout=30)
    return process.returncode, err


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ("return", 0, ""),
        ("return 3", 3, ""),
        ("raise DivergenceError('training diverged')", 3, "jaxtickets: training diverged\n"),
        ("raise UserError('config.a=1: allowed is 2')", 2, "jaxtickets: config.a=1: allowed is 2\n"),
        ("open('/nowhere/a')", 1, f"jaxtickets: /nowhere/a: No such file or directory; {GOES_ON}\n"),
        ("raise OSError(28, os.strerror(28))", 1, f"jaxtickets: No space left on device; {GOES_ON}\n"),
        ("raise MemoryError", 1, f"jaxtickets: the memory of this machine is full; {GOES_ON}\n"),
        ("raise KeyboardInterrupt", 130, f"jaxtickets: interrupted; {GOES_ON}\n"),
        ("sys.exit('asked to end')", 1, "jaxtickets: asked to end\n"),
        ("raise BrokenPipeError(32, 'Broken pipe')", 141, ""),
    ],
)
def test_every_end_is_a_line_and_a_status(body, status, line):
    assert end(start(body)) == (status, line)


def test_a_system_that_is_not_supported_is_one_line():
    script = "import os\nfrom jaxtickets import ending\nos.name = 'nt'\nending.run(lambda stop: 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Linux and macOS, and WSL 2 on Windows" in done.stderr


def test_a_bug_shows_its_traceback():
    status, err = end(start("return {}['a']"))
    assert status == 1
    assert err.startswith("Traceback") and err.endswith("KeyError: 'a'\n")


@pytest.mark.parametrize("error", [ValueError("Permission denied"), KeyError("a"), OSError("no number")])
def test_other_errors_are_bugs(error):
    assert ending.failure(error) is None


def test_the_cause_of_an_error_counts():
    error = RuntimeError("saving failed")
    error.__cause__ = OSError(28, "No space left on device", "/runs/a")
    assert ending.failure(error) == "/runs/a: No space left on device"


@pytest.mark.parametrize("body", ["open('/nowhere/a')", "raise UserError('a')", "return {}['a']"])
def test_a_failure_ends_the_process_while_a_thread_waits_for_a_writer_forever(body):
    status, _ = end(start(f"threading.Thread(target=time.sleep, args=(600,)).start()\n{body}"))
    assert status in (1, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_a_process_that_is_stuck_in_c(tmp_path, number):
    process = start(f"with lock.hold(Path({str(tmp_path / 'run' / '.lock')!r}), 'x'):\n    stuck()")
    process.send_signal(number)
    cause = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert end(process) == (128 + number, f"jaxtickets: {cause}; {GOES_ON}\n")
    assert not (tmp_path / "run" / ".lock").exists()


UNWINDS = """
try:
    print("ready", flush=True)
    time.sleep(600)
finally:
    Path({path!r}).touch()
"""


def test_an_interrupt_unwinds_what_is_not_stuck(tmp_path):
    unwound = tmp_path / "unwound"
    process = start(UNWINDS.format(path=str(unwound)))
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 128 + signal.SIGTERM
    assert unwound.exists()


CALLBACK = """
class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(600)
Slow()
time.sleep(600)
"""


def test_an_interrupt_that_a_callback_swallows_ends_the_process_without_a_word_of_it():
    process = start(CALLBACK)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, f"jaxtickets: interrupted; {GOES_ON}\n")


SAVES = """
with stop.saves():
    print("ready", flush=True)
    stop.wait()
    time.sleep(3)
    Path({path!r}).touch()
"""


@pytest.mark.parametrize("thread", ["main", "another"])
def test_what_saves_is_waited_for(tmp_path, thread):
    body = SAVES.format(path=str(tmp_path / "saved"))
    if thread == "another":
        work = textwrap.indent(body, "    ")
        body = (
            f"def work():{work}\nthreading.excepthook = print\nthread = threading.Thread(target=work)\nthread.start()\n"
        )
        body += "thread.join()"
    process = start(body)
    process.send_signal(signal.SIGTERM)
    status, err = end(process)
    assert status == 143
    first, last = err.splitlines()
    assert "saves its state" in first and last == f"jaxtickets: ended by SIGTERM; {GOES_ON}"
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_at_once(tmp_path, first):
    process = start(SAVES.format(path=str(tmp_path / "saved")).replace("sleep(3)", "sleep(600)"))
    process.send_signal(first)
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 128 + first
    assert not (tmp_path / "saved").exists()


def test_a_second_signal_of_a_scheduler_leaves_the_time_to_save(tmp_path):
    process = start(SAVES.format(path=str(tmp_path / "saved")))
    process.send_signal(signal.SIGUSR1)
    process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 128 + signal.SIGUSR1
    assert (tmp_path / "saved").exists()


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored():
    """As a shell starts what goes on in the background of a script."""
    body = "print('ready', flush=True)\ntime.sleep(1)\nreturn 5"
    process = start(body, within=["sh", "-c", "trap '' INT; exec \"$@\"", "sh"])
    process.send_signal(signal.SIGINT)
    assert end(process) == (5, "")


def test_output_that_nobody_reads_does_not_hold_the_end_and_neither_do_more_interrupts():
    process = start("print('ready', flush=True)\nsys.stderr.write('x' * 10**6)")
    time.sleep(0.5)  # Its pipe is full by now.
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert process.wait(timeout=30) == 130
    process.communicate()


# Called from Python.


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """`main.run` of an experiment that calls a function in the place of training."""
    from jaxtickets import latent_space, report, runs

    monkeypatch.setattr(latent_space, "draw", lambda place: None)
    monkeypatch.setattr(report, "build", lambda path: path)
    monkeypatch.setattr(report, "summary", lambda path: "")

    def run(function):
        monkeypatch.setattr(runs, "run", lambda config, path, from_round, stop, hosts: function(path, stop))
        return main.run(load_config("gan_digits"), tmp_path / "run")

    return run


def handlers():
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return wakeup, [signal.getsignal(number) for number in ending.SIGNALS]


def test_a_run_that_is_called_from_python_leaves_signals_as_they_were_and_holds_the_lock(stand_in):
    before = handlers()

    def work(path, stop):
        wakeup, (interrupt, *others) = handlers()
        assert (wakeup, others) == (before[0], before[1][1:]) and callable(interrupt)
        assert (path / ".lock").exists() and not stop.is_set()
        with pytest.raises(UserError, match="in use by"), lock.hold(path / ".lock", "x"):
            pytest.fail("the lock is free")
        return {"message": ""}

    assert stand_in(work) == {"message": ""}
    assert handlers() == before


def test_an_interrupt_of_a_run_in_python_lets_the_training_save_and_the_process_goes_on(stand_in, capsys):
    before, done = handlers(), []

    def work(path, stop):
        with stop.saves():
            signal.raise_signal(signal.SIGINT)
            done.append(stop.is_set())  # Python's own handler would not have come here.

    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        stand_in(work)
    assert done == [True] and handlers() == before
    assert "the training saves its state after this step" in capsys.readouterr().err


def test_a_second_interrupt_in_python_and_one_outside_training_end_the_run_at_once(stand_in):
    def twice(path, stop):
        with stop.saves():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the run goes on")

    def outside(path, stop):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the run goes on")

    for work in (twice, outside):
        with pytest.raises(KeyboardInterrupt):
            stand_in(work)


def test_a_run_in_python_that_ends_because_its_lock_is_lost_is_no_interrupt(stand_in):
    def work(path, stop):
        with stop.saves():
            stop.abort("the lock is lost")

    with pytest.raises(StoppedError):
        stand_in(work)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), UserError("a"), KeyError()]
)
def test_errors_of_a_run_that_is_called_from_python_are_raised_and_give_the_lock_back(stand_in, tmp_path, error):
    def work(path, stop):
        raise error

    with pytest.raises(type(error)) as caught:
        stand_in(work)
    assert caught.value is error
    assert not (tmp_path / "run" / ".lock").exists()


# Config files.

# Each command is a process of its own, but all share the imports, which take seconds.
COMMANDS = """
import os, sys
from jaxtickets import config, main
for file in sys.argv[1:]:
    if not os.fork():
        sys.argv[1:] = [f"--config={file}:quick", "--workdir=run"]
        main.main()
    _, status = os.wait()
    print("status", os.waitstatus_to_exitcode(status), file=sys.stderr, flush=True)
"""
REASONS = {
    "def get_config(variant:": "line 1: SyntaxError: '(' was never closed",
    "x = 1": "has no function get_config, which returns the config (see the files of configs/)",
    "def get_config(variant=''):\n    raise ValueError('two\\nlines')": "line 2: ValueError: two lines",
    "def get_config(variant=''):\n    raise KeyError('a')": "line 2: KeyError: 'a'",
    "import nothing_here": "line 1: ModuleNotFoundError: No module named 'nothing_here'",
    "def get_config(variant=''):\n    pass": "get_config returns None; allowed is a ConfigDict",
    "def get_config(variant=''):\n    return {'a': 1}": "get_config returns {'a': 1}; allowed is a ConfigDict",
    "def get_config():\n    pass": "TypeError: get_config() takes 0 positional arguments but 1 was given",
    "def get_config(_):\n    open('/a')": "line 2: FileNotFoundError: [Errno 2] No such file or directory: '/a'",
    "\0": "SyntaxError: source code string cannot contain null bytes",
}


def test_a_config_file_that_is_wrong_is_named_in_one_line(tmp_path):
    files = [tmp_path / f"{number}.py" for number in range(len(REASONS))]
    for file, content in zip(files, REASONS, strict=True):
        file.write_text(content)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COMMANDS, *files]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    lines = [f"jaxtickets: --config={file}: {reason}" for file, reason in zip(files, REASONS.values(), strict=True)]
    assert done.stderr.splitlines() == [line for one in lines for line in (one, "status 2")]
    assert not (tmp_path / "run").exists()
