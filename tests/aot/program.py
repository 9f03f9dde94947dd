"""What a compiled program moves: between devices, and between a device and its main memory.

Both are read from the text of the optimized program (HLO). XLA's own cost analysis says neither: it
counts the body of a loop once, takes on-chip memory for main memory, and says nothing for GPUs.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "bf16": 16}
_LEAF = re.compile(r"\b(pred|token|bf16|[sufc]\d+(?:e\w+)?)\[([\d,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")

_COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
}
# These name what is there, or finish what another instruction began.
_FREE = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
# Custom calls that name what is there.
_FREE_CALLS = ('custom_call_target="ConcatBitcast"', 'custom_call_target="AllocateBuffer"')
_SLICES = {"dynamic-slice", "gather", "slice"}


class Leaf(NamedTuple):
    """An array of an instruction's result."""

    size: int
    """Bytes, without padding."""
    space: int
    """Memory space: 0 is the main memory."""


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    opcode: str
    leaves: tuple[Leaf, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool
    is_integer: bool
    """Whether its result is one integer."""
    number: int | None
    """Of a parameter, which it is; of a constant, its value where that is whole."""

    def called(self, attribute: str) -> list[str]:
        """The computations that an attribute names."""
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
        return re.findall(r"%?([\w.\-]+)", found[1].strip("{}")) if found else []

    @property
    def op_name(self) -> str:
        """The place in the traced program."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


class Loop(NamedTuple):
    """A loop of the program."""

    op_name: str
    """Its place in the traced program."""
    trips: int | None
    """How many rounds it makes, None where the data decide."""


class Collective(NamedTuple):
    """What crosses devices at once."""

    opcode: str
    size: int
    """Bytes of its result on a device, or of its operands where they are more."""
    loops: tuple[Loop, ...]
    """Those it is in, the outermost first."""


class Program:
    """An optimized program, from the text that `compiled.as_text()` gives."""

    def __init__(self, text: str, *, on_chip: frozenset[int] = frozenset(range(1, 16))) -> None:
        """Memory spaces in `on_chip` are not main memory."""
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.on_chip = on_chip
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations[header[2]] = {}
                if header[1]:
                    self.entry = header[2]
            elif start := _INSTRUCTION.match(line):
                instruction = _instruction(line[start.end() :], start[2], bool(start[1]))
                current[instruction.name] = instruction

    @cached_property
    def collectives(self) -> list[Collective]:
        """The collectives, each once, however many instructions it is split into."""
        most: Counter[tuple[Collective, str]] = Counter()
        for computation, loops in self._visits(self.entry, ()):
            here: Counter[tuple[Collective, str]] = Counter()
            for instruction in self.computations[computation].values():
                opcode = instruction.opcode.removesuffix("-start")
                if opcode not in _COLLECTIVES:
                    continue
                operands = sum(leaf.size for leaf in self._operands(computation, instruction))
                size = sum(leaf.size for leaf in instruction.leaves)
                if instruction.opcode != opcode:  # The result may repeat the operands.
                    size -= operands
                channel = re.search(r"channel_id=(\d+)", instruction.attributes)
                identity = f"{channel and channel[1]} {instruction.op_name}"
                here[Collective(opcode, max(size, operands), loops), identity] += 1
            # The parts of one that is asynchronous are in several computations.
            most |= here
        return [collective for collective, _ in most.elements()]

    @cached_property
    def traffic(self) -> dict[tuple[Loop, ...], int]:
        """Bytes read from and written to the main memory, by the loops they are in.

        Those of one round: a total is a sum over the keys, each times the trips of its loops.
        """
        total: Counter[tuple[Loop, ...]] = Counter()
        for computation, loops in self._visits(self.entry, ()):
            for instruction in self.computations[computation].values():
                total[loops] += self._moved(computation, instruction)
        return dict(total)

    def total(self, trips: Callable[[Loop], float]) -> float:
        """Bytes of a call, where a loop makes so many rounds."""
        return sum(
            size * math.prod([trips(loop) for loop in loops])
            for loops, size in self.traffic.items()
        )

    @property
    def loops(self) -> set[Loop]:
        """All loops."""
        return {loop for loops in self.traffic for loop in loops}

    def _visits(
        self, computation: str, loops: tuple[Loop, ...]
    ) -> Iterator[tuple[str, tuple[Loop, ...]]]:
        """The computations whose instructions run one after another, and the loops around them.

        Of the branches of a conditional all are visited: what is counted is at most that.
        """
        yield computation, loops
        for instruction in self.computations[computation].values():
            inside = loops
            if instruction.opcode == "while":
                called = instruction.called("body") + instruction.called("condition")
                inside = (*loops, self._loop(instruction))
            elif instruction.opcode == "conditional":
                called = instruction.called("branch_computations")
                called += instruction.called("true_computation")
                called += instruction.called("false_computation")
            elif instruction.opcode == "call":
                called = instruction.called("to_apply")
            elif instruction.opcode in ("async-start", "fusion"):
                # Inside a fusion nothing goes through memory, but a collective may be there.
                called = instruction.called("calls")
                if instruction.opcode == "fusion":
                    called = [name for name in called if self._has_collective(name)]
            else:
                continue
            for name in called:
                yield from self._visits(name, inside)

    def _has_collective(self, computation: str) -> bool:
        return any(
            instruction.opcode.removesuffix("-start") in _COLLECTIVES
            for instruction in self.computations[computation].values()
        )

    def _loop(self, loop: Instruction) -> Loop:
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return Loop(loop.op_name, int(known[1]))
        (condition,) = loop.called("condition")
        return Loop(loop.op_name, self._limit(condition))

    def _limit(self, condition: str) -> int | None:
        """The constant that a loop counts to, by one from zero as XLA's own loops do."""
        inside = self.computations[condition]
        root = _root(inside)
        arguments: dict[int | None, Instruction] = {}
        if root.opcode == "fusion":
            (called,) = root.called("calls")
            arguments = {i: inside[name] for i, name in enumerate(root.operands)}
            inside = self.computations[called]
            root = _root(inside)
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        counter, limit = (
            arguments.get(x.number, x) if x.opcode == "parameter" else x
            for x in (inside[name] for name in root.operands)
        )
        counts = counter.opcode == "get-tuple-element" and limit.opcode == "constant"
        return limit.number if counts and limit.is_integer else None

    def _operands(self, computation: str, instruction: Instruction) -> list[Leaf]:
        inside = self.computations[computation]
        return [
            leaf for name in dict.fromkeys(instruction.operands) for leaf in inside[name].leaves
        ]

    def _moved(self, computation: str, instruction: Instruction) -> int:
        """Bytes that an instruction reads from and writes to the main memory."""
        opcode, inside = instruction.opcode, self.computations[computation]
        if (
            opcode in _FREE
            or opcode.endswith(("-done", "-update"))
            or opcode in ("async-start", "call", "conditional", "while")
            or any(call in instruction.attributes for call in _FREE_CALLS)
        ):
            return 0
        if opcode in ("copy-start", "slice-start"):
            first, second, *_ = instruction.leaves
            source, copied = (second, first) if opcode == "copy-start" else (first, second)
            return sum(copied.size for leaf in (source, copied) if leaf.space not in self.on_chip)
        if opcode.endswith("-start"):
            return self._main(self._operands(computation, instruction)) * 2
        if opcode == "fusion":
            (called,) = instruction.called("calls")
            written = self._written(called, instruction)
            operands = dict.fromkeys(instruction.operands)
            read = 0
            for name in operands:
                places = [i for i, other in enumerate(instruction.operands) if other == name]
                used = sum(self._used(called, place) for place in places)
                leaves = inside[name].leaves
                read += min(used, self._main(leaves))
            return read + written
        written = self._main(instruction.leaves)
        if opcode in _SLICES:
            first, *rest = instruction.operands
            size = sum(leaf.size for leaf in instruction.leaves)
            read = min(size, self._main(inside[first].leaves))
            return written + read + sum(self._main(inside[name].leaves) for name in rest)
        if opcode == "dynamic-update-slice":
            update = inside[instruction.operands[1]].leaves
            size = sum(leaf.size for leaf in update)
            return min(size, written) + self._main(update)
        return written + self._main(self._operands(computation, instruction))

    def _main(self, leaves: Iterator[Leaf] | list[Leaf] | tuple[Leaf, ...]) -> int:
        return sum(leaf.size for leaf in leaves if leaf.space not in self.on_chip)

    def _used(self, computation: str, place: int) -> int:
        """Bytes of a parameter that a fusion reads: all, unless it only takes slices of it."""
        inside = self.computations[computation]
        (parameter,) = [
            instruction
            for instruction in inside.values()
            if instruction.opcode == "parameter" and instruction.number == place
        ]
        size, used = sum(leaf.size for leaf in parameter.leaves), 0
        names = [parameter.name]
        while names:
            name = names.pop()
            for user in inside.values():
                if name not in user.operands:
                    continue
                if user.opcode == "bitcast":
                    names.append(user.name)
                elif user.opcode in _SLICES and name not in user.operands[1:]:
                    used += sum(leaf.size for leaf in user.leaves)
                elif user.opcode == "dynamic-update-slice" and name not in user.operands[1:]:
                    pass
                elif user.opcode == "fusion":
                    (called,) = user.called("calls")
                    used += sum(
                        self._used(called, i) for i, x in enumerate(user.operands) if x == name
                    )
                else:
                    return size
        return min(size, used)

    def _written(self, computation: str, fusion: Instruction) -> int:
        """Bytes of a fusion's result: an update in place writes the update."""
        inside = self.computations[computation]
        root = _root(inside)
        if root.opcode != "tuple" and len(fusion.leaves) > 1:
            return self._main(fusion.leaves)
        roots = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        written, leaves = 0, iter(fusion.leaves)
        for result in roots:
            # A reduction of several operands has as many results.
            size = self._main(next(leaves) for _ in result.leaves)
            result = _named_by(inside, result)
            if result.opcode == "dynamic-update-slice" and size:
                whole, update = (inside[name] for name in result.operands[:2])
                if _named_by(inside, whole).opcode == "parameter":
                    size = sum(leaf.size for leaf in update.leaves)
            written += size
        return written


def _named_by(computation: dict[str, Instruction], instruction: Instruction) -> Instruction:
    """What a bitcast is another name of."""
    while instruction.opcode == "bitcast":
        instruction = computation[instruction.operands[0]]
    return instruction


def _root(computation: dict[str, Instruction]) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.is_root)


def _instruction(text: str, name: str, is_root: bool) -> Instruction:
    kind, text = _balanced(text) if text.startswith("(") else text.split(" ", 1)
    opcode, _, _ = text.strip().partition("(")
    operands, attributes = _balanced(text.strip()[len(opcode) :])
    leaves = tuple(
        Leaf(_size(dtype, dimensions), _space(layout))
        for dtype, dimensions, layout in _LEAF.findall(kind)
    )
    number = re.fullmatch(r"\((-?\d+)\)", operands)
    return Instruction(
        name,
        opcode,
        leaves,
        tuple(_NAME.findall(operands)),
        attributes,
        is_root,
        re.match(r"[su]\d+\[\]", kind) is not None,
        int(number[1]) if number else None,
    )


def _balanced(text: str) -> tuple[str, str]:
    """The parenthesis that a text starts with, and the rest."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    raise ValueError(f"no end of the parenthesis in {text[:80]!r}")


def _size(dtype: str, dimensions: str) -> int:
    bits = _BITS.get(dtype)
    if bits is None:
        bits = int(re.sub(r"e.*", "", dtype[1:]))
    return math.prod(int(n) for n in dimensions.split(",") if n) * bits // 8


def _space(layout: str) -> int:
    found = re.search(r"S\((\d+)\)", layout)
    return int(found[1]) if found else 0
