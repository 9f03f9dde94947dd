"""Plain `jit`, rows split over a mesh, no axis_name: right everywhere, O(batch) where said."""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jsoftmax
from examples.collectives import assert_small, collectives
from tests import rows
from tests.layouts import Layout
from tests.registry import FUNCTIONS, Entry

BATCH, LENGTH, SHARDS = 8, 4096, 8
X = np.stack([rows.normal(LENGTH, 2.0, seed) for seed in range(BATCH)])
PAGE = Path(__file__).parents[1] / "docs" / "beyond.md"
AUTO = Layout("auto", (8,), ("vocab",), "vocab")
EXPLICIT = Layout("explicit", (8,), ("vocab",), "vocab", kind=AxisType.Explicit)
BESIDE = Layout(
    "explicit, batch", (2, 4), ("data", "vocab"), "vocab", batch="data", kind=AxisType.Explicit
)

CASES = [
    pytest.param(entry, {"ties": ties} if ties else {}, id=f"{entry}{ties and '-' + ties}")
    for entry in FUNCTIONS
    for ties in (("all", "first") if entry.ties else ("",))
]


def gathering_on_auto_axes() -> set[str]:
    """What the page says that the partitioner moves more of."""
    text = PAGE.read_text(encoding="utf-8")
    found = set()
    for start in ("Not so on Auto axes:", "On CPUs only,"):
        (sentence,) = re.findall(f"^{start} (.*?)\\.$", text, re.MULTILINE | re.DOTALL)
        found |= set(re.findall(r"`(.*?)`", sentence))
    return found


def run(entry: Entry, layout: Layout, static: dict[str, str]) -> jax.stages.Compiled:
    """Compile, compare with the dense result, return the program."""
    settings: dict[str, Any] = entry.setting() | static
    key = jax.random.key(4)
    x = layout.put(X)
    compiled = jax.jit(lambda x, key: entry(x, key=key, **settings)).lower(x, key).compile()
    got, want = compiled(x, key), entry(X, key=key, **settings)
    for one, dense in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, dense, rtol=1e-5, atol=1e-6)
    return compiled


@pytest.mark.parametrize(("entry", "static"), CASES)
def test_auto(entry: Entry, static: dict[str, str]) -> None:
    found = collectives(run(entry, AUTO, static))
    name = entry.name if static.get("ties") != "first" else f'{entry.name}(ties="first")'
    if name in gathering_on_auto_axes():
        # The page would be wrong the other way round too.
        with pytest.raises(AssertionError):
            assert_small(found, 64 * BATCH * SHARDS)
        assert "on Auto mesh axes" in " ".join((entry.function.__doc__ or "").split())
    else:
        assert_small(found, 64 * BATCH * SHARDS)


@pytest.mark.parametrize(("entry", "static"), CASES)
def test_explicit(entry: Entry, static: dict[str, str]) -> None:
    assert_small(collectives(run(entry, EXPLICIT, static)), 64 * BATCH * SHARDS)


@pytest.mark.parametrize(("entry", "static"), CASES[-6:])
def test_explicit_with_the_batch_split(entry: Entry, static: dict[str, str]) -> None:
    run(entry, BESIDE, static)


@pytest.mark.parametrize("length", [100, 2500])
@pytest.mark.parametrize(("entry", "static"), CASES)
def test_vmap_over_an_axis_that_an_explicit_mesh_splits(
    entry: Entry, static: dict[str, str], length: int
) -> None:
    """As a server draws, with a key per row; and a gradient per row."""
    keys = jax.random.split(jax.random.key(4), BATCH)
    settings: dict[str, Any] = entry.setting() | static
    x = X[:, :length]

    def of_row(key: jax.Array, x: jax.Array) -> Any:
        return entry(x, key=key, **settings)

    def slope(key: jax.Array, x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(jnp.cos(of_row(key, x))))(x)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        split = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in (keys, x)]
        for function in (of_row, slope) if entry.differentiable else (of_row,):
            got = jax.jit(jax.vmap(function))(*split)
            want = jax.vmap(function)(keys, x)
            for one, dense in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                assert jax.typeof(one).sharding.spec[0] == "data"
                np.testing.assert_allclose(one, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("entry", [e for e in FUNCTIONS if e.settings], ids=str)
def test_a_setting_a_row_that_every_device_holds(entry: Entry) -> None:
    """As a server has them: a constant of the batch, beside rows that are split by the batch."""
    key = jax.random.key(4)
    some = {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "alpha": 1.5}
    given = {name: value for name, value in some.items() if name in entry.settings}
    settings = {
        name: np.full(BATCH, value, np.float32) for name, value in (given | entry.setting()).items()
    }
    want = entry(X, key=key, **settings)
    x, placed = BESIDE.put(X), jax.tree.map(jnp.asarray, settings)
    got = jax.jit(lambda x, key: entry(x, key=key, **placed))(x, key)
    for one, dense in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [float, np.asarray, jnp.asarray], ids=["number", "numpy", "jax"])
def test_settings_of_eager_calls_without_a_mesh_around_them(kind: Any) -> None:
    x = BESIDE.put(X[:, :64])
    setting = kind(0.7) if kind is float else kind(np.full(BATCH, 0.7, np.float32))
    for function in (jsoftmax.softmax, jsoftmax.log_softmax):
        want = function(X[:, :64], temperature=setting)
        np.testing.assert_allclose(function(x, temperature=setting), want, rtol=1e-5)


@pytest.mark.parametrize("entry", FUNCTIONS, ids=str)
def test_a_mesh_axis_of_one_device(entry: Entry) -> None:
    """Model parallelism of one: XLA fails where it reduces over one device of several."""
    mesh = jax.make_mesh(
        (4, 1), ("data", "vocab"), (AxisType.Explicit,) * 2, devices=jax.devices()[:4]
    )
    key, x = jax.random.key(4), X[:, :128]
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "vocab")))
    want = entry(jnp.asarray(x), key=key, **entry.setting())
    for call in (entry, jax.jit(functools.partial(entry, key=key, **entry.setting()))):
        got = call(split, key=key, **entry.setting()) if call is entry else call(split)
        for one, dense in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(one, dense, rtol=1e-5, atol=1e-6)
            if one.ndim == 2:
                assert jax.typeof(one).sharding.spec == PartitionSpec("data", "vocab")


@pytest.mark.parametrize("entry", [e for e in FUNCTIONS if e.settings], ids=str)
def test_a_setting_that_is_split_over_rows_that_are_not(entry: Entry) -> None:
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Explicit,), devices=jax.devices()[:4])
    key, x = jax.random.key(4), X[:, :128]
    settings = {name: np.full(BATCH, value, np.float32) for name, value in entry.setting().items()}
    want = entry(jnp.asarray(x), key=key, **settings)
    with jax.set_mesh(mesh):
        whole = jax.device_put(x, NamedSharding(mesh, PartitionSpec()))
        placed = jax.device_put(settings, NamedSharding(mesh, PartitionSpec("data")))
        got = jax.jit(lambda x, settings: entry(x, key=key, **settings))(whole, placed)
    for one, dense in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, dense, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_drawn_log_probability_flow_on_an_explicit_mesh() -> None:
    (entry,) = (entry for entry in FUNCTIONS if entry.name == "sample_and_log_prob")
    key = jax.random.key(4)

    def loss(x: jax.Array) -> jax.Array:
        return entry(x, key=key, top_p=0.9)[1].sum()

    got = jax.jit(jax.grad(loss))(EXPLICIT.put(X))
    np.testing.assert_allclose(got, jax.grad(loss)(jax.numpy.asarray(X)), rtol=1e-5, atol=1e-6)
