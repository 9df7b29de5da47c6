"""Data sets of TFDS by name. TFDS is an extra of this package, and imported on first use."""

import contextlib
import dataclasses
import importlib.util
import io
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np

from jaxtickets import cache
from jaxtickets.data.source import Examples, Source, reason
from jaxtickets.errors import UserError
from jaxtickets.names import near
from jaxtickets.progress import say

INSTALL = 'pip install -e ".[tfds]" in a clone, else pip install "jaxtickets[tfds]"'
ALTERNATIVES = (
    "use --config.data.name=synthetic_faces (no download), --config.data.name=files:PATH (images or a data set on this"
    " machine), or the small variant of the config, --config=<config>.py:quick"
)

_BUILDERS: dict = {}  # `(builder, what _state has told)` by source.


@dataclasses.dataclass(frozen=True)
class Tfds(Source):
    """A TFDS data set with an `image` feature, prepared on first use.

    Attributes:
      name: TFDS's name, with the variant after a slash if there are several.
      is_gray: whether its images have one channel; None: as TFDS describes them.
      needs_variant: whether the name must give a variant.
      allowed: the names that errors offer instead, for a name that TFDS may not have; `verify` leaves a source without
        them alone.
      by_hand: which files to fetch where, for machines that can't prepare it, and the data.name that reads them.
      data_dir: where it is prepared; None is TFDS's own directory.
      count: see `Source`.
    """

    name: str
    is_gray: bool | None = None
    needs_variant: bool = False
    allowed: str = ""
    by_hand: str = ""
    data_dir: str | None = None
    count: int = 0

    def at(self, data_dir: str | None) -> "Tfds":
        return dataclasses.replace(self, data_dir=data_dir)

    def verify(self) -> None:
        self._check_installed()
        if self.allowed:
            self._builder()

    def key(self, split: str) -> str:
        """Returns name and version. Needs no prepared data."""
        return f"{self._file_name}-{self._builder().version}"

    def missing(self) -> str:
        builder = self._builder()
        if builder.is_prepared():
            return ""
        return f"{self.name}, prepared by TensorFlow once (with a download) in {builder.data_dir}"

    @property
    def channels(self) -> int:
        if self.is_gray is None:
            shape = self._builder().info.features["image"].shape
            return 1 if shape[-1] == 1 else 3
        return 1 if self.is_gray else 3

    @property
    def classes(self) -> int:
        features = self._builder().info.features
        return getattr(features["label"], "num_classes", None) or 0 if "label" in features else 0

    def open(self, split: str) -> Examples:
        """Prepares the data set if it is not, and opens `split` ('train' or 'test').

        A data set without a test split gives its validation split instead, and one without either every image after
        the first nine tenths (TFDS shuffles what it stores, so that is a random tenth).
        """
        import tensorflow_datasets as tfds

        with cache.lock(f"prepare-{self._file_name}"), quiet():
            builder = self._builder()
            if not builder.is_prepared():
                self._prepare(builder)
                builder = self._builder()
        held_out = next((part for part in ("test", "validation") if part in builder.info.splits), None)
        part = {"train": "train" if held_out else "train[:90%]", "test": held_out or "train[90%:]"}[split]
        features = builder.info.features
        with self._whole(builder):
            # Pillow decodes later: TFDS would use OpenCV where that is installed, and the two differ on JPEG.
            data = builder.as_data_source(part, decoders={"image": tfds.decode.SkipDecoding()})
        if "attributes" in features:
            names = tuple(features["attributes"])
        else:
            names = tuple(getattr(features["label"], "names", None) or ()) if "label" in features else ()

        def read(start, stop):
            with self._whole(builder):
                records = data.__getitems__(list(range(start, stop)))
            return [(record["image"], _label(record, names), f"image {start + i}") for i, record in enumerate(records)]

        return Examples(len(data), read, names)

    def builder_class(self):
        """Returns the TFDS builder class. Raises UserError for a name that TFDS does not have."""
        import tensorflow_datasets as tfds

        dataset, _, config = self.name.partition("/")
        try:
            cls = tfds.builder_cls(dataset)
        except Exception as error:  # TFDS raises different errors for an unknown name and for a malformed one.
            others = self.allowed.split(", ") + tfds.list_builders(with_community_datasets=False)
            suggestion = near(self.name, dict.fromkeys(others))
            raise UserError(f"data.name={self.name!r} is unknown{suggestion}; allowed: {self.allowed}") from error
        configs = [known.name for known in cls.BUILDER_CONFIGS]
        if (config or self.needs_variant) and config not in configs:
            variants = ", ".join(f"{dataset}/{known}" for known in configs) or dataset
            raise UserError(f"data.name={self.name!r}: no such variant of {dataset}; allowed: {variants}")
        return cls

    @property
    def _file_name(self) -> str:
        return self.name.replace("/", "-")

    def _builder(self):
        """TFDS's builder: the one from before, because TFDS keeps each for ever, unless the directory has changed."""
        if known := _BUILDERS.get(self):
            builder, state = known
            if state == _state(builder):
                return builder
        builder = self._new_builder()
        _BUILDERS[self] = builder, _state(builder)
        return builder

    def _new_builder(self):
        self._check_installed()  # Some ask for the key or the classes of what nobody has verified.
        config = self.name.partition("/")[2]
        with quiet():
            try:
                builder = self.builder_class()(
                    data_dir=self.data_dir, file_format="array_record", **({"config": config} if config else {})
                )
                features = builder.info.features
            except UserError:
                raise
            except Exception as error:  # A builder may import what is missing, and reads what is prepared.
                raise UserError(self._why_no_builder(error)) from error
        if "image" not in features:
            raise UserError(f"data.name={self.name!r} has no 'image' feature; allowed: {self.allowed}")
        return builder

    def _check_installed(self):
        if importlib.util.find_spec("tensorflow_datasets"):
            return
        if self.allowed:
            suggestion = near(self.name, self.allowed.split(", "))
            raise UserError(
                f"data.name={self.name!r} is unknown{suggestion}; allowed: {self.allowed}, once TFDS is "
                f"installed: {INSTALL}"
            )
        raise UserError(
            f"data.name={self.name!r} comes through TFDS, which is not installed: {INSTALL}; or {self._other_ways()}"
        )

    def _why_no_builder(self, error):
        name, place = f"data.name={self.name!r}", self.data_dir or "the TFDS directory"
        if "File format is already set" in str(error):
            return (
                f"{name} is prepared in another file format than array_record in {place}; give another directory with"
                " --config.data.dir"
            )
        if isinstance(error, ModuleNotFoundError):
            needs = f"TensorFlow: {INSTALL}" if error.name == "tensorflow" else reason(error)
            return f"{name}: TFDS can't describe it without {needs}; or {self._other_ways()}"
        return f"{name} can't be opened in {place}: {reason(error)}; remove what is there of it, or {ALTERNATIVES}"

    @contextlib.contextmanager
    def _whole(self, builder) -> Iterator[None]:
        """Turns every error in reading prepared data into one line: array_record raises several for damaged files."""
        try:
            yield
        except Exception as error:
            what = f"data.name={self.name!r}: the prepared data in {builder.data_dir} can't be read ({reason(error)})"
            raise UserError(f"{what}; delete that directory, and the same command prepares it again") from error

    def _other_ways(self) -> str:
        return f"fetch {self.by_hand}; or {ALTERNATIVES}" if self.by_hand else ALTERNATIVES

    def _prepare(self, builder) -> None:
        if importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                f"data.name={self.name!r} is not prepared in {builder.data_dir}, and preparing it needs TensorFlow:"
                f" {INSTALL}; or {self._other_ways()}"
            )
        say(f"preparing {self.name} (once, with a download) in {builder.data_dir}")
        import tensorflow_datasets as tfds

        try:
            # Google's bucket holds no array_record files, so asking there costs time and never helps.
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            _keep_tensorflow_off_accelerators()
            with _few_retries():
                builder.download_and_prepare(download_config=config)
        except BaseException as error:
            _remove_leftovers(builder)
            if not isinstance(error, Exception):
                raise
            raise UserError(
                f"data.name={self.name!r} could not be prepared: {reason(error)}; {self._other_ways()}"
            ) from error


def _state(builder):
    """When what a builder has read of its directory was written; None for what is not there."""
    directory = pathlib.Path(builder.data_dir)
    paths = (directory, directory / "dataset_info.json", directory / "features.json")
    return tuple(path.stat().st_ctime_ns if path.exists() else None for path in paths)


def _label(record, names):
    if "attributes" in record:
        return [bool(record["attributes"][name]) for name in names]
    return int(record["label"]) if "label" in record and np.ndim(record["label"]) == 0 else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TFDS's progress bars, its prints on standard output, and its log lines below an error."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """Lets a download give up after four retries: with TFDS's ten a machine without a network waits three minutes."""
    from tensorflow_datasets.core.download import downloader

    usual = getattr(downloader, "MAX_RETRIES", None)
    downloader.MAX_RETRIES = 4
    try:
        yield
    finally:
        downloader.MAX_RETRIES = usual


def _keep_tensorflow_off_accelerators() -> None:
    """Keeps TensorFlow, which TFDS only uses to copy and encode, from taking the accelerator's memory from JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # raised where the caller has started TensorFlow already
        tf.config.set_visible_devices([], "GPU")


def _remove_leftovers(builder) -> None:
    """Removes incomplete downloads of this data set and the directories that are empty then; complete ones stay."""
    root = pathlib.Path(builder.data_dir).expanduser()
    for _ in builder.name, *((builder.builder_config.name,) if builder.builder_config else ()), "version":
        root = root.parent
    downloads = root / "downloads"
    for part in (downloads / builder.name).rglob("*.tmp.*"):
        shutil.rmtree(part, ignore_errors=True)
    for part in (downloads / "extracted").glob("incomplete.*"):
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(builder.data_dir, ignore_errors=True)
    empty = (downloads / builder.name, downloads / "extracted", downloads, pathlib.Path(builder.data_dir).parent)
    for part in (*empty, root / builder.name, root):
        with contextlib.suppress(OSError):
            part.rmdir()
