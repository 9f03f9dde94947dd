"""The pictures: what is in their Axes, what they refuse, and how they look beside stored ones.

python -m tests.test_plot --write    # draws the stored pictures anew: look at them afterwards
"""

import inspect
import itertools
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

import jsoftmax
from jsoftmax import _picture, calibration, plot

PICTURES = Path(__file__).parent / "data" / "plot"
STYLES = {"light": "default", "dark": "dark_background"}
# matplotlib 3.10.8 and 3.11.2 draw the same pixels; a bar a fifth lower differs by more than 2.
TOLERANCE = 1.0

X = np.array([1.0, 3.0, 2.5, -1.0, 2.0, -np.inf, 0.5, 1.5, -2.0, 0.0, -0.5, -3.0], np.float32)
WORDS = [" the", " a", "\n", "$x_1$", " fox", "end", "ä", " jumps", "b", " of", " and", "."]
STEPS = np.stack([s * np.roll(X, i) for i, s in enumerate((1.0, 0.2, 3.0, 1.5, 0.5, 2.0))])
STEPS = np.nan_to_num(STEPS, neginf=-50.0)
EMPTY = np.nan
CURVE = SimpleNamespace(
    edges=np.linspace(0, 1, 6),
    confidence=np.array([EMPTY, 0.31, 0.52, 0.71, 0.93]),
    accuracy=np.array([EMPTY, 0.4, 0.45, 0.55, 0.9]),
    weight=np.array([0.0, 0.1, 0.2, 0.3, 0.4]),
)
MASKS = {
    "top-k 3": jsoftmax.top_k_mask(X, 3),
    "top-p 0.95": jsoftmax.top_p_mask(X, 0.95),
    "typical 0.4": jsoftmax.typical_mask(X, 0.4),
    "min-p 0": jsoftmax.min_p_mask(X, 0.0),
}
P = np.asarray(jsoftmax.softmax(X), np.float64)
ORDER = np.argsort(-X, kind="stable")

Draw = Callable[..., Axes]
DRAW: dict[str, Draw] = {
    "temperature_sweep": lambda **k: plot.temperature_sweep(X, top=4, labels=WORDS, **k),
    "kept_set": lambda **k: plot.kept_set(X, MASKS["typical 0.4"], top=8, labels=WORDS, **k),
    "compare_truncations": lambda **k: plot.compare_truncations(X, MASKS, top=8, labels=WORDS, **k),
    "reliability_diagram": lambda **k: plot.reliability_diagram(CURVE, label="a model", **k),
    "entropy_trace": lambda **k: plot.entropy_trace(
        STEPS, tokens=WORDS[:6], mask=jsoftmax.top_k_mask(STEPS, 3), **k
    ),
}
every_picture = pytest.mark.parametrize("name", DRAW)


@pytest.fixture(autouse=True)
def fresh_pyplot() -> Iterator[None]:
    """No figure is left open."""
    yield
    plt.close("all")


def own_axes() -> Axes:
    return Figure(layout="constrained").subplots()


def fixed_axes() -> Axes:
    """Axes whose place does not depend on the size of text, which differs between versions."""
    return Figure((4.4, 3.2), dpi=60).add_axes((0.15, 0.27, 0.6, 0.58))


def draw_stored(
    name: str, look: str, path: Path, change: Callable[[Axes], object] | None = None
) -> None:
    """Without words, as matplotlib's own: each version draws text a little differently.

    Words are tested by themselves: what they say, and that they do not lie on one another.
    """
    with style.context(["default", STYLES[look]]), mpl.rc_context({"font.family": "DejaVu Sans"}):
        ax = DRAW[name](ax=fixed_axes())
        if change:
            change(ax)
        ax.figure.draw_without_rendering()
        for text in ax.findobj(Text):
            text.set_alpha(0)
        if legend := ax.get_legend():
            legend.set_visible(False)
        ax.figure.savefig(path, metadata={"Software": None})


def difference(name: str, look: str, path: Path) -> float:
    """Root of the mean squared difference from the stored picture, in levels of 256."""
    result = compare_images(
        str(PICTURES / f"{name}_{look}.png"), str(path), tol=-1, in_decorator=True
    )
    return float(result["rms"]) if result else 0.0  # None: the same, pixel by pixel


def bars(ax: Axes, label: str) -> BarContainer:
    (container,) = (c for c in ax.containers if c.get_label() == label)
    return container


def heights(container: BarContainer) -> np.ndarray:
    return np.array([bar.get_height() for bar in container])


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def tick_texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_xticklabels()]


# How they look


@pytest.mark.parametrize("look", STYLES)
@every_picture
def test_looks_as_stored(name: str, look: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.png"
    draw_stored(name, look, path)
    assert difference(name, look, path) < TOLERANCE


def leave_out(ax: Axes) -> None:
    part = ax.patches[1] if ax.patches else ax.lines[1]
    part.remove()


def lower(ax: Axes) -> None:
    if ax.patches:
        ax.patches[1].set_height(0.8 * ax.patches[1].get_height())
    else:
        ax.lines[1].set_ydata(0.8 * np.asarray(ax.lines[1].get_ydata()))


@pytest.mark.parametrize("change", [leave_out, lower])
@every_picture
def test_a_picture_with_one_part_changed_is_told_apart(
    name: str, change: Callable[[Axes], None], tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.png"
    draw_stored(name, "light", path, change)
    assert difference(name, "light", path) > TOLERANCE


def test_stored_pictures_are_small() -> None:
    stored = list(PICTURES.glob("*.png"))
    assert {path.stem for path in stored} == {f"{n}_{s}" for n in DRAW for s in STYLES}
    assert sum(path.stat().st_size for path in stored) < 300_000


def luminance(color: str) -> float:
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot([0.2126, 0.7152, 0.0722], channels))


@pytest.mark.parametrize("ground", ["white", "black", "#1e1e1e", "#272727"])
@pytest.mark.parametrize("color", [*_picture.COLORS, _picture.QUIET])
def test_colors_stand_out_from_paper_and_from_dark_notebooks(color: str, ground: str) -> None:
    # 3 is what WCAG asks of graphics.
    low, high = sorted([luminance(color), luminance(ground)])
    assert (high + 0.05) / (low + 0.05) >= 3


def visible_texts(ax: Axes) -> list[Text]:
    legend = ax.get_legend()
    found = [child for child in ax.get_children() if isinstance(child, Text)]  # titles, too
    found += [ax.xaxis.label, ax.yaxis.label]
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        found += [label for place, label in ticks if low <= place <= high]
    found += legend.get_texts() if legend else []
    return [text for text in found if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("look", STYLES.values())
@every_picture
def test_no_text_lies_on_another_or_outside(name: str, look: str) -> None:
    with style.context(["default", look]):
        ax = DRAW[name]()
        ax.figure.draw_without_rendering()
    # Of the text alone: an annotation's own extent has its arrow in it.
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in visible_texts(ax)]
    ground = ax.figure.bbox
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= ground.x1 and box.y1 <= ground.y1
        assert inside, f"{text!r} is cut off"
    for (one, box), (other, beside) in itertools.combinations(boxes, 2):
        assert not box.overlaps(beside), f"{one!r} lies on {other!r}"


@every_picture
def test_ink_is_that_of_the_axes(name: str) -> None:
    # Drawn later, when the style has changed.
    with style.context("dark_background"):
        ax = own_axes()
    DRAW[name](ax=ax)
    legend = ax.get_legend()
    written = [*ax.texts, *(legend.get_texts() if legend else [])]
    assert all(to_rgb(text.get_color()) == (1, 1, 1) for text in written)


# What is in them


def test_kept_set_is_the_softmax_sorted() -> None:
    mask = np.isin(np.arange(12), [2, 4, 1])
    ax = plot.kept_set(X, mask, ax=own_axes())
    np.testing.assert_allclose(heights(bars(ax, "kept")), P[ORDER][:3], rtol=1e-6)
    np.testing.assert_allclose(heights(bars(ax, "cut")), P[ORDER][3:], rtol=1e-6)
    assert heights(bars(ax, "cut"))[-1] == 0  # the -inf logit
    (line,) = (line for line in ax.lines if line.get_label() == "cumulative mass")
    np.testing.assert_allclose(line.get_ydata(), np.cumsum(P[ORDER]), rtol=1e-6)
    assert ax.get_title(loc="left") == f"kept 3 of 12, mass {P[mask].sum():.3f}"
    assert all(bar.get_facecolor()[3] == 0 for bar in bars(ax, "cut"))
    assert all(bar.get_facecolor()[3] == 1 for bar in bars(ax, "kept"))


def test_kept_set_sums_up_the_rest() -> None:
    mask = np.arange(12) % 2 == 0
    ax = plot.kept_set(X, mask, top=4, labels=WORDS, ax=own_axes())
    shown, rest = ORDER[:4], ORDER[4:]
    assert tick_texts(ax) == ["' a'", "'\\n'", "' fox'", "' jumps'", "+8"]
    kept, cut = (float(heights(container)[0]) for container in ax.containers[2:])
    np.testing.assert_allclose([kept, cut], [P[rest][mask[rest]].sum(), P[rest][~mask[rest]].sum()])
    assert len(bars(ax, "kept")) + len(bars(ax, "cut")) == len(shown)
    # The title counts all of them.
    assert ax.get_title(loc="left") == f"kept 6 of 12, mass {P[mask].sum():.3f}"


def test_kept_set_at_a_temperature_among_what_is_allowed() -> None:
    where = X > 0
    x = np.where(where, X, np.nan)
    mask = jsoftmax.truncation_mask(x, temperature=0.5, top_p=0.9, where=where)
    ax = plot.kept_set(x, mask, temperature=0.5, where=where, ax=own_axes())
    p = np.sort(np.asarray(jsoftmax.softmax(x, temperature=0.5, where=where))[where])[::-1]
    count = int(mask.sum())
    np.testing.assert_allclose(heights(bars(ax, "kept")), p[:count], rtol=1e-6)
    np.testing.assert_allclose(heights(bars(ax, "cut")), p[count:], rtol=1e-6)
    assert ax.get_title(loc="left") == f"kept {count} of {where.sum()}, mass {p[:count].sum():.3f}"


@pytest.mark.parametrize("keep", [True, False])
def test_kept_set_of_all_and_of_nothing(keep: bool) -> None:
    ax = plot.kept_set(X, np.full(12, keep), ax=own_axes())
    shown, absent = ("kept", "cut") if keep else ("cut", "kept")
    assert len(bars(ax, shown)) == 12
    legend = ax.get_legend()
    assert legend is not None
    # What has no bar has no colour to show.
    names = [text.get_text() for text in legend.get_texts()]
    assert shown in names
    assert absent not in names
    assert ax.get_title(loc="left") == (
        "kept 12 of 12, mass 1.000" if keep else "kept 0 of 12, mass 0.000"
    )


def test_kept_set_of_a_row_without_mass() -> None:
    x = np.full(4, -np.inf)
    ax = plot.kept_set(x, jsoftmax.top_k_mask(x, 2), ax=own_axes())
    assert not heights(bars(ax, "cut")).any()
    assert ax.get_title(loc="left") == "kept 0 of 4, mass 0.000"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_other_types_are_drawn_as_they_are_computed(dtype: jnp.dtype) -> None:
    x = jnp.arange(6).astype(dtype)
    ax = plot.kept_set(x, x > 2, ax=own_axes())
    p = np.asarray(jsoftmax.softmax(np.arange(6, dtype=np.float32)))[::-1]
    np.testing.assert_allclose(heights(bars(ax, "kept")), p[:3], rtol=1e-6)


def test_ranks_are_numbered_without_labels() -> None:
    x = np.arange(100, dtype=np.float32)
    assert tick_texts(plot.kept_set(x, x > 90, ax=own_axes()))[-1] == "+60"
    ranks = tick_texts(plot.kept_set(x, x > 90, top=100, ax=own_axes()))
    assert all(rank.isdigit() for rank in ranks)
    assert 4 < len(ranks) < 12


def test_compare_truncations_has_a_row_each() -> None:
    ax = plot.compare_truncations(X, MASKS, top=8, ax=own_axes())
    assert [text.get_text() for text in ax.get_yticklabels()] == ["all", *MASKS]
    every, *rows = ax.containers
    np.testing.assert_allclose(heights(every), -0.8 * P[ORDER][:8] / P.max(), rtol=1e-6)
    written = texts(ax)
    for y, mask in enumerate(MASKS.values(), 1):
        kept, cut = rows[2 * y - 2 : 2 * y]
        first, more = np.asarray(mask)[ORDER][:8], int(np.asarray(mask)[ORDER][8:].sum())
        middles = [round(bar.get_x() + bar.get_width() / 2) for bar in kept]
        assert middles == (np.flatnonzero(first) + 1).tolist()
        assert len(cut) == 8 - first.sum() + (more == 0)
        assert {round(bar.get_y() + bar.get_height() / 2, 6) for bar in [*kept, *cut]} == {y}
        assert [f"{mask.sum()}", f"{P[np.asarray(mask)].sum():.3f}"] == [
            text.get_text() for text in ax.texts if text.xy == (1, y)
        ]
        assert (f"+{more}" in written) == (more > 0)


def test_temperature_sweep_is_the_softmax_at_each() -> None:
    temperatures = np.array([0.1, 0.7, 1.3, 8.0])
    ax = plot.temperature_sweep(X, temperatures=temperatures, top=3, ax=own_axes())
    p = np.stack([np.asarray(jsoftmax.softmax(X, temperature=t)) for t in temperatures])[:, ORDER]
    lines = [line for line in ax.lines if len(line.get_xdata()) == 4]
    np.testing.assert_allclose([line.get_ydata() for line in lines[:3]], p[:, :3].T, rtol=1e-6)
    np.testing.assert_allclose(lines[3].get_ydata(), p[:, 3:].sum(1), rtol=1e-6)
    assert texts(ax) == ["1", "2", "4", "9 others"]
    assert ax.get_xscale() == "log"
    # Not by colour alone.
    assert len({line.get_linestyle() for line in lines}) == 4


@pytest.mark.parametrize("ends", [(0.25, 4), (0.6, 0.9), (1e-3, 1e3), (0.1, 10)])
def test_temperature_sweep_has_ticks_at_any_range(ends: tuple[float, float]) -> None:
    ax = plot.temperature_sweep(X, temperatures=np.geomspace(*ends, 9), ax=own_axes())
    ax.figure.draw_without_rendering()
    assert 3 <= len([t for t in ax.get_xticks() if ends[0] <= t <= ends[1]]) <= 9
    assert not any(text.get_text() for text in ax.get_xticklabels(minor=True))


@pytest.mark.parametrize("count", [1, 10, 60])
def test_temperature_sweep_labels_are_in_the_order_of_the_lines(count: int) -> None:
    x = np.linspace(2, -2, count, dtype=np.float32)
    ax = plot.temperature_sweep(x, top=count, ax=own_axes())
    places = [text.xyann[1] for text in ax.texts]
    assert places == sorted(places, reverse=True)
    low, high = ax.get_ylim()
    assert low <= min(places) <= max(places) <= high + 1e-9


def test_reliability_diagram_is_its_curve() -> None:
    ax = plot.reliability_diagram(CURVE, ax=own_axes())
    used = CURVE.weight > 0
    np.testing.assert_allclose(heights(bars(ax, "accuracy")), CURVE.accuracy[used])
    gap = np.abs(CURVE.accuracy - CURVE.confidence)[used]
    np.testing.assert_allclose(heights(bars(ax, "gap")), gap)
    share = heights(ax.containers[2])
    np.testing.assert_allclose(share / share.max(), CURVE.weight[used] / 0.4)
    assert texts(ax) == ["share\nmax 0.40"]
    assert ax.get_title(loc="left") == f"ECE {(CURVE.weight[used] * gap).sum():.3f}"


def test_reliability_diagram_takes_counts_and_bins_of_equal_mass() -> None:
    curve = SimpleNamespace(
        edges=jnp.array([0.0, 0.5, 1.0, 1.0]),
        confidence=jnp.array([0.4, 0.8, 1.0]),
        accuracy=jnp.array([0.5, 0.6, 1.0]),
        weight=jnp.array([2, 2, 4]),
    )
    ax = plot.reliability_diagram(curve, label="$a$", ax=own_axes())
    assert ax.get_title(loc="left") == "$a$: ECE 0.075"
    assert all(bar.get_width() > 0 for bar in bars(ax, "accuracy"))


def test_entropy_trace_is_the_entropy() -> None:
    mask = jsoftmax.top_k_mask(STEPS, 3)
    temperature = np.linspace(0.5, 2, 6, dtype=np.float32)
    ax = plot.entropy_trace(STEPS, temperature=temperature, mask=mask, ax=own_axes())
    model, drawn = ax.lines
    h = jsoftmax.entropy(STEPS, temperature=temperature)
    np.testing.assert_allclose(model.get_ydata(), h, rtol=1e-6)
    h = jsoftmax.entropy(STEPS, temperature=temperature, where=mask)
    np.testing.assert_allclose(drawn.get_ydata(), h, rtol=1e-6)
    assert model.get_marker() != drawn.get_marker()
    assert len(plot.entropy_trace(STEPS, ax=own_axes()).lines) == 1


def test_entropy_trace_shows_what_a_mask_raised() -> None:
    x = jnp.log(jnp.array([[0.4, *[0.012] * 50]]))
    ax = plot.entropy_trace(x, mask=jsoftmax.typical_mask(x, 0.5), ax=own_axes())
    assert ax.get_ylim()[1] > np.log(50)


def test_reliability_diagram_keeps_thin_bins_inside() -> None:
    curve = calibration.ReliabilityCurve(
        edges=np.array([0.0, 0.99999, 0.999995, 1.0]),
        confidence=np.array([0.9, 0.999992, 0.999999]),
        accuracy=np.array([0.5, 1.0, 1.0]),
        weight=np.array([0.2, 0.4, 0.4]),
    )
    ax = plot.reliability_diagram(curve, ax=own_axes())
    right = [bar.get_x() + bar.get_width() for bar in ax.patches]
    assert len(right) == 9
    assert max(right) <= 1 + 1e-9


def test_entropy_trace_counts_effective_tokens() -> None:
    ax = plot.entropy_trace(np.zeros((3, 64), np.float32), ax=own_axes())
    (right,) = ax.child_axes
    ax.figure.draw_without_rendering()
    places = dict(
        zip((text.get_text() for text in right.get_yticklabels()), right.get_yticks(), strict=True)
    )
    _, in_pixels = right.transData.transform((0, places["50"]))
    np.testing.assert_allclose(ax.transData.transform((0, np.log(50)))[1], in_pixels)


def test_entropy_trace_where_nothing_is_sure_or_allowed() -> None:
    where = np.ones((2, 3), bool)
    where[1] = False
    x = np.where(where, 0, np.nan)
    ax = plot.entropy_trace(x, where=where, ax=own_axes())
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [np.log(3), 0], rtol=1e-6)


# Tokens as text


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("plain", "plain"),
        ("two words", "two words"),
        (" the", "' the'"),
        ("", "''"),
        ("\n\n", r"'\n\n'"),
        ("\t", r"'\t'"),
        ("\x00", r"'\x00'"),
        ("\u200b", r"'\u200b'"),
        ("\ud83d", r"'\ud83d'"),
        ("$x$", "$x$"),
        ("naïve", "naïve"),
        (" " * 40, "'" + " " * 18 + "…"),
        ("=" * 20, "=" * 20),
        ("=" * 21, "=" * 19 + "…"),
    ],
)
def test_tokens_are_shown_as_they_are(token: str, shown: str) -> None:
    assert _picture.as_text(token) == shown


@pytest.mark.parametrize("name", ["temperature_sweep", "kept_set", "entropy_trace"])
def test_tokens_are_neither_mathematics_nor_tex(name: str) -> None:
    tokens = [r"$\frac{", "$", "a_b^2", "%", "#", r"\\"]
    x = np.arange(6, dtype=np.float32)
    ax = {
        "temperature_sweep": lambda ax: plot.temperature_sweep(x, labels=tokens, ax=ax),
        "kept_set": lambda ax: plot.kept_set(x, x > 2, labels=tokens, ax=ax),
        "entropy_trace": lambda ax: plot.entropy_trace(STEPS, tokens=tokens, ax=ax),
    }[name](own_axes())
    ax.figure.draw_without_rendering()
    drawn = ax.texts if name == "temperature_sweep" else ax.get_xticklabels()
    assert {text.get_text() for text in drawn} == set(tokens)
    assert not any(text.get_parse_math() or text.get_usetex() for text in drawn)


def test_labels_may_be_a_function() -> None:
    ax = plot.kept_set(X, X > 1, labels=lambda i: f"token {i}", top=2, ax=own_axes())
    assert tick_texts(ax)[:2] == ["token 1", "token 2"]


def test_labels_are_level_where_they_fit_and_fewer_where_not_even_turned_ones_do() -> None:
    def labels(top: int) -> list[Text]:
        ax = plot.kept_set(x, x > 2, top=top, labels=lambda i: f"word {i}", ax=own_axes())
        return ax.get_xticklabels()

    x = np.arange(500, dtype=np.float32)
    assert {text.get_rotation() for text in labels(4)} == {0}
    assert {text.get_rotation() for text in labels(40)} == {90}
    assert len(labels(40)) == 41
    assert 20 < len(labels(200)) < 100
    assert labels(200)[-1].get_text() == "+300"


# What they leave alone


@every_picture
def test_the_axes_given_are_used_and_returned(name: str) -> None:
    ax = own_axes()
    assert DRAW[name](ax=ax) is ax
    assert ax.has_data()


@every_picture
def test_without_axes_each_picture_has_a_new_figure(name: str) -> None:
    before = plt.figure()
    first, second = DRAW[name](), DRAW[name]()
    assert len({before, first.figure, second.figure}) == 3
    assert plt.gcf() is second.figure


@every_picture
def test_settings_of_matplotlib_stay_as_they_are(name: str) -> None:
    before = dict(mpl.rcParams)
    DRAW[name]()
    assert dict(mpl.rcParams) == before


def test_pyplot_is_not_needed_with_axes_of_your_own() -> None:
    code = """
import sys
from matplotlib.figure import Figure
from jsoftmax import plot
import numpy as np
x = np.arange(4.0)
plot.kept_set(x, x > 1, ax=Figure().subplots())
print("matplotlib.pyplot" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=Path(__file__).parent.parent, check=True, capture_output=True, text=True
    )
    assert result.stdout.split() == ["False"]


# What they refuse

BAD_ROWS: list[tuple[object, type[Exception], str]] = [
    ([1.0, 2.0], TypeError, "list"),
    (STEPS, ValueError, "(6, 12)"),
    (np.float32(1), ValueError, "0-d"),
    (np.zeros(0, np.float32), ValueError, "none"),
    (np.array([1.0, np.nan]), ValueError, "nan at index 1"),
    (np.array([np.inf, 1.0]), ValueError, "inf at index 0"),
]
OF_ROWS: dict[str, Draw] = {
    "temperature_sweep": plot.temperature_sweep,
    "kept_set": lambda x, mask=True, **k: plot.kept_set(x, mask, **k),
    "compare_truncations": lambda x, **k: plot.compare_truncations(x, {"a": True}, **k),
}
of_rows = pytest.mark.parametrize("name", OF_ROWS)


def refused(kind: type[Exception], call: Callable[[], object], *words: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("bad", "kind", "word"), BAD_ROWS, ids=lambda bad: str(bad)[:20])
@of_rows
def test_logits_that_are_no_row(name: str, bad: object, kind: type[Exception], word: str) -> None:
    refused(kind, lambda: OF_ROWS[name](bad, ax=own_axes()), f"plot.{name}: logits", word)


@of_rows
def test_settings_of_rows(name: str) -> None:
    draw, door = OF_ROWS[name], f"plot.{name}: "
    for bad, kind in ((0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)):
        refused(kind, lambda bad=bad: draw(X, top=bad), door + "top", str(bad))
    refused(ValueError, lambda: draw(X, where=np.zeros(12, bool)), door + "logits", "none")
    refused(TypeError, lambda: draw(X, where=X), door + "where", "float32")
    refused(ValueError, lambda: draw(X, where=np.ones(5, bool)), door + "where", "(5,)")
    refused(ValueError, lambda: draw(X, labels=WORDS[:5]), door + "labels", "12", "5")
    refused(ValueError, lambda: draw(X, labels=[*WORDS, "more"]), door + "labels", "13")
    refused(TypeError, lambda: draw(X, labels="abcdefghijkl"), door + "labels", "str")
    refused(TypeError, lambda: draw(X, labels=7), door + "labels", "int")
    refused(TypeError, lambda: draw(X, labels=[b"a"] * 12), door + "labels", "bytes")
    refused(TypeError, lambda: draw(X, labels=lambda i: i), door + "labels", "int for index 1")
    refused(TypeError, lambda: draw(X, ax=np.array([1])), door + "ax", "ndarray")


@pytest.mark.parametrize("name", ["kept_set", "compare_truncations"])
def test_temperature_of_rows(name: str) -> None:
    for bad in (-1.0, np.nan, jnp.float32(-2)):
        draw = OF_ROWS[name]
        refused(
            ValueError, lambda bad=bad, draw=draw: draw(X, temperature=bad), "temperature", ">= 0"
        )
    refused(ValueError, lambda: OF_ROWS[name](X, temperature=np.ones(12)), "temperature", "(12,)")


def test_masks() -> None:
    refused(TypeError, lambda: plot.kept_set(X, X), "plot.kept_set: mask", "float32")
    refused(ValueError, lambda: plot.kept_set(X, np.ones(3, bool)), "mask", "(3,)")
    compare = plot.compare_truncations
    refused(TypeError, lambda: compare(X, [X > 1]), "plot.compare_truncations: masks", "list")
    refused(ValueError, lambda: compare(X, {}), "masks", "none")
    refused(TypeError, lambda: compare(X, {"a": X}), "masks['a']", "float32")


@pytest.mark.parametrize("bad", [[1.0], [[1.0, 2.0]], [0.0, 1.0], [2.0, 1.0], [1.0, np.inf]])
def test_temperatures(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"plot\.temperature_sweep: temperatures"):
        plot.temperature_sweep(X, temperatures=np.array(bad))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"edges": np.linspace(0, 1, 5)}, "(5,)"),
        ({"edges": np.linspace(1, 0, 6)}, "sorted"),
        ({"edges": np.linspace(0, 2, 6)}, "[0, 1]"),
        ({"weight": np.zeros(5)}, "all 0"),
        ({"weight": np.array([1, -1, 1, 1, 1.0])}, "-1"),
        ({"weight": np.array([np.nan, 1, 1, 1, 1])}, "nan"),
        ({"weight": np.ones(5)}, "nan"),
        ({"accuracy": np.array([0, 0.5, 0.5, 0.5, 1.5])}, "1.5"),
        ({"confidence": np.array([0.5])}, "(1,)"),
    ],
)
def test_curves(change: dict[str, np.ndarray], word: str) -> None:
    curve = SimpleNamespace(**{**vars(CURVE), **change})
    refused(ValueError, lambda: plot.reliability_diagram(curve), "plot.reliability_diagram", word)


def test_what_is_no_curve() -> None:
    refused(
        TypeError, lambda: plot.reliability_diagram(X), "plot.reliability_diagram: curve", "edges"
    )


def test_traces() -> None:
    trace, door = plot.entropy_trace, "plot.entropy_trace: "
    refused(ValueError, lambda: trace(X), door + "logits", "(12,)")
    refused(ValueError, lambda: trace(np.zeros((0, 3), np.float32)), door + "logits", "(0, 3)")
    refused(ValueError, lambda: trace(STEPS * np.nan), door + "logits", "nan at index (0, 0)")
    refused(ValueError, lambda: trace(STEPS, tokens=WORDS), door + "tokens", "6", "12")
    refused(TypeError, lambda: trace(STEPS, tokens=[1] * 6), door + "tokens", "int")
    refused(TypeError, lambda: trace(STEPS, mask=STEPS), door + "mask", "float32")
    refused(ValueError, lambda: trace(STEPS, temperature=-jnp.ones(6)), door + "temperature")


def test_under_jit_the_error_is_jax_s() -> None:
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(lambda x: plot.kept_set(x, x > 1, ax=own_axes()))(X)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    PICTURES.mkdir(exist_ok=True)
    for name, look in itertools.product(DRAW, STYLES):
        draw_stored(name, look, PICTURES / f"{name}_{look}.png")


def test_pictures_need_matplotlib_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        runpy.run_path(inspect.getfile(plot))


@pytest.mark.parametrize("name", ["confidence", "accuracy"])
@pytest.mark.parametrize("bad", [-0.5, 1.01])
def test_a_diagram_refuses_what_is_no_share(name: str, bad: float) -> None:
    arrays = {
        "edges": np.array([0.0, 0.5, 1.0]),
        "confidence": np.array([0.3, 0.8]),
        "accuracy": np.array([0.2, 0.9]),
        "weight": np.array([0.5, 0.5]),
    }
    arrays[name] = np.array([0.3, bad])
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\] where weight > 0"):
        plot.reliability_diagram(calibration.ReliabilityCurve(**arrays))
