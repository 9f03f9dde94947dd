"""benchmarks/loops.py finds the loops of a function, however it was written, and counts their
rounds."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest
from jax import Array, lax

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import loops
from tests.aot.cases import CASES, compile_case, program
from tests.aot.targets import by_name
from tests.aot.test_compiles import needs


def halve(x: Array) -> Array:
    """Rounds until no entry is above one: 3 for 8."""
    return lax.while_loop(lambda x: jnp.any(x > 1), lambda x: x / 2, x)


def one_after_another(x: Array) -> Array:
    return halve(jax.jit(halve)(x) * 4)


def in_a_loop(x: Array) -> Array:
    return lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, halve(s[1]) * 8), (0, x))[1]


def in_a_scan(x: Array) -> Array:
    total, halves = lax.scan(lambda total, y: (total + halve(y), halve(y * 2)), jnp.zeros(()), x)
    return halves + total


def in_a_branch(x: Array) -> Array:
    return lax.cond(x[0] > 4, halve, lambda x: x, x)


def by_platform(x: Array) -> Array:
    return lax.platform_dependent(x, cpu=lambda x: jnp.sin(x), tpu=lambda x: halve(x) + 0 * x)


def counted(x: Array) -> Array:
    return lax.fori_loop(0, jnp.int32(x[0]), lambda i, x: x + i, x)


def differentiated(x: Array) -> Array:
    @jax.custom_jvp
    def function(x: Array) -> Array:
        return halve(x)

    function.defjvps(lambda tangent, _, x: tangent * x)
    return function(x) + jax.checkpoint(halve)(2 * x)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (halve, [3]),
        (one_after_another, [3, 2]),
        (in_a_loop, [2, 6]),
        (in_a_scan, [3 + 1, 4 + 2]),
        (in_a_branch, [3]),
        (counted, [8]),
        (differentiated, [3, 4]),
        (jnp.cumsum, []),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_rounds(function: Callable[[Array], Array], expected: list[int]) -> None:
    x = jnp.array([8.0, 2.0])
    assert loops.rounds(function, x, platform="tpu") == expected
    named = loops.named(function, x, platform="tpu")
    chex.assert_trees_all_equal(named(x), function(x))
    text = jax.jit(named).lower(x).compile().as_text()
    assert text is not None
    found = {loops.number(name) for name in re.findall(r'op_name="([^"]*)"', text)} - {None}
    assert found == set(range(len(expected)))


def test_a_branch_for_a_platform_is_followed() -> None:
    x = jnp.array([8.0, 2.0])
    assert loops.rounds(by_platform, x, platform="tpu") == [3]
    chex.assert_trees_all_equal(loops.named(by_platform, x, platform="tpu")(x), halve(x))
    chex.assert_trees_all_equal(loops.named(by_platform, x, platform="cpu")(x), jnp.sin(x))


def test_a_branch_not_taken_makes_no_rounds() -> None:
    assert loops.rounds(in_a_branch, jnp.array([2.0, 8.0]), platform="tpu") == [0]


@needs(by_name("H100"))
def test_the_program_with_names_moves_as_much() -> None:
    target = by_name("H100")
    case = next(case for case in CASES if case.label == "top_p_mask")
    plain, with_names = (
        program(compile_case(case, target, rewrite=rewrite), target)
        for rewrite in (None, lambda f, *x: loops.named(f, *x, platform="cuda"))
    )
    assert [loops.number(loop.op_name) for loop in with_names.loops] == [0]
    assert [loops.number(loop.op_name) for loop in plain.loops] == [None]
    for trips in (0, 1, 7):
        expected = plain.total(lambda _, trips=trips: trips)
        assert with_names.total(lambda _, trips=trips: trips) == expected
