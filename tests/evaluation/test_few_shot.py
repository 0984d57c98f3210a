"""Episodes leak nothing, are the same for the same seed, and their accuracy is what chance or separation says."""

import warnings

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from uamix_hf.evaluation import Accuracy, Episode, EpisodeError, draw_episodes, few_shot_accuracy, nearest_centroid


def corpus(classes: int = 8, speakers: int = 12, clips: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of clips in which every speaker says every class."""
    labels, groups = np.meshgrid(np.arange(classes), np.repeat(np.arange(speakers), clips), indexing="ij")
    return labels.ravel(), groups.ravel()


def check(episode: Episode, labels: np.ndarray, n_way: int, k_shot: int, queries: int) -> None:
    """Sizes, and class numbers that stand for one class each in support and query."""
    assert np.bincount(episode.support_labels).tolist() == [k_shot] * n_way
    counts = np.bincount(episode.query_labels, minlength=n_way)
    assert len(counts) == n_way and 1 <= counts.min() and counts.max() <= queries
    rows = np.concatenate([episode.support, episode.query])
    assert len(set(rows.tolist())) == len(rows)
    pairs = set(zip(np.concatenate([episode.support_labels, episode.query_labels]), labels[rows], strict=True))
    assert len(pairs) == n_way == len({label for _, label in pairs})


@pytest.mark.parametrize(("n_way", "k_shot", "queries"), [(5, 1, 15), (5, 5, 15), (2, 3, 4), (8, 1, 1)])
def test_support_and_query_never_share_a_group(n_way: int, k_shot: int, queries: int) -> None:
    labels, groups = corpus()
    if n_way * k_shot > 12:  # else every speaker would be among the labelled ones
        labels, groups = corpus(speakers=60)
    drawn = list(draw_episodes(labels, groups, n_way, k_shot, queries, episodes=200))
    assert len(drawn) == 200
    for episode in drawn:
        check(episode, labels, n_way, k_shot, queries)
        assert not set(groups[episode.support]) & set(groups[episode.query])
    assert {label for episode in drawn for label in labels[episode.support]} == set(range(8))


def test_without_groups_every_clip_may_be_a_query() -> None:
    labels = np.repeat(["dog", "cat", "rain"], [7, 30, 6])
    for episode in draw_episodes(labels, None, n_way=3, k_shot=5, queries=15, episodes=50):
        check(episode, labels, 3, 5, 15)
        counts = dict(zip(*np.unique(labels[episode.query], return_counts=True), strict=True))
        assert counts == {"dog": 2, "cat": 15, "rain": 1}  # as many as there are, up to 15


def test_the_seed_decides_the_episodes() -> None:
    labels, groups = corpus()

    def rows(seed: int, episodes: int = 20) -> list[list[int]]:
        drawn = draw_episodes(labels, groups, k_shot=1, episodes=episodes, seed=seed)
        return [np.concatenate([episode.support, episode.query]).tolist() for episode in drawn]

    assert rows(0) == rows(0) != rows(1)
    assert rows(0, 5) == rows(0)[:5]
    assert len({tuple(episode) for episode in rows(0)}) == 20


def test_a_class_of_a_single_group_is_never_drawn() -> None:
    labels = np.repeat(np.arange(6), 10)
    groups = np.arange(60)
    groups[labels == 2] = 1000
    for episode in draw_episodes(labels, groups, n_way=5, k_shot=2, queries=5, episodes=50):
        assert set(labels[episode.support]) == set(labels[episode.query]) == {0, 1, 3, 4, 5}


def test_impossible_episodes_say_what_to_change() -> None:
    labels = np.repeat(np.arange(6), 10)
    for arguments in ({"n_way": 7}, {"k_shot": 10}):
        with pytest.raises(EpisodeError, match="lower n_way or k_shot"):
            next(draw_episodes(labels, **arguments))
    with pytest.raises(EpisodeError, match="from other groups"):
        next(draw_episodes(labels, np.zeros(60, int), k_shot=1))
    with pytest.raises(EpisodeError, match="4 classes have more than 5 clips"):
        few_shot_accuracy(np.zeros((60, 3)), np.where(labels < 4, labels, np.arange(60) + 9))


def centroid_by_loops(support: np.ndarray, labels: np.ndarray, query: np.ndarray) -> list[int]:
    """method.md 3.6: mean taken off, unit vectors, nearest class mean."""
    centre = sum(support) / len(support)
    places = {}
    for label in sorted(set(labels.tolist())):
        units = [(row - centre) / np.sqrt(((row - centre) ** 2).sum()) for row in support[labels == label]]
        places[label] = sum(units) / len(units)
    predicted = []
    for row in query:
        unit = (row - centre) / np.sqrt(((row - centre) ** 2).sum())
        predicted.append(min(places, key=lambda label, unit=unit: ((unit - places[label]) ** 2).sum()))
    return predicted


@pytest.mark.parametrize("shots", [[1] * 5, [5] * 5, [2, 9, 1, 30]])
def test_nearest_centroid_equals_its_definition(shots: list[int]) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(shots)) * 3, shots)  # any class numbers
    support = rng.standard_normal((len(labels), 6)) + 5  # far off the origin, so that centring shows
    query = rng.standard_normal((300, 6)) * [1, 1, 1, 1, 1, 20] + 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted = nearest_centroid(support, labels, query)
    assert predicted.tolist() == centroid_by_loops(support, labels, query)
    assert len(set(predicted.tolist())) == len(shots)
    if shots == [5] * 5:
        centre = support.mean(axis=0)
        peer = NearestCentroid().fit(normalize(support - centre), labels)
        assert predicted.tolist() == peer.predict(normalize(query - centre)).tolist()


def random_episodes(rng: np.random.Generator, episodes: int, seed: int) -> Accuracy:
    """Accuracy where each episode has vectors of its own that know nothing of the classes."""
    labels = np.repeat(np.arange(6), 12)
    scores = []
    for episode in draw_episodes(labels, n_way=5, k_shot=2, queries=10, episodes=episodes, seed=seed):
        vectors = rng.standard_normal((len(labels), 4))
        predicted = nearest_centroid(vectors[episode.support], episode.support_labels, vectors[episode.query])
        scores.append((predicted == episode.query_labels).mean())
    return Accuracy(np.array(scores))


def test_random_vectors_give_chance_and_the_interval_covers_it_as_often_as_it_says() -> None:
    rng, runs = np.random.default_rng(0), 250
    results = [random_episodes(rng, 30, seed) for seed in range(runs)]
    everything = Accuracy(np.concatenate([result.episodes for result in results]))
    assert abs(everything.mean - 0.2) < 4 * everything.interval / 1.96
    covered = sum(abs(result.mean - 0.2) <= result.interval for result in results)
    low, high = binom.interval(0.999, runs, 0.95)
    assert low <= covered <= high


def test_separable_vectors_give_one_and_equal_vectors_chance() -> None:
    labels, groups = corpus()
    rng = np.random.default_rng(1)
    clear = np.eye(8)[labels] + 0.01 * rng.standard_normal((len(labels), 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for vectors, expected in ((clear, 1.0), (np.ones((len(labels), 4), np.float32), 0.2)):
            for k_shot in (1, 2):
                result = few_shot_accuracy(vectors, labels, groups, n_way=5, k_shot=k_shot, queries=2, episodes=30)
                assert result.mean == pytest.approx(expected, abs=0.02)


def test_two_encoders_meet_the_same_episodes() -> None:
    """Clip by clip: where vectors differ in a few clips, episodes without those clips score the same."""
    labels = np.repeat(np.arange(6), 10)
    vectors = np.random.default_rng(2).standard_normal((60, 5))
    other = vectors.copy()
    other[3] += 10
    scores = [few_shot_accuracy(space, labels, k_shot=1, queries=2, episodes=60).episodes for space in (vectors, other)]
    with_clip = [3 in [*e.support, *e.query] for e in draw_episodes(labels, k_shot=1, queries=2, episodes=60)]
    assert np.array_equal(scores[0][~np.array(with_clip)], scores[1][~np.array(with_clip)])
    assert 5 < sum(with_clip) < 55


def test_interval_is_the_normal_approximation() -> None:
    accuracy = Accuracy(np.array([0.2, 0.4, 0.6, 0.8]))
    spread = np.sqrt((0.09 + 0.01 + 0.01 + 0.09) / 3)
    assert accuracy.mean == pytest.approx(0.5)
    assert accuracy.interval == pytest.approx(1.96 * spread / 2)
    assert str(accuracy) == "50.0 ± 25.3"
