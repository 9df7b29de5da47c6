"""Distances between many features, in blocks: nearest neighbours, and points inside balls.

Computed on the device in float32 at the highest matrix precision, |a - b|^2 = |a|^2 + |b|^2 - 2ab, after all features
were moved by the mean of the first `points`, so that little cancels. A squared distance is off by about 1e-6 of the
points' squared spread: a copy is found at a distance of about a thousandth of the spread, not at 0.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 4096  # The number of points in a block.
QUERIES = 1024  # The number of queries in a block: distances take 16 MiB at a time.


def _squared(queries, points):
    products = jnp.matmul(queries, points.T, precision=jax.lax.Precision.HIGHEST)
    lengths = [jnp.square(features).sum(axis=1) for features in (queries, points)]
    return jnp.maximum(lengths[0][:, None] + lengths[1] - 2 * products, 0)


@partial(jax.jit, static_argnames=("leave_out_self", "n"))
def _nearer(best, queries, points, first_query, first_point, leave_out_self, n):
    """The nearest so far, `(squared distances [queries, k], indices)`, after a further block of points."""
    numbers = first_point + jnp.arange(len(points))
    squared = jnp.where(numbers < n, _squared(queries, points), jnp.inf)
    if leave_out_self:
        squared = jnp.where(numbers == first_query + jnp.arange(len(queries))[:, None], jnp.inf, squared)
    k = best[0].shape[1]
    found, places = jax.lax.top_k(-squared, min(k, len(points)))
    distances = jnp.concatenate([best[0], -found], axis=1)
    indices = jnp.concatenate([best[1], numbers[places]], axis=1)
    order = jax.lax.top_k(-distances, k)[1]
    return jnp.take_along_axis(distances, order, axis=1), jnp.take_along_axis(indices, order, axis=1)


@jax.jit
def _count_inside(counts, queries, points, squared_radii):
    return counts + (_squared(queries, points) <= squared_radii).sum(axis=1)


def _blocks(features, size, centre):
    """`(first row, number of rows, block)` of features moved by `-centre`; the last block is filled with zeros."""
    size = min(size, len(features))
    for start in range(0, len(features), size):
        block = (features[start : start + size] - centre).astype(np.float32)
        yield start, len(block), np.pad(block, ((0, size - len(block)), (0, 0)))


def nearest(queries, points, k: int, leave_out_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distances `[n, k]` of queries `[n, f]` to their nearest `points: [m, f]`, and these points' indices.

    Args:
      k: at most the number of points; at most one less with `leave_out_self`.
      leave_out_self: whether queries and points are the same, and none is its own neighbour.
    """
    centre, found = np.mean(points[:BLOCK], axis=0, dtype=np.float64), []
    for first, count, block in _blocks(queries, QUERIES, centre):
        best = jnp.full((len(block), k), jnp.inf), jnp.zeros((len(block), k), jnp.int32)
        for start, _, other in _blocks(points, BLOCK, centre):
            best = _nearer(best, block, other, first, start, leave_out_self, len(points))
        found.append([np.asarray(part)[:count] for part in best])
    distances, indices = (np.concatenate(part) for part in zip(*found, strict=True))
    return np.sqrt(distances), indices


def count_inside(queries, points, radii) -> np.ndarray:
    """Returns for queries `[n, f]` the number of balls around `points: [m, f]` with `radii: [m]` that they are in."""
    centre, found = np.mean(points[:BLOCK], axis=0, dtype=np.float64), []
    squared_radii = np.square(radii, dtype=np.float32)
    for _, count, block in _blocks(queries, QUERIES, centre):
        counts = jnp.zeros(len(block), jnp.int32)
        for start, own, other in _blocks(points, BLOCK, centre):
            # A filling point has a ball that nothing is in.
            own_radii = np.pad(squared_radii[start : start + own], (0, len(other) - own), constant_values=-1)
            counts = _count_inside(counts, block, other, own_radii)
        found.append(np.asarray(counts)[:count])
    return np.concatenate(found)
