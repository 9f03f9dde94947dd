"""entropy: values, limits, gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jsoftmax import entropy, kl_divergence, softmax
from tests import reference, rows

INF = np.inf


def test_agrees_with_scipy_and_the_reference() -> None:
    x = rows.normal(400, 2.0).reshape(4, 100)
    p = reference.over_rows(reference.softmax_row, x, 1.0)
    np.testing.assert_allclose(entropy(x), stats.entropy(p, axis=-1), rtol=1e-6)
    names, family = rows.stacked(129)
    for temperature in (1.0, 0.2, 5.0, 0.0, INF):
        want = reference.over_rows(reference.entropy_row, family, temperature)
        np.testing.assert_allclose(
            entropy(family, temperature=temperature), want, rtol=4e-6, atol=4e-6, err_msg=str(names)
        )


def test_bounds_and_limits() -> None:
    _, family = rows.stacked(64)
    h = np.asarray(entropy(family))
    assert (h >= 0).all()
    assert (h <= np.log(64) * (1 + 1e-6)).all()
    x = np.array([[1.0, 1.0, 0.0, -INF], [5.0, 1.0, 0.0, -INF], [-INF] * 4], np.float32)
    np.testing.assert_allclose(entropy(x, temperature=0.0), [np.log(2), 0, 0], rtol=1e-6)
    np.testing.assert_allclose(entropy(x, temperature=INF), [np.log(3), np.log(3), 0], rtol=1e-6)


def test_certain_rows_have_a_small_right_entropy() -> None:
    """A nearly certain row: H = (1 + gap) exp(-gap), not 0 and not rounding noise."""
    gap = np.array([10.0, 14.0, 20.0, 30.0], np.float32)
    x = np.stack([gap, np.zeros_like(gap)], -1)
    want = reference.over_rows(reference.entropy_row, x, 1.0)
    np.testing.assert_allclose(entropy(x), want, rtol=1e-5)


def test_gradient_formula() -> None:
    """dH/dx_i = -p_i (log p_i + H), and H' by temperature is Var(x) / T^3."""
    x = jnp.asarray(rows.normal(30, 1.5))
    p = reference.over_rows(reference.softmax_row, x, 1.0)
    h = -(p * np.log(p)).sum()
    np.testing.assert_allclose(jax.grad(entropy)(x), -p * (np.log(p) + h), rtol=2e-5, atol=1e-7)
    p = reference.over_rows(reference.softmax_row, x, 0.7)
    y = np.asarray(x, np.float64)
    variance = (p * y**2).sum() - (p * y).sum() ** 2
    by_temperature = jax.grad(lambda t: entropy(x, temperature=t))(jnp.float32(0.7))
    np.testing.assert_allclose(by_temperature, variance / 0.7**3, rtol=2e-5)


def test_gradient_with_minus_infinity_is_that_of_the_rest() -> None:
    x = np.array([0.5, -INF, 1.0, -1.0, -INF], np.float32)
    finite = np.isfinite(x)
    gradient = np.asarray(jax.grad(entropy)(jnp.asarray(x)))
    np.testing.assert_allclose(
        gradient[finite], jax.grad(entropy)(jnp.asarray(x[finite])), rtol=1e-6
    )
    np.testing.assert_array_equal(gradient[~finite], 0)
    hessian = jax.hessian(entropy)(jnp.asarray(x))
    chex.assert_tree_all_finite(hessian)


def test_second_derivatives_along_a_direction_beside_the_least_float() -> None:
    x, along = jnp.array([0.0, 1.0, np.finfo(np.float32).min]), jnp.array([1.0, -2.0, 3.0])
    want = np.pad(jax.hessian(entropy)(x[:2]) @ along[:2], (0, 1))

    def by_reverse(x: jax.Array) -> jax.Array:
        return jnp.vdot(jax.grad(entropy)(x), along)

    def by_forward(x: jax.Array) -> jax.Array:
        return jax.jvp(entropy, (x,), (along,))[1]

    for slope in (by_reverse, by_forward):
        np.testing.assert_allclose(jax.grad(slope)(x), want, rtol=1e-5)


def test_gradient_of_a_divergence_near_the_largest_float() -> None:
    """Logits that are masked by the least float, as they often are, at different entries."""
    least = np.finfo(np.float32).min
    p, q = jnp.array([0.0, least]), jnp.array([least, 0.0])
    of_p, of_q = jax.grad(kl_divergence, (0, 1))(p, q)
    np.testing.assert_array_equal(of_p, [0, 0])
    np.testing.assert_array_equal(of_q, [-1, 1])
    p, q = np.array([0.0, 1.0, least]), np.array([least, 0.0, 1.0])
    want = p_of_kl(p.astype(np.float64), q.astype(np.float64))
    got = jax.grad(kl_divergence)(*map(jnp.float32, (p, q)))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def p_of_kl(p_logits: np.ndarray, q_logits: np.ndarray) -> np.ndarray:
    """The gradient of the divergence by p's logits: p (log p - log q - KL)."""
    log_p, log_q = (x - reference.logsumexp_row(x, np.True_) for x in (p_logits, q_logits))
    p = np.exp(log_p)
    return p * (log_p - log_q - np.sum(p * (log_p - log_q)))


def test_underflowed_probabilities_have_no_effect() -> None:
    x = np.array([0.0, -200.0, -3e38, -90.0, -104.0], np.float32)
    np.testing.assert_allclose(entropy(x), 0, atol=1e-30)
    chex.assert_tree_all_finite(jax.grad(entropy)(jnp.asarray(x)))
    np.testing.assert_allclose(softmax(x), [1, 0, 0, 0, 0], atol=1e-37)
