"""Inception features and logits, for FID, KID and Inception scores, with the published weights in the user's cache.

    python -m jaxtickets.metrics.inception --fetch        downloads the weights (91 MiB)
    python -m jaxtickets.metrics.inception --from=FILE    takes them from a file that was downloaded by other means

The weights are those that pytorch-fid and torch-fidelity read: TensorFlow's graph of 2015-12-05 in a PyTorch file.
"""

import functools
import hashlib
import http.client
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jaxtickets import cache, cached_files, cli, files
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.fields import Field, choice
from jaxtickets.local_paths import local_path
from jaxtickets.metrics import resizing, torch_file
from jaxtickets.metrics.feature_network import FeatureNetwork
from jaxtickets.metrics.inception_network import SIZE, Inception, logits_of, params_of, published_shapes
from jaxtickets.progress import say

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
WEIGHTS = "inception-2015-12-05.safetensors"  # In the cache directory.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
COMMAND = "python -m jaxtickets.metrics.inception"
CHUNK, ACCELERATOR_CHUNK = 8, 64  # Images at a time. More are no faster: they leave the caches of a CPU.
TIMEOUT = 30  # Seconds without a byte.


# Images as the network reads them.


class Resize(NamedTuple):
    """How images get their 299x299 pixels and their range.

    Attributes:
      matrix: see `resizing.resize`.
      centre, scale: pixel values v in [0, 255] become (v - centre) / scale.
      clips: whether resized values are clipped to [0, 255]; only bicubic ones leave it.
    """

    matrix: Callable[[int, int], np.ndarray]
    centre: float
    scale: float
    clips: bool = False


RESIZES = {
    "tensorflow": Resize(resizing.bilinear_tensorflow, 128, 128),  # The graph of 2015-12-05, and torch-fidelity.
    "pytorch": Resize(resizing.bilinear_pytorch, 127.5, 127.5),  # pytorch-fid.
    "clean": Resize(resizing.bicubic_pillow, 128, 128, clips=True),  # clean-fid (Parmar et al. 2022).
}
RESIZE = Field(
    "eval.resize",
    "tensorflow",
    choice(RESIZES),
    "How images get the size that Inception reads: tensorflow as the original FID and torch-fidelity, pytorch as "
    "pytorch-fid, clean as clean-fid (antialiased).",
)


def preprocess(images, resize: str = RESIZE.default):
    """`images: [batch, h, w, 1 or 3]` in [-1, 1] -> `[batch, 299, 299, 3]` as `Inception` reads them.

    They are first rounded to the 256 values that image files have, as those that other programs read from files.

    Raises:
      ValueError: they have another number of channels.
    """
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"Inception reads grey or colour images, and these have {images.shape[-1]} channels")
    chosen = RESIZES[resize]
    values = jnp.clip(jnp.round((images.astype(jnp.float32) + 1) * 127.5), 0, 255)
    values = resizing.resize(values, SIZE, chosen.matrix)
    if chosen.clips:
        values = jnp.clip(values, 0, 255)
    return jnp.broadcast_to((values - chosen.centre) / chosen.scale, (*values.shape[:-1], 3))


# The feature networks.


def in_chunks(function: Callable, images, size: int):
    """`function(images)`, computed for `size` images at a time: one image of 299x299 takes 20 MiB of memory."""
    if len(images) <= size:
        return function(images)
    padding = ((0, -len(images) % size), *((0, 0) for _ in images.shape[1:]))
    chunks = jnp.pad(images, padding).reshape(-1, size, *images.shape[1:])
    results = jax.lax.map(function, chunks)
    return results.reshape(-1, *results.shape[2:])[: len(images)]


@flax.struct.dataclass
class InceptionFeatures:
    """One kind of features of the Inception network, as a feature network.

    Attributes:
      params: of `Inception`.
      name: what the features are called.
      tap: which of the network's outputs they are: a key of what `Inception` returns.
      resize: the preprocessing, a key of `RESIZES`.
      weights_digest: a text that changes with the weights.
      precision: see `Inception`.
    """

    params: Any
    name: str = flax.struct.field(pytree_node=False)
    tap: str = flax.struct.field(pytree_node=False)
    resize: str = flax.struct.field(pytree_node=False)
    weights_digest: str = flax.struct.field(pytree_node=False)
    precision: Any = flax.struct.field(pytree_node=False, default=Inception.precision)

    def __call__(self, images):
        """Features `[batch, n]` of `images: [batch, h, w, c]` in [-1, 1], of any size, grey or colour."""

        # XLA merges the loops of a program whose two networks are the features and the logits, as they do the same.
        is_head = self.tap in ("logits", "logits_unbiased")
        trunk = "2048" if is_head else self.tap

        def features_of(images):
            return Inception(self.precision).apply({"params": self.params}, preprocess(images, self.resize))[trunk]

        features = in_chunks(features_of, images, CHUNK if jax.default_backend() == "cpu" else ACCELERATOR_CHUNK)
        return logits_of(self.params, features, self.precision)[self.tap] if is_head else features

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with the weights, the features and the preprocessing."""
        return hashlib.sha256(f"{self.weights_digest} {self.tap} {self.resize}".encode()).hexdigest()[:16]

    @property
    def about(self) -> str:
        """The preprocessing in words."""
        return f"Inception of 2015-12-05, images resized as {self.resize}"


def feature_network(name: str, tap: str, resize: str) -> InceptionFeatures:
    """Features called `name`; all of them share the arrays of their weights, which are read once per process.

    Raises:
      UserError: the weights are not in the user's cache directory, or their file is damaged.
    """
    path = weights_path()
    if not is_available():
        raise UserError(missing())
    params, digest = _read(path, path.stat().st_mtime_ns)
    return InceptionFeatures(params, name, tap, resize, digest)


@functools.lru_cache(maxsize=1)
def _read(path, _):
    try:
        tensors, _ = cached_files.read(path)
    except DamagedError as error:
        reason = str(error).rpartition(";")[0]
        raise DamagedError(f"{reason}; get it again with {COMMAND} --fetch, or --from=FILE for a {FILE}") from None
    _check_shapes(path, tensors)
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(tensors[name].tobytes())
    return jax.tree.map(jnp.asarray, params_of(tensors)), sha.hexdigest()[:16]


def _check(config) -> None:
    if not is_available():
        is_own = config.eval.features in (INCEPTION.name, INCEPTION_LOGITS.name)
        field, value = ("features", config.eval.features) if is_own else ("metrics", config.eval.metrics)
        raise UserError(f"config.eval.{field}={value!r}: {missing()}")


def _plugin(name: str, tap: str, column: str = "") -> FeatureNetwork:
    def load(config):
        return feature_network(name, tap, config.eval.resize)

    return FeatureNetwork(name, load, (RESIZE,), _check, column)


INCEPTION = _plugin("inception", "2048", "fid")
# Inception scores are defined on the logits without their biases (Salimans et al. 2016, as their code has it).
INCEPTION_LOGITS = _plugin("inception_logits", "logits_unbiased")


# The published weights.


def weights_path() -> Path:
    """The file of the weights in the user's cache directory: the published tensors, as safetensors."""
    return cache.directory("features") / WEIGHTS


def is_available() -> bool:
    """Whether the weights are in the user's cache directory."""
    return cache.path("features", WEIGHTS).is_file()


def missing() -> str:
    """What to do for the weights, in one line."""
    return f"Inception's weights are not in the cache; get them with {COMMAND} --fetch, or --from=FILE for a {FILE}"


def keep(path, sha256: str | None = SHA256) -> Path:
    """Checks the published file at `path` and keeps its tensors in the user's cache directory.

    Args:
      sha256: of the file; None checks only what is in it.

    Returns:
      `weights_path()`.

    Raises:
      UserError: it is not the published file.
    """
    if sha256 is not None:
        try:
            with Path(path).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; allowed is a {FILE}") from None
        if found != sha256:
            raise UserError(f"{path}: its SHA-256 is {found}; allowed is the published {FILE}, with {sha256}")
    tensors = torch_file.read(path)
    # The number of batches that a batch norm has seen; some programs leave it out.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".num_batches_tracked")}
    _check_shapes(path, tensors)
    cached_files.write(weights_path(), {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    return weights_path()


def _check_shapes(path, tensors: Mapping[str, np.ndarray]) -> None:
    expected, allowed = published_shapes(), f"allowed are the {len(published_shapes())} tensors of the published {FILE}"
    if lacking := [name for name in expected if name not in tensors]:
        raise UserError(f"{path}: {len(lacking)} tensors are missing, such as {lacking[0]}; {allowed}")
    if extra := [name for name in tensors if name not in expected]:
        raise UserError(f"{path}: {len(extra)} tensors are unknown, such as {extra[0][:80]}; {allowed}")
    for name, shape in expected.items():
        if tensors[name].shape != shape or tensors[name].dtype != np.float32:
            found = f"{tensors[name].dtype} {tensors[name].shape}"
            raise UserError(f"{path}: {name} is {found}; allowed is float32 {shape}, as in the published {FILE}")


def fetch(url: str = URL, sha256: str | None = SHA256) -> Path:
    """Downloads the published file, checks it, and keeps its tensors in the user's cache directory.

    Raises:
      UserError: there is no network, or what came is not the published file.
    """
    if is_available():
        try:
            _read(weights_path(), weights_path().stat().st_mtime_ns)
            say(f"Inception's weights are in {weights_path()} already")
            return weights_path()
        except UserError as error:
            say(str(error).partition(";")[0])
    partial = weights_path().with_name(FILE)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, files.atomic_write(partial) as temporary:
            _download(answer, temporary)
        return keep(partial, sha256)
    except (OSError, http.client.HTTPException) as error:  # urllib's own errors are OSErrors.
        reason = getattr(error, "reason", None) or error
        reason = getattr(reason, "strerror", None) or reason
        raise UserError(f"{url} can't be downloaded ({reason}); download it elsewhere and give --from=FILE") from None
    finally:
        partial.unlink(missing_ok=True)


def _download(answer, path: Path) -> None:
    """Writes an HTTP answer to a file, and tells each quarter of it."""
    size, done, told = int(answer.headers.get("Content-Length") or 0), 0, 0
    say(f"downloading {answer.url} ({size / 2**20:.0f} MiB)" if size else f"downloading {answer.url}")
    with path.open("wb") as file:
        while block := answer.read(2**20):
            file.write(block)
            done += len(block)
            if size and done * 4 // size > told:
                told = done * 4 // size
                say(f"{25 * told}% downloaded")
    if size and done != size:
        raise ConnectionError(f"it ended after {done} of {size} bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line (None is this process's); returns the exit status."""
    defined = flags.FlagValues()
    fetches = flags.DEFINE_bool("fetch", False, "Download the weights.", flag_values=defined)
    source = flags.DEFINE_string("from", None, f"A {FILE} to take the weights from.", flag_values=defined)
    return cli.call(lambda rest: _run(rest, fetches.value, source.value), defined, arguments, __doc__)


def _run(rest, fetches, source):
    if rest or fetches == (source is not None):
        given = rest[0] if rest else "both --fetch and --from" if fetches else "no flag"
        raise UserError(f"{given} is given; allowed is one of --fetch and --from=FILE")
    print(f"Inception's weights: {fetch() if fetches else keep(local_path(source, '--from'))}")
