"""Losses of `hidden @ weight` that never hold it: the vocabulary is taken block by block.

The forward pass keeps for each row the largest logit so far and the sum of exp over all others, and
the backward pass computes each block again. Neither keeps an array of rows times vocabulary.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax._checks import (
    Rows,
    check_axis_name,
    check_block_size,
    check_labels,
    check_logits,
    is_symbol,
)
from jsoftmax._dtypes import common_dtype, compute_dtype
from jsoftmax._exp import exp
from jsoftmax._explicit import by_partitioner
from jsoftmax._label import entry, hits
from jsoftmax._losses import Parts, combine
from jsoftmax._normalizer import less_one, normalizer_of
from jsoftmax._reduce import row_max, row_sum, shard_count, shard_index, vary_alike
from jsoftmax._settings import check_fraction, check_softcap, check_temperature, check_weight
from jsoftmax._shift import at_temperature, inverse, shift
from jsoftmax._typing import Along, AxisName, Setting
from jsoftmax._watch import watch_rows

_BLOCK_ENTRIES = 2**21
"""Most logits, or entries of the weight, in a block if `block_size` is not given: 8 MiB of float32.
"""
_LEAST_BLOCK = 256
_ROW = Along(1)

Carry = TypeVar("Carry")
Operands: TypeAlias = tuple[Array, Array, Array | None, Array | None, Array | None, Array]
"""Hidden [N, D], weight [D, V], bias [V], soft cap [N, 1], temperature [N, 1], label [N, 1]."""
Sums: TypeAlias = tuple[Array, Array, Array, Array, Array]
"""Largest logit, L, logit of the label, sum and number of the allowed logits, each [N, 1]."""


Residuals: TypeAlias = tuple[Operands, Array, Array]
"""The operands, the largest logit and L."""
Gradients: TypeAlias = tuple[Array, Array, Array | None, Array | None, Array | None, None]


class Plan(NamedTuple):
    """What is static."""

    block: int
    precision: lax.PrecisionLike
    smooth: bool
    unit: float
    """A power of two that keeps a sum of logits finite."""


class Sweep(NamedTuple):
    """Gradients that the backward sweep gathers; that of hidden in the compute dtype."""

    hidden: Array
    weight: Array
    bias: Array | None
    softcap: Array | None
    temperature: Array | None


@by_partitioner
def linear_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    logit_softcap: Setting | None = None,
    label_smoothing: Setting = 0.0,
    z_loss: Setting = 0.0,
    temperature: Setting = 1.0,
    block_size: int | None = None,
    precision: lax.PrecisionLike = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Cross-entropy of ``hidden @ weight``, without ever holding these logits.

    .. math:: x = h W + b, \quad x \leftarrow c \tanh(x / c), \quad
       -\sum_i t_i \log \mathrm{softmax}(x / T)_i + w \Big(\log \sum_i \exp(x_i / T)\Big)^2

    with t and w as in `cross_entropy`. The vocabulary is taken in blocks, twice: the backward pass
    computes the logits again (four matrix products in all, where the plain computation has three).
    What is kept in between is a few numbers per row.

    Args:
      hidden: h, real numbers of shape [..., D].
      weight: W, real numbers of shape [D, V].
      labels: integers of the batch shape (hidden's without its last axis), in [0, V); with
        `axis_name` an index of the whole vocabulary.
      bias: b, real numbers of shape [V]; -inf takes a class out, as padding of the vocabulary.
      logit_softcap: c > 0, the logits' bound; a number or an array that broadcasts to the batch
        shape. None and inf are no bound.
      label_smoothing: s in [0, 1], likewise: the part of the target that is spread over the allowed
        classes.
      z_loss: w >= 0 and finite, likewise: the weight of the squared logarithm of the normalizer.
      temperature: T >= 0, likewise.
      block_size: how many columns of the weight a block has; static. None chooses it so that a
        block of logits, or of the weight, has at most 8 MiB (or else 256 columns). It changes time
        and memory, and the result by rounding only.
      precision: of the matrix products, as in ``jax.lax.dot``.
      axis_name: the mesh axis, or axes, that split the vocabulary (the last axis of weight, and
        bias) inside ``jax.shard_map`` and only there. What crosses devices is a few numbers per
        row, and in the backward pass the gradient of `hidden`. Without it, on mesh axes of any
        kind, XLA gathers a weight of several blocks: a `shard_map` spares that.

    Returns:
      A float32 array of the batch shape (float64 if hidden or weight is), the loss of each row.
      bfloat16 and float16 inputs are multiplied as they are and accumulated in float32, and the
      logits stay float32; gradients are rounded once, to the dtype of what they are the gradient
      of. (For bfloat16 the gradient of the logits is rounded to it before the products, as usual.)
      Gradients flow to hidden, weight, bias and the traced settings, in reverse mode.

    Raises:
      TypeError: hidden, weight, bias or a setting are not real numbers, or labels not integers; a
        forward-mode derivative (``jax.jvp``) is asked for.
      ValueError: a shape or a static setting that is not allowed; static labels out of range.

    Edge cases: as `cross_entropy`; a cap hides no logit of +inf. A label whose class is taken out
    costs inf with gradient 0; a traced label out of range gives NaN with gradient 0, so that
    ``jnp.where(labels >= 0, loss, 0)`` is safe (for `checked` give padding a label in range, as by
    ``jnp.maximum(labels, 0)``); a row of nothing but -inf costs 0.

    Source: Milakov and Gimelshein (2018), the online normalizer; Wijmans et al. (2024), Cut your
    losses in large-vocabulary language models.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> hidden, weight = jnp.eye(2), jnp.array([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
      >>> labels = jnp.array([0, 2])
      >>> print(jsoftmax.linear_cross_entropy(hidden, weight, labels))
      [0.40760595 1.5514448 ]
      >>> print(jsoftmax.cross_entropy(hidden @ weight, labels))
      [0.40760595 1.5514448 ]
    """
    problem = _check(
        "linear_cross_entropy", hidden, weight, labels, bias, logit_softcap, temperature, axis_name
    )
    rows = problem.rows
    smoothing = check_fraction("linear_cross_entropy", "label_smoothing", label_smoothing, rows)
    z_weight = check_weight("linear_cross_entropy", "z_loss", z_loss, rows)
    block = check_block_size("linear_cross_entropy", block_size)
    smooth = smoothing is not None
    parts = _parts(problem, block, precision, smooth=smooth)
    flat = [None if x is None else problem.flatten(x) for x in (smoothing, z_weight)]
    loss = combine(parts, problem.temperature, *flat)
    return loss.reshape(problem.batch)


@by_partitioner
def linear_log_prob(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    logit_softcap: Setting | None = None,
    temperature: Setting = 1.0,
    block_size: int | None = None,
    precision: lax.PrecisionLike = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Log-probability of each row's token under ``hidden @ weight``, without holding the logits.

    .. math:: \log \mathrm{softmax}(x / T)_y, \quad x = c \tanh((h W + b) / c)

    It is what reinforcement learning weighs and compares between policies. Gradients, blocks and
    memory are those of `linear_cross_entropy`.

    Args:
      hidden: h, real numbers of shape [..., D].
      weight: W, real numbers of shape [D, V].
      labels: y, the tokens: integers of the batch shape (hidden's without its last axis), in [0,
        V); with `axis_name` an index of the whole vocabulary.
      bias: b, real numbers of shape [V]; -inf takes a class out.
      logit_softcap: c > 0, the logits' bound; None and inf are none.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape: the one the
        tokens were sampled at.
      block_size: how many columns of the weight a block has; static.
      precision: of the matrix products, as in ``jax.lax.dot``.
      axis_name: the mesh axis, or axes, that split the vocabulary, inside ``jax.shard_map`` and
        only there. Without it XLA gathers, as in `linear_cross_entropy`.

    Returns:
      A float32 array of the batch shape (float64 if hidden or weight is).

    Raises:
      TypeError: hidden, weight, bias or a setting are not real numbers, or labels not integers; a
        forward-mode derivative (``jax.jvp``) is asked for.
      ValueError: a shape or a static setting that is not allowed; static labels out of range.

    Edge cases: -inf, with gradient 0, for a class that is taken out and in a row with nothing
    allowed. NaN, with gradient 0, for a traced label out of range. T = 0 and T = inf as
    `log_softmax`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> hidden, weight = jnp.eye(2), jnp.array([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
      >>> print(jsoftmax.linear_log_prob(hidden, weight, jnp.array([0, 2])))
      [-0.40760595 -1.5514448 ]
    """
    problem = _check(
        "linear_log_prob", hidden, weight, labels, bias, logit_softcap, temperature, axis_name
    )
    block = check_block_size("linear_log_prob", block_size)
    parts = _parts(problem, block, precision, smooth=False)
    return _log_prob(parts, problem.temperature).reshape(problem.batch)


class Problem(NamedTuple):
    """Arguments that passed the door, with the batch as one axis; numbers of a row are [N, 1]."""

    rows: Rows
    hidden: Array
    weight: Array
    bias: Array | None
    softcap: Array | None
    temperature: Array | None
    label: Array

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape of the result."""
        return self.rows.logits.shape[:-1]

    def flatten(self, number: Array) -> Array:
        """A setting as [N, 1]."""
        return jnp.broadcast_to(number, (*self.batch, 1)).reshape(self.hidden.shape[0], 1)


def _check(
    function: str,
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None,
    softcap: Setting | None,
    temperature: Setting,
    axis_name: AxisName,
) -> Problem:
    h = check_logits(function, hidden, "hidden")
    w = check_logits(function, weight, "weight")
    if h.ndim == 0 or w.ndim != 2 or h.shape[-1] != w.shape[0]:
        raise ValueError(
            f"{function}: hidden must have shape [..., D] and weight [D, V], got {h.shape} and "
            f"{w.shape}"
        )
    b = None if bias is None else check_logits(function, bias, "bias")
    if b is not None and b.shape != w.shape[1:]:
        raise ValueError(
            f"{function}: bias must have the shape {w.shape[1:]} of the vocabulary, got {b.shape}"
        )
    along = Along(h.ndim - 1, check_axis_name(function, axis_name))
    h = watch_rows(function, "hidden", h, Along(along.axis))
    w = watch_rows(function, "weight", w, Along(1))
    if b is not None:
        b = watch_rows(function, "bias", b, Along(0, along.axis_name))
    rows = Rows(h.astype(common_dtype(h, w)), None, along, of_hidden=True)
    index = check_labels(function, labels, rows, w.shape[1] * shard_count(along))
    checked = check_temperature(function, temperature, rows)
    cap = None
    if softcap is not None:
        cap = check_softcap(function, softcap, rows)
    number = math.prod(h.shape[:-1])
    flat = Problem(rows, h.reshape(number, h.shape[-1]), w, b, None, None, index.reshape(number, 1))
    return flat._replace(
        softcap=None if cap is None else flat.flatten(cap),
        temperature=None if checked is None else flat.flatten(checked),
    )


def _parts(
    problem: Problem, block: int | None, precision: lax.PrecisionLike, *, smooth: bool
) -> Parts:
    """The parts of each row's loss, over the whole vocabulary."""
    along = Along(1, problem.rows.along.axis_name)
    size = problem.weight.shape[1]
    if block is None:
        known = [n for n in problem.hidden.shape if not is_symbol(n)]
        most = _BLOCK_ENTRIES // max([*known, 1])
        block = max(most - most % _LEAST_BLOCK, _LEAST_BLOCK)
    # A sum of so many differences, each of up to twice the largest float.
    unit = 2.0 ** -(1 + (size * shard_count(along)).bit_length())
    # A list, as lax.dot takes, is no key of a cache.
    if isinstance(precision, list):
        precision = cast("lax.PrecisionLike", tuple(precision))
    plan = Plan(max(min(block, size), 1), precision, smooth, unit)
    return _merged(*problem[1:], along, plan)


@partial(jax.jit, static_argnums=(6, 7), inline=True)
def _merged(
    hidden: Array,
    weight: Array,
    bias: Array | None,
    softcap: Array | None,
    temperature: Array | None,
    label: Array,
    along: Along,
    plan: Plan,
) -> Parts:
    """The parts, from those of each shard."""
    unit = plan.unit
    local = label - shard_index(along) * weight.shape[1]
    operands = vary_alike((hidden, weight, bias, softcap, temperature))
    sums = cast("Sums", _sums(*operands, local, plan))
    local_peak, log_total, at_label, total, count = sums
    peak = row_max(local_peak, along)
    if along.axis_name:
        merged = _others(local_peak, jnp.expm1(log_total), temperature, peak)
        log_total = jnp.log1p(_all_but_one(*(row_sum(x, along) for x in merged)))
    total = _rebased(total, count, local_peak, peak, unit) if plan.smooth else total
    at_label, total, count = (row_sum(x, along) for x in (at_label, total, count))
    cost = _below(at_label, temperature, peak)
    # The mean below the largest logit may be twice the largest float, at a T that makes it small.
    half = 1.0 if temperature is None else jnp.where(temperature > 1, 0.5, 1)
    mean = total / jnp.maximum(count, 1) * (half / unit)
    scaled = None if temperature is None else temperature * half
    spread = _below(mean, scaled, jnp.zeros_like(peak))
    return Parts(peak, log_total, jnp.ones_like(peak), cost, spread, label)


@partial(jax.jit, inline=True)
def _log_prob(parts: Parts, temperature: Array | None) -> Array:
    loss = combine(parts, temperature, None, None)
    return jnp.where(parts.nothing, -jnp.inf, -loss)


def _below(x: Array, temperature: Array | None, peak: Array) -> Array:
    """How far x / T lies below the largest entry: rounding does not make it negative."""
    z = shift(x, temperature, peak)
    return lax.stop_gradient(jnp.maximum(z, 0)) - z


def _rebased(total: Array, count: Array, peak: Array, new_peak: Array, unit: float) -> Array:
    """A sum of unit (x - peak) as one of unit (x - new_peak)."""
    # Not even for a moment -inf less -inf: jax_debug_nans would stop there.
    peak, new_peak = (jnp.where(count > 0, x, 0) for x in (lax.stop_gradient(peak), new_peak))
    return total + count * (unit * peak - unit * new_peak)


def _others(
    peak: Array, others: Array, temperature: Array | None, whole_peak: Array
) -> tuple[Array, Array]:
    """A part's sum of exp(z) in the whole, without the whole's largest; and whether it has that."""
    z = shift(peak, temperature, whole_peak)
    top = (peak == whole_peak) & (peak > -jnp.inf)
    return jnp.where(top, others, exp(z) * (1 + others)), top.astype(peak.dtype)


def _all_but_one(others: Array, tops: Array) -> Array:
    """Sum of exp(z) of all entries but one largest."""
    return others + jnp.maximum(tops - 1, 0)


@partial(jax.custom_vjp, nondiff_argnums=(6,))
@partial(jax.jit, static_argnums=6)
def _sums(
    hidden: Array,
    weight: Array,
    bias: Array | None,
    softcap: Array | None,
    temperature: Array | None,
    index: Array,
    plan: Plan,
) -> Sums:
    """What the columns held here make of each row. The largest logit is a constant."""
    operands = hidden, weight, bias, softcap, temperature, index

    def step(start: Array | int, size: int, so_far: Sums | None) -> Sums:
        x, _, _ = _logits(operands, start, size, plan)
        peak, log_total, _ = normalizer_of(x, temperature, _ROW)
        others = jnp.expm1(log_total)
        at_label = entry(x, index - start, _ROW)
        total, count = jnp.zeros_like(peak), jnp.zeros_like(peak)
        if plan.smooth:
            allowed = x > -jnp.inf
            total = row_sum(jnp.where(allowed, plan.unit * x - plan.unit * peak, 0), _ROW)
            count = row_sum(allowed, _ROW).astype(x.dtype)
        if so_far is None:
            return peak, others, at_label, total, count
        old_peak, old_others, old_label, old_total, old_count = so_far
        new_peak = jnp.maximum(old_peak, peak)
        old = _others(old_peak, old_others, temperature, new_peak)
        new = _others(peak, others, temperature, new_peak)
        others = _all_but_one(old[0] + new[0], old[1] + new[1])
        if plan.smooth:
            total = _rebased(total, count, peak, new_peak, plan.unit)
            total = total + _rebased(old_total, old_count, old_peak, new_peak, plan.unit)
        return new_peak, others, old_label + at_label, total, old_count + count

    peak, others, at_label, total, count = _over_blocks(step, weight.shape[1], plan.block)
    return peak, jnp.log1p(others), at_label, total, count


def _sums_forward(
    hidden: Array,
    weight: Array,
    bias: Array | None,
    softcap: Array | None,
    temperature: Array | None,
    index: Array,
    plan: Plan,
) -> tuple[Sums, Residuals]:
    operands = hidden, weight, bias, softcap, temperature, index
    sums = cast("Sums", _sums(*operands, plan))
    return sums, (operands, sums[0], sums[1])


@partial(jax.jit, static_argnums=0)
def _sums_backward(plan: Plan, kept: Residuals, cotangents: Sums) -> Gradients:
    # dx = (of L) p / T, plus (of the label's logit) there, plus (of the sum) where allowed;
    # dT = -(of L) sum p z / T
    operands, peak, log_total = kept
    hidden, weight, bias, _, temperature, index = operands
    _, of_total, of_label, of_sum, _ = cotangents
    of_z = of_total * inverse(temperature)
    scale = of_z * jnp.exp(-log_total)
    # At a label that holds most of the mass the ones of p - 1 cancel first: up to the rounding of
    # 1 / T, which is no difference.
    ones = of_z + of_label
    ones = jnp.where(jnp.abs(ones) <= 4 * jnp.finfo(ones.dtype).eps * jnp.abs(of_z), 0, ones)

    def step(start: Array | int, size: int, so_far: Sweep | None) -> Sweep:
        x, u, columns = _logits(operands, start, size, plan)
        z = shift(x, temperature, peak)
        share = exp(z)
        mass = scale * share
        at_label = hits(x, index - start, _ROW)
        less, sure = less_one(z, share * jnp.exp(-log_total), log_total)
        of_logits = mass + jnp.where(at_label, of_label, 0)
        of_logits = jnp.where(sure & at_label, ones + of_z * less, of_logits)
        if plan.smooth:
            of_logits = of_logits + jnp.where(x == -jnp.inf, 0, plan.unit * of_sum)
        of_temperature = of_cap = None
        if temperature is not None:
            of_temperature = -row_sum(mass * jnp.where(z == -jnp.inf, 0, z), _ROW)
        if u is not None:
            by_logit, by_cap = _slopes(u)
            of_cap = row_sum(of_logits * by_cap, _ROW)
            of_logits = of_logits * by_logit
        of_bias = None
        if bias is not None:
            of_bias = jnp.sum(of_logits, axis=0).astype(bias.dtype)
        of_hidden, of_columns = _products(of_logits, hidden, columns, plan)
        block = Sweep(of_hidden, of_columns, of_bias, of_cap, of_temperature)
        return _gathered(block, so_far, start, operands)

    swept = _over_blocks(step, weight.shape[1], plan.block)
    return swept.hidden.astype(hidden.dtype), *swept[1:], None


_sums.defvjp(_sums_forward, _sums_backward)


def _gathered(block: Sweep, so_far: Sweep | None, start: Array | int, operands: Operands) -> Sweep:
    """The gradients so far, with those of a block of columns in their place."""
    _, weight, bias, *_ = operands
    if so_far is None:
        of_weight = jnp.zeros(weight.shape, weight.dtype)
        of_bias = None if bias is None else jnp.zeros(bias.shape, bias.dtype)
    else:
        of_weight, of_bias = so_far.weight, so_far.bias
    of_columns = block.weight.astype(weight.dtype)
    of_weight = lax.dynamic_update_slice_in_dim(of_weight, of_columns, start, axis=1)
    if block.bias is not None and of_bias is not None:
        of_bias = lax.dynamic_update_slice_in_dim(of_bias, block.bias, start, axis=0)
    if so_far is not None:
        # Of the others, which have no columns, the sum.
        one, two = (x._replace(weight=None, bias=None) for x in (so_far, block))
        block = jax.tree.map(jnp.add, one, two)
    return block._replace(weight=of_weight, bias=of_bias)


def _logits(
    operands: Operands, start: Array | int, size: int, plan: Plan
) -> tuple[Array, Array | None, Array]:
    """A block of logits, what a soft cap took the tanh of, and the columns of the weight."""
    hidden, weight, bias, softcap, temperature, _ = operands
    dtype = common_dtype(hidden, weight)
    columns = lax.dynamic_slice_in_dim(weight, start, size, axis=1).astype(dtype)
    x = _dot(hidden.astype(dtype), columns, (1, 0), plan)
    if bias is not None:
        x = x + lax.dynamic_slice_in_dim(bias, start, size).astype(x.dtype)[None]
    u = None
    if softcap is not None:
        # A class taken out stays so, and a row that is broken.
        infinite = jnp.isinf(x)
        # The tanh of 64 is one, and its slope zero.
        u = jnp.clip(at_temperature(jnp.where(infinite, 0, x), softcap), -64, 64)
        as_it_is = jnp.abs(u) < float(jnp.finfo(u.dtype).eps) ** 0.5
        # Clipped, which changes nothing, but that XLA:CPU does not multiply inside of tanh's own
        # fraction, at the end of short rows alone: equal logits stay equal.
        bounded = jnp.clip(jnp.tanh(u), -1, 1)
        capped = jnp.where(softcap == jnp.inf, 1, softcap) * bounded
        x = jnp.where(infinite | as_it_is, x, capped)
    return (x if temperature is None else lax.optimization_barrier(x)), u, columns


def _slopes(u: Array) -> tuple[Array, Array]:
    """Of c tanh(y / c) by y, 1 / cosh(u)^2 at u = y / c, and by c, tanh(u) - u / cosh(u)^2."""
    power = jnp.exp(-2 * jnp.abs(u))
    by_logit = 4 * power / ((1 + power) * (1 + power))
    # The latter is (sinh(2 u) - 2 u) / (2 cosh(u)^2), near 0 by its series.
    small = jnp.abs(u) < 0.5
    v = jnp.where(small, 2 * u, 0)
    series = jnp.zeros_like(u)
    for k in range(10 if u.dtype == jnp.float32 else 18, 0, -2):
        series = (1 + series) * v * v / (k * (k + 1))
    return by_logit, jnp.where(small, by_logit * series * v / 2, jnp.tanh(u) - u * by_logit)


def _products(of_logits: Array, hidden: Array, columns: Array, plan: Plan) -> tuple[Array, Array]:
    """The gradients of hidden and of the columns, in the compute dtype."""
    # float16 would lose small gradients.
    dtype = columns.dtype if columns.dtype == jnp.bfloat16 else of_logits.dtype
    of_logits, hidden, columns = (x.astype(dtype) for x in (of_logits, hidden, columns))
    return _dot(of_logits, columns, (1, 1), plan), _dot(hidden, of_logits, (0, 0), plan)


def _dot(a: Array, b: Array, contracted: tuple[int, int], plan: Plan) -> Array:
    dimensions = ((contracted[:1], contracted[1:]), ((), ()))
    return lax.dot_general(
        a,
        b,
        dimensions,
        precision=plan.precision,
        preferred_element_type=compute_dtype(a.dtype),
    )


def _over_blocks(
    step: Callable[[Array | int, int, Carry | None], Carry], columns: int, block: int
) -> Carry:
    """Run `step(start, size, result so far)` over all columns.

    The first block is what remains beside whole ones; those follow in a loop.
    """
    loops = max(-(-columns // block) - 1, 0)
    first = columns - loops * block
    result = step(0, first, None)
    if loops == 0:
        return result
    return lax.fori_loop(0, loops, lambda i, so_far: step(first + i * block, block, so_far), result)
