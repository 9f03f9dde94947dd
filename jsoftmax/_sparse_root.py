"""The threshold of sparsemax and entmax, as a root that sums over the row find, without a sort.

With kappa = alpha - 1 and z = (x - max x) / T, p = max(M + kappa z, 0)^(1 / kappa), where M, the
kappa-th power of the largest probability, makes the sum one. The sum increases with M. For alpha <=
2 the (1 / kappa)-norm of max(M + kappa z, 0) is convex in M, so Newton's steps down from M = 1 stay
above the root, and in each of them the distance or the slope halves: a few sweeps in practice, and
never more than some thirty.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jsoftmax._exact import halves
from jsoftmax._loop import first_round, stored_on_cpus, tied
from jsoftmax._reduce import row_exact_sweep, row_size, row_sweep
from jsoftmax._typing import Along, Tree

_MOST_SWEEPS = 100
_FLOOR = 1e-30
_NEAR = 2.0**-6
"""How far log M may be from that of the point that it is measured from."""


def solve(
    logits: Array,
    score: Callable[[Array], Array],
    peak: Array,
    alpha: Array | float,
    along: Along,
) -> tuple[Array, Array]:
    """The map of z = (x - max x) / T, and how many sweeps over the row its threshold took.

    Args:
      logits: -inf where an entry is absent. What sweeps read is in their dtype, but on CPUs.
      score: z of every entry, given the logits: float32 or float64, at most 0.
      peak: max x, of one entry per row: -inf where a row is empty, NaN where it is to be NaN.
      alpha: an array that broadcasts to `peak`, in [1, 4] or NaN; or 1.5 or 2, for the closed
        forms.
      along: where a row lies.

    Returns:
      Probabilities, in the shape of z, and the number of sweeps.
    """
    if isinstance(alpha, Array):
        return _solve_any(logits, score, peak, alpha - 1, along)
    return _solve_closed(logits, score, peak, alpha, along)


def _for_sweeps(of: Callable[[Array], Tree], logits: Array) -> Callable[[Array], Tree]:
    """A function of every entry, for the sweep of this number: stored on CPUs only."""
    logits = lax.optimization_barrier(logits)
    stored = of(logits)

    def at(sweep: Array) -> Tree:
        return stored_on_cpus(tied(stored, sweep), of, tied(logits, sweep))

    return at


class _Support(NamedTuple):
    sweeps: Array
    entries: Array
    """Size of the support of each row that M is the root of; inf where it is of none."""
    level: Array
    """M: entries with M + kappa z > 0 are in the support."""
    rest: Array
    """What rounding takes from M."""
    low: Array
    high: Array
    """Bounds of M."""
    unfinished: Array


def _solve_closed(
    logits: Array, score: Callable[[Array], Array], peak: Array, alpha: float, along: Along
) -> tuple[Array, Array]:
    """Solves for M on the support of the M before, until that is the support of its own root.

    For alpha = 2 the root never comes below M: Michelot's algorithm. For 1.5 entries outside the
    support of M, with M + y < 0, count as if inside; the root falls short then, and the next may
    jump over M again. Bounds keep it from going round in circles.
    """

    def scaled(logits: Array) -> Array:
        return score(logits) if alpha == 2 else score(logits) / 2

    on_support = _linear_step if alpha == 2 else _quadratic_step
    y_of = _for_sweeps(scaled, logits)

    def step(state: _Support) -> _Support:
        level = state.level
        y = y_of(state.sweeps)
        inside = y > -level
        # Of what is above the threshold, not of y: no digits cancel near the root.
        above = jnp.where(inside, y + level, 0)
        count, lack, change, is_root, newton = on_support(y, level, inside, above, along)
        root = level + change
        short = lack > 0
        low, high = jnp.where(short, level, state.low), jnp.where(short, state.high, level)
        # Where rounding would send it back, it has arrived.
        newton = jnp.where(short, jnp.maximum(newton, level), jnp.minimum(newton, level))

        def fits(x: Array) -> Array:
            return ((low < x) & (x < high)) | (x == level)

        is_root &= fits(root)
        following = jnp.where(is_root, root, jnp.where(fits(newton), newton, (low + high) / 2))
        # Supports are nested: those of one size are one.
        found = (count == state.entries) | (following == level)
        exact = found & is_root
        moved = jnp.where(exact, level, following)
        return _Support(
            state.sweeps + 1,
            jnp.where(is_root, count, jnp.inf),
            jnp.where(state.unfinished, moved, level),
            jnp.where(state.unfinished, jnp.where(exact, change, 0), state.rest),
            low,
            high,
            state.unfinished & ~found,
        )

    def goes_on(state: _Support) -> Array:
        return jnp.any(state.unfinished) & (state.sweeps < _MOST_SWEEPS)

    one = jnp.where(jnp.isnan(peak), jnp.nan, jnp.ones_like(peak))
    first = _Support(first_round(), jnp.inf * one, one, 0 * one, 0 * one, one, peak > -jnp.inf)
    found = lax.while_loop(goes_on, step, first)
    p = jnp.maximum((y_of(found.sweeps) + found.level) + found.rest, 0)
    return (p if alpha == 2 else p * p), found.sweeps


Step: TypeAlias = tuple[Array, Array, Array, Array, Array]
"""Of a support: its size, what its sum lacks to one, how far from M the root is, whether it has
one, and where a step of Newton's method leads."""


def _linear_step(y: Array, level: Array, inside: Array, above: Array, along: Along) -> Step:
    """For alpha = 2, where a step of Newton's method is the root."""
    (total, rounded), (count, _) = row_exact_sweep(along, [above, inside.astype(y.dtype)], 8)
    lack = (1 - total) - rounded
    change = lack / jnp.maximum(count, 1)
    newton = level + change
    return count, lack, change, count > 0, newton


def _quadratic_step(y: Array, level: Array, inside: Array, above: Array, along: Along) -> Step:
    """For alpha = 1.5, where the root is that of a quadratic."""
    # The largest entries apart: where one holds nearly all, 1 - M^2 keeps its digits.
    is_top = y == 0
    below = jnp.where(is_top, 0, above)
    sums = [below * below, below, *(x.astype(y.dtype) for x in (inside, is_top))]
    squares, total, count, tops = [a + b for a, b in row_exact_sweep(along, sums, 8)]
    lack = (1 - level) * (1 + level) - (tops - 1) * level * level - squares
    total = total + tops * level
    norm = jnp.sqrt(1 - lack)
    newton = level + lack / (1 + norm) * norm / total
    change, is_root = _quadratic(lack, total, count)
    return count, lack, change, is_root, newton


def _quadratic(lack: Array, total: Array, count: Array) -> tuple[Array, Array]:
    """The d with sum (u + d)^2 = 1, and whether there is one.

    From 1 - sum u^2, sum u and the number of the u.
    """
    square = total * total + count * lack
    exists = (square >= 0) & (count > 0)
    return lack / (total + jnp.sqrt(jnp.where(exists, square, 1))), exists


class _Search(NamedTuple):
    """Where the search of each row stands. M is measured from a point M0 nearby."""

    sweeps: Array
    start: Array
    """-log p0, where p0 is the largest probability that M0 means: p0^kappa = M0."""
    slope: Array
    """kappa / M0."""
    log_ratio: Array
    """log(M / M0)."""
    offset: Array
    """M / M0 - 1."""
    low: Array
    high: Array
    """Bounds of that."""
    gap: Array
    """-log of the sum of all probabilities, at the M before."""
    total: Array
    """The sum over the row of p / p0, at the M before."""
    unfinished: Array


def _solve_any(
    logits: Array, score: Callable[[Array], Array], peak: Array, kappa: Array, along: Along
) -> tuple[Array, Array]:
    """Newton's method for the norm, inside a bracket where the norm is not convex."""
    epsilon = float(jnp.finfo(peak.dtype).eps)
    # In a row with nothing allowed alpha does not matter, not even one that is NaN.
    kappa = jnp.where(peak == -jnp.inf, 1, kappa)
    # Nothing that rounding shows is between alpha = 1 and this.
    kappa = jnp.where(kappa == 0, epsilon * epsilon, kappa)
    exponent = 1 / kappa
    concave = kappa > 1
    most_lost = jnp.where(kappa < 0.5, 1, jnp.zeros_like(kappa))
    lowest = float(jnp.finfo(peak.dtype).min)
    z_of = _for_sweeps(lambda logits: halves(jnp.maximum(score(logits), lowest)), logits)

    def powers(sweep: Array, slope: Array, offset: Array) -> tuple[Array, Array]:
        """Compute p / p0 and its power 2 - alpha: p / p0 over base, as base = (p / p0)^kappa."""
        high_z, low_z = z_of(sweep)
        change = slope * (high_z + low_z)
        # For alpha > 2 these products are exact, whether or not a compiler contracts them with the
        # sums: near the edge of the support p depends on all digits of the base, and the sum of
        # many such p on their being the same here and after the loop.
        base = jnp.maximum(((1 + slope * high_z) + slope * low_z) + offset, _FLOOR)
        absent = base <= _FLOOR
        inverse = 1 / base
        # For alpha near 1, log1p(change + offset): there its relative error is multiplied.
        lost = (jnp.maximum(change + offset, -1) - (base - 1)) * inverse
        log_p = (jnp.log(base) + jnp.clip(lost, -most_lost, most_lost)) * exponent
        p = jnp.exp(log_p)
        return jnp.where(absent, 0, p), jnp.where(absent, 0, p * inverse)

    def near(start: Array) -> tuple[Array, Array]:
        """The M0 of about this start, whose slope has half the digits for alpha > 2."""
        slope = kappa * jnp.exp(kappa * start)
        short, _ = halves(slope)
        of_short = jnp.log(short / kappa) * exponent
        return jnp.where(concave, of_short, start), jnp.where(concave, short, slope)

    def step(state: _Search) -> _Search:
        of_entries = powers(state.sweeps, state.slope, state.offset)
        total, weight = row_sweep(along, sums=list(of_entries), slabs=8)
        gap = state.start - jnp.log(total)
        low = jnp.where(gap > 0, state.log_ratio, state.low)
        high = jnp.where(gap > 0, state.high, state.log_ratio)
        # total^kappa is to be exp(kappa start); its derivative by base is total^(kappa-1) weight.
        share = total / weight
        change = share * jnp.expm1(kappa * gap)
        far = (weight - total) / weight + share * jnp.exp(kappa * gap) + state.offset
        newton = jnp.where(change < -0.5, jnp.log(far), jnp.log1p(state.offset + change))
        lost = jnp.abs(gap) > jnp.abs(state.gap) / 2
        lost |= ~((newton > low) & (newton < high))
        log_ratio = jnp.where(concave & lost, (low + high) / 2, newton)
        found = (jnp.abs(gap) <= 4 * epsilon * (1 + state.start)) | (log_ratio == state.log_ratio)
        found |= ~concave & (jnp.abs(gap) >= jnp.abs(state.gap))
        unfinished = state.unfinished & ~found
        moved = jnp.where(unfinished & (jnp.abs(log_ratio) > _NEAR), log_ratio, 0)
        start, slope = near(state.start - moved * exponent)
        still = moved == 0
        start, slope = jnp.where(still, state.start, start), jnp.where(still, state.slope, slope)
        moved = jnp.where(concave, kappa * (state.start - start), moved)
        # By more than what rounds M0.
        wider = jnp.where(still, 0, 8 * epsilon * (1 + kappa * jnp.abs(start)))
        log_ratio = jnp.where(unfinished, log_ratio, state.log_ratio) - moved
        return _Search(
            state.sweeps + 1,
            start,
            slope,
            log_ratio,
            jnp.expm1(log_ratio),
            low - moved - wider,
            high - moved + wider,
            jnp.where(unfinished, gap, state.gap),
            jnp.where(state.unfinished, total, state.total),
            unfinished,
        )

    def goes_on(state: _Search) -> Array:
        return jnp.any(state.unfinished) & (state.sweeps < _MOST_SWEEPS)

    zero = jnp.where(peak > 0, jnp.zeros_like(kappa), 0)
    start, slope = near(zero)
    # log M for M = 1, from which it starts.
    one = jnp.where(concave, kappa * start, zero)
    first = _Search(
        sweeps=first_round(),
        start=start,
        slope=slope,
        log_ratio=one,
        offset=jnp.expm1(one),
        low=one - kappa * (float(np.log(max(row_size(logits, along), 1))) + epsilon),
        high=one,
        gap=zero + jnp.inf,
        total=jnp.where(jnp.isnan(peak), jnp.nan, zero + 1),
        unfinished=(peak > -jnp.inf) & ~jnp.isnan(kappa),
    )
    found = lax.while_loop(goes_on, step, first)
    p, _ = powers(found.sweeps, found.slope, found.offset)
    return p / found.total, found.sweeps
