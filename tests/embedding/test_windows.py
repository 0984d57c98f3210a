"""The mean over windows is NumPy's weighted average, in whatever order and batches the windows come."""

import numpy as np
import pytest

from uamix_hf.embedding import windows as rules
from uamix_hf.embedding.windows import average_windows, batches_of_windows

MOST_PADDING = rules.MOST_PADDING  # as it is outside of tests


class Bar:
    """A progress bar that remembers its counts."""

    def __init__(self) -> None:
        self.n, self.seen = 0, []

    def update(self, count: int) -> None:
        self.n += count
        self.seen.append(self.n)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_windows_are_weighted_by_their_frames(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    windows = {recording: rng.normal(size=(1 + recording, 5)) for recording in range(4)}
    frames = {recording: rng.integers(1, 100, 1 + recording) for recording in range(4)}
    items = [(recording, (recording, place)) for recording in windows for place in range(1 + recording)]
    items = [items[index] for index in rng.permutation(len(items))]
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]

    def compute(keys: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        assert len(keys) <= batch_size
        return (
            np.stack([windows[recording][place] for recording, place in keys]),
            np.array([frames[recording][place] for recording, place in keys]),
        )

    bar = Bar()
    means = average_windows(batches, compute, 5, bar)  # type: ignore[arg-type]
    expected = [np.average(windows[recording], axis=0, weights=frames[recording]) for recording in range(4)]
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    assert bar.seen == sorted(bar.seen) and bar.seen[-1] == 4


def test_no_windows_have_no_means() -> None:
    assert average_windows([], lambda windows: (np.zeros((0, 5)), np.zeros(0)), 5).shape == (0, 5)


def test_few_windows_of_mixed_lengths_are_hardly_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 of 1 to 10 s in batches of 8 would be padded by half if the two halves were the batches."""
    monkeypatch.setattr(rules, "MOST_PADDING", MOST_PADDING)
    assert MOST_PADDING < 1
    windows = [
        (number, np.zeros(16_000 + 9600 * number, np.float32)) for number in np.random.default_rng(0).permutation(16)
    ]
    batches = list(batches_of_windows((window for window in windows), 8, 163_840))
    assert sorted(number for batch in batches for number, _ in batch) == list(range(16))
    for batch in batches:
        lengths = [len(window) for _, window in batch]
        assert len(batch) <= 8 and max(lengths) <= (1 + MOST_PADDING) * min(lengths)
    assert [number for batch in batches for number, _ in batch] == list(range(16))  # none is closed too early
    for batch, following in zip(batches, batches[1:], strict=False):
        assert len(following[0][1]) > (1 + MOST_PADDING) * len(batch[0][1])


def test_windows_of_equal_length_fill_their_batches() -> None:
    windows = [(number, np.zeros(1000, np.float32)) for number in range(20)]
    assert [len(batch) for batch in batches_of_windows((window for window in windows), 8, 163_840)] == [8, 8, 4]


def test_no_window_is_lost_where_batches_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of lengths over four decades, 32 windows make more batches than are yielded while the next 32 come in."""
    monkeypatch.setattr(rules, "MOST_PADDING", MOST_PADDING)
    lengths = np.random.default_rng(0).permutation(np.geomspace(10, 100_000, 100).round().astype(int))
    windows = ((number, np.zeros(length, np.float32)) for number, length in enumerate(lengths))
    seen = [number for batch in batches_of_windows(windows, 2, 163_840) for number, _ in batch]
    assert sorted(seen) == list(range(100))
