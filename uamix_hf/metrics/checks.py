"""What every protocol asks of its clips before it measures."""

import numpy as np


class EvaluationError(ValueError):
    """Embeddings, labels or groups that cannot be evaluated; the message says which and what to do."""


def is_multi_label(labels: np.ndarray) -> bool:
    """Whether labels are bool (clips, classes) rather than class numbers (clips,)."""
    return np.ndim(labels) == 2


def measurable_classes(labels: np.ndarray) -> np.ndarray:
    """Which classes (classes,) bool some clips of `labels` (clips, classes) have and some have not: of the others, any
    scores at all give an average precision of 1, or none."""
    return np.logical_and(labels.any(axis=0), ~labels.all(axis=0))


def check_clips(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> None:
    """
    Args:
        vectors: Embeddings (clips, width). labels: Class numbers (clips,), or bool (clips, classes) for multi-label.
        groups: (clips,).

    Raises:
        EvaluationError: other shapes or types, or an embedding that is not finite.
    """
    if np.ndim(vectors) != 2 or len(vectors) == 0:
        raise EvaluationError(f"Embeddings have the shape {np.shape(vectors)} instead of (clips, width).")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise EvaluationError(
            f"{(~finite).sum()} of {len(vectors)} embeddings are not finite, the first of clip {finite.argmin()}: "
            "look at that recording, or at the weights of the model."
        )
    if is_multi_label(labels):
        if labels.dtype != bool:
            raise EvaluationError(f"Labels of several classes a clip are {labels.dtype} instead of bool.")
    elif np.ndim(labels) != 1 or not np.issubdtype(labels.dtype, np.integer) or np.min(labels, initial=0) < 0:
        raise EvaluationError(
            f"Labels are {labels.dtype} {labels.shape} instead of class numbers (clips,) from 0 on, or bool (clips, "
            "classes)."
        )
    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None and len(values) != len(vectors):
            raise EvaluationError(f"There are {len(vectors)} embeddings and {len(values)} {name}.")


def check_single_label(labels: np.ndarray, protocol: str) -> None:
    """
    Raises:
        EvaluationError: clips have several classes, which `protocol` cannot take.
    """
    if is_multi_label(labels):
        raise EvaluationError(
            f"{protocol} takes one class a clip. Of clips with several classes, linear_probe and knn_probe measure the "
            "average precision."
        )


__all__ = ["EvaluationError", "check_clips", "check_single_label", "is_multi_label", "measurable_classes"]
