"""The jobs: what is called, against which peers, and what it is to reach."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

import jsoftmax
import peers

Function = Callable[[Array], Array]


COUNTED = {
    "sample": "sample",
    "sample, top-p": "sample, temperature, top_p",
    "sample, top-k, top-p, min-p": "sample, temperature, top_k, top_p, min_p",
    "sample_and_log_prob": "sample_and_log_prob",
    "sample_and_log_prob, top-p": "sample_and_log_prob, temperature, top_p",
    "sample_and_log_prob, top-k, top-p, min-p": (
        "sample_and_log_prob, temperature, top_k, top_p, min_p"
    ),
    "top_p_mask, p = 0.95": "top_p_mask",
    "top_k_mask, k = 50": "top_k_mask",
    "sparsemax": "sparsemax",
    "entmax, alpha = 1.5": "entmax",
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "logsumexp": "logsumexp",
}
"""The functions of hardware.py that do the same, by job."""


class Job(NamedTuple):
    """Functions of the logits, timed side by side."""

    ours: Function
    peers: dict[str, Function]


def make(rows: int, size: int) -> dict[str, Job]:
    """The jobs for logits of this shape; every setting is an array, one number per row."""
    key = jax.random.key(0)

    def each(value: float) -> Array:
        return jnp.full(rows, value)

    k, p, min_p, t = jnp.full(rows, 50), each(0.95), each(0.02), each(0.8)
    top_p = {"temperature": t, "top_p": p}
    all_three = top_p | {"top_k": k, "min_p": min_p}
    categorical = {"categorical": lambda x: jax.random.categorical(key, x)}

    def sampler(settings: dict[str, Array]) -> Job:
        return Job(
            lambda x: jsoftmax.sample(key, x, **settings),
            {"bisection": lambda x: peers.bisect_and_categorical(key, x, **settings)},
        )

    def with_log_prob(settings: dict[str, Array]) -> Job:
        return Job(
            lambda x: jsoftmax.sample_and_log_prob(key, x, **settings),
            {"sample": lambda x: jsoftmax.sample(key, x, **settings)},
        )

    cotangent = jnp.cos(jnp.arange(rows * size, dtype=jnp.float32)).reshape(rows, size)

    def pullback(function: Function) -> Function:
        def both(x: Array, cotangent: Array) -> Array:
            y, vjp = jax.vjp(function, x)
            return vjp(cotangent if y.ndim == x.ndim else cotangent[:, 0])[0]

        # An operand, not a constant, which the compiler would work on.
        return partial(jax.jit(both), cotangent=cotangent)

    maps = {
        "softmax": (jsoftmax.softmax, jax.nn.softmax),
        "log_softmax": (jsoftmax.log_softmax, jax.nn.log_softmax),
        "logsumexp": (jsoftmax.logsumexp, lambda x: logsumexp(x, axis=-1)),
    }
    return {
        "sample": Job(lambda x: jsoftmax.sample(key, x), categorical),
        "sample, top-p": sampler(top_p),
        "sample, top-k, top-p, min-p": sampler(all_three),
        "sample_and_log_prob": with_log_prob({}),
        "sample_and_log_prob, top-p": with_log_prob(top_p),
        "sample_and_log_prob, top-k, top-p, min-p": with_log_prob(all_three),
        "top_p_mask, p = 0.9": Job(
            lambda x: jsoftmax.top_p_mask(x, each(0.9)),
            {
                "bisection": lambda x: peers.bisect_top_p(x, each(0.9)),
                "sort": lambda x: peers.sort_top_p(x, each(0.9)),
            },
        ),
        "top_p_mask, p = 0.95": Job(
            lambda x: jsoftmax.top_p_mask(x, p),
            {"bisection": lambda x: peers.bisect_top_p(x, p)},
        ),
        "top_k_mask, k = 50": Job(
            lambda x: jsoftmax.top_k_mask(x, k),
            {
                "bisection": lambda x: peers.bisect_top_k(x, k),
                "sort": lambda x: peers.sort_top_k(x, k),
            },
        ),
        "top_k_mask, k = 500": Job(
            lambda x: jsoftmax.top_k_mask(x, 10 * k),
            {"bisection": lambda x: peers.bisect_top_k(x, 10 * k)},
        ),
        "sparsemax": Job(jsoftmax.sparsemax, {"sort": peers.sort_sparsemax}),
        "entmax, alpha = 1.5": Job(
            jsoftmax.entmax, {"bisection": lambda x: peers.bisect_entmax(x, each(1.5))}
        ),
        "entmax, alpha = 1.25 a row": Job(
            lambda x: jsoftmax.entmax(x, alpha=each(1.25)),
            {"bisection": lambda x: peers.bisect_entmax(x, each(1.25))},
        ),
        "sparsemax, vjp": Job(
            pullback(jsoftmax.sparsemax), {"sort": pullback(peers.sort_sparsemax)}
        ),
        "entmax, alpha = 1.5, vjp": Job(
            pullback(jsoftmax.entmax), {"softmax, vjp": pullback(jsoftmax.softmax)}
        ),
        **{name: Job(ours, {"jax": theirs}) for name, (ours, theirs) in maps.items()},
        **{
            f"{name}, vjp": Job(pullback(ours), {"jax": pullback(theirs)})
            for name, (ours, theirs) in maps.items()
        },
    }
