"""Truncations that are a threshold from a reduction: min-p, epsilon, eta and top-n-sigma."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax._checks import check_rows
from jsoftmax._reduce import row_exact_sweep, row_sweep
from jsoftmax._row import Row, log_threshold, row_and_number, row_of, surprise
from jsoftmax._settings import Settings, check_setting
from jsoftmax._typing import Along, Axis, AxisName, Setting


def min_p_mask(
    logits: ArrayLike,
    min_p: Setting,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Keep the entries at least min_p times as probable as the most probable one.

    .. math:: \{i : p_i \ge \mathrm{min\_p} \cdot \max p\}

    Args:
      logits: real numbers of any shape with at least one dimension.
      min_p: the ratio, a number or an array that broadcasts to the batch shape (the logits' shape
        without `axis`). Traced. min_p <= 0 is off; min_p >= 1 keeps the mode only.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.

    Returns:
      A boolean array of the logits' shape. The threshold is taken on the logits, x_i - max x >=
      log(min_p).

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static min_p that is not allowed.

    Edge cases: never empty where some entry is allowed; otherwise as `top_k_mask`.

    Source: Nguyen et al., Turning Up the Heat: Min-p Sampling (2024), arXiv:2407.01082.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.min_p_mask(jnp.log(jnp.array([0.6, 0.3, 0.1])), 0.4))
      [ True  True False]
    """
    rows = check_rows("min_p_mask", logits, axis, where, axis_name)
    number = check_setting("min_p_mask", "min_p", min_p, rows)
    return _min_p_mask(rows.logits, number, rows.along)


def epsilon_mask(
    logits: ArrayLike,
    epsilon: Setting,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Keep the entries whose probability is at least epsilon.

    .. math:: \{i : p_i \ge \epsilon\}

    Args:
      logits: real numbers of any shape with at least one dimension.
      epsilon: the probability, a number or an array that broadcasts to the batch shape (the logits'
        shape without `axis`). Traced. epsilon <= 0 is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes of CPUs, XLA gathers short rows: a `shard_map` spares that.

    Returns:
      A boolean array of the logits' shape.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static epsilon that is not allowed.

    Edge cases: the mode is always kept, where some entry is allowed; otherwise as `top_k_mask`.

    Source: Hewitt et al., Truncation Sampling as Language Model Desmoothing (2022),
    arXiv:2210.15191.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.epsilon_mask(jnp.log(jnp.array([0.7, 0.2, 0.1])), 0.15))
      [ True  True False]
    """
    rows = check_rows("epsilon_mask", logits, axis, where, axis_name)
    number = check_setting("epsilon_mask", "epsilon", epsilon, rows)
    return _epsilon_mask(rows.logits, number, rows.along)


def eta_mask(
    logits: ArrayLike,
    epsilon: Setting,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Keep the entries above a probability that falls with the entropy H of the row.

    .. math:: \{i : p_i \ge \min(\epsilon, \sqrt{\epsilon}\, e^{-H})\}

    Args:
      logits: real numbers of any shape with at least one dimension.
      epsilon: a number or an array that broadcasts to the batch shape (the logits' shape without
        `axis`). Traced. epsilon <= 0 is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes of CPUs, XLA gathers short rows: a `shard_map` spares that.

    Returns:
      A boolean array of the logits' shape.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static epsilon that is not allowed.

    Edge cases: the mode is always kept, where some entry is allowed; otherwise as `top_k_mask`.

    Source: Hewitt et al., Truncation Sampling as Language Model Desmoothing (2022),
    arXiv:2210.15191.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.eta_mask(jnp.log(jnp.array([0.6, 0.3, 0.09, 0.01])), 0.05))
      [ True  True  True False]
    """
    rows = check_rows("eta_mask", logits, axis, where, axis_name)
    number = check_setting("eta_mask", "epsilon", epsilon, rows)
    return _eta_mask(rows.logits, number, rows.along)


def top_n_sigma_mask(
    logits: ArrayLike,
    n: Setting,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Keep the logits within n standard deviations of the largest.

    .. math:: \{i : x_i \ge \max x - n \sigma(x)\}

    with the population deviation over the allowed finite entries. The set does not depend on
    temperature. An entry that lies on the cut, within the rounding of float32, may fall on either
    side.

    Args:
      logits: real numbers of any shape with at least one dimension.
      n: how many deviations, a number or an array that broadcasts to the batch shape (the logits'
        shape without `axis`). Traced. n <= 0 is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.

    Returns:
      A boolean array of the logits' shape.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static n that is not allowed.

    Edge cases: the mode is always kept, where some entry is allowed; otherwise as `top_k_mask`.

    Source: Tang et al., Top-n-sigma: Not All Logits Are You Need (2024), arXiv:2411.07641.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.top_n_sigma_mask(jnp.array([9.0, 8.0, 1.0, 0.0, 2.0]), 1.0))
      [ True  True False False False]
    """
    rows = check_rows("top_n_sigma_mask", logits, axis, where, axis_name)
    number = check_setting("top_n_sigma_mask", "n", n, rows)
    return _top_n_sigma_mask(rows.logits, number, rows.along)


@partial(jax.jit, static_argnums=2)
def _min_p_mask(logits: Array, min_p: Array, along: Along) -> Array:
    row, _ = row_of(logits, Settings(min_p=min_p), along)
    return jnp.moveaxis(row.mask(row.floor), -1, along.axis)


@partial(jax.jit, static_argnums=2)
def _epsilon_mask(logits: Array, epsilon: Array, along: Along) -> Array:
    row, epsilon = row_and_number(logits, epsilon, along)
    minus_log_p, _ = surprise(row)
    return _at_least(row, -minus_log_p(row.x), log_threshold(epsilon), along)


@partial(jax.jit, static_argnums=2)
def _eta_mask(logits: Array, epsilon: Array, along: Along) -> Array:
    row, epsilon = row_and_number(logits, epsilon, along)
    minus_log_p, entropy = surprise(row)
    log_epsilon = jnp.log(jnp.maximum(epsilon, 0))
    log_eta = jnp.minimum(log_epsilon, log_epsilon / 2 - entropy)
    return _at_least(row, -minus_log_p(row.x), log_eta, along)


@partial(jax.jit, static_argnums=2)
def _top_n_sigma_mask(logits: Array, n: Array, along: Along) -> Array:
    row, n = row_and_number(logits, n, along)
    allowed = row.x > -jnp.inf
    ones = allowed.astype(row.peak.dtype)
    count, least = row_sweep(row.along, sums=[ones], minima=[jnp.where(allowed, row.x, jnp.inf)])
    count = jnp.maximum(count, 1)
    # In units of the row's range, and far from both ends of the floats: neither the differences nor
    # their squares overflow, and the unit's reciprocal does not underflow.
    large = jnp.maximum(jnp.abs(row.peak), jnp.abs(least)) > 1
    unit = jnp.where(large, 2.0**-4, 2.0**60).astype(row.peak.dtype)
    spread = row.peak * unit - least * unit
    depth = jnp.where(allowed, row.peak * unit - row.x * unit, 0) / jnp.where(spread > 0, spread, 1)
    ((total, _),) = row_exact_sweep(row.along, [depth], 4)
    mean = total / count
    square = jnp.where(allowed, jnp.square(depth - mean), 0)
    ((total, _),) = row_exact_sweep(row.along, [square], 4)
    deviation = jnp.sqrt(total / count)
    return _at_least(row, -depth, jnp.where(n > 0, -n * deviation, -jnp.inf), along)


def _at_least(row: Row, value: Array, threshold: Array, along: Along) -> Array:
    """Keep the allowed entries whose value reaches the threshold, and the mode."""
    mask = (row.x > -jnp.inf) & ((value >= threshold) | (row.x == row.peak))
    return jnp.moveaxis(row.unless_invalid(mask), -1, along.axis)
