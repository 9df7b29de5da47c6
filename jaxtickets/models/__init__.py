"""Networks by name: a model is one Flax module per component."""

from math import prod
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxtickets.models.convolutional import Down, Up
from jaxtickets.models.layers import dcgan_init

_he_init = nn.initializers.he_normal()


class Component(NamedTuple):
    """A Flax module called as `module(x, train)`, and the shape of one example of `x`."""

    module: nn.Module
    input_shape: tuple[int, ...]


def dcgan(width, latent_size, image_size, channels, **layers):
    """DCGAN (Radford, Metz, Chintala 2016), sized as in the paper's reference: 4x4 maps to the image.

    Their section 3 leaves out the discriminator's first batch norm. With it, real and generated batches are brought to
    the same contrast before they are compared, and the generator never learns the right one (docs/decisions.md).
    """
    stack = dict(width=width, image_size=image_size, base=4, kernel_init=dcgan_init, **layers)
    return {
        "generator": Component(Up(channels=channels, **stack), (latent_size,)),
        "discriminator": Component(Down(out_features=1, norm_first=False, **stack), (image_size, image_size, channels)),
    }


def conv_vae(width, latent_size, image_size, channels, **layers):
    """The convolutional VAE of the paper's reference; the encoder gives a mean and a log variance."""
    stack = dict(width=width, image_size=image_size, base=2, kernel_init=_he_init, **layers)
    return {
        "encoder": Component(Down(out_features=2 * latent_size, **stack), (image_size, image_size, channels)),
        "decoder": Component(Up(channels=channels, **stack), (latent_size,)),
    }


def conv_ae(width, latent_size, image_size, channels, **layers):
    """The convolutional autoencoder: the VAE's stacks without batch norm, and a code instead of a mean."""
    stack = dict(width=width, image_size=image_size, base=2, norm=False, kernel_init=_he_init, **layers)
    return {
        "encoder": Component(Down(out_features=latent_size, **stack), (image_size, image_size, channels)),
        "decoder": Component(Up(channels=channels, **stack), (latent_size,)),
    }


MODELS = {"dcgan": dcgan, "conv_vae": conv_vae, "conv_ae": conv_ae}
IMAGE_SIZES = {"dcgan": (16, 32, 64), "conv_vae": (16, 32, 64), "conv_ae": (16, 32, 64)}


def init(components: dict[str, Component], key) -> tuple[dict, dict]:
    """Fresh `(params, batch_stats)`, each `{component: {layer: ...}}`."""
    params, batch_stats = {}, {}
    for name, component_key in zip(components, jax.random.split(key, len(components)), strict=True):
        module, input_shape = components[name]
        variables = module.init(component_key, jnp.zeros((1, *input_shape)), train=False)
        params[name] = variables["params"]
        batch_stats[name] = variables.get("batch_stats", {})
    return params, batch_stats


def apply(components, params, batch_stats, name, x, train):
    """`(module(x), batch_stats)` of the component `name`, its batch statistics updated when `train`."""
    variables = {"params": params[name], "batch_stats": batch_stats[name]}
    module = components[name].module
    if not train:
        return module.apply(variables, x, train=False), batch_stats
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    return y, {**batch_stats, name: updated.get("batch_stats", {})}


def kernel_uses(components: dict[str, Component]) -> dict[str, int]:
    """How often each kernel is used in one example's forward pass, by slash-joined path.

    A kernel of n weights used at p positions takes 2 * n * p FLOPs, a multiplication and an addition each.
    """
    uses = {}
    for name, (module, input_shape) in components.items():
        x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        _, state = jax.eval_shape(
            lambda x, module=module: module.init_with_output(jax.random.key(0), x, train=False), x
        )
        recorded = traverse_util.flatten_dict(state["kernel_uses"], sep="/")
        for path, positions in recorded.items():
            layer = path.removesuffix("/positions")
            uses[f"{name}/{layer}/kernel"] = prod(positions[0].shape)
    return uses
