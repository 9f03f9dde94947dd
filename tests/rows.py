"""Input classes: the kinds of rows of logits that every function meets. All float32, all seeded."""

import jax
import ml_dtypes
import numpy as np

from tests.reference import Row

INF = np.float32(np.inf)
NAN = np.float32(np.nan)
LENGTHS = (1, 2, 7, 127, 128, 129, 511, 512, 513, 1023, 1024, 1025, 4097)
"""Vocabulary sizes around the powers of two at which block sums could go wrong."""


def normal(length: int, scale: float, seed: int = 0) -> Row:
    """N(0, scale^2)."""
    return (scale * np.random.default_rng([seed, length]).standard_normal(length)).astype(
        np.float32
    )


def normals(*shape: int, seed: int = 0) -> Row:
    """N(0, 1), of any shape."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def bf16(x: Row) -> Row:
    """Rounded to bfloat16: many ties in a large vocabulary."""
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def peaked(length: int, seed: int = 0) -> Row:
    """One entry far above the others, as after a certain prefix."""
    x = normal(length, 1.0, seed)
    x[length // 3] += 14
    return x


def two_values(length: int) -> Row:
    """Every third entry is 1, the rest 0."""
    return np.where(np.arange(length) % 3 == 1, 1, 0).astype(np.float32)


def holes(length: int, seed: int = 0) -> Row:
    """Random with -inf at every second entry but the last."""
    x = normal(length, 2.0, seed)
    x[:-1][::2] = -INF
    return x


def only_one(length: int) -> Row:
    """-inf but for one entry."""
    x = np.full(length, -INF)
    x[length // 2] = -3
    return x


def ladder(length: int) -> Row:
    """Powers of two of both signs over the whole range of normal floats, shuffled."""
    exponent = np.linspace(-126, 127, length).round()
    sign = np.where(np.arange(length) % 2 == 0, 1, -1)
    x = (sign * np.exp2(exponent)).astype(np.float32)
    return np.random.default_rng(length).permutation(x)


def geometric(length: int) -> Row:
    """Probabilities 1/2, 1/4, 1/8, ... in a shuffled order."""
    x = (-np.log(2) * np.arange(length)).astype(np.float32)
    return np.random.default_rng(length).permutation(x)


def family(length: int, seed: int = 0) -> dict[str, Row]:
    """One row of each class, all of one length and all with an allowed entry but the last."""
    tiny = np.finfo(np.float32).tiny
    return {
        "normal": normal(length, 1.0, seed),
        "normal 3": normal(length, 3.0, seed + 1),
        "wide": normal(length, 30.0, seed + 2),
        "peaked": peaked(length, seed + 3),
        "flat": normal(length, 1e-3, seed + 4),
        "equal": np.full(length, np.float32(0.3)),
        "two values": two_values(length),
        "ties": np.round(normal(length, 2.0, seed + 5) * 2) / 2,
        "bfloat16": bf16(normal(length, 3.0, seed + 6)),
        "bfloat16 far": bf16(normal(length, 3.0, seed + 7) + 40),
        "ascending": np.sort(normal(length, 2.0, seed + 8)),
        "descending": np.sort(normal(length, 2.0, seed + 9))[::-1].copy(),
        "holes": holes(length, seed + 10),
        "only one": only_one(length),
        "one holds all": np.where(np.arange(length) == length - 1, 200, 0).astype(np.float32),
        "one left behind": np.where(np.arange(length) == 0, -200, 0).astype(np.float32),
        "ladder": ladder(length),
        "geometric": geometric(length),
        "tiny": (tiny * np.arange(1, length + 1)).astype(np.float32),
        "signed zeros": np.where(np.arange(length) % 2 == 0, 0.0, -0.0).astype(np.float32),
        "nothing": np.full(length, -INF),
    }


def stacked(length: int, seed: int = 0) -> tuple[list[str], Row]:
    """The names and the [number of classes, length] array of `family`."""
    rows = family(length, seed)
    return list(rows), np.stack(list(rows.values()))


EDGES: dict[str, tuple[list[float], list[int]]] = {
    "ordinary": ([0.5, 2.0, -1.0, 3.0, 1.5, 0.0], [1, 1, 1, 1, 1, 1]),
    "tied top": ([2.0, 1.0, 2.0, 2.0, -1.0, 1.0], [1, 1, 1, 1, 1, 1]),
    "all equal": ([1.25] * 6, [1] * 6),
    "holes": ([0.5, -np.inf, 1.0, -np.inf, -np.inf, 2.0], [1] * 6),
    "one finite": ([-np.inf, -np.inf, -4.0, -np.inf, -np.inf, -np.inf], [1] * 6),
    "all -inf": ([-np.inf] * 6, [1] * 6),
    "nothing allowed": ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0] * 6),
    "nothing allowed, NaN": ([np.nan, 2.0, np.inf, 4.0, np.nan, 6.0], [0] * 6),
    "-inf or masked": ([np.nan, -np.inf, np.inf, -np.inf, 5.0, -np.inf], [0, 1, 0, 1, 0, 1]),
    "masked": ([9.0, 2.0, -1.0, 3.0, 8.0, 0.0], [0, 1, 1, 1, 0, 1]),
    "masked NaN": ([np.nan, 2.0, -1.0, 3.0, np.nan, 0.0], [0, 1, 1, 1, 0, 1]),
    "masked +inf": ([np.inf, 2.0, -1.0, -np.inf, np.inf, 0.0], [0, 1, 1, 1, 0, 1]),
    "masked -inf": ([-np.inf, 2.0, -1.0, 3.0, -np.inf, 0.0], [0, 1, 1, 1, 0, 1]),
    "one allowed": ([np.nan, np.inf, -2.0, 3.0, 1.0, 0.0], [0, 0, 1, 0, 0, 0]),
    "large": ([3e4, -3e4, 2.9e4, 0.0, 3e4, -6e4], [1] * 6),
    "small": ([1e-7, 0.0, 6e-8, 2e-7, -6e-8, -0.0], [1] * 6),
    "NaN": ([0.5, np.nan, -1.0, 3.0, -np.inf, 0.0], [1, 1, 1, 1, 1, 0]),
    "+inf": ([0.5, 1.0, np.inf, 3.0, -np.inf, 0.0], [1, 1, 1, 1, 1, 0]),
    "NaN beside masked NaN": ([np.nan, np.nan, 1.0, -np.inf, 0.0, 2.0], [1, 0, 1, 1, 1, 1]),
    "NaN among -inf": ([-np.inf, np.nan, -np.inf, -np.inf, -np.inf, -np.inf], [1] * 6),
}
"""Every row of the edge table, as logits and `where`."""

BROKEN = tuple(name for name in EDGES if name in ("NaN", "+inf") or name.startswith("NaN "))
SOUND = tuple(name for name in EDGES if name not in BROKEN)

if jax.config.jax_debug_nans:
    # jax refuses NaN, in a result and in an array that comes from the host, masked or not.
    EDGES = {
        name: (
            np.nan_to_num(EDGES[name][0], nan=np.inf, posinf=np.inf, neginf=-np.inf).tolist(),
            EDGES[name][1],
        )
        for name in SOUND
    }
    BROKEN = ()


def edges(names: tuple[str, ...] = tuple(EDGES)) -> tuple[Row, Row]:
    """Logits and `where` of the named edge rows, as [number of rows, 6] arrays."""
    logits = np.array([EDGES[name][0] for name in names], np.float32)
    return logits, np.array([EDGES[name][1] for name in names], bool)
