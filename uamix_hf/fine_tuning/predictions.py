"""Predictions for whole recordings from their cached log-mels: windows are averaged."""

from typing import Any

import numpy as np
from datasets import Dataset

from ..embedding.features import average_outputs
from ..models.front_ends import FrontEnd
from .models import longest_window


def predict_logits(
    model: Any,
    feature_extractor: FrontEnd,
    dataset: Dataset,
    rows: np.ndarray | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Logits (rows, num_labels) float32 of whole recordings.

    Logits of the windows of a recording are averaged, which equals the logits of its averaged embedding.

    Args:
        model: Classifier of [`make_classifier`]; set to evaluation mode.
        feature_extractor: Normalises and pads.
        dataset: Log-mels, of [`cached_features`].
        rows: Rows to predict (rows,) int; all by default.
        batch_size: Windows in a batch.

    Raises:
        ValueError: logits that are not finite, or an impossible batch size.
    """
    return average_outputs(
        lambda values, mask: model(values, mask).logits,
        model, feature_extractor, dataset, rows, batch_size, model.num_labels,
        longest_window(model, feature_extractor),
    )  # fmt: skip


def predict(
    model: Any,
    feature_extractor: FrontEnd,
    dataset: Dataset,
    rows: np.ndarray,
    batch_size: int = 32,
) -> np.ndarray:
    """Predicted class numbers (rows,) int64 of whole recordings; arguments and errors are [`predict_logits`]'s."""
    return predict_logits(model, feature_extractor, dataset, rows, batch_size).argmax(axis=1)


__all__ = ["predict", "predict_logits"]
