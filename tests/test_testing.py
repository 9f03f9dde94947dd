"""`jsoftmax.testing`: what each assertion lets pass, and what it catches."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from jsoftmax import testing
from tests import reference, rows
from tests.registry import MASKS, Entry

X = rows.normal(60, 2.0).reshape(4, 15)
_, FAMILY = rows.stacked(129)
FAMILY = np.where(np.isfinite(FAMILY), np.clip(FAMILY, -6e4, 6e4), FAMILY)
"""Rows of every class, finite in float16 where they are in float32."""


def fails(message: str) -> Any:
    """The assertion, by its words."""
    return pytest.raises(AssertionError, match=message)


# --- assert_on_simplex -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("map_", [jsoftmax.softmax, jsoftmax.sparsemax, jsoftmax.entmax])
def test_maps_are_on_the_simplex(map_: Callable[..., jax.Array], dtype: str) -> None:
    x = jnp.asarray(FAMILY, jnp.dtype(dtype))
    where = np.isfinite(FAMILY)
    testing.assert_on_simplex(map_(x), where=where)
    testing.assert_on_simplex(map_(x.T, axis=0), 0, where=where.T)


@pytest.mark.parametrize("size", [2, 1000, 100_000])
def test_one_percent_too_much_is_caught_at_any_size(size: int) -> None:
    p = np.full((2, size), 1 / size, np.float32)
    testing.assert_on_simplex(p)
    p[1] *= 1.01
    with fails(r"row \(1,\) sums to 1\.0(1|099999)"):
        testing.assert_on_simplex(p)
    testing.assert_on_simplex(p, atol=0.02)


def test_what_is_not_on_the_simplex() -> None:
    p = np.asarray(jsoftmax.softmax(X))
    allowed = np.arange(15) < 14
    for change, message in (
        ((1, 2, np.nan), r"row \(1,\) holds NaN"),
        ((2, 0, -1e-3), r"row \(2,\) holds a negative number"),
        ((3, 3, 0.9), r"row \(3,\) sums to"),
    ):
        row, entry, value = change
        broken = p.copy()
        broken[row, entry] = value
        with fails(message):
            testing.assert_on_simplex(broken)
    with fails(r"row \(0,\) is not 0 at an entry that `where` disallows"):
        testing.assert_on_simplex(p, where=allowed)
    testing.assert_on_simplex(jsoftmax.softmax(X, where=allowed), where=allowed)
    nothing = np.array([True, False, True, True])[:, None]
    testing.assert_on_simplex(jsoftmax.softmax(X, where=nothing), where=nothing)
    with fails(r"row \(1,\) sums to 0, which is 1 from 1"):
        testing.assert_on_simplex(jsoftmax.softmax(X, where=nothing))
    testing.assert_on_simplex(jnp.zeros((3, 0)))
    with pytest.raises(TypeError, match="p must be floating-point, got dtype int32"):
        testing.assert_on_simplex(jnp.ones((3, 1), jnp.int32))


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float16", "bfloat16", "float32"])
@pytest.mark.parametrize("size", [100, 200_000])
def test_no_dtype_or_length_lets_a_row_of_no_mass_pass(dtype: str, size: int) -> None:
    p = np.zeros((2, size), jnp.dtype(dtype))
    p[0, 0] = 1
    with fails(r"row \(1,\) sums to 0, which is 1 from 1"):
        testing.assert_on_simplex(p)
    p[1, ::2] = 0.75 / (size / 2)
    if p[1, 0] > 0:
        with fails(r"row \(1,\) sums to 0\.7"):
            testing.assert_on_simplex(p, atol=0.2)


# --- assert_mask_keeps -----------------------------------------------------------------------


@pytest.mark.parametrize("entry", [e for e in MASKS if e.name != "typical_mask"], ids=str)
def test_masks_of_jsoftmax_keep_the_most_probable(entry: Entry) -> None:
    """Of every truncation but that by typicality, which may leave the most probable out."""
    for i in range(3):
        mask = entry(FAMILY, **entry.setting(i))
        testing.assert_mask_keeps(mask, FAMILY)


@pytest.mark.parametrize("ties", ["all", "first"])
def test_masks_of_a_mass_or_a_count(ties: str) -> None:
    for p in (0.3, 0.9, 0.999):
        testing.assert_mask_keeps(jsoftmax.top_p_mask(FAMILY, p, ties=ties), FAMILY, mass=p)
    for k in (1, 2, 40, 129, 500):
        testing.assert_mask_keeps(jsoftmax.top_k_mask(FAMILY, k, ties=ties), FAMILY, count=k)
    where = np.random.default_rng(3).random(X.shape) < 0.6
    mask = jsoftmax.truncation_mask(X, temperature=0.5, top_p=0.8, where=where)
    testing.assert_mask_keeps(mask, X, mass=0.8, temperature=0.5, where=where)
    mask = jsoftmax.top_p_mask(X.T, 0.8, axis=0, ties=ties)
    testing.assert_mask_keeps(mask, X.T, mass=0.8, axis=0)


def test_at_an_infinite_temperature_all_that_is_allowed_ties() -> None:
    x = jnp.array([[1.0, 2.0, 3.0, -jnp.inf]] * 2)
    hot = jnp.array([jnp.inf, 1.0])
    mask = jsoftmax.truncation_mask(x, temperature=hot, top_p=0.5)
    assert mask[0].sum() == 3
    testing.assert_mask_keeps(mask, x, mass=0.5, temperature=hot)
    fewer = (x < 3) & (x > -jnp.inf)
    testing.assert_mask_keeps(fewer, x, where=x < 3, mass=0.5, temperature=jnp.inf)
    with pytest.raises(AssertionError, match=r"row \(0,\) keeps 1 entries of mass 0.333"):
        testing.assert_mask_keeps(x == 3, x, mass=0.5, temperature=hot)


def test_logits_of_64_bits_are_not_wrapped() -> None:
    x = np.array([5, 2**33, 4])
    testing.assert_mask_keeps(jsoftmax.top_k_mask(x, 1), x, count=1)
    testing.assert_mask_keeps(np.array([False, True, False]), x, mass=0.9)


def test_masks_that_keep_the_wrong_entries() -> None:
    x = np.log(np.array([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]], np.float32))

    def mask(*row: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return np.array([row, (1, 0, 0, 0)], bool)

    for kept, message, options in (
        ((0, 0, 0, 0), r"row \(0,\) keeps nothing", {}),
        ((0, 1, 0, 0), r"row \(0,\) leaves an entry out and keeps one less probable", {}),
        ((1, 1, 0, 1), r"row \(0,\) leaves an entry out and keeps one less probable", {}),
        ((1, 1, 1, 0), r"row \(0,\) keeps more than mass=0.25 needs", {"mass": 0.25}),
        (
            (1, 0, 0, 0),
            r"row \(0,\) keeps 1 entries of mass 0.4, less than mass=0.5",
            {"mass": 0.5},
        ),
        ((1, 1, 0, 0), r"row \(0,\) keeps more than count=1 needs", {"count": 1}),
        ((1, 0, 0, 0), r"row \(0,\) keeps fewer than count=2 entries", {"count": 2}),
        ((1, 1, 0, 0), r"row \(0,\) keeps an entry that is not allowed", {"where": x < -1}),
    ):
        with fails(message):
            testing.assert_mask_keeps(mask(*kept), x, **options)
    # Ties at the cut may be kept or left out.
    testing.assert_mask_keeps(mask(1, 0, 0, 0), x, count=1, mass=0.25)
    with fails(r"the mask has shape \(4,\), not \(2, 4\)"):
        testing.assert_mask_keeps(np.ones(4, bool), x)
    holes = np.array([0.0, -np.inf, 1.0], np.float32)
    with fails(r"row \(\) keeps an entry that is not allowed"):
        testing.assert_mask_keeps(np.ones(3, bool), holes)
    testing.assert_mask_keeps(np.ones(3, bool), np.array([0.0, np.nan, 1.0], np.float32))
    # A temperature per row.
    p = np.array([[0.5, 0.3, 0.15, 0.05]] * 2, np.float32)
    logits, temperature = np.log(p), np.array([1.0, 0.5])
    nucleus = jsoftmax.truncation_mask(logits, temperature=temperature, top_p=0.9)
    testing.assert_mask_keeps(nucleus, logits, mass=0.9, temperature=temperature)
    with fails(r"row \(0,\) keeps 2 entries of mass 0.8, less than mass=0.9"):
        testing.assert_mask_keeps(nucleus[::-1], logits, mass=0.9, temperature=temperature)
    for shape in ((0, 4), (2, 0)):
        testing.assert_mask_keeps(np.ones(shape, bool), np.zeros(shape, np.float32), mass=0.5)


def test_arguments_of_the_mask_s_assertion() -> None:
    mask = np.ones(X.shape, bool)
    for options, message in (
        ({"mass": 0.0}, r"mass must be a number in \(0, 1\], got 0.0"),
        ({"mass": 1.5}, r"mass must be a number in \(0, 1\], got 1.5"),
        ({"mass": np.ones(2)}, r"mass must be a number in \(0, 1\], got \[1. 1.\]"),
        (
            {"temperature": np.ones(5)},
            r"temperature .*broadcast to the batch shape \(4,\) .*, got shape \(5,\)",
        ),
        ({"count": 0}, "count must be at least 1, got count=0"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"axis": 2}, r"axis must be in \[-2, 2\) for logits of 2 dimensions, got axis=2"),
    ):
        with pytest.raises(ValueError, match=f"assert_mask_keeps: {message}"):
            testing.assert_mask_keeps(mask, X, **options)
    with pytest.raises(TypeError, match=r"count must be an integer, got 2\.5"):
        testing.assert_mask_keeps(mask, X, count=2.5)
    with pytest.raises(TypeError, match="mask must be boolean, got dtype float32"):
        testing.assert_mask_keeps(np.ones(X.shape, np.float32), X)
    with pytest.raises(TypeError, match=r"logits must be real numbers .*, got dtype bool"):
        testing.assert_mask_keeps(mask, mask)
    for integers in (X.astype(np.int32), jnp.asarray(X, jnp.int32)):
        testing.assert_mask_keeps(mask, integers)
    with pytest.raises(AssertionError, match=r"the mask has shape \(3,\), not "):
        testing.assert_mask_keeps(np.ones(3, bool), X)
    with pytest.raises(ValueError, match=r"where must broadcast to shape .*, got shape \(7,\)"):
        testing.assert_mask_keeps(mask, X, where=np.ones(7, bool))


# --- assert_stable_gradients -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gradients_of_jsoftmax_are_stable(dtype: str) -> None:
    edge = jnp.asarray([[0.5, -np.inf, 1.0, 80.0], [3e4, -3e4, 2e4, 0.0]], jnp.dtype(dtype))
    for function in (jsoftmax.softmax, jsoftmax.log_softmax, jsoftmax.logsumexp, jsoftmax.entropy):
        testing.assert_stable_gradients(function, edge)
    testing.assert_stable_gradients(
        lambda x, t, y: jsoftmax.cross_entropy(x, y, temperature=t), edge, 0.7, np.array([0, 3])
    )


def naive(x: jax.Array) -> jax.Array:
    """The entropy that everybody writes first."""
    p = jax.nn.softmax(x)
    return -jnp.sum(p * jnp.log(p))


@jax.custom_vjp
def reverse_only(x: jax.Array) -> jax.Array:
    """x^2, with a reverse rule that keeps eight bits, and no other."""
    return x * x


reverse_only.defvjp(
    lambda x: (x * x, x),
    lambda x, g: (2 * g * (x if x.dtype == jnp.float64 else x.astype("bfloat16").astype(x.dtype)),),
)


@jax.custom_jvp
def rounded(x: jax.Array) -> jax.Array:
    """x^2, with a derivative that keeps eight bits."""
    return x * x


@rounded.defjvp
def _rounded_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Any, Any]:
    (x,), (v,) = primals, tangents
    slope = (2 * x).astype(jnp.bfloat16).astype(x.dtype)
    return x * x, jnp.where(x.dtype == jnp.float64, 2 * x, slope) * v


def past_a_branch(x: jax.Array) -> jax.Array:
    beyond = x - jnp.asarray(0.7, x.dtype)
    return jnp.where(beyond == 0, 0, jnp.sqrt(jnp.where(beyond == 0, 1, beyond)))


def test_arguments_that_are_trees() -> None:
    def loss(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jsoftmax.logsumexp(x @ weights["kernel"] + weights["bias"])

    weights = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros((1, 2))}
    testing.assert_stable_gradients(loss, weights, jnp.ones((4, 3)))
    testing.assert_matches_reference(
        loss, lambda w, x: np.log(np.exp(x @ w["kernel"] + w["bias"]).sum(-1)), weights, np.eye(3)
    )
    with fails(r"the gradient of argument 0\['bias'\] is not finite"):
        testing.assert_stable_gradients(lambda w, _: jnp.sqrt(w["bias"]), weights, 1.0)
    with pytest.raises(TypeError, match=r"argument 1\[0\] must be an array or a number, got str"):
        testing.assert_stable_gradients(loss, weights, ["a"])


def test_gradients_that_are_not_stable() -> None:
    with fails(r"result 1 is NaN at \(1,\)"):
        testing.assert_stable_gradients(lambda x: (x, jnp.log(x)), jnp.array([1.0, -1.0]))
    with fails(r"the gradient of argument 0 is not finite: nan at \(0,\)"):
        testing.assert_stable_gradients(naive, jnp.array([1.0, -jnp.inf, 2.0]))
    with fails("the gradient of argument 0 is not finite"):
        testing.assert_stable_gradients(
            lambda x: jnp.log(jnp.exp(x).sum()), jnp.array([100.0, 0.0])
        )
    with fails("the gradient of argument 1 is not finite"):
        testing.assert_stable_gradients(lambda x, y: x * jnp.sqrt(y), jnp.ones(2), jnp.zeros(2))
    # Cancellation: 1 - cos x, where cos x is nearly one.
    with fails(r"the gradient of argument 0 is .* at \(0,\), and .* in float64 \(at most"):
        testing.assert_stable_gradients(
            lambda x: jnp.sqrt(1 - jnp.cos(x)), jnp.array([1e-3], jnp.float32), rtol=0.01
        )
    with fails(r"the gradient of argument 0 is .* at \(1,\), and .* in float64 \(at most"):
        testing.assert_stable_gradients(rounded, jnp.array([1.0, 1.003], jnp.float32))
    testing.assert_stable_gradients(rounded, jnp.array([1.0, 1.003], jnp.float32), rtol=0.01)
    # In float32 the argument is that of the branch; in float64 it is below 0.
    with fails(r"the gradient of argument 0 is 0 at \(0,\), and nan in float64"):
        testing.assert_stable_gradients(past_a_branch, jnp.array([0.7, 2.0], jnp.float32))
    with pytest.raises(TypeError, match="no argument is floating-point"):
        testing.assert_stable_gradients(lambda x: x, np.arange(3))


def test_functions_that_have_reverse_mode_only() -> None:
    hidden, weight = jnp.asarray(X), jnp.asarray(X[:, ::2])
    labels = np.arange(len(X))
    testing.assert_stable_gradients(
        lambda hidden, weight: jsoftmax.linear_cross_entropy(hidden.T, weight, labels[:3]),
        hidden[:, :3],
        weight,
    )
    x = jnp.array([1.0, 1.003], jnp.float32)
    with fails(r"the gradient of argument 0 is .* at \(1,\), and .* in float64 \(at most"):
        testing.assert_stable_gradients(reverse_only, x)
    with pytest.raises(TypeError, match="of the function's own"):
        testing.assert_stable_gradients(_refuses_tangents, x)
    calls = itertools.count()

    def tired(x: jax.Array) -> jax.Array:
        if next(calls):
            raise TypeError("of the second call")
        return x * x

    with pytest.raises(TypeError, match="of the second call"):
        testing.assert_stable_gradients(tired, x)


@jax.custom_jvp
def _refuses_tangents(x: jax.Array) -> jax.Array:
    return x


@_refuses_tangents.defjvp
def _refuses_tangents_jvp(*_: Any) -> Any:
    raise TypeError("of the function's own")


@jax.custom_jvp
def doubled(x: jax.Array) -> jax.Array:
    return jax.nn.softmax(x)


@doubled.defjvp
def _doubled_jvp(x: tuple[jax.Array], dx: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y, dy = jax.jvp(jax.nn.softmax, x, dx)
    return y, 2 * dy


@jax.custom_vjp
def negated(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Its gradient by the scale has the wrong sign."""
    return scale * jax.nn.softmax(x)


negated.defvjp(
    lambda x, scale: (negated(x, scale), (x, scale)),
    lambda kept, g: (
        jax.vjp(lambda x: kept[1] * jax.nn.softmax(x), kept[0])[1](g)[0],
        -jnp.sum(jax.nn.softmax(kept[0]) * g),
    ),
)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_rules_that_are_wrong(dtype: str) -> None:
    x = jnp.asarray(rows.normal(40, 1.0).reshape(2, 20), dtype)
    with fails("along a direction of argument 0 the gradient says a slope of .*, and the values"):
        testing.assert_stable_gradients(doubled, x)
    with fails("along a direction of argument 1 the gradient says a slope of .*, and the values"):
        testing.assert_stable_gradients(negated, x, jnp.asarray(0.7, dtype))
    testing.assert_stable_gradients(doubled, x, rtol=np.inf)
    # Of what does not depend on x, and of what it is said not to depend on.
    for function in (lambda x: x - jax.lax.stop_gradient(2 * x), jax.lax.stop_gradient):
        with fails("along a direction of argument 0"):
            testing.assert_stable_gradients(function, x)


def test_values_that_do_not_tell_the_derivative() -> None:
    x = jnp.asarray([1.0, 0.0, 0.0, -2.0])
    testing.assert_stable_gradients(jax.nn.relu, x)
    testing.assert_stable_gradients(jnp.max, jnp.asarray([1.0, 1.0, 0.0]))
    testing.assert_stable_gradients(lambda x, t: jsoftmax.softmax(x, temperature=t), x, 0.0)
    straight = lambda x: x + jax.lax.stop_gradient(jnp.floor(x) - x)  # noqa: E731
    testing.assert_stable_gradients(straight, x + 0.5)
    testing.assert_stable_gradients(lambda x: jnp.sin(x.astype("bfloat16")), x, rtol=0.02)
    testing.assert_stable_gradients(lambda x: jnp.sin(x.astype("float32")), x)
    # At a stationary point, and where a step changes nothing.
    testing.assert_stable_gradients(jnp.square, jnp.zeros(3))
    testing.assert_stable_gradients(jnp.sin, jnp.asarray([1e6, -1e6]), rtol=0.1)


def test_results_that_are_no_arrays_of_jax() -> None:
    testing.assert_stable_gradients(lambda x: (jnp.sum(x), 0, np.ones(2)), jnp.ones(3))


def test_forward_and_reverse_mode_that_differ() -> None:
    with fails("forward mode gives .* and reverse mode"):
        testing.assert_stable_gradients(
            lambda x: _transposed_wrongly(x).sum(), jnp.array([1.0, 2.0], jnp.float32)
        )


def _transposed_wrongly(x: jax.Array) -> jax.Array:
    """The identity, whose transpose is twice that."""
    return jax.custom_derivatives.linear_call(lambda _, x: x, lambda _, g: 2 * g, (), x)


# --- assert_matches_reference ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_matches_its_own_reference_and_numpy_s(dtype: str) -> None:
    x = jnp.asarray(FAMILY, jnp.dtype(dtype))
    testing.assert_matches_reference(jsoftmax.softmax, jsoftmax.softmax, x)
    testing.assert_matches_reference(
        jsoftmax.softmax, lambda x: reference.over_rows(reference.softmax_row, x), x
    )
    testing.assert_matches_reference(
        lambda x: (jsoftmax.top_k_mask(x, 3), jnp.argmax(x, -1)),
        lambda x: (jsoftmax.top_k_mask(x, 3), np.argmax(x, -1)),
        x,
    )


def test_what_does_not_match() -> None:
    x = jnp.asarray(X)
    for function, other, message in (
        (
            jsoftmax.sparsemax,
            jsoftmax.softmax,
            r"result 0 is .* at \(0, 0\), and .* in the reference",
        ),
        (
            lambda x: x[0],
            lambda x: x,
            r"result 0 has shape \(15,\), and \(4, 15\) in the reference",
        ),
        (lambda x: (x, x), lambda x: x, "2 results, and 1 in the reference"),
        (lambda x: x * jnp.nan, lambda x: x, r"result 0 is nan at \(0, 0\)"),
        (lambda x: x, lambda x: x * np.nan, r"result 0 is .*, and nan in the reference"),
        (lambda x: x * jnp.inf, lambda x: -x * np.inf, r"result 0 is .*inf"),
        (lambda x: x > 0, lambda x: x >= 0.5, r"result 0 is 1 at .*, and 0.0 in the reference"),
        (
            lambda x: x + (1e-4 if isinstance(x, jax.core.Tracer) else 0),
            lambda x: x,
            r"result 0 is .* at \(0, 0\) under jax.jit, and",
        ),
    ):
        with fails(f"assert_matches_reference: {message}"):
            testing.assert_matches_reference(function, other, x)
    testing.assert_matches_reference(lambda x: x * 1.001, lambda x: x, x, rtol=2e-3)
    testing.assert_matches_reference(lambda x: x + 1e-4, lambda x: x, x, atol=2e-4)


def test_too_large_for_the_dtype_is_infinite() -> None:
    x = jnp.asarray([6e4, -6e4], jnp.float16)
    testing.assert_matches_reference(lambda x: x * 2, lambda x: x * 2, x)


def test_what_rounds_to_the_largest_float_is_not_infinite() -> None:
    x = jnp.float16([32752.0])
    testing.assert_matches_reference(lambda x: jnp.full_like(x, 65504), lambda x: 2 * x + 2, x)
    with fails("result 0 is 65504 at"):
        testing.assert_matches_reference(lambda x: jnp.full_like(x, 65504), lambda x: 2 * x + 16, x)


def test_complex_numbers_and_keys() -> None:
    x = jnp.arange(3.0)

    def above(x: jax.Array) -> jax.Array:
        return jax.lax.complex(x, jnp.ones_like(x))

    testing.assert_matches_reference(above, above, x)
    with fails(r"result 0 is 0\+1j at \(0,\), and -1j in the reference"):
        testing.assert_matches_reference(above, lambda x: above(x).conj(), x)
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        testing.assert_matches_reference(
            jsoftmax.sample, lambda key, x: jsoftmax.sample(key, np.float32(x)), key, x
        )


# --- all of them -----------------------------------------------------------------------------


def test_a_tracer_is_refused_by_name() -> None:
    uses: dict[str, Callable[[jax.Array], None]] = {
        "assert_on_simplex": testing.assert_on_simplex,
        "assert_mask_keeps": lambda x: testing.assert_mask_keeps(np.ones(3, bool), x),
        "assert_stable_gradients": lambda x: testing.assert_stable_gradients(jsoftmax.softmax, x),
        "assert_matches_reference": lambda x: testing.assert_matches_reference(abs, abs, x),
    }
    assert sorted(uses) == sorted(testing.__all__)
    for name, use in uses.items():
        with pytest.raises(TypeError, match=f"{name}: values are not known"):
            jax.jit(use)(jnp.zeros(3))


def test_arguments_that_are_no_numbers() -> None:
    x = jnp.array([1.0, 2.0])
    for argument, call in (
        ("p", lambda: testing.assert_on_simplex(None)),
        ("p", lambda: testing.assert_on_simplex("a")),
        ("logits", lambda: testing.assert_mask_keeps(x > 0, "x")),
        ("temperature", lambda: testing.assert_mask_keeps(x > 0, x, temperature="x")),
    ):
        with pytest.raises(TypeError, match=f"{argument} must be an array or a number, got "):
            call()
    with pytest.raises(ValueError, match=r"mass must be a number in \(0, 1\], got x"):
        testing.assert_mask_keeps(x > 0, x, mass="x")


def test_an_infinite_reference_without_a_relative_tolerance() -> None:
    testing.assert_matches_reference(
        jsoftmax.log_softmax, jsoftmax.log_softmax, jnp.array([1.0, -jnp.inf]), rtol=0.0, atol=1e-6
    )
