"""`jsoftmax.checked`: what raises, with which words, under every transformation."""

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax
from tests import rows
from tests.compare import assert_close
from tests.layouts import AUTO, EXPLICIT, UNCHECKED, Layout
from tests.registry import FUNCTIONS, Entry

GOOD = np.zeros((4, 6), np.float32)
BAD = np.where(np.arange(24).reshape(4, 6) == 13, np.nan, 0).astype(np.float32)
NOT_FINITE = "logits must be finite or -inf, but for masked entries, got NaN or +inf"

every_function = pytest.mark.parametrize("entry", FUNCTIONS, ids=str)


def raises(message: str) -> Any:
    """The error of a checked function: its whole message, or how that begins."""
    return pytest.raises(ValueError, match=message.replace("+", r"\+"))


def total(x: jax.Array) -> jax.Array:
    """A number of the distribution of each row."""
    return (jsoftmax.softmax(x) ** 2).sum()


def scanned(x: jax.Array) -> jax.Array:
    """The same, row by row."""
    return jax.lax.scan(lambda sum_, row: (sum_ + total(row), None), 0.0, x)[0]


# --- what is checked -------------------------------------------------------------------------


@every_function
def test_logits_rows_and_settings_of_every_function(entry: Entry) -> None:
    """Nothing of a new function goes unchecked: every row that is broken, every setting."""
    name = entry.name
    settings = {key: jnp.full((4,), value) for key, value in entry.setting().items()}
    run = jsoftmax.checked(jax.jit(lambda x, where, **s: entry(x, where=where, **s)))
    allowed = np.ones((4, 6), bool)
    want = entry(GOOD, where=allowed, **settings)
    jax.tree.map(np.testing.assert_array_equal, run(GOOD, allowed, **settings), want)
    for broken in (np.nan, np.inf):
        x = GOOD.copy()
        x[2, 1] = broken
        with raises(rf"^{name}: \w*{NOT_FINITE} in row \(2,\)$"):
            run(x, allowed, **settings)
        masked = allowed.copy()
        masked[2, 1] = False
        run(x, masked, **settings)
    nothing = allowed.copy()
    nothing[1:3] = False
    with raises(
        rf"^{name}: \w*logits must have an allowed entry in each row .* row \(1,\) \(and 1"
    ):
        run(GOOD, nothing, **settings)
    for key, values in settings.items():
        wrong = {"temperature": -1.0, "k": 1.5, "top_k": 1.5, "n": np.nan, "alpha": 5.0}.get(
            key, -0.5
        )
        with raises(rf"^{name}: {key} must be .*, got {key}={wrong} in row \(3,\)$"):
            run(GOOD, allowed, **(settings | {key: values.at[3].set(wrong)}))
        with raises(rf"^{name}: {key} must be .*, got {key}=nan in row \(0,\) \(and 3 more\)$"):
            run(GOOD, allowed, **(settings | {key: jnp.full((4,), jnp.nan)}))


@pytest.mark.parametrize("name", ["p", "min_p", "mass", "epsilon"])
def test_a_share_outside_0_and_1(name: str) -> None:
    masks = {
        "p": jsoftmax.top_p_mask,
        "min_p": jsoftmax.min_p_mask,
        "mass": jsoftmax.typical_mask,
        "epsilon": jsoftmax.epsilon_mask,
    }
    mask = masks[name]
    checked = jsoftmax.checked(jax.jit(mask))
    for share in (0.0, 0.5, 1.0):
        checked(GOOD, jnp.float32(share))
    for share in (-0.25, 1.5):
        with raises(rf"^{mask.__name__}: {name} must be in \[0, 1\], got {name}={share}$"):
            checked(GOOD, jnp.float32(share))
        # Known at trace time it has a meaning, and an error that is asked for.
        mask(GOOD, share)
        with raises(f"got {name}={share}$"):
            jsoftmax.checked(functools.partial(mask, GOOD))(share)


def test_labels_out_of_range_and_ignored() -> None:
    losses = {
        "cross_entropy": jsoftmax.cross_entropy,
        "fenchel_young_loss": jsoftmax.fenchel_young_loss,
        "calibration.brier_score": jsoftmax.calibration.brier_score,
    }
    where = np.ones((4, 6), bool)
    where[3] = False
    for name, loss in losses.items():
        run = jsoftmax.checked(jax.jit(loss))
        run(GOOD, jnp.array([0, 5, 1, 2]))
        for label in (-1, 6):
            with raises(
                rf"^{name}: labels must be in \[0, 6\) .*, got labels={label} in row \(3,\)$"
            ):
                run(GOOD, jnp.array([0, 5, 1, label]))
        ignoring = jsoftmax.checked(jax.jit(loss), allow_empty_rows=True)
        ignoring(GOOD, jnp.array([0, 5, 1, -1]), where=where)
        with raises(r"got labels=-1 in row \(2,\)$"):
            ignoring(GOOD, jnp.array([0, 5, -1, -1]), where=where)
    with raises(r"^linear_cross_entropy: labels must be in \[0, 5\), got labels=5 in row \(1,\)$"):
        jsoftmax.checked(jsoftmax.linear_cross_entropy)(
            GOOD, jnp.ones((6, 5)), jnp.array([0, 5, 1, 4])
        )
    distribution = np.full((4, 6), 1 / 6, np.float32)
    distribution[1, 1] = np.nan
    with raises(r"^cross_entropy: labels must be finite .* in row \(1,\)$"):
        jsoftmax.checked(jsoftmax.cross_entropy)(GOOD, jnp.asarray(distribution))
    allowed = ~np.isnan(distribution)
    jsoftmax.checked(jsoftmax.cross_entropy)(GOOD, jnp.asarray(distribution), where=allowed)


def test_no_setting_and_no_label_counts_in_a_row_with_nothing_allowed() -> None:
    """Padding may hold anything: alone, in a batch, and a row at a time under vmap."""
    key, empty = jax.random.key(0), jnp.full(6, -jnp.inf)
    padded, bad = jnp.stack([GOOD[0], empty]), jnp.array([1.0, jnp.nan])
    calls: dict[str, Callable[..., Any]] = {
        "temperature": lambda x, s: jsoftmax.softmax(x, temperature=s),
        "top_p": lambda x, s: jsoftmax.sample(key, x, top_p=s),
        "k": jsoftmax.top_k_mask,
        "alpha": lambda x, s: jsoftmax.entmax(x, alpha=s),
        "labels": lambda x, s: jsoftmax.cross_entropy(x, jnp.where(jnp.isnan(s), -1, 1)),
    }
    for argument, call in calls.items():
        for function in (call, jax.vmap(call)):
            checked = jsoftmax.checked(jax.jit(function), allow_empty_rows=True)
            checked(padded, bad)
            with raises(rf"{argument}=.* in row \(0,\)$"):
                checked(padded, bad[::-1])
        jsoftmax.checked(call, allow_empty_rows=True)(empty, bad[1])


def test_an_example_of_weight_0_is_not_looked_at() -> None:
    score = jsoftmax.checked(jax.jit(jsoftmax.calibration.brier_score))
    labels, weights = jnp.array([0, 1, -1, 2]), jnp.array([1.0, 1.0, 0.0, 1.0])
    assert jnp.isfinite(score(BAD, labels, weights=weights))
    with raises(rf"^calibration.brier_score: {NOT_FINITE} in row \(2,\)$"):
        score(BAD, labels, weights=jnp.ones(4))
    with raises(r"weights must be finite .*, got weights=-1.0 in row \(1,\)$"):
        score(GOOD, jnp.zeros(4, int), weights=weights.at[1].set(-1.0))
    twice, one = (jnp.broadcast_to(of, (2, 4)) for of in (labels, weights))
    heat = jnp.array([1.0, 2.0, -1.0, 1.0])
    for w, t in ((weights, jnp.broadcast_to(heat, (2, 4))), (one, heat)):
        assert jnp.isfinite(score(np.stack([GOOD, GOOD]), twice, weights=w, temperature=t))
    assert jnp.isfinite(score(GOOD, labels, weights=weights, temperature=heat))
    with raises(r"got temperature=-1.0 in row \(2,\)$"):
        score(GOOD, labels.at[2].set(0), weights=jnp.ones(4), temperature=heat)


def test_hidden_states_weight_and_bias() -> None:
    hidden, weight, bias = jnp.ones((4, 3)), jnp.ones((3, 6)), jnp.zeros(6)
    labels = jnp.array([0, 1, 2, 5])
    loss = jsoftmax.checked(jax.jit(jsoftmax.linear_cross_entropy))
    assert_close(loss(hidden, weight, labels, bias=bias), np.full(4, np.log(6)), rtol=1e-6)
    broken = {
        "hidden": (hidden.at[2, 0].set(jnp.nan), weight, bias, r" in row \(2,\)"),
        "weight": (hidden, weight.at[1, 3].set(jnp.inf), bias, r" in row \(1,\)"),
        "bias": (hidden, weight, bias.at[0].set(jnp.nan), ""),
    }
    for name, (h, w, b, row) in broken.items():
        with raises(rf"^linear_cross_entropy: {name} must be finite .* got NaN or +inf{row}$"):
            loss(h, w, labels, bias=b)
    with raises(r"labels must be in \[0, 6\), got labels=6 in row \(3,\)$"):
        loss(hidden, weight, jnp.array([0, 1, 2, 6]), bias=bias)


def test_the_function_that_was_called_is_named() -> None:
    """Not one that it calls: `gumbel_softmax` is a softmax of logits and noise."""
    draw = jsoftmax.checked(jax.jit(jsoftmax.gumbel_softmax))
    key = jax.random.key(0)
    draw(key, GOOD)
    with raises(rf"^gumbel_softmax: {NOT_FINITE} in row \(2,\)$"):
        draw(key, BAD)
    with raises("^gumbel_softmax: temperature must be .*, got temperature=-1.0$"):
        draw(key, GOOD, temperature=jnp.float32(-1))


# --- how it is called ------------------------------------------------------------------------

ROUTES: dict[str, tuple[Callable[[jax.Array], Any], str]] = {
    "eager": (jsoftmax.softmax, " in row (2,)"),
    "jit": (jax.jit(jsoftmax.softmax), " in row (2,)"),
    "vmap": (jax.vmap(jsoftmax.softmax), " in row (2,)"),
    "grad": (jax.grad(total), " in row (2,)"),
    "jit of grad": (jax.jit(jax.value_and_grad(total)), " in row (2,)"),
    "hessian": (jax.hessian(total), " in row (2,)"),
    "jvp": (lambda x: jax.jvp(total, (x,), (jnp.ones_like(x),)), " in row (2,)"),
    "scan": (jax.jit(scanned), ""),
    # checkify loses the check of this one.
    "grad of scan": (jax.jit(jax.grad(scanned)), ""),
    "grad of scan of checkpoint": (
        jax.grad(
            lambda x: jax.lax.scan(lambda s, r: (s + jax.checkpoint(total)(r), None), 0.0, x)[0]
        ),
        "",
    ),
    "vmap of grad": (jax.jit(jax.vmap(jax.grad(total))), " in row (2,)"),
    "while": (
        lambda x: jax.lax.while_loop(
            lambda s: s[0] < 2, lambda s: (s[0] + 1, jsoftmax.softmax(s[1])), (0, x)
        ),
        " in row (2,)",
    ),
    "cond": (
        lambda x: jax.lax.cond(x[0, 0] == 0, jsoftmax.softmax, lambda x: x, x),
        " in row (2,)",
    ),
    "map": (lambda x: jax.lax.map(jsoftmax.softmax, x), ""),
    "checkpoint": (jax.grad(jax.checkpoint(total)), " in row (2,)"),
}


@pytest.mark.parametrize("route", ROUTES)
def test_under_every_transformation(route: str) -> None:
    function, row = ROUTES[route]
    # What was compiled without checks is not taken for what has them, nor the other way round.
    want = jax.block_until_ready(function(jnp.asarray(BAD)))
    run = jsoftmax.checked(function)
    run(jnp.asarray(GOOD))
    with raises(f"^softmax: {NOT_FINITE}{row}$".replace("(2,)", r"\(2,\)")):
        run(jnp.asarray(BAD))
    jax.tree.map(np.testing.assert_array_equal, function(jnp.asarray(BAD)), want)


def test_the_outermost_checks_what_another_checks() -> None:
    inner = jax.jit(jsoftmax.checked(jsoftmax.softmax, allow_empty_rows=True))
    run = jsoftmax.checked(lambda x: inner(x) + jsoftmax.softmax(jnp.zeros_like(x)))
    run(jnp.full((4, 6), -jnp.inf))
    with raises(rf"^softmax: {NOT_FINITE} in row \(2,\)$"):
        run(jnp.asarray(BAD))


def test_the_row_is_that_of_all_mapped_axes() -> None:
    x = np.zeros((2, 3, 4, 6), np.float32)
    x[1, 2, 3, 0] = np.inf
    with raises(r"in row \(1, 2, 3\)$"):
        jsoftmax.checked(jax.jit(jax.vmap(jax.vmap(jsoftmax.softmax))))(x)
    with raises(r"got temperature=-2.0 in row \(1,\)$"):
        jsoftmax.checked(jax.vmap(lambda t: jsoftmax.softmax(GOOD, temperature=t)))(
            jnp.array([1.0, -2.0, 3.0])
        )


@pytest.mark.parametrize("outside", ["jit", "vmap", "grad", "scan"])
def test_inside_a_transformation_jax_raises(outside: str) -> None:
    checked = jsoftmax.checked(total)
    route = {
        "jit": jax.jit(checked),
        "vmap": jax.vmap(checked),
        "grad": jax.grad(checked),
        "scan": lambda x: jax.lax.scan(lambda s, r: (s + checked(r), None), 0.0, x)[0],
    }[outside]
    jax.block_until_ready(route(jnp.asarray(GOOD)))
    with pytest.raises(
        (jax.errors.JaxRuntimeError, ValueError), match=NOT_FINITE.replace("+", r"\+")
    ):
        jax.block_until_ready(route(jnp.asarray(BAD)))


@pytest.mark.parametrize("layout", [AUTO, EXPLICIT, UNCHECKED], ids=str)
def test_split_over_devices(layout: Layout) -> None:
    x = np.zeros((4, 64), np.float32)
    broken = np.where(np.arange(256).reshape(4, 64) == 140, np.nan, x).astype(np.float32)
    where = np.ones(x.shape, bool)
    (entry,) = (each for each in FUNCTIONS if each.name == "sample")
    with jax.set_mesh(layout.mesh):
        run = jsoftmax.checked(jax.jit(layout.on_shards(entry, top_p=0.9)))
        run(layout.put(x), layout.put(where), jax.random.key(0))
        row = r"\(0,\)" if layout.batch else r"\(2,\)"
        with raises(rf"^sample: {NOT_FINITE} in row {row} of a shard over "):
            run(layout.put(broken), layout.put(where), jax.random.key(0))


@pytest.mark.parametrize("size", [64, 2000, 2048])
def test_split_over_an_explicit_axis_without_shard_map(size: int) -> None:
    mesh = jax.make_mesh((4,), ("vocab",), (AxisType.Explicit,), devices=jax.devices()[:4])
    x = np.zeros((4, size), np.float32)
    for spec in (P("vocab"), P(None, "vocab")):
        with jax.set_mesh(mesh):
            run = jsoftmax.checked(
                jax.jit(lambda x: jsoftmax.sample(jax.random.key(0), x, top_p=0.9))
            )
            run(jax.device_put(x, NamedSharding(mesh, spec)))
            x[2, 17] = np.nan
            with raises(rf"^sample: {NOT_FINITE} in row \(2,\)$"):
                run(jax.device_put(x, NamedSharding(mesh, spec)))
            x[2, 17] = 0


# --- what it costs, and does not break -------------------------------------------------------


@every_function
def test_nothing_of_it_is_compiled_where_it_is_not_used(entry: Entry) -> None:
    x = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    plain = jax.jit(lambda x, **s: entry(x, **s)).lower(x, **entry.setting()).as_text()
    assert "callback" not in plain
    seen: list[str] = []

    def lowered(x: jax.Array) -> jax.Array:
        text = jax.jit(lambda x, **s: entry(x, **s)).lower(x, **entry.setting()).as_text()
        seen.append(text)
        return x

    jsoftmax.checked(lowered)(jnp.asarray(GOOD))
    assert "callback" in seen[0]


def test_values_are_the_same() -> None:
    """Up to rounding: what is compiled with the checks is another program."""
    x, _ = rows.edges(rows.SOUND)
    x[~(x < np.inf)] = 0
    run = jsoftmax.checked(jax.jit(jsoftmax.softmax), allow_empty_rows=True)
    eps = float(jnp.finfo(jnp.float32).eps)
    np.testing.assert_allclose(run(x), jax.jit(jsoftmax.softmax)(x), rtol=2 * eps)


def test_errors_of_the_function_itself_pass() -> None:
    def broken(x: jax.Array) -> jax.Array:
        raise KeyError(f"mine {x.shape}")

    with pytest.raises(KeyError, match="mine"):
        jsoftmax.checked(broken)(jnp.asarray(GOOD))
    with pytest.raises(ValueError, match="softmax: axis must be in"):
        jsoftmax.checked(functools.partial(jsoftmax.softmax, axis=7))(GOOD)
    bad = jnp.asarray(BAD)
    with jax.debug_nans(True), raises(NOT_FINITE):
        jsoftmax.checked(jsoftmax.softmax)(bad)


def test_an_error_is_forgotten_by_the_next_call() -> None:
    run = jsoftmax.checked(jax.jit(jsoftmax.softmax))
    with raises(NOT_FINITE):
        run(BAD)
    run(GOOD)
    assert run.__name__ == "softmax"


def test_threads_do_not_see_each_other_s_errors() -> None:
    run = jsoftmax.checked(jax.jit(jsoftmax.softmax))
    results: dict[int, bool] = {}

    def call(i: int) -> None:
        for _ in range(20):
            try:
                run(BAD if i % 2 else GOOD)
                raised = False
            except ValueError:
                raised = True
            results[i] = results.get(i, True) and raised == bool(i % 2)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)


def test_in_other_worlds() -> None:
    for world in (jax.disable_jit(), jax.checking_leaks(), jax.transfer_guard("disallow")):
        x, bad = jnp.asarray(GOOD), jnp.asarray(BAD)
        with world:
            run = jsoftmax.checked(jax.jit(jsoftmax.softmax))
            run(x)
            with raises(rf"^softmax: {NOT_FINITE} in row \(2,\)$"):
                run(bad)
    with jax.enable_x64(True), raises(r"in row \(2,\)$"):
        jsoftmax.checked(jax.jit(jsoftmax.softmax))(BAD.astype(np.float64))


def test_a_soft_cap_that_is_zero_or_a_denormal() -> None:
    """On the threads where the host computes for a program a denormal is zero."""

    @jax.jit
    def loss(cap: jax.Array) -> jax.Array:
        labels = jnp.arange(4)
        return jsoftmax.linear_cross_entropy(GOOD, jnp.ones((6, 5)), labels, logit_softcap=cap)

    run = jsoftmax.checked(loss)
    run(jnp.float32(2e-38))
    for bad in (0.0, -0.0, 1e-39, -1.0, np.nan):
        with raises("^linear_cross_entropy: logit_softcap must be a number > 0"):
            run(jnp.float32(bad))
    with raises(r"got logit_softcap=0\.0 in row \(1,\)"):
        run(jnp.array([1.0, 0.0, np.inf, 30.0]))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [P("b"), P(None, "b"), P()], ids=str)
def test_an_eager_function_of_what_lies_on_several_devices(kind: AxisType, spec: P) -> None:
    mesh = jax.make_mesh((2,), ("b",), axis_types=(kind,), devices=jax.devices()[:2])
    x, bad = (jax.device_put(x, NamedSharding(mesh, spec)) for x in (GOOD, BAD))
    run = jsoftmax.checked(jsoftmax.softmax)
    np.testing.assert_array_equal(run(x), np.full((4, 6), 1 / 6, np.float32))
    with raises(rf"^softmax: {NOT_FINITE} in row \(2,\)$"):
        run(bad)


def test_labels_that_every_device_of_an_explicit_mesh_holds() -> None:
    mesh = jax.make_mesh((2,), ("b",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        x, split = (jax.device_put(x, NamedSharding(mesh, P("b"))) for x in (GOOD, np.ones(4)))
        labels, whole = jnp.array([0, 3, 5, 1]), jnp.ones(4)
        for loss in (jsoftmax.cross_entropy, jsoftmax.calibration.brier_score):
            jsoftmax.checked(jax.jit(loss))(x, labels)
            with raises(r"got labels=6 in row \(1,\)$"):
                jsoftmax.checked(jax.jit(loss))(x, labels.at[1].set(6))
        score = jsoftmax.checked(jax.jit(jsoftmax.calibration.brier_score))
        score(x, labels, weights=split, temperature=whole)
        score(x, labels, weights=whole, temperature=split)


def test_what_runs_after_the_call_is_refused() -> None:
    def generator(x: jax.Array) -> Any:
        yield jsoftmax.softmax(x)

    async def coroutine(x: jax.Array) -> jax.Array:
        return jsoftmax.softmax(x)

    class Later:
        async def __call__(self, x: jax.Array) -> jax.Array:
            return jsoftmax.softmax(x)

    message = "checked: function must return its result"
    for function in (generator, coroutine, functools.partial(generator, BAD), Later()):
        with pytest.raises(TypeError, match=message):
            jsoftmax.checked(function)
    with pytest.raises(TypeError, match=message):
        jsoftmax.checked(lambda x: (jsoftmax.softmax(row) for row in x))(BAD)
    with warnings.catch_warnings(action="error"), pytest.raises(TypeError, match=message):
        jsoftmax.checked(lambda x: coroutine(x))(BAD)


def test_an_empty_batch_has_nothing_to_check() -> None:
    run = jsoftmax.checked(lambda x, t: jsoftmax.softmax(x, temperature=t))
    assert run(jnp.zeros((0, 3)), jnp.zeros(0)).shape == (0, 3)


def test_arguments_that_are_no_tree() -> None:
    """A dict whose keys have no order: jax cannot flatten it, and no transformation takes it."""
    run = jsoftmax.checked(lambda given: jsoftmax.softmax(given["x"]))
    np.testing.assert_array_equal(run({"x": GOOD, 1: 2}), jsoftmax.softmax(GOOD))
    with raises(NOT_FINITE):
        run({"x": BAD, 1: 2})


def test_an_eager_function_brings_nothing_to_the_device() -> None:
    arguments = (
        (jsoftmax.softmax, {}),
        (jsoftmax.softmax, {"temperature": jnp.ones(4)}),
        (jsoftmax.cross_entropy, {"labels": jnp.array([0, 5, 1, 2])}),
        (jsoftmax.cross_entropy, {"labels": jsoftmax.softmax(GOOD)}),
        (jsoftmax.entropy, {"where": jnp.ones((4, 6), bool)}),
    )
    x, bad = jnp.asarray(GOOD), jnp.asarray(BAD)
    for function, keywords in arguments:
        run = jsoftmax.checked(function)
        with jax.transfer_guard("disallow"):
            run(x, **keywords)
            with raises(NOT_FINITE):
                run(bad, **keywords)


def test_an_eager_function_compiles_nothing_at_its_second_call() -> None:
    compiled: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        del duration
        compiled.append(event)

    x, t = jnp.asarray(GOOD), jnp.ones(4)
    run = jsoftmax.checked(jsoftmax.softmax)
    run(x, temperature=t)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run(x, temperature=t)
        with raises(NOT_FINITE):
            run(jnp.asarray(BAD), temperature=t)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [event for event in compiled if "compile" in event]


def test_what_a_compiled_function_captures() -> None:
    """Its value is there when the function is traced, and has to be looked at in every call."""
    t = jnp.array([1.0, -1.0, 1.0, 1.0])
    run = jsoftmax.checked(jax.jit(lambda x: jsoftmax.softmax(x, temperature=t)))
    for _ in range(3):
        with raises(r"temperature=-1.0 in row \(1,\)"):
            run(jnp.asarray(GOOD))


def test_what_is_no_function() -> None:
    with pytest.raises(TypeError, match="checked: function must be callable, got int"):
        jsoftmax.checked(3)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 0)])
def test_size_zero(shape: tuple[int, ...]) -> None:
    x = jnp.zeros(shape)
    assert jsoftmax.checked(jsoftmax.softmax)(x).shape == shape
    assert jsoftmax.checked(jsoftmax.kl_divergence)(x, x).shape == shape[:-1]
    losses = jsoftmax.checked(jsoftmax.cross_entropy)(x, x)
    np.testing.assert_array_equal(losses, np.zeros(shape[:-1]))


def test_what_is_checked_of_a_setting_keeps_no_tracer() -> None:
    """The program keeps what looks at its values, which once kept the logits of the trace."""
    heated = jsoftmax.checked(jax.jit(jsoftmax.calibration.brier_score))
    with jax.checking_leaks():
        heated(GOOD, jnp.array([0, 3, 5, 1]), weights=jnp.ones(4), temperature=jnp.ones(4))
