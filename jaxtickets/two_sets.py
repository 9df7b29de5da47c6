"""Metrics of one set of images against another: `python -m jaxtickets.evaluate --real=DIR --fake=DIR`."""

import contextlib
import os
import tempfile
from collections.abc import Mapping
from concurrent import futures
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxtickets import cache, data
from jaxtickets import config as config_lib
from jaxtickets import metrics as metrics_lib
from jaxtickets.data import decoding, folders, readers
from jaxtickets.data.trees import ARCHIVES
from jaxtickets.errors import UserError
from jaxtickets.evaluate import resolve, set_fields, settings, told
from jaxtickets.local_paths import local_path
from jaxtickets.metrics import FEATURE_NETWORKS, METRICS
from jaxtickets.metrics.features import features_of_images
from jaxtickets.metrics.metric import SAMPLES, Sets
from jaxtickets.names import near
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.progress import say
from jaxtickets.tables import aligned, wrapped

READ_AT_A_TIME = 512
SUFFIXES = (*folders.SUFFIXES, *ARCHIVES, ".npz", ".npy")  # A name that ends so is a path.


class Images(NamedTuple):
    """A set of images of one size.

    Attributes:
      flag: `--real=...` or `--fake=...`.
      array: `[n, h, w, 3]` uint8, mapped from disk, in the order of the files; grey images have three equal channels.
      is_colour: whether any pixel is coloured.
    """

    flag: str
    array: np.ndarray
    is_colour: bool

    @property
    def size(self) -> str:
        """Width and height."""
        return f"{self.array.shape[2]}x{self.array.shape[1]}"


def compare(
    real: str,
    fake: str,
    chosen: dict[str, str],
    image_size: int | None = None,
    of_images: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[dict], str]:
    """Scores the images `fake` against the images `real`: `(one row, the numbers as text)`.

    Without `image_size` images are compared as they are. In each set all splits are taken together, in the order of the
    files: random subsets are drawn by index, as torch-fidelity draws them with `fake` as its first input.

    Args:
      real, fake: directories, archives or files of images, or names of data sets.
      chosen: see `evaluate.set_fields`; without metrics the Frechet distance.
      of_images: how images are decoded, by the fields of the group `data.`.

    Raises:
      UserError: there are no images, they are not of one size, or a metric can't be taken over them.
    """
    if "samples" in chosen:
        raise UserError(f"--samples={chosen['samples']}: allowed with --workdir; of two sets all images are taken")
    if image_size is not None and image_size < 1:
        raise UserError(f"--image_size={image_size}: allowed is a whole number of at least 1")
    names = {"real": _name(real, "--real"), "fake": _name(fake, "--fake")}
    config = config_lib.get_config()
    config.eval.metrics, config.data.name = ("fd",), names["real"]
    config.data.update(of_images)
    # What is cropped is resized, too; what is not is taken as it is.
    recipe = decoding.Recipe.of(config) if image_size else decoding.Recipe(**{"crop": "none", **of_images})
    possible = [one.name for one in METRICS.values() if one.needs == SAMPLES and "held_out" not in one.arrays]
    if others := [name for name in chosen.get("metrics", "fd").split(",") if name not in possible]:
        allowed = f"allowed for two sets of images are {', '.join(possible)}{near(others, possible)}"
        raise UserError(f"--metrics={','.join(others)}: {allowed}")
    set_fields(config, chosen)
    with _scratch_file() as of_real, _scratch_file() as of_fake:
        sets = [
            _read(f"--{flag}={text}", names[flag], image_size, recipe, file)
            for flag, text, file in (("real", real, of_real), ("fake", fake, of_fake))
        ]
        if sets[0].size != sets[1].size:
            raise UserError(
                f"{sets[0].flag} has images of {sets[0].size} pixels and {sets[1].flag} of {sets[1].size}; "
                "give --image_size to crop and resize all to one size"
            )
        config.model.image_size = sets[0].array.shape[1]
        _check(config, *sets)
        row, features = _measure(config, *(one.array for one in sets))
    metrics = metrics_lib.chosen(config, OBJECTIVES[config.objective.name])
    networks = {name: network for name, (network, _) in features.items()}
    columns = metrics_lib.described(metrics, networks, config, 0, has_spread=True)
    counts = {"real_images": len(sets[0].array), "fake_images": len(sets[1].array)}
    facts = settings(config, columns, {name: network.digest for name, network in networks.items()})
    numbers = [[name, "-" if value is None else f"{value:.6g}"] for name, value in row.items()]
    what = f"{counts['fake_images']:,} images of {fake} against {counts['real_images']:,} of {real}"
    lines = [*told(columns), *_few(config, metrics, features, min(counts.values())), *_greys(sets, networks)]
    return [row | counts | facts], "\n\n".join(
        [f"{what}, {sets[0].size} pixels", aligned(["metric", "value"], numbers, left=(0,)), wrapped(lines)]
    )


def _check(config, *sets: Images):
    """Checks the metrics with each set's number of images; `eval.samples` is then that of the second."""
    for images in sets:
        config.eval.samples = len(images.array)
        try:
            metrics_lib.check(config, OBJECTIVES[config.objective.name])
        except UserError as error:
            few = f"config.eval.samples={len(images.array)}"
            if not str(error).startswith(few):
                raise
            raise UserError(f"{images.flag} has {len(images.array):,} images{str(error).removeprefix(few)}") from None


def _measure(config, real, fake):
    """The numbers by column, and `{name: (feature network, the features of both sets)}`."""
    resolve(config)
    row, features = {}, {}
    for metric in metrics_lib.chosen(config, OBJECTIVES[config.objective.name]):
        name, size = metric.features_of(config), config.eval.batch_size
        if name not in features:
            network = FEATURE_NETWORKS[name].load(config)
            of_real = features_of_images(network, real, size)
            sets = Sets(features_of_images(network, fake, size, is_kept=False), of_real, of_real)
            features[name] = network, sets
        row |= metrics_lib.measured(metric, features[name][1], config, has_spread=True)
    return row, features


def _few(config, metrics, features, images):
    """A line for each metric on Gaussians of at least as many features as the smaller set has images."""
    for metric in (one for one in metrics if not one.arrays):
        _, sets = features[metric.features_of(config)]
        width = len(sets.training.gaussians[0].mean)
        if images <= width:
            yield (
                f"{metric.main_of(config)}: the covariance of {images:,} images in {width:,} features is singular, and"
                " the distance too high; compare it with numbers of as many images only"
            )


def _greys(sets, networks):
    """A line where one set is grey and the other is not, and one for each feature network that sees no colour."""
    if len({images.is_colour for images in sets}) > 1:
        colour, grey = sorted(sets, key=lambda images: not images.is_colour)
        yield f"{colour.flag} is in colour and {grey.flag} grey: grey images are compared as three equal channels"
    for name, network in networks.items():
        if getattr(network, "channels", 3) == 1 and any(images.is_colour for images in sets):
            yield f"{name} are networks of grey images: they see the mean of an image's channels, and no colour"


def _name(text, flag):
    """The name of the data set that a flag means: a path is files:PATH."""
    if text in data.SOURCES or text.startswith((folders.PREFIX, readers.PREFIX)):
        return text
    path = local_path(text, flag)
    in_place = len(path.parts) > 1 and (path.is_absolute() or path.parts[0] in ("..", ".") or path.parent.exists())
    is_path = path.exists() or in_place or text.startswith(".") or path.suffix.lower() in SUFFIXES
    return f"{readers.PREFIX}{text}" if is_path else text


@contextlib.contextmanager
def _scratch_file():
    """A file in the cache directory without a name, so that nothing of it is left, whatever ends the process."""
    folder = cache.directory()
    with cache.writing(folder):
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed below)
    with file:
        yield file


def _read(flag, name, image_size, recipe, file) -> Images:
    """Decodes all images of a data set into an open file, without holding them all."""
    try:
        data.check(name)
        splits = data.find(name, background=recipe.background).open_all()
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(f"{flag}: no such file or directory") from None
        text = str(error).replace(f"data.name={name!r}", flag)
        raise UserError(text if flag in text else f"{flag}: {text}") from None
    shape, first, n, is_colour, broken = None, "", 0, False, []
    with cache.writing(cache.directory()), futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:

        def decoded(example):
            image, _, label = example
            try:
                return decoding.to_array(image() if callable(image) else image, image_size, 3, recipe), label
            except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more for broken files.
                return decoding.broken_image(label, error), label

        for array, label in chain.from_iterable(pool.map(decoded, batch) for batch in _batches(splits)):
            if isinstance(array, UserError):
                if recipe.on_broken == "stop":
                    raise UserError(f"{flag}: {array}")
                broken.append(label)
                continue
            if shape is None:
                shape, first = array.shape, label
            if array.shape != shape:
                both = (first, shape), (label, array.shape)
                sizes = [f"{label} has {width}x{height}" for label, (height, width, _) in both]
                raise UserError(f"{flag}: {' and '.join(sizes)} pixels; give --image_size to crop and resize all")
            is_colour = is_colour or bool((array != array[..., :1]).any())
            file.write(array.tobytes())
            n += 1
        file.flush()
    if broken:
        say(f"{flag}: {decoding.left_out(broken, n + len(broken))}")
    if not n:
        raise UserError(f"{flag}: none of the images can be read; mend or remove them")
    return Images(flag, np.memmap(file, np.uint8, "r", shape=(n, *shape)), is_colour)


def _batches(splits):
    for split in splits:
        for start in range(0, split.count, READ_AT_A_TIME):
            yield split.read(start, min(start + READ_AT_A_TIME, split.count))
