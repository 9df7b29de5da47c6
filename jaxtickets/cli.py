"""Command lines: flags, errors of one line, `--help`, and the list of all config fields.

A user's mistake is one line on standard error, which begins with `jaxtickets: `, and exit status 2.
"""

import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from jaxtickets import named_configs
from jaxtickets.ending import PREFIX
from jaxtickets.errors import UserError
from jaxtickets.fields import refuse
from jaxtickets.local_paths import local_path
from jaxtickets.names import near

HELP = ("--help", "-help", "-h", "-?", "--helpshort")
CONFIG_HELP = "The name of a config or the path of a config file, with `:quick` for its small variant."
WORKDIR_HELP = "The directory of the run (where a run is started, the default is runs/<config>[-<variant>])."
NO_CONFIG = f"--config is missing, for example --config=gan_digits:quick; {named_configs.ALLOWED}"
WIDTH = 100  # Characters per line of --help.
PAGE_HEAD = """# The fields of a config

`jaxtickets.cli.fields_page()` generates this page from the declarations of the fields. A flag changes a field:
`--config.prune.rate=0.3`, or `--config.prune.components="('generator',)"` for a tuple. A field that nothing in the
chosen config reads must keep its default."""


def fail(error: UserError) -> int:
    """Prints a user's mistake, or what else is one line, on standard error; returns the exit status."""
    print(f"{PREFIX}{error}", file=sys.stderr)
    return error.status


def call(
    function: Callable[[list[str]], int | None],
    defined: flags.FlagValues,
    arguments: Sequence[str] | None,
    usage: str,
) -> int:
    """Calls `function` with the arguments that are no flags, once the flags are parsed.

    Args:
      function: returns an exit status, or None for success.
      defined: the command's flags, whose values are set here.
      arguments: without the program's name; None is this process's.
      usage: what the command does, for `--help`.

    Returns:
      The exit status: that of `function`, or of a `UserError`: 2 for a mistake.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if _wants_help(arguments):
        print(_usage(usage, defined, list(defined)))
        return 0
    try:
        return function(_parsed(defined, [sys.argv[0], *arguments])[1:]) or 0
    except UserError as error:
        return fail(error)


def start(
    function: Callable,
    /,
    switches: Mapping[str, str] = MappingProxyType({}),
    texts: Mapping[str, str] = MappingProxyType({}),
    **whole_numbers: str,
) -> NoReturn:
    """Calls `function(config, workdir or None, <other flags by name>)` with what the command line says, and exits.

    Args:
      switches: the help of each flag that is given or not; it is True or False.
      texts: the help of each flag whose value is a text, None where the command line does not give it.
      whole_numbers: the help of each flag that the command has beside --config and --workdir. A whole number that the
        command line does not give is None.
    """
    from ml_collections import config_flags  # Commands that read no config do without it.

    names = ["config", "workdir", *switches, *texts, *whole_numbers]
    config = config_flags.DEFINE_config_file("config", None, CONFIG_HELP)
    workdir = flags.DEFINE_string("workdir", None, WORKDIR_HELP)
    others = {name: flags.DEFINE_bool(name, False, text) for name, text in switches.items()}
    others |= {name: flags.DEFINE_string(name, None, text) for name, text in texts.items()}
    others |= {name: flags.DEFINE_integer(name, None, text) for name, text in whole_numbers.items()}

    def parse(argv):
        if _wants_help(argv[1:]):
            if configs := [argument for argument in argv if re.match(r"--?config=", argument)]:
                _parse_with_config([argv[0], *configs])  # The file may bring fields of its own.
            usage = sys.modules[function.__module__].__doc__
            print(_usage(usage, flags.FLAGS, names), configs_help(), fields_help(), sep="\n\n")
            sys.exit()
        return _parse_with_config(argv)

    def called(argv):
        if len(argv) > 1:
            allowed = ", ".join(f"--{name}" for name in names)
            raise UserError(f"{argv[1]}: not a flag; allowed are {allowed} and --config.<field>")
        if not flags.FLAGS["config"].present:
            print(configs_help(), file=sys.stderr)
            raise UserError(NO_CONFIG)
        _check_returned(config.value, config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0])
        absl_logging.set_verbosity(absl_logging.FATAL)  # The flags have set it to their default.
        path = local_path(workdir.value, "--workdir") if workdir.value else None
        function(config.value, path, **{name: flag.value for name, flag in others.items()})

    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs every file, and every error that it raises, too.
    try:
        app.run(called, flags_parser=parse)
    except UserError as error:
        sys.exit(fail(error))


def default_directory(parent: str, config: str | None = None) -> Path:
    """The directory in `parent` that is named after a config: `gan_digits`, or `gan_digits-quick` for a variant.

    Args:
      config: `FILE[:VARIANT]`; None is the --config of this process (see `start`).
    """
    if config is None:
        from ml_collections import config_flags

        config = config_flags.get_config_filename(flags.FLAGS["config"])
    name, _, variant = config.partition(":")
    return Path(parent) / "-".join(filter(None, [Path(name).stem, variant]))


def read_run(arguments: Sequence[str]) -> tuple[Any, Path]:
    """The config and the workdir that flags of `jaxtickets.main` name.

    Raises:
      UserError: they can't be understood, or one is missing.
    """
    from ml_collections import config_flags

    defined, argv = flags.FlagValues(), [sys.argv[0], *arguments]
    config = config_flags.DEFINE_config_file("config", None, CONFIG_HELP, flag_values=defined, sys_argv=argv)
    workdir = flags.DEFINE_string("workdir", None, WORKDIR_HELP, flag_values=defined)
    if others := _parse_with_config(argv, defined)[1:]:
        raise UserError(f"{others[0]}: not a flag; allowed are --config, --workdir and --config.<field>")
    if not defined["config"].present or not workdir.value:
        raise UserError("--config or --workdir is missing")
    _check_returned(config.value, config_flags.get_config_filename(defined["config"]).partition(":")[0])
    return config.value, local_path(workdir.value, "--workdir")


def _parse_with_config(argv, defined=flags.FLAGS):
    """Parses flags, the config's among them; returns the other arguments.

    Raises:
      UserError: the config file, a field of the config, its value or another flag can't be understood.
    """
    from jaxtickets import config as config_lib

    argv = _without_repeated(_with_local_config(argv))
    fields = [match[1] for argument in argv[1:] if (match := re.match(r"--?config\.([^=]+)", argument))]
    files = [match[1] for argument in argv[1:] if (match := re.match(r"--?config=([^:]*)", argument))]
    try:
        return _parsed(defined, argv)
    except Exception as error:
        # The names of fields are checked only now: a config file may import plug-ins that bring fields of their own.
        for field in fields:
            config_lib.check_field(field)
        if isinstance(error, UserError) or not files:
            raise
        raise UserError(f"--config={files[-1]}: {failure_in(files[-1], error)}") from None


def _with_local_config(argv):
    """The arguments with the path of the config file in the place of its name, or expanded.

    Raises:
      UserError: there is no such file, and no such name.
    """
    for at in [at for at, one in enumerate(argv[1:-1], start=1) if one in ("--config", "-config")][::-1]:
        argv = [*argv[:at], f"--config={argv[at + 1]}", *argv[at + 2 :]]
    value = re.compile(r"(--?config=)(.*)", re.DOTALL)
    return [f"{match[1]}{_config_file(match[2])}" if (match := value.match(one)) else one for one in argv]


def _config_file(value):
    return named_configs.find(str(local_path(value, "--config")) if value else value)


def _without_repeated(argv):
    """The arguments with the last value of each field: of a tuple, ml_collections would take all values together."""
    fields = [match[1] if (match := re.match(r"--?(config\.[^=]+)=", one)) else None for one in argv]
    return [one for at, one in enumerate(argv) if fields[at] is None or fields[at] not in fields[at + 1 :]]


def _check_returned(value, file):
    """Refuses what a config file returns if that is no config."""
    from ml_collections import ConfigDict

    if not isinstance(value, ConfigDict):
        try:
            hasattr(value, "items")  # Raises the OSError of a file that has raised one.
        except OSError as error:
            raise UserError(f"--config={file}: {failure_in(file, error)}") from None
        raise UserError(f"--config={file}: get_config returns {value!r:.40}; allowed is a ConfigDict")


def failure_in(file, error):
    """What is wrong in a config file, from the exception that it has raised."""
    if isinstance(error, AttributeError) and error.name == "get_config" and isinstance(error.obj, ModuleType):
        return "has no function get_config, which returns the config (see the files of configs/)"
    while isinstance(error, OSError) and isinstance(error.__cause__, OSError):  # Kept until the config is read.
        error = error.__cause__
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines, text = [error.lineno], error.msg
    else:
        text = " ".join(str(error).split())
    return ": ".join([*(f"line {line}" for line in lines[-1:]), type(error).__name__, text]).removesuffix(": ")


def _parsed(defined, argv):
    """Sets the values of flags; returns the program's name and the arguments that are no flags."""
    try:
        return defined(argv)
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"--{error.flagname}: no such flag{near(error.flagname, defined)}; --help lists all") from None
    except flags.Error as error:
        text = str(error).strip()
        # Of a config file's own error, the flag's has only the text, and a copy of the traceback.
        if text.startswith("flag --config=") and (copy := error.__context__) and copy.__context__:
            raise copy.__context__ from None
    if match := re.match(r"flag --config\.([^=]+)=(.*?): ", text):
        from jaxtickets import config as config_lib

        config_lib.check_field(match[1])
        check = config_lib.fields()[match[1]].check
        refuse(match[1], match[2], check.allowed(), check.names())
    for problem, allowed in (("invalid literal for int", "a whole number"), ("could not convert string", "a number")):
        if match := re.match(rf"flag --(\w+)=(.*?): {problem}", text):
            raise UserError(f"--{match[1]}={match[2]}: allowed is {allowed}")
    raise UserError(text.splitlines()[-1])


# Help.


def configs_help() -> str:
    """The configs that come with the package, one per line."""
    return f"Configs, each also as NAME:quick, a size for two CPU cores:\n{named_configs.table()}"


def fields_help() -> str:
    """All fields of the config as text: default, meaning, allowed values, and readers."""
    from jaxtickets import config as config_lib

    lines = ["Fields of the config, each with its default; --config.<field>=<value> changes one:"]
    for name, field in config_lib.fields().items():
        about = f"{_meaning(field)} Allowed: {field.check.allowed()}. Read by: {config_lib.readers(name)}."
        lines += ["", f"  {name} = {field.default!r}", _indented(about)]
    return "\n".join(lines)


def fields_page() -> str:
    """All fields of the config as the Markdown page docs/fields.md: one table per group of fields.

    This writes the page: `python -c "from jaxtickets import cli; print(cli.fields_page(), end='')" > docs/fields.md`.
    """
    from jaxtickets import config as config_lib

    groups = {}
    for name, field in config_lib.fields().items():
        cells = (f"`{name}`", f"`{field.default!r}`", field.check.allowed(), _meaning(field), config_lib.readers(name))
        row = " | ".join(cell.replace("|", "\\|") for cell in cells)
        groups.setdefault(name.rpartition(".")[0], []).append(f"| {row} |")
    lines = [PAGE_HEAD]
    for group, rows in groups.items():
        lines += ["", f"## {group or 'The experiment'}", ""]
        lines += ["| field | default | allowed | meaning | read by |", "|---|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _meaning(field):
    """The help of a field, how it may change in a started run, and what older runs go on with."""
    change = f" {field.may_change.help}" if field.may_change else ""
    before = "" if field.before is None else f" Runs from before this field go on with {field.before!r}."
    return f"{field.help}{change}{before}"


def _wants_help(arguments):
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(argument in HELP for argument in before)


def _usage(text, defined, names):
    lines = [text.strip(), "", "Flags:"]
    for name in names:
        flag = defined[name]
        default = "" if flag.default in (None, []) else f" (default: {flag.default})"
        lines += [f"  --{name}", _indented(" ".join(f"{flag.help}{default}".split()))]
    return "\n".join(lines)


def _indented(text):
    return textwrap.fill(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)
