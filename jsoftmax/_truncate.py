"""Truncations: boolean masks of the entries that a sampler keeps (True = kept).

Top-k, top-p and typical are the selection engine with a score, a weight and a target. Min-p, epsilon, eta
and top-n-sigma are a threshold from a reduction. Masks compose through `where`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax._checks import (
    Rows,
    check_choice,
    check_logits,
    check_mask,
    check_rows,
    check_setting,
    check_temperature,
    compute_dtype,
)
from jsoftmax._reduce import Along, row_max, row_size, row_sum
from jsoftmax._select import select
from jsoftmax._softmax import log_sum_exp, shift
from jsoftmax._typing import Axis, AxisName, Setting, Ties


def top_k_mask(
    logits: ArrayLike,
    k: Setting,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    ties: Ties = "all",
    axis_name: AxisName = None,
) -> Array:
    r"""Keep the k largest entries of a row.

    .. math:: \{i : |\{j : x_j > x_i\}| < k\}

    Args:
      logits: real numbers of any shape with at least one dimension.
      k: how many, a number or an array that broadcasts to the batch shape (the logits' shape without `axis`).
        Traced: a new value does not recompile. k <= 0 or k >= V is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      ties: "all" keeps every entry that equals the k-th largest, so that equal entries are treated alike;
        "first" keeps exactly k, lowest index first, as ``jax.lax.top_k``.
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``.

    Returns:
      A boolean array of the logits' shape.

    Raises:
      TypeError: logits are not real numbers, or `where` is not boolean.
      ValueError: an axis, a shape, a static k or a `ties` that is not allowed.

    Edge cases: -inf and disallowed entries are never kept, nor is anything in a row with nothing allowed. A
    row that holds NaN or +inf, or whose k is NaN, keeps every allowed entry, so that a softmax under the mask
    shows the error.

    Example:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([3.0, 1.0, 2.0, 2.0])
      >>> print(jsoftmax.top_k_mask(x, 2), jsoftmax.top_k_mask(x, 2, ties="first"))
      [ True False  True  True] [ True False  True False]
    """
    check_choice("top_k_mask", "ties", ties, ("all", "first"))
    rows = check_rows("top_k_mask", logits, axis, where, axis_name)
    k = check_setting("top_k_mask", "k", k, rows)
    return _top_k_mask(rows.logits, k, rows.along, ties)


def top_p_mask(
    logits: ArrayLike,
    p: Setting,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    ties: Ties = "all",
    axis_name: AxisName = None,
) -> Array:
    r"""Keep the nucleus: the smallest set of most probable entries whose mass is at least p.

    .. math:: \{i : \textstyle\sum_{j : x_j > x_i} \mathrm{softmax}(x)_j < p\}

    Args:
      logits: real numbers of any shape with at least one dimension.
      p: the mass, a number or an array that broadcasts to the batch shape (the logits' shape without `axis`).
        Traced: a new value does not recompile. p <= 0 keeps the mode only, p >= 1 is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed. The mass is that of the
        distribution over these entries.
      ties: "all" keeps every entry that equals the least probable one kept; "first" keeps the smallest set,
        lowest index first.
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``.

    Returns:
      A boolean array of the logits' shape. It is exact, but for entries whose cumulative mass is within
      float32 rounding of p: the sums of a row of V entries are off by at most eps * (2 + log2 V), relative.

    Raises:
      TypeError: logits are not real numbers, or `where` is not boolean.
      ValueError: an axis, a shape, a static p or a `ties` that is not allowed.

    Edge cases: -inf and disallowed entries are never kept, nor is anything in a row with nothing allowed. A
    row that holds NaN or +inf, or whose p is NaN, keeps every allowed entry, so that a softmax under the mask
    shows the error.

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration (2020), arXiv:1904.09751.

    Example:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
      >>> print(jsoftmax.top_p_mask(x, 0.7))
      [ True  True False False]
      >>> print(jsoftmax.top_p_mask(x, 0.6, where=jsoftmax.top_k_mask(x, 2)))
      [ True False False False]
    """
    check_choice("top_p_mask", "ties", ties, ("all", "first"))
    rows = check_rows("top_p_mask", logits, axis, where, axis_name)
    p = check_setting("top_p_mask", "p", p, rows)
    return _top_p_mask(rows.logits, p, rows.along, ties)


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
      min_p: the ratio, a number or an array that broadcasts to the batch shape. Traced. min_p <= 0 is off;
        min_p >= 1 keeps the mode only.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``.

    Returns:
      A boolean array of the logits' shape. The threshold is taken on the logits, x_i - max x >= log(min_p).

    Raises:
      TypeError: logits are not real numbers, or `where` is not boolean.
      ValueError: an axis, a shape or a static min_p that is not allowed.

    Edge cases: never empty where some entry is allowed; otherwise as `top_k_mask`.

    Source: Nguyen et al., Turning Up the Heat: Min-p Sampling (2024), arXiv:2407.01082.

    Example:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.min_p_mask(jnp.log(jnp.array([0.6, 0.3, 0.1])), 0.4))
      [ True  True False]
    """
    rows = check_rows("min_p_mask", logits, axis, where, axis_name)
    min_p = check_setting("min_p_mask", "min_p", min_p, rows)
    return _min_p_mask(rows.logits, min_p, rows.along)


def typical_mask(
    logits: ArrayLike,
    mass: Setting,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    ties: Ties = "all",
    axis_name: AxisName = None,
) -> Array:
    r"""Keep the locally typical entries: those whose surprise is nearest the entropy, up to a mass.

    .. math:: \text{smallest set of smallest } |-\log p_i - H| \text{ with } \textstyle\sum p_i \ge \mathrm{mass}

    Args:
      logits: real numbers of any shape with at least one dimension.
      mass: a number or an array that broadcasts to the batch shape. Traced. mass >= 1 is off; mass <= 0 keeps
        the most typical entry only.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      ties: "all" keeps every entry as typical as the least typical one kept; "first" keeps the smallest set,
        lowest index first.
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``.

    Returns:
      A boolean array of the logits' shape. Entries whose cumulative mass, or whose distance from the entropy,
      agree to float32 rounding may fall on either side.

    Raises:
      TypeError: logits are not real numbers, or `where` is not boolean.
      ValueError: an axis, a shape, a static mass or a `ties` that is not allowed.

    Edge cases: as `top_p_mask`. The most probable entry need not be kept.

    Source: Meister et al., Locally Typical Sampling (2022), arXiv:2202.00666.

    Example:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.typical_mask(jnp.log(jnp.array([0.5, 0.2, 0.2, 0.1])), 0.6))
      [ True  True  True False]
    """
    check_choice("typical_mask", "ties", ties, ("all", "first"))
    rows = check_rows("typical_mask", logits, axis, where, axis_name)
    mass = check_setting("typical_mask", "mass", mass, rows)
    return _typical_mask(rows.logits, mass, rows.along, ties)


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
      epsilon: the probability, a number or an array that broadcasts to the batch shape. Traced. epsilon <= 0
        is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``.

    Returns:
      A boolean array of the logits' shape.

    Raises:
      TypeError: logits are not real numbers, or `where` is not boolean.
      ValueError: an axis, a shape or a static epsilon that is not allowed.

    Edge cases: the mode is always kept, where some entry is allowed; otherwise as `top_k_mask`.

    Source: Hewitt et al., Truncation Sampling as Language Model Desmoothing (2022), arXiv:2210.15191.

    Example:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.epsilon_mask(jnp.log(jnp.array([0.7, 0.2, 0.1])), 0.15))
      [ True  True False]
    """
    rows = check_rows("epsilon_mask", logits, axis, where, axis_name)
    epsilon = check_setting("epsilon_mask", "epsilon", epsilon, rows)
    return _epsilon_mask(rows.logits, epsilon, rows.along)


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
      epsilon: a number or an array that broadcasts to the batch shape. Traced. epsilon <= 0 is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``.

    Returns:
      A boolean array of the logits' shape.

    Raises:
      TypeError: logits are not real numbers, or `where` is not boolean.
      ValueError: an axis, a shape or a static epsilon that is not allowed.

    Edge cases: the mode is always kept, where some entry is allowed; otherwise as `top_k_mask`.

    Source: Hewitt et al., Truncation Sampling as Language Model Desmoothing (2022), arXiv:2210.15191.

    Example:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.eta_mask(jnp.log(jnp.array([0.6, 0.3, 0.09, 0.01])), 0.05))
      [ True  True  True False]
    """
    rows = check_rows("eta_mask", logits, axis, where, axis_name)
    epsilon = check_setting("eta_mask", "epsilon", epsilon, rows)
    return _eta_mask(rows.logits, epsilon, rows.along)


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

    with the population deviation over the allowed finite entries. The set does not depend on temperature.

    Args:
      logits: real numbers of any shape with at least one dimension.
      n: how many deviations, a number or an array that broadcasts to the batch shape. Traced. n <= 0 is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``.

    Returns:
      A boolean array of the logits' shape.

    Raises:
      TypeError: logits are not real numbers, or `where` is not boolean.
      ValueError: an axis, a shape or a static n that is not allowed.

    Edge cases: the mode is always kept, where some entry is allowed; otherwise as `top_k_mask`.

    Source: Tang et al., Top-n-sigma: Not All Logits Are You Need (2024), arXiv:2411.07641.

    Example:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.top_n_sigma_mask(jnp.array([9.0, 8.0, 1.0, 0.0, 2.0]), 1.0))
      [ True  True False False False]
    """
    rows = check_rows("top_n_sigma_mask", logits, axis, where, axis_name)
    n = check_setting("top_n_sigma_mask", "n", n, rows)
    return _top_n_sigma_mask(rows.logits, n, rows.along)


def truncation_mask(
    logits: ArrayLike,
    *,
    temperature: Setting = 1.0,
    top_k: Setting | None = None,
    top_p: Setting | None = None,
    min_p: Setting | None = None,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""The entries that `sample` can draw under the same settings.

    Temperature first, then top-k, then top-p on the renormalised survivors, and min-p. This is the order of
    Hugging Face ``generate``; min-p is relative to the largest probability, so its place does not matter.
    With :math:`q = \mathrm{softmax}(x / T)` over the allowed entries, and over the k largest for top-p:

    .. math:: \mathrm{top\_k}(x) \cap \mathrm{top\_p}(q) \cap \{i : q_i \ge \mathrm{min\_p} \cdot \max q\}

    Args:
      logits: real numbers of any shape with at least one dimension.
      temperature: T >= 0. T = 0 keeps the largest entries only.
      top_k: as k of `top_k_mask`; None is off, and costs nothing.
      top_p: as p of `top_p_mask`; None is off, and costs nothing.
      min_p: as in `min_p_mask`; None is off, and costs nothing.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``.

    Each setting is a number or an array that broadcasts to the batch shape (the logits' shape without
    `axis`), and is traced: a new value does not recompile.

    Returns:
      A boolean array of the logits' shape. Ties at a cut are all kept.

    Raises:
      TypeError: logits are not real numbers, or `where` is not boolean.
      ValueError: an axis, a shape or a static setting that is not allowed.

    Edge cases: as `top_k_mask` and `top_p_mask`. Entries are ordered by the logits themselves, so that
    dividing by T creates no ties, but for T = inf, where all allowed entries tie.

    Example:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]] * 2))
      >>> print(jsoftmax.truncation_mask(x, temperature=jnp.array([0.0, 1.0]), top_k=3, top_p=0.9))
      [[ True False False False]
       [ True  True  True False]]
    """
    rows = check_rows("truncation_mask", logits, axis, where, axis_name)
    settings = check_settings("truncation_mask", temperature, top_k, top_p, min_p, rows)
    return _truncation_mask(rows.logits, settings, rows.along)


def mask_logits(logits: ArrayLike, mask: ArrayLike, *, fill: float = -jnp.inf) -> Array:
    r"""Logits with another value, by default -inf, where the mask is False.

    .. math:: y_i = x_i \text{ where } m_i, \text{ else } \mathrm{fill}

    For code that takes logits rather than a `where`.

    Args:
      logits: real numbers of any shape.
      mask: boolean, broadcasts to the logits' shape. True = kept.
      fill: the value elsewhere, a real number.

    Returns:
      An array of the logits' shape and float dtype (integers become the default float). Values and gradients
      of the entries that are not kept, NaN among them, reach neither it nor its gradient.

    Raises:
      TypeError: logits are not real numbers, `mask` is not boolean, or `fill` is not a real number.
      ValueError: the mask does not broadcast to the logits' shape.

    Example:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([1.0, 2.0, 3.0])
      >>> print(jsoftmax.mask_logits(x, x > 1))
      [-inf   2.   3.]
    """
    array = check_logits("mask_logits", logits)
    keep = check_mask("mask_logits", "mask", mask, array.shape)
    value = check_logits("mask_logits", fill, "fill")
    if value.ndim != 0:
        raise ValueError(f"mask_logits: fill must be a single number, got shape {value.shape}")
    return jnp.where(keep, array, value.astype(array.dtype))


class Settings(NamedTuple):
    """Checked settings of a truncation, in the compute dtype; None is off."""

    temperature: Array | None
    top_k: Array | None
    top_p: Array | None
    min_p: Array | None


def check_settings(
    function: str,
    temperature: Setting,
    top_k: Setting | None,
    top_p: Setting | None,
    min_p: Setting | None,
    rows: Rows,
) -> Settings:
    """Check the settings that `truncation_mask` and the samplers share."""

    def check(argument: str, value: Setting | None) -> Array | None:
        return None if value is None else check_setting(function, argument, value, rows)

    return Settings(
        check_temperature(function, temperature, rows),
        check("top_k", top_k),
        check("top_p", top_p),
        check("min_p", min_p),
    )


class Scaled(NamedTuple):
    """A row at its temperature: what truncation and sampling look at."""

    score: Array
    """The logits in the compute dtype, which order the entries; -inf where an entry has no mass."""
    z: Array
    """(x - max x) / T."""
    peak: Array
    allowed: Array
    """Entries other than -inf; at T = 0 only the largest."""
    invalid: Array
    """Per row: NaN or +inf among the logits, or a setting that is NaN."""


def scale(logits: Array, settings: Settings, along: Along) -> Scaled:
    """Take the logits to their temperature."""
    temperature = settings.temperature
    score = logits.astype(compute_dtype(logits.dtype))
    peak = row_max(score, along)
    allowed = ~(score == -jnp.inf)
    z = shift(score, temperature, peak)
    invalid = jnp.isnan(peak)
    if temperature is not None:
        allowed &= (temperature != 0) | (score == peak) | invalid
        score = jnp.where(temperature == jnp.inf, jnp.zeros_like(score), score)
    score = jnp.where(allowed, score, -jnp.inf)
    for setting in settings:
        if setting is not None:
            invalid |= jnp.isnan(setting)
    return Scaled(score, z, peak, allowed, invalid)


def truncate(scaled: Scaled, settings: Settings, along: Along) -> Array:
    """Mask of top-k, then top-p, and min-p."""
    mask = scaled.allowed
    if settings.top_k is not None:
        mask &= _top_k(scaled, settings.top_k, along, "all")
    if settings.top_p is not None:
        survivors = scaled._replace(score=jnp.where(mask, scaled.score, -jnp.inf), allowed=mask)
        mask = _top_p(survivors, settings.top_p, along, "all")
    if settings.min_p is not None:
        mask &= scaled.z >= _log_threshold(settings.min_p)
    return jnp.where(scaled.invalid, scaled.allowed, mask)


@partial(jax.jit, static_argnums=2)
def _truncation_mask(logits: Array, settings: Settings, along: Along) -> Array:
    return truncate(scale(logits, settings, along), settings, along)


@partial(jax.jit, static_argnums=(2, 3))
def _top_k_mask(logits: Array, k: Array, along: Along, ties: Ties) -> Array:
    scaled = scale(logits, Settings(None, k, None, None), along)
    return jnp.where(scaled.invalid, scaled.allowed, _top_k(scaled, k, along, ties))


@partial(jax.jit, static_argnums=(2, 3))
def _top_p_mask(logits: Array, p: Array, along: Along, ties: Ties) -> Array:
    scaled = scale(logits, Settings(None, None, p, None), along)
    return jnp.where(scaled.invalid, scaled.allowed, _top_p(scaled, p, along, ties))


@partial(jax.jit, static_argnums=2)
def _min_p_mask(logits: Array, min_p: Array, along: Along) -> Array:
    settings = Settings(None, None, None, min_p)
    return truncate(scale(logits, settings, along), settings, along)


@partial(jax.jit, static_argnums=(2, 3))
def _typical_mask(logits: Array, mass: Array, along: Along, ties: Ties) -> Array:
    scaled = scale(logits, Settings(None, None, mass, None), along)
    log_p, entropy = _surprise(scaled, along)
    score = jnp.where(scaled.allowed, -jnp.abs(log_p + entropy), -jnp.inf)
    kept = select(score, jnp.exp(log_p), mass, along, ties)
    return jnp.where(scaled.invalid | (mass >= 1), scaled.allowed, kept)


@partial(jax.jit, static_argnums=2)
def _epsilon_mask(logits: Array, epsilon: Array, along: Along) -> Array:
    scaled = scale(logits, Settings(None, None, None, epsilon), along)
    log_total = log_sum_exp(scaled.z, scaled.peak, along)
    threshold = jnp.minimum(_log_threshold(epsilon) + log_total, 0)
    return jnp.where(scaled.invalid, scaled.allowed, scaled.allowed & (scaled.z >= threshold))


@partial(jax.jit, static_argnums=2)
def _eta_mask(logits: Array, epsilon: Array, along: Along) -> Array:
    scaled = scale(logits, Settings(None, None, None, epsilon), along)
    log_total = log_sum_exp(scaled.z, scaled.peak, along)
    _, entropy = _surprise(scaled, along)
    log_epsilon = _log_threshold(epsilon)
    log_eta = jnp.minimum(log_epsilon, log_epsilon / 2 - entropy)
    threshold = jnp.minimum(log_eta + log_total, 0)
    return jnp.where(scaled.invalid, scaled.allowed, scaled.allowed & (scaled.z >= threshold))


@partial(jax.jit, static_argnums=2)
def _top_n_sigma_mask(logits: Array, n: Array, along: Along) -> Array:
    scaled = scale(logits, Settings(None, None, None, n), along)
    # Halved, and in units of the row's range: neither the differences nor their squares overflow.
    below = jnp.where(scaled.allowed, scaled.score / 2 - scaled.peak / 2, 0)
    spread = row_max(-below, along)
    below = below / jnp.where(spread == 0, 1, spread)
    count = jnp.maximum(row_sum(scaled.allowed, along), 1).astype(below.dtype)
    mean = row_sum(below, along) / count
    square = jnp.where(scaled.allowed, jnp.square(below - mean), 0)
    deviation = jnp.sqrt(row_sum(square, along) / count)
    kept = scaled.allowed & ((below >= -n * deviation) | (n <= 0))
    return jnp.where(scaled.invalid, scaled.allowed, kept)


def _top_k(scaled: Scaled, k: Array, along: Along, ties: Ties) -> Array:
    off = (k <= 0) | (k >= row_size(scaled.score, along))
    kept = select(scaled.score, None, jnp.where(off | jnp.isnan(k), 1, k), along, ties)
    return jnp.where(off, scaled.allowed, kept)


def _top_p(scaled: Scaled, p: Array, along: Along, ties: Ties) -> Array:
    mass = jnp.where(scaled.allowed, jnp.exp(scaled.z), 0)
    kept = select(scaled.score, mass, p * row_sum(mass, along), along, ties)
    return jnp.where(p >= 1, scaled.allowed, kept)


def _log_threshold(ratio: Array) -> Array:
    """log(ratio) for a threshold on z: at most 0, which keeps the mode, and -inf for ratio <= 0."""
    return jnp.log(jnp.clip(ratio, 0, 1))


def _surprise(scaled: Scaled, along: Along) -> tuple[Array, Array]:
    """log p, and the entropy of the row."""
    log_total = log_sum_exp(scaled.z, scaled.peak, along)
    log_p = scaled.z - log_total
    terms = jnp.exp(log_p) * (log_total - jnp.where(scaled.z == -jnp.inf, 0, scaled.z))
    return log_p, row_sum(terms, along)
