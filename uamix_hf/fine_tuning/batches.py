"""Batches of labelled clips: every class equally often, clips masked, and mixed with one another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..data import LengthBucketSampler, LogMelCollator
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..training.augmentations import mask_log_mel, mix_log_mels
from .arguments import FineTuningArguments


def class_weights(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each clip is to be drawn, in shares of all draws, and the class that it is counted for.

    Every class has an equal part, which its clips share; one with several classes has its share of each (method.md
    1.8). Those without any are a class of their own.

    Args:
        labels: Class numbers (clips,), or 0/1 (clips, classes).
    """
    if labels.ndim == 1:
        labels = labels[:, None] == np.unique(labels)
    labels = np.column_stack([labels > 0, ~(labels > 0).any(axis=1)])
    labels = labels[:, labels.any(axis=0)]
    shares = (labels / labels.sum(axis=0)).sum(axis=1)
    return shares / shares.sum(), labels.argmax(axis=1)


class ClassBalancedSampler(LengthBucketSampler):
    """As many rows an epoch as there are, of every class equally many up to one, in batches of similar length.

    Rows of rare classes come several times, and of frequent ones not all: others in each epoch. The order depends on
    seed and epoch alone.

    Args:
        lengths: Frames of each row. labels: See [`class_weights`].
    """

    def __init__(self, lengths: Sequence[int], labels: np.ndarray, batch_size: int, seed: int = 0):
        super().__init__(lengths, batch_size, seed)
        shares, classes = class_weights(labels)
        self.shares, self.classes = torch.from_numpy(shares), torch.from_numpy(classes)

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        count = len(self.shares)
        order = torch.randperm(count, generator=generator)
        order = order[self.classes[order].argsort(stable=True)]
        # Points at equal distance on the line of shares, class by class: a class, and a row, is met as often as its
        # share says, up to one. Independent draws would leave that to chance.
        points = (torch.arange(count) + torch.rand((), generator=generator).double()) / count
        rows = order[torch.searchsorted(self.shares[order].cumsum(0), points).clamp_max(count - 1)]
        return rows[torch.randperm(count, generator=generator)]


class FineTuningCollator(LogMelCollator):
    """
    Rows of log-mels with `labels` to a batch as of [`LogMelCollator`], augmented: rolled and amplified, mixed within
    the batch, masked. What is mixed with what is drawn for the batch as the rest is for each clip.

    Args:
        num_classes: Of single-label problems, whose labels become shares (batch, num_classes) where clips are mixed;
            None for others, whose labels are numbers already.
    """

    def __init__(
        self,
        feature_extractor: AudioMAEFeatureExtractor,
        max_frames: int,
        args: FineTuningArguments,
        num_classes: int | None,
    ):
        super().__init__(
            feature_extractor, max_frames, normalize=True, roll=args.roll, gain_alpha=args.gain_alpha, seed=args.seed
        )
        self.args = args
        self.num_classes = num_classes

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        generators = [self.generator(row) for row in rows]
        mels = [self.clip(row, rng) for row, rng in zip(rows, generators, strict=True)]
        labels = torch.stack([torch.as_tensor(row["labels"]) for row in rows])
        if self.args.mixup_probability > 0:
            mels, labels = self.mix(mels, labels, self.generator(*rows))
        mels = [
            mask_log_mel(mel, self.args.time_mask_share, self.args.mel_mask_share, rng)
            for mel, rng in zip(mels, generators, strict=True)
        ]
        return self.pad(mels, [int(row["sample_id"]) for row in rows]) | {"labels": labels}

    def mix(
        self, mels: list[torch.Tensor], labels: torch.Tensor, rng: np.random.Generator
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Each clip mixed, with a probability, with another of the batch; labels in the same shares, float32."""
        labels = labels.float() if self.num_classes is None else F.one_hot(labels, self.num_classes).float()
        partners = (np.arange(len(mels)) + rng.integers(1, max(2, len(mels)), len(mels))) % len(mels)
        shares = np.clip(rng.beta(self.args.mixup_alpha, self.args.mixup_alpha, len(mels)), 1e-6, 1 - 1e-6)
        shares[rng.random(len(mels)) >= self.args.mixup_probability] = 1.0
        mixed = [
            mel if share == 1 or partner == place else mix_log_mels(mel, mels[partner], share)
            for place, (mel, partner, share) in enumerate(zip(mels, partners, shares, strict=True))
        ]
        weights = torch.from_numpy(shares).float().view(-1, *[1] * (labels.ndim - 1))
        return mixed, weights * labels + (1 - weights) * labels[partners]


__all__ = ["ClassBalancedSampler", "FineTuningCollator", "class_weights"]
