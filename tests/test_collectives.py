"""What crosses between vocabulary shards: as many collectives as docs/beyond.md says, all small."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax
from examples.collectives import Collective, assert_small, collectives, count
from tests.layouts import Layout, shards
from tests.registry import FUNCTIONS

PAGE = Path(__file__).parents[1] / "docs" / "beyond.md"
BATCH, LENGTH, SHARDS = 4, 16384, 8
LIMIT = 64 * BATCH * SHARDS
LAYOUT = shards(SHARDS)
ROW = re.compile(r"^\| `(\w+)\((.*?)\)` \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)
TABLE = ROW.findall(PAGE.read_text(encoding="utf-8"))


def program(function: Any, layout: Layout = LAYOUT) -> jax.stages.Compiled:
    """`function` of [4, 16384] logits that lie on eight devices, compiled."""
    sharding = NamedSharding(layout.mesh, layout.rows)
    x = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.float32, sharding=sharding)
    return jax.jit(function).lower(x).compile()


@pytest.mark.whole
@pytest.mark.parametrize(("name", "arguments", "once", "in_loop", "most"), TABLE)
def test_table(name: str, arguments: str, once: str, in_loop: str, most: str) -> None:
    call = compile(f"jsoftmax.{name}({arguments}, axis_name='vocab')", str(PAGE), "eval")
    (entry,) = (entry for entry in FUNCTIONS if entry.name == name)

    def local(x: jax.Array) -> Any:
        names = {"x": x, "key": jax.random.key(0), "labels": jnp.arange(BATCH)}
        return eval(call, names | {"jsoftmax": jsoftmax, "jnp": jnp})

    out = LAYOUT.rows if entry.kind in ("map", "mask") else P()
    found = collectives(
        program(jax.shard_map(local, mesh=LAYOUT.mesh, in_specs=LAYOUT.rows, out_specs=out))
    )
    assert_small(found, LIMIT)
    bytes_a_row = max(collective.bytes for collective in found) // BATCH
    assert (*count(found), bytes_a_row) == (int(once), int(in_loop), int(most)), found


def test_every_function_is_in_the_table() -> None:
    assert {entry.name for entry in FUNCTIONS} == {name for name, *_ in TABLE}


@pytest.mark.parametrize(
    ("operation", "function"),
    [
        ("all-gather", lambda x: jnp.cumsum(x, axis=-1)),
        (
            "all-gather",
            lambda x: jax.lax.with_sharding_constraint(
                jnp.exp(x), NamedSharding(LAYOUT.mesh, P(None, None))
            ),
        ),
        ("all-gather", lambda x: jnp.sort(x, axis=-1)),
    ],
    ids=["prefix sum", "gathered output", "sort"],
)
def test_what_moves_the_logits_is_found(operation: str, function: Any) -> None:
    """The positive controls: a test that passes these would pass anything."""
    found = collectives(program(function))
    assert operation in {collective.operation for collective in found}
    assert max(collective.bytes for collective in found) >= BATCH * LENGTH * 4 // SHARDS
    with pytest.raises(AssertionError, match="not reductions"):
        assert_small(found, LIMIT)


def test_a_large_reduction_is_found() -> None:
    function = jax.shard_map(
        lambda x: jax.lax.psum(x, "vocab"), mesh=LAYOUT.mesh, in_specs=LAYOUT.rows, out_specs=P()
    )
    found = collectives(program(function))
    assert found == [Collective("all-reduce", BATCH * LENGTH * 4 // SHARDS, in_loop=False)]
    with pytest.raises(AssertionError, match="more than"):
        assert_small(found, LIMIT)


def test_a_collective_in_a_loop_is_told_apart() -> None:
    def local(x: jax.Array) -> jax.Array:
        total = jax.lax.psum(x.sum(), "vocab")
        return jax.lax.fori_loop(
            0, 3, lambda _, y: jax.lax.psum(jnp.cos(x * y).sum(), "vocab"), total
        )

    function = jax.shard_map(local, mesh=LAYOUT.mesh, in_specs=LAYOUT.rows, out_specs=P())
    found = collectives(program(function))
    assert count(found) == (1, 1)
    assert [collective.bytes for collective in found] == [4, 4]
    assert np.isfinite(jax.jit(function)(LAYOUT.put(np.ones((BATCH, LENGTH), np.float32))))
