"""Tests metrics as metrics: do held-out images score best, and worse images worse, the more so the worse they are?

    python benchmarks/metric_order.py [--data=digits] [--size=16] [--features=auto] [--metrics=fd,kid]
    python benchmarks/metric_order.py --data=files:/usr/share/datasets/fashion-mnist --size=28
    python benchmarks/metric_order.py --data=files:/usr/share/datasets/fashion-mnist --size=32 --paint --unlabelled \
        --training=450 --images=50

Every set has the same number of images and is compared with the same training images:

  real: held-out images. Those of the next seven lines are made from them.
  blur: by a Gaussian; its standard deviation in pixels.
  noise: Gaussian, its standard deviation for images in [-1, 1].
  boxes: a grey square hides a part of the image; its side over the image's.
  blend: each image mixed with another one; the share of the other one.
  shuffle: the image cut into k x k tiles, which are shuffled.
  hue, grey (colour only): the degrees by which hues are rotated; the share of the colour that is gone.
  modes: held-out images of some of the classes only (of ten groups of similar images where there are no classes); 1 is
    mode collapse. Images are repeated where the classes have too few.
  copies: a few training images, repeated; the number of different ones.
  linear: samples of a Gaussian with the mean and the first principal components of the training images' pixels; the
    number of components.

Each row must be worse than the real images and become worse from left to right; what isn't is marked and listed below.
"""

import argparse
from pathlib import Path

import numpy as np
from harness import write

from jaxtickets import config as config_lib
from jaxtickets import data
from jaxtickets.errors import UserError
from jaxtickets.examples import to_float
from jaxtickets.metrics import METRICS, Sets, features_of_images
from jaxtickets.metrics.networks import FEATURE_NETWORKS, resolve

GROUPS = 10  # Of similar images, where there are no classes.
PAINTED = "painted"


def to_bytes(images) -> np.ndarray:
    """uint8 of images in [-1, 1]; what is beyond is clipped."""
    return np.round(np.clip(images, -1, 1) * 127.5 + 127.5).astype(np.uint8)


def blur(images, sigma, rng):
    from scipy import ndimage

    return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest")


def noise(images, sigma, rng):
    return images + sigma * rng.normal(size=images.shape)


def boxes(images, share, rng):
    images, side = images.copy(), round(share * images.shape[1])
    for image in images:
        row, column = rng.integers(0, images.shape[1] - side + 1, 2)
        image[row : row + side, column : column + side] = 0
    return images


def blend(images, share, rng):
    return (1 - share) * images + share * images[rng.permutation(len(images))]


def shuffle(images, k, rng):
    n, side, channels = len(images), images.shape[1] // k, images.shape[3]
    tiles = images[:, : k * side, : k * side].reshape(n, k, side, k, side, channels).swapaxes(2, 3)
    order = rng.random((n, k * k)).argsort(axis=1)[..., None]
    tiles = np.take_along_axis(tiles.reshape(n, k * k, -1), order, axis=1).reshape(n, k, k, side, side, channels)
    shuffled = images.copy()
    shuffled[:, : k * side, : k * side] = tiles.swapaxes(2, 3).reshape(n, k * side, k * side, channels)
    return shuffled


def hue(images, degrees, rng):
    """Rotates colours about the grey axis."""
    from scipy.spatial.transform import Rotation

    return images @ Rotation.from_rotvec(np.deg2rad(degrees) * np.ones(3) / np.sqrt(3)).as_matrix().T


def grey(images, share, rng):
    return (1 - share) * images + share * (images @ np.array([0.299, 0.587, 0.114]))[..., None]


CHANGES = {
    "blur": (blur, (0.5, 1, 2, 4)),
    "noise": (noise, (0.05, 0.1, 0.2, 0.4)),
    "boxes": (boxes, (0.2, 0.35, 0.5)),
    "blend": (blend, (0.1, 0.25, 0.5)),
    "shuffle": (shuffle, (2, 4)),
}
COLOUR_CHANGES = {"hue": (hue, (30, 90, 180)), "grey": (grey, (0.25, 0.5, 1))}


def groups(dataset) -> np.ndarray:
    """The class `[n]` of each image, or the group of similar images that it is in."""
    if dataset.labels is not None and dataset.labels.ndim == 1:
        return np.asarray(dataset.labels)
    from sklearn.cluster import KMeans

    step = max(1, dataset.images.shape[1] // 8)
    pixels = np.asarray(dataset.images[:, ::step, ::step]).reshape(len(dataset.images), -1)
    return KMeans(GROUPS, n_init=1, random_state=0).fit_predict(pixels.astype(np.float32))


def gaussian(images):
    """`(n, components, rng) -> n samples` of a Gaussian with the principal components of up to 3,000 `images`."""
    rows = np.asarray(to_float(np.asarray(images[:3000]))).reshape(min(3000, len(images)), -1)
    mean = rows.mean(axis=0)
    _, scales, directions = np.linalg.svd(rows - mean, full_matrices=False)

    def samples(n, components, rng):
        latents = rng.normal(size=(n, min(components, len(scales)))) / np.sqrt(len(rows) - 1)
        return (mean + (latents * scales[:components]) @ directions[:components]).reshape(n, *images.shape[1:])

    return samples


def sets(training, held_out, n: int, seed: int = 0):
    """Yields `(name, level, images [n, h, w, c] uint8)`, the real images first, then each kind from mild to severe."""

    def rng():
        return np.random.default_rng(seed)

    real = np.asarray(held_out.images)[rng().permutation(len(held_out.images))[:n]]
    yield "real", 0, real
    floats = real / np.float32(127.5) - 1
    for name, (change, levels) in (CHANGES | (COLOUR_CHANGES if real.shape[3] == 3 else {})).items():
        for level in levels:
            yield name, level, to_bytes(change(floats, level, rng()))
    group = groups(held_out)
    present = rng().permutation(np.unique(group))
    for share in (0.7, 0.4, 0.0):
        left = present[: max(1, round(share * len(present)))]
        own = np.flatnonzero(np.isin(group, left))
        yield "modes", len(left), np.asarray(held_out.images)[rng().permutation(np.resize(rng().permutation(own), n))]
    for share in (4, 16, 64):
        few = max(1, n // share)
        rows = np.sort(rng().choice(len(training.images), few, replace=False))
        yield "copies", few, np.asarray(training.images[np.resize(rows, n)])
    linear = gaussian(training.images)
    for components in (64, 16, 4):
        yield "linear", components, to_bytes(linear(n, components, rng()))


def measure(config, n: int, metrics, features, seed: int = 0) -> dict:
    """`{column: {name: [(level, number), ...]}}` of each metric in each feature network."""
    load = config.model.image_size, config.data.dir or None, data.Recipe.of(config)
    training, held_out = (data.load(config.data.name, split, *load) for split in data.SPLITS)
    n, found = min(n, len(held_out.images)), {}
    every = list(sets(training, held_out, n, seed))
    for feature in features:
        config.eval.features, network = feature, FEATURE_NETWORKS[feature].load(config)
        print(f"{feature}: {getattr(network, 'about', '')}", flush=True)
        batch = config.eval.batch_size
        reference = features_of_images(network, training.images, batch)
        real = features_of_images(network, every[0][2], batch, is_kept=False)
        for name, level, images in every:
            compared = Sets(features_of_images(network, images, batch, is_kept=False), reference, real)
            for metric in metrics:
                for column, number in METRICS[metric].row(METRICS[metric].measure(compared, config), config).items():
                    found.setdefault(column, {}).setdefault(name, []).append((level, number))
    return found


def failures(rows: dict, better: str = "lower") -> list[str]:
    """The names of the rows that are not worse than the real images, or do not become worse from level to level."""
    sign, (_, real) = (1 if better == "lower" else -1), rows["real"][0]

    def is_ordered(numbers):
        return all(sign * before < sign * after for before, after in zip((real, *numbers), numbers, strict=False))

    return [name for name, row in rows.items() if name != "real" and not is_ordered([number for _, number in row])]


def paint(images, seed: int) -> np.ndarray:
    """Gives grey images `[n, h, w, 1]` colour: three in five are reddish, the others yellowish; black stays black."""
    rng = np.random.default_rng(seed)
    hues = np.where(rng.random(len(images)) < 0.6, 0, 0.15) + rng.normal(0, 0.03, len(images))
    phase = (np.array([5, 3, 1]) + 6 * (hues % 1)[:, None]) % 6
    colours = 1 - rng.uniform(0.5, 1, (len(images), 1)) * np.clip(np.minimum(phase, 4 - phase), 0, 1)
    return np.round(images * colours[:, None, None, :]).astype(np.uint8)


def changed(config, has_paint: bool, is_unlabelled: bool, most: int | None) -> None:
    """Registers the config's data set as another one, painted, without labels or with fewer images, and chooses it."""
    name, load = config.data.name, (config.model.image_size, config.data.dir or None, data.Recipe.of(config))
    channels = 3 if has_paint else data.channels(name)
    classes = 0 if is_unlabelled else data.classes(name)

    def arrays(split):
        split_data = data.load(name, split, *load)
        images, labels = split_data.images[:most], None if is_unlabelled else split_data.labels[:most]
        return paint(images, data.SPLITS.index(split)) if has_paint else np.asarray(images), labels

    data.SOURCES.add(data.Arrays(PAINTED, arrays, channels=channels, classes=classes))
    config.data.name = PAINTED


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="a data.name")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--features", default="auto", help="names with commas between them")
    parser.add_argument("--metrics", default="fd", help="names with commas between them")
    parser.add_argument("--images", type=int, default=1000, help="the number in each set")
    parser.add_argument("--training", type=int, help="the number of training images that are taken (default: all)")
    parser.add_argument("--paint", action="store_true", help="give grey images colour")
    parser.add_argument("--unlabelled", action="store_true", help="leave the labels out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    config = config_lib.get_config()
    config.update_from_flattened_dict({"data.name": options.data, "model.image_size": options.size})
    if options.paint or options.unlabelled or options.training:
        changed(config, options.paint, options.unlabelled, options.training)
    metrics, features = options.metrics.split(","), []
    for name in options.features.split(","):
        config.eval.features = name
        features.append(resolve(config))
    try:
        found = measure(config, options.images, metrics, features, options.seed)
    except UserError as error:
        parser.error(str(error))
    better = {}
    for metric in metrics:
        for feature in features:
            config.eval.features = feature
            better |= dict.fromkeys(METRICS[metric].columns_of(config), METRICS[metric].better)
    for column, rows in found.items():
        wrong = failures(rows, better[column])
        print(f"\n{column} ({better[column]} is better), of real images {rows['real'][0][1]:.4g}")
        for name, row in rows.items():
            if name != "real":
                cells = "  ".join(f"{level:g}: {number:.4g}" for level, number in row)
                print(f"  {name:8} {cells}{'  NOT IN ORDER' if name in wrong else ''}")
        print(
            f"  {len(rows) - 1 - len(wrong)} of {len(rows) - 1} in order"
            + (f"; not {', '.join(wrong)}" if wrong else "")
        )
    write(options, found)


if __name__ == "__main__":
    main()
