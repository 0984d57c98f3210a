"""Outputs of a model for whole recordings from their cached log-mels: windows are averaged."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from datasets import Dataset

from ..data import LogMelCollator
from ..data.checks import checked_batch_size
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.audio_mae.modeling_audio_mae import AudioMAEForAudioClassification, AudioMAEModel


def windows(dataset: Dataset, rows: np.ndarray, max_frames: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Place in `rows` and log-mel (frames, mel bins) of each window of at most `max_frames` frames."""
    lengths = np.asarray(dataset["length"][:])[rows]
    for place in np.argsort(lengths, kind="stable"):  # clips of similar length together leave little padding
        for window in dataset[int(rows[place])]["log_mel"].split(max_frames):
            yield int(place), window


@torch.inference_mode()
def average_windows(
    forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    model: AudioMAEModel | AudioMAEForAudioClassification,
    feature_extractor: AudioMAEFeatureExtractor,
    dataset: Dataset,
    rows: np.ndarray | None,
    batch_size: int,
    width: int,
) -> np.ndarray:
    """What `forward` gives (batch, width) for `input_values` and `attention_mask`, averaged over each recording's
    windows, each weighted by its frames: (rows, width) float32. The model is left in evaluation mode.

    Raises:
        ValueError: a batch of no windows, or recordings of which the model gives no finite numbers.
    """
    batch_size = checked_batch_size(batch_size)
    rows = np.arange(len(dataset)) if rows is None else np.asarray(rows)
    model.eval()
    collator = LogMelCollator(feature_extractor, model.config.max_length, normalize=True)
    total, frames = np.zeros((len(rows), width)), np.zeros((len(rows), 1))
    stream = windows(dataset, rows, model.config.max_length)
    while chunk := list(islice(stream, batch_size)):
        batch = collator([{"log_mel": window, "sample_id": place} for place, window in chunk])
        mask = batch["attention_mask"]
        found = forward(batch["input_values"].to(model.device), mask.to(model.device))
        lengths = mask.sum(1, keepdim=True).numpy()
        places = batch["sample_id"].numpy()
        np.add.at(total, places, found.double().cpu().numpy() * lengths)
        np.add.at(frames, places, lengths)
    means = (total / frames).astype(np.float32)
    if not (finite := np.isfinite(means).all(axis=1)).all():
        ids = np.asarray(dataset["sample_id"][:])[rows[~finite]].tolist()
        raise ValueError(
            f"The model gives no finite numbers for {len(ids)} of {len(rows)} recordings, of sample_id {ids[:10]}: "
            "look at its weights, or compute in float32."
        )
    return means


def embed_log_mels(
    encoder: AudioMAEModel,
    feature_extractor: AudioMAEFeatureExtractor,
    dataset: Dataset,
    rows: np.ndarray | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Pooled embeddings (rows, embedding_size) float32 of cached log-mels; all of them by default.

    As [`AudioEmbedder`] does with recordings, longer ones are averaged over windows, each weighted by its frames.
    The encoder is left in evaluation mode.
    """
    return average_windows(
        lambda values, mask: encoder(values, mask).pooler_output,
        encoder, feature_extractor, dataset, rows, batch_size, encoder.config.embedding_size,
    )  # fmt: skip


__all__ = ["average_windows", "embed_log_mels", "windows"]
