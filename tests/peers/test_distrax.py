"""Facts of distrax's own tests.

Source: google-deepmind/distrax at commit f51bffcf9094d269a0be8678762dd2849833c8b7 (2025-09-01,
release 0.1.7), Apache License 2.0: distrax/_src/distributions/categorical_test.py, softmax_test.py,
greedy_test.py, and distrax/_src/utils/math_test.py (normalize). Upstream compares with TensorFlow
Probability, at rtol 1e-3 to 2e-3 for the most part: here with the same formula in float64.

`Categorical(probs=p)` is the logits log p here. On purpose different, and asserted below: a draw
from an invalid row is in range (its log-probability is NaN), and not -1; a value outside the domain
is NaN; no argument is broadcast; greedy draws are the first of the largest; a finite logit is mass,
however small, so that KL is inf where q has none.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax import (
    cross_entropy,
    entropy,
    kl_divergence,
    log_softmax,
    sample,
    sample_and_log_prob,
    softmax,
)
from tests.statistics import p_value

INF = np.float32(np.inf)


def log(p: object) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.float32(p))


def plogp(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Sum of p log q, with 0 log 0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p == 0, 0, p * np.log(q)).sum(-1)


# --- parameters ------------------------------------------------------------------------------


def test_parameters() -> None:
    """CategoricalTest.test_properties (unnormalised, default_rng(42)),
    MathTest.test_normalize_probs, test_normalize_logits, SoftmaxUnitTemperatureTest and
    SoftmaxTest.test_parameters (T = 10)."""
    p = np.random.default_rng(42).uniform(size=(3, 4))
    normalised = p / p.sum(-1, keepdims=True)
    np.testing.assert_allclose(softmax(log(p)), normalised, rtol=5e-7)
    np.testing.assert_allclose(log_softmax(log(p)), np.log(normalised), rtol=5e-7, atol=2e-7)
    for p in ([0.4, 0.4, 0.0, 0.2], [4.0, 4.0, 0.0, 2.0]):
        np.testing.assert_allclose(softmax(log(p)), [0.4, 0.4, 0, 0.2], rtol=3e-7)
    p = np.array([0.2, 0.4, 0.1, 0.3])
    np.testing.assert_allclose(softmax(log(p)), p, rtol=3e-7)
    np.testing.assert_allclose(log_softmax(log(p)), np.log(p), rtol=3e-7)
    x = np.array([1.0, -1.0, 3.0, 0.0], np.float32)
    once = log_softmax(x)
    np.testing.assert_allclose(log_softmax(once), once, rtol=3e-7)
    x = np.array([2.0, 4.0, 1.0, 3.0], np.float32)
    mass = np.exp(x.astype(np.float64) / 10)
    want = mass / mass.sum()
    np.testing.assert_allclose(softmax(x, temperature=10.0), want, rtol=3e-7)
    np.testing.assert_allclose(log_softmax(x, temperature=10.0), np.log(want), rtol=3e-7)


def test_greedy() -> None:
    """GreedyTest.test_parameters_from_preferences: ties share the mass. Different: distrax draws
    from either; at T = 0 a draw here is the first of them, whatever the key."""
    x = np.array([0.0, 4.0, -1.0, 4.0], np.float32)
    assert softmax(x, temperature=0.0).tolist() == [0, 0.5, 0, 0.5]
    np.testing.assert_allclose(log_softmax(x, temperature=0.0), log([0, 0.5, 0, 0.5]), rtol=1.2e-7)
    many = np.broadcast_to(x, (100, 4))
    token, log_prob = sample_and_log_prob(jax.random.key(0), many, temperature=0.0)
    assert (token == 1).all()
    np.testing.assert_allclose(log_prob, np.full(100, np.log(0.5)), rtol=1.2e-7)


# --- draws -----------------------------------------------------------------------------------


def test_draws_and_their_log_probabilities() -> None:
    """CategoricalTest.test_sample_shape, test_sample_and_log_prob (rtol 2e-3), test_sample_values:
    100000 draws, one of the rows certain; upstream's means agree to rtol 0.1."""
    p = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    x = np.broadcast_to(log(p), (100_000, 2, 3))
    token, log_prob = map(np.asarray, sample_and_log_prob(jax.random.key(0), x))
    assert token.shape == log_prob.shape == (100_000, 2)
    assert (token[:, 1] == 2).all()
    assert p_value(np.bincount(token[:, 0], minlength=3), p[0]) > 0.01
    want = np.take_along_axis(np.broadcast_to(log(p), x.shape), token[..., None], -1)[..., 0]
    np.testing.assert_allclose(log_prob, want, rtol=3e-7)


@pytest.mark.parametrize("prefix", [(), (1,), (4,), (5, 4)])
def test_shape_of_draws(prefix: tuple[int, ...]) -> None:
    """CategoricalTest.test_sample_shape: a sample shape is a broadcast. Different from
    test_sample_dtype: a draw is int32."""
    for x in ([0.0, 1.0, -0.5], [[0.0, 1.0, -0.5], [-0.1, 0.3, 0.0]]):
        many = jnp.broadcast_to(jnp.asarray(x), prefix + np.shape(x))
        drawn = jax.eval_shape(lambda key, x=many: sample(key, x), jax.random.key(0))
        assert drawn.shape == prefix + np.shape(x)[:-1]
        assert drawn.dtype == jnp.int32


def test_a_draw_from_an_invalid_row() -> None:
    """Different from CategoricalTest.test_sample_values_invalid_probs, whose draws are -1."""
    with np.errstate(invalid="ignore"):
        x = log([[0.1, -0.4, 0.2, 0.3], [-0.1, 0.1, 0.0, 0.0], [0.1, 0.25, 0.2, 0.8]])
    x = np.broadcast_to(x, (1000, 3, 4))
    token, log_prob = map(np.asarray, sample_and_log_prob(jax.random.key(0), x))
    assert ((token >= 0) & (token < 4)).all()
    assert np.isnan(log_prob).all(0).tolist() == [True, True, False]
    assert np.isfinite(log_prob[:, 2]).all()


# --- log-probabilities -----------------------------------------------------------------------


def test_log_prob_of_a_value() -> None:
    """CategoricalTest.test_method_with_input ("1d value" and "extreme probs"; atol 3e-5),
    test_method_with_input_unnormalized_probs (rtol 1e-3): log p is minus cross-entropy."""
    x = np.array([log([0.3, 0.2, 0.5]), [0.0, 0.5, -0.5], log([0.1, 0.2, 0.3])], np.float32)
    value = np.array([[1, 0, 2, 0], [1, 0, 2, 0], [0, 1, 2, 0]])
    mass = np.exp(x.astype(np.float64))
    want = np.take_along_axis(np.log(mass / mass.sum(-1, keepdims=True)), value, -1)
    many = np.broadcast_to(x[:, None], (3, 4, 3))
    np.testing.assert_allclose(-cross_entropy(many, value), want, rtol=5e-7)
    certain = np.broadcast_to(log([0.0, 1.0, 0.0]), (4, 3))
    got = -np.asarray(cross_entropy(certain, np.array([0, 1, 1, 2])))
    assert got.tolist() == [-INF, 0, 0, -INF]


def test_a_value_outside_the_domain() -> None:
    """Different from CategoricalTest.test_method_with_input_outside_domain, whose log p is -inf."""
    x = np.broadcast_to(log([0.2, 0.3, 0.5]), (4, 3))
    value = np.array([-1, -2, 3, 4])
    assert np.isnan(jax.jit(cross_entropy)(x, value)).all()
    with pytest.raises(ValueError, match="cross_entropy: labels"):
        cross_entropy(x, value)


# --- entropies and divergences ---------------------------------------------------------------


def test_entropy() -> None:
    """CategoricalTest.test_method: default_rng(42), [4, 3]."""
    p = np.random.default_rng(42).uniform(size=(4, 3))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(entropy(log(p)), -plogp(p, p), rtol=5e-7)


def test_two_distributions() -> None:
    """CategoricalTest.test_with_two_distributions (rtol 2e-3) and _extreme_cases (atol 5e-5): KL
    and cross-entropy of probabilities and one row of logits. Different: that is not broadcast."""
    p = np.array(
        [[0.1, 0.5, 0.4], [0.2, 0.4, 0.4], [0.1, 0.5, 0.4], [0.4, 0.0, 0.6], [0.4, 0.6, 0]]
    )
    y = np.array([[0.0, 0.1, 0.1]] * 2 + [[0.0, 0.1, -INF]] * 3, np.float32)
    mass = np.exp(y.astype(np.float64))
    q = mass / mass.sum(-1, keepdims=True)
    divergence = kl_divergence(log(p), y)
    np.testing.assert_allclose(divergence, plogp(p, p) - plogp(p, q), rtol=3e-6)
    assert np.isinf(divergence).tolist() == [False, False, True, True, False]
    np.testing.assert_allclose(cross_entropy(y, np.float32(p)), -plogp(p, q), rtol=5e-7)
    with pytest.raises(ValueError, match="kl_divergence: q_logits must have the shape"):
        kl_divergence(log(p), y[0])


def test_numbers_of_categories_that_differ() -> None:
    """CategoricalTest.test_with_two_distributions_raises_on_invalid_num_categories."""
    p, y = log([0.1, 0.5, 0.4]), np.array([-0.1, 0.3], np.float32)
    for left, right in ((p, y), (y, p)):
        with pytest.raises(ValueError, match="kl_divergence"):
            kl_divergence(left, right)
        with pytest.raises(ValueError, match="cross_entropy"):
            cross_entropy(left, np.exp(right))


def test_gradient_of_entropy() -> None:
    """CategoricalTest.test_entropy_grad: as with the logits clipped at -10000, rtol 1e-6, and
    finite."""
    x = np.zeros((4, 11), np.float32) + np.array([[0], [-1e9], [1e9], [0]], np.float32)
    x[0] = [-INF, 2, -3, -INF, 5, 1, 7, -3, 2, 4, -INF]
    value, gradient = jax.vmap(jax.value_and_grad(entropy))(x)
    clipped, of_clipped = jax.vmap(jax.value_and_grad(entropy))(np.maximum(x, -10_000))
    # A row of -1e9 is clipped as a whole, and stays uniform.
    np.testing.assert_allclose(value, clipped, rtol=1e-6)
    np.testing.assert_allclose(gradient, of_clipped, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(value[1:], np.full(3, np.log(11)), rtol=2e-7)
    np.testing.assert_allclose(gradient[1:], np.zeros((3, 11)), rtol=0, atol=1e-7)


def test_gradient_of_kl_divergence() -> None:
    """CategoricalTest.test_kl_grad, but "-inf logits both": as clipped at -10000, rtol 1e-6. That
    one differs: an entry of p at -1000 is not -inf, and q has no mass there, so the divergence is
    inf, with gradient 0; upstream's is finite, since exp(-1000) is 0."""
    x = np.array([[-INF, 2, -3, -INF, 5], [5, -2, 0, 1, 4], [-INF, 2, -1000, -INF, 5]], np.float32)
    y = np.array([[1, 7, -3, 2, 4], [1, 7, -3, 2, 4], [-INF, 7, -INF, 2, 4]], np.float32)
    both = jax.vmap(jax.value_and_grad(kl_divergence, (0, 1)))
    value, gradients = both(x, y)
    clipped, of_clipped = both(np.maximum(x, -10_000), np.maximum(y, -10_000))
    np.testing.assert_allclose(value[:2], clipped[:2], rtol=1e-6)
    assert value[2] == INF
    for gradient, wanted in zip(gradients, of_clipped, strict=True):
        np.testing.assert_allclose(gradient[:2], wanted[:2], rtol=1e-6, atol=1e-7)
        assert (gradient[2] == 0).all()
    # With the entry at -1000 left out, upstream's.
    left_out = np.where(x[2] == -1000, -INF, x[2])
    np.testing.assert_allclose(kl_divergence(left_out, y[2]), clipped[2], rtol=1e-6)
