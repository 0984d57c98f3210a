"""Measures of embeddings that need no labels: spread, effective rank, alignment of views, agreement of neighbours."""

import numpy as np
from sklearn.preprocessing import normalize

from ..metrics.knn import nearest_others


def embedding_std(embeddings: np.ndarray) -> float:
    """Mean standard deviation per dimension of unit vectors, times the square root of the number of dimensions.

    About 1 is healthy, towards 0 the embeddings collapse to a point.

    Args:
        embeddings: float (clips, embedding_size).
    """
    return float(normalize(embeddings).std(axis=0, ddof=1).mean() * embeddings.shape[1] ** 0.5)


def effective_rank(embeddings: np.ndarray) -> float:
    """Exponential of the entropy of the normalised singular values of centred unit vectors (Roy and Vetterli, 2007).

    The number of dimensions that are in use, between 1 and the smaller of clips - 1 and the embedding size; 0 for
    embeddings that are all the same.

    Args:
        embeddings: float (clips, embedding_size).
    """
    unit = normalize(embeddings)
    values = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    # Below rounding, all vectors are the same.
    if values.sum() <= np.finfo(unit.dtype).eps * len(unit):
        return 0.0
    parts = values[values > 0] / values.sum()
    return float(np.exp(-(parts * np.log(parts)).sum()))


def alignment(views: np.ndarray, others: np.ndarray) -> float:
    """Mean squared distance of the unit vectors of two views of each clip, between 0 and 4 (Wang and Isola, 2020).

    Args:
        views: Embeddings of the first views, float (clips, embedding_size).
        others: Embeddings of the second views.
    """
    return float(np.square(normalize(views) - normalize(others)).sum(axis=1).mean())


def neighbours_of(embeddings: np.ndarray, most: int = 10) -> np.ndarray:
    """Nearest other clips of each clip by cosine similarity of centred embeddings, int64 (clips, neighbours).

    Args:
        embeddings: float (clips, embedding_size).
        most: How many to find; of fewer than 8 times as many clips an eighth, and at least 1.
    """
    return nearest_others(embeddings, None, min(most, max(1, len(embeddings) // 8)))[0]


def agreement(neighbours: np.ndarray, others: np.ndarray) -> float:
    """Mean fraction of each clip's neighbours that two embeddings have in common.

    Args:
        neighbours: Neighbours by one embedding, (clips, neighbours).
        others: Neighbours by the other.
    """
    return float((neighbours[:, :, None] == others[:, None, :]).any(axis=2).mean())


__all__ = ["agreement", "alignment", "effective_rank", "embedding_std", "neighbours_of"]
