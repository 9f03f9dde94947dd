"""The entry of each row that a class index names, in the shard that holds it."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._dtypes import compute_dtype, upcast
from jsoftmax._reduce import row_sum, shard_index
from jsoftmax._typing import Along


def entry(logits: Array, index: Array, along: Along) -> Array:
    """The logit of a class, from the shard that holds it; 0 where the index is out of range."""
    size = logits.shape[along.axis]
    if size == 0:
        return jnp.zeros(index.shape, compute_dtype(logits.dtype))
    if jax.typeof(logits).sharding.spec[along.axis] is not None:
        # Split by an Explicit mesh axis, which refuses to be indexed.
        wide = upcast(logits)
        return row_sum(jnp.where(hits(wide, index, along), wide, 0), along)
    local = index - shard_index(along) * size
    here = (local >= 0) & (local < size)
    held = jnp.take_along_axis(logits, jnp.where(here, local, 0), axis=along.axis)
    return row_sum(jnp.where(here, upcast(held), 0), along)


def hits(z: Array, index: Array, along: Along) -> Array:
    """True at the class of each row, computed where it is used: no one-hot array is kept."""
    axis = along.axis % z.ndim
    local = index - shard_index(along) * z.shape[axis]
    return lax.broadcasted_iota(jnp.int32, z.shape, axis) == local
