"""The networks of jaxtickets as PyTorch modules, with the weights of a file that `tickets export --to=torch` writes.

    generator = load("generator.safetensors", "generator")
    images = generator(torch.randn(64, latents))  # [64, channels, height, width] in [-1, 1]

This file needs PyTorch and safetensors alone, and can be copied. Modules have the names of the Flax modules, and as
many channels as the file says, so that compacted networks need nothing else. Inputs and outputs that are images or maps
are `[batch, channels, height, width]`.
"""

import json
from collections import OrderedDict

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from safetensors import safe_open
from torch import nn

CHAINS = ("dcgan", "sngan", "conv_vae", "conv_ae", "pooled_ae", "linear_vae", "linear_ae")
RESIDUAL = ("sngan_resnet", "resnet_dcgan", "resnet_vae", "sngan_resnet_vae")
NETWORKS = (*CHAINS, *RESIDUAL)
MAKES_IMAGES = ("generator", "decoder")
POOLED = {"down_4": 2, "down_5": 1}  # The strides of the max pooling in `pooled_ae`'s encoder.


def load(path, component: str) -> nn.Module:
    """One component of a network, such as "generator", in evaluation mode.

    Raises:
      ValueError: the network has no twin here, or no such component.
    """
    with safe_open(str(path), "pt") as file:
        about = json.loads((file.metadata() or {}).get("jaxtickets", "{}"))
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    model, prefix = about.get("model", {}), f"{component}."
    name = model.get("name")
    own = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    layers = [(key.removeprefix(prefix), *rest) for key, *rest in about.get("layers", []) if key.startswith(prefix)]
    if name not in NETWORKS or model.get("conditional"):
        what = f"the conditional {name!r}" if name in NETWORKS else repr(name)
        raise ValueError(f"{path}: {what} has no twin in PyTorch; allowed are {', '.join(NETWORKS)} without classes")
    if not layers:
        components = sorted({key.partition(".")[0] for key in state})
        raise ValueError(f"{path}: has no component {component!r}; allowed are {', '.join(components)}")
    if any(key.endswith("norm.weight") and key.replace("weight", "running_mean") not in own for key in own):
        raise ValueError(f"{path}: the layer norm of {component!r} has no twin in PyTorch; allowed are batch norms")
    makes_images = component in MAKES_IMAGES
    if name in RESIDUAL:
        pool = torch.mean if name.endswith("vae") else torch.sum
        base = model["image_size"] >> sum(key.endswith("shortcut") for key, *_ in layers)
        module = ResidualUp(own, base) if makes_images else ResidualDown(own, layers, pool)
    else:
        slope = 0.1 if name == "sngan" and component == "discriminator" else 0.0
        module = _chain(own, layers, slope, makes_images, model["image_size"], name == "pooled_ae" and not makes_images)
    module.load_state_dict(own)
    return module.eval()


# Layers.


def _layer(state, name, kind, stride=1, padding=0):
    """A layer of the size of its weights."""
    weight, bias = state[f"{name}.weight"], f"{name}.bias" in state
    if kind == "Dense":
        return nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    sizes = {"kernel_size": tuple(weight.shape[2:]), "bias": bias}
    if kind == "Unproject":
        return nn.ConvTranspose2d(*weight.shape[:2], **sizes)
    if kind == "ConvTranspose":
        return nn.ConvTranspose2d(*weight.shape[:2], stride=stride, padding=padding, **sizes)
    return nn.Conv2d(weight.shape[1], weight.shape[0], stride=stride, padding=padding, **sizes)


def _norm(state, name):
    return nn.BatchNorm2d(len(state[f"{name}.running_mean"])) if f"{name}.running_mean" in state else nn.Identity()


class Rows(nn.Module):
    """Images as rows of numbers, the channels of a pixel side by side."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class Images(nn.Module):
    """The inverse of `Rows` for square images."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x):
        return x.unflatten(1, (self.size, self.size, -1)).permute(0, 3, 1, 2)


class Pixels(nn.Module):
    """Vectors as images of one pixel."""

    def forward(self, x):
        return x[:, :, None, None]


# Networks.


def _chain(state, layers, slope, makes_images, image_size, is_pooled):
    """Layers one after another, each with its norm and its activation."""
    modules = OrderedDict()
    for number, (name, kind, stride, padding) in enumerate(layers):
        stage, is_last = name.removesuffix(".conv"), number == len(layers) - 1
        activation = nn.LeakyReLU(slope) if slope else nn.ReLU()
        if is_last:
            activation = nn.Tanh() if makes_images else nn.ReLU() if is_pooled else nn.Identity()
        if kind == "Dense" and number == 0 and not makes_images:
            modules["rows"] = Rows()
        if kind == "Unproject":
            modules["pixels"] = Pixels()
        layer = _layer(state, name, kind, stride, padding)
        if stage == name:
            modules[stage], modules[f"{stage}_activation"] = layer, activation
        else:
            parts = OrderedDict(conv=layer, norm=_norm(state, f"{stage}.norm"), activation=activation)
            modules[stage] = nn.Sequential(parts)
        if is_pooled and stage in POOLED:
            modules[f"{stage}_pool"] = nn.MaxPool2d(2, POOLED[stage])
        if kind == "Project":
            modules["flatten"] = nn.Flatten()
        if kind == "Dense" and is_last and makes_images:
            modules["images"] = Images(image_size)
    return nn.Sequential(modules)


def _part(state, name):
    return {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}


def _blocks(state, kind):
    """The names of the blocks of one kind, such as "up", with their numbers."""
    names = {key.partition(".")[0] for key in state if key.startswith(f"{kind}_")}
    return sorted(names, key=lambda name: int(name.rpartition("_")[2]))


class UpBlock(nn.Module):
    """Upsampling by 2 in a residual block (Miyato et al. 2018, figure 4a)."""

    def __init__(self, state):
        super().__init__()
        self.norm_1, self.norm_2 = _norm(state, "norm_1"), _norm(state, "norm_2")
        self.conv_1, self.conv_2 = (_layer(state, name, "Conv", padding=1) for name in ("conv_1", "conv_2"))
        self.shortcut = _layer(state, "shortcut", "Conv")

    def forward(self, x):
        y = self.conv_1(F.interpolate(F.relu(self.norm_1(x)), scale_factor=2))
        y = self.conv_2(F.relu(self.norm_2(y)))
        return y + self.shortcut(F.interpolate(x, scale_factor=2))


class DownBlock(nn.Module):
    """A residual block with or without pooling; the `first` one reads images (the same, figure 4b)."""

    def __init__(self, state, down: bool, first: bool):
        super().__init__()
        self.down, self.first = down, first
        self.norm_1, self.norm_2 = _norm(state, "norm_1"), _norm(state, "norm_2")
        self.conv_1, self.conv_2 = (_layer(state, name, "Conv", padding=1) for name in ("conv_1", "conv_2"))
        self.shortcut = _layer(state, "shortcut", "Conv") if "shortcut.weight" in state else nn.Identity()

    def forward(self, x):
        y = self.conv_1(x if self.first else F.relu(self.norm_1(x)))
        y = self.conv_2(F.relu(self.norm_2(y))) + self.shortcut(x)
        return F.avg_pool2d(y, 2) if self.down else y


class ResidualUp(nn.Module):
    """Latents `[batch, n]` -> images, by residual blocks from maps of `base` x `base` pixels up."""

    def __init__(self, state, base: int):
        super().__init__()
        self.base, self.blocks = base, _blocks(state, "up")
        self.unproject = _layer(state, "unproject", "Unproject")
        for name in self.blocks:
            self.add_module(name, UpBlock(_part(state, name)))
        self.norm, self.image = _norm(state, "norm"), _layer(state, "image", "Conv", padding=1)

    def forward(self, x):
        x = self.unproject(x[:, :, None, None]).expand(-1, -1, self.base, self.base)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return torch.tanh(self.image(F.relu(self.norm(x))))


class ResidualDown(nn.Module):
    """Images -> `[batch, outputs]`, by residual blocks and the sum or the mean over pixels."""

    def __init__(self, state, layers, pool):
        super().__init__()
        self.pool, kinds = pool, {name: kind for name, kind, *_ in layers}
        self.stem = _layer(state, "stem", "Conv", padding=1) if "stem.weight" in state else nn.Identity()
        self.blocks = [*reversed(_blocks(state, "down")), *_blocks(state, "block")]
        for number, name in enumerate(self.blocks):
            is_first, down = number == 0 and "stem.weight" not in state, kinds[f"{name}.conv_2"] == "ConvPool"
            self.add_module(name, DownBlock(_part(state, name), down, is_first))
        self.norm, self.project = _norm(state, "norm"), _layer(state, "project", "Dense")

    def forward(self, x):
        x = self.stem(x)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.project(self.pool(F.relu(self.norm(x)), dim=(2, 3)))
