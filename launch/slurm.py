"""The runs of a sweep as jobs of SLURM, submitted through submitit: one job array, one element per process.

A job passes SLURM's signals on to its run, which saves its state and ends. Before its time is over (`GRACE_SECONDS`)
the job queues itself again; where SLURM preempts it or a node fails, SLURM does that. A job that starts again goes on
from the saved state. docs/clusters.md has the commands.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from jaxtickets import files, lock
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path

FOLDER = "slurm"  # In the sweep's directory: submitit's scripts and outputs, and JOBS.
JOBS = "jobs.json"  # The newest job of each process, by the name of its first point.
GRACE_SECONDS = 60  # Before its time is over a job saves and queues itself again.
QUEUES_AGAIN = signal.SIGUSR1
HEARD = (signal.SIGTERM, QUEUES_AGAIN)
OPTIONS = ("partition", "account", "time", "gpus", "setup", "sbatch")
NOT_HERE = ("minutes", "devices_per_job", "jobs_per_device", "retry")  # Flags of runs on this machine.
ROOT = Path(__file__).resolve().parents[1]


class Request(NamedTuple):
    """What each job asks of SLURM.

    Attributes:
      partition, account, time: as sbatch takes them; None is the cluster's default.
      gpus: the number of GPUs.
      setup: lines of shell that come before the run.
      options: further flags of sbatch by name, such as `{"qos": "high"}`.
    """

    partition: str | None = None
    account: str | None = None
    time: str | None = None
    gpus: int = 0
    setup: tuple[str, ...] = ()
    options: Mapping[str, str] = {}

    def flags(self) -> dict[str, str]:
        """The flags of sbatch, by name."""
        chosen = {"partition": self.partition, "account": self.account, "time": self.time}
        gpus = {"gpus-per-node": str(self.gpus)} if self.gpus else {}
        return {name: value for name, value in chosen.items() if value is not None} | gpus | dict(self.options)


def define(defined: flags.FlagValues) -> None:
    """Defines `--slurm` and the flags that describe its jobs; `chosen` reads them."""
    flags.DEFINE_bool("slurm", False, "Submit the runs as jobs of SLURM.", flag_values=defined)
    for name, text in (
        ("partition", "With --slurm: the partition."),
        ("account", "With --slurm: the account."),
        ("time", "With --slurm: the time of a job, as sbatch takes it."),
    ):
        flags.DEFINE_string(name, None, text, flag_values=defined)
    flags.DEFINE_integer("gpus", 0, "With --slurm: the number of GPUs of a job.", flag_values=defined)
    text = "With --slurm: a line of shell that comes before a run, or @FILE."
    flags.DEFINE_multi_string("setup", [], text, flag_values=defined)
    flags.DEFINE_multi_string("sbatch", [], "With --slurm: NAME=VALUE of another flag of sbatch.", flag_values=defined)


def chosen(defined: flags.FlagValues) -> Request | None:
    """What the flags ask of SLURM; None without `--slurm`.

    Raises:
      UserError: one of them can't be read, or does not go with the others.
    """
    apart = NOT_HERE if defined.slurm else OPTIONS
    if given := [name for name in apart if defined[name].present]:
        raise UserError(f"--{given[0]}: {'not allowed' if defined.slurm else 'allowed only'} with --slurm")
    if not defined.slurm:
        return None
    if defined.gpus < 0:
        raise UserError(f"--gpus={defined.gpus}: allowed is a whole number of at least 0")
    lines = []
    for line in defined.setup:
        if line.startswith("@"):
            try:
                lines += local_path(line[1:], "--setup").read_text().splitlines()
            except (OSError, UnicodeDecodeError):
                raise UserError(f"--setup={line}: can't be read; allowed is a line of shell, or @FILE") from None
        else:
            lines.append(line)
    for option in defined.sbatch:
        if not re.fullmatch(r"[a-z][a-z-]*=.+", option):
            raise UserError(f"--sbatch={option}: allowed is NAME=VALUE of a flag of sbatch, such as qos=high")
    options = dict(option.split("=", 1) for option in defined.sbatch)
    return Request(defined.partition, defined.account, defined.time, defined.gpus, tuple(lines), options)


def check(asked: Request) -> None:
    """Refuses what SLURM would not take; nothing is submitted.

    Raises:
      UserError: submitit or SLURM is missing, or SLURM refuses a job with these flags.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError("--slurm: submitit is missing; install it by pip install -e '.[launch]'") from None
    if not all(map(shutil.which, ("sbatch", "srun", "squeue", "scontrol"))):
        raise UserError("--slurm: sbatch is not found; allowed is a machine that submits jobs to SLURM")
    states()  # Where no cluster answers, sbatch would refuse whatever the flags are.
    flags = [f"--{name}={value}" for name, value in asked.flags().items()]
    tried = subprocess.run(["sbatch", "--test-only", *flags, "--wrap=true"], capture_output=True, text=True)
    if tried.returncode:
        given = f" with {shlex.join(flags)}" if flags else ""
        raise UserError(f"--slurm: SLURM refuses jobs{given}: {_reason(tried.stderr)}")


def _reason(text: str) -> str:
    """The last error of one of SLURM's programs, without the program's name."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Try ")]
    return re.sub(r"^\w+: ((error|fatal): )?", "", lines[-1]) if lines else "it does not say why"


def submit(sweepdir: Path, commands: Mapping[str, Sequence[str]], asked: Request, at_once: int) -> dict[str, str]:
    """Submits the commands that no job of the sweep has, in one array.

    Args:
      commands: the command of each process, by name.
      at_once: the most jobs of this array that run at a time; 0 is no limit.

    Returns:
      For each name what its job does: `running as 12_0`, `submitted as 13_1`, ...

    Raises:
      UserError: another process submits the same sweep, or SLURM refuses.
    """
    folder = sweepdir / FOLDER
    with lock.hold(folder / ".lock", f"--sweepdir={sweepdir}"):
        jobs, found = files.read_json(folder / JOBS) or {}, states()
        told = {name: f"{found[job].lower()} as {job}" for name in commands if (job := jobs.get(name)) in found}
        if new := [name for name in commands if name not in told]:
            made = [Job(commands[name], sweepdir / "logs" / f"{name}.log") for name in new]
            numbers = _array(folder, made, asked, at_once)
            for name, number in zip(new, numbers, strict=True):
                again = f"{jobs[name]} has ended; " if name in jobs else ""
                told[name] = f"{again}submitted as {number}"
                jobs[name] = number
            files.replace(folder / JOBS, json.dumps(jobs).encode())
    return told


def states() -> dict[str, str]:
    """The state of each of this user's jobs that wait or run, such as `PENDING`, by the number of the job.

    Raises:
      UserError: SLURM does not answer.
    """
    command = ["squeue", f"--user={os.getuid()}", "--noheader", "--array", "--format=%i %T"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        allowed = "allowed is a machine that submits jobs to SLURM"
        raise UserError(f"--slurm: no cluster answers here; squeue says: {_reason(asked.stderr)}; {allowed}")
    return dict(line.split() for line in asked.stdout.splitlines())


def _array(folder: Path, jobs: Sequence["Job"], asked: Request, at_once: int) -> list[str]:
    """Submits jobs as one array, or alone if it is one; returns their numbers."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(
        job_name=folder.parent.name,
        setup=[f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}", *asked.setup],
        array_parallelism=at_once or len(jobs),
        additional_parameters={
            "requeue": True,
            "signal": f"{QUEUES_AGAIN.name.removeprefix('SIG')}@{GRACE_SECONDS}",
            **asked.flags(),
        },
    )
    try:
        return [job.job_id for job in executor.submit_array(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"--slurm: SLURM refuses the jobs: {_reason(str(error))}") from None


class Job:
    """What submitit calls in a job: a command, whose output goes to a log."""

    def __init__(self, command: Sequence[str], log: Path):
        self._command, self._log = list(command), log.resolve()

    def __call__(self) -> None:
        """Runs the command; ends the process with its exit status if that is not 0.

        In the place of submitit's own handling of signals: that would end this process at once, before the run has
        saved its state.
        """
        came, processes = [], []

        def pass_on(number, frame):
            del frame
            came.append(number)
            for process in processes:
                process.send_signal(number)

        for number in HEARD:
            signal.signal(number, pass_on)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            log.write(f"$ {shlex.join(self._command)}\n".encode())
            log.flush()
            processes.append(
                subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            )
            for number in list(came):
                processes[0].send_signal(number)
            status = processes[0].wait()
        if status and QUEUES_AGAIN in came:
            subprocess.run(["scontrol", "requeue", _own_number()], check=True)
        if status:
            sys.exit(status if status > 0 else 128 - status)


def _own_number() -> str:
    """The number of the job that this process belongs to."""
    array, element = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{element}" if array else os.environ["SLURM_JOB_ID"]
