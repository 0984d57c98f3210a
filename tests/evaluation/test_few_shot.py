"""Episodes leak nothing, are the same for the same seed, and their accuracy is what chance or separation says."""

import warnings

import numpy as np
import pytest

from uamix_hf.evaluation import CLASSIFIERS, Episode, EpisodeError, draw_episodes, few_shot_accuracy
from uamix_hf.metrics.checks import EvaluationError


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


@pytest.mark.parametrize(
    ("groups_of_class", "drawn"), [((5, 5), True), ((8, 2), True), ((10,), False), ((2, 2), False)]
)
def test_a_class_is_drawn_where_k_clips_leave_a_query_of_another_group(groups_of_class: tuple, drawn: bool) -> None:
    """With k = 3, groups of two and two clips are met by any three of them."""
    labels = np.repeat([0, 1, 2], [20, 20, sum(groups_of_class)])
    groups = np.arange(len(labels))
    groups[labels == 2] = 1000 + np.repeat(np.arange(len(groups_of_class)), groups_of_class)
    seen = set()
    for episode in draw_episodes(labels, groups, n_way=2, k_shot=3, queries=5, episodes=100):
        seen |= set(labels[episode.support].tolist())
        assert set(labels[episode.query]) == set(labels[episode.support])
        assert not set(groups[episode.support]) & set(groups[episode.query])
    assert (2 in seen) == drawn


def test_impossible_episodes_say_what_to_change() -> None:
    labels = np.repeat(np.arange(6), 10)
    for arguments in ({"n_way": 7}, {"k_shot": 10}):
        with pytest.raises(EpisodeError, match="lower n_way or k_shot"):
            next(draw_episodes(labels, **arguments))
    for name in ("n_way", "k_shot", "queries", "episodes"):
        with pytest.raises(EpisodeError, match=f"{name}=0"):
            next(draw_episodes(labels, **{name: 0}))
    with pytest.raises(EpisodeError, match="from other groups"):
        next(draw_episodes(labels, np.zeros(60, int), k_shot=1))
    with pytest.raises(EpisodeError, match="4 classes have more than 5 clips"):
        few_shot_accuracy(np.zeros((60, 3)), np.where(labels < 4, labels, np.arange(60) + 9))


@pytest.mark.parametrize("k_shot", [1, 3])
def test_random_vectors_give_chance_in_every_class(k_shot: int) -> None:
    """Vectors are drawn anew for every episode, so that episodes know nothing of each other."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(6), 12) * 2
    runs = [
        few_shot_accuracy(
            rng.standard_normal((len(labels), 4)), labels, k_shot=k_shot, queries=8, episodes=1, seed=seed
        )
        for seed in range(1500)
    ]
    assert all(run.interval is None and len(run.values) == 5 for run in runs)
    means = np.array([run.mean for run in runs])
    assert abs(means.mean() - 1 / 5) < 4 * means.std() / np.sqrt(len(means))
    for label in range(0, 12, 2):
        values = np.concatenate([run.values[run.classes == label] for run in runs])
        assert abs(values.mean() - 1 / 5) < 4 * values.std() / np.sqrt(len(values))


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
    scores = [few_shot_accuracy(space, labels, k_shot=1, queries=2, episodes=60).by_trial for space in (vectors, other)]
    with_clip = [3 in [*e.support, *e.query] for e in draw_episodes(labels, k_shot=1, queries=2, episodes=60)]
    assert np.array_equal(scores[0][~np.array(with_clip)], scores[1][~np.array(with_clip)])
    assert 5 < sum(with_clip) < 55


@pytest.mark.parametrize("classifier", ["nearest_centroid", "logistic_regression"])
def test_cells_equal_a_loop_over_episodes(classifier: str) -> None:
    rng, labels = np.random.default_rng(4), np.repeat([2, 3, 5, 7, 11, 13], 9)
    vectors, groups = rng.standard_normal((54, 6)) + 0.6 * np.eye(14)[labels, 2:8], rng.integers(0, 30, 54)
    settings = {"n_way": 3, "k_shot": 2, "queries": 4, "episodes": 40, "seed": 3}
    scores = few_shot_accuracy(vectors, labels, groups, **settings, classifier=classifier)
    expected = {}
    for number, episode in enumerate(draw_episodes(labels, groups, **settings)):
        predicted = CLASSIFIERS[classifier](vectors[episode.support], labels[episode.support], vectors[episode.query])
        for label in set(labels[episode.query].tolist()):
            asked = labels[episode.query] == label
            expected[number, label] = (predicted[asked] == label).mean()
    found = zip(zip(scores.trials.tolist(), scores.classes.tolist(), strict=True), scores.values, strict=True)
    assert dict(found) == pytest.approx(expected)
    assert 0.4 < scores.mean < 0.9


def test_what_cannot_be_evaluated_is_refused() -> None:
    vectors, labels = np.random.default_rng(0).standard_normal((60, 3)), np.repeat(np.arange(6), 10)
    with pytest.raises(EvaluationError, match="linear_probe and knn_probe"):
        few_shot_accuracy(vectors, np.eye(6, dtype=bool)[labels])
    with pytest.raises(EvaluationError, match="nearest_centroid, logistic_regression"):
        few_shot_accuracy(vectors, labels, classifier="svm")
    vectors[17] = np.nan
    with pytest.raises(EvaluationError, match="1 of 60 embeddings are not finite, the first of clip 17"):
        few_shot_accuracy(vectors, labels)
