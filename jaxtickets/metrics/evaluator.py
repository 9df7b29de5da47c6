"""The evaluator of a run: its metrics and its grid of samples, from the same keys and images in every round."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets.examples import example_keys, to_float
from jaxtickets.fields import refuse
from jaxtickets.metrics.features import FEATURE_NETWORKS, Features, batches, features_of_images
from jaxtickets.metrics.grid import GRID, image_grid
from jaxtickets.metrics.metric import HELD_OUT, SAMPLES, Metric
from jaxtickets.objectives import OBJECTIVES, Game, Objective
from jaxtickets.workdir import ROUND_COLUMNS


class Evaluator(NamedTuple):
    """What a trained network is judged by.

    Attributes:
      metric: the column of `rounds.csv` that decides the verdict.
      label: that column in words.
      better: whether "lower" or "higher" numbers in it are better.
      columns: `{column: {"label": ..., "better": ...}}` of all metrics, for reports.
      evaluate: `(params, batch_stats, seed) -> {column: number}`, all metrics of one round.
      samples: `(params, batch_stats, seed) -> [h, w, 3] uint8`, a grid of images.
    """

    metric: str
    label: str
    better: str
    columns: dict[str, dict[str, str]]
    evaluate: Callable
    samples: Callable


def _registry():
    from jaxtickets.metrics import METRICS  # The package's face imports this module.

    return METRICS


def chosen(config, game: Game) -> list[Metric]:
    """The metrics that `config.eval.metrics` names, or the game's own if it is empty. The first decides the verdict."""
    return [_registry()[name] for name in config.eval.metrics or game.metrics]


def possible(game: Game) -> list[str]:
    """Returns the names of the metrics that a game can serve. What a game offers is inferred from its own metrics.

    A metric on samples can be served if one of them is on samples, a metric on held-out images if they read all the
    terms that it reads.
    """
    own = [_registry()[name] for name in game.metrics]
    has_samples = any(metric.needs == SAMPLES for metric in own)
    terms = {term for metric in own for term in metric.terms}

    def is_served(metric):
        return has_samples if metric.needs == SAMPLES else terms.issuperset(metric.terms)

    return [name for name, metric in _registry().items() if is_served(metric)]


def check(config, game: Game, taken: Iterable[str] = ()) -> None:
    """Checks the chosen metrics. Their names must have passed the check of the field `eval.metrics`.

    Args:
      taken: the columns of `rounds.csv` that the method adds.

    Raises:
      UserError: the game can't serve a metric, a metric's column is another one's, or a metric or its feature network
        refuses another field of the config.
    """
    names, value = possible(game), config.eval.metrics
    if not set(value) <= set(names):
        allowed = f"a tuple of some of {', '.join(names)} with config.objective.name={game.name!r}"
        refuse("eval.metrics", value, allowed)
    owners = dict.fromkeys(ROUND_COLUMNS, "every run") | dict.fromkeys(taken, "the method")
    for metric in chosen(config, game):
        for column in metric.columns_of(config):
            if column in owners:
                refuse("eval.metrics", value, f"metrics of different columns; {column} is one of {owners[column]} too")
            owners[column] = metric.name
        metric.check(config)
        if metric.needs == SAMPLES:
            if (name := metric.features_of(config)) not in FEATURE_NETWORKS:
                networks = ", ".join(FEATURE_NETWORKS)
                refuse("eval.metrics", value, f"metrics in the features of {networks}; {metric.name} reads {name!r}")
            FEATURE_NETWORKS[name].check(config)


def make_evaluator(objective: Objective, config, train_images, test_images) -> Evaluator:
    """Returns an evaluator with the chosen metrics.

    Loads the feature networks and the Gaussians of the training images from the user's cache directory, or makes them.

    Args:
      train_images, test_images: `[n, h, w, c]` uint8.

    Raises:
      ValueError: the objective lacks what a metric needs, or has neither `sample` nor `reconstruct` to be shown.
    """
    if not (objective.sample or objective.reconstruct):
        raise ValueError(f"game {config.objective.name!r}: its objective needs `sample` or `reconstruct`")
    metrics, batch_size = chosen(config, OBJECTIVES[config.objective.name]), config.eval.batch_size
    for metric in metrics:
        if not (objective.sample if metric.needs == SAMPLES else objective.evaluate):
            need = "sample" if metric.needs == SAMPLES else "evaluate"
            raise ValueError(
                f"metric {metric.name!r} needs `{need}` of the objective of game {config.objective.name!r}"
            )
    names = dict.fromkeys(metric.features_of(config) for metric in metrics if metric.needs == SAMPLES)
    networks = {name: FEATURE_NETWORKS[name].load(config.data.dir or None) for name in names}
    training = {name: features_of_images(network, train_images, batch_size) for name, network in networks.items()}
    for features in training.values():
        _ = features.gaussian  # It is made now, so that no round waits for it.
    features_of_samples = _features_of_samples(objective, networks, config.eval.samples, batch_size)
    held_out_means = _held_out_means(objective, test_images, batch_size)

    def evaluate(params, batch_stats, seed):
        arguments = params, batch_stats, np.uint32(seed)
        generated = features_of_samples(*arguments) if networks else {}
        means = held_out_means(*arguments) if any(metric.needs == HELD_OUT for metric in metrics) else {}
        row = {}
        for metric in metrics:
            if metric.needs == SAMPLES:
                name = metric.features_of(config)
                numbers = metric.measure(generated[name], training[name], config)
            else:
                if missing := [term for term in metric.terms if term not in means]:
                    given = ", ".join(means)
                    raise ValueError(f"metric {metric.name!r} reads {', '.join(missing)}; `evaluate` gives {given}")
                numbers = metric.measure({term: means[term] for term in metric.terms}, config)
            columns, numbers = metric.columns_of(config), np.ravel(np.asarray(numbers, np.float64)).tolist()
            if len(columns) != len(numbers):
                raise ValueError(
                    f"metric {metric.name!r} has {len(columns)} columns and measures {len(numbers)} numbers"
                )
            row.update(zip(columns, numbers, strict=True))
        return row

    def about(metric, column):
        is_main = column == metric.main_of(config)
        label = metric.label_of(config, len(test_images)) if is_main else column.replace("_", " ")
        return {"label": label, "better": metric.better}

    first = metrics[0]
    return Evaluator(
        metric=first.main_of(config),
        label=first.label_of(config, len(test_images)),
        better=first.better,
        columns={column: about(metric, column) for metric in metrics for column in metric.columns_of(config)},
        evaluate=evaluate,
        samples=_grid(objective, test_images),
    )


def _sample(objective, params, batch_stats, seed, start, n):
    """The samples of a seed with the numbers `start` to `start + n - 1`: `[n, h, w, c]` in [-1, 1]."""
    examples = start + jnp.arange(n)
    keys = jax.vmap(lambda example: jax.random.fold_in(jax.random.key(seed), example))(examples)
    # A row of the grid shows one class.
    labels = examples // GRID % objective.classes if objective.classes else None
    return objective.sample(params, batch_stats, keys, labels)


def _features_of_samples(objective, networks, n, batch_size):
    """`(params, batch_stats, seed) -> {name: Features}` of `n` samples, which are generated once for all networks."""

    @jax.jit
    def embed(params, batch_stats, seed, start):
        images = _sample(objective, params, batch_stats, seed, start, batch_size)
        return {name: network(images) for name, network in networks.items()}

    def of_network(name, batches):
        features = np.concatenate([np.asarray(batch[name]) for batch in batches])[:n]
        return Features(lambda: [features], getattr(networks[name], "parts", 1))

    def features(params, batch_stats, seed):
        batches = [embed(params, batch_stats, seed, start) for start in range(0, n, batch_size)]
        return {name: of_network(name, batches) for name in networks}

    return features


def _held_out_means(objective, images, batch_size):
    """`(params, batch_stats, seed) -> {term: mean over all held-out images}`, summarised by the objective."""

    @jax.jit
    def sums(params, batch_stats, seed, images, start):
        keys = example_keys(seed, 0, 0, start + np.arange(len(images)))
        terms = objective.evaluate(params, batch_stats, to_float(images), keys)
        return {name: values.sum(axis=0) for name, values in terms.items()}

    def means(params, batch_stats, seed):
        totals = {}
        for number, batch in enumerate(batches(images, batch_size)):
            for name, value in sums(params, batch_stats, seed, batch, number * batch_size).items():
                totals[name] = totals.get(name, 0.0) + value
        means = {name: np.asarray(total) / len(images) for name, total in totals.items()}
        return objective.summarize(means) if objective.summarize else means

    return means


def _grid(objective, held_out):
    """`(params, batch_stats, seed) -> [h, w, 3] uint8`: samples, or held-out images above their reconstructions."""
    sample = jax.jit(partial(_sample, objective, start=0, n=GRID * GRID))

    @jax.jit
    def reconstruct(params, batch_stats):
        originals = to_float(held_out[: GRID * GRID // 2])
        return originals, objective.reconstruct(params, batch_stats, originals)

    def grid(params, batch_stats, seed):
        if objective.sample:
            return image_grid(np.asarray(sample(params, batch_stats, np.uint32(seed))))
        rows = [part.reshape(-1, GRID, *part.shape[1:]) for part in reconstruct(params, batch_stats)]
        images = np.stack(rows, axis=1)
        return image_grid(images.reshape(-1, *images.shape[3:]))

    return grid
