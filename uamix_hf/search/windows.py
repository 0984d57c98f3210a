"""Windows of a recording that overlap by half."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..audio.loading import stream_audio


def half_overlapping(source: Any, sampling_rate: int, window_seconds: float) -> Iterator[np.ndarray]:
    """Yields windows of a recording, each of which begins half a window after the one before it.

    Every sample is in a window. The last window is shorter than the others, and so is that of a recording of less than
    a window.

    Args:
        source: A source that [`load_audio`] accepts.
        sampling_rate: In Hz.
        window_seconds: Length of a window in s.

    Yields:
        Samples (samples,) float32.

    Raises:
        AudioInputError: The recording cannot be read; the message names it.
    """
    before: np.ndarray | None = None
    number = 0
    for number, half in enumerate(stream_audio(source, sampling_rate, window_seconds / 2)):  # noqa: B007
        if before is not None:
            yield np.concatenate([before, half])
        before = half
    if before is not None and number == 0:
        yield before


__all__ = ["half_overlapping"]
