"""Every mask on every class of row, against the sorted float64 reference."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from jsoftmax import top_k_mask, top_p_mask, truncation_mask, typical_mask
from tests import real_logits, reference, rows
from tests.compare import assert_mask
from tests.reference import Row
from tests.registry import MASKS, Entry

NUMBERS: dict[str, tuple[float, ...]] = {
    "k": (1, 2, 3, 17, 64, 1e9, -1, 0),
    "p": (-0.5, 0.0, 1e-7, 0.05, 0.3, 0.5, 0.9, 0.999, 1.0, 1.5),
    "mass": (0.0, 1e-7, 0.05, 0.3, 0.5, 0.9, 0.999, 1.0, 1.5),
    "min_p": (0.0, 1e-30, 1e-6, 0.02, 0.3, 1.0),
    "epsilon": (0.0, 1e-30, 1e-6, 0.002, 0.1, 0.9),
    "n": (-1.0, 0.0, 0.01, 0.5, 1.0, 3.0, 1e3),
}
COMBINATIONS: tuple[dict[str, float], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.0},
    {"temperature": np.inf},
    {"temperature": 0.0, "top_k": 3, "top_p": 0.6, "min_p": 0.1},
    {"temperature": np.inf, "top_k": 3, "top_p": 0.6, "min_p": 0.1},
    {"temperature": 0.5, "top_k": 20},
    {"temperature": 1.5, "top_p": 0.9},
    {"temperature": 0.8, "min_p": 0.05},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 1.3, "top_k": 5, "top_p": 0.5},
    {"temperature": 2.0, "top_k": 1e6, "top_p": 1.0, "min_p": 0.3},
    {"temperature": 0.7, "top_k": 1, "top_p": 0.5, "min_p": 0.9},
    {"temperature": 1e-3, "top_p": 0.9, "top_k": 7},
    {"temperature": 1.0, "top_k": 40, "top_p": 0.0},
)
ALL = {"temperature": 1.0, "top_k": 0.0, "top_p": 1.0, "min_p": 0.0}
ONE_SETTING = [entry for entry in MASKS if len(entry.settings) == 1]
FRONTS = [
    (entry, ties) for entry in ONE_SETTING for ties in (("all", "first") if entry.ties else (None,))
]


def grid(logits: Row, count: int) -> Row:
    """The rows once for each setting: [settings, rows, V]."""
    return np.broadcast_to(logits, (count, *logits.shape))


def check_front(entry: Entry, ties: str | None, names: list[str], logits: Row) -> None:
    """All numbers of a front on all the rows in one call, against the reference."""
    (name,) = entry.settings
    values = np.array(NUMBERS[name], np.float32)[:, None]
    static = {} if ties is None else {"ties": ties}
    x = grid(logits, len(values))
    got = jax.jit(lambda x, value: entry(x, **{name: value}, **static))(x, values)
    want = reference.over_rows(entry.row, x, values, **static)
    assert_mask(got, want, names)


@pytest.mark.parametrize("length", [1, 2, 129, 512, 1025])
@pytest.mark.parametrize(("entry", "ties"), FRONTS, ids=lambda value: str(value))
def test_every_class_of_row(entry: Entry, ties: str | None, length: int) -> None:
    check_front(entry, ties, *rows.stacked(length, seed=length))


@pytest.mark.slow
@pytest.mark.parametrize("length", rows.LENGTHS[::2])
def test_truncation_of_every_class_of_row(length: int) -> None:
    names, logits = rows.stacked(length, seed=length)
    settings = {
        name: np.array([combination.get(name, off) for combination in COMBINATIONS], np.float32)[
            :, None
        ]
        for name, off in ALL.items()
    }
    x = grid(logits, len(COMBINATIONS))
    got = jax.jit(truncation_mask)(x, **settings)
    want = reference.over_rows(reference.truncation_row, x, *settings.values())
    assert_mask(got, want, names)
    for name, value in (("top_k", 7), ("top_p", 0.8), ("min_p", 0.1)):
        alone = truncation_mask(logits, temperature=0.9, **{name: value})
        numbers = [{**ALL, "temperature": 0.9, name: value}[n] for n in ALL]
        assert_mask(alone, reference.over_rows(reference.truncation_row, logits, *numbers), names)


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "ties"), FRONTS, ids=lambda value: str(value))
def test_large_vocabulary(entry: Entry, ties: str | None) -> None:
    names = ["normal 3", "bfloat16", "ties", "ladder", "holes"]
    family = rows.family(151936)
    (name,) = entry.settings
    values = np.array(NUMBERS[name][-5:-1], np.float32)[:, None]
    static = {} if ties is None else {"ties": ties}
    logits = np.stack([family[name] for name in names])
    got = jax.jit(lambda x, value: entry(x, **{name: value}, **static))(grid(logits, 4), values)
    want = reference.over_rows(entry.row, grid(logits, 4), values, **static)
    assert_mask(got, want, names)


def test_truncation_of_a_large_vocabulary() -> None:
    names = ["normal 3", "bfloat16", "ties", "ladder", "holes", "peaked"]
    family = rows.family(151936)
    logits = np.stack([family[name] for name in names])
    settings = {"temperature": 0.8, "top_k": 500.0, "top_p": 0.95, "min_p": 1e-3}
    got = jax.jit(truncation_mask)(logits, **settings)
    assert_mask(
        got, reference.over_rows(reference.truncation_row, logits, *settings.values()), names
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("entry", "ties"), FRONTS, ids=lambda value: str(value))
def test_half_precision_rows_full_of_ties(entry: Entry, ties: str | None, dtype: str) -> None:
    """The masks of half precision logits are those of the same numbers in float32."""
    x = jnp.asarray(np.stack([rows.normal(2000, 2.0, seed) for seed in range(4)]), jnp.dtype(dtype))
    (name,) = entry.settings
    static = {} if ties is None else {"ties": ties}
    for value in entry.settings[name][:2]:
        value = value if name != "k" else 150 * value
        if name in ("epsilon", "min_p"):
            value /= 100
        got = entry(x, **{name: value}, **static)
        np.testing.assert_array_equal(got, entry(x.astype(jnp.float32), **{name: value}, **static))
        want = reference.over_rows(entry.row, x, np.float32(value), **static)
        assert_mask(got, want)


@pytest.mark.parametrize("function", [top_k_mask, top_p_mask, typical_mask])
def test_equal_inputs_get_equal_outputs(function: Callable[..., jax.Array]) -> None:
    x = rows.bf16(rows.normal(3000, 2.0))
    for number in (0.2, 0.7, 0.95) if function is not top_k_mask else (10, 300, 2500):
        mask = np.asarray(function(x, number))
        for value in np.unique(x[mask]):
            assert mask[x == value].all()


@pytest.mark.parametrize("entry", MASKS, ids=str)
def test_permutation_equivariance(entry: Entry) -> None:
    names, logits = rows.stacked(1000)
    order = np.random.default_rng(0).permutation(1000)
    settings = entry.setting() if "n" in entry.settings else {**entry.setting(), **small(entry)}
    got = np.asarray(entry(logits, **settings))[:, order]
    permuted = np.asarray(entry(logits[:, order], **settings))
    differ = {names[i] for i in np.flatnonzero((got != permuted).any(-1))}
    must, may = entry.expected(logits, settings)
    unclear = {names[i] for i in np.flatnonzero((must != may).any(-1))}
    assert differ <= unclear


def small(entry: Entry) -> dict[str, float]:
    """Settings that cut a row of 1000 somewhere in the middle."""
    scale = {"epsilon": 0.002, "min_p": 0.05, "k": 100.0, "top_k": 100.0}
    return {name: scale[name] for name in entry.settings if name in scale}


@pytest.mark.parametrize("entry", MASKS, ids=str)
def test_a_looser_setting_never_drops_an_entry(entry: Entry) -> None:
    _, logits = rows.stacked(257)
    for name, values in NUMBERS.items():
        if name not in entry.settings:
            continue
        inside = sorted(value for value in values if value > 0)
        if name in ("min_p", "epsilon"):
            inside = inside[::-1]
        x = grid(logits, len(inside))
        masks = np.asarray(entry(x, **{name: np.array(inside, np.float32)[:, None]}))
        assert (masks[:-1] <= masks[1:]).all()
        assert masks.sum(-1)[:, :-1].min() >= 1


@pytest.mark.parametrize("entry", MASKS, ids=str)
def test_never_empty_where_something_is_allowed(entry: Entry) -> None:
    names, logits = rows.stacked(100)
    extreme = {"k": 1, "p": 0, "mass": 0, "min_p": 5.0, "epsilon": 3.0, "n": 1e-30}
    settings = {name: extreme[name] for name in entry.settings if name in extreme}
    mask = np.asarray(entry(logits, **(settings or {"top_k": 1, "top_p": 0.0, "min_p": 7.0})))
    for name, row, x in zip(names, mask, logits, strict=True):
        assert row.any() == (name != "nothing"), name
        if entry.name not in ("typical_mask", "eta_mask"):
            assert (row == ((x == x.max()) & (x > -np.inf))).all(), name


def test_infinite_settings() -> None:
    """The limits: an infinite k, p or n keeps all, and a row without spread is no exception."""
    x = np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 5.0]], np.float32)
    for entry in ONE_SETTING:
        (name,) = entry.settings
        if name in ("k", "p", "mass", "n"):
            np.testing.assert_array_equal(
                entry(x, **{name: np.inf}), np.ones((2, 3), bool), err_msg=entry.name
            )
        else:
            np.testing.assert_array_equal(entry(x, **{name: np.inf}), x == x.max(-1, keepdims=True))


def test_real_logits() -> None:
    x = real_logits.load()
    for entry, ties in FRONTS:
        (name,) = entry.settings
        static = {} if ties is None else {"ties": ties}
        value = {"k": 50, "p": 0.95, "mass": 0.9, "min_p": 0.05, "epsilon": 3e-4, "n": 1.0}[name]
        got = jax.jit(lambda x, v, e=entry, n=name, s=static: e(x, **{n: v}, **s))(x, value)
        assert_mask(got, reference.over_rows(entry.row, x, np.float32(value), **static))
    settings = {"temperature": 0.8, "top_k": 50.0, "top_p": 0.95, "min_p": 0.02}
    got = jax.jit(truncation_mask)(x, **settings)
    assert_mask(
        got, reference.over_rows(reference.truncation_row, x, *map(np.float32, settings.values()))
    )


def test_eta_above_one_follows_its_definition() -> None:
    x = jnp.log(jnp.array([0.45, 0.4, 0.15]))
    assert jsoftmax.eta_mask(x, 4.0).tolist() == [True, False, False]


@pytest.mark.parametrize("k", [np.int64(2**32 + 1), np.array(2**32 + 1), 2**40, 10**400])
def test_a_large_static_k_is_off_and_not_wrapped(k: int) -> None:
    assert jsoftmax.top_k_mask(jnp.array([1.0, 2.0, 3.0]), k).tolist() == [True] * 3


@pytest.mark.parametrize("scale", [np.finfo(np.float32).tiny, 2.0**-60, 2.0**100], ids=str)
def test_top_n_sigma_has_no_scale(scale: float) -> None:
    x = np.array([1, 2, 3, 4, 10], np.float32)
    kept = jsoftmax.top_n_sigma_mask(x * np.float32(scale), 2.2)
    np.testing.assert_array_equal(kept, [False, False, False, True, True])


def test_top_n_sigma_of_logits_whose_differences_are_denormal() -> None:
    tiny, eps = np.finfo(np.float32).tiny, np.finfo(np.float32).eps
    x = 4 * tiny * (1 + eps * np.array([1, 2, 3, 4, 10], np.float32))
    np.testing.assert_array_equal(
        jsoftmax.top_n_sigma_mask(x, 2.2), [False, False, False, True, True]
    )
