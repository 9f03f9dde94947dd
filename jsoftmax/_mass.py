"""The sum of exp(z) over a row, and what it is beyond the largest entry.

On CPUs rows are folded: a few slabs of a row are combined entry by entry, to the largest
weight of each column and the sum of the others, in one reduction that stores nothing else.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._exact import add_exactly, fold, fold_slabs
from jsoftmax._exp import exp, exp_exactly
from jsoftmax._sweep import in_parts, is_whole, sum_of_pieces

MODERATE = (-0.5, 70.0)
"""Largest entries x of which exp(x) can be taken as it is, and summed over any row."""

_SLABS = ((4, 8, 64), (8, 64, math.inf), (12, 128, math.inf))
"""How many are combined at a time, and in rows of which lengths: from, and below.

More would not be vectorised, and in short rows be rounded more.
"""
_FEW = 16
"""Rows of fewer entries would not be vectorised where the weights are not stored first."""


class Mass(NamedTuple):
    """What a row weighs; the axis is kept with size one."""

    total: Array
    lack: Array
    """What rounding took from the total."""
    others: Array
    """The weight of all entries but the largest, in units of that: sound where it is small."""


class Terms(NamedTuple):
    """What the sum of exp(z) is of a row, or a part of it: sums of these are those of the whole."""

    ones: Array
    """How many entries count as one, having z near 0."""
    beyond: Array
    """All that is beyond these."""
    lack: Array
    """What rounding took from that."""

    def mass(self) -> Mass:
        """The sum itself."""
        total, rest = add_exactly(self.ones, self.beyond)
        return Mass(total, rest + self.lack, self.beyond + self.lack + (self.ones - 1))


def terms(
    x: Array,
    scale: Callable[[Array], Array],
    axis: int,
    weight: Callable[[Array], Array] | None = None,
) -> Terms:
    """The sum of exp(z) for z = scale(x), of which the largest is near 0, or -inf.

    CPUs take exp(z) as weight(x), if that is given: as it is stored, or with less rounding. (The
    largest z need not be 0: a compiler that computes the logits twice, for the maximum and for z,
    may round them differently.)
    """

    def plain(x: Array) -> Terms:
        z = scale(x)
        near = z > -(2.0**-10 if z.dtype == jnp.float32 else 2.0**-20)
        # exp(z) = 1 + z (1 + z / 2) near 0, and that is no NaN at -inf, which a checker would see.
        beyond_one = jnp.where(near, z * (1 + z / 2), exp(z))
        beyond = jnp.sum(beyond_one, axis=axis, keepdims=True, dtype=z.dtype)
        ones = jnp.sum(near, axis=axis, keepdims=True, dtype=z.dtype)
        return Terms(ones, beyond, jnp.zeros_like(beyond))

    def folded(weight: Array) -> Terms:
        others, lack, most = _fold(weight, axis)
        near = most > 0.99
        beyond, rest = add_exactly(others, jnp.where(near, most - 1, most))
        return Terms(near.astype(weight.dtype), beyond, lack + rest)

    if not is_whole(x, axis):
        return plain(x)
    of = weight or (lambda x: exp(scale(x)))
    return lax.platform_dependent(x, cpu=lambda x: folded(of(x)), default=plain)


def unshifted_mass(x: Array, axis: int) -> tuple[Array, Mass]:
    """Largest entry, and the sum of exp(x), if that is a float: in one pass on CPUs.

    The largest may overlook NaN, which the sum does not.
    """
    others, lack, most, peak = _fold(exp(x), axis, x)
    total, rest = add_exactly(others, most)
    nearly, beyond = exp_exactly(peak)
    lack_of_most = (nearly - most) + beyond
    by_most = (others + lack) / (most + lack_of_most)
    return peak, Mass(total, rest + lack + lack_of_most, by_most)


def unshifted_weights(x: Array) -> tuple[Array, Array, Array]:
    """Compute exp(x), its sum along the last axis, and what that lacks, if these are floats.

    On CPUs, for long rows.
    """
    weight = exp(x)
    return weight, *sum_of_pieces(weight, x, exp_exactly)


def _fold(weight: Array, axis: int, *beside: Array) -> list[Array]:
    """The sum of the weights but for the largest, what it lacks, the largest, and those of others.

    That is the largest of each array beside the weights.
    """

    def largest(left: Sequence[Array], right: Sequence[Array]) -> list[Array]:
        return [_in_order(a, b)[0] for a, b in zip(left, right, strict=True)]

    def roughly(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
        more, less = _in_order(left[1], right[1])
        return left[0] + right[0] + less, more, *largest(left[2:], right[2:])

    def exactly(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
        more, less = _in_order(left[2], right[2])
        others, lack = add_exactly(left[0], right[0])
        others, rest = add_exactly(others, less)
        return others, left[1] + right[1] + (lack + rest), more, *largest(left[3:], right[3:])

    axis %= weight.ndim
    weight, *highest = (in_parts(x, axis) for x in (weight, *beside))
    size = weight.shape[axis + 1]
    if size < _FEW:
        weight = lax.optimization_barrier(weight)
    least = [-jnp.inf] * len(beside)
    operands = [jnp.zeros_like(weight), weight, *highest]
    for slabs, shortest, longest in _SLABS:
        if operands[0].shape[axis + 1] >= shortest and size < longest:
            operands = fold_slabs(operands, [0.0, 0.0, *least], roughly, slabs, axis + 1)
    others, *rest = operands
    operands = [others, jnp.zeros_like(others), *rest]
    for dimension in (axis + 1, axis):
        operands = fold(operands, [0.0, 0.0, 0.0, *least], exactly, dimension)
        operands = [jnp.squeeze(x, dimension) for x in operands]
    return [jnp.expand_dims(x, axis) for x in operands]


def _in_order(a: Array, b: Array) -> tuple[Array, Array]:
    """The larger and the smaller; NaN is in one of them."""
    first = a > b
    return lax.select(first, a, b), lax.select(first, b, a)
