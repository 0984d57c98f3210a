"""Windows of recordings longer than the model's input: their batches, and the mean over those of each recording."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

import numpy as np
from tqdm.auto import tqdm

Window = TypeVar("Window")
Place = TypeVar("Place")
# Number of batches of short clips that are sorted by length together: bounds memory, leaves little padding.
BATCHES_SORTED_TOGETHER = 16
# The longest window of a batch is at most this fraction longer than the shortest: of few recordings of mixed lengths,
# smaller batches take less time than padding.
MOST_PADDING = 0.25


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


def batches_of_windows(
    windows: Generator[tuple[Place, np.ndarray]], batch_size: int, whole_samples: int
) -> Generator[list[tuple[Place, np.ndarray]]]:
    """Yields windows in batches of similar length.

    Windows of full length, of which long recordings consist, are batched at once: at most one batch of them is in
    memory. Shorter ones wait until there are 16 batches, which are sorted by length; these are yielded one by one while
    the next 16 come in, so that reading spreads evenly over the batches.

    Args:
        windows: Windows (samples,), each with what names it; closed at the end.
        batch_size: Windows in a batch.
        whole_samples: Samples of a window of full length.
    """
    whole: list[tuple[Place, np.ndarray]] = []
    shorter: list[tuple[Place, np.ndarray]] = []
    ready: list[list[tuple[Place, np.ndarray]]] = []
    with closing(windows):
        for item in windows:
            if len(item[1]) == whole_samples:
                whole.append(item)
                if len(whole) == batch_size:
                    yield whole
                    whole = []
                continue
            shorter.append(item)
            if len(shorter) == BATCHES_SORTED_TOGETHER * batch_size:
                yield from ready  # by_length may make more than 16
                ready, shorter = list(by_length(shorter, batch_size)), []
            if ready and len(shorter) % batch_size == 0:
                yield ready.pop(0)
    yield from ready
    yield from by_length(shorter + whole, batch_size)


def by_length(items: list[tuple[Place, np.ndarray]], batch_size: int) -> Iterator[list[tuple[Place, np.ndarray]]]:
    """Yields batches of windows, the shortest first."""
    batch: list[tuple[Place, np.ndarray]] = []
    for item in sorted(items, key=lambda item: len(item[1])):
        if batch and (len(batch) == batch_size or len(item[1]) > (1 + MOST_PADDING) * len(batch[0][1])):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


__all__ = ["average_windows", "batches_of_windows"]
