"""Calibration: a temperature that makes probabilities honest, and measures of how honest they are.

All functions take logits with the classes along the last axis, and the labels of held-out examples.
Every other axis is pooled. Probabilities p are logits too: pass ``jnp.log(p)``.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax._bins import Binning, binned_by
from jsoftmax._checks import check_choice, check_count, check_flag
from jsoftmax._examples import Examples, check_examples, predicted_class, probabilities_at
from jsoftmax._fit import fit, telling
from jsoftmax._groups import group_sum
from jsoftmax._typing import Setting

__all__ = [
    "ReliabilityCurve",
    "brier_score",
    "expected_calibration_error",
    "fit_temperature",
    "maximum_calibration_error",
    "reliability_curve",
]


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
      TypeError: logits or weights are not real numbers, labels not integers, or `where` is not
        boolean.
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
    examples = check_examples(function, logits, labels, where, weights)
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
      TypeError: logits or a setting are not real numbers, labels not integers, `where` is not
        boolean, or `bins` is not an integer.
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
    examples = check_examples(function, logits, labels, where, weights, temperature)
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
      TypeError: logits or a setting are not real numbers, labels not integers, `where` is not
        boolean, or `bins` is not an integer.
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
    examples = check_examples(function, logits, labels, where, weights, temperature)
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
      TypeError: logits or a setting are not real numbers, labels not integers, `where` is not
        boolean, or `bins` is not an integer.
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
    examples = check_examples(function, logits, labels, where, weights, temperature)
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
      TypeError: logits or a setting are not real numbers, labels not integers, or `where` is not
        boolean.
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
    examples = check_examples(
        "calibration.brier_score", logits, labels, where, weights, temperature
    )
    return _brier_score(examples)


@partial(jax.jit, static_argnums=1)
def _fit_temperature(examples: Examples, per_class: bool) -> Array:
    x, label = examples.logits, examples.label
    weight = telling(x, label, examples.weight)
    temperature = fit(x, label, weight, None, 1)[0]
    classes = x.shape[1]
    if per_class and classes == 0:
        temperature = jnp.zeros(0, temperature.dtype)
    elif per_class:
        predicted = predicted_class(x)
        known = group_sum(weight, predicted, classes) > 0
        temperature = jnp.where(known, fit(x, label, weight, predicted, classes), temperature)
    return jnp.where(examples.valid, temperature, jnp.nan)


@jax.jit
def _brier_score(examples: Examples) -> Array:
    p, hit = probabilities_at(examples, examples.label)
    others = jnp.where(hit, 0, p)
    # The sum of the others is one less the probability of the label, without the rounding.
    scores = jnp.sum(others * others, axis=1) + jnp.sum(others, axis=1) ** 2
    return _mean(examples, jnp.sum(examples.weight * scores))


def _mean(examples: Examples, total: Array) -> Array:
    weight = jnp.sum(examples.weight)
    mean = total / jnp.where(weight > 0, weight, 1)
    return jnp.where(examples.valid & (weight > 0), mean, jnp.nan)


def _check_bins(function: str, bins: int, binning: Binning) -> tuple[int, Binning]:
    bins = check_count(function, "bins", bins)
    check_choice(function, "binning", binning, ("width", "mass"))
    return bins, binning


@partial(jax.jit, static_argnums=(1, 2))
def _reliability_curve(examples: Examples, bins: int, binning: Binning) -> ReliabilityCurve:
    binned = binned_by(examples, bins, binning)
    filled = binned.weight > 0
    mass = jnp.where(filled, binned.weight, 1)
    total = jnp.sum(binned.weight)
    confidence = jnp.where(filled, binned.confidence / mass, jnp.nan)
    accuracy = jnp.where(filled, binned.right / mass, jnp.nan)
    weight = binned.weight / jnp.where(total > 0, total, 1)
    fields = (jnp.where(examples.valid, x, jnp.nan) for x in (confidence, accuracy, weight))
    return ReliabilityCurve(binned.edges, *fields)


@partial(jax.jit, static_argnums=(1, 2))
def _expected_error(examples: Examples, bins: int, binning: Binning) -> Array:
    return _mean(examples, jnp.sum(jnp.abs(binned_by(examples, bins, binning).excess)))


@partial(jax.jit, static_argnums=(1, 2))
def _maximum_error(examples: Examples, bins: int, binning: Binning) -> Array:
    binned = binned_by(examples, bins, binning)
    filled = binned.weight > 0
    errors = jnp.where(filled, jnp.abs(binned.excess) / jnp.where(filled, binned.weight, 1), 0)
    known = examples.valid & jnp.any(filled)
    return jnp.where(known, jnp.max(errors), jnp.nan)
