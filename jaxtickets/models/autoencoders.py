"""Networks for autoencoders, variational and vector-quantised ones included, as plug-ins.

Each has an `encoder` and a `decoder`; the VQ-VAE has a `codebook` too.
"""

import jax.numpy as jnp

from jaxtickets.fields import Field, fraction, switch, whole
from jaxtickets.models.components import Component, Network
from jaxtickets.models.convolutional import Down, Up
from jaxtickets.models.dense import DenseDown, DenseUp
from jaxtickets.models.gans import BIAS_INIT, IMAGE_SIZES, KERNEL_INIT, SCALE_INIT, flat_down, flat_up
from jaxtickets.models.initializers import he_init, inits, xavier_init
from jaxtickets.models.layers import Style
from jaxtickets.models.pooled import PooledDown, PooledUp, code_size
from jaxtickets.models.quantized import Codebook, QuantizedDown, QuantizedUp
from jaxtickets.models.residual import ResDown, ResUp

LINEAR_IMAGE_SIZES = (28, 32)
CODE_NORM = Field(
    "model.code_norm",
    False,
    switch(),
    "Whether the encoder's outputs, mean and log variance, have a batch norm, as in the paper's reference code.",
)
CODES = Field("model.codes", 128, whole(2), "The number of codes in a VQ-VAE's codebook.")
CODEBOOK_DECAY = Field(
    "model.codebook_decay",
    0.0,
    fraction(),
    "Above 0 the codes of a VQ-VAE are running averages with this decay instead of parameters.",
)


def linear_vae(width, latent_size, image_size, channels, **style):
    """The linear VAE of the paper's reference: 784-128-64-32-2x8 with a width of 128 and 8 latents, and back."""
    hidden = (width, width // 2, width // 4)
    return _linear(hidden, 2 * latent_size, latent_size, (image_size, image_size, channels), style)


def linear_ae(width, latent_size, image_size, channels, **style):
    """The linear autoencoder of the paper's reference: 784-128-64-12-3 with a width of 128 and 3 latents, and back."""
    hidden = (width, width // 2, max(1, 3 * width // 32))
    return _linear(hidden, latent_size, latent_size, (image_size, image_size, channels), style)


def _linear(hidden, code_size, latent_size, image_shape, style):
    style = Style(norm="none", kernel_init=he_init, **style)
    return {
        "encoder": Component(DenseDown(hidden, code_size, style), image_shape),
        "decoder": Component(DenseUp(hidden, image_shape, style), (latent_size,)),
    }


LINEAR_VAE = Network("linear_vae", linear_vae, objective="vae", image_sizes=LINEAR_IMAGE_SIZES, has_blocks=False)
LINEAR_AE = Network("linear_ae", linear_ae, objective="autoencoder", image_sizes=LINEAR_IMAGE_SIZES, has_blocks=False)


def conv_vae(width, latent_size, image_size, channels, code_norm=False, kernel_init="", bias_init="", **style):
    """The convolutional VAE of the paper's reference; the encoder gives a mean and a log variance.

    With `code_norm` these have a batch norm, as there: the posterior of an image then depends on the other images of
    its batch in training.
    """
    up, down = _styles(kernel_init, bias_init, style)
    return _stacks(width, 2 * latent_size, latent_size, (image_size, image_size, channels), up, down, code_norm)


def _styles(kernel_init, bias_init, style):
    """The styles of a decoder and an encoder."""
    return tuple(Style(**init, **style) for init in inits(kernel_init, he_init, bias_init))


def _stacks(width, outputs, latent_size, image_shape, up, down, code_norm=False):
    """An encoder from images to a number of outputs and a decoder from `latent_size` numbers, mirrored."""
    sizes = dict(width=width, image_size=image_shape[0], base=2)
    return {
        "encoder": Component(Down(**sizes, style=down, out_features=outputs, norm_last=code_norm), image_shape),
        "decoder": Component(Up(**sizes, style=up, channels=image_shape[-1]), (latent_size,)),
    }


CONV_VAE = Network(
    "conv_vae",
    conv_vae,
    objective="vae",
    image_sizes=IMAGE_SIZES,
    fields=(SCALE_INIT, CODE_NORM, KERNEL_INIT, BIAS_INIT),
)


def conv_ae(width, latent_size, image_size, channels, kernel_init="", bias_init="", **style):
    """The convolutional autoencoder: the VAE's stacks without batch norm, and a code in place of mean and variance."""
    up, down = _styles(kernel_init, bias_init, {"norm": "none", **style})
    return _stacks(width, latent_size, latent_size, (image_size, image_size, channels), up, down)


CONV_AE = Network("conv_ae", conv_ae, objective="autoencoder", image_sizes=IMAGE_SIZES, fields=(KERNEL_INIT, BIAS_INIT))


def pooled_ae(width, latent_size, image_size, channels, kernel_init="", bias_init="", **style):
    """The autoencoder of the paper's reference: convolutions and max pooling, a width of 32 and 512 maps as code.

    `latent_size` is the number of these maps, of 2x2 numbers for images of 32x32 pixels.
    """
    up, down = _styles(kernel_init, bias_init, {"norm": "none", **style})
    size = code_size(image_size)
    return {
        "encoder": Component(PooledDown(width, latent_size, style=down), (image_size, image_size, channels)),
        "decoder": Component(PooledUp(width, channels, style=up), (size, size, latent_size)),
    }


POOLED_AE = Network(
    "pooled_ae", pooled_ae, objective="autoencoder", image_sizes=IMAGE_SIZES, fields=(KERNEL_INIT, BIAS_INIT)
)


def resnet_vae(width, latent_size, image_size, channels, **style):
    """The ResNet VAE of the paper's reference: 32-32-64-128-256 channels with a width of 32, for 32x32 images.

    Where resolutions and widths agree, its blocks have the names and the shapes of ResNet-DCGAN's.
    """
    stack = dict(width=width, image_size=image_size, base=2, style=Style(kernel_init=he_init, **style))
    encoder = ResDown(**stack, stem=True, pool=jnp.mean, out_features=2 * latent_size)
    return {
        "encoder": Component(encoder, (image_size, image_size, channels)),
        "decoder": Component(ResUp(**stack, spread=True, channels=channels), (latent_size,)),
    }


RESNET_VAE = Network("resnet_vae", resnet_vae, objective="vae", image_sizes=IMAGE_SIZES, fields=(SCALE_INIT,))


def sngan_resnet_vae(width, latent_size, image_size, channels, **style):
    """The VAE whose decoder is SNGAN-ResNet's generator and whose encoder is its discriminator, layer by layer."""
    style = Style(kernel_init=xavier_init, **style)
    return {
        "encoder": flat_down(width, 2 * latent_size, image_size, channels, style, jnp.mean),
        "decoder": flat_up(width, latent_size, image_size, channels, style),
    }


SNGAN_RESNET_VAE = Network(
    "sngan_resnet_vae", sngan_resnet_vae, objective="vae", image_sizes=IMAGE_SIZES, fields=(SCALE_INIT,)
)


def vq_vae(width, latent_size, image_size, channels, codes=128, codebook_decay=0.0, **style):
    """The VQ-VAE of the paper's reference: 128 codes of size 32 (`latent_size`), a width of 32.

    With a `codebook_decay` above 0 the codes are running averages instead of parameters.
    """
    style = Style(norm="none", kernel_init=he_init, **style)
    stack = dict(width=width, image_size=image_size, base=image_size // 4, style=style)
    code_shape = (stack["base"], stack["base"], latent_size)
    return {
        "encoder": Component(QuantizedDown(**stack, code_size=latent_size), (image_size, image_size, channels)),
        "decoder": Component(QuantizedUp(**stack, channels=channels), code_shape),
        "codebook": Component(Codebook(codes, latent_size, codebook_decay), code_shape),
    }


VQ_VAE = Network("vq_vae", vq_vae, objective="vq_vae", image_sizes=IMAGE_SIZES, fields=(CODES, CODEBOOK_DECAY))
