"""A sweep that is packed and unpacked elsewhere is the same one, whatever is left out, damaged or killed on the way."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from conftest import Killed, digests, finish, kill_after, load_config, open_run, tiny, untimed_rounds

import jaxtickets
from jaxtickets import lock, snapshots
from jaxtickets.errors import UserError
from jaxtickets.experiments import METHODS
from jaxtickets.metrics import FEATURE_NETWORKS
from jaxtickets.runs import Setup
from jaxtickets.workdir import Workdir
from launch import directory
from launch.packing import MANIFEST, checked, pack
from launch.sweep import main, sweep
from launch.unpacking import unpack

MADE_AGAIN = ("report.html", "plots/metric.png", "tb/round_000/events")
STATES = ("masks/000/d/a", "snapshots/init/d/a", "snapshots/last/4/d/a")
TABLES = ("config.json", "rounds.csv", "metrics.jsonl", "samples/round_000.png")
NETWORKS = ("weights/000.safetensors", "ticket.safetensors")
SIZES = {TABLES: 1000, NETWORKS: 10_000, STATES: 20_000}  # Bytes of each file.


class Place:
    """A directory with a sweep of runs that look as real ones do, and a file to pack it into."""

    def __init__(self, path):
        self.path, self.sweepdir, self.file = path, path / "sweep", path / "packed.tar.gz"
        self.sweepdir.mkdir()
        directory.write(self.sweepdir, directory.about("config.py:quick", []), [])
        self.write("logs/seed=0.log", b"some output")
        self.write("seed=9/notes.txt", b"no run")

    def write(self, name, content):
        path = self.sweepdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def run(self, name, rounds=0, is_finished=True):
        for names, size in SIZES.items():
            for file in names:
                self.write(f"{name}/{file}", os.urandom(size))
        self.write(f"{name}/config.json", b'{"config": {}}')
        self.write(f"{name}/rounds.csv", b"round\n" + b"".join(b"%d\n" % number for number in range(rounds)))
        for file in MADE_AGAIN:
            self.write(f"{name}/{file}", b"x")
        if is_finished:
            self.write(f"{name}/verdict.json", b"{}")

    def pack(self, **options):
        pack(self.sweepdir, self.file, **options)

    def unpacked(self, name="elsewhere"):
        unpack(self.file, self.path / name)
        return digests(self.path / name)

    def kept(self):
        """What of the sweep a copy elsewhere is to have."""
        found = {name: digest for name, digest in digests(self.sweepdir).items() if not name.endswith(MADE_AGAIN)}
        return {name: digest for name, digest in found.items() if not name.startswith(("logs/", "seed=9/"))}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))
    return Place(tmp_path)


@pytest.fixture
def runs(place):
    """A sweep of two finished runs and two that are not."""
    for number, (rounds, is_finished) in enumerate([(3, True), (1, False), (2, False), (3, True)]):
        place.run(f"seed={number}", rounds, is_finished)
    return place


def parts(names):
    """`{run: kinds of its files}` of what there is."""
    kinds = {file: kind for kind, files in zip("tns", (TABLES, NETWORKS, STATES), strict=True) for file in files}
    found = {}
    for name in names:
        owner, _, file = name.partition("/")
        if file in kinds:
            found.setdefault(owner, set()).add(kinds[file])
    return {owner: "".join(sorted(kinds)) for owner, kinds in found.items()}


def test_what_is_unpacked_is_what_was_packed_without_what_is_made_again(runs, capsys):
    runs.pack()
    assert runs.unpacked() == runs.kept()
    assert capsys.readouterr().out.splitlines()[1] == f"{runs.path / 'elsewhere'}: 4 runs from {runs.file}"


def test_runs_inside_a_run_are_packed_with_it(place):
    place.run("seed=0")
    for inner in ("seed_3", "seed_3/compact_002", "dense_001"):
        place.run(f"seed=0/{inner}")
    place.pack()
    assert place.unpacked() == place.kept()


def test_equal_files_make_equal_archives(runs):
    runs.pack()
    before = runs.file.read_bytes()
    for path in runs.sweepdir.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    runs.pack()
    assert runs.file.read_bytes() == before
    unpack(runs.file, runs.path / "elsewhere")
    pack(runs.path / "elsewhere", runs.path / "again.tar.gz")
    assert (runs.path / "again.tar.gz").read_bytes() == before


def test_other_programs_read_the_archive_and_find_no_links_and_no_hidden_names(runs):
    runs.pack()
    with tarfile.open(runs.file) as tar:
        members = tar.getmembers()
        assert all(member.isreg() for member in members)
        assert json.loads(tar.extractfile(MANIFEST).read())["sweep"] == {"config": "config.py:quick", "extra": []}
    assert not [member.name for member in members if "/." in member.name]


def test_of_finished_runs_alone_what_reports_read_can_be_packed(runs):
    runs.pack(tables=True)
    assert parts(runs.unpacked()) == {"seed=0": "t", "seed=3": "t"}


@pytest.mark.parametrize(
    "limit, expected",
    [
        (0.35, {"seed=0": "nst", "seed=1": "nst", "seed=2": "nst", "seed=3": "nst"}),
        (0.28, {"seed=0": "nst", "seed=1": "nst", "seed=2": "nst", "seed=3": "nt"}),
        (0.22, {"seed=0": "nt", "seed=1": "nst", "seed=2": "nst", "seed=3": "nt"}),
        (0.19, {"seed=0": "t", "seed=1": "nst", "seed=2": "nst", "seed=3": "t"}),
        (0.12, {"seed=0": "nt", "seed=2": "nst", "seed=3": "t"}),
        (0.011, {"seed=0": "t", "seed=3": "t"}),
        (0.006, {"seed=0": "t"}),
    ],
)
def test_within_a_limit_the_most_needed_is_taken_and_a_run_that_is_not_finished_whole_or_not_at_all(
    runs, limit, expected, capsys
):
    runs.pack(limit=limit)
    assert runs.file.stat().st_size <= limit * 1e6
    assert parts(runs.unpacked()) == expected
    told = capsys.readouterr().err
    for name in ("seed=0", "seed=1", "seed=2", "seed=3"):
        assert (f"{name}: " in told and "left out" in told) == (expected.get(name) != "nst"), told


def test_a_limit_within_which_there_is_nothing_is_refused_and_leaves_no_file(runs):
    with pytest.raises(UserError, match="--limit=0.0001: is too little for any run"):
        runs.pack(limit=0.0001)
    assert not runs.file.exists() and not list(runs.path.glob(".packed*"))


def test_a_run_that_a_process_is_writing_is_left_out_and_told(runs, capsys):
    with lock.hold(runs.sweepdir / "seed=2" / ".lock", "x"):
        runs.pack()
    assert "seed=2: in use by process" in (told := capsys.readouterr().err) and "this run is left out" in told
    assert set(parts(runs.unpacked())) == {"seed=0", "seed=1", "seed=3"}
    assert not list(runs.sweepdir.rglob(".lock"))


def test_no_process_can_write_a_run_that_is_being_packed(runs, monkeypatch):
    refused = []

    def copied(*arguments):
        for name in ("seed=0", "seed=3"):
            with pytest.raises(UserError, match="in use"), lock.hold(runs.sweepdir / name / ".lock", name):
                pass
            refused.append(name)
        raise Killed

    monkeypatch.setattr("launch.packing.copied", copied)
    with pytest.raises(Killed):
        runs.pack()
    assert refused


def test_a_kill_while_packing_leaves_the_file_that_was_there(runs, monkeypatch):
    runs.file.write_bytes(b"before")
    monkeypatch.setattr("launch.packing._padding", lambda size: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        runs.pack()
    assert runs.file.read_bytes() == b"before"


def test_a_snapshot_whose_replacement_was_killed_is_packed_under_its_name(place):
    place.run("seed=0", is_finished=False)
    folder = place.sweepdir / "seed=0" / "snapshots" / "last"
    (folder / "4").rename(folder / ".4.old")
    place.pack()
    assert "seed=0/snapshots/last/4/d/a" in place.unpacked()


def test_a_directory_of_no_sweep_is_refused_in_a_line(place):
    (place.sweepdir / "sweep.json").unlink()
    with pytest.raises(UserError, match="has no readable sweep.json; allowed is the directory of a sweep"):
        place.pack()
    assert not place.file.exists()


def test_a_sweep_without_what_is_to_be_packed_makes_an_archive_of_no_runs(place, capsys):
    place.run("seed=0", is_finished=False)
    place.pack(tables=True)
    assert list(place.unpacked()) == ["sweep.json"]
    assert "0 runs in 0 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [("x.zip",), ("x",), (None, True), (None, False, 3.0), ("x.tar.gz", False, 0.0), ("gs://b/x.tar.gz",)]
)
def test_flags_that_can_not_be_followed_are_refused(options):
    with pytest.raises(UserError, match="allowed"):
        checked(*options)


# Unpacking.


def changed(place, change):
    """Writes the archive anew, with `change({name: content})`, where a name may stand for a `TarInfo`."""
    with tarfile.open(place.file) as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}
    change(contents)
    with tarfile.open(place.file, "w:gz") as tar:
        for name, content in contents.items():
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def link():
    member = tarfile.TarInfo("seed=0/weights/link")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member


def other_manifest(edit):
    def change(contents):
        manifest = json.loads(contents[MANIFEST])
        edit(manifest, contents)
        contents[MANIFEST] = json.dumps(manifest).encode()

    return change


def add(name):
    """Adds a file that the manifest names rightly."""

    def edit(manifest, contents):
        contents[name] = b""
        manifest["files"][name] = [0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]

    return other_manifest(edit)


CHANGES = {
    "another byte": lambda contents: contents.update({"seed=0/metrics.jsonl": b"x" * 1000}),
    "a file that is missing": lambda contents: contents.pop("seed=0/metrics.jsonl"),
    "a file that no manifest names": lambda contents: contents.update({"seed=0/more": b""}),
    "no manifest": lambda contents: contents.pop(MANIFEST),
    "an empty manifest": lambda contents: contents.update({MANIFEST: b""}),
    "another version": other_manifest(lambda manifest, contents: manifest.update(format="jaxtickets sweep 9")),
    "a list of files": other_manifest(lambda manifest, contents: manifest.update(files=[])),
    "an entry that is none": other_manifest(lambda manifest, contents: manifest["files"].update({"seed=0/x": 3})),
    "a name that leaves it": add("seed=0/../../escaped"),
    "an absolute name": add("/tmp/escaped"),
    "a hidden name": add("seed=0/.lock"),
    "a file of no run": add("seed=5/rounds.csv"),
    "a file beside the runs": add("sweep.json"),
    "a feature network that is none": add("features/digits-v2-0-cpu.safetensors"),
    "a feature network in a directory": add("features/a/b.safetensors"),
    "a link": lambda contents: contents.update({link(): b""}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_archive_that_is_changed_is_refused_in_a_line_and_leaves_nothing(runs, what):
    runs.pack()
    changed(runs, CHANGES[what])
    with pytest.raises(UserError) as caught:
        runs.unpacked()
    assert "\n" not in str(caught.value)
    assert not (runs.path / "elsewhere").exists() and not (runs.path / "escaped").exists()


@pytest.mark.parametrize("cut", [0, 100, 50_000, -1])
def test_an_archive_that_is_cut_is_refused_in_a_line_and_leaves_nothing(runs, cut):
    runs.pack()
    runs.file.write_bytes(runs.file.read_bytes()[:cut])
    with pytest.raises(UserError):
        runs.unpacked()
    assert not (runs.path / "elsewhere").exists()


def test_a_decompression_bomb_is_refused(place):
    with gzip.open(place.file, "wb") as file:
        member = tarfile.TarInfo("seed=0/config.json")
        member.size = 300 << 20
        file.write(member.tobuf())
        for _ in range(300):
            file.write(bytes(1 << 20))
    with pytest.raises(UserError, match="decompression bomb"):
        place.unpacked()


def test_runs_that_are_there_already_stay_and_others_come_to_them(runs, capsys):
    runs.pack(tables=True)
    unpack(runs.file, runs.sweepdir)
    assert "0 runs from" in (told := capsys.readouterr().out) and "2 were there already" in told
    unpack(runs.file, runs.path / "elsewhere")
    (runs.sweepdir / "seed=0" / "verdict.json").rename(runs.path / "elsewhere" / "seed=0" / "plots.txt")
    runs.pack(tables=True)
    assert set(parts(runs.unpacked())) == {"seed=0", "seed=3"}


@pytest.mark.parametrize("change", ["another", "missing", "a file"])
def test_a_run_that_is_there_with_other_contents_is_refused_in_a_line_and_nothing_changes(runs, change):
    runs.pack()
    mine = runs.path / "elsewhere" / "seed=1"
    mine.parent.mkdir()
    if change == "a file":
        mine.write_bytes(b"")
    else:
        mine.mkdir()
        (mine / ("metrics.jsonl" if change == "another" else "other")).write_bytes(b"mine")
    before = digests(runs.path / "elsewhere")
    with pytest.raises(UserError, match="seed=1: is there, and its .* is another one; give another --sweepdir"):
        runs.unpacked()
    assert digests(runs.path / "elsewhere") == before


def test_a_directory_of_another_sweep_is_refused(runs):
    runs.pack()
    other = runs.path / "elsewhere"
    other.mkdir()
    directory.write(other, directory.about("config.py:quick", ["--config.x=1"]), [])
    with pytest.raises(UserError, match="holds a sweep with(out)? .* after --"):
        runs.unpacked()


@pytest.mark.parametrize("moment", range(8))
def test_a_kill_while_unpacking_leaves_each_run_whole_or_not_there_and_the_same_command_goes_on(
    runs, monkeypatch, moment
):
    runs.pack()
    left, rename, copy = [moment], Path.rename, "launch.unpacking.copied"
    whole = digests(runs.sweepdir)

    def dying(function):
        def call(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*arguments)

        return call

    with monkeypatch.context() as patch:
        if moment < 4:
            from launch.packing import copied

            patch.setattr(copy, dying(copied))
        else:
            left[0] -= 4
            patch.setattr(Path, "rename", dying(rename))
        with pytest.raises(Killed):
            runs.unpacked()
    there = runs.path / "elsewhere"
    for run in there.glob("seed=*"):
        assert {name: whole[name] for name in runs.kept() if name.startswith(f"{run.name}/")} == {
            f"{run.name}/{name}": digest for name, digest in digests(run).items()
        }
    (runs.path / "config.py").touch()
    for action in (
        lambda: sweep(str(runs.path / "config.py"), ["seed=0"], there),
        lambda: pack(there, runs.path / "x.tar.gz"),
    ):
        with pytest.raises(UserError, match="unpacking was interrupted; give the same --unpack again"):
            action()
    assert runs.unpacked() == runs.kept()
    assert not list(there.glob(".*"))


# The command line, feature networks and real runs.


def test_without_a_grid_the_command_line_moves_a_sweep_and_runs_nothing(runs, capsys):
    assert main([f"--sweepdir={runs.sweepdir}", f"--pack={runs.file}", "--tables"]) == 0
    assert main([f"--sweepdir={runs.path / 'elsewhere'}", f"--unpack={runs.file}"]) == 0
    assert set(parts(digests(runs.path / "elsewhere"))) == {"seed=0", "seed=3"}
    assert main([f"--sweepdir={runs.sweepdir}", f"--unpack={runs.path / 'nothing.tar.gz'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def network(digits_metric, data_directory, cache_directory):
    """`{name: digest}` of a feature network in the cache directory."""
    return {"digits": FEATURE_NETWORKS["digits"].load(tiny("gan_digits", data_directory)).digest}


def test_feature_networks_that_runs_were_measured_in_go_with_them(tmp_path, network, monkeypatch, data_directory):
    place = Place(tmp_path)
    place.run("seed=0", is_finished=False)
    content = {"config": {}, "about": {"features": {**network, "inception": "123"}}}
    place.write("seed=0/config.json", json.dumps(content).encode())
    place.pack()
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))
    place.unpacked()
    assert FEATURE_NETWORKS["digits"].load(tiny("gan_digits", data_directory)).digest == network["digits"]
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 5
    place.unpacked("again")  # The same ones are there.

    damaged = next((tmp_path / "cache" / "features").iterdir())
    damaged.write_bytes(b"another one")
    with pytest.raises(UserError, match="is another feature network than the one in which the runs were measured"):
        place.unpacked("nowhere")
    assert damaged.read_bytes() == b"another one" and not (tmp_path / "nowhere").exists()


def test_a_finished_run_of_which_only_tables_have_come_tells_its_results_and_trains_nothing(base, tmp_path, capsys):
    place, config = Place(tmp_path), load_config("ae_digits")
    config.update(base("ae_digits").config)
    finish(Setup(config, like=base("ae_digits")), place.sweepdir / "seed=0")
    place.pack(tables=True)
    before = place.unpacked()
    verdict = jaxtickets.run(config, tmp_path / "elsewhere" / "seed=0")
    assert verdict == Workdir(place.sweepdir / "seed=0").read_verdict()
    assert "snapshots and masks are gone, and only --from_round=0" in capsys.readouterr().err
    after = digests(tmp_path / "elsewhere")
    assert {name: after[name] for name in before} == before


def test_a_run_that_was_stopped_goes_on_bit_for_bit_where_it_is_unpacked(base, tmp_path):
    like = base("ae_digits")
    config = load_config("ae_digits")
    config.update(like.config)
    place = Place(tmp_path)
    whole = tmp_path / "whole"
    finish(Setup(config, like=like), whole)
    setup = Setup(config, like=like)
    kill_after(setup, 17)
    with pytest.raises(Killed), open_run(setup, place.sweepdir / "seed=0") as run:
        METHODS["imp"].recipe(run)
    place.pack()
    place.unpacked()
    there = tmp_path / "elsewhere" / "seed=0"
    assert (there / "snapshots" / "last").is_dir() and not (there / "verdict.json").exists()
    finish(Setup(config, like=like), there)
    assert untimed_rounds(there) == untimed_rounds(whole)
    for name in ("layers.csv", "verdict.json", "samples/round_002.png"):
        assert (there / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("masks/002", "snapshots/dense", "snapshots/rewind"):
        assert snapshots._stored(there / name) == snapshots._stored(whole / name), name
