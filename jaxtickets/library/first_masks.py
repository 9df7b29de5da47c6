"""The masks that training starts with: given ones, or those that keep every weight."""

from collections.abc import Sequence, Sized
from typing import Any

from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.pytrees import check_fit


def check_choice_of_leaves(masks: Any, include: Sequence[str] | None, exclude: Sequence[str]) -> None:
    """Refuses patterns beside masks, which say themselves which leaves are prunable.

    Raises:
      UserError: both are given.
    """
    is_without = isinstance(exclude, Sized) and not len(exclude)
    for name, is_given in (("include", include is not None), ("exclude", not is_without)):
        if masks is not None and is_given:
            raise UserError(
                f"masks, {name}: both are given; allowed is one of them: masks have None where a leaf is not prunable, "
                f"and jt.masks.ones(params, {name}=...) makes them"
            )


def first_masks(params: Any, masks: Any, include: Sequence[str] | None, exclude: Sequence[str]) -> Any:
    """The given masks; None: `jt.masks.ones(params, include, exclude)`.

    Raises:
      UserError: the masks are not those of these parameters, or see `jt.masks.ones`.
    """
    if masks is None:
        return mask_lib.ones(params, include, exclude)
    check_fit(masks, params)
    return masks
