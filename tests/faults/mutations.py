"""Seeded mutations: bytes, JSON values and texts, changed a little and often to what readers stumble over."""

import copy
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**40)
NUMBERS += (2**63 - 1, 2**64 - 1, -1, -2, -(2**31), -(2**63))
TEXTS = (
    *("", " ", "0", "-1", "1e400", "nan", "inf", "None", "True", "()", "[]", "{}", "x", "dense", "all", "winner"),
    *("../up", "/etc/passwd", "~/x", "gs://bucket/run", "C:\\x", "con", ".", "..", "a/b", "\\", "%s%n", "{0}", "$HOME"),
    *("\x1b[31mred", "\x1b]0;title\x07", "a\nb", "a\rb", "\0", "\x7f", "\x85", "\u2028", "\u202eabc", "\ud800"),
    *("<script>alert(1)</script>", "\" onload='x", "&lt;", "é", "日本", "9" * 400, "(" * 200, "a" * 5000),
)
VALUES: tuple[Any, ...] = (*NUMBERS, *TEXTS, None, True, False, 0.5, -0.0, 1e308, -1e308, 5e-324)
VALUES += (float("nan"), float("inf"), -float("inf"), 10**400, [], {}, [[]], {"": None}, [None], ["a"], [0] * 50)
TOKENS = tuple(text.encode("utf-8", "surrogatepass") for text in TEXTS)


# Bytes.


def of_bytes(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Returns `content` with one to a few mutations. others: contents of which parts may be spliced in."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 8))):
        rng.choice(_OF_BYTES)(rng, changed, others)
    return bytes(changed)


def _place(rng, content) -> int:
    """A position, more often near the beginning or the end, where headers and directories are."""
    n = len(content)
    if n > 64 and rng.random() < 0.5:
        return rng.randrange(64) if rng.random() < 0.7 else n - 1 - rng.randrange(64)
    return rng.randrange(n) if n else 0


def _flip(rng, content, others):
    if content:
        content[_place(rng, content)] ^= 1 << rng.randrange(8)


def _set(rng, content, others):
    if content:
        content[_place(rng, content)] = rng.choice((0, 1, 10, 34, 47, 127, 128, 255, rng.randrange(256)))


def _number(rng, content, others):
    """Writes a whole number of 2, 4 or 8 bytes over what is there."""
    form = rng.choice("HIQ")
    size, place = struct.calcsize(form), _place(rng, content)
    number = rng.choice(NUMBERS) % 2 ** (8 * size)
    content[place : place + size] = struct.pack(rng.choice("<>") + form, number)[: max(0, len(content) - place)]


def _cut(rng, content, others):
    del content[_place(rng, content) :]


def _delete(rng, content, others):
    place = _place(rng, content)
    del content[place : place + rng.choice((1, 2, 4, 16, 512))]


def _zero(rng, content, others):
    place, size = _place(rng, content), rng.choice((1, 4, 16, 512))
    content[place : place + size] = bytes(len(content[place : place + size]))


def _repeat(rng, content, others):
    place, size = _place(rng, content), rng.choice((1, 2, 8, 64, 512))
    content[place:place] = content[place : place + size] * rng.choice((1, 1, 2, 30))


def _insert(rng, content, others):
    place = _place(rng, content)
    content[place:place] = rng.choice(TOKENS) if rng.random() < 0.7 else rng.randbytes(rng.choice((1, 4, 64)))


def _replace_digits(rng, content, others):
    """Replaces a run of decimal digits, of which texts, tar headers and NumPy's headers have many."""
    runs, start = [], None
    for place, byte in enumerate(content[:4096]):
        if 48 <= byte <= 57:
            start = place if start is None else start
        elif start is not None:
            runs.append((start, place))
            start = None
    if runs:
        start, stop = rng.choice(runs)
        content[start:stop] = str(rng.choice(NUMBERS)).encode()


def _splice(rng, content, others):
    if others:
        other = rng.choice(others)
        place, start = _place(rng, content), _place(rng, other)
        size = rng.choice((4, 64, 1024))
        content[place : place + size] = other[start : start + size]


_OF_BYTES: tuple[Callable, ...] = (
    *(_flip, _flip, _set, _set, _number, _number, _cut, _delete, _zero, _repeat, _insert, _replace_digits, _splice),
)


# JSON.


def of_json(rng: random.Random, value: Any) -> Any:
    """Returns a JSON value with one or two places in it replaced, removed, doubled or renamed."""
    holder = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 1, 2))):
        places = list(_places(holder))
        container, key = rng.choice(places)
        act = rng.randrange(6)
        if act == 0 and container is not holder:
            del container[key]
        elif act == 1 and isinstance(container, dict):
            container[rng.choice(TEXTS)] = container.pop(key)
        elif act == 2 and isinstance(container, list) and container is not holder:
            container.insert(key, copy.deepcopy(container[key]))
        elif act == 3:
            other, at = rng.choice(places)
            container[key] = copy.deepcopy(other[at])
        elif act == 4 and isinstance(container, dict):
            container[rng.choice(TEXTS)] = rng.choice(VALUES)
        else:
            container[key] = rng.choice(VALUES)
    return holder[0]


def json_bytes(rng: random.Random, value: Any) -> bytes:
    """The JSON text of a mutated value; now and then its bytes are mutated too."""
    content = json.dumps(of_json(rng, value)).encode()
    return of_bytes(rng, content) if rng.random() < 0.2 else content


def _places(container):
    """Yields (container, key) of all values in nested lists and dictionaries."""
    items = container.items() if isinstance(container, dict) else enumerate(container)
    for key, value in list(items):
        yield container, key
        if isinstance(value, dict | list):
            yield from _places(value)


# Texts of numbers in rows: CSV.


def of_cells(rng: random.Random, content: bytes, separator: str = ",") -> bytes:
    """Returns a table with some cells, rows or headings changed."""
    rows = [line.split(separator) for line in content.decode().splitlines()]
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.choice(rows)
        act, cell = rng.randrange(7), rng.randrange(len(row)) if row else 0
        if act == 0 and row:
            del row[cell]
        elif act == 1:
            row.insert(cell, rng.choice(TEXTS))
        elif act == 2:
            rows.insert(rng.randrange(len(rows)), list(row))
        elif act == 3 and len(rows) > 1:
            rows.remove(row)
        elif row:
            row[cell] = (
                str(rng.choice(VALUES[:-11])) if rng.random() < 0.8 else rng.choice(("nan", "-inf", "1e309", "00"))
            )
    text = "\n".join(separator.join(map(str, row)) for row in rows) + "\n"
    return text.encode("utf-8", "surrogatepass")
