"""The commands on ticket files: what they show, what they write, and that other programs make the same images of it."""

import importlib.util
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT, environment
from jax import export
from safetensors.numpy import load_file
from test_tickets import VERDICT, config_of, state_of, written

import jaxtickets as jt
from jaxtickets import compact, models, trained
from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.runs import Networks
from jaxtickets.tickets import stablehlo, torch_export
from jaxtickets.tickets.__main__ import main
from jaxtickets.tickets.content import NAME


@pytest.fixture(scope="module")
def gan(data_directory, tmp_path_factory):
    path = tmp_path_factory.mktemp("gan") / NAME
    written(path, config_of("dcgan", data_directory, **{"model.width": 8}))
    return path


def call(*arguments):
    return main(list(map(str, arguments)))


def refused(capsys, *arguments, status=2):
    capsys.readouterr()
    assert call(*arguments) == status
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("jaxtickets: ")
    return captured.err


def test_info_shows_what_is_in_a_file_and_json_has_the_numbers(gan, capsys):
    assert call("info", gan) == 0
    text = capsys.readouterr().out
    ticket = jt.load_ticket(gan)
    layers = mask_lib.layer_counts(ticket.masks)
    assert f"{ticket.sparsity:.2%} of" in text and "network: dcgan, width 8, 4 latents, images of 16x16x1" in text
    assert "metric: fd_digits 12.5, of the dense network 12 (lower is better)" in text and "step 0" in text
    for name, layer in layers.items():
        assert re.search(rf"{name} .* {layer.weights:,} +{layer.kept:,} ", text)
    assert call("info", gan, "--json") == 0
    about = json.loads(capsys.readouterr().out)
    assert about["sparsity"] == pytest.approx(ticket.sparsity) and about["round"] == VERDICT["winning_round"]
    assert about["bytes"] == gan.stat().st_size and about["has_trained_weights"] and about["format"] == "jaxtickets 3"
    dense = sum(leaf.nbytes for leaf in jax.tree.leaves((ticket.params, ticket.batch_stats)))
    parts = about["bytes_of"]
    assert (parts["masks"], parts["moments"]) == (-(-about["weights"] // 8), 0)
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(ticket.trained[:2]))
    assert parts["trained_weights"] == own - 4 * (about["weights"] - about["kept"])
    assert 0 < parts["names_and_metadata"] < 4096  # The rest.
    assert parts["rewind_point"] == dense - 4 * (about["weights"] - about["kept"])  # Step and seed are zero.
    axes = {layer["layer"]: layer["axes"] for layer in about["layers"]}
    assert axes["generator/up_8/conv/kernel"] == [None, None, "unproject", "up_8"]


def test_verify_tells_damage_and_tickets_that_are_not_nested(gan, tmp_path, capsys):
    params = {"a": np.ones((2, 3), np.float32)}
    for name, keep in (("dense", [1, 1, 1, 1, 1, 0]), ("sparse", [1, 1, 0, 0, 0, 0]), ("other", [0, 0, 0, 0, 0, 1])):
        jt.save_ticket(tmp_path / name, {"a": np.reshape(keep, (2, 3)) > 0}, params)
    sparse, dense, other = (tmp_path / name for name in ("sparse", "dense", "other"))
    assert call("verify", sparse, dense) == 0
    assert f"{sparse}: nested in {dense}" in capsys.readouterr().out
    assert call("verify", other, dense) == 1 and f"{other}: not nested in {dense}" in capsys.readouterr().out
    assert call("verify", gan, dense) == 0 and "of another network than" in capsys.readouterr().out
    params = {
        "a": np.ones((2, 2), np.float32)
    }  # Of another network, with more weights than `other` and fewer than `dense`.
    jt.save_ticket(tmp_path / "between", {"a": np.reshape([1, 1, 1, 0], (2, 2)) > 0}, params)
    assert call("verify", dense, tmp_path / "between", other) == 1
    assert f"{other}: not nested in {dense}" in capsys.readouterr().out
    content = bytearray(sparse.read_bytes())
    content[-1] ^= 1
    sparse.write_bytes(content)
    assert call("verify", sparse) == 1 and "the checksum differs" in capsys.readouterr().out
    assert "there is no such file" in refused(capsys, "verify", tmp_path / "none")


def test_mistakes_are_one_line_and_nothing_is_written(gan, tmp_path, capsys):
    (tmp_path / "text").write_text("no ticket")
    (tmp_path / "there").write_text("mine")
    out, own = f"--out={tmp_path / 'new'}", tmp_path / "own"
    jt.save_ticket(own, {"a": np.eye(2) > 0}, {"a": np.ones((2, 2))})
    before = sorted(tmp_path.iterdir())
    for arguments, match in (
        ([], "no command is given; allowed are info, verify, export, extract"),
        (["inf", gan], "inf: no such command; did you mean 'info'"),
        (["info"], "info: 0 files are given; allowed is one"),
        (["info", gan, gan], "info: 2 files are given; allowed is one"),
        (["info", tmp_path / "none"], "there is no such file"),
        (["info", tmp_path / "text"], "can't be read as a ticket"),
        (["info", gan, "--card"], "--card: not a flag of info; allowed are: --json"),
        (["export", gan, out], "--to=: allowed are torch, stablehlo"),
        (["export", gan, "--to=onnx", out], "--to=onnx: allowed are torch, stablehlo"),
        (["export", gan, "--to=torch"], "--out is missing"),
        (["export", gan, "--to=torch", f"--out={tmp_path / 'there'}"], "there is there already; give another place"),
        (["export", gan, "--to=torch", f"--out={tmp_path}"], "is a directory; allowed is a file"),
        (["export", gan, "--to=torch", "--out=."], "is a directory; allowed is a file"),
        (["export", gan, "--to=stablehlo", "--out=/"], "is a directory; allowed is a file"),
        (["export", gan, "--to=torch", f"--out={tmp_path / 'no' / 'x'}"], "there is no directory"),
        (
            ["export", own, "--to=torch", out],
            "only a config says how the network is built; the arrays of any ticket are written, as safetensor",
        ),
        (["extract", gan, f"--out={tmp_path / 'there'}"], "is a file; allowed is a directory"),
        (["extract", gan, f"--out={tmp_path / 'no' / 'x'}"], "there is no directory"),
        (["extract", gan, out, "--license=mit"], "--license: allowed with --card"),
    ):
        assert match in refused(capsys, *arguments), arguments
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "there").read_text() == "mine"


def test_parts_are_dense_arrays_under_their_paths(gan, tmp_path, capsys):
    assert call("extract", gan, f"--out={tmp_path / 'parts'}") == 0
    ticket = jt.load_ticket(gan)
    for file, tree in (("rewind", ticket), ("model", ticket.trained)):
        found = load_file(tmp_path / "parts" / f"{file}.safetensors")
        expected = mask_lib.named_leaves(tree.params) | mask_lib.named_leaves({"batch_stats": tree.batch_stats})
        assert found.keys() == expected.keys()
        for name, leaf in expected.items():
            np.testing.assert_array_equal(found[name], leaf)
    masks = load_file(tmp_path / "parts" / "masks.safetensors")
    jax.tree.map(np.testing.assert_array_equal, masks, dict(mask_lib.named_leaves(ticket.masks)))
    config = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert config["config"] == ticket.metadata["config"] and config["model_type"] == "dcgan"
    assert "is there already" in refused(capsys, "extract", gan, f"--out={tmp_path / 'parts'}")
    assert call("extract", gan, f"--out={tmp_path / 'parts'}", "--overwrite") == 0


def test_a_card_has_the_hubs_metadata_and_its_directory_opens_as_the_ticket(gan, tmp_path):
    yaml = pytest.importorskip("yaml")
    out = tmp_path / "my-ticket"
    assert call("extract", gan, f"--out={out}", "--card", "--license=mit") == 0
    files = {"README.md", "config.json", "model.safetensors", "sample.png", "retrain.py", NAME}
    assert {path.name for path in out.iterdir()} == files
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["license"] == "mit" and about["library_name"] == "jaxtickets" and "lottery-ticket" in about["tags"]
    ((result,),) = (entry["results"] for entry in about["model-index"])
    assert result["metrics"][0]["value"] == 12.5 and result["dataset"]["name"] == "digits"
    assert "sample.png" in text and 'jt.load_ticket("DIRECTORY")' in text
    out = out.rename(tmp_path / "moved")
    first, second = jt.load_ticket(gan), jt.load_ticket(out)
    jax.tree.map(np.testing.assert_array_equal, first.masks, second.masks)
    config = load_file_config(out / "retrain.py")
    assert config.experiment == "ticket" and config.ticket.of == str(out / NAME)

    with pytest.raises(UserError, match="--config=NAME:quick: a ticket has no variants; allowed is NAME alone"):
        load_file_config(out / "retrain.py", "quick")


def test_a_card_says_that_its_samples_are_those_of_the_untrained_ticket(gan, data_directory, tmp_path):
    said = (
        "The samples are those of the untrained ticket at its rewind point: the file has no trained weights; the metric"
    )
    written(tmp_path / NAME, config_of("dcgan", data_directory), is_trained=False)
    for ticket, is_said in ((tmp_path / NAME, True), (gan, False)):
        out = tmp_path / str(is_said)
        assert call("extract", ticket, f"--out={out}", "--card") == 0
        text = (out / "README.md").read_text()
        assert (said in text) == is_said and ("rewind point and trained weights" in text) != is_said


def test_a_ticket_of_ones_own_network_shows_its_metadata_and_its_card_names_no_task(tmp_path, capsys):
    yaml = pytest.importorskip("yaml")
    masks, params = {"a": np.eye(2) > 0}, {"a": np.ones((2, 2))}
    jt.save_ticket(tmp_path / NAME, masks, params, metadata={"accuracy": 0.97, "many": list(range(1000))})
    assert call("info", tmp_path) == 0
    text = capsys.readouterr().out
    assert "accuracy: 0.97\n" in text and len(text) < 1000
    assert call("extract", tmp_path, f"--out={tmp_path / 'card'}", "--card") == 0
    _, front, text = (tmp_path / "card" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front).keys() == {"library_name", "license", "tags"}
    assert 'jt.load_ticket("DIRECTORY", like=params)' in text and "A lottery ticket in a network:" in text


def load_file_config(path, *variant):
    spec = importlib.util.spec_from_file_location("retrain", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*variant)


# Other programs.


def quick(names, *chosen):
    """The names as parameters of a test; those that are not chosen are slow."""
    return [pytest.param(name, marks=[] if name in chosen else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("name", quick(models.NETWORKS, "conv_vae", "vq_vae"))
def test_every_network_has_a_state_dict_in_which_pruned_weights_are_zero(name):
    network = models.NETWORKS[name]
    components = network.make(width=4, latent_size=4, image_size=network.image_sizes[0], channels=1)
    shapes = jax.eval_shape(lambda: models.init(components, jax.random.key(0)))
    params, batch_stats = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    rng = np.random.default_rng(0)
    masks = jax.tree.map(lambda mask: rng.random(mask.shape) < 0.5, mask_lib.ones(params))
    found = torch_export.state_dict(components, mask_lib.apply(params, masks), batch_stats)
    assert all("/" not in one for one in found)
    prunable = [one.replace("/", ".").removesuffix("kernel") for one in mask_lib.named_leaves(masks)]
    own = [array for one, array in found.items() if one.removesuffix("weight") in prunable]
    assert sum(np.count_nonzero(array) for array in own) == mask_lib.counts(masks).kept and len(own) == len(prunable)


def compacted(path, data_directory):
    """A ticket whose trained network has half of the channels; returns the opened ticket."""
    networks = Networks(config_of("dcgan", data_directory, **{"model.width": 8}))
    rng = np.random.default_rng(0)
    axes = networks.axis_names
    kept = {
        name: {one: rng.permutation(size) < size // 2 for one, size in sizes.items()}
        for name, sizes in channels_of(networks.params, axes.params).items()
    }
    config = compact.compacted_config(networks.config, kept)
    smaller = Networks(config)
    state = state_of(smaller)
    params = jax.tree.map(lambda leaf: 0.3 * leaf, state.params)
    own = trained.Trained(params, state.batch_stats, smaller.json_network)
    written(path, networks.config, trained=own)
    return jt.load_ticket(path)


def channels_of(params, names):
    found = {}
    for path, leaf in mask_lib.named_leaves(params).items():
        component = path.partition("/")[0]
        axes = names
        for key in path.split("/"):
            axes = axes[key]
        for size, name in zip(leaf.shape, axes, strict=True):
            if name is not None:
                found.setdefault(component, {})[name] = size
    return found


SCRIPT = """
import sys, jax, numpy as np
from jax import export
made = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
np.save(sys.argv[3], made.call(*np.load(sys.argv[2]).values()))
"""


@pytest.mark.parametrize("kind", quick(("dcgan", "compacted", "vae"), "compacted"))
def test_the_generator_in_stablehlo_makes_the_same_images_in_another_process(kind, gan, data_directory, tmp_path):
    pytest.importorskip("flatbuffers")
    path, latents = tmp_path / NAME, np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    if kind == "compacted":
        compacted(path, data_directory)
    elif kind == "vae":
        written(path, config_of("resnet_vae", data_directory))
    else:
        path = gan
    out = tmp_path / "generator.stablehlo"
    assert call("export", path, "--to=stablehlo", f"--out={out}") == 0
    about = json.loads((tmp_path / "generator.stablehlo.json").read_text())
    assert about["inputs"][0]["shape"] == ["batch", 4] and about["platforms"] == ["cpu", "cuda", "tpu"]
    np.savez(tmp_path / "in.npz", latents)
    command = [sys.executable, "-c", SCRIPT, out, tmp_path / "in.npz", tmp_path / "images.npy"]
    subprocess.run(command, env=environment(), cwd=tmp_path, check=True)
    expected = jt.load_ticket(path).apply(about["component"], latents)
    images = np.load(tmp_path / "images.npy")
    assert list(images.shape[1:]) == about["output"]["shape"][1:] and np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(images, expected, atol=1e-4)


@pytest.mark.parametrize("network", quick((*models.NETWORKS, "conditional"), "conv_ae"))
def test_every_networks_images_can_be_exported_for_any_batch_size(network, data_directory, tmp_path):
    pytest.importorskip("flatbuffers")
    is_conditional = network == "conditional"
    name = "resnet_dcgan" if is_conditional else network
    written(tmp_path / NAME, config_of(name, data_directory, **({"model.conditional": True} if is_conditional else {})))
    ticket = jt.load_ticket(tmp_path)
    content, about = stablehlo.exported(ticket.opened)
    call = export.deserialize(bytearray(content)).call
    shape = ticket.opened.objective.components[about["component"]].input_shape
    for batch in (1, 3):
        latents = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
        labels = [np.arange(batch, dtype=np.int32)] if is_conditional else []
        expected = ticket.apply(about["component"], latents, *labels)
        np.testing.assert_allclose(call(latents, *labels), expected, atol=1e-4)
        assert np.abs(expected).max() > 1e-3


TWINS = (
    "dcgan",
    "sngan",
    "conv_vae",
    "conv_ae",
    "pooled_ae",
    "linear_vae",
    "sngan_resnet",
    "resnet_dcgan",
    "resnet_vae",
)


@pytest.mark.parametrize("network", quick(("compacted", *TWINS), "compacted", "linear_vae"))
def test_pytorch_makes_the_same_outputs_from_the_state_dict(network, data_directory, tmp_path):
    torch = pytest.importorskip("torch")
    from jaxtickets.tickets import torch_twins

    path, out = tmp_path / NAME, tmp_path / "model.safetensors"
    if network == "compacted":
        compacted(path, data_directory)
    else:
        written(path, config_of(network, data_directory, **{"model.width": 8, "data.name": "digits"}))
    assert call("export", path, "--to=torch", f"--out={out}") == 0
    ticket = jt.load_ticket(path)
    for name, component in ticket.opened.objective.components.items():
        inputs = np.random.default_rng(1).normal(size=(3, *component.input_shape)).astype(np.float32)
        ours = np.asarray(ticket.apply(name, inputs))
        with torch.no_grad():
            theirs = torch_twins.load(out, name)(torch.from_numpy(channels_first(inputs))).numpy()
        assert np.abs(ours).max() > 1e-3
        np.testing.assert_allclose(theirs, channels_first(ours), rtol=1e-4, atol=1e-4)


def channels_first(array):
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if array.ndim == 4 else array


def test_a_network_without_a_twin_in_pytorch_is_one_line(data_directory, tmp_path):
    pytest.importorskip("torch")
    from jaxtickets.tickets import torch_twins

    path, out = tmp_path / NAME, tmp_path / "model.safetensors"
    written(path, config_of("vq_vae", data_directory))
    assert call("export", path, "--to=torch", f"--out={out}") == 0
    with pytest.raises(ValueError, match="'vq_vae' has no twin in PyTorch; allowed are dcgan, ") as caught:
        torch_twins.load(out, "decoder")
    assert "\n" not in str(caught.value)


def test_the_state_dict_has_the_names_of_the_benchmarks_networks(data_directory, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import torch_networks

    for name in ("dcgan", "conv_vae"):
        components = models.NETWORKS[name].make(width=4, latent_size=4, image_size=16, channels=3)
        shapes = jax.eval_shape(lambda components=components: models.init(components, jax.random.key(0)))
        params, batch_stats = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
        found = torch_export.state_dict(components, params, batch_stats)
        theirs = torch_networks.MODELS[name](4, 4, 16).state_dict()
        assert {one: tuple(array.shape) for one, array in found.items()} == {
            one: tuple(tensor.shape) for one, tensor in theirs.items()
        }
