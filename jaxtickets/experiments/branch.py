"""Controls on every level of a finished run: what a ticket must beat to mean anything."""

import dataclasses

from jaxtickets import masks as mask_lib
from jaxtickets import snapshots
from jaxtickets.data import identity
from jaxtickets.errors import UserError
from jaxtickets.experiments import finished
from jaxtickets.experiments.method import Method
from jaxtickets.experiments.protocol import Run
from jaxtickets.fields import Field, choice, refuse, text
from jaxtickets.local_paths import local_path
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.origin import completed, differences, flat
from jaxtickets.pruning import SCORES
from jaxtickets.pruning.score import needs
from jaxtickets.train import rewind

KINDS = ("reinit", "random_pruning", "shuffled", "dense_short")
FIELDS = (
    Field("branch.of", "", text(), "The workdir of the finished run whose tickets get controls."),
    Field("branch.kind", "reinit", choice(*KINDS), "The control of each ticket."),
)
# Fields in which a control may differ from its run, because they change no number of its training. Fields that say how
# tickets were found are free too.
FREE = (
    *("experiment", "rewind_step", "seeds", "confidence", "tolerance", "keep_weights", "trained_in_ticket"),
    *("latent_pictures", "tickets_per_host", "tickets_per_device"),
    *("data.dir", "data.placement"),
    *("train.log_every", "train.checkpoint_every", "train.rematerialize", "train.steps_per_call"),
    "train.on_divergence",
)
PRUNABLE = ("include", "exclude", "components")  # All of `config.prune` that must be the same.


def branch(run: Run) -> None:
    """Trains a control for each ticket of the run in `config.branch.of`; its dense run is round 0 here too.

    reinit: the ticket's mask, other initial weights, from step 0 (Frankle, Carbin 2019, section 2). random_pruning: the
    rewind point with a new random mask of the same sparsity in each layer, drawn anew for each level. shuffled: the
    same with the ticket's mask permuted within each layer, by one permutation for all levels, so that its levels are
    nested as the ticket's are. dense_short: a dense network with as many parameters as the ticket keeps: the same
    architecture with less width.
    """
    parent = source(run.networks, run.seed)
    kind = run.config.branch.kind
    run.expect(len(parent.rows))
    run.adopt(parent.place, parent.rows[0], 0)
    if kind == "dense_short":
        for row in parent.rows[1:]:
            run.narrow_round(row)
        return
    score = SCORES[parent.config["prune"]["score"]]
    tracked = run.initial_state.params if "movement" in needs(score.weights) else {}
    saved_as = run.initial_state.replace(movement=tracked)
    point = snapshots.restore(parent.place.snapshot("rewind"), saved_as).replace(movement={})
    if kind == "reinit":
        # Other weights, but the same latents, batches and noise.
        fresh = run.fresh_state((run.seed + (1 << 31)) % (1 << 32))
        point = dataclasses.replace(fresh, seed=run.initial_state.seed)
    run.start_from(point)
    for round_, masks in parent.masks.items():
        if kind != "reinit":
            masks = mask_lib.shuffle(masks, run.seed + ((round_ if kind == "random_pruning" else 0) << 32))
        run.round(round_, masks, rewind(point, masks))


def source(networks, seed: int) -> finished.Finished:
    """The run that `config.branch.of` names.

    Raises:
      UserError: it is not finished, or was trained otherwise.
    """
    config = networks.config
    parent = finished.read(local_path(config.branch.of, "config.branch.of"), "branch.of", seed)
    here, there = networks.json_config | {"seed": seed}, completed(parent.config, networks.json_defaults)
    if here["eval"]["features"] == "auto":  # No metric reads it, else it would be a network's name.
        here["eval"] = here["eval"] | {"features": there["eval"]["features"]}
    if differing := differences(trained_as(there), trained_as(here)):
        raise UserError(f"config.branch.of={config.branch.of!r}: trained with another config: {differing}")
    what = f"config.branch.of={config.branch.of!r}"
    identity.check(parent.data, networks.data, what, "a control needs the data of its run")
    return parent


def trained_as(config):
    """The part of a config that decides how a ticket is trained: a control must share it with its run."""
    from jaxtickets.experiments import METHODS  # Here, because the registry holds this module's method.

    found_by = {field.name for method in METHODS.values() for field in method.fields}
    found_by |= {field.name for game in OBJECTIVES.values() for field in game.fields if field.needs}
    values = flat(config | {"prune": {name: config["prune"][name] for name in PRUNABLE}})
    return {name: value for name, value in values.items() if name not in found_by.union(FREE)}


def _check(config):
    if not config.branch.of:
        refuse("branch.of", "", "the workdir of a finished run")
    local_path(config.branch.of, "config.branch.of")


def _apart(config):
    is_narrow = config.branch.kind == "dense_short"
    return "config.branch.kind='dense_short', whose networks differ in size" if is_narrow else ""


BRANCH = Method(
    "branch",
    branch,
    fields=FIELDS,
    check=_check,
    prunes=False,
    subject=lambda config: f"control ({config.branch.kind})",
    title=lambda config: f"branch, {config.branch.kind}",
    source=source,
    rounds=lambda parent: 1 + len(parent.masks),
    apart=_apart,
)
