"""What is drawn from: rows with a tail; samplers over dtypes, truncations, PRNGs and shards."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import jax
import numpy as np

from tests import reference
from tests.reference import Row

Sampler = Literal["sample", "sample_and_log_prob", "gumbel hard", "gumbel soft"]
SAMPLERS: dict[str, str] = {
    "sample": "sample",
    "sample_and_log_prob": "sample_and_log_prob",
    "gumbel hard": "gumbel_softmax",
    "gumbel soft": "gumbel_softmax",
}
"""Every way to draw, and the public function that does: with `hard`, and the largest entry of a
relaxed draw."""

TAIL = (1e-7, 1e-6)
"""Between these lie the probabilities of the tail entries, before a truncation."""


@dataclass(frozen=True)
class Case:
    """One distribution, drawn from in one way."""

    sampler: Sampler
    row: str = "blocks"
    dtype: str = "float32"
    settings: Mapping[str, float] = field(default_factory=dict)
    implementation: str = "threefry2x32"
    shards: int = 1
    mapped: bool = False
    """Whether each row has a key of its own, by `jax.vmap`."""
    others: bool = False
    """Whether after every row stands one with other logits and other settings, which is not
    counted: then every setting is an array, a number per row."""
    keys: Literal["split", "fold_in", "chain"] = "split"
    """Where the key of a step is from: an entry of one split, the step's number folded into one
    key, or what is left of splitting off one key after the other."""
    masked: bool = False
    """Whether `where` leaves out every ninth entry."""
    share: float = 0.1
    """Of the draws that are asked for."""
    suite: float = 0.0
    """The same in the test suite; 0 leaves it out."""

    def __str__(self) -> str:
        """The name, for pytest's ids and the report."""
        settings = [f"{name}={value:g}" for name, value in self.settings.items()]
        flags = [*["where"] * self.masked, *["others"] * self.others]
        parts = [self.sampler, self.dtype, *settings, *flags, self.implementation, self.layout]
        return ", ".join([*parts, self.row, self.keys])

    @property
    def layout(self) -> str:
        """How the rows lie."""
        if self.shards > 1:
            return f"{self.shards} shards"
        return "vmap" if self.mapped else "dense"

    @property
    def x64(self) -> bool:
        """Whether it needs 64-bit numbers."""
        return self.dtype == "float64"

    @property
    def logits(self) -> Row:
        """The row, rounded to its dtype."""
        return np.log(row(self.row)).astype(jax.numpy.dtype(self.dtype))

    @property
    def where(self) -> Row:
        """The entries that are allowed."""
        places = np.arange(row(self.row).size)
        return (places % 9 != 4) | (not self.masked)

    @property
    def probability(self) -> Row:
        """What an entry should be drawn with, in float64, from the rounded logits."""
        if self.sampler.startswith("gumbel"):
            # T says how near the draw is to one-hot, not which entry is the largest.
            return reference.over_rows(reference.softmax_row, self.logits, 1.0, where=self.where)
        numbers = (OFF | dict(self.settings)).values()
        return reference.over_rows(reference.sampled_row, self.logits, *numbers, where=self.where)

    @property
    def tail(self) -> Row:
        """Which entries are of the tail, and can be drawn."""
        rare = row(self.row) <= TAIL[1]
        return np.flatnonzero(rare & (self.probability > 0))


@functools.cache
def row(name: str) -> Row:
    """The probabilities of a row: falling as 1 / (rank + 2), and a tail, both in random order.

    In 1040 entries a draw takes its three steps: one of 16 blocks (of 128 and of 2 entries), one of
    a block's two groups, an entry of the group. Each of 4 or 8 shards has blocks of its own. In 40
    it takes two. One has as many entries as a language model.
    """
    size, rare = {"blocks": (1040, 96), "short": (40, 10), "vocabulary": (49152, 1000)}[name]
    random = np.random.default_rng(size)
    tail = np.geomspace(*TAIL, rare)
    large = 1 / (np.arange(size - rare) + 2)
    p = np.concatenate([large / large.sum() * (1 - tail.sum()), tail])
    return random.permutation(p)


OFF = {"temperature": 1.0, "top_k": 0.0, "top_p": 1.0, "min_p": 0.0}
OTHER = {"temperature": 0.5, "top_k": 7.0, "top_p": 0.4, "min_p": 0.1}
"""The settings of the rows between."""
ALL = {"temperature": 0.8, "top_k": 50.0, "top_p": 0.9, "min_p": 0.02}
HALF_OF_THE_TAIL = {"min_p": 4e-6}
CASES = (
    Case("sample", share=1, suite=0.4),
    Case("sample", dtype="bfloat16", keys="fold_in"),
    Case("sample", dtype="float16", settings=HALF_OF_THE_TAIL, keys="chain"),
    Case("sample", dtype="float64", settings={"top_k": 990.0}),
    Case("sample", settings={"top_k": 50.0}, implementation="rbg"),
    Case("sample", settings={"top_p": 0.9}, keys="chain"),
    Case("sample", settings={"temperature": 1.7, "top_p": 0.97}, implementation="rbg"),
    Case("sample", dtype="bfloat16", settings=ALL, implementation="unsafe_rbg", suite=0.3),
    Case("sample", row="short", implementation="unsafe_rbg", keys="fold_in"),
    Case("sample", shards=4, keys="fold_in", suite=0.3),
    Case("sample", dtype="bfloat16", settings={"top_p": 0.9}, implementation="rbg", shards=8),
    Case("sample", settings={"top_k": 880.0}, masked=True, shards=8),
    Case("sample_and_log_prob", share=1),
    Case("sample_and_log_prob", dtype="bfloat16", settings=HALF_OF_THE_TAIL, implementation="rbg"),
    Case("sample_and_log_prob", settings=ALL, keys="chain"),
    Case("sample_and_log_prob", dtype="float64", settings={"top_p": 0.9}, keys="fold_in"),
    Case("sample_and_log_prob", masked=True, implementation="rbg", suite=0.7),
    Case(
        "sample_and_log_prob",
        settings=HALF_OF_THE_TAIL,
        implementation="unsafe_rbg",
        shards=4,
        suite=0.3,
    ),
    Case("sample_and_log_prob", dtype="float16", shards=8, keys="chain"),
    Case("sample", mapped=True, others=True, suite=0.3),
    Case("sample", settings=ALL, mapped=True, keys="chain"),
    Case("sample", dtype="bfloat16", settings={"top_p": 0.9}, others=True, keys="fold_in"),
    Case("sample_and_log_prob", settings={"temperature": 1.7, "top_p": 0.97}, others=True),
    Case("sample", row="vocabulary", dtype="bfloat16"),
    Case(
        "sample",
        row="vocabulary",
        settings={"temperature": 0.8, "top_p": 0.95},
        others=True,
        share=0.03,
    ),
    Case("sample_and_log_prob", row="vocabulary", mapped=True, masked=True),
    Case("gumbel hard", row="short", mapped=True, others=True),
    Case("gumbel hard", row="short", share=1, suite=0.5),
    Case(
        "gumbel hard", row="short", dtype="bfloat16", masked=True, implementation="rbg", suite=0.5
    ),
    Case(
        "gumbel hard",
        row="short",
        dtype="float16",
        settings={"temperature": 0.5},
        implementation="unsafe_rbg",
        keys="fold_in",
    ),
    Case("gumbel hard", row="short", dtype="float64", keys="chain"),
    Case("gumbel soft", row="short", share=1, suite=1),
    Case(
        "gumbel soft",
        row="short",
        settings={"temperature": 2.0},
        masked=True,
        implementation="rbg",
        keys="fold_in",
    ),
    Case("gumbel soft", row="short", dtype="float64", implementation="unsafe_rbg", keys="chain"),
)
"""At least one dense case of each sampler has all draws that are asked for, any other a tenth, or
less where they take long.

Relaxed draws are not drawn in half precision: their values are rounded to it at the end, the two
largest are then often equal, and which of them is the largest is no longer to be seen.
"""
SUITE = tuple(case for case in CASES if case.suite)
