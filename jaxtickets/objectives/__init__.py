"""Objectives by name; each takes the components of a model and `config.objective`."""

from jaxtickets.objectives.autoencoders import autoencoder, vae
from jaxtickets.objectives.gan import gan
from jaxtickets.objectives.objective import Objective, normal

OBJECTIVES = {"gan": gan, "vae": vae, "autoencoder": autoencoder}

__all__ = ["OBJECTIVES", "Objective", "autoencoder", "gan", "normal", "vae"]
