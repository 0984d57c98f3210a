"""The mean over windows is NumPy's weighted average, in whatever order and batches the windows come."""

import numpy as np
import pytest

from uamix_hf.embedding.windows import average_windows


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
