"""The means of a metric's terms over the held-out images."""

import numpy as np

from jaxtickets.examples import example_keys, to_float
from jaxtickets.metrics.spread import in_batches, replicated, spread

OBJECTIVE = ""  # The name of the objective's own terms, beside those of metrics.


def held_out_means(objective, metrics, config, images):
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

    program = spread(terms)

    def means(params, batch_stats, seed):
        if not functions:
            return {}
        shared = replicated((params, batch_stats, np.uint32(seed)))
        totals = {name: {} for name in functions}
        rows = lambda numbers: (images[numbers], np.int32(numbers))  # noqa: E731
        for batch in in_batches(program, shared, rows, len(images), config.eval.batch_size):
            for name, values in batch.items():
                for term, value in values.items():
                    totals[name][term] = totals[name].get(term, 0.0) + value.sum(axis=0, dtype=np.float64)
        found = {name: {term: total / len(images) for term, total in sums.items()} for name, sums in totals.items()}
        if OBJECTIVE in found and objective.summarize:
            found[OBJECTIVE] = objective.summarize(found[OBJECTIVE])
        return found

    return means
