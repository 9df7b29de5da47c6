"""The config as JSON values, as a workdir keeps it."""

import json

from ml_collections import ConfigDict

from jaxtickets.config.schema import check_field, fields, flat, get_config, registries
from jaxtickets.origin import differing


def to_dict(config: ConfigDict) -> dict:
    """The config as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def from_dict(values: dict) -> ConfigDict:
    """The config that JSON values describe; a field that they lack has the value that `missing_values` gives it.

    Raises:
      UserError: a value is of a field that does not exist.
    """
    config, given = get_config(), flat(ConfigDict(values))
    for name in given:
        check_field(name)
    _set(config, given)
    before = flat(ConfigDict(missing_values(config)))
    _set(config, {name: value for name, value in before.items() if name not in given})
    return config


def _set(config, values):
    for name, value in values.items():
        *groups, last = name.split(".")
        node = config[groups[0]] if groups else config
        is_json = isinstance(value, list | dict)
        node[last] = (tuple(value) if isinstance(value, list) else ConfigDict(value)) if is_json else value


def missing_values(config: ConfigDict) -> dict:
    """The value of each field for a workdir whose config.json lacks it, nested, as plain JSON values.

    It is the field's default, or `Field.before` if a plug-in that `config` chooses reads the field.
    """
    values, chosen = get_config(), flat(config)
    for registry in registries():
        for plugin in registry.chosen(chosen[registry.selector]):
            older = {field.name: field.before for field in plugin.fields if field.before is not None}
            values.update_from_flattened_dict(older)
    return to_dict(values)


def refused(there: dict, here: dict) -> str:
    """In words, the fields in which a workdir's config and another differ and may not (`Field.may_change`).

    Args:
      there, here: all fields, as JSON values.

    Returns:
      "" where a run that was started with the one config can go on with the other.
    """
    known, told = fields(), []
    different = differing(there, here)
    for name, text in different.items():
        change = known[name].may_change if name in known else None
        if change is None:
            told.append(text)
        elif different.keys() <= known.keys():  # Else the other version's config can't be read.
            before, after = from_dict(there), from_dict(here)
            if not change.possible(before, after):
                told.append(f"{text} (allowed is {change.allowed(before)})")
    return "; ".join(told)
