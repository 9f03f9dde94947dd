"""What the library is measured against, written as it is written elsewhere."""

from collections.abc import Callable
from contextlib import suppress
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def bisect_top_p(logits: Array, p: Array) -> Array:
    """Mask of top-p by 31 sweeps over the probabilities, a bit of the cut each."""
    probabilities = jax.nn.softmax(logits)
    low = jnp.zeros((*logits.shape[:-1], 1), jnp.int32)
    high = jnp.full_like(low, 0x3F800001)  # the next float after 1

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) >> 1
        cut = lax.bitcast_convert_type(middle, jnp.float32)
        mass = jnp.sum(jnp.where(probabilities >= cut, probabilities, 0), axis=-1, keepdims=True)
        enough = mass >= p[:, None]
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = lax.fori_loop(0, 31, halve, (low, high))
    return probabilities >= lax.bitcast_convert_type(low, jnp.float32)


def bisect_top_k(logits: Array, k: Array) -> Array:
    """Mask of top-k by 32 sweeps over the logits' bits, in the order of the floats."""
    bits = lax.bitcast_convert_type(logits, jnp.int32)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    cut = jnp.full((*logits.shape[:-1], 1), -(2**31), jnp.int32)

    def set_bit(i: int, cut: Array) -> Array:
        candidate = cut + (jnp.int32(1) << (31 - i))
        enough = jnp.sum(keys >= candidate, axis=-1, keepdims=True) >= k[:, None]
        return jnp.where(enough, candidate, cut)

    return keys >= lax.fori_loop(0, 32, set_bit, cut)


def bisect_and_categorical(
    key: Array,
    logits: Array,
    *,
    temperature: Array,
    top_k: Array | None = None,
    top_p: Array | None = None,
    min_p: Array | None = None,
) -> Array:
    """A serving engine's sampler: bisections, then `jax.random.categorical`."""
    logits = logits / temperature[:, None]
    if top_k is not None:
        logits = jnp.where(bisect_top_k(logits, top_k), logits, -jnp.inf)
    if top_p is not None:
        logits = jnp.where(bisect_top_p(logits, top_p), logits, -jnp.inf)
    if min_p is not None:
        floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(min_p[:, None])
        logits = jnp.where(logits >= floor, logits, -jnp.inf)
    return jax.random.categorical(key, logits)


def sort_top_p(logits: Array, p: Array) -> Array:
    """Mask of top-p by a sort, as Hugging Face's warper does it."""
    order = jnp.argsort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1))
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = before < p[:, None]
    rows = jnp.arange(logits.shape[0])[:, None]
    return jnp.zeros(logits.shape, bool).at[rows, order].set(kept)


def sort_top_k(logits: Array, k: Array) -> Array:
    """Mask of top-k by a sort."""
    descending = -jnp.sort(-logits, axis=-1)
    return logits >= jnp.take_along_axis(descending, k[:, None] - 1, axis=-1)


def sort_sparsemax(logits: Array) -> Array:
    """Projection onto the simplex by a sort, as optax and jaxopt do it."""
    descending = -jnp.sort(-logits, axis=-1)
    size = jnp.arange(1, logits.shape[-1] + 1, dtype=logits.dtype)
    thresholds = (jnp.cumsum(descending, axis=-1) - 1) / size
    last = jnp.sum(descending > thresholds, axis=-1, keepdims=True) - 1
    return jnp.maximum(logits - jnp.take_along_axis(thresholds, last, axis=-1), 0)


def bisect_entmax(logits: Array, alpha: Array) -> Array:
    """Entmax by 50 halvings, as the entmax package does it."""
    kappa = alpha[:, None] - 1
    scaled = kappa * logits
    top = jnp.max(scaled, axis=-1, keepdims=True)

    def power(tau: Array) -> Array:
        return jnp.maximum(scaled - tau, 0) ** (1 / kappa)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, width = bounds
        middle = low + width / 2
        enough = jnp.sum(power(middle), axis=-1, keepdims=True) >= 1
        return jnp.where(enough, middle, low), width / 2

    width = 1 - (1 / logits.shape[-1]) ** kappa
    low, _ = lax.fori_loop(0, 50, halve, (top - 1, width))
    p = power(low)
    return p / jnp.sum(p, axis=-1, keepdims=True)


PACKAGES = ("distrax", "optax", "torch", "transformers")
"""Whose functions are measured too where they are installed."""


def versions() -> str:
    """The installed packages among them: ", optax 0.2.8, ...", or nothing."""
    found = ""
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found += f", {package} {metadata.version(package)}"
    return found


def installed(rows: int) -> dict[str, dict[str, Callable[[np.ndarray], Callable[[], object]]]]:
    """Peers of other packages, where installed: by job and name, a call made from the logits."""
    found: dict[str, dict[str, Callable[[np.ndarray], Callable[[], object]]]] = {}

    def add(job: str, name: str, prepare: Callable[[np.ndarray], Callable[[], object]]) -> None:
        found.setdefault(job, {})[name] = prepare

    with suppress(ImportError):
        import distrax

        def draw(logits: np.ndarray) -> Callable[[], object]:
            key = jax.random.key(0)
            sample = jax.jit(lambda x: distrax.Categorical(logits=x).sample(seed=key))
            x = jnp.asarray(logits)
            return lambda: jax.block_until_ready(sample(x))

        add("sample", "distrax", draw)
    with suppress(ImportError):
        import optax

        def loss(logits: np.ndarray) -> Callable[[], object]:
            labels = jnp.zeros(rows, jnp.int32)
            cross_entropy = jax.jit(
                lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(x, labels)
            )
            x = jnp.asarray(logits)
            return lambda: jax.block_until_ready(cross_entropy(x))

        add("logsumexp", "optax cross-entropy", loss)

        def project(logits: np.ndarray) -> Callable[[], object]:
            projection = jax.jit(jax.vmap(optax.projections.projection_simplex))
            x = jnp.asarray(logits)
            return lambda: jax.block_until_ready(projection(x))

        add("sparsemax", "optax projection", project)
    with suppress(ImportError):
        import torch

        def softmax(logits: np.ndarray) -> Callable[[], object]:
            x = torch.from_numpy(logits.copy())
            return lambda: torch.softmax(x, -1)

        add("softmax", "torch", softmax)
        with suppress(ImportError):
            from transformers import (
                MinPLogitsWarper,
                TemperatureLogitsWarper,
                TopKLogitsWarper,
                TopPLogitsWarper,
            )

            def warped(*warpers: Callable[..., object]) -> Callable[..., Callable[[], object]]:
                def prepare(logits: np.ndarray) -> Callable[[], object]:
                    x = torch.from_numpy(logits.copy())

                    def call() -> object:
                        scores = x
                        for warper in warpers:
                            scores = warper(None, scores)
                        return torch.multinomial(torch.softmax(scores, -1), 1)

                    return call

                return prepare

            scale, top_p = TemperatureLogitsWarper(0.8), TopPLogitsWarper(0.95)
            add("sample, top-p", "transformers", warped(scale, top_p))
            three = warped(scale, TopKLogitsWarper(50), top_p, MinPLogitsWarper(0.02))
            add("sample, top-k, top-p, min-p", "transformers", three)
    return found
