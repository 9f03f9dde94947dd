"""Entropy of a distribution given by its logits."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax._checks import check_rows, check_temperature
from jsoftmax._reduce import row_sum
from jsoftmax._softmax import Primals, Tangents, contract, inverse, normalizer, shift
from jsoftmax._typing import Along, Axis, AxisName, Setting


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
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``.

    Returns:
      An array of the batch shape and the logits' float dtype, between 0 and log V.

    Raises:
      TypeError: logits are not real numbers, or `where` is not boolean.
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


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _entropy(logits: Array, temperature: Array | None, along: Along) -> Array:
    """Entropy in the compute dtype, with the axis kept."""
    peak, log_total = normalizer(logits, temperature, along)
    z = shift(logits, temperature, peak)
    return row_sum(jnp.exp(z - log_total) * _if_present(z, log_total - z), along)


@partial(_entropy.defjvp, symbolic_zeros=True)
def _entropy_jvp(along: Along, primals: Primals, tangents: Tangents) -> tuple[Array, Array]:
    # dH = -sum p (log p + H) dz = sum p (-log p) dz - H sum p dz
    logits, temperature = primals
    peak, log_total = normalizer(logits, temperature, along)
    result = _entropy(logits, temperature, along)

    def of_surprise(z: Array, p: Array, change: Array) -> Array:
        return row_sum(p * _if_present(z, log_total - z - result) * change, along)

    dot = contract(of_surprise, logits, temperature, peak, log_total, tangents)
    return result, dot * inverse(temperature)


def _if_present(z: Array, value: Array) -> Array:
    """The value, and 0 where z is -inf and p is 0: no derivative of any order meets 0 * inf."""
    return jnp.where(z == -jnp.inf, 0, value)
