"""Reductions along an axis of the array and the mesh axes over which that axis is split.

Every reduction keeps the reduced axis with size one. This is the only file that calls collectives;
with ``axis_name=()`` there are none. What crosses devices is O(batch) a call, or O(batch x shards)
for `row_cumsum`.
"""

from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._mass import Mass, terms
from jsoftmax._sweep import SLABS, exact_sum, exact_sweep, largest, sweep
from jsoftmax._typing import Along, Tree


def row_max(x: Array, along: Along) -> Array:
    """Largest entry: -inf for an empty row, NaN for one that holds NaN or +inf. No gradient."""
    peak = _most_of_shards(largest(lax.stop_gradient(x), along.axis), along)
    return jnp.where(peak == jnp.inf, jnp.nan, peak)


def row_peak(x: Array, along: Along) -> Array:
    """Largest entry, or the least float: it can be subtracted from -inf. May overlook NaN."""
    lowest = float(jnp.finfo(x.dtype).min)
    peak = jnp.max(lax.stop_gradient(x), axis=along.axis, keepdims=True, initial=lowest)
    return _most_of_shards(peak, along)


def _most_of_shards(peak: Array, along: Along) -> Array:
    # pmax has no differentiation rule, so the gradient stops before it; and it may drop NaN.
    if not along.axis_name:
        return peak
    return lax.pmax(jnp.where(jnp.isnan(peak), jnp.inf, peak), along.axis_name)


def shard_sum(x: Tree, along: Along) -> Tree:
    """Sum over the shards alone, entry by entry."""
    return lax.psum(x, along.axis_name) if along.axis_name else x


def row_sum(x: Array, along: Along) -> Array:
    """Sum of the entries, in the dtype of ``x`` (booleans are counted in int32)."""
    dtype = jnp.int32 if x.dtype == jnp.bool_ else x.dtype
    return shard_sum(jnp.sum(x, axis=along.axis, keepdims=True, dtype=dtype), along)


def row_exact_sum(x: Array, along: Along) -> tuple[Array, Array]:
    """Sum, and what the sum lacks: see `exact_sum`."""
    return shard_sum(exact_sum(x, along.axis), along)


def row_mass(
    x: Array,
    scale: Callable[[Array], Array],
    along: Along,
    weight: Callable[[Array], Array] | None = None,
) -> Mass:
    """Sum of exp(z) for z = scale(x), of which the largest is near 0: see `terms`."""
    return shard_sum(terms(x, scale, along.axis, weight), along).mass()


def row_sweep(
    along: Along,
    *,
    sums: Sequence[Array],
    maxima: Sequence[Array] = (),
    minima: Sequence[Array] = (),
    slabs: int = SLABS,
    reads: int = 1,
) -> list[Array]:
    """Sums, largest and smallest entries of functions of a row, in one pass: see `sweep`."""
    reduced = sweep(sums, maxima, minima, along.axis, slabs, reads)
    if along.axis_name:
        collectives = [lax.psum] * len(sums) + [lax.pmax] * len(maxima) + [lax.pmin] * len(minima)
        reduced = [
            collective(x, along.axis_name)
            for collective, x in zip(collectives, reduced, strict=True)
        ]
    return reduced


def row_exact_sweep(
    along: Along, sums: Sequence[Array], slabs: int = SLABS
) -> list[tuple[Array, Array]]:
    """Sums of functions of one array, and what they lack, in one pass: see `exact_sweep`."""
    return _exact_sums_of_shards(exact_sweep(sums, along.axis, slabs), along)


def _exact_sums_of_shards(
    sums: list[tuple[Array, Array]], along: Along
) -> list[tuple[Array, Array]]:
    # Of each sum one number per row crosses.
    if not along.axis_name:
        return sums
    totals = lax.psum([total + lack for total, lack in sums], along.axis_name)
    return [(total, jnp.zeros_like(total)) for total in totals]


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


def vary_alike(arrays: Tree, besides: tuple[Hashable, ...] = ()) -> Tree:
    """The arrays, each marked as varying over every mesh axis that one of them varies over.

    But for the axes named besides: those that split the rows, over which a result may be the same.

    A derivative rule then gives each shard's part of a gradient, and `shard_map` sums the parts
    over the axes on which that array was the same everywhere.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return arrays
    everything = frozenset[Hashable]().union(*map(_varying, jax.tree.leaves(arrays)))

    def marked(x: Array) -> Array:
        missing = tuple(everything - _varying(x) - frozenset(besides))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(marked, arrays)


def _varying(x: Array) -> frozenset[Hashable]:
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def row_cumsum(x: Array, along: Along) -> tuple[Array, Array]:
    """Inclusive prefix sums along the whole row, which lies along the last axis, and its sum.

    The shards' totals are placed in a vector of one slot per shard and summed over the mesh, which
    every shard then holds alike: an all-reduce of O(batch x shards).
    """
    local = jnp.cumsum(x, axis=-1, dtype=x.dtype)
    if not along.axis_name:
        return local, local[..., -1:]
    total = jnp.sum(x, axis=-1, keepdims=True, dtype=x.dtype)
    # From zeros like x: on an Explicit mesh the batch then lies as that of x.
    shape = (*x.shape[:-1], shard_count(along))
    slots = jnp.zeros_like(total, jnp.int32) + lax.broadcasted_iota(jnp.int32, shape, x.ndim - 1)
    here, nothing = shard_index(along), jnp.zeros_like(total)
    everyone = lax.psum(jnp.where(slots == here, total, nothing), along.axis_name)

    def sum_of(slots: Array) -> Array:
        return jnp.sum(slots, axis=-1, keepdims=True, dtype=x.dtype)

    return local + sum_of(jnp.where(slots < here, everyone, nothing)), sum_of(everyone)
