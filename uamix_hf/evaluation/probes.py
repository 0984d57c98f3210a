"""What all labelled clips together say of an encoder: a linear probe and nearest neighbours (method.md 3.6)."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers.utils import logging

from ..metrics.checks import check_clips, is_multi_label, measurable_classes
from ..metrics.knn import knn_predictions, nearest_others, resolve_neighbours
from .scores import Scores
from .splits import Split, SplitError, check_rows

logger = logging.get_logger(__name__)


def linear_probe(
    vectors: np.ndarray, labels: np.ndarray, splits: Sequence[Split], names: Sequence[str] | None = None
) -> tuple[Scores, np.ndarray]:
    """Logistic regression (L2, C = 1) on standardised embeddings, learnt anew for each split.

    Args:
        vectors: Embeddings (clips, width). labels: Class numbers (clips,), or bool (clips, classes): then a regression
            for each class, against the rest. splits: Of [`make_splits`]; no clip is tested twice.
        names: Of the classes; those that a split's test rows cannot measure are named in a warning.

    Returns:
        Scores, a draw for each split: accuracies, or average precisions of the classes that some test rows have and
        some have not.
        Predictions: class numbers (clips,), -1 where never tested; or bool (clips, classes), False where never tested.

    Raises:
        EvaluationError: embeddings or labels that cannot be used. SplitError: no splits, a clip that is tested twice,
            or a class that cannot be learnt or measured.
    """
    check_clips(vectors, labels)
    if not splits:
        raise SplitError("There are no splits.")
    tested, counts = np.unique(np.concatenate([test for _, test in splits]), return_counts=True)
    if counts.max(initial=0) > 1:
        raise SplitError(f"Clip {tested[counts.argmax()]} is a test row of {counts.max()} splits; one is allowed.")
    for train, test in splits:
        check_rows(labels, train, test)
    vectors = vectors.astype(np.float64)
    if is_multi_label(labels):
        return probe_multi_label(vectors, labels, splits, names)
    return probe_single_label(vectors, labels, splits)


def probe() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))


def probe_single_label(vectors: np.ndarray, labels: np.ndarray, splits: Sequence[Split]) -> tuple[Scores, np.ndarray]:
    predictions, draws = np.full(len(labels), -1), np.full(len(labels), -1)
    for draw, (train, test) in enumerate(splits):
        predictions[test] = probe().fit(vectors[train], labels[train]).predict(vectors[test])
        draws[test] = draw
    tested = draws >= 0
    return Scores.from_clips((predictions == labels)[tested], labels[tested], draws[tested]), predictions


def probe_multi_label(
    vectors: np.ndarray, labels: np.ndarray, splits: Sequence[Split], names: Sequence[str] | None
) -> tuple[Scores, np.ndarray]:
    predictions, parts = np.zeros(labels.shape, bool), []
    for train, test in splits:
        # A class that all training clips have, or none, cannot be learnt and is predicted so.
        scores = np.tile(np.where(labels[train].all(axis=0), np.inf, -np.inf), (len(test), 1))
        for number in np.flatnonzero(measurable_classes(labels[train])):
            fitted = probe().fit(vectors[train], labels[train, number])
            scores[:, number] = fitted.decision_function(vectors[test])
        predictions[test] = scores > 0
        parts.append(average_precisions(labels[test], scores, names))
    draws = np.repeat(np.arange(len(parts)), [len(values) for values, _ in parts])
    values, classes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Scores(values, classes, draws), predictions


def told_apart(labels: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
    """Numbers of the classes that can be measured, [`measurable_classes`]; the others are named in a warning.

    Args:
        labels: bool (clips, classes). names: Of the classes.

    Raises:
        SplitError: no such class.
    """
    measurable = measurable_classes(labels)
    if not measurable.any():
        raise SplitError(f"All {len(labels)} clips to test have the same classes: nothing can be measured on them.")
    words = [str(number) for number in range(labels.shape[1])] if names is None else names
    if left_out := [word for word, one in zip(words, measurable, strict=True) if not one]:
        logger.warning_once(
            f"Not measured, because all of {len(labels)} clips to test have them, or none: {', '.join(left_out)}."
        )
    return np.flatnonzero(measurable)


def average_precisions(
    labels: np.ndarray, scores: np.ndarray, names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Average precision of each class that some clips have and some have not, and the class numbers (measured,).

    Args:
        labels: bool (clips, classes). scores: (clips, classes), higher where the class is likelier.
        names: Of the classes; those left out are named in a warning.

    Raises:
        SplitError: no such class.
    """
    classes = told_apart(labels, names)
    values = [average_precision_score(labels[:, number], scores[:, number]) for number in classes]
    return np.array(values), classes


def knn_probe(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    neighbours: int = 10,
    names: Sequence[str] | None = None,
) -> tuple[Scores, np.ndarray]:
    """Every clip by its nearest others by cosine, of other groups; nothing is learnt.

    Args:
        vectors: Embeddings (clips, width). labels: Class numbers (clips,), see [`knn_predictions`]; or bool (clips,
            classes), scored by the fraction of neighbours that have the class. groups: Speaker or source (clips,).
        neighbours: How many vote, capped as [`resolve_neighbours`] says. names: Of the classes, for messages.

    Returns:
        Scores, all of one draw: accuracies, or average precisions of the classes that some clips have and some have
        not; of classes that have clips of more than one group.
        Predictions: class numbers (clips,), -1 for a clip that is not measured; or bool (clips, classes), what more
        than half of the neighbours have.

    Raises:
        EvaluationError: embeddings or labels that cannot be used, no neighbours, or (SplitError) nothing to measure.
    """
    check_clips(vectors, labels, groups)
    if not is_multi_label(labels):
        predictions = knn_predictions(vectors, labels, groups, neighbours, names)
        measured = predictions >= 0
        hits = (predictions == labels)[measured]
        return Scores.from_clips(hits, labels[measured], np.zeros(len(hits), int)), predictions
    classes = told_apart(labels, names)
    words = None if names is None else [names[int(number)] for number in classes]
    neighbours, measured = resolve_neighbours(labels[:, classes], groups, neighbours, words)
    classes = classes[measured]
    nearest, similarity = nearest_others(vectors, groups, neighbours)
    votes = np.isfinite(similarity)
    shares = (labels[nearest] & votes[:, :, None]).sum(axis=1) / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    values, _ = average_precisions(labels[:, classes], shares[:, classes])
    return Scores(values, classes, np.zeros(len(classes), int)), shares > 0.5


__all__ = ["average_precisions", "knn_probe", "linear_probe"]
