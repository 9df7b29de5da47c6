"""The convolutional autoencoder of the paper's reference, whose encoder has max pooling.

Layer 1 is the one next to the image; an encoder's layer and the decoder's of the same number have the same channels on
their outer side. Sizes are those of maps for images of 32x32 pixels.
"""

import dataclasses

import flax.linen as nn

from jaxtickets.models.convolutional import Stage, to_float32
from jaxtickets.models.layers import Conv, ConvTranspose, Style

# From the image inwards: size of the kernel, stride, padding, and the stride of the 2x2 max pooling behind it, if any.
DOWN = (
    (3, 1, 1, None),  # 32 -> 32
    (4, 2, 1, None),  # -> 16
    (2, 2, 2, None),  # -> 10; the outermost see nothing but padding.
    (3, 1, 1, 2),  # -> 10 -> 5
    (3, 2, 1, 1),  # -> 3 -> 2
)
# From the code outwards: size of the kernel, stride, padding.
UP = (
    (3, 2, 0),  # 2 -> 5
    (2, 2, 0),  # -> 10
    (2, 2, 1),  # -> 18
    (5, 1, 1),  # -> 20
    (2, 2, 4),  # -> 32
)


def code_size(image_size: int) -> int:
    """The height and the width of the maps that are the code."""
    size = image_size
    for taps, stride, padding, pooled in DOWN:
        size = (size + 2 * padding - taps) // stride + 1
        if pooled:
            size = (size - 2) // pooled + 1
    return size


class PooledDown(nn.Module):
    """Images `[batch, size, size, channels]` in [-1, 1] -> codes `[batch, 2, 2, code_channels]`, float32."""

    width: int
    code_channels: int
    style: Style = Style()

    @nn.compact
    def __call__(self, images, train: bool, labels=None):
        x, inputs = images, None
        for level, (taps, stride, padding, pooled) in enumerate(DOWN, start=1):
            name, is_code = f"down_{level}", level == len(DOWN)
            features, outputs = (self.code_channels, None) if is_code else (self.width << (level - 1), name)
            options = {"stride": stride, "padding": padding}
            stage = self.style.block(Stage)(Conv, features, taps, self.style, inputs, outputs, options, name=name)
            x, inputs = stage(x, train, labels), outputs
            if pooled:
                x = nn.max_pool(x, (2, 2), (pooled, pooled))
        return to_float32(x)


class PooledUp(nn.Module):
    """Codes `[batch, 2, 2, code_channels]` -> images `[batch, size, size, channels]`, float32 in [-1, 1]."""

    width: int
    channels: int
    style: Style = Style()

    @nn.compact
    def __call__(self, codes, train: bool, labels=None):
        x, inputs = codes, None
        for level, (taps, stride, padding) in zip(range(len(UP), 0, -1), UP, strict=True):
            name, style, features = f"up_{level}", self.style, self.width << max(0, level - 2)
            outputs = name
            if level == 1:
                style, features, outputs = dataclasses.replace(style, activation=style.squash), self.channels, None
            options = {"stride": stride, "padding": padding}
            stage = style.block(Stage)(ConvTranspose, features, taps, style, inputs, outputs, options, name=name)
            x, inputs = stage(x, train, labels), name
        return to_float32(x)
