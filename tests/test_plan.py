"""Tests of what a start and `--dry_run` say, and of the progress in log files."""

import subprocess
import sys

import jax
import pytest
from conftest import ROOT, digests, environment, tiny, untrained_run

from jaxtickets import config as config_lib
from jaxtickets import main, runs, snapshots
from jaxtickets.errors import UserError
from jaxtickets.progress_lines import Lines, duration
from jaxtickets.runs import Networks, Setup, dry_run, memory, plan
from jaxtickets.workdir import Workdir


def as_dict(text):
    return {line.split()[0]: line[10:] for line in text.splitlines()}


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A machine on which nothing has been cached or prepared."""
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_dry_run_tells_the_plan_and_writes_nothing(empty, capsys):
    config = tiny("gan_digits", str(empty / "tfds"))
    found = as_dict(dry_run(config, empty / "run"))
    why, how_long = capsys.readouterr().err.splitlines()
    assert "compiled, which takes some seconds" in why and "compiled the train step in" in how_long
    assert list(empty.iterdir()) == []
    assert "new" in found["workdir"] and "imp, magnitude" in found["rounds"] and "12 steps" in found["rounds"]
    assert "50, 75, 87.5% sparse" in found["rounds"]
    assert "1,501 training images of 16x16x1" in found["data"]
    assert "decoded once" in found["fetched"] and "digits are trained once" in found["fetched"]
    assert "in the 39 steps to do" in found["FLOPs"] and "matrix products" in found["time"]


def test_the_command_compiles_without_jax_s_compilation_cache(empty, monkeypatch):
    monkeypatch.setattr(runs, "dry_run", lambda *_: str(jax.config.jax_enable_compilation_cache))
    told = []
    monkeypatch.setattr("jaxtickets.progress.show", told.append)
    before = jax.config.jax_enable_compilation_cache
    try:
        main.plan(None, empty / "run")
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
    assert told == ["False"]


@pytest.mark.slow
def test_a_dry_run_writes_nothing_where_the_environment_names_a_compilation_cache(empty):
    named = {"JAX_COMPILATION_CACHE_DIR": str(empty / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    flags = [
        "--config=ae_digits:quick",
        f"--workdir={empty / 'run'}",
        f"--config.data.dir={empty / 'tfds'}",
        "--dry_run",
    ]
    called = [sys.executable, "-m", "jaxtickets.main", *flags]
    done = subprocess.run(called, cwd=ROOT, env=environment(**named), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("flag", [{"from_round": 0}, {"coordinator": "a:1"}, {"hosts": 1}, {"host": 0}])
def test_flags_that_a_dry_run_does_not_take_into_account_are_refused(empty, monkeypatch, flag):
    given = {"dry_run": True, "from_round": None, "coordinator": None, "hosts": None, "host": None}
    monkeypatch.setattr(main.cli, "start", lambda called, *_, **__: called(None, empty / "run", **given | flag))
    (name, value), *_ = flag.items()
    with pytest.raises(UserError, match=f"--{name}={value}: not allowed with --dry_run"):
        main._command(stop=None, started=[])


@pytest.fixture
def uncompiled(monkeypatch):
    """Dry runs that compile and time nothing."""
    monkeypatch.setattr(plan, "_memory", lambda *_: "")
    monkeypatch.setattr(plan, "_products_per_second", lambda: 1e9)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The workdir of a run with two tickets that looks finished."""
    path = tmp_path_factory.mktemp("source")
    config = tiny("ae_digits", str(path / "tfds"), **{"prune.sparsities": (0.5, 0.9)})
    place = untrained_run(config, path / "run")
    snapshots.save(place.snapshot("rewind"), snapshots.restore_raw(place.snapshot("init")))
    for round_ in (1, 2):
        snapshots.save_masks(place.masks(round_), Networks(config).dense_masks)
    return place


def of(source, experiment, **changes):
    """The config of controls, or of a transfer, whose own fields ask for another number of rounds."""
    more = {"experiment": experiment, f"{experiment}.of": str(source.path), **changes}
    return tiny("ae_digits", str(source.path.parent / "tfds"), **more)


@pytest.mark.parametrize(("experiment", "steps"), [("branch", "about 24"), ("transfer", "the 36")])
@pytest.mark.parametrize("rounds", [1, 6])
def test_the_rounds_of_controls_and_transfers_are_those_of_their_source(
    empty, uncompiled, source, experiment, steps, rounds
):
    config = of(source, experiment, **{"prune.rounds": rounds})
    found = as_dict(dry_run(config, empty / "run"))
    assert f"in {steps} steps to do" in found["FLOPs"]
    place = Workdir(empty / "run")
    place.create(config_lib.to_dict(config), config_lib.missing_values(config))
    place.write_rounds([{"round": 0, "steps_per_second": None}])
    assert "where 1 of 3 rounds have finished" in as_dict(dry_run(config, place.path))["workdir"]
    assert not (empty / "cache").exists() and not (source.path.parent / "tfds").exists()


def test_a_dry_run_refuses_a_source_that_the_run_refuses(empty, source):
    with pytest.raises(UserError, match="train.batch_size"):
        dry_run(of(source, "branch", **{"train.batch_size": 8}), empty / "run")
    config = of(source, "branch")
    config.branch.of = str(empty)
    with pytest.raises(UserError, match=r"branch\.of=.* allowed is the workdir of a finished run"):
        dry_run(config, empty / "run")
    assert list(empty.iterdir()) == []


def test_a_dry_run_refuses_to_take_up_a_run_whose_snapshots_are_gone(empty, uncompiled):
    config = tiny("ae_digits", str(empty / "tfds"))
    place = Workdir(empty / "run")
    place.create(config_lib.to_dict(config), config_lib.missing_values(config))
    place.write_rounds([{"round": round_, "steps_per_second": None} for round_ in range(4)])
    place.write_verdict({})
    assert "where 4 of 4 rounds" in dry_run(config, place.path)
    config.prune.rounds = 5
    with pytest.raises(UserError, match="prune.rounds.*snapshots and masks are gone"):
        dry_run(config, place.path)


def test_a_dry_run_refuses_more_tickets_on_a_device_than_fit(empty, monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda devices: 1)
    monkeypatch.setattr(Setup, "step_bytes", 10)
    config = tiny("ae_digits", str(empty / "tfds"), seeds=2, tickets_per_device=2)
    with pytest.raises(UserError, match="tickets_per_device=2: allowed is 1"):
        dry_run(config, empty / "run")


def test_the_memory_and_the_networks_of_a_dry_run_are_those_of_the_run(base, data_directory, tmp_path):
    setup = base("gan_digits")
    imagined = plan.Imagined(tiny("gan_digits", data_directory))
    images = setup.images.nbytes // len(setup.images) * (len(setup.images) - setup.config.train.batch_size)
    # The labels, and XLA's own alignment, are all that differs beside the images.
    assert abs(setup.step_bytes - imagined.step_bytes - images) < 0.1 * setup.step_bytes
    lines = {line.what: line.text for line in plan.start(setup, Workdir(tmp_path), {0: Workdir(tmp_path)}, {0: 4})}
    assert plan._networks(imagined) == lines["networks"]
    assert "1,501 training and 296 held-out images of 16x16x1" in lines["data"]


def test_the_time_of_a_started_run_is_by_its_own_steps(base, data_directory, tmp_path):
    place, config = Workdir(tmp_path / "run"), tiny("gan_digits", data_directory)
    config.eval.features = "digits"
    place.create(config_lib.to_dict(config), config_lib.missing_values(config))
    place.write_rounds([{"round": 0, "steps_per_second": 4.0}, {"round": 1, "steps_per_second": 4.0}])
    before = digests(place.path)
    found = as_dict(dry_run(config, place.path))
    assert found["time"].startswith("4 s of training") and "measured" in found["time"]
    assert "where 2 of 4 rounds have finished" in found["workdir"]
    assert digests(place.path) == before


def test_lines_come_in_growing_intervals_with_the_time_that_is_left():
    now, written = [0.0], []
    lines = Lines(written.append, clock=lambda: now[0])
    lines.start_round("round 1 (50.0% sparse)")
    now[0] += 300  # Compiling counts for nothing.
    for step in range(1, 101):
        now[0] += 1
        lines.update(step, 100, {"generator_loss": 0.5}, 100 + step, 300)
    assert written[0] == (
        "round 1 (50.0% sparse): step 11 of 100, generator loss 0.500, 1 steps/s, 89 s left of the round, 3 min of all"
    )
    assert len(written) == 9
    now[0] += 1e3
    lines.update(100, 100, {}, 300, 300)  # What is measured after the last step is not known.
    assert written.pop().endswith(" steps/s")
    now[0] += 1e6
    lines.update(100, 100, {}, 200, 300)
    now[0] += 599
    lines.update(100, 100, {}, 200, 300)
    assert len(written) == 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (7200, "2 h 0 min"), (3 * 86400 + 3600, "3 d 1 h")],
)
def test_durations_are_told_in_words(seconds, text):
    assert duration(seconds) == text
