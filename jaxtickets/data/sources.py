"""Where images come from: TFDS builders (the two embedded ones included), directories and zip archives.

A source knows a `key` that changes whenever its content does, and opens a split as `Examples`: encoded images and
labels by index. `decode` turns a split into arrays on disk.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import numpy as np

from jaxtickets import cache, files
from jaxtickets.errors import UserError
from jaxtickets.progress import say

EMBEDDED = ("digits", "synthetic_faces")
DOWNLOADED = ("cifar10", "celeb_a", "mnist", "fashion_mnist")
GRAY = ("digits", "mnist", "fashion_mnist")
ALLOWED = (*EMBEDDED, *DOWNLOADED, "lsun/<category>", "folder:PATH", "or another TFDS dataset with an 'image' feature")
FOLDER = "folder:"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TEST_EVERY = 10
ALTERNATIVES = (
    "use --config.data.name=synthetic_faces (no download), --config.data.name=folder:PATH (a directory or zip of"
    " images), or the small variant of the config, --config=<config>.py:quick"
)


@dataclasses.dataclass(frozen=True)
class Examples:
    """A split that is ready to be read.

    `read(start, stop)` gives (encoded image, label, the image's name in messages) for each index; the label is an int,
    a sequence of bools, or None, the same kind throughout.
    """

    count: int
    read: Callable[[int, int], list[tuple[bytes, object, str]]]
    label_names: tuple[str, ...] = ()


# --- TFDS ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """A TFDS dataset by name, prepared in `data_dir` (None: TFDS's own directory) on first use."""

    name: str
    data_dir: str | None = None

    @property
    def key(self) -> str:
        """Name and version. Needs no prepared data."""
        return f"{self.name.replace('/', '-')}-{self._builder().version}"

    @property
    def classes(self) -> int:
        """How many classes its labels tell apart, 0 if it has no labels of that kind. Needs no prepared data."""
        features = self._builder().info.features
        return getattr(features["label"], "num_classes", None) or 0 if "label" in features else 0

    def open(self, split: str) -> Examples:
        """Prepares the dataset if it is not, and opens `split` ('train' or 'test').

        A dataset without a test split gives its validation split instead, and one without either every image after
        the first nine tenths (TFDS shuffles what it stores, so that is a random tenth).
        """
        import tensorflow_datasets as tfds

        with cache.lock(f"prepare-{self.name.replace('/', '-')}"), quiet_tfds():
            builder = self._builder()
            if not builder.is_prepared():
                self._prepare(builder)
                builder = self._builder()
        held_out = next((part for part in ("test", "validation") if part in builder.info.splits), None)
        part = {"train": "train" if held_out else "train[:90%]", "test": held_out or "train[90%:]"}[split]
        # Decoding is left to Pillow here: TFDS takes OpenCV when it is there, and the two differ on JPEG.
        data = builder.as_data_source(part, decoders={"image": tfds.decode.SkipDecoding()})
        features = builder.info.features
        if "attributes" in features:
            names = tuple(features["attributes"])
        else:
            names = tuple(getattr(features["label"], "names", None) or ()) if "label" in features else ()

        def read(start, stop):
            records = data.__getitems__(list(range(start, stop)))
            return [(record["image"], _label(record, names), f"image {start + i}") for i, record in enumerate(records)]

        return Examples(len(data), read, names)

    def builder_class(self):
        """The TFDS builder class. Raises UserError for a name that TFDS does not have."""
        if self.name == "digits":
            from jaxtickets.data.digits import Digits

            return Digits
        if self.name == "synthetic_faces":
            from jaxtickets.data.synthetic_faces import SyntheticFaces

            return SyntheticFaces
        import tensorflow_datasets as tfds

        dataset, _, config = self.name.partition("/")
        try:
            cls = tfds.builder_cls(dataset)
        except Exception as error:  # TFDS raises different errors for an unknown name and for a malformed one.
            raise UserError(f"data.name={self.name!r} is unknown; allowed: {', '.join(ALLOWED)}") from error
        configs = [known.name for known in cls.BUILDER_CONFIGS]
        if (config or dataset == "lsun") and config not in configs:
            allowed = ", ".join(f"{dataset}/{known}" for known in configs) or dataset
            raise UserError(f"data.name={self.name!r}: no such variant of {dataset}; allowed: {allowed}")
        return cls

    def _builder(self):
        config = self.name.partition("/")[2]
        with quiet_tfds():
            try:
                builder = self.builder_class()(
                    data_dir=self.data_dir, file_format="array_record", **({"config": config} if config else {})
                )
            except ValueError as error:
                if "File format is already set" not in str(error):
                    raise
                raise UserError(
                    f"data.name={self.name!r} is prepared in another file format than array_record in"
                    f" {self.data_dir or 'the TFDS directory'}; give another directory with --config.data.dir"
                ) from error
        if "image" not in builder.info.features:
            raise UserError(f"data.name={self.name!r} has no 'image' feature; allowed: {', '.join(ALLOWED)}")
        return builder

    def _prepare(self, builder) -> None:
        if self.name not in EMBEDDED and importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                f"data.name={self.name!r} is not prepared in {builder.data_dir}, and preparing it needs TensorFlow:"
                f' pip install -e ".[tfds]"; or {ALTERNATIVES}'
            )
        how_long = {"digits": "a second", "synthetic_faces": "about a minute"}.get(self.name, "with a download")
        say(f"preparing {self.name} (once, {how_long}) in {builder.data_dir}")
        import tensorflow_datasets as tfds

        try:
            # Google's bucket holds no array_record files, so asking there costs time and never helps.
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            with _few_retries(), _no_accelerator_for_tensorflow(self.name):
                builder.download_and_prepare(download_config=config)
        except BaseException as error:
            _remove_leftovers(builder)
            if not isinstance(error, Exception):
                raise
            if self.name in EMBEDDED and not isinstance(error, OSError):
                raise
            raise UserError(
                f"data.name={self.name!r} could not be prepared: {_reason(error)}; {ALTERNATIVES}"
            ) from error


def _label(record, names):
    if "attributes" in record:
        return [bool(record["attributes"][name]) for name in names]
    return int(record["label"]) if "label" in record and np.ndim(record["label"]) == 0 else None


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Silences TFDS's progress bars, its prints on standard output, and its log lines below an error."""
    import logging

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


@contextlib.contextmanager
def _no_accelerator_for_tensorflow(name: str) -> Iterator[None]:
    """Keeps TensorFlow, which TFDS only uses to copy and encode, from taking the accelerator's memory from JAX."""
    if name not in EMBEDDED:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # raised where the caller has started TensorFlow already
            tf.config.set_visible_devices([], "GPU")
    yield


def _remove_leftovers(builder) -> None:
    """Removes half-made downloads of this dataset and the directories that are empty then. Whole downloads stay."""
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


def _reason(error: BaseException) -> str:
    """One short line that says what failed."""
    url = getattr(getattr(error, "request", None), "url", None)
    if url and any("Connection" in kind.__name__ for kind in type(error).__mro__):
        return f"no connection to {url.split('/')[2]}"
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is missing (pip install {error.name})"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}".removesuffix(": ")


# --- directories and zip archives ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """All images below a directory or in a .zip, sorted by name; the first, 11th, 21st, ... are the test split."""

    path: str
    classes = 0

    @property
    def key(self) -> str:
        """Digest of the place and of all names, sizes and modification times."""
        digest = hashlib.sha256(repr((os.path.realpath(self.path), self.files())).encode()).hexdigest()
        return f"folder-{digest[:24]}"

    def files(self) -> list[tuple[str, int, object]]:
        """(name relative to the path, bytes, modification time) of each image, sorted by name.

        Raises UserError if the path is missing, is neither a directory nor a zip, or holds fewer than two images.
        """
        where = f"data.name={FOLDER + self.path!r}"
        root = pathlib.Path(self.path).expanduser()
        if not self.path or not root.exists():
            raise UserError(f"{where}: there is no such directory or .zip; give folder:PATH with an existing path")
        if root.is_dir():
            found = []
            for folder, _, names in os.walk(root, followlinks=True):
                for name in filter(_is_image, names):
                    full = pathlib.Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):  # a dangling link
                        found.append((full.relative_to(root).as_posix(), (s := full.stat()).st_size, s.st_mtime_ns))
        elif zipfile.is_zipfile(root):
            with zipfile.ZipFile(root) as archive:
                found = [
                    (entry.filename, entry.file_size, (entry.CRC, *entry.date_time))
                    for entry in archive.infolist()
                    if not entry.is_dir() and _is_image(entry.filename)
                ]
        else:
            raise UserError(f"{where} is neither a directory nor a zip archive; give one that holds images")
        if len(found) < 2:
            raise UserError(
                f"{where} holds {len(found)} images, and at least 2 are needed (one to train, one to test);"
                f" allowed: {', '.join(SUFFIXES)}"
            )
        return sorted(found)

    def open(self, split: str) -> Examples:
        names = [name for i, (name, _, _) in enumerate(self.files()) if (split == "test") == (i % TEST_EVERY == 0)]
        root = pathlib.Path(self.path).expanduser()

        def read(start, stop):
            if root.is_dir():
                return [((root / name).read_bytes(), None, str(root / name)) for name in names[start:stop]]
            with zipfile.ZipFile(root) as archive:
                try:
                    return [(archive.read(name), None, f"{root}:{name}") for name in names[start:stop]]
                except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
                    raise UserError(f"{root}: the archive is broken or locked: {error}") from error

        return Examples(len(names), read)


def _is_image(name: str) -> bool:
    parts = pathlib.PurePosixPath(name).parts
    # Archives made on a Mac carry "__MACOSX/._photo.jpg" files that are no images.
    return name.lower().endswith(SUFFIXES) and not parts[-1].startswith("._") and "__MACOSX" not in parts


# --- decoding --------------------------------------------------------------------------------------------------------


def find(name: str, data_dir: str | None = None) -> TfdsSource | FolderSource:
    """The source that `name` means."""
    if name.startswith(FOLDER):
        return FolderSource(name.removeprefix(FOLDER))
    return TfdsSource(name, data_dir)


def to_array(encoded: bytes, image_size: int, channels: int) -> np.ndarray:
    """Decodes an image, crops its centre to a square and resizes that.

    For an aligned CelebA image the square is the usual 178x178. The filter is Pillow's bicubic, up and down: it widens
    with the reduction, so it does not alias, and it is the one that Parmar et al. (2022, "On Aliased Resizing and
    Surprising Subtleties in GAN Evaluation") recommend. Transparent parts become white.

    Returns uint8 [image_size, image_size, channels]. Raises what Pillow raises for a broken image.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(encoded)) as image:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Pillow's resize(box=...) would let pixels from outside the square in at its edges.
    image = image.crop((left, top, left + side, top + side))
    if side != image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8).reshape(image_size, image_size, channels)


def decode(examples: Examples, image_size: int, channels: int, folder: pathlib.Path) -> None:
    """Writes images.npy and, where there are labels, labels.npy into `folder`.

    Images: uint8 [n, image_size, image_size, channels]. Labels: int32 [n], or uint8 [n, attributes].
    Raises UserError that names the image if one cannot be decoded.
    """
    if examples.count == 0:
        raise UserError(f"{folder.name}: the split holds no images; give a dataset with more images")

    def array(example):
        encoded, _, name = example
        try:
            return to_array(encoded, image_size, channels)
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more for broken files.
            raise UserError(f"{name} is no readable image ({_reason(error)}); mend or remove it") from error

    labels = []
    with files.atomic_write(folder / "images.npy") as path:
        shape = (examples.count, image_size, image_size, channels)
        images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        with futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            for start in range(0, examples.count, 512):
                batch = examples.read(start, min(start + 512, examples.count))
                images[start : start + len(batch)] = list(pool.map(array, batch))
                labels += [label for _, label, _ in batch]
        images.flush()
        if labels[0] is not None:
            with files.atomic_write(folder / "labels.npy") as labels_path:
                _save(labels_path, np.asarray(labels, np.uint8 if isinstance(labels[0], Sequence) else np.int32))


def _save(path: pathlib.Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, array)
