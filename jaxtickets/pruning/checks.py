"""Checks of what is asked of pruning, for functions that are called without a config."""

import numbers

import numpy as np

from jaxtickets.errors import UserError


def check_share(value, name: str, and_one: bool = False) -> float:
    """A target, such as a sparsity, as a number.

    Raises:
      UserError: it is no number in [0, 1), or [0, 1] with `and_one`.
    """
    number = value.item() if hasattr(value, "dtype") and np.ndim(value) == 0 else value
    if (
        not isinstance(number, numbers.Real)
        or isinstance(number, bool)
        or not 0 <= float(number) <= 1
        or (number == 1 and not and_one)
    ):
        end = "1" if and_one else "below 1"
        raise UserError(f"{name}: {value!r}: allowed is a number from 0 to {end}; 0.5 is half")
    return float(number)


def check_count(value, name: str, least: int = 0) -> None:
    """Refuses what is no number of weights or channels.

    Raises:
      UserError: it is no whole number of at least `least`.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise UserError(f"{name}: {value!r}: allowed is a whole number of at least {least}")
