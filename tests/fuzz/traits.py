"""What a function is, as its reference says: so that a new row of the registry need say nothing."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tests.reference import Row, cross_entropy_row, fenchel_young_row, log_softmax_row
from tests.registry import (
    LOSS,
    LOSS_OFF,
    ONE,
    REGISTRY,
    TEMPERATURE,
    Entry,
    second_class,
)
from tests.registry import cross_entropy_row as second_class_loss_row

Shape = Literal["simplex", "log", "scaled", "number", "mask", "token"]


@dataclasses.dataclass(frozen=True, eq=False)
class Fake(Entry):
    """An entry that is not in the registry."""

    call: Callable[..., Any] = lambda: None
    reverse_only: bool = False
    labelled: tuple[int, ...] = (1,)
    """The columns that are the label of a loss."""

    @property
    def function(self) -> Callable[..., Any]:
        return self.call


def from_linear(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of hidden states and a weight as one of logits [N, V]: the hidden state of each
    row is two halves, and its weight has the logits twice."""

    def of_logits(
        logits: Any, *, where: Any = None, axis_name: Any = None, **settings: Any
    ) -> jax.Array:
        x = jnp.asarray(logits)
        if where is not None:
            x = jnp.where(where, x, -jnp.inf)

        def of_row(row: jax.Array, numbers: dict[str, jax.Array]) -> jax.Array:
            # A shard holds at least two entries.
            label = jnp.int32(min(1, row.size - 1))
            hidden = jnp.full((2,), 0.5, row.dtype)
            weight = jnp.stack([row, row])
            return function(hidden, weight, label, axis_name=axis_name, **numbers)

        numbers = {name: jnp.broadcast_to(value, len(x)) for name, value in settings.items()}
        return jax.vmap(of_row)(x, numbers).astype(x.dtype)

    return of_logits


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


def second_log_prob_row(x: Row, where: Row, temperature: float = 1.0) -> float:
    return log_softmax_row(x, where, temperature)[min(1, x.size - 1)]


SOFT: dict[str, Callable[..., float]] = {
    "cross_entropy": lambda x, where, *settings: cross_entropy_row(
        x, where, soft_label(x.size), *settings
    ),
    "fenchel_young_loss": lambda x, where, *settings: fenchel_young_row(
        x, where, *settings, y=soft_label(x.size)
    ),
}
LINEAR = {
    "linear_cross_entropy": (second_class_loss_row, LOSS, LOSS_OFF),
    "linear_log_prob": (second_log_prob_row, TEMPERATURE, ONE),
}


def fuzzed(entry: Entry) -> list[Entry]:
    """The entry as it is fuzzed, over an axis of logits: one that has no such form is not."""
    if entry.kind == "linear":
        call = from_linear(entry.function)
        return [
            Fake(
                entry.name,
                "reduction",
                *LINEAR[entry.name],
                differentiable=True,
                call=call,
                reverse_only=True,
            )
        ]
    if entry.beside is second_class:
        soft = Fake(
            f"{entry.name}_of_soft_labels",
            entry.kind,
            SOFT[entry.name],
            entry.settings,
            entry.off,
            differentiable=entry.differentiable,
            call=of_soft_labels(entry.function),
            labelled=(0, 1),
        )
        return [entry, soft]
    return [entry] if "axis" in inspect.signature(entry.function).parameters else []


EVERY = tuple(form for entry in REGISTRY for form in fuzzed(entry))
(SCALE,) = (entry for entry in REGISTRY if entry.name == "temperature_scale")
(LOG_SOFTMAX,) = (entry for entry in REGISTRY if entry.name == "log_softmax")


@dataclasses.dataclass(frozen=True)
class Traits:
    """What the properties ask about a function."""

    shape: Shape
    positive: bool
    """Whether the results are probabilities of which none is 0."""
    shift: int | None
    """By how much the result moves when the logits move by one; None: by something else."""
    upward: bool
    """Whether a mask keeps all that is larger than what it keeps."""
    growing: dict[str, bool]
    """Whether a mask grows with a setting, or shrinks."""
    idempotent: tuple[str, ...]
    """The settings that a mask can be applied with twice, as once."""
    axis: bool
    """Whether the axis may be chosen."""
    sharded: bool
    derivatives: bool
    """Whether it has some, in reverse mode at least; a log-probability has, of a draw."""
    forward: bool


def entrywise(traits: Traits) -> bool:
    """Whether there is a result for every entry."""
    return traits.shape in ("simplex", "log", "scaled", "mask")


QUIET = "z_loss"
"""The setting that makes a loss depend on a shift."""
PROBES = np.random.default_rng(0).normal(size=(60, 6)) * 2


def expected(entry: Entry, x: Any, where: Any = None, **settings: Any) -> Row:
    """The reference's result; of a mask what must be kept."""
    result = entry.expected(x, settings, where)
    return result[0] if isinstance(result, tuple) else result


@functools.cache
def traits(entry: Entry) -> Traits:
    """Probe the reference with ordinary rows."""
    ordinary = entry.setting() | ({QUIET: 0.0} if QUIET in entry.settings else {})
    y = expected(entry, PROBES, **ordinary)
    moved = expected(entry, PROBES + 1, **ordinary) - y if y.dtype != bool else y * 0
    shift = next((by for by in (0, 1) if np.allclose(moved, by, atol=1e-9)), None)
    parameters = inspect.signature(entry.function).parameters
    mask = entry.kind == "mask"
    shape = _shape(entry, y)
    return Traits(
        shape=shape,
        positive=shape == "simplex" and bool((y > 0).all()),
        shift=shift,
        upward=mask and _is_upward(entry),
        growing={name: _grows(entry, name) for name in _cuts(entry) if mask},
        idempotent=tuple(name for name in _cuts(entry) if mask and _is_idempotent(entry, name)),
        axis="axis" in parameters,
        sharded="axis_name" in parameters,
        derivatives=entry.differentiable or entry.kind == "relaxed" or entry.pair,
        forward=not getattr(entry, "reverse_only", False),
    )


def _shape(entry: Entry, y: Row) -> Shape:
    if entry.kind in ("mask", "token"):
        return entry.kind
    if y.ndim == 1:
        return "number"
    if np.allclose(y.sum(-1), 1) and (y >= 0).all():
        return "simplex"
    return "log" if np.allclose(np.exp(y).sum(-1), 1) else "scaled"


def _cuts(entry: Entry) -> list[str]:
    return [name for name in entry.settings if name != "temperature"]


def _is_upward(entry: Entry) -> bool:
    for i in range(3):
        mask = expected(entry, PROBES, **entry.setting(i))
        least = np.where(mask, PROBES, np.inf).min(-1, keepdims=True)
        if (~mask & (least <= PROBES)).any():
            return False
    return True


def _alone(entry: Entry, name: str, value: float) -> dict[str, float]:
    """This setting, and the others off."""
    return {other: entry.off[other] for other in entry.settings} | {name: value}


def _grows(entry: Entry, name: str) -> bool:
    less, more = sorted(entry.settings[name][:2])
    sizes = [expected(entry, PROBES, **_alone(entry, name, value)).sum() for value in (less, more)]
    if sizes[0] == sizes[1]:
        raise ValueError(f"{entry.name}: the registry's values of {name} keep the same")
    return bool(sizes[1] > sizes[0])


def _is_idempotent(entry: Entry, name: str) -> bool:
    for value in entry.settings[name]:
        once = expected(entry, PROBES, **_alone(entry, name, value))
        if (expected(entry, PROBES, once, **_alone(entry, name, value)) != once).any():
            return False
    return True
