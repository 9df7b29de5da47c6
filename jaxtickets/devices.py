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


def memory(devices: Devices) -> int | None:
    """The bytes that programs may take on each device; None where the back end does not tell."""
    stats = [device.memory_stats() or {} for device in devices or jax.local_devices()]
    limits = [one.get("bytes_limit") for one in stats]
    return min(limits) if all(limits) else None


def unreplicate(tree, number: int | None = None):
    """The first device's copy, on the host; of trees that were `stacked`, that of one number."""
    place = 0 if number is None else (0, number)
    return jax.device_get(jax.tree.map(lambda leaf: leaf[place], tree))


# Trees of several tickets.


def stacked(trees):
    """Trees on the host as one, along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@cache
def _exchanging(devices):
    def exchange(trees, number, tree):
        return jax.tree.map(lambda leaves, leaf: leaves.at[number].set(leaf), trees, tree)

    return jax.pmap(exchange, in_axes=(0, None, 0), donate_argnums=0, devices=devices)


def exchanged(trees, number: int, tree, devices: Devices = None):
    """`stacked` trees on the devices with another `tree: [devices, ...]` at one number; `trees` are destroyed."""
    return _exchanging(devices)(trees, number, tree)
