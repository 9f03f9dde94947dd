"""One run of `generate.py`: check, load and compile at once, generate, show."""

import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import jsoftmax
import terminal
from checkpoint import Checkpoint, chat
from decoding import Decoder, Settings, Step


class RequestError(Exception):
    """A request that cannot be met, and why, in one line."""


def run(
    prompt: str,
    rows: Sequence[Mapping[str, float]],
    *,
    seed: int,
    max_tokens: int,
    explain: bool,
    notes: Console,
    started: float,
) -> None:
    """Answers `prompt` once for each of the rows of settings.

    Args:
        prompt: the user's message.
        rows: temperature, top_k, top_p and min_p of each row.
        seed: of the random key.
        max_tokens: the most that a row may have.
        explain: show what each step chose among.
        notes: where progress and statistics go.
        started: when the program started, by `time.perf_counter`.

    Raises:
        RequestError: where a setting, the prompt or the installation is at fault.
    """
    check(rows)
    # Bytes of the command line that are not UTF-8 arrive as lone surrogates, which do not encode.
    prompt = prompt.encode(errors="surrogateescape").decode(errors="replace")
    with notes.status("reading the tokenizer"):
        try:
            checkpoint = Checkpoint()
        except FileNotFoundError as error:
            raise RequestError(error) from error
        tokens = checkpoint.tokenizer.encode(chat(prompt)).ids
    room = checkpoint.config.context_length - len(tokens)
    if room < 1:
        raise RequestError(
            f"the prompt has {len(tokens)} tokens and leaves no room for an answer: "
            f"the model's context has {checkpoint.config.context_length}"
        )
    max_tokens = min(max_tokens, room)
    key = jax.random.key(seed)
    vocab_size = checkpoint.config.vocab_size
    settings = Settings(
        temperature=jnp.array([row["temperature"] for row in rows], jnp.float32),
        top_k=jnp.array([max(0, min(row["top_k"], vocab_size)) for row in rows], jnp.int32),
        top_p=jnp.array([row["top_p"] for row in rows], jnp.float32),
        min_p=jnp.array([row["min_p"] for row in rows], jnp.float32),
    )

    bars = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    executor = ThreadPoolExecutor(max_workers=1)
    with Progress(*bars, console=notes, transient=True) as progress:
        task = progress.add_task("loading the weights")
        # XLA compiles in another thread meanwhile: it needs no weights, only their shapes.
        abstract_model = checkpoint.abstract_model
        compiling = executor.submit(Decoder, abstract_model, len(rows), len(tokens) + max_tokens)
        model = checkpoint.load(lambda done: progress.update(task, completed=100 * done))
        progress.update(task, description="compiling", total=None)
        decoder = compiling.result()
        progress.update(task, description="reading the prompt")
        steps = decoder(
            model,
            tokens,
            settings,
            key=key,
            max_tokens=max_tokens,
            end_token=checkpoint.end_token,
        )
        first = next(steps)

    # From here on Ctrl-C is an exception: the text so far and the statistics are still shown.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    meter = Meter(chain([first], steps))
    transcript = terminal.Transcript(checkpoint.tokenizer, len(rows))
    labels = [label(row) for row in rows]
    console = Console(highlight=False)
    try:
        if explain:
            terminal.explained(meter, transcript, labels, settings, console)
        elif len(rows) == 1:
            terminal.stream(meter, transcript)
        elif console.is_terminal:
            terminal.columns(meter, transcript, labels, console)
        else:
            terminal.in_turn(meter, transcript, labels, notes)
    finally:
        notes.print(meter.summary(started), style="dim")


def check(rows: Iterable[Mapping[str, float]]) -> None:
    """Lets `jsoftmax.sample` itself judge the settings: no array is computed, no weight loaded."""
    logits = jax.ShapeDtypeStruct((1,), jnp.float32)
    for row in rows:
        try:
            jax.eval_shape(partial(jsoftmax.sample, jax.random.key(0), **row), logits)
        except ValueError as error:
            raise RequestError(error) from error


def label(row: Mapping[str, float]) -> str:
    """Returns the settings of a row that are not off, in words."""
    parts = [f"temperature {row['temperature']:g}"]
    if row["temperature"] > 0:
        parts += [f"top-k {row['top_k']}"] if row["top_k"] > 0 else []
        parts += [f"top-p {row['top_p']:g}"] if row["top_p"] < 1 else []
        parts += [f"min-p {row['min_p']:g}"] if row["min_p"] > 0 else []
    return ", ".join(parts)


class Meter:
    """Passes steps on; counts their tokens and the time that they take."""

    def __init__(self, steps: Iterable[Step]):
        self._steps = steps
        self._counts: list[int] = []
        self._times: list[float] = []

    def __iter__(self) -> Iterator[Step]:
        for step in self._steps:
            self._counts.append(int(step.running.sum()))
            self._times.append(time.perf_counter())
            yield step

    def summary(self, started: float) -> str:
        """Returns one line of statistics. The speed is that of all rows after the first step."""
        if not self._counts:
            return "no tokens"
        first, *rest = self._counts
        text = f"{first + sum(rest)} tokens, the first after {self._times[0] - started:.1f} s"
        if rest:
            text += f", then {sum(rest) / (self._times[-1] - self._times[0]):.1f} tokens/s"
        return text
