"""Sums and maxima of numbers by group: one group or several, of examples that are pooled."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._checks import is_symbol
from jsoftmax._placement import everywhere


def group_sum(x: Array, group: Array | None, count: int) -> Array:
    """Sum of the numbers of each group 0, 1, ..., `count` - 1 (None: all are of one group).

    A sum by groups is one addition after another, whose rounding grows with their number: so it is
    taken of short runs of numbers, and the results are summed.
    """
    if group is None:
        return jnp.sum(x, dtype=x.dtype).reshape(1)
    x, group = everywhere(x), everywhere(group)
    run = max(count, 32)
    if not is_symbol(x.size):
        # No more results than there are numbers, unless that makes a run long.
        run = min(run, math.isqrt(x.size) + 1)
    runs = -(-x.size // run)
    place = lax.broadcasted_iota(jnp.int32, x.shape, 0) // run * count + group
    sums = jax.ops.segment_sum(x, place, num_segments=runs * count)
    return jnp.sum(sums.reshape(runs, count), axis=0, dtype=x.dtype)


def group_max(x: Array, group: Array | None, count: int) -> Array:
    """Largest of the numbers of each group, as `group_sum`: none is below 0, nor the result."""
    if group is None:
        return jnp.max(x, initial=0).reshape(1)
    found = jax.ops.segment_max(everywhere(x), everywhere(group), num_segments=count)
    return jnp.maximum(found, 0)
