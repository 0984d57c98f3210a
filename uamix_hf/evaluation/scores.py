"""Accuracies with what they vary over: classes, and draws of clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

# Resampled means are weighted a block at a time: bounds memory where there are many cells.
BLOCK = 100


@dataclass(frozen=True)
class Scores:
    """
    One cell for each class in each draw (episode, or seed and fold).

    Args:
        values: Accuracy or average precision of the class in the draw (cells,), in [0, 1].
        classes: Class numbers (cells,). draws: Numbers of the draws (cells,).

    Raises:
        ValueError: no cells, unequal lengths, a value outside [0, 1] or a cell that occurs twice.
    """

    values: np.ndarray
    classes: np.ndarray
    draws: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.values) == len(self.classes) == len(self.draws) > 0:
            raise ValueError(
                f"{len(self.values)} values, {len(self.classes)} classes and {len(self.draws)} draws: scores need at "
                "least one cell, and each of the three for every cell."
            )
        if not (np.min(self.values) >= 0 and np.max(self.values) <= 1):  # so written, a NaN is refused as well
            raise ValueError(f"Values reach from {np.min(self.values)} to {np.max(self.values)}, not within [0, 1].")
        if np.unique([self.draws, self.classes], axis=1).shape[1] < len(self.values):
            raise ValueError("A class has several values in the same draw.")

    @classmethod
    def from_clips(cls, hits: np.ndarray, classes: np.ndarray, draws: np.ndarray) -> "Scores":
        """Cells in order of draw and class.

        Args:
            hits: Whether each classified clip was right (clips,) bool. classes: What is right (clips,).
            draws: In which draw it was classified (clips,).
        """
        cells, cell = np.unique([draws, classes], axis=1, return_inverse=True)
        cell = cell.ravel()  # NumPy 2.0 gives it one dimension more
        return cls(np.bincount(cell, weights=hits) / np.bincount(cell), classes=cells[1], draws=cells[0])

    @property
    def by_draw(self) -> np.ndarray:
        """Mean over the classes of each draw (draws,)."""
        draw = np.unique(self.draws, return_inverse=True)[1]
        return np.bincount(draw, weights=self.values) / np.bincount(draw)

    @property
    def mean(self) -> float:
        """Mean over draws of the mean over the draw's classes."""
        return float(self.by_draw.mean())

    @property
    def interval(self) -> float | None:
        """Half width of the 95 % interval of the mean over draws; None where there is one draw.

        Normal approximation for 30 draws or more, Student's t below. It says how far another set of draws from the
        same pool of clips would lead. It does not cover another pool: other recordings, or other classes, move the
        mean by more. Nor does it know that seeds and folds share clips, which makes it narrow for those.
        """
        means = self.by_draw
        if len(means) == 1:
            return None
        quantile = 1.96 if len(means) >= 30 else student.ppf(0.975, len(means) - 1)
        return float(quantile * means.std(ddof=1) / np.sqrt(len(means)))

    def by_class(self) -> dict[int, float]:
        """Mean of each class over the draws that have it, by class number."""
        classes, cell = np.unique(self.classes, return_inverse=True)
        means = np.bincount(cell, weights=self.values) / np.bincount(cell)
        return dict(zip(classes.tolist(), means.tolist(), strict=True))

    def __str__(self) -> str:
        mean = f"{100 * self.mean:.1f}"
        return mean if self.interval is None else f"{mean} ± {100 * self.interval:.1f}"


@dataclass(frozen=True)
class Difference:
    """Mean of a difference and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_difference(first: Scores, second: Scores, draws: int = 2000, seed: int = 0) -> Difference:
    """Second minus first, with the 95 % interval of a bootstrap over draws and classes.

    Classes count as drawn too, because a method that helps some and harms others is not shown to help the next one.
    As percentile bootstraps of few units are, the interval is narrow where classes are few: with ten it covers the
    truth in about 90 % of cases.

    Args:
        first, second: Scores of two models from the same cells. draws: Resamples. seed: Of the resamples.

    Raises:
        ValueError: the two have other cells, or there is a single one.
    """
    if not (np.array_equal(first.classes, second.classes) and np.array_equal(first.draws, second.draws)):
        raise ValueError("The two scores are of other classes or draws: measure both models with the same settings.")
    _, draw, classes_of_draw = np.unique(first.draws, return_inverse=True, return_counts=True)
    low, high = bootstrap_mean(
        second.values - first.values, (first.draws, first.classes), draws, seed, weights=1 / classes_of_draw[draw]
    )
    return Difference(second.mean - first.mean, low, high)


def bootstrap_mean(
    values: np.ndarray,
    factors: Sequence[np.ndarray],
    draws: int = 2000,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of a mean whose cells share the levels of several random factors.

    The levels of each factor are resampled with replacement and independently of the other factors; a cell counts as
    often as the product of its levels' counts (Owen 2007, "The pigeonhole bootstrap"). A resample that meets no cell
    is left out. A factor of one level adds no spread.

    Args:
        values: (cells,). factors: Level of every cell (cells,), for each factor. draws: Resamples.
        seed: Of the resamples. weights: Of the cells (cells,), equal by default.

    Raises:
        ValueError: no factor has two levels, or values are not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("Values to resample are not all finite.")
    levels = [np.unique(factor, return_inverse=True) for factor in factors]
    if all(len(names) < 2 for names, _ in levels):
        raise ValueError("No factor has two levels: nothing says how much the mean would vary.")
    rng = np.random.default_rng(seed)
    means: list[float] = []
    while len(means) < draws:
        counted = np.ones((BLOCK, len(values))) if weights is None else np.tile(weights, (BLOCK, 1))
        for names, level in levels:
            counted *= rng.multinomial(len(names), np.full(len(names), 1 / len(names)), BLOCK)[:, level]
        total = counted.sum(axis=1)
        met = total > 0
        means += ((counted @ values)[met] / total[met]).tolist()
    low, high = np.quantile(means[:draws], [0.025, 0.975])
    return float(low), float(high)


__all__ = ["Difference", "Scores", "bootstrap_mean", "paired_difference"]
