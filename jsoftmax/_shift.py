"""The scaled logits z = (x - max x) / T, and their derivative.

The largest entry is a constant of the derivative: no function of the softmax family depends on the
shift. Entries that are not allowed are -inf here, and -inf stays constant under differentiation.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._derivative import Tangents, drop_zeros
from jsoftmax._exact import subtract_exactly


def shift(logits: Array, temperature: Array | None, peak: Array) -> Array:
    """Compute z = (x - max x) / T in the compute dtype, -inf where x is.

    At T = 0 the limits are left, 0 at the largest entries and -inf elsewhere; at T = inf only
    zeros.
    """
    x = logits.astype(peak.dtype)
    # A row with nothing allowed has the peak -inf, and -inf - -inf would be NaN.
    peak = jnp.maximum(peak, -jnp.finfo(peak.dtype).max)
    if temperature is None:
        return x - peak
    absent = x == -jnp.inf
    # At T > 1 in quarters: no difference overflows, and the reciprocal of a huge T stays normal.
    unit = jnp.where(temperature > 1, 0.25, jnp.ones_like(temperature))
    present = jnp.where(absent, 0, x * unit - peak * unit)
    quotient = divide(present, jnp.where(temperature == 0, 1, temperature * unit))
    limit = lax.stop_gradient(jnp.where(present < 0, -jnp.inf, present))
    return jnp.where(absent, -jnp.inf, jnp.where(temperature == 0, limit, quotient))


def shift_exactly(x: Array, temperature: Array, peak: Array) -> tuple[Array, Array, Array]:
    """Compute x - max x, what rounding takes from it, and T, all in the same units.

    In these 1 / T is no denormal, nor a part of T. At T = inf no difference counts any more.
    """
    # Half of the exponents, and nearly all.
    exponents = jnp.finfo(peak.dtype).maxexp
    large, furthest = 2.0 ** (exponents // 2 - 4), 2.0 ** (exponents - 28)
    one = jnp.ones_like(temperature)
    # At T > 1 in quarters, so that no difference overflows.
    unit = jnp.where(temperature > 1, jnp.where(temperature > large, 1 / large, 0.25), one)
    # After the difference, which is taken as everywhere else: what is denormal in it counts as 0.
    lift = jnp.where(temperature < 1 / large, large, one)
    divisor = jnp.clip(temperature * (unit * lift), 1 / furthest, furthest)
    # The barrier computes what a row shares once.
    unit, lift, divisor, peak = lax.optimization_barrier((unit, lift, divisor, peak * unit))
    difference, lack = subtract_exactly(x * unit, peak)
    return difference * lift, lack * lift, divisor


def at_temperature(x: Array, temperature: Array) -> Array:
    """Divide by T, in quarters where the reciprocal of T would be a denormal, and count as zero."""
    unit = jnp.where(temperature > 2.0**100, 0.25, jnp.ones_like(temperature))
    return divide(x * unit, temperature * unit)


@jax.custom_jvp
def divide(x: Array, temperature: Array) -> Array:
    """Divide by T, with a derivative that does not square T: a tiny T gives no inf * 0 at x = 0."""
    return x / temperature


@partial(divide.defjvp, symbolic_zeros=True)
def _divide_jvp(primals: tuple[Array, Array], tangents: Tangents) -> tuple[Array, Array]:
    # d(x / T) = (dx - (x / T) dT) / T, and an overflow to -inf is a constant
    x, temperature = primals
    quotient = divide(x, temperature)
    of_x, of_temperature = drop_zeros(tangents)
    change = jnp.zeros_like(x) if of_x is None else of_x
    if of_temperature is not None:
        finite = jnp.where(jnp.isfinite(quotient), quotient, 0)
        change = change - finite * of_temperature
    return quotient, divide(change, temperature)


def scaled_tangent(
    z: Array,
    of_logits: Array | None,
    of_temperature: Array | None,
    counts: Array | None = None,
) -> Array:
    """T dz = dx - z dT, with 0 for z at -inf; None is a tangent of zero.

    And with 0 for a z whose change does not count: z dT may be infinite there.
    """
    change = jnp.zeros_like(z) if of_logits is None else of_logits.astype(z.dtype)
    if of_temperature is None:
        return change
    ignored = z == -jnp.inf
    if counts is not None:
        ignored |= ~counts
    return change - jnp.where(ignored, 0, z) * of_temperature


def inverse(temperature: Array | None) -> Array | float:
    """1 / T, but 0 at the limits T = 0 and T = inf, where gradients vanish.

    And for T that is NaN: where anything is allowed the gradient is NaN by p, and else 0.
    """
    if temperature is None:
        return 1.0
    reciprocal = 1 / jnp.where(temperature > 0, temperature, jnp.inf)
    return jnp.minimum(reciprocal, jnp.finfo(temperature.dtype).max)
