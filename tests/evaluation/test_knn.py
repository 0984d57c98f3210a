"""Leave-one-out neighbours against scikit-learn's, and where votes are few or tied."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from uamix_hf.evaluation import knn, leave_one_out_knn


def by_sklearn(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, neighbours: int) -> float:
    centred = vectors - vectors.mean(axis=0)
    hits = 0
    for row in range(len(labels)):
        others = groups != groups[row]
        classifier = KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute")
        classifier.fit(centred[others], labels[others])
        hits += classifier.predict(centred[row : row + 1])[0] == labels[row]
    return hits / len(labels)


@pytest.mark.parametrize(("classes", "neighbours"), [(2, 5), (2, 1), (2, 21), (6, 1)])  # no ties
@pytest.mark.parametrize("grouped", [False, True])
def test_equals_sklearn(classes: int, neighbours: int, grouped: bool) -> None:
    rng = np.random.default_rng(neighbours)
    labels = rng.integers(0, classes, 90)
    vectors = rng.standard_normal((90, 5)) * rng.uniform(0.1, 10, (90, 1)) + 0.7 * np.eye(6)[labels, :5] + 4
    groups = np.arange(90) // 4 if grouped else np.arange(90)
    expected = by_sklearn(vectors, labels, groups, neighbours)
    assert leave_one_out_knn(vectors, labels, groups if grouped else None, neighbours) == pytest.approx(expected)
    assert 0.1 < expected < 0.95


@pytest.mark.parametrize("grouped", [False, True])
def test_clips_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch, grouped: bool) -> None:
    monkeypatch.setattr(knn, "BLOCK", 32)  # 90 clips: the last block is shorter
    test_equals_sklearn(2, 5, grouped)


def test_clips_of_a_group_do_not_vote_for_each_other() -> None:
    """Every clip comes twice with its own random label, so that only its double knows the label."""
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 4, 100), 2)
    vectors = np.repeat(rng.standard_normal((100, 8)), 2, axis=0) + 1e-3 * rng.standard_normal((200, 8))
    assert leave_one_out_knn(vectors, labels, None, 1) == 1.0
    assert leave_one_out_knn(vectors, labels, np.arange(200) // 2, 1) < 0.4


def by_votes(vectors: np.ndarray, labels: np.ndarray, neighbours: int) -> tuple[float, int]:
    """Accuracy, and how often the similarities had to settle a tie."""
    centred = vectors - vectors.mean(axis=0)
    hits = ties = 0
    for row in range(len(labels)):
        similarity = centred @ centred[row] / np.linalg.norm(centred, axis=1) / np.linalg.norm(centred[row])
        nearest = [other for other in np.argsort(-similarity) if other != row][:neighbours]
        votes = {label: (0, 0.0) for label in labels}
        for other in nearest:
            count, total = votes[labels[other]]
            votes[labels[other]] = count + 1, total + similarity[other]
        hits += max(votes, key=votes.__getitem__) == labels[row]
        most = max(votes.values())[0]
        ties += sum(count == most for count, _ in votes.values()) > 1
    return hits / len(labels), ties


@pytest.mark.parametrize("neighbours", [2, 4, 20])
def test_a_tie_goes_to_the_label_with_the_nearer_clips(neighbours: int) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 100)
    vectors = rng.standard_normal((100, 4)) + 0.5 * np.eye(4)[labels]
    expected, ties = by_votes(vectors, labels, neighbours)
    assert ties > 10
    assert leave_one_out_knn(vectors, labels, None, neighbours) == pytest.approx(expected)


def test_a_majority_wins_however_near_the_minority_is() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, vectors = rng.integers(0, 2, 12), rng.standard_normal((12, 3))
        expected, ties = by_votes(vectors, labels, 7)
        assert ties == 0
        assert leave_one_out_knn(vectors, labels, None, 7) == pytest.approx(expected)


def test_a_clip_without_neighbours_of_other_groups_is_not_right() -> None:
    vectors = np.random.default_rng(0).standard_normal((10, 4))
    assert leave_one_out_knn(vectors, np.zeros(10, int), np.zeros(10, int), 3) == 0.0


def test_more_neighbours_than_clips() -> None:
    vectors = np.random.default_rng(0).standard_normal((10, 4))
    labels = np.array([0] * 7 + [1] * 3)
    assert leave_one_out_knn(vectors, labels, None, 50) == 0.7
