"""Which dtype a result is computed in, and what it can hold."""

import numpy as np
from jax import Array


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """float64 for float64, float32 for every other float."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def upcast(x: Array) -> Array:
    """The array in the dtype that it is computed in."""
    return x.astype(compute_dtype(x.dtype))


def common_dtype(*arrays: Array) -> np.dtype:
    """The dtype that all have, or else the widest of those they are computed in."""
    dtypes = {np.dtype(array.dtype) for array in arrays}
    return dtypes.pop() if len(dtypes) == 1 else np.result_type(*map(compute_dtype, dtypes))


def has_infinity(dtype: np.dtype) -> bool:
    """Whether there is an infinity among the floats of a dtype."""
    return bool(np.isinf(np.asarray(np.inf, dtype)))
