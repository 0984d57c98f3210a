"""Classifiers of a handful of clips against their definition and scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from uamix_hf.evaluation import CLASSIFIERS, logistic_regression, nearest_centroid


def centroid_by_loops(support: np.ndarray, labels: np.ndarray, query: np.ndarray) -> list[int]:
    """Mean subtracted, unit vectors, nearest class mean."""
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


@pytest.mark.parametrize("shots", [[1] * 5, [5] * 5, [2, 9, 1, 30], [4, 4]])
def test_logistic_regression_equals_sklearn(shots: list[int]) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(len(shots)) * 3, shots)
    support = (rng.standard_normal((len(labels), 6)) + np.eye(20)[labels, :6] + 5).astype(np.float32)
    query = (rng.standard_normal((300, 6)) + 5).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted = logistic_regression(support, labels, query)
    centre = support.astype(np.float64).mean(axis=0)
    unit = [(rows - centre) / np.linalg.norm(rows - centre, axis=1, keepdims=True) for rows in (support, query)]
    peer = LogisticRegression(C=1.0, max_iter=1000).fit(unit[0], labels)
    assert predicted.tolist() == peer.predict(unit[1]).tolist()
    assert set(predicted.tolist()) <= set(labels.tolist()) and len(set(predicted.tolist())) > 1


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_scale_and_offset_of_the_space_do_not_matter(name: str) -> None:
    rng = np.random.default_rng(2)
    labels, support, query = np.repeat([4, 8, 9], 6), rng.standard_normal((18, 5)), rng.standard_normal((200, 5))
    plain = CLASSIFIERS[name](support, labels, query)
    moved = CLASSIFIERS[name](1e3 * support + 7, labels, 1e3 * query + 7)
    assert plain.tolist() == moved.tolist()


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_separable_and_equal_vectors(name: str) -> None:
    """Equal vectors, as a collapsed encoder gives, are classified as something, without warning or NaN."""
    labels = np.repeat(np.arange(4), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CLASSIFIERS[name](np.eye(4)[labels], labels, np.eye(4)).tolist() == [0, 1, 2, 3]
        same = CLASSIFIERS[name](np.ones((12, 4), np.float32), labels, np.ones((7, 4), np.float32))
    assert same.shape == (7,) and set(same.tolist()) <= {0, 1, 2, 3}
