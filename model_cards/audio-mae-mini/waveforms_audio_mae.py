"""Whatever a user passes as audio to waveforms: split into clips, checked, float32 in [-1, 1], prepared."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers.utils import logging

logger = logging.get_logger(__name__)

INTEGER_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31, torch.uint8: 2.0**7}
# Decoders overshoot 1 a little; no integer type that was converted to floats goes beyond 2**32.
LOUD_PEAK, LARGEST_PEAK = 1.5, 2.0**32


class AudioInputError(ValueError):
    """A waveform that cannot be used; the message says why and what to do."""


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
    wave = clip.detach().to(device)
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
            "as floats by 32768, or the model's input is far from its training data."
        )
    return wave


def check_sampling_rate(feature_extractor: Any, sampling_rate: int | None) -> None:
    """Checks that clips have the sampling rate of a feature extractor; warns if it is not given.

    Raises:
        AudioInputError: They have another one.
    """
    if sampling_rate is None:
        logger.warning_once(
            f"Pass sampling_rate= to {type(feature_extractor).__name__} ({feature_extractor.sampling_rate} Hz): a "
            "wrong rate cannot be detected and gives wrong embeddings without an error."
        )
    elif sampling_rate != feature_extractor.sampling_rate:
        raise AudioInputError(
            f"The clips have {sampling_rate} Hz, the model was trained on {feature_extractor.sampling_rate} Hz: "
            "resample them, for instance with uamix_hf.load_audio."
        )


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


def prepare_waveforms(
    waves: list[torch.Tensor],
    min_samples: int,
    sampling_rate: int,
    repeat_below: int,
    scale: float,
    remove_mean: bool,
) -> list[torch.Tensor]:
    """Repeats, scales and centres waveforms (samples,), and pads those shorter than one frame, with a warning.

    Args:
        waves: The waveforms.
        min_samples: Samples of a frame.
        sampling_rate: In Hz.
        repeat_below: Waveforms of fewer samples are repeated `1 + repeat_below // samples` times.
        scale: Factor of the samples.
        remove_mean: Whether the mean of each waveform is removed.
    """
    waves = [wave.repeat(1 + repeat_below // len(wave)) if len(wave) < repeat_below else wave for wave in waves]
    short = sum(len(wave) < min_samples for wave in waves)
    if short:
        logger.warning_once(
            f"{short} of {len(waves)} clips are shorter than one frame ({min_samples} samples, "
            f"{1000 * min_samples / sampling_rate:g} ms) and are padded with silence to it."
        )
    if scale != 1:
        waves = [wave * scale for wave in waves]
    if remove_mean:
        waves = [wave - wave.mean() for wave in waves]
    return [F.pad(wave, (0, max(0, min_samples - len(wave)))) for wave in waves]


__all__ = ["AudioInputError", "check_sampling_rate", "prepare_waveforms", "split_clips", "to_waveform"]
