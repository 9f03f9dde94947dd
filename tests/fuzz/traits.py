"""What a function is, as its reference says: so that a new row of the registry need say nothing."""

import dataclasses
import functools
import inspect
from typing import Any, Literal

import numpy as np

from tests.reference import Row
from tests.registry import Entry

Shape = Literal["simplex", "log", "scaled", "number", "mask", "token"]


@dataclasses.dataclass(frozen=True)
class Traits:
    """What the properties ask about a function."""

    shape: Shape
    positive: bool
    """Whether the results are probabilities of which none is 0."""
    shift: int | None
    """By how much the result moves when the logits move by one; None: by something else."""
    scale_free: bool
    """Whether the logits times a number have the same result: there is a temperature inside."""
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
    doubled = expected(entry, PROBES * 2, **ordinary)
    parameters = inspect.signature(entry.function).parameters
    mask = entry.kind == "mask"
    shape = _shape(entry, y)
    return Traits(
        shape=shape,
        positive=shape == "simplex" and bool((y > 0).all()),
        shift=shift,
        scale_free=shape == "number" and np.allclose(doubled, y),
        upward=mask and _is_upward(entry),
        growing={name: _grows(entry, name) for name in _cuts(entry) if mask},
        idempotent=tuple(name for name in _cuts(entry) if mask and _is_idempotent(entry, name)),
        axis="axis" in parameters,
        sharded="axis_name" in parameters,
        derivatives=entry.differentiable or entry.kind == "relaxed" or entry.pair,
        forward=entry.forward,
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
