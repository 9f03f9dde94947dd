"""Fenchel-Young losses: values, that they are never negative, derivatives, edges, shards."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jsoftmax
from jsoftmax import entmax, fenchel_young_loss
from tests import reference, rows
from tests.reference import Row

INF = np.inf
ALPHAS = (1.0, 1.001, 1.3, 1.5, 2.0, 3.0)
forms = pytest.mark.parametrize("closed", [True, False], ids=["number", "array"])
every_alpha = pytest.mark.parametrize("alpha", ALPHAS)


def loss(x: Any, labels: Any, alpha: float, closed: bool, **settings: Any) -> jax.Array:
    """The loss with alpha as a Python number, or as an array."""
    order = alpha if closed else jnp.asarray(alpha, x.dtype)
    return fenchel_young_loss(x, jnp.asarray(labels), alpha=order, **settings)


def expected(x: Row, y: Row, alpha: float) -> Row:
    """The reference's loss of each row."""
    everything = np.ones(x.shape[-1], bool)
    wide = x.astype(np.float64), y.astype(np.float64)
    return np.array(
        [
            reference.fenchel_young_row(row, everything, 1.0, alpha, y=target)
            for row, target in zip(*wide, strict=True)
        ]
    )


def distributions(count: int, length: int) -> Row:
    """Random label distributions, with zeros."""
    y = np.random.default_rng(1).dirichlet(np.full(length, 0.5), count)
    y[:, ::4] = 0
    return (y / y.sum(-1, keepdims=True)).astype(np.float32)


@forms
@every_alpha
def test_agrees_with_the_formula(alpha: float, closed: bool) -> None:
    number = alpha if closed and alpha in (1, 1.5, 2) else float(np.float32(alpha))
    for scale in (0.1, 1.0, 5.0):
        x = rows.normal(20 * 30, scale).reshape(20, 30)
        labels = np.random.default_rng(0).integers(0, 30, 20)
        atol = 3e-7 * (1 + np.abs(x).max())
        want = expected(x, np.eye(30)[labels], number)
        np.testing.assert_allclose(loss(x, labels, alpha, closed), want, rtol=2e-6, atol=atol)
        y = distributions(20, 30)
        want = expected(x, y, number)
        np.testing.assert_allclose(loss(x, y, alpha, closed), want, rtol=2e-6, atol=atol)
        # An integer is the distribution that has all mass on it.
        one_hot = loss(x, np.eye(30, dtype=np.float32)[labels], alpha, closed)
        np.testing.assert_allclose(loss(x, labels, alpha, closed), one_hot, rtol=1e-6, atol=atol)


def test_alpha_one_is_cross_entropy() -> None:
    x = rows.normal(200, 3.0).reshape(10, 20)
    labels = np.arange(10)
    want = -reference.over_rows(reference.log_softmax_row, x, 1.0)[labels, labels]
    for closed in (True, False):
        np.testing.assert_allclose(loss(x, labels, 1.0, closed), want, rtol=2e-6)


def test_nearly_certain_labels_keep_their_relative_accuracy() -> None:
    """With two entries and a gap, down to losses of 1e-9."""
    for alpha in (1.0, 1.2, 1.5, 2.0):
        largest = 20.0 if alpha == 1 else 1 / (alpha - 1)
        nearest = {1.0: 1e-4, 1.2: 0.03, 1.5: 0.01, 2.0: 1e-3}[alpha]
        gap = (largest * (1 - np.geomspace(nearest, 0.9, 12))).astype(np.float32)
        x = np.stack([gap, np.zeros_like(gap)], -1)
        number = alpha if alpha in (1.0, 1.5, 2.0) else float(np.float32(alpha))
        want = expected(x, np.array([[1.0, 0.0]] * 12), number)
        assert want.min() < 1e-6
        for closed in (True, False):
            got = loss(x, np.zeros(12, int), alpha, closed)
            np.testing.assert_allclose(got, want, rtol=2e-4 if alpha > 1 else 1e-5)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_labels_of_small_losses_have_all_digits(alpha: float) -> None:
    """Where the label's probability is between 0.5 and 0.98: both forms of what it lacks."""
    largest = 4.0 if alpha == 1 else 1 / (alpha - 1)
    gap = (largest * np.linspace(0.05, 0.8, 40)).astype(np.float32)
    x = np.stack([gap, np.zeros_like(gap)], -1)
    want = expected(x, np.array([[1.0, 0.0]] * 40), alpha)
    assert want.min() > 1e-3
    np.testing.assert_allclose(loss(x, np.zeros(40, int), alpha, True), want, rtol=2e-6)


@forms
@every_alpha
def test_never_negative_and_zero_at_the_map(alpha: float, closed: bool) -> None:
    x = rows.normal(64 * 50, 1.0).reshape(64, 50)
    order = alpha if closed else jnp.float32(alpha)
    p = entmax(x, alpha=order)
    at_map = np.asarray(loss(x, p, alpha, closed))
    assert (at_map >= 0).all()
    np.testing.assert_allclose(at_map, 0, atol=2e-6)
    assert (np.asarray(loss(x, distributions(64, 50), alpha, closed)) > 0.01).all()
    for scale in (1e-3, 1.0, 100.0):
        labels = np.argmax(x, -1)
        assert (np.asarray(loss(scale * x, labels, alpha, closed)) >= 0).all()


@forms
def test_a_margin_costs_nothing(closed: bool) -> None:
    for alpha in (1.5, 2.0, 3.0):
        margin = 1 / (alpha - 1)
        x = np.array([[margin, 0, -1], [margin * 0.95, 0, -1]], np.float32) + 7
        value = np.asarray(loss(x, np.zeros(2, int), alpha, closed))
        assert value[0] == 0
        assert value[1] > 0


@forms
@every_alpha
def test_gradient_is_the_map_minus_the_label(alpha: float, closed: bool) -> None:
    x = jnp.asarray(rows.normal(60, 1.0).reshape(4, 15))
    labels, y = np.array([0, 3, 14, 7]), distributions(4, 15)
    p = entmax(x, alpha=alpha if closed else jnp.float32(alpha))
    for target, mass in ((labels, np.eye(15)[labels]), (y, y)):
        gradient = jax.grad(lambda x, t=target: loss(x, t, alpha, closed).sum())(x)
        np.testing.assert_allclose(gradient, np.asarray(p) - mass, atol=1e-6)


@pytest.mark.parametrize("kind", ["label", "distribution"])
@pytest.mark.slow
def test_check_grads(kind: str) -> None:
    """In logits, temperature and alpha; and in a distribution along the simplex."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)))
        where = jnp.array([[True, True, False, True, True], [True] * 5, [True] * 5])
        arguments = x, jnp.array([0.8, 1.7, 1.2]), jnp.array([1.2, 1.6, 2.5])
        if kind == "label":
            target = jnp.array([1, 2, 3])
        else:
            target = jnp.where(where, jnp.asarray(distributions(3, 5), x.dtype), 0)
            target = target / target.sum(-1, keepdims=True)
            mixed = jax.jit(lambda x, u: fenchel_young_loss(x, jax.nn.softmax(u), alpha=1.3))
            check_grads(mixed, (x, x[::-1]), order=2, modes=("fwd", "rev"), rtol=1e-5, atol=1e-5)
        function = jax.jit(
            lambda x, t, a: fenchel_young_loss(x, target, alpha=a, temperature=t, where=where)
        )
        check_grads(function, arguments, order=3, modes=("fwd",), rtol=1e-5, atol=1e-5)
        check_grads(function, arguments, order=2, modes=("rev",), rtol=1e-5, atol=1e-5)


@forms
def test_edges(closed: bool) -> None:
    x = jnp.array(
        [[1.0, -INF, 0.0], [1.0, 2.0, 0.0], [-INF] * 3, [1.0, np.nan, 0.0], [3.0, 2.0, INF]]
    )
    where = np.array([[True] * 3, [True, False, True], [True] * 3, [True] * 3, [True] * 3])
    labels = jnp.array([1, 1, 0, 0, 0])
    for alpha in (1.0, 1.5, 1.2):

        def total(x: jax.Array, alpha: float = alpha) -> jax.Array:
            value = loss(x, labels, alpha, closed, where=where)
            return jnp.where(jnp.isfinite(value), value, 0).sum()

        value = loss(x, labels, alpha, closed, where=where)
        np.testing.assert_array_equal(value, [INF, INF, 0, np.nan, np.nan])
        gradient = jax.grad(lambda x, a=alpha: loss(x, labels, a, closed, where=where).sum())(x)
        np.testing.assert_array_equal(gradient[:3], 0)
        # With no label mass on them, these classes cost nothing.
        free = loss(x[:2], jnp.array([0, 0]), alpha, closed, where=where[:2])
        alone = loss(jnp.array([[1.0, 0.0]] * 2), jnp.array([0, 0]), alpha, closed)
        np.testing.assert_allclose(free, alone, rtol=1e-6)


def test_labels_out_of_range() -> None:
    x = rows.normal(6, 1.0).reshape(2, 3)
    for bad in (np.array([0, 3]), np.array([-1, 0])):
        with pytest.raises(ValueError, match="fenchel_young_loss: labels must be in"):
            fenchel_young_loss(x, bad)
        got = np.asarray(jax.jit(fenchel_young_loss)(x, bad))
        outside = (bad < 0) | (bad > 2)
        assert np.isnan(got[outside]).all()
        assert np.isfinite(got[~outside]).all()
        gradient = jax.grad(lambda x, t=bad: fenchel_young_loss(x, jnp.asarray(t)).sum())(x)
        np.testing.assert_array_equal(np.asarray(gradient)[outside], 0)
    negative = jnp.array([[0.5, 0.75, -0.25], [0.0, 1.0, 0.0]])
    got = np.asarray(fenchel_young_loss(x, negative))
    assert np.isnan(got[0])
    assert np.isfinite(got[1])


@pytest.mark.parametrize("rows_of", [2, 2048])
def test_what_is_broken_is_nan_in_a_compiled_batch_of_distributions(rows_of: int) -> None:
    """XLA:CPU's maximum overlooks NaN, in some programs: the loss of such a row was 0."""
    x, y = rows.normal(7 * rows_of, 1.0).reshape(-1, 7), distributions(rows_of, 7)
    t, alpha = np.ones(rows_of, np.float32), np.full(rows_of, 2.5, np.float32)
    call = jax.jit(lambda x, y, t, alpha: fenchel_young_loss(x, y, temperature=t, alpha=alpha))
    sound = np.asarray(call(x, y, t, alpha))
    assert np.isfinite(sound).all()
    for i, wrong in ((0, np.nan), (0, INF), (1, np.nan), (1, -0.5), (2, np.nan), (2, -1.0), (3, 5)):
        given = [x, y, t, alpha]
        given[i] = given[i].copy()
        given[i][1::2, ...] = np.where(np.arange(7) == 3, wrong, given[i][1::2]) if i < 2 else wrong
        got = np.asarray(call(*given))
        assert np.isnan(got[1::2]).all(), (i, wrong)
        np.testing.assert_allclose(got[::2], sound[::2], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("check_vma", [True, False])
def test_equals_dense_over_shards(check_vma: bool) -> None:
    """Labels are indices in the whole row; a distribution is split as the logits are."""
    mesh = jax.make_mesh((4,), ("vocab",), (AxisType.Auto,), devices=jax.devices()[:4])
    split = P(None, "vocab")
    x, y = jnp.asarray(rows.normal(5 * 32, 1.0).reshape(5, 32)), distributions(5, 32)
    labels = jnp.array([0, 7, 8, 31, 20])
    for target, spec in ((labels, P()), (y, split)):
        function = jax.shard_map(
            lambda x, t: fenchel_young_loss(x, t, alpha=1.3, axis_name="vocab"),
            mesh=mesh,
            in_specs=(split, spec),
            out_specs=P(),
            check_vma=check_vma,
        )
        value, gradient = jax.jit(jax.value_and_grad(lambda x, t, f=function: f(x, t).sum()))(
            x, target
        )
        dense = jax.value_and_grad(lambda x, t: fenchel_young_loss(x, t, alpha=1.3).sum())(
            x, target
        )
        chex.assert_trees_all_close((value, gradient), dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype: str) -> None:
    x = jnp.asarray(rows.normal(300, 1.0).reshape(3, 100), dtype)
    labels = jnp.array([0, 50, 99])
    wide = fenchel_young_loss(x.astype(jnp.float32), labels).astype(x.dtype)
    chex.assert_trees_all_equal(fenchel_young_loss(x, labels), wide)


def test_the_backward_pass_keeps_one_array_of_the_size_of_the_logits() -> None:
    x, labels = jnp.zeros((3, 257)), jnp.zeros(3, jnp.int32)
    pulled = jax.jit(lambda x: jax.vjp(lambda x: fenchel_young_loss(x, labels), x)[1])
    large = [leaf for leaf in jax.tree.leaves(pulled(x)) if leaf.size >= x.size]
    assert len(large) <= 1, [(leaf.shape, leaf.dtype) for leaf in large]


@pytest.mark.parametrize("kind", ["label", "distribution"])
def test_a_fenchel_young_loss_moves_with_alpha(kind: str) -> None:
    x = rows.normals(4, 6)
    target = (
        np.array([0, 5, 2, 2])
        if kind == "label"
        else reference.softmax_rows(rows.normals(4, 6, seed=1))
    )
    mass = np.eye(6)[target] if kind == "label" else target
    given = target if kind == "label" else target.astype(np.float32)

    def loss(alpha: jax.Array) -> jax.Array:
        return jsoftmax.fenchel_young_loss(x, given, alpha=alpha)

    alpha = np.float32(1.4)
    _, got = jax.jvp(loss, (alpha,), (np.float32(1),))

    def exact(alpha: float) -> np.ndarray:
        allowed = np.ones(6, bool)
        rows = zip(x.astype(np.float64), mass, strict=True)
        return np.array(
            [reference.fenchel_young_row(row, allowed, alpha=alpha, y=y) for row, y in rows]
        )

    want = (exact(1.4 + 1e-5) - exact(1.4 - 1e-5)) / 2e-5
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_fenchel_young_loss_moves_with_its_distribution() -> None:
    """Along the simplex, by ln_alpha(y) - x and a constant."""
    x, y = (
        rows.normals(3, 5),
        reference.softmax_rows(rows.normals(3, 5, seed=1)).astype(np.float32),
    )
    for alpha in (1.5, jnp.float32(1.3)):
        got = jax.grad(lambda y, a=alpha: jsoftmax.fenchel_young_loss(x, y, alpha=a).sum())(y)
        kappa = float(alpha) - 1
        want = (y**kappa - 1) / kappa - x
        got, want = (np.asarray(g) - np.asarray(g).mean(-1, keepdims=True) for g in (got, want))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
