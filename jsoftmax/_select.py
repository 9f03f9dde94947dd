"""The selection engine: the smallest set of highest scores whose total weight reaches a target.

Top-k (weights one, target k), top-p (weights p, target p) and typical (scores -abs(log p + H)) are
this one question. With A(t) the weight of the entries with score > t, the set is {i : A(score_i) <
target}, and so {i : score_i >= cut} for the smallest float with A(cut) < target.

The cut is found without a sort, between two scores: `under` weighs less than the target, `over`
does not. A sweep over the row weighs a few pivots between them, placed by interpolation, and finds
the entries next to the one where the cut is expected: one of these may be the cut, which ends the
search, as it ends when no float is left between the two scores. A batch takes as many sweeps as its
slowest row: on a language model's logits four to seven with the three pivots of a CPU, four to six
with the six of other targets, where what counts is how often memory is read. (With the two entries,
eight results: the most that XLA computes in one pass on a GPU.)
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax._loop import first_round, tied, where_needed
from jsoftmax._reduce import row_cumsum, row_sum, row_sweep
from jsoftmax._typing import Along


class _Pivots(NamedTuple):
    """Where the pivots of a sweep go."""

    first: tuple[float, ...]
    """In the first sweep: so far below the peak, in units of the depth that is guessed."""
    around: tuple[float, ...]
    """Later: so far from the estimate, of the way to `under` (negative) or to `over`, if many
    entries lie between these, as a multiple of what is expected to be the estimate's error."""
    error: float
    """That error, times the root of the number of entries that lie between the two;"""
    least_error: float
    """and no less than this."""
    estimate: int
    """Which of `around` is taken as the estimate: the entries next to it are found."""
    interpolated: int
    """From this sweep on every other one divides the floats between the two evenly: where
    interpolation fails, the search then ends in a dozen sweeps or two."""


# Found by a search over logits of SmolLM2 and normal ones.
_ON_CPU = _Pivots((0.51, 1.0, 1.17), (-0.25, 0.01, 0.33), 2.6, 0.225, 1, 5)
_ELSEWHERE = _Pivots(
    (0.36, 0.59, 0.9, 1.0, 1.11, 1.26), (-0.89, -0.29, -0.13, 0.0, 0.085, 0.39), 3.5, 0.44, 3, 4
)


class Selection(NamedTuple):
    """What is selected in each row; the arrays have the batch shape and one axis more."""

    floor: Array
    """The entries with scores above it are selected."""
    cut: Array
    """The least score selected; -inf in a row where no target was to be reached, or could be."""
    target: Array
    """What the weight was to reach."""


class Weights(NamedTuple):
    """What the entries weigh."""

    entries: Callable[[Array], Array]
    """All of them, [..., V], or a number: a function, so that none need be stored."""
    at: Callable[[Array], Array]
    """A lower bound of what an entry with this score weighs."""
    exact: bool = False
    """Whether their sums are, in any order."""


class _Search(NamedTuple):
    sweeps: Array
    unfinished: Array
    over: Array
    under: Array
    mass_over: Array
    mass_under: Array


def select(
    x: Array,
    score: Callable[[Array], Array],
    weights: Weights,
    target: Array,
    *,
    total: Array,
    floor: Array,
    peak: Array,
    depth: Array | float,
    wanted: Array,
    along: Along,
) -> Selection:
    """Find the smallest set of highest scores whose weight reaches the target.

    Args:
      x: the logits, [..., V], of any float dtype.
      score: the score of every entry, given the logits: of the dtype of the peak.
      weights: at least 0, given the logits: floats, or integers.
      target: above 0, per row.
      total: the weight of all entries above the floor, or more, per row.
      floor: per row; only entries with scores above it can be selected.
      peak: no score is larger; per row.
      depth: a guess at how far below the peak the cut is, per row.
      wanted: per row; where it is False, the floor stays.
      along: where the row lies.
    """
    # One for each row, and varying over the mesh axes that the rows vary over.
    target, total = [jnp.where(wanted, number, number) for number in (target, total)]
    # Sums of floats differ by this when they are taken in another order.
    slack = 0 if weights.exact else 64 * float(jnp.finfo(peak.dtype).eps)

    def narrow(search: _Search, pivoting: _Pivots) -> _Search:
        first = search.sweeps == 0
        start = [jnp.maximum(peak - depth * part, floor) for part in pivoting.first]
        proposed = _propose(search, pivoting, target, total, weights)
        pivots = jnp.where(first, _concatenate(start), proposed)
        # In the first sweep those next to the ends: the largest, which is often the cut, and the
        # least, as the end that is interpolated from.
        estimate = pivots[..., pivoting.estimate, None]
        at_most = jnp.where(first, search.under, estimate)
        above = jnp.where(first, search.over, estimate)
        here = tied(x, search.sweeps)
        scores = score(here)
        entries = weights.entries(here)
        nothing = jnp.zeros((), entries.dtype)
        *sums, highest, lowest = row_sweep(
            along,
            sums=[
                jnp.where(scores > pivots[..., i, None], entries, nothing)
                for i in range(pivots.shape[-1])
            ],
            maxima=[jnp.where(scores <= at_most, scores, -jnp.inf)],
            minima=[jnp.where(scores > above, scores, jnp.inf)],
            reads=_reads(entries),
        )
        mass = _concatenate(sums)
        # A falls as the pivot rises.
        less = mass < target
        under = _least(jnp.where(less, pivots, search.under))
        mass_under = _most(jnp.where(less, mass, search.mass_under))
        over = _most(jnp.where(less, search.over, pivots))
        mass_over = _least(jnp.where(less, search.mass_over, mass))
        # No entry lies between the places that were looked from and what is next to them, so that A
        # is the same there.
        at_estimate = mass[..., pivoting.estimate, None]
        above_highest = jnp.where(first, search.mass_under, at_estimate)
        from_lowest = jnp.where(first, search.mass_over, at_estimate)
        short, reached = above_highest < target, from_lowest >= target
        under = jnp.where(short, jnp.minimum(under, highest), under)
        over = jnp.where(reached, jnp.maximum(over, step_down(lowest)), over)
        # The highest is the cut if its own weight reaches the target, and the lowest if without its
        # weight the target is not reached: for certain, so that no rounding and no pivot decides.
        uncertain = slack * target
        at_highest = short & (above_highest + weights.at(highest) >= target + uncertain)
        at_lowest = reached & (from_lowest - weights.at(lowest) < target - uncertain)
        at_lowest &= lowest < jnp.inf
        under = jnp.where(at_lowest, lowest, jnp.where(at_highest, highest, under))
        last = at_highest | at_lowest
        unfinished = search.unfinished & ~last & (over < step_down(under))
        found = _Search(search.sweeps, unfinished, over, under, mass_over, mass_under)
        kept = [
            jnp.where(search.unfinished, new, old)
            for new, old in zip(found[1:], search[1:], strict=True)
        ]
        return _Search(search.sweeps + 1, *kept)

    def once(search: _Search) -> _Search:
        return lax.platform_dependent(
            search,
            cpu=partial(narrow, pivoting=_ON_CPU),
            default=partial(narrow, pivoting=_ELSEWHERE),
        )

    reachable = wanted & (total >= target)
    search = lax.while_loop(
        lambda search: jnp.any(search.unfinished),
        once,
        _Search(first_round(), reachable, floor, peak, total, jnp.zeros_like(total)),
    )
    return Selection(
        jnp.where(reachable, jnp.maximum(floor, step_down(search.under)), floor),
        jnp.where(reachable, search.under, -jnp.inf),
        target,
    )


def _propose(
    search: _Search, pivoting: _Pivots, target: Array, total: Array, weights: Weights
) -> Array:
    """Pivots between `over` and `under`, [..., number of pivots]."""
    dtype = search.under.dtype
    over, under = ordered_key(search.over), ordered_key(search.under)
    total = total.astype(dtype)
    entry = jnp.maximum(weights.at(search.under).astype(dtype), total * 2.0**-23)

    def log_odds(mass: Array) -> Array:
        mass = jnp.maximum(mass.astype(dtype), entry / 2)
        return jnp.log(mass / jnp.maximum(total - mass, total * 2.0**-20))

    near, far = log_odds(search.mass_under), log_odds(search.mass_over)
    part = jnp.clip((log_odds(target) - near) / (far - near), 0.02, 0.98)
    number = (search.mass_over - search.mass_under).astype(dtype) / entry
    error = pivoting.error * lax.rsqrt(jnp.maximum(number, 1))
    error = jnp.maximum(error, pivoting.least_error)
    parts = [part + (part if a < 0 else 1 - part) * a * error for a in pivoting.around]
    guess = [ordered_key((1 - part) * search.under + part * search.over) for part in parts]
    # The difference of two keys may take all bits.
    unsigned = np.dtype(f"uint{8 * np.dtype(dtype).itemsize}")
    step = (under.astype(unsigned) - over.astype(unsigned)) // (len(parts) + 1)
    evenly = [over + (step * (i + 1)).astype(over.dtype) for i in range(len(parts))]
    failing = (search.sweeps > pivoting.interpolated) & (search.sweeps % 2 == 0)
    pivots = jnp.where(failing | jnp.isnan(part), _concatenate(evenly), _concatenate(guess))
    # Some lie beyond the two.
    return from_ordered_key(jnp.clip(pivots, over + 1, under - 1), dtype)


def _reads(entries: Array) -> int:
    """How many arrays a sweep reads: the scores, and the weights if they are not one number."""
    return 1 if entries.ndim == 0 else 2


def _concatenate(columns: list[Array]) -> Array:
    return jnp.concatenate(columns, axis=-1)


def _least(x: Array) -> Array:
    return jnp.min(x, axis=-1, keepdims=True)


def _most(x: Array) -> Array:
    return jnp.max(x, axis=-1, keepdims=True)


def keep_first(
    mask: Array,
    selection: Selection,
    x: Array,
    score: Callable[[Array], Array],
    weights: Callable[[Array], Array],
    along: Along,
) -> Array:
    """Of the entries that tie at the cut, keep the fewest whose weight reaches the target.

    Those of lowest index. Where no row has a tie there, nothing is done.

    Args:
      mask: holds them all.
      selection: what `select` found.
      x: the logits, [..., V].
      score: the score of every entry, given the logits.
      weights: the weight of every entry, or a number, given the logits.
      along: where the row lies.
    """

    def first(x: Array) -> Array:
        scores, entries = score(x), weights(x)
        nothing = jnp.zeros((), entries.dtype)
        higher = jnp.where(scores > selection.cut, entries, nothing)
        (above,) = row_sweep(along, sums=[higher], reads=_reads(entries))
        tied = scores == selection.cut
        weight = jnp.where(tied, entries, nothing)
        before = row_cumsum(weight, along)[0] - weight
        return mask & (~tied | (above + before < selection.target) | (before == 0))

    ties = row_sum(score(x) == selection.cut, along)
    return where_needed((ties > 1) & (selection.cut > -jnp.inf), first, x, mask)


def step_down(x: Array) -> Array:
    """Next smaller float, which turns "at least x" into "above it"."""
    return jnp.where(x == -jnp.inf, x, from_ordered_key(ordered_key(x) - 1, x.dtype))


def ordered_key(x: Array) -> Array:
    """Signed integers in the order of the floats, without a gap.

    Denormals count as zero, as they do in compiled programs: were there keys between those of the
    normal floats and zero, a search could divide them for ever, and find only zero.
    """
    bits = lax.bitcast_convert_type(x, _integer(x.dtype))
    magnitude = bits & jnp.iinfo(bits.dtype).max
    key = jnp.maximum(magnitude - _denormals(x.dtype), 0)
    return jnp.where(bits < 0, -key, key)


def from_ordered_key(key: Array, dtype: np.dtype) -> Array:
    """Inverse of `ordered_key`."""
    magnitude = jnp.abs(key) + jnp.where(key == 0, 0, _denormals(dtype)).astype(key.dtype)
    x = lax.bitcast_convert_type(magnitude, dtype)
    return jnp.where(key < 0, -x, x)


def _denormals(dtype: np.dtype) -> int:
    """How many there are of one sign."""
    return (1 << jnp.finfo(dtype).nmant) - 1


def _integer(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.int64) if dtype == np.float64 else np.dtype(np.int32)
