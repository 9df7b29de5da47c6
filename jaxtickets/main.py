"""Runs one experiment: `python -m jaxtickets.main --config=configs/gan_digits.py [--config.field=value ...]`."""

import contextlib
import logging
import re
import sys
from pathlib import Path

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from jaxtickets import allocator, cache
from jaxtickets import config as config_lib
from jaxtickets.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with `:quick` for its small variant.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where results go (default: runs/<config>[-<variant>]).")


def parse_flags(argv):
    """absl's parsing, with one line that names the field and what is allowed for whatever the user got wrong."""
    for argument in argv[1:]:
        if match := re.match(r"--?config\.([^=]+)", argument):
            config_lib.check_field(match[1])
        elif (match := re.match(r"--?config=([^:]+)", argument)) and not Path(match[1]).is_file():
            raise UserError(f"--config={match[1]}: no such file; allowed are the files of configs/")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        lines = str(error).strip().splitlines()
        if match := re.match(r"flag --config\.([^=]+)=(.*?): ", lines[0]):
            config_lib.refuse(match[1], match[2], config_lib.FIELDS[match[1]][1])
        raise UserError(lines[-1].removeprefix("jaxtickets.errors.UserError: ")) from None


def run(config, path: Path, from_round: int | None = None) -> dict:
    """Runs or resumes the experiment in the workdir `path`, makes its report, prints its table; returns the verdict."""
    config_lib.validate(config, jax.local_device_count())
    config_lib.check_writable(path)
    from jaxtickets import experiments  # Orbax is slow to import, and a mistake in the config is told before.

    if from_round is not None:
        experiments.go_back(config, path, from_round)
    verdict = experiments.run(config, path)
    from jaxtickets import report  # Matplotlib is slow to import, and nothing waits for it here.

    for place in dict.fromkeys([*experiments.seed_paths(config, path).values(), path]):
        page = report.build(place)
    print(report.summary(path), f"\nReport: {page}", sep="\n")
    return verdict


def start(function, **whole_numbers: str) -> None:
    """Calls `function(config, workdir or None, <whole numbers by name>)` with what the command line says.

    whole_numbers: the help of each flag that the command has besides --config and --workdir; without it it is None. A
    user's mistake is one line on standard error and exit status 2.
    """
    numbers = {name: flags.DEFINE_integer(name, None, text) for name, text in whole_numbers.items()}

    def called(argv):
        allowed = ", ".join(f"--{name}" for name in ("config", "workdir", *numbers))
        if len(argv) > 1:
            raise UserError(f"{argv[1]}: not a flag; allowed are {allowed} and --config.<field>")
        if CONFIG.value is None:
            raise UserError("--config is missing; give a file of configs/, for example --config=configs/gan_digits.py")
        absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells of every file at the default.
        path = Path(WORKDIR.value) if WORKDIR.value else None
        function(CONFIG.value, path, **{name: flag.value for name, flag in numbers.items()})

    try:
        app.run(called, flags_parser=parse_flags)
    except UserError as error:
        print(f"jaxtickets: {error}", file=sys.stderr)
        sys.exit(2)


def _cache_programs():
    """Compiled programs are kept in the user's cache directory, unless JAX_COMPILATION_CACHE_DIR names another."""
    if not jax.config.jax_compilation_cache_dir:
        with contextlib.suppress(UserError):  # One that can't be written costs time, and no run.
            jax.config.update("jax_compilation_cache_dir", str(cache.directory("xla")))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # A start compiles many small ones.


def _run(config, path, from_round):
    allocator.keep_freed_memory()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # Downloads that go on after one has failed tell of retries.
    _cache_programs()
    name, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    default = Path("runs") / "-".join(filter(None, [Path(name).stem, variant]))
    run(config, path or default, from_round)


def main() -> None:
    """The command line; see `start`."""
    try:
        start(_run, from_round="Discard this finished round and all later ones; run them again.")
    except KeyboardInterrupt:
        sys.exit("\njaxtickets: interrupted; the same command goes on from the last saved state")


if __name__ == "__main__":
    main()
