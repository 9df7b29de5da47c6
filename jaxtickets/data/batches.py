"""Batches of images, on the device or streamed from the host; their order is a function of (seed, step) alone."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import groupby

import jax
import numpy as np

from jaxtickets.devices import Devices, own_parts, split

# Images of at most this size live in device memory; the rest is for parameters, optimiser moments and activations.
DEVICE_BYTES = 4 << 30
# The number of steps whose indices are sent to the devices together. Sent step by step they would cost a fast step a
# few percent of its time.
ROWS = 64


@lru_cache(maxsize=16)
def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the order of `n` images in an epoch: `[n]` int32, a function of its arguments alone."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n).astype(np.int32)
    order.flags.writeable = False
    return order


def indices(seed: int, start: int, stop: int, n: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yields the `[batch_size]` image indices of each step from `start` to below `stop`.

    The images that an epoch leaves after its last whole batch are dropped.
    """
    per_epoch = n // batch_size
    for step in range(start, stop):
        first = step % per_epoch * batch_size
        yield epoch_order(seed, step // per_epoch, n)[first : first + batch_size]


def blocks(start: int, stop: int, length: int, is_due: Callable[[int], bool]) -> Iterator[range]:
    """Yields the steps from `start` to below `stop` in blocks, one per call: `length` steps together, or one alone.

    Blocks lie at the multiples of `length`, wherever training starts, so that a resumed run does each step in the
    same program. If something is due inside a block, its steps come one by one.

    Args:
      is_due: whether something is due after the given number of steps.
    """
    step = start
    while step < stop:
        end = step + length
        is_whole = step % length == 0 and end <= stop and not any(map(is_due, range(step + 1, end)))
        block = range(step, end if is_whole else step + 1)
        yield block
        step = block.stop


def fits_on_device(images) -> bool:
    """Returns whether `images` are small enough to live in device memory."""
    return images.nbytes <= DEVICE_BYTES


def _shares(chosen: Iterable[np.ndarray], devices: int, group: Devices) -> np.ndarray:
    """Stacks the `[..., batch]` indices of some steps as `[devices of this process, ..., steps, batch / devices]`."""
    own = own_parts(group)
    shares = [np.moveaxis(batch.reshape(*batch.shape[:-1], devices, -1), -2, 0)[own] for batch in chosen]
    return np.stack(shares, axis=-2)


def resident(data, chosen, blocks: Iterable[range], devices: int, rows: int = ROWS, group: Devices = None):
    """Yields `(block, data, indices: [devices, rows, batch / devices])` per block, the inputs of `train.make_step`.

    Of several tickets the indices are `[devices, tickets, rows, batch / devices]`.

    Args:
      data: a pytree of arrays `[devices, n, ...]`, already on the devices.
      chosen: `(start, stop) -> the [batch] or [tickets, batch] indices of each of those steps`.
      blocks: ranges of steps, one after another, none of them across a multiple of `rows`.
      devices: the number of devices that a batch is split over, those of other hosts among them.
      rows: the number of steps, from a multiple of it on, whose indices are sent together.
      group: the devices; None: all local ones.
    """
    for number, together in groupby(blocks, lambda block: block.start // rows):
        sent = split(_shares(chosen(number * rows, (number + 1) * rows), devices, group), group)
        for block in together:
            yield block, data, sent


def streamed(data, chosen, blocks: Iterable[range], devices: int, prefetch: int = 2, group: Devices = None):
    """Yields the same for data on the host: gathers and sends the images of a block while the steps before it run.

    Args:
      data: a pytree of arrays `[n, ...]`, possibly memory maps.
      chosen, blocks, devices, group: see `resident`.
      prefetch: the number of blocks that may wait on the devices.
    """
    ready = queue.Queue(prefetch)
    stopped = threading.Event()
    done = object()

    def offer(item):
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def gathered(chosen):
        return jax.tree.map(lambda leaf: leaf[chosen.ravel()].reshape(len(chosen), -1, *leaf.shape[1:]), data)

    def gather():
        try:
            places = {}  # by length of a block: which of the images that are sent each step takes
            for block in blocks:
                if stopped.is_set():
                    return
                of_block = _shares(chosen(block.start, block.stop), devices, group)
                if len(block) not in places:
                    order = np.arange(of_block[0].size, dtype=np.int32).reshape(of_block[0].shape)
                    places[len(block)] = split(np.broadcast_to(order, of_block.shape), group)
                offer((block, split(gathered(of_block), group), places[len(block)]))
            offer(done)
        except BaseException as error:  # noqa: BLE001  (raised again where the batches are used)
            offer(error)

    thread = threading.Thread(target=gather, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not done:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
