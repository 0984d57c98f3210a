"""Windows of a recording that overlap."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..audio.loading import stream_audio


def overlapping(
    blocks: Iterable[np.ndarray], window: int, hop: int, min_samples: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the first sample's number and the samples of windows that begin every `hop` samples.

    The last window ends where the recording does, and may be shorter; it has at least `min_samples` that no window
    before it has, or is the only one.

    Args:
        blocks: The recording in consecutive blocks.
        window: Samples of a window.
        hop: Samples from the beginning of a window to that of the next one, at most `window`.
        min_samples: Samples of one frame.
    """
    start, kept = 0, np.empty(0, np.float32)
    for block in blocks:
        kept = np.concatenate([kept, block])
        while len(kept) >= window:
            yield start, kept[:window]
            start, kept = start + hop, kept[hop:]
    if start == 0 or len(kept) - (window - hop) >= min_samples:
        yield start, kept


def half_overlapping(source: Any, sampling_rate: int, window_seconds: float) -> Iterator[np.ndarray]:
    """Yields windows of a recording, each of which begins half a window after the one before it.

    Every sample is in a window. The last window may be shorter than the others, as that of a short recording is.

    Args:
        source: A source that [`load_audio`] accepts.
        sampling_rate: In Hz.
        window_seconds: Length of a window in s.

    Yields:
        Samples (samples,) float32.

    Raises:
        AudioInputError: The recording cannot be read; the message names it.
    """
    half = round(window_seconds / 2 * sampling_rate)
    blocks = stream_audio(source, sampling_rate, window_seconds / 2)
    yield from (samples for _, samples in overlapping(blocks, 2 * half, half, min_samples=1))


__all__ = ["half_overlapping", "overlapping"]
