"""One run on several hosts: processes on this machine, each with CPU devices of its own, over gloo."""

import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Client

import jax
import numpy as np
import pytest
from conftest import ROOT, environment, load_config, tiny, untimed_rounds
from jax.experimental import multihost_utils

from jaxtickets import hosts, links, snapshots
from jaxtickets.errors import UserError
from jaxtickets.runs import Setup
from jaxtickets.stopping import Stop

FLAGS = [
    *("--config=configs/ae_digits.py:quick", "--config.model.width=4", "--config.train.batch_size=16"),
    *("--config.train.steps=16", "--config.prune.rounds=1", "--config.eval.samples=64"),
    *("--config.train.log_every=1", "--config.train.checkpoint_every=4"),
]
WITHIN = 60  # Seconds after the end of one host in which the other has ended.


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(workdir, data_directory, *flags, devices=2, more=None, program=("-m", "jaxtickets.main")):
    command = [sys.executable, *program, *FLAGS, f"--workdir={workdir}", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    own = environment(devices, **(more or {}))
    return subprocess.Popen([*command, f"--config.data.dir={data_directory}"], cwd=ROOT, env=own, **pipes)


def start_both(workdir, data_directory, *flags, of_second=()):
    """Two hosts; the second one sees nothing of the first one's workdir."""
    together = [f"--coordinator=127.0.0.1:{free_port()}", "--hosts=2", *flags]
    second = workdir.with_name("another_host")
    return [
        start(workdir, data_directory, *together, "--host=0"),
        start(second, data_directory, *together, "--host=1", *of_second),
    ]


def end(process, seconds=300):
    """`(status, this program's lines of standard error)`."""
    _, err = process.communicate(timeout=seconds)
    assert "Traceback" not in err, err
    return process.returncode, [line for line in err.splitlines() if line.startswith("jaxtickets: ")]


def wait_for_step(workdir, process, rows=5):
    path = workdir / "metrics.jsonl"
    while not (path.exists() and path.read_text().count("\n") >= rows):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def assert_same(workdir, whole):
    """Equal masks, and numbers that are equal but for rounding."""
    rounds = untimed_rounds(workdir), untimed_rounds(whole)
    assert len(rounds[0]) == len(rounds[1]) == 2
    for ours, theirs in zip(*rounds, strict=True):
        assert float(ours["reconstruction_error"]) == pytest.approx(float(theirs["reconstruction_error"]), rel=1e-4)
        assert ours["sparsity"] == theirs["sparsity"]
    for round_ in ("000", "001"):
        masks = [snapshots.restore_raw(path / "masks" / round_) for path in (workdir, whole)]
        assert masks[0].keys() == masks[1].keys()
        assert all(np.array_equal(masks[0][name], masks[1][name]) for name in masks[0])


@pytest.fixture(scope="module")
def whole(data_directory, tmp_path_factory):
    """The workdir of one process with four devices."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    status, lines = end(start(workdir, data_directory, devices=4))
    assert status == 0, lines
    return workdir


@pytest.mark.slow
def test_two_hosts_of_two_devices_have_the_numbers_of_one_with_four(whole, data_directory, tmp_path):
    workdir = tmp_path / "run"
    both = start_both(workdir, data_directory)
    assert [end(process)[0] for process in both] == [0, 0]
    assert_same(workdir, whole)
    assert (workdir / "report.html").exists()
    assert not (tmp_path / "another_host").exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_of_two_hosts_one_is_killed_the_other_ends_with_a_line_and_both_go_on(whole, data_directory, tmp_path, killed):
    workdir = tmp_path / "run"
    both = start_both(workdir, data_directory)
    wait_for_step(workdir, both[0])
    both[killed].kill()
    status, lines = end(both[1 - killed], WITHIN)
    # JAX aborts a process whose host 0 has gone, if it is faster; with lines of its own beside this one.
    assert status == 1 or (killed == 0 and status == -signal.SIGABRT)
    told = [line for line in lines if "has gone; start the same command on all hosts again" in line]
    assert len(told) == 1 or status == -signal.SIGABRT
    both[killed].communicate()
    both = start_both(workdir, data_directory)
    assert [end(process)[0] for process in both] == [0, 0]
    assert_same(workdir, whole)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_host_ends_both_with_the_state_saved(whole, data_directory, tmp_path, asked):
    workdir = tmp_path / "run"
    both = start_both(workdir, data_directory, "--config.train.checkpoint_every=0")
    wait_for_step(workdir, both[0])
    both[asked].send_signal(signal.SIGTERM)
    assert [end(process, WITHIN)[0] for process in both] == [143, 143]
    # The newest: host 0 learns of a signal to the other within a second, in which it may have gone on to round 1.
    saved = max((workdir / "snapshots" / "last").glob("[0-9]*"))
    assert int(snapshots.restore_raw(saved)["state"]["step"]) >= 4
    both = start_both(workdir, data_directory, "--config.train.checkpoint_every=0")
    assert [end(process)[0] for process in both] == [0, 0]
    assert_same(workdir, whole)


@pytest.mark.slow
def test_hosts_that_are_to_run_different_things_end_in_one_line_before_anything_starts(data_directory, tmp_path):
    both = start_both(tmp_path / "run", data_directory, of_second=["--config.train.steps=17"])
    for process in both:
        status, lines = end(process)
        assert status == 2
        # A loaded machine may say first that it waits.
        assert [line for line in lines if "waiting for" not in line] == [
            "jaxtickets: host 1 (there) and host 0 (here) are to run different things: config.train.steps is 17 there "
            "and 16 here; allowed are equal hosts, or --hosts=1 for a run of its own"
        ]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_follower_whose_disk_is_full_ends_both_hosts_with_a_line(data_directory, tmp_path):
    fails = "from jaxtickets import main; from jaxtickets.runs import following\n"
    fails += "def full(*_): raise OSError(28, 'No space left on device')\n"
    fails += "following._take_part = full; main.main()"
    together = [f"--coordinator=127.0.0.1:{free_port()}", "--hosts=2"]
    leader = start(tmp_path / "run", data_directory, *together, "--host=0")
    follower = start(tmp_path / "run", data_directory, *together, "--host=1", program=("-c", fails))
    status, lines = end(follower)
    assert status == 1 and [line for line in lines if "No space left on device" in line], lines
    status, lines = end(leader, WITHIN)
    assert status == 1
    assert [line for line in lines if "has ended with exit status 1, and says why" in line]


@pytest.mark.slow
def test_host_0_that_nobody_joins_ends_in_one_line(tmp_path):
    waits = "from jaxtickets import hosts, main; hosts.START_SECONDS = 2; main.main()"
    together = [f"--coordinator=127.0.0.1:{free_port()}", "--hosts=2", "--host=0"]
    status, lines = end(start(tmp_path / "run", "", *together, program=("-c", waits)))
    assert status == 2
    assert lines == [
        "jaxtickets: waiting for another host, for 2 s at most",
        "jaxtickets: not all hosts have come within 2 s; start the same command on all of them",
    ]
    assert not list(tmp_path.iterdir())


# In one process.


def test_a_host_that_does_not_answer_is_named_and_waited_for_in_words(monkeypatch, capsys):
    monkeypatch.setattr(hosts, "START_SECONDS", 0.1)
    arguments = {"coordinator_address": f"127.0.0.1:{free_port()}", "num_processes": 2, "process_id": 1}
    with pytest.raises(
        UserError, match=r"^--coordinator=127.0.0.1:\d+: host 0 does not answer there \(Connection refused"
    ):
        hosts._say_who_is_awaited(arguments)
    assert "waiting for host 0 at 127.0.0.1:" in capsys.readouterr().err
    with pytest.raises(UserError, match="host 0 does not answer there"):
        hosts._say_who_is_awaited(arguments | {"coordinator_address": "no.such.host.invalid:80"})


def of_flags(coordinator=None, count=None, number=None):
    return hosts._arguments(coordinator, count, number)


@pytest.mark.parametrize(
    "flags, line",
    [
        (("a:1", 2, None), "--host is missing; --coordinator=HOST:PORT, --hosts=N and --host=I go together"),
        ((None, 2, 0), "--coordinator is missing; --coordinator=HOST:PORT, --hosts=N and --host=I go together"),
        (("a:1", 2, 2), "--host=2: allowed are 0 to 1, with --hosts=2"),
        (("a:1", 0, 0), "--hosts=0: allowed is a whole number of at least 1"),
        (("a", 2, 0), "--coordinator=a: allowed is HOST:PORT of host 0, the same on all hosts"),
        (("a:99999", 2, 0), "--coordinator=a:99999: allowed is HOST:PORT of host 0, the same on all hosts"),
    ],
)
def test_a_mistake_in_the_flags_of_several_hosts_is_one_line(flags, line):
    with pytest.raises(UserError) as error:
        of_flags(*flags)
    assert str(error.value) == line


def test_tasks_of_slurm_and_workers_of_a_tpu_pod_are_several_hosts_unless_a_flag_says_one(monkeypatch):
    assert of_flags() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert of_flags() == {} and of_flags(count=1) is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert of_flags() is None
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    assert of_flags() == {}


@pytest.mark.parametrize(
    "name, changes, line",
    [
        ("ae_digits", {"seeds": 2, "tickets_per_host": 2}, "config.tickets_per_host=2: allowed is 1 on several hosts"),
        (
            "ae_digits",
            {"seeds": 2, "tickets_per_device": 2},
            "config.tickets_per_device=2: allowed is 1 on several hosts",
        ),
        (
            "early_bird_vae",
            {},
            "config.experiment='early_bird': allowed is a method without a search on several hosts",
        ),
        (
            "ae_digits",
            {"experiment": "at_init", "prune.structure": "channel", "prune.score": "filter_l1"},
            "config.prune.structure='channel', whose networks differ in size, is not allowed on several hosts",
        ),
        (
            "ae_digits",
            {"experiment": "branch", "branch.of": "runs/ae", "branch.kind": "dense_short"},
            "config.branch.kind='dense_short', whose networks differ in size, is not allowed on several hosts",
        ),
        (
            "ae_digits",
            {"train.log_every": -1},
            "config.train.log_every=-1: allowed is a whole number of at least 1",
        ),
    ],
)
def test_mistakes_and_what_does_not_run_on_several_hosts_yet_are_refused_before_a_host_waits_for_others(
    name, changes, line
):
    config = load_config(name)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error, hosts.joined(config, "127.0.0.1:1", 2, 0, Stop()):
        pass
    assert str(error.value) == line


def test_one_host_alone_is_none():
    with hosts.joined(load_config("ae_digits"), None, None, None, Stop()) as together:
        assert together is None


KEY = bytes(32)


@pytest.mark.parametrize("status", [1, 2])
def test_the_leader_ends_with_a_line_when_a_follower_has_ended_by_itself(status):
    own, other = Pipe()
    told = threading.Event()
    lines = []
    stop = Stop(abort=lambda line: (lines.append(line), told.set()))
    link = links.Link(own, "host 1 (b)", stop, leads=True)
    other.send((links.END, status))
    assert told.wait(10)
    assert lines == [f"host 1 (b) has ended with exit status {status}, and says why"]
    other.close()
    assert link.gone.wait(10)
    assert len(lines) == 1


def test_a_leader_that_has_ended_its_followers_takes_their_status_for_no_news():
    own, other = Pipe()
    lines = []
    link = links.Link(own, "host 1 (b)", Stop(abort=lines.append), leads=True)
    link.end(1)
    other.send((links.END, 1))
    other.close()
    assert link.gone.wait(10)
    assert lines == []


def test_a_connection_that_says_nothing_keeps_no_host_waiting_and_the_port_is_closed_once_all_have_come():
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    came = {}
    accepting = threading.Thread(target=lambda: came.update(links.accepted(server, KEY, 1, 20)))
    with socket.create_connection(("127.0.0.1", port)):
        accepting.start()
        with links.reached(["127.0.0.1"], port, KEY) as connection:
            connection.send((1, "b", {"config": {}}))
            accepting.join(10)
            assert not accepting.is_alive()
            assert came[1][1:] == ("b", {"config": {}})
    with pytest.raises(OSError):
        Client(("127.0.0.1", port), authkey=KEY)


def test_hosts_that_do_not_come_in_time_are_a_line_of_the_leader():
    with pytest.raises(UserError, match="^not all hosts have reached host 0; allowed is a network without a firewall"):
        links.accepted(socket.create_server(("127.0.0.1", 0)), KEY, 1, 0.2)


def test_a_follower_whose_leader_gives_up_before_all_have_come_ends_in_one_line(monkeypatch):
    server = socket.create_server(("127.0.0.1", 0))
    told = links.packed(KEY, server.getsockname()[1], "127.0.0.1:1")
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda _: told)
    leader = threading.Thread(target=lambda: links.accepted(server, KEY, 1, 20)[1][0].close())
    leader.start()
    with pytest.raises(UserError) as error:
        hosts._connected(load_config("ae_digits"), "127.0.0.1:1", Stop())
    leader.join()
    assert str(error.value) == "host 0 has ended before all hosts had come together, and says why"


def test_a_network_that_the_other_hosts_do_not_have_is_no_setup_of_theirs(data_directory):
    config = tiny("ae_digits", data_directory)
    whole = Setup(config, hosts=hosts.Hosts(0, tuple(jax.devices()), {}))
    assert Setup(config, like=whole).hosts is whole.hosts
    config.model.width -= 1
    with pytest.raises(ValueError, match="the other hosts train the programs of the run's own config only"):
        Setup(config, like=whole)
