"""Directories and archives as trees of files: what is listed, what is read, what is refused."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from concurrent import futures

import numpy as np
import pytest

from jaxtickets.data import gzips
from jaxtickets.data.trees import open_inner, open_tree
from jaxtickets.errors import UserError

FILES = {"a/one.bin": b"1" * 700, "a/two.bin": b"", "b/c/three.bin": bytes(range(256)), "zero.txt": b"hello"}
KINDS = ("directory", "x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz")
MODES = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}


def write(path, files):
    """Writes a directory, or the archive that the suffix of `path` asks for. Returns `path`."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.suffix in MODES:
        with tarfile.open(path, MODES[path.suffix]) as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    else:
        for name, content in files.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return path


def noise(seed, size):
    return np.random.default_rng(seed).bytes(size)


def refusal(path):
    """The one line with which a tree refuses to open, or to give one of its files."""
    with pytest.raises(UserError) as caught:
        tree = open_tree(path)
        for name in tree.names:
            tree.read(name)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_and_its_archives_are_the_same_tree(kind, tmp_path):
    tree = open_tree(write(tmp_path / kind, dict(reversed(FILES.items()))))
    assert tree.names == tuple(sorted(FILES))
    assert {entry.name: entry.size for entry in tree.entries} == {name: len(FILES[name]) for name in FILES}
    assert {name: tree.read(name) for name in tree.names} == FILES
    assert tree.skipped == {} and "one.bin" in tree.label("a/one.bin")


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_and_system_files_are_left_out_and_counted(kind, tmp_path):
    hidden = (".DS_Store", "a/._one.bin", "__MACOSX/a/x", "b/Thumbs.db", "b/desktop.ini", ".git/config", "@eaDir/y")
    hidden += (".thumbnails/one.bin", ".ipynb_checkpoints/one.bin", "$RECYCLE.BIN/x", "#recycle/x", "lost+found/x")
    hidden += ("#snapshot/x", "@Recycle/x", "@Recently-Snapshot/x", "@tmp/x", "$Recycle.Bin/x", "__pycache__/x")
    hidden += ("System Volume Information/x", "~$1.png", "c/thumbs.db", "c/DESKTOP.INI", "c/THUMBS.DB/x", "c/@EADIR/x")
    tree = open_tree(write(tmp_path / kind, {**FILES, **dict.fromkeys(hidden, b"x")}))
    assert tree.names == tuple(sorted(FILES))
    assert tree.skipped == {"hidden or system files": len(hidden)}


@pytest.mark.parametrize("kind", KINDS)
def test_names_like_those_of_systems_are_read(kind, tmp_path):
    files = dict.fromkeys(("recycle/x", "snapshot/x", "tmp/x", "@x/x", "#x/x", "~x", "my thumbs.db.png"), b"x")
    tree = open_tree(write(tmp_path / kind, files))
    assert tree.names == tuple(sorted(files)) and tree.skipped == {}


def test_a_single_file_is_a_tree_of_itself(tmp_path):
    for name in ("x.npy", "x.npz", "labels-idx1-ubyte.gz"):
        file = tmp_path / name
        file.write_bytes(
            gzip.compress(b"abc") if name.endswith("gz") else b"PK\3\4" if name.endswith("npz") else b"abc"
        )
        tree = open_tree(file)
        assert (tree.kind, tree.names, tree.read(name)) == ("file", (name,), file.read_bytes())
        assert tree.label(name) == str(file)


def test_archives_are_known_by_their_content_whatever_their_name(tmp_path):
    for kind in KINDS[1:]:
        source = write(tmp_path / kind, FILES)
        renamed = tmp_path / f"{kind}.download"
        source.rename(renamed)
        assert open_tree(renamed).names == tuple(sorted(FILES))


def test_names_with_backslashes_and_dots_become_plain_ones(tmp_path):
    assert open_tree(write(tmp_path / "x.zip", {"a\\b\\c.bin": b"1"})).names == ("a/b/c.bin",)
    assert open_tree(write(tmp_path / "x.tar", {"./a/./c.bin": b"1"})).names == ("a/c.bin",)


def test_of_equal_names_in_an_archive_the_last_one_counts(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for content in (b"old", b"newer"):
            entry = tarfile.TarInfo("a")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    tree = open_tree(tmp_path / "x.tar")
    assert tree.read("a") == b"newer" and list(tree.skipped.values()) == [1]


# --- links and what is no file ---


def test_each_real_file_is_listed_once_under_its_own_name(tmp_path):
    root = write(tmp_path / "root", {"b/file": b"1", "c": b"2"})
    (root / "a").symlink_to(root / "b" / "file")
    (root / "again").symlink_to(root / "b")
    tree = open_tree(root)
    assert tree.names == ("b/file", "c") and sum(tree.skipped.values()) == 2


def test_links_out_of_the_root_are_followed_once(tmp_path):
    outside = write(tmp_path / "outside", {"x/one": b"1", "two": b"2"})
    root = write(tmp_path / "root", {"own": b"3"})
    (root / "first").symlink_to(outside)
    (root / "second").symlink_to(outside)
    (root / "third").symlink_to(outside / "two")
    tree = open_tree(root)
    assert {name: tree.read(name) for name in tree.names} == {"first/two": b"2", "first/x/one": b"1", "own": b"3"}


def test_hard_links_to_one_file_are_one_file(tmp_path):
    root = write(tmp_path / "root", {"b/file": b"1", "c": b"2"})
    (root / "a").hardlink_to(root / "c")
    (root / "z").hardlink_to(root / "b" / "file")
    tree = open_tree(root)
    assert tree.names == ("a", "b/file") and sum(tree.skipped.values()) == 2


def test_a_file_with_hard_links_out_of_the_root_is_listed(tmp_path):
    root = write(tmp_path / "root", {"a": b"1"})
    (tmp_path / "outside").hardlink_to(root / "a")
    assert (open_tree(root).names, open_tree(root).skipped) == (("a",), {})


def test_the_other_names_of_a_file_are_known(tmp_path):
    root = write(tmp_path / "root", {"all/1": b"1", "all/2": b"2", "own/3": b"3"})
    (root / "a").mkdir()
    (root / "a" / "x").symlink_to(root / "all" / "1")
    (root / "a" / "y").symlink_to(root / "a" / "x")
    (root / "b").symlink_to(root / "all")
    (root / "all" / "z").hardlink_to(root / "own" / "3")
    (root / "all" / "up").symlink_to(root)
    found = {entry.name: entry.links for entry in open_tree(root).entries}
    assert found == {"all/1": ("a/x", "a/y", "b/1"), "all/2": ("b/2",), "all/z": ("b/z", "own/3")}


def test_many_links_to_a_directory_take_little_memory(tmp_path):
    root = write(tmp_path / "root", {f"all/{i}": b"" for i in range(50)})
    for i in range(200):
        (root / f"l{i}").symlink_to(root / "all")
    assert {len(entry.links) for entry in open_tree(root).entries} == {16}
    assert open_tree(root).skipped == {"links to directories that are in it already": 200}


def test_loops_of_links_end(tmp_path):
    root = write(tmp_path / "root", {"a/file": b"1"})
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "above").symlink_to(tmp_path)
    (root / "self").symlink_to(root / "self")
    (root / "nowhere").symlink_to(root / "missing")
    tree = open_tree(root)
    assert tree.names == ("a/file",)
    assert tree.skipped["links that lead nowhere"] == 2


def test_a_root_that_is_a_link_is_followed(tmp_path):
    write(tmp_path / "root", FILES)
    (tmp_path / "link").symlink_to(tmp_path / "root")
    assert open_tree(tmp_path / "link").names == tuple(sorted(FILES))


def test_pipes_and_sockets_are_left_out_and_never_opened(tmp_path):
    root = write(tmp_path / "root", {"file": b"1"})
    os.mkfifo(root / "pipe")
    tree = open_tree(root)
    assert tree.names == ("file",) and tree.skipped == {"devices, pipes or sockets": 1}
    assert "neither a file nor a directory" in refusal(root / "pipe")


def test_links_in_a_tar_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("file"), io.BytesIO())
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            entry = tarfile.TarInfo(f"odd{kind}")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    tree = open_tree(tmp_path / "x.tar")
    assert tree.names == ("file",) and sum(tree.skipped.values()) == 4


# --- hostile and broken archives ---


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "C:/windows/x"])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_archives_with_paths_that_leave_them_are_refused(kind, name, tmp_path):
    assert "leaves it" in refusal(write(tmp_path / kind, {"fine": b"1", name: b"2"}))


def test_decompression_bombs_are_refused_by_their_sizes(tmp_path):
    zeros = bytes(gzips.HARMLESS + (1 << 20))
    for kind in ("x.zip", "x.tar.gz", "x.tar.bz2", "x.tar.xz"):
        assert "decompression bomb" in refusal(write(tmp_path / kind, {"zeros.png": zeros}))


def test_overlapping_members_of_a_zip_do_not_hide_a_bomb(tmp_path):
    path = write(tmp_path / "x.zip", {"a": bytes(1 << 20)})
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(400):  # Each points at the same packed megabyte.
            member = zipfile.ZipInfo(f"a{i:03d}")
            vars_of_first = archive.infolist()[0]
            for field in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(member, field, getattr(vars_of_first, field))
            archive.filelist.append(member)
            archive.NameToInfo[member.filename] = member
        archive._didModify = True
    assert "decompression bomb" in refusal(path)


def test_an_archive_cut_anywhere_is_refused(tmp_path):
    files = {f"{i}.bin": noise(i, 900) for i in range(5)}
    for kind in KINDS[1:]:
        whole = write(tmp_path / kind, files).read_bytes()
        # Behind its five members of three blocks a tar has nothing but zeros.
        end = 5 * 3 * 512 if kind == "x.tar" else len(whole)
        for length in [*range(1, end, 331), end - 1]:
            path = tmp_path / f"cut{length}{kind}"
            path.write_bytes(whole[:length])
            assert "broken" in refusal(path), (kind, length)


def test_a_tar_with_a_broken_header_in_the_middle_is_refused(tmp_path):
    content = bytearray(write(tmp_path / "x.tar", {"a": b"1", "b": b"2", "c": b"3"}).read_bytes())
    content[1024 + 150] ^= 1  # The checksum of the second header.
    (tmp_path / "y.tar").write_bytes(content)
    assert "broken" in refusal(tmp_path / "y.tar")


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    for kind in ("x.zip", "x.tar.gz", "x.tar.bz2", "x.tar.xz"):
        content = bytearray(write(tmp_path / kind, {"a.bin": noise(0, 5000)}).read_bytes())
        content[2500] ^= 1
        (tmp_path / f"bad{kind}").write_bytes(content)
        assert "broken" in refusal(tmp_path / f"bad{kind}")


def test_a_locked_zip_is_one_line(tmp_path):
    content = bytearray(write(tmp_path / "x.zip", {"a.bin": b"secret"}).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    assert "locked" in refusal(tmp_path / "x.zip")


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("content", [b"", b"no archive at all"])
def test_a_file_with_an_archives_suffix_must_be_one(kind, content, tmp_path):
    (tmp_path / kind).write_bytes(content)
    assert "broken" in refusal(tmp_path / kind)


def test_a_missing_path_is_one_line(tmp_path):
    assert "give an existing" in refusal(tmp_path / "none")


# --- reading ---


def test_a_compressed_tar_is_read_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(gzips, "SPACING", 10_000)
    rng = np.random.default_rng(0)
    files = {f"{i:03d}": noise(i, int(rng.integers(0, 9000))) for i in rng.permutation(120)}
    tree = open_tree(write(tmp_path / "x.tar.gz", files))
    for name in [*tree.names, *rng.choice(tree.names, 200)]:
        assert tree.read(name) == files[name]


def test_a_gzip_file_of_several_members_can_be_read_anywhere(monkeypatch):
    monkeypatch.setattr(gzips, "SPACING", 3000)
    parts = [noise(i, 5000) for i in range(6)]
    packed = b"".join(map(gzip.compress, parts)) + bytes(100)
    whole = b"".join(parts)
    file = gzips.Gzip(io.BytesIO(packed), "x.gz")
    rng = np.random.default_rng(0)
    for start, length in zip(rng.integers(0, 31_000, 300), rng.integers(0, 4000, 300), strict=True):
        file.seek(int(start))
        got = b""
        while len(got) < length and (more := file.read(int(length) - len(got))):
            got += more
        assert got == whole[start : start + length]


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
def test_files_compressed_by_bzip2_and_xz_may_have_several_streams(compress):
    parts = [noise(i, 5000) + bytes(100_000) for i in range(3)]
    packed = b"".join(map(compress, parts)) + bytes(64)
    assert gzips.unpacked(io.BytesIO(packed), "x").read() == b"".join(parts)
    for length in (7, 100, len(packed) - 200):
        with pytest.raises(EOFError):
            gzips.unpacked(io.BytesIO(packed[:length]), "x")


def test_what_unpacks_to_more_than_memory_should_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gzips, "MEMORY", 50_000)
    assert "unpack it" in refusal(write(tmp_path / "x.tar.xz", {"a": noise(0, 60_000)}))


def test_the_places_in_a_gzip_file_stay_few_however_much_it_unpacks_to(monkeypatch):
    for name, value in {"CHUNK": 64, "SPACING": 1000, "PLACES": 16}.items():
        monkeypatch.setattr(gzips, name, value)
    whole = b"".join(noise(i, 20) * 50 for i in range(1000))
    packed = gzip.compress(whole)
    assert len(whole) > 20 * len(packed)
    file = gzips.Gzip(io.BytesIO(packed), "x.gz")
    read = io.BufferedReader(file)
    assert read.read() == whole
    assert 8 <= len(file._states) == len(file._places) <= 16
    for start in np.random.default_rng(0).integers(0, len(whole), 200).tolist():
        read.seek(start)
        assert read.read(50) == whole[start : start + 50]


def test_threads_can_read_one_archive_together(tmp_path):
    files = {f"{i:03d}": noise(i, 3000) for i in range(100)}
    for kind in KINDS:
        tree = open_tree(write(tmp_path / kind, files))
        with futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(tree.read, tree.names)) == [files[name] for name in tree.names]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_archive_in_a_directory_or_in_an_archive_can_be_opened(kind, tmp_path):
    inner = write(tmp_path / kind, FILES)
    folder = write(tmp_path / "folder", {f"d/{kind}": inner.read_bytes()})
    outer = write(tmp_path / "outer.zip", {f"d/{kind}": inner.read_bytes()})
    for place in (folder, outer):
        tree = open_inner(open_tree(place), f"d/{kind}")
        assert {name: tree.read(name) for name in tree.names} == FILES


@pytest.mark.parametrize("kind", ["directory", "x.bin"])
def test_a_change_that_keeps_size_and_time_is_seen(kind, tmp_path):
    path = tmp_path / kind
    file = write(path, {"x": b"old"}) / "x" if kind == "directory" else path
    file.write_bytes(b"old")
    before, status = open_tree(path), file.stat()
    file.write_bytes(b"new")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert open_tree(path).digest != before.digest


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_tells_changes_and_nothing_else(kind, tmp_path):
    (tmp_path / "x").mkdir()
    path = write(tmp_path / "x" / kind, FILES)
    before = open_tree(path).digest
    assert open_tree(path).digest == before
    changed = open_tree(write(path, {**FILES, "zero.txt": b"HELLO"}))
    assert changed.digest != before and changed.read("zero.txt") == b"HELLO"
