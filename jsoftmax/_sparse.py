"""sparsemax and entmax: maps to the simplex that give exact zeros, with their JVP rules.

With kappa = alpha - 1 and z = (x - max x) / T, p = max(M + kappa z, 0)^(1 / kappa), where M, the
kappa-th power of the largest probability, makes the sum one: `_sparse_root` finds it.
"""

import math
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax._checks import Rows, check_rows, keep_or_fill
from jsoftmax._derivative import drop_zeros
from jsoftmax._dtypes import compute_dtype, upcast
from jsoftmax._reduce import row_max, row_sum
from jsoftmax._settings import check_alpha, check_temperature
from jsoftmax._shift import inverse, shift
from jsoftmax._softmax import softmax_of
from jsoftmax._sparse_root import solve
from jsoftmax._sweep import is_long
from jsoftmax._typing import Along, Axis, AxisName, Setting

Primals: TypeAlias = tuple[Array, Array | None, Array | None, Array | None]
"""Logits, temperature (None: one), alpha (None: the static one) and `where` (None: all)."""

Tangents: TypeAlias = tuple[
    Array | SymbolicZero, Array | SymbolicZero | None, Array | SymbolicZero | None, object
]

_TERMS = 22
"""Of the series of `bend`: the last is below 1e-21 at v = -1."""


def sparsemax(
    logits: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    temperature: Setting = 1.0,
    axis_name: AxisName = None,
) -> Array:
    r"""Euclidean projection of a row onto the simplex: probabilities of which many are exactly 0.

    .. math:: p = \mathrm{argmin}_{p \in \Delta} \|p - x / T\|^2, \quad
       p_i = \max(x_i / T - \tau, 0), \quad \sum_i p_i = 1

    It is `entmax` with alpha = 2. An entry one or more below the largest (T = 1) is 0.

    Args:
      logits: real numbers of any shape with at least one dimension.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed. Other entries
        count as absent, whatever they hold.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape (the logits'
        shape without `axis`). Traced: a new value does not recompile.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.

    Returns:
      An array of the logits' shape and float dtype (integers become the default float), within
      rounding of the exact projection. float16 and bfloat16 are computed in float32 and rounded
      once.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static temperature that is not allowed.

    Edge cases: as `softmax`. A -inf or disallowed entry has probability 0 and gradient 0; a row
    with nothing allowed is all 0; T = 0 shares all mass equally among the largest entries, T = inf
    is uniform, both with zero gradient. A row that holds NaN or +inf, or whose traced temperature
    is negative or NaN, is NaN. The gradient is that of the support (the entries above 0), and so
    one of the two at a row where an entry is just about to enter it.

    Source: Martins and Astudillo, "From softmax to sparsemax", 2016.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([1.0, 0.5, -0.5, -jnp.inf])
      >>> print(jsoftmax.sparsemax(x), jsoftmax.sparsemax(x, temperature=4.0))
      [0.75 0.25 0.   0.  ] [0.5   0.375 0.125 0.   ]
    """
    rows = check_rows("sparsemax", logits, axis, where, axis_name)
    checked = check_temperature("sparsemax", temperature, rows)
    return sparse_map(rows.pinned(checked), checked, 2.0, rows, rows.logits.dtype)


def entmax(
    logits: ArrayLike,
    axis: Axis = -1,
    *,
    alpha: Setting = 1.5,
    where: ArrayLike | None = None,
    temperature: Setting = 1.0,
    axis_name: AxisName = None,
) -> Array:
    r"""From `softmax` (alpha = 1) over `sparsemax` (alpha = 2) to sparser maps still.

    .. math:: p = \mathrm{argmax}_{p \in \Delta} \sum_i \frac{p_i x_i}{T}
       + \frac{1}{\alpha (\alpha - 1)} \sum_i (p_i - p_i^\alpha), \quad
       p_i = \max\left((\alpha - 1) \frac{x_i}{T} - \tau, 0\right)^{1 / (\alpha - 1)}

    Args:
      logits: real numbers of any shape with at least one dimension.
      axis: the axis that holds a row.
      alpha: in [1, 4], a number or an array that broadcasts to the batch shape (the logits' shape
        without `axis`). Traced: a new value does not recompile. The Python numbers 1, 1.5 and 2
        are static, and faster: 1 is `softmax`, and 1.5 and 2 have a threshold in closed form on
        their support.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed. Other entries
        count as absent, whatever they hold.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape. Traced.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.

    Returns:
      An array of the logits' shape and float dtype (integers become the default float), within
      rounding of the exact map; for alpha > 2, whose slope has no bound where several entries are
      about to leave the support, within 1e-5 of it in general, and there less surely: each of them
      within eps ** (1 / (alpha - 1)), which is 3e-4 at alpha = 3 and 5e-3 at 4, and the others,
      together, by as much as all of those. float16 and bfloat16 are computed in float32 and rounded
      once. Gradients flow to the logits, alpha and the temperature.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape, a static alpha or a static temperature that is not allowed.

    Edge cases: as `softmax`. A -inf or disallowed entry has probability 0 and gradient 0; a row
    with nothing allowed is all 0; T = 0 shares all mass equally among the largest entries, T = inf
    is uniform, both with zero gradient. A row that holds NaN or +inf, or whose traced alpha is NaN
    or outside [1, 4], or whose traced temperature is negative or NaN, is NaN; other rows are
    untouched.

    Source: Peters, Niculae and Martins, "Sparse sequence-to-sequence models", 2019; the derivative
    by alpha: Correia, Niculae and Martins, "Adaptively sparse transformers", 2019.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
      >>> with jnp.printoptions(precision=3, suppress=True):
      ...     print(jsoftmax.entmax(x, alpha=jnp.array([1.0, 1.5, 2.0])))
      [[0.665 0.245 0.09 ]
       [0.831 0.169 0.   ]
       [1.    0.    0.   ]]
    """
    rows = check_rows("entmax", logits, axis, where, axis_name)
    checked = check_temperature("entmax", temperature, rows)
    order = check_alpha("entmax", alpha, rows)
    return sparse_map(rows.pinned(checked), checked, order, rows, rows.logits.dtype)


def sparse_map(
    logits: Array,
    temperature: Array | None,
    alpha: Array | float,
    rows: Rows,
    dtype: np.dtype,
) -> Array:
    """The map of checked arguments, in this dtype; alpha is an array, or 1, 1.5 or 2."""
    if isinstance(alpha, Array):
        return _sparse_map(logits, temperature, alpha, rows.where, 0.0, rows.along, dtype)
    if alpha == 1:
        return softmax_of(logits.astype(dtype), temperature, rows.where, rows.along)
    return _sparse_map(logits, temperature, None, rows.where, alpha, rows.along, dtype)


@partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
@partial(jax.jit, static_argnums=(4, 5, 6))
def _sparse_map(
    logits: Array,
    temperature: Array | None,
    alpha: Array | None,
    where: Array | None,
    static_alpha: float,
    along: Along,
    dtype: np.dtype,
) -> Array:
    largest = row_max(upcast(logits), along)
    peak = largest
    if temperature is not None:
        peak = jnp.where(jnp.isnan(temperature) & (peak != -jnp.inf), jnp.nan, peak)

    def score(logits: Array) -> Array:
        return shift(logits, temperature, largest)

    p, _ = solve(logits, score, peak, static_alpha if alpha is None else alpha, along)
    p = p.astype(dtype)
    # Here, as in softmax: the backward pass keeps what the caller gets.
    return p if where is None else keep_or_fill(where, p, 0)


@partial(_sparse_map.defjvp, symbolic_zeros=True)
def _sparse_map_jvp(
    static_alpha: float, along: Along, dtype: np.dtype, primals: Primals, tangents: Tangents
) -> tuple[Array, Array]:
    # On the support z = ln(p) + c, with the deformed logarithm ln(p) = (p^kappa - 1) / kappa, whose
    # slope is 1 / s for s = p^(2 - alpha). So s^-1 dp = dz - dc - d ln / d kappa dkappa, and dc is
    # what keeps the sum: the mean of the rest under s. Everything is a function of p alone: z is
    # ln(p) but for c.
    logits, temperature, alpha, where = primals
    result = _sparse_map(logits, temperature, alpha, where, static_alpha, along, dtype)
    of_logits, of_temperature, of_alpha = drop_zeros(tangents[:3])
    wide = compute_dtype(logits.dtype)

    @jax.checkpoint
    def spread(
        rounded: Array,
        temperature: Array | None,
        alpha: Array | None,
        of_logits: Array | None,
        of_temperature: Array | None,
        of_alpha: Array | None,
    ) -> Array:
        p = rounded.astype(wide)
        kappa = (static_alpha if alpha is None else alpha) - 1
        log_p = log_positive(p)
        # For alpha = 1.5 the root, which is rounded once.
        power = (
            jnp.sqrt(jnp.where(p == 0, 1, p))
            if static_alpha == 1.5
            else jnp.exp((1 - kappa) * log_p)
        )
        weight = jnp.where(p == 0, 0, power)
        total = row_sum(weight, along)
        total = jnp.where(total == 0, 1, total)

        def project(change: Array) -> Array:
            return weight * (change - _sum_beside(weight * change, along) / total)

        change = jnp.zeros_like(p) if of_logits is None else of_logits.astype(wide)
        if of_temperature is not None:
            change = change - deformed_log(log_p, kappa) * of_temperature
        tangent = project(change) * inverse(temperature)
        if of_alpha is not None:
            tangent = tangent + project(bend(log_p, kappa)) * of_alpha
        if where is not None:
            tangent = jnp.where(p == 0, 0, tangent)
        return tangent.astype(rounded.dtype)

    return result, spread(result, temperature, alpha, of_logits, of_temperature, of_alpha)


def _sum_beside(x: Array, along: Along) -> Array:
    """Sum of a row beside each of its entries, a linear function that is its own transpose.

    In short rows, which XLA:CPU adds up one after another, the leading digits apart from the rest:
    most of the additions are then exact, of the transpose too.
    """
    if is_long(x, along.axis):
        return row_sum(x, along)
    high = _coarse(x)
    total = row_sum(high, along) + row_sum(x - high, along)
    # Not the same array twice: the transpose of each is a sum.
    one, two = (jnp.broadcast_to(total, x.shape) for _ in range(2))
    return _coarse(one) + (two - _coarse(two))


def _coarse(x: Array) -> Array:
    """`x` rounded to so few digits that a thousand such numbers of a size add up exactly."""
    kind = np.finfo(x.dtype)
    return lax.reduce_precision(x, kind.nexp, kind.nmant // 4)


def log_positive(p: Array) -> Array:
    """Logarithm of p, and 0 where p is 0."""
    return jnp.log(jnp.where(p == 0, 1, p))


def deformed_log(log_p: Array, kappa: Array | float) -> Array:
    """(p^kappa - 1) / kappa, and log p at kappa = 0."""
    if isinstance(kappa, float):
        return jnp.expm1(kappa * log_p) / kappa if kappa else log_p
    limit = kappa == 0
    return jnp.where(limit, log_p, jnp.expm1(kappa * log_p) / jnp.where(limit, 1, kappa))


def bend(log_p: Array, kappa: Array | float) -> Array:
    """Minus the derivative of `deformed_log` by kappa.

    With v = kappa log p it is log(p)^2 (e^v (1 - v) - 1) / v^2, where v is small by the series of
    the fraction, -sum (n - 1) v^(n - 2) / n! from n = 2 on.
    """
    v = kappa * log_p
    small = jnp.abs(v) < 1
    inner = jnp.where(small, v, 0)
    series = jnp.zeros_like(inner)
    for n in range(_TERMS, 1, -1):
        series = series * inner - (n - 1) / math.factorial(n)
    outer = jnp.where(small, 1, v)
    direct = (jnp.exp(outer) * (1 - outer) - 1) / (outer * outer)
    return log_p * log_p * jnp.where(small, series, direct)
