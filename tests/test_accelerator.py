"""`benchmarks/accelerator.py` measures every part, and goes on after one that fails."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


def measured(tmp_path, *flags):
    out = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/accelerator.py", "--check", f"--out={out}", *flags]
    # As users run it; without XLA's optimizations the feature networks that `rounds` reads take minutes to train.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return result, json.loads(out.read_text())["parts"] if out.exists() else {}


def test_figures_are_written_part_by_part(tmp_path):
    result, parts = measured(tmp_path, "--parts=device,products")
    assert result.returncode == 0, result.stderr
    assert list(parts) == ["device", "products"]
    assert parts["device"]["results"]["versions"]["jax"]
    assert all(one["flops_per_second"] > 0 for one in parts["products"]["results"].values())


def test_a_part_that_does_not_fit_the_time_is_left_out_and_told(tmp_path):
    result, parts = measured(tmp_path, "--parts=device,products", "--minutes=0.0001")
    assert result.returncode == 1
    assert "without all figures: device, products" in result.stderr
    assert all("left out" in part["error"] for part in parts.values())


def test_an_unknown_part_is_named_with_those_allowed(tmp_path):
    result, _ = measured(tmp_path, "--parts=devise")
    assert result.returncode == 2
    assert "devise: allowed are device, products" in result.stderr


@pytest.mark.slow
def test_every_part_runs_at_toy_size(tmp_path):
    result, parts = measured(tmp_path)
    assert result.returncode == 0, result.stderr
    assert not [name for name, part in parts.items() if "error" in part or not part["results"]]
