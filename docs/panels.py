"""What the pictures of `maps.py` and `families.py` share: colours, bare panels, a white ground."""

from pathlib import Path

import matplotlib.pyplot as plt

INK, QUIET, FILLED, EMPTY = "#1f2430", "#6b7280", "#3b5bdb", "#c9ced6"
SHADES = ("#a9b8f5", "#7d92ec", "#3b5bdb", "#26409f", "#131f4d")


def plain(panel: plt.Axes, title: str) -> None:
    """A title on the left, and no box."""
    panel.set_title(title, fontsize=10.5, color=INK, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(EMPTY)
    panel.tick_params(which="both", length=0, labelsize=8.5, labelcolor=QUIET)


def save(figure: plt.Figure, name: str) -> None:
    path = Path(__file__).parent / "assets" / f"{name}.png"
    # An opaque white ground: legible on a dark page too.
    figure.savefig(path, dpi=130, facecolor="white", metadata={"Software": None})
    plt.close(figure)
