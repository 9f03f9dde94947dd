"""Rows in blocks: a reduction of every block of consecutive entries, in one pass over the logits.

A block's sum says how much mass lies in it, so that a draw needs one block's entries and not the
row's. How the pass is written depends on the target, what it computes does not: XLA's window
reduction is the form that is vectorised on CPUs, a reshape is free on GPUs, and on TPUs, where
splitting the last axis would copy the array, slices are reduced where they lie.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

_SHORTEST = 128
_MOST_BLOCKS = 64
# A row lies in eight parts, each with blocks of its own: the blocks of a row that is split over 2,
# 4 or 8 shards are those of the whole.
PARTS = 8


class Blocks(NamedTuple):
    """How a row of one shard lies in blocks of consecutive entries."""

    parts: int
    part: int
    """Entries of a part."""
    length: int
    """Entries of a block; the last of a part may be shorter."""

    @property
    def number(self) -> int:
        """Number of blocks."""
        return self.parts * -(-max(self.part, 1) // self.length)

    def of(self, index: Array) -> Array:
        """The block that holds this entry."""
        inside = index % max(self.part, 1) // self.length
        return index // max(self.part, 1) * (self.number // self.parts) + inside


def blocks_of(size: int, shards: int = 1, length: int | None = None) -> Blocks:
    """The blocks of a row with `size` entries on each of so many shards: about 64, or fewer.

    Or as many as there are of a given length.
    """
    parts = 1 if size * shards % PARTS or PARTS % shards else PARTS // shards
    length = length or max(-(-size * shards // _MOST_BLOCKS), _SHORTEST)
    return Blocks(parts, size // parts, length)


def block_max(x: Array, length: int) -> Array:
    """Largest entry of each block of so many, -inf in an empty row; NaN may be dropped."""
    blocks = Blocks(1, x.shape[-1], length)
    return _reduce_blocks(x, blocks, -jnp.inf, lax.max, jnp.max, lambda x: x)


def block_sum(x: Array, shards: int = 1, *, of: Callable[[Array], Array] | None = None) -> Array:
    """Sum of each block of the last axis, which is split over so many shards.

    Of a function of the entries, where one is given, that is taken entry by entry; its dtype is
    that of the sums.
    """
    blocks = blocks_of(x.shape[-1], shards)
    return _reduce_blocks(x, blocks, 0.0, lax.add, jnp.sum, of or (lambda x: x))


def window_sum(x: Array, blocks: Blocks) -> Array:
    """Sum of each block of the last axis, written for CPUs."""
    return _reduce_windows(x, blocks, 0.0, lax.add)


def block_at(x: Array, block: Array, blocks: Blocks) -> tuple[Array, Array]:
    """The entries of one block of each row.

    Args:
      x: floats [..., V].
      block: int32 [..., 1], which block.
      blocks: how the row lies in blocks.

    Returns:
      The entries, [..., block size], and the index in the row of the first of them, int32 [..., 1].
      The last block of a part is shorter: it comes with -inf in front.
    """
    length = min(blocks.length, blocks.part)
    each = blocks.number // blocks.parts
    wanted = block % each * blocks.length
    start = jnp.minimum(wanted, blocks.part - length)
    offset = block // each * blocks.part + start

    def slice_row(row: Array, offset: Array) -> Array:
        return lax.dynamic_slice_in_dim(row, offset[0], length)

    for _ in range(x.ndim - 1):
        slice_row = jax.vmap(slice_row)
    entries = slice_row(x, offset)
    before = start + lax.broadcasted_iota(jnp.int32, entries.shape, x.ndim - 1) < wanted
    return jnp.where(before, -jnp.inf, entries), offset


def _reduce_blocks(
    x: Array,
    blocks: Blocks,
    identity: float,
    combine: Callable[[Array, Array], Array],
    reduce: Callable[..., Array],
    of: Callable[[Array], Array],
) -> Array:
    length, batch = blocks.length, x.shape[:-1]
    fill = -blocks.part % length

    def in_parts(x: Array) -> Array:
        return x.reshape(*batch, blocks.parts, blocks.part)

    def windows(x: Array) -> Array:
        return _reduce_windows(of(x), blocks, identity, combine)

    def slices(x: Array) -> Array:
        if blocks.number > _MOST_BLOCKS:
            return reshaped(x)
        spans = [
            (part + start, part + min(start + length, blocks.part))
            for part in range(0, blocks.parts * blocks.part, blocks.part)
            for start in range(0, blocks.part, length)
        ]
        # The function after the slice: before it, the whole result would be stored.
        found = [reduce(of(lax.slice_in_dim(x, *span, axis=-1)), axis=-1) for span in spans]
        return jnp.stack(found, axis=-1)

    def reshaped(x: Array) -> Array:
        padding = ((0, 0),) * (len(batch) + 1) + ((0, fill),)
        padded = jnp.pad(in_parts(of(x)), padding, constant_values=identity)
        found = reduce(padded.reshape(*batch, blocks.parts, -1, length), axis=-1)
        return found.reshape(*batch, -1)

    if x.size == 0:
        return jnp.full((*batch, blocks.number), identity, jax.eval_shape(of, x).dtype)
    if blocks.part <= length:
        return reduce(in_parts(of(x)), axis=-1)
    return lax.platform_dependent(x, cpu=windows, tpu=slices, default=reshaped)


def _reduce_windows(
    x: Array, blocks: Blocks, identity: float, combine: Callable[[Array, Array], Array]
) -> Array:
    batch = x.shape[:-1]
    window = (1,) * (len(batch) + 1) + (blocks.length,)
    padding = ((0, 0),) * (len(batch) + 1) + ((0, -blocks.part % blocks.length),)
    start = jnp.asarray(identity, x.dtype)
    parts = x.reshape(*batch, blocks.parts, blocks.part)
    found = lax.reduce_window(parts, start, combine, window, window, padding)
    return found.reshape(*batch, -1)
