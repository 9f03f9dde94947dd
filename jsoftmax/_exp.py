"""The exponential, in a form that CPUs take half the time for; and in two words, as the logarithm.

It is within 0.89 units in the last place in float32, where XLA:CPU's own is within 1.01, and it
vectorises wherever it is fused. Other targets have instructions for theirs.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax._exact import (
    add_exactly,
    divide_exactly,
    halves,
    subtract_exactly,
    without_digits,
)

# exp(r) = 1 + r + r^2 q(r) for abs(r) <= log(2) / 2: a minimax fit of q, within 0.05 of half an
# eps, of which each coefficient was rounded before the next was fitted.
_Q = (0.49999994, 0.16666521, 0.041668266, 0.0083686747, 0.0013820662)
# log 2 in two floats of 16 digits, of which products with a whole number up to 256 are exact:
# whether a compiler contracts one with a sum, which it may do in some lanes alone, changes nothing.
_LOG_2 = 45426 / 2**16
_REST_OF_LOG_2 = 49087 / 2**35
# Of which k is -127 and 128: the powers of two with these exponents are 0 and inf.
_LEAST, _MOST = -88.0, 89.0
_BIAS = 127
# A float above 2^23 has the whole number that was added to it in its last bits.
_WHOLE = 1.5 * 2**23
_LANES = 8
"""How many entries fill a vector of AVX."""


@jax.custom_jvp
@jax.jit
def exp(x: Array) -> Array:
    """The exponential, NaN where x is; on CPUs 0 where it would be denormal, inf from 88.4 on."""
    if x.dtype != jnp.float32:
        return jnp.exp(x)
    return lax.platform_dependent(x, cpu=_exp, default=jnp.exp)


@exp.defjvp
def _exp_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    result = exp(*primals)
    # What underflows is constant, however fast its argument changes.
    return result, result * jnp.where(result == 0, 0, tangents[0])


def exp_exactly(x: Array) -> tuple[Array, Array]:
    """The exponential as CPUs compute it, and what that lacks, for x of -60 to 88."""
    if x.dtype != jnp.float32:
        return jnp.exp(x), jnp.zeros_like(x)
    nearly, beyond, power = _parts(_bounded(x), jnp.zeros_like(x))
    beyond_one, rest = add_exactly(nearly, beyond)
    # Not 1 + beyond_one, which a compiler would take apart again.
    result, lack = add_exactly(power, beyond_one * power)
    return result, lack + rest * power


def exp_of_difference(x: Array, most: Array) -> Array:
    """Compute exp(x - most) for x <= most, of which the first may be -inf: 1 where they are equal.

    What rounding takes from the difference counts. For CPUs, as `exp_exactly`.
    """
    z, lack = subtract_exactly(x, most)
    if x.dtype != jnp.float32:
        mass = jnp.exp(z)
        return mass + mass * lack
    none = z < _LEAST
    z, lack = lax.select(none, jnp.full_like(z, _LEAST), z), jnp.where(none, 0, lack)
    return _once_rounded(*_parts(z, lack))


def exp_of_quotient(difference: Array, lack: Array, divisor: Array) -> Array:
    """Compute exp((difference + lack) / divisor) likewise, for a difference <= 0.

    Of a divisor that has a reciprocal, and parts, that are no denormals; or NaN, where only the
    exponential of -inf is 0. GPUs round the quotient: with more to compute XLA would store the
    result where it is needed twice.
    """

    def rounded(difference: Array, _: Array, divisor: Array) -> Array:
        return jnp.exp(jnp.where(difference == -jnp.inf, difference, difference / divisor))

    if difference.dtype != jnp.float32:
        return _exp_of_two_words(difference, lack, divisor)
    targets = {"cpu": _exp_of_quotient, "tpu": _exp_of_two_words, "default": rounded}
    return lax.platform_dependent(difference, lack, divisor, **targets)


def _exp_of_two_words(difference: Array, lack: Array, divisor: Array) -> Array:
    high, low = divide_exactly(difference, lack, divisor)
    z = high + low
    none = z == -jnp.inf
    mass = jnp.exp(z)
    return mass + mass * ((jnp.where(none, 0, high) - jnp.where(none, 0, z)) + low)


def _exp_of_quotient(difference: Array, lack: Array, divisor: Array) -> Array:
    """As `_exp`, with log 2 in units of the divisor: r is what is divided."""
    log_2, rest_of_log_2 = _log_2_times(divisor)
    inverse = 1 / divisor
    # Nothing is less for a divisor that is NaN, but -inf.
    least = jnp.where(jnp.isnan(divisor), -float(np.finfo(np.float32).max), _LEAST * divisor)
    log_2, rest_of_log_2, inverse, per_power, least = lax.optimization_barrier(
        (log_2, rest_of_log_2, inverse, inverse * (1 / math.log(2)), least)
    )
    none = difference < least
    difference = jnp.where(none, least, difference)
    k = lax.round(difference * per_power, lax.RoundingMethod.TO_NEAREST_EVEN)
    rest = k * rest_of_log_2 - jnp.where(none, 0, lack)
    r = _product((difference - k * log_2) - rest, inverse, _exponent(k))
    mass = _once_rounded(*_of_remainder(r, jnp.zeros_like(r), k))
    return jnp.where(none, 0, mass)


def _log_2_times(x: Array) -> tuple[Array, Array]:
    """Times log 2 in two floats of 17 digits: products with a whole number below 128 are exact."""
    log_2 = np.float32(math.log(2))
    first = without_digits(x * log_2, 7)
    (x_high, x_low), (high, low) = halves(x), halves(jnp.full_like(x, log_2))
    rest = ((x_high * high - first) + (x_high * low + x_low * high)) + x_low * low
    beyond, _ = halves(jnp.full_like(x, math.log(2) - float(log_2)))
    return first, without_digits(rest + x_high * beyond, 7)


def _exp(x: Array) -> Array:
    return _once_rounded(*_parts(_bounded(x), jnp.zeros_like(x)))


def _once_rounded(nearly: Array, beyond: Array, power: Array) -> Array:
    return (1 + (nearly + beyond)) * power


def _bounded(x: Array) -> Array:
    # An instruction each, and NaN stays.
    bounded = lax.select(x > _MOST, jnp.full_like(x, _MOST), x)
    return lax.select(bounded < _LEAST, jnp.full_like(x, _LEAST), bounded)


def _parts(x: Array, lack: Array) -> tuple[Array, Array, Array]:
    """Of exp(x + lack) = (1 + nearly + beyond) power, the second small beside the first."""
    # x = k log 2 + r
    k = lax.round(x * (1 / math.log(2)), lax.RoundingMethod.TO_NEAREST_EVEN)
    nearly, rest = x - k * _LOG_2, k * _REST_OF_LOG_2 - lack
    return _of_remainder(nearly, rest, k)


def _of_remainder(nearly: Array, rest: Array, k: Array) -> tuple[Array, Array, Array]:
    """The same of x = k log 2 + r, where what rounding takes from r = nearly - rest counts."""
    exponent = _exponent(k)
    power = lax.bitcast_convert_type(exponent, jnp.float32)
    r = nearly - rest
    q = jnp.full_like(r, _Q[-1])
    for coefficient in _Q[-2::-1]:
        q = _product(q, r, exponent) + coefficient
    return nearly, _product(q, r * r, exponent) - rest, power


def _exponent(k: Array) -> Array:
    """The bits of 2^k, and of 0 and inf for k of -127 and 128."""
    exponent = lax.bitcast_convert_type(k + (_WHOLE + _BIAS), jnp.uint32)
    return exponent << np.uint32(np.finfo(np.float32).nmant)


def _product(a: Array, b: Array, exponent: Array) -> Array:
    """One that no compiler contracts with a sum, in rows of so few entries that it would in some.

    LLVM rearranges what it computes of such rows. The sign of a power of two is no news.
    """
    product = a * b
    if product.shape[-1:] >= (_LANES,) or not product.ndim:
        return product
    as_bits = lax.bitcast_convert_type(product, jnp.uint32)
    return lax.bitcast_convert_type(as_bits | (exponent & np.uint32(1 << 31)), jnp.float32)


def log_exactly(x: Array, lack: Array) -> tuple[Array, Array]:
    """log(x + lack) for x > 0, and what that lacks: from x = 2^k m, k log 2 + log m."""
    mantissa, exponent = jnp.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa = jnp.where(low, 2 * mantissa, mantissa)
    k = (exponent - low.astype(exponent.dtype)).astype(x.dtype)
    # log 2 with as few digits as make its product with k exact, and the rest of it.
    digits = np.finfo(x.dtype).nmant - 8
    log_2 = math.floor(math.log(2) * 2.0**digits) / 2.0**digits
    log, lack = jnp.log(mantissa), lack / x
    if x.dtype == jnp.float32:
        # A step of Newton's method.
        power, beyond = exp_exactly(log)
        lack += ((mantissa - power) - beyond) / mantissa
    total, rest = add_exactly(k * log_2, log)
    return add_exactly(total, rest + (lack + k * _rest_of_log_2(log_2)))


def _rest_of_log_2(log_2: float) -> float:
    """What a shorter number lacks of log 2."""
    # To twice the digits of a float: their sum is log 2.
    high, low = math.log(2), 2.3190468138462996e-17
    return (high - log_2) + low
