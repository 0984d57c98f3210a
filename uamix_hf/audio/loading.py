"""The one door for sound: whatever holds a recording to mono float32 samples, whole or in blocks."""

import os
import warnings
from collections.abc import Iterator, Mapping
from numbers import Number
from typing import Any

import numpy as np
import soxr
import torch

from ..models.audio_mae.feature_extraction_audio_mae import LARGEST_PEAK, LOUD_PEAK, AudioInputError, to_waveform
from .errors import AudioDecodeError, DamagedAudioWarning, TruncatedAudioWarning, describe
from .files import AUDIO_SUFFIXES, file_blocks

# In Hz; below there is no sound to speak of, and the header of a file is damaged: resampled, its memory would explode.
LOWEST_RATE = 1000
# What a value of a column of sound may hold: a file, or samples with their rate.
VALUE_KEYS = {"bytes", "path", "array", "raw", "sampling_rate"}


def average_channels(samples: Any, source: Any) -> np.ndarray:
    """(samples,) or (channels, samples) or (samples, channels) to mono float32; the shorter axis is the channels."""
    try:
        array = samples if isinstance(samples, torch.Tensor) else np.asarray(samples)
        if array.ndim == 2 and 0 not in array.shape:
            channels = array if array.shape[0] <= array.shape[1] else array.T
            return torch.stack([to_waveform(channel) for channel in channels]).mean(dim=0).cpu().numpy()
        return to_waveform(array).cpu().numpy()
    except (TypeError, ValueError) as error:  # a list of lists of different lengths is NumPy's ValueError
        raise AudioInputError(f"{describe(source)}: {error}") from error


def checked_rate(rate: Any, source: Any) -> float:
    """
    Raises:
        AudioDecodeError: a rate that no sound has.
    """
    try:
        number = float(rate)
    except (TypeError, ValueError):
        number = 0.0
    if not LOWEST_RATE <= number < float("inf"):
        raise AudioDecodeError(f"{describe(source)}: a sampling rate of {rate!r}; sound has {LOWEST_RATE} Hz or more.")
    return number


def check_target_rate(rate: float) -> None:
    """
    Raises:
        ValueError: samples cannot be wanted at this rate.
    """
    if not LOWEST_RATE <= rate < float("inf"):
        raise ValueError(f"sampling_rate={rate!r}: sound has {LOWEST_RATE} Hz or more.")


def decoded_blocks(source: Any, sampling_rate: int) -> Iterator[np.ndarray]:
    """Mono float32 blocks of a sound file at `sampling_rate` Hz, of no particular length."""
    name = describe(source)
    resampler = None
    peak, empty = 0.0, True
    for rate, channels in file_blocks(source):
        if resampler is None and rate != sampling_rate:
            resampler = soxr.ResampleStream(checked_rate(rate, source), sampling_rate, 1, dtype="float32")
        if channels.size:
            peak = max(peak, float(np.abs(channels).max()))
        if not np.isfinite(channels).all() or peak > LARGEST_PEAK:
            raise AudioDecodeError(f"{name}: NaN, infinite or absurdly large samples.")
        block = channels.mean(axis=1)
        if resampler is not None:
            block = resampler.resample_chunk(block)
        if len(block):
            empty = False
            yield block
    if resampler is not None and len(block := resampler.resample_chunk(np.empty(0, np.float32), last=True)):
        empty = False
        yield block
    if empty:  # so is what is left of a sample or two at a higher rate
        raise AudioDecodeError(f"{name}: no samples.")
    if peak > LOUD_PEAK:
        warnings.warn(f"{name}: its samples reach {peak:.3g}, sound is expected in [-1, 1].", stacklevel=2)


def array_of(source: Any) -> tuple[Any, Any] | None:
    """Samples and rate (None where it is not told) where the source holds samples already, None where it is a file.

    Raises:
        AudioInputError: a mapping whose keys do not say what it holds, or samples in one whose rate is not told.
        AudioDecodeError: a decoder that cannot decode.
    """
    if isinstance(source, (str, bytes, os.PathLike)):  # np.str_, an element of an array of paths, has __array__ too
        return None
    if isinstance(source, Mapping):
        return array_of_value(source)
    if hasattr(source, "get_all_samples"):  # the decoder that datasets returns where it decodes itself
        try:
            samples = source.get_all_samples()
        except RuntimeError as error:
            raise AudioDecodeError(f"{describe(source)}: damaged sound ({error}).") from error
        return samples.data, samples.sample_rate
    if isinstance(source, (list, tuple)) and any(isinstance(value, (str, bytes, Number)) for value in source):
        if not all(isinstance(value, Number) for value in source):
            raise AudioInputError(
                f"A {type(source).__name__} of {', '.join(type(value).__name__ for value in source[:3])}: give samples "
                'with their rate as {"array": ..., "sampling_rate": ...}, a file as {"bytes": ..., "path": ...}.'
            )
        return source, None
    if hasattr(source, "__array__") or isinstance(source, (list, tuple)):
        return source, None
    return None


def array_of_value(value: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """As [`array_of`], of a mapping: a key that is not known may change what is meant, so that none is passed over."""
    given = {key for key in value if value[key] is not None}
    name = describe(value)
    if unknown := sorted(str(key) for key in set(value) - VALUE_KEYS):
        raise AudioInputError(
            f"{name}: a value with {', '.join(unknown)}; there are {', '.join(sorted(VALUE_KEYS))}. The rate is called "
            "sampling_rate; of a data set, give its column of sound."
        )
    held = sorted(given & {"array", "raw", "bytes"})
    if len(held) > 1:
        raise AudioInputError(f"{name}: a value with {' and '.join(held)}, which may differ: give one of them.")
    if held in ([], ["bytes"]):
        if "sampling_rate" in given:
            raise AudioInputError(f"{name}: a value with a sampling_rate and no samples; files tell their own.")
        return None
    if "sampling_rate" not in given:
        raise AudioInputError(f"{name}: a value with {held[0]} and no sampling_rate: give it, in Hz.")
    return value[held[0]], value["sampling_rate"]


def load_audio(source: Any, sampling_rate: int = 16_000) -> np.ndarray:
    """A whole recording as mono float32 samples (samples,) in [-1, 1]. Channels are averaged.

    A file that breaks off is read up to there, with a [`TruncatedAudioWarning`] where that can be told.

    Args:
        source: Path, bytes, file object, a value of a `datasets` audio column (decoded or not), `{"raw" or "array",
            "sampling_rate"}`, or an array of samples, which is taken to have `sampling_rate` already.
        sampling_rate: In Hz; other rates are resampled (soxr, high quality).

    Raises:
        AudioDecodeError: missing, unreadable or empty file, or damaged before its first samples. AudioInputError: an
            array or a sampling rate that is no sound's, or a mapping that does not say what it holds.
        TypeError: a source of another kind.
    """
    check_target_rate(sampling_rate)
    held = array_of(source)
    if held is None:
        return np.concatenate(list(decoded_blocks(source, sampling_rate)))
    return mono_samples(*held, source, sampling_rate)


def mono_samples(samples: Any, rate: Any, source: Any, sampling_rate: int) -> np.ndarray:
    """Mono float32 samples (samples,) at `sampling_rate` Hz of what [`array_of`] found."""
    wave = average_channels(samples, source)
    if rate is not None and checked_rate(rate, source) != sampling_rate:
        wave = soxr.resample(wave, float(rate), sampling_rate).astype(np.float32)
    if len(wave) == 0:
        raise AudioInputError(f"{describe(source)}: no samples at {sampling_rate} Hz.")
    return wave


def stream_audio(source: Any, sampling_rate: int = 16_000, block_seconds: float = 10.24) -> Iterator[np.ndarray]:
    """A recording in consecutive blocks of `block_seconds`, the last one shorter; memory does not grow with its length.

    Args and errors as in [`load_audio`]; the concatenated blocks equal its result.
    """
    check_target_rate(sampling_rate)
    length = round(block_seconds * sampling_rate)
    if length < 1:
        raise ValueError(f"block_seconds={block_seconds} is less than one sample at {sampling_rate} Hz.")
    held = array_of(source)
    pieces = iter([mono_samples(*held, source, sampling_rate)]) if held else decoded_blocks(source, sampling_rate)
    rest = np.empty(0, np.float32)
    for piece in pieces:
        rest = np.concatenate([rest, piece])
        whole = len(rest) // length * length
        yield from rest[:whole].reshape(-1, length)
        rest = rest[whole:]
    if len(rest):
        yield rest


__all__ = [
    "AUDIO_SUFFIXES",
    "AudioDecodeError",
    "DamagedAudioWarning",
    "TruncatedAudioWarning",
    "load_audio",
    "stream_audio",
]
