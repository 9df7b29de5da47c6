"""The Frechet distance between samples and training images in the features of small networks."""

import numpy as np

from jaxtickets.fields import Field, choice
from jaxtickets.metrics.features import FEATURE_NETWORKS
from jaxtickets.metrics.frechet import frechet_distance, parts
from jaxtickets.metrics.metric import Metric

FEATURES = Field(
    "eval.features", "faces", choice(FEATURE_NETWORKS), "The feature networks in which Frechet distances are taken."
)


def distance(generated, training, config):
    """The distance between the Gaussians of two sets of features, the mean over the networks that they are of."""
    del config
    both = (parts(features.gaussian, features.parts) for features in (generated, training))
    return (np.mean([frechet_distance(*pair) for pair in zip(*both, strict=True)]),)


FD = Metric(
    "fd",
    "Frechet distance in {eval.features} features, {eval.samples:,} samples",
    features="{eval.features}",
    columns=("fd_{eval.features}",),
    measure=distance,
    fields=(FEATURES,),
    registries=(FEATURE_NETWORKS,),
)
