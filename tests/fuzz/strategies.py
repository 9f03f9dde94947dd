"""Rows and settings to be fuzzed with: classes of rows, vectorised, and hypothesis over them.

A batch is made from a seed and the name of a class for each row. The long mode draws both at
random; hypothesis draws them too, and puts floats of its own into the rows, so that what it finds
shrinks to few entries. A setting is a function of a number in [0, 1), one for each row: 0 is the
ordinary value.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from tests.reference import Row
from tests.registry import Entry

Random = np.random.Generator
T = TypeVar("T")
Numbers = dict[str, Row]

FLOAT = np.finfo(np.float32)
TINY = float(FLOAT.tiny)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows [N, V], and what the properties do to them."""

    seed: int
    names: Sequence[str]
    """The class of each row."""
    x: Row
    where: Row
    levels: Mapping[str, Row]
    """What the settings are made from, by their order: see `numbers`."""
    kept: Row
    """The columns that are not removed, the first two among them."""
    shift: Row
    """A whole number per row."""
    factor: Row
    """A temperature per row: a power of two in every other one."""
    tangent: Row
    cotangent: Row
    slope: Row
    """Tangents of the temperature, one per row."""

    @property
    def length(self) -> int:
        return self.x.shape[-1]

    def random(self, what: str) -> Random:
        """More of the batch's own randomness."""
        return np.random.default_rng([self.seed, zlib.crc32(what.encode())])

    def one_of(self, forms: Sequence[T], entry: Entry) -> T:
        """One of several forms: another for other batches, and for other functions."""
        return forms[self.random(entry.name).integers(len(forms))]


# --- rows ------------------------------------------------------------------------------------


def integer(dtype: Any, kind: str) -> Any:
    """The integers as wide as a float: signed (i) or not (u)."""
    return np.dtype(f"{kind}{np.dtype(dtype).itemsize}")


def bits(random: Random, n: int, v: int, dtype: Any = np.float32) -> Row:
    """Any float at all."""
    unsigned = integer(dtype, "u")
    most = np.iinfo(unsigned).max
    return random.integers(0, most, (n, v), unsigned, endpoint=True).view(dtype)


def finite_bits(random: Random, n: int, v: int, dtype: Any = np.float32) -> Row:
    x = bits(random, n, v, dtype)
    return np.where(np.isfinite(x), x, np.asarray(0.5, dtype))


def near_ties(random: Random, n: int, v: int, dtype: Any = np.float32) -> Row:
    """Neighbouring floats."""
    signed = integer(dtype, "i")
    base = (8 * random.standard_normal((n, 1))).astype(dtype)
    return (base.view(signed) + random.integers(-2, 3, (n, v), signed)).view(dtype)


def denormals(random: Random, n: int, v: int, dtype: Any = np.float32) -> Row:
    """Denormals and their neighbours, of both signs, and both zeros."""
    unsigned, digits = integer(dtype, "u"), np.finfo(dtype).nmant + 1
    lost = random.integers(0, digits + 1, (n, v), unsigned)
    magnitude = random.integers(0, 2**digits, (n, v), unsigned) >> lost
    return np.copysign(magnitude.view(dtype), random.choice([-1, 1], (n, v))).astype(dtype)


def ladder(random: Random, n: int, v: int, dtype: Any = np.float32) -> Row:
    """Powers of two over the whole range, of one sign or both."""
    sign = np.where(random.random((n, v)) < random.random((n, 1)), -1, 1)
    info = np.finfo(dtype)
    return sign * np.exp2(random.integers(info.minexp, info.maxexp, (n, v)).astype(np.float64))


def ties(random: Random, n: int, v: int) -> Row:
    return random.integers(-3, 4, (n, v)) / 2


def two_valued(random: Random, n: int, v: int) -> Row:
    gap = np.exp2(random.integers(-20, 8, (n, 1)))
    return np.where(random.random((n, v)) < random.random((n, 1)), gap, 0.0)


def huge_ties(random: Random, n: int, v: int, dtype: Any = np.float32) -> Row:
    most = float(np.finfo(dtype).max)
    return random.choice([most, -most, most / 2, most / 4, -most / 4, 0.0], (n, v))


def peaked(random: Random, n: int, v: int) -> Row:
    x = random.standard_normal((n, v))
    x[np.arange(n), random.integers(0, v, n)] += random.uniform(5, 120, n)
    return x


def holes(random: Random, n: int, v: int) -> Row:
    x = 3 * random.standard_normal((n, v))
    return np.where(random.random((n, v)) < random.random((n, 1)), -np.inf, x)


def only_one(random: Random, n: int, v: int) -> Row:
    x = np.full((n, v), -np.inf)
    x[np.arange(n), random.integers(0, v, n)] = finite_bits(random, n, 1)[:, 0]
    return x


def broken(random: Random, n: int, v: int) -> Row:
    """One NaN or +inf in a row."""
    x = 2 * random.standard_normal((n, v))
    x[np.arange(n), random.integers(0, v, n)] = random.choice([np.nan, np.inf, -np.nan], n)
    return x


def bfloat16(random: Random, n: int, v: int) -> Row:
    """Ties as bfloat16 makes them."""
    x = 3 * random.standard_normal((n, v)) + random.choice([0.0, 40.0, -1000.0], (n, 1))
    return x.astype(ml_dtypes.bfloat16)


CLASSES: dict[str, Callable[[Random, int, int], Row]] = {
    "zeros": lambda _, n, v: np.zeros((n, v)),
    "normal": lambda random, n, v: random.standard_normal((n, v)),
    "of language": lambda random, n, v: 3 * random.standard_normal((n, v)),
    "wide": lambda random, n, v: 30 * random.standard_normal((n, v)),
    "flat": lambda random, n, v: 1e-3 * random.standard_normal((n, v)) + 5,
    "grid": lambda random, n, v: random.integers(-256, 257, (n, v)) / 8,
    "far": lambda random, n, v: random.integers(-64, 65, (n, v)) / 8 - 1e5,
    "ties": ties,
    "two-valued": two_valued,
    "bfloat16": bfloat16,
    "near ties": near_ties,
    "all equal": lambda random, n, v: np.repeat(finite_bits(random, n, 1), v, -1),
    "peaked": peaked,
    "geometric": lambda random, n, v: (
        -np.log(2) * random.permuted(np.tile(np.arange(v), (n, 1)), axis=-1)
    ),
    "holes": holes,
    "only one": only_one,
    "nothing": lambda _, n, v: np.full((n, v), -np.inf),
    "denormals": denormals,
    "ladder": ladder,
    "huge ties": huge_ties,
    "finite bits": finite_bits,
    "bits": bits,
    "broken": broken,
}


WIDE: dict[str, Callable[[Random, int, int], Row]] = CLASSES | {
    name: functools.partial(make_rows, dtype=np.float64)
    for name, make_rows in (
        ("near ties", near_ties),
        ("denormals", denormals),
        ("ladder", ladder),
        ("huge ties", huge_ties),
        ("finite bits", finite_bits),
        ("bits", bits),
    )
}
"""The same in float64, of which these take the bits and the range."""


def make(seed: int, names: Sequence[str], length: int, dtype: Any = np.float32) -> Batch:
    """The batch of this seed, with rows of these classes."""
    random = np.random.default_rng(seed)
    n = len(names)
    double = np.dtype(dtype) == np.float64
    x = np.zeros((n, length), np.float64 if double else np.float32)
    for name, make_rows in (WIDE if double else CLASSES).items():
        mine = np.flatnonzero([given == name for given in names])
        if mine.size:
            x[mine] = make_rows(random, mine.size, length)
    # Half of the rows have no mask, a few nothing but; behind a mask stands anything.
    density = random.choice([1.0, 1.0, 1.0, 1.0, 0.9, 0.5, 0.2, 0.0], (n, 1), p=[0.13] * 7 + [0.09])
    where = random.random((n, length)) < density
    x = np.where(where | (random.random((n, 1)) < 0.5), x, bits(random, n, length, x.dtype))
    kept = np.arange(length)
    if length > 2:
        dropped = random.choice(np.arange(2, length), length // 3, replace=False)
        kept = np.delete(kept, dropped)
    with np.errstate(invalid="ignore"):
        # Of signalling NaN.
        x = x.astype(dtype)
    exponent = random.uniform(-4, 4, n)
    even = np.arange(n) % 2 == 0
    return Batch(
        seed=seed,
        names=names,
        x=x,
        where=where,
        levels={order: random.random(n) for order in LEVELS},
        kept=kept,
        shift=random.integers(-60, 61, n).astype(dtype),
        factor=np.exp2(np.where(even, np.round(exponent), exponent)).astype(dtype),
        tangent=random.standard_normal((n, length)).astype(dtype),
        cotangent=random.standard_normal((n, length)).astype(dtype),
        slope=random.standard_normal(n).astype(dtype),
    )


LEVELS = tuple("0123456")
"""The first four are for the settings of a function, the others for a second value of each."""


def at_random(seed: int, n: int, length: int, dtype: Any = np.float32) -> Batch:
    """The batch of this seed, its classes too."""
    names = np.random.default_rng([seed, 1]).choice(list(CLASSES), n)
    return make(seed, names.tolist(), length, dtype)


# --- settings --------------------------------------------------------------------------------

CAP = "logit_softcap"
SPECIAL = {
    "temperature": (1.0, 0.0, -0.0, np.inf, np.nan, -1.0, TINY, float(FLOAT.max), 0.5, 2.0),
    "alpha": (1.5, 1.0, 2.0, 4.0, np.nan, 0.5, 5.0, 1 + 2.0**-20),
    "label_smoothing": (0.0, 1.0, np.nan, -0.1, 1.5),
    "z_loss": (0.0, np.nan, -1.0, TINY, np.inf),
    "k": (2.0, 1.0, 0.0, np.nan, -3.0, np.inf),
    "p": (0.5, 1.0, 0.0, np.nan, -0.25, 1.5, 1 - 2.0**-24, TINY, 0.25),
    "mass": (0.5, 1.0, 0.0, np.nan, -0.25, 1.5, 1 - 2.0**-24, TINY),
    "min_p": (0.5, 0.0, 1.0, np.nan, -1.0, 2.0, TINY, 0.125),
    "epsilon": (0.5, 0.0, 1.0, np.nan, -1.0, 2.0, TINY, 0.125),
    "n": (1.0, 0.0, np.nan, -1.0, np.inf, TINY),
    CAP: (4.0, np.inf, 0.0, np.nan, -1.0, TINY, float(FLOAT.max), 1e38),
}
"""By the name without "top_"; the first is an ordinary one."""

ORDINARY: dict[str, Callable[[Row, int], Row]] = {
    "temperature": lambda u, _: np.exp2(12 * u - 6),
    "alpha": lambda u, _: 1 + 3 * u,
    "label_smoothing": lambda u, _: u,
    "z_loss": lambda u, _: u / 10,
    "k": lambda u, length: np.floor((length + 2) * u),
    "p": lambda u, _: u,
    "mass": lambda u, _: u,
    "min_p": lambda u, _: 10 ** (-6 * u),
    "epsilon": lambda u, _: 10 ** (-6 * u),
    "n": lambda u, _: 4 * u,
    CAP: lambda u, _: np.exp2(16 * u - 4),
}
EACH = 0.03
"""How often each special value comes."""


def number(entry: Entry, name: str, level: Row, length: int, dtype: Any) -> Row:
    """The setting of each row from its level. One that has no range here takes what the registry
    names, and what lies between."""
    known = name.removeprefix("top_")
    values = entry.settings[name]
    info = np.finfo(dtype) if np.dtype(dtype) == np.float64 else FLOAT
    ends = {TINY: float(info.tiny), float(FLOAT.max): float(info.max)}
    special = SPECIAL.get(known, (*values, entry.off.get(name, values[0]), np.nan))
    special = [ends.get(value, value) for value in special]
    between = ORDINARY.get(known, lambda u, _: min(values) + (max(values) - min(values)) * u)
    which = np.floor(level / EACH).astype(int)
    rest = (level - EACH * len(special)) / (1 - EACH * len(special))
    chosen = np.asarray(special)[np.clip(which, 0, len(special) - 1)]
    return np.where(which < len(special), chosen, between(np.clip(rest, 0, 1), length))


def numbers(entry: Entry, batch: Batch, first: int = 0) -> Numbers:
    """A value for each setting and row. With `first` another, from other levels."""
    return {
        name: number(
            entry,
            name,
            batch.levels[LEVELS[(first + i) % len(LEVELS)]],
            batch.length,
            batch.x.dtype,
        ).astype(batch.x.dtype)
        for i, name in enumerate(entry.settings)
    }


BAD: dict[str, Callable[[Row], Row]] = {
    "temperature": lambda t: t < 0,
    "alpha": lambda a: (a < 1) | (a > 4),
    "label_smoothing": lambda s: (s < 0) | (s > 1),
    "z_loss": lambda w: w < 0,
    CAP: lambda c: c <= 0,
}


def capped(x: Row, cap: Row | float) -> Row:
    """c tanh(x / c), in float64; an entry that is not there stays so, and one that is broken."""
    with np.errstate(all="ignore"):
        return np.where(np.isfinite(x) & (cap != np.inf), cap * np.tanh(x / cap), x)


def bad(settings: Numbers, n: int) -> Row:
    """The rows of which a setting is not allowed."""
    wrong = np.zeros(n, bool)
    for name, value in settings.items():
        wrong |= np.isnan(value) | (name in BAD and BAD[name](value))
    return wrong


# --- hypothesis ------------------------------------------------------------------------------

any_float = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
level = st.floats(0, 1, exclude_max=True, allow_subnormal=False)


@st.composite
def batches(draw: st.DrawFn, shape: tuple[int, int], dtype: Any = np.float32) -> Batch:
    """Batches of one shape: classes of rows, and entries and settings that hypothesis sets."""
    n, length = shape
    row, column = st.integers(0, n - 1), st.integers(0, length - 1)
    names = draw(st.lists(st.sampled_from(list(CLASSES)), min_size=n, max_size=n))
    batch = make(draw(st.integers(0, 2**32 - 1)), names, length, dtype)
    edits = st.lists(st.tuples(row, column, any_float, st.booleans()), max_size=12)
    for i, j, value, allowed in draw(edits):
        batch.x[i, j], batch.where[i, j] = value, allowed
    for i, order, value in draw(
        st.lists(st.tuples(row, st.sampled_from(LEVELS), level), max_size=12)
    ):
        batch.levels[order][i] = value
    return batch
