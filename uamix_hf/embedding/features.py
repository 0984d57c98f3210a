"""Outputs of a model for whole recordings, from their cached log-mels."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..data import FeatureCollator
from ..data.checks import checked_batch_size
from ..models.front_ends import FrontEnd
from .kinds import front_end_of, make_adapter
from .windows import average_windows


def feature_windows(
    dataset: Dataset, rows: np.ndarray, max_frames: int, min_frames: int = 1
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields the position in `rows` and the log-mel (frames, mel bins) of each window of at most `max_frames`.

    The last of several windows is left out if it is shorter than `min_frames`.
    """
    lengths = np.asarray(dataset["length"][:])[rows]
    for position in np.argsort(lengths, kind="stable"):  # batches of similar length have little padding
        for number, window in enumerate(dataset[int(rows[position])]["features"].split(max_frames)):
            if number == 0 or len(window) >= min_frames:
                yield int(position), window


def average_outputs(
    forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    model: PreTrainedModel,
    feature_extractor: FrontEnd,
    dataset: Dataset,
    rows: np.ndarray | None,
    batch_size: int,
    width: int,
    max_frames: int,
) -> np.ndarray:
    """Computes outputs of a model for whole recordings, see [`average_windows`]. The model is left in evaluation mode.

    Args:
        forward: Computes outputs (batch, width) from `input_values` and `attention_mask`.
        model: The model that `forward` calls.
        feature_extractor: Normalises and pads the log-mels.
        dataset: Log-mels of [`cached_features`].
        rows: Rows of `dataset`; all if None.
        batch_size: Windows in a batch.
        width: Dimensions of an output.
        max_frames: Longest window.

    Returns:
        Means over the windows of each recording (rows, width) float32.

    Raises:
        ValueError: A batch size below 1, or outputs that are not finite.
    """
    batch_size = checked_batch_size(batch_size)
    rows = np.arange(len(dataset)) if rows is None else np.asarray(rows)
    model.eval()
    collator = FeatureCollator(feature_extractor, max_frames, normalize=True)

    @torch.inference_mode()
    def compute(windows: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        batch = collator.pad([window.float() for window in windows], [0] * len(windows))
        mask = batch["attention_mask"]
        outputs = forward(batch["input_values"].to(model.device), mask.to(model.device))
        return outputs.double().cpu().numpy(), mask.sum(1).numpy()

    windows = feature_windows(dataset, rows, max_frames, feature_extractor.min_frames)
    means = average_windows(iter(lambda: list(islice(windows, batch_size)), []), compute, width)
    if not (finite := np.isfinite(means).all(axis=1)).all():
        ids = np.asarray(dataset["sample_id"][:])[rows[~finite]].tolist()
        raise ValueError(
            f"The model's outputs are not finite for {len(ids)} of {len(rows)} recordings, of sample_id {ids[:10]}: "
            "check its weights, or compute in float32."
        )
    return means


def embed_features(
    encoder: PreTrainedModel,
    feature_extractor: Any,
    dataset: Dataset,
    rows: np.ndarray | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Computes pooled embeddings of cached log-mels, as [`AudioEmbedder`] does of recordings.

    Args:
        encoder: The encoder, which is left in evaluation mode.
        feature_extractor: The encoder's own one, or an [`AudioMAEFeatureExtractor`]; normalises and pads the log-mels.
        dataset: Log-mels of [`cached_features`].
        rows: Rows of `dataset`; all if None.
        batch_size: Windows in a batch.

    Returns:
        Embeddings (rows, embedding_size) float32.

    Raises:
        EncoderError: The encoder does not meet the contract of [`EncoderAdapter`].
        ValueError: A feature extractor that does not fit the encoder, a batch size below 1, or embeddings that are not
            finite.
    """
    adapter = make_adapter(encoder)
    feature_extractor = front_end_of(encoder, feature_extractor)
    adapter.check_fit(feature_extractor)
    padding, max_frames = feature_extractor.padding_value, feature_extractor.max_length
    return average_outputs(
        lambda values, mask: adapter.encode(values, mask.sum(1), 0.0, padding)[0],
        adapter.base, feature_extractor, dataset, rows, batch_size, adapter.embedding_size, max_frames,
    )  # fmt: skip


__all__ = ["average_outputs", "embed_features", "feature_windows"]
