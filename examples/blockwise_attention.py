"""Causal attention over a long sequence, in memory that grows with its length, not its square.

    uv run --group examples examples/blockwise_attention.py [--length 4096] [--block 512]

Queries are taken block by block, and for each of them the keys: `jsoftmax.OnlineSoftmax` merges the
parts. The result, and its gradient, are those of dense attention, which is compiled and run beside
it; so is attention by sparsemax. Each head has a sink, a learnt logit that takes mass and gives
nothing.
"""

import argparse
import time
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

import jsoftmax


class Attend(Protocol):
    """Attention of a block of queries, [batch, heads, block, features], to all keys.

    The first query stands at `start` of the sequence and sees the keys up to its own place.
    """

    def __call__(
        self, query: Array, key: Array, value: Array, sink: Array, start: Array, block: int
    ) -> Array: ...


class BlockwiseAttention(nnx.Module):
    """Multi-head causal attention with a sink in each head."""

    def __init__(self, width: int, num_heads: int, *, block: int, rngs: nnx.Rngs) -> None:
        self.num_heads, self.block = num_heads, block
        self.qkv = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.sink = nnx.Param(jnp.zeros(num_heads))

    def __call__(self, x: Array, attend: Attend | None = None) -> Array:
        """[batch, time, width] to the same, with one of the ways to attend below."""
        batch, time_, width = x.shape
        heads = self.qkv(x).reshape(batch, time_, 3, self.num_heads, width // self.num_heads)
        query, key, value = jnp.moveaxis(heads, (2, 3), (0, 2))
        query = query * query.shape[-1] ** -0.5
        attended = by_query_blocks(
            attend or softmax_by_blocks, query, key, value, self.sink[...], self.block
        )
        return self.out(jnp.moveaxis(attended, 1, 2).reshape(batch, time_, width))


def by_query_blocks(
    attend: Attend, query: Array, key: Array, value: Array, sink: Array, block: int
) -> Array:
    """Attention of all queries, block after block; the backward pass computes each again."""
    length = query.shape[2]
    number = -(-length // block)
    padding = [(0, 0), (0, 0), (0, number * block - length), (0, 0)]
    # What is added at the end lies after every query, which no query sees.
    query, key, value = (jnp.pad(x, padding) for x in (query, key, value))
    blocks = jnp.moveaxis(query.reshape(*query.shape[:2], number, block, -1), 2, 0)

    @jax.checkpoint
    def one(numbered: tuple[Array, Array]) -> Array:
        i, queries = numbered
        return attend(queries, key, value, sink, i * block, block)

    attended = lax.map(one, (jnp.arange(number), blocks))
    return jnp.moveaxis(attended, 0, 2).reshape(query.shape)[:, :, :length]


def softmax_by_blocks(
    query: Array, key: Array, value: Array, sink: Array, start: Array, block: int
) -> Array:
    """Softmax over the keys and the sink, a block of keys at a time."""
    batch, heads, queries, features = query.shape
    place = start + jnp.arange(queries)
    blocks = [x.reshape(batch, heads, -1, block, features) for x in (key, value)]

    @jax.checkpoint
    def meet(
        state: jsoftmax.OnlineSoftmax, numbered: tuple[Array, Array, Array]
    ) -> tuple[jsoftmax.OnlineSoftmax, None]:
        i, keys, values = numbered
        seen = (i * block + jnp.arange(block))[None] <= place[:, None]

        def update() -> jsoftmax.OnlineSoftmax:
            return state.update(query @ keys.mT, values, where=seen)

        # A block of keys that all come later is left out.
        return lax.cond(i * block <= start + queries - 1, update, lambda: state), None

    sinks = jnp.broadcast_to(sink[:, None, None], (batch, heads, queries, 1))
    state = jsoftmax.OnlineSoftmax.of(sinks, jnp.zeros((1, features), value.dtype))
    numbered = (jnp.arange(blocks[0].shape[2]), *(jnp.moveaxis(x, 2, 0) for x in blocks))
    state, _ = lax.scan(meet, state, numbered)
    return state.finish().astype(query.dtype)


def at_once(attention: Callable[..., Array]) -> Attend:
    """Attention from all scores of a block of queries, [block, time], with this map."""

    def attend(
        query: Array, key: Array, value: Array, sink: Array, start: Array, block: int
    ) -> Array:
        del block
        batch, heads, queries, _ = query.shape
        scores = query @ key.mT
        seen = jnp.arange(key.shape[2])[None] <= (start + jnp.arange(queries))[:, None]
        sinks = jnp.broadcast_to(sink[:, None, None], (batch, heads, queries, 1))
        allowed = jnp.concatenate([seen, jnp.ones((queries, 1), bool)], axis=-1)
        weights = attention(jnp.concatenate([scores, sinks], axis=-1), where=allowed)
        return weights[..., :-1] @ value

    return attend


softmax_at_once = at_once(jsoftmax.softmax)
sparsemax_at_once = at_once(jsoftmax.sparsemax)
"""Most keys get a weight of exactly 0. The threshold of a row needs all its scores, so that memory
is linear in the length by the blocks of queries alone."""


def measure(layer: BlockwiseAttention, x: Array, attend: Attend) -> tuple[float, float, Array]:
    """Megabytes of temporaries and seconds of loss and gradient, and the gradient of x."""

    def loss(layer: BlockwiseAttention, x: Array) -> Array:
        return jnp.mean(jnp.square(layer(x, attend)))

    gradient: Callable[..., Array] = jax.grad(loss, 1)
    compiled = jax.jit(gradient).lower(layer, x).compile()
    jax.block_until_ready(compiled(layer, x))
    start = time.perf_counter()
    result = jax.block_until_ready(compiled(layer, x))
    seconds = time.perf_counter() - start
    return compiled.memory_analysis().temp_size_in_bytes / 1e6, seconds, result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Blockwise beside dense attention.")
    parser.add_argument("--length", type=int, default=4096, help="tokens (default: 4096)")
    parser.add_argument("--block", type=int, default=512, help="queries, and keys, of a block")
    arguments = parser.parse_args(argv)
    if arguments.length < 1 or arguments.block < 1:
        parser.error("--length and --block must be at least 1")
    layer = BlockwiseAttention(128, 4, block=arguments.block, rngs=nnx.Rngs(0))
    dense = BlockwiseAttention(128, 4, block=arguments.length, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, arguments.length, 128))
    gradients = []
    for name, module, attend in (
        ("softmax, blockwise", layer, softmax_by_blocks),
        ("softmax, dense", dense, softmax_at_once),
        ("sparsemax, blockwise", layer, sparsemax_at_once),
        ("sparsemax, dense", dense, sparsemax_at_once),
    ):
        megabytes, seconds, gradient = measure(module, x, attend)
        gradients.append(gradient)
        print(f"{name:21} {megabytes:8.1f} MB of temporaries  {seconds:6.2f} s with the gradient")
    for name, got, want in zip(
        ("softmax", "sparsemax"), gradients[::2], gradients[1::2], strict=True
    ):
        apart = jnp.max(jnp.abs(got - want)) / jnp.max(jnp.abs(want))
        print(f"{name}: gradients differ by {apart:.1e}")


if __name__ == "__main__":
    main()
