"""Reductions along an axis of the array and the mesh axes over which that axis is split.

Every reduction keeps the reduced axis with size one. This is the only file that calls collectives;
with ``axis_name=()`` there are none. What crosses devices is O(batch) a call, or O(batch x shards)
for `shard_offset`.
"""

from collections.abc import Hashable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._sweep import largest, sweep
from jsoftmax._typing import Along

Tree = TypeVar("Tree")


def row_max(x: Array, along: Along) -> Array:
    """Largest entry: -inf for an empty row, NaN for one that holds +inf or NaN. No gradient.

    ``pmax`` has no differentiation rule, so the gradient stops before it.
    """
    peak = largest(lax.stop_gradient(x), along.axis)
    if along.axis_name:
        # pmax may drop NaN.
        peak = lax.pmax(jnp.where(jnp.isnan(peak), jnp.inf, peak), along.axis_name)
    return jnp.where(peak == jnp.inf, jnp.nan, peak)


def row_sum(x: Array, along: Along) -> Array:
    """Sum of the entries, in the dtype of ``x`` (booleans are counted in int32)."""
    dtype = jnp.int32 if x.dtype == jnp.bool_ else x.dtype
    total = jnp.sum(x, axis=along.axis, keepdims=True, dtype=dtype)
    return lax.psum(total, along.axis_name) if along.axis_name else total


def shard_sum(x: Array, along: Along) -> Array:
    """Sum over the shards alone, entry by entry."""
    return lax.psum(x, along.axis_name) if along.axis_name else x


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


def vary_alike(arrays: Tree) -> Tree:
    """The arrays, each marked as varying over every mesh axis that one of them varies over.

    A derivative rule then gives each shard's part of a gradient, and `shard_map` sums the parts
    over the axes on which that array was the same everywhere.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return arrays
    everything = frozenset[Hashable]().union(*map(_varying, jax.tree.leaves(arrays)))

    def marked(x: Array) -> Array:
        missing = tuple(everything - _varying(x))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(marked, arrays)


def _varying(x: Array) -> frozenset[Hashable]:
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def row_cumsum(x: Array, along: Along) -> Array:
    """Inclusive prefix sum along the whole row."""
    local = jnp.cumsum(x, axis=along.axis, dtype=x.dtype)
    if not along.axis_name:
        return local
    total = jnp.sum(x, axis=along.axis, keepdims=True, dtype=x.dtype)
    return local + shard_offset(total, along)
