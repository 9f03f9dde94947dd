"""Labelled examples, as measures of calibration take them: checked, pooled, weighed."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax._checks import check_labels, check_rows
from jsoftmax._dtypes import compute_dtype
from jsoftmax._exact import unit_near
from jsoftmax._label import hits
from jsoftmax._placement import lie_as
from jsoftmax._reduce import row_max
from jsoftmax._settings import check_setting, check_temperature
from jsoftmax._softmax import softmax
from jsoftmax._typing import Along, Setting
from jsoftmax._watch import unwatched, watch_rows

_ROWS = Along(1)


class Examples(NamedTuple):
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


def check_examples(
    function: str,
    logits: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    weights: Setting | None,
    temperature: Setting = 1.0,
) -> Examples:
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
def _pool(logits: Array, label: Array, weight: Array | None, temperature: Array | None) -> Examples:
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
    return Examples(
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


def predicted_class(logits: Array) -> Array:
    """The class of the largest logit, the first of them, and 0 where there is none."""
    if logits.shape[1] == 0:
        return jnp.zeros(logits.shape[:1], jnp.int32)
    return jnp.argmax(logits, axis=1).astype(jnp.int32)


def probabilities_at(examples: Examples, index: Array) -> tuple[Array, Array]:
    """The probabilities of each row, and which of them is at its index."""
    temperature = 1.0 if examples.temperature is None else examples.temperature
    with unwatched():
        p = softmax(examples.logits, temperature=temperature)
    return p, hits(p, index[:, None], _ROWS)
