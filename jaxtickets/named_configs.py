"""The config files that come with the package, by name: `--config=gan_digits` and `--config=gan_digits:quick`.

They are the files of `configs/` in a clone, and of `jaxtickets/configs/` where the package is installed.
"""

import ast
import os
import textwrap
from pathlib import Path

from jaxtickets.errors import UserError
from jaxtickets.names import near

WIDTH = 100  # Characters per line of the list.
_HERE = Path(__file__).parent
LIST = "`jaxtickets configs` lists the names"
ALLOWED = f"allowed is the path of a config file, or a name: {LIST}"


def directory() -> Path:
    """The directory of the config files."""
    installed = _HERE / "configs"
    return installed if installed.is_dir() else _HERE.parent / "configs"


def names() -> list[str]:
    """The names of all config files."""
    return sorted(path.stem for path in directory().glob("*.py") if not path.stem.startswith("_"))


def find(config: str) -> str:
    """`FILE[:VARIANT]` of what `--config` names: a file, or the name of one that comes with the package.

    Raises:
      UserError: there is neither.
    """
    file, colon, variant = config.partition(":")
    if os.path.isfile(file):  # Unlike a path's own question, it is no error for a name that is too long.
        return config
    if file in names():
        return f"{directory() / file}.py{colon}{variant}"
    suggestion = near(Path(file).stem, names())
    raise UserError(f"--config={file}: no such file and no such name{suggestion}; {ALLOWED}")


def table() -> str:
    """All names, one per line, each with the first line of its file as far as it fits."""
    longest = max(map(len, names()))
    lines = {name: _first_line(directory() / f"{name}.py") for name in names()}
    return "\n".join(
        f"  {name:<{longest}}  {textwrap.shorten(line, WIDTH - longest - 4, placeholder=' ...')}"
        for name, line in lines.items()
    )


def _first_line(path):
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
