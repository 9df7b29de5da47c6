"""The command `jaxtickets`, also as `python -m jaxtickets`.

jaxtickets --config=gan_digits:quick [--config.field=value ...]   runs an experiment, as `jaxtickets.main` does
jaxtickets configs                                                lists the configs that come with the package
jaxtickets evaluate|flops|report|sample|tickets ...               the command of this name, with its own --help
jaxtickets reproduce|sweep ...                                    the same, for many runs
jaxtickets --version

`python -m jaxtickets` and `python -m jaxtickets.main` are the same command.
"""

import runpy
import sys

from jaxtickets import __version__, cli, ending, main, named_configs
from jaxtickets.errors import UserError
from jaxtickets.names import near
from jaxtickets.progress import show

MODULES = {
    **{name: f"jaxtickets.{name}" for name in ("evaluate", "flops", "report", "sample", "tickets")},
    **{name: f"launch.{name}" for name in ("reproduce", "sweep")},
}


def command() -> None:
    """Runs what the command line of this process names."""
    name = next(iter(sys.argv[1:]), "-")
    if name in MODULES:
        _run_module(MODULES[name], sys.argv[2:])
    elif name.startswith("-") and name != "--version":
        if name in cli.HELP:
            print(__doc__)
        main.main()
    ending.run(lambda _: _show(*sys.argv[1:]))


def sweep() -> None:
    """The command `jaxtickets-sweep`: `python -m launch.sweep`."""
    _run_module("launch.sweep", sys.argv[1:])


def _show(name, *others):
    if others and name in ("--version", "configs"):
        raise UserError(f"{others[0]}: not allowed after {name}, which takes nothing")
    if name == "--version":
        show(f"jaxtickets {__version__}")
    elif name == "configs":
        show(named_configs.table())
    else:
        known = ("configs", *MODULES)
        raise UserError(f"{name}: no such command{near(name, known)}; allowed are {', '.join(known)}, and flags")


def _run_module(name, arguments):
    sys.argv[1:] = arguments
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    command()
