"""Local reductions of rows, in the form that each target turns into fast code.

XLA fuses reductions of one operand into one pass on GPUs and TPUs, where the plain form is best. On
CPUs it writes a loop for each, unless they are one reduction of several operands, and it vectorises
best along an axis that is not reduced. There a row is taken as 8 parts of 12 slabs of consecutive
entries; the slabs of a part are combined first, entry by entry. (Parts come first so that a row
split over 2, 4 or 8 devices stays where it lies.) Where several arrays are read, a part is cut into
groups of up to 12 short slabs, one after the other.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax._blocks import PARTS, Blocks, block_at, blocks_of, window_sum
from jsoftmax._exact import fold_slabs, leading_digits, reduce_together, sum_exactly

# XLA:CPU unrolls, and so vectorises, a reduction of up to 64 combinations: of 12 slabs of five
# operands. Beyond that it takes ten times as long; with fewer slabs it stores more.
SLABS = 12
_LENGTH = 16
"""Entries of a short slab."""
_LARGE = 8192
"""From this size of a part on, what is left beyond its groups of short slabs costs little."""
_SHORT = 1024
_PIECE = 128
_FEW_PIECES = 48
"""So many sums of pieces are added up one by one.

At each call, an operation of a reduction of several operands costs a program of XLA:CPU a tenth of
a microsecond, executed or not: fewer reductions are better than the fastest.
"""


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

    if not is_long(x, axis):
        return plain(x)
    return lax.platform_dependent(x, cpu=with_nan, default=plain)


def exact_sum(x: Array, axis: int) -> tuple[Array, Array]:
    """Sum of numbers >= 0 along an axis, which is kept with size one, and what the sum lacks.

    On CPUs, where a sum is a chain of roundings, the sums of short pieces of long rows are added up
    exactly, and the entries of others and of the heaviest piece. Other targets sum in a tree.
    """

    def plain(x: Array) -> tuple[Array, Array]:
        total = jnp.sum(x, axis=axis, keepdims=True, dtype=x.dtype)
        return total, jnp.zeros_like(total)

    def by_pieces(x: Array) -> tuple[Array, Array]:
        if is_long(x, axis):
            return sum_of_pieces(x, x, _themselves)
        # A value of its own: the exponentials would not be vectorised inside of a short sum.
        return _sum_of_parts(in_parts(lax.optimization_barrier(x), axis), axis % x.ndim)

    if not is_whole(x, axis):
        return plain(x)
    return lax.platform_dependent(x, cpu=by_pieces, default=plain)


def _themselves(x: Array) -> tuple[Array, Array]:
    """Numbers >= 0 as their own function for `sum_of_pieces`: 0 where a piece was filled up."""
    return jnp.where(x == -jnp.inf, 0, x), jnp.zeros_like(x)


def _pieces_of(x: Array) -> Blocks:
    """Pieces of about 128 entries: all as long where the row allows it."""
    row = blocks_of(x.shape[-1], length=_PIECE)
    lengths = [n for n in range(_PIECE // 4, 4 * _PIECE) if row.part % n == 0]
    nearest = min(lengths, key=lambda n: abs(math.log(n / _PIECE)), default=_PIECE // 4)
    return row._replace(length=nearest)


def sum_of_pieces(
    x: Array, source: Array, exactly: Callable[[Array], tuple[Array, Array]]
) -> tuple[Array, Array]:
    """Sum of long rows of numbers >= 0, which lie along the last axis, and what it lacks: on CPUs.

    Args:
      x: the numbers.
      source: what each is a function of, -inf where that is 0; or the numbers themselves.
      exactly: the function, with what its result lacks. It is taken of one piece alone, the
        heaviest: rounding takes most from that, where few entries are most of the sum.
    """
    pieces = _pieces_of(x)
    if pieces.part % pieces.length:
        sums = window_sum(x, pieces)
    else:
        # In this form XLA:CPU vectorises each sum, and takes it in a tree.
        in_pieces = x.reshape(*x.shape[:-1], -1, pieces.length)
        sums = jnp.sum(in_pieces, axis=-1, dtype=x.dtype)
    total, lack = sum_exactly(sums, few=_FEW_PIECES)
    most, entries = _heaviest_piece(source, sums, pieces)
    numbers, beyond = exactly(entries)
    leading, rest = leading_digits(numbers, most)
    # Values of their own: the function would not be vectorised inside of a short sum.
    digits = lax.optimization_barrier((leading, rest + beyond))
    leading, rest = (jnp.sum(x, axis=-1, keepdims=True, dtype=x.dtype) for x in digits)
    return total, lack + jnp.sum((leading - most) + rest, axis=-2, dtype=x.dtype)


def _heaviest_piece(x: Array, sums: Array, pieces: Blocks) -> tuple[Array, Array]:
    """The largest sum of a piece, [..., 1, 1], and the entries of x in that, [..., 1, entries].

    Where pieces do not fit the parts of a row, of each part, [..., parts, 1], so that a row that is
    split stays where it lies. With entries at -inf, if a piece is short.
    """
    fit = pieces.part % pieces.length == 0
    batch = x.shape[:-1]
    sums = sums.reshape(*batch, 1 if fit else pieces.parts, -1)
    # Not argmax, which XLA:CPU does not vectorise.
    index = lax.broadcasted_iota(jnp.int32, sums.shape, sums.ndim - 1)
    most = jnp.max(sums, axis=-1, keepdims=True)
    place = jnp.min(jnp.where(sums == most, index, sums.shape[-1]), axis=-1, keepdims=True)
    if fit:
        in_pieces = x.reshape(*batch, -1, pieces.length)
        return most, jnp.take_along_axis(in_pieces, place, axis=-2, mode="clip")
    in_parts = x.reshape(*batch, pieces.parts, -1)
    return most, block_at(in_parts, place, pieces._replace(parts=1))[0]


def sweep(
    sums: Sequence[Array],
    maxima: Sequence[Array],
    minima: Sequence[Array],
    axis: int,
    slabs: int = SLABS,
    reads: int = 1,
) -> list[Array]:
    """Sums, largest and smallest entries of several arrays along an axis, in one pass.

    Args:
      sums: numbers of one dtype, elementwise functions of the same operand.
      maxima: floats, likewise; NaN may be kept or dropped.
      minima: likewise; on CPUs at most five arrays in all.
      axis: of all of them.
      slabs: how many are added up entry by entry on CPUs; fewer for functions that are more than a
        few operations.
      reads: how many arrays of the row's size are read for them.

    Returns:
      The sums, the maxima and the minima, the axis kept with size one.
    """
    kinds = [_SUM] * len(sums) + [_MAX] * len(maxima) + [_MIN] * len(minima)

    def separately(*arrays: Array) -> list[Array]:
        return [kind.reduce(a, axis) for kind, a in zip(kinds, arrays, strict=True)]

    def of_parts(arrays: Sequence[Array]) -> list[Array]:
        # Each part by itself first: where it lies, in a row that is split.
        each = [kind.reduce(a, -1)[..., 0] for kind, a in zip(kinds, arrays, strict=True)]
        return [kind.reduce(a, -1) for kind, a in zip(kinds, each, strict=True)]

    def together(*arrays: Array) -> list[Array]:
        rest: Sequence[Array] = [in_parts(x, -1) for x in arrays]
        found = []
        for number, length in _layout(rest[0].shape[-1], slabs, reads):
            folded, rest = _folded(kinds, rest, number, length)
            found.append(of_parts(folded))
        if rest[0].shape[-1]:
            # A row padded to whole slabs would not be vectorised.
            found.append(of_parts(rest))
        return [reduce(kind.combine, of) for kind, *of in zip(kinds, *found, strict=True)]

    arrays = [*sums, *maxima, *minima]
    if not is_long(arrays[0], axis):
        return separately(*arrays)
    return lax.platform_dependent(*arrays, cpu=together, default=separately)


def exact_sweep(sums: Sequence[Array], axis: int, slabs: int = SLABS) -> list[tuple[Array, Array]]:
    """Sums as `sweep` gives them, and what each lacks: see `exact_sum`. Slabs are added plainly."""

    def separately(*arrays: Array) -> list[tuple[Array, Array]]:
        return [exact_sum(x, axis) for x in arrays]

    def together(*arrays: Array) -> list[tuple[Array, Array]]:
        along = axis % arrays[0].ndim
        rows = [in_parts(x, axis) for x in arrays]
        if rows[0].shape[along + 1] >= slabs:
            rows = fold_slabs(rows, [0.0] * len(rows), _add_all, slabs, along + 1)
        return [_sum_of_parts(x, along) for x in rows]

    if not is_whole(sums[0], axis):
        return separately(*sums)
    return lax.platform_dependent(*sums, cpu=together, default=separately)


def fused_block_sum(x: Array, shards: int) -> Array:
    """As `block_sum`, for CPUs, of numbers that are not stored: it would store them first."""
    blocks = blocks_of(x.shape[-1], shards)
    batch = x.shape[:-1]
    parts = x.reshape(*batch, blocks.parts, blocks.part)
    each = blocks.part // blocks.length
    if each == 0:
        return jnp.sum(parts, axis=-1, dtype=x.dtype)
    whole = each * blocks.length
    in_blocks = parts[..., :whole].reshape(*batch, blocks.parts, each, blocks.length)
    folded = fold_slabs([in_blocks], [0.0], _add_all, SLABS, in_blocks.ndim - 1)
    sums = [jnp.sum(folded[0], axis=-1, dtype=x.dtype)]
    if whole < blocks.part:
        sums.append(jnp.sum(parts[..., whole:], axis=-1, keepdims=True, dtype=x.dtype))
    return jnp.concatenate(sums, axis=-1).reshape(*batch, blocks.number)


def _add_all(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def in_parts(x: Array, axis: int) -> Array:
    """Rows with their axis in 8 parts, [..., parts, V, ...], or in one: in which they are summed.

    So that a row that is split over 2, 4 or 8 devices stays where it lies, if that costs nothing.
    """
    axis %= x.ndim
    size = x.shape[axis]
    free = is_long(x, axis) or (axis < x.ndim - 1 and size >= PARTS * PARTS)
    parts = PARTS if free and size % PARTS == 0 else 1
    return x.reshape(*x.shape[:axis], parts, size // parts, *x.shape[axis + 1 :])


def _sum_of_parts(x: Array, axis: int) -> tuple[Array, Array]:
    """Sum of rows whose axis is in parts, each added up exactly, and what it lacks."""
    # The parts plainly: where they lie on several devices, an all-reduce.
    each = (jnp.squeeze(part, axis + 1) for part in sum_exactly(x, axis + 1))
    total, lack = (jnp.sum(part, axis=axis, keepdims=True, dtype=x.dtype) for part in each)
    return total, lack


class _Kind(NamedTuple):
    identity: float
    combine: Callable[[Array, Array], Array]
    reduce: Callable[[Array, int], Array]


_SUM = _Kind(0, lax.add, lambda x, axis: jnp.sum(x, axis=axis, keepdims=True, dtype=x.dtype))
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


def _layout(size: int, slabs: int, reads: int) -> list[tuple[int, int]]:
    """How many slabs of how many entries each group of a part has; what that leaves has the next.

    Of one array there is one group: slabs are as long as can be. With several, so many streams
    would come from all over the row that a processor no longer fetches them ahead from the main
    memory: there slabs are short, and lie together.
    """
    if reads == 1 or size < slabs * _LENGTH:
        return [(slabs, size // slabs)]
    fitting = [n for n in range(slabs, slabs // 2, -1) if size % (n * _LENGTH) == 0]
    if fitting and size < _LARGE:
        return [(fitting[0], _LENGTH)]
    left = size % (slabs * _LENGTH)
    return [(slabs, _LENGTH), (slabs, left // slabs)] if left >= slabs else [(slabs, _LENGTH)]


def _folded(
    kinds: Sequence[_Kind], rows: Sequence[Array], slabs: int, length: int
) -> tuple[list[Array], list[Array]]:
    """The parts of long rows, [..., parts, V]: the slabs of each group combined; and the rest."""
    whole = rows[0].shape[-1] // (slabs * length) * (slabs * length)
    cut = [x[..., :whole].reshape(*x.shape[:-1], -1, slabs, length) for x in rows]

    def combine(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(kind.combine(a, b) for kind, a, b in zip(kinds, left, right, strict=True))

    identities = [kind.identity for kind in kinds]
    folded = reduce_together(cut, identities, combine, cut[0].ndim - 2)
    return [x.reshape(*x.shape[:-2], -1) for x in folded], [x[..., whole:] for x in rows]


def is_long(x: Array, axis: int) -> bool:
    """Whether slabs and blocks are worth it: the axis is the last, and long, and lies whole."""
    last = axis % x.ndim == x.ndim - 1
    return last and x.shape[-1] >= _SHORT and is_whole(x, axis)


def is_whole(x: Array, axis: int) -> bool:
    """Whether there are entries, and no Explicit mesh axis splits them: it refuses to cut them.

    There are some in a batch whose size is a symbol.
    """
    return 0 not in x.shape and jax.typeof(x).sharding.spec[axis] is None
