"""Metrics of one set of images against another: `python -m jaxtickets.evaluate --real=DIR --fake=DIR`."""

import contextlib
import os
import tempfile
from concurrent import futures
from itertools import chain
from typing import NamedTuple

import numpy as np

from jaxtickets import cache, data, metrics
from jaxtickets import config as config_lib
from jaxtickets.data import decoding, folders, readers
from jaxtickets.errors import UserError
from jaxtickets.evaluate import resolve, set_fields
from jaxtickets.local_paths import local_path
from jaxtickets.metrics import FEATURE_NETWORKS, METRICS
from jaxtickets.metrics.bootstrap import intervals
from jaxtickets.metrics.features import features_of_images
from jaxtickets.metrics.metric import SAMPLES, Sets
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.tables import aligned

READ_AT_A_TIME = 512


class Images(NamedTuple):
    """A set of images of one size.

    Attributes:
      flag: `--real=...` or `--fake=...`.
      array: `[n, h, w, 3]` uint8, mapped from disk; grey images have three equal channels.
    """

    flag: str
    array: np.ndarray

    @property
    def size(self) -> str:
        """Width and height."""
        return f"{self.array.shape[2]}x{self.array.shape[1]}"


def compare(real: str, fake: str, chosen: dict[str, str], image_size: int | None = None) -> tuple[list[dict], str]:
    """Scores the images `fake` against the images `real`: `(one row, the numbers as text)`.

    Without `image_size` images are compared as they are. In each set all splits are taken together.

    Args:
      real, fake: directories, archives or files of images, or names of data sets.
      chosen: see `evaluate.set_fields`; without metrics the Frechet distance.

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
    possible = [one.name for one in METRICS.values() if one.needs == SAMPLES and "held_out" not in one.arrays]
    if others := [name for name in chosen.get("metrics", "fd").split(",") if name not in possible]:
        raise UserError(f"--metrics={','.join(others)}: allowed for two sets of images are {', '.join(possible)}")
    set_fields(config, chosen)
    with _scratch_file() as of_real, _scratch_file() as of_fake:
        sets = [
            _read(f"--{flag}={text}", names[flag], image_size, file)
            for flag, text, file in (("real", real, of_real), ("fake", fake, of_fake))
        ]
        if sets[0].size != sets[1].size:
            raise UserError(
                f"{sets[0].flag} has images of {sets[0].size} pixels and {sets[1].flag} of {sets[1].size}; "
                "give --image_size to crop and resize all to one size"
            )
        config.model.image_size = sets[0].array.shape[1]
        _check(config, *sets)
        row = _measure(config, *(one.array for one in sets))
    counts = {"real_images": len(sets[0].array), "fake_images": len(sets[1].array)}
    names = [[name, "-" if value is None else f"{value:.6g}"] for name, value in row.items()]
    what = f"{counts['fake_images']:,} images of {fake} against {counts['real_images']:,} of {real}"
    return [row | counts], f"{what}, {sets[0].size} pixels\n\n{aligned(['metric', 'value'], names, left=(0,))}"


def _check(config, *sets: Images):
    """Checks the metrics with each set's number of images; `eval.samples` is then that of the second."""
    for images in sets:
        config.eval.samples = len(images.array)
        try:
            metrics.check(config, OBJECTIVES[config.objective.name])
        except UserError as error:
            raise UserError(f"{images.flag} has {len(images.array)} images: {error}") from None


def _measure(config, real, fake):
    resolve(config)
    row, features = {}, {}
    for metric in metrics.chosen(config, OBJECTIVES[config.objective.name]):
        name, size = metric.features_of(config), config.eval.batch_size
        if name not in features:
            network = FEATURE_NETWORKS[name].load(config)
            of_real = features_of_images(network, real, size)
            features[name] = Sets(features_of_images(network, fake, size, is_kept=False), of_real, of_real)
        own = metric.row(metric.measure(features[name], config), config)
        row |= own | (intervals(metric, features[name], own, config) if config.eval.bootstrap else {})
    return row


def _name(text, flag):
    """The name of the data set that a flag means: a path is files:PATH."""
    if text in data.SOURCES or text.startswith((folders.PREFIX, readers.PREFIX)):
        return text
    return f"{readers.PREFIX}{text}" if local_path(text, flag).exists() else text


@contextlib.contextmanager
def _scratch_file():
    """A file in the cache directory without a name, so that nothing of it is left, whatever ends the process."""
    folder = cache.directory()
    with cache.writing(folder):
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed below)
    with file:
        yield file


def _read(flag, name, image_size, file) -> Images:
    """Decodes all images of a data set into an open file, without holding them all."""
    try:
        data.check(name)
        splits = data.find(name).open_all()
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None
    # What is cropped is resized, too; what is not is taken as it is.
    recipe = decoding.USUAL if image_size else decoding.Recipe(crop="none")
    shape, first, n = None, "", sum(one.count for one in splits)
    with cache.writing(cache.directory()), futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:

        def decoded(example):
            image, _, label = example
            try:
                return decoding.to_array(image() if callable(image) else image, image_size, 3, recipe), label
            except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more for broken files.
                raise UserError(f"{flag}: {decoding.broken_image(label, error)}") from None

        for array, label in chain.from_iterable(pool.map(decoded, batch) for batch in _batches(splits)):
            if shape is None:
                shape, first = array.shape, label
            if array.shape != shape:
                both = (first, shape), (label, array.shape)
                sizes = [f"{label} has {width}x{height}" for label, (height, width, _) in both]
                raise UserError(f"{flag}: {' and '.join(sizes)} pixels; give --image_size to crop and resize all")
            file.write(array.tobytes())
        file.flush()
    return Images(flag, np.memmap(file, np.uint8, "r", shape=(n, *shape)))


def _batches(splits):
    for split in splits:
        for start in range(0, split.count, READ_AT_A_TIME):
            yield split.read(start, min(start + READ_AT_A_TIME, split.count))
