"""Programs over many images: compiled once, and each batch split over devices.

`devices` are those that a run uses; None stands for all local ones.
"""

from collections.abc import Callable, Iterator
from functools import cache

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtickets.devices import Devices, device_count

AXIS = "images"


@cache
def _mesh(devices):
    return Mesh(np.array(devices or jax.local_devices()), (AXIS,))


def replicated(tree, devices: Devices = None):
    """A copy of a pytree of arrays on each device; an array that stands in it twice is copied once."""
    leaves, structure = jax.tree.flatten(tree)
    distinct = {id(leaf): leaf for leaf in leaves}
    on_devices = jax.device_put(distinct, NamedSharding(_mesh(devices), PartitionSpec()))
    return structure.unflatten(on_devices[id(leaf)] for leaf in leaves)


def spread(function: Callable, devices: Devices = None) -> Callable:
    """Compiles `function(shared, rows) -> results`, whose rows and results are pytrees with a leading axis of images.

    Each device is given an equal share of the rows, and all of `shared`, a pytree. An array that stands in
    `shared` twice is one argument of the program: two networks with the same weights share what they have in common.
    """

    @cache
    def program(structure, places):
        def mapped(distinct, rows):
            return function(structure.unflatten([distinct[place] for place in places]), rows)

        specs = PartitionSpec(), PartitionSpec(AXIS)
        mesh = _mesh(devices)
        return jax.jit(jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False))

    def call(shared, rows):
        leaves, structure = jax.tree.flatten(shared)
        order = {key: place for place, key in enumerate(dict.fromkeys(map(id, leaves)))}
        distinct = list({id(leaf): leaf for leaf in leaves}.values())
        return program(structure, tuple(order[id(leaf)] for leaf in leaves))(distinct, rows)

    return call


def in_batches(program: Callable, shared, rows: Callable, n: int, batch_size: int, devices: Devices = None) -> Iterator:
    """Yields `program(shared, rows(indices))` on the host for consecutive batches of the images 0 to n - 1.

    Every call has the same number of images, a multiple of the number of devices: the last image fills the last batch,
    and the surplus rows of its results are left out. While the host works on one batch, the devices have the next.

    Args:
      program: made by `spread` for the same devices, on which `shared` is `replicated`.
      rows: `indices [batch] -> rows` of these images.
    """
    count = device_count(devices)
    size = -(-min(batch_size, n) // count) * count
    before = None
    for start in range(0, n, size):
        results = program(shared, rows(np.minimum(np.arange(start, start + size), n - 1)))
        if before is not None:
            yield jax.device_get(before)
        before = results
    left = n - start
    yield jax.tree.map(lambda leaf: leaf[:left], jax.device_get(before))
