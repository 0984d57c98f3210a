"""Decodes audio files to blocks of samples at their own rate, by libsndfile or else torchcodec."""

import io
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO
from unicodedata import normalize

import numpy as np
import soundfile

from .containers import (
    LongerFile,
    UnfinishedWav,
    after_id3,
    is_unfinished,
    missing_fraction,
    mp3_bytes,
    torchcodec_format,
)
from .damage import is_damaged, ogg_state
from .errors import AudioDecodeError, TruncatedAudioWarning, source_name, warn_truncated
from .torchcodec import damaged_blocks, torchcodec_blocks

# File endings that can be read; used to find recordings in a folder and in errors.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64",
    ".m4a", ".aac",  # by torchcodec
)  # fmt: skip
# Samples read at once from a file: enough to be fast, small compared to a clip's spectrogram.
READ_FRAMES = 1 << 18
MP3_FRAMES = 1152  # samples of a packet; encoders differ in whether the packet with the length counts
UNKNOWN_FRAMES = 2**63 - 1
FLAC_END = 39  # libsndfile's error at the end of a whole FLAC file of unknown length


def other_unicode_form(path: str | os.PathLike[str]) -> str | None:
    """Finds the file whose path differs from a missing one's only in the Unicode form of its accents (NFC or NFD).

    The two forms look alike. None if there is no such file.
    """
    found = Path(Path(path).anchor)
    for part in Path(path).parts[bool(found.anchor) :]:
        step = found / part
        if not os.path.lexists(step):
            with suppress(OSError):  # not a folder, or no permission to list it
                alike = [name for name in os.listdir(found) if normalize("NFC", name) == normalize("NFC", part)]
                step = found / alike[0] if alike else step
        found = step
    return str(found) if os.path.isfile(found) else None


def missing_file(path: str) -> AudioDecodeError:
    """Error for a missing file, with a hint if its name exists in the other Unicode form."""
    form = "NFD" if path == normalize("NFC", path) else "NFC"
    hint = f", but one whose accents are encoded otherwise: unicodedata.normalize({form!r}, name) gives its name"
    return AudioDecodeError(f"{path}: no such file{hint if other_unicode_form(path) else ''}.")


def open_file(source: Any) -> BinaryIO:
    """Opens a path, bytes, file object or datasets value as a binary file.

    Raises:
        AudioDecodeError: The file is missing or cannot be read.
        TypeError: The source is none of these.
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
        raise TypeError(f"{source_name(source)} is open as text: open audio files with mode 'rb'.")
    if not hasattr(source, "read"):
        raise TypeError(f"Expected a path, bytes, file object, array or datasets value, got {type(source).__name__}.")
    try:
        if isinstance(getattr(source, "raw", source), (io.BytesIO, io.FileIO)) and source.seekable():
            return source
        # A pipe, a network response, a member of an archive: an error of theirs would get lost during decoding.
        with suppress(Exception):
            source.seek(0)
        return io.BytesIO(source.read())
    except Exception as error:  # of any kind, as foreign code runs here; ValueError is that of a closed file
        raise AudioDecodeError(f"{source_name(source)}: cannot be read ({error}).") from error


def file_blocks(source: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Decodes an audio file in blocks.

    A file whose end is missing is decoded up to there, with a warning. One that is damaged before its end is decoded by
    torchcodec, with a warning, if that is installed and succeeds.

    Args:
        source: Path, bytes, file object or datasets value.

    Yields:
        Rate in Hz and samples (samples, channels) float32, in blocks of varying length.

    Raises:
        AudioDecodeError: The file is missing, not readable as audio, damaged, or lacks more than
            [`MAX_MISSING_FRACTION`].
        TypeError: The source is not a file.
    """
    name = source_name(source)
    with ExitStack() as stack:
        file = open_file(source)
        if file is not source:
            stack.enter_context(file)
        try:
            pages = ogg_state(file) if after_id3(file, 4) == b"OggS" else ""
            stated = mp3_bytes(file)
            file.seek(0)
            # libsndfile opens a path itself: faster, and no Python error for an impossible seek of a damaged header.
            by_name = isinstance(file, io.BufferedReader) and file is not source
            view: Any = file.name if by_name else file
            sound = stack.enter_context(soundfile.SoundFile(view))
            if sound.format == "MP3" and not stated:
                view = LongerFile(file)
                sound = stack.enter_context(soundfile.SoundFile(view))
            elif sound.format == "WAV" and sound.frames == 0 and is_unfinished(file):
                sound = stack.enter_context(soundfile.SoundFile(UnfinishedWav(file)))
        except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
            # TypeError: a name that ends in .raw. ValueError: a closed file.
            if (other := None if file.closed else torchcodec_format(file)) is None:
                reason = getattr(error, "error_string", str(error)).rstrip(".")
                raise AudioDecodeError(
                    f"{name}: not readable as audio ({reason}). Formats that work: {', '.join(AUDIO_SUFFIXES)}."
                ) from error
            yield from torchcodec_blocks(file, name, other)
            return
        yield from checked_blocks(sound, file, view, pages, name)


def checked_blocks(
    sound: soundfile.SoundFile, file: BinaryIO, view: Any, pages: str, name: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Decodes an open file in blocks, and warns if its end is missing.

    Args:
        sound: The open file.
        file: The same file, binary.
        view: Path or object that `sound` was opened from.
        pages: State of an Ogg file's pages, else empty.
        name: Name of the file for messages.

    Yields:
        As [`file_blocks`].

    Raises:
        AudioDecodeError: The file is damaged, or lacks too much.
    """
    unknown = isinstance(view, LongerFile) or sound.frames == UNKNOWN_FRAMES
    seconds = 0.0 if unknown else sound.frames / sound.samplerate
    if pages == "damaged":  # libsndfile skips damaged pages, or fills them
        yield from damaged_blocks(file, name, seconds)
        return
    before, rest, failure = yield from sndfile_blocks(sound)
    total = before + len(rest)
    failed = failure is not None and failure.code != FLAC_END
    if unknown:
        short = failed
    else:
        short = total < sound.frames - (MP3_FRAMES if sound.format == "MP3" else 0)
    if (short or failed or isinstance(view, LongerFile)) and is_damaged(file, sound.format, before, view):
        yield from damaged_blocks(file, name, seconds, before)
        return
    if total == 0 and failed:
        raise AudioDecodeError(f"{name}: damaged audio ({failure}).") from failure
    if len(rest):
        yield sound.samplerate, rest
    if short:
        warn_truncated(name, None if unknown else 1 - total / sound.frames)
    elif pages == "cut":
        warn_truncated(name, None)
    elif sound.format != "MP3" and (fraction := missing_fraction(file)) > 0:
        warn_truncated(name, fraction)


def sndfile_blocks(
    sound: soundfile.SoundFile,
) -> Generator[tuple[int, np.ndarray], None, tuple[int, np.ndarray, soundfile.LibsndfileError | None]]:
    """Decodes an open file in blocks by libsndfile, up to its first error.

    Yields:
        As [`file_blocks`].

    Returns:
        Number of samples that were yielded; and after an error the samples of the last block, which may be silent where
        the file is damaged, and the error.
    """
    total = 0
    length = max(1, READ_FRAMES // sound.channels)
    while True:
        # Samples that are still NaN after an error were not decoded; the error does not contain their number.
        block = np.full((length, sound.channels), np.nan, np.float32)
        try:
            count = len(sound.read(out=block))
        except soundfile.LibsndfileError as error:
            undecoded = np.isnan(block).any(axis=1)
            return total, block[: int(undecoded.argmax()) if undecoded.any() else length], error
        total += count
        if count:
            yield sound.samplerate, block[:count]
        if count < length:
            return total, block[:0], None


__all__ = [
    "AUDIO_SUFFIXES",
    "READ_FRAMES",
    "AudioDecodeError",
    "TruncatedAudioWarning",
    "source_name",
    "file_blocks",
    "other_unicode_form",
]
