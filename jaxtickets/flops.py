"""The command that shows FLOPs and parameters of a config's networks, layer by layer, before and after pruning.

python -m jaxtickets.flops --config=configs/gan_digits.py [--workdir=RUN [--round=N]]
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax

from jaxtickets import cli, data, ending, models, snapshots
from jaxtickets import config as config_lib
from jaxtickets.compact import compacted_config
from jaxtickets.cost import Layer, layers
from jaxtickets.errors import UserError
from jaxtickets.experiments import METHODS
from jaxtickets.origin import completed, differences
from jaxtickets.pruning import SCORES
from jaxtickets.pruning.channels import from_weight_masks
from jaxtickets.runs.networks import Networks
from jaxtickets.runs.scoring import pruned
from jaxtickets.tables import MAX_WIDTH, aligned, table_width
from jaxtickets.workdir import Workdir


def table(before: list[Layer], after: list[Layer] | None = None, masked: bool = False) -> str:
    """The layers and their totals as text, one line each, at most 110 characters wide.

    Args:
      before: the layers of a network.
      after: the same layers with fewer channels or weights, printed beside `before`.
      masked: whether `after` counts the kept weights of kernels that keep their size.
    """
    lines = "FLOPs in millions for one image: of a forward pass, and of its part in a train step."
    if after is None:
        header = ["layer", "kernel", "parameters", "forward MFLOPs", "step MFLOPs"]
        cells = [
            [name, _shape(row.shape), f"{row.parameters:,}", _mega(row.forward), _mega(row.step)]
            for name, row in _with_totals(before)
        ]
        return f"{lines}\n\n{aligned(header, cells, left=(0, 1))}"
    if masked:
        lines += "\nTheoretical: if pruned weights took no time. Dense hardware multiplies by them all the same."
    layouts = [_compared(before, after, masked, *layout) for layout in ((1, True), (1000, True), (1000, False))]
    fitting = next((text for text in layouts if table_width(text) <= MAX_WIDTH), layouts[-1])
    (_, first), (_, last) = _with_totals(before)[-1], _with_totals(after)[-1]
    fewer = [f"{1 - then / now:.1%} fewer" for now, then in zip(first[3:5], last[3:5], strict=True)]
    return f"{lines}\n\n{fitting}\n\nforward {fewer[1]} FLOPs, parameters {fewer[0]}"


def _compared(before, after, masked, unit, kernels):
    then = "theoretical" if masked else "after"
    header = ["layer", *(["kernel"] if kernels else []), "params" if unit == 1 else "k params"]
    header += ["kept" if masked else "after", "forward", then, "step", then, "left %"]
    cells = []
    for (name, now), (_, row) in zip(_with_totals(before), _with_totals(after), strict=True):
        shapes = [_shape(now.shape)] + ([_shape(row.shape)] if row.shape != now.shape else [])
        counts = [f"{kept:,}" if unit == 1 else f"{kept / unit:,.1f}" for kept in (now.parameters, row.parameters)]
        work = [_mega(flops) for flops in (now.forward, row.forward, now.step, row.step)]
        left = f"{100 * row.forward / now.forward:.1f}" if now.forward else "-"
        cells.append([name, *([" -> ".join(shapes)] if kernels else []), *counts, *work, left])
    return aligned(header, cells, left=(0, 1) if kernels else (0,))


def _with_totals(rows) -> list[tuple[str, Layer]]:
    """`(label of the line, row)`: for each component its total, then its layers; last the total of all."""

    def total(component, some):
        sums = (sum(column) for column in zip(*(row[3:] for row in some), strict=True))
        return Layer(component, "", None, *sums)

    lines = []
    for component in dict.fromkeys(row.component for row in rows):
        own = [row for row in rows if row.component == component]
        if component:
            lines.append((component, total(component, own)))
        lines += [(f"  {row.name}" if component else row.name, row) for row in own]
    return [*lines, ("all", total("all", rows))]


def _shape(shape):
    return "x".join(map(str, shape)) if shape else ""


def _mega(flops):
    return f"{flops / 1e6:,.3f}" if flops < 1e8 else f"{flops / 1e6:,.1f}"


# Configs and runs.


class Comparison(NamedTuple):
    """The arguments of `table`."""

    before: list[Layer]
    after: list[Layer] | None = None
    masked: bool = False


def config_layers(config, masks=None) -> list[Layer]:
    """The layers of the networks that a config describes; no data is loaded.

    Activations that `config.train.rematerialize` computes again count once: they change what a step costs, not what it
    computes.
    """
    config = config.copy_and_resolve_references()
    config.train.rematerialize = False
    channels = data.channels(config.data.name, config.data.background)
    image_shape = (config.model.image_size, config.model.image_size, channels)
    # `Networks.objective` averages batch statistics over the train step's mapped axis, which does not exist here.
    return layers(Networks(config).make_objective(), image_shape, config.train.batch_size, masks)


def compared(config, path: Path | None = None, round_: int | None = None) -> Comparison:
    """The cost of a config's networks before and after pruning.

    After pruning is a round: of the run in the workdir `path`, with its masks; without a workdir, the initial weights
    pruned to the round's level. With `config.model.channels`, and without workdir and round, the network with these
    channels is compared with the network with all.

    Args:
      config: the validated config.
      path: the workdir of a run.
      round_: the round; by default the last.

    Raises:
      UserError: see `round_masks`; or the config has no such round.
    """
    if path is None and round_ is None and config.model.channels:
        whole = config.copy_and_resolve_references()
        whole.model.channels = type(config)()
        return Comparison(config_layers(whole), config_layers(config))
    if path is None and not _is_pruned(config):
        if round_ is not None:
            raise UserError(f"--round={round_}: of which run? Give its --workdir too")
        return Comparison(config_layers(config))
    masks = preview_masks(config, round_) if path is None else round_masks(config, path, round_)
    before = config_layers(config)
    if config.prune.structure != "channel":
        return Comparison(before, config_layers(config, masks), masked=True)
    smaller = compacted_config(config, from_weight_masks(masks, Networks(config).axis_names.params))
    smaller.experiment, smaller.prune = "dense", config_lib.get_config().prune
    return Comparison(before, config_layers(smaller))


def _is_pruned(config):
    return METHODS[config.experiment].prunes


def preview_masks(config, round_: int | None = None):
    """The initial weights' masks, pruned to the level of a round, by default the last.

    They are pruned by `config.prune.score` if it reads weights only, else by magnitude.

    Raises:
      UserError: the config has no such round.
    """
    config = config.copy_and_resolve_references()
    if not SCORES[config.prune.score].reads_weights_only:
        config.prune.score = "filter_l1" if config.prune.structure == "channel" else "magnitude"
    networks = Networks(config)
    if round_ is None:
        round_ = len(networks.levels) - 1
    if not 0 <= round_ < len(networks.levels):
        raise UserError(f"--round={round_}: the config has no such round; allowed are 0 to {len(networks.levels) - 1}")
    params, batch_stats = jax.jit(partial(models.init, networks.components()))(jax.random.key(config.seed))
    run = SimpleNamespace(config=config, networks=networks, seed=config.seed)
    state = SimpleNamespace(params=params, batch_stats=batch_stats)
    return pruned(run, state, networks.dense_masks, networks.levels[round_])


def round_masks(config, path: Path, round_: int | None = None):
    """The masks of a finished round, by default the last, of the run in a workdir; of several seeds, the config's.

    Raises:
      UserError: there is no such round, or the run has other networks than the config.
    """
    run = Workdir(path).seed(config.seed)
    if (config_there := run.read_config()) is None:
        raise UserError(f"--workdir={path}: has no readable config.json; allowed is the workdir of a run")
    there = _choice_of_networks(completed(config_there, config_lib.missing_values(config)))
    if differing := differences(there, _choice_of_networks(config_lib.to_dict(config))):
        raise UserError(f"--workdir={path} belongs to a run of other networks: {differing}; give that run's --config")
    finished = {row["round"] for row in run.read_rounds()}
    rounds = sorted(number for number in finished if snapshots.exists(run.masks(number)))
    if not rounds:
        raise UserError(f"--workdir={path}: no round with masks has finished there; allowed is one where some has")
    if round_ is None:
        round_ = rounds[-1]
    if round_ not in rounds:
        raise UserError(f"--round={round_}: {path} has no such masks; allowed are {', '.join(map(str, rounds))}")
    return snapshots.restore_masks_raw(run.masks(round_), Networks(config).params)


def _choice_of_networks(config: dict) -> dict:
    """The part of a config, of JSON values, that decides the shapes of the networks' parameters."""
    return {"model": config["model"], "data": {"name": config["data"]["name"]}}


def run() -> None:
    """Runs the command; a user's mistake is one line on standard error and exit status 2."""

    def show(config, path, round):
        config_lib.validate(config, jax.local_device_count())
        print(table(*compared(config, path, round)))
        if path is None and _is_pruned(config) and not config.model.channels:
            print("After: the initial weights, pruned. For the masks of a run, give --workdir=RUN [--round=N]")

    cli.start(show, round="The round that is compared, of the config or of --workdir (default: the last).")


if __name__ == "__main__":
    ending.run(lambda _: run())
