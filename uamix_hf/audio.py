"""The one door for sound: whatever holds a recording to mono float32 samples, whole or in blocks."""

import io
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import soundfile
import soxr

from .feature_extraction_audio_mae import AudioInputError, to_waveform

# File endings that libsndfile reads; used to find recordings in a folder and to say what works.
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
# Frames read at once from a file: large enough to be fast, small beside a clip's spectrogram.
READ_FRAMES = 1 << 18


class AudioDecodeError(AudioInputError):
    """A recording that cannot be read; the message names it."""


def describe(source: Any) -> str:
    """How an error names a source of sound."""
    if isinstance(source, Mapping):
        return describe(source.get("path") or source.get("bytes"))
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, bytes):
        return f"{len(source)} bytes of sound"
    return str(getattr(source, "name", f"a {type(source).__name__}"))


def average_channels(samples: Any, source: Any) -> np.ndarray:
    """(samples,) or (channels, samples) or (samples, channels) to mono float32; the shorter axis is the channels."""
    array = np.asarray(samples)
    try:
        if array.ndim == 2 and array.size:
            channels = array if array.shape[0] <= array.shape[1] else array.T
            return np.stack([to_waveform(channel).numpy() for channel in channels]).mean(axis=0)
        return to_waveform(array).numpy()
    except AudioInputError as error:
        raise AudioInputError(f"{describe(source)}: {error}") from error


def open_sound(source: Any) -> soundfile.SoundFile:
    """A path, bytes, file object or datasets value as an open sound file.

    Raises:
        AudioDecodeError: it is missing, or not sound that libsndfile reads. TypeError: it is none of these.
    """
    name = describe(source)
    if isinstance(source, Mapping):  # a value of a datasets Audio(decode=False) column
        if source.get("bytes") is None and source.get("path") is None:
            raise AudioDecodeError(f"The value has neither bytes nor path, only {sorted(source)}.")
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, bytes):
        source_file: Any = io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        source_file = os.fspath(source)
        if not os.path.isfile(source_file):
            raise AudioDecodeError(f"{source_file}: no such file.")
    elif hasattr(source, "read"):
        source_file = source
    else:
        raise TypeError(f"Expected a path, bytes, file object, array or datasets value, got {type(source).__name__}.")
    try:
        return soundfile.SoundFile(source_file)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: a name that ends in .raw
        raise AudioDecodeError(
            f"{name}: not readable as sound ({error}). Formats that work: {', '.join(AUDIO_SUFFIXES)}."
        ) from error


def decoded_blocks(source: Any, sampling_rate: int) -> Iterator[np.ndarray]:
    """Mono float32 blocks of a sound file at `sampling_rate` Hz, of no particular length."""
    with open_sound(source) as sound:
        resampler = None
        if sound.samplerate != sampling_rate:
            resampler = soxr.ResampleStream(sound.samplerate, sampling_rate, 1, dtype="float32")
        empty = True
        while True:
            try:
                block = sound.read(READ_FRAMES, dtype="float32", always_2d=True).mean(axis=1)
            except soundfile.LibsndfileError as error:
                raise AudioDecodeError(f"{describe(source)}: damaged sound ({error}).") from error
            last = len(block) < READ_FRAMES
            if not np.isfinite(block).all():
                raise AudioDecodeError(f"{describe(source)}: NaN or infinite samples.")
            if resampler is not None:
                block = resampler.resample_chunk(block, last=last)
            empty = empty and len(block) == 0  # so is what is left of a sample or two at a higher rate
            if len(block):
                yield block
            if last:
                break
        if empty:
            raise AudioDecodeError(f"{describe(source)}: no samples.")


def array_of(source: Any) -> tuple[Any, int | None] | None:
    """Samples and rate where the source holds samples already, None where it is a file."""
    if isinstance(source, (str, bytes, os.PathLike)):  # np.str_, an element of an array of paths, has __array__ too
        return None
    if isinstance(source, Mapping) and source.get("array") is not None:
        return source["array"], source.get("sampling_rate")
    if isinstance(source, Mapping) and source.get("raw") is not None:
        return source["raw"], source.get("sampling_rate")
    if hasattr(source, "get_all_samples"):  # the decoder that datasets returns where it decodes itself
        samples = source.get_all_samples()
        return samples.data, samples.sample_rate
    if hasattr(source, "__array__") or isinstance(source, (list, tuple)):
        return source, None
    return None


def load_audio(source: Any, sampling_rate: int = 16_000) -> np.ndarray:
    """A whole recording as mono float32 samples (samples,) in [-1, 1]. Channels are averaged.

    Args:
        source: Path, bytes, file object, a value of a `datasets` audio column (decoded or not), `{"raw" or "array",
            "sampling_rate"}`, or an array of samples, which is taken to have `sampling_rate` already.
        sampling_rate: In Hz; other rates are resampled (soxr, high quality).

    Raises:
        AudioDecodeError: missing, unreadable, damaged or empty file. AudioInputError: an array that is no sound.
        TypeError: a source of another kind.
    """
    held = array_of(source)
    if held is None:
        return np.concatenate(list(decoded_blocks(source, sampling_rate)))
    samples, rate = held
    wave = average_channels(samples, source)
    if rate not in (None, sampling_rate):
        wave = soxr.resample(wave, rate, sampling_rate).astype(np.float32)
    if len(wave) == 0:
        raise AudioInputError(f"{describe(source)}: no samples at {sampling_rate} Hz.")
    return wave


def stream_audio(source: Any, sampling_rate: int = 16_000, block_seconds: float = 10.24) -> Iterator[np.ndarray]:
    """A recording in consecutive blocks of `block_seconds`, the last one shorter; memory does not grow with its length.

    Args and errors as in [`load_audio`]; the concatenated blocks equal its result.
    """
    length = round(block_seconds * sampling_rate)
    if length < 1:
        raise ValueError(f"block_seconds={block_seconds} is less than one sample at {sampling_rate} Hz.")
    pieces = iter([load_audio(source, sampling_rate)]) if array_of(source) else decoded_blocks(source, sampling_rate)
    rest = np.empty(0, np.float32)
    for piece in pieces:
        rest = np.concatenate([rest, piece])
        whole = len(rest) // length * length
        yield from rest[:whole].reshape(-1, length)
        rest = rest[whole:]
    if len(rest):
        yield rest


__all__ = ["AUDIO_SUFFIXES", "AudioDecodeError", "load_audio", "stream_audio"]
