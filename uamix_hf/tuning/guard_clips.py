"""Which clips the guards of tuning are measured on."""

import logging
from typing import Any

import numpy as np
from datasets import Dataset

from ..data import FeatureCollator
from ..models.front_ends import FrontEnd
from .guards import GuardCallback

logger = logging.getLogger(__name__)

# How many clips are held out: fewer measure too little, more cost time.
FEWEST, MOST = 32, 256
LARGEST_FRACTION = 0.25  # of the clips, unless guard_fraction is larger


def guard_rows(clips: int, groups: np.ndarray | None, fraction: float, seed: int) -> np.ndarray:
    """Draws the rows that are held out for the guards, whole groups where they are known.

    Args:
        clips: Number of clips.
        groups: Group of each clip (clips,), such as its speaker.
        fraction: Fraction of the clips to hold out, 32 to 256 clips; of whole groups up to twice as many.
        seed: Seed of the draw.

    Returns:
        Rows in order; none where 32 clips would be more than a quarter of them, and more than `fraction`, or where the
        groups are too large.
    """
    wanted = min(max(int(fraction * clips), FEWEST), MOST)
    most = min(2 * wanted, max(fraction, LARGEST_FRACTION) * clips)  # the last group may be a large one
    groups = np.arange(clips) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes, held, total = np.bincount(groups), [], 0
    for group in np.random.default_rng(seed).permutation(len(sizes)):
        if total < wanted and total + sizes[group] <= most:
            held.append(group)
            total += sizes[group]
    return np.flatnonzero(np.isin(groups, held)) if total >= FEWEST else np.array([], int)


def make_guard(
    model: Any, args: Any, dataset: Dataset, feature_extractor: FrontEnd, groups: np.ndarray | None = None
) -> tuple[Dataset, GuardCallback | None]:
    """Makes the guards of a run, as `args.guard` says.

    Of few clips none is held out: then up to 256 of those that are tuned on are measured, with a warning.

    Args:
        model: The model that is tuned.
        args: [`UaMixTrainingArguments`].
        dataset: Raw features of all clips, as [`cached_features`] returns them.
        feature_extractor: Its patch size pads the batches.
        groups: Group of each clip (clips,).

    Returns:
        The clips to tune on, and the guards, or None.
    """
    if args.guard == "off":
        return dataset, None
    clips = len(dataset)
    rows = guard_rows(clips, groups, args.guard_fraction, args.seed)
    train = dataset.select(np.setdiff1d(np.arange(clips), rows)) if len(rows) else dataset
    if not len(rows):
        rows = np.sort(np.random.default_rng(args.seed).permutation(clips)[:MOST])
        logger.warning(
            "%d clips are too few, or their groups too large, to hold %d of them out for the guards: they are measured "
            "on %d clips that are tuned on as well.", clips, FEWEST, len(rows),
        )  # fmt: skip
    collator = FeatureCollator(feature_extractor, model.max_frames, normalize=False)
    size = args.per_device_train_batch_size
    guard = GuardCallback(dataset.select(rows), collator, size, args.guard == "stop", args.guard_steps, args.seed)
    return train, guard


__all__ = ["guard_rows", "make_guard"]
