"""What is written for TPUs and GPUs, run on a CPU: the same meaning, whatever a target is given.

The functions are traced with the branch of another platform in place of the CPU's own.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

import jsoftmax
from tests import (
    reference,
    rows,
    test_contracts,
    test_numerics,
    test_select,
    test_sharded,
    test_truncate,
)
from tests.compare import assert_mask
from tests.registry import FUNCTIONS, Entry
from tests.statistics import assert_fits

pytestmark = pytest.mark.slow


@pytest.fixture(params=["tpu", "cuda"], autouse=True)
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The platform whose branches are taken."""

    def choose(*arguments: Any, default: Any = None, **branches: Any) -> Any:
        return branches.get(request.param, default)(*arguments)

    monkeypatch.setattr(lax, "platform_dependent", choose)
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


@pytest.mark.parametrize(("entry", "ties"), test_truncate.FRONTS, ids=lambda value: str(value))
def test_masks(entry: Entry, ties: str | None) -> None:
    test_truncate.check_front(entry, ties, *rows.stacked(1032, seed=3))


def test_ties() -> None:
    test_select.test_first_keeps_exactly_k_as_lax_top_k(4097)
    test_select.test_mass_exactly_p_at_the_cut(4096)


def test_truncation() -> None:
    names, logits = rows.stacked(1032)
    for settings in test_truncate.COMBINATIONS:
        numbers = test_truncate.ALL | settings
        got = jax.jit(jsoftmax.truncation_mask)(logits, **numbers)
        want = reference.over_rows(reference.truncation_row, logits, *numbers.values())
        assert_mask(got, want, names)


def test_accuracy() -> None:
    # Twice as far off as where sums and exponentials are exact.
    assert test_numerics.softmax_ulps(test_numerics.numeric_rows(4096)) <= 4
    test_numerics.test_float32_log_softmax_and_logsumexp_within_an_eps(4096)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_a_sure_row_lacks_keeps_its_digits(dtype: np.dtype) -> None:
    rest = np.linspace(-40, -25, 4095)
    with jax.enable_x64(dtype == np.float64):
        x = np.concatenate([[0], rest]).astype(dtype)
        got = jsoftmax.logsumexp(x)
        want = np.log1p(np.sum(np.exp(x[1:].astype(np.float64))))
        np.testing.assert_allclose(got, want, rtol=32 * np.finfo(dtype).eps)


def test_draws(key: jax.Array) -> None:
    x = np.stack([rows.normal(1032, 3.0), rows.bf16(rows.normal(1032, 1.0)), rows.holes(1032)])
    many = np.broadcast_to(x, (20_000, *x.shape))
    for settings in ({}, {"temperature": 0.8, "top_p": 0.9}, {"top_k": 30, "min_p": 0.01}):
        tokens = np.asarray(jsoftmax.sample(key, many, **settings))
        for i, row in enumerate(x):
            mask = np.asarray(jsoftmax.truncation_mask(row, **settings))
            temperature = settings.get("temperature", 1.0)
            p = reference.softmax_row(row, mask, temperature)
            assert_fits(np.bincount(tokens[:, i], minlength=row.size), p, f"{settings}, row {i}")


def test_shards() -> None:
    test_sharded.test_the_number_of_shards_does_not_decide_the_token({"top_p": 0.9}, 8192)


def test_checkify_meets_no_nan_beside_what_is_absent() -> None:
    for entry in FUNCTIONS:
        test_contracts.test_checkify_meets_no_nan_beside_what_is_absent(entry)
