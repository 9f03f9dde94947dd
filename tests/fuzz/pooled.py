"""The functions of calibration, which pool examples: each is asked of two that one row makes.

They have one confidence, and so one bin: `test_calibration.py` has what is asked of the bins.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsoftmax import calibration, cross_entropy, entropy
from tests import reference
from tests.fuzz.fake import Fake, by_row
from tests.reference import Row
from tests.registry import ONE, TEMPERATURE

WEIGHTS = np.array([0.75, 0.25])
"""How much the two count."""


def two_labels(size: int) -> Row:
    """The second class, and the first."""
    return np.array([min(1, size - 1), 0])


def twice(row: jax.Array, where: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The logits of the two, and their mask and weights."""
    weights = jnp.asarray(WEIGHTS, row.dtype)
    return jnp.stack([row, row]), {"where": jnp.stack([where, where]), "weights": weights}


# --- scores and errors -----------------------------------------------------------------------


def of_two_labels(function: Callable[..., Any]) -> Callable[..., Any]:
    def of_row(row: jax.Array, where: jax.Array, **heat: Any) -> jax.Array:
        x, more = twice(row, where)
        return function(x, jnp.asarray(two_labels(row.size), jnp.int32), **more, **heat)

    return by_row(of_row)


def right_and_wrong(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of examples of which the first is predicted right: it does not jump where two classes are
    about equal."""

    def of_row(row: jax.Array, where: jax.Array, **heat: Any) -> jax.Array:
        first = jnp.argmax(jnp.where(where, row, -jnp.inf)).astype(jnp.int32)
        second = jnp.minimum(jnp.where(first == 0, 1, 0), row.size - 1)
        x, more = twice(row, where)
        return function(x, jnp.stack([first, second]), **more, **heat)

    return by_row(of_row)


def brier_row(x: Row, where: Row, temperature: float = 1.0) -> float:
    p = reference.softmax_row(x, where, temperature)
    if not reference.allowed_row(x, where).any():
        return np.nan
    distances = ((p - np.eye(x.size)[two_labels(x.size)]) ** 2).sum(-1)
    return float(WEIGHTS @ distances)


def error_row(x: Row, where: Row, temperature: float = 1.0) -> float:
    p = reference.softmax_row(x, where, temperature)
    if not reference.allowed_row(x, where).any():
        return np.nan
    return float(np.abs((1.0 if x.size == 1 else WEIGHTS[0]) - p.max()))


# --- the fitted temperature ------------------------------------------------------------------


def at_the_fitted_temperature(row: jax.Array, where: jax.Array) -> jax.Array:
    """The loss there, and how far that is from the entropy: not at all, where the loss is least.

    Both are well-conditioned where the temperature itself is not. An example whose label is not
    allowed has no loss here: it changes nothing.
    """
    labels = jnp.asarray(two_labels(row.size), jnp.int32)
    x, more = twice(row, where)
    temperature = calibration.fit_temperature(x, labels, **more)
    x = x.astype(temperature.dtype)
    settings = {"where": more["where"], "temperature": temperature}
    losses = cross_entropy(x, labels, **settings)
    weights = jnp.where(losses == jnp.inf, 0, jnp.asarray(WEIGHTS, x.dtype))
    loss = jnp.sum(weights * jnp.where(losses == jnp.inf, 0, losses))
    return loss + jnp.abs(loss - jnp.sum(weights * entropy(x, **settings)))


def least_loss_row(x: Row, where: Row) -> float:
    """The loss is convex in 1 / T: it is least at its root, or at one of the ends."""
    if reference.broken_row(x, where):
        return np.nan
    live, labels = reference.allowed_row(x, where), two_labels(x.size)
    weights = np.where(live[labels], WEIGHTS, 0)
    if not weights.any():
        return 0.0
    both, given = np.stack([x, x]), (np.stack([where, where]), weights)
    inside = reference.fit_temperature(both, labels, *given)
    losses = [reference.mean_nll(both, labels, t, *given) for t in (0.0, inside, np.inf)]
    return float(min(losses) * weights.sum())


# --- all of them -----------------------------------------------------------------------------


def heated(name: str, row: Callable[..., float], call: Callable[..., Any], **more: Any) -> Fake:
    return Fake(name, "reduction", row, TEMPERATURE, ONE, differentiable=True, call=call, **more)


CALIBRATION = (
    # Its derivatives have the scale of the logits: `test_calibration.py` has those.
    Fake(
        "fit_temperature",
        "reduction",
        least_loss_row,
        labelled=(0, 1),
        call=by_row(at_the_fitted_temperature),
    ),
    heated("brier_score", brier_row, of_two_labels(calibration.brier_score), labelled=(0, 1)),
    heated(
        "expected_calibration_error",
        error_row,
        right_and_wrong(calibration.expected_calibration_error),
    ),
    heated(
        "maximum_calibration_error",
        error_row,
        right_and_wrong(functools.partial(calibration.maximum_calibration_error, binning="mass")),
    ),
)
