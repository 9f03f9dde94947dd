"""The selection engine at its edges: ties, exact mass, composition, equal prefixes, all lengths."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from jsoftmax import (
    epsilon_mask,
    min_p_mask,
    softmax,
    temperature_scale,
    top_k_mask,
    top_p_mask,
    truncation_mask,
    typical_mask,
)
from jsoftmax._typing import Ties
from tests import reference, rows
from tests.compare import assert_mask

INF = np.inf


@pytest.mark.parametrize("length", rows.LENGTHS[1:])
def test_first_keeps_exactly_k_as_lax_top_k(length: int) -> None:
    x = np.stack(
        [rows.bf16(rows.normal(length, 1.0)), np.zeros(length, np.float32), rows.two_values(length)]
    )
    for k in sorted({1, 2, length // 2, length - 1} - {0}):
        mask = np.asarray(top_k_mask(x, k, ties="first"))
        _, index = jax.lax.top_k(jnp.asarray(x), k)
        want = np.zeros_like(mask)
        np.put_along_axis(want, np.asarray(index), True, -1)
        np.testing.assert_array_equal(mask, want)


@pytest.mark.parametrize("length", [2, 8, 128, 4096])
def test_mass_exactly_p_at_the_cut(length: int) -> None:
    """V equal entries have mass 1/V each, exactly: p = j/V keeps j of them, not j + 1."""
    count = np.unique([1, max(1, length // 4), length // 2, length - 1])
    x = np.full((len(count), length), np.float32(-1.7))
    p = (count / length).astype(np.float32)
    mask = np.asarray(top_p_mask(x, p, ties="first"))
    np.testing.assert_array_equal(mask, np.arange(length)[None] < count[:, None])
    mask = np.asarray(typical_mask(x, p, ties="first"))
    np.testing.assert_array_equal(mask, np.arange(length)[None] < count[:, None])
    above = p + np.float32(0.5 / length)
    mask = np.asarray(top_p_mask(x, above, ties="first"))
    np.testing.assert_array_equal(mask.sum(-1), count + 1)
    np.testing.assert_array_equal(top_p_mask(x, p), np.ones_like(mask))


def test_the_crossing_entry_is_included() -> None:
    p = np.array([0.5, 0.3, 0.15, 0.05])
    x = np.log(p).astype(np.float32)[::-1].copy()
    for target, kept in (
        (0.0, 1),
        (0.2, 1),
        (0.49, 1),
        (0.51, 2),
        (0.79, 2),
        (0.81, 3),
        (0.96, 4),
        (1.0, 4),
    ):
        mask = np.asarray(top_p_mask(x, target))
        np.testing.assert_array_equal(mask, np.arange(4) >= 4 - kept, err_msg=str(target))


def test_ties_at_the_cut() -> None:
    x = np.array([1.0, 2.0, 1.0, 0.0, 1.0], np.float32)
    np.testing.assert_array_equal(top_k_mask(x, 2), [1, 1, 1, 0, 1])
    np.testing.assert_array_equal(top_k_mask(x, 2, ties="first"), [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(top_k_mask(x, 3, ties="first"), [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(top_p_mask(x, 0.6), [1, 1, 1, 0, 1])
    np.testing.assert_array_equal(top_p_mask(x, 0.6, ties="first"), [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(top_p_mask(x, 0.0, ties="first"), [0, 1, 0, 0, 0])
    flat = np.zeros(4, np.float32)
    np.testing.assert_array_equal(top_p_mask(flat, 0.0), [1, 1, 1, 1])
    np.testing.assert_array_equal(top_p_mask(flat, 0.0, ties="first"), [1, 0, 0, 0])
    np.testing.assert_array_equal(typical_mask(flat, 0.0, ties="first"), [1, 0, 0, 0])


def test_signed_zeros_are_equal() -> None:
    x = np.array([-0.0, 0.0, -0.0, 0.0, -1.0], np.float32)
    np.testing.assert_array_equal(top_k_mask(x, 1), [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(top_k_mask(x, 1, ties="first"), [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(top_k_mask(x, 2, ties="first"), [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(top_p_mask(x, 0.01), [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(top_p_mask(x, 0.5, ties="first"), [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(softmax(x, temperature=0.0), [0.25, 0.25, 0.25, 0.25, 0])
    np.testing.assert_array_equal(temperature_scale(x, 0.0), [0, 0, 0, 0, -INF])


def test_subnormal_logits_are_told_apart_or_are_zero() -> None:
    """XLA treats float32 subnormals as zero on some backends; either way the mask is consistent."""
    x = (np.finfo(np.float32).smallest_subnormal * np.arange(8)).astype(np.float32)
    for k in (1, 3, 7):
        mask = np.asarray(top_k_mask(x, k))
        assert mask.all() or (mask == (np.arange(8) >= 8 - k)).all()
        first = np.asarray(top_k_mask(x, k, ties="first"))
        assert (first == (np.arange(8) < k)).all() or (first == (np.arange(8) >= 8 - k)).all()
    assert np.asarray(top_p_mask(x, 0.0)).any()
    np.testing.assert_allclose(softmax(x), np.full(8, 0.125), rtol=1e-6)


def test_neighbouring_floats_are_told_apart() -> None:
    """Entries one unit in the last place apart: selection is exact, no tolerance joins them."""
    base = np.array([1.0, -1.0, 1e-30, -1e-30, 1e30, -1e30, 0.1], np.float32)
    for value in base:
        steps = [value]
        for _ in range(6):
            steps.append(np.nextafter(steps[-1], np.float32(INF)))
        x = np.array(steps, np.float32)[[3, 0, 6, 1, 5, 2, 4]]
        for k in range(1, 7):
            np.testing.assert_array_equal(
                top_k_mask(x, k), x >= np.sort(x)[-k], err_msg=f"{value} {k}"
            )


def test_composition_through_where() -> None:
    """top-p on top-k survivors is renormalised, in both tie modes, and equals `truncation_mask`."""
    x = np.stack([rows.normal(200, 2.0, seed) for seed in range(6)])
    for ties in ("all", "first"):
        first = top_k_mask(x, 20, ties=ties)
        got = top_p_mask(x, 0.7, where=first, ties=ties)
        must, may = reference.over_rows(reference.top_k_row, x, 20, ties=ties)
        assert_mask(got, reference.over_rows(reference.top_p_row, x, 0.7, where=must, ties=ties))
        np.testing.assert_array_equal(must, may)
    np.testing.assert_array_equal(
        truncation_mask(x, top_k=20, top_p=0.7, min_p=0.05),
        min_p_mask(x, 0.05, where=top_p_mask(x, 0.7, where=top_k_mask(x, 20))),
    )
    scaled = temperature_scale(x, 0.6)
    np.testing.assert_array_equal(
        truncation_mask(x, temperature=0.6, top_k=20, top_p=0.7),
        top_p_mask(scaled, 0.7, where=top_k_mask(scaled, 20)),
    )


def test_the_renormalised_mass_counts() -> None:
    """Top-p alone on this row keeps three; on the top-2 survivors a lower bar is reached by one."""
    x = np.log(np.array([0.4, 0.3, 0.2, 0.1])).astype(np.float32)
    np.testing.assert_array_equal(top_p_mask(x, 0.55), [1, 1, 0, 0])
    np.testing.assert_array_equal(top_p_mask(x, 0.55, where=top_k_mask(x, 2)), [1, 0, 0, 0])
    np.testing.assert_array_equal(truncation_mask(x, top_k=2, top_p=0.55), [1, 0, 0, 0])
    np.testing.assert_array_equal(
        truncation_mask(x, top_k=2, top_p=0.55, temperature=10.0), [1, 1, 0, 0]
    )


def test_where_restricts_and_the_result_stays_inside() -> None:
    x = rows.normal(400, 2.0)
    where = np.random.default_rng(5).random(400) < 0.3
    for mask, alone in (
        (top_k_mask(x, 13, where=where), top_k_mask(x[where], 13)),
        (top_p_mask(x, 0.8, where=where), top_p_mask(x[where], 0.8)),
        (typical_mask(x, 0.8, where=where), typical_mask(x[where], 0.8)),
        (min_p_mask(x, 0.1, where=where), min_p_mask(x[where], 0.1)),
        (epsilon_mask(x, 0.01, where=where), epsilon_mask(x[where], 0.01)),
    ):
        assert not np.asarray(mask)[~where].any()
        np.testing.assert_array_equal(np.asarray(mask)[where], alone)


def test_idempotence() -> None:
    """Top-k and min-p of what they kept keep it again."""
    _, x = rows.stacked(300)
    for once, again in (
        (top_k_mask(x, 9), lambda m: top_k_mask(x, 9, where=m)),
        (min_p_mask(x, 0.1), lambda m: min_p_mask(x, 0.1, where=m)),
    ):
        np.testing.assert_array_equal(again(once), once)


def test_off_keeps_what_has_no_probability_left() -> None:
    """p = 1 is off, not "reaches mass 1": entries whose probability underflows stay."""
    x = np.array([0.0, -300.0, -3e38, -INF], np.float32)
    for mask in (
        top_p_mask(x, 1.0),
        top_p_mask(x, jnp.float32(1.5)),
        typical_mask(x, 1.0),
        top_k_mask(x, 0),
        top_k_mask(x, -3),
        top_k_mask(x, 4),
        top_k_mask(x, 3),
        min_p_mask(x, 0.0),
        epsilon_mask(x, 0.0),
        truncation_mask(x),
        truncation_mask(x, top_k=0, top_p=1.0, min_p=0.0),
    ):
        np.testing.assert_array_equal(mask, [1, 1, 1, 0])
    np.testing.assert_array_equal(top_k_mask(x, 2), [1, 1, 0, 0])


def test_temperature_creates_no_ties() -> None:
    """At T = 1e38 the scaled logits are all equal in float32; top-k still tells them apart."""
    x = np.array([1.0, 1.0000001, 3.0, 2.0], np.float32)
    np.testing.assert_array_equal(truncation_mask(x, temperature=1e38, top_k=1), [0, 0, 1, 0])
    np.testing.assert_array_equal(truncation_mask(x, temperature=1e38, top_k=3), [0, 1, 1, 1])
    np.testing.assert_array_equal(truncation_mask(x, temperature=INF, top_k=1), [1, 1, 1, 1])
    np.testing.assert_array_equal(truncation_mask(x, temperature=0.0, top_k=3), [0, 0, 1, 0])
    np.testing.assert_array_equal(truncation_mask(x, temperature=0.0), [0, 0, 1, 0])


def test_locally_typical_drops_the_mode_of_a_dull_row() -> None:
    """Meister 2022's point: a mode that is much more probable than exp(-H) is not typical."""
    p = np.array([0.3] + [0.01] * 70)
    x = np.log(p / p.sum()).astype(np.float32)
    must, may = reference.over_rows(reference.typical_row, x, 0.5)
    assert not may[0]
    assert_mask(typical_mask(x, 0.5), (must, may))
    assert not np.asarray(typical_mask(x, 0.5))[0]


def test_a_flat_distribution_keeps_all_whatever_the_logits() -> None:
    x = np.float32([-8388608.0, 1.6e32, -3e38, 3e38])
    for settings in ({"min_p": 1.0}, {"top_p": 0.1}, {"top_k": 1}):
        assert np.asarray(truncation_mask(x, temperature=INF, **settings)).all()


@pytest.mark.parametrize("ties", ["all", "first"])
@pytest.mark.parametrize("bad", [np.nan, INF])
def test_a_broken_row_keeps_every_allowed_entry(ties: Ties, bad: float) -> None:
    x = np.float32([[bad, 1, 1, 1, 0, -INF], [1, 1, 1, bad, 0, -INF], [2, 1, 1, 0, 0, -INF]])
    where = np.array([True] * 4 + [False, True])
    for mask in (
        top_k_mask(x, 2, where=where, ties=ties),
        top_p_mask(x, 0.5, where=where, ties=ties),
        typical_mask(x, 0.5, where=where, ties=ties),
        min_p_mask(x, 0.9, where=where),
    ):
        np.testing.assert_array_equal(mask[:2], [[True] * 4 + [False] * 2] * 2)
        assert 0 < mask[2].sum() < 4
        p = softmax(x, where=mask)
        assert jnp.isnan(p[:2, :4]).all()
        assert jnp.isfinite(p[2]).all()


@pytest.mark.parametrize("rest", [0.0, -1e-40, -2e-38])
@pytest.mark.parametrize(("mask", "number"), [(top_k_mask, 3), (top_k_mask, 70), (top_p_mask, 0.5)])
def test_the_search_ends_among_denormals(
    mask: Callable[..., Any], number: float, rest: float
) -> None:
    """They count as zero: a cut between zero and the least normal float has few floats to try."""
    x = np.full(200, rest, np.float32)
    x[:5] = [-1.4187888e-38, 1.7850941e-38, 3.7e-40, 4e-42, -1e-45]
    flushed = np.where(np.abs(x) < np.finfo(np.float32).tiny, 0, x)
    row = {top_k_mask: reference.top_k_row, top_p_mask: reference.top_p_row}[mask]
    assert_mask(mask(x, number), reference.over_rows(row, flushed, number))


def test_rows_finish_their_search_at_different_rounds() -> None:
    """A row that had finished was moved past its cut while others went on."""
    x = jnp.array([[-3.0, -jnp.inf, -jnp.inf, -jnp.inf], [-1.0, -2.0, -3.0, -4.0]])
    kept = jsoftmax.truncation_mask(x, top_k=jnp.array([3, 2]), top_p=jnp.array([1.0, 0.9]))
    assert kept.tolist() == [[True, False, False, False], [True, True, False, False]]
