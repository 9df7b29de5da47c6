"""The state from which a round starts."""

from jaxtickets import train
from jaxtickets.train import TrainState


def rewound(run, masks, trained: TrainState) -> TrainState:
    """`trained` rewound under `masks`: see `Run.rewound`."""
    point, kind = run.rewind_point, run.config.rewind
    if kind == "weights":
        point = point.replace(opt_state=run.initial_state.opt_state)
    elif kind == "learning_rate":
        point = trained.replace(step=point.step)
    start = trained if kind == "none" else point
    if kept := run.networks.objective.kept:
        players = run.networks.objective.players.items()
        names = {"params": kept, "batch_stats": kept}
        names["opt_state"] = [name for name, player in players if set(player.components) <= set(kept)]
        trees = {
            field: getattr(start, field) | {name: getattr(run.dense, field)[name] for name in own}
            for field, own in names.items()
        }
        start = start.replace(**trees)
    return train.rewind(start, masks)
