"""Truncations that the selection engine answers: masks of the entries kept (True = kept).

Top-k, top-p and typical are a score, a weight and a target. Masks compose through `where`, and
`truncation_mask` is the composition that samplers use.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax._checks import (
    check_choice,
    check_infinity,
    check_logits,
    check_mask,
    check_rows,
    keep_or_fill,
    unbounded,
)
from jsoftmax._dtypes import has_infinity
from jsoftmax._explicit import by_shards
from jsoftmax._kept import counting, floor_of, select_top_k, select_top_p, top_p_limit
from jsoftmax._loop import stored_on_cpus
from jsoftmax._row import row_and_number, row_of, surprise
from jsoftmax._select import Weights, keep_first, select
from jsoftmax._settings import Settings, check_setting, check_settings
from jsoftmax._typing import Along, Axis, AxisName, Setting, Ties


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
      k: how many, a number or an array that broadcasts to the batch shape (the logits' shape
        without `axis`). Traced: a new value does not recompile. k <= 0 or k >= V is off. Exact up
        to 2^24, as numbers of float32 are.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      ties: "all" keeps every entry that equals the k-th largest, so that equal entries are treated
        alike; "first" keeps exactly k, lowest index first, as ``jax.lax.top_k``.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes, XLA gathers the largest entries: a `shard_map` spares that.

    Returns:
      A boolean array of the logits' shape.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape, a static k or a `ties` that is not allowed.

    Edge cases: -inf and disallowed entries are never kept, nor is anything in a row with nothing
    allowed. A row that holds NaN or +inf, or whose k is NaN, keeps every allowed entry.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([3.0, 1.0, 2.0, 2.0])
      >>> print(jsoftmax.top_k_mask(x, 2), jsoftmax.top_k_mask(x, 2, ties="first"))
      [ True False  True  True] [ True False  True False]
    """
    check_choice("top_k_mask", "ties", ties, ("all", "first"))
    rows = check_rows("top_k_mask", logits, axis, where, axis_name)
    number = check_setting("top_k_mask", "k", k, rows)
    return _top_k_mask(rows.logits, number, rows.along, ties)


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
      p: the mass, a number or an array that broadcasts to the batch shape (the logits' shape
        without `axis`). Traced: a new value does not recompile. p <= 0 keeps the mode only, p >= 1
        is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed. The mass is
        that of the distribution over these entries.
      ties: "all" keeps every entry that equals the least probable one kept; "first" keeps the
        smallest set, lowest index first.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes, XLA gathers the rows for ties="first": a `shard_map` spares
        that.

    Returns:
      A boolean array of the logits' shape. It is exact, but for entries whose cumulative mass is
      within float32 rounding of p: the tests allow either side within 16 eps of it.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape, a static p or a `ties` that is not allowed.

    Edge cases: -inf and disallowed entries are never kept, nor is anything in a row with nothing
    allowed. A row that holds NaN or +inf, or whose p is NaN, keeps every allowed entry.

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration (2020), arXiv:1904.09751.

    Examples:
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
    number = check_setting("top_p_mask", "p", p, rows)
    return _top_p_mask(rows.logits, number, rows.along, ties)


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

    .. math:: \text{smallest set of smallest } |-\log p_i - H| \text{ with } \textstyle\sum p_i \ge
    \mathrm{mass}

    Args:
      logits: real numbers of any shape with at least one dimension.
      mass: a number or an array that broadcasts to the batch shape (the logits' shape without
        `axis`). Traced. mass >= 1 is off; mass <= 0 keeps the most typical entry only.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      ties: "all" keeps every entry as typical as the least typical one kept; "first" keeps the
        smallest set, lowest index first.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes, XLA gathers the rows for ties="first", and on CPUs always: a
        `shard_map` spares that.

    Returns:
      A boolean array of the logits' shape. Entries whose cumulative mass, or whose distance from
      the entropy, agree to float32 rounding may fall on either side.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape, a static mass or a `ties` that is not allowed.

    Edge cases: as `top_p_mask`. The most probable entry need not be kept.

    Source: Meister et al., Locally Typical Sampling (2022), arXiv:2202.00666.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> print(jsoftmax.typical_mask(jnp.log(jnp.array([0.5, 0.2, 0.2, 0.1])), 0.6))
      [ True  True  True False]
    """
    check_choice("typical_mask", "ties", ties, ("all", "first"))
    rows = check_rows("typical_mask", logits, axis, where, axis_name)
    number = check_setting("typical_mask", "mass", mass, rows)
    return _typical_mask(rows.logits, number, rows.along, ties)


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

    Temperature first, then top-k, then top-p on the renormalised survivors, and min-p. This is the
    order of Hugging Face ``generate``; the cuts before min-p leave the largest probability, to
    which it is relative, where it is. With :math:`q = \mathrm{softmax}(x / T)` over the allowed
    entries, and over the k largest for top-p:

    .. math:: \mathrm{top\_k}(x) \cap \mathrm{top\_p}(q) \cap \{i : q_i \ge \mathrm{min\_p} \cdot
    \max q\}

    Args:
      logits: real numbers of any shape with at least one dimension.
      temperature: T >= 0. T = 0 keeps the largest entries only.
      top_k: as k of `top_k_mask`; None is off, and costs nothing.
      top_p: as p of `top_p_mask`; None is off, and costs nothing.
      min_p: as in `min_p_mask`; None is off, and costs nothing.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes, XLA gathers the largest entries for top_k: a `shard_map`
        spares that.

    Each setting is a number or an array that broadcasts to the batch shape (the logits' shape
    without `axis`), and is traced: a new value does not recompile.

    Returns:
      A boolean array of the logits' shape. Ties at a cut are all kept.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, or `axis` is not
        an integer.
      ValueError: an axis, a shape or a static setting that is not allowed.

    Edge cases: as `top_k_mask` and `top_p_mask`. Entries are ordered by the logits themselves, so
    that dividing by T creates no ties, but for T = inf, where all allowed entries tie.

    Examples:
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
      An array of the logits' shape and float dtype (integers become the default float). Values and
      gradients of the entries that are not kept, NaN among them, reach neither it nor its gradient.

    Raises:
      TypeError: logits are not real numbers, `mask` is not boolean, `fill` is not a real number, or
        it is infinite and the logits' dtype has no infinity (an array of jax is not looked into).
      ValueError: the mask does not broadcast to the logits' shape, or `fill` is beyond the floats
        of a dtype without infinity, or NaN and it has none.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([1.0, 2.0, 3.0])
      >>> print(jsoftmax.mask_logits(x, x > 1))
      [-inf   2.   3.]
    """
    array = check_logits("mask_logits", logits)
    keep = check_mask("mask_logits", "mask", mask, array.shape)
    number = unbounded(fill)
    if isinstance(number, float):
        _check_fill(number, array)
        if number == -np.inf:
            return keep_or_fill(keep, array, number)
        with np.errstate(over="ignore"):
            return jnp.where(keep, array, jnp.asarray(number, array.dtype))
    value = check_logits("mask_logits", number, "fill")
    if value.ndim != 0:
        raise ValueError(f"mask_logits: fill must be a single number, got shape {value.shape}")
    if isinstance(number, np.ndarray | np.generic):
        _check_fill(float(np.asarray(number)), array)
    return jnp.where(keep, array, value.astype(array.dtype))


def _check_fill(fill: float, array: Array) -> None:
    """Check a static value: without infinity, what is beyond a dtype's floats is NaN or clamped."""
    if has_infinity(array.dtype):
        return
    if np.isinf(fill):
        check_infinity("mask_logits", "logits", array)
    info = jnp.finfo(array.dtype)
    least, most = float(info.min), float(info.max)
    lost = np.isnan(fill) and not np.isnan(float(np.asarray(fill).astype(array.dtype)))
    if lost or fill < least or fill > most:
        raise ValueError(
            f"mask_logits: fill must be in [{least:g}, {most:g}], the floats of the logits' dtype "
            f"{array.dtype}, got fill={fill}"
        )


@partial(jax.jit, static_argnums=2)
@by_shards(split=True)
def _truncation_mask(logits: Array, settings: Settings, along: Along) -> Array:
    row, settings = row_of(logits, settings, along)
    return jnp.moveaxis(row.mask(floor_of(row, settings)), -1, along.axis)


@partial(jax.jit, static_argnums=(2, 3))
@by_shards(split=True)
def _top_k_mask(logits: Array, k: Array, along: Along, ties: Ties) -> Array:
    row, k = row_and_number(logits, k, along)
    selected, *_ = select_top_k(row, k)
    mask = row.mask(selected.floor)
    if ties == "first":
        mask = keep_first(mask, selected, row.logits, row.widened, counting(row).entries, row.along)
    return jnp.moveaxis(mask, -1, along.axis)


@partial(jax.jit, static_argnums=(2, 3))
@by_shards(split=True)
def _top_p_mask(logits: Array, p: Array, along: Along, ties: Ties) -> Array:
    row, p = row_and_number(logits, p, along, weighed=True)
    total = row.total()
    selected = select_top_p(row, row.floor, total, top_p_limit(total, p))
    mask = row.mask(selected.floor)
    if ties == "first":
        mask = keep_first(mask, selected, row.logits, row.widened, row.weights, row.along)
    return jnp.moveaxis(mask, -1, along.axis)


@partial(jax.jit, static_argnums=(2, 3))
@by_shards(split=True)
def _typical_mask(logits: Array, mass: Array, along: Along, ties: Ties) -> Array:
    row, mass = row_and_number(logits, mass, along)
    minus_log_p, entropy = surprise(row)

    def score_of(logits: Array) -> Array:
        x = row.widened(logits)
        return jnp.where(x > -jnp.inf, -jnp.abs(minus_log_p(x) - entropy), -jnp.inf)

    def p_of(logits: Array) -> Array:
        x = row.widened(logits)
        return jnp.where(x > -jnp.inf, jnp.exp(-minus_log_p(x)), 0)

    stored_score, stored_p = lax.optimization_barrier((score_of(row.logits), p_of(row.logits)))
    score = partial(stored_on_cpus, stored_score, score_of)
    weights = partial(stored_on_cpus, stored_p, p_of)
    selected = select(
        row.logits,
        score,
        # Of the two entries that may have a score the less probable, and a rounding error less.
        Weights(entries=weights, at=lambda score: 0.99 * jnp.exp(score - entropy)),
        jnp.maximum(mass, jnp.finfo(mass.dtype).tiny),
        total=jnp.ones_like(mass),
        floor=row.floor,
        peak=jnp.zeros_like(row.peak),
        depth=4.0,
        wanted=(mass < 1) & ~row.invalid & (row.peak > -jnp.inf),
        along=row.along,
    )
    mask = (row.x > -jnp.inf) & (score(row.logits) >= selected.cut)
    if ties == "first":
        mask = keep_first(mask, selected, row.logits, score, weights, row.along)
    return jnp.moveaxis(row.unless_invalid(mask), -1, along.axis)
