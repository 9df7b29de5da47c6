"""The fields of the config: those that every run reads, and those that the registered plug-ins bring."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from jaxtickets import data
from jaxtickets.config.core import CORE
from jaxtickets.errors import UserError
from jaxtickets.experiments import METHODS, Method
from jaxtickets.fields import Field, Registry
from jaxtickets.metrics import METRICS
from jaxtickets.models import NETWORKS
from jaxtickets.names import near
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.optimizers import OPTIMIZERS
from jaxtickets.pruning import SCORES

REGISTRIES = (METHODS, NETWORKS, OBJECTIVES, OPTIMIZERS, data.SOURCES, SCORES, METRICS)


def registries() -> Iterator[Registry]:
    """Every registry of plug-ins, those of an objective's own parts included."""
    for registry in REGISTRIES:
        yield registry
        for plugin in registry.values():
            yield from getattr(plugin, "registries", ())


def fields() -> dict[str, Field]:
    """Every field by its name, grouped: first those without a group.

    Raises:
      ValueError: two plug-ins bring different fields of one name, or a field is called like a group.
    """
    found = {field.name: field for field in CORE}
    for registry in registries():
        for plugin in registry.values():
            for field in plugin.fields:
                if found.setdefault(field.name, field) != field:
                    raise ValueError(
                        f"{field.name}: {plugin.name} brings another field of a name that there is already"
                    )
    groups = list(dict.fromkeys(name.rpartition(".")[0] for name in found))
    if both := [name for name in groups if name in found]:
        raise ValueError(f"{', '.join(both)}: a field can't be called like a group of fields")
    return {name: found[name] for group in groups for name in found if name.rpartition(".")[0] == group}


def readers(name: str) -> str:
    """Who reads a field, in words."""
    field = fields()[name]
    kinds = {registry.selector: names for registry in registries() if (names := registry.readers(field))}
    if field.needs:
        kinds[METHODS.selector] = [method.name for method in METHODS.values() if field.needs in method.provides]
    return "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items()) or "every run"


def get_config() -> ConfigDict:
    """Every field with its default; the files in `configs/` start from it."""
    tree = {}
    for name, field in fields().items():
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = field.default
    return ConfigDict(tree)


def flat(config, prefix: str = "", known: dict[str, Field] | None = None) -> dict:
    """`{dotted field: value}`; a field that is a dictionary is one value."""
    known, values = fields() if known is None else known, {}
    for key, value in config.items():
        name = prefix + key
        if isinstance(value, ConfigDict):
            values |= {name: value.to_dict()} if name in known else flat(value, f"{name}.", known)
        else:
            values[name] = value
    return values


def is_quick(variant: str) -> bool:
    """Whether a config file was asked for its small variant: `configs/<name>.py:quick`.

    Raises:
      UserError: the file was asked for another variant.
    """
    if variant not in ("", "quick"):
        allowed = "allowed is NAME:quick, or NAME alone for the full experiment"
        raise UserError(f"--config=NAME:{variant}: no such variant; {allowed}{near(variant, ['quick'])}")
    return variant == "quick"


def check_field(name: str) -> None:
    """Refuses the name of a field that does not exist, and tells the nearest one and those of its section.

    Raises:
      UserError: there is no such field.
    """
    known = fields()
    if name not in known:
        within = [other for other in known if other.startswith(f"{name}.")]
        section = within or [other for other in known if other.rpartition(".")[0] == name.rpartition(".")[0]]
        allowed = f"allowed are {', '.join(section)}" if section else "`python -m jaxtickets --help` lists all"
        raise UserError(f"config.{name}: no such field{near(name, known)}; {allowed}")


def method(config: ConfigDict) -> Method:
    """The method of the experiment."""
    return METHODS[config.experiment]


def levels(config: ConfigDict) -> list[float]:
    """The level of each round (`prune.target` says of what), round 0 with its 0.0 included."""
    return method(config).levels(config.prune)


def subject(config: ConfigDict) -> str:
    """What the verdict is about: a ticket, or a control of one."""
    return method(config).subject(config)
