"""Density and coverage (Naeem et al. 2020): precision and recall that single outliers do not move."""

import numpy as np

from jaxtickets.fields import Field, whole
from jaxtickets.metrics.distances import count_inside, nearest
from jaxtickets.metrics.fd import FEATURES
from jaxtickets.metrics.metric import Metric, Sets
from jaxtickets.metrics.neighbours import need_samples, real_balls

K = Field("eval.coverage_neighbours", 5, whole(1), "The neighbour that balls reach to in density and coverage.")


def density_coverage(sets: Sets, config):
    """The number of real balls that a sample is in, over k; and the share of real balls with a sample (equations 4, 7).

    Density may be above 1: samples that crowd where real images are dense.
    """
    k, generated = config.eval.coverage_neighbours, sets.generated.array
    real, real_radii = real_balls(sets.training, config.eval.samples, k)
    density = count_inside(generated, real, real_radii).mean() / k
    coverage = np.mean(nearest(real, generated, 1)[0][:, 0] <= real_radii)
    return density, coverage


DENSITY_COVERAGE = Metric(
    "density_coverage",
    (
        "density in {eval.features} features, {eval.samples:,} samples",
        "coverage in {eval.features} features, {eval.samples:,} samples",
    ),
    features="{eval.features}",
    columns=("density_{eval.features}", "coverage_{eval.features}"),
    measure=density_coverage,
    better="higher",
    fields=(FEATURES, K),
    check=lambda config: need_samples(config, config.eval.coverage_neighbours, "density_coverage"),
)
