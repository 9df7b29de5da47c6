"""Tests that configs are found by name, that near names are suggested, and that the commands are installed."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import jaxtickets
from jaxtickets import cli, fields, named_configs
from jaxtickets import config as config_lib
from jaxtickets.data import find
from jaxtickets.errors import UserError
from jaxtickets.names import near

FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def command(*arguments, cwd=ROOT):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    started = [sys.executable, "-m", "jaxtickets", *arguments]
    return subprocess.run(started, capture_output=True, text=True, cwd=cwd, env=environment)


def test_a_config_is_found_by_its_name_and_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_configs.names() == FILES
    assert named_configs.find("gan_digits:quick") == f"{ROOT}/configs/gan_digits.py:quick"
    own = tmp_path / "own.py"
    own.touch()
    assert named_configs.find(f"{own}:quick") == f"{own}:quick"


def test_a_file_of_a_config_s_name_comes_before_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gan_digits").touch()
    assert named_configs.find("gan_digits") == "gan_digits"


@pytest.mark.parametrize("given", ["gan_digit", "configs/gan_digit.py", "gan_digit:quick"])
def test_of_an_unknown_config_the_nearest_name_is_told(given):
    with pytest.raises(UserError, match="did you mean 'gan_digits'"):
        named_configs.find(given)


def test_each_config_is_listed_in_a_line_with_the_first_line_of_its_docstring():
    lines = named_configs.table().splitlines()
    assert [line.split()[0] for line in lines] == FILES
    assert all(re.fullmatch(r"  \w+ +\S.*[.:]", line) for line in lines)
    digits = next(line for line in lines if " gan_digits " in line)
    assert digits.endswith("  Winning tickets in a DCGAN on 1,797 real handwritten digits, on two CPU cores.")


def test_names_are_suggested_only_where_they_are_near():
    assert near("imb", ["imp", "one_shot"]) == "; did you mean 'imp'?"
    assert near("qqq", ["imp"]) == near("imp", ["imp"]) == near(3, ["3.0"]) == ""
    assert near(("fd", "kit"), ["fd", "kid"]) == "; did you mean 'kid'?"
    assert near("prune.rat", ["prune.rate", "prune.score"]) == "; did you mean 'prune.rate'?"
    assert near("prune.sco", ["prune.scope", "prune.score"]) == "; did you mean 'prune.score' or 'prune.scope'?"


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--config.prune.rat=0.3", "config.prune.rat: no such field; did you mean 'prune.rate'?; allowed are prune."),
        ("--config.prun.rate=0.3", "config.prun.rate: no such field; did you mean 'prune.rate'?; `python -m"),
        ("--config.train.step=3", "config.train.step: no such field; did you mean 'train.steps'?; allowed are train."),
        ("--config.sed=3", "config.sed: no such field; did you mean 'seed'?; allowed are experiment, seed, seeds,"),
        ("--workdr=runs/x", "--workdr: no such flag; did you mean 'workdir'?; --help lists all"),
    ],
)
def test_of_an_unknown_field_or_flag_the_nearest_name_is_told(flag, line):
    done = command("--config=gan_digits:quick", flag)
    assert done.returncode == 2 and done.stderr.startswith(f"jaxtickets: {line}")
    assert len(done.stderr.splitlines()) == 1


def test_of_a_section_that_is_no_field_the_fields_are_told():
    with pytest.raises(
        UserError, match="config.transfer: no such field; .*allowed are transfer.of, transfer.components$"
    ):
        config_lib.check_field("transfer")


def test_a_refused_choice_tells_the_nearest_names():
    check = fields.choice({"imp": 1, "one_shot": 2})
    with pytest.raises(UserError, match="config.experiment='oneshot': allowed is one of imp, one_shot; .*'one_shot'"):
        fields.refuse("experiment", "oneshot", check.allowed(), check.names())


def test_a_refused_data_set_tells_the_nearest_names():
    with pytest.raises(UserError, match="'fashion_mist' is unknown; did you mean 'fashion_mnist'"):
        find("fashion_mist").verify()


def test_the_command_lists_configs_tells_its_version_and_refuses_other_words(tmp_path):
    assert command("configs", cwd=tmp_path).stdout == f"{named_configs.table()}\n"
    assert command("--version").stdout == f"jaxtickets {jaxtickets.__version__}\n"
    for words, line in ((["reprot"], "did you mean 'report'"), (["configs", "vae"], "vae: not allowed after configs")):
        refused = command(*words)
        assert refused.returncode == 2 and line in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_the_module_that_runs_an_experiment_is_the_whole_command():
    told = subprocess.run([sys.executable, "-m", "jaxtickets.main", "--version"], capture_output=True, text=True)
    assert told.stdout == f"jaxtickets {jaxtickets.__version__}\n"


def test_of_an_unknown_variant_the_near_one_is_told():
    with pytest.raises(UserError, match="^--config=NAME:quik: no such variant; allowed is NAME:quick, .*'quick'"):
        config_lib.is_quick("quik")


def test_without_a_config_they_are_listed_above_the_line_that_says_so():
    *before, last = command().stderr.splitlines()
    assert "\n".join(before) == cli.configs_help()
    assert last == f"jaxtickets: {cli.NO_CONFIG}"


@pytest.mark.slow
def test_a_wheel_brings_configs_commands_and_the_types_marker(tmp_path):
    """Needs pip and setuptools; no network."""
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    if subprocess.run([sys.executable, *build], capture_output=True).returncode:
        pytest.skip("pip can't build wheels here without a network")
    (wheel,) = tmp_path.glob("*.whl")
    install = ["-m", "pip", "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    site = tmp_path / "site"
    assert sorted(path.stem for path in (site / "jaxtickets" / "configs").glob("*.py")) == FILES
    assert (site / "jaxtickets" / "py.typed").exists() and not (site / "configs").exists()
    assert {"jaxtickets", "jaxtickets-sweep"} <= {path.name for path in (site / "bin").iterdir()}
    listing = "from jaxtickets import named_configs as n; print(n.find('gan_digits'))"
    environment = os.environ | {"PYTHONPATH": str(site)}
    found = subprocess.run(
        [sys.executable, "-c", listing], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert found.stdout.strip() == str(site / "jaxtickets" / "configs" / "gan_digits.py")
