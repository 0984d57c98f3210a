"""Batches of held-out clips in which nothing is left to chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data import LogMelCollator
from ..models.audio_mae.configuration_audio_mae import AudioMAEConfig
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor


def masking_noise(config: AudioMAEConfig, sample_ids: Sequence[int], frames: int) -> torch.Tensor:
    """What orders the tokens to remove, drawn for each clip from its id: neither the batch nor its padding changes
    what is removed of a clip.

    Args:
        frames: Of the padded batch, a multiple of `patch_size`.

    Returns:
        (batch, tokens), or (batch, columns + rows) for 2-D masking, float32; see `AudioMAEForPreTraining.forward`.
    """
    columns, rows = frames // config.patch_size, config.grid_size[1]
    noise = []
    for sample in sample_ids:
        rng = np.random.default_rng(sample)
        # Along time last: a longer padding draws further, and leaves what was drawn before.
        if config.mask_type == "unstructured":
            draws = rng.random(columns * rows)
        else:
            mel, time = rng.random(rows), rng.random(columns)
            draws = np.concatenate([time, mel])
        noise.append(draws.argsort().argsort())  # ranks: float32 would make equals of what is close
    return torch.from_numpy(np.stack(noise)).float()


class HeldOutCollator(LogMelCollator):
    """Rows of log-mels to a batch with `noise`: neither roll nor gain, the middle of a long recording, and a mask that
    depends on the clip's id alone (see [`masking_noise`])."""

    def __init__(self, feature_extractor: AudioMAEFeatureExtractor, config: AudioMAEConfig):
        super().__init__(feature_extractor, config.max_length, normalize=True)
        self.config = config

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        batch["noise"] = masking_noise(self.config, batch["sample_id"].tolist(), batch["input_values"].shape[1])
        return batch

    def window(self, mel: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        start = max(0, len(mel) - self.max_frames) // 2
        return mel[start : start + self.max_frames]


__all__ = ["HeldOutCollator", "masking_noise"]
