"""Entropy and relative entropy of distributions given by their logits."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax._checks import check_logits, check_rows
from jsoftmax._derivative import Tangents, recomputed, widened, with_derivative
from jsoftmax._dtypes import common_dtype
from jsoftmax._exact import add_exactly
from jsoftmax._exp import exp
from jsoftmax._normalizer import Normalizer, depth_sum, differentiable, summed
from jsoftmax._reduce import row_peak, row_sum
from jsoftmax._settings import check_temperature
from jsoftmax._shift import divide, inverse, scaled_tangent, shift
from jsoftmax._typing import Along, Axis, AxisName, Setting

_CLOSE = 0.5
"""For logarithms of p and q that are no further apart: differences by a series."""


def entropy(
    logits: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    temperature: Setting = 1.0,
    axis_name: AxisName = None,
) -> Array:
    r"""Shannon entropy of the softmax of a row, in nats.

    .. math:: H = -\sum_i p_i \log p_i, \quad p = \mathrm{softmax}(x / T), \quad 0 \log 0 = 0

    Args:
      logits: real numbers of any shape with at least one dimension.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape (the logits'
        shape without `axis`). Traced: a new value does not recompile.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes of CPUs, XLA gathers short rows: a `shard_map` spares that.

    Returns:
      An array of the batch shape and the logits' float dtype, between 0 and log V.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static temperature that is not allowed.

    Edge cases: 0 for a row with nothing allowed. A -inf or disallowed entry adds nothing and has
    gradient 0. T = 0 gives log(number of largest entries), T = inf log(number of allowed entries),
    with zero gradient. A row that holds NaN or +inf, or whose traced temperature is negative or
    NaN, is NaN.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([0.0, 0.0, -jnp.inf])
      >>> print(jsoftmax.entropy(x), jax.grad(jsoftmax.entropy)(x))
      0.6931472 [0. 0. 0.]
    """
    rows = check_rows("entropy", logits, axis, where, axis_name)
    checked = check_temperature("entropy", temperature, rows)
    result = _entropy(rows.pinned(checked), checked, rows.along)
    return jnp.squeeze(result.astype(rows.logits.dtype), rows.along.axis)


@partial(jax.jit, static_argnums=2)
def _entropy(logits: Array, temperature: Array | None, along: Along) -> Array:
    """Entropy in the compute dtype, with the axis kept."""
    return _entropy_of(logits, temperature, *_depth(logits, temperature, along), along)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _depth(logits: Array, temperature: Array | None, along: Along) -> tuple[Normalizer, Array]:
    """What is known of a row, and its depth sum p (-z), as constants: see `summed`."""
    normalizer = summed(logits, temperature, along)
    peak = row_peak(logits.astype(normalizer.peak.dtype), along)
    z = shift(logits, temperature, peak)
    return normalizer, depth_sum(z, along) * jnp.exp(-normalizer.log_total)


@partial(_depth.defjvp, symbolic_zeros=True)
def _depth_jvp(
    along: Along, primals: tuple[Array, Array | None], _: Tangents
) -> tuple[tuple[Normalizer, Array], tuple[Normalizer, Array]]:
    constants = _depth(*primals, along)
    return constants, jax.tree.map(jnp.zeros_like, constants)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _entropy_of(
    logits: Array, temperature: Array | None, normalizer: Normalizer, depth: Array, along: Along
) -> Array:
    # H = L + sum p (-z)
    del logits, temperature, along
    return normalizer.log_total + depth


@partial(_entropy_of.defjvp, symbolic_zeros=True)
def _entropy_of_jvp(
    along: Along,
    primals: tuple[Array, Array | None, Normalizer, Array],
    tangents: tuple[Array | SymbolicZero, Array | SymbolicZero | None, object, object],
) -> tuple[Array, Array]:
    logits, temperature, normalizer, depth = primals
    moved = widened(tangents[:2], depth.dtype)
    tangent = recomputed(partial(_depth_tangent, along=along))
    result = _entropy_of(logits, temperature, normalizer, depth, along)
    return result, tangent(logits, temperature, normalizer, depth, moved)


def _depth_tangent(
    x: Array,
    temperature: Array | None,
    normalizer: Normalizer,
    depth: Array,
    moved: tuple[Array | None, ...],
    along: Along,
    less: float = 0.0,
) -> Array:
    """Compute dH = sum p (-z - depth) dz, in which L does not cancel; less dL for that of depth."""
    of_depth = partial(_depth_tangent, along=along, less=1.0)
    depth = with_derivative(depth, (x, temperature, normalizer), of_depth)
    peak, log_total, _ = differentiable(x, temperature, normalizer, along)
    of_logits, of_temperature = moved[:2]
    z = shift(x, temperature, peak)
    p = exp(z) * jnp.exp(-log_total)
    # No derivative of any order meets 0 * inf where there is no mass.
    beyond = jnp.where(p == 0, 0, (-z - depth) - less)
    change = scaled_tangent(z, of_logits, of_temperature, p != 0)
    return row_sum(p * beyond * change, along) * inverse(temperature)


def kl_divergence(
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    temperature: Setting = 1.0,
    axis_name: AxisName = None,
) -> Array:
    r"""Kullback-Leibler divergence from q to p, both given by their logits, in nats.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_i p_i (\log p_i - \log q_i), \quad
       p = \mathrm{softmax}(x / T), \quad q = \mathrm{softmax}(y / T), \quad 0 \log 0 = 0

    Args:
      p_logits: x, real numbers of any shape with at least one dimension: those of the teacher in
        distillation, of the policy in a penalty that keeps it near a reference.
      q_logits: y, of the same shape: those of the student, of the reference.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed, in both.
      temperature: T >= 0, of both; a number or an array that broadcasts to the batch shape (the
        logits' shape without `axis`). Traced: a new value does not recompile. Distillation weighs
        this loss by T^2, so that its gradient keeps its size.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes of CPUs, XLA gathers short rows: a `shard_map` spares that.

    Returns:
      An array of the batch shape and the logits' float dtype (of two dtypes: the one both are
      computed in), never negative, 0 for equal rows. It is summed as p (exp(u) - 1 - u) with u =
      log q - log p, taken from the logits' differences, so that a divergence of 1e-7 is as
      accurate, relatively, as one of 1.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static temperature that is not allowed.

    Edge cases: inf, with gradient 0, where p has mass on an entry that has none in q (-inf); an
    entry that is -inf in p adds nothing. 0, with gradient 0, for a row in which p has nothing
    allowed. T = 0 compares the largest entries, T = inf the sets of allowed ones, with gradient 0.
    A row that holds NaN or +inf, or whose traced temperature is negative or NaN, is NaN.

    Source: Kullback and Leibler (1951); Hinton, Vinyals and Dean (2015) for the temperature.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x, y = jnp.array([0.0, 1.0, -jnp.inf]), jnp.array([0.0, 0.0, 0.0])
      >>> print(jsoftmax.kl_divergence(x, y), jsoftmax.kl_divergence(y, x))
      0.51640904 inf
    """
    p_rows = check_rows("kl_divergence", p_logits, axis, where, axis_name, "p_logits")
    q = check_logits("kl_divergence", q_logits, "q_logits")
    if p_rows.logits.shape != q.shape:
        raise ValueError(
            "kl_divergence: q_logits must have the shape of p_logits, "
            f"{p_rows.logits.shape}, got shape {q.shape}"
        )
    q_rows = check_rows("kl_divergence", q, axis, where, axis_name, "q_logits")
    dtype = common_dtype(p_rows.logits, q_rows.logits)
    p_rows, q_rows = (rows._replace(logits=rows.logits.astype(dtype)) for rows in (p_rows, q_rows))
    checked = check_temperature("kl_divergence", temperature, p_rows)
    result = _kl_divergence(p_rows.pinned(checked), q_rows.pinned(checked), checked, p_rows.along)
    return jnp.squeeze(result.astype(dtype), p_rows.along.axis)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
@partial(jax.jit, static_argnums=3)
def _kl_divergence(
    p_logits: Array, q_logits: Array, temperature: Array | None, along: Along
) -> Array:
    """KL in the compute dtype, with the axis kept.

    The terms p (exp(u) - 1 - u) = q - p - p u, with u = log q - log p, have the same sum, are never
    negative, and hardly feel the rounding of the two normalizers.
    """
    temperature, *normalizers = _normalizers(p_logits, q_logits, temperature, along)
    (p_peak, p_total, _), (q_peak, q_total, _) = normalizers
    z_p = shift(p_logits, temperature, p_peak)
    z_q = shift(q_logits, temperature, q_peak)
    p, q = exp(z_p - p_total), exp(z_q - q_total)
    u = _log_ratio((p_logits, q_logits), (z_p, z_q), temperature, normalizers)
    near = jnp.abs(u) < _CLOSE
    small = jnp.where(near, u, 0)
    term = jnp.where(near, p * _expm1_beyond_linear(small), q - p - p * u)
    # Not where z_q has overflowed and p has no mass.
    unseen = (z_q == -jnp.inf) & (z_p > -jnp.inf) & ((p > 0) | (q_logits == -jnp.inf))
    term = jnp.where(z_p == -jnp.inf, q, jnp.where(unseen, jnp.inf, term))
    broken = jnp.isnan(p_total + q_total)
    nothing = (p_peak == -jnp.inf) & ~broken
    return jnp.where(nothing, 0, jnp.where(broken, jnp.nan, row_sum(term, along)))


def _normalizers(
    p_logits: Array, q_logits: Array, temperature: Array | None, along: Along
) -> tuple[Array | None, Normalizer, Normalizer]:
    """The temperature, and the normalizers of p and of q.

    Where p has nothing allowed no temperature matters, not even one that is NaN: it is one there.
    """
    of_p = summed(p_logits, temperature, along)
    if temperature is not None:
        temperature = jnp.where(of_p.peak == -jnp.inf, 1, temperature)
    return temperature, of_p, summed(q_logits, temperature, along)


def _log_ratio(
    logits: tuple[Array, Array],
    z: tuple[Array, Array],
    temperature: Array | None,
    normalizers: Sequence[Normalizer],
) -> Array:
    """Compute log q - log p where both have mass, else 0; each argument is of p and of q.

    Where these are close, z is not rounded before its difference is taken.
    """
    both = (z[0] > -jnp.inf) & (z[1] > -jnp.inf)
    apart = z[1] - jnp.where(both, z[0], 0)
    close = both & (jnp.abs(apart) < 1)
    (p_peak, p_total, p_lack), (q_peak, q_total, q_lack) = normalizers
    p_peak, q_peak = (jnp.where(peak == -jnp.inf, 0, peak) for peak in (p_peak, q_peak))
    # In quarters where they are large, so that no difference overflows; no denormals elsewhere.
    large = jnp.maximum(jnp.abs(p_peak), jnp.abs(q_peak)) > 1
    part, parts = jnp.where(large, 0.25, 1), jnp.where(large, 4.0, 1)
    x, y = (part * jnp.where(close, of.astype(apart.dtype), 0) for of in logits)
    of_p, p_rest = add_exactly(x, -part * p_peak)
    of_q, q_rest = add_exactly(y, -part * q_peak)
    difference = (of_q - of_p) + (q_rest - p_rest)
    if temperature is None:
        difference = difference * parts
    else:
        unit = jnp.where(temperature > 1, 0.25, jnp.ones_like(temperature))
        cold = jnp.where(temperature == 0, 1, temperature * unit)
        difference = divide(difference * (parts * unit), cold)
    of_totals = (q_total - p_total) + (q_lack - p_lack)
    return jnp.where(both, jnp.where(close, difference, apart) - of_totals, 0)


def _expm1_beyond_linear(u: Array) -> Array:
    """Compute exp(u) - 1 - u for abs(u) < `_CLOSE` by its series."""
    series = jnp.zeros_like(u)
    for k in range(8 if u.dtype == jnp.float32 else 16, 1, -1):
        series = (1 + series) * u / k
    return series * u


@partial(_kl_divergence.defjvp, symbolic_zeros=True)
def _kl_divergence_jvp(
    along: Along,
    primals: tuple[Array, Array, Array | None],
    tangents: tuple[Array | SymbolicZero, Array | SymbolicZero, Array | SymbolicZero | None],
) -> tuple[Array, Array]:
    p_logits, q_logits, temperature = primals
    temperature, *normalizers = _normalizers(p_logits, q_logits, temperature, along)
    result = _kl_divergence(p_logits, q_logits, temperature, along)
    of_p, of_temperature = widened((tangents[0], tangents[2]), result.dtype)
    of_q, _ = widened((tangents[1], None), result.dtype)
    tangent = recomputed(partial(_kl_tangent, along=along))
    moved = (of_p, of_q, of_temperature)
    return result, tangent((p_logits, q_logits), temperature, normalizers, result, moved)


def _kl_tangent(
    logits: tuple[Array, Array],
    temperature: Array | None,
    normalizers: Sequence[Normalizer],
    result: Array,
    moved: tuple[Array | None, ...],
    along: Along,
) -> Array:
    # dKL = sum p (-u - KL) dz_p + sum (q - p) dz_q, and an infinite KL is constant
    x, y = logits
    result = with_derivative(
        result,
        (x, y, temperature, normalizers),
        lambda x, y, *others: _kl_tangent((x, y), *others, along=along),
    )
    of_p, of_q = normalizers
    normalizers = (
        differentiable(x, temperature, of_p, along),
        differentiable(y, temperature, of_q, along),
    )
    (p_peak, p_total, _), (q_peak, q_total, _) = normalizers
    constant = (result == jnp.inf) | ((p_peak == -jnp.inf) & ~jnp.isnan(result))
    of_p, of_q, of_temperature = moved[:3]
    z_p, z_q = shift(x, temperature, p_peak), shift(y, temperature, q_peak)
    p, q = exp(z_p) * jnp.exp(-p_total), exp(z_q) * jnp.exp(-q_total)
    u = _log_ratio((x, y), (z_p, z_q), temperature, normalizers)
    change = jnp.zeros_like(z_p)
    if of_p is not None or of_temperature is not None:
        # Where there is no mass the log-ratio may be the largest float.
        slope = p * (jnp.where(p == 0, 0, u) + jnp.where(constant, 0, result))
        change -= slope * scaled_tangent(z_p, of_p, of_temperature, slope != 0)
    if of_q is not None or of_temperature is not None:
        # q - p = p (exp(u) - 1) where the two are close.
        close = (jnp.abs(u) < _CLOSE) & (z_p > -jnp.inf) & (z_q > -jnp.inf)
        small = jnp.where(close, u, 0)
        apart = jnp.where(close, p * (small + _expm1_beyond_linear(small)), q - p)
        change += apart * scaled_tangent(z_q, of_q, of_temperature, apart != 0)
    dot = row_sum(change, along) * inverse(temperature)
    return jnp.where(constant, 0, dot)
