"""The parts of the engine: sweeps, windows, draws in groups; and how few sweeps a search takes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jsoftmax
from jsoftmax._draw import pick
from jsoftmax._kept import keep, truncate
from jsoftmax._row import Settings, row_of
from jsoftmax._sweep import largest, sweep
from jsoftmax._typing import Along
from jsoftmax._window import largest as window_of
from tests import real_logits, rows

LENGTHS = [1, 63, 1023, 1024, 1025, 4097, 8192]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("axis", [-1, 0])
def test_a_sweep_gives_what_separate_reductions_give(length: int, axis: int) -> None:
    x = np.stack([rows.normal(length, 3.0, seed) for seed in range(3)])
    x = x if axis == -1 else x.T

    @jax.jit
    def swept(x: jax.Array) -> list[jax.Array]:
        positive = jnp.where(x > 0, x, -jnp.inf)
        return sweep([jnp.exp(x), (x > 1).astype(x.dtype)], [positive], [x, -x], axis)

    wide = x.astype(np.float64)
    want = [np.exp(wide).sum(axis), (x > 1).sum(axis), None, x.min(axis), (-x).min(axis)]
    want[2] = np.where(x > 0, x, -np.inf).max(axis)
    for got, reference in zip(swept(x), want, strict=True):
        np.testing.assert_allclose(np.squeeze(got, axis), reference, rtol=3e-7)


@pytest.mark.parametrize("length", LENGTHS[2:])
def test_the_largest_entry_keeps_nan(length: int) -> None:
    x = np.tile(rows.normal(length, 1.0), (64, 1))
    place = np.linspace(0, length - 1, 64).astype(int)
    x[np.arange(64), place] = np.nan
    got = np.asarray(jax.jit(lambda x: largest(x, -1))(x))
    assert (np.isnan(got) | (got == np.inf)).all()


@pytest.mark.parametrize("length", [1, 50, 64, 65, 2048, 2049, 5000])
def test_a_window_holds_the_largest_entries(length: int) -> None:
    kinds = [rows.normal(length, 3.0), rows.bf16(rows.normal(length, 0.5)), np.zeros(length)]
    kinds += [np.sort(rows.normal(length, 1.0)), np.where(np.arange(length) < 3, 1, -np.inf)]
    x = np.stack(kinds).astype(np.float32)
    window = jax.jit(window_of)(x)
    count = min(64, length)
    np.testing.assert_array_equal(window.x, -np.sort(-x, axis=-1)[:, :count])
    np.testing.assert_array_equal(np.take_along_axis(x, np.asarray(window.place), -1), window.x)
    finite = np.asarray(window.x) > -np.inf
    for row, kept in zip(np.asarray(window.place), finite, strict=True):
        assert len(set(row[kept])) == kept.sum()
    rest = np.asarray(window.rest)[:, 0]
    np.testing.assert_array_equal(rest, window.x[:, -1] if length > 64 else np.full(5, -np.inf))


def test_draws_in_groups_are_those_of_one_row() -> None:
    """96 weights are searched in groups of 32; with a weight of zero behind them, one by one."""
    weight = np.stack([np.abs(rows.normal(96, 1.0, seed)) for seed in range(500)])
    weight[::7, 40:] = 0
    bits = jax.random.bits(jax.random.key(0), (2, 500, 1), jnp.uint32)
    padded = np.pad(weight, ((0, 0), (0, 1)))
    draw = jax.jit(lambda weight: pick(bits, weight, Along(-1)))
    np.testing.assert_array_equal(draw(weight), draw(padded))


def test_a_draw_from_the_window_is_the_draw_from_the_row() -> None:
    x = np.stack([rows.normal(3000, 2.0, seed) for seed in range(200)])
    x[::2] = rows.bf16(x[::2])
    key = jax.random.key(7)
    k = np.arange(200) % 100 + 1  # beyond the window too
    got = jsoftmax.sample(key, x, temperature=0.9, top_k=k)
    want = jsoftmax.sample(key, x, temperature=0.9, where=jsoftmax.top_k_mask(x, k))
    np.testing.assert_array_equal(got, want)


def sweeps_of(x: np.ndarray, monkeypatch: pytest.MonkeyPatch, **settings: float) -> int:
    """How many sweeps a batch takes to keep what these settings keep."""
    loop = lax.while_loop

    @jax.jit
    def count(x: jax.Array) -> jax.Array:
        sweeps = []

        def counting(*arguments: Any) -> Any:
            final = loop(*arguments)
            sweeps.append(final.sweeps)
            return final

        with monkeypatch.context() as patch:
            patch.setattr(lax, "while_loop", counting)
            values = [None, *[settings.get(name) for name in ("top_k", "top_p", "min_p")]]
            arrays = [None if v is None else jnp.full((len(x), 1), v, x.dtype) for v in values]
            row, effective = row_of(x, Settings(*arrays), Along(-1))
            truncate(row, effective, keep(row, effective))
        return sum(sweeps)

    return int(count(jnp.asarray(x)))


def test_searches_take_few_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a model's logits (bfloat16 ones, with ties) and on rows where interpolation fails."""
    real = real_logits.load()
    normal = np.stack([rows.normal(20000, 3.0, seed) for seed in range(8)])
    ladder = np.geomspace(1e-37, 1e38, 5000).astype(np.float32)
    hard = np.stack([ladder, -ladder, np.concatenate([ladder[::2], -ladder[1::2]])])
    assert sweeps_of(real, monkeypatch, top_p=0.9) <= 7
    assert sweeps_of(real, monkeypatch, top_p=0.95) <= 7
    assert sweeps_of(normal, monkeypatch, top_p=0.95) <= 10
    assert sweeps_of(real, monkeypatch, top_k=500) <= 10
    assert sweeps_of(hard, monkeypatch, top_k=2500) <= 32


def test_no_search_is_made_where_the_window_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.stack([rows.normal(5000, 2.0, seed) for seed in range(4)])
    assert sweeps_of(x, monkeypatch, top_k=50, top_p=0.9, min_p=0.02) == 0
    assert sweeps_of(x, monkeypatch, top_k=65, top_p=0.9) > 1
