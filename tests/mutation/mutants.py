"""Mutants of a module, by cosmic-ray's operators, and a seeded sample of them."""

import ast
import functools
import random
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

# Any test kills an addition that has become a shift, and `is` for == warns when it is compiled:
# such mutants would flatter the score. Without a decorator a function is slower (jax.jit) or fails
# at once.
_ARITHMETIC = "Add|Sub|Mul|Div|FloorDiv|Mod|Pow"
_BITS = "BitOr|BitAnd|BitXor"
_ORDER = "Eq|NotEq|Lt|LtE|Gt|GtE"
_OPERATORS = re.compile(
    rf"ReplaceBinaryOperator_({_ARITHMETIC})_(Add|Sub|Mul|Div)"
    rf"|ReplaceBinaryOperator_({_BITS})_({_BITS})"
    rf"|ReplaceComparisonOperator_({_ORDER})_({_ORDER})"
    r"|ReplaceComparisonOperator_(Is_IsNot|IsNot_Is|In_NotIn|NotIn_In)"
    r"|ReplaceUnaryOperator_(USub_UAdd|Delete_\w+)"
    r"|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd"
    r"|ReplaceBreakWithContinue|ReplaceContinueWithBreak|ExceptionReplacer|NumberReplacer"
    r"|ZeroIterationForLoop"
)
Position = tuple[int, int]


class Mutant(NamedTuple):
    """One change of one module."""

    module: str
    operator: str
    occurrence: int
    position: Position

    def apply(self, source: str) -> str:
        """The module's text with the change in it."""
        changed = mutate_code(source, _operator(self.operator), self.occurrence)
        if changed is None:
            raise ValueError(f"{self}: the module has no such place")
        return changed


@functools.cache
def _operator(name: str) -> object:
    return cosmic_ray.plugins.get_operator(name)()


def _annotations(source: str) -> list[tuple[Position, Position]]:
    """Where annotations and aliases of types lie, whose value nothing computes with."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.arg() | ast.AnnAssign():
                found.append(node.annotation)
            case ast.FunctionDef():
                found.append(node.returns)
            case ast.Assign(value=ast.Subscript(value=ast.Name(id="tuple"))):
                found.append(node.value)
            case _:
                pass
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
        for node in found
        if node is not None
    ]


def _is_star(line: str, column: int) -> bool:
    """A star of an argument list or of unpacking, which cosmic-ray takes for a product."""
    return line[column] == "*" and (line[:column].rstrip() or ",")[-1] in "([{,"


def mutants(module: str, source: str) -> list[Mutant]:
    """All mutants of a module but those of its annotations."""
    lines = source.splitlines()
    spans = _annotations(source)
    nodes = list(ast_nodes(get_ast(source)))
    found = []
    for name in sorted(cosmic_ray.plugins.operator_names()):
        if not _OPERATORS.fullmatch(name.removeprefix("core/")):
            continue
        operator = _operator(name)
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        found += [
            Mutant(module, name, i, place)
            for i, place in enumerate(places)
            if not _is_star(lines[place[0] - 1], place[1])
            and not any(start <= place < end for start, end in spans)
        ]
    return found


def sample(package: Path, module: str, number: int, seed: int) -> list[Mutant]:
    """One mutant of each of so many places of a module, or of all where it has fewer.

    Places first: an addition has three mutants, a comparison five, a constant two.
    """
    draw = random.Random(f"{seed} {module}")
    at: dict[Position, list[Mutant]] = defaultdict(list)
    for mutant in mutants(module, (package / f"{module}.py").read_text()):
        at[mutant.position].append(mutant)
    places = draw.sample(sorted(at), len(at))[:number]
    return [draw.choice(at[place]) for place in places]
