"""Every test runs in the strict world: no implicit dtype or rank promotion, eight CPU devices,
seeded keys."""

import gc
import hashlib
import os
from collections.abc import Iterator

# Before jax is imported: the tests are for CPU devices, whatever else is installed.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nor are pictures shown, where there is a display.
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import pytest

from tests import worlds

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

pytest.register_assert_rewrite("tests.compare", "tests.statistics")

# What a function means does not depend on how hard XLA tries: the modules that ask only that, with
# hundreds of programs, are compiled in half the time. Numerics, statistics and SmolLM2 are not.
QUICKLY_COMPILED = {
    "test_calibration",
    "test_checked",
    "test_collectives",
    "test_contracts",
    "test_distrax",
    "test_docs",
    "test_entmax",
    "test_entropy",
    "test_errors",
    "test_export",
    "test_gradients",
    "test_jax",
    "test_linear",
    "test_losses",
    "test_migration",
    "test_models",
    "test_online",
    "test_optax",
    "test_plain_jit",
    "test_platforms",
    "test_select",
    "test_sharded",
    "test_sparse",
    "test_testing",
    "test_torch",
}
# With --quick-compile all are, but for these, whose tolerances are those of whole optimisation.
WHOLLY_COMPILED = {"test_digits", "test_fenchel_young", "test_numerics"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thin",
        type=int,
        default=1,
        metavar="N",
        help="of the cases of each parametrised test, run the first and one in N of the others",
    )
    parser.addoption(
        "--part",
        type=int,
        default=1,
        metavar="N",
        help="of all cases of all tests run one in N, so that some tests have none",
    )
    parser.addoption(
        "--turn",
        default="",
        metavar="WORD",
        help="which part that is: by another word, another one",
    )
    parser.addoption(
        "--quick-compile",
        action="store_true",
        help="leave out XLA's expensive passes for nearly all tests: the slow ones take longer",
    )
    parser.addoption(
        "--world", metavar="NAME", help="stricter settings of jax for all: see tests/worlds.py"
    )
    parser.addoption(
        "--declared", action="store_true", help="in a world, only what is declared to fail there"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Here and not in a fixture: the modules of tests make arrays as they are imported.
    world: str | None = config.getoption("world")
    if world is None:
        return
    if world not in worlds.WORLDS:
        raise pytest.UsageError(f"--world: one of {', '.join(worlds.WORLDS)}, got {world}")
    worlds.enter(world)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    n: dict[str, int] = {name: config.getoption(name) for name in ("thin", "part")}
    for name, count in n.items():
        if count < 1:
            raise pytest.UsageError(f"--{name}: N must be at least 1, got {count}")
    world: str | None = config.getoption("world")
    turn: str = config.getoption("turn")
    left_out = worlds.declared(world) if world else {}
    seen: set[str] = set()
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        test = item.nodeid.partition("[")[0]
        impossible = worlds.is_declared(item.nodeid, left_out)
        # By name: a stride would meet the same value of an inner parameter again and again; and
        # other cases in each world.
        word = f"{turn}{world or ''}{item.nodeid}".encode()
        number = int.from_bytes(hashlib.blake2b(word, digest_size=4).digest())
        sure = item.get_closest_marker("whole") is not None or test not in seen
        leave_out = bool(number % n["part"] or (number % n["thin"] and not sure))
        if world and impossible != config.getoption("declared"):
            leave_out = True
        (dropped if leave_out else kept).append(item)
        seen.add(test)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out XLA's expensive passes, by the lists above."""
    name = request.module.__name__.rpartition(".")[2]
    nearly_all = request.config.getoption("quick_compile")
    quickly = name in QUICKLY_COMPILED or (nearly_all and name not in WHOLLY_COMPILED)
    jax.config.update("jax_disable_most_optimizations", quickly)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True, scope="module")
def no_program_outlives_its_module() -> Iterator[None]:
    """Give compiled programs back: each holds three memory maps, of which Linux allows a process
    65,530. The whole suite compiles more, and the compiler dies of it."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def key() -> jax.Array:
    """A typed PRNG key, the same in every test."""
    return jax.random.key(20261123)
