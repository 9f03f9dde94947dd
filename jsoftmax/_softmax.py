"""softmax, log_softmax and logsumexp, with their JVP rules.

With z = (x - max x) / T, s = sum exp(z) and L = log s: softmax = exp(z) / s, log_softmax = z - L
and logsumexp = max x + T L. What rounding takes from a difference and from a quotient counts: z is
as good as in two floats, or, in softmax at T = 1, of x that is shifted by less, or not at all.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax._checks import check_flag, check_rows, keep_or_fill
from jsoftmax._derivative import Moved, drop_zeros, recomputed, widened
from jsoftmax._dtypes import compute_dtype, upcast
from jsoftmax._exact import (
    add_exactly,
    divide_exactly,
    multiply_exactly,
    reciprocal,
    subtract_exactly,
)
from jsoftmax._exp import exp, exp_of_difference, exp_of_quotient
from jsoftmax._loop import where_needed
from jsoftmax._mass import MODERATE, unshifted_weights
from jsoftmax._normalizer import (
    Normalizer,
    SummedPrimals,
    SummedTangents,
    differentiable,
    log_p_tangent,
    mean_tangent,
    summed,
)
from jsoftmax._reduce import row_exact_sum, row_peak, row_sum
from jsoftmax._settings import check_temperature
from jsoftmax._shift import inverse, scaled_tangent, shift, shift_exactly
from jsoftmax._sweep import is_long
from jsoftmax._typing import Along, Axis, AxisName, Setting


def softmax(
    logits: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    temperature: Setting = 1.0,
    axis_name: AxisName = None,
) -> Array:
    r"""Probabilities of the entries of a row: non-negative, and one in sum.

    .. math:: p_i = \frac{\exp((x_i - \max x) / T)}{\sum_j \exp((x_j - \max x) / T)}

    Args:
      logits: real numbers of any shape with at least one dimension.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed. Other entries
        count as absent, whatever they hold.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape (the logits'
        shape without `axis`). Traced: a new value does not recompile.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes of CPUs, XLA gathers sums of pieces: a `shard_map` spares
        that.

    Returns:
      An array of the logits' shape and float dtype (integers become the default float). float16 and
      bfloat16 are computed in float32 and rounded once; float32 is within 4 eps, relative, at every
      temperature, and on CPUs mostly within 2 units in the last place; GPUs add the rounding of
      (x_i - max x) / T, up to its absolute value times eps. A probability below 1e-34 may be 0.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static temperature that is not allowed.

    Edge cases: a -inf or disallowed entry has probability 0 and gradient 0; a row with nothing
    allowed is all 0. T = 0 shares all mass equally among the largest entries, with zero gradient; T
    = inf is uniform. A row that holds NaN or +inf, or whose traced temperature is negative or NaN,
    is NaN; other rows are untouched.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([2.0, 1.0, -jnp.inf, 1.0])
      >>> with jnp.printoptions(precision=3):
      ...     print(jsoftmax.softmax(x))
      [0.576 0.212 0.    0.212]
      >>> print(jsoftmax.softmax(x, where=x < 2), jsoftmax.softmax(x, temperature=0.0))
      [0.  0.5 0.  0.5] [1. 0. 0. 0.]
    """
    rows = check_rows("softmax", logits, axis, where, axis_name)
    checked = check_temperature("softmax", temperature, rows)
    return softmax_of(rows.pinned(checked), checked, rows.where, rows.along)


def log_softmax(
    logits: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    temperature: Setting = 1.0,
    axis_name: AxisName = None,
) -> Array:
    r"""Logarithms of `softmax`, also where the probability itself would underflow.

    .. math:: \log p_i = \frac{x_i - \max x}{T} - \log \sum_j \exp\frac{x_j - \max x}{T}

    Args:
      logits: real numbers of any shape with at least one dimension.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape (the logits'
        shape without `axis`). Traced.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes of CPUs, XLA gathers short rows: a `shard_map` spares that.

    Returns:
      An array of the logits' shape and float dtype: float32 is mostly within 4 eps max(1,
      abs(log p)), and on CPUs within one (in a row of many small entries that are all equal two,
      and with a temperature half of their distance from the largest, over T).
      The log-probability of a nearly certain entry keeps its relative accuracy (log1p of what the
      others sum to).

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static temperature that is not allowed.

    Edge cases: -inf, with gradient 0, at -inf and at disallowed entries, and everywhere in a row
    with nothing allowed. T = 0 gives -log(number of largest entries) there and -inf elsewhere. NaN
    rows as `softmax`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.log_softmax(jnp.array([20.0, 0.0, -jnp.inf])))
      [-2.0611537e-09 -2.0000000e+01           -inf]
    """
    rows = check_rows("log_softmax", logits, axis, where, axis_name)
    checked = check_temperature("log_softmax", temperature, rows)
    return rows.fill_disallowed(_log_softmax(rows.pinned(checked), checked, rows.along), -jnp.inf)


def logsumexp(
    logits: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    temperature: Setting = 1.0,
    keepdims: bool = False,
    axis_name: AxisName = None,
) -> Array:
    r"""Smooth maximum of a row, the logarithm of softmax's normalizer.

    .. math:: T \log \sum_i \exp(x_i / T)

    Args:
      logits: real numbers of any shape with at least one dimension.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape (the logits'
        shape without `axis`). Traced.
      keepdims: True or False, static: keep `axis`, with size one.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes of CPUs, XLA gathers short rows: a `shard_map` spares that.

    Returns:
      An array of the batch shape and the logits' float dtype. Its gradient is `softmax`.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` or `keepdims` is not boolean, or
        `axis` is not an integer.
      ValueError: an axis, a shape or a static temperature that is not allowed.

    Edge cases: -inf for a row with nothing allowed and for a size-0 axis, with gradient 0. T = 0 is
    the maximum (its gradient is shared equally among ties); T = inf is inf, or the entry of a row
    of one. NaN rows as `softmax`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([1000.0, 1000.0])
      >>> print(jsoftmax.logsumexp(x), jsoftmax.logsumexp(x, temperature=0.0))
      1000.6932 1000.0
    """
    kept = check_flag("logsumexp", "keepdims", keepdims)
    rows = check_rows("logsumexp", logits, axis, where, axis_name)
    checked = check_temperature("logsumexp", temperature, rows)
    result = _logsumexp(rows.pinned(checked), checked, rows.along)
    return result if kept else jnp.squeeze(result, rows.along.axis)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
@partial(jax.jit, static_argnums=3)
def softmax_of(
    logits: Array, temperature: Array | None, where: Array | None, along: Along
) -> Array:
    """`softmax` of checked arguments."""
    # The entries that `where` disallows are 0 in a row of NaN too; here, so that the backward pass
    # keeps the array that the caller gets.
    p = _probabilities(logits, temperature, along)
    return p if where is None else keep_or_fill(where, p, 0)


def _probabilities(logits: Array, temperature: Array | None, along: Along) -> Array:
    x = upcast(logits)

    def normalize(mass: Array) -> Array:
        total, lack = row_exact_sum(mass, along)
        return _quotient(mass, total, lack, total != 0).astype(logits.dtype)

    def shifted(x: Array) -> Array:
        return normalize(exp(x - _exact_shift(row_peak(x, along))))

    def beside_largest(x: Array) -> Array:
        """With the largest mass 1: an error of that would be one of all probabilities."""
        return normalize(exp_of_difference(x, row_peak(x, along)))

    def unshifted_first(x: Array) -> Array:
        """Where exp(x) and its sum are floats, the pass that finds the largest entry is spared."""
        mass, total, lack = unshifted_weights(x)
        # The reciprocal of a larger total would be a denormal, and count as zero.
        most = float(jnp.finfo(total.dtype).max) / 16
        again = ~((total > math.exp(MODERATE[0])) & (total < most)) & ~jnp.isnan(total)
        p = _quotient(mass, total, lack, ~again).astype(logits.dtype)
        return where_needed(again, beside_largest, x, p)

    if temperature is not None:
        peak = row_peak(x, along)
        if logits.dtype != x.dtype:
            # Half precision has none of the digits that rounding takes from z.
            return normalize(exp(shift(x, temperature, peak)))
        return normalize(exp_of_quotient(*shift_exactly(x, temperature, peak)))
    spared = is_long(x, along.axis) and not along.axis_name
    on_cpu = unshifted_first if spared else beside_largest
    return lax.platform_dependent(x, cpu=on_cpu, default=shifted)


def _exact_shift(peak: Array) -> Array:
    """A number near the largest entry that is subtracted from the others without rounding.

    Zero where the largest is moderate, else a whole number that brings it there: an entry whose
    difference from that is rounded is too small for its probability to be a float.
    """
    least, most = MODERATE
    # A larger one is whole itself, and the difference here would be rounded, by more than `most`.
    whole = peak >= 2.0 ** jnp.finfo(peak.dtype).nmant
    return jnp.where(whole, peak, jnp.floor(peak - jnp.clip(peak, least, most)))


def _quotient(mass: Array, total: Array, lack: Array, defined: Array) -> Array:
    """The masses by (total + lack), 0 in the other rows: by a product that is rounded once."""
    total, lack = add_exactly(jnp.where(defined, total, 1), jnp.where(defined, lack, 0))
    # A row of one entry has one, also where no compiler contracts the product and the sum.
    all_of_it = jnp.where(defined & (lack == 0), total, jnp.nan)
    # In units in which neither factor nor product is a denormal.
    unit = 2.0**-30
    factors = reciprocal(total * unit, lack * unit)
    inverse, rest = (jnp.where(defined, factor, 0) for factor in factors)
    return jnp.where(mass == all_of_it, 1, (mass * inverse + mass * rest) * unit)


@partial(softmax_of.defjvp, symbolic_zeros=True)
def _softmax_jvp(
    along: Along,
    primals: tuple[Array, Array | None, Array | None],
    tangents: tuple[Array | SymbolicZero, Array | SymbolicZero | None, object],
) -> tuple[Array, Array]:
    # dp = p (dz - sum p dz). The mean is taken under p as rounded, so that the tangents of a row
    # sum to zero in float16 too. 1 / T comes last: a one-hot row at a tiny T meets no inf * 0.
    logits, temperature, where = primals
    rounded = softmax_of(logits, temperature, where, along)
    of_logits, of_temperature = drop_zeros(tangents[:2])

    dtype = compute_dtype(logits.dtype)
    peak = None
    if of_temperature is not None:
        peak = row_peak(logits.astype(dtype), along)

    def spread(
        rounded: Array,
        logits: Array,
        temperature: Array | None,
        peak: Array | None,
        of_logits: Array | None,
        of_temperature: Array | None,
    ) -> Array:
        p = rounded.astype(dtype)
        z = p if peak is None else shift(logits, temperature, peak)
        change = scaled_tangent(z, of_logits, of_temperature, p != 0)
        mean = row_sum(p * change, along)
        if rounded.dtype != dtype:
            total = row_sum(p, along)
            mean = mean / jnp.where(total == 0, 1, total)
        tangent = p * (change - mean) * inverse(temperature)
        if where is not None:
            tangent = jnp.where(where, tangent, 0)
        return tangent.astype(rounded.dtype)

    if rounded.dtype != dtype or of_temperature is not None:
        # The backward pass keeps no more than its arguments.
        spread = jax.checkpoint(spread)
    return rounded, spread(rounded, logits, temperature, peak, of_logits, of_temperature)


@partial(jax.jit, static_argnums=2)
def _log_softmax(logits: Array, temperature: Array | None, along: Along) -> Array:
    return _log_p(logits, temperature, summed(logits, temperature, along), along)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _log_p(logits: Array, temperature: Array | None, normalizer: Normalizer, along: Along) -> Array:
    del along
    x = upcast(logits)
    # The barrier makes z a value of its own: XLA:CPU would store one that serves the sum as well.
    if temperature is None:
        log_sum, lack = lax.optimization_barrier(_log_sum(normalizer, None))
        log_p, rest = subtract_exactly(x, log_sum)
        rest = rest - lack
    else:
        peak, log_total, lack = lax.optimization_barrier(normalizer)
        peak = jnp.maximum(peak, -jnp.finfo(peak.dtype).max)
        difference, rest, divisor = shift_exactly(x, temperature, peak)
        difference = jnp.where((temperature == 0) & (difference < 0), -jnp.inf, difference)
        high, low = divide_exactly(difference, rest, divisor)
        log_p, rest = subtract_exactly(high, log_total)
        rest = rest + (low - lack)
    return (log_p + rest).astype(logits.dtype)


def _log_sum(normalizer: Normalizer, temperature: Array | None) -> tuple[Array, Array]:
    """The sum max x + T L, the least float for a row with nothing allowed, and what it lacks."""
    peak = jnp.maximum(normalizer.peak, -jnp.finfo(normalizer.peak.dtype).max)
    log_total, lack = normalizer.log_total, normalizer.lack
    if temperature is not None:
        product, rest = multiply_exactly(temperature, log_total)
        log_total = jnp.where(log_total == 0, 0, product)
        lack = jnp.where(jnp.isfinite(product), rest + temperature * lack, 0)
    log_sum, rest = add_exactly(peak, log_total)
    return log_sum, lack + rest


@partial(_log_p.defjvp, symbolic_zeros=True)
def _log_p_jvp(
    along: Along, primals: SummedPrimals, tangents: SummedTangents
) -> tuple[Array, Array]:
    # d log p = dz - sum p dz, and 0 where log p stays -inf
    logits, temperature, constant = primals

    @recomputed
    def tangent(x: Array, temperature: Array | None, constant: Normalizer, moved: Moved) -> Array:
        normalizer = differentiable(x, temperature, constant, along)
        return log_p_tangent(x, temperature, normalizer, moved, along).astype(logits.dtype)

    moved = widened(tangents[:2], compute_dtype(logits.dtype))
    result = _log_p(logits, temperature, constant, along)
    return result, tangent(logits, temperature, constant, moved)


@partial(jax.jit, static_argnums=2)
def _logsumexp(logits: Array, temperature: Array | None, along: Along) -> Array:
    return _smooth_maximum(logits, temperature, summed(logits, temperature, along), along)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _smooth_maximum(
    logits: Array, temperature: Array | None, normalizer: Normalizer, along: Along
) -> Array:
    del along
    log_sum, lack = _log_sum(normalizer, temperature)
    total = jnp.where(log_sum == jnp.inf, log_sum, log_sum + lack)
    return jnp.where(normalizer.peak == -jnp.inf, normalizer.peak, total).astype(logits.dtype)


@partial(_smooth_maximum.defjvp, symbolic_zeros=True)
def _smooth_maximum_jvp(
    along: Along, primals: SummedPrimals, tangents: SummedTangents
) -> tuple[Array, Array]:
    # d(T L + max x) = sum p (T dz) + L dT
    logits, temperature, constant = primals

    @recomputed
    def tangent(x: Array, temperature: Array | None, constant: Normalizer, moved: Moved) -> Array:
        normalizer = differentiable(x, temperature, constant, along)
        mean = mean_tangent(x, temperature, normalizer, moved, along)
        _, of_temperature = moved
        if of_temperature is not None:
            mean = mean + normalizer.log_total * of_temperature
        return mean.astype(logits.dtype)

    moved = widened(tangents[:2], compute_dtype(logits.dtype))
    result = _smooth_maximum(logits, temperature, constant, along)
    return result, tangent(logits, temperature, constant, moved)
