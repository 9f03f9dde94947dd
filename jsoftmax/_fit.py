"""The temperature of the least negative log-likelihood, and its derivative.

Let the gap of a class be how far it lies below the largest logit of its row, and b = 1 / T. The
negative log-likelihood is convex in b, with the derivative A - D(b): A is the mean gap of the
labels, D(b) the mean gap that the model expects, sum p_i gap_i. D falls from the plain mean of the
gaps, at b = 0, to 0, so that there is one root: the temperature at which the model expects what the
labels show. Both sides are sums of numbers that are not negative: nothing cancels.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jsoftmax._derivative import drop_zeros
from jsoftmax._dtypes import upcast
from jsoftmax._exact import unit_near
from jsoftmax._exp import exp
from jsoftmax._groups import group_max, group_sum
from jsoftmax._label import entry
from jsoftmax._loop import first_round
from jsoftmax._normalizer import normalizer_of
from jsoftmax._reduce import row_peak, row_sweep
from jsoftmax._shift import shift
from jsoftmax._typing import Along

_ROWS = Along(1)
_MOST_STEPS = 100
"""The bracket alone closes in about seventy; see the tests for what real data need."""


def telling(logits: Array, label: Array, weight: Array) -> Array:
    """The weight, but 0 for a row whose loss no temperature changes.

    Its allowed logits are all equal, or its label is not allowed: then the loss is inf throughout.
    """
    x = lax.stop_gradient(logits)
    present = x > -jnp.inf
    most = jnp.max(x, axis=1, initial=-jnp.inf)
    least = jnp.min(x, axis=1, initial=jnp.inf, where=present)
    return jnp.where((least < most) & (_at(x, label) > -jnp.inf), weight, 0)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def fit(logits: Array, label: Array, weight: Array, group: Array | None, count: int) -> Array:
    """The temperature of each group of rows, [count]: 0 and inf are limits.

    Args:
      logits: [N, V], free of NaN and +inf; -inf where a class is not allowed.
      label: int32 [N], in range where the weight is not 0.
      weight: [N] in the compute dtype, as `telling` gives it.
      group: int32 [N], which group a row is of; None: all are of one.
      count: how many groups there are. One without weight gets 1.
    """
    return solve(logits, label, weight, group, count)[0]


@partial(fit.defjvp, symbolic_zeros=True)
def _fit_jvp(
    count: int,
    primals: tuple[Array, Array, Array, Array | None],
    tangents: tuple[Array | SymbolicZero, SymbolicZero, Array | SymbolicZero, SymbolicZero | None],
) -> tuple[Array, Array]:
    # With z = (x - max x) / T, sum w (E z - z_label) = 0 stays 0. Its change at a fixed T is
    # sum w (sum p (1 + z - E z) dx - dx_label) / T + sum dw (E z - z_label), and a change of T by
    # dT adds -sum w Var(z) dT / T. A limit is constant.
    logits, label, weight, group = primals
    temperature = fit(logits, label, weight, group, count)
    of_logits, of_weight = drop_zeros((tangents[0], tangents[2]))
    per_unit = _per_unit(weight, group, count)
    weight = weight * per_unit
    of_weight = None if of_weight is None else of_weight * per_unit
    sums = partial(group_sum, group=group, count=count)
    inside = (temperature > 0) & (temperature < jnp.inf) & (sums(weight) > 0)
    finite = jnp.where(inside, temperature, 1)

    @jax.checkpoint
    def recomputed(
        logits: Array,
        temperature: Array,
        weight: Array,
        known: tuple[Array | None, Array | None],
    ) -> tuple[Array, Array, Array]:
        of_logits, of_weight = known
        of_row = _of_rows(temperature, group)[:, None]
        peak, log_total, _ = normalizer_of(logits, of_row, _ROWS)
        z = shift(logits, of_row, peak)
        p = exp(z - log_total)
        z = jnp.where(z == -jnp.inf, 0, z)
        off = z - jnp.sum(p * z, axis=1, keepdims=True)
        variance = sums(weight * jnp.sum(p * off * off, axis=1))
        change, share = jnp.zeros_like(weight), jnp.zeros_like(weight)
        if of_logits is not None:
            dx = of_logits.astype(p.dtype)
            change = weight * (jnp.sum(p * (1 + off) * dx, axis=1) - _at(dx, label))
        if of_weight is not None:
            share = jnp.where(weight > 0, -_at(off, label), 0) * of_weight
        return sums(change), sums(share), variance

    change, share, variance = recomputed(logits, finite, weight, (of_logits, of_weight))
    inside &= variance > 0
    variance = jnp.where(inside, variance, 1)
    return temperature, jnp.where(inside, change / variance + finite * (share / variance), 0)


@partial(jax.jit, static_argnums=4)
def solve(
    logits: Array, label: Array, weight: Array, group: Array | None, count: int
) -> tuple[Array, Array]:
    """What `fit` returns, and how many passes over the logits the search made."""
    x = upcast(logits)
    peak, most = row_peak(x, _ROWS), float(jnp.finfo(x.dtype).max)
    sums = partial(group_sum, group=group, count=count)
    weight = weight * _per_unit(weight, group, count)
    at_label = _at(x, label)[:, None]
    # In units of the labels' largest gap no sum overflows, and no b = 1 / T underflows.
    labels_gap = jnp.where(weight > 0, jnp.minimum(peak - at_label, most)[:, 0], 0)
    unit = unit_near(group_max(labels_gap, group, count))
    scale = 1 / _of_rows(unit, group)[:, None]

    def gap_of(x: Array) -> Array:
        gap = peak - x
        halved = (peak / 2 - x / 2) * (2 * scale)
        # Of these only what is not allowed is infinite.
        scaled = jnp.minimum(jnp.where(gap < jnp.inf, gap * scale, halved), most)
        return jnp.where(x == -jnp.inf, jnp.inf, scaled)

    gap = gap_of(x)
    of_labels = sums(jnp.where(weight > 0, weight * gap_of(at_label)[:, 0], 0))
    number = jnp.maximum(jnp.sum(gap < jnp.inf, axis=1, keepdims=True), 1)
    plain = jnp.sum(jnp.where(gap < jnp.inf, gap / number.astype(x.dtype), 0), axis=1)
    of_uniform = sums(jnp.where(weight > 0, weight * plain, 0))

    def expect(slope: Array) -> tuple[Array, Array]:
        gaps = _of_rows(slope, group)[:, None] * gap
        mass = jnp.exp(-gaps)
        gaps = jnp.where(mass == 0, 0, gaps)
        total, first, second = row_sweep(_ROWS, sums=[mass, mass * gaps, mass * gaps * gaps])
        total = jnp.where(total == 0, 1, total)
        mean = first / total
        variance = jnp.maximum(second / total - mean * mean, 0)
        return sums(weight * mean[:, 0]), sums(weight * variance[:, 0])

    known = sums(weight) > 0
    certain = known & (of_labels == 0)
    uniform = known & (of_labels >= of_uniform)
    inside = known & ~certain & ~uniform
    # b times an expected gap is at most log V, whatever the logits.
    highest = sums(weight) * float(np.log(max(x.shape[1], 1)))
    high = jnp.where(inside, highest / jnp.where(inside, of_labels, 1), 2)
    slope, steps = _search(expect, of_labels, high, unit, ~inside)
    temperature = jnp.where(certain, 0, jnp.where(uniform, jnp.inf, unit / slope))
    return jnp.where(known, temperature, 1), steps


Expectation: TypeAlias = Callable[[Array], tuple[Array, Array]]
"""From b: the expected gaps times b, and the variances of the gaps times b^2, summed."""


class _State(NamedTuple):
    slope: Array
    low: Array
    high: Array
    """The root lies between these two."""
    miss: Array
    """How far log D was from log A at the last b."""
    done: Array
    steps: Array


def _search(
    expect: Expectation, of_labels: Array, high: Array, start: Array, done: Array
) -> tuple[Array, Array]:
    """The b of each group at which b D(b) = b A, between 0 and `high`; and the number of steps.

    Newton on log D - log A, which is nearly linear in b far from the root too, where D itself dies
    away; from `start` if that is sensible. A step that leaves the bracket, or did not halve the
    miss, is replaced by the geometric mean of the bracket.
    """
    epsilon = float(jnp.finfo(high.dtype).eps)

    def step(state: _State) -> _State:
        expected, variance = expect(state.slope)
        log_ratio = jnp.log(expected / (state.slope * of_labels))
        low = jnp.where(log_ratio > 0, state.slope, state.low)
        high = jnp.where(log_ratio < 0, state.slope, state.high)
        newton = state.slope * (1 + log_ratio * expected / variance)
        miss = jnp.abs(log_ratio)
        good = (newton > low) & (newton < high) & (miss < state.miss / 2)
        middle = jnp.where(low > 0, jnp.sqrt(low) * jnp.sqrt(high), high / 16)
        exact = miss <= 4 * epsilon
        slope = jnp.where(good, newton, middle)
        # The next miss is about the square of this step.
        near = good & (jnp.abs(slope - state.slope) <= 0.1 * epsilon**0.5 * state.slope)
        closed = high <= low * (1 + 4 * epsilon)
        slope = jnp.where(state.done | exact, state.slope, slope)
        done = state.done | exact | near | closed
        return _State(slope, low, high, miss, done, state.steps + 1)

    def goes_on(state: _State) -> Array:
        return ~jnp.all(state.done) & (state.steps < _MOST_STEPS)

    start = jnp.clip(start, high / 1024, high / 2)
    far = jnp.full_like(high, jnp.inf)
    first = _State(start, jnp.zeros_like(high), high, far, done, first_round())
    found = lax.while_loop(goes_on, step, first)
    return found.slope, found.steps


def _per_unit(weight: Array, group: Array | None, count: int) -> Array:
    """What takes the largest weight of each group near 1: a power of two, for each row or one."""
    unit = unit_near(group_max(lax.stop_gradient(weight), group, count))
    return _of_rows(1 / unit, group)


def _of_rows(number: Array, group: Array | None) -> Array:
    """The number of each row's group; one that broadcasts where there is one group."""
    if group is None:
        return number
    split = jax.typeof(group).sharding
    return number.at[group].get(out_sharding=split) if any(split.spec) else number[group]


def _at(x: Array, label: Array) -> Array:
    """The entry of each row at its label; 0 where that is out of range."""
    return entry(x, label[:, None], _ROWS)[:, 0]
