"""The means of a metric's terms over the held-out images."""

import numpy as np

from jaxtickets.devices import Devices
from jaxtickets.examples import example_keys, to_float
from jaxtickets.metrics.spread import in_batches, replicated, spread

OBJECTIVE = ""  # The name of the objective's own terms, beside those of metrics.
BLOCK = 4096  # The number of images that are read at a time.


def held_out_means(objective, metrics, config, images, devices: Devices = None):
    """Returns `(params, batch_stats, seed) -> {name of a metric: {term: mean over all held-out images}}`.

    The images pass once for all metrics. Each image's terms are computed in float32 and summed in float64 on the host.
    The objective's own terms, summarised by it, are those of the name `OBJECTIVE`.

    Args:
      metrics: those on held-out images.
    """
    functions = {metric.name: metric.evaluate(objective, config) for metric in metrics if metric.evaluate}
    if any(not metric.evaluate for metric in metrics):
        functions[OBJECTIVE] = objective.evaluate

    def terms(shared, rows):
        params, batch_stats, seed = shared
        batch, numbers = rows
        arguments = params, batch_stats, to_float(batch), example_keys(seed, 0, 0, numbers)
        return {name: function(*arguments) for name, function in functions.items()}

    program = spread(terms, devices)

    def means(params, batch_stats, seed):
        if not functions:
            return {}
        shared = replicated((params, batch_stats, np.uint32(seed)), devices)
        totals = {name: {} for name in functions}
        rows = lambda numbers: (images[numbers], np.int32(numbers))  # noqa: E731
        for batch in in_batches(program, shared, rows, len(images), config.eval.batch_size, devices):
            for name, values in batch.items():
                for term, value in values.items():
                    totals[name][term] = totals[name].get(term, 0.0) + value.sum(axis=0, dtype=np.float64)
        found = {name: {term: total / len(images) for term, total in sums.items()} for name, sums in totals.items()}
        if OBJECTIVE in found and objective.summarize:
            found[OBJECTIVE] = objective.summarize(found[OBJECTIVE])
        return found

    return means


def error_of_mean_image(train_images, test_images) -> float:
    """The squared error of the mean training image as the answer to each held-out image, in [-1, 1].

    The mean is over all pixels, channels and held-out images, in float64.

    Args:
      train_images, test_images: `[n, h, w, c]` uint8.
    """
    total = sum(block.sum(axis=0, dtype=np.int64) for block in _blocks(train_images))
    mean = total / len(train_images)
    errors = sum(np.square(block - mean).sum() for block in _blocks(test_images))
    return float(errors / test_images.size / 127.5**2)


def _blocks(images):
    return (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))
