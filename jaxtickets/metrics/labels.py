"""Feature networks that are trained on labels: those of a data set with networks of its own, or of the one at hand."""

import functools

import numpy as np

from jaxtickets import data
from jaxtickets.fields import refuse
from jaxtickets.metrics import classifier
from jaxtickets.metrics.classifier import Classifiers

NAME = "labels"
VERSION = 2  # To be raised when the network or its training changes, so that cached weights are not reused.


def load(name: str, dataset: str, image_size: int, config) -> Classifiers:
    """The networks `name`, trained on the labels of a data set once and then read from the user's cache directory."""

    @functools.cache
    def labelled():
        training, held_out = (data.load(dataset, split, image_size, config.data.dir or None) for split in data.SPLITS)
        return training.images, training.labels, held_out.images, held_out.labels

    return classifier.kept(name, f"{name}-v{VERSION}", lambda seed: classifier.train(name, *labelled(), seed), dataset)


def load_at_hand(config) -> Classifiers:
    """The networks trained on the labels of the config's data set, kept under a key that changes with the data.

    Raises:
      UserError: its images have no labels, or all have the same ones.
    """
    training, held_out = classifier.of_config(config)
    if not has_labels(training):
        refuse(
            "eval.features", NAME, f"another one, such as self_supervised: {config.data.name} has no labels to learn"
        )
    labelled = training.images, training.labels, held_out.images, held_out.labels
    key = f"{NAME}-v{VERSION}-{classifier.digest_of(training, held_out)}"
    return classifier.kept(NAME, key, lambda seed: classifier.train(NAME, *labelled, seed), config.data.name)


def has_labels(dataset: data.Dataset) -> bool:
    """Whether there are labels that tell images apart."""
    return dataset.labels is not None and len(np.unique(dataset.labels, axis=0)) > 1
