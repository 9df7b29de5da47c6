"""Networks by name, as plug-ins; a network is a dictionary of components, each one a Flax module.

To add a network, write a function that makes its components, declare it as a `Network`, and list it in `NETWORKS`.
"""

from jaxtickets.fields import Registry
from jaxtickets.models import autoencoders, gans
from jaxtickets.models.components import Component, Network, apply, build, init, narrow, parameter_count
from jaxtickets.models.gans import NORMS, discriminator_norm
from jaxtickets.models.inspection import AxisNames, axis_names, check_flows, flows, kernel_uses, products

NETWORKS = Registry(
    "model.name",
    gans.DCGAN,
    gans.SNGAN,
    gans.SNGAN_RESNET,
    gans.RESNET_DCGAN,
    gans.SAGAN,
    autoencoders.LINEAR_VAE,
    autoencoders.CONV_VAE,
    autoencoders.RESNET_VAE,
    autoencoders.SNGAN_RESNET_VAE,
    autoencoders.VQ_VAE,
    autoencoders.LINEAR_AE,
    autoencoders.CONV_AE,
    autoencoders.POOLED_AE,
)

__all__ = [
    "NETWORKS",
    "NORMS",
    "AxisNames",
    "Component",
    "Network",
    "apply",
    "axis_names",
    "build",
    "check_flows",
    "discriminator_norm",
    "flows",
    "init",
    "kernel_uses",
    "narrow",
    "parameter_count",
    "products",
]
