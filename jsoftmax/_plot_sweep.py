"""The picture of one row at many temperatures, and labels at the ends of lines."""

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes

from jsoftmax._checks import check_count, check_logits
from jsoftmax._picture import (
    COLORS,
    QUIET,
    SMALL,
    Labels,
    check_texts,
    font_points,
    ink,
    open_axes,
    size_in_points,
    sorted_row,
    verbatim,
)
from jsoftmax._softmax import softmax

_DASHES = ("-", "--", "-.", ":")


def temperature_sweep(
    logits: ArrayLike,
    *,
    temperatures: ArrayLike | None = None,
    where: ArrayLike | None = None,
    top: int = 6,
    labels: Labels | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw the probabilities of the most probable entries against the temperature.

    .. math:: p_i(T) = \mathrm{softmax}(x / T)_i

    One line an entry, labelled at its right end, most probable on top, and a dotted line for what
    all others hold together. The temperature has a logarithmic axis; T = 1 is marked.

    Args:
      logits: real numbers of shape [V]: one row.
      temperatures: finite positive numbers of shape [n], rising, at least two; by default 1/4 to 4.
      where: boolean, broadcasts to [V]: True where an entry is allowed.
      top: how many entries have a line of their own, at least 1.
      labels: a string for each of the V entries, or a function from an index to its string, such
        as one that decodes a token. By default the index.
      ax: the Axes to draw into; by default those of a new pyplot figure.

    Returns:
      The Axes. Labels stand outside, on the right: a figure of your own needs room for them
      (``layout="constrained"``, or ``bbox_inches="tight"`` when it is saved).

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: logits that are not one row or hold NaN or +inf where allowed, nothing allowed,
        temperatures that do not rise from above 0, a `top` below 1, or labels of another number.

    Edge cases: a -inf logit has probability 0 at every temperature.

    Examples:
      >>> import jax.numpy as jnp
      >>> from matplotlib.figure import Figure
      >>> from jsoftmax import plot
      >>> x = jnp.array([2.0, 1.0, 0.0, -1.0])
      >>> ax = Figure(layout="constrained").subplots()
      >>> ax = plot.temperature_sweep(x, labels=[" cat", " dog", " fox", " ant"], top=3, ax=ax)
      >>> print([text.get_text() for text in ax.texts])
      ["' cat'", "' dog'", "' fox'", '1 other']
    """
    function = "plot.temperature_sweep"
    row = sorted_row(function, logits, where, 1.0)
    sweep = _check_temperatures(function, temperatures)
    shown = min(check_count(function, "top", top), len(row.order))
    name = check_texts(function, "labels", labels, row.size, "entry of the vocabulary") or str
    ax = open_axes(function, ax)
    # One temperature at a time: all of them at once would be an array of n rows of the vocabulary.
    p = np.array([np.asarray(softmax(row.logits, temperature=t))[row.order] for t in sweep])
    lines = dict(enumerate(p[:, :shown].T))
    texts = [name(int(index)) for index in row.order[:shown]]
    colors = [COLORS[i % len(COLORS)] for i in range(shown)]
    dashes = [_DASHES[i % len(_DASHES)] for i in range(shown)]
    rest = len(row.order) - shown
    if rest:
        lines[shown] = p[:, shown:].sum(1)
        texts.append(f"{rest:,} other{'s' if rest > 1 else ''}")
        colors.append(QUIET)
        dashes.append(":")
    for i, line in lines.items():
        ax.plot(sweep, line, dashes[i], color=colors[i], linewidth=1.8)
    if sweep[0] < 1 < sweep[-1]:
        ax.axvline(1, color=QUIET, linewidth=0.8, zorder=0.5)
    ax.set_xscale("log")
    ax.set(xlim=(sweep[0], sweep[-1]), ylim=(-0.02, 1.02))
    ticks = [t for t in 2.0 ** np.arange(-10, 11) if sweep[0] <= t <= sweep[-1]]
    if not 3 <= len(ticks) <= 9:
        ticks = np.geomspace(sweep[0], sweep[-1], 5)
    ax.set_xticks(ticks, labels=[f"{t:.3g}" for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="temperature", ylabel="probability")
    _label_ends(ax, [float(line[-1]) for line in lines.values()], texts, colors)
    return ax


def _check_temperatures(function: str, temperatures: ArrayLike | None) -> np.ndarray:
    if temperatures is None:
        return np.geomspace(0.25, 4, 121)
    values = np.asarray(check_logits(function, temperatures, "temperatures"), np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"{function}: temperatures must have the shape [n], n at least 2, "
            f"got shape {values.shape}"
        )
    if not ((values > 0) & np.isfinite(values)).all() or (np.diff(values) <= 0).any():
        raise ValueError(
            f"{function}: temperatures must be finite, positive and rising, got {values.tolist()}"
        )
    return values


def _label_ends(ax: Axes, ends: list[float], texts: list[str], colors: list[str]) -> None:
    """Texts on the right of the Axes, each tied to the end of its line, none on another."""
    low, high = ax.get_ylim()
    # As far apart as the lines of a text, unless there are too many of them.
    room = size_in_points(ax)[1] / max(1, len(ends) - 1)
    gap = min(1.35 * font_points(SMALL), room)
    size = min(font_points(SMALL), max(gap / 1.2, 5.0))
    gap *= (high - low) / size_in_points(ax)[1]
    # Of two lines that end alike the more probable is labelled above.
    order = sorted(range(len(ends)), key=lambda i: (round(ends[i], 3), -i))
    places = np.empty(len(ends))
    places[order] = _spread(np.array([ends[i] for i in order]), gap, low, high)
    for i, place in enumerate(places):
        text = ax.annotate(
            texts[i],
            xy=(1, ends[i]),
            xycoords=ax.get_yaxis_transform(),
            xytext=(1.06, place),
            textcoords=ax.get_yaxis_transform(),
            va="center",
            fontsize=size,
            color=ink(ax),
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colors[i],
                "linewidth": 1,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )
        verbatim([text])


def _spread(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Places at least `gap` apart, in the order given (rising), and near those wanted.

    The nearest in the sense of least squares (pool adjacent violators), then moved into the bounds
    where they fit there.
    """
    steps = gap * np.arange(len(wanted))
    pools: list[tuple[float, int]] = []
    for value in wanted - steps:
        mean, count = float(value), 1
        while pools and pools[-1][0] >= mean:
            before, many = pools.pop()
            mean, count = (mean * count + before * many) / (count + many), count + many
        pools.append((mean, count))
    base = np.repeat([mean for mean, _ in pools], [count for _, count in pools])
    return np.clip(base, low, max(low, high - gap * (len(wanted) - 1))) + steps
