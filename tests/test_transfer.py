"""Tickets of one network in another: which layers move, which stay, and what is refused."""

import json

import chex
import jax
import numpy as np
import pytest
from conftest import finish, tiny, without_references

from jaxtickets import masks as mask_lib
from jaxtickets import models, runs
from jaxtickets.errors import UserError
from jaxtickets.experiments.transfer import match
from jaxtickets.models import NETWORKS
from jaxtickets.runs import Setup

# Layers of the DCGAN at 16x16 and of the VAE: `{here: there}`, and those of each that have no counterpart.
GAN_OF_VAE = {
    "generator/up_8": "decoder/up_8",
    "generator/up_16": "decoder/up_16",
    "discriminator/down_16": "encoder/down_16",
    "discriminator/down_8": "encoder/down_8",
}
GAN_ALONE = {"generator/unproject", "discriminator/project"}
VAE_ALONE = {"decoder/unproject", "decoder/up_4", "encoder/down_4", "encoder/project"}
VAE_OF_GAN = {there: here for here, there in GAN_OF_VAE.items()}


@pytest.fixture(scope="module")
def sources(quick_runs, base, data_directory, tmp_path_factory):
    """Finished runs of a GAN and a VAE, each with a winning ticket: any metric is within the tolerance."""
    finished = {}
    for name in ("gan_digits", "vae_digits"):
        given = tiny(name, data_directory, **{"prune.sparsities": (0.5, 0.8), "tolerance": 1000.0})
        setup = without_references(Setup(given, like=base(name)))
        finished[name], _ = finish(setup, tmp_path_factory.mktemp(name) / "run")
    return finished


@pytest.fixture(scope="module")
def transferred(sources, data_directory, tmp_path_factory):
    """`transferred(name of the network here, path of the ticket, components)`: the finished run, done only once."""
    finished = {}

    def run(name, of, components=()):
        if (name, of, components) not in finished:
            setup = Setup(config(name, data_directory, of, components), like=sources[name].setup)
            finished[name, of, components], _ = finish(setup, tmp_path_factory.mktemp("transfer") / "run")
        return finished[name, of, components]

    return run


def config(name, data_directory, of, components=(), **changes):
    transfer = {"experiment": "transfer", "transfer.of": str(of), "transfer.components": components}
    return tiny(name, data_directory, **transfer, **changes)


def layer_of(tree, name):
    component, layer = name.split("/")
    return tree[component].get(layer, {})


def shared_leaves(here, there):
    """Pairs of the leaves that both layers have."""
    here, there = mask_lib.named_leaves(here), mask_lib.named_leaves(there)
    return [(leaf, there[path]) for path, leaf in here.items() if path in there]


def assert_transferred(run, source, layers, rounds):
    """The layers have the masks and the rewind point of the source; the others are dense, from this network's start."""
    start, origin = run.rewind_point, source.rewind_point
    for name in [f"{component}/{layer}" for component in start.params for layer in start.params[component]]:
        if name not in layers:
            chex.assert_trees_all_equal(layer_of(start.params, name), layer_of(run.initial_state.params, name))
            continue
        assert shared_leaves(layer_of(start.params, name), layer_of(origin.params, layers[name]))
        for field in ("params", "batch_stats"):
            trees = layer_of(getattr(start, field), name), layer_of(getattr(origin, field), layers[name])
            for ours, theirs in shared_leaves(*trees):
                np.testing.assert_array_equal(ours, theirs)
    chex.assert_trees_all_equal(start.opt_state, run.initial_state.opt_state)
    assert int(start.step) == 0
    for round_, source_round in rounds.items():
        ours, theirs = run.saved_masks(round_), source.saved_masks(source_round)
        for path, mask in mask_lib.named_leaves(ours).items():
            component, layer, rest = path.split("/", 2)
            there = layers.get(f"{component}/{layer}")
            expected = mask_lib.named_leaves(theirs)[f"{there}/{rest}"] if there else np.ones_like(mask)
            np.testing.assert_array_equal(mask, expected, err_msg=path)
        weights, kept = mask_lib.counts(ours)
        row = run.place.read_rounds()[round_]
        assert row["sparsity"] == pytest.approx(1 - kept / weights)
        assert 0 < row["sparsity"] < 1
    leaves = mask_lib.named_leaves(run.trained.params)
    for path, mask in mask_lib.named_leaves(run.saved_masks(max(rounds))).items():
        assert np.all(leaves[path][~mask] == 0), path
        assert np.all(leaves[path][mask] != 0), path


@pytest.mark.parametrize(
    ("here", "there", "layers", "dense", "unused"),
    [
        ("gan_digits", "vae_digits", GAN_OF_VAE, GAN_ALONE, VAE_ALONE),
        ("vae_digits", "gan_digits", VAE_OF_GAN, VAE_ALONE, GAN_ALONE),
    ],
)
def test_layers_with_a_counterpart_move_and_the_others_stay_dense(
    sources, transferred, here, there, layers, dense, unused
):
    run = transferred(here, sources[there].place.path)
    moved = json.loads(run.place.transfer.read_text())
    assert (moved["layers"], set(moved["dense"]), set(moved["unused"])) == (layers, dense, unused)
    assert_transferred(run, sources[there], layers, {1: 1, 2: 2})


@pytest.mark.parametrize(
    ("here", "there", "component", "layers"),
    [
        ("gan_digits", "vae_digits", "generator", GAN_OF_VAE),
        ("gan_digits", "vae_digits", "discriminator", GAN_OF_VAE),
        ("vae_digits", "gan_digits", "decoder", VAE_OF_GAN),
        ("vae_digits", "gan_digits", "encoder", VAE_OF_GAN),
    ],
)
def test_only_the_named_component_gets_a_ticket(sources, transferred, here, there, component, layers):
    run = transferred(here, sources[there].place.path, (component,))
    own = {name: other for name, other in layers.items() if name.startswith(component)}
    moved = json.loads(run.place.transfer.read_text())
    assert moved["layers"] == own
    assert set(layers) - set(own) <= set(moved["dense"])
    assert_transferred(run, sources[there], own, {1: 1, 2: 2})


def test_round_zero_is_this_networks_own_dense_run(sources, transferred):
    row = transferred("gan_digits", sources["vae_digits"].place.path).place.read_rounds()[0]
    other = sources["gan_digits"].place.read_rounds()[0]
    assert (row["sparsity"], row["fd_digits"]) == (0, other["fd_digits"])


def test_a_ticket_file_gives_one_round(sources, transferred):
    source = sources["vae_digits"]
    winner = source.place.read_verdict()["winning_round"]
    run = transferred("gan_digits", source.place.ticket)
    assert len(run.place.read_rounds()) == 2
    from_workdir = transferred("gan_digits", source.place.path)
    chex.assert_trees_all_equal(run.saved_masks(1), from_workdir.saved_masks(winner))
    for layer in GAN_OF_VAE:
        masks, ours, theirs = (
            mask_lib.named_leaves(layer_of(tree, layer))
            for tree in (run.saved_masks(1), run.rewind_point.params, from_workdir.rewind_point.params)
        )
        for path, leaf in ours.items():
            np.testing.assert_array_equal(leaf, theirs[path] * masks.get(path, True))
    chex.assert_trees_all_equal(run.trained, from_workdir.trained)


def test_tickets_of_a_dcgan_train_as_a_wgan_gp_with_its_running_average(sources, data_directory, tmp_path):
    changes = {"train.steps": 4, "objective.n_critic": 2}
    given = config("wgan_gp", data_directory, sources["gan_digits"].place.path, **changes)
    run, _ = finish(Setup(given, like=sources["gan_digits"].setup), tmp_path / "run")
    params = run.initial_state.params
    layers = {f"{component}/{layer}": f"{component}/{layer}" for component in params for layer in params[component]}
    moved = json.loads(run.place.transfer.read_text())
    assert moved == {"layers": layers, "dense": [], "unused": []}
    assert_transferred(run, sources["gan_digits"], layers, {1: 1, 2: 2})
    average = run.rewind_point.average
    chex.assert_trees_all_equal(average["params"]["generator"], run.rewind_point.params["generator"])
    chex.assert_trees_all_equal(average["batch_stats"]["generator"], run.rewind_point.batch_stats["generator"])


def network(name, width=4, latent_size=4, image_size=16, channels=1, **options):
    """The shapes of a network's parameters, and the names of their axes."""
    components = NETWORKS[name].make(width, latent_size, image_size, channels, **options)
    params = jax.eval_shape(lambda: models.init(components, jax.random.key(0)))[0]
    return params, models.axis_names(components).params


def test_between_images_of_other_channels_only_their_layers_stay():
    moved = match(*network("dcgan", channels=3), *network("dcgan", channels=1))
    assert set(moved.dense) == set(moved.unused) == {"generator/up_16", "discriminator/down_16"}
    others = {"generator/unproject", "generator/up_8", "discriminator/down_8", "discriminator/project"}
    assert moved.layers == {name: name for name in others}


def test_other_latents_leave_the_first_layer_of_the_generator_dense():
    moved = match(*network("dcgan", latent_size=8), *network("dcgan", latent_size=4))
    assert moved.dense == moved.unused == ["generator/unproject"]


def test_residual_networks_made_for_each_other_match_block_by_block():
    moved = match(*network("sngan_resnet"), *network("sngan_resnet_vae"))
    assert moved.dense == ["discriminator/project"]
    assert all(name.split("/")[1] == there.split("/")[1] for name, there in moved.layers.items())
    # Their last norms lie at other resolutions, and have other widths.
    moved = match(*network("resnet_dcgan"), *network("resnet_vae"))
    assert set(moved.dense) == {"discriminator/norm", "discriminator/project", "generator/unproject"}
    assert {"generator/up_8", "generator/up_16", "discriminator/stem", "discriminator/down_16"} <= set(moved.layers)


def test_a_codebook_moves_between_vq_vaes_and_stays_when_its_size_differs():
    assert not match(*network("vq_vae", codes=8), *network("vq_vae", codes=8)).dense
    moved = match(*network("vq_vae", codes=8), *network("vq_vae", codes=16))
    assert moved.dense == moved.unused == ["codebook/embedding"]


def test_another_width_is_refused_with_the_shapes_that_differ(sources, data_directory, tmp_path):
    path = sources["vae_digits"].place.path
    given = config("gan_digits", data_directory, path, **{"model.width": 8})
    with pytest.raises(UserError) as caught:
        runs.run(given, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith(f"config.transfer.of={str(path)!r}: the architectures do not match")
    assert "generator/up_8/conv/kernel is (4, 4, 16, 8) here and (4, 4, 8, 4) there" in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


def test_architectures_that_have_nothing_in_common_are_refused():
    with pytest.raises(UserError) as caught:
        match(*network("dcgan"), *network("linear_vae", image_size=28), path="runs/there")
    message = str(caught.value)
    assert message.startswith("config.transfer.of='runs/there': no layer has a counterpart; there are encoder/down_1, ")
    assert message.endswith("generator/up_8 here")
    assert "\n" not in message


@pytest.mark.parametrize("missing", ["nothing", "nothing.safetensors"])
def test_a_place_without_a_ticket_is_refused(quick_runs, data_directory, tmp_path, missing):
    given = config("gan_digits", data_directory, tmp_path / missing)
    with pytest.raises(UserError, match=rf"{missing}.*: (allowed is the workdir of a finished|there is no such file)"):
        runs.run(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()
