"""The command line in real processes, which are really killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest
from conftest import ROOT, environment

from jaxtickets import cache, cli
from jaxtickets import config as config_lib
from jaxtickets.errors import UserError

SMALL = [
    "--config.model.width=4",
    "--config.train.batch_size=16",
    "--config.train.log_every=10",
    "--config.train.checkpoint_every=20",
    "--config.train.steps=60",
    "--config.prune.rounds=2",
    "--config.eval.samples=64",
]


def start(workdir, data_directory, *flags, config="configs/gan_digits.py:quick", devices=1):
    command = [sys.executable, "-m", "jaxtickets.main", f"--config={config}", f"--workdir={workdir}", *flags]
    # A proxy that does not exist cuts the process off from the network.
    no_network = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command.append(f"--config.data.dir={data_directory}")
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(devices, **no_network),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def states_saved(workdir):
    last = workdir / "snapshots" / "last"
    return [entry for entry in last.iterdir() if entry.name.isdigit()] if last.exists() else []


@pytest.fixture(scope="module")
def whole(digits_metric, data_directory, tmp_path_factory):
    """An undisturbed run: its workdir, standard output and standard error."""
    workdir = tmp_path_factory.mktemp("whole") / "workdir"
    return workdir, *finish(start(workdir, data_directory, *SMALL))


def test_a_run_ends_with_the_table_the_verdict_and_the_place_of_the_report(whole):
    workdir, out, err = whole
    assert out.startswith("fd_digits: Frechet distance in digits features")
    assert [line for line in out.splitlines() if line.startswith("round  sparsity %")]
    assert json.loads((workdir / "verdict.json").read_text())["message"] in out
    assert out.strip().splitlines()[-1] == f"Report: {workdir / 'report.html'}"
    assert (workdir / "report.html").stat().st_size > 10_000
    assert {path.name for path in (workdir / "plots").iterdir()} >= {"curve_generator_loss.svg", "layers.svg"}
    # Without a terminal there is no bar: one line for the compilation and one per round, beside other notices.
    assert [line.split(":")[0] for line in err.splitlines() if line.startswith("round")] == [
        "round 0",
        "round 1",
        "round 2",
    ]
    assert "\r" not in err
    assert "\x1b" not in err


def test_a_killed_process_goes_on_and_ends_with_the_same_masks_bit_for_bit(whole, data_directory, tmp_path):
    workdir = tmp_path / "workdir"
    for _ in range(2):
        saved = set(states_saved(workdir))
        process = start(workdir, data_directory, *SMALL)
        while process.poll() is None and set(states_saved(workdir)) <= saved:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(workdir, data_directory, *SMALL))
    compare = [sys.executable, "-c", COMPARE, str(whole[0]), str(workdir)]
    result = subprocess.run(compare, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1:] == ["same"], result.stdout + result.stderr
    assert (workdir / "verdict.json").read_bytes() == (whole[0] / "verdict.json").read_bytes()


COMPARE = """
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file
import orbax.checkpoint as ocp
first, second = map(Path, sys.argv[1:])
checkpointer = ocp.StandardCheckpointer()
import jax
for name in ("masks/001", "masks/002", "snapshots/rewind"):
    trees = [jax.tree.leaves(checkpointer.restore((path / name).resolve())) for path in (first, second)]
    assert len(trees[0]) == len(trees[1]) > 0
    for ours, theirs in zip(*trees):
        np.testing.assert_array_equal(ours, theirs)
print("same")
"""


def test_from_round_runs_a_round_again(whole, data_directory):
    workdir, *_ = whole
    before = (workdir / "verdict.json").read_bytes()
    _, err = finish(start(workdir, data_directory, *SMALL, "--from_round=2"))
    assert [line.split(":")[0] for line in err.splitlines() if line.startswith("round")] == ["round 2"]
    assert (workdir / "verdict.json").read_bytes() == before


def test_a_run_on_eight_devices_prunes_as_many_weights_as_on_one(whole, data_directory, tmp_path):
    out, _ = finish(start(tmp_path / "workdir", data_directory, *SMALL, devices=8))
    kept = [line.split()[:3] for line in out.splitlines()[2:5]]
    assert kept == [line.split()[:3] for line in whole[1].splitlines()[2:5]]
    assert len(json.loads((tmp_path / "workdir" / "config.json").read_text())["devices"]) == 8


def test_celeba_without_a_network_names_the_alternatives(tmp_path):
    process = start(tmp_path / "workdir", tmp_path / "tfds", config="configs/gan_celeba.py")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert out == ""
    last = err.strip().splitlines()[-1]
    for part in ("celeb_a", "--config.data.name=synthetic_faces", "files:PATH", ":quick"):
        assert part in last
    assert "Traceback" not in err
    assert not (tmp_path / "workdir").exists()


def test_help_names_every_flag_and_field_and_needs_no_config():
    command = [sys.executable, "-m", "jaxtickets.main", "--help"]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "\nRuns one experiment: `python -m jaxtickets.main --config=" in result.stdout
    lines = result.stdout.splitlines()
    for flag in ("config", "workdir", "from_round"):
        assert f"  --{flag}" in lines
    for name, field in config_lib.fields().items():
        assert f"  {name} = {field.default!r}" in lines
    assert max(map(len, lines[1:])) <= 110


def test_the_page_of_fields_has_one_row_per_field_with_its_story():
    tables = [line for line in cli.fields_page().splitlines() if line.startswith("| `")]
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in tables]
    older = " Runs from before this field go on with {!r}."
    stories = {
        name: field.help
        + (f" {field.may_change.help}" if field.may_change else "")
        + ("" if field.before is None else older.format(field.before))
        for name, field in config_lib.fields().items()
    }
    assert rows == [
        [f"`{name}`", f"`{field.default!r}`", field.check.allowed(), stories[name], config_lib.readers(name)]
        for name, field in config_lib.fields().items()
    ]


def test_a_number_that_is_none_is_named():
    flags = ["--config=configs/gan_digits.py", "--from_round=two"]
    command = [sys.executable, "-m", "jaxtickets.main", *flags]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert (result.returncode, result.stderr) == (2, "jaxtickets: --from_round=two: allowed is a whole number\n")


PRINT = """
import sys
from jaxtickets import cli
cli.start(lambda config, path: print(config.prune.sparsities, config.seed))
"""


def started(*arguments, home):
    command = [sys.executable, "-c", PRINT, *arguments]
    environment = os.environ | {"HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def test_of_a_field_that_is_given_twice_the_last_value_counts(tmp_path):
    shutil.copy(ROOT / "configs" / "gan_digits.py", tmp_path / "mine.py")
    values = ("(0.5,0.8)", "(0.9,)")
    fields = [f"--config.prune.sparsities={value}" for value in values]
    done = started("--config=~/mine.py:quick", *fields, "--config.seed=1", "--config.seed=2", home=tmp_path)
    assert done.stdout.split("\n")[0] == "(0.9,) 2", done.stderr


def test_a_config_that_is_a_url_is_one_line(tmp_path):
    done = started("--config=gs://bucket/mine.py", home=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("jaxtickets: --config=gs://bucket/mine.py: is a URL; ")


def test_a_mistake_in_the_config_waits_for_no_import_of_what_only_a_run_needs():
    slow = ("matplotlib", "orbax", "tensorflow_datasets", "scipy.stats", "sklearn", "tensorboardX")
    script = f"import sys, jaxtickets.main; print([name for name in {slow} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "[]\n"


def test_a_run_waits_for_no_import_of_what_only_its_report_needs():
    script = (
        "import sys, jaxtickets.runs; print([name for name in ('matplotlib', 'scipy.stats') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "[]\n"


@pytest.fixture
def programs():
    """Sets the directory of compiled programs for the length of a test."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield lambda path: jax.config.update("jax_compilation_cache_dir", path)
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_programs_are_kept_in_the_cache_directory_or_where_the_user_says(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))
    for chosen, expected in ((None, str(tmp_path / "cache" / "xla")), ("elsewhere", "elsewhere")):
        programs(chosen)
        cache.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == expected


def test_a_cache_directory_that_cannot_be_written_keeps_no_programs_and_is_named_where_it_is_needed(
    programs, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "file" / "cache"))
    programs(None)
    cache.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    with pytest.raises(UserError, match="file/cache/data: Not a directory; .*JAXTICKETS_CACHE"):
        cache.directory("data")
