"""Calls commands of the documentation in one process: `python documented_process.py < commands.json`.

Standard input has a list of `[module, arguments]`, standard output gets a list of `[exit status, standard error]`. Each
command goes through its own parsing and validation. `jaxtickets.main` ends where it would start to train, a sweep where
it would start a process, and `jaxtickets.flops` where it would count; the others do all that they do.
"""

import contextlib
import io
import json
import sys

import jax
from absl import flags

from jaxtickets import config as config_lib
from jaxtickets import ending, evaluate, flops, main, sample
from jaxtickets.report.__main__ import main as report
from jaxtickets.stopping import Stop
from launch import reproduce, slurm, sweep


def train_nothing():
    """Puts the validation of a run into the place of the run."""

    def validate(config, *_):
        config_lib.validate(config, jax.local_device_count())

    main.run = main.plan = main.follow = validate
    flops.compared = flops.table = lambda *_: ()
    main.prepare = lambda: None
    main.joined = lambda *_: contextlib.nullcontext()
    ending.run = lambda command, *_: command(Stop())  # It handles signals.
    slurm.check = lambda request: None  # It asks for SLURM.


# A run takes its arguments from `sys.argv`, as absl's flags do.
CALLS = {
    "jaxtickets.main": lambda arguments: main.main(),
    "jaxtickets.flops": lambda arguments: flops.run(),
    "jaxtickets.evaluate": evaluate.main,
    "jaxtickets.sample": sample.main,
    "jaxtickets.report": report,
    "launch.sweep": lambda arguments: sweep.main(["--dry_run", *arguments]),
    "launch.reproduce": lambda arguments: reproduce.main(["--dry_run", *arguments]),
}


def call(module, arguments):
    """`[exit status, standard error]` of a command; its flags are forgotten afterwards."""
    sys.argv, known, told = [module, *arguments], set(flags.FLAGS), io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = CALLS[module](arguments)
        except SystemExit as end:
            status = end.code
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    return [status or 0, told.getvalue()]


if __name__ == "__main__":
    train_nothing()
    print(json.dumps([call(module, arguments) for module, arguments in json.load(sys.stdin)]))
