"""Calibration: a temperature that makes probabilities honest, and measures of how honest they are.

All functions take logits with the classes along the last axis, and the labels of held-out examples.
Every other axis is pooled. Probabilities p are logits too: pass ``jnp.log(p)``.
"""

import math
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax._checks import check_choice, check_count, check_flag, check_labels, check_rows
from jsoftmax._dtypes import compute_dtype
from jsoftmax._exact import unit_near
from jsoftmax._fit import fit, telling
from jsoftmax._label import hits
from jsoftmax._placement import everywhere, lie_as
from jsoftmax._reduce import group_sum, is_symbol, row_max
from jsoftmax._settings import check_setting, check_temperature
from jsoftmax._softmax import softmax
from jsoftmax._typing import Along, Setting
from jsoftmax._watch import unwatched, watch_rows

__all__ = [
    "ReliabilityCurve",
    "brier_score",
    "expected_calibration_error",
    "fit_temperature",
    "maximum_calibration_error",
    "reliability_curve",
]

Binning: TypeAlias = Literal["width", "mass"]

_ROWS = Along(1)


def fit_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: Setting | None = None,
    per_class: bool = False,
) -> Array:
    r"""The temperature at which the labels are most likely, given the logits.

    .. math:: T = \arg\min_T \sum_n w_n \Big(-\log \mathrm{softmax}(x_n / T)_{y_n}\Big)

    The sum is convex in 1 / T. A guarded Newton search finds its minimum, whatever the scale of the
    logits, in 1 to 7 steps as a rule, each of them a pass over the logits, and at most 100.

    Args:
      logits: real numbers of any shape with at least one dimension, the last of which holds the
        classes: those of held-out examples, not of the ones that the model was trained on.
      labels: integers of the batch shape (the logits' shape without the last axis).
      where: boolean, broadcasts to the logits' shape: True where a class is allowed. An example in
        which nothing is allowed is ignored.
      weights: how much each example counts: numbers >= 0 that broadcast to the batch shape. Traced.
        An example of weight 0 is ignored, whatever its logits and label hold.
      per_class: a temperature for each predicted class (the arg-max of the logits), from the
        examples in which it is predicted, as ``softmax(x, temperature=t[jnp.argmax(x, -1)])``
        wants it.

    Returns:
      A number, or with `per_class` an array with one for each class, in float32 (float64 for
      float64 logits). The likelihood is the largest there is, up to the rounding of that dtype.
      Differentiable in `logits` and `weights`, forwards and backwards, by the condition that holds
      at the minimum.

    Raises:
      TypeError: logits are not real numbers, labels not integers, or `where` is not boolean.
      ValueError: a shape that is not allowed, static weights that are negative or not finite, or
        static labels out of range.

    Edge cases: 0 where every label is among its row's largest logits (perfectly separable: no
    temperature above 0 is best); inf where the labels' logits are, on average, no larger than their
    rows' (no better than chance). `softmax` takes both. 1 where nothing tells temperatures apart:
    no examples, one class, equal logits in every row. All three have gradient 0. A class that is
    never predicted, or with nothing that tells temperatures apart, gets the temperature of all
    rows. A label that is not allowed costs inf at every temperature, and changes nothing. A traced
    label out of range, a traced weight that is negative or not finite, and a NaN or +inf logit make
    the result NaN.

    Source: Guo et al. (2017); Frenkel and Goldberger (2021) for a temperature for each class.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = 5 * jnp.eye(4)[jnp.array([0, 1, 2, 3, 0, 1, 2, 3])]
      >>> y = jnp.array([0, 1, 2, 3, 0, 1, 2, 0])  # sure of every answer, and one of eight is wrong
      >>> t = jsoftmax.calibration.fit_temperature(x, y)
      >>> print(t, jsoftmax.softmax(x, temperature=t)[0])
      1.6422937 [0.8749999  0.04166667 0.04166667 0.04166667]
      >>> print(jsoftmax.calibration.fit_temperature(x, y, per_class=True))
      [0.       0.       0.       4.551196]
    """
    function = "calibration.fit_temperature"
    per_class = check_flag(function, "per_class", per_class)
    examples = _examples(function, logits, labels, where, weights)
    return _fit_temperature(examples, per_class)


class ReliabilityCurve(NamedTuple):
    """How often the model is right, by how sure it is.

    A perfectly calibrated model has `accuracy` equal to `confidence` in every bin.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.log(jnp.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]))
      >>> curve = jsoftmax.calibration.reliability_curve(x, jnp.array([0, 0, 1, 0]), bins=4)
      >>> print(curve.confidence, curve.accuracy, curve.weight)
      [ nan  nan 0.65 0.85] [nan nan 0.5 1. ] [0.  0.  0.5 0.5]
    """

    edges: Array
    """[bins + 1], from 0 to 1: bin i holds the confidences in (edges[i], edges[i + 1]]."""
    confidence: Array
    """[bins], the weighted mean of the largest probability; NaN in an empty bin."""
    accuracy: Array
    """[bins], the weighted share of right predictions; NaN in an empty bin."""
    weight: Array
    """[bins], the bin's share of all weight; 0 in an empty bin."""


def reliability_curve(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: Setting = 1.0,
    where: ArrayLike | None = None,
    weights: Setting | None = None,
    bins: int = 15,
    binning: Binning = "width",
) -> ReliabilityCurve:
    r"""Accuracy and confidence of the examples in each bin of confidence: a reliability diagram.

    .. math:: \mathrm{conf}_n = \max_i p_{n i}, \quad p_n = \mathrm{softmax}(x_n / T)

    The prediction is the arg-max of the logits, the lowest index among ties.

    Args:
      logits: real numbers of any shape with at least one dimension, the last of which holds the
        classes.
      labels: integers of the batch shape (the logits' shape without the last axis).
      temperature: T >= 0, a number or an array that broadcasts to the batch shape. Traced.
      where: boolean, broadcasts to the logits' shape: True where a class is allowed. An example in
        which nothing is allowed is ignored.
      weights: how much each example counts: numbers >= 0 that broadcast to the batch shape. Traced.
        An example of weight 0 is ignored, whatever it holds.
      bins: how many, static.
      binning: ``"width"`` cuts (0, 1] into equal parts (i / n, (i + 1) / n]. ``"mass"`` cuts where
        the weight of the smaller and equal confidences reaches i / n of all, so that the bins hold
        about equal weight. Equal confidences are always in one bin, so that the order of the
        examples changes nothing; where many are equal, some bins are empty.

    Returns:
      A `ReliabilityCurve` in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits are not real numbers, labels not integers, `where` is not boolean, or `bins`
        is not an integer.
      ValueError: a shape, a static setting, `bins` or `binning` that is not allowed; static labels
        out of range.

    Edge cases: an empty bin has weight 0, and NaN for confidence and accuracy (where
    ``jax_debug_nans`` stops); without any example that counts, all bins are empty. A label that is
    not allowed is a wrong prediction. A traced label out of range, a traced weight or temperature
    that is not allowed, and a NaN or +inf logit make all but the edges NaN.

    Source: Niculescu-Mizil and Caruana (2005); Guo et al. (2017) for the bins.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.log(jnp.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]))
      >>> y = jnp.array([0, 0, 1, 0])
      >>> curve = jsoftmax.calibration.reliability_curve(x, y, bins=2, binning="mass")
      >>> print(curve.edges, curve.confidence, curve.accuracy, curve.weight)
      [0.  0.7 1. ] [0.65 0.85] [0.5 1. ] [0.5 0.5]
    """
    function = "calibration.reliability_curve"
    examples = _examples(function, logits, labels, where, weights, temperature)
    return _reliability_curve(examples, *_check_bins(function, bins, binning))


def expected_calibration_error(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: Setting = 1.0,
    where: ArrayLike | None = None,
    weights: Setting | None = None,
    bins: int = 15,
    binning: Binning = "width",
) -> Array:
    r"""How far accuracy and confidence are apart, in the mean over the examples: the ECE.

    .. math:: \sum_k \frac{W_k}{W} |\mathrm{acc}_k - \mathrm{conf}_k|

    with the bins k of `reliability_curve`, and W_k the weight of the examples in one.

    Args:
      logits: real numbers of any shape with at least one dimension, the last of which holds the
        classes.
      labels: integers of the batch shape (the logits' shape without the last axis).
      temperature: T >= 0, a number or an array that broadcasts to the batch shape. Traced.
      where: boolean, broadcasts to the logits' shape: True where a class is allowed. An example in
        which nothing is allowed is ignored.
      weights: how much each example counts: numbers >= 0 that broadcast to the batch shape. Traced.
        An example of weight 0 is ignored, whatever it holds.
      bins: how many, static. The error depends on it: compare errors of equal bins only.
      binning: ``"width"`` or ``"mass"``, as `reliability_curve`.

    Returns:
      A number between 0 and 1, in float32 (float64 for float64 logits). Its gradient is that of the
      bins as they are.

    Raises:
      TypeError: logits are not real numbers, labels not integers, `where` is not boolean, or `bins`
        is not an integer.
      ValueError: a shape, a static setting, `bins` or `binning` that is not allowed; static labels
        out of range.

    Edge cases: empty bins count nothing. NaN without any example that counts, and for what makes
    `reliability_curve` NaN.

    Source: Naeini, Cooper and Hauskrecht (2015); Guo et al. (2017). Nguyen and O'Connor (2015) for
    bins of equal mass.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.log(jnp.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]))
      >>> print(jsoftmax.calibration.expected_calibration_error(x, jnp.array([0, 0, 1, 0]), bins=4))
      0.15
    """
    function = "calibration.expected_calibration_error"
    examples = _examples(function, logits, labels, where, weights, temperature)
    return _expected_error(examples, *_check_bins(function, bins, binning))


def maximum_calibration_error(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: Setting = 1.0,
    where: ArrayLike | None = None,
    weights: Setting | None = None,
    bins: int = 15,
    binning: Binning = "width",
) -> Array:
    r"""How far accuracy and confidence are apart in the worst bin: the MCE.

    .. math:: \max_k |\mathrm{acc}_k - \mathrm{conf}_k|

    with the bins k of `reliability_curve` that are not empty. A bin with few examples has a large
    error by chance alone: bins of equal mass are the fairer ones here.

    Args:
      logits: real numbers of any shape with at least one dimension, the last of which holds the
        classes.
      labels: integers of the batch shape (the logits' shape without the last axis).
      temperature: T >= 0, a number or an array that broadcasts to the batch shape. Traced.
      where: boolean, broadcasts to the logits' shape: True where a class is allowed. An example in
        which nothing is allowed is ignored.
      weights: how much each example counts: numbers >= 0 that broadcast to the batch shape. Traced.
        An example of weight 0 is ignored, whatever it holds.
      bins: how many, static.
      binning: ``"width"`` or ``"mass"``, as `reliability_curve`.

    Returns:
      A number between 0 and 1, in float32 (float64 for float64 logits). Its gradient is that of the
      bins as they are.

    Raises:
      TypeError: logits are not real numbers, labels not integers, `where` is not boolean, or `bins`
        is not an integer.
      ValueError: a shape, a static setting, `bins` or `binning` that is not allowed; static labels
        out of range.

    Edge cases: as `expected_calibration_error`.

    Source: Naeini, Cooper and Hauskrecht (2015).

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.log(jnp.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]]))
      >>> print(jsoftmax.calibration.maximum_calibration_error(x, jnp.array([0, 0, 1, 0]), bins=4))
      0.3
    """
    function = "calibration.maximum_calibration_error"
    examples = _examples(function, logits, labels, where, weights, temperature)
    return _maximum_error(examples, *_check_bins(function, bins, binning))


def brier_score(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: Setting = 1.0,
    where: ArrayLike | None = None,
    weights: Setting | None = None,
) -> Array:
    r"""Mean squared distance of the probabilities from the labels, over all classes.

    .. math:: \frac{1}{W} \sum_n w_n \sum_i (p_{n i} - [i = y_n])^2, \quad
       p_n = \mathrm{softmax}(x_n / T)

    A proper score: it is least, in expectation, for the true probabilities. Between 0 and 2, as
    Brier defined it; for two classes twice the mean of (p - y)^2 that is also called by this name.

    Args:
      logits: real numbers of any shape with at least one dimension, the last of which holds the
        classes.
      labels: integers of the batch shape (the logits' shape without the last axis).
      temperature: T >= 0, a number or an array that broadcasts to the batch shape. Traced.
      where: boolean, broadcasts to the logits' shape: True where a class is allowed. An example in
        which nothing is allowed is ignored.
      weights: how much each example counts: numbers >= 0 that broadcast to the batch shape. Traced.
        An example of weight 0 is ignored, whatever it holds.

    Returns:
      A number between 0 and 2, in float32 (float64 for float64 logits), with gradients to `logits`,
      `temperature` and `weights`. A small score keeps its relative accuracy.

    Raises:
      TypeError: logits are not real numbers, labels not integers, or `where` is not boolean.
      ValueError: a shape or a static setting that is not allowed; static labels out of range.

    Edge cases: NaN without any example that counts. A label that is not allowed has probability 0.
    A traced label out of range, a traced weight or temperature that is not allowed, and a NaN or
    +inf logit make the result NaN.

    Source: Brier (1950).

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x = jnp.log(jnp.array([[0.9, 0.1], [0.3, 0.7]]))
      >>> print(jsoftmax.calibration.brier_score(x, jnp.array([0, 0])))
      0.49999997
    """
    examples = _examples("calibration.brier_score", logits, labels, where, weights, temperature)
    return _brier_score(examples)


class _Examples(NamedTuple):
    """Examples that passed the door; what is ignored has logits of -inf and weight 0."""

    logits: Array
    """[N, V] in the compute dtype, free of NaN and +inf."""
    label: Array
    """int32 [N]."""
    weight: Array
    """[N], the largest is near 1."""
    temperature: Array | None
    """[N]; None is one."""
    valid: Array
    """Whether the examples that count are free of errors."""


def _examples(
    function: str,
    logits: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    weights: Setting | None,
    temperature: Setting = 1.0,
) -> _Examples:
    # What an example of weight 0 holds is not looked at.
    with unwatched():
        rows = check_rows(function, logits, -1, where, None)
    shape = rows.logits.shape
    weight, heeded = None, None
    if weights is not None:
        weight = check_setting(function, "weights", weights, rows)
        heeded = _is_heeded(weight)
    checked = check_temperature(function, temperature, rows, heeded)
    rows = rows._replace(logits=watch_rows(function, "logits", rows.logits, rows.along, heeded))
    ignoring = _ignoring(where, weights, shape[:-1])
    label = check_labels(function, labels, rows, shape[-1], ignoring, heeded=heeded)
    return _pool(rows.logits, label, weight, checked)


@jax.jit
def _is_heeded(weight: Array) -> Array:
    return jnp.squeeze(weight != 0, -1)


@jax.jit
def _pool(
    logits: Array, label: Array, weight: Array | None, temperature: Array | None
) -> _Examples:
    """One row for each example; all but the logits have a last axis of size one or none."""
    if weight is None:
        weight = jnp.ones((), compute_dtype(logits.dtype))
    broken = jnp.isnan(row_max(logits, Along(logits.ndim - 1)))
    heeded = (weight != 0) & jnp.any(logits != -jnp.inf, axis=-1, keepdims=True)
    sound = (weight > 0) & (weight < jnp.inf) & (label >= 0) & ~broken
    if temperature is not None:
        sound &= temperature >= 0
    kept = heeded & sound
    spec = jax.typeof(logits).sharding.spec
    split = [axis for axis in range(logits.ndim - 1) if spec[axis]]

    def by_example(x: Array) -> Array:
        # What Explicit mesh axes split first: so the axes of the batch merge where they lie.
        in_front = jnp.moveaxis(x, split, range(len(split)))
        return in_front.reshape(math.prod(x.shape[:-1]), x.shape[-1])

    weight = by_example(jnp.where(kept, weight, 0))[:, 0]
    # By a power of two: not rounded, and its reciprocal is a float.
    unit = unit_near(lax.stop_gradient(jnp.max(weight, initial=0)))
    return _Examples(
        by_example(jnp.where(kept, logits.astype(weight.dtype), -jnp.inf)),
        by_example(lie_as(label, logits))[:, 0],
        weight * (1 / unit),
        None if temperature is None else by_example(jnp.where(kept, temperature, 1))[:, 0],
        jnp.all(~heeded | sound),
    )


def _ignoring(
    where: ArrayLike | None, weights: Setting | None, batch: tuple[int, ...]
) -> ArrayLike | None:
    """What says which labels are not looked at: `where`, and False for examples of weight 0.

    An array of jax is not looked into: then no label is an error that is known.
    """
    if weights is None:
        return where
    for given in (where, weights):
        if given is not None and not isinstance(given, int | float | np.ndarray | np.generic):
            return given
    counts = np.broadcast_to(np.asarray(weights) != 0, batch)[..., None]
    return counts if where is None else counts & np.asarray(where)


def _predicted(logits: Array) -> Array:
    """The class of the largest logit, the first of them, and 0 where there is none."""
    if logits.shape[1] == 0:
        return jnp.zeros(logits.shape[:1], jnp.int32)
    return jnp.argmax(logits, axis=1).astype(jnp.int32)


def _probabilities(examples: _Examples, index: Array) -> tuple[Array, Array]:
    """The probabilities of each row, and which of them is at its index."""
    temperature = 1.0 if examples.temperature is None else examples.temperature
    with unwatched():
        p = softmax(examples.logits, temperature=temperature)
    return p, hits(p, index[:, None], _ROWS)


@partial(jax.jit, static_argnums=1)
def _fit_temperature(examples: _Examples, per_class: bool) -> Array:
    x, label = examples.logits, examples.label
    weight = telling(x, label, examples.weight)
    temperature = fit(x, label, weight, None, 1)[0]
    classes = x.shape[1]
    if per_class and classes == 0:
        temperature = jnp.zeros(0, temperature.dtype)
    elif per_class:
        predicted = _predicted(x)
        known = group_sum(weight, predicted, classes) > 0
        temperature = jnp.where(known, fit(x, label, weight, predicted, classes), temperature)
    return jnp.where(examples.valid, temperature, jnp.nan)


@jax.jit
def _brier_score(examples: _Examples) -> Array:
    p, hit = _probabilities(examples, examples.label)
    others = jnp.where(hit, 0, p)
    # The sum of the others is one less the probability of the label, without the rounding.
    scores = jnp.sum(others * others, axis=1) + jnp.sum(others, axis=1) ** 2
    return _mean(examples, jnp.sum(examples.weight * scores))


def _mean(examples: _Examples, total: Array) -> Array:
    weight = jnp.sum(examples.weight)
    mean = total / jnp.where(weight > 0, weight, 1)
    return jnp.where(examples.valid & (weight > 0), mean, jnp.nan)


class _Binned(NamedTuple):
    """Sums over the examples of each bin."""

    edges: Array
    weight: Array
    confidence: Array
    right: Array
    excess: Array
    """Weight of the right predictions less confidence, which keeps its relative accuracy."""


def _check_bins(function: str, bins: int, binning: Binning) -> tuple[int, Binning]:
    bins = check_count(function, "bins", bins)
    check_choice(function, "binning", binning, ("width", "mass"))
    return bins, binning


@partial(jax.jit, static_argnums=(1, 2))
def _reliability_curve(examples: _Examples, bins: int, binning: Binning) -> ReliabilityCurve:
    binned = _binned(examples, bins, binning)
    filled = binned.weight > 0
    mass = jnp.where(filled, binned.weight, 1)
    total = jnp.sum(binned.weight)
    confidence = jnp.where(filled, binned.confidence / mass, jnp.nan)
    accuracy = jnp.where(filled, binned.right / mass, jnp.nan)
    weight = binned.weight / jnp.where(total > 0, total, 1)
    fields = (jnp.where(examples.valid, x, jnp.nan) for x in (confidence, accuracy, weight))
    return ReliabilityCurve(binned.edges, *fields)


@partial(jax.jit, static_argnums=(1, 2))
def _expected_error(examples: _Examples, bins: int, binning: Binning) -> Array:
    return _mean(examples, jnp.sum(jnp.abs(_binned(examples, bins, binning).excess)))


@partial(jax.jit, static_argnums=(1, 2))
def _maximum_error(examples: _Examples, bins: int, binning: Binning) -> Array:
    binned = _binned(examples, bins, binning)
    filled = binned.weight > 0
    errors = jnp.where(filled, jnp.abs(binned.excess) / jnp.where(filled, binned.weight, 1), 0)
    known = examples.valid & jnp.any(filled)
    return jnp.where(known, jnp.max(errors), jnp.nan)


def _binned(examples: _Examples, bins: int, binning: Binning) -> _Binned:
    predicted = _predicted(examples.logits)
    p, hit = _probabilities(examples, predicted)
    confidence = jnp.sum(jnp.where(hit, p, 0), axis=1)
    doubt = jnp.sum(jnp.where(hit, 0, p), axis=1)
    right = predicted == examples.label
    known, weight = everywhere(lax.stop_gradient(confidence)), examples.weight
    if binning == "mass":
        edges = _quantiles(known, everywhere(lax.stop_gradient(weight)), bins)
    else:
        edges = jnp.asarray(np.arange(bins + 1) / bins, known.dtype)
    sums = partial(group_sum, group=_bin_of(known, edges), count=bins)
    return _Binned(
        edges,
        sums(weight),
        sums(weight * confidence),
        sums(jnp.where(right, weight, 0)),
        sums(weight * jnp.where(right, doubt, -confidence)),
    )


def _bin_of(x: Array, edges: Array) -> Array:
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
    # Equal weights are ones, and 0.1, 0.2 and 0.3 are 1, 2 and 3: their sums are exact.
    multiples = weight / jnp.min(jnp.where(weight > 0, weight, jnp.inf))
    whole = jnp.all((multiples == jnp.round(multiples)) & (multiples < 2.0**20))
    weight = jnp.where(whole, multiples, weight)
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
