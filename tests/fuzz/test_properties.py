"""Every property of every function, driven by hypothesis; and that the properties can fail."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import jsoftmax
from jsoftmax import calibration
from tests import reference
from tests.fuzz.entries import EVERY, from_linear
from tests.fuzz.every import PROPERTIES
from tests.fuzz.fake import Fake
from tests.fuzz.long import cells_of
from tests.fuzz.properties import Property, ViolationError, check, examine, properties_of
from tests.fuzz.strategies import CLASSES, at_random, batches
from tests.fuzz.traits import traits
from tests.registry import ONE, TEMPERATURE, TRUNCATION, TRUNCATION_OFF, Entry

# Without a database: nothing is written into the repository.
suite = settings(
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=4,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
LEAST = {"simplex": 10, "log": 10, "scaled": 10, "number": 10, "mask": 10, "token": 6}
"""How many properties a function meets at least, by what it returns; noise has fewer."""
NAMED = {prop.name: prop for prop in PROPERTIES}


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled() -> Iterator[None]:
    """As in the modules that ask what a function means; the long mode compiles wholly."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def case(entry: Entry, prop: Property) -> Any:
    return pytest.param(
        entry, prop, id=f"{entry.name}-{prop}", marks=pytest.mark.xdist_group(f"fuzz {entry.name}")
    )


@pytest.mark.parametrize(("entry", "prop"), [case(*cell) for cell in cells_of(EVERY)])
def test_property(entry: Entry, prop: Property) -> None:
    @suite
    @given(batches((32, 7)))
    def run(batch: Any) -> None:
        check(entry, prop, batch)

    run()


LIGHT = [case(entry, prop) for entry, prop in cells_of(EVERY) if prop.light]


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "prop"), LIGHT)
@pytest.mark.parametrize("shape", [(32, 1), (16, 130)], ids=["1", "130"])
def test_property_of_other_lengths(entry: Entry, prop: Property, shape: tuple[int, int]) -> None:
    @suite
    @given(batches(shape))
    def run(batch: Any) -> None:
        check(entry, prop, batch)

    run()


@pytest.mark.parametrize("entry", EVERY, ids=str)
def test_properties_in_float64(entry: Entry) -> None:
    light = [prop for prop in properties_of(entry, PROPERTIES) if prop.light]
    with jax.enable_x64(True):
        for prop in light:
            for seed in range(4):
                check(entry, prop, at_random(seed, 32, 7, np.float64))


# --- nothing is left out ---------------------------------------------------------------------


def test_everything_public_is_fuzzed() -> None:
    left_out = {*jsoftmax.__all__, *calibration.__all__} - {entry.name for entry in EVERY}
    assert left_out == {
        "calibration",
        "checked",
        "mask_logits",  # has no axis
        "ReliabilityCurve",
        "reliability_curve",  # what the errors of calibration are made of
    }


@pytest.mark.parametrize("entry", EVERY, ids=str)
def test_a_function_meets_many_properties(entry: Entry) -> None:
    least = LEAST[traits(entry).shape]
    if entry.keyed:
        least = 6
    least = {"temperature_scale": 9, "fit_temperature": 8}.get(entry.name, least)
    assert len(properties_of(entry, PROPERTIES)) >= least


@pytest.mark.parametrize("prop", PROPERTIES, ids=str)
def test_a_property_has_functions_and_checks_rows(prop: Property) -> None:
    entries = [entry for entry in EVERY if prop.applies(entry, traits(entry))]
    assert entries
    assert prop.check.__doc__


def test_what_the_reference_says_of_each_function() -> None:
    idempotent = {entry.name: traits(entry).idempotent for entry in EVERY}
    assert {name: found for name, found in idempotent.items() if found} == {
        "top_k_mask": ("k",),
        "min_p_mask": ("min_p",),
        "epsilon_mask": ("epsilon",),
        "truncation_mask": ("top_k", "min_p"),
    }
    growing = {name: way for entry in EVERY for name, way in traits(entry).growing.items()}
    assert growing == {
        "k": True, "p": True, "mass": True, "n": True, "top_k": True, "top_p": True,
        "min_p": False, "epsilon": False,
    }  # fmt: skip
    shifts = {entry.name: traits(entry).shift for entry in EVERY}
    assert shifts["logsumexp"] == 1
    assert {name for name, shift in shifts.items() if shift is None} == {
        "temperature_scale", "linear_cross_entropy_capped", "linear_log_prob_capped",
    }  # fmt: skip
    assert [e.name for e in EVERY if traits(e).scale_free] == ["fit_temperature"]
    assert [e.name for e in EVERY if e.kind == "mask" and not traits(e).upward] == ["typical_mask"]


def test_rows_are_of_every_kind() -> None:
    x = np.concatenate([at_random(seed, 512, 7).x for seed in range(4)])
    tiny = np.finfo(np.float32).tiny
    assert np.isnan(x).any(-1).mean() > 0.02
    assert (x == np.inf).any(-1).mean() > 0.01
    assert (x == -np.inf).all(-1).mean() > 0.01
    assert ((x != 0) & (np.abs(x) < tiny)).any(-1).mean() > 0.02
    assert (np.sort(x)[:, 1:] == np.sort(x)[:, :-1]).any(-1).mean() > 0.2
    assert len({name for seed in range(4) for name in at_random(seed, 512, 1).names}) == len(
        CLASSES
    )


def test_hypothesis_writes_nothing() -> None:
    assert suite.database is None


# --- the properties can fail -----------------------------------------------------------------


def softmax_like(call: Callable[..., Any]) -> Fake:
    return Fake(
        "broken", "map", reference.softmax_row, TEMPERATURE, ONE, differentiable=True, call=call
    )


def changed(change: Callable[[jax.Array, jax.Array], jax.Array]) -> Fake:
    """softmax, and then something done to it, given the logits too."""

    def call(x: Any, axis: int = -1, *, where: Any, temperature: Any) -> jax.Array:
        return change(jsoftmax.softmax(x, axis, where=where, temperature=temperature), x)

    return softmax_like(call)


def without_the_maximum(x: Any, axis: int = -1, *, where: Any, temperature: Any) -> jax.Array:
    """exp(x) overflows."""
    mass = jnp.where(where, jnp.exp(jnp.where(where, x, 0) / temperature[:, None]), 0)
    return mass / mass.sum(axis, keepdims=True)


def in_the_dtype_of_the_logits(
    x: Any, axis: int = -1, *, where: Any, temperature: Any = None
) -> jax.Array:
    kept = jnp.where(where, x, jnp.asarray(-jnp.inf, x.dtype))
    z = kept - kept.max(axis, keepdims=True)
    if temperature is not None:
        z = z / temperature[:, None].astype(x.dtype)
    return jnp.exp(z) / jnp.exp(z).sum(axis, keepdims=True, dtype=x.dtype)


def with_a_leaking_gradient(x: Any, axis: int = -1, *, where: Any, temperature: Any) -> jax.Array:
    y = jsoftmax.softmax(x, axis, where=where, temperature=temperature)
    fraction = jnp.where(where & jnp.isfinite(x), x, 0)
    return y + (fraction - jax.lax.stop_gradient(fraction))


def with_a_gradient_in_parts(x: Any, axis: int = -1, *, where: Any, temperature: Any) -> jax.Array:
    """logsumexp less the largest logit and with it: in half precision each part is rounded."""
    kept = jnp.where(where & jnp.isfinite(x), x, jnp.asarray(-1e4, x.dtype))
    largest = jnp.max(kept, axis)
    y = jsoftmax.logsumexp(x, axis, where=where, temperature=temperature)
    return y - largest + largest


def behind_the_mask(x: Any, axis: int = -1, *, where: Any, temperature: Any) -> jax.Array:
    """The masked logits weigh a little."""
    low = jnp.where(where, x, jnp.where(jnp.isfinite(x), x - 3, -jnp.inf))
    return jsoftmax.softmax(low, axis, temperature=temperature)


def one_shard_alone(
    x: Any, axis: int = -1, *, where: Any, temperature: Any, axis_name: Any = None
) -> jax.Array:
    del axis_name
    return jsoftmax.softmax(x, axis, where=where, temperature=temperature)


def of_the_temperature_squared(
    x: Any, axis: int = -1, *, where: Any, temperature: Any
) -> jax.Array:
    return jsoftmax.softmax(x, axis, where=where, temperature=temperature**2)


def at_two_if_none_is_given(
    x: Any, axis: int = -1, *, where: Any, temperature: Any = 2.0
) -> jax.Array:
    return jsoftmax.softmax(x, axis, where=where, temperature=temperature)


def with_another_transpose(x: Any, axis: int = -1, *, where: Any, temperature: Any) -> jax.Array:
    """That of the identity is 1.01."""
    x = jax.custom_derivatives.linear_call(lambda _, x: x, lambda _, g: 1.01 * g, (), x)
    return jsoftmax.softmax(x, axis, where=where, temperature=temperature)


def keeping_nothing_for_two(x: Any, k: Any, *, axis: int = -1, where: Any = None) -> jax.Array:
    return jsoftmax.top_k_mask(x, k, axis=axis, where=where) & (k != 2)[:, None]


def keeping_three_if_off(x: Any, k: Any, *, axis: int = -1, where: Any = None) -> jax.Array:
    return jsoftmax.top_k_mask(x, jnp.where(k <= 0, 3, k), axis=axis, where=where)


def keeping_fewer_of_few(x: Any, k: Any, *, axis: int = -1, where: Any = None) -> jax.Array:
    """One fewer, where as many are allowed as are kept."""
    allowed = jnp.sum(where & (x > -jnp.inf), axis=axis, dtype=x.dtype)
    fewer = jnp.where((k > 1) & (allowed <= k), k - 1, k)
    return jsoftmax.top_k_mask(x, fewer, axis=axis, where=where)


def keeping_every_tie(
    x: Any, k: Any, *, axis: int = -1, where: Any = None, ties: str = "all"
) -> jax.Array:
    """All of them, or all but the first."""
    every = jsoftmax.top_k_mask(x, k, axis=axis, where=where)
    first = jsoftmax.top_k_mask(x, k, axis=axis, where=where, ties="first")
    return every if ties == "all" else every & ~(first & (x == x.min(axis, keepdims=True)))


def anywhere(key: Any, x: Any, *, axis: int = -1, where: Any, temperature: Any) -> jax.Array:
    """A relaxed draw that does not heed the mask."""
    del where, temperature
    return jax.nn.softmax(jax.random.gumbel(key, x.shape, x.dtype), axis)


def dropping_a_tie(x: Any, k: Any, *, axis: int = -1, where: Any = None) -> jax.Array:
    return jsoftmax.top_k_mask(x, k, axis=axis, where=where, ties="first")


def with_another_k(x: Any, k: Any, *, axis: int = -1, where: Any = None) -> jax.Array:
    """5 keeps less than 4."""
    return jsoftmax.top_k_mask(x, jnp.where(k == 5, 2, k), axis=axis, where=where)


def ignoring_the_mask(key: Any, x: Any, *, axis: int = -1, where: Any, **settings: Any) -> Any:
    del where, settings
    return jsoftmax.sample(key, x, axis=axis)


def along_the_last_axis(x: Any, axis: int = -1, *, where: Any, temperature: Any) -> jax.Array:
    """Another axis is laid there, but not moved."""
    size, shape = x.shape[axis], x.shape
    x, where = (jnp.reshape(of, (-1, size)) for of in (x, where))
    y = jsoftmax.softmax(x, where=where, temperature=temperature.reshape(-1))
    return y.reshape(shape)


def with_another_number(x: Any, axis: int = -1, *, where: Any, temperature: Any) -> jax.Array:
    """Of all rows it is another than of each."""
    if jnp.ndim(temperature) == 0:
        temperature = 1.001 * temperature
    return jsoftmax.softmax(x, axis, where=where, temperature=temperature)


def with_another_integer(x: Any, k: Any, *, axis: int = -1, where: Any = None) -> jax.Array:
    if jnp.issubdtype(jnp.result_type(k), jnp.integer):
        k = jnp.maximum(k - 1, 1)
    return jsoftmax.top_k_mask(x, k, axis=axis, where=where)


def with_one_mask(x: Any, axis: int = -1, *, where: Any, temperature: Any) -> jax.Array:
    """One that is broadcast lets the first entry in."""
    if where is not None and where.size < x.size:
        where = jnp.broadcast_to(where, x.shape).at[:, 0].set(True)
    return jsoftmax.softmax(x, axis, where=where, temperature=temperature)


@jax.custom_batching.custom_vmap
def drawn_from_one_key(key: Any, x: Any, where: Any) -> jax.Array:
    return jsoftmax.sample(key, x, where=where)


@drawn_from_one_key.def_vmap
def _(size: int, split: Any, keys: Any, x: Any, where: Any) -> tuple[jax.Array, bool]:
    """The first row's key serves all."""
    del size, split
    return jsoftmax.sample(keys[0], x, where=where), True


def of_one_key(key: Any, x: Any, *, axis: int = -1, where: Any, **settings: Any) -> Any:
    del axis, settings
    return drawn_from_one_key(key, x, where)


def k_mask(call: Callable[..., Any], *, ties: bool = False) -> Fake:
    row, values = reference.top_k_row, {"k": (2.0, 4.0, 0.0)}
    return Fake("broken", "mask", row, values, {"k": 0.0}, required=True, call=call, ties=ties)


def with_a_hard_cap(*data: Any, logit_softcap: Any, **keywords: Any) -> jax.Array:
    hidden, weight, label = data
    bent = jnp.clip(weight, -logit_softcap, logit_softcap)
    return jsoftmax.linear_log_prob(hidden, bent, label, **keywords)


def of_the_first_five(*data: Any, **keywords: Any) -> jax.Array:
    """A label beyond them is the fifth."""
    hidden, weight, label = data
    return jsoftmax.linear_log_prob(hidden, weight, jnp.minimum(label, 4), **keywords)


def capped_log_prob(call: Callable[..., Any]) -> Entry:
    (entry,) = (entry for entry in EVERY if entry.name == "linear_log_prob_capped")
    assert isinstance(entry, Fake)
    return dataclasses.replace(entry, name="broken", call=from_linear(call))


BROKEN: dict[str, tuple[Entry, str]] = {
    "softmax that does not subtract the largest": (
        softmax_like(without_the_maximum), "on_the_simplex shifted_alike"),
    "NaN that reaches other rows": (
        changed(lambda y, _: y + 0 * jnp.sum(y)), "broken_rows_stand_alone"),
    "half precision computed in itself": (
        softmax_like(in_the_dtype_of_the_logits), "half_is_rounded_float32"),
    "a gradient in parts": (
        Fake("broken", "reduction", reference.logsumexp_row, TEMPERATURE, ONE,
             differentiable=True, call=with_a_gradient_in_parts),
        "half_gradient_is_rounded_float32"),
    "a gradient that does not sum to zero": (
        softmax_like(with_a_leaking_gradient), "gradients_sum_to_zero"),
    "what is masked counts": (
        softmax_like(behind_the_mask), "masked_equals_filled masked_equals_removed on_the_simplex"),
    "a shard that does not ask the others": (
        softmax_like(one_shard_alone), "sharded_equals_dense"),
    "small probabilities that are lost": (
        changed(lambda y, _: jnp.where(y < 8e-7, 0, y)), "as_the_reference_says"),
    "small probabilities that are too large": (
        changed(lambda y, _: jnp.where(y < 4e-7, 3 * y, y)), "as_the_reference_says"),
    "large logits that get less": (
        changed(lambda y, x: jnp.where(x > 3, y / 8, y)), "larger_entries_get_more"),
    "another temperature": (softmax_like(of_the_temperature_squared), "temperatures_compose"),
    "another default": (softmax_like(at_two_if_none_is_given), "off_is_not_given"),
    "a transpose that is a hundredth off": (
        softmax_like(with_another_transpose), "jvp_equals_vjp"),
    "another result when compiled": (
        changed(lambda y, x: y * 1.001 if isinstance(x, jax.core.Tracer) else y),
        "jit_equals_eager op_by_op_alike"),
    "a mask that keeps nothing": (
        k_mask(keeping_nothing_for_two), "keeps_some_of_the_allowed as_a_part_of_the_composition"),
    "a mask that is on when off": (k_mask(keeping_three_if_off), "off_keeps_all"),
    "a mask that drops one each time": (k_mask(keeping_fewer_of_few), "idempotent"),
    "a mask that keeps other ties": (k_mask(keeping_every_tie, ties=True), "first_of_ties"),
    "a relaxed draw that ignores the mask": (
        Fake("broken", "relaxed", reference.softmax_row, TEMPERATURE, ONE, keyed=True,
             call=anywhere),
        "relaxed_draw_is_allowed"),
    "a mask that drops a tie": (
        k_mask(dropping_a_tie), "equal_entries_alike permuted_alike as_the_reference_says"),
    "a mask that is not monotone": (k_mask(with_another_k), "monotone as_the_reference_says"),
    "an axis that is not moved": (softmax_like(along_the_last_axis), "along_any_axis"),
    "one number that is another": (softmax_like(with_another_number), "settings_of_any_form"),
    "an integer that is another": (k_mask(with_another_integer), "settings_of_any_form"),
    "a mask for all rows that is another": (softmax_like(with_one_mask), "masks_of_any_form"),
    "draws that depend on the other rows' keys": (
        Fake("broken", "token", reference.truncation_row, TRUNCATION, TRUNCATION_OFF,
             keyed=True, call=of_one_key),
        "vmapped_alike"),
    "a cap that does not bend": (capped_log_prob(with_a_hard_cap), "as_the_reference_says"),
    "labels that are cut off": (capped_log_prob(of_the_first_five), "labels_of_any_class"),
    "a draw that ignores the mask": (
        Fake("broken", "token", reference.truncation_row, TRUNCATION, TRUNCATION_OFF,
             keyed=True, call=ignoring_the_mask),
        "drawn_from_the_mask"),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "names"), BROKEN.values(), ids=BROKEN)
def test_a_broken_function_is_caught(entry: Entry, names: str) -> None:
    for name in names.split():
        prop = NAMED[name]
        assert prop.applies(entry, traits(entry)), name
        caught = [
            told for seed in range(6) if (told := examine(entry, prop, at_random(seed, 64, 7))[1])
        ]
        assert caught, name
        assert f"broken breaks {name}" in caught[0]
        assert "batch of seed" in caught[0]
        assert ".view('float32')" in caught[0]


def test_every_property_can_fail() -> None:
    caught = {name for _, names in BROKEN.values() for name in names.split()}
    assert caught == set(NAMED)


def test_hypothesis_finds_it_too() -> None:
    entry, _ = BROKEN["a mask that drops a tie"]

    @settings(suite, max_examples=20)
    @given(batches((32, 7)))
    def run(batch: Any) -> None:
        check(entry, NAMED["equal_entries_alike"], batch)

    with pytest.raises(ViolationError, match="breaks equal_entries_alike"):
        run()
