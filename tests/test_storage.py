"""What is saved is there whole or not at all, and damage is seen: snapshots, small files, logged scalars."""

import errno
import gc
import json
import logging
import os
import re
import resource
import shutil
import struct
import threading
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint
import pytest
from conftest import Killed
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxtickets import files, scalars, snapshots
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.runs import saved
from jaxtickets.verified import Verified
from jaxtickets.workdir import Workdir

TREE = {"weights": np.arange(300_000, dtype=np.float32).reshape(500, 600), "step": np.int32(7), "none": None}
OTHER = {"weights": -TREE["weights"], "step": np.int32(8), "none": None}
MASKS = {"layer": {"kernel": np.arange(60).reshape(6, 10) % 3 > 0, "bias": None}}


def assert_equal(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == other.dtype
        np.testing.assert_array_equal(leaf, other)


def kill_after(operations, monkeypatch):
    """Makes this process end before one more file operation of the project's own."""
    left = operations

    def counted(function):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*arguments, **options)

        return call

    for owner, name in (
        *((Path, name) for name in ("mkdir", "rename", "unlink", "write_bytes")),
        *((os, name) for name in ("replace", "fsync")),
        (shutil, "rmtree"),
        (orbax.checkpoint.Checkpointer, "save"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


def damages(content: bytes):
    """Contents that a damaged file may have; the last one is no content, for a file that is gone."""
    for place in {0, len(content) // 3, len(content) // 2, len(content) - 1} if content else ():
        yield content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
    yield from (content[: len(content) // 2], b"", b"\0" * len(content), None)


def hidden(directory):
    return [path.name for path in directory.iterdir() if path.name.startswith(".") or "tmp" in path.name]


def assert_nothing_is_left(directory):
    """At a later start; TensorStore's threads may still write for a moment after one of them has failed."""
    end = time.monotonic() + 10
    while hidden(directory) and time.monotonic() < end:
        time.sleep(0.05)
        snapshots.recover(directory)
    assert hidden(directory) == []


# Snapshots.


def test_a_kill_at_any_point_of_a_save_leaves_the_old_snapshot_or_the_new_one(tmp_path):
    outcomes = set()
    snapshots.save(tmp_path / "before", TREE)
    for operations in range(200):
        path = tmp_path / str(operations) / "state"
        shutil.copytree(tmp_path / "before", path)
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_after(operations, monkeypatch)
            try:
                snapshots.save(path, OTHER)
                is_saved = True
            except Killed:
                is_saved = False
        snapshots.recover(path.parent)
        assert hidden(path.parent) == []
        step = int(snapshots.restore(path, TREE)["step"])
        assert_equal(snapshots.restore(path, TREE), TREE if step == 7 else OTHER)
        outcomes.add(step)
        shutil.rmtree(path.parent)
        if is_saved:
            break
    assert is_saved and operations > 10 and outcomes == {7, 8}


def test_an_older_version_killed_while_it_replaced_a_snapshot_leaves_something_that_is_seen_as_damaged(tmp_path):
    snapshots.save(tmp_path / "001", TREE)
    shutil.rmtree(tmp_path / "001" / "ocdbt.process_0")
    shutil.rmtree(tmp_path / "001" / "d")
    (tmp_path / "001.orbax-checkpoint-tmp-3").mkdir()
    snapshots.recover(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["001"]
    with pytest.raises(DamagedError, match=r"001: is damaged \("):
        snapshots.restore(tmp_path / "001", TREE)


def test_every_damaged_file_of_a_snapshot_is_harmless_or_seen(tmp_path, capsys):
    path, seen = tmp_path / "state", 0
    snapshots.save(path, TREE)
    for file in [file for file in path.rglob("*") if file.is_file()]:
        content = file.read_bytes()
        for damaged in damages(content):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            try:
                assert_equal(snapshots.restore(path, TREE), TREE)
                assert_equal(snapshots.restore_raw(path), TREE)
            except DamagedError as error:
                assert str(error).startswith(f"{path}: is damaged (") and len(str(error)) < 400
                seen += 1
            file.write_bytes(content)
    assert seen > 10
    assert "Traceback" not in capsys.readouterr().err


def test_another_content_is_seen_though_orbax_can_read_it(tmp_path):
    snapshots.save(tmp_path / "state", TREE)
    snapshots.save(tmp_path / "other", OTHER)
    shutil.copy(tmp_path / "state" / snapshots.CHECKSUM, tmp_path / "other")
    with pytest.raises(DamagedError, match="is not what was saved"):
        snapshots.restore(tmp_path / "other", TREE)
    assert snapshots.is_same(tmp_path / "other", TREE) and not snapshots.is_same(tmp_path / "other", OTHER)


def test_a_snapshot_of_an_older_version_is_restored(tmp_path):
    tree = {name: leaf for name, leaf in TREE.items() if leaf is not None} | {"seconds": np.float32(0.5)}
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {**tree, "weights": jax.device_put(tree["weights"])})
    assert_equal(snapshots.restore(tmp_path / "state", tree), tree)
    assert not snapshots.is_same(tmp_path / "state", tree)


def test_a_snapshot_of_other_shapes_is_refused(tmp_path):
    snapshots.save(tmp_path / "state", {"weights": np.zeros((2, 3))})
    with pytest.raises(DamagedError, match="arrays of other shapes"):
        snapshots.restore(tmp_path / "state", {"weights": np.zeros((3, 2))})


def test_nothing_is_kept_of_a_snapshot_that_has_been_read_or_written(tmp_path):
    def objects_after(times):
        for _ in range(times):
            snapshots.save(tmp_path / "state", TREE)
            snapshots.restore(tmp_path / "state", TREE)
            snapshots.restore_raw(tmp_path / "state")
        gc.collect()
        return len(gc.get_objects())

    before = objects_after(3)
    assert objects_after(10) - before < 10


@pytest.fixture
def small_files():
    """Files of this process can't grow beyond 50 kB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def random_tree():
    return {name: np.random.default_rng(0).random(200_000) for name in "ab"}


def test_a_save_that_fails_leaves_the_old_snapshot_and_no_thread(tmp_path, request, capfd):
    snapshots.save(tmp_path / "state", TREE)
    threads = set(threading.enumerate())
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match="File too large") as caught:
        snapshots.save(tmp_path / "state", random_tree())
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "state")
    assert set(threading.enumerate()) == threads
    assert_nothing_is_left(tmp_path)
    assert_equal(snapshots.restore(tmp_path / "state", TREE), TREE)
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_that_somebody_has_removed_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        snapshots.save(tmp_path / "run" / "masks" / "000", TREE)
    with pytest.raises(FileNotFoundError, match="run"):
        Workdir(tmp_path / "run").write_verdict({})
    assert list(tmp_path.iterdir()) == []


def test_threads_save_at_once(tmp_path):
    def save(number):
        for repetition in range(3):
            snapshots.save(tmp_path / str(number), {"a": np.full(1000, number * 10 + repetition)})

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert set(snapshots.restore_raw(tmp_path / str(number))["a"]) == {number * 10 + 2}


def test_failures_of_other_libraries_are_still_logged():
    snapshots.exists("anything")
    record = logging.LogRecord("absl", logging.ERROR, "/somewhere/else.py", 1, "text", None, None)
    assert logging.getLogger("absl").filter(record)


# The last train states.


def saved_steps(states):
    """Saves three states, of steps 1 to 3 of round 4."""
    for step in (1, 2, 3):
        states.save(4, TREE | {"step": np.int32(step)}, MASKS, 12, step / 3)
    states.wait()


def damage(directory):
    for file in directory.rglob("manifest.ocdbt"):
        file.write_bytes(b"")


def test_the_newest_state_is_restored_and_the_one_before_it_where_it_is_damaged(tmp_path, capsys):
    states = snapshots.LastState(tmp_path / "last")
    saved_steps(states)
    states.close()
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["2", "3"]
    states = snapshots.LastState(tmp_path / "last")
    last = states.restore(TREE, MASKS)
    assert (last.round, int(last.state["step"]), last.stop, last.seconds) == (4, 3, 12, 1.0)
    assert_equal(last.masks, MASKS)
    assert capsys.readouterr().err == ""

    damage(tmp_path / "last" / "3")
    last = states.restore(TREE, MASKS)
    assert (int(last.state["step"]), last.seconds) == (2, 2 / 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert "last/3: is damaged" in line
    states.save(4, TREE, MASKS, 12, 1.0)
    states.close()
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["2", "4"]

    damage(tmp_path / "last" / "2")
    damage(tmp_path / "last" / "4")
    assert snapshots.LastState(tmp_path / "last").restore(TREE, MASKS) is None
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_state_that_can_not_stand_in_for_a_damaged_one_is_not_used(tmp_path):
    states = snapshots.LastState(tmp_path / "last")
    saved_steps(states)
    assert int(states.restore(TREE, MASKS, lambda last: False).state["step"]) == 3
    damage(tmp_path / "last" / "3")
    assert states.restore(TREE, MASKS, lambda last: False) is None
    assert int(states.restore(TREE, MASKS, lambda last: last.round == 4).state["step"]) == 2


def test_the_last_state_of_an_older_version_is_restored(tmp_path):
    packed = snapshots.packed(MASKS)
    numbers = {"round": np.int32(2), "stop": np.int32(9), "seconds": np.float64(1.5)}
    tree = {name: leaf for name, leaf in TREE.items() if leaf is not None}
    with orbax.checkpoint.CheckpointManager(tmp_path / "last") as manager:
        manager.save(5, args=orbax.checkpoint.args.StandardSave({**numbers, "state": tree, "masks": packed}))
    states = snapshots.LastState(tmp_path / "last")
    last = states.restore(tree, MASKS)
    assert (last.round, last.stop, last.seconds) == (2, 9, 1.5)
    assert_equal(last.state, tree)
    states.save(2, tree, MASKS, 9, 2.0)
    states.close()
    assert snapshots.LastState(tmp_path / "last").restore(tree, MASKS).seconds == 2.0


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), ValueError("a: Too many open files [b]"), MemoryError()])
def test_a_machine_that_fails_to_read_now_is_no_damage(tmp_path, monkeypatch, error):
    snapshots.save(tmp_path / "state", TREE)

    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(orbax.checkpoint.Checkpointer, "restore", fails)
    with pytest.raises((OSError, MemoryError)) as caught:
        snapshots.restore(tmp_path / "state", TREE)
    assert isinstance(caught.value, MemoryError) or caught.value.filename == str(tmp_path / "state")


@pytest.mark.parametrize("name", ["run[1]", "a*b", "what?", "a\\b", "a\udc80"])
def test_a_path_under_which_orbax_can_not_save_is_refused_before_anything_is_written(tmp_path, name):
    for path in (tmp_path / name, tmp_path / name / "run"):
        with pytest.raises(UserError, match="^--workdir=.*: its path holds .*, which Orbax can't save under"):
            Workdir(path).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_background_save_that_fails_is_an_error_at_the_next_call_and_leaves_no_thread(tmp_path, request):
    states = snapshots.LastState(tmp_path / "last")
    saved_steps(states)
    threads = set(threading.enumerate())
    request.getfixturevalue("small_files")
    for call in (states.wait, states.close, lambda: states.save(5, TREE, MASKS, 12, 2.0)):
        states.save(4, random_tree(), MASKS, 12, 2.0)
        with pytest.raises(OSError, match="File too large"):
            call()
        states.wait()
    assert set(threading.enumerate()) == threads
    assert int(snapshots.LastState(tmp_path / "last").restore(TREE, MASKS).state["step"]) == 3


# Small files.


def small_workdir(path):
    """A workdir with every kind of file that has a checksum, each written twice."""
    workdir = Workdir(path)
    workdir.create({"seed": 1}, {})
    for number in (1, 2):
        rows = [{"round": round_, "loss": 0.25 * number} for round_ in range(number)]
        workdir.write_rounds(rows)
        workdir.write_layers(rows)
        workdir.write_verdict({"winning_round": number})
        workdir.write_references({"loss": {"untrained": 0.5 * number}})
        workdir.write_samples(0, np.full((4, 4, 3), number, np.uint8))
        workdir.write_search(1, {"steps": [number]}, np.full((1, 3), number, np.uint8))
    return workdir


def content_of(workdir):
    return {
        workdir.config: lambda: workdir.read_config(),
        workdir.rounds: workdir.read_rounds,
        workdir.layers: workdir.read_layers,
        workdir.verdict: workdir.read_verdict,
        workdir.references: workdir.read_references,
        workdir.samples(0): lambda: workdir.read_samples(0).tolist(),
        workdir.search(1): lambda: workdir.read_search(1)[0],
        workdir.search(1).with_suffix(".npz"): lambda: workdir.read_search(1)[1].tolist(),
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_workdir(tmp_path_factory.mktemp("small") / "run")


@given(st.data())
def test_a_flipped_bit_in_any_small_file_is_seen(small, data):
    path = data.draw(st.sampled_from(list(content_of(small))))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match=re.escape(f"{path}: is damaged")):
            content_of(small)[path]()
    finally:
        path.write_bytes(content)
    content_of(small)[path]()


def test_a_table_that_has_gone_is_seen(tmp_path):
    workdir = small_workdir(tmp_path / "run")
    workdir.rounds.unlink()
    with pytest.raises(DamagedError, match=r"rounds\.csv: is missing; put back a copy of it, or run .*--from_round=0"):
        workdir.read_rounds()
    workdir.write_rounds([])
    assert workdir.read_rounds() == []


def test_a_damaged_table_is_told_with_the_way_to_a_new_one(tmp_path):
    whole = small_workdir(tmp_path / "run")
    seed, alone = small_workdir(whole.seed_dir(3).path), small_workdir(tmp_path / "alone")
    ways = {
        whole: r"the command of its run writes it again$",
        seed: r"put back a copy of it, or remove .*seed_3, and the command of its run makes all of it again$",
        alone: r"put back a copy of it, or run all rounds again with --from_round=0$",
    }
    for workdir, way in ways.items():
        workdir.layers.write_text("round\n7\n")
        with pytest.raises(DamagedError, match=rf"layers.csv: is damaged \(it is not what was written\); {way}"):
            workdir.read_layers()


def test_damaged_checksums_are_told_and_the_files_are_read_without(tmp_path, capsys):
    workdir = small_workdir(tmp_path / "run")
    expected = {path: read() for path, read in content_of(workdir).items()}
    content = workdir.checksums.read_bytes()
    for damaged in damages(content):
        workdir.checksums.unlink() if damaged is None else workdir.checksums.write_bytes(damaged)
        again = Workdir(workdir.path)
        assert {path: read() for path, read in content_of(again).items()} == expected
        told = capsys.readouterr().err.splitlines()
        assert [line for line in told if "checksums.json: is " in line] == told and len(told) == 1
    workdir.write_rounds([{"round": 0, "loss": 1}])
    workdir.rounds.write_bytes(b"round,loss\n0,2\n")
    with pytest.raises(DamagedError):
        workdir.read_rounds()


def test_checksums_that_an_older_version_has_not_written_are_not_missed(tmp_path, capsys):
    workdir = small_workdir(tmp_path / "run")
    origin = {name: value for name, value in workdir.read_origin().items() if name != "checksums"}
    workdir.config.write_text(json.dumps(origin))
    workdir.checksums.unlink()
    assert content_of(Workdir(workdir.path)) and capsys.readouterr().err == ""


def test_a_kill_at_any_point_of_a_write_leaves_the_old_content_or_the_new_and_no_damage(tmp_path):
    seen = set()
    for operations in range(50):
        workdir = Workdir(tmp_path / str(operations))
        workdir.path.mkdir()
        workdir.write_verdict({"number": 1})
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_after(operations, monkeypatch)
            try:
                workdir.write_verdict({"number": 2})
                break
            except Killed:
                pass
        seen.add(workdir.read_verdict()["number"])
        workdir.write_verdict({"number": 3})
        assert workdir.read_verdict() == {"number": 3}
    assert operations > 5 and seen == {1, 2} or seen == {1}


def test_at_most_two_contents_of_a_file_are_right(tmp_path):
    verified, path = Verified(tmp_path / "checksums.json"), tmp_path / "a" / "file"
    for content in (b"one", b"two", b"three", b"three", b"four"):
        verified.write(path, content)
        assert verified.read(path) == content
        assert len(json.loads((tmp_path / "checksums.json").read_text())["files"]["a/file"]) <= 2
    path.write_bytes(b"three")
    assert verified.read(path) == b"three"
    path.write_bytes(b"one")
    with pytest.raises(DamagedError):
        verified.read(path)
    verified.write(path, b"five")
    path.write_bytes(b"one")
    with pytest.raises(DamagedError):
        verified.read(path)
    verified.remove(path)
    assert verified.read(path) is None
    path.write_bytes(b"of an older version")
    assert verified.read(path) == b"of an older version"


@given(st.binary(max_size=200))
def test_files_without_checksums_are_read_or_refused_in_a_line(tmp_path_factory, content):
    workdir = Workdir(tmp_path_factory.mktemp("older"))
    for path, read in content_of(workdir).items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if path.parent.name == "search":
            path.with_suffix(".npz").write_bytes(content)
            path.with_suffix(".json").write_bytes(content if path.suffix == ".json" else b"{}")
        try:
            read()
        except DamagedError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_a_row_without_a_round_is_damage(tmp_path):
    (tmp_path / "rounds.csv").write_text("round,loss\n,1\n")
    with pytest.raises(DamagedError, match=r"rounds.csv: a row has no round; put back a copy"):
        Workdir(tmp_path).read_rounds()


def searching(workdir, has_searched):
    """What restoring a search needs of a run: masks are due at steps 10, 20, 30 and 40."""
    config = SimpleNamespace(experiment="early_bird")
    return SimpleNamespace(
        place=workdir,
        setup=SimpleNamespace(config=SimpleNamespace(seeds=1, **vars(config))),
        is_inner=False,
        timeline=SimpleNamespace(search_steps=range(10, 50, 10)),
        has_searched=lambda round_: has_searched,
    )


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("content", [b"damaged", None])
def test_a_search_whose_masks_are_damaged_or_gone_starts_again_and_an_ended_one_is_named(tmp_path, suffix, content):
    workdir, state = Workdir(tmp_path), SimpleNamespace(round=2, state=SimpleNamespace(step=25))
    for steps in ([10], [10, 20]):
        workdir.write_search(2, {"steps": steps}, np.zeros((len(steps), 3), np.uint8))
    assert saved.is_whole_search(searching(workdir, False), state)
    state.state.step = 31
    assert not saved.is_whole_search(searching(workdir, False), state)

    path = workdir.search(2).with_suffix(suffix)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"search/002\..*--from_round=1 makes it again"):
        saved.search(searching(workdir, True), 2)
    state.state.step = 25
    assert not saved.is_whole_search(searching(workdir, False), state)
    assert saved.search(searching(workdir, False), 2) is None


# Whose files these are.


@pytest.mark.parametrize("names", [["report.html", "samples/a.png"], ["notes.txt"], ["a", "b", "c", "d", "e"]])
def test_a_directory_with_files_of_somebody_is_refused_and_left_alone(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    for call in (Workdir(tmp_path).check_writable, lambda: Workdir(tmp_path).create({}, {})):
        with pytest.raises(UserError, match=r"--workdir=.*: has no config\.json, but .*; allowed is a new or an empty"):
            call()
    assert all((tmp_path / name).read_text() == "mine" for name in names)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(names)


def test_a_kill_before_the_config_is_written_leaves_a_directory_that_is_used(tmp_path):
    for operations in range(50):
        workdir = Workdir(tmp_path / str(operations))
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_after(operations, monkeypatch)
            try:
                workdir.create({"seed": 1}, {})
                break
            except Killed:
                pass
        workdir.check_writable()
        workdir.create({"seed": 1}, {})
        assert workdir.read_config() == {"seed": 1} and hidden(workdir.path) == []
    assert operations > 3


def test_leftovers_of_kills_are_removed_and_hidden_files_of_others_stay(tmp_path):
    workdir = small_workdir(tmp_path / "run")
    ours = [
        ".metrics-a1b2c3d4.jsonl",
        ".verdict-abcd_123.json",
        ".transfer-abcdefgh.json",
        "samples/.round_001-12345678.png",
    ]
    ours += [
        "search/.001-12345678.npz",
        "search/.001-12345678.json",
        ".checksums-12345678.json",
        ".report-12345678.html",
    ]
    others = [".DS_Store", ".notes-12345678.txt", "samples/.DS_Store", "samples/best so far.png", ".git"]
    for name in (*ours, *others):
        (workdir.path / name).touch()
    workdir.create({"seed": 1}, {})
    assert not any((workdir.path / name).exists() for name in ours)
    assert all((workdir.path / name).exists() for name in others)


def test_a_kill_while_results_are_discarded_leaves_nothing_once_the_run_goes_on(tmp_path, monkeypatch):
    rmtree = shutil.rmtree

    def dies(path, **options):
        if str(path).endswith(".gone") and not options:
            raise Killed
        rmtree(path, **options)

    workdir = small_workdir(tmp_path / "run")
    for directory in (workdir.snapshot("last"), workdir.compact(1).path, workdir.narrow(2).path):
        directory.mkdir(parents=True)
    workdir.write_rounds([{"round": 0}])
    for _ in range(3):
        monkeypatch.setattr(shutil, "rmtree", dies)
        with pytest.raises(Killed):
            workdir.discard_from(0)
        monkeypatch.undo()
        workdir.write_rounds([{"round": 0}])
    assert len(hidden(workdir.path)) == 3
    workdir.create({"seed": 1}, {})
    assert hidden(workdir.path) == []


STRAYS = (
    "masks/.DS_Store",
    "masks/1",
    "masks/0001",
    "masks/002 copy",
    "samples/best so far.png",
    "samples/round_2.png",
)


def test_only_results_with_exact_names_are_found_and_discarded(tmp_path):
    workdir = small_workdir(tmp_path / "run")
    workdir.write_rounds([{"round": 0}, {"round": 1}, {"round": 2}])
    for round_ in range(3):
        workdir.masks(round_).mkdir(parents=True)
        workdir.write_samples(round_, np.zeros((2, 2, 3), np.uint8))
    for name in STRAYS:
        (workdir.path / name).touch()
    assert list(workdir.list_masks()) == list(workdir.list_samples()) == [0, 1, 2]
    workdir.discard_from(1)
    assert list(workdir.list_masks()) == [0, 1] and list(workdir.list_samples()) == [0]
    assert all((workdir.path / name).exists() for name in STRAYS)


@pytest.mark.parametrize("name", ["rounds", "layers"])
def test_nothing_is_discarded_where_a_table_is_damaged_but_everything_can_be(tmp_path, name):
    workdir = small_workdir(tmp_path / "run")
    getattr(workdir, name).write_bytes(b"round,loss\n0,9\n1,9\n")
    before = {path: path.read_bytes() for path in workdir.path.rglob("*") if path.is_file()}
    with pytest.raises(DamagedError, match=f"{name}.csv: is damaged .*--from_round=0"):
        workdir.discard_from(1)
    assert before == {path: path.read_bytes() for path in workdir.path.rglob("*") if path.is_file()}
    workdir.discard_from(0)
    assert workdir.read_rounds() == workdir.read_layers() == [] and workdir.is_started and not workdir.is_finished


# Logged scalars.

ROWS = [
    {"round": round_, "step": step, "split": "train", "seconds": 0.1 * step, "loss": step / 7, "note": "a, b"}
    for round_ in (0, 1)
    for step in (10, 20, 30)
]


def log(path, rows, keep=lambda row: True, recorded=()):
    opened = scalars.Scalars(path / "metrics.jsonl", path / "tb", keep, lambda: recorded)
    for row in rows:
        opened.write(
            row["round"], row["step"], row["split"], row["seconds"], {k: row[k] for k in row if k in ("loss", "kl")}
        )
    return opened


def logged(rows):
    return [{name: row[name] for name in ("round", "step", "split", "seconds", "loss")} for row in rows]


def test_the_last_key_of_a_line_is_the_crc32_of_the_line_without_it(tmp_path):
    log(tmp_path, ROWS).close()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        *row, (key, crc32) = json.loads(line, object_pairs_hook=list)
        assert key == "crc32" and crc32 == zlib.crc32(json.dumps(dict(row)).encode())
    rows = scalars.read(tmp_path / "metrics.jsonl")
    assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in logged(ROWS)]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("lines")
    log(path, ROWS).close()
    return path / "metrics.jsonl", (path / "metrics.jsonl").read_bytes(), scalars.read(path / "metrics.jsonl")


@given(st.data())
def test_a_damaged_line_is_left_out_and_told_and_no_number_changes(lines, data):
    file, content, rows = lines
    bit = data.draw(st.integers(0, 8 * len(content) - 9))  # Of the last line break, too, only a cut line is left.
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)
    with pytest.MonkeyPatch.context() as monkeypatch:
        told = []
        monkeypatch.setattr(scalars, "say", told.append)
        found = scalars.read(file)
    assert len(rows) - 2 <= len(found) < len(rows) and all(row in rows for row in found)
    assert len(told) == 1 and re.search(r"metrics.jsonl: [12] of \d lines are damaged and are left out", told[0])


def test_a_cut_last_line_is_left_out_without_a_word(lines, capsys):
    file, content, rows = lines
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        found = scalars.read(file)
        assert found == rows[: len(found)] and len(found) >= content[:length].count(b"\n")
    assert capsys.readouterr().err == ""


def test_lines_whose_end_is_zeros_are_told(lines, capsys):
    file, content, rows = lines
    for length in range(0, len(content) - 1, 7):
        file.write_bytes(content[:length] + bytes(len(content) - length))
        found = scalars.read(file)
        assert found == rows[: len(found)] and len(found) == content[:length].count(b"\n")
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{file}: 1 of {len(found) + 1} lines are damaged and are left out" in line


def test_lines_of_an_older_version_have_no_checksums(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert scalars.read(file) == ROWS
    log(tmp_path, []).close()
    assert all("crc32" in json.loads(line) for line in file.read_text().splitlines())
    assert scalars.read(file) == ROWS


def events(directory):
    """The points of a TensorBoard run by curve: `{tag: [(step, value)]}`; of an image the value is its size."""
    from tensorboardX.proto import event_pb2

    points = {}
    for file in directory.iterdir():
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                shown = (value.image.height, value.image.width) if value.HasField("image") else value.simple_value
                points.setdefault(value.tag, []).append((event.step, shown))
    return points


def test_every_point_is_in_tensorboard_at_once_and_without_a_thread(tmp_path):
    threads = set(threading.enumerate())
    opened = log(tmp_path, ROWS)
    assert set(threading.enumerate()) == threads
    for round_ in (0, 1):
        expected = [(step, pytest.approx(step / 7)) for step in (10, 20, 30)]
        assert events(tmp_path / "tb" / f"round_00{round_}") == {"train/loss": expected}
    opened.close()


def test_no_point_is_lost_or_double_where_a_killed_run_goes_on(tmp_path):
    grid = np.zeros((4, 6, 3), np.uint8)
    killed = log(tmp_path, ROWS[:5])
    killed.write_round(0, {"round": 0, "loss": 0.5, "none": None}, grid)
    shutil.rmtree(tmp_path / "tb" / "round_001")  # As if nothing of it had come to the disk.
    recorded = [({"round": 0, "loss": 0.5, "none": None}, grid)]
    again = log(tmp_path, ROWS[4:], keep=lambda row: (row["round"], row["step"]) < (1, 20), recorded=recorded)
    again.write_round(1, {"round": 1, "loss": 0.25}, None)
    again.close()
    for round_ in (0, 1):
        expected = [(step, pytest.approx(step / 7)) for step in (10, 20, 30)]
        assert events(tmp_path / "tb" / f"round_00{round_}") == {"train/loss": expected}
    found = events(tmp_path / "tb" / "rounds")
    assert found["rounds/loss"] == [(0, 0.5), (1, 0.25)] and found["samples"] == [(0, (4, 6))]
    assert "rounds/none" not in found


def test_samples_that_are_no_image_are_damaged(tmp_path):
    workdir = Workdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        workdir.read_samples(0)
    workdir.samples(0).parent.mkdir()
    workdir.samples(0).write_bytes(b"no image")
    with pytest.raises(DamagedError, match=r"round_000\.png: can't be read as an image"):
        workdir.read_samples(0)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(workdir.samples(0))
    assert workdir.read_samples(0).shape == (2, 2, 3)


def test_what_is_removed_leaves_its_name_at_once(tmp_path, monkeypatch):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: (_ for _ in ()).throw(Killed) if path.exists() else None)
    with pytest.raises(Killed):
        files.remove(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
