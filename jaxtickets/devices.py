"""Copies of pytrees on the devices that a training is spread over."""

from functools import cache

import jax
import numpy as np

AXIS = "devices"  # The mapped axis of a train step.
Devices = tuple[jax.Device, ...] | None  # What a training is spread over; None: all local devices.


@cache
def _broadcast(devices):
    return jax.pmap(lambda device, tree: tree, in_axes=(0, None), devices=devices)


def replicate(tree, devices: Devices = None):
    """A copy of a pytree on each device, along a new leading axis."""
    return _broadcast(devices)(np.arange(device_count(devices)), tree)


def device_count(devices: Devices) -> int:
    """The number of devices."""
    return len(devices or jax.local_devices())


def unreplicate(tree):
    """The first device's copy, on the host."""
    return jax.device_get(jax.tree.map(lambda leaf: leaf[0], tree))
