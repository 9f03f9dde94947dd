"""Goodness of fit for samplers."""

import numpy as np
from scipy import stats

from tests.reference import Row

ALARM = 1e-5
"""A seeded test fails when a right sampler would do so with this probability (and then a seed is
changed)."""


def p_value(counts: Row, probability: Row, smallest: float = 10.0) -> float:
    """Chi-square goodness of fit; entries that expect fewer than `smallest` draws are pooled."""
    total = counts.sum()
    expected = probability / probability.sum() * total
    order = np.argsort(expected)
    expected, observed = expected[order], counts[order].astype(float)
    pooled = int(np.searchsorted(np.cumsum(expected), smallest)) + 1
    pooled = max(pooled, int(np.searchsorted(expected, smallest)))
    if pooled >= expected.size:
        return 1.0
    expected = np.concatenate([[expected[:pooled].sum()], expected[pooled:]])
    observed = np.concatenate([[observed[:pooled].sum()], observed[pooled:]])
    if expected[0] < smallest:
        expected = np.concatenate([[expected[0] + expected[1]], expected[2:]])
        observed = np.concatenate([[observed[0] + observed[1]], observed[2:]])
    if expected.size == 1:
        return 1.0
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


def assert_fits(counts: Row, probability: Row, label: str = "") -> None:
    """The counts come from the probabilities, and nothing of probability 0 was ever drawn."""
    outside = np.flatnonzero((probability == 0) & (counts > 0))
    assert outside.size == 0, f"{label}: drew tokens {outside[:5]} outside the truncated set"
    value = p_value(counts, probability)
    assert value > ALARM, f"{label}: chi-square p-value {value:.1e} over {int(counts.sum())} draws"
