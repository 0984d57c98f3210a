"""Means and intervals in closed form, the bootstrap against loops, and both as often right as they say."""

import warnings

import numpy as np
import pytest
from scipy.stats import binom, t

from uamix_hf.evaluation import Scores, bootstrap_mean, paired_difference


def test_means_and_interval_by_hand() -> None:
    """Classes 3 and 7 in draws 0 and 5; draw 9 has class 3 alone, which counts as much as the others."""
    scores = Scores(np.array([0.2, 0.4, 0.6, 1.0, 0.9]), np.array([3, 7, 3, 7, 3]), np.array([0, 0, 5, 5, 9]))
    assert scores.by_trial == pytest.approx([0.3, 0.8, 0.9])
    assert scores.mean == pytest.approx(2 / 3)
    spread = np.sqrt(((0.3 - 2 / 3) ** 2 + (0.8 - 2 / 3) ** 2 + (0.9 - 2 / 3) ** 2) / 2)
    assert scores.interval == pytest.approx(4.302653 * spread / np.sqrt(3))  # Student's t, two degrees of freedom
    assert scores.by_class() == pytest.approx({3: (0.2 + 0.6 + 0.9) / 3, 7: 0.7})
    assert str(scores) == "66.7 ± 79.9"


@pytest.mark.parametrize(("draws", "quantile"), [(2, 12.7062), (29, t.ppf(0.975, 28)), (30, 1.96), (600, 1.96)])
def test_the_interval_is_students_below_thirty_draws(draws: int, quantile: float) -> None:
    values = np.random.default_rng(draws).random(draws)
    scores = Scores(values, np.zeros(draws, int), np.arange(draws))
    assert scores.interval == pytest.approx(quantile * values.std(ddof=1) / np.sqrt(draws), rel=1e-5)


def test_one_draw_has_no_interval() -> None:
    scores = Scores(np.array([0.5, 0.784]), np.array([0, 1]), np.array([4, 4]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scores.interval is None
        assert str(scores) == "64.2"


def test_cells_of_clips_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    hits, classes, draws = rng.random(500) < 0.7, rng.integers(0, 6, 500) * 2, rng.integers(0, 9, 500) + 3
    scores = Scores.from_clips(hits, classes, draws)
    expected = {}
    for draw in sorted(set(draws.tolist())):
        for label in sorted(set(classes[draws == draw].tolist())):
            expected[draw, label] = hits[(draws == draw) & (classes == label)].mean()
    assert list(zip(scores.trials.tolist(), scores.classes.tolist(), strict=True)) == list(expected)
    assert scores.values == pytest.approx(list(expected.values()))


@pytest.mark.parametrize(
    ("values", "classes", "draws", "message"),
    [
        ([], [], [], "at least one cell"),
        ([0.5, 0.5], [0], [0, 1], "2 values, 1 classes"),
        ([0.5, np.nan], [0, 1], [0, 0], "within"),
        ([64.2], [0], [0], "within"),
        ([-0.1], [0], [0], "within"),
        ([0.5, 0.6], [1, 1], [0, 0], "several values"),
    ],
)
def test_what_is_no_score_is_refused(values: list, classes: list, draws: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scores(np.array(values), np.array(classes), np.array(draws))


def chance_accuracies(rng: np.random.Generator, episodes: int, n_way: int, shots: int, queries: int) -> np.ndarray:
    """Accuracy of each class (episodes, n_way) where every episode has vectors of its own that know nothing of classes,
    by nearest centroid on unit vectors, all episodes at once."""

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    support = rng.standard_normal((episodes, n_way, shots, 4))
    query = rng.standard_normal((episodes, n_way * queries, 4))
    centre = support.mean(axis=(1, 2))
    centroids = unit(support - centre[:, None, None]).mean(axis=2)
    near = unit(query - centre[:, None]) @ centroids.transpose(0, 2, 1) - (centroids**2).sum(axis=2)[:, None] / 2
    predicted = near.argmax(axis=2).reshape(episodes, n_way, queries)
    return (predicted == np.arange(n_way)[:, None]).mean(axis=2)


@pytest.mark.parametrize("episodes", [100, 10])  # normal approximation and Student's t
def test_the_interval_covers_chance_in_94_to_96_percent_of_runs(episodes: int) -> None:
    rng, runs, n_way = np.random.default_rng(0), 4000, 5
    classes, draws = np.tile(np.arange(n_way), episodes), np.repeat(np.arange(episodes), n_way)
    covered, means = 0, []
    for _ in range(40):
        values = chance_accuracies(rng, runs // 40 * episodes, n_way, shots=2, queries=6)
        for run in values.reshape(runs // 40, -1):
            scores = Scores(run, classes, draws)
            covered += abs(scores.mean - 1 / n_way) <= scores.interval
            means.append(scores.mean)
    assert abs(np.mean(means) - 1 / n_way) < 4 * np.std(means) / np.sqrt(runs)
    assert binom.ppf(0.0005, runs, 0.94) <= covered <= binom.ppf(0.9995, runs, 0.96)


def two_way(rng: np.random.Generator, classes: int, draws: int, n_way: int) -> tuple[np.ndarray, ...]:
    """Differences of mean 0 with an effect of the class and of the draw, `n_way` classes a draw; with their levels."""
    chosen = np.stack([rng.permutation(classes)[:n_way] for _ in range(draws)])
    effect = rng.normal(0, 0.1, classes)[chosen] + rng.normal(0, 0.05, (draws, 1)) + rng.normal(0, 0.1, chosen.shape)
    return effect.ravel(), np.repeat(np.arange(draws), n_way), chosen.ravel()


def bootstrap_by_loops(
    values: np.ndarray, draws: np.ndarray, classes: np.ndarray, rng: np.random.Generator, resamples: int
) -> tuple[float, float]:
    """Draws and classes are drawn with replacement, and every cell at their crossings is put on a heap."""
    cell = {(draw, label): value for draw, label, value in zip(draws, classes, values, strict=True)}
    all_draws, all_classes, means = sorted(set(draws.tolist())), sorted(set(classes.tolist())), []
    for _ in range(resamples):
        some_classes = [all_classes[number] for number in rng.integers(0, len(all_classes), len(all_classes))]
        heap = []
        for number in rng.integers(0, len(all_draws), len(all_draws)):
            heap += [cell[all_draws[number], label] for label in some_classes if (all_draws[number], label) in cell]
        means.append(sum(heap) / len(heap))
    return tuple(np.quantile(means, [0.025, 0.975]))


@pytest.mark.parametrize(("classes", "draws", "n_way"), [(6, 12, 6), (8, 25, 3)])
def test_the_bootstrap_equals_loops(classes: int, draws: int, n_way: int) -> None:
    rng = np.random.default_rng(classes)
    values, draw, label = two_way(rng, classes, draws, n_way)
    expected = bootstrap_by_loops(values, draw, label, rng, 6000)
    found = bootstrap_mean(values, (draw, label), resamples=6000)
    # Quantiles of 6000 resamples spread by about 0.01 of the interval's width.
    width = expected[1] - expected[0]
    assert found == pytest.approx(expected, abs=0.05 * width)
    for factors in ((draw,), (label,)):
        low, high = bootstrap_mean(values, factors, resamples=6000)
        assert high - low < 0.95 * width
    assert bootstrap_mean(values, (draw, label), seed=1) == bootstrap_mean(values, (draw, label), seed=1)
    assert bootstrap_mean(values, (draw, label), seed=1) != bootstrap_mean(values, (draw, label), seed=2)


def test_three_factors_and_names_of_levels() -> None:
    """A third factor that is constant changes nothing but the random numbers; levels may be of any type."""
    values, draw, label = two_way(np.random.default_rng(1), 8, 30, 4)
    names = np.array([f"class {number}" for number in label])
    two = bootstrap_mean(values, (draw, label), resamples=8000)
    three = bootstrap_mean(values, (np.zeros(len(values)), draw, names), resamples=8000)
    assert three == pytest.approx(two, abs=0.05 * (two[1] - two[0]))
    seeds = np.repeat([0, 1], [60, 60])  # an effect of the third factor widens
    low, high = bootstrap_mean(values + 0.5 * seeds, (seeds, draw, label), resamples=8000)
    assert high - low > 3 * (two[1] - two[0])


def test_the_interval_covers_other_classes_where_episodes_alone_do_not() -> None:
    rng, runs = np.random.default_rng(2), 400
    both = alone = 0
    for seed in range(runs):
        values, draw, label = two_way(rng, classes=25, draws=60, n_way=5)
        low, high = bootstrap_mean(values, (draw, label), resamples=400, seed=seed)
        both += low <= 0 <= high
        low, high = bootstrap_mean(values, (draw,), resamples=400, seed=seed)
        alone += low <= 0 <= high
    assert binom.ppf(0.0005, runs, 0.92) <= both <= binom.ppf(0.9995, runs, 0.96)
    assert alone < 0.8 * runs


def test_paired_difference() -> None:
    """Draws with fewer classes count as much as the others, in the mean and in the interval around it."""
    rng = np.random.default_rng(3)
    draws, classes = np.repeat(np.arange(40), np.where(np.arange(40) < 20, 8, 2)), []
    for draw in range(40):
        classes += rng.permutation(8)[: 8 if draw < 20 else 2].tolist()
    first = rng.uniform(0.3, 0.5, len(draws))
    second = first + np.where(draws < 20, 0.1, 0.3) + rng.normal(0, 0.01, len(draws))
    scores = [Scores(values, np.array(classes), draws) for values in (first, second)]
    difference = paired_difference(*scores)
    assert difference.mean == pytest.approx(scores[1].mean - scores[0].mean)
    assert difference.mean == pytest.approx(0.2, abs=0.01)
    assert difference.low < 0.2 < difference.high < 0.3
    assert (difference.low + difference.high) / 2 == pytest.approx(0.2, abs=0.02)  # cells alone would give 0.14
    back = paired_difference(*scores[::-1])
    assert (back.mean, back.low, back.high) == pytest.approx((-difference.mean, -difference.high, -difference.low))


def test_what_cannot_be_compared_is_refused() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4])
    scores = Scores(values, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))
    for classes, draws in (([0, 2, 0, 1], [0, 0, 1, 1]), ([0, 1, 0, 1], [0, 0, 2, 2])):
        with pytest.raises(ValueError, match="same settings"):
            paired_difference(scores, Scores(values, np.array(classes), np.array(draws)))
    with pytest.raises(ValueError, match="same settings"):
        paired_difference(scores, Scores(values[:3], scores.classes[:3], scores.trials[:3]))
    single = Scores(values[:1], np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match="two levels"):
        paired_difference(single, single)
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean(np.array([0.0, np.nan]), (np.arange(2),))


def test_resamples_without_a_cell_are_left_out() -> None:
    """Each draw has a class of its own: half of the resamples of two and two cross nowhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bootstrap_mean(np.array([0.0, 1.0]), (np.arange(2), np.arange(2)))
    assert (low, high) == (0.0, 1.0)
