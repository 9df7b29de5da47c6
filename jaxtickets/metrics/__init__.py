"""Metrics by name, as plug-ins, and the evaluator that computes those that a config chooses."""

from jaxtickets.fields import Registry
from jaxtickets.metrics.codebook import CODEBOOK
from jaxtickets.metrics.evaluator import Evaluator, check, chosen, make_evaluator, possible
from jaxtickets.metrics.fd import FD
from jaxtickets.metrics.features import FEATURE_NETWORKS, FeatureNetwork, Features
from jaxtickets.metrics.frechet import Gaussian, frechet_distance
from jaxtickets.metrics.metric import Metric
from jaxtickets.metrics.negative_elbo import NEGATIVE_ELBO
from jaxtickets.metrics.reconstruction_error import RECONSTRUCTION_ERROR

METRICS = Registry(
    "eval.metrics",
    FD,
    NEGATIVE_ELBO,
    RECONSTRUCTION_ERROR,
    CODEBOOK,
)

__all__ = [
    "FEATURE_NETWORKS",
    "METRICS",
    "Evaluator",
    "FeatureNetwork",
    "Features",
    "Gaussian",
    "Metric",
    "check",
    "chosen",
    "frechet_distance",
    "make_evaluator",
    "possible",
]
