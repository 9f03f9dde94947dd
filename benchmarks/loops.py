"""The loops of a function: named, so that they are found again in a compiled program, and counted.

Both work on the traced function (its jaxpr), whatever it was written with: `lax.while_loop`,
`lax.fori_loop`, `lax.scan`. Loops whose trips are known beforehand are left as they are, but for
what is inside of them.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2")
_CALLS += ("checkpoint",)
Path = tuple[int, ...]


def named(function: Callable[..., Any], *arguments: Any, platform: str) -> Callable[..., Any]:
    """The function for arguments like these, with the i-th of its loops in a scope "loop_i"."""
    jaxpr, tree = _traced(function, arguments)
    rewriter = _Rewriter(jaxpr, platform)

    def with_names(*arguments: Any) -> Any:
        _, results = rewriter.run(jaxpr, (), jax.tree.leaves(arguments), None)
        return jax.tree.unflatten(tree, results)

    return with_names


def rounds(function: Callable[..., Any], *arguments: Any, platform: str) -> list[int]:
    """How many rounds each loop makes in a call with these arguments, in all, on this machine.

    Where the function differs by platform, the loops are those for `platform`.
    """
    jaxpr, _ = _traced(function, arguments)
    rewriter = _Rewriter(jaxpr, platform)

    @jax.jit
    def counted(*leaves: Any) -> Any:
        zero = jnp.zeros(len(rewriter.loops), jnp.int32)
        # The results are returned too: what is not used would be left out.
        return rewriter.run(jaxpr, (), leaves, zero)

    counts, _ = counted(*jax.tree.leaves(arguments))
    return counts.tolist()


def number(op_name: str) -> int | None:
    """Which loop it is that stands at this place of a compiled program, if it was named."""
    found = re.search(r"\bloop_(\d+)/while$", op_name)
    return int(found[1]) if found else None


def _traced(function: Callable[..., Any], arguments: Any) -> tuple[ClosedJaxpr, Any]:
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return closed, jax.tree.structure(shape)


def _subjaxprs(equation: JaxprEqn) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, (ClosedJaxpr, Jaxpr)):
                yield part


def _open(jaxpr: ClosedJaxpr | Jaxpr) -> tuple[Jaxpr, Sequence[Any]]:
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())


def _find(jaxpr: ClosedJaxpr | Jaxpr, path: Path) -> Iterator[Path]:
    for i, equation in enumerate(_open(jaxpr)[0].eqns):
        if equation.primitive.name == "while":
            yield (*path, i)
        for j, inner in enumerate(_subjaxprs(equation)):
            yield from _find(inner, (*path, i, j))


class _Rewriter:
    """Evaluates a jaxpr with its loops changed; `counts`, if any, goes through all of it."""

    def __init__(self, jaxpr: ClosedJaxpr, platform: str) -> None:
        self.platform = platform
        self.loops = list(_find(jaxpr, ()))

    def run(
        self, jaxpr: ClosedJaxpr | Jaxpr, path: Path, arguments: Sequence[Any], counts: Any
    ) -> tuple[Any, list[Any]]:
        """The counts and the results."""
        inside, consts = _open(jaxpr)
        values: dict[Any, Any] = {}
        values.update(zip(inside.constvars, consts, strict=True))
        values.update(zip(inside.invars, arguments, strict=True))
        for i, equation in enumerate(inside.eqns):
            inputs = [
                x.val if isinstance(x, Literal) else values[x]  # a constant, or a variable
                for x in equation.invars
            ]
            counts, results = self.equation(equation, (*path, i), inputs, counts)
            values.update(zip(equation.outvars, results, strict=True))
        return counts, [x.val if isinstance(x, Literal) else values[x] for x in inside.outvars]

    def equation(
        self, equation: JaxprEqn, path: Path, inputs: list[Any], counts: Any
    ) -> tuple[Any, list[Any]]:
        """The counts and the results of one equation."""
        name, params = equation.primitive.name, equation.params
        parts = [((*path, j), inner) for j, inner in enumerate(_subjaxprs(equation))]
        platforms = params.get("branches_platforms")
        if platforms is not None:
            # Not the branch of this machine, whether or not it has a loop: it may stand in one.
            here = [i for i, names in enumerate(platforms) if self.platform in (names or ())]
            index = (here or [i for i, names in enumerate(platforms) if names is None])[0]
            return self.run(parts[index][1], parts[index][0], inputs[1:], counts)
        if not any(loop[: len(path)] == path for loop in self.loops):
            results = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(params))
            return counts, results if equation.primitive.multiple_results else [results]
        if name == "while":
            return self.loop(equation, path, inputs, counts)
        if name in _CALLS:
            return self.run(parts[0][1], parts[0][0], inputs, counts)
        if name == "cond":
            index, *inputs = inputs
            branches = [
                lambda counts, *inputs, part=part: self.run(part[1], part[0], inputs, counts)
                for part in parts
            ]
            return lax.switch(index, branches, counts, *inputs)
        if name == "scan":
            # Stacked arrays have an axis more than what a round sees of them.
            inside, _ = _open(parts[0][1])
            stacked, carried = [
                sum((a.aval.shape == b.aval.shape) == same for a, b in zip(*pair, strict=True))
                for pair, same in (
                    ((equation.invars, inside.invars), False),
                    ((equation.outvars, inside.outvars), True),
                )
            ]
            fixed = len(inputs) - stacked - carried
            consts, carry, xs = (
                inputs[:fixed],
                inputs[fixed : fixed + carried],
                inputs[fixed + carried :],
            )

            def step(carry: Any, x: Any) -> Any:
                counts, carry = carry
                counts, results = self.run(parts[0][1], parts[0][0], [*consts, *carry, *x], counts)
                return (counts, results[:carried]), results[carried:]

            (counts, carry), ys = lax.scan(
                step, (counts, carry), xs, params["length"], params["reverse"]
            )
            return counts, [*carry, *ys]
        raise NotImplementedError(f"a loop inside of {name}")

    def loop(
        self, equation: JaxprEqn, path: Path, inputs: list[Any], counts: Any
    ) -> tuple[Any, list[Any]]:
        """A while loop, named, its rounds counted."""
        params, which = equation.params, self.loops.index(path)
        fixed, more = params["cond_nconsts"], params["body_nconsts"]
        for_condition, for_body = inputs[:fixed], inputs[fixed : fixed + more]
        order = {id(inner): (*path, j) for j, inner in enumerate(_subjaxprs(equation))}

        def condition(state: Any) -> Any:
            counts, values = state
            inner = params["cond_jaxpr"]
            return self.run(inner, order[id(inner)], [*for_condition, *values], counts)[1][0]

        def body(state: Any) -> Any:
            counts, values = state
            if counts is not None:
                counts = counts.at[which].add(1)
            inner = params["body_jaxpr"]
            return self.run(inner, order[id(inner)], [*for_body, *values], counts)

        with jax.named_scope(f"loop_{which}"):
            return lax.while_loop(condition, body, (counts, inputs[fixed + more :]))
