"""Residual stacks: SNGAN's ResNet, SAGAN, ResNet-DCGAN and the ResNet VAE.

As in `convolutional`, a block is named by its larger resolution, and two blocks of the same name and number of
channels have the same shapes in a GAN and in a VAE. The channels of a block's sum have the name of the block, unless
its shortcut is the identity: then they are the channels of its input.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtickets.models import layers
from jaxtickets.models.convolutional import Stack, to_float32
from jaxtickets.models.initializers import named
from jaxtickets.models.layers import Conv, ConvPool, Dense, Static, Style, Unproject, UpsampleConv
from jaxtickets.models.norms import spectral_normalize


class UpBlock(nn.Module):
    """Norm, activation, upsampling, 3x3, norm, activation, 3x3, plus a 1x1 shortcut (Miyato et al. 2018, figure 4a).

    `in_features` is the number of input channels in the architecture, here as in all blocks; a compacted network has
    fewer.
    """

    features: int
    style: Style
    inputs: str
    in_features: int

    @nn.compact
    def __call__(self, x, train: bool, labels=None):
        style, hidden = self.style, f"{self.name}/hidden"
        y = style.activation(style.normalize(x, self.inputs, self.in_features, train, labels, name="norm_1"))
        use_bias = style.norm != "batch"
        y = style.layer(
            UpsampleConv, self.features, 3, use_bias=use_bias, inputs=self.inputs, outputs=hidden, name="conv_1"
        )(y)
        y = style.activation(style.normalize(y, hidden, self.features, train, labels, name="norm_2"))
        y = style.layer(Conv, self.features, 3, padding=1, inputs=hidden, outputs=self.name, name="conv_2")(y)
        # A 1x1 convolution and upsampling commute; there are a quarter of the pixels before upsampling.
        shortcut = style.layer(
            Conv, self.features, 1, use_bias=False, inputs=self.inputs, outputs=self.name, name="shortcut"
        )
        return y + layers.upsample(shortcut(x))


class DownBlock(nn.Module):
    """Norm, activation, 3x3, norm, activation, 3x3, the mean over 2x2 pixels if `down`, plus a shortcut.

    The shortcut is a 1x1 convolution if the block changes the resolution or the number of channels, else the identity.
    The `first` block reads images and starts with its convolution (Miyato et al. 2018, figure 4b and the code's
    optimised block).
    """

    features: int
    style: Style
    inputs: str | None
    in_features: int
    down: bool = True
    first: bool = False

    @nn.compact
    def __call__(self, x, train: bool, labels=None):
        style, hidden = self.style, f"{self.name}/hidden"
        outputs = self.outputs()
        y = x
        if not self.first:
            y = style.activation(style.normalize(x, self.inputs, self.in_features, train, labels, name="norm_1"))
        hidden_features = self.features if self.first else self.in_features
        use_bias = style.norm != "batch"
        y = style.layer(
            Conv, hidden_features, 3, padding=1, use_bias=use_bias, inputs=self.inputs, outputs=hidden, name="conv_1"
        )(y)
        y = style.activation(style.normalize(y, hidden, hidden_features, train, labels, name="norm_2"))
        names = {"inputs": hidden, "outputs": outputs, "name": "conv_2"}
        if self.down:
            y = style.layer(ConvPool, self.features, 3, **names)(y)
        else:
            y = style.layer(Conv, self.features, 3, padding=1, **names)(y)
        if outputs == self.inputs:
            return y + x
        names = {"inputs": self.inputs, "outputs": outputs, "name": "shortcut"}
        shortcut = style.layer(Conv, self.features, 1, use_bias=False, **names)
        return y + shortcut(layers.pool(x) if self.down else x)  # The mean and a 1x1 convolution commute.

    def outputs(self) -> str:
        """The name of the block's output channels."""
        return self.inputs if not self.down and self.in_features == self.features else self.name


class SelfAttention(nn.Module):
    """`x + gamma * attention(x)` over all positions of `x: [batch, h, w, c]` (Zhang et al. 2019, section 3).

    gamma starts at 0. As in their code, queries and keys have c / 8 channels and values c / 2; keys and values are
    max-pooled over 2x2 pixels.
    """

    features: int
    style: Style
    inputs: str

    @nn.compact
    def __call__(self, x):
        (batch, height, width, _), channels = x.shape, self.features

        def conv(features, name, inputs, outputs, x):
            layer = self.style.layer(Conv, features, 1, use_bias=False, inputs=inputs, outputs=outputs, name=name)
            return layer(x)

        def pooled(x):
            return nn.max_pool(x, (2, 2), (2, 2)).reshape(batch, height * width // 4, -1)

        # Queries are multiplied by keys, so their channels are the same.
        keyed, valued = f"{self.name}/key", f"{self.name}/value"
        queries = conv(max(1, channels // 8), "query", self.inputs, keyed, x).reshape(batch, height * width, -1)
        keys = pooled(conv(max(1, channels // 8), "key", self.inputs, keyed, x))
        values = pooled(conv(max(1, channels // 2), "value", self.inputs, valued, x))
        weights = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", queries, keys))
        attended = jnp.einsum("bqk,bkc->bqc", weights, values).reshape(batch, height, width, -1)
        channels_met = queries.shape[-1] + values.shape[-1]
        self.sow("products", "attention", Static(weights.shape[1] * weights.shape[2] * channels_met))
        gamma = self.param("gamma", named(nn.initializers.zeros, None), (1,)).astype(x.dtype)
        return x + gamma * conv(channels, "out", valued, self.inputs, attended)


class ResidualStack(Stack):
    """A stack of residual blocks; a base class like `Stack`.

    Fields:
      flat: whether every resolution has `width` channels.
      attention: the resolution of the self-attention, or 0 for none.
    """

    flat: bool = False
    attention: int = 0

    def features(self, resolution: int) -> int:
        """The number of channels: as in `Stack`, but at least `width`."""
        return self.width if self.flat else max(self.width, super().features(resolution))


class ResUp(ResidualStack):
    """`[batch, latent]` -> images `[batch, image_size, image_size, channels]`, float32 in [-1, 1].

    With `spread` the projection makes a single pixel, which is repeated to `base` x `base` pixels.
    """

    channels: int = 3
    spread: bool = False

    @nn.compact
    def __call__(self, latents, train: bool, labels=None):
        style, (base, *larger) = self.style, self.resolutions()
        up_block, attention = style.block(UpBlock), style.block(SelfAttention)
        name, size = "unproject", 1 if self.spread else base
        features = self.features(base)
        x = style.layer(Unproject, features, size, outputs=name, name=name)(latents)
        x = jnp.broadcast_to(x, (x.shape[0], base, base, x.shape[-1]))
        for size in larger:
            x = up_block(self.features(size), style, name, features, name=f"up_{size}")(x, train, labels)
            name, features = f"up_{size}", self.features(size)
            if size == self.attention:
                x = attention(features, style, name, name="attention")(x)
        x = style.activation(style.normalize(x, name, features, train, labels))
        image = style.layer(Conv, self.channels, 3, padding=1, inputs=name, name="image")(x)
        return to_float32(style.squash(image))


class ResDown(ResidualStack):
    """Images `[batch, image_size, image_size, channels]` in [-1, 1] -> `[batch, out_features]`, float32.

    Fields:
      out_features: the number of outputs.
      stem: whether a 3x3 convolution comes before the blocks.
      blocks: the number of further blocks at the smallest resolution.
      pool: `jnp.sum` or `jnp.mean`, which makes one vector of the pixels of the last maps.
      classes: above 0, the inner product of this vector and its class's embedding is added (Miyato, Koyama 2018,
        equation 4).
    """

    out_features: int = 1
    stem: bool = False
    blocks: int = 0
    pool: Callable = jnp.sum
    classes: int = 0

    @nn.compact
    def __call__(self, images, train: bool, labels=None):
        style, (base, *larger) = self.style, self.resolutions()
        down_block, attention = style.block(DownBlock), style.block(SelfAttention)
        x, name, features = images, None, images.shape[-1]
        if self.stem:
            name, features = "stem", self.width
            x = style.layer(Conv, features, 3, padding=1, outputs=name, name=name)(x)
        for size in reversed(larger):
            first, half = name is None, self.features(size // 2)
            block = down_block(half, style, name, features, first=first, name=f"down_{size}")
            x, name, features = block(x, train, labels), block.outputs(), half
            if size // 2 == self.attention:
                x = attention(features, style, name, name="attention")(x)
        for number in range(1, self.blocks + 1):
            block = down_block(self.features(base), style, name, features, down=False, name=f"block_{number}")
            x, name, features = block(x, train, labels), block.outputs(), self.features(base)
        x = self.pool(style.activation(style.normalize(x, name, features, train, labels)), axis=(1, 2))
        y = style.layer(Dense, self.out_features, inputs=name, name="project")(x)
        if self.classes:
            embedding = Embedding(self.classes, style, name, name="embedding")(labels, x.shape[-1])
            y = y + (x * embedding).sum(axis=-1, keepdims=True)
        return to_float32(y)


class Embedding(nn.Module):
    """One vector per class: `labels: [batch]` -> `[batch, features]`."""

    classes: int
    style: Style
    outputs: str

    @nn.compact
    def __call__(self, labels, features: int):
        init = named(self.style.kernel_init, None, self.outputs)
        table = self.param("embedding", init, (self.classes, features))
        if self.style.spectral:
            table = spectral_normalize(self, table)
        return table[labels].astype(self.style.dtype)
