"""Facts of jax's own tests.

Source: jax-ml/jax at commit cec06d116c05f0d52adfceee3d3b730fdbcb0ce5 (2026-08-08), Apache License
2.0: tests/nn_test.py (softmax, log_softmax, logmeanexp), tests/lax_scipy_test.py (logsumexp against
scipy, entr), tests/random_lax_test.py (categorical), tests/lax_test.py (top_k). Where upstream asks
for no tolerance, its defaults are 1e-6 in float32.

On purpose different, and asserted below: +inf makes a row NaN; a row of -inf is 0 and has the
gradient 0; logsumexp reduces the last axis, and has no scalars and no `b=` (a weight is a logit,
log b); the entropy beside a probability of 0 has a finite gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.test_util import check_grads

from jsoftmax import entropy, log_softmax, logsumexp, sample, softmax, top_k_mask
from tests.statistics import p_value

INF = np.inf
X = np.array([5.5, 1.3, -4.2, 0.9], np.float32)
both = pytest.mark.parametrize("function", [softmax, log_softmax])


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# --- nn_test.py ------------------------------------------------------------------------------


@both
def test_empty(function) -> None:
    """testSoftmaxEmptyArray."""
    x = jnp.zeros(0)
    got = function(x)
    assert got.shape == (0,)
    assert got.dtype == x.dtype


@both
def test_nothing_allowed(function) -> None:
    """testSoftmaxEmptyMask."""
    got = function(X, where=np.zeros(4, bool))
    assert got.tolist() == [0.0 if function is softmax else -INF] * 4


@both
def test_where(function) -> None:
    """testSoftmaxWhereMask: what is left is as if alone, sums to one, and has its two derivatives
    (upstream's of softmax only)."""
    where = np.array([True, False, True, True])
    got = np.asarray(function(X, where=where))
    np.testing.assert_allclose(got[where], function(X[where]), rtol=3e-7)
    np.testing.assert_allclose((got if function is softmax else np.exp(got)).sum(), 1, rtol=3e-7)
    kept = np.array([0, 2, 3])
    with jax.enable_x64(True):
        check_grads(
            lambda x: function(x, where=where)[kept],
            (X.astype(np.float64),),
            2,
            ("rev",),
            atol=1e-6,
            rtol=1e-6,
        )


@both
def test_gradient_beside_a_disallowed_huge_logit(function) -> None:
    """testSoftmaxWhereGrad (jax issue 19490)."""
    x = np.array([36.0, 10000.0], np.float32)
    gradient = jax.grad(lambda x: function(x, where=np.array([True, False]))[0])(x)
    assert gradient.tolist() == [0, 0]


def test_gradient_of_softmax_and_what_it_keeps() -> None:
    """testSoftmaxGrad (order 2, atol 5e-3), testSoftmaxGradResiduals, testSoftmaxGradFlag: one
    array of four numbers."""
    with jax.enable_x64(True):
        check_grads(softmax, (X.astype(np.float64),), 2, rtol=1e-6, atol=1e-6)
    _, backward = jax.vjp(softmax, jnp.asarray(X))
    kept = [leaf for leaf in jax.tree.leaves(backward) if np.ndim(leaf)]
    assert [leaf.shape for leaf in kept] == [(4,)]
    np.testing.assert_array_equal(kept[0], softmax(X))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_log_of_the_mean_of_exponentials(shape: tuple[int, ...]) -> None:
    """testLogMeanExp: uniform in [-1, 1), a random axis and mask, atol 1e-3; here by logsumexp."""
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, shape).astype(np.float32)
    where = generator.integers(0, 2, shape).astype(bool)
    for mask in (np.ones(shape, bool), where):
        count = mask.sum(-1, keepdims=True)
        total = np.where(mask, np.exp(x.astype(np.float64)), 0).sum(-1, keepdims=True)
        got = np.asarray(logsumexp(x, where=mask, keepdims=True))
        some = count > 0
        want = np.log(total[some] / count[some])
        np.testing.assert_allclose(got[some] - np.log(count[some]), want, rtol=0, atol=5e-7)
        assert (got[~some] == -INF).all()


# --- lax_scipy_test.py -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 1), (2, 3, 4)])
def test_logsumexp_is_scipys(shape: tuple[int, ...]) -> None:
    """testLogSumExp: every axis from both ends, keepdims, floats and integers; rtol 1e-6."""
    x = 3 * normal(*shape)
    for axis in range(-1, len(shape)):
        for keepdims in (False, True):
            want = scipy.special.logsumexp(x.astype(np.float64), axis, keepdims=keepdims)
            got = logsumexp(x, axis, keepdims=keepdims)
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=5e-7, atol=5e-7)
    whole = np.round(x).astype(np.int32)
    got = logsumexp(whole)
    assert got.dtype == jnp.result_type(float)
    np.testing.assert_allclose(got, scipy.special.logsumexp(whole, -1), rtol=5e-7, atol=5e-7)


def test_logsumexp_of_few() -> None:
    """testLogSumExpZeros (jax issue 5370), testLogSumExpOnes (7390), testLogSumExpNans (7634)."""
    x, weight = np.array([-1000.0, -2.0], np.float32), np.array([1, 0], np.float32)
    with np.errstate(divide="ignore"):
        assert logsumexp(x + np.log(weight)) == -1000
    assert logsumexp(x, where=weight > 0) == -1000
    assert logsumexp(np.array([-1000, -2]), where=weight > 0) == -1000
    np.testing.assert_allclose(logsumexp(np.ones(4, np.float32)), 1 + np.log(4), rtol=1.2e-7)
    with jax.debug_nans(True), jax.disable_jit():
        assert logsumexp(np.ones(1, np.float32)) == 1


@pytest.mark.parametrize("size", range(6))
def test_logsumexp_where(size: int) -> None:
    """testLogSumExpWhere: -inf where no entry is left."""
    x, where = normal(size), np.random.default_rng(size).integers(0, 2, size).astype(bool)
    want = scipy.special.logsumexp(x[where].astype(np.float64)) if where.any() else -INF
    np.testing.assert_allclose(logsumexp(x, where=where), want, rtol=5e-7, atol=2e-7)


def test_gradient_of_logsumexp_where() -> None:
    """testLogSumExpWhereGrad."""
    x = np.array([0, 0, 0, 0, 100], np.float32)
    gradient = jax.grad(lambda x: logsumexp(x, where=np.arange(5) < 4))(x)
    np.testing.assert_allclose(gradient, [0.25, 0.25, 0.25, 0.25, 0], rtol=1.2e-7, atol=0)


# --- random_lax_test.py, lax_test.py ---------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_categorical(dtype: str) -> None:
    """testCategorical: log p - 42, 10000 draws, chi-square p-value above 0.01. The second of the
    two sample shapes is a broadcast too."""
    for axis, shape, p in (
        (-1, (2, 5000, 2, 4), np.array([[[[0.25] * 4]], [[[0.1, 0.2, 0.3, 0.4]]]])),
        (1, (10000, 2, 2), np.array([[[0.5, 0.1], [0.5, 0.9]]])),
    ):
        x = jnp.asarray(np.log(p) - 42, dtype)
        drawn = np.asarray(sample(jax.random.key(1), jnp.broadcast_to(x, shape), axis=axis))
        assert drawn.shape == tuple(np.delete(shape, axis))
        # As rounded: bfloat16 has 42 to a quarter.
        rounded = np.moveaxis(np.exp(np.asarray(x, np.float64) + 42), axis, -1)
        drawn = drawn.reshape(2, -1) if axis == -1 else drawn.T
        for tokens, probability in zip(drawn, rounded.reshape(2, -1), strict=True):
            counts = np.bincount(tokens, minlength=probability.size)
            assert counts.sum() == 10000
            assert p_value(counts, probability) > 0.01


@pytest.mark.parametrize("axis", [-3, -2, -1, 0, 1, 2])
def test_shape_of_a_draw(axis: int) -> None:
    """test_categorical_shape_argument (jax issue 13124): 10 entries on any axis of [3, 4] rows."""
    shape = [3, 4]
    shape.insert(axis % 3, 10)
    drawn = jax.eval_shape(lambda key: sample(key, jnp.ones(shape), axis=axis), jax.random.key(0))
    assert drawn.shape == (3, 4)


@pytest.mark.parametrize("shape", [(20,), (8, 20), (2000,)])
def test_top_k(shape: tuple[int, ...]) -> None:
    """testTopK, is_stable: k = 1, 3, 8 of numbers of which some are equal, the first of them
    first."""
    x = np.round(2 * normal(*shape))
    for given in (x, x.astype(np.int32)) if len(x) < 100 else (x,):
        for axis in (0, -1)[2 - len(shape) :]:
            rank = np.argsort(np.argsort(-x, axis, kind="stable"), axis)
            for k in (1, 3, 8):
                kept = top_k_mask(given, np.float32(k), axis=axis, ties="first")
                np.testing.assert_array_equal(kept, rank < k)


# --- what differs on purpose -----------------------------------------------------------------


def test_plus_infinity_is_an_error_upstream() -> None:
    """testLogSumExpInfs: jax's is +inf. NaN in that row alone."""
    got = logsumexp(np.array([[1, INF], [1, 1]], np.float32))
    assert np.isnan(got[0])
    np.testing.assert_allclose(got[1], 1 + np.log(2), rtol=1.2e-7)


def test_a_row_of_minus_infinity() -> None:
    """jax.nn.softmax and log_softmax give NaN, unless it is masked (testSoftmaxEmptyMask)."""
    x = np.full(4, -INF, np.float32)
    assert softmax(x).tolist() == [0] * 4
    assert log_softmax(x).tolist() == [-INF] * 4
    assert jax.grad(logsumexp)(x).tolist() == [0] * 4


def test_logsumexp_is_of_rows() -> None:
    """testLogSumExpNans gives a scalar; and without an axis jax's reduces all."""
    with pytest.raises(ValueError, match="logsumexp: logits"):
        logsumexp(1.0)
    assert logsumexp(normal(2, 3)).shape == (2,)


def test_gradient_of_the_entropy_beside_a_probability_of_zero() -> None:
    """testGradOfEntrAtZero: that of entr is inf there, and NaN after a softmax."""
    x = np.array([0.0, 0.0, -INF], np.float32)
    np.testing.assert_allclose(entropy(x), np.log(2), rtol=1.2e-7)
    assert jax.grad(entropy)(x).tolist() == [0, 0, 0]
