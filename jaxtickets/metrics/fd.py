"""The Frechet distance between samples and training images in a feature network's features.

In Inception's features it is the Frechet Inception Distance, FID (Heusel et al. 2017).
"""

from functools import partial

import numpy as np

from jaxtickets.fields import Field, choice, refuse
from jaxtickets.metrics.frechet import frechet_distance
from jaxtickets.metrics.metric import Metric, Sets
from jaxtickets.metrics.networks import AUTO, FEATURE_NETWORKS

FEATURES = Field(
    "eval.features",
    AUTO,
    choice(AUTO, FEATURE_NETWORKS),
    "The feature network in which samples and images are compared. auto: Inception where its weights are, else the"
    " network of the data set if there is one, else labels, and self_supervised for images without labels.",
    before="faces",
)


LEAST = 10  # The number of samples from which there is a distance.


def distance(sets: Sets, config):
    """The distance between the Gaussians of samples and training images, the mean over the parts of the features."""
    del config
    generated, training = sets.generated, sets.training
    triples = zip(generated.gaussians, training.gaussians, training.roots, strict=True)
    return (np.mean([frechet_distance(*triple) for triple in triples]),)


def check(config, name: str = "fd") -> None:
    """Refuses so few samples that their covariance says nothing."""
    if config.eval.samples < LEAST:
        refuse(
            "eval.samples", config.eval.samples, f"at least {LEAST} with the metric {name}, which needs a covariance"
        )


def column(config):
    """`fd_<name>`, or what the feature network calls it."""
    network = FEATURE_NETWORKS.get(config.eval.features)
    return ((network and network.column) or "fd_{eval.features}",)


FD = Metric(
    "fd",
    "Frechet distance in {eval.features} features, {eval.samples:,} samples",
    features="{eval.features}",
    columns=column,
    measure=distance,
    fields=(FEATURES,),
    registries=(FEATURE_NETWORKS,),
    check=check,
    arrays=(),
)
FID = Metric(
    "fid",
    "FID (Frechet distance in Inception's features), {eval.samples:,} samples",
    features="inception",
    columns=("fid",),
    measure=distance,
    check=partial(check, name="fid"),
    arrays=(),
)
