"""What a model says of whole recordings, from their cached log-mels: windows are averaged."""

import numpy as np
from datasets import Dataset

from ..embedding.log_mels import average_windows
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.audio_mae.modeling_audio_mae import AudioMAEForAudioClassification


def predict_logits(
    model: AudioMAEForAudioClassification,
    feature_extractor: AudioMAEFeatureExtractor,
    dataset: Dataset,
    rows: np.ndarray | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Logits (rows, num_labels) float32 of whole recordings, all of them by default; see [`embed_log_mels`]. The
    linear layer would say the same of the averaged embedding."""
    return average_windows(
        lambda values, mask: model(values, mask).logits,
        model, feature_extractor, dataset, rows, batch_size, model.num_labels,
    )  # fmt: skip


def predict(
    model: AudioMAEForAudioClassification,
    feature_extractor: AudioMAEFeatureExtractor,
    dataset: Dataset,
    rows: np.ndarray,
    batch_size: int = 32,
) -> np.ndarray:
    """Class numbers (rows,) int64; see [`predict_logits`]."""
    return predict_logits(model, feature_extractor, dataset, rows, batch_size).argmax(axis=1)


__all__ = ["predict", "predict_logits"]
