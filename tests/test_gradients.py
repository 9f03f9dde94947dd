"""Derivatives to third order, in both modes, against closed forms and numerical differences."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax
from jsoftmax import cross_entropy, entropy, log_softmax, logsumexp, sample_and_log_prob, softmax
from tests import rows

INF = np.inf
Function = Callable[..., jax.Array]

# What each function is on a row without -inf or masks, in operations that jax differentiates by
# itself.
PLAIN: dict[str, tuple[Function, Function]] = {
    "softmax": (softmax, lambda x, t: jnp.exp(x / t) / jnp.exp(x / t).sum(-1, keepdims=True)),
    "log_softmax": (
        log_softmax,
        lambda x, t: x / t - jnp.log(jnp.exp(x / t).sum(-1, keepdims=True)),
    ),
    "logsumexp": (logsumexp, lambda x, t: t * jnp.log(jnp.exp(x / t).sum(-1))),
    "entropy": (
        entropy,
        lambda x, t: (
            jnp.log(jnp.exp(x / t).sum(-1))
            - (x / t * jnp.exp(x / t)).sum(-1) / jnp.exp(x / t).sum(-1)
        ),
    ),
}
every_map = pytest.mark.parametrize(("function", "plain"), PLAIN.values(), ids=PLAIN.keys())


def weighted(function: Function, **settings: Any) -> Function:
    """A scalar function: the output times fixed weights, with infinite outputs left out."""

    def total(x: jax.Array, temperature: jax.Array) -> jax.Array:
        y = function(x, temperature=temperature, **settings)
        weight = jnp.sin(1.0 + jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return jnp.where(jnp.isfinite(y), jnp.where(jnp.isfinite(y), y, 0) * weight, 0).sum()

    return total


@every_map
def test_check_grads_to_third_order(function: Function, plain: Function) -> None:
    """Numerical differences of each order, in the logits and the temperature, with a masked entry.

    Not by chex.assert_numerical_grads: it replaces `stop_gradient` by ones, and so the shift by the
    largest entry too.
    """
    del plain
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)))
        where = jnp.array([[True, True, False, True], [True] * 4])
        temperature = jnp.array([0.8, 1.7])

        @jax.jit
        def finite(x: jax.Array, t: jax.Array) -> jax.Array:
            y = function(x, where=where, temperature=t)
            return jnp.where(jnp.isfinite(y), y, 0)

        check_grads(finite, (x, temperature), order=3, modes=("fwd",), rtol=1e-5, atol=1e-5)
        check_grads(finite, (x, temperature), order=2, modes=("rev",), rtol=1e-5, atol=1e-5)


@every_map
def test_first_three_derivatives_equal_plain_autodiff(function: Function, plain: Function) -> None:
    """Derivatives in x and T and mixed, each order, against jax on the plain formula in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(2).normal(size=4))
        got, want = weighted(function), weighted(lambda x, temperature: plain(x, temperature))

        @functools.partial(jax.jit, static_argnums=0)
        def derivatives(f: Function, x: jax.Array, t: jax.Array) -> Any:
            first = jax.grad(f, (0, 1))
            second = jax.jacfwd(first, (0, 1))
            third = jax.jacfwd(second, (0, 1))
            reverse = jax.jacrev(jax.jacrev(first, (0, 1)), (0, 1))
            return first(x, t), second(x, t), third(x, t), reverse(x, t)

        for number in (0.6, 1.0, 3.0):
            t = jnp.float64(number)
            actual, expected = derivatives(got, x, t), derivatives(want, x, t)
            chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-11)


@every_map
def test_absent_entries_to_third_order(function: Function, plain: Function) -> None:
    """The derivatives of a row with holes are those of the row without them, and 0 at the holes."""
    with jax.enable_x64(True):
        here, hole = np.array([0, 2, 3, 5]), np.array([1, 4])
        short = jnp.asarray(np.random.default_rng(3).normal(size=4))
        t = jnp.float64(0.8)

        def compact(x: jax.Array, temperature: jax.Array) -> jax.Array:
            y = plain(x[here], temperature)
            return y if y.ndim == 0 else jnp.zeros(6, y.dtype).at[here].set(y)

        @functools.partial(jax.jit, static_argnums=0)
        def derivatives(f: Function, x: jax.Array) -> Any:
            gradient = jax.grad(f, (0, 1))
            hessian = jax.jacfwd(gradient, (0, 1))
            third = jax.jacfwd(hessian, 0)(x, t), jax.jacrev(hessian, 0)(x, t)
            return gradient(x, t), hessian(x, t), *third

        expected = derivatives(weighted(compact), jnp.zeros(6).at[here].set(short))
        masked = weighted(functools.partial(function, where=np.isin(np.arange(6), here)))
        for total, filler in ((weighted(function), -INF), (masked, np.nan), (masked, INF)):
            actual = derivatives(total, jnp.full(6, filler).at[here].set(short))
            chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-11)
            np.testing.assert_array_equal(actual[0][0][hole], 0)
            np.testing.assert_array_equal(actual[1][0][0][hole], 0)
            np.testing.assert_array_equal(actual[1][0][0][:, hole], 0)
            np.testing.assert_array_equal(actual[2][0][0][hole], 0)


@every_map
def test_jvp_with_a_hole(function: Function, plain: Function) -> None:
    """Forward mode: the tangent of a -inf or masked entry, whatever it is, stays out."""
    del plain
    x = jnp.asarray(np.array([0.3, -INF, 1.0, -0.5], np.float32))
    where = np.array([True, True, True, False])
    tangents = []
    for junk in (0.0, 5.0, -1e30):
        tangent = jnp.array([1.0, junk, -2.0, junk], x.dtype)
        _, out = jax.jvp(lambda x: function(x, where=where), (x,), (tangent,))
        tangents.append(np.asarray(out))
    assert np.isfinite(tangents[0]).all()
    np.testing.assert_array_equal(tangents[0], tangents[1])
    np.testing.assert_array_equal(tangents[0], tangents[2])
    if tangents[0].ndim:
        np.testing.assert_array_equal(tangents[0][[1, 3]], 0)


@every_map
def test_gradients_are_zero_and_finite_when_nothing_is_allowed(
    function: Function, plain: Function
) -> None:
    del plain
    x = jnp.array([[-INF] * 4, [1.0, np.nan, INF, -INF], [-INF, np.nan, INF, -INF]])
    where = np.array([[True] * 4, [False] * 4, [True, False, False, True]])
    gradient = jax.grad(weighted(functools.partial(function, where=where)), (0, 1))
    both = jax.jit(lambda x, t: (gradient(x, t), jax.jacfwd(gradient, (0, 1))(x, t)))
    for temperature in (1.0, 0.0, INF):
        derivative = both(x, jnp.full((3,), temperature))
        chex.assert_trees_all_equal(derivative, jax.tree.map(jnp.zeros_like, derivative))


@pytest.mark.parametrize("function", [softmax, log_softmax, entropy])
def test_gradients_vanish_at_the_limits_of_temperature(function: Function) -> None:
    x = jnp.array([1.0, 3.0, 3.0, -INF, 0.0], jnp.float32)
    gradient = jax.grad(weighted(function), (0, 1))
    both = jax.jit(lambda x, t: (gradient(x, t), jax.jacfwd(gradient, (0, 1))(x, t)))
    for temperature in (0.0, INF):
        derivative = both(x, jnp.float32(temperature))
        chex.assert_tree_all_finite(derivative)
        chex.assert_trees_all_equal(derivative, jax.tree.map(jnp.zeros_like, derivative))
    assert float(jnp.abs(both(x, jnp.float32(0.7))[0][0]).max()) > 0


SCALES = np.array([[0.5, 0.25, 1.0]], np.float32)
LABEL, SOFT_LABEL = np.array([0]), np.array([[0.25, 0.75, 0.0]], np.float32)
BY_TEMPERATURE: dict[str, Callable[..., jax.Array]] = {
    "softmax": jsoftmax.softmax,
    # The third is infinite, or about.
    "log_softmax": lambda x, **how: jsoftmax.log_softmax(x, **how)[:, :2],
    "logsumexp": jsoftmax.logsumexp,
    "entropy": jsoftmax.entropy,
    "kl_divergence": lambda x, **how: jsoftmax.kl_divergence(x, x * SCALES, **how),
    "cross_entropy": lambda x, **how: jsoftmax.cross_entropy(x, LABEL, **how),
    "of soft labels": lambda x, **how: jsoftmax.cross_entropy(x, SOFT_LABEL, z_loss=0.1, **how),
    "fenchel_young": lambda x, **how: jsoftmax.fenchel_young_loss(x, SOFT_LABEL, alpha=1.0, **how),
    "entmax": jsoftmax.entmax,
    "gumbel_softmax": lambda x, **how: jsoftmax.gumbel_softmax(jax.random.key(0), x, **how),
    "log_prob": lambda x, **how: jsoftmax.sample_and_log_prob(jax.random.key(0), x, **how)[1],
}


@pytest.mark.parametrize("function", BY_TEMPERATURE.values(), ids=BY_TEMPERATURE)
def test_derivatives_by_temperature_beside_the_least_float(
    function: Callable[..., jax.Array],
) -> None:
    """It masks, in many programs: z dT overflows there, where it weighs nothing."""
    x = jnp.array([[1.0, 2.0, np.finfo(np.float32).min]])
    allowed = np.array([[True, True, False]])
    for derivative in (jax.jacfwd, jax.jacrev, jax.hessian):
        for b in (0.3, 1.0, 3.0):
            got, want = (
                derivative(lambda b, where=where: function(x, temperature=1 / b, where=where))(b)
                for where in (np.ones_like(allowed), allowed)
            )
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_gradient_of_logsumexp_is_softmax() -> None:
    x = jnp.asarray(rows.normal(40, 2.0))
    np.testing.assert_allclose(jax.grad(logsumexp)(x), softmax(x), rtol=1e-6)
    by_t = jax.grad(lambda t: logsumexp(x, temperature=t))(jnp.float32(0.7))
    np.testing.assert_allclose(by_t, entropy(x, temperature=0.7), rtol=1e-5)


def test_closed_forms() -> None:
    """J = diag(p) - p p^T for softmax; I - 1 p^T for log_softmax; the Hessian of logsumexp is J."""
    x = jnp.asarray(rows.normal(12, 1.5))
    p = np.asarray(softmax(x), np.float64)
    jacobian = np.diag(p) - np.outer(p, p)
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(mode(softmax)(x), jacobian, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(mode(log_softmax)(x), np.eye(12) - p, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.hessian(logsumexp)(x), jacobian, rtol=1e-5, atol=1e-7)


def test_gradient_rows_sum_to_zero() -> None:
    x = jnp.asarray(rows.normal(512, 3.0).reshape(4, 128))
    weight = jnp.asarray(rows.normal(512, 1.0, seed=9).reshape(4, 128))
    for function in (softmax, log_softmax):
        gradient = jax.grad(lambda x, f=function: (f(x) * weight).sum())(x)
        np.testing.assert_allclose(np.asarray(gradient).sum(-1), 0, atol=2e-5)


def smoothed(x: Any, label: Any) -> jax.Array:
    return cross_entropy(x, label, label_smoothing=0.1, z_loss=1e-3, temperature=0.7)


def of_a_distribution(x: Any, label: Any) -> jax.Array:
    return cross_entropy(x, jax.nn.one_hot(label, x.shape[-1], dtype=x.dtype))


def of_the_draw(x: Any, label: Any) -> jax.Array:
    del label
    return sample_and_log_prob(jax.random.key(0), x, top_p=0.99)[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("function", [cross_entropy, smoothed, of_a_distribution, of_the_draw])
def test_half_precision_gradient_of_a_sure_label_is_rounded_once(
    function: Callable[[Any, Any], jax.Array], dtype: str
) -> None:
    """p - 1 is small there: of p and 1, each rounded to half precision, nothing would be left."""
    x = jnp.concatenate([jnp.arange(0.0, 13, 0.25)[:, None], jnp.zeros((52, 3))], -1).astype(dtype)
    label = jnp.zeros(52, jnp.int32)

    def gradient(x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: function(x, label).astype(jnp.float32).sum())(x)

    half, wide = gradient(x), gradient(x.astype(jnp.float32))
    assert half.dtype == x.dtype
    allowed = 0.51 * float(jnp.finfo(dtype).eps)
    denormal = float(jnp.finfo(dtype).tiny)
    np.testing.assert_allclose(half.astype(jnp.float32), wide, rtol=allowed, atol=denormal / 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_half_precision_gradient_is_accurate(function: Function, dtype: str) -> None:
    """The gradient of half precision logits comes near that of the same numbers in float32."""
    x = jnp.asarray(rows.normal(256, 2.0), jnp.dtype(dtype))
    weight = jnp.asarray(rows.normal(256, 1.0, seed=1), x.dtype)
    gradient = jax.grad(lambda x: (function(x) * weight).astype(jnp.float32).sum())
    half = gradient(x)
    wide = jax.grad(lambda x: (function(x) * weight.astype(jnp.float32)).sum())(
        x.astype(jnp.float32)
    )
    assert half.dtype == x.dtype
    scale = float(jnp.abs(wide).max())
    np.testing.assert_allclose(
        np.asarray(half, np.float32),
        wide,
        rtol=8 * float(jnp.finfo(x.dtype).eps),
        atol=scale * 1e-2,
    )


@pytest.mark.parametrize(
    "function",
    [
        softmax,
        log_softmax,
        logsumexp,
        functools.partial(jsoftmax.temperature_scale, temperature=0.7),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_backward_pass_keeps_one_array_of_the_size_of_the_logits(
    function: Function, dtype: str
) -> None:
    """Counted on what `jax.vjp` carries out of a jitted forward pass."""
    x = jnp.zeros((3, 257), jnp.dtype(dtype))
    kept = jax.tree.leaves(jax.jit(lambda x: jax.vjp(function, x)[1])(x))
    large = [leaf for leaf in kept if leaf.size >= x.size]
    assert len(large) <= 1, [(leaf.shape, leaf.dtype) for leaf in kept]
    assert sum(leaf.size for leaf in kept if leaf.size < x.size) <= 4 * 3
    if function is softmax:
        assert len(large) == 1
        assert large[0].dtype == x.dtype or dtype == "bfloat16"


@pytest.mark.parametrize("function", [softmax, log_softmax, logsumexp, entropy])
def test_value_and_gradient_sum_a_row_once(function: Function) -> None:
    """XLA does not unite two loops that do the same, such as that for rows of large logits."""

    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, pullback = jax.vjp(function, x)
        return value, pullback(jnp.ones_like(value))[0]

    x = jnp.asarray(rows.normal(2 * 4096, 3.0).reshape(2, 4096))
    loops = [jax.jit(f).lower(x).compile().as_text().count(" while(") for f in (function, both)]
    assert loops[0] == loops[1]


@pytest.mark.parametrize("function", [softmax, log_softmax, logsumexp, entropy])
def test_second_derivatives_through_a_loop(function: Function) -> None:
    """Right, or refused: jax 0.10.2 forgets the rules of derivatives inside of loops."""

    def loss(x: jax.Array) -> jax.Array:
        y = jnp.atleast_1d(function(x))
        return (y * jnp.cos(jnp.arange(y.size, dtype=y.dtype))).sum()

    x = jnp.asarray(rows.normal(5, 1.0))
    want = jax.hessian(loss)(x)
    try:
        got = jax.hessian(lambda x: jax.lax.map(loss, x[None]).sum())(x)
    except TypeError:
        assert jax.__version_info__ < (0, 12)
    else:
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_gradient_through_a_mask_that_depends_on_the_logits() -> None:
    x = jnp.asarray(rows.normal(8, 1.0))
    keep = x >= jnp.sort(x)[3]
    masked = jax.grad(
        lambda x: (softmax(x, where=x >= jnp.sort(x)[3]) * jnp.arange(8, dtype=x.dtype)).sum()
    )(x)
    fixed = jax.grad(lambda x: (softmax(x, where=keep) * jnp.arange(8, dtype=x.dtype)).sum())(x)
    np.testing.assert_array_equal(masked, fixed)
    np.testing.assert_array_equal(np.asarray(masked)[~np.asarray(keep)], 0)


@pytest.mark.parametrize("temperature", [1e-20, 1e-30])
def test_no_nan_in_the_derivative_by_a_tiny_temperature(temperature: float) -> None:
    x = jnp.array([1.0, 2.0, 0.0])
    for function in (jsoftmax.softmax, jsoftmax.log_softmax, jsoftmax.logsumexp, jsoftmax.entropy):
        tangent = jax.jacfwd(lambda t, f=function: f(x, temperature=t))(temperature)
        assert not jnp.isnan(tangent).any(), function
    assert not jnp.isnan(jax.jacfwd(lambda t: jsoftmax.temperature_scale(x, t))(temperature)).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_weighs_all_entries_alike_has_no_gradient(dtype: str) -> None:
    """Though the rounded probabilities of a row do not sum to one."""
    x = jnp.asarray(rows.normals(8, 300), dtype)
    moved = jax.grad(lambda x: (1000 * jsoftmax.softmax(x).astype(jnp.float32)).sum())(x)
    assert np.abs(np.asarray(moved, np.float32)).max() < 1e-4
