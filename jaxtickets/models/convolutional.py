"""The convolutional stacks of DCGAN, SNGAN's CNN, the convolutional VAE and the convolutional autoencoder.

`Up` is a generator or a decoder, `Down` a discriminator or an encoder. A stage is named by its larger resolution:
`up_16` makes 16x16 maps, `down_16` reads them. The resolution also decides the number of channels, so stages of the
same name have the same shapes in a GAN and in a VAE, and a ticket can move between the two. Channels have the name of
the stage that makes them.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxtickets.models.layers import Conv, ConvTranspose, Project, Style, Unproject


def identity(x):
    return x


def to_float32(x):
    """A network's outputs as float32, or as float64 if they are; whatever dtype the network computes in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Stage(nn.Module):
    """A convolution of the given `kind`, its norm and its activation."""

    kind: type[nn.Module]
    features: int
    kernel_size: int
    style: Style
    inputs: str | None
    outputs: str | None
    options: dict

    @nn.compact
    def __call__(self, x, train: bool, labels=None):
        conv = self.style.layer(
            self.kind,
            self.features,
            self.kernel_size,
            use_bias=self.style.norm != "batch",  # A batch norm cancels a bias.
            inputs=self.inputs,
            outputs=self.outputs,
            name="conv",
            **self.options,
        )
        return self.style.activation(self.style.normalize(conv(x), self.outputs, self.features, train, labels))


class Stack(nn.Module):
    """A stack of stages; this base class has its sizes and makes its stages."""

    width: int
    image_size: int
    base: int  # The resolution of the smallest maps: 4 in DCGAN, 2 in the convolutional VAE.
    style: Style = Style()

    def resolutions(self) -> list[int]:
        """The resolutions of the maps: `base`, 2 x `base`, and so on up to the image size."""
        steps = (self.image_size // self.base).bit_length()
        return [self.base << step for step in range(steps)]

    def features(self, resolution: int) -> int:
        """The number of channels: `width` at half the image size, 2 x `width` at a quarter, and so on."""
        return self.width * self.image_size // (2 * resolution)

    def stage(self, kind, features, kernel_size, name, inputs, style=None, **options):
        return self.style.block(Stage)(
            kind, features, kernel_size, style or self.style, inputs, name, options, name=name
        )

    def last_stage(self, kind, features, kernel_size, name, inputs, activation, norm="none", **options):
        """The stage that makes the network's output: its channels have no name."""
        style = dataclasses.replace(self.style, norm=norm, activation=activation)
        return style.block(Stage)(kind, features, kernel_size, style, inputs, None, options, name=name)


class Up(Stack):
    """`[batch, latent]` -> images `[batch, image_size, image_size, channels]`, float32 in [-1, 1]."""

    channels: int = 3
    image_layer: bool = False  # Whether a further 3x3 convolution makes the image, not the last transposed one.

    @nn.compact
    def __call__(self, latents, train: bool, labels=None):
        base, *larger, last = self.resolutions()
        inputs = "unproject"
        x = self.stage(Unproject, self.features(base), base, inputs, None)(latents, train, labels)
        for size in [*larger, last] if self.image_layer else larger:
            x = self.stage(ConvTranspose, self.features(size), 4, f"up_{size}", inputs)(x, train, labels)
            inputs = f"up_{size}"
        if self.image_layer:
            image = self.last_stage(Conv, self.channels, 3, "image", inputs, self.style.squash, padding=1)
        else:
            image = self.last_stage(ConvTranspose, self.channels, 4, f"up_{last}", inputs, self.style.squash)
        return to_float32(image(x, train))


class Down(Stack):
    """Images `[batch, image_size, image_size, channels]` in [-1, 1] -> `[batch, out_features]`, float32."""

    out_features: int = 1
    norm_first: bool = True  # Whether the first stage is normalised.
    norm_last: bool = False  # Whether the outputs are.

    @nn.compact
    def __call__(self, images, train: bool, labels=None):
        base, *larger = self.resolutions()
        x, inputs = images, None
        for size in reversed(larger):
            normed = self.norm_first or size < self.image_size
            style = self.style if normed else dataclasses.replace(self.style, norm="none")
            stage = self.stage(Conv, self.features(size // 2), 4, f"down_{size}", inputs, style, stride=2, padding=1)
            x, inputs = stage(x, train, labels), f"down_{size}"
        norm = self.style.norm if self.norm_last else "none"
        project = self.last_stage(Project, self.out_features, base, "project", inputs, identity, norm)
        return to_float32(project(x, train))


class PairedDown(Stack):
    """The discriminator of SNGAN's CNN (Miyato et al. 2018, table 3); inputs and outputs are those of `Down`.

    At each resolution it has a 3x3 convolution and then a 4x4 convolution of stride 2.
    """

    out_features: int = 1

    @nn.compact
    def __call__(self, images, train: bool, labels=None):
        base, *larger = self.resolutions()
        x, inputs = images, None
        for size in [*reversed(larger), base]:
            x = self.stage(Conv, self.features(size), 3, f"conv_{size}", inputs, padding=1)(x, train, labels)
            inputs = f"conv_{size}"
            if size > base:
                stage = self.stage(Conv, self.features(size), 4, f"down_{size}", inputs, stride=2, padding=1)
                x, inputs = stage(x, train, labels), f"down_{size}"
        project = self.last_stage(Project, self.out_features, base, "project", inputs, identity)
        return to_float32(project(x, train))
