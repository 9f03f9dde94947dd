"""Draws the pictures of docs/softmax.md, docs/truncation.md and docs/sampling.md.

uv run --group docs docs/families.py [temperature | truncations | sampling]

From the logits of SmolLM2-135M-Instruct that the tests hold (tests/data/smollm2_logits.npz).
"""

import argparse
import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import jsoftmax
from panels import EMPTY, FILLED, INK, QUIET, SHADES, plain, save

DOCS = Path(__file__).parent
ACCENT = "#e8590c"

ROW = np.array([2.0, 2.0, 1.4, 0.8, 0.0], np.float32)
"""Five logits, of which the two largest are equal."""
SHOWN = ("answer", "mid-word", "name")
"""Contexts, from a sure one to an open one."""
EQUAL, MANY, CHUNK, SEED = 4096, 60_000, 500, 0


def real() -> dict[str, np.ndarray]:
    """The rows, by what their context is."""
    sys.path.append(str(DOCS.parent))
    module = importlib.import_module("tests.real_logits")
    return dict(zip(module.names(), module.load(), strict=True))


def temperature(rows: dict[str, np.ndarray]) -> plt.Figure:
    """The probabilities of a row over T, and the effective number of tokens of real rows."""
    figure, panels = plt.subplots(1, 2, figsize=(10.4, 3.6))
    t = np.geomspace(0.02, 50, 301, dtype=np.float32)
    p = np.asarray(jsoftmax.softmax(jnp.broadcast_to(ROW, (t.size, ROW.size)), temperature=t))
    plain(panels[0], "softmax of (2, 2, 1.4, 0.8, 0) over the temperature")
    for entry, color in zip(range(1, ROW.size), SHADES[::-1], strict=False):
        name = "2, twice" if entry == 1 else f"{ROW[entry]:g}"
        panels[0].plot(t, p[:, entry], color=color, linewidth=1.8, label=name)
    panels[0].axhline(1 / ROW.size, color=EMPTY, linewidth=1, zorder=0)
    panels[0].set(xscale="log", ylim=(0, 0.56), yticks=[0, 0.2, 0.5])
    panels[0].legend(title="logit", frameon=False, fontsize=8, title_fontsize=8, labelcolor=INK)
    t = np.geomspace(0.05, 20, 121, dtype=np.float32)
    plain(panels[1], "exp(H) of a next token, in six contexts")
    for name, row in rows.items():
        many = np.exp([float(jsoftmax.entropy(row, temperature=at)) for at in t])
        panels[1].plot(t, many, color=FILLED, linewidth=1.4, alpha=0.85)
        at_one = float(np.exp(jsoftmax.entropy(row)))
        panels[1].plot(1, at_one, "o", color=FILLED, markersize=3.5)
        panels[1].annotate(
            name,
            (1, at_one),
            fontsize=7.5,
            color=INK,
            ha="right",
            va="bottom",
            xytext=(-4, 0),
            textcoords="offset points",
        )
    panels[1].axvline(1, color=EMPTY, linewidth=1, zorder=0)
    panels[1].set(xscale="log", yscale="log", ylim=(0.9, 8e4))
    for panel in panels:
        panel.set_xlabel("temperature", fontsize=9, color=QUIET)
        panel.xaxis.set_major_formatter("{x:g}")
    figure.tight_layout(w_pad=2)
    return figure


def truncations(rows: dict[str, np.ndarray]) -> plt.Figure:
    """The ranks that each truncation keeps, below the probability of each rank."""
    figure, panels = plt.subplots(
        2, 3, figsize=(10.4, 5.4), sharex="col", height_ratios=(1, 1.1), layout="constrained"
    )
    for (above, below), name in zip(panels.T, SHOWN, strict=True):
        row = rows[name]
        order = np.argsort(-row, kind="stable")
        p = np.asarray(jsoftmax.softmax(row))[order]
        ranks = np.arange(1, row.size + 1)
        plain(above, f"{name}: exp(H) = {np.exp(float(jsoftmax.entropy(row))):.1f}")
        above.plot(ranks, p, color=INK, linewidth=1.6)
        above.set(xscale="log", yscale="log", xlim=(0.8, 49152), ylim=(1e-7, 1.5))
        masks = {
            "top-k 50": jsoftmax.top_k_mask(row, 50),
            "top-p 0.9": jsoftmax.top_p_mask(row, 0.9),
            "min-p 0.05": jsoftmax.min_p_mask(row, 0.05),
            "typical 0.2": jsoftmax.typical_mask(row, 0.2),
            "epsilon 3e-4": jsoftmax.epsilon_mask(row, 3e-4),
            "eta 1e-3": jsoftmax.eta_mask(row, 1e-3),
            "top-n-sigma 1": jsoftmax.top_n_sigma_mask(row, 1.0),
        }
        plain(below, "")
        for place, mask in enumerate(masks.values()):
            kept = np.asarray(mask)[order]
            first, last = kept.argmax() + 1, kept.size - kept[::-1].argmax()
            # A rank is as wide as the step to the next one.
            below.barh(place, last + 0.5 - (first - 0.2), 0.62, first - 0.2, color=FILLED)
            if first > 1:
                below.barh(place, first - 1, 0.62, 0.8, color="none", edgecolor=QUIET)
            below.annotate(
                f"{kept.sum():,}",
                (last + 0.5, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK,
            )
        below.set_yticks(range(len(masks)), list(masks) if name == SHOWN[0] else [""] * len(masks))
        below.invert_yaxis()
        below.spines["left"].set_visible(False)
        below.set_xlabel("rank", fontsize=9, color=QUIET)
        below.tick_params(axis="y", labelcolor=INK)
        below.xaxis.set_major_formatter("{x:,g}")
    panels[0, 0].set_ylabel("probability", fontsize=9, color=QUIET)
    return figure


def sampling(rows: dict[str, np.ndarray]) -> plt.Figure:
    """The index drawn from equal bfloat16 logits, and the frequency of each token of a real row."""
    figure, panels = plt.subplots(1, 2, figsize=(10.4, 3.8))
    equal = jnp.zeros((2000, EQUAL), jnp.bfloat16)
    keys = jax.random.split(jax.random.key(SEED), 100)
    plain(panels[0], f"index drawn from {EQUAL} equal bfloat16 logits")
    for draw, name, color in (
        (jax.random.categorical, "jax.random.categorical", ACCENT),
        (jsoftmax.sample, "jsoftmax.sample", FILLED),
    ):
        tokens = np.concatenate([np.asarray(draw(key, equal)) for key in keys])
        panels[0].hist(
            tokens,
            np.linspace(0, EQUAL, 65),
            histtype="step",
            color=color,
            label=name,
            linewidth=1.6,
        )
    panels[0].set(yscale="log", xlim=(0, EQUAL))
    panels[0].set_xlabel("index", fontsize=9, color=QUIET)
    panels[0].set_ylabel(f"draws, of {2000 * len(keys):,}", fontsize=9, color=QUIET)
    panels[0].legend(frameon=False, fontsize=8.5, labelcolor=INK)

    row = jnp.asarray(rows["name"], jnp.bfloat16)
    p = np.asarray(
        jsoftmax.softmax(row.astype(jnp.float32), where=jsoftmax.top_p_mask(row, 0.9)), np.float64
    )
    draw = jax.jit(lambda key: jsoftmax.sample(key, jnp.tile(row, (CHUNK, 1)), top_p=0.9))
    keys = jax.random.split(jax.random.key(SEED), MANY // CHUNK)
    counts = sum(np.bincount(np.asarray(draw(key)), minlength=row.size) for key in keys)
    assert counts[p == 0].sum() == 0
    kept = p > 0
    plain(panels[1], f"tokens drawn with top-p 0.9: {kept.sum()} of {row.size:,}")
    panels[1].plot(p[kept], counts[kept] / MANY, ".", color=FILLED, markersize=3, alpha=0.7)
    ends = [p[kept].min(), p.max()]
    panels[1].plot(ends, ends, color=QUIET, linewidth=1, zorder=0)
    panels[1].set(xscale="log", yscale="log")
    panels[1].set_xlabel("probability", fontsize=9, color=QUIET)
    panels[1].set_ylabel(f"frequency in {MANY:,} draws", fontsize=9, color=QUIET)
    figure.tight_layout(w_pad=2)
    return figure


def main() -> None:
    pictures = {draw.__name__: draw for draw in (temperature, truncations, sampling)}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", nargs="?", choices=pictures, help="all by default")
    only = parser.parse_args().picture
    mpl.use("agg")
    rows = real()
    for name, draw in pictures.items():
        if only in (None, name):
            save(draw(rows), name)


if __name__ == "__main__":
    main()
