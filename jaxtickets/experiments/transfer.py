"""Tickets of one network in another: from a VAE to a GAN and back, to other data, to another objective."""

from typing import NamedTuple

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from jaxtickets import data, models
from jaxtickets import masks as mask_lib
from jaxtickets.data import identity
from jaxtickets.errors import UserError
from jaxtickets.experiments import finished
from jaxtickets.experiments.method import Method
from jaxtickets.experiments.protocol import Run
from jaxtickets.fields import Field, refuse, some_of, text
from jaxtickets.local_paths import local_path
from jaxtickets.objectives import all_components, check_components, counterparts
from jaxtickets.origin import completed, flat
from jaxtickets.progress import say
from jaxtickets.train import rewind

FIELDS = (
    Field("transfer.of", "", text(), "The workdir of a finished run, or a ticket file, whose tickets are transferred."),
    Field("transfer.components", (), some_of(all_components), "The components that are transferred; none named: all."),
)
# Where all of these are the same, the data should be, too.
SAME_DATA = ("data.name", "data.crop", "data.background", "data.on_broken", "model.image_size")


class Match(NamedTuple):
    """Which layers of a ticket go where.

    layers: `{layer here: layer there}` of all that moves. dense: layers here without a counterpart. unused: layers
    there that do not move.
    """

    layers: dict[str, str]
    dense: list[str]
    unused: list[str]


def transfer(run: Run) -> None:
    """Trains this network from each ticket, mask and rewind point, of `config.transfer.of`, after its own dense run.

    Parameters and batch statistics move, layer by layer, by name. Layers without a counterpart start from this
    network's own initialisation and stay dense. Optimisers start anew.
    """
    origin, match = source(run.networks, run.seed)
    for line in describe(match):
        say(line)
    # A ticket file has one round, whatever its number was.
    tickets = {
        round_: _moved(run.dense_masks, masks, match) for round_, masks in enumerate(origin.masks.values(), start=1)
    }
    for round_, masks in tickets.items():
        _check_same_ticket(run, round_, masks)
    run.place.write_transfer(match._asdict())
    run.expect(1 + len(tickets))
    run.round(0, run.dense_masks, run.initial_state)
    start = run.initial_state
    trees = {"params": origin.params, "batch_stats": origin.batch_stats}
    moved = {field: _moved(getattr(start, field), tree, match) for field, tree in trees.items()}
    average = {field: _moved(tree, trees[field], match) for field, tree in start.average.items()}
    run.start_from(start.replace(**moved, average=average))
    for round_, masks in tickets.items():
        run.round(round_, masks, rewind(run.rewind_point, masks))


def _check_same_ticket(run, round_, masks):
    """Refuses another ticket than the one that the round has begun with: a run that goes on may write another file."""
    there = run.saved_masks(round_)
    if there is not None and mask_lib.hamming_distance(there, masks) > 0:
        raise UserError(
            f"config.transfer.of={run.config.transfer.of!r}: the ticket of round {round_} is another one than when "
            "this run began; give another --workdir"
        )


def source(networks, seed: int) -> tuple[finished.Finished, Match]:
    """The tickets that `config.transfer.of` names, and which of their layers go where.

    Raises:
      UserError: there is no ticket, the architectures do not match, or the ticket is of other data that were read in
        the same way under the same name.
    """
    path = local_path(networks.config.transfer.of, "config.transfer.of")
    chosen = networks.config.transfer.components
    is_file = path.suffix == ".safetensors"
    origin = finished.read_ticket(path) if is_file else finished.read(path, "transfer.of", seed)
    of_origin, here = flat(completed(origin.config, networks.json_defaults)), flat(networks.json_config)
    if all(of_origin[field] == here[field] for field in SAME_DATA):
        advice = "to transfer a ticket to other data, give them another name"
        identity.check(origin.data, networks.data, f"config.transfer.of={str(path)!r}", advice)
    model, there = ConfigDict(origin.config["model"]), origin.config["data"]["name"]
    # An older run has no background.
    image_channels = data.channels(there, origin.config["data"].get("background", data.Recipe().background))
    classes = data.classes(there, None) if model.conditional else 0
    names_there = models.axis_names(models.build(model, image_channels, classes)).params
    names = networks.axis_names.params
    return origin, match(networks.params, names, origin.params, names_there, chosen, str(path))


def match(params, axis_names, params_there, axis_names_there, chosen=(), path="") -> Match:
    """Which layers have a counterpart: those of one name and the same shapes in components that correspond.

    A layer that faces outside (latents, images, outputs; an axis of its kernel has no name) may differ and then has no
    counterpart: DCGAN starts at 4x4 where the VAE starts at 2x2, and a discriminator has one output. So may one
    without kernels, a norm or a codebook.

    Args:
      params, axis_names: of this network, the leaves' shapes and the names of their axes (`models.axis_names`).
      params_there, axis_names_there: of the ticket's network.
      chosen: components of this network; none named: all.
      path: of the ticket, for messages.

    Raises:
      UserError: an inner layer has another shape there, or no layer has a counterpart.
    """
    result, differing = Match({}, [], []), []
    for component, layers in params.items():
        other = component if component in params_there else counterparts().get(component)
        if (chosen and component not in chosen) or other not in params_there:
            result.dense.extend(f"{component}/{layer}" for layer in layers)
            continue
        for layer in layers:
            here, there = f"{component}/{layer}", f"{other}/{layer}"
            shapes, shapes_there = _shapes(layers[layer]), _shapes(params_there[other].get(layer, {}))
            unequal = [leaf for leaf in shapes if leaf in shapes_there and shapes[leaf] != shapes_there[leaf]]
            if not shapes_there or _kernels(shapes) != _kernels(shapes_there):  # None, or one of another kind.
                result.dense.append(here)
            elif not unequal:
                result.layers[here] = there
            elif not _kernels(shapes) or any(
                _faces_outside(names) for names in (axis_names[component][layer], axis_names_there[other][layer])
            ):
                result.dense.append(here)
            else:
                differing += [f"{here}{leaf} is {shapes[leaf]} here and {shapes_there[leaf]} there" for leaf in unequal]
        result.unused.extend(
            f"{other}/{layer}" for layer in params_there[other] if f"{component}/{layer}" not in result.layers
        )
    if differing:
        raise UserError(f"config.transfer.of={path!r}: the architectures do not match: {'; '.join(differing)}")
    if not result.layers:
        raise UserError(
            f"config.transfer.of={path!r}: no layer has a counterpart; there are {', '.join(result.unused) or 'none'} "
            f"there and {', '.join(result.dense)} here"
        )
    return result


def describe(match: Match) -> list[str]:
    """Lines that say which layers move and which do not."""
    moving = ", ".join(there if there == here else f"{there} -> {here}" for here, there in match.layers.items())
    lines = [f"transferred: {moving}"]
    if match.dense:
        lines.append(f"without a counterpart, dense: {', '.join(match.dense)}")
    if match.unused:
        lines.append(f"not used of the ticket: {', '.join(match.unused)}")
    return lines


def _leaves(layer):
    """`{/path below the layer: leaf}`; the codes of a codebook are a layer and a leaf."""
    return traverse_util.flatten_dict({"": layer}, sep="/")


def _shapes(layer):
    return {path: tuple(leaf.shape) for path, leaf in _leaves(layer).items()}


def _kernels(leaves):
    return {path for path in leaves if path.endswith("kernel")}


def _faces_outside(axis_names):
    flat = _leaves(axis_names)
    return any(None in flat[path][-2:] for path in _kernels(flat))


def _moved(tree, tree_there, match):
    """`tree` with the leaves of the layers that move; leaves that only one side has stay as they are here."""
    flat = traverse_util.flatten_dict(tree, sep="/", keep_empty_nodes=True)
    flat_there = traverse_util.flatten_dict(tree_there, sep="/")
    for path, leaf in flat.items():
        component, layer, rest = [*path.split("/", 2), "", ""][:3]
        there = match.layers.get(f"{component}/{layer}")
        other = flat_there.get("/".join(filter(None, (there, rest)))) if there and leaf is not None else None
        if other is not None and np.shape(other) == np.shape(leaf):
            flat[path] = other
    return traverse_util.unflatten_dict(flat, sep="/")


def _check(config):
    if not config.transfer.of:
        refuse("transfer.of", "", "the workdir of a finished run or a ticket file")
    local_path(config.transfer.of, "config.transfer.of")
    check_components(config, "transfer.components", config.transfer.components)


TRANSFER = Method(
    "transfer",
    transfer,
    fields=FIELDS,
    check=_check,
    prunes=False,
    source=source,
    rounds=lambda found: 1 + len(found[0].masks),
)
