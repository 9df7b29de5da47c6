"""The files of a workdir, by the page that describes them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxtickets import files
from jaxtickets.errors import UserError
from jaxtickets.origin import completed, differences, flat
from jaxtickets.paths import PICTURES
from jaxtickets.workdir import SNAPSHOTS, Workdir

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {"seed": 3, "prune": {"rate": 0.2, "include": ["kernel$"]}}
DEFAULTS = {"seed": 0, "prune": {"rate": 0.5, "include": [], "scope": "global"}, "eval": {"metrics": []}}


def paths(workdir):
    """Every path of the class, with the number 7 for a round or seed, relative to the workdir."""
    attributes = [path for path in vars(workdir).values() if isinstance(path, Path) and path != workdir.path]
    search = workdir.search(7)
    of_rounds = [workdir.masks(7), workdir.weights(7), workdir.samples(7)]
    of_rounds += [workdir.picture(kind, 7) for kind in PICTURES]
    of_rounds += [search, search.with_suffix(".npz"), workdir.search_end(7)]
    inner = [place.path for place in (workdir.compact(7), workdir.narrow(7), workdir.seed_dir(7))]
    snapshots = [workdir.snapshot(name) for name in SNAPSHOTS]
    return [path.relative_to(workdir.path) for path in (*attributes, *of_rounds, *inner, *snapshots, workdir.plot("*"))]


def test_the_files_of_the_page_are_those_of_the_class():
    table = (ROOT / "docs" / "workdir.md").read_text().partition("\n## ")[0]
    documented = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall("`(.*?)/?`", row)}
    named = {path.as_posix().replace("007", "NNN").replace("seed_7", "seed_N") for path in paths(Workdir("run"))}
    assert documented == named


def test_no_other_module_has_the_file_names():
    directories = [
        "masks",
        "weights",
        "snapshots",
        "samples",
        "latent",
        "search",
        "plots",
        "tb",
        "compact_",
        "dense_",
        "seed_",
    ]
    names = sorted({path.name for path in paths(Workdir("run")) if "7" not in path.name and path.suffix} - {"*.svg"})
    pattern = re.compile(rf"""/ f?["']({"|".join(map(re.escape, names + directories))})""")
    assert pattern.search('path / "rounds.csv"') and pattern.search('path / f"seed_{seed}"')
    for folder in ("jaxtickets", "launch"):
        for module in (ROOT / folder).rglob("*.py"):
            if module.name != "paths.py":
                assert not pattern.search(module.read_text()), module


def test_the_class_needs_neither_jax_nor_orbax_nor_tensorboard():
    heavy = ("jax", "flax", "orbax", "tensorboardX", "matplotlib", "PIL")
    script = f"import sys, jaxtickets.workdir; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "[]\n"


# The config.


def started(path, config=CONFIG):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"config": config}))
    return Workdir(path)


def test_a_new_workdir_says_what_it_was_started_with(tmp_path):
    workdir = Workdir(tmp_path / "a" / "run")
    assert not workdir.is_started and workdir.read_config() is None
    config = completed(CONFIG, DEFAULTS)
    workdir.create(config, DEFAULTS)
    assert workdir.is_started and not workdir.is_finished and workdir.read_config() == config
    origin = workdir.read_origin()
    assert set(origin) == {"config", "command", "versions", "devices", "cpu_count", "git_revision", "checksums"}
    workdir.create(config, DEFAULTS)
    assert workdir.read_origin() == origin


def test_the_names_for_reports_are_written_once_beside_the_config(tmp_path):
    workdir, about = Workdir(tmp_path / "run"), {"title": "imp, magnitude", "columns": {}, "metrics": {}}
    config = completed(CONFIG, DEFAULTS)
    workdir.create(config, DEFAULTS, about)
    assert workdir.read_origin()["about"] == about and workdir.read_config() == config
    workdir.create(config, DEFAULTS, about | {"title": "another"})
    assert workdir.read_origin()["about"] == about


def test_a_workdir_without_names_for_reports_is_resumed_as_it_is(tmp_path):
    workdir = started(tmp_path / "run")
    workdir.create(completed(CONFIG, DEFAULTS), DEFAULTS, {"title": "imp"})
    assert workdir.read_origin() == {"config": CONFIG}


def test_an_absent_field_counts_with_its_default(tmp_path):
    workdir = started(tmp_path / "run")
    same = {"seed": 3, "prune": {"rate": 0.2, "include": ("kernel$",), "scope": "global"}, "eval": {"metrics": ()}}
    workdir.check_same(same, DEFAULTS)
    workdir.create(same, DEFAULTS)
    assert workdir.read_config() == CONFIG
    with pytest.raises(UserError, match="prune.scope is 'global' there and 'erk' here; give another --workdir"):
        workdir.check_same(same | {"prune": same["prune"] | {"scope": "erk"}}, DEFAULTS)
    with pytest.raises(UserError, match=r"eval.metrics is \[\] there and \['fd'\] here"):
        workdir.check_same(same | {"eval": {"metrics": ("fd",)}}, DEFAULTS)


def test_a_field_that_is_there_no_longer_is_named(tmp_path):
    with pytest.raises(UserError, match="prune.old is 1 there and 'absent' here"):
        started(tmp_path / "run", {"prune": {"old": 1}}).check_same(DEFAULTS, DEFAULTS)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"config": 1}'])
def test_a_directory_without_a_readable_config_is_no_workdir(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="has no readable config.json; give another directory"):
        Workdir(tmp_path).check_same(CONFIG, DEFAULTS)
    assert Workdir(tmp_path).read_origin() is None and Workdir(tmp_path).read_config() is None


def test_a_value_in_the_place_of_a_group_is_a_difference():
    there = completed({"seed": {"of": 1}, "prune": 2}, DEFAULTS)
    assert "prune is 2 there" in (text := differences(there, DEFAULTS)) and "seed.of is 1 there" in text


def test_nested_fields_are_named_by_their_dotted_paths():
    assert flat({"seed": 1, "prune": {"rate": 0.2, "of": {"a": []}}, "none": {}}) == {
        "seed": 1,
        "prune.rate": 0.2,
        "prune.of.a": [],
    }


def test_a_directory_that_cannot_be_written_is_refused_and_nothing_is_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--workdir=.*file: is a file; allowed"):
        Workdir(tmp_path / "file").check_writable()
    with pytest.raises(UserError, match="file can't be written; allowed"):
        Workdir(tmp_path / "file" / "below").check_writable()
    Workdir(tmp_path / "new" / "run").check_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Files.


def test_what_is_written_is_read(tmp_path):
    workdir = Workdir(tmp_path)
    rows = [{"round": 0, "loss": 0.5, "name": "a"}, {"round": 1, "loss": None, "name": "b", "more": 2}]
    workdir.write_rounds(rows)
    assert workdir.read_rounds() == [rows[0] | {"more": None}, rows[1]]
    workdir.write_layers(rows[:1])
    assert workdir.read_layers() == rows[:1]
    workdir.write_verdict({"winning_round": 1})
    assert workdir.read_verdict() == {"winning_round": 1} and workdir.is_finished
    workdir.write_references({"loss": {"held_out": None, "untrained": 2.5}})
    assert workdir.read_references() == {"loss": {"held_out": None, "untrained": 2.5}}
    grid = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    workdir.write_samples(12, grid)
    np.testing.assert_array_equal(workdir.read_samples(12), grid)
    assert workdir.list_samples() == {12: tmp_path / "samples" / "round_012.png"}
    masks = np.arange(6, dtype=np.uint8).reshape(2, 3)
    workdir.write_search(2, {"steps": [1, 2]}, masks)
    content, saved = workdir.read_search(2)
    assert content == {"steps": [1, 2]} == workdir.read_searches()[2]
    np.testing.assert_array_equal(saved, masks)


def test_of_an_empty_directory_there_is_nothing_to_read(tmp_path):
    workdir = Workdir(tmp_path)
    assert workdir.read_rounds() == workdir.read_layers() == workdir.read_scalars() == []
    assert workdir.read_verdict() is workdir.read_search(1) is None
    assert workdir.read_searches() == workdir.list_samples() == workdir.seed_dirs() == {}
    workdir.write_rounds([])
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_of_another_name_is_a_programming_error():
    with pytest.raises(ValueError, match="allowed are init, rewind, dense, start, last, search"):
        Workdir("run").snapshot("first")


def test_scalars_that_will_be_written_again_are_dropped_and_a_cut_line_too(tmp_path):
    workdir = Workdir(tmp_path)
    rows = [{"round": round_, "step": step, "split": "train"} for round_ in (0, 1) for step in (10, 20)]
    workdir.scalars.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"round": 1, "st')
    scalars = workdir.open_scalars(keep=lambda row: row["round"] == 0 or row["step"] < 20)
    scalars.write(1, 20, "train", 1.23456, {"loss": 0.5})
    scalars.close()
    again = {"round": 1, "step": 20, "split": "train", "seconds": 1.235, "loss": 0.5}
    assert workdir.read_scalars() == [*rows[:3], again]
    assert workdir.read_scalars(1) == [rows[2], again]
    assert [path.name for path in workdir.tensorboard.iterdir()] == ["round_001"]


def test_a_seed_without_a_directory_of_its_own_is_the_workdir_itself(tmp_path):
    workdir = Workdir(tmp_path)
    assert workdir.seed(0) == workdir
    (tmp_path / "seed_10").mkdir()
    (tmp_path / "seed_9").mkdir()
    assert workdir.seed(9) == workdir.seed_dir(9) != workdir == workdir.seed(0)
    assert list(workdir.seed_dirs().items()) == [(9, workdir.seed_dir(9)), (10, workdir.seed_dir(10))]


# Going back.


def finished_run(path, rounds=4):
    """The workdir of an early-bird run with every file that a run can have, and leftovers of a kill."""
    workdir = started(path)
    workdir.write_rounds([{"round": round_} for round_ in range(rounds)])
    workdir.write_layers([{"round": round_, "layer": "a"} for round_ in range(rounds) for _ in range(2)])
    workdir.write_verdict({})
    workdir.write_references({"loss": {"untrained": 1.0}})
    workdir.write_transfer({})
    for name in SNAPSHOTS:
        workdir.snapshot(name).mkdir(parents=True)
    for round_ in range(rounds):
        workdir.samples(round_).parent.mkdir(exist_ok=True)
        workdir.samples(round_).touch()
        workdir.weights(round_).parent.mkdir(exist_ok=True)
        workdir.weights(round_).touch()
        workdir.masks(round_).mkdir(parents=True)
        if round_:
            workdir.write_search(round_, {}, np.zeros((0, 0)))
            workdir.search_end(round_).mkdir()
            for inner in (workdir.compact(round_), workdir.narrow(round_)):
                inner.path.mkdir()
    for name in ("masks/003.orbax-checkpoint-tmp-7", "search/.003-a1b2.json", "samples/.round_003-a1.png"):
        (path / name).touch()
    workdir.ticket.touch()
    return workdir


def names(workdir):
    return {path.relative_to(workdir.path).as_posix() for path in workdir.path.rglob("*")}


def test_going_back_keeps_the_masks_and_searches_up_to_the_round_and_the_results_before_it(tmp_path):
    workdir = finished_run(tmp_path / "run")
    before = names(workdir)
    workdir.discard_from(2)
    assert [row["round"] for row in workdir.read_rounds()] == [0, 1]
    assert [row["round"] for row in workdir.read_layers()] == [0, 0, 1, 1]
    assert before - names(workdir) == {
        *("verdict.json", "ticket.safetensors"),
        *("snapshots/last", "snapshots/search", "snapshots/start", "snapshots/search_003"),
        *("samples/round_002.png", "samples/round_003.png", "weights/002.safetensors", "weights/003.safetensors"),
        *("masks/003", "search/003.json", "search/003.npz"),
        *(f"{kind}_{round_}" for kind in ("compact", "dense") for round_ in ("002", "003")),
    }


def test_going_back_to_the_dense_round_keeps_its_masks_alone(tmp_path):
    workdir = finished_run(tmp_path / "run")
    workdir.discard_from(0)
    left = {name for name in names(workdir) if not re.search(r"tmp|/\.", name)}
    files_left = {"checksums.json", "config.json", "transfer.json"}
    assert left == files_left | {"masks", "masks/000", "samples", "search", "weights"}


@pytest.mark.parametrize("round_", [-1, 4])
def test_going_back_to_a_round_that_is_not_finished_is_refused_and_nothing_goes(tmp_path, round_):
    workdir = finished_run(tmp_path / "run")
    before = names(workdir)
    with pytest.raises(UserError, match=f"--from_round={round_}: no such finished round in .*run; allowed are 0 to 3"):
        workdir.discard_from(round_)
    assert names(workdir) == before


def kill_after(deletions, monkeypatch):
    """Makes the process end before the deletion of one more file or directory."""
    left = deletions

    def and_count(delete):
        def counted(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return delete(*arguments, **options)

        return counted

    monkeypatch.setattr(Path, "unlink", and_count(Path.unlink))
    monkeypatch.setattr(shutil, "rmtree", and_count(shutil.rmtree))


def test_a_kill_while_going_back_leaves_no_masks_without_their_search_and_no_row_of_a_discarded_round(tmp_path):
    for deletions in range(100):
        workdir = finished_run(tmp_path / str(deletions))
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_after(deletions, monkeypatch)
            try:
                workdir.discard_from(1)
                break
            except KeyboardInterrupt:
                pass
        rows = workdir.read_rounds()
        assert [row["round"] for row in rows] in ([0], [0, 1, 2, 3])
        if len(rows) == 4:
            assert workdir.is_finished and workdir.ticket.exists()
        for round_ in (1, 2, 3):
            if workdir.masks(round_).exists():
                assert workdir.read_search(round_) and workdir.search_end(round_).exists()
    assert deletions > 10


# Files that are replaced as a whole.


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    files.replace(tmp_path / "a" / "file", b"old")
    with pytest.raises(RuntimeError), files.atomic_write(tmp_path / "a" / "file") as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError
    assert [path.read_bytes() for path in (tmp_path / "a").iterdir()] == [b"old"]


def test_a_cut_row_of_a_table_is_left_out(tmp_path):
    expected = [{"a": 1, "b": 2.5, "c": "x"}, {"a": 2, "b": None, "c": "y"}]
    assert files.parse_csv(b"a,b,c\n1,2.5,x\n2,,y\n3,4") == expected


def test_a_workdir_has_something_saved_once_a_train_state_of_any_seed_is_there(tmp_path):
    place = Workdir(tmp_path)
    place.seed_dir(3).snapshot("last").mkdir(parents=True)
    (place.seed_dir(3).snapshot("last") / ".1.new").mkdir()
    place.seed_dir(3).snapshot("dense").mkdir()
    assert not place.has_saved
    (place.seed_dir(3).snapshot("last") / "1").mkdir()
    assert place.has_saved and place.seed_dir(3).has_saved
