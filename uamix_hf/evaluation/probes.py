"""What all labelled clips together say of an encoder: a linear probe and nearest neighbours (method.md 3.6)."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .checks import EvaluationError, check_clips, is_multi_label
from .knn import knn_predictions, nearest_others
from .scores import Scores
from .splits import Split, SplitError, check_rows


def linear_probe(vectors: np.ndarray, labels: np.ndarray, splits: Sequence[Split]) -> tuple[Scores, np.ndarray]:
    """Logistic regression (L2, C = 1) on standardised embeddings, learnt anew for each split.

    Args:
        vectors: Embeddings (clips, width). labels: Class numbers (clips,), or bool (clips, classes): then a regression
            for each class, against the rest. splits: Of [`make_splits`]; no clip is tested twice.

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
    return (probe_multi_label if is_multi_label(labels) else probe_single_label)(vectors, labels, splits)


def probe() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))


def probe_single_label(vectors: np.ndarray, labels: np.ndarray, splits: Sequence[Split]) -> tuple[Scores, np.ndarray]:
    predictions, draws = np.full(len(labels), -1), np.full(len(labels), -1)
    for draw, (train, test) in enumerate(splits):
        predictions[test] = probe().fit(vectors[train], labels[train]).predict(vectors[test])
        draws[test] = draw
    tested = draws >= 0
    return Scores.from_clips((predictions == labels)[tested], labels[tested], draws[tested]), predictions


def probe_multi_label(vectors: np.ndarray, labels: np.ndarray, splits: Sequence[Split]) -> tuple[Scores, np.ndarray]:
    predictions, parts = np.zeros(labels.shape, bool), []
    for train, test in splits:
        # A class that all training clips have, or none, cannot be learnt and is predicted so.
        scores = np.tile(np.where(labels[train].all(axis=0), np.inf, -np.inf), (len(test), 1))
        for number in np.flatnonzero(labels[train].any(axis=0) & ~labels[train].all(axis=0)):
            fitted = probe().fit(vectors[train], labels[train, number])
            scores[:, number] = fitted.decision_function(vectors[test])
        predictions[test] = scores > 0
        parts.append(average_precisions(labels[test], scores))
    draws = np.repeat(np.arange(len(parts)), [len(values) for values, _ in parts])
    values, classes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Scores(values, classes, draws), predictions


def average_precisions(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision of each class that some clips have and some have not, and the class numbers (measured,).

    Args:
        labels: bool (clips, classes). scores: (clips, classes), higher where the class is likelier.

    Raises:
        SplitError: no such class.
    """
    classes = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
    if len(classes) == 0:
        raise SplitError(f"All {len(labels)} clips to test have the same classes: nothing can be measured on them.")
    values = [average_precision_score(labels[:, number], scores[:, number]) for number in classes]
    return np.array(values), classes


def knn_probe(
    vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, neighbours: int = 10
) -> tuple[Scores, np.ndarray]:
    """Every clip by its nearest others by cosine, of other groups; nothing is learnt.

    Args:
        vectors: Embeddings (clips, width). labels: Class numbers (clips,), see [`knn_predictions`]; or bool (clips,
            classes), scored by the share of neighbours that have the class. groups: Speaker or source (clips,).
        neighbours: How many vote.

    Returns:
        Scores, all of one draw: accuracies, or average precisions of the classes that some clips have and some have
        not.
        Predictions: class numbers (clips,), -1 for a clip without neighbours (it counts as wrong); or bool (clips,
        classes), what more than half of the neighbours have.

    Raises:
        EvaluationError: embeddings or labels that cannot be used, no neighbours, or (SplitError) nothing to measure.
    """
    check_clips(vectors, labels, groups)
    if neighbours < 1:
        raise EvaluationError(f"neighbours={neighbours}: at least one is needed.")
    if not is_multi_label(labels):
        predictions = knn_predictions(vectors, labels, groups, neighbours)
        return Scores.from_clips(predictions == labels, labels, np.zeros(len(labels), int)), predictions
    nearest, similarity = nearest_others(vectors, groups, neighbours)
    votes = np.isfinite(similarity)
    shares = (labels[nearest] & votes[:, :, None]).sum(axis=1) / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    values, classes = average_precisions(labels, shares)
    return Scores(values, classes, np.zeros(len(classes), int)), shares > 0.5


__all__ = ["average_precisions", "knn_probe", "linear_probe"]
