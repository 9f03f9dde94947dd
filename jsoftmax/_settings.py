"""The door of settings: numbers, or one per row, each in the range that its name has.

A static number out of its range raises; one that is only known at run time makes its row NaN.
"""

import math
from functools import partial
from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax._checks import Rows, as_array, check_batch, heeded_rows, unbounded
from jsoftmax._placement import lie_as
from jsoftmax._typing import Setting
from jsoftmax._watch import Values, watch_values, watching

_ALLOWED = {
    "temperature": "a number >= 0 (0 is the arg-max limit, inf is uniform)",
    "k": "a whole number (k <= 0 or k >= the size of the axis is off)",
    "p": "a number (p <= 0 keeps the mode, p >= 1 is off)",
    "min_p": "a number (min_p <= 0 is off)",
    "mass": "a number (mass >= 1 is off)",
    "epsilon": "a number (epsilon <= 0 is off)",
    "n": "a number (n <= 0 is off)",
    "alpha": "a number in [1, 4] (1 is softmax, 2 is sparsemax)",
    "label_smoothing": "a number in [0, 1] (0 is off)",
    "z_loss": "a finite number >= 0 (0 is off)",
    "logit_softcap": "a number > 0 and no denormal (None and inf are off)",
    "weights": "finite numbers >= 0 (0 ignores the example)",
}
_LARGEST = float(np.finfo(np.float64).max)
_RANGES = {
    "temperature": (0.0, np.inf),
    "alpha": (1.0, 4.0),
    "label_smoothing": (0.0, 1.0),
    "z_loss": (0.0, _LARGEST),
    "logit_softcap": (0.0, np.inf),
    "weights": (0.0, _LARGEST),
}
"""Where a number may lie; elsewhere it is an error. The others may lie anywhere."""
_SHARES = ("p", "min_p", "mass", "epsilon")
_MEANT = _RANGES | dict.fromkeys(_SHARES, (0.0, 1.0))
"""Where a number is when it is meant: it is an error elsewhere for `checked`."""


class Settings(NamedTuple):
    """Checked settings of a truncation, in the compute dtype; None is off."""

    temperature: Array | None = None
    top_k: Array | None = None
    top_p: Array | None = None
    min_p: Array | None = None

    @property
    def truncate(self) -> bool:
        """Whether one of them may drop an entry."""
        return any(setting is not None for setting in self[1:])


def check_setting(
    function: str, argument: str, value: Setting, rows: Rows, heeded: Array | None = None
) -> Array:
    """Convert to the compute dtype and to a shape that broadcasts against the logits.

    A setting has the batch shape (the logits' shape without the row's axis) or broadcasts to it.
    `checked` ignores it in the rows that are not `heeded`, or have nothing allowed.
    """
    value = unbounded(value)
    array = as_array(function, argument, value)
    if not jnp.issubdtype(array.dtype, jnp.floating) and not jnp.issubdtype(
        array.dtype, jnp.integer
    ):
        raise TypeError(f"{function}: {argument} must be real numbers, got dtype {array.dtype}")
    if isinstance(value, int | float | np.ndarray | np.generic):
        _check_static(function, argument, np.asarray(value), rows.compute_dtype)
    check_batch(function, argument, array.shape, rows.batch, of_hidden=rows.of_hidden)
    name = argument.removeprefix("top_")
    if watching():
        # Not of `rows`: the program that is checked keeps the function, and would keep a tracer.
        dtype = rows.compute_dtype
        array = watch_values(
            function,
            argument,
            array,
            lambda x: _refused(name, x, _MEANT, dtype),
            _meant(name),
            heeded_rows(rows, heeded),
            instead=1,
        )
    array = array.reshape((1,) * (len(rows.batch) - array.ndim) + array.shape)
    return lie_as(jnp.expand_dims(array, rows.along.axis).astype(rows.compute_dtype), rows.logits)


def check_settings(
    function: str,
    temperature: Setting,
    top_k: Setting | None,
    top_p: Setting | None,
    min_p: Setting | None,
    rows: Rows,
) -> Settings:
    """Check the settings that `truncation_mask` and the samplers share."""

    def check(argument: str, value: Setting | None) -> Array | None:
        return None if value is None else check_setting(function, argument, value, rows)

    return Settings(
        check_temperature(function, temperature, rows),
        check("top_k", top_k),
        check("top_p", top_p),
        check("min_p", min_p),
    )


def _is_static(value: Setting, *numbers: float) -> TypeGuard[float]:
    """Whether it is one of these as a Python number, which has a program of its own.

    NumPy's float64 is a Python number, too.
    """
    return isinstance(value, int | float) and type(value) is not bool and value in numbers


def check_temperature(
    function: str, temperature: Setting, rows: Rows, heeded: Array | None = None
) -> Array | None:
    """A temperature as `check_setting`: None for the Python number one, NaN where negative.

    The negative zero becomes the other: it has no reciprocal that is a temperature's.
    """
    if _is_static(temperature, 1):
        return None
    array = check_setting(function, "temperature", temperature, rows, heeded)
    return _or_nan(_positive_zero(array), 0, math.inf)


def check_alpha(function: str, alpha: Setting, rows: Rows) -> Array | float:
    """The Python numbers 1, 1.5 and 2 as they are; else as `check_setting`, NaN outside [1, 4]."""
    if _is_static(alpha, 1, 1.5, 2):
        return float(alpha)
    array = check_setting(function, "alpha", alpha, rows)
    return _or_nan(array, 1, 4)


def check_fraction(function: str, argument: str, value: Setting, rows: Rows) -> Array | None:
    """A setting in [0, 1]: None for the Python number zero, NaN where it is outside."""
    if _is_static(value, 0):
        return None
    array = check_setting(function, argument, value, rows)
    return _or_nan(array, 0, 1)


def check_weight(function: str, argument: str, value: Setting, rows: Rows) -> Array | None:
    """A setting in [0, inf): None for the Python number zero, NaN where it is outside."""
    if _is_static(value, 0):
        return None
    array = check_setting(function, argument, value, rows)
    return _or_nan(array, 0, float(jnp.finfo(array.dtype).max))


def check_softcap(function: str, value: Setting, rows: Rows) -> Array:
    """A setting above 0: NaN where it is not."""
    return _positive(check_setting(function, "logit_softcap", value, rows))


# Programs, as in `_checks`: an operation on its own would bring its constant to the device.


@partial(jax.jit, static_argnums=(1, 2), inline=True)
def _or_nan(x: Array, least: float, most: float) -> Array:
    """The numbers from `least` to `most`, and NaN for the others."""
    return jnp.where((x >= least) & (x <= most), x, jnp.nan)


@partial(jax.jit, inline=True)
def _positive(x: Array) -> Array:
    """The numbers above 0, and NaN for the others."""
    return jnp.where(x > 0, x, jnp.nan)


@partial(jax.jit, inline=True)
def _positive_zero(x: Array) -> Array:
    return jnp.where(x == 0, 0, x)


def _check_static(function: str, argument: str, value: np.ndarray, dtype: np.dtype) -> None:
    name = argument.removeprefix("top_")
    # As it is, and as it is computed with: denormals are flushed to zero.
    with np.errstate(over="ignore"):
        rounded = value.astype(dtype)
    flushed = np.where(np.abs(rounded) < np.finfo(dtype).tiny, 0, rounded)
    bad = _refused(name, value, _RANGES, dtype) | _refused(name, flushed, _RANGES, dtype)
    if bad.any():
        shown = value[bad].flat[0] if value.ndim else value[()]
        raise ValueError(f"{function}: {argument} must be {_ALLOWED[name]}, got {argument}={shown}")


def _refused(
    name: str, value: Values, ranges: dict[str, tuple[float, float]], dtype: np.dtype
) -> Values:
    """Which of the numbers are NaN, or not what the setting of this name may be in this dtype."""
    as_float = value.astype(np.float64)
    least, most = ranges.get(name, (-np.inf, np.inf))
    bad = ~((as_float >= least) & (as_float <= most))
    if name == "k":
        bad |= np.isfinite(as_float) & (as_float != np.floor(as_float))
    if name == "logit_softcap":
        # Not compared with 0: where the host computes for a program, denormals equal that.
        bad |= as_float < float(np.finfo(dtype).tiny)
    return bad


def _meant(name: str) -> str:
    return "in [0, 1]" if name in _SHARES else _ALLOWED[name]
