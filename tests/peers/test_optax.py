"""Facts of optax's own tests.

Source: google-deepmind/optax at commit 2edbcbe2390da13983b92cbef94ac0460ecde1c5 (2026-08-07),
Apache License 2.0: optax/losses/_classification_test.py (values, masks, axes, poly loss, sparsemax,
KL), _smoothing_test.py, _ranking_test.py (the softmax loss), _fenchel_young_test.py, and
optax/projections/_projections_test.py (the simplex). Upstream's tolerance is 1e-4 unless it says
otherwise.

On purpose different, and asserted below: target mass on a class that is not allowed costs inf, and
is not left out; a label out of range is NaN, and does not wrap around; kl_divergence normalises
both sides; `axis` is one axis; where one logit is -inf the one cross-entropy is the safe one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jsoftmax import cross_entropy, fenchel_young_loss, kl_divergence, softmax, sparsemax

INF = np.float32(np.inf)
LOGITS = np.array([[10.0, 1.0, -2.0], [1.0, 4.0, 0.2]], np.float32)
LABELS = np.array([1, 0], np.int32)
TARGETS = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], np.float32)
LOSSES = np.array([9.00013, 3.0696733])
PRINTED = 6e-6
"""Half a unit of 9.00013, and the rounding of a float32."""
LOG_P = np.array(
    [
        [-2.9957, -3.5066, -3.9120, -1.2040, -0.6931, -2.3026],
        [-1.6094, -1.6094, -1.6094, -2.3026, -1.8971, -1.8971],
    ],
    np.float32,
)
Q = np.array([[0.2, 0.2, 0.2, 0.1, 0.15, 0.15], [0.05, 0.03, 0.02, 0.3, 0.5, 0.0]], np.float32)
NEARLY_NORMALISED = 5e-5
"""LOG_P has four decimals, so that its rows do not sum to one; upstream does not normalise them."""


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def dirichlet(size: int, *batch: int) -> np.ndarray:
    return np.random.default_rng(1).dirichlet(np.ones(size), batch).astype(np.float32)


# --- cross-entropy ---------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [TARGETS, LABELS], ids=["distribution", "label"])
def test_cross_entropy_of_a_row_and_of_a_batch(targets: np.ndarray) -> None:
    """SoftmaxCrossEntropyTest.test_scalar, test_batched."""
    np.testing.assert_allclose(cross_entropy(LOGITS, targets), LOSSES, rtol=0, atol=PRINTED)
    np.testing.assert_allclose(cross_entropy(LOGITS[0], targets[0]), LOSSES[0], rtol=1e-6)


def test_a_label_is_its_one_hot_row() -> None:
    """SoftmaxCrossEntropyWithIntegerLabelsTest.test_consistent_with_softmax_cross_entropy_batched:
    rtol 1e-6."""
    one = cross_entropy(LOGITS, TARGETS)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), one, rtol=2.4e-7)


def test_cross_entropy_where_logits_are_infinite() -> None:
    """SafeSoftmaxCrossEntropyTest.test_batched; here there is no other one."""
    logits = np.array([[-INF, 0, 0], [-INF, 0, 0], [-INF, 0, -INF]], np.float32)
    targets = np.array([[0, 0.5, 0.5], [0.4, 0.3, 0.3], [0, 1, 0]], np.float32)
    loss = cross_entropy(np.concatenate([LOGITS, logits]), np.concatenate([TARGETS, targets]))
    np.testing.assert_allclose(loss, [*LOSSES, 0.693147, INF, 0], rtol=3e-7, atol=PRINTED)
    assert loss[4] == 0


@pytest.mark.parametrize("targets", [TARGETS, LABELS], ids=["distribution", "label"])
def test_gradient_of_cross_entropy(targets: np.ndarray) -> None:
    """test_gradient of the three classes: order 1, and finite under a mask of rows."""
    rows = np.array([[True], [False]])
    check_grads(lambda x: cross_entropy(x, targets), (LOGITS,), 1, ("rev",), 2e-2, 2e-2, eps=1e-2)
    gradient = jax.grad(lambda x: cross_entropy(x, targets, where=rows).sum())(LOGITS)
    want = np.asarray(softmax(LOGITS) - TARGETS) * rows
    np.testing.assert_allclose(gradient, want, rtol=0, atol=2e-7)


def test_a_row_with_nothing_allowed_costs_nothing() -> None:
    """test_per_logit_mask of both classes; but the row beside it differs: its label is not allowed,
    which optax leaves out of the sum (0) or looks up all the same (-log_softmax, finite)."""
    where = np.array([[True, False, False], [False, False, False]])
    for targets in (TARGETS, LABELS):
        assert cross_entropy(LOGITS, targets, where=where).tolist() == [np.inf, 0]


@pytest.mark.parametrize("size", [5, 10])
def test_masked_is_left_out(size: int) -> None:
    """test_mask of SoftmaxCrossEntropyTest, KLDivergenceTest, KLDivergenceWithLogTargetsTest."""
    x, target = normal(size), dirichlet(size)
    where = np.arange(size) % 3 != 1
    kept = np.where(where, target, 0)
    left, right = cross_entropy(x[where], target[where]), cross_entropy(x, kept, where=where)
    np.testing.assert_allclose(left, right, rtol=5e-7)
    left = kl_divergence(np.log(target[where]), x[where])
    np.testing.assert_allclose(left, kl_divergence(np.log(target), x, where=where), rtol=2e-6)
    # Different: upstream passes the whole target.
    assert cross_entropy(x, target, where=where) == np.inf


@pytest.mark.parametrize("axis", [0, 1])
def test_axis_of_a_loss(axis: int) -> None:
    """test_axis of all: shape [4, 5, 6], targets normalised along the last axis whichever it is."""
    x, target = normal(4, 5, 6), dirichlet(6, 4, 5)
    labels = np.random.default_rng(2).integers(0, x.shape[axis], np.delete(x.shape, axis))
    x_last, target_last = np.moveaxis(x, axis, -1), np.moveaxis(target, axis, -1)
    for given, moved in ((labels, labels), (target, target_last)):
        left, right = cross_entropy(x, given, axis=axis), cross_entropy(x_last, moved)
        np.testing.assert_allclose(left, right, rtol=5e-7)
    left = kl_divergence(np.log(target), x, axis=axis)
    np.testing.assert_allclose(left, kl_divergence(np.log(target_last), x_last), rtol=2e-6)


def test_axes_of_a_loss_are_an_error() -> None:
    """Different from test_axes: a tuple is not accepted, reshape instead (the same tests' way)."""
    x = normal(2, 3, 4, 5)
    labels = np.random.default_rng(3).integers(0, 19, (2, 4))
    with pytest.raises((TypeError, ValueError), match="cross_entropy: axis"):
        cross_entropy(x, labels, axis=(1, 3))
    flat = np.moveaxis(x, 1, 2).reshape(2, 4, 15)
    log_p = flat - np.log(np.exp(flat.astype(np.float64)).sum(-1, keepdims=True))
    labels %= 15
    want = -np.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(cross_entropy(flat, labels), want, rtol=5e-7)


def test_poly_loss_is_cross_entropy_and_what_the_label_lacks() -> None:
    """PolyLossTest.test_scalar, test_batched: CE + epsilon (1 - <target, p>), to four decimals, of
    which the last may be off by one in the batch."""
    epsilon = np.array([2, 1, -1, 0, -0.5, 1.15, 1.214, 5.45])
    x = np.array([0.14, 1.456, 2.356, -0.124, -2.47], np.float32)
    target = np.array([0.1, 0.15, 0.2, 0.25, 0.3], np.float32)
    poly = np.asarray(cross_entropy(x, target)) + epsilon * (1 - float((target * softmax(x)).sum()))
    want = [4.5317, 3.7153, 2.0827, 2.8990, 2.4908, 3.8378, 3.8900, 7.3480]
    np.testing.assert_allclose(poly, want, rtol=0, atol=5.1e-5)
    x = np.array([[4.0, 2.0, 1.0], [0.0, 5.0, 1.0]], np.float32)
    target = np.array([[1.0, 0.0, 0.0], [0.0, 0.8, 0.2]], np.float32)
    lacking = 1 - (target * np.asarray(softmax(x), np.float64)).sum(-1)
    poly = np.asarray(cross_entropy(x, target)) + np.delete(epsilon, 2)[:, None] * lacking
    want = [
        [0.4823, 1.2567],
        [0.3261, 1.0407],
        [0.1698, 0.8247],
        [0.0917, 0.7168],
        [0.3495, 1.0731],
        [0.3595, 1.0870],
        [1.0211, 2.0018],
    ]
    np.testing.assert_allclose(poly, want, rtol=0, atol=7e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_is_that_of_smooth_labels(smoothing: float) -> None:
    """SmoothLabelsTest.test_batched: (1 - s) target + s / n. The loss of the smoothed target."""
    smooth = (1 - smoothing) * TARGETS + np.float32(smoothing / 3)
    want = cross_entropy(LOGITS, smooth)
    for targets in (TARGETS, LABELS):
        loss = cross_entropy(LOGITS, targets, label_smoothing=smoothing)
        np.testing.assert_allclose(loss, want, rtol=5e-7)


def test_ranking_softmax_loss() -> None:
    """RankingLossesTest.test_computes_loss_value (and _for_zero_labels, _weighted_, _with_vmap,
    _with_extreme_inputs): a distribution of any sum; upstream's rtol is 1e-3."""
    x = np.array([[0, 3, 1, 2], [0, 3, 1, 2], [0, 3, 2, 1], [3, 1, 4, 2]], np.float32)
    target = np.array([[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 2, 1], [2, 0, 1, 0]], np.float32)
    total = np.log(np.exp(np.arange(4.0)).sum())
    want = [2 * total - 3, 0, 3 * total - 5, 3 * (total + 1) - 10]
    np.testing.assert_allclose(cross_entropy(x, target), want, rtol=3e-7)
    x = np.array([0, -2.1e26, 3.4e37, 42], np.float32)
    target = np.array([0, 1, 1, 0], np.float32)
    np.testing.assert_allclose(cross_entropy(x, target), 3.4e37, rtol=3e-7)


def test_a_label_out_of_range_is_nan() -> None:
    """Different: optax counts from the end, or gives what its gather gives."""
    loss = jax.jit(cross_entropy)(LOGITS, np.array([-1, 0], np.int32))
    assert np.isnan(loss[0])
    np.testing.assert_allclose(loss[1], LOSSES[1], rtol=1e-6)
    assert np.isnan(jax.jit(cross_entropy)(LOGITS, np.array([3, 3], np.int32))).all()


# --- divergences -----------------------------------------------------------------------------


def test_kl_divergence() -> None:
    """KLDivergenceTest.test_batched, KLDivergenceWithLogTargetsTest.test_batched: the target comes
    first here."""
    np.testing.assert_allclose(
        kl_divergence(np.log(Q[0]), LOG_P[0]), 0.8875577, rtol=0, atol=NEARLY_NORMALISED
    )
    np.testing.assert_allclose(
        kl_divergence(LOG_P[::-1], LOG_P),
        [0.8875625, 0.7187435584901326],
        rtol=0,
        atol=NEARLY_NORMALISED,
    )


def test_kl_divergence_normalises() -> None:
    """Different from KLDivergenceTest.test_batched, whose second target sums to 0.9 (0.7592807):
    with 0.9 of it, KL = (0.7592807 - 0.9 log 0.9) / 0.9. GeneralizedKLDivergenceTest.test_batched
    adds what the target lacks of one, 0.1."""
    with np.errstate(divide="ignore"):
        ours = float(kl_divergence(np.log(Q[1]), LOG_P[1]))
    np.testing.assert_allclose(ours, 0.949006, rtol=0, atol=NEARLY_NORMALISED)
    unnormalised = 0.9 * (ours + np.log(0.9))
    np.testing.assert_allclose(unnormalised, 0.7592807, rtol=0, atol=NEARLY_NORMALISED)
    np.testing.assert_allclose(unnormalised + 0.1, 0.859308, rtol=0, atol=NEARLY_NORMALISED)


# --- sparsemax and Fenchel-Young -------------------------------------------------------------


def test_sparsemax_loss() -> None:
    """SparsemaxTest.test_binary, test_batched_binary (a logit beside one of 0), and
    test_multi_class_zero_loss, test_multi_class_gradient: learnt rows, exactly zero."""
    x = np.array([[0.0, 10.0], [0.0, 20.0]], np.float32)
    assert fenchel_young_loss(x, np.array([1, 0]), alpha=2.0).tolist() == [0, 20]
    x = np.array([[0, 1e5, 0], [1e5, 0, 0], [0, 0, 1e5]], np.float32)
    loss = jax.vmap(jax.value_and_grad(lambda x, y: fenchel_young_loss(x, y, alpha=2.0)))
    value, gradient = loss(x, np.array([1, 0, 2]))
    assert value.tolist() == [0, 0, 0]
    assert (gradient == 0).all()
    assert sparsemax(x).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_fenchel_young_loss_of_logsumexp() -> None:
    """FenchelYoungTest.test_fenchel_young_reg: 8 rows of 5 uniform numbers, rtol 1e-4."""
    generator = np.random.default_rng(0)
    truth, x = generator.uniform(size=(2, 8, 5)).astype(np.float32)
    y = softmax(truth)
    gradient = jax.grad(lambda x: fenchel_young_loss(x, y, alpha=1.0).sum())(x)
    np.testing.assert_allclose(gradient, softmax(x) - y, rtol=1e-6, atol=2e-7)
    labels = truth.argmax(-1)
    loss = fenchel_young_loss(x, labels, alpha=1.0)
    np.testing.assert_allclose(loss, cross_entropy(x, labels), rtol=5e-7)
    one_hot = np.eye(5, dtype=np.float32)[labels]
    np.testing.assert_allclose(fenchel_young_loss(x, one_hot, alpha=1.0), loss, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_projection_on_a_simplex_of_any_size(scale: float) -> None:
    """ProjectionsTest.test_projection_simplex_array, _vmap, _pytree, _edge_case: s sparsemax at T =
    s."""
    x = np.random.RandomState(0).randn(3, 50).astype(np.float32)
    for given in (x[0], x, np.array([2.5, 3.2, 0.5], np.float32)):
        p = scale * sparsemax(given, temperature=scale)
        np.testing.assert_allclose(p.sum(-1), np.full(given.shape[:-1], scale), rtol=3e-7)
        assert ((p >= 0) & (p <= scale)).all()
        # Not upstream's: no other point of the simplex is nearer, for x - p is constant on the
        # support and larger nowhere else.
        gap = given - np.asarray(p, np.float64)
        off = np.where(p > 0, gap, -INF).max(-1, keepdims=True)
        on = np.where(p > 0, gap, INF).min(-1, keepdims=True)
        np.testing.assert_allclose(off, on, rtol=0, atol=1e-6)
        assert (gap <= off + 1e-6).all()
    edge = scale * sparsemax(np.array([0.0, 0.0, -INF], np.float32), temperature=scale)
    np.testing.assert_array_equal(edge, np.float32([scale / 2, scale / 2, 0]))


def test_jacobian_of_the_projection() -> None:
    """ProjectionsTest.test_projection_simplex_jacobian: diag(s) - s s' / |s|, six decimals."""
    generator = np.random.RandomState(0)
    x, v = generator.rand(5).astype(np.float32), generator.randn(5).astype(np.float32)
    support = np.asarray(sparsemax(x) > 0, np.float64)
    want = np.diag(support) - np.outer(support, support) / support.sum()
    np.testing.assert_allclose(jax.jacrev(sparsemax)(x), want, rtol=0, atol=2e-7)
    np.testing.assert_allclose(jax.jacfwd(sparsemax)(x), want, rtol=0, atol=2e-7)
    value, tangent = jax.jvp(sparsemax, (x,), (v,))
    np.testing.assert_allclose(tangent, want @ v, rtol=0, atol=6e-7)
    step = np.float32(2**-10)
    difference = (sparsemax(x + step * v) - sparsemax(x - step * v)) / (2 * step)
    np.testing.assert_allclose(tangent, difference, rtol=0, atol=5e-4)
    np.testing.assert_allclose(jnp.sum(value), 1, rtol=2e-7)
