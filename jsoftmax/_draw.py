"""Draws of an entry in proportion to the weights: inverse CDF, with wide uniforms and exact sums.

The first uniform finds a block of entries by the blocks' sums, the second a group of entries inside
it, the third an entry. Cumulative sums are integers of about 50 bits in two words: exact, so they
depend neither on the order of summation nor on how the row is sharded, and an entry of probability
1e-7 is drawn as often as it should be.
"""

import math

import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._blocks import block_at, blocks_of
from jsoftmax._dtypes import upcast
from jsoftmax._reduce import row_cumsum, row_max, row_size, row_sum, shard_count, shard_index
from jsoftmax._row import Row
from jsoftmax._typing import Along
from jsoftmax._window import Window

_HIGH_BITS = 30
_GROUP = 64


def draw(bits: Array, row: Row, floor: Array, blocks: Array) -> Array:
    """Index of an entry that is kept, drawn in proportion to its weight: int32 [..., 1].

    Args:
      bits: uint32 of shape (6, *batch, 1), uniform. All zero draws the first entry that is kept.
      row: the row; one with no weight draws 0.
      floor: per row.
      blocks: what `row.blocks_kept` gives for the floor.
    """
    along = row.along
    block = pick(bits[:2], blocks, along)
    count, size = blocks.shape[-1], row.logits.shape[-1]
    local = block - shard_index(along) * count if along.axis_name else block
    blocks_here = blocks_of(size, shard_count(along))
    entries, start = block_at(row.logits, jnp.clip(local, 0, count - 1), blocks_here)
    weight = row.kept_weight(row.widened(entries), floor)
    index = jnp.clip(start + _pick_in_block(bits[2:], weight), 0, max(size - 1, 0))
    if not along.axis_name:
        return index
    mine = (local >= 0) & (local < count)
    return row_sum(jnp.where(mine, index + shard_index(along) * size, 0), along)


def _pick_in_block(bits: Array, weight: Array) -> Array:
    """As `draw`, among the entries of a block: first one of its groups, then an entry of that."""
    length = weight.shape[-1]
    # As many groups as a group has entries, if there are many: `pick` takes few weights.
    size = max(_GROUP, math.isqrt(length))
    if length <= size:
        return pick(bits[2:], weight, Along(-1))
    fill = [(0, 0)] * (weight.ndim - 1) + [(0, -length % size)]
    groups = jnp.pad(weight, fill).reshape(*weight.shape[:-1], -(-length // size), size)
    group = pick(bits[:2], jnp.sum(groups, axis=-1), Along(-1))
    group = jnp.clip(group, 0, groups.shape[-2] - 1)
    inside = jnp.take_along_axis(groups, group[..., None], axis=-2)[..., 0, :]
    return group * size + pick(bits[2:], inside, Along(-1))


def blocks_in_window(row: Row, floor: Array, window: Window) -> Array:
    """As `row.blocks_kept`, where the window holds all entries above the floor."""
    weight = row.kept_weight(window.x, floor)
    blocks = blocks_of(row.logits.shape[-1])
    shape = (*weight.shape, blocks.number)
    places = lax.broadcasted_iota(jnp.int32, shape, weight.ndim)
    inside = blocks.of(window.place)[..., None] == places
    return jnp.sum(jnp.where(inside, weight[..., None], 0), axis=-2)


def entry_at(x: Array, index: Array, along: Along) -> Array:
    """The entry of each row at its index (both have a last axis of size one)."""
    size = x.shape[-1]
    if size == 0:
        return jnp.full((*x.shape[:-1], 1), -jnp.inf, x.dtype)
    if not along.axis_name:
        return jnp.take_along_axis(x, index, axis=-1)
    local = index - shard_index(along) * size
    mine = (local >= 0) & (local < size)
    entry = jnp.take_along_axis(x, jnp.clip(local, 0, size - 1), axis=-1)
    # XLA:CPU dies of a sum over some of a mesh's axes in bfloat16.
    entry = upcast(entry)
    return row_sum(jnp.where(mine, entry, jnp.zeros_like(entry)), along).astype(x.dtype)


def pick(bits: Array, weight: Array, along: Along) -> Array:
    """As `draw`, in one level: from (2, *batch, 1) bits and at most a few hundred weights per row.

    A weight's share of the sum is rounded down to a multiple of 2 ** -(30 + low_bits), kept in two
    words.
    """
    size = row_size(weight, along)
    low_bits = 31 - size.bit_length()

    def split(value: Array) -> Array:
        high = jnp.floor(value)
        low = jnp.floor((value - high) * 2.0**low_bits)
        return jnp.stack([high, low]).astype(jnp.int32)

    def carry(words: Array) -> Array:
        high, low = words
        return jnp.stack([high + (low >> low_bits), low & ((1 << low_bits) - 1)])

    # A sum of floats depends on their order, and so on the shards: this is one of whole numbers.
    most = row_max(weight, along)
    share = weight / jnp.where(most > 0, most, 1)
    whole = (share * 2.0 ** (low_bits - 1)).astype(jnp.int32)
    shares = row_sum(whole, along).astype(weight.dtype) * 2.0 ** (1 - low_bits)
    # Both words in one array: fewer kernels, and for a few rows those are what takes the time.
    words = split(share / jnp.where(shares == 0, 1, shares) * 2.0**_HIGH_BITS)
    (high, low), (total_high, total_low) = map(carry, row_cumsum(words, along.last))

    # The target is uniform below the total: u * 2 ** 30 for the wide uniform u, plus u * (total - 2
    # ** 30).
    taken = jnp.array([32 - _HIGH_BITS, 32 - low_bits], bits.dtype)
    u = (bits >> taken.reshape(2, *[1] * weight.ndim)).astype(jnp.int32)
    excess = (total_high - (1 << _HIGH_BITS)).astype(weight.dtype)
    excess = excess + total_low.astype(weight.dtype) * 2.0**-low_bits
    more = split(u[0].astype(weight.dtype) * 2.0**-_HIGH_BITS * excess)
    target_high, target_low = carry(u + more)

    # The first place whose prefix sum is above the target, or complete.
    passed = (high > target_high) | ((high == target_high) & (low > target_low))
    complete = (high == total_high) & (low == total_low)
    return row_sum(~(passed | complete), along)
