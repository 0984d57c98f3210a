"""Semi-supervised fine-tuning: few labels and many clips without (FixMatch, Sohn et al. 2020, arXiv 2001.07685).

What the model is sure of for a clip as it is becomes the label of the same clip, distorted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F

from ..data import DataArguments, DataError, PreparedData, prepare
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.audio_mae.modeling_audio_mae import AudioMAEForAudioClassification
from ..training.augmentations import mask_log_mel, random_equalizer, random_resized_crop
from ..training.run_identity import data_identity
from .arguments import FineTuningArguments
from .batches import FineTuningCollator
from .trainer import FineTuningTrainer


@dataclass
class FixMatchArguments:
    """Semi-supervised learning (FixMatch); the defaults of its threshold and weight are the paper's.

    Raises:
        ValueError: a value out of range.
    """

    fixmatch: bool = field(
        default=False, metadata={"help": "Whether to learn from clips without labels as well (FixMatch)."}
    )
    unlabelled_dir: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders of these clips; if unset, the training rows that k_shot leaves out."},
    )
    unlabelled_ratio: int = field(default=4, metadata={"help": "Clips without label in a step for each labelled one."})
    unlabelled_weight: float = field(default=1.0, metadata={"help": "Weight of their loss beside the labelled one's."})
    confidence_threshold: float = field(
        default=0.95, metadata={"help": "A clip counts where the model gives one class at least this probability."}
    )
    strong_resize_time: float = field(
        default=1.25, metadata={"help": "Distortion: up to this many times faster or slower."}
    )
    strong_resize_mel: float = field(default=1.15, metadata={"help": "Distortion: mel axis zoomed by up to this."})
    strong_equalizer_db: float = field(default=6.0, metadata={"help": "Distortion: random filter within this, +-dB."})

    def __post_init__(self) -> None:
        if self.unlabelled_ratio < 1:
            raise ValueError(f"unlabelled_ratio={self.unlabelled_ratio}: at least 1 clip for each labelled one.")
        if not 0 < self.confidence_threshold < 1:
            raise ValueError(f"confidence_threshold={self.confidence_threshold} is outside (0, 1).")
        if self.unlabelled_weight < 0:
            raise ValueError(f"unlabelled_weight={self.unlabelled_weight} is negative.")
        if self.strong_resize_time < 1 or self.strong_resize_mel < 1 or self.strong_equalizer_db < 0:
            raise ValueError("strong_resize_time and strong_resize_mel are at least 1, strong_equalizer_db at least 0.")


def unlabelled_clips(
    args: FixMatchArguments,
    data_args: DataArguments,
    feature_extractor: AudioMAEFeatureExtractor,
    train: PreparedData,
    labelled: PreparedData,
) -> Dataset:
    """Log-mels of the folders that `args` names, or else of the training rows that are not among the labelled ones.

    Raises:
        DataError: there are none. AudioInputError: an unreadable recording, unless `data_args` skips them.
    """
    if args.unlabelled_dir:
        folders = DataArguments(args.unlabelled_dir, on_error=data_args.on_error, cache_dir=data_args.cache_dir)
        return prepare(folders, feature_extractor).dataset
    rest = ~np.isin(train.dataset["sample_id"][:], labelled.dataset["sample_id"][:])
    if not rest.any():
        raise DataError("fixmatch: all training rows are labelled. Give unlabelled_dir, or lower k_shot.")
    return train.dataset.select(np.flatnonzero(rest))


class FixMatchCollator(FineTuningCollator):
    """
    A batch as of [`FineTuningCollator`] and, for each of its clips, `unlabelled_ratio` others without label, as two
    batches: `weak`, rolled and amplified, and `strong`, the same clips resampled in time and mel, filtered and masked.

    Args:
        unlabelled: Log-mels with `sample_id`; a column `labels` is not looked at.
    """

    def __init__(
        self,
        feature_extractor: AudioMAEFeatureExtractor,
        max_frames: int,
        args: FineTuningArguments,
        num_classes: int,
        fixmatch: FixMatchArguments,
        unlabelled: Dataset,
    ):
        super().__init__(feature_extractor, max_frames, args, num_classes)
        self.fixmatch = fixmatch
        self.unlabelled = unlabelled.select_columns(["log_mel", "sample_id"])

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        (rng,) = self.generator(*rows).spawn(1)  # another stream than that which mixes the labelled clips
        count = min(len(self.unlabelled), self.fixmatch.unlabelled_ratio * len(rows))
        drawn = [self.unlabelled[int(row)] for row in rng.choice(len(self.unlabelled), count, replace=False)]
        ids = [int(row["sample_id"]) for row in drawn]
        mels = [self.clip(row, rng) for row in drawn]
        return batch | {"weak": self.pad(mels, ids), "strong": self.pad(self.distort(mels, rng), ids)}

    def distort(self, mels: list[torch.Tensor], rng: np.random.Generator) -> list[torch.Tensor]:
        """Raw log-mels (frames, mel bins) of the same lengths."""
        settings = self.fixmatch
        with torch.random.fork_rng(devices=[]):  # views draw from the global state, which is training's
            torch.manual_seed(int(rng.integers(2**62)))
            lengths = torch.tensor([len(mel) for mel in mels])
            padded = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True)
            views = random_resized_crop(
                padded, lengths, lengths, settings.strong_resize_time, settings.strong_resize_mel
            )
            views = random_equalizer(views, settings.strong_equalizer_db)
        return [
            mask_log_mel(view[:length], self.args.time_mask_share, self.args.mel_mask_share, rng)
            for view, length in zip(views, lengths.tolist(), strict=True)
        ]


class FixMatchTrainer(FineTuningTrainer):
    """
    [`FineTuningTrainer`] with a second loss: the cross-entropy of distorted clips against the class that the model, in
    evaluation mode, gives the clips as they are, of those clips for which it is sure. Logs `loss_labelled`,
    `loss_unlabelled` and `pseudo_label_share`, the share of the clips that counted.

    Args:
        train_dataset: Labelled clips, as the other arguments those of [`FineTuningTrainer`]. unlabelled: Log-mels.

    Raises:
        ValueError: the problem is not of one class a clip. DataError: no clip without label.
    """

    logged = ("loss_labelled", "loss_unlabelled", "pseudo_label_share")

    def __init__(
        self,
        model: AudioMAEForAudioClassification,
        args: FineTuningArguments,
        train_dataset: Dataset,
        feature_extractor: AudioMAEFeatureExtractor,
        unlabelled: Dataset,
        fixmatch: FixMatchArguments,
        eval_dataset: Dataset | None = None,
        **kwargs: Any,
    ):
        config: Any = model.config
        if config.problem_type != "single_label_classification":
            raise ValueError(f"fixmatch: of {config.problem_type}, the model is never sure of one class.")
        if len(unlabelled) == 0:
            raise DataError("fixmatch: there is no clip without label.")
        super().__init__(model, args, train_dataset, feature_extractor, eval_dataset, **kwargs)
        self.fixmatch, self.unlabelled = fixmatch, unlabelled
        self.data_collator = FixMatchCollator(
            feature_extractor, config.max_length, args, config.num_labels, fixmatch, unlabelled
        )

    def identity(self) -> dict[str, Any]:
        settings = {name: value for name, value in asdict(self.fixmatch).items() if name != "unlabelled_dir"}
        return super().identity() | {"fixmatch": settings, "unlabelled_data": data_identity(self.unlabelled)}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        weak, strong = inputs["weak"], inputs["strong"]
        labels, sure = self.pseudo_labels(weak["input_values"], weak["attention_mask"])
        together = join(inputs, strong, self.feature_extractor.padding_value)
        outputs = model(**together)
        labelled = len(inputs["labels"])
        loss_labelled = self.loss(outputs.logits[:labelled], inputs["labels"], self.args.label_smoothing_factor)
        surprise = F.cross_entropy(outputs.logits[labelled:].float(), labels, reduction="none")
        loss_unlabelled = (surprise * sure).mean()  # of all clips, so that few sure ones weigh little
        loss = loss_labelled + self.fixmatch.unlabelled_weight * loss_unlabelled
        for name, value in zip(self.logged, (loss_labelled, loss_unlabelled, sure.mean()), strict=True):
            self._parts.setdefault(name, []).append(value.detach())
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def pseudo_labels(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Class numbers (clips,) int64 and whether the model is sure of them (clips,), 1.0 or 0.0."""
        self.model.eval()
        probabilities = self.model(input_values, attention_mask=attention_mask).logits.float().softmax(dim=1)
        self.model.train()
        for module in self.frozen:
            module.eval()
        most, labels = probabilities.max(dim=1)
        return labels, (most >= self.fixmatch.confidence_threshold).float()


def join(one: Mapping[str, Any], other: Mapping[str, Any], padding_value: float) -> dict[str, torch.Tensor]:
    """Two batches as one, padded to the longer."""
    frames = max(part["input_values"].shape[1] for part in (one, other))
    values, masks = [], []
    for part in (one, other):
        missing = frames - part["input_values"].shape[1]
        values.append(F.pad(part["input_values"], (0, 0, 0, missing), value=padding_value))
        masks.append(F.pad(part["attention_mask"], (0, missing)))
    return {"input_values": torch.cat(values), "attention_mask": torch.cat(masks)}


__all__ = ["FixMatchArguments", "FixMatchCollator", "FixMatchTrainer", "unlabelled_clips"]
