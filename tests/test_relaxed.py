"""gumbel_softmax: what is drawn, straight-through gradients, limits and edges."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax import gumbel_softmax, softmax
from tests import reference, rows
from tests.statistics import assert_fits

INF = np.inf
DRAWS = 100_000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.slow
def test_hard_draws_follow_the_softmax(dtype: str) -> None:
    """Over a row of 200 with a -inf and a masked entry, whatever the temperature."""
    x = jnp.asarray(rows.normal(200, 1.5), dtype).at[5].set(-INF)
    where = np.arange(200) != 9
    many = jnp.broadcast_to(x, (DRAWS // 10, 200))
    probability = reference.softmax_row(np.asarray(x, np.float64), where)
    draw = jax.jit(lambda key, t: gumbel_softmax(key, many, temperature=t, hard=True, where=where))
    for temperature in (1.0, 0.1, 0.0, INF):
        counts = np.zeros(200)
        for seed in range(10):
            drawn = np.asarray(draw(jax.random.key(seed), temperature), np.float32)
            assert set(np.unique(drawn)) == {0.0, 1.0}
            np.testing.assert_array_equal(drawn.sum(-1), 1)
            counts += drawn.sum(0)
        assert_fits(counts, probability, f"{dtype} {temperature}")


def test_bfloat16_draws_are_not_biased() -> None:
    """Uniform over 4096: noise in bfloat16 would draw the first of equal maxima."""
    x = jnp.zeros((2000, 4096), jnp.bfloat16)
    token = jnp.argmax(gumbel_softmax(jax.random.key(0), x, hard=True), -1)
    standard_error = 4096 / np.sqrt(12 * 2000)
    assert abs(float(token.mean()) - 2047.5) < 5 * standard_error


@pytest.mark.slow
def test_rare_entries_are_drawn_as_often_as_they_should_be() -> None:
    """5e-5 of the mass, on 50 entries of 1e-6 each."""
    x = jnp.concatenate([jnp.full(50, jnp.log(1e-6)), jnp.zeros(1)])
    many = jnp.broadcast_to(x, (100_000, 51))
    draw = jax.jit(lambda key: (jnp.argmax(gumbel_softmax(key, many, hard=True), -1) < 50).sum())
    rare = sum(int(draw(jax.random.key(seed))) for seed in range(20))
    expected = 2_000_000 * 5e-5
    assert abs(rare - expected) < 5 * np.sqrt(expected)


def test_soft_draws_are_a_softmax_and_share_the_largest_with_hard_ones(key: jax.Array) -> None:
    x = rows.normal(600, 1.0).reshape(6, 100)
    for temperature in (0.3, 1.0, 3.0):
        soft = gumbel_softmax(key, x, temperature=temperature)
        np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-5)
        hard = gumbel_softmax(key, x, temperature=temperature, hard=True)
        np.testing.assert_array_equal(jnp.argmax(soft, -1), jnp.argmax(hard, -1))
        # log y is (x + g) / T but for a constant: another T is a power, renormalised.
        again = softmax(temperature * jnp.log(soft), temperature=1.0)
        np.testing.assert_allclose(again, gumbel_softmax(key, x), rtol=1e-3, atol=1e-6)


def test_limits_of_temperature(key: jax.Array) -> None:
    x = jnp.asarray(rows.normal(60, 1.0).reshape(3, 20)).at[:, 3].set(-INF)
    one_hot = gumbel_softmax(key, x, hard=True)
    np.testing.assert_array_equal(gumbel_softmax(key, x, temperature=0.0), one_hot)
    np.testing.assert_allclose(
        gumbel_softmax(key, x, temperature=INF), (np.arange(20) != 3) / 19 * np.ones((3, 1))
    )
    for hard in (False, True):
        for temperature in (0.0, INF):
            gradient = jax.grad(
                lambda x, t, hard=hard: (
                    gumbel_softmax(key, x, temperature=t, hard=hard)
                    * jnp.arange(20, dtype=x.dtype)[None]
                ).sum(),
                (0, 1),
            )(x, jnp.full(3, temperature, x.dtype))
            chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))


def test_hard_draws_have_the_gradient_of_the_relaxed_ones(key: jax.Array) -> None:
    x, weight = jnp.asarray(rows.normal(40, 1.0)), jnp.asarray(rows.normal(40, 1.0, seed=1))

    def total(x: jax.Array, t: jax.Array, hard: bool) -> jax.Array:
        return (gumbel_softmax(key, x, temperature=t, hard=hard) * weight).sum()

    arguments = x, jnp.float32(0.7)
    soft, hard = (jax.grad(total, (0, 1))(*arguments, hard) for hard in (False, True))
    chex.assert_trees_all_close(soft, hard, rtol=1e-6)
    assert float(jnp.abs(hard[0]).max()) > 0.01
    assert float(jnp.abs(hard[1])) > 0.01
    tangents = jnp.ones(40, x.dtype) * weight, jnp.float32(1)
    forward = [jax.jvp(lambda *a, h=h: total(*a, h), arguments, tangents)[1] for h in (False, True)]
    np.testing.assert_allclose(forward[0], forward[1], rtol=1e-5)
    numerical = (total(x, jnp.float32(0.705), False) - total(x, jnp.float32(0.695), False)) / 0.01
    np.testing.assert_allclose(soft[1], numerical, rtol=1e-2)


@pytest.mark.parametrize("offset", [1e6, -1e8])
def test_logits_far_from_zero(offset: float) -> None:
    """A sum with the noise would round that away: then the first of those that tie is drawn."""
    x, keys = jnp.arange(4.0) + offset, jax.random.split(jax.random.key(0), 64)
    draws = [
        jax.vmap(lambda key, x=x: gumbel_softmax(key, x, hard=True))(keys) for x in (x, x - offset)
    ]
    np.testing.assert_array_equal(*draws)
    cold = jax.vmap(lambda key: gumbel_softmax(key, jnp.full(50, offset), temperature=0.0))(keys)
    assert (cold.max(-1) == 1).all()


def test_entries_that_tie_do_not_share_a_cold_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.random, "gumbel", lambda _, shape, dtype, **__: jnp.zeros(shape, dtype))
    for cold in (0.0, jnp.float32(0)):
        y = gumbel_softmax(jax.random.key(0), jnp.array([1.0, 2.0, 2.0]), temperature=cold)
        np.testing.assert_array_equal(y, [0, 1, 0])


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_edges(key: jax.Array, hard: bool, dtype: str) -> None:
    x = jnp.array([[1.0, 2.0, -INF, 0.5], [np.nan, 1, 2, 3], [-INF] * 4, [1.0, INF, 0, 0]], dtype)
    where = np.array([[True, True, True, False], [True] * 4, [True] * 4, [True] * 4])
    got = gumbel_softmax(key, x, hard=hard, where=where)
    assert got.dtype == x.dtype
    values = np.asarray(got, np.float32)
    np.testing.assert_array_equal(values[0, 2:], 0)
    np.testing.assert_allclose(values[0].sum(), 1, rtol=1e-2)
    np.testing.assert_array_equal(values[2], 0)
    assert np.isnan(values[[1, 3]]).all()
    filled = gumbel_softmax(key, jnp.where(where, x, jnp.nan), hard=hard, where=where)
    np.testing.assert_array_equal(np.asarray(filled, np.float32), values)
    gradient = jax.grad(
        lambda x: (
            (gumbel_softmax(key, x, hard=hard, where=where) ** 2)[::2].astype(jnp.float32).sum()
        )
    )(x)
    chex.assert_tree_all_finite(gradient[::2])
    np.testing.assert_array_equal(np.asarray(gradient[0, 2:], np.float32), 0)
    bad = jax.jit(lambda t: gumbel_softmax(key, x[:1], temperature=t, hard=hard))(-1.0)
    assert np.isnan(np.asarray(bad, np.float32)).all()
    assert gumbel_softmax(key, jnp.zeros((2, 0)), hard=hard).shape == (2, 0)


def test_any_axis_gives_the_same_draw(key: jax.Array) -> None:
    x = rows.normal(60, 1.0).reshape(3, 4, 5)
    want = gumbel_softmax(key, x)
    for axis in (0, 1):
        got = gumbel_softmax(key, np.moveaxis(x, -1, axis), axis=axis)
        np.testing.assert_allclose(np.moveaxis(np.asarray(got), axis, -1), want, rtol=1e-6)


def test_in_float64(key: jax.Array) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(rows.normal(30, 1.0), jnp.float64)
        soft = gumbel_softmax(key, x, temperature=0.5)
        assert soft.dtype == jnp.float64
        np.testing.assert_allclose(soft.sum(), 1, rtol=1e-14)
        assert gumbel_softmax(key, x.astype(jnp.float32)).dtype == jnp.float32


def test_changing_the_temperature_does_not_recompile(key: jax.Array) -> None:
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def draw(t: float) -> jax.Array:
        return gumbel_softmax(key, jnp.zeros(5), temperature=t, hard=True)

    for t in (0.5, 1.0, 2.0):
        draw(t)


def test_errors(key: jax.Array) -> None:
    x = rows.normal(6, 1.0).reshape(2, 3)
    for bad in (1, "yes", None, jnp.array(True)):
        with pytest.raises(TypeError, match="gumbel_softmax: hard must be True or False"):
            gumbel_softmax(key, x, hard=bad)
    with pytest.raises(ValueError, match="gumbel_softmax: temperature must be"):
        gumbel_softmax(key, x, temperature=-1)
    with pytest.raises(TypeError, match="gumbel_softmax: key must be"):
        gumbel_softmax(0, x)
    with pytest.raises(TypeError, match="gumbel_softmax: where must be boolean"):
        gumbel_softmax(key, x, where=np.ones(3))
