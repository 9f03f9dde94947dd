"""The selection engine: the smallest set of highest scores whose total weight reaches a target.

Top-k (weights one, target k), top-p (weights p, target p) and typical (scores -abs(log p + H)) are
this one question. With A(t) the weight of the entries with score > t, the set is {i : A(score_i) <
target}, and so {i : score_i >= cut} for the smallest float with A(cut) < target. It is found
without a sort.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax._reduce import row_cumsum
from jsoftmax._typing import Along


def find_cut(weight_above: Callable[[Array], Array], target: Array, peak: Array) -> Array:
    """Smallest float t for which the entries with score > t weigh less than the target.

    Args:
      weight_above: A(t), per row.
      target: per row; where it is at most zero, the cut is the peak.
      peak: largest score of each row; a row where it is -inf or NaN has the cut -inf.
    """
    lowest = ordered_key(jnp.asarray(-jnp.inf, peak.dtype))
    usable = peak > -jnp.inf
    # `over` weighs at least the target (or lies below every entry), `under` weighs less.
    under = jnp.where(usable, ordered_key(peak), lowest)
    over = jnp.zeros_like(under) + (lowest - 1)

    def unfinished(bounds: tuple[Array, Array]) -> Array:
        over, under = bounds
        return jnp.any(over + 1 < under)

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        over, under = bounds
        middle = (over & under) + ((over ^ under) >> 1)
        # A row that is finished has middle == over, and stays.
        less = (weight_above(from_ordered_key(middle, peak.dtype)) < target) & (middle > over)
        return jnp.where(less, over, middle), jnp.where(less, middle, under)

    _, under = lax.while_loop(unfinished, halve, (over, under))
    return from_ordered_key(under, peak.dtype)


def first_ties(tied: Array, weight: Array, missing: Array, along: Along) -> Array:
    """Of the tied entries, the fewest whose weight reaches what is missing: lowest index first."""
    weight = jnp.where(tied, weight, jnp.zeros((), weight.dtype))
    before = row_cumsum(weight, along) - weight
    return tied & ((before < missing) | (before == 0))


def step_down(x: Array) -> Array:
    """Next smaller float, which turns "at least x" into "above it".

    Denormals are passed over: compiled programs count them as zero.
    """
    key = ordered_key(jnp.where(x == 0, jnp.zeros_like(x), x)) - 1
    tiny = ordered_key(jnp.asarray(-jnp.finfo(x.dtype).tiny, x.dtype))
    key = jnp.where((key < 0) & (key > tiny), tiny, key)
    return jnp.where(x == -jnp.inf, x, from_ordered_key(key, x.dtype))


def ordered_key(x: Array) -> Array:
    """Signed integers in the order of the floats (-0.0 just below 0.0)."""
    return _flip_negative(lax.bitcast_convert_type(x, _integer(x.dtype)))


def from_ordered_key(key: Array, dtype: np.dtype) -> Array:
    """Inverse of `ordered_key`."""
    return lax.bitcast_convert_type(_flip_negative(key), dtype)


def _flip_negative(bits: Array) -> Array:
    width = jnp.iinfo(bits.dtype).bits
    return bits ^ ((bits >> (width - 1)) & jnp.iinfo(bits.dtype).max)


def _integer(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.int64) if dtype == np.float64 else np.dtype(np.int32)
