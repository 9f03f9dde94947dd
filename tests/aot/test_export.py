"""`jax.export` lowers every function for all platforms at once, and what it wrote can be read back
and called. No compiler for the platforms is needed."""

import chex
import jax
import jax.numpy as jnp
import pytest
from jax import export

from tests.aot.cases import CASES, Case
from tests.aot.targets import EXPORTED
from tests.rows import stacked

pytest.importorskip("flatbuffers", reason="needs the dependency group aot")

_, LOGITS = stacked(1000)


@pytest.mark.parametrize(
    "dtype",
    ["float32", pytest.param("bfloat16", marks=[pytest.mark.slow, pytest.mark.aot_full])],
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_round_trip(case: Case, dtype: str) -> None:
    x = jnp.asarray(LOGITS, dtype)
    rows = jnp.arange(len(LOGITS)) % 3
    key = jax.random.key(5)
    numbers = {
        name: jnp.asarray(case.entry.settings[name], jnp.float32)[rows] for name in case.settings
    }
    function = jax.jit(case.call)
    arguments = (x, x > 0, key, numbers)
    written = export.export(function, platforms=EXPORTED)(*arguments).serialize()
    again = export.deserialize(bytearray(written))
    assert set(again.platforms) == set(EXPORTED)
    got, want = again.call(*arguments), function(*arguments)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if jnp.issubdtype(one.dtype, jnp.floating):
            # The program for several platforms is fused in another way, and rounds in another.
            chex.assert_trees_all_close(one, other, rtol=1e-4, atol=1e-6)
        else:
            chex.assert_trees_all_equal(one, other)
