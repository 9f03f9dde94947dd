"""What top-k and top-p keep of a row: fronts of the selection engine, shared by masks and samplers.

Where a row's k largest entries lie in a window of the 64 largest, and nothing outside it ties with
them, the window answers all the rest: top-p, min-p and the draw. Rows without such a window, or
with a larger k, are searched; where there is none the search makes no sweep.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jsoftmax._blocks import block_count
from jsoftmax._reduce import row_size, where_needed
from jsoftmax._row import Row, Settings
from jsoftmax._select import Selection, Weights, step_down
from jsoftmax._window import Window, largest


class Kept(NamedTuple):
    """The entries that T and top-k keep, and what is left to do."""

    floor: Array
    """They are above it."""
    blocks: Array
    """What each block of them weighs; nothing in the rows whose window is complete."""
    limit: Array | None
    """Top-p keeps those with less weight above them than this; None, or inf, is off."""
    window: Window | None
    complete: Array
    """The rows of which the window holds all entries above the floor."""


def keep(row: Row, settings: Settings) -> Kept:
    """Apply top-k, and top-p in the rows whose window is complete."""
    top_k, top_p = settings.top_k, settings.top_p
    floor, window, complete = row.floor, None, jnp.zeros_like(row.invalid)
    if top_k is not None:
        selected, window, complete = select_top_k(row, top_k)
        floor = jnp.maximum(floor, selected.floor)
    if top_k is None:
        blocks = row.blocks()
    elif window is None:
        blocks = row.blocks_above(floor)
    else:
        shape = (*row.peak.shape[:-1], block_count(row.x.shape[-1]))
        blocks = where_needed(
            ~complete & ~row.invalid,
            lambda x: row.at(x).blocks_above(floor),
            row.x,
            jnp.broadcast_to(jnp.zeros_like(row.peak), shape),
        )
    if top_p is None:
        return Kept(floor, blocks, None, window, complete)
    if window is not None:
        weight = row.weight(window.x, floor)
        above = jnp.cumsum(weight, axis=-1) - weight
        limit = top_p_limit(jnp.sum(weight, axis=-1, keepdims=True), top_p)
        nucleus = jnp.where((above < limit) & (weight > 0), window.x, jnp.inf)
        least = jnp.min(nucleus, axis=-1, keepdims=True)
        cut = complete & (top_p < 1) & (least < jnp.inf)
        floor = jnp.where(cut, jnp.maximum(floor, step_down(least)), floor)
    limit = jnp.where(complete, jnp.inf, top_p_limit(row.total(blocks), top_p))
    return Kept(floor, blocks, limit, window, complete)


def cut(row: Row, kept: Kept) -> Array:
    """A pivot below what top-p keeps too."""
    if kept.limit is None:
        return kept.floor
    return select_top_p(row, kept.floor, row.total(kept.blocks), kept.limit).floor


def above(row: Row, settings: Settings, floor: Array) -> Array:
    """Mask of the entries above the floor that min-p keeps."""
    mask = row.x > floor
    if settings.min_p is not None:
        mask &= row.passes_min_p(row.x, settings.min_p)
    return jnp.where(row.invalid, row.everything(), mask)


def truncate(row: Row, settings: Settings) -> Array:
    """Mask of what all settings keep."""
    return above(row, settings, cut(row, keep(row, settings)))


def select_top_k(row: Row, k: Array) -> tuple[Selection, Window | None, Array]:
    """The k largest entries and those that equal the least of them; the window, and if complete."""
    size = row_size(row.x, row.along)
    on = (k > 0) & (k < size)
    count = jnp.where(on, jnp.ceil(k), 1).astype(jnp.int32)
    window, complete, least = None, jnp.zeros_like(on), jnp.full_like(row.peak, -jnp.inf)
    # Across shards the windows would have to be gathered.
    if not row.along.axis_name and row.x.shape[-1] > 0:
        window = largest(row.x)
        held = window.x.shape[-1]
        least = jnp.take_along_axis(window.x, jnp.clip(count - 1, 0, held - 1), axis=-1)
        least = jnp.where(on, least, -jnp.inf)
        complete = (window.rest == -jnp.inf) | (on & (count <= held) & (least > window.rest))
    ones = Weights(
        entries=lambda _: jnp.ones((), jnp.int32), at=lambda x: jnp.ones_like(x, jnp.int32)
    )
    everything = jnp.full_like(count, size)
    searched = row.select(ones, count, everything, row.floor, on & ~complete)
    if window is None:
        return searched, window, complete
    above = jnp.sum(window.x > least, axis=-1, keepdims=True, dtype=jnp.int32)
    known = Selection(jnp.maximum(row.floor, step_down(least)), least, count - above)
    selected = [jnp.where(complete, a, b) for a, b in zip(known, searched, strict=True)]
    return Selection(*selected), window, complete


def select_top_p(row: Row, floor: Array, total: Array, limit: Array) -> Selection:
    """The nucleus of the entries above the floor, which weigh so much in total."""
    weights = Weights(entries=row.weights, at=lambda x: jnp.exp(row.z(x)))
    return row.select(weights, limit, total, floor, limit < jnp.inf)


def top_p_limit(total: Array, p: Array) -> Array:
    """The nucleus holds the entries with less weight above them than this."""
    limit = jnp.maximum(p * total, jnp.finfo(p.dtype).tiny)
    return jnp.where(p >= 1, jnp.inf, limit)
