"""The largest entries of a row, in a window that tells how far down it is complete."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._blocks import block_max

_SIZE = 64
_BLOCK = 32


class Window(NamedTuple):
    """The largest entries of each row, from the largest down: [..., 64], or the whole row."""

    x: Array
    place: Array
    """The indices of these entries in the row."""
    rest: Array
    """No entry outside the window is larger than this: [..., 1]."""


def window_of(x: Array) -> Window:
    """The window of each row of [..., V].

    An entry among the largest lies in one of the 64 blocks with the largest maxima.
    """
    length = x.shape[-1]
    if length <= _SIZE * _BLOCK:
        values, place = _top_k(x, min(_SIZE, length))
    else:
        blocks = _blocks(x)
        _, block = _top_k(block_max(x, _BLOCK), _SIZE)
        entries = jnp.take_along_axis(blocks, block[..., None], axis=-2)
        values, order = _top_k(entries.reshape(*x.shape[:-1], _SIZE * _BLOCK), _SIZE)
        place = jnp.take_along_axis(block, order // _BLOCK, axis=-1) * _BLOCK + order % _BLOCK
    rest = values[..., -1:] if length > _SIZE else jnp.full_like(values[..., -1:], -jnp.inf)
    return Window(values, place, rest)


def _top_k(x: Array, k: int) -> tuple[Array, Array]:
    """As lax.top_k, behind barriers: XLA:CPU sorts where it sees that the result is sliced.

    Two, since its pass over top_k aborts on a barrier that takes both results.
    """
    values, order = lax.top_k(x, k)
    return lax.optimization_barrier(values), lax.optimization_barrier(order)


def _blocks(x: Array) -> Array:
    missing = -x.shape[-1] % _BLOCK
    if missing:
        fill = jnp.asarray(-jnp.inf, x.dtype)
        x = lax.pad(x, fill, [(0, 0, 0)] * (x.ndim - 1) + [(0, missing, 0)])
    return x.reshape(*x.shape[:-1], x.shape[-1] // _BLOCK, _BLOCK)
