"""The convolutional stacks that DCGAN, the convolutional VAE and the convolutional autoencoder share.

`Up` is a generator or a decoder, `Down` a discriminator or an encoder. A stage is named by its larger
resolution (`up_16` makes 16x16 maps, `down_16` reads them) and has width * image_size / (2 * resolution)
channels at each resolution, so stages of the same name have the same shapes whether they belong to
a GAN or to a VAE, and a ticket can move between the two.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxtickets.models.layers import Conv, ConvTranspose, Project, Unproject, dcgan_init


def _scale_init(key, shape, dtype=jnp.float32):
    return 1 + dcgan_init(key, shape, dtype)


def identity(x):
    return x


class Stage(nn.Module):
    """A convolution, its batch norm (or none) and its activation."""

    make_conv: Callable[..., nn.Module]
    norm: bool
    activation: Callable
    kernel_init: Callable
    dtype: Any
    axis_name: str | None  # The mapped axis over which batch statistics are averaged, or None.

    @nn.compact
    def __call__(self, x, train: bool):
        conv = self.make_conv(use_bias=not self.norm, kernel_init=self.kernel_init, dtype=self.dtype, name="conv")
        x = conv(x)
        if self.norm:
            norm = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                scale_init=_scale_init,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name="norm",
            )
            x = norm(x)
        return self.activation(x)


class _Stack(nn.Module):
    width: int
    image_size: int
    base: int  # The resolution of the smallest maps: 4 in DCGAN, 2 in the VAE.
    norm: bool = True
    activation: Callable = nn.relu
    kernel_init: Callable = dcgan_init
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def resolutions(self) -> list[int]:
        """`base`, twice that, and so on up to the image size."""
        steps = (self.image_size // self.base).bit_length()
        return [self.base << step for step in range(steps)]

    def features(self, resolution: int) -> int:
        return self.width * self.image_size // (2 * resolution)

    def stage(self, make_conv, name, **changes):
        options = {"norm": self.norm, "activation": self.activation, **changes}
        return Stage(
            make_conv, kernel_init=self.kernel_init, dtype=self.dtype, axis_name=self.axis_name, name=name, **options
        )


class Up(_Stack):
    """`[batch, latent]` -> images `[batch, image_size, image_size, channels]`, float32 in [-1, 1]."""

    channels: int = 3

    @nn.compact
    def __call__(self, latents, train: bool):
        base, *inner, last = self.resolutions()
        x = self.stage(partial(Unproject, self.features(base), base), "unproject")(latents, train)
        for size in inner:
            x = self.stage(partial(ConvTranspose, self.features(size), 4), f"up_{size}")(x, train)
        last_conv = partial(ConvTranspose, self.channels, 4)
        x = self.stage(last_conv, f"up_{last}", norm=False, activation=jnp.tanh)(x, train)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Down(_Stack):
    """Images `[batch, image_size, image_size, channels]` in [-1, 1] -> `[batch, out_features]`, float32."""

    out_features: int = 1
    norm_first: bool = True

    @nn.compact
    def __call__(self, images, train: bool):
        base, *larger = self.resolutions()
        x = images
        for size in reversed(larger):
            conv = partial(Conv, self.features(size // 2), 4, stride=2, padding=1)
            norm = self.norm and (self.norm_first or size < self.image_size)
            x = self.stage(conv, f"down_{size}", norm=norm)(x, train)
        conv = partial(Project, self.out_features, base)
        x = self.stage(conv, "project", norm=False, activation=identity)(x, train)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
