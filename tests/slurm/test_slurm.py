"""Sweeps on a real SLURM, of one node on this machine: `pytest -m slurm -n0`, as root on Debian (`cluster.sh`)."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "faults"))
import comparing  # noqa: E402

pytestmark = pytest.mark.slurm
CLUSTER = Path(__file__).with_name("cluster.sh")
SECONDS = 300  # For all jobs of a sweep.
FLAGS = [
    *("--config.model.width=8", "--config.train.steps=700", "--config.train.log_every=10", "--config.prune.rounds=1"),
    *("--config.train.checkpoint_every=100", "--config.eval.samples=64"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment in which SLURM's clients find the cluster."""
    pytest.importorskip("submitit")
    if os.geteuid():
        pytest.skip("starts daemons as root")
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        subprocess.run([CLUSTER, "install"], check=True)
    directory = tmp_path_factory.mktemp("cluster")
    for path in (directory, *directory.parents):  # The daemons refuse others.
        if path.owner() == "root" and path.stat().st_mode & 0o077 == 0:
            path.chmod(0o755)
    subprocess.run([CLUSTER, "start", directory], check=True)
    yield os.environ | {"SLURM_CONF": str(directory / "slurm.conf"), "JAX_PLATFORMS": "cpu"}
    subprocess.run([CLUSTER, "stop", directory], check=True)


def sweep(sweepdir, data_directory, cluster, *flags, seeds="0,1,2,3"):
    """`(status, output, errors)` of a sweep."""
    config = ["--config=configs/ae_digits.py:quick", f"--grid=seed={seeds}", f"--sweepdir={sweepdir}"]
    command = [sys.executable, "-m", "launch.sweep", *config, *flags, "--", f"--config.data.dir={data_directory}"]
    done = subprocess.run([*command, *FLAGS], cwd=ROOT, env=cluster, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def queued(cluster):
    """`{number: state}` of all jobs that wait or run."""
    command = ["squeue", "--noheader", "--array", "--format=%i %T"]
    return dict(line.split() for line in subprocess.check_output(command, env=cluster, text=True).splitlines())


def wait_for(is_there):
    began = time.monotonic()
    while not is_there():
        assert time.monotonic() - began < SECONDS
        time.sleep(0.2)


def scontrol(cluster, *arguments):
    subprocess.run(["scontrol", *arguments], env=cluster, check=True)


def jobs_of(sweepdir):
    return json.loads((sweepdir / "slurm" / "jobs.json").read_text())


def is_training(workdir):
    path = workdir / "metrics.jsonl"
    return path.exists() and path.read_text().count("\n") > 20


def starts(sweepdir, name):
    """How many times a run was started."""
    return (sweepdir / "logs" / f"{name}.log").read_text().count("$ ")


def assert_same(sweepdir, reference):
    for path in sorted(reference.glob("seed=*")):
        assert not comparing.differences(path, sweepdir / path.name), path.name


@pytest.fixture(scope="module")
def reference(tmp_path_factory, data_directory, cluster):
    """The directory of an uninterrupted sweep of processes on this machine."""
    sweepdir = tmp_path_factory.mktemp("reference") / "sweep"
    status, out, err = sweep(sweepdir, data_directory, cluster, "--jobs=2")
    assert status == 0, out + err
    return sweepdir


def test_a_sweep_whose_jobs_are_requeued_killed_and_out_of_time_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path, data_directory, cluster, reference
):
    sweepdir, flags = tmp_path / "sweep", ("--slurm", "--partition=short", "--time=10", "--setup=export IN_A_JOB=1")
    status, out, err = sweep(sweepdir, data_directory, cluster, *flags)
    assert status == 75, out + err
    jobs = jobs_of(sweepdir)
    assert sorted(jobs) == [f"seed={seed}" for seed in range(4)] and len(set(jobs.values())) == 4
    status, out, _ = sweep(sweepdir, data_directory, cluster, *flags)
    assert status == 75 and "submitted" not in out and jobs_of(sweepdir) == jobs  # All are queued.

    wait_for(lambda: is_training(sweepdir / "seed=0"))
    scontrol(cluster, "requeue", jobs["seed=0"])  # As a preemption does.
    wait_for(lambda: is_training(sweepdir / "seed=1"))
    subprocess.run(["scancel", "--signal=KILL", f"{jobs['seed=1']}.0"], env=cluster, check=True)
    wait_for(lambda: is_training(sweepdir / "seed=2"))
    subprocess.run(["scancel", "--signal=USR1", jobs["seed=2"]], env=cluster, check=True)  # As at the end of its time.
    wait_for(lambda: not queued(cluster))
    assert starts(sweepdir, "seed=0") == 2 and starts(sweepdir, "seed=2") == 2

    status, out, _ = sweep(sweepdir, data_directory, cluster, *flags)
    (line,) = [line for line in out.splitlines() if "submitted" in line]
    assert status == 75 and line.startswith(
        f"seed=1: {jobs['seed=1']} has ended; submitted as {jobs_of(sweepdir)['seed=1']}, "
    )
    wait_for(lambda: not queued(cluster))
    status, out, _ = sweep(sweepdir, data_directory, cluster, *flags)
    assert status == 0 and (sweepdir / "summary.csv").exists()
    assert_same(sweepdir, reference)


def test_points_that_train_together_are_one_job(tmp_path, data_directory, cluster):
    sweepdir = tmp_path / "sweep"
    status, out, err = sweep(sweepdir, data_directory, cluster, "--slurm", "--together=2", seeds="0,1")
    assert status == 75, out + err
    assert list(jobs_of(sweepdir)) == ["seed=0"]
    wait_for(lambda: not queued(cluster))
    assert sweep(sweepdir, data_directory, cluster, "--slurm", "--together=2", seeds="0,1")[0] == 0


@pytest.mark.parametrize(
    "flag, reason",
    [
        ("--partition=none", "Invalid partition name specified"),
        ("--time=soon", "Invalid --time specification"),
        ("--gpus=1", "Invalid generic resource (gres) specification"),
        ("--sbatch=no-such-flag=1", "unrecognized option"),
    ],
)
def test_what_slurm_refuses_is_one_line_and_nothing_is_written(tmp_path, data_directory, cluster, flag, reason):
    status, out, err = sweep(tmp_path / "sweep", data_directory, cluster, "--slurm", flag)
    assert status == 2 and not out and err.count("\n") == 1, err
    assert flag.removeprefix("--sbatch=").partition("=")[2] in err and reason in err
    assert not (tmp_path / "sweep").exists() and not queued(cluster)
