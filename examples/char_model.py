"""A small language model of characters, in Flax NNX, with the softmax of jsoftmax."""

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
    num_layers: int = 4
    width: int = 128
    num_heads: int = 4
    window: int = 128
    """How many characters attention sees, its own among them."""

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads


class KVCache(NamedTuple):
    """Keys and values of one layer, [batch, capacity, heads, head dim], filled from the left."""

    keys: Array
    values: Array


class Attention(nnx.Module):
    """Causal attention, in which what is farther away gets less (ALiBi), and each head has a
    temperature of its own to learn."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        heads, dim = config.num_heads, config.head_dim
        self.query_key_value = nnx.Linear(config.width, 3 * config.width, use_bias=False, rngs=rngs)
        self.output = nnx.Linear(
            config.width,
            config.width,
            use_bias=False,
            kernel_init=nnx.initializers.zeros,
            rngs=rngs,
        )
        self.query_norm = nnx.RMSNorm(dim, use_scale=False, rngs=rngs)
        self.key_norm = nnx.RMSNorm(dim, use_scale=False, rngs=rngs)
        self.temperature = nnx.Param(jnp.full((heads, 1), dim**0.5, jnp.float32))
        self.config = config

    def __call__(self, x: Array, start: Array, cache: KVCache | None) -> tuple[Array, KVCache]:
        batch, time, width = x.shape
        heads, dim = self.config.num_heads, self.config.head_dim
        mixed = self.query_key_value(x).reshape(batch, time, 3, heads, dim)
        queries, keys, values = jnp.moveaxis(mixed, 2, 0)
        queries, keys = self.query_norm(queries), self.key_norm(keys)
        places, key_places = start + jnp.arange(time), start + jnp.arange(time)
        if cache is not None:
            keys = jax.lax.dynamic_update_slice_in_dim(cache.keys, keys, start, axis=1)
            values = jax.lax.dynamic_update_slice_in_dim(cache.values, values, start, axis=1)
            key_places = jnp.arange(keys.shape[1])
        # What is not written yet lies in the future of every query.
        distance = places[:, None] - key_places[None]
        seen = (distance >= 0) & (distance < self.config.window)
        temperature = self.temperature[...]  # [heads, 1]: one for all queries of a head
        # From 1/2 to 1/128: the first head looks at what is next to it, the last far back.
        slope = temperature * 2.0 ** -jnp.linspace(1.0, 7.0, heads)[:, None]
        farther = slope[..., None] * distance[None].astype(x.dtype)  # [heads, time, keys]
        scores = jnp.einsum("bthd,bshd->bhts", queries, keys) - farther[None]
        weights = jsoftmax.softmax(scores, where=seen, temperature=temperature)
        attended = jnp.einsum("bhts,bshd->bthd", weights, values).reshape(batch, time, width)
        return self.output(attended), KVCache(keys, values)


class Block(nnx.Module):
    """One layer: attention, then an MLP, each on normalised input and added to the stream."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        width = config.width
        self.attention_norm = nnx.RMSNorm(width, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(
            4 * width, width, use_bias=False, kernel_init=nnx.initializers.zeros, rngs=rngs
        )

    def __call__(self, x: Array, start: Array, cache: KVCache | None) -> tuple[Array, KVCache]:
        attended, cache = self.attention(self.attention_norm(x), start, cache)
        x = x + attended
        return x + self.down(jnp.square(nnx.relu(self.up(self.mlp_norm(x))))), cache


class CharTransformer(nnx.Module):
    """Ids of characters in, logits of the next one out."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(config.vocab_size, config.width, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = nnx.RMSNorm(config.width, rngs=rngs)
        self.output = nnx.Linear(config.width, config.vocab_size, use_bias=False, rngs=rngs)
        self.config = config

    def __call__(
        self, tokens: Array, start: ArrayLike = 0, cache: list[KVCache] | None = None
    ) -> tuple[Array, list[KVCache]]:
        """Returns the logits after each character, and the cache with these written to it.

        Args:
            tokens: ids, [batch, time].
            start: the position of the first of them in the text.
            cache: keys and values of the characters before; None where there are none.

        Returns:
            Logits, [batch, time, vocabulary], and the cache.
        """
        x = self.embedding(tokens)
        filled = []
        for i, block in enumerate(self.blocks):
            x, layer = block(x, jnp.asarray(start), None if cache is None else cache[i])
            filled.append(layer)
        return self.output(self.norm(x)), filled

    def new_cache(self, batch: int, capacity: int) -> list[KVCache]:
        """Returns an empty cache with room for `capacity` characters in each of `batch` rows."""
        shape = (batch, capacity, self.config.num_heads, self.config.head_dim)
        return [KVCache(jnp.zeros(shape), jnp.zeros(shape)) for _ in self.blocks]
