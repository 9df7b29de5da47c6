"""Fully connected encoders and decoders; layer 1 is the one next to the image."""

import flax.linen as nn

from jaxtickets.models.convolutional import to_float32
from jaxtickets.models.layers import Dense, Style


class DenseDown(nn.Module):
    """Images `[batch, h, w, c]` in [-1, 1] -> `[batch, out_features]`.

    `hidden` has the sizes of the hidden layers, from the image inwards.
    """

    hidden: tuple[int, ...]
    out_features: int
    style: Style

    @nn.compact
    def __call__(self, images, train: bool, labels=None):
        x, inputs = images.reshape(images.shape[0], -1), None
        for level, features in enumerate(self.hidden, start=1):
            name = f"down_{level}"
            layer = self.style.layer(Dense, features, inputs=inputs, outputs=name, name=name)
            x, inputs = self.style.activation(layer(x)), name
        return to_float32(self.style.layer(Dense, self.out_features, inputs=inputs, name="project")(x))


class DenseUp(nn.Module):
    """`[batch, latent]` -> images `[batch, *image_shape]`, float32 in [-1, 1]; `hidden` is as in `DenseDown`."""

    hidden: tuple[int, ...]
    image_shape: tuple[int, int, int]
    style: Style

    @nn.compact
    def __call__(self, latents, train: bool, labels=None):
        *outer, innermost = self.hidden
        x, inputs = latents, None
        names = ["unproject", *(f"up_{level}" for level in range(len(self.hidden), 1, -1))]
        for name, features in zip(names, [innermost, *reversed(outer)], strict=True):
            layer = self.style.layer(Dense, features, inputs=inputs, outputs=name, name=name)
            x, inputs = self.style.activation(layer(x)), name
        height, width, channels = self.image_shape
        images = self.style.layer(Dense, height * width * channels, inputs=inputs, name="up_1")(x)
        return to_float32(self.style.squash(images).reshape(-1, *self.image_shape))
