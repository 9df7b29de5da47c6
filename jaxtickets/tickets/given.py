"""What tickets are given: trees that no file can be made of, and inputs that no network takes, are refused."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import tensor_files
from jaxtickets.errors import UserError
from jaxtickets.examples import to_float
from jaxtickets.pytrees import check_fit, check_like, check_shapes, is_hole
from jaxtickets.trained import Trained

ROUNDING = 0.01  # Beyond [-1, 1]: less than a step of bfloat16 and of the 256 values of a pixel.


def check(masks, params, trained, axis_names, network) -> None:
    """Refuses what is built unlike the parameters, and a network that could not be read again.

    Args:
      trained, axis_names, network: see `save_ticket`; each may be None.

    Raises:
      UserError: it does.
    """
    check_fit(masks, params)
    if isinstance(trained, Trained) and trained.network:  # It may be compacted, so that it has smaller arrays.
        check_like(trained.params, params, "trained")
    elif trained is not None:
        own = trained.params if isinstance(trained, Trained) else trained
        check_shapes(_numbers(own), _numbers(params), "trained")
    if axis_names is not None:
        for name, names, _ in check_like(axis_names, params, "axis_names"):
            if not is_hole(names) and not isinstance(names, tuple):
                raise UserError(f"axis_names: that of {name} is {names!r:.60}; allowed is a tuple of texts and None")
    if network is not None and not (isinstance(network, Mapping) and {"model", "channels", "classes"} <= {*network}):
        raise UserError(f"network: {network!r:.60}: allowed is what Trained.network is: model, channels and classes")


def _numbers(tree):
    """A tree with None for each leaf that a file does not hold, such as a function."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, tensor_files.NUMBERS) else None, tree)


def inputs(value: Any, shape: tuple[int, ...], name: str = "inputs") -> Any:
    """A batch of examples of a shape.

    Raises:
      UserError: it is none.
    """
    if np.ndim(value) != len(shape) + 1 or np.shape(value)[1:] != tuple(shape):
        allowed = ", ".join(map(str, ("batch", *shape)))
        raise UserError(f"{name}: has the shape {np.shape(value)}; allowed is [{allowed}]")
    return value


def images(value: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """A batch of images as float32 in [-1, 1]; those of uint8 are converted.

    Raises:
      UserError: they have another shape, another type or another range.
    """
    found = np.asarray(inputs(value, shape, "images"))
    if found.dtype == np.uint8:
        return np.asarray(to_float(found))
    allowed = "allowed are uint8 from 0 to 255, or float from -1 to 1"
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise UserError(f"images: are of {found.dtype}; {allowed}")
    found = found.astype(np.float32)
    if found.size and not np.abs(found).max() <= 1 + ROUNDING:
        raise UserError(f"images: are {found.dtype} from {found.min():g} to {found.max():g}; {allowed}")
    return found


def as_json(metadata) -> dict:
    """Metadata in which arrays without axes are numbers; in the file NaN is null and a number as a key a text.

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
