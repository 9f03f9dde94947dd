"""Relaxed samples: draws from a softmax that have a gradient."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax._checks import check_flag, check_key, check_rows
from jsoftmax._dtypes import compute_dtype
from jsoftmax._reduce import row_peak
from jsoftmax._settings import check_temperature
from jsoftmax._softmax import softmax_of
from jsoftmax._typing import Along, Axis, Setting


def gumbel_softmax(
    key: Array,
    logits: ArrayLike,
    *,
    temperature: Setting = 1.0,
    hard: bool = False,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Draw from the softmax of a row, relaxed so that gradients flow to the logits.

    .. math:: y = \mathrm{softmax}((x + g) / T), \quad g_i \sim \mathrm{Gumbel}(0, 1)

    The largest entry of y is at i with the probability that `softmax` gives to i at T = 1. T only
    says how near y is to one-hot.

    Args:
      key: one PRNG key, typed or raw. For a key per row, use ``jax.vmap``.
      logits: real numbers of any shape with at least one dimension.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape (the logits'
        shape without `axis`). Traced: a new value does not recompile.
      hard: whether to return the one-hot draw itself, with the gradient of the relaxed one
        (straight-through: a biased estimate). Static.
      axis: the axis that holds a row. The draw is the same whichever it is.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed. Others are
        never drawn, and are 0.

    Returns:
      An array of the logits' shape and float dtype: probabilities, or with `hard` exactly 0 and 1.
      The noise is drawn, added and divided in float32 or wider, and the result rounded once:
      bfloat16 logits give unbiased draws. Gradients flow to the logits and the temperature.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` or `hard` is not boolean, `axis`
        is not an integer, or `key` is not a key.
      ValueError: an axis, a shape or a static temperature that is not allowed.

    Edge cases: a -inf or disallowed entry is 0, with gradient 0; a row with nothing allowed is all
    0. T = 0 is the limit, the one-hot draw, with zero gradients; T = inf is uniform (with `hard`,
    the draw still). A row that holds NaN or +inf, or whose traced temperature is negative or NaN,
    is NaN.

    Source: Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", 2017;
    Maddison, Mnih and Teh, "The Concrete distribution", 2017.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.log(jnp.array([0.7, 0.2, 0.1]))
      >>> keys = jax.random.split(jax.random.key(0), 10000)
      >>> draws = jax.vmap(lambda key: jsoftmax.gumbel_softmax(key, x, hard=True))(keys)
      >>> print(jnp.round(draws.mean(0), 1))
      [0.7 0.2 0.1]
    """
    key = check_key("gumbel_softmax", key)
    rows = check_rows("gumbel_softmax", logits, axis, where, None)
    checked = check_temperature("gumbel_softmax", temperature, rows)
    hard = check_flag("gumbel_softmax", "hard", hard)
    drawn = _relaxed(key, rows.logits, checked, hard, rows.along)
    return rows.fill_disallowed(drawn, 0)


@partial(jax.jit, static_argnums=(3, 4))
def _relaxed(
    key: Array, logits: Array, temperature: Array | None, hard: bool, along: Along
) -> Array:
    last = jnp.moveaxis(logits, along.axis, -1)
    # Two words a uniform: the largest of many draws is not cut off at 16.
    noise = jax.random.gumbel(key, last.shape, compute_dtype(logits.dtype), mode="high")
    # Below the largest logit: far from 0 a sum with the noise would round most of that away.
    x = logits.astype(noise.dtype)
    noisy = (x - row_peak(x, along)) + jnp.moveaxis(noise, -1, along.axis)
    if temperature is not None:
        # Computed once, for the largest and for what is compared with it.
        noisy = lax.optimization_barrier(noisy)
    soft = softmax_of(noisy, temperature, None, along)
    drawn = soft
    if hard:
        drawn = _straight_through(noisy, soft, along.axis)
    elif temperature is not None:
        # Entries that tie would share the draw.
        drawn = jnp.where(temperature == 0, _straight_through(noisy, soft, along.axis), soft)
    return drawn.astype(logits.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _straight_through(noisy: Array, soft: Array, axis: int) -> Array:
    """One-hot at the largest entry, NaN or nothing where `soft` is."""
    if noisy.shape[axis] == 0:
        return soft
    drawn = jnp.argmax(noisy, axis=axis, keepdims=True)
    hit = lax.broadcasted_iota(drawn.dtype, noisy.shape, axis) == drawn
    return jnp.where(jnp.isnan(soft), soft, (hit & (noisy > -jnp.inf)).astype(soft.dtype))


@partial(_straight_through.defjvp, symbolic_zeros=True)
def _straight_through_jvp(
    axis: int,
    primals: tuple[Array, Array],
    tangents: tuple[Array | SymbolicZero, Array | SymbolicZero],
) -> tuple[Array, Array]:
    # As if the draw were the relaxed one.
    noisy, soft = primals
    _, of_soft = tangents
    tangent = jnp.zeros_like(soft) if isinstance(of_soft, SymbolicZero) else of_soft
    return _straight_through(noisy, soft, axis), tangent
