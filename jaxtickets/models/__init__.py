"""Networks by name: a model is one Flax module per component.

Every model is built by a function that takes the fields of `config.model` that it knows, the image's channels, the
computing dtype and the mapped axis over which batch statistics are averaged.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import FrozenDict

from jaxtickets.models.convolutional import Down, PairedDown, Up, identity
from jaxtickets.models.dense import DenseDown, DenseUp
from jaxtickets.models.layers import Style, he_init, xavier_init
from jaxtickets.models.quantized import Codebook, QuantizedDown, QuantizedUp
from jaxtickets.models.residual import ResDown, ResUp

NORMS = ("none", "batch", "layer", "spectral")
_leaky = partial(nn.leaky_relu, negative_slope=0.1)


class Component(NamedTuple):
    """A Flax module called as `module(x, train, labels)`, and the shape of one example of `x`.

    classes: above 0 the module needs `labels: [batch]` int32 below that; else it takes no notice of them.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    classes: int = 0


def _discriminator_style(norm: str, **style) -> Style:
    return Style(norm="none" if norm == "spectral" else norm, spectral=norm == "spectral", **style)


def dcgan(width, latent_size, image_size, channels, discriminator_norm="batch", **style):
    """DCGAN (Radford, Metz, Chintala 2016), sized as in the paper's reference: 4x4 maps to the image.

    Their section 3 leaves out the discriminator's first batch norm. With it, real and generated batches are brought to
    the same contrast before they are compared, and the generator never learns the right one (docs/decisions.md).
    """
    sizes = dict(width=width, image_size=image_size, base=4)
    discriminator = Down(**sizes, norm_first=False, style=_discriminator_style(discriminator_norm, **style))
    return {
        "generator": Component(Up(**sizes, channels=channels, style=Style(**style)), (latent_size,)),
        "discriminator": Component(discriminator, (image_size, image_size, channels)),
    }


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


def sngan_resnet(width, latent_size, image_size, channels, discriminator_norm="spectral", classes=0, **style):
    """SNGAN's ResNet (Miyato et al. 2018, table 4): the published width is 128, the latent size 128.

    The discriminator has `width` channels, the generator twice as many. With classes, the generator's batch norms are
    conditional and the discriminator is a projection discriminator (Miyato, Koyama 2018).
    """
    generator_style = Style(kernel_init=xavier_init, classes=classes, **style)
    discriminator_style = _discriminator_style(discriminator_norm, kernel_init=xavier_init, **style)
    return {
        "generator": _flat_up(width, latent_size, image_size, channels, generator_style, classes),
        "discriminator": _flat_down(width, 1, image_size, channels, discriminator_style, jnp.sum, classes),
    }


def _flat_up(width, latent_size, image_size, channels, style, classes=0):
    module = ResUp(2 * width, image_size, base=4, flat=True, channels=channels, style=style)
    return Component(module, (latent_size,), classes)


def _flat_down(width, out_features, image_size, channels, style, pool, classes=0):
    # Two blocks at 8x8 follow those that halve the resolution.
    sizes = dict(base=8, flat=True, blocks=2, out_features=out_features, pool=pool, classes=classes)
    module = ResDown(width, image_size, style=style, **sizes)
    return Component(module, (image_size, image_size, channels), classes)


def resnet_dcgan(width, latent_size, image_size, channels, discriminator_norm="batch", classes=0, **style):
    """ResNet-DCGAN: DCGAN's resolutions and channels with residual blocks in the place of its stages."""
    sizes = dict(width=width, image_size=image_size, base=4)
    discriminator_style = _discriminator_style(discriminator_norm, kernel_init=he_init, **style)
    up = ResUp(**sizes, channels=channels, style=Style(kernel_init=he_init, classes=classes, **style))
    down = ResDown(**sizes, stem=True, classes=classes, style=discriminator_style)
    return {
        "generator": Component(up, (latent_size,), classes),
        "discriminator": Component(down, (image_size, image_size, channels), classes),
    }


def sagan(width, latent_size, image_size, channels, discriminator_norm="spectral", classes=0, **style):
    """SAGAN (Zhang et al. 2019): residual blocks, spectral norm in both players, self-attention at half the image size.

    Their networks are for 128x128 images and have 1,024 to 64 channels, as here with a width of 64; the blocks
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


def conv_vae(width, latent_size, image_size, channels, **style):
    """The convolutional VAE of the paper's reference; the encoder gives a mean and a log variance."""
    stack = dict(width=width, image_size=image_size, base=2, style=Style(kernel_init=he_init, **style))
    return {
        "encoder": Component(Down(**stack, out_features=2 * latent_size), (image_size, image_size, channels)),
        "decoder": Component(Up(**stack, channels=channels), (latent_size,)),
    }


def conv_ae(width, latent_size, image_size, channels, **style):
    """The convolutional autoencoder: the VAE's stacks without batch norm, and a code instead of a mean."""
    stack = dict(width=width, image_size=image_size, base=2, style=Style(norm="none", kernel_init=he_init, **style))
    return {
        "encoder": Component(Down(**stack, out_features=latent_size), (image_size, image_size, channels)),
        "decoder": Component(Up(**stack, channels=channels), (latent_size,)),
    }


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


def sngan_resnet_vae(width, latent_size, image_size, channels, **style):
    """The VAE whose decoder is SNGAN-ResNet's generator and whose encoder is its discriminator, layer by layer."""
    style = Style(kernel_init=xavier_init, **style)
    return {
        "encoder": _flat_down(width, 2 * latent_size, image_size, channels, style, jnp.mean),
        "decoder": _flat_up(width, latent_size, image_size, channels, style),
    }


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


def vq_vae(width, latent_size, image_size, channels, codes=128, codebook_decay=0.0, **style):
    """The VQ-VAE of the paper's reference: 128 codes of size 32 (`latent_size`), a width of 32.

    With a `codebook_decay` above 0 the codes are running averages instead of parameters.
    """
    stack = dict(
        width=width, image_size=image_size, base=image_size // 4, style=Style(norm="none", kernel_init=he_init, **style)
    )
    code_shape = (stack["base"], stack["base"], latent_size)
    return {
        "encoder": Component(QuantizedDown(**stack, code_size=latent_size), (image_size, image_size, channels)),
        "decoder": Component(QuantizedUp(**stack, channels=channels), code_shape),
        "codebook": Component(Codebook(codes, latent_size, codebook_decay), code_shape),
    }


MODELS = {
    model.__name__: model
    for model in (
        *(dcgan, sngan, sngan_resnet, resnet_dcgan, sagan),
        *(linear_vae, conv_vae, resnet_vae, sngan_resnet_vae, vq_vae),
        *(linear_ae, conv_ae),
    )
}
LINEAR = ("linear_vae", "linear_ae")
IMAGE_SIZES = dict.fromkeys(MODELS, (16, 32, 64)) | dict.fromkeys(LINEAR, (28, 32))


# The fields of `config.model` that only some models take, with the parameter of the model's function.
OPTIONS = {
    "conditional": "classes",
    "discriminator_norm": "discriminator_norm",
    "codes": "codes",
    "codebook_decay": "codebook_decay",
}


def takes(name: str, option: str) -> bool:
    """Whether the model `name` takes the field `option` of `config.model`."""
    return OPTIONS[option] in inspect.signature(MODELS[name]).parameters


def build(model, channels: int, classes: int, **style) -> dict[str, Component]:
    """The components that `model`, a `config.model`, describes, for images of so many channels and classes.

    Where `model.channels` counts the channels of a name, the component has only so many.
    """
    values = {**model, "conditional": classes if model.conditional else 0}
    # An empty norm is the network's own.
    taken = [option for option in OPTIONS if takes(model.name, option) and values[option] != ""]
    options = {OPTIONS[option]: values[option] for option in taken}
    sizes = {size: model[size] for size in ("width", "latent_size", "image_size")}
    components = MODELS[model.name](**sizes, **options, channels=channels, **style)
    return narrow(components, values.get("channels", {}))  # Tickets of before have no such field.


def narrow(components: dict[str, Component], channels) -> dict[str, Component]:
    """The components with fewer channels, `{component: {channel name: count}}`; names that are left out keep all.

    What depends on a width, such as whether a shortcut is the identity, stays as it was.
    """

    def narrowed(component, counts):
        style = dataclasses.replace(component.module.style, channels=FrozenDict(counts))
        return component._replace(module=component.module.clone(style=style))

    return {
        name: narrowed(component, channels[name]) if channels.get(name) else component
        for name, component in components.items()
    }


def discriminator_norm(model) -> str:
    """The norm of the discriminator that `model`, a `config.model`, describes."""
    return model.discriminator_norm or inspect.signature(MODELS[model.name]).parameters["discriminator_norm"].default


def init(components: dict[str, Component], key) -> tuple[dict, dict]:
    """Fresh `(params, batch_stats)`, each `{component: {layer: ...}}`.

    batch_stats holds all that moves in training without a gradient: running statistics, the vectors of spectral norms.
    """
    params, batch_stats = {}, {}
    for name, variables in _variables(components, key).items():
        params[name] = nn.unbox(variables.get("params", {}))
        batch_stats[name] = variables.get("batch_stats", {})
    return params, batch_stats


def parameter_count(components: dict[str, Component]) -> int:
    """How many parameters the components have in all."""
    params = jax.eval_shape(lambda: init(components, jax.random.key(0)))[0]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _variables(components, key):
    return {
        name: module.init(component_key, jnp.zeros((1, *shape)), train=False, labels=jnp.zeros(1, jnp.int32))
        for component_key, (name, (module, shape, _)) in zip(
            jax.random.split(key, len(components)), components.items(), strict=True
        )
    }


def apply(components, params, batch_stats, name, x, train, labels=None):
    """`(module(x), batch_stats)` of the component `name`, its batch statistics updated when `train`."""
    variables = {"params": params[name], "batch_stats": batch_stats[name]}
    module = components[name].module
    with jax.named_scope(name):
        if not train:
            return module.apply(variables, x, train=False, labels=labels), batch_stats
        y, updated = module.apply(variables, x, train=True, labels=labels, mutable=["batch_stats"])
    return y, {**batch_stats, name: updated.get("batch_stats", {})}


def flows(components: dict[str, Component], batch_stats) -> dict[str, Callable]:
    """`{component: flow}`; `flow(params) -> R` sums what the component gives for ones when it is made linear.

    As published for SynFlow (Tanaka et al. 2020, section 6): evaluation mode, so that batch norm is a product with its
    scale, and non-negative statistics. With non-negative parameters a ReLU passes everything; other activations and
    the squashing of images become the identity, and norms that would cancel a layer's size (layer norm,
    spectral norm) are left out. Of a conditional network all classes are summed. A codebook is a layer by itself, whose
    flow is the sum of its codes.
    """

    def flow_of(name, component):
        module = component.module
        if not hasattr(module, "style"):
            return lambda params: sum(map(jnp.sum, jax.tree.leaves(params)), jnp.float32(0))
        style = module.style
        norm = "none" if style.norm == "layer" else style.norm
        linear = dataclasses.replace(style, norm=norm, spectral=False, activation=identity, squash=identity)
        statistics = jax.tree.map(abs, batch_stats[name])
        n = max(1, component.classes)

        def flow(params):
            variables = {"params": params, "batch_stats": statistics}
            ones, labels = jnp.ones((n, *component.input_shape)), jnp.arange(n)
            return module.clone(style=linear).apply(variables, ones, train=False, labels=labels).sum()

        return flow

    return {name: flow_of(name, component) for name, component in components.items()}


class AxisNames(NamedTuple):
    """Trees like the parameters and the batch statistics: for each leaf a tuple with the name of each axis, or None."""

    params: dict
    batch_stats: dict


def axis_names(components: dict[str, Component]) -> AxisNames:
    """The name of the channels along each axis of each leaf, or None.

    A convolution's kernel has `(None, None, "up_8", "up_16")`, the scale of its batch norm, the running mean and the
    vector of its spectral norm `("up_16",)`. Within a component, axes of one name are the same channels: layers joined
    by a residual sum share theirs. Images, latents, classes and codes have no name.
    """
    names = AxisNames({}, {})
    for component, variables in jax.eval_shape(lambda: _variables(components, jax.random.key(0))).items():
        boxed = traverse_util.flatten_dict(variables.get("params", {}))
        params = {path: leaf.names for path, leaf in boxed.items()}
        # What moves beside parameters has their last axis; the statistics of a conditional norm are one module deeper.
        made = {path[:-1]: axes[-1] for path, axes in params.items()}
        batch_stats = {
            path: (None,) * (leaf.ndim - 1) + (made.get(path[:-1], made.get(path[:-2])),)
            for path, leaf in traverse_util.flatten_dict(variables.get("batch_stats", {})).items()
        }
        names.params[component] = traverse_util.unflatten_dict(params)
        names.batch_stats[component] = traverse_util.unflatten_dict(batch_stats)
    return names


def kernel_uses(components: dict[str, Component]) -> dict[str, np.ndarray]:
    """How often each weight is used in one example's forward pass: for each kernel, by slash-joined path, an int array
    that broadcasts against it.

    `[kernel height, kernel width, 1, 1]` for a convolution, because a tap at the kernel's edge meets padding where the
    centre meets pixels; ones for a dense layer. The operation is the published one, whatever a layer does in its
    place (`models.layers`). Multiplications by padding are not counted, as in XLA's cost analysis.
    """
    uses = {}
    for name, variables in jax.eval_shape(lambda: _variables(components, jax.random.key(0))).items():
        params = traverse_util.flatten_dict(nn.unbox(variables.get("params", {})), sep="/")
        for path, (recorded,) in traverse_util.flatten_dict(variables.get("kernel_uses", {}), sep="/").items():
            counts = reduce(np.multiply.outer, recorded.value, np.array(1))
            uses[f"{name}/{path}"] = counts.reshape(counts.shape + (1,) * (params[path].ndim - counts.ndim))
    return uses


def products(components: dict[str, Component]) -> dict[str, int]:
    """The multiplications of what has no kernel, attention's two products, in one example's forward pass.

    By slash-joined path of the module that multiplies.
    """
    found = {}
    for name, variables in jax.eval_shape(lambda: _variables(components, jax.random.key(0))).items():
        recorded = traverse_util.flatten_dict(variables.get("products", {}))
        found |= {"/".join((name, *path[:-1])): static.value for path, (static,) in recorded.items()}
    return found
