"""The train state, rewinding, the compiled step and the training loop."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxtickets import averages, finite, loop, models
from jaxtickets import masks as mask_lib
from jaxtickets.devices import AXIS, Devices
from jaxtickets.examples import example_keys, training_images
from jaxtickets.loop import Hook, Moment
from jaxtickets.objectives import Batch, Objective


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


def init_state(objective: Objective, optimizers, seed: int, track_movement: bool = False) -> TrainState:
    """The state before the first step."""

    @jax.jit
    def init(seed):
        params, batch_stats = models.init(objective.components, jax.random.key(seed))
        opt_state = {
            name: optimizers[name].init({component: params[component] for component in player.components})
            for name, player in objective.players.items()
        }
        average = averages.start(objective, params, batch_stats)
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
    final_rate: float = 1.0,
    steps: int = 1,
    l1=None,
    rate: float = 1.0,
) -> Callable:
    """The train step of the players `moving`, a pure function on each device of the mapped axis `AXIS`.

    Returns `step(state, masks, data, indices, teacher=None) -> (state, scalars)`. `data` is `(images: [n, h, w, c]
    uint8, labels: [n] int32 or None)`, the data set or one batch; `indices: [batch / devices]` int32 says which of
    them make up the device's share of the batch. With `indices: [rows, batch / devices]` the step after n steps takes
    row n % rows. Masks are arguments, so that every round runs the program that the first one compiled.

    Beside the players' scalars, `finite.FINITE` tells whether they and the gradients are finite (`finite.is_finite`).

    Each player in turn takes a step down its loss at the effective weights `masks.apply(params, masks)`; gradients,
    scalars and batch statistics are averaged over the devices. Which players move is decided outside, because
    XLA's CPU back end runs convolutions inside a conditional many times slower (docs/decisions/training.md).

    The learning rate falls linearly over `steps` steps to `final_rate` of what it was, and stays there. `teacher` is
    that of the losses' `Batch`. `l1`, a tree like the parameters, has the weight of |parameter| in the loss for each
    leaf that is penalised, None for the others. `rate` is a factor on every learning rate.
    """

    def step(state: TrainState, masks, data, indices, teacher=None):
        if indices.ndim == 2:
            indices = jax.lax.dynamic_index_in_dim(indices, state.step % len(indices), keepdims=False)
        examples = jax.lax.axis_index(AXIS) * indices.size + jnp.arange(indices.size)
        keys = partial(example_keys, state.seed, state.step, examples=examples)
        images, labels = jax.tree.map(lambda leaf: leaf[indices], data)
        images = training_images(images, state.seed, state.step, examples, flip)

        params, batch_stats, opt_state, scalars = state.params, state.batch_stats, dict(state.opt_state), {}
        movement, all_gradients = dict(state.movement), []
        for tag, name, player in tagged_players(objective):
            if name not in moving:
                continue
            own = {component: params[component] for component in player.components}

            def loss(own, player=player, params=params, batch_stats=batch_stats, tag=tag):
                effective = mask_lib.apply({**params, **own}, masks)
                return player.loss(effective, batch_stats, Batch(images, keys(tag), labels, teacher))

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
            all_gradients.append(gradients)
            with jax.named_scope("optimizer"):  # Its name in profiles.
                updates, opt_state[name] = optimizers[name].update(gradients, opt_state[name], own)
                if final_rate != 1:
                    progress = jnp.minimum(state.step / steps, 1)
                    updates = optax.tree.scale(1 - (1 - final_rate) * progress, updates)
                if rate != 1:
                    updates = optax.tree.scale(rate, updates)
                own = optax.apply_updates(own, updates)
            params = {**params, **(player.constrain(own) if player.constrain else own)}
            scalars |= player_scalars

        average = averages.moved(objective, params, batch_stats, state.average, state.step)
        step = state.step + 1
        trees = {"params": params, "batch_stats": batch_stats, "opt_state": opt_state}
        scalars = {**scalars, finite.FINITE: finite.is_finite(scalars, all_gradients)}
        return state.replace(step=step, average=average, movement=movement, **trees), scalars

    return step


def make_step(
    objective: Objective,
    optimizers,
    moving,
    steps_per_call: int = 1,
    devices: Devices = None,
    tickets: int = 1,
    **settings,
) -> Callable:
    """The `step_function` with these settings, mapped over the devices and compiled once.

    Every argument and result has a leading axis of devices. The state is donated.

    With `steps_per_call` above 1 the program is a loop over that number of steps, and its scalars are those of the last
    one; `finite.FINITE` counts the steps before the first that is not finite. `moving` then has the players of each
    step of a `period`, of which the loop does a whole number.

    With `tickets` above 1 the program trains that number of tickets, each with its own state, masks, indices and
    teacher on the same data: these, and the scalars, have an axis of tickets behind that of the devices.
    """
    turns = (moving,) if steps_per_call == 1 else moving
    functions = [step_function(objective, optimizers, players, **settings) for players in turns]

    def several(state, *arguments):
        def one_period(state, _):
            flags = []
            for step in functions:
                state, scalars = step(state, *arguments)
                flags.append(scalars[finite.FINITE])
            return state, (scalars, jnp.stack(flags))

        state, (scalars, flags) = jax.lax.scan(one_period, state, length=steps_per_call // len(turns))
        last = jax.tree.map(lambda values: values[-1], scalars)
        return state, {**last, finite.FINITE: finite.leading(flags)}

    program = functions[0] if steps_per_call == 1 else several
    if tickets > 1:
        program = jax.vmap(program, in_axes=(0, 0, None, 0, 0))
    return jax.pmap(program, axis_name=AXIS, donate_argnums=0, devices=devices)


def compiler_options(rematerialize: bool) -> dict[str, str] | None:
    """The options with which a lowered step is compiled, for a network that rematerialises its blocks.

    Before JAX 0.11, XLA's CPU back end takes away the barriers between the first computation and the second too early,
    and then merges the two (docs/decisions/speed.md).
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


# The training loop.


def train(
    program: Callable[[int, int], Callable],
    batches: Callable[[Iterable[range]], Iterable[tuple]],
    state: TrainState,
    masks,
    stop: int,
    hooks: Sequence[Hook] = (),
    *,
    steps_per_call: int = 1,
    teacher=None,
    seconds: float = 0.0,
    devices: Devices = None,
    seen: Callable[[range, Any, Any], None] = lambda block, scalars, finite_steps: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Moment:
    """Trains from `state` to step `stop`. Returns the last moment; `loop.train` does the same for several at a time.

    Between steps each hook that is due acts, in the given order. No program spans a step at which something is due: the
    steps of a block with such a step inside are done one by one, so that a training that was cut short does each step
    in the same program.

    Args:
      program: `(step, n) -> the compiled program of the n steps after that step`, as `make_step` makes it; n is 1 or
        `steps_per_call`.
      batches: `(blocks of steps) -> (block, data, indices) for each of them`, as `data.batches` gives them.
      state: where training starts, on the host or on one device.
      masks: the masks of the steps until a hook changes them.
      hooks: what is done between steps.
      steps_per_call: the number of steps that one program does where nothing is due between them.
      teacher: that of the losses' `Batch`.
      seconds: of training that has led to `state`.
      devices: what each batch is split over; None: all local devices.
      seen: called after each program with its steps, its scalars and its `finite.FINITE`, which are on the devices and
        may not be there yet.
      is_stopped: asked after each program; once it is true, training ends before the hooks that act `at_start`.
    """
    one = loop.Training(state, masks, hooks, teacher, seconds, lambda *told: seen(*told[:3]))
    (end,) = loop.train(
        program, batches, [one], stop, steps_per_call=steps_per_call, devices=devices, is_stopped=is_stopped
    )
    if isinstance(end, finite.DivergedError):
        raise end
    return end
