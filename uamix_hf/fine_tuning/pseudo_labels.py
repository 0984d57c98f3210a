"""Tuning on pseudo-labels: the encoder learns to predict which cluster of its own embeddings each clip is in.

What uaMix is to be compared with: UnFuSeD (Seth et al. 2023, arXiv 2303.05668), without its distillation between the
exits of a convolutional network, and with uaMix's views as augmentation.
"""

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from torch import nn
from transformers import set_seed

from ..data import LogMelCollator
from ..embedding.log_mels import embed_log_mels
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.audio_mae.modeling_audio_mae import AudioMAEForAudioClassification, AudioMAEModel
from ..training.arguments import LayerwiseArguments
from ..training.augmentations import ViewSettings, resolve_token_drop, two_views
from ..training.trainer import LengthBucketTrainer
from .labels import labelled_rows
from .models import freeze, make_classifier

# Fields of UaMixConfig and of UaMixTrainingArguments that have no part in this.
UNUSED_FIELDS = (
    "layers_path", "mix", "mix_alpha", "mix_probability", "mix_per_sample", "mix_dominant", "mix_align", "mix_position",
    "pairing", "symmetric_mix", "mix_weight", "projector_hidden_size", "projection_size", "predictor_hidden_size",
    "queue_size", "topk", "temperature", "ema_momentum",
)  # fmt: skip
UNUSED_ARGUMENTS = (
    "head_steps", "head_epochs", "head_learning_rate", "head_weight_decay", "layer_decay", "encoder_batch_size",
    "knn_steps", "resume_from_checkpoint", "save_steps", "save_total_limit", "save_only_model", "enable_jit_checkpoint",
)  # fmt: skip
PSEUDO_LABELS_IGNORE = UNUSED_FIELDS + UNUSED_ARGUMENTS


def refuse_unused(config: ViewSettings, args: LayerwiseArguments) -> None:
    """
    Raises:
        ValueError: a setting of uaMix alone differs from its default.
    """
    given: list[tuple[Any, str]] = [(config, name) for name in UNUSED_FIELDS] + [
        (args, name) for name in UNUSED_ARGUMENTS
    ]
    changed = [name for part, name in given if getattr(part, name) != type(part).__dataclass_fields__[name].default]
    if changed:
        raise ValueError(f"Tuning on pseudo-labels does not use {', '.join(changed)}: leave it at the default.")


def cluster(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Cluster number of each clip (clips,) int64: k-means on unit vectors, after the mean of all is taken off.

    Args:
        vectors: Embeddings (clips, width).

    Raises:
        ValueError: more clusters than distinct embeddings, or embeddings that are not finite.
    """
    unit = normalize(vectors - vectors.mean(axis=0))
    distinct = len(np.unique(unit, axis=0))
    if distinct < clusters:
        raise ValueError(f"clusters={clusters}: the clips have only {distinct} different embeddings. Lower clusters.")
    return KMeans(clusters, n_init=10, random_state=seed).fit_predict(unit).astype(np.int64)


class PseudoLabelTrainer(LengthBucketTrainer):
    """
    One round of training on class numbers, by cross-entropy on both of the views that uaMix makes of each clip, with
    uaMix's share of tokens dropped.

    Args:
        model: Of [`make_classifier`]. train_dataset: Log-mels with `labels`. config: Of the views.
        frozen: Modules of the model that are kept in evaluation mode.
    """

    def __init__(
        self,
        model: AudioMAEForAudioClassification,
        args: LayerwiseArguments,
        train_dataset: Dataset,
        feature_extractor: AudioMAEFeatureExtractor,
        config: ViewSettings,
        frozen: list[nn.Module],
    ):
        self.views = config
        self.frozen = frozen
        self.feature_extractor = feature_extractor
        self.max_frames = model.config.max_length
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            # Views crop further, so that a long recording gives two different stretches of it.
            data_collator=LogMelCollator(feature_extractor, 2 * self.max_frames, normalize=False, seed=args.seed),
            processing_class=feature_extractor,
        )

    def augment(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Raw log-mels (batch, frames, mel bins) to the model's inputs (2 * batch, view frames, mel bins)."""
        extractor = self.feature_extractor
        view_a, view_b, lengths = two_views(
            batch["input_values"], batch["attention_mask"].sum(1), self.views, extractor.patch_size, self.max_frames
        )
        views = extractor.normalize(torch.cat([view_a, view_b]))
        valid = torch.arange(views.shape[1], device=views.device) < lengths.repeat(2)[:, None]
        return {
            "input_values": views.masked_fill(~valid[..., None], extractor.padding_value),
            "attention_mask": valid.long(),
            "labels": batch["labels"].repeat(2),
            "mask_ratio": self.views.token_drop or None,
        }

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args, **kwargs) -> Any:
        for module in self.frozen:
            module.eval()  # the Trainer puts the whole model into training mode at each step
        return super().compute_loss(model, self.augment(inputs), *args, **kwargs)


def tune_on_pseudo_labels(
    encoder: AudioMAEModel,
    feature_extractor: AudioMAEFeatureExtractor,
    dataset: Dataset,
    config: ViewSettings,
    args: LayerwiseArguments,
    clusters: int,
    rounds: int = 1,
    student: AudioMAEModel | None = None,
) -> PseudoLabelTrainer:
    """Clusters the clips, trains a copy of the encoder and a linear layer to predict the clusters, and so on.

    Args:
        encoder: Its embeddings of whole clips are clustered; left as it is, but for the device it is on.
        dataset: Log-mels as of [`prepare`]; a column `labels` is not looked at.
        config: The views: crop, gain, equaliser, ... and `token_drop`; other fields must be at their defaults.
        args: `max_steps` or `num_train_epochs` are each round's, `learning_rate` is also the linear layer's. Nothing is
            saved.
        clusters: Number of clusters. rounds: After the first, the clips are clustered by the encoder as trained so far.
        student: What is trained in place of a copy of `encoder`, also as a copy; of random weights in the original.

    Returns:
        The last round's trainer; the tuned encoder is `trainer.model.audio_mae`, what was used of `config` is
        `trainer.views`.

    Raises:
        ValueError: a setting that is not used, no round, or a number of clusters that the clips do not give.
        TypeError: another kind of encoder.
    """
    refuse_unused(config, args)
    if not 2 <= clusters <= len(dataset):
        raise ValueError(f"clusters={clusters}: between 2 and the number of clips, {len(dataset)}, are possible.")
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: at least one is needed.")
    args = dataclasses.replace(args, save_strategy="no", dataloader_drop_last=False)
    config = copy.deepcopy(config)
    config.token_drop = resolve_token_drop(config, dataset, feature_extractor)
    trained = encoder if student is None else student
    for _ in range(rounds):
        set_seed(args.seed)
        model = make_classifier(trained, clusters)
        frozen = freeze(model.audio_mae, args.frozen_blocks(model.config.num_hidden_layers))
        encoder.to(args.device)  # type: ignore[arg-type]
        vectors = embed_log_mels(encoder, feature_extractor, dataset, batch_size=args.train_batch_size)
        # Processes that number the clusters each in its own way would train one another's labels away.
        (labels,) = broadcast_object_list([cluster(vectors, clusters, args.seed)])
        rows = labelled_rows(dataset, np.arange(len(dataset)), labels, clusters)
        trainer = PseudoLabelTrainer(model, args, rows, feature_extractor, config, frozen)
        trainer.train()
        model.audio_mae.config = copy.deepcopy(trained.config)  # the classifier's names its classes
        encoder = trained = model.audio_mae
    return trainer


__all__ = ["PSEUDO_LABELS_IGNORE", "PseudoLabelTrainer", "cluster", "tune_on_pseudo_labels"]
