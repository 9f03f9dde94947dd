"""What counts say of a sampler: many tests, and one stated rate of false alarms for all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tests.draws.cases import Case
from tests.draws.counts import BINNINGS, PAIRS, Counts
from tests.reference import Row
from tests.statistics import p_value

ALARM = 1e-3
"""How often a report on right samplers has any alarm at all, at most: Bonferroni's bound, a test's
level is this divided by the number of tests."""
FEWEST = 25.0
"""Entries that expect fewer draws are one cell of the chi-square."""
SINGLY = 1000.0
"""Entries that expect as many have a test of their own: of fewer it would find little."""
ROUNDING = 8.0
"""Error allowed of a log-probability, in the units of `Counts.error`."""


@dataclass(frozen=True)
class Verdict:
    """A hypothesis that is true of a right sampler, and how likely counts as odd as these are."""

    kind: str
    name: str
    p: float


def two_sided(counts: Row, total: int, probability: Row) -> Row:
    """Exact binomial p-values of counts, each by itself."""
    below = stats.binom.cdf(counts, total, probability)
    above = stats.binom.sf(counts - 1, total, probability)
    return np.minimum(1, 2 * np.minimum(below, above))


def independence(table: Row) -> float:
    """Chi-square of a joint table against the product of its margins."""
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    return 1.0 if min(table.shape) < 2 else float(stats.chi2_contingency(table).pvalue)


def judge(case: Case, counts: Counts) -> list[Verdict]:
    """Every test of a case."""
    probability, tail = case.probability, case.tail
    tokens, total = counts.tokens, int(counts.tokens.sum())
    outside = int(tokens[probability == 0].sum())
    tests = [
        # Neither can be a false alarm: the p-value is 0 or 1.
        Verdict("support", f"{outside} draws of what is not kept", float(outside == 0)),
        Verdict("log-probability", f"error {counts.error:.2g}", float(counts.error <= ROUNDING)),
        Verdict("fit", "chi-square of all entries", p_value(tokens, probability, FEWEST)),
    ]
    rare = set(tail.tolist())
    kept = np.union1d(np.flatnonzero(total * probability >= SINGLY), tail)
    for i, p in zip(kept, two_sided(tokens[kept], total, probability[kept]), strict=True):
        drawn = f"entry {i}: {tokens[i]} draws, {total * probability[i]:.1f} expected"
        tests.append(Verdict("tail entry" if i in rare else "entry", drawn, float(p)))
    if tail.size:
        together = two_sided(tokens[tail].sum(), total, probability[tail].sum())
        tests.append(Verdict("tail", "the whole tail", float(together)))
    for kind, tables in zip(PAIRS, counts.pairs, strict=True):
        for binning, table in zip(BINNINGS, tables, strict=True):
            tests.append(Verdict("independence", f"{kind}, {binning}", independence(table)))
    return tests


def tail_over_cases(counted: list[tuple[Case, Counts]]) -> list[Verdict]:
    """A test of each tail entry by its draws in all cases: a sum of binomials of small p is nearly
    Poisson."""
    tests: list[Verdict] = []
    for name in sorted({case.row for case, _ in counted}):
        alike = [(case, counts.tokens) for case, counts in counted if case.row == name]
        drawn = np.sum([tokens for _, tokens in alike], axis=0)
        expected = np.sum([case.probability * tokens.sum() for case, tokens in alike], axis=0)
        for i in sorted({int(i) for case, _ in alike for i in case.tail}):
            below = stats.poisson.cdf(drawn[i], expected[i])
            above = stats.poisson.sf(drawn[i] - 1, expected[i])
            said = f"entry {i} ({name}): {drawn[i]} draws, {expected[i]:.1f} expected"
            tests.append(Verdict("tail entry", said, float(min(1, 2 * min(below, above)))))
    return tests


def uniformity(tests: list[Verdict]) -> Verdict:
    """That fits are not too good either: the p-values that are continuous are uniform."""
    values = [test.p for test in tests if test.kind in ("fit", "independence")]
    p = float(stats.kstest(values, "uniform").pvalue)
    return Verdict("uniformity", f"Kolmogorov-Smirnov of {len(values)} chi-square p-values", p)


def least(tests: list[Verdict], kind: str) -> Verdict | None:
    """The most suspicious test of a kind."""
    return min((test for test in tests if test.kind == kind), key=lambda test: test.p, default=None)


def alarms(tests: list[Verdict], level: float) -> list[Verdict]:
    """The tests that no right sampler would fail this often."""
    return [test for test in tests if test.p < level]


# --- what would be found ----------------------------------------------------------------------


def power_of_an_entry(p: float, bias: float, draws: int, level: float) -> float:
    """How often the test of an entry finds that it is drawn (1 + bias) times as often as it should
    be."""
    low = stats.binom.ppf(level / 2, draws, p)
    # The least and the largest counts that pass, by the test itself: ppf is of one side.
    low += two_sided(low, draws, p) < level
    high = stats.binom.isf(level / 2, draws, p)
    high -= two_sided(high, draws, p) < level
    biased = p * (1 + bias)
    return float(stats.binom.cdf(low - 1, draws, biased) + stats.binom.sf(high, draws, biased))


def least_bias(p: float, draws: int, level: float, power: float = 0.99, sign: int = 1) -> float:
    """The least relative bias of an entry that its test finds with this probability; NaN where none
    of up to +900 % (or the loss of the entry) is."""
    most = 9.0 if sign > 0 else 1.0
    if power_of_an_entry(p, sign * most, draws, level) < power:
        return float("nan")
    return _least(lambda bias: power_of_an_entry(p, sign * bias, draws, level) >= power, most)


def least_copies(bins: int, pairs: int, level: float, power: float = 0.99) -> float:
    """The least share of rows that repeat what their partner drew, that the joint table shows."""
    freedom = (bins - 1) ** 2
    limit = stats.chi2.isf(level, freedom)

    def is_found(share: float) -> bool:
        # A repeated draw adds to the diagonal: phi-square is share ** 2 * (bins - 1).
        return bool(stats.ncx2.sf(limit, freedom, pairs * share**2 * (bins - 1)) >= power)

    return _least(is_found, 1.0)


def draws_for_many(entries: int, bias: float, level: float, power: float = 0.99) -> float:
    """The draws in which the chi-square finds that half of the mass is drawn (1 + bias) times as
    often as it should be, and half (1 - bias) times."""
    limit = stats.chi2.isf(level, entries - 1)
    return _least(
        lambda draws: bool(stats.ncx2.sf(limit, entries - 1, draws * bias**2) >= power), 1e12
    )


def _least(is_found: Callable[[float], bool], most: float) -> float:
    """The least number from 0 to `most` that is found, to a thousandth of it."""
    low, high = 0.0, most
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return high
