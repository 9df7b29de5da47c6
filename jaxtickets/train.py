"""The train state, rewinding and the compiled step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtickets import masks as mask_lib
from jaxtickets import models
from jaxtickets.objectives import Objective

AXIS = "devices"


@flax.struct.dataclass
class TrainState:
    """All that training carries from step to step; a rewind point is one of these.

    params and batch_stats are `{component: {layer: ...}}`, opt_state is `{player: Optax state}`.
    """

    step: jax.Array  # int32, the number of steps done.
    seed: jax.Array  # uint32; every random number of step k is a function of (seed, k).
    params: Any
    batch_stats: Any
    opt_state: dict[str, Any]


def adam(options) -> optax.GradientTransformation:
    """Adam (Kingma, Ba 2015) with L2 weight decay added to the gradient, as PyTorch's `Adam(weight_decay=...)`."""
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay) if options.weight_decay else optax.identity(),
        optax.adam(options.learning_rate, b1=options.beta1, b2=options.beta2),
    )


def init_state(objective: Objective, optimizer, seed: int) -> TrainState:
    """The state before the first step."""

    @jax.jit
    def init(seed):
        params, batch_stats = models.init(objective.components, jax.random.key(seed))
        opt_state = {
            player: optimizer.init({name: params[name] for name in components})
            for player, components in objective.players.items()
        }
        return TrainState(jnp.int32(0), jnp.uint32(seed), params, batch_stats, opt_state)

    return init(np.uint32(seed))


def rewind(point: TrainState, masks) -> TrainState:
    """The rewind point with every pruned weight, and its optimiser moments, set to zero.

    All that is kept equals the rewind point bit for bit. A pruned weight without moments has no update (its
    gradient is zero), so it stays exactly zero until the end of the round.
    """

    def mask_moments(player_state):
        # An Optax state holds moments as trees shaped like the parameters that the player trains.
        def is_moments(node):
            return isinstance(node, dict) and set(node) <= set(masks)

        return jax.tree.map(
            lambda node: mask_lib.apply(node, {name: masks[name] for name in node}) if is_moments(node) else node,
            player_state,
            is_leaf=is_moments,
        )

    return point.replace(
        params=mask_lib.apply(point.params, masks),
        opt_state={player: mask_moments(state) for player, state in point.opt_state.items()},
    )


def example_keys(seed, step, tag: int, examples):
    """One random key an example, a function of (seed, step, tag, the example's place in the whole batch)."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), tag)
    return jax.vmap(lambda example: jax.random.fold_in(key, example))(examples)


def to_float(images):
    """uint8 images in [0, 255] as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def _random_flip(images, keys):
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def make_step(objective: Objective, optimizer, flip: bool = False) -> Callable:
    """The train step, compiled once and mapped over the local devices.

    Returns `step(state, masks, images, indices) -> (state, scalars)`; every argument has a leading axis of
    devices. `images: [devices, n, h, w, c]` uint8 is the data set (or one batch), `indices: [devices, batch / devices]`
    int32 says which of them make up the batch. The state is donated. Masks are arguments, so that
    every round runs the program that the first one compiled.

    Each player in turn takes a step down its loss at the effective weights `masks.apply(params, masks)`; gradients,
    scalars and batch statistics are averaged over the devices.
    """

    def step(state: TrainState, masks, images, indices):
        examples = jax.lax.axis_index(AXIS) * indices.size + jnp.arange(indices.size)
        keys = partial(example_keys, state.seed, state.step, examples=examples)
        batch = to_float(images[indices])
        if flip:
            batch = _random_flip(batch, keys(0))

        params, batch_stats, opt_state, scalars = state.params, state.batch_stats, dict(state.opt_state), {}
        for tag, (player, components) in enumerate(objective.players.items(), start=1):
            own = {name: params[name] for name in components}

            def loss(own, player=player, params=params, batch_stats=batch_stats, tag=tag):
                effective = mask_lib.apply({**params, **own}, masks)
                return objective.losses[player](effective, batch_stats, batch, keys(tag))

            gradients, (batch_stats, player_scalars) = jax.grad(loss, has_aux=True)(own)
            gradients, batch_stats, player_scalars = jax.lax.pmean((gradients, batch_stats, player_scalars), AXIS)
            updates, opt_state[player] = optimizer.update(gradients, opt_state[player], own)
            params = {**params, **optax.apply_updates(own, updates)}
            scalars |= player_scalars
        return state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state), scalars

    return jax.pmap(step, axis_name=AXIS, donate_argnums=0)


@partial(jax.pmap, in_axes=(0, None))
def _broadcast(device, tree):
    del device
    return tree


def replicate(tree):
    """A copy of a pytree on each local device, along a new leading axis."""
    return _broadcast(np.arange(jax.local_device_count()), tree)


def unreplicate(tree):
    """The first device's copy, on the host."""
    return jax.device_get(jax.tree.map(lambda leaf: leaf[0], tree))
