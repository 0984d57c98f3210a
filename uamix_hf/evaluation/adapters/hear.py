"""The common API of HEAR, "Holistic Evaluation of Audio Representations" (Turian et al. 2022).

The API is that of https://hearbenchmark.com/hear-api.html. `heareval` takes this module and a folder by name:

    python -m heareval.embeddings.runner uamix_hf.evaluation.adapters.hear --model FOLDER
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from ...embedding import AudioEmbedder, FrameEmbeddings

# Sampling rates that HEAR has its tasks in, in Hz. Its validator of 2021 does not know 32 kHz yet.
SAMPLE_RATES = (16_000, 22_050, 32_000, 44_100, 48_000)
# HEAR's transcription of music tolerates onsets that are 50 ms off.
LONGEST_HOP = 50.0


class HearModel(nn.Module):
    """An encoder with the attributes that HEAR asks of a model.

    `sample_rate` in Hz is the lowest one of HEAR that is not below the encoder's own, `scene_embedding_size` and
    `timestamp_embedding_size` are dimensions.

    Args:
        embedder: The encoder.
        hop_ms: From timestamp to timestamp in ms; by default from token to token, and 50 ms where tokens are coarser.

    Raises:
        ValueError: A hop that is not positive, or an encoder of a higher sampling rate than HEAR has.
    """

    def __init__(self, embedder: AudioEmbedder, hop_ms: float | None = None):
        super().__init__()
        extractor = embedder.feature_extractor
        if hop_ms is not None and not hop_ms > 0:
            raise ValueError(f"hop_ms={hop_ms}: expected a positive number of ms.")
        if not (rates := [rate for rate in SAMPLE_RATES if rate >= extractor.sampling_rate]):
            raise ValueError(
                f"The encoder takes {extractor.sampling_rate} Hz, and HEAR has at most {SAMPLE_RATES[-1]}."
            )
        self.embedder = embedder
        self.encoder = embedder.model  # so that `to` moves it
        self.sample_rate = rates[0]
        self.hop_ms = min(1000 * embedder.frame_hop, LONGEST_HOP) if hop_ms is None else hop_ms
        self.scene_embedding_size = embedder.embedding_size
        second: Any = embedder.encode_frames(np.zeros(extractor.sampling_rate, np.float32))
        self.timestamp_embedding_size = second.embeddings.shape[1]

    def recordings(self, audio: torch.Tensor) -> list[dict[str, Any]]:
        """The sounds (n_sounds, n_samples) at `sample_rate` Hz as recordings.

        Raises:
            ValueError: Another shape.
        """
        if audio.ndim != 2:
            raise ValueError(f"audio has shape {tuple(audio.shape)}; HEAR's is (n_sounds, n_samples).")
        return [{"array": wave, "sampling_rate": self.sample_rate} for wave in audio.float().cpu().numpy()]


def load_model(model_file_path: str = "", hop_ms: float | None = None) -> HearModel:
    """Loads an encoder.

    Args:
        model_file_path: Folder or Hub repository of the encoder.
        hop_ms: As in [`HearModel`].

    Raises:
        OSError: No such folder or repository.
        ValueError: No folder, or as in [`HearModel`].
    """
    if not model_file_path:
        raise ValueError("There is no default encoder: give a folder or Hub repository, as --model FOLDER of heareval.")
    return HearModel(AudioEmbedder.from_pretrained(model_file_path), hop_ms)


def get_scene_embeddings(audio: torch.Tensor, model: HearModel) -> torch.Tensor:
    """One embedding of each sound.

    Args:
        audio: Mono sounds (n_sounds, n_samples) in [-1, 1], at `model.sample_rate` Hz.
        model: Of [`load_model`].

    Returns:
        (n_sounds, scene_embedding_size) float32, on the device of the audio.
    """
    embeddings = model.embedder.encode(model.recordings(audio), progress_bar=False)
    return torch.from_numpy(embeddings).to(audio.device)


def get_timestamp_embeddings(audio: torch.Tensor, model: HearModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of each sound at regular times: its frames, interpolated linearly between the centres of tokens.

    The first time is the first of a regular grid that contains the centre of the first token, so that with the tokens'
    own hop the embeddings of one window are its tokens.

    Args:
        audio: Mono sounds (n_sounds, n_samples) in [-1, 1], at `model.sample_rate` Hz.
        model: Of [`load_model`].

    Returns:
        Embeddings (n_sounds, n_timestamps, timestamp_embedding_size) float32, and their times in ms (n_sounds,
        n_timestamps) float64, on the device of the audio.
    """
    sounds: Any = model.embedder.encode_frames(model.recordings(audio), progress_bar=False)
    if not sounds:
        size = model.timestamp_embedding_size
        return torch.zeros(0, 0, size, device=audio.device), torch.zeros(0, 0, device=audio.device)
    duration = 1000 * audio.shape[1] / model.sample_rate
    first = 1000 * sounds[0].times[0] % model.hop_ms
    times = first + model.hop_ms * np.arange(max(1, 1 + np.floor((duration - first) / model.hop_ms)))
    vectors = np.stack([interpolated(frames, times / 1000) for frames in sounds])
    stamps = torch.from_numpy(times).expand(len(sounds), -1)
    return torch.from_numpy(vectors).to(audio.device), stamps.to(audio.device)


def interpolated(frames: FrameEmbeddings, times: np.ndarray) -> np.ndarray:
    """Vectors (times, size) float32 at times in s; before the first frame those of the first, and so at the end."""
    places = np.interp(times, frames.times, np.arange(len(frames.times)))
    lower = np.floor(places).astype(int)
    upper = np.minimum(lower + 1, len(frames.times) - 1)
    share = (places - lower)[:, None].astype(np.float32)
    return (1 - share) * frames.embeddings[lower] + share * frames.embeddings[upper]


__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]
