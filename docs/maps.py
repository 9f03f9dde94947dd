"""Draws the pictures of docs/maps.md: each map on one row, and how temperature and alpha move them.

uv run --group docs docs/maps.py
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import jsoftmax
from panels import EMPTY, FILLED, INK, QUIET, SHADES, plain, save

LOGITS = np.array([2.0, 1.6, 1.1, 0.9, 0.1, -0.5, -1.2, -2.0], np.float32)
ALPHAS = (1.0, 1.25, 1.5, 2.0, 4.0)
TEMPERATURES = (0.5, 1.0, 2.0)
SEED = 5


def each_map() -> plt.Figure:
    """Bars of the probabilities that each map gives to the same logits; a dash where it is 0."""
    key = jax.random.key(SEED)
    maps = {
        "the logits": LOGITS,
        "softmax": jsoftmax.softmax(LOGITS),
        "entmax, alpha = 1.5": jsoftmax.entmax(LOGITS),
        "sparsemax": jsoftmax.sparsemax(LOGITS),
        "softmax over top-p 0.8": jsoftmax.softmax(LOGITS, where=jsoftmax.top_p_mask(LOGITS, 0.8)),
        "softmax, T = 0": jsoftmax.softmax(LOGITS, temperature=0.0),
        "gumbel_softmax, T = 0.5": jsoftmax.gumbel_softmax(key, LOGITS, temperature=0.5),
        "gumbel_softmax, hard=True": jsoftmax.gumbel_softmax(key, LOGITS, hard=True),
    }
    figure, panels = plt.subplots(2, 4, figsize=(10.4, 4.4))
    places = np.arange(len(LOGITS))
    for panel, (name, values) in zip(panels.flat, maps.items(), strict=True):
        y = np.asarray(values)
        plain(panel, name)
        panel.set_xticks([])
        if name == "the logits":
            panel.bar(places, y, color=QUIET, width=0.72)
            panel.set_ylim(-2.6, 2.6)
            continue
        panel.bar(places, y, color=FILLED, width=0.72)
        panel.plot(places[y == 0], y[y == 0], "_", color=QUIET, markersize=9)
        for place, share in zip(places, y, strict=True):
            if share > 0:
                label = f"{share:.2f}" if share >= 0.005 else "<.01"
                panel.annotate(
                    label,
                    (place, share),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                    color=INK,
                )
        panel.set_ylim(-0.02, 1.14)
        panel.set_yticks([0, 0.5, 1])
    figure.tight_layout(h_pad=1.6, w_pad=1.4)
    return figure


def sweeps() -> plt.Figure:
    """Two classes whose logits differ by d, by alpha and by temperature; and the whole row."""
    difference = np.linspace(-5, 5, 801, dtype=np.float32)
    pair = np.stack([difference, np.zeros_like(difference)], -1)
    figure, panels = plt.subplots(1, 3, figsize=(10.4, 3.5))
    plain(panels[0], "entmax of (d, 0), alpha =")
    plain(panels[1], "sparsemax; dotted: softmax")
    for alpha, color in zip(ALPHAS, SHADES, strict=True):
        p = jsoftmax.entmax(pair, alpha=alpha)[:, 0]
        name = {1.0: " (softmax)", 2.0: " (sparsemax)"}.get(alpha, "")
        panels[0].plot(difference, p, color=color, label=f"{alpha:g}{name}", linewidth=1.8)
    for temperature, color in zip(TEMPERATURES, SHADES[::2], strict=True):
        sparse = jsoftmax.sparsemax(pair, temperature=temperature)[:, 0]
        soft = jsoftmax.softmax(pair, temperature=temperature)[:, 0]
        panels[1].plot(difference, sparse, color=color, label=f"T = {temperature:g}", linewidth=1.8)
        panels[1].plot(difference, soft, ":", color=color, linewidth=1.6)
    for panel in panels[:2]:
        panel.set_xlabel("d: how far the first logit is above the second", fontsize=9, color=QUIET)
        panel.set_yticks([0, 0.5, 1])
        panel.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
    alpha = np.linspace(1, 4, 301, dtype=np.float32)
    p = np.asarray(jsoftmax.entmax(jnp.broadcast_to(LOGITS, (301, 8)), alpha=alpha))
    plain(panels[2], "entmax of the row above")
    panels[2].stackplot(alpha, p.T, colors=[*SHADES[::-1], EMPTY, "#dfe3e8", "#eef0f3"], lw=0)
    panels[2].set(xlim=(1, 4), ylim=(0, 1), xticks=[1, 1.5, 2, 3, 4], yticks=[0, 0.5, 1])
    panels[2].set_xlabel("alpha", fontsize=9, color=QUIET)
    figure.tight_layout(w_pad=1.8)
    return figure


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    mpl.use("agg")
    for name, figure in (("maps", each_map()), ("map_sweeps", sweeps())):
        save(figure, name)


if __name__ == "__main__":
    main()
