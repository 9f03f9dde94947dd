"""L = log sum exp(z), the logarithm of softmax's normalizer, and its derivative.

A row is summed once: its functions take what is `summed` along as a constant, and their derivative
rules what is `differentiable` of it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jsoftmax._derivative import Moved, Tangents, recomputed, with_derivative
from jsoftmax._dtypes import upcast
from jsoftmax._exact import add_exactly
from jsoftmax._exp import exp, exp_of_difference, log_exactly
from jsoftmax._loop import where_needed
from jsoftmax._mass import MODERATE, Mass, unshifted_mass
from jsoftmax._reduce import row_exact_sweep, row_mass, row_peak, row_sum, vary_alike
from jsoftmax._shift import inverse, scaled_tangent, shift
from jsoftmax._sweep import is_whole
from jsoftmax._typing import Along

_LEAST_MODERATE = -30.0
"""A largest entry that is moderate where the others weigh more than `_FEW`.

What underflows does not count then.
"""
_FEW = 1e-9

_SURE = 0.5
"""L below this: one entry holds more than exp(-1/2) = 0.6 of the mass, all others less than 0.4."""

_LOG1P_BELOW = 0.2
"""XLA:CPU's log1p is within 0.7 units in the last place below this, and within 2.6 beyond."""


class Normalizer(NamedTuple):
    """What a row is normalized by, once it is summed."""

    peak: Array
    """The largest entry: a constant under differentiation."""
    log_total: Array
    """L = log sum exp(z)."""
    lack: Array
    """What rounding took from L."""


Primals: TypeAlias = tuple[Array, Array | None]
"""Logits and temperature; None is the temperature one."""

SummedPrimals: TypeAlias = tuple[Array, Array | None, Normalizer]
"""Logits, temperature and the normalizer of each row."""

SummedTangents: TypeAlias = tuple[Array | SymbolicZero, Array | SymbolicZero | None, object]


def log_sum_exp(
    x: Array, scale: Callable[[Array], Array], along: Along, stored: Array | None = None
) -> tuple[Array, Array]:
    """Compute sum exp(z) for z = scale(x), of which the largest is 0, or -inf, and its logarithm.

    CPUs take exp(z) from where it is stored, if it is.

    Where one entry holds most of the mass, by log1p of what the others sum to, however small that
    is. Zero for a row with nothing allowed, so that z minus it is -inf there.
    """
    weight = None if stored is None else lambda _: stored
    mass = row_mass(x, scale, along, weight)
    log_total, _ = _log_of(mass, jnp.zeros_like(mass.total))
    return mass.total, log_total


def depth_sum(z: Array, along: Along) -> Array:
    """Compute sum exp(z) (-z), to which z at -inf adds nothing."""
    depth = exp(z) * jnp.where(z == -jnp.inf, 0, -z)
    ((total, lack),) = row_exact_sweep(along, [depth], 4)
    return total + lack


def _log_of(mass: Mass, peak: Array) -> tuple[Array, Array]:
    """Logarithm of the sum of exp(x), less the largest x, and what that lacks."""
    log_total, lack = log_exactly(jnp.where(mass.total == 0, 1, mass.total), mass.lack)
    log_total, rest = add_exactly(log_total, -peak)
    log_total, lack = add_exactly(log_total, lack + rest)
    by_others = (mass.others < _LOG1P_BELOW) & (mass.total > 0)
    log_total = jnp.where(by_others, jnp.log1p(mass.others), log_total)
    return log_total, jnp.where(by_others, 0, lack)


def normalizer_of(logits: Array, temperature: Array | None, along: Along) -> Normalizer:
    """The largest entry and L of each row, with the derivative of L."""
    normalizer = summed(logits, temperature, along)
    return differentiable(logits, temperature, normalizer, along)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def summed(logits: Array, temperature: Array | None, along: Along) -> Normalizer:
    """The largest entry, L and its lack, of each row: constants under differentiation.

    A function of the row that takes them along sums it once, and not once more in its derivative
    rule, where `differentiable` gives L its derivative. (Not by
    `stop_gradient`: where a version of jax forgets the rules of derivatives, in loops, L would be a
    constant, without a word.)
    """
    return _summed(logits, temperature, along)


@partial(summed.defjvp, symbolic_zeros=True)
def _summed_jvp(along: Along, primals: Primals, _: Tangents) -> tuple[Normalizer, Normalizer]:
    normalizer = summed(*primals, along)
    return normalizer, Normalizer(*(jnp.zeros_like(number) for number in normalizer))


@partial(jax.jit, static_argnums=2)
def _summed(logits: Array, temperature: Array | None, along: Along) -> Normalizer:
    x = upcast(logits)

    def shifted(x: Array) -> Normalizer:
        peak = row_peak(x, along)
        exact = None if temperature is not None else lambda x: exp_of_difference(x, peak)
        mass = row_mass(x, lambda x: shift(x, temperature, peak), along, exact)
        log_total, lack = _log_of(mass, jnp.zeros_like(peak))
        return Normalizer(jnp.where(mass.total == 0, -jnp.inf, peak), log_total, lack)

    def unshifted_first(x: Array) -> Normalizer:
        peak, mass = unshifted_mass(x, along.axis)
        again = ~((peak > _LEAST_MODERATE) & (peak < MODERATE[1]))
        # What underflowed in a row of small logits may be all there is besides the largest.
        again |= (peak < MODERATE[0]) & (mass.others < _FEW)
        sound = Mass(*(jnp.where(again, 1, number) for number in mass))
        normalizer = Normalizer(peak, *_log_of(sound, jnp.where(again, 0, peak)))
        return where_needed(again, shifted, x, normalizer)

    if temperature is not None or along.axis_name or not is_whole(x, along.axis):
        return shifted(x)
    return lax.platform_dependent(x, cpu=unshifted_first, default=shifted)


def differentiable(
    logits: Array, temperature: Array | None, normalizer: Normalizer, along: Along
) -> Normalizer:
    """The normalizer, with the derivative of L by logits and temperature; the rest has none."""
    # dL = sum p dz
    mean = recomputed(partial(mean_tangent, along=along))

    def tangent(
        logits: Array, temperature: Array | None, normalizer: Normalizer, moved: Moved
    ) -> Normalizer:
        of_total = mean(logits, temperature, normalizer, moved)
        zero = jnp.zeros_like(of_total)
        return Normalizer(zero, of_total * inverse(temperature), zero)

    return with_derivative(normalizer, (logits, temperature), tangent)


def mean_tangent(
    logits: Array, temperature: Array | None, normalizer: Normalizer, moved: Moved, along: Along
) -> Array:
    """Compute sum p (T dz), of logits in the compute dtype."""
    z = shift(logits, temperature, _summed_from(logits, normalizer, along))
    p = exp(z) * jnp.exp(-normalizer.log_total)
    return row_sum(p * scaled_tangent(z, *moved, p != 0), along)


def log_p_tangent(
    logits: Array,
    temperature: Array | None,
    normalizer: Normalizer,
    moved: Moved,
    along: Along,
    at: Callable[[Array], Array] = lambda row: row,
) -> Array:
    """Compute d log p = dz - sum p dz of some entries of a row, and 0 where log p stays -inf.

    Of logits in the compute dtype. What an entry that holds most of the mass has in common with the
    mean is left out of both. (In this order: a transpose adds up what comes last first.)
    """
    z = shift(logits, temperature, _summed_from(logits, normalizer, along))
    change = scaled_tangent(z, *moved)
    p = exp(z) * jnp.exp(-normalizer.log_total)
    less, sure = less_one(z, p, normalizer.log_total)
    counts = change if moved[1] is None else jnp.where(p == 0, 0, change)
    rest = row_sum(less * counts, along)
    at_sure = row_sum(jnp.where(sure, change, 0), along)
    tangent = ((at(change) - at_sure) - rest) * inverse(temperature)
    return jnp.where(at(z) == -jnp.inf, 0, tangent)


def less_one(z: Array, p: Array, log_total: Array) -> tuple[Array, Array]:
    """Compute p - 1 at an entry that holds most of the mass, p at others; and which is such.

    There z is 0, and p - 1 = expm1(-L) keeps the digits that p has lost. (Its derivative is that of
    p: of L alone it is not, since the largest entry is a constant there, and z is not.)
    """
    sure = (log_total < _SURE) & (z > log_total - 1.1 * _SURE)
    less = jnp.where(sure, jnp.expm1(-log_total), p)

    def tangent(p: Array, less: Array, moved: tuple[Array | None]) -> Array:
        del less
        return jnp.zeros_like(p) if moved[0] is None else moved[0]

    return with_derivative(less, (p,), tangent), sure


def _summed_from(x: Array, normalizer: Normalizer, along: Along) -> Array:
    """The largest entry, as that which the sum was taken with: one exp(z) then serves both."""
    x, peak = vary_alike((x, normalizer.peak), along.axis_name)
    return lax.platform_dependent(
        x, peak, cpu=lambda _, peak: peak, default=lambda x, _: row_peak(x, along)
    )
