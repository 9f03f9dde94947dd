"""Checks at run time: `checked`, and what the door asks of values that are tracers.

The values are shown to the host where they are used, and the host says what is wrong with them.
checkify would carry an error through the program instead, but jax drops its checks from the
gradient of a scan, without a word. The logits are tied to the host's answer, so that no
transformation and no compiler leaves a check out while it needs the result.
"""

import inspect
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Hashable,
)
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jsoftmax._placement import everywhere
from jsoftmax._reduce import row_sum
from jsoftmax._typing import Along

P = ParamSpec("P")
Result = TypeVar("Result")
Values = np.ndarray[Any, np.dtype[Any]]

_LATER = inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction
_RUNS_LATER = (
    "checked: function must return its result, got one that runs after its call: a generator or a "
    "coroutine (check what it calls)"
)


@dataclass(frozen=True)
class _Watch:
    """What is checked, and what is told of a problem; part of the key of jax's caches.

    The host's part of a program tells it, on any thread.
    """

    report: Callable[[str], None]
    allow_empty_rows: bool


def _fail(problem: str) -> None:
    """Where a transformation is in charge of the run: nobody would read a record."""
    raise ValueError(problem)


_WATCH = jax.make_user_context(default_value=None)


def _watch() -> _Watch | None:
    return cast("_Watch | None", _WATCH.value)


def watching() -> bool:
    """Whether values are checked at run time."""
    return _watch() is not None


def unwatched() -> AbstractContextManager[object]:
    """Nothing is looked at inside: the caller has looked, or will."""
    return _WATCH(None)


def checked(
    function: Callable[P, Result], *, allow_empty_rows: bool = False
) -> Callable[P, Result]:
    """A function that does as the given one, and raises where jsoftmax is given bad values in it.

    For what is only known at run time and makes a row NaN: logits that hold NaN or +inf where they
    are allowed, a temperature that is negative, a label or a label smoothing that is out of range;
    and for what has a meaning that is seldom meant: a row with nothing allowed, a p, min_p, mass or
    epsilon outside [0, 1], a k that is not whole.

    Args:
      function: calls functions of jsoftmax, however deep inside `jax.jit`, `jax.vmap`, `jax.grad`,
        `jax.lax.scan`, `jax.checkpoint` or `jax.shard_map`. Compiled anew for the checks, by each
        call of `checked`: keep what it returns.
      allow_empty_rows: whether a row may have nothing allowed, as for labels that are ignored by
        `where` and for padding.

    Returns:
      The checked function. It waits for its result. Without it nothing is checked at run time, and
      nothing of this is compiled.

    Raises:
      TypeError: not a function, or a generator or a coroutine, which run after the call.
      ValueError: by the checked function. The message names the function of jsoftmax, the argument,
        the value, what is allowed, and the row: its index along the axes that `jax.vmap` maps, then
        along those of the batch. In `jax.shard_map` it is the row of a shard.

    Edge cases: put it outermost, ``checked(jax.jit(f))``. Inside a transformation it still checks,
    but the error is then raised by jax, with the message inside its own (a JaxRuntimeError or a
    ValueError), and perhaps later. `jax.vmap` runs both branches of a `jax.lax.cond` whose
    condition differs between rows, and a `while_loop` until the last row is done: what is not used
    is checked there too. What no result depends on may go unchecked. The checks are host callbacks:
    one for each argument of each call, at every step of a loop.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> f = jax.jit(lambda x, t: jsoftmax.softmax(x, temperature=t))
      >>> x, t = jnp.zeros((2, 2)), jnp.array([1.0, -1.0])
      >>> print(f(x, t))
      [[0.5 0.5]
       [nan nan]]
      >>> jsoftmax.checked(f)(x, t)
      Traceback (most recent call last):
      ValueError: softmax: temperature must be a number >= 0 (0 is the arg-max limit, inf is
      uniform), got temperature=-1.0 in row (1,)
    """
    if not callable(function):
        raise TypeError(f"checked: function must be callable, got {type(function).__name__}")
    called = type(function).__call__
    if any(later(of) for later in _LATER for of in (function, called)):
        raise TypeError(_RUNS_LATER)
    lock = threading.RLock()
    found: list[str] = []
    watch = _Watch(found.append, allow_empty_rows)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Result:
        outer = _watch()
        if outer is not None or _in_transformation((args, kwargs)):
            report = _fail if outer is None else outer.report
            with _WATCH(_Watch(report, allow_empty_rows)):
                return function(*args, **kwargs)
        with lock:
            found.clear()
            try:
                with _WATCH(watch):
                    result = function(*args, **kwargs)
                    if isinstance(result, Generator | AsyncGenerator | Awaitable):
                        if isinstance(result, Coroutine):
                            # Else Python warns that nobody awaited it.
                            result.close()
                        raise TypeError(_RUNS_LATER)
                    jax.block_until_ready(result)
            except Exception as error:
                if found:
                    raise ValueError(found[0]) from error
                raise
            if found:
                raise ValueError(found[0])
            return result

    return run


def _in_transformation(arguments: object) -> bool:
    # A new array is a tracer inside jit, also where no argument is.
    if isinstance(jax.device_put(np.False_), Tracer):
        return True
    try:
        leaves = jax.tree.leaves(arguments)
    except ValueError:
        # No tree for jax, such as a dict of keys that have no order: jit, vmap and grad refuse it.
        return False
    return any(isinstance(leaf, Tracer) for leaf in leaves)


def watch_rows(
    function: str, argument: str, x: Array, along: Along, heeded: Array | None = None
) -> Array:
    """Logits, -inf where disallowed: no NaN or +inf, and something allowed in each row.

    But for rows that are not heeded.
    """
    watch = _watch()
    if watch is None or x.size == 0:
        return x
    state = _state_of_rows(x, heeded, along)
    axes = _axes_of_shards()

    def problem(state: Values) -> str | None:
        if (state == 1).any():
            return (
                f"{function}: {argument} must be finite or -inf, but for masked entries, got NaN "
                f"or +inf{_in_row(state == 1, axes)}"
            )
        if (state == 2).any() and not watch.allow_empty_rows:
            return (
                f"{function}: {argument} must have an allowed entry in each row (or use "
                f"allow_empty_rows=True), got none{_in_row(state == 2, axes)}"
            )
        return None

    return _shown(watch, x, state, problem)


@partial(jax.jit, static_argnums=2)
def _state_of_rows(x: Array, heeded: Array | None, along: Along) -> Array:
    """0 is right, 1 is a broken row, 2 an empty one."""
    broken = row_sum(~(x < jnp.inf), along)
    allowed = row_sum(x != -jnp.inf, along)
    state = jnp.where(broken > 0, 1, jnp.where(allowed > 0, 0, 2))
    state = jnp.squeeze(state, along.axis)
    return state if heeded is None else jnp.where(heeded, state, 0)


def watch_weights(function: str, argument: str, x: Array, along: Along, heeded: Array) -> Array:
    """Rows of numbers that are finite and not negative, but for rows that are not heeded."""
    watch = _watch()
    if watch is None or x.size == 0:
        return x
    bad = _bad_weights(x, heeded, along)
    axes = _axes_of_shards()

    def problem(bad: Values) -> str | None:
        if not bad.any():
            return None
        return (
            f"{function}: {argument} must be finite and not negative, got an entry that is "
            f"negative or not finite{_in_row(bad, axes)}"
        )

    return _shown(watch, x, bad, problem)


@partial(jax.jit, static_argnums=2)
def _bad_weights(x: Array, heeded: Array, along: Along) -> Array:
    bad = row_sum(~((x >= 0) & (x < jnp.inf)), along) > 0
    return jnp.squeeze(bad, along.axis) & heeded


def watch_values(
    function: str,
    argument: str,
    x: Array,
    refused: Callable[[Values], Values],
    allowed: str,
    heeded: Array,
    *,
    instead: int,
) -> Array:
    """Numbers of which the host refuses none, but for those of rows that are not heeded.

    It is shown one that is allowed instead of these. One number for several rows is always heeded.
    """
    watch = _watch()
    if watch is None or x.size == 0:
        return x
    values = x
    if x.ndim > 0 or heeded.ndim == 0:
        values = _heeded_values(everywhere(x), everywhere(heeded), instead)
    axes = _axes_of_shards()

    def problem(values: Values) -> str | None:
        bad = refused(values)
        if not bad.any():
            return None
        first = values[bad].flat[0]
        return (
            f"{function}: {argument} must be {allowed}, got {argument}={first}{_in_row(bad, axes)}"
        )

    return _shown(watch, x, values, problem)


@partial(jax.jit, static_argnums=2)
def _heeded_values(x: Array, heeded: Array, instead: int) -> Array:
    """The numbers, or what stands for those not heeded, in the shape that both broadcast to."""
    shape = jnp.broadcast_shapes(x.shape, heeded.shape)
    x, heeded = (jnp.broadcast_to(of, shape) for of in (x, heeded))
    return jnp.where(heeded, x, jnp.full_like(x, instead))


def _shown(
    watch: _Watch, x: Array, values: Array, problem: Callable[[Values], str | None]
) -> Array:
    """x, once the host has looked at the values."""
    rank = values.ndim

    def look(values: Values) -> Values:
        values = np.asarray(values)
        found = problem(values)
        if found is not None:
            watch.report(found)
        return np.ones(values.shape[: values.ndim - rank], np.bool_)

    if not _in_transformation(values) and values.is_fully_addressable:
        # Nothing is compiled: the values are there. (A constant of a program that is traced is,
        # too, but only now.)
        look(jax.device_get(values))
        return x

    # A program, also where nothing else is: alone, a callback's result lies on the first device.
    @jax.jit
    def shown(x: Array, values: Array) -> Array:
        looked = jax.pure_callback(
            look, jax.ShapeDtypeStruct((), jnp.bool_), values, vmap_method="expand_dims"
        )
        return jnp.where(looked, x, jnp.zeros_like(x))

    return shown(x, everywhere(jax.lax.stop_gradient(values)))


def _axes_of_shards() -> tuple[Hashable, ...]:
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def _in_row(bad: Values, axes: tuple[Hashable, ...]) -> str:
    """Which row is the first that is bad, and how many more there are; nothing for a number."""
    if bad.ndim == 0:
        return ""
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    more = int(bad.sum()) - 1
    others = f" (and {more} more)" if more else ""
    return f" in row {first}{others}" + (f" of a shard over {axes}" if axes else "")
