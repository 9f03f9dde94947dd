"""linear_cross_entropy and linear_log_prob: the dense loss, its gradients, memory, meshes."""

import functools
import re
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jsoftmax
from jsoftmax import cross_entropy, linear_cross_entropy, linear_log_prob
from tests import reference, rows

INF = np.inf
D, V = 8, 37
BLOCKS = (None, 1, 5, 36, 37, 100)
OFF = {"bias": None, "logit_softcap": None, "label_smoothing": 0.0, "z_loss": 0.0}
EVERYTHING = {
    "bias": jnp.asarray(np.where(np.arange(V) % 7 == 2, -INF, rows.normal(V, 1.0, 4)), jnp.float32),
    "logit_softcap": jnp.full((2, 3), 4.0),
    "label_smoothing": jnp.float32(0.1),
    "z_loss": jnp.array([0.01, 0.1, 0.0]),
    "temperature": jnp.array([[0.7], [1.3]]),
}
HIDDEN = jnp.asarray(rows.normal(2 * 3 * D, 1.0).reshape(2, 3, D))
WEIGHT = jnp.asarray(rows.normal(D * V, 1.0, seed=1).reshape(D, V))
LABELS = jnp.array([[0, 36, 5], [13, 20, 14]])


def dense(
    hidden: jax.Array,
    weight: jax.Array,
    labels: Any = LABELS,
    *,
    bias: jax.Array | None = None,
    logit_softcap: Any = None,
    **settings: Any,
) -> jax.Array:
    """The same loss from the logits."""
    x = hidden @ weight
    if logit_softcap is not None:
        cap = jnp.broadcast_to(jnp.asarray(logit_softcap), x.shape[:-1])[..., None]
        live = True if bias is None else jnp.isfinite(bias)
        x = x if bias is None else x + jnp.where(live, bias, 0).reshape((1,) * (x.ndim - 1) + (-1,))
        return cross_entropy(cap * jnp.tanh(x / cap), labels, where=live, **settings)
    x = x if bias is None else x + bias.reshape((1,) * (x.ndim - 1) + (-1,))
    return cross_entropy(x, labels, **settings)


def weighted(function: Callable[..., jax.Array], labels: Any = LABELS) -> Callable[..., jax.Array]:
    """A scalar of the losses: what is infinite left out, each row its own weight."""

    def total(hidden: jax.Array, weight: jax.Array, settings: dict[str, Any]) -> jax.Array:
        loss = function(hidden, weight, labels, **settings)
        weights = jnp.sin(1.0 + jnp.arange(loss.size, dtype=loss.dtype)).reshape(loss.shape)
        return jnp.where(jnp.isfinite(loss), loss * weights, 0).sum()

    return total


def blocked(block_size: int | None, **settings: Any) -> Callable[..., jax.Array]:
    return lambda *data, **more: linear_cross_entropy(
        *data, block_size=block_size, **settings, **more
    )


class TestEqualsDense:
    @pytest.mark.parametrize("block_size", BLOCKS)
    @pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
    def test_values_and_gradients(self, block_size: int | None, settings: dict[str, Any]) -> None:
        """Of hidden, weight, bias and every setting, also where the last block is short."""
        got = linear_cross_entropy(HIDDEN, WEIGHT, LABELS, block_size=block_size, **settings)
        want = dense(HIDDEN, WEIGHT, **settings)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
        gradient = jax.jit(jax.grad(weighted(blocked(block_size)), (0, 1, 2)))
        expected = jax.grad(weighted(dense), (0, 1, 2))(HIDDEN, WEIGHT, settings)
        chex.assert_tree_all_finite(expected)
        chex.assert_trees_all_close(
            gradient(HIDDEN, WEIGHT, settings), expected, rtol=2e-5, atol=4e-6
        )

    @pytest.mark.parametrize("temperature", [0.0, INF])
    def test_limits_of_temperature(self, temperature: float) -> None:
        best = jnp.argmax(HIDDEN @ WEIGHT, -1).at[0, 0].set(3)
        got = linear_cross_entropy(HIDDEN, WEIGHT, best, temperature=temperature, block_size=5)
        want = dense(HIDDEN, WEIGHT, best, temperature=temperature)
        np.testing.assert_allclose(got, want, rtol=1e-6)
        gradient = jax.grad(weighted(blocked(5), best), (0, 1, 2))(
            HIDDEN, WEIGHT, {"temperature": jnp.float32(temperature)}
        )
        chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))

    def test_a_soft_cap_of_infinity_is_none(self) -> None:
        cap = jnp.array([INF, 4.0, INF])
        for each in (INF, cap):
            none = jnp.isinf(jnp.broadcast_to(each, (2, 3)))

            def loss(h: jax.Array, w: jax.Array, each: Any = each) -> jax.Array:
                return linear_cross_entropy(h, w, LABELS, logit_softcap=each, block_size=5)

            def dense(h: jax.Array, w: jax.Array, none: jax.Array = none) -> jax.Array:
                capped, free = (
                    linear_cross_entropy(h, w, LABELS, logit_softcap=c) for c in (4.0, None)
                )
                return jnp.where(none, free, capped)

            np.testing.assert_allclose(loss(HIDDEN, WEIGHT), dense(HIDDEN, WEIGHT), rtol=1e-6)
            got, want = (
                jax.grad(lambda h, w, f=f: f(h, w).sum(), (0, 1))(HIDDEN, WEIGHT)
                for f in (loss, dense)
            )
            chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)
        of_cap = jax.grad(
            lambda c: linear_cross_entropy(HIDDEN, WEIGHT, LABELS, logit_softcap=c).sum()
        )(cap)
        chex.assert_tree_all_finite(of_cap)
        np.testing.assert_array_equal(of_cap[::2], 0)

    @pytest.mark.parametrize("cap", [0.01, 0.5, 1.9, 2.1, 10.0, 1e3, 1e6])
    def test_gradients_of_any_soft_cap(self, cap: float) -> None:
        """By the cap: near 0 it is a difference of two that are about equal."""
        with jax.enable_x64(True):
            x = np.array([1.0, -0.7, 0.3])
            p = np.exp(cap * np.tanh(x / cap))
            p = p / p.sum() - [0, 1, 0]
            u = x.astype(np.longdouble) / cap
            slope = 1 / np.cosh(u) ** 2
            by_cap = np.float64(
                np.sum(p * np.where(abs(u) < 1e-3, 2 * u**3 / 3, np.tanh(u) - u * slope))
            )
            by_logit = np.float64(p * slope)

        def loss(c: jax.Array, w: jax.Array) -> jax.Array:
            label = jnp.array([1])
            return linear_cross_entropy(jnp.ones((1, 1)), w, label, logit_softcap=c)[0]

        of_cap, of_weight = jax.grad(loss, (0, 1))(jnp.float32(cap), jnp.float32(x)[None])
        np.testing.assert_allclose(of_weight[0], by_logit, rtol=1e-5, atol=1e-36)
        np.testing.assert_allclose(of_cap, by_cap, rtol=1e-5)

    def test_a_soft_cap_hides_no_infinity(self) -> None:
        weight = jnp.array([[2.0, 1.0, -2.0]])
        labels = jnp.arange(3)
        for hidden, cap in ((2e38, 30.0), (2e38, jnp.inf), (np.nan, 30.0)):
            got = linear_log_prob(jnp.full((3, 1), hidden), weight, labels, logit_softcap=cap)
            np.testing.assert_array_equal(got, [np.nan] * 3)
        bias = jnp.array([0.0, 0.0, -jnp.inf])
        got = linear_log_prob(jnp.ones((3, 1)), weight, labels, bias=bias, logit_softcap=30.0)
        assert got[2] == -np.inf

    def test_a_large_soft_cap_is_none(self) -> None:
        want = linear_cross_entropy(HIDDEN, WEIGHT, LABELS)
        for cap in (1e10, 8e37, 1e38, 3e38, np.inf):
            for given in (jnp.float32(cap), jnp.full(LABELS.shape, cap)):
                got = linear_cross_entropy(HIDDEN, WEIGHT, LABELS, logit_softcap=given)
                np.testing.assert_allclose(got, want, rtol=1e-6)
        # As large as the logits, which are near the largest float.
        hidden, weight = jnp.float32([[1e38]]), jnp.float32([[1.0, 0.5, 2.0]])
        settings = {"logit_softcap": 1e38, "temperature": 1e38}
        got = linear_log_prob(hidden, weight, jnp.array([1]), **settings)
        capped = np.tanh([1.0, 0.5, 2.0])
        np.testing.assert_allclose(got, [capped[1] - np.log(np.exp(capped).sum())], rtol=1e-6)

    @pytest.mark.slow
    def test_double_precision_and_numerical_derivatives(self) -> None:
        with jax.enable_x64(True):
            draw = np.random.default_rng(0)
            hidden, weight = (jnp.asarray(draw.normal(size=s)) for s in ((3, 4), (4, 7)))
            label, bias = jnp.array([0, 6, 3]), jnp.asarray(draw.normal(size=7))
            settings = {"label_smoothing": 0.1, "z_loss": 0.05, "logit_softcap": 3.0}

            @jax.jit
            def loss(h: jax.Array, w: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
                return linear_cross_entropy(
                    h, w, label, bias=b, temperature=t, block_size=3, **settings
                )

            arguments = (hidden, weight, bias, jnp.array([0.7, 1.0, 1.4]))
            assert loss(*arguments).dtype == jnp.float64
            check_grads(loss, arguments, order=2, modes=("rev",), rtol=1e-6, atol=1e-6)

    def test_nearly_certain_labels_keep_their_relative_accuracy(self) -> None:
        gap = np.array([12.0, 20.0, 60.0], np.float32)
        weight = jnp.zeros((1, 40)).at[0, 25].set(1.0)
        got = linear_cross_entropy(gap[:, None], weight, np.full(3, 25), block_size=7)
        np.testing.assert_allclose(got, np.log1p(39 * np.exp(-gap.astype(float))), rtol=3e-6)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_is_accumulated_in_float32(self, dtype: str) -> None:
        """The loss is that of the same numbers in float32; gradients are rounded to their dtype."""
        hidden = jnp.asarray(rows.normal(64 * 128, 1.0).reshape(64, 128), jnp.dtype(dtype))
        weight = jnp.asarray(rows.normal(128 * 300, 0.3).reshape(128, 300), jnp.dtype(dtype))
        label = np.arange(64)
        wide = (hidden.astype(jnp.float32), weight.astype(jnp.float32))
        got = linear_cross_entropy(hidden, weight, label, block_size=100)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, dense(*wide, label), rtol=1e-5, atol=1e-5)
        of_half = jax.grad(weighted(blocked(100), label), (0, 1))(hidden, weight, {})
        of_wide = jax.grad(weighted(dense, label), (0, 1))(*wide, {})
        eps = float(jnp.finfo(hidden.dtype).eps)
        for half, single in zip(of_half, of_wide, strict=True):
            assert half.dtype == hidden.dtype
            error = np.abs(np.asarray(half, np.float32) - single)
            assert error.max() < 2 * eps * float(jnp.abs(single).max())

    def test_two_dtypes(self) -> None:
        weight = WEIGHT.astype(jnp.bfloat16)
        got = linear_cross_entropy(HIDDEN, weight, LABELS, bias=EVERYTHING["bias"])
        want = dense(HIDDEN, weight.astype(jnp.float32), bias=EVERYTHING["bias"])
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
        of_hidden, of_weight = jax.grad(weighted(blocked(5)), (0, 1))(HIDDEN, weight, {})
        assert (of_hidden.dtype, of_weight.dtype) == (jnp.float32, jnp.bfloat16)

    def test_reference(self) -> None:
        x = reference.as_float(HIDDEN) @ reference.as_float(WEIGHT)
        p = reference.over_rows(reference.log_softmax_row, x, 0.7)
        want = np.take_along_axis(p, np.asarray(LABELS)[..., None], -1)[..., 0]
        got = linear_log_prob(HIDDEN, WEIGHT, LABELS, temperature=0.7, block_size=5)
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)

    def test_vmap_scan_and_remat(self) -> None:
        def one(hidden: jax.Array, label: jax.Array) -> jax.Array:
            return linear_cross_entropy(hidden, WEIGHT, label, block_size=5)

        want = linear_cross_entropy(HIDDEN, WEIGHT, LABELS)
        close = functools.partial(chex.assert_trees_all_close, rtol=2e-6, atol=2e-6)
        close(jax.vmap(jax.vmap(one))(HIDDEN, LABELS), want)
        _, scanned = jax.lax.scan(
            lambda c, pair: (c, jax.checkpoint(one)(*pair)), None, (HIDDEN, LABELS)
        )
        close(scanned, want)
        of_each = jax.vmap(jax.grad(lambda h, y: one(h, y).sum()))(HIDDEN, LABELS)
        close(of_each, jax.grad(lambda h: dense(h, WEIGHT).sum())(HIDDEN))

    def test_sizes(self) -> None:
        for shape, vocabulary in (((0, D), V), ((2, 0, D), V), ((2, D), 0), ((2, 0), V), ((D,), V)):
            hidden, weight = jnp.zeros(shape), jnp.zeros((shape[-1], vocabulary))
            label = jnp.zeros(shape[:-1], jnp.int32)
            got, gradient = jax.value_and_grad(
                lambda h, w, y=label: linear_cross_entropy(h, w, y, label_smoothing=0.1).sum(),
                (0, 1),
            )(hidden, weight)
            rows_ = int(np.prod(shape[:-1]))
            want = rows_ * np.log(vocabulary) if vocabulary else 0
            np.testing.assert_allclose(got, want, rtol=1e-6)
            chex.assert_trees_all_equal_shapes(gradient, (hidden, weight))


class TestEdges:
    def test_a_label_out_of_range_where_nothing_is_allowed(self) -> None:
        hidden, labels = jnp.ones((3, 1)), jnp.array([-1, 0, 7])
        for weight in (jnp.full((1, 3), -jnp.inf), jnp.zeros((1, 0))):
            got = linear_log_prob(hidden, weight, labels)
            np.testing.assert_array_equal(got, [-np.inf] * 3)
            np.testing.assert_array_equal(linear_cross_entropy(hidden, weight, labels), [0] * 3)

    def test_labels(self) -> None:
        """Out of range: NaN with gradient 0; a class taken out: inf with gradient 0."""
        bias = jnp.zeros(V).at[2].set(-INF)
        label = jnp.array([[0, V, -1], [2, 1, V - 1]])
        got = np.asarray(linear_cross_entropy(HIDDEN, WEIGHT, label, bias=bias, block_size=5))
        bad = np.array([[False, True, True], [False] * 3])
        impossible = np.array([[False] * 3, [True, False, False]])
        np.testing.assert_array_equal(np.isnan(got), bad)
        np.testing.assert_array_equal(np.isinf(got), impossible)
        log_prob = np.asarray(linear_log_prob(HIDDEN, WEIGHT, label, bias=bias, block_size=5))
        np.testing.assert_array_equal(log_prob, -got)
        of_hidden, of_weight = jax.grad(weighted(blocked(5), label), (0, 1))(
            HIDDEN, WEIGHT, {"bias": bias}
        )
        chex.assert_tree_all_finite((of_hidden, of_weight))
        np.testing.assert_array_equal(np.asarray(of_hidden)[bad | impossible], 0)
        assert (np.asarray(of_hidden)[~(bad | impossible)] != 0).any(-1).all()
        np.testing.assert_array_equal(of_weight[:, 2], 0)

    def test_nothing_allowed(self) -> None:
        bias = jnp.full(V, -INF)
        for smoothing in (0.0, 0.1):
            loss = blocked(5, label_smoothing=smoothing, z_loss=0.1)
            np.testing.assert_array_equal(loss(HIDDEN, WEIGHT, LABELS, bias=bias), 0)
            gradient = jax.grad(weighted(loss), (0, 1, 2))(HIDDEN, WEIGHT, {"bias": bias})
            chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))
        np.testing.assert_array_equal(linear_log_prob(HIDDEN, WEIGHT, LABELS, bias=bias), -INF)

    def test_nan_stays_in_its_row(self) -> None:
        hidden = HIDDEN.at[0, 1, 0].set(np.nan).at[1, 0, 0].set(np.inf)
        got = np.asarray(linear_cross_entropy(hidden, jnp.abs(WEIGHT), LABELS, block_size=5))
        np.testing.assert_array_equal(np.isnan(got), [[False, True, False], [True, False, False]])
        with jax.debug_nans(True):
            jax.grad(weighted(blocked(5)), (0, 1, 2))(HIDDEN, WEIGHT, EVERYTHING)

    def test_settings_never_retrace(self) -> None:
        chex.clear_trace_counter()
        function = jax.jit(chex.assert_max_traces(blocked(5), n=1))
        for number in (0.5, 0.9):
            names = ("temperature", "label_smoothing", "z_loss", "logit_softcap")
            function(HIDDEN, WEIGHT, LABELS, **dict.fromkeys(names, number))

    @pytest.mark.parametrize("function", [linear_cross_entropy, linear_log_prob])
    @pytest.mark.parametrize(
        "precision",
        ["high", jax.lax.Precision.HIGH, ("high", "high"), ["high", "high"]],
        ids=lambda given: type(given).__name__,
    )
    def test_every_product_has_the_precision(
        self, function: Callable[..., jax.Array], precision: Any
    ) -> None:
        """In the backward pass too, and in whatever form ``jax.lax.dot`` takes it."""

        def loss(hidden: jax.Array, weight: jax.Array) -> jax.Array:
            return function(hidden, weight, LABELS, block_size=5, precision=precision).sum()

        program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(HIDDEN, WEIGHT))
        products = program.count("dot_general")
        assert products
        assert program.count("Precision.HIGH") == 2 * products

    @pytest.mark.parametrize("function", [linear_cross_entropy, linear_log_prob])
    def test_errors(self, function: Callable[..., jax.Array]) -> None:
        name = function.__name__
        good = {"hidden": HIDDEN, "weight": WEIGHT, "labels": LABELS}
        for change, kind, words in (
            ({"hidden": [1.0]}, TypeError, "hidden must be an array"),
            ({"weight": WEIGHT > 0}, TypeError, "weight must be real numbers.*bool"),
            ({"weight": WEIGHT.T}, ValueError, r"weight \[D, V\], got .*\(37, 8\)"),
            ({"hidden": jnp.float32(1)}, ValueError, r"hidden must have shape \[..., D\]"),
            ({"labels": LABELS.astype(np.float32)}, TypeError, "labels must be integers.*float32"),
            ({"labels": LABELS[0]}, ValueError, r"batch shape \(2, 3\) \(hidden's .*\(3,\)"),
            (
                {"labels": np.full((2, 3), V)},
                ValueError,
                r"labels must be in \[0, 37\), got 37 \(to ignore a row, give it any label",
            ),
            ({"bias": jnp.zeros(3)}, ValueError, r"bias must have the shape \(37,\).*\(3,\)"),
            ({"bias": "b"}, TypeError, "bias must be an array"),
            ({"logit_softcap": 0.0}, ValueError, "logit_softcap must be a number > 0.*0.0"),
            ({"logit_softcap": 1e-40}, ValueError, "logit_softcap must be .*no denormal.*1e-40"),
            ({"temperature": -1.0}, ValueError, "temperature must be .*-1"),
            ({"temperature": jnp.ones(2)}, ValueError, r"temperature .*\(hidden's .*\(2,\)"),
            ({"block_size": 0}, ValueError, "block_size must be at least 1.*0"),
            ({"block_size": 1.5}, TypeError, "block_size must be an integer.*1.5"),
            ({"axis_name": "vocab"}, ValueError, "axis_name must name mesh axes.*vocab"),
        ):
            with pytest.raises(kind, match=f"{name}: .*{words}"):
                function(**(good | change))
        bad = function(HIDDEN, WEIGHT, LABELS, logit_softcap=jnp.array([4.0, -1.0, 0.0]))
        np.testing.assert_array_equal(np.isnan(bad), [[False, True, True]] * 2)


SPECS = {
    "hidden": P("batch"),
    "weight": P(None, "vocab"),
    "bias": P("vocab"),
    "labels": P("batch"),
    "temperature": P("batch"),
}


class TestMesh:
    """Two devices along the batch, four along the vocabulary."""

    def data(self) -> dict[str, jax.Array]:
        return {
            "hidden": jnp.asarray(rows.normal(6 * D, 1.0).reshape(6, D)),
            "weight": jnp.asarray(rows.normal(D * 36, 1.0).reshape(D, 36)),
            "bias": jnp.asarray(rows.normal(36, 1.0)).at[jnp.array([3, 9, 10])].set(-INF),
            "labels": jnp.array([0, 8, 9, 35, 20, 36]),
            "temperature": jnp.linspace(0.7, 1.3, 6),
        }

    def sharded(self, check_vma: bool, **settings: Any) -> Callable[..., jax.Array]:
        mesh = jax.make_mesh((2, 4), ("batch", "vocab"), (AxisType.Auto,) * 2)
        return jax.shard_map(
            lambda data: linear_cross_entropy(**data, axis_name="vocab", block_size=4, **settings),
            mesh=mesh,
            in_specs=(SPECS,),
            out_specs=P("batch"),
            check_vma=check_vma,
        )

    @pytest.mark.parametrize("check_vma", [True, False], ids=["vma", "no vma"])
    def test_equals_dense(self, check_vma: bool) -> None:
        """Labels are indices of the whole vocabulary; the weight's gradient is summed over the
        batch's devices, that of hidden over the vocabulary's."""
        data = self.data()
        labels = data.pop("labels")
        settings = {"label_smoothing": 0.1, "z_loss": 0.01, "logit_softcap": 5.0}
        sharded = self.sharded(check_vma, **settings)

        def over_mesh(data: dict[str, jax.Array]) -> jax.Array:
            return sharded(data | {"labels": labels})

        def alone(data: dict[str, jax.Array]) -> jax.Array:
            hidden, weight = data["hidden"], data["weight"]
            more = {"bias": data["bias"], "temperature": data["temperature"]}
            return linear_cross_entropy(hidden, weight, labels, **more, **settings)

        def total(function: Callable[..., jax.Array], data: dict[str, jax.Array]) -> jax.Array:
            loss = function(data)
            weights = jnp.cos(jnp.arange(6, dtype=loss.dtype))
            return jnp.where(jnp.isfinite(loss), loss * weights, 0).sum()

        got, want = jax.jit(over_mesh)(data), alone(data)
        np.testing.assert_array_equal(np.isnan(want), labels == 36)
        np.testing.assert_array_equal(np.isinf(want), labels == 9)
        np.testing.assert_allclose(got, want, rtol=2e-6)
        of_mesh = jax.jit(jax.grad(lambda data: total(over_mesh, data)))(data)
        chex.assert_trees_all_close(
            of_mesh, jax.grad(lambda data: total(alone, data))(data), rtol=1e-5, atol=2e-6
        )

    @pytest.mark.slow
    def test_gradient_taken_inside(self) -> None:
        """A training step inside shard_map: the mean over the batch, then the gradient."""
        data = self.data() | {"labels": jnp.array([0, 8, 1, 35, 20, 30])}
        labels = data.pop("labels")
        mesh = jax.make_mesh((2, 4), ("batch", "vocab"), (AxisType.Auto,) * 2)
        specs = {name: spec for name, spec in SPECS.items() if name != "labels"}

        def step(data: dict[str, jax.Array], labels: jax.Array) -> dict[str, jax.Array]:
            def mean(data: dict[str, jax.Array]) -> jax.Array:
                loss = linear_cross_entropy(labels=labels, **data, axis_name="vocab", block_size=4)
                return jax.lax.pmean(loss.mean(), "batch")

            return jax.grad(mean)(data)

        inside = jax.shard_map(step, mesh=mesh, in_specs=(specs, SPECS["labels"]), out_specs=specs)
        want = jax.grad(lambda data: linear_cross_entropy(labels=labels, **data).mean())(data)
        chex.assert_trees_all_close(inside(data, labels), want, rtol=1e-5, atol=1e-6)

    def test_what_crosses_devices(self) -> None:
        """Numbers of the batch, and gradients of what a device holds: never a block of logits."""
        data = self.data()
        labels = data.pop("labels")
        sharded = self.sharded(True)
        gradient = jax.jit(jax.grad(lambda data: jnp.nansum(sharded(data | {"labels": labels}))))
        text = gradient.lower(data).compile().as_text()
        moved = set(
            re.findall(r"= \(?(\w+\[[\d,]*\]).*? (all-\w+|reduce-\w+|collective-\w+)\(", text)
        )
        assert {kind for _, kind in moved} == {"all-reduce"}
        local = ("f32[3,1]", f"f32[3,{D}]", f"f32[{D},9]", "f32[9]")
        assert {shape for shape, _ in moved} <= set(local), moved


class TestMemory:
    def test_what_the_backward_pass_keeps(self) -> None:
        """Beside its inputs a few numbers per row."""
        hidden, weight = jnp.zeros((32, 16)), jnp.zeros((16, 5000))
        label = jnp.zeros(32, jnp.int32)

        def pullback(hidden: jax.Array, weight: jax.Array) -> Any:
            return jax.vjp(lambda h, w: linear_cross_entropy(h, w, label), hidden, weight)[1]

        kept = jax.tree.leaves(jax.jit(pullback)(hidden, weight))
        large = sorted(leaf.shape for leaf in kept if leaf.size > 32)
        assert large == [(16, 5000), (32, 16)]

    def test_a_tenth_of_the_plain_computation(self) -> None:
        """At [1024, 576] x [576, 49152], forward and gradient, by the compiler's own account."""
        hidden, weight = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1024, 576), (576, 49152)))
        label = jax.ShapeDtypeStruct((1024,), jnp.int32)

        def temporaries(loss: Callable[..., jax.Array]) -> int:
            function = jax.value_and_grad(lambda h, w, y: loss(h, w, y).mean(), (0, 1))
            compiled = jax.jit(function).lower(hidden, weight, label).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        def plain(h: jax.Array, w: jax.Array, y: jax.Array) -> jax.Array:
            x = h @ w
            at_label = jnp.take_along_axis(x, y[:, None], axis=-1)[:, 0]
            return jax.nn.logsumexp(x, axis=-1) - at_label

        assert temporaries(linear_cross_entropy) < 0.1 * temporaries(plain)
        # Nor is a padded copy of the weight made where the vocabulary is no multiple of the block.
        weight = jax.ShapeDtypeStruct((576, 49157), jnp.float32)
        assert temporaries(linear_cross_entropy) < 0.1 * temporaries(plain)

    def test_a_long_batch_and_a_large_vocabulary(self) -> None:
        """At [8192, 576] x [576, 131072] the logits would take 4 GB: below 300 MB beyond the
        gradients."""
        hidden, weight = (
            jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8192, 576), (576, 131072))
        )
        label = jax.ShapeDtypeStruct((8192,), jnp.int32)
        gradient = jax.grad(lambda h, w, y: linear_cross_entropy(h, w, y).mean(), (0, 1))
        compiled = jax.jit(gradient).lower(hidden, weight, label).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 300e6

    def test_the_mean_of_large_logits_does_not_overflow(self) -> None:
        """That of label smoothing: found by fuzzing."""
        x = jnp.asarray([[3e38, 2e38, 3e38, -3e38]], jnp.float32)
        hidden, label = jnp.ones((1, 1)), jnp.zeros(1, jnp.int32)
        for x_ in (x, jnp.asarray([[1e38, -3.4e38, 3.4e38, -3.4e38]], jnp.float32)):
            for temperature in (1e38, np.inf):
                options = {"label_smoothing": 0.5, "temperature": temperature}
                got, gradient = jax.value_and_grad(
                    lambda x, o=options: linear_cross_entropy(hidden, x, label, **o).sum()
                )(x_)
                want = jax.value_and_grad(
                    lambda x, o=options: jsoftmax.cross_entropy(x, label, **o).sum()
                )(x_)
                np.testing.assert_allclose(got, want[0], rtol=1e-5)
                np.testing.assert_allclose(gradient, want[1], rtol=1e-5)

    def test_cross_entropy_makes_no_one_hot_array(self) -> None:
        """Beside the logits and its result: slabs of the sums, an eighth of the logits each."""
        x, label = jnp.zeros((64, 8192)), jnp.zeros(64, jnp.int32)
        gradient = jax.jit(jax.grad(lambda x: jsoftmax.cross_entropy(x, label).sum()))
        memory = gradient.lower(x).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 0.5 * x.nbytes


@pytest.mark.parametrize(
    ("of_hidden", "of_weight"), [(P("rows"), P()), (P(), P(None, "rows"))], ids=str
)
def test_operands_that_explicit_axes_split(of_hidden: P, of_weight: P) -> None:
    """Plain `jit`, the mesh around the call or not: the partitioner does the rest."""
    mesh = jax.make_mesh((2,), ("rows",), (AxisType.Explicit,), devices=jax.devices()[:2])
    weight = WEIGHT[:, :36]
    labels = np.minimum(LABELS, 35)

    def loss(h: jax.Array, w: jax.Array) -> jax.Array:
        return linear_cross_entropy(h, weight=w, labels=labels, block_size=20).sum()

    def placed(x: jax.Array, spec: P) -> jax.Array:
        return jax.device_put(x, NamedSharding(mesh, spec))

    want = jax.value_and_grad(loss, (0, 1))(HIDDEN, weight)
    h, w = placed(HIDDEN, of_hidden), placed(weight, of_weight)
    got = jax.jit(jax.value_and_grad(loss, (0, 1)))(h, w)
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("manual", ["batch", "vocab"])
def test_some_axes_manual_and_the_others_explicit(manual: str) -> None:
    """The other axis is left to the partitioner, inside the `shard_map` over one of them."""
    axes = (AxisType.Explicit,) * 2
    mesh = jax.make_mesh((2, 2), ("batch", "vocab"), axes, devices=jax.devices()[:4])
    hidden, weight = HIDDEN.reshape(6, D), WEIGHT[:, :36]
    labels = np.minimum(LABELS, 35).reshape(6)
    whole = P("batch"), P(None, "vocab"), P("batch")
    inside = [
        P(*(axis if axis == manual else None for axis in spec)) if spec else P() for spec in whole
    ]
    name = "vocab" if manual == "vocab" else None

    def loss(h: jax.Array, w: jax.Array, labels: jax.Array) -> Any:
        def of_shard(h: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
            each = linear_cross_entropy(h, w, labels, axis_name=name, block_size=5)
            return each.sum(), each

        gradient, each = jax.grad(of_shard, (0, 1), has_aux=True)(h, w)
        return each, gradient

    want = linear_cross_entropy(hidden, weight, labels)
    slopes = jax.grad(lambda h, w: linear_cross_entropy(h, w, labels).sum(), (0, 1))(hidden, weight)
    with jax.set_mesh(mesh):
        arrays = zip((hidden, weight, labels), whole, strict=True)
        operands = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in arrays]
        out = inside[2], tuple(inside[:2])
        over = jax.shard_map(loss, axis_names={manual}, in_specs=tuple(inside), out_specs=out)
        got = jax.device_get(jax.jit(over)(*operands))
    chex.assert_trees_all_close(got, jax.device_get((want, slopes)), rtol=1e-5, atol=1e-6)


def test_numbers_that_the_dtype_does_not_hold() -> None:
    for setting, words in (
        ({"logit_softcap": 1e-40}, "logit_softcap must be a number > 0 and no denormal.*1e-40"),
        ({"z_loss": 1e300}, r"z_loss must be a finite number.*1e\+300"),
    ):
        with pytest.raises(ValueError, match=words):
            linear_cross_entropy(HIDDEN, WEIGHT, LABELS, **setting)
    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in (HIDDEN, WEIGHT)]
        assert np.isfinite(linear_cross_entropy(*wide, LABELS, logit_softcap=1e-100)).all()


def test_export_with_any_batch() -> None:
    (batch,) = jax.export.symbolic_shape("batch")
    arrays = HIDDEN.reshape(6, D), WEIGHT, LABELS.reshape(6)
    shapes = [
        jax.ShapeDtypeStruct(x.shape if x is WEIGHT else (batch, *x.shape[1:]), x.dtype)
        for x in arrays
    ]

    def loss(hidden: jax.Array, weight: jax.Array, labels: jax.Array) -> Any:
        both = linear_cross_entropy, linear_log_prob
        losses = [f(hidden, weight, labels, temperature=0.7, logit_softcap=4) for f in both]
        return losses, jax.grad(lambda w: linear_cross_entropy(hidden, w, labels).sum())(weight)

    exported = jax.export.export(jax.jit(loss))(*shapes)
    chex.assert_trees_all_close(exported.call(*arrays), loss(*arrays), rtol=1e-5, atol=1e-6)


def test_smoothing_of_the_largest_floats_at_the_largest_temperature() -> None:
    """The mean of seven differences from the largest logit, each up to twice the largest float."""
    most = float(np.finfo(np.float32).max)
    x = np.array([[-most / 4, most, -most / 4, most / 2, -most, -most / 4, -most]], np.float32)
    got = linear_cross_entropy(
        np.ones((1, 1), np.float32), x, np.ones(1, np.int32), temperature=most, label_smoothing=0.9
    )
    want = reference.over_rows(reference.cross_entropy_row, x, 1, most, 0.9, 0.0)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_gradients_of_a_linear_loss_add_up_over_blocks() -> None:
    hidden, weight = jnp.asarray(rows.normals(3, 4)), jnp.asarray(rows.normals(4, 8, seed=1))
    labels = np.array([0, 7, 3])

    def dense(cap: jax.Array, temperature: jax.Array) -> jax.Array:
        x = cap[:, None] * jnp.tanh(hidden @ weight / cap[:, None])
        return jsoftmax.cross_entropy(x, labels, temperature=temperature).sum()

    def by_blocks(cap: jax.Array, temperature: jax.Array) -> jax.Array:
        return jsoftmax.linear_cross_entropy(
            hidden, weight, labels, logit_softcap=cap, temperature=temperature, block_size=3
        ).sum()

    at = np.float32([1.0, 2.0, 5.0]), np.float32([0.7, 1.0, 1.5])
    got, want = (jax.jit(jax.grad(function, (0, 1)))(*at) for function in (by_blocks, dense))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
