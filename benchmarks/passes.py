"""How often each function reads the logits on a TPU, compiled for one without the hardware.

    uv run --group tpu benchmarks/passes.py

For each function: the passes over the logits that its compiled program makes outside loops, in one
round of its loops, and in all, with the rounds that the loops take on real logits (on the CPU). A
pass is a read or a write of as many bytes as the logits have, by XLA's cost analysis of the program
for a TPU v5e; only programs of arrays larger than the chip's on-chip memory are counted exactly, so
the shape is [64, 1048576]. Compiled, not run.
"""

import os

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import inputs
import jsoftmax

SHAPE = (64, 1 << 20)


@contextmanager
def loops_of(rounds: int) -> Iterator[None]:
    """Every while loop that is traced meanwhile is its body, written out so many times."""
    loop = lax.while_loop

    def unrolled(_: object, body: Callable[[object], object], state: object) -> object:
        for _ in range(rounds):
            state = body(state)
        return state

    lax.while_loop = unrolled
    try:
        yield
    finally:
        lax.while_loop = loop


@contextmanager
def counted(counts: list[Array]) -> Iterator[None]:
    """Every while loop that runs eagerly meanwhile appends how many rounds it made."""
    loop = lax.while_loop

    def counting(
        condition: Callable[[object], Array], body: Callable[[object], object], state: object
    ) -> object:
        rounds = 0
        while condition(state):
            state = body(state)
            rounds += 1
        counts.append(rounds)
        return state

    lax.while_loop = counting
    try:
        yield
    finally:
        lax.while_loop = loop


def traffic(function: Callable[[Array], object], rounds: int) -> float:
    """Bytes read and written by the program with its loops unrolled, in arrays of logits."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    sharding = NamedSharding(Mesh(np.array(topology.devices[:1]), "x"), PartitionSpec())
    logits = jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=sharding)
    jax.clear_caches()
    with loops_of(rounds):
        compiled = jax.jit(function).lower(logits).compile()
    return compiled.cost_analysis()["bytes accessed"] / (4 * SHAPE[0] * SHAPE[1])


def rounds_on(function: Callable[[Array], object], logits: np.ndarray) -> list[int]:
    counts: list[int] = []
    jax.clear_caches()
    with counted(counts), jax.disable_jit():
        function(jnp.asarray(logits))
    return counts


def functions(rows: int) -> dict[str, Callable[[Array], object]]:
    key = jax.random.key(1)
    t, k, p = jnp.full(rows, 0.8), jnp.full(rows, 50), jnp.full(rows, 0.95)
    min_p = jnp.full(rows, 0.02)
    return {
        "softmax": jsoftmax.softmax,
        "log_softmax": jsoftmax.log_softmax,
        "logsumexp": jsoftmax.logsumexp,
        "top_p_mask": lambda x: jsoftmax.top_p_mask(x, p),
        "top_k_mask": lambda x: jsoftmax.top_k_mask(x, k),
        "top_k_mask, k = 500": lambda x: jsoftmax.top_k_mask(x, 10 * k),
        "sample": lambda x: jsoftmax.sample(key, x),
        "sample, top-p": lambda x: jsoftmax.sample(key, x, temperature=t, top_p=p),
        "sample, top-k, top-p, min-p": lambda x: jsoftmax.sample(
            key, x, temperature=t, top_k=k, top_p=p, min_p=min_p
        ),
        "sample_and_log_prob": lambda x: jsoftmax.sample_and_log_prob(key, x),
    }


def main() -> None:
    real = inputs.smollm2()
    headers = ["function", "outside loops", "a round", "rounds, [1]", "rounds, [64]"]
    headers += ["passes, [1]", "passes, [64]"]
    lines = ["| " + " | ".join(headers) + " |", "|---" * len(headers) + "|"]
    for name, function in functions(SHAPE[0]).items():
        none = traffic(function, 0)
        a_round = traffic(function, 1) - none
        one = sum(rounds_on(functions(1)[name], real[32:33]))
        many = sum(rounds_on(functions(64)[name], real))
        cells = [f"{none:.2f}", f"{a_round:.2f}", str(one), str(many)]
        cells += [f"{none + one * a_round:.1f}", f"{none + many * a_round:.1f}"]
        lines.append("| " + " | ".join([name, *cells]) + " |")
        print(lines[-1], flush=True)
    target = f"jax {jax.__version__}, TPU v5e, {list(SHAPE)} float32: compiled, not run"
    about = f"{target}. benchmarks/passes.py"
    out = Path("benchmarks/results/tpu-passes.md")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([about, "", *lines]) + "\n")


if __name__ == "__main__":
    main()
