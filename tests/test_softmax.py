"""softmax, log_softmax, logsumexp: values, limits and identities."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from jsoftmax import log_softmax, logsumexp, softmax
from tests import reference, rows
from tests.compare import assert_close

NAMES, ROWS = rows.stacked(65)
INF = np.inf


def test_agree_with_jax_nn_on_ordinary_rows() -> None:
    x = jnp.asarray(rows.normal(600, 3.0).reshape(4, 150))
    where = jnp.asarray(np.random.default_rng(0).random(x.shape) < 0.7)
    chex.assert_trees_all_close(softmax(x), jax.nn.softmax(x), rtol=1e-6)
    chex.assert_trees_all_close(log_softmax(x), jax.nn.log_softmax(x), rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(logsumexp(x), jax.scipy.special.logsumexp(x, axis=-1), rtol=1e-6)
    chex.assert_trees_all_close(softmax(x, where=where), jax.nn.softmax(x, where=where), rtol=1e-6)
    chex.assert_trees_all_close(softmax(x, 0), jax.nn.softmax(x, axis=0), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 7.0, 1e-3, 1e3])
def test_every_class_of_row(temperature: float) -> None:
    """Within rounding of the float64 reference, where (x - max) / T has one rounding or two."""
    p = np.asarray(jax.jit(softmax)(ROWS, temperature=temperature))
    want = reference.over_rows(reference.softmax_row, ROWS, np.float32(temperature))
    scaled = reference.over_rows(reference.scaled_row, ROWS, np.float32(temperature))
    slack = reference.EPS * (4 + np.where(want > 1e-40, np.abs(scaled), 0.0))
    assert (np.abs(p - want) <= slack * want + 2e-38).all()
    q = jax.jit(log_softmax)(ROWS, temperature=temperature)
    assert_close(
        q,
        reference.over_rows(reference.log_softmax_row, ROWS, np.float32(temperature)),
        rtol=1e-6,
        atol=1e-6,
    )
    z = jax.jit(logsumexp)(ROWS, temperature=temperature)
    want = reference.over_rows(reference.logsumexp_row, ROWS, np.float32(temperature))
    assert_close(z, want, rtol=1e-6, atol=1e-6 * max(temperature, 1))


def test_on_the_simplex() -> None:
    p = softmax(ROWS)
    assert (np.asarray(p) >= 0).all()
    total = np.asarray(p, np.float64).sum(-1)
    nothing = np.array([name == "nothing" for name in NAMES])
    np.testing.assert_allclose(total[~nothing], 1, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(p)[nothing], 0)
    np.testing.assert_array_equal(np.asarray(p)[ROWS == -INF], 0)
    half = np.asarray(softmax(ROWS.astype(jnp.bfloat16)), np.float64).sum(-1)
    np.testing.assert_allclose(half[~nothing], 1, rtol=2**-8)


def test_shift_invariance() -> None:
    x = rows.normal(100, 2.0).round(3)
    x = (x * 256).round() / 256
    for shift in (-300.0, 1024.0, 4096.0):
        np.testing.assert_allclose(softmax(x + np.float32(shift)), softmax(x), rtol=1e-6)
        np.testing.assert_allclose(log_softmax(x + np.float32(shift)), log_softmax(x), rtol=1e-6)
        np.testing.assert_allclose(
            logsumexp(x + np.float32(shift)), logsumexp(x) + shift, rtol=1e-6
        )


def test_exp_of_log_softmax_is_softmax_and_logsumexp_normalises() -> None:
    x = rows.normal(500, 3.0).reshape(5, 100)
    np.testing.assert_allclose(np.exp(log_softmax(x)), softmax(x), rtol=4e-6)
    np.testing.assert_allclose(
        x - np.asarray(logsumexp(x, keepdims=True)), log_softmax(x), atol=2e-6
    )


def test_softmax_over_allowed_equals_softmax_without_the_others() -> None:
    x = rows.normal(50, 2.0)
    where = np.random.default_rng(3).random(50) < 0.5
    short = softmax(x[where])
    full = np.asarray(softmax(x, where=where))
    np.testing.assert_allclose(full[where], short, rtol=1e-6)
    np.testing.assert_array_equal(full[~where], 0)
    np.testing.assert_allclose(log_softmax(x, where=where)[where], log_softmax(x[where]), rtol=1e-6)
    np.testing.assert_array_equal(log_softmax(x, where=where)[~where], -INF)


def test_temperature_zero_is_the_argmax_shared_among_ties() -> None:
    x = np.array(
        [[1.0, 3.0, 3.0, -INF], [2.0, 1.0, 0.0, 1.9], [-INF, -INF, -INF, -INF]], np.float32
    )
    np.testing.assert_array_equal(
        softmax(x, temperature=0.0), [[0, 0.5, 0.5, 0], [1, 0, 0, 0], [0] * 4]
    )
    np.testing.assert_allclose(
        log_softmax(x, temperature=0.0),
        [[-INF, -np.log(2), -np.log(2), -INF], [0, -INF, -INF, -INF], [-INF] * 4],
        rtol=1e-6,
    )
    np.testing.assert_array_equal(logsumexp(x, temperature=0.0), [3, 2, -INF])


def test_temperature_infinity_is_uniform_over_the_allowed() -> None:
    x = np.array([[1.0, 3.0, 8.0, -INF], [2.0, 1.0, -50.0, 1e30], [-INF] * 4], np.float32)
    np.testing.assert_allclose(
        softmax(x, temperature=INF), [[1 / 3] * 3 + [0], [0.25] * 4, [0] * 4], rtol=1e-6
    )
    np.testing.assert_allclose(
        log_softmax(x, temperature=INF)[:2],
        [[-np.log(3)] * 3 + [-INF], [-np.log(4)] * 4],
        rtol=1e-6,
    )
    np.testing.assert_array_equal(logsumexp(x, temperature=INF), [INF, INF, -INF])


def test_logsumexp_of_one_entry_is_the_entry_at_any_temperature() -> None:
    x = np.array([[-2.5, -INF], [7.0, -INF]], np.float32)
    for temperature in (0.0, 0.3, 1.0, 40.0, INF):
        np.testing.assert_array_equal(logsumexp(x, temperature=temperature), [-2.5, 7.0])


def test_temperature_near_zero_approaches_the_limit() -> None:
    x = np.array([0.3, -1.0, 0.3, 0.29], np.float32)
    for temperature in (1e-4, 1e-10, 1e-30):
        np.testing.assert_array_equal(softmax(x, temperature=temperature), [0.5, 0, 0.5, 0])


def test_keepdims_and_axis() -> None:
    x = rows.normal(24, 1.0).reshape(2, 3, 4)
    want = reference.over_rows(reference.logsumexp_row, np.moveaxis(x, 1, -1), 1.0)
    assert_close(logsumexp(x, axis=1), want)
    assert_close(logsumexp(x, 1, keepdims=True), want[:, None, :])
    assert_close(logsumexp(x, -2), want)
    assert logsumexp(x[0, 0], keepdims=True).shape == (1,)
    assert logsumexp(jnp.zeros((3, 0)), keepdims=True).shape == (3, 1)


def test_overflowing_range() -> None:
    """Differences that overflow float32 are still probabilities 0 and 1."""
    biggest = np.finfo(np.float32).max
    x = np.array([[biggest, -biggest, 0], [-biggest, -biggest, -INF]], np.float32)
    np.testing.assert_array_equal(softmax(x), [[1, 0, 0], [0.5, 0.5, 0]])
    np.testing.assert_array_equal(log_softmax(x)[0, 0], 0)
    np.testing.assert_allclose(logsumexp(x), [biggest, -biggest], rtol=1e-6)
    np.testing.assert_array_equal(softmax(x, temperature=1e-6), [[1, 0, 0], [0.5, 0.5, 0]])
    np.testing.assert_allclose(softmax(x[0], temperature=INF), [1 / 3] * 3, rtol=1e-6)
    want = reference.over_rows(reference.softmax_row, x, np.float32(1e38))
    np.testing.assert_allclose(softmax(x, temperature=1e38), want, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_float32(dtype: str) -> None:
    x = jnp.asarray(rows.normal(2000, 4.0).reshape(4, 500), jnp.dtype(dtype))
    for function in (softmax, log_softmax, logsumexp):
        wide = function(x.astype(jnp.float32), temperature=0.9)
        assert function(x, temperature=0.9).dtype == x.dtype
        np.testing.assert_array_equal(function(x, temperature=0.9), wide.astype(x.dtype))


def test_permutation_equivariance() -> None:
    x = rows.normal(300, 2.0)
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_allclose(softmax(x[order]), np.asarray(softmax(x))[order], rtol=1e-6)
    np.testing.assert_allclose(logsumexp(x[order]), logsumexp(x), rtol=1e-6)


def test_any_size_of_the_largest_logit() -> None:
    """Also where floats are so far apart that the shift by a whole number is rounded."""
    peak = np.exp2(np.arange(-4, 120, 0.25)).astype(np.float32)
    for sign in (1, -1):
        x = np.stack([sign * peak, sign * peak, np.full_like(peak, -np.inf)], axis=-1)
        want = np.broadcast_to([0.5, 0.5, 0], x.shape)
        np.testing.assert_allclose(softmax(x), want, rtol=1e-6)


@pytest.mark.parametrize("length", [2, 3, 9, 50, 1030])
def test_nan_is_not_hidden_by_what_overflows(length: int) -> None:
    for huge in (100.0, 1000.0, np.inf):
        x = np.zeros((4, length), np.float32)
        x[1] = huge
        x[1, -1] = np.nan
        for function in (softmax, log_softmax):
            broken = np.isnan(jax.jit(function)(x))
            np.testing.assert_array_equal(broken.all(-1), [False, True, False, False])
            np.testing.assert_array_equal(broken.any(-1), broken.all(-1))


@pytest.mark.parametrize("length", [1031, 2048])
def test_long_rows_of_a_batch_of_any_shape(length: int) -> None:
    x = rows.normal(6 * length, 3.0).reshape(6, length)
    for function in (softmax, log_softmax):
        stacked = jax.jit(function)(x.reshape(2, 3, length)).reshape(6, length)
        np.testing.assert_allclose(stacked, function(x), rtol=5e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gradient_of_a_row_with_nothing_allowed(dtype: str) -> None:
    x = jnp.array([[-jnp.inf] * 3, [0.0, 1.0, -jnp.inf]], dtype)
    values = jnp.array([[0, 1, 2]], dtype)
    gradient = jax.grad(lambda x: (softmax(x) * values).sum())(x)
    np.testing.assert_array_equal(gradient[0], 0)
    assert gradient[1, 0] < 0 < gradient[1, 1]
    assert gradient[1, 2] == 0


@pytest.mark.parametrize(("dtype", "least"), [("float32", 60), ("bfloat16", 60), ("float64", 700)])
def test_softmax_where_the_reciprocal_of_its_sum_would_be_denormal(dtype: str, least: int) -> None:
    """exp(88) is a float, its reciprocal is not."""
    with jax.enable_x64(dtype == "float64"):
        peaks = np.arange(least, least + 45, 0.25)
        x = np.stack([peaks, peaks - 1], axis=-1)
        p = jsoftmax.softmax(jnp.asarray(x, dtype))
        rounded = np.asarray(jnp.asarray(x, dtype), np.float64)
        want = 1 / (1 + np.exp(-(rounded[:, 0] - rounded[:, 1])))
        np.testing.assert_allclose(np.asarray(p[:, 0], np.float64), want, rtol=1e-2)
        long = np.zeros((2, 300_000), np.float32) + np.array([[88.0], [75.9]], np.float32)
        np.testing.assert_allclose(jsoftmax.softmax(long).sum(-1), 1, rtol=1e-4)


@pytest.mark.parametrize("length", [40, 1200])
def test_nearly_equal_entries_in_float64(length: int) -> None:
    with jax.enable_x64(True):
        x = -np.geomspace(2.0**-22, 2.0**-11, length)
        x[0] = 0
        want = np.log1p(np.expm1(x).sum() / length) + np.log(length)
        got = jsoftmax.logsumexp(x)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("temperature", [-1.0, np.nan])
def test_a_row_with_nothing_allowed_has_no_use_for_a_temperature(
    temperature: float, dtype: str
) -> None:
    """One that is traced and bad breaks the rows alone that have something to divide."""
    with jax.enable_x64(dtype == "float64"):
        x = jnp.array([[-INF, -INF, np.nan], [0.0, -INF, np.nan]], dtype)
        where, t = jnp.array([True, True, False]), jnp.asarray(temperature, x.dtype)
        p = jax.jit(softmax)(x, where=where, temperature=t)
        np.testing.assert_array_equal(p.astype(float), [[0, 0, 0], [np.nan, np.nan, 0]])
        log_p = jax.jit(log_softmax)(x, where=where, temperature=t)
        np.testing.assert_array_equal(log_p.astype(float), [[-INF] * 3, [np.nan, np.nan, -INF]])
        total = jax.jit(logsumexp)(x, where=where, temperature=t)
        np.testing.assert_array_equal(total.astype(float), [-INF, np.nan])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("temperature", [None, 1.0, 0.5, 3.0])
def test_logits_further_apart_than_the_largest_float(temperature: float | None, dtype: str) -> None:
    """What rounding takes from a difference that is no float is none."""
    with jax.enable_x64(dtype == "float64"):
        most = float(np.finfo(dtype).max)
        x = jnp.array([[most, -most, 0.0], [most, most, -most]], dtype)
        settings = {} if temperature is None else {"temperature": jnp.asarray(temperature, x.dtype)}
        want = np.array([[1, 0, 0], [0.5, 0.5, 0]])
        np.testing.assert_array_equal(jax.jit(softmax)(x, **settings), want)
        log_p = np.asarray(jax.jit(log_softmax)(x, **settings))
        np.testing.assert_allclose(np.exp(log_p), want, rtol=1e-6)
        assert (log_p[want == 0] <= -most / 4).all()
