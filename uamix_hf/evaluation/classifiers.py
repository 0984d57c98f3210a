"""Classifiers for a handful of labelled embeddings."""

from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import normalize

from ..metrics.checks import EvaluationError

Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def nearest_centroid(support: np.ndarray, labels: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Class of each query (queries,): centroids of unit vectors, after the mean of the labelled clips is taken off."""
    # Not sklearn's NearestCentroid: it weighs classes by their size, and fails where all vectors are equal.
    centre, classes = support.mean(axis=0), np.unique(labels)
    unit = normalize(support - centre)
    centroids = np.stack([unit[labels == label].mean(axis=0) for label in classes])
    return classes[euclidean_distances(normalize(query - centre), centroids).argmin(axis=1)]


def logistic_regression(support: np.ndarray, labels: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Class of each query (queries,): L2-regularised (C = 1) on unit vectors, after the mean of the labelled clips is
    taken off; as in Tian et al. 2020, "Rethinking few-shot image classification"."""
    centre = support.mean(axis=0, dtype=np.float64)
    classifier = LogisticRegression(C=1.0, max_iter=1000).fit(normalize(support - centre), labels)
    return classifier.predict(normalize(query - centre))


CLASSIFIERS: dict[str, Classifier] = {
    "nearest_centroid": nearest_centroid,
    "logistic_regression": logistic_regression,
}


def find_classifier(name: str) -> Classifier:
    """
    Raises:
        EvaluationError: no such classifier.
    """
    if name not in CLASSIFIERS:
        raise EvaluationError(f"classifier={name!r}: there are {', '.join(CLASSIFIERS)}.")
    return CLASSIFIERS[name]


__all__ = ["CLASSIFIERS", "Classifier", "find_classifier", "logistic_regression", "nearest_centroid"]
