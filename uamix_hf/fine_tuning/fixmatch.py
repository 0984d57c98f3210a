"""Semi-supervised fine-tuning on few labelled and many unlabelled clips: FixMatch (Sohn et al. 2020, 2001.07685).

A confident prediction on a weakly augmented clip is the pseudo-label of the same clip, strongly augmented.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..data import DataError
from ..models.front_ends import FrontEnd
from ..training.augmentations import resolve_resize_mel
from ..training.run_identity import data_identity
from .arguments import FineTuningArguments
from .batches import FineTuningCollator
from .models import longest_window
from .trainer import FineTuningTrainer


@dataclass
class FixMatchArguments:
    """Settings of FixMatch; the default threshold and weight are the paper's.

    Args:
        fixmatch: Whether to learn from unlabelled clips as well.
        unlabelled_dir: Folders of unlabelled clips; by default the training rows that `k_shot` leaves out.
        unlabelled_ratio: Unlabelled clips in a step for each labelled one.
        unlabelled_weight: Weight of the loss on unlabelled clips.
        confidence_threshold: Least probability of the predicted class with which a clip counts.
        strong_resize_time: Strong augmentation: largest factor by which a clip is slower or faster.
        strong_resize_mel: Strong augmentation: largest zoom of the mel axis; None: 1.15, or 1 for waveforms.
        strong_equalizer_db: Strong augmentation: largest gain of the random equaliser, +-dB.

    Raises:
        ValueError: a value out of range.
    """

    fixmatch: bool = field(
        default=False, metadata={"help": "Whether to learn from unlabelled clips as well (FixMatch)."}
    )
    unlabelled_dir: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders of unlabelled clips; if unset, the training rows that k_shot leaves out."},
    )
    unlabelled_ratio: int = field(default=4, metadata={"help": "Unlabelled clips per labelled clip of a batch."})
    unlabelled_weight: float = field(default=1.0, metadata={"help": "Weight of the loss on unlabelled clips."})
    confidence_threshold: float = field(
        default=0.95, metadata={"help": "Least probability of the predicted class with which a clip counts."}
    )
    strong_resize_time: float = field(
        default=1.25, metadata={"help": "Strong augmentation: up to this many times faster or slower."}
    )
    strong_resize_mel: float | None = field(
        default=None,
        metadata={"help": "Strong augmentation: mel axis zoomed by up to this; None: 1.15, or 1 for waveforms."},
    )
    strong_equalizer_db: float = field(
        default=6.0, metadata={"help": "Strong augmentation: random equaliser within +-dB."}
    )

    def __post_init__(self) -> None:
        if self.unlabelled_ratio < 1:
            raise ValueError(f"unlabelled_ratio={self.unlabelled_ratio}: at least 1 clip for each labelled one.")
        if not 0 < self.confidence_threshold < 1:
            raise ValueError(f"confidence_threshold={self.confidence_threshold} is outside (0, 1).")
        if self.unlabelled_weight < 0:
            raise ValueError(f"unlabelled_weight={self.unlabelled_weight} is negative.")
        resize_mel = 1.0 if self.strong_resize_mel is None else self.strong_resize_mel
        if self.strong_resize_time < 1 or resize_mel < 1 or self.strong_equalizer_db < 0:
            raise ValueError("strong_resize_time and strong_resize_mel are at least 1, strong_equalizer_db at least 0.")


class FixMatchCollator(FineTuningCollator):
    """Collator that adds unlabelled clips to the batch of [`FineTuningCollator`].

    Two batches are added, of `unlabelled_ratio` clips for each labelled one: `weak`, circularly shifted and amplified;
    and `strong`, the same clips resampled in time and mel, equalised and masked.

    Args:
        feature_extractor: Normalises and pads.
        max_frames: Longest clip, in frames.
        args: Training arguments, with the augmentation of labelled clips.
        num_classes: Number of classes.
        fixmatch: Settings of FixMatch.
        unlabelled: Log-mels with `sample_id`; `labels` are not read.

    Raises:
        ValueError: A `strong_resize_mel` for waveforms.
    """

    def __init__(
        self,
        feature_extractor: FrontEnd,
        max_frames: int,
        args: FineTuningArguments,
        num_classes: int,
        fixmatch: FixMatchArguments,
        unlabelled: Dataset,
    ):
        super().__init__(feature_extractor, max_frames, args, num_classes)
        self.fixmatch = fixmatch
        self.strong_resize_mel = resolve_resize_mel(
            fixmatch.strong_resize_mel, feature_extractor.domain, "strong_resize_mel"
        )
        self.unlabelled = unlabelled.select_columns(["features", "sample_id"])

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        (rng,) = self.generator(*rows).spawn(1)  # another stream than that which mixes the labelled clips
        count = min(len(self.unlabelled), self.fixmatch.unlabelled_ratio * len(rows))
        drawn = [self.unlabelled[int(row)] for row in rng.choice(len(self.unlabelled), count, replace=False)]
        ids = [int(row["sample_id"]) for row in drawn]
        mels = [self.clip(row, rng) for row in drawn]
        return batch | {"weak": self.pad(mels, ids), "strong": self.pad(self.strong_views(mels, rng), ids)}

    def strong_views(self, mels: list[torch.Tensor], rng: np.random.Generator) -> list[torch.Tensor]:
        """Strongly augmented raw log-mels, each (frames, mel bins), of the same lengths."""
        settings = self.fixmatch
        with torch.random.fork_rng(devices=[]):  # views use the global random state, which is training's
            torch.manual_seed(int(rng.integers(2**62)))
            lengths = torch.tensor([len(mel) for mel in mels])
            padded = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True)
            views = self.augmentations.random_resized_crop(
                padded, lengths, lengths, settings.strong_resize_time, self.strong_resize_mel
            )
            views = self.augmentations.random_equalizer(views, lengths, settings.strong_equalizer_db)
        return [
            self.augmentations.mask_clip(view[:length], self.args.time_mask_fraction, self.args.mel_mask_fraction, rng)
            for view, length in zip(views, lengths.tolist(), strict=True)
        ]


class FixMatchTrainer(FineTuningTrainer):
    """[`FineTuningTrainer`] with FixMatch's loss on unlabelled clips.

    It is the cross-entropy of strongly augmented clips against the class that the model, in evaluation mode, predicts
    for the weakly augmented ones, where that prediction is confident. Logs `loss_labelled`, `loss_unlabelled` and
    `pseudo_label_fraction`, the fraction of unlabelled clips that counted.

    Args:
        model: Of [`make_classifier`], for one class per clip.
        args: Training arguments.
        train_dataset: Log-mels with `labels`.
        feature_extractor: Normalises and pads; saved with the model.
        unlabelled: Log-mels of unlabelled clips.
        fixmatch: Settings of FixMatch.
        eval_dataset: Log-mels with `labels` to evaluate on during training.
        **kwargs: Further arguments of [`FineTuningTrainer`].

    Raises:
        ValueError: the problem does not have one class per clip.
        DataError: no unlabelled clip.
    """

    logged = ("loss_labelled", "loss_unlabelled", "pseudo_label_fraction")

    def __init__(
        self,
        model: PreTrainedModel,
        args: FineTuningArguments,
        train_dataset: Dataset,
        feature_extractor: FrontEnd,
        unlabelled: Dataset,
        fixmatch: FixMatchArguments,
        eval_dataset: Dataset | None = None,
        **kwargs: Any,
    ):
        config: Any = model.config
        if config.problem_type != "single_label_classification":
            raise ValueError(f"fixmatch: {config.problem_type} has no single class per clip to be confident of.")
        if len(unlabelled) == 0:
            raise DataError("fixmatch: there is no unlabelled clip.")
        super().__init__(model, args, train_dataset, feature_extractor, eval_dataset, **kwargs)
        self.fixmatch, self.unlabelled = fixmatch, unlabelled
        self.data_collator = self.fixmatch_collator = FixMatchCollator(
            feature_extractor, longest_window(model, feature_extractor), args, config.num_labels, fixmatch, unlabelled
        )

    def identity(self) -> dict[str, Any]:
        settings = {name: value for name, value in asdict(self.fixmatch).items() if name != "unlabelled_dir"}
        settings["strong_resize_mel"] = self.fixmatch_collator.strong_resize_mel
        return super().identity() | {"fixmatch": settings, "unlabelled_data": data_identity(self.unlabelled)}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        weak, strong = inputs["weak"], inputs["strong"]
        labels, confident = self.pseudo_labels(weak["input_values"], weak["attention_mask"])
        together = join(inputs, strong, self.feature_extractor.padding_value)
        outputs = model(**together)
        labelled = len(inputs["labels"])
        loss_labelled = self.loss(outputs.logits[:labelled], inputs["labels"], self.args.label_smoothing_factor)
        losses = F.cross_entropy(outputs.logits[labelled:].float(), labels, reduction="none")
        loss_unlabelled = (losses * confident).mean()  # over all clips, so that few confident ones weigh little
        loss = loss_labelled + self.fixmatch.unlabelled_weight * loss_unlabelled
        for name, value in zip(self.logged, (loss_labelled, loss_unlabelled, confident.mean()), strict=True):
            self._parts.setdefault(name, []).append(value.detach())
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def pseudo_labels(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted class numbers (clips,) int64, and whether they are confident (clips,), 1.0 or 0.0."""
        self.model.eval()
        probabilities = self.model(input_values, attention_mask=attention_mask).logits.float().softmax(dim=1)
        self.model.train()
        for module in self.frozen:
            module.eval()
        most, labels = probabilities.max(dim=1)
        return labels, (most >= self.fixmatch.confidence_threshold).float()


def join(one: Mapping[str, Any], other: Mapping[str, Any], padding_value: float) -> dict[str, torch.Tensor]:
    """Concatenate two batches, padded to the longer."""
    frames = max(part["input_values"].shape[1] for part in (one, other))
    values, masks = [], []
    for part in (one, other):
        missing = frames - part["input_values"].shape[1]
        values.append(F.pad(part["input_values"], (0, 0, 0, missing), value=padding_value))
        masks.append(F.pad(part["attention_mask"], (0, missing)))
    return {"input_values": torch.cat(values), "attention_mask": torch.cat(masks)}


__all__ = ["FixMatchArguments", "FixMatchCollator", "FixMatchTrainer"]
