"""What the values of a function say of its derivative: quotients of differences, that agree."""

from collections.abc import Callable

_STEPS = (2.0**-14, 2.0**-16, 2.0**-18)
_AGREE = 1e-5
"""Of its size: what quotients of different steps may differ by. Those of a jump grow as 1 / step,
those of a function that is rounded on the way are noise."""
_KINK = 1e-2
"""Likewise of one step forward and back, which differ by the curvature too."""
_FLAT = 1e-6
"""A slope below this, of its size, is none: that of a function that was rounded to a few values."""


def slope_at_zero(value: Callable[[float], float], size: float) -> float | None:
    """The derivative at 0 of a function computed in float64, which is said to be of this size.

    None where its values do not tell: beside a kink or a jump, on a plateau, where a rounding on
    the way is larger than what a step changes, or where they are not finite.
    """
    here = value(0.0)
    forward, back = ([(value(s * h) - here) / (s * h) for h in _STEPS] for s in (1, -1))
    central = [(a + b) / 2 for a, b in zip(forward, back, strict=True)]
    found = central[-1]
    size = max(size, abs(found))
    settled = max(central) - min(central) <= _AGREE * size
    smooth = all(abs(a - b) <= _KINK * size for a, b in zip(forward, back, strict=True))
    return found if settled and smooth and abs(found) > _FLAT * size else None
