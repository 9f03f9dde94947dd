"""What the pictures share: checked rows, ink that shows on any ground, tokens shown as text.

Pictures are drawn from concrete arrays, outside of `jit`, so that values are checked here too.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import matplotlib as mpl
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.typing import ColorType

from jsoftmax._checks import Rows, check_mask, check_rows
from jsoftmax._settings import check_temperature
from jsoftmax._softmax import softmax
from jsoftmax._typing import Setting

Labels: TypeAlias = Sequence[str] | Callable[[int], str]
"""A string for each entry of the vocabulary, or a function from an entry's index to its string."""

BLUE, VERMILION, GREEN, PURPLE, OCHRE = "#2a7fc1", "#d55e00", "#00916a", "#b4589b", "#9a7b1a"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, OCHRE)
"""Mid-tones: each has a contrast of at least 3 to white and to the grounds of dark notebooks."""

QUIET = "#808080"
"""For what is cut, and for guides: as visible on white as on black."""

SMALL = "small"
"""The size of what explains a picture, relative to the reader's own font.size."""

_LONGEST = 20


class SortedRow(NamedTuple):
    """The entries of a row that are allowed, most probable first (ties by index)."""

    logits: Array
    """The row in the compute dtype, disallowed entries -inf."""
    order: np.ndarray
    """The index in the vocabulary of each allowed entry."""
    p: np.ndarray
    """The probability of each of them, float64."""
    size: int
    """The size of the vocabulary."""

    def sorted_mask(self, function: str, argument: str, mask: ArrayLike) -> np.ndarray:
        """A mask of the vocabulary in the order of the entries."""
        return np.asarray(check_mask(function, argument, mask, (self.size,)))[self.order]


def sorted_row(
    function: str, logits: ArrayLike, where: ArrayLike | None, temperature: Setting
) -> SortedRow:
    """Check one row and its temperature, and sort it."""
    rows = check_rows(function, logits, -1, where, None)
    if rows.logits.ndim != 1:
        raise ValueError(
            f"{function}: logits must be one row, of shape [V], got shape {rows.logits.shape}"
        )
    x = check_values(function, rows)
    check_known_temperature(function, temperature, rows)
    allowed = np.ones(x.shape, bool) if rows.where is None else np.asarray(rows.where)
    if not allowed.any():
        raise ValueError(f"{function}: logits must have an allowed entry, got none")
    order = np.argsort(-x, kind="stable")
    order = order[allowed[order]]
    row = rows.logits.astype(rows.compute_dtype)
    p = np.asarray(softmax(row, temperature=temperature), np.float64)
    return SortedRow(row, order, p[order], len(x))


def check_values(function: str, rows: Rows) -> np.ndarray:
    """The logits, none of which may be NaN or +inf where it is allowed."""
    x = np.asarray(rows.logits.astype(rows.compute_dtype))
    bad = np.isnan(x) | (x == np.inf)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{function}: logits must be finite or -inf where they are allowed, "
            f"got {x[index]} at index {index[0] if len(index) == 1 else index}"
        )
    return x


def check_known_temperature(function: str, temperature: Setting, rows: Rows) -> None:
    """Refuse what `check_temperature` turns into NaN: an array of jax is looked into here."""
    checked = check_temperature(function, temperature, rows)
    if checked is not None and np.isnan(np.asarray(checked)).any():
        raise ValueError(f"{function}: temperature must be >= 0, got a negative number or NaN")


def check_texts(
    function: str, argument: str, labels: Labels | None, size: int, of: str
) -> Callable[[int], str] | None:
    """Convert to a function from an index to text that is drawn as it is."""
    if labels is None:
        return None
    if callable(labels):
        look_up = labels
    else:
        sequence = hasattr(labels, "__len__") and hasattr(labels, "__getitem__")
        if isinstance(labels, str) or not sequence:
            raise TypeError(
                f"{function}: {argument} must be a sequence of strings, got {type(labels).__name__}"
            )
        if len(labels) != size:
            raise ValueError(
                f"{function}: {argument} must hold one string for each {of}, "
                f"{size} in all, got {len(labels)}"
            )
        look_up = labels.__getitem__

    return lambda index: as_text(check_string(function, argument, look_up(index), index))


def check_string(function: str, argument: str, label: object, index: int) -> str:
    """A label as it came, which must be a string."""
    if isinstance(label, str):
        return label
    raise TypeError(
        f"{function}: {argument} must be strings, got {type(label).__name__} for index {index}"
    )


def as_text(token: str) -> str:
    """A token as a reader can see it: bare where it is plain, else quoted and escaped as by repr.

    Tokens of a language model begin with spaces, and consist of them and of line breaks.
    """
    plain = token.isprintable() and token == token.strip() != ""
    text = token if plain else repr(token)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def open_axes(function: str, ax: object, height: float | None = None) -> Axes:
    """The reader's Axes, or those of a new pyplot figure that makes room for every label."""
    if ax is None:
        # Only here: with Axes of your own, no pyplot and no backend is needed.
        from matplotlib import pyplot as plt

        width, usual = mpl.rcParams["figure.figsize"]
        figure = plt.figure(figsize=(width, height or usual), layout="constrained")
        ax = figure.add_subplot()
    if not isinstance(ax, Axes):
        raise TypeError(f"{function}: ax must be a matplotlib Axes, got {type(ax).__name__}")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def ink(ax: Axes) -> ColorType:
    """The colour of text that these Axes were made with, whatever the style is by now."""
    return ax.xaxis.label.get_color()


def font_points(size: str | float) -> float:
    """A font size in points."""
    return FontProperties(size=size).get_size_in_points()


def size_in_points(ax: Axes) -> tuple[float, float]:
    """Width and height of the Axes, as far as they are known before the figure is laid out."""
    points = 72 / ax.figure.dpi
    return ax.bbox.width * points, ax.bbox.height * points


def draw_bars(
    ax: Axes,
    places: ArrayLike,
    heights: ArrayLike,
    width: ArrayLike,
    bottom: ArrayLike = 0.0,
    *,
    face: ColorType = "none",
    edge: ColorType,
    hatch: str | None = None,
    label: str | None = None,
) -> None:
    """Bars centred on their places; without a face they are hollow."""
    ax.bar(
        np.asarray(places),
        np.asarray(heights),
        np.asarray(width),
        np.asarray(bottom),
        facecolor=face,
        edgecolor=edge,
        linewidth=0.9,
        hatch=hatch,
        # With no bar to show, the legend would take the colour of another.
        label=label if np.size(places) else None,
    )


def note(
    ax: Axes,
    text: str,
    place: tuple[float, float],
    offset: tuple[float, float],
    align: Literal["left", "center", "right"],
) -> None:
    """A small text at an offset in points from a place: a share of the Axes' width, a y value."""
    ax.annotate(
        text,
        xy=place,
        xycoords=ax.get_yaxis_transform(),
        xytext=offset,
        textcoords="offset points",
        ha=align,
        va="center",
        fontsize=SMALL,
        color=ink(ax),
        annotation_clip=False,
    )


def headline(ax: Axes, text: str) -> None:
    """What the picture says in one line: the title on the left, which leaves the usual one free."""
    ax.set_title(text, loc="left", fontsize="medium", color=ink(ax))


def legend(ax: Axes, *, above: bool = False) -> None:
    """What the lines and marks are, in the ink of the axes: where there is room, or above them."""
    place: dict[str, Any] = {"loc": "best"}
    if above:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "ncols": 2}
    ax.legend(frameon=False, fontsize=SMALL, labelcolor=ink(ax), **place)


def verbatim(texts: Iterable[Text]) -> None:
    """Draw tokens as they are, whatever is in them: neither as mathematics nor by TeX."""
    for text in texts:
        text.set_parse_math(False)
        text.set_usetex(False)


def label_places(
    ax: Axes,
    labels: Sequence[tuple[float, str]],
    always: Sequence[tuple[float, str]],
    slot: float,
) -> None:
    """Tokens below their places: level where all fit, else turned, small, and at worst fewer.

    `slot` is the distance between neighbours in points. Those of `always` are never left out.
    """
    size = font_points(SMALL)
    if turned := max(len(text) for _, text in labels) * 0.7 * size > slot:
        size = min(size, max(slot / 1.2, 5.0))
        labels = labels[:: max(1, int(np.ceil(1.1 * size / slot)))]
    shown = [*labels, *always]
    places, texts = [place for place, _ in shown], [text for _, text in shown]
    ax.set_xticks(places, labels=texts, rotation=90 if turned else 0, fontsize=size)
    ax.tick_params(axis="x", length=0)
    verbatim(ax.get_xticklabels())
