"""Waveforms to the log-mel spectrograms of Audio-MAE: Kaldi's filter banks as batched torch code, on any device."""

import inspect
import json
import math
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Frames computed at once on a CPU. More do not fit its cache, and their memory is allocated anew each time; both are
# slower than the loop.
CPU_BLOCK_FRAMES = 250
INTEGER_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31, torch.uint8: 2.0**7}
# Decoders overshoot 1 a little; no integer type that was converted to floats goes beyond 2**32.
LOUD_PEAK, LARGEST_PEAK = 1.5, 2.0**32
# Entries of a saved file besides the arguments.
WRITTEN_BY_TRANSFORMERS = {"auto_map", "feature_extractor_type", "feature_size", "padding_side", "processor_class"}
# Keywords that the Auto classes and pipelines pass to every extractor: how to find the file, and the model's own.
LOADING_OPTIONS = {
    "attn_implementation", "code_revision", "device_map", "dtype", "torch_dtype", "trust_remote_code", "_commit_hash"
}  # fmt: skip

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not survive a fork, and a child that waits for them hangs. So process pools and
    # `Dataset.map(num_proc=...)` run one thread per process, as PyTorch's data loaders do.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class AudioInputError(ValueError):
    """A waveform that cannot be used; the message says why and what to do."""


@lru_cache(maxsize=8)
def kaldi_mel_filters(num_mel_bins: int, n_fft: int, sampling_rate: int, low: float) -> np.ndarray:
    """Kaldi's triangular filters, (n_fft / 2 + 1, num_mel_bins) float32, from `low` Hz to the Nyquist frequency.

    The triangles are linear on the mel scale 1127 ln(1 + f / 700). The order of the float32 operations is Kaldi's,
    because rounding shows in the logarithm of bins with little energy. The result is an array: a cached tensor would
    keep the mode (inference, meta device) in which it was first made.
    """
    bottom, top = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (low, sampling_rate / 2))
    step = (top - bottom) / (num_mel_bins + 1)
    index = torch.arange(num_mel_bins, dtype=torch.float32, device="cpu")[:, None]
    left, centre, right = bottom + index * step, bottom + (index + 1) * step, bottom + (index + 2) * step
    hertz = torch.arange(n_fft // 2, dtype=torch.float32, device="cpu") * (sampling_rate / n_fft)
    mels = 1127.0 * (1.0 + hertz / 700.0).log()
    rise, fall = (mels - left) / (centre - left), (right - mels) / (right - centre)
    filters = torch.minimum(rise, fall).clamp_min(0)
    return F.pad(filters, (0, 1)).T.contiguous().numpy()  # Kaldi leaves the Nyquist bin out


def product_dtype(device: torch.device) -> torch.dtype:
    """Dtype whose matrix products are exact to float32.

    Autocast, TF32 and similar settings round float32 factors to fewer bits but leave the slower float64 alone. Apple's
    GPUs have no float64.
    """
    if device.type != "cpu":
        return torch.float32 if device.type == "mps" else torch.float64
    # Several settings, old and new, do so on a CPU: a product shows whether any of them is on.
    probe = torch.full((32, 32), 1 + 2.0**-12, dtype=torch.float32, device=device)
    rounded = abs((probe @ probe)[0, 0].item() - 32 * (1 + 2.0**-12) ** 2) > 1e-4
    return torch.float64 if rounded else torch.float32


def kaldi_fbank(
    waveforms: torch.Tensor,
    sampling_rate: int = 16_000,
    num_mel_bins: int = 128,
    frame_length: int = 400,
    frame_shift: int = 160,
    preemphasis: float = 0.97,
    low_frequency: float = 20.0,
) -> torch.Tensor:
    """Log-mel filter banks equal to Kaldi's with Audio-MAE's settings (Hann window, no dither; arXiv 2207.06405).

    Args:
        waveforms: (batch, samples) float in [-1, 1], any device.
        sampling_rate: In Hz.
        num_mel_bins: Mel bins from `low_frequency` to the Nyquist frequency.
        frame_length: In samples.
        frame_shift: In samples.
        preemphasis: Coefficient of the pre-emphasis filter.
        low_frequency: In Hz.

    Returns:
        Natural logarithms (batch, frames, num_mel_bins) float32 with `frames = 1 + (samples - frame_length) //
        frame_shift`, or 0 for waveforms shorter than one frame. They depend on the arguments alone: not on PyTorch's
        default dtype or device, on autocast, or on the precision that is set for float32 products.
    """
    batch, samples = waveforms.shape
    frames = max(0, 1 + (samples - frame_length) // frame_shift)
    if frames == 0:
        return waveforms.new_zeros(batch, 0, num_mel_bins, dtype=torch.float32)
    n_fft = 1 << (frame_length - 1).bit_length()
    window = torch.hann_window(frame_length, periodic=False, dtype=torch.float32, device=waveforms.device)
    filters = torch.from_numpy(kaldi_mel_filters(num_mel_bins, n_fft, sampling_rate, low_frequency))
    filters = filters.to(waveforms.device, product_dtype(waveforms.device))
    floor = torch.finfo(torch.float32).eps

    def log_mel(framed: torch.Tensor) -> torch.Tensor:
        framed = framed - framed.mean(dim=-1, keepdim=True)
        # The sample before a frame's first is taken to equal the first.
        framed = framed - preemphasis * torch.cat([framed[..., :1], framed[..., :-1]], dim=-1)
        spectrum = torch.fft.rfft(framed * window, n=n_fft)
        power = spectrum.real.square() + spectrum.imag.square()  # abs() would take a root first
        return (power.to(filters.dtype) @ filters).float().clamp_min(floor).log()

    framed = waveforms.float().unfold(1, frame_length, frame_shift)
    if waveforms.device.type != "cpu":
        return log_mel(framed)
    output = waveforms.new_empty(batch, frames, num_mel_bins, dtype=torch.float32)
    for row in range(batch):
        for start in range(0, frames, CPU_BLOCK_FRAMES):
            output[row, start : start + CPU_BLOCK_FRAMES] = log_mel(framed[row, start : start + CPU_BLOCK_FRAMES])
    return output


def to_waveform(clip: Any, device: torch.device | str | None = None) -> torch.Tensor:
    """One clip (samples,) as float32 in [-1, 1]; integers are scaled by their type.

    Raises:
        AudioInputError: An empty clip, NaN, infinite or larger than 2**32, more than one axis, or a dtype without a
            full scale.
    """
    try:
        if not isinstance(clip, torch.Tensor):
            clip = np.array(clip)
            clip = torch.from_numpy(clip.astype(clip.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError) as error:
        kind = getattr(clip, "dtype", type(clip).__name__)
        raise AudioInputError(f"Expected numbers, got {kind}: pass an array of samples.") from error
    wave = clip
    wave = wave.detach().to(device)
    if wave.ndim != 1:
        raise AudioInputError(
            f"A clip has shape {tuple(wave.shape)}, expected (samples,): average its channels first, as "
            "uamix_hf.load_audio does, or pass clips as a list."
        )
    if wave.numel() == 0:
        raise AudioInputError("A clip has no samples: leave empty recordings out.")
    if wave.dtype in INTEGER_SCALE:
        offset = 128.0 if wave.dtype == torch.uint8 else 0.0  # 8-bit audio is stored with an offset
        return ((wave.double() - offset) / INTEGER_SCALE[wave.dtype]).float()
    if not wave.is_floating_point():
        raise AudioInputError(
            f"A clip has type {wave.dtype}, whose full scale is unknown: pass int16, int32, uint8 or float in [-1, 1]."
        )
    wave = wave.float()
    peak = wave.abs().max()
    if not peak.isfinite():  # a single NaN makes the maximum NaN
        raise AudioInputError("A clip has NaN or infinite samples: repair it or leave it out.")
    if peak > LARGEST_PEAK:  # its log-mels would be infinite
        raise AudioInputError(f"A clip reaches {peak:.3g}: samples are expected in [-1, 1].")
    if peak > LOUD_PEAK:
        logger.warning_once(
            f"A float clip reaches {peak:.3g}; samples are expected in [-1, 1]. Divide 16-bit values kept "
            "as floats by 32768, or the log-mel spectrogram is far from the model's training data."
        )
    return wave


class AudioMAEFeatureExtractor(SequenceFeatureExtractor):
    r"""Waveforms to the normalised log-mel spectrograms of Audio-MAE (arXiv 2207.06405).

    The mean of the clip is removed; Kaldi filter banks follow (25 ms Hann frames every 10 ms, 128 mel bins from 20 Hz
    to the Nyquist frequency), then `(x - mean) / (std_factor * std)`.

    Args:
        sampling_rate: In Hz.
        num_mel_bins: Mel bins.
        max_length: Frames of `padding="max_length"` and `truncation=True`, the default of a call's `max_length`.
        patch_size: Patch size of the model; lengths are padded to a multiple of this many frames.
        mean: Mean of the log-mels of the training data; AudioSet's by default. [`compute_norm_stats`] computes it.
        std: Their standard deviation.
        std_factor: Factor of the standard deviation; Audio-MAE and AST divide by twice the standard deviation.
        frame_length: In samples.
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

    Raises:
        ValueError: An unknown `fbank_backend`.
    """

    model_input_names = ["input_values", "attention_mask"]
    auto_map: dict[str, str]

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
        if fbank_backend not in ("torch", "torchaudio"):
            raise ValueError(f"fbank_backend={fbank_backend!r}: there are 'torch' and 'torchaudio'.")
        self.fbank_backend = fbank_backend

    def to_dict(self) -> dict[str, Any]:
        # AutoProcessor finds the class by this name; else it asks to run remote code from the folder.
        return super().to_dict() | {"processor_class": type(self).__name__}

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs) -> Any:
        """Makes a feature extractor from the entries of a saved file, as in transformers.

        Args:
            feature_extractor_dict: Entries of `preprocessor_config.json`.
            **kwargs: Arguments that override entries, also where the file lacks them. Any other keyword is named in a
                warning, because pipelines pass on keywords that are meant for the model.

        Raises:
            ValueError: The file has an entry that this version does not know.
        """
        known = inspect.signature(cls).parameters
        saved = {name: value for name, value in feature_extractor_dict.items() if name not in WRITTEN_BY_TRANSFORMERS}
        if unknown := saved.keys() - known:
            raise ValueError(
                f"The saved extractor has {', '.join(sorted(unknown))}, which {cls.__name__} does not know."
            )
        statistics = {name: saved[name] for name in ("mean", "std", "std_factor") if name in saved}
        if saved.get("padding_value") == cls(**statistics).padding_value:
            del saved["padding_value"]  # follows from the statistics, which a keyword may change
        extractor = cls(**saved | {name: value for name, value in kwargs.items() if name in known})
        if "auto_map" in feature_extractor_dict:
            extractor.auto_map = feature_extractor_dict["auto_map"]
        unused = {name: value for name, value in kwargs.items() if name not in known}
        if unused.pop("return_unused_kwargs", False):
            return extractor, unused
        if strange := unused.keys() - LOADING_OPTIONS:
            logger.warning(f"{cls.__name__} has no {', '.join(sorted(strange))}: not used.")
        return extractor

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> "AudioMAEFeatureExtractor":
        with open(json_file, encoding="utf-8") as file:
            return cls.from_dict(json.load(file))

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
        waves = [to_waveform(clip, device) for clip in clips]
        short = sum(len(wave) < self.frame_length for wave in waves)
        if short:
            logger.warning_once(
                f"{short} of {len(waves)} clips are shorter than one frame ({self.frame_length} samples, "
                f"{1000 * self.frame_length / self.sampling_rate:g} ms) and are padded with silence to it."
            )
        waves = [F.pad(wave - wave.mean(), (0, max(0, self.frame_length - len(wave)))) for wave in waves]
        if self.fbank_backend == "torchaudio":
            return [self._torchaudio_fbank(wave) for wave in waves]
        lengths = [1 + (len(wave) - self.frame_length) // self.frame_shift for wave in waves]
        if waves[0].device.type == "cpu":  # computed in blocks anyway, so padding would be wasted work
            return [self._fbank(wave[None])[0] for wave in waves]
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        return [mel[:length] for mel, length in zip(self._fbank(padded), lengths, strict=True)]

    def _fbank(self, waveforms: torch.Tensor) -> torch.Tensor:
        return kaldi_fbank(
            waveforms,
            self.sampling_rate,
            self.num_mel_bins,
            self.frame_length,
            self.frame_shift,
            self.preemphasis,
            self.low_frequency,
        )

    def _torchaudio_fbank(self, wave: torch.Tensor) -> torch.Tensor:
        try:
            from torchaudio.compliance import kaldi
        except (ImportError, OSError) as error:  # its published wheel raises OSError with a CPU build of torch
            raise ImportError(
                "fbank_backend='torchaudio' needs a torchaudio that imports; fbank_backend='torch' is equal."
            ) from error
        with torch.autocast(wave.device.type, enabled=False):
            return kaldi.fbank(
                wave[None],
                sample_frequency=self.sampling_rate,
                num_mel_bins=self.num_mel_bins,
                frame_length=1000 * self.frame_length / self.sampling_rate,
                frame_shift=1000 * self.frame_shift / self.sampling_rate,
                window_type="hanning",
                htk_compat=True,
                use_energy=False,
                dither=0.0,
                low_freq=self.low_frequency,
                preemphasis_coefficient=self.preemphasis,
            )

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
                cut to `max_length` frames, as in Audio-MAE), both rounded up to a multiple of `patch_size` frames, or
                `False`.
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
        if sampling_rate is None:
            logger.warning_once(
                f"Pass sampling_rate= to {type(self).__name__} ({self.sampling_rate} Hz): a wrong rate cannot be "
                "detected and gives wrong embeddings without an error."
            )
        elif sampling_rate != self.sampling_rate:
            raise AudioInputError(
                f"The clips have {sampling_rate} Hz, the model was trained on {self.sampling_rate} Hz: resample them, "
                "for instance with uamix_hf.load_audio."
            )
        if padding not in (True, False, "longest", "max_length"):
            raise ValueError(f"padding={padding!r}: expected True, 'longest', 'max_length' or False.")
        cut = (self.truncation or padding == "max_length") if truncation is None else truncation
        if max_length is not None and (max_length < 1 or not (cut or padding == "max_length")):
            raise ValueError(
                f"max_length={max_length}: expected a positive number of frames, with truncation=True or "
                "padding='max_length'."
            )
        limit = self.max_length if max_length is None else max_length
        mels = [self.normalize(mel) for mel in self.log_mels(split_clips(raw_speech), device)]
        if truncation is None and self.truncation and max(len(mel) for mel in mels) > limit:
            logger.warning_once(
                f"Clips longer than {limit} frames of {1000 * self.frame_shift / self.sampling_rate:g} ms "
                "are cut: the rest is ignored."
            )
        if cut:
            mels = [mel[:limit] for mel in mels]
        target = max([limit if padding == "max_length" else 0, *map(len, mels)])
        target = math.ceil(target / self.patch_size) * self.patch_size
        masks = [torch.ones(len(mel), dtype=torch.int64, device=mel.device) for mel in mels]
        if padding is not False:
            mels = [F.pad(mel, (0, 0, 0, target - len(mel)), value=self.padding_value) for mel in mels]
            masks = [F.pad(mask, (0, target - len(mask))) for mask in masks]
        if return_attention_mask is None:
            return_attention_mask = self.return_attention_mask and padding != "max_length"
        data = {"input_values": mels} | ({"attention_mask": masks} if return_attention_mask else {})
        if return_tensors == "pt":
            return BatchFeature({name: torch.stack(rows) for name, rows in data.items()})
        return BatchFeature(
            {name: [row.cpu().numpy() for row in rows] for name, rows in data.items()}, tensor_type=return_tensors
        )

    def pad(
        self,
        processed_features: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Pads spectrograms of unequal length, as transformers' data collators request, to a multiple of `patch_size`.

        Arguments as in [`~SequenceFeatureExtractor.pad`].
        """
        return super().pad(
            processed_features, padding, max_length, truncation, pad_to_multiple_of or self.patch_size,
            return_attention_mask, return_tensors,
        )  # fmt: skip


def split_clips(raw_speech: Any) -> list[Any]:
    """Splits a batch in any accepted form, or a single clip, into a list of clips.

    Raises:
        AudioInputError: An empty batch, or an array whose second axis can only be channels.
    """
    if isinstance(raw_speech, (np.ndarray, torch.Tensor)):
        if raw_speech.ndim < 2:
            return [raw_speech]
        shape = tuple(raw_speech.shape)
        # A batch of clips of at most 8 samples does not occur; (samples, channels) from soundfile does.
        if raw_speech.ndim > 2 or shape[1] <= 8 < shape[0]:
            raise AudioInputError(
                f"The waveforms have shape {shape}, expected (samples,) or (clips, samples): average channels first, "
                "as uamix_hf.load_audio does."
            )
        clips = list(raw_speech)
    elif isinstance(raw_speech, (list, tuple)):
        numbers = len(raw_speech) > 0 and all(np.ndim(value) == 0 for value in raw_speech[:2])
        clips = [raw_speech] if numbers else list(raw_speech)
    else:
        raise AudioInputError(
            f"Expected samples, got {type(raw_speech).__name__}: read files with uamix_hf.load_audio."
        )
    if not clips:
        raise AudioInputError("The batch is empty.")
    return clips


__all__ = ["AudioInputError", "AudioMAEFeatureExtractor"]
