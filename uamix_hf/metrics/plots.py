"""The confusion matrix as a plot, and the style of all plots; needs matplotlib (`pip install uamix_hf[demo]`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

# A phone is 360 pixels wide: at this width 8 pt are 8 pixels, and the resolution leaves room for zooming in.
WIDTH, DPI = 4.5, 220  # inches, dots per inch
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": "0.9",
    "text.parse_math": False,  # a name may hold dollar signs
}  # fmt: skip
# Numbers of classes above which a confusion matrix has no numbers in its cells, no names below it, no names at all.
NUMBERED, NAMED_BELOW, NAMED = 12, 25, 60


def shorten(name: str, length: int = 24) -> str:
    """Name cut to a length, with an ellipsis."""
    return name if len(name) <= length else name[: length - 1] + "…"


@rc_context(STYLE)
def plot_confusion(path: str | Path, matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """Plot confusion matrices as fractions of the true class, one below the other.

    Args:
        path: File to write.
        matrices: Numbers of clips (true classes, predicted classes), by title.
        names: Class names.
    """
    count, texts = len(names), [shorten(name) for name in names]
    named, size = count <= NAMED, 7.5 if count > NUMBERED else 8
    height = max(2.2, 0.125 * count) if named else WIDTH
    below = 0.07 * max(map(len, texts)) if count <= NAMED_BELOW else 0.2
    figure = Figure(figsize=(WIDTH, (height + 0.3) * len(matrices) + below + 0.6), layout="constrained")
    axes = figure.subplots(len(matrices), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
        fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        image = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axis.set(title=shorten(title, 48), ylabel="true class")
        axis.set_yticks(range(count) if named else [], labels=texts if named else [], fontsize=size)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        if count <= NUMBERED:
            write_fractions(axis, fractions)
    if count <= NAMED_BELOW:
        axis.set_xticks(range(count), labels=texts, rotation=90, fontsize=size)
    else:
        axis.set_xticks([])
    axis.set_xlabel("predicted class" + ", in the same order" * (count > NAMED_BELOW))
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, pad=0.01, format=PercentFormatter(1.0, 0))
    bar.set_label("fraction of the true class's clips")
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=DPI)


def write_fractions(axis: Axes, fractions: np.ndarray) -> None:
    """Write fractions into the cells of a matrix, in percent."""
    for row, column in np.argwhere(fractions >= 0.005):
        fraction = fractions[row, column]
        axis.text(column, row, f"{100 * fraction:.0f}", ha="center", va="center", fontsize=7,
                  color="white" if fraction > 0.65 else "black")  # fmt: skip


__all__ = ["plot_confusion", "shorten"]
