"""Waveforms to the log-mel spectrograms of Audio-MAE: Kaldi's filter banks as batched torch code, on any device."""

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.utils import logging

from .filter_banks_audio_mae import FLOAT32_EPS, FilterBank, FrontEndError
from .padding_audio_mae import PatchFeatureExtractor
from .waveforms_audio_mae import AudioInputError, check_sampling_rate, prepare_waveforms, split_clips, to_waveform

logger = logging.get_logger(__name__)

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not survive a fork, and a child that waits for them hangs. So process pools and
    # `Dataset.map(num_proc=...)` run one thread per process, as PyTorch's data loaders do.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class AudioMAEFeatureExtractor(PatchFeatureExtractor):
    r"""Waveforms to normalised log-mel spectrograms; the defaults are those of Audio-MAE (arXiv 2207.06405).

    The mean of the clip is removed; Kaldi filter banks follow (25 ms Hann frames every 10 ms, 128 mel bins from 20 Hz
    to the Nyquist frequency), then `(x - mean) / (std_factor * std)`. [`front_end`] makes the extractors of
    other systems.

    Args:
        sampling_rate: In Hz.
        num_mel_bins: Mel bins.
        max_length: Frames of `padding="max_length"` and `truncation=True`, the default of a call's `max_length`.
        patch_size: Frames of the model's patches; lengths are padded to whole patches.
        mean: Mean of the log-mels of the training data; AudioSet's by default. [`compute_norm_stats`] computes it.
        std: Their standard deviation.
        std_factor: Factor of the standard deviation; Audio-MAE and AST divide by twice the standard deviation.
        frame_length: Window length in samples.
        frame_shift: In samples.
        low_frequency: Lower edge of the lowest mel bin in Hz.
        preemphasis: Coefficient of the pre-emphasis filter.
        return_attention_mask: Default of a call's `return_attention_mask`. With `padding="max_length"` a mask is
            returned only if the call requests it, because Audio-MAE attends to its padding.
        truncation: Default of a call's `truncation`, for callers such as pipelines that do not pass it. If True, longer
            clips are cut with a warning; if False, the model raises an error for them.
        fbank_backend: `"torch"` (this module) or `"torchaudio"` (its own Kaldi code, clip by clip, if installed).
        padding_value: Value of padding after normalisation. The default is Audio-MAE's, 0 before normalisation: +0.467
            with AudioSet's statistics, louder than the average frame.
        waveform_scale: Factor of the samples in [-1, 1]; 32768 for models trained on 16-bit values.
        remove_waveform_mean: Whether the mean of the clip is removed.
        repeat_below: Clips of fewer samples are repeated `1 + repeat_below // samples` times.
        clip_samples: If given, `padding="max_length"` first pads waveforms with zeros to this many samples and, where
            it cuts, cuts them to it.
        pad_with_minimum: Whether `padding="max_length"` pads with the smallest value of each clip, not `padding_value`.
        time_stride: Frames between the model's patches, if they overlap; `patch_size` if None.
        incomplete_patches: `"pad"`, or `"drop"` for models that ignore the frames after a clip's last whole patch;
            `padding="max_length"` always pads.
        resample_below: Clips of fewer frames are resampled in time to the nearest whole number of patches, by linear
            interpolation between frames, unless `padding="max_length"`.
        n_fft: Length of the Fourier transform in samples; the next power of two of `frame_length` if None.
        window_type: `"hann"`, or `"povey"`, Kaldi's default: the Hann window to the power of 0.85.
        periodic_window: Whether the window is periodic instead of symmetric.
        center: Whether frame t is centred on sample `t * frame_shift`, with the waveform reflected at both ends. If
            False, only frames within the waveform are taken, as in Kaldi.
        remove_frame_mean: Whether the mean of each frame is removed.
        preemphasis_scope: `"frame"`: pre-emphasis within each frame, as in Kaldi. `"waveform"`: over the waveform,
            which loses its first sample.
        power: Exponent of the magnitude: 2.0 is the power spectrum, 1.0 the magnitude spectrum.
        mel_scale: `"kaldi"` (triangles in mel), `"htk"`, `"slaney"` (triangles in Hz) or `"librosa"` (Slaney's in
            librosa's precision).
        mel_norm: `"slaney"` for mel filters of unit area, None for those of unit height.
        high_frequency: Upper edge of the highest mel bin in Hz; the Nyquist frequency if None.
        mel_floor: Smaller mel energies are raised to it before the logarithm.
        log_offset: Added to mel energies before the logarithm.

    Raises:
        FrontEndError: Settings that are out of range or contradict each other.
    """

    model_input_names = ["input_values", "attention_mask"]
    domain = "log-mel"  # of its features; waveforms are the other kind

    def __init__(
        self,
        sampling_rate: int = 16_000,
        num_mel_bins: int = 128,
        max_length: int = 1024,
        patch_size: int = 16,
        mean: float = -4.2677393,
        std: float = 4.5689974,
        std_factor: float = 2.0,
        frame_length: int = 400,
        frame_shift: int = 160,
        low_frequency: float = 20.0,
        preemphasis: float = 0.97,
        return_attention_mask: bool = True,
        truncation: bool = False,
        fbank_backend: str = "torch",
        padding_value: float | None = None,
        waveform_scale: float = 1.0,
        remove_waveform_mean: bool = True,
        repeat_below: int = 0,
        clip_samples: int | None = None,
        pad_with_minimum: bool = False,
        time_stride: int | None = None,
        incomplete_patches: str = "pad",
        resample_below: int = 0,
        n_fft: int | None = None,
        window_type: str = "hann",
        periodic_window: bool = False,
        center: bool = False,
        remove_frame_mean: bool = True,
        preemphasis_scope: str = "frame",
        power: float = 2.0,
        mel_scale: str = "kaldi",
        mel_norm: str | None = None,
        high_frequency: float | None = None,
        mel_floor: float = FLOAT32_EPS,
        log_offset: float = 0.0,
    ):
        if padding_value is None:
            padding_value = (0.0 - mean) / (std_factor * std)
        # With another feature size, `pad` would treat a spectrogram as a waveform.
        super().__init__(feature_size=num_mel_bins, sampling_rate=sampling_rate, padding_value=padding_value)
        self.num_mel_bins = num_mel_bins
        self.max_length = max_length
        self.patch_size = patch_size
        self.mean = mean
        self.std = std
        self.std_factor = std_factor
        self.frame_length = frame_length
        self.frame_shift = frame_shift
        self.low_frequency = low_frequency
        self.preemphasis = preemphasis
        self.return_attention_mask = return_attention_mask
        self.truncation = truncation
        self.fbank_backend = fbank_backend
        self.waveform_scale = waveform_scale
        self.remove_waveform_mean = remove_waveform_mean
        self.repeat_below = repeat_below
        self.clip_samples = clip_samples
        self.pad_with_minimum = pad_with_minimum
        self.time_stride = time_stride
        self.incomplete_patches = incomplete_patches
        self.resample_below = resample_below
        self.n_fft = n_fft
        self.periodic_window = periodic_window
        self.window_type = window_type
        self.center = center
        self.remove_frame_mean = remove_frame_mean
        self.preemphasis_scope = preemphasis_scope
        self.power = power
        self.mel_scale = mel_scale
        self.mel_norm = mel_norm
        self.high_frequency = high_frequency
        self.mel_floor = mel_floor
        self.log_offset = log_offset
        self._check()

    def _check(self) -> None:
        """Raises [`FrontEndError`] if settings are out of range or contradict each other."""
        if self.fbank_backend not in ("torch", "torchaudio"):
            raise FrontEndError(f"fbank_backend={self.fbank_backend!r}: expected one of 'torch', 'torchaudio'.")
        self.check_patches()
        if not self.filter_bank.is_kaldis and self.fbank_backend == "torchaudio":
            raise FrontEndError("fbank_backend='torchaudio' computes Kaldi's filter banks, and these settings are not.")

    @property
    def filter_bank(self) -> FilterBank:
        """Log-mel filter bank of the current settings."""
        return FilterBank(**{setting.name: getattr(self, setting.name) for setting in fields(FilterBank)})

    @property
    def min_samples(self) -> int:
        """Samples below which the last window of a recording is left out."""
        return max(self.frame_length, self.samples(self.min_frames))

    def samples(self, frames: int) -> int:
        """Samples of a number of frames."""
        return self.filter_bank.samples(frames)

    def normalize(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Normalises raw natural log-mels of any shape for the model."""
        return (log_mel - self.mean) / (self.std_factor * self.std)

    def log_mels(self, clips: Sequence[Any], device: torch.device | str | None = None) -> list[torch.Tensor]:
        """Computes the raw log-mels of each clip, before padding and normalisation.

        Args:
            clips: Clips (samples,) at `sampling_rate` Hz.
            device: Device of the computation; a tensor's own device by default.

        Returns:
            For each clip (frames, num_mel_bins) float32.

        Raises:
            AudioInputError: See [`to_waveform`].
        """
        return self._log_mels([to_waveform(clip, device) for clip in clips])

    raw_features = log_mels  # the name that front ends of other inputs share

    def _fit(self, waves: list[torch.Tensor], cut: bool) -> list[torch.Tensor]:
        """Pads waveforms with zeros to `clip_samples` and, with `cut`, cuts them to it."""
        samples = self.clip_samples or 0
        return [F.pad(wave[:samples] if cut else wave, (0, max(0, samples - len(wave)))) for wave in waves]

    def _log_mels(self, waves: list[torch.Tensor]) -> list[torch.Tensor]:
        bank = self.filter_bank
        waves = prepare_waveforms(
            waves, bank.min_samples, self.sampling_rate, self.repeat_below, self.waveform_scale,
            self.remove_waveform_mean,
        )  # fmt: skip
        if self.fbank_backend == "torchaudio":
            return [bank.torchaudio_log_mels(wave) for wave in waves]
        lengths = [bank.frames(len(wave)) for wave in waves]
        waves = [bank.prepare(wave) for wave in waves]
        if waves[0].device.type == "cpu":  # computed in blocks anyway, so padding would be wasted work
            return [bank.log_mels(wave[None])[0] for wave in waves]
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        return [mel[:length] for mel, length in zip(bank.log_mels(padded), lengths, strict=True)]

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        truncation: bool | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        device: torch.device | str | None = None,
        max_length: int | None = None,
    ) -> BatchFeature:
        """Computes the padded, normalised log-mel spectrograms of one clip or a batch.

        Args:
            raw_speech: One clip (samples,) as array, tensor or list of floats, or a batch: a list of clips of any
                lengths, or an array (clips, samples). int16, int32 and uint8 are scaled by their dtype; float is
                expected in [-1, 1].
            sampling_rate: Sampling rate of the clips in Hz; must be the extractor's.
            padding: `True` or `"longest"` (to the longest clip), `"max_length"` (padded and, unless `truncation=False`,
                cut to `max_length` frames, as in Audio-MAE), both rounded up to whole patches, or `False`.
            truncation: Whether clips longer than `max_length` frames are cut to their beginning; the extractor's own
                `truncation` if None.
            return_attention_mask: Whether to return `attention_mask` (batch, frames): 1 = audio, 0 = padding.
            return_tensors: `"pt"`, `"np"` or None (a list of arrays).
            device: Device of the computation; a tensor's own device by default.
            max_length: Frames; the extractor's own `max_length` if None.

        Returns:
            `input_values` (batch, frames, num_mel_bins) float32 and, unless turned off, `attention_mask` (int64).

        Raises:
            AudioInputError: A clip that cannot be used, or another sampling rate.
            ValueError: An unknown `padding`, or a `max_length` that is not positive or would have no effect.
        """
        check_sampling_rate(self, sampling_rate)
        if padding not in (True, False, "longest", "max_length"):
            raise ValueError(f"padding={padding!r}: expected True, 'longest', 'max_length' or False.")
        cut = (self.truncation or padding == "max_length") if truncation is None else truncation
        if max_length is not None and (max_length < 1 or not (cut or padding == "max_length")):
            raise ValueError(
                f"max_length={max_length}: expected a positive number of frames, with truncation=True or "
                "padding='max_length'."
            )
        limit = self.max_length if max_length is None else max_length
        waves = [to_waveform(clip, device) for clip in split_clips(raw_speech)]
        whole_clips = self.clip_samples is not None and padding == "max_length" and max_length is None
        mels = [self.normalize(mel) for mel in self._log_mels(self._fit(waves, cut) if whole_clips else waves)]
        if truncation is None and self.truncation and max(len(mel) for mel in mels) > limit:
            logger.warning_once(
                f"Clips longer than {limit} frames of {1000 * self.frame_shift / self.sampling_rate:g} ms "
                "are cut: the rest is ignored."
            )
        if cut:
            mels = [mel[:limit] for mel in mels]
        if padding != "max_length":
            mels = [self.fit_to_patches(mel) for mel in mels]
        target = self.whole_patches(max([limit if padding == "max_length" else 0, *map(len, mels)]))
        masks = [torch.ones(len(mel), dtype=torch.int64, device=mel.device) for mel in mels]
        if whole_clips:  # silence was added
            for mask, wave in zip(masks, waves, strict=True):
                mask[max(1, self.filter_bank.frames(len(wave))) :] = 0
        if padding is not False:
            mels = self.pad_log_mels(mels, target, self.pad_with_minimum and padding == "max_length")
            masks = [F.pad(mask, (0, target - len(mask))) for mask in masks]
        if return_attention_mask is None:
            return_attention_mask = self.return_attention_mask and padding != "max_length"
        data = {"input_values": mels} | ({"attention_mask": masks} if return_attention_mask else {})
        if return_tensors == "pt":
            return BatchFeature({name: torch.stack(rows) for name, rows in data.items()})
        return BatchFeature(
            {name: [row.cpu().numpy() for row in rows] for name, rows in data.items()}, tensor_type=return_tensors
        )


__all__ = ["AudioInputError", "AudioMAEFeatureExtractor", "FrontEndError"]
