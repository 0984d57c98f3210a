"""Leave-one-out neighbours against scikit-learn's, and where votes are few or tied."""

import re

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from uamix_hf.metrics import knn
from uamix_hf.metrics.checks import EvaluationError
from uamix_hf.metrics.knn import knn_predictions, leave_one_out_knn, resolve_neighbours


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
        labels, vectors = rng.integers(0, 2, 30), rng.standard_normal((30, 3))
        expected, ties = by_votes(vectors, labels, 7)
        assert ties == 0
        assert leave_one_out_knn(vectors, labels, None, 7) == pytest.approx(expected)


def separated(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Clips of each class in a direction of its own, far from all others."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.eye(len(counts))[labels] + 1e-3 * np.random.default_rng(0).standard_normal(
        (len(labels), len(counts))
    ), labels


@pytest.mark.parametrize("counts", [[2] * 6, [3] * 8, [5] * 4, [2, 30, 30], [4, 5, 11]])
@pytest.mark.parametrize("neighbours", [10, 500])
def test_separated_classes_are_found_however_few_clips_they_have(counts: list[int], neighbours: int, caplog) -> None:
    vectors, labels = separated(counts)
    names = [f"class {number} of {counts}, {neighbours}" for number in range(len(counts))]  # each warning comes once
    assert leave_one_out_knn(vectors, labels, None, neighbours, names) == 1.0
    rare = names[int(np.argmin(counts))]
    message = f"{min(counts) - 1} neighbours vote instead of {neighbours}: clips of class {rare} have no more"
    assert [message in record.getMessage() for record in caplog.records] == [True]
    assert resolve_neighbours(labels, None, neighbours)[0] == min(counts) - 1


def test_only_clips_of_other_groups_count_for_the_cap() -> None:
    """Ten clips a class, of which nine are of one speaker: each of the nine can find one other."""
    vectors, labels = separated([10] * 4)
    speakers = np.where(np.arange(40) % 10 == 0, 0, 1) + 2 * labels
    assert resolve_neighbours(labels, speakers, 10)[0] == 1
    assert leave_one_out_knn(vectors, labels, speakers, 10) == 1.0
    assert resolve_neighbours(labels, np.arange(40) % 10 // 2, 10)[0] == 8
    assert resolve_neighbours(labels, np.arange(40) % 10 // 2, 7)[0] == 7


def test_a_class_of_one_group_is_not_measured_but_stands_in_the_way(caplog) -> None:
    """The single clip of class 1 cannot be right, and is a wrong neighbour for the clips of class 0 beside it."""
    rng = np.random.default_rng(1)
    labels = np.array([0] * 6 + [1] + [2] * 6)
    vectors = np.array([[1.0, 0.0]] * 7 + [[-1.0, 0.0]] * 6) + 1e-2 * rng.standard_normal((13, 2))
    vectors[6] = vectors[:6].mean(axis=0)
    predictions = knn_predictions(vectors, labels, None, 1, ["dog", "a rare bird", "rain"])
    assert predictions[6] == -1 and (predictions[7:] == 2).all() and (predictions[:6] == 1).any()
    expected = np.concatenate([predictions[:6] == 0, predictions[7:] == 2]).mean()
    assert leave_one_out_knn(vectors, labels, None, 1) == expected
    assert "Neighbours are not measured for classes with a single clip: a rare bird." in caplog.text


def test_clips_without_a_label_are_no_class_and_no_neighbours() -> None:
    rng = np.random.default_rng(2)
    vectors, labels, groups = rng.standard_normal((60, 4)), rng.integers(0, 2, 60), np.arange(60) // 3
    vectors += np.eye(4)[labels]
    unknown = rng.random(60) < 0.4
    given = np.where(unknown, -1, labels)
    alone = knn_predictions(vectors[~unknown], labels[~unknown], groups[~unknown], 3)
    predictions = knn_predictions(vectors, given, groups, 3)
    assert predictions[~unknown].tolist() == alone.tolist() and (predictions[unknown] == -1).all()
    assert leave_one_out_knn(vectors, given, groups, 3) == (alone == labels[~unknown]).mean()


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0] * 6, None, "All 6 labelled clips are of one class (dog)"),
        ([0, 0, 0, -1, -1, -1], None, "All 3 labelled clips are of one class (dog)"),
        ([0, 1, 2, 3, 4, 5], None, "Each class has a single clip"),
        ([0, 0, 1, 1, 2, 2], [7] * 6, "Each class has clips of a single group"),
        ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], "Each class has clips of a single group"),
        ([-1] * 6, None, "None of the 6 clips has a label"),
    ],
)
def test_what_tells_nothing_is_an_error(labels: list[int], groups: list[int] | None, message: str) -> None:
    vectors = np.random.default_rng(0).standard_normal((6, 4))
    given = None if groups is None else np.array(groups)
    with pytest.raises(EvaluationError, match=re.escape(message)):
        leave_one_out_knn(vectors, np.array(labels), given, 2, ["dog", "cat", "hen", "rain", "sea", "wind"])
