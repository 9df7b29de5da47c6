"""Files of tickets and of trained weights: any tree comes back as it was; damage and strangers' files are one line."""

import json
import os
import pickle
import struct
import zlib

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from older_tickets import write_2
from safetensors.numpy import load_file, save

from jaxtickets import checksums, tensor_files, tickets, trained
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.train import TrainState
from jaxtickets.workdir import Workdir

NETWORK = {"model": {"name": "conv_ae"}, "channels": 1, "classes": 0}

# Trees.

keys = st.one_of(
    st.sampled_from(
        ["a", "kernel", "a/b", "/", "", "%", "%2F", "a\nb", "\0", "0", "-1", "\ud800", "ü", "__metadata__"]
    ),
    st.text(st.characters(exclude_categories=()), max_size=5),
)
arrays = st.builds(
    lambda shape, dtype, seed: np.asarray(np.random.default_rng(seed).integers(0, 9, shape), dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["float32", "float64", "float16", "int32", "uint8", "bool"]),
    st.integers(0, 99),
)
trees = st.recursive(
    arrays,
    lambda tree: st.one_of(
        st.dictionaries(keys, tree, max_size=3),
        st.dictionaries(st.integers(-2, 9), tree, max_size=3),
        st.lists(tree, max_size=3),
        st.lists(tree, max_size=3).map(tuple),
        st.dictionaries(keys, st.none(), max_size=1),
    ),
    max_leaves=6,
)
networks = st.dictionaries(keys, trees, max_size=3)


def random_masks(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: None if rng.random() < 0.3 else rng.random(leaf.shape) < 0.5, params)


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


def masked(params, masks):
    return jax.tree.map(lambda leaf, mask: leaf if mask is None else leaf * mask.astype(leaf.dtype), params, masks)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@given(networks, networks, st.integers(0, 99))
def test_weights_of_any_tree_with_any_names_come_back(directory, params, batch_stats, seed):
    masks, place = random_masks(params, seed), Workdir(directory / "weights")
    trained.save(place.weights(1), params, batch_stats, masks, NETWORK)
    found = trained.load(place, 1)
    assert_same(found.params, masked(params, masks))
    assert_same(found.batch_stats, batch_stats)
    assert found.network == NETWORK


@given(networks, networks, st.integers(0, 99))
def test_tickets_of_any_tree_with_any_names_come_back(directory, params, batch_stats, seed):
    masks, place = random_masks(params, seed), Workdir(directory / "ticket")
    params = {**params, "pruned": {"kernel": np.ones(3, np.float32)}}
    masks = {**masks, "pruned": {"kernel": np.array([True, False, True])}}
    point = TrainState(np.int32(7), np.uint32(seed), params, batch_stats, {"player": (params, [])}, {}, {})
    own = trained.Trained(params, batch_stats, NETWORK)
    tickets.save_ticket(place.ticket, masks, point, trained=own, metadata={"round": seed})
    ticket = tickets.load_ticket(place.ticket)
    assert_same(ticket.params, masked(params, masks))
    assert_same(ticket.batch_stats, batch_stats)
    assert_same(ticket.masks, masks)
    assert ticket.metadata == {"round": seed}
    found, metadata = tickets.load_trained(place.ticket)
    assert_same(found.params, masked(params, masks))
    assert metadata == {"round": seed}
    state = tickets.load_state(place.ticket, point)
    assert_same(state.params, masked(params, masks))
    assert jax.tree.structure(state) == jax.tree.structure(point)


def test_names_in_files_are_readable_paths_with_odd_characters_encoded(directory):
    tree = {"mlp/~/linear": {"w": np.ones(1)}, "a b": [np.ones(2), {"ü%": np.ones(3)}]}
    assert list(tensor_files.named(tree)) == ["a b/0", "a b/1/ü%25", "mlp%2F~%2Flinear/w"]
    assert tensor_files.nodes(tree) == {"a b": "list"}


# A ticket and weights by hand.

KERNEL = np.array([[1.0, 0, 2], [0, 3, 0]], np.float32)
KEEP = KERNEL != 0
STATISTICS = {"net": {"mean": np.float32([4, 5])}}
VERDICT = {"config": {"seed": 1}, "verdict": {"winning_round": 2}}


def written(path):
    """The workdir `path` with weights and a ticket: one kernel, three of its six weights kept."""
    params, masks = {"net": {"kernel": KERNEL, "bias": np.float32([6])}}, {"net": {"kernel": KEEP, "bias": None}}
    place = Workdir(path)
    trained.save(place.weights(1), params, STATISTICS, masks, NETWORK)
    point = TrainState(np.int32(3), np.uint32(1), params, STATISTICS, {"player": {"count": np.int32(3)}}, {}, {})
    tickets.save_ticket(place.ticket, masks, point, trained=trained.load(place, 1), metadata=VERDICT)
    return place, point


def metadata_of(path):
    """The one entry of a file's metadata, as JSON values."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    ((name, text),) = header["__metadata__"].items()
    return name, json.loads(text)


def inflated(array):
    return json.loads(zlib.decompress(np.asarray(array).tobytes()))


def deflated(about):
    return np.frombuffer(zlib.compress(json.dumps(about).encode()), np.uint8)


def rewrite(path, change_arrays=None, change_about=None, is_checked=True):
    """Changes a file, and its checksum too unless `is_checked`."""
    values, (key, about) = load_file(path), metadata_of(path)
    old = about.pop("checksum", None)
    if change_arrays:
        change_arrays(values)
    if change_about and "about" in values:
        inner = {**about, **inflated(values["about"])}
        change_about(inner)
        about = {"format": inner.pop("format")}
        values["about"] = deflated(inner)
    elif change_about:
        change_about(about)
    about["checksum"] = old if is_checked else checksums.of_arrays(values, json.dumps(about, sort_keys=True))
    path.write_bytes(save(values, metadata={key: json.dumps(about)}))


def readers(place, point):
    """`{file: [each function that reads it]}`."""
    return {
        place.weights(1): [lambda: trained.load(place, 1)],
        place.ticket: [
            lambda: tickets.load_ticket(place.ticket),
            lambda: tickets.load_trained(place.ticket),
            lambda: tickets.load_state(place.ticket, point),
        ],
    }


def assert_refused(read, path, match=None, kind=UserError):
    with pytest.raises(kind, match=match) as caught:
        read()
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_files_hold_what_their_docs_say(tmp_path):
    place, _ = written(tmp_path)
    assert metadata_of(place.weights(1))[1].keys() == {"format", "shapes", "nodes", "network", "checksum"}
    found = load_file(place.weights(1))
    assert found.keys() == {"params/net/bias", "batch_stats/net/mean", "kept/net/kernel", "masks/net/kernel"}
    np.testing.assert_array_equal(found["kept/net/kernel"], [1, 2, 3])
    np.testing.assert_array_equal(found["masks/net/kernel"], [0b10101000])


def test_equal_content_has_equal_bytes(tmp_path):
    for name in ("a", "b"):
        written(tmp_path / name)
    for file in ("ticket.safetensors", "weights/001.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_changed_array_or_text_is_seen_by_every_reader(tmp_path):
    place, point = written(tmp_path)
    for path, functions in readers(place, point).items():
        whole = path.read_bytes()
        for name in load_file(path):
            path.write_bytes(whole)
            rewrite(
                path,
                lambda values, name=name: values.update({name: np.asarray(values[name] + values[name].dtype.type(1))}),
            )
            for read in functions:
                assert_refused(read, path, "the checksum differs", DamagedError)
        for change in (
            lambda about: about.update(more=1),
            lambda about: about.update(nodes={"params/x": "none"}),
            lambda about: about.get("metadata", about.get("network")).update(seed=3),
        ):
            path.write_bytes(whole)
            rewrite(path, change_about=change)
            for read in functions:
                assert_refused(read, path, "the checksum differs", DamagedError)


def test_flips_and_cuts_at_random_places_are_refused_or_change_nothing(tmp_path):
    place, point = written(tmp_path)
    rng = np.random.default_rng(0)
    for path, functions in readers(place, point).items():
        whole, expected = path.read_bytes(), [read() for read in functions]
        for trial in range(150):
            content = bytearray(whole)
            if trial % 5 == 0:
                content = content[: rng.integers(len(content))]
            else:
                content[rng.integers(len(content))] ^= rng.integers(1, 256)
            path.write_bytes(content)
            for read, value in zip(functions, expected, strict=True):
                try:
                    found = read()
                except UserError as error:
                    assert "\n" not in str(error) and str(path) in str(error)
                else:
                    chex.assert_trees_all_equal(found, value)


# Files of strangers: their checksums are right.


def drop(name):
    return lambda values: values.pop(name)


def put(**more):
    return lambda values: values.update({name.replace("__", "/"): value for name, value in more.items()})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (drop("kept/net/kernel"), "kept/net/kernel' is missing"),
        (drop("masks/net/kernel"), "masks/net/kernel' is missing"),
        (put(extra=np.zeros(1)), "an array extra too many"),
        (put(params__net__kernel=KERNEL), "an array params/net/kernel too many"),
        (put(kept__net__bias=np.zeros(1)), "an array kept/net/bias too many"),
        (put(kept__net__kernel=np.zeros(2, np.float32)), "has weights of shape"),
        (put(kept__net__kernel=np.zeros((3, 1), np.float32)), "has weights of shape"),
        (put(masks__net__kernel=np.zeros(2, np.uint8)), "the mask of net/kernel has 2 bytes"),
        (put(masks__net__kernel=np.float32([np.nan])), "no mask of 6 weights"),
        (put(masks__net__kernel=np.array([0xFF], np.uint8)), "6 are kept"),
        (put(params__net__bias__x=np.zeros(1)), "is below an array|is an array and a node"),
        (put(**{"params" + "__a" * 200: np.zeros(1)}), "more than 64 parts"),
        (put(**{"params__net__%41": np.zeros(1), "params__net__A": np.zeros(1)}), "no node of the kind"),
    ],
)
def test_weights_with_other_arrays_than_they_should_have_are_refused(tmp_path, change, match):
    place, _ = written(tmp_path)
    rewrite(place.weights(1), change, is_checked=False)
    assert_refused(lambda: trained.load(place, 1), place.weights(1), match)


@pytest.mark.parametrize(
    "shape", [[2, -3], [2, 3.0], [2, True], [2], [2**40, 2**40], [float("inf")], "23", None, [[2, 3]]]
)
def test_weights_with_impossible_shapes_are_refused_before_memory_is_taken(tmp_path, shape):
    place, _ = written(tmp_path)
    rewrite(
        place.weights(1), change_about=lambda about: about["shapes"].update({"net/kernel": shape}), is_checked=False
    )
    assert_refused(lambda: trained.load(place, 1), place.weights(1))


@pytest.mark.parametrize("field", ["shapes", "nodes", "network", "format"])
@pytest.mark.parametrize("value", [None, 3, "x", [], [1], {"params": 3}, {"params": "list"}, {"params/net": "none"}])
def test_weights_with_metadata_of_other_types_are_refused(tmp_path, field, value):
    place, _ = written(tmp_path)
    rewrite(place.weights(1), change_about=lambda about: about.update({field: value}), is_checked=False)
    assert_refused(lambda: trained.load(place, 1), place.weights(1))


def leaf(name, *entry):
    return lambda about: about["leaves"].update({name: list(entry)})


KERNEL_NAME = "params/net/kernel"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (put(extra=np.zeros(1)), "the array extra has 1 numbers too many"),
        (put(masks=np.zeros(2, np.uint8)), "the masks have 16 bits for 6 weights"),
        (put(masks=np.zeros(0, np.uint8)), "cannot reshape"),
        (put(masks=np.array([0b10101001], np.uint8)), "the masks have 8 bits for 6 weights"),
        (put(masks=np.zeros(1, np.float32)), "no bits"),
        (put(masks=np.array([0xFC], np.uint8)), "needs . numbers"),
        (put(values__float32=np.zeros(3, np.float32)), "needs . numbers and the file has other ones"),
        (put(values__float32=np.zeros((40, 1), np.float32)), "needs . numbers and the file has other ones"),
        (put(values__float32=np.zeros(40, np.float32)), "numbers too many"),
        (put(values__float32=np.zeros(11, np.float64)), "needs . numbers and the file has other ones"),
        (drop("values/float32"), "needs . numbers and the file has other ones"),
        (drop("masks"), "masks' is missing"),
        (drop("about"), "about' is missing"),
        (put(about=np.zeros(9, np.uint8)), "while decompressing"),
        (put(about=np.frombuffer(zlib.compress(bytes(1 << 25)), np.uint8)), "cut off or too long"),
        (lambda values: values.update(about=values["about"][:-3]), "cut off or too long"),
    ],
)
def test_tickets_with_other_arrays_than_they_should_have_are_refused(tmp_path, change, match):
    place, _ = written(tmp_path)
    rewrite(place.ticket, change, is_checked=False)
    assert_refused(lambda: tickets.load_ticket(place.ticket), place.ticket, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda about: about["masks"].append("params/net/other"), "params/net/other' is missing"),
        (lambda about: about["masks"].append(KERNEL_NAME), "two masks"),
        (lambda about: about["masks"].append("seed"), "a mask of seed"),
        (lambda about: about["leaves"].pop(KERNEL_NAME), "kernel' is missing"),
        (leaf("params/net", "float32", [1], "zero"), "below an array|an array and a node"),
        (leaf("more", "float32", [1], "zero"), "an array more too many"),
        (leaf("params/a", "float32", [1 << 20, 1 << 20], "zero"), "zeros"),
        (leaf("params/a", "float32", [-1], "zero"), "a size of params/a is -1"),
        (leaf("params/a", "float32", [2.0], "zero"), "a size of params/a"),
        (leaf("params/a", "float32", "3", "zero"), "the shape of params/a"),
        (leaf("params/a", "float32", [1]), "unpack|values"),
        (leaf("params/a", "object", [1], "zero"), "of the type object"),
        (leaf("params/a", 3, [1], "zero"), "the type of params/a"),
        (leaf("params/a", "float32", [1], "whole"), "needs 1 numbers"),
        (leaf("params/a", "float32", [6], 0), r"the mask of params/a has the shape \(2, 3\)"),
        (leaf("params/a", "float32", [2, 3], 1), "no mask 1"),
        (leaf("params/a", "float32", [2, 3], -1), "no mask -1"),
        (leaf("params/a", "float32", [2, 3], True), "the number of a mask"),
        (leaf("params/a", "float32", [2, 3], None), "the number of a mask"),
        (leaf("seed", "uint32", [], "=params/b"), "params/b' is missing"),
        (leaf("seed", "uint32", [], "=params/net/bias"), "seed is not like params/net/bias"),
        (leaf("seed", "key:fry", [2], "zero"), "can't be read"),
        (leaf("/".join("a" * 100), "float32", [1], "zero"), "too many"),
        (leaf("/".join(["params", *"a" * 100]), "float32", [1], "zero"), "more than 64 parts"),
    ],
)
def test_tickets_with_other_leaves_than_they_should_have_are_refused(tmp_path, change, match):
    place, _ = written(tmp_path)
    rewrite(place.ticket, change_about=change, is_checked=False)
    assert_refused(lambda: tickets.load_ticket(place.ticket), place.ticket, match)


@pytest.mark.parametrize("field", ["metadata", "nodes", "trained", "format", "leaves", "masks", "network"])
@pytest.mark.parametrize("value", [3, "x", [], [1], {"params": 3}])
def test_tickets_with_metadata_of_other_types_are_refused(tmp_path, field, value):
    place, _ = written(tmp_path)
    rewrite(place.ticket, change_about=lambda about: about.update({field: value}), is_checked=False)
    if value != {"params": 3} or field not in ("metadata", "trained", "network"):  # Those are JSON values.
        assert_refused(lambda: tickets.load_ticket(place.ticket), place.ticket)
    with pytest.raises(UserError, match="does not tell the config and the round of its run"):
        tickets.run_of({"params": 3}, place.ticket)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"config": {}},
        VERDICT | {"config": 3},
        VERDICT | {"verdict": {}},
        VERDICT | {"verdict": {"winning_round": "2"}},
    ],
)
def test_a_ticket_that_does_not_tell_its_run_is_refused_where_that_is_needed(tmp_path, metadata):
    with pytest.raises(UserError, match="allowed is the ticket of a run"):
        tickets.run_of(metadata, "t.safetensors")
    assert tickets.run_of(VERDICT, "t.safetensors") == (VERDICT["config"], VERDICT["verdict"])


def test_the_state_of_another_network_or_optimiser_is_refused(tmp_path):
    place, point = written(tmp_path)
    others = {
        "opt_state/player/count": point.replace(opt_state={"player": {}}),
        "opt_state/player/momentum": point.replace(opt_state={"player": {**point.opt_state["player"], "momentum": 0}}),
        "batch_stats/net/mean": point.replace(batch_stats={"net": {"mean": np.zeros(3, np.float32)}}),
        "step": point.replace(step=np.float32(3)),
    }
    for name, like in others.items():
        assert_refused(lambda like=like: tickets.load_state(place.ticket, like), place.ticket, f"{name}.* differ")


@pytest.mark.parametrize("keep", [KEEP | True, None])
def test_the_ticket_of_a_network_in_which_nothing_is_pruned_is_not_written(tmp_path, keep):
    _, point = written(tmp_path / "run")
    with pytest.raises(UserError, match="is no ticket; allowed are masks that prune"):
        tickets.save_ticket(tmp_path / "t", {"net": {"kernel": keep, "bias": None}}, point)
    assert not (tmp_path / "t").exists()


# What is no such file at all.


def tensor(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def raw(header, data=b"1234", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


STRANGE = {
    "empty": b"",
    "short": b"1234",
    "text": b"no ticket",
    "pickle": pickle.dumps({"params": np.ones(3)}),
    "zip": b"PK\x03\x04" + bytes(100),
    "huge header": raw(b"{}", length=2**63),
    "header that is said to be long": raw(b"{}", length=99_000_000),
    "header that is long": raw(b"{}" + b" " * (1 << 24), b""),
    "no JSON": raw(b"\xff{}"),
    "deep JSON": raw(b'{"a":' * 50_000),
    "array": raw(b"[]"),
    "overlapping": raw({"a": tensor(), "b": tensor(offsets=(2, 6))}, b"123456"),
    "same place": raw({"a": tensor(), "b": tensor()}),
    "too much": raw({"a": tensor()}, b"12345"),
    "too little": raw({"a": tensor()}, b"123"),
    "negative": raw({"a": tensor(shape=(-1,))}),
    "overflow": raw({"a": tensor(shape=(2**63, 4))}),
    "not finite": raw(json.dumps({"a": tensor()}).replace("[1]", "[1e999]").encode()),
    "many axes": raw({"a": tensor(shape=(1,) * 100)}),
    "strange type": raw({"a": tensor("F8_E4M3", (4,))}),
    "unknown type": raw({"a": tensor("X9")}),
    "same name": raw(b'{"a":%s,"a":%s}' % ((json.dumps(tensor()).encode(),) * 2)),
    "same metadata": raw(b'{"__metadata__":{"ticket":"{}","ticket":"{}"}}', b""),
    "numbers as metadata": raw({"__metadata__": {"ticket": 1}}, b""),
    "no metadata": save({"a": np.zeros(2)}),
    "metadata that is no JSON": save({}, metadata={"ticket": "{", "trained": "{"}),
    "metadata that is a list": save({}, metadata={"ticket": "[]", "trained": "[]"}),
    "metadata that is deep": save({}, metadata={"ticket": "[" * 100_000, "trained": "[" * 100_000}),
    "metadata with a key twice": save({}, metadata={name: '{"format":1,"format":1}' for name in ("ticket", "trained")}),
    "an older format with nothing": save({}, metadata={"format": "jaxtickets 1", "ticket": "3"}),
    "an older format with a list": save({}, metadata={"format": "jaxtickets 1", "ticket": "{}", "trained": "[]"}),
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE.keys())
def test_a_file_that_is_something_else_is_refused_in_a_line(tmp_path, content):
    place, point = written(tmp_path)
    for path, functions in readers(place, point).items():
        path.write_bytes(content)
        for read in functions:
            assert_refused(read, path)


def test_directories_fifos_and_missing_files_are_refused_in_a_line(tmp_path):
    place, point = written(tmp_path)
    for path, functions in readers(place, point).items():
        path.unlink()
        for make in (lambda path: None, lambda path: path.mkdir(), lambda path: (path.rmdir(), os.mkfifo(path))):
            make(path)
            for read in functions[: None if path == place.ticket or path.exists() else 0]:
                assert_refused(read, path)


# Files of older versions.


def test_files_of_older_versions_still_load(tmp_path):
    place, point = written(tmp_path)
    kept = {"kept/net/kernel": np.float32([1, 2, 3]), "masks/net/kernel": np.array([0b10101000], np.uint8)}
    own = kept | {"params/net/bias": np.float32([6]), "batch_stats/net/mean": STATISTICS["net"]["mean"]}
    about = {"shapes": {"net/kernel": [2, 3]}, "empty": ["params/net/none"], "network": NETWORK}
    text = json.dumps({"format": "jaxtickets weights 1", **about})
    place.weights(1).write_bytes(save(own, metadata={"trained": text}))
    params = {"net": {"kernel": KERNEL, "bias": np.float32([6])}}
    expected = {"net": {**params["net"], "none": {}}}
    found = trained.load(place, 1)
    assert_same(found.params, expected)
    assert_same(found.batch_stats, STATISTICS)

    values = {"masks/net/kernel": kept["masks/net/kernel"], "params/net/kernel": KERNEL}
    values |= {"params/net/bias": np.float32([6]), "batch_stats/net/mean": STATISTICS["net"]["mean"]}
    values |= {"opt_state/player/count": np.int32(3), "step": np.int32(3), "seed": np.uint32(1)}
    values = {name: np.asarray(value) for name, value in values.items()}
    values |= {f"trained/{name}": array for name, array in own.items()}
    header = {"format": "jaxtickets 1", "ticket": json.dumps(VERDICT), "trained": json.dumps(about)}
    place.ticket.write_bytes(save(values, metadata=header))
    ticket = tickets.load_ticket(place.ticket)
    assert_same(ticket.params, params)
    assert_same(ticket.masks, {"net": {"kernel": KEEP, "bias": None}})
    assert ticket.metadata == VERDICT
    assert_same(tickets.load_trained(place.ticket)[0].params, expected)
    assert_same(tickets.load_state(place.ticket, point).params, params)

    # A new ticket takes the weights of an older file.
    masks = {"net": {"kernel": KEEP, "bias": None}}
    tickets.save_ticket(place.ticket, masks, point, trained=found, metadata=VERDICT)
    assert_same(tickets.load_trained(place.ticket)[0].params, expected)

    # The second format.
    trained.save(place.weights(1), params, STATISTICS, masks, NETWORK)
    for weights in (place.weights(1).read_bytes(), None):
        write_2(place.ticket, masks, point, VERDICT, weights)
        ticket = tickets.load_ticket(place.ticket)
        assert_same((ticket.params, ticket.batch_stats, ticket.masks), (params, STATISTICS, masks))
        assert ticket.metadata == VERDICT
        assert_same(tickets.load_state(place.ticket, point).params, params)
        if weights:
            found, metadata = tickets.load_trained(place.ticket)
            assert_same((found.params, found.batch_stats), (params, STATISTICS))
            assert found.network == NETWORK and metadata == VERDICT
        else:
            assert_refused(lambda: tickets.load_trained(place.ticket), place.ticket, "and no trained weights")
