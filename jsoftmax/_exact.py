"""Sums and quotients as two floats, the second of which is what rounding took from the first.

Source: Dekker (1971), Knuth (1969), and Ogita, Rump and Oishi (2005) for the sums. A compiler that
contracts a product and a sum to one operation makes none of them less exact.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Combine: TypeAlias = Callable[[Sequence[Array], Sequence[Array]], tuple[Array, ...]]

_SLABS = 8
_FEW = 16


def add_exactly(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum, and what it lacks: NaN where the sum is no float."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def subtract_exactly(x: Array, most: Array) -> tuple[Array, Array]:
    """The rounded difference, and what it lacks: 0 where the difference is -inf.

    With no NaN on the way where x is, which a checker would see.
    """
    absent = x == -jnp.inf
    difference, lack = add_exactly(jnp.where(absent, most, x), -most)
    difference = jnp.where(absent, x - most, difference)
    return difference, jnp.where(difference == -jnp.inf, 0, lack)


def sum_exactly(x: Array, axis: int = -1, few: int = _FEW) -> tuple[Array, Array]:
    """Sum along an axis, which is kept with size one, and what it lacks; by slabs until few."""
    total, lack = fold((x, jnp.zeros_like(x)), (0.0, 0.0), _sum_of_two, axis % x.ndim, few)
    return total, lack


def _sum_of_two(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, Array]:
    total, lack = add_exactly(left[0], right[0])
    return total, left[1] + right[1] + lack


def fold(
    operands: Sequence[Array],
    identities: Sequence[float],
    combine: Combine,
    axis: int,
    few: int = _FEW,
) -> list[Array]:
    """Reduce several operands along an axis, which is kept with size one.

    Slabs of the row are combined entry by entry, which XLA:CPU vectorises, until few numbers are
    left. (Whatever the batch: a row gives the same bits alone as among others.)
    """
    while operands[0].shape[axis] > few:
        operands = fold_slabs(operands, identities, combine, _SLABS, axis)
    found = reduce_together(operands, identities, combine, axis)
    return [jnp.expand_dims(x, axis) for x in found]


def fold_slabs(
    operands: Sequence[Array], identities: Sequence[float], combine: Combine, slabs: int, axis: int
) -> list[Array]:
    """Combine so many slabs of a row entry by entry; what is beyond them is left as it is."""
    shape = operands[0].shape
    whole = shape[axis] - shape[axis] % slabs
    in_slabs = (*shape[:axis], slabs, whole // slabs, *shape[axis + 1 :])
    on_top = [lax.slice_in_dim(x, 0, whole, axis=axis).reshape(in_slabs) for x in operands]
    folded = reduce_together(on_top, identities, combine, axis)
    if whole == shape[axis]:
        return list(folded)
    return [
        jnp.concatenate([column, lax.slice_in_dim(x, whole, None, axis=axis)], axis=axis)
        for column, x in zip(folded, operands, strict=True)
    ]


def reduce_together(
    operands: Sequence[Array], identities: Sequence[float], combine: Combine, axis: int
) -> Sequence[Array]:
    """Reduce operands along an axis, which XLA:CPU computes on the way, if there are several.

    A single one it hands to YNNPACK, and stores it first if anything in it compares, selects or
    looks at bits: that is reduced twice.
    """
    if len(operands) == 1:

        def twice(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
            return *combine(left[:1], right[:1]), *combine(left[1:], right[1:])

        both = reduce_together([*operands] * 2, [*identities] * 2, twice, axis)
        # The barrier keeps the one that is not asked for.
        return lax.optimization_barrier(tuple(both))[:1]
    pairs = zip(identities, operands, strict=True)
    start = tuple(jnp.asarray(identity, x.dtype) for identity, x in pairs)
    return lax.reduce(tuple(operands), start, combine, (axis,))


def leading_digits(x: Array, most: Array) -> tuple[Array, Array]:
    """Split x, at least 0 and with a sum near `most`: digits whose sum is exact, and the rest."""
    unit = 1.5 * jnp.minimum(4 * power_of_two(most), 2.0 ** (np.finfo(x.dtype).maxexp - 3))
    leading = (x + unit) - unit
    return leading, x - leading


def power_of_two(x: Array) -> Array:
    """The largest that is no more than x, for x above 0."""
    return without_digits(x, np.finfo(x.dtype).nmant)


def unit_near(x: Array) -> Array:
    """A power of two near x, of which the reciprocal is a float, and both times 64 are, too."""
    kind = np.finfo(x.dtype)
    return power_of_two(
        jnp.minimum(jnp.maximum(x, 2.0 ** (kind.minexp + 6)), 2.0 ** (kind.maxexp - 8))
    )


def reciprocal(x: Array, lack: Array) -> tuple[Array, Array]:
    """1 / (x + lack), and what that lacks, where the latter is no denormal: for x up to 1e30."""
    inverse = 1 / x
    # 1 - x * inverse from products of halves, which are exact.
    x_high, x_low = halves(x)
    high, low = halves(inverse)
    rest = (((1 - x_high * high) - x_high * low) - x_low * high) - x_low * low
    return inverse, (rest - lack * inverse) * inverse


def multiply_exactly(a: Array, b: Array) -> tuple[Array, Array]:
    """The product as two floats, of which the first has half the digits; the second may be NaN.

    (A first with all of them would not be what a contracted sum takes it for.) A tiny one is
    rounded: its parts would be denormals.
    """
    product = a * b
    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    high, _ = halves(product)
    low = ((a_high * b_high - high) + (a_high * b_low + a_low * b_high)) + a_low * b_low
    kind = jnp.finfo(product.dtype)
    tiny = jnp.abs(product) < float(kind.tiny / kind.eps)
    return jnp.where(tiny, product, high), jnp.where(tiny, 0, low)


def divide_exactly(x: Array, lack: Array, divisor: Array) -> tuple[Array, Array]:
    """(x + lack) / divisor likewise, by what the first leaves; -inf and 0 where x is -inf.

    Whatever a compiler contracts: equal numbers have equal quotients, in each lane of a loop.
    """
    inverse, absent = 1 / divisor, x == -jnp.inf
    present = jnp.where(absent, 0, x)
    high, _ = halves(present * inverse)
    of_high, of_low = halves(divisor)
    rest = ((present - high * of_high) - high * of_low) + lack
    # A product beyond a selection is not contracted with a sum.
    low = jnp.where(absent | (high == -jnp.inf), 0, rest * inverse)
    return jnp.where(absent, x, high), low


def halves(x: Array) -> tuple[Array, Array]:
    """Two floats of half the digits each, whose sum is x. By its bits: no compiler rounds them.

    Neither is further from 0 than x. Products of halves are exact, but for those of two lower ones
    where the digits are odd.
    """
    digits = np.finfo(x.dtype).nmant + 1
    high = without_digits(x, (digits + 1) // 2)
    return high, x - high


def without_digits(x: Array, dropped: int) -> Array:
    """The float that is left without so many of the last digits, by its bits."""
    bits = lax.bitcast_convert_type(x, np.dtype(f"uint{8 * x.dtype.itemsize}"))
    return lax.bitcast_convert_type(bits >> dropped << dropped, x.dtype)
