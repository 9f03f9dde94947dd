"""Every public function compiles for TPUs and for a CUDA GPU, whole and split over the vocabulary,
and no collective of the program moves more than O(batch). Compiled, not run.

By default all functions for one TPU and the GPU, and some for the others; `-m aot_full` is the
rest of the matrix.
"""

from typing import Any

import jax.numpy as jnp
import pytest

from tests.aot.cases import BATCH, CASES, SHARDS, Case, compile_case, program, too_large
from tests.aot.targets import PODS, TARGETS, Target

ALL_ON = ("TPU v5e", "H100")
SOME = ("softmax", "entropy, gradient", "top_p_mask")
ROWS, COLUMNS = 16, 16


def needs(target: Target) -> pytest.MarkDecorator:
    """Skip without the target's compiler."""
    return pytest.mark.skipif(target.missing is not None, reason=target.missing or "")


def draws(case: Case) -> bool:
    """Whether it is a token with every setting given."""
    return case.entry.name == "sample" and bool(case.settings)


def is_quick(case: Case, target: Target, shards: int, dtype: str) -> bool:
    """Whether it is compiled in every run."""
    some = case.label in SOME or (draws(case) and shards > 1)
    return (
        some
        if dtype == "bfloat16" and target.name in ALL_ON
        else (dtype == "float32" and (some or target.name in ALL_ON))
    )


def matrix() -> list[Any]:
    """Function, target, number of shards and dtype."""
    full = (pytest.mark.slow, pytest.mark.aot_full)
    return [
        pytest.param(
            case,
            target,
            shards,
            dtype,
            marks=[needs(target), *(() if is_quick(case, target, shards, dtype) else full)],
            id=f"{target}-{dtype}-{shards}-{case}",
        )
        for target in TARGETS
        for dtype in ("float32", "bfloat16")
        for shards in (1, SHARDS)
        for case in CASES
    ]


@pytest.mark.parametrize(("case", "target", "shards", "dtype"), matrix())
def test_compiles(case: Case, target: Target, shards: int, dtype: str) -> None:
    compiled = compile_case(case, target, shards=shards, dtype=jnp.dtype(dtype))
    found = program(compiled, target)
    if shards == 1 or case.entry.kind in ("fill", "relaxed"):
        assert not found.collectives
    else:
        assert found.collectives
    assert not too_large(found, shards)


@pytest.mark.parametrize("target", [pytest.param(t, marks=needs(t), id=str(t)) for t in PODS])
@pytest.mark.parametrize("case", [c for c in CASES if draws(c) or c.label == "top_p_mask"], ids=str)
def test_compiles_for_256_devices(case: Case, target: Target) -> None:
    compiled = compile_case(case, target, rows=ROWS, shards=COLUMNS, batch=ROWS * BATCH)
    found = program(compiled, target)
    assert found.collectives
    assert not too_large(found, COLUMNS)
