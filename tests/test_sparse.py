"""sparsemax and entmax: closed forms, other implementations, derivatives, how few sweeps."""

import functools
import itertools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax
from jsoftmax import entmax, softmax, sparsemax
from jsoftmax._sparse_root import solve
from jsoftmax._typing import Along
from tests import reference, rows
from tests.reference import Row

INF = np.inf
ALPHAS = (1.0, 1.0 + 2**-20, 1.01, 1.2, 1.5, 1.8, 2.0, 2.3, 3.0, 4.0)
FIXED = {1.0: softmax, 1.5: entmax, 2.0: sparsemax}
"""The functions that are `entmax` at one alpha, and faster."""


def traced(x: Any, alpha: float, **settings: Any) -> jax.Array:
    """Entmax with an alpha that is an array, so that no closed form is taken."""
    return entmax(
        x, alpha=jnp.asarray(alpha, jnp.float64 if x.dtype == np.float64 else None), **settings
    )


# --- the reference itself --------------------------------------------------------------------


def test_reference_is_the_projection() -> None:
    """By brute force: the nearest of the projections onto every face of the simplex."""
    everything = np.ones(5, bool)
    for seed in range(20):
        x = rows.normal(5, 1.0, seed).astype(np.float64)
        faces = []
        for size in range(1, 6):
            for face in itertools.combinations(range(5), size):
                p = np.zeros(5)
                p[list(face)] = x[list(face)] - (x[list(face)].sum() - 1) / size
                if (p >= 0).all():
                    faces.append(p)
        nearest = min(faces, key=lambda p: ((p - x) ** 2).sum())
        np.testing.assert_allclose(reference.sparsemax_row(x, everything), nearest, atol=1e-15)


@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0, 2.7, 4.0])
def test_reference_is_the_maximum(alpha: float) -> None:
    """No step along the simplex raises the objective, and bisection agrees with the sort."""
    generator = np.random.default_rng(0)
    for seed in range(5):
        x = rows.normal(6, 1.0, seed).astype(np.float64)
        p = reference.entmax_row(x, np.ones(6, bool), 1.0, alpha)

        def objective(q: Row, x: Row = x) -> float:
            return (q * x).sum() - reference.omega(q, alpha)

        for q in generator.dirichlet(np.full(6, 0.5), 200):
            for step in (1e-3, 0.1, 1.0):
                assert objective((1 - step) * p + step * q) <= objective(p) + 1e-14
        if alpha == 2:
            sort = reference.sparsemax_row(x, np.ones(6, bool))
            np.testing.assert_allclose(p, sort, atol=1e-15)


# --- values ----------------------------------------------------------------------------------


def test_closed_forms_of_two_entries() -> None:
    """Of a difference d: (1 + d) / 2, and the squares of two numbers that differ by d / 2."""
    d = np.linspace(-1.9, 1.9, 77)
    x = np.stack([d, np.zeros_like(d)], -1).astype(np.float32)
    np.testing.assert_allclose(sparsemax(x)[:, 0], np.clip((1 + d) / 2, 0, 1), atol=2e-7)
    root = d / 4 + np.sqrt(2 - d**2 / 4) / 2
    np.testing.assert_allclose(entmax(x)[:, 0], np.minimum(root, 1) ** 2 * (d > -2), atol=4e-7)


@pytest.mark.parametrize("length", [1, 2, 7, 128, 1025, 4097])
def test_agrees_with_bisection(length: int) -> None:
    names, family = rows.stacked(length)
    compiled = jax.jit(lambda alpha: entmax(family, alpha=alpha))
    for alpha in ALPHAS:
        want = reference.over_rows(reference.entmax_row, family, 1.0, np.float32(alpha))
        results = [compiled(np.float32(alpha))]
        if alpha in FIXED:
            results.append(FIXED[alpha](family))
        # Beyond 2 the slope is unbounded where an entry enters the support.
        atol = 1e-6 if alpha <= 2 else 1e-5
        for got in results:
            np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=f"{alpha} {names}")
            sums = np.asarray(got, np.float64).sum(-1)
            np.testing.assert_allclose(sums[:-1], 1, atol=4e-6)


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_flat_rows_keep_their_relative_accuracy(alpha: float) -> None:
    """Probabilities of 1e-5 whose logits differ by less than that."""
    x = (1e-6 * np.random.default_rng(0).standard_normal((2, 65536))).astype(np.float32)
    want = reference.over_rows(reference.entmax_row, x, 1.0, alpha)
    np.testing.assert_allclose(FIXED[alpha](x), want, rtol=1e-5)
    np.testing.assert_allclose(traced(x, alpha), want, rtol=1e-5)


@pytest.mark.parametrize("length", [1100, 4096, 131072])
def test_a_large_support_beside_a_dominant_entry_sums_to_one(length: int) -> None:
    x = np.random.default_rng(0).uniform(0, 1e-6, (2, length)).astype(np.float32)
    x[:, 0] = [0.9, 0.5]
    p = np.asarray(jax.jit(sparsemax)(x), np.float64)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
    assert ((p > 0).sum(-1) > length / 2).any()


def test_in_float64() -> None:
    with jax.enable_x64(True):
        x = np.stack([rows.normal(50, scale, seed=4) for scale in (0.1, 1.0, 5.0)])
        x = x.astype(np.float64)
        for alpha in ALPHAS:
            want = reference.over_rows(reference.entmax_row, x, 1.0, alpha)
            atol = 1e-14 if alpha <= 2 else 1e-11
            np.testing.assert_allclose(traced(x, alpha), want, atol=atol, rtol=0)
            if alpha in FIXED:
                np.testing.assert_allclose(FIXED[alpha](x), want, atol=atol, rtol=0)


@pytest.mark.parametrize("alpha", [1.5, 2.0])
@pytest.mark.parametrize("scale", [0.03, 0.1, 0.3])
def test_the_support_is_that_of_its_own_threshold(alpha: float, scale: float) -> None:
    """Many rows with hundreds in the support, where a threshold of a support nearby is 1e-8 off."""
    with jax.enable_x64(True):
        x = scale * np.random.default_rng(5).standard_normal((300, 1000))
        p = FIXED[alpha](x)
        np.testing.assert_allclose(p.sum(-1), 1, rtol=0, atol=1e-13)
        want = reference.over_rows(reference.entmax_row, x, 1.0, alpha)
        np.testing.assert_allclose(p, want, atol=1e-14, rtol=0)


def test_continuous_as_alpha_tends_to_one() -> None:
    x = rows.normal(300, 2.0).reshape(3, 100)
    limit = np.asarray(softmax(x), np.float64)
    np.testing.assert_allclose(traced(x, 1.0), limit, rtol=4e-6)
    distances = [
        float(np.abs(np.asarray(traced(x, 1 + step), np.float64) - limit).max())
        for step in (1e-2, 1e-3, 1e-4, 1e-5)
    ]
    # The distance is proportional to the step, down to rounding.
    for step, distance in zip((1e-2, 1e-3, 1e-4, 1e-5), distances, strict=True):
        assert distance <= 5 * step + 4e-7, distances
    assert distances[0] > 1e-3


def test_a_constant_added_to_the_logits_changes_nothing() -> None:
    x = (np.round(rows.normal(200, 1.0) * 64) / 64).reshape(2, 100)
    for function in (sparsemax, entmax, functools.partial(traced, alpha=1.3)):
        chex.assert_trees_all_equal(function(x), function(x + 512), function(x - 512))


def test_order_of_the_entries_does_not_matter() -> None:
    x = rows.normal(1025, 1.0)
    order = np.random.default_rng(0).permutation(1025)
    for function in (sparsemax, entmax, functools.partial(traced, alpha=2.5)):
        np.testing.assert_allclose(function(x[order]), np.asarray(function(x))[order], atol=1e-6)


def test_support_shrinks_with_alpha_and_grows_with_temperature() -> None:
    x = np.broadcast_to(rows.normal(1000, 1.0), (4, 1000))
    by_alpha = (entmax(x, alpha=np.array([1.2, 1.5, 2.0, 3.0])) > 0).sum(-1)
    assert (np.diff(by_alpha) < 0).all(), by_alpha
    by_temperature = (sparsemax(x, temperature=np.array([0.5, 1.0, 2.0, 8.0])) > 0).sum(-1)
    assert (np.diff(by_temperature) > 0).all(), by_temperature


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype: str) -> None:
    x = jnp.asarray(rows.normal(3000, 1.0).reshape(3, 1000), dtype)
    for function in (sparsemax, entmax, functools.partial(entmax, alpha=jnp.float32(1.25))):
        wide = function(x.astype(jnp.float32)).astype(x.dtype)
        chex.assert_trees_all_equal(function(x), wide)


# --- settings --------------------------------------------------------------------------------


def test_alpha_out_of_range() -> None:
    x = rows.normal(6, 1.0).reshape(2, 3)
    for function in (
        entmax,
        functools.partial(jsoftmax.fenchel_young_loss, labels=jnp.zeros(2, int)),
    ):
        for bad in (0.5, 0, 4.1, -1.5, np.inf, np.array([1.5, 5.0])):
            with pytest.raises(ValueError, match=r"alpha must be a number in \[1, 4\]"):
                function(x, alpha=bad)
        with pytest.raises(TypeError, match="alpha must be real numbers"):
            function(x, alpha=True)
    for bad in (0.99, 4.01, -1.0, INF, -INF, np.nan):
        got = np.asarray(jax.jit(lambda a: entmax(x, alpha=a))(jnp.array([bad, 1.3])))
        assert np.isnan(got[0]).all()
        np.testing.assert_array_equal(got[1], traced(x, 1.3)[1])


def test_each_row_has_its_own_alpha() -> None:
    x = np.broadcast_to(rows.normal(40, 1.0), (len(ALPHAS), 40))
    want = reference.over_rows(reference.entmax_row, x, 1.0, np.float32(ALPHAS))
    np.testing.assert_allclose(entmax(x, alpha=np.float32(ALPHAS)), want, atol=2e-6)


# --- derivatives -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alphas", [(1.05, 1.5), (1.2, 2.0), (1.8, 2.4), (3.0, 1.1)], ids=lambda a: f"{a[0]}-{a[1]}"
)
@pytest.mark.slow
def test_check_grads_to_third_order(alphas: tuple[float, float]) -> None:
    """Numerical differences of each order in logits, temperature and alpha, with a masked entry."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)))
        where = jnp.array([[True, True, False, True, True], [True] * 5])
        arguments = x, jnp.array([0.8, 1.7]), jnp.array(alphas)
        function = jax.jit(lambda x, t, alpha: entmax(x, temperature=t, alpha=alpha, where=where))
        check_grads(function, arguments, order=3, modes=("fwd",), rtol=1e-5, atol=1e-5)
        check_grads(function, arguments, order=2, modes=("rev",), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [sparsemax, entmax])
def test_check_grads_of_the_closed_forms(function: Any) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)))
        where = jnp.array([[True, True, False, True, True], [True] * 5])
        arguments = x, jnp.array([0.8, 1.7])
        settled = jax.jit(lambda x, t: function(x, temperature=t, where=where))
        check_grads(settled, arguments, order=3, modes=("fwd",), rtol=1e-5, atol=1e-5)
        check_grads(settled, arguments, order=2, modes=("rev",), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 1.3, 1.5, 2.0, 2.5])
def test_jacobian(alpha: float) -> None:
    """diag(s) - s s^T / sum s with s = p^(2 - alpha) on the support."""
    x = jnp.asarray(rows.normal(12, 0.7))
    p = reference.over_rows(reference.entmax_row, x, 1.0, np.float32(alpha))
    s = np.where(p > 0, np.where(p > 0, p, 1) ** (2 - np.float32(alpha)), 0)
    want = np.diag(s) - np.outer(s, s) / s.sum()
    functions = [functools.partial(traced, alpha=alpha)]
    functions += [FIXED[alpha]] if alpha in FIXED else []
    for function, mode in itertools.product(functions, (jax.jacfwd, jax.jacrev)):
        np.testing.assert_allclose(mode(function)(x), want, rtol=1e-4, atol=2e-6)


def test_derivative_by_alpha_near_one() -> None:
    """Against one-sided differences in float64; the plain formula has 1 / (alpha - 1)^2."""
    with jax.enable_x64(True):
        x = jnp.asarray(rows.normal(8, 1.0), jnp.float64)
        function = jax.jit(lambda alpha: entmax(x, alpha=alpha))
        slope = jax.jit(jax.jacfwd(function))
        step = 1e-4
        for alpha in (1.0, 1 + 1e-12, 1 + 1e-7, 1.001, 1.05):
            values = [np.asarray(function(jnp.float64(alpha + i * step))) for i in range(4)]
            want = (-11 * values[0] + 18 * values[1] - 9 * values[2] + 2 * values[3]) / (6 * step)
            np.testing.assert_allclose(slope(jnp.float64(alpha)), want, atol=1e-9)
            single = jax.jacfwd(lambda a: entmax(x.astype(jnp.float32), alpha=a))
            np.testing.assert_allclose(single(jnp.float32(alpha)), want, atol=2e-6)


def test_second_derivative_by_alpha_at_one() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(rows.normal(8, 1.0), jnp.float64)
        slope = jax.jit(jax.jacfwd(lambda alpha: entmax(x, alpha=alpha)))
        step = 1e-4
        values = [np.asarray(slope(jnp.float64(1 + i * step))) for i in range(4)]
        want = (-11 * values[0] + 18 * values[1] - 9 * values[2] + 2 * values[3]) / (6 * step)
        second = jax.jacfwd(jax.jacfwd(lambda alpha: entmax(x, alpha=alpha)))(jnp.float64(1.0))
        np.testing.assert_allclose(second, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("alpha", [1.5, 2.0, None], ids=str)
def test_holes_and_empty_rows_have_zero_derivatives(alpha: float | None) -> None:
    x = jnp.array([[0.3, -INF, 1.0, -0.5], [-INF] * 4, [1.0, np.nan, INF, -INF]])
    where = np.array([[True, True, True, False], [True] * 4, [False] * 4])

    def total(x: jax.Array, temperature: jax.Array, order: jax.Array) -> jax.Array:
        order = order if alpha is None else alpha
        p = entmax(x, where=where, temperature=temperature, alpha=order)
        return (p * jnp.arange(4.0)[None]).sum()

    gradient = jax.grad(total, (0, 1, 2))
    both = jax.jit(lambda *a: (gradient(*a), jax.jacfwd(gradient, (0, 1, 2))(*a)))
    for temperature in (1.0, 0.0, INF):
        arguments = x, jnp.full(3, temperature), jnp.array([1.0, 1.4, 3.0])
        first, second = both(*arguments)
        chex.assert_tree_all_finite((first, second))
        np.testing.assert_array_equal(np.asarray(first[0])[[0, 0, 1, 2], [1, 3, 0, 2]], 0)
        np.testing.assert_array_equal(np.asarray(first[1])[1:], 0)
        np.testing.assert_array_equal(np.asarray(first[0])[1:], 0)
        if temperature != 1:
            np.testing.assert_array_equal(first[0], 0)


def test_the_gradient_of_short_rows_is_rounded_a_few_times() -> None:
    """The mean of ten numbers, added up one after another, has 1.24 of these units in such rows."""
    random = np.random.default_rng(3)
    x, g = (random.normal(size=(20_000, 10)).astype(np.float32) for _ in range(2))
    wide = g.astype(np.float64)
    unit = np.abs(wide) + np.abs(wide).mean(-1, keepdims=True)
    (got,) = jax.jit(lambda x, g: jax.vjp(sparsemax, x)[1](g))(x * np.float32(1e-3), g)
    errors = np.abs(np.asarray(got) - (wide - wide.mean(-1, keepdims=True))) / unit
    assert errors.max() < 1.0 * 2.0**-23


@pytest.mark.parametrize("length", [1023, 1024, 3000])
def test_gradients_of_long_rows(length: int) -> None:
    random = np.random.default_rng(length)
    x, g = (random.normal(size=(3, length)).astype(np.float32) for _ in range(2))
    inside = np.asarray(sparsemax(x, temperature=50.0)) > 0
    assert inside.sum(-1).min() > 100
    mean = np.mean(g, -1, dtype=np.float64, keepdims=True, where=inside)
    want = np.where(inside, g - mean, 0) / 50
    _, pull = jax.vjp(lambda x: sparsemax(x, temperature=50.0), x)
    _, pushed = jax.jvp(lambda x: sparsemax(x, temperature=50.0), (x,), (g,))
    np.testing.assert_allclose(pull(g)[0], want, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(pushed, want, rtol=1e-5, atol=1e-8)


def test_rows_of_the_gradient_sum_to_zero() -> None:
    x = jnp.asarray(rows.normal(512, 1.0).reshape(4, 128))
    weight = jnp.asarray(rows.normal(512, 1.0, seed=9).reshape(4, 128))
    for function in (sparsemax, entmax, functools.partial(traced, alpha=2.5)):
        gradient = jax.grad(lambda x, f=function: (f(x) * weight).sum())(x)
        assert float(jnp.abs(gradient).max()) > 0.01
        np.testing.assert_allclose(np.asarray(gradient).sum(-1), 0, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_backward_pass_keeps_the_output_and_nothing_else_of_its_size(dtype: str) -> None:
    x, setting = jnp.zeros((3, 257), dtype), jnp.full(3, 1.3)
    for function, settings in (
        (lambda x: sparsemax(x), ()),
        (lambda x: entmax(x), ()),
        (lambda x, t, a: entmax(x, temperature=t, alpha=a), (setting, setting)),
    ):
        kept = jax.tree.leaves(jax.jit(lambda *a, f=function: jax.vjp(f, *a)[1])(x, *settings))
        large = [leaf for leaf in kept if leaf.size >= x.size]
        assert [(leaf.shape, leaf.dtype) for leaf in large] == [(x.shape, x.dtype)]


def test_a_product_with_masked_weights_keeps_the_same_array() -> None:
    """What the rule keeps is what the caller gets, with `where` too: attention holds one array."""
    layers, size = 3, 16
    mask, values = np.tri(size, dtype=bool), jnp.ones((layers, size, size))
    for function in (
        softmax,
        sparsemax,
        entmax,
        functools.partial(entmax, alpha=1),
        functools.partial(entmax, alpha=jnp.array(1.3)),
    ):

        def attend(x: jax.Array, v: jax.Array, f: Any = function) -> tuple[jax.Array, None]:
            return f(x @ x.T, where=mask) @ (x * v[:, :1]), None

        def loss(x: jax.Array, attend: Any = attend) -> jax.Array:
            return jax.lax.scan(attend, x, values)[0].sum()

        text = str(jax.make_jaxpr(jax.grad(loss))(jnp.ones((size, 3))))
        kept = re.findall(r"((?:\S+:\S+\s+)+)= scan\[", text)[0]
        assert kept.count(f"[{layers},{size},{size}]") == 1


# --- cost ------------------------------------------------------------------------------------


def sweeps_of(x: Row, alpha: float, closed: bool) -> int:
    """How many sweeps the batch takes."""
    peak = jnp.max(x, axis=-1, keepdims=True)
    order = alpha if closed else jnp.full((len(x), 1), alpha, jnp.float32)
    _, sweeps = jax.jit(lambda x: solve(x, lambda x: x - peak, peak, order, Along(1)))(x)
    return int(sweeps)


@pytest.mark.slow
def test_thresholds_take_few_sweeps() -> None:
    """On batches of 32 rows, as many as the slowest row takes."""
    for scale, most in ((3.0, 6), (1.0, 9), (0.3, 12)):
        x = rows.normal(32 * 8192, scale).reshape(32, 8192)
        for alpha in (1.5, 2.0):
            assert sweeps_of(x, alpha, closed=True) <= most
        for alpha in (1.1, 1.5, 2.0):
            assert sweeps_of(x, alpha, closed=False) <= most
        assert sweeps_of(x, 3.0, closed=False) <= 30


def test_sweeps_are_few_on_adversarial_rows() -> None:
    """Where a step drops few entries: the distance or the slope halves all the same."""
    length = 4096
    steps = np.arange(length)
    hard = [
        -steps / length,
        -np.sqrt(steps / length),
        -np.geomspace(1e-7, 1, length),
        -1 + np.geomspace(1e-7, 1, length)[::-1],
        -1 / (1 + steps[::-1]),
        np.repeat(-1 + 0.5 ** np.arange(16), length // 16),
    ]
    x = np.stack(hard).astype(np.float32)
    for alpha in (1.5, 2.0):
        assert sweeps_of(x, alpha, closed=True) <= 30
        want = reference.over_rows(reference.entmax_row, x, 1.0, alpha)
        np.testing.assert_allclose(FIXED[alpha](x), want, atol=1e-6)


# --- another implementation ------------------------------------------------------------------


def test_agrees_with_the_entmax_package() -> None:
    torch = pytest.importorskip("torch", reason="torch is no dependency of the tests")
    peer = pytest.importorskip("entmax", reason="entmax is no dependency of the tests")
    x = rows.normal(600, 1.0).reshape(3, 200)
    tensor = torch.from_numpy(x)
    np.testing.assert_allclose(sparsemax(x), peer.sparsemax(tensor, -1), atol=1e-6)
    np.testing.assert_allclose(entmax(x), peer.entmax15(tensor, -1), atol=1e-6)
    got = entmax(x, alpha=jnp.float32(1.3))
    np.testing.assert_allclose(got, peer.entmax_bisect(tensor, 1.3), atol=1e-5)


def test_agrees_with_the_projection_of_optax() -> None:
    optax = pytest.importorskip("optax", reason="optax is no dependency of the tests")
    x = rows.normal(600, 1.0).reshape(3, 200)
    with jax.numpy_dtype_promotion("standard"):
        want = jax.vmap(optax.projections.projection_simplex)(jnp.asarray(x))
    np.testing.assert_allclose(sparsemax(x), want, atol=1e-6)


def test_a_long_row_of_the_largest_numbers_is_sound() -> None:
    x = np.full((2, 1200), np.finfo(np.float32).max)
    x[1, ::2] *= -1
    p = jsoftmax.sparsemax(x)
    np.testing.assert_allclose(p[0], 1 / 1200, rtol=1e-5)
    np.testing.assert_allclose(p[1], np.where(np.arange(1200) % 2, 1 / 600, 0), rtol=1e-5)


def test_entmax_moves_with_alpha_and_temperature() -> None:
    """Against differences of the reference; small probabilities, and the limit alpha = 1."""
    x = 2 * rows.normals(6, 7)
    alpha = np.array([1.0, 1.1, 1.5, 2.0, 2.7, 3.6], np.float32)
    temperature = np.array([1.0, 0.7, 1.3, 2.0, 3.0, 2.5], np.float32)

    def mapped(t: jax.Array, a: jax.Array) -> jax.Array:
        return jsoftmax.entmax(x, temperature=t, alpha=a)

    ones, zeros = np.ones(6, np.float32), np.zeros(6, np.float32)
    of_t, of_a = (
        jax.jvp(mapped, (temperature, alpha), tangents)[1]
        for tangents in ((ones, zeros), (zeros, ones))
    )

    def exact(t_step: float, a_step: float) -> np.ndarray:
        return np.stack(
            [
                reference.entmax_row(
                    row.astype(np.float64), np.ones(7, bool), t + t_step, a + a_step
                )
                for row, t, a in zip(x, temperature.tolist(), alpha.tolist(), strict=True)
            ]
        )

    step = 1e-5
    want = (exact(step, 0) - exact(-step, 0)) / (2 * step)
    np.testing.assert_allclose(of_t, want, rtol=1e-4, atol=1e-5)
    # One-sided: below 1 there is no alpha.
    want = (4 * exact(0, step) - exact(0, 2 * step) - 3 * exact(0, 0)) / (2 * step)
    np.testing.assert_allclose(of_a, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("alpha", [2.5, 3.0])
def test_newton_finds_a_threshold_above_alpha_2_in_few_sweeps(alpha: float) -> None:
    """Bisection takes 25 to 30."""
    x = rows.normals(8, 512)
    peak = jnp.max(x, axis=-1, keepdims=True)
    solved = jax.jit(lambda x, a: solve(x, lambda x: x - peak, peak, a, Along(1))[1])
    assert solved(x, jnp.full((8, 1), alpha, x.dtype)) <= 15


def test_entmax_of_alpha_one_has_a_temperature() -> None:
    x = rows.normals(3, 5)
    got = jsoftmax.entmax(x, alpha=1, temperature=0.5)
    np.testing.assert_allclose(got, reference.softmax_rows(2 * x), rtol=1e-5)
    np.testing.assert_allclose(jsoftmax.entmax(x, alpha=1), reference.softmax_rows(x), rtol=1e-5)
