"""What crosses between devices, read from a compiled program's text."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax

_OPERATIONS = (
    "all-gather|all-reduce|all-to-all|ragged-all-to-all|collective-broadcast|collective-permute"
    "|reduce-scatter"
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$", re.MULTILINE)
_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({_OPERATIONS})(?:-start)?\(", re.M)
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)"
    r"|\b(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_BODY = re.compile(r"\bbody=%?([\w.-]+)")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective of a program."""

    operation: str
    bytes: int
    """What one device receives: the size of the result."""
    in_loop: bool
    """Whether it runs once a round of a loop, and not once a call."""


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    """The collectives of a compiled program, which is told in HLO.

    A loop's body is counted once: multiply by its rounds.
    """
    bodies = dict(_computations(compiled.as_text() or ""))
    in_loop: set[str] = set()
    waiting = [name for text in bodies.values() for name in _BODY.findall(text)]
    while waiting:
        name = waiting.pop()
        if name not in in_loop:
            in_loop.add(name)
            waiting += _called(bodies[name])
    return [
        Collective(operation, sum(map(_bytes, _ARRAY.findall(result))), name in in_loop)
        for name, text in bodies.items()
        for result, operation in _COLLECTIVE.findall(text)
    ]


def count(found: Iterable[Collective]) -> tuple[int, int]:
    """How many run once a call, and how many once a round of a loop."""
    in_loop = [collective.in_loop for collective in found]
    return in_loop.count(False), in_loop.count(True)


def assert_small(found: Iterable[Collective], most: int) -> None:
    """Nothing but reductions crosses, and none of more than `most` bytes."""
    moved = [c for c in found if c.operation not in ("all-reduce", "reduce-scatter")]
    assert not moved, f"these are not reductions: {moved}"
    large = [c for c in found if c.bytes > most]
    assert not large, f"these move more than {most} bytes: {large}"


def _computations(text: str) -> Iterator[tuple[str, str]]:
    heads = list(_COMPUTATION.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=True):
        yield head[1], text[head.end() : end]


def _called(text: str) -> list[str]:
    names = []
    for one, several in _CALLED.findall(text):
        names += [one] if one else [name.strip(" %") for name in several.split(",")]
    return names


def _bytes(array: tuple[str, str, str]) -> int:
    kind, bits, shape = array
    width = 1 if kind == "pred" else int(bits) // 8
    return width * math.prod(int(size) for size in shape.split(",") if size)
