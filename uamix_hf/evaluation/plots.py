"""Plots of embeddings and scores, narrow enough for a phone; needs matplotlib (`pip install uamix_hf[demo]`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from ..metrics.plots import DPI, NAMED, STYLE, WIDTH, shorten

# Okabe and Ito's colours, which are safe for colour-blind readers; classes beyond eight change their marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "os^DvPX*"


@dataclass(frozen=True)
class LabelCurves:
    """Accuracy against labels per class, of several encoders.

    Args:
        title: Title of the panel.
        chance: Accuracy of guessing, in [0, 1].
        curves: Labels per class, accuracy in [0, 1] and half width of its interval (or None), by encoder.
    """

    title: str
    chance: float
    curves: Mapping[str, Sequence[tuple[int, float, float | None]]]


@rc_context(STYLE)
def plot_embeddings(
    path: str | Path, embeddings: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str], seed: int = 0
) -> None:
    """Plot a map of the clips (t-SNE by cosine distance) for each encoder, side by side, coloured by class.

    Args:
        path: File to write.
        embeddings: float (clips, embedding_size), by the title of their map.
        labels: Class numbers (clips,).
        names: Class names.
        seed: Random seed of t-SNE.
    """
    texts = [shorten(name) for name in names]
    columns = 3 if max(map(len, texts)) <= 18 else 2
    legend = 0.4 + 0.16 * -(-len(names) // columns) if len(names) <= NAMED else 0.0
    figure = Figure(figsize=(WIDTH, max(WIDTH / len(embeddings) + legend, 3)), layout="constrained")
    axes = figure.subplots(1, len(embeddings), squeeze=False)[0]
    for axis, (title, points) in zip(axes, embeddings.items(), strict=True):
        unit = normalize(points - points.mean(axis=0))
        perplexity = min(30.0, (len(points) - 1) / 3)
        flat = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(unit)
        for number in range(len(names)):
            chosen = flat[labels == number]
            marker = MARKERS[number // len(COLOURS) % len(MARKERS)]
            axis.scatter(*chosen.T, s=7, c=COLOURS[number % len(COLOURS)], marker=marker, linewidths=0)
        axis.set(title=shorten(title), xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color="0.8")
    if legend:
        figure.legend(axes[0].collections, texts, loc="outside lower center", ncols=columns, frameon=False,
                      markerscale=2, handletextpad=0.1, columnspacing=1, labelspacing=0.2)  # fmt: skip
    figure.savefig(path, dpi=DPI)


@rc_context(STYLE)
def plot_label_curves(path: str | Path, panels: Sequence[LabelCurves]) -> None:
    """Plot accuracy against labels per class, with intervals as bands; one line per encoder.

    Args:
        path: File to write.
        panels: One below the other.
    """
    figure = Figure(figsize=(WIDTH, 0.4 + 2.4 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for number, (model, points) in enumerate(panel.curves.items()):
            k, mean, half = np.array([(k, mean, half or 0.0) for k, mean, half in sorted(points)]).T
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            axis.plot(k, mean, color=colour, marker=marker, markersize=4, linewidth=1.5, label=shorten(model))
            axis.fill_between(k, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
        axis.axhline(panel.chance, color="0.5", linestyle=":", linewidth=1.2, label="chance")
        axis.set(title=panel.title, ylabel="accuracy (%)", xscale="log")
        axis.set_xticks(k, labels=[f"{value:g}" for value in k])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
        axis.grid(axis="y")
    axes[-1].set_xlabel("labelled clips per class")
    texts = [str(line.get_label()) for line in axes[-1].lines]
    columns = 3 if max(map(len, texts)) <= 14 else 2
    figure.legend(axes[-1].lines, texts, loc="outside upper center", ncols=columns, frameon=False)
    figure.savefig(path, dpi=DPI)


@rc_context(STYLE)
def plot_class_gains(path: str | Path, gains: Mapping[str, float], label: str) -> None:
    """Plot the change of each class's score as bars, the largest gain first; of many classes, the largest changes.

    Args:
        path: File to write.
        gains: Difference of scores in [-1, 1], by class.
        label: Label of the axis.
    """
    chosen = sorted(gains.items(), key=lambda item: -abs(item[1]))[:NAMED]
    chosen.sort(key=lambda item: item[1])
    values = np.array([value for _, value in chosen])
    figure = Figure(figsize=(WIDTH, 0.8 + 0.135 * max(len(chosen), 6)), layout="constrained")
    axis = figure.subplots()
    axis.barh(range(len(chosen)), 100 * values, height=0.7, color=np.where(values < 0, COLOURS[1], COLOURS[0]))
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.set_yticks(range(len(chosen)), labels=[shorten(name) for name, _ in chosen], fontsize=7.5)
    axis.set_ylim(-0.6, len(chosen) - 0.4)
    figure.supxlabel(label, fontsize=9)  # below the whole figure: long names leave the axis little width
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    figure.savefig(path, dpi=DPI)


__all__ = ["LabelCurves", "plot_class_gains", "plot_embeddings", "plot_label_curves"]
