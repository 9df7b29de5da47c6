"""The config of an experiment: its fields, its validation, and the steps of training that follow from it."""

from jaxtickets.config.schema import (
    check_field,
    fields,
    flat,
    get_config,
    is_quick,
    levels,
    method,
    readers,
    registries,
    subject,
)
from jaxtickets.config.stored import from_dict, missing_values, refused, to_dict
from jaxtickets.config.timeline import Timeline, make_timeline
from jaxtickets.config.validation import validate

__all__ = [
    "Timeline",
    "check_field",
    "fields",
    "flat",
    "from_dict",
    "get_config",
    "is_quick",
    "levels",
    "make_timeline",
    "method",
    "missing_values",
    "readers",
    "refused",
    "registries",
    "subject",
    "to_dict",
    "validate",
]
