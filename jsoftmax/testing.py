"""Assertions for tests of code that makes or uses distributions over the last, or another, axis.

They raise AssertionError and say which row is wrong. They look at values: inside ``jax.jit`` use
`jsoftmax.checked`, which checks what jsoftmax is given there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jsoftmax._checks import check_axis, check_batch, check_count, check_logits
from jsoftmax._difference import slope_at_zero

__all__ = [
    "assert_mask_keeps",
    "assert_matches_reference",
    "assert_on_simplex",
    "assert_stable_gradients",
]

_Row = np.ndarray[Any, np.dtype[Any]]

_BEYOND = 2.0**-10
"""How far from the arguments values are compared with gradients."""
_OF_SLOPE = 1e-4
"""What a quotient of differences, in float64, may be from the derivative, of its size."""


def assert_on_simplex(
    p: ArrayLike, axis: int = -1, *, where: ArrayLike | None = None, atol: float | None = None
) -> None:
    r"""Assert that each row is a distribution: :math:`p_i \ge 0` and :math:`\sum_i p_i = 1`.

    Args:
      p: floating-point numbers of any shape with at least one dimension.
      axis: the axis that holds a row.
      where: boolean, broadcasts to the shape of p: where it is False p has to be exactly 0. A row
        in which it allows nothing has to be 0 everywhere.
      atol: how far a sum of V entries may be from one. By default 2 eps of the dtype, which each is
        rounded to (float32 for a float64 array without ``jax_enable_x64``), sqrt(V) / 2 eps of
        float32 (or float64), in which a sum is taken, and V / 2 of the smallest number above 0; a
        half at most.

    Raises:
      AssertionError: a row that is not on the simplex.
      TypeError: p is a tracer, or not floating-point.

    Edge cases: a row of size 0 has nothing to be wrong.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> from jsoftmax import testing
      >>> testing.assert_on_simplex(jsoftmax.softmax(jnp.arange(6.0).reshape(2, 3)))
      >>> testing.assert_on_simplex(jnp.array([[0.5, 0.5], [0.5, 0.4]]))
      Traceback (most recent call last):
      AssertionError: assert_on_simplex: row (1,) sums to 0.9, which is 0.1 from 1 (at most 3.2e-07)
    """
    name = "assert_on_simplex"
    rows, dtype = _floats(name, "p", p, axis)
    allowed = _mask(name, "where", True if where is None else where, np.shape(p), axis)
    size = rows.shape[-1]
    if size == 0:
        return
    info = jnp.finfo(dtype)
    eps = float(info.eps)
    of_sum = min(eps, float(np.finfo(np.float32).eps))
    rounded = 2 * eps + np.sqrt(size) / 2 * of_sum + size / 2 * float(info.smallest_subnormal)
    tolerance = min(rounded, 0.5) if atol is None else atol
    _none(name, np.isnan(rows).any(-1), "holds NaN")
    _none(name, (rows < 0).any(-1), "holds a negative number")
    _none(name, (~allowed & (rows != 0)).any(-1), "is not 0 at an entry that `where` disallows")
    total = rows.sum(-1)
    off = np.abs(total - allowed.any(-1))
    bad = ~(off <= tolerance)
    if bad.any():
        at = _first(bad)
        raise AssertionError(
            f"{name}: row {at} sums to {total[at]:.9g}, which is {off[at]:.2g} from "
            f"{int(allowed[at].any())} (at most {tolerance:.2g})"
        )


def assert_mask_keeps(
    mask: ArrayLike,
    logits: ArrayLike,
    *,
    mass: float | None = None,
    count: int | None = None,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> None:
    r"""Assert that a truncation keeps the most probable entries, and as many as it should.

    Each row with an allowed entry keeps one of its most probable entries, nothing that is not
    allowed, and no entry that is less probable than one it leaves out. With `mass` it keeps a set
    :math:`S` of :math:`\sum_{i \in S} p_i \ge \mathrm{mass}`, and without its least probable
    entries less; with `count` at least so many entries, and fewer without its least probable ones.

    Args:
      mask: boolean, of the logits' shape: True where an entry is kept.
      logits: real numbers of any shape with at least one dimension.
      mass: of softmax(logits / T) over the allowed entries, in (0, 1].
      count: an integer, at least 1; a row with fewer allowed entries keeps all.
      temperature: T > 0, for the mass: a number or an array that broadcasts to the batch shape (the
        logits' shape without `axis`).
      axis: the axis that holds a row.
      where: boolean, broadcasts to the logits' shape: True where an entry is allowed.

    Raises:
      AssertionError: a row that keeps too much, too little or the wrong entries.
      TypeError: a tracer, a mask that is not boolean, or a count that is no integer.
      ValueError: a mass, a count or a temperature that is not allowed.

    Edge cases: ties at the cut may be kept or left out. A sum that float32 may have on the other
    side of the mass (16 eps) is right on both. -inf is not allowed; a row with NaN or +inf is
    not looked at.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> from jsoftmax import testing
      >>> x = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
      >>> testing.assert_mask_keeps(jsoftmax.top_p_mask(x, 0.9), x, mass=0.9)
      >>> testing.assert_mask_keeps(jsoftmax.top_k_mask(x, 2), x, mass=0.9)
      Traceback (most recent call last):
      AssertionError: assert_mask_keeps: row () keeps 2 entries of mass 0.8, less than mass=0.9
    """
    name = "assert_mask_keeps"
    if isinstance(mass, str) or (mass is not None and (np.ndim(mass) > 0 or not 0 < mass <= 1)):
        raise ValueError(f"{name}: mass must be a number in (0, 1], got {mass}")
    if count is not None:
        check_count(name, "count", count)
    _no_tracers(name, temperature)
    try:
        scale = _wide(temperature)
    except (TypeError, ValueError):
        got = type(temperature).__name__
        raise TypeError(f"{name}: temperature must be an array or a number, got {got}") from None
    if not (scale > 0).all():
        raise ValueError(f"{name}: temperature must be above 0, got {temperature}")
    _no_tracers(name, logits)
    x, _ = _floats(name, "logits", check_logits(name, logits), axis)
    check_batch(name, "temperature", scale.shape, x.shape[:-1])
    if np.shape(mask) != np.shape(logits):
        raise AssertionError(f"{name}: the mask has shape {np.shape(mask)}, not {np.shape(logits)}")
    kept = _mask(name, "mask", mask, np.shape(logits), axis)
    allowed = _mask(name, "where", True if where is None else where, np.shape(logits), axis)
    if x.size == 0:
        return
    sound = ~(allowed & ~(x < np.inf)).any(-1)
    allowed = allowed & (x > -np.inf)
    # At T = inf all that is allowed ties.
    x = np.where(allowed, np.where(np.isinf(scale)[..., None], 0, x), -np.inf)
    some = sound & allowed.any(-1)
    _none(name, (kept & ~allowed).any(-1) & sound, "keeps an entry that is not allowed")
    _none(name, ~kept.any(-1) & some, "keeps nothing")
    left_out = np.where(allowed & ~kept, x, -np.inf).max(-1)
    least = np.where(kept, x, np.inf).min(-1)
    _none(name, (left_out > least) & some, "leaves an entry out and keeps one less probable")
    # What is kept without the entries that tie at the cut.
    above = kept & (x > least[..., None])
    if count is not None:
        enough = kept.sum(-1) >= np.minimum(count, allowed.sum(-1))
        _none(name, ~enough & some, f"keeps fewer than count={count} entries")
        _none(name, (above.sum(-1) >= count) & some, f"keeps more than count={count} needs")
    if mass is not None:
        peak = np.where(some, x.max(-1), 0)[..., None]
        weight = np.exp((np.where(allowed, x, peak) - peak) / scale[..., None]) * allowed
        p = weight / np.maximum(weight.sum(-1, keepdims=True), 1e-300)
        slack = 16 * float(np.finfo(np.float32).eps)
        of_kept, of_above = (p * kept).sum(-1), (p * above).sum(-1)
        bad = (of_kept < mass - slack) & some
        if bad.any():
            at = _first(bad)
            raise AssertionError(
                f"{name}: row {at} keeps {int(kept[at].sum())} entries of mass {of_kept[at]:.7g}, "
                f"less than mass={mass}"
            )
        _none(name, (of_above >= mass + slack) & some, f"keeps more than mass={mass} needs")


def assert_stable_gradients(
    function: Callable[..., Any],
    *args: object,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Assert that the derivatives of a function of arrays are finite, accurate and those it has.

    The function and its gradient are computed in the dtypes of the arguments and again in float64.
    With random cotangents u and tangents v in [-1, 1]: every gradient is finite, u . (J v) is
    (u J) . v, no entry of u J is further from its float64 value than rtol times the largest of its
    argument, plus atol, and near the arguments the values of the function, in float64, change as
    u J says, to within rtol (or 1e-4), along one direction of each argument. Where a value is
    infinite (a log-probability of -inf) u is 0.

    Args:
      function: of the arguments alone; its result is a tree of arrays.
      args: arrays, numbers, or trees of these. What is floating-point is differentiated, the rest
        passed on.
      rtol: relative to the largest entry of a gradient. By default a quarter of the square root of
        eps, of the coarsest dtype among the arguments: 9e-5 in float32, 0.02 in bfloat16. With an
        infinite one gradients are finite and no more is asked.
      atol: absolute, by default 8 eps of that dtype.

    Raises:
      AssertionError: a gradient that is not finite, a value that is NaN, forward and reverse mode
        that differ, a gradient that has lost its digits, or a rule that is wrong.
      TypeError: no argument is floating-point, or one is a tracer.

    Edge cases: -inf among the arguments is allowed, and stays constant. Of a function with a
    `jax.custom_vjp` (`linear_cross_entropy`) only reverse mode is looked at: it has no other. A
    function that converts to float32 itself is compared with itself. One that draws a token may
    draw another in float64: give it the token. A rule is not compared with values that have a kink
    or a jump there, lie on a plateau (a straight-through estimator) or are rounded on the way.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> from jsoftmax import testing
      >>> x = jnp.array([1.0, 2.0, -jnp.inf])
      >>> testing.assert_stable_gradients(jsoftmax.entropy, x)
      >>> naive = lambda x: -jnp.sum(jax.nn.softmax(x) * jax.nn.log_softmax(x))
      >>> testing.assert_stable_gradients(naive, x)
      Traceback (most recent call last):
      AssertionError: assert_stable_gradients: the gradient of argument 0 is not finite: nan at (0,)
      >>> square = jax.custom_jvp(lambda x: x * x)
      >>> square.defjvp(lambda x, dx: (square(*x), x[0] * dx[0]))
      >>> testing.assert_stable_gradients(square, 3.0)
      Traceback (most recent call last):
      AssertionError: assert_stable_gradients: along a direction of argument 0 the gradient says a
      slope of 0.06435, and the values have one of 0.1287
    """
    name = "assert_stable_gradients"
    labels, arrays, tree = _flat(name, args)
    places = [i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating)]
    if not places:
        raise TypeError(f"{name}: no argument is floating-point")
    eps = max(float(jnp.finfo(arrays[i].dtype).eps) for i in places)
    relative = eps**0.5 / 4 if rtol is None else rtol
    absolute = 8 * eps if atol is None else atol
    random = np.random.default_rng(0)
    tangents = [_noise(random, arrays[i]) for i in places]
    owners = [labels[i].partition("[")[0] for i in places]

    def of_floats(*floats: jax.Array) -> list[jax.Array]:
        whole = list(arrays)
        for i, x in zip(places, floats, strict=True):
            whole[i] = x
        leaves = [jnp.asarray(x) for x in jax.tree.leaves(function(*tree.unflatten(whole)))]
        return [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]

    def in_dtype(dtype: np.dtype | None) -> tuple[list[jax.Array], list[jax.Array]]:
        """The arguments and their tangents, in the dtypes they have or in another."""
        likes = [(arrays[i], dtype or arrays[i].dtype) for i in places]
        return (
            [jnp.asarray(np.asarray(x), own) for x, own in likes],
            [jnp.asarray(v, own) for v, (_, own) in zip(tangents, likes, strict=True)],
        )

    plain = _derivatives(of_floats, *in_dtype(None))
    for i, gradient in zip(places, plain.gradients, strict=True):
        bad = ~np.isfinite(gradient)
        if bad.any():
            at = _first(bad)
            raise AssertionError(
                f"{name}: the gradient of {labels[i]} is not finite: {gradient[at]} at {at}"
            )
    for i, value in enumerate(plain.values):
        if (nan := np.isnan(value)).any():
            raise AssertionError(f"{name}: result {i} is NaN at {_first(nan)}")
    apart = sum(
        _dot(relative * np.abs(g) + absolute, np.abs(v))
        for g, v in zip(plain.gradients, tangents, strict=True)
    )
    if plain.forward is not None and not abs(plain.forward - plain.backward) <= apart:
        raise AssertionError(
            f"{name}: forward mode gives {plain.forward:.9g} and reverse mode {plain.backward:.9g}"
        )
    with jax.enable_x64(True):
        floats, moved = in_dtype(np.dtype(np.float64))
        wide = _derivatives(of_floats, floats, moved)
        slopes = _slopes(of_floats, floats, wide.weights, owners)
    for i, gradient, want in zip(places, plain.gradients, wide.gradients, strict=True):
        error = np.where(np.isfinite(want), np.abs(gradient - want), np.inf)
        size = np.abs(want).max(where=np.isfinite(want), initial=0)
        most = relative * size + absolute
        if (error > most).any():
            at = _first(error == error.max())
            raise AssertionError(
                f"{name}: the gradient of {labels[i]} is {gradient[at]:.9g} at {at}, and "
                f"{want[at]:.9g} in float64 (at most {most:.2g} apart)"
            )
    for label, said, seen in slopes:
        if abs(seen - said) > max(relative, _OF_SLOPE) * max(abs(seen), abs(said)):
            raise AssertionError(
                f"{name}: along a direction of {label} the gradient says a slope of {said:.4g}, "
                f"and the values have one of {seen:.4g}"
            )


class _Derivatives(NamedTuple):
    """Of a function J at some place, along tangents v and cotangents u."""

    values: list[_Row]
    gradients: list[_Row]
    """u J."""
    forward: float | None
    """u . (J v); None where a rule is written for reverse mode only."""
    backward: float
    """(u J) . v."""
    weights: list[jax.Array]
    """u, 0 where a value is infinite."""


def _derivatives(
    function: Callable[..., list[jax.Array]], at: list[jax.Array], along: list[jax.Array]
) -> _Derivatives:
    values, pull = jax.vjp(function, *at)
    pushed = _pushed(function, at, along)
    random = np.random.default_rng(1)
    weights = [
        jnp.where(jnp.isfinite(x), jnp.asarray(_noise(random, x), x.dtype), jnp.zeros_like(x))
        for x in values
    ]
    gradients = [_wide(x) for x in pull(weights)]
    forward = None
    if pushed is not None:
        forward = float(sum(_dot(w, x) for w, x in zip(weights, pushed, strict=True)))
    backward = float(sum(_dot(g, v) for g, v in zip(gradients, along, strict=True)))
    return _Derivatives([_wide(x) for x in values], gradients, forward, backward, weights)


def _slopes(
    function: Callable[..., list[jax.Array]],
    at: list[jax.Array],
    weights: list[jax.Array],
    owners: list[str],
) -> list[tuple[str, float, float]]:
    """What the gradients say of a direction of each argument, and the values, where these tell.

    A little beyond the arguments, where there are no ties and no zeros. The direction is that of
    the gradient's signs, so that nothing cancels.
    """
    random = np.random.default_rng(2)

    def some(like: jax.Array) -> _Row:
        return np.where(np.isfinite(_wide(like)), random.uniform(0.5, 1, like.shape), 0)

    at = [x + _BEYOND * some(x) for x in at]
    gradients = [_wide(x) for x in jax.vjp(function, *at)[1](weights)]
    found: list[tuple[str, float, float]] = []
    for owner in dict.fromkeys(owners):
        direction = []
        for x, g, whose in zip(at, gradients, owners, strict=True):
            sign = np.where(g == 0, random.choice([-1.0, 1.0], g.shape), np.sign(g))
            direction.append(sign * some(x) * (whose == owner))

        def value(step: float, direction: list[_Row] = direction) -> float:
            moved = [x + step * v for x, v in zip(at, direction, strict=True)]
            results = zip(weights, function(*moved), strict=True)
            return float(sum(_dot(w, jnp.where(w == 0, 0, y)) for w, y in results))

        said = float(sum(_dot(g, v) for g, v in zip(gradients, direction, strict=True)))
        seen = slope_at_zero(value, abs(said))
        if seen is not None:
            found.append((owner, said, seen))
    return found


def _pushed(
    function: Callable[..., list[jax.Array]], at: list[jax.Array], along: list[jax.Array]
) -> list[jax.Array] | None:
    """J v, or None where a rule is written for reverse mode only."""
    try:
        return jax.jvp(function, tuple(at), tuple(along))[1]
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        return None


def assert_matches_reference(
    function: Callable[..., Any],
    reference: Callable[..., Any],
    *args: object,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Assert that a function gives what a reference gives in float64, as it is and under `jax.jit`.

    Args:
      function: of the arguments alone; its result is a tree of arrays.
      reference: of the same arguments, the floating-point ones in float64: one of jsoftmax, or of
        NumPy. Its result is a tree of as many arrays, of the same shapes.
      args: arrays, numbers, or trees of these.
      rtol: relative tolerance, by default 4 eps of each result's dtype.
      atol: absolute tolerance, by default 8 eps of that dtype, of float32 for a narrower one.

    Raises:
      AssertionError: a value, a shape, a NaN or an infinity that differs. Booleans and integers
        have to be equal.
      TypeError: an argument is a tracer.

    Edge cases: what is too large for a result's dtype is infinite in the reference, too, if the
    dtype has infinity.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> from jsoftmax import testing
      >>> x = jnp.array([[1.0, 2.0, -jnp.inf]])
      >>> testing.assert_matches_reference(jax.nn.softmax, jsoftmax.softmax, x)
      >>> testing.assert_matches_reference(jax.nn.softmax, jsoftmax.sparsemax, x)
      Traceback (most recent call last):
      AssertionError: assert_matches_reference: result 0 is 0.268941432 at (0, 0), and 0.0 in the
      reference (at most 9.5e-07 apart)
    """
    name = "assert_matches_reference"
    _flat(name, args)
    with jax.enable_x64(True):
        want = [_wide(x) for x in jax.tree.leaves(reference(*jax.tree.map(_widened, args)))]
    for run, how in ((function, ""), (jax.jit(function), " under jax.jit")):
        got = [np.asarray(x) for x in jax.tree.leaves(run(*args))]
        if len(got) != len(want):
            raise AssertionError(f"{name}: {len(got)} results, and {len(want)} in the reference")
        for i, (x, y) in enumerate(zip(got, want, strict=True)):
            _compare(f"{name}: result {i}", how, x, y, rtol, atol)


def _compare(
    label: str, how: str, got: _Row, want: _Row, rtol: float | None, atol: float | None
) -> None:
    if got.shape != want.shape:
        raise AssertionError(
            f"{label} has shape {got.shape}{how}, and {want.shape} in the reference"
        )
    relative = absolute = 0.0
    if jnp.issubdtype(got.dtype, jnp.inexact):
        info = jnp.finfo(got.dtype)
        eps = float(info.eps)
        coarse = min(eps, float(jnp.finfo(np.float32).eps))
        relative = 4 * eps if rtol is None else rtol
        absolute = 8 * coarse if atol is None else atol
        if not np.iscomplexobj(want) and not np.iscomplexobj(got):
            with np.errstate(over="ignore"):
                rounded = want.astype(got.dtype).astype(np.float64)
            want = np.where(np.isinf(rounded), rounded, want)
    x = _wide(got)
    with np.errstate(invalid="ignore"):
        limit = absolute + relative * np.abs(want)
        right = (np.abs(x - want) <= limit) & np.isfinite(want)
    bad = ~(right | (x == want) | (np.isnan(x) & np.isnan(want)))
    if bad.any():
        at = _first(bad)
        raise AssertionError(
            f"{label} is {x[at]:.9g} at {at}{how}, and {want[at]} in the reference (at most "
            f"{limit[at]:.2g} apart)"
        )


def _floats(name: str, argument: str, x: ArrayLike, axis: int) -> tuple[_Row, np.dtype]:
    """The rows in float64, along the last axis, and their dtype."""
    _no_tracers(name, x)
    array = _array(name, argument, x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name}: {argument} must be floating-point, got dtype {array.dtype}")
    along = check_axis(name, axis, array.ndim, argument)
    return np.moveaxis(_wide(array), along, -1), array.dtype


def _mask(name: str, argument: str, mask: ArrayLike, shape: tuple[int, ...], axis: int) -> _Row:
    _no_tracers(name, mask)
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise TypeError(f"{name}: {argument} must be boolean, got dtype {array.dtype}")
    try:
        return np.moveaxis(np.broadcast_to(array, shape), axis, -1)
    except ValueError:
        raise ValueError(
            f"{name}: {argument} must broadcast to shape {shape}, got shape {array.shape}"
        ) from None


def _no_tracers(name: str, values: object) -> None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values)):
        raise TypeError(f"{name}: values are not known inside a transformation, got a tracer")


def _flat(name: str, args: tuple[object, ...]) -> tuple[list[str], list[jax.Array], Any]:
    """The arrays of the arguments, how each is named, and the tree that they are of."""
    _no_tracers(name, args)
    found, tree = jax.tree.flatten_with_path(args)
    labels = [f"argument {path[0].idx}{jax.tree_util.keystr(path[1:])}" for path, _ in found]
    arrays: list[jax.Array] = []
    for label, (_, leaf) in zip(labels, found, strict=True):
        arrays.append(_array(name, label, leaf))
    return labels, arrays, tree


def _array(name: str, argument: str, x: ArrayLike) -> jax.Array:
    try:
        # jax 0.10 takes a string for the name of a dtype.
        return jnp.asarray(None if isinstance(x, str) else x)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}: {argument} must be an array or a number, got {type(x).__name__}"
        ) from None


def _widened(x: ArrayLike) -> ArrayLike:
    dtype = jnp.result_type(x)
    return _wide(x) if jnp.issubdtype(dtype, jnp.inexact) else x


def _wide(x: ArrayLike) -> _Row:
    array = np.asarray(x)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _noise(random: np.random.Generator, like: jax.Array) -> _Row:
    """Numbers of the array's shape and dtype, 0 where it is not finite."""
    noise = random.uniform(-1, 1, like.shape).astype(like.dtype)
    return np.where(np.isfinite(_wide(like)), noise, np.zeros_like(noise))


def _dot(x: ArrayLike, y: ArrayLike) -> float:
    # Of what is infinite it is NaN, without a word: that is told of each entry.
    with np.errstate(invalid="ignore", over="ignore"):
        return float((_wide(x) * _wide(y)).sum())


def _first(bad: _Row) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])


def _none(name: str, bad: _Row | np.bool_, problem: str) -> None:
    if bad.any():
        raise AssertionError(f"{name}: row {_first(np.asarray(bad))} {problem}")
