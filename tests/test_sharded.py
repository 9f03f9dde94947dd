"""axis_name: inside `shard_map` over four devices every function means what it means dense."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests import reference, rows
from tests.registry import DIFFERENTIABLE, FUNCTIONS, Entry
from tests.statistics import assert_fits

LENGTH = 64
NAMES, ROWS = rows.stacked(LENGTH, seed=3)
BROKEN = np.where(np.arange(LENGTH) == 50, np.nan, ROWS[0])
LOGITS = np.concatenate([ROWS, BROKEN[None]]).astype(np.float32)
WHERE = np.random.default_rng(0).random(LOGITS.shape) < 0.8
WHERE[5] = False
SPLIT = P(None, "vocab")

check_vma = pytest.mark.parametrize("check_vma", [True, False], ids=["vma", "no vma"])


def mesh() -> jax.sharding.Mesh:
    """Four of the CPU devices along the vocabulary."""
    return jax.make_mesh((4,), ("vocab",), (AxisType.Auto,), devices=jax.devices()[:4])


def sharded(entry: Entry, check_vma: bool, **settings: Any) -> Callable[..., Any]:
    """`entry` on vocabulary shards of the logits and of `where`."""
    out = SPLIT if entry.kind in ("map", "mask") else P(None)

    def local(x: jax.Array, where: jax.Array, key: jax.Array) -> Any:
        return entry(x, where=where, key=key, axis_name="vocab", **settings)

    return jax.shard_map(
        local,
        mesh=mesh(),
        in_specs=(SPLIT, SPLIT, P()),
        out_specs=(out, out) if entry.pair else out,
        check_vma=check_vma,
    )


@check_vma
@pytest.mark.parametrize("entry", FUNCTIONS, ids=str)
def test_equals_dense(entry: Entry, check_vma: bool) -> None:
    settings = entry.setting()
    key = jax.random.key(2)
    for static in ({"ties": "all"}, {"ties": "first"}) if entry.ties else ({},):
        got = jax.jit(sharded(entry, check_vma, **settings, **static))(LOGITS, WHERE, key)
        if entry.keyed:
            entry.check(got, LOGITS, settings, WHERE)
            continue
        dense = entry(LOGITS, where=WHERE, **settings, **static)
        if entry.kind == "mask":
            np.testing.assert_array_equal(got, dense)
        else:
            chex.assert_trees_all_close(got, dense, rtol=1e-5, atol=1e-6)


@check_vma
@pytest.mark.parametrize("entry", DIFFERENTIABLE, ids=str)
def test_gradients_equal_dense(entry: Entry, check_vma: bool) -> None:
    x, where = jnp.asarray(ROWS), jnp.asarray(WHERE[: len(ROWS)])
    key = jax.random.key(0)

    def total(function: Callable[..., Any], x: jax.Array) -> jax.Array:
        y = function(x, where, key)
        weight = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return jnp.where(jnp.isfinite(y), jnp.where(jnp.isfinite(y), y, 0) * weight, 0).sum()

    over_shards = functools.partial(total, sharded(entry, check_vma, **entry.setting()))
    dense = functools.partial(total, lambda x, where, _: entry(x, where=where, **entry.setting()))
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-4, atol=1e-5)
    tangent = jnp.asarray(rows.normal(x.size, 1.0, seed=8).reshape(x.shape))
    got = jax.jit(jax.grad(over_shards))(x)
    chex.assert_tree_all_finite(got)
    close(got, jax.grad(dense)(x))
    close(
        jax.jit(lambda x, v: jax.jvp(over_shards, (x,), (v,)))(x, tangent),
        jax.jvp(dense, (x,), (tangent,)),
    )
    second = jax.jit(lambda x, v: jax.jvp(jax.grad(over_shards), (x,), (v,))[1])(x, tangent)
    close(second, jax.jvp(jax.grad(dense), (x,), (tangent,))[1], rtol=1e-3, atol=1e-4)


@check_vma
def test_samples_follow_the_truncated_distribution(check_vma: bool) -> None:
    (entry,) = (entry for entry in FUNCTIONS if entry.name == "sample")
    settings = {"temperature": 0.8, "top_k": 20.0, "top_p": 0.9, "min_p": 0.01}
    x = rows.normal(LENGTH, 1.0, seed=3)
    draw = jax.jit(sharded(entry, check_vma, **settings))
    many, where = np.broadcast_to(x, (20000, LENGTH)), np.ones((20000, LENGTH), bool)
    tokens = np.concatenate([draw(many, where, jax.random.key(seed)) for seed in range(3)])
    probability = reference.over_rows(reference.sampled_row, x, *settings.values())
    assert_fits(np.bincount(tokens, minlength=LENGTH), probability, "sharded")


def test_greedy_is_the_lowest_global_index() -> None:
    (entry,) = (entry for entry in FUNCTIONS if entry.name == "sample")
    x = np.zeros((4, LENGTH), np.float32)
    x[1, [60, 33, 40]] = 1
    x[2, [15, 16]] = 1
    x[3] = -np.inf
    got = jax.jit(sharded(entry, True, temperature=0.0))(
        x, np.ones_like(x, bool), jax.random.key(0)
    )
    np.testing.assert_array_equal(got, [0, 33, 15, 0])
