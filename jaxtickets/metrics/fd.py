"""The Frechet distance between samples and training images in the features of a small network."""

from jaxtickets.fields import Field, choice
from jaxtickets.metrics.features import FEATURE_NETWORKS
from jaxtickets.metrics.frechet import frechet_distance
from jaxtickets.metrics.metric import Metric

FEATURES = Field(
    "eval.features", "faces", choice(FEATURE_NETWORKS), "The feature network in which Frechet distances are taken."
)


def distance(generated, training, config):
    """The distance between the Gaussians of two sets of features."""
    del config
    return (frechet_distance(generated.gaussian, training.gaussian),)


FD = Metric(
    "fd",
    "Frechet distance in {eval.features} features, {eval.samples:,} samples",
    features="{eval.features}",
    columns=("fd_{eval.features}",),
    measure=distance,
    fields=(FEATURES,),
    registries=(FEATURE_NETWORKS,),
)
