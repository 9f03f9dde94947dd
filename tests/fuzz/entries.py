"""What is fuzzed: each function of the registry as one of logits [.., V], and what pools its rows.

A new row of the registry is among them without being asked.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsoftmax import OnlineSoftmax, calibration, cross_entropy
from tests import reference
from tests.reference import Row, cross_entropy_row, fenchel_young_row, log_softmax_row
from tests.registry import LOSS, LOSS_OFF, ONE, REGISTRY, TEMPERATURE, Entry
from tests.registry import cross_entropy_row as second_class_loss_row


@dataclasses.dataclass(frozen=True, eq=False)
class Fake(Entry):
    """An entry that is not in the registry."""

    call: Callable[..., Any] = lambda: None

    @property
    def function(self) -> Callable[..., Any]:
        return self.call


def by_row(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one row, its mask and its numbers as one of logits [N, V]."""

    def of_logits(logits: Any, *, where: Any = None, **settings: Any) -> jax.Array:
        x = jnp.asarray(logits)
        where = jnp.broadcast_to(jnp.asarray(True if where is None else where), x.shape)
        numbers = {name: jnp.broadcast_to(value, len(x)) for name, value in settings.items()}
        return jax.vmap(lambda row, allowed, numbers: function(row, allowed, **numbers))(
            x, where, numbers
        ).astype(x.dtype)

    return of_logits


# --- hidden states and a weight --------------------------------------------------------------


def from_linear(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of hidden states and a weight as one of logits: the hidden state of each row is
    two halves, and its weight has the logits twice."""

    def of_logits(logits: Any, *, axis_name: Any = None, **keywords: Any) -> jax.Array:
        def of_row(row: jax.Array, where: jax.Array, **numbers: jax.Array) -> jax.Array:
            # A shard holds at least two entries.
            label = jnp.int32(min(1, row.size - 1))
            row = jnp.where(where, row, -jnp.inf)
            hidden = jnp.full((2,), 0.5, row.dtype)
            weight = jnp.stack([row, row])
            return function(hidden, weight, label, axis_name=axis_name, **numbers)

        return by_row(of_row)(logits, **keywords)

    return of_logits


def second_log_prob_row(x: Row, where: Row, temperature: float = 1.0) -> float:
    return log_softmax_row(x, where, temperature)[min(1, x.size - 1)]


LINEAR = {
    "linear_cross_entropy": (second_class_loss_row, LOSS, LOSS_OFF),
    "linear_log_prob": (second_log_prob_row, TEMPERATURE, ONE),
}


# --- soft labels -----------------------------------------------------------------------------


def of_soft_labels(function: Callable[..., Any]) -> Callable[..., Any]:
    """A loss of labels as one of logits, with a distribution over the first two classes."""

    def of_logits(
        logits: Any, *, axis: int = -1, axis_name: Any = None, **keywords: Any
    ) -> jax.Array:
        x = jnp.asarray(logits)
        place = axis % x.ndim
        labels = jnp.asarray(soft_label(x.shape[place]), x.dtype)
        if axis_name is not None:
            # The first shard holds both.
            labels *= jnp.asarray(jax.lax.axis_index(axis_name) == 0, x.dtype)
        labels = jnp.expand_dims(labels, [other for other in range(x.ndim) if other != place])
        labels = jnp.broadcast_to(labels, x.shape)
        return function(x, labels, axis=axis, axis_name=axis_name, **keywords)

    return of_logits


def soft_label(size: int) -> Row:
    """A quarter and three quarters, in so many classes."""
    return np.ones(1) if size == 1 else np.pad([0.25, 0.75], (0, size - 2))


SOFT: dict[str, Callable[..., float]] = {
    "cross_entropy": lambda x, where, *settings: cross_entropy_row(
        x, where, soft_label(x.size), *settings
    ),
    "fenchel_young_loss": lambda x, where, *settings: fenchel_young_row(
        x, where, *settings, y=soft_label(x.size)
    ),
}


# --- calibration -----------------------------------------------------------------------------

WEIGHTS = np.array([0.75, 0.25])
"""Each row is two examples that count so much."""


def two_labels(size: int) -> Row:
    """The second class, and the first."""
    return np.array([min(1, size - 1), 0])


def measured(function: Callable[..., Any]) -> Callable[..., Any]:
    """A score of the two examples that a row makes, of two labels."""

    def of_row(row: jax.Array, where: jax.Array, **heat: Any) -> jax.Array:
        labels = jnp.asarray(two_labels(row.size), jnp.int32)
        return pooled(function, row, where, labels, **heat)

    return by_row(of_row)


def right_and_wrong(function: Callable[..., Any]) -> Callable[..., Any]:
    """An error of the two examples that a row makes, of which the first is predicted right: it does
    not jump where two classes are about equal."""

    def of_row(row: jax.Array, where: jax.Array, **heat: Any) -> jax.Array:
        first = jnp.argmax(jnp.where(where, row, -jnp.inf)).astype(jnp.int32)
        second = jnp.minimum(jnp.where(first == 0, 1, 0), row.size - 1)
        return pooled(function, row, where, jnp.stack([first, second]), **heat)

    return by_row(of_row)


def pooled(
    function: Callable[..., Any], row: jax.Array, where: jax.Array, labels: jax.Array, **more: Any
) -> jax.Array:
    x, where = jnp.stack([row, row]), jnp.stack([where, where])
    return function(x, labels, where=where, weights=jnp.asarray(WEIGHTS, row.dtype), **more)


def at_the_fitted_temperature(row: jax.Array, where: jax.Array) -> jax.Array:
    """The loss there, which is well-conditioned where the temperature itself is not."""
    labels = jnp.asarray(two_labels(row.size), jnp.int32)
    temperature = pooled(calibration.fit_temperature, row, where, labels)
    x, where = jnp.stack([row, row]), jnp.stack([where, where])
    x = x.astype(temperature.dtype)
    losses = cross_entropy(x, labels, where=where, temperature=temperature)
    return jnp.sum(losses * jnp.asarray(WEIGHTS, losses.dtype))


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


def least_loss_row(x: Row, where: Row) -> float:
    """The loss is convex in 1 / T: it is least at its root, or at one of the ends."""
    both, labels = np.stack([x, x]), two_labels(x.size)
    given = np.stack([where, where]), WEIGHTS
    if reference.broken_row(x, where):
        return np.nan
    if not reference.allowed_row(x, where).any():
        return 0.0
    inside = reference.fit_temperature(both, labels, *given)
    return min(reference.mean_nll(both, labels, t, *given) for t in (0.0, inside, np.inf))


def calibrations() -> list[Entry]:
    """The functions that pool examples, each over the two that a row makes."""
    heated = functools.partial(
        Fake, kind="reduction", settings=TEMPERATURE, off=ONE, differentiable=True
    )
    errors = {
        "expected_calibration_error": "width",
        "maximum_calibration_error": "mass",
    }
    return [
        # Its derivatives have the scale of the logits: `test_calibration.py` has those.
        Fake(
            "fit_temperature",
            kind="reduction",
            row=least_loss_row,
            call=by_row(at_the_fitted_temperature),
            labelled=(0, 1),
        ),
        heated(
            "brier_score", row=brier_row, call=measured(calibration.brier_score), labelled=(0, 1)
        ),
        *(
            heated(
                name,
                row=error_row,
                call=right_and_wrong(
                    functools.partial(getattr(calibration, name), binning=binning)
                ),
            )
            for name, binning in errors.items()
        ),
    ]


# --- blocks that come one after the other ----------------------------------------------------


def in_three_blocks(x: jax.Array, where: Any) -> OnlineSoftmax:
    """The state after three blocks of a row, with values that are one-hot."""
    size = x.shape[-1]
    values = jnp.eye(size, dtype=jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    first, *others = (slice(size * i // 3, size * (i + 1) // 3) for i in range(3))
    where = jnp.broadcast_to(jnp.asarray(True if where is None else where), x.shape)
    state = OnlineSoftmax.of(x[..., first], values[first], where=where[..., first])
    for block in others:
        state = state.update(x[..., block], values[block], where=where[..., block])
    return state


def finished(logits: Any, *, where: Any = None) -> jax.Array:
    """The weights themselves; where they are allowed, as a broken row is NaN throughout."""
    x = jnp.asarray(logits)
    p = in_three_blocks(x, where).finish()
    return (p if where is None else jnp.where(where, p, 0)).astype(x.dtype)


def summed(logits: Any, *, where: Any = None) -> jax.Array:
    x = jnp.asarray(logits)
    return in_three_blocks(x, where).logsumexp().astype(x.dtype)


ONLINE = (
    Fake(
        "OnlineSoftmax",
        "map",
        reference.softmax_row,
        differentiable=True,
        alike=False,
        call=finished,
    ),
    Fake(
        "OnlineSoftmax_logsumexp",
        "reduction",
        reference.logsumexp_row,
        differentiable=True,
        call=summed,
    ),
)


# --- all of them -----------------------------------------------------------------------------


def fuzzed(entry: Entry) -> list[Entry]:
    """The entry as it is fuzzed, over an axis of logits: one that has no such form is not."""
    if entry.kind == "linear":
        row, settings, off = LINEAR[entry.name]
        return [
            Fake(
                entry.name,
                "reduction",
                row,
                settings,
                off,
                differentiable=True,
                forward=False,
                labelled=(1,),
                call=from_linear(entry.function),
            )
        ]
    if entry.name in SOFT:
        soft = Fake(
            f"{entry.name}_of_soft_labels",
            entry.kind,
            SOFT[entry.name],
            entry.settings,
            entry.off,
            differentiable=entry.differentiable,
            labelled=(0, 1),
            call=of_soft_labels(entry.function),
        )
        return [entry, soft]
    return [entry] if "axis" in inspect.signature(entry.function).parameters else []


EVERY = (*(form for entry in REGISTRY for form in fuzzed(entry)), *calibrations(), *ONLINE)
(SCALE,) = (entry for entry in REGISTRY if entry.name == "temperature_scale")
(LOG_SOFTMAX,) = (entry for entry in REGISTRY if entry.name == "log_softmax")
