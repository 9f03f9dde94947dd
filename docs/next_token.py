"""Draws the README's picture: what temperature and top-p do to a real next-token distribution.

uv run --group docs --group examples docs/next_token.py
"""

import argparse
import importlib
import sys
from pathlib import Path

import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import jsoftmax

DOCS = Path(__file__).parent
OUT = DOCS / "assets" / "next_token.png"
PROMPT = "Red, green, yellow and"
SHOWN = 10
TOP_P = 0.8
TEMPERATURES = {0.5: "sharper", 1.0: "as the model says", 1.5: "flatter"}

INK, QUIET = "#1f2430", "#6b7280"
KEPT, GAINED, CUT = "#3b5bdb", "#a9b8f5", "#c9ced6"


def draw(logits: np.ndarray, words: list[str], title: str) -> plt.Figure:
    """One panel a temperature: the most likely tokens, those that top-p keeps in colour."""
    order = np.argsort(-logits)[:SHOWN]
    figure, panels = plt.subplots(
        1, len(TEMPERATURES), figsize=(10.4, 4.3), sharex=True, sharey=True
    )
    for panel, (temperature, remark) in zip(panels, TEMPERATURES.items(), strict=True):
        kept = np.asarray(jsoftmax.truncation_mask(logits, temperature=temperature, top_p=TOP_P))
        p = np.asarray(jsoftmax.softmax(logits, temperature=temperature))
        renormalised = np.asarray(jsoftmax.softmax(logits, temperature=temperature, where=kept))
        places = np.arange(SHOWN)
        panel.barh(places, renormalised[order], color=GAINED, height=0.72)
        panel.barh(places, p[order], color=np.where(kept[order], KEPT, CUT), height=0.72)
        for place, token in zip(places, order, strict=True):
            share = renormalised[token] if kept[token] else p[token]
            panel.annotate(
                f"{share:.1%}" if share >= 0.0005 else "<0.1%",
                (share, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=INK if kept[token] else QUIET,
            )
        count = int(kept.sum())
        panel.set_title(
            f"T = {temperature:g}, {remark}", fontsize=11.5, color=INK, loc="left", pad=22
        )
        panel.text(
            0,
            1.03,
            f"top-p {TOP_P:g} keeps {count:,} of {len(logits):,} tokens",
            transform=panel.transAxes,
            fontsize=9,
            color=KEPT,
        )
        panel.spines[["top", "right", "bottom"]].set_visible(False)
        panel.spines["left"].set_color(CUT)
        panel.tick_params(length=0, labelcolor=INK)
        panel.set_xticks([])
    panels[0].set_yticks(places, words, fontsize=10, family="monospace")
    panels[0].invert_yaxis()
    panels[0].set_xlim(0, 1.18 * panels[0].get_xlim()[1])
    figure.suptitle(title, fontsize=12.5, color=INK, x=0.012, ha="left", weight="bold")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in (KEPT, GAINED, CUT)]
    figure.legend(
        handles,
        ["kept", "gained by renormalising what is kept", "cut"],
        loc="lower right",
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    figure.tight_layout(rect=(0, 0.045, 1, 1), w_pad=2)
    return figure


def next_token(prompt: str) -> tuple[np.ndarray, list[str]]:
    """The logits of SmolLM2-135M-Instruct after this text, and the most likely tokens as words."""
    sys.path.append(str(DOCS.parent / "examples"))
    checkpoint = importlib.import_module("checkpoint").Checkpoint()
    tokenizer = checkpoint.tokenizer
    tokens = jnp.asarray([tokenizer.encode(prompt).ids])
    logits = np.asarray(checkpoint.load()(tokens)[0][0, -1])
    return logits, [tokenizer.decode([int(i)]).strip() for i in np.argsort(-logits)[:SHOWN]]


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    mpl.use("agg")
    logits, words = next_token(PROMPT)
    figure = draw(logits, words, f"“{PROMPT} …”: the next token, by SmolLM2-135M-Instruct")
    OUT.parent.mkdir(exist_ok=True)
    # An opaque white ground: legible on a dark page too.
    figure.savefig(OUT, dpi=160, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main()
