"""FLOPs against XLA's cost analysis, counts by hand, and sums of masks applied to images of ones."""

import json
import os
import subprocess
import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, load_config
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxtickets import config as config_lib
from jaxtickets import cost, flops, models, snapshots
from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.models import layers
from jaxtickets.objectives import OBJECTIVES, Batch
from jaxtickets.workdir import Workdir

NUMBERS = ("NHWC", "HWIO", "NHWC")


def shapes(components):
    """The shapes of `(params, batch_stats)`."""
    return jax.eval_shape(partial(models.init, components), jax.random.key(0))


def objective(name, components, **options):
    config = config_lib.get_config()
    config.objective.update(name=name, **options)
    return OBJECTIVES[name].make(components, config)


# Single layers. Each published operation, `(images, kernel) -> images`, is written with plain convolutions.


def conv(x, kernel, stride=1, padding=0):
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, [(padding, padding)] * 2, dimension_numbers=NUMBERS)


def transposed(x, kernel):
    """Stride 2, padding 1: a convolution of the input with a zero between neighbours, by the flipped kernel."""
    edge = kernel.shape[0] - 2
    flipped = kernel[::-1, ::-1]
    return lax.conv_general_dilated(x, flipped, (1, 1), [(edge, edge)] * 2, (2, 2), dimension_numbers=NUMBERS)


def upsampled(x, kernel):
    return conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel, padding=1)


def unprojected(x, kernel):
    return (x @ kernel.transpose(2, 0, 1, 3).reshape(x.shape[1], -1)).reshape(len(x), *kernel.shape[:2], -1)


def projected(x, kernel):
    return conv(x, kernel)[:, 0, 0]


# A layer, one example's shape, and the published operation.
SINGLE = {
    "conv_3": (layers.Conv(32, 3, padding=1), (8, 8, 24), partial(conv, padding=1)),
    "conv_4_stride_2": (layers.Conv(32, 4, stride=2, padding=1), (8, 8, 24), partial(conv, stride=2, padding=1)),
    "conv_1": (layers.Conv(32, 1), (8, 8, 24), conv),
    "conv_oblong": (layers.Conv(32, 3, stride=2, padding=1), (9, 5, 24), partial(conv, stride=2, padding=1)),
    "transposed_4": (layers.ConvTranspose(32, 4), (4, 4, 24), transposed),
    "upsampled": (layers.UpsampleConv(32, 3), (4, 4, 24), upsampled),
    # The mean over 2x2 pixels is a sum but for a factor.
    "pooled": (layers.ConvPool(32, 3), (8, 8, 24), partial(conv, padding=1)),
    "unprojected": (layers.Unproject(32, 4), (24,), unprojected),
    "projected": (layers.Project(32, 4), (4, 4, 24), projected),
    "dense": (layers.Dense(32), (24,), jnp.matmul),
}


class Alone(nn.Module):
    layer: nn.Module

    @nn.compact
    def __call__(self, x, train, labels=None):
        return self.layer(x)


def alone(name):
    layer, shape, operation = SINGLE[name]
    components = {"network": models.Component(Alone(layer.clone(use_bias=False)), shape)}
    params, _ = shapes(components)
    return components, params, operation


@pytest.mark.parametrize("name", SINGLE)
def test_a_layers_flops_are_those_that_xla_counts_in_the_published_operation(name):
    components, params, operation = alone(name)
    (count,) = cost.forward(models.kernel_uses(components), params).values()
    x = jax.ShapeDtypeStruct((1, *components["network"].input_shape), jnp.float32)
    lowered = jax.jit(operation).lower(x, params["network"]["layer"]["kernel"])
    assert count == pytest.approx(lowered.cost_analysis()["flops"], rel=0.02)


@pytest.mark.parametrize("name", SINGLE)
def test_theoretical_flops_are_the_products_of_kept_weights_and_pixels(name):
    components, params, operation = alone(name)
    masks = jax.tree.map(lambda leaf: np.random.default_rng(0).random(leaf.shape) < 0.3, params)
    (count,) = cost.forward(models.kernel_uses(components), params, masks).values()
    # Pixels and kept weights are ones and everything else is zero, so each product that counts adds 1 to the result.
    ones = jnp.ones((1, *components["network"].input_shape))
    made = operation(ones, jnp.asarray(masks["network"]["layer"]["kernel"], jnp.float32))
    assert count == 2 * round(float(made.sum()))


def test_a_leaf_without_a_mask_keeps_all():
    components = models.NETWORKS["dcgan"].make(width=2, latent_size=3, image_size=16, channels=1)
    params, uses = shapes(components)[0], models.kernel_uses(components)
    assert cost.forward(uses, params, jax.tree.map(lambda leaf: None, params)) == cost.forward(uses, params)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3))
def test_taps_count_where_they_meet_pixels(size, kernel_size, stride, padding):
    windows = (size + 2 * padding - kernel_size) // stride + 1
    padded = np.pad(np.ones(size, int), padding)
    met = [[padded[window * stride + tap] for window in range(windows)] for tap in range(kernel_size)]
    taps = layers.tap_uses(size, max(windows, 0), kernel_size, stride, padding)
    assert taps == tuple(map(sum, met))


# Equations.


@st.composite
def convolutions(draw):
    """`(lhs shape, rhs shape, options)` of a convolution over one axis, with groups and dilations."""
    size, kernel_size = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    dilation, spread = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = (draw(st.integers(-1, 3)), draw(st.integers(-1, 3)))
    feature_groups, batch_groups = draw(st.sampled_from([(1, 1), (2, 1), (1, 2)]))
    lhs = (2 * batch_groups, size, 3 * feature_groups)
    rhs = (kernel_size, 3, 4)
    options = dict(
        window_strides=(draw(st.integers(1, 3)),), padding=[padding], dimension_numbers=("NHC", "HIO", "NHC")
    )
    options |= dict(lhs_dilation=(dilation,), rhs_dilation=(spread,))
    return lhs, rhs, options | dict(feature_group_count=feature_groups, batch_group_count=batch_groups)


def loop_count(lhs, rhs, options):
    """The multiplications, window by window and tap by tap, over a row of ones for pixels and zeros for the rest."""
    ((before, after),) = options["padding"]
    (stride,), (dilation,), (spread,) = (options[name] for name in ("window_strides", "lhs_dilation", "rhs_dilation"))
    row = np.zeros((lhs[1] - 1) * dilation + 1, int)
    row[::dilation] = 1
    row = np.pad(row, (max(before, 0), max(after, 0)))
    row = row[max(-before, 0) : len(row) - max(-after, 0)]
    met, start = 0, 0
    while start + (rhs[0] - 1) * spread < len(row):
        met += sum(row[start + tap * spread] for tap in range(rhs[0]))
        start += stride
    examples, in_features = lhs[0] // options["batch_group_count"], lhs[2] // options["feature_group_count"]
    return examples * in_features * rhs[2] * met


@settings(max_examples=30, deadline=None)
@given(convolutions())
def test_a_convolutions_multiplications_are_those_of_a_loop(convolution):
    lhs, rhs, options = convolution
    row = (lhs[1] - 1) * options["lhs_dilation"][0] + 1 + sum(options["padding"][0])
    if row < 1:
        return
    function = partial(lax.conv_general_dilated, **options)
    jaxpr = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (lhs, rhs))).jaxpr
    assert cost.traced(jaxpr, (), ())["other"] == loop_count(lhs, rhs, options)


def test_a_product_multiplies_each_result_by_each_contracted_pair():
    jaxpr = jax.make_jaxpr(partial(jnp.einsum, "bqc,bkc->bqk"))(jnp.ones((2, 3, 5)), jnp.ones((2, 7, 5))).jaxpr
    assert cost.traced(jaxpr, (), ()) == {"other": 2 * 3 * 7 * 5}


def test_programs_within_programs_count_and_a_scan_as_often_as_it_runs():
    def scanned(x):
        return lax.scan(lambda carry, _: (jax.jit(jnp.matmul)(carry, x), None), x, length=3)[0]

    jaxpr = jax.make_jaxpr(jax.checkpoint(scanned))(jnp.ones((4, 4))).jaxpr
    assert cost.traced(jaxpr, (), ()) == {"other": 3 * 4**3}


# Train steps.

# Width 64: norms and activations are a small share of the work.
GANS = {"gan": {}, "r1": {"penalty": "r1", "penalty_weight": 10.0}, "n_critic": {"n_critic": 5}}
STEPS = {
    **{f"dcgan_{name}": ("dcgan", {"discriminator_norm": "none"}, "gan", options) for name, options in GANS.items()},
    "conv_vae": ("conv_vae", {}, "vae", {}),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_steps_flops_are_those_that_xla_counts_in_the_gradients(name):
    model, settings, kind, options = STEPS[name]
    components = models.NETWORKS[model].make(width=64, latent_size=64, image_size=16, channels=3, **settings)
    game, batch = objective(kind, components, **options), 8
    params, batch_stats = shapes(components)
    images = jax.ShapeDtypeStruct((batch, 16, 16, 3), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    xla = 0
    for player in game.players.values():
        own = {component: params[component] for component in player.components}

        def loss(own, params, batch_stats, batch, player=player):
            return player.loss({**params, **own}, batch_stats, batch)

        gradient = jax.jit(jax.grad(loss, has_aux=True))
        # Not for CPUs, where some convolutions are products, which multiply by padding too.
        lowered = gradient.trace(own, params, batch_stats, Batch(images, keys)).lower(lowering_platforms=("tpu",))
        xla += lowered.cost_analysis()["flops"] / player.every / batch
    rows = cost.layers(game, (16, 16, 3), batch)
    assert sum(row.step for row in rows) == pytest.approx(xla, rel=0.02)


def test_attention_and_spectral_norms_belong_to_no_layer_and_spectral_norms_are_done_once_a_batch():
    components = models.NETWORKS["sagan"].make(width=8, latent_size=6, image_size=16, channels=1)
    game = objective("gan", components)
    small, large = (cost.step_work(game, (16, 16, 1), batch) for batch in (2, 4))
    assert small.passes == pytest.approx(large.passes)
    assert small.other.keys() == {"generator/other", "discriminator/other"}
    # Attention's products on images take 4 forward passes; the work on weights per image halves if the batch doubles.
    attention = 2 * models.products(components)["generator/attention"]
    per_image = 2 * large.other["generator/other"] - small.other["generator/other"]
    assert per_image == pytest.approx(4 * attention)
    assert small.other["generator/other"] > per_image


def test_every_layer_of_an_autoencoder_goes_forward_once_and_back_twice_but_for_those_that_read_images():
    # The first layer needs no gradient of the images; the backward pass of a codebook is a lookup, without products.
    for name, kind, first in (("vq_vae", "vq_vae", "down_16"), ("resnet_vae", "vae", "stem")):
        components = models.NETWORKS[name].make(width=4, latent_size=6, image_size=16, channels=1)
        passes = cost.step_work(objective(kind, components), (16, 16, 1), 2).passes
        expected = {path: 2 if first in path else 1 if "codebook" in path else 3 for path in passes}
        assert passes == pytest.approx(expected)


# Tables.


def test_the_layers_of_dcgan_are_those_counted_by_hand():
    # Width 2, 3 latents, 16x16x1 images, 4x4 kernels. Over 8 pixels a stride of 2 has 4 positions, at which the taps
    # meet 3 + 4 + 4 + 3 = 14 pixels; over 16 pixels it has 8 positions, and they meet 7 + 8 + 8 + 7 = 30.
    components = models.NETWORKS["dcgan"].make(width=2, latent_size=3, image_size=16, channels=1)
    # A layer of the generator has two forward passes and the gradients of its kernel and its input; the first layer
    # needs no gradient of its input. A layer of the discriminator has two forward passes and both gradients of each for
    # its own move, then a forward pass and the gradient of its input for the generator's move.
    unproject, up, down, down_first = 1 + 1 + 1, 1 + 1 + 2, 2 + 4 + 2, 2 + 2 + 2
    expected = [
        ("generator", "unproject/conv", (4, 4, 3, 4), 192, 2 * 192, 2 * 192 * unproject),
        ("generator", "up_8/conv", (4, 4, 4, 2), 128, 2 * 14**2 * 8, 2 * 14**2 * 8 * up),
        ("generator", "up_16/conv", (4, 4, 2, 1), 32, 2 * 30**2 * 2, 2 * 30**2 * 2 * up),
        ("generator", "other", None, 2 * (4 + 2) + 1, 0, 0),
        ("discriminator", "down_8/conv", (4, 4, 2, 4), 128, 2 * 14**2 * 8, 2 * 14**2 * 8 * down),
        ("discriminator", "down_16/conv", (4, 4, 1, 2), 32, 2 * 30**2 * 2, 2 * 30**2 * 2 * down_first),
        ("discriminator", "project/conv", (4, 4, 4, 1), 64, 2 * 64, 2 * 64 * down),
        ("discriminator", "other", None, 2 + 2 * 4 + 1, 0, 0),
    ]
    assert cost.layers(objective("gan", components), (16, 16, 1), 2) == expected


def test_totals_are_those_of_all_parameters_and_masks_shrink_what_they_prune():
    config = load_config("gan_digits")
    before = flops.config_layers(config)
    components = models.build(config.model, 1, 0)
    assert sum(row.parameters for row in before) == models.parameter_count(components)
    params, _ = shapes(components)
    masks = jax.tree.map(lambda leaf: None, params)
    kernel = np.zeros(params["generator"]["up_16"]["conv"]["kernel"].shape, bool)
    kernel[1, 1] = True  # This tap writes one pixel within the image for each pixel that it reads.
    masks["generator"]["up_16"]["conv"]["kernel"] = kernel
    for now, then in zip(before, flops.config_layers(config, masks), strict=True):
        if (now.component, now.name) == ("generator", "up_16/conv"):
            forward = 2 * (config.model.image_size // 2) ** 2 * kernel.sum()
            assert (then.parameters, then.forward) == (kernel.sum(), forward)
            assert then.step == pytest.approx(now.step / now.forward * forward)
        else:
            assert then == now


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [4, 128])
def test_a_table_is_at_most_110_wide_and_ends_with_what_is_saved(width, masked):
    sizes = dict(image_size=16 if width == 4 else 64, channels=3, latent_size=8)
    build = partial(models.NETWORKS["dcgan"].make, **sizes)
    before, after = (cost.layers(objective("gan", build(n)), (16, 16, 3), 2) for n in (width, width // 2))
    text = flops.table(before, after, masked)
    assert max(map(len, text.splitlines())) <= 110
    assert ("theoretical" in text.lower()) == masked
    totals = [[sum(row[column] for row in rows) for rows in (before, after)] for column in (4, 3)]
    flops_fewer, parameters_fewer = (100 * (1 - after / before) for before, after in totals)
    last = f"forward {flops_fewer:.1f}% fewer FLOPs, parameters {parameters_fewer:.1f}% fewer"
    assert text.splitlines()[-1] == last
    assert max(map(len, flops.table(before).splitlines())) <= 110


# Runs and the command line.


@pytest.fixture
def run(tmp_path):
    """`(config, path, masks)` of a run with two finished rounds and a third one that has begun."""
    config = load_config("ae_digits")
    config.model.update(width=4)
    params, _ = shapes(models.build(config.model, 1, 0))
    rng, dense = np.random.default_rng(0), mask_lib.ones(params)
    sparse = jax.tree.map(lambda mask: rng.random(mask.shape) < 0.5, dense)
    workdir = Workdir(tmp_path)
    workdir.config.write_text(json.dumps({"config": config_lib.to_dict(config)}))
    workdir.write_rounds([{"round": 0}, {"round": 1}])
    for number, masks in enumerate([dense, sparse, sparse]):
        snapshots.save_masks(workdir.masks(number), masks)
    return config, tmp_path, sparse


def test_after_is_the_last_finished_round_of_a_run_or_the_one_asked_for(run):
    config, path, masks = run
    before, after, masked = flops.compared(config, path)
    assert masked
    assert after == flops.config_layers(config, masks)
    kept = {row.name: row.parameters for row in after if row.component == "encoder"}
    counts = mask_lib.layer_counts(masks["encoder"])
    assert kept.items() >= {name.removesuffix("/kernel"): count.kept for name, count in counts.items()}.items()
    assert flops.compared(config, path, 0).after == before


def test_what_a_run_lacks_is_one_clear_error(run, tmp_path):
    config, path, _ = run
    other = config.copy_and_resolve_references()
    other.model.width = 8
    for arguments, message in (
        ((config, path, 2), "--round=2: .* allowed are 0, 1"),
        ((config, path / "none"), "no readable config.json"),
        ((config, None, 9), "--round=9: the config has no such round"),
        ((other, path), "other networks: model.width is 4 there and 8 here"),
    ):
        with pytest.raises(UserError, match=message):
            flops.compared(*arguments)


def run_command(*flags):
    arguments = [sys.executable, "-m", "jaxtickets.flops", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_needs_no_matplotlib():
    script = "import sys, jaxtickets.flops; print('matplotlib' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "False\n"


def test_the_command_compares_a_config_with_its_channels(tmp_path):
    channels = "{'encoder': {'down_16': 2}}"
    flags = ["--config=configs/ae_digits.py:quick", "--config.model.width=4", f"--config.model.channels={channels}"]
    result = run_command(*flags)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    # Half of the channels at 8x8 are left; down_16 makes them and down_8 reads them.
    lines = result.stdout.splitlines()
    assert any("4x4x1x4 -> 4x4x1x2" in line and line.endswith(" 50.0") for line in lines)
    assert any("4x4x4x8 -> 4x4x2x8" in line and line.endswith(" 50.0") for line in lines)
    assert lines[-1].startswith("forward ")


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--config=configs/ae_digits.py", "--from_round=1"], "from_round"),
        (["--config=configs/ae_digits.py", "--config.model.width=0"], "config.model.width"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(flags, part):
    result = run_command(*flags)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("jaxtickets: ")
    assert part in line
