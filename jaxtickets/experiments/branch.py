"""Controls on every level of a finished run: what a ticket must beat to mean anything."""

import dataclasses
from pathlib import Path

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import snapshots, workdir
from jaxtickets.errors import UserError
from jaxtickets.experiments import finished
from jaxtickets.experiments.dense import dense
from jaxtickets.experiments.run import Run
from jaxtickets.experiments.setup import Setup
from jaxtickets.models import parameter_count
from jaxtickets.progress import say
from jaxtickets.train import rewind

# What may differ between a run and a control of it: how tickets were found, and what changes no number.
FREE = (
    *("experiment", "early_bird", "branch", "transfer", "seeds", "tickets_per_host", "confidence", "tolerance"),
    *("rewind", "rewind_step", "rewind_discriminator"),
)
FREE_IN = {
    "objective": ("distillation",),
    "data": ("dir", "placement"),
    "train": ("log_every", "checkpoint_every", "rematerialize", "steps_per_call"),
}
PRUNABLE = ("include", "exclude", "components")  # All of `config.prune` that must be the same.


def branch(run: Run) -> None:
    """Trains a control for each ticket of the run in `config.branch.of`; its dense run is round 0 here too.

    reinit: the ticket's mask, other initial weights, from step 0 (Frankle, Carbin 2019, section 2). random_pruning: the
    rewind point with a new random mask of the same sparsity in each layer, drawn anew for each level. shuffled: the
    same with the ticket's mask permuted within each layer, by one permutation for all levels, so that its levels are
    nested as the ticket's are. dense_short: a dense network with as many parameters as the ticket keeps: the same
    architecture with less width.
    """
    parent = source(run.config, run.seed)
    kind = run.config.branch.kind
    run.expect(len(parent.rows))
    finished.adopt(run, parent.path, parent.rows[0], 0)
    if kind == "dense_short":
        for row in parent.rows[1:]:
            _dense_short(run, row)
        return
    tracked = run.initial_state.params if parent.config["prune"]["score"] == "movement" else {}
    saved_as = run.initial_state.replace(movement=tracked)
    point = snapshots.restore(parent.path / "snapshots" / "rewind", saved_as).replace(movement={})
    if kind == "reinit":
        # Other weights, but the same latents, batches and noise.
        fresh = run.setup.init((run.seed + (1 << 31)) % (1 << 32))
        point = dataclasses.replace(fresh, seed=run.initial_state.seed)
    run.start_from(point)
    for round_, masks in parent.masks.items():
        if kind != "reinit":
            masks = mask_lib.shuffle(masks, run.seed + ((round_ if kind == "random_pruning" else 0) << 32))
        run.round(round_, masks, rewind(point, masks))


def source(config, seed: int) -> finished.Finished:
    """The run that `config.branch.of` names.

    Raises:
      UserError: it is not finished, or was trained otherwise.
    """
    parent = finished.read(Path(config.branch.of), "branch.of", seed)
    here = config_lib.to_dict(config) | {"seed": seed}
    if differing := workdir.differences(_trained_as(parent.config), _trained_as(here)):
        raise UserError(f"config.branch.of={config.branch.of!r}: trained with another config: {differing}")
    return parent


def _trained_as(config):
    """The part of a config that a control must share with its run."""
    kept = {name: value for name, value in config.items() if name not in FREE}
    kept["prune"] = {name: config["prune"][name] for name in PRUNABLE}
    for group, names in FREE_IN.items():
        kept[group] = {name: value for name, value in config[group].items() if name not in names}
    return kept


def _dense_short(run, row):
    """Trains the narrower dense network in a workdir of its own, and records it with the ticket's sparsity."""
    config = run.config.copy_and_resolve_references()
    config.experiment = "dense"
    config.branch = config_lib.get_config().branch
    config.model.channels = {}
    config.model.width, parameters = width_for(run.setup, row["params_kept"])
    if abs(parameters / row["params_kept"] - 1) > 0.2:
        say(
            f"round {row['round']}: the ticket keeps {row['params_kept']:,} parameters; the nearest dense network, of "
            f"width {config.model.width}, has {parameters:,}"
        )
    path = run.path / f"dense_{row['round']:03d}"
    with Run(Setup(config, like=run.setup), path, run.seed, run.progress_within(row["round"])) as narrow:
        dense(narrow)
        narrow.finish()
    (narrow_row,) = workdir.read_csv(path / "rounds.csv")
    same = {name: row[name] for name in ("sparsity", "sparsity_all", "density", "flops_dense")}
    finished.adopt(run, path, narrow_row, row["round"], **same)


def width_for(setup: Setup, parameters: int) -> tuple[int, int]:
    """The width at which the config's network has nearest to so many parameters, and how many these are."""

    def count(width):
        return parameter_count(setup.components(width=width))

    low, high = 1, setup.config.model.width
    while high - low > 1:  # More width is never fewer parameters.
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    width = min((low, high), key=lambda width: abs(count(width) - parameters))
    return width, count(width)
