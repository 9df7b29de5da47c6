"""Runs that train in one program, each in its own workdir: a portfolio of seeds, scores, scopes and sparsities.

`launch.sweep --together=k` starts this program for each group of points whose steps are the same:

    python -m jaxtickets.portfolio FLAGS -- FLAGS -- ...

Each FLAGS are those of `jaxtickets.main` for one run. A run that fails leaves the others going; the exit status is then
that of the failures if they have one in common, else 1.
"""

import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import flags
from absl import logging as absl_logging

from jaxtickets import cli, ending, main
from jaxtickets.errors import UserError
from jaxtickets.progress import say, speaking_as
from jaxtickets.stopping import Stop, StoppedError

SEPARATOR = "--"


def key(config):
    """What the configs of runs that can train together have in common; None: this one trains alone.

    All that decides a program, and the steps at which something is done between programs.
    """
    from jaxtickets import config as config_lib
    from jaxtickets.runs.setup import programmed

    chosen = config_lib.method(config)
    if config.seeds > 1 or config.tickets_per_device > 1 or chosen.search_steps or chosen.apart(config):
        return None
    images = 1000 * config.train.batch_size  # Of the same data there are as many, whatever their number.
    return (
        programmed(config),
        config_lib.make_timeline(config, images),
        config.train.log_every,
        config.train.checkpoint_every,
    )


def run(configs: Sequence, paths: Sequence[Path], stop: Stop | None = None) -> list[Exception | None]:
    """Runs or resumes experiments of one `key` in their workdirs; returns for each why it has failed, or None.

    A run that fails leaves the others going. Runs that are finished keep their seat, so that the others have the same
    bits as beside them.

    Raises:
      StoppedError: `stop` is set.
      UserError: they do not fit into memory together.
    """
    import jax

    from jaxtickets import config as config_lib
    from jaxtickets import lock, runs
    from jaxtickets.progress import bars
    from jaxtickets.runs import memory
    from jaxtickets.runs.meeting import Meeting, Seat
    from jaxtickets.workdir import Workdir

    for config in configs:
        config_lib.validate(config, jax.local_device_count())
    stop, failures = stop or Stop(), [None] * len(configs)
    first = runs.Setup(configs[0], stopped=stop)
    memory.check(first, len(configs), "--together")
    meeting = Meeting(len(configs), stop)

    def run_one(number, shown_in):
        place = Workdir(paths[number])

        def make_setup(config):
            with meeting.alone:  # What is made of the data is made once.
                return runs.Setup(config, like=first, seat=Seat(meeting, number))

        try:
            place.check_writable()
            with (
                speaking_as(f"{place.path.name}: "),
                lock.hold(place.lock, f"--workdir={place.path}", lost=stop.abort),
            ):
                runs.run(configs[number], place.path, stopped=stop, make_setup=make_setup, shown_in=shown_in)
        except Exception as error:
            failures[number] = error
        except BaseException:
            stop.set()
            raise
        finally:
            meeting.leave(number)

    with bars() as shown_in, ThreadPoolExecutor(len(configs)) as pool:
        try:
            for future in [pool.submit(run_one, number, shown_in) for number in range(len(configs))]:
                future.result()
        except BaseException:  # The pool waits for all its threads.
            stop.set()
            raise
    causes = [error for error in failures if error is not None]
    if causes and all(isinstance(error, StoppedError) for error in causes):
        raise StoppedError
    for config, path, error in zip(configs, paths, failures, strict=True):
        if error is None:
            place = Workdir(path)
            with lock.hold(place.lock, f"--workdir={place.path}"):
                main.conclude(config, place)
    return failures


def _command(stop: Stop) -> int:
    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs every file, and every error that it raises, too.
    flags.FLAGS(sys.argv[:1])  # Libraries read flags of their own.
    each = [[]]
    for argument in sys.argv[1:]:
        each = [*each, []] if argument == SEPARATOR else [*each[:-1], [*each[-1], argument]]
    try:
        configs, paths = zip(*map(cli.read_run, each), strict=True)
        main.prepare()
        failures = run(configs, paths, stop)
    except UserError as error:
        return cli.fail(error)
    for path, error in zip(paths, failures, strict=True):
        with speaking_as(f"{path.name}: "):
            if isinstance(error, UserError):
                say(str(error))
            elif error is not None:
                say(ending.failure(error) or "".join(traceback.format_exception(error)))
    statuses = {getattr(error, "status", ending.FAILURE) for error in failures if error is not None}
    return statuses.pop() if len(statuses) == 1 else ending.FAILURE if statuses else 0


if __name__ == "__main__":
    ending.run(_command, lambda: "the same command goes on")
