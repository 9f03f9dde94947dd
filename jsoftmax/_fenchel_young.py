"""Losses whose gradient is a map of the entmax family minus the label.

With the deformed logarithm ln(p) = (p^kappa - 1) / kappa, kappa = alpha - 1, a map has ln(p) = a on
its support and a <= -1 / kappa off it, where a = (x - max x) / T - w with one w for the row. The
loss is the sum over the row of (y ln(y) - y + p^alpha) / alpha - y a, terms that are not negative.
"""

from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax._checks import check_labels, check_rows
from jsoftmax._derivative import drop_zeros
from jsoftmax._label import hits
from jsoftmax._reduce import row_max, row_size, row_sum, row_sweep
from jsoftmax._settings import check_alpha, check_temperature
from jsoftmax._shift import inverse, scaled_tangent, shift
from jsoftmax._sparse import bend, deformed_log, log_positive, sparse_map
from jsoftmax._typing import Along, Axis, AxisName, Setting

Primals: TypeAlias = tuple[Array, Array, Array, Array | None, Array | None]
"""The map, the labels, the logits, the temperature (None: one) and alpha (None: the static one)."""

_SMALL = 0.25
"""How far the label's probability may be from one for the series of `_shortfall`."""
_TERMS = 28
"""Of that series: the last is below 1e-17."""


def fenchel_young_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: Setting = 1.5,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    temperature: Setting = 1.0,
    axis_name: AxisName = None,
) -> Array:
    r"""Loss of `entmax`, as cross-entropy is that of `softmax`: its gradient is entmax minus label.

    .. math:: \Omega^*(x / T) + \Omega(y) - \frac{\langle x, y \rangle}{T}, \quad
       \Omega(p) = \frac{\sum_i (p_i^\alpha - p_i)}{\alpha (\alpha - 1)}, \quad
       \Omega^*(x) = \max_{p \in \Delta} \langle x, p \rangle - \Omega(p)

    alpha = 1 is cross-entropy (less the entropy of the label), alpha = 2 the sparsemax loss. For
    alpha > 1 the loss is exactly 0 once the label's logit is 1 / (alpha - 1) above all others (T =
    1): such a row is learnt.

    Args:
      logits: real numbers of any shape with at least one dimension.
      labels: integers of the batch shape (the logits' shape without `axis`), the index of the class
        in the whole row, also where `axis_name` splits it; or floating-point numbers of the logits'
        shape, a distribution over the classes (split as the logits are). Gradients flow to a
        distribution too, along the simplex.
      alpha: in [1, 4], a number or an array that broadcasts to the batch shape. Traced, but for the
        Python numbers 1, 1.5 and 2, which are faster: see `entmax`.
      axis: the axis that holds the classes.
      where: boolean, broadcasts to the logits' shape: True where a class is allowed. A row in which
        nothing is allowed is ignored: ``where=(labels >= 0)[..., None]``.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape. Traced.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.

    Returns:
      An array of the batch shape and the logits' float dtype, never negative. float16 and bfloat16
      are computed in float32 and rounded once. The loss of an integer label that is nearly certain
      keeps its digits for the static alpha of 1; for 1.5 and 2 those that z = (x - max x) / T has,
      which is rounded first. The loss of a distribution is within a few eps of the largest of its
      terms. The backward pass keeps the map in that dtype and the labels.

    Raises:
      TypeError: logits or a setting are not real numbers, labels neither integers nor
        floating-point numbers, `where` is not boolean, or `axis` is not an integer.
      ValueError: an axis, a shape or a static setting that is not allowed; static labels out of
        range.

    Edge cases: as `cross_entropy`. A -inf or disallowed class costs nothing where its label is 0;
    label mass on it costs inf, with gradient 0. A row with nothing allowed costs 0, with gradient
    0, whatever its label. A traced label out of range gives NaN in its row, with gradient 0. A NaN
    or +inf logit, a negative or NaN entry of a distribution, or a traced setting that is not
    allowed, makes its row NaN.

    Source: Blondel, Martins and Niculae, "Learning with Fenchel-Young losses", 2020.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x, label = jnp.array([1.0, 0.5, -2.0]), jnp.array(1)
      >>> print(jsoftmax.fenchel_young_loss(x, label, alpha=2))
      0.5625
      >>> gradient = jax.grad(jsoftmax.fenchel_young_loss)(x, label, alpha=2)
      >>> print(gradient, jsoftmax.sparsemax(x) - jnp.array([0.0, 1.0, 0.0]))
      [ 0.75 -0.75  0.  ] [ 0.75 -0.75  0.  ]
    """
    function = "fenchel_young_loss"
    rows = check_rows(function, logits, axis, where, axis_name)
    checked = check_temperature(function, temperature, rows)
    order = check_alpha(function, alpha, rows)
    size = row_size(rows.logits, rows.along)
    target = check_labels(function, labels, rows, size, where, distribution=True)
    if jnp.issubdtype(target.dtype, jnp.floating):
        target = target.astype(rows.compute_dtype)
    pinned = rows.pinned(checked)
    p = sparse_map(pinned, checked, order, rows, rows.compute_dtype)
    array, static = (order, 0.0) if isinstance(order, Array) else (None, order)
    loss = _loss(p, target, pinned, checked, array, static, rows.along)
    return jnp.squeeze(loss.astype(rows.logits.dtype), rows.along.axis)


@partial(jax.custom_jvp, nondiff_argnums=(5, 6))
@partial(jax.jit, static_argnums=(5, 6))
def _loss(
    p: Array,
    target: Array,
    logits: Array,
    temperature: Array | None,
    alpha: Array | None,
    static_alpha: float,
    along: Along,
) -> Array:
    peak = row_max(logits.astype(p.dtype), along)
    z = shift(logits, temperature, peak)
    order = static_alpha if alpha is None else alpha
    normalizer = -deformed_log(log_positive(row_max(p, along)), order - 1)
    if jnp.issubdtype(target.dtype, jnp.floating):
        y, power = target, p * jnp.exp((order - 1) * log_positive(p))
        own = y * (deformed_log(log_positive(y), order - 1) - 1)
        cost = jnp.where(y == 0, 0, y * (z - normalizer))
        each = (own + power) / order - cost
        # Not a maximum: XLA:CPU's overlooks NaN.
        loss = row_sum(jnp.where(each < 0, 0, each), along)
        sound = (row_max(y, along) < jnp.inf) & ~jnp.isnan(normalizer)
        loss = jnp.where(sound, loss, jnp.nan)
    else:
        loss = _loss_of_label(p, target, z, normalizer, order, along)
    return jnp.where(peak == -jnp.inf, 0, loss)


def _loss_of_label(
    p: Array, index: Array, z: Array, normalizer: Array, alpha: Array | float, along: Along
) -> Array:
    hit = hits(z, index, along)
    other = jnp.where(hit, 0, p)
    power = other * jnp.exp((alpha - 1) * log_positive(other))
    missing, rest, at_label = row_sweep(along, sums=[other, power, jnp.where(hit, z, 0)])
    a = at_label - normalizer
    kappa = alpha - 1
    # On the support p^kappa = 1 + kappa a.
    base = jnp.maximum(1 + kappa * jnp.maximum(a, jnp.finfo(a.dtype).min), 0)
    direct = (jnp.maximum(1 - missing, 0) * base - 1) / alpha - a
    small = missing < _SMALL
    own = jnp.where(small, _shortfall(jnp.where(small, missing, 0), kappa), direct)
    loss = jnp.where(at_label == -jnp.inf, jnp.inf, rest / alpha + jnp.maximum(own, 0))
    return jnp.where((index >= 0) & ~jnp.isnan(normalizer), loss, jnp.nan)


def _shortfall(missing: Array, kappa: Array | float) -> Array:
    """Integral of (1 - t) t^(kappa - 1) from 1 - u to 1: u^2 sum_n c_n u^n / (n + 2).

    It is what is lost to the probability 1 - u of the label; c_n / c_(n-1) = (n - kappa) / n.
    """
    series = jnp.zeros_like(missing)
    for n in range(_TERMS, 0, -1):
        series = (series + 1 / (n + 2)) * missing * ((n - kappa) / n)
    return missing * missing * (series + 0.5)


@partial(_loss.defjvp, symbolic_zeros=True)
def _loss_jvp(
    static_alpha: float,
    along: Along,
    primals: Primals,
    tangents: tuple[Array | SymbolicZero | None, ...],
) -> tuple[Array, Array]:
    p, target, logits, temperature, alpha = primals
    result = _loss(p, target, logits, temperature, alpha, static_alpha, along)
    _, of_target, of_logits, of_temperature, of_alpha = drop_zeros(tangents)
    if not jnp.issubdtype(target.dtype, jnp.floating):
        of_target = None

    tangent = jax.checkpoint(partial(_tangent, static_alpha=static_alpha, along=along))
    moved = tangent(primals, (of_target, of_logits, of_temperature, of_alpha))
    constant = result == jnp.inf
    if not jnp.issubdtype(target.dtype, jnp.floating):
        constant |= target < 0
    constant |= row_max(logits.astype(p.dtype), along) == -jnp.inf
    return result, jnp.where(constant, 0, moved)


def _tangent(
    primals: Primals, moved: tuple[Array | None, ...], static_alpha: float, along: Along
) -> Array:
    # The map maximises <x, p> - Omega(p), so the loss has no derivative by p: dL = sum (p - y) dz +
    # (d Omega(y) - d Omega(p)) / d alpha dalpha + sum (ln(y) - a) dy. The second derivative flows
    # through p here.
    p, target, logits, temperature, alpha = primals
    of_target, of_logits, of_temperature, of_alpha = moved
    order = static_alpha if alpha is None else alpha
    floating = jnp.issubdtype(target.dtype, jnp.floating)
    y = target if floating else hits(p, target, along).astype(p.dtype)
    z = p
    if of_temperature is not None or of_target is not None:
        z = shift(logits, temperature, row_max(logits.astype(p.dtype), along))
    beyond = p - y
    if not floating:
        # p - 1 at a label that holds most of the mass, which has lost its digits.
        others = row_sum(jnp.where(y == 0, p, 0), along)
        beyond = jnp.where((y == 1) & (p > 0.5), -others, beyond)
    step = scaled_tangent(z, of_logits, of_temperature, beyond != 0)
    tangent = row_sum(beyond * step, along) * inverse(temperature)
    if of_alpha is not None:
        # Omega(p) = sum p ln(p) / alpha
        by_alpha = row_sum(_omega_by_alpha(p, order) - _omega_by_alpha(y, order), along)
        tangent = tangent - by_alpha * of_alpha
    if of_target is not None:
        slope = jnp.where(z == -jnp.inf, 0, _slope_by_target(p, y, z, order - 1, along))
        tangent = tangent + row_sum(slope * of_target, along)
    return tangent


def _slope_by_target(p: Array, y: Array, z: Array, kappa: Array | float, along: Along) -> Array:
    """Compute ln(y) - a, with a = z - w from the largest of p, where z is 0."""
    top = p == row_max(p, along)
    largest, count = row_sum(jnp.where(top, p, 0), along), row_sum(top, along)
    mean = largest / jnp.maximum(count, 1).astype(p.dtype)
    a = z + deformed_log(log_positive(mean), kappa)
    at_zero = jnp.where(kappa == 0, 0, -1 / jnp.where(kappa == 0, 1, kappa))
    log_y = jnp.where(y == 0, at_zero, deformed_log(log_positive(y), kappa))
    return log_y - a


def _omega_by_alpha(p: Array, alpha: Array | float) -> Array:
    """The term of p in the derivative of Omega by alpha."""
    log_p = log_positive(p)
    return -p * (bend(log_p, alpha - 1) + deformed_log(log_p, alpha - 1) / alpha) / alpha
