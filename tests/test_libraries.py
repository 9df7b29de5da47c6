"""Networks of Flax linen, Flax NNX, Equinox and Haiku, and parameters of any make, are pruned as they are."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxtickets as jt
from jaxtickets import UserError

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, images):
        x = linen.relu(linen.BatchNorm(True)(linen.Conv(8, (3, 3), name="conv")(images)))
        x = linen.ConvTranspose(4, (3, 3), transpose_kernel=True, name="up")(x)
        return linen.Dense(4, name="out")(linen.LayerNorm()(x) + linen.Embed(3, 4, name="classes")(jnp.ones(1, int)))


class NNX(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(4, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 4, (3, 3), transpose_kernel=True, rngs=rngs)
        self.classes = nnx.Embed(3, 4, rngs=rngs)
        self.last = nnx.List([nnx.LayerNorm(4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])

    def __call__(self, images):
        norm, out = self.last
        return out(norm(self.up(nnx.relu(self.norm(self.conv(images)))) + self.classes(jnp.ones(1, int))))


class Equinox(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.LayerNorm
    up: eqx.nn.ConvTranspose2d
    classes: eqx.nn.Embedding
    last: list
    activation: Any

    def __init__(self):
        keys = jax.random.split(KEY, 4)
        self.conv = eqx.nn.Conv2d(4, 8, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.LayerNorm((8, 4, 4))  # Its weight has three axes.
        self.up = eqx.nn.ConvTranspose2d(8, 4, 3, padding=1, key=keys[1])
        self.classes = eqx.nn.Embedding(3, 4, key=keys[2])
        self.last = [eqx.nn.Linear(4, 4, key=keys[3])]
        self.activation = jax.nn.relu

    def __call__(self, images):
        def one(image):  # [4 channels, height, width]
            x = self.up(self.activation(self.norm(self.conv(image)))) + self.classes(1)[:, None, None]
            return jax.vmap(jax.vmap(self.last[0]))(x.transpose(1, 2, 0))

        return jax.vmap(one)(images.transpose(0, 3, 1, 2))


def linen_network():
    variables = Linen().init(KEY, IMAGES)
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    return (
        variables["params"],
        lambda params: Linen().apply({"params": params, **rest}, IMAGES),
        jt.axes(Linen(), IMAGES),
    )


def nnx_network():
    module = NNX()
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return params, lambda params: nnx.merge(graph, params, rest)(IMAGES), jt.axes(module)


def equinox_network():
    params, rest = eqx.partition(Equinox(), eqx.is_inexact_array)
    return params, lambda params: eqx.combine(params, rest)(IMAGES), jt.axes(Equinox())


NETWORKS = {
    "linen": (linen_network, ["classes/embedding", "conv/kernel", "out/kernel", "up/kernel"]),
    "nnx": (
        nnx_network,
        ["classes/embedding/value", "conv/kernel/value", "last/1/kernel/value", "up/kernel/value"],
    ),
    "equinox": (equinox_network, ["conv/weight", "up/weight", "classes/weight", "last/0/weight"]),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """`(parameters, function of them, axes, names of the weights)`."""
    make, names = NETWORKS[request.param]
    return *make(), names


def test_default_patterns_find_the_weights_and_no_bias_or_scale(network):
    params, _, _, names = network
    assert list(jt.masks.named_leaves(jt.masks.ones(params))) == names


def test_whole_filters_that_are_pruned_are_outputs_that_stay_zero(network):
    params, run, axes, names = network
    dense = jt.masks.ones(params, include=[names[-1] if "up" not in names[-1] else names[-2]])
    masks = jt.prune(jt.magnitude(params, dense), dense, 0.5, structure="filter", axes=axes)
    without_bias = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0 if "bias" in jt.masks.path_name(path) else leaf, params
    )
    outputs = np.asarray(run(jt.masks.apply(without_bias, masks)))
    assert np.count_nonzero((outputs == 0).all(axis=(0, 1, 2))) == 2


def matrix(leaf, name, library):
    """`[positions, inputs, outputs]` of a kernel, by what the library's documentation says of its layout."""
    leaf = np.asarray(leaf)
    if library == "equinox" and "classes" not in name:  # [out, in, height, width]
        return np.moveaxis(leaf, (1, 0), (-2, -1)).reshape(-1, leaf.shape[1], leaf.shape[0])
    if library != "equinox" and "up" in name:  # [height, width, out, in]
        return np.swapaxes(leaf, -1, -2).reshape(-1, leaf.shape[-1], leaf.shape[-2])
    return leaf.reshape(-1, *leaf.shape[-2:])


@pytest.mark.parametrize("library", NETWORKS)
def test_two_of_four_weights_stay_along_the_inputs_of_each_layer(library):
    params, _, axes = NETWORKS[library][0]()
    dense = jt.masks.ones(params, exclude=["classes"])
    masks = jt.prune(jt.magnitude(params, dense), dense, 0.5, structure="2:4", axes=axes)
    weights = jt.masks.named_leaves(params)
    for name, mask in jt.masks.named_leaves(masks).items():
        kept, sizes = (matrix(leaf, name, library) for leaf in (mask, np.abs(weights[name])))
        groups = kept.swapaxes(1, 2).reshape(-1, 4)
        best = np.argsort(np.argsort(-sizes.swapaxes(1, 2).reshape(-1, 4), axis=1), axis=1) < 2
        np.testing.assert_array_equal(groups, best, name)


@pytest.mark.parametrize("library", NETWORKS)
def test_blocks_lie_along_inputs_and_outputs_of_each_layer(library):
    params, _, axes = NETWORKS[library][0]()
    dense = jt.masks.ones(params, exclude=["classes"])
    masks = jt.prune(jt.magnitude(params, dense), dense, 0.5, "layerwise", structure="block:4x2", axes=axes)
    for name, mask in jt.masks.named_leaves(masks).items():
        kept = matrix(mask, name, library)
        blocks = kept.reshape(len(kept), -1, 4, kept.shape[2] // 2, 2)
        assert (blocks.all(axis=(2, 4)) == blocks.any(axis=(2, 4))).all() and not kept.all(), name


def test_a_transformation_prunes_the_network_while_it_trains(network):
    params, run, axes, _ = network
    tx = jt.sparsify(optax.adam(0.01), jt.schedules.rigl(0.6, 1, 3))
    state = tx.init(params)
    step = jax.jit(lambda p, s: tx.update(jax.grad(lambda p: jnp.square(run(p) - 1).mean())(p), s, p))
    for _ in range(2):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    masks = jt.masks_of(state)
    assert jt.masks.is_nested(jt.masks.nonzero(params), masks)
    assert jt.masks.sparsity(masks) == pytest.approx(0.6, abs=0.01)


def test_the_lottery_loop_takes_the_network_as_it_is(network):
    params, run, _, _ = network

    @jax.jit
    def train(params, masks, key):
        slopes = jax.grad(lambda p: jnp.square(run(jt.masks.apply(p, masks)) - 1).mean())(params)
        return jax.tree.map(lambda w, g: w - 0.1 * g, params, slopes)

    rounds = jt.imp(train, params, key=KEY, rounds=1)
    assert rounds[1].sparsity == pytest.approx(0.2, abs=0.01)
    assert jax.tree.structure(rounds[1].params) == jax.tree.structure(params)
    assert np.isfinite(run(rounds[1].params)).all()


@pytest.mark.slow
def test_scores_take_one_loss_of_the_network_as_it_is(network):
    params, run, _, _ = network
    dense = jt.masks.ones(params)
    loss = lambda params, batch: jnp.square(run(params) - batch).mean()  # noqa: E731
    slopes = jt.masks.named_leaves(jax.grad(loss)(params, 1.0))
    weights = jt.masks.named_leaves(params)
    found = jt.masks.named_leaves(jt.snip(params, dense, loss, [1.0]))
    expected = {name: np.abs(weights[name] * slopes[name]) for name in found}
    total = sum(leaf.sum() for leaf in expected.values())
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[name] / total, rtol=1e-3, atol=1e-7)


# NNX.


def test_an_nnx_optimizer_prunes_its_module():
    module = NNX()
    optimizer = nnx.Optimizer(module, jt.sparsify(optax.adam(0.01), jt.schedules.one_shot(0.5)), wrt=nnx.Param)
    optimizer.update(module, nnx.grad(lambda module: jnp.square(module(IMAGES) - 1).mean())(module))
    params = nnx.state(module, nnx.Param)
    assert jt.masks.sparsity(jt.masks.nonzero(params)) == pytest.approx(0.5, abs=0.001)


def test_axes_of_an_nnx_module_go_with_pure_dictionaries_too():
    params = nnx.to_pure_dict(nnx.state(NNX(), nnx.Param))
    axes = jt.axes(NNX(), like=params)
    assert axes["up"]["kernel"] == ((-1,), (-2,)) and axes["conv"]["kernel"] == ((-2,), (-1,))
    assert jt.masks.named_leaves(jt.masks.ones(params)).keys() == {
        "classes/embedding",
        "conv/kernel",
        "last/1/kernel",
        "up/kernel",
    }


def test_axes_of_nnx_attention_are_heads_and_sizes_and_those_of_einsum_are_unknown():
    rngs = nnx.Rngs(0)
    layers = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False), nnx.Einsum("ab,bc->ac", (4, 4), rngs=rngs)
    attention, product = (jt.axes(layer, like=nnx.to_pure_dict(nnx.state(layer, nnx.Param))) for layer in layers)
    assert attention["query"]["kernel"] == ((-3,), (-2, -1)) and attention["out"]["kernel"] == ((-3, -2), (-1,))
    assert product["kernel"] == ((), ())


# Equinox.


def test_a_whole_equinox_module_is_pruned_with_its_functions_and_all():
    module = Equinox()
    dense = jt.masks.ones(module)
    masks = jt.prune(jt.magnitude(module, dense), dense, 0.5)
    smaller = jt.masks.apply(module, masks)
    assert smaller.activation is jax.nn.relu and np.isfinite(smaller(IMAGES)).all()
    assert jt.masks.sparsity(jt.masks.nonzero(smaller)) == 0.5


def test_weights_of_recurrent_equinox_cells_are_found_and_their_axes_known():
    cells = [eqx.nn.GRUCell(2, 4, key=KEY), eqx.nn.LSTMCell(2, 4, key=KEY)]
    dense = jt.masks.ones(cells)
    assert list(jt.masks.named_leaves(dense)) == [f"{i}/weight_{kind}" for i in (0, 1) for kind in ("ih", "hh")]
    masks = jt.prune(jt.magnitude(cells, dense), dense, 0.5, structure="filter", axes=jt.axes(cells))
    for mask in jax.tree.leaves(masks):
        assert (mask.all(axis=1) == mask.any(axis=1)).all()


def test_stacks_of_equinox_layers_have_unknown_axes():
    stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 4, key=key))(jax.random.split(KEY, 3))
    dense = jt.masks.ones({"net": stack})
    with pytest.raises(UserError, match="of net/weight are inputs and outputs is not known"):
        jt.prune(dense, dense, 0.5, structure="filter", axes=jt.axes({"net": stack}))


def test_axes_of_what_is_no_module_are_refused():
    for thing in ({"w": np.ones((2, 2))}, lambda path: (0, 1), eqx.nn.LayerNorm(3)):
        with pytest.raises(UserError, match="allowed are modules of Flax linen, Flax NNX and Equinox") as caught:
            jt.axes(thing)
        assert "\n" not in str(caught.value)


# Haiku.

HAIKU = {
    "net/~/conv2_d": {"w": np.ones((3, 3, 4, 8), np.float32), "b": np.ones(8, np.float32)},
    "net/~/layer_norm": {"scale": np.ones(8, np.float32), "offset": np.ones(8, np.float32)},
    "net/~/embed": {"embeddings": np.ones((5, 8), np.float32)},
    "net/~/gru": {"w_i": np.ones((8, 12)), "w_h": np.ones((4, 12)), "b": np.ones(12)},
}


def test_default_patterns_find_the_weights_of_haiku():
    assert list(jt.masks.named_leaves(jt.masks.ones(HAIKU))) == [
        "net/~/conv2_d/w",
        "net/~/embed/embeddings",
        "net/~/gru/w_h",
        "net/~/gru/w_i",
    ]


def test_haiku_weights_are_pruned_along_axes_that_are_given():
    dense = jt.masks.ones(HAIKU)
    with pytest.raises(UserError, match="which axes of net/~/conv2_d/w .* is not known"):
        jt.prune(dense, dense, 0.5, structure="filter")
    masks = jt.prune(dense, dense, 0.5, structure="2:4", axes=lambda path: (-2, -1))
    assert jt.masks.sparsity(masks) == pytest.approx(0.5, abs=0.06)  # Five entries are no multiple of four.


def test_a_transformed_haiku_function_is_pruned():
    haiku = pytest.importorskip("haiku")
    net = haiku.without_apply_rng(haiku.transform(lambda x: haiku.nets.MLP([8, 4])(haiku.LayerNorm(-1, True, True)(x))))
    params = net.init(KEY, np.ones((1, 4)))
    dense = jt.masks.ones(params)
    assert list(jt.masks.named_leaves(dense)) == ["mlp/~/linear_0/w", "mlp/~/linear_1/w"]
    rounds = jt.imp(lambda params, masks, key: params, params, key=KEY, rounds=1, rate=0.5)
    assert np.count_nonzero(np.asarray(rounds[1].params["mlp/~/linear_0"]["w"])) < 32
    assert net.apply(rounds[1].params, np.ones((1, 4))).shape == (1, 4)


# Any make.


class Pair(NamedTuple):
    W: Any
    b: Any


@flax.struct.dataclass
class Struct:
    weight: Any
    bias: Any
    name: str = flax.struct.field(pytree_node=False)


@partial(jax.tree_util.register_dataclass, data_fields=["kernel", "scale"], meta_fields=[])
@dataclasses.dataclass
class Registered:
    kernel: Any
    scale: Any


MATRIX, VECTOR = np.arange(1.0, 9, dtype=np.float32).reshape(2, 4), np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("params", "names"),
    [
        (MATRIX, [""]),
        ([(MATRIX, VECTOR), (MATRIX, VECTOR)], ["0/0", "1/0"]),
        ((MATRIX, None, [MATRIX, jnp.float32(2)]), ["0", "2/0"]),
        ({"layers": [Pair(MATRIX, VECTOR)], 3: {"w": MATRIX, "counts": np.ones((2, 2), int)}}, None),
        ([Struct(MATRIX, VECTOR, "a"), Registered(MATRIX, MATRIX), None], ["0/weight", "1/kernel"]),
        ({"a": Pair(MATRIX, None), "b": {"scale": MATRIX, "bias": MATRIX}}, ["a/W"]),
        ({"kernel": VECTOR, "w": VECTOR, "weight": VECTOR, "embedding": MATRIX}, ["embedding", "kernel"]),
    ],
)
def test_parameters_of_any_nesting_are_pruned(params, names):
    if names is None:
        params = {str(key): value for key, value in params.items()}
        names = ["3/w", "layers/0/W"]
    dense = jt.masks.ones(params)
    assert list(jt.masks.named_leaves(dense)) == names
    masks = jt.prune(jt.magnitude(params, dense), dense, 0.5)
    assert jt.masks.sparsity(masks) == 0.5
    tx = jt.masked(optax.adam(0.1), masks)
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    after = optax.apply_updates(params, updates)
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert jt.masks.sparsity(jt.masks.nonzero(after)) == 0.5
    assert jt.masks.counts(jt.masks_of(state)) == jt.masks.counts(masks)


def test_parameters_without_a_weight_by_name_are_told_with_their_paths():
    with pytest.raises(UserError, match="include: no parameter has the name of a weight .* which are gamma, theta"):
        jt.masks.ones({"theta": MATRIX, "gamma": VECTOR})


def test_masks_tell_their_layers_overlap_and_zeros():
    params = {"a": {"w": np.array([[1.0, 0], [2, 3]])}, "b": {"w": np.array([[0.0, 0]]), "b": np.zeros(2)}}
    masks = jt.masks.nonzero(params)
    assert jt.masks.layer_counts(masks) == {"a/w": (4, 3), "b/w": (2, 0)}
    header, *rows, total = jt.masks.table(masks).splitlines()
    assert header.split() == ["weights", "kept", "sparsity"]
    assert [row.split() for row in rows] == [["a/w", "4", "3", "25.00%"], ["b/w", "2", "0", "100.00%"]]
    assert total.split() == ["all", "6", "3", "50.00%"]
    other = {"a": {"w": np.array([[True, True], [False, True]])}, "b": {"w": np.ones((1, 2), bool), "b": None}}
    assert jt.masks.overlap(masks, other) == pytest.approx(2 / 3)
    assert jt.masks.overlap(other, masks) == pytest.approx(2 / 5)
