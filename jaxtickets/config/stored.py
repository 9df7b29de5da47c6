"""The config as JSON values, as a workdir keeps it."""

import json

from ml_collections import ConfigDict

from jaxtickets.config.schema import check_field, flat, get_config, registries


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
