"""Tickets as files: their size, any tree in them, how they open, and that training from one is the run's."""

import collections
import contextlib
import dataclasses
import json
import re
from typing import NamedTuple

import chex
import equinox as eqx
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, finish, tiny, without_references
from flax import nnx
from test_tensor_files import assert_same

import jaxtickets as jt
from jaxtickets import masks as mask_lib
from jaxtickets import models, opening, sample, tensor_files, tickets, trained
from jaxtickets.errors import UserError
from jaxtickets.experiments import ticket as ticket_method
from jaxtickets.metrics import generation
from jaxtickets.models import NETWORKS
from jaxtickets.optimizers import make_optimizers
from jaxtickets.runs import Networks, Setup
from jaxtickets.tickets import retraining
from jaxtickets.tickets.content import NAME
from jaxtickets.train import TrainState, init_state

VERDICT = {"metric": "fd_digits", "value": 12.5, "dense": 12.0, "better": "lower", "tolerance": 0.1, "winning_round": 4}


def state_of(networks, seed=0):
    """A train state with random parameters and the moments of the initialisation; nothing is compiled."""
    rng = np.random.default_rng(seed)

    def random(shapes):
        return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)

    optimizers = make_optimizers(networks.objective, networks.config.optimizer)
    shapes = jax.eval_shape(lambda: init_state(networks.objective, optimizers, 0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros.replace(params=random(shapes.params), batch_stats=jax.tree.map(np.abs, random(shapes.batch_stats)))


def random_masks(networks, density, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda mask: rng.random(mask.shape) < density, networks.dense_masks)


def written(path, config, density=0.3, is_trained=True, **options):
    """`(networks, masks, point)` of a ticket file of random weights."""
    networks = Networks(config)
    masks, point = random_masks(networks, density), state_of(networks)
    metadata = {
        "config": networks.json_config,
        "verdict": VERDICT,
        "command": "python -m jaxtickets.main",
        "versions": {},
    }
    own = None
    if is_trained:
        other = state_of(networks, 1)
        params = jax.tree.map(lambda leaf: 0.3 * leaf, other.params)
        own = trained.Trained(params, other.batch_stats, networks.json_network)
    names = networks.axis_names.params
    given = {"trained": own, "metadata": metadata, "axis_names": names, "network": networks.json_network} | options
    tickets.save_ticket(path, masks, point, **given)
    return networks, masks, point


def config_of(network, data_directory, **changes):
    name = {"gan": "gan_digits", "vae": "vae_digits", "autoencoder": "ae_digits"}.get(NETWORKS[network].objective)
    config = tiny(name or "ae_digits", data_directory)
    config.objective.name = NETWORKS[network].objective
    config.model.name = network
    config.model.image_size = NETWORKS[network].image_sizes[0]
    config.eval.metrics = ()
    config.update_from_flattened_dict(changes)
    return config


def size_of(tree):
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


# Size.


QUICK = ("dcgan", "linear_vae")


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NETWORKS]
)
def test_a_file_is_no_larger_than_what_is_kept_a_bit_per_weight_and_4_kib(network, data_directory, tmp_path):
    config = config_of(network, data_directory, **{"model.width": 8})
    path = tmp_path / NAME
    for is_trained in (False, True):
        networks, masks, point = written(path, config, is_trained=is_trained)
        weights, kept = mask_lib.counts(masks)
        tree = size_of((point.params, point.batch_stats)) - 4 * (weights - kept)
        assert path.stat().st_size <= (1 + is_trained) * (tree + weights / 8 + 4096)


def test_moments_are_kept_where_weights_are_and_left_out_on_request(data_directory, tmp_path):
    config = config_of("dcgan", data_directory, **{"model.width": 8})
    networks, masks, point = written(tmp_path / "k0", config, is_trained=False)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), point.opt_state)
    sizes = {}
    for moments in (True, False):
        tickets.save_ticket(tmp_path / "k", masks, point.replace(opt_state=ones), moments=moments)
        sizes[moments] = (tmp_path / "k").stat().st_size
    weights, kept = mask_lib.counts(masks)
    assert sizes[True] <= sizes[False] + size_of(point.opt_state) - 2 * 4 * (weights - kept) + 4096
    chex.assert_trees_all_equal(tickets.load_state(tmp_path / "k", point.replace(opt_state=ones)).opt_state, ones)
    expected = tickets.load_state(tmp_path / "k0", point)
    chex.assert_trees_all_equal(expected, point.replace(params=mask_lib.apply(point.params, masks)))


def test_equal_kept_numbers_under_other_masks_are_other_arrays(tmp_path):
    params = {name: np.ones((2, 2), np.float32) for name in "abc"}
    masks = {"a": np.eye(2) > 0, "b": np.eye(2) == 0, "c": None}
    point = TrainState(np.int32(0), np.uint32(1), params, {}, {"p": {"mu": dict(params)}}, {}, {})
    tickets.save_ticket(tmp_path / NAME, masks, point)
    state = tickets.load_state(tmp_path / NAME, point)
    for tree in (state.params, state.opt_state["p"]["mu"]):
        for name, expected in (("a", np.eye(2)), ("b", 1 - np.eye(2)), ("c", np.ones((2, 2)))):
            np.testing.assert_array_equal(tree[name], expected)


# Trees.


class Pair(NamedTuple):
    weight: jax.Array
    bias: jax.Array


@flax.struct.dataclass
class Block:
    kernel: jax.Array
    scale: float
    name: str = flax.struct.field(pytree_node=False, default="block")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Plain:
    kernel: np.ndarray
    inner: list


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


TREES = {
    "dict": lambda: {"a": {"kernel": random(3, 4), "bias": None}, "b/c": {"kernel": random(2)}},
    "list": lambda: [random(3, 2), (random(4), [])],
    "array": lambda: random(5, 2),
    "named tuple": lambda: (Pair(random(3, 2), random(2)), Pair(jnp.ones((2, 2)), jnp.zeros(2))),
    "flax dataclass": lambda: {"block": Block(random(4, 3), 0.5)},
    "dataclass": lambda: Plain(random(3, 3), [random(2), 3, True]),
    "ordered": lambda: collections.OrderedDict(z=random(2, 2), a=random(3)),
    "numbers": lambda: {0: random(2, 2), 7: random(2)},
    "types": lambda: [jnp.ones((2, 3), jnp.bfloat16), np.arange(6).reshape(2, 3), np.float16([1]), np.complex64([1j])],
    "keys": lambda: {"kernel": jnp.ones((2, 2)), "key": jax.random.key(3)},
    "nnx": lambda: nnx.state(nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(1)))),
    "equinox": lambda: pytest.importorskip("equinox").nn.MLP(3, 2, 4, 1, key=jax.random.key(0)),
}


def is_weight(leaf):
    return isinstance(leaf, np.ndarray | jax.Array) and jnp.ndim(leaf) == 2 and leaf.dtype != bool


@pytest.mark.parametrize("name", TREES)
def test_any_tree_comes_back_with_its_structure(name, tmp_path):
    params = TREES[name]()
    masks = jax.tree.map(lambda leaf: np.indices(leaf.shape).sum(0) % 2 == 0 if is_weight(leaf) else None, params)
    jt.save_ticket(tmp_path / NAME, masks, params, trained=params, metadata={"accuracy": 0.9})
    ticket = jt.load_ticket(tmp_path / NAME, like=params)
    assert jax.tree.structure(ticket.params) == jax.tree.structure(params)
    assert jax.tree.structure(ticket.masks) == jax.tree.structure(masks)
    jax.tree.map(np.testing.assert_array_equal, ticket.masks, masks)
    for found in (ticket.params, ticket.trained.params):
        for ours, theirs, mask in zip(*leaves_and_masks(found, params, masks), strict=True):
            assert type(ours) is type(theirs)
            if callable(theirs):
                assert ours is theirs
            elif jnp.issubdtype(jnp.asarray(theirs).dtype, jax.dtypes.prng_key):
                assert jnp.all(ours == theirs)
            else:
                whole = np.asarray(theirs) if mask is None else np.asarray(theirs) * mask.astype(theirs.dtype)
                assert np.asarray(ours).dtype == whole.dtype
                np.testing.assert_array_equal(ours, whole)
    assert ticket.metadata == {"accuracy": 0.9} and ticket.path == tmp_path / NAME


def leaves_and_masks(found, params, masks):
    """The leaves of both trees, and the mask of each or None."""
    by_name = mask_lib.named_leaves(masks)
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return jax.tree.leaves(found), [leaf for _, leaf in paths], [by_name.get(mask_lib.path_name(p)) for p, _ in paths]


def test_without_like_trees_are_dictionaries_lists_and_tuples(tmp_path):
    params = {"layers": [Pair(random(3, 2), random(2))], "scale": 0.5, "none": None}
    masks = {"layers": [Pair(np.eye(3, 2) > 0, None)], "scale": None, "none": None}
    jt.save_ticket(str(tmp_path / NAME), masks, params)
    ticket = jt.load_ticket(str(tmp_path / NAME))
    weight = params["layers"][0].weight * np.eye(3, 2, dtype=np.float32)
    expected = {
        "layers": [{"weight": weight, "bias": params["layers"][0].bias}],
        "scale": np.float64(0.5),
        "none": None,
    }
    assert_same(ticket.params, expected)
    assert ticket.sparsity == pytest.approx(4 / 6) and ticket.trained is None and ticket.batch_stats == {}


def test_a_tree_that_does_not_fit_is_one_line(tmp_path):
    params, path = {"a": random(3, 2)}, tmp_path / NAME
    masks = {"a": np.eye(3, 2) > 0}
    jt.save_ticket(path, masks, params)
    for like in ({"b": params["a"]}, {"a": random(2, 3)}, {"a": [params["a"]]}, [params["a"]]):
        with pytest.raises(UserError, match="of the ticket and of `like` differ") as caught:
            jt.load_ticket(path, like=like)
        assert "\n" not in str(caught.value)
    for wrong, match in (
        ({"a": np.eye(2) > 0}, r"^masks: that of a has the shape \(2, 2\); allowed is \(3, 2\), as in params$"),
        ({"a": np.eye(3, 2)}, "^masks: that of a is of float64; allowed is bool, such as mask != 0$"),
        ({"b": masks["a"]}, r"^masks: is built unlike params \(params has no b\); allowed is a tree such as"),
        ({"b": np.ones((3, 2), bool)}, r"^masks: is built unlike params \(params has no b\); allowed is a tree"),
        ({}, r"^masks: is built unlike params \(there is no a in it\); allowed is a tree such as jt.masks.ones\("),
        (None, r"^masks: is built unlike params \("),
        ({"a": None}, "nothing is pruned is no ticket; allowed are masks that prune"),
    ):
        with pytest.raises(UserError, match=match):
            jt.save_ticket(path, wrong, params)
    for wrong, match in (
        ({"trained": {"b": params["a"]}}, "^trained: is built unlike params"),
        ({"trained": {"params": params}}, r"^trained: is built unlike params \(params has no params/a\)"),
        ({"trained": (params, {"loss": 1.0})}, r"^trained: is built unlike params \(params has no 0/a\)"),
        (
            {"trained": {"a": random(3, 3)}},
            r"^trained: a has the shape \(3, 3\); allowed is the shape \(3, 2\), as in params$",
        ),
        ({"trained": trained.Trained({"a": random(2, 2)}, {}, {})}, r"^trained: a has the shape \(2, 2\); allowed is"),
        ({"axis_names": {"a": "ab"}}, "^axis_names: that of a is 'ab'; allowed is a tuple"),
        ({"network": {"model": {}}}, "^network: .* allowed is what Trained.network is: model, channels and classes"),
        ({"metadata": [1]}, "^metadata: .* allowed is a dictionary"),
        ({"path": tmp_path}, "^path=.*: is a directory; allowed is a file"),
        ({"path": None}, "^path=None: allowed is a path"),
    ):
        with pytest.raises(UserError, match=match):
            jt.save_ticket(**{"path": path, "masks": masks, "params": params} | wrong)
    with pytest.raises(UserError, match="params/a: is an array of complex128; allowed are bool"):
        jt.save_ticket(path, masks, {"a": params["a"].astype(complex)})
    with pytest.raises(UserError, match="does not tell the config and the round of its run"):
        jt.load_ticket(path).sample(2)


def test_leaves_that_are_no_numbers_may_be_in_one_of_parameters_and_trained_ones_alone(tmp_path):
    model = eqx.nn.MLP(3, 2, 8, 1, key=jax.random.key(0))  # Its activations are leaves.
    arrays = eqx.filter(model, eqx.is_array)
    masks = jax.tree.map(lambda leaf: np.arange(leaf.size).reshape(leaf.shape) % 2 == 0, arrays)
    for params, own in ((arrays, model), (model, arrays), (arrays, arrays), (model, model)):
        jt.save_ticket(tmp_path / "t.safetensors", masks, params, trained=own)
        found = jt.load_ticket(tmp_path / "t.safetensors", like=model)
        assert_same(eqx.filter(found.trained.params, eqx.is_array), jt.masks.apply(arrays, masks))
    turned = jax.tree.map(lambda leaf: leaf.T if eqx.is_array(leaf) else leaf, model)
    with pytest.raises(UserError, match="^trained: layers/0/weight has the shape"):
        jt.save_ticket(tmp_path / "t.safetensors", masks, arrays, trained=turned)


def test_a_file_that_is_there_is_replaced_and_stays_if_the_new_one_is_refused(tmp_path):
    path = tmp_path / NAME
    for shape in ((3, 2), (5, 4)):
        jt.save_ticket(path, {"a": np.eye(*shape) > 0}, {"a": random(*shape)})
        assert jt.load_ticket(path).params["a"].shape == shape
    with pytest.raises(UserError, match="nothing is pruned"):
        jt.save_ticket(path, {"a": np.ones((2, 2), bool)}, {"a": random(2, 2)})
    assert jt.load_ticket(path).params["a"].shape == (5, 4)


def test_a_newer_format_and_a_directory_without_a_ticket_are_told_as_such(tmp_path):
    tensor_files.write(tmp_path / "newer", "ticket", {}, {"format": "jaxtickets 4"})
    with pytest.raises(
        UserError, match="newer: written by a newer version, as 'jaxtickets 4'; .* 'jaxtickets 3': update"
    ):
        jt.load_ticket(tmp_path / "newer")
    run = tmp_path / "run"
    run.mkdir()
    for made, match in (
        ({}, "allowed is a ticket file, the directory of a card, or that of a run with a ticket$"),
        ({"config.json": {"config": {}}}, "its run has no verdict yet$"),
        ({"verdict.json": {"winning_round": None}}, "its verdict names no round$"),
        ({"verdict.json": {"winning_round": 3}}, "the file of round 3 is gone$"),
        ({"seed_0/ticket.safetensors": {}}, f"that of one seed is {run}/seed_0/ticket.safetensors$"),
        ({"seed_1/ticket.safetensors": {}}, rf"those of its seeds are {run}/seed_\*/ticket.safetensors$"),
    ):
        for name, content in made.items():
            (run / name).parent.mkdir(exist_ok=True)
            (run / name).write_text(json.dumps(content))
        with pytest.raises(UserError, match=f"run: is a directory without ticket.safetensors; {match}"):
            jt.load_ticket(run)


def test_a_ticket_is_shown_in_a_line_without_its_arrays(gan, tmp_path):
    params, masks = {"a": random(300, 200)}, {"a": np.eye(300, 200) > 0}
    jt.save_ticket(tmp_path / NAME, masks, params, trained=params)
    assert repr(jt.load_ticket(tmp_path)) == (
        f"Ticket('{tmp_path / NAME}': 99.67% of 60,000 prunable weights pruned, own network, trained weights)"
    )
    assert repr(jt.load_ticket(gan)).endswith("weights pruned, dcgan, trained weights, fd_digits 12.5)")


def test_numbers_of_numpy_and_jax_are_metadata_and_other_objects_are_one_line(tmp_path):
    params, masks = {"a": random(3, 2)}, {"a": np.eye(3, 2) > 0}
    given = {
        "accuracy": np.float32(0.5),
        "runs": [np.int64(3), (jnp.float32(2), np.bool_(True))],
        "of": {"n": np.array(7), 3: float("nan")},
    }
    jt.save_ticket(tmp_path / NAME, masks, params, metadata=given)
    metadata = jt.load_ticket(tmp_path / NAME).metadata
    assert metadata == {"accuracy": 0.5, "runs": [3, [2.0, True]], "of": {"n": 7, "3": None}}
    for wrong, match in (
        ({"curve": np.ones(3)}, r"metadata\['curve'\]: is of the type ndarray; allowed are texts, numbers"),
        ({"of": [{"when": np.datetime64("2020-01-01")}]}, r"metadata\['of'\]\[0\]\['when'\]: is of the type date;"),
        ({"key": jax.random.key(0)}, r"metadata\['key'\]: is of the type "),
        ({"z": np.complex64(1j)}, r"metadata\['z'\]: is of the type complex;"),
        ({(1, 2): 3}, r"metadata: has the key \(1, 2\); allowed are texts"),
    ):
        with pytest.raises(UserError, match=match):
            jt.save_ticket(tmp_path / "new", masks, params, metadata=wrong)
    assert not (tmp_path / "new").exists()


# Opening.


@pytest.fixture(scope="module")
def gan(data_directory, tmp_path_factory):
    path = tmp_path_factory.mktemp("gan") / NAME
    written(path, config_of("dcgan", data_directory, **{"eval.batch_size": 16}))
    return path


def test_a_ticket_samples_as_the_runs_metrics_do(gan, data_directory):
    ticket = jt.load_ticket(gan)
    images = ticket.sample(5)
    assert images.shape == (5, 16, 16, 1) and images.dtype == np.float32 and 0.1 < np.abs(images).max() <= 1
    opened = opening.open_ticket(gan)
    keys = generation.sample(opened.objective, opened.params, opened.batch_stats, 0, np.arange(5, dtype=np.int32))
    np.testing.assert_allclose(images, keys, atol=1e-5)
    assert np.abs(ticket.sample(2, seed=1) - images[:2]).max() > 1e-3
    chex.assert_trees_all_equal(ticket.trained.params, mask_lib.apply(ticket.trained.params, ticket.masks))
    latents = random(3, 4)
    assert ticket.apply("generator", latents).shape == (3, 16, 16, 1)
    with pytest.raises(UserError, match="component 'decoder': allowed are generator, discriminator"):
        ticket.apply("decoder", latents)
    with pytest.raises(UserError, match=r"inputs: has the shape \(4,\); allowed is \[batch, \d+\]"):
        ticket.apply("generator", latents[0])
    with pytest.raises(UserError, match="'gan' can't reconstruct"):
        ticket.reconstruct(images)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", None, True, np.nan, [2]])
def test_a_number_of_samples_that_can_not_be_is_refused_in_a_line(gan, n):
    with pytest.raises(UserError, match=r"^n: .*: allowed is a whole number of at least 1$"):
        jt.load_ticket(gan).sample(n)
    if n != 0:
        with pytest.raises(UserError, match=r"^seed: .*: allowed is a whole number of at least 0 and less than 42949"):
            jt.load_ticket(gan).sample(2, seed=n if n is not None else 1 << 32)


def test_sampling_again_compiles_nothing(gan):
    ticket, compiled = jt.load_ticket(gan), []

    def listen(event, duration, **others):
        if "compile" in event:
            compiled.append(event)

    first = ticket.sample(3)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        again, other = ticket.sample(3), ticket.sample(3, seed=1)
        assert compiled == []
        ticket.sample(4)
        assert compiled != []  # The listener hears.
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_classes_that_a_network_does_not_have_are_refused(gan, data_directory, tmp_path):
    written(tmp_path / NAME, config_of("resnet_dcgan", data_directory, **{"model.conditional": True}))
    ticket = jt.load_ticket(tmp_path)
    for labels in ([12], [-1], 10, [], [0.5], [True], [[1, 2]], [1, [2]], "1;2", np.arange(11)):
        with pytest.raises(UserError, match=r"^labels=.*: allowed are classes from 0 to 9, as in 0,3,5$"):
            ticket.sample(2, labels=labels)
    with pytest.raises(UserError, match="labels=12: allowed are classes from 0 to 9"):
        ticket.apply("generator", random(1, 4), [12])
    np.testing.assert_array_equal(ticket.sample(3, labels=3), ticket.sample(3, labels=[3, 3]))
    for same in (3, [3], "3", np.int64(3), np.uint8([3]), jnp.array([3]), [jnp.int32(3)]):
        np.testing.assert_array_equal(sample.labels_of(same, ticket.opened.objective, "labels"), np.int32([3]))
    for labels in (3, [0, 1]):
        with pytest.raises(UserError, match="the network is not conditional; allowed is no labels"):
            jt.load_ticket(gan).sample(2, labels=labels)


def test_a_component_is_compiled_once(gan, monkeypatch):
    ticket, made = jt.load_ticket(gan), []
    apply = models.apply
    monkeypatch.setattr(models, "apply", lambda *given: (made.append(given[3]), apply(*given))[1])
    images = [ticket.apply("generator", random(3, 4)) for _ in range(3)]
    ticket.apply("discriminator", images[0])
    ticket.apply("discriminator", images[1])
    np.testing.assert_array_equal(images[0], images[2])
    assert made == ["generator", "discriminator"]


def test_without_trained_weights_a_line_says_that_the_rewind_point_is_used(data_directory, tmp_path, capsys):
    config = config_of("linear_ae", data_directory)
    written(tmp_path / NAME, config, is_trained=False)
    ticket = jt.load_ticket(tmp_path)
    images = np.uint8(np.arange(2 * 28 * 28).reshape(2, 28, 28, 1) % 256)
    again = ticket.reconstruct(images)
    assert again.shape == images.shape and again.dtype == np.float32
    np.testing.assert_array_equal(again, ticket.reconstruct(np.float32(images) / 127.5 - 1))
    assert capsys.readouterr().err.count("no trained weights; the network is that of the rewind point") == 1
    for wrong, match in (
        ("x", r"has the shape \(\); allowed is \[batch, 28, 28, 1\]$"),
        (images[0], r"has the shape \(28, 28, 1\); allowed is \[batch, 28, 28, 1\]$"),
        (images[:, :14], r"has the shape \(2, 14, 28, 1\); allowed is \[batch, 28, 28, 1\]$"),
        (images.astype(int), "are of int64; allowed are uint8 from 0 to 255, or float from -1 to 1$"),
        (np.float32(images), "are float32 from 0 to 255; allowed are uint8 from 0 to 255, or float from -1 to 1$"),
        (images * np.nan, "are float32 from nan to nan; allowed are"),
    ):
        with pytest.raises(UserError, match=f"^images: {match}"):
            ticket.reconstruct(wrong)
    with pytest.raises(UserError, match=r"^inputs: has the shape \(2, 14, 28, 1\); allowed is \[batch, 28, 28, 1\]$"):
        ticket.apply("encoder", images[:, :14])
    with pytest.raises(UserError, match="'autoencoder' can't be sampled"):
        ticket.sample(2)


def test_the_lines_of_the_documentation_read_a_file(gan, data_directory, tmp_path):
    text = (ROOT / "docs" / "tickets.md").read_text()
    lines = re.search(r"With safetensors alone.*?```python\n(.*?)```", text, re.DOTALL)[1]
    written(tmp_path / NAME, config_of("dcgan", data_directory))
    with contextlib.chdir(tmp_path):
        exec(lines, found := {})
    ticket = jt.load_ticket(tmp_path)
    arrays, prefix = found["arrays"], "trained/params/"
    ours = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    theirs = mask_lib.named_leaves(ticket.trained.params)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    masks = dict(zip(found["about"]["masks"], found["masks"], strict=True))
    chex.assert_trees_all_equal(masks, {f"params/{n}": mask for n, mask in mask_lib.named_leaves(ticket.masks).items()})
    assert not any(len(values) for name, values in found["file"].items() if name.startswith("values/"))
    params = {"types": TREES["types"](), "keys": TREES["keys"](), "of": np.arange(2, dtype=np.uint32)}
    masks = jax.tree.map(lambda leaf: np.eye(*leaf.shape) > 0 if leaf.ndim == 2 else None, params)
    tickets.save_ticket(tmp_path / NAME, masks, params)
    with contextlib.chdir(tmp_path):
        exec(lines, found)
    bfloat16, integers, _, imaginary = params["types"]
    wanted = {
        "types/0": np.asarray(bfloat16 * jnp.eye(2, 3, dtype=jnp.bfloat16)),
        "types/1": integers * np.eye(2, 3, dtype=int),
    }
    wanted |= {"types/3": imaginary, "keys/key": jax.random.key_data(params["keys"]["key"]), "of": params["of"]}
    for name, array in wanted.items():
        assert found["arrays"][f"params/{name}"].tobytes() == np.asarray(array).tobytes(), name


# Training from the file.


def rows_of(path, round_):
    rows = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    left_out = ("round", "seconds", "crc32")
    rows = [row for row in rows if row["round"] == round_ and row["split"] != "search"]
    return [{name: cell for name, cell in row.items() if name not in left_out} for row in rows]


AT_INIT = {"experiment": "at_init", "prune.sparsities": (0.5,)}
WAYS = {
    "imp": ("ae_digits", {"prune.sparsities": (0.5,)}),
    "gan": ("gan_digits", {"prune.sparsities": (0.3, 0.6), "rewind_discriminator": False}),
    "weights": ("ae_digits", {"prune.sparsities": (0.5,), "rewind": "weights"}),
    "channels": (
        "ae_digits",
        AT_INIT | {"prune.structure": "channel", "prune.score": "filter_l1", "rewind_step": 0.0},
    ),
    "early_bird": (
        "ae_digits",
        {"experiment": "early_bird", "rewind": "none", "prune.sparsities": (0.4,)}
        | {"prune.structure": "channel", "prune.score": "filter_l1", "prune.channel_multiple": 1}
        | {"early_bird.every": 2, "early_bird.until": 8.0, "early_bird.queue": 3, "early_bird.threshold": 1.0}
        | {"early_bird.moved": 0.0},
    ),
    "at_init": ("ae_digits", AT_INIT | {"rewind_step": 0.25}),  # Which this method does not read.
}


@pytest.mark.parametrize("way", [pytest.param(way, marks=[] if way == "imp" else [pytest.mark.slow]) for way in WAYS])
def test_a_ticket_trained_from_its_file_is_the_round_that_has_found_it(way, quick_runs, base, data_directory, tmp_path):
    name, changes = WAYS[way]
    config = tiny(name, data_directory, tolerance=1e6, **changes)
    run, verdict = finish(without_references(Setup(config, like=base(name))), tmp_path / "run")
    round_, place = verdict["winning_round"], run.place
    ticket = tmp_path / NAME
    ticket.write_bytes(place.ticket.read_bytes())
    again, _ = finish(without_references(Setup(retraining.config(ticket), like=base(name))), tmp_path / "again")
    assert rows_of(place.path, round_) == rows_of(tmp_path / "again", 1) != []
    assert rows_of(place.path, 0) == rows_of(tmp_path / "again", 0)
    chex.assert_trees_all_equal(again.saved_masks(1), run.saved_masks(round_))
    chex.assert_trees_all_equal(trained.load(again.place, 1), trained.load(place, round_))
    # What was found again is the ticket. Its moments are the dense run's, and take no room.
    first, second = jt.load_ticket(ticket), jt.load_ticket(again.place.ticket)
    # Those of an initialisation take no room either, and those at the end of a search are nowhere else.
    assert first.has_moments == (way in ("channels", "at_init", "early_bird"))
    chex.assert_trees_all_equal(first.masks, second.masks)
    chex.assert_trees_all_equal(first.trained, second.trained)
    weights, kept = mask_lib.counts(first.masks)
    trees = [size_of(tree) for tree in ((first.params, first.batch_stats), first.trained[:2])]
    pruned = 4 * (weights - kept) * (1 if way in ("channels", "early_bird") else 2)  # Compacted: lost.
    moments = size_of(run.initial_state.opt_state) if way == "early_bird" else 0
    assert ticket.stat().st_size <= sum(trees) - pruned + moments + weights / 8 + 4096


@pytest.mark.slow
def test_a_transferred_ticket_is_trained_again_with_its_own_averages(quick_runs, base, data_directory, tmp_path):
    changes, like = {"tolerance": 1e6, "prune.sparsities": (0.5,)}, base("gan_digits")
    setup = without_references(Setup(tiny("gan_digits", data_directory, **changes), like=like))
    ticket = finish(setup, tmp_path / "a")[0].place.ticket
    changes = {"tolerance": 1e6, "experiment": "transfer", "transfer.of": str(ticket), "seed": 1, "rewind_step": 0.0}
    moved = finish(without_references(Setup(tiny("gan_digits", data_directory, **changes), like=like)), tmp_path / "b")[
        0
    ]
    assert moved.initial_state.average
    again = retraining.config(moved.place.ticket)
    finish(without_references(Setup(again, like=like)), tmp_path / "c")
    assert rows_of(tmp_path / "b", 1) == rows_of(tmp_path / "c", 1) != []
    chex.assert_trees_all_equal(*(trained.load(jt.Workdir(tmp_path / name), 1) for name in "bc"))


def test_tickets_that_a_file_can_t_train_again_and_other_configs_are_refused(data_directory, tmp_path):
    path = tmp_path / NAME
    networks, *_ = written(path, config_of("conv_ae", data_directory))
    config = retraining.config(path)
    for changes, match in (
        ({"train.steps": 13}, "trained with another config: train.steps is 12 there and 13 here; `python -m"),
        ({"model.width": 5}, "model.width is 4 there and 5 here"),
        ({"ticket.of": str(tmp_path / "none")}, "none: there is no such file"),
    ):
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict(changes)
        source = source_of(other)
        with pytest.raises(UserError, match=match):
            source()
    other = config.copy_and_resolve_references()
    other.rewind_step = 0.25
    assert source_of(other)().has_moments  # Then the dense run's rewind point is not read.
    written(path, config_of("conv_ae", data_directory), moments=False)
    with pytest.raises(UserError, match=r"rewind_step=0.25: the dense run has the moments that .*; allowed is 3"):
        source_of(other)()
    for changes in ({"experiment": "rigl"}, {"rewind": "none"}):
        values = {**networks.json_config, **changes}
        metadata = {"config": values, "verdict": VERDICT}
        written(path, config_of("conv_ae", data_directory), metadata=metadata)
        with pytest.raises(UserError, match="whose round has not started from what a ticket file holds"):
            source_of(config)()


def test_a_dense_run_with_other_bits_than_the_ticket_s_is_told(data_directory, tmp_path, capsys):
    networks, masks, point = written(tmp_path / NAME, config_of("conv_ae", data_directory), moments=False)
    ticket = jt.load_ticket(tmp_path / NAME)
    ticket_method._compare(ticket, point)
    assert not capsys.readouterr().err
    other = point.replace(params=jax.tree.map(lambda leaf: np.nextafter(leaf, 9, dtype=leaf.dtype), point.params))
    ticket_method._compare(ticket, other)
    assert "its rewind point is not bit for bit this dense run's at step 0" in capsys.readouterr().err


def test_a_run_leaves_trained_weights_out_of_its_ticket_on_request(quick_runs, base, data_directory, tmp_path):
    config = tiny("ae_digits", data_directory, tolerance=1e6, **{"prune.sparsities": (0.5,)}, trained_in_ticket=False)
    setup = without_references(Setup(config, like=base("ae_digits")))
    place = finish(setup, tmp_path / "run")[0].place
    ticket = jt.load_ticket(place.ticket)
    weights, kept = mask_lib.counts(ticket.masks)
    dense = size_of((ticket.params, ticket.batch_stats))
    assert ticket.trained is None
    assert place.ticket.stat().st_size <= dense - 4 * (weights - kept) + weights / 8 + 4096
    assert jt.Workdir(place.path).weights(1).exists()


def source_of(config):
    networks = Networks(config)
    networks.data = {}
    return lambda: ticket_method.source(networks, config.seed)
