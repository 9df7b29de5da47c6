"""Components of a network, the plug-ins that make them, and what runs them: build, init, apply."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from jaxtickets.fields import Field, no_check


class Component(NamedTuple):
    """A Flax module, called as `module(x, *more, train=..., labels=...)`, and the shapes of its inputs.

    Attributes:
      module: the Flax module.
      input_shape: the shape of one example of `x`.
      classes: above 0 the module needs `labels: [batch]`, int32 below this number; at 0 it ignores labels.
      more_inputs: the shape of one example of each further input, such as `()` for a time.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    classes: int = 0
    more_inputs: tuple[tuple[int, ...], ...] = ()

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one example of each input."""
        return (self.input_shape, *self.more_inputs)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as a plug-in: `config.model.name` chooses it.

    Attributes:
      name, fields, check: see `jaxtickets.fields`. Each field `model.<option>` is given to `make` as the keyword
        `<option>`, unless its value is "", which stands for `make`'s own default. `model.conditional` is given as
        `classes`: the number of classes, or 0 where it is False.
      make: `(width, latent_size, image_size, channels, **options, **style) -> {name: Component}` for images
        `[image_size, image_size, channels]`. `style` holds attributes of `layers.Style`.
      objective: the name of the game that trains it.
      image_sizes: the image sizes that it supports.
      has_blocks: whether it is made of blocks, so that `config.train.rematerialize` has an effect.
    """

    name: str
    make: Callable
    objective: str
    image_sizes: tuple[int, ...]
    fields: tuple[Field, ...] = ()
    check: Callable = no_check
    has_blocks: bool = True


def build(model, channels: int, classes: int, **style) -> dict[str, Component]:
    """The components of the network that `model` describes.

    Args:
      model: `config.model`, or a dictionary like it. A field that it lacks, as old tickets do, has its default.
      channels: the number of channels of the images.
      classes: the number of classes of the labels; only a conditional network uses it.
      style: attributes of `layers.Style` for all layers, such as `dtype` and `axis_name`.

    Returns:
      The components by name. Those named in `model.channels` have that many channels; see `narrow`.
    """
    from jaxtickets.models import NETWORKS  # The registry imports the networks, which import this module.

    network = NETWORKS[model["name"]]
    sizes = {size: model[size] for size in ("width", "latent_size", "image_size")}
    own = [field for field in network.fields if field.name.startswith("model.")]
    options = {(option := field.name.removeprefix("model.")): model.get(option, field.default) for field in own}
    if "conditional" in options:
        options["classes"] = classes if options.pop("conditional") else 0
    given = {option: value for option, value in options.items() if value != ""}
    components = network.make(**sizes, channels=channels, **given, **style)
    return narrow(components, model.get("channels", {}))


def narrow(components: dict[str, Component], channels) -> dict[str, Component]:
    """The components with fewer channels, as compaction leaves them.

    Args:
      channels: `{component: {channel name: count}}`; channels that it does not name all stay.

    The architecture is still that of the full width: a shortcut that is the identity there is the identity here.
    """

    def narrowed(component, counts):
        if not hasattr(component.module, "style"):
            raise ValueError(f"{type(component.module).__name__} has no `style`, which counts a module's channels")
        style = dataclasses.replace(component.module.style, channels=FrozenDict(counts))
        return component._replace(module=component.module.clone(style=style))

    return {
        name: narrowed(component, channels[name]) if channels.get(name) else component
        for name, component in components.items()
    }


def init(components: dict[str, Component], key) -> tuple[dict, dict]:
    """Fresh `(params, batch_stats)`, each `{component: {layer: ...}}`.

    batch_stats holds everything that training moves without a gradient: the running statistics of batch norms, the
    vectors of spectral norms, and codes that are running averages.
    """
    params, batch_stats = {}, {}
    for name, collections in variables(components, key).items():
        params[name] = nn.unbox(collections.get("params", {}))
        batch_stats[name] = collections.get("batch_stats", {})
    return params, batch_stats


def variables(components: dict[str, Component], key) -> dict[str, dict]:
    """All Flax collections of each component, initialised; parameters are boxed with the names of their axes."""

    def initialised(component, key):
        inputs = (jnp.zeros((1, *shape)) for shape in component.input_shapes)
        return component.module.init(key, *inputs, train=False, labels=jnp.zeros(1, jnp.int32))

    keys = jax.random.split(key, len(components))
    return {name: initialised(component, key) for (name, component), key in zip(components.items(), keys, strict=True)}


def parameter_count(components: dict[str, Component]) -> int:
    """The number of parameters of all components together."""
    params = jax.eval_shape(lambda: init(components, jax.random.key(0)))[0]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def apply(components: dict[str, Component], params, batch_stats, name: str, inputs, train: bool, labels=None):
    """The outputs of one component, and the batch statistics after the forward pass.

    Args:
      params, batch_stats: of all components, as `init` makes them.
      name: the component.
      inputs: an array `[batch, ...]`, or a tuple of arrays for a component with several inputs.
      train: whether this is a training pass, which normalises by the batch and moves the component's batch statistics.
      labels: `[batch]` int32, for a conditional component.

    Returns:
      `(outputs, batch_stats)`.
    """
    collections = {"params": params[name], "batch_stats": batch_stats[name]}
    module = components[name].module
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    with jax.named_scope(name):
        if not train:
            return module.apply(collections, *inputs, train=False, labels=labels), batch_stats
        outputs, moved = module.apply(collections, *inputs, train=True, labels=labels, mutable=["batch_stats"])
    return outputs, {**batch_stats, name: moved.get("batch_stats", {})}
