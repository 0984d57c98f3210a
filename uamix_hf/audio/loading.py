"""Single entry point for loading audio: recordings to mono float32 samples, whole or in blocks."""

import os
import warnings
from collections.abc import Iterator, Mapping
from numbers import Number
from typing import Any

import numpy as np
import soxr
import torch

from ..models.audio_mae.waveforms_audio_mae import LARGEST_PEAK, LOUD_PEAK, AudioInputError, to_waveform
from .errors import AudioDecodeError, DamagedAudioWarning, TruncatedAudioWarning, source_name
from .files import AUDIO_SUFFIXES, file_blocks

# In Hz. A lower rate means a damaged header, and resampling would need enormous memory.
LOWEST_RATE = 1000
# Keys of a value of an audio column: a file, or samples with their rate.
VALUE_KEYS = {"bytes", "path", "array", "raw", "sampling_rate"}


def average_channels(samples: Any, source: Any) -> np.ndarray:
    """Averages samples to mono float32 (samples,).

    Args:
        samples: (samples,), (channels, samples) or (samples, channels); the shorter axis is the channels.
        source: Where they are from, for errors.

    Raises:
        AudioInputError: Not samples; the message names the source.
    """
    try:
        array = samples if isinstance(samples, torch.Tensor) else np.asarray(samples)
        if array.ndim == 2 and 0 not in array.shape:
            channels = array if array.shape[0] <= array.shape[1] else array.T
            return torch.stack([to_waveform(channel) for channel in channels]).mean(dim=0).cpu().numpy()
        return to_waveform(array).cpu().numpy()
    except (TypeError, ValueError) as error:  # a list of lists of different lengths is NumPy's ValueError
        raise AudioInputError(f"{source_name(source)}: {error}") from error


def checked_rate(rate: Any, source: Any) -> float:
    """Returns a file's sampling rate as a number.

    Raises:
        AudioDecodeError: A rate that no audio has.
    """
    try:
        number = float(rate)
    except (TypeError, ValueError):
        number = 0.0
    if not LOWEST_RATE <= number < float("inf"):
        raise AudioDecodeError(
            f"{source_name(source)}: a sampling rate of {rate!r}; {LOWEST_RATE} Hz or more are expected."
        )
    return number


def check_target_rate(rate: float) -> None:
    """Checks the sampling rate that a caller requests.

    Raises:
        ValueError: A rate that no audio has.
    """
    if not LOWEST_RATE <= rate < float("inf"):
        raise ValueError(f"sampling_rate={rate!r}: {LOWEST_RATE} Hz or more are expected.")


def decoded_blocks(source: Any, sampling_rate: int) -> Iterator[np.ndarray]:
    """Decodes an audio file to mono float32 blocks of varying length at `sampling_rate` Hz.

    Raises:
        AudioDecodeError: The file cannot be decoded, or its samples are not usable.
        TypeError: The source is not a file.
    """
    name = source_name(source)
    resampler = None
    peak, empty = 0.0, True
    for rate, channels in file_blocks(source):
        if resampler is None and rate != sampling_rate:
            resampler = soxr.ResampleStream(checked_rate(rate, source), sampling_rate, 1, dtype="float32")
        if channels.size:
            peak = max(peak, float(np.abs(channels).max()))
        if not np.isfinite(channels).all() or peak > LARGEST_PEAK:
            raise AudioDecodeError(f"{name}: NaN, infinite or extremely large samples.")
        block = channels.mean(axis=1)
        if resampler is not None:
            block = resampler.resample_chunk(block)
        if len(block):
            empty = False
            yield block
    if resampler is not None and len(block := resampler.resample_chunk(np.empty(0, np.float32), last=True)):
        empty = False
        yield block
    if empty:  # also one or two samples at a much higher rate
        raise AudioDecodeError(f"{name}: no samples.")
    if peak > LOUD_PEAK:
        warnings.warn(f"{name}: its samples reach {peak:.3g}; they are expected in [-1, 1].", stacklevel=2)


def samples_of(source: Any) -> tuple[Any, Any] | None:
    """Returns the samples and rate (None if unknown) of a source that holds samples, or None if it is a file.

    Raises:
        AudioInputError: A mapping whose keys are ambiguous, or with samples but no rate.
        AudioDecodeError: A decoder that cannot decode.
    """
    if isinstance(source, (str, bytes, os.PathLike)):  # np.str_, an element of an array of paths, has __array__ too
        return None
    if isinstance(source, Mapping):
        return samples_of_value(source)
    if hasattr(source, "get_all_samples"):  # the decoder that datasets returns if it decodes itself
        try:
            samples = source.get_all_samples()
        except RuntimeError as error:
            raise AudioDecodeError(f"{source_name(source)}: damaged audio ({error}).") from error
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


def samples_of_value(value: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """As [`samples_of`], for a mapping. No unknown key is ignored, because it may change the meaning.

    Raises:
        AudioInputError: Unknown or contradicting keys, or samples without a rate.
    """
    given = {key for key in value if value[key] is not None}
    name = source_name(value)
    if unknown := sorted(str(key) for key in set(value) - VALUE_KEYS):
        raise AudioInputError(
            f"{name}: a value with {', '.join(unknown)}; there are {', '.join(sorted(VALUE_KEYS))}. The rate is called "
            "sampling_rate; of a dataset, give its audio column."
        )
    held = sorted(given & {"array", "raw", "bytes"})
    if len(held) > 1:
        raise AudioInputError(
            f"{name}: a value with {' and '.join(held)}, which may contradict each other: give one of them."
        )
    if held in ([], ["bytes"]):
        if "sampling_rate" in given:
            raise AudioInputError(
                f"{name}: a value with a sampling_rate and no samples; the rate of a file is in its header."
            )
        return None
    if "sampling_rate" not in given:
        raise AudioInputError(f"{name}: a value with {held[0]} and no sampling_rate: give it, in Hz.")
    return value[held[0]], value["sampling_rate"]


def load_audio(source: Any, sampling_rate: int = 16_000) -> np.ndarray:
    """Loads a whole recording as mono float32 samples. Channels are averaged.

    A file whose end is missing is decoded up to there, with a [`TruncatedAudioWarning`] if that can be detected.

    Args:
        source: Path, bytes, file object, a value of a `datasets` audio column (decoded or not), `{"raw" or "array",
            "sampling_rate"}`, or an array of samples, which must already have `sampling_rate`.
        sampling_rate: In Hz; other rates are resampled (soxr, high quality).

    Returns:
        Samples (samples,) float32 in [-1, 1].

    Raises:
        AudioDecodeError: A missing, unreadable or empty file, or one that is damaged before its first samples.
        AudioInputError: An array that is not audio, or an ambiguous mapping.
        ValueError: A `sampling_rate` that no audio has.
        TypeError: A source of another kind.
    """
    check_target_rate(sampling_rate)
    held = samples_of(source)
    if held is None:
        return np.concatenate(list(decoded_blocks(source, sampling_rate)))
    return mono_samples(*held, source, sampling_rate)


def mono_samples(samples: Any, rate: Any, source: Any, sampling_rate: int) -> np.ndarray:
    """Averages and resamples the samples of [`samples_of`] to mono float32 (samples,) at `sampling_rate` Hz.

    Raises:
        AudioInputError: Samples that are not audio.
    """
    wave = average_channels(samples, source)
    if rate is not None and checked_rate(rate, source) != sampling_rate:
        wave = soxr.resample(wave, float(rate), sampling_rate).astype(np.float32)
    if len(wave) == 0:
        raise AudioInputError(f"{source_name(source)}: no samples at {sampling_rate} Hz.")
    return wave


def stream_audio(source: Any, sampling_rate: int = 16_000, block_seconds: float = 10.24) -> Iterator[np.ndarray]:
    """Loads a recording in consecutive blocks; memory does not grow with its length.

    The concatenated blocks equal the result of [`load_audio`].

    Args:
        source: As in [`load_audio`].
        sampling_rate: In Hz.
        block_seconds: Length of a block in s; the last one is shorter.

    Yields:
        Samples (samples,) float32 in [-1, 1].

    Raises:
        AudioDecodeError: As in [`load_audio`].
        AudioInputError: As in [`load_audio`].
        ValueError: A `sampling_rate` that no audio has, or blocks of less than one sample.
        TypeError: A source of another kind.
    """
    check_target_rate(sampling_rate)
    length = round(block_seconds * sampling_rate)
    if length < 1:
        raise ValueError(f"block_seconds={block_seconds} is less than one sample at {sampling_rate} Hz.")
    held = samples_of(source)
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
