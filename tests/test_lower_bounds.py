"""The oldest versions that setup.py allows, all at once: they install, and an experiment and the core's tests run."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

UV = shutil.which("uv")
TESTS = ("masks", "selection", "scores", "train", "storage", "trained", "report", "data")


@pytest.mark.slow
@pytest.mark.skipif(UV is None or sys.version_info[:2] != (3, 11), reason="needs uv, on Python 3.11")
def test_the_oldest_versions_that_setup_py_allows_pass_the_tests_of_the_core(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    install = [UV, "pip", "install", "--quiet", "--python", str(python), "--resolution", "lowest-direct"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX", "PYTEST"))}
    environment |= {"JAXTICKETS_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    for command in (
        [UV, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")],
        [*install, "--editable", f"{ROOT}[test]"],
        [str(python), "-m", "jaxtickets.main", "--config=configs/gan_digits.py:quick", f"--workdir={tmp_path / 'run'}"]
        + ["--config.train.steps=60", "--config.prune.rounds=1"],
        [str(python), "-m", "pytest", "-q", "-n0", *(f"tests/test_{name}.py" for name in TESTS)],
    ):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
