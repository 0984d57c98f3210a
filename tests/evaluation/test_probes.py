"""Probes against scikit-learn used directly, on single labels and several."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import StandardScaler

from uamix_hf.evaluation import SplitError, knn_probe, linear_probe, make_splits
from uamix_hf.metrics.checks import EvaluationError
from uamix_hf.metrics.knn import leave_one_out_knn


def corpus(clips: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 vectors whose columns differ in scale, labels 1, 4, 6, and groups of two clips."""
    rng = np.random.default_rng(0)
    groups = np.arange(clips) // 2
    labels = np.array([1, 4, 6])[rng.permutation(groups.max() + 1)[groups] % 3]
    vectors = rng.standard_normal((clips, 8)) + 1.2 * np.eye(8)[labels]
    return (vectors * np.geomspace(1, 100, 8) + 30).astype(np.float32), labels, groups


def multi_labels(clips: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and labels bool (clips, 4): two that can be heard, one at random, one that every clip has."""
    rng = np.random.default_rng(1)
    labels = rng.random((clips, 4)) < [0.5, 0.3, 0.4, 1.1]
    vectors = rng.standard_normal((clips, 6)) + 5
    vectors[:, :2] += 2 * labels[:, :2]
    return vectors.astype(np.float32), labels


def test_linear_probe_equals_sklearn() -> None:
    vectors, labels, groups = corpus()
    splits = make_splits(labels, groups, n_splits=3)[:2]  # the clips of the third are never tested
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores, predictions = linear_probe(vectors, labels, splits)
    expected, cells = np.full(150, -1), []
    for train, test in splits:
        scaler = StandardScaler().fit(vectors[train].astype(np.float64))
        model = LogisticRegression(max_iter=1000).fit(
            scaler.transform(vectors[train].astype(np.float64)), labels[train]
        )
        expected[test] = model.predict(scaler.transform(vectors[test].astype(np.float64)))
        cells += [(expected[test][labels[test] == label] == label).mean() for label in (1, 4, 6)]
    assert predictions.tolist() == expected.tolist() and (predictions == -1).sum() == 150 - len(np.concatenate(
        [test for _, test in splits]
    ))  # fmt: skip
    assert scores.values == pytest.approx(cells)
    assert scores.classes.tolist() == [1, 4, 6] * 2 and scores.trials.tolist() == [0, 0, 0, 1, 1, 1]
    assert 0.5 < scores.mean < 0.95


def test_linear_probe_of_several_labels_equals_sklearn() -> None:
    vectors, labels = multi_labels()
    splits = make_splits(labels, np.arange(150) // 2, n_splits=3)
    scores, predictions = linear_probe(vectors, labels, splits)
    values = []
    for train, test in splits:
        scaler = StandardScaler().fit(vectors[train].astype(np.float64))
        model = OneVsRestClassifier(LogisticRegression(max_iter=1000))
        model.fit(scaler.transform(vectors[train].astype(np.float64)), labels[train, :3].astype(int))
        decision = model.decision_function(scaler.transform(vectors[test].astype(np.float64)))
        values += average_precision_score(labels[test, :3], decision, average=None).tolist()
        assert np.array_equal(predictions[test, :3], decision > 0)
    assert scores.values == pytest.approx(values)
    assert scores.classes.tolist() == [0, 1, 2] * 3  # the class that every clip has cannot be ranked
    assert scores.mean == pytest.approx(np.mean(values))
    by_class = scores.by_class()
    assert by_class[0] > 0.65 > 0.55 > by_class[2]
    assert predictions.dtype == bool and predictions.shape == (150, 4) and predictions[:, 3].all()


def test_classes_that_a_test_fold_lacks_are_left_out_of_it() -> None:
    vectors, labels = multi_labels(90)
    folds = np.repeat(["1", "2", "3"], 30)
    labels[folds == "2", 1] = False
    scores, _ = linear_probe(vectors, labels, make_splits(labels, None, folds))
    assert list(zip(scores.trials.tolist(), scores.classes.tolist(), strict=True)) == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("neighbours", [1, 3])
def test_knn_probe_equals_sklearn(neighbours: int) -> None:
    vectors, labels, groups = corpus()
    labels = np.where(labels == 6, 4, labels)  # two classes and an odd number of votes: no ties
    scores, predictions = knn_probe(vectors, labels, groups, neighbours)
    centred = vectors - vectors.mean(axis=0)
    expected = []
    for row in range(150):
        others = groups != groups[row]
        peer = KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute").fit(centred[others], labels[others])
        expected.append(peer.predict(centred[row : row + 1])[0])
    assert predictions.tolist() == expected
    hits = np.array(expected) == labels
    assert scores.by_class() == pytest.approx({label: hits[labels == label].mean() for label in (1, 4)})
    assert scores.mean == pytest.approx(np.mean([hits[labels == label].mean() for label in (1, 4)]))
    assert scores.interval is None
    assert leave_one_out_knn(vectors, labels, groups, neighbours) == pytest.approx(hits.mean())


def test_knn_probe_of_several_labels_equals_sklearn() -> None:
    vectors, labels = multi_labels()
    groups = np.arange(150) // 2
    scores, predictions = knn_probe(vectors, labels, groups, 5)
    centred = vectors - vectors.mean(axis=0)
    shares = []
    for row in range(150):
        others = np.flatnonzero(groups != groups[row])
        peer = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(centred[others])
        shares.append(labels[others[peer.kneighbors(centred[row : row + 1])[1][0]]].mean(axis=0))
    expected = average_precision_score(labels[:, :3], np.array(shares)[:, :3], average=None)
    assert scores.values == pytest.approx(expected)
    assert scores.classes.tolist() == [0, 1, 2] and set(scores.trials.tolist()) == {0}
    assert np.array_equal(predictions, np.array(shares) > 0.5)


def test_neighbours_that_could_never_be_right_are_not_asked() -> None:
    vectors, labels, _ = corpus(10)
    _, several = multi_labels(10)
    for given in (labels, several):
        with pytest.raises(EvaluationError, match="Each class has clips of a single group"):
            knn_probe(vectors, given, np.zeros(10, int), 3)
    labels[0] = 4  # 6 has one clip left
    scores, predictions = knn_probe(vectors, labels, None, 3)
    assert scores.classes.tolist() == [1, 4] and np.flatnonzero(predictions < 0).tolist() == [1]


@pytest.mark.parametrize("neighbours", [3, 10, 100])
def test_separated_clips_of_several_classes_are_ranked_first_however_few_they_are(neighbours: int) -> None:
    """Two classes a clip, in a direction for each pair; a third of the classes is rare."""
    pairs = np.repeat([[0, 1], [0, 2], [3, 4], [5, 3]], [4, 9, 20, 3], axis=0)
    labels = np.zeros((len(pairs), 6), bool)
    np.put_along_axis(labels, pairs, True, axis=1)
    corner = np.unique(pairs, axis=0, return_inverse=True)[1].ravel()
    vectors = np.eye(4)[corner] + 1e-3 * np.random.default_rng(0).standard_normal((len(pairs), 4))
    scores, predictions = knn_probe(vectors, labels, None, neighbours)
    assert scores.values.tolist() == [1.0] * 6 and np.array_equal(predictions, labels)


def test_classes_that_cannot_be_measured_are_left_out_by_name(caplog: pytest.LogCaptureFixture) -> None:
    vectors, labels = multi_labels()
    labels = np.hstack([labels[:, :2], np.ones((150, 1), bool), np.zeros((150, 1), bool), np.arange(150)[:, None] == 9])
    names = ["dog", "rain", "city noise", "silence", "one owl"]
    scores, _ = knn_probe(vectors, labels, None, 5, names)
    assert scores.classes.tolist() == [0, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "Not measured, because all of 150 clips to test have them, or none: city noise, silence.",
        "Neighbours are not measured for classes with a single clip: one owl.",
    ]
    caplog.clear()
    splits = make_splits(labels[:, :4], None, np.arange(150).astype(str) > "5")
    scores, _ = linear_probe(vectors, labels[:, :4], splits, names[:4])
    assert set(scores.classes.tolist()) == {0, 1}
    assert all("city noise, silence" in record.getMessage() for record in caplog.records) and caplog.records


def test_what_cannot_be_probed_is_refused() -> None:
    vectors, labels, groups = corpus()
    splits = make_splits(labels, groups, n_splits=3)
    with pytest.raises(SplitError, match="test row of 2 splits"):
        linear_probe(vectors, labels, [*splits, splits[0]])
    with pytest.raises(SplitError, match="no splits"):
        linear_probe(vectors, labels, [])
    with pytest.raises(SplitError, match="Class 6 .* cannot be learnt"):
        linear_probe(vectors, labels, [(np.flatnonzero(labels < 6), np.flatnonzero(labels == 6))])
    with pytest.raises(EvaluationError, match="neighbours=0"):
        knn_probe(vectors, labels, groups, 0)
    with pytest.raises(EvaluationError, match="150 embeddings and 149 labels"):
        knn_probe(vectors, labels[1:], groups)
    with pytest.raises(EvaluationError, match="150 embeddings and 3 groups"):
        knn_probe(vectors, labels, groups[:3])
    with pytest.raises(EvaluationError, match="float64"):
        knn_probe(vectors, labels.astype(float), groups)
    with pytest.raises(EvaluationError, match="int64 instead of bool"):
        knn_probe(vectors, np.eye(7, dtype=int)[labels], groups)
    with pytest.raises(EvaluationError, match="instead of .clips, embedding_size."):
        knn_probe(vectors[0], labels, groups)
    several = np.zeros((150, 2), bool)
    with pytest.raises(SplitError, match="have the same classes"):
        knn_probe(vectors, several, groups)
    with pytest.raises(SplitError, match="have the same classes"):
        linear_probe(vectors, several, splits)
    several[splits[0][1][:5], 1] = True
    with pytest.raises(SplitError, match="Class 1 .* cannot be learnt"):
        linear_probe(vectors, several, splits)
    broken = vectors.copy()
    broken[[3, 8], 2] = np.inf
    with pytest.raises(EvaluationError, match="2 of 150 embeddings are not finite, the first of clip 3"):
        linear_probe(broken, labels, splits)
