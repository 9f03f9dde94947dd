"""The report of a long run, in Markdown."""

import platform
from dataclasses import dataclass

import jax
import numpy as np
import scipy

import jsoftmax
from tests.draws.cases import CASES, SAMPLERS, TAIL, Case
from tests.draws.counts import BINS, Counts
from tests.draws.verdict import (
    ALARM,
    FEWEST,
    SINGLY,
    Verdict,
    alarms,
    draws_for_many,
    judge,
    least,
    least_bias,
    least_copies,
    tail_over_cases,
    uniformity,
)
from tests.revision import revision


@dataclass(frozen=True)
class Result:
    """A case, by its number in the table, its counts and what they took."""

    number: int
    case: Case
    counts: Counts
    seconds: float

    @property
    def draws(self) -> int:
        """How many tokens were drawn."""
        return int(self.counts.tokens.sum())

    @property
    def tests(self) -> list[Verdict]:
        """What was tested."""
        return judge(self.case, self.counts)


def table(heads: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, rule, *lines])


def p_of(test: Verdict | None) -> str:
    """A p-value, or a dash where there was nothing to test."""
    return "-" if test is None else f"{test.p:.2g}"


def all_tests(results: list[Result]) -> list[tuple[int, Verdict]]:
    """Every test with the number of its case, and those over all cases with 0."""
    found = [(result.number, test) for result in results for test in result.tests]
    together = tail_over_cases([(result.case, result.counts) for result in results])
    together.append(uniformity([test for _, test in found]))
    return found + [(0, test) for test in together]


def of_case(case: Case) -> list[str]:
    """A case, as cells of a table."""
    settings = [f"{name} {value:g}" for name, value in case.settings.items()]
    return [
        case.sampler,
        case.dtype,
        ", ".join(settings + ["where"] * case.masked + ["others"] * case.others) or "none",
        case.implementation,
        case.layout,
        case.keys,
        f"{np.count_nonzero(case.probability)} of {case.where.size}",
    ]


def of_cases(results: list[Result]) -> str:
    """The table of cases."""
    lines: list[list[str]] = []
    for result in results:
        tests = result.tests
        fit, entry, rare, whole, joint = (
            p_of(least(tests, kind))
            for kind in ("fit", "entry", "tail entry", "tail", "independence")
        )
        found = [f"{result.draws:.3g}", fit, entry, f"{result.case.tail.size}", rare, whole, joint]
        place = [f"{result.number}", *of_case(result.case)]
        lines.append([*place, *found, f"{result.seconds:.0f}"])
    heads = ["", "sampler", "dtype", "truncation", "PRNG", "layout", "keys", "kept", "draws"]
    heads += ["fit", "least entry", "tail entries", "least tail entry", "whole tail"]
    return table([*heads, "least independence", "core-seconds"], lines)


def of_power(draws: tuple[int, ...], level: float) -> str:
    """What would be found, 99 times in 100, by the test of one entry and of one joint table."""

    def bias(p: float, number: int, sign: int) -> str:
        value = least_bias(p, number, level, sign=sign)
        return "-" if np.isnan(value) else f"{100 * sign * value:+.2g} %"

    lines = [
        [f"{p:g}", *(f"{bias(p, n, 1)}, {bias(p, n, -1)}" for n in draws)]
        for p in (0.08, 1e-2, 1e-3, 1e-4, 1e-6, 3e-7, 1e-7)
    ]
    copies = [f"{100 * least_copies(BINS, n // 2, level):.2g} % of rows" for n in draws]
    lines.append(["rows that repeat their partner's draw", *copies])
    return table(["probability of the entry", *(f"{n:.0e} draws" for n in draws)], lines)


def heading(
    results: list[Result], tests: list[tuple[int, Verdict]], command: str, seed: int
) -> str:
    """What was run, and whether anything was found."""
    level = ALARM / len(tests)
    found = [(i, test) for i, test in tests if alarms([test], level)]
    verdict = f"**{len(found)} alarms**" if found else "**No alarm**"
    every = "" if len(results) == len(CASES) else f" of {len(CASES)}"
    total = {
        name: sum(result.draws for result in results if result.case.sampler == name)
        for name in SAMPLERS
    }
    alarmed = table(["case", "kind", "test", "p"], [[f"{i}", *cells(test)] for i, test in found])
    minutes = sum(result.seconds for result in results) / 60
    return f"""# Draws: goodness of fit and independence

{verdict} in {len(tests)} tests of {len(results)}{every} cases. The samplers being right, a run has
an alarm at all with probability {ALARM:g} at most (Bonferroni: the level of each test is {ALARM:g}
/ {len(tests)} = {level:.2g}).

{table(["sampler", "draws"], [[name, f"{number:,}"] for name, number in total.items() if number])}

- Command: `{command}`
- Seed: {seed}; the key of case i is `jax.random.key({seed} + i, impl=PRNG)`
- Time: {minutes:.0f} minutes of one {platform.machine()} core
- Versions: jsoftmax {jsoftmax.__version__}, jax {jax.__version__}, NumPy {np.__version__}, SciPy
  {scipy.__version__}, Python {platform.python_version()}
- Code: commit {revision()}

{alarmed if found else ""}
""".rstrip()


def cells(test: Verdict) -> list[str]:
    """A test, as cells of a table."""
    return [test.kind, test.name, f"{test.p:.2g}"]


def write(results: list[Result], command: str, seed: int) -> str:
    """The report."""
    tests = all_tests(results)
    lowest = sorted(tests, key=lambda pair: pair[1].p)[:10]
    lowest_lines = [
        [f"{i or 'all'}", *cells(test), f"{rank / len(tests):.2g}"]
        for rank, (i, test) in enumerate(lowest, 1)
    ]
    level = ALARM / len(tests)
    error = max((result.counts.error for result in results), default=0.0)
    text = f"""{heading(results, tests, command, seed)}

## Cases

A row has 1040 entries, 96 of them a tail with probabilities of {TAIL[0]:g} to {TAIL[1]:g} before
the truncation; or, where it says so, 40 with a tail of 10, or 49152 with one of 1000. The others
fall as 1 / (rank + 2).

- **vmap**: each row has a key of its own; else one key serves a call.
- **others**: every setting is an array, a number per row, and after every row stands one with other
  logits and other settings, which is not counted.

- **kept**: entries that the truncation leaves, by the float64 reference. Others are never drawn:
  one such draw is an alarm.
- **fit**: chi-square over all kept entries; those that expect fewer than {FEWEST:g} draws are one
  cell.
- **least entry**, **least tail entry**: the smallest of the exact two-sided binomial p-values of
  the entries that expect {SINGLY:g} draws or more, and of every one of the tail, each a test of its
  own (of n the smallest is about 1 / n).
- **whole tail**: binomial, the draws of the whole tail. Each tail entry is tested once more by its
  draws in all cases together.
- **least independence**: the smallest of six chi-squares of joint tables of {BINS} x {BINS} bins
  against the product of their margins: neighbouring rows of a call, rows half a batch apart, the
  same row in successive steps; bins of entries side by side, and of entries from all over the row.
- **keys**: where the key of a step is from. `split`: one of the two of one split; `fold_in`: the
  number of the step folded into one key; `chain`: `key, step = split(key)`.

`sample_and_log_prob`: the log-probability of every draw was compared with the reference, and is off
by {error:.2g} at most, in units of the epsilon of the dtype times 1 + abs(log p).

{of_cases(results)}

## The smallest p-values

{table(["case", "kind", "test", "p", "expected about"], lowest_lines)}

## What would have been found

With 99 % probability, at the level of this report: one entry drawn so much too often or too rarely
("-": never drawn, or ten times too often, would not be), by its own test; rows that repeat what
their partner drew, by a joint table. Where not one entry but all are 1 % off, half of them drawn
too often and half too rarely, the chi-square finds it in {draws_for_many(1040, 0.01, level):.1g}
draws. A tail entry that is never drawn in any case is found where its draws in all cases together
should have been {-np.log(level / 2):.0f} or more.

{of_power((10**8, 10**7, 10**6), level)}
"""
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
