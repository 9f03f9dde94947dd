"""What `explorer.py` shows: a text, the distribution of its next token, and what is kept of it."""

import functools
import itertools
import operator
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

import jsoftmax
from checkpoint import Checkpoint, chat
from decoding import CHUNK, Explanation, chunks, describe, next_logits, prefill
from smollm2 import SmolLM2

SHOWN = 25  # The likeliest tokens, with bars each.
MAX_TOKENS = 1024  # Of a text.
RULES = ("T = 0", "top-k", "top-p", "min-p", "typical")
VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"})


class Controls(NamedTuple):
    """What the sliders say; the defaults change nothing. Moving one compiles nothing."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0

    def traced(self) -> "Controls":
        """The same as arrays: 1 and 1.0 would be two types, and two programs."""
        numbers = (np.asarray(number, np.float32) for number in self)
        return Controls(*numbers)._replace(top_k=np.asarray(self.top_k, np.int32))


class View(NamedTuple):
    """The distribution of the next token, and what the controls make of it."""

    explanation: Explanation  # Without the batch axis; its drawn token is the likeliest.
    cut_by: np.ndarray  # [n], which of RULES cuts a candidate: len(RULES) where none does.
    counts: np.ndarray  # How many tokens each of RULES leaves.


class Choice(NamedTuple):
    """A token that the text goes on with."""

    token: int
    model_log_prob: float
    log_prob: float  # In what it was drawn from: -inf for a cut token that was picked by hand.
    drawn: bool


def masks(logits: Array, controls: Controls) -> list[Array]:
    """What each of RULES leaves of logits [vocabulary], True where a token is kept.

    Each is the `where` of the next. The first four make what `jsoftmax.sample` draws from under the
    same settings; locally typical truncation is then taken of what they leave.
    """
    temperature, top_k, top_p, min_p, typical = controls
    mask = functools.partial(jsoftmax.truncation_mask, logits, temperature=temperature)
    left = [mask()]
    for setting in ({"top_k": top_k}, {"top_p": top_p}, {"min_p": min_p}):
        left.append(mask(**setting, where=left[-1]))
    scaled = jsoftmax.temperature_scale(logits, temperature)
    return [*left, jsoftmax.typical_mask(scaled, typical, where=left[-1])]


def look(logits: Array, controls: Controls) -> tuple[View, Array]:
    """The view, and the mask of what is kept."""
    left = jnp.stack(masks(logits, controls))
    explanation = describe(
        logits[None], left[-1:], controls.temperature, jnp.argmax(logits)[None], SHOWN
    )
    explanation = jax.tree.map(lambda x: x[0], explanation)
    # Each mask is a part of the one before: they count the rules that a token outlives.
    outlived = jnp.sum(left[:, explanation.candidates], axis=0)
    return View(explanation, outlived, jnp.sum(left, axis=-1)), left[-1]


def draw(key: Array, logits: Array, temperature: Array, kept: Array) -> Array:
    return jsoftmax.sample(key, logits, temperature=temperature, where=kept)


def judge(logits: Array, temperature: Array, kept: Array, token: Array) -> tuple[Array, Array]:
    """The log-probability of a token by the model, and in what is drawn from."""
    drawn_from = jsoftmax.log_softmax(logits, where=kept, temperature=temperature)
    return jsoftmax.log_softmax(logits)[token], drawn_from[token]


class LanguageModel:
    """SmolLM2 with all programs that an exploration runs: compiled while the weights load."""

    def __init__(self) -> None:
        checkpoint = Checkpoint()
        self.tokenizer: Tokenizer = checkpoint.tokenizer
        self.vocab_size = checkpoint.config.vocab_size
        # The padding of a last chunk is written as well.
        self.capacity = MAX_TOKENS + CHUNK
        abstract = checkpoint.abstract_model
        cache = jax.eval_shape(lambda: abstract.new_cache(1, self.capacity))
        position, row = jnp.int32(0), jnp.zeros(self.vocab_size)
        controls, kept = Controls().traced(), jnp.ones(self.vocab_size, bool)
        temperature, key = controls.temperature, jax.random.key(0)
        lowered = [
            jax.jit(prefill, donate_argnames="cache").lower(
                abstract, cache, jnp.zeros((1, CHUNK), jnp.int32), position
            ),
            jax.jit(next_logits, donate_argnames="cache").lower(
                abstract, cache, position[None], position
            ),
            jax.jit(look).lower(row, controls),
            jax.jit(draw).lower(key, row, temperature, kept),
            jax.jit(judge).lower(row, temperature, kept, position),
        ]
        with ThreadPoolExecutor(len(lowered)) as executor:
            programs = executor.map(lambda program: program.compile(), lowered)
            self.weights: SmolLM2 = checkpoint.load()
            self.prefill, self.next_logits, self.look, self.draw, self.judge = programs

    def show(self, token: int) -> str:
        """Returns a token with its spaces and line breaks visible."""
        return self.tokenizer.decode([token], skip_special_tokens=False).translate(VISIBLE)


_loading = threading.Lock()


def load() -> LanguageModel:
    """Returns the model, loaded once in a process: a server has a thread for each of its pages."""
    with _loading:
        return _load()


_load = functools.cache(LanguageModel)


class Reader:
    """Gives the logits that follow a text. Of a text that it has read before, it reads the rest."""

    def __init__(self, language_model: LanguageModel):
        self.language_model = language_model
        self._cache = language_model.weights.new_cache(1, language_model.capacity)
        self._cached: list[int] = []

    def __call__(self, tokens: Sequence[int]) -> Array:
        *context, last = tokens
        same = itertools.starmap(operator.eq, zip(self._cached, context, strict=False))
        known = sum(itertools.takewhile(bool, same))
        # The programs take the cache over: if one of them is interrupted, nothing is known.
        cache, self._cache, self._cached = self._cache, None, []
        if cache is None:
            known = 0
            cache = self.language_model.weights.new_cache(1, self.language_model.capacity)
        weights = self.language_model.weights
        for chunk, start in chunks(context[known:], known):
            cache = self.language_model.prefill(weights, cache, chunk, start)
        logits, self._cache = self.language_model.next_logits(
            weights, cache, jnp.asarray([last], jnp.int32), jnp.int32(len(context))
        )
        self._cached = list(tokens)
        return logits[0]


class Exploration:
    """A text, and the tokens that it goes on with one by one.

    Args:
        reader: it may have read other texts.
        text: what the model reads first.
        as_question: put it to the model as a user's message, for it to answer.

    Raises:
        ValueError: for a text of no tokens, or of too many.
    """

    def __init__(self, reader: Reader, text: str, *, as_question: bool = False):
        self.reader = reader
        self.language_model = reader.language_model
        self.text = chat(text) if as_question else text
        self.prompt: list[int] = self.language_model.tokenizer.encode(self.text).ids
        if not self.prompt:
            raise ValueError("the model needs at least one token to go on from")
        if len(self.prompt) > MAX_TOKENS:
            raise ValueError(
                f"the text has {len(self.prompt)} tokens: at most {MAX_TOKENS} are read here"
            )
        self.choices: list[Choice] = []
        self._read: list[int] = []
        self._controls = Controls()
        self.look(self._controls)

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *(choice.token for choice in self.choices)]

    @property
    def full(self) -> bool:
        return len(self.tokens) >= MAX_TOKENS

    @property
    def logits(self) -> Array:
        """Of the next token. The model runs only when the text has changed."""
        if self._read != self.tokens:
            self._logits = self.reader(self.tokens)
            self._read = self.tokens
        return self._logits

    def look(self, controls: Controls) -> View:
        """Shows what the controls keep. They stay as they are until the next look."""
        self._controls, traced = controls, controls.traced()
        view, self._kept = self.language_model.look(self.logits, traced)
        self._temperature = traced.temperature
        return jax.device_get(view)

    def draw(self, seed: int) -> None:
        """Goes on with a token drawn at random: the same for the same seed, place and controls."""
        key = jax.random.fold_in(jax.random.key(seed), len(self.choices))
        token = self.language_model.draw(key, self.logits, self._temperature, self._kept)
        self._go_on(int(token), drawn=True)

    def pick(self, token: int) -> None:
        """Goes on with this token, kept or cut."""
        self._go_on(token, drawn=False)

    def _go_on(self, token: int, *, drawn: bool) -> None:
        if not self.full:
            model_log_prob, log_prob = self.language_model.judge(
                self.logits, self._temperature, self._kept, jnp.int32(token)
            )
            self.choices.append(Choice(token, float(model_log_prob), float(log_prob), drawn))
            self.look(self._controls)

    def undo(self) -> None:
        del self.choices[-1:]
        self.look(self._controls)

    def start_over(self) -> None:
        self.choices.clear()
        self.look(self._controls)

    def pieces(self) -> list[str]:
        """What each choice adds to the text.

        A token may end inside a character: its piece is empty, and the next one has the character.
        """
        stream = DecodeStream(skip_special_tokens=False)
        tokenizer = self.language_model.tokenizer
        return [stream.step(tokenizer, choice.token) or "" for choice in self.choices]
