"""A sweep runs each grid point once, whatever happens to the others."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import load_config

from jaxtickets import cli
from jaxtickets.config import to_dict
from jaxtickets.errors import UserError
from jaxtickets.workdir import Workdir
from launch import directory, paper, running
from launch.devices import environments
from launch.grid import combinations, split_values
from launch.points import directory_name, points
from launch.sweep import TIME_OVER, main, sweep

ROOT = Path(__file__).resolve().parents[1]

# A program that takes main's flags, counts its copies that run at once, and writes a finished workdir or fails.
STAND_IN = """
import json, os, pathlib, sys
flags = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
here = pathlib.Path(__file__).parent
active = here / "active"
active.mkdir(exist_ok=True)
mine = active / workdir.name
mine.touch()
with (here / "calls").open("a") as calls:
    calls.write(f"{workdir.name} {len(list(active.iterdir()))} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
seed = int(flags["config.seed"])
try:
    if seed == 666:
        print("step 1")
        sys.exit("jaxtickets: config.seed=666: allowed is another one")
    workdir.mkdir(parents=True, exist_ok=True)
    config = json.loads((here / "config.json").read_text())
    for name, value in flags.items():
        if name.startswith("config."):
            *groups, field = name.split(".")[1:]
            group = config[groups[0]] if groups else config
            group[field] = type(group[field])(value)
    (workdir / "config.json").write_text(json.dumps({"config": config}))
    columns = "round,sparsity,sparsity_all,density,fd,train_seconds"
    (workdir / "rounds.csv").write_text(f"{columns}\\n0,0,0,1,{10 + seed},2\\n1,0.5,0.5,0.5,{9 + seed},2\\n")
    if seed != 99:
        verdict = {"metric": "fd", "dense": 10 + seed, "threshold": 11 + seed, "winning_round": 1, "sparsity": 0.5,
                   "value": 9 + seed, "message": "Round 1 wins."}
        (workdir / "verdict.json").write_text(json.dumps(verdict))
finally:
    mine.unlink()
"""


# A program that trains: it moves the clock of the sweep, logs a step, and ends, or waits to be ended.
TRAINING = """
import json, os, pathlib, signal, sys
flags = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
workdir, here = pathlib.Path(flags["workdir"]), pathlib.Path(__file__).parent
workdir.mkdir(parents=True, exist_ok=True)
config = json.loads((here / "config.json").read_text()) | {"seed": int(flags["config.seed"])}
(workdir / "config.json").write_text(json.dumps({"config": config}))
ends, steps, ignores = (os.environ[name.upper()] for name in ("ends", "steps", "ignores"))
signal.signal(signal.SIGTERM, signal.SIG_IGN if ignores == "yes" else lambda *_: os._exit(143))
if ends == "well":
    verdict = {"metric": "fd", "dense": 1, "threshold": 1, "winning_round": None, "message": "No round."}
    (workdir / "verdict.json").write_text(json.dumps(verdict))
clock = here / "clock"
(here / "new").write_text(str(float(clock.read_text()) + float(os.environ["SECONDS_OF_RUN"])))
with (workdir / "metrics.jsonl").open("a") as log:
    log.write("{}\\n" * int(steps))
os.replace(here / "new", clock)
if ends == "never":
    signal.pause()
if ends == "badly":
    sys.exit("out of luck")
"""


class Place:
    """A directory with a config file, the stand-in program and a sweep."""

    def __init__(self, path):
        self.path = path
        self.sweepdir = path / "sweep"
        self.config = str(path / "config.py")
        Path(self.config).write_text((ROOT / "configs" / "gan_digits.py").read_text())
        (path / "stand_in.py").write_text(STAND_IN)
        (path / "config.json").write_text(json.dumps(to_dict(load_config("gan_digits"))))

    def sweep(self, *grid, **options):
        command = (sys.executable, str(self.path / "stand_in.py"))
        return sweep(f"{self.config}:quick", grid, self.sweepdir, command=command, **options)

    def calls(self):
        file = self.path / "calls"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def summary(self):
        with (self.sweepdir / "summary.csv").open() as file:
            return list(csv.DictReader(file))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_every_combination_is_a_point_named_by_its_values():
    names = [directory_name(values) for values in combinations(["seed=0,1", "prune.rate=0.2,0.5"])]
    assert names == ["seed=0,prune.rate=0.2", "seed=0,prune.rate=0.5", "seed=1,prune.rate=0.2", "seed=1,prune.rate=0.5"]


def test_values_split_at_top_level_commas_only():
    assert split_values("(generator,),(generator,discriminator)") == ["(generator,)", "(generator,discriminator)"]
    assert split_values("""'a,b',"c,(",[1,(2,3)]""") == ["'a,b'", '"c,("', "[1,(2,3)]"]


def test_directory_names_are_safe_for_file_systems():
    name = directory_name({"prune.components": "('generator', 'x/../y')", "rate": "1e-3"})
    assert name == "prune.components=generator_x_.._y,rate=1e-3"


@pytest.mark.parametrize(
    "grid",
    [["seed"], ["=1"], ["seed="], ["seed=1,,2"], ["a b=1"], ["seed=(1,2"], ["seed=1)"], ["seed='1"], ["s=(1]"]],
)
def test_a_grid_that_cannot_be_read_is_refused(grid):
    with pytest.raises(UserError, match="--grid"):
        combinations(grid)


def test_a_field_given_twice_is_refused():
    with pytest.raises(UserError, match="twice"):
        combinations(["seed=1", "config.seed=2"])


def test_two_points_with_one_directory_are_refused(place):
    with pytest.raises(UserError, match="^--grid: two points have the directory x=a_b; leave one out, or"):
        points(place.config, place.sweepdir, grid=["x=a/b,a:b"])


def test_devices_are_shared_out_without_overlap(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environments(2) == [{}, {}]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments(2, 2)] == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments(3, 1)] == ["4", "6", "7"]
    with pytest.raises(UserError, match="4 GPUs"):
        environments(2, 2)


def test_a_sweep_runs_every_point_and_summarises_it(place, capsys):
    assert place.sweep("seed=0,1", "prune.rate=0.2", extra=["--config.tolerance=0.2"]) == 0
    assert [row["config.seed"] for row in place.summary()] == ["0", "1"]
    assert {row["status"] for row in place.summary()} == {"finished"}
    assert (place.sweepdir / "comparison.png").exists()
    log = (place.sweepdir / "logs" / "seed=1,prune.rate=0.2.log").read_text()
    assert "--config.seed=1 --config.prune.rate=0.2 --config.tolerance=0.2" in log and ":quick" in log
    assert "seed=1,prune.rate=0.2" in capsys.readouterr().out


def test_what_is_finished_is_skipped_and_what_is_new_is_run(place):
    assert place.sweep("seed=0,1") == 0
    assert place.sweep("seed=0,1,2") == 0
    assert [call[0] for call in place.calls()] == ["seed=0", "seed=1", "seed=2"]
    assert len(place.summary()) == 3


def test_the_comparison_is_of_all_runs_of_the_directory_but_damaged_ones_of_other_calls(place, capsys):
    place.sweep("seed=0,1")
    place.sweep("seed=2")
    assert {row["name"] for row in place.summary()} == {"seed=0", "seed=1", "seed=2"}
    assert "comparison.png, of 3 runs, 2 of them from other calls" in capsys.readouterr().out
    (place.sweepdir / "seed=0" / "config.json").write_text("{")
    place.sweep("seed=2")
    assert {row["name"] for row in place.summary()} == {"seed=1", "seed=2"}
    assert "seed=0: not compared: " in capsys.readouterr().out


def test_a_failure_is_quoted_and_stops_no_other_run(place, capsys):
    assert place.sweep("seed=666,1") == 1
    assert [row["status"] for row in place.summary()] == ["failed", "finished"]
    assert "failed (exit status 1): jaxtickets: config.seed=666: allowed is another one" in capsys.readouterr().out


def test_a_run_that_ends_without_a_verdict_has_failed(place, capsys):
    assert place.sweep("seed=99") == 1
    assert "no verdict" in capsys.readouterr().out


def test_a_failed_run_is_started_again(place):
    place.sweep("seed=666")
    place.sweep("seed=666")
    assert len(place.calls()) == 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_than_the_asked_number_run_at_once(place, jobs):
    assert place.sweep("seed=0,1,2,3", jobs=jobs) == 0
    assert len(place.calls()) == 4
    assert max(int(call[1]) for call in place.calls()) <= jobs


def test_a_dry_run_prints_the_commands_and_writes_nothing(place, capsys):
    assert place.sweep("seed=0,1", dry_run=True) == 0
    assert capsys.readouterr().out.count("--config.seed=") == 2
    assert not place.sweepdir.exists() and not place.calls()


def test_finished_runs_are_not_compared_with_new_ones_of_a_config_that_has_changed(tmp_path, capsys):
    config, sweepdir = tmp_path / "mine.py", tmp_path / "sweep"
    text = (ROOT / "configs" / "gan_digits.py").read_text()
    config.write_text(text)
    place = Workdir(sweepdir / "seed=0")
    place.create(to_dict(load_config("gan_digits")), {})
    place.write_rounds([{"round": 0, "sparsity": 0.0, "density": 1.0, "fd_digits": 2.0}])
    place.write_verdict({"winning_round": None, "metric": "fd_digits", "message": "No round wins."})
    (sweepdir / "sweep.json").write_text(json.dumps({"config": f"{config}:quick", "extra": []}))
    assert sweep(f"{config}:quick", ["seed=0"], sweepdir) == 0
    assert "seed=0: finished already, skipped" in capsys.readouterr().out
    config.write_text(text.replace("beta1=0.5", "beta1=0.4"))
    changed = "seed=0: has finished with another config .*: optimizer.beta1 is 0.5 there and 0.4 here; give another"
    with pytest.raises(UserError, match=changed):
        sweep(f"{config}:quick", ["seed=0,1"], sweepdir)
    assert not (sweepdir / "seed=1").exists()


def test_finished_runs_go_on_with_a_config_that_a_run_may_take_up_if_they_have_kept_what_that_needs(place, capsys):
    place.sweep("seed=1,2")
    old = {name: (place.sweepdir / name / "verdict.json").read_bytes() for name in ("seed=1", "seed=2")}
    changed = "    config.tolerance = 0.25\n    config.prune.rounds += 1\n    return config\n"
    config = Path(place.config)
    config.write_text(config.read_text().replace("    return config\n", changed))
    with pytest.raises(UserError, match="prune.rounds is 5 .*, but snapshots and masks are gone, which that needs"):
        place.sweep("seed=1,2")
    for name in old:
        for folder in ("snapshots", "masks"):
            (place.sweepdir / name / folder).mkdir()
    capsys.readouterr()
    assert place.sweep("seed=1,2", dry_run=True) == 0
    assert "2 runs: 2 to go on; 1 at a time" in capsys.readouterr().out
    script = place.path / "stand_in.py"
    text = script.read_text()
    script.write_text("raise SystemExit(1)")
    assert place.sweep("seed=1,2") == 1  # The old verdicts are there still.
    script.write_text(text)
    there = json.loads((place.path / "config.json").read_text())
    there["prune"]["rounds"], there["tolerance"] = there["prune"]["rounds"] + 1, 0.25
    (place.path / "config.json").write_text(json.dumps(there))
    assert place.sweep("seed=1,2") == 0
    assert [call[0] for call in place.calls()] == ["seed=1", "seed=2"] * 2
    assert place.sweep("seed=1,2") == 0 and len(place.calls()) == 4


@pytest.mark.parametrize("content", ["", "[]", '{"config": "a', "7"])
def test_a_damaged_description_of_a_sweep_is_one_line(place, content):
    place.sweep("seed=1")
    (place.sweepdir / "sweep.json").write_text(content)
    with pytest.raises(UserError, match="its sweep.json is damaged; remove that file if the flags are those"):
        place.sweep("seed=1")


def test_a_file_and_a_directory_with_other_things_are_no_directory_of_a_sweep(place):
    place.sweepdir.write_text("mine")
    with pytest.raises(UserError, match="--sweepdir=.*: is a file; allowed is a directory$"):
        place.sweep("seed=1")
    place.sweepdir.unlink()
    place.sweepdir.mkdir()
    (place.sweepdir / "summary.csv").write_text("mine")
    with pytest.raises(
        UserError, match="has no sweep.json, but summary.csv; allowed is a new or empty one, or that of"
    ):
        place.sweep("seed=1")
    assert (place.sweepdir / "summary.csv").read_text() == "mine"


def test_a_directory_of_another_sweep_is_refused(place):
    place.sweep("seed=0")
    with pytest.raises(UserError, match="holds a sweep without --config.tolerance=0.2 after --; give another --sweep"):
        place.sweep("seed=0", extra=["--config.tolerance=0.2"])
    (stored := place.sweepdir / "sweep.json").write_text(stored.read_text().replace("[]", '["--config.tolerance=0.3"]'))
    with pytest.raises(UserError, match="with --config.tolerance=0.3 after --, not --config.tolerance=0.2; give"):
        place.sweep("seed=0", extra=["--config.tolerance=0.2"])
    with pytest.raises(UserError, match="with --config.tolerance=0.3 after --, which this call lacks; give"):
        place.sweep("seed=0")


def test_a_config_has_one_name_however_it_is_given_and_wherever_it_lies(tmp_path):
    path = "configs/gan_digits.py:quick"
    for config in (path, str(ROOT / path), "gan_digits:quick"):
        assert directory.about(config, [])["config"] == "gan_digits:quick"
    assert directory.about(f"{paper.__file__}:smoke", [])["config"] == "launch/paper.py:smoke"
    (tmp_path / "gan_digits.py").write_text("")
    assert directory.about(f"{tmp_path}/gan_digits.py", [])["config"] == f"{tmp_path}/gan_digits.py"
    sweepdir = tmp_path / "sweep"
    sweepdir.mkdir()
    for stored, asked in (
        ("/elsewhere/configs/gan_digits.py:quick", path),
        ("/a/launch/paper.py:x", "/b/launch/paper.py:x"),
    ):
        (sweepdir / "sweep.json").write_text(json.dumps({"config": stored, "extra": []}))
        directory.check_same(sweepdir, directory.about(asked, []))
        with pytest.raises(
            UserError, match="holds a sweep with --config=.*, not vae_digits:quick; give another --sweepdir"
        ):
            directory.check_same(sweepdir, directory.about("vae_digits:quick", []))


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--config.train.steps=3", "--", "--config.seed=1"],
            "--config.train.steps=3: a flag of the runs; write it behind all others, after --: ... -- --config",
        ),
        (
            ["--", "--workdir=x"],
            "--workdir=x: not allowed after --, where flags of the runs' fields stand: --config.FI",
        ),
        (
            ["--sweepdir=/proc/x"],
            "--sweepdir=/proc/x: can't be made (No such file or directory); allowed is a directory",
        ),
    ],
)
def test_flags_in_the_wrong_place_and_a_directory_that_cannot_be_made_are_one_line(place, capsys, flags, line):
    where = [f"--config={place.config}:quick", "--grid=seed=0", f"--sweepdir={place.sweepdir}"]
    assert main([*where, *flags]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"jaxtickets: {line}")
    assert not place.sweepdir.exists()


def test_mistakes_are_found_before_anything_is_written(place):
    for options in ({"jobs": 0}, {"devices_per_job": -1}, {"extra": ["word"]}):
        with pytest.raises(UserError):
            place.sweep("seed=0", **options)
    with pytest.raises(UserError, match="no such file"):
        sweep("nowhere.py:quick", ["seed=0"], place.sweepdir)
    assert not place.sweepdir.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_stopping_the_sweep_ends_its_runs_and_keeps_the_rest_for_later(place, number):
    # The run signals the sweep, then waits for a signal.
    (place.path / "stand_in.py").write_text(
        "import os, signal, sys\n"
        f"os.kill(os.getppid(), {int(number)})\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('asked to end'))\n"
        "signal.pause()\n"
    )
    assert place.sweep("seed=0,1") == 128 + number
    assert [log.name for log in (place.sweepdir / "logs").iterdir()] == ["seed=0.log"]


def test_a_second_sigterm_leaves_the_runs_the_time_to_save(place, capsys):
    (place.path / "stand_in.py").write_text(
        "import os, signal, sys, time\n"
        "def end(*_):\n"
        "    os.kill(os.getppid(), signal.SIGTERM)\n"
        "    time.sleep(0.3)\n"
        "    os._exit(143)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "signal.pause()\n"
    )
    assert place.sweep("seed=0") == 143
    assert "\nseed=0: stopped\n" in capsys.readouterr().out


@pytest.fixture
def training(place, monkeypatch):
    """A sweep of programs that train, on a clock that they move: `training(*grid, box=seconds, ...)`."""
    (place.path / "stand_in.py").write_text(TRAINING)
    (place.path / "clock").write_text("0")
    now = lambda: float((place.path / "clock").read_text())  # noqa: E731
    monkeypatch.setattr("time.monotonic", now)
    monkeypatch.setattr(running, "GRACE_SECONDS", 1e9)

    def run(*grid, box, ends="well", steps=1, ignores="no", seconds=30, **options):
        for name, value in {"ENDS": ends, "STEPS": steps, "IGNORES": ignores, "SECONDS_OF_RUN": seconds}.items():
            monkeypatch.setenv(name, str(value))
        return place.sweep(*grid, minutes=box / 60, **options)

    return run


def test_when_the_time_is_over_runs_are_asked_to_save_and_the_status_and_the_last_line_tell(training, place, capsys):
    assert training("seed=0,1", box=20, ends="never") == TIME_OVER == 75
    out = capsys.readouterr().out
    assert "\nseed=0: stopped\nseed=1: not started\n" in out
    assert out.endswith("The time is over (--minutes=0.333333): 1 stopped, 1 not started. The same command goes on.\n")
    assert [log.name for log in (place.sweepdir / "logs").iterdir()] == ["seed=0.log"]


def test_a_run_is_started_only_if_it_would_come_to_its_first_step_in_the_time_left(training, capsys):
    assert training("seed=0,1,2,3", box=50, seconds=20) == TIME_OVER  # At 40 of 50 seconds a start takes 20.
    assert "2 finished, 2 not started" in capsys.readouterr().out
    assert training("seed=0,1,2,3", box=1000, seconds=20) == 0


def test_as_long_as_no_run_has_logged_a_step_runs_are_started_until_the_time_is_over(training, capsys):
    assert training("seed=0,1,2,3", box=50, seconds=20, steps=0) == TIME_OVER
    assert "3 finished, 1 not started" in capsys.readouterr().out


def test_a_run_that_was_stopped_before_its_first_step_is_told(training, capsys):
    assert training("seed=0", box=20, ends="never", steps=0) == TIME_OVER
    assert "seed=0: stopped before its first step\n" in capsys.readouterr().out


def test_a_run_that_does_not_end_when_it_is_asked_to_is_killed_and_told(training, capsys, monkeypatch):
    monkeypatch.setattr(running, "GRACE_SECONDS", 0)
    assert training("seed=0", box=20, ends="never", ignores="yes") == TIME_OVER
    out = capsys.readouterr().out
    assert "seed=0: stopped, by force: it begins again" in out  # Nothing has been saved.


def test_before_any_round_has_finished_nothing_is_compared(training, place, capsys):
    assert training("seed=0", box=20, ends="never") == TIME_OVER
    assert "No round has finished yet: there is nothing to compare." in capsys.readouterr().out
    assert not (place.sweepdir / "summary.csv").exists()


def test_failures_within_the_time_are_told_beside_what_is_left(training, capsys):
    assert training("seed=0,1", box=50, ends="badly") == TIME_OVER
    out = capsys.readouterr().out
    assert "seed=0: failed (exit status 1): out of luck" in out and "1 not started, 1 failed" in out
    assert training("seed=0,1", box=1000, ends="badly") == 1


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(place, minutes):
    with pytest.raises(UserError, match="--minutes=.*: allowed is a number above 0"):
        place.sweep("seed=0", minutes=minutes)
    assert not place.sweepdir.exists()


@pytest.mark.parametrize("start", [["-m", "launch.sweep"], ["launch/sweep.py"]])
def test_the_command_line_exits_with_status_2_and_one_line_for_a_mistake(place, start):
    config = f"--config={place.config}"
    wrong = (["--grid=seed=0"], [config], [config, "--jobs=x"], [config, "--minutes=x"], [config, "--limit=1"])
    for flags in wrong:
        done = run_command_line(start, *flags)
        assert done.returncode == 2, done
        assert done.stderr.startswith("jaxtickets: --") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--zip=seed=0,1", "--sample=2", "--minutes=8", "--dry_run"])
def test_without_a_config_a_line_says_so(place, capsys, flag):
    assert main([flag, f"--sweepdir={place.sweepdir}"]) == 2
    assert main([flag, f"--sweepdir={place.sweepdir}", f"--pack={place.path}/a.tar.gz", "--grid=seed=0"]) == 2
    assert capsys.readouterr().err == f"jaxtickets: {cli.NO_CONFIG}\n" * 2


def test_help_lists_the_flags():
    done = run_command_line(["-m", "launch.sweep"], "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for flag in ("config", "grid", "jobs", "sweepdir", "devices_per_job", "dry_run", "minutes", "pack", "unpack"):
        assert f"  --{flag}\n" in done.stdout


def test_the_command_line_passes_on_what_follows_two_dashes(place):
    flags = [f"--config={place.config}:quick", "--grid=seed=7", f"--sweepdir={place.sweepdir}", "--dry_run"]
    done = run_command_line(["-m", "launch.sweep"], *flags, "--", "--config.tolerance=0.2")
    assert done.returncode == 0
    assert "-m jaxtickets.main" in done.stdout and "--config.seed=7 --config.tolerance=0.2" in done.stdout


def run_command_line(start, *flags):
    return subprocess.run([sys.executable, *start, *flags], cwd=ROOT, capture_output=True, text=True, env=os.environ)
