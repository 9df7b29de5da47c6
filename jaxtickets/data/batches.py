"""Batches as a function of (seed, step) alone, from images on the device or streamed from the host."""

import queue
import threading
from collections.abc import Iterator

import jax
import numpy as np

# Device memory left to the model, its moments and its activations when images move in.
DEVICE_BYTES = 4 << 30


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of `n` images in an epoch: `[n]` int32, a function of its arguments alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n).astype(np.int32)


def indices(seed: int, start: int, stop: int, n: int, batch_size: int) -> Iterator[np.ndarray]:
    """The `[batch_size]` image indices of steps `start` to `stop`; what an epoch leaves over is dropped."""
    per_epoch = n // batch_size
    epoch, order = -1, None
    for step in range(start, stop):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = epoch_order(seed, epoch, n)
        first = step % per_epoch * batch_size
        yield order[first : first + batch_size]


def fits_on_device(images) -> bool:
    """Whether `images` may live in device memory."""
    return images.nbytes <= DEVICE_BYTES


def resident(data, chosen: Iterator[np.ndarray], devices: int):
    """`(data, indices: [devices, batch / devices])` for a step that gathers on the device.

    data: a pytree of arrays `[devices, n, ...]`, already on the devices.
    """
    for batch in chosen:
        yield data, batch.reshape(devices, -1)


def streamed(data, chosen: Iterator[np.ndarray], devices: int, prefetch: int = 2, group=None):
    """The same for data on the host: each batch is gathered and sent to the devices while a step runs.

    data: a pytree of arrays `[n, ...]`, possibly memory maps. group: the devices; None: all local ones.
    """
    put = jax.pmap(lambda batch: batch, devices=group)
    ready = queue.Queue(prefetch)
    stopped = threading.Event()
    done = object()

    def offer(item):
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def gathered(batch):
        return jax.tree.map(lambda leaf: leaf[batch].reshape(devices, -1, *leaf.shape[1:]), data)

    def gather():
        try:
            for batch in chosen:
                if stopped.is_set():
                    return
                offer(put(gathered(batch)))
            offer(done)
        except BaseException as error:  # noqa: BLE001  (raised again where the batches are used)
            offer(error)

    thread = threading.Thread(target=gather, daemon=True)
    thread.start()
    order = None
    try:
        while (item := ready.get()) is not done:
            if isinstance(item, BaseException):
                raise item
            if order is None:
                size = jax.tree.leaves(item)[0].shape[1]
                order = np.tile(np.arange(size, dtype=np.int32), (devices, 1))
            yield item, order
    finally:
        stopped.set()
        thread.join()
