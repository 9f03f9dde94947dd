"""The programs to compile: every row of the registry, whole and split over the vocabulary."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.aot.program import Program
from tests.aot.targets import Target
from tests.registry import REGISTRY, Entry

VOCABULARY = 128256
BATCH = 32
TOKENS = 16
SHARDS = 4


@dataclass(frozen=True, eq=False)
class Case:
    """A public function with settings per row, and what is computed of it."""

    entry: Entry
    label: str
    settings: tuple[str, ...] = ()
    static: Mapping[str, str] | None = None
    gradient: bool = False

    def __str__(self) -> str:
        """The name, for pytest's ids and the table."""
        return self.label

    def call(self, x: Any, mask: Any, key: Any, numbers: Mapping[str, Any], **where: Any) -> Any:
        """The function's result; each function takes of the arguments what it needs."""
        if self.entry.kind == "fill":
            return self.entry.function(x, mask)
        if self.entry.kind == "linear":
            # The logits' place is the weight's: it has their columns.
            hidden = jnp.ones((TOKENS, x.shape[0]), x.dtype)
            return self.entry.function(hidden, x, jnp.arange(TOKENS), **where)
        if self.entry.kind == "relaxed":
            return self.entry(x, key=key, **numbers)

        def value(x: Any) -> Any:
            return self.entry(x, key=key, **numbers, **(self.static or {}), **where)

        if not self.gradient:
            return value(x)
        y, pullback = jax.vjp(value, x)
        return pullback(jnp.ones_like(y))[0]


def _cases(entry: Entry) -> list[Case]:
    name, settings = entry.name, tuple(entry.settings)
    cases = [Case(entry, name, settings)]
    if settings and not entry.required:
        cases = [Case(entry, name), Case(entry, f"{name}, {', '.join(settings)}", settings)]
    if entry.kind == "token":
        # Sampled without the cut that top-k's window, or the log-probability, needs.
        alone = ("temperature", "top_p")
        cases.insert(1, Case(entry, f"{name}, {', '.join(alone)}", alone))
    if entry.ties:
        cases.append(Case(entry, f'{name}, ties="first"', settings, {"ties": "first"}))
    if entry.differentiable:
        cases.append(Case(entry, f"{name}, gradient", settings, gradient=True))
    return cases


CASES = tuple(case for entry in REGISTRY for case in _cases(entry))


def compile_case(
    case: Case,
    target: Target,
    *,
    shards: int = 1,
    rows: int = 1,
    batch: int = BATCH,
    vocabulary: int = VOCABULARY,
    dtype: Any = jnp.float32,
    rewrite: Callable[..., Callable[..., Any]] | None = None,
) -> jax.stages.Compiled:
    """Compile for `shards` devices along the vocabulary by `rows` along the batch.

    On one device the function is the plain one; on several it is called with `axis_name` in
    `shard_map`. On one device, `rewrite` may change it, given its arguments.
    """
    mesh = target.mesh(rows=rows, vocabulary=shards)
    split, row = P("rows", "vocabulary"), P("rows")
    key = jax.eval_shape(lambda: jax.random.key(0))

    def argument(shape: tuple[int, ...], dtype: Any, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    x = argument((batch, vocabulary), dtype, split)
    mask = argument((batch, vocabulary), jnp.bool_, split)
    key = argument(key.shape, key.dtype, P())
    numbers = {name: argument((batch,), jnp.float32, row) for name in case.settings}
    function: Callable[..., Any] = case.call
    if mesh.size > 1:

        def local(x: Any, mask: Any, key: Any, numbers: Any) -> Any:
            return case.call(x, mask, key, numbers, axis_name="vocabulary")

        one_a_row = case.entry.kind in ("reduction", "token", "linear")
        out = row if one_a_row and not case.gradient else split
        function = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(split, split, P(), dict.fromkeys(case.settings, row)),
            out_specs=(out, out) if case.entry.pair else out,
        )
    elif rewrite is not None:
        function = rewrite(function, x, mask, key, numbers)
    return jax.jit(function).lower(x, mask, key, numbers).compile()


def program(compiled: jax.stages.Compiled, target: Target) -> Program:
    """What was compiled; the memory of a GPU is all main memory."""
    text = compiled.as_text()
    assert text is not None
    return Program(text) if target.platform == "tpu" else Program(text, on_chip=frozenset())


def limit(shards: int, local_batch: int) -> int:
    """The most bytes that a collective may move."""
    return 64 * local_batch * shards


def too_large(program: Program, shards: int, local_batch: int = BATCH) -> list[str]:
    """The collectives that move more than O(batch), as words."""
    most = limit(shards, local_batch)
    return [
        f"{collective.opcode} of {collective.size} bytes, over {most}"
        for collective in program.collectives
        if collective.size > most
    ]
