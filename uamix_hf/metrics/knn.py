"""k nearest neighbours on frozen embeddings."""

from collections.abc import Sequence

import numpy as np
from sklearn.preprocessing import normalize
from transformers.utils import logging

from .checks import EvaluationError, check_clips, is_multi_label

logger = logging.get_logger(__name__)

# Rows that are compared with all others at once: the similarities of all pairs might not fit into memory.
BLOCK = 1024


def resolve_neighbours(
    labels: np.ndarray, groups: np.ndarray | None, neighbours: int, names: Sequence[str] | None = None
) -> tuple[int, np.ndarray]:
    """How many neighbours vote, and which classes are measured.

    A class of a single clip, or whose clips are all of one group, is not measured: no neighbour could be correct. For
    the others, `neighbours` is capped by the number of clips of the same class and of other groups: otherwise even a
    perfect embedding would be outvoted. Warnings name both.

    Args:
        labels: Class numbers (clips,), -1 where there is none; or bool (clips, classes).
        groups: Speaker or source of each clip (clips,); each clip is its own by default.
        neighbours: How many neighbours are asked for.
        names: Class names, for messages.

    Returns:
        How many neighbours vote, and whether each class is measured, bool (classes,).

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
        raise EvaluationError(f"None of the {len(labels)} clips has a label: there is nothing to measure.")
    if not is_multi_label(labels) and len(present) == 1:
        raise EvaluationError(
            f"All {has.sum()} labelled clips are of one class ({words[present[0]]}): there is nothing to "
            "measure. Give clips of other classes, too."
        )
    of_group = np.zeros((units.max() + 1, has.shape[1]), int)
    np.add.at(of_group, units, has)
    # Of the clips of a class, those of its largest group find the fewest others.
    others = of_group.sum(axis=0) - of_group.max(axis=0)
    measured = others > 0
    few = "a single clip" if groups is None else "clips of a single group"
    if not measured.any():
        raise EvaluationError(f"Each class has {few}, so that no neighbour could be correct: label more clips.")
    if len(missing := words[has.any(axis=0) & ~measured]):
        logger.warning_once(f"Neighbours are not measured for classes with {few}: {', '.join(missing)}.")
    fewest = int(np.where(measured, others, np.iinfo(others.dtype).max).argmin())
    if others[fewest] < neighbours:
        logger.warning_once(
            f"{others[fewest]} neighbours vote instead of {neighbours}: clips of class {words[fewest]} have no more of "
            "their own class" + (" and of other groups." if groups is not None else ".")
        )
    return min(neighbours, int(others[fewest])), measured


def nearest_others(embeddings: np.ndarray, groups: np.ndarray | None, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest other clips of each clip by cosine similarity of centred embeddings, nearest first.

    Args:
        embeddings: float (clips, embedding_size).
        groups: Speaker or source of each clip (clips,); clips of the same group are no neighbours.
        neighbours: How many to find.

    Returns:
        Rows and similarities, both (clips, neighbours). Where there are fewer, the similarities of the rest are -inf.
    """
    unit = normalize(embeddings - embeddings.mean(axis=0))
    groups = np.arange(len(embeddings)) if groups is None else groups
    rows, weights = [], []
    for start in range(0, len(unit), BLOCK):
        similarity = unit[start : start + BLOCK] @ unit.T
        similarity[groups[start : start + BLOCK, None] == groups] = -np.inf
        nearest = np.argsort(-similarity, axis=1)[:, :neighbours]
        rows.append(nearest)
        weights.append(np.take_along_axis(similarity, nearest, axis=1))
    return np.concatenate(rows), np.concatenate(weights)


def knn_predictions(
    embeddings: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    neighbours: int,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Predict each clip by the vote of its nearest other clips (leave one out).

    Args:
        embeddings: float (clips, embedding_size).
        labels: Class numbers (clips,); clips of -1 have no label, are not measured and do not vote.
        groups: Speaker or source of each clip (clips,); clips of the same group do not vote for each other.
        neighbours: How many vote, capped as in [`resolve_neighbours`]; ties go to the class with the nearer clips.
        names: Class names, for messages.

    Returns:
        Predicted class numbers (clips,), -1 where not measured.

    Raises:
        EvaluationError: embeddings that are not finite, shapes that do not fit, or nothing to measure.
    """
    neighbours, measured = resolve_neighbours(labels, groups, neighbours, names)
    labelled = np.flatnonzero(labels != -1)
    groups = None if groups is None else groups[labelled]
    known = labels[labelled]
    check_clips(embeddings[labelled], known, groups)
    nearest, similarity = nearest_others(embeddings[labelled], groups, neighbours)
    votes = np.zeros((len(known), int(known.max()) + 1))
    rows = np.arange(len(known))[:, None]
    np.add.at(votes, (rows, known[nearest]), np.where(np.isfinite(similarity), 1.0 + 1e-3 * similarity, 0.0))
    predictions = np.full(len(labels), -1)
    predictions[labelled] = np.where(measured[known], votes.argmax(axis=1), -1)
    return predictions


def leave_one_out_knn(
    embeddings: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    neighbours: int,
    names: Sequence[str] | None = None,
) -> float:
    """Fraction of the measured clips that their nearest other clips predict correctly.

    Arguments and errors are [`knn_predictions`]'s.
    """
    predictions = knn_predictions(embeddings, labels, groups, neighbours, names)
    measured = predictions >= 0
    return float((predictions == labels)[measured].mean())


__all__ = ["knn_predictions", "leave_one_out_knn", "nearest_others", "resolve_neighbours"]
