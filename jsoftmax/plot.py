"""Pictures of distributions over tokens and classes, drawn with matplotlib.

The extra `plot` brings matplotlib; `import jsoftmax` never imports this module. Each function draws
into the Axes given as `ax`, or into those of a new pyplot figure, and returns them. Nothing global
is changed: no style, no rcParams, no ``plt.show``. Text and lines take the ink of the Axes, and the
colours are mid-tones, so that a picture is as legible on white paper as in a dark notebook; what is
kept and what is cut differ in more than colour.
"""

try:
    import matplotlib as _matplotlib
except ImportError as error:
    raise ImportError(
        "jsoftmax.plot draws with matplotlib, which is not installed: pip install matplotlib"
    ) from error

from jsoftmax._plot_series import entropy_trace as entropy_trace
from jsoftmax._plot_series import reliability_diagram as reliability_diagram
from jsoftmax._plot_sweep import temperature_sweep as temperature_sweep
from jsoftmax._plot_truncation import compare_truncations as compare_truncations
from jsoftmax._plot_truncation import kept_set as kept_set

__all__ = [
    "compare_truncations",
    "entropy_trace",
    "kept_set",
    "reliability_diagram",
    "temperature_sweep",
]

del _matplotlib
