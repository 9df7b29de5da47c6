"""The grid of a sweep: fields with several values each, and the points that they span."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxtickets.errors import UserError

MAX_NAME = 200
CLOSING = {"(": ")", "[": "]", "{": "}"}


class Point(NamedTuple):
    """One point of the grid: the name of its directory, and its config values as text."""

    name: str
    values: dict[str, str]


def grid_points(grid: Sequence[str]) -> list[Point]:
    """Every combination of the values in entries `field=value,value,...`; the last field varies fastest.

    Raises:
      UserError: an entry can't be read, a field is given twice, or two points would share a directory.
    """
    axes: dict[str, list[str]] = {}
    for entry in grid:
        field, equals, values = entry.partition("=")
        field = field.strip().removeprefix("config.")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", field):
            raise UserError(f"--grid={entry}: write FIELD=VALUE,VALUE,... such as prune.rate=0.2,0.5")
        if field in axes:
            raise UserError(f"--grid={entry}: the field {field} is given twice")
        axes[field] = split_values(values)
    if not axes:
        raise UserError("--grid is missing: write --grid=FIELD=VALUE,VALUE,... once for each field that varies")
    points: dict[str, Point] = {}
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        name = directory_name(values)
        if name in points:
            raise UserError(f"--grid: {values} and {points[name].values} would both be stored in {name}")
        if len(name) > MAX_NAME:
            raise UserError(f"--grid: the directory name {name} is longer than {MAX_NAME} characters")
        points[name] = Point(name, values)
    return list(points.values())


def split_values(text: str) -> list[str]:
    """Splits a text at the commas outside brackets and quotes.

    Raises:
      UserError: a value is empty, or a bracket or quote is not closed.
    """
    values, start, closing, quote = [], 0, [], ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in CLOSING:
            closing.append(CLOSING[character])
        elif character in CLOSING.values():
            if not closing or closing.pop() != character:
                raise UserError(f"--grid: unmatched {character} in {text}")
        elif character == "," and not closing:
            values.append(text[start:position].strip())
            start = position + 1
    values.append(text[start:].strip())
    if quote or closing:
        raise UserError(f"--grid: unmatched {quote or 'bracket'} in {text}")
    if not all(values):
        raise UserError(f"--grid: an empty value in {text!r}")
    return values


def directory_name(values: dict[str, str]) -> str:
    """`seed=0,prune.rate=0.2`, with an underscore for characters that a file system may refuse.

    Fields with a single value are named too, so that names stay the same when a grid is extended.
    """
    return ",".join(f"{field}={re.sub(r'[^A-Za-z0-9.+-]+', '_', value).strip('_')}" for field, value in values.items())
