"""Fields of the config, checks of their values, and registries of the plug-ins that read them.

A plug-in (a score, a method, an objective, a network, a metric, a data source) is an object with three attributes:

  name: how the config chooses it.
  fields: the `Field`s that it reads and that not every plug-in of its kind reads.
  check: `(config) -> None`, which refuses what contradicts it; called only when the plug-in is chosen.

It stands in the `Registry` of its kind, whose `selector` is the field of the config that chooses. `jaxtickets.config`
gathers the fields from the registries and validates a config without knowing any plug-in.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from jaxtickets.errors import UserError
from jaxtickets.names import near


class Check(NamedTuple):
    """Which values a field may have.

    possible: whether a value may be given. allowed: returns the allowed values in words, for the error. names: returns
    the names that a value consists of, for suggestions in the error.
    """

    possible: Callable[[Any], bool]
    allowed: Callable[[], str]
    names: Callable[[], Iterable[str]] = tuple


class Change(NamedTuple):
    """How the value of a field may change when a run is started again in its workdir.

    Attributes:
      possible: `(config there, config here) -> whether the run takes the change up`, given that the field differs.
      allowed: `(config there) -> the allowed values in words`.
      help: what is taken up, in a sentence.
    """

    possible: Callable[[Any, Any], bool]
    allowed: Callable[[Any], str]
    help: str


class Field(NamedTuple):
    """One field of the config.

    Attributes:
      name: its path, such as "prune.temperature".
      default: its value where a config file says nothing.
      check: which values are possible.
      help: what it means, in one line.
      needs: a capability that the chosen method must provide (`Method.provides`) for the field to be read; "" is none.
      before: the value for workdirs that were written before the field existed, if it is not the default. Such a run
        goes on with this value alone.
      may_change: how its value may change in a workdir that has been started; None: not at all.
    """

    name: str
    default: Any
    check: Check
    help: str
    needs: str = ""
    before: Any = None
    may_change: Change | None = None


class Registry(dict):
    """Plug-ins of one kind by name, in the order in which they were added."""

    def __init__(self, selector: str, *plugins):
        """selector: the field of the config that chooses from them: a name, or a tuple of names."""
        super().__init__()
        self.selector = selector
        for plugin in plugins:
            self.add(plugin)

    def add(self, plugin) -> None:
        """Adds a plug-in.

        Raises:
          TypeError: it is no plug-in, or one of another kind.
          ValueError: there is another one of its name, or one of its fields has an impossible name or default.
        """
        if not all(hasattr(plugin, name) for name in ("name", "fields", "check")):
            raise TypeError(f"{self.selector}: {plugin!r} is no plug-in, which has a name, fields and a check")
        for other in self.values():
            if not set(type(plugin).__mro__) & set(type(other).__mro__) - {object, tuple}:
                kinds = type(plugin).__name__, type(other).__name__
                raise TypeError(f"{self.selector}: {plugin.name!r} is a {kinds[0]}; allowed is a {kinds[1]}")
        if self.get(plugin.name, plugin) is not plugin:
            raise ValueError(f"{self.selector}: there is a plug-in called {plugin.name!r} already")
        for field in all_fields(plugin):
            check_declaration(field, plugin.name)
        self[plugin.name] = plugin

    def chosen(self, value) -> list:
        """The plug-ins that a value of the selector names; a name that is no plug-in's, such as "none", names none."""
        names = (value,) if isinstance(value, str) else value
        return [self[name] for name in names if name in self]

    def readers(self, field: Field) -> list[str]:
        """The names of the plug-ins that read a field; none: it is not this kind's."""
        return [plugin.name for plugin in self.values() if field in plugin.fields]


def all_fields(plugin) -> tuple[Field, ...]:
    """The fields of a plug-in, and those of the plug-ins that its own fields choose from (`registries`)."""
    parts = [part for registry in getattr(plugin, "registries", ()) for part in registry.values()]
    return (*plugin.fields, *(field for part in parts for field in part.fields))


def check_declaration(field: Field, plugin: str) -> None:
    """Refuses a field that no config could have.

    Raises:
      ValueError: its name or its default is impossible.
    """
    if not re.fullmatch(r"([a-z]\w*\.)?[a-z]\w*", field.name):
        raise ValueError(f"field {field.name!r} of {plugin}: a name is a word, or group.word, in small letters")
    kinds = bool | int | float | str | tuple | dict
    for what, value in (("default", field.default), ("value before", field.before)):
        if value is None and what != "default":
            continue
        if not (isinstance(value, kinds) and field.check.possible(value)):
            allowed = field.check.allowed()
            raise ValueError(f"field {field.name!r} of {plugin}: its {what} is {value!r}; allowed is {allowed}")


def no_check(config) -> None:
    """The check of a plug-in that contradicts nothing."""


def refuse(field: str, value, allowed: str, names: Iterable[str] = ()):
    """Raises the one-line error of a field, with the `names` that are spelled almost like the value's, if any."""
    raise UserError(f"config.{field}={value!r}: allowed is {allowed}{near(value, names)}")


# Checks of values.


def is_finite(value: Any) -> bool:
    """Whether a value is a number other than NaN and infinity, and no whole number beyond the range of floats."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def number(is_possible: Callable[[float], bool], allowed: str) -> Check:
    """A finite number, not a bool, for which `is_possible` holds."""

    def possible(value):
        return is_finite(value) and not isinstance(value, bool) and is_possible(value)

    return Check(possible, lambda: allowed)


def above(low: float) -> Check:
    return number(lambda value: value > low, f"a number above {low}")


def at_least(low: float, remark: str = "") -> Check:
    return number(lambda value: value >= low, f"a number of at least {low}{remark}")


def share() -> Check:
    return number(lambda value: 0 < value <= 1, "a number above 0 and at most 1")


def fraction() -> Check:
    return number(lambda value: 0 <= value < 1, "a number from 0 to below 1")


def fraction_or_steps(zero: bool = False) -> Check:
    """Below 1 a fraction of training, else a number of steps."""
    between = "from 0 to below 1" if zero else "between 0 and 1"
    return number(
        lambda value: (value >= 0 if zero else value > 0) and (value < 1 or value == int(value)),
        f"a fraction of training {between}, or a whole number of steps",
    )


def whole(low: int, high: int | None = None) -> Check:
    allowed = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"

    def possible(value):
        is_int = isinstance(value, int) and not isinstance(value, bool)
        return is_int and low <= value and (high is None or value <= high)

    return Check(possible, lambda: allowed)


def switch() -> Check:
    return Check(lambda value: isinstance(value, bool), lambda: "True or False")


def text() -> Check:
    return Check(lambda value: isinstance(value, str), lambda: "a text")


def _names(choices: Iterable[str | Mapping]) -> list[str]:
    return [name for choice in choices for name in ([choice] if isinstance(choice, str) else choice)]


def choice(*choices: str | Mapping) -> Check:
    """One of the names given, and of those in the registries given; these may grow later."""
    names = partial(_names, choices)
    return Check(lambda value: value in names(), lambda: f"one of {', '.join(names())}", names)


def some_of(*choices: str | Mapping | Callable[[], Iterable[str]]) -> Check:
    """A tuple of different names, each of them one of `choice(*choices)`; a callable gives its names when asked."""

    def names():
        return _names(choice() if callable(choice) else choice for choice in choices)

    def possible(value):
        return texts(value) and set(value) <= set(names()) and len(set(value)) == len(value)

    return Check(possible, lambda: f"a tuple of some of {', '.join(names())}", names)


def texts(value) -> bool:
    """Whether `value` is a tuple or list of texts."""
    return isinstance(value, tuple | list) and all(isinstance(item, str) for item in value)
