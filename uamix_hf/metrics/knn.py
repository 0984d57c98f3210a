"""k nearest neighbours in a space of frozen embeddings."""

from collections.abc import Sequence

import numpy as np
from sklearn.preprocessing import normalize
from transformers.utils import logging

from .checks import EvaluationError, check_clips, is_multi_label

logger = logging.get_logger(__name__)

# Rows compared with all others at once: the similarities of all pairs would fill memory.
BLOCK = 1024


def resolve_neighbours(
    labels: np.ndarray, groups: np.ndarray | None, neighbours: int, names: Sequence[str] | None = None
) -> tuple[int, np.ndarray]:
    """How many neighbours vote, and which classes (classes,) bool are measured: the one rule of all that asks them.

    A class whose clips are all of one group (or that has a single clip) is not measured: no neighbour could be right.
    Of the others, each clip must find as many right neighbours as vote, or even the best embedding would be outvoted:
    `neighbours` is capped by the clips of the same class and of other groups. Both are said, by name.

    Args:
        labels: Class numbers (clips,), -1 where there is none; or bool (clips, classes). groups: (clips,).
        names: Of the classes, for messages.

    Raises:
        EvaluationError: no neighbours, no labels, a single class, or no class that can be measured.
    """
    if neighbours < 1:
        raise EvaluationError(f"neighbours={neighbours}: at least one is needed.")
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1].ravel()
    has = labels if is_multi_label(labels) else labels[:, None] == np.arange(labels.max(initial=-1) + 1)
    words = np.array(range(has.shape[1]) if names is None else names).astype(str)
    present = np.flatnonzero(has.any(axis=0))
    if len(present) == 0:
        raise EvaluationError(f"None of the {len(labels)} clips has a label: neighbours tell nothing.")
    if not is_multi_label(labels) and len(present) == 1:
        raise EvaluationError(
            f"All {has.sum()} labelled clips are of one class ({words[present[0]]}): what their neighbours are "
            "tells nothing. Give clips of other classes, too."
        )
    of_group = np.zeros((units.max() + 1, has.shape[1]), int)
    np.add.at(of_group, units, has)
    # Of the clips of a class, those of its largest group find the fewest others.
    others = of_group.sum(axis=0) - of_group.max(axis=0)
    measured = others > 0
    few = "a single clip" if groups is None else "clips of a single group"
    if not measured.any():
        raise EvaluationError(f"Each class has {few}, so that no neighbour could be right: label more clips.")
    if len(missing := words[has.any(axis=0) & ~measured]):
        logger.warning_once(f"Neighbours are not measured for classes with {few}: {', '.join(missing)}.")
    fewest = int(np.where(measured, others, np.iinfo(others.dtype).max).argmin())
    if others[fewest] < neighbours:
        logger.warning_once(
            f"{others[fewest]} neighbours vote instead of {neighbours}: clips of class {words[fewest]} have no more of "
            "their own class" + (" and of other groups." if groups is not None else ".")
        )
    return min(neighbours, int(others[fewest])), measured


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


def knn_predictions(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    neighbours: int,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Label (clips,) that wins the vote of each clip's nearest others by cosine; -1 where it is not measured.

    Args:
        vectors: (clips, width). labels: (clips,) integers; clips of -1 have no label: they are not measured, and no
            neighbours. groups: (clips,); clips of the same group never vote for each other.
        neighbours: How many vote, capped as [`resolve_neighbours`] says; ties go to the label with the nearer clips.
        names: Of the classes, for messages.

    Raises:
        EvaluationError: embeddings that are not finite, shapes that do not fit, or nothing to measure.
    """
    neighbours, measured = resolve_neighbours(labels, groups, neighbours, names)
    labelled = np.flatnonzero(labels != -1)
    groups = None if groups is None else groups[labelled]
    known = labels[labelled]
    check_clips(vectors[labelled], known, groups)
    nearest, similarity = nearest_others(vectors[labelled], groups, neighbours)
    votes = np.zeros((len(known), int(known.max()) + 1))
    rows = np.arange(len(known))[:, None]
    np.add.at(votes, (rows, known[nearest]), np.where(np.isfinite(similarity), 1.0 + 1e-3 * similarity, 0.0))
    predictions = np.full(len(labels), -1)
    predictions[labelled] = np.where(measured[known], votes.argmax(axis=1), -1)
    return predictions


def leave_one_out_knn(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    neighbours: int,
    names: Sequence[str] | None = None,
) -> float:
    """Fraction of the measured clips whose label wins the vote of their nearest others; see [`knn_predictions`]."""
    predictions = knn_predictions(vectors, labels, groups, neighbours, names)
    measured = predictions >= 0
    return float((predictions == labels)[measured].mean())


__all__ = ["knn_predictions", "leave_one_out_knn", "nearest_others", "resolve_neighbours"]
