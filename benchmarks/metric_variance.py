"""Splits the spread of `fd_*` over seed runs into what training, the feature network and the drawn samples cause.

    python benchmarks/metric_variance.py runs/gan_digits [--networks=5] [--draws=4] [--samples=512,2048,8192]

Takes the trained dense network of each seed run in a workdir. Each network's samples are drawn several times, and each
draw is judged in the features of several feature networks, which differ in the seed of their training. The logarithm
of the distance is then a sum of effects (analysis of variance, random effects):

  training: of the seed run. This is what a test over seeds is about.
  feature network: the same for all seed runs, so that it cancels in a ratio of two distances in the same features.
  interaction: how the feature networks disagree on the order of the seed runs.
  samples: of the draw.

Each is given as a standard deviation in per cent of the distance. Below them is the share of the variance between the
seed runs of one experiment (training, interaction and samples) that each has. Negative estimates are set to 0.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from harness import write
from ml_collections import ConfigDict

from jaxtickets import config as config_lib
from jaxtickets import data, snapshots, train
from jaxtickets.examples import to_float
from jaxtickets.metrics import classifier
from jaxtickets.metrics.frechet import fit_gaussian, frechet_distance
from jaxtickets.runs import Setup
from jaxtickets.runs.seeds import seed_paths
from jaxtickets.workdir import Workdir

EFFECTS = ("training", "feature network", "interaction", "samples")
DATASETS = {"digits": ("digits", 16), "faces": ("synthetic_faces", 32)}


def feature_networks(name: str, n: int) -> list:
    """Jitted feature networks, trained from the seeds 0 to n - 1, which take images in [-1, 1]."""
    dataset, size = DATASETS[name]
    training, held_out = (data.load(dataset, split, size) for split in ("train", "test"))
    labelled = training.images, training.labels, held_out.images, held_out.labels
    networks = [classifier.train(name, *labelled, seed=seed) for seed in range(n)]
    return [jax.jit(lambda images, network=network: network(images)) for network in networks]


def distances(path: Path, networks: int, draws: int, samples: list[int]) -> dict[int, np.ndarray]:
    """For each number of samples the distances `[seed runs, feature networks, draws]`."""
    config = config_lib.get_config()
    config.update(ConfigDict(Workdir(path).read_config()))
    setup = Setup(config)
    embeds = feature_networks(config.eval.features, networks)
    batch = config.eval.batch_size
    parts = [to_float(setup.images[start : start + batch]) for start in range(0, len(setup.images), batch)]
    real = [fit_gaussian([embed(part) for part in parts]) for embed in embeds]

    @jax.jit
    def sample(params, batch_stats, key, start):
        keys = jax.vmap(lambda example: jax.random.fold_in(key, example))(start + jnp.arange(batch))
        return setup.objective.sample(params, batch_stats, keys, None)

    found = {n: [] for n in samples}
    for seed, own in seed_paths(config, path).items():
        state = snapshots.restore(Workdir(own).snapshot("dense"), setup.init(seed))
        params, batch_stats = jax.device_put(train.evaluated(state))
        table = {n: np.zeros((networks, draws)) for n in samples}
        for draw in range(draws):
            key = jax.random.fold_in(jax.random.key(seed), 2**31 + draw)
            features = [[] for _ in embeds]
            for start in range(0, max(samples), batch):
                images = sample(params, batch_stats, key, start)
                for own_features, embed in zip(features, embeds, strict=True):
                    own_features.append(np.asarray(embed(images)))
            for number, (own_features, gaussian) in enumerate(zip(features, real, strict=True)):
                own_features = np.concatenate(own_features)
                for n in samples:
                    table[n][number, draw] = frechet_distance(fit_gaussian([own_features[:n]]), gaussian)
        for n in samples:
            found[n].append(table[n])
    return {n: np.stack(tables) for n, tables in found.items()}


def components(values: np.ndarray) -> dict[str, float]:
    """The variance of each effect on `values: [a, b, n]`: a seed runs, b feature networks, n draws within a seed run.

    From the mean squares of the balanced random-effects model (analysis of variance); a draw is judged by all networks.
    """
    a, b, n = values.shape
    mean, runs, networks = values.mean(), values.mean(axis=(1, 2)), values.mean(axis=(0, 2))
    cells, draws = values.mean(axis=2), values.mean(axis=1)
    residual = values - cells[:, :, None] - draws[:, None, :] + runs[:, None, None]
    of_runs = b * n * np.square(runs - mean).sum() / (a - 1)
    of_networks = a * n * np.square(networks - mean).sum() / (b - 1)
    of_cells = n * np.square(cells - runs[:, None] - networks + mean).sum() / ((a - 1) * (b - 1))
    of_draws = b * np.square(draws - runs[:, None]).sum() / (a * (n - 1))
    left = np.square(residual).sum() / (a * (b - 1) * (n - 1))
    return {
        "training": max(0.0, (of_runs - of_draws - of_cells + left) / (b * n)),
        "feature network": max(0.0, (of_networks - of_cells) / (a * n)),
        "interaction": max(0.0, (of_cells - left) / n),
        "samples": max(0.0, (of_draws - left) / b) + left,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--samples", default="512,2048,8192")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    samples = [int(n) for n in options.samples.split(",")]
    rows = []
    print(f"{'samples':>7} {'mean':>8} " + " ".join(f"{name:>22}" for name in EFFECTS))
    for n, values in distances(options.workdir, options.networks, options.draws, samples).items():
        effects = components(np.log(values))
        within = sum(variance for name, variance in effects.items() if name != "feature network")
        shown = {
            name: f"{np.sqrt(variance):.1%}" + ("" if name == "feature network" else f" ({variance / within:.0%})")
            for name, variance in effects.items()
        }
        print(f"{n:7} {values.mean():8.2f} " + " ".join(f"{text:>22}" for text in shown.values()), flush=True)
        rows.append(
            {"samples": n, "mean": values.mean(), "variances": effects, "log_distances": np.log(values).tolist()}
        )
    write(options, rows)


if __name__ == "__main__":
    main()
