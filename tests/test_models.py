"""Layers against the plain operations and PyTorch, and networks against the published shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import init
from jax import lax

from jaxtickets import masks as mask_lib
from jaxtickets import models
from jaxtickets.models import layers


def plain_conv_transpose(x, kernel, stride, padding):
    """The same operation without a gradient of its own: a convolution of the dilated input."""
    pads = [(size - 1 - padding,) * 2 for size in kernel.shape[:2]]
    flipped = kernel[::-1, ::-1]
    return lax.conv_general_dilated(
        x, flipped, (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "padding"), [(4, 4, 2, 1), (1, 4, 1, 0), (5, 3, 2, 1), (3, 3, 1, 1)]
)
def test_conv_transpose_equals_the_plain_operation_in_value_and_gradients(size, kernel_size, stride, padding):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(2, size, size, 3)))
        kernel = jnp.asarray(rng.normal(size=(kernel_size, kernel_size, 3, 5)))
        value, vjp = jax.vjp(lambda x, k: layers.conv_transpose(x, k, stride, padding), x, kernel)
        expected, expected_vjp = jax.vjp(lambda x, k: plain_conv_transpose(x, k, stride, padding), x, kernel)
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-10)
        cotangent = jnp.asarray(rng.normal(size=value.shape))
        for ours, theirs in zip(vjp(cotangent), expected_vjp(cotangent), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_conv_transpose_allows_forward_over_reverse_differentiation():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel, tangent = (jnp.asarray(rng.normal(size=s)) for s in ((1, 3, 3, 2), (4, 4, 2, 2), (4, 4, 2, 2)))

        def hessian_vector(operation):
            gradient = jax.grad(lambda k: jnp.square(operation(x, k, 2, 1)).sum())
            return jax.jvp(gradient, (kernel,), (tangent,))[1]

        np.testing.assert_allclose(
            hessian_vector(layers.conv_transpose), hessian_vector(plain_conv_transpose), rtol=1e-10
        )


def test_projections_equal_the_convolutions_that_they_replace():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        z, kernel = jnp.asarray(rng.normal(size=(2, 6))), jnp.asarray(rng.normal(size=(4, 4, 6, 3)))
        unprojected = layers.Unproject(3, 4, use_bias=False, dtype=jnp.float64).apply({"params": {"kernel": kernel}}, z)
        np.testing.assert_allclose(unprojected, plain_conv_transpose(z[:, None, None], kernel, 1, 0), rtol=1e-10)
        x, kernel = jnp.asarray(rng.normal(size=(2, 4, 4, 6))), jnp.asarray(rng.normal(size=(4, 4, 6, 3)))
        projected = layers.Project(3, 4, use_bias=False, dtype=jnp.float64).apply({"params": {"kernel": kernel}}, x)
        plain = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        np.testing.assert_allclose(projected, plain[:, 0, 0], rtol=1e-10)


def n_params(components):
    params, _ = jax.eval_shape(lambda: models.init(components, jax.random.key(0)))
    return {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}


def test_dcgan_has_the_published_number_of_parameters():
    # h = 128, 32x32x3, latent 32: 4x4 kernels 32-4h-2h-h-3 and 3-h-2h-4h-1, a scale and a bias a batch norm,
    # a bias only where no batch norm follows: after the generator's last and the discriminator's first and last.
    h = 128
    generator = 16 * (32 * 4 * h + 4 * h * 2 * h + 2 * h * h + h * 3) + 2 * (4 * h + 2 * h + h) + 3
    discriminator = 16 * (3 * h + h * 2 * h + 2 * h * 4 * h + 4 * h * 1) + h + 2 * (2 * h + 4 * h) + 1
    components = models.dcgan(width=h, latent_size=32, image_size=32, channels=3)
    assert n_params(components) == {"generator": generator, "discriminator": discriminator}


@pytest.mark.parametrize(("build", "norm", "code"), [(models.conv_vae, 2, 64), (models.conv_ae, 1, 32)])
def test_the_convolutional_autoencoders_have_the_published_number_of_parameters(build, norm, code):
    # h = 64, 32x32x3, latent 32: encoder 4x4 kernels 3-h-2h-4h-8h, then 2x2 to the code; the decoder mirrors it.
    # With batch norm a layer has a scale and a bias, without it a bias.
    h = 64
    encoder = 16 * (3 * h + h * 2 * h + 2 * h * 4 * h + 4 * h * 8 * h) + 4 * 8 * h * code + norm * 15 * h + code
    decoder = 4 * 32 * 8 * h + 16 * (8 * h * 4 * h + 4 * h * 2 * h + 2 * h * h + h * 3) + norm * 15 * h + 3
    components = build(width=h, latent_size=32, image_size=32, channels=3)
    assert n_params(components) == {"encoder": encoder, "decoder": decoder}


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("image_size", [16, 32, 64])
def test_every_network_makes_and_reads_images_of_each_size(name, image_size):
    components = models.MODELS[name](width=4, latent_size=6, image_size=image_size, channels=3)

    def shapes():
        params, batch_stats = models.init(components, jax.random.key(0))
        return {
            key: models.apply(components, params, batch_stats, key, jnp.zeros((2, *part.input_shape)), True)[0]
            for key, part in components.items()
        }

    outputs = {key: value.shape for key, value in jax.eval_shape(shapes).items()}
    up = "generator" if name == "dcgan" else "decoder"
    assert outputs[up] == (2, image_size, image_size, 3)
    (down,) = set(outputs) - {up}
    assert outputs[down] == (2, {"dcgan": 1, "conv_vae": 12, "conv_ae": 6}[name])


def test_layers_of_the_same_name_have_the_same_shape_in_a_gan_and_a_vae():
    gan = models.dcgan(width=8, latent_size=4, image_size=32, channels=3)
    vae = models.conv_vae(width=8, latent_size=4, image_size=32, channels=3)
    shapes = []
    for components in (gan, vae):
        params, _ = jax.eval_shape(lambda components=components: models.init(components, jax.random.key(0)))
        shapes.append({name: leaf.shape for name, leaf in mask_lib.named_leaves(params).items()})
    shared = 0
    for name, shape in shapes[0].items():
        other = name.replace("generator", "decoder").replace("discriminator", "encoder")
        if ("/up_" in name or "/down_" in name) and other in shapes[1]:
            assert shapes[1][other] == shape
            shared += 1
    # Three stages a stack, each with a kernel, a scale and a bias; the last `up` stage and the first `down` stage have
    # no scale, and the bias of the latter belongs to another layer than the encoder's, the convolution.
    assert shared == 3 * 3 - 1 + 3 * 3 - 2


@pytest.mark.parametrize("name", models.MODELS)
def test_flops_from_shapes_agree_with_xla(name):
    components = models.MODELS[name](width=16, latent_size=8, image_size=32, channels=3)
    params, batch_stats = init(components)
    sizes = {path: leaf.size for path, leaf in mask_lib.named_leaves(params).items()}
    uses = models.kernel_uses(components)
    for key, part in components.items():
        ours = sum(2 * n * sizes[path] for path, n in uses.items() if path.startswith(key))
        compiled = (
            jax.jit(lambda params, x, key=key: models.apply(components, params, batch_stats, key, x, False)[0])
            .lower(params, jnp.zeros((1, *part.input_shape)))
            .compile()
        )
        # XLA leaves out products with the padding and counts the norms and the activations.
        assert compiled.cost_analysis()["flops"] == pytest.approx(ours, rel=0.25)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters_and_outputs():
    components = models.dcgan(width=4, latent_size=4, image_size=16, channels=1, dtype=jnp.bfloat16)
    params, batch_stats = init(components)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    images, _ = models.apply(components, params, batch_stats, "generator", jnp.ones((2, 4)), train=True)
    assert images.dtype == jnp.float32
    np.testing.assert_array_equal(images, images.astype(jnp.bfloat16).astype(jnp.float32))
