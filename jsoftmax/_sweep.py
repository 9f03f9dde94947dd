"""Local reductions of rows, in the form that each target turns into fast code.

XLA fuses reductions of one operand into one pass on GPUs and TPUs, where the plain form is best. On
CPUs it writes a loop for each, unless they are one reduction of several operands, and it vectorises
best along an axis that is not reduced. There a row is taken as 8 parts of 12 slabs of consecutive
entries; the slabs of a part are combined first, entry by entry. (Parts come first so that a row
split over 2, 4 or 8 devices stays where it lies.)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax._blocks import block_at, block_max, block_sum, blocks_of

_PARTS = 8
# XLA:CPU unrolls, and so vectorises, a reduction of up to 64 combinations: of 12 slabs of five
# operands. Beyond that it takes ten times as long; with fewer slabs it stores more.
SLABS = 12
_SHORT = 1024


def largest(x: Array, axis: int) -> Array:
    """Largest entry, the axis kept with size one: -inf if empty, +inf if there is a NaN."""

    def plain(x: Array) -> Array:
        # Not by a second reduction for NaN: a TPU would copy the row for the two.
        bounded = jnp.where(jnp.isnan(x), jnp.inf, x)
        return jnp.max(bounded, axis=axis, keepdims=True, initial=-jnp.inf)

    def by_blocks(x: Array) -> Array:
        most = jnp.max(block_max(x, blocks_of(x.shape[-1]).length), axis=-1, keepdims=True)
        # That maximum overlooks NaN, which no sum does. The factor keeps it from overflowing.
        sound = jnp.sum(x * 2.0**-60, axis=axis, keepdims=True) < jnp.inf
        return jnp.where(sound, most, jnp.inf)

    if not _is_long(x, axis):
        return plain(x)
    return lax.platform_dependent(x, cpu=by_blocks, default=plain)


def mass(x: Array, scale: Callable[[Array], Array], axis: int) -> tuple[Array, Array]:
    """Sum of exp(z) for z = scale(x) <= 0, and what it is beyond one for each z that is near 0.

    Where the sum is below 1.5 the second is the sum over all entries but the largest, to full
    accuracy. On CPUs, where a second sum is a second pass, it is that only there: one block of the
    row, which holds the largest, is summed again.
    """

    def beyond_one(z: Array) -> Array:
        # exp(z) = 1 + (z + z z / 2) near 0. Not only where z == 0: a compiler that computes the
        # logits twice, for the maximum and for z, may round them differently.
        return jnp.where(_near_zero(z), z + z * z / 2, jnp.exp(z))

    def plain(x: Array) -> tuple[Array, Array]:
        z = scale(x)
        others = jnp.sum(beyond_one(z), axis=axis, keepdims=True)
        return others + jnp.sum(_near_zero(z), axis=axis, keepdims=True, dtype=z.dtype), others

    def by_blocks(x: Array) -> tuple[Array, Array]:
        blocks = block_sum(x, of=lambda x: jnp.exp(scale(x)))
        # Not by argmax, which XLA:CPU does not vectorise.
        places = lax.broadcasted_iota(jnp.int32, blocks.shape, blocks.ndim - 1)
        is_most = blocks == jnp.max(blocks, axis=-1, keepdims=True)
        most = jnp.max(jnp.where(is_most, places, 0), axis=-1, keepdims=True)
        in_most = beyond_one(scale(block_at(x, most)[0]))
        others = jnp.sum(jnp.where(places == most, 0, blocks), axis=-1, keepdims=True)
        others += jnp.sum(in_most, axis=-1, keepdims=True)
        return jnp.sum(blocks, axis=-1, keepdims=True), others

    if not _is_long(x, axis):
        return plain(x)
    return lax.platform_dependent(x, cpu=by_blocks, default=plain)


def _near_zero(z: Array) -> Array:
    return z > -(2.0**-10 if z.dtype == jnp.float32 else 2.0**-20)


def sweep(
    sums: Sequence[Array],
    maxima: Sequence[Array],
    minima: Sequence[Array],
    axis: int,
    slabs: int = SLABS,
) -> list[Array]:
    """Sums, largest and smallest entries of several arrays along an axis, in one pass.

    Args:
      sums: numbers of one dtype, elementwise functions of the same operand.
      maxima: floats free of NaN, likewise.
      minima: likewise; on CPUs at most five arrays in all.
      axis: of all of them.
      slabs: how many are added up entry by entry on CPUs; fewer for functions that are more than a
        few operations.

    Returns:
      The sums, the maxima and the minima, the axis kept with size one.
    """
    kinds = [_SUM] * len(sums) + [_MAX] * len(maxima) + [_MIN] * len(minima)

    def separately(*arrays: Array, axis: int = axis) -> list[Array]:
        return [kind.reduce(a, axis) for kind, a in zip(kinds, arrays, strict=True)]

    def together(*arrays: Array) -> list[Array]:
        parts = _PARTS if arrays[0].shape[-1] % _PARTS == 0 else 1
        rows = [x.reshape(*x.shape[:-1], parts, -1) for x in arrays]
        size = rows[0].shape[-1]
        whole = size - size % slabs
        cut = [x[..., :whole].reshape(*x.shape[:-1], slabs, -1) for x in rows]
        identities = [
            jnp.asarray(kind.identity, a.dtype) for kind, a in zip(kinds, arrays, strict=True)
        ]

        def combine(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
            return tuple(kind.combine(a, b) for kind, a, b in zip(kinds, left, right, strict=True))

        folded = lax.reduce(tuple(cut), tuple(identities), combine, (cut[0].ndim - 2,))
        reduced = separately(*[a.reshape(*a.shape[:-2], -1) for a in folded], axis=-1)
        if whole == size:
            return reduced
        # A row padded to whole slabs would not be vectorised.
        rest = [x[..., whole:].reshape(*x.shape[:-2], -1) for x in rows]
        return list(combine(reduced, separately(*rest, axis=-1)))

    arrays = [*sums, *maxima, *minima]
    if not _is_long(arrays[0], axis):
        return separately(*arrays)
    return lax.platform_dependent(*arrays, cpu=together, default=separately)


class _Kind(NamedTuple):
    identity: float
    combine: Callable[[Array, Array], Array]
    reduce: Callable[[Array, int], Array]


_SUM = _Kind(0, lax.add, lambda x, axis: jnp.sum(x, axis=axis, keepdims=True, dtype=x.dtype))
_MAX = _Kind(
    -np.inf, lax.max, lambda x, axis: jnp.max(x, axis=axis, keepdims=True, initial=-jnp.inf)
)
_MIN = _Kind(np.inf, lax.min, lambda x, axis: jnp.min(x, axis=axis, keepdims=True, initial=jnp.inf))


def _is_long(x: Array, axis: int) -> bool:
    """Whether slabs and blocks are worth it: the axis is the last, and long.

    And not split by Explicit mesh axes, which refuse to cut it up.
    """
    last = axis % x.ndim == x.ndim - 1
    long = last and x.shape[-1] >= _SHORT and x.size > 0
    return long and jax.typeof(x).sharding.spec[-1] is None
