"""Rounds that another network trains, in a workdir of its own within the run's: compacted ones and narrow ones."""

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import snapshots, trained
from jaxtickets.compact import compact
from jaxtickets.experiments.dense import DENSE
from jaxtickets.models import parameter_count
from jaxtickets.progress import say
from jaxtickets.pruning.channels import from_weight_masks
from jaxtickets.runs import diverging
from jaxtickets.runs.setup import Setup
from jaxtickets.workdir import Workdir


def train_compacted(run, round_: int, masks, start, seconds: float = 0.0, columns=None) -> None:
    """Does what `Run.round` does with the pruned channels taken out.

    The compiled step of the whole network is given back first. The recorded seconds are those of training:
    `seconds` before, and those of the smaller network.

    Args:
      masks: of the weights; a channel without any is taken out.
      start: the whole network's state that training goes on from.
    """
    if run.is_finished(round_):
        return
    snapshots.save_masks(run.place.masks(round_), masks)
    names = run.networks.axis_names
    kept = from_weight_masks(masks, names.params)
    run.setup.release()
    setup, place = run.setup.compacted(kept), run.place.compact(round_)
    start = compact(start, kept, names)
    with run.within(round_, setup, place, start) as small:
        small.divergences += diverging.inherited(run, round_)
        small.round(0, setup.dense_masks, start)
        small.finish()
    (row,), dense = place.read_rounds(), run.place.read_rounds()[0]
    memory = [f"{(one['step_bytes'] or 0) / 2**20:,.1f} MiB" for one in (row, dense)]
    left = f"{row['flops_dense'] / run.networks.flops():.1%} of the FLOPs"
    say(f"round {round_}: {left} are left; a train step takes {memory[0]} instead of {memory[1]}")
    weights, n_kept = mask_lib.counts(masks)
    changes = {
        "sparsity": mask_lib.sparsity(masks),
        "sparsity_all": mask_lib.sparsity_all(masks, run.networks.params),
        "density": n_kept / weights,
        "flops_dense": run.networks.flops(),
        "train_seconds": round(seconds + row["train_seconds"], 3),
        **(columns or {}),
    }
    adopt(run, place, row, round_, counts_of_layers(masks), **changes)


def train_narrow(run, row: dict) -> None:
    """Trains the narrower dense network with the parameters that a ticket's `row` keeps.

    It is recorded as the ticket's round, with the ticket's sparsity.
    """
    config, defaults = run.config.copy_and_resolve_references(), config_lib.get_config()
    config.experiment = DENSE.name
    config.update_from_flattened_dict({field.name: field.default for field in config_lib.method(run.config).fields})
    config.model.channels = defaults.model.channels
    config.model.width, parameters = width_for(run.networks, row["params_kept"])
    if abs(parameters / row["params_kept"] - 1) > 0.2:
        say(
            f"round {row['round']}: the ticket keeps {row['params_kept']:,} parameters; the nearest dense network, of "
            f"width {config.model.width}, has {parameters:,}"
        )
    setup, place = Setup(config, like=run.setup), run.place.narrow(row["round"])
    with run.within(row["round"], setup, place) as narrow:
        narrow.round(0, narrow.dense_masks, narrow.initial_state)
        narrow.finish()
    (narrow_row,) = place.read_rounds()
    same = {name: row[name] for name in ("sparsity", "sparsity_all", "density", "flops_dense")}
    adopt(run, place, narrow_row, row["round"], **same)


def width_for(networks, parameters: int) -> tuple[int, int]:
    """The width at which the config's network comes nearest to a number of parameters, and its number of them."""

    def count(width):
        return parameter_count(networks.components(width=width))

    low, high = 1, networks.config.model.width
    while high - low > 1:  # More width is never fewer parameters.
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    width = min((low, high), key=lambda width: abs(count(width) - parameters))
    return width, count(width)


def adopt(run, place: Workdir, row: dict, round_: int, layers: list[dict] | None = None, **changes) -> None:
    """Records the round `row` of another workdir, with changed columns, as the round `round_` of `run`.

    What it has logged is logged here too, and its trained weights are copied, if there are any; with round 0 the
    references too. Its rows of `layers.csv` are `layers`, if given.
    """
    if run.is_finished(round_):
        return
    if layers is None:
        layers = [
            {name: value for name, value in layer.items() if name != "round"}
            for layer in place.read_layers()
            if layer["round"] == row["round"]
        ]
    for logged in place.read_scalars(row["round"]):
        scalars = {name: value for name, value in logged.items() if name not in ("round", "step", "split", "seconds")}
        run.log(round_, logged["step"], logged["split"], logged["seconds"], scalars)
    trained.take_over(run.place, round_, place, row["round"])
    if round_ == 0 and (references := place.read_references()):
        run.place.write_references(references)
    samples = place.read_samples(row["round"]) if row.get("diverged_step") is None else None
    run.record({**row, "round": round_, **changes}, layers, samples)


def counts_of_layers(masks) -> list[dict]:
    """The rows of `layers.csv` without the round."""
    layers = mask_lib.layer_counts(masks).items()
    return [{"layer": name, "weights": layer.weights, "kept": layer.kept} for name, layer in layers]
