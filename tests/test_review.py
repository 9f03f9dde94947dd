"""Faults that a review found, each with the row that showed it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from tests.registry import FUNCTIONS, MASKS, Entry


@pytest.mark.parametrize("length", [4096, 8192, 151936])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_logit_in_a_long_row_is_not_overlooked(length: int, bad: float) -> None:
    x = np.random.default_rng(0).normal(size=(2, length)).astype(np.float32)
    x[0, length // 3] = bad
    token, log_prob = jsoftmax.sample_and_log_prob(jax.random.key(0), x, temperature=0.9)
    assert 0 <= token[0] < length
    assert jnp.isnan(log_prob).tolist() == [True, False]
    for mapped in (jsoftmax.softmax(x), jsoftmax.log_softmax(x), jsoftmax.temperature_scale(x, 2)):
        assert jnp.isnan(mapped).sum(-1).tolist() == [length, 0]
    for reduced in (jsoftmax.logsumexp(x), jsoftmax.entropy(x)):
        assert jnp.isnan(reduced).tolist() == [True, False]


@pytest.mark.parametrize("entry", MASKS, ids=str)
def test_a_mask_keeps_all_of_a_long_row_with_a_nan(entry: Entry) -> None:
    x = np.random.default_rng(0).normal(size=(2, 8192)).astype(np.float32)
    x[0, 5000] = np.nan
    kept = entry(x, **entry.setting()).sum(-1)
    assert kept[0] == 8192
    assert 0 < kept[1] < 8192


def test_temperature_scale_does_not_overflow_in_float16() -> None:
    x = jnp.array([60000.0, 0.0], jnp.float16)
    scaled = jsoftmax.temperature_scale(x, 0.5)
    assert scaled.tolist() == [0.0, -np.inf]
    assert jsoftmax.softmax(scaled).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("temperature", [1e-20, 1e-30])
def test_no_nan_in_the_derivative_by_a_tiny_temperature(temperature: float) -> None:
    x = jnp.array([1.0, 2.0, 0.0])
    for function in (jsoftmax.softmax, jsoftmax.log_softmax, jsoftmax.logsumexp, jsoftmax.entropy):
        tangent = jax.jacfwd(lambda t, f=function: f(x, temperature=t))(temperature)
        assert not jnp.isnan(tangent).any(), function
    assert not jnp.isnan(jax.jacfwd(lambda t: jsoftmax.temperature_scale(x, t))(temperature)).any()


def test_eta_above_one_follows_its_definition() -> None:
    x = jnp.log(jnp.array([0.45, 0.4, 0.15]))
    assert jsoftmax.eta_mask(x, 4.0).tolist() == [True, False, False]


@pytest.mark.parametrize("k", [np.int64(2**32 + 1), np.array(2**32 + 1), 2**40, 10**400])
def test_a_large_static_k_is_off_and_not_wrapped(k: int) -> None:
    assert jsoftmax.top_k_mask(jnp.array([1.0, 2.0, 3.0]), k).tolist() == [True] * 3


@pytest.mark.parametrize("temperature", [True, False])
def test_a_boolean_temperature_is_an_error(temperature: bool) -> None:
    with pytest.raises(TypeError, match="softmax: temperature must be real numbers"):
        jsoftmax.softmax(jnp.zeros(2), temperature=temperature)


def test_rows_finish_their_search_at_different_rounds() -> None:
    """A row that had finished was moved past its cut while others went on."""
    x = jnp.array([[-3.0, -jnp.inf, -jnp.inf, -jnp.inf], [-1.0, -2.0, -3.0, -4.0]])
    kept = jsoftmax.truncation_mask(x, top_k=jnp.array([3, 2]), top_p=jnp.array([1.0, 0.9]))
    assert kept.tolist() == [[True, False, False, False], [True, True, False, False]]


def test_logits_that_a_fusion_would_compute_twice() -> None:
    """The maximum of x / 3 and the x / 3 compared with it were rounded differently (jax 0.8)."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(33, 20)).astype(np.float32))

    @jax.jit
    def fused(x: jax.Array) -> tuple[jax.Array, ...]:
        y = jsoftmax.temperature_scale(x, jnp.float32(3))
        greedy = jsoftmax.sample(jax.random.key(0), y, temperature=jnp.float32(0))
        return jsoftmax.log_softmax(y), jsoftmax.softmax(y, temperature=jnp.float32(0)), greedy

    log_p, one_hot, greedy = fused(x)
    np.testing.assert_allclose(log_p, jsoftmax.log_softmax(x, temperature=3.0), atol=3e-6)
    assert (one_hot.sum(-1) == 1).all()
    assert (greedy == x.argmax(-1)).all()


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


@pytest.mark.parametrize("shape", [(0, 100), (0, 1000), (0, 3000), (2, 0, 2000), (0, 50257)])
@pytest.mark.parametrize("entry", FUNCTIONS, ids=str)
def test_an_empty_batch_of_long_rows(entry: Entry, shape: tuple[int, ...]) -> None:
    for leaf in jax.tree.leaves(entry(jnp.zeros(shape), **entry.setting())):
        kept = shape if entry.kind in ("map", "mask") else shape[:-1]
        assert leaf.shape == kept


def test_an_infinite_z_loss_has_no_nan_in_its_gradient() -> None:
    x = jnp.array([3e38, 0.0, -jnp.inf])

    def loss(x: jax.Array, t: jax.Array) -> jax.Array:
        return jsoftmax.cross_entropy(x, jnp.array(0), z_loss=1e-4, temperature=t)

    assert loss(x, jnp.float32(0.7)) == jnp.inf
    gradients = jax.grad(loss, (0, 1))(x, jnp.float32(0.7))
    assert all(not jnp.isnan(g).any() for g in gradients), gradients


def test_limits_of_temperature_that_a_compiler_sees() -> None:
    """Constants, which it may fold: near-zero logits at T = 0, the largest floats at T = inf."""
    tiny, largest = float(jnp.finfo(jnp.float32).tiny), float(jnp.finfo(jnp.float32).max)
    x = np.array([[tiny, 2 * tiny, 0, 2 * tiny], [largest, -largest, 0, -np.inf]], np.float32)
    x = np.tile(np.repeat(x, 1000, axis=0), (1, 400))
    key = jax.random.key(0)
    cold = jax.jit(lambda x: jsoftmax.sample_and_log_prob(key, x, temperature=0.0))(x)
    np.testing.assert_array_equal(cold[0], np.repeat([1, 0], 1000))
    np.testing.assert_allclose(cold[1], -np.log(np.repeat([800.0, 400.0], 1000)), rtol=1e-6)
    hot = jax.jit(lambda x: jsoftmax.sample_and_log_prob(key, x, temperature=jnp.inf))(x)
    np.testing.assert_allclose(hot[1], -np.log(np.repeat([1600.0, 1200.0], 1000)), rtol=1e-6)
    drawn = np.bincount(np.asarray(hot[0][1000:]) % 4, minlength=4)
    assert drawn[3] == 0
    assert (drawn[:3] > 270).all()
