"""Suggestions for names that do not exist."""

import difflib
from collections.abc import Iterable


def near(given: object, known: Iterable[str]) -> str:
    """`; did you mean 'x' or 'y'?` with the known names that are spelled almost like what is given; "" without any.

    Args:
      given: a name, or several; what is no text resembles nothing.
    """
    known, found = list(known), []
    for name in [given] if isinstance(given, str) else given if isinstance(given, list | tuple) else []:
        if isinstance(name, str) and name not in known:
            found += difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, dict.fromkeys(found)))}?" if found else ""
