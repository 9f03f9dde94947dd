"""Sampling: draws from what a truncation keeps, without looking for its cut, and log-probabilities.

A draw takes three wide uniforms per row, however large the vocabulary; top-p makes two or more.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax._checks import check_key, check_rows
from jsoftmax._derivative import Moved, recomputed, widened
from jsoftmax._draw import blocks_in_window, draw, entry_at
from jsoftmax._explicit import by_shards
from jsoftmax._kept import Kept, cut, keep
from jsoftmax._label import hits
from jsoftmax._loop import first_round, tied, where_needed
from jsoftmax._normalizer import Normalizer, differentiable, log_p_tangent, log_sum_exp, summed
from jsoftmax._reduce import row_sum, vary_alike
from jsoftmax._row import Row, row_of
from jsoftmax._settings import Settings, check_settings
from jsoftmax._typing import Along, Axis, AxisName, Setting


def sample(
    key: Array,
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
    r"""Draw one entry of each row from its truncated, renormalised distribution.

    .. math:: P(i) \propto \exp(x_i / T) \text{ for } i \text{ in } \mathrm{truncation\_mask}(x)

    Args:
      key: one PRNG key, typed or raw. For a key per row, use ``jax.vmap``.
      logits: real numbers of any shape with at least one dimension.
      temperature: T >= 0. T = 0 is greedy decoding: the lowest index among the largest, whatever
        the key.
      top_k: as k of `top_k_mask`; None is off, and costs nothing.
      top_p: as p of `top_p_mask`; None is off, and costs nothing.
      min_p: as in `min_p_mask`; None is off, and costs nothing.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        The same key must be given on every shard. The token is the same on 1, 2, 4 and 8 shards of
        an axis that 8 divides, else it follows the same distribution. Without it, on Auto mesh
        axes, XLA gathers the rows: a `shard_map` spares that.

    Each setting is a number or an array that broadcasts to the batch shape (the logits' shape
    without `axis`), and is traced: a new value does not recompile.

    Returns:
      int32 array of the batch shape: indices along `axis` (of the whole axis, and the same on every
      shard, with `axis_name`). An entry outside `truncation_mask` is never drawn (but at the edge
      of the nucleus, by rounding, where this program sums in another order than that of the mask).

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, `axis` is not an
        integer, or `key` is not a key.
      ValueError: an axis, a shape or a static setting that is not allowed.

    Edge cases: 0 for a row with nothing allowed; an index in range for a row that holds NaN or +inf
    or has an invalid setting (`sample_and_log_prob` tells which rows these are).

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([[0.0, 3.0, 3.0], [0.0, -jnp.inf, -jnp.inf]])
      >>> print(jsoftmax.sample(jax.random.key(0), x, temperature=0.0))
      [1 0]
      >>> x, k = jnp.zeros((1000, 50)), jnp.arange(1000) % 5
      >>> tokens = jsoftmax.sample(jax.random.key(0), x, top_k=k)
      >>> print(tokens.shape, tokens.dtype)
      (1000,) int32
    """
    key = check_key("sample", key)
    rows = check_rows("sample", logits, axis, where, axis_name)
    settings = check_settings("sample", temperature, top_k, top_p, min_p, rows)
    return _sample(key, rows.logits, settings, rows.along)


def sample_and_log_prob(
    key: Array,
    logits: ArrayLike,
    *,
    temperature: Setting = 1.0,
    top_k: Setting | None = None,
    top_p: Setting | None = None,
    min_p: Setting | None = None,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> tuple[Array, Array]:
    r"""Draw as `sample`, with the log-probability of what was drawn.

    .. math:: \log P(i) = x_i / T - \log \sum_{j \in \mathrm{truncation\_mask}(x)} \exp(x_j / T)

    The probability is that of the distribution drawn from: truncated and renormalised.

    Args:
      key: one PRNG key, typed or raw. For a key per row, use ``jax.vmap``.
      logits: real numbers of any shape with at least one dimension.
      temperature: T >= 0. At T = 0 the log-probability is -log(number of largest entries).
      top_k: as k of `top_k_mask`; None is off.
      top_p: as p of `top_p_mask`; None is off.
      min_p: as in `min_p_mask`; None is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        The same key must be given on every shard. The token is the same on 1, 2, 4 and 8 shards of
        an axis that 8 divides, else it follows the same distribution. Without it, on Auto mesh
        axes, XLA gathers the rows: a `shard_map` spares that.

    Returns:
      (token, log_prob): token as `sample` gives for the same key; log_prob of the batch shape and
      the logits' float dtype. Gradients of log_prob flow to the logits and the temperature, none
      through the draw or the cut.

    Raises:
      TypeError: logits or a setting are not real numbers, `where` is not boolean, `axis` is not an
        integer, or `key` is not a key.
      ValueError: an axis, a shape or a static setting that is not allowed.

    Edge cases: (0, -inf) for a row with nothing allowed; log_prob NaN for a row that holds NaN or
    +inf or has an invalid setting.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.log(jnp.array([0.5, 0.25, 0.25]))
      >>> token, log_prob = jsoftmax.sample_and_log_prob(jax.random.key(0), x, top_k=1)
      >>> print(token, log_prob)
      0 0.0
    """
    key = check_key("sample_and_log_prob", key)
    rows = check_rows("sample_and_log_prob", logits, axis, where, axis_name)
    settings = check_settings("sample_and_log_prob", temperature, top_k, top_p, min_p, rows)
    return _sample_and_log_prob(key, rows.logits, settings, rows.along)


class Draw(NamedTuple):
    """Where the draw of each row stands; the arrays have the batch shape and one axis more."""

    rounds: Array
    token: Array
    unfinished: Array
    pivot: Array
    """The next draw is from the entries above it."""
    blocks: Array
    """What each block of these weighs."""


@partial(jax.jit, static_argnums=3)
@by_shards(split=False)
def _sample(key: Array, logits: Array, settings: Settings, along: Along) -> Array:
    key, logits, settings = vary_alike((key, logits, settings), besides=along.axis_name)
    row, settings = row_of(logits, settings, along)
    return jnp.squeeze(_draw_truncated(key, row, settings, keep(row, settings)), -1)


@partial(jax.jit, static_argnums=3)
@by_shards(split=False)
def _sample_and_log_prob(
    key: Array, logits: Array, settings: Settings, along: Along
) -> tuple[Array, Array]:
    key, logits, settings = vary_alike((key, logits, settings), besides=along.axis_name)
    row, effective = row_of(logits, settings, along, weighed=True)
    kept = keep(row, effective)
    floor = cut(row, kept)
    log_total = _log_total(row, settings, kept, floor)
    if not row.along.axis_name:
        # Tied: summed before a token is drawn, the two do not need room at once. (Where rows are
        # split, what crosses devices for both would not be sent together.)
        floor, log_total = lax.optimization_barrier((floor, log_total))
    token = _draw_truncated(key, row, effective, kept, floor)
    logit = row.widened(entry_at(row.logits, token, row.along))
    log_prob = row.z(logit) - log_total
    log_prob = jnp.where(logit == -jnp.inf, -jnp.inf, log_prob)
    log_prob = jnp.where(row.invalid & (row.peak != -jnp.inf), jnp.nan, log_prob)
    # From here on gradients flow: to the logits and the temperature, not through the draw or the
    # cut.
    mask = row.mask(floor) if settings.truncate else None
    x = jnp.moveaxis(logits, along.axis, -1)
    temperature = settings.temperature
    if temperature is not None:
        temperature = jnp.moveaxis(temperature, along.axis, -1)
    log_prob = _log_prob_of_token(x, temperature, token, mask, log_prob, row.along)
    return jnp.squeeze(token, -1), jnp.squeeze(log_prob, -1).astype(logits.dtype)


def _log_total(row: Row, settings: Settings, kept: Kept, floor: Array) -> Array:
    """Logarithm of what the kept entries weigh: from the window, where that holds them all."""

    def kept_z(x: Array) -> Array:
        z = row.z(x)
        return jnp.where(row.keeps(x, floor), z, -jnp.inf) if settings.truncate else z

    def of_row(logits: Array) -> Array:
        return log_sum_exp(row.widened(logits), kept_z, row.along, stored)[1]

    stored = row.stored_weights
    if stored is not None and settings.truncate:
        stored = jnp.where(row.keeps(row.x, floor), stored, 0)

    if kept.window is None:
        return of_row(row.logits)
    weight = row.kept_weight(kept.window.x, floor)
    # The first is the largest entry, and weighs one.
    of_window = jnp.log1p(jnp.sum(weight[..., 1:], axis=-1, keepdims=True))
    return where_needed(~kept.complete & ~row.invalid, of_row, row.logits, of_window)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _log_prob_of_token(
    x: Array,
    temperature: Array | None,
    token: Array,
    mask: Array | None,
    log_prob: Array,
    along: Along,
) -> Array:
    """The log-probability of the token, which is known, as a function of the logits and T."""
    del x, temperature, token, mask, along
    return log_prob


@partial(_log_prob_of_token.defjvp, symbolic_zeros=True)
def _differentiable_jvp(
    along: Along,
    primals: tuple[Array, Array | None, Array, Array | None, Array],
    tangents: tuple[Array | SymbolicZero, Array | SymbolicZero | None, object, object, object],
) -> tuple[Array, Array]:
    # d log p = dz of the token - sum p dz, with the mask and the token constant
    x, temperature, token, mask, log_prob = primals
    if temperature is not None:
        # Where nothing is allowed none counts, not even NaN.
        temperature = jnp.where(log_prob == -jnp.inf, 1, temperature)
    kept = x if mask is None else jnp.where(mask, x, jnp.asarray(-jnp.inf, x.dtype))

    @recomputed
    def tangent(x: Array, temperature: Array | None, constant: Normalizer, moved: Moved) -> Array:
        normalizer = differentiable(x, temperature, constant, along)

        def at_token(row: Array) -> Array:
            # Not by its index: XLA adds up the rest of a gradient before what it scatters.
            return row_sum(jnp.where(hits(row, token, along), row, 0), along)

        return log_p_tangent(x, temperature, normalizer, moved, along, at_token)

    constant = summed(kept, temperature, along)
    moved = widened(tangents[:2], log_prob.dtype)
    return log_prob, tangent(kept, temperature, constant, moved)


def _draw_truncated(
    key: Array, row: Row, settings: Settings, kept: Kept, floor: Array | None = None
) -> Array:
    """Draw from what T, top-k, min-p and top-p keep: int32 [..., 1], 0 where there is nothing."""
    blocks = _blocks_kept(row, settings, kept)
    uniform_bits = partial(_uniform_bits, shape=row.peak.shape, temperature=settings.temperature)
    if kept.limit is not None:
        return _draw_nucleus(key, row, kept.floor, kept.limit, floor, blocks, uniform_bits)
    # Before the loop: a key that is used inside of one counts as used again and again.
    bits = uniform_bits(key)

    def once(logits: Array) -> Array:
        return draw(bits, row.at(logits), kept.floor, blocks)

    # A loop of one round: a TPU's compiler lays the logits out anew for a draw outside of one.
    drawable = ~row.invalid & (row.peak > -jnp.inf)
    return where_needed(drawable, once, row.logits, jnp.zeros_like(row.peak, jnp.int32))


def _uniform_bits(
    key: Array, *draws: int, shape: tuple[int, ...], temperature: Array | None
) -> Array:
    bits = jax.random.bits(key, (*draws, 6, *shape), jnp.uint32)
    if temperature is None:
        return bits
    # All zero draws the first of the largest entries: greedy decoding.
    return jnp.where(temperature == 0, jnp.zeros_like(bits), bits)


def _draw_nucleus(
    key: Array,
    row: Row,
    start: Array,
    limit: Array,
    floor: Array | None,
    blocks: Array,
    uniform_bits: Callable[..., Array],
) -> Array:
    """Draw from what T, top-k and min-p keep, until top-p keeps the entry drawn.

    Top-p keeps an entry if the mass above it is less than its limit. A round draws two entries and
    weighs what lies above them; the first that is kept is the draw. If neither is, the next round
    draws from the entries above both: the nucleus is among them, and what is drawn at last follows
    the distribution over the nucleus exactly. No round looks for the cut, and few rows need two.

    Where the cut is known, as a floor below all that is kept, the entries are compared with it.
    (The rounds stay: the token is to be that of `sample`, which does not know the cut.)
    """

    def again(state: Draw) -> Draw:
        here = row.at(tied(row.logits, state.rounds))
        bits = uniform_bits(jax.random.fold_in(key, state.rounds), 2)
        tokens = jax.vmap(lambda bits: draw(bits, here, state.pivot, state.blocks))(bits)
        entries = jax.vmap(lambda token: entry_at(here.logits, token, row.along))(tokens)
        # Tied to each other: a GPU's compiler then weighs both in one pass.
        entries = list(row.widened(lax.optimization_barrier(entries)))
        if floor is None:
            refused = [mass >= limit for mass in here.masses_above(entries)]
        else:
            refused = [entry <= floor for entry in entries]
        token = jnp.where(refused[0], tokens[1], tokens[0])
        pivot = jnp.maximum(*entries)
        unfinished = state.unfinished & refused[0] & refused[1]
        pivot = jnp.where(unfinished, pivot, state.pivot)

        def further(logits: Array) -> Array:
            return row.at(logits).blocks_kept(pivot)

        return Draw(
            state.rounds + 1,
            jnp.where(state.unfinished, token, state.token),
            unfinished,
            pivot,
            where_needed(unfinished, further, here.logits, state.blocks),
        )

    token = jnp.zeros_like(row.peak, jnp.int32)
    unfinished = ~row.invalid & (row.peak > -jnp.inf)
    first = Draw(first_round(), token, unfinished, start, blocks)
    return lax.while_loop(lambda state: jnp.any(state.unfinished), again, first).token


def _blocks_kept(row: Row, settings: Settings, kept: Kept) -> Array:
    """Weight of every block, of its entries that T, top-k and min-p keep."""
    if kept.window is not None:
        return where_needed(
            ~kept.complete & ~row.invalid,
            lambda logits: row.at(logits).blocks_kept(kept.floor),
            row.logits,
            blocks_in_window(row, kept.floor, kept.window),
        )
    if settings.top_k is None and settings.min_p is None:
        return row.blocks()
    return row.blocks_kept(kept.floor)
