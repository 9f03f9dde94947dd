"""The door: arguments are checked once, by the public function's name, and converted to arrays.

What is known at trace time and wrong raises here. What is only known at run time becomes NaN in
its row.
"""

import operator
from collections.abc import Hashable
from functools import partial
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from jsoftmax._dtypes import compute_dtype, has_infinity
from jsoftmax._reduce import row_sum
from jsoftmax._typing import Along, Axis, AxisName
from jsoftmax._watch import watch_rows, watch_values, watch_weights, watching


class Rows(NamedTuple):
    """Logits that passed the door: disallowed entries are -inf; `along` tells where a row lies."""

    logits: Array
    where: Array | None
    along: Along
    of_hidden: bool = False
    """Whether they are hidden states, whose function has neither `axis` nor `where`."""

    @property
    def batch(self) -> tuple[int, ...]:
        """The logits' shape without `axis`."""
        shape, axis = self.logits.shape, self.along.axis
        return shape[:axis] + shape[axis + 1 :]

    @property
    def compute_dtype(self) -> np.dtype:
        """The dtype that settings and intermediate results have."""
        return compute_dtype(self.logits.dtype)

    def pinned(self, temperature: Array | None) -> Array:
        """The logits, computed once where a temperature may ask which of them equal the largest.

        A compiler may otherwise compute them twice, for the maximum and for the comparison with
        it, and round them differently.
        """
        # Outside of a trace they are an array already, which a barrier would copy.
        if temperature is None or not isinstance(self.logits, Tracer):
            return self.logits
        return jax.lax.optimization_barrier(self.logits)

    def fill_disallowed(self, result: Array, fill: float) -> Array:
        """Give the entries that `where` disallows their value, also in a row that is NaN."""
        if self.where is None:
            return result
        return keep_or_fill(self.where, result, fill)


def check_rows(
    function: str,
    logits: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    axis_name: AxisName,
    argument: str = "logits",
) -> Rows:
    """Check and convert the arguments that every function of rows shares."""
    array = check_logits(function, logits, argument)
    check_infinity(function, argument, array)
    index = check_axis(function, axis, array.ndim, argument)
    along = Along(index, check_axis_name(function, axis_name))
    mask = None if where is None else check_mask(function, "where", where, array.shape)
    if mask is not None:
        array = keep_or_fill(mask, array, -jnp.inf)
    return Rows(watch_rows(function, argument, array, along), mask, along)


def check_logits(function: str, logits: ArrayLike, argument: str = "logits") -> Array:
    """Convert to a floating-point array; integers become the default float."""
    array = as_array(function, argument, unbounded(logits))
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    if jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(jnp.result_type(float))
    raise TypeError(
        f"{function}: {argument} must be real numbers (a floating-point or integer dtype), "
        f"got dtype {array.dtype}"
    )


def check_infinity(function: str, argument: str, array: Array) -> None:
    """Check that the array can hold what an entry is that is not allowed."""
    if not has_infinity(array.dtype):
        raise TypeError(
            f"{function}: {argument} must be of a dtype that has infinity (an entry that is not "
            f"allowed is -inf), got dtype {array.dtype}"
        )


def check_axis(function: str, axis: Axis, ndim: int, argument: str = "logits") -> int:
    """Convert to a non-negative axis of an array with `ndim` dimensions."""
    index = _integer(function, "axis", axis, "an integer")
    if ndim == 0:
        raise ValueError(
            f"{function}: {argument} must have at least one dimension, got a 0-d array"
        )
    if not -ndim <= index < ndim:
        raise ValueError(
            f"{function}: axis must be in [{-ndim}, {ndim}) for {argument} of {ndim} dimensions, "
            f"got axis={index}"
        )
    return index % ndim


def check_axis_name(function: str, axis_name: AxisName) -> tuple[Hashable, ...]:
    """Convert to a tuple of mesh axis names, each of which must be bound by ``jax.shard_map``."""
    if axis_name is None:
        return ()
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    for name in names:
        try:
            jax.lax.axis_size(name)
        except (NameError, TypeError, ValueError) as error:
            raise ValueError(
                f"{function}: axis_name must name mesh axes in scope (inside jax.shard_map), got "
                f"axis_name={axis_name!r}: {error}"
            ) from None
    return names


def check_mask(function: str, argument: str, mask: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Convert to a boolean array of the logits' shape."""
    array = as_array(function, argument, mask)
    if array.dtype != jnp.bool_:
        raise TypeError(
            f"{function}: {argument} must be boolean (True = allowed), got dtype {array.dtype}"
        )
    if broadcast(array.shape, shape) != shape:
        raise ValueError(
            f"{function}: {argument} must broadcast to the logits' shape {shape}, "
            f"got shape {array.shape}"
        )
    return jnp.broadcast_to(array, shape)


def check_batch(
    function: str,
    argument: str,
    shape: tuple[int, ...],
    batch: tuple[int, ...],
    *,
    of_hidden: bool = False,
) -> None:
    """Check that a number per row, or one for all, has a shape that broadcasts to the batch's."""
    if broadcast(shape, batch) != batch:
        raise ValueError(
            f"{function}: {argument} must be a number or broadcast to the batch shape {batch} "
            f"({_batch_is(of_hidden)}), got shape {shape}"
        )


def _batch_is(of_hidden: bool) -> str:
    return "hidden's shape without its last axis" if of_hidden else "the logits' shape without axis"


def check_labels(
    function: str,
    labels: ArrayLike,
    rows: Rows,
    size: int,
    where: ArrayLike | None = None,
    *,
    distribution: bool = False,
    heeded: Array | None = None,
) -> Array:
    """Convert to class indices in int32, with `axis` of size one: -1 where out of range.

    Static labels out of range raise, but for those of rows in which `where`, static too, allows
    nothing: such a label is ignored. Where a `distribution` may be given, it comes back as it is.
    At run time a label is ignored in a row with nothing allowed and where it is not `heeded`.
    """
    short = _short(labels)
    array = as_array(function, "labels", short)
    if distribution and jnp.issubdtype(array.dtype, jnp.floating):
        return _check_distribution(function, array, rows)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        also = " (class indices) or floating-point numbers (a distribution)" if distribution else ""
        raise TypeError(f"{function}: labels must be integers{also}, got dtype {array.dtype}")
    if array.shape != rows.batch:
        also = " (a distribution is floating-point)" if distribution else ""
        raise ValueError(
            f"{function}: integer labels must have the batch shape {rows.batch} "
            f"({_batch_is(rows.of_hidden)}), got shape {array.shape}{also}"
        )
    if size and isinstance(labels, int | np.ndarray | np.generic):
        _check_static_labels(function, labels, np.asarray(short), rows, size, where)
    if array.dtype.itemsize < 4:
        array = array.astype(jnp.int32)
    if watching():
        array = watch_values(
            function,
            "labels",
            array,
            lambda x: (x < 0) | (x >= size),
            f"in [0, {size})" + ("" if rows.of_hidden else " (or ignored by where)"),
            heeded_rows(rows, heeded),
            instead=0,
        )
    return jnp.expand_dims(_index(array, size), rows.along.axis)


def _check_distribution(function: str, array: Array, rows: Rows) -> Array:
    """Labels that are a distribution over the classes, of the logits' shape."""
    shape = rows.logits.shape
    if array.shape != shape:
        raise ValueError(
            f"{function}: floating-point labels are a distribution and must have the logits' "
            f"shape {shape}, got shape {array.shape} (class indices are integers)"
        )
    if rows.where is not None:
        # Mass on a class that is not allowed costs inf; what is no number there, nothing.
        array = keep_or_fill(rows.where | jnp.isfinite(array), array, 0)
    if not watching():
        return array
    some = _allowed_rows(rows.logits, rows.along)
    return watch_weights(function, "labels", array, rows.along, some)


def _check_static_labels(
    function: str,
    labels: int | np.ndarray | np.generic,
    numbers: np.ndarray,
    rows: Rows,
    size: int,
    where: ArrayLike | None,
) -> None:
    """Check labels that are known, as numbers that jax has, but those that `where` ignores."""
    bad = (numbers < 0) | (numbers >= size)
    if where is not None:
        static = isinstance(where, bool | np.ndarray | np.generic)
        shape, axis = rows.logits.shape, rows.along.axis
        bad &= static and np.broadcast_to(np.asarray(where), shape).any(axis)
    if not bad.any():
        return
    given = labels if type(labels) is int else np.asarray(labels)[bad].flat[0]
    how = "allow nothing in it by where"
    if rows.of_hidden:
        how = "give it any label and leave its result out"
    raise ValueError(
        f"{function}: labels must be in [0, {size}), got {given} (to ignore a row, {how})"
    )


def heeded_rows(rows: Rows, heeded: Array | None) -> Array:
    """The rows in which labels and settings count, in the batch shape."""
    some = _allowed_rows(rows.logits, rows.along)
    return some if heeded is None else some & heeded


@partial(jax.jit, static_argnums=1)
def _allowed_rows(logits: Array, along: Along) -> Array:
    """Which rows have an entry that is allowed, in the batch shape."""
    return jnp.squeeze(row_sum(logits != -jnp.inf, along), along.axis) > 0


def check_block_size(function: str, block_size: int | None) -> int | None:
    """A static number of columns, at least one."""
    if block_size is None:
        return None
    return check_count(function, "block_size", block_size, "an integer or None")


def check_count(
    function: str, argument: str, value: int, kind: str = "an integer", *, least: int = 1
) -> int:
    """A static whole number, by default at least one."""
    count = _integer(function, argument, value, kind)
    if count < least:
        raise ValueError(f"{function}: {argument} must be at least {least}, got {argument}={count}")
    return count


def _integer(function: str, argument: str, value: SupportsIndex, kind: str) -> int:
    error = TypeError(f"{function}: {argument} must be {kind}, got {value!r}")
    if isinstance(value, bool | np.bool_):
        raise error
    try:
        return operator.index(value)
    except TypeError:
        raise error from None


def check_choice(function: str, argument: str, value: object, allowed: tuple[str, ...]) -> None:
    """Check a static choice between words."""
    if not isinstance(value, str) or value not in allowed:
        words = " or ".join(repr(word) for word in allowed)
        raise ValueError(f"{function}: {argument} must be {words}, got {value!r}")


def check_size(function: str, argument: str, value: int) -> int:
    """A size of an array, which may be a symbol of `jax.export`."""
    if is_symbol(value):
        return value
    return check_count(function, argument, value, least=0)


def is_symbol(size: int) -> bool:
    """Whether a size is a symbol of `jax.export`: it is not known yet."""
    # Imported where it is used: an import of jsoftmax loads no more than it needs.
    from jax.export import is_symbolic_dim

    return is_symbolic_dim(size)


def check_kind(function: str, argument: str, value: object, *kinds: type) -> None:
    """Check the class of an argument that is no array."""
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        article = "an" if names[0] in "AEIOU" else "a"
        raise TypeError(
            f"{function}: {argument} must be {article} {names}, got {type(value).__name__}"
        )


def check_flag(function: str, argument: str, value: object) -> bool:
    """Check a static choice between two."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"{function}: {argument} must be True or False, and static, got {type(value).__name__}"
        )
    return bool(value)


def check_key(function: str, key: object) -> Array:
    """Check that this is one PRNG key, typed or raw."""
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(
            f"{function}: key must be a PRNG key from jax.random.key or PRNGKey, "
            f"got {type(key).__name__}"
        )
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.dtype != np.uint32:
        raise TypeError(
            f"{function}: key must be a PRNG key from jax.random.key or PRNGKey, "
            f"got dtype {key.dtype}"
        )
    if key.ndim != (0 if typed else 1):
        raise ValueError(
            f"{function}: key must be a single PRNG key (use jax.vmap for one key per row), "
            f"got shape {key.shape}"
        )
    data = jnp.asarray(key)
    try:
        return data if typed else jax.random.wrap_key_data(data)
    except (TypeError, ValueError):
        raise ValueError(
            f"{function}: key must be a PRNG key from jax.random.key or PRNGKey, "
            f"got raw data of shape {key.shape}"
        ) from None


# One program each, also where a public function is not called under jit: an operation on its own
# would bring its constant to the device, which jax_transfer_guard="disallow" forbids.


@partial(jax.jit, static_argnums=2, inline=True)
def keep_or_fill(where: Array, x: Array, fill: float) -> Array:
    """The entries that are allowed, and `fill` for the others."""
    return jnp.where(where, x, jnp.asarray(fill, x.dtype))


@partial(jax.jit, static_argnums=1, inline=True)
def _index(labels: Array, size: int) -> Array:
    """Class indices in int32, -1 where they are out of range."""
    return jnp.where((labels >= 0) & (labels < size), labels.astype(jnp.int32), -1)


def as_array(function: str, argument: str, value: ArrayLike) -> Array:
    """Convert what is an array or a number to an array of jax."""
    kinds = jax.Array | np.ndarray | np.generic | bool | int | float | complex
    if not isinstance(value, kinds) and not hasattr(value, "__jax_array__"):
        raise TypeError(
            f"{function}: {argument} must be an array or a number, got {type(value).__name__}"
        )
    try:
        # What is beyond the floats is infinite: that is said where it is not allowed.
        with np.errstate(over="ignore"):
            return jnp.asarray(value)
    except (TypeError, ValueError):
        got = getattr(value, "dtype", type(value).__name__)
        raise TypeError(
            f"{function}: {argument} must be an array of numbers of a dtype that jax has, got {got}"
        ) from None


def unbounded(value: ArrayLike) -> ArrayLike:
    """Static integers as floats, so that a large one is not wrapped to 32 bits."""
    if isinstance(value, np.ndarray | np.generic) and np.issubdtype(value.dtype, np.integer):
        return value.astype(np.float64)
    if type(value) is int:
        return float(min(max(value, -(2**1000)), 2**1000))
    return value


def _short(labels: ArrayLike) -> ArrayLike:
    """Static labels without those that jax would wrap: what no int32 holds is out of any range."""
    if type(labels) is int:
        return min(max(labels, -1), 2**31 - 1)
    if not isinstance(labels, np.ndarray | np.generic):
        return labels
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.dtype.itemsize <= 4:
        return labels
    return np.maximum(np.minimum(array, 2**31 - 1).astype(np.int64), -1)


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that these broadcast to, symbolic or not; None where they do not."""
    try:
        return jnp.broadcast_shapes(*shapes)
    except ValueError:
        return None
