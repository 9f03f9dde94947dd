"""How often compiled programs go through the logits, with the rounds that real logits take."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import hardware
import loops
from tests import real_logits
from tests.aot.cases import BATCH, CASES, VOCABULARY, program
from tests.aot.targets import Target, by_name
from tests.aot.test_compiles import needs

MOST = {
    "softmax": 4.1,
    "log_softmax": 4.1,
    "entropy": 2.1,
    "sample": 2.3,
    "sample, temperature, top_p": 4,
    "top_k_mask": 10,
    "top_p_mask": 10,
    "typical_mask": 10,
    "eta_mask": 3.4,
    "min_p_mask": 2.4,
}
"""In arrays of logits read and written; a bisection reads 33."""


@pytest.mark.parametrize(
    "target",
    [pytest.param(t, marks=needs(t), id=str(t)) for t in map(by_name, ("TPU v5e", "H100"))],
)
@pytest.mark.parametrize("label", MOST)
def test_passes(label: str, target: Target) -> None:
    (case,) = (case for case in CASES if case.label == label)
    x = real_logits.load()
    numbers = hardware.settings(case, len(x), hostile=False)
    arguments = (jnp.asarray(x), jnp.asarray(x > 0), jax.random.key(1), numbers)
    counts = loops.rounds(case.call, *arguments, platform=target.platform)
    # On a TPU so many rows that no on-chip memory holds them.
    batch = hardware.BEYOND if target.platform == "tpu" else BATCH
    found = program(hardware.compile_named(case, target, batch=batch), target)
    assert hardware.traffic(found, counts) / (4 * batch * VOCABULARY) <= MOST[label]
