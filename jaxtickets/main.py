"""Runs one experiment: `python -m jaxtickets.main --config=configs/gan_digits.py [--config.field=value ...]`."""

import logging
import os
import sys
from pathlib import Path

import jax

from jaxtickets import allocator, cache, cli, runs
from jaxtickets import config as config_lib
from jaxtickets.workdir import Workdir


def run(config, path: str | os.PathLike, from_round: int | None = None) -> dict:
    """Runs or resumes an experiment in the workdir `path`, writes its report and prints its table.

    Args:
      config: as a file of `configs/` makes it.
      from_round: a finished round, which is discarded with all later ones and run again.

    Returns:
      The verdict, as in `verdict.json`.

    Raises:
      UserError: a mistake in the config, or the workdir is another run's or can't be written.
    """
    path = Path(path)
    config_lib.validate(config, jax.local_device_count())
    Workdir(path).check_writable()
    verdict = runs.run(config, path, from_round)
    from jaxtickets import report  # Imports Matplotlib, which is slow; training does not wait for it.

    for place in dict.fromkeys([*runs.seed_paths(config, path).values(), path]):
        page = report.build(place)
    print(report.summary(path), f"\nReport: {page}", sep="\n")
    return verdict


def _run(config, path, from_round):
    allocator.keep_freed_memory()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # No retry messages of downloads that are still running.
    cache.keep_compiled_programs()
    run(config, path or cli.default_directory("runs"), from_round)


def main() -> None:
    """The command line; see `cli.start`."""
    try:
        cli.start(_run, from_round="Discard this finished round and all later ones; run them again.")
    except KeyboardInterrupt:
        sys.exit(f"\n{cli.PREFIX}interrupted; the same command goes on from the last saved state")


if __name__ == "__main__":
    main()
