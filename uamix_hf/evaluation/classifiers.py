"""Classifiers for a few labelled embeddings."""

from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import normalize

from ..metrics.checks import EvaluationError

Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def nearest_centroid(support: np.ndarray, labels: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Classify by the nearest class mean of centred, L2-normalised embeddings.

    The mean of the labelled embeddings is subtracted from all before they are normalised.

    Args:
        support: Labelled embeddings, float (clips, embedding_size).
        labels: Their class numbers (clips,).
        query: Embeddings to classify, float (queries, embedding_size).

    Returns:
        Class number of each query (queries,).
    """
    # Not sklearn's NearestCentroid: it weighs classes by their size, and fails where all vectors are equal.
    centre, classes = support.mean(axis=0), np.unique(labels)
    unit = normalize(support - centre)
    centroids = np.stack([unit[labels == label].mean(axis=0) for label in classes])
    return classes[euclidean_distances(normalize(query - centre), centroids).argmin(axis=1)]


def logistic_regression(support: np.ndarray, labels: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Classify by L2-regularised (C = 1) logistic regression on centred, L2-normalised embeddings.

    As in Tian et al. 2020, "Rethinking few-shot image classification: a good embedding is all you need?"; the mean of
    the labelled embeddings is subtracted from all before they are normalised.

    Args:
        support: Labelled embeddings, float (clips, embedding_size).
        labels: Their class numbers (clips,).
        query: Embeddings to classify, float (queries, embedding_size).

    Returns:
        Class number of each query (queries,).
    """
    centre = support.mean(axis=0, dtype=np.float64)
    classifier = LogisticRegression(C=1.0, max_iter=1000).fit(normalize(support - centre), labels)
    return classifier.predict(normalize(query - centre))


CLASSIFIERS: dict[str, Classifier] = {
    "nearest_centroid": nearest_centroid,
    "logistic_regression": logistic_regression,
}


def find_classifier(name: str) -> Classifier:
    """Classifier by its key in `CLASSIFIERS`.

    Raises:
        EvaluationError: there is no such classifier.
    """
    if name not in CLASSIFIERS:
        raise EvaluationError(f"classifier={name!r}: there are {', '.join(CLASSIFIERS)}.")
    return CLASSIFIERS[name]


__all__ = ["CLASSIFIERS", "Classifier", "find_classifier", "logistic_regression", "nearest_centroid"]
