"""Ticket files: shows, verifies, exports and unpacks them.

python -m jaxtickets.tickets info FILE [--json]                               what is in it
python -m jaxtickets.tickets verify FILE [FILE ...]                           status 1 if one is damaged or not nested
python -m jaxtickets.tickets export FILE --to=torch|stablehlo --out=FILE      for other programs
python -m jaxtickets.tickets extract FILE --out=DIR [--card [--license=ID]]   its parts as files; --card: for a hub

FILE is a ticket.safetensors, or the directory of a card. docs/tickets.md describes all files.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags

from jaxtickets import cli, ending, files
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.names import near
from jaxtickets.progress import show

TEXTS = {
    "to": "export: torch, a state dict in safetensors; or stablehlo, the generator as a function.",
    "out": "export: the file that is written. extract: the directory.",
    "license": "extract --card: the license of the model, by its identifier on the hub (default: other).",
}
SWITCHES = {
    "json": "info: print JSON.",
    "card": "extract: write README.md, config.json, model.safetensors, a picture and the ticket, as hubs want them.",
    "overwrite": "Replace files that are there.",
}
OF_COMMANDS = {
    "info": ("json",),
    "verify": (),
    "export": ("to", "out", "overwrite"),
    "extract": ("out", "card", "license", "overwrite"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line (None is this process's); returns the exit status."""
    defined = flags.FlagValues()
    defined.set_gnu_getopt()  # Flags may follow files.
    for name, text in TEXTS.items():
        flags.DEFINE_string(name, None, text, flag_values=defined)
    for name, text in SWITCHES.items():
        flags.DEFINE_bool(name, False, text, flag_values=defined)
    return cli.call(partial(_run, defined), defined, arguments, __doc__)


def _run(given, words):
    if not words or words[0] not in COMMANDS:
        known = ", ".join(COMMANDS)
        what = f"{words[0]}: no such command{near(words[0], COMMANDS)}" if words else "no command is given"
        raise UserError(f"{what}; allowed are {known}")
    command, paths = words[0], words[1:]
    for name in (*TEXTS, *SWITCHES):
        if given[name].present and name not in OF_COMMANDS[command]:
            takes = ", ".join(f"--{one}" for one in OF_COMMANDS[command]) or "none"
            raise UserError(f"--{name}: not a flag of {command}; allowed are: {takes}")
    if not paths or (len(paths) > 1 and command != "verify"):
        raise UserError(f"{command}: {len(paths)} files are given; allowed is one{' or more' * (command == 'verify')}")
    return COMMANDS[command](given, [local_path(path, "FILE") for path in paths])


def _info(given, paths):
    from jaxtickets.tickets import content, info

    with content.reading(paths[0]):  # A stranger's metadata may be of any type.
        about = info.facts(paths[0])
        text = files.json_bytes(about).decode() if given.json else info.summary(about)
    show(text)


def _verify(given, paths):
    from jaxtickets.tickets import info

    lines, is_well = info.verify(paths)
    show("\n".join(lines))
    return 0 if is_well else 1


def _export(given, paths):
    from jaxtickets.tickets import export

    if given.to not in export.FORMATS:
        raise UserError(f"--to={given.to or ''}: allowed are {', '.join(export.FORMATS)}")
    out = _out(given)
    for line in export.export(paths[0], given.to, out, given.overwrite):
        show(line)


def _extract(given, paths):
    from jaxtickets.tickets import extract

    if given["license"].present and not given.card:
        raise UserError("--license: allowed with --card")
    license_ = (given.license or "other") if given.card else None
    for path in extract.extract(paths[0], _out(given), given.overwrite, license_):
        show(str(path))


def _out(given) -> Path:
    if given.out is None:
        raise UserError("--out is missing; give the place where files are written")
    return local_path(given.out, "--out")


COMMANDS = {"info": _info, "verify": _verify, "export": _export, "extract": _extract}


if __name__ == "__main__":
    ending.run(lambda _: main())
