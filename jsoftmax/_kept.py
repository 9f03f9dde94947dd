"""What top-k and top-p keep of a row: fronts of the selection engine, shared by masks and samplers.

Where a row's k largest entries lie in a window of the 64 largest, and nothing outside it ties with
them, the window answers all the rest: top-p, min-p and the draw. Rows without such a window, or
with a larger k, are searched; where there is none the search makes no sweep.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jsoftmax._reduce import row_size
from jsoftmax._row import Row, Settings
from jsoftmax._select import Selection, Weights, step_down
from jsoftmax._window import Window, largest


class Kept(NamedTuple):
    """The entries that T and top-k keep, and what is left to do."""

    floor: Array
    """They are above it."""
    top_p: Array | None
    """Still to be applied; None, or 1, is off."""
    window: Window | None
    complete: Array
    """The rows of which the window holds all entries above the floor."""


def keep(row: Row, settings: Settings) -> Kept:
    """Apply top-k, and top-p in the rows whose window is complete."""
    top_k, top_p = settings.top_k, settings.top_p
    if top_k is None:
        return Kept(row.floor, top_p, None, jnp.zeros_like(row.invalid))
    selected, window, complete = select_top_k(row, top_k)
    floor = jnp.maximum(row.floor, selected.floor)
    if top_p is not None and window is not None:
        weight = row.weight(window.x, floor)
        above = jnp.cumsum(weight, axis=-1) - weight
        limit = top_p_limit(jnp.sum(weight, axis=-1, keepdims=True), top_p)
        nucleus = jnp.where((above < limit) & (weight > 0), window.x, jnp.inf)
        least = jnp.min(nucleus, axis=-1, keepdims=True)
        cut = complete & (top_p < 1) & (least < jnp.inf)
        floor = jnp.where(cut, jnp.maximum(floor, step_down(least)), floor)
        top_p = jnp.where(complete, 1, top_p)
    return Kept(floor, top_p, window, complete)


def truncate(row: Row, settings: Settings, kept: Kept) -> Array:
    """Mask of what is kept, and of min-p."""
    floor = kept.floor
    if kept.top_p is not None:
        floor = select_top_p(row, floor, kept.top_p).floor
    mask = row.x > floor
    if settings.min_p is not None:
        mask &= row.passes_min_p(row.x, settings.min_p)
    return jnp.where(row.invalid, row.everything(), mask)


def select_top_k(row: Row, k: Array) -> tuple[Selection, Window | None, Array]:
    """The k largest entries and those that equal the least of them; the window, and if complete."""
    on = (k > 0) & (k < row_size(row.x, row.along))
    count = jnp.where(on, jnp.ceil(k), 1).astype(jnp.int32)
    window, complete, least = None, jnp.zeros_like(on), jnp.full_like(row.peak, -jnp.inf)
    # Across shards the windows would have to be gathered.
    if not row.along.axis_name and row.x.shape[-1] > 0:
        window = largest(row.x)
        size = window.x.shape[-1]
        least = jnp.take_along_axis(window.x, jnp.clip(count - 1, 0, size - 1), axis=-1)
        least = jnp.where(on, least, -jnp.inf)
        complete = (window.rest == -jnp.inf) | (on & (count <= size) & (least > window.rest))
    ones = Weights(
        entries=lambda _: jnp.ones((), jnp.int32), at=lambda x: jnp.ones_like(x, jnp.int32)
    )
    searched = row.select(ones, lambda _total: count, row.floor, on & ~complete)
    if window is None:
        return searched, window, complete
    above = jnp.sum(window.x > least, axis=-1, keepdims=True, dtype=jnp.int32)
    known = Selection(jnp.maximum(row.floor, step_down(least)), least, count - above)
    selected = [jnp.where(complete, a, b) for a, b in zip(known, searched, strict=True)]
    return Selection(*selected), window, complete


def select_top_p(row: Row, floor: Array, p: Array) -> Selection:
    """The nucleus of the entries above the floor."""
    weights = Weights(entries=lambda x: jnp.exp(row.z(x)), at=lambda x: jnp.exp(row.z(x)))
    return row.select(weights, lambda total: top_p_limit(total, p), floor, p < 1)


def top_p_limit(total: Array, p: Array) -> Array:
    """The nucleus holds the entries with less weight above them than this."""
    limit = jnp.maximum(p * total, jnp.finfo(p.dtype).tiny)
    return jnp.where(p >= 1, jnp.inf, limit)
