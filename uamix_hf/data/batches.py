"""Batches of log-mels: clips of similar length, padded, reproducible by a seed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from ..models.front_ends import FrontEnd
from .checks import checked_batch_size
from .domains import amplify

# Number of batches that are sorted by length together: enough for little padding, few enough to stay shuffled.
BATCHES_SORTED_TOGETHER = 50


class Visit(int):
    """A row number with its visit: the epoch, and how often the row came before in that epoch.

    Args:
        row: The row number.
        epoch: The epoch.
        before: Earlier visits to the row in the epoch.
    """

    visit: tuple[int, int]

    def __new__(cls, row: int, epoch: int, before: int) -> "Visit":
        number = super().__new__(cls, row)
        number.visit = (epoch, before)
        return number

    def __getnewargs__(self) -> tuple[int, int, int]:  # type: ignore[override]  # for loaders' workers
        return int(self), *self.visit


class VisitedRows(Dataset):
    """Rows of a `datasets.Dataset`, fetched by [`Visit`], with the additional column `visit`.

    The random draws of [`FeatureCollator`] depend on it.

    Args:
        rows: The dataset.
    """

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Visit) -> dict[str, Any]:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: list[Visit]) -> list[dict[str, Any]]:  # all at once, which is twice as fast
        rows = self.rows.__getitems__([int(number) for number in numbers])
        return [{**row, "visit": number.visit} for row, number in zip(rows, numbers, strict=True)]


class LengthBucketSampler(Sampler[Visit]):
    """Samples shuffled row numbers such that the clips of a batch have similar lengths.

    The order depends only on seed and epoch, not on the global random state, so that a resumed run sees the same one.

    Args:
        lengths: Frames of each row.
        batch_size: Clips of a batch, over all processes.
        seed: Seed of the order.
        visit_frames: A row comes once per epoch for every `visit_frames` of its frames, and at least once; 0 for once.

    Raises:
        ValueError: A batch size below 1.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int = 0, visit_frames: int = 0):
        self.lengths = torch.as_tensor(lengths)
        self.visits = torch.ones_like(self.lengths)
        if visit_frames > 0:
            self.visits = (self.lengths // visit_frames).clamp_min(1)
        self.batch_size = checked_batch_size(batch_size)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return int(self.visits.sum())

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Draws the row numbers of an epoch, shuffled regardless of their lengths."""
        # In rounds, so that a clip that comes several times is hardly ever twice in a batch.
        rounds = [(self.visits > visit).nonzero()[:, 0] for visit in range(max(self.visits.tolist(), default=1))]
        return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in rounds])

    def __iter__(self) -> Iterator[Visit]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        rows = self.draw(generator)
        # An incomplete batch is last, for drop_last. Its rows are taken before sorting, or the longest clips would be
        # dropped always.
        whole = len(rows) // self.batch_size * self.batch_size
        chunks = rows[:whole].split(self.batch_size * BATCHES_SORTED_TOGETHER)
        sorted_rows = torch.cat([chunk[self.lengths[chunk].argsort(stable=True)] for chunk in chunks])
        batches = sorted_rows.view(-1, self.batch_size)
        # Shuffled inside a batch too, because the order decides which process gets which clips.
        batches = batches.gather(1, torch.rand(batches.shape, generator=generator).argsort(dim=1))
        order = torch.randperm(len(batches), generator=generator)
        visits: Counter[int] = Counter()
        for row in torch.cat([batches[order].flatten(), rows[whole:]]).tolist():
            yield Visit(row, self.epoch, visits[row])
            visits[row] += 1


class FeatureCollator:
    """Collates rows of [`cached_features`] to a batch.

    A batch has `input_values` (batch, frames, mel bins) float32, `attention_mask` (batch, frames) int64, `sample_id`
    (batch,) int64, and `labels` if the rows have them.

    Random draws depend on the seed, the clip's id and, if the rows have a column `visit` ([`VisitedRows`],
    [`AudioStream`]), the visit. They do not depend on the other clips of the batch, on processes or on loaders'
    workers, so that a resumed run draws the same. Without that column a clip is the same every time.

    Args:
        feature_extractor: Its patch size rounds the padded length up; its statistics normalise.
        max_frames: Longer recordings are cropped to a random window of this many frames.
        normalize: Whether to normalise, and to fit clips to patches as the feature extractor does. Views are made from
            raw log-mels, which are padded with 0.
        roll: Whether to shift each clip circularly by a random number of frames (docs/concepts/method.md#front-end).
        gain_alpha: Clips get a gain g ~ Beta(gain_alpha, gain_alpha) + 0.5, see [`amplify`]; 0 for none.
        seed: Seed of the random draws.
    """

    def __init__(
        self,
        feature_extractor: FrontEnd,
        max_frames: int,
        normalize: bool,
        roll: bool = False,
        gain_alpha: float = 0.0,
        seed: int = 0,
    ):
        self.feature_extractor = feature_extractor
        self.max_frames = max_frames
        self.normalize = normalize
        self.roll = roll
        self.gain_alpha = gain_alpha
        self.seed = seed

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        mels = [self.clip(row, self.generator(row)) for row in rows]
        batch = self.pad(mels, [int(row["sample_id"]) for row in rows])
        if "labels" in rows[0]:
            batch["labels"] = torch.stack([torch.as_tensor(row["labels"]) for row in rows])
        return batch

    def generator(self, *rows: Mapping[str, Any]) -> np.random.Generator:
        """Makes the random generator of a clip, or of several together.

        The global random state would differ in a resumed run, because loaders prefetch.
        """
        visits = [(*row.get("visit", ()), int(row["sample_id"])) for row in rows]
        return np.random.default_rng([self.seed, *(number for visit in visits for number in visit)])

    def clip(self, row: Mapping[str, Any], rng: np.random.Generator) -> torch.Tensor:
        """Raw log-mel (frames, mel bins) float32 of a row in this visit: window, circular shift and gain."""
        return self.augment(self.window(row["features"].float(), rng), rng)

    def pad(self, mels: list[torch.Tensor], ids: list[int]) -> dict[str, torch.Tensor]:
        """Pads raw log-mels (frames, mel bins) to a batch, as the feature extractor makes them if `normalize`."""
        if self.normalize:
            mels = [self.feature_extractor.fit_to_patches(self.feature_extractor.normalize(mel)) for mel in mels]
        frames = self.feature_extractor.whole_patches(max(len(mel) for mel in mels))
        value = self.feature_extractor.padding_value if self.normalize else 0.0
        return {
            "input_values": torch.stack([F.pad(mel, (0, 0, 0, frames - len(mel)), value=value) for mel in mels]),
            "attention_mask": torch.stack([(torch.arange(frames) < len(mel)).long() for mel in mels]),
            "sample_id": torch.tensor(ids),
        }

    def window(self, mel: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Crops a log-mel to a random window of at most `max_frames`."""
        start = int(rng.integers(max(1, len(mel) - self.max_frames + 1)))
        return mel[start : start + self.max_frames]

    def augment(self, mel: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Applies the circular shift and the gain to a raw log-mel."""
        if self.roll:
            mel = mel.roll(int(rng.integers(len(mel))), dims=0)
        if self.gain_alpha > 0:
            gain = torch.tensor(rng.beta(self.gain_alpha, self.gain_alpha) + 0.5)
            mel = amplify(mel, gain, self.feature_extractor.domain)
        return mel


__all__ = ["LengthBucketSampler", "FeatureCollator", "Visit", "VisitedRows"]
