"""Metrics of generated and reconstructed images. Nothing here imports a model or a config."""

from jaxtickets.metrics.features import FeatureNetwork
from jaxtickets.metrics.frechet import Gaussian, frechet_distance

__all__ = ["FeatureNetwork", "Gaussian", "frechet_distance"]
