"""Tests of the scores of weights against closed forms, numerical differentiation and PyTorch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_masks import random_masks

from jaxtickets import masks as mask_lib
from jaxtickets import models, pruning
from jaxtickets.config import get_config
from jaxtickets.objectives import LOSSES, Batch
from jaxtickets.objectives.gan import gan


@pytest.fixture(autouse=True)
def float32_products():
    """Full precision: by default GPUs round the factors of products to fewer digits than these comparisons need."""
    with jax.default_matmul_precision("float32"):
        yield


def layer(kernel, **others):
    return {"layer": {"kernel": np.asarray(kernel), **others}}


def assert_scores_close(ours, expected, rtol=1e-4):
    """Checks scores up to `rtol` of themselves or, because terms may cancel, of the largest of their layer."""
    ours, expected = mask_lib.named_leaves(ours), mask_lib.named_leaves(expected)
    assert ours.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(ours[name], leaf, rtol=rtol, atol=rtol * np.abs(leaf).max(), err_msg=name)


def absolute_sum(scores):
    return sum(np.abs(leaf).sum(dtype=np.float64) for leaf in jax.tree.leaves(scores))


def fresh(components, scale=0.2):
    """`(params, batch_stats)` with random kernels, no biases and norms that change nothing.

    NumPy draws them, because compiling the initialisation of all these networks takes longer than the tests.
    """
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = mask_lib.path_name(path).rpartition("/")[2]
        if name in ("scale", "var"):
            return np.ones(leaf.shape, np.float32)
        if name in ("bias", "mean", "gamma"):
            return np.zeros(leaf.shape, np.float32)
        return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

    shapes = jax.eval_shape(lambda: models.init(components, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(draw, shapes)


# Closed forms.

WEIGHTS = np.array([[1.0, -2.0], [0.5, 4.0]], np.float32)


def test_magnitude_is_the_absolute_value_of_prunable_weights_alone():
    params = {"generator": layer(WEIGHTS, bias=np.ones(2))}
    scores = pruning.magnitude(params, mask_lib.ones(params))
    assert scores["generator"]["layer"]["bias"] is None
    np.testing.assert_array_equal(scores["generator"]["layer"]["kernel"], [[1, 2], [0.5, 4]])


def test_magnitude_change_is_the_distance_from_the_rewind_point():
    start = np.array([[1.5, -2.0], [-0.5, 1.0]], np.float32)
    params, before = ({"generator": layer(kernel, bias=np.ones(2))} for kernel in (WEIGHTS, start))
    scores = pruning.magnitude_change(params, mask_lib.ones(params), before)
    assert scores["generator"]["layer"]["bias"] is None
    np.testing.assert_array_equal(scores["generator"]["layer"]["kernel"], [[0.5, 0], [1, 3]])


def test_by_movement_weights_that_move_away_from_zero_stay():
    # Gradient descent with rate 0.1 on the sum of (w - target)^2 / 2: two weights grow, two shrink.
    target = np.array([[2.0, -1.0], [1.0, 3.0]], np.float32)
    weights, moved = WEIGHTS.copy(), np.zeros((2, 2), np.float32)
    for _ in range(10):
        gradient = weights - target
        moved -= gradient * weights
        weights -= 0.1 * gradient
    params, movement = ({"generator": layer(kernel, bias=np.ones(2))} for kernel in (weights, moved))
    masks = mask_lib.ones(params)
    scores = pruning.movement(params, masks, movement)
    assert scores["generator"]["layer"]["bias"] is None
    np.testing.assert_array_equal(scores["generator"]["layer"]["kernel"], moved)
    kept = pruning.prune(scores, masks, 0.5)["generator"]["layer"]["kernel"]
    np.testing.assert_array_equal(kept, np.abs(weights) > np.abs(WEIGHTS))


def test_random_scores_are_uniform_and_depend_on_seed_and_path_alone():
    params = {"generator": {"a": {"kernel": np.zeros((100, 30)), "bias": np.ones(2)}, "b": {"kernel": np.zeros(3000)}}}
    masks = mask_lib.ones(params)
    first, again = (pruning.random(params, masks, 3)["generator"] for _ in range(2))
    other_weights = pruning.random(jax.tree.map(np.ones_like, params), masks, 3)["generator"]
    other_seed = pruning.random(params, masks, 4)["generator"]
    alone = pruning.random(
        {"generator": {"b": params["generator"]["b"]}}, {"generator": {"b": masks["generator"]["b"]}}, 3
    )
    assert first["a"]["bias"] is None
    for same in (again, other_weights):
        jax.tree.map(np.testing.assert_array_equal, first, same)
    np.testing.assert_array_equal(alone["generator"]["b"]["kernel"], first["b"]["kernel"])
    samples = [first["a"]["kernel"].ravel(), first["b"]["kernel"], other_seed["a"]["kernel"].ravel()]
    for number, sample in enumerate(samples):
        assert scipy.stats.kstest(sample, "uniform").pvalue > 0.01
        for other in samples[:number]:
            assert abs(np.corrcoef(sample, other)[0, 1]) < 0.06  # Three standard deviations of 3,000 pairs.


# A game of two players with quadratic losses, whose gradients and Hessians are known:
# discriminator d: s d'Ad / 2 + d'g, with gradient s Ad + g; generator g: g'Bg / 2 - s d'Cg, with gradient Bg - s C'd.

A = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 1.0]])
B = np.array([[1.0, -2.0, 0.5], [-2.0, 1.0, 0.0], [0.5, 0.0, 4.0]])
C = np.array([[0.0, 1.0, 2.0], [1.0, -1.0, 0.0], [3.0, 0.0, 1.0]])
D, G = np.array([1.0, -2.0, 0.5]), np.array([-1.0, 0.5, 2.0])
SCALES = (0.5, 2.0, 2.0)  # One s per batch; their mean is 1.5.
GAME = {"generator": layer(G.astype(np.float32)), "discriminator": layer(D.astype(np.float32))}


def kernels(own, batch):
    params = {**batch["params"], **own}
    return (params[name]["layer"]["kernel"] for name in ("discriminator", "generator"))


def discriminator_loss(own, batch):
    d, g = kernels(own, batch)
    return batch["scale"] * d @ A @ d / 2 + d @ g


def generator_loss(own, batch):
    d, g = kernels(own, batch)
    return g @ B @ g / 2 - batch["scale"] * d @ C @ g


GAME_LOSSES = {("discriminator",): discriminator_loss, ("generator",): generator_loss}


def game_batches(masks):
    effective = mask_lib.apply(GAME, masks)
    return [{"params": effective, "scale": np.float32(scale)} for scale in SCALES]


def game_gradients(d, g):
    return 1.5 * A @ d + g, B @ g - 1.5 * C.T @ d


GAME_MASKS = {
    "dense": mask_lib.ones(GAME),
    "sparse": {"generator": layer([True, True, False]), "discriminator": layer([False, True, True])},
}


@pytest.mark.parametrize("name", GAME_MASKS)
def test_snip_scores_each_player_by_its_own_loss(name):
    masks = GAME_MASKS[name]
    d, g = D * masks["discriminator"]["layer"]["kernel"], G * masks["generator"]["layer"]["kernel"]
    raw = [np.abs(weights * gradient) for weights, gradient in zip((d, g), game_gradients(d, g), strict=True)]
    expected = {
        player: layer(score / score.sum()) for player, score in zip(("discriminator", "generator"), raw, strict=True)
    }
    assert_scores_close(pruning.snip(GAME, masks, GAME_LOSSES, game_batches(masks)), expected, 1e-5)


@pytest.mark.parametrize("name", GAME_MASKS)
def test_grasps_hessian_is_that_of_a_players_own_kept_weights(name):
    masks = GAME_MASKS[name]
    keep = [masks[player]["layer"]["kernel"] for player in ("discriminator", "generator")]
    weights = [D * keep[0], G * keep[1]]
    raw = [
        own * (hessian @ (gradient * kept))
        for own, hessian, gradient, kept in zip(weights, (1.5 * A, B), game_gradients(*weights), keep, strict=True)
    ]
    expected = {
        player: layer(score / np.abs(score).sum())
        for player, score in zip(("discriminator", "generator"), raw, strict=True)
    }
    assert_scores_close(pruning.grasp(GAME, masks, GAME_LOSSES, game_batches(masks)), expected, 1e-5)


@pytest.mark.parametrize("name", GAME_MASKS)
def test_gradients_are_each_players_own_also_of_pruned_weights(name):
    masks = GAME_MASKS[name]
    d, g = D * masks["discriminator"]["layer"]["kernel"], G * masks["generator"]["layer"]["kernel"]
    expected = dict(zip(("discriminator", "generator"), map(layer, game_gradients(d, g)), strict=True))
    ours = pruning.gradients(GAME, masks, GAME_LOSSES, game_batches(masks))
    assert_scores_close(ours, expected, 1e-5)
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(ours))


@pytest.mark.parametrize("score", [pruning.snip, pruning.grasp, pruning.gradients])
def test_a_player_that_is_not_pruned_has_no_scores(score):
    masks = {**GAME_MASKS["dense"], "discriminator": layer([])}
    masks["discriminator"]["layer"]["kernel"] = None
    batches = game_batches(GAME_MASKS["dense"])
    ours = score(GAME, masks, GAME_LOSSES, batches)
    assert jax.tree.structure(ours) == jax.tree.structure(masks)
    both = score(GAME, GAME_MASKS["dense"], GAME_LOSSES, batches)
    np.testing.assert_array_equal(ours["generator"]["layer"]["kernel"], both["generator"]["layer"]["kernel"])


def test_a_loss_that_is_flat_scores_nothing():
    flat = {("generator", "discriminator"): lambda own, batch: 0.0 * sum(leaf.sum() for leaf in jax.tree.leaves(own))}
    for score in (pruning.snip, pruning.grasp):
        ours = score(GAME, GAME_MASKS["dense"], flat, game_batches(GAME_MASKS["dense"]))
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(ours))


# A network of two layers with a tanh between them, and numerical differentiation in float64.


def _network():
    rng = np.random.default_rng(0)
    sizes = {"hidden": (3, 5), "out": (5, 2)}
    return {
        name: {
            "kernel": rng.normal(size=shape).astype(np.float32),
            "bias": rng.normal(size=shape[1]).astype(np.float32),
        }
        for name, shape in sizes.items()
    }


NETWORK = {"network": _network()}
SPARSE = random_masks(NETWORK, 1, 0.7)
EXAMPLES = [np.random.default_rng(seed).normal(size=(2, 8, 3)).astype(np.float32) for seed in (1, 2, 3)]


def mean_squared_error(own, examples, tanh=jnp.tanh):
    inputs, targets = examples
    hidden, out = (own["network"][name] for name in ("hidden", "out"))
    y = tanh(inputs @ hidden["kernel"] + hidden["bias"]) @ out["kernel"] + out["bias"]
    return ((y - targets[:, :2]) ** 2).mean()


def exact(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def loss_in_float64(params):
    return np.mean([mean_squared_error(params, exact(examples), np.tanh) for examples in EXAMPLES])


def moved(params, name, index, amount):
    """`params` with one weight moved by `amount`."""

    def change(path, leaf):
        if mask_lib.path_name(path) != name:
            return leaf
        leaf = leaf.copy()
        leaf.ravel()[index] += amount
        return leaf

    return jax.tree_util.tree_map_with_path(change, params)


def differences(function, params, masks, step, scaled):
    """The derivatives of `function` with respect to the prunable weights, or to factors of them at 1 if `scaled`.

    They are central differences with this step.
    """

    def of_leaf(path, mask):
        name, result = mask_lib.path_name(path), np.zeros(mask.shape)
        for index, weight in enumerate(mask_lib.named_leaves(params)[name].ravel()):
            amount = step * weight if scaled else step
            high, low = (function(moved(params, name, index, sign * amount)) for sign in (1, -1))
            result.ravel()[index] = (high - low) / (2 * step)
        return result

    return jax.tree_util.tree_map_with_path(of_leaf, masks)


def kept_gradient(params, masks):
    """The gradient with respect to the kept weights, zero for pruned ones."""
    slopes = differences(loss_in_float64, params, masks, 1e-4, scaled=False)
    return jax.tree.map(np.multiply, slopes, masks)


def normalised(scores):
    total = absolute_sum(scores)
    return jax.tree.map(lambda leaf: leaf / total, scores)


NETWORK_MASKS = {"dense": mask_lib.ones(NETWORK), "sparse": SPARSE}
NETWORK_LOSSES = {("network",): mean_squared_error}


@pytest.mark.parametrize("name", NETWORK_MASKS)
def test_snip_is_the_change_of_the_loss_as_a_weight_is_scaled_away(name):
    # Lee et al. 2019, equation 4: |dL / dc_j| at c = 1, where the network reads c * w.
    masks = NETWORK_MASKS[name]
    effective = exact(mask_lib.apply(NETWORK, masks))
    slopes = differences(loss_in_float64, effective, masks, 1e-5, scaled=True)
    expected = normalised(jax.tree.map(abs, slopes))
    ours = pruning.snip(NETWORK, masks, NETWORK_LOSSES, EXAMPLES)
    assert_scores_close(ours, expected)
    for path, mask in mask_lib.named_leaves(masks).items():
        assert np.all(mask_lib.named_leaves(ours)[path][~mask] == 0)


@functools.cache
def numerical_grasp(name):
    """w * Hg, normalised: Hg is the difference of two gradients along g, with biases and pruned weights fixed."""
    masks, step = NETWORK_MASKS[name], 1e-3
    effective = exact(mask_lib.apply(NETWORK, masks))
    gradient = kept_gradient(effective, masks)

    def along(sign):
        there = jax.tree.map(
            lambda leaf, slope: leaf if slope is None else leaf + sign * step * slope,
            effective,
            gradient,
        )
        return differences(loss_in_float64, there, masks, 1e-4, scaled=False)

    product = jax.tree.map(lambda high, low: (high - low) / (2 * step), along(1), along(-1))
    return normalised(jax.tree.map(lambda leaf, change: None if change is None else leaf * change, effective, product))


@pytest.mark.parametrize("name", NETWORK_MASKS)
def test_grasps_product_is_the_change_of_the_gradient_along_itself(name):
    assert_scores_close(pruning.grasp(NETWORK, NETWORK_MASKS[name], NETWORK_LOSSES, EXAMPLES), numerical_grasp(name))


@pytest.mark.parametrize("name", NETWORK_MASKS)
def test_grasp_is_the_change_of_the_gradients_square(name):
    # Wang et al. 2020, equation 8, means that w * Hg is the derivative of |g(c * w)|^2 / 2 over c at 1.
    masks = NETWORK_MASKS[name]
    effective = exact(mask_lib.apply(NETWORK, masks))

    def half_square(params):
        return sum(np.square(leaf).sum() for leaf in jax.tree.leaves(kept_gradient(params, masks))) / 2

    expected = normalised(differences(half_square, effective, masks, 1e-3, scaled=True))
    assert_scores_close(pruning.grasp(NETWORK, masks, NETWORK_LOSSES, EXAMPLES), expected)


def test_grasp_prunes_the_weights_whose_published_score_is_highest():
    # Wang et al. 2020, algorithm 1: S(-w) = -w * Hg, and the weights with the highest scores are removed.
    masks = NETWORK_MASKS["dense"]
    published = np.concatenate([-leaf.ravel() for leaf in jax.tree.leaves(numerical_grasp("dense"))])
    pruned = pruning.prune(pruning.grasp(NETWORK, masks, NETWORK_LOSSES, EXAMPLES), masks, 0.4)
    gone = np.flatnonzero(~np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(pruned)]))
    assert set(gone) == set(np.argsort(-published)[: round(0.4 * published.size)])


# DCGAN in PyTorch, with the same weights, images and latents.

SIZES = dict(width=2, latent_size=3, image_size=16, channels=1)
BATCH, N_BATCHES, TEMPERATURE = 6, 3, 200.0


def gan_of(components, **options):
    """The GAN of these components with `config.objective` at its defaults but for `options`."""
    config = get_config()
    config.objective.update(options)
    return gan(components, config)


def _losses(components):
    objective = gan_of(components, real_label=0.9)

    def loss_of(player):
        # SNIP takes any loss, so both scores share the loss with GraSP's temperature and its compiled gradient.
        tempered = player.tempered(TEMPERATURE)

        def loss(own, batch):
            params = {**batch["params"], **own}
            return tempered(params, batch["batch_stats"], Batch(batch["images"], batch["keys"]))[0]

        return loss

    return {player.components: loss_of(player) for player in objective.players.values()}


@functools.cache
def dcgan():
    """`(params, batch statistics, losses)`."""
    components = models.NETWORKS["dcgan"].make(**SIZES)
    params, batch_stats = fresh(components)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params)
    return params, batch_stats, _losses(components)


def dcgan_batches(params, batch_stats):
    for number in range(N_BATCHES):
        images, keys = jax.random.split(jax.random.key(number))
        yield {
            "params": params,
            "batch_stats": batch_stats,
            "images": np.asarray(jax.random.uniform(images, (BATCH, 16, 16, 1), minval=-1)),
            "keys": jax.random.split(keys, BATCH),
        }


def torch_losses(torch, params, batch):
    """`{player: loss}` in PyTorch; `params` are nested dicts of tensors in our layouts."""
    functional = torch.nn.functional

    def stage(x, tree, kind, activation):
        kernel, bias = tree["conv"]["kernel"], tree["conv"].get("bias")
        if kind == "transposed":
            x = functional.conv_transpose2d(x, kernel.permute(2, 3, 0, 1).contiguous(), bias, stride=2, padding=1)
        elif kind == "unproject":
            x = functional.conv_transpose2d(x, kernel.permute(2, 3, 0, 1).contiguous(), bias)
        else:
            stride, padding = (2, 1) if kind == "conv" else (1, 0)
            x = functional.conv2d(x, kernel.permute(3, 2, 0, 1).contiguous(), bias, stride=stride, padding=padding)
        if "norm" in tree:
            x = functional.batch_norm(x, None, None, tree["norm"]["scale"], tree["norm"]["bias"], training=True)
        return activation(x)

    def generate(tree, latents):
        x = stage(latents, tree["unproject"], "unproject", torch.relu)
        x = stage(x, tree["up_8"], "transposed", torch.relu)
        return stage(x, tree["up_16"], "transposed", torch.tanh)

    def judge(tree, images):
        x = stage(images, tree["down_16"], "conv", torch.relu)
        x = stage(x, tree["down_8"], "conv", torch.relu)
        return stage(x, tree["project"], "project", lambda x: x).flatten() / TEMPERATURE

    latents = [np.asarray(jax.random.normal(key, (SIZES["latent_size"],)), np.float64) for key in batch["keys"]]
    fakes = generate(params["generator"], torch.tensor(np.stack(latents))[:, :, None, None])
    real = torch.tensor(batch["images"].astype(np.float64).transpose(0, 3, 1, 2))
    cross_entropy = functional.binary_cross_entropy_with_logits
    ones = torch.ones(BATCH, dtype=torch.float64)
    on_real, on_fakes = judge(params["discriminator"], real), judge(params["discriminator"], fakes)
    return {
        "discriminator": cross_entropy(on_real, 0.9 * ones) + cross_entropy(on_fakes, 0 * ones),
        "generator": cross_entropy(on_fakes, ones),
    }


@functools.cache
def torch_scores(score, name):
    """The scores of `dcgan` by PyTorch, in float64."""
    torch = pytest.importorskip("torch")
    params, batch_stats, _ = dcgan()
    masks = dcgan_masks()[name]
    effective = mask_lib.apply(params, masks)
    tensors = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf, np.float64), requires_grad=True), effective)
    totals = {"discriminator": 0, "generator": 0}
    for batch in dcgan_batches(params, batch_stats):
        for player, loss in torch_losses(torch, tensors, batch).items():
            totals[player] = totals[player] + loss / N_BATCHES
    result = {}
    for player, loss in totals.items():
        named, kept = mask_lib.named_leaves(tensors[player]), mask_lib.named_leaves(masks[player])
        kernels = [named[path] for path in kept]
        gradients = torch.autograd.grad(loss, kernels, create_graph=True, retain_graph=True)
        if score == "snip":
            raw = [(kernel * gradient).abs() for kernel, gradient in zip(kernels, gradients, strict=True)]
        else:
            # The gradient of g'v with v held constant is Hv.
            held = [
                gradient.detach() * torch.tensor(mask) for gradient, mask in zip(gradients, kept.values(), strict=True)
            ]
            along = sum((gradient * vector).sum() for gradient, vector in zip(gradients, held, strict=True))
            products = torch.autograd.grad(along, kernels, retain_graph=True)
            raw = [kernel * product for kernel, product in zip(kernels, products, strict=True)]
        total = sum(leaf.abs().sum() for leaf in raw)
        leaves = {path: (leaf / total).detach().numpy() for path, leaf in zip(kept, raw, strict=True)}
        result |= {f"{player}/{path}": leaf for path, leaf in leaves.items()}
    return result


@functools.cache
def dcgan_masks():
    params = dcgan()[0]
    return {"dense": mask_lib.ones(params), "sparse": random_masks(params, 0, 0.5)}


@functools.cache
def dcgan_scores(score, name):
    params, batch_stats, losses = dcgan()
    masks = dcgan_masks()[name]
    batches = list(dcgan_batches(mask_lib.apply(params, masks), batch_stats))
    return pruning.SCORES[score].weights(params, masks, losses, batches)


scored = pytest.mark.parametrize(("score", "name"), [(s, n) for s in ("snip", "grasp") for n in ("dense", "sparse")])


@scored
def test_scores_of_a_dcgan_are_those_of_pytorch(score, name):
    ours = mask_lib.named_leaves(dcgan_scores(score, name))
    expected = torch_scores(score, name)
    assert_scores_close(ours, expected)


@scored
def test_scores_of_each_loss_sum_to_1_and_are_0_where_pruned(score, name):
    ours, masks = dcgan_scores(score, name), dcgan_masks()[name]
    assert jax.tree.structure(ours) == jax.tree.structure(masks)
    for player in ours:
        assert absolute_sum(ours[player]) == pytest.approx(1, rel=1e-5)
        for path, mask in mask_lib.named_leaves(masks[player]).items():
            leaf = mask_lib.named_leaves(ours[player])[path]
            assert np.all(leaf[~mask] == 0)
            assert np.any(leaf[mask] != 0), path


# GraSP's temperature.


class Linear(nn.Module):
    """One matrix product, to outputs of the shape `shape`."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x, train, labels=None):
        y = nn.Dense(int(np.prod(self.shape)), name="layer")(x.reshape(x.shape[0], -1))
        return y.reshape(-1, *self.shape)


@pytest.mark.parametrize("name", LOSSES)
def test_a_tempered_loss_is_that_of_outputs_over_the_temperature(name):
    components = {
        "generator": models.Component(Linear((4, 4, 1)), (2,)),
        "discriminator": models.Component(Linear((1,)), (4, 4, 1)),
    }
    params, batch_stats = fresh(components)
    # The outputs are linear in the discriminator's parameters.
    cooler = {**params, "discriminator": jax.tree.map(lambda leaf: leaf / 8, params["discriminator"])}
    images = jax.random.uniform(jax.random.key(1), (5, 4, 4, 1), minval=-1)
    keys = jax.random.split(jax.random.key(2), 5)
    players, batch = gan_of(components, loss=name).players.values(), Batch(images, keys)

    @jax.jit
    def losses():
        tempered, plain = [player.tempered(8.0) for player in players], [player.loss for player in players]
        return [
            [loss(trees, batch_stats, batch)[0] for loss in losses]
            for losses, trees in ((tempered, params), (plain, cooler), (plain, params))
        ]

    ours, divided, undivided = np.array(losses())
    np.testing.assert_allclose(ours, divided, rtol=1e-5)
    assert np.all(np.abs(ours - undivided) > 1e-2 * np.abs(undivided))


# SynFlow.

TINY = dict(width=4, latent_size=3, image_size=16, channels=1)
CHAINS = {
    "dcgan": ("dcgan", {}),
    "dcgan_spectral_norm": ("dcgan", {"discriminator_norm": "spectral"}),
    "sngan_layer_norm": ("sngan", {"discriminator_norm": "layer"}),
    "conv_vae": ("conv_vae", {}),
    "linear_ae": ("linear_ae", {"width": 16}),
}
OTHERS = {
    "sngan_resnet": ("sngan_resnet", {"classes": 3}),
    "sagan": ("sagan", {"image_size": 8}),
    "vq_vae": ("vq_vae", {"codes": 5}),
}


@functools.cache
def linear(name):
    """`(fresh params, flows)`."""
    model, changes = (CHAINS | OTHERS)[name]
    components = models.NETWORKS[model].make(**TINY | changes)
    params, batch_stats = fresh(components)
    return params, models.flows(components, batch_stats)


@pytest.mark.parametrize("name", CHAINS)
def test_synaptic_flow_is_conserved_so_each_layers_scores_sum_to_1(name):
    # Tanaka et al. 2020, theorem 1: for all activations, norms and masks.
    params, flows = linear(name)
    for masks in (mask_lib.ones(params), random_masks(params, 0, 0.5)):
        scores = mask_lib.named_leaves(pruning.synflow(params, masks, flows))
        assert scores.keys() == mask_lib.named_leaves(masks).keys()
        for path, mask in mask_lib.named_leaves(masks).items():
            assert scores[path].sum(dtype=np.float64) == pytest.approx(1, rel=1e-4), path
            assert np.all(scores[path][~mask] == 0)
            assert np.all(scores[path] >= 0)


@pytest.mark.parametrize("name", ["dcgan", "conv_vae"])
def test_synaptic_flow_ignores_signs(name):
    params, flows = linear(name)
    masks = mask_lib.ones(params)
    mirrored = jax.tree.map(np.negative, params)
    expected = pruning.synflow(params, masks, flows)
    jax.tree.map(np.testing.assert_array_equal, pruning.synflow(mirrored, masks, flows), expected)


def by_products(kernels, biases):
    """|W| dR/d|W| / R of the layers y = |W|'x + |b| for x = ones and R = the sum of the last y, in float64."""
    kernels, biases = ([np.abs(np.asarray(leaf, np.float64)) for leaf in leaves] for leaves in (kernels, biases))
    reaching = [np.ones(kernels[0].shape[0])]
    for kernel, bias in zip(kernels, biases, strict=True):
        reaching.append(reaching[-1] @ kernel + bias)
    leaving = [np.ones(kernels[-1].shape[1])]
    for kernel in reversed(kernels[1:]):
        leaving.insert(0, kernel @ leaving[0])
    total = reaching.pop().sum()
    ends = zip(kernels, reaching, leaving, strict=True)
    return [kernel * np.outer(before, after) / total for kernel, before, after in ends]


def test_synflow_of_two_layers_by_hand():
    # ones |W1| |W2| ones with |W1| = [[1, 2], [3, 0]] and |W2| = [[1], [4]]: R = 4 * 1 + 2 * 4 = 12.
    first, second = np.float32([[1, -2], [3, 0]]), np.float32([[-1], [4]])
    params = {"encoder": {"a": {"kernel": first}, "b": {"kernel": second}}}
    flows = {"encoder": lambda own: (jnp.ones(2) @ own["a"]["kernel"] @ own["b"]["kernel"]).sum()}
    scores = pruning.synflow(params, mask_lib.ones(params), flows)["encoder"]
    np.testing.assert_allclose(scores["a"]["kernel"], np.array([[1, 8], [3, 0]]) / 12, rtol=1e-6)
    np.testing.assert_allclose(scores["b"]["kernel"], np.array([[4], [8]]) / 12, rtol=1e-6)


@pytest.mark.parametrize("biases", [False, True])
def test_synflow_of_fully_connected_networks_by_matrix_products(biases):
    params, flows = linear("linear_ae")
    if biases:  # As in a trained network: what they add flows on, but through no weight before them.
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    masks = random_masks(params, 0, 0.6)
    scores = pruning.synflow(params, masks, flows)
    orders = {"encoder": ("down_1", "down_2", "down_3", "project"), "decoder": ("unproject", "up_3", "up_2", "up_1")}
    for component, order in orders.items():
        effective = mask_lib.apply(params, masks)[component]
        expected = by_products(*([effective[name][leaf] for name in order] for leaf in ("kernel", "bias")))
        for name, leaf in zip(order, expected, strict=True):
            np.testing.assert_allclose(scores[component][name]["kernel"], leaf, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", OTHERS)
def test_synflow_scores_every_layer_of_other_networks(name):
    params, flows = linear(name)
    masks = mask_lib.ones(params)
    scores = pruning.synflow(params, masks, flows)
    assert jax.tree.structure(scores) == jax.tree.structure(masks)
    for path, leaf in mask_lib.named_leaves(scores).items():
        assert np.all(np.isfinite(leaf) & (leaf >= 0)), path
        # The output of attention is multiplied by gamma, which is 0 at first.
        assert np.any(leaf > 0) != ("attention" in path), path
    for component in ("generator", "encoder", "decoder"):
        if component in params:
            entrance = [leaf for path, leaf in mask_lib.named_leaves(scores).items() if path.startswith(component)]
            assert max(leaf.sum() for leaf in entrance) == pytest.approx(1, rel=1e-4)


def test_all_classes_flow_through_a_conditional_network():
    params, flows = linear("sngan_resnet")
    ((path, leaf),) = (
        (path, leaf)
        for path, leaf in mask_lib.named_leaves(pruning.synflow(params, mask_lib.ones(params), flows)).items()
        if path.endswith("embedding")
    )
    assert leaf.shape[0] == 3
    assert np.all(leaf.sum(axis=1) > 0), path


def test_a_codebook_is_a_layer_by_itself():
    params, flows = linear("vq_vae")
    codes = np.abs(params["codebook"]["embedding"])
    scores = pruning.synflow(params, mask_lib.ones(params), flows)
    np.testing.assert_allclose(scores["codebook"]["embedding"], codes / codes.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", ["dcgan", "conv_vae"])
def test_synflow_in_100_steps_collapses_no_layer_at_99_percent(name):
    params, flows = linear(name)
    masks = mask_lib.ones(params)
    n_steps, density = pruning.SCORES["synflow"].steps, 0.01
    assert n_steps == 100  # Tanaka et al. 2020, algorithm 1.
    for step in range(1, n_steps + 1):
        masks = pruning.prune(pruning.synflow(params, masks, flows), masks, 1 - density ** (step / n_steps))
    weights, kept = mask_lib.counts(masks)
    assert kept == weights - round(0.99 * weights)
    assert all(layer.kept > 0 for layer in mask_lib.layer_counts(masks).values())
    # The weights left in each layer are connected from input to output.
    scores = mask_lib.named_leaves(pruning.synflow(params, masks, flows))
    for path, leaf in scores.items():
        assert leaf.sum(dtype=np.float64) == pytest.approx(1, rel=1e-4), path
