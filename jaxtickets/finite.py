"""Numbers that are not finite: seen in the step that makes them, without a wait of the host."""

import jax
import jax.numpy as jnp
import numpy as np

FINITE = "finite_steps"  # What a train step reports beside its scalars.
READ = 8


class DivergedError(Exception):
    """A loss, a gradient, a train state or a metric is not finite.

    Attributes:
      step: the number of steps done when it was so for the first time.
      what: the quantity and its value, such as "loss is nan".
    """

    def __init__(self, step: int, what: str):
        super().__init__(f"{what} at step {step}")
        self.step, self.what = step, what


def is_finite(scalars: dict, gradients: list):
    """Whether the scalars of a step and its gradients are finite: 1 or 0, int32.

    Of each leaf of the gradients `READ` numbers are read. What is not finite behind a layer makes all gradients before
    it so; one that overflows by itself, elsewhere, shows in the losses of the next step. All this is one small kernel.
    A sum over each leaf is a kernel per leaf and takes 2 to 5 % of the step of a linear network
    (docs/decisions/training.md).

    Args:
      gradients: pytrees of arrays.
    """
    total = sum(value.astype(jnp.float32).sum() for value in scalars.values())
    for leaf in jax.tree.leaves(gradients):
        places = {round(number * (leaf.size - 1) / (READ - 1)) for number in range(READ)}
        total += sum(leaf.ravel()[place].astype(jnp.float32) for place in sorted(places))
    return jnp.isfinite(total).astype(jnp.int32)


def leading(flags):
    """The number of steps before the first that is not finite, from one flag per step, in their order."""
    return jnp.cumprod(flags.ravel()).sum(dtype=jnp.int32)


def all_finite(tree) -> bool:
    """Whether every number of a pytree of arrays on the host is finite."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if np.issubdtype(leaf.dtype, np.inexact))
