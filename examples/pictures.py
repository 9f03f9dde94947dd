"""The pictures that the models end with: `char_transformer.py`, `digits.py` and `gridworld.py`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

import four_rooms
from jsoftmax import calibration, plot

BLUE, VERMILION, GREY = "#2a7fc1", "#d55e00", "#808080"


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, picture: str
) -> argparse.Namespace:
    """Parses the options of a script that has a --seed, and --picture: a file that can be drawn."""
    parser.add_argument(
        "--picture", type=Path, default=Path(picture), metavar="FILE", help="where to draw"
    )
    options = parser.parse_args(argv)
    if not options.picture.parent.is_dir():
        parser.error(f"--picture: there is no folder {options.picture.parent}")
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if options.picture.suffix[1:].lower() not in known or options.picture.is_dir():
        parser.error(f"--picture must be a file that ends in one of {', '.join(known)}")
    if not 0 <= options.seed < 2**32:
        parser.error("--seed must be at least 0 and below 2**32")
    return options


def of_training(losses: Sequence[float], levels: Mapping[str, float], ax: Axes) -> None:
    """The loss of each step, and what it is to be compared with; the last level is the result."""
    ax.plot(np.arange(1, len(losses) + 1), losses, color=BLUE, linewidth=1)
    *_, result = levels
    for name, height in levels.items():
        level(f"{name} {height:.2f}", height, ax, VERMILION if name == result else GREY)
    ax.set(
        xlabel="step", xlim=(0, len(losses)), ylim=(0.9 * min(losses), max(3.6, 1.2 * min(losses)))
    )
    bare(ax, "loss (nats a character)")


def of_calibration(
    before: ArrayLike,
    after: ArrayLike,
    temperature: ArrayLike,
    curves: Mapping[str, calibration.ReliabilityCurve],
) -> Figure:
    """Losses and the fitted temperature by epoch, and a reliability diagram for each curve."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    axes = figure.subplot_mosaic("lab;tab", height_ratios=(2, 1))
    losses, fitted, diagrams = axes["l"], axes["t"], (axes["a"], axes["b"])
    before, after, temperature = map(np.asarray, (before, after, temperature))
    epochs = np.arange(1, len(before) + 1)
    losses.plot(epochs, before, color=VERMILION, label="T = 1")
    losses.plot(epochs, after, color=BLUE, label="fitted T")
    losses.set(xlim=(0, len(epochs)), ylim=(0.6 * after.min(), 2 * before[-1]), xticklabels=[])
    losses.legend(frameon=False, fontsize="small")
    bare(losses, "loss on unseen images (nats)")
    fitted.plot(epochs, temperature, color=BLUE)
    fitted.set(xlabel="epoch", xlim=(0, len(epochs)), ylim=(0, None))
    bare(fitted, "fitted T")
    for (name, curve), ax in zip(curves.items(), diagrams, strict=True):
        plot.reliability_diagram(curve, label=name, ax=ax)
    return figure


def of_walks(
    steps: ArrayLike,
    earned: ArrayLike,
    levels: Mapping[str, float],
    policy: np.ndarray,
    goals: Sequence[int],
) -> Figure:
    """What was earned after so many steps, and a policy, [goals, cells, actions], on the map."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    course, *maps = figure.subplots(1, 1 + len(goals))
    millions = np.asarray(steps) / 1e6
    course.plot(millions, earned, color=BLUE)
    for name, height in levels.items():
        level(f"{name} {height:.3f}", height, course, GREY)
    course.set(xlabel="million steps", xlim=(0, millions[-1]), ylim=(0, 0.8))
    bare(course, "mean return, exact")
    worth = np.asarray(four_rooms.values(policy))
    for goal, ax in zip(goals, maps, strict=True):
        of_policy(policy[goal], np.nan_to_num(worth[goal], nan=1.0), goal, ax)
    maps[0].set_title("probability (arrows) and worth (shade)", loc="left", fontsize="medium")
    return figure


def of_policy(policy: np.ndarray, worth: np.ndarray, goal: int, ax: Axes) -> None:
    """One goal on the map: a cell is as dark as it is worth, an arrow as long as it is likely."""
    shades = np.full(four_rooms.FREE.shape, np.nan)
    shades[four_rooms.FREE] = worth
    ax.imshow(shades, cmap="Blues", vmin=0, vmax=1.6)
    ax.set_facecolor(GREY)
    y, x = four_rooms.PLACES.T
    for (down, right), likely in zip(four_rooms.MOVES, policy.T, strict=True):
        length = np.where((likely > 0.02) & (np.arange(len(x)) != goal), 0.48 * likely, np.nan)
        # The y axis of an image points down.
        ax.quiver(
            x,
            y,
            right * length,
            -down * length,
            units="x",
            scale=1,
            scale_units="x",
            width=0.07,
            pivot="mid",
        )
    ax.plot(x[goal], y[goal], "*", color=VERMILION, markersize=14)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def level(text: str, height: float, ax: Axes, color: str) -> None:
    """A dashed line across the Axes, and what it is."""
    ax.axhline(height, color=color, linestyle="--", linewidth=1)
    ax.annotate(
        text,
        (1, height),
        xycoords=ax.get_yaxis_transform(),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize="small",
    )


def bare(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)
