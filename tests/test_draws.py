"""A million draws of every sampler fit, and are independent; and samplers that are wrong in one way
are found out. The long run is `python -m tests.draws`."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import jsoftmax
from tests.draws.cases import CASES, SAMPLERS, SUITE, TAIL, Case
from tests.draws.counts import BINNINGS, BINS, PAIRS, Counts, Draw, count, sampler_of
from tests.draws.report import of_case
from tests.draws.verdict import (
    ALARM,
    Verdict,
    alarms,
    draws_for_many,
    independence,
    judge,
    least_bias,
    least_copies,
    power_of_an_entry,
    tail_over_cases,
    two_sided,
    uniformity,
)
from tests.registry import REGISTRY

MILLION, ROWS = 10**6, 2**14
LEVEL = 2e-8
"""Below that of the long report, which has fewer than 50000 tests."""
REPORT = Path(__file__).parent / "draws" / "report.md"


def found(case: Case, counts: Counts, level: float = LEVEL) -> set[str]:
    """The kinds of tests that raise an alarm."""
    return {test.kind for test in alarms(judge(case, counts), level)}


@pytest.mark.slow
@pytest.mark.parametrize("case", SUITE, ids=str)
def test_draws_fit_and_are_independent(case: Case) -> None:
    seed = 1000 + SUITE.index(case)
    counts = count(case, round(case.suite * MILLION), seed, ROWS)
    tests = judge(case, counts)
    assert alarms(tests, ALARM / (len(SUITE) * len(tests))) == []


def test_every_sampler_is_drawn_from_in_every_way() -> None:
    assert {entry.name for entry in REGISTRY if entry.keyed} == set(SAMPLERS.values())
    for sampler in SAMPLERS:
        cases = [case for case in CASES if case.sampler == sampler]
        assert sum(case.suite for case in cases) >= 1
        assert any(case.share == 1 and case.shards == 1 for case in cases)
        assert {case.implementation for case in cases} == {"threefry2x32", "rbg", "unsafe_rbg"}
        assert {case.keys for case in cases} == {"split", "fold_in", "chain"}
        assert any(case.masked for case in cases)
        soft = sampler == "gumbel soft"
        dtypes = {"float32", "float64"} if soft else {"float32", "float64", "bfloat16", "float16"}
        assert {case.dtype for case in cases} == dtypes
        if not sampler.startswith("gumbel"):
            assert {case.shards for case in cases} == {1, 4, 8}
            assert {case.row for case in cases} >= {"blocks", "vocabulary"}
            assert any(case.others for case in cases)
            assert any(case.mapped for case in cases)
            settings = {name for case in cases for name in case.settings}
            assert settings == {"temperature", "top_k", "top_p", "min_p"}


def test_the_report_is_of_these_cases_and_without_alarm() -> None:
    text = REPORT.read_text(encoding="utf-8")
    assert "**No alarm** in " in text
    assert "--draws 100000000 " in text
    listed = re.findall(r"^\| (\d+) \| ((?:[^|]+\| ){7})", text, re.MULTILINE)
    assert listed
    for number, cells in listed:
        assert cells == f"{' | '.join(of_case(CASES[int(number) - 1]))} | "


def test_the_report_is_of_all_cases() -> None:
    text = REPORT.read_text(encoding="utf-8")
    assert f" tests of {len(CASES)} cases." in text
    for sampler in SAMPLERS:
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {sampler} | "))
        assert int(line.split("|")[2].replace(",", "")) >= 10**8


# --- what is wrong is found out ---------------------------------------------------------------


PLAIN = CASES[0]


def biased(entries: np.ndarray, factor: float) -> Draw:
    """Draws some entries so many times as often as they should be, relative to the others."""
    change = np.zeros(PLAIN.where.size, np.float32)
    change[entries] = np.log(factor) if factor else -np.inf

    def draw(key: Array, x: Array, where: Array) -> tuple[Array, None]:
        return jsoftmax.sample(key, x + jnp.asarray(change)[None], where=where), None

    return draw


def repeated(share: float) -> Draw:
    """Of each two rows, the second sometimes has what the first has."""

    def draw(key: Array, x: Array, where: Array) -> tuple[Array, None]:
        token = jsoftmax.sample(key, x, where=where)
        repeats = jax.random.bernoulli(jax.random.fold_in(key, 1), share, (ROWS // 2,))
        second = jnp.where(repeats, token[::2], token[1::2])
        return jnp.stack([token[::2], second], axis=-1).ravel(), None

    return draw


def one_key(key: Array, x: Array, where: Array) -> tuple[Array, None]:
    """The same draws in every step."""
    del key
    return jsoftmax.sample(jax.random.key(0), x, where=where), None


def half_a_batch(key: Array, x: Array, where: Array) -> tuple[Array, None]:
    """The same draws for the two halves of a batch."""
    half = jsoftmax.sample(key, x[: ROWS // 2], where=where[: ROWS // 2])
    return jnp.concatenate([half, half]), None


def noise_in_bfloat16(key: Array, x: Array, where: Array) -> tuple[Array, None]:
    """The largest of logits and noise, both rounded."""
    noise = jax.random.gumbel(key, x.shape, jnp.bfloat16)
    noisy = jnp.where(where, x.astype(jnp.bfloat16) + noise, -jnp.inf)
    return jnp.argmax(noisy, axis=-1).astype(jnp.int32), None


LARGEST = np.array([int(np.argmax(PLAIN.probability))])
TENTH = MILLION // 10
WRONG: dict[str, tuple[Draw, int, set[str]]] = {
    "one entry 5 % too often": (biased(LARGEST, 1.05), MILLION, {"entry"}),
    "the tail never": (biased(PLAIN.tail, 0.0), MILLION, {"tail"}),
    "5 % of neighbours alike": (repeated(0.05), TENTH, {"independence"}),
    "halves of a batch alike": (half_a_batch, TENTH, {"independence"}),
    "noise in bfloat16": (noise_in_bfloat16, 2 * ROWS, {"fit", "entry"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "draws", "kinds"), WRONG.values(), ids=WRONG)
def test_a_wrong_sampler_is_found_out(draw: Draw, draws: int, kinds: set[str]) -> None:
    assert kinds <= found(PLAIN, count(PLAIN, draws, 0, ROWS, draw))


@pytest.mark.slow
def test_a_key_that_is_used_again_is_found_out() -> None:
    tests = judge(PLAIN, count(PLAIN, TENTH, 0, ROWS, one_key))
    names = {test.name for test in alarms(tests, LEVEL) if test.kind == "independence"}
    # All tables are off, where one batch counts many times: this one would be by itself.
    assert names >= {f"{PAIRS[2]}, {binning}" for binning in BINNINGS}


@pytest.mark.slow
def test_a_draw_outside_and_a_wrong_log_probability_are_found_out() -> None:
    (case,) = (case for case in SUITE if case.sampler == "sample_and_log_prob" and case.masked)
    right = sampler_of(case)

    def wrong(key: Array, x: Array, where: Array) -> tuple[Array, Array | None]:
        token, log_prob = right(key, x, where.at[0].set(True))
        return token, None if log_prob is None else log_prob.at[1].add(1e-4)

    assert found(case, count(case, TENTH, 0, ROWS, wrong)) == {"support", "log-probability"}


# --- power, by draws that are only simulated --------------------------------------------------


def simulated(probability: np.ndarray, draws: int, seed: int) -> Counts:
    """Counts of independent draws."""
    random = np.random.default_rng(seed)
    shape = (len(PAIRS), len(BINNINGS))
    pairs = random.multinomial(draws // 2, np.full(BINS**2, 1 / BINS**2), shape)
    tokens = random.multinomial(draws, probability / probability.sum())
    return Counts(tokens, pairs.reshape(*shape, BINS, BINS), 0.0)


def changed(entries: np.ndarray, factor: float) -> np.ndarray:
    """The probabilities of `PLAIN` with some entries changed, and the others for that."""
    p = PLAIN.probability.copy()
    p[entries] *= factor
    return p / p.sum()


def test_one_percent_of_one_entry_in_a_thousand_is_found_in_the_long_run() -> None:
    """Where the entry is drawn a hundredth of the time: of 1040 entries the tenth."""
    tenth = np.argsort(-PLAIN.probability)[10]
    assert 0.01 < PLAIN.probability[tenth] < 0.02
    for seed, factor in enumerate((1.01, 0.99)):
        assert found(PLAIN, simulated(changed(tenth, factor), 10**8, seed)) == {"entry"}


def test_one_percent_of_every_entry_is_found_by_the_chi_square() -> None:
    half = np.argsort(PLAIN.probability)[::2]
    draws = int(draws_for_many(1040, 0.01, LEVEL))
    assert 3e6 < draws < 5e6
    biased = changed(half, 1.01 / 0.99)
    assert "fit" in found(PLAIN, simulated(biased, draws, 0))
    assert found(PLAIN, simulated(biased, draws // 4, 0)) == set()


def test_a_tail_entry_that_is_never_drawn_is_found_in_the_long_run() -> None:
    """Alone where 18 draws are expected; of all cases together every one of the two short rows, of
    which there are most."""
    long = [
        (case, simulated(case.probability, int(case.share * 10**8), i))
        for i, case in enumerate(CASES)
    ]
    assert alarms(tail_over_cases(long), LEVEL) == []
    for name in ("blocks", "short"):
        (*_, tail) = (case.tail for case in CASES if case.row == name and case.share == 1)
        for i in tail:
            for case, counts in long:
                if case.row == name:
                    counts.tokens[i] = 0
    lost = alarms(tail_over_cases(long), LEVEL)
    assert len(lost) == sum(case.tail.size for case in (CASES[0], CASES[-1]))
    alone = {test.name for test in alarms(judge(*long[0]), LEVEL) if test.kind == "tail entry"}
    assert len(alone) == np.sum(PLAIN.probability[PLAIN.tail] * 10**8 > -np.log(LEVEL / 2))


@pytest.mark.parametrize("p", [0.08, 1e-3, 1e-6, TAIL[0]])
def test_the_stated_power_is_that_of_draws(p: float) -> None:
    random, draws = np.random.default_rng(0), 10**8
    bias = least_bias(p, draws, LEVEL)
    for factor, least, most in ((1 + bias, 0.97, 1.0), (1 + bias / 2, 0.0, 0.5), (1, 0.0, 0.001)):
        power = power_of_an_entry(p, factor - 1, draws, LEVEL)
        counts = random.binomial(draws, p * factor, 2000)
        share = np.mean(two_sided(counts, draws, np.full(2000, p)) < LEVEL)
        assert abs(share - power) < 5 * np.sqrt(power * (1 - power) / 2000) + 1e-3
        assert least <= share <= most


def test_the_stated_power_of_joint_tables_is_that_of_draws() -> None:
    draws = 10**6
    for copies, least, most in ((least_copies(BINS, draws, LEVEL), 0.95, 1.0), (0.0, 0.0, 0.0)):
        joint = (1 - copies) / BINS**2 + copies / BINS * np.eye(BINS)
        tables = np.random.default_rng(0).multinomial(draws, joint.ravel(), 200)
        values = [independence(table.reshape(BINS, BINS)) for table in tables]
        assert least <= np.mean(np.less(values, LEVEL)) <= most


@pytest.mark.slow
def test_right_samplers_raise_alarms_no_more_often_than_is_said() -> None:
    """At a rate of 20 % and not 0.1 %, so that there is something to count."""
    alarmed = 0
    for seed in range(100):
        tests = judge(PLAIN, simulated(PLAIN.probability, 10**6, seed))
        alarmed += bool(alarms(tests, 0.2 / len(tests)))
    assert 3 < alarmed < 20 + 3 * np.sqrt(16)


def test_fits_that_are_too_good_are_found_out() -> None:
    random = np.random.default_rng(0)
    for values, fine in ((random.random(180), True), (random.beta(2, 2, 180), False)):
        test = uniformity([Verdict("fit", "", float(p)) for p in values])
        assert (test.p > 1e-3) == fine
