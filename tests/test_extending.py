"""The plug-ins of the documentation, executed, and experiments with what they add, in a process of its own."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPT = """
import sys
from pathlib import Path
from jaxtickets import cost
from jaxtickets.main import run

for block in Path(sys.argv[1]).read_text().split("\\0"):
    exec(block)

def tiny(**changes):
    config = get_config()
    config.data.dir = sys.argv[3]
    config.train.update(batch_size=16, steps=12, log_every=4, checkpoint_every=5)
    config.model.width = 16
    config.prune.update(rounds=2, rate=0.5)
    config.eval.update(samples=64, batch_size=64)
    config.update_from_flattened_dict(changes)
    return config

out = Path(sys.argv[2])
run(tiny(**{"objective.integration_steps": 3}), out / "flow")
changes = {"experiment": "prune_and_tune", "prune.score": "magnitude_per_layer", "data.name": "stripes"}
run(tiny(**changes, **{"eval.metrics": ("mean_distance", "fd"), "eval.features": "rows"}), out / "all")
own = {"objective.name": "vae", "model.name": "conv_vae", "eval.metrics": ("brightness",), "experiment": "dense"}
run(tiny(**own), out / "reconstructions")
print(int(train_alone(tiny(), 20).step))
bad = {"objective.name": "vae", "model.name": "conv_vae", "objective.integration_steps": 3}
try:
    config_lib.validate(tiny(**bad), 1)
except Exception as error:
    print(error, file=sys.stderr)
print(config_lib.readers("objective.integration_steps"), file=sys.stderr)
"""


# The pages whose Python code this is, in the order of its execution, and the heading that it stands below.
PAGES = (
    ("criterion", "## In experiments"),
    ("extending", "## A method"),
    ("data", "## Images that code makes"),
    ("network", "## A network and a game"),
)


def code(page, heading):
    _, _, text = (ROOT / "docs" / f"{page}.md").read_text().partition(f"\n{heading}\n")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def extended(digits_metric, tmp_path_factory, data_directory):
    """The workdirs of two experiments with these plug-ins, and what the process printed on standard error."""
    out = tmp_path_factory.mktemp("extended")
    blocks = [block for page, after in PAGES for block in code(page, after)]
    (out / "blocks").write_text("\0".join(blocks))
    (out / "my_plugins.py").write_text("\n".join(blocks))
    (out / "mine.py").write_text("from my_plugins import get_config\n")
    command = [sys.executable, "-c", SCRIPT, str(out / "blocks"), str(out), data_directory]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stderr
    (out / "stdout").write_text(result.stdout)
    return out, result.stderr


def rows(workdir):
    header, *lines = (workdir / "rounds.csv").read_text().splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def test_a_game_with_a_time_input_from_outside_goes_through_imp(extended):
    flow = extended[0] / "flow"
    assert [float(row["sparsity"]) for row in rows(flow)] == pytest.approx([0, 0.5, 0.75], abs=1e-3)
    assert all(float(row["fd_digits"]) > 0 for row in rows(flow))
    # Two hidden layers of 16 units on 256 pixels and 12 features of the time, and the way back to the pixels.
    weights = (256 + 12) * 16 + 16 * 16 + 16 * 256
    assert float(rows(flow)[0]["flops_dense"]) == 2 * weights
    assert int(rows(flow)[1]["params_kept"]) == weights // 2 + 16 + 16 + 256
    assert (flow / "report.html").exists()
    assert json.loads((flow / "config.json").read_text())["config"]["objective"]["integration_steps"] == 3


def test_a_score_a_method_a_metric_and_a_data_set_from_outside_work_together(extended):
    rounds = rows(extended[0] / "all")
    assert list(rounds[0])[4:6] == ["mean_distance", "fd_rows"]
    assert json.loads((extended[0] / "all" / "verdict.json").read_text())["metric"] == "mean_distance"
    # Each layer keeps about its share: the score is relative to the layer.
    layers = [line.split(",") for line in (extended[0] / "all" / "layers.csv").read_text().splitlines()[1:]]
    shares = [int(kept) / int(weights) for round_, _, weights, kept in layers if round_ == "2"]
    assert max(shares) - min(shares) < 0.15


def test_a_metric_on_reconstructions_from_outside_judges_a_vae(extended):
    (row,) = rows(extended[0] / "reconstructions")
    assert 0 < float(row["brightness"]) < 2


def test_the_loop_trains_without_a_run(extended):
    *_, tenth, twentieth, steps = (extended[0] / "stdout").read_text().splitlines()
    assert tenth.startswith("10 {'loss': ")
    assert twentieth.startswith("20 {'loss': ")
    assert steps == "20"


def test_help_lists_the_fields_that_a_config_file_brings(extended):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(extended[0]), str(ROOT)])}
    command = [sys.executable, "-m", "jaxtickets.main", f"--config={extended[0] / 'mine.py'}", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=extended[0], env=environment)
    assert result.returncode == 0, result.stderr
    assert "objective.integration_steps = 20" in result.stdout


def test_a_field_from_outside_is_refused_where_nobody_reads_it(extended):
    *_, refused, readers = extended[1].strip().splitlines()
    assert refused == (
        "config.objective.integration_steps=3: allowed is 20 with config.objective.name='vae'; "
        "it is read by flow_matching"
    )
    assert readers == "objective.name flow_matching"


def test_fields_from_outside_are_flags_of_a_config_file_that_imports_them(extended):
    flags = [f"--config={extended[0] / 'mine.py'}", "--config.objective.integration_steps=0"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(extended[0]), str(ROOT)])}
    command = [sys.executable, "-m", "jaxtickets.main", *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=extended[0], env=environment)
    assert (result.returncode, result.stderr) == (
        2,
        "jaxtickets: config.objective.integration_steps=0: allowed is a whole number of at least 1\n",
    )


@pytest.mark.slow
def test_a_score_from_outside_is_a_point_of_a_sweep(extended, tmp_path):
    page, how_to = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("extending", "criterion"))
    (tmp_path / "mine.py").write_text(re.search(r"```python\n(# configs/mine.py.*?)```", page, re.DOTALL)[1])
    (command,) = re.findall(r"^python (-m launch.sweep --config=configs/mine.py .*)$", how_to, re.MULTILINE)
    arguments = command.replace("configs/mine.py", "mine.py").split()
    paths = {"PYTHONPATH": os.pathsep.join([str(extended[0]), str(ROOT)])}
    command = [sys.executable, *arguments, "--dry_run"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | paths)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^\S*python\S* .*prune.score=magnitude_per_layer", result.stdout, re.MULTILINE)) == 5
