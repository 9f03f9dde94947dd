"""The properties: each is one function over a batch of rows, for every function it can be asked of.

A property says for which rows it holds something, and which break it. Whether it applies to a
function is read off the registry's row and its reference (`traits.py`): so a new row is fuzzed
without being asked.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tests.fuzz.strategies import Batch, Numbers, numbers
from tests.fuzz.traits import Traits, traits
from tests.reference import Row
from tests.registry import Entry


@dataclasses.dataclass
class Verdict:
    """What came of a property on a batch, row by row."""

    checked: Row
    """The property says something about these."""
    wrong: Row
    """These break it. Only those that are checked count."""
    rounding: Row | None = None
    """These differ, where the reference says that rounding decides."""
    settings: Numbers = dataclasses.field(default_factory=dict)
    """What the rows met, where that is not what was given;"""
    where: Row | None = None
    """and the mask."""


Check = Callable[[Entry, Batch, Numbers], Verdict]


@dataclasses.dataclass(frozen=True)
class Property:
    """A check, and the functions it is made for."""

    name: str
    check: Check
    applies: Callable[[Entry, Traits], bool]
    light: bool
    """Whether it needs no program but the one of the function itself."""

    def __str__(self) -> str:
        """The name, for pytest's ids."""
        return self.name


REGISTERED: dict[str, Property] = {}


def holds_for(
    applies: Callable[[Entry, Traits], bool], *, light: bool = True
) -> Callable[[Check], Check]:
    """List a property."""

    def register(check: Check) -> Check:
        name = check.__name__
        REGISTERED[name] = Property(name, check, applies, light)
        return check

    return register


def properties_of(entry: Entry, every: Sequence[Property]) -> list[Property]:
    """Those that apply to it."""
    return [prop for prop in every if prop.applies(entry, traits(entry))]


class ViolationError(AssertionError):
    """A row that breaks a property, told so that it can be run again."""


@dataclasses.dataclass(frozen=True)
class Count:
    """Rows that were checked, that broke the property, and in which rounding decided."""

    checked: int = 0
    wrong: int = 0
    rounding: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.checked + other.checked, self.wrong + other.wrong, self.rounding + other.rounding
        )


def examine(entry: Entry, prop: Property, batch: Batch) -> tuple[Count, str]:
    """Count, and tell of the first row that breaks the property."""
    settings = numbers(entry, batch)
    with np.errstate(all="ignore"):
        verdict = prop.check(entry, batch, settings)
    wrong = verdict.checked & verdict.wrong
    close = 0 if verdict.rounding is None else int((verdict.checked & verdict.rounding).sum())
    count = Count(int(verdict.checked.sum()), int(wrong.sum()), close)
    if not count.wrong:
        return count, ""
    row = int(np.flatnonzero(wrong)[0])
    where = batch.where if verdict.where is None else verdict.where
    met = dataclasses.replace(batch, where=where)
    return count, report(entry, prop, met, verdict.settings or settings, row)


def check(entry: Entry, prop: Property, batch: Batch) -> Count:
    """Raise for the first row that breaks the property."""
    count, told = examine(entry, prop, batch)
    if told:
        raise ViolationError(f"{told}\n  {count.wrong} rows of {count.checked} break it")
    return count


def report(entry: Entry, prop: Property, batch: Batch, settings: Numbers, row: int) -> str:
    """What is needed to see it again: seed, row, and the bits of the floats."""
    x = batch.x[row]
    with np.errstate(invalid="ignore"):
        # A NaN may be a signalling one.
        shown = x.astype(np.float64).tolist()
    unsigned = np.dtype(f"uint{8 * x.dtype.itemsize}")
    lines = [
        f"{entry.name} breaks {prop.name}",
        f"  batch of seed {batch.seed}, row {row} ({batch.names[row]!r}), {x.size} entries",
        f"  settings: { {name: value[row].item() for name, value in settings.items()} }",
        f"  x = np.array({x.view(unsigned).tolist()}, '{unsigned}').view('{x.dtype}')",
        f"    = {shown}",
        f"  where = {batch.where[row].astype(int).tolist()}",
    ]
    return "\n".join(lines)
