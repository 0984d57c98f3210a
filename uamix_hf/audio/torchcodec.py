"""Audio files to blocks of samples by torchcodec: of formats that libsndfile does not know, and of damaged files."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .containers import AAC, MATROSKA, MP4, has_all_bytes
from .damage import adts_frames
from .errors import MOST_MISSING, AudioDecodeError, DamagedAudioWarning, warn_truncated

# torchcodec decodes all that went before again unless a block ends where a packet does; those of AAC hold 1024.
TORCHCODEC_FRAMES, AAC_FRAMES = 1 << 20, 1 << 10
# Packets of AAC by which the decoder may stop before the end of a file that is cut, not damaged.
CUT_PACKETS = 8


def import_decoder(need: str) -> Any:
    """torchcodec's `AudioDecoder`.

    Raises:
        AudioDecodeError: it cannot be imported; `need` says what for.
    """
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: FFmpeg's libraries are absent
        raise AudioDecodeError(f"{need}: pip install 'uamix_hf[torchcodec]', or convert it to FLAC.") from error
    return AudioDecoder


def damaged_blocks(file: Any, name: str, stated: float, skip: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Rate and one block of what torchcodec makes of a file that is damaged before its end, with a warning.

    Args:
        stated: Its length in seconds, 0 where that is unknown.
        skip: Samples at its beginning that libsndfile has decoded already.

    Raises:
        AudioDecodeError: torchcodec is absent, or gets no further.
    """
    decoder = import_decoder(f"{name}: damaged before its end. Only torchcodec and FFmpeg may read it")
    file.seek(0)
    try:
        samples = decoder(file).get_all_samples()
    except (RuntimeError, ValueError) as error:
        raise AudioDecodeError(f"{name}: damaged before its end ({last_clause(error)}).") from error
    seconds = samples.data.shape[1] / samples.sample_rate
    text = f"{name}: damaged before its end; torchcodec reads {seconds:.4g} s" + f" of {stated:.4g} s" * (stated > 0)
    if samples.data.shape[1] <= skip or seconds < (1 - MOST_MISSING) * stated:
        raise AudioDecodeError(f"{text} alone.")
    warnings.warn(f"{text}.", DamagedAudioWarning, stacklevel=2)
    yield samples.sample_rate, samples.data[:, skip:].T.numpy()


def torchcodec_blocks(file: Any, name: str, kind: str) -> Iterator[tuple[int, np.ndarray]]:
    """Rate and blocks of what torchcodec decodes; a warning where they hold less than stated, or where it gave up.

    Raises:
        AudioDecodeError: torchcodec is absent, or cannot decode the first samples.
    """
    decoder = import_decoder(f"{name}: {kind} needs torchcodec and FFmpeg")

    def open_decoder() -> Any:
        file.seek(0)
        return decoder(file)

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
    if failure is not None and (
        (kind == MP4 and has_all_bytes(file)) or (kind == AAC and adts_frames(file) - total // AAC_FRAMES > CUT_PACKETS)
    ):
        raise AudioDecodeError(f"{name}: damaged after {total / rate:.3g} s ({last_clause(failure)}).") from failure
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


__all__ = ["damaged_blocks", "torchcodec_blocks"]
