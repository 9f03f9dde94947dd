"""jsoftmax.calibration: values, limits, derivatives, and the contract of every function in it.

The functions pool their rows, so they are no rows of the registry, whose tests compare row by row;
`TestContract` holds them to the same promises.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jsoftmax
from examples.collectives import collectives
from jsoftmax import _bins, _fit, calibration
from jsoftmax.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    maximum_calibration_error,
    reliability_curve,
)
from tests import reference, rows
from tests.compare import eps

INF, NAN = np.inf, np.nan
SIXTHS: Any = {"bins": 6, "binning": "mass"}

Data = tuple[np.ndarray, np.ndarray]


def data(
    number: int = 300, classes: int = 7, noise: float = 2.0, scale: float = 2.0, seed: int = 0
) -> Data:
    """Logits of a model that is `noise` times too sure of itself, and labels."""
    draw = np.random.default_rng([seed, number, classes])
    x = scale * draw.normal(size=(number, classes))
    labels = (x + noise * draw.gumbel(size=x.shape)).argmax(-1)
    return x.astype(np.float32), labels


def kinds() -> dict[str, tuple[Any, ...]]:
    """Logits, labels, `where` and weights of many kinds."""
    x, y = data()
    draw = np.random.default_rng(3)
    weights = draw.random(300).astype(np.float32)
    where = draw.random(x.shape) < 0.8
    where[np.arange(300), y] = True
    holes = np.where(draw.random(x.shape) < 0.2, -INF, x).astype(np.float32)
    holes[np.arange(300), y] = x[np.arange(300), y]
    peaked = x.copy()
    peaked[np.arange(300), (y + (draw.random(300) < 0.2)) % 7] += 14
    two, labels_of_two = data(classes=2)
    return {
        "random": (x, y, None, 1.0),
        "weights": (x, y, None, weights),
        "some weights 0": (x, y, None, np.where(weights < 0.5, np.float32(0), weights)),
        "where": (x, y, where, 1.0),
        "holes": (holes, y, None, 1.0),
        "peaked": (peaked, y, None, 1.0),
        "tied": (np.round(x), y, None, 1.0),
        "flat": (x * np.float32(1e-3), y, None, 1.0),
        "two classes": (two, labels_of_two, None, 1.0),
        "many classes": (*data(100, 500), None, weights[:100]),
    }


KINDS = kinds()
every_kind = pytest.mark.parametrize("kind", KINDS)

MEASURES = (
    reliability_curve,
    expected_calibration_error,
    maximum_calibration_error,
    brier_score,
)
BINNED = MEASURES[:3]
FUNCTIONS = (fit_temperature, *MEASURES)
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
every_measure = pytest.mark.parametrize("function", MEASURES, ids=lambda f: f.__name__)
CASES = {
    "fit": fit_temperature,
    "fit per class": functools.partial(fit_temperature, per_class=True),
    "curve, mass": functools.partial(reliability_curve, binning="mass"),
    "ECE": functools.partial(expected_calibration_error, bins=5),
    "MCE, mass": functools.partial(maximum_calibration_error, binning="mass"),
    "Brier": brier_score,
}
SPLIT = ("fit", "fit per class", "curve, mass", "Brier")
"""What splits differently over devices; the others are made of the same sums."""
every_case = pytest.mark.parametrize("function", CASES.values(), ids=CASES)


def steps(x: Any, labels: Any, weights: Any = 1.0) -> int:
    """How many passes over the logits a fit makes."""
    weights = jnp.broadcast_to(jnp.asarray(weights, x.dtype), x.shape[:1])
    return int(_fit.solve(jnp.asarray(x), jnp.asarray(labels, jnp.int32), weights, None, 1)[1])


@jax.jit
def fit_and_gradients(x: jax.Array, labels: jax.Array, weights: jax.Array) -> Any:
    """The temperature, and its gradients to the logits and the weights."""

    def fitted(x: jax.Array, weights: jax.Array) -> jax.Array:
        return fit_temperature(x, labels, weights=weights)

    return jax.value_and_grad(fitted, (0, 1))(x, weights)


def assert_fits(
    temperature: Any, x: Any, labels: Any, where: Any = None, weights: Any = 1.0
) -> None:
    """No temperature has a likelihood that is larger by more than rounding."""
    dtype = temperature.dtype
    want = reference.fit_temperature(x, labels, where, weights)
    least = reference.mean_nll(x, labels, want, where, weights)
    got = reference.mean_nll(x, labels, float(temperature), where, weights)
    assert got - least <= 2 * eps(dtype) * max(least, 1), (temperature, want, got, least)
    np.testing.assert_allclose(temperature, want, rtol=eps(dtype) * 1000)


DEGENERATE: dict[str, tuple[Any, Any, float]] = {
    "separable": ([[3, 0, 1], [0, 1, 0]], [0, 1], 0),
    "separable but for ties": ([[3, 3, 1], [0, 1, 0]], [0, 1], 0),
    "no better than chance": ([[3, 0, -INF], [3, 0, -INF]], [0, 1], INF),
    "worse than chance": ([[3, 0, 1], [3, 0, 2]], [1, 1], INF),
    "always the last": ([[3, 1, 0], [-INF, -INF, -INF]], [2, 0], INF),
    "equal logits": ([[3, 3, 3], [0, 0, 0]], [0, 2], 1),
    "equal logits and others": ([[3, 3, 3], [0, 1, 0]], [0, 1], 0),
    "one class allowed": ([[3, -INF, -INF], [1, -INF, -INF]], [0, 0], 1),
    "one label, always predicted": ([[3, 1, 2], [2, 0, 0]], [0, 0], 0),
    "one label, never predicted": ([[3, 1, 2], [2, 0, 0]], [1, 1], INF),
    "nothing allowed": ([[-INF, -INF, -INF]] * 2, [0, 0], 1),
    "no label is allowed": ([[-INF, 0, 1]] * 2, [0, 0], 1),
}
"""Logits, labels and the temperature."""


class TestFit:
    @every_kind
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_likelihood_is_the_largest(self, kind: str, dtype: str) -> None:
        x, labels, where, weights = KINDS[kind]
        x = jnp.asarray(x, jnp.dtype(dtype))
        got = fit_temperature(x, labels, where=where, weights=weights)
        assert got.dtype == jnp.float32
        chex.assert_shape(got, ())
        assert_fits(got, np.asarray(x, np.float32), labels, where, weights)

    @every_kind
    def test_in_float64(self, kind: str) -> None:
        x, labels, where, weights = KINDS[kind]
        with jax.enable_x64(True):
            got = fit_temperature(x.astype(np.float64), labels, where=where, weights=weights)
            assert got.dtype == jnp.float64
            assert_fits(got, x, labels, where, weights)
            assert fit_temperature(x, labels).dtype == jnp.float32

    @pytest.mark.parametrize("exponent", range(-30, 31, 10))
    @pytest.mark.parametrize("noise", [0.1, 2.0, 50.0])
    def test_any_scale_in_a_few_steps(self, exponent: int, noise: float) -> None:
        x, labels = data(1000, 10, noise=noise)
        x = (x * 10.0**exponent).astype(np.float32)
        got = fit_temperature(x, labels)
        assert_fits(got, x, labels)
        assert steps(x, labels) <= 8

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_the_largest_and_the_smallest_floats(self, dtype: type) -> None:
        """A temperature that is a float is found, also where 1 / T or a gap of logits is none."""
        info = np.finfo(dtype)
        most, tiny = float(info.max), float(info.tiny)
        close = functools.partial(np.testing.assert_allclose, rtol=float(info.eps) * 1000)
        row, labels = np.array([[1, 0, 0.5, 1], [0, 1, 0.25, 0]]), np.array([1, 1])
        with jax.enable_x64(dtype == np.float64):
            want = reference.fit_temperature(row, labels)
            for scale in (most / 8, tiny * 64):
                close(fit_temperature(jnp.asarray(row * scale, dtype), labels) / scale, want)
            for number in (21, 21 * 2**15):
                # A gap, and the sum of the labels' gaps, are no floats.
                x, one_in = np.array([[most, -most]] * number, dtype), np.arange(number) % 21 == 0
                close(fit_temperature(x, one_in.astype(int)) / most, 2 / np.log(20))
            x, labels, weights = np.array([[1, -1]] * 21), np.arange(21) // 20, jnp.ones(21, dtype)
            of_weights = jax.grad(lambda w, x: fit_temperature(x, labels, weights=w))
            want = of_weights(weights, jnp.asarray(x, dtype))
            got = of_weights(weights, jnp.asarray(most * x, dtype))
            close(np.asarray(got) / most, want)
            x = np.array([[64 * tiny, 0, -1]] * 1001, dtype)
            got = fit_temperature(x, (np.arange(1001) == 7).astype(int))
            close(got / tiny, 64 / np.log(1000))

    def test_what_does_not_count_decides_no_scale(self) -> None:
        """Rows of 1e-34, one of five wrong, beside one that is 1e64 times as large."""
        small, large = 2.0**-112, 2.0**101
        x = np.array([[small, 0]] * 5, np.float32)
        labels = np.array([1, 0, 0, 0, 0])
        want = small / np.log(4)
        np.testing.assert_allclose(fit_temperature(x, labels), want, rtol=1e-5)
        for row in ([large, 0], [large, -INF], [large, large]):
            beside = np.concatenate([x, np.array([row], np.float32)])
            label = [0 if row[1] == 0 else 1]
            got = fit_temperature(beside, np.concatenate([labels, label]))
            np.testing.assert_allclose(got, want, rtol=1e-5)
        x = np.concatenate([x, np.array([[0, large]] * 5, np.float32)])
        got = fit_temperature(x, np.concatenate([labels, 1 - labels]), per_class=True)
        np.testing.assert_allclose(got, [want, large / np.log(4)], rtol=1e-5)

    @pytest.mark.parametrize(("weight", "gap"), [(1e-35, 1e-3), (1e-30, 1e-8), (1e-3, 1e-30)])
    def test_a_label_of_little_weight_tells(self, weight: float, gap: float) -> None:
        x = np.array([[gap, 0], [gap, 0]], np.float32)
        weights = np.array([1, weight], np.float32)
        got = fit_temperature(x, np.array([0, 1]), weights=weights)
        np.testing.assert_allclose(got, -gap / np.log(weight), rtol=1e-5)

    def test_scales_far_apart(self) -> None:
        """Rows at scales over 20 orders of magnitude: the likelihood falls as a power."""
        x, labels = data(2000, 5, noise=1.0)
        exponent = np.random.default_rng(1).uniform(-10, 10, (2000, 1))
        x = (x * 10**exponent).astype(np.float32)
        assert_fits(fit_temperature(x, labels), x, labels)
        assert steps(x, labels) <= 10

    @pytest.mark.parametrize("fill", [-1e9, float(np.finfo(np.float32).min)])
    def test_disallowed_by_a_large_number(self, fill: float) -> None:
        x, labels, where, _ = KINDS["where"]
        filled = np.where(where, x, np.float32(fill))
        got = fit_temperature(filled, labels)
        np.testing.assert_allclose(got, fit_temperature(x, labels, where=where), rtol=1e-5)
        assert steps(filled, labels) <= 8

    def test_nearly_separable(self) -> None:
        """One label of 100,000 is wrong: log-odds of the accuracy over the margin."""
        number, margin = 100_000, 3.0
        x = np.zeros((number, 2), np.float32)
        x[:, 0] = margin
        labels = np.arange(number) == 7
        want = margin / np.log(number - 1)
        np.testing.assert_allclose(fit_temperature(x, labels.astype(int)), want, rtol=1e-5)
        assert steps(x, labels.astype(int)) <= 8

    def test_a_million_rows(self) -> None:
        number = 1_000_003
        margin = np.random.default_rng(0).choice([0.5, 1.0, 2.0], number).astype(np.float32)
        wrong = np.random.default_rng(1).random(number) < 1 / (1 + np.exp(margin / 3))
        x = np.stack([margin, np.zeros_like(margin)], -1)
        # Three kinds of rows make the sums of the reference short.
        kind = np.stack([[m, 0] for m in (0.5, 1.0, 2.0) for _ in (0, 1)])
        counts = [np.sum((margin == m) & (wrong == w)) for m in (0.5, 1.0, 2.0) for w in (0, 1)]
        want = reference.fit_temperature(kind, np.array([0, 1] * 3), weights=np.array(counts))
        np.testing.assert_allclose(fit_temperature(x, wrong.astype(int)), want, rtol=1e-5)
        by_class = fit_temperature(x, wrong.astype(int), per_class=True)
        np.testing.assert_allclose(by_class, [want, want], rtol=1e-5)

    def test_weights_are_repeats(self) -> None:
        x, labels = data()
        counts = np.random.default_rng(0).integers(0, 4, 300)
        repeated = fit_temperature(np.repeat(x, counts, 0), np.repeat(labels, counts))
        for scale in (1.0, 1e-20, 1e20):
            got = fit_temperature(x, labels, weights=(counts * scale).astype(np.float32))
            np.testing.assert_allclose(got, repeated, rtol=1e-5)

    def test_a_label_that_is_not_allowed_changes_nothing(self) -> None:
        """Its loss is infinite at every temperature."""
        x, labels = data()
        want = fit_temperature(x[20:], labels[20:])
        impossible = x.copy()
        impossible[np.arange(20), labels[:20]] = -INF
        np.testing.assert_allclose(fit_temperature(impossible, labels), want, rtol=1e-6)
        where = np.ones(x.shape, bool)
        where[np.arange(20), labels[:20]] = False
        np.testing.assert_allclose(fit_temperature(x, labels, where=where), want, rtol=1e-6)

    @pytest.mark.parametrize("name", DEGENERATE)
    def test_degenerate_data(self, name: str) -> None:
        logits, labels, want = DEGENERATE[name]
        x, y, weights = jnp.asarray(logits, jnp.float32), jnp.asarray(labels), jnp.full(2, 0.3)
        got, gradients = fit_and_gradients(x, y, weights)
        np.testing.assert_array_equal(got, want)
        chex.assert_trees_all_equal(gradients, jax.tree.map(jnp.zeros_like, gradients))
        loss = jsoftmax.cross_entropy(x, y, temperature=got)
        assert not np.isnan(np.asarray(loss)).any()

    def test_one_class(self) -> None:
        assert fit_temperature(np.array([[3.0], [1.0]]), np.array([0, 0])) == 1

    def test_nothing(self) -> None:
        x, labels = data(10)
        assert fit_temperature(x, labels, weights=0.0) == 1
        assert fit_temperature(x, labels, where=False) == 1
        for shape in ((0, 4), (3, 0), (0,)):
            nothing, none = np.zeros(shape, np.float32), np.zeros(shape[:-1], int)
            assert fit_temperature(nothing, none) == 1
            by_class = fit_temperature(nothing, none, per_class=True)
            np.testing.assert_array_equal(by_class, np.ones(shape[-1]))


class TestPerClass:
    def test_each_class_is_fitted_alone(self) -> None:
        x, labels = data(2000, 4)
        predicted = x.argmax(-1)
        # Class 2 is nine times as sure as it should be, and class 3 never predicted.
        x[predicted == 2] *= 9
        keep = predicted != 3
        x, labels, predicted = x[keep], labels[keep], predicted[keep]
        got = fit_temperature(x, labels, per_class=True)
        chex.assert_shape(got, (4,))
        assert got.dtype == jnp.float32
        for k in range(3):
            mine = predicted == k
            assert_fits(got[k], x[mine], labels[mine])
        everything = fit_temperature(x, labels)
        np.testing.assert_allclose(got[3], everything, rtol=1e-6)
        assert got[2] > 3 * got[1]

        temperature = got[jnp.argmax(jnp.asarray(x), -1)]
        fitted = jsoftmax.cross_entropy(x, labels, temperature=temperature).mean()
        assert fitted < jsoftmax.cross_entropy(x, labels, temperature=everything).mean() - 1e-3
        p = jsoftmax.softmax(x, temperature=temperature)
        np.testing.assert_array_equal(jnp.argmax(p, -1), predicted)

    @pytest.mark.parametrize("weight", [1.0, 1e-30, 1e-36, 3e-37])
    def test_a_class_of_little_weight_is_fitted_alone(self, weight: float) -> None:
        x = jnp.array([[0, 0.02, -0.01], [0, 0.02, 0.01], [0, 0.02, 0.01], [0.02, 0, -0.01]])
        labels, weights = jnp.array([1, 1, 0, 0]), jnp.array([weight] * 3 + [1.0])

        def second(x: jax.Array, weights: jax.Array) -> jax.Array:
            return fit_temperature(x, labels, weights=weights, per_class=True)[1]

        def alone(x: jax.Array, weights: jax.Array) -> jax.Array:
            return fit_temperature(x[:3], labels[:3], weights=weights[:3])

        np.testing.assert_allclose(second(x, weights), alone(x, jnp.ones(4)), rtol=1e-6)
        of_x, of_weights = jax.grad(second, (0, 1))(x, weights)
        want, by_weight = jax.grad(alone, (0, 1))(x, jnp.ones(4))
        np.testing.assert_allclose(of_x, want, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(of_weights * weight, by_weight, rtol=1e-4, atol=1e-8)

    def test_limits_and_classes_without_weight(self) -> None:
        x, labels = data(500, 3)
        predicted = x.argmax(-1)
        labels = np.where(predicted == 0, 0, labels)  # always right
        weights = np.where(predicted == 1, 0, 1).astype(np.float32)
        got = fit_temperature(x, labels, weights=weights, per_class=True)
        np.testing.assert_array_equal(got[0], 0)
        np.testing.assert_allclose(got[1], fit_temperature(x, labels, weights=weights), rtol=1e-6)
        mine = predicted == 2
        assert_fits(got[2], x[mine], labels[mine])


@pytest.mark.slow
class TestDerivatives:
    @pytest.mark.parametrize("per_class", [False, True])
    def test_numerical(self, per_class: bool) -> None:
        with jax.enable_x64(True):
            x, labels = data(40, 3)
            x = jnp.asarray(x, jnp.float64)
            where = jnp.asarray(np.random.default_rng(0).random(x.shape) < 0.9)
            where |= jnp.asarray(np.arange(3) == labels[:, None])
            weights = jnp.asarray(np.random.default_rng(1).random(40))

            @jax.jit
            def fitted(x: jax.Array, weights: jax.Array) -> jax.Array:
                settings = {"where": where, "weights": weights, "per_class": per_class}
                return fit_temperature(x, labels, **settings)

            check_grads(fitted, (x, weights), order=2, rtol=1e-4, atol=1e-5)

    def test_float32_agrees_with_float64_at_any_scale(self) -> None:
        x, labels = data()
        with jax.enable_x64(True):
            want = np.asarray(jax.grad(fit_temperature)(jnp.asarray(x, jnp.float64), labels))
        for scale in (2.0**-90, 1.0, 2.0**90):
            got = jax.grad(fit_temperature)(jnp.asarray(x) * np.float32(scale), labels)
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5 * np.abs(want).max())

    def test_of_half_precision(self) -> None:
        x, labels = data()
        rounded = jnp.asarray(x, jnp.bfloat16)
        got = jax.grad(fit_temperature)(rounded, labels)
        assert got.dtype == jnp.bfloat16
        want = jax.grad(fit_temperature)(rounded.astype(jnp.float32), labels)
        np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))

    def test_scaling_all_logits_scales_the_temperature(self) -> None:
        """T(c x) = c T(x): the derivative in the direction of x is T."""
        x, labels = map(jnp.asarray, data())
        value, tangent = jax.jvp(lambda x: fit_temperature(x, labels), (x,), (x,))
        np.testing.assert_allclose(tangent, value, rtol=1e-5)

    @every_case
    def test_ignored_entries_and_examples_have_gradient_zero(self, function: Any) -> None:
        x, labels = data(60, 4)
        where = np.ones(x.shape, bool)
        where[5, (labels[5] + 1) % 4] = False
        where[6] = False
        x[~where] = NAN
        x[7] = INF
        weights = np.ones(60, np.float32)
        weights[7] = 0

        def total(x: jax.Array, weights: jax.Array) -> jax.Array:
            result = function(x, jnp.asarray(labels), where=where, weights=weights)
            return sum(jnp.nansum(leaf) for leaf in jax.tree.leaves(result))

        of_x, of_weights = jax.grad(total, (0, 1))(jnp.asarray(x), jnp.asarray(weights))
        chex.assert_tree_all_finite((of_x, of_weights))
        np.testing.assert_array_equal(of_x[~where], 0)
        np.testing.assert_array_equal(of_x[7], 0)
        np.testing.assert_array_equal(of_weights[6:8], 0)
        assert (np.asarray(of_x)[10:] != 0).any()

    def test_measures(self) -> None:
        with jax.enable_x64(True):
            x, labels = data(30, 3)
            x, weights = jnp.asarray(x, jnp.float64), jnp.linspace(0.5, 1.5, 30)
            for function in (brier_score, *BINNED[1:]):

                def measured(
                    x: jax.Array, t: jax.Array, w: jax.Array, function: Any = function
                ) -> jax.Array:
                    return function(x, labels, temperature=t, weights=w)

                numbers = (x, jnp.array(1.3), weights)
                check_grads(jax.jit(measured), numbers, order=1, rtol=1e-5, atol=1e-6)


class TestScikitLearn:
    def test_likelihood_on_digits(self) -> None:
        """At least that of their temperature on the same data, with and without weights."""
        pytest.importorskip("sklearn", reason="a peer, not a dependency")
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.datasets import load_digits
        from sklearn.frozen import FrozenEstimator
        from sklearn.linear_model import LogisticRegression
        from sklearn.naive_bayes import GaussianNB

        images, labels = load_digits(return_X_y=True)
        train, held_out = slice(0, 400), slice(400, None)
        weights = np.random.default_rng(0).random(len(labels[held_out]))
        models = (LogisticRegression(C=100.0, max_iter=5000), GaussianNB())
        for model in models:
            model.fit(images[train] / 16, labels[train])
            for weight in (None, weights):
                theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
                with warnings.catch_warnings():
                    # The frozen model takes no weights, and needs none.
                    warnings.filterwarnings("ignore", "Since FrozenEstimator", UserWarning)
                    theirs.fit(images[held_out] / 16, labels[held_out], sample_weight=weight)
                if hasattr(model, "decision_function"):
                    logits = model.decision_function(images[held_out] / 16)
                else:
                    # As they turn probabilities into logits.
                    logits = np.log(model.predict_proba(images[held_out] / 16) + 1e-12)
                y = labels[held_out]
                ours = fit_temperature(logits.astype(np.float32), y, weights=weight)
                p = theirs.predict_proba(images[held_out] / 16)[np.arange(len(y)), y]
                peer = -np.average(np.log(p), weights=weight)
                nll = functools.partial(
                    reference.mean_nll, logits, y, weights=1.0 if weight is None else weight
                )
                assert nll(float(ours)) <= peer + 1e-6
                assert nll(float(ours)) < nll(1.0) - 0.01
                (fitted,) = theirs.calibrated_classifiers_
                np.testing.assert_allclose(ours, 1 / fitted.calibrators[0].beta_, rtol=1e-4)


class TestMeasures:
    @every_kind
    @pytest.mark.parametrize(
        "temperature",
        [1.0, pytest.param(0.4, marks=pytest.mark.slow), pytest.param(3.0, marks=pytest.mark.slow)],
    )
    def test_reference(self, kind: str, temperature: float) -> None:
        x, labels, where, weights = KINDS[kind]
        common = {"temperature": temperature, "where": where, "weights": weights}
        for binning in ("width", "mass"):
            if kind in ("tied", "peaked", "flat") and binning == "mass":
                continue  # Confidences that float32 does not tell apart, or in another order.
            for bins in (4, 15):
                static = {"bins": bins, "binning": binning}
                want = reference.reliability_curve(x, labels, **common, **static)
                got = reliability_curve(x, labels, **common, **static)
                for mine, theirs in zip(got, want, strict=True):
                    chex.assert_shape(mine, theirs.shape)
                    np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=1e-6)
                _, confidence, accuracy, weight = want
                error = np.abs(accuracy - confidence)
                ece = expected_calibration_error(x, labels, **common, **static)
                np.testing.assert_allclose(ece, np.nansum(weight * error), rtol=2e-5, atol=1e-6)
                mce = maximum_calibration_error(x, labels, **common, **static)
                np.testing.assert_allclose(mce, np.nanmax(error), rtol=2e-5, atol=1e-6)
        brier = brier_score(x, labels, **common)
        np.testing.assert_allclose(brier, reference.brier_score(x, labels, **common), rtol=4e-6)

    def test_by_hand(self) -> None:
        """Six predictions in three bins of (0, 1]: one is empty, one right, one too sure."""
        confidence = np.array([0.6, 0.6, 0.6, 0.9, 0.9, 0.9])
        x = np.log(np.stack([confidence, 1 - confidence], -1)).astype(np.float32)
        labels = np.array([0, 0, 1, 0, 1, 1])
        curve = reliability_curve(x, labels, bins=3)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
        close(curve.edges, [0, 1 / 3, 2 / 3, 1])
        close(curve.weight, [0, 0.5, 0.5])
        close(curve.confidence, [NAN, 0.6, 0.9])
        close(curve.accuracy, [NAN, 2 / 3, 1 / 3])
        first, second = 2 / 3 - 0.6, 0.9 - 1 / 3
        ece = expected_calibration_error(x, labels, bins=3)
        close(ece, (first + second) / 2, rtol=1e-5)
        close(maximum_calibration_error(x, labels, bins=3), second, rtol=1e-5)
        brier = np.mean([2 * (c - (y == 0)) ** 2 for c, y in zip(confidence, labels, strict=True)])
        close(brier_score(x, labels), brier, rtol=1e-5)

    def test_edges_belong_to_the_bin_below(self) -> None:
        for classes in (2, 5):
            # Confidence 1 / n, to the bit, also by way of a temperature.
            x = np.zeros((1, classes), np.float32)
            for settings in ({}, {"temperature": INF}):
                curve = reliability_curve(x, np.array([0]), bins=classes, **settings)
                assert np.asarray(curve.weight).argmax() == 0
        sure = np.array([[0.0, -INF]], np.float32)
        assert reliability_curve(sure, np.array([0])).weight[-1] == 1

    def test_equal_confidences_share_a_bin(self) -> None:
        row = np.array([2.0, 0.0, 1.0], np.float32)
        x = np.stack([row * scale for scale in (0.1, 1, 1, 1, 1, 1, 2, 2)])
        labels = np.zeros(8, int)
        curve = reliability_curve(x, labels, bins=4, binning="mass")
        np.testing.assert_allclose(curve.weight, [6 / 8, 0, 0, 2 / 8])
        counts = sorted(np.asarray(curve.weight) * 8)
        assert counts == [0, 0, 2, 6]

    def test_the_order_of_the_examples_changes_no_bin(self) -> None:
        x, labels, _, weights = KINDS["tied"]
        weights = np.random.default_rng(0).random(300).astype(np.float32)
        for binning in ("width", "mass"):
            want = reliability_curve(x, labels, weights=weights, binning=binning)
            for seed in range(5):
                order = np.random.default_rng(seed).permutation(300)
                settings = {"weights": weights[order], "binning": binning}
                got = reliability_curve(x[order], labels[order], **settings)
                np.testing.assert_array_equal(got.edges, want.edges)
                chex.assert_trees_all_close(got, want, rtol=1e-5)

    def test_equal_weights_are_none(self) -> None:
        x, labels = data(100)
        want = reliability_curve(x, labels, binning="mass", bins=10)
        for weight in (0.01, 0.7, 1 / 3, 3e-30):
            weights = np.full(100, weight, np.float32)
            got = reliability_curve(x, labels, weights=weights, binning="mass", bins=10)
            chex.assert_trees_all_close(got, want, rtol=1e-6)

    def test_multiples_of_a_weight_are_counts(self) -> None:
        """An edge would lie one example further where their sum is rounded."""
        sure = np.linspace(1, 4, 6, dtype=np.float32)
        x, labels = np.stack([sure, 0 * sure], -1), np.zeros(6, int)
        for counts in ([4, 3, 5, 1, 2, 3], [5, 2, 5, 4, 1, 4], [1, 5, 4, 2, 2, 1]):
            want = reliability_curve(np.repeat(x, counts, 0), np.repeat(labels, counts), **SIXTHS)
            for unit in (0.1, 0.3, 0.7, 1 / 3, 7.0, 3e-30):
                weights = (unit * np.array(counts)).astype(np.float32)
                got = reliability_curve(x, labels, weights=weights, **SIXTHS)
                np.testing.assert_array_equal(got.edges, want.edges)

    def test_weights_of_0_leave_the_edges_apart(self) -> None:
        x, labels = data(100)
        curve = reliability_curve(x, labels, weights=np.zeros(100), binning="mass", bins=5)
        np.testing.assert_array_equal(curve.edges, [0, 1, 1, 1, 1, 1])

    def test_bins_of_equal_mass_hold_equal_mass(self) -> None:
        x, labels = data(900)
        for bins in (3, 15):
            curve = reliability_curve(x, labels, bins=bins, binning="mass")
            np.testing.assert_allclose(curve.weight, 1 / bins, rtol=1e-5)
        assert (np.diff(np.asarray(curve.edges)) > 0).all()
        # More bins than examples: one each, and empty ones.
        curve = reliability_curve(x[:4], labels[:4], bins=9, binning="mass")
        assert sorted(np.asarray(curve.weight).tolist()) == [0.0] * 5 + [0.25] * 4

    def test_weights_are_repeats(self) -> None:
        x, labels = data()
        counts = np.random.default_rng(0).integers(0, 4, 300)
        repeated = np.repeat(x, counts, 0), np.repeat(labels, counts)
        for function in list(CASES.values())[2:]:
            got = function(x, labels, weights=counts.astype(np.float32) * np.float32(1e-3))
            chex.assert_trees_all_close(got, function(*repeated), rtol=1e-5)

    @pytest.mark.parametrize("scale", [3e38, 1e38, 1e-37])
    def test_weights_of_any_size(self, scale: float) -> None:
        x, labels = data(50)
        weights = np.linspace(0.5, 1, 50)
        for function in CASES.values():
            want = function(x, labels, weights=weights.astype(np.float32))
            got = function(x, labels, weights=(scale * weights).astype(np.float32))
            chex.assert_trees_all_close(got, want, rtol=1e-5)

    def test_limits_of_the_temperature(self) -> None:
        x = np.array([[3, 1, 3], [0, 1, 0], [2, 1, 0]], np.float32)
        labels = np.array([2, 1, 1])
        np.testing.assert_allclose(
            brier_score(x, labels, temperature=0.0), (0.5 + 0 + 2) / 3, rtol=1e-6
        )
        np.testing.assert_allclose(brier_score(x, labels, temperature=INF), 2 / 3, rtol=1e-6)
        curve = reliability_curve(x, labels, temperature=np.array([0.0, 1.0, INF]), bins=2)
        # The prediction is the first of the largest logits, at every temperature.
        np.testing.assert_allclose(curve.weight, [2 / 3, 1 / 3], rtol=1e-6)
        np.testing.assert_allclose(curve.accuracy, [0, 1])

    def test_small_errors_keep_their_accuracy(self) -> None:
        gap = np.float32(18.0)
        x = np.array([[gap, 0, 0]] * 3, np.float32)
        labels = np.zeros(3, int)
        other = np.exp(-np.float64(gap)) / (1 + 2 * np.exp(-np.float64(gap)))
        np.testing.assert_allclose(expected_calibration_error(x, labels), 2 * other, rtol=1e-5)
        np.testing.assert_allclose(brier_score(x, labels), 6 * other**2, rtol=1e-5)

    def test_a_million_examples(self) -> None:
        number = 1_000_000
        x = np.zeros((number, 2), np.float32)
        x[:, 0] = np.log(9)
        labels = (np.arange(number) % 4 == 0).astype(int)
        np.testing.assert_allclose(expected_calibration_error(x, labels), 0.15, rtol=1e-5)
        settings = {"bins": 7, "binning": "mass"}
        np.testing.assert_allclose(
            maximum_calibration_error(x, labels, **settings), 0.15, rtol=1e-5
        )

    def test_a_label_that_is_not_allowed_is_wrong(self) -> None:
        x = np.array([[0.0, -INF, 0.0]], np.float32)
        assert brier_score(x, np.array([1])) == 1.5
        assert expected_calibration_error(x, np.array([1])) == 0.5

    @pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 3)])
    def test_nothing(self, shape: tuple[int, ...]) -> None:
        x, labels = np.zeros(shape, np.float32), np.zeros(shape[:-1], int)
        for function in MEASURES[1:]:
            assert np.isnan(function(x, labels))
        for settings in ({}, {"binning": "mass"}):
            curve = reliability_curve(x, labels, bins=3, **settings)
            np.testing.assert_array_equal(curve.weight, np.zeros(3))
            np.testing.assert_array_equal(curve.accuracy, np.full(3, NAN))
            assert not np.isnan(curve.edges).any()


class TestContract:
    def test_every_public_function_is_here(self) -> None:
        names = {function.__name__ for function in FUNCTIONS}
        assert sorted(calibration.__all__) == sorted(names | {"ReliabilityCurve"})

    @every_function
    def test_signature_and_docstring(self, function: Callable[..., Any]) -> None:
        parameters = list(inspect.signature(function).parameters.values())
        assert [parameter.name for parameter in parameters[:2]] == ["logits", "labels"]
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[2:])
        doc = inspect.getdoc(function) or ""
        for part in ("Args:", "Returns:", "Raises:", "Edge cases:", "Source:", ">>>", ".. math::"):
            assert part in doc
        for parameter in parameters:
            assert f"{parameter.name}:" in doc

    @every_case
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_half_precision_is_computed_in_float32(self, function: Any, dtype: str) -> None:
        x, labels = data(50)
        x = jnp.asarray(x, jnp.dtype(dtype))
        got = function(x, labels)
        chex.assert_trees_all_close(got, function(x.astype(jnp.float32), labels), rtol=1e-6)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(got))

    @every_case
    def test_float64_and_integers(self, function: Any) -> None:
        x, labels = data(50)
        whole = np.round(x).astype(np.int32)
        want = function(whole.astype(np.float32), labels)
        chex.assert_trees_all_close(function(whole, labels.astype(np.uint8)), want)
        with jax.enable_x64(True):
            got = function(x.astype(np.float64), labels)
            assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(got))
            got = function(x, labels, weights=np.ones(50))
            assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(got))

    @every_case
    def test_every_axis_but_the_last_is_pooled(self, function: Any) -> None:
        x, labels = data(24, 4)
        weights = np.random.default_rng(0).random(24).astype(np.float32)
        where = np.ones((24, 4), bool)
        where[3, labels[3] - 1] = False
        want = function(x, labels, weights=weights, where=where)
        for shape in ((2, 12), (2, 3, 4)):
            split = (x.reshape(*shape, 4), labels.reshape(shape))
            settings = {"weights": weights.reshape(shape), "where": where.reshape(*shape, 4)}
            chex.assert_trees_all_close(function(*split, **settings), want, rtol=1e-6)
        alone = function(x[0], labels[0])
        chex.assert_trees_all_close(alone, function(x[:1], labels[:1]), rtol=1e-6)

    @every_case
    def test_jit_and_vmap(self, function: Any) -> None:
        sets = [data(50, seed=seed) for seed in range(3)]
        x, labels = (jnp.stack(part) for part in zip(*sets, strict=True))
        weights = jnp.asarray(np.random.default_rng(0).random((3, 50)), jnp.float32)

        def one(x: jax.Array, labels: jax.Array, weights: jax.Array) -> Any:
            return function(x, labels, weights=weights)

        each = [one(*args) for args in zip(x, labels, weights, strict=True)]
        want = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        chex.assert_trees_all_close(jax.vmap(one)(x, labels, weights), want, rtol=1e-5)
        mapped = jax.jit(jax.vmap(one))(x, labels, weights)
        chex.assert_trees_all_close(mapped, want, rtol=1e-5)
        over_weights = jax.vmap(one, (None, None, 0))(x[0], labels[0], weights)
        first = jax.tree.map(lambda leaf: leaf[0], over_weights)
        chex.assert_trees_all_close(first, each[0], rtol=1e-5)

    def test_gradients_under_vmap(self) -> None:
        sets = [data(50, seed=seed) for seed in range(3)]
        x, labels = (jnp.stack(part) for part in zip(*sets, strict=True))
        for function in (fit_temperature, expected_calibration_error, brier_score):
            got = jax.jit(jax.vmap(jax.grad(function)))(x, labels)
            want = jnp.stack([jax.grad(function)(x[i], labels[i]) for i in range(3)])
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)

    @every_case
    def test_data_and_settings_never_retrace(self, function: Any) -> None:
        chex.clear_trace_counter()
        jitted = jax.jit(chex.assert_max_traces(lambda *a, **k: function(*a, **k), n=1))
        for seed in range(3):
            x, labels = data(50, seed=seed, noise=(0.0, 1.0, 50.0)[seed])
            weights = jnp.linspace(0.1, 1.0 + seed, 50)
            takes_temperature = "temperature" in inspect.signature(function).parameters
            settings = {"temperature": jnp.float32(seed + 1)} if takes_temperature else {}
            jitted(x, labels, weights=weights, where=x > -10, **settings)

    @every_case
    def test_what_is_ignored_reaches_nothing(self, function: Any) -> None:
        """Examples of weight 0 and those with nothing allowed, whatever they hold."""
        x, labels = data(60, 5)
        kept = np.arange(60) % 3 > 0
        want = function(x[kept], labels[kept])
        dirty = np.where(kept[:, None], x, np.array([NAN, INF, 1, -INF, 0], np.float32))
        bad = np.where(kept, labels, np.arange(60) - 100)
        weights = kept.astype(np.float32)
        for form in (np.asarray, jnp.asarray):
            for settings in ({"weights": form(weights)}, {"where": form(kept)[:, None]}):
                got = function(dirty, form(bad), **settings)
                chex.assert_trees_all_close(got, want, rtol=1e-5)
                traced = jax.jit(function)(dirty, form(bad), **settings)
                chex.assert_trees_all_close(traced, want, rtol=1e-5)
        both = {"weights": np.where(np.arange(60) < 30, weights, 1), "where": kept[:, None]}
        chex.assert_trees_all_close(function(dirty, bad, **both), want, rtol=1e-5)
        # Absent classes are absent.
        more = np.concatenate([x, np.full((60, 1), NAN, np.float32)], -1)
        got = function(more, labels, where=np.arange(6) < 5)
        if isinstance(got, jax.Array) and got.ndim:
            got = got[:5]  # without the temperature of the class that is never predicted
        chex.assert_trees_all_close(got, function(x, labels), rtol=1e-5)

    @every_case
    def test_errors_upstream_are_shown(self, function: Any) -> None:
        x, labels = data(50)
        broken = []
        for bad in (NAN, INF):
            dirty = x.copy()
            dirty[7, 3] = bad
            broken.append(((dirty, labels), {}))
        for bad in (7, -1, 2**31 - 1):
            wrong = jnp.asarray(labels).at[3].set(bad)
            broken.append(((x, wrong), {}))
        for bad in (-1.0, NAN, INF):
            weights = jnp.ones(50).at[3].set(bad)
            broken.append(((x, labels), {"weights": weights}))
        if "temperature" in inspect.signature(function).parameters:
            for bad in (-1.0, NAN):
                temperature = jnp.ones(50).at[3].set(bad)
                broken.append(((x, labels), {"temperature": temperature}))
        jitted = jax.jit(function)
        for arguments, settings in broken:
            got = jitted(*arguments, **settings)
            leaves = got[1:] if isinstance(got, tuple) else [got]
            assert all(np.isnan(leaf).all() for leaf in leaves), settings

    @every_function
    def test_errors_name_function_argument_value_and_what_is_allowed(
        self, function: Callable[..., Any]
    ) -> None:
        x, labels = data(6, 3)
        name = f"calibration.{function.__name__}: "

        def expect(kind: type[Exception], words: str, *arguments: Any, **settings: Any) -> None:
            for run in (function, jax.jit(lambda: function(*arguments, **settings))):
                data = arguments if run is function else ()
                with pytest.raises(kind, match=f"{name}.*{words}"):
                    run(*data, **(settings if data else {}))

        expect(TypeError, "logits must be an array.*list", [[1.0]], labels)
        expect(TypeError, "logits must be real numbers.*bool", x > 0, labels)
        expect(ValueError, "at least one dimension", np.float32(1), 0)
        expect(TypeError, "labels must be integers.*float32", x, x[:, 0])
        expect(ValueError, r"batch shape \(6,\).*\(5,\)", x, labels[:5])
        for bad in (3, -1):
            wrong = np.where(np.arange(6) == 2, bad, labels)
            expect(ValueError, rf"labels must be in \[0, 3\), got {bad}", x, wrong)
            weights = np.where(np.arange(6) == 3, 0, 1)
            expect(ValueError, "labels must be in", x, wrong, weights=weights)
        expect(TypeError, "where must be boolean.*int", x, labels, where=np.ones(3, int))
        expect(ValueError, r"where must broadcast.*\(2,\)", x, labels, where=np.ones(2, bool))
        for bad in (-1, -0.5, NAN, INF):
            words = f"weights must be finite numbers >= 0.*got weights={bad}"
            expect(ValueError, words, x, labels, weights=bad)
            expect(ValueError, words, x, labels, weights=np.full(6, bad))
        expect(ValueError, r"weights.*batch shape \(6,\).*\(3,\)", x, labels, weights=np.ones(3))
        expect(TypeError, "weights must be real.*bool", x, labels, weights=np.ones(6, bool))
        if function is fit_temperature:
            expect(TypeError, "per_class must be True or False", x, labels, per_class=1)
            return
        expect(ValueError, "temperature must be.*-1", x, labels, temperature=-1)
        if function in BINNED:
            for bad in (0, -3):
                expect(ValueError, f"bins must be at least 1, got bins={bad}", x, labels, bins=bad)
            for bad in (2.5, "ten", True, None):
                expect(TypeError, f"bins must be an integer, got {bad!r}", x, labels, bins=bad)
            for wrong in ("equal", np.array(["width", "mass"])):
                expect(ValueError, "binning must be 'width' or 'mass'", x, labels, binning=wrong)

    @pytest.mark.slow
    @every_case
    def test_debug_nans(self, function: Any) -> None:
        """Nothing is NaN on the way, but for the curve's empty bins."""
        x, labels = data(50, 3)
        x[3, (labels[3] + 1) % 3] = -INF
        settings = {"bins": 1} if "bins" in inspect.signature(function).parameters else {}

        def total(x: jax.Array) -> jax.Array:
            return sum(map(jnp.sum, jax.tree.leaves(function(x, labels, **settings))))

        with jax.debug_nans(True):
            for run in (total, jax.jit(total), jax.grad(total)):
                run(jnp.asarray(x))

    @pytest.mark.parametrize("function", [CASES[name] for name in SPLIT], ids=[*SPLIT])
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
    @pytest.mark.parametrize("spec", [P("devices"), P(None, "devices")], ids=str)
    def test_split_over_devices(self, function: Any, kind: AxisType, spec: P) -> None:
        """Plain `jit`: the examples, or the classes, on eight devices."""
        x, labels = data(64, 16)
        want = function(x, labels)
        mesh = jax.make_mesh((8,), ("devices",), (kind,))
        with jax.set_mesh(mesh):
            split = jax.device_put(x, NamedSharding(mesh, spec))
            along = jax.device_put(labels, NamedSharding(mesh, P(*spec[:1])))
            got = jax.jit(function)(split, along)
        chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=1e-5)


def test_arrays_on_a_mesh_that_is_not_around_the_call() -> None:
    x, labels = data(64, 16)
    mesh = jax.make_mesh((8,), ("devices",), (AxisType.Explicit,))
    split = jax.device_put(x, NamedSharding(mesh, P("devices")))
    along = jax.device_put(labels, NamedSharding(mesh, P("devices")))
    got = expected_calibration_error(split, along, binning="mass")
    want = expected_calibration_error(x, labels, binning="mass")
    np.testing.assert_allclose(got, want, rtol=1e-5)


@every_case
@pytest.mark.parametrize("spec", [P(None, "devices"), P(None, None, "devices")], ids=str)
def test_a_batch_of_two_axes_on_an_explicit_mesh(function: Any, spec: P) -> None:
    """Some numbers for each example cross, and not the logits."""
    x, labels = data(512, 256)
    mesh = jax.make_mesh((8,), ("devices",), (AxisType.Explicit,))
    split = jax.device_put(x.reshape(8, 64, 256), NamedSharding(mesh, spec))
    along = jax.device_put(labels.reshape(8, 64), NamedSharding(mesh, P(*spec[:2])))
    program = jax.jit(function).lower(split, along).compile()
    want = jax.device_get(function(x, labels))
    for got in (function(split, along), program(split, along)):
        chex.assert_trees_all_close(jax.device_get(got), want, rtol=1e-5)
    assert max(found.bytes for found in collectives(program)) <= 64 * labels.size


@every_case
def test_vmap_over_an_axis_that_an_explicit_mesh_splits(function: Any) -> None:
    x, labels = data(8 * 100, 16)
    pair = x.reshape(8, 100, 16), labels.reshape(8, 100)
    want = jax.device_get(jax.vmap(function)(*pair))
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Explicit,))
    with jax.set_mesh(mesh):
        split = [jax.device_put(a, NamedSharding(mesh, P("data"))) for a in pair]
        got = jax.jit(jax.vmap(function))(*split)
    chex.assert_trees_all_close(jax.device_get(got), want, rtol=1e-5)


def test_any_number_of_bins() -> None:
    x, labels = data(300, 4)
    p = np.asarray(jsoftmax.softmax(x), np.float64)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    for bins in (1, 2, 65, 66, 200):
        place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1)
        gaps = [abs((confidence - right)[place == i].sum()) for i in range(bins)]
        got = expected_calibration_error(x, labels, bins=bins)
        np.testing.assert_allclose(got, sum(gaps) / len(x), rtol=1e-4)


def test_every_edge_is_in_the_bin_below() -> None:
    """And the float above it in that above."""
    for bins in (1, 3, 7, 15, 49, 100, 1000):
        edges = (np.arange(bins + 1) / bins).astype(np.float32)
        below = _bins.bin_of(jnp.asarray(edges), jnp.asarray(edges))
        np.testing.assert_array_equal(below, np.maximum(np.arange(bins + 1) - 1, 0))
        higher = np.nextafter(edges, np.float32(2))
        above = _bins.bin_of(jnp.asarray(higher), jnp.asarray(edges))
        np.testing.assert_array_equal(above, np.minimum(np.arange(bins + 1), bins - 1))


@every_case
def test_export_with_any_number_of_examples(function: Any) -> None:
    x, labels = map(jnp.asarray, data(50))
    (number,) = export.symbolic_shape("number")
    shapes = [jax.ShapeDtypeStruct((number, *a.shape[1:]), a.dtype) for a in (x, labels)]

    def leaves(x: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(jax.tree.leaves(function(x, labels)))

    exported = export.export(jax.jit(leaves))(*shapes)
    chex.assert_trees_all_close(exported.call(x, labels), leaves(x, labels), rtol=1e-5)


def test_family_of_rows_is_finite() -> None:
    """The rows that every function of the library meets, together: nothing breaks."""
    names, x = rows.stacked(129)
    labels = np.random.default_rng(0).integers(0, 129, len(names))
    for function in CASES.values():
        got = jax.tree.leaves(function(x, labels))
        assert not any(np.isnan(leaf).all() for leaf in got)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_of_many_classes(dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(4, 1032)).astype(np.float32)
    half, labels = jnp.asarray(x).astype(dtype), np.arange(4)
    for function in (fit_temperature, expected_calibration_error, brier_score):
        got, want = function(half, labels), function(half.astype(jnp.float32), labels)
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_fitted_temperature_moves_with_the_weights_alone() -> None:
    """As with weights and logits together: each term of the rule is there without the other."""
    x = 3 * rows.normals(40, 4)
    labels = np.random.default_rng(1).integers(0, 4, 40)
    labels[:25] = x[:25].argmax(-1)
    weights = jnp.linspace(0.5, 1.5, 40)

    def fitted(weights: jax.Array, x: jax.Array) -> jax.Array:
        return calibration.fit_temperature(x, labels, weights=weights)

    alone = jax.grad(fitted)(weights, x)
    moved = [float(fitted(weights.at[7].add(step), jnp.asarray(x))) for step in (-0.05, 0.05)]
    assert 0 < moved[0] < np.inf
    np.testing.assert_allclose(alone[7], (moved[1] - moved[0]) / 0.1, rtol=2e-2)
    np.testing.assert_allclose(alone, jax.grad(fitted, (0, 1))(weights, x)[0], rtol=1e-5, atol=1e-7)


def test_a_temperature_is_fitted_on_an_explicit_mesh() -> None:
    """Examples and classes split: labels are looked up and examples grouped without indexing."""
    x = 3 * rows.normals(32, 4)
    labels = np.random.default_rng(1).integers(0, 4, 32)
    labels[:20] = x[:20].argmax(-1)
    mesh = jax.make_mesh((4, 2), ("rows", "classes"), (AxisType.Explicit,) * 2)
    want = calibration.fit_temperature(x, labels, per_class=True)
    assert len(set(want.tolist())) == 4
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, P("rows", "classes")))
        along = jax.device_put(labels, NamedSharding(mesh, P("rows")))
        fitted = jax.jit(lambda x, y: calibration.fit_temperature(x, y, per_class=True))(
            split, along
        )
    np.testing.assert_allclose(jax.device_get(fitted), want, rtol=1e-4)


def test_measures_of_calibration_take_fifteen_bins() -> None:
    measures = (
        calibration.reliability_curve,
        calibration.expected_calibration_error,
        calibration.maximum_calibration_error,
    )
    assert {inspect.signature(f).parameters["bins"].default for f in measures} == {15}
