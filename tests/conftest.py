"""Every test session keeps its data and its cache in directories of its own."""

import importlib.util
import logging
import os
from functools import partial
from pathlib import Path

import absl.logging
import jax
import pytest

from jaxtickets import models

ROOT = Path(__file__).parent.parent

absl.logging.set_verbosity(absl.logging.WARNING)
logging.getLogger("absl").setLevel(logging.WARNING)


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory):
    """The user's cache directory, empty at the start of the session and shared by its tests and their subprocesses."""
    directory = tmp_path_factory.mktemp("cache")
    os.environ["JAXTICKETS_CACHE"] = str(directory)
    # Programs that one test compiles are there for the next, and for subprocesses.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory / "xla")
    jax.config.update("jax_compilation_cache_dir", str(directory / "xla"))
    return directory


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory):
    """Where TFDS prepares the embedded data, once a session."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="module")
def quick_compilation():
    """XLA takes many times longer to optimise these programs than they take to run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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
    config.update_from_flattened_dict(changes)
    return config


def init(components, seed: int = 0):
    """Fresh `(params, batch_stats)`; compiled as one program, because operation by operation takes half a minute."""
    return jax.jit(partial(models.init, components))(jax.random.key(seed))
