"""Accuracies by class and trial, their intervals, and differences between encoders.

See docs/concepts/evaluation.md, Intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

# Resamples that are weighted at once: bounds memory where there are many cells.
BLOCK = 100


@dataclass(frozen=True)
class Scores:
    """One score, a cell, for each class in each trial (episode, or seed and split).

    Args:
        values: Accuracy or average precision of the class in the trial (cells,), in [0, 1].
        classes: Class numbers (cells,).
        trials: Trial numbers (cells,).

    Raises:
        ValueError: no cells, unequal lengths, a value outside [0, 1] or a cell that occurs twice.
    """

    values: np.ndarray
    classes: np.ndarray
    trials: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.values) == len(self.classes) == len(self.trials) > 0:
            raise ValueError(
                f"{len(self.values)} values, {len(self.classes)} classes and {len(self.trials)} trials: scores need at "
                "least one cell, and each of the three for every cell."
            )
        if not (np.min(self.values) >= 0 and np.max(self.values) <= 1):  # so written, a NaN is refused as well
            raise ValueError(f"Values reach from {np.min(self.values)} to {np.max(self.values)}, not within [0, 1].")
        if np.unique([self.trials, self.classes], axis=1).shape[1] < len(self.values):
            raise ValueError("A class has several values in the same trial.")

    @classmethod
    def from_clips(cls, correct: np.ndarray, classes: np.ndarray, trials: np.ndarray) -> "Scores":
        """Accuracies from classified clips, in order of trial and class.

        Args:
            correct: Whether each clip was classified correctly, bool (clips,).
            classes: True class numbers (clips,).
            trials: Number of the trial in which each clip was classified (clips,).
        """
        cells, cell = np.unique([trials, classes], axis=1, return_inverse=True)
        cell = cell.ravel()  # NumPy 2.0 gives it one dimension more
        return cls(np.bincount(cell, weights=correct) / np.bincount(cell), classes=cells[1], trials=cells[0])

    @property
    def by_trial(self) -> np.ndarray:
        """Mean over the classes of each trial (trials,)."""
        trial = np.unique(self.trials, return_inverse=True)[1]
        return np.bincount(trial, weights=self.values) / np.bincount(trial)

    @property
    def mean(self) -> float:
        """Mean over trials of the mean over the trial's classes."""
        return float(self.by_trial.mean())

    @property
    def interval(self) -> float | None:
        """Half width of the 95 % confidence interval of the mean over trials; None for a single trial.

        Normal approximation for 30 trials or more, Student's t below. It covers other trials on the same clips. It does
        not cover other recordings or other classes, which move the mean by more, and it is too narrow where trials
        share clips, as seeds and folds do.
        """
        means = self.by_trial
        if len(means) == 1:
            return None
        quantile = 1.96 if len(means) >= 30 else student.ppf(0.975, len(means) - 1)
        return float(quantile * means.std(ddof=1) / np.sqrt(len(means)))

    def by_class(self) -> dict[int, float]:
        """Mean of each class over the trials that have it, by class number."""
        classes, cell = np.unique(self.classes, return_inverse=True)
        means = np.bincount(cell, weights=self.values) / np.bincount(cell)
        return dict(zip(classes.tolist(), means.tolist(), strict=True))

    def __str__(self) -> str:
        mean = f"{100 * self.mean:.1f}"
        return mean if self.interval is None else f"{mean} ± {100 * self.interval:.1f}"


@dataclass(frozen=True)
class Difference:
    """Mean difference of two scores with its 95 % interval.

    Args:
        mean: Mean difference, in [-1, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float


def paired_difference(first: Scores, second: Scores, resamples: int = 2000, seed: int = 0) -> Difference:
    """Second minus first, with the 95 % interval of a paired bootstrap over trials and classes.

    Classes are resampled too, because a method that helps some classes and harms others may not help the next one.
    Percentile bootstraps of few units are narrow: with ten classes, the interval covers the true difference in about
    90 % of cases.

    Args:
        first: Scores of one encoder.
        second: Scores of another one, of the same trials and classes.
        resamples: Number of bootstrap resamples.
        seed: Random seed of the resamples.

    Raises:
        ValueError: the two have other cells, or there is a single one.
    """
    if not (np.array_equal(first.classes, second.classes) and np.array_equal(first.trials, second.trials)):
        raise ValueError(
            "The two scores are of other classes or trials: evaluate both encoders with the same settings."
        )
    _, trial, classes_of_trial = np.unique(first.trials, return_inverse=True, return_counts=True)
    low, high = bootstrap_mean(
        second.values - first.values,
        (first.trials, first.classes),
        resamples,
        seed,
        weights=1 / classes_of_trial[trial],
    )
    return Difference(second.mean - first.mean, low, high)


def bootstrap_mean(
    values: np.ndarray,
    factors: Sequence[np.ndarray],
    resamples: int = 2000,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> tuple[float, float]:
    """Ends of the 95 % percentile bootstrap interval of a mean whose cells share the levels of random factors.

    The levels of each factor are resampled with replacement and independently of the other factors; a cell counts as
    often as the product of its levels' counts (Owen 2007, "The pigeonhole bootstrap"). A resample that holds no cell
    is left out. A factor of one level adds no spread.

    Args:
        values: float (cells,).
        factors: Level of every cell (cells,), for each factor.
        resamples: Number of bootstrap resamples.
        seed: Random seed of the resamples.
        weights: Weights of the cells (cells,), equal by default.

    Raises:
        ValueError: no factor has two levels, or values are not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("Values to resample are not all finite.")
    levels = [np.unique(factor, return_inverse=True) for factor in factors]
    if all(len(names) < 2 for names, _ in levels):
        raise ValueError("No factor has two levels: there is no spread to resample.")
    rng = np.random.default_rng(seed)
    means: list[float] = []
    while len(means) < resamples:
        counted = np.ones((BLOCK, len(values))) if weights is None else np.tile(weights, (BLOCK, 1))
        for names, level in levels:
            counted *= rng.multinomial(len(names), np.full(len(names), 1 / len(names)), BLOCK)[:, level]
        total = counted.sum(axis=1)
        held = total > 0
        means += ((counted @ values)[held] / total[held]).tolist()
    low, high = np.quantile(means[:resamples], [0.025, 0.975])
    return float(low), float(high)


__all__ = ["Difference", "Scores", "bootstrap_mean", "paired_difference"]
