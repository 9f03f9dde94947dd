"""The selection engine: the smallest set of highest scores whose total weight reaches a target.

Top-k (weights one, target k), top-p (weights p, target p) and typical (scores -abs(log p + H)) are this one
question. It is answered without a sort, by bisection over the ordered bits of the scores: the cut is the
largest float whose upper set reaches the target, and it is exact.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax._reduce import Along, row_cumsum, row_max, row_sum
from jsoftmax._typing import Ties


def select(score: Array, weight: Array | None, target: Array, along: Along, ties: Ties) -> Array:
    """Mask of the selected entries.

    Args:
      score: floats; an entry of -inf is never selected.
      weight: non-negative, of the score's shape; None counts entries.
      target: per row (axis of size one). At most zero selects the highest score alone; a target that is
        not reached selects every entry above -inf.
      along: where a row lies.
      ties: "all" selects every entry that equals the cut, "first" only as many as are needed, lowest index
        first.
    """
    if weight is None:
        weight = (score > -jnp.inf).astype(jnp.int32)
        target = jnp.ceil(target).astype(jnp.int32)
    cut = _cut(score, weight, target, along)
    present = score > -jnp.inf
    if ties == "all":
        return present & (score >= cut)
    above = score > cut
    tied = present & (score == cut)
    missing = target - row_sum(_only(above, weight), along)
    tied_weight = _only(tied, weight)
    before = row_cumsum(tied_weight, along) - tied_weight
    return above | (tied & ((before < missing) | (before == 0)))


def _only(mask: Array, weight: Array) -> Array:
    return jnp.where(mask, weight, jnp.zeros((), weight.dtype))


def _cut(score: Array, weight: Array, target: Array, along: Along) -> Array:
    """Largest float c for which the entries with score >= c weigh at least the target."""
    peak = row_max(score, along)
    usable = peak > -jnp.inf
    lowest = ordered_key(jnp.asarray(-jnp.inf, score.dtype))
    # `reached` reaches the target (or is the bottom), `missed` does not: it lies above every entry.
    reached = jnp.where(usable, lowest, lowest) + jnp.zeros_like(target, lowest.dtype)
    missed = jnp.where(usable, ordered_key(peak), lowest) + 1 + jnp.zeros_like(reached)

    def unfinished(bounds):
        reached, missed = bounds
        return jnp.any(reached + 1 < missed)

    def halve(bounds):
        reached, missed = bounds
        middle = (reached & missed) + ((reached ^ missed) >> 1)
        upper = _only(score >= from_ordered_key(middle, score.dtype), weight)
        enough = row_sum(upper, along) >= target
        return jnp.where(enough, middle, reached), jnp.where(enough, missed, middle)

    reached, _ = lax.while_loop(unfinished, halve, (reached, missed))
    return from_ordered_key(reached, score.dtype)


def ordered_key(x: Array) -> Array:
    """Signed integers in the order of the floats (-0.0 just below 0.0)."""
    bits = lax.bitcast_convert_type(x, _integer(x.dtype))
    return _flip_negative(bits)


def from_ordered_key(key: Array, dtype: np.dtype) -> Array:
    """Inverse of `ordered_key`."""
    return lax.bitcast_convert_type(_flip_negative(key), dtype)


def _flip_negative(bits: Array) -> Array:
    width = jnp.iinfo(bits.dtype).bits
    return bits ^ ((bits >> (width - 1)) & jnp.iinfo(bits.dtype).max)


def _integer(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.int64) if dtype == np.float64 else np.dtype(np.int32)
