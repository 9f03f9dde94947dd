"""Every static argument error: its type, and a message with the function, the argument and the
value."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from jsoftmax import calibration
from tests import rows
from tests.registry import FUNCTIONS, REGISTRY, Entry

X = np.arange(6, dtype=np.float32).reshape(2, 3)
KEYED = tuple(entry for entry in FUNCTIONS if entry.keyed)
TIED = tuple(entry for entry in FUNCTIONS if entry.ties)
every_function = pytest.mark.parametrize("entry", FUNCTIONS, ids=str)


def expect(kind: type[Exception], call: Callable[[], Any], *words: str) -> None:
    """The call raises `kind` exactly, and the message holds every word, eagerly and under jit."""
    for run in (call, jax.jit(call)):
        with pytest.raises(kind) as caught:
            run()
        message = str(caught.value)
        for word in words:
            assert re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", message), (
                f"{word!r} not in {message!r}"
            )


@pytest.mark.parametrize("entry", [e for e in REGISTRY if e.kind != "linear"], ids=str)
def test_logits_of_the_wrong_type(entry: Entry) -> None:
    mask = {"mask": np.ones((2, 3), bool)} if entry.kind == "fill" else entry.setting()
    for bad, word in (
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], "list"),
        ("logits", "str"),
        (None, "NoneType"),
        (X > 1, "bool"),
        (X.astype(np.complex64), "complex64"),
    ):
        expect(TypeError, lambda bad=bad: entry(bad, **mask), entry.name, entry.data[0], word)


@every_function
def test_logits_without_an_axis(entry: Entry) -> None:
    for bad in (1.5, np.float32(2), jnp.float32(3)):
        argument = entry.data[0]
        expect(ValueError, lambda bad=bad: entry(bad, **entry.setting()), entry.name, argument)


@every_function
def test_axis(entry: Entry) -> None:
    for bad in (2, -3, 17):
        expect(
            ValueError,
            lambda bad=bad: entry(X, axis=bad, **entry.setting()),
            entry.name,
            "axis",
            str(bad).lstrip("-"),
        )
    for bad in (1.0, None, (0, 1), "v"):
        expect(
            TypeError,
            lambda bad=bad: entry(X, axis=bad, **entry.setting()),
            entry.name,
            "axis",
            str(bad).strip("()"),
        )


@every_function
def test_where(entry: Entry) -> None:
    for bad, word in (
        (np.ones((2, 3), np.float32), "float32"),
        (np.ones((2, 3), np.int32), "int32"),
        ([True, True, False], "list"),
    ):
        expect(
            TypeError,
            lambda bad=bad: entry(X, where=bad, **entry.setting()),
            entry.name,
            "where",
            word,
        )
    for bad in (np.ones(4, bool), np.ones((3, 2), bool), np.ones((1, 2, 3), bool)):
        expect(
            ValueError,
            lambda bad=bad: entry(X, where=bad, **entry.setting()),
            entry.name,
            "where",
            str(bad.shape),
        )


@every_function
def test_settings_that_are_nan(entry: Entry) -> None:
    for name in entry.settings:
        others = {k: v for k, v in entry.setting().items() if k != name}
        for bad in (np.nan, float("nan"), np.float32(np.nan), np.array([1.0, np.nan])):
            expect(
                ValueError,
                lambda n=name, b=bad, o=others: entry(X, **o, **{n: b}),
                entry.name,
                name,
                "nan",
            )


@every_function
def test_negative_temperature(entry: Entry) -> None:
    if "temperature" not in entry.settings:
        return
    for bad, word in (
        (-1, "-1"),
        (-0.5, "-0.5"),
        (np.float32(-0.5), "-0.5"),
        (np.array([1.0, -2.5]), "-2.5"),
    ):
        expect(ValueError, lambda b=bad: entry(X, temperature=b), entry.name, "temperature", word)
    zero = jax.tree.leaves(entry(X, temperature=0))
    for negative in (-0.0, jnp.array([-0.0, -0.0])):
        for got, want in zip(jax.tree.leaves(entry(X, temperature=negative)), zero, strict=True):
            np.testing.assert_array_equal(got, want)


def test_dtypes_without_infinity() -> None:
    """A class that is not allowed would be a NaN of theirs, or a number."""
    for entry in (
        e for e in REGISTRY if e.data[0] == "logits" and e.kind not in ("fill", "linear")
    ):
        for bad in (jnp.float8_e4m3fn, jnp.float4_e2m1fn):
            x = jnp.asarray(X, bad)
            expect(
                TypeError,
                lambda x=x, entry=entry: entry(x, **entry.setting()),
                entry.name,
                "logits",
                "infinity",
                x.dtype.name,
            )
    x, mask = jnp.asarray(X, jnp.float4_e2m1fn), X > 1
    words = ("mask_logits", "logits", "infinity", x.dtype.name)
    for infinite in (
        -np.inf,
        np.float32(-np.inf),
        np.array(np.inf),
        jnp.bfloat16(1).dtype.type(np.inf),
    ):
        expect(TypeError, lambda f=infinite: jsoftmax.mask_logits(x, mask, fill=f), *words)
    finite = jsoftmax.mask_logits(jnp.asarray(X, jnp.float8_e4m3fn), X > 1, fill=-9.0)
    assert (np.asarray(finite, np.float32) == np.where(X > 1, X, -9)).all()
    p = jsoftmax.softmax(jnp.asarray(X, jnp.float8_e5m2), where=X > 1)
    assert p.dtype == jnp.float8_e5m2
    np.testing.assert_array_equal(np.asarray(p > 0), X > 1)


@every_function
def test_settings_of_the_wrong_type(entry: Entry) -> None:
    for name in entry.settings:
        others = {k: v for k, v in entry.setting().items() if k != name}
        for bad, word in (
            ("hot", "str"),
            ([0.5, 0.5], "list"),
            (np.complex64(1j), "complex64"),
            (object(), "object"),
        ):
            expect(
                TypeError,
                lambda n=name, b=bad, o=others: entry(X, **o, **{n: b}),
                entry.name,
                name,
                word,
            )


@every_function
def test_settings_of_the_wrong_shape(entry: Entry) -> None:
    for name in entry.settings:
        others = {k: v for k, v in entry.setting().items() if k != name}
        for shape in ((3,), (2, 3), (2, 1), (1, 2)):
            for bad in (np.ones(shape, np.float32), jnp.ones(shape)):
                expect(
                    ValueError,
                    lambda n=name, b=bad, o=others: entry(X, **o, **{n: b}),
                    entry.name,
                    name,
                    str(shape),
                )


@every_function
def test_a_required_setting_is_required(entry: Entry) -> None:
    if entry.required:
        (name,) = entry.settings
        with pytest.raises(TypeError, match=name):
            entry(X)
    for extra in ("Temperature", "topk"):
        with pytest.raises(TypeError, match=extra):
            entry(X, **{extra: 1.0})


@pytest.mark.parametrize("entry", TIED, ids=str)
def test_ties(entry: Entry) -> None:
    for bad in ("last", "All", "", None, True):
        expect(
            ValueError,
            lambda b=bad: entry(X, ties=b, **entry.setting()),
            entry.name,
            "ties",
            "all",
            "first",
        )
    with pytest.raises(ValueError, match="'last'"):
        entry(X, ties="last", **entry.setting())


@pytest.mark.parametrize("entry", KEYED, ids=str)
def test_key(entry: Entry) -> None:
    for bad, kind in (
        (0, TypeError),
        (None, TypeError),
        ("key", TypeError),
        (np.zeros(2, np.float32), TypeError),
        (jnp.zeros((2,), jnp.int32), TypeError),
    ):
        expect(kind, lambda b=bad: entry.function(b, X), entry.name, "key")
    for bad in (
        jax.random.split(jax.random.key(0), 2),
        jax.random.split(jax.random.PRNGKey(0), 3),
        jnp.zeros((3,), jnp.uint32),
    ):
        expect(
            ValueError,
            lambda b=bad: entry.function(b, X),
            entry.name,
            "key",
            str(bad.shape).strip("()").rstrip(","),
        )


def test_mask_logits() -> None:
    for bad, word in (
        (np.ones((2, 3), np.float32), "float32"),
        (np.ones((2, 3), np.int8), "int8"),
        ([True] * 3, "list"),
    ):
        expect(TypeError, lambda bad=bad: jsoftmax.mask_logits(X, bad), "mask_logits", "mask", word)
    for bad in (np.ones(4, bool), np.ones((2, 2, 3), bool)):
        expect(
            ValueError,
            lambda bad=bad: jsoftmax.mask_logits(X, bad),
            "mask_logits",
            "mask",
            str(bad.shape),
        )


def test_a_fill_beyond_a_dtype_without_infinity() -> None:
    x, mask = jnp.ones(2, jnp.float8_e4m3fn), np.array([True, False])
    for bad in (-1e4, -(10**4), np.float64(-1e300), np.asarray(-1e4), np.int64(-(10**9))):
        expect(
            ValueError,
            lambda bad=bad: jsoftmax.mask_logits(x, mask, fill=bad),
            "mask_logits",
            "fill",
            "float8_e4m3fn",
            "448",
            str(float(bad)),
        )
    for good in (-448.0, np.nan):
        filled = jsoftmax.mask_logits(x, mask, fill=good).astype(jnp.float32)
        np.testing.assert_array_equal(filled, [1, good])
    with pytest.raises(ValueError, match="fill must be in"):
        jsoftmax.mask_logits(x.astype(jnp.float4_e2m1fn), mask, fill=-10.0)
    with pytest.raises(ValueError, match="got fill=nan"):
        jsoftmax.mask_logits(x.astype(jnp.float4_e2m1fn), mask, fill=np.nan)


@every_function
def test_probabilities_outside_the_unit_interval_are_no_error(entry: Entry) -> None:
    for name in ("p", "top_p", "mass"):
        if name in entry.settings:
            for number in (-0.1, 0.0, 1.0, 1.1, 2, -3):
                entry(X, **{name: number})
    for name in ("k", "top_k"):
        if name in entry.settings:
            for number in (-1, 0, 3, 10**6):
                entry(X, **{name: number})


@pytest.mark.parametrize("entry", KEYED, ids=str)
def test_good_keys_are_accepted(entry: Entry) -> None:
    for good in (
        jax.random.key(1),
        jax.random.PRNGKey(1),
        np.asarray(jax.random.PRNGKey(1)),
        jax.random.key(1, impl="rbg"),
    ):
        entry.function(good, X)


@pytest.mark.parametrize("temperature", [True, False])
def test_a_boolean_temperature_is_an_error(temperature: bool) -> None:
    with pytest.raises(TypeError, match="softmax: temperature must be real numbers"):
        jsoftmax.softmax(jnp.zeros(2), temperature=temperature)


@pytest.mark.parametrize("axis", [True, np.False_], ids=repr)
def test_a_truth_value_is_no_axis(axis: bool) -> None:
    with pytest.raises(TypeError, match=r"softmax: axis must be an integer, got"):
        jsoftmax.softmax(rows.normals(2, 3), axis)


@pytest.mark.parametrize("size", [True, np.True_], ids=repr)
def test_a_truth_value_is_no_count(size: bool) -> None:
    with pytest.raises(TypeError, match="block_size must be an integer or None, got"):
        jsoftmax.linear_cross_entropy(
            rows.normals(2, 3), rows.normals(3, 5), np.array([0, 1]), block_size=size
        )


def test_an_array_of_words_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="softmax: logits must be an array of numbers"):
        jsoftmax.softmax(np.array(["one", "two"]))


def test_a_fill_is_one_number() -> None:
    x, mask = rows.normals(3), np.array([True, False, True])
    for seven in (7.0, 7, np.float32(7), jnp.float32(7)):
        filled = jsoftmax.mask_logits(x, mask, fill=seven)
        np.testing.assert_array_equal(filled, np.where(mask, x, np.float32(7)))
    with pytest.raises(ValueError, match=r"fill must be a single number, got shape \(3,\)"):
        jsoftmax.mask_logits(x, mask, fill=rows.normals(3))


def test_a_setting_beyond_the_floats_is_infinite_without_a_warning() -> None:
    x = jnp.array([1.0, 2.0, 0.5])
    np.testing.assert_allclose(jsoftmax.softmax(x, temperature=1e300), [1 / 3] * 3)
    assert np.asarray(jsoftmax.top_n_sigma_mask(x, np.float64(1e300))).all()
    with pytest.raises(ValueError, match=r"brier_score: weights must be .*got weights=1e\+39"):
        calibration.brier_score(x, 0, weights=np.float64(1e39))
