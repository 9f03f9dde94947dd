"""Facts of PyTorch's own tests.

Source: pytorch/pytorch, BSD-3-Clause: test/test_nn.py at commit
74f2fa66feec00335f72813782f4802e80bff4cb (softmax, log_softmax, cross_entropy, nll_loss,
gumbel_softmax), test/test_reductions.py at 002ca6715ba1ab4d2369262b487eeb30bf249911 (logsumexp),
test/distributions/test_distributions.py at 5ada51aa4e959a797d301d388e4d54d57633aa84 (Categorical,
RelaxedOneHotCategorical). Upstream's default tolerance in float32 is rtol 1.3e-6, atol 1e-5.

On purpose different, and asserted below: nothing is reduced; `where` says which rows are ignored,
and a label of -100 without it is NaN; a row of -inf is 0, hard draws from it too; +inf makes a row
NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax import (
    cross_entropy,
    entropy,
    gumbel_softmax,
    log_softmax,
    logsumexp,
    sample,
    softmax,
)
from tests.statistics import p_value

INF = np.float32(np.inf)
PROBABILITIES = np.array([[0.1, 0.2, 0.3], [0.5, 0.3, 0.2]], np.float32)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def labels_of(classes: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, shape)


# --- softmax ---------------------------------------------------------------------------------


def test_half_precision_is_computed_in_float32() -> None:
    """TestNNDeviceType.test_softmax: rand(32, 100) in half precision with dtype=float, values and
    gradient bitwise those of float. Here the result is rounded, once."""
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(32, 100)), jnp.float16)
    wide = softmax(x.astype(jnp.float32))
    np.testing.assert_array_equal(softmax(x), wide.astype(jnp.float16))


def test_softmax_in_bfloat16() -> None:
    """test_softmax_bfloat16: [16, 33, 15, 16], also 1000 times as large, beside float32; prec 1e-2
    and 0.05. The axis is the longest (upstream: each)."""
    x = jnp.asarray(normal(16, 33, 15, 16), jnp.bfloat16)
    weight = jnp.asarray(normal(16, 33, 15, 16)[::-1], jnp.bfloat16)

    @jax.jit
    def value_and_gradient(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        p, backward = jax.vjp(lambda x: softmax(x, 1), x)
        return p, backward(weight.astype(x.dtype))[0]

    for scale in (1, 1000):
        scaled = x * jnp.bfloat16(scale)
        p, gradient = value_and_gradient(scaled)
        wide = value_and_gradient(scaled.astype(jnp.float32))
        for got, want in zip((p, gradient), wide, strict=True):
            assert got.dtype == jnp.bfloat16
            want = np.asarray(want)
            np.testing.assert_allclose(np.float32(got), want, rtol=2**-8, atol=2**-7)
        rounded = wide[0].astype(jnp.bfloat16)
        np.testing.assert_array_equal(np.float32(p), np.float32(rounded))


def test_log_softmax() -> None:
    """test_log_softmax_big: integers below 100 and the same plus 1e7, [16, 4]. test_softmax_double:
    the exponentials of [5, 513] sum to one, in float64."""
    x = labels_of(100, 16, 4).astype(np.float32)
    shifted = log_softmax(x + np.float32(1e7))
    np.testing.assert_allclose(log_softmax(x), shifted, rtol=2 * np.finfo(np.float32).eps)
    with jax.enable_x64(True):
        log_p = log_softmax(np.random.default_rng(0).standard_normal((5, 513)))
        np.testing.assert_allclose(np.exp(log_p).sum(-1), np.ones(5), rtol=1e-14)


def test_a_row_of_minus_infinity_is_zero() -> None:
    """Different: NaN upstream, also in gumbel_softmax, of which hard=True then picks the first."""
    x = np.full((2, 3), -INF)
    assert (softmax(x) == 0).all()
    for hard in (False, True):
        assert (gumbel_softmax(jax.random.key(0), x, hard=hard) == 0).all()


# --- logsumexp -------------------------------------------------------------------------------


def test_logsumexp() -> None:
    """TestReductions.test_logsumexp (a row of -inf), test_logsumexp_integral_promotion, and
    test_logsumexp_backward_dim_none (the gradient sums to one, to five places)."""
    x = normal(5, 4)
    x[1] = -INF
    with np.errstate(divide="ignore"):
        want = np.log(np.exp(x.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(logsumexp(x), want, rtol=5e-7, atol=2e-7)
    whole = np.random.default_rng(0).integers(-100, 100, (5, 4))
    got = logsumexp(whole)
    assert got.dtype == jnp.result_type(float)
    np.testing.assert_allclose(got, np.log(np.exp(whole.astype(np.float64)).sum(-1)), rtol=3e-7)
    gradient = jax.grad(lambda x: logsumexp(x).sum())(x)
    np.testing.assert_allclose(gradient.sum(-1), [1, 0, 1, 1, 1], rtol=3e-7)


def test_logsumexp_at_the_edges() -> None:
    """test_logsumexp_edge_cases_dim_none, test_logsumexp_structured_kernel_meta (shapes).
    Different: all +inf is inf upstream."""
    assert logsumexp(np.zeros(0, np.float32)) == -INF
    assert logsumexp(np.array([5.0], np.float32)) == 5
    assert logsumexp(np.full(6, -INF)) == -INF
    assert np.isnan(logsumexp(np.full(6, INF)))
    x = normal(2, 3)
    assert logsumexp(x, 0).shape == (3,)
    assert logsumexp(x, 0, keepdims=True).shape == (1, 3)


# --- cross-entropy ---------------------------------------------------------------------------


@pytest.mark.parametrize("others", [(), (2, 3)], ids=str)
def test_a_label_is_its_one_hot_row_smoothed_or_not(others: tuple[int, ...]) -> None:
    """test_cross_entropy_loss_one_hot_target; test_cross_entropy_label_smoothing_consistent_index_
    target_and_probs (0.05, 0.15; in float64, rtol 1e-7, atol 1e-5), _with_probs: a target of any
    sum and sign; classes on axis 1, up to two dimensions after it (upstream: four)."""
    with jax.enable_x64(True):
        x = np.random.default_rng(0).standard_normal((10, 4, *others))
        labels = labels_of(4, 10, *others)
        one_hot = np.moveaxis(np.eye(4)[labels], -1, 1)
        any_target = np.asarray(log_softmax(x[::-1], 1))
        log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
        for smoothing in (0.0, 0.05, 0.15):
            got = cross_entropy(x, labels, axis=1, label_smoothing=smoothing)
            smooth = np.where(one_hot == 1, 1 - smoothing + smoothing / 4, smoothing / 4)
            np.testing.assert_allclose(got, -(smooth * log_p).sum(1), rtol=1e-13)
            for target in (one_hot, any_target):
                got = cross_entropy(x, target, axis=1, label_smoothing=smoothing)
                smooth = target * (1 - smoothing) + smoothing / 4
                np.testing.assert_allclose(got, -(smooth * log_p).sum(1), rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.05, 0.15])
def test_what_an_ignored_row_holds_does_not_matter(smoothing: float) -> None:
    """test_cross_entropy_label_smoothing_weight_ignore_indices (-100, -2 and 2 are ignored) and
    test_nll_loss_out_of_bounds_ignore_index (255): here by `where`, in the sum, the mean and
    without reduction. Upstream's class weights are left out."""
    x = np.array([[[0.3, 0.4], [1, 2]], [[0.3, 0.6], [1, 2]]], np.float32)
    for ignored in (-100, -2, 2, 255):
        labels = np.array([[ignored, 1]] * 2)
        used = labels != ignored
        loss = cross_entropy(x, labels, where=used[..., None], label_smoothing=smoothing)
        assert (loss[0] == loss[1]).all()
        assert (loss[:, 0] == 0).all()
        mean = loss.mean(-1, where=used)
        np.testing.assert_array_equal(mean, loss[:, 1])


def test_a_label_out_of_range_is_no_label() -> None:
    """Different from nll_loss with such an ignore_index, where it is ignored without `where`."""
    x, labels = np.array([[0.3, 0.4], [1, 2]], np.float32), np.array([255, 1])
    assert np.isnan(jax.jit(cross_entropy)(x, labels)).tolist() == [True, False]


def test_all_ignored() -> None:
    """test_nll_loss_all_ignored: [2, 3, 5, 7], all labels 0: each is 0, and so the sum; mean
    NaN."""
    labels = np.zeros((2, 5, 7), np.int32)
    used = labels != 0
    loss = cross_entropy(np.ones((2, 3, 5, 7), np.float32), labels, axis=1, where=used[:, None])
    assert loss.shape == labels.shape
    assert (loss == 0).all()
    assert jnp.isnan(loss.mean(where=used))


def test_an_empty_batch() -> None:
    """test_nll_loss_empty_tensor_reduction_none, _mean, _sum, and the gradient's shape."""
    x, labels = np.zeros((2, 3, 0, 7), np.float32), np.zeros((2, 0, 7), np.int32)
    loss = cross_entropy(x, labels, axis=1)
    assert loss.shape == (2, 0, 7)
    assert loss.sum() == 0
    assert jnp.isnan(loss.mean())
    gradient = jax.grad(lambda x: cross_entropy(x, labels, axis=1).sum())(x)
    assert gradient.shape == x.shape


def test_labels_of_any_integer_dtype() -> None:
    """test_nll_loss_byte_target_matches_long: [10, 4], uint8, values and gradient."""
    x, labels = normal(10, 4), labels_of(4, 10)
    loss = jax.value_and_grad(lambda x, y: cross_entropy(x, y).sum())
    for left, right in zip(loss(x, labels.astype(np.uint8)), loss(x, labels), strict=True):
        np.testing.assert_array_equal(left, right)


def test_labels_that_are_an_error() -> None:
    """test_nll_loss_mismatched_batch, test_nll_loss_invalid_target_dim and
    test_cross_entropy_label_smoothing_errors (1.2)."""
    x = normal(10, 3)
    for shape in ((3,), (10, 2)):
        with pytest.raises(ValueError, match="cross_entropy: integer labels must have"):
            cross_entropy(x, np.zeros(shape, np.int32))
    for labels in (labels_of(3, 10), np.abs(x)):
        with pytest.raises(ValueError, match="cross_entropy: label_smoothing"):
            cross_entropy(x, labels, label_smoothing=1.2)


# --- gumbel_softmax --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis", "count"),
    [((5,), 0, 1), ((5, 4), 1, 5), ((5, 4, 3), 1, 15), ((5, 4, 3), -1, 20)],
)
def test_hard_draws_are_one_hot(shape: tuple[int, ...], axis: int, count: int) -> None:
    """test_gumbel_softmax, _test_gumbel_softmax_st_shapes: not negative, of the logits' shape, one
    a row, to an eps; here exactly."""
    drawn = np.asarray(gumbel_softmax(jax.random.key(0), normal(*shape), hard=True, axis=axis))
    assert drawn.shape == shape
    assert set(drawn.ravel()) == {0, 1}
    assert (drawn.sum(axis) == 1).all()
    assert drawn.sum() == count


def test_hard_draws_are_as_frequent_as_probable() -> None:
    """_test_gumbel_softmax_straight_through: 100 draws, all |z| < 2.58."""
    x = np.array([0.2, 0.8, 0.1], np.float32)
    drawn = gumbel_softmax(jax.random.key(0), np.broadcast_to(x, (100, 3)), hard=True)
    counts, p = np.asarray(drawn.sum(0)), np.asarray(softmax(x))
    assert counts.sum() == 100
    z = (counts - 100 * p) / np.sqrt(100 * p * (1 - p))
    assert np.abs(z).max() < 2.58


def test_hard_and_soft_draws_have_one_gradient() -> None:
    """_test_gumbel_softmax_grad: of the sum over zeros(10, 10), 2 eps apart at most. That gradient
    is 0 but for rounding: the weighted sum's, not upstream's, is not."""
    x, key = np.zeros((10, 10), np.float32), jax.random.key(0)
    for weight in (np.ones((10, 10), np.float32), normal(10, 10)):
        soft, hard = (
            jax.grad(lambda x, h=h, w=weight: (gumbel_softmax(key, x, hard=h) * w).sum())(x)
            for h in (False, True)
        )
        np.testing.assert_allclose(soft, hard, rtol=0, atol=2 * np.finfo(np.float32).eps)
    assert np.abs(soft).max() > 0.01


def test_largest_of_a_relaxed_draw() -> None:
    """TestDistributions.test_argmax_relaxed_categorical: [0.2, 0.2, 0.6] at T = 0.1, 1 and 10,
    failure rate 1e-3; at T = 1e10 all equal."""
    p = np.array([0.2, 0.2, 0.6])
    x, key = np.broadcast_to(np.float32(np.log(p)), (10_000, 3)), jax.random.key(0)
    temperatures = np.repeat(np.float32([0.1, 1, 10, 1e10]), 2500)
    drawn = np.asarray(gumbel_softmax(key, x, temperature=temperatures)).reshape(4, 2500, 3)
    for relaxed in drawn[:3]:
        assert p_value(np.bincount(relaxed.argmax(-1), minlength=3), p) > 1e-3
    np.testing.assert_allclose(drawn[3], np.full((2500, 3), 1 / 3), rtol=3e-7)


# --- Categorical -----------------------------------------------------------------------------


def test_entropy_of_a_categorical() -> None:
    """TestDistributions.test_categorical_2d: to four decimals, beside -inf too (issue 40553)."""
    x = np.log(PROBABILITIES)
    np.testing.assert_allclose(entropy(x), [1.0114, 1.0297], rtol=0, atol=5.1e-5)
    x[1, 1] = x[0, 2] = -INF
    np.testing.assert_allclose(entropy(x), [0.6365, 0.5983], rtol=0, atol=5.1e-5)
    certain = np.array([[0, -INF, -INF], [-INF, 0, -INF]], np.float32)
    assert entropy(certain).tolist() == [0, 0]


def test_draws_and_log_prob_of_a_categorical() -> None:
    """test_categorical_2d: shapes, draws of certain rows, log p / sum p. TestNumericalStability.
    test_categorical_log_prob_with_logits: exactly 0 and -inf."""
    certain = np.array([[0, -INF, -INF], [-INF, 0, -INF]], np.float32)
    x = np.broadcast_to(np.stack([np.log(PROBABILITIES), certain]), (3, 4, 2, 2, 3))
    drawn = np.asarray(sample(jax.random.key(0), x))
    assert drawn.shape == (3, 4, 2, 2)
    assert (drawn[..., 1, :] == [0, 1]).all()
    want = np.log(PROBABILITIES / PROBABILITIES.sum(-1, keepdims=True))
    np.testing.assert_allclose(log_softmax(np.log(PROBABILITIES)), want, rtol=3e-7)
    labels = np.array([0, 0])
    assert (-cross_entropy(certain, labels)).tolist() == [0, -INF]
