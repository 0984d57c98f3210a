"""Patches that overlap or are not square, and prefix tokens."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from uamix_hf import AudioMAEConfig, AudioMAEForAudioClassification, AudioMAEForPreTraining, AudioMAEModel


def test_overlapping_patches_know_what_they_cover() -> None:
    config = AudioMAEConfig.preset("tiny", max_length=46, time_stride=10, mel_stride=10, num_prefix_tokens=2)
    assert config.grid_size == (4, 12)
    for fields, says in (
        ({"time_stride": 20}, "time_stride=20"),
        ({"time_stride": 0}, "time_stride=0"),
        ({"max_length": 50, "time_stride": 10}, "max_length=50 is not patch_size=16 plus a multiple of time_stride=10"),
        ({"patch_mel_bins": 48}, "num_mel_bins=128 is not a multiple of patch_mel_bins=48"),
        ({"num_prefix_tokens": 0}, "num_prefix_tokens=0"),
    ):
        with pytest.raises(StrictDataclassError, match=says):
            AudioMAEConfig.preset("tiny", **fields)
    with pytest.raises(ValueError, match="square patches that do not overlap"):
        AudioMAEForPreTraining(config)
    model = AudioMAEModel(config)
    with pytest.raises(ValueError, match="40 frames, not covered by patches"):
        model(torch.zeros(1, 40, 128))
    assert AudioMAEForAudioClassification(config).classifier_layernorm is not None
