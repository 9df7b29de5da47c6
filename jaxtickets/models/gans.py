"""Networks for GANs, as plug-ins: a `generator` of images and a `discriminator` of them."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxtickets.fields import Check, Field, choice, switch
from jaxtickets.models.components import Component, Network, build
from jaxtickets.models.convolutional import Down, PairedDown, Up
from jaxtickets.models.initializers import SCALE_INITS, dcgan_init, he_init, inits, xavier_init
from jaxtickets.models.layers import Style
from jaxtickets.models.residual import ResDown, ResUp

NORMS = ("none", "batch", "layer", "spectral")
IMAGE_SIZES = (16, 32, 64)
DISCRIMINATOR_NORM = Field(
    "model.discriminator_norm",
    "",
    Check(lambda value: value in ("", *NORMS), lambda: f"one of {', '.join(NORMS)}, or '' for the network's own"),
    "The norm of a GAN's discriminator: none, batch, layer or spectral; '' is the network's own.",
)
SCALE_INIT = Field(
    "model.scale_init",
    "ones",
    choice(SCALE_INITS),
    "How the scales of norms start: ones, or normal: N(1, 0.02), as in DCGAN's code.",
    before="normal",
)
FIRST_NORM = Field(
    "model.first_norm",
    False,
    switch(),
    "Whether the first layer of DCGAN's discriminator has the norm too, as in the paper's reference code.",
)
KERNEL_INIT = Field(
    "model.kernel_init",
    "",
    Check(lambda value: value in ("", "torch"), lambda: "torch, or '' for the network's own"),
    "How kernels start: '' is the network's own, torch PyTorch's default, uniform in +-1 / sqrt(fan in).",
)
BIAS_INIT = Field(
    "model.bias_init",
    "",
    Check(lambda value: value in ("", "torch"), lambda: "torch, or '' for zeros"),
    "How biases of layers without a norm start: '' is zero, torch PyTorch's default, uniform in +-1 / sqrt(fan in).",
)
CONDITIONAL = Field("model.conditional", False, switch(), "Class-conditional networks, for data with class labels.")
_leaky = partial(nn.leaky_relu, negative_slope=0.1)


def discriminator_norm(model) -> str:
    """The norm of the discriminator that `model`, a `config.model`, describes: one of NORMS.

    "" for a discriminator from elsewhere whose module has no `style` to tell it.
    """
    style = getattr(build(model, channels=3, classes=1)["discriminator"].module, "style", None)
    if style is None:
        return ""
    return "spectral" if style.spectral else style.norm


def _discriminator_style(norm, **style):
    return Style(norm="none" if norm == "spectral" else norm, spectral=norm == "spectral", **style)


def dcgan(
    width,
    latent_size,
    image_size,
    channels,
    discriminator_norm="batch",
    first_norm=False,
    kernel_init="",
    bias_init="",
    **style,
):
    """DCGAN (Radford, Metz, Chintala 2016), sized as in the paper's reference: 4x4 maps to the image.

    The discriminator's first stage has no batch norm (their section 3). A batch norm there (`first_norm`) brings real
    and generated batches to the same contrast before they are compared, and the generator never learns the right one.
    """
    sizes = dict(width=width, image_size=image_size, base=4)
    up_init, down_init = inits(kernel_init, dcgan_init, bias_init)
    up = Up(**sizes, channels=channels, style=Style(**up_init, **style))
    down_style = _discriminator_style(discriminator_norm, **down_init, **style)
    down = Down(**sizes, norm_first=first_norm, style=down_style)
    return {
        "generator": Component(up, (latent_size,)),
        "discriminator": Component(down, (image_size, image_size, channels)),
    }


DCGAN = Network(
    "dcgan",
    dcgan,
    objective="gan",
    image_sizes=IMAGE_SIZES,
    fields=(DISCRIMINATOR_NORM, SCALE_INIT, FIRST_NORM, KERNEL_INIT, BIAS_INIT),
)


def sngan(width, latent_size, image_size, channels, discriminator_norm="spectral", **style):
    """SNGAN's CNN (Miyato et al. 2018, table 3): the published width is 64, the latent size 128.

    The smallest maps have an eighth of the image's resolution: 4x4 for 32x32 images.
    """
    sizes = dict(width=2 * width, image_size=image_size, base=image_size // 8)
    discriminator_style = _discriminator_style(discriminator_norm, activation=_leaky, **style)
    return {
        "generator": Component(Up(**sizes, channels=channels, image_layer=True, style=Style(**style)), (latent_size,)),
        "discriminator": Component(PairedDown(**sizes, style=discriminator_style), (image_size, image_size, channels)),
    }


SNGAN = Network("sngan", sngan, objective="gan", image_sizes=IMAGE_SIZES, fields=(DISCRIMINATOR_NORM, SCALE_INIT))


def sngan_resnet(width, latent_size, image_size, channels, discriminator_norm="spectral", classes=0, **style):
    """SNGAN's ResNet (Miyato et al. 2018, table 4): the published width is 128, the latent size 128.

    The discriminator has `width` channels, the generator twice as many. With classes, the generator's batch norms are
    conditional and the discriminator is a projection discriminator (Miyato, Koyama 2018).
    """
    generator_style = Style(kernel_init=xavier_init, classes=classes, **style)
    discriminator_style = _discriminator_style(discriminator_norm, kernel_init=xavier_init, **style)
    return {
        "generator": flat_up(width, latent_size, image_size, channels, generator_style, classes),
        "discriminator": flat_down(width, 1, image_size, channels, discriminator_style, jnp.sum, classes),
    }


SNGAN_RESNET = Network(
    "sngan_resnet",
    sngan_resnet,
    objective="gan",
    image_sizes=IMAGE_SIZES,
    fields=(DISCRIMINATOR_NORM, SCALE_INIT, CONDITIONAL),
)


def flat_up(width, latent_size, image_size, channels, style, classes=0) -> Component:
    """SNGAN-ResNet's generator: residual blocks of 2 x `width` channels at every resolution, from 4x4 maps up."""
    module = ResUp(2 * width, image_size, base=4, flat=True, channels=channels, style=style)
    return Component(module, (latent_size,), classes)


def flat_down(width, out_features, image_size, channels, style, pool, classes=0) -> Component:
    """SNGAN-ResNet's discriminator: residual blocks of `width` channels at every resolution, down to 8x8 maps.

    Two more blocks follow at 8x8; then `pool`, over pixels, and a dense layer to `out_features`.
    """
    sizes = dict(base=8, flat=True, blocks=2, out_features=out_features, pool=pool, classes=classes)
    module = ResDown(width, image_size, style=style, **sizes)
    return Component(module, (image_size, image_size, channels), classes)


def resnet_dcgan(width, latent_size, image_size, channels, discriminator_norm="batch", classes=0, **style):
    """ResNet-DCGAN: DCGAN's resolutions and channels, with residual blocks in place of its stages."""
    sizes = dict(width=width, image_size=image_size, base=4)
    discriminator_style = _discriminator_style(discriminator_norm, kernel_init=he_init, **style)
    up = ResUp(**sizes, channels=channels, style=Style(kernel_init=he_init, classes=classes, **style))
    down = ResDown(**sizes, stem=True, classes=classes, style=discriminator_style)
    return {
        "generator": Component(up, (latent_size,), classes),
        "discriminator": Component(down, (image_size, image_size, channels), classes),
    }


RESNET_DCGAN = Network(
    "resnet_dcgan",
    resnet_dcgan,
    objective="gan",
    image_sizes=IMAGE_SIZES,
    fields=(DISCRIMINATOR_NORM, SCALE_INIT, CONDITIONAL),
)


def sagan(width, latent_size, image_size, channels, discriminator_norm="spectral", classes=0, **style):
    """SAGAN (Zhang et al. 2019): residual blocks, spectral norm in both players, self-attention at half the image size.

    Their networks are for 128x128 images and have 1,024 to 64 channels, as this one has with a width of 64. The blocks
    are those of `sngan_resnet`.
    """
    sizes = dict(width=width, image_size=image_size, base=4, attention=image_size // 2)
    generator_style = Style(spectral=True, kernel_init=xavier_init, classes=classes, **style)
    discriminator_style = _discriminator_style(discriminator_norm, kernel_init=xavier_init, **style)
    up = ResUp(**sizes, channels=channels, style=generator_style)
    down = ResDown(**sizes, blocks=1, classes=classes, style=discriminator_style)
    return {
        "generator": Component(up, (latent_size,), classes),
        "discriminator": Component(down, (image_size, image_size, channels), classes),
    }


SAGAN = Network(
    "sagan", sagan, objective="gan", image_sizes=IMAGE_SIZES, fields=(DISCRIMINATOR_NORM, SCALE_INIT, CONDITIONAL)
)
