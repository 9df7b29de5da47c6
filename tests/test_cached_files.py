"""The user's cache: each file in it is verified when it is read, a damaged one is made again and told in one line."""

import errno
import json
import random
import re
import warnings
import zlib
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from jaxtickets import cache, cached_files, compiled_programs, data, tensor_files
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.metrics import classifier, inception
from jaxtickets.metrics.features import features_of_images
from jaxtickets.metrics.inception_network import published_shapes

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
LABELS = np.arange(60) % 3
TABLE = np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32)
ARRAYS = {"mean": np.arange(3.0), "kernel": np.float32([[1, 2], [3, 4]])}


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A cache directory of the test's own."""
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def damaged(content, rng):
    """A content with one fault: a flipped bit, an end that is missing, or zeros."""
    kind, content = rng.choice(["flip", "flip", "flip", "cut", "zero"]), bytearray(content)
    if kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    else:
        content[:] = bytes(len(content))
    return bytes(content)


def told(capfd):
    """The lines on standard error since the last time."""
    return [line for line in capfd.readouterr().err.splitlines() if line]


# Decoded images and labels.


@pytest.fixture
def source(monkeypatch):
    """The name of a data set whose arrays are read once per version."""
    arrays = data.Arrays("mine", lambda split: (IMAGES, LABELS), 1, 3, ("a", "b", "c"), version="1")
    monkeypatch.setitem(data.SOURCES, "mine", arrays)
    return "mine"


def test_damaged_images_and_labels_are_decoded_again_and_told(source, directory, capfd):
    data.load(source, "train", 8)
    (folder,) = (directory / "data").iterdir()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert whole.keys() == {"images.npy", "labels.npy", "done.json"}
    rng = random.Random(0)
    told(capfd)
    for name in [name for name in whole for _ in range(60)]:
        for other, content in whole.items():
            (folder / other).write_bytes(damaged(content, rng) if other == name else content)
        unread = json.loads(whole["done.json"])
        loaded = data.load(source, "train", 8)
        np.testing.assert_array_equal(loaded.images, IMAGES)
        np.testing.assert_array_equal(loaded.labels, LABELS)
        assert (loaded.images.dtype, loaded.labels.dtype) == (np.uint8, np.int32)
        assert (loaded.label_names, loaded.digest) == (("a", "b", "c"), unread["digest"])
        lines = told(capfd)
        assert all("damaged" in line and "made again" in line for line in lines) and len(lines) < 2
        # The name in done.json, blanks and the padding of a header are not read.
        assert lines or name != "images.npy" or (folder / name).read_bytes()[128:] == whole[name][128:]


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_a_lost_array_is_decoded_again(source, directory, name):
    data.load(source, "train", 8)
    (path,) = (directory / "data").rglob(name)
    path.unlink()
    np.testing.assert_array_equal(data.load(source, "train", 8).labels, LABELS)
    assert path.exists()


@pytest.mark.parametrize(("name", "was", "damage"), [("labels.npy", b"<i4", b">i4"), ("images.npy", b"|u1", b"|i1")])
def test_a_damaged_type_is_seen_although_no_value_differs(source, directory, name, was, damage):
    data.load(source, "train", 8)
    (path,) = (directory / "data").rglob(name)
    path.write_bytes(path.read_bytes().replace(was, damage))
    loaded = data.load(source, "train", 8)
    np.testing.assert_array_equal(loaded.labels, LABELS)
    np.testing.assert_array_equal(loaded.images, IMAGES)


def test_arrays_are_verified_once_per_process(source, monkeypatch):
    first, read = data.load(source, "train", 8), []
    monkeypatch.setattr(data.decoding, "read", lambda *_: read.append(1))
    assert data.load(source, "train", 8) is first and not read


# Statistics and feature networks.


@pytest.mark.parametrize("kind", ["arrays", "table"])
def test_files_give_what_was_written_or_are_known_as_damaged(kind, tmp_path):
    if kind == "arrays":
        path = tmp_path / "x.safetensors"
        cached_files.write(path, ARRAYS, {"size": "16"})
        read, expected = lambda path: cached_files.read(path)[0], ARRAYS
    else:
        path = tmp_path / "x.npy"
        cached_files.write_table(path, [TABLE[:20], TABLE[20:]], 50)
        read, expected = lambda path: {"table": np.array(cached_files.map_table(path))}, {"table": TABLE}
    whole, rng, seen = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        path.write_bytes(damaged(whole, rng))
        try:
            found = read(path)
        except DamagedError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            seen += 1
            continue
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype
    assert seen > 250


def test_a_table_is_what_numpy_reads(tmp_path):
    cached_files.write_table(tmp_path / "x.npy", [TABLE], 50)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), TABLE)


class Projection:
    """A feature network whose features are some of the pixels."""

    name, digest, parts = "pixels", "1", 1

    def __call__(self, images):
        return images.reshape(len(images), -1)[:, :5]


jax.tree_util.register_pytree_node(Projection, lambda network: ((), None), lambda *_: Projection())


@pytest.mark.parametrize("what", ["array", "gaussian"])
def test_damaged_statistics_are_computed_again_and_told(what, directory, capfd):
    def computed():
        found = getattr(features_of_images(Projection(), IMAGES.copy(), 20), what)
        return np.array(found) if what == "array" else found.covariance

    first = computed()
    (path,) = (path for path in (directory / "features").iterdir() if path.is_file())
    content = bytearray(path.read_bytes())
    content[-40] ^= 4
    path.write_bytes(content)
    told(capfd)
    np.testing.assert_array_equal(computed(), first)
    (line,) = told(capfd)
    assert str(path) in line and "made again" in line
    np.testing.assert_array_equal(computed(), first)
    assert not told(capfd)


@pytest.fixture
def networks(monkeypatch):
    """`load()` of two small feature networks, and the seeds of those that were trained."""
    trained = []
    monkeypatch.setattr(classifier, "NETWORKS", 2)

    def make(seed):
        trained.append(seed)
        params = {"Dense_0": {"kernel": np.full((2, 2), seed, np.float32)}}
        return classifier.Classifier(params, "mine", 16, 1, 10, 0.75)

    return lambda: classifier.kept("mine", "mine-v1", make, "mine"), trained


def test_a_damaged_feature_network_is_trained_again_and_told(networks, directory, capfd):
    load, trained = networks
    first = load()
    path = sorted((directory / "features").glob("mine-v1-1-*"))[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    told(capfd)
    assert load().digest == first.digest and trained == [0, 1, 1]
    assert len([line for line in told(capfd) if str(path) in line and "again" in line]) == 1


def test_a_feature_network_of_an_older_version_is_taken_and_gets_a_checksum(networks, directory):
    from safetensors.numpy import save_file

    load, trained = networks
    first = load()
    about = {"size": "16", "channels": "1", "outputs": "10", "accuracy": "0.75"}
    for path in (directory / "features").glob("mine-v1-*"):
        arrays, _ = cached_files.read(path)
        save_file(arrays, path, about)
    assert load().digest == first.digest and trained == [0, 1] and load().accuracy == 0.75
    for path in (directory / "features").glob("mine-v1-*"):
        assert cached_files.KEY in tensor_files.read(path)[1]


def test_damaged_inception_weights_are_one_line_that_says_how_to_get_them(directory):
    arrays = {name: np.zeros(shape, np.float32) for name, shape in published_shapes().items()}
    cached_files.write(inception.weights_path(), arrays)
    with inception.weights_path().open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"\1")
    with pytest.raises(UserError, match="checksum.*--fetch, or --from=FILE") as caught:
        inception.feature_network("inception", "2048", "tensorflow")
    assert "made again" not in str(caught.value)


# A directory that can't be written.


@pytest.fixture
def read_only(monkeypatch, directory):
    """Makes every file below the cache directory one that can't be written."""

    @contextmanager
    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))
        yield

    def start():
        monkeypatch.setattr("jaxtickets.files.atomic_write", refuse)
        monkeypatch.setattr("jaxtickets.lock._make", lambda path: next(refuse(path).gen))

    return start


def test_what_is_in_a_cache_that_is_only_read_is_used_and_what_is_not_is_one_line(source, networks, read_only):
    load, trained = networks
    first, features = data.load(source, "train", 8), features_of_images(Projection(), IMAGES.copy(), 20).gaussian
    load()
    data._read.cache_clear()
    read_only()
    assert data.load(source, "train", 8).digest == first.digest
    np.testing.assert_array_equal(features_of_images(Projection(), IMAGES.copy(), 20).gaussian.mean, features.mean)
    assert load().accuracy == 0.75 and trained == [0, 1]
    attempts = {
        "images": lambda: data.load(source, "train", 4),
        "features": lambda: features_of_images(Projection(), IMAGES[:50].copy(), 20).gaussian,
        "networks": lambda: classifier.kept("mine", "mine-v2", None, "mine"),
    }
    for attempt in attempts.values():
        with pytest.raises(UserError, match="cache directory.*Read-only file system.*allowed") as caught:
            attempt()
        assert "\n" not in str(caught.value)


# Compiled programs.


@pytest.fixture
def programs(directory):
    """The directory of compiled programs, with warnings shown as before when the test ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield cache.directory("xla")


def warn(name, what="reading", why="error: Error -3 while decompressing data: incorrect data check"):
    warnings.warn(f"Error {what} persistent compilation cache entry for '{name}': {why}", stacklevel=1)


def test_a_program_that_jax_can_not_read_is_removed_and_told_in_one_line(programs, capfd):
    compiled_programs.guard(programs)
    (programs / "jit_step-1-cache").write_bytes(zlib.compress(b"program")[:-1])
    for name in ("jit_step-2-cache", "jit_other-1-cache"):
        (programs / name).write_bytes(zlib.compress(b"program"))
    warn("jit_step")
    (line,) = told(capfd)
    assert "jit_step" in line and "compiled again" in line
    assert sorted(path.name for path in programs.glob("*-cache")) == ["jit_other-1-cache", "jit_step-2-cache"]


def test_programs_without_a_checksum_of_their_own_are_compared_with_that_of_an_earlier_start(programs, capfd):
    for name in ("jit_a-1-cache", "jit_b-1-cache"):
        (programs / name).write_bytes(compiled_programs.ZSTANDARD + name.encode())
    (programs / "jit_c-1-cache").write_bytes(zlib.compress(b"program"))
    compiled_programs.guard(programs)
    assert not told(capfd)
    (programs / "jit_a-1-cache").write_bytes(compiled_programs.ZSTANDARD + b"another program")
    compiled_programs.guard(programs)
    (line,) = told(capfd)
    assert re.search("damaged.*: 1;", line)
    assert sorted(path.name for path in programs.glob("*-cache")) == ["jit_b-1-cache", "jit_c-1-cache"]
    compiled_programs.guard(programs)
    assert not told(capfd)


def test_programs_that_can_not_be_written_are_told_once_and_other_warnings_stay(programs, capfd):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        compiled_programs.guard(programs)
        for name in ("jit_a", "jit_b"):
            warn(name, "writing", "OSError: [Errno 30] Read-only file system")
        warnings.warn("something else", stacklevel=1)
    (line,) = told(capfd)
    assert "can't be kept" in line and "Read-only" in line
    assert [str(warning.message) for warning in shown] == ["something else"]


def test_the_warnings_are_those_of_jax(programs, capfd):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    from jax.experimental.compilation_cache import compilation_cache

    try:
        compiled_programs.guard(programs)
        jax.config.update("jax_compilation_cache_dir", str(programs))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        compilation_cache.reset_cache()

        def compiled():
            def of_this_test(x):
                return 3 * x + 1

            return jax.jit(of_this_test)

        assert compiled()(1.0) == 4
        (path,) = programs.glob("jit_of_this_test-*-cache")
        path.write_bytes(path.read_bytes()[:-1])
        assert compiled()(1.0) == 4
        (line,) = told(capfd)
        assert "jit_of_this_test" in line
        if not path.read_bytes().startswith(compiled_programs.ZSTANDARD):
            zlib.decompress(path.read_bytes())  # It is whole again.
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
