"""The parts of the engine: sweeps, windows, draws; and how few sweeps a search takes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jsoftmax
from jsoftmax._blocks import block_max, block_sum, blocks_of
from jsoftmax._kept import floor_of
from jsoftmax._mass import terms, unshifted_mass
from jsoftmax._row import row_of
from jsoftmax._settings import Settings
from jsoftmax._sweep import exact_sweep, fused_block_sum, largest, sweep
from jsoftmax._typing import Along
from jsoftmax._window import window_of
from tests import real_logits, rows
from tests.registry import FUNCTIONS, Entry

LENGTHS = [1, 63, 1023, 1024, 1025, 4097, 9216]


# In short slabs that fit, of other numbers than 12, and with entries beyond them.
@pytest.mark.parametrize("length", [*LENGTHS, 4096, 4099, 65920])
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("reads", [1, 2])
def test_a_sweep_gives_what_separate_reductions_give(length: int, axis: int, reads: int) -> None:
    x = np.stack([rows.normal(length, 3.0, seed) for seed in range(3)])
    x = x if axis == -1 else x.T

    @jax.jit
    def swept(x: jax.Array) -> list[jax.Array]:
        positive = jnp.where(x > 0, x, -jnp.inf)
        sums = [jnp.exp(x), (x > 1).astype(x.dtype)]
        return sweep(sums, [positive], [x, -x], axis, reads=reads)

    wide = x.astype(np.float64)
    want = [np.exp(wide).sum(axis), (x > 1).sum(axis), None, x.min(axis), (-x).min(axis)]
    want[2] = np.where(x > 0, x, -np.inf).max(axis)
    for got, reference in zip(swept(x), want, strict=True):
        np.testing.assert_allclose(np.squeeze(got, axis), reference, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, -np.float32(np.nan), np.inf])
@pytest.mark.parametrize("length", LENGTHS[2:])
def test_no_broken_entry_is_overlooked(length: int, bad: float) -> None:
    x = np.tile(rows.normal(length, 1.0), (64, 1))
    x[::2, ::3] = -np.inf
    x[1::3] = -np.finfo(np.float32).max
    whole = jax.jit(lambda x: largest(x, -1) == jnp.inf)
    assert not np.asarray(whole(x)).any()
    x[np.arange(64), np.linspace(0, length - 1, 64).astype(int)] = bad
    assert np.asarray(whole(x)).all()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("axis", [-1, 0])
def test_the_mass_beyond_the_largest_entry_keeps_its_accuracy(length: int, axis: int) -> None:
    """In rows where the rest weighs 1e-30 to 1e5, ties of the largest among them."""
    x = np.stack([rows.normal(length, 1.0, seed) for seed in range(6)])
    x[:, length // 3] = [20, 40, 70, 9, 0, 3]
    x[3, length // 2] = 9
    z = (x - x.max(-1, keepdims=True)).astype(np.float32)
    z, axis_of = (z, -1) if axis == -1 else (z.T, 0)
    found = jax.jit(lambda z: terms(z, lambda z: z, axis_of).mass())(z)
    total, others = np.float64(found.total) + np.float64(found.lack), found.others
    weights = np.sort(np.exp(z.astype(np.float64)), axis=axis_of)
    total, others = (np.squeeze(np.asarray(y, np.float64), axis_of) for y in (total, others))
    beyond = (
        weights.sum(axis_of) - 1
        if length == 1
        else np.take(np.cumsum(weights, axis=axis_of), -2, axis=axis_of)
    )
    np.testing.assert_allclose(total, weights.sum(axis_of), rtol=1e-6)
    peaked = weights.sum(axis_of) < 1.5
    np.testing.assert_allclose(others[peaked], beyond[peaked], rtol=1e-6)


@pytest.mark.parametrize("length", [1, 7, 8, 64, 1000, *LENGTHS[3:]])
@pytest.mark.parametrize("axis", [-1, 0])
def test_one_pass_finds_the_largest_entry_and_the_mass(length: int, axis: int) -> None:
    x = np.stack([rows.normal(length, scale) + scale for scale in (0.1, 3.0, 10.0)])
    x[:, length // 3] = x.max(-1) + np.array([0, 20, 3])
    y, axis_of = (x, -1) if axis == -1 else (x.T.copy(), 0)
    peak, found = jax.jit(lambda x: unshifted_mass(x, axis_of))(y)
    np.testing.assert_array_equal(np.squeeze(peak, axis_of), x.max(-1))
    weights = np.exp(np.sort(x.astype(np.float64)))
    total = np.squeeze(np.float64(found.total) + np.float64(found.lack), axis_of)
    np.testing.assert_allclose(total, weights.sum(-1), rtol=1e-7)
    others = np.squeeze(found.others, axis_of)
    np.testing.assert_allclose(others, weights[:, :-1].sum(-1) / weights[:, -1], rtol=1e-6)


@pytest.mark.parametrize("length", [1, 7, 8, 64, 1000, *LENGTHS[3:]])
@pytest.mark.parametrize("axis", [-1, 0])
def test_an_exact_sweep_says_what_rounding_took(length: int, axis: int) -> None:
    x = np.stack([rows.normal(length, 1.0, seed) for seed in range(4)])
    x = x if axis == -1 else x.T.copy()
    found = jax.jit(lambda x: exact_sweep([jnp.abs(x), x * x], axis, 4))(x)
    wide = x.astype(np.float64)
    for (total, lack), want in zip(found, (np.abs(wide), wide * wide), strict=True):
        got = np.squeeze(np.float64(total) + np.float64(lack), axis)
        np.testing.assert_allclose(got, want.sum(axis), rtol=1e-7)


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


def test_a_draw_from_the_window_is_the_draw_from_the_row() -> None:
    x = np.stack([rows.normal(3000, 2.0, seed) for seed in range(200)])
    x[::2] = rows.bf16(x[::2])
    key = jax.random.key(7)
    k = np.arange(200) % 100 + 1  # beyond the window too
    got = jsoftmax.sample(key, x, temperature=0.9, top_k=k)
    want = jsoftmax.sample(key, x, temperature=0.9, where=jsoftmax.top_k_mask(x, k))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("length", [5, 1032, 1200])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_largest_has_the_dtype_of_the_row(dtype: str, length: int) -> None:
    x = np.arange(3 * length).reshape(3, length) % 5.0
    x[1, -1], x[2, length // 2] = np.nan, np.inf
    with jax.enable_x64(True):
        got = jax.jit(lambda x: largest(x, -1))(jnp.asarray(x, dtype))
    assert got.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(got, np.float64), [[4], [np.inf], [np.inf]])


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("entry", FUNCTIONS, ids=str)
def test_long_rows_of_every_dtype(entry: Entry, dtype: str, x64: bool) -> None:
    """Of a length that sweeps cut into parts: traced, not run."""
    x = jax.ShapeDtypeStruct((2, 1032), jnp.dtype(dtype))
    keyed = [jax.random.key(0)] * entry.keyed
    beside = []
    if entry.beside is not None:
        beside = [entry.beside(np.zeros((2, 1032), np.float32), -1)]
        beside = [y if y.dtype.kind == "i" else y.astype(x.dtype) for y in beside]
    with jax.enable_x64(x64):
        got = jax.eval_shape(lambda x: entry.function(*keyed, x, *beside, **entry.setting()), x)
    floats = [y.dtype for y in jax.tree.leaves(got) if jnp.issubdtype(y.dtype, jnp.floating)]
    assert all(y == x.dtype for y in floats)


def sweeps_of(
    x: np.ndarray, monkeypatch: pytest.MonkeyPatch, *, mapped: bool = False, **settings: float
) -> int:
    """How many sweeps a batch takes to keep what these settings keep; as it is, or by jax.vmap."""
    loop = lax.while_loop

    @jax.jit
    def count(x: jax.Array) -> jax.Array:
        sweeps = []

        def counting(*arguments: Any) -> Any:
            final = loop(*arguments)
            sweeps.append(getattr(final, "sweeps", 0))
            return final

        with monkeypatch.context() as patch:
            patch.setattr(lax, "while_loop", counting)
            values = [None, *[settings.get(name) for name in ("top_k", "top_p", "min_p")]]
            arrays = [None if v is None else jnp.full((len(x), 1), v, x.dtype) for v in values]
            row, effective = row_of(x, Settings(*arrays), Along(-1))
            floor_of(row, effective)
        return sum(sweeps)

    if mapped:
        return int(jax.vmap(lambda row: count(row[None]))(jnp.asarray(x)).max())
    return int(count(jnp.asarray(x)))


def test_searches_take_few_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a model's logits (bfloat16 ones, with ties) and on rows where interpolation fails."""
    real = real_logits.load()
    normal = np.stack([rows.normal(20000, 3.0, seed) for seed in range(8)])
    ladder = np.geomspace(1e-37, 1e38, 5000).astype(np.float32)
    hard = np.stack([ladder, -ladder, np.concatenate([ladder[::2], -ladder[1::2]])])
    assert sweeps_of(real, monkeypatch, top_p=0.9) <= 4
    assert sweeps_of(real, monkeypatch, top_p=0.95) <= 4
    assert sweeps_of(normal, monkeypatch, top_p=0.9) <= 5
    assert sweeps_of(real, monkeypatch, top_k=500) <= 6
    assert sweeps_of(hard, monkeypatch, top_k=2500) <= 14
    assert sweeps_of(hard, monkeypatch, top_p=0.9999) <= 16


def test_no_search_is_made_where_the_window_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.stack([rows.normal(5000, 2.0, seed) for seed in range(4)])
    assert sweeps_of(x, monkeypatch, top_k=50, top_p=0.9, min_p=0.02) == 0
    assert sweeps_of(x, monkeypatch, top_k=65, top_p=0.9) > 1


def test_vmap_takes_as_many_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.stack([rows.normal(5000, 2.0, seed) for seed in range(4)])
    answered = {"top_k": 50, "top_p": 0.9, "min_p": 0.02}
    assert sweeps_of(x, monkeypatch, mapped=True, **answered) == 0
    for settings in ({"top_p": 0.9}, {"top_k": 65, "top_p": 0.9}):
        in_a_batch = sweeps_of(x, monkeypatch, **settings)
        assert sweeps_of(x, monkeypatch, mapped=True, **settings) == in_a_batch > 1


MOST = {"float32": 1.5, "bfloat16": 4.1}
"""Arrays of the logits' size that a function may take for a time."""
MORE = {
    "float32": {"typical_mask": 2.4, "fenchel_young_loss": 4.5},
    "bfloat16": {"typical_mask": 4.7, "entmax": 4.3, "fenchel_young_loss": 8.9},
}
"""Functions that take more, and how much."""
FIRST = {"top_k_mask": 2.4, "top_p_mask": 3.5, "typical_mask": 4.2}
"""The same with ties="first", in float32."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("entry", FUNCTIONS, ids=str)
def test_temporary_memory(entry: Entry, dtype: str) -> None:
    """Beyond what is given and returned, on a CPU, in arrays of the logits' size."""

    x, where = (jax.ShapeDtypeStruct((8, 65536), kind) for kind in (dtype, bool))

    def arrays(where: Any = None, **static: str) -> float:
        def call(x: jax.Array, where: jax.Array | None) -> Any:
            return entry(x, where=where, **entry.setting(), **static)

        compiled = jax.jit(call).lower(x, where).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (x.dtype.itemsize * x.size)

    most = MORE[dtype].get(entry.name, MOST[dtype])
    assert arrays() <= most
    # The logits once more, where it is taken from them.
    assert arrays(where) <= most + 1 + (entry.name == "kl_divergence")
    if entry.ties and dtype == "float32":
        assert arrays(ties="first") <= FIRST[entry.name]


@pytest.mark.parametrize("sampler", [jsoftmax.sample, jsoftmax.sample_and_log_prob])
@pytest.mark.parametrize("size", [50257, 65536])
@pytest.mark.parametrize(
    "settings",
    [{"top_p": 0.9}, {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.02}],
    ids=["top-p", "all"],
)
def test_temporary_memory_of_a_draw(
    sampler: Callable[..., Any], size: int, settings: dict[str, float]
) -> None:
    x = jax.ShapeDtypeStruct((8, size), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    compiled = jax.jit(partial(sampler, **settings)).lower(key, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 1.5 * 4 * x.size


@pytest.mark.parametrize("shards", [1, 2, 8])
@pytest.mark.parametrize("size", [0, 1, 100, 1024, 4096, 9001, 50257, 151936])
def test_blocks_of_what_is_not_stored(size: int, shards: int) -> None:
    x = np.random.default_rng(0).integers(-9, 9, (2, size)).astype(np.float32)
    expected = block_sum(x, shards)
    np.testing.assert_array_equal(jax.jit(fused_block_sum, static_argnums=1)(x, shards), expected)


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


STORED = ("top_p_mask", "typical_mask")
"""These store what CPUs read: the weights of all entries, in float32."""


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("entry", [e for e in FUNCTIONS if e.kind in ("mask", "token")], ids=str)
def test_half_precision_rows_are_held_as_they_are(entry: Entry, platform: str) -> None:
    """What a loop carries is stored: rows of bfloat16 in float32 would be read twice as slowly."""
    x = jax.ShapeDtypeStruct((8, 4096), jnp.bfloat16)
    traced = jax.jit(lambda x: entry(x, **entry.setting())).trace(x)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    loops = [line for line in text.splitlines() if "stablehlo.while" in line]
    assert sum("8x4096xf32" in line for line in loops) <= (entry.name in STORED)
    assert all("8x4096xbf16" in line for line in loops)
