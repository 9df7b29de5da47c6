"""The GPUs of a machine, dealt out to the runs that go on at a time."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from jaxtickets.errors import UserError

MEMORY = 0.9  # The share of a GPU's memory that the runs on it take together.
FRACTIONS = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")  # JAX refuses both at once.
VISIBLE = "CUDA_VISIBLE_DEVICES"
MPS = "nvidia-cuda-mps-control"


def environments(jobs: int | None, devices_per_job: int = 0, jobs_per_device: int = 0) -> list[dict[str, str]]:
    """The environment variables that each of the parallel runs gets beside the inherited ones.

    Args:
      jobs: the number of runs at a time; None is as many as `jobs_per_device` allows, else 1.
      devices_per_job: the number of GPUs that each run has for itself; 0 deals none out.
      jobs_per_device: the number of runs that share each GPU, and its memory; 0 shares none.

    Raises:
      UserError: one of the numbers is too small, or there are too few GPUs.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs={jobs}: allowed is a whole number of at least 1")
    for flag, value in (("devices_per_job", devices_per_job), ("jobs_per_device", jobs_per_device)):
        if value < 0:
            raise UserError(f"--{flag}={value}: allowed is a whole number of at least 0")
    if jobs_per_device and devices_per_job:
        raise UserError(f"--jobs_per_device={jobs_per_device}: allowed is 0 with --devices_per_job={devices_per_job}")
    if jobs_per_device:
        return _shared(jobs, jobs_per_device)
    jobs = jobs or 1
    if not devices_per_job:
        return [{}] * jobs
    needed = jobs * devices_per_job
    devices = _visible() or [str(device) for device in range(needed)]
    if len(devices) < needed:
        raise UserError(f"--devices_per_job={devices_per_job}: {jobs} jobs need {needed} GPUs, {len(devices)} visible")
    shares = [devices[slot * devices_per_job : (slot + 1) * devices_per_job] for slot in range(jobs)]
    return [{VISIBLE: ",".join(share)} for share in shares]


def _shared(jobs, per_device):
    devices = _visible() or _listed()
    if not devices:
        raise UserError(
            f"--jobs_per_device={per_device}: nvidia-smi lists no GPU here; name them in {VISIBLE}, or leave it out"
        )
    most = per_device * len(devices)
    if jobs is not None and jobs > most:
        given = f"--jobs_per_device={per_device} and {len(devices)} GPUs"
        raise UserError(f"--jobs={jobs}: allowed is at most {most} with {given}")
    name = next((name for name in FRACTIONS if name in os.environ), FRACTIONS[0])
    try:
        share = f"{float(os.environ.get(name) or MEMORY) / per_device:.3f}"
    except ValueError:
        raise UserError(f"{name}={os.environ[name]}: allowed is a number between 0 and 1") from None
    return [{VISIBLE: devices[slot % len(devices)], name: share} for slot in range(jobs or most)]


def leave_to_runs() -> None:
    """Keeps JAX in this process to the CPU, because it would take the memory of the GPUs that the runs train on."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def described(each: Sequence[dict[str, str]], jobs_per_device: int) -> str:
    """How the runs share GPUs, in a line; "" where they share none."""
    if not jobs_per_device:
        return ""
    devices = len({environment[VISIBLE] for environment in each})
    share = next(float(each[0][name]) for name in FRACTIONS if name in each[0])
    how = (
        "CUDA's MPS runs here, and their kernels run beside each other"
        if mps_runs()
        else f"CUDA's MPS does not run here, so they take turns (`{MPS} -d` starts it)"
    )
    on = "one GPU" if devices == 1 else f"{devices} GPUs"
    return f"{len(each)} runs at a time on {on}, each with {share:.1%} of a GPU's memory; {how}"


def mps_runs() -> bool:
    """Whether CUDA's multi-process service runs here, to which CUDA programs connect by themselves."""
    if shutil.which(MPS) is None:
        return False
    try:
        done = subprocess.run([MPS], input="get_server_list\n", capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "Cannot find MPS control daemon" not in done.stdout + done.stderr


def _visible() -> list[str]:
    return [device.strip() for device in os.environ.get(VISIBLE, "").split(",") if device.strip()]


def _listed() -> list[str]:
    """The numbers of the GPUs that nvidia-smi lists."""
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    gpus = [line for line in done.stdout.splitlines() if line.startswith("GPU ")] if done.returncode == 0 else []
    return [str(number) for number in range(len(gpus))]
