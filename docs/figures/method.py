"""Draws docs/figures/method.png: one step of tuning on three rendered clips, mixed by the package's own T-CutMix.

python docs/figures/method.py [FILE]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

from uamix_hf import AudioMAEFeatureExtractor, UaMixConfig
from uamix_hf.training.augmentations import two_views
from uamix_hf.tuning import mixing

HERE = Path(__file__).resolve().parent
CLIPS = (("siren", 3), ("dog_bark", 1), ("bird_chirps", 2))
PARTNERS = (1, 2, 0)
FRAMES = 160  # of 10 ms that are drawn of each clip
SEED = 26  # of the views and the cuts

# Okabe and Ito's blue, vermilion and green, which those who cannot tell red from green can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73")
INK, LINE, PANEL, KEY = "#1F2937", "#6B7280", "#F3F4F6", "#B6BCC6"
STYLE: dict[Any, Any] = {"font.size": 8.5, "mathtext.fontset": "dejavusans", "text.color": INK}

# Places in inches from the lower left corner; of a group of rows, the middle of the first.
WIDTH, HEIGHT, DPI = 9.4, 4.7, 180
ROW, ROW_HEIGHT = 0.40, 0.34
VIEW_A, MIXTURES, VIEW_B = 4.16, 2.64, 1.10
CLIP, INPUT, ENCODER, HEADS, LABELS = (0.2, 1.4), (2.3, 3.6), (4.0, 4.65), (5.05, 5.95), (7.2, 9.0)
COLUMN = (LABELS[1] - LABELS[0]) / len(CLIPS)
COLUMNS = [LABELS[0] + COLUMN * (number + 0.5) for number in range(len(CLIPS))]


def draw_batch() -> dict[str, torch.Tensor]:
    """Log-mels of the clips, of their views and of the mixtures (clips, frames, mel bins); the mask of its
    mixture (clips, frames), 1 where it is the clip itself, and lambda (clips,)."""
    sys.path.insert(0, str(HERE.parents[1] / "examples" / "demo"))
    from sound_events import render_event

    waves = [render_event(label, 0, index) for label, index in CLIPS]
    clips = torch.stack([log_mel[:FRAMES] for log_mel in AudioMAEFeatureExtractor().log_mels(waves)])
    torch.manual_seed(SEED)
    config = UaMixConfig(min_crop=1.0, mix_alpha=2.0)
    view_a, view_b, lengths = two_views(clips, torch.full((len(clips),), FRAMES), config, 16, 1024, "log-mel")
    partners = torch.tensor(PARTNERS)
    mix_mask = mixing.draw_mix_mask(config, lengths, partners, FRAMES, clips.shape[2])
    mixtures = mixing.mix(view_a, partners, mix_mask)
    lambdas = mixing.frame_lambda(mix_mask, lengths)
    return {
        "clips": clips,
        "a": view_a,
        "b": view_b,
        "mixtures": mixtures,
        "mix_mask": mix_mask[..., 0],
        "lambda": lambdas,
    }


def tinted(log_mel: torch.Tensor, like: torch.Tensor, colour: str) -> np.ndarray:
    """A picture (mel bins, frames, 4) from white over `colour` to nearly black, which span the levels of `like`."""
    low, high = np.quantile(like, [0.35, 0.998])
    scale = LinearSegmentedColormap.from_list("", ["#FFFFFF", colour, "#0B1320"], N=16)
    return scale(np.clip((log_mel.numpy().T - low) / (high - low), 0, 1))


def spectrogram(axes: Axes, picture: np.ndarray, x: tuple[float, float], middle: float, height: float) -> None:
    extent = (*x, middle - height / 2, middle + height / 2)
    axes.imshow(picture, extent=extent, origin="lower", aspect="auto", interpolation="nearest", zorder=2)
    axes.add_patch(Rectangle((x[0], extent[2]), x[1] - x[0], height, fill=False, color=LINE, lw=0.6, zorder=3))


def box(axes: Axes, x: tuple[float, float], y: tuple[float, float], text: str) -> None:
    shape = FancyBboxPatch((x[0], y[0]), x[1] - x[0], y[1] - y[0], "round,pad=0,rounding_size=0.08",
                           facecolor=PANEL, edgecolor=LINE, linewidth=0.9)  # fmt: skip
    axes.add_patch(shape)
    axes.text(sum(x) / 2, sum(y) / 2, text, ha="center", va="center", linespacing=1.4)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = LINE, style: str = "-|>"
) -> None:
    head = f"{style},head_width=0.15,head_length=0.28" if style == "-|>" else style
    properties = {"arrowstyle": head, "color": colour, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=properties, zorder=4)


def rows(first: float) -> list[float]:
    return [first - ROW * number for number in range(len(CLIPS))]


def draw_inputs(axes: Axes, batch: dict[str, torch.Tensor]) -> None:
    """Clips, their two views, and the mixtures of view a."""
    for number, middle in enumerate((3.72, 2.36, 1.00)):
        clip = batch["clips"][number]
        name = CLIPS[number][0].replace("_", " ").removesuffix("s")
        spectrogram(axes, tinted(clip, clip, COLOURS[number]), CLIP, middle, 0.72)
        axes.text(
            CLIP[0], middle + 0.4, f"clip {number + 1}: {name}", va="bottom", color=COLOURS[number], weight="bold"
        )
    for title, first in (("view a", VIEW_A), ("T-CutMix of view a", MIXTURES), ("view b", VIEW_B)):
        axes.text(INPUT[0], first + 0.23, title, va="bottom", weight="bold")
        arrow(axes, (INPUT[1] + 0.08, first - ROW), (ENCODER[0] - 0.04, first - ROW))
    axes.text(CLIP[1] + 0.26, 2.36, "two\nrandom\nviews", va="center", style="italic", fontsize=8)
    for view, first in (("a", VIEW_A), ("b", VIEW_B)):
        arrow(axes, (CLIP[1] + 0.1, 2.36), (INPUT[0] - 0.08, first - ROW))
        for number, middle in enumerate(rows(first)):
            log_mel = batch[view][number]
            spectrogram(axes, tinted(log_mel, log_mel, COLOURS[number]), INPUT, middle, ROW_HEIGHT)
    for number, middle in enumerate(rows(MIXTURES)):
        own, other = (tinted(batch["mixtures"][number], batch["a"][who], COLOURS[who])
                      for who in (number, PARTNERS[number]))  # fmt: skip
        picture = np.where(batch["mix_mask"][number].numpy()[:, None] > 0, own, other)
        spectrogram(axes, picture, INPUT, middle, ROW_HEIGHT)
    arrow(axes, (INPUT[0] + 1.24, VIEW_A - 2.5 * ROW - 0.02), (INPUT[0] + 1.24, MIXTURES + 0.2))


def draw_network(axes: Axes) -> None:
    """Encoder and heads, and the arrows from one to the next."""
    bottom, top = VIEW_B - 2 * ROW - ROW_HEIGHT / 2, VIEW_A + ROW_HEIGHT / 2
    box(axes, ENCODER, (bottom, top), "encoder\n$f$")
    box(axes, HEADS, (MIXTURES - 2 * ROW - ROW_HEIGHT / 2, top), "projector $g$\n\npredictor $h$")
    box(axes, HEADS, (bottom, VIEW_B + ROW_HEIGHT / 2), "target\nprojector\n(EMA of $g$)")
    for first in (VIEW_A, MIXTURES, VIEW_B):
        arrow(axes, (ENCODER[1] + 0.04, first - ROW), (HEADS[0] - 0.04, first - ROW))


def draw_queue(axes: Axes) -> None:
    """Stored keys as dots, the target of each clip's view b as a diamond, and its nearest key in a ring."""
    left, right, bottom, top = 6.35, LABELS[1] + 0.3, VIEW_B - 2 * ROW - ROW_HEIGHT / 2, VIEW_B + ROW_HEIGHT / 2
    box(axes, (left, right), (bottom, top), "")
    arrow(axes, (HEADS[1] + 0.04, VIEW_B - ROW), (left - 0.04, VIEW_B - ROW))
    axes.text(left + 0.12, bottom + 0.08, "neighbour queue", va="bottom", weight="bold")
    draw_target(axes, (right - 1.56, bottom + 0.15), LINE)
    axes.text(right - 1.47, bottom + 0.08, "target", va="bottom", fontsize=8)
    draw_nearest(axes, (right - 0.94, bottom + 0.15), LINE)
    axes.text(right - 0.84, bottom + 0.08, "nearest key", va="bottom", fontsize=8)

    nearest = np.array([COLUMNS, (top - 0.32, top - 0.46, top - 0.28)]).T
    targets = nearest + [(-0.13, -0.2), (-0.17, -0.12), (-0.12, -0.21)]
    dots = [*nearest, *targets]
    for place in np.random.default_rng(5).uniform((left + 0.15, bottom + 0.3), (right - 0.15, top - 0.12), (400, 2)):
        apart = np.linalg.norm(dots - place, axis=1)
        if apart.min() > 0.125 and apart[3:6].min() > 0.27:  # none is nearer to a target than its nearest key
            dots.append(place)
    axes.scatter(*np.array(dots[6:]).T, s=13, color=KEY, linewidths=0, zorder=3)
    for target, key, colour in zip(targets, nearest, COLOURS, strict=True):
        draw_target(axes, target, colour)
        draw_nearest(axes, key, colour)
        axes.plot(*zip(target, key, strict=True), color=colour, lw=1.0, zorder=4)
        arrow(axes, (key[0], key[1] + 0.1), (key[0], MIXTURES - 2.5 * ROW - 0.24), colour)


def draw_target(axes: Axes, place: Sequence[float], colour: str) -> None:
    axes.scatter(*place, s=26, marker="D", color=colour, linewidths=0, zorder=5)


def draw_nearest(axes: Axes, place: Sequence[float], colour: str) -> None:
    axes.scatter(*place, s=18, color=colour, linewidths=0, zorder=5)
    axes.scatter(*place, s=75, facecolor="none", edgecolor=colour, linewidths=1.2, zorder=5)


def draw_labels(axes: Axes, lambdas: list[float]) -> None:
    """What each query is taught: a row for each input, beside it, and a column for each clip's key."""
    axes.text(LABELS[0], VIEW_A + 0.23, "virtual labels", va="bottom", weight="bold")
    loss = "cross-entropy with softmax($q \\cdot k\\,/\\,\\tau$)"
    axes.text(COLUMNS[1], (VIEW_A + MIXTURES) / 2 - ROW, loss, ha="center", va="center", fontsize=8)
    for number, (column, colour) in enumerate(zip(COLUMNS, COLOURS, strict=True)):
        name = f"key $k_{number + 1}$"
        axes.text(column, MIXTURES - 2.5 * ROW - 0.04, name, ha="center", va="top", color=colour)
    for first, mixed in ((VIEW_A, False), (MIXTURES, True)):
        arrow(axes, (HEADS[1] + 0.04, first - ROW), (LABELS[0] - 0.08, first - ROW))
        above = {"ha": "center", "va": "bottom", "style": "italic"}
        axes.text((HEADS[1] + LABELS[0]) / 2, first - ROW + 0.07, "queries $q$", **above)
        for number, middle in enumerate(rows(first)):
            label = np.zeros(len(CLIPS))
            label[number] = lambdas[number] if mixed else 1.0
            label[PARTNERS[number]] += 1 - label[number]
            for column, value in enumerate(label):
                name = "" if value in (0, 1) else "$\\lambda$ = " if column == number else "1$-\\lambda$ = "
                draw_cell(axes, (COLUMNS[column], middle), COLOURS[column], value, f"{name}{value:.3g}")


def draw_cell(axes: Axes, middle: tuple[float, float], colour: str, value: float, text: str) -> None:
    corner = (middle[0] - COLUMN / 2, middle[1] - ROW / 2)
    axes.add_patch(Rectangle(corner, COLUMN, ROW, facecolor=colour, alpha=0.8 * value, lw=0, zorder=2))
    axes.add_patch(Rectangle(corner, COLUMN, ROW, fill=False, edgecolor=LINE, lw=0.6, zorder=3))
    ink = "white" if value == 1 else INK
    axes.text(*middle, text, ha="center", va="center", color=ink, fontsize=7.5, zorder=4)


@rc_context(STYLE)
def draw(path: Path) -> None:
    batch = draw_batch()
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    draw_inputs(axes, batch)
    draw_network(axes)
    draw_queue(axes)
    draw_labels(axes, batch["lambda"].tolist())
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)  # a third of the file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws one step of tuning.")
    parser.add_argument("file", type=Path, nargs="?", default=HERE / "method.png")
    draw(parser.parse_args().file)
