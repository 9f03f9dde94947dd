"""What the bins of calibration promise, over pools of many examples with logits of any floats.

    python -m tests.fuzz.pools --pools 20000 --report tests/fuzz/pools.md
    python -m tests.fuzz.pools --again SEED BINS BINNING

The second runs one batch of pools again, as a violation names it. A pool is counted once for each
property that has something to say about it.
"""

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jsoftmax import calibration
from tests.fuzz.calls import Facts
from tests.fuzz.properties import Count
from tests.fuzz.strategies import CLASSES, Random, make
from tests.reference import Row
from tests.revision import revision, versions

POOLS, EXAMPLES, LENGTH = 32, 96, 5
"""How many in a batch, of how many examples each, of so many classes."""
STATIC = tuple((bins, binning) for bins in (1, 2, 4, 15, 40) for binning in ("width", "mass"))
NEAR = 64 * float(np.finfo(np.float32).eps)
"""Confidences this near an edge may lie on either side of it, and sums be apart by this."""


class Measures(NamedTuple):
    """What is measured of each pool; the bins are along the last axis."""

    edges: Row
    confidence: Row
    accuracy: Row
    weight: Row
    expected: Row
    maximum: Row


@dataclasses.dataclass(frozen=True)
class Pools:
    """Examples [pools, examples], and what is known of them."""

    seed: int
    x: Row
    where: Row
    labels: Row
    temperature: Row
    weights: Row
    counts: Row
    """Which are not ignored."""
    confidence: Row
    """In float64."""
    right: Row
    """Whether the label is predicted."""
    multiples: Row
    """The weights in units of the least of the pool, and 0 of what is ignored;"""
    exact: Row
    """[pools], and whether these are whole: then their sums are not rounded."""

    def random(self) -> Random:
        """More of the batch's own randomness."""
        return np.random.default_rng([self.seed, 2])

    def with_examples(self, **examples: Row) -> "Pools":
        """Other arrays in the place of some."""
        return dataclasses.replace(self, **examples)

    def taken(self, index: Row) -> "Pools":
        """The examples at these places, [pools, places]."""
        names = {field.name for field in dataclasses.fields(self)} - {"seed", "exact"}
        pool = np.arange(len(index))[:, None]
        return self.with_examples(**{name: getattr(self, name)[pool, index] for name in names})


# --- pools -----------------------------------------------------------------------------------


def weights_of(random: Random) -> Row:
    """All equal, or of every order of magnitude; some, or most, are 0."""
    equal = random.choice([1.0, 0.1, 1 / 3, 3e-30, 1e30])
    kinds = (
        np.full(EXAMPLES, equal),
        equal * random.integers(1, 6, EXAMPLES),
        equal * random.random(EXAMPLES),
        10 ** random.uniform(-6, 6, EXAMPLES),
    )
    share = random.choice([0.0, 0.2, 0.9, 1.0], p=[0.4, 0.3, 0.25, 0.05])
    weights = np.where(random.random(EXAMPLES) < share, 0, kinds[random.integers(len(kinds))])
    return weights.astype(np.float32)


def pools(seed: int) -> Pools:
    """The batch of this seed. What is not sound weighs nothing, and may hold anything."""
    random = np.random.default_rng([seed, 1])
    some = [random.choice(list(CLASSES), random.integers(1, 5)) for _ in range(POOLS)]
    names = np.concatenate([random.choice(classes, EXAMPLES) for classes in some])
    rows = make(seed, names.tolist(), LENGTH)
    number = len(rows.x)
    hot = np.exp2(random.uniform(-6, 6, number))
    limits = random.choice([0, np.inf], number)
    temperature = np.where(random.random(number) < 0.1, limits, hot)
    # Half of the pools are without one.
    plain = np.repeat(random.random(POOLS) < 0.5, EXAMPLES)
    temperature = np.where(plain, 1, temperature).astype(np.float32)
    with np.errstate(invalid="ignore"):
        # Of signalling NaN.
        facts = Facts(rows.x, rows.where, {"temperature": temperature})
    z = np.where((temperature[:, None] == 0) & (facts.z > 0), np.inf, facts.z)
    mass = np.where(facts.live, np.exp(-z), 0).sum(-1)
    predicted = np.where(facts.live, facts.x, -np.inf).argmax(-1)
    drawn = random.integers(0, LENGTH, number)
    labels = np.where(random.random(number) < 0.6, predicted, drawn)
    # Where rounding decides whether logits tie, it decides what is predicted.
    sound = facts.sound & ~facts.flushes
    weights = np.where(sound, np.concatenate([weights_of(random) for _ in range(POOLS)]), 0)
    arrays = {
        "x": rows.x,
        "where": rows.where,
        "labels": labels.astype(np.int32),
        "temperature": temperature,
        "weights": weights,
        "counts": (weights > 0) & ~facts.nothing,
        "confidence": 1 / np.maximum(mass, 1),
        "right": labels == predicted,
    }
    by_pool = {name: of.reshape(POOLS, EXAMPLES, *of.shape[1:]) for name, of in arrays.items()}
    multiples, exact = in_units_of_the_least(by_pool["weights"], by_pool["counts"])
    return Pools(seed, **by_pool, multiples=multiples, exact=exact)


def in_units_of_the_least(weights: Row, counts: Row) -> tuple[Row, Row]:
    """The weights of what counts, and in which pools these are whole numbers."""
    weights = np.where(counts, weights, 0)
    least = np.min(weights, -1, keepdims=True, where=weights > 0, initial=np.inf)
    multiples = weights.astype(np.float64) / least
    nearest = np.round(multiples)
    exact = np.all(np.abs(multiples - nearest) <= 1e-7 * nearest, -1) & (nearest.sum(-1) < 2**24)
    return np.where(exact[:, None], nearest, multiples), exact


@functools.cache
def compiled(bins: int, binning: Any) -> Callable[..., Any]:
    def of_pool(x: Any, labels: Any, **more: Any) -> Any:
        static: Any = {"bins": bins, "binning": binning}
        curve = calibration.reliability_curve(x, labels, **more, **static)
        errors = (calibration.expected_calibration_error, calibration.maximum_calibration_error)
        return *curve, *(error(x, labels, **more, **static) for error in errors)

    return jax.jit(jax.vmap(of_pool))


def measures(given: Pools, bins: int, binning: str) -> Measures:
    """Of all pools in one call."""
    more = {"temperature": given.temperature, "where": given.where, "weights": given.weights}
    found = compiled(bins, binning)(given.x, given.labels, **more)
    return Measures(*(np.asarray(array) for array in found))


# --- properties: which pools break them ------------------------------------------------------

Property = Callable[[Pools, Measures, int, str], Row]
"""Masked where it says nothing of a pool."""


def sums_up_to(given: Pools, numbers: Row, edges: Row, strictly: bool) -> Row:
    """Of each edge the sum over the examples of confidences up to it: surely, or at most."""
    places = edges[:, None, 1:].astype(np.float64)
    near = NEAR * (-1 if strictly else 1)
    below = given.confidence[:, :, None] <= places * (1 + near)
    return np.sum(np.where(given.counts, numbers, 0)[:, :, None] * below, 1)


def shares(given: Pools) -> Row:
    """The weights, in float64, of which the sum is one."""
    total = given.multiples.sum(-1, keepdims=True)
    return given.multiples / np.where(total > 0, total, 1)


def bins_divide_all(given: Pools, got: Measures, bins: int, binning: str) -> Row:
    """Edges rise from 0 to 1, the weights of the bins are 1 in sum, and only empty ones are NaN."""
    wrong = (got.edges[:, 0] != 0) | (got.edges[:, -1] != 1) | (np.diff(got.edges) < 0).any(-1)
    if binning == "width":
        wrong |= (got.edges != (np.arange(bins + 1) / bins).astype(np.float32)).any(-1)
    wrong |= np.abs(got.weight.sum(-1) - given.counts.any(-1)) > NEAR
    for mean in (got.confidence, got.accuracy):
        wrong |= (np.isnan(mean) != (got.weight == 0)).any(-1)
    return wrong | ~(np.nan_to_num(got.accuracy) <= 1).all(-1) | (got.weight < 0).any(-1)


def bins_hold_their_examples(given: Pools, got: Measures, bins: int, binning: str) -> Row:
    """Up to each edge: the weight, and that of the confidences, and of the right predictions."""
    del bins, binning
    share, wrong = shares(given), np.zeros(POOLS, bool)
    for numbers, means in (
        (share, np.ones_like(got.weight)),
        (share * given.confidence, got.confidence),
        (share * given.right, got.accuracy),
    ):
        reached = np.cumsum(np.nan_to_num(means.astype(np.float64)) * got.weight, -1)
        least, most = (
            sums_up_to(given, numbers, got.edges, strictly) for strictly in (True, False)
        )
        wrong |= ((reached < least - NEAR) | (reached > most + NEAR)).any(-1)
    return wrong


def edges_are_quantiles(given: Pools, got: Measures, bins: int, binning: str) -> Row:
    """An edge is the least confidence up to which there is i / n of the weight."""
    if binning == "width":
        return np.ma.masked_all(POOLS, bool)
    target = np.arange(1, bins) / bins
    edges, share = got.edges[:, :-1], shares(given)
    most, less = (sums_up_to(given, share, edges, strictly) for strictly in (False, True))
    # Whole numbers are summed without a rounding: nothing before the edge reaches the share.
    short, over = (np.where(given.exact, exactly, NEAR)[:, None] for exactly in (1e-9, -1e-9))
    wrong = (most < target - short) | (less >= target + over)
    # An example on an edge is in the bin below.
    wrong |= np.cumsum(got.weight, -1)[:, :-1] < target - NEAR
    none = ~given.counts.any(-1)
    return np.where(none, (edges[:, 1:] != 1).any(-1), wrong.any(-1))


def errors_are_those_of_the_curve(given: Pools, got: Measures, bins: int, binning: str) -> Row:
    """The mean and the largest distance of accuracy and confidence; NaN where nothing counts."""
    del bins, binning
    apart = np.abs(np.nan_to_num(got.accuracy.astype(np.float64) - got.confidence))
    some, wrong = given.counts.any(-1), np.zeros(POOLS, bool)
    for error, want in (
        (got.expected, (got.weight * apart).sum(-1)),
        (got.maximum, apart.max(-1)),
    ):
        wrong |= np.where(some, ~(np.abs(error - want) <= NEAR), ~np.isnan(error))
    return wrong


def order_changes_no_bin(given: Pools, got: Measures, bins: int, binning: str) -> Row:
    """Examples in another order have the same edges, to the bit, and measures."""
    order = given.random().permuted(np.tile(np.arange(EXAMPLES), (POOLS, 1)), axis=-1)
    return apart(got, measures(given.taken(order), bins, binning))


def ignored_examples_hold_anything(given: Pools, got: Measures, bins: int, binning: str) -> Row:
    """What an example of weight 0 holds reaches no bit."""
    random, ignored = given.random(), given.weights == 0
    bits = random.integers(0, 2**32, given.x.shape, np.uint32).view(np.float32)
    other = given.with_examples(
        x=np.where(ignored[..., None], bits, given.x),
        labels=np.where(ignored, random.integers(-9, 9, ignored.shape), given.labels).astype(
            np.int32
        ),
        temperature=np.where(ignored, bits[..., 0], given.temperature),
    )
    wrong = apart(got, measures(other, bins, binning), 0)
    return np.ma.array(wrong, mask=~ignored.any(-1))


def scale_of_the_weights_is_none(given: Pools, got: Measures, bins: int, binning: str) -> Row:
    """Weights times a power of two: not a bit."""
    scale = np.exp2(given.random().integers(-6, 7, (POOLS, 1))).astype(np.float32)
    other = given.with_examples(weights=given.weights * scale)
    return apart(got, measures(other, bins, binning), 0)


def weights_are_repeats(given: Pools, got: Measures, bins: int, binning: str) -> Row:
    """An example twice, with half of the weight each: where one that is ignored has its place."""
    place, index = np.arange(EXAMPLES), np.tile(np.arange(EXAMPLES), (POOLS, 1))
    weights = given.weights.copy()
    for pool, ignored in enumerate(given.weights == 0):
        for free, used in zip(place[ignored], place[~ignored], strict=False):
            index[pool, free] = used
            weights[pool, used] /= 2
    doubled = given.with_examples(weights=weights).taken(index)
    # Rounding decides where sums of other weights reach a share.
    _, exact = in_units_of_the_least(doubled.weights, doubled.counts)
    some = (doubled.counts.sum(-1) > given.counts.sum(-1)) & given.exact & exact
    return np.ma.array(apart(got, measures(doubled, bins, binning)), mask=~some)


def an_error_spoils_its_pool(given: Pools, got: Measures, bins: int, binning: str) -> Row:
    """NaN, a label out of range, a wrong weight or temperature of one example that counts."""
    random, x, labels = given.random(), given.x.copy(), given.labels.copy()
    weights, temperature = given.weights.copy(), given.temperature.copy()
    struck = random.random(POOLS) < 0.5
    for pool in np.flatnonzero(struck & given.counts.any(-1)):
        example = random.choice(np.flatnonzero(given.counts[pool]))
        allowed = np.flatnonzero(given.where[pool, example])
        match int(random.integers(5)):
            case 0:
                x[pool, example, random.choice(allowed)] = random.choice([np.nan, np.inf])
            case 1:
                labels[pool, example] = random.choice([-1, LENGTH, 1000])
            case 2:
                weights[pool, example] = random.choice([-1, np.nan, np.inf])
            case 3:
                temperature[pool, example] = random.choice([-1, np.nan])
            case _:
                struck[pool] = False
    struck &= given.counts.any(-1)
    other = given.with_examples(x=x, labels=labels, weights=weights, temperature=temperature)
    found = measures(other, bins, binning)
    spoilt = np.all([np.isnan(of.reshape(POOLS, -1)).all(-1) for of in found[1:]], 0)
    sound = ~np.isnan(found.edges).any(-1)
    return np.where(struck, ~(spoilt & sound), apart(got, found, 0))


def apart(a: Measures, b: Measures, near: float = NEAR) -> Row:
    """Edges differ, or measures by more than that: at an edge an example has one side."""
    wrong = (a.edges != b.edges).any(-1)
    for one, other in zip(a[1:], b[1:], strict=True):
        equal = (one == other) | (np.isnan(one) & np.isnan(other)) | (np.abs(one - other) <= near)
        wrong |= ~equal.reshape(POOLS, -1).all(-1)
    return wrong


PROPERTIES: tuple[Property, ...] = (
    bins_divide_all,
    bins_hold_their_examples,
    edges_are_quantiles,
    errors_are_those_of_the_curve,
    order_changes_no_bin,
    ignored_examples_hold_anything,
    scale_of_the_weights_is_none,
    weights_are_repeats,
    an_error_spoils_its_pool,
)


# --- runs ------------------------------------------------------------------------------------


def examine(seed: int, bins: int, binning: str) -> Iterator[tuple[str, Count, str]]:
    """Of each property how many pools break it, and how to see the first again."""
    given = pools(seed)
    got = measures(given, bins, binning)
    for holds in PROPERTIES:
        with np.errstate(all="ignore"):
            verdict = np.ma.array(holds(given, got, bins, binning))
        wrong = verdict.filled(fill_value=False)
        first = f"{holds.__name__}: pool {wrong.argmax()} of --again {seed} {bins} {binning}"
        yield (
            holds.__name__,
            Count(int(verdict.count()), int(wrong.sum())),
            first if wrong.any() else "",
        )


def run(number: int, first_seed: int) -> tuple[dict[str, Count], list[str]]:
    """So many pools, of every kind of bins in turn."""
    counts = {holds.__name__: Count() for holds in PROPERTIES}
    told = []
    for i in range(-(-number // POOLS)):
        for name, count, message in examine(first_seed + i, *STATIC[i % len(STATIC)]):
            counts[name] += count
            told += [message] if message else []
    return counts, told


def write(counts: dict[str, Count], told: Iterable[str], command: str, minutes: float) -> str:
    """The report, as Markdown."""
    wrong = sum(count.wrong for count in counts.values())
    bins = [number for number, _ in STATIC]
    lines = [
        "# Report of the fuzzing of bins",
        "",
        "Written by `tests/fuzz/pools.py`; not edited by hand. A pool is examples of any floats,",
        "of which the measures of calibration are taken; it counts once for each property.",
        "",
        f"- {sum(count.checked for count in counts.values()):,} checks, **{wrong} violations**",
        f"- pools of {EXAMPLES} examples, of {LENGTH} classes, in {bins[0]} to {bins[-1]} bins",
        f"- `{command}`: {minutes:.1f} minutes",
        f"- commit {revision()}",
        f"- {versions()}",
        "",
        "| property | pools | violations |",
        "|---|---:|---:|",
        *(f"| `{name}` | {count.checked:,} | {count.wrong} |" for name, count in counts.items()),
        "",
        *told,
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pools", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=20261201)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--again", nargs=3, metavar=("SEED", "BINS", "BINNING"))
    given = parser.parse_args()
    if given.pools < 1:
        parser.error(f"--pools must be at least 1, got {given.pools}")
    if given.again:
        seed, bins, binning = given.again
        for name, count, told in examine(int(seed), int(bins), binning):
            print(name, count.wrong, told)
        return 0
    start = time.perf_counter()
    counts, told = run(given.pools, given.seed)
    command = f"python -m tests.fuzz.pools --pools {given.pools} --seed {given.seed}"
    text = write(counts, told, command, (time.perf_counter() - start) / 60)
    if given.report:
        given.report.write_text(text)
    print(text)
    return int(any(count.wrong for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
