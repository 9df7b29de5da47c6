"""Inception: its weights' file, its layers, its preprocessing, and the numbers of pytorch-fid and torch-fidelity."""

import csv
import http.server
import io
import struct
import threading
import zipfile
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from jaxtickets import config as config_lib
from jaxtickets import evaluate
from jaxtickets.errors import UserError
from jaxtickets.metrics import FEATURE_NETWORKS, FeatureNetwork, inception, inception_network, kid, resizing, torch_file
from jaxtickets.metrics import inception_score as inception_score_lib
from jaxtickets.metrics.features import Features
from jaxtickets.metrics.frechet import fit_gaussian, frechet_distance
from jaxtickets.metrics.metric import Sets

IMAGES = 60

# Files of PyTorch, written by hand: the instructions of a pickle, and the bytes of the storages.


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value):
    return b"J" + struct.pack("<i", value)


def sequence(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def described(key, size, offset, shape, strides, storage="FloatStorage", view=b""):
    """The instructions that make a tensor."""
    persistent = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + integer(size)
    arguments = integer(offset) + sequence(shape) + sequence(strides) + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + view + b"tQ" + arguments + b"tR"


def dictionary(entries):
    """A pickle of `{name: instructions}`."""
    items = b"".join(text(name) + entry for name, entry in entries.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def archive(pickled, storages, byteorder=b"little", compression=zipfile.ZIP_STORED):
    """The format from PyTorch 1.6 on."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        file.writestr("any/data.pkl", pickled)
        file.writestr("any/byteorder", byteorder)
        for key, values in storages.items():
            file.writestr(f"any/data/{key}", values.tobytes())
    return content.getvalue()


def stream(pickled, storages):
    """The format before PyTorch 1.6."""
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    keys = b"\x80\x02](" + b"".join(map(text, storages)) + b"e."
    head = magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}" + text("little_endian") + b"\x88s." + pickled + keys
    return head + b"".join(struct.pack("<q", len(values)) + values.tobytes() for values in storages.values())


FORMATS = {"archive": (archive, b""), "stream": (stream, b"N")}
both_formats = pytest.mark.parametrize("form", FORMATS)


def small(form):
    """A small file of two tensors, one of them a transposed part of a storage."""
    write, view = FORMATS[form]
    entries = {
        "a": described("0", 12, 2, (2, 3), (1, 4), view=view),
        "b.c": described("1", 1, 0, (), (), "LongStorage", view),
    }
    return write(dictionary(entries), {"0": np.arange(12, dtype="<f4"), "1": np.array([7], "<i8")})


def error_of(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@both_formats
def test_the_tensors_of_a_file_are_views_of_its_storages(form, tmp_path):
    path = tmp_path / "f.pth"
    path.write_bytes(small(form))
    tensors = torch_file.read(path)
    assert list(tensors) == ["a", "b.c"]
    np.testing.assert_array_equal(tensors["a"], np.float32([[2, 6, 10], [3, 7, 11]]))
    np.testing.assert_array_equal(tensors["b.c"], np.int64(7))
    assert tensors["a"].dtype == np.float32


ATTACKS = {
    "os.system": b"cposix\nsystem\n(X\x0a\x00\x00\x00touch hurttR",
    "eval": b"c__builtin__\neval\n(X\x01\x00\x00\x001tR",
    "a name made on the stack": b"\x8c\x05posix\x8c\x06system\x93",
    "INST": b"(X\x0a\x00\x00\x00touch hurtiposix\nsystem\n",
    "OBJ": b"(cposix\nsystem\nX\x0a\x00\x00\x00touch hurto",
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
    "an extension": b"\x82\x01",
    "attributes of a function": b"ctorch._utils\n_rebuild_tensor_v2\n}b",
    "a call of a storage's class": b"ctorch\nFloatStorage\n)R",
    "other functions of torch": b"ctorch.hub\nload\n)R",
}


@both_formats
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(form, attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "f.pth"
    write, _ = FORMATS[form]
    path.write_bytes(write(dictionary({"a": ATTACKS[attack]}), {}))
    assert str(path) in error_of(torch_file.read, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.pth"]


@both_formats
def test_a_file_that_is_cut_short_is_refused_wherever_it_is_cut(form, tmp_path):
    path, content = tmp_path / "f.pth", small(form)
    for end in range(len(content)):
        path.write_bytes(content[:end])
        assert "cut short" in error_of(torch_file.read, path)


@both_formats
def test_a_damaged_file_gives_tensors_or_one_line(form, tmp_path):
    path, content = tmp_path / "f.pth", small(form)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            torch_file.read(path)
        except UserError as error:
            assert "\n" not in str(error)


@both_formats
@pytest.mark.parametrize(
    "tensor",
    [
        ("0", 12, 0, (13,), (1,)),
        ("0", 12, 8, (5,), (1,)),
        ("0", 12, 0, (3, 3), (5, 1)),
        ("0", 12, 0, (1000000, 1000), (0, 0)),
        ("0", 12, -1, (2,), (1,)),
        ("0", 12, 0, (2,), (-1,)),
        ("0", 13, 0, (2,), (1,)),
        ("9", 12, 0, (2,), (1,)),
        ("../0", 12, 0, (2,), (1,)),
        ("0", 2**31 - 1, 0, (2,), (1,)),
    ],
)
def test_a_tensor_of_numbers_that_its_storage_lacks_is_refused(form, tensor, tmp_path):
    path, (write, view) = tmp_path / "f.pth", FORMATS[form]
    path.write_bytes(write(dictionary({"a": described(*tensor, view=view)}), {"0": np.zeros(12, np.float32)}))
    error_of(torch_file.read, path)


def test_files_of_another_kind_are_refused_with_what_they_are(tmp_path):
    path = tmp_path / "f.pth"
    storages = {"0": np.zeros(4, np.float32)}
    tensor = described("0", 4, 0, (4,), (1,))
    path.write_bytes(archive(dictionary({"a": tensor}), storages, byteorder=b"big"))
    assert "big-endian" in error_of(torch_file.read, path)
    path.write_bytes(archive(dictionary({"a": tensor}), storages, compression=zipfile.ZIP_DEFLATED))
    assert "compressed" in error_of(torch_file.read, path)
    path.write_bytes(archive(dictionary({"a": integer(1)}), storages))
    assert "'a' is no tensor" in error_of(torch_file.read, path)
    path.write_bytes(archive(b"\x80\x02" + tensor + b".", storages))
    assert "it holds a _Tensor" in error_of(torch_file.read, path)
    path.write_bytes(b"")
    assert "not a PyTorch file" in error_of(torch_file.read, path)
    assert "No such file" in error_of(torch_file.read, tmp_path / "none.pth")


# The published weights in the cache.


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTICKETS_CACHE", str(tmp_path / "cache"))


def published_file(tensors):
    """A file of tensors, in the format that the published one has."""
    entries, storages = {}, {}
    for number, (name, tensor) in enumerate(tensors.items()):
        strides = [stride // tensor.itemsize for stride in tensor.strides]
        kind = "LongStorage" if tensor.dtype == np.int64 else "FloatStorage"
        entries[name] = described(str(number), tensor.size, 0, tensor.shape, strides, kind, b"N")
        storages[str(number)] = tensor.reshape(-1)
    return stream(dictionary(entries), storages)


def random_tensors(seed=0):
    """Weights of the published shapes with which features differ from image to image."""
    rng, tensors = np.random.default_rng(seed), {}
    for name, shape in inception_network.published_shapes().items():
        values = rng.standard_normal(shape, np.float32)
        if name.endswith("running_var"):
            values = 0.5 + rng.random(shape, np.float32)
            tensors[name.replace("running_var", "num_batches_tracked")] = np.array(3)
        elif name.endswith("bn.weight"):
            values = 1 + values / 10
        elif len(shape) > 1:
            values *= np.float32((2 if len(shape) == 4 else 1) / np.prod(shape[1:])) ** 0.5
        else:
            values /= 5
        tensors[name] = values
    return tensors


@pytest.fixture(scope="module")
def tensors():
    return random_tensors()


@pytest.fixture(scope="module")
def published(tensors, tmp_path_factory):
    """A file in the format and with the name of the published one, where PyTorch keeps its downloads."""
    path = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints" / inception.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(published_file(tensors))
    return path


def test_published_tensors_are_kept_as_they_are(published, tensors, empty_cache):
    assert not inception.is_available()
    path = inception.keep(published, sha256=None)
    assert inception.is_available() and path == inception.weights_path()
    kept = load_file(path)
    expected = {name: tensor for name, tensor in tensors.items() if "num_batches" not in name}
    assert kept.keys() == expected.keys()
    assert all(np.array_equal(kept[name], tensor) for name, tensor in expected.items())


def test_a_file_of_another_hash_is_refused(published, empty_cache):
    line = error_of(inception.keep, published)
    assert "SHA-256" in line and inception.SHA256 in line and str(published) in line
    assert not inception.is_available()


def test_other_tensors_than_the_published_ones_are_refused_by_name(tensors, tmp_path, empty_cache):
    path = tmp_path / "f.pth"

    def line(changed):
        path.write_bytes(published_file(changed))
        return error_of(partial(inception.keep, path, sha256=None))

    assert "fc.bias" in line({name: tensor for name, tensor in tensors.items() if name != "fc.bias"})
    assert "more.weight" in line({**tensors, "more.weight": np.zeros(1, np.float32)})
    wrong = line({**tensors, "fc.bias": np.zeros(1000, np.float32)})
    assert "fc.bias is float32 (1000,)" in wrong and "(1008,)" in wrong
    assert not inception.is_available()


def test_without_weights_a_config_that_needs_them_has_one_line(empty_cache):
    config = config_lib.get_config()
    config.eval.features = "inception"
    for function in (inception.INCEPTION.check, inception.INCEPTION.load):
        assert "--fetch" in error_of(function, config)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--from=FILE"),
        (["--fetch", "--from=x"], "one of"),
        (["x"], "x is given"),
        (["--from=none.pth"], "none.pth"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_status_2(arguments, text, empty_cache, capsys):
    assert inception.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("jaxtickets: ") and message.count("\n") == 1 and text in message


def test_without_network_the_download_says_what_else_to_do(empty_cache):
    assert "--from=FILE" in error_of(inception.fetch, "http://127.0.0.1:1/weights.pth")
    assert not list(inception.weights_path().parent.iterdir())


@pytest.fixture
def serve():
    """`serve(content, promised) -> URL` of a server that sends `content` and promises a number of bytes."""
    servers = []

    def start(content, promised):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802  (the base class's name)
                self.send_response(200)
                self.send_header("Content-Length", str(promised))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/weights.pth"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_download_is_kept_only_if_it_is_whole_and_the_published_file(published, serve, empty_cache, capsys):
    content = published.read_bytes()
    assert "ended after" in error_of(inception.fetch, serve(content[:1000], len(content)))
    assert "SHA-256" in error_of(inception.fetch, serve(content, len(content)))
    assert not list(inception.weights_path().parent.iterdir())
    path = inception.fetch(serve(content, len(content)), sha256=None)
    assert "75% downloaded" in capsys.readouterr().err
    assert list(path.parent.iterdir()) == [path]
    assert inception.fetch("http://127.0.0.1:1/") == path  # It is there.


# Layers.


def test_an_average_leaves_out_the_padding():
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 3)).astype(np.float32)
    expected = [
        [x[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].mean(axis=(1, 2)) for j in range(7)] for i in range(5)
    ]
    np.testing.assert_allclose(inception_network.average_pool(x), np.moveaxis(expected, 2, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stride", "padding"), [(2, 0), (1, 1)])
def test_a_maximum_is_that_of_its_window(stride, padding):
    x = np.random.default_rng(0).standard_normal((2, 7, 9, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::stride, ::stride]
    np.testing.assert_array_equal(inception_network.max_pool(x, stride, padding), windows.max(axis=(-1, -2)))


# Resizing.


@pytest.mark.parametrize("shape", [(32, 32), (28, 45), (299, 299), (400, 640)])
def test_clean_resizing_is_that_of_pillow(shape):
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    expected = Image.fromarray(image, mode="F").resize((299, 299), Image.BICUBIC)
    ours = resizing.resize(image[None, ..., None], 299, resizing.bicubic_pillow)[0, ..., 0]
    np.testing.assert_allclose(ours, np.asarray(expected), atol=2e-3)


@pytest.mark.parametrize("shape", [(32, 32), (28, 45), (400, 640)])
def test_tensorflow_resizing_interpolates_between_the_pixels_above_and_left_of_each_point(shape):
    image = np.random.default_rng(0).uniform(0, 255, shape)
    ours = resizing.resize(image[None, ..., None].astype(np.float32), 299, resizing.bilinear_tensorflow)[0, ..., 0]
    for i, j in ((0, 0), (1, 3), (150, 77), (298, 298)):
        y, x = i * shape[0] / 299, j * shape[1] / 299
        rows = image[int(y)], image[min(int(y) + 1, shape[0] - 1)]
        top, bottom = (np.interp(x, range(shape[1]), row) for row in rows)
        np.testing.assert_allclose(ours[i, j], top + (bottom - top) * (y - int(y)), atol=5e-3)


@pytest.mark.parametrize("resize", inception.RESIZES)
def test_images_are_rounded_to_the_values_of_files_first(resize):
    levels = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3))
    exact = levels.astype(np.float32) / 127.5 - 1
    moved = np.clip(exact, -0.99, 0.99) + np.where(np.abs(exact) < 0.98, 0.3 / 127.5, 0).astype(np.float32)
    kept = np.abs(exact) < 0.98
    np.testing.assert_array_equal(
        inception.preprocess(np.where(kept, moved, exact), resize), inception.preprocess(exact, resize)
    )
    beyond = inception.preprocess(np.float32(3 * exact), resize)
    np.testing.assert_allclose(beyond, inception.preprocess(np.clip(np.float32(3 * exact), -1, 1), resize))


@pytest.mark.parametrize("n", [1, 4, 8, 9])
def test_chunks_of_images_give_what_all_of_them_give(n):
    images = np.random.default_rng(0).standard_normal((n, 3, 3, 1)).astype(np.float32)
    np.testing.assert_allclose(
        inception.in_chunks(lambda x: x.sum(axis=(1, 2)), images, 4), images.sum(axis=(1, 2)), rtol=1e-5, atol=1e-6
    )


@pytest.fixture
def network(published, empty_cache):
    """`network(tap, resize)`: the features of random weights."""
    inception.keep(published, sha256=None)
    return partial(inception.feature_network, "inception")


@pytest.mark.parametrize("resize", inception.RESIZES)
def test_a_grey_image_is_read_as_the_same_colours(resize):
    grey = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 1)).astype(np.float32)
    read = inception.preprocess(grey, resize)
    np.testing.assert_allclose(read, inception.preprocess(np.repeat(grey, 3, -1), resize), atol=1e-5)
    with pytest.raises(ValueError, match="2 channels"):
        inception.preprocess(np.repeat(grey, 2, -1), resize)


def test_the_digest_changes_with_the_weights_the_features_and_the_preprocessing(network, tensors, tmp_path):
    digests = {network(tap, resize).digest for tap in ("2048", "logits") for resize in inception.RESIZES}
    assert len(digests) == 6
    path = tmp_path / "other.pth"
    path.write_bytes(published_file({**tensors, "fc.bias": tensors["fc.bias"] + 1}))
    inception.keep(path, sha256=None)
    assert network("2048", "clean").digest not in digests


def test_features_and_logits_share_the_arrays_of_their_weights(network):
    config = config_lib.get_config()
    features, logits = inception.INCEPTION.load(config), inception.INCEPTION_LOGITS.load(config)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (features, logits)), strict=True))
    assert (features.name, logits.name) == ("inception", "inception_logits")


def test_features_and_logits_of_the_same_images_are_one_pass_through_the_network(network):
    images = jax.ShapeDtypeStruct((16, 8, 8, 3), np.float32)
    taps = {tap: network(tap, "tensorflow") for tap in ("2048", "logits_unbiased")}

    def flops(taps):
        def run(params, images):
            return [tap.replace(params=params)(images) for tap in taps]

        return jax.jit(run).lower(taps[0].params, images).compile().cost_analysis()["flops"]

    assert flops(list(taps.values())) < 1.05 * flops([taps["2048"]])


# The peers. They read the same file of random weights and the same folders of images.


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def peers(torch, published):
    """`(pytorch_fid, torch_fidelity)`, which find the weights where PyTorch keeps its downloads."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pytest.skip("needs torchvision")
    except RuntimeError:  # PyPI's torchvision beside a PyTorch for CPUs: its operators, which no peer uses, don't load.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_library"] = library  # It lives as long as this module.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(published.parents[2]))
        pytest.importorskip("pytorch_fid.fid_score")
        pytest.importorskip("torch_fidelity")
        import pytorch_fid
        import torch_fidelity

        yield pytorch_fid, torch_fidelity


def pictures(seed, tint):
    """`[n, 32, 32, 3]` uint8: a few waves each, in colours around `tint`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] / 32
    waves = np.zeros((IMAGES, 32, 32, 3))
    for _ in range(4):
        a, b, phase, height = rng.uniform((-6, -6, 0, 0), (6, 6, 7, 60), (IMAGES, 4)).T[..., None, None]
        colour = rng.uniform(0, 1, (IMAGES, 1, 1, 3)) * tint
        waves += (height * np.sin(a * x + b * y + phase))[..., None] * colour
    return np.clip(128 + waves + rng.normal(0, 4, waves.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`[(folder, its images), (folder, its images)]`."""
    result = []
    for seed, tint in enumerate(((1, 1, 1), (1, 0.5, 0.2))):
        folder, images = tmp_path_factory.mktemp("images"), pictures(seed, np.array(tint))
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{number:03}.png")
        result.append((str(folder), images))
    return result


@pytest.mark.parametrize("old", [False, True])
def test_files_that_pytorch_writes_are_read(torch, old, tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = torch.nn.BatchNorm2d(3).state_dict()
    kinds = (torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    state |= {str(kind): base.to(kind) for kind in kinds}
    state |= {"view": base[1:, ::2].T, "same": base, "none": torch.zeros(0, 3), "parameter": torch.ones(2)}
    torch.save(state, tmp_path / "f.pth", _use_new_zipfile_serialization=not old)
    tensors = torch_file.read(tmp_path / "f.pth")
    assert list(tensors) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy())
        assert tensors[name].dtype == tensor.numpy().dtype


def test_pytorch_reads_the_files_that_these_tests_write(torch, published, tensors):
    state = torch.load(published, weights_only=True)
    assert all(np.array_equal(state[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("shape", [(32, 32), (28, 45), (400, 640)])
def test_pytorch_resizing_is_that_of_pytorch(torch, shape):
    image = np.random.default_rng(0).uniform(0, 255, (1, *shape, 1)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image.transpose(0, 3, 1, 2)), size=(299, 299), mode="bilinear", align_corners=False
    )
    ours = resizing.resize(image, 299, resizing.bilinear_pytorch)
    np.testing.assert_allclose(ours[..., 0], expected[:, 0], atol=1e-2)


def test_clean_preprocessing_is_that_of_clean_fid(torch):
    resizer = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    image = pictures(3, np.ones(3))[0]
    ours = inception.preprocess(image[None] / np.float32(127.5) - 1, "clean")[0]
    np.testing.assert_allclose(ours, (resizer(image) - 128) / 128, atol=1e-5)


def test_all_features_and_logits_are_those_of_torch_fidelity(torch, peers, network, published):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    taps = ("64", "192", "768", "2048", "logits_unbiased", "logits")
    theirs = FeatureExtractorInceptionV3("inception", list(taps), feature_extractor_weights_path=str(published))
    images = pictures(5, np.ones(3))[:3]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    prepared = inception.preprocess(images / np.float32(127.5) - 1, "tensorflow")
    ours = jax.jit(inception_network.Inception().apply)({"params": network("64", "tensorflow").params}, prepared)
    for tap, values in zip(taps, expected, strict=True):
        np.testing.assert_allclose(ours[tap], values, rtol=1e-4, atol=1e-4, err_msg=tap)


def embedded(network, tap, resize, images):
    embed = jax.jit(lambda network, images: network(images))
    return np.asarray(embed(network(tap, resize), images / np.float32(127.5) - 1))


def fid_of(network, tap, resize, folders):
    gaussians = [fit_gaussian([embedded(network, tap, resize, images)]) for _, images in folders]
    return frechet_distance(*gaussians)


# The 192 features take a second; the others below are the same test of the whole network.
WIDTHS = ["192", pytest.param("2048", marks=pytest.mark.slow)]


@pytest.mark.parametrize("tap", WIDTHS)
@pytest.mark.filterwarnings("ignore")
def test_fid_is_that_of_pytorch_fid_on_the_same_folders(peers, network, folders, tap):
    pytorch_fid, _ = peers
    paths = [path for path, _ in folders]
    theirs = pytorch_fid.fid_score.calculate_fid_given_paths(paths, 20, "cpu", int(tap), num_workers=0)
    assert fid_of(network, tap, "pytorch", folders) == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("tap", ["64", pytest.param("2048", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_the_command_gives_the_numbers_of_torch_fidelity_on_the_same_folders(
    peers, network, folders, published, tap, tmp_path, monkeypatch
):
    _, torch_fidelity = peers
    (real, _), (fake, _) = folders
    columns = {"kid_inception": "kernel_inception_distance_mean", "kid_inception_std": "kernel_inception_distance_std"}
    names, has_score = ["fid", "kid"], tap == "2048"
    if has_score:
        names.append("inception_score")
        columns |= {"inception_score": "inception_score_mean", "inception_score_std": "inception_score_std"}
    theirs = torch_fidelity.calculate_metrics(
        input1=fake, input2=real, cuda=False, fid=True, kid=True, isc=has_score, cache=False, verbose=False,
        save_cpu_ram=True, kid_subset_size=30, kid_subsets=20, feature_extractor_weights_path=str(published),
        feature_layer_fid=tap, feature_layer_kid=tap,
    )  # fmt: skip
    own = FeatureNetwork("inception", lambda config: network(tap, config.eval.resize), (inception.RESIZE,))
    monkeypatch.setitem(FEATURE_NETWORKS, "inception", own)
    flags = [f"--real={real}", f"--fake={fake}", "--features=inception", f"--metrics={','.join(names)}"]
    flags += ["--kid_subset_size=30", "--kid_subsets=20", f"--out={tmp_path / 'a.csv'}"]
    assert evaluate.main(flags) == 0
    with (tmp_path / "a.csv").open() as file:
        (ours,) = csv.DictReader(file)
    for column, name in (columns | {"fid": "frechet_inception_distance"}).items():
        assert float(ours[column]) == pytest.approx(theirs[name], rel=1e-5), column


@pytest.mark.parametrize("tap", WIDTHS)
@pytest.mark.filterwarnings("ignore")
def test_fid_kid_and_inception_score_are_those_of_torch_fidelity(peers, network, folders, published, tap):
    _, torch_fidelity = peers
    (first, first_images), (second, second_images) = folders
    options = {"feature_layer_fid": tap, "feature_layer_kid": tap, "isc": tap == "2048"}
    theirs = torch_fidelity.calculate_metrics(
        input1=first, input2=second, cuda=False, fid=True, kid=True, cache=False, verbose=False, save_cpu_ram=True,
        kid_subset_size=30, kid_subsets=20, feature_extractor_weights_path=str(published), **options,
    )  # fmt: skip
    assert fid_of(network, tap, "tensorflow", folders) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    config = config_lib.get_config()
    config.eval.update(kid_subset_size=30, kid_subsets=20)

    def sets(tap):
        features = (embedded(network, tap, "tensorflow", images) for images in (first_images, second_images))
        generated, training = (Features(lambda array=array: [array]) for array in features)
        return Sets(generated, training, None)

    (kid_value,) = kid.kid(sets(tap), config)
    assert kid_value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    if options["isc"]:
        (score,) = inception_score_lib.inception_score(sets("logits_unbiased"), config)
        assert score == pytest.approx(theirs["inception_score_mean"], rel=1e-3)
