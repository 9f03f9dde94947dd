"""Assertions against the reference, with the tolerances in one place."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from tests.reference import Bounds, Row


def eps(dtype: object) -> float:
    """Machine epsilon of a float dtype, bfloat16 included."""
    return float(jnp.finfo(jnp.dtype(dtype)).eps)


def host(x: object) -> Row:
    """As a NumPy array: float64 for half precision, unchanged otherwise."""
    array = np.asarray(x)
    return array.astype(np.float64) if array.dtype.itemsize == 2 else array


def assert_close(
    got: jax.Array, want: Row, rtol: float | None = None, atol: float | None = None, label: str = ""
) -> None:
    """Equal up to rounding in the dtype of `got` (computed in float32 at least); NaN and inf in
    place."""
    chex.assert_shape(got, want.shape)
    dtype = got.dtype
    biggest = float(jnp.finfo(dtype).max)
    want = np.where(np.abs(want) > biggest, np.copysign(np.inf, want), want)
    computed = eps(dtype) if dtype == jnp.float64 else eps(jnp.float32)
    np.testing.assert_allclose(
        host(got),
        want,
        rtol=4 * eps(dtype) if rtol is None else rtol,
        atol=8 * computed if atol is None else atol,
        err_msg=label,
    )


def assert_mask(got: jax.Array, bounds: Bounds, labels: list[str] | None = None) -> None:
    """A boolean mask between what must and what may be kept; names the first row that is not."""
    must, may = bounds
    assert got.dtype == jnp.bool_, got.dtype
    chex.assert_shape(got, must.shape)
    mask = np.asarray(got)
    wrong = (must & ~mask) | (mask & ~may)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        row = where[:-1]
        name = labels[row[-1]] if labels and row else ""
        raise AssertionError(
            f"row {row} {name!r}, entry {where[-1]}: kept {bool(mask[where])}; the row keeps "
            f"{int(mask[row].sum())}, the reference {int(must[row].sum())} to {int(may[row].sum())}"
        )


def ulp(x: Row, dtype: object) -> Row:
    """The distance between neighbouring numbers of `dtype` at |x|, subnormal range included."""
    info = jnp.finfo(jnp.dtype(dtype))
    _, exponent = np.frexp(np.abs(np.where(np.isfinite(x), x, 1.0)))
    return np.ldexp(1.0, np.maximum(exponent - 1, info.minexp) - info.nmant)


def ulps_apart(got: jax.Array, exact: Row) -> Row:
    """How many units in the last place `got` is from `exact` correctly rounded to its dtype."""
    rounded = exact.astype(got.dtype).astype(np.float64)
    apart = np.zeros(exact.shape)
    finite = np.isfinite(rounded)
    actual = host(got).astype(np.float64)
    np.testing.assert_array_equal(actual[~finite], rounded[~finite])
    apart[finite] = np.abs(actual[finite] - rounded[finite]) / ulp(rounded[finite], got.dtype)
    return apart
