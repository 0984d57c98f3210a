"""Checks of embeddings, labels and groups before they are evaluated."""

import numpy as np


class EvaluationError(ValueError):
    """Embeddings, labels or groups cannot be evaluated; the message says which and what to do."""


def is_multi_label(labels: np.ndarray) -> bool:
    """Whether labels are bool (clips, classes) rather than class numbers (clips,)."""
    return np.ndim(labels) == 2


def measurable_classes(labels: np.ndarray) -> np.ndarray:
    """Classes whose average precision is defined and not constant: those that some clips have and some do not.

    Args:
        labels: bool (clips, classes).

    Returns:
        bool (classes,).
    """
    return np.logical_and(labels.any(axis=0), ~labels.all(axis=0))


def check_clips(embeddings: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> None:
    """Check shapes, types and values.

    Args:
        embeddings: float (clips, embedding_size).
        labels: Class numbers (clips,), or bool (clips, classes) for several classes per clip.
        groups: Speaker or source of each clip (clips,).

    Raises:
        EvaluationError: other shapes or types, or an embedding that is not finite.
    """
    if np.ndim(embeddings) != 2 or len(embeddings) == 0:
        raise EvaluationError(f"Embeddings have the shape {np.shape(embeddings)} instead of (clips, embedding_size).")
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise EvaluationError(
            f"{(~finite).sum()} of {len(embeddings)} embeddings are not finite, the first of clip {finite.argmin()}: "
            "check that recording, or the weights of the model."
        )
    if is_multi_label(labels):
        if labels.dtype != bool:
            raise EvaluationError(f"Labels of several classes per clip are {labels.dtype} instead of bool.")
    elif np.ndim(labels) != 1 or not np.issubdtype(labels.dtype, np.integer) or np.min(labels, initial=0) < 0:
        raise EvaluationError(
            f"Labels are {labels.dtype} {labels.shape} instead of class numbers (clips,) from 0 on, or bool (clips, "
            "classes)."
        )
    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None and len(values) != len(embeddings):
            raise EvaluationError(f"There are {len(embeddings)} embeddings and {len(values)} {name}.")


def check_single_label(labels: np.ndarray, protocol: str) -> None:
    """Check that clips have one class each.

    Args:
        labels: Class numbers (clips,), or bool (clips, classes).
        protocol: Name of the protocol, for the message.

    Raises:
        EvaluationError: clips have several classes, which the protocol does not support.
    """
    if is_multi_label(labels):
        raise EvaluationError(
            f"{protocol} takes one class a clip. For clips of several classes, linear_probe and knn_probe measure the "
            "average precision."
        )


__all__ = ["EvaluationError", "check_clips", "check_single_label", "is_multi_label", "measurable_classes"]
