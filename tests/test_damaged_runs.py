"""Runs whose files are damaged: they end with the same bits, or stop with a line whose command mends them."""

import re
import shutil

import jax
import numpy as np
import pytest
from conftest import Killed, finish, kill_after, open_run, tiny, untimed_rounds, untimed_scalars

from jaxtickets import masks as mask_lib
from jaxtickets import report, runs, tickets
from jaxtickets.errors import DamagedError
from jaxtickets.experiments import METHODS
from jaxtickets.runs import Setup, record
from jaxtickets.workdir import Workdir

pytestmark = pytest.mark.usefixtures("quick_runs")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("snapshots/dense", "masks/000")]
IN_ROUND_2 = 12 + 9 + 8  # steps: states are saved at steps 5 and 10 of each round, and this is step 11


def setup_of(base, data_directory, **changes):
    return Setup(tiny("ae_digits", data_directory, **changes), like=base("ae_digits"))


def killed(setup, path, steps=None, when=None):
    """Runs until training has done so many steps, or until the function `when` of `Run` is called in round 2."""
    setup = Setup(setup.config, like=setup)
    with pytest.raises(Killed), pytest.MonkeyPatch.context() as monkeypatch, open_run(setup, path) as run:
        if steps:
            kill_after(setup, steps)
        if when:
            before = getattr(type(run), when)

            def die_in_round_2(self, round_, *arguments):
                if round_ == 2:
                    raise Killed
                return before(self, round_, *arguments)

            monkeypatch.setattr(type(run), when, die_in_round_2)
        METHODS["imp"].recipe(run)
    return path


@pytest.fixture(scope="module")
def setup(quick_runs, base, data_directory):
    return setup_of(base, data_directory)


@pytest.fixture(scope="module")
def whole(setup, tmp_path_factory):
    return finish(setup, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def in_round_2(setup, tmp_path_factory):
    return killed(setup, tmp_path_factory.mktemp("killed") / "run", IN_ROUND_2)


@pytest.fixture
def place(in_round_2, tmp_path):
    """A workdir of its own of the run that was killed in round 2."""
    shutil.copytree(in_round_2, tmp_path / "run")
    return Workdir(tmp_path / "run")


def damage(path):
    """Damages a file, or every file with arrays in a snapshot."""
    for file in (
        [path] if path.is_file() else [file for file in path.rglob("*") if "ocdbt" in file.name and file.is_file()]
    ):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]))


def goes_on(setup, path, whole):
    """Resumes a run, and compares its end with the whole run's."""
    run, verdict = finish(Setup(setup.config, like=setup), path)
    expected, expected_verdict = whole
    assert verdict == expected_verdict
    jax.tree.map(np.testing.assert_array_equal, run.trained, expected.trained)
    for round_ in range(4):
        assert mask_lib.hamming_distance(run.saved_masks(round_), expected.saved_masks(round_)) == 0
    assert untimed_rounds(path) == untimed_rounds(expected.place.path)
    return run


def test_the_state_before_a_damaged_one_is_used(setup, whole, place, capsys):
    newest, before = sorted(place.snapshot("last").iterdir(), key=lambda path: int(path.name))[::-1]
    damage(newest)
    goes_on(setup, place.path, whole)
    assert f"{newest}: is damaged" in capsys.readouterr().err and before.name
    assert untimed_scalars(place.path) == untimed_scalars(whole[0].place.path)


@pytest.mark.parametrize("is_there", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_without_an_intact_state_the_round_starts_again(setup, whole, place, is_there):
    for state in place.snapshot("last").iterdir():
        damage(state) if is_there else shutil.rmtree(state)
    goes_on(setup, place.path, whole)
    assert untimed_scalars(place.path) == untimed_scalars(whole[0].place.path)


@pytest.mark.parametrize("name", ["snapshots/init", "masks/001", "masks/002", *SLOW])
def test_what_is_known_elsewhere_or_not_needed_is_mended(setup, whole, place, capsys, name):
    damage(place.path / name)
    goes_on(setup, place.path, whole)
    if name != "snapshots/dense":
        assert f"{place.path / name}: is damaged" in capsys.readouterr().err
        capsys.readouterr()
        goes_on(setup, place.path, whole)
        assert capsys.readouterr().err.count("damaged") == 0


def test_masks_that_a_kill_of_an_older_version_has_removed_in_part_are_made_again(setup, whole, place):
    for name in ("ocdbt.process_0", "d", "checksum.json"):
        entry = place.masks(2) / name
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    goes_on(setup, place.path, whole)


@pytest.mark.parametrize(
    ("names", "round_"),
    [
        (["snapshots/rewind"], 0),
        (["rounds.csv"], 0),
        pytest.param(["layers.csv"], 0, marks=pytest.mark.slow),
        pytest.param(["masks/001", "weights/001.safetensors"], 0, marks=pytest.mark.slow),
        (["masks/002", "snapshots/last"], 1),
    ],
)
def test_what_is_lost_is_named_with_the_command_that_makes_it_again(setup, whole, place, names, round_):
    for name in names:
        damage(place.path / name)
    with pytest.raises(DamagedError, match=rf"{re.escape(names[0])}.*--from_round={round_}\b"):
        finish(Setup(setup.config, like=setup), place.path)
    runs.go_back(setup.config, place.path, round_)
    goes_on(setup, place.path, whole)


def test_masks_that_were_not_drawn_yet_need_the_weights_of_the_round_before(setup, whole, tmp_path):
    place = Workdir(killed(setup, tmp_path / "run", when="pruned"))
    damage(max(place.snapshot("last").iterdir(), key=lambda path: int(path.name)))
    with pytest.raises(DamagedError, match=r"the train state at the end of round 1 is lost.*--from_round=1\b"):
        finish(Setup(setup.config, like=setup), place.path)
    runs.go_back(setup.config, place.path, 1)
    goes_on(setup, place.path, whole)


@pytest.mark.slow
def test_a_chained_run_that_has_lost_its_state_goes_back_to_round_1(base, data_directory, tmp_path):
    setup = setup_of(base, data_directory, rewind="learning_rate")
    whole = finish(setup, tmp_path / "whole")
    place = Workdir(killed(setup, tmp_path / "run", IN_ROUND_2))
    shutil.rmtree(place.snapshot("last"))
    with pytest.raises(DamagedError, match=r"the train state at the end of round 1 is lost.*--from_round=1\b"):
        finish(Setup(setup.config, like=setup), place.path)
    runs.go_back(setup.config, place.path, 1)
    goes_on(setup, place.path, whole)


def test_damaged_lines_of_scalars_are_lost_and_nothing_else(setup, whole, place, capsys):
    lines = place.scalars.read_bytes().splitlines(keepends=True)
    place.scalars.write_bytes(b"".join([lines[0][:-9] + b"\n", *lines[1:]]))
    goes_on(setup, place.path, whole)
    assert "metrics.jsonl: 1 of " in capsys.readouterr().err
    assert untimed_scalars(place.path) == untimed_scalars(whole[0].place.path)[1:]


def test_a_finished_run_measures_damaged_references_again_and_judges_again(setup, whole, tmp_path):
    shutil.copytree(whole[0].place.path, tmp_path / "run")
    place = Workdir(tmp_path / "run")
    references = place.read_references()
    for path in (place.references, place.verdict):
        damage(path)
    goes_on(setup, place.path, whole)
    assert place.read_references() == references and place.read_verdict() == whole[1]


def test_a_finished_run_that_has_lost_files_is_not_judged_with_less(setup, whole, tmp_path, capsys):
    shutil.copytree(whole[0].place.path, tmp_path / "run")
    place = Workdir(tmp_path / "run")
    references = place.read_references()
    for path in (place.references, place.verdict, place.weights(3)):
        path.unlink()
    goes_on(setup, place.path, whole)
    assert place.read_references() == references and place.read_verdict() == whole[1]
    told = capsys.readouterr().err
    assert f"{place.references}: is missing" in told
    assert f"{place.weights(3)}: is missing; the same command with --from_round=3 makes it again" in told


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("snapshots/rewind", 0), ("snapshots/dense", 0), ("snapshots/init", 0), ("masks/002", 1)],
)
def test_nothing_is_discarded_where_the_start_of_the_round_is_lost(setup, whole, tmp_path, name, remedy):
    place = Workdir(shutil.copytree(whole[0].place.path, tmp_path / "run"))
    for break_ in (damage, shutil.rmtree):
        break_(place.path / name)
        before = {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()}
        reason = f"{name}: is (damaged .*|missing); the same command with --from_round={remedy} .*; nothing has"
        with pytest.raises(DamagedError, match=reason):
            runs.go_back(setup.config, place.path, 2)
        assert before == {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()}
    runs.go_back(setup.config, place.path, remedy)
    goes_on(setup, place.path, whole)


@pytest.mark.parametrize("names", [["snapshots"], ["masks"], ["snapshots", "masks"]])
def test_a_finished_run_whose_states_were_removed_to_save_space_still_tells_its_results(
    setup, whole, tmp_path, capsys, names
):
    place = Workdir(shutil.copytree(whole[0].place.path, tmp_path / "run"))
    for name in names:
        shutil.rmtree(place.path / name)
    before = {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()}
    assert runs.run(setup.config, place.path) == whole[1]
    assert f"{place.path}: {' and '.join(names)} are gone, and only --from_round=0" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()}


def test_a_ticket_with_trained_weights_stays_where_their_own_file_is_gone(setup, whole, tmp_path):
    shutil.copytree(whole[0].place.path, tmp_path / "run")
    place, verdict = Workdir(tmp_path / "run"), whole[1] | {"winning_round": 3}
    record.save_ticket(setup, place, whole[0].initial_state, verdict)
    content = place.ticket.read_bytes()
    place.weights(3).unlink()
    record.save_ticket(setup, place, whole[0].initial_state, verdict)
    assert place.ticket.read_bytes() == content
    damage(place.ticket)
    record.save_ticket(setup, place, whole[0].initial_state, verdict)
    assert tickets.load_ticket(place.ticket).metadata["verdict"]["winning_round"] == 3


def test_a_report_tells_what_is_gone(whole, tmp_path, capsys):
    shutil.copytree(whole[0].place.path, tmp_path / "run")
    place = Workdir(tmp_path / "run")
    report.read(place.path)
    assert capsys.readouterr().err == ""
    place.scalars.write_bytes(b"".join(place.scalars.read_bytes().splitlines(keepends=True)[:-3]))
    for path in (place.samples(1), place.verdict, place.references):
        path.unlink()
    report.read(place.path)
    told = capsys.readouterr().err.splitlines()
    for line in (
        "run: round_001.png were written and are gone",
        "verdict.json: is missing; the command of its run writes it again; it is left out",
        "references.json: is missing; the command of its run writes it again; it is left out",
        "metrics.jsonl: rows of the finished rounds 3 are gone; their curves are left out, or cut",
    ):
        assert sum(found.endswith(line) for found in told) == 1, (line, told)
    assert len(told) == 4


def test_a_report_leaves_out_what_is_damaged(whole, tmp_path, capsys):
    shutil.copytree(whole[0].place.path, tmp_path / "run")
    place = Workdir(tmp_path / "run")
    left_out = (place.samples(1), place.verdict, place.references)
    for path in left_out:
        damage(path)
    results = report.read(place.path)
    assert list(results.samples) == [0, 2, 3] and results.verdict is None and results.references == {}
    assert results.rounds == whole[0].place.read_rounds()
    told = capsys.readouterr().err
    assert told.count("; it is left out\n") == 3
    assert all(f"{path}: is damaged (it is not what was written); " in told for path in left_out)
    report.build(place.path)


@pytest.mark.parametrize("name", ["config", "rounds", "layers"])
def test_a_report_stops_where_a_table_or_the_config_is_damaged(whole, tmp_path, name):
    shutil.copytree(whole[0].place.path, tmp_path / "run")
    path = getattr(Workdir(tmp_path / "run"), name)
    damage(path)
    with pytest.raises(DamagedError, match=rf"{path.name}: is damaged \(it is not what was written\); put back a copy"):
        report.read(tmp_path / "run")
