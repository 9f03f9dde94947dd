"""Local reductions of rows, in the form that each target turns into fast code.

XLA fuses reductions of one operand into one pass on GPUs and TPUs, where the plain form is best. On
CPUs it writes a loop for each, unless they are one reduction of several operands, and it vectorises
best along an axis that is not reduced. There a row is taken as 8 blocks of 8 slabs of consecutive
entries; the slabs of a block are combined first, entry by entry. (Blocks come first so that a row
split over 2, 4 or 8 devices stays where it lies.)
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_BLOCKS = 8
# XLA:CPU unrolls, and so vectorises, a reduction of up to 64 combinations: of 8 slabs of 8
# operands. Beyond that it takes ten times as long.
_SLABS = 8
_SHORT = 1024


def largest(x: Array, axis: int) -> Array:
    """Largest entry, the axis kept with size one: -inf if empty; NaN, or +inf, where one is NaN."""

    def plain(x: Array, axis: int = axis) -> Array:
        # XLA:CPU's vectorised maximum along a last axis may drop NaN.
        bounded = jnp.where(jnp.isnan(x), jnp.inf, x)
        return jnp.max(bounded, axis=axis, keepdims=True, initial=-jnp.inf)

    def slab_by_slab(x: Array) -> Array:
        slabs = _slabs(x, -jnp.inf)
        folded = reduce(jnp.maximum, [slabs[..., i, :] for i in range(_SLABS)])
        return plain(folded.reshape(*x.shape[:-1], -1), -1)

    if not _is_long(x, axis):
        return plain(x)
    return lax.platform_dependent(x, cpu=slab_by_slab, default=plain)


def sweep(
    sums: Sequence[Array], maxima: Sequence[Array], minima: Sequence[Array], axis: int
) -> list[Array]:
    """Sums, largest and smallest entries of several arrays along an axis, in one pass.

    Args:
      sums: numbers of one dtype, elementwise functions of the same operand.
      maxima: floats free of NaN, likewise.
      minima: likewise; at most 8 arrays in all.
      axis: of all of them.

    Returns:
      The sums, the maxima and the minima, the axis kept with size one.
    """
    kinds = [_SUM] * len(sums) + [_MAX] * len(maxima) + [_MIN] * len(minima)

    def separately(*arrays: Array, axis: int = axis) -> list[Array]:
        return [kind.reduce(a, axis) for kind, a in zip(kinds, arrays, strict=True)]

    def together(*arrays: Array) -> list[Array]:
        slabs = [_slabs(a, kind.identity) for kind, a in zip(kinds, arrays, strict=True)]
        identities = [
            jnp.asarray(kind.identity, a.dtype) for kind, a in zip(kinds, arrays, strict=True)
        ]

        def combine(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
            return tuple(kind.combine(a, b) for kind, a, b in zip(kinds, left, right, strict=True))

        folded = lax.reduce(tuple(slabs), tuple(identities), combine, (slabs[0].ndim - 2,))
        return separately(*[a.reshape(*a.shape[:-2], -1) for a in folded], axis=-1)

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
    """Whether slabs are worth it: the axis is the last, and long."""
    return axis % x.ndim == x.ndim - 1 and x.shape[-1] >= _SHORT


def _slabs(x: Array, fill: float) -> Array:
    """The last axis as blocks of slabs of consecutive entries: [..., V] to [..., 8, 8, V / 64]."""
    missing = -x.shape[-1] % (_BLOCKS * _SLABS)
    if missing:
        padding = [(0, 0, 0)] * (x.ndim - 1) + [(0, missing, 0)]
        x = lax.pad(x, jnp.asarray(fill, x.dtype), padding)
    return x.reshape(*x.shape[:-1], _BLOCKS, _SLABS, -1)
