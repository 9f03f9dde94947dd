"""Local reductions of rows, in the form that each target turns into fast code.

XLA fuses reductions of one operand into one pass on GPUs and TPUs, where the plain form is best. On
CPUs it writes a loop for each, unless they are one reduction of several operands, and it vectorises
best along an axis that is not reduced. There a row is taken as 8 parts of 12 slabs of consecutive
entries; the slabs of a part are combined first, entry by entry. (Parts come first so that a row
split over 2, 4 or 8 devices stays where it lies.)
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax._blocks import Blocks, block_at, blocks_of, window_sum
from jsoftmax._exact import add_exactly, sum_exactly, sum_in_order

_PARTS = 8
# XLA:CPU unrolls, and so vectorises, a reduction of up to 64 combinations: of 12 slabs of five
# operands. Beyond that it takes ten times as long; with fewer slabs it stores more.
SLABS = 12
SHORT = 1024
_FEW = 16
_PIECE = 128


def largest(x: Array, axis: int) -> Array:
    """Largest entry, the axis kept with size one: -inf if empty, +inf if there is a NaN."""

    def plain(x: Array) -> Array:
        # Not by a second reduction for NaN: a TPU would copy the row for the two.
        bounded = jnp.where(jnp.isnan(x), jnp.inf, x)
        return jnp.max(bounded, axis=axis, keepdims=True, initial=-jnp.inf)

    def with_nan(x: Array) -> Array:
        # The maximum may overlook NaN here. XLA would store the bounded logits for it.
        unsound = jnp.where(jnp.isnan(x), jnp.inf, jnp.asarray(-jnp.inf, x.dtype))
        most, unsound = sweep((), (x, unsound), (), axis)
        return jnp.where(unsound == jnp.inf, unsound, most)

    if not _is_long(x, axis):
        return plain(x)
    return lax.platform_dependent(x, cpu=with_nan, default=plain)


def exact_sum(x: Array, axis: int, least: int = SHORT) -> tuple[Array, Array]:
    """Sum of an axis, which is kept with size one, and what the sum lacks.

    On CPUs, where a sum is a chain of roundings, the sums of short pieces are added up exactly in
    rows of `least` entries or more, and single entries in very short ones. (In between, where that
    would cost as much as the exponentials, and on other targets, which sum in a tree, it is the
    plain sum.)
    """

    def plain(x: Array) -> tuple[Array, Array]:
        total = jnp.sum(x, axis=axis, keepdims=True, dtype=x.dtype)
        return total, jnp.zeros_like(total)

    def in_order(x: Array) -> tuple[Array, Array]:
        return sum_in_order(x, axis)

    def by_pieces(x: Array) -> tuple[Array, Array]:
        return sum_exactly(_sum_of_pieces(x))

    size = x.shape[axis]
    if 0 < size <= _FEW and jax.typeof(x).sharding.spec[axis] is None:
        return lax.platform_dependent(x, cpu=in_order, default=plain)
    if not _is_long(x, axis) or size < least:
        return plain(x)
    return lax.platform_dependent(x, cpu=by_pieces, default=plain)


def _pieces_of(x: Array) -> Blocks:
    """Pieces of about 128 entries: all as long where the row allows it."""
    row = blocks_of(x.shape[-1], length=_PIECE)
    lengths = [n for n in range(_PIECE // 4, 4 * _PIECE) if row.part % n == 0]
    nearest = min(lengths, key=lambda n: abs(math.log(n / _PIECE)), default=_PIECE // 4)
    return row._replace(length=nearest)


def _sum_of_pieces(x: Array) -> Array:
    pieces = _pieces_of(x)
    if pieces.part % pieces.length:
        return window_sum(x, pieces)
    # In this form XLA:CPU vectorises each sum, and takes it in a tree.
    return jnp.sum(x.reshape(*x.shape[:-1], -1, pieces.length), axis=-1, dtype=x.dtype)


def mass(x: Array, scale: Callable[[Array], Array], axis: int) -> tuple[tuple[Array, Array], Array]:
    """Sum of exp(z) for z = scale(x) <= 0, and what it is beyond one for each z that is near 0.

    The first is `exact_sum` of the masses. Where it is below 1.5 the second is the sum over all
    entries but the largest, to full accuracy. On CPUs, where a second sum is a second pass, it is
    that only there: the piece that holds the largest is summed again.
    """

    def beyond_one(z: Array) -> Array:
        # exp(z) = 1 + (z + z z / 2) near 0. Not only where z == 0: a compiler that computes the
        # logits twice, for the maximum and for z, may round them differently.
        return jnp.where(_near_zero(z), z + z * z / 2, jnp.exp(z))

    def count(z: Array, axis: int) -> Array:
        return jnp.sum(_near_zero(z), axis=axis, keepdims=True, dtype=z.dtype)

    def plain(x: Array) -> tuple[tuple[Array, Array], Array]:
        z = scale(x)
        # Never by pieces: where those are worth it, this is for other targets.
        others, lack = exact_sum(beyond_one(z), axis, least=z.shape[axis] + 1)
        total, rest = add_exactly(count(z, axis), others)
        return (total, rest + lack), others + lack

    def by_pieces(x: Array) -> tuple[tuple[Array, Array], Array]:
        pieces = _sum_of_pieces(jnp.exp(scale(x)))
        # Not by argmax, which XLA:CPU does not vectorise.
        places = lax.broadcasted_iota(jnp.int32, pieces.shape, pieces.ndim - 1)
        is_most = pieces == jnp.max(pieces, axis=-1, keepdims=True)
        most = jnp.max(jnp.where(is_most, places, 0), axis=-1, keepdims=True)
        in_most = scale(block_at(x, most, _pieces_of(x))[0])
        others, lack = sum_exactly(jnp.where(places == most, 0, pieces))
        others, more = add_exactly(others, jnp.sum(beyond_one(in_most), axis=-1, keepdims=True))
        total, rest = add_exactly(count(in_most, -1), others)
        return (total, rest + (lack + more)), others + (lack + more)

    if not _is_long(x, axis):
        return plain(x)
    return lax.platform_dependent(x, cpu=by_pieces, default=plain)


def _near_zero(z: Array) -> Array:
    return z > -(2.0**-10 if z.dtype == jnp.float32 else 2.0**-20)


def sweep(
    sums: Sequence[Array],
    maxima: Sequence[Array],
    minima: Sequence[Array],
    axis: int,
    slabs: int = SLABS,
    *,
    exact: bool = False,
) -> list[Array]:
    """Sums, largest and smallest entries of several arrays along an axis, in one pass.

    Args:
      sums: numbers of one dtype, elementwise functions of the same operand.
      maxima: floats, likewise; NaN may be kept or dropped.
      minima: likewise; on CPUs at most five arrays in all.
      axis: of all of them.
      slabs: how many are added up entry by entry on CPUs; fewer for functions that are more than a
        few operations.
      exact: add up what the slabs come to without further rounding.

    Returns:
      The sums, the maxima and the minima, the axis kept with size one.
    """
    kinds = (
        [_EXACT_SUM if exact else _SUM] * len(sums) + [_MAX] * len(maxima) + [_MIN] * len(minima)
    )

    def separately(*arrays: Array) -> list[Array]:
        return [kind.reduce(a, axis) for kind, a in zip(kinds, arrays, strict=True)]

    def of_parts(arrays: Sequence[Array]) -> list[Array]:
        # Each part by itself first: where it lies, in a row that is split.
        each = [kind.reduce_last(a)[..., 0] for kind, a in zip(kinds, arrays, strict=True)]
        return [kind.reduce(a, -1) for kind, a in zip(kinds, each, strict=True)]

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
        reduced = of_parts(folded)
        if whole == size:
            return reduced
        # A row padded to whole slabs would not be vectorised.
        return list(combine(reduced, of_parts([x[..., whole:] for x in rows])))

    arrays = [*sums, *maxima, *minima]
    if not _is_long(arrays[0], axis):
        return separately(*arrays)
    return lax.platform_dependent(*arrays, cpu=together, default=separately)


class _Kind(NamedTuple):
    identity: float
    combine: Callable[[Array, Array], Array]
    reduce: Callable[[Array, int], Array]
    last: Callable[[Array], Array] | None = None

    def reduce_last(self, x: Array) -> Array:
        """Reduce the last axis, in another way where there is one."""
        return self.reduce(x, -1) if self.last is None else self.last(x)


def _rounded_once(x: Array) -> Array:
    total, lack = sum_exactly(x)
    return total + lack


_SUM = _Kind(0, lax.add, lambda x, axis: jnp.sum(x, axis=axis, keepdims=True, dtype=x.dtype))
_EXACT_SUM = _SUM._replace(last=_rounded_once)
_MAX = _Kind(
    -np.inf,
    # An instruction each, where those that propagate NaN take several.
    lambda a, b: lax.select(a > b, a, b),
    lambda x, axis: jnp.max(x, axis=axis, keepdims=True, initial=-jnp.inf),
)
_MIN = _Kind(
    np.inf,
    lambda a, b: lax.select(a < b, a, b),
    lambda x, axis: jnp.min(x, axis=axis, keepdims=True, initial=jnp.inf),
)


def _is_long(x: Array, axis: int) -> bool:
    """Whether slabs and blocks are worth it: the axis is the last, and long.

    And not split by Explicit mesh axes, which refuse to cut it up.
    """
    last = axis % x.ndim == x.ndim - 1
    long = last and x.shape[-1] >= SHORT and x.size > 0
    return long and jax.typeof(x).sharding.spec[-1] is None
