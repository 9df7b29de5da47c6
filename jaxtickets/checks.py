"""Checks of arguments of functions that are called without a config."""

import inspect
import numbers
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.names import near


def _number(value):
    try:
        return value.item() if hasattr(value, "dtype") and np.ndim(value) == 0 else value
    except TypeError:  # What JAX traces has no value yet, and is no number.
        return value


def check_share(value, name: str, and_one: bool = False) -> float:
    """A target, such as a sparsity, as a number.

    Raises:
      UserError: it is no number in [0, 1), or [0, 1] with `and_one`.
    """
    number = _number(value)
    if (
        not isinstance(number, numbers.Real)
        or isinstance(number, bool)
        or not 0 <= float(number) <= 1
        or (number == 1 and not and_one)
    ):
        end = "1" if and_one else "below 1"
        raise UserError(f"{name}: {value!r}: allowed is a number from 0 to {end}; 0.5 is half")
    return float(number)


def check_count(value, name: str, least: int = 0, below: int | None = None) -> int:
    """A number of weights, channels or samples.

    Raises:
      UserError: it is no whole number of at least `least`, and less than `below`.
    """
    number = _number(value)
    if (
        not isinstance(number, numbers.Integral)
        or isinstance(number, bool)
        or number < least
        or (below is not None and number >= below)
    ):
        end = "" if below is None else f" and less than {below}"
        raise UserError(f"{name}: {value!r}: allowed is a whole number of at least {least}{end}")
    return int(number)


def check_choice(value, name: str, choices: Sequence[str]) -> None:
    """Refuses what is none of some texts.

    Raises:
      UserError: it is.
    """
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{name}: {value!r} is unknown{near(value, choices)}; allowed: {', '.join(choices)}")


def check_function(value, name: str, *arguments: str, more: bool = False) -> None:
    """Refuses what can't be called with these arguments.

    Args:
      arguments: their names, for the message.
      more: whether the function may ask for further ones.

    Raises:
      UserError: it is no function, or takes other arguments.
    """
    told = f"a function of ({', '.join(arguments)}{', ...' if more else ''})"
    if not callable(value):
        raise UserError(f"{name}: {value!r:.60}: allowed is {told}")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # Some of C have none.
        return
    try:
        (signature.bind_partial if more else signature.bind)(*arguments)
    except TypeError as error:
        raise UserError(f"{name}: can't be called so ({error}); allowed is {told}") from None


def check_functions(value, name: str, *arguments: str, of_many: bool = True) -> None:
    """Refuses what is neither a function nor functions by the component, or the components, that they are for.

    Args:
      of_many: whether each key is several components, a tuple.

    Raises:
      UserError: it is.
    """
    if not isinstance(value, Mapping):
        check_function(value, name, *arguments)
        return
    for key, function in value.items():
        if of_many and not (isinstance(key, tuple) and key):
            raise UserError(f"{name}: has the key {key!r:.60}; allowed is a tuple of components, such as ('net',)")
        check_function(function, f"{name}[{key!r:.60}]", *arguments)


def check_batches(value) -> None:
    """Refuses what is no sequence of batches.

    Raises:
      UserError: it is.
    """
    if isinstance(value, str | bytes | Mapping) or not all(hasattr(value, name) for name in ("__len__", "__iter__")):
        raise UserError(f"batches: is a {type(value).__name__}; allowed is a list with at least one batch")
    if not len(value):
        raise UserError("batches: is empty; allowed is a list with at least one batch")


def texts(value, name: str, what: str) -> list:
    """A text, or several, as a list.

    Args:
      what: what the texts are, in the plural, for the message.

    Raises:
      UserError: it is something else.
    """
    several = [value] if isinstance(value, str | re.Pattern) else value
    is_sequence = isinstance(several, Iterable) and not isinstance(several, bytes | Mapping)
    several = list(several) if is_sequence else [None]
    if not all(isinstance(each, str | re.Pattern) for each in several):
        raise UserError(f"{name}: {value!r:.60}: allowed are {what}, as a list of texts")
    return several


def place(value: Any, name: str) -> Path:
    """The path that an argument gives.

    Raises:
      UserError: it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{name}={value!r:.60}: allowed is a path, a text or a pathlib.Path")
    return local_path(value, name) if isinstance(value, str) else Path(value)
