"""Metrics by name, as plug-ins, and the evaluator that computes those that a config chooses."""

from jaxtickets.fields import Registry
from jaxtickets.metrics.active_units import ACTIVE_UNITS
from jaxtickets.metrics.bits_per_dimension import BITS_PER_DIMENSION
from jaxtickets.metrics.choosing import check, chosen, possible
from jaxtickets.metrics.codebook import CODEBOOK
from jaxtickets.metrics.density_coverage import DENSITY_COVERAGE
from jaxtickets.metrics.evaluator import Evaluator, make_evaluator
from jaxtickets.metrics.fd import FD, FID
from jaxtickets.metrics.feature_network import FeatureNetwork
from jaxtickets.metrics.features import Features, features_of_images
from jaxtickets.metrics.frechet import Gaussian, frechet_distance
from jaxtickets.metrics.inception_score import INCEPTION_SCORE
from jaxtickets.metrics.kid import KID
from jaxtickets.metrics.log_likelihood import LOG_LIKELIHOOD
from jaxtickets.metrics.measuring import described, measured
from jaxtickets.metrics.memorisation import MEMORISATION
from jaxtickets.metrics.metric import Metric, Sets
from jaxtickets.metrics.negative_elbo import NEGATIVE_ELBO
from jaxtickets.metrics.networks import FEATURE_NETWORKS
from jaxtickets.metrics.precision_recall import PRECISION_RECALL
from jaxtickets.metrics.psnr import PSNR
from jaxtickets.metrics.reconstruction_error import RECONSTRUCTION_ERROR
from jaxtickets.metrics.ssim import SSIM

METRICS = Registry(
    "eval.metrics",
    FD,
    FID,
    KID,
    INCEPTION_SCORE,
    PRECISION_RECALL,
    DENSITY_COVERAGE,
    MEMORISATION,
    NEGATIVE_ELBO,
    RECONSTRUCTION_ERROR,
    CODEBOOK,
    PSNR,
    SSIM,
    BITS_PER_DIMENSION,
    LOG_LIKELIHOOD,
    ACTIVE_UNITS,
)

__all__ = [
    "FEATURE_NETWORKS",
    "METRICS",
    "Evaluator",
    "FeatureNetwork",
    "Features",
    "Gaussian",
    "Metric",
    "Sets",
    "check",
    "chosen",
    "described",
    "features_of_images",
    "frechet_distance",
    "make_evaluator",
    "measured",
    "possible",
]
