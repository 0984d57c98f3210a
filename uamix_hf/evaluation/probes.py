"""A linear probe and k nearest neighbours (docs/concepts/evaluation.md, kNN and Linear probe)."""

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
    embeddings: np.ndarray, labels: np.ndarray, splits: Sequence[Split], names: Sequence[str] | None = None
) -> tuple[Scores, np.ndarray]:
    """Logistic regression (L2, C = 1) on standardised embeddings, fitted in each split.

    Args:
        embeddings: float (clips, embedding_size).
        labels: Class numbers (clips,); or bool (clips, classes), for one-vs-rest regressions.
        splits: Of [`make_splits`]; no clip is tested twice.
        names: Class names; those that cannot be measured in a split are named in a warning.

    Returns:
        Scores and predictions. A trial of the scores is a split; they are accuracies, or average precisions of the
        classes that some test clips have and some do not. Predictions are class numbers (clips,), -1 where never
        tested; or bool (clips, classes), False where never tested.

    Raises:
        EvaluationError: embeddings or labels that cannot be used.
        SplitError: no splits, a clip that is tested twice, or a class that cannot be learnt or measured.
    """
    check_clips(embeddings, labels)
    if not splits:
        raise SplitError("There are no splits.")
    tested, counts = np.unique(np.concatenate([test for _, test in splits]), return_counts=True)
    if counts.max(initial=0) > 1:
        raise SplitError(f"Clip {tested[counts.argmax()]} is a test row of {counts.max()} splits; one is allowed.")
    for train, test in splits:
        check_rows(labels, train, test)
    embeddings = embeddings.astype(np.float64)
    if is_multi_label(labels):
        return probe_multi_label(embeddings, labels, splits, names)
    return probe_single_label(embeddings, labels, splits)


def probe() -> Pipeline:
    """Standardisation and logistic regression, not fitted yet."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))


def probe_single_label(
    embeddings: np.ndarray, labels: np.ndarray, splits: Sequence[Split]
) -> tuple[Scores, np.ndarray]:
    """[`linear_probe`] for one class per clip."""
    predictions, trials = np.full(len(labels), -1), np.full(len(labels), -1)
    for trial, (train, test) in enumerate(splits):
        predictions[test] = probe().fit(embeddings[train], labels[train]).predict(embeddings[test])
        trials[test] = trial
    tested = trials >= 0
    return Scores.from_clips((predictions == labels)[tested], labels[tested], trials[tested]), predictions


def probe_multi_label(
    embeddings: np.ndarray, labels: np.ndarray, splits: Sequence[Split], names: Sequence[str] | None
) -> tuple[Scores, np.ndarray]:
    """[`linear_probe`] for several classes per clip."""
    predictions, parts = np.zeros(labels.shape, bool), []
    for train, test in splits:
        # A class that all training clips have, or none, cannot be learnt: the prediction is constant.
        scores = np.tile(np.where(labels[train].all(axis=0), np.inf, -np.inf), (len(test), 1))
        for number in np.flatnonzero(measurable_classes(labels[train])):
            fitted = probe().fit(embeddings[train], labels[train, number])
            scores[:, number] = fitted.decision_function(embeddings[test])
        predictions[test] = scores > 0
        parts.append(average_precisions(labels[test], scores, names))
    trials = np.repeat(np.arange(len(parts)), [len(values) for values, _ in parts])
    values, classes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Scores(values, classes, trials), predictions


def measured_classes(labels: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
    """Numbers of the classes whose average precision is defined; the others are named in a warning.

    Args:
        labels: bool (clips, classes).
        names: Class names.

    Raises:
        SplitError: there is no such class.
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
    """Average precision of each class that some clips have and some do not.

    Args:
        labels: bool (clips, classes).
        scores: float (clips, classes), higher where the class is likelier.
        names: Class names; classes that are left out are named in a warning.

    Returns:
        Average precisions and class numbers, both (measured classes,).

    Raises:
        SplitError: there is no such class.
    """
    classes = measured_classes(labels, names)
    values = [average_precision_score(labels[:, number], scores[:, number]) for number in classes]
    return np.array(values), classes


def knn_probe(
    embeddings: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    neighbours: int = 10,
    names: Sequence[str] | None = None,
) -> tuple[Scores, np.ndarray]:
    """Leave-one-out k nearest neighbours by cosine similarity, among clips of other groups.

    Args:
        embeddings: float (clips, embedding_size).
        labels: Class numbers (clips,), see [`knn_predictions`]; or bool (clips, classes), scored by the fraction of
            neighbours that have the class.
        groups: Speaker or source of each clip (clips,).
        neighbours: How many vote, capped as in [`resolve_neighbours`].
        names: Class names, for messages.

    Returns:
        Scores and predictions. The scores, all of one trial, are accuracies, or average precisions of the classes that
        some clips have and some do not; classes with clips of a single group are left out. Predictions are class
        numbers (clips,), -1 where not measured; or bool (clips, classes), what more than half of the neighbours have.

    Raises:
        EvaluationError: embeddings or labels that cannot be used, or no neighbours.
        SplitError: nothing can be measured.
    """
    check_clips(embeddings, labels, groups)
    if not is_multi_label(labels):
        predictions = knn_predictions(embeddings, labels, groups, neighbours, names)
        measured = predictions >= 0
        correct = (predictions == labels)[measured]
        return Scores.from_clips(correct, labels[measured], np.zeros(len(correct), int)), predictions
    classes = measured_classes(labels, names)
    words = None if names is None else [names[int(number)] for number in classes]
    neighbours, measured = resolve_neighbours(labels[:, classes], groups, neighbours, words)
    classes = classes[measured]
    nearest, similarity = nearest_others(embeddings, groups, neighbours)
    votes = np.isfinite(similarity)
    fractions = (labels[nearest] & votes[:, :, None]).sum(axis=1) / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    values, _ = average_precisions(labels[:, classes], fractions[:, classes])
    return Scores(values, classes, np.zeros(len(classes), int)), fractions > 0.5


__all__ = ["average_precisions", "knn_probe", "linear_probe"]
