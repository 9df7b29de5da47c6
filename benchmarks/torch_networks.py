"""The networks `dcgan`, `conv_vae` and `sngan_resnet` and their train steps in plain PyTorch, as its users write them.

Layers, norms, losses and optimisers are those of `jaxtickets.models` and `jaxtickets.objectives`, with the published
operations in residual blocks; `tests/test_torch_networks.py` checks that losses, gradients and whole steps are equal.
Modules have the names of the Flax modules. Masks are multiplied into the weights after each optimiser step, as in the
public reference code of the AAAI 2021 paper.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import nn

from jaxtickets import masks as mask_lib

IMAGE_CHANNELS = 3


# Networks.


def _stage(conv, norm: bool = True, activation: nn.Module | None = None):
    layers = OrderedDict(conv=conv)
    if norm:
        layers["norm"] = nn.BatchNorm2d(conv.out_channels)
    layers["activation"] = activation or nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _up(width: int, latent_size: int, image_size: int, base: int):
    """Latents `[batch, latent_size]` -> `[batch, 3, image_size, image_size]` by transposed convolutions."""
    features = width * image_size // (2 * base)
    layers = OrderedDict(latents=nn.Unflatten(1, (latent_size, 1, 1)))
    layers["unproject"] = _stage(nn.ConvTranspose2d(latent_size, features, base, bias=False))
    for size in _doublings(base, image_size // 2):
        conv = nn.ConvTranspose2d(features, features // 2, 4, stride=2, padding=1, bias=False)
        layers[f"up_{size}"], features = _stage(conv), features // 2
    image = nn.ConvTranspose2d(features, IMAGE_CHANNELS, 4, stride=2, padding=1)
    layers[f"up_{image_size}"] = _stage(image, norm=False, activation=nn.Tanh())
    return nn.Sequential(layers)


def _down(width: int, out_features: int, image_size: int, base: int, norm_first: bool):
    """Images `[batch, 3, image_size, image_size]` -> `[batch, out_features]` by strided convolutions."""
    in_features, features, layers = IMAGE_CHANNELS, width, OrderedDict()
    for size in reversed(_doublings(base, image_size)):
        norm = norm_first or size < image_size
        conv = nn.Conv2d(in_features, features, 4, stride=2, padding=1, bias=not norm)
        layers[f"down_{size}"], in_features, features = _stage(conv, norm), features, 2 * features
    layers["project"] = nn.Sequential(OrderedDict(conv=nn.Conv2d(in_features, out_features, base)))
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)


def _doublings(size: int, last: int) -> list[int]:
    """`size` doubled again and again, up to `last`: `[2 * size, 4 * size, ..., last]`."""
    return [] if size == last else [2 * size, *_doublings(2 * size, last)]


class UpBlock(nn.Module):
    """Upsampling by 2 in a residual block (Miyato et al. 2018, figure 4a)."""

    def __init__(self, features: int):
        super().__init__()
        self.norm_1 = nn.BatchNorm2d(features)
        self.conv_1 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(features)
        self.conv_2 = nn.Conv2d(features, features, 3, padding=1)
        self.shortcut = nn.Conv2d(features, features, 1, bias=False)

    def forward(self, x):
        y = F.interpolate(F.relu(self.norm_1(x), inplace=True), scale_factor=2)
        y = F.relu(self.norm_2(self.conv_1(y)), inplace=True)
        return self.conv_2(y) + self.shortcut(F.interpolate(x, scale_factor=2))


class DownBlock(nn.Module):
    """A residual block of the discriminator, with or without pooling; the first one differs (the same, figure 4b)."""

    def __init__(self, in_features: int, features: int, down: bool = True, first: bool = False):
        super().__init__()
        self.down, self.first = down, first
        hidden = features if first else in_features
        self.conv_1 = nn.Conv2d(in_features, hidden, 3, padding=1)
        self.conv_2 = nn.Conv2d(hidden, features, 3, padding=1)
        self.shortcut = nn.Conv2d(in_features, features, 1, bias=False) if down else nn.Identity()

    def forward(self, x):
        y = self.conv_1(x if self.first else F.relu(x))
        y = self.conv_2(F.relu(y, inplace=True))
        if self.first:
            return F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))
        y = y + self.shortcut(x)
        return F.avg_pool2d(y, 2) if self.down else y


class SumOverPixels(nn.Module):
    def forward(self, x):
        return x.sum(dim=(2, 3))


def dcgan(width: int, latent_size: int, image_size: int) -> nn.ModuleDict:
    """The network `dcgan`; as all networks here, for images with three channels."""
    return nn.ModuleDict(
        {
            "generator": _up(width, latent_size, image_size, base=4),
            "discriminator": _down(width, 1, image_size, base=4, norm_first=False),
        }
    )


def conv_vae(width: int, latent_size: int, image_size: int) -> nn.ModuleDict:
    """The network `conv_vae`."""
    return nn.ModuleDict(
        {
            "encoder": _down(width, 2 * latent_size, image_size, base=2, norm_first=True),
            "decoder": _up(width, latent_size, image_size, base=2),
        }
    )


def sngan_resnet(width: int, latent_size: int, image_size: int) -> nn.ModuleDict:
    """The network `sngan_resnet` without classes."""
    features = 2 * width
    up = OrderedDict(
        latents=nn.Unflatten(1, (latent_size, 1, 1)), unproject=nn.ConvTranspose2d(latent_size, features, 4)
    )
    for size in _doublings(4, image_size):
        up[f"up_{size}"] = UpBlock(features)
    up["norm"], up["activation"] = nn.BatchNorm2d(features), nn.ReLU(inplace=True)
    up["image"], up["squash"] = nn.Conv2d(features, IMAGE_CHANNELS, 3, padding=1), nn.Tanh()
    down = OrderedDict({f"down_{image_size}": DownBlock(IMAGE_CHANNELS, width, first=True)})
    for size in reversed(_doublings(8, image_size // 2)):
        down[f"down_{size}"] = DownBlock(width, width)
    down["block_1"], down["block_2"] = DownBlock(width, width, down=False), DownBlock(width, width, down=False)
    down["activation"], down["pool"], down["project"] = nn.ReLU(), SumOverPixels(), nn.Linear(width, 1)
    discriminator = nn.Sequential(down)
    for module in list(discriminator.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            # The older of PyTorch's two spectral norms starts the power iteration at `u`, as SNGAN and jaxtickets do.
            nn.utils.spectral_norm(module)
    return nn.ModuleDict({"generator": nn.Sequential(up), "discriminator": discriminator})


MODELS = {model.__name__: model for model in (dcgan, conv_vae, sngan_resnet)}


# Weights of jaxtickets for PyTorch.

_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var", "u": "weight_u"}


def named_tensors(networks: nn.ModuleDict, tree) -> dict[str, torch.Tensor]:
    """A tree of jaxtickets (parameters, gradients, masks, batch statistics) with PyTorch's names and layouts.

    A kernel `[h, w, in, out]` becomes `[out, in, h, w]`, or `[in, out, h, w]` for a transposed convolution. Both define
    that as the transpose of a convolution, so nothing is flipped.
    """
    found = {}
    for path, leaf in mask_lib.named_leaves(tree).items():
        *modules, name = path.split("/")
        module, leaf, name = networks.get_submodule(".".join(modules)), np.asarray(leaf), _NAMES.get(name, name)
        if leaf.ndim == 4:
            leaf = leaf.transpose((2, 3, 0, 1) if isinstance(module, nn.ConvTranspose2d) else (3, 2, 0, 1))
        if name == "weight" and hasattr(module, "weight_orig"):
            name = "weight_orig"
        found[".".join([*modules, name])] = torch.from_numpy((leaf.T if leaf.ndim == 2 else leaf).copy())
    return found


@torch.no_grad()
def load(networks: nn.ModuleDict, params, batch_stats) -> None:
    """Copies parameters and batch statistics of jaxtickets into the networks."""
    own = {**dict(networks.named_parameters()), **dict(networks.named_buffers())}
    for tree in (params, batch_stats):
        for name, tensor in named_tensors(networks, tree).items():
            own[name].copy_(tensor)


# Losses.


def _float32(x):
    """`x` in at least float32, whatever type the networks compute in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _gan_losses(networks, options) -> dict[str, Callable]:
    generator, discriminator = networks["generator"], networks["discriminator"]
    bce = F.binary_cross_entropy_with_logits

    def judge(images):
        return _float32(discriminator(images))

    def discriminator_loss(images, noise):
        fakes = _float32(generator(noise)).detach()
        real, fake = judge(images), judge(fakes)
        if options.loss == "hinge":
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        return bce(real, torch.full_like(real, options.real_label)) + bce(fake, torch.zeros_like(fake))

    def generator_loss(images, noise):
        fake = judge(_float32(generator(noise)))
        return -fake.mean() if options.loss == "hinge" else bce(fake, torch.ones_like(fake))

    return {"discriminator": discriminator_loss, "generator": generator_loss}


def _vae_losses(networks, options) -> dict[str, Callable]:
    encoder, decoder = networks["encoder"], networks["decoder"]

    def loss(images, noise):
        mean, log_variance = _float32(encoder(images)).chunk(2, dim=1)
        reconstructions = _float32(decoder(mean + torch.exp(0.5 * log_variance) * noise))
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (F.mse_loss(reconstructions, images, reduction="sum") + options.beta * kl) / len(images)

    return {"vae": loss}


def losses(networks: nn.ModuleDict, options) -> dict[str, Callable]:
    """`{player: loss(images, noise)}` in the order of their moves, with `options` a `config.objective`.

    images: `[batch, 3, h, w]` in [-1, 1]. noise: `[batch, latent_size]`, standard normal.
    """
    return (_gan_losses if "generator" in networks else _vae_losses)(networks, options)


# Steps.


def to_float(images):
    """uint8 images in [0, 255] as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def make_step(networks: nn.ModuleDict, config, masks, latent_size: int, dtype=torch.float32, compile=None) -> Callable:
    """The train step `step(images, noise=None) -> {player: loss}`: each player in turn takes a step with Adam.

    Args:
      config: the objective and the optimiser, as in jaxtickets.
      masks: as in jaxtickets.
      dtype: bfloat16 for `torch.autocast` to that type.
      compile: a function that compiles a loss, or None.

    The step takes images `[batch, 3, h, w]` in [-1, 1] and `noise: [players, batch, latent_size]`, drawn if None.
    """
    options, players = config.optimizer, losses(networks, config.objective)
    if compile:
        players = {name: compile(loss) for name, loss in players.items()}
    components = {name: (name,) if name in networks else tuple(networks) for name in players}
    parameters, masks = dict(networks.named_parameters()), named_tensors(networks, masks)
    # Each mask has the memory format of its weights.
    masks = {name: torch.empty_like(parameters[name]).copy_(mask) for name, mask in masks.items()}
    optimizers, masked = {}, {}
    for player, names in components.items():
        own = {name: weight for name, weight in parameters.items() if name.startswith(names)}
        betas = (options.beta1, options.beta2)
        optimizers[player] = torch.optim.Adam(
            own.values(), options.learning_rate, betas, weight_decay=options.weight_decay, fused=True
        )
        masked[player] = [(weight, masks[name]) for name, weight in own.items() if name in masks]

    def step(images, noise=None):
        if noise is None:
            noise = torch.randn(len(players), len(images), latent_size, device=images.device)
        values = {}
        for (player, loss), own_noise in zip(players.items(), noise, strict=True):
            for name, network in networks.items():
                network.requires_grad_(name in components[player])
            optimizers[player].zero_grad()
            with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                value = loss(images, own_noise)
            value.backward()
            optimizers[player].step()
            for weight, mask in masked[player]:
                weight.data.mul_(mask)
            values[player] = value.detach()
        return values

    return step
