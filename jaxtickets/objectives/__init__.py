"""Objectives by name; each takes the components of a model and `config.objective`."""

from jaxtickets.objectives.augmentation import AUGMENTATIONS
from jaxtickets.objectives.autoencoders import autoencoder, vae, vq_vae
from jaxtickets.objectives.gan import gan
from jaxtickets.objectives.losses import DISTILLED, LOSSES, SMOOTHED
from jaxtickets.objectives.objective import Objective, Player, normal
from jaxtickets.objectives.penalties import PENALTIES

OBJECTIVES = {"gan": gan, "vae": vae, "vq_vae": vq_vae, "autoencoder": autoencoder}

__all__ = [
    "AUGMENTATIONS",
    "DISTILLED",
    "LOSSES",
    "OBJECTIVES",
    "PENALTIES",
    "SMOOTHED",
    "Objective",
    "Player",
    "autoencoder",
    "gan",
    "normal",
    "vae",
    "vq_vae",
]
