"""Batches of labelled clips: class-balanced sampling, SpecAugment and mixup."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..data import FeatureCollator, LengthBucketSampler
from ..models.front_ends import FrontEnd
from ..training.augmentations import augmentations_of
from .arguments import FineTuningArguments


def class_weights(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sampling probability of each clip, and the class that it is counted for.

    Every class has the same probability, which its clips share; a clip of several classes has its part of each
    (docs/concepts/method.md, Recipes). Clips without a class are a class of their own.

    Args:
        labels: Class numbers (clips,), or 0/1 (clips, classes).

    Returns:
        Probabilities (clips,), which sum to 1, and class numbers (clips,).
    """
    if labels.ndim == 1:
        labels = labels[:, None] == np.unique(labels)
    labels = np.column_stack([labels > 0, ~(labels > 0).any(axis=1)])
    labels = labels[:, labels.any(axis=0)]
    weights = (labels / labels.sum(axis=0)).sum(axis=1)
    return weights / weights.sum(), labels.argmax(axis=1)


class ClassBalancedSampler(LengthBucketSampler):
    """Samples every class equally often, up to one clip, in batches of similar length.

    An epoch has as many rows as the data. Rows of rare classes occur several times, and of frequent classes not all,
    but others in each epoch. The order depends on seed and epoch only.

    Args:
        lengths: Frames of each row.
        labels: Class numbers (clips,), or 0/1 (clips, classes).
        batch_size: Rows in a batch.
        seed: Random seed of the order.
    """

    def __init__(self, lengths: Sequence[int], labels: np.ndarray, batch_size: int, seed: int = 0):
        super().__init__(lengths, batch_size, seed)
        weights, classes = class_weights(labels)
        self.weights, self.classes = torch.from_numpy(weights), torch.from_numpy(classes)

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        count = len(self.weights)
        order = torch.randperm(count, generator=generator)
        order = order[self.classes[order].argsort(stable=True)]
        # Systematic sampling, class by class: a class, and a row, occurs as often as its probability says, up to one.
        # Independent draws would leave that to chance.
        points = (torch.arange(count) + torch.rand((), generator=generator).double()) / count
        rows = order[torch.searchsorted(self.weights[order].cumsum(0), points).clamp_max(count - 1)]
        return rows[torch.randperm(count, generator=generator)]


class FineTuningCollator(FeatureCollator):
    """Collator of log-mels with `labels`: shifts, amplifies, mixes and masks the clips of a [`FeatureCollator`] batch.

    Args:
        feature_extractor: Normalises and pads.
        max_frames: Longest clip, in frames; longer ones are cropped at random.
        args: Training arguments, with the augmentation.
        num_classes: Number of classes in single-label problems, whose labels become probabilities (batch, num_classes)
            where clips are mixed; None for other problems.
    """

    def __init__(
        self,
        feature_extractor: FrontEnd,
        max_frames: int,
        args: FineTuningArguments,
        num_classes: int | None,
    ):
        super().__init__(
            feature_extractor, max_frames, normalize=True, roll=args.roll, gain_alpha=args.gain_alpha, seed=args.seed
        )
        self.args = args
        self.num_classes = num_classes
        self.augmentations = augmentations_of(feature_extractor.domain)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        generators = [self.generator(row) for row in rows]
        mels = [self.clip(row, rng) for row, rng in zip(rows, generators, strict=True)]
        labels = torch.stack([torch.as_tensor(row["labels"]) for row in rows])
        if self.args.mixup_probability > 0:
            mels, labels = self.mix(mels, labels, self.generator(*rows))
        mels = [
            self.augmentations.mask_clip(mel, self.args.time_mask_fraction, self.args.mel_mask_fraction, rng)
            for mel, rng in zip(mels, generators, strict=True)
        ]
        return self.pad(mels, [int(row["sample_id"]) for row in rows]) | {"labels": labels}

    def mix(
        self, mels: list[torch.Tensor], labels: torch.Tensor, rng: np.random.Generator
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Mix clips, with a probability, with another one of the batch, and their labels (float32) likewise."""
        labels = labels.float() if self.num_classes is None else F.one_hot(labels, self.num_classes).float()
        partners = (np.arange(len(mels)) + rng.integers(1, max(2, len(mels)), len(mels))) % len(mels)
        weights = np.clip(rng.beta(self.args.mixup_alpha, self.args.mixup_alpha, len(mels)), 1e-6, 1 - 1e-6)
        weights[rng.random(len(mels)) >= self.args.mixup_probability] = 1.0
        mixed = [
            mel if weight == 1 or partner == place else self.augmentations.mix_clips(mel, mels[partner], weight)
            for place, (mel, partner, weight) in enumerate(zip(mels, partners, weights, strict=True))
        ]
        of_label = torch.from_numpy(weights).float().view(-1, *[1] * (labels.ndim - 1))
        return mixed, of_label * labels + (1 - of_label) * labels[partners]


__all__ = ["ClassBalancedSampler", "FineTuningCollator", "class_weights"]
