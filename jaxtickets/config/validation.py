"""Validation of a config: each field by itself, then what the chosen plug-ins do not read or do not allow."""

from functools import partial

import jax
from ml_collections import ConfigDict

from jaxtickets import data, metrics, models
from jaxtickets.config.schema import check_field, fields, flat, levels, method
from jaxtickets.config.timeline import check_steps
from jaxtickets.errors import UserError
from jaxtickets.experiments import METHODS
from jaxtickets.fields import all_fields, refuse
from jaxtickets.models import NETWORKS
from jaxtickets.objectives import OBJECTIVES, check_components
from jaxtickets.optimizers import OPTIMIZERS
from jaxtickets.pruning import SCORES, parse_structure
from jaxtickets.pruning.channels import SCOPES as CHANNEL_SCOPES
from jaxtickets.pruning.channels import groups


def validate(config: ConfigDict, devices: int) -> None:
    """Checks all that can be checked before anything is downloaded or written.

    Args:
      devices: the number of local devices.

    Raises:
      UserError: a field is unknown or missing, has an impossible value, or contradicts another one.
    """
    known = fields()
    values = flat(config, known=known)
    for name in values:
        if name not in known:
            check_field(name)
    for name, field in known.items():
        if name not in values:
            raise UserError(f"config.{name} is missing; allowed is {field.check.allowed()}")
        if not field.check.possible(values[name]):
            refuse(name, values[name], field.check.allowed(), field.check.names())
    game, network = OBJECTIVES[config.objective.name], NETWORKS[config.model.name]
    _check_network(config, network)
    _check_read(values, OBJECTIVES, *game.registries, NETWORKS, OPTIMIZERS, data.SOURCES)
    _check_data(config)
    _check_channels(config, values["model.channels"])
    metrics.check(config, game, taken=method(config).columns)
    _check_main_metric(config, game)
    _check_plugins(values, config, OBJECTIVES, *game.registries, NETWORKS, OPTIMIZERS)
    _check_devices(config, devices)
    if bool(config.train.epochs) == bool(config.train.steps):
        both = f"config.train.epochs={config.train.epochs} and config.train.steps={config.train.steps}"
        raise UserError(f"{both}: exactly one of the two must be above 0")
    check_steps(config)
    _check_score(config)
    _check_read(values, METHODS, SCORES)
    _check_needs(values, known)
    _check_plugins(values, config, METHODS)
    _check_pruning(config)
    _check_plugins(values, config, SCORES)
    check_components(config, "prune.components", config.prune.components)
    _check_seeds(config, known)
    _check_together(config)
    data.check(config.data.name, config.model.image_size, config.data.dir or None)
    data.find(config.data.name, config.data.dir or None).check(config)


# What plug-ins read and allow.


def _check_read(values, *registries):
    """Refuses a field that is not at its default and that only plug-ins read which are not chosen.

    A field that chooses several plug-ins at a time makes an exception: what one of them reads may be set without it.
    """
    for registry in registries:
        choice = values[registry.selector]
        if not isinstance(choice, str):
            continue
        chosen = {field.name for plugin in registry.chosen(choice) for field in all_fields(plugin)}
        for field in {field.name: field for plugin in registry.values() for field in all_fields(plugin)}.values():
            if field.name not in chosen and values[field.name] != field.default:
                readers = ", ".join(plugin.name for plugin in registry.values() if field in all_fields(plugin))
                allowed = f"{field.default!r} with config.{registry.selector}={choice!r}; it is read by {readers}"
                refuse(field.name, values[field.name], allowed)


def _check_needs(values, known):
    """Refuses a field that needs a capability which the method does not provide."""
    provided = METHODS[values["experiment"]].provides
    for field in known.values():
        if field.needs and field.needs not in provided and values[field.name] != field.default:
            readers = ", ".join(method.name for method in METHODS.values() if field.needs in method.provides)
            allowed = f"{field.default!r} with config.experiment={values['experiment']!r}; it is read by {readers}"
            refuse(field.name, values[field.name], allowed)


def _check_plugins(values, config, *registries):
    """Lets each chosen plug-in refuse what contradicts it."""
    for registry in registries:
        for plugin in registry.chosen(values[registry.selector]):
            plugin.check(config)


# Networks and data.


def _check_network(config, network):
    """Refuses a network of another objective, images of a size that it does not take, and what it has no use for."""
    name, objective = config.model.name, config.objective.name
    if network.objective != objective:
        made_for_it = [other.name for other in NETWORKS.values() if other.objective == objective]
        allowed = " or ".join(made_for_it) or "a network made for it, of which there is none,"
        refuse("model.name", name, f"{allowed} with config.objective.name={objective!r}")
    if config.model.image_size not in network.image_sizes:
        sizes = ", ".join(map(str, network.image_sizes))
        refuse("model.image_size", config.model.image_size, f"{sizes} with config.model.name={name!r}")
    if config.train.rematerialize and not network.has_blocks:
        refuse("train.rematerialize", True, f"False with config.model.name={name!r}, which has no blocks")


def _check_main_metric(config, game):
    first = metrics.chosen(config, game)[0]
    if not first.decides:
        can = ", ".join(name for name in metrics.possible(game) if metrics.METRICS[name].decides)
        refuse("eval.metrics", config.eval.metrics, f"one of {can} first: the first decides the verdict")


def _check_data(config):
    if config.model.conditional and not data.classes(config.data.name, config.data.dir or None):
        labelled = ", ".join(name for name, source in data.SOURCES.items() if source.classes)
        having = f"{labelled}, and files:PATH with one directory per class"
        reason = f"config.data.name={config.data.name!r} has no class labels; these data sets have: {having}"
        refuse("model.conditional", True, f"False, because {reason}")


def _check_channels(config, channels):
    """Refuses channels that the network does not have."""
    if not channels:
        return
    whole = config.model.copy_and_resolve_references()
    whole.channels = ConfigDict()
    components = models.build(whole, channels=3, classes=1)  # Axes of images and classes have no name.
    params, _ = jax.eval_shape(partial(models.init, components), jax.random.key(0))
    sizes = groups(params, models.axis_names(components).params)
    network = f"config.model.name={config.model.name!r}"
    for component, counts in channels.items():
        if not sizes.get(component):
            having = ", ".join(name for name, own in sizes.items() if own)
            refuse(f"model.channels.{component}", counts, f"that of {having} with {network}")
        for name, count in counts.items():
            field, size = f"model.channels.{component}.{name}", sizes[component].get(name)
            if size is None:
                refuse(field, count, f"that of {', '.join(sizes[component])} with {network}")
            if count > size:
                refuse(field, count, f"a whole number from 1 to {size} with config.model.width={config.model.width}")


# Devices and seeds.


def _check_devices(config, devices):
    """Refuses tickets that can't share the local devices, and batches that a ticket's devices can't."""
    at_once, batch_size = config.tickets_per_host, config.train.batch_size
    if devices % at_once or at_once > config.seeds:
        possible = [n for n in range(1, min(devices, config.seeds) + 1) if devices % n == 0]
        has = f"{devices} local device{'s' if devices > 1 else ''} and config.seeds={config.seeds}"
        refuse("tickets_per_host", at_once, f"{' or '.join(map(str, possible))} with {has}")
    if batch_size % (devices // at_once):
        of = " of each ticket" if at_once > 1 else ""
        refuse("train.batch_size", batch_size, f"a multiple of the {devices // at_once} devices{of}")


def _check_together(config):
    """Refuses seeds that can't train as one program."""
    together, most = config.tickets_per_device, config.seeds // config.tickets_per_host
    if together == 1:
        return
    reason = method(config).apart(config)
    if method(config).search_steps:
        reason = f"config.experiment={config.experiment!r}, whose searches end at different steps"
    if reason:
        refuse("tickets_per_device", together, f"1 with {reason}")
    if together > most:
        of = f"config.seeds={config.seeds} and config.tickets_per_host={config.tickets_per_host}"
        refuse("tickets_per_device", together, f"a whole number from 1 to {most} with {of}")


def _check_seeds(config, known):
    if config.seed + config.seeds > 2**32:
        refuse(
            "seeds",
            config.seeds,
            f"at most {2**32 - config.seed} with config.seed={config.seed}: seeds are below {2**32}",
        )
    default = known["confidence"].default
    if config.confidence != default and config.seeds == 1:
        allowed = f"{default}, the default, with config.seeds=1: one run tests nothing"
        refuse("confidence", config.confidence, allowed)


# Pruning.


def _check_score(config):
    """Refuses a score, or a structure, that the method can't prune by."""
    chosen, options, given = method(config), config.prune, f"config.experiment={config.experiment!r}"
    if parse_structure(options.structure).kind != "channel":
        scores = [score.name for score in SCORES.values() if chosen.scores(score)]
        if options.score not in scores:
            refuse("prune.score", options.score, f"{' or '.join(scores)} with {given}")
        return
    if chosen.channel_scores is None:
        able = [other.name for other in METHODS.values() if other.channel_scores]
        refuse("prune.structure", "channel", f"that with config.experiment={' or '.join(able)}")
    structure = "config.prune.structure='channel'"
    scores = [score.name for score in SCORES.values() if chosen.channel_scores(score)]
    if options.score not in scores:
        refuse("prune.score", options.score, f"{', '.join(scores)} with {given} and {structure}")
    if options.scope not in CHANNEL_SCOPES:
        refuse("prune.scope", options.scope, f"{', '.join(CHANNEL_SCOPES)} with {structure}")


def _check_pruning(config):
    """Refuses rounds that can't follow each other, and what the structure does not go with."""
    options, structure = config.prune, parse_structure(config.prune.structure)
    if method(config).prunes and len(levels(config)) < 2:
        given = f"config.experiment={config.experiment!r}"
        refuse("prune.rounds", 0, f"at least 1 with {given}; config.experiment='dense' prunes nothing")
    if list(options.sparsities) != sorted(set(options.sparsities)):
        refuse("prune.sparsities", options.sparsities, "a tuple that increases")
    if structure.kind == "n:m" and options.sparsities:
        allowed = f"(), because config.prune.structure={options.structure!r} has one sparsity"
        refuse("prune.sparsities", options.sparsities, allowed)
    if structure.kind != "channel" and options.channel_multiple != 1:
        refuse("prune.channel_multiple", options.channel_multiple, "1 with config.prune.structure other than 'channel'")
    if structure.kind != "channel" and options.target != "sparsity":
        refuse("prune.target", options.target, "'sparsity' with config.prune.structure other than 'channel'")
