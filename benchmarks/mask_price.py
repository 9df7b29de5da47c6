"""Times the train step with masks, without masks, and with two other ways to mask.

    python benchmarks/mask_price.py [--width=128] [--batch_size=100] [--repeats=15] [--out=FILE.json]

All steps are compiled from the same code and run in turn:

    unmasked    `None` in the place of each mask: nothing is multiplied
    masked      as in jaxtickets: boolean masks, multiplied inside the loss
    packed      the same, with eight weights per byte, unpacked in the step
    optimizer   masks in the state of an Optax wrapper that zeroes pruned weights after each update; gradients and
                moments of pruned weights are computed, and have no effect

The table gives the time of the unmasked step and the ratios to it: medians, each with its range over the repeats.
"""

import flax.struct
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtickets import train
from jaxtickets.devices import replicate


@flax.struct.dataclass
class Packed:
    """A mask with eight weights per byte, unpacked by the method that converts a boolean array."""

    bits: jax.Array
    shape: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def astype(self, dtype):
        return jnp.unpackbits(self.bits, count=int(np.prod(self.shape))).reshape(self.shape).astype(dtype)


def masking(masks) -> optax.GradientTransformation:
    """A transformation whose updates set every pruned weight to zero."""

    def update(updates, state, params):
        masked = jax.tree.map(
            lambda mask, step, leaf: jnp.where(mask, step, -leaf),
            state,
            updates,
            params,
        )
        return masked, state

    def init(params):
        return jax.tree.map(
            lambda leaf, mask: np.ones(leaf.shape, bool) if mask is None else mask,
            params,
            {name: masks[name] for name in params},
            is_leaf=lambda leaf: leaf is None,
        )

    return optax.GradientTransformation(init, update)


def runners(name, width, batch_size, steps):
    """One function per variant, which runs `steps` steps."""
    objective, optimizers, initial, dense = harness.training(name, width)
    nothing = jax.tree.map(lambda _: None, initial.params)
    packed = jax.tree.map(lambda mask: Packed(np.packbits(mask), mask.shape), dense)
    wrapped = {player: optax.chain(optimizer, masking(dense)) for player, optimizer in optimizers.items()}
    opt_state = {
        player: wrapped[player].init({component: initial.params[component] for component in parts.components})
        for player, parts in objective.players.items()
    }
    devices = jax.local_device_count()
    data = replicate((harness.random_images(batch_size), None))
    indices = np.arange(batch_size, dtype=np.int32).reshape(devices, -1)
    variants = {
        "unmasked": (optimizers, initial, nothing),
        "masked": (optimizers, initial, dense),
        "packed": (optimizers, initial, packed),
        "optimizer": (wrapped, initial.replace(opt_state=opt_state), nothing),
    }

    def runner(optimizers, state, masks):
        step = train.make_step(objective, optimizers, tuple(objective.players))
        state, masks = replicate(state), replicate(masks)

        def run():
            nonlocal state
            for _ in range(steps):
                state, _ = step(state, masks, data, indices)
            jax.block_until_ready(state)

        return run

    return {variant: runner(*parts) for variant, parts in variants.items()}


def main():
    parser = harness.parser(__doc__, repeats=15)
    parser.add_argument("--networks", default="dcgan,conv_vae,conv_ae")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2, help="the steps of a repeat")
    options = parser.parse_args()
    results = {}
    print(f"{'network':10} {'unmasked ms':>22} {'masked':>20} {'packed':>20} {'optimizer':>20}")
    for name in options.networks.split(","):
        seconds = harness.in_turn(runners(name, options.width, options.batch_size, options.steps), options.repeats)
        unmasked = harness.spread([1000 * value / options.steps for value in seconds["unmasked"]], 1)
        ratios = {key: harness.ratios(seconds, key, "unmasked") for key in ("masked", "packed", "optimizer")}
        print(f"{name:10} {unmasked:>22}", *(f"{harness.spread(values):>20}" for values in ratios.values()), flush=True)
        results[name] = {"seconds": seconds, "steps": options.steps, "ratios": ratios}
    harness.write(options, results)


if __name__ == "__main__":
    main()
