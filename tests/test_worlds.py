"""What is declared to be impossible in a world is a test that exists, and a fact of jax is one."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jsoftmax
from jsoftmax import calibration
from tests import worlds
from tests.registry import REGISTRY, Entry

TESTS = Path(__file__).parent


def names_of(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    """The names of the tests and of their classes."""
    yield prefix
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from names_of(node.body, f"{prefix}::{node.name}")
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{prefix}::{node.name}"


@pytest.mark.parametrize("world", worlds.WORLDS)
def test_what_is_declared_exists(world: str) -> None:
    existing: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        existing.update(names_of(body, path.stem.removeprefix("test_")))
    assert worlds.EXCEPTIONS.keys() == worlds.WORLDS.keys()
    assert set(worlds.declared(world)) <= existing
    assert all(len(reason) > 20 for reason in worlds.EXCEPTIONS[world])


def test_an_unknown_world_is_refused() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "--world", "flat", "--co", __file__]
    result = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert result.returncode == 4
    assert "--world: one of x64, debug-nans, leaks, no-jit, no-transfers, got flat" in result.stderr


def test_a_name_covers_what_is_inside_it() -> None:
    node = "tests/test_linear.py::TestMesh::test_equals_dense[no vma]"
    for names in ({"linear"}, {"linear::TestMesh"}, {"linear::TestMesh::test_equals_dense"}):
        assert worlds.is_declared(node, names)
    assert not worlds.is_declared(node, {"linear::TestEdges", "linear::test_equals_dense", "mesh"})


@pytest.mark.parametrize(
    "entry", [entry for entry in REGISTRY if entry.kind not in ("fill", "linear")], ids=str
)
def test_nothing_is_brought_to_the_device(entry: Entry) -> None:
    """Not under jit either, where the logits, labels, masks and settings are there already."""
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    data = [x] if entry.beside is None else [x, entry.beside(x, -1)]
    settings = {name: np.float32(number) for name, number in entry.setting().items()}
    keyed = [jax.random.key(0)] * entry.keyed
    placed = jax.device_put((data, settings, x > -1))
    with jax.transfer_guard("disallow"):
        entry.function(*keyed, *placed[0], **placed[1], where=placed[2])
        if not entry.required:
            entry.function(*keyed, *placed[0])
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            entry.function(*keyed, *data, **settings)


@pytest.mark.parametrize(
    "function",
    [getattr(calibration, f) for f in calibration.__all__ if f[0].islower()],
    ids=lambda f: f.__name__,
)
def test_calibration_brings_nothing_to_the_device(function: Callable[..., Any]) -> None:
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    data = jax.device_put((x, np.zeros(9, np.int32)))
    more = jax.device_put({"where": x > -1, "weights": np.arange(9, dtype=np.float32)})
    if "temperature" in inspect.signature(function).parameters:
        more["temperature"] = jax.device_put(np.float32(0.7))
    with jax.transfer_guard("disallow"):
        function(*data)
        function(*data, **more)


@pytest.mark.parametrize(
    "settings", [{}, {"top_p": 0.9}, {"top_k": 3, "top_p": 0.9}, {"min_p": 0.1}]
)
def test_no_key_is_used_twice(settings: dict[str, float]) -> None:
    x = jnp.zeros((2, 5))
    with jax.debug_key_reuse(True):
        for function in (jsoftmax.sample, jsoftmax.sample_and_log_prob):
            function(jax.random.key(0), x, **settings)
            keys = jax.random.split(jax.random.key(1))
            jax.vmap(lambda key, x, f=function: f(key, x, **settings))(keys, x)
        jsoftmax.gumbel_softmax(jax.random.key(2), x)


def test_online_softmax_brings_nothing_to_the_device() -> None:
    x, v, where = jax.device_put((np.eye(4, dtype=np.float32),) * 2 + (np.eye(4) < 1,))
    with jax.transfer_guard("disallow"):
        state = jsoftmax.OnlineSoftmax.empty((4,), 4).merge(jsoftmax.OnlineSoftmax.of(x, v))
        state = state.update(x, v, where=where)
        got = state.finish(), state.logsumexp()
    want = jsoftmax.logsumexp(
        jnp.concatenate([x, x], -1), where=jnp.concatenate([x < 2, where], -1)
    )
    np.testing.assert_allclose(got[1], want, rtol=1e-6)
    assert got[0].shape == (4, 4)


def test_a_label_out_of_range_in_a_row_where_nothing_is_allowed_meets_no_nan() -> None:
    x, where = jnp.zeros((2, 3)), jnp.array([[True], [False]])
    with jax.debug_nans(True):
        got = jsoftmax.cross_entropy(x, jnp.array([0, -100]), where=where)
    np.testing.assert_allclose(got, [np.log(3), 0], rtol=1e-6)


def test_jax_itself_leaks_where_it_differentiates_shard_map() -> None:
    mesh = jax.make_mesh((2,), ("v",), (AxisType.Auto,), devices=jax.devices()[:2])
    split = jax.shard_map(
        lambda x: jax.lax.psum(jnp.exp(x).sum(), "v"), mesh=mesh, in_specs=P("v"), out_specs=P()
    )
    gradient = jax.jit(jax.grad(split))
    with jax.checking_leaks(), pytest.raises(Exception, match="Leaked trace"):
        gradient(jnp.zeros(4))
