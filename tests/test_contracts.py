"""What every public function promises, run for every row of the registry."""

import functools
import inspect
import itertools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from jax import export
from jax.experimental import checkify

import jsoftmax
from tests import rows
from tests.compare import assert_close, assert_mask, host
from tests.registry import DIFFERENTIABLE, FRONTS, FUNCTIONS, MASKS, REGISTRY, Entry

LOGITS, WHERE = rows.edges()
SOUND_LOGITS, SOUND_WHERE = rows.edges(rows.SOUND)
DTYPES = ("float16", "bfloat16", "float32")

every_function = pytest.mark.parametrize("entry", FUNCTIONS, ids=str)
every_front = pytest.mark.parametrize("entry", FRONTS, ids=str)
every_map = pytest.mark.parametrize("entry", DIFFERENTIABLE, ids=str)


def same(got: Any, want: Any, exact: bool = True) -> None:
    """Equal trees; `exact` or up to rounding."""
    if exact:
        chex.assert_trees_all_equal(got, want)
    else:
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)


def exact(entry: Entry) -> bool:
    """Whether another way of calling may not even differ by rounding."""
    return entry.kind == "mask"


# --- the registry itself ---------------------------------------------------------------------


def test_the_registry_lists_every_public_function() -> None:
    # Those of submodules pool the rows, and have tests of their own (`test_calibration.py`);
    # `checked` is of functions.
    public = {name for name in jsoftmax.__all__ if inspect.isroutine(getattr(jsoftmax, name))}
    assert sorted(entry.name for entry in REGISTRY) == sorted(public - {"checked"})


def test_all_is_what_the_module_shows() -> None:
    # A submodule that is not in it may have been imported by another test.
    shown = {
        name
        for name, value in vars(jsoftmax).items()
        if not name.startswith("_") and (name in jsoftmax.__all__ or not inspect.ismodule(value))
    }
    assert shown == {name for name in jsoftmax.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("entry", REGISTRY, ids=str)
def test_docstring_has_summary_arguments_and_example(entry: Entry) -> None:
    doc = inspect.getdoc(entry.function) or ""
    assert doc.splitlines()[0].endswith("."), "the first line is one sentence"
    assert ">>>" in doc, "an example that runs as a doctest"
    assert "Args:" in doc
    assert "Returns:" in doc
    arguments = doc.partition("Args:")[2].partition("Returns:")[0]
    for name in inspect.signature(entry.function).parameters:
        assert re.search(rf"(?m)^  (\w+, )*{name}(, \w+)*:", arguments), f"{name} is not documented"
    if entry.kind in ("map", "reduction") or entry in MASKS:
        assert ".. math::" in doc, "a formula"


@every_function
def test_signature(entry: Entry) -> None:
    parameters = inspect.signature(entry.function).parameters
    first = ["key"] * entry.keyed + list(entry.data)
    assert list(parameters)[: len(first)] == first
    assert parameters["axis"].default == -1
    assert parameters["where"].default is None
    assert parameters["where"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["axis_name"].default is None
    assert parameters["axis_name"].kind is inspect.Parameter.KEYWORD_ONLY
    for name in entry.settings:
        default = parameters[name].default
        if entry.required:
            assert default is inspect.Parameter.empty
        else:
            written = ("temperature", "alpha", "label_smoothing", "z_loss")
            assert default == (entry.off[name] if name in written else None)
    if entry.ties:
        assert parameters["ties"].default == "all"
    else:
        assert "ties" not in parameters


# --- values at every edge --------------------------------------------------------------------


@every_function
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_edge_row(entry: Entry, dtype: str) -> None:
    x = LOGITS.astype(jnp.dtype(dtype))
    settings = entry.setting()
    got = jax.jit(functools.partial(entry, **settings))(x, where=WHERE)
    entry.check(got, x, settings, WHERE)
    for leaf in jax.tree.leaves(got):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert leaf.dtype == jnp.dtype(dtype)


@every_function
def test_every_edge_row_in_float64(entry: Entry) -> None:
    with jax.enable_x64(True):
        x = LOGITS.astype(np.float64)
        settings = entry.setting()
        got = jax.jit(functools.partial(entry, **settings))(x, where=WHERE)
        entry.check(got, x, settings, WHERE)
        for leaf in jax.tree.leaves(got):
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                assert leaf.dtype == jnp.float64


@every_function
def test_float32_stays_float32_when_x64_is_enabled(entry: Entry) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(SOUND_LOGITS, jnp.float32)
        got = entry(x, where=SOUND_WHERE, **entry.setting())
        for leaf in jax.tree.leaves(got):
            assert leaf.dtype in (jnp.float32, jnp.bool_, jnp.int32)
        entry.check(got, SOUND_LOGITS, entry.setting(), SOUND_WHERE)


@every_front
def test_other_settings_on_every_edge_row(entry: Entry) -> None:
    for i in (1, 2):
        settings = entry.setting(i)
        entry.check(entry(LOGITS, where=WHERE, **settings), LOGITS, settings, WHERE)


@every_front
def test_integers_become_the_default_float(entry: Entry) -> None:
    x = np.array([[1, 5, 3, 2], [0, -2, 7, 7]])
    got = entry(x, **entry.setting())
    entry.check(got, x, entry.setting())
    for leaf in jax.tree.leaves(got):
        assert leaf.dtype in (jnp.result_type(float), jnp.bool_, jnp.int32)


@every_function
def test_no_where_and_full_where_agree(entry: Entry) -> None:
    plain = entry(LOGITS, **entry.setting())
    same(plain, entry(LOGITS, where=np.ones_like(WHERE), **entry.setting()))


@every_front
def test_masked_entries_are_as_if_absent(entry: Entry) -> None:
    """Whatever stands at a masked entry, the result is the same to the bit."""
    x = rows.normal(60, 2.0).reshape(4, 15)
    where = np.random.default_rng(1).random(x.shape) < 0.6
    results = [
        entry(np.where(where, x, filler).astype(np.float32), where=where, **entry.setting())
        for filler in (0.0, np.nan, np.inf, -np.inf, 3e38)
    ]
    for other in results[1:]:
        same(results[0], other)


@every_front
def test_masked_equals_minus_infinity(entry: Entry) -> None:
    x = rows.normal(60, 2.0).reshape(4, 15)
    where = np.random.default_rng(1).random(x.shape) < 0.6
    filled = np.where(where, x, -np.inf).astype(np.float32)
    same(entry(x, where=where, **entry.setting()), entry(filled, **entry.setting()))


# --- shapes, axes, sizes ---------------------------------------------------------------------


def moved(result: Any, entry: Entry, axis: int) -> Any:
    """Bring the vocabulary axis of the results to the end."""
    if entry.kind in ("map", "mask"):
        return jnp.moveaxis(result, axis, -1)
    return result


@every_front
def test_any_axis(entry: Entry) -> None:
    x = rows.normal(105, 2.0).reshape(3, 5, 7)
    where = np.random.default_rng(2).random(x.shape) < 0.8
    settings = {name: jnp.full((3, 5), value) for name, value in entry.setting().items()}
    want = entry(x, where=where, **settings)
    for axis in (0, -2):
        got = entry(
            np.moveaxis(x, -1, axis), where=np.moveaxis(where, -1, axis), axis=axis, **settings
        )
        same(moved(got, entry, axis), want, exact(entry))


@every_front
def test_shapes_without_a_batch_and_with_batches_of_two_axes(entry: Entry) -> None:
    x = rows.normal(24, 2.0).reshape(2, 3, 4)
    got = entry(x, **entry.setting())
    entry.check(got, x, entry.setting())
    alone = entry(x[1, 2], **entry.setting())
    entry.check(alone, x[1, 2], entry.setting())


@every_front
@pytest.mark.parametrize("length", [1, 2])
def test_short_rows(entry: Entry, length: int) -> None:
    x = rows.normal(6 * length, 2.0).reshape(6, length)
    entry.check(entry(x, **entry.setting()), x, entry.setting())


@every_function
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 4), (0, 0), (3, 0, 5)])
def test_size_zero(entry: Entry, shape: tuple[int, ...]) -> None:
    got = entry(jnp.zeros(shape), **entry.setting())
    batch = shape[:-1]
    if entry.kind in ("map", "mask"):
        chex.assert_shape(got, shape)
    else:
        for leaf in jax.tree.leaves(got):
            chex.assert_shape(leaf, batch)
    if entry.kind == "reduction":
        empty = -np.inf if entry.name == "logsumexp" else 0.0
        np.testing.assert_array_equal(got, np.full(batch, empty))
    if entry.kind == "token":
        token, log_prob = got if entry.pair else (got, None)
        np.testing.assert_array_equal(token, np.zeros(batch))
        if log_prob is not None:
            np.testing.assert_array_equal(log_prob, np.full(batch, -np.inf))


@every_map
def test_gradient_of_size_zero(entry: Entry) -> None:
    for shape in ((0,), (2, 0), (0, 4)):
        chex.assert_shape(
            jax.grad(lambda x: entry(x, **entry.setting()).sum())(jnp.zeros(shape)), shape
        )


@every_front
def test_where_broadcasts(entry: Entry) -> None:
    x = rows.normal(24, 2.0).reshape(2, 3, 4)
    for where in (
        np.array([True, False, True, True]),
        np.array([True, False, True])[:, None],
        np.array([[[True]], [[False]]]),
        np.array(False),
        True,
    ):
        want = entry(x, where=np.broadcast_to(where, x.shape), **entry.setting())
        same(entry(x, where=where, **entry.setting()), want)


# --- settings --------------------------------------------------------------------------------


@every_front
def test_setting_as_number_scalar_array_and_batch_array(entry: Entry) -> None:
    x = rows.normal(60, 2.0).reshape(3, 4, 5)
    settings = entry.setting()
    want = entry(x, **settings)
    for form in (
        lambda value: np.float32(value),
        lambda value: jnp.float32(value),
        lambda value: np.full((), value),
        lambda value: np.full((3, 4), value, np.float32),
    ):
        got = entry(x, **{name: form(value) for name, value in settings.items()})
        same(got, want, exact(entry))


@every_front
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_setting_dtype_is_free(entry: Entry, dtype: str) -> None:
    """A float32 setting for bfloat16 logits and the other way round, in strict promotion."""
    settings = dict.fromkeys(entry.settings, 0.5)
    if "alpha" in settings:
        settings["alpha"] = 1.75
    if "top_k" in settings or "k" in settings:
        settings["top_k" if "top_k" in settings else "k"] = 2
    x = jnp.asarray(SOUND_LOGITS, jnp.dtype(dtype))
    want = entry(x, where=SOUND_WHERE, **settings)
    other = jnp.float32 if dtype == "bfloat16" else jnp.bfloat16
    arrays = {name: jnp.asarray(value, other) for name, value in settings.items()}
    same(entry(x, where=SOUND_WHERE, **arrays), want, exact(entry))


@every_front
def test_integer_settings(entry: Entry) -> None:
    for values in ({"temperature": 2}, {"temperature": 1}):
        settings = {name: values.get(name, 1) for name in entry.settings}
        want = entry(LOGITS, where=WHERE, **{n: np.float32(v) for n, v in settings.items()})
        for form in (int, np.int32, jnp.int32, np.uint8):
            got = entry(LOGITS, where=WHERE, **{n: form(v) for n, v in settings.items()})
            same(got, want, exact(entry))


@every_front
def test_each_row_has_its_own_setting(entry: Entry) -> None:
    x = np.repeat(rows.normal(9, 2.0)[None], 3, axis=0)
    settings = {name: np.array(values, np.float32) for name, values in entry.settings.items()}
    entry.check(entry(x, **settings), x, settings)


@every_function
def test_off_settings_do_nothing(entry: Entry) -> None:
    if entry.kind == "mask":
        off = entry(LOGITS, where=WHERE, **entry.off)
        np.testing.assert_array_equal(off, WHERE & ~np.isneginf(LOGITS))
    elif not entry.required:
        same(entry(LOGITS, where=WHERE, **entry.off), entry(LOGITS, where=WHERE), exact=False)
    else:
        want = np.where(WHERE, LOGITS, -np.inf)[: len(rows.SOUND)]
        got = entry(LOGITS, where=WHERE, **entry.off)[: len(rows.SOUND)]
        np.testing.assert_array_equal(got, want)


@every_function
def test_traced_nan_setting_breaks_its_row_alone(entry: Entry) -> None:
    x = rows.normal(18, 2.0).reshape(3, 6)
    x[:, 2] = -np.inf
    where = np.array([True, True, True, True, False, True])
    function = jax.jit(entry)
    for name, values in entry.settings.items():
        for bad in (np.nan, -1.0) if name == "temperature" else (np.nan,):
            settings = {k: np.full(3, v, np.float32) for k, v in entry.setting().items()}
            settings[name] = np.array([values[0], bad, values[0]], np.float32)
            entry.check(function(x, where=where, **settings), x, settings, where)


@every_function
def test_settings_never_retrace(entry: Entry) -> None:
    chex.clear_trace_counter()
    function = jax.jit(chex.assert_max_traces(entry.__call__, n=1))
    for i in range(3):
        function(SOUND_LOGITS, where=SOUND_WHERE, **entry.setting(i))
    for i in range(3):
        settings = {name: values[i] * 0.9 for name, values in entry.settings.items()}
        function(SOUND_LOGITS, where=SOUND_WHERE, **settings)


# --- transformations -------------------------------------------------------------------------


@pytest.mark.slow
class Variants(chex.TestCase):
    """The same result with and without jit, on a device, and mapped over several."""

    @chex.all_variants
    @parameterized.named_parameters((entry.name, entry) for entry in FUNCTIONS)
    def test_variants(self, entry: Entry) -> None:
        x, where = jnp.asarray(SOUND_LOGITS), jnp.asarray(SOUND_WHERE)

        def function(x: jax.Array, where: jax.Array, key: jax.Array) -> Any:
            return entry(x, where=where, key=key, **entry.setting())

        got = self.variant(function)(x, where, jax.random.PRNGKey(3))
        entry.check(got, SOUND_LOGITS, entry.setting(), SOUND_WHERE)


@every_function
def test_vmap_equals_batch(entry: Entry) -> None:
    keys = jax.random.split(jax.random.key(5), len(LOGITS))
    settings = entry.setting()
    number = {
        name: jnp.linspace(value, 1.1 * value, len(LOGITS)) for name, value in settings.items()
    }

    def one(key: jax.Array, x: jax.Array, where: jax.Array, number: dict[str, jax.Array]) -> Any:
        return entry(x, key=key, where=where, **number)

    mapped = jax.jit(jax.vmap(one))(keys, LOGITS, WHERE, number)
    if entry.keyed:
        single = jax.jit(one)
        each = [
            single(keys[i], LOGITS[i], WHERE[i], {k: v[i] for k, v in number.items()})
            for i in range(len(LOGITS))
        ]
        want = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        same(mapped if not entry.pair else mapped[0], want if not entry.pair else want[0])
    else:
        want = jax.jit(entry)(LOGITS, where=WHERE, **number)
    same(mapped, want, exact(entry))


@every_front
def test_vmap_over_the_settings_alone(entry: Entry) -> None:
    x = rows.normal(8, 2.0)
    settings = {name: jnp.array(values) for name, values in entry.settings.items()}
    key = jax.random.key(6)
    mapped = jax.vmap(lambda settings: entry(x, key=key, **settings))(settings)
    entry.check(mapped, np.broadcast_to(x, (3, 8)), settings)


@every_front
def test_vmap_over_the_last_axis(entry: Entry) -> None:
    x = rows.normal(24, 2.0).reshape(4, 6)
    key = jax.random.key(1)
    mapped = jax.vmap(lambda row: entry(row, key=key, **entry.setting()), in_axes=1)(
        jnp.asarray(x.T)
    )
    each = [entry(row, key=key, **entry.setting()) for row in x]
    same(mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each), exact(entry))


@every_front
def test_scan_and_remat(entry: Entry) -> None:
    x = rows.normal(24, 2.0).reshape(4, 6)
    key = jax.random.key(1)
    step = jax.checkpoint(lambda row: entry(row, key=key, **entry.setting()))
    _, scanned = jax.lax.scan(lambda carry, row: (carry, step(row)), None, jnp.asarray(x))
    each = [entry(row, key=key, **entry.setting()) for row in x]
    same(scanned, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each), exact(entry))


@every_function
def test_shape_evaluation(entry: Entry) -> None:
    operand = jax.ShapeDtypeStruct((3, 5), jnp.bfloat16)
    got = jax.eval_shape(functools.partial(entry, **entry.setting()), operand)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), jax.tree.leaves(got))
    dtype = {"mask": jnp.bool_, "token": jnp.int32}.get(entry.kind, jnp.bfloat16)
    shape = (3, 5) if entry.kind in ("map", "mask") else (3,)
    assert shapes == [(shape, dtype), (shape, jnp.bfloat16)][: 1 + entry.pair]


@pytest.mark.parametrize("length", [10, 40, 2048])
@pytest.mark.parametrize("setting", [False, True], ids=["plain", "a setting per row"])
@every_function
def test_export_with_any_batch(entry: Entry, setting: bool, length: int) -> None:
    (batch,) = export.symbolic_shape("batch")
    x = jnp.asarray(rows.normal(3 * length, 2.0).reshape(3, length))
    needed = entry.settings if setting or entry.required else {}
    settings = {name: jnp.array(values, jnp.float32) for name, values in needed.items()}
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), (x, settings)
    )
    exported = export.export(jax.jit(lambda x, settings: entry(x, **settings)))(*shapes)
    got, want = exported.call(x, settings), entry(x, **settings)
    if exact(entry):
        same(got, want)
    else:
        chex.assert_trees_all_close(got, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("length", [40, 2048])
@every_function
def test_export_with_a_size_that_is_no_symbol(entry: Entry, length: int) -> None:
    """As next tokens are: all positions of a sequence but the last."""
    sizes = export.symbolic_shape("batch, s", constraints=["s >= 2"])
    x = jnp.asarray(rows.normal(6 * length, 2.0).reshape(2, 3, length))

    def shorter(x: jax.Array) -> Any:
        return entry(x[:, :-1], **entry.setting())

    exported = export.export(jax.jit(shorter))(jax.ShapeDtypeStruct((*sizes, length), x.dtype))
    got, want = exported.call(x), shorter(x)
    if exact(entry):
        same(got, want)
    else:
        chex.assert_trees_all_close(got, want, rtol=1e-6, atol=1e-7)


# --- derivatives -----------------------------------------------------------------------------


@every_map
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_on_every_edge_row(entry: Entry, dtype: str) -> None:
    """Finite where the row is sound, zero at masked and -inf entries, nothing from broken rows
    into others."""
    x = jnp.asarray(LOGITS, jnp.dtype(dtype))
    weight = jnp.asarray(rows.normal(LOGITS.size, 1.0).reshape(LOGITS.shape), x.dtype)

    @jax.jit
    def gradient(x: jax.Array, where: jax.Array) -> jax.Array:
        def total(x: jax.Array) -> jax.Array:
            value = entry(x, where=where, **entry.setting())
            if entry.kind == "map":
                value = jnp.where(where & jnp.isfinite(value), value * weight, 0)
            return jnp.where(jnp.isfinite(value), value, 0).astype(jnp.float32).sum()

        return jax.grad(total)(x)

    got = gradient(x, WHERE)
    assert got.dtype == x.dtype
    sound = slice(0, len(rows.SOUND))
    chex.assert_tree_all_finite(got[sound])
    dead = ~WHERE | (np.asarray(x) == -np.inf)
    np.testing.assert_array_equal(np.asarray(got[sound], np.float32)[dead[sound]], 0.0)
    alone = gradient(jnp.where(np.isin(list(rows.EDGES), rows.SOUND)[:, None], x, 0), WHERE)
    np.testing.assert_array_equal(got[sound], alone[sound])


@every_map
def test_jvp_equals_vjp_on_every_sound_edge_row(entry: Entry) -> None:
    x = jnp.asarray(SOUND_LOGITS)
    temperature = jnp.full((len(x),), 0.7, x.dtype)

    def function(x: jax.Array, temperature: jax.Array) -> jax.Array:
        value = entry(x, where=SOUND_WHERE, temperature=temperature)
        return jnp.where(jnp.isfinite(value), value, 0)

    tangent_x = jnp.asarray(rows.normal(x.size, 1.0, seed=1).reshape(x.shape))
    tangent_t = jnp.asarray(rows.normal(len(x), 1.0, seed=2))
    value, tangent = jax.jvp(function, (x, temperature), (tangent_x, tangent_t))
    cotangent = jnp.asarray(rows.normal(value.size, 1.0, seed=3).reshape(value.shape))
    _, vjp = jax.vjp(function, x, temperature)
    back_x, back_t = vjp(cotangent)
    chex.assert_tree_all_finite((tangent, back_x, back_t))
    forward = (tangent * cotangent).reshape(len(x), -1).sum(-1)
    backward = (back_x * tangent_x).sum(-1) + back_t * tangent_t
    np.testing.assert_allclose(forward, backward, rtol=2e-4, atol=1e-5)


@every_map
@pytest.mark.parametrize("temperature", [0.0, np.inf])
def test_gradient_at_the_limits_of_temperature_is_finite(entry: Entry, temperature: float) -> None:
    weight = rows.normal(LOGITS.size, 1.0).reshape(LOGITS.shape)[: len(rows.SOUND)]

    def total(x: jax.Array, temperature: jax.Array) -> jax.Array:
        value = entry(x, where=SOUND_WHERE, temperature=temperature)
        if entry.kind == "map":
            value = jnp.where(jnp.isfinite(value), value * weight, 0)
        return jnp.where(jnp.isfinite(value), value, 0).sum()

    numbers = jnp.full((len(rows.SOUND),), temperature, jnp.float32)
    gradient, second = jax.jit(
        lambda x, t: (
            jax.grad(total, (0, 1))(x, t),
            jax.grad(lambda x, t: sum(g.sum() for g in jax.grad(total, (0, 1))(x, t)), (0, 1))(
                x, t
            ),
        )
    )(SOUND_LOGITS, numbers)
    chex.assert_tree_all_finite((gradient, second))


@pytest.mark.parametrize("entry", MASKS, ids=str)
def test_masks_are_constant_to_differentiation(entry: Entry) -> None:
    """grad passes through `softmax(x, where=mask(x))` and through the mask's own setting (with
    zero)."""
    x = jnp.asarray(rows.normal(12, 2.0).reshape(2, 6))

    def total(x: jax.Array, settings: dict[str, jax.Array]) -> jax.Array:
        mask = entry(x, **settings)
        return (jsoftmax.softmax(x, where=mask) * jnp.arange(6, dtype=x.dtype)[None]).sum()

    settings = {name: jnp.float32(value) for name, value in entry.setting().items()}
    gradient, by_setting = jax.grad(total, (0, 1))(x, settings)
    mask = entry(x, **settings)
    want = jax.grad(
        lambda x: (jsoftmax.softmax(x, where=mask) * jnp.arange(6, dtype=x.dtype)[None]).sum()
    )(x)
    same(gradient, want, exact=False)
    assert float(jnp.abs(gradient).max()) > 0
    chex.assert_trees_all_equal(by_setting, jax.tree.map(jnp.zeros_like, settings))


@pytest.mark.parametrize("entry", [e for e in FUNCTIONS if e.settings], ids=str)
def test_where_nothing_is_allowed_no_setting_counts(entry: Entry) -> None:
    """Not even a traced one that is NaN, or below 0: the value is the same, the gradient 0."""
    x = jnp.full((2, 5), -jnp.inf)
    want = entry(x, **entry.setting())
    for name, bad in itertools.product(entry.settings, (np.nan, -1.0)):
        settings = entry.setting() | {name: jnp.full(2, bad, jnp.float32)}

        def value(x: jax.Array, settings: dict[str, Any] = settings) -> Any:
            return entry(x, **settings)

        for got, right in zip(jax.tree.leaves(value(x)), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(got, right)
        if entry.differentiable or entry.pair:

            def total(x: jax.Array, value: Any = value) -> jax.Array:
                number = value(x)[1] if entry.pair else value(x)
                return jnp.where(jnp.isfinite(number), number, 0).sum()

            assert not jax.grad(total)(x).any(), name


# --- strict worlds ---------------------------------------------------------------------------


@every_function
def test_debug_nans(entry: Entry) -> None:
    """No NaN arises where none is in the result: not even inside, run operation by operation."""
    clean = np.where(SOUND_WHERE, SOUND_LOGITS, 0).astype(np.float32)
    with jax.debug_nans(True):
        entry(clean, where=SOUND_WHERE, **entry.setting())
        jax.jit(functools.partial(entry, **entry.setting()))(SOUND_LOGITS, where=SOUND_WHERE)
        if entry.differentiable:
            for temperature in (0.7, 0.0, np.inf):
                jax.grad(
                    lambda x, t=temperature: jnp.where(
                        jnp.isfinite(value := entry(x, where=SOUND_WHERE, temperature=t)), value, 0
                    ).sum()
                )(clean)


@every_front
def test_standard_promotion_gives_the_same(entry: Entry) -> None:
    want = entry(LOGITS, where=WHERE, **entry.setting())
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        same(entry(LOGITS, where=WHERE, **entry.setting()), want)


@every_front
def test_no_leaked_tracers_and_no_jit(entry: Entry) -> None:
    with jax.checking_leaks():
        want = jax.jit(functools.partial(entry, **entry.setting()))(LOGITS, where=WHERE)
    entry.check(want, LOGITS, entry.setting(), WHERE)
    if entry.keyed:
        return
    with jax.disable_jit():
        got = entry(LOGITS[2:4], where=WHERE[2:4], **entry.setting())
    entry.check(got, LOGITS[2:4], entry.setting(), WHERE[2:4])


@every_front
def test_large_vocabulary(entry: Entry) -> None:
    x = np.stack([rows.normal(151936, 3.0), rows.bf16(rows.normal(151936, 3.0, seed=2))])
    settings = entry.setting(1)
    got = jax.jit(functools.partial(entry, **settings))(x)
    if entry.kind == "mask":
        assert_mask(got, entry.expected(x, settings))
    elif entry.kind == "token":
        entry.check(got, x, settings)
    else:
        assert_close(got, entry.expected(x, settings), rtol=2e-5, atol=2e-6 * 20)


# --- mask_logits -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_logits(dtype: str) -> None:
    x = jnp.asarray(LOGITS, jnp.dtype(dtype))
    got = jax.jit(jsoftmax.mask_logits)(x, WHERE)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(host(got), np.where(WHERE, host(x), -np.inf))
    filled = jsoftmax.mask_logits(x, WHERE, fill=-1024.0)
    np.testing.assert_array_equal(host(filled), np.where(WHERE, host(x), -1024))


def test_a_fill_is_a_value_and_no_program() -> None:
    x, mask = jnp.ones(2), np.array([True, False])
    function = jax.jit(chex.assert_max_traces(jsoftmax.mask_logits, n=1))
    for fill in (-2.0, 3.5, 0.0):
        np.testing.assert_array_equal(function(x, mask, fill=fill), [1, fill])
        np.testing.assert_array_equal(jsoftmax.mask_logits(x, mask, fill=fill), [1, fill])
    assert np.signbit(jsoftmax.mask_logits(x, mask, fill=-0.0)[1])


@pytest.mark.parametrize("fill", [-(10**10), np.int64(-(10**10)), np.asarray(-(10**10))])
def test_mask_logits_with_a_large_integer(fill: Any) -> None:
    got = jsoftmax.mask_logits(jnp.ones(2), np.array([True, False]), fill=fill)
    np.testing.assert_array_equal(got, [1, -1e10])


def test_integers_of_64_bits_are_not_wrapped() -> None:
    least = np.iinfo(np.int64).min
    np.testing.assert_array_equal(jsoftmax.softmax(np.array([5, least])), [1, 0])
    np.testing.assert_array_equal(jsoftmax.softmax(np.array([2**33, 5])), [1, 0])
    np.testing.assert_array_equal(jsoftmax.logsumexp(np.array([2**63], np.uint64)), 2.0**63)
    loss = jsoftmax.linear_cross_entropy(np.array([[10**10, 0]]), np.eye(2), np.array([1]))
    np.testing.assert_array_equal(loss, [1e10])


def test_mask_logits_broadcasts_promotes_and_differentiates() -> None:
    x = np.arange(6).reshape(2, 3)
    got = jsoftmax.mask_logits(x, np.array([True, False, True]))
    assert got.dtype == jnp.result_type(float)
    np.testing.assert_array_equal(got, [[0, -np.inf, 2], [3, -np.inf, 5]])
    np.testing.assert_array_equal(
        jsoftmax.mask_logits(x.astype(np.float32), np.array([[True], [False]]), fill=7.0),
        [[0, 1, 2], [7, 7, 7]],
    )
    gradient = jax.grad(lambda x: jsoftmax.softmax(jsoftmax.mask_logits(x, WHERE))[:, 0].sum())(
        jnp.asarray(np.where(WHERE, SOUND_LOGITS[0], np.nan), jnp.float32)
    )
    chex.assert_tree_all_finite(gradient)
    assert jsoftmax.mask_logits(jnp.zeros((0, 3)), np.ones((0, 3), bool)).shape == (0, 3)


@pytest.mark.parametrize("length", [4096, 8192, 151936])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_logit_in_a_long_row_is_not_overlooked(length: int, bad: float) -> None:
    x = np.random.default_rng(0).normal(size=(2, length)).astype(np.float32)
    x[0, length // 3] = bad
    token, log_prob = jsoftmax.sample_and_log_prob(jax.random.key(0), x, temperature=0.9)
    assert 0 <= token[0] < length
    assert jnp.isnan(log_prob).tolist() == [True, False]
    for mapped in (jsoftmax.softmax(x), jsoftmax.log_softmax(x), jsoftmax.temperature_scale(x, 2)):
        assert jnp.isnan(mapped).sum(-1).tolist() == [length, 0]
    for reduced in (jsoftmax.logsumexp(x), jsoftmax.entropy(x)):
        assert jnp.isnan(reduced).tolist() == [True, False]


@pytest.mark.parametrize("entry", MASKS, ids=str)
def test_a_mask_keeps_all_of_a_long_row_with_a_nan(entry: Entry) -> None:
    x = np.random.default_rng(0).normal(size=(2, 8192)).astype(np.float32)
    x[0, 5000] = np.nan
    kept = entry(x, **entry.setting()).sum(-1)
    assert kept[0] == 8192
    assert 0 < kept[1] < 8192


@pytest.mark.parametrize("shape", [(0, 100), (0, 1000), (0, 3000), (2, 0, 2000), (0, 50257)])
@pytest.mark.parametrize("entry", FUNCTIONS, ids=str)
def test_an_empty_batch_of_long_rows(entry: Entry, shape: tuple[int, ...]) -> None:
    for dtype in (jnp.float32, jnp.bfloat16):
        for leaf in jax.tree.leaves(entry(jnp.zeros(shape, dtype), **entry.setting())):
            kept = shape if entry.kind in ("map", "mask") else shape[:-1]
            assert leaf.shape == kept


@every_function
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_an_entry(entry: Entry, dtype: str) -> None:
    for leaf in jax.tree.leaves(entry(jnp.zeros((3, 0), dtype), **entry.setting())):
        assert leaf.shape == ((3, 0) if entry.kind in ("map", "mask") else (3,))


@every_function
def test_checkify_meets_no_nan_beside_what_is_absent(entry: Entry) -> None:
    """Not on the way either: `checkify` looks at every operation of a program."""
    x = jnp.array([[1.0, 2.0, -jnp.inf, 0.5], [3.0, -jnp.inf, -jnp.inf, 1.0]])
    for settings in [entry.setting()] + ([] if entry.required else [{}]):
        checked = checkify.checkify(functools.partial(entry, **settings), checkify.nan_checks)
        assert checked(x)[0].get() is None
