"""Running averages of the parameters and batch statistics of the players that keep one (`Player.ema_decay`)."""

import jax.numpy as jnp
import optax


def start(objective, params, batch_stats) -> dict:
    """The averages before the first step, `{"params": ..., "batch_stats": ...}`; {} if no player keeps one."""
    names = list(_decays(objective))
    trees = {"params": params, "batch_stats": batch_stats}
    return {field: {name: tree[name] for name in names} for field, tree in trees.items()} if names else {}


def moved(objective, params, batch_stats, average, step) -> dict:
    """The averages after the step that follows `step` steps and has made these parameters and batch statistics."""
    newest, result = start(objective, params, batch_stats), {field: {} for field in average}
    for name, ema_decay in _decays(objective).items():
        # Young averages forget faster, so that the initial weights do not weigh on them.
        decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))
        for field, tree in average.items():
            result[field][name] = optax.incremental_update(newest[field][name], tree[name], 1 - decay)
    return result


def _decays(objective):
    """`{component: decay}` of the components whose average is kept."""
    players = [player for player in objective.players.values() if player.ema_decay]
    return {name: player.ema_decay for player in players for name in player.components}
