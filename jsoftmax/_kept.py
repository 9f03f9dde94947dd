"""What top-k and top-p keep of a row: fronts of the selection engine, shared by masks and samplers.

Where a row's k largest entries lie in a window of the 64 largest, and nothing outside it ties with
them, the window answers all the rest: top-p, min-p and the draw. Rows without such a window, or
with a larger k, are searched; where there is none the search makes no sweep.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax._loop import where_needed
from jsoftmax._reduce import row_size
from jsoftmax._row import Row
from jsoftmax._select import Selection, Weights, step_down
from jsoftmax._settings import Settings
from jsoftmax._window import Window, window_of

_TOP_K_DEPTH = 10.0
"""A guess at z of the k-th largest entry, below 0, where k is more than a window holds."""


class Kept(NamedTuple):
    """The entries that T and top-k keep, and top-p where there is a top-k; min-p is the row's."""

    floor: Array
    """They are above it."""
    limit: Array | None
    """Top-p, still to be applied, keeps those with less weight above them; None is off."""
    total: Array | None
    """What the entries above the floor weigh, where that is to be known."""
    window: Window | None
    complete: Array
    """The rows of which the window holds all entries above the floor."""


def keep(row: Row, settings: Settings) -> Kept:
    """Apply top-k, and then top-p: in the window where that is complete, else by a search."""
    top_k, top_p = settings.top_k, settings.top_p
    if top_k is None:
        none = jnp.zeros_like(row.invalid)
        if top_p is None:
            return Kept(row.floor, None, None, None, none)
        total = row.total()
        return Kept(row.floor, top_p_limit(total, top_p), total, None, none)
    selected, window, complete = select_top_k(row, top_k)
    floor = jnp.maximum(row.floor, selected.floor)
    rest = (None, None, window, complete)
    if top_p is None:
        return Kept(floor, *rest)

    def weight_of(logits: Array) -> Array:
        return row.at(logits).masses_above([floor])[0]

    if window is None:
        total = weight_of(row.logits)
        return Kept(select_top_p(row, floor, total, top_p_limit(total, top_p)).floor, *rest)
    weight = row.weight(window.x, floor)
    in_window = jnp.sum(weight, axis=-1, keepdims=True)
    total = where_needed(~complete & ~row.invalid, weight_of, row.logits, in_window)
    limit = top_p_limit(total, top_p)
    searched = select_top_p(row, floor, total, jnp.where(complete, jnp.inf, limit)).floor
    above = jnp.cumsum(weight, axis=-1) - weight
    nucleus = jnp.where((above < limit) & (weight > 0), window.x, jnp.inf)
    least = jnp.min(nucleus, axis=-1, keepdims=True)
    answered = complete & (limit < jnp.inf) & (least < jnp.inf)
    cut = jnp.where(answered, jnp.maximum(floor, step_down(least)), searched)
    return Kept(cut, *rest)


def floor_of(row: Row, settings: Settings) -> Array:
    """A pivot below all that T, top-k and top-p keep."""
    return cut(row, keep(row, settings))


def cut(row: Row, kept: Kept) -> Array:
    """A pivot below what top-p keeps too."""
    if kept.limit is None or kept.total is None:
        return kept.floor
    return select_top_p(row, kept.floor, kept.total, kept.limit).floor


def select_top_k(row: Row, k: Array) -> tuple[Selection, Window | None, Array]:
    """The k largest entries and those that equal the least of them; the window, and if complete."""
    size = row_size(row.logits, row.along)
    on = (k > 0) & (k < size)
    count = jnp.where(on, jnp.ceil(k), 1)
    window, complete, least = None, jnp.zeros_like(on), jnp.full_like(row.peak, -jnp.inf)
    # Across shards the windows would have to be gathered.
    if not row.along.axis_name and row.logits.shape[-1] > 0:
        window = window_of(row.x)
        held = window.x.shape[-1]
        least = jnp.take_along_axis(
            window.x, jnp.clip(count.astype(jnp.int32) - 1, 0, held - 1), axis=-1
        )
        least = jnp.where(on, least, -jnp.inf)
        # Denormals are equal to zero here, also where the processor keeps them apart.
        apart = step_down(least) >= window.rest
        complete = (window.rest == -jnp.inf) | (on & (count <= held) & apart)
        complete &= ~row.invalid
    ones = counting(row)
    target = count.astype(ones.at(row.peak).dtype)
    everything = jnp.full_like(target, size)
    searched = row.select(ones, target, everything, _TOP_K_DEPTH, row.floor, on & ~complete)
    if window is None:
        return searched, window, complete
    known = Selection(jnp.maximum(row.floor, step_down(least)), least, target)
    selected = [jnp.where(complete, a, b) for a, b in zip(known, searched, strict=True)]
    return Selection(*selected), window, complete


def counting(row: Row) -> Weights:
    """Every entry counts as one: a float where that counts exactly, like all else of a sweep."""
    dtype = row.peak.dtype if row_size(row.logits, row.along) < 2**24 else np.dtype(np.int32)
    return Weights(
        entries=lambda _: jnp.ones((), dtype), at=lambda x: jnp.ones_like(x, dtype), exact=True
    )


def select_top_p(row: Row, floor: Array, total: Array, limit: Array) -> Selection:
    """The nucleus of the entries above the floor, which weigh so much in total."""
    weights = Weights(entries=row.weights, at=lambda x: jnp.exp(row.z(x)))
    depth = _nucleus_depth(row_size(row.logits, row.along), total, limit)
    return row.select(weights, limit, total, depth, floor, limit < jnp.inf)


def _nucleus_depth(size: int, total: Array, limit: Array) -> Array:
    """A guess at z of the least probable entry of a nucleus, below 0, by what the row weighs.

    A flat row, with little between its total and its size, has all its z near 0. The constants are
    those that make the searches short, over logits of SmolLM2 and others.
    """
    flatness = jnp.maximum(math.log(max(size, 1)) - jnp.log(total), 0.3)
    surprise = -jnp.log(jnp.maximum(1 - limit / total, 1e-6))
    return jnp.minimum(flatness * (0.8 + 0.13 * surprise), 5 + 1.2 * surprise)


def top_p_limit(total: Array, p: Array) -> Array:
    """The nucleus holds the entries with less weight above them than this."""
    limit = jnp.maximum(p * total, jnp.finfo(p.dtype).tiny)
    return jnp.where(p >= 1, jnp.inf, limit)
