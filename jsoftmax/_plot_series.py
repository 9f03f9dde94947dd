"""Pictures of many rows: how far confidence can be trusted, and how a decode goes on."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jsoftmax._checks import check_mask, check_rows
from jsoftmax._divergence import entropy
from jsoftmax._picture import (
    BLUE,
    QUIET,
    VERMILION,
    check_known_temperature,
    check_texts,
    check_values,
    draw_bars,
    headline,
    ink,
    label_places,
    legend,
    note,
    open_axes,
    size_in_points,
)
from jsoftmax._typing import Setting

_STRIP = (-0.2, 0.13)
"""Where the shares of the bins stand, below the diagram, and how high the largest is."""

_THINNEST = 0.005
"""Bins of equal mass may have no width, where many predictions are equally sure."""


class CurveLike(Protocol):
    """What `reliability_diagram` draws, and ``jsoftmax.calibration.reliability_curve`` returns."""

    @property
    def edges(self) -> ArrayLike:
        """The limits of the bins of confidence, of shape [bins + 1], sorted, in [0, 1]."""
        ...

    @property
    def confidence(self) -> ArrayLike:
        """The mean confidence of each bin, of shape [bins]; NaN where it is empty."""
        ...

    @property
    def accuracy(self) -> ArrayLike:
        """The share of each bin that was right, of shape [bins]; NaN where it is empty."""
        ...

    @property
    def weight(self) -> ArrayLike:
        """The share of each bin in all predictions, of shape [bins]; 0 where it is empty."""
        ...


def reliability_diagram(
    curve: CurveLike, *, label: str | None = None, ax: Axes | None = None
) -> Axes:
    r"""Draw the accuracy of predictions against their confidence, bin by bin.

    .. math:: \mathrm{ECE} = \sum_b w_b \, |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    One bar per bin of confidence, as high as the share of its predictions that were right; on the
    dashed diagonal confidence can be believed. The hatched gap reaches from the accuracy to the
    bin's mean confidence, which a line marks. The strip below shows the share w of each bin,
    relative to the largest, which is given. The title on the left has the expected calibration
    error.

    Args:
      curve: what ``jsoftmax.calibration.reliability_curve`` returns, or any object with its four
        arrays: `edges` of shape [bins + 1], and `confidence`, `accuracy` and `weight` of shape
        [bins]. An empty bin has weight 0, and NaN or any number for the other two. Weights that do
        not sum to 1, such as counts, are divided by their sum.
      label: what is put before the error in the title, such as the name of a model.
      ax: the Axes to draw into; by default those of a new pyplot figure.

    Returns:
      The Axes.

    Raises:
      TypeError: a curve without these arrays, or an `ax` that is not one Axes.
      ValueError: arrays whose shapes do not fit, edges that are not sorted in [0, 1], weights that
        are negative, not finite or all 0, a bin with weight whose confidence or accuracy is not in
        [0, 1].

    Examples:
      >>> from types import SimpleNamespace
      >>> import numpy as np
      >>> from matplotlib.figure import Figure
      >>> from jsoftmax import plot
      >>> curve = SimpleNamespace(
      ...     edges=np.array([0.0, 0.5, 1.0]), confidence=np.array([np.nan, 0.9]),
      ...     accuracy=np.array([np.nan, 0.8]), weight=np.array([0.0, 1.0]))
      >>> ax = plot.reliability_diagram(curve, ax=Figure(layout="constrained").subplots())
      >>> print(ax.get_title(loc="left"))
      ECE 0.100
    """
    function = "plot.reliability_diagram"
    edges, confidence, accuracy, weight = _check_curve(function, curve)
    ax = open_axes(function, ax)
    share = weight / weight.sum()
    bins = share > 0
    width = np.maximum(np.diff(edges)[bins], _THINNEST)
    left = np.minimum(edges[:-1][bins], 1 - width)
    sure, right, share = confidence[bins], accuracy[bins], share[bins]
    middle, ground = left + width / 2, ax.get_facecolor()
    draw_bars(ax, middle, right, width, face=BLUE, edge=ground, label="accuracy")
    gap, foot = np.abs(sure - right), np.minimum(sure, right)
    draw_bars(ax, middle, gap, width, foot, edge=ink(ax), hatch="////", label="gap")
    ax.hlines(sure, left, left + width, color=ink(ax), linewidth=1.6, label="mean confidence")
    ax.plot([0, 1], [0, 1], "--", color=ink(ax), linewidth=0.9)
    ax.axhline(0, color=QUIET, linewidth=0.8)
    low, high = _STRIP
    heights = high * share / share.max()
    draw_bars(ax, middle, heights, width, low, face=QUIET, edge=ground)
    note(ax, f"share\nmax {share.max():.2f}", (0, low + high / 2), (-4, 0), "right")
    ax.set(xlim=(0, 1), ylim=(low, 1.0), xlabel="confidence", ylabel="accuracy")
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "0.25", "0.5", "0.75", "1"])
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "0.25", "0.5", "0.75", "1"])
    ax.spines["left"].set_bounds(0, 1)
    error = float((share * np.abs(right - sure)).sum())
    headline(ax, f"{label}: ECE {error:.3f}" if label else f"ECE {error:.3f}")
    legend(ax)
    return ax


def _check_curve(function: str, curve: CurveLike) -> list[np.ndarray]:
    names = ("edges", "confidence", "accuracy", "weight")
    missing = [name for name in names if not hasattr(curve, name)]
    if missing:
        raise TypeError(
            f"{function}: curve must have the arrays {', '.join(names)}, "
            f"got {type(curve).__name__} without {', '.join(missing)}"
        )
    arrays = [np.asarray(getattr(curve, name), np.float64) for name in names]
    edges, confidence, accuracy, weight = arrays
    bins = (edges.size - 1,)
    if edges.ndim != 1 or edges.size < 2 or any(array.shape != bins for array in arrays[1:]):
        shapes = ", ".join(
            f"{name} {array.shape}" for name, array in zip(names, arrays, strict=True)
        )
        raise ValueError(
            f"{function}: curve must have edges of shape [bins + 1] and the others of shape "
            f"[bins], got {shapes}"
        )
    if not ((edges >= 0) & (edges <= 1)).all() or not (np.diff(edges) >= 0).all():
        raise ValueError(f"{function}: edges must be sorted and in [0, 1], got {edges.tolist()}")
    if not ((weight >= 0) & np.isfinite(weight)).all() or not weight.any():
        raise ValueError(
            f"{function}: weight must be finite and >= 0, and not all 0, got {weight.tolist()}"
        )
    for name, array in (("confidence", confidence), ("accuracy", accuracy)):
        used = array[weight > 0]
        # A mean of ones may be rounded up.
        if not ((used >= 0) & (used <= 1 + 1e-5)).all():
            raise ValueError(
                f"{function}: {name} must be in [0, 1] where weight > 0, got {used.tolist()}"
            )
    return arrays


def entropy_trace(
    logits: ArrayLike,
    *,
    tokens: Sequence[str] | None = None,
    temperature: Setting = 1.0,
    where: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw the entropy of each step of a decode, in nats and as an effective number of tokens.

    .. math:: H_t = -\sum_i p_{ti} \log p_{ti}, \quad p_t = \mathrm{softmax}(x_t / T), \quad
       N_t = \exp(H_t)

    A uniform choice among N tokens has the same entropy: the axis on the right shows N. With a
    `mask` a second, dashed line is the entropy of what was drawn from, the distribution over the
    entries kept.

    Args:
      logits: real numbers of shape [steps, V]: a row for each step.
      tokens: what was drawn, a string for each step, shown below. By default steps are numbered
        from 0.
      temperature: T >= 0, a number or an array that broadcasts to [steps].
      where: boolean, broadcasts to [steps, V]: True where an entry is allowed.
      mask: boolean, broadcasts to [steps, V]: True where an entry was kept, from any truncation.
      ax: the Axes to draw into; by default those of a new pyplot figure.

    Returns:
      The Axes; the one on the right is a secondary axis of it.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: logits that are not of shape [steps, V], are empty or hold NaN or +inf where
        allowed, a mask that does not broadcast, a temperature below 0, or tokens of another number.

    Edge cases: a step with nothing allowed has entropy 0, and so has T = 0 without ties.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> from matplotlib.figure import Figure
      >>> from jsoftmax import plot
      >>> x = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.9, 0.05, 0.05]]))
      >>> ax = Figure(layout="constrained").subplots()
      >>> ax = plot.entropy_trace(x, tokens=[" a", "\n"], mask=jsoftmax.top_k_mask(x, 1), ax=ax)
      >>> print([text.get_text() for text in ax.get_xticklabels()])
      ["' a'", "'\\n'"]
    """
    function = "plot.entropy_trace"
    rows = check_rows(function, logits, -1, where, None)
    if rows.logits.ndim != 2 or not rows.logits.size:
        raise ValueError(
            f"{function}: logits must have the shape [steps, V], none of them 0, "
            f"got shape {rows.logits.shape}"
        )
    check_values(function, rows)
    check_known_temperature(function, temperature, rows)
    steps = rows.logits.shape[0]
    text = check_texts(function, "tokens", tokens, steps, "step")
    kept = None if mask is None else check_mask(function, "mask", mask, rows.logits.shape)
    ax = open_axes(function, ax)
    x = rows.logits.astype(rows.compute_dtype)
    places = np.arange(steps)
    slot = size_in_points(ax)[0] / steps
    size = float(np.clip(0.4 * slot, 0, 5))
    whole = np.asarray(entropy(x, temperature=temperature), np.float64)
    ax.plot(places, whole, "o-", color=BLUE, linewidth=1.5, markersize=size, label="of the model")
    most = float(whole.max())
    if kept is not None:
        # What `where` disallows is -inf by now.
        drawn = np.asarray(entropy(x, temperature=temperature, where=kept), np.float64)
        # A mask that drops the likeliest may raise it.
        most = max(most, float(drawn.max()))
        ax.plot(
            places,
            drawn,
            "s--",
            color=VERMILION,
            markerfacecolor=ax.get_facecolor(),
            linewidth=1.2,
            markersize=0.85 * size,
            label="of what was drawn from",
        )
        legend(ax, above=True)
    highest = max(1.06 * most, np.log(2.2))
    ax.set(xlim=(-0.5, steps - 0.5), ylim=(-0.03 * highest, highest), ylabel="entropy (nats)")
    if text:
        label_places(ax, [(place, text(place)) for place in range(steps)], [], slot)
        ax.set_xlabel("token drawn")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("step")
    _effective_axis(ax, highest, rows.logits.shape[1])
    return ax


def _effective_axis(ax: Axes, highest: float, vocabulary: int) -> None:
    """On the right, what an entropy up to the highest is as a number of equal tokens."""
    # An axis without data begins at 0, which has no logarithm.
    tiny = np.finfo(float).tiny
    right = ax.secondary_yaxis(
        "right", functions=(np.exp, lambda number: np.log(np.maximum(number, tiny)))
    )
    digits = (1, 2, 5) if highest > np.log(5) else (1, 1.5, 2, 3, 5)
    numbers = [d * 10**e for e in range(len(str(vocabulary))) for d in digits]
    right.set_yticks(numbers, labels=[f"{number:,}" for number in numbers])
    right.set_ylabel("effective tokens, exp(H)")
