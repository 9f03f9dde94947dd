"""What `generate.py` shows: plain text, live columns, or bars that explain every step."""

from collections.abc import Iterable, Sequence

import numpy as np
from rich.bar import Bar
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from decoding import Explanation, Settings, Step, explain

BARS = 8  # Candidates shown for each step of --explain.
MIN_COLUMN_WIDTH = 26


class Transcript:
    """The text of every row so far.

    A token may end inside a character (an emoji is several tokens): its bytes are held back until
    the character is whole, so that no broken one is ever shown.
    """

    def __init__(self, tokenizer: Tokenizer, batch: int):
        self.texts = [""] * batch
        self._tokenizer = tokenizer
        self._streams = [DecodeStream(skip_special_tokens=True) for _ in range(batch)]

    def add(self, step: Step) -> list[str]:
        """Adds a step and returns what it adds to each row's text."""
        pieces = [""] * len(self.texts)
        for row in np.flatnonzero(step.running).tolist():
            piece = self._streams[row].step(self._tokenizer, int(step.tokens[row]))
            pieces[row] = piece or ""
            self.texts[row] += pieces[row]
        return pieces

    def show(self, token: int) -> str:
        """Returns one token as a quoted string, its spaces and newlines visible."""
        return repr(self._tokenizer.decode([token], skip_special_tokens=False))


def stream(steps: Iterable[Step], transcript: Transcript) -> None:
    """Writes the text of a single row as it comes."""
    for step in steps:
        print(transcript.add(step)[0], end="", flush=True)
    print()


def in_turn(
    steps: Iterable[Step], transcript: Transcript, labels: Sequence[str], notes: Console
) -> None:
    """Writes the text of each row in full, one after the other; their labels go to `notes`."""
    for step in steps:
        transcript.add(step)
    for label, text in zip(labels, transcript.texts, strict=True):
        notes.print(Text(f"[{label}]", style="dim"))
        print(text, flush=True)


def columns(
    steps: Iterable[Step], transcript: Transcript, labels: Sequence[str], console: Console
) -> None:
    """Shows rows growing side by side: the end of each text while it grows, then all of it."""
    across = max(1, min(len(labels), console.width // MIN_COLUMN_WIDTH))
    down = -(-len(labels) // across)

    def panels(running: np.ndarray, max_lines: int | None) -> Table:
        grid = Table.grid(expand=True)
        for _ in range(across):
            grid.add_column(ratio=1)
        cells = []
        for label, text, growing in zip(labels, transcript.texts, running, strict=True):
            lines = Text(text).wrap(console, console.width // across - 4)
            if max_lines is not None:
                lines = lines[-max_lines:]
            style = "green" if growing else "dim"
            title, _, subtitle = map(Text, label.partition(", "))
            cells.append(
                Panel(Text("\n").join(lines), title=title, subtitle=subtitle, border_style=style)
            )
        for start in range(0, len(cells), across):
            grid.add_row(*cells[start : start + across])
        return grid

    running = np.full(len(labels), True)
    with Live(console=console, refresh_per_second=12) as live:
        try:
            for step in steps:
                transcript.add(step)
                running = step.running
                live.update(panels(running, max(1, console.height // down - 3)))
        finally:
            live.update(panels(running & False, None))


def explained(
    steps: Iterable[Step],
    transcript: Transcript,
    labels: Sequence[str],
    settings: Settings,
    console: Console,
) -> None:
    """Shows what each step chose among, then the texts."""
    for number, step in enumerate(steps, start=1):
        transcript.add(step)
        explanation = explain(step.logits, step.tokens, settings, BARS)
        for row in np.flatnonzero(step.running).tolist():
            title = f"step {number}" if len(labels) == 1 else f"step {number}, row {row + 1}"
            drawn = int(step.tokens[row])
            one_row = Explanation(*(np.asarray(field)[row] for field in explanation))
            console.print(_bars(title, drawn, one_row, step.logits.shape[-1], transcript))
    for number, (label, text) in enumerate(zip(labels, transcript.texts, strict=True), start=1):
        title = label if len(labels) == 1 else f"row {number}: {label}"
        console.print(Panel(Text(text), title=Text(title)))


def _bars(
    title: str, drawn: int, row: Explanation, vocab_size: int, transcript: Transcript
) -> Group:
    """Draws one row of one step: a line of numbers, and a bar for each candidate."""
    heading = Text.assemble(
        (title, "bold"),
        f": {transcript.show(drawn)}, p = {row.probability:.3f} among {row.kept_count} of "
        f"{vocab_size}, entropy {row.model_entropy:.2f} -> {row.entropy:.2f} nats",
    )
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("rank", justify="right")
    table.add_column("token", width=16, no_wrap=True)
    table.add_column("model", width=20)
    table.add_column("at temperature", width=20)
    table.add_column("")
    for token, rank, model, tempered, kept in zip(
        row.candidates, row.rank, row.model, row.tempered, row.kept, strict=True
    ):
        color = "green" if kept else "red"
        verdict = Text("drawn" if token == drawn else "kept" if kept else "cut", style=color)
        table.add_row(
            str(rank),
            Text(transcript.show(int(token)), style="bold" if token == drawn else color),
            _bar(float(model), "blue"),
            _bar(float(tempered), color),
            verdict,
        )
    return Group(heading, table)


def _bar(probability: float, color: str) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        f"{probability:6.1%}", Bar(size=1.0, begin=0.0, end=probability, width=12, color=color)
    )
    return grid
