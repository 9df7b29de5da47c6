"""The mean squared error of reconstructions of held-out images."""

from jaxtickets.metrics.metric import Metric

RECONSTRUCTION_ERROR = Metric(
    "reconstruction_error",
    "mean squared error on {held_out:,} held-out images",
    terms=("reconstruction_error",),
    best=0.0,
    of_mean_image=lambda error, size: error,
)
