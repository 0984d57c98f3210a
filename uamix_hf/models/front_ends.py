"""Feature extractors of other systems' models, as their official code computes log-mels."""

import math
from typing import Any

from .audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor, FrontEndError
from .audio_mae.filter_banks_audio_mae import FLOAT32_EPS
from .waveform_frames import WaveformFrames

# What makes an encoder's raw and normalised features, to be cached and augmented. Both kinds have `domain`,
# `feature_size`, `sampling_rate`, `frame_shift`, `max_length`, `patch_size`, `time_stride`, `padding_value`,
# `raw_features`, `normalize`, `samples` and `whole_patches`.
FrontEnd = AudioMAEFeatureExtractor | WaveformFrames

AT_32_KHZ: dict[str, Any] = {"sampling_rate": 32_000, "frame_length": 800, "frame_shift": 320}
BEATS: dict[str, Any] = {
    "window_type": "povey", "waveform_scale": 2.0**15, "remove_waveform_mean": False,
    "mean": 15.41663, "std": 6.55582, "incomplete_patches": "drop",
}  # fmt: skip
# Settings that differ from those of Audio-MAE, whose front-end is SSAST's.
FRONT_ENDS: dict[str, dict[str, Any]] = {
    "audiomae": {},
    "ssast": {},
    "ssamba": {},
    "asit": AT_32_KHZ | {"max_length": 592, "clip_samples": 6 * 32_000},
    # The official code pads with the smallest log-mel of the batch, which is silence's wherever a clip of the batch is
    # shorter than 5 s. Here each clip is padded with its own, as the official code does with one clip at a time.
    "birdmae": AT_32_KHZ | {
        "max_length": 512, "clip_samples": 5 * 32_000, "mean": -7.2, "std": 4.43, "pad_with_minimum": True,
        "padding_value": (math.log(FLOAT32_EPS) + 7.2) / (2 * 4.43),
    },
    "passt": AT_32_KHZ | {
        "center": True, "remove_waveform_mean": False, "remove_frame_mean": False, "preemphasis_scope": "waveform",
        "low_frequency": 0.0, "high_frequency": 15_000.0, "mel_floor": 0.0, "log_offset": 1e-5,
        "mean": -4.5, "std": 5.0, "std_factor": 1.0, "max_length": 996, "time_stride": 10, "incomplete_patches": "drop",
    },
    "matpac": {
        "n_fft": 400, "periodic_window": True, "remove_waveform_mean": False, "remove_frame_mean": False,
        "preemphasis": 0.0, "num_mel_bins": 80, "mel_scale": "slaney", "mel_norm": "slaney",
        "low_frequency": 50.0, "high_frequency": 8000.0, "mel_floor": 0.0, "log_offset": 1.1920929e-07,
        "mean": -7.056, "std": 4.193, "std_factor": 1.0, "max_length": 608, "padding_value": 0.0,
    },
    "beats": BEATS,
    # Clips of less than 0.2 s are repeated. The statistics of the released weights are unresolved: checkpoints with
    # `fbank_mean` and `fbank_std` in their configuration override these, which are BEATs'.
    "openbeats": BEATS | {"repeat_below": 3200},
    # Whisper takes log10, whose mean of -4 and divisor of 4 are natural logarithms here.
    "whisper": {
        "n_fft": 400, "periodic_window": True, "center": True, "remove_waveform_mean": False,
        "remove_frame_mean": False, "preemphasis": 0.0, "num_mel_bins": 80, "mel_scale": "librosa",
        "mel_norm": "slaney", "low_frequency": 0.0, "high_frequency": 8000.0, "mel_floor": 1e-10,
        "mean": -4 * math.log(10), "std": 4 * math.log(10), "std_factor": 1.0, "padding_value": -1.5,
        "max_length": 3000, "clip_samples": 30 * 16_000, "patch_size": 2,
    },
    # CLAP takes decibels: 10 log10 of the power, which is a natural logarithm here. Models that fuse windows of a long
    # recording take mel_scale="htk" and mel_norm=None.
    "clap": {
        "sampling_rate": 48_000, "frame_length": 1024, "frame_shift": 480, "n_fft": 1024, "periodic_window": True,
        "center": True, "remove_waveform_mean": False, "remove_frame_mean": False, "preemphasis": 0.0,
        "num_mel_bins": 64, "mel_scale": "librosa", "mel_norm": "slaney", "low_frequency": 0.0,
        "high_frequency": 14_000.0, "mel_floor": 1e-10, "mean": 0.0, "std": math.log(10) / 10, "std_factor": 1.0,
        "padding_value": -100.0, "max_length": 1001, "patch_size": 1,
    },
    # Normalised per clip and mel bin by the encoder's adapter.
    "wav2vec2_bert": {
        "window_type": "povey", "waveform_scale": 2.0**15, "remove_waveform_mean": False, "num_mel_bins": 80,
        "mean": 0.0, "std": 1.0, "std_factor": 1.0, "max_length": 3000, "patch_size": 2,
    },
    "mae_ast": {"window_type": "povey", "remove_waveform_mean": False, "incomplete_patches": "drop"},
}  # fmt: skip
# Statistics that are in each checkpoint and have no common value.
REQUIRED = {"mae_ast": ("mean", "std")}


def front_end(system: str, **overrides: Any) -> AudioMAEFeatureExtractor:
    """Makes the feature extractor of another system's models.

    Args:
        system: One of `"audiomae"`, `"ssast"`, `"ssamba"`, `"asit"`, `"birdmae"`, `"passt"`, `"matpac"`, `"beats"`,
            `"openbeats"`, `"mae_ast"`, `"clap"`, and `"whisper"` and `"wav2vec2_bert"`, whose encoders' adapters do
            after augmentation what depends on the whole clip: Whisper's cut-off at 80 dB below the maximum,
            Wav2Vec2-BERT's normalisation of each mel bin.
        **overrides: Arguments of [`AudioMAEFeatureExtractor`], in place of the system's. MAE-AST needs `mean` and
            `std`, the running statistics of its checkpoint.

    Raises:
        FrontEndError: An unknown system, missing statistics, or settings that contradict each other.
    """
    if system not in FRONT_ENDS:
        raise FrontEndError(f"No front-end {system!r}; there are {', '.join(sorted(FRONT_ENDS))}.")
    if missing := [name for name in REQUIRED.get(system, ()) if name not in overrides]:
        raise FrontEndError(f"{system} has no common {' and '.join(missing)}: pass those of its checkpoint.")
    return AudioMAEFeatureExtractor(**FRONT_ENDS[system] | overrides)


__all__ = ["FRONT_ENDS", "FrontEnd", "front_end"]
