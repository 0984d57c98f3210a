"""Labelled clips come from the training rows, are the same for every model, and the accuracy is that of a loop."""

import numpy as np
import pytest

from uamix_hf.data import DataError
from uamix_hf.data.labels import draw_labelled
from uamix_hf.evaluation import CLASSIFIERS, SplitError, low_shot_accuracy, make_splits
from uamix_hf.metrics.checks import EvaluationError


def corpus() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, labels and groups: four classes of 10 groups of 3 clips."""
    groups = np.repeat(np.arange(40), 3)
    labels = np.array([2, 3, 5, 9])[groups % 4]
    vectors = np.random.default_rng(0).standard_normal((120, 6)) + 1.5 * np.eye(10)[labels, 2:8]
    return vectors, labels, groups


def test_labelled_clips() -> None:
    _, labels, groups = corpus()
    for train, _ in make_splits(labels, groups, n_splits=3):
        rows = {k: draw_labelled(labels, train, k, seed=1) for k in (1, 2, 10)}
        for k, drawn in rows.items():
            assert set(drawn.tolist()) <= set(train.tolist()) and len(set(drawn.tolist())) == 4 * k
            assert labels[drawn].tolist() == np.repeat([2, 3, 5, 9], k).tolist()
        assert set(rows[1].tolist()) < set(rows[2].tolist()) < set(rows[10].tolist())
        shuffled = np.random.default_rng(0).permutation(train)
        assert draw_labelled(labels, shuffled, 2, seed=1).tolist() == rows[2].tolist()
        assert draw_labelled(labels, train, 2, seed=2).tolist() != rows[2].tolist()


def test_every_training_clip_is_as_likely() -> None:
    labels = np.repeat([0, 1], 8)
    train = np.array([0, 1, 2, 3, 8, 9, 10, 11])
    counts = sum(np.bincount(draw_labelled(labels, train, 2, seed), minlength=16) for seed in range(2000))
    assert counts[[4, 5, 6, 7, 12, 13, 14, 15]].sum() == 0
    assert np.abs(counts[train] - 1000).max() < 5 * np.sqrt(2000 * 0.25)


def test_folds_do_not_draw_alike() -> None:
    """The same places in two folds' training rows, which overlap in most clips, would make their draws one."""
    labels = np.zeros(100, int)
    folds = [np.arange(20, 100), np.concatenate([np.arange(20), np.arange(40, 100)])]
    places = [np.searchsorted(rows, draw_labelled(labels, rows, 5, seed=0)) for rows in folds]
    assert places[0].tolist() != places[1].tolist()


@pytest.mark.parametrize("classifier", list(CLASSIFIERS))
def test_cells_equal_a_loop(classifier: str) -> None:
    vectors, labels, groups = corpus()
    splits, seeds = make_splits(labels, groups, n_splits=3), [7, 8]
    scores = low_shot_accuracy(vectors, labels, splits, 2, seeds, classifier)
    expected = []
    for seed in seeds:
        for train, test in splits:
            drawn = draw_labelled(labels, train, 2, seed)
            predicted = CLASSIFIERS[classifier](vectors[drawn], labels[drawn], vectors[test])
            expected += [(predicted[labels[test] == label] == label).mean() for label in (2, 3, 5, 9)]
    assert scores.values == pytest.approx(expected)
    assert scores.trials.tolist() == np.repeat(np.arange(6), 4).tolist()
    assert scores.classes.tolist() == [2, 3, 5, 9] * 6
    assert 0.4 < scores.mean < 0.95


def test_two_models_meet_the_same_clips() -> None:
    vectors, labels, groups = corpus()
    splits = make_splits(labels, groups, n_splits=3)
    first = low_shot_accuracy(vectors, labels, splits, 2, [0, 1])
    turned = low_shot_accuracy(vectors @ np.linalg.qr(vectors[:6])[0], labels, splits, 2, [0, 1])  # the same distances
    assert np.array_equal(first.values, turned.values)


def test_what_cannot_be_measured_says_why() -> None:
    vectors, labels, groups = corpus()
    splits = make_splits(labels, groups, n_splits=3)
    with pytest.raises(DataError, match=r"Class 2 has \d+ clips among the training rows, k=28 are needed: lower k"):
        low_shot_accuracy(vectors, labels, splits, 28, [0])
    with pytest.raises(DataError, match="Class 9 has 0 clips"):
        draw_labelled(labels, np.flatnonzero(labels < 9), 1, 0)
    with pytest.raises(DataError, match="k=0"):
        low_shot_accuracy(vectors, labels, splits, 0, [0])
    with pytest.raises(SplitError, match="0 seeds"):
        low_shot_accuracy(vectors, labels, splits, 1, [])
    with pytest.raises(SplitError, match="12 clips are training and test rows at once, the first is clip 3"):
        low_shot_accuracy(vectors, labels, [(np.arange(120), np.arange(3, 15))], 1, [0])
    with pytest.raises(EvaluationError, match="linear_probe and knn_probe"):
        low_shot_accuracy(vectors, np.eye(10, dtype=bool)[labels], splits, 1, [0])
    with pytest.raises(EvaluationError, match="there are nearest_centroid"):
        low_shot_accuracy(vectors, labels, splits, 1, [0], "svm")
