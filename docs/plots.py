"""Draws the pictures of docs/plots.md, from what SmolLM2-135M-Instruct says comes next.

uv run --group docs --group examples docs/plots.py
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import jsoftmax
from jsoftmax import calibration, plot

DOCS = Path(__file__).parent
ASSETS = DOCS / "assets"
PROMPT = "Once upon a time, in a village by the sea, there lived a"
STEPS, TOP_P, SEED = 28, 0.9, 3
READ = ("losses.md", "maps.md", "edges.md")
CHUNK, MOST, BINS = 512, 3072, 10

Model = Callable[[np.ndarray], np.ndarray]
"""Token ids, of shape [time], to the logits after each, [time, V]."""


def load() -> tuple[Model, SimpleNamespace]:
    """The model and its tokenizer."""
    sys.path.append(str(DOCS.parent / "examples"))
    checkpoint = importlib.import_module("checkpoint").Checkpoint()
    model = checkpoint.load()
    run = jax.jit(lambda model, tokens: model(tokens[None])[0][0])
    return lambda tokens: np.asarray(run(model, jnp.asarray(tokens))), checkpoint.tokenizer


def decode(model: Model, tokens: list[int]) -> tuple[np.ndarray, list[int]]:
    """The logits of each step, and the tokens drawn from their nucleus."""
    text = np.zeros(len(tokens) + STEPS, np.int32)
    text[: len(tokens)] = tokens
    rows = []
    # The model looks back only: what stands behind a place does not matter there.
    for step, key in enumerate(jax.random.split(jax.random.key(SEED), STEPS)):
        place = len(tokens) + step
        rows.append(model(text)[place - 1])
        text[place] = jsoftmax.sample(key, rows[-1], top_p=TOP_P)
    return np.stack(rows), text[len(tokens) :].tolist()


def read(model: Model, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logits at each place of a text, and the token that came next."""
    # Half the memory: there are as many rows as tokens.
    starts = range(0, len(tokens) - CHUNK, CHUNK)
    rows = [model(tokens[i : i + CHUNK]).astype(np.float16) for i in starts]
    return np.concatenate(rows), tokens[1 : CHUNK * len(rows) + 1]


def save(figure: plt.Figure, name: str, ground: str = "white") -> None:
    # An opaque ground: legible on a page of either kind.
    figure.savefig(ASSETS / f"{name}.png", dpi=130, facecolor=ground, metadata={"Software": None})
    plt.close(figure)


def panels(width: float, height: float, count: int = 1) -> tuple[plt.Figure, list[plt.Axes]]:
    figure, axes = plt.subplots(1, count, figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(axes))


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    mpl.use("agg")
    model, tokenizer = load()
    prompt = tokenizer.encode(PROMPT).ids
    x = model(np.asarray(prompt))[-1]

    def word(index: int) -> str:
        return tokenizer.decode([index])

    figure, (ax,) = panels(7.2, 3.6)
    plot.temperature_sweep(x, temperatures=np.geomspace(0.1, 3, 121), labels=word, ax=ax)
    save(figure, "plot_sweep")

    kept = jsoftmax.top_p_mask(x, 0.8)
    for name, look in (("plot_kept", "default"), ("plot_dark", "dark_background")):
        with plt.style.context(look):
            figure, (ax,) = panels(7.2, 3.6)
            plot.kept_set(x, kept, labels=word, ax=ax)
            save(figure, name, figure.get_facecolor())

    masks = {
        "top-k 20": jsoftmax.top_k_mask(x, 20),
        "top-p 0.8": kept,
        "min-p 0.1": jsoftmax.min_p_mask(x, 0.1),
        "typical 0.5": jsoftmax.typical_mask(x, 0.5),
        "eta 0.002": jsoftmax.eta_mask(x, 0.002),
    }
    figure, (ax,) = panels(8.4, 3.2)
    plot.compare_truncations(x, masks, labels=word, ax=ax)
    save(figure, "plot_compare")

    pages = "\n".join((DOCS / page).read_text("utf-8") for page in READ)
    logits, following = read(model, np.asarray(tokenizer.encode(pages).ids[: MOST + 1]))
    figure, axes = panels(8.4, 4, 2)
    for ax, temperature in zip(axes, (1.0, 0.5), strict=True):
        curve = calibration.reliability_curve(logits, following, temperature=temperature, bins=BINS)
        plot.reliability_diagram(curve, label=f"T = {temperature:g}", ax=ax)
    save(figure, "plot_reliability")

    rows, drawn = decode(model, prompt)
    figure, (ax,) = panels(8.4, 3.6)
    mask = jsoftmax.top_p_mask(rows, TOP_P)
    plot.entropy_trace(rows, tokens=[word(index) for index in drawn], mask=mask, ax=ax)
    save(figure, "plot_entropy")


if __name__ == "__main__":
    main()
