"""Temperature: logits over T, with the limits T -> 0 and T -> inf."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax._checks import check_rows
from jsoftmax._derivative import recomputed
from jsoftmax._reduce import row_max
from jsoftmax._settings import check_temperature
from jsoftmax._shift import at_temperature, shift
from jsoftmax._typing import Along, Axis, AxisName, Setting


def temperature_scale(
    logits: ArrayLike,
    temperature: Setting,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Logits at a temperature: flatter for T > 1, sharper for T < 1.

    .. math:: y_i = x_i / T

    At T = 0 the limit that the softmax of y has: 0 at the largest entries and -inf elsewhere. Where
    x / T would overflow, y is shifted to (x - max x) / T, which has the same softmax.

    Args:
      logits: real numbers of any shape with at least one dimension.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape (the logits'
        shape without `axis`). Traced: a new value does not recompile.
      axis: the axis that holds a row (the limit T = 0 needs its largest entry).
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed. Others become
        -inf.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.

    Returns:
      An array of the logits' shape and float dtype, computed in float32 or wider and rounded once.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static temperature that is not allowed.

    Edge cases: -inf stays -inf at every T; T = inf gives 0 to every allowed entry. A row that holds
    NaN or +inf, or whose traced temperature is negative or NaN, is NaN.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([[1.0, 3.0, -jnp.inf], [1.0, 3.0, 3.0]])
      >>> print(jsoftmax.temperature_scale(x, jnp.array([2.0, 0.0])))
      [[ 0.5  1.5 -inf]
       [-inf  0.   0. ]]
    """
    rows = check_rows("temperature_scale", logits, axis, where, axis_name)
    checked = check_temperature("temperature_scale", temperature, rows)
    scaled = _temperature_scale(rows.pinned(checked), checked, rows.along)
    return rows.fill_disallowed(scaled, -jnp.inf)


@partial(jax.jit, static_argnums=2)
def _temperature_scale(logits: Array, temperature: Array | None, along: Along) -> Array:
    largest = float(jnp.finfo(logits.dtype).max)
    scaled = recomputed(partial(_scaled, largest=largest, along=along))
    return scaled(logits, temperature).astype(logits.dtype)


def _scaled(x: Array, temperature: Array | None, *, largest: float, along: Along) -> Array:
    """The same of logits in the compute dtype, shifted where a result would be beyond `largest`."""
    peak = row_max(x, along)
    absent = x == -jnp.inf
    scaled, invalid = x, jnp.isnan(peak)
    if temperature is not None:
        nonzero = jnp.where(temperature == 0, 1, temperature)
        highest = jnp.where(peak == -jnp.inf, 0, peak) / nonzero
        limit = (temperature == 0) | (jnp.abs(highest) > largest)
        quotient = at_temperature(jnp.where(absent, 0, x), nonzero)
        scaled = jnp.where(limit, shift(x, temperature, peak), quotient)
        invalid |= jnp.isnan(temperature) & (peak != -jnp.inf)
    scaled = jnp.where(absent, -jnp.inf, scaled)
    return jnp.where(invalid, jnp.nan, scaled)
