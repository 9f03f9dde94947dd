"""Sums and quotients as two floats, the second of which is what rounding took from the first.

Source: Dekker (1971), Knuth (1969), and Ogita, Rump and Oishi (2005) for the sums. A compiler that
contracts a product and a sum to one operation makes none of them less exact.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_SLABS = 12
_FEW = 256
_SMALL = 2048


def add_exactly(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum, and what it lacks: NaN where the sum is no float."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def sum_exactly(x: Array) -> tuple[Array, Array]:
    """Sum along the last axis, kept with size one, and what it lacks.

    Slabs of the row are added up entry by entry, which XLA:CPU vectorises, until few numbers are
    left.
    """
    lack = jnp.zeros_like(x[..., :1])
    while x.shape[-1] > _FEW and x.size > _SMALL:
        whole = x.shape[-1] - x.shape[-1] % _SLABS
        slabs = x[..., :whole].reshape(*x.shape[:-1], _SLABS, -1)
        sums, lacks = sum_in_order(slabs, x.ndim - 1)
        lack += jnp.sum(lacks, axis=(-2, -1), keepdims=True)[..., 0]
        x = jnp.concatenate([sums[..., 0, :], x[..., whole:]], axis=-1)
    total, last = sum_in_order(x, x.ndim - 1)
    return total, lack + last


def sum_in_order(x: Array, axis: int) -> tuple[Array, Array]:
    """The same along any axis, of few numbers."""
    zero = jnp.zeros((), x.dtype)

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        total, lack = add_exactly(left[0], right[0])
        return total, left[1] + right[1] + lack

    operands = (x, jnp.zeros_like(x))
    total, lack = lax.reduce(operands, (zero, zero), combine, (axis % x.ndim,))
    return jnp.expand_dims(total, axis), jnp.expand_dims(lack, axis)


def reciprocal(x: Array, lack: Array) -> tuple[Array, Array]:
    """1 / (x + lack), and what that lacks, where the latter is no denormal: for x up to 1e30."""
    inverse = 1 / x
    # 1 - x * inverse from products of halves, which are exact.
    x_high, x_low = _halves(x)
    high, low = _halves(inverse)
    rest = (((1 - x_high * high) - x_high * low) - x_low * high) - x_low * low
    return inverse, (rest - lack * inverse) * inverse


def log_exactly(x: Array, lack: Array) -> tuple[Array, Array]:
    """log(x + lack) for x > 0, and what that lacks: from x = 2^k m, k log 2 + log m."""
    mantissa, exponent = jnp.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa = jnp.where(low, 2 * mantissa, mantissa)
    k = (exponent - low.astype(exponent.dtype)).astype(x.dtype)
    # log 2 with as few digits as make its product with k exact, and the rest of it.
    digits = np.finfo(x.dtype).nmant - 8
    log_2 = math.floor(math.log(2) * 2.0**digits) / 2.0**digits
    total, rest = add_exactly(k * log_2, jnp.log(mantissa) + lack / x)
    return add_exactly(total, rest + k * _rest_of_log_2(log_2))


def _rest_of_log_2(log_2: float) -> float:
    """What a shorter number lacks of log 2."""
    # To twice the digits of a float: their sum is log 2.
    high, low = math.log(2), 2.3190468138462996e-17
    return (high - log_2) + low


def _halves(x: Array) -> tuple[Array, Array]:
    """Two floats of half the digits each, whose sum is x. By its bits: no compiler rounds them."""
    digits = np.finfo(x.dtype).nmant + 1
    bits = lax.bitcast_convert_type(x, np.dtype(f"uint{8 * x.dtype.itemsize}"))
    short = bits >> (digits // 2) << (digits // 2)
    high = lax.bitcast_convert_type(short, x.dtype)
    return high, x - high
