"""A transformer that learns to write, character by character, in about a minute on two idle cores.

    uv run --group models examples/char_transformer.py
    uv run --group models examples/char_transformer.py --text FILE --prompt "Once" --without qxz

It reads the reference of the Python language, which every Python carries, or a file. Attention is
`jsoftmax.softmax` with `where=` and a temperature that each head learns, the loss
`jsoftmax.cross_entropy`, and `jsoftmax.sample` writes: a row for each temperature, with top-p and
min-p, and without the characters that you forbid. The text goes to standard output.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array, lax
from matplotlib.figure import Figure

import jsoftmax
import pictures
from char_model import CharTransformer, Config
from char_text import n_gram_loss, read
from jsoftmax import plot
from progress import progress

BATCH, LEARNING_RATE, WARM_UP = 32, 0.02, 20
SHOWN = 48  # Characters of the picture.
COUNTED = ("counting characters", "counting pairs", "counting triples")


class Settings(NamedTuple):
    """How characters are drawn: an array for each row, or a number for all."""

    temperature: Array
    top_p: Array
    min_p: Array


class Writing(NamedTuple):
    """What was written, [rows, length], and the logits it was drawn from, with one axis more."""

    tokens: Array
    logits: Array


def loss(model: CharTransformer, text: Array) -> Array:
    """The mean cost of the next character, in nats; text is [batch, time]."""
    logits, _ = model(text[:, :-1])
    return jsoftmax.cross_entropy(logits, text[:, 1:]).mean()


@nnx.jit(donate_argnames=("model", "optimizer"))
def train_step(model: CharTransformer, optimizer: nnx.Optimizer, text: Array, key: Array) -> Array:
    """One step on windows of the text, drawn at random; returns the loss."""
    window = model.config.window
    starts = jax.random.randint(key, (BATCH, 1), 0, len(text) - window)
    value, gradient = nnx.value_and_grad(loss)(model, text[starts + jnp.arange(window + 1)[None]])
    optimizer.update(model, gradient)
    return value


@nnx.jit
def losses_of(model: CharTransformer, windows: Array) -> Array:
    return lax.map(lambda batch: loss(model, batch), windows)


def evaluate(model: CharTransformer, text: np.ndarray) -> float:
    """The loss on all of a text but the rest of a batch, window by window."""
    window = model.config.window
    batches = (len(text) - 1) // (window * BATCH)
    starts = np.arange(batches * BATCH).reshape(batches, BATCH, 1) * window
    return float(losses_of(model, jnp.asarray(text[starts + np.arange(window + 1)])).mean())


def train(
    model: CharTransformer,
    text: np.ndarray,
    *,
    steps: int,
    key: Array,
    show: Callable[[int, str], None],
) -> list[float]:
    """Trains the model in place; returns the loss of each step."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, LEARNING_RATE, min(WARM_UP, steps // 2), steps, 0.02 * LEARNING_RATE
    )
    # Muon learns more from a step than Adam, and steps are what two cores are short of.
    rule = optax.contrib.muon(rate, weight_decay=0.1, consistent_rms=0.2, adam_b2=0.99)
    optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)
    on_device, losses = jnp.asarray(text), []
    for step in range(steps):
        losses.append(train_step(model, optimizer, on_device, jax.random.fold_in(key, step)))
        if step % 5 == 4 or step + 1 == steps:
            show(step + 1, f"loss {losses[-1]:.3f}")
    return [float(each) for each in losses]


@nnx.jit(static_argnames="length")
def write(
    model: CharTransformer,
    prompt: Array,
    key: Array,
    settings: Settings,
    allowed: Array,
    length: int,
) -> Writing:
    """Goes on with a prompt, [rows, time], by characters that are `allowed`, [vocabulary]."""
    rows, time = prompt.shape
    cache = model.new_cache(rows, time + length)
    logits, cache = model(prompt, 0, cache)

    def step(carry: tuple, numbered: tuple[Array, Array]) -> tuple[tuple, Writing]:
        logits, cache = carry
        place, key = numbered
        tokens = jsoftmax.sample(key, logits, where=allowed, **settings._asdict())
        following, cache = model(tokens[:, None], place, cache)
        return (following[:, 0], cache), Writing(tokens, logits)

    numbered = (time + jnp.arange(length), jax.random.split(key, length))
    _, written = lax.scan(step, (logits[:, -1], cache), numbered)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), written)


def draw(
    losses: Sequence[float],
    levels: Mapping[str, float],
    logits: Array,
    settings: Settings,
    allowed: Array,
    characters: str,
) -> Figure:
    """The course of the training, and how open the choice of each character of a row was."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    course, trace = figure.subplots(1, 2, width_ratios=(2, 3))
    pictures.of_training(losses, levels, course)
    plot.entropy_trace(
        logits,
        tokens=list(characters),
        temperature=settings.temperature,
        mask=jsoftmax.truncation_mask(logits, where=allowed, **settings._asdict()),
        ax=trace,
    )
    return figure


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", type=Path, metavar="FILE", help="what to learn (default: Python's reference)")
    add("--quick", action="store_true", help="a smaller model and fewer steps: some seconds")
    add("--steps", type=int, metavar="N", help="of training (default: 240)")
    add("--prompt", default="The ", help="what the text begins with (default: 'The ')")
    add("--length", type=int, default=400, metavar="N", help="characters to write (default: 400)")
    add(
        "--temperature",
        type=float,
        nargs="+",
        default=[0.5, 0.8, 1.1],
        metavar="X",
        help="one for each text to write; 0 is greedy (default: 0.5 0.8 1.1)",
    )
    add("--top-p", type=float, default=0.95, metavar="X", help="mass to keep (default: 0.95)")
    add("--min-p", type=float, default=0.02, metavar="X", help="of the largest p (default: 0.02)")
    add("--without", default="", metavar="CHARS", help="characters never to write")
    add("--seed", type=int, default=0, metavar="N", help="another seed, another text (default: 0)")
    options = pictures.parse(parser, argv, "char_transformer.png")
    if options.steps is None:
        options.steps = 150 if options.quick else 240
    if options.steps < 1 or options.length < 1 or not options.prompt:
        parser.error("--steps and --length must be at least 1, and --prompt not empty")
    if (
        not all(t >= 0 for t in options.temperature)
        or not 0 <= options.top_p <= 1
        or not 0 <= options.min_p <= 1
    ):
        parser.error("--temperature must be at least 0, --top-p and --min-p from 0 to 1")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    note = partial(print, file=sys.stderr, flush=True)
    started = time.perf_counter()
    try:
        corpus = read(options.text)
        prompt = corpus.encode(options.prompt)
    except (OSError, ValueError) as error:
        note(f"char_transformer.py: error: {error}")
        return 2
    allowed = np.array([character not in options.without for character in corpus.characters])
    if not allowed.any():
        note("char_transformer.py: error: --without leaves no character to write")
        return 2
    sizes = {"num_layers": 2, "width": 64, "window": 64} if options.quick else {}
    config = Config(len(corpus.characters), **sizes)
    if len(corpus.test) <= BATCH * config.window:
        note(
            f"char_transformer.py: error: too short a text: {len(corpus.test)} characters to test "
            "with, the last tenth of its paragraphs, which blank lines part"
        )
        return 2
    model = CharTransformer(config, rngs=nnx.Rngs(options.seed))
    train_key, write_key = jax.random.split(jax.random.key(options.seed))
    with progress("training", options.steps) as show:
        losses = train(model, corpus.train, steps=options.steps, key=train_key, show=show)
    levels = {name: n_gram_loss(corpus, n) for n, name in enumerate(COUNTED, start=1)}
    levels["this model"] = evaluate(model, corpus.test)
    note(f"{options.steps} steps in {time.perf_counter() - started:.0f} s")
    note("Loss on unseen text, in nats a character:")
    for name, cost in levels.items():
        note(f"  {name:20}{cost:.3f}")

    rows = len(options.temperature)
    settings = Settings(
        temperature=jnp.array(options.temperature),
        top_p=jnp.full(rows, options.top_p),
        min_p=jnp.full(rows, options.min_p),
    )
    written = write(
        model,
        jnp.tile(prompt, (rows, 1)),
        write_key,
        settings,
        jnp.asarray(allowed),
        options.length,
    )
    for temperature, tokens in zip(options.temperature, written.tokens, strict=True):
        note(f"\n[temperature {temperature:g}]")
        print(options.prompt + corpus.decode(np.asarray(tokens)), flush=True)

    row, shown = rows // 2, min(SHOWN, options.length)
    figure = draw(
        losses,
        levels,
        written.logits[row, :shown],
        jax.tree.map(lambda setting: setting[row], settings),
        jnp.asarray(allowed),
        corpus.decode(np.asarray(written.tokens[row, :shown])),
    )
    figure.savefig(options.picture, dpi=130)
    note(f"\n{time.perf_counter() - started:.0f} s. The picture: {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
