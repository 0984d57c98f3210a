"""Windows of a recording that overlap."""

from collections.abc import Iterable, Iterator

import numpy as np


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


__all__ = ["overlapping"]
