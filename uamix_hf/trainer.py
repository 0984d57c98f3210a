"""transformers' Trainer with batches of clips of similar length."""

from typing import Any

from torch.utils.data import Dataset, Sampler
from transformers import Trainer

from .data import LengthBucketSampler


class LengthBucketTrainer(Trainer):
    """Trains on rows with a column `length`; their order depends on the seed and the epoch alone."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        # One bucket feeds all processes, so that each of them pads alike.
        size = self.args.train_batch_size * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthBucketSampler(dataset["length"][:], size, seed, getattr(self.args, "visit_frames", 0))


__all__ = ["LengthBucketTrainer"]
