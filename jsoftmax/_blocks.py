"""Rows in blocks: a reduction of every block of consecutive entries, in one pass over the logits.

A block's sum says how much mass lies in it, so that a draw needs one block's entries and not the
row's. How the pass is written depends on the target, what it computes does not: XLA's window
reduction is the form that is vectorised on CPUs, a reshape is free on GPUs, and on TPUs, where
splitting the last axis would copy the array, slices are reduced where they lie.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

_LANES = 128
_MOST_BLOCKS = 64


def block_size(size: int) -> int:
    """Entries in a block of a row of `size`: a multiple of 128, with at most 64 blocks."""
    lanes = -(-max(size, 1) // _LANES)
    return -(-lanes // _MOST_BLOCKS) * _LANES


def block_count(size: int) -> int:
    """Number of blocks of a row of `size`."""
    return max(1, -(-size // block_size(size)))


def block_max(x: Array, length: int) -> Array:
    """Largest entry of each block of the last axis, -inf in an empty row; NaN may be dropped."""
    return _reduce_blocks(x, length, -jnp.inf, lax.max, jnp.max)


def block_sum(x: Array) -> Array:
    """Sum of each block of the last axis."""
    return _reduce_blocks(x, block_size(x.shape[-1]), 0.0, lax.add, jnp.sum)


def block_at(x: Array, block: Array) -> tuple[Array, Array]:
    """The entries of one block of each row.

    Args:
      x: floats [..., V].
      block: int32 [..., 1], which block.

    Returns:
      The entries, [..., block size], and the index in the row of the first of them, int32 [..., 1].
      The last block is shorter: it comes with -inf in front.
    """
    size = x.shape[-1]
    length = min(block_size(size), size)
    wanted = block * length
    start = jnp.minimum(wanted, size - length)

    def slice_row(row: Array, start: Array) -> Array:
        return lax.dynamic_slice_in_dim(row, start[0], length)

    for _ in range(x.ndim - 1):
        slice_row = jax.vmap(slice_row)
    entries = slice_row(x, start)
    before = start + lax.broadcasted_iota(jnp.int32, entries.shape, x.ndim - 1) < wanted
    return jnp.where(before, -jnp.inf, entries), start


def _reduce_blocks(
    x: Array,
    length: int,
    identity: float,
    combine: Callable[[Array, Array], Array],
    reduce: Callable[..., Array],
) -> Array:
    batch = x.ndim - 1
    fill = -x.shape[-1] % length

    def windows(x: Array) -> Array:
        window = (1,) * batch + (length,)
        padding = ((0, 0),) * batch + ((0, fill),)
        return lax.reduce_window(
            x, jnp.asarray(identity, x.dtype), combine, window, window, padding
        )

    def slices(x: Array) -> Array:
        starts = range(0, x.shape[-1], length)
        if len(starts) > _MOST_BLOCKS:
            return reshape(x)
        parts = [lax.slice_in_dim(x, s, min(s + length, x.shape[-1]), axis=-1) for s in starts]
        return jnp.stack([reduce(part, axis=-1) for part in parts], axis=-1)

    def reshape(x: Array) -> Array:
        padding = ((0, 0),) * batch + ((0, fill),)
        padded = jnp.pad(x, padding, constant_values=identity)
        return reduce(padded.reshape(*x.shape[:-1], -1, length), axis=-1)

    if x.shape[-1] == 0:
        return jnp.full((*x.shape[:-1], 1), identity, x.dtype)
    if x.shape[-1] <= length:
        return reduce(x, axis=-1, keepdims=True)
    return lax.platform_dependent(x, cpu=windows, tpu=slices, default=reshape)
