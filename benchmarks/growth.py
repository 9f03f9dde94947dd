"""How time grows with the vocabulary, of short rows too; memory; and how long programs compile."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jsoftmax
import peers

ROWS = 8
SIZES = (1 << 14, 1 << 17, 1 << 20)
ENTRIES = 1 << 19
SHORT_SIZES = (3, 10, 30, 100, 300, 1000)
SHORT_HEADERS = ["times as long as jax.nn's, V =", *map(str, SHORT_SIZES)]
HEADERS = ["job", "softmaxes at V = 16k", "128k", "1M", "1M / 16k", "temporaries, in inputs"]

Medians = Callable[[dict[str, Callable[[], object]], float], dict[str, float]]


def functions() -> dict[str, Callable[[Array], object]]:
    key = jax.random.key(0)

    def each(value: float) -> Array:
        return jnp.full(ROWS, value)

    top_p = {"temperature": each(0.8), "top_p": each(0.95)}
    all_three = top_p | {"top_k": jnp.full(ROWS, 50), "min_p": each(0.02)}
    return {
        "sample": lambda x: jsoftmax.sample(key, x),
        "sample, top-p": lambda x: jsoftmax.sample(key, x, **top_p),
        "sample, top-k, top-p, min-p": lambda x: jsoftmax.sample(key, x, **all_three),
        "sample_and_log_prob, top-p": lambda x: jsoftmax.sample_and_log_prob(key, x, **top_p),
        "top_p_mask, p = 0.9": lambda x: jsoftmax.top_p_mask(x, each(0.9)),
        "top_k_mask, k = 50": lambda x: jsoftmax.top_k_mask(x, jnp.full(ROWS, 50)),
        "top_k_mask, k = 500": lambda x: jsoftmax.top_k_mask(x, jnp.full(ROWS, 500)),
        "softmax": jsoftmax.softmax,
        "log_softmax": jsoftmax.log_softmax,
        "logsumexp": jsoftmax.logsumexp,
    }


def growth(medians: Medians, seconds: float) -> list[list[str]]:
    """A row for each function: its time in softmaxes at each size, and its temporary memory."""
    ratios: dict[str, list[float]] = {name: [] for name in functions()}
    memory: dict[str, float] = {}
    for size in SIZES:
        normal = np.random.default_rng(0).standard_normal((ROWS, size)).astype(np.float32)
        x = jnp.asarray(3 * normal)
        softmax = jax.jit(jax.nn.softmax)
        for name, function in functions().items():
            compiled = jax.jit(function).lower(x).compile()
            calls = {"ours": partial(_call, compiled, x), "softmax": partial(_call, softmax, x)}
            times = medians(calls, seconds)
            ratios[name].append(times["ours"] / times["softmax"])
            memory[name] = compiled.memory_analysis().temp_size_in_bytes / x.nbytes
    return [
        [name, *(f"{r:.2f}" for r in some), f"{some[-1] / some[0]:.2f}", f"{memory[name]:.2f}"]
        for name, some in ratios.items()
    ]


def short_rows(medians: Medians, seconds: float) -> list[list[str]]:
    """A row for each function: its time beside that of jax.nn, for rows of each size."""
    peers_of = {
        "softmax": (jsoftmax.softmax, jax.nn.softmax),
        "log_softmax": (jsoftmax.log_softmax, jax.nn.log_softmax),
        "logsumexp": (jsoftmax.logsumexp, partial(jax.nn.logsumexp, axis=-1)),
    }
    ratios: dict[str, list[str]] = {name: [] for name in peers_of}
    for size in SHORT_SIZES:
        shape = (ENTRIES // size, size)
        x = jnp.asarray(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
        for name, functions in peers_of.items():
            calls = {
                whose: partial(_call, jax.jit(function), x)
                for whose, function in zip(("ours", "theirs"), functions, strict=True)
            }
            times = medians(calls, seconds)
            ratios[name].append(f"{times['ours'] / times['theirs']:.2f}")
    return [[name, *some] for name, some in ratios.items()]


def _call(function: Callable[[Array], object], x: Array) -> object:
    return jax.block_until_ready(function(x))


def compile_times(repeats: int = 3) -> dict[str, float]:
    """Seconds to trace and compile the full sampler, and a serving engine's pipeline."""
    key = jax.random.key(0)
    settings = {
        "temperature": jnp.full(32, 0.8),
        "top_k": jnp.full(32, 50),
        "top_p": jnp.full(32, 0.95),
        "min_p": jnp.full(32, 0.02),
    }
    x = jnp.zeros((32, 128256))
    found: dict[str, list[float]] = {"sample": [], "bisection": []}
    for _ in range(repeats):
        for name, function in (
            ("sample", lambda x: jsoftmax.sample(key, x, **settings)),
            ("bisection", lambda x: peers.bisect_and_categorical(key, x, **settings)),
        ):
            jax.clear_caches()
            start = time.perf_counter()
            jax.jit(function).lower(x).compile()
            found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in found.items()}
