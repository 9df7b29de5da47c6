"""Improved precision and recall (Kynkaanniemi et al. 2019): how many samples look real, and how much of the real."""

from jaxtickets.fields import Field, whole
from jaxtickets.metrics.distances import count_inside
from jaxtickets.metrics.fd import FEATURES
from jaxtickets.metrics.metric import Metric, Sets
from jaxtickets.metrics.neighbours import need_samples, radii, real_balls

K = Field("eval.precision_neighbours", 3, whole(1), "The neighbour that balls reach to in precision and recall.")


def precision_recall(sets: Sets, config):
    """The share of samples within a real image's ball, and of real images within a sample's (equations 1 and 2)."""
    k, generated = config.eval.precision_neighbours, sets.generated.array
    real, real_radii = real_balls(sets.training, config.eval.samples, k)
    precision = (count_inside(generated, real, real_radii) > 0).mean()
    recall = (count_inside(real, generated, radii(generated, k)) > 0).mean()
    return precision, recall


PRECISION_RECALL = Metric(
    "precision_recall",
    (
        "precision in {eval.features} features, {eval.samples:,} samples",
        "recall in {eval.features} features, {eval.samples:,} samples",
    ),
    features="{eval.features}",
    columns=("precision_{eval.features}", "recall_{eval.features}"),
    measure=precision_recall,
    better="higher",
    fields=(FEATURES, K),
    check=lambda config: need_samples(config, config.eval.precision_neighbours, "precision_recall"),
)
