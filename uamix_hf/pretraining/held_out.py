"""Batches of held-out clips with fixed masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data import FeatureCollator
from ..models.audio_mae.configuration_audio_mae import AudioMAEConfig
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor


def masking_noise(config: AudioMAEConfig, sample_ids: Sequence[int], frames: int) -> torch.Tensor:
    """Noise that decides which tokens are masked, from the id of each clip: independent of batch and padding.

    Args:
        config: Configuration of the model.
        sample_ids: Ids of the clips (batch,).
        frames: Frames of the padded batch, a multiple of `patch_size`.

    Returns:
        (batch, tokens), or (batch, columns + rows) for 2-D masking, float32; see `AudioMAEForPreTraining.forward`.
    """
    columns, rows = frames // config.patch_size, config.grid_size[1]
    noise = []
    for sample in sample_ids:
        rng = np.random.default_rng(sample)
        # Along time last: longer padding draws more numbers after those of the clip.
        if config.mask_type == "unstructured":
            draws = rng.random(columns * rows)
        else:
            mel, time = rng.random(rows), rng.random(columns)
            draws = np.concatenate([time, mel])
        noise.append(draws.argsort().argsort())  # ranks: close numbers would be equal in float32
    return torch.from_numpy(np.stack(noise)).float()


class HeldOutCollator(FeatureCollator):
    """Collator for evaluation: no augmentation, the middle of long recordings, and `noise` for fixed masks.

    Args:
        feature_extractor: Normalises and pads.
        config: Configuration of the model.
    """

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
