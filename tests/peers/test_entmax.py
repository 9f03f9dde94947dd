"""Facts of entmax's own tests.

Source: deep-spin/entmax at commit c2bec6d5e7d649cba7766c2172d89123ec2a6d70 (2024-05-21), MIT
License: README.md (the values), entmax/test_root_finding.py, test_mask.py, test_topk.py and
test_losses.py (properties of unseeded normal numbers; the same sizes are drawn here with a seed).
Upstream allows squared errors of 1e-7 in sum, or torch's allclose (rtol 1e-5), and its gradient
checks are in float64.

On purpose different, and asserted below: alpha is in [1, 4] (upstream tests 0.05 to 2.55, and 1 is
not to be used), has the batch shape, and 1 is softmax; a row of -inf is all 0; an ignored label is
`where`; the top-k shortcut `k=` is no argument.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jsoftmax import entmax, fenchel_young_loss, softmax, sparsemax
from tests import reference

INF = np.inf
PRINTED = 5.1e-5
"""Half a unit of the fourth decimal."""


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


# --- maps ------------------------------------------------------------------------------------


def test_values_of_the_readme() -> None:
    """README.md, "Example": softmax, sparsemax, entmax15."""
    x = np.array([-2.0, 0.0, 0.5], np.float32)
    for p, want in (
        (softmax(x), [0.0486, 0.3592, 0.5922]),
        (sparsemax(x), [0.0, 0.25, 0.75]),
        (entmax(x), [0.0, 0.3260, 0.6740]),
    ):
        np.testing.assert_allclose(p, want, rtol=0, atol=PRINTED)
    assert sparsemax(x).tolist() == [0, 0.25, 0.75]
    assert entmax(x)[0] == 0


def test_values_and_gradient_by_alpha_of_the_readme() -> None:
    """README.md, "Gradients w.r.t. alpha": entmax_bisect at alpha = 1.33."""
    x = np.array([[-1.0, 0.0, 0.5], [1.0, 2.0, 3.5]], np.float32)
    p, tangent = jax.jvp(
        lambda alpha: entmax(x, alpha=alpha), (jnp.float32(1.33),), (jnp.float32(1),)
    )
    want = [[0.0460, 0.3276, 0.6264], [0.0026, 0.1012, 0.8963]]
    np.testing.assert_allclose(p, want, rtol=0, atol=PRINTED)
    np.testing.assert_allclose(tangent[0, 0], -0.2562, rtol=0, atol=PRINTED)


@pytest.mark.parametrize("alpha", [2.0, 1.5])
def test_closed_forms_agree_with_the_search(alpha: float) -> None:
    """test_sparsemax, test_entmax15: 0.5 randn(4, 6), squared error below 1e-7; here the search is
    that of a traced alpha."""
    x = np.float32(0.5 * normal(4, 6))
    exact = sparsemax(x) if alpha == 2 else entmax(x)
    searched = entmax(x, alpha=np.full(4, alpha, np.float32))
    assert ((np.asarray(exact) - np.asarray(searched)) ** 2).sum() < 1e-12


def test_minus_infinity_is_a_mask() -> None:
    """test_mask (upstream in float64 too), test_mask_alphas: x[:, 3:] = -inf is x[:, :3], for the
    exact maps and alpha = 1.25, 1.5, 1.75, 2.25."""
    x = np.float32(normal(2, 6))
    x[:, 3:] = -INF
    alphas = np.broadcast_to(np.float32([[1.25], [1.5], [1.75], [2.25]]), (4, 2))
    many = np.stack([x] * 4)
    for p, short in (
        (sparsemax(x), sparsemax(x[:, :3])),
        (entmax(x), entmax(x[:, :3])),
        (entmax(many, alpha=alphas), entmax(many[..., :3], alpha=alphas)),
    ):
        assert (p[..., 3:] == 0).all()
        np.testing.assert_allclose(p[..., :3], short, rtol=0, atol=3e-7)


@pytest.mark.parametrize("coefficient", [1e-5, 0.5, 1e4])
def test_threshold_is_that_of_a_sort(coefficient: float) -> None:
    """test_entmax_topk, test_sparsemax_topk: coef randn(3, 4, 5), same threshold and support as by
    a full sort. Along one axis: upstream moves it."""
    x = np.float32(coefficient * normal(3, 4, 5))
    for alpha, p in ((2.0, sparsemax(x)), (1.5, entmax(x))):
        want = reference.over_rows(reference.entmax_row, x, 1.0, alpha)
        np.testing.assert_allclose(p, want, rtol=0, atol=4e-7)
        np.testing.assert_array_equal(np.asarray(p) > 0, want > 0)


def test_gradients_of_a_map() -> None:
    """test_sparsemax_grad, test_entmax_grad (alpha = 1.2, 1.5, 1.75, 2.25), and
    test_entmax_grad_multiple_alphas: randn(4, 6), in float64, by x and alpha."""
    with jax.enable_x64(True):
        x = normal(4, 6)
        alpha = np.array([1.2, 1.5, 1.75, 2.25])
        check_grads(
            lambda x, alpha: entmax(x, alpha=alpha), (x, alpha), 1, eps=1e-5, atol=1e-6, rtol=1e-6
        )
        for function in (sparsemax, entmax):
            check_grads(function, (x,), 1, ("rev",), eps=1e-5, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_any_axis_and_an_alpha_for_each_row(axis: int) -> None:
    """test_arbitrary_dimension, test_entmax_correct_multiple_alphas: randn(3, 4, 2, 5), every row
    as if alone. Here alpha is in [1, 4], and has no axis of size one for the row."""
    x = np.float32(normal(3, 4, 2, 5))
    batch = np.delete(x.shape, axis)
    alpha = np.float32(1.05 + 2.5 * np.random.default_rng(1).uniform(size=batch))
    p = np.moveaxis(entmax(x, axis, alpha=alpha), axis, -1)
    last = np.moveaxis(x, axis, -1)
    want = reference.over_rows(reference.entmax_row, last, 1.0, alpha)
    np.testing.assert_allclose(p, want, rtol=0, atol=2e-6)


# --- losses ----------------------------------------------------------------------------------

ALPHAS = np.array([2.0, 1.5, 1.25, 2.25])


def test_a_loss_is_not_negative() -> None:
    """test_non_neg: five batches of randn(4, 10)."""
    x = np.float32(normal(4, 20, 10))
    labels = np.random.default_rng(1).integers(0, 10, (4, 20))
    alphas = np.broadcast_to(np.float32(ALPHAS)[:, None], (4, 20))
    loss = np.asarray(fenchel_young_loss(x, labels, alpha=alphas))
    assert (loss >= 0).all()
    assert (loss > 0).any(-1).all()


def test_gradients_of_a_loss_and_an_ignored_label() -> None:
    """test_loss (gradcheck, in float64, with and without ignore_index), test_index_ignored: the sum
    falls when the label of the largest loss is ignored. Here by `where`."""
    with jax.enable_x64(True):
        x = normal(4, 20, 10)
        labels = np.random.default_rng(1).integers(0, 10, (4, 20))
        alphas = np.broadcast_to(ALPHAS[:, None], (4, 20))

        def losses(x: jax.Array, used: np.ndarray) -> jax.Array:
            return fenchel_young_loss(x, labels, alpha=alphas, where=used[..., None])

        every = np.ones(labels.shape, bool)
        unreduced = np.asarray(losses(x, every))
        worst = np.take_along_axis(labels, unreduced.argmax(-1)[:, None], -1)
        used = labels != worst
        ignoring = np.asarray(losses(x, used))
        assert (ignoring[~used] == 0).all()
        np.testing.assert_array_equal(ignoring[used], unreduced[used])
        assert (ignoring.sum(-1) < unreduced.sum(-1)).all()
        for mask in (every, used):
            check_grads(
                lambda x, mask=mask: losses(x, mask), (x,), 1, ("rev",), 1e-6, 1e-6, eps=1e-5
            )


# --- what differs on purpose -----------------------------------------------------------------


def test_an_alpha_outside_one_to_four() -> None:
    """test_entmax_grad has 0.2, 0.5 and 0.75 too, test_entmax_correct_multiple_alphas 0.05 and
    more."""
    x = np.float32(normal(4, 6))
    for alpha in (0.2, 0.5, 0.75, 4.5):
        with pytest.raises(ValueError, match="entmax: alpha"):
            entmax(x, alpha=alpha)
    p = np.asarray(jax.jit(lambda alpha: entmax(x, alpha=alpha))(np.float32([0.5, 1.5, 4.5, 0.75])))
    np.testing.assert_array_equal(np.isnan(p), np.array([[1], [0], [1], [1]]) * np.ones((1, 6)))
    np.testing.assert_allclose(p[1], entmax(x)[1], rtol=0, atol=3e-7)


def test_alpha_one_is_softmax() -> None:
    """entmax_bisect's docstring: it "does not work with" 1."""
    x = np.float32(normal(4, 6))
    np.testing.assert_allclose(entmax(x, alpha=1.0), softmax(x), rtol=1e-6)
    np.testing.assert_allclose(entmax(x, alpha=np.ones(4, np.float32)), softmax(x), rtol=1e-6)


def test_a_row_of_minus_infinity_is_zero() -> None:
    """Upstream's is NaN: its threshold is -inf."""
    x = np.full((4, 6), -INF, np.float32)
    for p in (sparsemax(x), entmax(x), entmax(x, alpha=np.full(4, 1.25, np.float32))):
        assert (p == 0).all()
    assert (fenchel_young_loss(x, np.zeros(4, np.int32)) == 0).all()
