"""k nearest neighbours in a space of frozen embeddings."""

import numpy as np
from sklearn.preprocessing import normalize

# Rows compared with all others at once: the similarities of all pairs would fill memory.
BLOCK = 1024


def nearest_others(vectors: np.ndarray, groups: np.ndarray | None, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and cosine similarities (clips, neighbours) of each clip's nearest others, nearest first.

    The mean of all clips is taken off before. Clips of the same group are no neighbours; where fewer than `neighbours`
    are left, the similarities of the rest are -inf.
    """
    unit = normalize(vectors - vectors.mean(axis=0))
    groups = np.arange(len(vectors)) if groups is None else groups
    rows, weights = [], []
    for start in range(0, len(unit), BLOCK):
        similarity = unit[start : start + BLOCK] @ unit.T
        similarity[groups[start : start + BLOCK, None] == groups] = -np.inf
        nearest = np.argsort(-similarity, axis=1)[:, :neighbours]
        rows.append(nearest)
        weights.append(np.take_along_axis(similarity, nearest, axis=1))
    return np.concatenate(rows), np.concatenate(weights)


def knn_predictions(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, neighbours: int) -> np.ndarray:
    """Label (clips,) that wins the vote of each clip's nearest others by cosine; -1 where a clip has none.

    Args:
        vectors: (clips, width). labels: (clips,) integers. groups: (clips,); clips of the same group never vote for
            each other. neighbours: How many vote; ties go to the label with the nearer clips.
    """
    nearest, similarity = nearest_others(vectors, groups, neighbours)
    votes = np.zeros((len(labels), int(labels.max()) + 1))
    rows = np.arange(len(labels))[:, None]
    np.add.at(votes, (rows, labels[nearest]), np.where(np.isfinite(similarity), 1.0 + 1e-3 * similarity, 0.0))
    return np.where(votes.max(axis=1) > 0, votes.argmax(axis=1), -1)


def leave_one_out_knn(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, neighbours: int) -> float:
    """Share of clips whose label wins the vote of their nearest others; a clip without any counts as wrong.

    See [`knn_predictions`].
    """
    return float((knn_predictions(vectors, labels, groups, neighbours) == labels).mean())


__all__ = ["knn_predictions", "leave_one_out_knn", "nearest_others"]
