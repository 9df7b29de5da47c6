"""Networks: published sizes, images in and out, names of axes, FLOPs, dtypes; and networks from elsewhere."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import lax

from jaxtickets import cost, models
from jaxtickets import masks as mask_lib
from jaxtickets.fields import Field, whole
from jaxtickets.models import gans, layers
from jaxtickets.objectives import Batch, Objective, Player

GANS = models.NETWORKS.readers(gans.DISCRIMINATOR_NORM)
CONDITIONAL = models.NETWORKS.readers(gans.CONDITIONAL)
VAES = [name for name, network in models.NETWORKS.items() if network.objective == "vae"]


def build(name, **settings):
    network = models.NETWORKS[name]
    sizes = {"width": 4, "latent_size": 6, "image_size": network.image_sizes[0], "channels": 3}
    return network.make(**sizes | settings)


def shapes(components):
    """The shapes of `(params, batch_stats)`."""
    return jax.eval_shape(partial(models.init, components), jax.random.key(0))


def random_like(tree):
    """Random weights for a tree of shapes; compiling an initialisation would take seconds."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), tree)


def kernels(components):
    """`{path: shape}` of the kernels."""
    leaves = mask_lib.named_leaves(shapes(components)[0])
    return {path: leaf.shape for path, leaf in leaves.items() if path.endswith("/kernel")}


# Parameters, counted by hand. A layer has a bias unless a batch norm follows directly; 1x1 shortcuts and attention have
# none.


def conv(inputs, outputs, size, bias=True):
    return size**2 * inputs * outputs + bias * outputs


def dense(*sizes):
    return sum(inputs * outputs + outputs for inputs, outputs in zip(sizes, sizes[1:], strict=False))


def up_block(inputs, outputs, norm=2):
    """BN, 3x3 without a bias, BN, 3x3; a 1x1 shortcut. `norm` is the number of a norm's parameters per channel."""
    residual = norm * inputs + conv(inputs, outputs, 3, bias=False) + norm * outputs + conv(outputs, outputs, 3)
    return residual + conv(inputs, outputs, 1, bias=False)


def down_block(inputs, outputs, norm="none", first=False, shortcut=True):
    """Norm, 3x3, norm, 3x3; a 1x1 shortcut. The first block has no first norm, and its first convolution widens."""
    hidden = outputs if first else inputs
    residual = conv(inputs, hidden, 3, bias=norm != "batch") + conv(hidden, outputs, 3)
    norms = 0 if norm == "none" else 2 * hidden + (0 if first else 2 * inputs)
    return norms + residual + shortcut * conv(inputs, outputs, 1, bias=False)


def attention(c):
    """Queries and keys of c / 8 channels, values of c / 2 (Zhang et al. 2019, section 3 and their code), and gamma."""
    return 2 * c * (c // 8) + 2 * c * (c // 2) + 1


def dcgan(h=128, latent=32):
    # Radford et al. 2016, sized as in the paper's reference: 4x4 kernels 32-4h-2h-h-3 and 3-h-2h-4h-1. Each batch norm
    # has a scale and a bias; the generator's last layer and the discriminator's first and last layers have none.
    generator = 16 * (latent * 4 * h + 4 * h * 2 * h + 2 * h * h + h * 3) + 2 * (4 * h + 2 * h + h) + 3
    discriminator = 16 * (3 * h + h * 2 * h + 2 * h * 4 * h + 4 * h * 1) + h + 2 * (2 * h + 4 * h) + 1
    return {"generator": generator, "discriminator": discriminator}


def conv_autoencoder(norm, code, h=64, latent=32):
    # The paper's reference: the encoder has 4x4 kernels 3-h-2h-4h-8h, then 2x2 to the code; the decoder mirrors it.
    # A layer with batch norm has a scale and a bias, one without has a bias.
    encoder = 16 * (3 * h + h * 2 * h + 2 * h * 4 * h + 4 * h * 8 * h) + 4 * 8 * h * code + norm * 15 * h + code
    decoder = 4 * latent * 8 * h + 16 * (8 * h * 4 * h + 4 * h * 2 * h + 2 * h * h + h * 3) + norm * 15 * h + 3
    return {"encoder": encoder, "decoder": decoder}


def pooled_autoencoder(h=32, code=512):
    # The paper's reference: 3x3, 4x4, 2x2, 3x3 and 3x3 kernels to the code, and 3x3, 2x2, 2x2, 5x5 and 2x2 ones back.
    encoder = conv(3, h, 3) + conv(h, 2 * h, 4) + conv(2 * h, 4 * h, 2) + conv(4 * h, 8 * h, 3) + conv(8 * h, code, 3)
    decoder = conv(code, 8 * h, 3) + conv(8 * h, 4 * h, 2) + conv(4 * h, 2 * h, 2) + conv(2 * h, h, 5) + conv(h, 3, 2)
    return {"encoder": encoder, "decoder": decoder}


def sngan():
    # Miyato et al. 2018, table 3: dense to 4x4x512, three 4x4 deconvolutions of stride 2 with BN, 3x3 to the image. The
    # batch norm after the dense layer is DCGAN's. The discriminator has spectral norm only, so its layers have biases.
    batch_norms = 2 * (512 + 256 + 128 + 64)
    up = 16 * (128 * 512 + 512 * 256 + 256 * 128 + 128 * 64)
    down = conv(3, 64, 3) + conv(64, 64, 4) + conv(64, 128, 3) + conv(128, 128, 4) + conv(128, 256, 3)
    down += conv(256, 256, 4) + conv(256, 512, 3) + dense(4 * 4 * 512, 1)
    return {"generator": up + batch_norms + conv(64, 3, 3), "discriminator": down}


def sngan_resnet(classes=0, norm="none"):
    # Miyato et al. 2018, table 4: dense to 4x4x256, three ResBlocks up, BN, 3x3; two ResBlocks down of 128 channels,
    # two more, sum over pixels, dense. With classes, batch norms have a scale and a bias for each, and a 10x128
    # embedding enters the discriminator (Miyato, Koyama 2018, figure 1d).
    scales = 2 * max(1, classes)
    up = 16 * 128 * 256 + 256 + 3 * up_block(256, 256, scales) + scales * 256 + conv(256, 3, 3)
    down = down_block(3, 128, norm, first=True) + down_block(128, 128, norm)
    down += 2 * down_block(128, 128, norm, shortcut=False) + (norm != "none") * 2 * 128 + dense(128, 1) + classes * 128
    return {"generator": up, "discriminator": down}


def sngan_resnet_vae():
    # The decoder is SNGAN-ResNet's generator, the encoder its discriminator with batch norm and a code of 2 x 128.
    gan = sngan_resnet(norm="batch")
    return {"decoder": gan["generator"], "encoder": gan["discriminator"] - dense(128, 1) + dense(128, 256)}


def sagan():
    # Zhang et al. 2019 from 64 channels near the image to 256 at 4x4: attention at 16x16 between the residual blocks,
    # a block at 4x4 that keeps the resolution.
    up = 16 * 128 * 256 + 256 + up_block(256, 128) + up_block(128, 64) + attention(64) + up_block(64, 64)
    down = down_block(3, 64, first=True) + attention(64) + down_block(64, 128) + down_block(128, 256)
    down += down_block(256, 256, shortcut=False) + dense(256, 1)
    return {"generator": up + 2 * 64 + conv(64, 3, 3), "discriminator": down}


def resnet_dcgan(latent=32):
    # DCGAN's 4x4x256, 8x8x128, 16x16x64 with residual blocks; a 3x3 convolution at 32x32 at either end.
    up = 16 * latent * 256 + 256 + up_block(256, 128) + up_block(128, 64) + up_block(64, 64) + 2 * 64 + conv(64, 3, 3)
    down = conv(3, 64, 3) + sum(down_block(*sizes, "batch") for sizes in [(64, 64), (64, 128), (128, 256)])
    return {"generator": up, "discriminator": down + 2 * 256 + dense(256, 1)}


def resnet_vae():
    # The paper's reference: 32-32-64-128-256, mean over pixels, dense to 2 x 32; dense to 256, nearest neighbours,
    # mirrored.
    encoder = conv(3, 32, 3) + sum(down_block(*s, "batch") for s in [(32, 32), (32, 64), (64, 128), (128, 256)])
    decoder = dense(32, 256) + up_block(256, 128) + up_block(128, 64) + up_block(64, 32) + up_block(32, 32)
    return {"encoder": encoder + 2 * 256 + dense(256, 64), "decoder": decoder + 2 * 32 + conv(32, 3, 3)}


def vq_vae():
    # The paper's reference: 32-64-128-256 and two residual layers (3x3 and 1x1, without biases), 128 codes of size 32;
    # two 4x4 convolutions of stride 2, two 3x3 ones, 1x1 to the code; the decoder reads codes with a 3x3 convolution.
    residual = 2 * (conv(256, 256, 3, bias=False) + conv(256, 256, 1, bias=False))
    encoder = conv(3, 32, 4) + conv(32, 64, 4) + conv(64, 128, 3) + conv(128, 256, 3) + residual + conv(256, 32, 1)
    decoder = conv(32, 256, 3) + residual + conv(256, 128, 3) + conv(128, 64, 3) + conv(64, 32, 4) + conv(32, 3, 4)
    return {"encoder": encoder, "decoder": decoder, "codebook": 128 * 32}


COUNTS = [
    ("dcgan", {"width": 128, "latent_size": 32}, dcgan()),
    ("conv_vae", {"width": 64, "latent_size": 32}, conv_autoencoder(norm=2, code=64)),
    ("conv_ae", {"width": 64, "latent_size": 32}, conv_autoencoder(norm=1, code=32)),
    ("pooled_ae", {"width": 32, "latent_size": 512}, pooled_autoencoder()),
    ("sngan", {"width": 64, "latent_size": 128}, sngan()),
    ("sngan_resnet", {"width": 128, "latent_size": 128}, sngan_resnet()),
    ("sngan_resnet", {"width": 128, "latent_size": 128, "classes": 10}, sngan_resnet(classes=10)),
    ("sngan_resnet", {"width": 128, "latent_size": 128, "discriminator_norm": "layer"}, sngan_resnet(norm="layer")),
    ("sngan_resnet_vae", {"width": 128, "latent_size": 128}, sngan_resnet_vae()),
    ("sagan", {"width": 64, "latent_size": 128}, sagan()),
    ("resnet_dcgan", {"width": 64, "latent_size": 32}, resnet_dcgan()),
    ("resnet_vae", {"width": 32, "latent_size": 32}, resnet_vae()),
    ("vq_vae", {"width": 32, "latent_size": 32}, vq_vae()),
    (  # The paper's reference: 784-128-64-12-3 and back.
        "linear_ae",
        {"width": 128, "latent_size": 3, "image_size": 28, "channels": 1},
        {"encoder": dense(784, 128, 64, 12, 3), "decoder": dense(3, 12, 64, 128, 784)},
    ),
    (  # The paper's reference: 784-128-64-32-2x8 and back.
        "linear_vae",
        {"width": 128, "latent_size": 8, "image_size": 28, "channels": 1},
        {"encoder": dense(784, 128, 64, 32, 16), "decoder": dense(8, 32, 64, 128, 784)},
    ),
]


@pytest.mark.parametrize(("name", "settings", "expected"), COUNTS)
def test_networks_have_the_published_number_of_parameters(name, settings, expected):
    params, _ = shapes(build(name, **{"image_size": 32} | settings))
    assert {key: sum(leaf.size for leaf in jax.tree.leaves(tree)) for key, tree in params.items()} == expected


def test_every_network_is_counted():
    assert {name for name, _, _ in COUNTS} == set(models.NETWORKS)


# Images in and out.


def output_shapes(components, classes=0):
    """The shapes of each component's outputs for two examples in a training pass."""

    def outputs():
        params, batch_stats = models.init(components, jax.random.key(0))
        labels = jnp.zeros(2, jnp.int32) if classes else None
        return {
            key: models.apply(components, params, batch_stats, key, jnp.zeros((2, *part.input_shape)), True, labels)[0]
            for key, part in components.items()
        }

    return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(outputs))


@pytest.mark.parametrize(
    ("name", "image_size", "channels"),
    [(name, size, 3) for name, network in models.NETWORKS.items() for size in network.image_sizes]
    + [(name, network.image_sizes[0], 1) for name, network in models.NETWORKS.items()],
)
def test_every_network_makes_and_reads_images_of_each_size(name, image_size, channels):
    components = build(name, image_size=image_size, channels=channels)
    up, down = ("generator", "discriminator") if name in GANS else ("decoder", "encoder")
    image, code = (image_size, image_size, channels), (1 if name in GANS else 12 if name in VAES else 6,)
    assert components[down].input_shape == image
    if name == "vq_vae":
        code = (image_size // 4, image_size // 4, 6)
        assert output_shapes(components) == {
            up: (2, *image),
            down: (2, *code),
            "codebook": ((2, *code), (2, *code[:2])),
        }
    else:
        if name == "pooled_ae":
            code = (image_size // 16, image_size // 16, 6)
        assert components[up].input_shape == (code if name == "pooled_ae" else (6,))
        assert output_shapes(components) == {up: (2, *image), down: (2, *code)}


@pytest.mark.parametrize("norm", models.NORMS)
@pytest.mark.parametrize("name", GANS)
def test_discriminators_have_the_norm_that_is_asked_for(name, norm):
    components = build(name, discriminator_norm=norm)
    assert output_shapes(components)["discriminator"] == (2, 1)
    params, batch_stats = (mask_lib.named_leaves(tree["discriminator"]) for tree in shapes(components))
    assert any(path.endswith("/scale") for path in params) == (norm in ("batch", "layer"))
    assert any(path.endswith("/var") for path in batch_stats) == (norm == "batch")
    # Each kernel has a vector with one entry per output.
    normed = {path.removesuffix("/u"): leaf.shape for path, leaf in batch_stats.items() if path.endswith("/u")}
    expected = {path.removesuffix("/kernel"): leaf.shape[-1:] for path, leaf in params.items() if "/kernel" in path}
    assert normed == (expected if norm == "spectral" else {})


@pytest.mark.parametrize("norm", ["", *models.NORMS])
@pytest.mark.parametrize("name", GANS)
def test_the_norm_of_a_discriminator_is_the_one_asked_for_or_the_published_one(name, norm):
    published = {"dcgan": "batch", "resnet_dcgan": "batch"}.get(name, "spectral")
    model = {"name": name, "width": 4, "latent_size": 6, "image_size": 16, "discriminator_norm": norm}
    assert models.discriminator_norm(model) == (norm or published)


@pytest.mark.parametrize(
    "name", [name for name, network in models.NETWORKS.items() if gans.SCALE_INIT in network.fields]
)
@pytest.mark.parametrize("conditional", [False, True])
def test_the_scales_of_norms_start_at_one_or_normal_as_asked(name, conditional):
    if conditional and gans.CONDITIONAL not in models.NETWORKS[name].fields:
        return
    model = {"name": name, "width": 32, "latent_size": 8, "image_size": 32, "conditional": conditional}

    def scales(scale_init):
        components = models.build(model | {"scale_init": scale_init}, channels=3, classes=4)

        @jax.jit  # Which leaves out all other parameters.
        def drawn(key):
            flat = traverse_util.flatten_dict(models.init(components, key)[0])
            return [jnp.ravel(leaf) for path, leaf in flat.items() if path[-1] == "scale"]

        return np.concatenate(drawn(jax.random.key(0)))

    assert (scales("ones") == 1).all()
    drawn = scales("normal")
    assert drawn.mean() == pytest.approx(1, abs=5 * 0.02 / np.sqrt(drawn.size))
    assert drawn.std() == pytest.approx(0.02, rel=5 / np.sqrt(2 * drawn.size))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_networks_take_labels(name):
    components = build(name, classes=10)
    assert {part.classes for part in components.values()} == {10}
    assert output_shapes(components, classes=10) == {"generator": (2, 16, 16, 3), "discriminator": (2, 1)}
    params = mask_lib.named_leaves(shapes(components)[0])
    assert {leaf.shape[0] for path, leaf in params.items() if path.startswith("generator") and "/scale" in path} == {10}


def test_a_projection_discriminator_adds_the_product_with_the_embedding_of_the_class():
    # Miyato, Koyama 2018, equation 4: y = a . h + e_class . h, which is (1 + c) a . h where e_class = c a.
    components = build("sngan_resnet", classes=3, discriminator_norm="none")
    params, batch_stats = random_like(shapes(components))
    weights = params["discriminator"]
    weights["project"]["bias"] = jnp.zeros(1)
    weights["embedding"]["embedding"] = jnp.array([[0.0], [1.0], [-3.0]]) * weights["project"]["kernel"].T
    images = jnp.broadcast_to(np.random.default_rng(0).normal(size=(1, 16, 16, 3)), (4, 16, 16, 3))
    y, _ = models.apply(components, params, batch_stats, "discriminator", images, False, jnp.array([0, 1, 2, 1]))
    assert abs(y[0, 0]) > 0.1
    np.testing.assert_allclose(y[:, 0] / y[0, 0], [1, 2, -2, 2], rtol=1e-4)


def test_codes_that_are_running_averages_are_no_parameters():
    components = build("vq_vae", codebook_decay=0.9)
    assert output_shapes(components)["codebook"] == ((2, 4, 4, 6), (2, 4, 4))
    params, batch_stats = shapes(components)
    assert params["codebook"] == {}
    assert {name: leaf.shape for name, leaf in batch_stats["codebook"].items()} == {"share": (128,), "total": (128, 6)}


# Names and shapes by which channels and tickets are found.

# With a width of 64, the sizes of the axes without a name: those of kernels, images, latents, means and log variances,
# classes and codes.
NAMELESS = {1, 2, 3, 4, 5, 28 * 28 * 5, 7, 14, 9, 11}


def axes_of(name):
    """`(params, names)` with the shape of each parameter and the names of its axes, by component."""
    options = {"classes": 9} if name in CONDITIONAL else {"codes": 11} if name == "vq_vae" else {}
    components = build(name, width=64, latent_size=7, channels=5, **options)
    return shapes(components)[0], models.axis_names(components).params


@pytest.mark.parametrize("name", models.NETWORKS)
def test_every_axis_has_a_name_but_those_of_images_latents_and_classes(name):
    params, names = axes_of(name)
    assert all(jax.tree.leaves(jax.tree.map(lambda leaf, axes: len(axes) == leaf.ndim, params, names)))
    sizes = mask_lib.named_leaves(jax.tree.map(lambda leaf: leaf.shape, params))
    named = mask_lib.named_leaves(names)  # A path for each axis; `None` is no leaf.
    assert named.keys() <= sizes.keys()
    assert {axis for axis, size in sizes.items() if size not in NAMELESS} == named.keys()


@pytest.mark.parametrize("name", models.NETWORKS)
def test_axes_of_one_name_are_channels_that_one_layer_makes_and_another_reads(name):
    params, names = axes_of(name)
    for component in params:
        leaves, axes = (traverse_util.flatten_dict(tree[component], sep="/") for tree in (params, names))
        sizes = {}
        for path, leaf in leaves.items():
            for channels, size in zip(axes[path], leaf.shape, strict=True):
                assert channels is None or sizes.setdefault(channels, size) == size
        made, read = ({axes[path][end] for path in axes if path.endswith("/kernel")} for end in (-1, -2))
        # Queries are multiplied by keys, so no kernel reads their channels.
        assert made - read == ({"attention/key"} if name == "sagan" else set())
        assert {channels for names in axes.values() for channels in names} <= made | {None}


@pytest.mark.parametrize("norm", ["batch", "spectral"])
@pytest.mark.parametrize("name", ["dcgan", *CONDITIONAL])
def test_statistics_have_the_channels_of_their_norm_and_of_their_kernel(name, norm):
    components = build(name, discriminator_norm=norm, **({"classes": 9} if name in CONDITIONAL else {}))
    params, batch_stats = models.axis_names(components)
    params, batch_stats = (traverse_util.flatten_dict(tree, sep="/") for tree in (params, batch_stats))
    assert batch_stats.keys() == mask_lib.named_leaves(shapes(components)[1]).keys()
    for path, axes in batch_stats.items():
        module, _, kind = path.rpartition("/")
        made = [params.get(f"{module.removesuffix('/statistics')}/{leaf}") for leaf in ("scale", "kernel", "embedding")]
        assert [axes] == [names[-1:] for names in made if names], path
        assert kind in ("mean", "var", "u")


def test_averages_of_codes_have_no_channels():
    names = models.axis_names(build("vq_vae", codebook_decay=0.9))
    assert names.params["codebook"] == {}
    assert names.batch_stats["codebook"] == {"share": (None,), "total": (None, None)}


def test_a_narrower_network_keeps_the_architectures_shortcuts():
    components = build("sngan_resnet", classes=3)
    narrow = models.narrow(components, {"discriminator": {"down_16": 2, "block_1/hidden": 3}})
    assert models.axis_names(narrow) == models.axis_names(components)
    sizes = {path: leaf.shape for path, leaf in mask_lib.named_leaves(shapes(narrow)[0]["discriminator"]).items()}
    assert sizes["down_16/conv_2/kernel"] == (3, 3, 4, 2)
    assert sizes["block_1/conv_1/kernel"] == (3, 3, 2, 3)
    assert sizes["block_1/conv_2/kernel"] == (3, 3, 3, 2)
    assert sizes["block_2/conv_1/kernel"] == (3, 3, 2, 4)
    assert sizes["project/kernel"] == (2, 1)
    assert sizes["embedding/embedding"] == (3, 2)
    assert narrow["generator"] == components["generator"]


@pytest.mark.parametrize("name", ["sngan_resnet", "resnet_dcgan", "sagan", "resnet_vae", "sngan_resnet_vae", "vq_vae"])
def test_the_terms_of_a_residual_sum_have_the_same_channels(name):
    axes = traverse_util.flatten_dict(axes_of(name)[1], sep="/")
    blocks = [path.removesuffix("/conv_2/kernel") for path in axes if re.search("_[0-9]+/conv_2/kernel$", path)]
    assert blocks
    for block in blocks:
        *_, inputs, hidden = axes[f"{block}/conv_1/kernel"]
        *_, hidden_again, outputs = axes[f"{block}/conv_2/kernel"]
        *_, start, end = axes.get(f"{block}/shortcut/kernel", (inputs, inputs))  # Or it is the identity.
        assert (start, end, hidden_again) == (inputs, outputs, hidden)
        assert hidden not in (inputs, outputs)


def test_channels_run_on_through_blocks_whose_shortcut_is_the_identity():
    axes = traverse_util.flatten_dict(axes_of("sngan_resnet")[1]["discriminator"], sep="/")
    made = [axes[f"{block}/conv_2/kernel"][-1] for block in ("down_16", "block_1", "block_2")]
    assert {*made, axes["project/kernel"][0], axes["embedding/embedding"][1]} == {"down_16"}


@pytest.mark.parametrize(
    ("gan", "vae", "dense", "shared"),
    [
        # Three `up` and three `down` stages of one kernel each.
        ("dcgan", "conv_vae", ("generator/unproject", "discriminator/project"), 3 + 3),
        # Generator: first and last layer, three blocks; discriminator: two blocks of three kernels, two of two kernels.
        ("sngan_resnet", "sngan_resnet_vae", ("discriminator/project",), 2 + 3 * 3 + 2 * 3 + 2 * 2),
        # Three blocks of three kernels each, the stem and the image layer.
        ("resnet_dcgan", "resnet_vae", ("generator/unproject", "discriminator/project"), 3 * 3 + 3 * 3 + 2),
    ],
)
def test_every_kernel_of_a_gan_has_its_counterpart_in_the_vae(gan, vae, dense, shared):
    in_gan, in_vae = (kernels(build(name, width=8, image_size=32)) for name in (gan, vae))
    roles = {"generator": "decoder", "discriminator": "encoder"}
    counterparts = {}
    for path, shape in in_gan.items():
        component, layer = path.split("/", 1)
        if not path.startswith(dense):
            counterparts[f"{roles[component]}/{layer}"] = shape
    assert len(counterparts) == shared
    assert counterparts.items() <= in_vae.items()


def test_the_outer_layers_of_the_linear_autoencoder_and_vae_have_the_same_shapes():
    autoencoder, vae = (kernels(build(name, width=128)) for name in ("linear_ae", "linear_vae"))
    same = {path for path, shape in autoencoder.items() if vae[path] == shape}
    outer = {"encoder": ("down_1", "down_2"), "decoder": ("up_1", "up_2")}
    assert same >= {f"{component}/{layer}/kernel" for component, names in outer.items() for layer in names}


# FLOPs and dtypes.


@pytest.fixture
def published(monkeypatch):
    """Replaces the fast layers by the published operations, which take more products."""
    conv = layers.conv
    monkeypatch.setattr(layers, "upsample_conv", lambda x, kernel: conv(layers.upsample(x), kernel, padding=1))
    monkeypatch.setattr(layers, "conv_pool", lambda x, kernel: layers.pool(conv(x, kernel, padding=1)))


@pytest.mark.parametrize("name", models.NETWORKS)
def test_flops_from_shapes_agree_with_xla(name, published):
    batch = 32  # Spectral norms are work on weights, which is done once per batch.
    components = build(name, width=64, latent_size=256)
    params, batch_stats = shapes(components)
    work, products = cost.forward(models.kernel_uses(components), params), models.products(components)
    for key, part in components.items():
        images = jax.ShapeDtypeStruct((batch, *part.input_shape), jnp.float32)
        forward = jax.jit(lambda *args, key=key: models.apply(components, *args[:2], key, args[2], train=False)[0])
        # Not for CPUs, where some convolutions are products, which multiply by padding too.
        lowered = forward.trace(params, batch_stats, images).lower(lowering_platforms=("tpu",))
        xla = lowered.cost_analysis()["flops"] / batch
        ours = sum(count for path, count in work.items() if path.startswith(f"{key}/"))
        ours += sum(2 * count for path, count in products.items() if path.startswith(f"{key}/"))
        # XLA also counts norms, activations and the squares of codes.
        assert ours <= xla < 1.03 * ours


@pytest.mark.parametrize("name", models.NETWORKS)
def test_every_kernel_is_used(name):
    components = build(name)
    codes = {"codebook/embedding": (128, 6)} if name == "vq_vae" else {}
    uses, shape = models.kernel_uses(components), kernels(components) | codes
    assert uses.keys() == shape.keys()
    assert all(np.broadcast_shapes(count.shape, shape[path]) == shape[path] for path, count in uses.items())
    assert all((count > 0).all() for count in uses.values())


def test_what_is_used_is_a_parameter_also_where_codes_are_running_averages():
    components = build("vq_vae", codebook_decay=0.9)
    assert models.kernel_uses(components).keys() <= mask_lib.named_leaves(shapes(components)[0]).keys()


def test_attention_multiplies_queries_by_keys_and_weights_by_values():
    # A 16x16 image has queries at 8x8, keys and values at 4x4; of 16 channels queries and keys have 2, values 8.
    products = 64 * 16 * (2 + 8)
    found = models.products(build("sagan", width=16))
    assert found == {"generator/attention": products, "discriminator/attention": products}


@pytest.mark.parametrize("name", models.NETWORKS)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters_and_outputs(name):
    components = build(name, dtype=jnp.bfloat16)
    params, batch_stats = shapes(components)
    for key in components.keys() - {"codebook"}:
        x = jax.ShapeDtypeStruct((2, *components[key].input_shape), jnp.float32)
        forward = jax.jit(lambda *args, key=key: models.apply(components, *args[:2], key, args[2], train=True))
        results = jax.eval_shape(forward, params, batch_stats, x)
        assert {leaf.dtype for leaf in jax.tree.leaves((params, results))} == {jnp.dtype("float32")}
        spectral = any("/u" in path for path in mask_lib.named_leaves(batch_stats[key]))
        # A spectral norm multiplies parameters, which are float32.
        kinds = ("stablehlo.convolution", *(() if spectral else ("stablehlo.dot_general",)))
        lines = forward.lower(params, batch_stats, x).as_text().splitlines()
        products = [line for line in lines if any(kind in line for kind in kinds)]
        assert products
        assert all("xbf16>" in line and "xf32>" not in line for line in products)


def test_bfloat16_outputs_are_rounded_to_bfloat16():
    components = build("sngan_resnet", channels=1, dtype=jnp.bfloat16)
    params, batch_stats = random_like(shapes(components))
    y, moved = models.apply(components, params, batch_stats, "discriminator", jnp.ones((2, 16, 16, 1)), train=True)
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(y, y.astype(jnp.bfloat16).astype(jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves((y, moved))} == {jnp.dtype("float32")}


# Components with several inputs, and networks from elsewhere.


class Denoiser(nn.Module):
    """Images `[batch, h, w, c]` and times `[batch]` -> images: two 3x3 convolutions, and a dense layer of the time."""

    width: int = 5
    style: layers.Style = layers.Style(norm="none")

    @nn.compact
    def __call__(self, images, times, train: bool, labels=None):
        layer = self.style.layer
        x = layer(layers.Conv, self.width, 3, padding=1, outputs="hidden", name="image")(images)
        x += layer(layers.Dense, self.width, outputs="hidden", name="time")(times[:, None])[:, None, None]
        out = layer(layers.Conv, images.shape[-1], 3, padding=1, inputs="hidden", name="out")
        return out(self.style.activation(x))


def denoiser(**fields):
    return {"denoiser": models.Component(Denoiser(**fields), (8, 8, 1), more_inputs=((),))}


# The number of pixels under a 3x3 kernel at each of 8 positions, and the number of positions at which a tap meets one.
PIXELS, USES = np.array([2, 3, 3, 3, 3, 3, 3, 2]), np.array([7, 8, 7])


def test_a_component_reads_several_inputs():
    components = denoiser()
    params, batch_stats = random_like(shapes(components))
    images, times = np.random.default_rng(0).normal(size=(2, 8, 8, 1)), np.array([0.5, -3])
    y, _ = models.apply(components, params, batch_stats, "denoiser", (images, times), train=True)
    weights, numbers = params["denoiser"], ("NHWC", "HWIO", "NHWC")
    conv = partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=numbers)
    hidden = conv(images.astype(np.float32), weights["image"]["kernel"]) + weights["image"]["bias"]
    hidden += (times[:, None] * weights["time"]["kernel"] + weights["time"]["bias"])[:, None, None]
    expected = conv(jnp.maximum(hidden, 0), weights["out"]["kernel"]) + weights["out"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_a_component_with_several_inputs_has_names_and_can_be_narrowed():
    components = denoiser()
    names = models.axis_names(components).params["denoiser"]
    assert [names[layer]["kernel"] for layer in ("image", "time", "out")] == [
        (None, None, None, "hidden"),
        (None, "hidden"),
        (None, None, "hidden", None),
    ]
    sizes = kernels(models.narrow(components, {"denoiser": {"hidden": 3}}))
    assert sizes["denoiser/time/kernel"] == (1, 3)
    assert models.parameter_count(components) == 9 * 5 + 5 + 5 + 5 + 9 * 5 + 1


def test_the_flow_of_a_component_with_several_inputs_is_that_of_ones_in_each():
    components = denoiser()
    params, batch_stats = shapes(components)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape) * (leaf.ndim > 1), params)  # Biases are zero.
    # With ones for weights, each of the 5 hidden channels is n + 1 at a pixel with n pixels around it, of which the
    # time gives 1; n outputs read it.
    n = np.outer(PIXELS, PIXELS)
    assert models.flows(components, batch_stats)["denoiser"](ones["denoiser"]) == 5 * (n * (n + 1)).sum()


def test_the_cost_of_a_component_with_several_inputs_is_counted():
    components = denoiser()
    params, _ = shapes(components)
    uses = models.kernel_uses(components)
    np.testing.assert_array_equal(uses["denoiser/image/kernel"][:, :, 0, 0], np.outer(USES, USES))
    assert models.products(components) == {}
    once = {"denoiser/image/kernel": 2 * 22**2 * 5, "denoiser/time/kernel": 2 * 5, "denoiser/out/kernel": 2 * 22**2 * 5}
    assert cost.forward(uses, params) == once

    def loss(params, batch_stats, batch: Batch):
        times = jax.vmap(jax.random.uniform)(batch.keys)
        y, batch_stats = models.apply(components, params, batch_stats, "denoiser", (batch.images, times), True)
        return jnp.square(y - batch.images).mean(), (batch_stats, {})

    objective = Objective(components, {"denoiser": Player(("denoiser",), loss)})
    work = cost.step_work(objective, (8, 8, 1), 2)
    # Each kernel is used and has a gradient; only the last layer needs the gradient of its input too.
    assert work.passes == {"denoiser/image/kernel": 2, "denoiser/time/kernel": 2, "denoiser/out/kernel": 3}


@pytest.fixture
def toy():
    """A network from outside the package, registered: it has a field of its own and takes classes."""
    depth = Field("model.depth", 2, whole(1), "The number of convolutions of the toy network.")

    def make(width, latent_size, image_size, channels, depth, classes, **style):
        module = Denoiser(depth * width, layers.Style(norm="none", **style))
        return {"denoiser": models.Component(module, (image_size, image_size, channels), classes, ((),))}

    network = models.Network("toy", make, "denoising", image_sizes=(8,), fields=(depth, gans.CONDITIONAL))
    models.NETWORKS.add(network)
    yield {"name": "toy", "width": 3, "latent_size": 1, "image_size": 8}
    del models.NETWORKS["toy"]


def test_a_network_from_elsewhere_is_built_by_its_name_and_given_its_fields(toy):
    (component,) = models.build(toy, 1, 10, dtype=jnp.bfloat16).values()
    assert (component.module.width, component.classes, component.input_shapes) == (6, 0, ((8, 8, 1), ()))
    assert component.module.style.dtype == jnp.bfloat16
    (component,) = models.build({**toy, "depth": 4, "conditional": True}, 1, 10).values()
    assert (component.module.width, component.classes) == (12, 10)


@pytest.mark.parametrize("name", models.NETWORKS)
def test_a_field_that_an_old_ticket_lacks_has_its_default(name):
    network = models.NETWORKS[name]
    old = {"name": name, "width": 4, "latent_size": 6, "image_size": network.image_sizes[0]}
    defaults = {field.name.removeprefix("model."): field.default for field in network.fields}
    assert models.build(old, 3, 10) == models.build({**old, **defaults, "channels": {}}, 3, 10)
    assert models.build(old, 3, 10) == build(name)
