"""Structured pruning along the right axes: of Flax's layers, of given layouts, and of none that is not known."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st

import jaxtickets as jt
from jaxtickets.errors import UserError
from jaxtickets.pruning import Axes, channels
from jaxtickets.pruning.axes import UNKNOWN
from jaxtickets.runs import Networks

OUT_IN = (1, 0)  # Inputs are axis 1, outputs axis 0: `[out, in, ...]`, as in PyTorch and Equinox.
STRUCTURES = ("filter", "block:2x2", "2:4")


def one(name, leaf):
    return {"net": {"layer": {name: np.asarray(leaf, np.float32)}}}


def ones(params):
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)


def pruned(params, sparsity, structure, axes=None):
    """The mask of the only leaf, by magnitude."""
    dense = ones(params)
    (mask,) = jax.tree.leaves(jt.prune(jt.magnitude(params, dense), dense, sparsity, structure=structure, axes=axes))
    return mask


# By hand.


@pytest.mark.parametrize("axes", [lambda path: OUT_IN, one("weight", 0.0) | {"net": {"layer": {"weight": OUT_IN}}}])
def test_a_filter_of_an_out_in_kernel_is_a_row(axes):
    # Rows sum to 9, 4 and 10, columns to 16 and 7: a row of three stays, where along the other axis a column would.
    params = one("weight", [[9, 0], [2, 2], [5, 5]])
    np.testing.assert_array_equal(pruned(params, 2 / 3, "filter", axes), [[0, 0], [0, 0], [1, 1]])


def test_two_of_four_of_an_out_in_convolution_go_along_the_inputs():
    # [1 out, 4 in, 1, 2]: at each of two positions, the two highest of four inputs.
    kernel = [[[[1, 8]], [[2, 7]], [[3, 6]], [[4, 5]]]]
    expected = [[[[0, 1]], [[0, 1]], [[1, 0]], [[1, 0]]]]
    np.testing.assert_array_equal(pruned(one("weight", kernel), 0.5, "2:4", lambda path: OUT_IN), expected)


def test_a_block_of_an_out_in_kernel_has_inputs_as_rows():
    # block:1x2 is one input and two outputs: in [out, in], two rows of one column.
    kernel = [[9, 1], [9, 1], [1, 5], [1, 5]]
    expected = [[1, 0], [1, 0], [0, 1], [0, 1]]
    np.testing.assert_array_equal(pruned(one("weight", kernel), 0.5, "block:1x2", lambda path: OUT_IN), expected)


def test_a_filter_of_attention_is_a_head_and_a_place_in_it():
    # query: [in, heads, size]. By name it would be taken for a convolution over `in`, of two channels.
    kernel = np.array([[[1, 4], [3, 2]], [[1, 4], [3, 2]]], np.float32)
    mask = pruned(one("kernel", kernel), 0.75, "filter", lambda path: (0, (1, 2)))
    np.testing.assert_array_equal(mask, [[[0, 1], [0, 0]]] * 2)


# Any layout.


@given(
    st.permutations(range(4)),
    st.tuples(*[st.integers(1, 5)] * 4),
    st.integers(0, 99),
    st.floats(0, 0.9),
    st.sampled_from(STRUCTURES),
)
def test_the_layout_of_a_kernel_changes_nothing_but_the_layout_of_its_mask(order, shape, seed, sparsity, structure):
    kernel = np.random.default_rng(seed).normal(size=shape)
    sparsity = 0.5 if structure == "2:4" else sparsity
    turned = kernel.transpose(order)
    axes = order.index(2), order.index(3)
    try:
        expected = pruned(one("kernel", kernel), sparsity, structure)
    except UserError as error:
        with pytest.raises(UserError, match="leaves none" if "leaves none" in str(error) else "."):
            pruned(one("weight", turned), sparsity, structure, lambda path: axes)
        return
    np.testing.assert_array_equal(
        pruned(one("weight", turned), sparsity, structure, lambda path: axes), expected.transpose(order)
    )


# What is not known.


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    ("name", "shape"),
    [("weight", (4, 4)), ("weight", (4, 4, 3, 3)), ("w", (4, 4)), ("kernel", (4, 4, 4)), ("scale", (4, 4))],
)
def test_a_structure_is_refused_where_the_axes_are_not_known(structure, name, shape):
    with pytest.raises(UserError, match=f"of net/layer/{name} are inputs and outputs is not known.*axes=") as caught:
        pruned(one(name, np.ones(shape)), 0.5, structure)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(8,), (4, 4), (4, 4, 4)])
def test_single_weights_need_no_axes(shape):
    assert pruned(one("weight", np.arange(np.prod(shape)).reshape(shape)), 0.5, "weight").mean() == 0.5


def test_leaves_of_one_axis_need_no_axes():
    np.testing.assert_array_equal(pruned(one("weight", [3, 1, 4, 2]), 0.5, "filter"), [1, 0, 1, 0])


@pytest.mark.parametrize("axes", [(0, 0), (1, 2), (1, -1), (0,), 1, "ab", (True, False), (0.0, 1), (0, (1, 0)), ()])
def test_axes_that_are_not_there_are_refused_in_a_line(axes):
    with pytest.raises(UserError, match=r"axes: .* of net/layer/weight: allowed is a pair") as caught:
        pruned(one("weight", np.ones((2, 3))), 0.5, "filter", lambda path: axes)
    assert "\n" not in str(caught.value)


def test_axes_of_another_tree_are_refused():
    with pytest.raises(UserError, match="axes: allowed is a function of a path, or a tree like the parameters"):
        pruned(one("weight", np.ones((2, 3))), 0.5, "filter", {"net": {"other": {"weight": OUT_IN}}})


# Of Flax's modules.


class Layers(nn.Module):
    """One of each of Flax's layers that has a kernel."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3,), name="conv")(x)
        x = nn.ConvTranspose(6, (3,), name="up")(x)
        x = nn.ConvTranspose(8, (3,), transpose_kernel=True, name="turned")(x)
        x = nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(x, x)
        x = nn.Einsum((8, 8), "bti,io->bto", name="product")(x)
        x = x + nn.Embed(5, 8, name="classes")(np.zeros(1, int))
        return nn.Dense(3, name="dense")(x)


def test_the_axes_of_flax_layers_are_those_that_they_multiply_along():
    found = jt.axes(Layers(), jax.ShapeDtypeStruct((2, 6, 4), np.float32))
    conv = Axes((-2,), (-1,))
    assert found["conv"]["kernel"] == found["up"]["kernel"] == found["dense"]["kernel"] == conv
    assert found["classes"]["embedding"] == conv
    assert found["turned"]["kernel"] == Axes((-1,), (-2,))
    for name in ("query", "key", "value"):
        assert found["attention"][name]["kernel"] == Axes((-3,), (-2, -1))
    assert found["attention"]["out"]["kernel"] == Axes((-3, -2), (-1,))
    assert found["product"]["kernel"] == UNKNOWN
    assert found["conv"]["bias"] is None


class Stacked(nn.Module):
    """Three dense layers whose kernels are one array."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(_Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return layers(name="layers")(x, None)[0]


class _Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(x.shape[-1], name="dense")(x), None


def test_kernels_of_several_layers_in_one_array_are_refused():
    params = {"net": Stacked().init(jax.random.key(0), np.ones((1, 4)))["params"]}
    axes = {"net": jt.axes(Stacked(), np.ones((1, 4)))}
    dense = jt.masks.ones(params)
    with pytest.raises(UserError, match="of net/layers/dense/kernel are inputs and outputs is not known"):
        jt.prune(jt.magnitude(params, dense), dense, 0.5, structure="filter", axes=axes)


def test_a_pruned_filter_of_each_flax_layer_is_an_output_that_stays_zero():
    inputs = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    modules = {
        "Dense_0": nn.Dense(4, use_bias=False),
        "Conv_0": nn.Conv(4, (3,), use_bias=False),
        "ConvTranspose_0": nn.ConvTranspose(4, (3,), transpose_kernel=True, use_bias=False),
        "DenseGeneral_0": nn.DenseGeneral((2, 2), use_bias=False),
    }
    for name, module in modules.items():
        params = {"net": module.init(jax.random.key(0), inputs)["params"]}
        axes, dense = {"net": jt.axes(module, inputs)}, jt.masks.ones(params)
        masks = jt.prune(jt.magnitude(params, dense), dense, 0.5, structure="filter", axes=axes)
        outputs = np.asarray(module.apply({"params": jt.masks.apply(params, masks)["net"]}, inputs)).reshape(2, 6, 4)
        assert np.count_nonzero((outputs == 0).all(axis=(0, 1))) == 2, name


# Of a run.


@pytest.mark.parametrize("name", ["sngan_conditional", "vae_digits", "sagan"])
def test_kernels_of_this_package_are_flax_kernels_of_two_or_four_axes(data_directory, name):
    networks = Networks(tiny(name, data_directory, **{"prune.structure": "filter"}))
    leaves = jt.masks.named_leaves(networks.params)
    kernels = [path for path in leaves if path.endswith("/kernel")]
    assert len(kernels) > 4 and networks.axes.keys() == networks.params.keys()
    for path in kernels:
        bias = leaves.get(f"{path.removesuffix('kernel')}bias")
        assert leaves[path].ndim in (2, 4) and (bias is None or bias.shape == leaves[path].shape[-1:]), path


def test_leaves_whose_axes_are_not_known_are_refused_before_anything_is_trained(data_directory):
    changes = {"prune.structure": "filter", "prune.include": ("kernel$", "scale$")}
    with pytest.raises(UserError, match=r"structure 'filter': which axes of generator/.*/scale"):
        Networks(tiny("sngan_conditional", data_directory, **changes))


def test_n_of_m_that_fits_no_layer_is_refused_before_anything_is_trained(data_directory):
    with pytest.raises(UserError, match=r"^structure: '1:1001' fits no layer: .* has \d+ inputs, .*\(and \d+ more\)"):
        Networks(tiny("sngan_conditional", data_directory, **{"prune.structure": "1:1001"}))


# Channels.

PARAMS = {
    "net": {
        "a": {"weight": np.array([[3.0, 3], [-1, 1]]), "bias": np.zeros(2)},  # [hidden, in]
        "b": {"weight": np.array([[5.0, 1.0]]), "bias": np.zeros(1)},  # [out, hidden]
    }
}
NAMES = {
    "net": {
        "a": {"weight": ("hidden", None), "bias": ("hidden",)},
        "b": {"weight": (None, "hidden"), "bias": (None,)},
    }
}


def test_filters_of_out_in_kernels_are_refused_unless_their_axes_are_given():
    with pytest.raises(UserError, match=r"filters: which axes of net/a/weight \(and of 1 more\) are inputs"):
        channels.filter_l1(PARAMS, NAMES)
    found = channels.filter_l1(PARAMS, NAMES, lambda path: OUT_IN)
    np.testing.assert_array_equal(found["net"]["hidden"], [3, 1])
    np.testing.assert_allclose(channels.filter_l2(PARAMS, NAMES, lambda path: OUT_IN)["net"]["hidden"], [3, 1])
    kept = channels.select(found, 0.5)
    np.testing.assert_array_equal(kept["net"]["hidden"], [True, False])
    smaller = jt.compact.take(PARAMS, kept, NAMES)["net"]
    np.testing.assert_array_equal(smaller["a"]["weight"], [[3, 3]])
    np.testing.assert_array_equal(smaller["b"]["weight"], [[5]])


def test_channels_of_kernels_that_must_stay_are_not_pruned_whatever_the_kernels_are_called():
    masks = {"net": {"a": {"weight": np.ones((2, 2), bool), "bias": None}, "b": {"weight": None, "bias": None}}}
    scores = {"net": {"hidden": np.array([3.0, 1.0])}}
    assert channels.prunable(scores, masks, NAMES) == {"net": {}}
    everything = ones(PARAMS)
    assert channels.prunable(scores, everything, NAMES) == scores


def test_a_channel_is_pruned_where_all_that_makes_and_reads_it_is():
    weights = {"a": [[1, 1], [0, 0]], "b": [[1, 0]]}
    masks = {"net": {name: {"weight": np.array(mask, bool), "bias": np.ones(2)} for name, mask in weights.items()}}
    found = channels.from_weight_masks(masks, NAMES)
    np.testing.assert_array_equal(found["net"]["hidden"], [True, False])
