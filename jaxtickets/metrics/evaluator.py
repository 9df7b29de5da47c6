"""The evaluator of a run: its metrics and its grids of samples, from the same keys and images in every round."""

from collections.abc import Callable
from functools import cache, partial
from math import isfinite
from typing import NamedTuple

import numpy as np

from jaxtickets.devices import Devices
from jaxtickets.metrics import diversity
from jaxtickets.metrics.choosing import chosen
from jaxtickets.metrics.features import features_of_images
from jaxtickets.metrics.generation import features_of_samples, samples_grid
from jaxtickets.metrics.held_out import OBJECTIVE, error_of_mean_image, held_out_means
from jaxtickets.metrics.measuring import described, measured
from jaxtickets.metrics.metric import HELD_OUT, SAMPLES, Metric, Sets
from jaxtickets.metrics.networks import FEATURE_NETWORKS
from jaxtickets.objectives import OBJECTIVES, Objective
from jaxtickets.progress import say


class Evaluator(NamedTuple):
    """What a trained network is judged by.

    Attributes:
      metric: the column of `rounds.csv` that decides the verdict.
      label: that column in words.
      better: whether "lower" or "higher" numbers in it are better.
      columns: `{column: {"label": ..., "better": ...}}` of all metrics and diversities, for reports; with "about" where
        the metric's feature network has something to tell beside its numbers.
      features: `{name: digest}` of the feature networks that are read.
      evaluate: `(params, batch_stats, seed) -> {column: number}`, all metrics of one round, and for each feature
        network the samples' diversity (`metrics/diversity.py`) where it has one.
      samples: `(params, batch_stats, seed) -> [h, w, 3] uint8`, a grid of images.
      references: `(params, batch_stats, seed) -> {column: {"held_out": number, "untrained": number}}` of untrained
        parameters: the metrics on samples of held-out images in place of samples, the floor, and all metrics of the
        untrained network, the ceiling. Metrics on held-out images have no floor, but may have `best`, their best
        possible number, and `mean_image`, that of a network that answers every image with the mean training image.
    """

    metric: str
    label: str
    better: str
    columns: dict[str, dict[str, str]]
    features: dict[str, str]
    evaluate: Callable
    samples: Callable
    references: Callable


def make_evaluator(
    objective: Objective, config, train_images, test_images, devices: Devices = None, has_spread: bool = False
) -> Evaluator:
    """Returns an evaluator with the chosen metrics.

    Loads the feature networks and the statistics of the training images from the user's cache directory, or makes them.

    Args:
      train_images, test_images: `[n, h, w, c]` uint8.
      devices: what each batch is split over; None: all local devices.
      has_spread: whether metrics with random draws have their standard deviation beside them, in columns of its own.

    Raises:
      ValueError: the objective lacks what a metric needs, or has neither `sample` nor `reconstruct` to be shown.
    """
    if not (objective.sample or objective.reconstruct):
        raise ValueError(f"game {config.objective.name!r}: its objective needs `sample` or `reconstruct`")
    metrics = chosen(config, OBJECTIVES[config.objective.name])
    _check_objective(objective, config, metrics)
    of_samples = [metric for metric in metrics if metric.needs == SAMPLES]
    of_held_out = [metric for metric in metrics if metric.needs == HELD_OUT]
    kept_images = evenly_spaced(test_images, config.eval.samples)

    @cache
    def load(name):
        plugin = FEATURE_NETWORKS[name]
        if plugin.dataset and plugin.dataset != config.data.name:
            say(
                f"eval.features={name!r} are networks of {plugin.dataset}, not of data.name={config.data.name!r}; "
                "--config.eval.features=auto takes networks of your own data"
            )
        return plugin.load(config)

    @cache
    def features_of(name, kept=False):
        images = kept_images if kept else train_images
        return features_of_images(load(name), images, config.eval.batch_size, devices=devices)

    networks = {name: load(name) for name in dict.fromkeys(metric.features_of(config) for metric in of_samples)}
    _prepare(of_samples, features_of, config)
    keep = {m.features_of(config) for m in of_samples if "generated" in m.arrays or config.eval.bootstrap}
    how_many = config.eval.samples, config.eval.batch_size
    generate = features_of_samples(objective, networks, keep, *how_many, devices, few=diversity.MOST)
    few_images = evenly_spaced(kept_images, diversity.MOST)
    few_of = cache(lambda name: features_of_images(load(name), few_images, config.eval.batch_size, devices=devices))
    mean_image_error = cache(partial(error_of_mean_image, train_images, test_images))
    held_out = held_out_means(objective, of_held_out, config, test_images, devices)

    def sets_of(metric, generated):
        name = metric.features_of(config)
        return Sets(generated[name], features_of(name), features_of(name, kept=True))

    def evaluate(params, batch_stats, seed):
        generated = generate(params, batch_stats, seed) if networks else {}
        means = held_out(params, batch_stats, seed)
        row = {}
        for metric in metrics:
            if metric.needs == SAMPLES:
                row |= measured(metric, sets_of(metric, generated), config, has_spread)
            else:
                terms = _terms(metric, means[metric.name if metric.evaluate else OBJECTIVE])
                row |= metric.row(metric.measure(terms, config), config)
        for name, features in generated.items():
            value = diversity.diversity(features.first(diversity.MOST), few_of(name))
            row |= {} if value is None else {diversity.column(name): value}
        return row

    def references(params, batch_stats, seed):
        found = {column: {"untrained": number} for column, number in evaluate(params, batch_stats, seed).items()}
        for metric in of_samples if len(kept_images) > 1 else ():
            sets = sets_of(metric, {name: features_of(name, kept=True) for name in networks})
            for column, number in metric.row(metric.measure(sets, config), config).items():
                found[column] |= {"held_out": number if isfinite(number) else None, "held_out_images": len(kept_images)}
        for metric in of_held_out:
            entry = found[metric.main_of(config)]
            if metric.best is not None:
                entry["best"] = metric.best
            if metric.of_mean_image:
                entry["mean_image"] = metric.of_mean_image(mean_image_error(), test_images[0].size)
        return {column: found[column] for metric in metrics for column in metric.columns_of(config)}

    return Evaluator(
        metric=metrics[0].main_of(config),
        label=metrics[0].labels_of(config, len(test_images))[metrics[0].main_of(config)],
        better=metrics[0].better,
        columns=described(metrics, networks, config, len(test_images), has_spread)
        | {diversity.column(name): {"label": diversity.label(name), "better": "higher"} for name in networks},
        features={name: network.digest for name, network in networks.items()},
        evaluate=evaluate,
        samples=samples_grid(objective, test_images),
        references=references,
    )


def evenly_spaced(images, n: int):
    """At most `n` of the images, from the whole of an array that may be in the order of its classes."""
    return images if len(images) <= n else images[np.linspace(0, len(images) - 1, n).round().astype(int)]


def _check_objective(objective, config, metrics):
    """Raises ValueError if the objective lacks a function that a metric calls."""
    for metric in metrics:
        of_images = metric.requires if metric.evaluate else ("evaluate",)
        for need in ("sample",) if metric.needs == SAMPLES else of_images:
            if not getattr(objective, need):
                game = f"the objective of game {config.objective.name!r}"
                raise ValueError(f"metric {metric.name!r} needs `{need}` of {game}")


def _prepare(metrics, features_of, config):
    """Computes what is read of the training images, so that no round waits for it."""
    # Where the features are kept one by one, their Gaussian is taken from these.
    for metric in sorted(metrics, key=lambda metric: "training" not in metric.arrays):
        training = features_of(metric.features_of(config))
        if "training" in metric.arrays:
            _ = training.array
        if not metric.arrays:
            _ = training.roots


def _terms(metric: Metric, means):
    """The means that a metric reads."""
    if missing := [term for term in metric.terms if term not in means]:
        given = ", ".join(means)
        raise ValueError(f"metric {metric.name!r} reads {', '.join(missing)}; `evaluate` gives {given}")
    return {term: means[term] for term in metric.terms}
