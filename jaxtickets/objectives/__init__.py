"""Objectives (training games) by name, as plug-ins, and what they are made of."""

from jaxtickets.fields import Registry, refuse
from jaxtickets.objectives.augmentation import AUGMENTATIONS
from jaxtickets.objectives.autoencoders import AUTOENCODER, VAE, VQ_VAE
from jaxtickets.objectives.gan import GAN
from jaxtickets.objectives.losses import LOSSES
from jaxtickets.objectives.objective import Batch, Game, Objective, Player, fold, normal
from jaxtickets.objectives.penalties import PENALTIES

OBJECTIVES = Registry("objective.name", GAN, VAE, VQ_VAE, AUTOENCODER)


def all_components() -> list[str]:
    """The names of the components that the registered games train."""
    return list(dict.fromkeys(name for game in OBJECTIVES.values() for name in game.components))


def counterparts() -> dict[str, str]:
    """The counterpart of each component in a game of another kind, for all registered games."""
    return {name: other for game in OBJECTIVES.values() for name, other in game.counterparts.items()}


def check_components(config, field: str, names) -> None:
    """Refuses, in the value of a field, names of components that the config's game does not train."""
    components = OBJECTIVES[config.objective.name].components
    if not set(names) <= set(components):
        allowed = f"some of {' and '.join(components)} with config.objective.name={config.objective.name!r}"
        refuse(field, names, allowed)


__all__ = [
    "AUGMENTATIONS",
    "LOSSES",
    "OBJECTIVES",
    "PENALTIES",
    "Batch",
    "Game",
    "Objective",
    "Player",
    "all_components",
    "check_components",
    "counterparts",
    "fold",
    "normal",
]
