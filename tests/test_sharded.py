"""axis_name: inside `shard_map` every function means what it means dense, on every kind of mesh."""

import functools
import re
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax
from jsoftmax._reduce import row_cumsum
from jsoftmax._typing import Along
from tests import reference, rows
from tests.layouts import AUTO, EXPLICIT, LAYOUTS, UNCHECKED, Layout, shards
from tests.registry import DIFFERENTIABLE, FUNCTIONS, Entry
from tests.statistics import assert_fits

LENGTH = 61
"""The last of eight shards of 8 has five entries: `where` tells which."""
NAMES, ROWS = rows.stacked(LENGTH, seed=3)
BROKEN = np.where(np.arange(LENGTH) == 50, np.nan, ROWS[0])
LOGITS = np.concatenate([ROWS, BROKEN[None]]).astype(np.float32)
WHERE = np.random.default_rng(0).random(LOGITS.shape) < 0.8
WHERE[5] = False

layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def padded(layout: Layout, x: Any, where: Any) -> tuple[jax.Array, jax.Array]:
    """Rows of 61 as 64, on the mesh: behind their end lies what must not be looked at."""
    fill = jnp.full((len(x), 3), jnp.nan, x.dtype)
    absent = jnp.zeros((len(x), 3), bool)
    return layout.put(jnp.concatenate([x, fill], -1)), layout.put(
        jnp.concatenate([jnp.asarray(where), absent], -1)
    )


@layouts
@pytest.mark.parametrize("entry", FUNCTIONS, ids=str)
def test_equals_dense(entry: Entry, layout: Layout) -> None:
    settings = entry.setting()
    for static in ({"ties": "all"}, {"ties": "first"}) if entry.ties else ({},):
        function = jax.jit(layout.on_shards(entry, **settings, **static))
        got = function(*padded(layout, LOGITS, WHERE), jax.random.key(2))
        if entry.keyed:
            entry.check(jax.tree.map(np.asarray, got), LOGITS, settings, WHERE)
            continue
        dense = entry(LOGITS, where=WHERE, **settings, **static)
        if entry.kind == "reduction":
            np.testing.assert_allclose(got, dense, rtol=1e-5, atol=1e-6)
            continue
        got, behind = np.split(np.asarray(got), [LENGTH], axis=-1)
        if entry.kind == "mask":
            # Identical, but in a row where the cut lies between entries that differ by rounding.
            must, may = entry.expected(LOGITS, settings, WHERE)
            decided = (must == may).all(-1)
            assert decided.mean() > 0.7
            np.testing.assert_array_equal(got[decided], np.asarray(dense)[decided])
            assert not behind.any()
        else:
            np.testing.assert_allclose(got, dense, rtol=1e-5, atol=1e-6)
            zero = entry.name in ("softmax", "sparsemax", "entmax")
            assert (behind == (0 if zero else -np.inf)).all()


@pytest.mark.parametrize("layout", [EXPLICIT, UNCHECKED], ids=str)
@pytest.mark.parametrize("entry", DIFFERENTIABLE, ids=str)
def test_gradients_equal_dense(entry: Entry, layout: Layout) -> None:
    """jvp, vjp, and the second order: forward over reverse."""
    x, where = jnp.asarray(ROWS[:20]), jnp.asarray(WHERE[:20])
    tangent = jnp.asarray(rows.normal(x.size, 1.0, seed=8).reshape(x.shape))
    shape = x.shape if entry.kind == "map" else x.shape[:1]
    weight = jnp.cos(jnp.arange(np.prod(shape), dtype=x.dtype)).reshape(shape)

    def total(function: Callable[..., Any], x: jax.Array, where: Any, weight: Any) -> jax.Array:
        y = function(x, where)
        finite = jnp.isfinite(y)
        return jnp.where(finite, jnp.where(finite, y, 0) * weight, 0).sum()

    def derivatives(
        function: Callable[..., Any], x: Any, where: Any, tangent: Any, weight: Any
    ) -> list[jax.Array]:
        of = functools.partial(total, function, where=where, weight=weight)
        gradient, second = jax.jvp(jax.grad(of), (x,), (tangent,))
        return [jax.jvp(of, (x,), (tangent,))[1], gradient, second]

    def on_shards(x: jax.Array, where: jax.Array) -> jax.Array:
        return layout.on_shards(entry, **entry.setting())(x, where, jax.random.key(0))

    want = derivatives(
        lambda x, where: entry(x, where=where, **entry.setting()), x, where, tangent, weight
    )
    xs, wheres = padded(layout, x, where)
    tangents, _ = padded(layout, tangent, where)
    if entry.kind == "map":
        weight, _ = padded(layout, weight, where)
    got = jax.jit(functools.partial(derivatives, on_shards))(
        xs, wheres, jnp.nan_to_num(tangents), jnp.nan_to_num(weight)
    )
    got = jax.tree.map(np.asarray, got)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-4)
    for i in (1, 2):
        chex.assert_tree_all_finite(got[i])
        np.testing.assert_allclose(got[i][:, :LENGTH], want[i], rtol=1e-3, atol=1e-4)
        assert (got[i][:, LENGTH:] == 0).all()


def test_samples_follow_the_truncated_distribution() -> None:
    (entry,) = (entry for entry in FUNCTIONS if entry.name == "sample")
    settings = {"temperature": 0.8, "top_k": 20.0, "top_p": 0.9, "min_p": 0.01}
    x = rows.normal(64, 1.0, seed=3)
    draw = jax.jit(UNCHECKED.on_shards(entry, **settings))
    many, where = np.broadcast_to(x, (20000, 64)), np.ones((20000, 64), bool)
    tokens = np.concatenate([draw(many, where, jax.random.key(seed)) for seed in range(3)])
    probability = reference.over_rows(reference.sampled_row, x, *settings.values())
    assert_fits(np.bincount(tokens, minlength=64), probability, "sharded")


def off_and_on(count: int, off: float, *on: float) -> np.ndarray:
    """A setting for each row, off in some."""
    return np.resize(np.array([off, *on], np.float32), count)


SAMPLED = {
    "all of it": {},
    "top-p": {"top_p": 0.9},
    "every setting, off and on": {
        "temperature": off_and_on(256, 0.0, 0.7, 1.0, 1.5, 1.0, 1.0, 3.0),
        "top_k": off_and_on(256, 0, 0, 50, 3, 500),
        "top_p": off_and_on(256, 1.0, 0.9, 0.5),
        "min_p": off_and_on(256, 0.0, 0.01),
    },
}


@pytest.mark.parametrize("length", [5000, pytest.param(16032, marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", SAMPLED.values(), ids=SAMPLED)
def test_the_number_of_shards_does_not_decide_the_token(
    settings: dict[str, Any], length: int
) -> None:
    (entry,) = (entry for entry in FUNCTIONS if entry.name == "sample")
    key = jax.random.key(11)
    x = np.stack([rows.normal(length, 3.0, seed) for seed in range(256)])
    x[::5] = rows.bf16(x[::5])
    dense = np.asarray(jax.jit(functools.partial(jsoftmax.sample, **settings))(key, x))
    for count in (1, 2, 4, 8):
        got = jax.jit(shards(count).on_shards(entry, **settings))(x, np.ones(x.shape, bool), key)
        different = np.flatnonzero(np.asarray(got) != dense)
        # Whether top-p keeps an entry is a comparison of float sums: only one that the masks'
        # own tests leave open may fall on either side.
        for row in different:
            one = {
                name: value[row] if np.ndim(value) else value for name, value in settings.items()
            }
            must, may = reference.over_rows(
                reference.truncation_row, x[row : row + 1], *[one.get(n) for n in entry.settings]
            )
            assert (must != may).any(), f"{count} shards, row {row}: {got[row]}, not {dense[row]}"
        assert len(different) <= 1


def test_greedy_is_the_lowest_global_index() -> None:
    (entry,) = (entry for entry in FUNCTIONS if entry.name == "sample")
    x = np.zeros((4, 64), np.float32)
    x[1, [60, 33, 40]] = 1
    x[2, [15, 16]] = 1
    x[3] = -np.inf
    got = jax.jit(AUTO.on_shards(entry, temperature=0.0))(
        x, np.ones_like(x, bool), jax.random.key(0)
    )
    np.testing.assert_array_equal(got, [0, 33, 15, 0])


PROMPTS = np.stack([rows.normal(2048, 3.0, seed) for seed in range(3)])
NUMBERS = np.float32([0.2, 0.5, 0.9, 0.4])


def for_each_sample(call: Callable[..., jax.Array], columns: str | None) -> jax.Array:
    """A key and a number for each of four devices, or pairs of them, and the same prompts."""
    mesh = jax.make_mesh((4, 2), ("samples", "vocab"), (AxisType.Auto,) * 2)
    split = jax.shard_map(
        lambda keys, x, numbers: call(keys[0], x, numbers[0])[None],
        mesh=mesh,
        in_specs=(P("samples"), P(None, columns), P("samples")),
        out_specs=P("samples"),
    )
    return jax.jit(split)(jax.random.split(jax.random.key(0), 4), PROMPTS, NUMBERS)


@pytest.mark.parametrize(
    "sampler",
    [
        jsoftmax.sample,
        functools.partial(jsoftmax.sample, top_k=9, min_p=0.01),
        functools.partial(jsoftmax.sample, top_p=0.8),
        lambda *given, **named: jsoftmax.sample_and_log_prob(*given, top_p=0.8, **named)[1],
    ],
    ids=["all", "top-k", "top-p", "log-probability"],
)
def test_a_key_and_a_temperature_vary_where_the_logits_do_not(
    sampler: Callable[..., jax.Array],
) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    got = for_each_sample(lambda key, x, _: sampler(key, x), None)
    np.testing.assert_allclose(got, [sampler(key, PROMPTS) for key in keys], rtol=1e-5)

    def at(key: jax.Array, x: jax.Array, t: jax.Array, **named: Any) -> jax.Array:
        return sampler(key, x, temperature=t, **named)

    got = for_each_sample(functools.partial(at, axis_name="vocab"), "vocab")
    want = [at(key, PROMPTS, t) for key, t in zip(keys, NUMBERS, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(
    "mask",
    [
        jsoftmax.top_p_mask,
        jsoftmax.typical_mask,
        lambda x, p: jsoftmax.top_k_mask(x, 100 * p),
        lambda x, p: jsoftmax.truncation_mask(x, temperature=p, top_p=p, min_p=p),
    ],
    ids=["top_p", "typical", "top_k", "truncation"],
)
def test_a_setting_varies_where_the_logits_do_not(mask: Callable[..., jax.Array]) -> None:
    got = for_each_sample(lambda _, x, p: mask(x, p), None)
    np.testing.assert_array_equal(got, [mask(PROMPTS, p) for p in NUMBERS])


@pytest.mark.parametrize(
    "function",
    [jsoftmax.softmax, jsoftmax.log_softmax, jsoftmax.logsumexp, jsoftmax.entropy],
)
def test_gradients_where_the_temperature_varies_and_the_logits_do_not(
    function: Callable[..., jax.Array],
) -> None:
    mesh = jax.make_mesh((4,), ("samples",), axis_types=(AxisType.Auto,))

    def loss(x: jax.Array, t: jax.Array) -> jax.Array:
        y = jnp.atleast_1d(function(x, temperature=t))
        return (y * jnp.cos(jnp.arange(y.size))).sum()

    def here(x: jax.Array, t: jax.Array) -> jax.Array:
        return loss(x, t[0])[None]

    split = jax.shard_map(here, mesh=mesh, in_specs=(P(), P("samples")), out_specs=P("samples"))
    x, t = jnp.asarray(PROMPTS[0]), jnp.asarray(NUMBERS)
    got = jax.jit(jax.grad(lambda x, t: split(x, t).sum(), argnums=(0, 1)))(x, t)
    want = jax.grad(lambda x, t: jax.vmap(loss, (None, 0))(x, t).sum(), argnums=(0, 1))(x, t)
    chex.assert_trees_all_close(got, want, rtol=2e-5, atol=1e-6)


def test_a_map_over_another_mesh_axis() -> None:
    """As the page says: without check_vma, or jax refuses the constants inside of loops."""
    mesh = jax.make_mesh((2, 2), ("batch", "vocab"), axis_types=(AxisType.Auto,) * 2)
    x, key = rows.normal(4 * 3 * 64, 2.0).reshape(4, 3, 64), jax.random.key(0)

    def both(x: jax.Array, **where: Any) -> tuple[jax.Array, jax.Array]:
        return jsoftmax.softmax(x, **where), jsoftmax.sample(key, x, top_p=0.9, **where)

    split = jax.shard_map(
        functools.partial(both, axis_name="vocab"),
        mesh=mesh,
        in_specs=P(None, "vocab"),
        out_specs=(P(None, "vocab"), P()),
        check_vma=False,
    )
    got = jax.jit(jax.vmap(split, spmd_axis_name="batch"))(x)
    chex.assert_trees_all_close(got, jax.vmap(both)(x), rtol=1e-6)


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


def narrow_sums(program: str) -> list[str]:
    """The types of what is summed over devices in half precision."""
    sums = re.findall(r'"stablehlo\.all_reduce"[\s\S]*?\}\) : \((tensor<[^)]*)\) ->', program)
    return [types for types in sums if "bf16" in types or "xf16" in types]


@pytest.mark.parametrize("entry", FUNCTIONS, ids=str)
def test_what_crosses_of_half_precision_is_wide(entry: Entry) -> None:
    """XLA:CPU dies of a sum in bfloat16 over some axes of a mesh, and not by an exception."""
    mesh = jax.make_mesh((2, 4), ("batch", "vocab"), (AxisType.Auto,) * 2)
    out = P(None, "vocab") if entry.kind in ("map", "mask") else P(None)
    of_shards = jax.shard_map(
        lambda x: entry(x, axis_name="vocab", **entry.setting()),
        mesh=mesh,
        axis_names={"vocab"},
        in_specs=P(None, "vocab"),
        out_specs=(out, out) if entry.pair else out,
    )
    x = jax.ShapeDtypeStruct((4, 2048), jnp.bfloat16)
    program = jax.jit(of_shards).lower(x).as_text()
    assert "all_reduce" in program
    assert not narrow_sums(program)
    if entry.differentiable or entry.pair:

        def total(x: jax.Array) -> jax.Array:
            y = of_shards(x)
            return jnp.sum((y[1] if entry.pair else y).astype(jnp.float32))

        assert not narrow_sums(jax.jit(jax.grad(total)).lower(x).as_text())


def test_a_narrow_sum_is_seen() -> None:
    mesh = jax.make_mesh((8,), ("vocab",), (AxisType.Auto,))
    summed = jax.shard_map(
        lambda x: jax.lax.psum(x, "vocab"), mesh=mesh, in_specs=P("vocab"), out_specs=P()
    )
    for dtype, seen in ((jnp.bfloat16, True), (jnp.float16, True), (jnp.float32, False)):
        program = jax.jit(summed).lower(jax.ShapeDtypeStruct((8,), dtype)).as_text()
        assert bool(narrow_sums(program)) == seen


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_draws_of_half_precision_over_some_axes_of_a_mesh(dtype: str) -> None:
    x = jnp.asarray(np.stack([rows.normal(1024, 3.0, seed) for seed in range(4)]), dtype)
    mesh = jax.make_mesh((2, 4), ("batch", "vocab"), (AxisType.Explicit,) * 2)
    placed = jax.device_put(x, NamedSharding(mesh, P(None, "vocab")))
    key = jax.random.key(0)
    want = jsoftmax.sample_and_log_prob(key, x, top_p=0.9)
    got = jsoftmax.sample_and_log_prob(key, placed, top_p=0.9)
    np.testing.assert_array_equal(got[0], want[0])
    chex.assert_trees_all_close(jax.device_get(got[1]), jax.device_get(want[1]), atol=0.02)
    np.testing.assert_array_equal(jsoftmax.sample(key, placed, top_p=0.9), want[0])
