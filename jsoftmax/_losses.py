"""Cross-entropy of logits and labels, and how the parts of a row make up such a loss.

With z = (x - max x) / T and L = log sum exp(z), the loss of a target t over the classes is sum t_i
(L - z_i) = L sum t_i + sum t_i (-z_i): two terms that are not negative, so that nothing cancels
where the label is nearly certain.
"""

from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jsoftmax._checks import check_labels, check_rows
from jsoftmax._derivative import drop_zeros, recomputed, widened, with_derivative
from jsoftmax._dtypes import compute_dtype
from jsoftmax._exp import exp
from jsoftmax._label import entry, hits
from jsoftmax._normalizer import less_one, normalizer_of
from jsoftmax._reduce import row_size, row_sum
from jsoftmax._settings import check_fraction, check_temperature, check_weight
from jsoftmax._shift import at_temperature, inverse, scaled_tangent, shift
from jsoftmax._typing import Along, Axis, AxisName, Setting


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    temperature: Setting = 1.0,
    label_smoothing: Setting = 0.0,
    z_loss: Setting = 0.0,
    axis_name: AxisName = None,
) -> Array:
    r"""Cross-entropy of a label, or of a distribution over the classes, for each row.

    .. math:: -\sum_i t_i \log p_i + w \Big(\log \sum_i \exp(x_i / T)\Big)^2, \quad
       p = \mathrm{softmax}(x / T), \quad t = (1 - s) \cdot \mathrm{label} + s / n

    with s the label smoothing over the n allowed classes, and w the weight of the z-loss.

    Args:
      logits: real numbers of any shape with at least one dimension.
      labels: integers of the batch shape (the logits' shape without `axis`), the index of the class
        in the whole row, also where `axis_name` splits it; or floating-point numbers of the logits'
        shape, a distribution over the classes (split as the logits are). Gradients flow to a
        distribution too.
      axis: the axis that holds the classes.
      where: boolean, broadcasts to the logits' shape: True where a class is allowed. A row in which
        nothing is allowed is ignored: ``where=(labels >= 0)[..., None]``.
      temperature: T >= 0, a number or an array that broadcasts to the batch shape. Traced, as every
        setting is.
      label_smoothing: s in [0, 1], likewise: the part of the target that is spread over the allowed
        classes.
      z_loss: w >= 0 and finite, likewise: the weight of the squared logarithm of the normalizer,
        which keeps the logits from drifting.
      axis_name: the mesh axis, or axes, that split `axis`, inside ``jax.shard_map`` and only there.
        Without it, on Auto mesh axes of CPUs, XLA gathers short rows: a `shard_map` spares that.

    Returns:
      An array of the batch shape and the logits' float dtype, the loss of each row: take its mean,
      or weigh it, as you need. float16 and bfloat16 are computed in float32 and rounded once. The
      loss of a nearly certain label keeps its relative accuracy. The backward pass keeps the logits
      (and a distribution) and nothing else of their size.

    Raises:
      TypeError: logits or a setting are not real numbers, labels neither integers nor
        floating-point numbers, `where` is not boolean, or `axis` is not an integer.
      ValueError: an axis, a shape or a static setting that is not allowed; static labels out of
        range.

    Edge cases: a -inf or disallowed class costs nothing where its target is 0, has gradient 0, and
    gets no part of the smoothing; target mass on it costs inf, with gradient 0. A row with nothing
    allowed costs 0, with gradient 0, whatever its label. T = 0 costs log(number of largest entries)
    if the label is one of them, else inf. A traced label out of range (negative ones too) gives NaN
    in its row, with gradient 0, so that ``jnp.where(labels >= 0, loss, 0)`` is safe. A NaN or +inf
    logit, or a traced setting that is not allowed, makes its row NaN.

    Source: Szegedy et al. (2016) for label smoothing; PaLM (Chowdhery et al. 2022) for the z-loss.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.array([[20.0, 0.0, -jnp.inf], [0.0, 1.0, 0.0]])
      >>> print(jsoftmax.cross_entropy(x, jnp.array([0, 2])))
      [2.0611537e-09 1.5514448e+00]
      >>> print(jsoftmax.cross_entropy(x, jnp.array([0, -1]), where=jnp.array([[True], [False]])))
      [2.0611537e-09 0.0000000e+00]
    """
    rows = check_rows("cross_entropy", logits, axis, where, axis_name)
    along = rows.along
    checked = check_temperature("cross_entropy", temperature, rows)
    smoothing = check_fraction("cross_entropy", "label_smoothing", label_smoothing, rows)
    weight = check_weight("cross_entropy", "z_loss", z_loss, rows)
    pinned = rows.pinned(checked)
    smooth = smoothing is not None
    size = row_size(rows.logits, along)
    target = check_labels("cross_entropy", labels, rows, size, where, distribution=True)
    if jnp.issubdtype(target.dtype, jnp.floating):
        parts = Parts(*_parts_of_distribution(pinned, checked, target, along, smooth))
    else:
        parts = Parts(*_parts_of_label(pinned, checked, target, along, smooth), label=target)
    loss = combine(parts, checked, smoothing, weight)
    return jnp.squeeze(loss.astype(rows.logits.dtype), along.axis)


class Parts(NamedTuple):
    """What a loss is made of, a number per row. Only `peak` has no derivative."""

    peak: Array
    """The largest entry, a constant of the derivative: L depends on it as on a fixed shift."""
    log_total: Array
    """L = log sum exp(z)."""
    mass: Array
    """Sum of the target; 1 for a label."""
    cost: Array
    """Sum of the target times -z; inf where there is a target on a class of probability 0."""
    spread: Array
    """Mean of -z over the allowed classes; 0 where it is not asked for."""
    label: Array | None = None
    """The class index, -1 where it was out of range."""

    @property
    def nothing(self) -> Array:
        """Whether no class is allowed."""
        return self.peak == -jnp.inf


@partial(jax.jit, inline=True)
def combine(
    parts: Parts, temperature: Array | None, smoothing: Array | None, z_loss: Array | None
) -> Array:
    """The loss of each row: what is infinite, or NaN by its label, is constant in it."""
    loss = jnp.where(jnp.isinf(parts.cost), 0, parts.mass * parts.log_total + parts.cost)
    infinite = parts.cost == jnp.inf
    # Where nothing is allowed no setting counts, not even NaN.
    smoothing, z_loss = (
        None if setting is None else jnp.where(parts.nothing, 0, setting)
        for setting in (smoothing, z_loss)
    )
    if smoothing is not None:
        far = jnp.isinf(parts.spread)
        uniform = jnp.where(far, 0, parts.log_total + parts.spread)
        loss = (1 - smoothing) * loss + smoothing * uniform
        infinite = (infinite & (smoothing < 1)) | (far & (smoothing > 0))
    if z_loss is not None:
        log_sum, far = _log_sum(parts, temperature)
        of_square = lax.stop_gradient(jnp.where(far, 0, log_sum))
        # The derivative of a larger one would be infinite before a small weight, or 0, meets it.
        most = float(jnp.finfo(log_sum.dtype).max) ** 0.75
        far = far | (jnp.abs(of_square) > most) | jnp.isinf(z_loss * of_square * of_square)
        finite = jnp.where(far, 0, log_sum)
        loss = loss + z_loss * finite * finite
        infinite = infinite | (far & (z_loss > 0))
    loss = jnp.where(infinite & ~jnp.isnan(loss), jnp.inf, loss)
    # Weights that are no numbers, and a negative one on a class of probability 0.
    broken = ~jnp.isfinite(parts.mass) | (parts.cost == -jnp.inf)
    loss = jnp.where(jnp.isnan(parts.log_total) | broken, jnp.nan, loss)
    if parts.label is not None:
        # Not even for a moment where nothing is allowed: jax_debug_nans would stop there.
        loss = jnp.where((parts.label >= 0) | parts.nothing, loss, jnp.nan)
    return jnp.where(parts.nothing, 0, loss)


def _log_sum(parts: Parts, temperature: Array | None) -> tuple[Array, Array]:
    """Compute log sum exp(x / T), and whether it is infinite."""
    peak = jnp.where(parts.nothing, 0, parts.peak)
    if temperature is None:
        log_sum = peak + parts.log_total
        return log_sum, jnp.isinf(log_sum)
    limit = temperature == 0
    divisor = jnp.where(limit | parts.nothing, 1, temperature)
    log_sum = at_temperature(peak, divisor) + parts.log_total
    return log_sum, jnp.isinf(log_sum) | (limit & (peak != 0))


Numbers: TypeAlias = tuple[Array, Array, Array, Array, Array]
"""The first five of `Parts`."""


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
@partial(jax.jit, static_argnums=(3, 4))
def _parts_of_label(
    logits: Array, temperature: Array | None, index: Array, along: Along, smooth: bool
) -> Numbers:
    peak, log_total, _ = normalizer_of(logits, temperature, along)
    at_label = shift(entry(logits, index, along), temperature, peak)
    # A compiler may have computed the label's logit and the largest one apart.
    cost = -jnp.minimum(at_label, 0)
    spread = _spread(logits, temperature, peak, along) if smooth else jnp.zeros_like(peak)
    return peak, log_total, jnp.ones_like(peak), cost, spread


@partial(_parts_of_label.defjvp, symbolic_zeros=True)
def _parts_of_label_jvp(
    along: Along,
    smooth: bool,
    primals: tuple[Array, Array | None, Array],
    tangents: tuple[Array | SymbolicZero, Array | SymbolicZero | None, SymbolicZero],
) -> tuple[Numbers, Numbers]:
    logits, temperature, index = primals
    parts = _parts_of_label(logits, temperature, index, along, smooth)
    moved = widened(tangents[:2], parts[0].dtype)
    tangent = recomputed(partial(_tangents_of_label, along=along, smooth=smooth))
    return parts, tangent(logits, temperature, index, parts, moved)


def _tangents_of_label(
    x: Array,
    temperature: Array | None,
    index: Array,
    parts: Numbers,
    moved: tuple[Array | None, ...],
    along: Along,
    smooth: bool,
) -> Numbers:
    # dL = sum p dz, d(-z of the label) = -dz there
    tangents = partial(_tangents_of_label, along=along, smooth=smooth)
    parts = with_derivative(parts, (x, temperature, index), tangents)
    peak, log_total, _, _, spread = parts
    z = shift(x, temperature, peak)
    p, at_label = exp(z) * jnp.exp(-log_total), hits(z, index, along) & (z > -jnp.inf)
    of_logits, of_temperature = moved[:2]
    change = scaled_tangent(z, of_logits, of_temperature, (p != 0) | at_label)
    change = change * inverse(temperature)
    rest, at_sure, sure = _tangent_of_total(z, p, log_total, change, at_label, along)
    elsewhere = row_sum(jnp.where(at_label & ~sure, change, 0), along)
    of_spread = zero = jnp.zeros_like(peak)
    if smooth:
        of_spread = _spread_tangent(spread, x, temperature, (of_logits, of_temperature), along)
    return zero, rest + at_sure, zero, -(at_sure + elsewhere), of_spread


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
@partial(jax.jit, static_argnums=(3, 4))
def _parts_of_distribution(
    logits: Array, temperature: Array | None, target: Array, along: Along, smooth: bool
) -> Numbers:
    peak, log_total, _ = normalizer_of(logits, temperature, along)
    z = shift(logits, temperature, peak)
    weight = _weight(target, peak)
    mass = row_sum(weight, along)
    cost = row_sum(jnp.where(weight == 0, 0, weight * -z), along)
    spread = _spread(logits, temperature, peak, along) if smooth else jnp.zeros_like(peak)
    return peak, log_total, mass, cost, spread


@partial(_parts_of_distribution.defjvp, symbolic_zeros=True)
def _parts_of_distribution_jvp(
    along: Along,
    smooth: bool,
    primals: tuple[Array, Array | None, Array],
    tangents: tuple[Array | SymbolicZero, Array | SymbolicZero | None, Array | SymbolicZero],
) -> tuple[Numbers, Numbers]:
    logits, temperature, target = primals
    parts = _parts_of_distribution(logits, temperature, target, along, smooth)
    moved = (*widened(tangents[:2], parts[0].dtype), *drop_zeros(tangents[2:]))
    tangent = recomputed(partial(_tangents_of_distribution, along=along, smooth=smooth))
    return parts, tangent(logits, temperature, target, parts, moved)


def _tangents_of_distribution(
    x: Array,
    temperature: Array | None,
    target: Array,
    parts: Numbers,
    moved: tuple[Array | None, ...],
    along: Along,
    smooth: bool,
) -> Numbers:
    # dL = sum p dz, d sum t (-z) = -sum t dz - sum z dt
    tangents = partial(_tangents_of_distribution, along=along, smooth=smooth)
    parts = with_derivative(parts, (x, temperature, target), tangents)
    peak, log_total, _, _, spread = parts
    of_logits, of_temperature, of_target = moved
    z = shift(x, temperature, peak)
    absent = z == -jnp.inf
    p, weight = exp(z) * jnp.exp(-log_total), _weight(target, peak)
    change = scaled_tangent(z, of_logits, of_temperature, (p != 0) | (weight != 0))
    change = change * inverse(temperature)
    rest, at_sure, sure = _tangent_of_total(z, p, log_total, change, ~absent, along)
    elsewhere = row_sum((weight - sure.astype(weight.dtype)) * jnp.where(absent, 0, change), along)
    of_cost = -(at_sure + elsewhere)
    of_mass = of_spread = jnp.zeros_like(peak)
    if of_target is not None:
        of_weight = jnp.where(absent, 0, _weight(of_target, peak))
        of_mass = row_sum(of_weight, along)
        of_cost = of_cost - row_sum(of_weight * jnp.where(absent, 0, z), along)
    if smooth:
        of_spread = _spread_tangent(spread, x, temperature, (of_logits, of_temperature), along)
    return jnp.zeros_like(peak), rest + at_sure, of_mass, of_cost, of_spread


def _tangent_of_total(
    z: Array, p: Array, log_total: Array, change: Array, among: Array, along: Along
) -> tuple[Array, Array, Array]:
    """Compute dL = sum p dz in two parts: dz of an entry that holds most of the mass, the second.

    The cost has it too, if that entry is among its own: of the two a gradient takes the difference
    of two cotangents, before they are rounded. And where that entry is.
    """
    less, sure = less_one(z, p, log_total)
    sure &= among
    rest = row_sum(jnp.where(sure, less, p) * jnp.where(p == 0, 0, change), along)
    return rest, row_sum(jnp.where(sure, change, 0), along), sure


def _weight(target: Array, peak: Array) -> Array:
    """The target in the compute dtype, 0 in a row with nothing allowed."""
    return jnp.where(peak == -jnp.inf, 0, target.astype(peak.dtype))


def _count(logits: Array, along: Along) -> Array:
    """How many classes are allowed, at least one."""
    allowed = row_sum(logits > -jnp.inf, along)
    return jnp.maximum(allowed, 1).astype(compute_dtype(logits.dtype))


def _spread(logits: Array, temperature: Array | None, peak: Array, along: Along) -> Array:
    """Mean of -z over the allowed classes, which may be a float where -z overflows."""
    count, absent = _count(logits, along), logits == -jnp.inf
    if temperature is None:
        return row_sum(jnp.where(absent, 0, -shift(logits, count, peak)), along)
    # By T times their number, unless that might overflow in its place.
    low = temperature < 4
    z = shift(logits, jnp.where(low, temperature * count, temperature), peak)
    return row_sum(jnp.where(absent, 0, -z / jnp.where(low, 1, count)), along)


def _spread_tangent(
    spread: Array,
    logits: Array,
    temperature: Array | None,
    tangents: tuple[Array | None, ...],
    along: Along,
) -> Array:
    # It is a multiple of 1 / T, also where the z that it is made of are no floats.
    of_logits, of_temperature = tangents
    change = jnp.zeros_like(spread)
    if of_logits is not None:
        present = jnp.where(logits == -jnp.inf, 0, of_logits)
        change -= row_sum(present, along) / _count(logits, along)
    if of_temperature is not None:
        change -= jnp.where(jnp.isinf(spread), 0, spread) * of_temperature
    return change * inverse(temperature)
