"""The sparsity of each round of `jt.imp`."""

from collections.abc import Sequence

from jaxtickets import pruning
from jaxtickets.checks import check_count, check_share
from jaxtickets.errors import UserError
from jaxtickets.pytrees import is_array


def levels_of(rounds, targets, rate, already, structure, only):
    """The sparsity of each round.

    Args:
      already: that of the first round.
      only: the one that the structure has, or None.
    """
    if rounds is not None and targets is not None:
        raise UserError("rounds, targets: both are given; allowed is one of them")
    if targets is not None:
        targets = _targets(targets)
    if rounds is not None:
        check_count(rounds, "rounds")
    if only is not None:
        if rounds not in (None, 1):
            raise UserError(
                f"rounds: {rounds!r}: {structure} has one sparsity, {only:g}, and so one round; allowed is 1"
            )
        if targets is not None and targets != [only]:
            raise UserError(f"targets: {targets}: {structure} has one sparsity; allowed is [{only:g}]")
        return [already, only]
    if targets is None:
        if rounds is None:
            raise UserError("rounds: None: allowed is a whole number, or targets, the sparsity of each round")
        return [already + (1 - already) * level for level in pruning.sparsities(rate, rounds)]
    levels = [already, *targets]
    if any(after <= before for before, after in zip(levels, levels[1:], strict=False)):
        own = ", the masks' own" if already else ""
        raise UserError(f"targets: {targets}: allowed are sparsities above {already:g}{own}, each above the one before")
    return levels


def _targets(targets):
    """The targets as numbers."""
    is_several = isinstance(targets, Sequence) or (is_array(targets) and len(targets.shape) == 1)
    if isinstance(targets, str) or not is_several or not len(targets):
        raise UserError(f"targets: {targets!r:.60}: allowed is a list of sparsities, at least one, such as [0.5, 0.8]")
    return [check_share(target, "targets") for target in targets]
