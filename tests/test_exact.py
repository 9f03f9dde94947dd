"""Sums, quotients and logarithms as two floats: the second is what rounding took from the first."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax._exact import add_exactly, log_exactly, reciprocal, sum_exactly
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


@pytest.mark.parametrize("length", [1, 2, 16, 1024, 1031, 1733, 50_257, 128_256])
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
def test_a_logarithm_has_more_digits(dtype: type) -> None:
    """Half an eps of log 1.4 at most, however large the logarithm is."""
    wide = wider(dtype)
    random = np.random.default_rng(1)
    eps = np.finfo(dtype).eps
    with jax.enable_x64(dtype == np.float64):
        x = np.exp(random.uniform(0.3, 80, 4000)).astype(dtype)
        lack = (x * random.uniform(-eps / 2, eps / 2, 4000)).astype(dtype)
        first, rest = (np.asarray(part, wide) for part in jax.jit(log_exactly)(x, lack))
        want = np.log(x.astype(wide) + lack.astype(wide))
    assert np.abs(first + rest - want).max() < eps / 2
    assert (np.abs(rest) <= eps * np.abs(first)).all()
