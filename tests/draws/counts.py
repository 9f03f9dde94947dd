"""Counts of tokens, and of pairs of tokens, taken on the device: no token comes to the host."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from tests.draws.cases import OFF, OTHER, SAMPLERS, Case
from tests.layouts import shards
from tests.reference import Row
from tests.registry import REGISTRY

BINS = 16
AT_ONCE = 2**26
"""Logits of a call."""
PAIRS = ("neighbouring rows", "rows half a batch apart", "the same row in successive steps")
BINNINGS = ("by place", "mixed")
Draw = Callable[[Array, Array, Array], tuple[Array, Array | None]]
"""From a key, logits [rows, V] and `where` to tokens and, where they are given, their
log-probabilities."""


class Counts(NamedTuple):
    """What is counted of the draws of a case."""

    tokens: Row
    """Draws of each entry."""
    pairs: Row
    """[pairs, binnings, BINS, BINS]: draws of two bins by the two rows of a pair. No draw is in two
    pairs of one kind."""
    error: float
    """Largest error of a log-probability, in units of the dtype's epsilon times 1 + |log p|."""


def sampler_of(case: Case) -> Draw:
    """The draw of a case, with its settings, dense or on shards."""
    (entry,) = (entry for entry in REGISTRY if entry.name == SAMPLERS[case.sampler])
    settings = dict(case.settings)

    def once(key: Array, x: Array, where: Array, settings: Any) -> tuple[Array, Array | None]:
        if entry.kind == "relaxed":
            hard = case.sampler == "gumbel hard"
            drawn = entry(x, where=where, key=key, hard=hard, **settings)
            return jnp.argmax(drawn, axis=-1).astype(jnp.int32), None
        got = entry(x, where=where, key=key, **settings)
        return got if entry.pair else (got, None)

    def draw(key: Array, x: Array, where: Array) -> tuple[Array, Array | None]:
        if case.shards > 1:
            got = shards(case.shards).on_shards(entry, **settings)(x, where, key)
            return got if entry.pair else (got, None)
        numbers: dict[str, Any] = settings
        if case.others:
            # The other logits are the same in another order.
            x, where = (in_turn(of, jnp.roll(of, 100, axis=-1)) for of in (x, where))
            both = {name: [settings.get(name, OFF[name]), OTHER[name]] for name in entry.settings}
            numbers = {name: jnp.tile(jnp.array(two), len(x) // 2) for name, two in both.items()}
        if case.mapped:
            axes = (0, 0, 0, 0 if case.others else None)
            got = jax.vmap(once, axes)(jax.random.split(key, len(x)), x, where, numbers)
        else:
            got = once(key, x, where, numbers)
        return jax.tree.map(lambda y: y[::2], got) if case.others else got

    return draw


def in_turn(rows: Array, others: Array) -> Array:
    """One of these, one of those."""
    return jnp.stack([rows, others], axis=1).reshape(-1, rows.shape[-1])


def bins_of(probability: Row) -> Row:
    """[binnings, V]: bins of about equal mass, of entries side by side and of entries far apart."""
    places = np.arange(probability.size)
    mixed = np.random.default_rng(0).permutation(probability.size)
    found = np.empty((len(BINNINGS), probability.size), np.int32)
    for binning, order in zip(found, (places, mixed), strict=True):
        middle = np.cumsum(probability[order]) - probability[order] / 2
        binning[order] = np.minimum(middle * BINS, BINS - 1)
    return found


def two_keys(case: Case, key: Array, step: Array) -> tuple[Array, Array, Array]:
    """The keys of two successive steps, and the key to go on with."""
    if case.keys == "fold_in":
        return jax.random.fold_in(key, 2 * step), jax.random.fold_in(key, 2 * step + 1), key
    if case.keys == "split":
        key, both = jax.random.split(key)
        first, second = jax.random.split(both)
        return first, second, key
    key, first = jax.random.split(key)
    key, second = jax.random.split(key)
    return first, second, key


def count(
    case: Case, draws: int, seed: int = 0, rows: int | None = None, draw: Draw | None = None
) -> Counts:
    """Draw at least so many tokens, `rows` a call of the sampler, and count them.

    Another sampler than the case's may be given: one that should be found out.
    """
    with jax.enable_x64(case.x64):
        rows = rows or 2 * (min(2**16, AT_ONCE // case.logits.size) // 2)
        return _count(case, draws, seed, rows, draw or sampler_of(case))


def _count(case: Case, draws: int, seed: int, rows: int, draw: Draw) -> Counts:
    probability = case.probability
    length = probability.size
    log_p = np.log(np.where(probability > 0, probability, 1))
    eps = float(jnp.finfo(case.dtype).eps)

    def pair_counts(bins: Array, first: Array, second: Array) -> Array:
        half = rows // 2
        kinds = (
            (jnp.stack([first[::2], second[::2]]), jnp.stack([first[1::2], second[1::2]])),
            (jnp.stack([first[:half], second[:half]]), jnp.stack([first[half:], second[half:]])),
            (first, second),
        )
        table = jnp.zeros((len(BINNINGS), BINS, BINS), jnp.int32)
        which = jnp.arange(len(BINNINGS), dtype=jnp.int32)[:, None]
        binned = [[bins[:, token.ravel()] for token in kind] for kind in kinds]
        return jnp.stack([table.at[which, a, b].add(1) for a, b in binned])

    @jax.jit
    def some(
        key: Array, start: Array, steps: Array, x: Array, where: Array, log_p: Array, bins: Array
    ) -> tuple[Array, ...]:
        many, allowed = (jnp.broadcast_to(row, (rows, length)) for row in (x, where))

        def step(i: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            key, tokens, pairs, error = state
            *keys, key = two_keys(case, key, start + i)
            drawn = [draw(key, many, allowed) for key in keys]
            for token, log_prob in drawn:
                tokens = tokens.at[token].add(1)
                if log_prob is not None:
                    right = log_p[token]
                    off = jnp.abs(log_prob.astype(right.dtype) - right) / (1 + jnp.abs(right))
                    error = jnp.maximum(error, jnp.max(off) / eps)
            pairs += pair_counts(bins, drawn[0][0], drawn[1][0])
            return key, tokens, pairs, error

        empty = (
            jnp.zeros(length, jnp.int32),
            jnp.zeros((len(PAIRS), len(BINNINGS), BINS, BINS), jnp.int32),
            jnp.zeros((), log_p.dtype),
        )
        return lax.fori_loop(0, steps, step, (key, *empty))

    x, where = jnp.asarray(case.logits), jnp.asarray(case.where)
    if case.shards > 1:
        x, where = (shards(case.shards).put(row[None])[0] for row in (x, where))
    wide = jnp.float64 if case.x64 else jnp.float32
    run = functools.partial(
        some,
        x=x,
        where=where,
        log_p=jnp.asarray(log_p, wide),
        bins=jnp.asarray(bins_of(probability)),
    )
    key = jax.random.key(seed, impl=case.implementation)
    total = Counts(
        np.zeros(length, np.int64), np.zeros((len(PAIRS), len(BINNINGS), BINS, BINS), np.int64), 0.0
    )
    steps, at_once = -(-draws // (2 * rows)), 64
    for start in range(0, steps, at_once):
        number = min(at_once, steps - start)
        key, tokens, pairs, error = run(key, jnp.int32(start), jnp.int32(number))
        total = Counts(
            total.tokens + np.asarray(tokens),
            total.pairs + np.asarray(pairs),
            max(total.error, float(error)),
        )
    return total
