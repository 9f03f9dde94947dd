"""Sums, quotients and logarithms as two floats, of which the second is what rounding took from the
first; and the exponential.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from jsoftmax._exact import (
    add_exactly,
    divide_exactly,
    halves,
    leading_digits,
    multiply_exactly,
    reciprocal,
    sum_exactly,
)
from jsoftmax._exp import exp, exp_exactly, exp_of_difference, exp_of_quotient, log_exactly
from jsoftmax._sweep import exact_sum
from tests import rows

EPS = float(np.finfo(np.float32).eps)


def two(parts: tuple[jax.Array, jax.Array]) -> np.ndarray:
    """Their sum, which is closer to the right value than a float32 can be."""
    first, lack = (np.asarray(part, np.float64) for part in parts)
    assert (np.abs(lack) <= 64 * EPS * np.abs(first)).all()
    return first + lack


def wider(dtype: type) -> type:
    """A float with more digits, for reference."""
    if dtype == np.float32:
        return np.float64
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("no long double on this machine to compare float64 with")
    return np.longdouble


def masses(length: int) -> np.ndarray:
    """Weights as a softmax sums them: alike, of all sizes, and a few over a flat rest."""
    alike = np.full(length, np.exp(-17.0))
    few = alike.copy()
    few[:: max(length // 3, 1)] = 1
    wide = np.exp(-np.abs(rows.normal(length, 20.0)).astype(np.float64))
    return np.stack([alike, few, few[::-1], wide]).astype(np.float32)


def test_a_sum_of_two_is_exact() -> None:
    a, b = (rows.normal(4000, scale, seed) for seed, scale in enumerate((1.0, 1e-3)))
    got = two(jax.jit(add_exactly)(a, b))
    np.testing.assert_array_equal(got, a.astype(np.float64) + b)


@pytest.mark.parametrize("length", [1, 5, 256, 257, 3000, 40_000])
@pytest.mark.parametrize("batch", [1, 32], ids=["alone", "in a batch"])
def test_a_sum_of_many_is_exact(length: int, batch: int) -> None:
    x = np.repeat(masses(length), batch, axis=0)
    got = two(jax.jit(sum_exactly)(x))[:, 0]
    want = [math.fsum(map(float, row)) for row in x]
    np.testing.assert_allclose(got, want, rtol=1e-11)


@pytest.mark.parametrize(
    "length", [1, 2, 16, 17, 100, 1000, 1023, 1024, 1031, 1733, 50_257, 128_256]
)
def test_a_sum_of_a_row_loses_no_digit(length: int) -> None:
    """Of any length: one that is divided into pieces, and prime ones. Small entries count.

    (A plain sum of float32 loses 1e-6 and more of such rows.)
    """
    x = masses(length)
    got = two(jax.jit(lambda x: exact_sum(x, -1))(x))[:, 0]
    want = x.astype(np.float64).sum(-1)
    np.testing.assert_allclose(got, want, rtol=2 * EPS)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_short_sum_is_the_same_along_any_axis(axis: int) -> None:
    x = np.moveaxis(np.exp(rows.normal(5 * 7 * 11, 3.0)).reshape(5, 7, 11), -1, axis)
    total, lack = jax.jit(lambda x: exact_sum(x, axis))(x)
    want_total, want_lack = exact_sum(jnp.moveaxis(x, axis, -1), -1)
    np.testing.assert_array_equal(np.squeeze(total, axis), want_total[..., 0])
    np.testing.assert_array_equal(np.squeeze(lack, axis), want_lack[..., 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_a_reciprocal_has_twice_the_digits(scale: float, dtype: type) -> None:
    wide = wider(dtype)
    random = np.random.default_rng(0)
    eps = np.finfo(dtype).eps
    with jax.enable_x64(dtype == np.float64):
        x = (random.uniform(1, 2, 2000) * scale).astype(dtype)
        lack = (x * random.uniform(-eps / 2, eps / 2, 2000)).astype(dtype)
        first, rest = (np.asarray(part, wide) for part in jax.jit(reciprocal)(x, lack))
        want = 1 / (x.astype(wide) + lack.astype(wide))
    assert np.abs((first + rest) / want - 1).max() < eps / 64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_halves_multiply_without_rounding(dtype: type) -> None:
    wide = wider(dtype)
    random = np.random.default_rng(2)
    with jax.enable_x64(dtype == np.float64):
        x, y = (random.uniform(1, 2, 2000).astype(dtype) for _ in range(2))
        x_halves, y_halves = (list(map(np.asarray, jax.jit(halves)(a))) for a in (x, y))
    np.testing.assert_array_equal(x_halves[0].astype(wide) + x_halves[1], x.astype(wide))
    for a, b in ((0, 0), (0, 1), (1, 0)):
        exact = x_halves[a].astype(wide) * y_halves[b]
        np.testing.assert_array_equal(x_halves[a] * y_halves[b], exact)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_products_and_quotients_have_twice_the_digits(scale: float, dtype: type) -> None:
    wide = wider(dtype)
    random = np.random.default_rng(3)
    eps = np.finfo(dtype).eps
    with jax.enable_x64(dtype == np.float64):
        x, y = ((random.uniform(1, 2, 2000) * scale).astype(dtype) for _ in range(2))
        lack = (x * random.uniform(-eps / 2, eps / 2, 2000)).astype(dtype)
        product = [np.asarray(part, wide) for part in jax.jit(multiply_exactly)(x, y)]
        quotient = [np.asarray(part, wide) for part in jax.jit(divide_exactly)(x, lack, y)]
    x, y, lack = (a.astype(wide) for a in (x, y, lack))
    assert np.abs(sum(product) / (x * y) - 1).max() < eps / 64
    assert np.abs(sum(quotient) / ((x + lack) / y) - 1).max() < eps / 64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_logarithm_has_more_digits(dtype: type) -> None:
    """However large the logarithm is."""
    wide = wider(dtype)
    random = np.random.default_rng(1)
    eps = np.finfo(dtype).eps
    with jax.enable_x64(dtype == np.float64):
        x = np.exp(random.uniform(0.3, 80, 4000)).astype(dtype)
        lack = (x * random.uniform(-eps / 2, eps / 2, 4000)).astype(dtype)
        first, rest = (np.asarray(part, wide) for part in jax.jit(log_exactly)(x, lack))
        want = np.log(x.astype(wide) + lack.astype(wide))
    assert np.abs(first + rest - want).max() < (eps / 8 if dtype == np.float32 else eps / 2)
    assert (np.abs(rest) <= eps * np.abs(first)).all()


@pytest.mark.parametrize("length", [3, 5, 6, 7, 9, 17])
def test_equal_numbers_have_one_exponential_in_every_lane(length: int) -> None:
    """LLVM contracts products and sums in some lanes of a short row, and not in others."""
    random = np.random.default_rng(length)
    x = np.repeat(-random.uniform(0, 30, (40_000, 1)), length, axis=1).astype(np.float32)
    # Two sorts of lanes: where all are alike a compiler may compute one.
    x[:, ::2] -= random.uniform(0, 5, (40_000, 1)).astype(np.float32)
    most = x.max(-1, keepdims=True)
    functions = {
        "exp": lambda x, y: exp(x - y),
        "of a difference": exp_of_difference,
        "of a quotient": lambda x, y: exp_of_quotient(*add_exactly(x, -y), y * y + 0.3),
        "softmax": lambda x, _: jsoftmax.softmax(x),
        "softmax at T": lambda x, _: jsoftmax.softmax(x, temperature=0.7),
        "log_softmax": lambda x, _: jsoftmax.log_softmax(x, temperature=0.7),
        "gradient": jax.grad(lambda x, _: jsoftmax.logsumexp(x).sum()),
    }
    for name, function in functions.items():
        got = np.asarray(jax.jit(function)(x, most))
        for lanes in (got[:, ::2], got[:, 1::2]):
            np.testing.assert_array_equal(lanes, lanes[:, :1].repeat(lanes.shape[1], 1), name)


LEAST = math.log(float(np.finfo(np.float32).tiny))


def test_the_exponential_is_rounded_well() -> None:
    """Within 0.89 units in the last place, wherever it is a normal float (XLA's own: 1.01)."""
    x = np.concatenate([np.linspace(LEAST + 1e-5, 88, 2_000_001), -np.logspace(-30, 1.9, 100_000)])
    x = np.sort(x.astype(np.float32))
    got = np.asarray(jax.jit(exp)(x), np.float64)
    want = np.exp(x.astype(np.float64))
    ulp = np.spacing(want.astype(np.float32)).astype(np.float64)
    assert (np.abs(got - want) / ulp).max() < 0.89


def test_the_exponential_in_two_words() -> None:
    """With what it lacks, an eighth of a unit in the last place."""
    x = rows.normal(400_000, 25.0).clip(-60, 87)
    got = sum(np.asarray(part, np.float64) for part in jax.jit(exp_exactly)(x))
    want = np.exp(x.astype(np.float64))
    assert (np.abs(got / want - 1)).max() < 0.15 * EPS


def test_the_exponential_of_a_difference() -> None:
    """Of any size: what rounding takes from the difference, hundreds of eps here, counts."""
    most = rows.normal(400_000, 30.0, seed=1)
    x = most - np.abs(rows.normal(400_000, 30.0, seed=2)).clip(0, 85)
    got = np.asarray(jax.jit(exp_of_difference)(x, most), np.float64)
    want = np.exp(x.astype(np.float64) - most)
    assert (np.abs(got / want - 1)).max() < 0.65 * EPS
    np.testing.assert_array_equal(exp_of_difference(most, most), 1)
    for dtype in (jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            none = exp_of_difference(jnp.array([-jnp.inf, -3e38], dtype), jnp.array(3e38, dtype))
            np.testing.assert_array_equal(none, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1e-15, 0.3, 0.75, 2.5, 1e15])
def test_the_exponential_of_a_quotient(temperature: float, dtype: type) -> None:
    """What rounding takes from the difference, and from the quotient, counts."""
    wide = wider(dtype)
    eps = np.finfo(dtype).eps
    with jax.enable_x64(dtype == np.float64):
        divisor = np.asarray([temperature], dtype)
        most = (rows.normal(100_000, 30.0, seed=1) * temperature).astype(dtype)
        x = most - (np.abs(rows.normal(100_000, 30.0, seed=2)).clip(0, 85) * divisor).astype(dtype)
        got = jax.jit(lambda x, y, t: exp_of_quotient(*add_exactly(x, -y), t))(x, most, divisor)
        got = np.asarray(got, wide)
        zero = jnp.zeros(4, dtype)
        equal = exp_of_quotient(zero, zero, divisor)
        none = exp_of_quotient(jnp.array([-jnp.inf, -3e38], dtype), zero[:2], divisor)
    want = np.exp((x.astype(wide) - most) / divisor.astype(wide))
    assert (np.abs(got / want - 1)).max() < (1 if dtype == np.float32 else 1.5) * eps
    np.testing.assert_array_equal(equal, 1)
    np.testing.assert_array_equal(none, 0)


def test_leading_digits_add_up_without_rounding() -> None:
    x = masses(2000)
    most = x.sum(-1, keepdims=True)
    leading, rest = (np.asarray(part) for part in jax.jit(leading_digits)(x, most))
    np.testing.assert_array_equal(leading.astype(np.float64) + rest, x)
    np.testing.assert_array_equal(np.cumsum(leading, -1), np.cumsum(leading.astype(np.float64), -1))
    assert (np.abs(rest) <= 8 * EPS * most).all()


def test_the_exponential_at_its_ends() -> None:
    x = jnp.array([-jnp.inf, -1e30, LEAST - 1e-4, -0.0, 0.0, 89.0, jnp.inf, jnp.nan], jnp.float32)
    want = np.array([0, 0, 0, 1, 1, np.inf, np.inf, np.nan], np.float32)
    for function in (exp, jax.jit(exp), jax.vmap(exp)):
        np.testing.assert_array_equal(function(x), want)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.grad(exp)))(x), want)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_exponential_of_other_dtypes_is_that_of_jax(dtype: type) -> None:
    with jax.enable_x64(dtype == np.float64):
        x = rows.normal(1000, 3.0).astype(dtype)
        got, want = jax.jit(exp)(x), jax.jit(jnp.exp)(x)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want)
