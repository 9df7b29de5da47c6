"""Jobs of SLURM without SLURM: their flags, and how a job passes signals on. On a real one: tests/slurm."""

import signal
import subprocess
import sys
import time

import pytest
from absl import flags
from conftest import ROOT

from jaxtickets.errors import UserError
from launch import slurm, sweep


def chosen(*arguments):
    defined = flags.FlagValues()
    sweep.define_running(defined)
    defined(["sweep", *arguments])
    return slurm.chosen(defined)


def test_flags_and_lines_of_a_file_describe_the_jobs(tmp_path):
    (tmp_path / "setup.sh").write_text("module load cuda\nexport A=1\n")
    asked = chosen(
        *("--slurm", "--partition=gpu", "--account=me", "--time=4:00:00", "--gpus=2", "--sbatch=qos=high"),
        *(f"--setup=@{tmp_path / 'setup.sh'}", "--setup=date"),
    )
    assert asked.setup == ("module load cuda", "export A=1", "date")
    assert asked.flags() == {
        **{"partition": "gpu", "account": "me", "time": "4:00:00", "gpus-per-node": "2", "qos": "high"}
    }
    assert chosen() is None and chosen("--slurm").flags() == {}


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--partition=gpu"], "--partition: allowed only with --slurm"),
        (["--slurm", "--minutes=3"], "--minutes: not allowed with --slurm"),
        (["--slurm", "--gpus=-1"], "--gpus=-1: allowed is a whole number of at least 0"),
        (["--slurm", "--setup=@/no/file"], "--setup=@/no/file: can't be read; allowed is a line of shell, or @FILE"),
        (["--slurm", "--sbatch=high"], "--sbatch=high: allowed is NAME=VALUE of a flag of sbatch, such as qos=high"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(arguments, line):
    with pytest.raises(UserError) as error:
        chosen(*arguments)
    assert str(error.value) == line


def test_without_submitit_or_slurm_a_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"^--slurm: submitit is missing; install it by pip install -e '\.\[launch\]'$"):
        slurm.check(chosen("--slurm"))
    monkeypatch.setitem(sys.modules, "submitit", slurm)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="^--slurm: sbatch is not found; allowed is a machine that submits jobs to"):
        slurm.check(chosen("--slurm"))


def test_where_no_cluster_answers_the_line_is_slurms_own_and_blames_no_flag(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", slurm)
    said = (
        "squeue: error: fetch_config: DNS SRV lookup failed\nsqueue: fatal: Could not establish a configuration source"
    )
    for name in ("sbatch", "srun", "squeue", "scontrol"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as error:
        slurm.check(chosen("--slurm", "--partition=gpu"))
    assert str(error.value) == (
        "--slurm: no cluster answers here; squeue says: Could not establish a configuration source; allowed is a "
        "machine that submits jobs to SLURM"
    )


RUN = """
import pathlib, signal, sys, time
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: sys.exit(128 + number))
pathlib.Path("began").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("number, requeued", [(signal.SIGUSR1, "requeue 7_1\n"), (signal.SIGTERM, "")])
def test_a_job_passes_signals_on_and_queues_itself_again_before_its_time_is_over(tmp_path, number, requeued):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    (tmp_path / "requeued").touch()
    job = f"from launch.slurm import Job; Job([{sys.executable!r}, '-c', {RUN!r}], Path('logs/a.log'))()"
    environment = {
        **{"PATH": f"{tmp_path}:/bin:/usr/bin", "PYTHONPATH": str(ROOT)},
        **{"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"},
    }
    command = [sys.executable, "-c", f"from pathlib import Path; {job}"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    while not (tmp_path / "began").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert (tmp_path / "requeued").read_text() == requeued
    assert (tmp_path / "logs" / "a.log").read_text().startswith("$ ")
