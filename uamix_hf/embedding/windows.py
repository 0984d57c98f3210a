"""Mean over the windows of each recording, for recordings longer than the model's input."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from tqdm.auto import tqdm

Window = TypeVar("Window")


def average_windows(
    batches: Iterable[Sequence[tuple[int, Window]]],
    compute: Callable[[list[Window]], tuple[np.ndarray, np.ndarray]],
    width: int,
    progress_bar: tqdm | None = None,
) -> np.ndarray:
    """Averages a model's outputs over the windows of each recording, weighted by their frames.

    Args:
        batches: Batches of windows, each with the number of its recording. Every number from 0 on has a window; the
            order does not matter.
        compute: Computes the outputs (batch, width) float64 and the numbers of frames (batch,) of a batch.
        width: Dimensions of an output.
        progress_bar: Counts the recordings, if given.

    Returns:
        Means (recordings, width) float32.
    """
    total: dict[int, np.ndarray] = {}
    frames: dict[int, int] = {}
    for batch in batches:
        outputs, lengths = compute([window for _, window in batch])
        for (recording, _), output, length in zip(batch, outputs, lengths, strict=True):
            total[recording] = total.get(recording, 0.0) + output * length
            frames[recording] = frames.get(recording, 0) + length
        if progress_bar is not None:
            progress_bar.update(len(total) - progress_bar.n)
    means = [total[recording] / frames[recording] for recording in range(len(total))]
    return np.array(means, np.float32).reshape(-1, width)


__all__ = ["average_windows"]
