"""kl_divergence and cross_entropy: values, limits, labels, derivatives, memory."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax
from jsoftmax import (
    cross_entropy,
    entropy,
    fenchel_young_loss,
    kl_divergence,
    linear_cross_entropy,
    log_softmax,
    softmax,
)
from tests import reference, rows
from tests.compare import assert_close

INF = np.inf
LEAST = float(np.finfo(np.float32).min)
NAMES, FAMILY = rows.stacked(129)


def labels_for(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """A random label for each row."""
    return np.random.default_rng(seed).integers(0, x.shape[-1], x.shape[:-1])


def expected(x: Any, target: Any, *settings: float, where: Any = None) -> np.ndarray:
    """The reference's cross-entropy of each row of a [N, V] array."""
    where = np.broadcast_to(True if where is None else where, np.shape(x))
    triples = zip(reference.as_float(x), where, target, strict=True)
    return np.array([reference.cross_entropy_row(a, b, t, *settings) for a, b, t in triples])


def distributions(shape: tuple[int, ...], seed: int = 5) -> np.ndarray:
    """Rows that sum to one, with zeros among them."""
    weight = np.random.default_rng(seed).random(shape)
    weight = np.where(weight < 0.3, 0, weight)
    return (weight / weight.sum(-1, keepdims=True)).astype(np.float32)


class TestKL:
    def test_reference(self) -> None:
        other = np.roll(FAMILY, 1, axis=0)
        for temperature in (1.0, 0.3, 4.0, 0.0, INF):
            pairs = zip(reference.as_float(FAMILY), reference.as_float(other), strict=True)
            ones = np.ones(FAMILY.shape[1], bool)
            want = [reference.kl_row(x, ones, y, temperature) for x, y in pairs]
            got = kl_divergence(FAMILY, other, temperature=temperature)
            assert_close(got, np.array(want), rtol=2e-5, atol=1e-6, label=str(NAMES))

    @pytest.mark.parametrize("length", rows.LENGTHS)
    def test_equal_rows_give_exactly_zero(self, length: int) -> None:
        _, x = rows.stacked(length)
        for function in (kl_divergence, jax.jit(kl_divergence)):
            np.testing.assert_array_equal(function(x, x.copy()), 0)
        for temperature in (0.0, 0.37, INF):
            np.testing.assert_array_equal(kl_divergence(x, x.copy(), temperature=temperature), 0)
        gradient = jax.grad(lambda x, y: kl_divergence(x, y).sum(), (0, 1))(x, x)
        chex.assert_trees_all_equal(gradient, (jnp.zeros_like(x), jnp.zeros_like(x)))

    def test_never_negative_and_small_ones_keep_their_accuracy(self) -> None:
        x = rows.normal(64 * 1000, 3.0).reshape(64, 1000)
        direction = rows.normal(64 * 1000, 1.0, seed=1).reshape(64, 1000)
        for scale in (1e-1, 1e-2, 1e-3):
            y = (x + direction * scale).astype(np.float32)
            x = x.astype(np.float32)
            for length, temperature in itertools.product((3, 1000), (1.0, 0.7)):
                p, q = x[:, :length], y[:, :length]
                t = np.float32(temperature)
                ones = np.ones(length, bool)
                pairs = zip(reference.as_float(p), reference.as_float(q), strict=True)
                want = np.array([reference.kl_row(a, ones, b, t) for a, b in pairs])
                got = np.asarray(kl_divergence(p, q, temperature=t))
                assert (got >= 0).all()
                # To 1e-7 as accurate as to 1: their logits' differences are.
                held = want > 1e-8
                np.testing.assert_allclose(
                    got[held], want[held], rtol=2e-5 if scale > 0.05 else 3e-6
                )
                if length == 1000:
                    assert held.all()
        # Rows that are far apart, but for a constant.
        y = (x + direction * 1e-2).astype(np.float32)
        far = np.round(x * 64) / 64
        want = np.asarray(kl_divergence(far, y))
        for constant in (100.0, 1e4, -1e4):
            got = np.asarray(kl_divergence(far + np.float32(constant), y))
            np.testing.assert_allclose(got, want, rtol=3e-6)
        # Rows equal up to a constant differ by rounding only.
        shifted = np.asarray(kl_divergence(x, x + np.float32(0.1)))
        assert ((shifted >= 0) & (shifted < 1e-12)).all()

    def test_minus_infinity_on_either_side(self) -> None:
        x = np.array([[0.0, 1.0, -INF], [0.0, 0.0, 0.0], [-INF] * 3, [1, 2, 3], [1, -INF, 0]])
        y = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, -INF], [1, 2, 3], [-INF] * 3, [2, -INF, 0]])
        got = kl_divergence(x, y)
        p, q = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-2.0))
        last = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        first = p * np.log(3 * p) + (1 - p) * np.log(3 * (1 - p))
        np.testing.assert_allclose(got, [first, INF, 0, INF, last], rtol=2e-6)

        def finite(x: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
            value = kl_divergence(x, y, temperature=t)
            return jnp.where(jnp.isfinite(value), value, 0).sum()

        x, y, t = jnp.asarray(x), jnp.asarray(y), jnp.ones(5)
        gradient = jax.grad(finite, (0, 1, 2))
        third = jax.jit(jax.jacrev(jax.jacfwd(gradient)))(x, y, t)
        chex.assert_tree_all_finite((gradient(x, y, t), third))
        of_x, of_y, of_t = gradient(x, y, t)
        for row in (1, 2, 3):
            assert not np.any(of_x[row]), NAMES[row]
            assert not np.any(of_y[row])
            assert of_t[row] == 0
        np.testing.assert_array_equal(np.asarray(of_x)[np.isneginf(x)], 0)
        np.testing.assert_allclose(of_y[0], np.array([1, 1, 1]) / 3 - softmax(x[0]), rtol=1e-6)

    def test_masks_of_different_conventions(self) -> None:
        """A logit of the least float is further from the others, at T < 1, than any float."""
        y = jnp.array([0.5, 0.0, LEAST])
        for masked in (-100.0, -1e4, -1e9, LEAST):
            x = jnp.array([0.0, 1.0, masked])
            for t in (0.5, 0.1):
                of_x, of_y = jax.grad(kl_divergence, (0, 1))(x, y, temperature=t)
                got = kl_divergence(x, y, temperature=t), of_x[:2], of_y[:2]
                wanted = jax.grad(kl_divergence, (0, 1))(x[:2], y[:2], temperature=t)
                want = kl_divergence(x[:2], y[:2], temperature=t), *wanted
                chex.assert_trees_all_close(got, want, rtol=1e-6)
                assert not of_x[2]
                assert not of_y[2]

    def test_gradient_formulas(self) -> None:
        """dKL/dx = p (log p - log q - KL), dKL/dy = q - p."""
        x, y = jnp.asarray(rows.normal(30, 1.5)), jnp.asarray(rows.normal(30, 1.5, seed=1))
        p, q = (reference.over_rows(reference.softmax_row, v) for v in (x, y))
        ratio = np.log(p) - np.log(q)
        of_x, of_y = jax.grad(kl_divergence, (0, 1))(x, y)
        np.testing.assert_allclose(of_x, p * (ratio - (p * ratio).sum()), rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(of_y, q - p, rtol=2e-5, atol=1e-7)

    @pytest.mark.parametrize(
        ("one", "two", "both"),
        [
            ("bfloat16", "bfloat16", "bfloat16"),
            ("bfloat16", "float32", "float32"),
            ("float32", "float16", "float32"),
            ("float16", "bfloat16", "float32"),
        ],
    )
    def test_of_two_dtypes(self, one: str, two: str, both: str) -> None:
        """The result has the dtype of both, or else that in which they are computed."""
        p, q = FAMILY[:4].astype(one), FAMILY[1:5].astype(two)
        got = kl_divergence(p, q)
        assert got.dtype == jnp.dtype(both)
        want = kl_divergence(p.astype(np.float32), q.astype(np.float32))
        np.testing.assert_array_equal(got, want.astype(both))

    def test_distillation_is_cross_entropy_of_the_teacher_less_its_entropy(self) -> None:
        teacher, student = rows.normal(60, 2.0).reshape(3, 20), rows.normal(60, 1.0).reshape(3, 20)
        t = 2.5
        soft = softmax(teacher, temperature=t)
        want = cross_entropy(student, soft, temperature=t) - entropy(teacher, temperature=t)
        np.testing.assert_allclose(
            kl_divergence(teacher, student, temperature=t), want, rtol=1e-5, atol=1e-6
        )

    def test_derivatives_to_third_order(self) -> None:
        with jax.enable_x64(True):
            draw = np.random.default_rng(0)
            x, y = (jnp.asarray(draw.normal(size=(2, 4))) for _ in range(2))
            where = np.array([[True, True, False, True], [True] * 4])
            function = jax.jit(lambda x, y, t: kl_divergence(x, y, where=where, temperature=t))
            arguments = (x, y, jnp.array([0.8, 1.7]))
            check_grads(function, arguments, order=3, modes=("fwd",), rtol=1e-5, atol=1e-5)
            check_grads(function, arguments, order=2, modes=("rev",), rtol=1e-5, atol=1e-5)

    def test_two_dtypes_and_shapes(self) -> None:
        x, y = rows.normal(12, 1.0), rows.normal(12, 1.0, seed=1)
        got = kl_divergence(jnp.asarray(x, jnp.bfloat16), y)
        assert got.dtype == jnp.float32
        want = kl_divergence(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32), y)
        np.testing.assert_array_equal(got, want)
        with pytest.raises(ValueError, match=r"q_logits must have the shape.*\(12,\).*\(1, 12\)"):
            kl_divergence(x, y[None])
        with pytest.raises(ValueError, match=r"q_logits must have the shape.*\(12,\).*\(5,\)"):
            kl_divergence(x, y[:5], where=x > 0)
        with pytest.raises(TypeError, match="kl_divergence: q_logits"):
            kl_divergence(x, "y")


class TestValues:
    def test_reference_with_labels(self) -> None:
        label = labels_for(FAMILY)
        for settings in ((1.0, 0.0, 0.0), (0.3, 0.1, 0.01), (4.0, 1.0, 0.0), (0.0, 0.0, 0.5)):
            want = expected(FAMILY, label, *settings)
            got = call(FAMILY, label, settings)
            assert_close(got, want, rtol=4e-6, atol=4e-6, label=str(NAMES))
        want = expected(FAMILY, label, INF, 0.2, 0.3)
        assert_close(call(FAMILY, label, (INF, 0.2, 0.3)), want, rtol=4e-6)

    def test_reference_with_distributions(self) -> None:
        target = distributions(FAMILY.shape)
        where = np.random.default_rng(3).random(FAMILY.shape) < 0.9
        target = np.where(where & (FAMILY > -INF), target, 0)
        for settings in ((1.0, 0.0, 0.0), (0.3, 0.1, 0.01), (4.0, 1.0, 0.0)):
            want = expected(FAMILY, target, *settings, where=where)
            got = call(FAMILY, target, settings, where=where)
            assert_close(got, want, rtol=1e-5, atol=1e-5, label=str(NAMES))

    def test_a_label_is_its_one_hot_distribution(self) -> None:
        label = labels_for(FAMILY)
        hot = np.eye(FAMILY.shape[1], dtype=np.float32)[label]
        for settings in ((1.0, 0.0, 0.0), (0.7, 0.2, 0.01)):
            np.testing.assert_allclose(
                call(FAMILY, hot, settings), call(FAMILY, label, settings), rtol=1e-6, atol=1e-6
            )

    def test_optax(self) -> None:
        optax = pytest.importorskip("optax", reason="a peer, not a dependency")
        x = rows.normal(5 * 40, 3.0).reshape(5, 40)
        label, target = labels_for(x), distributions(x.shape)
        close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=2e-6)
        close(cross_entropy(x, label), optax.softmax_cross_entropy_with_integer_labels(x, label))
        close(cross_entropy(x, target), optax.softmax_cross_entropy(x, target))
        smooth = optax.smooth_labels(jnp.asarray(target), 0.1)
        close(cross_entropy(x, target, label_smoothing=0.1), optax.softmax_cross_entropy(x, smooth))

    def test_nearly_certain_labels_keep_their_relative_accuracy(self) -> None:
        gap = np.array([5.0, 12.0, 20.0, 60.0, 80.0], np.float32)
        x = np.stack([gap, np.zeros_like(gap), np.zeros_like(gap)], -1)
        want = np.log1p(2 * np.exp(-gap.astype(np.float64)))
        hot = np.eye(3, dtype=np.float32)[np.zeros(5, int)]
        for got in (cross_entropy(x, np.zeros(5, int)), cross_entropy(x, hot)):
            np.testing.assert_allclose(got, want, rtol=2e-6)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_is_rounded_once(self, dtype: str) -> None:
        x = jnp.asarray(rows.normal(8 * 5000, 2.0).reshape(8, 5000), jnp.dtype(dtype))
        label = labels_for(x)
        got = cross_entropy(x, label, label_smoothing=0.1, z_loss=1e-3)
        wide = cross_entropy(x.astype(jnp.float32), label, label_smoothing=0.1, z_loss=1e-3)
        assert got.dtype == x.dtype
        np.testing.assert_array_equal(got, wide.astype(x.dtype))

    def test_impossible_classes(self) -> None:
        """A class of probability 0 costs nothing without a target, and inf with one."""
        x = jnp.array([[1.0, 2.0, -INF], [1.0, 2.0, 3.0], [1.0, 2.0, -INF]])
        where = np.array([[True] * 3, [True, True, False], [True] * 3])
        label = jnp.array([0, 1, 2])
        want = [np.log1p(np.e), np.log1p(np.exp(-1)), INF]
        hot = jnp.eye(3)[label]
        for target in (label, hot):
            np.testing.assert_allclose(cross_entropy(x, target, where=where), want, rtol=1e-6)
            assert cross_entropy(x, target, where=where, label_smoothing=0.5)[2] == INF
        # Smoothing is over the two classes that are allowed; all of it leaves none at the label.
        smooth = cross_entropy(x, label, where=where, label_smoothing=1.0)
        np.testing.assert_allclose(smooth, 0.5 + np.log1p(np.exp(-1)), rtol=1e-6)

    @pytest.mark.parametrize("kind", ["label", "distribution"])
    def test_gradients_beside_impossible_classes(self, kind: str) -> None:
        x = jnp.array([[1.0, 2.0, -INF], [1.0, np.nan, 3.0], [1.0, 2.0, -INF], [-INF] * 3])
        where = np.array([[True] * 3, [True, False, True], [True] * 3, [True] * 3])
        label = jnp.array([0, 2, 2, 1])
        target = label if kind == "label" else jnp.eye(3)[label]

        def total(x: jax.Array, t: jax.Array, s: jax.Array, w: jax.Array) -> jax.Array:
            settings = {"temperature": t, "label_smoothing": s, "z_loss": w}
            loss = cross_entropy(x, target, where=where, **settings)
            return jnp.where(jnp.isfinite(loss), loss, 0).sum()

        arguments = (x, jnp.full(4, 1.0), jnp.full(4, 0.1), jnp.full(4, 0.01))
        gradient = jax.grad(total, (0, 1, 2, 3))
        chex.assert_tree_all_finite(gradient(*arguments))
        chex.assert_tree_all_finite(jax.jit(jax.jacrev(jax.jacfwd(gradient)))(*arguments))
        of_x = np.asarray(jax.grad(lambda x: total(x, *arguments[1:]))(x))
        np.testing.assert_array_equal(of_x[[0, 1], [2, 1]], 0)
        np.testing.assert_array_equal(of_x[2:], 0)
        assert (of_x[0, :2] != 0).all()

    def test_z_loss_is_the_squared_log_normalizer(self) -> None:
        x = rows.normal(60, 2.0).reshape(3, 20)
        label = labels_for(x)
        for t in (1.0, 0.5):
            plain = cross_entropy(x, label, temperature=t)
            log_sum = jsoftmax.logsumexp(x / np.float32(t))
            got = cross_entropy(x, label, temperature=t, z_loss=0.03)
            np.testing.assert_allclose(got, plain + 0.03 * log_sum**2, rtol=1e-6)


def call(x: Any, target: Any, settings: tuple[float, float, float], **keywords: Any) -> jax.Array:
    """Call with temperature, label smoothing and z-loss."""
    t, s, w = settings
    return cross_entropy(x, target, temperature=t, label_smoothing=s, z_loss=w, **keywords)


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_z_loss_at_the_largest_temperature(rows: int, shape: tuple[int, ...]) -> None:
    """One temperature for all rows makes a product of the quotient: of 1 / T, which is denormal."""
    x = np.float32(1e38) * np.random.default_rng(0).uniform(-3, 3, (rows, 7)).astype(np.float32)
    hot, labels = np.float32(np.finfo(np.float32).max), np.zeros(rows, np.int32)
    loss = jax.jit(lambda t: cross_entropy(x, labels, temperature=t, z_loss=1.0))
    want = reference.over_rows(reference.cross_entropy_row, x, 0, float(hot), 0.0, 1.0)
    np.testing.assert_allclose(loss(hot.reshape(shape)), want, rtol=1e-6)


@pytest.mark.parametrize("weight", [1e-4, 1e-30])
def test_z_loss_is_a_float_where_the_square_is_none(weight: float) -> None:
    x, label = jnp.array([[0.0, 2e19, 1e19]]), jnp.array([1])
    for given in (weight, jnp.float32(weight)):
        got, of_x = jax.jit(
            lambda x, given=given: jax.value_and_grad(
                lambda x: cross_entropy(x, label, z_loss=given).sum()
            )(x)
        )(x)
        np.testing.assert_allclose(got, weight * 4e38, rtol=1e-6)
        np.testing.assert_allclose(of_x, [[0, weight * 4e19, 0]], rtol=1e-6, atol=1e-6)
        got = linear_cross_entropy(jnp.ones((1, 1)), x, label, z_loss=given)
        np.testing.assert_allclose(got, [weight * 4e38], rtol=1e-6)
    loss, of_x = jax.value_and_grad(lambda x: cross_entropy(x, label, z_loss=1e30).sum())(x)
    assert loss == np.inf
    np.testing.assert_array_equal(of_x, np.zeros((1, 3)))


@pytest.mark.parametrize("largest", [1e30, 8e37, -8e37])
def test_no_z_loss_of_huge_logits_has_a_finite_gradient(largest: float) -> None:
    """A cotangent times the logarithm would overflow, and meet the weight 0."""

    def loss(x: jax.Array, weight: jax.Array) -> jax.Array:
        return 3 * cross_entropy(x, jnp.array([0]), temperature=0.5, z_loss=weight).sum()

    of_x = jax.jit(jax.grad(loss))(jnp.full((1, 2), largest), jnp.float32(0))
    np.testing.assert_allclose(of_x, [[-3, 3]])


class TestFarLogits:
    def test_smoothing_over_a_class_at_the_least_float(self) -> None:
        """Its -z is no float, at T < 1, but the mean over the classes is one."""
        x = jnp.array([2.0, 1.0, 0.0, LEAST])
        for labels in (jnp.array(0), jnp.array([1.0, 0.0, 0.0, 0.0])):

            def loss(x: jax.Array, labels: jax.Array = labels) -> jax.Array:
                return cross_entropy(x, labels, label_smoothing=0.1, temperature=0.5)

            np.testing.assert_allclose(loss(x), -LEAST / 20, rtol=1e-6)
            p = softmax(np.array([2.0, 1.0, 0.0, -INF]), temperature=0.5)
            want = (p - np.array([0.925, 0.025, 0.025, 0.025])) * 2
            np.testing.assert_allclose(jax.grad(loss)(x), want, rtol=1e-5)
            by_temperature = jax.grad(
                lambda t, labels=labels: cross_entropy(
                    x, labels, label_smoothing=0.1, temperature=t
                )
            )
            for t in (0.5, 2.0):
                np.testing.assert_allclose(by_temperature(t), LEAST / 40 / t**2, rtol=1e-5)
        x = jnp.array([2.5e38, -2.5e38])
        got = cross_entropy(x, jnp.array(0), label_smoothing=0.1)
        np.testing.assert_allclose(got, 2.5e37, rtol=1e-6)


class TestLabels:
    def test_static_labels_out_of_range(self) -> None:
        x = np.zeros((3, 4), np.float32)
        for bad in (np.array([0, 4, 1]), np.array([0, -1, 1]), np.array([-100, 1, 2], np.int8)):
            for run in (cross_entropy, jax.jit(lambda x, _, bad=bad: cross_entropy(x, bad))):
                with pytest.raises(ValueError, match=r"cross_entropy: labels must be in \[0, 4\)"):
                    run(x, bad)
        for bad in (4, -1, 2**40, np.int64(2**40)):
            with pytest.raises(ValueError, match="labels must be in"):
                cross_entropy(x[0], bad)

    def test_traced_labels_out_of_range(self) -> None:
        """NaN in that row alone, with gradient 0: no wrap-around."""
        x = jnp.asarray(rows.normal(24, 1.0).reshape(6, 4))
        label = jnp.array([0, 4, -1, 3, -100, 2**31 - 1])
        good = np.array([True, False, False, True, False, False])
        for dtype in (jnp.int32, jnp.int8, jnp.uint8, jnp.uint32):
            some = label if dtype == jnp.int32 else jnp.clip(label, -100, 100)
            got = np.asarray(jax.jit(cross_entropy)(x, some.astype(dtype)))
            np.testing.assert_array_equal(np.isnan(got), ~good)
            np.testing.assert_allclose(got[good], -log_softmax(x)[jnp.array([0, 3]), label[good]])

        def ignoring(x: jax.Array) -> jax.Array:
            loss = cross_entropy(x, label)
            return jnp.where(good, loss, 0).sum()

        gradient = np.asarray(jax.grad(ignoring)(x))
        np.testing.assert_array_equal(gradient[~good], 0)
        assert (gradient[good] != 0).all()

    def test_wide_labels(self) -> None:
        with jax.enable_x64(True):
            label = jnp.array([1, 2**32 + 1, -(2**32)], jnp.int64)
            got = cross_entropy(jnp.zeros((3, 4), jnp.float32), label)
        np.testing.assert_allclose(got, [np.log(4), np.nan, np.nan], rtol=1e-6)

    @pytest.mark.parametrize("kind", [np.int64, np.uint64])
    def test_wide_labels_that_are_static(self, kind: type[np.integer[Any]]) -> None:
        """Beside a mask that is not: what has no 32 bits is no other label."""
        where = jnp.ones((4, 4), bool)
        label = np.array([1, 2**32 + 1, np.iinfo(kind).max, np.iinfo(kind).min], kind)
        want = [np.log(4), np.nan, np.nan, np.log(4) if kind is np.uint64 else np.nan]
        np.testing.assert_allclose(cross_entropy(jnp.zeros((4, 4)), label, where=where), want, 1e-6)
        assert jnp.isnan(cross_entropy(jnp.zeros(4), label[1], where=where[0]))
        with pytest.raises(ValueError, match=r"labels must be in \[0, 4\), got 4294967297"):
            cross_entropy(jnp.zeros((4, 4)), label)

    @pytest.mark.parametrize("form", [np.asarray, jnp.asarray], ids=["static", "traced"])
    def test_a_row_is_ignored_by_where(self, form: Callable[[Any], Any]) -> None:
        """Whatever its label: the loss is 0, the gradient too, and nothing raises."""
        x = jnp.asarray(rows.normal(12, 1.0).reshape(3, 4)).at[1, 2].set(np.nan)
        label = form([2, -100, 1])
        where = form([True, False, True])[:, None]

        def total(x: jax.Array) -> jax.Array:
            settings = {"label_smoothing": 0.1, "z_loss": 0.01}
            return cross_entropy(x, label, where=where, **settings).sum()

        value, gradient = jax.value_and_grad(total)(x)
        kept = cross_entropy(x[::2], jnp.array([2, 1]), label_smoothing=0.1, z_loss=0.01)
        np.testing.assert_allclose(value, kept.sum(), rtol=1e-6)
        np.testing.assert_array_equal(gradient[1], 0)
        assert (np.asarray(gradient)[::2] != 0).all()

    def test_an_ignored_distribution_may_hold_nan(self) -> None:
        x = jnp.asarray(rows.normal(8, 1.0).reshape(2, 4))
        target = jnp.array([[0.0, 1.0, 0.0, 0.0], [np.nan] * 4])
        where = np.array([[True], [False]])
        value, gradient = jax.value_and_grad(lambda x: cross_entropy(x, target, where=where).sum())(
            x
        )
        np.testing.assert_allclose(value, cross_entropy(x[0], jnp.array(1)), rtol=1e-6)
        chex.assert_tree_all_finite(gradient)
        assert np.isnan(cross_entropy(x, target)[1])

    def test_types_and_shapes(self) -> None:
        x = np.zeros((2, 3), np.float32)
        for bad, kind, words in (
            ([0, 1], TypeError, "labels must be an array"),
            (np.array([True, False]), TypeError, "labels must be integers.*bool"),
            (np.array([1j, 0]), TypeError, "labels must be integers.*complex"),
            (np.array([0, 1, 2]), ValueError, r"batch shape \(2,\).*\(3,\)"),
            (np.zeros((2, 1), int), ValueError, r"batch shape \(2,\).*\(2, 1\)"),
            (np.zeros((2, 3), int), ValueError, "a distribution is floating-point"),
            (np.zeros(2, np.float32), ValueError, r"must have the logits' shape \(2, 3\)"),
        ):
            with pytest.raises(kind, match=f"cross_entropy: .*{words}"):
                cross_entropy(x, bad)

    def test_settings_out_of_range(self) -> None:
        x, label = jnp.zeros((2, 3)), jnp.array([0, 1])
        for name, bad in (
            ("label_smoothing", -0.1),
            ("label_smoothing", 1.5),
            ("z_loss", -1),
            ("z_loss", np.nan),
        ):
            with pytest.raises(ValueError, match=f"cross_entropy: {name} must be .*{bad}"):
                cross_entropy(x, label, **{name: bad})
            traced = cross_entropy(x, label, **{name: jnp.array([0.1, bad])})
            np.testing.assert_array_equal(np.isnan(traced), [False, True])

    @pytest.mark.parametrize("shape", [(0, 4), (0, 0), (2, 0), (0,)])
    def test_nothing(self, shape: tuple[int, ...]) -> None:
        for target in (np.zeros(shape[:-1], int), np.zeros(shape, np.float32)):
            got, gradient = jax.value_and_grad(
                lambda x, target=target: cross_entropy(x, target, label_smoothing=0.1).sum()
            )(jnp.zeros(shape))
            assert got == 0
            chex.assert_shape(gradient, shape)

    def test_axis(self) -> None:
        x = rows.normal(60, 1.0).reshape(3, 4, 5)
        label = labels_for(x)
        want = cross_entropy(x, label, label_smoothing=0.1)
        target = distributions(x.shape)
        soft = cross_entropy(x, target)
        for axis in (0, 1):
            moved = np.moveaxis(x, -1, axis)
            np.testing.assert_array_equal(
                cross_entropy(moved, label, axis=axis, label_smoothing=0.1), want
            )
            np.testing.assert_allclose(
                cross_entropy(moved, np.moveaxis(target, -1, axis), axis=axis), soft, rtol=1e-6
            )


class TestDerivatives:
    @pytest.mark.parametrize("kind", ["label", "distribution"])
    @pytest.mark.slow
    def test_numerical_to_third_order(self, kind: str) -> None:
        with jax.enable_x64(True):
            draw = np.random.default_rng(0)
            x = jnp.asarray(draw.normal(size=(2, 4)))
            where = jnp.array([[True, True, False, True], [True] * 4])
            target = jnp.array([3, 2])
            soft = jnp.asarray(draw.random(size=(2, 4)))

            @jax.jit
            def loss(*numbers: jax.Array) -> jax.Array:
                x, t, s, w = numbers[:4]
                labels = jnp.where(where, numbers[4], 0) if numbers[4:] else target
                settings = {"temperature": t, "label_smoothing": s, "z_loss": w}
                return cross_entropy(x, labels, where=where, **settings)

            numbers = (x, jnp.array([0.8, 1.7]), jnp.array(0.1), jnp.array([0.1, 0.2]))
            if kind == "distribution":
                numbers = (*numbers, soft)
            check_grads(loss, numbers, order=3, modes=("fwd",), rtol=1e-5, atol=1e-5)
            check_grads(loss, numbers, order=2, modes=("rev",), rtol=1e-5, atol=1e-5)

    def test_closed_form(self) -> None:
        """Softmax less the target; the Hessian is that of logsumexp."""
        x = jnp.asarray(rows.normal(12, 1.5))
        p = np.asarray(softmax(x), np.float64)
        hot = np.eye(12)[7]
        np.testing.assert_allclose(jax.grad(cross_entropy)(x, 7), p - hot, rtol=1e-5, atol=1e-7)
        hessian = jax.hessian(cross_entropy)(x, 7)
        np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), rtol=1e-5, atol=1e-7)
        by_target = jax.grad(cross_entropy, 1)(x, jnp.asarray(hot, jnp.float32))
        np.testing.assert_allclose(by_target, -log_softmax(x), rtol=1e-5)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3}])
    def test_the_backward_pass_keeps_the_logits_alone(self, dtype: str, settings: Any) -> None:
        """Counted on what `jax.vjp` carries out of a jitted forward pass."""
        x = jnp.zeros((3, 257), jnp.dtype(dtype))
        label = jnp.array([0, 5, 256])

        def kept(target: jax.Array) -> list[jax.Array]:
            loss = functools.partial(cross_entropy, labels=target, **settings)
            leaves = jax.tree.leaves(jax.jit(lambda x: jax.vjp(loss, x)[1])(x))
            return [leaf for leaf in leaves if leaf.size >= x.size]

        (large,) = kept(label)
        assert large.dtype == x.dtype
        assert len(kept(jnp.full(x.shape, 1 / 257))) <= 2


def test_a_broken_row_is_nan_also_where_its_label_costs_inf() -> None:
    """A label that is not allowed, or at T = 0 not among the largest."""
    x = jnp.float32([[0.0, 1.0, INF], [0.0, -INF, np.nan], [0.0, -INF, 1.0]])
    temperature = jnp.float32([0.0, 1.0, np.nan])
    labels = jnp.int32([1, 1, 1])
    assert np.isnan(jsoftmax.cross_entropy(x, labels, temperature=temperature)).all()
    assert np.isinf(jsoftmax.cross_entropy(x[2], labels[2]))


@pytest.mark.parametrize("loss", [cross_entropy, fenchel_young_loss])
def test_a_distribution_that_is_none(loss: Callable[..., jax.Array]) -> None:
    """Log-probabilities in place of probabilities give no loss of 0; other rows stay."""
    x = np.tile(np.array([1.0, 2.0, 3.0], np.float32), (5, 1))
    labels = np.full((5, 3), 1 / 3, np.float32)
    labels[1, 1], labels[2, 0], labels[3, 2] = -np.inf, np.inf, np.nan
    got = np.asarray(jax.jit(loss)(x, labels))
    np.testing.assert_array_equal(np.isnan(got), [False, True, True, True, False])
    assert (got[[0, 4]] > 0).all()


@pytest.mark.parametrize("loss", [cross_entropy, fenchel_young_loss])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_weight_of_an_absent_class_need_be_no_number(
    loss: Callable[..., jax.Array], value: float
) -> None:
    x, where = jnp.array([1.0, 2.0, 3.0]), np.array([True, True, False])
    good, bad = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.5, 0.5, value])

    def total(x: jax.Array, labels: jax.Array) -> jax.Array:
        return loss(x, labels, where=where)

    for function in (total, jsoftmax.checked(total)):
        np.testing.assert_array_equal(function(x, bad), function(x, good))
    for argument in (0, 1):
        got, want = (jax.grad(total, argument)(x, labels) for labels in (bad, good))
        np.testing.assert_array_equal(got, want)
        assert np.isfinite(got).all()
        np.testing.assert_array_equal(got[~where], 0)
    # Mass there is an error that shows, watched or not.
    astray = jnp.array([0.25, 0.25, 0.5])
    assert total(x, astray) == jsoftmax.checked(total)(x, astray) == np.inf


def test_an_infinite_z_loss_has_no_nan_in_its_gradient() -> None:
    x = jnp.array([3e38, 0.0, -jnp.inf], jnp.float32)

    def loss(x: jax.Array, t: jax.Array) -> jax.Array:
        return jsoftmax.cross_entropy(x, jnp.array(0), z_loss=1e-4, temperature=t)

    assert loss(x, jnp.float32(0.7)) == jnp.inf
    gradients = jax.grad(loss, (0, 1))(x, jnp.float32(0.7))
    assert all(not jnp.isnan(g).any() for g in gradients), gradients


def test_divergence_moves_with_either_side_alone() -> None:
    x, y = rows.normals(3, 5), rows.normals(3, 5, seed=1)
    p, q = (
        reference.softmax_rows(x),
        reference.softmax_rows(y),
    )
    log_ratio = np.log(p) - np.log(q)
    kl = (p * log_ratio).sum(-1, keepdims=True)
    of_x, of_y = (
        jax.grad(lambda x, y: jsoftmax.kl_divergence(x, y).sum(), i)(x, y) for i in (0, 1)
    )
    np.testing.assert_allclose(of_x, p * (log_ratio - kl), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_y, q - p, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("setting", ["label_smoothing", "z_loss"])
def test_minus_one_is_not_off(setting: str) -> None:
    with pytest.raises(ValueError, match=f"cross_entropy: {setting} must be .*, got {setting}=-1"):
        jsoftmax.cross_entropy(rows.normals(5), 2, **{setting: -1})


@pytest.mark.parametrize("kind", ["label", "distribution"])
def test_smoothing_has_its_share_of_the_gradient(kind: str) -> None:
    x = rows.normals(4, 6)
    mass = (
        np.eye(6)[[0, 5, 2, 2]]
        if kind == "label"
        else reference.softmax_rows(rows.normals(4, 6, seed=1))
    )
    target = np.array([0, 5, 2, 2]) if kind == "label" else mass.astype(np.float32)
    where = np.arange(6) != 4
    mass = np.where(where, mass, 0)
    given = np.where(where, target, 0) if kind == "distribution" else target
    got = jax.grad(
        lambda x: jsoftmax.cross_entropy(x, given, where=where, label_smoothing=0.3).sum()
    )(x)
    p = reference.softmax_rows(np.where(where, x, -np.inf))
    total = mass.sum(-1, keepdims=True)
    want = 0.7 * (p * total - mass) + 0.3 * (p - where / 5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_divergence_of_near_rows_in_float64() -> None:
    """The series has terms enough for float64 where log q - log p is almost 1/2."""
    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = draw.normal(size=(20, 4))
        y = x + draw.choice([-0.22, 0.22], size=x.shape)
        wide_x, wide_y = x.astype(np.longdouble), y.astype(np.longdouble)
        p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (wide_x, wide_y))
        want = (p * (np.log(p) - np.log(q))).sum(-1)
        got = jsoftmax.kl_divergence(x, y)
        moved = want > 0.001
        assert moved.sum() > 10
        np.testing.assert_allclose(got[moved], want[moved].astype(np.float64), rtol=1e-13)


def test_smoothing_at_a_temperature_near_the_largest_float() -> None:
    x = jnp.array([0.0, 1e38, -3e38, 2e38])
    got = cross_entropy(x, jnp.array(1), label_smoothing=0.5, temperature=3e38)
    z = np.asarray(x, np.float64) / 3e38
    log_p = z - np.log(np.exp(z).sum())
    np.testing.assert_allclose(got, -(0.5 * log_p[1] + 0.5 * log_p.mean()), rtol=1e-6)
