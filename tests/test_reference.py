"""The reference itself, against brute force, scipy and jax.nn: a wrong ruler measures nothing."""

import itertools

import jax
import numpy as np
import pytest
from scipy import special

from tests import reference, rows
from tests.reference import Row

SMALL = [rows.normal(7, 1.5, seed).astype(np.float64) for seed in range(4)] + [
    np.array([0.0, 1.0, 1.0, 0.0, 1.0, -2.0]),
    np.array([0.5, -np.inf, 0.25, 0.5, -1.0]),
    np.full(5, 0.1),
]
ALL = np.True_


def test_maps_agree_with_scipy() -> None:
    for x in SMALL:
        np.testing.assert_allclose(
            reference.over_rows(reference.softmax_row, x, 1.0), special.softmax(x), rtol=1e-14
        )
        np.testing.assert_allclose(
            reference.over_rows(reference.log_softmax_row, x, 0.7),
            special.log_softmax(x / 0.7),
            rtol=1e-13,
        )
        np.testing.assert_allclose(
            reference.over_rows(reference.logsumexp_row, x, 0.7), 0.7 * special.logsumexp(x / 0.7)
        )
        p = special.softmax(x)
        np.testing.assert_allclose(
            reference.over_rows(reference.entropy_row, x, 1.0), special.entr(p).sum()
        )


def smallest_set(x: Row, weight: Row, score: Row, target: float) -> set[int]:
    """By brute force: of all sets that reach the target, the smallest, and of those the one of
    highest scores, lowest indices."""
    live = [i for i in range(x.size) if x[i] > -np.inf]
    for size in range(1, len(live) + 1):
        reaching = [s for s in itertools.combinations(live, size) if sum(weight[list(s)]) >= target]
        closed = [
            s
            for s in reaching
            if all((score[j], -j) < (score[i], -i) for i in s for j in live if j not in s)
        ]
        if closed:
            return set(closed[0])
    return set(live)


@pytest.mark.parametrize("p", [1e-6, 0.21, 0.55, 0.9, 0.97])
def test_top_p_and_typical_are_the_smallest_sets(p: float) -> None:
    for x in SMALL:
        weight = special.softmax(x)
        mask, same = reference.over_rows(reference.top_p_row, x, p, ties="first", slack=1e-12)
        np.testing.assert_array_equal(mask, same)
        chosen = smallest_set(x, weight, x, p)
        assert set(np.flatnonzero(mask)) == chosen
        everything, _ = reference.over_rows(reference.top_p_row, x, p, ties="all", slack=1e-12)
        assert set(np.flatnonzero(everything)) == {
            i for i in range(x.size) if x[i] in x[sorted(chosen)]
        }

        with np.errstate(divide="ignore"):
            log_p = np.log(weight)
        score = -np.abs(-log_p - special.entr(weight).sum())
        must, may = reference.over_rows(reference.typical_row, x, p, ties="first")
        chosen = smallest_set(x, weight, np.where(x == -np.inf, -np.inf, score.round(12)), p)
        assert set(np.flatnonzero(must)) <= chosen <= set(np.flatnonzero(may))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_top_k_is_lax_top_k(k: int) -> None:
    for x in SMALL:
        if k >= x.size:
            continue
        mask, _ = reference.over_rows(reference.top_k_row, x, k, ties="first")
        _, index = jax.lax.top_k(np.float32(x), k)
        finite = {int(i) for i in index if x[int(i)] > -np.inf}
        assert set(np.flatnonzero(mask)) == finite
        everything, _ = reference.over_rows(reference.top_k_row, x, k, ties="all")
        assert set(np.flatnonzero(everything)) == {
            i for i in range(x.size) if x[i] in x[sorted(finite)]
        }


def test_thresholds_are_the_definitions() -> None:
    for x in SMALL:
        p, live = special.softmax(x), x > -np.inf
        entropy = special.entr(p).sum()
        top = x == x.max()
        for value, row, want in (
            (0.2, reference.min_p_row, p >= 0.2 * p.max()),
            (0.15, reference.epsilon_row, (p >= 0.15) | top),
            (0.3, reference.eta_row, (p >= min(0.3, np.sqrt(0.3) * np.exp(-entropy))) | top),
            (0.8, reference.top_n_sigma_row, x >= x.max() - 0.8 * x[live].std()),
        ):
            must, may = reference.over_rows(row, x, value)
            np.testing.assert_array_equal(must, may)
            np.testing.assert_array_equal(must, want & live)


def test_truncation_is_the_chain() -> None:
    for x in SMALL:
        scaled = x / 0.8
        first, _ = reference.over_rows(reference.top_k_row, scaled, 4)
        second, _ = reference.over_rows(reference.top_p_row, scaled, 0.8, where=first)
        third, _ = reference.over_rows(reference.min_p_row, scaled, 0.25, where=second)
        must, may = reference.over_rows(reference.truncation_row, x, 0.8, 4, 0.8, 0.25)
        np.testing.assert_array_equal(must, may)
        np.testing.assert_array_equal(must, third)


def test_the_bounds_are_tight_on_ordinary_rows() -> None:
    x = np.stack([rows.normal(300, 2.0, seed) for seed in range(20)])
    for row, value in (
        (reference.top_p_row, 0.9),
        (reference.typical_row, 0.8),
        (reference.min_p_row, 0.05),
        (reference.epsilon_row, 0.003),
        (reference.eta_row, 0.001),
        (reference.top_n_sigma_row, 1.5),
    ):
        must, may = reference.over_rows(row, x, value)
        assert (must != may).sum() <= 2
        assert must.any(-1).all()
        assert not may.all(-1).any()
