"""Several seeds at a time on one host, each with devices of its own."""

import queue
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed

import jax

from jaxtickets.errors import UserError
from jaxtickets.experiments.setup import Setup
from jaxtickets.progress import say


def groups(at_once: int) -> list[tuple[jax.Device, ...]]:
    """The local devices in so many groups of equal size."""
    devices = jax.local_devices()
    size = len(devices) // at_once
    return [tuple(devices[start : start + size]) for start in range(0, len(devices), size)]


def run_at_once(
    run_seed: Callable[[int, Setup], dict], seeds: Iterable[int], setups: list[Setup], finished: Callable[[], None]
) -> None:
    """Calls `run_seed(seed, setup)` for every seed, each in a thread, as many at a time as there are setups.

    A setup has one seed at a time, and whatever that computes outside the mapped step is computed on the first of the
    setup's devices. `finished()` is called here, after each seed. If a seed fails, or the user interrupts, the others
    end at their next step, and the first error is raised.

    Args:
      setups: made from one another (`Setup(like=...)`), so that one event stops them all.
    """
    free = queue.SimpleQueue()
    for setup in setups:
        free.put(setup)

    def run_where_free(seed):
        setup = free.get()
        try:
            with jax.default_device(setup.devices[0]):
                return run_seed(seed, setup)
        except UserError as error:
            raise UserError(f"seed {seed}: {error}") from None
        finally:
            free.put(setup)

    with ThreadPoolExecutor(len(setups)) as pool:
        futures = [pool.submit(run_where_free, seed) for seed in seeds]
        try:
            for future in as_completed(futures):
                future.result()
                finished()
        except BaseException:
            setups[0].stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            say("stopping: every other seed ends after the step that it is in")
            raise
