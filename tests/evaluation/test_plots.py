"""What the plots show against the numbers they were given, and whether their words can be read."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from uamix_hf.evaluation import LabelCurves, plot_class_gains, plot_embeddings, plot_label_curves
from uamix_hf.metrics.plots import DPI, plot_confusion

LONG = "accelerating and revving of a very old motorcycle"
PHONE = 360  # pixels


def class_names(count: int) -> list[str]:
    """Of usual lengths, with some that matplotlib would take for mathematics, skip, or have no room for."""
    odd = ["_hidden", "a$b$c", r"$\frac{$", LONG, "door, wood creaks", "dog"]
    return (odd + [f"sound event {number}" for number in range(count)])[:count]


@dataclass
class Saved:
    """A figure that was saved, and the words that were drawn, with their places in pixels."""

    figure: Figure
    words: dict[Text, Bbox]

    def check_words(self) -> list[str]:
        """All words lie within the plot, do not cover each other and are at least 7 pixels high on a phone."""
        for text, box in self.words.items():
            assert text.get_fontsize() / 72 / self.figure.get_figwidth() * PHONE >= 7, text
            assert box.x0 >= 0 and box.y0 >= 0, text
            assert box.x1 <= DPI * self.figure.get_figwidth() and box.y1 <= DPI * self.figure.get_figheight(), text
        for (one, first), (two, second) in combinations(self.words.items(), 2):
            across = min(first.x1, second.x1) - max(first.x0, second.x0)
            up = min(first.y1, second.y1) - max(first.y0, second.y0)
            # A box has room for the highest and the lowest letter, so that those of close lines overlap a little.
            assert across <= 0 or up <= 0.1 * one.get_fontsize() / 72 * DPI, (one, two)
        return [text.get_text() for text in self.words]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Saved]:
    """Figures that were saved, in order."""
    kept: list[Saved] = []
    save, draw = Figure.savefig, Text.draw

    def save_and_keep(figure: Figure, *args, **kwargs) -> None:
        kept.append(Saved(figure, {}))
        save(figure, *args, **kwargs)

    def draw_and_keep(text: Text, renderer, *args, **kwargs) -> None:
        draw(text, renderer, *args, **kwargs)
        if text.get_visible() and text.get_text().strip():
            kept[-1].words[text] = text.get_window_extent(renderer)

    monkeypatch.setattr(Figure, "savefig", save_and_keep)
    monkeypatch.setattr(Text, "draw", draw_and_keep)
    return kept


def check_plot(path: Path) -> None:
    with Image.open(path) as plot:
        plot.load()
        assert plot.format == "PNG" and plot.width >= 2 * PHONE and plot.height >= 600


@pytest.mark.parametrize("count", [2, 10, 25, 50])
def test_maps_show_every_clip_of_every_class(count: int, saved: list[Saved], tmp_path: Path) -> None:
    rng, names = np.random.default_rng(0), class_names(count)
    labels = np.arange(4 * count) % count
    vectors = {"before": rng.standard_normal((len(labels), 8)), "a" * 40: rng.standard_normal((len(labels), 8))}
    plot_embeddings(tmp_path / "map.png", vectors, labels, names)
    check_plot(tmp_path / "map.png")
    words = saved[0].check_words()
    assert "_hidden" in words and "before" in words and (count < 6 or "dog" in words)
    looks = set()
    for axis in saved[0].figure.axes:
        assert [len(cloud.get_offsets()) for cloud in axis.collections] == [4] * count
        looks |= {
            (to_hex(cloud.get_facecolor()[0]), cloud.get_paths()[0].vertices.tobytes()) for cloud in axis.collections
        }
    assert len(looks) == count  # a colour and shape of its own


def test_map_of_more_classes_than_a_legend_holds(saved: list[Saved], tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(0), np.arange(200)
    plot_embeddings(tmp_path / "map.png", {"only": rng.standard_normal((200, 4))}, labels, [str(n) for n in labels])
    check_plot(tmp_path / "map.png")
    assert saved[0].check_words() == ["only"]


def test_curves_are_the_means_with_their_intervals(saved: list[Saved], tmp_path: Path) -> None:
    first = LabelCurves("few-shot", 0.2, {"a": [(5, 0.6, 0.02), (1, 0.4, 0.03)], "b": [(1, 0.5, None), (5, 0.7, None)]})
    panels = [
        first,
        LabelCurves("low-shot", 0.1, {name: [(k, k / 40, 0.1) for k in (1, 2, 5, 10, 20)] for name in "ab"}),
    ]
    plot_label_curves(tmp_path / "curves.png", panels)
    check_plot(tmp_path / "curves.png")
    words = saved[0].check_words()
    assert {"a", "b", "chance", "few-shot", "low-shot", "accuracy (%)", "labelled clips per class", "20"} <= set(words)
    lines = saved[0].figure.axes[0].lines
    assert [line.get_xdata().tolist() for line in lines[:2]] == [[1, 5], [1, 5]]
    assert [line.get_ydata().tolist() for line in lines[:2]] == [[0.4, 0.6], [0.5, 0.7]]
    assert lines[2].get_ydata() == [0.2, 0.2]
    bands = [band.get_paths()[0].vertices for band in saved[0].figure.axes[0].collections]
    assert sorted(set(np.round(bands[0][:, 1], 6))) == [0.37, 0.43, 0.58, 0.62]
    assert set(bands[1][:, 1]) == {0.5, 0.7}  # no interval, no band


@pytest.mark.parametrize("count", [2, 10, 25, 50, 200])
def test_confusion_in_shares_of_the_true_class(count: int, saved: list[Saved], tmp_path: Path) -> None:
    names, rng = class_names(count), np.random.default_rng(0)
    matrices = {name: rng.integers(0, 9, (count, count)) for name in ("before, linear probe", "after, linear probe")}
    matrices["after, linear probe"][1] = 0  # a class of which nothing was classified
    plot_confusion(tmp_path / "confusion.png", matrices, names)
    check_plot(tmp_path / "confusion.png")
    words = saved[0].check_words()
    assert {"true class", *matrices} <= set(words)
    assert words.count("_hidden") == (0 if count == 200 else 3 if count <= 25 else 2)
    for axis, matrix in zip(saved[0].figure.axes, matrices.values(), strict=False):
        shown = axis.images[0].get_array()
        assert np.isfinite(shown).all()
        np.testing.assert_allclose(shown[0], matrix[0] / matrix[0].sum())
        if count == 2:
            assert [text.get_text() for text in axis.texts][: np.count_nonzero(matrix[0])] == [
                f"{100 * value / matrix[0].sum():.0f}" for value in matrix[0] if value
            ]


@pytest.mark.parametrize("count", [1, 2, 10, 50])
def test_gains_are_sorted_bars(count: int, saved: list[Saved], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    gains = dict(zip(class_names(count), rng.normal(0, 0.2, count).tolist(), strict=True))
    plot_class_gains(tmp_path / "gains.png", gains, "after minus before\n(percentage points)")
    with Image.open(tmp_path / "gains.png") as plot:
        assert plot.width >= 2 * PHONE
    words = saved[0].check_words()
    assert "after minus before\n(percentage points)" in words and "_hidden" in words
    bars = saved[0].figure.axes[0].patches
    np.testing.assert_allclose([bar.get_width() for bar in bars], sorted(100 * gain for gain in gains.values()))
    assert {(bar.get_width() < 0, to_hex(bar.get_facecolor())) for bar in bars} <= {
        (True, "#d55e00"),
        (False, "#0072b2"),
    }
    lowest = saved[0].figure.axes[0].get_yticklabels()[0].get_text()
    assert min(gains, key=gains.__getitem__).startswith(lowest.removesuffix("…"))


def test_of_very_many_classes_those_that_change_most(saved: list[Saved], tmp_path: Path) -> None:
    gains = {f"class {number}": (number - 250) / 1000 for number in range(500)}
    plot_class_gains(tmp_path / "gains.png", gains, "gain")
    words = saved[0].check_words()
    assert "class 0" in words and "class 499" in words and "class 250" not in words


def test_plots_leave_the_style_of_other_plots_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    plot_class_gains(tmp_path / "gains.png", {"a": 0.1}, "gain")
    assert dict(matplotlib.rcParams) == before
