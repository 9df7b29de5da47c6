"""Runs one experiment: `python -m jaxtickets.main --config=configs/gan_digits.py [--config.field=value ...]`.

Instead of flags it takes the other commands of `python -m jaxtickets`, too.
"""

import os
from functools import partial

from jaxtickets import cli, ending
from jaxtickets.errors import UserError
from jaxtickets.hosts import Hosts, joined
from jaxtickets.local_paths import local_path
from jaxtickets.stopping import Stop, saved_by_interrupt

SWITCHES = {"dry_run": "Print what would run, with its FLOPs, memory, time and downloads, and start nothing."}
GOES_ON = "the same command goes on from the last saved state"
BEGINS_AGAIN = "nothing is saved yet, and the same command begins again"


def run(
    config,
    path: str | os.PathLike,
    from_round: int | None = None,
    stop: Stop | None = None,
    hosts: Hosts | None = None,
) -> dict:
    """Runs or resumes an experiment in the workdir `path`, writes its report and prints its table.

    Args:
      config: as a file of `configs/` makes it.
      from_round: a finished round, which is discarded with all later ones and run again.
      stop: once it is set, every training saves its state and ends. Without it an interrupt does the same.
      hosts: those that train with this one, which leads them.

    Returns:
      The verdict, as in `verdict.json`.

    Raises:
      KeyboardInterrupt: interrupted; a training has saved its state, and the same call goes on from there.
      StoppedError: `stop` is set.
      UserError: a mistake in the config, or the workdir is another run's, is in use or can't be written.
    """
    if stop is None:
        with saved_by_interrupt(Stop()) as stop:
            return run(config, path, from_round, stop, hosts)
    import jax  # Slow, as are the others; an interrupt while they are loaded is one line, too.

    from jaxtickets import config as config_lib
    from jaxtickets import lock, runs
    from jaxtickets.workdir import Workdir

    place = Workdir(local_path(path, "--workdir"))
    config_lib.validate(config, len(hosts.devices) if hosts else jax.local_device_count())
    place.check_writable()
    with lock.hold(place.lock, f"--workdir={place.path}", lost=stop.abort):
        verdict = runs.run(config, place.path, from_round, stop, hosts=hosts)
        page = conclude(config, place)
    from jaxtickets import report
    from jaxtickets.progress import show

    show(report.summary(place.path), f"\nReport: {page}")
    return verdict


def conclude(config, place):
    """Draws the pictures of a finished run (`Workdir`), and writes its report and those of its seeds.

    Returns:
      The path of its page.
    """
    from jaxtickets import latent_space, report, runs  # Matplotlib is slow; training does not wait for it.

    if config.latent_pictures:
        latent_space.draw(place)
    for one in runs.seed_paths(config, place.path).values():
        if one != place.path:
            report.build(one)
    return report.build(place.path)


def plan(config, path: str | os.PathLike) -> None:
    """Prints what a run in the workdir `path` would do; starts, downloads and writes nothing.

    JAX's compilation cache stays off in this process, also one that JAX_COMPILATION_CACHE_DIR names.

    Raises:
      UserError: the run would be refused before it reads data.
    """
    import jax

    from jaxtickets import runs
    from jaxtickets.progress import show

    jax.config.update("jax_enable_compilation_cache", False)
    show(runs.dry_run(config, local_path(path, "--workdir")))


def prepare() -> None:
    """Prepares this process for a run: its memory, its messages, and its compiled programs."""
    import logging

    from jaxtickets import allocator, cache

    allocator.keep_freed_memory()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # No retry messages of downloads that still run.
    cache.keep_compiled_programs()


def follow(config, stop: Stop, hosts: Hosts) -> None:
    """Takes part in the run of another host, which leads (docs/clusters.md)."""
    from jaxtickets import config as config_lib
    from jaxtickets import runs
    from jaxtickets.runs.following import follow

    config_lib.validate(config, len(hosts.devices))
    follow(runs.Setup(config, stopped=stop, hosts=hosts))


def _check_alone(**flags) -> None:
    """Refuses flags beside `--dry_run` that it does not take into account; None is one that is not given.

    Raises:
      UserError: one is given.
    """
    for name, value in flags.items():
        if value is not None:
            raise UserError(f"--{name}={value}: not allowed with --dry_run, which plans a run on this host as it is")


def _command(stop: Stop, started: list) -> None:
    """Runs what the command line says; a run that may be gone on with puts its workdir into `started`."""

    def called(config, path, dry_run, from_round, coordinator, hosts, host):
        path = path or cli.default_directory("runs")
        if dry_run:
            _check_alone(from_round=from_round, coordinator=coordinator, hosts=hosts, host=host)
            return plan(config, path)
        prepare()
        with joined(config, coordinator, hosts, host, stop) as together:
            if together is None or together.leads:
                started.append(path)
                run(config, path, from_round, stop, together)
            else:
                follow(config, stop, together)

    cli.start(
        called,
        SWITCHES,
        texts={"coordinator": "On several hosts: HOST:PORT of host 0, the same on all."},
        from_round="Discard this finished round and all later ones; run them again.",
        hosts="The number of hosts that train together.",
        host="Which of them this is, from 0 on.",
    )


def main() -> None:
    """The command line; see `cli.start`."""
    started = []

    def goes_on():
        from jaxtickets.workdir import Workdir

        return GOES_ON if any(Workdir(path).has_saved for path in started) else BEGINS_AGAIN if started else ""

    ending.run(partial(_command, started=started), goes_on)


if __name__ == "__main__":
    from jaxtickets.__main__ import command

    command()
