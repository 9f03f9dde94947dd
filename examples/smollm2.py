"""SmolLM2-135M-Instruct, a small chat model, in Flax NNX, with the softmax of jsoftmax."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

import jsoftmax


class Config(NamedTuple):
    """The sizes of a model."""

    vocab_size: int
    context_length: int
    num_layers: int
    width: int
    mlp_width: int
    num_heads: int
    num_kv_heads: int
    norm_epsilon: float
    rope_base: float

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads


class KVCache(NamedTuple):
    """Keys and values of one layer, [batch, capacity, kv head, head dim], filled from the left."""

    keys: Array
    values: Array


def rotate(x: Array, positions: Array, base: float) -> Array:
    """Applies rotary position embedding (RoPE) to x, [batch, time, ..., head dim].

    Neighbours (2i, 2i + 1) make a pair: the order in which a GGUF file keeps the query and key
    weights of this family. (The Hugging Face order pairs i with i + head dim / 2.)
    """
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    frequencies = base ** -jnp.linspace(0.0, 1.0, pairs.shape[-2], endpoint=False)
    angles = jnp.outer(positions.astype(x.dtype), frequencies)
    angles = jnp.expand_dims(angles, (0, *range(2, x.ndim - 1)))
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    even, odd = pairs[..., 0], pairs[..., 1]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


class Attention(nnx.Module):
    """Causal self-attention in which groups of query heads share one key and value head."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        # One matrix for all three: on a CPU a step of one token runs, and compiles, a fifth faster.
        kv_width = config.num_kv_heads * config.head_dim
        self.query_key_value = nnx.Linear(
            config.width, config.width + 2 * kv_width, use_bias=False, rngs=rngs
        )
        self.output = nnx.Linear(config.width, config.width, use_bias=False, rngs=rngs)
        self.splits = (config.width, config.width + kv_width)
        self.config = config

    def __call__(self, x: Array, positions: Array, cache: KVCache | None) -> tuple[Array, KVCache]:
        batch, time, width = x.shape
        heads, dim, base = self.config.num_kv_heads, self.config.head_dim, self.config.rope_base
        queries, keys, values = jnp.split(self.query_key_value(x), self.splits, axis=-1)
        queries = rotate(queries.reshape(batch, time, heads, -1, dim), positions, base)
        keys = rotate(keys.reshape(batch, time, heads, dim), positions, base)
        values = values.reshape(batch, time, heads, dim)
        key_positions = positions
        if cache is not None:
            keys = jax.lax.dynamic_update_slice_in_dim(cache.keys, keys, positions[0], axis=1)
            values = jax.lax.dynamic_update_slice_in_dim(cache.values, values, positions[0], axis=1)
            key_positions = jnp.arange(keys.shape[1])
        scores = jnp.einsum("btkgd,bskd->bkgts", queries, keys) / dim**0.5
        # What a query may see. Unwritten cache entries are masked too: all lie in its future.
        causal_mask = key_positions[None, :] <= positions[:, None]
        weights = jsoftmax.softmax(scores, where=causal_mask)
        mixed = jnp.einsum("bkgts,bskd->btkgd", weights, values).reshape(batch, time, width)
        return self.output(mixed), KVCache(keys, values)


class MLP(nnx.Module):
    """The gated feed-forward network known as SwiGLU."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.gate_up = nnx.Linear(config.width, 2 * config.mlp_width, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(config.mlp_width, config.width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
        return self.down(nnx.silu(gate) * up)


class Block(nnx.Module):
    """One layer: attention, then the MLP, each on normalised input and added to the stream."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.RMSNorm(config.width, epsilon=config.norm_epsilon, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(config.width, epsilon=config.norm_epsilon, rngs=rngs)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(self, x: Array, positions: Array, cache: KVCache | None) -> tuple[Array, KVCache]:
        mixed, cache = self.attention(self.attention_norm(x), positions, cache)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), cache


class SmolLM2(nnx.Module):
    """The language model: token ids in, logits of the next token out."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(config.vocab_size, config.width, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = nnx.RMSNorm(config.width, epsilon=config.norm_epsilon, rngs=rngs)
        self.config = config

    def __call__(
        self, tokens: Array, start: ArrayLike = 0, cache: list[KVCache] | None = None
    ) -> tuple[Array, list[KVCache]]:
        """Returns the logits after each token, and the cache with these tokens written to it.

        Args:
            tokens: token ids, [batch, time].
            start: the position of the first of them in the text.
            cache: keys and values of the tokens before them; None where there are none.

        Returns:
            Logits, [batch, time, vocabulary], and the cache.
        """
        x, filled = self.features(tokens, start, cache)
        # The embedding is the output matrix too. (nnx.Embed.attend transposes it first, which on a
        # CPU can cost a step of one token more than all the layers do.)
        return jnp.einsum("btd,vd->btv", x, self.embedding.embedding[...]), filled

    def features(
        self, tokens: Array, start: ArrayLike, cache: list[KVCache] | None
    ) -> tuple[Array, list[KVCache]]:
        """Returns what the output layer reads, [batch, time, width], and the cache."""
        x = self.embedding(tokens)
        positions = jnp.asarray(start) + jnp.arange(tokens.shape[1])
        filled = []
        for i, block in enumerate(self.blocks):
            x, layer_cache = block(x, positions, None if cache is None else cache[i])
            filled.append(layer_cache)
        return self.norm(x), filled

    def new_cache(self, batch: int, capacity: int) -> list[KVCache]:
        """Returns an empty cache with room for `capacity` tokens in each of `batch` rows."""
        shape = (batch, capacity, self.config.num_kv_heads, self.config.head_dim)
        return [KVCache(jnp.zeros(shape), jnp.zeros(shape)) for _ in self.blocks]
