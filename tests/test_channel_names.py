"""`jt.axis_names`: the channels of any network, found in what it computes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxtickets as jt
from jaxtickets import UserError

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


class Residual(linen.Module):
    """A residual network with batch norm, pooling, a transposed convolution and a dense layer behind a global mean."""

    widths: tuple = (8, 6)

    @linen.compact
    def __call__(self, x):
        stream, inner = self.widths
        x = linen.Conv(stream, (3, 3), name="stem")(x)
        y = linen.Conv(inner, (3, 3), name="inner")(linen.relu(linen.BatchNorm(True, name="norm")(x)))
        x = x + linen.Conv(stream, (1, 1), name="back")(linen.max_pool(linen.silu(y), (3, 3), padding="SAME"))
        x = linen.ConvTranspose(inner, (2, 2), (2, 2), transpose_kernel=True, name="up")(x)
        return linen.Dense(5, name="out")(jnp.tanh(x).mean(axis=(1, 2)))


def run(variables, images):
    return Residual().apply(variables["net"], images)


def moved(leaf):
    return leaf + 0.1 * np.random.default_rng(leaf.size).random(leaf.shape, np.float32)


VARIABLES = {"net": jax.tree.map(moved, Residual().init(KEY, IMAGES))}


def test_layers_that_are_added_and_read_by_each_other_share_the_names_of_their_channels():
    names = jt.axis_names(run, VARIABLES, IMAGES)["net"]
    params, stats = names["params"], names["batch_stats"]
    stream, inner, up = params["stem"]["kernel"][3], params["inner"]["kernel"][3], params["up"]["kernel"][2]
    assert len({stream, inner, up}) == 3 and None not in (stream, inner, up)
    assert params["stem"] == {"kernel": (None, None, None, stream), "bias": (stream,)}
    assert params["norm"] == {"scale": (stream,), "bias": (stream,)}
    assert stats["norm"] == {"mean": (stream,), "var": (stream,)}
    assert params["inner"] == {"kernel": (None, None, stream, inner), "bias": (inner,)}
    assert params["back"] == {"kernel": (None, None, inner, stream), "bias": (stream,)}
    assert params["up"] == {"kernel": (None, None, up, stream), "bias": (up,)}
    assert params["out"] == {"kernel": (up, None), "bias": (None,)}


def test_a_network_without_its_pruned_channels_computes_what_the_masked_one_does():
    names = jt.axis_names(run, VARIABLES, IMAGES)
    statistics = jax.tree.map(lambda leaf: None, VARIABLES["net"]["batch_stats"])
    axes = {"net": {"params": jt.axes(Residual(), IMAGES), "batch_stats": statistics}}
    kept = jt.channels.select(jt.channels.filter_l1(VARIABLES, names, axes), 0.5, "layerwise")
    smaller = jt.compact.take(VARIABLES, kept, names)
    masks = jt.channels.to_weight_masks(kept, VARIABLES, names)
    assert smaller["net"]["params"]["stem"]["kernel"].shape == (3, 3, 3, 4)
    expected = run(jt.masks.apply(VARIABLES, masks), IMAGES)
    found = Residual((4, 3)).apply(smaller["net"], IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_channels_of_an_equinox_network_are_found():
    mlp, rest = eqx.partition(eqx.nn.MLP(3, 2, 8, 2, key=KEY), eqx.is_inexact_array)
    forward = lambda params, x: jax.vmap(eqx.combine(params["net"], rest))(x)  # noqa: E731
    names = jt.axis_names(forward, {"net": mlp}, IMAGES[0, 0])
    first, second, out = (layer.weight for layer in names["net"].layers)
    assert first[1] is None and out[0] is None
    assert first[0] == second[1] and second[0] == out[1] and first[0] != second[0]
    scores = jt.channels.filter_l1({"net": mlp}, names, jt.axes({"net": mlp}))
    kept = jt.channels.select(scores, 0.5, "layerwise")
    smaller = jt.compact.take({"net": mlp}, kept, names)
    masked = jt.masks.apply({"net": mlp}, jt.channels.to_weight_masks(kept, {"net": mlp}, names))
    assert smaller["net"].layers[1].weight.shape == (4, 4)
    np.testing.assert_allclose(forward(smaller, IMAGES[0, 0]), forward(masked, IMAGES[0, 0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "between",
    [
        lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True),  # layer norm
        jax.nn.softmax,
        lambda x: x.reshape(len(x), 2, 4).sum(1).repeat(2, axis=1),  # groups
        lambda x: x[:, ::-1],
        lambda x: jnp.roll(x, 1, axis=1),
        lambda x: jax.lax.pad(x, 0.0, [(0, 0, 0), (1, -1, 0)]),
        lambda x: jax.jit(jnp.tanh)(jax.jit(jnp.tanh)(x).at[:, 0].set(0)),
        lambda x: jnp.sort(x),
        lambda x: x * np.arange(8.0),  # constants of each channel
        lambda x: jnp.concatenate([x[:, :4], x[:, 4:]], axis=1),
        lambda x: jax.lax.scan(lambda carry, row: (carry, row * 2), 0, x)[1],
        lambda x: jnp.cumsum(x, axis=1),
        lambda x: x + jnp.arange(8),
    ],
)
def test_channels_that_are_used_as_a_whole_have_no_names(between):
    params = {"a": np.ones((3, 8), np.float32), "b": np.ones((8, 2), np.float32)}
    names = jt.axis_names(lambda params, x: between(x @ params["a"]) @ params["b"], params, np.ones((4, 3)))
    assert names == {"a": (None, None), "b": (None, None)}


def test_channels_without_anything_between_have_a_name():
    params = {"a": np.ones((3, 8), np.float32), "b": np.ones((8, 2), np.float32)}
    leaky = lambda x: jnp.where(x > 0, x, 0.1 * x)  # noqa: E731
    for between in (jax.nn.gelu, jax.jit(jnp.tanh), leaky, jax.nn.relu, jax.checkpoint(jnp.exp)):
        forward = lambda params, x, f=between: f(x @ params["net"]["a"]) @ params["net"]["b"]  # noqa: E731
        names = jt.axis_names(forward, {"net": params}, np.ones((4, 3)))["net"]
        assert names == {"a": (None, "net"), "b": ("net", None)}


def test_attention_has_names_for_its_heads_and_values_and_none_for_queries_and_keys():
    module = linen.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
    params = module.init(KEY, IMAGES[0])["params"]
    names = jt.axis_names(lambda params, x: module.apply({"params": params["net"]}, x), {"net": params}, IMAGES[0])[
        "net"
    ]
    heads, values = names["value"]["kernel"][1:]
    assert None not in (heads, values) and heads != values
    assert names["query"]["kernel"] == names["key"]["kernel"] == (None, heads, None)
    assert names["out"]["kernel"] == (heads, values, None)


def test_embeddings_have_channels_and_entries_without_a_name():
    params = {"table": np.ones((5, 8), np.float32), "out": np.ones((8, 2), np.float32)}
    names = jt.axis_names(lambda own, i: own["net"]["table"][i] @ own["net"]["out"], {"net": params}, np.ones(4, int))[
        "net"
    ]
    assert names == {"table": (None, "net"), "out": ("net", None)}


def test_parameters_without_arrays_are_refused():
    with pytest.raises(UserError, match="params: there are no arrays in it"):
        jt.axis_names(lambda params, x: x, {}, IMAGES)


class Stream(linen.Module):
    """Two dense layers that are added."""

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(8)(x)
        return linen.Dense(2)(x + linen.Dense(8)(jnp.tanh(x)))


def test_channels_that_several_components_share_are_refused():
    params = Stream().init(KEY, IMAGES)["params"]
    with pytest.raises(UserError, match=r"Dense_0 and Dense_1 share channels, .* such as {'net': params}") as caught:
        jt.axis_names(lambda params, x: Stream().apply({"params": params}, x), params, IMAGES)
    assert "\n" not in str(caught.value)
    names = jt.axis_names(lambda own, x: Stream().apply({"params": own["net"]}, x), {"net": params}, IMAGES)["net"]
    assert names["Dense_0"]["bias"] == names["Dense_2"]["bias"] != (None,)


@pytest.mark.parametrize(
    "function", [jt.channels.to_weight_masks, lambda kept, *trees: jt.compact.take(*trees[:1], kept, trees[1])]
)
def test_channel_masks_and_trees_that_do_not_fit_are_refused(function):
    params = {"net": {"a": {"kernel": np.ones((3, 4))}, "b": {"kernel": np.ones((4, 2))}}}
    names = {"net": {"a": {"kernel": (None, "a")}, "b": {"kernel": ("a", None)}}}
    kept = np.array([True, True, False, False])
    with pytest.raises(UserError, match="net has no channels 'hidden'; allowed: a"):
        function({"net": {"hidden": kept}}, params, names)
    with pytest.raises(UserError, match="there is no 'network'; allowed: net"):
        function({"network": {"a": kept}}, params, names)
    with pytest.raises(UserError, match="(params|tree): is a list; allowed is a dictionary of components, such as"):
        function({"net": {"a": kept}}, [params["net"]], [names["net"]])


def test_a_list_at_the_top_is_refused_in_one_line():
    params = [np.ones((3, 4)), np.ones((4, 2))]
    for call in (
        lambda: jt.axis_names(lambda params, x: x @ params[0] @ params[1], params, np.ones((1, 3))),
        lambda: jt.channels.filter_l1(params, [(None, "a"), ("a", None)]),
    ):
        with pytest.raises(UserError, match="params: is a list; allowed is a dictionary") as caught:
            call()
        assert "\n" not in str(caught.value)
