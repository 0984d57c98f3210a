"""Sound files to blocks of samples at their own rate: libsndfile, and torchcodec for what that does not know."""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO
from unicodedata import normalize

import numpy as np
import soundfile

from .audio_containers import (
    AAC,
    MATROSKA,
    LongerFile,
    UnfinishedWav,
    ends_ogg_stream,
    is_unfinished,
    missing_share,
    states_mp3_length,
    torchcodec_format,
)
from .feature_extraction_audio_mae import AudioInputError

# File endings of what can be read; used to find recordings in a folder and to say what works.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64",
    ".m4a", ".aac",  # through torchcodec
)  # fmt: skip
# Samples read at once from a file: large enough to be fast, small beside a clip's spectrogram.
READ_FRAMES = 1 << 18
# torchcodec decodes all that went before again unless a block ends where a packet does; those of AAC hold 1024.
TORCHCODEC_FRAMES, AAC_FRAMES = 1 << 20, 1 << 10
MP3_FRAMES = 1152  # of one packet; encoders differ in whether the one that holds the length counts
UNKNOWN_FRAMES = 2**63 - 1
FLAC_END = 39  # libsndfile's error at the end of a whole FLAC file of unknown length


class AudioDecodeError(AudioInputError):
    """A recording that cannot be read; the message names it."""


class TruncatedAudioWarning(UserWarning):
    """A recording that ends before its end; what there is of it was decoded. The message names it."""


def describe(source: Any) -> str:
    """How an error names a source of sound."""
    if isinstance(source, Mapping):
        named = source.get("path") or source.get("bytes")
        return describe(named) if named else "a value without a path"
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, bytes):
        return f"{len(source)} bytes of sound"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"a {type(source).__name__}"


def warn_truncated(name: str, share: float | None) -> None:
    missing = "its end is missing" if share is None else f"{100 * share:.3g} % of its stated length is missing"
    warnings.warn(f"{name}: {missing}; read up to there.", TruncatedAudioWarning, stacklevel=2)


def other_spelling(path: str | os.PathLike[str]) -> str | None:
    """The file whose path differs from a missing one's in nothing but how accents are encoded (Unicode's NFC and NFD,
    which look alike); None where there is none."""
    found = Path(Path(path).anchor)
    for part in Path(path).parts[bool(found.anchor) :]:
        step = found / part
        if not os.path.lexists(step):
            with suppress(OSError):  # no folder, or one that may not be listed
                alike = [name for name in os.listdir(found) if normalize("NFC", name) == normalize("NFC", part)]
                step = found / alike[0] if alike else step
        found = step
    return str(found) if os.path.isfile(found) else None


def missing_file(path: str) -> AudioDecodeError:
    form = "NFD" if path == normalize("NFC", path) else "NFC"
    hint = f", but one whose accents are encoded otherwise: unicodedata.normalize({form!r}, name) gives its name"
    return AudioDecodeError(f"{path}: no such file{hint if other_spelling(path) else ''}.")


def open_file(source: Any) -> BinaryIO:
    """A path, bytes, file object or datasets value as an open binary file.

    Raises:
        AudioDecodeError: it is missing. TypeError: it is none of these.
    """
    if isinstance(source, Mapping):  # a value of a datasets Audio(decode=False) column
        if source.get("bytes") is None and source.get("path") is None:
            raise AudioDecodeError(f"The value has neither bytes nor path, only {sorted(source)}.")
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if not os.path.isfile(path):
            raise missing_file(path)
        try:
            return open(path, "rb")
        except OSError as error:
            raise AudioDecodeError(f"{path}: cannot be opened ({error.strerror}).") from error
    if isinstance(source, io.TextIOBase):
        raise TypeError(f"{describe(source)} is open as text: open sound with mode 'rb'.")
    if not hasattr(source, "read"):
        raise TypeError(f"Expected a path, bytes, file object, array or datasets value, got {type(source).__name__}.")
    try:
        if isinstance(getattr(source, "raw", source), (io.BytesIO, io.FileIO)) and source.seekable():
            return source
        # A pipe, an answer from the network, a member of an archive: while decoding, an error of theirs would get lost.
        with suppress(Exception):
            source.seek(0)
        return io.BytesIO(source.read())
    except Exception as error:  # of whatever kind: the code is not ours. ValueError is that of a closed file
        raise AudioDecodeError(f"{describe(source)}: cannot be read ({error}).") from error


def file_blocks(source: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Rate in Hz and blocks (samples, channels) float32 of a sound file, of no particular length.

    Raises:
        AudioDecodeError: it is missing, not sound that can be read, or damaged before the first sample.
        TypeError: it is no file.
    """
    name = describe(source)
    with ExitStack() as stack:
        file = open_file(source)
        if file is not source:
            stack.enter_context(file)
        try:
            stated = states_mp3_length(file)
            file.seek(0)
            # A path is read without Python's part in it: faster, and quiet about what a damaged header asks for.
            by_name = isinstance(file, io.BufferedReader) and file is not source
            sound = stack.enter_context(soundfile.SoundFile(file.name if by_name else file))
            if sound.format == "MP3" and not stated:
                sound = stack.enter_context(soundfile.SoundFile(LongerFile(file)))
            elif sound.format == "WAV" and sound.frames == 0 and is_unfinished(file):
                sound = stack.enter_context(soundfile.SoundFile(UnfinishedWav(file)))
        except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
            # TypeError: a name that ends in .raw. ValueError: a closed file.
            if (other := None if file.closed else torchcodec_format(file)) is None:
                reason = getattr(error, "error_string", str(error)).rstrip(".")
                raise AudioDecodeError(
                    f"{name}: not readable as sound ({reason}). Formats that work: {', '.join(AUDIO_SUFFIXES)}."
                ) from error
            yield from torchcodec_blocks(file, name, other)
        else:
            frames = sound.frames if stated or sound.format != "MP3" else UNKNOWN_FRAMES
            yield from sndfile_blocks(sound, frames, name)
            if sound.format == "OGG" and not ends_ogg_stream(file):
                warn_truncated(name, None)
            elif (share := missing_share(file)) > 0:
                warn_truncated(name, share)


def sndfile_blocks(sound: soundfile.SoundFile, frames: int, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Rate and blocks of what libsndfile opened; a warning where they hold less than `frames`, or where it gave up."""
    total, failure = 0, None
    length = max(1, READ_FRAMES // sound.channels)
    count = length
    while failure is None and count == length:
        # What is still NaN when the decoder gives up was not decoded: its error does not say how much was.
        block = np.full((length, sound.channels), np.nan, np.float32)
        try:
            count = len(sound.read(out=block))
        except soundfile.LibsndfileError as error:
            failure = error
            undecoded = np.isnan(block).any(axis=1)
            count = int(undecoded.argmax()) if undecoded.any() else length
        total += count
        if failure is not None and total == 0:
            raise AudioDecodeError(f"{name}: damaged sound ({failure}).") from failure
        yield sound.samplerate, block[:count]
    if frames == UNKNOWN_FRAMES:
        if failure is not None and failure.code != FLAC_END:
            warn_truncated(name, None)
    elif total < frames - (MP3_FRAMES if sound.format == "MP3" else 0):
        warn_truncated(name, 1 - total / frames)


def torchcodec_blocks(file: Any, name: str, kind: str) -> Iterator[tuple[int, np.ndarray]]:
    """Rate and blocks of what torchcodec decodes; a warning where they hold less than stated, or where it gave up.

    Raises:
        AudioDecodeError: torchcodec is absent, or cannot decode the first samples.
    """
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: FFmpeg's libraries are absent
        raise AudioDecodeError(
            f"{name}: {kind} needs torchcodec and FFmpeg: pip install 'uamix_hf[torchcodec]', or convert it to FLAC."
        ) from error

    def open_decoder() -> Any:
        file.seek(0)
        return AudioDecoder(file)

    try:
        metadata = open_decoder().metadata
    except (RuntimeError, ValueError) as error:  # ValueError: no stream of sound
        raise AudioDecodeError(f"{name}: not readable as {kind} ({last_clause(error)}).") from error
    rate: Any = metadata.sample_rate
    total, failure = 0, None
    try:
        # Times in Matroska are too rough, and too often wrong, to cut a stream by them: it is decoded as a whole.
        for block in [open_decoder().get_all_samples().data] if kind == MATROSKA else aac_blocks(open_decoder, rate):
            total += block.shape[1]
            yield rate, block.T.numpy()
    except RuntimeError as error:
        failure = error
    if failure is not None and total == 0:
        raise AudioDecodeError(f"{name}: damaged sound ({last_clause(failure)}).") from failure
    stated = 0 if kind == AAC else round((metadata.duration_seconds or 0) * rate)  # of bare AAC it is an estimate
    if total < stated - AAC_FRAMES:
        warn_truncated(name, 1 - total / stated)
    elif failure is not None and not stated:
        warn_truncated(name, None)


def aac_blocks(open_decoder: Callable[[], Any], rate: int) -> Iterator[Any]:
    """Tensors (channels, samples) of a stream, in order.

    Raises:
        RuntimeError: the decoder's own, after all that can be decoded.
    """
    sound, start, length = open_decoder(), 0, TORCHCODEC_FRAMES
    while True:
        try:
            block = sound.get_samples_played_in_range(start / rate, (start + length) / rate).data
        except RuntimeError as error:
            if "No audio frames were decoded" in str(error):  # how it says that the stream is over
                return
            if length == AAC_FRAMES:
                raise
            # A block with damage fails as a whole: closer to it in shorter ones, by a decoder without a past.
            sound, length = open_decoder(), length // 4
            continue
        yield block
        start += length


def last_clause(error: Exception) -> str:
    """torchcodec's messages begin with places in its source."""
    return str(error).rpartition(", ")[2]


__all__ = [
    "AUDIO_SUFFIXES",
    "READ_FRAMES",
    "AudioDecodeError",
    "TruncatedAudioWarning",
    "describe",
    "file_blocks",
    "other_spelling",
]
