"""The form that the files of a workdir must have for a report, whoever has written them."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtickets.errors import DamagedError
from jaxtickets.fields import Check, choice, number, text, whole
from jaxtickets.progress import say
from jaxtickets.workdir import ROUND_COLUMNS

MOST = 1e100  # Beyond any metric; sums of such numbers and the axes of plots stay finite.
WHOLE = whole(0, 2**32 - 1)
SHARE = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
POSITIVE_SHARE = number(lambda value: 0 < value <= 1, "a number above 0 and at most 1")


def is_number(value: Any) -> bool:
    """Whether `value` is a float, NaN and infinity among them, or a whole number; finite ones are at most `MOST`."""
    if isinstance(value, float):
        return not MOST < abs(value) < sys.float_info.max
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST


def _or_none(check: Check) -> Check:
    return Check(lambda value: value is None or check.possible(value), lambda: f"{check.allowed()}, or nothing")


def _each(check: Check, what: str) -> Check:
    return Check(lambda values: isinstance(values, list) and all(map(check.possible, values)), lambda: what)


def _by_name(possible: Callable[[Any], bool], what: str) -> Check:
    return Check(lambda value: isinstance(value, dict) and all(map(possible, value.values())), lambda: what)


NUMBER = _or_none(Check(is_number, lambda: f"a number of at most {MOST:g}"))
TEXT = _or_none(text())
SWITCH = _or_none(Check(lambda value: isinstance(value, bool), lambda: "true or false"))
IS_TEXT = text().possible

CONFIG = {"experiment": text(), "seed": WHOLE, "seeds": WHOLE, "tolerance": NUMBER}
CONFIG |= {"confidence": number(lambda value: 0 < value < 1, "a number between 0 and 1")}
ORIGIN = {
    "command": TEXT,
    "versions": _or_none(_by_name(lambda version: version is None or IS_TEXT(version), "texts by name")),
    "devices": _or_none(_each(text(), "a list of texts")),
}
ROUND = {"round": WHOLE, "sparsity": SHARE, "density": POSITIVE_SHARE}
LAYER = {"round": WHOLE, "layer": text(), "weights": WHOLE, "kept": WHOLE}
SCALARS = {"round": WHOLE, "step": WHOLE, "split": text()}
JUDGED = {
    "round": WHOLE,
    **dict.fromkeys(("sparsity", "mean", "low", "high", "ratio", "ratio_low", "ratio_high", "spread"), NUMBER),
    **dict.fromkeys(("p_value", "p_wilcoxon", "p_adjusted"), NUMBER),
    **dict.fromkeys(("pairs", "wins"), SWITCH),
}
VERDICT = {
    "message": text(),
    "data": _or_none(_by_name(IS_TEXT, "texts by name")),
    **dict.fromkeys(("metric", "metric_label", "subject"), TEXT),
    "better": choice("lower", "higher"),
    **dict.fromkeys(("tolerance", "dense", "threshold", "value"), NUMBER),
    "learned": SWITCH,
    "winning_round": _or_none(WHOLE),
    "sparsity": _or_none(number(lambda value: 0 <= value < 1, "a number from 0 to below 1")),
    "confidence": CONFIG["confidence"],
    "seeds": _each(WHOLE, "a list of seeds"),
    "rounds": Check(
        lambda rows: (
            isinstance(rows, list)
            and all(isinstance(row, dict) and not problem(row, JUDGED, ("round",)) for row in rows)
            and _begin_with_0([row["round"] for row in rows])
        ),
        lambda: "a list with the test of each round from 0 on",
    ),
}
OF_SEEDS = ("confidence", "seeds", "tolerance")  # What a verdict with tests of rounds must have.
ABOUT = {
    "title": TEXT,
    "columns": _or_none(_by_name(IS_TEXT, "texts by column")),
    "metrics": _or_none(
        _by_name(lambda metric: isinstance(metric, dict) and all(map(IS_TEXT, metric.values())), "texts by metric")
    ),
}
REFERENCE = _by_name(lambda value: value is None or is_number(value), "numbers by name")


def problem(content: Mapping[str, Any], form: Mapping[str, Check], needed: Collection[str] = ()) -> str:
    """What is wrong with the content of a file, as the end of a sentence; "" if nothing is.

    Args:
      form: the values that are possible, by name. Other names may have any.
      needed: the names that must be there.
    """
    for name, check in form.items():
        if name in content and not check.possible(content[name]):
            return f"{name} is {_short(content[name])}, and allowed is {check.allowed()}"
    missing = [name for name in needed if name not in content]
    return f"{missing[0]} is missing" if missing else ""


def _short(value):
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def check(
    path: Path, content: Mapping[str, Any], form: Mapping[str, Check], needed: Collection[str] = (), where: str = ""
) -> None:
    """Refuses the content of a file, or of the part `where` of it, that is not what it must be.

    Raises:
      DamagedError: it names the file and the value.
    """
    if found := problem(content, form, needed):
        raise DamagedError(f"{path}: is damaged, or not of a run: {where}{found}")


def check_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], form: Mapping[str, Check], needed: Collection[str]
) -> None:
    """Refuses a table in which a cell is not what it must be, as `check` does."""
    for index, row in enumerate(rows):
        check(path, row, form, needed, f"in row {index + 1}, ")


def usable(path: Path, content: Any, form: Mapping[str, Check], needed: Collection[str] = ()) -> Any:
    """The content of a file without which there can be a report; None, after one line, if it is not what it must be."""
    if content is None:
        return None
    if found := problem(content, form, needed):
        say(f"{path}: is left out, because it is damaged, or not of a run: {found}")
        return None
    return content


def _begin_with_0(rounds):
    return not rounds or (rounds[0] == 0 and rounds == sorted(set(rounds)))


def check_rounds(path: Path, rows: Sequence[Mapping[str, Any]], metrics: Collection[str]) -> None:
    """Refuses a rounds.csv of another form. metrics: the columns with numbers that the run says it has."""
    numbers = dict.fromkeys((*ROUND_COLUMNS, *metrics), NUMBER)
    of_seeds = {"seed": WHOLE} if any(row.get("seed") is not None for row in rows) else {}
    check_rows(path, rows, numbers | ROUND | of_seeds, (*ROUND, *of_seeds))


def usable_verdict(path: Path, verdict: dict[str, Any] | None) -> dict[str, Any] | None:
    """The verdict; None, after one line, if it is not what a verdict must be."""
    of_seeds = OF_SEEDS if verdict is not None and verdict.get("rounds") else ()
    return usable(path, verdict, VERDICT, ("message", *of_seeds))


def usable_scalars(path: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of logged scalars that are what they must be; one line says how many others there are."""
    kept = [row for row in rows if not problem(row, SCALARS, SCALARS) and all(map(_is_scalar, row.values()))]
    if len(kept) < len(rows):
        say(f"{path}: {len(rows) - len(kept):,} of its {len(rows):,} rows are damaged and left out")
    return kept


def _is_scalar(value):
    return value is None or isinstance(value, str) or is_number(value)


def usable_references(path: Path, references: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The references; {}, after one line, if they are not what they must be."""
    return usable(path, references, dict.fromkeys(references, REFERENCE)) or {}
