"""The checks of this folder can fail: programs that gather are caught, and traffic is counted
right where it is known."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.aot.cases import BATCH, SHARDS, VOCABULARY, limit, program, too_large
from tests.aot.program import Program
from tests.aot.targets import TARGETS, Target, by_name
from tests.aot.test_compiles import needs

SPLIT = P(None, "vocabulary")
each_target = pytest.mark.parametrize(
    "target", [pytest.param(target, marks=needs(target), id=str(target)) for target in TARGETS]
)
both_kinds = pytest.mark.parametrize(
    "target", [pytest.param(t, marks=needs(t)) for t in map(by_name, ("TPU v5e", "H100"))], ids=str
)


def compiled(
    function: Callable[..., Any], target: Target, *, shards: int = 1, batch: int = BATCH
) -> jax.stages.Compiled:
    """Compile a function of the logits."""
    mesh = target.mesh(vocabulary=shards)
    sharding = NamedSharding(mesh, SPLIT)
    x = jax.ShapeDtypeStruct((batch, VOCABULARY), jnp.float32, sharding=sharding)
    return jax.jit(function).lower(x).compile()


def gathered(mesh: Mesh) -> Callable[[Array], Array]:
    """A softmax of which every device asks for the whole."""
    return lambda x: lax.with_sharding_constraint(jax.nn.softmax(x), NamedSharding(mesh, P()))


def over_shards(function: Callable[[Array], Any], mesh: Mesh, out: P) -> Callable[[Array], Any]:
    return jax.shard_map(function, mesh=mesh, in_specs=SPLIT, out_specs=out, check_vma=False)


@each_target
def test_gathers_are_caught(target: Target) -> None:
    mesh = target.mesh(vocabulary=SHARDS)
    whole, local = 8 * VOCABULARY * 4, 8 * VOCABULARY * 4 // SHARDS
    # XLA splits a cumsum over GPUs, and gathers it on TPUs.
    scan = jnp.cumsum if target.platform == "tpu" else jnp.sort
    controls = {
        scan.__name__: (lambda x: scan(x, -1), local),
        "gathered output": (gathered(mesh), local),
        "gathered logits": (
            over_shards(lambda x: lax.all_gather(x, "vocabulary", axis=1, tiled=True), mesh, P()),
            whole,
        ),
    }
    for name, (function, least) in controls.items():
        found = program(compiled(function, target, shards=SHARDS, batch=8), target)
        assert too_large(found, SHARDS, 8), name
        assert max(collective.size for collective in found.collectives) >= least, name


@each_target
def test_small_collectives_are_counted(target: Target) -> None:
    mesh = target.mesh(vocabulary=SHARDS)

    def twice(x: Array) -> Array:
        most = lax.pmax(jnp.max(x, -1), "vocabulary")
        return lax.psum(jnp.sum(jnp.exp(x - most[:, None]), -1), "vocabulary")

    found = program(compiled(over_shards(twice, mesh, P()), target, shards=SHARDS), target)
    assert [(c.opcode, c.size, c.loops) for c in found.collectives] == 2 * [
        ("all-reduce", 4 * BATCH, ())
    ]
    assert not too_large(found, SHARDS)
    assert limit(SHARDS, BATCH) < BATCH * VOCABULARY // SHARDS


@both_kinds
def test_a_gather_in_a_loop_is_caught(target: Target) -> None:
    mesh = target.mesh(vocabulary=SHARDS)

    def until(x: Array) -> Array:
        def body(total: Array) -> Array:
            all_of_them = lax.all_gather(x * total[0], "vocabulary", axis=1, tiled=True)
            return total + jnp.max(jnp.sin(all_of_them), -1)

        return lax.while_loop(lambda total: total.sum() < 9, body, x[:, 0])

    found = program(
        compiled(over_shards(until, mesh, P("vocabulary")), target, shards=SHARDS), target
    )
    assert too_large(found, SHARDS)
    assert any(loop.trips is None for collective in found.collectives for loop in collective.loops)


def passes(found: Program, batch: int) -> float:
    """Bytes from and to the main memory, loops counted once, in arrays of the logits."""
    return found.total(lambda _: 1) / (batch * VOCABULARY * 4)


@both_kinds
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: jnp.max(x, -1), 1.0),
        (lambda x: x + 1, 2.0),
        (lambda x: x > 1, 1.25),
        (lambda x: x[:, :128] + 1, 0.0),
        (lambda x: lax.dynamic_slice_in_dim(x, jnp.argmax(x[:, 0]), 128, 1), 0.0),
        (lambda x: lax.dynamic_update_slice_in_dim(jnp.sin(x), x[:, :128], 5, 1), 2.0),
    ],
    ids=["max", "add", "compare", "slice", "dynamic slice", "update"],
)
def test_traffic(target: Target, function: Callable[[Array], Array], expected: float) -> None:
    # 262 MB, more than any on-chip memory holds.
    found = program(compiled(function, target, batch=512), target)
    assert passes(found, 512) == pytest.approx(expected, abs=0.03)


@both_kinds
def test_traffic_of_loops(target: Target) -> None:
    def counted(x: Array) -> Array:
        return lax.fori_loop(0, 7, lambda i, y: y + jnp.max(x * y.sum() + i, -1), x[:, 0])

    def data_decides(x: Array) -> Array:
        return lax.while_loop(
            lambda y: y.sum() < 9, lambda y: y + jnp.max(x * y.sum(), -1), x[:, 0]
        )

    for function, trips in ((counted, 7), (data_decides, None)):
        found = program(compiled(function, target, batch=512), target)
        (loop,) = found.loops
        assert loop.trips == trips
        assert passes(found, 512) == pytest.approx(1, abs=0.03)
        a_call = found.total(lambda loop: loop.trips or 3) / (512 * VOCABULARY * 4)
        assert a_call == pytest.approx(trips or 3, abs=0.1)


@pytest.mark.skipif(by_name("TPU v5e").missing is not None, reason="libtpu is not installed")
def test_traffic_is_xla_s_where_it_counts_the_same() -> None:
    """Without loops, and beyond what the on-chip memory holds."""
    target = by_name("TPU v5e")
    for function in (lambda x: jax.nn.softmax(x, -1), lambda x: jax.nn.logsumexp(x, -1)):
        one = compiled(function, target, batch=512)
        expected = one.cost_analysis()["bytes accessed"] / (512 * VOCABULARY * 4)
        assert passes(program(one, target), 512) == pytest.approx(expected, rel=0.02)


@pytest.mark.skipif(by_name("TPU v5e").missing is not None, reason="libtpu is not installed")
def test_on_chip_memory_is_not_main_memory() -> None:
    """16 MB stay on the chip of a TPU v5e: they are read once, however often they are used."""
    target = by_name("TPU v5e")
    text = compiled(lambda x: jax.nn.softmax(x, -1), target).as_text()
    assert text is not None
    assert passes(Program(text), BATCH) < passes(Program(text, on_chip=frozenset()), BATCH) - 1
