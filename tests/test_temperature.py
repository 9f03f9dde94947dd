"""temperature_scale and its agreement with `temperature=`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from jsoftmax import entropy, log_softmax, softmax, temperature_scale, truncation_mask
from tests import rows
from tests.compare import assert_close

INF = np.inf
NAMES, ROWS = rows.stacked(33)


def test_divides() -> None:
    x = rows.normal(24, 2.0).reshape(4, 6)
    np.testing.assert_allclose(temperature_scale(x, 0.7), x / np.float32(0.7), rtol=3e-7)
    np.testing.assert_array_equal(temperature_scale(x, 1.0), x)
    np.testing.assert_array_equal(temperature_scale(x, temperature=2.0), x / 2)
    numbers = np.array([0.5, 1, 2, 4], np.float32)
    np.testing.assert_array_equal(temperature_scale(x, numbers), x / numbers[:, None])
    np.testing.assert_array_equal(temperature_scale(x.T, numbers, axis=0), (x / numbers[:, None]).T)


def test_limits() -> None:
    x = np.array([[1.0, 3.0, 3.0, -INF], [2.0, 1.0, 0.0, 9.0], [-INF] * 4], np.float32)
    where = np.array([[True] * 4, [True, True, True, False], [True] * 4])
    np.testing.assert_array_equal(
        temperature_scale(x, 0.0, where=where),
        [[-INF, 0, 0, -INF], [0, -INF, -INF, -INF], [-INF] * 4],
    )
    np.testing.assert_array_equal(
        temperature_scale(x, INF, where=where),
        [[0, 0, 0, -INF], [0, 0, 0, -INF], [-INF] * 4],
    )
    np.testing.assert_array_equal(
        temperature_scale(x, 2.0, where=where),
        [[0.5, 1.5, 1.5, -INF], [1, 0.5, 0, -INF], [-INF] * 4],
    )


@pytest.mark.parametrize("temperature", [0.0, 0.4, 1.0, 3.0, INF])
def test_scaling_first_is_the_same_as_the_setting(temperature: float) -> None:
    """For rows that do not overflow when they are divided."""
    x = ROWS[[name != "ladder" for name in NAMES]]
    scaled = temperature_scale(x, temperature)
    np.testing.assert_allclose(
        softmax(scaled), softmax(x, temperature=temperature), rtol=3e-5, atol=1e-37
    )
    np.testing.assert_allclose(
        log_softmax(scaled), log_softmax(x, temperature=temperature), rtol=3e-6, atol=3e-6
    )
    np.testing.assert_allclose(
        entropy(scaled), entropy(x, temperature=temperature), rtol=2e-5, atol=1e-6
    )
    np.testing.assert_array_equal(
        truncation_mask(scaled, top_k=5), truncation_mask(x, temperature=temperature, top_k=5)
    )


def test_composition() -> None:
    x = rows.normal(40, 2.0)
    twice = temperature_scale(temperature_scale(x, 0.5), 3.0)
    assert_close(twice, np.float64(x) / 1.5, rtol=1e-6)


def test_gradients_of_scale() -> None:
    x = jnp.asarray(rows.normal(6, 2.0))
    weight = jnp.arange(6, dtype=x.dtype)
    total = lambda x, t: jnp.where(jnp.isfinite(y := temperature_scale(x, t)), y * weight, 0).sum()  # noqa: E731
    by_x, by_t = jax.grad(total, (0, 1))(x, jnp.float32(0.7))
    np.testing.assert_allclose(by_x, weight / 0.7, rtol=1e-6)
    np.testing.assert_allclose(by_t, -(weight * x).sum() / 0.49, rtol=1e-5)
    second = jax.grad(lambda t: jax.grad(total, 1)(x, t))(jnp.float32(0.7))
    np.testing.assert_allclose(second, 2 * (weight * x).sum() / 0.343, rtol=1e-5)
    holed = x.at[2].set(-INF)
    by_x, by_t = jax.grad(total, (0, 1))(holed, jnp.float32(0.7))
    np.testing.assert_array_equal(by_x[2], 0)
    assert np.isfinite(by_t)
    for limit in (0.0, INF):
        by_x, by_t = jax.grad(total, (0, 1))(holed, jnp.float32(limit))
        np.testing.assert_array_equal(by_x, jnp.zeros(6))
        np.testing.assert_array_equal(by_t, 0.0)


def test_rows_of_a_batch_may_be_at_different_limits() -> None:
    x = np.repeat(np.array([[1.0, 2.0, 3.0]], np.float32), 4, axis=0)
    numbers = np.array([0.0, 1.0, INF, 0.5], np.float32)
    p = softmax(x, temperature=numbers)
    for row, number in zip(p, numbers, strict=True):
        np.testing.assert_allclose(row, softmax(x[0], temperature=float(number)), rtol=1e-6)
    by_t = jax.grad(lambda t: (softmax(x, temperature=t) * x).sum())(jnp.asarray(numbers))
    np.testing.assert_array_equal(np.asarray(by_t)[[0, 2]], 0)
    assert (np.asarray(by_t)[[1, 3]] != 0).all()


def test_a_huge_temperature_divides_huge_logits() -> None:
    x = np.float32([3e38, -1.5e38, 1e37, 0.0])
    most = np.finfo(np.float32).max
    got = jax.jit(temperature_scale)(x, jnp.full((), most))
    np.testing.assert_allclose(got, x / most, rtol=1e-6)


def test_temperature_scale_does_not_overflow_in_float16() -> None:
    x = jnp.array([60000.0, 0.0], jnp.float16)
    scaled = jsoftmax.temperature_scale(x, 0.5)
    assert scaled.tolist() == [0.0, -np.inf]
    assert jsoftmax.softmax(scaled).tolist() == [1.0, 0.0]
