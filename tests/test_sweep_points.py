"""The points of a sweep: which runs its flags or its config file describe, and which are refused before any starts."""

import json
import math
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from test_sweep import ROOT, Place

from jaxtickets import cli, named_configs
from jaxtickets import config as config_lib
from jaxtickets.errors import UserError
from jaxtickets.workdir import Workdir
from launch import described, devices, paper, slurm
from launch.checking import check
from launch.grid import Drawn, combinations
from launch.plan import plan
from launch.points import points
from launch.running import Runs
from launch.watching import Watch

DESCRIBED = """
from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.data.name = "digits"
    config.model.image_size = 16
    config.train.steps = 100
    return config


def get_sweep(variant=""):
    return [
        {"name": "imp", "grid": ["seed=0..1"], "values": {"tolerance": 0.2}},
        {
            "name": "control",
            "grid": ["seed=0..1", "branch.kind=reinit,shuffled"],
            "values": {"experiment": "branch", "branch.of": "{imp}", "tolerance": 0.2},
        },
    ]
"""


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_range_is_all_whole_numbers_with_both_ends():
    assert [values["seed"] for values in combinations(["seed=-1..2,7"])] == ["-1", "0", "1", "2", "7"]


def test_fields_that_are_zipped_advance_together_in_every_point_of_the_grid():
    found = combinations(["prune.rate=0.1,0.2"], ["seed=0,1", "model.width=16,32"])
    assert [tuple(values.values()) for values in found] == [
        *(("0.1", "0", "16"), ("0.1", "1", "32")),
        *(("0.2", "0", "16"), ("0.2", "1", "32")),
    ]
    with pytest.raises(UserError, match="--zip: .* same number of values; seed has 2, model.width has 1"):
        combinations([], ["seed=0,1", "model.width=16"])


def test_the_same_sample_is_drawn_again_and_a_larger_one_begins_with_it():
    grid = ["optimizer.learning_rate=log(1e-4,1e-2)", "prune.rate=uniform(0.1,0.5)", "model.width=16,32"]
    eight = combinations(grid, sample=8)
    assert combinations(grid, sample=8) == eight
    assert combinations(grid, sample=12)[:8] == eight
    assert combinations(grid, sample=8, sample_seed=1) != eight
    for values in eight:
        assert 1e-4 <= float(values["optimizer.learning_rate"]) <= 1e-2
        assert 0.1 <= float(values["prune.rate"]) <= 0.5


def test_samples_of_the_logarithmic_distribution_have_its_median_and_those_of_the_uniform_one_its_own():
    values = combinations(["a=log(1e-4,1e-2)", "b=uniform(0,1)"], sample=1000)
    assert 420 < sum(float(value["a"]) < 1e-3 for value in values) < 580
    assert 420 < sum(float(value["b"]) < 0.5 for value in values) < 580


def test_samples_of_whole_numbers_have_both_ends_and_the_shares_of_their_distribution():
    source = random.Random(0)
    for name, high, share in (
        ("int", 4, lambda width: 1 / 4),
        ("logint", 7, lambda width: math.log2(1 + 1 / width) / 3),
    ):
        drawn = [Drawn(name, 1, high).draw(source) for _ in range(4000)]
        shares = {str(width): share(width) for width in range(1, high + 1)}
        assert {width: drawn.count(width) / 4000 for width in set(drawn)} == pytest.approx(shares, abs=0.03)
    (point,) = combinations(["model.width=logint(8,64)"], sample=1)
    assert 8 <= int(point["model.width"]) <= 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": ["seed=4..0"]}, "the range 4..0 is empty; write LOW..HIGH, here 0..4"),
        ({"grid": ["seed=0..10000"]}, "the range 0..10000 has 10001 values; allowed are at most 10000"),
        ({"grid": ["seed=0,1,0"]}, "^--grid=seed=0,1,0: the value 0 is given twice$"),
        ({"zipped": ["seed=0,0"]}, "^--grid: two points have the directory seed=0; leave one out, or"),
        (
            {"grid": ["prune.rate=unifrom(0.1,0.2)"], "sample": 2},
            r"is unknown; .*logint\(LOW,HIGH\); did you mean 'unif",
        ),
        (
            {"grid": ["prune.rate=normal(0,1)"], "sample": 2},
            r"the distribution normal\(0,1\) is unknown; allowed are uni",
        ),
        (
            {"grid": ["model.width=int(1.5,8)"], "sample": 2},
            r"allowed is int\(LOW,HIGH\) with whole numbers LOW < HIGH",
        ),
        ({"grid": ["prune.rate=log(0,1)"], "sample": 2}, r"log\(LOW,HIGH\) with 0 < LOW < HIGH"),
        ({"grid": ["prune.rate=uniform(0.1,0.2)"]}, "with --sample=N only"),
        ({"grid": ["seed=0,1"], "sample": 3}, "too few different values; 2 were found"),
        ({"sample": 3}, "needs fields to draw"),
        ({"grid": ["seed=0,1"], "sample": 0}, "--sample=0: allowed is a whole number from 1"),
        ({"grid": ["seed=0"], "zipped": ["seed=1"]}, "given twice"),
        ({"grid": ["seed="]}, "--grid=seed=: an empty value"),
        ({"grid": ["seed=0,1"], "extra": ["--config.seed=3"]}, "the points of the sweep give seed too"),
        ({}, "--grid is missing"),
    ],
)
def test_points_that_cannot_be_read_are_one_line(place, options, message):
    with pytest.raises(UserError, match=message):
        points(place.config, place.sweepdir, **options)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["seed=0..3", "prune.rte=0.2"], "config.prune.rte: no such field; .* nothing has been started"),
        (["prune.rate=0.2,0.3,2"], "config.prune.rate=2.0: allowed is .*in prune.rate=2; nothing has been started"),
        (["prune.rate=0.2,0.20"], "prune.rate=0.2 and prune.rate=0.20 are the same run"),
        (
            ["seed=0,1", "experiment=branch", "branch.of=/no/run"],
            "^config.branch.of='/no/run': allowed is the workdir of a finished run .* seed 0 .in seed=0,.*nothing has",
        ),
        (
            ["experiment=transfer", "transfer.of=/no/ticket.safetensors"],
            "/no/ticket.safetensors: .* .in experiment=transfer.*; nothing has been started",
        ),
    ],
)
def test_every_point_is_validated_before_the_first_one_starts(place, grid, message):
    with pytest.raises(UserError, match=message):
        place.sweep(*grid)
    assert not place.sweepdir.exists() and not place.calls()


def test_a_config_file_describes_a_sweep_whose_runs_wait_for_those_that_they_need(place):
    Path(place.config).write_text(DESCRIBED)
    found = points(place.config, place.sweepdir)
    assert [point.name for point in found[:3]] == ["imp,seed=0", "imp,seed=1", "control,seed=0,branch.kind=reinit"]
    assert len(found) == 6 and len(check(found)) == 6
    for point in found[2:]:
        needed = f"imp,{point.name.split(',')[1]}"
        assert point.after == (needed,)
        assert f"--config.branch.of={place.sweepdir / needed}" in point.arguments


def test_a_point_waits_for_the_run_in_whose_workdir_a_path_of_it_lies(place):
    of = place.sweepdir / "imp" / "ticket.safetensors"
    entries = [{"name": "imp"}, {"name": "there", "values": {"experiment": "transfer", "transfer.of": str(of)}}]
    Path(place.config).write_text(f"{Path(place.config).read_text()}\ndef get_sweep():\n    return {entries}\n")
    imp, there = points(place.config, place.sweepdir)
    assert (imp.after, there.after) == ((), ("imp",))
    assert [one.levels for one in check([imp, there]).values()][1] == 2  # Nothing is read: the sweep makes it.


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("7", "get_sweep returns 7; allowed is a list of dictionaries"),
        ("[{'nme': 'x'}]", "unknown key 'nme'; allowed are name, config"),
        ("[{'name': 'a/b'}]", "name='a/b'; allowed are letters"),
        *(
            (f"[{{'name': '{name}'}}]", f"name='{name}'; allowed are .* none of logs, slurm, sweep.json, summary.csv")
            for name in ("logs", "slurm", "sweep.json", "summary.csv", "levels.csv", "comparison.png")
        ),
        ("[{'name': 'a'}, {'name': 'a'}]", "names two experiments 'a'"),
        ("[{'values': {'seed': 1}}]", "neither a name nor a grid"),
        ("[{'name': 'b', 'values': {'branch.of': '{a}'}}]", "b: {a} names no experiment before it; it is the first"),
        (
            "[{'name': 'a', 'grid': 'seed=0,1'}, {'name': 'b', 'values': {'branch.of': '{a}'}}]",
            r"^b: \{a\} must be one run and may be a,seed=0 or a,seed=1; vary seed here too, with the same values$",
        ),
        (
            "[{'name': 'a', 'grid': 'seed=0'}, {'name': 'b', 'grid': 'seed=0,7', 'values': {'branch.of': '{a}'}}]",
            r"^b: \{a\}: no run of a has seed=7; give a this value too, or leave it out here$",
        ),
        ("1 / 0", "line 2: ZeroDivisionError"),
    ],
)
def test_a_description_that_is_mistaken_is_one_line(place, entry, message):
    Path(place.config).write_text(f"def get_sweep():\n    return {entry}\n")
    with pytest.raises(UserError, match=message):
        points(place.config, place.sweepdir)


def test_a_sweep_is_described_by_the_file_that_a_name_stands_for(place, monkeypatch):
    Path(place.config).write_text(DESCRIBED)
    monkeypatch.setattr(named_configs, "directory", lambda: place.path)
    monkeypatch.setattr(named_configs, "names", lambda: ["config"])
    assert described.describes("config:quick")
    monkeypatch.chdir(place.path)
    Path(place.config).write_text("")
    assert not described.describes("config:quick")
    with pytest.raises(UserError, match="no such file and no such name"):
        described.describes("nowhere")


def test_a_run_starts_after_those_that_it_needs_and_not_if_they_fail(place, capsys):
    text = DESCRIBED.replace('"seed=0..1"', '"seed=1,666"')
    Path(place.config).write_text(text)
    assert place.sweep(jobs=3) == 1
    names = [call[0] for call in place.calls()]
    assert names.index("imp,seed=1") < min(names.index(name) for name in names if name.startswith("control"))
    assert not [name for name in names if name.startswith("control,seed=666")]
    assert "control,seed=666,branch.kind=reinit: failed: not started, because imp,seed=666 has failed" in (
        capsys.readouterr().out
    )


def test_a_control_goes_on_after_its_run_which_goes_on_with_more_rounds(place, capsys):
    Path(place.config).write_text(DESCRIBED)
    all_points = points(place.config, place.sweepdir)
    for point in all_points:
        config, workdir = cli.read_run(point.arguments)
        Workdir(workdir).create(config_lib.to_dict(config), {})
        Workdir(workdir).write_verdict({"winning_round": None, "metric": "fd", "message": "No round wins."})
        for folder in ("snapshots", "masks"):
            (workdir / folder).mkdir()
    assert place.sweep(dry_run=True) == 0
    assert "6 runs: 6 finished" in capsys.readouterr().out
    Path(place.config).write_text(
        DESCRIBED.replace('"values": {"tolerance": 0.2}', '"values": {"tolerance": 0.2, "prune.rounds": 21}', 1)
    )
    assert place.sweep(dry_run=True) == 0
    assert "6 runs: 6 to go on" in capsys.readouterr().out
    # The run has come to its new rounds, and the sweep was ended before its controls had.
    for point in points(place.config, place.sweepdir):
        config, workdir = cli.read_run(point.arguments)
        rows = [{"round": number, "sparsity": 0.0} for number in range(3 if point.after else 4)]
        Workdir(workdir).write_rounds(rows)
        if not point.after:
            Workdir(workdir).replace_config(config_lib.to_dict(config), None, [])
    assert place.sweep(dry_run=True) == 0
    assert "6 runs: 2 finished, 4 to go on" in capsys.readouterr().out


def test_the_plan_of_a_cluster_counts_each_jobs_devices_and_the_training_of_those_that_have_finished(place):
    """Two of three equal runs are left. The finished one has trained for two rounds of 1800 s."""
    place.sweep("seed=1")
    all_points = points(place.config, place.sweepdir, grid=["seed=1,2,3"])
    table = all_points[0].workdir / "rounds.csv"
    table.write_text("round,sparsity,train_seconds\n0,0,1800\n1,0.5,1800\n")
    watch = Watch(all_points, check(all_points), {})
    for each, hours in ((1, "2"), (4, "8")):
        told = list(plan(all_points, all_points[:1], watch, 2, each, 0))
        assert told[1] == f"By those that have finished, about 60 min and {hours} device hours of training alone"
    # Of runs that trained together each has the seconds of all.
    assert "at most 60 min" in list(plan(all_points, all_points[:1], watch, 2, 1, 0, together=2))[1]
    known = Watch(all_points, check(all_points), {"seed=1": 7200.0})
    assert list(plan(all_points, all_points[:1], known, 2, 1, 0))[1].endswith("about 2 h 0 min and 4 device hours")
    table.unlink()
    assert list(plan(all_points, all_points[:1], watch, 2, 1, 0))[1] == "How long they take is not known."
    assert list(plan(all_points, [], watch, 2, 1, 0))[1].startswith("None of these runs has finished yet")


def test_jobs_of_slurm_share_no_device(place, monkeypatch, capsys):
    """A run of the stand-in trains for 4 s: 90 at a time take as long, on two devices each."""
    place.sweep("seed=1")
    kept = json.loads((place.sweepdir / "sweep.json").read_text())
    del kept["seconds"]  # Of what ran in jobs there are none.
    (place.sweepdir / "sweep.json").write_text(json.dumps(kept))
    monkeypatch.setattr(slurm, "check", lambda asked: None)
    capsys.readouterr()
    seeds = ",".join(map(str, range(1, 92)))
    assert place.sweep(f"seed={seeds}", on_slurm=slurm.Request(gpus=2), dry_run=True) == 0
    assert "about 4 s and 0.2 device hours of training alone" in capsys.readouterr().out


def test_a_failed_need_takes_its_point_out_of_a_group_and_the_rest_of_the_group_starts(place, capsys):
    Path(place.config).write_text(DESCRIBED.replace('"seed=0..1"', '"seed=1,666"'))
    all_points = points(place.config, place.sweepdir)
    first, failing, control, _, lost, _ = all_points
    watch = Watch(all_points, check(all_points), {})
    started = []

    def command(group):
        started.append([point.name for point in group])
        return [sys.executable, str(place.path / "stand_in.py"), *group[0].arguments]

    runs = Runs(place.sweepdir, command, [{}], watch)
    assert runs.run([(first,), (failing,), (lost, control)]) is None
    assert started == [[first.name], [failing.name], [control.name]]
    assert runs.ends[first.name] == runs.ends[control.name] == "finished"
    assert capsys.readouterr().out.count(f"{lost.name}: failed: not started, because {failing.name} has failed") == 1


@pytest.mark.parametrize(("status", "starts"), [(1, 3), (2, 1), (3, 1)])
def test_a_run_that_fails_is_started_again_as_often_as_asked_but_not_after_a_users_mistake_or_a_divergence(
    place, capsys, status, starts
):
    (place.path / "stand_in.py").write_text(
        f"import pathlib, sys\nopen(pathlib.Path(__file__).with_name('starts'), 'a').write('.')\nsys.exit({status})\n"
    )
    assert place.sweep("seed=0", retry=2) == 1
    assert (place.path / "starts").read_text() == "." * starts
    assert ("it is started again (2 of 2)" in capsys.readouterr().out) == (starts == 3)


def test_of_a_run_that_is_killed_the_signal_is_told_and_not_its_last_line(place, capsys):
    (place.path / "stand_in.py").write_text(
        "import os\nprint('jaxtickets: data: digits', flush=True)\nos.kill(os.getpid(), 9)"
    )
    assert place.sweep("seed=0") == 1
    told = "seed=0: failed (killed by SIGKILL, perhaps because the memory was full), output in "
    assert f"{told}{place.sweepdir / 'logs' / 'seed=0.log'}\n" in capsys.readouterr().out


def test_runs_that_share_gpus_get_equal_shares_of_their_memory(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    for name in devices.FRACTIONS:
        monkeypatch.delenv(name, raising=False)
    found = devices.environments(None, 0, 3)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["4", "6", "4", "6", "4", "6"]
    assert {each["XLA_PYTHON_CLIENT_MEM_FRACTION"] for each in found} == {"0.300"}
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.6")
    assert devices.environments(1, 0, 2) == [{"CUDA_VISIBLE_DEVICES": "4", "XLA_CLIENT_MEM_FRACTION": "0.300"}]
    for jobs, shared, message in ((7, 3, "at most 6"), (None, -1, "at least 0")):
        with pytest.raises(UserError, match=message):
            devices.environments(jobs, 0, shared)


@pytest.mark.parametrize(("answer", "runs"), [("17", True), ("Cannot find MPS control daemon process", False)])
def test_mps_is_used_where_its_daemon_answers(monkeypatch, tmp_path, answer, runs):
    program = tmp_path / devices.MPS
    program.write_text(f"#!/bin/sh\necho {answer}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    told = devices.described([{"CUDA_VISIBLE_DEVICES": "0", devices.FRACTIONS[0]: "0.450"}] * 2, 2)
    assert told.startswith("2 runs at a time on one GPU, each with 45.0% of a GPU's memory; CUDA's MPS ")
    assert ("does not run here" in told) != runs


def test_progress_is_read_from_the_workdir(place):
    (point,) = points(place.config, place.sweepdir, grid=["seed=0"], extra=["--config.train.steps=100"])
    watch = Watch([point], check([point]), {})
    assert watch.look("seed=0") == (0, 0, 0.0, None)
    point.workdir.mkdir(parents=True)
    (point.workdir / "config.json").write_text(
        json.dumps({"config": {}, "about": {"metrics": {"fd": {"better": "lower"}}}})
    )
    (point.workdir / "rounds.csv").write_text("round,sparsity,density,fd\n0,0,1,12\n1,0.2,0.8,11\n")
    (point.workdir / "metrics.jsonl").write_text('{"round": 2, "step": 50, "split": "train"}\n{"round": 2, "st')
    found = watch.look("seed=0")
    assert (found.rounds, found.step, found.share) == (2, 50, 2.5 / 11)  # The dense run and 10 rounds.
    assert str(found.best) == "fd 11 at 20.0%"
    watch.at_start["seed=0"] = 0.5 / 11
    assert watch.left("seed=0", found.share, 60) == pytest.approx(60 * 8.5 / 2)  # 2 rounds took a minute.


def test_a_suite_that_is_missing_or_misspelt_is_one_line(tmp_path):
    for suite, line in (("", "the suite is missing; allowed are smoke"), (":smok", "no such suite; .*mean 'smoke'")):
        with pytest.raises(UserError, match=line):
            points(f"{paper.__file__}{suite}", tmp_path)


@pytest.mark.parametrize("suite", ["smoke", "embedded", "paper"])
def test_the_suites_of_the_paper_are_valid_and_every_run_stands_in_a_table(tmp_path, suite):
    found = points(f"{paper.__file__}:{suite}", tmp_path)
    check(found)
    compared = {name for names in paper.tables(suite).values() for name in names}
    assert {point.name.partition(",")[0] for point in found} == compared


@pytest.mark.slow
def test_the_smoke_suite_runs_to_its_end_and_shows_every_comparison(tmp_path):
    command = [sys.executable, "-m", "launch.reproduce", "--suite=smoke", f"--out={tmp_path}", "--jobs=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    page = (tmp_path / "README.md").read_text()
    for table in paper.tables("smoke"):
        assert f"![]({table}/comparison.png)" in page
        assert (tmp_path / table / "levels.csv").stat().st_size > 100
