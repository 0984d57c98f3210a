"""Decodes audio files by torchcodec: formats that libsndfile does not read, and damaged files."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .containers import AAC, MATROSKA, MP4, has_all_bytes
from .damage import adts_frames
from .errors import MAX_MISSING_FRACTION, AudioDecodeError, DamagedAudioWarning, warn_truncated

# torchcodec decodes everything before a block again unless the block before ended with a packet; AAC's have 1024.
TORCHCODEC_FRAMES, AAC_FRAMES = 1 << 20, 1 << 10
# AAC packets that the decoder may lose at the end of a file that is truncated, not damaged.
CUT_PACKETS = 8


def import_decoder(need: str) -> Any:
    """Imports torchcodec's `AudioDecoder`.

    Args:
        need: Beginning of the error's message: what it is needed for.

    Raises:
        AudioDecodeError: It cannot be imported.
    """
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: FFmpeg's libraries are absent
        raise AudioDecodeError(f"{need}: pip install 'uamix_hf[torchcodec]', or convert it to FLAC.") from error
    return AudioDecoder


def damaged_blocks(file: Any, name: str, stated: float, skip: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Decodes a file that is damaged before its end by torchcodec, as one block, with a warning.

    Args:
        file: The file, binary.
        name: Name of the file for messages.
        stated: Stated length in seconds, 0 if unknown.
        skip: Samples at the beginning that libsndfile has already decoded.

    Yields:
        Rate in Hz and samples (samples, channels) float32.

    Raises:
        AudioDecodeError: torchcodec is not installed, or decodes no more than libsndfile.
    """
    decoder = import_decoder(f"{name}: damaged before its end. Only torchcodec and FFmpeg may read it")
    file.seek(0)
    try:
        samples = decoder(file).get_all_samples()
    except (RuntimeError, ValueError) as error:
        raise AudioDecodeError(f"{name}: damaged before its end ({last_clause(error)}).") from error
    seconds = samples.data.shape[1] / samples.sample_rate
    text = f"{name}: damaged before its end; torchcodec reads {seconds:.4g} s" + f" of {stated:.4g} s" * (stated > 0)
    if samples.data.shape[1] <= skip or seconds < (1 - MAX_MISSING_FRACTION) * stated:
        raise AudioDecodeError(f"{text} only.")
    warnings.warn(f"{text}.", DamagedAudioWarning, stacklevel=2)
    yield samples.sample_rate, samples.data[:, skip:].T.numpy()


def torchcodec_blocks(file: Any, name: str, kind: str) -> Iterator[tuple[int, np.ndarray]]:
    """Decodes a file in blocks by torchcodec; warns if there is less audio than stated, or after a decoding error.

    Args:
        file: The file, binary.
        name: Name of the file for messages.
        kind: Name of its format.

    Yields:
        Rate in Hz and samples (samples, channels) float32.

    Raises:
        AudioDecodeError: torchcodec is not installed or decodes nothing, or the file is damaged.
    """
    decoder = import_decoder(f"{name}: {kind} needs torchcodec and FFmpeg")

    def open_decoder() -> Any:
        file.seek(0)
        return decoder(file)

    try:
        metadata = open_decoder().metadata
    except (RuntimeError, ValueError) as error:  # ValueError: no audio stream
        raise AudioDecodeError(f"{name}: not readable as {kind} ({last_clause(error)}).") from error
    rate: Any = metadata.sample_rate
    total, failure = 0, None
    try:
        # Times in Matroska are too coarse and too often wrong to split a stream by: it is decoded as a whole.
        for block in [open_decoder().get_all_samples().data] if kind == MATROSKA else aac_blocks(open_decoder, rate):
            total += block.shape[1]
            yield rate, block.T.numpy()
    except RuntimeError as error:
        failure = error
    if failure is not None and total == 0:
        raise AudioDecodeError(f"{name}: damaged audio ({last_clause(failure)}).") from failure
    stated = 0 if kind == AAC else round((metadata.duration_seconds or 0) * rate)  # of raw AAC it is an estimate
    if failure is not None and (
        (kind == MP4 and has_all_bytes(file)) or (kind == AAC and adts_frames(file) - total // AAC_FRAMES > CUT_PACKETS)
    ):
        raise AudioDecodeError(f"{name}: damaged after {total / rate:.3g} s ({last_clause(failure)}).") from failure
    if total < stated - AAC_FRAMES:
        warn_truncated(name, 1 - total / stated)
    elif failure is not None and not stated:
        warn_truncated(name, None)


def aac_blocks(open_decoder: Callable[[], Any], rate: int) -> Iterator[Any]:
    """Decodes a stream to tensors (channels, samples), in order.

    Raises:
        RuntimeError: The decoder's error, after everything that can be decoded.
    """
    sound, start, length = open_decoder(), 0, TORCHCODEC_FRAMES
    while True:
        try:
            block = sound.get_samples_played_in_range(start / rate, (start + length) / rate).data
        except RuntimeError as error:
            if "No audio frames were decoded" in str(error):  # the end of the stream
                return
            if length == AAC_FRAMES:
                raise
            # A block with damage fails as a whole: approach the damage in shorter blocks, with a new decoder.
            sound, length = open_decoder(), length // 4
            continue
        yield block
        start += length


def last_clause(error: Exception) -> str:
    """Last clause of an error of torchcodec, whose messages begin with positions in its source code."""
    return str(error).rpartition(", ")[2]


__all__ = ["damaged_blocks", "torchcodec_blocks"]
