"""The balls that reach from each image to its k-th nearest neighbour: the manifold that k-NN metrics estimate.

Real and generated images count equally many (`config.eval.samples`), as in the papers: a sparser set has larger balls.
Features of several networks are taken together. Distances are float32: see `jaxtickets.metrics.distances`.
"""

from jaxtickets.fields import refuse
from jaxtickets.metrics.distances import nearest
from jaxtickets.metrics.features import Features


def radii(points, k: int):
    """The distance `[n]` of each of the points `[n, features]` to its k-th nearest other one, or to its farthest."""
    return nearest(points, points, min(k, len(points) - 1), leave_out_self=True)[0][:, -1]


def real_balls(training: Features, n: int, k: int):
    """`(points, radii)` of at most `n` training images, computed once."""
    points = training.once(("points", n), lambda: training.some(n))
    return points, training.once(("radii", n, k), lambda: radii(points, k))


def need_samples(config, k: int, metric: str) -> None:
    """Refuses fewer samples than a k-th neighbour needs."""
    if config.eval.samples <= k:
        refuse("eval.samples", config.eval.samples, f"at least {k + 1} with the metric {metric} of {k} neighbours")
