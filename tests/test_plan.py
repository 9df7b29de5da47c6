"""Tests of what a start and `--dry_run` say, and of the progress in log files."""

import pytest
from conftest import digests, tiny

from jaxtickets import config as config_lib
from jaxtickets import main
from jaxtickets.errors import UserError
from jaxtickets.progress_lines import Lines, duration
from jaxtickets.runs import dry_run, plan
from jaxtickets.workdir import Workdir


def as_dict(text):
    return {line.split()[0]: line[10:] for line in text.splitlines()}


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A machine on which nothing has been cached or prepared."""
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_dry_run_tells_the_plan_and_writes_nothing(empty):
    config = tiny("gan_digits", str(empty / "tfds"))
    found = as_dict(dry_run(config, empty / "run"))
    assert list(empty.iterdir()) == []
    assert "new" in found["workdir"] and "imp, magnitude" in found["rounds"] and "12 steps" in found["rounds"]
    assert "50, 75, 87.5% sparse" in found["rounds"]
    assert "1,501 training images of 16x16x1" in found["data"]
    assert "digits" in found["fetched"] and str(empty / "tfds") in found["fetched"]
    assert "in the 48 steps to do" in found["FLOPs"] and "matrix products" in found["time"]


@pytest.mark.parametrize("flag", [{"from_round": 0}, {"coordinator": "a:1"}, {"hosts": 1}, {"host": 0}])
def test_flags_that_a_dry_run_does_not_take_into_account_are_refused(empty, monkeypatch, flag):
    given = {"dry_run": True, "from_round": None, "coordinator": None, "hosts": None, "host": None}
    monkeypatch.setattr(main.cli, "start", lambda called, *_, **__: called(None, empty / "run", **given | flag))
    (name, value), *_ = flag.items()
    with pytest.raises(UserError, match=f"--{name}={value}: not allowed with --dry_run"):
        main._command(stop=None)


def test_the_memory_and_the_networks_of_a_dry_run_are_those_of_the_run(base, data_directory, tmp_path):
    setup = base("gan_digits")
    imagined = plan._Imagined(tiny("gan_digits", data_directory))
    images = setup.images.nbytes // len(setup.images) * (len(setup.images) - setup.config.train.batch_size)
    # The labels, and XLA's own alignment, are all that differs beside the images.
    assert abs(setup.step_bytes - imagined.step_bytes - images) < 0.1 * setup.step_bytes
    lines = {line.what: line.text for line in plan.start(setup, Workdir(tmp_path), {0: Workdir(tmp_path)})}
    assert plan._networks(imagined) == lines["networks"]
    assert "1,501 training and 296 held-out images of 16x16x1" in lines["data"]


def test_the_time_of_a_started_run_is_by_its_own_steps(base, data_directory, tmp_path):
    place, config = Workdir(tmp_path / "run"), tiny("gan_digits", data_directory)
    config.eval.features = "digits"
    place.create(config_lib.to_dict(config), config_lib.missing_values(config))
    place.write_rounds([{"round": 0, "steps_per_second": 4.0}, {"round": 1, "steps_per_second": 4.0}])
    before = digests(place.path)
    found = as_dict(dry_run(config, place.path))
    assert found["time"].startswith("6 s of training") and "measured" in found["time"]
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
