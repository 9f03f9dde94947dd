"""What a change could break unseen: lines that no quick test ran, and mutants that lived."""

import inspect
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax
from jsoftmax import calibration, plot
from jsoftmax._blocks import block_max, block_sum, blocks_of
from jsoftmax._reduce import row_cumsum
from jsoftmax._sparse_root import solve
from jsoftmax._typing import Along
from tests import reference
from tests.mutation.tests_of import TESTS_OF


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x.astype(np.float64))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("axis", [True, np.False_], ids=repr)
def test_a_truth_value_is_no_axis(axis: bool) -> None:
    with pytest.raises(TypeError, match=r"softmax: axis must be an integer, got"):
        jsoftmax.softmax(numbers(2, 3), axis)


@pytest.mark.parametrize("size", [True, np.True_], ids=repr)
def test_a_truth_value_is_no_count(size: bool) -> None:
    with pytest.raises(TypeError, match="block_size must be an integer or None, got"):
        jsoftmax.linear_cross_entropy(
            numbers(2, 3), numbers(3, 5), np.array([0, 1]), block_size=size
        )


def test_an_array_of_words_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="softmax: logits must be an array of numbers"):
        jsoftmax.softmax(np.array(["one", "two"]))


def test_a_fill_is_one_number() -> None:
    x, mask = numbers(3), np.array([True, False, True])
    for seven in (7.0, 7, np.float32(7), jnp.float32(7)):
        filled = jsoftmax.mask_logits(x, mask, fill=seven)
        np.testing.assert_array_equal(filled, np.where(mask, x, np.float32(7)))
    with pytest.raises(ValueError, match=r"fill must be a single number, got shape \(3,\)"):
        jsoftmax.mask_logits(x, mask, fill=numbers(3))


def test_divergence_moves_with_either_side_alone() -> None:
    x, y = numbers(3, 5), numbers(3, 5, seed=1)
    p, q = softmax(x), softmax(y)
    log_ratio = np.log(p) - np.log(q)
    kl = (p * log_ratio).sum(-1, keepdims=True)
    of_x, of_y = (
        jax.grad(lambda x, y: jsoftmax.kl_divergence(x, y).sum(), i)(x, y) for i in (0, 1)
    )
    np.testing.assert_allclose(of_x, p * (log_ratio - kl), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_y, q - p, rtol=1e-4, atol=1e-6)


def test_fitted_temperature_moves_with_the_weights_alone() -> None:
    """As with weights and logits together: each term of the rule is there without the other."""
    x = 3 * numbers(40, 4)
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


@pytest.mark.parametrize("kind", ["label", "distribution"])
def test_a_fenchel_young_loss_moves_with_alpha(kind: str) -> None:
    x = numbers(4, 6)
    target = np.array([0, 5, 2, 2]) if kind == "label" else softmax(numbers(4, 6, seed=1))
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
    x, y = numbers(3, 5), softmax(numbers(3, 5, seed=1)).astype(np.float32)
    for alpha in (1.5, jnp.float32(1.3)):
        got = jax.grad(lambda y, a=alpha: jsoftmax.fenchel_young_loss(x, y, alpha=a).sum())(y)
        kappa = float(alpha) - 1
        want = (y**kappa - 1) / kappa - x
        got, want = (np.asarray(g) - np.asarray(g).mean(-1, keepdims=True) for g in (got, want))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_temperature_is_fitted_on_an_explicit_mesh() -> None:
    """Examples and classes split: labels are looked up and examples grouped without indexing."""
    x = 3 * numbers(32, 4)
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


def test_pictures_need_matplotlib_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        runpy.run_path(inspect.getfile(plot))


@pytest.mark.parametrize("setting", ["label_smoothing", "z_loss"])
def test_minus_one_is_not_off(setting: str) -> None:
    with pytest.raises(ValueError, match=f"cross_entropy: {setting} must be .*, got {setting}=-1"):
        jsoftmax.cross_entropy(numbers(5), 2, **{setting: -1})


def test_a_long_row_of_the_largest_numbers_is_sound() -> None:
    x = np.full((2, 1200), np.finfo(np.float32).max)
    x[1, ::2] *= -1
    p = jsoftmax.sparsemax(x)
    np.testing.assert_allclose(p[0], 1 / 1200, rtol=1e-5)
    np.testing.assert_allclose(p[1], np.where(np.arange(1200) % 2, 1 / 600, 0), rtol=1e-5)


def test_entmax_moves_with_alpha_and_temperature() -> None:
    """Against differences of the reference; small probabilities, and the limit alpha = 1."""
    x = 2 * numbers(6, 7)
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


@pytest.mark.parametrize("scale", [np.finfo(np.float32).tiny, 2.0**-60, 2.0**100], ids=str)
def test_top_n_sigma_has_no_scale(scale: float) -> None:
    x = np.array([1, 2, 3, 4, 10], np.float32)
    kept = jsoftmax.top_n_sigma_mask(x * np.float32(scale), 2.2)
    np.testing.assert_array_equal(kept, [False, False, False, True, True])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_weighs_all_entries_alike_has_no_gradient(dtype: str) -> None:
    """Though the rounded probabilities of a row do not sum to one."""
    x = jnp.asarray(numbers(8, 300), dtype)
    moved = jax.grad(lambda x: (1000 * jsoftmax.softmax(x).astype(jnp.float32)).sum())(x)
    assert np.abs(np.asarray(moved, np.float32)).max() < 1e-4


@pytest.mark.parametrize("alpha", [2.5, 3.0])
def test_newton_finds_a_threshold_above_alpha_2_in_few_sweeps(alpha: float) -> None:
    """Bisection takes 25 to 30."""
    x = numbers(8, 512)
    z = jnp.asarray(x - x.max(-1, keepdims=True))
    solved = jax.jit(lambda z, a: solve(z, jnp.zeros((8, 1)), a, Along(1))[1])
    assert solved(z, jnp.full((8, 1), alpha)) <= 15


@pytest.mark.parametrize("shards", [1, 4, 8])
@pytest.mark.parametrize("size", [1, 127, 4096, 9001, 151936])
def test_blocks_are_few_and_hold_the_row(size: int, shards: int) -> None:
    blocks = blocks_of(size, shards)
    assert blocks.parts * blocks.part == size
    assert blocks.length >= 128
    assert blocks.number * shards <= 72
    assert blocks.number * blocks.length >= size
    places = np.asarray(blocks.of(jnp.arange(size)))
    assert places[0] == 0
    assert places[-1] == blocks.number - 1
    assert set(np.diff(places)) <= {0, 1}


@pytest.mark.parametrize("name", ["confidence", "accuracy"])
@pytest.mark.parametrize("bad", [-0.5, 1.01])
def test_a_diagram_refuses_what_is_no_share(name: str, bad: float) -> None:
    arrays = {
        "edges": np.array([0.0, 0.5, 1.0]),
        "confidence": np.array([0.3, 0.8]),
        "accuracy": np.array([0.2, 0.9]),
        "weight": np.array([0.5, 0.5]),
    }
    arrays[name] = np.array([0.3, bad])
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\] where weight > 0"):
        plot.reliability_diagram(calibration.ReliabilityCurve(**arrays))


@pytest.mark.parametrize("kind", ["label", "distribution"])
def test_smoothing_has_its_share_of_the_gradient(kind: str) -> None:
    x = numbers(4, 6)
    mass = np.eye(6)[[0, 5, 2, 2]] if kind == "label" else softmax(numbers(4, 6, seed=1))
    target = np.array([0, 5, 2, 2]) if kind == "label" else mass.astype(np.float32)
    where = np.arange(6) != 4
    mass = np.where(where, mass, 0)
    given = np.where(where, target, 0) if kind == "distribution" else target
    got = jax.grad(
        lambda x: jsoftmax.cross_entropy(x, given, where=where, label_smoothing=0.3).sum()
    )(x)
    p = softmax(np.where(where, x, -np.inf))
    total = mass.sum(-1, keepdims=True)
    want = 0.7 * (p * total - mass) + 0.3 * (p - where / 5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(16,), (2, 3, 16)], ids=str)
def test_prefix_sums_over_shards_at_any_rank(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 9, shape).astype(np.int32)
    mesh = jax.make_mesh((4,), ("vocab",), (AxisType.Auto,))
    rows = P(*[None] * (len(shape) - 1), "vocab")
    summed = jax.shard_map(
        lambda x: row_cumsum(x, Along(len(shape) - 1, ("vocab",))),
        mesh=mesh,
        in_specs=rows,
        out_specs=(rows, P()),
    )
    prefix, total = jax.jit(summed)(x)
    np.testing.assert_array_equal(prefix, np.cumsum(x, -1))
    np.testing.assert_array_equal(total, x.sum(-1, keepdims=True))


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_blocks_are_summed_at_any_rank(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(*arguments: Any, default: Any = None, **branches: Any) -> Any:
        return branches.get(platform, default)(*arguments)

    monkeypatch.setattr(lax, "platform_dependent", choose)
    for shape in ((2064,), (2, 3, 2064)):
        x = np.random.default_rng(0).integers(-9, 9, shape).astype(np.float32)
        parts = x.reshape(*shape[:-1], 8, 258)
        sums = np.add.reduceat(parts, [0, 128, 256], -1).reshape(*shape[:-1], 24)
        np.testing.assert_array_equal(jax.jit(block_sum)(x), sums)
        most = np.maximum.reduceat(x, np.arange(0, 2064, 1000), -1)
        np.testing.assert_array_equal(jax.jit(lambda x: block_max(x, 1000))(x), most)


def test_measures_of_calibration_take_fifteen_bins() -> None:
    measures = (
        calibration.reliability_curve,
        calibration.expected_calibration_error,
        calibration.maximum_calibration_error,
    )
    assert {inspect.signature(f).parameters["bins"].default for f in measures} == {15}


def test_gradients_of_a_linear_loss_add_up_over_blocks() -> None:
    hidden, weight = jnp.asarray(numbers(3, 4)), jnp.asarray(numbers(4, 8, seed=1))
    labels = np.array([0, 7, 3])

    def dense(cap: jax.Array, temperature: jax.Array) -> jax.Array:
        x = cap[:, None] * jnp.tanh(hidden @ weight / cap[:, None])
        return jsoftmax.cross_entropy(x, labels, temperature=temperature).sum()

    def by_blocks(cap: jax.Array, temperature: jax.Array) -> jax.Array:
        return jsoftmax.linear_cross_entropy(
            hidden, weight, labels, logit_softcap=cap, temperature=temperature, block_size=3
        ).sum()

    at = jnp.array([1.0, 2.0, 5.0]), jnp.array([0.7, 1.0, 1.5])
    got, want = (jax.jit(jax.grad(function, (0, 1)))(*at) for function in (by_blocks, dense))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("length", [40, 1200])
def test_nearly_equal_entries_in_float64(length: int) -> None:
    with jax.enable_x64(True):
        x = -np.geomspace(2.0**-22, 2.0**-11, length)
        x[0] = 0
        want = np.log1p(np.expm1(x).sum() / length) + np.log(length)
        got = jsoftmax.logsumexp(x)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=1e-15)


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


def test_entmax_of_alpha_one_has_a_temperature() -> None:
    x = numbers(3, 5)
    got = jsoftmax.entmax(x, alpha=1, temperature=0.5)
    np.testing.assert_allclose(got, softmax(2 * x), rtol=1e-5)
    np.testing.assert_allclose(jsoftmax.entmax(x, alpha=1), softmax(x), rtol=1e-5)


def test_mutants_of_every_module_meet_tests() -> None:
    """But of those that hold names alone."""
    modules = {path.stem for path in Path(jsoftmax.__file__).parent.glob("*.py")}
    assert set(TESTS_OF) == modules - {"__init__", "_typing", "plot"}
