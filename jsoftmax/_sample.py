"""Sampling by inverse CDF, with two wide uniforms a row however large the vocabulary.

The first uniform finds a block of entries by the blocks' sums, the second an entry inside it.
Cumulative sums are integers of about 50 bits in two words: exact, so they depend neither on the
order of summation nor on how the row is sharded, and an entry of probability 1e-7 is drawn as often
as it should be.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax._blocks import block_at
from jsoftmax._checks import check_key, check_rows
from jsoftmax._reduce import row_cumsum, row_size, row_sum, shard_index
from jsoftmax._row import Row, Settings, bounds, check_settings, row_of, truncate
from jsoftmax._softmax import normalizer, shift
from jsoftmax._typing import Along, Axis, AxisName, Setting

_HIGH_BITS = 30


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
      key: one PRNG key, typed or raw. For a key a row, use ``jax.vmap``.
      logits: real numbers of any shape with at least one dimension.
      temperature: T >= 0. T = 0 is greedy decoding: the lowest index among the largest, whatever
        the key.
      top_k: as k of `top_k_mask`; None is off, and costs nothing.
      top_p: as p of `top_p_mask`; None is off, and costs nothing.
      min_p: as in `min_p_mask`; None is off, and costs nothing.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``. The same key
        must be given on every shard.

    Each setting is a number or an array that broadcasts to the batch shape (the logits' shape
    without `axis`), and is traced: a new value does not recompile.

    Returns:
      int32 array of the batch shape: indices along `axis` (of the whole axis, and the same on every
      shard, with `axis_name`). An entry outside `truncation_mask` is never drawn.

    Raises:
      TypeError: logits are not real numbers, `where` is not boolean, or `key` is not a key.
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
      key: one PRNG key, typed or raw. For a key a row, use ``jax.vmap``.
      logits: real numbers of any shape with at least one dimension.
      temperature: T >= 0. At T = 0 the log-probability is -log(number of largest entries).
      top_k: as k of `top_k_mask`; None is off.
      top_p: as p of `top_p_mask`; None is off.
      min_p: as in `min_p_mask`; None is off.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.
      axis_name: the mesh axis, or axes, that split `axis` inside ``jax.shard_map``.

    Returns:
      (token, log_prob): token as `sample` gives for the same key; log_prob of the batch shape and
      the logits' float dtype. Gradients of log_prob flow to the logits and the temperature, none
      through the draw or the cut.

    Raises:
      TypeError: logits are not real numbers, `where` is not boolean, or `key` is not a key.
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

    token: Array
    x: Array
    """The logit drawn."""
    accepted: Array


@partial(jax.jit, static_argnums=3)
def _sample(key: Array, logits: Array, settings: Settings, along: Along) -> Array:
    row, settings = row_of(logits, settings, along)
    return jnp.squeeze(_draw_truncated(key, row, settings, *bounds(row, settings)), -1)


@partial(jax.jit, static_argnums=3)
def _sample_and_log_prob(
    key: Array, logits: Array, settings: Settings, along: Along
) -> tuple[Array, Array]:
    row, effective = row_of(logits, settings, along)
    floor, limit = bounds(row, effective)
    token = _draw_truncated(key, row, effective, floor, limit)
    kept = truncate(row, effective, floor, limit)
    # From here on gradients flow: to the logits and the temperature, not through the draw or the
    # cut.
    x = jnp.moveaxis(logits, along.axis, -1)
    x = jnp.where(kept, x, jnp.asarray(-jnp.inf, x.dtype))
    temperature = settings.temperature
    if temperature is not None:
        temperature = jnp.moveaxis(temperature, along.axis, -1)
    peak, log_total = normalizer(x, temperature, row.along)
    logit = entry_at(x, token, row.along)
    log_prob = shift(logit, temperature, peak) - log_total
    log_prob = jnp.where(logit == -jnp.inf, -jnp.inf, log_prob)
    log_prob = jnp.where(row.invalid, jnp.nan, log_prob)
    return jnp.squeeze(token, -1), jnp.squeeze(log_prob, -1).astype(logits.dtype)


def _draw_truncated(
    key: Array, row: Row, settings: Settings, floor: Array, limit: Array | None
) -> Array:
    """Draw from the entries that top-k and min-p keep, until top-p keeps the entry drawn.

    Top-p keeps an entry if the mass above it is less than the limit. If it is not, the next draw is
    from the entries above it: the nucleus is among them, and the accepted draw follows the
    distribution over the nucleus exactly. Each round is one sweep over the row, and no round looks
    for the cut.
    """

    def draw_above(count: Array | int, pivot: Array, blocks: Array) -> Draw:
        bits = jax.random.bits(jax.random.fold_in(key, count), (4, *row.peak.shape), jnp.uint32)
        if settings.temperature is not None:
            # All zero draws the first of the largest entries: greedy decoding.
            bits = jnp.where(settings.temperature == 0, jnp.zeros_like(bits), bits)
        token = draw(bits, row, pivot, blocks)
        x = entry_at(row.x, token, row.along)
        accepted = jnp.ones_like(row.invalid)
        if limit is not None:
            accepted = (x == row.peak) | (limit == jnp.inf)
        if settings.min_p is not None:
            accepted &= row.passes_min_p(x, settings.min_p)
        return Draw(token, x, accepted | row.invalid | (row.peak == -jnp.inf))

    if settings.min_p is not None:
        floor = jnp.maximum(floor, row.min_p_floor(settings.min_p))
    drawn = draw_above(0, floor, row.mass_above(floor))
    if limit is None and settings.min_p is None:
        return drawn.token

    def unfinished(state: tuple[Array, Draw]) -> Array:
        return jnp.any(~state[1].accepted)

    def again(state: tuple[Array, Draw]) -> tuple[Array, Draw]:
        count, drawn = state
        pivot = jnp.maximum(floor, drawn.x)
        blocks = row.mass_above(pivot)
        mass = row.total(blocks)
        kept = jnp.ones_like(drawn.accepted) if limit is None else mass < limit
        if settings.min_p is not None:
            kept &= row.passes_min_p(drawn.x, settings.min_p)
        accepted = drawn.accepted | kept | (mass == 0)
        redrawn = draw_above(count, pivot, blocks)
        chosen = jax.tree.map(lambda old, new: jnp.where(accepted, old, new), drawn, redrawn)
        return count + 1, chosen._replace(accepted=accepted | redrawn.accepted)

    count = jnp.ones((), jnp.int32)
    return lax.while_loop(unfinished, again, (count, drawn))[1].token


def draw(bits: Array, row: Row, pivot: Array, blocks: Array) -> Array:
    """Index of an entry above the pivot, drawn in proportion to its weight: int32 [..., 1].

    Args:
      bits: uint32 of shape (4, *batch, 1), uniform. All zero draws the first entry above the pivot.
      row: the row; one with no weight draws 0.
      pivot: per row.
      blocks: what `row.mass_above` gives for the pivot.
    """
    along = row.along
    block = pick(bits[:2], blocks, along)
    count, size = blocks.shape[-1], row.x.shape[-1]
    local = block - shard_index(along) * count if along.axis_name else block
    entries, start = block_at(row.x, jnp.clip(local, 0, count - 1))
    index = start + pick(bits[2:], row.weight(entries, pivot), Along(-1))
    index = jnp.clip(index, 0, max(size - 1, 0))
    if not along.axis_name:
        return index
    mine = (local >= 0) & (local < count)
    return row_sum(jnp.where(mine, index + shard_index(along) * size, 0), along)


def entry_at(x: Array, index: Array, along: Along) -> Array:
    """The entry of each row at its index (both have a last axis of size one)."""
    size = x.shape[-1]
    if size == 0:
        return jnp.full((*x.shape[:-1], 1), -jnp.inf, x.dtype)
    if not along.axis_name:
        return jnp.take_along_axis(x, index, axis=-1)
    local = index - shard_index(along) * size
    mine = (local >= 0) & (local < size)
    entry = jnp.take_along_axis(x, jnp.clip(local, 0, size - 1), axis=-1)
    return row_sum(jnp.where(mine, entry, jnp.zeros_like(entry)), along)


def pick(bits: Array, weight: Array, along: Along) -> Array:
    """As `draw`, in one level: from (2, *batch, 1) bits and at most a few thousand weights a row.

    A weight's share of the sum is rounded down to a multiple of 2 ** -(30 + low_bits), kept in two
    words.
    """
    low_bits = 31 - row_size(weight, along).bit_length()

    def split(value: Array) -> tuple[Array, Array]:
        high = jnp.floor(value)
        low = jnp.floor((value - high) * 2.0**low_bits)
        return high.astype(jnp.int32), low.astype(jnp.int32)

    def carry(high: Array, low: Array) -> tuple[Array, Array]:
        return high + (low >> low_bits), low & ((1 << low_bits) - 1)

    total = row_sum(weight, along)
    high, low = split(weight / jnp.where(total == 0, 1, total) * 2.0**_HIGH_BITS)
    total_high, total_low = carry(row_sum(high, along), row_sum(low, along))
    high, low = carry(row_cumsum(high, along), row_cumsum(low, along))

    # The target is uniform below the total: u * 2 ** 30 for the wide uniform u, plus u * (total - 2
    # ** 30).
    u_high = (bits[0] >> (32 - _HIGH_BITS)).astype(jnp.int32)
    u_low = (bits[1] >> (32 - low_bits)).astype(jnp.int32)
    excess = (total_high - (1 << _HIGH_BITS)).astype(weight.dtype)
    excess = excess + total_low.astype(weight.dtype) * 2.0**-low_bits
    more_high, more_low = split(u_high.astype(weight.dtype) * 2.0**-_HIGH_BITS * excess)
    target_high, target_low = carry(u_high + more_high, u_low + more_low)

    passed = (high > target_high) | ((high == target_high) & (low > target_low))
    complete = (high == total_high) & (low == total_low)
    return row_sum(~(passed | complete), along)
