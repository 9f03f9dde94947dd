"""Pictures of one row and of what truncations keep of it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jsoftmax._checks import check_count
from jsoftmax._picture import (
    BLUE,
    QUIET,
    SMALL,
    VERMILION,
    Labels,
    SortedRow,
    check_texts,
    draw_bars,
    font_points,
    headline,
    ink,
    label_places,
    legend,
    note,
    open_axes,
    size_in_points,
    sorted_row,
)
from jsoftmax._typing import Setting

_WIDTH = 0.74
"""That of a bar; its place in the row is one wide."""


def kept_set(
    logits: ArrayLike,
    mask: ArrayLike,
    *,
    temperature: Setting = 1.0,
    where: ArrayLike | None = None,
    top: int = 40,
    labels: Labels | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw the sorted distribution, what a truncation keeps of it, and the cumulative mass.

    .. math:: p = \mathrm{softmax}(x / T), \quad
       c_r = \textstyle\sum_{s \le r} p_{(s)}, \quad m = \sum_i [\mathrm{kept}_i] \, p_i

    Bars are filled where an entry is kept and hollow where it is cut; so are the dots of the line,
    which is the cumulative mass c over ranks. A last, hatched bar holds all entries beyond `top`.
    The title on the left tells how many are kept and their mass m.

    Args:
      logits: real numbers of shape [V]: one row.
      mask: boolean, broadcasts to [V]: True where an entry is kept, from any truncation or of your
        own. What `where` disallows is not kept.
      temperature: T >= 0, a number.
      where: boolean, broadcasts to [V]: True where an entry is allowed. Others are not shown.
      top: how many entries have a bar of their own, at least 1.
      labels: a string for each of the V entries, or a function from an index to its string, such
        as one that decodes a token. By default ranks are shown.
      ax: the Axes to draw into; by default those of a new pyplot figure.

    Returns:
      The Axes.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: logits that are not one row or hold NaN or +inf where allowed, a `where` that
        allows nothing or does not broadcast, a temperature below 0, a `top` below 1, or labels of
        another number.

    Edge cases: a -inf logit has a bar of height 0. With every allowed logit -inf all bars are 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> from matplotlib.figure import Figure
      >>> from jsoftmax import plot
      >>> x = jnp.log(jnp.array([0.15, 0.5, 0.3, 0.05]))
      >>> ax = Figure(layout="constrained").subplots()
      >>> ax = plot.kept_set(x, jsoftmax.top_p_mask(x, 0.7), ax=ax)
      >>> print(ax.get_title(loc="left"))
      kept 2 of 4, mass 0.800
    """
    function = "plot.kept_set"
    row = sorted_row(function, logits, where, temperature)
    kept = row.sorted_mask(function, "mask", mask)
    shown = min(check_count(function, "top", top), len(row.order))
    name = check_texts(function, "labels", labels, row.size, "entry of the vocabulary")
    ax = open_axes(function, ax)
    columns = _columns(ax, row, shown)
    first, cumulative = kept[:shown], np.cumsum(row.p)
    ranks, p, line = columns.ranks, row.p[:shown], cumulative[:shown]
    draw_bars(ax, ranks[first], p[first], _WIDTH, face=BLUE, edge=BLUE, label="kept")
    draw_bars(ax, ranks[~first], p[~first], _WIDTH, edge=QUIET, label="cut")
    if columns.rest:
        mass = row.p[shown:][kept[shown:]].sum()
        others = row.p[shown:][~kept[shown:]].sum()
        draw_bars(ax, columns.rest_at, mass, _WIDTH, edge=BLUE, hatch="/////")
        draw_bars(ax, columns.rest_at, others, _WIDTH, mass, edge=QUIET, hatch="....")
        ends = [line[-1], cumulative[-1]]
        ax.plot([shown, columns.rest_at], ends, ":", color=VERMILION, linewidth=1.2)
    dot, ground = min(4.0, 0.45 * columns.slot), ax.get_facecolor()
    ax.plot(
        ranks, line, "o-", color=VERMILION, linewidth=1.2, markersize=dot, label="cumulative mass"
    )
    ax.plot(ranks[~first], line[~first], "o", color=VERMILION, mfc=ground, markersize=dot)
    _label_columns(ax, row, columns, name)
    ax.set(ylim=(0, 1.03), ylabel="probability, mass")
    headline(ax, f"kept {kept.sum():,} of {len(kept):,}, mass {row.p[kept].sum():.3f}")
    legend(ax)
    return ax


def compare_truncations(
    logits: ArrayLike,
    masks: Mapping[str, ArrayLike],
    *,
    temperature: Setting = 1.0,
    where: ArrayLike | None = None,
    top: int = 40,
    labels: Labels | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw which of the most probable entries each of several truncations keeps.

    .. math:: n = \sum_i [\mathrm{kept}_i], \quad m = \sum_i [\mathrm{kept}_i] \, p_i, \quad
       p = \mathrm{softmax}(x / T)

    The first row shows the distribution, as bars relative to the largest probability. Below it one
    row a truncation: a block where an entry is kept and a dash where it is cut; the last column
    tells how many are kept of those beyond `top`. On the right the number kept and their mass.

    Args:
      logits: real numbers of shape [V]: one row.
      masks: for each name a boolean that broadcasts to [V]: True where an entry is kept. What
        `where` disallows is not kept.
      temperature: T >= 0, a number: that of the probabilities shown. Masks that depend on it are
        made with it.
      where: boolean, broadcasts to [V]: True where an entry is allowed. Others are not shown.
      top: how many entries have a column of their own, at least 1.
      labels: a string for each of the V entries, or a function from an index to its string, such
        as one that decodes a token. By default ranks are shown.
      ax: the Axes to draw into; by default those of a new pyplot figure.

    Returns:
      The Axes. The numbers stand outside, on the right: a figure of your own needs room for them
      (``layout="constrained"``, or ``bbox_inches="tight"`` when it is saved).

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: logits that are not one row or hold NaN or +inf where allowed, nothing allowed, no
        masks or one that does not broadcast, a temperature below 0, a `top` below 1, or labels of
        another number.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> from matplotlib.figure import Figure
      >>> from jsoftmax import plot
      >>> x = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
      >>> masks = {"top-p": jsoftmax.top_p_mask(x, 0.9), "min-p": jsoftmax.min_p_mask(x, 0.5)}
      >>> ax = plot.compare_truncations(x, masks, ax=Figure(layout="constrained").subplots())
      >>> print([text.get_text() for text in ax.texts])
      ['kept', 'mass', '4', '1.000', '3', '0.950', '2', '0.800']
    """
    function = "plot.compare_truncations"
    row = sorted_row(function, logits, where, temperature)
    kept = _check_masks(function, masks, row)
    shown = min(check_count(function, "top", top), len(row.order))
    name = check_texts(function, "labels", labels, row.size, "entry of the vocabulary")
    ax = open_axes(function, ax, 1.4 + 0.35 * len(kept))
    columns = _columns(ax, row, shown)
    heights = 0.8 * row.p[:shown] / (row.p[0] or 1)
    # The y axis points down: a bar that stands on the lower edge of its row has a negative height.
    draw_bars(ax, columns.ranks, -heights, _WIDTH, 0.4, face=QUIET, edge="none")
    _table(ax, ("kept", "mass"), -0.75)
    _table(ax, (f"{len(row.order):,}", f"{row.p.sum():.3f}"), 0)
    for y, mask in enumerate(kept.values(), 1):
        first, more = mask[:shown], int(mask[shown:].sum())
        at, off = columns.ranks[first], columns.ranks[~first]
        if more:
            place = (columns.rest_at, y)
            ax.annotate(f"+{more:,}", place, ha="center", va="center", size=SMALL, color=ink(ax))
        elif columns.rest:
            off = np.append(off, columns.rest_at)
        draw_bars(ax, at, np.full(len(at), 0.64), _WIDTH, y - 0.32, face=BLUE, edge=BLUE)
        draw_bars(ax, off, np.full(len(off), 0.05), _WIDTH / 2, y - 0.025, face=QUIET, edge="none")
        _table(ax, (f"{mask.sum():,}", f"{row.p[mask].sum():.3f}"), y)
    _label_columns(ax, row, columns, name)
    ax.set(ylim=(len(kept) + 0.5, -0.6))
    ax.set_yticks(range(len(kept) + 1), labels=["all", *kept])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


def _check_masks(function: str, masks: object, row: SortedRow) -> dict[str, np.ndarray]:
    if not isinstance(masks, Mapping):
        raise TypeError(f"{function}: masks must map names to masks, got {type(masks).__name__}")
    if not masks:
        raise ValueError(f"{function}: masks must hold at least one mask, got none")
    return {
        name: row.sorted_mask(function, f"masks[{name!r}]", mask) for name, mask in masks.items()
    }


class _Columns(NamedTuple):
    """Where the bars of a sorted row stand: at their ranks, and one for the rest beyond a gap."""

    ranks: np.ndarray
    rest: int
    """How many entries are beyond the last rank shown."""
    rest_at: float
    slot: float
    """The distance of neighbours in points."""


def _columns(ax: Axes, row: SortedRow, shown: int) -> _Columns:
    rest = len(row.order) - shown
    # With the rest, the Axes end three places after the last rank.
    last = shown + (3.0 if rest else 0.75)
    ax.set_xlim(0.25, last)
    slot = size_in_points(ax)[0] / (last - 0.25)
    return _Columns(np.arange(1, shown + 1), rest, shown + 2.0, slot)


def _label_columns(
    ax: Axes, row: SortedRow, columns: _Columns, name: Callable[[int], str] | None
) -> None:
    """The entries' strings, or ranks, below the columns."""
    count = len(columns.ranks)
    rest = [(columns.rest_at, f"+{columns.rest:,}")] if columns.rest else []
    if name:
        texts = [name(int(index)) for index in row.order[:count]]
        label_places(ax, list(zip(columns.ranks.tolist(), texts, strict=True)), rest, columns.slot)
    else:
        # The number of the rest needs room.
        last = min(count, columns.rest_at - 40 / columns.slot) if columns.rest else count
        ticks = MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]).tick_values(1, count)
        places = [*((tick, f"{tick:g}") for tick in ticks if 1 <= tick <= last), *rest]
        ax.set_xticks([place for place, _ in places], labels=[text for _, text in places])
    ax.set_xlabel("entries, most probable first")


def _table(ax: Axes, texts: tuple[str, str], y: float) -> None:
    """Two numbers on the right of the Axes, each in a column that ends at the same place."""
    for text, column in zip(texts, (4.2, 7.8), strict=True):
        note(ax, text, (1, y), (column * font_points(SMALL), 0), "right")
