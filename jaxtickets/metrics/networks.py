"""The feature networks by name, and the choice of one for a data set."""

from functools import partial

from jaxtickets.fields import Registry
from jaxtickets.metrics import classifier, labels, self_supervised
from jaxtickets.metrics.feature_network import FeatureNetwork
from jaxtickets.metrics.inception import INCEPTION, INCEPTION_LOGITS, is_available

AUTO = "auto"  # The value of `eval.features` that stands for `resolve(config)`.


def trained_on(dataset: str, image_size: int, name: str) -> FeatureNetwork:
    """Feature networks that this machine trains on the labels of a data set, on first use."""
    return FeatureNetwork(name, partial(labels.load, name, dataset, image_size), dataset=dataset)


FEATURE_NETWORKS = Registry(
    "eval.features",
    INCEPTION,
    INCEPTION_LOGITS,
    FeatureNetwork(labels.NAME, labels.load_at_hand),
    FeatureNetwork(self_supervised.NAME, self_supervised.load),
    trained_on("digits", 16, name="digits"),
    trained_on("synthetic_faces", 32, name="faces"),
)


def resolve(config) -> str:
    """Returns the name of the feature network for a config: `eval.features`, or the choice that "auto" stands for.

    That is Inception where its weights are in the cache directory; else networks that are registered for the data set
    (`FeatureNetwork.dataset`); else networks trained on its labels; else, without labels, self-supervised ones. Only
    for the last two choices the data set is loaded.

    Raises:
      UserError: the data set can't be had.
    """
    if config.eval.features != AUTO:
        return config.eval.features
    if is_available():
        return INCEPTION.name
    for network in FEATURE_NETWORKS.values():
        if network.dataset and network.dataset == config.data.name:
            return network.name
    training, _ = classifier.of_config(config)
    return labels.NAME if labels.has_labels(training) else self_supervised.NAME
