"""Suggestions for names that do not exist."""

import difflib
from collections.abc import Iterable

MARGIN = 0.1  # Names that share a long beginning, as fields of one section do, are never far from one another.


def near(given: object, known: Iterable[str]) -> str:
    """`; did you mean 'x' or 'y'?` with the known names that are spelled almost like what is given; "" without any.

    The second name is told only where it is about as near as the first.

    Args:
      given: a name, or several; what is no text resembles nothing.
    """
    known, found = list(known), []
    for name in [given] if isinstance(given, str) else given if isinstance(given, list | tuple) else []:
        if isinstance(name, str) and name not in known:
            matches = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
            found += [match for match in matches if _likeness(name, match) > _likeness(name, matches[0]) - MARGIN]
    return f"; did you mean {' or '.join(map(repr, dict.fromkeys(found)))}?" if found else ""


def _likeness(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()
