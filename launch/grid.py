"""The values of a sweep: fields with several values each, and the combinations of them that are run."""

import itertools
import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxtickets.errors import UserError
from jaxtickets.names import near

CLOSING = {"(": ")", "[": "]", "{": "}"}
EXAMPLE = "prune.rate=0.2,0.5, seed=0..4 or, with --sample, optimizer.learning_rate=log(1e-4,1e-2)"
MOST_VALUES = 10_000  # Of a range, and of a sweep.
DIGITS = 3  # Of a number that is drawn: its directory is to be readable.
# Each with what it allows; `log` and `logint` are uniform in the logarithm.
DISTRIBUTIONS = {
    "uniform": "LOW < HIGH",
    "log": "0 < LOW < HIGH",
    "int": "whole numbers LOW < HIGH, both included",
    "logint": "whole numbers 0 < LOW < HIGH, both included",
}
TRIES = 100  # Per point that is asked for, until one is drawn that is not there yet.


class Drawn(NamedTuple):
    """A distribution of numbers from `low` to `high`; its name is one of `DISTRIBUTIONS`."""

    name: str
    low: float
    high: float

    def draw(self, source: random.Random) -> str:
        """A number of it, as text; one that is not whole is rounded to `DIGITS` digits."""
        if self.name == "int":
            return str(source.randint(int(self.low), int(self.high)))
        if self.name == "uniform":
            return f"{source.uniform(self.low, self.high):.{DIGITS}g}"
        above = self.high + 1 if self.name == "logint" else self.high  # A whole number stands for all up to the next.
        value = math.exp(source.uniform(math.log(self.low), math.log(above)))
        return str(min(int(value), int(self.high))) if self.name == "logint" else f"{value:.{DIGITS}g}"


def combinations(
    grid: Sequence[str], zipped: Sequence[str] = (), sample: int | None = None, sample_seed: int = 0
) -> list[dict[str, str]]:
    """The values, as text by field, of each point; the last field varies fastest.

    Args:
      grid: entries `field=value,value,...`, of which every combination is a point, or with `sample` some.
      zipped: entries of the same form and of one length, which advance together; every one of `grid`'s points is run
        with each of their values.
      sample: the number of points that are drawn from `grid`. A larger number draws the same points and more.
      sample_seed: another one draws other points.

    Raises:
      UserError: an entry can't be read, a field is given twice, or there are too few different points to draw.
    """
    axes, together = _entries(grid, "--grid"), _entries(zipped, "--zip")
    if twice := sorted(axes.keys() & together.keys()):
        raise UserError(f"--zip={twice[0]}=...: the field {twice[0]} is given twice, in --grid too")
    lengths = {field: len(values) for field, values in together.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{field} has {length}" for field, length in lengths.items())
        raise UserError(f"--zip: its fields advance together and need the same number of values; {counts}")
    if sample is None:
        _refuse_distributions(axes, "--grid", "with --sample=N")
        found = list(_products(axes))
    else:
        found = _draws(axes, sample, sample_seed)
    _refuse_distributions(together, "--zip", "in --grid, with --sample=N")
    rows = [dict(zip(together, row, strict=True)) for row in zip(*together.values(), strict=True)] or [{}]
    return [values | row for values in found for row in rows]


def _entries(entries, flag):
    """`{field: values}` of `field=value,value,...`; a value is a text or a `Drawn`."""
    axes: dict[str, list] = {}
    for entry in entries:
        field, equals, text = entry.partition("=")
        field = field.strip().removeprefix("config.")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", field):
            raise UserError(f"{flag}={entry}: write FIELD=VALUE,VALUE,... such as {EXAMPLE}")
        if field in axes:
            raise UserError(f"{flag}={entry}: the field {field} is given twice")
        where = f"{flag}={entry}"
        axes[field] = values = [each for value in split_values(text, where) for each in _expanded(value, flag)]
        if flag == "--grid" and len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise UserError(f"{where}: the value {twice} is given twice")
    return axes


def _expanded(value, flag):
    """The values that one text stands for: those of a range, or a distribution; else itself."""
    if match := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", value):
        low, high = map(int, match.groups())
        if low > high:
            raise UserError(f"{flag}: the range {value} is empty; write LOW..HIGH, here {high}..{low}")
        if high - low >= MOST_VALUES:
            raise UserError(f"{flag}: the range {value} has {high - low + 1} values; allowed are at most {MOST_VALUES}")
        return [str(number) for number in range(low, high + 1)]
    if (match := re.fullmatch(r"([A-Za-z_]\w*)\((.*)\)", value)) and _is_distribution(*match.groups()):
        return [_distribution(*match.groups(), f"{flag}: the distribution {value}")]
    return [value]


def _is_distribution(name, inside):
    """Whether `name(inside)` is meant as one, perhaps misspelt: a text such as a path may have brackets too."""
    number = r"\s*[-+]?[\d.]+(e[-+]?\d+)?\s*"
    return name in DISTRIBUTIONS or bool(near(name, DISTRIBUTIONS) or re.fullmatch(f"{number},{number}", inside))


def _distribution(name, inside, where):
    if name not in DISTRIBUTIONS:
        known = ", ".join(f"{one}(LOW,HIGH)" for one in DISTRIBUTIONS)
        raise UserError(f"{where} is unknown; allowed are {known}{near(name, DISTRIBUTIONS)}")
    try:
        low, high = map(float, inside.split(","))
    except ValueError:
        low = high = math.nan
    is_whole = "int" not in name or (low.is_integer() and high.is_integer())
    if not ((0 if "log" in name else -math.inf) < low < high < math.inf and is_whole):
        raise UserError(f"{where}; allowed is {name}(LOW,HIGH) with {DISTRIBUTIONS[name]}")
    return Drawn(name, low, high)


def _refuse_distributions(axes, flag, where):
    for field, values in axes.items():
        if any(isinstance(value, Drawn) for value in values):
            raise UserError(f"{flag}={field}=...: a distribution is allowed {where} only")


def _products(axes) -> Iterator[dict[str, str]]:
    count = math.prod(map(len, axes.values()))
    if count > MOST_VALUES:
        raise UserError(f"--grid: makes {count} points; allowed are at most {MOST_VALUES}")
    for combination in itertools.product(*axes.values()):
        yield dict(zip(axes, combination, strict=True))


def _draws(axes, count, seed):
    """`count` different combinations, each field drawn by itself, so that another field changes none of its values."""
    if not 1 <= count <= MOST_VALUES:
        raise UserError(f"--sample={count}: allowed is a whole number from 1 to {MOST_VALUES}")
    if not axes:
        raise UserError(f"--sample={count}: needs fields to draw; write --grid={EXAMPLE.rpartition(' ')[2]}")
    found = []
    for number in range(TRIES * count):
        values = {}
        for field, choices in axes.items():
            source = random.Random(f"{seed} {number} {field}")
            chosen = source.choice(choices)
            values[field] = chosen.draw(source) if isinstance(chosen, Drawn) else chosen
        if values not in found:
            found.append(values)
        if len(found) == count:
            return found
    raise UserError(f"--sample={count}: the fields of --grid have too few different values; {len(found)} were found")


def split_values(text: str, where: str = "--grid") -> list[str]:
    """Splits a text at the commas outside brackets and quotes.

    Args:
      where: what holds the text, for messages.

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
                raise UserError(f"{where}: unmatched {character}")
        elif character == "," and not closing:
            values.append(text[start:position].strip())
            start = position + 1
    values.append(text[start:].strip())
    if quote or closing:
        raise UserError(f"{where}: unmatched {quote or 'bracket'}")
    if not all(values):
        raise UserError(f"{where}: an empty value; write one on each side of a comma")
    return values
