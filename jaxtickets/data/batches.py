"""Batches as a function of (seed, step) alone, from images on the device or streamed from the host."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from itertools import groupby

import jax
import numpy as np

# Device memory left to the model, its moments and its activations when images move in.
DEVICE_BYTES = 4 << 30
# So many steps' indices are sent to the devices together: one by one they cost a fast step a few percent of its time.
ROWS = 64


@lru_cache(maxsize=16)
def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of `n` images in an epoch: `[n]` int32, a function of its arguments alone."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n).astype(np.int32)
    order.flags.writeable = False
    return order


def indices(seed: int, start: int, stop: int, n: int, batch_size: int) -> Iterator[np.ndarray]:
    """The `[batch_size]` image indices of steps `start` to `stop`; what an epoch leaves over is dropped."""
    per_epoch = n // batch_size
    for step in range(start, stop):
        first = step % per_epoch * batch_size
        yield epoch_order(seed, step // per_epoch, n)[first : first + batch_size]


def blocks(start: int, stop: int, length: int, is_due: Callable[[int], bool]) -> Iterator[range]:
    """The steps `start` to `stop` as the blocks that one call each does: `length` steps together, or one alone.

    Blocks lie at the multiples of `length`, wherever training starts, so that a resumed run does each step in the
    same program. If something is due (`is_due(step)`, after so many steps) inside a block its steps come alone.
    """
    step = start
    while step < stop:
        end = step + length
        is_whole = step % length == 0 and end <= stop and not any(map(is_due, range(step + 1, end)))
        block = range(step, end if is_whole else step + 1)
        yield block
        step = block.stop


def fits_on_device(images) -> bool:
    """Whether `images` may live in device memory."""
    return images.nbytes <= DEVICE_BYTES


@cache
def _put(group):
    """Sends a tree whose leaves have a leading axis of devices; a program, compiled once, because that is fastest."""
    return jax.pmap(lambda tree: tree, devices=group)


def _split(chosen: Iterable[np.ndarray], devices: int) -> np.ndarray:
    """The `[batch]` indices of some steps as `[devices, steps, batch / devices]`."""
    return np.stack([batch.reshape(devices, -1) for batch in chosen], axis=1)


def resident(data, chosen, blocks: Iterable[range], devices: int, rows: int = ROWS, group=None):
    """`(block, data, indices: [devices, rows, batch / devices])` for each of `blocks`, as `train.make_step` takes them.

    Args:
      data: a pytree of arrays `[devices, n, ...]`, already on the devices.
      chosen: `(start, stop) -> the [batch] indices of each of those steps`.
      blocks: ranges of steps, one after another, none of them across a multiple of `rows`.
      rows: the indices of so many steps, from a multiple of `rows` on, are sent together.
      group: the devices; None: all local ones.
    """
    for number, together in groupby(blocks, lambda block: block.start // rows):
        sent = _put(group)(_split(chosen(number * rows, (number + 1) * rows), devices))
        for block in together:
            yield block, data, sent


def streamed(data, chosen, blocks: Iterable[range], devices: int, prefetch: int = 2, group=None):
    """The same for data on the host: the images of a block are gathered and sent while the steps before it run.

    data: a pytree of arrays `[n, ...]`, possibly memory maps.
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
        return jax.tree.map(lambda leaf: leaf[chosen.ravel()].reshape(devices, -1, *leaf.shape[1:]), data)

    def gather():
        try:
            places = {}  # Of the images of each step among those that are sent.
            for block in blocks:
                if stopped.is_set():
                    return
                of_block = _split(chosen(block.start, block.stop), devices)
                if len(block) not in places:
                    order = np.arange(of_block[0].size, dtype=np.int32).reshape(of_block[0].shape)
                    places[len(block)] = _put(group)(np.broadcast_to(order, of_block.shape))
                offer((block, _put(group)(gathered(of_block)), places[len(block)]))
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
