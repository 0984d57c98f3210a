"""The front end of encoders of waveforms: samples in frames, so that shared code counts them as frames of log-mels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature
from transformers.utils import logging

from .audio_mae.padding_audio_mae import PatchFeatureExtractor
from .audio_mae.waveforms_audio_mae import AudioInputError, check_sampling_rate, split_clips, to_waveform

logger = logging.get_logger(__name__)

LARGEST_SAMPLE = float(np.finfo(np.float16).max)  # of what can be cached


class WaveformFrames(PatchFeatureExtractor):
    """Waveforms to frames of samples, the features of encoders such as wav2vec 2.0 and HuBERT.

    Features are (frames, `frame_shift`): the samples as they are, the last frame filled up with zeros. Frames of 160
    samples are 10 ms at 16 kHz, as those of log-mels, so that settings in frames keep their meaning. The encoder's
    adapter joins them to waveforms again, and normalises each clip if `do_normalize`.

    Args:
        sampling_rate: In Hz.
        frame_shift: Samples of a frame.
        patch_size: Frames from which the encoder computes a token, the last of them rounded up.
        time_stride: Frames from token to token.
        max_length: Longest window in frames.
        do_normalize: Whether the encoder takes each clip with zero mean and unit variance.
        return_attention_mask: Default of a call's `return_attention_mask`.
        truncation: Whether longer clips are cut to `max_length` frames with a warning, for pipelines.

    Raises:
        ValueError: Sizes that are not positive, or that skip frames.
    """

    domain = "waveform"
    model_input_names = ["input_values", "attention_mask"]
    # As of log-mels that are normalised already: the adapter normalises each clip.
    mean, std, std_factor = 0.0, 1.0, 1.0
    # A recording's last window is used however short it is.
    min_samples = 1

    def __init__(
        self,
        sampling_rate: int = 16_000,
        frame_shift: int = 160,
        patch_size: int = 3,
        time_stride: int = 2,
        max_length: int = 3000,
        do_normalize: bool = True,
        return_attention_mask: bool = True,
        truncation: bool = False,
    ):
        super().__init__(feature_size=frame_shift, sampling_rate=sampling_rate, padding_value=0.0)
        for name, value in (("frame_shift", frame_shift), ("time_stride", time_stride), ("max_length", max_length)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected a positive number.")
        if patch_size < time_stride:
            raise ValueError(f"patch_size={patch_size}, time_stride={time_stride}: frames would be skipped.")
        self.frame_shift = frame_shift
        self.patch_size = patch_size
        self.time_stride = time_stride
        self.max_length = max_length
        self.do_normalize = do_normalize
        self.return_attention_mask = return_attention_mask
        self.truncation = truncation

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name != "padding_value"}

    def samples(self, frames: int) -> int:
        """Samples of a number of frames."""
        return frames * self.frame_shift

    def normalize(self, features: torch.Tensor) -> torch.Tensor:
        """Features as they are: each clip is normalised by the encoder's adapter, after augmentation."""
        return features

    def raw_features(self, clips: Sequence[Any], device: torch.device | str | None = None) -> list[torch.Tensor]:
        """The samples of each clip in frames.

        Args:
            clips: Clips (samples,) at `sampling_rate` Hz.
            device: Device of the result; a tensor's own device by default.

        Returns:
            For each clip (frames, frame_shift) float32.

        Raises:
            AudioInputError: A clip that cannot be used, see [`to_waveform`], or with samples beyond float16's range.
        """
        features = []
        for clip in clips:
            wave = to_waveform(clip, device)
            if (peak := wave.abs().max().item()) > LARGEST_SAMPLE:
                raise AudioInputError(f"A clip reaches {peak:.3g}: samples are expected in [-1, 1].")
            features.append(F.pad(wave, (0, -len(wave) % self.frame_shift)).view(-1, self.frame_shift))
        return features

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        device: torch.device | str | None = None,
    ) -> BatchFeature:
        """Features of one clip or a batch, padded with zeros to whole tokens.

        Args:
            raw_speech: One clip (samples,) as array, tensor or list of floats, or a batch: a list of clips of any
                lengths, or an array (clips, samples).
            sampling_rate: Sampling rate of the clips in Hz; must be the front end's.
            return_attention_mask: Whether to return `attention_mask` (batch, frames): 1 = audio, 0 = padding; the
                front end's own `return_attention_mask` if None.
            return_tensors: `"pt"`, `"np"` or None (a list of arrays).
            device: Device of the result; a tensor's own device by default.

        Returns:
            `input_values` (batch, frames, frame_shift) float32 and perhaps `attention_mask` (int64).

        Raises:
            AudioInputError: A clip that cannot be used, or another sampling rate.
        """
        check_sampling_rate(self, sampling_rate)
        features = self.raw_features(split_clips(raw_speech), device)
        if self.truncation and max(map(len, features)) > self.max_length:
            logger.warning_once(f"Clips longer than {self.max_length} frames are cut: the rest is ignored.")
            features = [one[: self.max_length] for one in features]
        frames = self.whole_patches(max(map(len, features)))
        values = pad_sequence(features, batch_first=True)
        data = {"input_values": F.pad(values, (0, 0, 0, frames - values.shape[1]))}
        if self.return_attention_mask if return_attention_mask is None else return_attention_mask:
            lengths = torch.tensor([len(one) for one in features], device=values.device)
            data["attention_mask"] = (torch.arange(frames, device=values.device) < lengths[:, None]).long()
        if return_tensors == "pt":
            return BatchFeature(data)
        return BatchFeature({name: list(rows.cpu().numpy()) for name, rows in data.items()}, tensor_type=return_tensors)


__all__ = ["WaveformFrames"]
