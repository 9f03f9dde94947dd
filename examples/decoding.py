"""Decoding: from a model and a prompt to a stream of tokens drawn by `jsoftmax.sample`."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jsoftmax
from smollm2 import KVCache, SmolLM2

# Prompts are read in chunks of this many tokens, so that no length of prompt compiles anew.
CHUNK = 64


class Settings(NamedTuple):
    """How each row draws its tokens; every field is an array, [batch]."""

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array


class Step(NamedTuple):
    """One token for each row of the batch."""

    tokens: np.ndarray  # Token ids, [batch].
    logits: Array  # What they were drawn from, [batch, vocabulary].
    running: np.ndarray  # False for a row whose text had ended before: its token means nothing.


def prefill(model: SmolLM2, cache: list[KVCache], tokens: Array, start: Array) -> list[KVCache]:
    """Reads tokens [batch, time] into the cache. Their logits are not needed and not computed."""
    return model(tokens, start, cache)[1]


def next_logits(
    model: SmolLM2, cache: list[KVCache], tokens: Array, position: Array
) -> tuple[Array, list[KVCache]]:
    """Reads a token per row: returns the logits of the next, [batch, vocabulary], and the cache."""
    logits, cache = model(tokens[:, None], position, cache)
    return logits[:, 0], cache


def decode(
    model: SmolLM2,
    cache: list[KVCache],
    tokens: Array,
    position: Array,
    key: Array,
    settings: Settings,
) -> tuple[Array, Array, list[KVCache]]:
    """Reads one token per row, then draws the next: returns it, the logits and the cache.

    The settings are traced like any other array: changing them compiles nothing.
    """
    logits, cache = next_logits(model, cache, tokens, position)
    key = jax.random.fold_in(key, position)
    return jsoftmax.sample(key, logits, **settings._asdict()), logits, cache


def chunks(tokens: Sequence[int], start: int = 0) -> Iterator[tuple[Array, Array]]:
    """Yields what `prefill` reads of one row, the last chunk padded, and the position of each."""
    for first in range(0, len(tokens), CHUNK):
        chunk = list(tokens[first : first + CHUNK])
        padded = jnp.asarray([chunk + [0] * (CHUNK - len(chunk))], jnp.int32)
        yield padded, jnp.int32(start + first)


class Decoder:
    """`prefill` and `decode`, compiled for a model, a batch size and a number of positions.

    Compiling needs shapes only: it can go on in one thread while weights load in another.
    """

    def __init__(self, abstract_model: SmolLM2, batch: int, positions: int):
        self.batch = batch
        # Prompts are read in whole chunks and the padding of the last one is written as well.
        self.capacity = -(-positions // CHUNK) * CHUNK

        def cache(rows: int) -> list[KVCache]:
            return jax.eval_shape(lambda: abstract_model.new_cache(rows, self.capacity))

        def ints(*shape: int) -> Array:
            return jnp.zeros(shape, jnp.int32)

        floats = jnp.zeros(batch)
        settings = Settings(temperature=floats, top_k=ints(batch), top_p=floats, min_p=floats)
        key = jax.random.key(0)
        lowered = [
            jax.jit(prefill, donate_argnames="cache").lower(
                abstract_model, cache(1), ints(1, CHUNK), ints()
            ),
            jax.jit(decode, donate_argnames="cache").lower(
                abstract_model, cache(batch), ints(batch), ints(), key, settings
            ),
        ]
        with ThreadPoolExecutor(len(lowered)) as executor:
            self._prefill, self._decode = executor.map(lambda program: program.compile(), lowered)

    def __call__(
        self,
        model: SmolLM2,
        prompt: Sequence[int],
        settings: Settings,
        *,
        key: Array,
        max_tokens: int,
        end_token: int,
    ) -> Iterator[Step]:
        """Yields steps until every row has drawn `end_token` or `max_tokens` are drawn."""
        # One row reads all of the prompt but its last token, which the first step of decode reads.
        *context, last = prompt
        cache = model.new_cache(1, self.capacity)
        for chunk, start in chunks(context):
            cache = self._prefill(model, cache, chunk, start)
        cache = jax.tree.map(lambda x: jnp.repeat(x, self.batch, axis=0), cache)
        tokens = jnp.full(self.batch, last, jnp.int32)
        running = np.full(self.batch, True)
        for position in range(len(context), len(context) + max_tokens):
            tokens, logits, cache = self._decode(
                model, cache, tokens, jnp.int32(position), key, settings
            )
            step = Step(np.asarray(tokens), logits, running)
            yield step
            running = running & (step.tokens != end_token)
            if not running.any():
                return


class Explanation(NamedTuple):
    """What one step chose among: the likeliest tokens, [batch, n], and each row as a whole."""

    candidates: Array  # Token ids, likeliest first; the drawn token is always among them.
    rank: Array  # 1 for the likeliest token of all.
    model: Array  # Probability by the model,
    tempered: Array  # at the row's temperature,
    drawn_from: Array  # and after the truncation, renormalised: 0 where a token is cut.
    kept: Array  # True where the truncation keeps the token.
    probability: Array  # [batch], of the drawn token, truncation included.
    model_entropy: Array  # [batch], in nats,
    entropy: Array  # and that of what was drawn from.
    kept_count: Array  # [batch]
    kept_mass: Array  # [batch], at the row's temperature.


@partial(jax.jit, static_argnames="n")
def explain(logits: Array, tokens: Array, settings: Settings, n: int) -> Explanation:
    """Explains a step: logits [batch, vocabulary], the drawn tokens [batch], its settings."""
    mask = jsoftmax.truncation_mask(logits, **settings._asdict())
    return describe(logits, mask, settings.temperature, tokens, n)


def describe(logits: Array, mask: Array, temperature: Array, tokens: Array, n: int) -> Explanation:
    """The same for any truncation: its mask, [batch, vocabulary], True where a token is kept."""
    tempered = jsoftmax.softmax(logits, temperature=temperature)
    drawn_from = jsoftmax.softmax(logits, where=mask, temperature=temperature)
    candidates = jax.lax.top_k(logits, n)[1]
    absent = jnp.all(candidates != tokens[:, None], axis=-1)
    candidates = candidates.at[:, -1].set(jnp.where(absent, tokens, candidates[:, -1]))

    def of(x: Array, ids: Array) -> Array:
        return jnp.take_along_axis(x, ids, axis=-1)

    above = logits[:, None, :] > of(logits, candidates)[:, :, None]
    return Explanation(
        candidates=candidates,
        rank=1 + jnp.sum(above, axis=-1),
        model=of(jsoftmax.softmax(logits), candidates),
        tempered=of(tempered, candidates),
        drawn_from=of(drawn_from, candidates),
        kept=of(mask, candidates),
        probability=of(drawn_from, tokens[:, None])[:, 0],
        model_entropy=jsoftmax.entropy(logits),
        entropy=jsoftmax.entropy(logits, where=mask, temperature=temperature),
        kept_count=jnp.sum(mask, axis=-1),
        kept_mass=jnp.sum(tempered, axis=-1, where=mask),
    )
