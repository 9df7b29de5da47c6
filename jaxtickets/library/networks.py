"""Which axes of a module's weights are inputs and outputs, as its layers tell."""

from typing import Any

from jaxtickets.pruning.axes import flax_axes


def axes(module: Any, *inputs, **options) -> Any:
    return flax_axes(module, *inputs, **options)
