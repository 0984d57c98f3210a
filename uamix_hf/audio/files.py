"""Sound files to blocks of samples at their own rate: libsndfile, and torchcodec for what that does not know."""

import io
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO
from unicodedata import normalize

import numpy as np
import soundfile

from .containers import LongerFile, UnfinishedWav, after_id3, is_unfinished, missing_share, mp3_bytes, torchcodec_format
from .damage import is_damaged, ogg_state
from .errors import AudioDecodeError, TruncatedAudioWarning, describe, warn_truncated
from .torchcodec import damaged_blocks, torchcodec_blocks

# File endings of what can be read; used to find recordings in a folder and to say what works.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64",
    ".m4a", ".aac",  # through torchcodec
)  # fmt: skip
# Samples read at once from a file: large enough to be fast, small beside a clip's spectrogram.
READ_FRAMES = 1 << 18
MP3_FRAMES = 1152  # of one packet; encoders differ in whether the one that holds the length counts
UNKNOWN_FRAMES = 2**63 - 1
FLAC_END = 39  # libsndfile's error at the end of a whole FLAC file of unknown length


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

    A file that ends before its end is read up to there, with a warning. One that is damaged before its end is read by
    torchcodec, with a warning, where that is installed and gets over it.

    Raises:
        AudioDecodeError: it is missing, not sound that can be read, damaged, or lacks more than [`MOST_MISSING`].
        TypeError: it is no file.
    """
    name = describe(source)
    with ExitStack() as stack:
        file = open_file(source)
        if file is not source:
            stack.enter_context(file)
        try:
            pages = ogg_state(file) if after_id3(file, 4) == b"OggS" else ""
            stated = mp3_bytes(file)
            file.seek(0)
            # A path is read without Python's part in it: faster, and quiet about what a damaged header asks for.
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
                    f"{name}: not readable as sound ({reason}). Formats that work: {', '.join(AUDIO_SUFFIXES)}."
                ) from error
            yield from torchcodec_blocks(file, name, other)
            return
        yield from checked_blocks(sound, file, view, pages, name)


def checked_blocks(
    sound: soundfile.SoundFile, file: BinaryIO, view: Any, pages: str, name: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Rate and blocks of an open file, and what is to be said of it.

    Args:
        view: What `sound` was opened of. pages: Of an Ogg file, their state.

    Raises:
        AudioDecodeError: it is damaged, or lacks too much.
    """
    unknown = isinstance(view, LongerFile) or sound.frames == UNKNOWN_FRAMES
    seconds = 0.0 if unknown else sound.frames / sound.samplerate
    if pages == "damaged":  # libsndfile leaves the pages out, or makes up what they held
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
        raise AudioDecodeError(f"{name}: damaged sound ({failure}).") from failure
    if len(rest):
        yield sound.samplerate, rest
    if short:
        warn_truncated(name, None if unknown else 1 - total / sound.frames)
    elif pages == "cut":
        warn_truncated(name, None)
    elif sound.format != "MP3" and (share := missing_share(file)) > 0:
        warn_truncated(name, share)


def sndfile_blocks(
    sound: soundfile.SoundFile,
) -> Generator[tuple[int, np.ndarray], None, tuple[int, np.ndarray, soundfile.LibsndfileError | None]]:
    """Rate and blocks of what libsndfile decodes without an error.

    Returns:
        How many samples they hold; where it gave up, the samples of the last block, which may hold silence instead of
        what is damaged, and why.
    """
    total = 0
    length = max(1, READ_FRAMES // sound.channels)
    while True:
        # What is still NaN when the decoder gives up was not decoded: its error does not say how much was.
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
    "describe",
    "file_blocks",
    "other_spelling",
]
