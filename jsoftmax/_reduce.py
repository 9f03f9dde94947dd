"""Reductions along an axis of the array and the mesh axes over which that axis is split.

Every reduction keeps the reduced axis with size one. This is the only file that calls collectives;
with ``axis_name=()`` there are none. What crosses devices is O(batch) a call, or O(batch x shards)
for `shard_offset`.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._sweep import largest, mass, sweep
from jsoftmax._typing import Along


def row_max(x: Array, along: Along) -> Array:
    """Largest entry: -inf for an empty row, NaN for one that holds +inf or NaN. No gradient."""
    peak = _over_shards(largest(lax.stop_gradient(x), along.axis), along)
    return jnp.where(peak == jnp.inf, jnp.nan, peak)


def row_peak(x: Array, along: Along) -> Array:
    """Largest entry, but the least float where nothing is allowed: it can be subtracted from -inf.

    For code that sums the row as well, which is what finds a NaN: this may overlook one. No
    gradient.
    """
    lowest = float(jnp.finfo(x.dtype).min)
    peak = jnp.max(lax.stop_gradient(x), axis=along.axis, keepdims=True, initial=lowest)
    return _over_shards(peak, along)


def _over_shards(peak: Array, along: Along) -> Array:
    # pmax has no differentiation rule, so the gradient stops before it; and it may drop NaN.
    if not along.axis_name:
        return peak
    return lax.pmax(jnp.where(jnp.isnan(peak), jnp.inf, peak), along.axis_name)


def row_sum(x: Array, along: Along) -> Array:
    """Sum of the entries, in the dtype of ``x`` (booleans are counted in int32)."""
    dtype = jnp.int32 if x.dtype == jnp.bool_ else x.dtype
    total = jnp.sum(x, axis=along.axis, keepdims=True, dtype=dtype)
    return lax.psum(total, along.axis_name) if along.axis_name else total


def row_mass(x: Array, scale: Callable[[Array], Array], along: Along) -> tuple[Array, Array]:
    """Sum of exp(z) for z = scale(x) <= 0, and the same without one entry of z = 0: see `mass`."""
    masses = mass(x, scale, along.axis)
    return lax.psum(masses, along.axis_name) if along.axis_name else masses


def row_sweep(
    along: Along,
    *,
    sums: Sequence[Array],
    maxima: Sequence[Array] = (),
    minima: Sequence[Array] = (),
) -> list[Array]:
    """Sums, largest and smallest entries of functions of one array, in one pass: see `sweep`."""
    reduced = sweep(sums, maxima, minima, along.axis)
    if along.axis_name:
        collectives = [lax.psum] * len(sums) + [lax.pmax] * len(maxima) + [lax.pmin] * len(minima)
        reduced = [
            collective(x, along.axis_name)
            for collective, x in zip(collectives, reduced, strict=True)
        ]
    return reduced


def row_size(x: Array, along: Along) -> int:
    """Number of entries of the whole row."""
    return x.shape[along.axis] * shard_count(along)


def shard_count(along: Along) -> int:
    """Number of shards that the row is split into."""
    count = 1
    for name in along.axis_name:
        count *= lax.axis_size(name)
    return count


def shard_index(along: Along) -> Array:
    """Which shard of the row this is, in the order of the entries."""
    index = jnp.zeros((), jnp.int32)
    for name in along.axis_name:
        index = index * lax.axis_size(name) + lax.axis_index(name)
    return index


def shard_offset(x: Array, along: Along) -> Array:
    """Sum of a per-shard number (axis of size one) over the shards before this one.

    The numbers are placed in a vector of one slot a shard and summed over the mesh, which every
    shard then holds alike: an all-reduce of O(batch x shards).
    """
    if not along.axis_name:
        return jnp.zeros_like(x)
    slots = lax.broadcasted_iota(jnp.int32, (shard_count(along),), 0)
    here = shard_index(along)
    column = x[..., None]
    placed = jnp.where(slots == here, column, jnp.zeros_like(column))
    everyone = lax.psum(placed, along.axis_name)
    return jnp.sum(jnp.where(slots < here, everyone, 0), axis=-1, dtype=x.dtype)


def row_cumsum(x: Array, along: Along) -> Array:
    """Inclusive prefix sum along the whole row."""
    local = jnp.cumsum(x, axis=along.axis, dtype=x.dtype)
    if not along.axis_name:
        return local
    total = jnp.sum(x, axis=along.axis, keepdims=True, dtype=x.dtype)
    return local + shard_offset(total, along)
