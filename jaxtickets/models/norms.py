"""Norms: conditional batch norm, layer norm, and the spectral norm of kernels."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxtickets.models.initializers import named

# The named scope of work on weights, which is done once per batch.
SPECTRAL_NORM = "spectral_norm"


def _unit(vector):
    return vector / (jnp.linalg.norm(vector) + 1e-12)


@jax.named_scope(SPECTRAL_NORM)
def spectral_normalize(module: nn.Module, kernel):
    """`kernel` divided by its largest singular value as a matrix `[everything else, out]`.

    Miyato et al. 2018, section 2: one power iteration per training pass. The left vector `u` is among the batch
    statistics and, like them, moves only in training. The gradient goes through the singular value, with its vectors
    held constant (algorithm 1).
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    u = module.variable(
        "batch_stats", "u", lambda: _unit(jax.random.normal(module.make_rng("params"), matrix.shape[-1:]))
    )
    left = _unit(u.value)  # A running average of unit vectors is shorter than one.
    right = _unit(lax.stop_gradient(matrix) @ left)
    if module.is_mutable_collection("batch_stats") and not module.is_initializing():
        moved = right @ lax.stop_gradient(matrix)
        left = u.value = jnp.where(moved.any(), _unit(moved), left)  # An all-zero kernel has no direction.
    return kernel / jnp.maximum(right @ matrix @ left, 1e-12)


class ConditionalBatchNorm(nn.Module):
    """Batch norm with one scale and one bias per class and channel (Dumoulin et al. 2017; Miyato, Koyama 2018)."""

    classes: int
    channels: str
    scale_init: Callable
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool, labels):
        statistics = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            use_scale=False,
            use_bias=False,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name="statistics",
        )
        shape = (self.classes, x.shape[-1])
        scale = self.param("scale", named(self.scale_init, None, self.channels), shape)
        bias = self.param("bias", named(nn.initializers.zeros, None, self.channels), shape)
        scale, bias = (table[labels][:, None, None].astype(self.dtype) for table in (scale, bias))
        return statistics(x) * scale + bias


class LayerNorm(nn.Module):
    """Layer norm over each whole image of `x: [batch, h, w, c]` (Gulrajani et al. 2017, section 4).

    There are one scale and one bias per channel. Mean and variance are those of `features` channels: the channels that
    a compacted network lacks count as zeros, which they are in the masked network.
    """

    features: int
    channels: str
    scale_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", named(self.scale_init, self.channels), x.shape[-1:])
        bias = self.param("bias", named(nn.initializers.zeros, self.channels), x.shape[-1:])
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        present = x.shape[-1] / self.features
        mean = present * x.mean(axis=(1, 2, 3), keepdims=True)
        mean_square = present * jnp.square(x).mean(axis=(1, 2, 3), keepdims=True)
        variance = jnp.maximum(mean_square - jnp.square(mean), 0)
        return ((x - mean) * (lax.rsqrt(variance + 1e-5) * scale) + bias).astype(self.dtype)
