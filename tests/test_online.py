"""OnlineSoftmax: blocks in any order, carried, merged in trees and across devices."""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jsoftmax import OnlineSoftmax, logsumexp, softmax
from tests import rows

LOGITS = jnp.asarray(rows.normal(2 * 3 * 32, 5.0).reshape(2, 3, 32))
VALUES = jnp.asarray(rows.normal(2 * 32 * 4, 1.0).reshape(2, 32, 4))
WHERE = jnp.asarray(np.random.default_rng(0).random((2, 3, 32)) < 0.4).at[0, 1].set(False)
WHERE = WHERE.at[1, 2, 8:].set(False)
Blocks = tuple[jax.Array, jax.Array, jax.Array]
Function = Callable[[jax.Array, jax.Array], jax.Array]


def dense(logits: jax.Array, values: jax.Array) -> jax.Array:
    return softmax(logits, where=WHERE) @ values


def blocks(logits: jax.Array, values: jax.Array) -> Blocks:
    """Eight blocks of four entries, the block first."""

    def cut(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(2, 3, 8, 4), 2, 0)

    return cut(logits), jnp.moveaxis(values.reshape(2, 8, 4, 4), 1, 0), cut(WHERE)


def of_blocks(logits: jax.Array, values: jax.Array) -> OnlineSoftmax:
    """A state for each block."""

    def one(x: jax.Array, v: jax.Array, w: jax.Array) -> OnlineSoftmax:
        return OnlineSoftmax.of(x, v, where=w)

    return jax.vmap(one)(*blocks(logits, values))


def scanned(logits: jax.Array, values: jax.Array) -> jax.Array:
    def step(state: OnlineSoftmax, block: Blocks) -> tuple[OnlineSoftmax, None]:
        x, v, where = block
        return state.update(x, v, where=where), None

    state, _ = jax.lax.scan(step, OnlineSoftmax.empty((2, 3), 4), blocks(logits, values))
    return state.finish()


def tree(logits: jax.Array, values: jax.Array) -> jax.Array:
    prefixes = jax.lax.associative_scan(OnlineSoftmax.merge, of_blocks(logits, values))
    return jax.tree.map(lambda x: x[-1], prefixes).finish()


def backwards(logits: jax.Array, values: jax.Array) -> jax.Array:
    parts = of_blocks(logits, values)
    state = OnlineSoftmax.empty((2, 3), 4)
    for i in reversed(range(8)):
        state = jax.tree.map(lambda x, i=i: x[i], parts).merge(state)
    return state.finish()


@pytest.mark.parametrize("function", [scanned, tree, backwards])
def test_equals_dense_with_its_gradients(function: Function) -> None:
    """To second order; a row with nothing allowed is 0 with gradient 0."""
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=2e-6)
    got = jax.jit(function)(LOGITS, VALUES)
    close(got, dense(LOGITS, VALUES))
    np.testing.assert_array_equal(got[0, 1], 0)
    weight = jnp.asarray(rows.normal(got.size, 1.0, seed=2).reshape(got.shape))

    def derivatives(f: Function) -> tuple[jax.Array, ...]:
        gradient = jax.grad(lambda x, v: (f(x, v) * weight).sum(), (0, 1))
        first, second = jax.jvp(gradient, (LOGITS, VALUES), (jnp.cos(LOGITS), jnp.sin(VALUES)))
        return *first, *second

    got = jax.jit(derivatives, static_argnums=0)(function)
    chex.assert_tree_all_finite(got)
    close(got, derivatives(dense))
    np.testing.assert_array_equal(np.asarray(got[0])[~WHERE], 0)


@pytest.mark.parametrize("check_vma", [True, False], ids=["vma", "no vma"])
def test_across_devices(check_vma: bool) -> None:
    """Keys split over eight devices: the same result and gradient as dense."""
    mesh = jax.make_mesh((8,), ("keys",), (AxisType.Auto,))

    def local(logits: jax.Array, values: jax.Array, where: jax.Array) -> jax.Array:
        return OnlineSoftmax.of(logits, values, where=where).across("keys").finish()

    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(None, None, "keys"), P(None, "keys"), P(None, None, "keys")),
        out_specs=P(),
        check_vma=check_vma,
    )

    def total(function: Function, logits: jax.Array, values: jax.Array) -> jax.Array:
        y = function(logits, values)
        return (y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)).sum()

    def over_mesh(x: jax.Array, v: jax.Array) -> jax.Array:
        return sharded(x, v, WHERE)

    got = jax.jit(jax.value_and_grad(lambda x, v: total(over_mesh, x, v), (0, 1)))(LOGITS, VALUES)
    want = jax.value_and_grad(lambda x, v: total(dense, x, v), (0, 1))(LOGITS, VALUES)
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=2e-6)


def test_the_state_of_no_entries_is_the_identity() -> None:
    state = OnlineSoftmax.of(LOGITS, VALUES, where=WHERE)
    empty = OnlineSoftmax.empty((2, 3), 4)
    chex.assert_trees_all_equal(state.merge(empty), state)
    chex.assert_trees_all_equal(empty.merge(state), state)
    np.testing.assert_array_equal(empty.finish(), 0)
    np.testing.assert_array_equal(empty.logsumexp(), -np.inf)


def test_the_normalizer() -> None:
    state = OnlineSoftmax.of(LOGITS[..., :9], VALUES[:, :9], where=WHERE[..., :9])
    state = state.update(LOGITS[..., 9:], VALUES[:, 9:], where=WHERE[..., 9:])
    np.testing.assert_allclose(state.logsumexp(), logsumexp(LOGITS, where=WHERE), rtol=1e-6)

    def total(x: jax.Array) -> jax.Array:
        value = OnlineSoftmax.of(x, VALUES, where=WHERE).logsumexp()
        return jnp.where(jnp.isfinite(value), value, 0).sum()

    np.testing.assert_allclose(jax.grad(total)(LOGITS), softmax(LOGITS, where=WHERE), rtol=1e-5)


def test_a_sink_takes_mass_and_gives_nothing() -> None:
    sink = jnp.array([[0.5, 30.0, -np.inf], [1.0, 2.0, 3.0]], LOGITS.dtype)
    state = OnlineSoftmax.of(LOGITS, VALUES, where=WHERE)
    got = state.update(sink[..., None], jnp.zeros((1, 4), VALUES.dtype)).finish()
    wide = jnp.concatenate([LOGITS, sink[..., None]], -1)
    where = jnp.concatenate([WHERE, jnp.ones_like(WHERE[..., :1])], -1)
    want = softmax(wide, where=where)[..., :-1] @ VALUES
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_extreme_and_broken_logits() -> None:
    x = jnp.array(
        [[3e38, -3e38, 0.0], [-200.0, -300.0, -np.inf], [1.0, np.nan, 0.0], [0, np.inf, 0]]
    )
    for cut in (1, 2):
        state = OnlineSoftmax.of(x[:, :cut], jnp.eye(3)[:cut])
        got = state.update(x[:, cut:], jnp.eye(3)[cut:]).finish()
        np.testing.assert_allclose(got[:2], softmax(x[:2]), rtol=1e-6)
        assert np.isnan(got[2:]).all()
    where = np.array([True, False, True])
    got = OnlineSoftmax.of(x, jnp.eye(3), where=where).finish()
    np.testing.assert_allclose(got, softmax(x, where=where), rtol=1e-6)


def test_half_precision_is_accumulated_in_float32() -> None:
    x, v = LOGITS.astype(jnp.bfloat16), VALUES.astype(jnp.bfloat16)
    for values in (v, v.astype(jnp.float32)):
        state = OnlineSoftmax.of(x, values)
        assert {leaf.dtype for leaf in state} == {np.dtype("float32")}
        want = softmax(x.astype(jnp.float32)) @ v.astype(jnp.float32)
        tolerance = 2e-2 if values is v else 1e-5
        np.testing.assert_allclose(state.finish(), want, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(state.total, OnlineSoftmax.of(x, v).total, rtol=1e-6)
    with jax.enable_x64(True):
        assert OnlineSoftmax.of(np.zeros((2, 3)), np.zeros((3, 1))).finish().dtype == jnp.float64


def test_states_of_other_ranks_and_dtypes_merge() -> None:
    state = OnlineSoftmax.of(LOGITS, VALUES)
    for empty in (OnlineSoftmax.empty((), 4), OnlineSoftmax.empty([3], 4)):
        for merged in (state.merge(empty), empty.merge(state)):
            np.testing.assert_array_equal(merged.finish(), state.finish())
    with jax.enable_x64(True):
        wide = state.merge(OnlineSoftmax.empty((2, 3), 4, "float64"))
        assert wide.finish().dtype == np.float64


def test_values_of_more_batch_axes_than_the_logits() -> None:
    x, v = LOGITS[0], VALUES
    state = OnlineSoftmax.of(x[:, :20], v[:, :20]).update(x[:, 20:], v[:, 20:])
    np.testing.assert_allclose(state.finish(), softmax(x)[None] @ v, rtol=1e-6)


def test_a_block_whose_values_have_more_batch_axes() -> None:
    state = OnlineSoftmax.empty((3,), 4).update(LOGITS[0], VALUES)
    np.testing.assert_allclose(state.finish(), softmax(LOGITS[0])[None] @ VALUES, rtol=1e-6)


def test_a_symbolic_batch_is_exported() -> None:
    (batch,) = jax.export.symbolic_shape("batch")

    def mean(x: jax.Array) -> jax.Array:
        return OnlineSoftmax.empty(x.shape[:-1], 4).update(x, VALUES[0]).finish()

    exported = jax.export.export(jax.jit(mean))(jax.ShapeDtypeStruct((batch, 32), jnp.float32))
    np.testing.assert_allclose(exported.call(LOGITS[0]), mean(LOGITS[0]), rtol=1e-6)


def test_errors() -> None:
    for arguments, kind, words in (
        (([1.0], VALUES), TypeError, "logits must be an array"),
        ((LOGITS, "v"), TypeError, "values must be an array"),
        ((LOGITS, VALUES[:, :5]), ValueError, r"values must have shape \[..., K, F\].*\(2, 5, 4\)"),
        ((LOGITS[0, 0], VALUES[0, 0]), ValueError, "values must have shape"),
        ((LOGITS, jnp.ones((3, 32, 4))), ValueError, r"values must have shape.*\(3, 32, 4\)"),
    ):
        with pytest.raises(kind, match=rf"OnlineSoftmax\.of: {words}"):
            OnlineSoftmax.of(*arguments)
    state = OnlineSoftmax.of(LOGITS, VALUES)
    with pytest.raises(ValueError, match=r"OnlineSoftmax\.update: values must have shape"):
        state.update(LOGITS, VALUES[:, :5])
    with pytest.raises(TypeError, match="where must be boolean"):
        OnlineSoftmax.of(LOGITS, VALUES, where=jnp.ones(32))
    for arguments, kind, words in (
        ((2, 3), TypeError, "batch must be a tuple or list, got int"),
        (((2.5,), 3), TypeError, "batch must be an integer, got 2.5"),
        (((-1,), 3), ValueError, "batch must be at least 0, got batch=-1"),
        (((2,), -3), ValueError, "features must be at least 0, got features=-3"),
        (((2,), 3, "int32"), TypeError, "dtype must be float32 or float64, got int32"),
        (((2,), 3, "foo"), TypeError, "dtype must be float32 or float64, got foo"),
    ):
        with pytest.raises(kind, match=f"OnlineSoftmax.empty: {words}"):
            OnlineSoftmax.empty(*arguments)
    state = OnlineSoftmax.of(LOGITS, VALUES)
    for other, kind, words in (
        (3, TypeError, "be an OnlineSoftmax, got int"),
        (OnlineSoftmax.empty((2, 3), 1), ValueError, r"same size.*\(2, 3, 1\) for \(2, 3, 4\)"),
        (OnlineSoftmax.empty((5,), 4), ValueError, r"batch shape.*\(5, 4\) for \(2, 3, 4\)"),
    ):
        with pytest.raises(kind, match=f"OnlineSoftmax.merge: other must.* {words}"):
            state.merge(other)
    with pytest.raises(ValueError, match="axis_name must name mesh axes"):
        OnlineSoftmax.of(LOGITS, VALUES).across("keys")
