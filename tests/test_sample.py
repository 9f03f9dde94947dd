"""sample and sample_and_log_prob: distributions, supports, edges, keys."""

import functools
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jsoftmax import log_softmax, sample, sample_and_log_prob, softmax, truncation_mask
from jsoftmax._draw import _pick_in_block, pick
from jsoftmax._typing import Along
from tests import real_logits, reference, rows
from tests.reference import Row
from tests.statistics import ALARM, assert_fits

INF = np.inf
COMBINATIONS: tuple[dict[str, float], ...] = (
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"temperature": INF},
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 0.8, "top_p": 0.95},
    {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 1.7, "top_k": 20, "top_p": 0.99},
)
OFF = {"temperature": 1.0, "top_k": 0.0, "top_p": 1.0, "min_p": 0.0}


def all_of(settings: Mapping[str, float]) -> dict[str, float]:
    """All four settings by name, so that every combination is one compiled function."""
    return dict(zip(OFF, map(float, full(settings)), strict=True))


def full(settings: Mapping[str, float]) -> list[float]:
    """The four settings in order, absent ones at what is off."""
    return [settings.get(name, off) for name, off in OFF.items()]


@functools.partial(jax.jit, static_argnames=("draws", "rounds"))
def histogram(
    key: jax.Array, logits: jax.Array, settings: dict[str, jax.Array], draws: int, rounds: int = 1
) -> jax.Array:
    """Counts [rows, V] of draws * rounds tokens of each row; settings per row."""
    number, length = logits.shape
    offset = jnp.arange(number, dtype=jnp.int32)[:, None] * length

    def step(counts: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        many = jnp.broadcast_to(logits[:, None], (number, draws, length))
        token = sample(key, many, **{name: value[:, None] for name, value in settings.items()})
        return counts.at[(token + offset).ravel()].add(1), None

    empty = jnp.zeros((number * length,), jnp.int32)
    counts, _ = jax.lax.scan(step, empty, jax.random.split(key, rounds))
    return counts.reshape(number, length)


def tails() -> Row:
    """Of 120 entries 100 have probability between 1e-7 and 1e-6; they lie between large ones."""
    large = np.arange(120) % 6 == 2
    p = np.where(large, np.random.default_rng(0).random(120) + 0.5, 0.0)
    small = np.random.default_rng(1).permutation(np.geomspace(1e-7, 1e-6, 100))
    p = p / p.sum() * (1 - small.sum())
    p[~large] = small
    return np.log(p).astype(np.float32)


# --- distribution ----------------------------------------------------------------------------


def statistical_rows() -> dict[str, Row]:
    """The classes of rows on which the cut is clear for every combination of settings."""
    family = rows.family(60, seed=4)
    chosen = (
        "normal",
        "normal 3",
        "peaked",
        "flat",
        "equal",
        "two values",
        "ties",
        "bfloat16",
        "holes",
        "only one",
    )
    return {name: family[name] for name in chosen}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.slow
def test_draws_follow_the_exact_truncated_distribution(key: jax.Array, dtype: str) -> None:
    """Chi-square for every class of row under every combination of settings: 2 million draws in
    all."""
    family = statistical_rows()
    logits = np.stack(list(family.values())).astype(jnp.dtype(dtype))
    count, names = len(COMBINATIONS), list(family)
    many = np.tile(logits, (count, 1))
    settings = np.repeat(np.array([full(c) for c in COMBINATIONS], np.float32), len(names), axis=0)
    numbers = {name: jnp.asarray(settings[:, i]) for i, name in enumerate(OFF)}
    counts = np.asarray(histogram(key, jnp.asarray(many), numbers, draws=2500, rounds=8))
    probability = reference.over_rows(reference.sampled_row, many, *settings.T)
    for i, (row, p) in enumerate(zip(counts, probability, strict=True)):
        label = f"{names[i % len(names)]}, {COMBINATIONS[i // len(names)]}"
        assert row.sum() == 20000
        assert_fits(row, p, label)


@pytest.mark.slow
@pytest.mark.parametrize("length", [128, 129, 1025, 4097])
def test_draws_fit_around_block_sizes(key: jax.Array, length: int) -> None:
    family = rows.family(length, seed=1)
    names = ["flat", "normal 3", "bfloat16", "holes"]
    logits = np.stack([family[name] for name in names])
    for settings in ({"temperature": 1.0}, {"temperature": 0.9, "top_p": 0.7}):
        numbers = {name: jnp.full((len(names),), value) for name, value in settings.items()}
        counts = np.asarray(histogram(key, jnp.asarray(logits), numbers, draws=4096, rounds=8))
        probability = reference.over_rows(reference.sampled_row, logits, *full(settings))
        for name, row, p in zip(names, counts, probability, strict=True):
            assert_fits(row, p, f"{name}, V = {length}, {settings}")


def test_uniform_bfloat16_row_of_a_large_vocabulary(key: jax.Array) -> None:
    """Where `jax.random.categorical` has mean index 126 instead of 2047.5."""
    logits = jnp.zeros((4096,), jnp.bfloat16)
    draw = jax.jit(lambda key, x: sample(key, jnp.broadcast_to(x, (4096, 4096))))
    tokens = np.concatenate([draw(k, logits) for k in jax.random.split(key, 10)])
    assert abs(tokens.mean() - 2047.5) < 5 * 1182.4 / np.sqrt(tokens.size)
    assert_fits(np.bincount(tokens, minlength=4096), np.full(4096, 1 / 4096), "uniform bfloat16")


@pytest.mark.slow
def test_a_million_draws_never_leave_the_mask(key: jax.Array) -> None:
    family = rows.family(50, seed=2)
    names = [name for name in family if name not in ("nothing", "only one")]
    combinations = [COMBINATIONS[4], COMBINATIONS[5], COMBINATIONS[8]]
    logits = np.tile(np.stack([family[name] for name in names]), (len(combinations), 1))
    table = np.repeat(np.array([full(c) for c in combinations], np.float32), len(names), axis=0)
    settings = {name: jnp.asarray(table[:, i]) for i, name in enumerate(OFF)}
    counts = np.asarray(histogram(key, jnp.asarray(logits), settings, draws=3072, rounds=6))
    assert counts.sum() > 1_000_000
    mask = np.asarray(truncation_mask(logits, **settings))
    assert (mask.sum(-1) < 50).sum() > 25
    wrong = np.argwhere(counts * ~mask)
    assert wrong.size == 0, [(names[i % len(names)], int(j)) for i, j in wrong[:5]]


@pytest.mark.slow
def test_tail_entries_are_drawn_as_often_as_they_should_be(key: jax.Array) -> None:
    """Entries of probability 1e-7 to 1e-6, in four groups, between entries that hold the mass."""
    logits = tails()
    one = {"temperature": jnp.ones((1,))}
    counts = np.asarray(histogram(key, jnp.asarray(logits[None]), one, draws=2**19, rounds=8))[0]
    expected = reference.over_rows(reference.softmax_row, logits, 1.0) * counts.sum()
    rare = np.flatnonzero(expected < 2e-6 * counts.sum())
    assert rare.size == 100
    for group in np.array_split(rare[np.argsort(expected[rare])], 4):
        below = stats.poisson.cdf(counts[group].sum(), expected[group].sum())
        assert ALARM < below < 1 - ALARM, (counts[group], expected[group])
    assert_fits(counts, expected / expected.sum(), "tails")


@pytest.mark.slow
def test_the_tail_of_a_large_vocabulary(key: jax.Array) -> None:
    """V = 151936: the half of the entries that holds 1 % of the mass is drawn 1 % of the time."""
    length = 151936
    x = np.where(np.arange(length) % 2 == 0, 0.0, np.log(0.01 / 0.99)).astype(np.float32)
    p = reference.over_rows(reference.softmax_row, x, 1.0)
    draw = jax.jit(lambda key, x: sample(key, jnp.broadcast_to(x, (128, length))))
    tokens = np.concatenate([draw(k, x) for k in jax.random.split(key, 16)])
    odd = int((tokens % 2).sum())
    share = p[1::2].sum()
    assert ALARM < stats.binom.cdf(odd, tokens.size, share) < 1 - ALARM
    block = np.bincount(tokens // 4748, minlength=32)
    assert_fits(block, p.reshape(32, 4748).sum(-1), "blocks of a large vocabulary")


# --- independence and keys -------------------------------------------------------------------


def test_rows_of_a_batch_are_independent(key: jax.Array) -> None:
    """The joint counts of two neighbouring rows with equal logits are the product of the
    marginals."""
    x = jnp.asarray(rows.normal(6, 0.7))
    tokens = np.asarray(sample(key, jnp.broadcast_to(x, (60000, 2, 6))))
    joint = np.zeros((6, 6))
    np.add.at(joint, (tokens[:, 0], tokens[:, 1]), 1)
    assert stats.chi2_contingency(joint).pvalue > ALARM
    lagged = np.zeros((6, 6))
    np.add.at(lagged, (tokens[:-1, 0], tokens[1:, 0]), 1)
    assert stats.chi2_contingency(lagged).pvalue > ALARM


def test_successive_keys_are_independent_and_the_same_key_repeats(key: jax.Array) -> None:
    x = jnp.asarray(rows.normal(100, 1.0))
    draw = jax.jit(jax.vmap(lambda k: sample(k, x)))
    keys = jax.random.split(key, 4096)
    tokens = np.asarray(draw(keys))
    np.testing.assert_array_equal(tokens, draw(keys))
    assert (tokens[1:] == tokens[:-1]).mean() < 0.2
    counts = np.bincount(tokens, minlength=100)
    assert_fits(counts, reference.over_rows(reference.softmax_row, x, 1.0), "one key per draw")


def test_typed_and_raw_keys_agree() -> None:
    x = rows.normal(1000, 1.0).reshape(50, 20)
    np.testing.assert_array_equal(sample(jax.random.key(7), x), sample(jax.random.PRNGKey(7), x))
    for implementation in ("rbg", "unsafe_rbg"):
        tokens = np.asarray(sample(jax.random.key(7, impl=implementation), x, top_k=3))
        assert np.take_along_axis(
            np.asarray(truncation_mask(x, top_k=3)), tokens[:, None], -1
        ).all()


def test_a_row_alone_eager_or_jitted_gives_the_same_token(key: jax.Array) -> None:
    x = rows.normal(50, 1.0)
    compiled = jax.jit(sample)
    for settings in ({}, {"top_p": 0.9}, {"temperature": 0.5, "top_k": 5}):
        alone = sample(key, x, **all_of(settings))
        assert alone.shape == ()
        assert alone.dtype == jnp.int32
        np.testing.assert_array_equal(compiled(key, x, **all_of(settings)), alone)
    np.testing.assert_array_equal(sample(key, x), sample(key, x, temperature=1))


def test_a_row_does_not_depend_on_what_the_others_hold(key: jax.Array) -> None:
    x = rows.normal(160, 1.0).reshape(8, 20)
    other = x.copy()
    other[[1, 3, 5]] = rows.normal(60, 9.0, seed=5).reshape(3, 20)
    other[6] = np.nan
    other[7] = -INF
    for settings in ({}, {"top_p": 0.8}, {"top_k": 4, "min_p": 0.05, "temperature": 0.7}):
        np.testing.assert_array_equal(
            np.asarray(sample(key, x, **all_of(settings)))[[0, 2, 4]],
            np.asarray(sample(key, other, **all_of(settings)))[[0, 2, 4]],
        )


# --- greedy and other limits -----------------------------------------------------------------


def test_temperature_zero_is_greedy_whatever_the_key() -> None:
    x = np.stack([rows.bf16(rows.normal(500, 1.0, seed)) for seed in range(20)])
    x[0] = 2.0
    x[1, :250] = -INF
    x[2, 77] = x[2, 99] = 50
    for seed in range(3):
        token, log_prob = sample_and_log_prob(
            jax.random.key(seed), x, **all_of({"temperature": 0.0})
        )
        np.testing.assert_array_equal(token, x.argmax(-1))
        ties = (x == x.max(-1, keepdims=True)).sum(-1)
        np.testing.assert_allclose(log_prob, -np.log(ties), rtol=1e-6)
        settings = all_of({"temperature": 0.0, "top_k": 3, "top_p": 0.5, "min_p": 0.2})
        np.testing.assert_array_equal(sample(jax.random.key(seed), x, **settings), x.argmax(-1))


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.5}, {"min_p": 0.2}], ids=str)
def test_the_negative_zero_is_greedy_too(key: jax.Array, settings: dict[str, float]) -> None:
    x = np.stack([rows.normal(5000, 1.0, seed) for seed in range(3)])
    temperature = jnp.array([1.0, -0.0, 0.0])
    token, log_prob = sample_and_log_prob(key, x, temperature=temperature, **settings)
    np.testing.assert_array_equal(token[1:], x[1:].argmax(-1))
    np.testing.assert_array_equal(log_prob[1:], 0)


def test_greedy_with_masks_and_mixed_rows(key: jax.Array) -> None:
    x = np.array([[5.0, 9.0, 7.0, 7.0]] * 3, np.float32)
    where = np.array([True, False, True, True])
    token = sample(key, x, temperature=np.array([0.0, 1.0, 0.0], np.float32), where=where)
    np.testing.assert_array_equal(np.asarray(token)[[0, 2]], [2, 2])
    assert int(token[1]) in (0, 2, 3)


def test_settings_that_leave_one_entry_decide_the_token(key: jax.Array) -> None:
    x = np.stack([rows.normal(300, 2.0, seed) for seed in range(30)])
    for settings in (
        {"top_k": 1},
        {"top_p": 0.0},
        {"top_p": 1e-6},
        {"min_p": 1.0},
        {"temperature": 1e-6},
    ):
        token, log_prob = sample_and_log_prob(key, x, **all_of(settings))
        np.testing.assert_array_equal(token, x.argmax(-1))
        np.testing.assert_allclose(log_prob, 0, atol=1e-30)


@pytest.mark.slow
def test_rows_with_nothing_allowed(key: jax.Array) -> None:
    x = np.array(
        [[-INF] * 5, [1, 2, 3, 4, 5], [np.nan, INF, 1, -INF, 0], [0, 0, 0, 0, 9]], np.float32
    )
    where = np.array([[True] * 5, [False] * 5, [False] * 3 + [True, False], [True] * 5])
    for settings in (
        {},
        {"temperature": 0.0},
        {"temperature": INF},
        {"top_k": 2, "top_p": 0.5, "min_p": 0.1},
    ):
        token, log_prob = sample_and_log_prob(key, x, where=where, **all_of(settings))
        np.testing.assert_array_equal(np.asarray(token)[:3], 0)
        np.testing.assert_array_equal(np.asarray(log_prob)[:3], -INF)
        assert np.isfinite(np.asarray(log_prob)[3])
        np.testing.assert_array_equal(sample(key, x, where=where, **all_of(settings)), token)


def test_broken_rows_give_a_token_in_range_and_a_nan(key: jax.Array) -> None:
    x = np.array([[1.0, np.nan, 0.0], [1.0, INF, 0.0], [np.nan] * 3, [1.0, 2.0, 0.0]], np.float32)
    for settings in (
        {},
        {"temperature": 0.0},
        {"temperature": INF},
        {"top_p": 0.5},
        {"top_k": 2, "min_p": 0.3},
    ):
        token, log_prob = sample_and_log_prob(key, x, **all_of(settings))
        assert ((np.asarray(token) >= 0) & (np.asarray(token) < 3)).all()
        assert np.isnan(np.asarray(log_prob)[:3]).all()
        assert np.isfinite(np.asarray(log_prob)[3])


# --- log-probability -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.slow
def test_log_prob_is_that_of_the_truncated_distribution(key: jax.Array, dtype: str) -> None:
    x = np.stack([rows.normal(64, 2.0, seed) for seed in range(32)])
    x = jnp.asarray(np.broadcast_to(x, (len(COMBINATIONS), *x.shape)), jnp.dtype(dtype))
    table = np.array([full(c) for c in COMBINATIONS], np.float32)[:, None]
    settings = {name: table[..., i] for i, name in enumerate(OFF)}
    token, log_prob = sample_and_log_prob(key, x, **settings)
    assert log_prob.dtype == x.dtype
    chex.assert_shape((token, log_prob), (len(COMBINATIONS), 32))
    np.testing.assert_array_equal(token, sample(key, x, **settings))
    mask = truncation_mask(x, **settings)
    log_p = log_softmax(x, where=mask, temperature=settings["temperature"])
    want = np.take_along_axis(np.asarray(log_p, np.float32), np.asarray(token)[..., None], -1)
    eps = float(jnp.finfo(x.dtype).eps)
    log_prob = np.asarray(log_prob, np.float32)
    np.testing.assert_allclose(log_prob, want[..., 0], rtol=2 * eps, atol=4e-6)


def test_log_prob_differentiates(key: jax.Array) -> None:
    """The score function of policy gradients: one-hot - p, on the kept entries alone."""
    x = jnp.asarray(rows.normal(20, 1.0))
    settings = {"top_k": 6, "temperature": 0.7}
    token = sample(key, x, **settings)
    gradient = jax.grad(lambda x: sample_and_log_prob(key, x, **settings)[1])(x)
    p = softmax(x, where=truncation_mask(x, **settings), temperature=0.7)
    np.testing.assert_allclose(
        gradient, (jax.nn.one_hot(token, 20, dtype=p.dtype) - p) / 0.7, rtol=1e-5, atol=1e-6
    )
    by_temperature = jax.grad(lambda t: sample_and_log_prob(key, x, temperature=t, top_k=6)[1])(
        jnp.float32(0.7)
    )
    mask = truncation_mask(x, top_k=6)
    want = jax.grad(lambda t: log_softmax(x, where=mask, temperature=t)[token])(jnp.float32(0.7))
    np.testing.assert_allclose(by_temperature, want, rtol=1e-5)


def test_real_logits(key: jax.Array) -> None:
    logits = np.asarray(real_logits.load(), np.float32)[:6]
    settings = {"temperature": 0.8, "top_k": 50.0, "top_p": 0.95, "min_p": 0.01}
    keep = []
    for row in logits:
        must, may = reference.over_rows(reference.truncation_row, row, *settings.values())
        if (must == may).all():
            keep.append(row)
    assert len(keep) >= 2
    logits = np.stack(keep[:2])
    p = reference.over_rows(reference.sampled_row, logits, *settings.values())

    @jax.jit
    def draw(key: jax.Array, logits: jax.Array) -> jax.Array:
        many = jnp.broadcast_to(logits[:, None], (logits.shape[0], 64, logits.shape[1]))
        return sample(key, many, **settings)

    tokens = np.concatenate([draw(k, logits) for k in jax.random.split(key, 16)], axis=1)
    for row, probability in zip(tokens, p, strict=True):
        assert_fits(np.bincount(row, minlength=probability.size), probability, "real logits")


@pytest.mark.parametrize("large", [64, 200])
def test_the_largest_uniform_picks_the_last_entry_however_small(large: int) -> None:
    weight = np.random.default_rng(3).uniform(0.5, 1, large).astype(np.float32)
    weight = jnp.concatenate([weight, jnp.full(3, 1e-6)])
    ones = jnp.full((2, 1), 2**32 - 1, jnp.uint32)
    assert int(pick(ones, weight, Along(-1))[0]) == large + 2


def test_picks_among_many_groups_of_a_long_block() -> None:
    """Of the largest rows: 65,536 groups of 64 would be more than a pick can tell apart."""
    weight = jnp.full((1, 2**22), 2.0**-21).at[0, 0].set(1.0)
    pick = jax.jit(_pick_in_block)
    for share, first in ((0.32, True), (0.35, False)):
        bits = jnp.full((4, 1, 1), int(share * 2**32), jnp.uint32)
        assert bool(pick(bits, weight)[0, 0] == 0) == first, share
