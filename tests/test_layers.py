"""Layers against plain operations, NumPy, closed forms and PyTorch, in float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxtickets.models import convolution, initializers, layers, norms
from jaxtickets.models.residual import Embedding, SelfAttention

FLOAT64 = layers.Style(norm="none", dtype=jnp.float64)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).normal(size=shape))


# Initial weights.


@pytest.mark.parametrize("shape", [(4, 4, 5, 7), (3, 3, 6, 1), (17, 5)])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (initializers.dcgan_init, nn.initializers.normal(0.02)),
        (initializers.he_init, nn.initializers.he_normal()),
        (initializers.xavier_init, nn.initializers.xavier_uniform()),
    ],
)
def test_initial_weights_are_those_of_flax_bit_for_bit(ours, theirs, shape):
    with jax.enable_x64(False):
        drawn = [jax.jit(init, static_argnums=1)(jax.random.key(3), shape) for init in (ours, theirs)]
    assert drawn[0].dtype == drawn[1].dtype == np.float32
    np.testing.assert_array_equal(*drawn)


# Fast layers.


def plain_conv(x, kernel, stride=1, padding=0):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def plain_conv_transpose(x, kernel, stride, padding):
    """The transposed convolution as a convolution of the dilated input, differentiated by JAX."""
    pads = [(size - 1 - padding,) * 2 for size in kernel.shape[:2]]
    flipped = kernel[::-1, ::-1]
    return lax.conv_general_dilated(
        x, flipped, (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def plain_upsample(x):
    return jnp.einsum("bhwc,hi,wj->bijc", x, *(jnp.kron(jnp.eye(size), jnp.ones((1, 2))) for size in x.shape[1:3]))


def plain_pool(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def plain_upsample_conv(x, kernel):
    return plain_conv(plain_upsample(x), kernel, padding=1)


def plain_conv_pool(x, kernel):
    return plain_pool(plain_conv(x, kernel, padding=1))


def assert_same_function(ours, plain, *arguments):
    """Equal in value and in the gradients with respect to every argument."""
    cotangent = normal(*jax.eval_shape(plain, *arguments).shape, seed=1)

    @partial(jax.jit, static_argnums=0)
    def value_and_gradients(operation, *arguments):
        value, vjp = jax.vjp(operation, *arguments)
        return value, *vjp(cotangent)

    results = (value_and_gradients(operation, *arguments) for operation in (ours, plain))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


# Few channels go through XLA's convolutions on CPUs, more channels through matrix products.
CHANNELS = [(3, 5), (convolution.NARROW, convolution.NARROW + 1)]


@pytest.fixture
def filtered(monkeypatch):
    """Minimal filtering wherever it is possible, however narrow the layer."""
    for limit in ("NARROW", "WIDE", "LARGE"):
        monkeypatch.setattr(convolution, limit, 1)


@pytest.mark.parametrize(("height", "width", "kernel_size"), [(8, 8, 4), (12, 4, 4), (8, 7, 3)])
def test_nine_products_equal_the_plain_operations_in_value_and_gradients(height, width, kernel_size, filtered):
    padding = kernel_size - 3
    ours, plain = (partial(operation, stride=2, padding=padding) for operation in (layers.conv, plain_conv))
    kernel = normal(kernel_size, kernel_size, 3, 5)
    assert_same_function(ours, plain, normal(2, height, width, 3), kernel)
    ours, plain = (
        partial(operation, stride=2, padding=padding) for operation in (layers.conv_transpose, plain_conv_transpose)
    )
    assert_same_function(ours, plain, normal(2, 4, 6, 3), kernel)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "padding"),
    [(4, 4, 2, 1), (2, 4, 2, 1), (1, 4, 1, 0), (5, 3, 2, 1), (3, 3, 1, 1), (6, 2, 2, 0)],
)
def test_conv_transpose_equals_the_plain_operation_in_value_and_gradients(size, kernel_size, stride, padding, channels):
    ours, plain = (
        partial(operation, stride=stride, padding=padding)
        for operation in (layers.conv_transpose, plain_conv_transpose)
    )
    assert_same_function(ours, plain, normal(2, size, size, channels[0]), normal(kernel_size, kernel_size, *channels))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(
    ("height", "width", "kernel_size", "stride", "padding"),
    [
        *[(20, 18, 4, 2, 1), (8, 12, 4, 2, 1), (4, 4, 4, 2, 1), (8, 2, 4, 2, 1)],  # Large, small and smallest maps.
        *[(9, 8, 3, 1, 1), (4, 3, 3, 1, 1), (2, 1, 3, 1, 1), (1, 2, 1, 1, 1), (4, 5, 1, 1, 0), (5, 5, 4, 1, 0)],
        *[(5, 7, 3, 2, 1), (9, 8, 5, 3, 2), (8, 7, 3, 2, 0), (6, 6, 1, 2, 0)],  # Sizes that the stride does not divide.
        (3, 5, 5, 3, 2),
    ],
)
def test_conv_equals_the_plain_operation_in_value_and_gradients(height, width, kernel_size, stride, padding, channels):
    ours, plain = (partial(operation, stride=stride, padding=padding) for operation in (layers.conv, plain_conv))
    kernel = normal(kernel_size, kernel_size, *channels)
    assert_same_function(ours, plain, normal(2, height, width, channels[0]), kernel)


@pytest.mark.parametrize(("size", "taps", "stride", "padding"), [(8, 4, 2, 1), (9, 4, 2, 1), (3, 3, 1, 1)])
def test_a_kernel_gradient_by_taps_equals_that_of_the_plain_convolution(size, taps, stride, padding):
    x, kernel = normal(5, size, size, 17), normal(taps, taps, 17, 18, seed=1)
    y, gradient = jax.vjp(lambda kernel: plain_conv(x, kernel, stride, padding), kernel)
    cotangent = normal(*y.shape, seed=2)
    ours = convolution._gradient_by_tap(x, cotangent, (taps, taps), stride, padding)
    np.testing.assert_allclose(ours, *gradient(cotangent), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size, is_product", [(8, True), (16, False)])
def test_for_gpus_a_kernel_gradient_is_no_convolution_where_the_map_is_no_larger_than_the_kernel(size, is_product):
    x, y = jnp.zeros((2, size, size, 16)), jnp.zeros((2, size // 2, size // 2, 16))
    gradient = jax.jit(lambda x, y: convolution._kernel_gradient(x, y, (4, 4), 2, 1)).trace(x, y)
    for platform, has_convolution in (("cuda", not is_product), ("tpu", True)):
        program = gradient.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" in program) == has_convolution


def test_upsampling_and_pooling_equal_the_plain_operations_in_value_and_gradients():
    assert_same_function(layers.upsample, plain_upsample, normal(2, 3, 4, 5))
    assert_same_function(layers.pool, plain_pool, normal(2, 4, 6, 5))


@pytest.mark.parametrize("height", [2, 6])
def test_upsample_conv_equals_a_convolution_of_the_repeated_pixels_in_value_and_gradients(height):
    assert_same_function(layers.upsample_conv, plain_upsample_conv, normal(2, height, 4, 3), normal(3, 3, 3, 5))


@pytest.mark.parametrize("height", [2, 6])
def test_conv_pool_equals_a_convolution_and_a_mean_in_value_and_gradients(height):
    assert_same_function(layers.conv_pool, plain_conv_pool, normal(2, height, 4, 3), normal(3, 3, 3, 5))


@pytest.mark.parametrize(("resize", "plain"), [(layers.upsample, plain_upsample), (layers.pool, plain_pool)])
def test_1x1_convolutions_commute_with_resizing_in_value_and_gradients(resize, plain):
    assert_same_function(
        lambda x, kernel: resize(layers.conv(x, kernel)),
        lambda x, kernel: plain_conv(plain(x), kernel),
        *(normal(2, 4, 6, 3), normal(1, 1, 3, 5)),
    )


@pytest.mark.parametrize("channels", [2, convolution.NARROW])
@pytest.mark.parametrize(
    ("ours", "plain", "kernel_size"),
    [
        (partial(layers.conv, stride=2, padding=1), partial(plain_conv, stride=2, padding=1), 4),
        (partial(layers.conv_transpose, stride=2, padding=1), partial(plain_conv_transpose, stride=2, padding=1), 4),
        (layers.upsample_conv, plain_upsample_conv, 3),
        (layers.conv_pool, plain_conv_pool, 3),
    ],
)
def test_fast_layers_allow_second_derivatives_forward_and_backward(ours, plain, kernel_size, channels):
    x, kernel = normal(1, 4, 4, channels), normal(kernel_size, kernel_size, channels, channels)

    @partial(jax.jit, static_argnums=0)
    def seconds(operation):
        def first(x, kernel):
            return jax.grad(lambda *arguments: (operation(*arguments) ** 3).sum(), argnums=(0, 1))(x, kernel)

        tangents = normal(*x.shape, seed=1), normal(*kernel.shape, seed=1)
        forward = jax.jvp(first, (x, kernel), tangents)[1]  # As in GraSP.
        penalty = jax.grad(lambda *arguments: jnp.square(first(*arguments)[0]).sum(), argnums=(0, 1))(x, kernel)
        return forward, penalty  # The second as in gradient penalties.

    for result, expected in zip(*(jax.tree.leaves(seconds(operation)) for operation in (ours, plain)), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10 * jnp.abs(expected).max())


def test_projections_equal_the_convolutions_that_they_replace_in_value_and_gradients():
    def applied(kind, x, kernel):
        return kind(3, 4, use_bias=False, dtype=jnp.float64).apply({"params": {"kernel": kernel}}, x)

    def unprojected(z, kernel):
        return plain_conv_transpose(z[:, None, None], kernel, 1, 0)

    def projected(x, kernel):
        return plain_conv(x, kernel)[:, 0, 0]

    kernel = normal(4, 4, 6, 3)
    assert_same_function(partial(applied, layers.Unproject), unprojected, normal(2, 6), kernel)
    assert_same_function(partial(applied, layers.Project), projected, normal(2, 4, 4, 6), kernel)


# Spectral norm. Each layer is applied to inputs that make its outputs its kernel, as a matrix [everything else, out].

_options = {"use_bias": False, "spectral": True, "dtype": jnp.float64}
_spectral = layers.Style(spectral=True, dtype=jnp.float64)
SPECTRAL = {
    "conv": (layers.Conv(5, 3, **_options), "kernel", (3, 3, 4, 5), (np.eye(36).reshape(36, 3, 3, 4),)),
    "dense": (layers.Dense(5, **_options), "kernel", (7, 5), (np.eye(7),)),
    "project": (layers.Project(5, 2, **_options), "kernel", (2, 2, 4, 5), (np.eye(16).reshape(16, 2, 2, 4),)),
    "embedding": (Embedding(7, _spectral, "features"), "embedding", (7, 5), (np.arange(7), 5)),
}


@partial(jax.jit, static_argnums=0)
def train_pass(name, kernel, u):
    """`(normalised kernel as a matrix, next u)` after one training pass."""
    layer, parameter, _, inputs = SPECTRAL[name]
    variables = {"params": {parameter: kernel}, "batch_stats": {"u": u}}
    y, moved = layer.apply(variables, *inputs, mutable=["batch_stats"])
    return y.reshape(-1, y.shape[-1]), moved["batch_stats"]["u"]


@partial(jax.jit, static_argnums=0)
def fresh_u(name):
    layer, _, _, inputs = SPECTRAL[name]
    return layer.init(jax.random.key(0), *inputs)["batch_stats"]["u"]


def power_iteration(kernel, u):
    """`(singular value of W, u, v)` for W: [out, everything else], by algorithm 1 of Miyato et al. 2018."""
    w = np.asarray(kernel).reshape(-1, kernel.shape[-1]).T
    v = w.T @ u / np.linalg.norm(w.T @ u)
    u = w @ v / np.linalg.norm(w @ v)
    return u @ w @ v, u, v


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SPECTRAL)
def test_the_largest_singular_value_becomes_one_also_of_a_masked_kernel(name, masked):
    shape = SPECTRAL[name][2]
    kernel = 3 * normal(*shape) * (np.random.default_rng(0).random(shape) < 0.5 if masked else 1)
    converge = jax.jit(lambda u: lax.fori_loop(0, 500, lambda _, u: train_pass(name, kernel, u)[1], u))
    effective, _ = train_pass(name, kernel, converge(fresh_u(name)))
    matrix = np.asarray(kernel).reshape(effective.shape)
    assert np.linalg.svd(effective, compute_uv=False)[0] == pytest.approx(1, rel=1e-9)
    np.testing.assert_allclose(effective, matrix / np.linalg.svd(matrix, compute_uv=False)[0], rtol=1e-9)


@pytest.mark.parametrize("name", SPECTRAL)
def test_a_training_pass_is_one_power_iteration(name):
    kernel, u = normal(*SPECTRAL[name][2]), fresh_u(name)
    assert np.linalg.norm(u) == pytest.approx(1)
    for _ in range(2):
        sigma, expected, _ = power_iteration(kernel, u)
        effective, u = train_pass(name, kernel, u)
        np.testing.assert_allclose(u, expected, rtol=1e-10)
        np.testing.assert_allclose(effective, kernel.reshape(effective.shape) / sigma, rtol=1e-10)


def test_the_length_of_u_does_not_matter_because_averages_of_unit_vectors_are_shorter():
    kernel, u = normal(7, 5), normal(5)
    for ours, theirs in zip(train_pass("dense", kernel, u / 9), train_pass("dense", kernel, u), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_evaluation_divides_by_the_singular_value_of_the_stored_u_and_moves_nothing():
    kernel, u = normal(7, 5), normal(5) / np.linalg.norm(normal(5))
    layer = SPECTRAL["dense"][0]
    y, moved = layer.apply({"params": {"kernel": kernel}, "batch_stats": {"u": u}}, np.eye(7), mutable=["params"])
    assert "batch_stats" not in moved
    # u^T W v = ||W^T u|| for v = W^T u / ||W^T u||.
    np.testing.assert_allclose(y, kernel / np.linalg.norm(kernel @ u), rtol=1e-10)


def test_the_gradient_of_a_spectral_norm_is_the_published_one():
    kernel, u, cotangent = normal(7, 5), normal(5, seed=1), normal(7, 5, seed=2)
    gradient = jax.grad(lambda kernel: (cotangent * train_pass("dense", kernel, u)[0]).sum())(kernel)
    # Miyato et al. 2018, equation 12, with u and v constant: (G - <G, W / sigma> u v^T) / sigma, here of [in, out].
    sigma, u, v = power_iteration(kernel, u)
    expected = (cotangent - (cotangent * kernel / sigma).sum() * np.outer(v, u)) / sigma
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)


def test_spectral_norm_equals_pytorchs_in_value_and_gradient():
    torch = pytest.importorskip("torch")
    kernel, u = normal(7, 5), normal(5, seed=1)
    linear = torch.nn.Linear(7, 5, bias=False, dtype=torch.float64)
    linear.weight.data = torch.tensor(np.asarray(kernel).T.copy())
    # dim=1 transposes the matrix, so that PyTorch also computes v from u first, as we do.
    torch.nn.utils.parametrizations.spectral_norm(linear, dim=1)
    linear.parametrizations.weight[0]._v.copy_(torch.tensor(np.asarray(u / jnp.linalg.norm(u))))
    y = linear(torch.eye(7, dtype=torch.float64))
    (y**3).sum().backward()

    value, gradient = jax.value_and_grad(lambda kernel: (train_pass("dense", kernel, u)[0] ** 3).sum())(kernel)
    assert value == pytest.approx((y**3).sum().item(), rel=1e-10)
    theirs = linear.parametrizations.weight.original.grad.numpy().T
    np.testing.assert_allclose(gradient, theirs, rtol=1e-9, atol=1e-10)


def test_the_spectral_norm_of_an_emptied_kernel_is_zero_and_finite():
    kernel, u = jnp.zeros((7, 5)), normal(5)
    for _ in range(2):
        effective, u = train_pass("dense", kernel, u)
        np.testing.assert_array_equal(effective, 0)
        assert np.linalg.norm(u) == pytest.approx(1)  # So that weights can grow back.
    gradient = jax.grad(lambda kernel: train_pass("dense", kernel, u)[0].sum())(kernel)
    assert np.isfinite(gradient).all()


# Norms and attention.


class Normalize(nn.Module):
    style: layers.Style

    @nn.compact
    def __call__(self, x, train, labels=None):
        return self.style.normalize(x, "channels", x.shape[-1], train, labels)


def test_layer_norm_is_over_the_whole_image_with_a_scale_and_a_bias_for_each_channel():
    x, scale, bias = np.asarray(normal(2, 3, 4, 5)), normal(5), normal(5, seed=1)
    mean, variance = x.mean(axis=(1, 2, 3), keepdims=True), x.var(axis=(1, 2, 3), keepdims=True)
    module = Normalize(layers.Style(norm="layer", dtype=jnp.float64))
    y = module.apply({"params": {"norm": {"scale": scale, "bias": bias}}}, x, True)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5) * scale + bias, rtol=1e-10)


def test_channels_that_layer_norm_does_not_see_count_as_zeros():
    x, scale, bias = normal(2, 3, 4, 5), normal(5), normal(5, seed=1)
    padded = [jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, 3)]) for leaf in (x, scale, bias)]
    module = norms.LayerNorm(8, "channels", nn.initializers.ones, jnp.float64)
    y, whole = (
        module.apply({"params": {"scale": scale, "bias": bias}}, x) for x, scale, bias in ((x, scale, bias), padded)
    )
    np.testing.assert_allclose(y, whole[..., :5], rtol=1e-12)
    np.testing.assert_array_equal(whole[..., 5:], 0)


def test_conditional_batch_norm_scales_the_normalised_batch_by_class():
    x, scale, bias = 2 + np.asarray(normal(4, 3, 3, 5)), normal(3, 5), normal(3, 5, seed=1)
    labels = np.array([0, 2, 1, 2])
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    module = Normalize(layers.Style(norm="batch", classes=3, dtype=jnp.float64))
    statistics = {"norm": {"statistics": {"mean": jnp.zeros(5), "var": jnp.ones(5)}}}
    y, moved = module.apply(
        {"params": {"norm": {"scale": scale, "bias": bias}}, "batch_stats": statistics},
        *(x, True, labels),
        mutable=["batch_stats"],
    )
    expected = (x - mean) / np.sqrt(variance + 1e-5)
    expected = np.stack([image * scale[label] + bias[label] for image, label in zip(expected, labels, strict=True)])
    np.testing.assert_allclose(y, expected, rtol=1e-10)
    np.testing.assert_allclose(moved["batch_stats"]["norm"]["statistics"]["mean"], 0.1 * mean, rtol=1e-10)


def test_self_attention_equals_a_plain_implementation():
    x, params = np.asarray(normal(2, 4, 6, 16)), {"gamma": normal(1)}
    shapes = {"query": (16, 2), "key": (16, 2), "value": (16, 8), "out": (8, 16)}
    for seed, (name, shape) in enumerate(shapes.items()):
        params[name] = {"kernel": normal(1, 1, *shape, seed=seed)}
    expected = []
    for image in x:
        query, key, value = (image @ np.asarray(params[name]["kernel"][0, 0]) for name in ("query", "key", "value"))
        key, value = (
            np.array([[maps[i : i + 2, j : j + 2].max(axis=(0, 1)) for j in (0, 2, 4)] for i in (0, 2)])
            for maps in (key, value)
        )
        scores = query.reshape(24, 2) @ key.reshape(6, 2).T
        weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        attended = (weights @ value.reshape(6, 8)).reshape(4, 6, 8)
        expected.append(image + params["gamma"][0] * (attended @ params["out"]["kernel"][0, 0]))
    y = SelfAttention(16, FLOAT64, "inputs").apply({"params": params}, x)
    np.testing.assert_allclose(y, np.stack(expected), rtol=1e-9)


def test_fresh_self_attention_is_the_identity():
    x = normal(1, 4, 4, 16)
    y, _ = jax.jit(SelfAttention(16, FLOAT64, "inputs").init_with_output)(jax.random.key(0), x)
    np.testing.assert_array_equal(y, x)
