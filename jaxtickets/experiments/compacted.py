"""A round of a channel-pruned network: what is left trains as a smaller dense network."""

from jaxtickets import masks as mask_lib
from jaxtickets import snapshots, workdir
from jaxtickets.compact import compact
from jaxtickets.experiments import finished
from jaxtickets.experiments.run import Run, counts_of_layers
from jaxtickets.progress import say
from jaxtickets.pruning.channels import from_weight_masks


def train_compacted(run: Run, round_: int, masks, start, seconds: float = 0.0, columns=None) -> None:
    """What `Run.round` does, with the pruned channels taken out, in a workdir of its own within the run's.

    The compiled step of the whole network is given back first. The recorded seconds are those of training:
    `seconds` before, and those of the smaller network.

    Args:
      masks: of the weights; a channel without any is taken out.
      start: the whole network's state that training goes on from.
    """
    if run.is_finished(round_):
        return
    snapshots.save_masks(run.masks_path(round_), masks)
    kept = from_weight_masks(masks, run.setup.axis_names.params)
    run.setup.release()
    setup = run.setup.compacted(kept)
    path = run.path / f"compact_{round_:03d}"
    start = compact(start, kept, run.setup.axis_names)
    with Run(setup, path, run.seed, run.progress_within(round_), start) as small:
        small.round(0, setup.dense_masks, start)
        small.finish()
    (row,), dense = workdir.read_csv(path / "rounds.csv"), workdir.read_csv(run.path / "rounds.csv")[0]
    memory = [f"{(one['step_bytes'] or 0) / 2**20:,.1f} MiB" for one in (row, dense)]
    left = f"{row['flops_dense'] / run.setup.flops():.1%} of the FLOPs"
    say(f"round {round_}: {left} are left; a train step takes {memory[0]} instead of {memory[1]}")
    weights, kept = mask_lib.counts(masks)
    changes = {
        "sparsity": mask_lib.sparsity(masks),
        "sparsity_all": mask_lib.sparsity_all(masks, run.setup.params),
        "density": kept / weights,
        "flops_dense": run.setup.flops(),
        "train_seconds": round(seconds + row["train_seconds"], 3),
        **(columns or {}),
    }
    finished.adopt(run, path, row, round_, counts_of_layers(masks), **changes)
