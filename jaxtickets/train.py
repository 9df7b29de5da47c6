"""The train state, rewinding and the compiled step."""

import math
from collections.abc import Callable
from functools import cache, partial
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
Devices = tuple[jax.Device, ...] | None  # What a training is spread over; None: all local ones.


@flax.struct.dataclass
class TrainState:
    """All that training carries from step to step; a rewind point is one of these.

    params and batch_stats are `{component: {layer: ...}}`, opt_state is `{player: Optax state}`. average holds the
    running averages of `params` and `batch_stats` of the players that are averaged, and is empty if none is. movement
    holds the sums of -gradient * weight over all steps, like `params`, and is empty if no score reads them.
    """

    step: jax.Array  # int32, the number of steps done.
    seed: jax.Array  # uint32; every random number of step k is a function of (seed, k).
    params: Any
    batch_stats: Any
    opt_state: dict[str, Any]
    average: dict[str, Any]
    movement: dict[str, Any]


def make_optimizers(objective: Objective, options) -> dict[str, optax.GradientTransformation]:
    """For each player Adam (Kingma, Ba 2015), or RMSProp (Tieleman, Hinton 2012), with L2 weight decay.

    The decay is added to the gradient, as PyTorch's `Adam(weight_decay=...)` does. Two learning rates for two
    players are Heusel et al. 2017's two time-scale update rule.
    """

    def optimizer(learning_rate):
        decay = optax.add_decayed_weights(options.weight_decay) if options.weight_decay else optax.identity()
        if options.name == "rmsprop":
            return optax.chain(decay, optax.rmsprop(learning_rate, decay=options.beta2))
        return optax.chain(decay, optax.adam(learning_rate, b1=options.beta1, b2=options.beta2))

    rates = dict.fromkeys(objective.players, options.learning_rate)
    if "discriminator" in rates:
        rates["discriminator"] = options.discriminator_learning_rate or options.learning_rate
    return {player: optimizer(rate) for player, rate in rates.items()}


def _averaged(objective, params, batch_stats):
    players = [player for player in objective.players.values() if player.averaged]
    names = [name for player in players for name in player.components]
    trees = {"params": params, "batch_stats": batch_stats}
    return {field: {name: tree[name] for name in names} for field, tree in trees.items()} if names else {}


def init_state(objective: Objective, optimizers, seed: int, track_movement: bool = False) -> TrainState:
    """The state before the first step."""

    @jax.jit
    def init(seed):
        params, batch_stats = models.init(objective.components, jax.random.key(seed))
        opt_state = {
            name: optimizers[name].init({component: params[component] for component in player.components})
            for name, player in objective.players.items()
        }
        average = _averaged(objective, params, batch_stats)
        movement = jax.tree.map(jnp.zeros_like, params) if track_movement else {}
        return TrainState(jnp.int32(0), jnp.uint32(seed), params, batch_stats, opt_state, average, movement)

    return init(jnp.uint32(seed))


def rewind(point: TrainState, masks) -> TrainState:
    """The rewind point with every pruned weight, and its optimiser moments and running average, set to zero.

    All that is kept equals the rewind point bit for bit. A pruned weight without moments has no update (its
    gradient is zero), so it stays exactly zero until the end of the round.
    """

    def masked(tree):
        return mask_lib.apply(tree, {name: masks[name] for name in tree})

    average = point.average
    if average:
        average = {**average, "params": masked(average["params"])}
    opt_state = {player: mask_lib.map_components(masked, state, masks) for player, state in point.opt_state.items()}
    return point.replace(params=mask_lib.apply(point.params, masks), opt_state=opt_state, average=average)


def evaluated(state: TrainState) -> tuple[dict, dict]:
    """`(params, batch_stats)` that samples and metrics are made with: running averages where there are any."""
    params = {**state.params, **state.average.get("params", {})}
    return params, {**state.batch_stats, **state.average.get("batch_stats", {})}


def example_keys(seed, step, tag: int, examples):
    """One random key an example, a function of (seed, step, tag, the example's place in the whole batch)."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), tag)
    return jax.vmap(lambda example: jax.random.fold_in(key, example))(examples)


def training_images(images, seed, step, examples, flip: bool):
    """The uint8 images of a batch as a step sees them: `[batch, h, w, c]` float32 in [-1, 1], mirrored if `flip`."""
    images = to_float(images)
    return _random_flip(images, example_keys(seed, step, 0, examples)) if flip else images


def to_float(images):
    """uint8 images in [0, 255] as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def _random_flip(images, keys):
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def movers(objective: Objective, step: int) -> tuple[str, ...]:
    """The players that move in the step after `step` steps."""
    return tuple(name for name, player in objective.players.items() if (step + 1) % player.every == 0)


def period(objective: Objective) -> tuple[tuple[str, ...], ...]:
    """The players that move in each step, from the first on, until their moves repeat."""
    length = math.lcm(*(player.every for player in objective.players.values()))
    return tuple(movers(objective, step) for step in range(length))


def tagged_players(objective: Objective):
    """`(tag, name, player)` in the order of their moves; the tag tells a player's random numbers from another's."""
    return [(tag, name, player) for tag, (name, player) in enumerate(objective.players.items(), start=1)]


def step_function(
    objective: Objective,
    optimizers,
    moving: tuple[str, ...],
    flip: bool = False,
    ema_decay: float = 0.0,
    final_rate: float = 1.0,
    steps: int = 1,
    l1=None,
) -> Callable:
    """The train step of the players `moving`, a pure function on each device of the mapped axis `AXIS`.

    Returns `step(state, masks, data, indices, teacher=None) -> (state, scalars)`. `data` is `(images: [n, h, w, c]
    uint8, labels: [n] int32 or None)`, the data set or one batch; `indices: [batch / devices]` int32 says which of
    them make up the device's share of the batch. With `indices: [rows, batch / devices]` the step after n steps takes
    row n % rows. Masks are arguments, so that every round runs the program that the first one compiled.

    Each player in turn takes a step down its loss at the effective weights `masks.apply(params, masks)`; gradients,
    scalars and batch statistics are averaged over the devices. Which players move is decided outside, because
    XLA's CPU back end runs convolutions inside a conditional many times slower (docs/decisions.md).

    The learning rate falls linearly over `steps` steps to `final_rate` of what it was, and stays there. `teacher` is
    the discriminator that `Player.loss` may be given. `l1`, a tree like the parameters, has the weight of |parameter|
    in the loss for each leaf that is penalised, None for the others.
    """

    def step(state: TrainState, masks, data, indices, teacher=None):
        if indices.ndim == 2:
            indices = jax.lax.dynamic_index_in_dim(indices, state.step % len(indices), keepdims=False)
        examples = jax.lax.axis_index(AXIS) * indices.size + jnp.arange(indices.size)
        keys = partial(example_keys, state.seed, state.step, examples=examples)
        images, labels = jax.tree.map(lambda leaf: leaf[indices], data)
        images = training_images(images, state.seed, state.step, examples, flip)

        params, batch_stats, opt_state, scalars = state.params, state.batch_stats, dict(state.opt_state), {}
        movement = dict(state.movement)
        for tag, name, player in tagged_players(objective):
            if name not in moving:
                continue
            own = {component: params[component] for component in player.components}

            def loss(own, player=player, params=params, batch_stats=batch_stats, tag=tag):
                effective = mask_lib.apply({**params, **own}, masks)
                return player.loss(effective, batch_stats, images, keys(tag), labels, teacher)

            gradients, (batch_stats, player_scalars) = jax.grad(loss, has_aux=True)(own)
            gradients, batch_stats, player_scalars = jax.lax.pmean((gradients, batch_stats, player_scalars), AXIS)
            if l1 is not None:
                for component in player.components:
                    gradients[component] = jax.tree.map(
                        lambda gradient, leaf, weight: (
                            gradient if weight is None else gradient + weight * jnp.sign(leaf)
                        ),
                        *(tree[component] for tree in (gradients, own, l1)),
                    )
            for component in player.components if movement else ():
                movement[component] = jax.tree.map(
                    lambda total, gradient, leaf: total - gradient * leaf,
                    *(tree[component] for tree in (movement, gradients, own)),
                )
            updates, opt_state[name] = optimizers[name].update(gradients, opt_state[name], own)
            if final_rate != 1:
                progress = jnp.minimum(state.step / steps, 1)
                updates = optax.tree.scale(1 - (1 - final_rate) * progress, updates)
            own = optax.apply_updates(own, updates)
            params = {**params, **(player.constrain(own) if player.constrain else own)}
            scalars |= player_scalars

        average = state.average
        if average:
            # Young averages forget faster, so that the initial weights do not weigh on them.
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
            average = optax.incremental_update(_averaged(objective, params, batch_stats), average, 1 - decay)
        step = state.step + 1
        trees = {"params": params, "batch_stats": batch_stats, "opt_state": opt_state}
        return state.replace(step=step, average=average, movement=movement, **trees), scalars

    return step


def make_step(
    objective: Objective, optimizers, moving, steps_per_call: int = 1, devices: Devices = None, **settings
) -> Callable:
    """The `step_function` with these settings, mapped over the devices and compiled once.

    Every argument and result has a leading axis of devices. The state is donated.

    With `steps_per_call` above 1 the program is a loop over so many steps, and its scalars are those of the last one.
    `moving` then has the players of each step of a `period`, of which the loop does a whole number.
    """
    turns = (moving,) if steps_per_call == 1 else moving
    functions = [step_function(objective, optimizers, players, **settings) for players in turns]

    def loop(state, *arguments):
        def one_period(state, _):
            for step in functions:
                state, scalars = step(state, *arguments)
            return state, scalars

        state, scalars = jax.lax.scan(one_period, state, length=steps_per_call // len(turns))
        return state, jax.tree.map(lambda values: values[-1], scalars)

    program = functions[0] if steps_per_call == 1 else loop
    return jax.pmap(program, axis_name=AXIS, donate_argnums=0, devices=devices)


def compiler_options(rematerialize: bool) -> dict[str, str] | None:
    """What the `compile` of a lowered step needs for a network that rematerialises its blocks.

    Before JAX 0.11, XLA's CPU back end takes away the barriers between the first computation and the second too early,
    and then merges the two (docs/decisions.md).
    """
    if rematerialize and jax.default_backend() == "cpu" and jax.__version_info__ < (0, 11):
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return None


def program_bytes(program: jax.stages.Compiled) -> int | None:
    """The memory of a compiled program on a device: arguments, results and what lies between, by XLA's own account.

    None where the back end gives none.
    """
    analysis = program.memory_analysis()
    if analysis is None:
        return None
    passing = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return passing + analysis.temp_size_in_bytes


@cache
def _broadcast(devices):
    return jax.pmap(lambda device, tree: tree, in_axes=(0, None), devices=devices)


def replicate(tree, devices: Devices = None):
    """A copy of a pytree on each device, along a new leading axis."""
    return _broadcast(devices)(np.arange(device_count(devices)), tree)


def device_count(devices: Devices) -> int:
    """How many devices they are."""
    return len(devices or jax.local_devices())


def unreplicate(tree):
    """The first device's copy, on the host."""
    return jax.device_get(jax.tree.map(lambda leaf: leaf[0], tree))
