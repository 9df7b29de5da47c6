"""The encoder, decoder and codebook of the VQ-VAE (van den Oord, Vinyals, Kavukcuoglu 2017).

The numbers of channels are width, 2 x width, 4 x width and 8 x width, as in the paper's reference (32-64-128-256). The
first two convolutions halve the resolution, so that 32x32 images become 8x8 codes, as in van den Oord et al., section
4.1.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from jaxtickets.models.convolutional import Stack, to_float32
from jaxtickets.models.initializers import named
from jaxtickets.models.layers import Conv, ConvTranspose, Static, Style


class ResidualLayer(nn.Module):
    """`x` plus the activation, a 3x3 convolution, the activation and a 1x1 convolution of `x`, one after another.

    Two residual layers end the encoder and two start the decoder.
    """

    features: int
    style: Style
    inputs: str

    @nn.compact
    def __call__(self, x):
        style, hidden, features = self.style, f"{self.name}/hidden", self.features
        names = {"inputs": self.inputs, "outputs": hidden, "name": "conv_1"}
        y = style.layer(Conv, features, 3, padding=1, use_bias=False, **names)(style.activation(x))
        names = {"inputs": hidden, "outputs": self.inputs, "name": "conv_2"}
        return x + style.layer(Conv, features, 1, use_bias=False, **names)(style.activation(y))


class QuantizedDown(Stack):
    """The encoder: images `[batch, size, size, channels]` -> `[batch, base, base, code_size]`, not quantised yet."""

    code_size: int = 32

    @nn.compact
    def __call__(self, images, train: bool, labels=None):
        _, middle, full = self.resolutions()
        x = self.stage(Conv, self.width, 4, f"down_{full}", None, stride=2, padding=1)(images, train)
        x = self.stage(Conv, 2 * self.width, 4, f"down_{middle}", f"down_{full}", stride=2, padding=1)(x, train)
        x = self.stage(Conv, 4 * self.width, 3, "conv_1", f"down_{middle}", padding=1)(x, train)
        x = self.style.layer(Conv, 8 * self.width, 3, padding=1, inputs="conv_1", outputs="stream", name="conv_2")(x)
        for number in (1, 2):
            x = self.style.block(ResidualLayer)(8 * self.width, self.style, "stream", name=f"residual_{number}")(x)
        x = self.style.activation(x)
        return to_float32(self.style.layer(Conv, self.code_size, 1, inputs="stream", name="project")(x))


class QuantizedUp(Stack):
    """The decoder: codes `[batch, base, base, code_size]` -> images `[batch, size, size, channels]` in [-1, 1]."""

    channels: int = 3

    @nn.compact
    def __call__(self, codes, train: bool, labels=None):
        _, middle, full = self.resolutions()
        x = self.style.layer(Conv, 8 * self.width, 3, padding=1, outputs="stream", name="unproject")(codes)
        for number in (1, 2):
            x = self.style.block(ResidualLayer)(8 * self.width, self.style, "stream", name=f"residual_{number}")(x)
        x = self.style.activation(x)
        x = self.stage(Conv, 4 * self.width, 3, "conv_2", "stream", padding=1)(x, train)
        x = self.stage(Conv, 2 * self.width, 3, "conv_1", "conv_2", padding=1)(x, train)
        x = self.stage(ConvTranspose, self.width, 4, f"up_{middle}", "conv_1")(x, train)
        image = self.last_stage(ConvTranspose, self.channels, 4, f"up_{full}", f"up_{middle}", self.style.squash)
        return to_float32(image(x, train))


class Codebook(nn.Module):
    """Vectors `[batch, h, w, code_size]` -> `(nearest codes [batch, h, w, code_size], their indices [batch, h, w])`.

    The codes are the parameter `embedding: [codes, code_size]`, initially uniform within 1 / sqrt(codes) of 0. With a
    `decay` above 0 they are no parameter: each code is a running average of the vectors that are nearest to it, and
    moves in training passes (van den Oord et al. 2017, appendix A.1). These are means over positions, not sums, so that
    they can be averaged over devices.
    """

    is_one_layer: ClassVar[bool] = True  # For `models.flows`.

    codes: int
    code_size: int
    decay: float = 0.0

    @nn.compact
    def __call__(self, vectors, train: bool, labels=None):
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=0, out_axis=1)
        shape = (self.codes, self.code_size)
        if self.decay:
            share = self.variable("batch_stats", "share", lambda: jnp.full(self.codes, 1 / self.codes, jnp.float32))
            total = self.variable(
                "batch_stats", "total", lambda: init(self.make_rng("params"), shape, jnp.float32) / self.codes
            )
            smoothed = (share.value + 1e-5) / (1 + self.codes * 1e-5)
            embedding = total.value / smoothed[:, None]
        else:
            embedding = self.param("embedding", named(init, None, None), shape)
            # Every code meets every vector.
            self.sow("kernel_uses", "embedding", Static(((math.prod(vectors.shape[1:-1]),),)))
        distances = jnp.square(embedding).sum(axis=-1) - 2 * vectors @ embedding.T
        indices = distances.argmin(axis=-1)
        if self.decay and train and not self.is_initializing():
            nearest = nn.one_hot(indices, self.codes).reshape(-1, self.codes)
            flat = vectors.reshape(-1, self.code_size)
            share.value = self.decay * share.value + (1 - self.decay) * nearest.mean(axis=0)
            total.value = self.decay * total.value + (1 - self.decay) * (nearest.T @ flat / flat.shape[0])
        return embedding[indices], indices
