"""Every test runs in the strict world: no implicit dtype or rank promotion, eight CPU devices,
seeded keys."""

import os
from collections.abc import Iterator

# Before jax is imported: the tests are for CPU devices, whatever else is installed.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nor are pictures shown, where there is a display.
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

pytest.register_assert_rewrite("tests.compare", "tests.statistics")

# What a function means does not depend on how hard XLA tries: the modules that ask only that, with
# hundreds of programs, are compiled in half the time. Numerics, statistics and SmolLM2 are not.
QUICKLY_COMPILED = {
    "test_calibration",
    "test_collectives",
    "test_contracts",
    "test_entropy",
    "test_errors",
    "test_export",
    "test_gradients",
    "test_losses",
    "test_models",
    "test_online",
    "test_plain_jit",
    "test_relaxed",
    "test_select",
    "test_sharded",
}


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out XLA's expensive passes in the modules named above."""
    name = request.module.__name__.rpartition(".")[2]
    jax.config.update("jax_disable_most_optimizations", name in QUICKLY_COMPILED)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def key() -> jax.Array:
    """A typed PRNG key, the same in every test."""
    return jax.random.key(20261123)
