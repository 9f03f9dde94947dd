"""Bins of confidence, of equal width or weight, and sums over the examples of each."""

from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax._checks import is_symbol
from jsoftmax._examples import Examples, predicted_class, probabilities_at
from jsoftmax._groups import group_sum
from jsoftmax._placement import everywhere

Binning: TypeAlias = Literal["width", "mass"]


class Binned(NamedTuple):
    """Sums over the examples of each bin."""

    edges: Array
    weight: Array
    confidence: Array
    right: Array
    excess: Array
    """Weight of the right predictions less confidence, which keeps its relative accuracy."""


def binned_by(examples: Examples, bins: int, binning: Binning) -> Binned:
    """The examples by the confidence of what is predicted."""
    predicted = predicted_class(examples.logits)
    p, hit = probabilities_at(examples, predicted)
    confidence = jnp.sum(jnp.where(hit, p, 0), axis=1)
    doubt = jnp.sum(jnp.where(hit, 0, p), axis=1)
    right = predicted == examples.label
    known, weight = everywhere(lax.stop_gradient(confidence)), examples.weight
    if binning == "mass":
        edges = _quantiles(known, everywhere(lax.stop_gradient(weight)), bins)
    else:
        edges = jnp.asarray(np.arange(bins + 1) / bins, known.dtype)
    sums = partial(group_sum, group=bin_of(known, edges), count=bins)
    return Binned(
        edges,
        sums(weight),
        sums(weight * confidence),
        sums(jnp.where(right, weight, 0)),
        sums(weight * jnp.where(right, doubt, -confidence)),
    )


def bin_of(x: Array, edges: Array) -> Array:
    """The bin of each number: how many of the inner edges lie below it."""

    def further(i: Array, place: Array) -> Array:
        return place + (x > edges[i]).astype(jnp.int32)

    # One edge after the other: nothing is stored of examples times edges, or looked up.
    return lax.fori_loop(1, edges.size - 1, further, jnp.zeros_like(x, jnp.int32))


def _quantiles(confidence: Array, weight: Array, bins: int) -> Array:
    """Where the weight of the smaller and equal confidences reaches i / n of all; from 0 to 1."""
    # Sorted by both, the sums are the same in any order of the examples. One more example, that
    # weighs nothing, lies there even if no other does.
    ranked = _and_then(jnp.where(weight > 0, confidence, 1), 1)
    ranked, weight = lax.sort((ranked, _and_then(weight, 0)), num_keys=2)
    # Equal weights are ones, and 0.3, 0.6 and 0.9 are 1, 2 and 3: sums of whole numbers are exact,
    # as far as those are floats.
    least, most = jnp.min(jnp.where(weight > 0, weight, jnp.inf)), 2.0**20
    multiples = jnp.minimum(weight / least, most)
    nearest = jnp.round(multiples)
    rounded = 2 * float(jnp.finfo(weight.dtype).eps) * nearest
    whole = jnp.all((jnp.abs(multiples - nearest) <= rounded) & (multiples < most))
    weight = jnp.where(whole, nearest, weight)
    reached = jnp.cumsum(weight)
    # In multiples of 1 / n: whole numbers, and so exact, where the weights are.
    targets = jnp.arange(1, bins, dtype=weight.dtype) * reached[-1]
    inner = ranked[_first_at_least(targets, reached * bins)]
    return lax.pad(_and_then(inner, 1), jnp.zeros((), inner.dtype), [(1, 0, 0)])


def _and_then(x: Array, last: float) -> Array:
    """The numbers and one more; not by jnp.append, of a constant: see `_first_at_least`."""
    return lax.pad(x, jnp.asarray(last, x.dtype), [(0, 1, 0)])


def _first_at_least(targets: Array, ascending: Array) -> Array:
    """The index of the first number that is at least each target; one of them is.

    (jnp.searchsorted starts from constants, which an Explicit mesh refuses under vmap.)
    """
    size = ascending.size
    if is_symbol(size):
        # Without a size there is no binary search: all are compared.
        return jnp.sum(ascending[:, None] < targets[None], axis=0, dtype=jnp.int32)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        enough = ascending[middle] >= targets
        low = jnp.where(enough, low, jnp.minimum(middle + 1, high))
        return low, jnp.where(enough, middle, high)

    first = jnp.zeros_like(targets, jnp.int32)
    return lax.fori_loop(0, size.bit_length(), halve, (first, first + (size - 1)))[0]
