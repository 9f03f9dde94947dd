"""What is fuzzed: each function of the registry as one of logits [.., V], and the others made such.

A new row of the registry is among them without being asked.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsoftmax import OnlineSoftmax
from tests import reference
from tests.fuzz.fake import Fake, by_row
from tests.fuzz.pooled import CALIBRATION
from tests.fuzz.strategies import CAP, capped
from tests.reference import Row, cross_entropy_row, fenchel_young_row, log_softmax_row
from tests.registry import LOSS, LOSS_OFF, ONE, REGISTRY, TEMPERATURE, Entry
from tests.registry import cross_entropy_row as second_class_loss_row

# --- hidden states and a weight --------------------------------------------------------------


def from_linear(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of hidden states and a weight as one of logits: the hidden state of each row is
    two halves, and its weight has the logits twice."""

    def of_logits(logits: Any, *, axis_name: Any = None, **keywords: Any) -> jax.Array:
        def of_row(
            row: jax.Array, where: jax.Array, label: Any = None, **numbers: jax.Array
        ) -> jax.Array:
            if label is None:
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


LINEAR: dict[str, tuple[Callable[..., float], Any, Any]] = {
    "linear_cross_entropy": (second_class_loss_row, LOSS, LOSS_OFF),
    "linear_log_prob": (second_log_prob_row, TEMPERATURE, ONE),
}


def linear(entry: Entry) -> list[Entry]:
    """As it is, and with a cap of the logits."""
    row, settings, off = LINEAR[entry.name]

    def form(name: str, row: Callable[..., float], settings: Any, off: Any) -> Fake:
        return Fake(
            name,
            "reduction",
            row,
            settings,
            off,
            differentiable=True,
            forward=entry.forward,
            labelled=(1,),
            call=from_linear(entry.function),
        )

    def capped_row(x: Row, where: Row, *numbers: float) -> float:
        *others, cap = numbers
        return row(capped(x, cap), where, *others) if cap > 0 else np.nan

    settings_and_cap = settings | {CAP: (4.0, 30.0, 0.5)}
    return [
        form(entry.name, row, settings, off),
        form(f"{entry.name}_capped", capped_row, settings_and_cap, off | {CAP: np.inf}),
    ]


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


# --- blocks that come one after the other ----------------------------------------------------


def place_of(size: int, axis_name: Any) -> tuple[jax.Array | int, int]:
    """Where a shard of so many entries begins, and how many there are on all shards."""
    if axis_name is None:
        return 0, size
    return jax.lax.axis_index(axis_name) * size, jax.lax.axis_size(axis_name) * size


def in_three_blocks(x: jax.Array, where: Any, axis_name: Any) -> OnlineSoftmax:
    """The state after three blocks of a row, or of each shard of it, with values that are one-hot
    in the whole row."""
    size = x.shape[-1]
    start, whole = place_of(size, axis_name)
    dtype = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    values = jax.nn.one_hot(jnp.arange(size, dtype=jnp.int32) + start, whole, dtype=dtype)
    first, *others = (slice(size * i // 3, size * (i + 1) // 3) for i in range(3))
    where = jnp.broadcast_to(jnp.asarray(True if where is None else where), x.shape)
    state = OnlineSoftmax.of(x[..., first], values[first], where=where[..., first])
    for block in others:
        state = state.update(x[..., block], values[block], where=where[..., block])
    return state if axis_name is None else state.across(axis_name)


def finished(logits: Any, *, where: Any = None, axis_name: Any = None) -> jax.Array:
    """The weights themselves; where they are allowed, as a broken row is NaN throughout."""
    x = jnp.asarray(logits)
    p = in_three_blocks(x, where, axis_name).finish()
    start, _ = place_of(x.shape[-1], axis_name)
    p = jax.lax.dynamic_slice_in_dim(p, start, x.shape[-1], axis=-1)
    return (p if where is None else jnp.where(where, p, 0)).astype(x.dtype)


def summed(logits: Any, *, where: Any = None, axis_name: Any = None) -> jax.Array:
    x = jnp.asarray(logits)
    return in_three_blocks(x, where, axis_name).logsumexp().astype(x.dtype)


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
        return linear(entry)
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


BEYOND_FLOATS = {f"{name}_of_soft_labels" for name in SOFT} | {"fit_temperature"}
"""Of these z, or the temperature, may be no float where the result is one."""
EVERY = (*(form for entry in REGISTRY for form in fuzzed(entry)), *CALIBRATION, *ONLINE)
(SCALE,) = (entry for entry in REGISTRY if entry.name == "temperature_scale")
(LOG_SOFTMAX,) = (entry for entry in REGISTRY if entry.name == "log_softmax")
