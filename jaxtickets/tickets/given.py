"""What `save_ticket` is given: trees that no ticket can be made of are refused, and metadata becomes JSON values."""

from collections.abc import Mapping

import jax
import numpy as np

from jaxtickets import tensor_files
from jaxtickets.errors import UserError
from jaxtickets.pytrees import check_fit, check_like, is_hole
from jaxtickets.trained import Trained


def check(masks, params, trained, axis_names, network) -> None:
    """Refuses what is built unlike the parameters, and a network that could not be read again.

    Args:
      trained, axis_names, network: see `save_ticket`; each may be None.

    Raises:
      UserError: it does.
    """
    check_fit(masks, params)
    if trained is not None:
        check_like(trained.params if isinstance(trained, Trained) else trained, params, "trained")
    if axis_names is not None:
        for name, names, _ in check_like(axis_names, params, "axis_names"):
            if not is_hole(names) and not isinstance(names, tuple):
                raise UserError(f"axis_names: that of {name} is {names!r:.60}; allowed is a tuple of texts and None")
    if network is not None and not (isinstance(network, Mapping) and {"model", "channels", "classes"} <= {*network}):
        raise UserError(f"network: {network!r:.60}: allowed is what Trained.network is: model, channels and classes")


def as_json(metadata) -> dict:
    """Metadata in which arrays without axes are numbers.

    Raises:
      UserError: it is no dictionary, or a value in it has no room in JSON.
    """
    if not isinstance(metadata, Mapping):
        raise UserError(f"metadata: {metadata!r:.60}: allowed is a dictionary of JSON values")
    return _json(metadata, "metadata")


def _json(value, name):
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str | int)]:
            raise UserError(f"{name}: has the key {wrong[0]!r:.60}; allowed are texts")
        return {key: _json(each, f"{name}[{key!r}]") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each, f"{name}[{number}]") for number, each in enumerate(value)]
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0 and not tensor_files.is_key(value):
        value = np.asarray(value).item()
    if value is None or isinstance(value, str | int | float):
        return value
    raise UserError(f"{name}: is of the type {type(value).__name__}; allowed are texts, numbers, None, dicts and lists")
