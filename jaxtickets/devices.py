"""Copies and parts of pytrees on the devices that a training is spread over.

Where these are the devices of several hosts, each process gives and sees the copies and the parts of its own devices:
`[devices, ...]` has the devices of this process, and the array on the devices has all of them.
"""

from functools import cache

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"  # The mapped axis of a train step.
Devices = tuple[jax.Device, ...] | None  # What a training is spread over; None: all local devices.


@cache
def _broadcast(devices):
    return jax.pmap(lambda device, tree: tree, in_axes=(0, None), devices=devices)


@cache
def _split(devices):
    # A compiled program, because that sends fastest; it is compiled once per shape.
    return jax.pmap(lambda tree: tree, devices=devices)


def replicate(tree, devices: Devices = None):
    """A copy of a pytree on each device, along a new leading axis."""
    if is_spread_over_hosts(devices):
        count = device_count(devices)
        return split(jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *np.shape(leaf))), tree), devices)
    return _broadcast(devices)(np.arange(device_count(devices)), tree)


def split(tree, devices: Devices = None):
    """The parts `[devices, ...]` of a pytree of arrays on the host, each on its device."""
    if not is_spread_over_hosts(devices):
        return _split(devices)(tree)
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
    # Not by `pmap`: the compiled step takes arrays of all hosts' devices.
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def is_spread_over_hosts(devices: Devices) -> bool:
    """Whether some of the devices are another process's."""
    return devices is not None and any(device.process_index != jax.process_index() for device in devices)


def here(devices: Devices) -> Devices:
    """Those of the devices that are this process's."""
    return tuple(device for device in devices if device.process_index == jax.process_index()) if devices else None


def device_count(devices: Devices) -> int:
    """The number of devices of this process."""
    return len(here(devices) or jax.local_devices())


def whole_count(devices: Devices) -> int:
    """The number of devices of all hosts: what a batch is split over."""
    return len(devices or jax.local_devices())


def own_parts(devices: Devices) -> slice:
    """Which of the parts of all devices are for those of this process."""
    first = devices.index(here(devices)[0]) if devices else 0
    return slice(first, first + device_count(devices))


def memory(devices: Devices) -> int | None:
    """The bytes that programs may take on each device; None where the back end does not tell."""
    stats = [device.memory_stats() or {} for device in here(devices) or jax.local_devices()]
    limits = [one.get("bytes_limit") for one in stats]
    return min(limits) if all(limits) else None


def unreplicate(tree, number: int | None = None):
    """The copy of this process's first device, on the host; of trees that were `stacked`, that of one number."""
    place = 0 if number is None else (0, number)
    return jax.device_get(jax.tree.map(lambda leaf: _own(leaf)[place], tree))


def _own(leaf):
    """An array, or of one that other hosts have parts of the part of this process's first device: `[1, ...]`."""
    return leaf if getattr(leaf, "is_fully_addressable", True) else leaf.addressable_data(0)


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
