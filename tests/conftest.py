"""Every test session keeps its data and its cache in directories of its own."""

import contextlib
import csv
import hashlib
import importlib.util
import json
import logging
import os
import signal
from functools import cache, partial
from pathlib import Path

import absl.logging
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import models, snapshots, train, trained
from jaxtickets.experiments import METHODS
from jaxtickets.metrics import FEATURE_NETWORKS, classifier
from jaxtickets.runs import Networks, Run, Setup
from jaxtickets.runs.programs import Programs
from jaxtickets.workdir import Workdir

# XLA's CPU back end has one thread per device. When all but one of them wait in a collective and the last one waits for
# something else, they wait forever; with spare threads they do not.
SPARE_THREADS = {"PJRT_NPROC": "32"}
ROOT = Path(__file__).parent.parent
hypothesis.settings.register_profile("jaxtickets", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("jaxtickets")
TIMINGS = ("train_seconds", "steps_per_second", "search_seconds")

# XLA takes many times longer for most of its optimisations than these programs run; in subprocesses, too. Its emitters
# of fused operations take as long as all the rest; from JAX 0.11 on there is no flag to do without them.
QUICK = "jax_disable_most_optimizations"
os.environ[QUICK.upper()] = "1"
jax.config.update(QUICK, True)
FUSES_AS_USUAL = jax.__version_info__ >= (0, 11)  # Else two programs of the same function may round differently.
if not FUSES_AS_USUAL:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

# A shell starts what it runs in the background with this signal ignored, and subprocesses would inherit that.
with contextlib.suppress(ValueError):  # Not in the main thread.
    signal.signal(signal.SIGINT, signal.default_int_handler)

absl.logging.set_verbosity(absl.logging.WARNING)
logging.getLogger("absl").setLevel(logging.WARNING)


@pytest.fixture
def float64(monkeypatch):
    """Everything that trains is in float64."""

    def doubled(*arguments, init=train.init_state, **named):
        return jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
            init(*arguments, **named),
        )

    monkeypatch.setattr(train, "init_state", doubled)
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def session_directory(tmp_path_factory):
    """A directory that is empty at the start of the session and shared by its processes."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def cache_directory(session_directory):
    """The user's cache directory, shared by all tests and their subprocesses."""
    directory = session_directory / "cache"
    os.environ["JAXTICKETS_CACHE"] = str(directory)
    # Programs that one test compiles are there for the next, and for subprocesses, the small ones too.
    options = {"jax_compilation_cache_dir": str(directory / "xla"), "jax_persistent_cache_min_compile_time_secs": 0.1}
    for name, value in options.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)
    return directory


@pytest.fixture(scope="session")
def data_directory(session_directory):
    """Where TFDS prepares the embedded data, once per session."""
    return str(session_directory / "tfds")


@contextlib.contextmanager
def all_optimizations():
    """For programs that run long: they are compiled with all optimisations."""
    jax.config.update(QUICK, False)
    yield
    jax.config.update(QUICK, True)


@pytest.fixture
def optimized():
    """See `all_optimizations`."""
    with all_optimizations():
        yield


@pytest.fixture(scope="session")
def digits_metric(data_directory):
    """The feature networks of the digits' metric are in the cache, trained for fewer steps than in use.

    They tell digits apart less well, which no test with this fixture asks for.
    """
    with all_optimizations(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "STEPS", 60)
        FEATURE_NETWORKS["digits"].load(tiny("gan_digits", data_directory))


@pytest.fixture(scope="session")
def quick_runs(digits_metric):
    """For modules with whole runs: they need not train the feature networks of the digits' metric."""


@pytest.fixture(scope="session")
def base(digits_metric, data_directory):
    """`base(name)`: the setup of a tiny config. The session's other setups share what it has compiled (`like=`)."""
    return cache(lambda name: Setup(tiny(name, data_directory)))


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """The environment of a subprocess with a number of CPU devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | (SPARE_THREADS if devices > 1 else {}) | more


def load_config(name: str, variant: str = "quick"):
    """The config of `configs/<name>.py`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def tiny(name: str, data_directory: str, **changes):
    """A config that trains in about a second: narrow networks, few steps, three rounds."""
    config = load_config(name)
    config.data.dir = data_directory
    config.model.update(width=4, latent_size=4, image_size=16)
    config.train.update(batch_size=16, steps=12, epochs=0, log_every=4, checkpoint_every=5)
    config.prune.update(rounds=3, rate=0.5)
    config.eval.update(samples=64, batch_size=64)
    config.rewind_step = 3
    config.latent_pictures = False  # Two seconds.
    config.update_from_flattened_dict(changes)
    return config


def init(components, seed: int = 0):
    """Fresh `(params, batch_stats)`; compiled as one program, because operation by operation takes half a minute."""
    return jax.jit(partial(models.init, components))(jax.random.key(seed))


def without_references(setup: Setup) -> Setup:
    """The setup without references: its verdicts do not ask whether a few steps have taught the dense network."""
    setup.evaluator = setup.evaluator._replace(references=lambda *_: {})
    return setup


def open_run(setup: Setup, path: Path, seed: int | None = None) -> Run:
    """The run of a setup in the workdir `path`."""
    return Run(setup, Workdir(path), seed)


def finish(setup: Setup, path: Path, seed: int | None = None):
    """Runs or resumes an experiment, whose config must be valid, to its end: `(run, verdict)`."""
    config_lib.validate(setup.config, jax.local_device_count())
    with open_run(setup, path, seed) as run:
        METHODS[setup.config.experiment].recipe(run)
        return run, run.finish()


def untrained_run(config, path: Path, sparsities=(0.5, 0.9), winner: int | None = 1) -> Workdir:
    """The workdir of a run that looks finished: in each round the network of another seed, pruned at random."""
    networks, place = Networks(config), Workdir(path)
    place.create(config_lib.to_dict(config), networks.json_defaults)
    rows, initial = [], jax.jit(partial(models.init, networks.objective.components))
    for round_, sparsity in enumerate((0.0, *sparsities)):
        params, batch_stats = jax.device_get(initial(jax.random.key(round_)))
        params = jax.tree.map(lambda leaf: 8 * leaf if leaf.ndim > 1 else leaf, params)  # Else all images are grey.
        rng = np.random.default_rng(round_)
        masks = jax.tree.map(
            lambda mask, rng=rng, sparsity=sparsity: rng.random(mask.shape) >= sparsity, networks.dense_masks
        )
        trained.save(place.weights(round_), params, batch_stats, masks, networks.json_network)
        rows.append({"round": round_, "sparsity": mask_lib.sparsity(masks)})
        if round_ == 0:
            state = {"params": params, "batch_stats": batch_stats, "average": {}}
            snapshots.save(place.snapshot("init"), state)
    place.write_rounds(rows)
    place.write_verdict({"winning_round": winner})
    return place


def untimed_rounds(path: Path) -> list[dict[str, str]]:
    """The rows of a workdir's `rounds.csv`, as they are written, without what is measured in seconds."""
    with (path / "rounds.csv").open() as file:
        return [{name: cell for name, cell in row.items() if name not in TIMINGS} for row in csv.DictReader(file)]


def untimed_scalars(path: Path) -> list[dict]:
    """The rows of a workdir's `metrics.jsonl` without the seconds and the checksums, which cover them."""
    rows = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in ("seconds", "crc32")} for row in rows]


def digests(path: Path) -> dict[str, str]:
    """`{relative path: SHA-256}` of all files in a directory."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def assert_masked(tree, masks, before=None):
    """Every pruned weight is exactly zero, and every other leaf or weight is that of the tree `before`, if given."""
    leaves, masks = mask_lib.named_leaves(tree), mask_lib.named_leaves(masks)
    before = mask_lib.named_leaves(before) if before is not None else leaves
    assert leaves.keys() == before.keys()
    for path, leaf in leaves.items():
        keep = masks.get(path, np.ones(leaf.shape, bool))
        np.testing.assert_array_equal(leaf[keep], before[path][keep])
        assert np.all(leaf[~keep] == 0), path


def moments(state, player):
    """The trees of moments in a player's optimiser state, and how many steps these have seen."""
    is_moments = lambda node: isinstance(node, optax.ScaleByAdamState | optax.ScaleByRmsState)  # noqa: E731
    (node,) = filter(is_moments, jax.tree.leaves(state.opt_state[player], is_leaf=is_moments))
    return ([node.mu, node.nu], int(node.count)) if isinstance(node, optax.ScaleByAdamState) else ([node.nu], None)


class Killed(BaseException):
    """Stands for the process's end at an arbitrary point."""


class Dying:
    """Programs of a setup with which training ends with `Killed` after a number of steps, or in the call after it."""

    def __init__(self, programs, steps: int):
        self._programs, self._left = programs, steps

    def get(self, step: int, n: int = 1):
        program = self._programs.get(step, n)

        def step_and_die(*arguments):
            self._left -= n
            if self._left < 0:
                raise Killed
            return program(*arguments)

        return step_and_die

    def step_bytes(self):
        return self._programs.step_bytes()

    def release(self):
        self._programs.release()


def kill_after(setup: Setup, steps: int) -> None:
    """Ends training with `setup` with `Killed` after `steps` steps, or in the call that would do more."""
    setup.programs = Dying(setup.programs, steps)


def killing(monkeypatch, calls: int) -> None:
    """Ends the training of every setup with `Killed` in the call of a program after a number of calls of all."""
    get, left = Programs.get, [calls]

    def dying(self, *steps):
        program = get(self, *steps)

        def call_and_die(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return program(*arguments)

        return call_and_die

    monkeypatch.setattr(Programs, "get", dying)
