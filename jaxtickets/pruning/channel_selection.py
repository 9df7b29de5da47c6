"""Selection of channels: from scores of channels and a ratio, or a cost, to channel masks."""

import math
import numbers
from collections.abc import Callable

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets.checks import check_choice, check_count, check_function, check_share, texts
from jaxtickets.errors import UserError
from jaxtickets.pruning.selection import keep_highest, prune
from jaxtickets.pytrees import is_array, is_hole

SCOPES = ("global", "component", "layerwise")


def _pools(scores, scope, alone):
    """The sizes of the names that one threshold decides over: `{where: [size of each name]}`."""
    pools: dict[str, list[int]] = {}
    check_choice(scope, "scope", SCOPES)
    for path, leaf in jax.tree_util.tree_flatten_with_path(scores)[0]:
        if not is_array(leaf):
            raise UserError(f"scores: is or holds {leaf!r:.60}; allowed is {{component: {{channel name: [n] scores}}}}")
        component, path = mask_lib.component_name(path), mask_lib.path_name(path)
        where = {"global": "the network", "component": f"the {component}", "layerwise": path}[scope]
        pools.setdefault(path if path in alone else where, []).append(leaf.size)
    if not pools:
        raise UserError("there is no channel to prune: no name is scored (gamma scores those with a batch norm)")
    return pools


def select(scores, ratio: float, scope: str = "global", min_channels: int = 1, alone=(), multiple: int = 1):
    """The channel masks that prune the lowest `round(ratio * channels)`; of equal scores the first stay.

    Args:
      scores: `{component: {channel name: [n]}}`, higher where a channel matters more.
      ratio: pruned / scored channels, in [0, 1).
      scope: what one threshold decides over: "global" all channels; "component" those of one component; "layerwise"
        those of one name. Each is pruned to the ratio.
      min_channels: the number of channels that stay of each name at least.
      alone: `component/name` of those whose scores don't compare with others'; each is pruned to the ratio by itself.
      multiple: each name keeps the nearest multiple of this number (or all); the ratio then holds only approximately.

    Raises:
      UserError: nothing is scored, an argument is not what it can be, a score is not a number, or the ratio leaves less
        than `min_channels` asks for.
    """
    ratio = check_share(ratio, "ratio")
    min_channels = check_count(min_channels, "min_channels", 1)
    multiple = check_count(multiple, "multiple", 1)
    alone = texts(alone, "alone", "component/name of channels")
    for where, sizes in _pools(scores, scope, alone).items():
        total, free = sum(sizes), sum(max(0, size - min_channels) for size in sizes)
        if round(ratio * total) > free:
            raise UserError(
                f"ratio: {ratio:g} prunes {round(ratio * total)} of {total} channels of {where}, but {min_channels} of "
                f"each of {len(sizes)} names must stay; allowed is at most {math.floor(1e4 * free / total) / 1e4:g}"
            )

    def pruned(is_chosen, scope):
        chosen = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if is_chosen(mask_lib.path_name(path)) else None, scores
        )
        everything = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), chosen)
        return prune(chosen, everything, ratio, scope, min_channels) if jax.tree.leaves(chosen) else everything

    together, apart = pruned(lambda path: path not in alone, scope), pruned(lambda path: path in alone, "layerwise")
    masks = jax.tree.map(lambda a, b: b if is_hole(a) else a, together, apart, is_leaf=is_hole)
    if multiple == 1:
        return masks

    def rounded(leaf, mask):
        kept = multiple * max(-(-min_channels // multiple), round(np.count_nonzero(mask) / multiple), 1)
        return keep_highest([np.asarray(leaf, np.float32)], [np.ones(leaf.shape, bool)], kept)[0]

    return jax.tree.map(rounded, scores, masks)


def select_by_cost(
    scores,
    cost: Callable,
    limit: float,
    scope: str = "global",
    min_channels: int = 1,
    alone=(),
    multiple: int = 1,
):
    """The channel masks with the smallest ratio (`select`), to 1e-6, at which `cost(channel masks)` is at most `limit`.

    Args:
      cost: falls as more is pruned; such as the share of the FLOPs that is left.
      limit: a number of at least 0.

    Raises:
      UserError: an argument is not what it can be, or the cost is above `limit` at the largest ratio too.
    """
    if isinstance(limit, bool) or not isinstance(limit, numbers.Real) or not 0 <= limit < math.inf:
        raise UserError(f"limit: {limit!r}: allowed is a number of at least 0, such as 0.5 for half of the FLOPs")
    min_channels = check_count(min_channels, "min_channels", 1)
    check_function(cost, "cost", "channel_masks")
    pools = _pools(scores, scope, texts(alone, "alone", "component/name of channels")).values()
    # The largest ratio that `select` takes: a half of a channel more than can go is rounded down.
    high = min(1, *((sum(max(0, size - min_channels) for size in sizes) + 0.5) / sum(sizes) for sizes in pools)) - 1e-6
    how = {"scope": scope, "min_channels": min_channels, "alone": alone, "multiple": multiple}
    chosen = select(scores, high, **how)
    least = cost(chosen)
    if not isinstance(least, numbers.Real | np.generic | jax.Array) or np.ndim(least) or not least >= 0:
        raise UserError(f"cost: has returned {least!r:.60}; allowed is a number of at least 0")
    if least > limit:
        raise UserError(
            f"{limit:.2%} of the FLOPs can't be reached: {least:.2%} are left when {high:.2%} of the channels are "
            f"pruned, as many as can be with {max(min_channels, multiple)} of each name"
        )
    low = 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        masks = select(scores, middle, **how)
        if cost(masks) <= limit:
            chosen, high = masks, middle
        else:
            low = middle
    return chosen
