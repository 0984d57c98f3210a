"""k nearest neighbours in a space of frozen embeddings."""

import numpy as np
from sklearn.preprocessing import normalize


def leave_one_out_knn(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, neighbours: int) -> float:
    """Share of clips whose label wins the vote of their nearest other clips by cosine.

    Args:
        vectors: (clips, width). labels: (clips,) integers. groups: (clips,); clips of the same group never vote for
            each other, and one without clips of other groups counts as wrong. neighbours: How many vote; ties go to
            the label with the nearer clips.
    """
    unit = normalize(vectors - vectors.mean(axis=0))
    similarity = unit @ unit.T
    same = np.eye(len(labels), dtype=bool) if groups is None else groups[:, None] == groups
    similarity[same] = -np.inf
    nearest = np.argsort(-similarity, axis=1)[:, :neighbours]
    weight = np.take_along_axis(similarity, nearest, axis=1)
    votes = np.zeros((len(labels), int(labels.max()) + 1))
    rows = np.arange(len(labels))[:, None]
    np.add.at(votes, (rows, labels[nearest]), np.where(np.isfinite(weight), 1.0 + 1e-3 * weight, 0.0))
    return float(((votes.argmax(axis=1) == labels) & (votes.max(axis=1) > 0)).mean())


__all__ = ["leave_one_out_knn"]
