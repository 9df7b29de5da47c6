"""Memorisation: the share of samples that are closer to the training images than held-out images are."""

import numpy as np

from jaxtickets.metrics.distances import nearest
from jaxtickets.metrics.fd import FEATURES
from jaxtickets.metrics.metric import Metric, Sets


def nearest_training(features, sets: Sets):
    """The distance `[n]` of each image to its nearest training image, in all parts of the features together."""
    return nearest(features.array, sets.training.array, 1)[0][:, 0]


def memorised(sets: Sets, config):
    """The share of samples whose nearest training image is nearer than the median held-out image's.

    Fresh images of the same distribution give 0.5, copies of training images 1, images unlike any real ones 0. So the
    number only says something beside one of quality: well above 0.5, the network reproduces what it was trained on.
    """
    del config
    held_out = sets.held_out.once("nearest training", lambda: nearest_training(sets.held_out, sets))
    return (np.mean(nearest_training(sets.generated, sets) < np.median(held_out)),)


MEMORISATION = Metric(
    "memorisation",
    "share of {eval.samples:,} samples nearer to training images than held-out ones are, in {eval.features} features",
    features="{eval.features}",
    columns=("memorised_{eval.features}",),
    decides=False,
    measure=memorised,
    fields=(FEATURES,),
    arrays=("generated", "training", "held_out"),
)
