"""Tests that the networks of `configs/reference_*.py` are those of the paper's reference code, as PyTorch has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import init, load_config
from flax import traverse_util

from jaxtickets import masks as mask_lib
from jaxtickets import models

WIDTH, LATENT, BATCH = 8, 6, 5
GAN = {"name": "dcgan", "width": WIDTH, "latent_size": LATENT, "image_size": 32, "first_norm": True}


VAE = {"name": "conv_vae", "width": WIDTH, "latent_size": LATENT, "image_size": 32, "code_norm": True}
AE = {"name": "pooled_ae", "width": WIDTH, "latent_size": 16 * WIDTH, "image_size": 32}


def kernels(component, **options):
    """`{layer: kernel}` of the DCGAN's generator or discriminator."""
    params, _ = init(models.build(GAN | options, channels=3, classes=0))
    flat = traverse_util.flatten_dict(params[component])
    return {path[0]: np.asarray(leaf) for path, leaf in flat.items() if path[-1] == "kernel"}


def pytorch_dcgan(torch):
    """The reference's networks by layer: 4x4 kernels, a bias in each layer, a norm after each but the last."""
    nn, width = torch.nn, WIDTH
    up = {
        "unproject": (nn.ConvTranspose2d(LATENT, 4 * width, 4), nn.BatchNorm2d(4 * width)),
        "up_8": (nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1), nn.BatchNorm2d(2 * width)),
        "up_16": (nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.BatchNorm2d(width)),
        "up_32": (nn.ConvTranspose2d(width, 3, 4, 2, 1), None),
    }
    down = {
        "down_32": (nn.Conv2d(3, width, 4, 2, 1), nn.BatchNorm2d(width)),
        "down_16": (nn.Conv2d(width, 2 * width, 4, 2, 1), nn.BatchNorm2d(2 * width)),
        "down_8": (nn.Conv2d(2 * width, 4 * width, 4, 2, 1), nn.BatchNorm2d(4 * width)),
        "project": (nn.Conv2d(4 * width, 1, 4), None),
    }
    return {"generator": up, "discriminator": down}


@pytest.mark.parametrize("component", ["generator", "discriminator"])
def test_the_gan_is_the_references_whatever_the_biases_in_front_of_its_batch_norms(component):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    layers = pytorch_dcgan(torch)[component]
    inputs = rng.normal(size=(BATCH, LATENT) if component == "generator" else (BATCH, 32, 32, 3))
    with jax.enable_x64(True):
        components = models.build(GAN, channels=3, classes=0, dtype=jnp.float64)
        params, batch_stats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), init(components))
        expected = torch.from_numpy(inputs[..., None, None] if inputs.ndim == 2 else inputs.transpose(0, 3, 1, 2))
        for name, (conv, norm) in layers.items():
            own = params[component][name]
            # The reference's biases in front of a norm are drawn; those behind which there is none are ours.
            bias = rng.normal(size=conv.bias.shape) if norm else own["conv"]["bias"]
            axes = (2, 3, 0, 1) if component == "generator" else (3, 2, 0, 1)
            weights = own["conv"]["kernel"].transpose(axes)
            conv.weight.data, conv.bias.data = torch.from_numpy(weights.copy()), torch.from_numpy(np.array(bias))
            expected = conv(expected) if norm is None else torch.relu(norm.double()(conv(expected)))
        expected = (torch.tanh(expected) if component == "generator" else expected.squeeze(-1)).detach().numpy()
        ours, _ = models.apply(components, params, batch_stats, component, inputs, train=True)
    np.testing.assert_allclose(ours, expected.transpose(0, 2, 3, 1) if ours.ndim == 4 else expected[..., 0], rtol=1e-9)


def test_the_norm_of_the_first_layer_is_an_option():
    for first_norm in (False, True):
        params, _ = jax.eval_shape(lambda first=first_norm: init(models.build(GAN | {"first_norm": first}, 3, 0)))
        assert set(params["discriminator"]["down_32"]) == ({"conv", "norm"} if first_norm else {"conv"})
        assert ("bias" in params["discriminator"]["down_32"]["conv"]) == (not first_norm)


@pytest.mark.parametrize("component", ["generator", "discriminator"])
def test_kernels_can_start_as_in_pytorch(component):
    ours = kernels(component, width=32, latent_size=16, kernel_init="torch")
    for name, kernel in ours.items():
        # 4x4 taps; PyTorch counts the outputs of a transposed convolution as its fan in.
        bound = 1 / np.sqrt(16 * kernel.shape[-1 if component == "generator" else -2])
        assert np.abs(kernel).max() <= bound, name
        # A uniform distribution: variance bound^2 / 3, and that of the squares 4 bound^4 / 45.
        mean_square = np.square(kernel).mean() / bound**2
        assert mean_square == pytest.approx(1 / 3, abs=5 * np.sqrt(4 / 45 / kernel.size)), name
        assert kernel.mean() / bound == pytest.approx(0, abs=5 * np.sqrt(1 / 3 / kernel.size)), name


@pytest.mark.parametrize("component", ["generator", "discriminator"])
def test_the_bounds_of_the_first_kernels_are_pytorchs(component):
    torch = pytest.importorskip("torch")
    theirs = pytorch_dcgan(torch)[component]
    for name, kernel in kernels(component, kernel_init="torch").items():
        largest = float(theirs[name][0].weight.detach().abs().max())
        # Of n uniform numbers the largest is bound x (1 - 1 / n) in the mean.
        assert np.abs(kernel).max() == pytest.approx(largest, rel=30 / kernel.size), name


def test_the_reference_prunes_all_parameters_but_those_of_the_two_outer_layers():
    config = load_config("reference_gan", "")
    params = init(models.build(GAN, channels=3, classes=0))[0]
    masks = mask_lib.named_leaves(mask_lib.ones(params, config.prune.include, config.prune.exclude))
    dense = {path for path in mask_lib.named_leaves(params) if path not in masks}
    assert dense == {
        "generator/unproject/conv/kernel",
        "discriminator/project/conv/kernel",
        "discriminator/project/conv/bias",
    }


# The VAE and the autoencoder.


def pytorch_vae(torch):
    nn, width = torch.nn, WIDTH
    down = {
        "down_32": (nn.Conv2d(3, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU()),
        "down_16": (nn.Conv2d(width, 2 * width, 4, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        "down_8": (nn.Conv2d(2 * width, 4 * width, 4, 2, 1), nn.BatchNorm2d(4 * width), nn.ReLU()),
        "down_4": (nn.Conv2d(4 * width, 8 * width, 4, 2, 1), nn.BatchNorm2d(8 * width), nn.ReLU()),
        "project": (nn.Conv2d(8 * width, 2 * LATENT, 2), nn.BatchNorm2d(2 * LATENT), nn.Flatten()),
    }
    return {"encoder": down}


def pytorch_ae(torch):
    nn, width = torch.nn, WIDTH
    down = {
        "down_1": (nn.Conv2d(3, width, 3, 1, 1), nn.ReLU()),
        "down_2": (nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU()),
        "down_3": (nn.Conv2d(2 * width, 4 * width, 2, 2, 2), nn.ReLU()),
        "down_4": (nn.Conv2d(4 * width, 8 * width, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2)),
        "down_5": (nn.Conv2d(8 * width, 16 * width, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2, 1)),
    }
    up = {
        "up_5": (nn.ConvTranspose2d(16 * width, 8 * width, 3, 2), nn.ReLU()),
        "up_4": (nn.ConvTranspose2d(8 * width, 4 * width, 2, 2), nn.ReLU()),
        "up_3": (nn.ConvTranspose2d(4 * width, 2 * width, 2, 2, 1), nn.ReLU()),
        "up_2": (nn.ConvTranspose2d(2 * width, width, 5, 1, 1), nn.ReLU()),
        "up_1": (nn.ConvTranspose2d(width, 3, 2, 2, 4), nn.Tanh()),
    }
    return {"encoder": down, "decoder": up}


@pytest.mark.parametrize(
    ("model", "layers", "component"),
    [(VAE, pytorch_vae, "encoder"), (AE, pytorch_ae, "encoder"), (AE, pytorch_ae, "decoder")],
)
def test_the_autoencoders_are_the_references_layer_by_layer(model, layers, component):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        components = models.build(model, channels=3, classes=0, dtype=jnp.float64)
        params, batch_stats = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), init(components))
        inputs = rng.normal(size=(BATCH, *components[component].input_shape))
        stacks, transposed = layers(torch)[component], component == "decoder"
        assert set(stacks) == set(params[component])
        expected = torch.from_numpy(inputs.transpose(0, 3, 1, 2))
        for name, modules in stacks.items():
            own = params[component][name]
            conv = modules[0].double()
            # PyTorch's kernels are [out, in, taps], those of a transposed convolution [in, out, taps].
            kernel = own["conv"]["kernel"].transpose((2, 3, 0, 1) if transposed else (3, 2, 0, 1))
            assert tuple(conv.weight.shape) == kernel.shape
            conv.weight.data = torch.from_numpy(kernel.copy())
            # A bias in front of a norm has no effect, and we have none.
            bias = own["conv"]["bias"] if "bias" in own["conv"] else rng.normal(size=conv.bias.shape)
            conv.bias.data = torch.from_numpy(bias)
            for module in modules[1:]:
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.double().weight.data = torch.from_numpy(own["norm"]["scale"])
                    module.bias.data = torch.from_numpy(own["norm"]["bias"])
            expected = torch.nn.Sequential(*modules)(expected)
        ours, _ = models.apply(components, params, batch_stats, component, inputs, train=True)
    expected = expected.detach().numpy()
    np.testing.assert_allclose(ours, expected.transpose(0, 2, 3, 1) if expected.ndim == 4 else expected, rtol=1e-8)


def test_only_the_encoders_outputs_have_the_norm_of_the_code():
    leaves = {
        code_norm: jax.eval_shape(lambda norm=code_norm: init(models.build(VAE | {"code_norm": norm}, 3, 0))[0])
        for code_norm in (False, True)
    }
    paths = {code_norm: set(mask_lib.named_leaves(params)) for code_norm, params in leaves.items()}
    assert paths[True] - paths[False] == {"encoder/project/norm/bias", "encoder/project/norm/scale"}
    assert paths[False] - paths[True] == {"encoder/project/conv/bias"}  # In front of a norm it has no effect.


@pytest.mark.parametrize(("model", "down"), [(GAN, "discriminator"), (VAE, "encoder"), (AE, "encoder")])
def test_biases_can_start_as_in_pytorch(model, down):
    model = model | {"width": 16}
    ours, zeros, kernels_alone = (
        init(models.build(model | options, channels=3, classes=0))[0]
        for options in ({"bias_init": "torch", "kernel_init": "torch"}, {}, {"kernel_init": "torch"})
    )
    found = []
    for component, layers in ours.items():
        for name, layer in layers.items():
            conv = layer["conv"]
            np.testing.assert_array_equal(conv["kernel"], kernels_alone[component][name]["conv"]["kernel"])
            if "bias" not in conv:
                continue
            assert not np.any(zeros[component][name]["conv"]["bias"])
            *taps, inputs, outputs = conv["kernel"].shape
            bound = 1 / np.sqrt(np.prod(taps) * (inputs if component == down else outputs))
            assert np.abs(conv["bias"]).max() <= bound, (component, name)
            found.extend(np.asarray(conv["bias"]) / bound)
    if model["name"] == "pooled_ae":  # A uniform distribution; the others have too few biases to tell.
        assert np.square(found).mean() == pytest.approx(1 / 3, abs=5 * np.sqrt(4 / 45 / len(found)))
        assert np.mean(found) == pytest.approx(0, abs=5 * np.sqrt(1 / 3 / len(found)))
    assert np.abs(found).max() > 0
